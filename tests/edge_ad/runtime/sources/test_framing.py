import time

import cv2
import numpy as np
import pytest

from edge_ad.runtime.sources.framing import ImageFramer, MultipartFramer, Piece


def encoded(suffix, seed=0, size=(16, 24), **flags):
    frame = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    settings = [value for pair in flags.values() for value in pair]
    return cv2.imencode(suffix, frame, settings)[1].tobytes()


JPEG = [encoded(".jpg", n, quality=(cv2.IMWRITE_JPEG_QUALITY, 60)) for n in range(3)]
PNG = [encoded(".png", n, (8, 8)) for n in range(3)]
PROGRESSIVE = [encoded(".jpg", n, progressive=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) for n in range(3)]


def with_thumbnail(picture, thumbnail, first=b"\xff\xe1"):
    """The picture with an Exif segment that says where its thumbnail is."""
    directory = b"II*\0\x08\0\0\0" + b"\0\0" + (14).to_bytes(4, "little")  # an empty first directory, then the second
    entry = (0x0201).to_bytes(2, "little") + b"\4\0\1\0\0\0" + (32).to_bytes(4, "little")
    tiff = directory + b"\1\0" + entry + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff + thumbnail
    assert len(tiff) == 32
    return picture[:2] + first + (len(body) + 2).to_bytes(2, "big") + body + picture[2:]


def cuts(picture, first):
    """Lengths of a cut picture: all in its first and last bytes, every fifth between."""
    return [n for n in range(first, len(picture) - 1) if n < 80 or n % 5 == 0 or n > len(picture) - 30]


def framed(framer, stream, step=0):
    pieces = []
    for at in range(0, len(stream), step or len(stream)):
        framer.feed(stream[at : at + (step or len(stream))])
        while piece := framer.next():
            pieces.append(piece)
    if isinstance(framer, ImageFramer):
        framer.finish()
        while piece := framer.next():
            pieces.append(piece)
    return pieces


@pytest.mark.parametrize("step", [0, 1, 7, 777])
@pytest.mark.parametrize("between", [b"", b"\0", b"\xff", b"\r\n--frame\r\n", bytes(500)])
def test_whole_pictures_come_out_as_they_went_in(step, between):
    pictures = [*JPEG, *PNG, *PROGRESSIVE, with_thumbnail(JPEG[0], JPEG[1]), with_thumbnail(JPEG[0], PNG[1])]
    stream = between + between.join(pictures) + between
    assert framed(ImageFramer(), stream, step) == [Piece(picture, True) for picture in pictures]


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "jpeg in png", "png in jpeg", "thumbnail"])
def test_a_picture_cut_anywhere_is_one_cut_piece_and_swallows_no_neighbour(kind):
    first, middle, last = {
        "jpeg": JPEG,
        "progressive": PROGRESSIVE,
        "png": PNG,
        "jpeg in png": (PNG[0], JPEG[1], PNG[2]),
        "png in jpeg": (JPEG[0], PNG[1], JPEG[2]),
        "thumbnail": (JPEG[0], with_thumbnail(JPEG[1], JPEG[2]), JPEG[0]),
    }[kind]
    for cut in cuts(middle, 8):
        for broken in (1, 2):
            if (kind, cut, broken) == ("thumbnail", 44, 2):
                continue  # the next picture begins where the thumbnail should, and is cut off like one
            found = framed(ImageFramer(), first + broken * middle[:cut] + last)
            assert [piece.whole for piece in found] == [True, *[False] * broken, True], f"cut at {cut}"
            assert (found[0].data, found[-1].data) == (first, last), f"cut at {cut}"


@pytest.mark.parametrize("pictures", [JPEG, PNG, PROGRESSIVE])
def test_a_picture_cut_at_the_end_of_the_stream_is_reported(pictures):
    for cut in cuts(pictures[1], 8):
        found = framed(ImageFramer(), pictures[0] + pictures[1][:cut])
        assert [piece.whole for piece in found] == [True, False], f"cut at {cut}"


def test_a_picture_cut_in_the_middle_of_a_marker_ends_there():
    half = JPEG[1][:-1]
    assert framed(ImageFramer(), half + PNG[0]) == [Piece(half, False), Piece(PNG[0], True)]


@pytest.mark.parametrize("more", [b"", bytes(70_000) + JPEG[0]])
def test_a_picture_cut_before_a_table_that_looks_like_markers_swallows_no_neighbour(more):
    """The quantisation tables of strongly compressed pictures are full of 255: the walk lands in one, on a marker."""
    coarse = encoded(".jpg", 4, quality=(cv2.IMWRITE_JPEG_QUALITY, 4))
    for cut in range(21, 90):
        found = framed(ImageFramer(), coarse[:cut] + coarse + more)
        assert found[:2] == [Piece(coarse[:cut], False), Piece(coarse, True)], f"cut at {cut}"
        assert len(found) == (3 if more else 2)


def test_a_preview_in_several_segments_is_no_picture():
    """Thermal cameras store one of more than 64 KiB inside the picture, a segment header every 64 KiB."""
    preview = encoded(".jpg", 5, (200, 240), quality=(cv2.IMWRITE_JPEG_QUALITY, 98))
    assert len(preview) > 65000
    parts = [preview[:50000], preview[50000:]]
    segments = b"".join(b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part for part in parts)
    picture = JPEG[0][:2] + segments + JPEG[0][2:]
    assert framed(ImageFramer(), picture + JPEG[1], 4096) == [Piece(picture, True), Piece(JPEG[1], True)]


def test_a_picture_is_handed_on_with_its_last_byte():
    for picture in (JPEG[0], PNG[0]):
        for framer in (ImageFramer(), MultipartFramer("frame")):
            framer.feed(b"--frame\r\n\r\n" + picture[:-1])
            assert framer.next() is None
            framer.feed(picture[-1:])
            assert framer.next() == Piece(picture, True)


@pytest.mark.parametrize("name", ["png", "jpeg", "no picture"])
def test_large_input_takes_linear_time(name):
    """Four times the input takes four times the work; going back to the beginning for every piece, sixteen times."""
    suffix = {"png": ".png", "jpeg": ".jpg", "no picture": ".bmp"}[name]

    def seconds(rows):
        frame = np.random.default_rng(0).integers(0, 255, (rows, 1000, 3), np.uint8)
        stream = cv2.imencode(suffix, frame, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
        stream = _one_chunk(stream) if name == "png" else stream
        times = []
        for _ in range(3):
            begun = time.process_time()
            framed(ImageFramer(), stream, 1 << 13)
            times.append(time.process_time() - begun)
        return min(times)

    assert seconds(2000) < 9 * seconds(500) + 0.05


def _one_chunk(png):
    """The same PNG with all of its coded data in one chunk: nothing ends before its last byte."""
    import zlib

    at, data = 8, b""
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    body = b"IDAT" + data
    chunk = len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:33] + chunk + png[-12:]


HEAD = b"Content-Type: image/jpeg\r\n"
STYLES = {
    "usual": lambda p: b"--frame\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(p) + p + b"\r\n",
    "no length": lambda p: b"--frame\r\n" + HEAD + b"\r\n" + p + b"\r\n",
    "LF only": lambda p: b"--frame\n" + HEAD.replace(b"\r", b"") + b"\n" + p + b"\n",
    "no line end before the boundary": lambda p: b"--frame\r\n" + HEAD + b"\r\n" + p,
    "boundary behind the picture": lambda p: HEAD + b"\r\n" + p + b"\r\n--frame\r\n",
    "length too small": lambda p: b"--frame\r\n" + HEAD + b"Content-Length: 9\r\n\r\n" + p + b"\r\n",
    "length too large": lambda p: b"--frame\r\n" + HEAD + b"Content-Length: 99999\r\n\r\n" + p + b"\r\n",
    "no headers": lambda p: b"--frame\r\n\r\n" + p + b"\r\n",
    "signs of life": lambda p: b"\r\n\r\n--frame\r\n\r\n--frame\r\n" + HEAD + b"\r\n" + p + b"\r\n",
}


@pytest.mark.parametrize("boundary", ["frame", '"--frame"', "--frame", ""])
@pytest.mark.parametrize("style", STYLES)
def test_multipart_in_every_dialect(style, boundary):
    pictures = [*JPEG, *PNG]
    stream = b"".join(map(STYLES[style], pictures))
    for step in (0, 1, 61):
        assert framed(MultipartFramer(boundary), stream, step) == [Piece(picture, True) for picture in pictures]


@pytest.mark.parametrize("style", [style for style in STYLES if style != "boundary behind the picture"])
@pytest.mark.parametrize("pictures", [JPEG, PNG])
def test_a_cut_part_is_one_piece_and_swallows_no_neighbour(style, pictures):
    for cut in cuts(pictures[1], 0):
        stream = b"".join(map(STYLES[style], (pictures[0], pictures[1][:cut], pictures[1][:cut], pictures[2])))
        found = framed(MultipartFramer("frame"), stream + b"--frame\r\n")
        if cut or HEAD in STYLES[style](b""):  # an empty part without headers is a sign of life
            assert [piece.whole for piece in found] == [True, False, False, True], f"cut at {cut}"
        assert (found[0].data, found[-1].data) == (pictures[0], pictures[2]), f"cut at {cut}"


def test_a_part_that_is_no_picture_is_reported():
    found = framed(MultipartFramer("frame"), STYLES["usual"](b"<html>busy</html>") + STYLES["usual"](JPEG[0]))
    assert found == [Piece(b"<html>busy</html>", False), Piece(JPEG[0], True)]
