"""What every verb shares: the exit codes, and one line for whatever goes wrong."""

from __future__ import annotations

import pytest

from edge_ad.cli import main


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "photos", "--out", "part", "--device", "tpu"], "unknown device 'tpu'"),
        (["synth", "photos", "--out", "part", "--device", "tpu"], "unknown device 'tpu'"),
        (["demo", "--out", "file"], "file is a file, not a folder"),
        (["synth", "parts", "--out", "parts/more", "--source", "procedural"], "lies among the photos"),
    ],
)
def test_an_error_is_two_lines_and_code_1(capsys, tmp_path, monkeypatch, write_photos, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    write_photos(tmp_path / "parts", 3)
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    error, hint = err.splitlines()
    assert message in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "photos", "--out", "part", "--steps", "0"],
        ["train", "photos", "--out", "part", "--seed", "-1"],
        ["train", "photos", "--out", "part", "--max-minutes", "-1"],
        ["eval", "part", "photos", "--threads", "0"],
        ["chekc", "photos"],
    ],
)
def test_wrong_usage_is_code_2(capsys, words):
    code, out, _ = run(capsys, *words)
    assert (code, out) == (2, "")
