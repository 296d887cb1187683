"""`edgead explain`: sentences or JSON on stdout, one picture."""

import json

import pytest

from edge_ad.cli import main
from edge_ad.data.images import read_image, write_image


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(["explain", *map(str, words), "--threads", "1"])
    return stop.value.code


@pytest.fixture
def photo(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "bad.png", parts[1][0])
    return tmp_path / "bad.png"


def test_sentences_and_a_picture(small_artifact, photo, tmp_path, capsys):
    assert run(small_artifact.path, photo, "--photos", 0) == 0
    out, err = capsys.readouterr()
    assert out.startswith("bad.png is left undecided: its score is")
    assert "Not told. Nearest patch of a good part: not searched, as asked." in out
    assert "picture: bad-explained.png" in err
    assert read_image(tmp_path / "bad-explained.png").shape[1] > 1000


def test_json(small_artifact, photo, tmp_path, capsys):
    assert run(small_artifact.path, photo, "--json", "--out", tmp_path / "why.jpg") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["picture"] == str(tmp_path / "why.jpg")
    assert found["score"] > 0
    assert found["nearest"] is None
    assert any("weights.safetensors" in reason for reason in found["left_out"])


def test_a_picture_that_can_not_be_written_is_refused_first(small_artifact, photo, tmp_path, capsys):
    assert run(small_artifact.path, photo, "--out", tmp_path / "none" / "why.png") == 1
    assert "none does not exist" in capsys.readouterr().err
    assert run(small_artifact.path, photo, "--out", tmp_path / "why.txt") == 1
    assert "why.txt" in capsys.readouterr().err or not (tmp_path / "why.txt").exists()


def test_a_photo_that_is_none_is_an_error(small_artifact, tmp_path, capsys):
    (tmp_path / "photo.png").write_text("no photo")
    assert run(small_artifact.path, tmp_path / "photo.png") == 1
    assert "photo.png" in capsys.readouterr().err
