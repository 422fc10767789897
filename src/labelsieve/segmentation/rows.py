"""Masks in image files, such as PNG: a file for each image, the class of a pixel is its value."""

from __future__ import annotations

import abc
import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.summarize import PlaneSummarizer
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError, UnreadableDataError
from labelsieve.options import PROBABILITY_TOLERANCE
from labelsieve.sources.composite import (
    Ensemble,
    Folds,
    InnerRows,
    ShardsSource,
    UnitRows,
    WrappedSource,
    check_members,
    member_name,
)
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open import ArraySource, Opened, open_any
from labelsieve.sources.places import are_places, expand, local_path, open_all, open_place, open_places
from labelsieve.sources.source import FileSource, FileVersion, MissingRows, ReadFacts, Rows, Source, read_into
from labelsieve.sources.zarr import ZarrSource, chunk_decoder

if TYPE_CHECKING:
    import dask.array as da

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
        # The decoded image, and what is read from it.
        held = 2 * height * width * dtype.itemsize
        facts = ReadFacts(height * width, is_encoded=True, decoding_bytes=held, decoding_note="a mask")
        super().__init__((height * width,), dtype, facts)
        self.path, self.height, self.width, self.version = path, height, width, version

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
        try:
            version = FileVersion.of(path)
            with pillow().open(path) as image:
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
    if place is None or not (_is_image(place) or Path(place).is_dir()):
        return None
    found = map(Path, expand(name, place) or [place])
    return [one.absolute() for one in found if _is_image(one.name) and not one.name.startswith(".")] or None


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


# Bytes of images that are read together, unless a stored chunk or a single image is larger.
_READ_BYTES: Final = 4_000_000
# Copies of the images of a chunk that a thread holds while it decodes them: on the direct path of Zarr (measured: 1.3),
# by Zarr itself, which holds several of each of the chunks that it joins (measured: 4 to 6), and by others.
_DIRECT_COPIES: Final = 2
_ZARR_COPIES: Final = 6
_OTHER_COPIES: Final = 3
# Planes of a file of at least this size are read one by one into their places, others with whole images.
_PLANE_BYTES: Final = 1 << 14


def pixels_of(images: Source) -> Source:
    """Return the pixels of stored images as rows.

    Parameters
    ----------
    images : Source
        ``(N, H, W)`` labels or ``(N, K, H, W)`` probabilities.
    """
    flat = images.ndim == 3 and isinstance(images, NpySource) and not images.fortran
    if flat and isinstance(images, NpySource):  # the pixels of labels are stored as rows already
        rows = copy.copy(images)
        rows.shape = (images.n_rows * images.shape[1] * images.shape[2],)
        rows.row_bytes = rows.read_row_bytes = images.dtype.itemsize
        return rows
    if images.ndim == 3 and isinstance(images, ArraySource) and images.array.flags.c_contiguous:
        return ArraySource(images.array.reshape(-1))
    return PixelSource(images)


class OneImage(WrappedSource):
    """A stored array that is a single image, as an array of one image.

    Parameters
    ----------
    source : Source
        ``(H, W)`` labels or ``(K, H, W)`` probabilities.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, (1, *source.shape), source.dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        # The whole array is read for one row.
        held = source.facts.decoding_bytes + source.row_bytes * min(source.facts.row_chunk or 0, source.n_rows)
        self.facts = replace(source.facts, row_chunk=None, forkable=False, decoding_bytes=held)
        self.row_edges = None

    @classmethod
    def of(cls, source: Source) -> Source:
        """Return an array of one image; a view of one that is in memory or in a ``.npy`` file."""
        if isinstance(source, ArraySource):
            return ArraySource(source.array[np.newaxis])
        if isinstance(source, NpySource) and not source.fortran:
            images = copy.copy(source)
            images.shape = (1, *source.shape)
            images.row_bytes = images.read_row_bytes = source.row_bytes * source.n_rows
            return images
        return cls(source)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # there is one image
        """Open for reading."""
        return _OneImageRows(self, self.source.open())

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return the digest of the image."""
        return self.source.part_identities([(0, self.source.n_rows)]) * len(ranges)

    def missing_rows(self) -> MissingRows | None:
        """Return whether the image, or a part of it, is not stored."""
        found = self.source.missing_rows()
        if found is None:
            return None
        image = [(0, 1)] if found.n_missing else []
        is_whole = found.n_missing == found.n_chunks
        return MissingRows(found.n_missing, found.n_chunks, image if is_whole else [], [] if is_whole else image)


class _OneImageRows(InnerRows):
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._rows.read(0, self._row_shape[0])[np.newaxis][start:stop]


class PixelSource(UnitRows):
    """The pixels of stored images as rows.

    Parameters
    ----------
    source : Source
        ``(N, H, W)`` labels or ``(N, K, H, W)`` probabilities.
    """

    summarizer = PlaneSummarizer

    def __init__(self, source: Source) -> None:
        *self.classes, self.height, self.width = source.shape[1:]
        self.unit_rows = self.height * self.width
        super().__init__(source, (source.n_rows * self.height * self.width, *self.classes), source.dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape = (source.n_rows * self.unit_rows, *self.classes)
        # Any part of the images that are held costs nothing.
        self.facts = replace(self.facts, in_pieces=True)
        if not self.reads_planes:
            held = self.held_images * source.row_bytes
            note = source.facts.decoding_note or f"images of {source.row_bytes / 1e6:,.3g} MB"
            copies = _OTHER_COPIES if source.facts.is_encoded else 1
            if isinstance(source, ZarrSource):
                copies = _ZARR_COPIES if chunk_decoder(source.array) is None else _DIRECT_COPIES
            n_bytes = source.facts.decoding_bytes + held * copies
            self.facts = replace(self.facts, decoding_bytes=n_bytes, decoding_note=note)

    @property
    def reads_planes(self) -> bool:
        """Whether pieces of planes can be read without the rest of the image."""
        source = self.source
        return isinstance(source, ArraySource) or (isinstance(source, NpySource) and not source.fortran)

    @property
    def held_images(self) -> int:
        """Number of images that are read together: those of whole stored chunks."""
        chunk = min(self.source.facts.row_chunk or 1, self.source.n_rows)
        return chunk * max(1, _READ_BYTES // max(1, chunk * self.source.row_bytes))

    def parameters(self) -> dict[str, Any]:
        """Return the size of the images."""
        return {"height": self.height, "width": self.width}

    def missing_rows(self) -> MissingRows | None:
        """Return the pixels whose chunks are not stored. They are accepted if the fill value is a distribution."""
        found = self.source.missing_rows()
        if found is None:
            return None
        whole, partly = (
            [(start * self.unit_rows, stop * self.unit_rows) for start, stop in ranges]
            for ranges in (found.whole, found.partly)
        )
        accepted = abs(self.fill_value * sum(self.classes) - 1) <= PROBABILITY_TOLERANCE
        return MissingRows(found.n_missing, found.n_chunks, whole, partly, accepted=accepted)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open to read rows."""
        return _TransposedRows(self, self.open_raw(start, stop))

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open to read strips of planes, of which each column is contiguous."""
        source = self.source
        plane_bytes = self.unit_rows * source.dtype.itemsize
        if isinstance(source, NpySource) and not source.fortran and plane_bytes >= _PLANE_BYTES:
            return _NpyPixels(self, source)
        first, last = self.units_of(start, self.n_rows if stop is None else stop)
        return _HeldPixels(self, source.open(first, None if stop is None else last), last)


class _Pixels(Rows):
    """Reads strips of pixels as ``(n,)`` labels, or as ``(n, K)`` views of planes."""

    def __init__(self, source: PixelSource) -> None:
        super().__init__(source)
        self._image_rows, self._n_planes = source.unit_rows, sum(source.classes) or 1
        self._planes = np.empty((self._n_planes, 0), source.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        (image, inside), n = divmod(start, self._image_rows), stop - start
        view = self._view(image, inside, inside + n) if inside + n <= self._image_rows else None
        if view is None:
            if self._planes.shape[1] < n:
                self._planes = np.empty((self._n_planes, n), self._dtype)
            view = self._planes[:, :n]
            self._fill(start, stop, view)
        return view.T if self._row_shape else view[0]

    def _view(self, image: int, start: int, stop: int) -> npt.NDArray[Any] | None:  # noqa: ARG002  # for subclasses
        """Return pixels ``[start, stop)`` of an image as ``(K, n)`` without copying; None if that is not possible."""
        return None

    @abc.abstractmethod
    def _fill(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Fill the ``(K, n)`` planes of pixels ``[start, stop)``."""


class _NpyPixels(_Pixels):
    """Pixels of a ``.npy`` file with large planes: pieces of planes are read where they are."""

    def __init__(self, source: PixelSource, stored: NpySource) -> None:
        super().__init__(source)
        self._stored, self._file = stored, stored.open_file()

    def _fill(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        row, size = start, self._image_rows
        while row < stop:
            image, first = divmod(row, size)
            n = min(size - first, stop - row)
            for plane in range(self._n_planes):
                piece = out[plane, row - start : row - start + n]
                position = ((image * self._n_planes + plane) * size + first) * self._dtype.itemsize
                if not read_into(self._file, self._stored.offset + position, piece.view(np.uint8)):
                    end = self._stored.offset + position + piece.nbytes
                    raise UnreadableDataError(
                        f"{self._stored.path} ended before byte {end:,}: was it cut while in use?"
                    )
            row += n

    def close(self) -> None:
        self._file.close()


class _HeldPixels(_Pixels):
    """Pixels of images that are read as a whole: those of some chunks are held at a time, views of those in memory.

    Images from `stop` on are held only if they are asked for.
    """

    def __init__(self, source: PixelSource, rows: Rows, stop: int) -> None:
        super().__init__(source)
        self._rows, self._stop = rows, stop
        self._chunk, self._step = min(source.source.facts.row_chunk or 1, source.source.n_rows), source.held_images
        self._n_images = source.source.n_rows
        self._first, self._images = 0, np.empty((0, self._n_planes, self._image_rows), source.dtype)

    def _held(self, image: int) -> npt.NDArray[Any]:
        """Return images that are held, from `image` on."""
        if not self._first <= image < self._first + len(self._images):
            self._first = image - image % self._chunk
            end = max(min(self._first + self._step, self._stop), self._first + self._chunk)
            self._images = self._images[:0]
            images = self._rows.read(self._first, min(end, self._n_images))
            self._images = images.reshape(len(images), self._n_planes, self._image_rows)
        found: npt.NDArray[Any] = self._images[image - self._first :]
        return found

    def _view(self, image: int, start: int, stop: int) -> npt.NDArray[Any]:
        planes: npt.NDArray[Any] = self._held(image)[0, :, start:stop]
        return planes

    def _fill(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        row, size = start, self._image_rows
        while row < stop:
            image, inside = divmod(row, size)
            held = self._held(image)
            n = 0 if inside else min((stop - row) // size, len(held))  # whole images
            end = row + n * size if n else min(stop, row + size - inside)
            into = out[:, row - start : end - start]
            if n:
                into.reshape(self._n_planes, n, size)[:] = held[:n].transpose(1, 0, 2)
            else:
                into[:] = held[0, :, inside : inside + end - row]
            row = end

    def close(self) -> None:
        self._rows.close()


class _TransposedRows(InnerRows):
    """The rows of strips of planes, in C order."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        strip = self._rows.read(start, stop)
        if strip.ndim == 1:
            return strip
        rows = self._reused(stop - start)
        np.copyto(rows, strip)
        return rows


# Axes of one image.
_AXES: Final = {"labels": "(H, W)", "pred_probs": "(K, H, W)"}


@dataclass(frozen=True)
class OpenedImages:
    """Opened images, as rows.

    Parameters
    ----------
    rows : Source, dask.array.Array or Ensemble
        The pixels as rows: labels ``(n,)`` or probabilities ``(n, K)``.
    sizes : (n_images, 2) int64
        Height and width of each image.
    classes : (n_images,) int64
        Number of planes of each image; 0 of masks.
    is_list : bool
        Whether the images were given one by one.
    """

    rows: Any
    sizes: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    is_list: bool = False

    def __len__(self) -> int:
        return len(self.sizes)


def open_masks(labels: Any) -> OpenedImages:
    """Open labels of pixels; nothing is read but headers.

    Parameters
    ----------
    labels : (N, H, W) array-like of int, list of (H, W) arrays, path, pattern or list of paths
        Class of each pixel. Files are arrays, or masks in image files (PNG).

    Raises
    ------
    InvalidInputError
        For anything but masks of integers.
    """
    files = image_files("labels", labels)
    if files is not None:
        return masks_of_files(files, str(labels if isinstance(labels, str | os.PathLike) else labels[0]))
    arrays, is_list = _opened_arrays("labels", labels)
    arrays = [_whole_numbers(array) for array in arrays]
    return _as_rows("labels", arrays, is_list=is_list)


def masks_of_files(files: Sequence[ImageFileSource], where: str) -> OpenedImages:
    """Return the masks of opened image files, one for each image, in order; `where` is their place for messages."""
    sizes = np.array([(file.height, file.width) for file in files], np.int64)
    rows = _joined("labels", files, where)
    return OpenedImages(rows, sizes, np.zeros(len(files), np.int64), is_list=True)


def open_planes(pred_probs: Any) -> OpenedImages:
    """Open probabilities of pixels; nothing is read but headers.

    Parameters
    ----------
    pred_probs : (N, K, H, W) array-like of float, list of (K, H, W) arrays, path, pattern or list of paths
        Probability of each class in each pixel, or an `Ensemble` of these.

    Raises
    ------
    InvalidInputError
        For anything but images of K planes.
    """
    if isinstance(pred_probs, Folds):
        raise InvalidInputError(
            "Folds are of rows, and pixels are too many to be listed: give the predictions of all images, in order"
        )
    if isinstance(pred_probs, Ensemble):
        members = [open_planes(member) for member in pred_probs.members]
        names = [member_name(number, "images") for number in range(len(members))]
        check_members(names, [(len(member), *member.classes[:1]) for member in members])
        for name, member in zip(names, members, strict=True):
            _check_sizes(names[0], members[0].sizes, name, member.sizes)
        return replace(members[0], rows=Ensemble([member.rows for member in members], pred_probs.weights))
    arrays, is_list = _opened_arrays("pred_probs", pred_probs)
    return _as_rows("pred_probs", arrays, is_list=is_list)


def check_images(labels: OpenedImages, planes: OpenedImages) -> None:
    """Raise unless masks and probabilities are of the same images.

    Raises
    ------
    InvalidInputError
        Naming the first image that differs, and both sizes, with the line that mends it if it is known.
    """
    if len(labels) != len(planes):
        raise InvalidInputError(
            f"{len(labels):,} masks, {len(planes):,} images of pred_probs: there must be a mask for each image"
        )
    _refuse_channels_last(labels, planes)
    if planes.classes.min() < 2:
        raise InvalidInputError(
            f"pred_probs has {planes.classes.min()} plane for each image; of the probabilities p of one class of two "
            "give both: np.concatenate([1 - p, p], axis=1)"
        )
    other = np.flatnonzero(planes.classes != planes.classes[0])
    if len(other):
        raise InvalidInputError(
            f"image {other[0]:,} of pred_probs has {planes.classes[other[0]]} planes, image 0 has {planes.classes[0]}: "
            "there must be one for each of the same K classes"
        )
    _check_sizes("the mask", labels.sizes, "pred_probs", planes.sizes)


def _check_sizes(name: str, sizes: npt.NDArray[np.int64], other_name: str, others: npt.NDArray[np.int64]) -> None:
    differs = np.flatnonzero((sizes != others).any(axis=1))
    if not len(differs):
        return
    (height, width), (rows, columns) = sizes[differs[0]].tolist(), others[differs[0]].tolist()
    text = f"image {differs[0]:,}: {name} has {height} x {width} pixels, {other_name} {rows} x {columns}"
    more = rows_in_words(len(differs) - 1, "more image differs", "more images differ")
    text += f" ({more})" if len(differs) > 1 else ""
    if (height, width) == (columns, rows):
        text += ": are the axes of one swapped? Height comes first"
    elif height % rows == width % columns == 0 and height // rows == width // columns:
        text += f": the predictions are smaller by a factor of {height // rows}; scale them to the mask first"
    raise InvalidInputError(text)


def _refuse_channels_last(labels: OpenedImages, planes: OpenedImages) -> None:
    """Raise if the classes are the last axis of `planes`, as the sizes of the masks show."""
    (height, width), size, n = labels.sizes[0], planes.sizes[0], planes.classes[0]
    if (height, width) != tuple(size) and (height, width) == (n, size[0]):
        one = "[np.moveaxis(one, -1, 0) for one in pred_probs]"
        raise InvalidInputError(
            f"pred_probs has images of shape ({n}, {size[0]}, {size[1]}), with the classes last, where the masks are "
            f"of {height} x {width} pixels: classes come before height and width. Write pred_probs = "
            f"{one if planes.is_list else 'np.moveaxis(pred_probs, -1, 1)'}"
        )


def _opened_arrays(name: str, data: Any) -> tuple[list[Opened], bool]:
    """Return opened arrays of images, each with an axis of images, and whether they were given one by one."""
    n_axes = _AXES[name].count(",") + 1
    if data is None:
        raise InputTypeError(f"{name} is missing")
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = list(data)
    one = isinstance(data, str | os.PathLike)
    if one or (isinstance(data, list | tuple) and data and are_places(data)):
        found = open_place(name, data, _separate) if one else open_places(name, data, _separate)
        arrays = list(found.children) if type(found) is _Separate else [found]
        return [_with_images(name, array, n_axes, array.where) for array in arrays], True
    if isinstance(data, list | tuple):
        if not data:
            raise InvalidInputError(f"{name} is an empty list: there are no images")
        if any(hasattr(one, "shape") for one in data):
            opened = [open_any(f"{name}[{number}]", one) for number, one in enumerate(data)]
            return [_with_images(name, one, n_axes, f"{name}[{i}]") for i, one in enumerate(opened)], True
        try:
            data = np.asarray(data)
        except ValueError as error:
            raise InvalidInputError(
                f"{name} is a list of lists that differ in length: give a list of arrays of shape {_AXES[name]}"
            ) from error
    opened_any = open_any(name, data)
    if opened_any.ndim == n_axes:
        raise InvalidInputError(
            f"{name} has shape {tuple(opened_any.shape)}, that of a single image: give {name}[np.newaxis], or a list"
        )
    return [_with_images(name, opened_any, n_axes, name)], False


def _with_images(name: str, opened: Opened, n_axes: int, where: str) -> Opened:
    """Return an array with an axis of images in front of the `n_axes` axes of one image."""
    if opened.ndim == n_axes + 1:
        return opened
    if opened.ndim == n_axes:
        return OneImage.of(opened) if isinstance(opened, Source) else opened[np.newaxis]
    hint = ""
    if name == "labels" and opened.ndim == n_axes + 2:
        hint = ": of one-hot masks take labels.argmax(axis=1), or labels.argmax(axis=-1) with the classes last"
        if 1 in (opened.shape[1], opened.shape[-1]):  # masks with an axis of one channel
            hint = ": take labels[:, 0]" if opened.shape[1] == 1 else ": take labels[..., 0]"
    elif name == "labels" and opened.dtype.kind == "f":
        hint = ": labels come first, then pred_probs"
    raise InvalidInputError(
        f"{where} must have shape (N, {_AXES[name][1:]}, or {_AXES[name]} for one image, "
        f"not {tuple(opened.shape)}{hint}"
    )


def _whole_numbers(labels: Opened) -> Opened:
    """Return masks of integers; of booleans in memory as such."""
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.kind == "b" and isinstance(labels, ArraySource):
        return ArraySource(labels.array.view(np.uint8))
    hint = "convert them to integers if all are whole numbers"
    if labels.dtype.kind not in "bf":
        hint = "each pixel has the number of its class"
    raise InvalidInputError(f"masks must be integers 0..K-1, not {labels.dtype}: {hint}")


class _Separate(ShardsSource):
    """Files of images of any sizes, which are opened together and then taken one by one."""


def _separate(_name: str, shards: Sequence[Source], where: str) -> Source:
    return _Separate([array for shard in shards for array in shard.arrays], where)


def _as_rows(name: str, arrays: Sequence[Opened], *, is_list: bool) -> OpenedImages:
    """Return the pixels of arrays of images as rows."""
    sizes = np.array([array.shape[-2:] for array in arrays], np.int64)
    counts = [int(array.shape[0]) for array in arrays]
    classes = [int(array.shape[1]) if array.ndim == 4 else 0 for array in arrays]
    if not sum(counts):
        raise InvalidInputError(f"{name} has no images")
    if not sizes.all():
        image = int(np.flatnonzero(~sizes.all(axis=1))[0])
        raise InvalidInputError(f"image {image} of {name} has no pixels: its size is {sizes[image].tolist()}")
    rows: list[Any] = [pixels_of(array) if isinstance(array, Source) else _dask_pixels(array) for array in arrays]
    joined = _joined(name, rows, arrays[0].where if isinstance(arrays[0], Source) else "")
    return OpenedImages(joined, np.repeat(sizes, counts, axis=0), np.repeat(classes, counts), is_list)


def _joined(name: str, rows: Sequence[Any], where: str) -> Any:
    """Return the pixels of all arrays as one."""
    if len({one.shape[1:] for one in rows}) > 1 or len(rows) == 1:
        return rows[0]  # the number of classes is compared later, with the other sizes
    n_sources = sum(isinstance(one, Source) for one in rows)
    if n_sources == len(rows):
        if all(isinstance(one, ArraySource | PixelSource) and one.facts.in_memory for one in rows):
            where = f"{len(rows):,} arrays in memory"
        return ShardsSource.checked(name, rows, where)
    if n_sources:
        raise InputTypeError(f"{name} is a list of Dask arrays and others: give one kind")
    import dask.array as da

    return da.concatenate(rows)


def _dask_pixels(array: da.Array) -> da.Array:
    """Return the pixels of a user's Dask array of images, whose chunks are made to hold whole images."""
    whole = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    image_rows = int(array.shape[-1] * array.shape[-2])
    rows, classes = tuple(n * image_rows for n in whole.chunks[0]), whole.chunks[1:-2]
    found: da.Array = whole.map_blocks(
        pixel_rows,
        dtype=array.dtype,
        chunks=(rows, *classes),
        drop_axis=[array.ndim - 2, array.ndim - 1],
        meta=np.empty((0,) * (array.ndim - 2), array.dtype),
    )
    return found


def pixel_rows(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels of ``(n, H, W)`` or ``(n, K, H, W)`` images as rows."""
    return images.reshape(-1) if images.ndim == 3 else np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])
