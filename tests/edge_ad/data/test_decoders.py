"""OpenCV held against what was written, and against Pillow: a picture is read rightly, or refused with its name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from edge_ad.data import images
from edge_ad.data.images import decode_image
from edge_ad.errors import DataError

tifffile = pytest.importorskip("tifffile", reason="comes with scikit-image, which training needs")

HEIGHT, WIDTH = 40, 60
RAMP = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
RGB = np.stack([RAMP, 255 - RAMP, np.roll(RAMP, 7, 1)], 2)
RGB[:10, :10] = (200, 30, 60)
RAMP = RGB[:, :, 0].copy()
DEEP = RGB.astype(np.uint16) * np.uint16(257)
BITS = RAMP > 100
PHOTO = Image.fromarray(RGB)
GRAY = Image.fromarray(RAMP)


def three(plane):
    return np.repeat(np.asarray(plane)[:, :, None], 3, 2)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def pil(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def with_alpha(picture, alpha):
    return np.dstack([picture, np.full((HEIGHT, WIDTH), alpha, picture.dtype)])


def planar(picture):
    return np.moveaxis(picture, 2, 0)


def png(samples, kind, bits=16):
    """A PNG of big-endian samples [H, W, channels], of a colour type that Pillow doesn't write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(bits, samples, header=40, compression=0, height=HEIGHT, masks=b""):
    """A BMP of rows as given, each filled up to four bytes."""
    rows = b"".join(row.tobytes() + b"\0" * (-row.nbytes % 4) for row in samples)
    about = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(rows), 2835, 2835, 0, 0)
    about += masks + b"\0" * max(0, header - 40 - len(masks))
    start = 14 + len(about)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + about + rows


def packed_tiff(bits, photometric):
    """A gray TIFF of samples of any number of bits, one after the other."""
    rows = b""
    for row in DEEP[:, :, 0] >> np.uint16(16 - bits):
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += int(text, 2).to_bytes(len(text) // 8, "big")
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, HEIGHT)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(rows))])
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", 9) + entries + b"\0" * 4


BGR = RGB[:, :, ::-1]
WIDE = np.dstack([BGR, np.zeros_like(RAMP)])
PALETTE = PHOTO.quantize(16)
COLOURS = np.asarray(PALETTE.convert("RGB"))
WHITE_ON_BLACK = BITS.astype(np.uint8) * np.uint8(255)
NATURAL = {f"TIFF {name}": case for name, case in {
    "planar": (tiff(planar(RGB), photometric="rgb", planarconfig="separate"), RGB),
    "planar deflate": (tiff(planar(RGB), photometric="rgb", planarconfig="separate", compression="deflate"), RGB),
    "16 bits": (tiff(DEEP, photometric="rgb"), RGB),
    "16 bits planar": (tiff(planar(DEEP), photometric="rgb", planarconfig="separate"), RGB),
    "16 bits planar big": (tiff(planar(DEEP), photometric="rgb", planarconfig="separate", bigtiff=True), RGB),
    "16 bits planar MM": (tiff(planar(DEEP), photometric="rgb", planarconfig="separate", byteorder=">"), RGB),
    "16 bits gray": (tiff(DEEP[:, :, 0], photometric="minisblack"), three(RAMP)),
    "16 bits MinIsWhite": (tiff(65535 - DEEP[:, :, 0], photometric="miniswhite"), three(RAMP)),
    "16 bits MinIsWhite deflate": (
        tiff(65535 - DEEP[:, :, 0], photometric="miniswhite", compression="deflate", predictor=True), three(RAMP)),
    "MinIsWhite": (tiff(255 - RAMP, photometric="miniswhite"), three(RAMP)),
    "1 bit": (tiff(BITS, photometric="minisblack"), three(WHITE_ON_BLACK)),
    "1 bit MinIsWhite": (tiff(~BITS, photometric="miniswhite"), three(WHITE_ON_BLACK)),
    "fax": (pil(Image.fromarray(BITS), "TIFF", compression="group4"), three(WHITE_ON_BLACK)),
    "tiled": (tiff(RGB, photometric="rgb", tile=(16, 16), compression="deflate"), RGB),
    "16 bits tiled": (tiff(DEEP, photometric="rgb", tile=(16, 16)), RGB),
    "predictor": (tiff(DEEP, photometric="rgb", compression="deflate", predictor=True), RGB),
    "big": (tiff(RGB, photometric="rgb", bigtiff=True), RGB),
    "MM": (tiff(DEEP, photometric="rgb", byteorder=">"), RGB),
    "opaque": (tiff(with_alpha(RGB, 255), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "16 bits with alpha": (tiff(with_alpha(DEEP, 9), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "gray and alpha": (tiff(np.dstack([RAMP, RAMP]), photometric="minisblack", extrasamples=["unassalpha"],
                            planarconfig="contig"), three(RAMP)),
    "16 bits gray and alpha": (tiff(np.dstack([DEEP[:, :, 0]] * 2), photometric="minisblack",
                                    extrasamples=["unassalpha"], planarconfig="contig"), three(RAMP)),
    "floats": (tiff(RGB.astype(np.float32) / 255, photometric="rgb"), RGB),
    "doubles": (tiff(RAMP / 255.0, photometric="minisblack"), three(RAMP)),
    "pages": (tiff(np.stack([RGB, 255 - RGB]), photometric="rgb"), RGB),
    "LZW": (pil(PHOTO, "TIFF", compression="tiff_lzw"), RGB),
    "LZW palette": (pil(PALETTE, "TIFF", compression="tiff_lzw"), COLOURS),
    "CMYK": (pil(PHOTO.convert("CMYK"), "TIFF"), RGB),
    "JPEG": (pil(PHOTO, "TIFF", compression="jpeg", quality=100), RGB),
    "12 bits": (packed_tiff(12, 1), three(RAMP)),
}.items()} | {f"PNG {name}": case for name, case in {
    "palette, transparent": (pil(PALETTE, "PNG", transparency=3), COLOURS),
    "palette, half transparent": (pil(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))), COLOURS),
    "palette of 2 bits": (pil(PHOTO.quantize(4), "PNG", bits=2), np.asarray(PHOTO.quantize(4).convert("RGB"))),
    "gray, one transparent": (pil(GRAY, "PNG", transparency=7), three(RAMP)),
    "RGB, one transparent": (pil(PHOTO, "PNG", transparency=(200, 30, 60)), RGB),
    "gray and alpha": (pil(Image.merge("LA", [GRAY, GRAY]), "PNG"), three(RAMP)),
    "16 bits gray and alpha": (png(np.dstack([DEEP[:, :, 0], DEEP[:, :, 1]]), 4), three(RAMP)),
    "16 bits": (png(DEEP, 2), RGB),
    "16 bits and alpha": (png(with_alpha(DEEP, 999), 6), RGB),
    "1 bit": (pil(Image.fromarray(BITS), "PNG"), three(WHITE_ON_BLACK)),
}.items()} | {f"BMP {name}": case for name, case in {
    "palette": (pil(PALETTE, "BMP"), COLOURS),
    "1 bit": (pil(Image.fromarray(BITS), "BMP"), three(WHITE_ON_BLACK)),
    "top down": (bmp(24, BGR, height=-HEIGHT), RGB),
    "V4": (bmp(24, BGR[::-1], header=108), RGB),
    "V5": (bmp(24, BGR[::-1], header=124), RGB),
    "32 bits": (bmp(32, WIDE[::-1]), RGB),
    "32 bits, masks as usual": (
        bmp(32, WIDE[::-1], compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)), RGB),
    "32 bits, V4 with masks": (
        bmp(32, with_alpha(RGB, 9)[::-1], 108, 3, masks=struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)), RGB),
}.items()} | {
    "CMYK JPEG": (pil(PHOTO.convert("CMYK"), "JPEG", quality=100, subsampling=0), RGB),
    "RGB JPEG": (pil(PHOTO, "JPEG", quality=100, keep_rgb=True), RGB),
    "progressive JPEG": (pil(PHOTO, "JPEG", quality=100, subsampling=0, progressive=True), RGB),
    "gray JPEG": (pil(GRAY, "JPEG", quality=100), three(RAMP)),
    "WebP with alpha": (pil(Image.fromarray(with_alpha(RGB, 9)), "WEBP", lossless=True, exact=True), RGB),
    "JPEG 2000": (pil(PHOTO, "JPEG2000", irreversible=False), RGB),
    "JPEG 2000 with alpha": (pil(Image.fromarray(with_alpha(RGB, 9)), "JPEG2000", irreversible=False), RGB),
    "PGM of 10 bits": (b"P5 60 40 1023\n" + (DEEP[:, :, 0] >> 6).astype(">u2").tobytes(), three(RAMP)),
    "PGM of 16 bits": (b"P5\n# a camera's\n60 40\n65535\n" + DEEP[:, :, 0].astype(">u2").tobytes(), three(RAMP)),
    "PGM up to 51": (b"P5 60 40 51\n" + (RAMP // 5).tobytes(), three(RAMP // 5 * 5)),
    "PPM of 12 bits": (b"P6 60 40 4095\n" + (DEEP >> 4).astype(">u2").tobytes(), RGB),
}  # fmt: skip


@pytest.mark.parametrize("name", NATURAL)
def test_read_rightly(name):
    data, expected = NATURAL[name]
    frame = decode_image(data, name).astype(int)
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).max() <= (8 if "JPEG" in name else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turned_as_pillow_turns_it(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = pil(PHOTO, kind, exif=exif, **options)
    if kind == "WEBP" and orientation > 1 and not images.TURNS_WEBP:
        with pytest.raises(DataError, match="turned is to be turned"):
            decode_image(data, "turned")
        return
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    frame = decode_image(data, "turned").astype(int)
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_webp_to_be_turned_is_refused_where_opencv_ignores_it(orientation, monkeypatch):
    monkeypatch.setattr(images, "TURNS_WEBP", False)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pil(PHOTO, "WEBP", exif=exif, lossless=True)
    if orientation == 1:
        assert decode_image(data, "upright").shape == RGB.shape
    else:
        with pytest.raises(DataError, match=f"EXIF orientation {orientation}"):
            decode_image(data, "turned")


REFUSED = {
    "TIFF, transparent": tiff(with_alpha(RGB, 9), photometric="rgb", extrasamples=["unassalpha"]),
    "TIFF of floats, MinIsWhite": tiff(RAMP.astype(np.float32) / 255, photometric="miniswhite"),
    "TIFF, tiled and planar": tiff(planar(DEEP), photometric="rgb", planarconfig="separate", tile=(16, 16)),
    "TIFF of half floats": tiff(RAMP.astype(np.float16) / 255, photometric="minisblack"),
    "TIFF of signed bytes": tiff((RAMP // 2).astype(np.int8), photometric="minisblack"),
    "TIFF of 32 bits": tiff(DEEP[:, :, 0].astype(np.uint32) * 65537, photometric="minisblack"),
    "TIFF of five channels": tiff(
        np.dstack([RGB, RGB[:, :, :2]]), photometric="rgb", extrasamples=["unspecified"] * 2
    ),
    "TIFF of 12 bits, MinIsWhite": packed_tiff(12, 0),
    "BMP of 16 bits": bmp(16, DEEP[:, :, 0]),
    "BMP, masks in another order": bmp(
        32, with_alpha(RGB, 9)[::-1], compression=3, masks=struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    with pytest.raises(DataError, match=name):
        decode_image(REFUSED[name], name)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "GIF", "WEBP", "PPM"])
def test_any_damage_ends_in_a_picture_or_a_named_refusal(kind):
    rng = np.random.default_rng(0)
    data = pil(PHOTO, kind)
    for _ in range(60):
        broken = bytearray(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.3 else data)
        for at in rng.integers(0, len(broken), rng.integers(1, 6)):
            broken[at] = rng.integers(256)
        try:
            frame = decode_image(bytes(broken), "broken picture")
        except DataError as error:
            assert "broken picture" in error.message  # noqa: PT017  (most are refused, some are read)
        else:
            assert frame.dtype == np.uint8
            assert frame.shape[2] == 3
