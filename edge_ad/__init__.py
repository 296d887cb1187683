"""From a folder of good-part photos to a defect inspector running on the line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_ad.pipeline.ablate import ablate
    from edge_ad.pipeline.calibrate import calibrate
    from edge_ad.pipeline.evaluate import evaluate
    from edge_ad.pipeline.explain import explain
    from edge_ad.pipeline.export import export
    from edge_ad.pipeline.synth import synth
    from edge_ad.pipeline.train import train
    from edge_ad.runtime.prediction import Prediction
    from edge_ad.runtime.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = [
    "Prediction",
    "Predictor",
    "__version__",
    "ablate",
    "calibrate",
    "evaluate",
    "explain",
    "export",
    "load",
    "synth",
    "train",
]

_HOMES = {
    "Prediction": "edge_ad.runtime.prediction",
    **dict.fromkeys(("Predictor", "load"), "edge_ad.runtime.predictor"),
    **dict.fromkeys(("calibrate", "export"), ""),  # packages that can be called, see edge_ad.verbs
    **{verb: f"edge_ad.pipeline.{verb}" for verb in ("ablate", "evaluate", "explain", "synth", "train")},
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `edgead --help` and `load` need no torch."""
    if _HOMES.get(name) == "":
        return importlib.import_module(f"edge_ad.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edge_ad' has no attribute '{name}'")
