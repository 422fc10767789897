"""Confidently predicted rows by given label and predicted class, and what is made of these counts. NumPy only.

The batched rule counts a row by its predicted class alone, where the exact rule may count it by another (`looks`).
Handed these counts as ``confident_joint``, cleanlab's functions give the numbers that stand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.row_summary import RowSummary
from labelsieve.confident_learning.thresholds import Float64s, Int64s, IssueCounts, blocks, smallest_at_least
from labelsieve.settings import FLOAT_TOLERANCE

# How far above its mean a probability is likely to be. Of 36 synthetic datasets (K 2 to 1000, equal and Zipf classes)
# this told all whose issues by the two rules overlap by less than 0.95, and one of the others.
_LIKELY: Final = 3.0
# Pairs that are worked on at a time.
_PIECE_PAIRS: Final = 1 << 18
# Up to this many classes counts are calibrated to the last bit as in cleanlab: with a matrix, and NumPy's sort where
# remainders tie. Beyond, where that takes gigabytes and minutes, by exact sums and in the order of the classes.
_MATRIX_CLASSES: Final = 1024
# What divides where there is nothing (cleanlab/internal/constants.py, 2.9).
TINY: Final = 1e-100
# Up to this many classes, pairs are counted in a table: a given label and a class, or K, make a 16-bit key. With more
# classes, rows are sorted by their pair.
_TABLE_CLASSES: Final = 255
# Rows that are held before they are counted in the table.
_TABLE_ROWS: Final = 1 << 16


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
    def of_given(self) -> Int64s:
        """``(K,)`` confident rows of each given label that are predicted as another class."""
        total = np.zeros(self.n_classes, np.int64)
        for piece in self.pieces():
            total += _sums(piece.given, piece.counts, self.n_classes)
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
        off_of_label = self.of_given
        return IssueCounts(off, np.stack([class_counts, self.diagonal + off_of_label, off_of_label]))


def pair_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the dtype of pairs: 4 bytes where they hold it, and of classes that are very many 8."""
    return np.dtype(np.uint32 if n_classes * n_classes <= 1 << 32 else np.int64)


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

    def add(self, summary: RowSummary) -> None:
        """Count rows."""
        for block in blocks(len(summary)):
            self._add(summary[block])

    def _add(self, summary: RowSummary) -> None:
        labels, predicted, p_predicted = summary.labels, summary.predicted, summary.p_predicted
        # Signed bits order like floats against a number above 0, and float16 compares no other way in good time.
        signed = f"i{p_predicted.itemsize}"
        bars = smallest_at_least(self._thresholds, p_predicted.dtype).view(signed)
        counted = p_predicted.view(signed) >= bars.take(predicted)
        self._counter.add(labels, predicted, counted)
        if self._any_likely:
            left = np.flatnonzero((labels != predicted) & ~counted)
            p_left = p_predicted[left].astype(np.float64)
            near = summary.p_given[left].astype(np.float64) + FLOAT_TOLERANCE > p_left
            likely = np.minimum(p_left, self._share * (1 - p_left))
            self._undecided += int(np.count_nonzero(~near & (likely >= self._other[predicted[left]])))

    def counts(self) -> ConfidentCounts:
        """Return the counts of all rows so far."""
        return replace(self._counter.counts(), undecided=self._undecided)


def confident_chunk(summary: RowSummary, adj_thresholds: Float64s) -> ConfidentCounts:
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


@dataclass(frozen=True)
class Joint:
    """How many rows of each given label truly are of each class, as estimated; whole rows, which add up to N.

    Parameters
    ----------
    diagonal : (K,) int64
        Rows of each class whose label is right.
    of_given, of_true : (K,) int64
        Rows by given label, and by true class.
    """

    diagonal: Int64s
    of_given: Int64s
    of_true: Int64s


def calibrated_pairs(
    confident: ConfidentCounts, class_counts: Int64s
) -> Iterator[tuple[ConfidentCounts, Int64s, Int64s]]:
    """Scale the confident rows of each given label to all of its rows, and round to whole ones that add up the same.

    As ``cleanlab.count.calibrate_confident_joint`` (2.9), for pairs that occur; a label without any confident row has
    none here, as there.

    Parameters
    ----------
    confident : ConfidentCounts
        Counts.
    class_counts : (K,) int64
        All rows with each label.

    Yields
    ------
    piece : ConfidentCounts
        Some of the pairs, all of their given labels; the last piece has none.
    estimated : (P,) int64
        Estimated rows of each pair.
    diagonal : (K,) int64
        Estimated rows of the diagonal, of the piece's labels; in the last piece of labels without pairs. Else 0.
    """
    n_classes = confident.n_classes
    everywhere = confident.diagonal + confident.of_given
    n_rows, total = int(class_counts.sum()), float(max(class_counts[everywhere > 0].sum(), 1))
    if n_classes <= _MATRIX_CLASSES:
        total = max(_matrix_total(confident, class_counts), TINY)
    everywhere = np.maximum(everywhere, TINY)
    alone = np.ones(n_classes, bool)
    for piece in confident.pieces():
        given = piece.given
        labels = np.unique(given)
        alone[labels] = False
        # The diagonal is one more pair of each label, so that all of its rows are rounded together.
        of = np.concatenate([given, labels])
        columns = np.concatenate([piece.predicted, labels])
        values = np.concatenate([piece.counts, confident.diagonal[labels]]) / everywhere[of] * class_counts[of]
        values = values / total * n_rows
        order = np.lexsort((columns, of))
        whole = np.empty(len(of), np.int64)
        whole[order] = _rounded(values[order], of[order], columns[order], n_classes)
        diagonal = np.zeros(n_classes, np.int64)
        diagonal[labels] = whole[len(given) :]
        yield piece, whole[: len(given)], diagonal
    scaled = confident.diagonal / everywhere * class_counts / total * n_rows
    rest = np.where(alone, np.rint(scaled), 0).astype(np.int64)
    none = ConfidentCounts(confident.diagonal, confident.pairs[:0], confident.counts[:0])
    yield none, np.empty(0, np.int64), rest


def _matrix_total(confident: ConfidentCounts, class_counts: Int64s) -> float:
    """Add up the scaled counts as NumPy adds up a matrix: an exact half may hang on the last bit of that."""
    matrix = np.diag(confident.diagonal).astype(np.float64)
    matrix[confident.given, confident.predicted] = confident.counts
    scaled = matrix / np.maximum(matrix.sum(axis=1), TINY)[:, None] * class_counts[:, None]
    return float(np.sum(np.asfortranarray(scaled)))  # by true class, as the matrix lies in memory there


def joint_sums(confident: ConfidentCounts, class_counts: Int64s) -> Joint:
    """Add up the calibrated joint by given label and by true class; see `calibrated_pairs`."""
    diagonal, of_given, of_true = (np.zeros(confident.n_classes, np.int64) for _ in range(3))
    for piece, estimated, of_piece in calibrated_pairs(confident, class_counts):
        diagonal += of_piece
        of_given += _sums(piece.given, estimated, confident.n_classes)
        of_true += _sums(piece.predicted, estimated, confident.n_classes)
    return Joint(diagonal, of_given + diagonal, of_true + diagonal)


def _rounded(values: Float64s, groups: Int64s, columns: Int64s, n_columns: int) -> Int64s:
    """Round so that each group of neighbours adds up to its rounded sum: the largest remainders are rounded up.

    As ``cleanlab.internal.util.round_preserving_sum`` (2.9). Where remainders tie at the last one that is rounded, the
    later ones are rounded up and the earlier ones down; of up to 1,024 classes, where that function is of use, those
    that NumPy's sort of all K remainders of the label leaves there.
    """
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(first, len(values)))
    whole = np.rint(values)
    missing = np.rint(np.add.reduceat(values, first)) - np.add.reduceat(whole, first)
    order = np.lexsort((values - whole, groups))  # stable: by column where remainders are equal
    place = np.arange(len(values)) - np.repeat(first, lengths)  # within its group, smallest remainder first
    more = np.repeat(missing, lengths)
    up, down = place >= np.repeat(lengths, lengths) - more, place < -more
    rounded = whole.copy()
    rounded[order] += np.where(more > 0, up, 0) - np.where(more < 0, down, 0)
    if n_columns <= _MATRIX_CLASSES:
        for group in np.flatnonzero(missing):
            own = slice(first[group], first[group] + lengths[group])
            row = np.zeros(n_columns)
            row[columns[own]] = values[own]
            rounded[own] = round_preserving_sum(row)[columns[own]]
    return rounded.astype(np.int64)


def round_preserving_sum(values: Float64s) -> Int64s:
    """Round numbers to whole ones that add up to their rounded sum, as ``cleanlab.internal.util`` (2.9) does."""
    whole = values.round()
    missing = np.sum(values).round() - np.sum(whole).round()
    while abs(missing) > FLOAT_TOLERANCE:
        step = -1 if missing < 0 else 1
        largest_first = np.argsort(values - whole)[::-step]
        whole[largest_first[: min(int(abs(missing)), len(values))]] += step
        missing = np.sum(values).round() - np.sum(whole).round()
    return whole.astype(np.int64)


def _sums(classes: npt.NDArray[np.int64], counts: npt.NDArray[Any], n_classes: int) -> Int64s:
    """Add up counts by class; float64 holds them exactly."""
    return np.bincount(classes, counts, n_classes).astype(np.int64)
