"""A second look at rows, now that the thresholds are known: the class as which each is counted. NumPy only.

Covers: the exact rule of confident learning, strip by strip.
Does not cover: the counts by pairs of classes (`confident`), the read (`rereads`).

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

from labelsieve.kernels import RowSummary
from labelsieve.scores import Floats
from labelsieve.settings import FLOAT_TOLERANCE

# Up to this many classes a loop over columns beats a search in a flat mask.
_FEW_CLASSES: Final = 32
# Beyond this share of a strip's rows it is faster to compare all of them than to gather some.
_MOST_ROWS: Final = 0.4

Float64s = npt.NDArray[np.float64]
Counted = tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]


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
        self._signed = np.dtype(f"i{dtype.itemsize}")
        self._bars = smallest_at_least(reached, dtype).view(self._signed)
        self._reached, self._least = reached, reached.min()
        self._mask: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)

    def __call__(self, probs: Floats, summary: RowSummary) -> Counted:
        """Return the ``(n,)`` classes of the ``(n, K)`` strip `probs`, and which rows are counted at all.

        `summary` is that of the same rows.
        """
        classes = summary.predicted.astype(np.intp)
        counted = summary.p_predicted >= self._reached[classes]
        rows = np.flatnonzero(~counted & (summary.p_predicted >= self._least))
        if not len(rows):
            return classes, counted
        bits = np.ascontiguousarray(probs).view(self._signed)
        if len(rows) < _MOST_ROWS * len(bits):
            n_reached, last = self._count(bits[rows])
        else:
            n_reached, last = (found[rows] for found in self._count(bits))
        counted[rows] = n_reached > 0
        single = n_reached == 1
        classes[rows[single]] = last[single]
        return classes, counted

    def _count(self, bits: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return how many classes each row reaches, and one of them."""
        few = self.n_classes <= _FEW_CLASSES
        return self._count_columns(bits) if few else self._count_flat(bits)

    def _count_columns(self, bits: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        columns = np.ascontiguousarray(bits.T)
        n_reached, last = np.zeros(len(bits), np.uint8), np.zeros(len(bits), np.uint8)
        for k in range(self.n_classes):
            reached = (columns[k] >= self._bars[k]).view(np.uint8)
            n_reached += reached
            np.maximum(last, reached * np.uint8(k), out=last)
        return n_reached, last

    def _count_flat(self, bits: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        n_flags = bits.size
        if len(self._mask) < n_flags + 8:
            self._mask = np.zeros(n_flags + 8, np.bool_)
        mask = self._mask[:n_flags]
        np.greater_equal(bits, self._bars, out=mask.reshape(bits.shape))
        n_words = -(-n_flags // 8)
        self._mask[n_flags : 8 * n_words] = False
        # Few classes are reached: eight flags are skipped at a time.
        words = np.flatnonzero(self._mask[: 8 * n_words].view(np.uint64))
        flags = np.flatnonzero(self._mask[: 8 * n_words].reshape(-1, 8)[words])
        where = 8 * words[flags >> 3] + (flags & 7)
        rows, last = where // self.n_classes, np.zeros(len(bits), np.intp)
        last[rows] = where - rows * self.n_classes
        return np.bincount(rows, minlength=len(bits)), last


def smallest_at_least(values: Float64s, dtype: np.dtype[Any]) -> Floats:
    """Return the smallest numbers of `dtype` that are no less than `values`, for comparisons as if in float64."""
    rounded = values.astype(dtype)
    low = rounded.astype(np.float64) < values
    return np.where(low, np.nextafter(rounded, dtype.type(np.inf)), rounded).astype(dtype)
