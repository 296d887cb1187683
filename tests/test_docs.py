"""What the README and the docs tell people to type exists, and what they show of settings can be read."""

import dataclasses
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main

from edge_ad.artifact import MANIFEST, PHOTOS
from edge_ad.cli import VERBS, build_app
from edge_ad.config import Config
from edge_ad.evaluation import Metrics
from edge_ad.runtime.settings import RunSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
LAUNCHERS = re.compile(r"^(accelerate launch|torchrun) .*?-m edge_ad ")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def typed(text):
    """(words, whole): commands of code blocks, which are whole, and those in the text, which may lack arguments."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    lines += re.findall(r"^ {4}(edgead .*)", text, re.MULTILINE)
    lines = [LAUNCHERS.sub("edgead ", line) for line in lines]
    inline = [LAUNCHERS.sub("edgead ", " ".join(span.split())) for span in re.findall(r"`([^`|]+)`", text)]
    for found, whole in ((lines, True), (inline, False)):
        for line in found:
            words = shlex.split(line, comments=True) if re.match(r"edgead [a-z]", line) else []
            if words and "..." not in words and words[1] in VERBS:
                yield words[1:], whole


COMMANDS = sorted({(page, *words, whole) for page, text in PAGES.items() for words, whole in typed(text)}, key=str)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: " ".join(line[:-1]))
def test_what_people_are_told_to_type_is_understood(line):
    _, *words, whole = line
    command, context, rest = typer.main.get_command(build_app(words[0])), None, words
    try:
        while True:
            context = command.make_context("edgead", rest, parent=context)
            if not hasattr(command, "resolve_command"):
                return
            _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:
        # "no such option" and a wrong value are errors anywhere; only in the text an argument may be left out
        if whole or type(error).__name__ not in ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError"):
            raise


def test_the_guides_have_commands_of_their_own():
    assert {page for page, *_ in COMMANDS} >= {"README.md", "training.md", "export.md"}


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page):
    sections = {"model": Config().model, "synthesis": Config().synthesis, "training": Config().training}
    station = RunSettings().station[0]
    sections |= {field.name: getattr(station, field.name) for field in dataclasses.fields(station)}
    named = re.findall(r"`(?:station\.)?([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", PAGES[page])
    for section, key in named:
        a_file = key in ("onnx", "npz")
        if section in sections and dataclasses.is_dataclass(sections[section]) and not a_file:
            assert hasattr(sections[section], key), f"{section}.{key}"


def test_the_training_settings_shown_can_be_read():
    shown = [Config.from_dict(tomllib.loads(block)) for block in blocks(TRAINING, "toml")]
    assert shown
    assert all(settings != Config.named(settings.preset) for settings in shown)


def test_the_figures_and_files_described_exist():
    figures = {field.name for field in dataclasses.fields(Metrics)} - {"good", "defects", "regions"}
    assert figures <= set(re.findall(r"`([a-z_0-9]+)`", TRAINING))
    assert f"`{MANIFEST}`" in TRAINING
    assert f"`{PHOTOS}`" in TRAINING


@pytest.mark.parametrize("page", PAGES)
def test_files_and_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    here = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"^make ([a-z]+)", PAGES[page], re.MULTILINE):
        assert f"\n{target}:" in makefile
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (here / link).exists(), link
    for script in re.findall(r"^python (\S+)", PAGES[page], re.MULTILINE):
        assert (ROOT / script).is_file(), script


def test_the_accuracy_shown_is_what_was_recorded():
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "tests" / "benchmarks" / "accuracy.py")
    accuracy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(accuracy)
    assert accuracy.table(accuracy.read()) in RESULTS


@pytest.mark.parametrize("page", PAGES)
def test_the_extras_exist(page):
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"'(?:\.|edge-ad)\[([a-z]+)\]'", PAGES[page]):
        assert f"\n{extra} = [" in project


def test_the_picture_of_the_architecture_shows_the_present_imports():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tests" / "benchmarks" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    drawn = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == architecture.picture(architecture.sources()), "make architecture draws it anew"


def test_the_readmes_table_rounds_what_the_results_say():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| \d+ \| (.*?) \|", RESULTS, re.MULTILINE))
    shown = re.findall(r"^\| (\w+)(?: \(\w+\))? \| ([\d.-]+) / ([\d.-]+) / ([\d.-]+) \|", readme, re.MULTILINE)
    assert len(shown) == len(rows) == 7
    for name, *values in shown:
        line = next(line for line in RESULTS.splitlines() if line.startswith(f"| {name} |"))
        means = [cell.split("±")[0].strip() for cell in line.split("|")[3:6]]
        for mean, value in zip(means, values, strict=True):
            assert mean == value == "-" or abs(float(mean) - float(value)) <= 0.051, name
