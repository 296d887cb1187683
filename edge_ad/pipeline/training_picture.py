"""The picture that a training ends with: its loss, what good parts score, and synthetic defects as the detector sees
them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import PICTURE, Artifact, write_atomically
from edge_ad.calibrate.calibration import Scores
from edge_ad.errors import BackendError
from edge_ad.progress import Progress
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.optional import need
from edge_ad.runtime.overlay import outline
from edge_ad.runtime.predictor import Predictor
from edge_ad.synthesis.defects import Frames
from edge_ad.training.triplets import TripletSource

_DEFECTS = 4
_BLUE, _RED = "#2b6cb0", "#c5303a"


def write_training_picture(
    artifact: Artifact,
    scores: Scores,
    source: TripletSource,
    frames: Frames,
    progress: Progress,
    history: Sequence[tuple[int, float]] = (),
) -> Path | None:
    """Draw the training into the artifact's folder and say where; None, and said, without matplotlib.

    scores: of the held-out photos. source, frames: synthetic defects are drawn on these held-out photos. history:
    (step, loss); empty where nothing was optimised.
    """
    try:
        figure = need("matplotlib.figure", why="the picture of a training", install="'edge-ad[train]'").Figure(
            figsize=(12, 9), layout="constrained"
        )
    except BackendError as error:
        progress.say(f"{error.message}: none was drawn ({error.hint})", "yellow")
        return None
    triplets = [source.draw(index, frames) for index in range(_DEFECTS)]
    with Predictor(artifact, open_runner(artifact, "onnxruntime", "fp32")) as predictor:
        seen = predictor.predict_batch([triplet.defective for triplet in triplets])
    top, bottom = figure.subfigures(2, 1, height_ratios=[2, 4])
    panels = top.subplots(1, 2 if history else 1, squeeze=False)[0]
    if history:
        _draw_loss(panels[0], history)
    threshold = (artifact.manifest.calibration or {})["image_threshold"]
    _draw_scores(panels[-1], scores.image_scores, [one.image_score for one in seen], threshold)
    bottom.suptitle(
        "synthetic defects (outlined) on photos held out of training, and what the detector says", fontsize=10
    )
    axes = bottom.subplots(2, _DEFECTS)
    for i, (triplet, prediction) in enumerate(zip(triplets, seen, strict=True)):
        axes[0, i].imshow(outline(triplet.defective, triplet.mask))
        axes[1, i].imshow(prediction.overlay())
    for axis in axes.flat:
        axis.axis("off")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    path = artifact.path / PICTURE
    write_atomically(path, out.getvalue())
    progress.say(f"a picture of this training: {path}")
    return path


def _draw_loss(axis: Any, history: Sequence[tuple[int, float]]) -> None:
    steps, losses = np.array(history, float).T
    axis.plot(steps, losses, color=_BLUE, alpha=0.25, linewidth=1)
    width = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    axis.plot(steps[width - 1 :], smooth, color=_BLUE, linewidth=2)
    axis.set(title="loss", xlabel="step")
    if (losses > 0).all():
        axis.set_yscale("log")


def _draw_scores(axis: Any, good: np.ndarray, defects: Sequence[float], threshold: float) -> None:
    above = int((good > threshold).sum())
    axis.hist(good, bins=20, color=_BLUE, alpha=0.7, label=f"{len(good)} good photos held out, {above} above")
    axis.plot(defects, np.zeros(len(defects)), "^", color=_RED, markersize=9, clip_on=False,
              label=f"{len(defects)} synthetic defects")  # fmt: skip
    axis.axvline(threshold, color="#222", linestyle="--", label=f"first threshold {threshold:.4g}")
    axis.set(title="image scores", xlabel="score", ylabel="photos")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8)
