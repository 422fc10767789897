"""Row summaries of a strip of rows.

Non-negative IEEE floats order like their bits read as unsigned integers. Read like this, negative numbers, NaN,
infinity and numbers above 1 are all larger than 1.0. So one unsigned argmax per row gives the predicted class, its
probability and the check of all values at once. Only a strip that holds a value above 1.0 is checked value by value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints, class_dtype, unsigned_dtype
from labelsieve.confident_learning.quality_scores import ColumnKernel
from labelsieve.confident_learning.row_sums import RowSumCheck
from labelsieve.confident_learning.validation import Findings
from labelsieve.settings import FLOAT_TOLERANCE, PROBABILITY_TOLERANCE

# Bytes of pred_probs in a strip. Half of a second-level cache would be the fastest for the arithmetic alone, but
# positioned reads of 4 MB are much faster than reads of 1 MB (measured: 40 and 24 GB/s on two threads).
STRIP_BYTES: Final = 4_000_000
# With few classes the scratch arrays with a value per row have to stay in that cache too. With fewer rows, two threads
# would spend their time passing the interpreter lock to each other.
MAX_STRIP_ROWS: Final = 1 << 15
# Up to this many classes, copying a strip class by class and taking maxima over classes beats an argmax per row.
_FEW_CLASSES: Final = 32
# Bytes that are transposed at a time: they stay in the first-level cache.
_BLOCK_BYTES: Final = 1 << 15


@dataclass(kw_only=True)
class SummaryBlock:
    """Some rows of the table of row summaries, column by column.

    `labelsieve.pipeline.row_summaries` documents the columns. A row takes 6 to 33 bytes, instead of K probabilities.

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
    """

    label: Ints
    predicted: Ints
    p_label: Floats
    p_predicted: Floats
    score: Float64s | None = None
    row_sum: Float64s | None = None
    off_diagonal: Bools | None = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice) -> SummaryBlock:
        """Return the summaries of some rows, as views."""
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
        return {name: column for name, column in vars(self).items() if column is not None}

    @classmethod
    def empty(cls, n_rows: int, n_classes: int, dtype: np.dtype[Any], computed: Iterable[str] = ()) -> SummaryBlock:
        """Allocate the summaries of `n_rows` rows, with the `computed` columns, to be filled."""
        classes = class_dtype(n_classes)
        columns: dict[str, Any] = {name: np.empty(n_rows, np.float64) for name in computed}
        return cls(
            label=np.empty(n_rows, classes),
            predicted=np.empty(n_rows, classes),
            p_label=np.empty(n_rows, dtype),
            p_predicted=np.empty(n_rows, dtype),
            **columns,
        )


class Summariser:
    """Summarises rows strip by strip, with scratch arrays that are made once.

    Parameters
    ----------
    n_rows : int
        Number of rows that it holds until `take` is called.
    n_classes : int
        Number of classes K.
    dtype : dtype
        Dtype of `pred_probs`: float16, float32 or float64 in native byte order.
    kernels : mapping, optional
        Functions that compute columns from whole rows, by name of the column; see
        `labelsieve.confident_learning.quality_scores.column_kernels`.
    first_row : int
        Number of the first row, for messages.
    """

    def __init__(
        self,
        n_rows: int,
        n_classes: int,
        dtype: np.dtype[Any],
        kernels: Mapping[str, ColumnKernel] | None = None,
        first_row: int = 0,
    ) -> None:
        self.n_classes, self.dtype, self._kernels = n_classes, dtype, kernels or {}
        self._summary = SummaryBlock.empty(n_rows, n_classes, dtype, self._kernels)
        self.findings = Findings()
        self._first_row, self._filled = first_row, 0
        self._one_bits = np.ones(1, dtype).view(unsigned_dtype(dtype))[0]
        # A float64 scalar, so that narrower arrays are compared as if in float64.
        self._low_limit = np.float64((1 - PROBABILITY_TOLERANCE) / n_classes)
        self._rows = FlatRows(n_classes)
        self._argmax = FirstArgmax(n_classes, unsigned_dtype(dtype))
        self._row_sums = RowSumCheck(n_classes)

    @property
    def room(self) -> int:
        """Number of rows that can be added before `take` must be called."""
        return len(self._summary) - self._filled

    def take(self) -> SummaryBlock:
        """Return the summaries added since the last call; the next `add` overwrites them."""
        taken = self._summary[: self._filled]
        self._first_row, self._filled = self._first_row + self._filled, 0
        return taken

    def add(self, labels: Ints, probs: Floats) -> SummaryBlock:
        """Summarise the next strip, and return its summaries as a view.

        Parameters
        ----------
        labels : (n,) int
            Labels; any integer dtype.
        probs : (n, K) float
            Probabilities; not modified.
        """
        n, first = len(probs), self._first_row + self._filled
        out = slice(self._filled, self._filled + n)
        probs = np.ascontiguousarray(probs, dtype=self.dtype)
        summary, labels = self._summary, self._checked_labels(labels, first)
        bits = probs.view(unsigned_dtype(self.dtype))
        predicted, top_bits = self._argmax(bits)
        has_outliers = top_bits.max() > self._one_bits
        if has_outliers:
            self._row_sums.record(probs, self._row_sums.of_any(probs), first, self.findings)
            probs = self._record_bad_values(probs, first)
            predicted = probs.argmax(axis=1)
            p_predicted = self._rows.values(probs, predicted)
        else:
            sums = self._row_sums.of_bits(self._argmax.in_cache(bits))[:n]
            self._row_sums.record(probs, sums, first, self.findings)
            p_predicted = top_bits.view(self.dtype)
        if p_predicted.min() < self._low_limit:
            self._record_low_rows(probs if has_outliers else None, p_predicted, first)
        self._rows.values(probs, labels, out=summary.p_label[out])
        summary.label[out], summary.predicted[out], summary.p_predicted[out] = labels, predicted, p_predicted
        for name, kernel in self._kernels.items():
            getattr(summary, name)[out] = kernel(probs, labels)
        self._filled += n
        return summary[out]

    def _checked_labels(self, labels: Ints, first: int) -> Ints:
        # Read as unsigned, a negative number is large.
        if labels.view(labels.dtype.str.replace("i", "u")).max() < self.n_classes:
            return labels.astype(np.intp, copy=False)
        outside = (labels < 0) | (labels >= self.n_classes)
        rows = np.flatnonzero(outside)
        example = int(labels[rows[0]])
        self.findings.add("label", rows, first, example=example, alike=bool((labels[rows] == example).all()))
        return np.where(outside, 0, labels).astype(np.intp)  # the run ends with an error; go on to find all of them

    def _record_bad_values(self, probs: Floats, first: int) -> Floats:
        """Record values that are not probabilities; return a copy with 0.0 for -0.0 and 0.5 for bad values."""
        probs = probs + self.dtype.type(0)
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
                self.findings.add(kind, rows, first, n_values=int(where.sum()), example=example)
                probs[where] = 0.5
        return probs

    def _record_low_rows(self, probs: Floats | None, p_predicted: Floats, first: int) -> None:
        """Record rows that cannot be a distribution; `probs` is needed if rows may have values below 0."""
        low = p_predicted < self._low_limit
        zero = p_predicted == 0
        if probs is not None:
            zero[zero] = ~probs[zero].any(axis=1)
        self.findings.add("zero_row", np.flatnonzero(zero), first)
        self.findings.add("low_row", np.flatnonzero(low & ~zero), first)


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
        n = len(array)
        if len(self._starts) < n:
            self._starts = np.arange(n, dtype=np.intp) * self._n_classes
            self._positions = np.empty(n, np.intp)
        positions = np.add(self._starts[:n], columns, out=self._positions[:n], casting="same_kind")
        # No column is out of range; "wrap" is the mode with the cheapest check.
        return array.reshape(-1).take(positions, out=out, mode="wrap")


class FirstArgmax:
    """Finds the largest unsigned integer of each row, and the first column that has it.

    Parameters
    ----------
    n_classes : int
        Number of columns K.
    dtype : dtype
        Unsigned integer dtype.
    """

    def __init__(self, n_classes: int, dtype: np.dtype[Any]) -> None:
        self.n_classes = n_classes
        self._rows = FlatRows(n_classes)
        self._block_rows = max(1, _BLOCK_BYTES // (n_classes * dtype.itemsize) // 64) * 64
        self._by_class: Ints = np.empty((0, n_classes, self._block_rows), dtype)
        self._is_largest = np.empty(self._by_class.shape, np.uint8)
        # K for the first class, 1 for the last: of the classes that have the largest value, the first weighs most.
        self._weights = np.arange(n_classes, 0, -1).astype(np.uint8)[:, np.newaxis]

    def __call__(self, bits: Ints) -> tuple[Ints, Ints]:
        """Return ``(n,)`` classes and ``(n,)`` values of the ``(n, K)`` array `bits`."""
        if self.n_classes > _FEW_CLASSES:
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
        return self._by_class[: self._n_blocks(bits)] if self.n_classes <= _FEW_CLASSES else bits

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
