"""Row summaries and the confident joint of tags: K two-class problems side by side.

With K tags an example is K rows, one for each tag: does the example have it? Row (i, k) has the class 2k + 1 if example
i has tag k, else 2k, and its probabilities are p of class 2k + 1, 1 - p of class 2k, and 0 of all others. So the rows
of each tag are a problem of two classes, thresholds and counts of a class are those of its problem, and the confident
joint has blocks of 2 x 2 on its diagonal. A strip is the p alone, ``(n,)``; 1 - p is computed in its dtype, as cleanlab
does.

The K tags of an example are neighbours, so that sums by tag are sums over the columns of an ``(n / K, K)`` array. A
strip may begin and end inside an example.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts, JointCounter
from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Ints, pair_dtype, unsigned_dtype
from labelsieve.confident_learning.summarizer import Summarizer, record_bad_values
from labelsieve.confident_learning.summary_block import SummaryBlock, near_predicted
from labelsieve.confident_learning.thresholds import (
    SLICE_ROWS,
    ClassSums,
    adjusted_thresholds,
    class_sums_chunk,
    column_sums_chunk,
    smallest_at_least,
)


class TagPattern:
    """What repeats with each example: a value for each tag, for the rows of any strip.

    Parameters
    ----------
    values : (K,) array
        The value of each tag.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._values, self._repeated = values, values[:0]

    def rows(self, tag: int, n_rows: int) -> npt.NDArray[Any]:
        """Return the ``(n_rows,)`` values of rows of which the first one is of `tag`: read-only."""
        if len(self._repeated) < tag + n_rows:
            self._repeated = np.tile(self._values, -(-(tag + n_rows) // len(self._values)))
            self._repeated.flags.writeable = False
        return self._repeated[tag : tag + n_rows]


def by_tag(values: npt.NDArray[Any], tag: int, n_tags: int) -> npt.NDArray[Any]:
    """Return ``(n,)`` values of rows, the first of them of `tag`, as ``(m, K)``, with 0 for what is not there."""
    n_examples = -(-(tag + len(values)) // n_tags)
    if n_examples * n_tags == len(values):
        return values.reshape(n_examples, n_tags)
    whole = np.zeros(n_examples * n_tags, values.dtype)
    whole[tag : tag + len(values)] = values
    return whole.reshape(n_examples, n_tags)


class TagSummarizer(Summarizer):
    """Summarizes rows of tags; takes ``(n,)`` probabilities of having the tag as strips.

    Parameters
    ----------
    n_rows, n_classes, dtype, settings, first_row, thresholds, ignored
        As of `Summarizer`; `n_classes` is 2K.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_tags = self.n_classes // 2
        self._absent = TagPattern(np.arange(0, self.n_classes, 2).astype(self._summary.predicted.dtype))

    @staticmethod
    def probabilities(strip: Any) -> Floats:
        """Return the probabilities as the first pass takes them: a row has too many classes for all."""
        probs: Floats = strip
        return probs

    def _add(self, labels: Ints, probs: Floats) -> SummaryBlock:
        """Do what `add` does with the probabilities of having the tag; labels are known to be classes."""
        n, first = len(probs), self._first_row + self._filled
        summary = self._summary[self._filled : self._filled + n]
        p = np.ascontiguousarray(probs, dtype=self.dtype)
        if p.view(unsigned_dtype(self.dtype)).max(initial=0) > self._one_bits:
            p = record_bad_values(p[:, np.newaxis], first, self.findings)[:, 0]
        other = self.dtype.type(1) - p
        has_tag = (labels & labels.dtype.type(1)).astype(np.bool_)
        summary.label[:] = labels
        np.add(self._absent.rows(first % self._n_tags, n), p > other, out=summary.predicted, casting="unsafe")
        np.copyto(summary.p_label, other)
        np.copyto(summary.p_label, p, where=has_tag)
        np.maximum(p, other, out=summary.p_predicted)
        if self._kernels:
            pair, present = np.stack([other, p], axis=1), has_tag.astype(np.intp)
            for name, kernel in self._kernels.items():
                getattr(summary, name)[:] = kernel(pair, present)
        self._filled += n
        return summary

    def _class_sums(self, block: SummaryBlock) -> ClassSums:
        """Return the sums by class: those of all rows of each tag, less those of the rows that have it."""
        n, n_tags, sums = len(block), self._n_tags, ClassSums.zeros(self.n_classes)
        first = int(block.label[0]) // 2 if n else 0
        # With about as many rows as in other sums, the scratch arrays stay in cache.
        step = max(1, SLICE_ROWS // n_tags) * n_tags
        for start in range(0, n, step):
            high, low = column_sums_chunk(by_tag(block.p_label[start : start + step], first, n_tags))
            sums.high[::2] += high
            sums.low[::2] += low
            sums.carry()
        sums.counts[::2] = n // n_tags
        sums.counts[2 * ((first + np.arange(n % n_tags)) % n_tags)] += 1
        rows = np.flatnonzero(block.label & block.label.dtype.type(1))
        present = class_sums_chunk(block.label[rows], block.p_label[rows], self.n_classes)
        for total, part in (
            (sums.counts, present.counts),
            (sums.high, present.high),
            (sums.low, present.low),
        ):
            total[::2] -= part[1::2]
            total[1::2] += part[1::2]
        sums.carry()
        return sums


class TagJointCounter(JointCounter):
    """Counts rows of tags by the confident joint, strip by strip; takes the same strips as `TagSummarizer`.

    Parameters
    ----------
    thresholds : (2K,) float64
        Confident thresholds.
    dtype : dtype
        Native dtype of the probabilities.
    """

    def __init__(self, thresholds: Float64s, dtype: np.dtype[Any]) -> None:
        self._dtype, self._n_tags = dtype.newbyteorder("="), len(thresholds) // 2
        least = smallest_at_least(adjusted_thresholds(thresholds), self._dtype)
        self._least_absent, self._least_present = TagPattern(least[::2]), TagPattern(least[1::2])
        self._diagonal, self._off = (np.zeros(len(thresholds), np.int64) for _ in range(2))
        self._n_off_diagonal = 0

    def add(self, summary: SummaryBlock, probs: Floats) -> Bools:
        """Count the ``(n,)`` strip `probs`, and return the column `off_diagonal` of its rows."""
        n, n_tags, label = len(probs), self._n_tags, summary.label
        if not n:
            return np.zeros(0, np.bool_)
        tag, has_tag = int(label[0]) // 2, (label & label.dtype.type(1)).astype(np.bool_)
        p = np.ascontiguousarray(probs, dtype=self._dtype)
        present = p >= self._least_present.rows(tag, n)
        absent = self._dtype.type(1) - p >= self._least_absent.rows(tag, n)
        counted = present | absent
        # Of a row that reaches both classes, the predicted one counts.
        present &= ~absent | (summary.predicted & 1).astype(np.bool_)
        off_diagonal = counted & (present != has_tag)
        rows = np.flatnonzero(off_diagonal)
        self._off += np.bincount(label[rows], minlength=2 * n_tags)
        same = counted & ~off_diagonal
        of_tag = by_tag(same.view(np.uint8), tag, n_tags).sum(axis=0, dtype=np.int64)
        positive = np.flatnonzero(same & has_tag)
        n_present = np.bincount(label[positive] // 2, minlength=n_tags)
        self._diagonal[::2] += of_tag - n_present
        self._diagonal[1::2] += n_present
        off_diagonal[rows] = ~near_predicted(
            label[rows], summary.predicted[rows], summary.p_label[rows], summary.p_predicted[rows]
        )
        self._n_off_diagonal += int(np.count_nonzero(off_diagonal))
        found: Bools = off_diagonal
        return found

    def counts(self) -> tuple[ConfidentCounts, int]:
        """Return the counts of all rows so far, and in how many the column `off_diagonal` is true."""
        labels = np.flatnonzero(self._off)
        pairs = labels * len(self._off) + (labels ^ 1)
        counts = self._off[labels]
        narrow = counts.max(initial=0) <= np.iinfo(np.int32).max
        found = ConfidentCounts(
            self._diagonal.copy(),
            pairs.astype(pair_dtype(len(self._off))),
            counts.astype(np.int32 if narrow else np.int64),
        )
        return found, self._n_off_diagonal
