"""Row summaries of the mean of several models, without computing the mean of all values.

Two values of each row are needed, and which class has the largest. So the members are added up in float32, where
rounding changes a sum by less than a known share. Only a row whose second largest sum is that close to its largest has
its mean computed in float64. The probabilities of the label and of the predicted class are gathered from the members
and averaged exactly. Beside sums of all values in float64, this takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints, unsigned_dtype
from labelsieve.confident_learning.ensemble_mean import EnsembleMean, MemberRows
from labelsieve.confident_learning.row_sums import RowSumCheck, widened_half
from labelsieve.confident_learning.summarizer import (
    DEFAULTS,
    ScanTotals,
    Summarizer,
    low_limit,
    record_bad_values,
    record_low_rows,
)
from labelsieve.confident_learning.summary_block import FEW_CLASSES, FlatRows, SummaryBlock
from labelsieve.confident_learning.validation import Findings
from labelsieve.settings import PROBABILITY_TOLERANCE, Settings

# A value above this share of the sum of its row is the largest, by more than all roundings.
_SURE: Final = 0.55
# Up to this share of the rows of a strip are copied, where otherwise all would be searched.
_COPIED_SHARE: Final = 0.4


class EnsembleSummarizer(Summarizer):
    """Summarizes the mean of the members of an ensemble; takes `MemberRows` as strips.

    The checks of values and sums look at each member, and findings name it. The mean of rows that pass them passes too.

    Parameters
    ----------
    n_rows, n_classes, dtype, settings, first_row, thresholds, ignored
        As of `Summarizer`; the dtype is float64.
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
        super().__init__(n_rows, n_classes, dtype, settings, first_row, thresholds, ignored)
        # A score that needs whole rows needs the mean of all values. With few classes that costs little anyway.
        self._takes_means = bool(self._kernels) or n_classes <= FEW_CLASSES
        self._checks = list[MemberCheck]()
        self._names: tuple[str, ...] = ()
        self._near = NearSums(n_classes)

    @staticmethod
    def probabilities(strip: Any) -> Floats:
        """Return the ``(n, K)`` mean."""
        rows: MemberRows = strip
        return rows.averaged()

    def totals(self) -> ScanTotals:
        """Return the totals of all rows that were taken."""
        for number, (name, check) in enumerate(zip(self._names, self._checks, strict=True)):
            self.findings.add_member(number, name, check.findings)
            check.findings = Findings()
        return super().totals()

    @staticmethod
    def _without_doubt(strip: Any, rows: Bools) -> Any:
        """Return a copy of a strip in which the chosen rows are good rows of class 0, by each member."""
        members = [Summarizer._without_doubt(member, rows) for member in strip.members]  # noqa: SLF001  # of the base
        return MemberRows(members, len(strip), strip.mean)

    def _add(self, labels: Ints, probs: Any) -> SummaryBlock:
        """Do what `add` does with `MemberRows`, where each row has a label."""
        strip: MemberRows = probs
        self._names = strip.mean.names
        while len(self._checks) < len(strip.members):
            self._checks.append(MemberCheck(self.n_classes))
        first, members, near = self._filled, list[Floats](), None if self._takes_means else self._near
        labels = self._checked_labels(labels, self._first_row + first)
        if near is not None:
            near.begin(len(strip), strip.mean)
        # Each member is checked and added up while it is in the cache.
        for check, member in zip(self._checks, strip.members, strict=True):
            checked, largest_sum = check(member, self._first_row + first)
            members.append(checked)
            near = near if largest_sum is not None else None
            if near is not None and largest_sum is not None:
                near.add(checked, largest_sum)
        if near is None:
            # What the members have was recorded with their names.
            kept, self.findings = self.findings, Findings()
            whole = super()._add(labels, strip.mean.of(members))
            self.findings = kept
            return whole
        predicted, is_near = near.largest()
        p_predicted = self._gathered(members, predicted, strip.mean)
        rows = np.flatnonzero(is_near)
        if len(rows):
            means = strip.mean.of([member[rows] for member in members])
            predicted[rows], p_predicted[rows] = means.argmax(axis=1), means.max(axis=1)
        summary, out = self._summary, slice(first, first + len(strip))
        summary.label[out], summary.predicted[out], summary.p_predicted[out] = labels, predicted, p_predicted
        summary.p_label[out] = self._gathered(members, labels, strip.mean)
        self._filled += len(strip)
        return summary[out]

    def _gathered(self, members: Sequence[Floats], classes: Ints, mean: EnsembleMean) -> Float64s:
        """Return the mean of one class of each row."""
        return mean.of([self._rows.values(member, classes) for member in members])


class MemberCheck:
    """Checks the probabilities of one member as `Summarizer` checks those of a single model.

    Parameters
    ----------
    n_classes : int
        Number of classes K.

    Attributes
    ----------
    findings : Findings
        Bad or suspicious values.
    """

    def __init__(self, n_classes: int) -> None:
        self.findings = Findings()
        self._row_sums, self._low_limit = RowSumCheck(n_classes), low_limit(n_classes)
        # Rows of a larger sum have a probability of at least the limit.
        self._low_sum = 1 - PROBABILITY_TOLERANCE + self._row_sums.rounding

    def __call__(self, probs: npt.NDArray[Any], first: int) -> tuple[Floats, float | None]:
        """Return the rows in C order, with 0.5 for bad values, and about the largest sum of a row.

        The sum is None if some values are not from 0.0 to 1.0.

        Parameters
        ----------
        probs : (n, K) float
            Probabilities of consecutive rows.
        first : int
            Number of the first row.
        """
        dtype = probs.dtype.newbyteorder("=")
        probs = np.ascontiguousarray(probs, dtype=dtype)
        bits = probs.view(unsigned_dtype(dtype))
        # Read as unsigned integers, negative numbers, -0.0, NaN, infinity and numbers above 1 are larger than 1.0.
        if bits.max() > np.ones(1, dtype).view(bits.dtype)[0]:
            self._row_sums.record(probs, self._row_sums.of_any(probs), first, self.findings)
            probs = record_bad_values(probs, first, self.findings)
            self._record_low(probs, first, has_outliers=True)
            return probs, None
        sums = self._row_sums.of_bits(bits)
        self._row_sums.record(probs, sums, first, self.findings)
        if sums.min() < self._low_sum:
            self._record_low(probs, first, has_outliers=False)
        return probs, float(sums.max())

    def _record_low(self, probs: Floats, first: int, *, has_outliers: bool) -> None:
        largest = probs.max(axis=1)
        if largest.min() < self._low_limit:
            record_low_rows(probs if has_outliers else None, largest, self._low_limit, first, self.findings)


class NearSums:
    """Finds the class of the largest mean of each row by sums that are rounded to float32, if no member is float64.

    The terms are not negative. So with n members the relative error of a float32 sum is less than (n + 3) * 2**-24:
    one rounding for a weight, one for a product, and one for each addition. The means are rounded too, to float64.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes, self._rows = n_classes, FlatRows(n_classes)
        self._total: Floats = np.empty((0, n_classes))
        self._term = self._total
        self._buffers = self._total, self._term
        self._mean, self._n_added, self._largest_sum = EnsembleMean((), None, self._total.dtype), 0, 0.0

    def begin(self, n_rows: int, mean: EnsembleMean) -> None:
        """Begin the sums of `n_rows` rows, which are averaged like `mean`."""
        total, term = self._buffers
        if len(total) < n_rows or total.dtype != mean.dtype:
            total, term = (np.empty((n_rows, self._n_classes), mean.dtype) for _ in range(2))
            self._buffers = total, term
        self._total, self._term = total[:n_rows], term[:n_rows]
        self._mean, self._n_added, self._largest_sum = mean, 0, 0.0

    def add(self, member: Floats, largest_sum: float) -> None:
        """Add the next member.

        Parameters
        ----------
        member : (n, K) float
            Values from 0.0 to 1.0, in C order.
        largest_sum : float
            About the largest sum of a row.
        """
        self._largest_sum = max(self._largest_sum, largest_sum)
        total, term, weights, number = self._total, self._term, self._mean.weights, self._n_added
        self._n_added += 1
        out = term if number else total
        if member.dtype == np.float16 and out.dtype == np.float32:
            widened_half(member.view(np.uint16), out)
            member = out
        elif member.dtype != out.dtype or not number:
            np.copyto(out, member)
            member = out
        if weights is not None:
            member = np.multiply(member, out.dtype.type(weights[number] / self._mean.divisor), out=out)
        if number:
            total += member

    def largest(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the class of the largest sum of each row, and whether the mean of another may be as large."""
        total = self._total
        # Floats that are not negative have the order of their bits; the largest integer is found faster.
        bits, flat = total.view(unsigned_dtype(total.dtype)), total.reshape(-1)
        classes = bits.argmax(axis=1)
        places = self._rows.positions(classes)
        largest = flat[places].astype(np.float64)
        # The mean of a row has at most the largest sum of a member.
        most = self._largest_sum * (1 if self._mean.weights else self._mean.divisor)
        unsure = np.flatnonzero(largest <= _SURE * most)
        is_near = np.zeros(len(total), np.bool_)
        if len(unsure):
            flat[places[unsure]] = 0
            some = bits[unsure] if len(unsure) < _COPIED_SHARE * len(bits) else bits
            second = some.max(axis=1).view(total.dtype)
            # Twice the error of both sums, and half as much again for the roundings of the float64 means.
            share = 6 * (self._n_added + 3) * float(np.finfo(total.dtype).eps)
            is_near[unsure] = (second if some is not bits else second[unsure]) >= largest[unsure] * (1 - share)
        return classes, is_near
