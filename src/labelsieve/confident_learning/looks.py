"""A second look at rows, now that the thresholds are known: the class as which each is counted. NumPy only.

A row reaches a class where its probability is at least the class's threshold, less 1e-6. One that reaches a single
class is counted as it; one that reaches more is counted as the class that is predicted, be that reached or not; one
that reaches none is not counted (``cleanlab.count.compute_confident_joint``, 2.9). So a row whose predicted class is
reached is counted as it, whatever the others are, and only the rest is looked at: those whose largest probability is as
high as the lowest threshold, and there all K of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, PairCounter
from labelsieve.confident_learning.quality_scores import Float64s, Floats
from labelsieve.confident_learning.radix_select import near_predicted
from labelsieve.confident_learning.row_summary import RowSummary
from labelsieve.confident_learning.thresholds import smallest_at_least
from labelsieve.settings import FLOAT_TOLERANCE

# Up to this many classes a loop over columns beats a search along rows.
_FEW_CLASSES: Final = 32
# Beyond this share of a strip's rows it is faster to compare all of them than to gather some.
_MOST_ROWS: Final = 0.4

Flags = npt.NDArray[np.bool_]
Reached = tuple[Flags, Flags, npt.NDArray[Any]]


class SecondLook:
    """Tells as which class the rows of a strip are counted, with scratch arrays made once.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        reached = thresholds - FLOAT_TOLERANCE
        self.n_classes = len(thresholds)
        # Signed bits order like floats against a number above 0, and float16 compares no other way in good time.
        self._dtype, self._signed = dtype.newbyteorder("="), np.dtype(f"i{dtype.itemsize}")
        self._bars = smallest_at_least(reached, self._dtype).view(self._signed)
        self._reached, self._least = reached, reached.min()
        self._mask: Flags = np.empty(0, np.bool_)

    def __call__(self, probs: Floats, summary: RowSummary) -> tuple[npt.NDArray[np.intp], Flags]:
        """Return the ``(n,)`` classes of the ``(n, K)`` strip `probs`, and which rows are counted at all.

        `summary` is that of the same rows.
        """
        classes = summary.predicted.astype(np.intp)
        counted = summary.p_predicted >= self._reached[classes]
        rows = np.flatnonzero(~counted & (summary.p_predicted >= self._least))
        if not len(rows):
            return classes, counted
        bits = np.ascontiguousarray(probs, dtype=self._dtype).view(self._signed)
        some = bits[rows] if len(rows) < _MOST_ROWS * len(bits) else bits
        found = self._find_columns(some) if self.n_classes <= _FEW_CLASSES else self._find(some)
        any_reached, single, last = found if some is not bits else (column[rows] for column in found)
        counted[rows] = any_reached
        classes[rows[single]] = last[single]
        return classes, counted

    def _find_columns(self, bits: npt.NDArray[Any]) -> Reached:
        """Return of each row whether it reaches any class, whether a single one, and the one."""
        columns = np.ascontiguousarray(bits.T)
        n_reached, last = np.zeros(len(bits), np.uint8), np.zeros(len(bits), np.uint8)
        for k in range(self.n_classes):
            reached = (columns[k] >= self._bars[k]).view(np.uint8)
            n_reached += reached
            np.maximum(last, reached * np.uint8(k), out=last)
        return n_reached > 0, n_reached == 1, last

    def _find(self, bits: npt.NDArray[Any]) -> Reached:
        """Return the same by two searches for a class that is reached, each of which ends with the first one."""
        if len(self._mask) < bits.size:
            self._mask = np.empty(bits.size, np.bool_)
        mask, rows = self._mask[: bits.size].reshape(bits.shape), np.arange(len(bits))
        np.greater_equal(bits, self._bars, out=mask)
        first = mask.argmax(axis=1)
        any_reached = mask[rows, first]
        mask[rows, first] = False
        return any_reached, any_reached & ~mask[rows, mask.argmax(axis=1)], first


class JointCounter:
    """Counts rows by the confident joint, strip by strip.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._look, self._counter, self._n_off = SecondLook(thresholds, dtype), PairCounter(len(thresholds)), 0

    def add(self, summary: RowSummary, probs: Floats) -> Flags:
        """Count the ``(n, K)`` strip `probs`; tell which rows are off the diagonal, and not nearly predicted."""
        classes, counted = self._look(probs, summary)
        self._counter.add(summary.labels, classes, counted)
        off: Flags = counted & (classes != summary.labels)
        rows = np.flatnonzero(off)
        off[rows] = ~near_predicted(
            summary.labels[rows], summary.predicted[rows], summary.p_given[rows], summary.p_predicted[rows]
        )
        self._n_off += int(np.count_nonzero(off))
        return off

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and how many are off the diagonal and not nearly predicted."""
        return self._counter.counts(), self._n_off
