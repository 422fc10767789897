"""The columns of row summaries, and the fast ways to fill them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.scores import adjusted_self_confidence
from labelsieve.confident_learning.thresholds import (
    Bools,
    Float64s,
    Floats,
    Int64s,
    Ints,
    class_dtype,
    label_dtype,
    row_slices,
)
from labelsieve.options import FLOAT_TOLERANCE

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


@dataclass(frozen=True)
class LabelledRows:
    """Which of consecutive rows have a label.

    Parameters
    ----------
    first_row, n_rows : int
        Number of the first of all rows, and how many they are.
    numbers : (n,) int64
        Numbers of the rows that have a label, ascending.
    """

    first_row: int
    n_rows: int
    numbers: Int64s

    def spread(self, values: Floats) -> Floats:
        """Return an ``(n_rows,)`` column of all rows, with NaN where a row has no label."""
        column = np.full(self.n_rows, np.nan, values.dtype)
        column[self.numbers - self.first_row] = values
        return column


@dataclass(kw_only=True)
class SummaryBlock:
    """Some rows of the table of row summaries, column by column.

    `labelsieve.job.table` documents the columns. A row takes 6 to 33 bytes, instead of K probabilities.

    Parameters
    ----------
    label, predicted : (n,) uint
        Labels and predicted classes.
    p_label, p_predicted : (n,) float
        Probabilities of both.
    score, row_sum : (n,) float64, optional
        Computed from whole rows, where the method needs it.
    off_diagonal : (n,) bool, optional
        Added by the second pass.
    labelled : LabelledRows, optional
        Which rows these are, where rows without a label were left out; None where the rows are consecutive.
    """

    label: Ints
    predicted: Ints
    p_label: Floats
    p_predicted: Floats
    score: Float64s | None = None
    row_sum: Float64s | None = None
    off_diagonal: Bools | None = None
    labelled: LabelledRows | None = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> SummaryBlock:
        """Return the summaries of some rows, without their numbers; of a slice as views."""
        return SummaryBlock(**{name: column[rows] for name, column in self.columns().items()})

    def put(self, start: int, block: SummaryBlock) -> int:
        """Copy `block` to the rows from `start` on, and return the row behind it."""
        stop = start + len(block)
        columns = block.columns()
        for name, column in self.columns().items():
            column[start:stop] = columns[name]
        return stop

    def columns(self) -> dict[str, Any]:
        """Return the columns that there are, by name."""
        return {name: column for name, column in vars(self).items() if column is not None and name != "labelled"}

    @property
    def n_covered(self) -> int:
        """Number of rows that the block stands for, those without a label included."""
        return len(self) if self.labelled is None else self.labelled.n_rows

    def row_numbers(self, positions: npt.NDArray[np.intp], first_row: int) -> Int64s:
        """Return the numbers of the rows at `positions`, in a block that stands for rows from `first_row` on."""
        if self.labelled is not None:
            return self.labelled.numbers[positions]
        return (positions + first_row).astype(np.int64)

    def spread(self, values: Floats) -> Floats:
        """Return the `values` of the rows of this block as a column of all rows that it stands for."""
        return values if self.labelled is None else self.labelled.spread(values)

    def only_labelled(self, n_classes: int, first_row: int) -> SummaryBlock:
        """Return the summaries without the rows whose label is K, which stands for none.

        Parameters
        ----------
        n_classes : int
            Number of classes K.
        first_row : int
            Number of the first row.
        """
        kept = np.flatnonzero(self.label < n_classes)
        some = self if len(kept) == len(self) else self[kept]
        return replace(some, labelled=LabelledRows(first_row, len(self), kept + np.int64(first_row)))

    @classmethod
    def empty(
        cls,
        n_rows: int,
        n_classes: int,
        dtype: np.dtype[Any],
        computed: Iterable[str] = (),
        ignored: int | None = None,
    ) -> SummaryBlock:
        """Allocate the summaries of `n_rows` rows, with the `computed` columns, to be filled.

        `ignored` is the value of labels that stands for none, if there is one: the column `label` then holds K too.
        """
        classes = class_dtype(n_classes)
        columns: dict[str, Any] = {name: np.empty(n_rows, np.float64) for name in computed}
        return cls(
            label=np.empty(n_rows, label_dtype(n_classes, ignored)),
            predicted=np.empty(n_rows, classes),
            p_label=np.empty(n_rows, dtype),
            p_predicted=np.empty(n_rows, dtype),
            **columns,
        )


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


def near_predicted(label: Ints, predicted: Ints, p_label: Floats, p_predicted: Floats) -> Bools:
    """Return which rows have a label that is the predicted class, or would be if its probability were 1e-6 higher."""
    raised = p_label.astype(np.float64) + FLOAT_TOLERANCE
    near: Bools = (predicted == label) | (raised > p_predicted) | ((raised == p_predicted) & (label < predicted))
    return near


def with_adjusted_scores(summary: SummaryBlock, thresholds: Float64s) -> SummaryBlock:
    """Return `summary` with adjusted self-confidences in place of the sums of rows, if it has these."""
    if summary.row_sum is None:
        return summary
    scores = np.empty(len(summary), np.float64)
    for rows in row_slices(len(summary)):
        scores[rows] = adjusted_self_confidence(
            summary.p_label[rows], summary.label[rows], summary.row_sum[rows], thresholds
        )
    return replace(summary, score=scores, row_sum=None)
