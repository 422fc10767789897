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
from labelsieve.confident_learning.row_summary import SummaryBlock, near_predicted
from labelsieve.confident_learning.thresholds import IssueCounts, adjusted_thresholds, row_slices, smallest_at_least
from labelsieve.settings import FLOAT_TOLERANCE

# How far above its mean a probability is likely to be. Of 36 synthetic datasets (K 2 to 1000, equal and Zipf classes)
# this told all whose issues by the two rules overlap by less than 0.95, and one of the others.
_LIKELY: Final = 3.0
# Pairs that are worked on at a time.
_PIECE_PAIRS: Final = 1 << 18
# Up to this many classes, pairs are counted in a table: a given label and a class, or K, make a 16-bit key. With more
# classes, rows are sorted by their pair.
_TABLE_CLASSES: Final = 255
# Rows that are held before they are counted in the table.
_TABLE_ROWS: Final = 1 << 16
# Up to this many classes a loop over columns beats a search along rows.
_FEW_CLASSES: Final = 32
# If more than this share of a strip's rows has to be compared, it is faster to compare all of them than to gather some.
_MOST_ROWS: Final = 0.4

Reached = tuple[Bools, Bools, npt.NDArray[Any]]


@dataclass
class ConfidentCounts:
    """Confidently predicted rows, by given label and predicted class.

    Parameters
    ----------
    diagonal : (K,) int64
        Those whose label is predicted.
    pairs : (P,) uint32 or int64
        ``given * K + predicted`` of the pairs of different classes that occur, ascending; see `pair_dtype`.
    counts : (P,) int32 or int64
        Rows of each pair.
    undecided : int
        Rows that were left out, which the exact rule likely counts off the diagonal; see `ConfidentCounter`.
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
        """``(P,)`` given label of each pair."""
        return self.pairs.astype(np.int64) // self.n_classes

    @property
    def predicted(self) -> Int64s:
        """``(P,)`` predicted class of each pair."""
        return self.pairs.astype(np.int64) % self.n_classes

    @property
    def off_diagonal(self) -> Int64s:
        """``(K,)`` confident rows of each given label that are predicted as another class."""
        total = np.zeros(self.n_classes, np.int64)
        for piece in self.pieces():
            total += sums_by_class(piece.given, piece.counts, self.n_classes)
        return total

    def pieces(self) -> Iterator[ConfidentCounts]:
        """Yield the pairs some at a time, those of a given label together, each with the whole diagonal."""
        start = 0
        while start < len(self.pairs):
            stop = min(start + _PIECE_PAIRS, len(self.pairs))
            if stop < len(self.pairs):
                first = int(self.pairs[stop]) // self.n_classes * self.n_classes  # of the label that is cut
                stop = int(np.searchsorted(self.pairs, self.pairs.dtype.type(first)))
            if stop <= start:  # a label of more pairs than a piece has
                beyond = (int(self.pairs[start]) // self.n_classes + 1) * self.n_classes
                stop = int(np.searchsorted(self.pairs, beyond))
            yield ConfidentCounts(self.diagonal, self.pairs[start:stop], self.counts[start:stop])
            start = stop

    def issue_counts(self, class_counts: Int64s, *, calibrated: bool) -> IssueCounts:
        """Return what the number of label issues is made of, where all ``(K,)`` `class_counts` rows were counted."""
        off = int(self.counts.sum(dtype=np.int64))
        if not calibrated:
            return IssueCounts(off, None)
        off_of_label = self.off_diagonal
        return IssueCounts(off, np.stack([class_counts, self.diagonal + off_of_label, off_of_label]))


class PairCounter:
    """Counts rows by given label and class, some rows at a time.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes, self._dtype = n_classes, pair_dtype(n_classes)
        self._in_table = n_classes <= _TABLE_CLASSES
        # The table has a column for the rows that are not counted.
        self._table = np.zeros(n_classes * (n_classes + 1) if self._in_table else 0, np.int64)
        self._diagonal = np.zeros(n_classes, np.int64)
        self._keys, self._n_held = list[npt.NDArray[Any]](), 0
        self._folded: list[ConfidentCounts] = []

    def add(self, labels: npt.NDArray[Any], classes: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> None:
        """Count the rows that are `counted`, each ``(n,)``."""
        n_classes = self._n_classes
        if self._in_table:
            keys = labels.astype(np.uint16)
            keys *= np.uint16(n_classes + 1)
            # A row that is not counted gets the class K. `np.where` would take eight times as long for bytes.
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
        self._n_held += len(keys)
        if self._n_held >= (_TABLE_ROWS if self._in_table else _PIECE_PAIRS):
            self._fold()

    def counts(self) -> ConfidentCounts:
        """Return what was counted."""
        self._fold()
        if not self._in_table:
            return replace(self._folded[0], diagonal=self._diagonal)
        table = self._table.reshape(self._n_classes, -1)[:, :-1].copy()
        diagonal = table.diagonal().copy()
        np.fill_diagonal(table, 0)
        pairs = np.flatnonzero(table)
        return ConfidentCounts(diagonal, pairs.astype(self._dtype), table.reshape(-1)[pairs].astype(np.int32))

    def _fold(self) -> None:
        """Count the keys that are held, and drop them."""
        every = np.concatenate([np.empty(0, np.uint16 if self._in_table else self._dtype), *self._keys])
        self._keys, self._n_held = [], 0
        if self._in_table:
            self._table += np.bincount(every, minlength=len(self._table))
            return
        found, counts = np.unique(every, return_counts=True)
        none = np.zeros(self._n_classes, np.int64)
        self._folded.append(ConfidentCounts(none, found, counts.astype(np.int32)))
        self._folded = [confident_combine(self._folded)]


class ConfidentCounter:
    """Counts rows by given label and predicted class where that reaches its threshold, some rows at a time.

    Of those left out some likely reach another class, and are counted by the exact rule: those whose largest
    probability is as high as the lowest threshold of another class, and so are what it leaves for all others, and three
    times what it leaves for each of them on average.

    Parameters
    ----------
    adj_thresholds : (K,) float64
        The `adjusted_thresholds`.
    """

    def __init__(self, adj_thresholds: Float64s) -> None:
        n_classes = len(adj_thresholds)
        self._thresholds, self._counter, self._undecided = adj_thresholds, PairCounter(n_classes), 0
        lowest, second = np.argsort(adj_thresholds, kind="stable")[:2]
        self._other = np.full(n_classes, adj_thresholds[lowest])
        self._other[lowest] = adj_thresholds[second]
        self._share = np.minimum(1.0, _LIKELY / (n_classes - 1))
        # `min(p, share * (1 - p))` is largest where both are equal. In most datasets no threshold is that low.
        self._any_likely = adj_thresholds[lowest] <= self._share / (1 + self._share) + FLOAT_TOLERANCE

    def add(self, summary: SummaryBlock) -> None:
        """Count rows."""
        for block in row_slices(len(summary)):
            self._add(summary[block])

    def _add(self, summary: SummaryBlock) -> None:
        labels, predicted, p_predicted = summary.label, summary.predicted, summary.p_predicted
        # Signed bits order like floats against a number above 0, and float16 compares no other way in good time.
        signed = f"i{p_predicted.itemsize}"
        bars = smallest_at_least(self._thresholds, p_predicted.dtype).view(signed)
        counted = p_predicted.view(signed) >= bars.take(predicted)
        self._counter.add(labels, predicted, counted)
        if self._any_likely:
            left = np.flatnonzero((labels != predicted) & ~counted)
            p_left = p_predicted[left].astype(np.float64)
            near = summary.p_label[left].astype(np.float64) + FLOAT_TOLERANCE > p_left
            likely = np.minimum(p_left, self._share * (1 - p_left))
            self._undecided += int(np.count_nonzero(~near & (likely >= self._other[predicted[left]])))

    def counts(self) -> ConfidentCounts:
        """Return the counts of all rows so far."""
        return replace(self._counter.counts(), undecided=self._undecided)


def confident_chunk(summary: SummaryBlock, adj_thresholds: Float64s) -> ConfidentCounts:
    """Count the rows of `summary`; see `ConfidentCounter`."""
    counter = ConfidentCounter(adj_thresholds)
    counter.add(summary)
    return counter.counts()


def confident_combine(parts: Iterable[ConfidentCounts]) -> ConfidentCounts:
    """Add up counts, some pairs at a time: beside the parts and the whole no more is held than that takes."""
    every = list(parts)
    if len(every) == 1:
        return every[0]
    diagonal = np.sum([part.diagonal for part in every], axis=0)
    largest = max(every, key=lambda part: len(part.pairs)).pairs
    cuts = largest[_PIECE_PAIRS::_PIECE_PAIRS]
    edges = [np.concatenate(([0], np.searchsorted(part.pairs, cuts), [len(part.pairs)])) for part in every]
    n_most = sum(len(part.pairs) for part in every)
    # As wide as their sum needs: the rows of a pair may be more than those of any part's.
    wide = sum(int(part.counts.max(initial=0)) for part in every) > np.iinfo(np.int32).max
    pairs, counts = np.empty(n_most, largest.dtype), np.empty(n_most, np.int64 if wide else np.int32)
    end = 0
    for piece in range(len(cuts) + 1):
        cut = [slice(edge[piece], edge[piece + 1]) for edge in edges]
        some = np.concatenate([part.pairs[rows] for part, rows in zip(every, cut, strict=True)])
        rows_of = np.concatenate([part.counts[rows] for part, rows in zip(every, cut, strict=True)])
        order = np.argsort(some, kind="stable")
        some, rows_of = some[order], rows_of[order].astype(counts.dtype, copy=False)
        first = np.flatnonzero(np.concatenate((some[:1] == some[:1], some[1:] != some[:-1])))
        stop = end + len(first)
        pairs[end:stop] = some[first]
        if len(first):
            counts[end:stop] = np.add.reduceat(rows_of, first)
        end = stop
    pairs.resize(end, refcheck=False)
    counts.resize(end, refcheck=False)
    return ConfidentCounts(diagonal, pairs, counts, sum(part.undecided for part in every))


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
        # Signed bits order like floats against a number above 0, and float16 compares no other way in good time.
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
    """Counts rows by the confident joint, strip by strip.

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
        """Return the counts of all rows so far, and how many are off the diagonal and not nearly predicted."""
        return self._counter.counts(), self._n_off_diagonal


def sums_by_class(classes: npt.NDArray[np.int64], counts: npt.NDArray[Any], n_classes: int) -> Int64s:
    """Add up counts by class; float64 holds them exactly."""
    return np.bincount(classes, counts, n_classes).astype(np.int64)
