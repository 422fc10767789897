"""Rows whose probabilities are computed from what is read: logits, and the mean of several models.

The probabilities of logits are ``exp(x - max(x)) / sum`` of each row, in float64. Their bits depend on that row alone,
not on the rows around it: the exponentials are NumPy's, and the sum is NumPy's over a contiguous row. So the rows may
be computed in blocks that stay in the cache.

With weights ``w``, the mean of values ``x`` is ``((w[0] * x[0] + w[1] * x[1]) + w[2] * x[2] + ...) / W`` in float64,
where ``W = (w[0] + w[1]) + w[2] + ...``: products and sums in the order of the members, then one division. Without
weights all are 1. So the bits depend neither on the dtypes of the members nor on how rows are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import LIKE_PROBABILITIES, SUM_TOLERANCE, Findings, RowSumCheck, widened_half
from labelsieve.confident_learning.summarize import (
    FEW_CLASSES,
    FlatRows,
    ScanTotals,
    Summarizer,
    low_limit,
    record_bad_values,
    record_low_rows,
)
from labelsieve.confident_learning.thresholds import Bools, Float64s, Floats, Ints, SummaryBlock, unsigned_dtype
from labelsieve.options import PROBABILITY_TOLERANCE

# Values that are computed at a time. The exponentials of a block, 1 MB, stay in the second-level cache.
_EXPONENTIALS: Final = 1 << 17


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
    step = max(1, _EXPONENTIALS // n_classes)
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


# Rows are added up in pieces whose float64 sums stay in the second-level cache.
_PIECE_VALUES: Final = 1 << 15


@dataclass(frozen=True)
class EnsembleMean:
    """How the probabilities of several models are averaged.

    Parameters
    ----------
    names : tuple of str
        Names of the members, for messages.
    weights : tuple of float or None
        Weights of the members; all are 1 if None.
    dtype : dtype
        The widest dtype of a member, at least float32.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    dtype: np.dtype[Any]

    @property
    def divisor(self) -> float:
        """The sum of the weights, in the order of the members."""
        return float(len(self.names)) if self.weights is None else sum(self.weights)

    def of(self, values: Sequence[Floats], out: Float64s | None = None) -> Float64s:
        """Return the mean of arrays of the same shape.

        Parameters
        ----------
        values : sequence of (n, ...) float
            Values of each member.
        out : (n, ...) float64, optional
            Where to put the mean.
        """
        if out is None:
            out = np.empty(values[0].shape)
        step = max(1, _PIECE_VALUES // max(1, out[:1].size))
        product = None if self.weights is None else np.empty((min(step, len(out)), *out.shape[1:]))
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            mean = out[rows]
            for number, member in enumerate(values):
                if self.weights is None or product is None:
                    if number:
                        mean += member[rows]
                    else:
                        mean[...] = member[rows]
                else:
                    term = mean if not number else product[: len(mean)]
                    # Converted first: a scalar would be rounded to the dtype of a narrower array.
                    term[...] = member[rows]
                    term *= self.weights[number]
                    if number:
                        mean += term
            mean /= self.divisor
        return out


class MemberRows:
    """The same rows of all members of an ensemble.

    Parameters
    ----------
    members : sequence of (n, K) array
        Probabilities by each model, of any float dtype; perhaps read only when they are first taken.
    n_rows : int
        Number of rows n.
    mean : EnsembleMean
        How they are averaged.
    """

    def __init__(self, members: Sequence[Floats], n_rows: int, mean: EnsembleMean) -> None:
        self.members, self._n_rows, self.mean = members, n_rows, mean

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, rows: slice) -> MemberRows:
        """Return some of the rows, as views."""
        return MemberRows([member[rows] for member in self.members], len(range(self._n_rows)[rows]), self.mean)

    def averaged(self) -> Float64s:
        """Return the ``(n, K)`` mean."""
        return self.mean.of(self.members)


# A value above this share of the sum of its row is the largest, by more than all roundings.
_SURE: Final = 0.55
# Values that are added up at a time, so that their sum stays in the second-level cache.
_BLOCK_VALUES: Final = 1 << 16


class EnsembleSummarizer(Summarizer):
    """Summarizes the mean of the members of an ensemble; takes `MemberRows` as strips.

    The checks of values and sums look at each member, and findings name it. The mean of rows that pass them passes too.

    Parameters
    ----------
    n_rows, n_classes, dtype, settings, first_row, thresholds, ignored
        As of `Summarizer`; the dtype is float64.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A score that needs whole rows needs the mean of all values. With few classes that costs little anyway.
        self._takes_means = bool(self._kernels) or self.n_classes <= FEW_CLASSES
        self._checks = list[MemberCheck]()
        self._names: tuple[str, ...] = ()
        self._near = NearSums(self.n_classes)

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
        first, members, sums = self._filled, list[Floats](), list[float | None]()
        labels = self._checked_labels(labels, self._first_row + first)
        for check, member in zip(self._checks, strip.members, strict=True):
            checked, largest_sum = check(member, self._first_row + first)
            members.append(checked)
            sums.append(largest_sum)
        known = [one for one in sums if one is not None]
        if self._takes_means or len(known) < len(sums):
            # What the members have was recorded with their names.
            kept, self.findings = self.findings, Findings()
            whole = super()._add(labels, strip.mean.of(members))
            self.findings = kept
            return whole
        summary, out = self._summary, slice(first, first + len(strip))
        p_label = self._gathered(members, labels, strip.mean)
        predicted, p_predicted = labels.copy(), p_label.copy()
        # In most rows the label itself has more than half of the sum, so that no other class can have more.
        rows = np.flatnonzero(p_label <= _SURE * max(known))
        if len(rows):
            predicted[rows], p_predicted[rows] = self._largest(members, rows, strip.mean, max(known))
        summary.label[out], summary.predicted[out] = labels, predicted
        summary.p_label[out], summary.p_predicted[out] = p_label, p_predicted
        self._filled += len(strip)
        return summary[out]

    def _largest(
        self, members: Sequence[Floats], rows: Ints, mean: EnsembleMean, largest_sum: float
    ) -> tuple[Ints, Float64s]:
        """Return the class of the largest mean of some rows, and that mean."""
        classes, is_near = self._near.largest(members, rows, mean, largest_sum)
        places = rows * self.n_classes + classes
        values = mean.of([member.reshape(-1).take(places, mode="wrap") for member in members])
        near = np.flatnonzero(is_near)
        if len(near):
            means = mean.of([member[rows[near]] for member in members])
            classes[near], values[near] = means.argmax(axis=1), means.max(axis=1)
        return classes, values

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
        self._rows = FlatRows(n_classes)
        self._buffers: tuple[Floats, Floats] = np.empty((0, n_classes)), np.empty((0, n_classes))

    def largest(
        self, members: Sequence[Floats], rows: Ints, mean: EnsembleMean, largest_sum: float
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return the class of the largest sum of some rows, and whether the mean of another may be as large.

        Parameters
        ----------
        members : sequence of (n, K) float
            Values from 0.0 to 1.0, in C order.
        rows : (m,) int
            Which rows.
        mean : EnsembleMean
            How they are averaged.
        largest_sum : float
            About the largest sum of a row of a member.
        """
        n_rows, n_classes = len(rows), members[0].shape[1]
        step = min(n_rows, max(1, _BLOCK_VALUES // n_classes))
        if len(self._buffers[0]) < step or self._buffers[0].dtype != mean.dtype:
            self._buffers = np.empty((step, n_classes), mean.dtype), np.empty((step, n_classes), mean.dtype)
        classes, is_near = np.empty(n_rows, np.intp), np.zeros(n_rows, np.bool_)
        # The mean of a row has at most the largest sum of a member.
        most = largest_sum * (mean.divisor if mean.weights is None else 1)
        # Twice the error of both sums, and half as much again for the roundings of the float64 means.
        share = 6 * (len(members) + 3) * float(np.finfo(mean.dtype).eps)
        for start in range(0, n_rows, step):
            block = slice(start, start + step)
            total, term = (buffer[: len(classes[block])] for buffer in self._buffers)
            _add_up(members, rows[block], mean, total, term)
            # Floats that are not negative have the order of their bits; the largest integer is found faster.
            bits, flat = total.view(unsigned_dtype(mean.dtype)), total.reshape(-1)
            found = bits.argmax(axis=1)
            places = self._rows.positions(found)
            largest = flat[places].astype(np.float64)
            classes[block] = found
            unsure = np.flatnonzero(largest <= _SURE * most)
            if len(unsure):
                flat[places[unsure]] = 0
                second = bits.max(axis=1).view(mean.dtype)
                is_near[start + unsure] = second[unsure] >= largest[unsure] * (1 - share)
        return classes, is_near


def _add_up(members: Sequence[Floats], rows: Ints, mean: EnsembleMean, total: Floats, term: Floats) -> None:
    """Put the sum of some rows of the members in `total`: weighted, or as it is; `term` is a buffer."""
    for number, member in enumerate(members):
        out = term if number else total
        if member.dtype == out.dtype:
            member.take(rows, axis=0, out=out, mode="wrap")  # the mode with the cheapest check
        elif member.dtype == np.float16 and out.dtype == np.float32:
            widened_half(member[rows].view(np.uint16), out)
        else:
            np.copyto(out, member[rows])
        if mean.weights is not None:
            out *= out.dtype.type(mean.weights[number] / mean.divisor)
        if number:
            total += term
