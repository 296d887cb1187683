"""Which thresholds hold at a station: its product's, and only for pictures cut as they were at calibration."""

from __future__ import annotations

import logging
import math
from typing import Any

from edge_ad.artifact import Manifest
from edge_ad.errors import ArtifactError, ConfigError
from edge_ad.runtime.settings import StationSettings

ALL = "all"
log = logging.getLogger(__name__)


def calibration_for(manifest: Manifest, product: str = "") -> dict[str, Any]:
    """The manifest's calibration with the thresholds of `product` in it; empty before calibration.

    product: one of the manifest's classes; "all" for the threshold that all of them share; "" where there is
    nothing to choose. A class that had too few good parts for thresholds of its own gets the common ones.
    Raises ConfigError for an unknown product, and for "" where products have thresholds of their own; ArtifactError
    for a threshold that is no number.
    """
    calibration = dict(manifest.calibration or {})
    own: dict[str, dict[str, Any]] = calibration.get("per_class") or {}
    for section in (calibration, *own.values()):
        _check_thresholds(section)
    known = sorted({*manifest.classes, *own})
    if product == ALL:
        return calibration
    if not product:
        if own and len(known) > 1:
            raise ConfigError(
                f"the artifact inspects {', '.join(known)}, and each has a threshold of its own",
                f"name the product (--product {known[0]}), or take the common threshold with --product {ALL}",
            )
        return calibration
    if product not in known:
        raise ConfigError(
            f"the artifact knows no product {product!r}",
            f"it was trained on: {', '.join(known) or 'one product, without a name'}",
        )
    if product not in own and calibration and len(known) > 1:
        log.warning(
            "%s has no threshold of its own: too few good parts were calibrated; the common one holds", product
        )
    return calibration | own.get(product, {})


def _check_thresholds(section: dict[str, Any]) -> None:
    """No score is above NaN: a damaged manifest would let every part pass."""
    for name in ("image_threshold", "pixel_threshold"):
        value = section.get(name)
        if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ArtifactError(f"the artifact's {name} is {value!r}", "calibrate it again: edgead calibrate")


def check_tiles(settings: StationSettings, calibration: dict[str, Any]) -> None:
    """The worst of many tiles is a higher score than a whole picture's: the threshold must come from the same."""
    if not calibration or settings.policy.threshold is not None:
        return
    calibrated = calibration.get("tiles") or []
    if calibrated != settings.frame.tiling():
        what = "whole pictures" if not calibrated else f"tiles of {calibrated[0]} x {calibrated[1]}"
        log.warning(
            "the threshold was calibrated on %s, which is not how this station cuts its pictures: the false-alarm "
            "rate is not kept; run `edgead calibrate ARTIFACT --normals DIR --settings` with this run's settings",
            what,
        )
