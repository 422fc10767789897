"""Row summaries and totals of the first pass, strip by strip.

Non-negative IEEE floats order like their bits read as unsigned integers. Read like this, negative numbers, NaN,
infinity and numbers above 1 are all larger than 1.0. So one unsigned argmax per row gives the predicted class, its
probability and the check of all values at once. Only a strip that holds a value above 1.0 is checked value by value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import Findings, RowSumCheck, combine_findings
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounter
from labelsieve.confident_learning.misfit import Agreement
from labelsieve.confident_learning.scores import SCORES, ColumnKernel, Settings, column_kernels
from labelsieve.confident_learning.thresholds import (
    SLICE_ROWS,
    Bools,
    ClassSums,
    Float64s,
    Floats,
    Ints,
    SparseClassSums,
    SummaryBlock,
    adjusted_thresholds,
    class_dtype,
    class_sums_chunk,
    class_sums_combine,
    column_sums_chunk,
    label_dtype,
    near_predicted,
    pair_dtype,
    smallest_at_least,
    sparse_sums_combine,
    unsigned_dtype,
)
from labelsieve.errors import InvalidInputError
from labelsieve.options import PROBABILITY_TOLERANCE

# Bytes of pred_probs in a strip. Half of a second-level cache would be the fastest for the arithmetic alone, but
# positioned reads of 4 MB are much faster than reads of 1 MB (measured: 40 and 24 GB/s on two threads).
STRIP_BYTES: Final = 4_000_000
# With few classes the scratch arrays with a value per row have to stay in that cache too. With fewer rows, two threads
# would spend their time passing the interpreter lock to each other.
MAX_STRIP_ROWS: Final = 1 << 15
# Up to this many classes, copying a strip class by class and taking maxima over classes beats an argmax per row.
FEW_CLASSES: Final = 32
# Bytes that are transposed at a time: they stay in the first-level cache.
_BLOCK_BYTES: Final = 1 << 15

DEFAULTS: Final = Settings()


class FlatRows:
    """Takes one value of each row of a C-ordered array, three times faster than indexing with two arrays.

    Parameters
    ----------
    n_classes : int
        Number of columns K.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._starts: Ints = np.empty(0, np.intp)
        self._positions: Ints = np.empty(0, np.intp)

    def values(self, array: npt.NDArray[Any], columns: Ints, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return ``array[i, columns[i]]`` for each row i of the ``(n, K)`` `array`."""
        # No column is out of range; "wrap" is the mode with the cheapest check.
        return array.reshape(-1).take(self.positions(columns), out=out, mode="wrap")

    def positions(self, columns: Ints) -> Ints:
        """Return the flat position of one column of each row; the next call overwrites it."""
        n = len(columns)
        if len(self._starts) < n:
            self._starts = np.arange(n, dtype=np.intp) * self._n_classes
            self._positions = np.empty(n, np.intp)
        return np.add(self._starts[:n], columns, out=self._positions[:n], casting="same_kind")


class FirstArgmax:
    """Finds the largest unsigned integer of each row, and the first column that has it.

    Parameters
    ----------
    n_classes : int
        Number of columns K.
    dtype : dtype
        Unsigned integer dtype.
    few : int
        Up to this many classes, at most 255, rows are copied class by class.
    """

    def __init__(self, n_classes: int, dtype: np.dtype[Any], few: int = FEW_CLASSES) -> None:
        self.n_classes, self._few = n_classes, few
        self._rows = FlatRows(n_classes)
        self._block_rows = max(1, _BLOCK_BYTES // (n_classes * dtype.itemsize) // 64) * 64
        self._by_class: Ints = np.empty((0, n_classes, self._block_rows), dtype)
        self._is_largest = np.empty(self._by_class.shape, np.uint8)
        # K for the first class, 1 for the last: of the classes that have the largest value, the first weighs most.
        self._weights = np.arange(n_classes, 0, -1).astype(np.uint8)[:, np.newaxis]

    def __call__(self, bits: Ints) -> tuple[Ints, Ints]:
        """Return ``(n,)`` classes and ``(n,)`` values of the ``(n, K)`` array `bits`."""
        if self.n_classes > self._few:
            classes = bits.argmax(axis=1)
            return classes, self._rows.values(bits, classes)
        by_class = self._transposed(bits)
        largest = by_class.max(axis=1)
        is_largest = self._is_largest[: len(by_class)]
        np.equal(by_class, largest[:, np.newaxis], out=is_largest.view(np.bool_))
        is_largest *= self._weights
        classes = np.uint8(self.n_classes) - is_largest.max(axis=1)
        return classes.reshape(-1)[: len(bits)], largest.reshape(-1)[: len(bits)]

    def in_cache(self, bits: Ints) -> Ints:
        """Return the `bits` of the last call in the layout that is fastest to sum: ``(n, K)`` or ``(n / m, K, m)``."""
        return self._by_class[: self._n_blocks(bits)] if self.n_classes <= self._few else bits

    def _transposed(self, bits: Ints) -> Ints:
        """Copy `bits` to blocks of m rows, each ``(K, m)``; the rest of the last block is 0."""
        if len(self._by_class) < (n_blocks := self._n_blocks(bits)):
            self._by_class = np.empty((n_blocks, *self._by_class.shape[1:]), bits.dtype)
            self._is_largest = np.empty(self._by_class.shape, np.uint8)
        by_class = self._by_class[:n_blocks]
        n_whole, n_rest = divmod(len(bits), self._block_rows)
        whole = bits[: len(bits) - n_rest].reshape(n_whole, self._block_rows, self.n_classes)
        by_class[:n_whole] = whole.transpose(0, 2, 1)
        if n_rest:
            by_class[n_whole, :, :n_rest] = bits[-n_rest:].T
            by_class[n_whole, :, n_rest:] = 0
        return by_class

    def _n_blocks(self, rows: Ints) -> int:
        return -(-len(rows) // self._block_rows)


def is_ignored(labels: Ints, ignored: int) -> Bools:
    """Return which ``(n,)`` labels are `ignored`, an integer that their dtype need not hold."""
    limits = np.iinfo(labels.dtype)
    if not limits.min <= ignored <= limits.max:
        return np.zeros(len(labels), np.bool_)
    same: Bools = labels == labels.dtype.type(ignored)
    return same


def label_column(labels: Ints, n_classes: int, ignored: int | None) -> Ints | None:
    """Return ``(n,)`` labels as the column `label` has them; None if some are not classes 0..K-1.

    Parameters
    ----------
    labels : (n,) int
        Labels; any integer dtype.
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value that says that a row has no label.
    """
    unlabelled = None if ignored is None else is_ignored(labels, ignored)
    if unlabelled is not None and unlabelled.any():
        labels = np.where(unlabelled, labels.dtype.type(0), labels)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= n_classes:
        return None
    column = labels.astype(label_dtype(n_classes, ignored))
    if unlabelled is not None:
        column[unlabelled] = n_classes
    return column


@dataclass(frozen=True)
class ScanTotals:
    """Totals of the first pass over some rows.

    Parameters
    ----------
    sums : SparseClassSums
        Sums of the label's probability by class.
    found : mapping of int to Findings
        Bad or suspicious values of each partition that has some, by its first row.
    n_read : int
        Number of rows that were read; 0 if a committed record was found.
    agreement : Agreement
        Number of labels that are the predicted class.
    """

    sums: SparseClassSums
    found: Mapping[int, Findings]
    n_read: int
    agreement: Agreement

    @property
    def findings(self) -> Findings:
        """Bad or suspicious values of all partitions."""
        return combine_findings(self.found[row] for row in sorted(self.found))


def combine_totals(parts: Iterable[ScanTotals]) -> ScanTotals:
    """Combine the totals of different partitions, in any order."""
    parts = list(parts)
    found = {row: findings for part in parts for row, findings in part.found.items()}
    sums = SparseClassSums.of(sparse_sums_combine([part.sums for part in parts]))
    agreement = Agreement.total([part.agreement for part in parts])
    return ScanTotals(sums, found, sum(part.n_read for part in parts), agreement)


class Summarizer:
    """Summarizes rows strip by strip and adds up their totals, with scratch arrays that are made once.

    Parameters
    ----------
    n_rows : int
        Number of rows that it holds until `take` is called.
    n_classes : int
        Number of classes K.
    dtype : dtype
        Dtype of `pred_probs`: float16, float32 or float64 in native byte order.
    settings : Settings
        How rows are scored, which says which columns are computed from whole rows.
    first_row : int
        Number of the first row, for messages.
    thresholds : (K,) float64, optional
        Confident thresholds, if they are known before the read.
    ignored : int, optional
        The value of labels that says that a row has none. Such a row may have any probabilities: they are not looked
        at. Its summary has the label K and is that of a row without doubt, whatever its probabilities.
    """

    def __init__(
        self,
        n_rows: int,
        n_classes: int,
        dtype: np.dtype[Any],
        settings: Settings = DEFAULTS,
        first_row: int = 0,
        thresholds: Float64s | None = None,
        ignored: int | None = None,
    ) -> None:
        self._settings, self._ignored = settings, ignored
        self.n_classes, self.dtype, self._kernels = n_classes, dtype, column_kernels(settings, thresholds)
        self._summary = SummaryBlock.empty(n_rows, n_classes, dtype, self._kernels, ignored)
        self._start, self._first_row, self._filled, self._n_taken = first_row, first_row, 0, 0
        self.findings, self._sums, self._agreements = Findings(), ClassSums.zeros(n_classes), list[Agreement]()
        self._one_bits = np.ones(1, dtype).view(unsigned_dtype(dtype))[0]
        self._low_limit = low_limit(n_classes)
        self._rows = FlatRows(n_classes)
        self._argmax = FirstArgmax(n_classes, unsigned_dtype(dtype))
        self._row_sums = RowSumCheck(n_classes)

    @property
    def room(self) -> int:
        """Number of rows that can be added before `take` must be called."""
        return len(self._summary) - self._filled

    def restart(self) -> None:
        """Forget the rows since the last `take`, and what was found so far."""
        self._filled, self.findings = 0, Findings()

    def take(self) -> SummaryBlock:
        """Return the summaries added since the last call, and add up their totals; the next `add` overwrites them."""
        taken = self._summary[: self._filled]
        counted = taken if self._ignored is None else taken.only_labelled(self.n_classes, 0)
        self._sums = class_sums_combine([self._sums, self._class_sums(counted)])
        self._agreements.append(Agreement.of(counted.label, counted.predicted))
        self._n_taken += self._filled
        self._first_row, self._filled = self._first_row + self._filled, 0
        return taken

    def _class_sums(self, block: SummaryBlock) -> ClassSums:
        """Return the sums of the label's probability by class."""
        return class_sums_chunk(block.label, block.p_label, self.n_classes)

    def totals(self) -> ScanTotals:
        """Return the totals of all rows that were taken."""
        agreement = Agreement.total(self._agreements)
        found = {self._start: self.findings} if self.findings else {}
        return ScanTotals(SparseClassSums.of(self._sums), found, self._n_taken, agreement)

    def add(self, labels: Ints, probs: Floats) -> SummaryBlock:
        """Summarize the next strip, and return its summaries as a view.

        Parameters
        ----------
        labels : (n,) int
            Labels; any integer dtype.
        probs : (n, K) float
            Probabilities; not modified.
        """
        if self._ignored is None:
            return self._add(labels, probs)
        unlabelled = is_ignored(labels, self._ignored)
        if not unlabelled.any():
            return self._add(labels, probs)
        labels = np.where(unlabelled, labels.dtype.type(0), labels)
        summary = self._add(labels, self._without_doubt(probs, unlabelled))
        summary.label[unlabelled] = self.n_classes
        return summary

    @staticmethod
    def _without_doubt(strip: Any, rows: Bools) -> Any:
        """Return a copy of a strip in which the chosen rows are good rows of class 0."""
        strip = np.array(strip)
        strip[rows] = 0
        strip[rows, 0] = 1
        return strip

    def _add(self, labels: Ints, probs: Floats) -> SummaryBlock:
        """Do what `add` does, where each row has a label."""
        n, first = len(probs), self._first_row + self._filled
        out = slice(self._filled, self._filled + n)
        probs = self._native(probs)
        summary, labels = self._summary, self._checked_labels(labels, first)
        bits = probs.view(unsigned_dtype(self.dtype))
        predicted, top_bits = self._argmax(bits)
        has_outliers = top_bits.max() > self._one_bits
        if has_outliers:
            self._row_sums.record(probs, self._row_sums.of_any(probs), first, self.findings)
            probs = record_bad_values(probs, first, self.findings)
            predicted = probs.argmax(axis=1)
            p_predicted = self._rows.values(probs, predicted)
        else:
            sums = self._row_sums.of_bits(self._argmax.in_cache(bits))[:n]
            self._row_sums.record(probs, sums, first, self.findings)
            p_predicted = top_bits.view(self.dtype)
        if p_predicted.min() < self._low_limit:
            record_low_rows(probs if has_outliers else None, p_predicted, self._low_limit, first, self.findings)
        self._rows.values(probs, labels, out=summary.p_label[out])
        summary.label[out], summary.predicted[out], summary.p_predicted[out] = labels, predicted, p_predicted
        for name, kernel in self._kernels.items():
            getattr(summary, name)[out] = kernel(probs, labels)
        self._filled += n
        return summary[out]

    @staticmethod
    def probabilities(strip: Any) -> Floats:
        """Return the ``(n, K)`` probabilities of a strip as `add` takes it."""
        probs: Floats = strip
        return probs

    def _native(self, probs: Floats) -> Floats:
        """Return a strip in the byte order and the memory layout that `_add` takes."""
        return np.ascontiguousarray(probs, dtype=self.dtype)

    def _checked_labels(self, labels: Ints, first: int) -> Ints:
        # Read as unsigned, a negative number is large.
        if labels.view(labels.dtype.str.replace("i", "u")).max() < self.n_classes:
            return labels.astype(np.intp, copy=False)
        outside = (labels < 0) | (labels >= self.n_classes)
        rows = np.flatnonzero(outside)
        example = int(labels[rows[0]])
        self.findings.add("label", rows, first, example=example, alike=bool((labels[rows] == example).all()))
        return np.where(outside, 0, labels).astype(np.intp)  # the run ends with an error; go on to find all of them


def low_limit(n_classes: int) -> np.float64:
    """Return what every distribution over `n_classes` classes has a probability of at least, up to the tolerance."""
    # A float64 scalar, so that narrower arrays are compared as if in float64.
    return np.float64((1 - PROBABILITY_TOLERANCE) / n_classes)


def record_bad_values(probs: Floats, first: int, findings: Findings) -> Floats:
    """Record values that are not probabilities; return a copy with 0.0 for -0.0 and 0.5 for bad values.

    Parameters
    ----------
    probs : (n, K) float
        Probabilities of consecutive rows.
    first : int
        Number of the first row.
    findings : Findings
        Where to record.
    """
    probs = probs + probs.dtype.type(0)
    tolerance = np.float64(PROBABILITY_TOLERANCE)
    bad = {
        "nan": np.isnan(probs),
        "infinite": np.isinf(probs),
        "below": (probs < -tolerance) & np.isfinite(probs),
        "above": (probs > 1 + tolerance) & np.isfinite(probs),
    }
    for kind, where in bad.items():
        if where.any():
            rows = np.flatnonzero(where.any(axis=1))
            example = float(probs[where][0])
            findings.add(kind, rows, first, n_values=int(where.sum()), example=example)
            probs[where] = 0.5
    return probs


def record_low_rows(probs: Floats | None, largest: Floats, limit: np.float64, first: int, findings: Findings) -> None:
    """Record rows that cannot be a distribution.

    Parameters
    ----------
    probs : (n, K) float or None
        Probabilities of consecutive rows; they are needed if rows may have values below 0.
    largest : (n,) float
        Largest probability of each row.
    limit : float64
        Every distribution has a probability of at least this.
    first : int
        Number of the first row.
    findings : Findings
        Where to record.
    """
    low = largest < limit
    zero = largest == 0
    if probs is not None:
        zero[zero] = ~probs[zero].any(axis=1)
    findings.add("zero_row", np.flatnonzero(zero), first)
    findings.add("low_row", np.flatnonzero(low & ~zero), first)


# Up to this many classes, planes are compared with each other; with more, transposing a strip first is faster.
_MOST_PLANES: Final = 64


class PlaneSummarizer(Summarizer):
    """Summarizes strips of which each column is contiguous: ``(n, K)`` views of ``(K, n)`` planes.

    It takes any other strip too, but then it copies it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.n_classes <= _MOST_PLANES:
            self._argmax = FirstArgmax(self.n_classes, unsigned_dtype(self.dtype), _MOST_PLANES)
            self._rows = PlaneValues(self.n_classes)
            # The last bits of sums over rows are those of rows that are contiguous.
            self._kernels = {name: partial(_of_rows, kernel) for name, kernel in self._kernels.items()}

    def _native(self, probs: Floats) -> Floats:
        if self.n_classes > _MOST_PLANES:
            return super()._native(probs)
        if probs.strides[0] != probs.itemsize:
            probs = np.asfortranarray(probs)
        return probs.astype(self.dtype, copy=False)


def _of_rows(kernel: ColumnKernel, probs: Floats, labels: Ints) -> Float64s:
    return kernel(np.ascontiguousarray(probs), labels)


class PlaneValues(FlatRows):
    """Takes one value of each row of an array whose columns are contiguous.

    Parameters
    ----------
    n_classes : int
        Number of columns K.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(n_classes)
        self._numbers: Ints = np.empty(0, np.intp)

    def values(self, array: npt.NDArray[Any], columns: Ints, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return ``array[i, columns[i]]`` for each row i of the ``(n, K)`` `array`."""
        n, step = len(columns), array.strides[1] // array.itemsize
        if len(self._numbers) < n:
            self._numbers, self._positions = np.arange(n, dtype=np.intp), np.empty(n, np.intp)
        positions = np.multiply(columns, step, out=self._positions[:n], casting="same_kind")
        positions += self._numbers[:n]
        # From the first value of the first plane to the last value of the last one.
        flat = np.lib.stride_tricks.as_strided(array, ((self._n_classes - 1) * step + n,), (array.itemsize,))
        return flat.take(positions, out=out, mode="wrap")


# Columns of every recorded summary, besides the label.
FIELDS: Final = ("predicted", "p_label", "p_predicted")
# The recorded sums of rows, which adjusted self-confidence needs.
ROW_SUM: Final = "row_sum"
# Columns that can be recorded too.
RECORDABLE: Final = (*(name for name, score in SCORES.items() if score.kernel), ROW_SUM)
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


class TagPattern:
    """What repeats with each example: a value for each tag, for the rows of any strip.

    Parameters
    ----------
    values : (K,) array
        The value of each tag.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._values, self._repeated = values, values[:0]

    def rows(self, tag: int, n_rows: int) -> npt.NDArray[Any]:
        """Return the ``(n_rows,)`` values of rows of which the first one is of `tag`: read-only."""
        if len(self._repeated) < tag + n_rows:
            self._repeated = np.tile(self._values, -(-(tag + n_rows) // len(self._values)))
            self._repeated.flags.writeable = False
        return self._repeated[tag : tag + n_rows]


def by_tag(values: npt.NDArray[Any], tag: int, n_tags: int) -> npt.NDArray[Any]:
    """Return ``(n,)`` values of rows, the first of them of `tag`, as ``(m, K)``, with 0 for what is not there."""
    n_examples = -(-(tag + len(values)) // n_tags)
    if n_examples * n_tags == len(values):
        return values.reshape(n_examples, n_tags)
    whole = np.zeros(n_examples * n_tags, values.dtype)
    whole[tag : tag + len(values)] = values
    return whole.reshape(n_examples, n_tags)


class TagSummarizer(Summarizer):
    """Summarizes rows of tags; takes ``(n,)`` probabilities of having the tag as strips.

    Parameters
    ----------
    n_rows, n_classes, dtype, settings, first_row, thresholds, ignored
        As of `Summarizer`; `n_classes` is 2K.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_tags = self.n_classes // 2
        self._absent = TagPattern(np.arange(0, self.n_classes, 2).astype(self._summary.predicted.dtype))

    def _add(self, labels: Ints, probs: Floats) -> SummaryBlock:
        """Do what `add` does with the probabilities of having the tag; labels are known to be classes."""
        n, first = len(probs), self._first_row + self._filled
        summary = self._summary[self._filled : self._filled + n]
        p = np.ascontiguousarray(probs, dtype=self.dtype)
        if p.view(unsigned_dtype(self.dtype)).max(initial=0) > self._one_bits:
            p = record_bad_values(p[:, np.newaxis], first, self.findings)[:, 0]
        other = self.dtype.type(1) - p
        has_tag = (labels & labels.dtype.type(1)).astype(np.bool_)
        summary.label[:] = labels
        np.add(self._absent.rows(first % self._n_tags, n), p > other, out=summary.predicted, casting="unsafe")
        np.copyto(summary.p_label, other)
        np.copyto(summary.p_label, p, where=has_tag)
        np.maximum(p, other, out=summary.p_predicted)
        if self._kernels:
            pair, present = np.stack([other, p], axis=1), has_tag.astype(np.intp)
            for name, kernel in self._kernels.items():
                getattr(summary, name)[:] = kernel(pair, present)
        self._filled += n
        return summary

    def _class_sums(self, block: SummaryBlock) -> ClassSums:
        """Return the sums by class: those of all rows of each tag, less those of the rows that have it."""
        n, n_tags, sums = len(block), self._n_tags, ClassSums.zeros(self.n_classes)
        first = int(block.label[0]) // 2 if n else 0
        # With about as many rows as in other sums, the scratch arrays stay in cache.
        step = max(1, SLICE_ROWS // n_tags) * n_tags
        for start in range(0, n, step):
            high, low = column_sums_chunk(by_tag(block.p_label[start : start + step], first, n_tags))
            sums.high[::2] += high
            sums.low[::2] += low
            sums.carry()
        sums.counts[::2] = n // n_tags
        sums.counts[2 * ((first + np.arange(n % n_tags)) % n_tags)] += 1
        rows = np.flatnonzero(block.label & block.label.dtype.type(1))
        present = class_sums_chunk(block.label[rows], block.p_label[rows], self.n_classes)
        for total, part in (
            (sums.counts, present.counts),
            (sums.high, present.high),
            (sums.low, present.low),
        ):
            total[::2] -= part[1::2]
            total[1::2] += part[1::2]
        sums.carry()
        return sums


class TagJointCounter(JointCounter):
    """Counts rows of tags by the confident joint, strip by strip; takes the same strips as `TagSummarizer`.

    Parameters
    ----------
    thresholds : (2K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of the probabilities.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._dtype, self._n_tags = dtype.newbyteorder("="), len(thresholds) // 2
        least = smallest_at_least(adjusted_thresholds(thresholds), self._dtype)
        self._least_absent, self._least_present = TagPattern(least[::2]), TagPattern(least[1::2])
        self._diagonal, self._off = (np.zeros(len(thresholds), np.int64) for _ in range(2))
        self._n_off_diagonal = 0

    def add(self, summary: SummaryBlock, probs: Floats) -> Bools:
        """Count the ``(n,)`` strip `probs`, and return the column `off_diagonal` of its rows."""
        n, n_tags, label = len(probs), self._n_tags, summary.label
        if not n:
            return np.zeros(0, np.bool_)
        tag, has_tag = int(label[0]) // 2, (label & label.dtype.type(1)).astype(np.bool_)
        p = np.ascontiguousarray(probs, dtype=self._dtype)
        present = p >= self._least_present.rows(tag, n)
        absent = self._dtype.type(1) - p >= self._least_absent.rows(tag, n)
        counted = present | absent
        # Of a row that reaches both classes, the predicted one counts.
        present &= ~absent | (summary.predicted & 1).astype(np.bool_)
        off_diagonal = counted & (present != has_tag)
        rows = np.flatnonzero(off_diagonal)
        self._off += np.bincount(label[rows], minlength=2 * n_tags)
        same = counted & ~off_diagonal
        of_tag = by_tag(same.view(np.uint8), tag, n_tags).sum(axis=0, dtype=np.int64)
        positive = np.flatnonzero(same & has_tag)
        n_present = np.bincount(label[positive] // 2, minlength=n_tags)
        self._diagonal[::2] += of_tag - n_present
        self._diagonal[1::2] += n_present
        off_diagonal[rows] = ~near_predicted(
            label[rows], summary.predicted[rows], summary.p_label[rows], summary.p_predicted[rows]
        )
        self._n_off_diagonal += int(np.count_nonzero(off_diagonal))
        found: Bools = off_diagonal
        return found

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and in how many the column `off_diagonal` is true."""
        labels = np.flatnonzero(self._off)
        pairs = labels * len(self._off) + (labels ^ 1)
        counts = self._off[labels]
        narrow = counts.max(initial=0) <= np.iinfo(np.int32).max
        found = ConfidentCounts(
            self._diagonal.copy(),
            pairs.astype(pair_dtype(len(self._off))),
            counts.astype(np.int32 if narrow else np.int64),
        )
        return found, self._n_off_diagonal
