"""`edgead calibrate`, whole: photos in, thresholds and their promise in the manifest out."""

import errno
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest

pytest.importorskip("edge_ad.data.samples")

import edge_ad
from edge_ad.artifact import PHOTOS, Artifact, photo_key
from edge_ad.calibrate.calibration import Scores, ThresholdRequest, calibration_record, median_shift, operating_points
from edge_ad.cli import main
from edge_ad.data.images import write_image
from edge_ad.errors import DataError


@pytest.fixture
def photos(parts, tmp_path):
    folder = tmp_path / "normals"
    folder.mkdir()
    for i, frame in enumerate(parts[0]):
        write_image(folder / f"{i:03}.png", frame)
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_calibrate_then_predict(small_artifact, photos, parts, capsys):
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05") == 0
    out, err = capsys.readouterr()
    record = Artifact.open(small_artifact.path).manifest.calibration
    assert json.loads(out) == record
    assert record["normals"] == 40
    assert record["method"] == "conformal"
    assert record["precision"] == "fp32"
    assert len(record["score_quantiles"]) == 101
    assert record["promise"] in " ".join(err.split())
    with edge_ad.load(small_artifact.path) as detector:
        good = [detector.predict(frame) for frame in parts[0]]
        bad = [detector.predict(frame) for frame in parts[1]]
    assert sum(prediction.is_anomalous for prediction in good) == 1  # rank 39 of 40: floor(41 * 0.05) - 1 above
    assert sum(prediction.is_anomalous for prediction in bad) >= 18
    assert all(p.threshold == record["image_threshold"] for p in good)
    marked = [bool((p.pixel_scores > record["pixel_threshold"]).any()) for p in good]
    assert sum(marked) == 1


def test_files_and_batches_give_the_same_prediction(small_artifact, photos, parts):
    with edge_ad.load(str(small_artifact.path), backend="onnxruntime", threads=1) as detector:
        one = detector.predict(photos / "003.png")
        assert one.threshold is None
        assert one.is_anomalous is None
        assert detector.predict_batch([]) == []
        batch = detector.predict_batch(parts[0][:4])
    assert one.image_score == pytest.approx(batch[3].image_score, abs=1e-5)
    np.testing.assert_allclose(one.pixel_scores, batch[3].pixel_scores, atol=1e-5)


def test_too_few_photos_are_refused_before_scoring(small_artifact, photos, capsys):
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.001") == 1
    err = capsys.readouterr().err
    assert "40 good parts can't promise a false-alarm rate of 0.001: 999 are needed" in err
    assert "hint: add 959 photos" in err
    assert Artifact.open(small_artifact.path).manifest.calibration is None


def test_second_line_gets_its_own_copy(small_artifact, photos, parts, tmp_path, capsys):
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1") == 0
    first = Artifact.open(small_artifact.path).manifest.calibration
    dim = tmp_path / "dim"
    dim.mkdir()
    for i, frame in enumerate(parts[0]):
        write_image(dim / f"{i}.png", (frame * 0.7).astype(np.uint8))
    other = tmp_path / "line2"
    arguments = ["calibrate", small_artifact.path, "--normals", dim, "--false-alarms", "0.1", "--out", other]
    assert run(*arguments) == 0
    assert "median score moved by" in capsys.readouterr().err
    assert Artifact.open(small_artifact.path).manifest.calibration == first
    assert Artifact.open(other).manifest.calibration["image_threshold"] != first["image_threshold"]
    Artifact.open(other).file("model.onnx")
    assert run(*arguments) == 1
    assert "exists" in capsys.readouterr().err


def test_a_copy_that_does_not_fit_on_the_disk_leaves_nothing(small_artifact, photos, tmp_path):
    """RLIMIT_FSIZE stands in for the full disk; the process is one of its own because of it."""
    words = ["calibrate", str(small_artifact.path), "--normals", str(photos), "--false-alarms", "0.1", "--out"]
    script = (
        "import resource, sys\nfrom edge_ad.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\nmain(sys.argv[1:])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, *words, str(tmp_path / "line2")], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (1, "")
    error, hint = found.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: can't write")
    assert "free some disk space" in hint
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", "normals"}


def test_a_place_that_is_taken_is_refused_before_scoring(small_artifact, photos, tmp_path, capsys):
    words = ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1", "--backend", "none"]
    assert run(*words, "--out", tmp_path) == 1
    assert f"{tmp_path} exists" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["calibrate", "export"])
def test_no_threads_are_wrong_usage(verb, small_artifact, photos):
    words = {"calibrate": ["--false-alarms", "0.1"], "export": ["--int8"]}[verb]
    assert run(verb, small_artifact.path, "--normals", photos, *words, "--threads", "0") == 2


def test_confidence_and_sensitivity(small_artifact, photos, capsys):
    options = ["--false-alarms", "0.1", "--confidence", "0.9", "--sensitivity"]
    assert run("calibrate", small_artifact.path, "--normals", photos, *options) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["method"] == "conformal-pac"
    assert record["upper_bound"] <= 0.1
    rates = [row["false_alarm_rate"] for row in record["sensitivity"]]
    assert rates == [0.2, 0.1, 0.05]  # 40 photos promise no less
    assert all(row["missed"] <= row["missed_upper"] <= 1 for row in record["sensitivity"])
    assert [row["chosen"] for row in record["sensitivity"]] == [False, True, False]
    assert record["sensitivity"][1]["threshold"] == record["image_threshold"]  # of the confidence asked for
    text = " ".join(err.split())
    assert "1 in 10 (set)" in text
    assert "1 in 50 needs 49 good parts" in text


def trained_on(artifact, paths):
    artifact.add(PHOTOS, "\n".join(sorted(map(photo_key, paths))).encode())


def test_photos_that_training_saw_are_left_out(small_artifact, photos, tmp_path, capsys):
    seen = sorted(photos.glob("*.png"))[:15]
    trained_on(small_artifact, seen)
    seen[0].rename(photos / "renamed.png")  # it is the content that counts
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05") == 0
    out, err = capsys.readouterr()
    assert "15 of 40 photos were trained on" in " ".join(err.split())
    record = json.loads(out)
    assert (record["normals"], record["trained_on"]) == (25, 15)
    assert Artifact.open(small_artifact.path).manifest.calibration == record
    few = ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.03"]
    assert run(*few) == 1  # 40 would do
    assert "25 good parts can't promise" in capsys.readouterr().err
    assert run(*few, "--include-trained") == 0
    out, err = capsys.readouterr()
    assert "nothing is promised" in " ".join(err.split())
    record = json.loads(out)
    assert record["normals"] == 40
    assert record["promise"].startswith("none, since 15 of 40 photos were trained on")


def test_only_photos_that_training_saw_are_refused(small_artifact, photos, capsys):
    trained_on(small_artifact, photos.glob("*.png"))
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1") == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "all 40 photos" in err
    assert "never saw" in err
    assert Artifact.open(small_artifact.path).manifest.calibration is None


def test_an_artifact_without_the_record_goes_on_with_a_note(small_artifact, photos, capsys):
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1") == 0
    out, err = capsys.readouterr()
    assert "no record of its training photos" in " ".join(err.split())
    assert json.loads(out)["normals"] == 40


def test_tail_fit_is_marked(small_artifact, photos, tmp_path, capsys):
    words = "calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "1e-4", "--tail-fit"
    assert run(*words, "--backend", "none") == 1  # refused before an engine is asked for
    assert "at least 100" in capsys.readouterr().err
    scores = Scores(*np.random.default_rng(0).exponential(size=(2, 200)))
    record = calibration_record(scores, ThresholdRequest(1e-4, tail_fit=True), precision="fp32", backend="x")
    assert record["upper_bound"] is None
    assert "no guarantee" in record["promise"]
    json.dumps(record, allow_nan=False)


def test_classes_with_enough_parts_get_their_own_thresholds():
    rng = np.random.default_rng(0)
    scores = Scores(*(np.concatenate([rng.normal(0, 1, 50), rng.normal(5, 1, 50), [9.0]]) for _ in range(2)))
    classes = ["a"] * 50 + ["b"] * 50 + ["c"]
    record = calibration_record(scores, ThresholdRequest(0.05), precision="int8", backend="x", classes=classes)
    assert set(record["per_class"]) == {"a", "b"}
    assert record["per_class"]["a"]["image_threshold"] < 3 < record["per_class"]["b"]["image_threshold"]


def test_sensitivity_counts_misses():
    normals = Scores(np.arange(99.0), np.arange(99.0))
    defects = Scores(np.array([50.0, 97.0, 98.0, 200.0]), np.zeros(4))
    rows = {row.false_alarm_rate: row for row in operating_points(normals, defects, ThresholdRequest(0.03))}
    assert min(rows) == 0.01
    assert [rate for rate, row in rows.items() if row.chosen] == [0.03]
    assert rows[0.02].threshold > rows[0.03].threshold > rows[0.05].threshold
    assert rows[0.01].missed == 0.75
    assert rows[0.2].missed == 0.25
    assert rows[0.01].missed_upper == pytest.approx(0.987, abs=0.001)


def test_shift_in_interquartile_ranges():
    before = np.linspace(0, 10, 101)
    assert median_shift(list(before), before + 5) == pytest.approx(1.0)


def test_wish_refuses_scores_that_are_no_numbers():
    with pytest.raises(DataError, match="NaN"):
        ThresholdRequest(0.1).threshold(np.full(50, np.nan))


def test_a_broken_photo_is_left_out_counted_and_named(small_artifact, photos, capsys, caplog):
    (photos / "cut.png").write_bytes((photos / "000.png").read_bytes()[:300])
    (photos / "empty.jpg").touch()
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05", "--sensitivity") == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == 2
    assert "cut.png: is cut short" in caplog.text
    assert "empty.jpg: empty file" in caplog.text
    assert "2 files were skipped" in caplog.text
    record = Artifact.open(small_artifact.path).manifest.calibration
    (photos / "cut.png").unlink()
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05") == 0
    assert Artifact.open(small_artifact.path).manifest.calibration["image_threshold"] == record["image_threshold"]


def test_nothing_but_broken_photos_is_an_error(small_artifact, photos, capsys):
    for path in photos.iterdir():
        path.write_bytes(path.read_bytes()[:300])
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05") == 1
    assert "none of 40 photos could be judged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", ["calibrate", "export", "train", "synth", "ablate", "qualify", "model", "run", "demo"]
)
def test_a_place_that_takes_no_file_is_said_before_the_work(
    verb, small_artifact, photos, tmp_path, capsys, monkeypatch
):
    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    out = tmp_path / "new" / "out"
    words = {
        "calibrate": ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.05"],
        "export": ["export", small_artifact.path, "--fp16", "--normals", photos],
        "train": ["train", photos, "--out", out, "--weights", "random"],
        "synth": ["synth", photos, "--out", tmp_path / "out", "--source", "procedural"],
        "ablate": ["ablate", photos, "--out", out],
        "qualify": ["qualify", small_artifact.path, "--good", photos, "--out", out],
        "model": ["bench", "model", small_artifact.path, "--out", out / "rows.csv"],
        "run": ["bench", "run", small_artifact.path, "--csv", out / "rows.csv"],
        "demo": ["demo", "--out", out],
    }[verb]
    before = (small_artifact.path / "manifest.json").read_bytes()
    assert run(*words) == 1
    assert ": Read-only file system" in capsys.readouterr().err
    assert (small_artifact.path / "manifest.json").read_bytes() == before
