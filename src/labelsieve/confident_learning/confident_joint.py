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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Int64s, pair_dtype
from labelsieve.confident_learning.summary_block import SummaryBlock, near_predicted
from labelsieve.confident_learning.thresholds import IssueCounts, adjusted_thresholds, row_slices, smallest_at_least
from labelsieve.settings import FLOAT_TOLERANCE

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
