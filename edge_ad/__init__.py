"""From a folder of good-part photos to a defect inspector running on the line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_ad.runtime.prediction import Prediction
    from edge_ad.runtime.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` and its friends when first used, so that `edgead --help` needs no runtime."""
    if name in ("Prediction", "Predictor", "load"):
        return getattr(importlib.import_module("edge_ad.runtime.predictor"), name)
    raise AttributeError(f"module 'edge_ad' has no attribute '{name}'")
