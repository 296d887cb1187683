"""The best that a map of so many patches can score: AUPRO of the masks themselves, seen through the patches.

python tests/benchmarks/ceiling.py CATEGORY ... --patches 18x18 28x28

Each patch is given the share of it that the mask covers, which no detector could know better at that size, and the
map is brought to 256x256 and smoothed as the detector's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from edge_ad.config import ModelConfig
from edge_ad.data.masks import read_mask, resize_mask
from edge_ad.data.samples import scan
from edge_ad.metrics import aupro
from edge_ad.model.detector import SMOOTHING
from edge_ad.model.resampling import upsampling_matrix


def ceiling(masks: list[np.ndarray], rows: int, columns: int) -> float:
    """AUPRO, 0..1, of masks [256, 256] bool that were averaged over rows x columns patches."""
    down, across = (
        upsampling_matrix(count, size, SMOOTHING).numpy()
        for count, size in zip((rows, columns), masks[0].shape, strict=True)
    )
    maps = [cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA) for mask in masks]
    return aupro([down @ shares @ across.T for shares in maps], masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="categories with masks")
    parser.add_argument("--patches", nargs="+", default=["18x18", "28x28"], help="rows x columns")
    arguments = parser.parse_args()
    size = ModelConfig().score_size
    for folder in arguments.data:
        masks = [
            resize_mask(read_mask(sample.mask_path), size) if sample.mask_path else np.zeros(size, np.bool_)
            for sample in scan(folder).test
        ]
        for patches in arguments.patches:
            rows, columns = map(int, patches.split("x"))
            print(f"{folder.name}  {patches}  AUPRO {100 * ceiling(masks, rows, columns):.2f}")


if __name__ == "__main__":
    main()
