"""Row summaries and totals of the first pass, strip by strip.

Non-negative IEEE floats order like their bits read as unsigned integers. Read like this, negative numbers, NaN,
infinity and numbers above 1 are all larger than 1.0. So one unsigned argmax per row gives the predicted class, its
probability and the check of all values at once. Only a strip that holds a value above 1.0 is checked value by value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.agreement import Agreement
from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints, label_dtype, unsigned_dtype
from labelsieve.confident_learning.quality_scores import column_kernels
from labelsieve.confident_learning.row_sums import RowSumCheck
from labelsieve.confident_learning.summary_block import FirstArgmax, FlatRows, SummaryBlock
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    SparseClassSums,
    class_sums_chunk,
    class_sums_combine,
    sparse_sums_combine,
)
from labelsieve.confident_learning.validation import Findings, combine_findings
from labelsieve.settings import PROBABILITY_TOLERANCE, Settings

DEFAULTS: Final = Settings()


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
