"""A Dask array as a source: what reads its rows computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source

if TYPE_CHECKING:
    import dask.array as da


class DaskRows(Source):
    """The rows of a user's Dask array, which each task computes for itself, chunk by chunk.

    Parameters
    ----------
    array : dask.array.Array
        Of known chunks.
    """

    in_pieces = False

    def __init__(self, array: da.Array) -> None:
        super().__init__(array.shape, array.dtype, max(array.chunks[0], default=1))
        self._array = array

    @property
    def where(self) -> str:
        """What it is."""
        return "a Dask array"

    @property
    def row_edges(self) -> npt.NDArray[np.int64]:
        """The rows at which chunks end."""
        ends = np.cumsum(self._array.chunks[0], dtype=np.int64)
        return ends[np.diff(ends, prepend=0) > 0]

    def _content(self) -> str:
        """Return the name of the array, which says what it computes."""
        return str(self._array.name)

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return these rows alone: a task is not sent the graph of all others."""
        return DaskRows(self._array[start:stop]), start

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # computed when they are read
        """Open for reading."""
        return _DaskReader(self, self._array)


class _DaskReader(Rows):
    def __init__(self, source: DaskRows, array: da.Array) -> None:
        super().__init__(source)
        self._array = array

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        # In the thread of the task, which the scheduler has counted already.
        block = self._array[start:stop].compute(scheduler="synchronous")
        if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
            raise InvalidInputError("a block of the Dask array has masked values: drop or fill them first")
        return np.asarray(block)
