"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.config import Config


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """The edge preset with a 6-block ViT of width 64: every part is there, all of it small."""
    config = Config.named("edge")
    return config.override(
        "model", teacher="test_vit", tokens=36, taps=(1, 2, 3, 4), prototypes=32, decoder_channels=16, head_channels=8
    ).override("training", steps=4, batch_size=4, triplets=8, warmup_steps=1)


@pytest.fixture(scope="session")
def write_photos() -> Callable[..., list[Path]]:
    """Writes photos of a striped, noisy surface, 72 x 96 pixels."""

    def write(folder: Path, count: int, seed: int = 0) -> list[Path]:
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        stripes = 120 + 40 * np.sin(np.arange(96) / 4)
        paths = []
        for index in range(count):
            photo = stripes[None, :, None] + rng.normal(0, 6, (72, 96, 3))
            paths.append(folder / f"{index:03d}.png")
            assert cv2.imwrite(str(paths[-1]), np.clip(photo, 0, 255).astype(np.uint8))
        return paths

    return write
