"""Pixels of images as rows: labels ``(N, H, W)`` and probabilities ``(N, K, H, W)`` as they are stored.

The pixels of one image follow each other row by row. The probabilities of an image are K planes, one for each class;
the first pass takes pieces of planes as they are (`PlaneSummarizer`), and only what needs whole rows transposes them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.plane_summarizer import PlaneSummarizer
from labelsieve.errors import UnreadableDataError
from labelsieve.settings import PROBABILITY_TOLERANCE
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Rows, Source, read_into
from labelsieve.sources.derived import WrappedSource
from labelsieve.sources.npy import NpySource
from labelsieve.sources.versions import MissingRows
from labelsieve.sources.zarr_arrays import ZarrSource, chunk_decoder

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
        self.row_chunk, self.forkable, self.request_rows = None, False, None
        # The whole array is read for one row.
        self.decoding_bytes += source.row_bytes * min(source.row_chunk or 0, source.n_rows)

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
        self.row_chunk = source.row_chunk and source.row_chunk * self.image_rows
        self.request_rows = source.request_rows and source.request_rows * self.image_rows
        # Any part of the images that are held costs nothing.
        self.in_pieces = True
        if not self.reads_planes:
            held = self.held_images * source.row_bytes
            self.decoding_bytes = source.decoding_bytes + held * _copies(source)
            self.decoding_note = source.decoding_note or f"images of {source.row_bytes / 1e6:,.3g} MB"

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
        chunk = min(self.source.row_chunk or 1, self.source.n_rows)
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

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes alone."""
        if self.reads_planes:
            return self.open_raw(start, stop)
        first, last = self._images_of(start, stop)
        return _HeldPixels(self, self.source.open_stored(first, last, count), last)

    def _images_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of images that hold pixels ``[start, stop)``."""
        return start // self.image_rows, -(-stop // self.image_rows)


def _copies(images: Source) -> int:
    """Return the number of copies of images that a thread holds while it decodes them."""
    if not images.is_encoded:
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
        self._chunk, self._step = min(source.source.row_chunk or 1, source.source.n_rows), source.held_images
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
