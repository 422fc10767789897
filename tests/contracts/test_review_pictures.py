"""Pictures of rows: arrays, files, patterns and URLs; what is refused; how large a thumbnail may be."""

import base64
import io
import os
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
import zarr
from PIL import Image

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.results.report import as_bytes, open_pictures

RED, BLUE = (200, 30, 20), (10, 20, 220)


def decoded(url):
    """Return the pixels of a picture in a data URL, and hold its media type against its bytes."""
    image = Image.open(io.BytesIO(bytes_of(url)))
    assert url.startswith(f"data:image/{image.format.lower()};base64,")
    return np.asarray(image)


def bytes_of(url):
    return base64.b64decode(url.partition(",")[2], validate=True)


def saved(path, image, **options):
    image.save(path, **options)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Three files whose natural order is not that of their letters."""
    for number, color in ((1, RED), (2, BLUE), (10, (0, 255, 0))):
        Image.new("RGB", (6, 4), color).save(tmp_path / f"p-{number}.png")
    return tmp_path


# Arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("kind", ["memory", "npy", "zarr"])
def test_arrays_are_read_row_by_row(tmp_path, channels, kind):
    given = images = np.random.default_rng(0).integers(0, 256, (5, 9, 7, *channels), np.uint8)
    if kind == "npy":
        given = tmp_path / "i.npy"
        np.save(given, images)
    elif kind == "zarr":
        given = str(tmp_path / "i.zarr")
        zarr.create_array(given, shape=images.shape, dtype="u1", chunks=(2, *images.shape[1:]))[:] = images
    pictures = open_pictures(given, 5)
    for row in (0, 3, 4):
        want = images[row][..., 0] if channels == (1,) else images[row]
        if channels == (4,):  # on white
            alpha = want[..., 3:] / 255
            want = want[..., :3] * alpha + 255 * (1 - alpha)
        found = decoded(pictures.data_url(row)).astype(float)
        assert np.abs(found - want).max() <= (1 if channels == (4,) else 0)


def test_arrays_of_any_sizes_in_a_list():
    images = [np.full((3 + row, 5), 40 * row, np.uint8) for row in range(4)]
    pictures = open_pictures(images, 4)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(decoded(pictures.data_url(row)), image)
    with pytest.raises(InvalidInputError, match=r"the picture of row 1 must have shape .*, not \(2, 2, 7\)"):
        open_pictures([images[0], np.zeros((2, 2, 7))], 2).data_url(1)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[7, 200]], np.uint8), [[7, 200]]),
        (np.array([[True, True]]), [[255, 255]]),
        (np.array([[False, True]]), [[0, 255]]),
        (np.array([[0.0, 0.2, 0.4]]), [[0, 51, 102]]),
        (np.array([[-1.0, 0.0, 1.0]]), [[0, 128, 255]]),
        (np.array([[100, 4095]], np.int16), [[0, 255]]),
        (np.array([[7, 7]], np.uint16), [[0, 0]]),
        (np.array([[np.nan, 0.0, 1.0]], np.float16), [[0, 0, 255]]),
        (np.array([[np.nan, np.nan]]), [[0, 0]]),
        (np.array([[-np.inf, 0.0, 10.0, np.inf]]), [[0, 0, 255, 255]]),
        (np.array([[-(2**62), 2**62]]), [[0, 255]]),
    ],
)
def test_numbers_are_scaled_to_bytes(values, want):
    found = as_bytes(values)
    assert found.dtype == np.uint8
    assert found.tolist() == want


# Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pattern", "list", "paths", "pandas", "polars", "numpy", "txt", "file url", "memory"])
def test_files_in_every_way(files, kind):
    names = [str(files / f"p-{number}.png") for number in (1, 2, 10)]
    given = {
        "pattern": str(files / "p-*.png"),
        "list": names,
        "paths": [files / f"p-{number}.png" for number in (1, 2, 10)],
        "pandas": pd.Series(names, index=[5, 6, 7]),
        "polars": pl.Series(names),
        "numpy": np.array(names),
        "txt": files / "names.txt",
        "file url": [f"file://{name}" for name in names],
        "memory": "memory://review/p-*.png",
    }[kind]
    (files / "names.txt").write_text("\r\n".join(names) + "\r\n")
    for name in names:
        fsspec.filesystem("memory").pipe_file(f"/review/{Path(name).name}", Path(name).read_bytes())
    pictures = open_pictures(given, 3)
    for row, color in enumerate((RED, BLUE, (0, 255, 0))):
        found = decoded(pictures.data_url(row))
        assert found.shape == (4, 6, 3)
        np.testing.assert_array_equal(found[0, 0], color)
        assert pictures.data_url(row).startswith("data:image/png;base64,")


def test_shards_in_a_list_are_still_one_array(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    np.save(tmp_path / "a.npy", images[:2])
    np.save(tmp_path / "b.npy", images[2:])
    pictures = open_pictures([tmp_path / "a.npy", tmp_path / "b.npy"], 4)
    np.testing.assert_array_equal(decoded(pictures.data_url(3)), images[3])


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 255
    for form in ("jpg", "png"):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise: what is on the left comes to the top
        place = saved(tmp_path / f"a.{form}", Image.fromarray(pixels), exif=exif)
        found = decoded(open_pictures([place], 1).data_url(0))
        assert found.shape == (80, 40, 3)
        assert found[:35].min() > 200
        assert found[45:].max() < 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "CMYK", "grey jpeg", "progressive"])
def test_every_mode_is_shown_as_gray_or_colors(tmp_path, mode):
    gradient = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    image, options, form = Image.fromarray(gradient), {}, "png"
    if mode == "I;16":
        image = Image.fromarray(gradient.astype(np.uint16) * 16)
    elif mode in ("CMYK", "grey jpeg", "progressive"):
        form, image = "jpg", image.convert({"CMYK": "CMYK", "progressive": "RGB"}.get(mode, "L"))
        options = {"quality": 95, "progressive": mode == "progressive"}
    elif mode == "PA":
        image, options = image.convert("P"), {"transparency": 0}
    else:
        image = image.convert(mode)
    place = saved(tmp_path / f"a.{form}", image, **options)
    found = decoded(open_pictures([place], 1).data_url(0)).astype(int)
    gray = found if found.ndim == 2 else found.mean(axis=2)
    assert gray.shape == (48, 64)
    near = 8 if form == "jpg" else 256 if mode == "1" else 40 if mode in ("P", "PA") else 1
    assert np.abs(gray[3:] - gradient[3:]).max() <= near
    if mode == "1":
        assert set(np.unique(found)) == {0, 255}


def test_transparent_pixels_are_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    found = decoded(open_pictures([saved(tmp_path / "a.png", Image.fromarray(pixels))], 1).data_url(0))
    assert found[:2].max() == 0
    assert found[2:].min() == 255


def test_of_an_animation_the_first_picture_is_shown(tmp_path):
    frames = [Image.new("RGB", (5, 5), color) for color in (RED, BLUE)]
    place = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(open_pictures([place], 1).data_url(0))[2, 2], RED)


@pytest.mark.parametrize("form", ["png", "jpg", "array"])
def test_a_thumbnail_is_small_and_has_nothing_else_of_its_file(tmp_path, form):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)  # noise, which hardly shrinks
    given = pixels[None]
    if form != "array":
        exif = Image.Exif()
        exif[0x010E] = "where it was taken"
        options = {"exif": exif, "icc_profile": b"profile" * 9999}
        given = [saved(tmp_path / f"a.{form}", Image.fromarray(pixels), **options)]
    pictures = open_pictures(given, 1)
    for most, side, size in ((20_000, 320, 140), (2_000, 96, 24), (300_000, 320, 320)):
        found = pictures.data_url(0, most, side)
        assert len(bytes_of(found)) <= most
        assert size <= decoded(found).shape[1] <= side
        assert b"taken" not in bytes_of(found)
        assert b"profile" not in bytes_of(found)
    assert pictures.image(0).size == (1200, 900)


# What is refused -------------------------------------------------------------------------------------------------


def chunk_of_a_large_png():
    """Return the head of a PNG of 30,000 x 30,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


BROKEN = {
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not a PNG or JPEG"),
    "html": (b"<!doctype html><script>alert(1)</script>", "not a PNG or JPEG"),
    "gif": (b"GIF89a" + bytes(30), "not a PNG or JPEG"),
    "empty": (b"", "not a PNG or JPEG"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_not_a_picture_is_never_passed_on(tmp_path, kind):
    content, why = BROKEN[kind]
    (tmp_path / "a.png").write_bytes(content)
    pictures = open_pictures(["none.png", str(tmp_path / "a.png")], 2)
    with pytest.raises(InvalidInputError, match=rf"the picture of row 1, .*a\.png, is {why}") as error:
        pictures.data_url(1)
    assert error.value.rows == ((1, 2),)


def test_damaged_huge_and_missing_files(tmp_path, files):
    whole = (files / "p-1.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "head.jpg").write_bytes(b"\xff\xd8\xff" + b"<script>" * 9)
    (tmp_path / "bomb.png").write_bytes(chunk_of_a_large_png())
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["cut.png", "head.jpg", "bomb.png", "folder.png", "pipe.png", "none.png", "p-1.png/a.png"]
    places = [str(tmp_path / name) for name in names]
    pictures = open_pictures([*places, "memory://review/none.png"], 8)
    for row, kind, why in (
        (0, UnreadableDataError, "is damaged"),
        (1, UnreadableDataError, "is damaged"),
        (2, InvalidInputError, "has more than 89,478,485 pixels"),
        (3, InvalidInputError, "is not a file"),
        (4, InvalidInputError, "is not a file"),
        (5, InvalidInputError, "is not there"),
        (6, InvalidInputError, "is not there"),
        (7, InvalidInputError, "is not there"),
    ):
        with pytest.raises(kind, match=rf"the picture of row {row}, .*, {why}") as error:
            pictures.data_url(row)
        assert error.value.rows == ((row, row + 1),)


@pytest.mark.parametrize(
    ("images", "kind", "why"),
    [
        (np.zeros((3, 4, 4)), InvalidInputError, r"must have shape \(2, H, W\)"),
        (np.zeros((2, 4, 4, 2)), InvalidInputError, r"must have shape .*, not \(2, 4, 4, 2\)"),
        (np.zeros((2, 0, 4)), InvalidInputError, "must have shape"),
        (np.zeros((2, 4, 4), complex), InvalidInputError, "must be numbers, not complex128"),
        (["a.png"], InvalidInputError, "there are 1 pictures, and there must be 2"),
        (["a.png", None], InputTypeError, "the picture of row 1 must be a path or a URL.*, not None"),
        (pd.Series(["a.png", np.nan]), InputTypeError, "the picture of row 1 must be a path or a URL"),
        (["a.png", ""], InvalidInputError, "images: the path is empty"),
        (["a.png", "b\0.png"], InvalidInputError, "null character"),
        (["a.png", "https://user:word@host/b.png"], InvalidInputError, "has a password"),
        ("none-*.png", InvalidInputError, "no file matches .*none"),
        ("https://host/*.png", InvalidInputError, "a web server lists no files"),
        ("none.txt", InvalidInputError, "none.txt is not readable"),
        ("none.npy", InvalidInputError, "there is no file"),
    ],
)
def test_bad_pictures_are_refused_as_they_are_opened(images, kind, why):
    with pytest.raises(kind, match=why):
        open_pictures(images, 2)


def test_a_signature_in_a_url_is_not_shown():
    pictures = open_pictures(["memory://review/a.png?sig=secret"], 1)
    with pytest.raises(InvalidInputError, match="is not there") as error:
        pictures.data_url(0)
    assert "secret" not in str(error.value)
