"""Rows of Arrow record batches, in memory or mapped from a file, and how they are read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.columns import Columns

# Rows whose values are hashed at a time.
_DIGEST_ROWS: Final = 1 << 14


class BatchRows(Rows):
    """Reads rows of record batches; a read that spans several copies them.

    Parameters
    ----------
    source : Source
        Gives the shape and dtype.
    columns : Columns
        Which columns, and how a row of them is read.
    ends : (B,) int64
        The rows at which batches end.
    batch : callable
        Given the number of a batch, returns it as a ``pyarrow.RecordBatch``.
    """

    def __init__(
        self, source: Source, columns: Columns, ends: npt.NDArray[np.int64], batch: Callable[[int], Any]
    ) -> None:
        super().__init__(source)
        self._columns, self._ends, self._batch = columns, ends, batch

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)``."""
        first = int(np.searchsorted(self._ends, start, "right"))
        if start < stop <= self._ends[first]:
            return self._part(first, start, stop)
        out, row = self._reused(stop - start), start
        for index in range(first, len(self._ends)):
            end = min(stop, int(self._ends[index]))
            if row < end:
                out[row - start : end - start] = self._part(index, row, end)
                row = end
            if row >= stop:
                break
        return out

    def _part(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        begin = int(self._ends[index - 1]) if index else 0
        part = self._batch(index).slice(start - begin, stop - start)
        return self._columns.to_numpy([part.column(column) for column in self._columns.columns], start)


class BatchesSource(Source):
    """Columns of record batches in memory as an array; it pickles as a NumPy array.

    Parameters
    ----------
    batches : sequence of pyarrow.RecordBatch
        Only read.
    columns : Columns
        Which columns, and how a row of them is read.
    first_row : int
        Number of the first row in the table of the user, for messages.
    """

    in_memory = True

    def __init__(self, batches: Sequence[Any], columns: Columns, first_row: int = 0) -> None:
        self._batches, self.columns, self._first_row = [batch for batch in batches if len(batch)], columns, first_row
        self._ends = np.array(list(itertools.accumulate(map(len, self._batches))), np.int64)
        self.class_columns = columns.class_columns
        super().__init__((int(self._ends[-1]) if len(self._ends) else 0, *columns.shape), columns.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # A slice of a record batch would pickle with all of its buffers.
        return ArraySource, (np.ascontiguousarray(self[:]),)

    @classmethod
    def of_table(cls, batches: Sequence[Any], columns: Columns) -> Source:
        """Return the source of the columns of a table; one array where that takes no copy, or only one of labels."""
        found = cls(batches, columns)
        one = len(found._batches) == 1 and columns.in_lists
        return ArraySource(found[:]) if one or columns.width is None else found

    @property
    def where(self) -> str:
        """What it is: memory has no path."""
        return self.columns.where

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing to prefetch
        """Open for reading."""
        return BatchRows(self, self.columns, self._ends, self._batches.__getitem__)

    def _content(self) -> str:
        """Return a digest of the values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        with self.open() as rows:
            for start in range(0, self.n_rows, _DIGEST_ROWS):
                block = rows.read(start, min(start + _DIGEST_ROWS, self.n_rows))
                digest.update(np.ascontiguousarray(block).tobytes())
        return digest.hexdigest()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return these rows, without a copy."""
        begins, parts = [0, *self._ends.tolist()], []
        for batch, begin in zip(self._batches, begins, strict=False):
            a, b = max(start - begin, 0), min(stop - begin, len(batch))
            if a < b:
                parts.append(batch.slice(a, b - a))
        return BatchesSource(parts, self.columns, self._first_row + start), start
