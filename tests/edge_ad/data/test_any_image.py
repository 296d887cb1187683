"""Whatever a program holds a picture in, the frame is the one that the file's reader gives."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from edge_ad.data.any_image import frame_of
from edge_ad.data.images import encode_image, write_image
from edge_ad.errors import DataError


@pytest.fixture
def frame():
    """uint8 [24, 32, 3]: no channel, row or column is like another."""
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def kinds(frame, folder):
    """name -> (the frame in another form, options)."""
    import torch
    from PIL import Image

    write_image(folder / "frame.png", frame)
    alpha = np.dstack([frame, np.full(frame.shape[:2], 7, np.uint8)])
    tensor = torch.from_numpy(frame.copy())
    return {
        "path": (folder / "frame.png", {}),
        "str": (str(folder / "frame.png"), {}),
        "bytes": (encode_image(frame), {}),
        "memoryview": (memoryview(encode_image(frame)), {}),
        "pil": (Image.fromarray(frame), {}),
        "pil with alpha": (Image.fromarray(alpha), {}),
        "uint8": (frame, {}),
        "a view": (np.ascontiguousarray(frame[::-1])[::-1], {}),
        "uint16": (frame.astype(np.uint16) * 257, {}),
        "float64": (frame / 255, {}),
        "float32": ((frame / 255).astype(np.float32), {}),
        "alpha": (alpha, {}),
        "bgr": (frame[:, :, ::-1], {"bgr": True}),
        "bgr with alpha": (np.dstack([frame[:, :, ::-1], alpha[:, :, 3]]), {"bgr": True}),
        "tensor, channels last": (tensor, {}),
        "tensor, channels first": (tensor.permute(2, 0, 1), {}),
        "tensor of floats": (tensor.permute(2, 0, 1) / 255, {}),
        "tensor with a gradient": ((tensor / 255).requires_grad_(), {}),
        "tensor, bgr": (tensor.flip(2).permute(2, 0, 1), {"bgr": True}),
    }


NAMES = (
    "path", "str", "bytes", "memoryview", "pil", "pil with alpha", "uint8", "a view", "uint16", "float64", "float32",
    "alpha", "bgr", "bgr with alpha", "tensor, channels last", "tensor, channels first", "tensor of floats",
    "tensor with a gradient", "tensor, bgr",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_gives_the_same_frame(frame, tmp_path, name):
    picture, options = kinds(frame, tmp_path)[name]
    taken = frame_of(picture, **options)
    assert taken.dtype == np.uint8
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, frame)


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1)])
def test_gray_is_repeated(frame, shape):
    import torch
    from PIL import Image

    gray = frame[:, :, 0].reshape(shape)
    expected = np.repeat(frame[:, :, :1], 3, axis=2)
    for picture in (
        gray,
        torch.from_numpy(gray.copy()),
        gray.astype(np.uint16) * 257,
        Image.fromarray(frame[:, :, 0]),
    ):
        np.testing.assert_array_equal(frame_of(picture), expected)


def test_pil_images_of_16_bits_and_with_a_palette(frame):
    from PIL import Image

    deep = Image.fromarray(frame[:, :, 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(frame_of(deep)[:, :, 1], frame[:, :, 0])
    np.testing.assert_array_equal(frame_of(deep.convert("I"))[:, :, 1], frame[:, :, 0])
    few = Image.fromarray(frame // 128 * 255)
    palette = few.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    np.testing.assert_array_equal(frame_of(palette), np.asarray(palette.convert("RGB")))


def test_a_pil_image_is_turned_as_its_file_is(frame, tmp_path):
    from PIL import Image

    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(frame).save(stored, "JPEG", quality=95, exif=exif)
    (tmp_path / "turned.jpg").write_bytes(stored.getvalue())
    from_file = frame_of(tmp_path / "turned.jpg")
    from_pil = frame_of(Image.open(tmp_path / "turned.jpg"))
    assert from_file.shape == from_pil.shape == (32, 24, 3)
    assert np.abs(from_file.astype(int) - from_pil).max() <= 8  # two JPEG decoders


def test_bfloat16_tensors(frame):
    import torch

    taken = frame_of((torch.from_numpy(frame) / 255).to(torch.bfloat16))
    assert np.abs(taken.astype(int) - frame).max() <= 1


def bad_pictures():
    import torch

    return {
        "https://camera/frame.jpg": "is a URL",
        b"\x00" * 40_000: "(40000 bytes)",
        3.5: "a value of type float",
        None: "a value of type NoneType",
        frozenset([1]): "a value of type frozenset",
        ("array", (3, 24, 32), np.uint8): "has shape (3, 24, 32)",
        ("array", (2, 24, 32, 3), np.uint8): "has shape (2, 24, 32, 3)",
        ("array", (24, 32, 2), np.uint8): "has shape (24, 32, 2)",
        ("array", (0, 32, 3), np.uint8): "no pixels",
        ("array", (24, 32, 3), np.int64): "int64",
        ("array", (24, 32, 3), np.bool_): "bool",
        torch.zeros(3, 24, 3): "channels could be first or last",
        torch.zeros(2, 3, 24, 32): "has shape (2, 3, 24, 32)",
        torch.full((3, 24, 32), 200.0): "200",
        torch.full((3, 24, 32), float("nan")): "nan",
    }


@pytest.mark.parametrize("number", range(15))
def test_what_is_refused_is_refused_in_a_short_line(number):
    picture, words = list(bad_pictures().items())[number]
    if isinstance(picture, tuple):
        picture = np.zeros(picture[1], picture[2])
    with pytest.raises(DataError) as refused:
        frame_of(picture)
    assert words in refused.value.message
    assert len(refused.value.message) < 200
    assert refused.value.hint


def test_the_colour_order_of_a_file_is_not_doubted(tmp_path, frame):
    write_image(tmp_path / "a.png", frame)
    with pytest.raises(DataError, match="bgr=True"):
        frame_of(tmp_path / "a.png", bgr=True)
    assert cv2.imread(str(tmp_path / "a.png"))[0, 0].tolist() == frame[0, 0, ::-1].tolist()


def test_a_picture_given_as_text_is_not_repeated_in_the_message():
    with pytest.raises(DataError, match="a text of 130,000 characters") as caught:
        frame_of("x" * 130_000)
    assert len(str(caught.value)) < 200
