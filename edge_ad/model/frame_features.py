"""The teacher's features of single frames, without a detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from edge_ad.config import Config
from edge_ad.data.images import Frame, preprocess
from edge_ad.model.teacher import Teacher, fit_image_size
from edge_ad.model.weights import find_weights


def frame_features(weights: str | None, size: tuple[int, int]) -> Callable[[Frame], npt.NDArray[np.float32]]:
    """A function frame [H, W, 3] -> features [C, h, w] float32: the `edge` preset's taps, one after the other.

    weights: the teacher's, as `find_weights` takes them. size: typical (H, W) of the frames, in pixels.
    """
    config = Config.named("edge").model
    image_size = fit_image_size(config, size)
    teacher = Teacher(config, image_size, find_weights(config.teacher, weights)[0])

    def features(frame: Frame) -> npt.NDArray[np.float32]:
        images = torch.from_numpy(preprocess(frame, image_size, config.mean, config.std))[None]
        with torch.inference_mode():
            taps: npt.NDArray[np.float32] = teacher(images)[0].flatten(0, 1).numpy()
        return taps

    return features
