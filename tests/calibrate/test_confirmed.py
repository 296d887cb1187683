"""Confirmed misses: a threshold, graph or artifact that lets one pass is refused, by name."""

import json
from contextlib import closing

import pytest

from edge_ad.artifact import Artifact
from edge_ad.calibrate.confirmed import check_confirmed_misses, examine_misses
from edge_ad.cli import main
from edge_ad.data.feedback import Known, add, entries
from edge_ad.data.images import write_image
from edge_ad.errors import DataError
from edge_ad.runtime.engines.opening import open_runner

REGION = {"name": "rim", "box": [0, 0, 8, 8], "ignore": True}


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def miss(small_artifact, parts, tmp_path):
    """The artifact with one confirmed miss, and the miss's score."""
    write_image(tmp_path / "spot.png", parts[1][0])
    add(small_artifact.path, "bad", tmp_path / "spot.png", Known(note="complaint 7"))
    with closing(open_runner(small_artifact, "onnxruntime", "fp32", 1)) as runner:
        (result,) = examine_misses(small_artifact, runner, calibration={"image_threshold": 0.0})
    assert result.caught
    assert result.note == "complaint 7"
    return result.score


def calibrated(artifact, threshold):
    artifact.update(calibration={"image_threshold": threshold, "pixel_threshold": threshold, "precision": "fp32"})
    return artifact


def test_an_artifact_that_catches_it_passes_and_one_that_does_not_is_refused_by_name(small_artifact, miss):
    (result,) = check_confirmed_misses(calibrated(small_artifact, miss - 1e-4), backend="onnxruntime")
    assert result.caught
    assert result.score == pytest.approx(miss)
    calibrated(small_artifact, miss + 1e-4)
    with pytest.raises(DataError, match=r"1 of 1 confirmed misses pass again: bad/spot\.png \(score") as error:
        check_confirmed_misses(small_artifact.path, backend="onnxruntime")
    assert "--forget bad/spot.png" in error.value.hint


def test_without_a_threshold_nothing_is_caught(small_artifact, miss):
    with pytest.raises(DataError, match="no threshold yet"):
        check_confirmed_misses(small_artifact, backend="onnxruntime")


def test_misses_of_the_artifact_that_is_replaced_count(small_artifact, miss, tmp_path):
    files = {"model.onnx": small_artifact.file("model.onnx").read_bytes()}
    fresh = calibrated(Artifact.create(tmp_path / "fresh", small_artifact.manifest, files), miss + 1e-4)
    assert check_confirmed_misses(fresh, backend="onnxruntime") == []
    with pytest.raises(DataError, match="spot"):
        check_confirmed_misses(fresh, replaces=small_artifact.path, backend="onnxruntime")


def test_nothing_is_opened_without_a_miss(small_artifact):
    (small_artifact.path / "model.onnx").write_bytes(b"no graph")
    assert check_confirmed_misses(small_artifact) == []


def test_it_is_inspected_as_its_line_does_it(small_artifact, parts, tmp_path, miss):
    """A defect that lies where the line ignores everything is not caught; tiles make another score."""
    frame = parts[0][0].copy()
    frame[1:6, 1:6] = 255
    write_image(tmp_path / "corner.png", frame)
    whole = add(small_artifact.path, "bad", tmp_path / "corner.png", Known(), name="whole")
    ignored = Known(station={"frame": {"tile": [48, 48], "overlap": 0.2}, "policy": {"regions": [REGION]}})
    write_image(tmp_path / "corner.png", frame[:, ::-1][:, ::-1] // 2 * 2)
    tiled = add(small_artifact.path, "bad", tmp_path / "corner.png", ignored, name="tiled")
    with closing(open_runner(small_artifact, "onnxruntime", "fp32", 1)) as runner:
        one, two = examine_misses(small_artifact, runner, [whole, tiled], calibration={"image_threshold": 0.0})
    assert one.score > 1.5 * two.score


def test_a_miss_of_an_unknown_product_is_named(small_artifact, parts, tmp_path):
    small_artifact.update(classes=("a", "b"))
    write_image(tmp_path / "spot.png", parts[1][0])
    add(small_artifact.path, "bad", tmp_path / "spot.png", Known(product="c"))
    calibrated(small_artifact, 0.0)
    with pytest.raises(DataError, match=r"spot\.png.*'c'"):
        check_confirmed_misses(small_artifact, backend="onnxruntime")


def test_calibrate_refuses_such_a_threshold_and_writes_nothing(small_artifact, miss, parts, tmp_path, capsys):
    for i, frame in enumerate(parts[0]):
        write_image(tmp_path / "normals" / f"{i}.png", frame)
    # the hardest good part scores higher than this "miss": a copy of a good part
    write_image(tmp_path / "dull.png", parts[0][3])
    add(small_artifact.path, "bad", tmp_path / "dull.png", Known())
    words = ("calibrate", small_artifact.path, "--normals", tmp_path / "normals", "--backend", "onnxruntime")
    assert run(*words, "--false-alarms", "0.05", "--threads", "1") == 1
    told = capsys.readouterr().err
    assert "bad/dull.png" in told
    assert "of these 40 good parts" in told
    assert Artifact.open(small_artifact.path).manifest.calibration is None
    assert run("feedback", small_artifact.path, "--forget", "bad/dull.png") == 0
    assert run(*words, "--false-alarms", "0.05", "--threads", "1", "--out", tmp_path / "copy") == 0
    assert "catches all 1 confirmed" in capsys.readouterr().err
    assert len(entries(tmp_path / "copy", "bad")) == 1


def test_feedback_says_what_the_detector_says_today(small_artifact, miss, parts, tmp_path, capsys):
    write_image(tmp_path / "fine.png", parts[0][0])
    calibrated(small_artifact, miss + 1e-4)
    words = ("--backend", "onnxruntime", "--threads", "1")
    assert run("feedback", small_artifact.path, "--rejected", tmp_path / "fine.png", *words) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["caught"] for row in said["misses"]] == [False]
    assert said["rejected_good"] == ["good/fine.png"]
    assert run("feedback", small_artifact.path, *words) == 1
    assert "spot.png" in capsys.readouterr().err
    calibrated(small_artifact, miss - 1e-4)
    assert run("feedback", small_artifact.path, *words) == 0
