"""Row summaries of logits, the same to the bit as those of their probabilities.

A row needs all of its exponentials, for their sum, but only two quotients: the probabilities of the label and of the
predicted class. No other quotient is computed, unless a score needs whole rows. Exponentials are computed in blocks
that stay in the cache.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints
from labelsieve.confident_learning.softmax import (
    exponentials,
    record_bad_logits,
    record_suspicious_logits,
    row_blocks,
    softmax,
)
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.summary_block import SummaryBlock

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
