"""The confident joint of rows of which only the largest few probabilities are kept, where these are enough.

A class that was not kept has a probability of at most the smallest one kept. If that reaches no threshold of such a
class, or if several of the classes that were kept are reached, the row is counted as with all of its probabilities.
A run with rows for which this does not hold is refused, with their number, since its answer might be wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, JointAssigner, JointCounter
from labelsieve.confident_learning.dtypes import Bools, Float64s
from labelsieve.confident_learning.row_sums import SUM_TOLERANCE
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.thresholds import adjusted_thresholds
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError
from labelsieve.settings import FLOAT_TOLERANCE, MIN_THRESHOLD

# Fields of such rows: the largest probabilities, in descending order, and their classes.
TOP_CLASSES, TOP_PROBS = "top_classes", "top_probs"


class TopClassAssigner(JointAssigner):
    """Assigns rows to classes of the confident joint by their largest probabilities.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of the probabilities.

    Attributes
    ----------
    n_unproved : int
        Number of rows so far for which a class that was not kept could matter.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        super().__init__(thresholds, dtype)
        self._ascending = np.sort(self._thresholds)
        self.n_unproved = 0

    def assign(self, summary: SummaryBlock, probs: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], Bools]:
        """Return the ``(n,)`` classes of a strip of structured rows, and which rows are counted at all."""
        classes = summary.predicted.astype(np.intp)
        counted = summary.p_predicted >= self._thresholds[classes]
        rows = np.flatnonzero(~counted & (summary.p_predicted >= self._lowest))
        if not len(rows):
            return classes, counted
        kept, values = probs[TOP_CLASSES][rows].astype(np.intp), probs[TOP_PROBS][rows].astype(np.float64)
        # The label's probability is known too, wherever it is.
        labels, p_label = summary.label[rows].astype(np.intp), summary.p_label[rows].astype(np.float64)
        is_new = ~(kept == labels[:, np.newaxis]).any(axis=1)
        kept = np.column_stack([kept, labels])
        known = np.column_stack([np.ones(values.shape, np.bool_), is_new])
        thresholds = self._thresholds[kept]
        reached = known & (np.column_stack([values, p_label]) >= thresholds)
        n_reached, most = reached.sum(axis=1), values[:, -1]
        counted[rows] = n_reached > 0
        single = n_reached == 1
        classes[rows[single]] = kept[single, reached[single].argmax(axis=1)]
        # Classes whose threshold is low enough for what was not kept, except those that are known.
        possible = np.searchsorted(self._ascending, most, side="right")
        possible -= (known & (thresholds <= most[:, np.newaxis])).sum(axis=1)
        self.n_unproved += int(np.count_nonzero((possible > 0) & (n_reached < 2)))
        return classes, counted


class TopClassCounter(JointCounter):
    """Counts rows by the confident joint, of structured rows with their largest probabilities.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of the probabilities.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        super().__init__(thresholds, dtype)
        self._assigner: TopClassAssigner = TopClassAssigner(thresholds, dtype)
        lowest = max(float(adjusted_thresholds(thresholds).min()), MIN_THRESHOLD - FLOAT_TOLERANCE)
        # No more classes of a row than this can have such a probability.
        self._enough = min(len(thresholds), int((1 + SUM_TOLERANCE) / lowest) + 1)

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and in how many the column `off_diagonal` is true.

        Raises
        ------
        InvalidInputError
            If too few probabilities were kept of some row.
        """
        n = self._assigner.n_unproved
        if n:
            raise InvalidInputError(
                f"the probabilities kept of {rows_in_words(n, 'row', 'rows')} are too few for the exact rule: a class "
                f"that was not kept may reach its threshold. Record with classes_per_row={self._enough}, which is "
                "enough for rows that sum to 1, or give labels and pred_probs"
            )
        return super().counts()
