"""Confident rows, counted by label and class, by either of two rules.

``rule="predicted_class"`` counts a row as its predicted class, if its probability is at least the class's threshold
less 1e-6 (`ConfidentCounter`). It needs row summaries only.

``rule="confident_joint"`` is the rule of ``cleanlab.count.compute_confident_joint`` (2.9) and needs whole rows again,
once the thresholds are known (`JointCounter`). A row reaches a class if its probability is at least the class's
threshold less 1e-6. A row that reaches one class is counted as that class. A row that reaches several is counted as its
predicted class, whether that is reached or not. A row that reaches none is not counted. So a row that reaches its
predicted class is counted as it, whatever the others are. Of the rest, only rows whose largest probability is as high
as the lowest threshold can be counted, and only of these all K probabilities are compared.

If cleanlab's functions are given these counts as ``confident_joint``, they return the same numbers as Labelsieve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import SUM_TOLERANCE, rows_in_words
from labelsieve.confident_learning.thresholds import (
    Bools,
    Float64s,
    Floats,
    Int64s,
    IssueCounts,
    SummaryBlock,
    adjusted_thresholds,
    class_dtype,
    near_predicted,
    pair_dtype,
    row_slices,
    smallest_at_least,
)
from labelsieve.errors import InvalidInputError
from labelsieve.options import FLOAT_TOLERANCE, MIN_THRESHOLD

# How many times its mean a probability is likely to reach (`ConfidentCounter`). Of 36 synthetic datasets (K from 2 to
# 1000, equal and Zipf class sizes) this found all whose issues by the two rules overlap by less than 0.95, and one
# other.
_LIKELY: Final = 3.0
# Pairs that are worked on at a time.
_PIECE_PAIRS: Final = 1 << 18
# Up to this many classes, pairs are counted in a table: a label, and a class or K, make a 16-bit key. With more
# classes, rows are sorted by pair.
_TABLE_CLASSES: Final = 255
# Rows that are collected before they are counted in the table.
_TABLE_ROWS: Final = 1 << 16
# Up to this many classes a loop over columns beats a search along rows.
_FEW_CLASSES: Final = 32
# If more than this share of a strip's rows has to be compared, it is faster to compare all of them than to gather some.
_MOST_ROWS: Final = 0.4

Reached = tuple[Bools, Bools, npt.NDArray[Any]]


@dataclass
class ConfidentCounts:
    """Counts of rows by label and by the class that they are counted as: a sparse K x K matrix.

    Parameters
    ----------
    diagonal : (K,) int64
        Number of rows of each label that are counted as their label.
    pairs : (P,) uint32 or int64
        ``label * K + class`` of the off-diagonal entries that are not 0, ascending; see `pair_dtype`.
    counts : (P,) int32 or int64
        Number of rows of each pair.
    undecided : int
        Number of rows that are not counted, but that the confident joint likely has off its diagonal; see
        `ConfidentCounter`.
    """

    diagonal: Int64s
    pairs: npt.NDArray[Any]
    counts: npt.NDArray[Any]
    undecided: int = 0

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.diagonal)

    @property
    def given(self) -> Int64s:
        """``(P,)`` label of each pair."""
        return self.pairs.astype(np.int64) // self.n_classes

    @property
    def predicted(self) -> Int64s:
        """``(P,)`` class of each pair."""
        return self.pairs.astype(np.int64) % self.n_classes

    @property
    def off_diagonal(self) -> Int64s:
        """``(K,)`` number of rows of each label that are counted as another class."""
        total = sums_by_class(np.empty(0, np.int64), self.counts[:0], self.n_classes)
        for piece in self.pieces():
            total += sums_by_class(piece.given, piece.counts, self.n_classes)
        return total

    def pieces(self) -> Iterator[ConfidentCounts]:
        """Yield the pairs in pieces, each with the whole diagonal; the pairs of a label are all in the same piece."""
        start = 0
        while start < len(self.pairs):
            stop = min(start + _PIECE_PAIRS, len(self.pairs))
            if stop < len(self.pairs):
                first = int(self.pairs[stop]) // self.n_classes * self.n_classes  # of the label that would be cut
                stop = int(np.searchsorted(self.pairs, self.pairs.dtype.type(first)))
            if stop <= start:  # a label with more pairs than a piece
                beyond = (int(self.pairs[start]) // self.n_classes + 1) * self.n_classes
                stop = int(np.searchsorted(self.pairs, beyond))
            yield ConfidentCounts(self.diagonal, self.pairs[start:stop], self.counts[start:stop])
            start = stop

    def issue_counts(self, class_counts: Int64s, *, calibrated: bool) -> IssueCounts:
        """Return the counts that the number of label issues is computed from; `class_counts` has all rows per label."""
        n_off_diagonal = int(self.counts.sum(dtype=np.int64))
        if not calibrated:
            return IssueCounts(n_off_diagonal, None)
        by_label = self.off_diagonal
        return IssueCounts(n_off_diagonal, np.stack([class_counts, self.diagonal + by_label, by_label]))


class PairCounter:
    """Counts rows by label and class, strip by strip.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes, self._dtype = n_classes, pair_dtype(n_classes)
        self._in_table = n_classes <= _TABLE_CLASSES
        # The last column of the table is for rows that are not counted.
        self._table = np.zeros(n_classes * (n_classes + 1) if self._in_table else 0, np.int64)
        self._diagonal = np.zeros(n_classes, np.int64)
        self._keys, self._n_keys = list[npt.NDArray[Any]](), 0
        self._parts: list[ConfidentCounts] = []

    def add(self, labels: npt.NDArray[Any], classes: npt.NDArray[Any], counted: Bools) -> None:
        """Count the rows that the mask `counted` selects."""
        n_classes = self._n_classes
        if self._in_table:
            keys = labels.astype(np.uint16)
            keys *= np.uint16(n_classes + 1)
            # Rows that are not counted get class K, with `maximum`: `np.where` takes eight times as long for bytes.
            keys += np.maximum(classes.astype(np.uint8, copy=False), ~counted * np.uint8(n_classes))
        else:
            differ = classes != labels
            same = labels[counted & ~differ]
            if len(same) < n_classes:
                np.add.at(self._diagonal, same, 1)
            else:
                self._diagonal += np.bincount(same, minlength=n_classes)
            off = np.flatnonzero(counted & differ)
            keys = labels[off].astype(self._dtype) * self._dtype.type(n_classes)
            keys += classes[off].astype(self._dtype)
        self._keys.append(keys)
        self._n_keys += len(keys)
        if self._n_keys >= (_TABLE_ROWS if self._in_table else _PIECE_PAIRS):
            self._fold()

    def counts(self) -> ConfidentCounts:
        """Return the counts of all rows so far."""
        self._fold()
        if not self._in_table:
            return replace(self._parts[0], diagonal=self._diagonal)
        table = self._table.reshape(self._n_classes, -1)[:, :-1].copy()
        diagonal = table.diagonal().copy()
        np.fill_diagonal(table, 0)
        pairs = np.flatnonzero(table)
        return ConfidentCounts(diagonal, pairs.astype(self._dtype), table.reshape(-1)[pairs].astype(np.int32))

    def _fold(self) -> None:
        """Add the collected keys to the counts."""
        keys = np.concatenate([np.empty(0, np.uint16 if self._in_table else self._dtype), *self._keys])
        self._keys, self._n_keys = [], 0
        if self._in_table:
            self._table += np.bincount(keys, minlength=len(self._table))
            return
        pairs, counts = np.unique(keys, return_counts=True)
        self._parts.append(ConfidentCounts(np.zeros(self._n_classes, np.int64), pairs, counts.astype(np.int32)))
        self._parts = [confident_combine(self._parts)]


class ConfidentCounter:
    """Counts rows by label and predicted class, if the predicted class reaches its threshold.

    Some of the other rows likely reach another class, so that the confident joint counts them; they are reported as
    `undecided`. These are rows whose label is not nearly predicted, and where the lowest threshold of a class that is
    not predicted is at most the largest probability p, at most the rest 1 - p, and at most three times the mean of the
    rest, (1 - p) / (K - 1).

    Parameters
    ----------
    adj_thresholds : (K,) float64
        Thresholds less 1e-6, from `adjusted_thresholds`.
    finds_undecided : bool
        Whether to look for other rows at all.
    """

    def __init__(self, adj_thresholds: Float64s, *, finds_undecided: bool = True) -> None:
        n_classes = len(adj_thresholds)
        self._thresholds, self._counter, self._undecided = adj_thresholds, PairCounter(n_classes), 0
        lowest, second = np.argsort(adj_thresholds, kind="stable")[:2]
        self._lowest_other = np.full(n_classes, adj_thresholds[lowest])
        self._lowest_other[lowest] = adj_thresholds[second]
        self._share = np.minimum(1.0, _LIKELY / (n_classes - 1))
        # `min(p, share * (1 - p))` is largest where both are equal. In most datasets no threshold is as low as that.
        self._any_likely = (
            finds_undecided and adj_thresholds[lowest] <= self._share / (1 + self._share) + FLOAT_TOLERANCE
        )

    def add(self, summary: SummaryBlock) -> None:
        """Count the rows of `summary`."""
        for rows in row_slices(len(summary)):
            self._add(summary[rows])

    def _add(self, summary: SummaryBlock) -> None:
        labels, predicted, p_predicted = summary.label, summary.predicted, summary.p_predicted
        # Compared with positive numbers, signed bits order like floats; comparisons of float16 itself are slow.
        signed = f"i{p_predicted.itemsize}"
        threshold_bits = smallest_at_least(self._thresholds, p_predicted.dtype).view(signed)
        counted = p_predicted.view(signed) >= threshold_bits.take(predicted)
        self._counter.add(labels, predicted, counted)
        if self._any_likely:
            left = np.flatnonzero((labels != predicted) & ~counted)
            p_left = p_predicted[left].astype(np.float64)
            near = summary.p_label[left].astype(np.float64) + FLOAT_TOLERANCE > p_left
            likely = np.minimum(p_left, self._share * (1 - p_left))
            self._undecided += int(np.count_nonzero(~near & (likely >= self._lowest_other[predicted[left]])))

    def counts(self) -> ConfidentCounts:
        """Return the counts of all rows so far."""
        return replace(self._counter.counts(), undecided=self._undecided)


def confident_chunk(summary: SummaryBlock, adj_thresholds: Float64s) -> ConfidentCounts:
    """Count the rows of `summary`; see `ConfidentCounter`."""
    counter = ConfidentCounter(adj_thresholds)
    counter.add(summary)
    return counter.counts()


def confident_combine(parts: Iterable[ConfidentCounts]) -> ConfidentCounts:
    """Add up counts. Pairs are merged in pieces, so that little memory is needed beside the parts and the total."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    diagonal = np.sum([part.diagonal for part in parts], axis=0)
    # Cut all parts at the same pairs, so that each piece of the total comes from one piece of each part.
    largest = max(parts, key=lambda part: len(part.pairs)).pairs
    cuts = largest[_PIECE_PAIRS::_PIECE_PAIRS]
    edges = [np.concatenate(([0], np.searchsorted(part.pairs, cuts), [len(part.pairs)])) for part in parts]
    most_pairs = sum(len(part.pairs) for part in parts)
    # The total of a pair may need a wider dtype than the counts of any part.
    wide = sum(int(part.counts.max(initial=0)) for part in parts) > np.iinfo(np.int32).max
    pairs, counts = np.empty(most_pairs, largest.dtype), np.empty(most_pairs, np.int64 if wide else np.int32)
    end = 0
    for piece in range(len(cuts) + 1):
        cut = [slice(edge[piece], edge[piece + 1]) for edge in edges]
        keys = np.concatenate([part.pairs[rows] for part, rows in zip(parts, cut, strict=True)])
        numbers = np.concatenate([part.counts[rows] for part, rows in zip(parts, cut, strict=True)])
        order = np.argsort(keys, kind="stable")
        keys, numbers = keys[order], numbers[order].astype(counts.dtype, copy=False)
        first = np.flatnonzero(np.concatenate((keys[:1] == keys[:1], keys[1:] != keys[:-1])))  # of each distinct pair
        stop = end + len(first)
        pairs[end:stop] = keys[first]
        if len(first):
            counts[end:stop] = np.add.reduceat(numbers, first)
        end = stop
    pairs.resize(end, refcheck=False)
    counts.resize(end, refcheck=False)
    return ConfidentCounts(diagonal, pairs, counts, sum(part.undecided for part in parts))


class JointAssigner:
    """Assigns the rows of a strip to classes of the confident joint, with scratch arrays made once.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._thresholds, self.n_classes = adjusted_thresholds(thresholds), len(thresholds)
        # Compared with positive numbers, signed bits order like floats; comparisons of float16 itself are slow.
        self._dtype, self._signed = dtype.newbyteorder("="), np.dtype(f"i{dtype.itemsize}")
        self._threshold_bits = smallest_at_least(self._thresholds, self._dtype).view(self._signed)
        self._lowest = self._thresholds.min()
        self._mask: Bools = np.empty(0, np.bool_)

    def assign(self, summary: SummaryBlock, probs: Floats) -> tuple[npt.NDArray[np.intp], Bools]:
        """Return the ``(n,)`` classes of the ``(n, K)`` strip `probs`, and which rows are counted at all."""
        classes = summary.predicted.astype(np.intp)
        counted = summary.p_predicted >= self._thresholds[classes]
        rows = np.flatnonzero(~counted & (summary.p_predicted >= self._lowest))
        if not len(rows):
            return classes, counted
        bits = np.ascontiguousarray(probs, dtype=self._dtype).view(self._signed)
        some = bits[rows] if len(rows) < _MOST_ROWS * len(bits) else bits
        found = self._reached_by_column(some) if self.n_classes <= _FEW_CLASSES else self._reached_by_row(some)
        any_reached, single, last = found if some is not bits else (column[rows] for column in found)
        counted[rows] = any_reached
        classes[rows[single]] = last[single]
        return classes, counted

    def _reached_by_column(self, bits: npt.NDArray[Any]) -> Reached:
        """Return for each row whether it reaches any class, whether it reaches exactly one, and which one that is."""
        columns = np.ascontiguousarray(bits.T)
        n_reached, last = np.zeros(len(bits), np.uint8), np.zeros(len(bits), np.uint8)
        for k in range(self.n_classes):
            reached = (columns[k] >= self._threshold_bits[k]).view(np.uint8)
            n_reached += reached
            np.maximum(last, reached * np.uint8(k), out=last)
        return n_reached > 0, n_reached == 1, last

    def _reached_by_row(self, bits: npt.NDArray[Any]) -> Reached:
        """Return the same by two searches along each row, which end at the first and at the second class reached."""
        if len(self._mask) < bits.size:
            self._mask = np.empty(bits.size, np.bool_)
        mask, rows = self._mask[: bits.size].reshape(bits.shape), np.arange(len(bits))
        np.greater_equal(bits, self._threshold_bits, out=mask)
        first = mask.argmax(axis=1)
        any_reached = mask[rows, first]
        mask[rows, first] = False
        return any_reached, any_reached & ~mask[rows, mask.argmax(axis=1)], first


class JointCounter:
    """Counts rows by the confident joint, strip by strip, in the second pass.

    Parameters
    ----------
    thresholds : (K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of `pred_probs`.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._assigner, self._counter = JointAssigner(thresholds, dtype), PairCounter(len(thresholds))
        self._n_off_diagonal = 0

    def add(self, summary: SummaryBlock, probs: Floats) -> Bools:
        """Count the ``(n, K)`` strip `probs`, and return the column `off_diagonal` of its rows."""
        classes, counted = self._assigner.assign(summary, probs)
        self._counter.add(summary.label, classes, counted)
        off_diagonal: Bools = counted & (classes != summary.label)
        rows = np.flatnonzero(off_diagonal)
        off_diagonal[rows] = ~near_predicted(
            summary.label[rows], summary.predicted[rows], summary.p_label[rows], summary.p_predicted[rows]
        )
        self._n_off_diagonal += int(np.count_nonzero(off_diagonal))
        return off_diagonal

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and in how many the column `off_diagonal` is true."""
        return self._counter.counts(), self._n_off_diagonal


def sums_by_class(classes: npt.NDArray[np.int64], counts: npt.NDArray[Any], n_classes: int) -> Int64s:
    """Return the sums of `counts` by class; float64 holds those of integers exactly.

    Counts are fractions only in a joint of the user, and then the sums are fractions too.
    """
    sums: Int64s = np.bincount(classes, counts, n_classes).astype(np.float64 if counts.dtype.kind == "f" else np.int64)
    return sums


# Up to this many classes, the result is that of cleanlab to the last bit: sums over a matrix, and NumPy's sort where
# remainders tie. With more classes this would take gigabytes and minutes; sums are exact then, and ties go by class.
_MATRIX_CLASSES: Final = 1024
# Replaces a sum of 0 where it divides (cleanlab/internal/constants.py, 2.9).
TINY: Final = 1e-100


@dataclass(frozen=True)
class JointCounts:
    """Counts by the confident joint that the number of label issues is computed from.

    Parameters
    ----------
    joint : ConfidentCounts
        The confident joint.
    n_off_diagonal : int
        Number of rows off its diagonal whose label is not nearly predicted.
    class_counts : (K,) int64
        Number of rows with each label.
    """

    joint: ConfidentCounts
    n_off_diagonal: int
    class_counts: Int64s


@dataclass(frozen=True)
class JointSums:
    """Sums of a calibrated joint.

    Parameters
    ----------
    diagonal : (K,) int64
        Estimated number of rows of each class whose label is right.
    by_label, by_true_class : (K,) int64
        Estimated number of rows with each label, and of each true class.
    """

    diagonal: Int64s
    by_label: Int64s
    by_true_class: Int64s


def calibrated_pairs(
    confident: ConfidentCounts, class_counts: Int64s
) -> Iterator[tuple[ConfidentCounts, Int64s, Int64s]]:
    """Scale the counts of each label to all of its rows, and round them to integers with the same sum.

    As ``cleanlab.count.calibrate_confident_joint`` (2.9), for the pairs that occur. A label without any counted row
    stays without, as there.

    Parameters
    ----------
    confident : ConfidentCounts
        Counts by label and class.
    class_counts : (K,) int64
        Number of rows with each label.

    Yields
    ------
    piece : ConfidentCounts
        Some of the pairs, as in `ConfidentCounts.pieces`; the last piece has no pairs.
    estimated : (P,) int64
        Estimated number of rows of each pair.
    diagonal : (K,) int64
        Estimated diagonal: of the labels of this piece, or, in the last piece, of the labels without pairs; else 0.
    """
    n_classes = confident.n_classes
    counted = confident.diagonal + confident.off_diagonal
    n_rows, total = int(class_counts.sum()), float(max(class_counts[counted > 0].sum(), 1))
    if n_classes <= _MATRIX_CLASSES:
        total = max(_matrix_total(confident, class_counts), TINY)
    counted = np.maximum(counted, TINY)
    without_pairs = np.ones(n_classes, bool)
    for piece in confident.pieces():
        n_pairs, labels = len(piece.pairs), np.unique(piece.given)
        without_pairs[labels] = False
        # The diagonal is one more entry of each row of the matrix, so that a whole row is rounded together.
        rows = np.concatenate([piece.given, labels])
        columns = np.concatenate([piece.predicted, labels])
        values = np.concatenate([piece.counts, confident.diagonal[labels]]) / counted[rows] * class_counts[rows]
        values = values / total * n_rows
        order = np.lexsort((columns, rows))
        rounded = np.empty(len(rows), np.int64)
        rounded[order] = _rounded(values[order], rows[order], columns[order], n_classes)
        diagonal = np.zeros(n_classes, np.int64)
        diagonal[labels] = rounded[n_pairs:]
        yield piece, rounded[:n_pairs], diagonal
    scaled = confident.diagonal / counted * class_counts / total * n_rows
    rest = np.where(without_pairs, np.rint(scaled), 0).astype(np.int64)
    no_pairs = ConfidentCounts(confident.diagonal, confident.pairs[:0], confident.counts[:0])
    yield no_pairs, np.empty(0, np.int64), rest


def _matrix_total(confident: ConfidentCounts, class_counts: Int64s) -> float:
    """Return the sum of the scaled counts as NumPy adds up a matrix: its last bit may decide how a half is rounded."""
    matrix = np.diag(confident.diagonal).astype(np.float64)
    matrix[confident.given, confident.predicted] = confident.counts
    scaled = matrix / np.maximum(matrix.sum(axis=1), TINY)[:, None] * class_counts[:, None]
    return float(np.sum(np.asfortranarray(scaled)))  # in the memory order that cleanlab's matrix has


def joint_sums(confident: ConfidentCounts, class_counts: Int64s) -> JointSums:
    """Return the sums of the calibrated joint by label and by true class; see `calibrated_pairs`."""
    diagonal, by_label, by_true_class = (np.zeros(confident.n_classes, np.int64) for _ in range(3))
    for piece, estimated, piece_diagonal in calibrated_pairs(confident, class_counts):
        diagonal += piece_diagonal
        by_label += sums_by_class(piece.given, estimated, confident.n_classes)
        by_true_class += sums_by_class(piece.predicted, estimated, confident.n_classes)
    return JointSums(diagonal, by_label + diagonal, by_true_class + diagonal)


def calibrated_joint(joint: ConfidentCounts, class_counts: Int64s) -> ConfidentCounts:
    """Return the calibrated joint as a whole; see `calibrated_pairs`."""
    diagonal, pairs, counts = np.zeros(joint.n_classes, np.int64), list[npt.NDArray[Any]](), list[Int64s]()
    for piece, estimated, piece_diagonal in calibrated_pairs(joint, class_counts):
        diagonal += piece_diagonal
        pairs.append(piece.pairs[estimated > 0])
        counts.append(estimated[estimated > 0])
    return ConfidentCounts(diagonal, np.concatenate(pairs), np.concatenate(counts))


def with_diagonal(joint: ConfidentCounts) -> ConfidentCounts:
    """Return the counts with at least 1 for each class on the diagonal, as in ``cleanlab.count`` (2.9)."""
    return ConfidentCounts(np.maximum(joint.diagonal, 1), joint.pairs, joint.counts)


def off_diagonal_rows(calibrated: ConfidentCounts) -> int:
    """Return the number of rows off the diagonal of a calibrated joint."""
    return int(calibrated.counts.sum(dtype=np.int64))


def estimated_issues(counts: JointCounts, *, calibrated: bool) -> int:
    """Return the estimated number of label issues, as ``cleanlab.count.num_label_issues`` (2.9) does.

    Parameters
    ----------
    counts : JointCounts
        Counts of all rows.
    calibrated : bool
        Whether to return the number of rows off the diagonal of the calibrated joint.
    """
    if not calibrated:
        return counts.n_off_diagonal
    return off_diagonal_rows(calibrated_joint(with_diagonal(counts.joint), counts.class_counts))


def _rounded(values: Float64s, groups: Int64s, columns: Int64s, n_columns: int) -> Int64s:
    """Round the values of each group of neighbours to integers that add up to the rounded sum of the group.

    As ``cleanlab.internal.util.round_preserving_sum`` (2.9): if the rounded values add up to less, the largest
    remainders are rounded up; if to more, the smallest are rounded down. Of equal remainders, later ones are rounded up
    and earlier ones down. With up to 1,024 classes NumPy's sort of all K remainders of a label decides, as in cleanlab.
    """
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    whole = np.rint(values)
    missing = np.rint(np.add.reduceat(values, first)) - np.add.reduceat(whole, first)
    order = np.lexsort((values - whole, groups))  # stable: by column where remainders are equal
    # Each value's rank within its group, smallest remainder first: the last `missing` are raised by 1, or the first
    # `-missing` lowered.
    rank = np.arange(len(values)) - np.repeat(first, lengths)
    missing_of_value = np.repeat(missing, lengths)
    up, down = rank >= np.repeat(lengths, lengths) - missing_of_value, rank < -missing_of_value
    rounded = whole.copy()
    rounded[order] += up.astype(np.float64) - down
    if n_columns <= _MATRIX_CLASSES:
        for group in np.flatnonzero(missing):
            members = slice(first[group], first[group] + lengths[group])
            row = np.zeros(n_columns)
            row[columns[members]] = values[members]
            rounded[members] = round_preserving_sum(row)[columns[members]]
    return rounded.astype(np.int64)


def round_preserving_sum(values: Float64s) -> Int64s:
    """Round numbers to integers that add up to their rounded sum, as ``cleanlab.internal.util`` (2.9) does."""
    whole = values.round()
    missing = np.sum(values).round() - np.sum(whole).round()
    while abs(missing) > FLOAT_TOLERANCE:
        step = -1 if missing < 0 else 1
        largest_first = np.argsort(values - whole)[::-step]
        whole[largest_first[: min(int(abs(missing)), len(values))]] += step
        missing = np.sum(values).round() - np.sum(whole).round()
    return whole.astype(np.int64)


@dataclass(frozen=True)
class PruneCounts:
    """How many rows the pruning filters select.

    Parameters
    ----------
    by_label : (K,) int64
        Number of rows of each label, for ``prune_by_class``; a negative number selects none.
    edges : (K + 1,) int64
        The pairs of label k are those from ``edges[k]`` to ``edges[k + 1] - 1``.
    classes : (P,) uint
        The other class of each pair, ascending within a label.
    by_pair : (P,) int64
        Number of rows of each pair, for ``prune_by_noise_rate``; at least 1.
    """

    by_label: Int64s
    edges: Int64s
    classes: npt.NDArray[Any]
    by_pair: Int64s

    @classmethod
    def joined(cls, parts: Sequence[PruneCounts]) -> PruneCounts:
        """Return the counts of groups of classes that follow each other."""
        if len(parts) == 1:
            return parts[0]
        by_label, classes, by_pair, lengths = (
            np.concatenate(columns)
            for columns in zip(
                *((part.by_label, part.classes, part.by_pair, np.diff(part.edges)) for part in parts), strict=True
            )
        )
        return cls(by_label, np.concatenate(([0], np.cumsum(lengths))), classes, by_pair)

    def without(self, labels: Bools) -> PruneCounts:
        """Return the counts without the labels that the ``(K,)`` mask `labels` selects."""
        lengths = np.diff(self.edges)
        kept = np.repeat(~labels, lengths)
        edges = np.concatenate(([0], np.cumsum(np.where(labels, 0, lengths))))
        return PruneCounts(np.where(labels, 0, self.by_label), edges, self.classes[kept], self.by_pair[kept])


def prune_counts(
    calibrated: ConfidentCounts,
    class_counts: Int64s,
    *,
    frac_noise: float,
    min_examples_per_class: int,
    num_to_remove_per_class: npt.ArrayLike | None,
) -> PruneCounts:
    """Return how many rows to select of each label and of each pair, such that enough rows of each label are left.

    Parameters
    ----------
    calibrated : ConfidentCounts
        The calibrated joint, or a joint of the user, which may have fractions.
    class_counts : (K,) int64
        Number of rows with each label.
    frac_noise : float
        Share of the noise to select.
    min_examples_per_class : int
        Number of rows of each class to leave. What the diagonal lacks is subtracted evenly from the pairs of the label.
    num_to_remove_per_class : (K,) array of int, optional
        Number of rows to select of each label. The pairs of each *true* class are scaled to this number.
    """
    selected = _reduced(calibrated, frac_noise, min_examples_per_class)
    if num_to_remove_per_class is not None:
        selected = _scaled(selected, class_counts, np.asarray(num_to_remove_per_class, np.int64))
    classes = selected.predicted.astype(class_dtype(selected.n_classes))
    return PruneCounts(class_counts - selected.diagonal, _edges(selected), classes, selected.counts)


def _reduced(calibrated: ConfidentCounts, frac_noise: float, min_examples_per_class: int) -> ConfidentCounts:
    """Return the number of rows to select of each pair, and, as diagonal, the number to leave with each label."""
    diagonal = np.maximum(calibrated.diagonal, min_examples_per_class)
    pairs, counts = [calibrated.pairs[:0]], [np.empty(0, np.int64)]
    for piece in calibrated.pieces():
        label_of_pair = piece.given
        first = np.flatnonzero(np.diff(label_of_pair, prepend=-1))
        labels, lengths = label_of_pair[first], np.diff(np.append(first, len(label_of_pair)))
        lacking = diagonal[labels] - calibrated.diagonal[labels]
        n_others = lengths + (calibrated.diagonal[labels] != 0) - 1
        others = np.maximum(piece.counts - np.repeat(lacking / np.maximum(n_others, 1), lengths), 0)
        reduced = others * frac_noise
        left = _matrix_sums(others - reduced, piece.predicted, first, lengths, piece.n_classes)
        diagonal[labels] = (diagonal[labels] + left).astype(np.int64)
        rows = reduced.astype(np.int64)
        pairs.append(piece.pairs[rows > 0])
        counts.append(rows[rows > 0])
    # A joint of the user may have fractions.
    return ConfidentCounts(diagonal.astype(np.int64), np.concatenate(pairs), np.concatenate(counts))


def _matrix_sums(values: Float64s, columns: Int64s, first: Int64s, lengths: Int64s, n_columns: int) -> Float64s:
    """Return the sums of groups of neighbouring values as NumPy adds up the rows of a matrix with all K columns.

    `first` and `lengths` are the position of the first value and the number of values of each group. A last bit may
    decide whether a row is selected, and depends on the order of adding if there are three values or more.
    """
    sums: Float64s = np.add.reduceat(values, first)
    row = np.zeros(n_columns)
    for group in np.flatnonzero((lengths > 2) & (sums > 0)):
        members = slice(first[group], first[group] + lengths[group])
        row[columns[members]] = values[members]
        sums[group] = row.sum()
        row[columns[members]] = 0
    return sums


def _scaled(selected: ConfidentCounts, class_counts: Int64s, n_remove: Int64s) -> ConfidentCounts:
    """Scale the pairs of each true class to `n_remove` rows, by the formula of ``cleanlab.filter`` (2.9).

    The formula divides the counts of a label by the sum over its *true* class. A class without noise selects no rows.
    """
    by_class = _transposed(selected)
    sums = np.maximum(by_class.diagonal + by_class.off_diagonal, 1)  # a class without rows has no counts to divide
    shares, diagonal_shares = by_class.counts / sums[by_class.predicted], by_class.diagonal / sums
    edges, labels, n_left = _edges(by_class), by_class.predicted, class_counts - n_remove
    pairs, counts = [selected.pairs[:0]], [np.empty(0, np.int64)]
    for k in np.flatnonzero(np.diff(edges)):
        members = slice(edges[k], edges[k + 1])
        row = np.zeros(selected.n_classes)
        row[labels[members]], row[k] = shares[members], diagonal_shares[k]
        noise = row.sum() - row[k]
        row = row * n_remove[k] / noise if noise > 0 else np.zeros_like(row)
        row[k] = n_left[k]
        rows = round_preserving_sum(row)
        rows[k] = 0
        others = np.flatnonzero(rows > 0)
        pairs.append((others + k * selected.n_classes).astype(selected.pairs.dtype))
        counts.append(rows[others])
    return _transposed(ConfidentCounts(n_left, np.concatenate(pairs), np.concatenate(counts)))


def _edges(joint: ConfidentCounts) -> Int64s:
    """Return the ``(K + 1,)`` positions at which the pairs of each label begin, and the end of the last."""
    first = np.arange(joint.n_classes + 1) * joint.n_classes
    edges: Int64s = np.searchsorted(joint.pairs.astype(np.int64), first).astype(np.int64)
    return edges


def _transposed(joint: ConfidentCounts) -> ConfidentCounts:
    pairs: npt.NDArray[Any] = (joint.predicted * joint.n_classes + joint.given).astype(joint.pairs.dtype)
    order = np.argsort(pairs)
    return ConfidentCounts(joint.diagonal, pairs[order], joint.counts[order])


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
