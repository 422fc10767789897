"""Masks in image files, such as PNG: a file for each image, the class of a pixel is its value."""

from __future__ import annotations

import copy
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
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
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.composite import Ensemble, Folds, ShardsSource, WrappedSource, check_members, member_name
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open import Opened, open_any
from labelsieve.sources.places import are_places, is_pattern, local_path, open_all, open_place, open_places
from labelsieve.sources.source import (
    FileSource,
    FileVersion,
    MissingRows,
    ReadFacts,
    Rows,
    Source,
    natural_key,
    read_into,
)
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
        image_module = pillow()
        try:
            version = FileVersion.of(path)
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


# Bytes of images that are read together, unless a stored chunk or a single image is larger.
_READ_BYTES: Final = 4_000_000
# Copies of the images of a chunk that a thread holds while it decodes them: on the direct path of Zarr (measured: 1.3),
# by Zarr itself, which holds several of each of the chunks that it joins (measured: 4 to 6), and by others.
_DIRECT_COPIES: Final = 2
_ZARR_COPIES: Final = 6
_OTHER_COPIES: Final = 3
# Planes of at least this size are read one by one into their places, others with the whole image.
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
        rows.row_bytes = images.dtype.itemsize
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

    @classmethod
    def of(cls, source: Source) -> Source:
        """Return an array of one image; a view of one that is in memory or in a ``.npy`` file."""
        if isinstance(source, ArraySource):
            return ArraySource(source.array[np.newaxis])
        if isinstance(source, NpySource) and not source.fortran:
            images = copy.copy(source)
            images.shape, images.row_bytes = (1, *source.shape), source.row_bytes * source.n_rows
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


class _OneImageRows(Rows):
    def __init__(self, source: OneImage, rows: Rows) -> None:
        super().__init__(source)
        self._rows, self._n_rows = rows, source.source.n_rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._rows.read(0, self._n_rows)[np.newaxis][start:stop]

    def close(self) -> None:
        self._rows.close()


class PixelSource(WrappedSource):
    """The pixels of stored images as rows.

    Parameters
    ----------
    source : Source
        ``(N, H, W)`` labels or ``(N, K, H, W)`` probabilities.
    """

    summarizer = PlaneSummarizer

    def __init__(self, source: Source) -> None:
        *self.classes, self.height, self.width = source.shape[1:]
        super().__init__(source, (source.n_rows * self.height * self.width, *self.classes), source.dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape = (source.n_rows * self.image_rows, *self.classes)
        # Any part of the images that are held costs nothing.
        self.facts = replace(source.facts.times(self.image_rows), in_pieces=True)
        if not self.reads_planes:
            held = self.held_images * source.row_bytes
            note = source.facts.decoding_note or f"images of {source.row_bytes / 1e6:,.3g} MB"
            n_bytes = source.facts.decoding_bytes + held * _copies(source)
            self.facts = replace(self.facts, decoding_bytes=n_bytes, decoding_note=note)

    @property
    def image_rows(self) -> int:
        """Number of pixels of an image."""
        return self.height * self.width

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

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive pixels that have a version of their own."""
        images = self.source.version_rows
        return None if images is None else images * self.image_rows

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The pixels at which what is decoded together ends."""
        edges = self.source.row_edges
        return None if edges is None else edges * self.image_rows

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range: those of its images, and where in them it begins and ends."""
        images = [self._images_of(start, stop) for start, stop in ranges]
        digests = self.source.part_identities(images)
        inside = [
            [start - first * self.image_rows, stop - start]
            for (start, stop), (first, _) in zip(ranges, images, strict=True)
        ]
        facts = [
            json.dumps([*one, self.parameters(), digest]).encode() for one, digest in zip(inside, digests, strict=True)
        ]
        return [
            digest and hashlib.blake2b(fact, digest_size=16).hexdigest()
            for fact, digest in zip(facts, digests, strict=True)
        ]

    def missing_rows(self) -> MissingRows | None:
        """Return the pixels whose chunks are not stored. They are accepted if the fill value is a distribution."""
        found = self.source.missing_rows()
        if found is None:
            return None
        whole, partly = (
            [(start * self.image_rows, stop * self.image_rows) for start, stop in ranges]
            for ranges in (found.whole, found.partly)
        )
        accepted = abs(self.fill_value * sum(self.classes) - 1) <= PROBABILITY_TOLERANCE
        return MissingRows(found.n_missing, found.n_chunks, whole, partly, accepted=accepted)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source of the images that hold these pixels, and the pixel at which it begins."""
        source, origin = self.source.part(*self._images_of(start, stop))
        return self.over(source), origin * self.image_rows

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open to read rows."""
        return _TransposedRows(self, self.open_raw(start, stop))

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open to read strips of planes, of which each column is contiguous."""
        if isinstance(self.source, ArraySource):
            return _MemoryPixels(self, self.source.array)
        if isinstance(self.source, NpySource) and self.reads_planes:
            return _NpyPixels(self, self.source)
        first, last = self._images_of(start, self.n_rows if stop is None else stop)
        return _HeldPixels(self, self.source.open(first, None if stop is None else last), last)

    def _images_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of images that hold pixels ``[start, stop)``."""
        return start // self.image_rows, -(-stop // self.image_rows)


def _copies(images: Source) -> int:
    """Return the number of copies of images that a thread holds while it decodes them."""
    if not images.facts.is_encoded:
        return 1
    if not isinstance(images, ZarrSource):
        return _OTHER_COPIES
    return _ZARR_COPIES if chunk_decoder(images.array) is None else _DIRECT_COPIES


class _Pixels(Rows):
    """Reads strips of pixels as ``(n,)`` labels, or as ``(n, K)`` views of planes."""

    def __init__(self, source: PixelSource) -> None:
        super().__init__(source)
        self._image_rows, self._n_planes = source.image_rows, sum(source.classes) or 1
        self._planes = np.empty((self._n_planes, 0), source.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        image, inside = divmod(start, self._image_rows)
        n = stop - start
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

    def _fill(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Fill the ``(K, n)`` planes of pixels ``[start, stop)``."""
        for image, first, last, position in self._pieces(start, stop):
            piece = self._view(image, first, last)
            if piece is None:
                raise RuntimeError("a part of an image is a view")
            out[:, position : position + last - first] = piece

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield each image of pixels ``[start, stop)``: its number, its pixels, and their position in the strip."""
        row = start
        while row < stop:
            image, first = divmod(row, self._image_rows)
            last = min(self._image_rows, first + stop - row)
            yield image, first, last, row - start
            row += last - first


class _MemoryPixels(_Pixels):
    """Pixels of an array in memory: views, where the pixels of a plane are contiguous."""

    def __init__(self, source: PixelSource, images: npt.NDArray[Any]) -> None:
        super().__init__(source)
        height, width = images.shape[-2:]
        _, *_, row_step, step = images.strides
        # One contiguous copy of an image at a time, where its pixels are not.
        self._is_flat = (width == 1 or step == images.itemsize) and (height == 1 or row_step == width * images.itemsize)
        self._images = images
        self._held, self._copy = -1, np.empty((self._n_planes, 0), images.dtype)

    def _view(self, image: int, start: int, stop: int) -> npt.NDArray[Any]:
        if not self._is_flat and self._held != image:
            self._copy, self._held = self._planes_of(image), image
        planes = self._planes_of(image) if self._is_flat else self._copy
        return planes[:, start:stop]

    def _planes_of(self, image: int) -> npt.NDArray[Any]:
        planes: npt.NDArray[Any] = self._images[image].reshape(self._n_planes, self._image_rows)
        return planes


class _NpyPixels(_Pixels):
    """Pixels of a ``.npy`` file: pieces of planes are read where they are."""

    def __init__(self, source: PixelSource, stored: NpySource) -> None:
        super().__init__(source)
        self._stored, self._file = stored, stored.open_file()
        self._plane_bytes = self._image_rows * stored.dtype.itemsize
        self._images = np.empty((0, self._n_planes, self._image_rows), stored.dtype)

    def _fill(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        itemsize, whole = self._dtype.itemsize, self._image_rows
        if self._plane_bytes < _PLANE_BYTES:
            self._fill_from_images(start, stop, out)
            return
        for image, first, last, position in self._pieces(start, stop):
            for plane in range(self._n_planes):
                piece = out[plane, position : position + last - first]
                self._read((image * self._n_planes + plane) * whole * itemsize + first * itemsize, piece)

    def _fill_from_images(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Fill planes from whole images, of which several are read at a time."""
        first, last = start // self._image_rows, -(-stop // self._image_rows)
        step = max(1, _READ_BYTES // (self._n_planes * self._plane_bytes))
        if len(self._images) < min(step, last - first):
            self._images = np.empty((min(step, last - first), self._n_planes, self._image_rows), self._dtype)
        for image in range(first, last, step):
            images = self._images[: min(step, last - image)]
            self._read(image * self._n_planes * self._plane_bytes, images.reshape(-1))
            planes = images.transpose(1, 0, 2)
            origin = image * self._image_rows
            begin, end = max(start, origin), min(stop, origin + len(images) * self._image_rows)
            if (begin - origin) % self._image_rows or (end - origin) % self._image_rows:
                planes = planes.reshape(self._n_planes, -1)[:, begin - origin : end - origin]
                out[:, begin - start : end - start] = planes
            else:
                into = out[:, begin - start : end - start]
                into.reshape(self._n_planes, len(images), self._image_rows)[:] = planes

    def _read(self, position: int, out: npt.NDArray[Any]) -> None:
        offset = self._stored.offset + position
        if not read_into(self._file, offset, out.view(np.uint8)):
            raise UnreadableDataError(
                f"{self._stored.path} ended before byte {offset + out.nbytes:,}: was it cut while in use?"
            )

    def close(self) -> None:
        self._file.close()


class _HeldPixels(_Pixels):
    """Pixels of images that are read, and decoded, as a whole: those of some chunks are held at a time.

    Images from `stop` on are held only if they are asked for.
    """

    def __init__(self, source: PixelSource, rows: Rows, stop: int) -> None:
        super().__init__(source)
        self._rows, self._stop = rows, stop
        self._chunk, self._step = min(source.source.facts.row_chunk or 1, source.source.n_rows), source.held_images
        self._n_images = source.source.n_rows
        self._first, self._images = 0, np.empty((0, self._n_planes, self._image_rows), source.dtype)

    def _view(self, image: int, start: int, stop: int) -> npt.NDArray[Any]:
        if not self._first <= image < self._first + len(self._images):
            self._first = image - image % self._chunk
            end = max(min(self._first + self._step, self._stop), self._first + self._chunk)
            self._images = self._images[:0]
            images = self._rows.read(self._first, min(end, self._n_images))
            self._images = images.reshape(len(images), self._n_planes, self._image_rows)
        planes: npt.NDArray[Any] = self._images[image - self._first, :, start:stop]
        return planes

    def close(self) -> None:
        self._rows.close()


class _TransposedRows(Rows):
    """The rows of strips of planes, in C order."""

    def __init__(self, source: PixelSource, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        strip = self._rows.read(start, stop)
        if strip.ndim == 1:
            return strip
        rows = self._reused(stop - start)
        np.copyto(rows, strip)
        return rows

    def close(self) -> None:
        self._rows.close()


# Axes of one image.
_AXES: Final = {"labels": "(H, W)", "pred_probs": "(K, H, W)"}
# Changes images as they are read: those of a source, and the blocks of a Dask array.


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
    """Return the masks of opened image files.

    Parameters
    ----------
    files : sequence of ImageFileSource
        A file for each image, in order.
    where : str
        Where they are, for messages.

    Raises
    ------
    InvalidInputError
        If their dtypes differ.
    """
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
        first = members[0]
        names = [member_name(number, "images") for number in range(len(members))]
        check_members(names, [(len(member), *member.classes[:1]) for member in members])
        for name, member in zip(names, members, strict=True):
            _check_sizes(names[0], first.sizes, name, member.sizes)
        return OpenedImages(
            Ensemble([member.rows for member in members], pred_probs.weights), first.sizes, first.classes, first.is_list
        )
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
    fewest = int(planes.classes.min())
    _refuse_channels_last(labels, planes)
    if fewest < 2:
        raise InvalidInputError(
            f"pred_probs has {fewest} plane for each image; of the probabilities p of one class of two give both: "
            "np.concatenate([1 - p, p], axis=1)"
        )
    other = np.flatnonzero(planes.classes != planes.classes[0])
    if len(other):
        raise InvalidInputError(
            f"image {other[0]:,} of pred_probs has {planes.classes[other[0]]} planes, image 0 has {planes.classes[0]}: "
            "there must be one for each of the same K classes"
        )
    _check_sizes("the mask", labels.sizes, "pred_probs", planes.sizes)


def _check_sizes(name: str, sizes: npt.NDArray[np.int64], other_name: str, others: npt.NDArray[np.int64]) -> None:
    differs = (sizes != others).any(axis=1)
    if not differs.any():
        return
    image = int(differs.argmax())
    (height, width), (other_height, other_width) = sizes[image].tolist(), others[image].tolist()
    more = int(differs.sum()) - 1
    text = f"image {image:,}: {name} has {height} x {width} pixels, {other_name} {other_height} x {other_width}"
    if more:
        text += f" ({rows_in_words(more, 'more image differs', 'more images differ')})"
    if (height, width) == (other_width, other_height):
        raise InvalidInputError(f"{text}: are the axes of one swapped? Height comes first")
    smaller = height % other_height == width % other_width == 0 and height // other_height == width // other_width
    if smaller:
        text += f": the predictions are smaller by a factor of {height // other_height}; scale them to the mask first"
    raise InvalidInputError(text)


def _refuse_channels_last(labels: OpenedImages, planes: OpenedImages) -> None:
    """Raise if the classes are the last axis of `planes`, as the sizes of the masks show."""
    (height, width), (rows, columns), n = labels.sizes[0], planes.sizes[0], planes.classes[0]
    if (height, width) == (rows, columns) or (height, width) != (n, rows):
        return
    shape = f"({n}, {rows}, {columns})" if planes.is_list else f"({len(planes):,}, {n}, {rows}, {columns})"
    line = "np.moveaxis(pred_probs, -1, 1)"
    if planes.is_list:
        line = "[np.moveaxis(one, -1, 0) for one in pred_probs]"
    raise InvalidInputError(
        f"pred_probs has shape {shape}, with the classes last, where the masks are of {height} x {width} pixels: "
        f"classes come before height and width. Write pred_probs = {line}"
    )


def _opened_arrays(name: str, data: Any) -> tuple[list[Opened], bool]:
    """Return opened arrays of images, each with an axis of images, and whether they were given one by one."""
    n_axes = _AXES[name].count(",") + 1
    if data is None:
        raise InputTypeError(f"{name} is missing")
    if isinstance(data, np.ndarray) and data.dtype == object:
        data = list(data)
    if isinstance(data, str | os.PathLike) or (isinstance(data, list | tuple) and data and are_places(data)):
        one = isinstance(data, str | os.PathLike)
        found = open_place(name, data, _separate) if one else open_places(name, data, _separate)  # type: ignore[arg-type]
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
            f"{name} has shape {_shown(opened_any)}, that of a single image: give {name}[np.newaxis], or a list"
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
        f"{where} must have shape (N, {_AXES[name][1:]}, or {_AXES[name]} for one image, not {_shown(opened)}{hint}"
    )


def _shown(opened: Opened) -> str:
    return str(tuple(int(size) for size in opened.shape))


def _whole_numbers(labels: Opened) -> Opened:
    """Return masks of integers; of booleans in memory as such."""
    if labels.dtype.kind in "iu":
        return labels
    if labels.dtype.kind == "b" and isinstance(labels, ArraySource):
        return ArraySource(labels.array.view(np.uint8))
    hints = {
        "b": "convert them to np.uint8",
        "f": "convert them to integers if all are whole numbers",
    }
    hint = hints.get(labels.dtype.kind, "each pixel has the number of its class")
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
    if len(rows) == 1:
        return rows[0]
    if all(isinstance(one, Source) for one in rows):
        if all(isinstance(one, ArraySource | PixelSource) and one.facts.in_memory for one in rows):
            where = f"{len(rows):,} arrays in memory"
        columns = {one.shape[1:] for one in rows}
        # The number of classes is compared later, with the other sizes.
        return ShardsSource.checked(name, rows, where) if len(columns) == 1 else rows[0]
    if any(isinstance(one, Source) for one in rows):
        raise InputTypeError(f"{name} is a list of Dask arrays and others: give one kind")
    import dask.array as da

    return da.concatenate(rows) if len({one.shape[1:] for one in rows}) == 1 else rows[0]


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
