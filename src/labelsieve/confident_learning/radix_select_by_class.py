"""Selection of the lowest scores of each class, a given number per class.

As `radix_select`, but with a cut for each class: histograms have a row per class, and therefore fewer bins. Of the rows
that tie at the cut of their class, the first ones are selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Floats, Int64s, Ints
from labelsieve.confident_learning.radix_select import MAX_CANDIDATES, ordered_bits
from labelsieve.confident_learning.thresholds import row_slices

# Bins of a histogram, over all classes; and the fewest bits of a digit.
_BINS: Final = 1 << 18
_LEAST_BITS: Final = 2


@dataclass(frozen=True)
class ClassCuts:
    """A bin for each class that holds the cut of the class; see `Cut`.

    Parameters
    ----------
    prefixes : (K,) uint
        Leading ordered bits of the scores in each bin.
    shift : int
        Number of trailing bits in which scores of a bin differ; 0 if bins are single values.
    n_rows : (K,) int64
        Number of rows to select of each class.
    below, inside : (K,) int64
        Number of rows of each class below its bin and in it.
    """

    prefixes: npt.NDArray[np.unsignedinteger[Any]]
    shift: int
    n_rows: Int64s
    below: Int64s
    inside: Int64s

    @classmethod
    def open(cls, n_rows: Int64s, class_counts: Int64s, n_bits: int) -> ClassCuts:
        """Return the cuts before the first histogram; of a class with fewer than `n_rows` rows all are selected."""
        n_rows = np.clip(n_rows, 0, class_counts)
        none = np.zeros(len(n_rows), np.int64)
        return cls(none.astype(np.uint64), n_bits, n_rows, none, np.where(n_rows > 0, class_counts, 0))

    def in_bin(self, labels: Ints, bits: npt.NDArray[Any]) -> Bools:
        """Return which of ``(n,)`` ordered bits are in the bin of their class."""
        prefixes = bits >> self.shift if self.shift < 8 * bits.itemsize else np.zeros_like(bits)
        chosen: Bools = (prefixes == self.prefixes.astype(bits.dtype)[labels]) & (self.n_rows[labels] > 0)
        return chosen

    @property
    def digit_bits(self) -> int:
        """Number of bits of the next digit."""
        fitting = max(_LEAST_BITS, (_BINS // len(self.n_rows)).bit_length() - 1)
        return min(self.shift, fitting)


def class_histogram(labels: Ints, scores: Floats, cuts: ClassCuts) -> Int64s:
    """Return the ``(K, B)`` histogram of the next digit of the scores in the bin of their class."""
    shift, n_bins = cuts.shift - cuts.digit_bits, 1 << cuts.digit_bits
    counts = np.zeros(len(cuts.n_rows) * n_bins, np.int64)
    for rows in row_slices(len(scores)):
        label, bits = labels[rows], ordered_bits(scores[rows])
        chosen = cuts.in_bin(label, bits)
        digits = ((bits[chosen] >> shift) & (n_bins - 1)).astype(np.intp)
        counts += np.bincount(label[chosen].astype(np.intp) * n_bins + digits, minlength=len(counts))
    return counts.reshape(-1, n_bins)


def next_cuts(histogram: Int64s, cuts: ClassCuts) -> ClassCuts:
    """Return the smaller bins that hold the cuts, given the histogram of the next digit."""
    cumulative = np.cumsum(histogram, axis=1)
    digits = np.argmax(cumulative >= (cuts.n_rows - cuts.below)[:, None], axis=1)
    rows = np.arange(len(digits))
    inside = np.where(cuts.n_rows > 0, histogram[rows, digits], 0)
    prefixes = (cuts.prefixes << np.uint64(cuts.digit_bits)) | digits.astype(np.uint64)
    below = cuts.below + np.where(cuts.n_rows > 0, cumulative[rows, digits], 0) - inside
    return ClassCuts(prefixes, cuts.shift - cuts.digit_bits, cuts.n_rows, below, inside)


def find_cuts(
    cuts: ClassCuts, histogram_within: Callable[[ClassCuts], Int64s], max_candidates: int = MAX_CANDIDATES
) -> ClassCuts:
    """Return bins that hold the cuts, and that are single values or have few enough rows together to sort."""
    while cuts.shift and int(cuts.inside.sum()) > max_candidates:
        cuts = next_cuts(histogram_within(cuts), cuts)
    return cuts


@dataclass(frozen=True)
class ClassTies:
    """Distinct scores of each class in the bin of its cut, and the number of rows with each of them.

    Parameters
    ----------
    labels : (V,) int64
        Classes, ascending after `add_up`.
    bits : (V,) uint64
        Ordered bits of the scores, ascending within a class after `add_up`.
    counts : (V,) int64
        Number of rows with each class and score.
    """

    labels: Int64s
    bits: npt.NDArray[np.uint64]
    counts: Int64s

    @classmethod
    def of(cls, labels: Ints, scores: Floats, cuts: ClassCuts) -> ClassTies:
        """Return the scores in the bins, one entry per row; `add_up` merges equal ones."""
        bits = ordered_bits(scores)
        chosen = cuts.in_bin(labels, bits)
        return cls(labels[chosen].astype(np.int64), bits[chosen].astype(np.uint64), np.ones(chosen.sum(), np.int64))

    @classmethod
    def add_up(cls, parts: Sequence[ClassTies]) -> ClassTies:
        """Join parts, and merge entries of the same class and score."""
        labels, bits, counts = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "bits", "counts")
        )
        order = np.lexsort((bits, labels))
        labels, bits, counts = labels[order], bits[order], counts[order]
        new = np.flatnonzero((np.diff(labels, prepend=-1) != 0) | (np.diff(bits, prepend=bits[:1]) != 0))
        return cls(labels[new], bits[new], np.add.reduceat(counts, new) if len(new) else counts)


@dataclass(frozen=True)
class ExactCuts:
    """Single values as cuts, and how many of the rows that tie with them are selected.

    Parameters
    ----------
    bits : (K,) uint64
        Ordered bits of the cut of each class.
    any_selected : (K,) bool
        Whether any row of the class is selected.
    last_chunk, quotas : (K,) int64
        Number of the chunk of rows that has the last selected tie of the class, and how many ties are selected there.
        All ties in chunks before it are selected, and none behind it.
    """

    bits: npt.NDArray[np.uint64]
    any_selected: Bools
    last_chunk: Int64s
    quotas: Int64s

    def rows(self, labels: Ints, scores: Floats, chunk: int, left: Int64s) -> npt.NDArray[np.intp]:
        """Return which rows of a block of chunk number `chunk` are selected.

        `left` has the number of ties of each class that are still to be selected in this chunk, and is updated.
        """
        bits = ordered_bits(scores).astype(np.uint64)
        cut = self.bits[labels]
        selected = self.any_selected[labels] & ((bits < cut) | ((bits == cut) & (self.last_chunk[labels] > chunk)))
        ties = np.flatnonzero(self.any_selected[labels] & (bits == cut) & (self.last_chunk[labels] == chunk))
        if len(ties):
            # The rank of each tie among those of its class, in row order.
            label = labels[ties].astype(np.intp)
            order = np.argsort(label, kind="stable")
            rank = np.empty(len(label), np.intp)
            rank[order] = np.arange(len(label)) - np.searchsorted(label[order], label[order])
            selected[ties[rank < left[label]]] = True
            np.subtract.at(left, label, 1)
        return np.flatnonzero(selected)


def find_exact_cuts(cuts: ClassCuts, parts: Sequence[ClassTies]) -> ExactCuts:
    """Return the cuts as single values, and where the last ties are selected.

    Parameters
    ----------
    cuts : ClassCuts
        Bins that hold the cuts.
    parts : sequence of ClassTies
        The scores in the bins, for each chunk of rows.
    """
    n_classes = len(cuts.n_rows)
    ties = ClassTies.add_up(parts)
    # The rank of each entry within its class: entries up to it in the bin, and rows below the bin.
    cumulative = np.cumsum(ties.counts)
    first = np.searchsorted(ties.labels, np.arange(n_classes))
    before = np.concatenate(([0], cumulative))[first]
    reached = cumulative - before[ties.labels] + cuts.below[ties.labels] >= cuts.n_rows[ties.labels]
    # The cut of a class is its first entry that reaches the number of rows to select.
    entries = np.flatnonzero(reached)
    classes, first = np.unique(ties.labels[entries], return_index=True)
    entries = entries[first]
    bits, left = np.zeros(n_classes, np.uint64), np.zeros(n_classes, np.int64)
    bits[classes] = ties.bits[entries]
    below = cumulative[entries] - ties.counts[entries] - before[classes] + cuts.below[classes]
    left[classes] = cuts.n_rows[classes] - below
    any_selected = cuts.n_rows > 0
    # Find the chunk in which the ties of each class that are left to select run out.
    last_chunk, quotas, unfinished = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64), any_selected.copy()
    for chunk, part in enumerate(parts):
        n_ties = np.zeros(n_classes, np.int64)
        at_cut = part.bits == bits[part.labels]
        np.add.at(n_ties, part.labels[at_cut], part.counts[at_cut])
        last = unfinished & (n_ties >= left) & (left > 0)
        last_chunk[last], quotas[last] = chunk, left[last]
        unfinished &= ~last
        left -= n_ties
    return ExactCuts(bits, any_selected, last_chunk, quotas)
