"""Class sums and issue counts over row summaries, each as chunk / combine / finalize. NumPy only.

Class sums are exact integers, so any tree over any chunks in any order gives the same bits. A probability p becomes
``q = rint(p * 2**52)``, split in a high part and 37 low bits. Over a block of 2**16 rows a float64 bincount of either
stays below 2**53 and is exact, even with 2**33 more for each row in the high part, which counts the rows. int64 holds
the sums over 2**36 rows in a high part and 26 low bits, and the one division is done in Python integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s, Int64s
from labelsieve.settings import ABSENT_THRESHOLD, FLOAT_TOLERANCE, MIN_THRESHOLD

# Rows worked on at a time: a few arrays of this length stay in the cache.
SLICE_ROWS: Final = 1 << 16
_FRACTION_BITS: Final = 52
_LOW_BITS: Final = 26
# Low bits while a block is added up, and the bits that the sum of its high parts takes.
_BLOCK_LOW_BITS: Final = 37
_ROW_BITS: Final = 33


def row_slices(n_rows: int) -> Iterator[slice]:
    """Cut `n_rows` rows in slices of at most `SLICE_ROWS`."""
    for start in range(0, n_rows, SLICE_ROWS):
        yield slice(start, min(start + SLICE_ROWS, n_rows))


@dataclass
class ClassSums:
    """Rows and exact sum of the given label's probability, per class.

    Parameters
    ----------
    counts : (K,) int64
        Rows labelled with each class.
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
        """Move what `low` has beyond 26 bits to `high`, so that equal sums have equal parts."""
        self.high += self.low >> _LOW_BITS
        self.low &= (1 << _LOW_BITS) - 1


@dataclass
class SparseClassSums:
    """Class sums of few rows among many classes, as they are kept and sent.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    classes : (C,) int64
        Those that occur.
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
        """Leave out the classes without rows."""
        some = np.flatnonzero(sums.counts).astype(np.int64)
        found = ClassSums(sums.counts[some], sums.high[some], sums.low[some])
        found.carry()
        return cls(len(sums.counts), some, found.counts, found.high, found.low)

    def dense(self) -> ClassSums:
        """Return the sums of all classes."""
        total = ClassSums.zeros(self.n_classes)
        self.add_to(total)
        return total

    def same(self, other: SparseClassSums) -> bool:
        """Tell whether these are the same sums of the same classes."""
        columns = ("classes", "counts", "high", "low")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in columns)

    def add_to(self, total: ClassSums) -> None:
        """Add these sums to `total`."""
        total.counts[self.classes] += self.counts
        total.high[self.classes] += self.high
        total.low[self.classes] += self.low


def class_sums_chunk(labels: npt.NDArray[Any], p_label: npt.NDArray[Any], n_classes: int) -> ClassSums:
    """Sum the ``(n,)`` probabilities `p_label` over the rows of each of the ``(n,)`` `labels`."""
    sums = ClassSums.zeros(n_classes)
    for block in row_slices(len(labels)):
        index = labels[block].astype(np.intp)
        units = p_label[block].astype(np.float64)
        units *= 2.0**_FRACTION_BITS
        np.rint(units, out=units)
        high = units * 2.0**-_BLOCK_LOW_BITS
        np.floor(high, out=high)  # an arithmetic shift: exact for negatives too
        units -= high * 2.0**_BLOCK_LOW_BITS
        high += 2.0**_ROW_BITS  # one bincount for the rows and their high parts
        rows_and_high = np.bincount(index, high, n_classes).astype(np.int64)
        counts = (rows_and_high + (1 << (_ROW_BITS - 1))) >> _ROW_BITS
        sums.counts += counts
        sums.high += (rows_and_high - (counts << _ROW_BITS)) << (_BLOCK_LOW_BITS - _LOW_BITS)
        sums.low += np.bincount(index, units, n_classes).astype(np.int64)
        sums.carry()
    return sums


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
    """Return the ``(K,)`` confident thresholds: the mean per class, at least 2e-6; 2.0 for a class without rows."""
    return np.where(sums.counts > 0, np.maximum(class_means(sums), MIN_THRESHOLD), ABSENT_THRESHOLD)


def class_means(sums: ClassSums) -> Float64s:
    """Return the ``(K,)`` mean of each class, rounded once; NaN for a class without rows."""
    means = np.full(len(sums.counts), np.nan)
    some = np.flatnonzero(sums.counts)
    totals = zip(*(column[some].tolist() for column in (sums.counts, sums.high, sums.low)), strict=True)
    means[some] = [((high << _LOW_BITS) + low) / (count << _FRACTION_BITS) for count, high, low in totals]
    return means


@dataclass
class IssueCounts:
    """What the number of label issues is made of.

    Parameters
    ----------
    off_diagonal : int
        Rows that are confidently predicted as another class than their label.
    per_label : (3, K) int64 or None
        Per given label all rows, the confident ones, and those of `off_diagonal`; None where not calibrated.
    """

    off_diagonal: int
    per_label: Int64s | None


def adjusted_thresholds(thresholds: Float64s) -> Float64s:
    """Return what a probability must reach to be confident: the ``(K,)`` thresholds less a margin for rounding."""
    return thresholds - FLOAT_TOLERANCE


def smallest_at_least(values: Float64s, dtype: np.dtype[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return the smallest numbers of `dtype` that are no less than `values`, for comparisons as if in float64."""
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

    Without calibration the off-diagonal rows; with it, these rows per label scaled by all over confident rows:
    ``rint(sum_j q[j] * n[j] / max(m[j], 1e-6))``, as ``cleanlab.count.num_label_issues`` (2.9) calibrates, with NumPy's
    sum over the classes as there: at an exact half another order of adding could round the other way.
    """
    if counts.per_label is None:
        return counts.off_diagonal
    n, m, q = counts.per_label.astype(np.float64)
    return int(np.rint(np.sum(q * n / np.maximum(m, FLOAT_TOLERANCE))))
