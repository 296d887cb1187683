"""What image files say about themselves before they are decoded: their kind, their size, and whether all is there."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 256, 257, 258, 262, 277, 284, 338, 339
_ORIENTATION, _TILE_WIDTH = 274, 322
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # markers between SOF0 and SOF15 that carry no size
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # FF 00 and the restart marks are inside of a scan
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC picture"),
    b"crx ": "a raw file of a camera",
}
_STRANGERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"),
    (b"%pdf", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML text"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"II\xbc\x01", "a JPEG XR picture"),
)


def size_in_header(data: bytes) -> tuple[int, int] | None:
    """(H, W) as stored, before EXIF rotation; None for other formats than PNG, JPEG, BMP, GIF and TIFF."""
    try:
        if data.startswith(_PNG):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(_JPEG):
            return _jpeg_size(data)
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack("<HH", data[6:10])
        elif data[:4] in _TIFF:
            return _tiff_size(data)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return abs(height), abs(width)


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark.

    What follows the mark doesn't matter: phones append a film there (motion photos), cameras a preview.
    """
    if data.startswith(_JPEG):
        return _jpeg_end(data) is None
    if data.startswith(_PNG):
        return not _has_png_end(data)
    return False


class DecodeHints(NamedTuple):
    """What the decoder needs to be told, or gets wrong.

    in_colour: it must decode to 8-bit colour. scale: of the values it gives. premultiplied: its colours are
    multiplied by alpha. webp_orientation: of the EXIF in a WebP file, 1..8. refuse: what the file holds that can't
    be decoded rightly.
    """

    in_colour: bool = False
    scale: float = 1.0
    premultiplied: bool = False
    webp_orientation: int = 1
    refuse: str = ""


def decode_hints(data: bytes) -> DecodeHints:
    """What must be minded in decoding the file with OpenCV, which is silent about what it doesn't understand."""
    try:
        if data[:4] in _TIFF:
            return _tiff_hints(data)
        if data.startswith(b"BM"):
            return _bmp_hints(data)
        if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
            return _pnm_hints(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return DecodeHints(webp_orientation=_webp_orientation(data))
    except struct.error:
        pass
    return DecodeHints()


def foreign_format(data: bytes) -> str:
    """What a file is that isn't read as a picture, such as "a HEIC picture"; empty where it can't be told."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return _BRANDS.get(brand, "" if brand in (b"avif", b"avis") else "a film (MP4 or its like)")
    text = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for start, name in _STRANGERS if data.startswith(start) or text.startswith(start)), "")


def _jpeg_end(data: bytes) -> int | None:
    """Where the first picture of a JPEG file ends, after its end mark; None where there is none."""
    at = 2
    while (mark := _MARKER.search(data, at)) is not None:
        at, marker = mark.end(), data[mark.end() - 1]
        if marker == 0xD9:
            return at
        if marker in (0x01, 0xD8) or at + 2 > len(data):
            continue
        at += int(struct.unpack(">H", data[at : at + 2])[0])  # after a scan's header, the search passes over its data
    return None


def _has_png_end(data: bytes) -> bool:
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IEND":
            return True
        at += 12 + int(length)
    return False


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no payload
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return None


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of each tag of the first picture of a TIFF, classic or BigTIFF, as far as it is a whole number."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    pointer, count, entry, inline = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    (start,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, start)
    tags = {}
    for i in range(entries):
        at = start + struct.calcsize(count) + entry * i
        tag, kind = struct.unpack_from(order + "HH", data, at)
        (length,) = struct.unpack_from(order + pointer, data, at + 4)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is None:
            continue
        inside = length * struct.calcsize(code) <= (8 if big else 4)
        place = at + inline if inside else int(struct.unpack_from(order + pointer, data, at + inline)[0])
        tags[tag] = int(struct.unpack_from(order + code, data, place)[0])
    return tags


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    tags = _tiff_tags(data)
    return (tags[_LENGTH], tags[_WIDTH]) if {_LENGTH, _WIDTH} <= tags.keys() else None


def _tiff_hints(data: bytes) -> DecodeHints:
    tags = _tiff_tags(data)
    bits, samples, format_ = (tags.get(tag, 1) for tag in (_BITS, _SAMPLES, _FORMAT))
    inverted = tags.get(_PHOTOMETRIC) == 0  # MinIsWhite
    if format_ == 3 and inverted:
        return DecodeHints(refuse="floats with white as zero")
    if _TILE_WIDTH in tags and samples > 1 and tags.get(_PLANAR) == 2:  # OpenCV 4.9 mixes the planes up
        return DecodeHints(refuse="colours apart from each other, in tiles")
    if bits > 8 and (inverted or (samples > 1 and tags.get(_PLANAR) == 2)):
        return DecodeHints(in_colour=True)  # the raw planes come out inverted, or cut into stripes of one colour
    return DecodeHints(premultiplied=bits == 8 and samples == 4 and tags.get(_EXTRA) == 2)


def _webp_orientation(data: bytes) -> int:
    """1..8, as in the file's EXIF chunk; 1 where there is none."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
            found = _tiff_tags(exif).get(_ORIENTATION, 1)
            return found if 1 <= found <= 8 else 1
        at += 8 + length + length % 2
    return 1


def _bmp_hints(data: bytes) -> DecodeHints:
    bits, compression = struct.unpack_from("<HI", data, 28)
    if bits == 16:
        return DecodeHints(refuse="5 or 6 bits a channel")
    order = struct.unpack_from("<3I", data, 54) if compression in (3, 6) else ()
    if order not in ((), (0xFF0000, 0xFF00, 0xFF)) and struct.unpack_from("<I", data, 14)[0] < 56:
        return DecodeHints(refuse="channels in an order of its own")
    return DecodeHints()


def _pnm_hints(data: bytes) -> DecodeHints:
    fields = re.match(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)", data[:4096])
    top = int(fields[1]) if fields else 255
    full = 255 if top < 256 else 65535
    return DecodeHints(scale=full / top if top else 1.0)
