"""Masks in image files, such as PNG: a file for each image, the class of a pixel is its value."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError, UnreadableDataError
from labelsieve.sources.base import FileSource, Rows
from labelsieve.sources.open_path import local_path, open_all
from labelsieve.sources.shard_names import is_pattern, natural_key
from labelsieve.sources.versions import FileVersion

IMAGE_SUFFIXES: Final = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Dtypes of the modes of Pillow whose values are numbers of classes; "P" has a palette, but its values are numbers.
_DTYPES: Final = {"1": "u1", "L": "u1", "P": "u1", "I;16": "u2", "I;16L": "u2", "I;16B": "u2", "I": "i4"}


class ImageFileSource(FileSource):
    """The pixels of a mask in an image file as rows.

    Parameters
    ----------
    path : Path
        The file.
    height, width : int
        Size of the image.
    dtype : dtype
        Of its values.
    version : FileVersion
        Of the file whose header was read.
    """

    path: Path

    def __init__(self, path: Path, height: int, width: int, dtype: np.dtype[Any], version: FileVersion) -> None:
        super().__init__((height * width,), dtype, height * width)
        self.path, self.height, self.width, self.version = path, height, width, version
        self.is_encoded = True
        # The decoded image, and what is read from it.
        self.decoding_bytes, self.decoding_note = 2 * height * width * dtype.itemsize, "a mask"

    @classmethod
    def from_path(cls, name: str, path: Path) -> ImageFileSource:
        """Read the header of an image file.

        Raises
        ------
        InvalidInputError
            For a file that is not there, is not an image, or has colours in place of numbers.
        MissingDependencyError
            Without Pillow.
        """
        image_module = pillow()
        try:
            version = FileVersion.of(path.stat())
            with image_module.open(path) as image:
                (width, height), mode = image.size, image.mode
        except FileNotFoundError:
            raise InvalidInputError(f"{name}: there is no file {path}") from None
        except OSError as error:
            raise InvalidInputError(f"{name}: {path} is not a readable image: {error}") from error
        if mode not in _DTYPES:
            raise InvalidInputError(
                f"{name}: {path} is an image of mode {mode}, whose pixels are not numbers of classes: save masks as "
                "gray values or with a palette (mode L, P or I;16), one number for each colour"
            )
        return cls(path.absolute(), height, width, np.dtype(_DTYPES[mode]), version)

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # the image is decoded whole
        """Open for reading."""
        return _ImageRows(self)


class _ImageRows(Rows):
    def __init__(self, source: ImageFileSource) -> None:
        super().__init__(source)
        self._source = source
        self._pixels: npt.NDArray[Any] | None = None

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        if self._pixels is None:
            self._pixels = self._decoded()
        return self._pixels[start:stop]

    def _decoded(self) -> npt.NDArray[Any]:
        source = self._source
        source.check_version()
        try:
            with pillow().open(source.path) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise UnreadableDataError(f"{source.where} is not a readable image: {error}") from error
        if pixels.shape != (source.height, source.width):
            raise UnreadableDataError(f"{source.where} is now of size {pixels.shape}: was it replaced while in use?")
        return pixels.astype(source.dtype, copy=False).reshape(-1)


def image_files(name: str, data: Any) -> list[ImageFileSource] | None:
    """Return the masks that a path, a pattern, a folder or a list of paths names; None if it names no image files.

    Raises
    ------
    InvalidInputError
        For a pattern that no file matches, and for files that are not masks.
    """
    paths = _paths_of(name, data)
    if paths is None:
        return None
    return open_all([partial(ImageFileSource.from_path, name, path) for path in paths])


def _paths_of(name: str, data: Any) -> Sequence[Path] | None:
    if isinstance(data, list | tuple):
        named = [os.fspath(one) if isinstance(one, str | os.PathLike) else "" for one in data]
        return [Path(one) for one in named] if named and all(map(_is_image, named)) else None
    place = local_path(os.fspath(data)) if isinstance(data, str | os.PathLike) else None
    path = None if place is None else Path(place).absolute()
    if path is not None and path.is_dir():
        found = [str(one) for one in path.iterdir() if not one.name.startswith(".") and _is_image(one.name)]
    elif path is not None and _is_image(path.name) and is_pattern(str(path)) and not path.exists():
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not found:
            raise InvalidInputError(f"{name}: no file matches {path}")
    else:
        found = [str(path)] if path is not None and _is_image(path.name) else []
    return [Path(one) for one in sorted(found, key=natural_key)] or None


def _is_image(place: str) -> bool:
    return place.lower().endswith(IMAGE_SUFFIXES)


def pillow() -> Any:
    """Return the module `Image` of Pillow.

    Raises
    ------
    MissingDependencyError
        Without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("Reading masks in image files", "images") from error
    return Image
