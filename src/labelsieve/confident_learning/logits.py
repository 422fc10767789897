"""Probabilities of logits: ``exp(x - max(x)) / sum`` of each row, in float64.

The bits of a row's probabilities depend on that row alone, not on the rows around it: the exponentials are NumPy's, and
the sum is NumPy's over a contiguous row. So the rows may be computed in blocks that stay in the cache.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.checks import LIKE_PROBABILITIES, SUM_TOLERANCE, Findings
from labelsieve.confident_learning.summaries import SummaryBlock
from labelsieve.confident_learning.summarize import Summarizer
from labelsieve.confident_learning.thresholds import Bools, Float64s, Floats, Ints
from labelsieve.options import PROBABILITY_TOLERANCE

# Values that are computed at a time. The exponentials of a block, 1 MB, stay in the second-level cache.
_BLOCK_VALUES: Final = 1 << 17


def softmax(logits: Floats, out: Float64s | None = None) -> Float64s:
    """Return the probabilities of logits.

    Parameters
    ----------
    logits : (n, K) float16, float32 or float64
        Logits, in any memory layout. A class whose logit is -inf has probability 0.
    out : (n, K) float64, C-ordered, optional
        Where to put the probabilities.

    Returns
    -------
    (n, K) float64
        The probabilities. Rows that `record_bad_logits` records are NaN.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0, -np.inf], [1000.0, 1000.0, 1000.0]], np.float32)).round(3)
    array([[0.5  , 0.5  , 0.   ],
           [0.333, 0.333, 0.333]])
    """
    probs = np.empty(logits.shape, np.float64) if out is None else out
    for rows in row_blocks(*logits.shape):
        block = probs[rows]
        sums = exponentials(logits[rows], block)
        block /= sums[:, np.newaxis]
    return probs


def row_blocks(n_rows: int, n_classes: int) -> list[slice]:
    """Return the blocks of rows whose exponentials stay in the cache."""
    step = max(1, _BLOCK_VALUES // n_classes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def exponentials(logits: Floats, out: Float64s, largest: Float64s | None = None) -> Float64s:
    """Compute ``exp(x - max(x))`` of each row, and return the ``(n,)`` sums of the rows.

    Parameters
    ----------
    logits : (n, K) float
        Logits.
    out : (n, K) float64, C-ordered
        Where to put the exponentials.
    largest : (n,) float64, optional
        The largest logit of each row, if it is known.
    """
    # What is NaN stays NaN, and exponentials that are too small are 0.
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        np.copyto(out, logits)
        out -= (out.max(axis=1) if largest is None else largest)[:, np.newaxis]
        np.exp(out, out=out)
        sums: Float64s = np.add.reduce(out, axis=1)
    return sums


def record_bad_logits(logits: Floats, first_row: int, findings: Findings) -> None:
    """Record logits that are NaN or +inf, and rows that are all -inf.

    Parameters
    ----------
    logits : (n, K) float
        Logits of consecutive rows.
    first_row : int
        Number of the first row.
    findings : Findings
        They are added as ``"nan_logit"``, ``"infinite_logit"`` and ``"empty_logits"``.
    """
    bad = {"nan_logit": np.isnan(logits), "infinite_logit": np.isposinf(logits)}
    for kind, where in bad.items():
        rows = np.flatnonzero(where.any(axis=1))
        findings.add(kind, rows, first_row, n_values=int(np.count_nonzero(where)))
    findings.add("empty_logits", np.flatnonzero(np.isneginf(logits).all(axis=1)), first_row)


def record_suspicious_logits(logits: Floats, largest: Float64s, first_row: int, findings: Findings) -> None:
    """Record rows of logits that are all zeros, and rows that look like probabilities.

    Parameters
    ----------
    logits : (n, K) float
        Logits of consecutive rows.
    largest : (n,) float64
        The largest of each row.
    first_row : int
        Number of the first row.
    findings : Findings
        They are added as ``"zero_row"`` and ``"like_probabilities"``. The second is of interest only if all rows are
        such, so that it is not recorded if the largest logits of some are not probabilities.
    """
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        findings.add("zero_row", zero[~logits[zero].any(axis=1)], first_row)
    if largest.min() < (1 - PROBABILITY_TOLERANCE) / logits.shape[1] or largest.max() > 1 + PROBABILITY_TOLERANCE:
        return
    sums = np.add.reduce(logits, axis=1, dtype=np.float64)
    alike = (logits.min(axis=1) >= -PROBABILITY_TOLERANCE) & (np.abs(sums - 1) <= SUM_TOLERANCE)
    findings.add(LIKE_PROBABILITIES, np.flatnonzero(alike), first_row)


# The exponential of the largest logit is 1. Another may have the same quotient only if it is above this.
_NEARLY_ONE: Final = 1 - 2.0**-50
# If the largest logit is beyond this, the next smaller float32 is less by more than 2**-50.
_SMALL: Final = 2.0**-20


class LogitSummarizer(Summarizer):
    """Summarizes rows of logits strip by strip. Its `dtype` is that of the probabilities, float64."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exponentials: Float64s = np.empty((0, self.n_classes))

    def _add(self, labels: Ints, logits: Floats) -> SummaryBlock:
        """Summarize the next strip of ``(n, K)`` logits, and return its summaries as a view."""
        n, first = len(logits), self._first_row + self._filled
        out = slice(self._filled, self._filled + n)
        # Maxima of float16 are slow; float32 holds all its values.
        logits = np.ascontiguousarray(logits, np.promote_types(logits.dtype.newbyteorder("="), np.float32))
        summary, labels = self._summary[out], self._checked_labels(labels, first)
        predicted = logits.argmax(axis=1)
        largest = self._rows.values(logits, predicted).astype(np.float64)
        # What is NaN, of bad rows, stays NaN.
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            sums = self._row_sums_of(logits, labels, largest, predicted, summary)
            summary.p_label[:] = np.exp(self._rows.values(logits, labels) - largest) / sums
            summary.p_predicted[:] = 1 / sums
        bad = np.isnan(sums)
        if bad.any():
            record_bad_logits(logits, first, self.findings)
            # The run ends with an error; go on to find all of them.
            predicted[bad], summary.p_label[bad], summary.p_predicted[bad] = 0, 0.5, 0.5
        record_suspicious_logits(logits, largest, first, self.findings)
        summary.label[:], summary.predicted[:] = labels, predicted
        self._filled += n
        return summary

    def _row_sums_of(
        self, logits: Floats, labels: Ints, largest: Float64s, predicted: Ints, summary: SummaryBlock
    ) -> Float64s:
        """Return the sums of the exponentials of rows.

        Sets the computed columns of `summary`, and corrects `predicted` where another class has the same probability.
        """
        blocks = row_blocks(*logits.shape)
        if len(self._exponentials) < blocks[0].stop:
            self._exponentials = np.empty((blocks[0].stop, self.n_classes))
        small = np.abs(largest) < _SMALL if logits.dtype == np.float32 else np.ones(len(logits), np.bool_)
        sums = np.empty(len(logits))
        for rows in blocks:
            some = self._exponentials[: rows.stop - rows.start]
            sums[rows] = exponentials(logits[rows], some, largest[rows])
            if small[rows].any():
                _correct_ties(some, sums[rows], predicted[rows])
            if self._kernels:
                some /= sums[rows, np.newaxis]
                for name, kernel in self._kernels.items():
                    getattr(summary, name)[rows] = kernel(some, labels[rows])
        return sums

    @staticmethod
    def _without_doubt(strip: Any, rows: Bools) -> Any:
        """Return a copy of a strip in which the chosen rows are good rows of class 0, but not like probabilities."""
        strip = np.array(strip)
        strip[rows] = 0
        strip[rows, 0] = 2
        return strip

    @staticmethod
    def probabilities(strip: Any) -> Floats:
        """Return the ``(n, K)`` probabilities of a strip of logits."""
        probs: Floats = softmax(strip)
        return probs


def _correct_ties(powers: Float64s, sums: Float64s, predicted: Ints) -> None:
    """Set `predicted`, the first largest logit, to the first largest quotient: close logits may have the same."""
    nearly_one = (powers > _NEARLY_ONE).argmax(axis=1)
    rows = np.flatnonzero(nearly_one < predicted)
    if len(rows):
        predicted[rows] = (powers[rows] / sums[rows, np.newaxis]).argmax(axis=1)
