"""What a newcomer mistypes or forgets, as docs/troubleshooting.md lists it: one line says what, one what to do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.cli import main
from edge_ad.data.images import write_image

PAGE = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| `edgead ([^`]+)` \| \"([^\"]+)\" \|", re.MULTILINE)
SECTION = PAGE.read_text(encoding="utf-8").partition("## The first minute")[2].partition("\n## ")[0]
MISTAKES = ROW.findall(SECTION)


@pytest.fixture
def home(tmp_path, monkeypatch, small_artifact, parts):
    """A working folder with what the page speaks of; edgead.toml is not there, so that no detector is remembered."""
    good = parts[0]
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    for i in range(6):
        write_image(Path(f"photos/{i}.png"), good[i])
        write_image(Path(f"few/{i}.png"), good[10 + i])
        write_image(Path(f"cut/{i}.jpg"), good[i])
        whole = Path(f"cut/{i}.jpg").read_bytes()
        Path(f"cut/{i}.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("empty", "drawings", "locked"):
        Path(name).mkdir()
    Path("drawings/part.pdf").write_bytes(b"%PDF-1.4")
    write_image(Path("one/0.png"), good[0])
    small_artifact.path.rename("part")
    may = os.access  # root may read everything
    monkeypatch.setattr(
        os, "access", lambda path, *rest: Path(os.fsdecode(path)).name != "locked" and may(path, *rest)
    )


def test_the_page_has_ten_mistakes_and_more():
    assert len(MISTAKES) >= 10


@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_is_answered_in_a_line_and_leaves_nothing(home, capsys, typed, said):
    before = set(Path().rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(typed))
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (1 if "hint:" in err else 2, "")
    lines = [line for line in err.splitlines() if said in line]
    assert len(lines) == 1, err
    assert lines[0].lower().startswith("error: ")
    assert err.splitlines()[-1].startswith("hint: ") or lines[0] == err.splitlines()[-1]
    new = {path for path in set(Path().rglob("*")) - before if path.parts[0] != "edgead-run"}
    assert not new  # a run makes its own folder before it opens the camera


def test_train_says_so_before_torch_is_imported(home):
    """It takes seconds to import, and a mistyped folder must not."""
    typed = [shlex.split(line) for line, _ in MISTAKES if line.startswith("train ") and "locked" not in line]
    assert len(typed) >= 4
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from edge_ad.cli import main\n"
        f"for line in {typed}:\n"
        "    try: main(line)\n"
        "    except SystemExit as stop: assert stop.code == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(typed)
    assert "torch" not in done.stderr


def test_photos_of_other_proportions_are_trained_on_but_not_without_a_word(tmp_path, parts, caplog):
    from edge_ad.training.photos import find_photos

    for i in range(6):
        write_image(tmp_path / f"{i}.png", parts[0][i][:40] if i < 2 else parts[0][i])
    assert len(find_photos(tmp_path).samples) == 6
    assert "2 of 6 photos have other proportions (W/H 1.60 to 1.60) than the middle one (1.00)" in caplog.text


def test_a_run_without_a_threshold_says_why_all_is_unsure(home, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "part", "--source", "one", "--headless", "--out", "out"])
    err = capsys.readouterr().err
    assert stop.value.code == 0
    assert "one has no threshold, so that every part is UNSURE: `edgead calibrate` sets one" in err
    with pytest.raises(SystemExit):
        main(["run", "part", "--source", "one", "--headless", "--out", "again", "--threshold", "0.5"])
    assert "has no threshold" not in capsys.readouterr().err
