"""`edge_ad.load(part).predict(x)`: what comes out, for every x, and in another process."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

import edge_ad
from edge_ad.data.images import encode_image, read_image, write_image
from edge_ad.errors import ArtifactError, BackendError, DataError
from edge_ad.runtime.engines.opening import open_runner


@pytest.fixture
def calibrated(small_artifact, parts):
    """The small detector with thresholds just above its good parts."""
    with edge_ad.load(small_artifact.path) as detector:
        good = [detector.predict(frame) for frame in parts[0]]
    scores = sorted(one.image_score for one in good)
    small_artifact.update(
        calibration={
            "image_threshold": scores[-1],
            "pixel_threshold": float(max(one.pixel_scores.max() for one in good)),
            "score_quantiles": [scores[0], scores[len(scores) // 2], scores[-1]],
            "precision": "fp32",
        }
    )
    return small_artifact.path


@pytest.fixture
def bad(calibrated, parts):
    """(frame, mask) of a part with a defect that this detector sees clearly."""
    with edge_ad.load(calibrated) as detector:
        scores = [detector.predict(frame).image_score for frame in parts[1]]
    clearest = int(np.argmax(scores))
    return parts[1][clearest], parts[2][clearest]


def test_a_prediction_shows_the_defect_where_it_is(calibrated, bad):
    frame, mask = bad
    large = np.kron(frame, np.ones((3, 3, 1), np.uint8))
    with edge_ad.load(calibrated) as detector:
        found = detector.predict(large)
    assert found.decision == "NG"
    box = found.boxes[0]
    rows, columns = np.nonzero(mask)
    assert box.x <= 3 * columns.mean() <= box.x + box.width
    assert box.y <= 3 * rows.mean() <= box.y + box.height
    assert box.peak == pytest.approx(found.pixel_scores.max())
    assert 0 < box.area <= box.width * box.height
    assert found.heatmap().shape == found.overlay().shape == large.shape
    assert repr(found).startswith("<Prediction NG ")
    assert len(repr(found)) < 100


def test_a_good_part_has_no_boxes_and_an_uncalibrated_detector_no_opinion(calibrated, small_artifact, parts, bad):
    with edge_ad.load(calibrated) as detector:
        good = detector.predict(parts[0][0])
    assert (good.decision, good.boxes) == ("OK", ())
    small_artifact.update(calibration=None)
    with edge_ad.load(small_artifact.path) as detector:
        found = detector.predict(bad[0])
    assert (found.decision, found.is_anomalous, found.boxes) == ("UNSURE", None, ())
    assert found.overlay().shape == bad[0].shape


def test_a_prediction_can_be_kept(calibrated, bad, tmp_path):
    write_image(tmp_path / "part.png", bad[0])
    with edge_ad.load(calibrated) as detector:
        found = detector.predict(tmp_path / "part.png")
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["source"] == str(tmp_path / "part.png")
    assert kept["decision"] == "NG"
    assert kept["boxes"][0]["peak"] == found.boxes[0].peak
    np.testing.assert_array_equal(read_image(found.save(tmp_path / "new" / "shown.png")), found.overlay())
    with pytest.raises(DataError, match="no suffix"):
        found.save(tmp_path / "shown")
    assert found._repr_png_().startswith(b"\x89PNG")
    assert "&lt;Prediction NG" in found._repr_html_()


def test_every_kind_of_picture_has_the_same_score(calibrated, bad, tmp_path):
    import torch
    from PIL import Image

    frame = bad[0]
    write_image(tmp_path / "part.png", frame)
    tensor = torch.from_numpy(frame.copy()).permute(2, 0, 1)
    pictures = [str(tmp_path / "part.png"), encode_image(frame), Image.fromarray(frame), frame / 255, tensor]
    with edge_ad.load(calibrated) as detector:
        expected = detector.predict(frame).image_score
        assert [detector.predict(one).image_score for one in pictures] == [expected] * 5
        assert detector.predict(frame[:, :, ::-1], bgr=True).image_score == expected
        several = detector.predict(pictures)
        assert isinstance(several, Iterator)
        assert [one.image_score for one in several] == [expected] * 5


def test_a_list_names_the_picture_that_is_refused(calibrated, bad):
    with edge_ad.load(calibrated) as detector:
        several = detector.predict([bad[0], "nowhere.png", bad[0]])
        assert next(several).decision == "NG"
        with pytest.raises(DataError, match=r"nowhere\.png"):
            next(several)
        with pytest.raises(DataError, match="picture 1 has shape"):
            list(detector.predict((bad[0], np.zeros((3, 8, 8), np.uint8))))


def test_a_folder_says_what_it_left_out(calibrated, parts, tmp_path, caplog):
    for number in range(3):
        write_image(tmp_path / f"photos/{number}.png", parts[0][number])
    (tmp_path / "photos/1b.png").write_bytes(b"nothing")
    with edge_ad.load(calibrated) as detector, caplog.at_level(logging.WARNING):
        found = list(detector.predict(tmp_path / "photos"))
        with pytest.raises(DataError, match="has no image"):
            detector.predict(calibrated)
    assert [os.path.basename(one.source) for one in found] == ["0.png", "1.png", "2.png"]
    assert "1b.png" in caplog.text
    assert "1 of 4 files" in caplog.text


def test_a_pickled_predictor_opens_where_it_lands(calibrated, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(calibrated.parent)
    with edge_ad.load(calibrated.name) as detector:
        expected = detector.predict(parts[0][0]).image_score
        packed = pickle.dumps(detector)
    monkeypatch.chdir("/")
    with pickle.loads(packed) as copy:
        assert "not open" in repr(copy)
        assert copy.predict(parts[0][0]).image_score == expected
    assert len(packed) < 20_000


def test_a_pickled_predictor_refuses_files_that_were_changed(calibrated, parts):
    with edge_ad.load(calibrated) as detector:
        packed = pickle.dumps(detector)
    graph = calibrated / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="was changed"):
        pickle.loads(packed).predict(parts[0][0])


def test_a_predictor_with_a_runner_of_its_own_says_that_it_stays(small_artifact, parts):
    with edge_ad.Predictor(small_artifact, open_runner(small_artifact)) as detector:
        copy = pickle.loads(pickle.dumps(detector))
    with pytest.raises(BackendError, match="another process"):
        copy.predict(parts[0][0])


def _score(detector, frame, results):
    results.put(detector.predict(frame).image_score)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_predictor_survives_a_fork(calibrated, parts):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with edge_ad.load(calibrated, threads=1) as detector:
        expected = detector.predict(parts[0][0]).image_score
        child = context.Process(target=_score, args=(detector, parts[0][0], results))
        child.start()
        assert results.get(timeout=300) == expected
        child.join(300)
        assert child.exitcode == 0
        assert detector.predict(parts[0][0]).image_score == expected
