"""The three commands as typed, in a folder with photos, and what stands around them: use, list, promote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_ad.artifact import Artifact, photo_key
from edge_ad.cli import main
from edge_ad.data.changes import changes, person
from edge_ad.data.images import write_image
from edge_ad.runtime.engines.runner import GRAPHS
from edge_ad.workspace import Workspace


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code, *capsys.readouterr()


@pytest.fixture
def shop(tmp_path, monkeypatch, small_artifact, parts):
    """A working folder with 40 photos and the detector that was trained on 24 of them, as training leaves it."""
    folder = tmp_path / "shop"
    for i, frame in enumerate(parts[0]):
        write_image(folder / f"photos/{i:02d}.png", frame)
    monkeypatch.chdir(folder)
    add_detector(small_artifact, "photos")
    Workspace().use(Path("detectors/photos"))
    return folder


def add_detector(source: Artifact, name: str, beside: str = "") -> Path:
    path = Path(shutil.copytree(source.path, Path("detectors") / name))
    artifact = Artifact.open(path)
    seen = sorted(Path("photos").iterdir())[:24]
    artifact.add("training_photos.txt", "\n".join(photo_key(photo) for photo in seen).encode())
    artifact.update(training={"photos": ["../../photos"], "normals": 24, "held_out": 16}, name=name)
    if beside:
        Workspace().remember(path, Path("detectors") / beside)
    return path


def test_calibrate_export_and_run_need_no_names(capsys, shop):
    code, out, err = run(capsys, "calibrate")
    assert code == 0, err
    assert err.startswith("using detectors/photos, trained ")
    assert "16 photos in photos that training did not see" in err
    assert "may be rejected more often than promised" in err
    assert "at 10,000 good parts a day expect at most 589 false alarms" in err
    record = json.loads(out)
    assert record["normals"] == 16
    assert record["false_alarm_rate"] == pytest.approx(1 / 17)
    assert "held out of training" in Artifact.open("detectors/photos").manifest.calibration["promise"]

    code, out, err = run(capsys, "export", "--fp16")
    assert code == 0, err
    assert "the loss on 16 that it held out" in err
    assert Artifact.open("detectors/photos").has(GRAPHS["fp16"])

    code, out, err = run(capsys, "run", "--source", "photos", "--headless", "--frames", "3", "--json")
    assert code == 0, err
    assert err.startswith("using detectors/photos, trained ")
    assert len(out.splitlines()) == 3


def test_of_two_folders_one_is_the_artifact(capsys, shop, parts):
    for i in range(10):
        write_image(shop / f"labelled/good/{i}.png", parts[0][i])
        write_image(shop / f"labelled/bad/{i}.png", parts[1][i])
    for words in (["labelled"], ["photos", "labelled"]):
        code, out, err = run(capsys, "eval", *words, "--json", "-", "--no-native")
        assert code == 0, err
        assert json.loads(out)["i_auroc"] == 1.0
        assert err.startswith("using") == (len(words) == 1)
    code, _, err = run(capsys, "eval")
    assert code == 1
    assert "photos has no photos of defects to measure on" in err
    code, _, err = run(capsys, "eval", "a", "b", "c")
    assert (code, "3 folders were given" in err) == (1, True)
    code, out, err = run(capsys, "list", "--json")
    assert json.loads(out)[0]["i_auroc"] == 1.0


def test_list_and_use(capsys, shop, small_artifact):
    add_detector(small_artifact, "photos-2", beside="photos")
    code, out, err = run(capsys, "list")
    assert code == 0, err
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["*", "detectors/photos", "40"],
        ["+", "detectors/photos-2", "40"],
    ]
    assert run(capsys, "use", "photos-2")[:2] == (0, "detectors/photos-2\n")
    assert run(capsys, "use")[1] == "detectors/photos-2\n"
    code, _, err = run(capsys, "use", "photo")
    assert code == 1
    assert "photo does not exist" in err


def test_a_candidate_takes_the_place_after_checks_and_the_way_back_is_open(capsys, shop, small_artifact):
    assert run(capsys, "promote")[0] == 1  # there is none
    run(capsys, "calibrate")
    first = Artifact.open("detectors/photos").manifest.calibration
    add_detector(small_artifact, "photos-2", beside="photos")
    code, out, err = run(capsys, "run", "--source", "photos", "--headless", "--frames", "1", "--threshold", "9")
    assert code == 0, err
    assert "using detectors/photos, " in err
    assert "photos-2" in err

    code, out, err = run(capsys, "promote")
    assert code == 1
    assert "it has no threshold" in err
    assert Artifact.open("detectors/photos").manifest.calibration == first

    code, out, err = run(capsys, "calibrate", "--false-alarms", "0.2")
    assert "using detectors/photos-2" in err
    Path("detectors/photos-2/training.png").write_bytes(b"picture")
    code, out, err = run(capsys, "promote")
    assert (code, out) == (0, "detectors/photos\n"), err
    assert "of 16 good parts rejected, at most 1 in 5 promised" in err
    assert "confirmed misses: none filed" in err
    assert Workspace().candidate is None
    now = Artifact.open("detectors/photos")
    assert (now.manifest.name, now.manifest.calibration["false_alarm_rate"]) == ("photos", 0.2)
    assert not Path("detectors/photos-2").exists()
    assert Path("detectors/photos/training.png").read_bytes() == b"picture"
    assert Artifact.open("detectors/photos-earlier").manifest.calibration == first

    said = changes(now.manifest)
    assert [one.kind for one in said] == ["calibrate", "calibrate", "promote"]  # the first one's, too
    assert "threshold none -> " in said[0].text
    assert "at most 0.2 of good parts" in said[1].text
    assert said[2].by == person()
    assert said[2].text.endswith("4 checks, none failed")
    assert f"photos-2 took the place of {Artifact.open('detectors/photos-earlier').digest()[:16]}" in said[2].text

    code, out, err = run(capsys, "promote", "photos-earlier")
    assert code == 0, err
    assert [one.kind for one in changes(Artifact.open("detectors/photos").manifest)].count("promote") == 2
    assert Artifact.open("detectors/photos").manifest.calibration == first
    assert Artifact.open("detectors/photos-earlier").manifest.calibration["false_alarm_rate"] == 0.2


def test_a_candidate_that_breaks_its_promise_stays_beside(capsys, shop, small_artifact):
    run(capsys, "calibrate")
    candidate = Artifact.open(add_detector(small_artifact, "photos-2", beside="photos"))
    promised = Artifact.open("detectors/photos").manifest.calibration
    candidate.update(calibration={**promised, "image_threshold": 0.0})  # all 16 are above
    code, _, err = run(capsys, "promote")
    assert code == 1
    assert "16 of 16 good parts rejected, at most 1 in 17 promised" in err
    shutil.copytree(candidate.path, "detectors/spare")
    assert run(capsys, "promote", "spare", "--to", "other", "--force")[0] == 0
    said = changes(Artifact.open("other").manifest)[-1].text
    assert said.startswith("spare took the place of none; by force, although: 16 of 16 good parts rejected")
    (candidate.path / "model.onnx").write_bytes(b"")
    code, _, err = run(capsys, "promote", "--force")
    assert code == 1
    assert Artifact.open("detectors/photos").manifest.calibration == promised


def test_photos_that_have_gone_are_said(capsys, shop):
    shutil.move("photos", "elsewhere")
    for words in (["calibrate"], ["export", "--int8"]):
        code, _, err = run(capsys, *words)
        assert code == 1
        assert "photos, on which detectors/photos was trained, is not there any more" in err
        assert "--normals DIR" in err
