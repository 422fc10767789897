"""Sources whose rows come from another source: computed from the same rows, or cut in another way."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from labelsieve.sources.base import Rows, Source
from labelsieve.sources.versions import MissingRows


class WrappedSource(Source):
    """Rows that come from another source, whose versions and places are theirs.

    Parameters
    ----------
    source : Source
        What is stored.
    shape : tuple of int
        ``(N,)`` or ``(N, K)``.
    dtype : dtype
        Dtype of the rows.

    Attributes
    ----------
    source : Source
        What is stored.
    """

    def __init__(self, source: Source, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        super().__init__(shape, np.dtype(dtype), source.row_chunk)
        self._follow(source)

    def _follow(self, source: Source) -> None:
        """Take the facts about reading from `source`."""
        self.source, self.row_chunk = source, source.row_chunk
        self.in_pieces, self.in_memory = source.in_pieces, source.in_memory
        self.request_rows, self.n_side_by_side = source.request_rows, source.n_side_by_side
        self.prefetch_bytes, self.is_encoded = source.prefetch_bytes, source.is_encoded
        self.fill_value, self.listed_at = source.fill_value, source.listed_at
        self.forkable = source.forkable
        self.class_columns = source.class_columns
        self.decoding_bytes, self.decoding_note = source.decoding_bytes, source.decoding_note

    def parameters(self) -> dict[str, Any]:
        """Return what the computed rows depend on, besides the stored rows, as JSON takes it."""
        return {}

    @property
    def derivation(self) -> list[Any]:
        """What is computed from the stored rows, the last step first."""
        return [[type(self).__name__, self.parameters()], *self.source.derivation]

    def over(self, source: Source) -> Self:
        """Return the same conversion of another source."""
        other = copy.copy(self)
        other._follow(source)  # noqa: SLF001  # of the same class
        return other

    @property
    def where(self) -> str:
        """Path or URL of the stored rows."""
        return self.source.where

    def identity(self) -> dict[str, Any]:
        """Return the identity of the stored rows, which may grow, and what is computed from them."""
        stored = self.source.identity()
        facts = super().identity() | {"stored": stored, "parameters": self.parameters()}
        if "shape" in stored:
            return facts
        grows = {name: fact for name, fact in facts.items() if name not in ("shape", "row_chunk")}
        return grows | {"row_shape": list(self.shape[1:])}

    def _content(self) -> Any:
        return self.source.identity()["content"]

    def note_version(self) -> None:
        """Note the version of what is stored."""
        self.source.note_version()

    def check_version(self) -> None:
        """Compare the version of what is stored."""
        self.source.check_version()

    def reachable(self) -> None:
        """Raise unless this process can open what is stored."""
        self.source.reachable()


class DerivedSource(WrappedSource):
    """Rows that are computed from the same rows of another source.

    A subclass says what is computed, in `convert`, and with which parameters, in `parameters`.

    Parameters
    ----------
    source : Source
        Where the rows are stored.
    dtype : dtype
        Dtype of the computed rows.
    """

    def __init__(self, source: Source, dtype: npt.DTypeLike) -> None:
        super().__init__(source, source.shape, dtype)

    def _follow(self, source: Source) -> None:
        super()._follow(source)
        self.shape = source.shape

    @abc.abstractmethod
    def convert(self, rows: npt.NDArray[Any], first_row: int) -> npt.NDArray[Any]:
        """Return the computed rows.

        Parameters
        ----------
        rows : (n, ...) array
            Stored rows; read-only, and valid only during the call.
        first_row : int
            Number of the first of them in `source`, for messages.
        """

    @property
    def arrays(self) -> Sequence[Source]:
        """The same conversion of each stored array."""
        arrays = self.source.arrays
        return [self] if len(arrays) == 1 else [self.over(array) for array in arrays]

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.source.read_row_bytes

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _DerivedRows(self, self.source.open(start, stop))

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes alone."""
        return self.source.open_stored(start, stop, count)

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows at which what is decoded together ends."""
        return self.source.row_edges

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own."""
        return self.source.version_rows

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return the digests of the stored rows. What is computed from them is in `identity`."""
        return self.source.part_identities(ranges)

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored."""
        return self.source.missing_rows()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that holds these rows, and the row at which it begins."""
        source, origin = self.source.part(start, stop)
        return self.over(source), origin


class _DerivedRows(Rows):
    def __init__(self, source: DerivedSource, rows: Rows) -> None:
        super().__init__(source)
        self._source, self._rows = source, rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._source.convert(self._rows.read(start, stop), start)

    def close(self) -> None:
        self._rows.close()
