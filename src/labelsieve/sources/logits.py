"""Logits in place of probabilities: the softmax of each row is computed as it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s
from labelsieve.confident_learning.logit_summarizer import LogitSummarizer
from labelsieve.confident_learning.softmax import softmax
from labelsieve.errors import InvalidInputError
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.derived import DerivedSource

if TYPE_CHECKING:
    import dask.array as da


def softmax_blocks(array: da.Array, *, allow_zero_rows: bool = False) -> da.Array:
    """Return the probabilities of a user's Dask array of logits whose chunks span all classes.

    Rows without probabilities are NaN, and rows of zeros stay rows of zeros unless these are accepted, so that the
    first pass reports them.
    """
    keywords = {"allow_zero_rows": allow_zero_rows}
    found: da.Array = array.map_blocks(_softmax_block, dtype=np.float64, meta=np.empty((0, 0)), **keywords)
    return found


def _softmax_block(block: Any, *, allow_zero_rows: bool) -> Float64s:
    if isinstance(block, np.ma.MaskedArray) and np.ma.is_masked(block):
        raise InvalidInputError("a block of the Dask array pred_probs has masked values: drop or fill them first")
    logits = np.asarray(block)
    probs = softmax(logits)
    if not allow_zero_rows:
        probs[~logits.any(axis=1)] = 0
    return probs


class LogitsSource(DerivedSource):
    """Probabilities in float64 of stored logits.

    Parameters
    ----------
    source : Source
        ``(N, K)`` logits.
    """

    summarizer = LogitSummarizer

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float64)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _SoftmaxRows(self, self.source.open(start, stop))

    def convert(self, rows: npt.NDArray[Any], first_row: int) -> Float64s:  # noqa: ARG002  # no messages
        """Return the probabilities of the rows."""
        return softmax(rows)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the logits themselves, which `LogitSummarizer` takes."""
        return self.source.open(start, stop)


class _SoftmaxRows(Rows):
    def __init__(self, source: LogitsSource, rows: Rows) -> None:
        super().__init__(source)
        self._rows = rows

    def read(self, start: int, stop: int) -> Float64s:
        return softmax(self._rows.read(start, stop), self._reused(stop - start))

    def close(self) -> None:
        self._rows.close()
