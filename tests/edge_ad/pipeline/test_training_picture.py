"""The picture that a training ends with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from edge_ad.artifact import Artifact
from edge_ad.calibrate.calibration import Scores
from edge_ad.data.images import read_image
from edge_ad.pipeline.training_picture import write_training_picture
from edge_ad.progress import NoProgress
from edge_ad.synthesis.defects import Triplet


class Heard(NoProgress):
    def __init__(self):
        self.lines = []

    def say(self, text, style=""):
        self.lines.append(text)


@pytest.fixture
def draw(small_artifact, parts):
    """Draws the picture of the small detector with a made-up history; (path, what was said, frames asked for)."""
    good, bad, masks = parts
    small_artifact.update(calibration={"image_threshold": 0.02, "pixel_threshold": 0.02})
    asked = []

    class Source:
        def draw(self, index, frames):
            asked.append(frames[index])
            return Triplet(frames[index], bad[index], masks[index])

    def run(history=()):
        heard = Heard()
        scores = Scores(np.array([0.005, 0.01, 0.03]), np.array([0.1, 0.1, 0.1]))
        path = write_training_picture(small_artifact, scores, Source(), good[10:20], heard, history)
        return path, heard.lines, asked

    return run


@pytest.mark.parametrize("history", [[], [(1, 3.0), (2, 2.0), (3, 0.0)]])
def test_it_lies_in_the_artifact_and_shows_the_loss_where_there_was_one(draw, monkeypatch, history, small_artifact):
    drawn = []
    honest = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or honest(self, *a, **k))
    path, lines, asked = draw(history)
    assert path == small_artifact.path / "training.png"
    assert lines == [f"a picture of this training: {path}"]
    assert read_image(path).shape == (900, 1200, 3)
    assert [axis.get_title() for axis in drawn[0].axes if axis.get_title()] == ["loss"] * bool(history) + [
        "image scores"
    ]
    labels = [
        text.get_text() for axis in drawn[0].axes if axis.get_legend() for text in axis.get_legend().get_texts()
    ]
    assert labels == ["3 good photos held out, 1 above", "4 synthetic defects", "first threshold 0.02"]
    assert len(asked) == 4  # defects on the frames it was given, which training held out
    Artifact.open(small_artifact.path).file("model.onnx")  # and the artifact is what it was


def test_without_matplotlib_there_is_none_which_is_said(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path, lines, asked = draw([(1, 2.0)])
    assert path is None
    assert len(lines) == 1
    assert "matplotlib" in lines[0]
    assert "pip install" in lines[0]
    assert asked == []
