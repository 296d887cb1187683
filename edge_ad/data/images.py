"""Photos and masks from disk, whatever camera or tool wrote them, and the only preprocessing. NumPy and OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.headers import decode_hints, foreign_format, is_truncated, size_in_header
from edge_ad.data.words import passed_over
from edge_ad.errors import DataError

Frame = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# What OpenCV decodes on every platform the runtime supports (GIF and AVIF only with newer versions).
SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".gif", ".avif",
))  # fmt: skip
MAX_PIXELS = 1 << 28  # 268 million: beyond it a small file could fill the memory
TURNS_WEBP = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)  # 4.12 ignores EXIF in WebP
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # unlike IMREAD_UNCHANGED, this one obeys EXIF

if "OPENCV_LOG_LEVEL" not in os.environ:
    # What a decoder mutters about a broken file is said by DataError, with its name. The call moved within OpenCV 4.
    (cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2).setLogLevel(2)  # errors


class Listing(NamedTuple):
    """What lies in one folder. folders, files: names; passed_over: names of folders that are not gone into."""

    path: Path
    folders: list[str]
    files: list[str]
    passed_over: list[str]


def is_image(path: Path | str) -> bool:
    """Whether the name is that of an image; hidden files and macOS's `._` companions are not."""
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def images_below(folder: Path) -> list[Path]:
    """Images at any depth, sorted; none where there is no folder. Links are followed, but no folder is entered twice.

    Hidden folders, those that a NAS or system keeps for itself, and those inside that hold a detector or a run's
    verdicts are passed over: their pictures are no photos to train on. Raises OSError for a folder that
    can't be listed.
    """
    return sorted(one.path / name for one in listings_below(folder) for name in one.files if is_image(name))


def listings_below(folder: Path) -> Iterator[Listing]:
    """The folder and all below it, as `images_below` goes through them. Raises OSError as it does."""
    seen: set[str] = set()
    for top, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(top)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        skipped = sorted(name for name in folders if passed_over(name) or is_output(Path(top, name)))
        folders[:] = sorted(set(folders) - set(skipped))
        yield Listing(Path(top), list(folders), sorted(names), skipped)


def is_output(folder: Path) -> bool:
    """Whether the folder is what EdgeAD wrote: an artifact, or the verdicts of a run."""
    return (folder / "verdicts.sqlite").exists() or (
        (folder / "manifest.json").exists() and (folder / "model.onnx").exists()
    )


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def read_image(path: Path | str) -> Frame:
    """Frame [H, W, 3], RGB, upright.

    EXIF orientation is applied; gray is repeated into three channels; palettes and CMYK become RGB; alpha is
    dropped; 16 bits are scaled by 1/257 (always, never by the picture's own range: brightness must mean the
    same in every picture); floats must lie in 0..1; of an animation or a multi-page TIFF the first frame counts
    (OpenCV before 4.11 refuses animated WebP, GIF and AVIF).
    Raises DataError, naming the file, when it is missing, empty, cut short, undecodable or beyond MAX_PIXELS.
    """
    return to_frame(read_raw(path), path)


def read_raw(path: Path | str, *, alpha: bool = False) -> npt.NDArray[Any]:
    """The picture as stored, upright: [H, W] or [H, W, 3] BGR, at its own depth. Raises DataError as read_image.

    alpha: keep it where there is one, as a fourth channel; such a picture is not turned by its EXIF orientation.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise DataError(f"can't read {path}: {why}", "check the path and its rights") from error
    return _decode(data, path, alpha)


def decode_image(data: bytes, name: str) -> Frame:
    """Frame [H, W, 3], RGB, from the bytes of an image file; `name` is for messages. Raises as read_image."""
    return to_frame(_decode(data, name), name)


def preprocess(
    frame: Frame, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """One image [3, H, W] for the graph: antialiased bilinear resize in 8 bits, scaled to 0..1, normalised.

    frame: RGB. size: (H, W). mean, std: per channel, of values in 0..1. The same function serves training,
    calibration, evaluation and the line (edge_ad.kernels.preprocess).
    """
    from edge_ad import kernels  # noqa: PLC0415  (reading photos needs no kernels)

    return np.asarray(kernels.preprocess(frame, size, mean, std), np.float32)


def to_frame(image: npt.NDArray[Any], name: Path | str) -> Frame:
    """RGB [H, W, 3] uint8 from what OpenCV decoded: gray or BGR of any depth. name: for messages."""
    image = _to_8_bit(image, name)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB), np.uint8)


def shrink(frame: Frame, side: int) -> Frame:
    """The frame, its longest side at most `side` pixels."""
    scale = side / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_image(frame: npt.NDArray[np.uint8], suffix: str = ".png", quality: int = 90) -> bytes:
    """[H, W, 3] RGB or [H, W] gray as the bytes of a PNG or JPEG file. quality: 0..100, for JPEG."""
    picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.ndim == 3 else frame
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix.lower() in {".jpg", ".jpeg"} else []
    try:
        good, data = cv2.imencode(suffix, picture, options)
    except cv2.error:
        good = False
    if not good:
        raise DataError(f"can't encode a picture as '{suffix}'", "use .png or .jpg")
    return bytes(data.tobytes())


def write_image(path: Path | str, frame: npt.NDArray[np.uint8]) -> None:
    """Write [H, W, 3] RGB or [H, W] gray; the suffix names the format. Raises DataError when it can't."""
    path = Path(path)
    data = encode_image(frame, path.suffix or ".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DataError(
            f"can't write {path}: {error.strerror}", "free some disk space or choose another folder"
        ) from error


def _decode(data: bytes, name: Path | str, alpha: bool = False) -> npt.NDArray[Any]:
    if not data:
        raise DataError(f"{name} is empty (0 bytes)", "copy it again or delete it")
    size = size_in_header(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{name} is {size[0]}x{size[1]} (H x W), more than {MAX_PIXELS} pixels", "crop or scale it down first"
        )
    if is_truncated(data):  # some decoders fill the missing part with gray and say nothing
        raise DataError(f"{name} is cut short: its end is missing", "copy it again or delete it")
    hints = decode_hints(data)
    if hints.refuse:
        raise DataError(f"{name} holds {hints.refuse}, which is not read", "save it as PNG, or as an ordinary TIFF")
    if hints.webp_orientation > 1 and not TURNS_WEBP:
        raise DataError(
            f"{name} is to be turned (EXIF orientation {hints.webp_orientation}), which OpenCV {cv2.__version__} "
            "doesn't do in WebP",
            "pip install -U opencv-python-headless (4.13 or newer does), or save it as JPEG or PNG",
        )
    flags = cv2.IMREAD_COLOR if hints.in_colour else _AS_STORED
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if alpha or hints.premultiplied else flags
        )
        if image is None:  # some kinds of TIFF are only decoded to 8-bit colour
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"can't decode {name}: {error.err or error}", "open it elsewhere or delete it") from error
    if image is None or image.size == 0:
        what = foreign_format(data)
        hint = "save it as JPEG or PNG" if what else "copy it again, or save it as JPEG or PNG"
        raise DataError(
            f"can't decode {name}: {f'it is {what}' if what else 'damaged, or of a kind that is not read'}", hint
        )
    if hints.scale != 1:
        image = np.rint(np.minimum(image * hints.scale, np.iinfo(image.dtype).max)).astype(image.dtype)
    return np.asarray(image if alpha else _without_alpha(image, name, hints.premultiplied))


def _without_alpha(image: npt.NDArray[Any], name: Path | str, premultiplied: bool) -> npt.NDArray[Any]:
    if image.ndim < 3 or image.shape[2] < 4:
        return image
    if premultiplied and image[:, :, 3].min() < 255:
        raise DataError(f"{name} is a transparent TIFF, whose colours are not read", "save it without transparency")
    return image[:, :, :3]


def _to_8_bit(image: npt.NDArray[Any], name: Path | str) -> npt.NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return np.asarray(cv2.convertScaleAbs(image, alpha=1 / 257), np.uint8)
    if image.dtype.kind == "f" and np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1:
        return np.rint(image * 255).astype(np.uint8)
    raise DataError(
        f"{name} holds {image.dtype} values from {image.min()} to {image.max()}",
        "save it as 8 or 16 bits a channel, or as floats in 0..1",
    )
