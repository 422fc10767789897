"""Row summaries that exist already: recorded by a model's own loop, or computed by a query.

A strip of them is a structured array with the fields `predicted`, `p_label` and `p_predicted`, and one field for each
recorded column: a score under the name of its method, or ``row_sum``. The label comes beside it, as for probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints, class_dtype, unsigned_dtype
from labelsieve.confident_learning.quality_scores import column_kernels
from labelsieve.confident_learning.summarizer import Summarizer, record_bad_values, record_low_rows
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.errors import InvalidInputError
from labelsieve.settings import METHODS, PROBABILITY_TOLERANCE, Settings

# Columns of every recorded summary, besides the label.
FIELDS: Final = ("predicted", "p_label", "p_predicted")
# The recorded sums of rows, which adjusted self-confidence needs.
ROW_SUM: Final = "row_sum"
# Columns that can be recorded too.
RECORDABLE: Final = (*(method for method in METHODS if method != "self_confidence"), ROW_SUM)
# A score whose method only the user knows.
ANY_SCORE: Final = "score"


def check_recordable(scores: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns to record, each once and in one order.

    Raises
    ------
    InvalidInputError
        For a column that is not `RECORDABLE`.
    """
    given = (scores,) if isinstance(scores, str) else tuple(scores)
    unknown = sorted(str(name) for name in given if name not in RECORDABLE)
    if unknown:
        raise InvalidInputError(f"scores must be among {', '.join(RECORDABLE)}; not {', '.join(unknown)}")
    return tuple(name for name in RECORDABLE if name in given)


def summary_dtype(n_classes: int, dtype: np.dtype[Any], recorded: Iterable[str] = ()) -> np.dtype[Any]:
    """Return the dtype of recorded summaries.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    dtype : dtype
        Dtype of the probabilities.
    recorded : iterable of str
        Names of the recorded columns.
    """
    fields: list[tuple[str, Any]] = [("predicted", class_dtype(n_classes)), ("p_label", dtype), ("p_predicted", dtype)]
    return np.dtype(fields + [(name, np.float64) for name in recorded])


def recorded_columns(settings: Settings, recorded: Collection[str]) -> dict[str, str]:
    """Return the recorded column from which each computed column of the table is taken.

    Parameters
    ----------
    settings : Settings
        How rows are scored.
    recorded : collection of str
        Names of the recorded columns.

    Raises
    ------
    InvalidInputError
        If one is not recorded. The message says what to record.
    """
    found = {}
    for column in column_kernels(settings):
        if column == ROW_SUM:
            name, what = ROW_SUM, "adjust_pred_probs=True"
        else:
            name, what = settings.method, f"method={settings.method!r}"
        if name not in recorded and column == ANY_SCORE and ANY_SCORE in recorded:
            name = ANY_SCORE
        if name not in recorded:
            others = f"recorded are {', '.join(recorded)}" if recorded else "no such column is recorded"
            raise InvalidInputError(
                f"{what} needs the column {name} in the summaries ({others}): record it with scores=({name!r},)"
            )
        found[column] = name
    return found


class RecordedSummarizer(Summarizer):
    """Checks recorded summaries strip by strip and adds up their totals.

    Parameters
    ----------
    n_rows, n_classes, dtype, settings, first_row, thresholds, ignored
        As for `Summarizer`. There are no thresholds: scores are recorded.
    """

    def _add(self, labels: Ints, probs: npt.NDArray[Any]) -> SummaryBlock:
        """Check the next strip, a structured array, and return its summaries as a view."""
        recorded, n, first = probs, len(probs), self._first_row + self._filled
        out, summary = slice(self._filled, self._filled + n), self._summary
        checked = self._checked_labels(labels, first)
        predicted, possible = self._checked_predicted(recorded["predicted"], first)
        p_label, p_predicted, are_probabilities = self._checked_probabilities(recorded, first)
        # Rows with a bad value are reported for that alone.
        self._check_order(checked, predicted, p_label, p_predicted, possible & are_probabilities & (checked == labels))
        summary.label[out], summary.predicted[out] = checked, predicted
        summary.p_label[out], summary.p_predicted[out] = p_label, p_predicted
        for column, name in recorded_columns(self._settings, recorded.dtype.names or ()).items():
            getattr(summary, column)[out] = self._checked_scores(name, recorded[name], first)
        self._filled += n
        return summary[out]

    @staticmethod
    def _without_doubt(strip: npt.NDArray[Any], rows: Bools) -> npt.NDArray[Any]:
        """Return a copy of a strip in which the chosen rows are good rows of class 0."""
        strip = np.array(strip)
        strip["predicted"][rows] = 0
        for name in (strip.dtype.names or ())[1:]:  # probabilities, scores and sums may all be 1
            strip[name][rows] = 1
        return strip

    @staticmethod
    def probabilities(strip: Any) -> Floats:
        """Raise: a recorded summary does not have all probabilities of its row."""
        raise RuntimeError(f"{len(strip):,} recorded summaries do not have all probabilities of their rows")

    def _checked_predicted(self, predicted: Ints, first: int) -> tuple[Ints, Bools]:
        """Return the predicted classes, 0 for those outside 0..K-1, and which are inside."""
        inside: Bools = (predicted >= 0) & (predicted < self.n_classes)
        if not inside.all():
            rows = np.flatnonzero(~inside)
            self.findings.add("predicted", rows, first, example=int(predicted[rows[0]]))
            predicted = np.where(inside, predicted, 0)
        return predicted.astype(np.intp), inside

    def _checked_probabilities(self, recorded: npt.NDArray[Any], first: int) -> tuple[Floats, Floats, Bools]:
        """Return the probabilities of both classes, 0.5 for values that are none, and which rows have no such value."""
        p_label, p_predicted = (np.ascontiguousarray(recorded[name], self.dtype) for name in ("p_label", "p_predicted"))
        good, bits = np.ones(len(recorded), np.bool_), unsigned_dtype(self.dtype)
        pair: Floats | None = None
        if max(p_label.view(bits).max(), p_predicted.view(bits).max()) > self._one_bits:
            given = np.stack([p_label, p_predicted], axis=1)
            pair = record_bad_values(given, first, self.findings)
            good = (pair == given).all(axis=1)
            p_label, p_predicted = pair[:, 0], pair[:, 1]
        if p_predicted.min() < self._low_limit:
            record_low_rows(pair, p_predicted, self._low_limit, first, self.findings)
        return p_label, p_predicted, good

    def _check_order(self, labels: Ints, predicted: Ints, p_label: Floats, p_predicted: Floats, rows: Bools) -> None:
        """Record which of `rows` have another largest probability than `p_predicted`, or another first class of it."""
        same = labels == predicted
        larger = np.flatnonzero(np.where(same, p_label != p_predicted, p_label > p_predicted) & rows)
        earlier = np.flatnonzero((p_label == p_predicted) & (labels < predicted) & rows)
        first = self._first_row + self._filled
        if len(larger):
            self.findings.add("not_largest", larger, first, example=float(p_label[larger[0]]))
        if len(earlier):
            self.findings.add("not_first", earlier, first, example=int(labels[earlier[0]]))

    def _checked_scores(self, name: str, scores: Floats, first: int) -> Float64s:
        """Return a recorded column, with 0.5 for values that are not possible."""
        low, high = -PROBABILITY_TOLERANCE, 1 + PROBABILITY_TOLERANCE
        if name == ROW_SUM:
            low, high = self.n_classes * low, self.n_classes * high
        possible = (scores >= low) & (scores <= high)
        if not possible.all():
            rows = np.flatnonzero(~possible)
            self.findings.add(
                "row_sum_value" if name == ROW_SUM else "score", rows, first, example=float(scores[rows[0]])
            )
            scores = np.where(possible, scores, 0.5)
        return scores.astype(np.float64) + 0.0  # -0.0 counts as 0.0
