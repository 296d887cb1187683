"""What the README tells people to type exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.split("#")[0].strip() for line in README.splitlines() if re.match(r"edgead [a-z]", line)}
    | {match for match in re.findall(r"`(edgead [a-z][^`|]*)`", README) if "VERB" not in match}
)


def help_of(verb: str) -> str:
    code = f"from edge_ad.cli import main; main(['{verb}', '--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("verb", sorted({command.split()[1] for command in COMMANDS}))
def test_the_readmes_options_exist(verb):
    shown = help_of(verb)
    for command in COMMANDS:
        words = command.split()
        if words[1] == verb:
            missing = [word for word in words[2:] if word.startswith("--") and word.split("=")[0] not in shown]
            assert missing == [], command


def test_the_readmes_files_and_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_readmes_accuracy_is_what_was_recorded():
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "tests" / "benchmarks" / "accuracy.py")
    accuracy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(accuracy)
    assert accuracy.table(accuracy.read()) in README


def test_the_extras_exist():
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"'\.\[([a-z]+)\]'", README):
        assert f"\n{extra} = [" in project
