"""Confident thresholds and issue counts, each as a function per chunk, one that combines and one that finalizes.

Class sums are exact integers, so that a reduction over any chunks in any order gives the same bits. A probability p
becomes ``q = rint(p * 2**52)``, split into a high part and 37 low bits. Over a slice of 2**16 rows, float64 bincounts
of both parts stay below 2**53 and are exact. This leaves room to add 2**33 per row to the high part, so that the same
bincount counts the rows. The totals are a high part and 26 low bits, each int64, exact over 2**36 rows. The only
division, of sum by rows, is done in Python integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.options import ABSENT_THRESHOLD, FLOAT_TOLERANCE, MIN_THRESHOLD

Floats = npt.NDArray[np.floating[Any]]
Float64s = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def class_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype that holds the classes 0..K-1."""
    return np.dtype(np.min_scalar_type(n_classes - 1))


def label_dtype(n_classes: int, ignored: int | None = None) -> np.dtype[Any]:
    """Return the dtype of the column `label`: that of the classes, and of K too where rows may be without a label.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    ignored : int, optional
        The value of labels that stands for none, if there is one.
    """
    return class_dtype(n_classes + (ignored is not None))


def pair_dtype(n_classes: int) -> np.dtype[Any]:
    """Return the dtype of ``label * K + class``: uint32 if it holds all pairs, else int64."""
    return np.dtype(np.uint32 if n_classes * n_classes <= 1 << 32 else np.int64)


def unsigned_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned integer dtype as wide as the float `dtype`."""
    return np.dtype(f"u{dtype.itemsize}")


# Rows that a loop works on at a time: a few arrays of this length stay in cache.
SLICE_ROWS: Final = 1 << 16
_FRACTION_BITS: Final = 52
_LOW_BITS: Final = 26
# Low bits while a slice is added up, and the bits that the sum of its high parts takes.
_SLICE_LOW_BITS: Final = 37
_ROW_BITS: Final = 33


def row_slices(n_rows: int) -> Iterator[slice]:
    """Yield slices of at most `SLICE_ROWS` rows that cover `n_rows` rows."""
    for start in range(0, n_rows, SLICE_ROWS):
        yield slice(start, min(start + SLICE_ROWS, n_rows))


@dataclass
class ClassSums:
    """Number of rows per label, and the exact sum of their probabilities of the label.

    Parameters
    ----------
    counts : (K,) int64
        Number of rows with each label.
    high, low : (K,) int64
        The sum of ``rint(p * 2**52)`` is ``high * 2**26 + low``.
    """

    counts: Int64s
    high: Int64s
    low: Int64s

    @classmethod
    def zeros(cls, n_classes: int) -> ClassSums:
        """Return the sums of no rows."""
        return cls(*(np.zeros(n_classes, np.int64) for _ in range(3)))

    def carry(self) -> None:
        """Carry bits beyond the lowest 26 from `low` to `high`, so that equal sums have equal parts."""
        self.high += self.low >> _LOW_BITS
        self.low &= (1 << _LOW_BITS) - 1


@dataclass
class SparseClassSums:
    """Class sums without the classes that have no rows, as they are stored and sent.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    classes : (C,) int64
        Classes with rows.
    counts, high, low : (C,) int64
        As in `ClassSums`.
    """

    n_classes: int
    classes: Int64s
    counts: Int64s
    high: Int64s
    low: Int64s

    @classmethod
    def of(cls, sums: ClassSums) -> SparseClassSums:
        """Return `sums` without the classes that have no rows."""
        classes = np.flatnonzero(sums.counts).astype(np.int64)
        present = ClassSums(sums.counts[classes], sums.high[classes], sums.low[classes])
        present.carry()
        return cls(len(sums.counts), classes, present.counts, present.high, present.low)

    def dense(self) -> ClassSums:
        """Return the sums of all classes."""
        return sparse_sums_combine([self])


def sparse_sums_combine(parts: Iterable[SparseClassSums]) -> ClassSums:
    """Add up sparse class sums; return those of all classes."""
    parts = list(parts)
    total = ClassSums.zeros(parts[0].n_classes)
    for part in parts:
        total.counts[part.classes] += part.counts
        total.high[part.classes] += part.high
        total.low[part.classes] += part.low
    return total


def class_sums_chunk(labels: npt.NDArray[Any], p_label: npt.NDArray[Any], n_classes: int) -> ClassSums:
    """Return the sums of the ``(n,)`` probabilities `p_label` by the ``(n,)`` `labels`."""
    sums = ClassSums.zeros(n_classes)
    for rows in row_slices(len(labels)):
        index = labels[rows].astype(np.intp)
        high, low = fixed_point(p_label[rows])
        high += 2.0**_ROW_BITS  # so that one bincount counts the rows too
        rows_and_high = np.bincount(index, high, n_classes).astype(np.int64)
        counts = (rows_and_high + (1 << (_ROW_BITS - 1))) >> _ROW_BITS
        sums.counts += counts
        sums.high += (rows_and_high - (counts << _ROW_BITS)) << (_SLICE_LOW_BITS - _LOW_BITS)
        sums.low += np.bincount(index, low, n_classes).astype(np.int64)
        sums.carry()
    return sums


def column_sums_chunk(values: npt.NDArray[Any]) -> tuple[Int64s, Int64s]:
    """Return the exact sums of the columns of an ``(m, n)`` array of at most `SLICE_ROWS` rows.

    Returns
    -------
    high, low : (n,) int64
        The sum of ``rint(p * 2**52)`` is ``high * 2**26 + low``.
    """
    high, low = fixed_point(values)
    return high.sum(axis=0).astype(np.int64) << (_SLICE_LOW_BITS - _LOW_BITS), low.sum(axis=0).astype(np.int64)


def fixed_point(values: npt.NDArray[Any]) -> tuple[Float64s, Float64s]:
    """Return ``rint(p * 2**52)`` as a high part and 37 low bits, which float64 adds up exactly over a slice of rows."""
    low = values.astype(np.float64)
    low *= 2.0**_FRACTION_BITS
    np.rint(low, out=low)
    high = low * 2.0**-_SLICE_LOW_BITS
    np.floor(high, out=high)  # an arithmetic shift: exact for negatives too
    low -= high * 2.0**_SLICE_LOW_BITS
    return high, low


def class_sums_combine(parts: Iterable[ClassSums]) -> ClassSums:
    """Add up class sums."""
    first, *rest = parts
    total = ClassSums(first.counts.copy(), first.high.copy(), first.low.copy())
    for part in rest:
        total.counts += part.counts
        total.high += part.high
        total.low += part.low
        total.carry()
    return total


def class_sums_finalize(sums: ClassSums) -> Float64s:
    """Return the ``(K,)`` confident thresholds: class means, but at least 2e-6, and 2.0 for a class without rows."""
    return np.where(sums.counts > 0, np.maximum(class_means(sums), MIN_THRESHOLD), ABSENT_THRESHOLD)


def class_means(sums: ClassSums) -> Float64s:
    """Return the ``(K,)`` class means, each rounded once; NaN for a class without rows."""
    means = np.full(len(sums.counts), np.nan)
    classes = np.flatnonzero(sums.counts)
    totals = zip(*(column[classes].tolist() for column in (sums.counts, sums.high, sums.low)), strict=True)
    means[classes] = [((high << _LOW_BITS) + low) / (count << _FRACTION_BITS) for count, high, low in totals]
    return means


@dataclass
class IssueCounts:
    """Counts that the number of label issues is computed from.

    Parameters
    ----------
    off_diagonal : int
        Number of rows that are confidently predicted as another class than their label.
    per_label : (3, K) int64 or None
        Per label: number of rows, of confident rows, and of rows counted in `off_diagonal`. None if the count is not
        calibrated.
    """

    off_diagonal: int
    per_label: Int64s | None


def adjusted_thresholds(thresholds: Float64s) -> Float64s:
    """Return the ``(K,)`` thresholds less 1e-6, which a confident probability must reach."""
    return thresholds - FLOAT_TOLERANCE


def smallest_at_least(values: Float64s, dtype: np.dtype[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return the smallest numbers of `dtype` that are at least `values`: comparisons with them are as if in float64."""
    rounded = values.astype(dtype)
    low = rounded.astype(np.float64) < values
    return np.where(low, np.nextafter(rounded, dtype.type(np.inf)), rounded).astype(dtype)


def issue_counts_combine(parts: Iterable[IssueCounts]) -> IssueCounts:
    """Add up issue counts."""
    first, *rest = parts
    total = IssueCounts(first.off_diagonal, None if first.per_label is None else first.per_label.copy())
    for part in rest:
        total.off_diagonal += part.off_diagonal
        if total.per_label is not None and part.per_label is not None:
            total.per_label += part.per_label
    return total


def issue_counts_finalize(counts: IssueCounts) -> int:
    """Return the estimated number of label issues.

    Without calibration this is the number of off-diagonal rows. With calibration it is
    ``rint(sum_j q[j] * n[j] / max(m[j], 1e-6))`` with the rows n, m and q of `IssueCounts.per_label`, as in
    ``cleanlab.count.num_label_issues`` (2.9). `np.sum` adds in the same order as there: at an exact half, another order
    could round differently.
    """
    if counts.per_label is None:
        return counts.off_diagonal
    n, m, q = counts.per_label.astype(np.float64)
    return int(np.rint(np.sum(q * n / np.maximum(m, FLOAT_TOLERANCE))))


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


def near_predicted(label: Ints, predicted: Ints, p_label: Floats, p_predicted: Floats) -> Bools:
    """Return which rows have a label that is the predicted class, or would be if its probability were 1e-6 higher."""
    raised = p_label.astype(np.float64) + FLOAT_TOLERANCE
    near: Bools = (predicted == label) | (raised > p_predicted) | ((raised == p_predicted) & (label < predicted))
    return near
