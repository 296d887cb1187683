"""A frame from whatever a Python program holds a picture in: files, bytes, PIL, NumPy, PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import Frame, decode_image, read_image, to_frame
from edge_ad.errors import DataError

_CHANNELS = (1, 3, 4)  # gray, RGB, RGB with alpha

LONGEST_PATH = 4096  # Linux takes no longer one


def frame_of(picture: Any, *, bgr: bool = False, name: str = "the picture") -> Frame:
    """Frame [H, W, 3], RGB, of a path, PIL image, bytes of an image file, NumPy array or PyTorch tensor.

    picture: arrays are [H, W] or [H, W, 1, 3 or 4], uint8, uint16 (scaled by 1/257) or float in 0..1; a tensor may
    have its channels first. Alpha is dropped. bgr: the channels of an array or tensor are blue, green, red (OpenCV's
    order). name: for messages.
    Raises DataError for anything else, for a tensor whose shape allows both orders, and as read_image.
    """
    kind = f"{type(picture).__module__}.{type(picture).__qualname__}"
    if kind.startswith("torch."):
        return _from_array(_torch_array(picture, name), name, bgr)
    if isinstance(picture, np.ndarray):
        return _from_array(_channels_last(picture, name), name, bgr)
    if bgr:
        raise DataError(
            f"bgr=True with {_short(kind)}", "files and PIL images say their order themselves: leave it out"
        )
    if kind.startswith("PIL."):
        return _from_array(_pil_array(picture), name, bgr)
    if isinstance(picture, (str, os.PathLike)):
        return _from_file(os.fspath(picture))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return decode_image(bytes(picture), f"{name} ({len(picture)} bytes)")
    raise DataError(
        f"can't take a picture from {_short(kind)}",
        "give a path, the bytes of an image file, a PIL image, a NumPy array or a PyTorch tensor",
    )


def is_array(picture: Any) -> bool:
    """Whether it is a NumPy array or a PyTorch tensor: one picture, although one could go through its rows."""
    return isinstance(picture, np.ndarray) or type(picture).__module__.partition(".")[0] == "torch"


def _from_file(path: str | bytes) -> Frame:
    text = os.fsdecode(path)
    if "://" in text:
        raise DataError(f"{text[:80]} is a URL", "fetch it first, and give the file's path or its bytes")
    if len(text) > LONGEST_PATH:
        raise DataError(
            f"a text of {len(text):,} characters is no path: {text[:40]!r}...", "give the picture's bytes as `bytes`"
        )
    return read_image(Path(text))


def _from_array(image: npt.NDArray[Any], name: str, bgr: bool) -> Frame:
    """[H, W] or [H, W, 3], not empty, of a depth that `to_frame` knows."""
    if not image.size:
        raise DataError(f"{name} has shape {image.shape}: no pixels", "give a picture of at least 1 x 1")
    if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{name} holds {image.dtype} values", "give uint8 (0..255), uint16 (0..65535) or floats in 0..1"
        )
    ordered = image if image.ndim == 2 or bgr else image[:, :, ::-1]
    return to_frame(np.ascontiguousarray(ordered.astype(np.float32) if image.dtype.kind == "f" else ordered), name)


def _channels_last(image: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """[H, W] or [H, W, 3] from an array as NumPy's users lay it out."""
    if image.ndim == 3 and image.shape[2] in _CHANNELS:
        return image[:, :, 0] if image.shape[2] == 1 else image[:, :, :3]
    if image.ndim == 2:
        return image
    hint = "give [H, W] or [H, W, 3]"
    if image.ndim == 3 and image.shape[0] in _CHANNELS:
        hint = "its channels come first: give image.transpose(1, 2, 0)"
    elif image.ndim == 4:
        hint = "that is several pictures: give list(images)"
    raise DataError(f"{name} has shape {image.shape}", hint)


def _torch_array(tensor: Any, name: str) -> npt.NDArray[Any]:
    """[H, W] or [H, W, 3] from a tensor, whichever of its ends holds the channels."""
    shape = tuple(tensor.shape)
    first, last = (len(shape) == 3 and shape[end] in _CHANNELS for end in (0, -1))
    if first and last:
        raise DataError(
            f"{name} has shape {shape}: channels could be first or last",
            "give it as a NumPy array, whose channels are last: tensor.permute(1, 2, 0).numpy() if they are first",
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    return _channels_last((tensor.permute(1, 2, 0) if first else tensor).numpy(), name)


def _pil_array(image: Any) -> npt.NDArray[Any]:
    """[H, W] or [H, W, 3], upright as the file's reader would give it."""
    from PIL import ImageOps  # noqa: PLC0415  (whoever gives a PIL image has it; the line has not)

    image = ImageOps.exif_transpose(image)
    if image.mode == "I":  # how PIL opens many 16-bit files
        values = np.asarray(image)
        return values.astype(np.uint16) if values.min() >= 0 and values.max() <= 65535 else values
    if image.mode in ("F", "L") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGBA").convert("RGB"))


def _short(kind: str) -> str:
    return f"a value of type {kind.removeprefix('builtins.')}"
