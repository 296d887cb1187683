"""What image files say about themselves before they are decoded: their size, and whether their end is there."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # markers between SOF0 and SOF15 that carry no size


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
        elif data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return abs(height), abs(width)


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark; bytes after the mark don't matter."""
    if data.startswith(_JPEG):
        # Entropy-coded data hold no FF D9, so the last scan is whole when an end mark comes after its start.
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if data.startswith(_PNG):
        return b"IEND" not in data
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


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (entries,) = struct.unpack(order + "H", data[start : start + 2])
    found = {}
    for i in range(entries):
        at = start + 2 + 12 * i
        tag, kind = struct.unpack(order + "HH", data[at : at + 4])
        if tag in (256, 257):  # ImageWidth, ImageLength
            found[tag] = struct.unpack(
                order + ("H" if kind == 3 else "I"), data[at + 8 : at + (10 if kind == 3 else 12)]
            )[0]
    return (found[257], found[256]) if len(found) == 2 else None
