"""Every kind of image file that cameras and tools write, made here by Pillow, read by us."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_ad.data import images
from edge_ad.errors import DataError

RGB = np.zeros((20, 30, 3), np.uint8)
RGB[:, :15] = (200, 50, 10)
RGB[:, 15:] = (10, 50, 200)
RGB[:10] //= 2
PICTURE = Image.fromarray(RGB)


def saved(tmp_path, name, picture=PICTURE, **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "ä ö.png", "a.ppm"])
def test_lossless_formats(tmp_path, name):
    frame = images.read_image(saved(tmp_path, name))
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, RGB)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_orientation_is_applied(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    frame = images.read_image(saved(tmp_path, name, exif=exif))
    assert frame.shape == (30, 20, 3)
    corners = np.ix_([2, -3], [2, -3])
    np.testing.assert_allclose(frame[corners], np.rot90(RGB, -1)[corners], atol=12 if name == "a.jpg" else 0)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tif", "CMYK"), ("a.jpg", "CMYK"), ("a.png", "P"), ("a.bmp", "P"), ("a.png", "RGBA")]
)
def test_colour_modes(tmp_path, name, mode):
    picture = PICTURE.quantize(8) if mode == "P" else PICTURE.convert(mode)
    frame = images.read_image(saved(tmp_path, name, picture, **({"quality": 95} if name == "a.jpg" else {})))
    np.testing.assert_allclose(frame[[2, 2, -3, -3], [2, -3, 2, -3]], RGB[[2, 2, -3, -3], [2, -3, 2, -3]], atol=3)


def test_alpha_is_dropped_whatever_it_is(tmp_path):
    picture = PICTURE.copy()
    picture.putalpha(7)
    np.testing.assert_array_equal(images.read_image(saved(tmp_path, "a.png", picture)), RGB)


def test_gray_and_one_bit(tmp_path):
    gray = images.read_image(saved(tmp_path, "a.png", Image.fromarray(RGB[:, :, 0])))
    np.testing.assert_array_equal(gray, np.repeat(RGB[:, :, :1], 3, 2))
    bits = images.read_image(saved(tmp_path, "b.png", Image.fromarray(RGB[:, :, 0] > 60)))
    np.testing.assert_array_equal(bits[:, :, 1], (RGB[:, :, 0] > 60) * np.uint8(255))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_16_bits_are_scaled_by_257(tmp_path, name, colour):
    deep = np.linspace(0, 65535, 20 * 30 * 3).reshape(20, 30, 3).astype(np.uint16)
    deep = deep if colour else deep[:, :, 0]
    assert cv2.imwrite(str(tmp_path / name), deep)
    frame = images.read_image(tmp_path / name)
    expected = np.rint(deep[:, :, ::-1] / 257) if colour else np.repeat(np.rint(deep / 257)[:, :, None], 3, 2)
    np.testing.assert_allclose(frame, expected, atol=0)


def test_floats_in_range_and_out_of_it(tmp_path):
    plane = RGB[:, :, 0].astype(np.float32) / 255
    np.testing.assert_array_equal(
        images.read_image(saved(tmp_path, "a.tif", Image.fromarray(plane)))[:, :, 2], RGB[:, :, 0]
    )
    with pytest.raises(DataError, match="float32 values from"):
        images.read_image(saved(tmp_path, "b.tif", Image.fromarray(plane * 1000)))


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
def test_first_frame_of_many(tmp_path, name):
    if name == "a.webp" and tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11):
        pytest.skip("this OpenCV refuses animated WebP")
    more = [Image.fromarray(np.roll(RGB, 5, 1))]
    options = {"lossless": True} if name == "a.webp" else {}
    frame = images.read_image(saved(tmp_path, name, save_all=True, append_images=more, **options))
    np.testing.assert_array_equal(frame, RGB)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "p.jpg"])
def test_cut_short(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    path = saved(tmp_path, name, Image.fromarray(noise), **({"progressive": True} if name == "p.jpg" else {}))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=f"{name}.*cut short"):
        images.read_image(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_what_follows_the_end_of_a_picture_does_not_matter(tmp_path, name, options):
    """A phone's motion photo has a film behind its JPEG, in which any mark may occur."""
    path = saved(tmp_path, name, **(options if name == "a.jpg" else {}))
    whole = images.read_image(path)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xd8\xff\xda\0\x08" * 50 + bytes(range(256)) * 8
    path.write_bytes(path.read_bytes() + film)
    np.testing.assert_array_equal(images.read_image(path), whole)


def test_a_cut_picture_is_cut_although_its_preview_is_whole(tmp_path):
    preview = saved(tmp_path, "preview.jpg").read_bytes()
    data = saved(tmp_path, "a.jpg").read_bytes()
    held = data[:2] + b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview + data[2:]
    (tmp_path / "a.jpg").write_bytes(held)
    assert images.read_image(tmp_path / "a.jpg").shape == (20, 30, 3)
    (tmp_path / "a.jpg").write_bytes(held[:-40])
    with pytest.raises(DataError, match="cut short"):
        images.read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\0\0\x24ftypheic" + bytes(40), "a HEIC picture"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a film"),
        (b"\xef\xbb\xbf <!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    ],
)
def test_a_file_that_is_something_else_is_called_what_it_is(data, what):
    with pytest.raises(DataError, match=f"can't decode part.jpg: it is {what}"):
        images.decode_image(data, "part.jpg")


def test_broken_files_are_named(tmp_path):
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"zero\.jpg is empty"):
        images.read_image(tmp_path / "zero.jpg")
    with pytest.raises(DataError, match=r"can't decode .*text\.png"):
        images.read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match="No such file"):
        images.read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="can't read"):
        images.read_image(tmp_path)


def test_huge_is_refused_before_it_takes_memory(tmp_path):
    path = saved(tmp_path, "huge.png", Image.new("1", (20000, 20000)))
    with pytest.raises(DataError, match="20000x20000"):
        images.read_image(path)
    jpeg = saved(tmp_path, "huge.jpg")
    data = bytearray(jpeg.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    jpeg.write_bytes(data)
    with pytest.raises(DataError, match="65535x65535"):
        images.read_image(jpeg)
