from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]

def cosine_map(teacher: _Floats, student: _Floats, channels_last: bool, eps: float) -> _Floats: ...
def cosine_map_gradient(teacher: _Floats, student: _Floats, grad: _Floats, eps: float) -> _Floats: ...
def head_input(teacher: _Floats, student: _Floats, eps: float) -> _Floats: ...
def upsample(maps: _Floats, height: int, width: int) -> _Floats: ...
def topk_mean(scores: _Floats, k: int) -> _Floats: ...
def fused_score(
    teacher: Sequence[_Floats],
    student: Sequence[_Floats],
    channels_last: Sequence[bool],
    height: int,
    width: int,
    combine: str,
    weights: Sequence[float],
    gaussian: Sequence[float],
    k: int,
    want_pixel_scores: bool,
    eps: float,
) -> tuple[_Floats | None, _Floats]: ...
def preprocess(
    frame: NDArray[np.uint8],
    first_x: _Ints,
    weight_x: _Ints,
    first_y: _Ints,
    weight_y: _Ints,
    levels: _Floats,
    bgr: bool,
) -> _Floats: ...
def find_defects(
    scores: _Floats, threshold: float, min_area: int
) -> list[tuple[tuple[int, int, int, int], int, float]]: ...
def set_threads(count: int) -> None: ...
