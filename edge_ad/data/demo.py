"""Demo data from one real photograph: crops of a brick wall, defects drawn onto a part of it.

The photograph is scikit-image's `brick` (its documentation names the origin). The defects are drawn here, by a
generator that synthesis never uses; they are no real defects, and the demo says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad.errors import DataError

Array = np.ndarray[Any, Any]
Drawer = Callable[[Array, np.random.Generator], Array]

CROP = 160
TRAIN, CALIBRATION, TEST_GOOD, TEST_BAD = 96, 120, 16, 8  # crops; TEST_BAD for each kind of defect


def write_demo_data(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a category in MVTec AD's layout and a folder of further normals; return both paths.

    Rows 0..287 of the photograph are for training, the rest for calibration (left half) and test (right half).
    """
    photo = _photograph()
    rng = np.random.default_rng(seed)
    regions = {"train": photo[:288], "calibration": photo[288:, :256], "test": photo[288:, 256:]}
    category, calibration = folder / "brick", folder / "brick_calibration"
    for index in range(TRAIN):
        _write(category / "train" / "good" / f"{index:03d}.png", _crop(regions["train"], rng))
    for index in range(CALIBRATION):
        _write(calibration / f"{index:03d}.png", _crop(regions["calibration"], rng))
    for index in range(TEST_GOOD):
        _write(category / "test" / "good" / f"{index:03d}.png", _crop(regions["test"], rng))
    for kind, draw in DEFECTS.items():
        for index in range(TEST_BAD):
            normal = _crop(regions["test"], rng)
            defective = draw(normal.copy(), rng)
            changed = np.abs(defective.astype(np.int16) - normal).max(2) > 8
            _write(category / "test" / kind / f"{index:03d}.png", defective)
            _write(category / "ground_truth" / kind / f"{index:03d}_mask.png", changed.astype(np.uint8) * 255)
    return category, calibration


def write_video(images: list[Path], path: Path, *, frames_each: int = 8, fps: float = 8.0) -> None:
    """Show the images one after the other, `frames_each` frames each, as an MP4 with sides of 320 pixels."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (320, 320))
    if not writer.isOpened():
        raise DataError(f"this OpenCV can't write {path}", "install opencv-python-headless from the package index")
    for image in images:
        frame = cv2.resize(cv2.imread(str(image)), (320, 320), interpolation=cv2.INTER_CUBIC)
        for _ in range(frames_each):
            writer.write(frame)
    writer.release()


def _photograph() -> Array:
    try:
        from skimage import data  # noqa: PLC0415  (of the [train] extra)
    except ImportError as error:
        raise DataError("the demo's photograph comes with scikit-image", "pip install 'edge-ad[train]'") from error
    return np.repeat(data.brick()[..., None], 3, 2)


def _crop(region: Array, rng: np.random.Generator) -> Array:
    """A crop at a random place, a little brighter or darker and with camera noise."""
    y, x = (int(rng.integers(0, side - CROP + 1)) for side in region.shape[:2])
    crop = region[y : y + CROP, x : x + CROP].astype(np.float32) * rng.uniform(0.94, 1.06)
    return np.clip(crop + rng.normal(0, 1.5, (CROP, CROP, 1)), 0, 255).astype(np.uint8)


def _crack(image: Array, rng: np.random.Generator) -> Array:
    point, angle = rng.uniform(30, CROP - 30, 2), rng.uniform(0, 2 * np.pi)
    path = [point]
    for _ in range(int(rng.integers(12, 30))):
        angle += rng.normal(0, 0.5)
        path.append(path[-1] + 4 * np.array([np.cos(angle), np.sin(angle)]))
    line = np.array(path).round().astype(np.int32)
    cv2.polylines(image, [line], False, (25, 25, 28), int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


def _hole(image: Array, rng: np.random.Generator) -> Array:
    centre = tuple(int(v) for v in rng.integers(25, CROP - 25, 2))
    radius = int(rng.integers(4, 10))
    cv2.circle(image, centre, radius + 1, (190, 185, 180), 1, cv2.LINE_AA)
    cv2.circle(image, centre, radius, (12, 10, 10), -1, cv2.LINE_AA)
    return image


def _paint(image: Array, rng: np.random.Generator) -> Array:
    layer, centre = image.copy(), rng.integers(35, CROP - 35, 2)
    colour = tuple(int(v) for v in rng.integers(180, 250, 3))
    for _ in range(int(rng.integers(3, 8))):
        spot = tuple(int(v) for v in centre + rng.normal(0, 8, 2))
        cv2.circle(layer, spot, int(rng.integers(3, 9)), colour, -1, cv2.LINE_AA)
    return cv2.addWeighted(layer, 0.8, image, 0.2, 0)


def _scratch(image: Array, rng: np.random.Generator) -> Array:
    start, angle = rng.uniform(25, CROP - 25, 2), rng.uniform(0, np.pi)
    end = start + rng.uniform(25, 70) * np.array([np.cos(angle), np.sin(angle)])
    first, last = (tuple(int(v) for v in point.round()) for point in (start, end))
    cv2.line(image, first, last, (225, 225, 225), 1, cv2.LINE_AA)
    return image


DEFECTS: dict[str, Drawer] = {"crack": _crack, "hole": _hole, "paint": _paint, "scratch": _scratch}


def _write(path: Path, image: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise DataError(f"can't write {path}", "check free space and rights")
