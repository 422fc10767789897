"""Images whose pixels are merged to blocks as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s, Ints
from labelsieve.confident_learning.row_sums import SUM_TOLERANCE
from labelsieve.errors import InvalidInputError
from labelsieve.settings import PROBABILITY_TOLERANCE
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.derived import WrappedSource
from labelsieve.sources.versions import MissingRows

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True)
class BlockMajority:
    """Merges the labels of blocks of pixels: the label that most of them have, the lowest of several.

    Pixels without a label have no vote. A label that is no class wins, so that the run reports it.

    Parameters
    ----------
    factor : int
        Pixels of a block along both axes.
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value that says that a pixel has no label.
    """

    factor: int
    n_classes: int
    ignored: int | None = None

    def __call__(self, images: Source | da.Array) -> Source | da.Array:
        """Return the merged images."""
        return _merged(images, self, images.dtype)

    def merge(self, images: Ints) -> Ints:
        """Return the ``(n, H / f, W / f)`` labels of ``(n, H, W)`` images."""
        n, height, width = images.shape
        blocks = images.reshape(n, height // self.factor, self.factor, width // self.factor, self.factor)
        merged = blocks[:, :, 0, :, 0].copy()
        most = np.zeros(merged.shape, np.int64)
        present = np.unique(images).tolist()
        if self.ignored is not None and self.ignored in present:  # others may be no values of the dtype
            merged[:] = self.ignored
        for label in present:
            if label == self.ignored:
                continue
            votes = (blocks == label).sum(axis=(2, 4))
            if not 0 <= label < self.n_classes:
                votes[votes > 0] = self.factor**2 + 1
            wins = votes > most
            merged[wins], most[wins] = label, votes[wins]
        return merged


@dataclass(frozen=True)
class BlockMean:
    """Merges the probabilities of blocks of pixels: their mean in float64, divided by its sum over the classes.

    A block that has a pixel whose values cannot be a distribution has the values of that pixel, so that the run reports
    it.

    Parameters
    ----------
    factor : int
        Pixels of a block along both axes.
    any_sum : bool
        Whether pixels whose probabilities do not sum to 1 are accepted.
    """

    factor: int
    any_sum: bool = False

    def __call__(self, images: Source | da.Array) -> Source | da.Array:
        """Return the merged images."""
        if images.dtype.kind != "f" or images.dtype.itemsize not in (2, 4, 8):
            raise InvalidInputError(
                f"downsample takes the mean of float16, float32 or float64, not of {images.dtype}: convert pred_probs"
            )
        return _merged(images, self, np.dtype(np.float64))

    def merge(self, images: npt.NDArray[Any]) -> Float64s:
        """Return the ``(n, K, H / f, W / f)`` probabilities of ``(n, K, H, W)`` images."""
        n, n_classes, height, width = images.shape
        merged = np.empty((n, n_classes, height // self.factor, width // self.factor))
        for image, planes in enumerate(images):
            out = merged[image]
            blocks = planes.reshape(n_classes, height // self.factor, self.factor, width // self.factor, self.factor)
            blocks.mean(axis=(2, 4), dtype=np.float64, out=out)
            with np.errstate(invalid="ignore", over="ignore"):
                sums = planes.sum(axis=0, dtype=np.float64)
                good = (planes.min(axis=0) >= -PROBABILITY_TOLERANCE) & (
                    planes.max(axis=0) <= 1 + PROBABILITY_TOLERANCE
                )
                good &= (sums > 0) if self.any_sum else (np.abs(sums - 1) <= SUM_TOLERANCE)
                out /= out.sum(axis=0)
            y, x = np.nonzero(~good)
            out[:, y // self.factor, x // self.factor] = planes[:, y, x]
        return merged


def _merged(images: Source | da.Array, merger: BlockMajority | BlockMean, dtype: np.dtype[Any]) -> Source | da.Array:
    height, width = images.shape[-2:]
    if height % merger.factor or width % merger.factor:
        raise InvalidInputError(
            f"images of {height} x {width} pixels cannot be merged to blocks of {merger.factor} x {merger.factor}: "
            f"both sizes must be multiples of downsample={merger.factor}"
        )
    if isinstance(images, Source):
        return DownsampledSource(images, merger, dtype)
    whole = images.rechunk(dict.fromkeys(range(1, images.ndim), -1))
    chunks = (*whole.chunks[:-2], (height // merger.factor,), (width // merger.factor,))
    found: da.Array = whole.map_blocks(
        merger.merge, dtype=dtype, chunks=chunks, meta=np.empty((0,) * images.ndim, dtype)
    )
    return found


class DownsampledSource(WrappedSource):
    """Stored images whose pixels are merged to blocks.

    Parameters
    ----------
    source : Source
        ``(N, H, W)`` or ``(N, K, H, W)``.
    merger : BlockMajority or BlockMean
        Merges the blocks.
    dtype : dtype
        Of the merged values.
    """

    def __init__(self, source: Source, merger: BlockMajority | BlockMean, dtype: np.dtype[Any]) -> None:
        *inner, height, width = source.shape[1:]
        self.merger, self._inner = merger, (*inner, height // merger.factor, width // merger.factor)
        super().__init__(source, (source.n_rows, *self._inner), dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape, self.forkable = (source.n_rows, *self._inner), False
        # An image is read and merged at a time.
        self.decoding_bytes = source.decoding_bytes + 3 * max(1, source.row_chunk or 1) * source.row_bytes

    def parameters(self) -> dict[str, Any]:
        """Return how blocks are merged."""
        return {"merger": type(self.merger).__name__} | vars(self.merger)

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a stored image."""
        return self.source.read_row_bytes

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _MergedRows(self, self.source.open(start, stop))

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive images that have a version of their own."""
        return self.source.version_rows

    def part_identities(self, ranges: Any) -> list[str]:
        """Return the digests of the stored images. What is computed from them is in `identity`."""
        return self.source.part_identities(ranges)

    def missing_rows(self) -> MissingRows | None:
        """Return the images whose chunks are not stored."""
        return self.source.missing_rows()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds these images, and the image at which it begins."""
        source, origin = self.source.part(start, stop)
        return self.over(source), origin


class _MergedRows(Rows):
    def __init__(self, source: DownsampledSource, rows: Rows) -> None:
        super().__init__(source)
        self._rows, self._merger = rows, source.merger

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        found = self._reused(stop - start)
        for image in range(start, stop):
            found[image - start : image - start + 1] = self._merger.merge(self._rows.read(image, image + 1))
        return found

    def close(self) -> None:
        self._rows.close()
