"""The difference maps and the Top-K score: definitions, and fast versions of them on GPU and CPU."""

from edge_ad.kernels.dispatch import (
    available_backends,
    cosine_map,
    find_defects,
    fused_score,
    head_input,
    preprocess,
    set_threads,
    topk_mean,
    upsample,
)
from edge_ad.kernels.reference import Defect, FusedScore

__all__ = [
    "Defect",
    "FusedScore",
    "available_backends",
    "cosine_map",
    "find_defects",
    "fused_score",
    "head_input",
    "preprocess",
    "set_threads",
    "topk_mean",
    "upsample",
]
