"""The exact lowest scores of each class, so many of each, without sorting them.

As in `ranking` the bits of the scores are radix digits; here a histogram has a row for each class, and so fewer bins.
Rows that tie at the cut of their class are taken in row order.
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

# Bins of a histogram over all classes, and the fewest bits of a digit.
_BINS: Final = 1 << 18
_LEAST_BITS: Final = 2


@dataclass(frozen=True)
class ClassCuts:
    """Which ordered bits are low enough for each class: all below its prefix, and some of those equal to it.

    Parameters
    ----------
    prefixes : (K,) uint
        Leading ordered bits of the bin that holds the cut.
    shift : int
        Trailing bits that the bins leave open; 0 for single values.
    wanted : (K,) int64
        Rows to take of each class; of one with 0 none are.
    below, inside : (K,) int64
        Rows of the class below the bin and in it.
    """

    prefixes: npt.NDArray[np.unsignedinteger[Any]]
    shift: int
    wanted: Int64s
    below: Int64s
    inside: Int64s

    @classmethod
    def open(cls, wanted: Int64s, class_counts: Int64s, n_bits: int) -> ClassCuts:
        """Return the cuts before the first round; of a class with fewer rows all are taken."""
        wanted = np.clip(wanted, 0, class_counts)
        none = np.zeros(len(wanted), np.int64)
        return cls(none.astype(np.uint64), n_bits, wanted, none, np.where(wanted > 0, class_counts, 0))

    def in_bin(self, labels: Ints, bits: npt.NDArray[Any]) -> Bools:
        """Tell which rows of ``(n,)`` ordered bits are in the bin of their class."""
        prefixes = bits >> self.shift if self.shift < 8 * bits.itemsize else np.zeros_like(bits)
        chosen: Bools = (prefixes == self.prefixes.astype(bits.dtype)[labels]) & (self.wanted[labels] > 0)
        return chosen

    @property
    def digit_bits(self) -> int:
        """Bits of the next digit."""
        fitting = max(_LEAST_BITS, (_BINS // len(self.wanted)).bit_length() - 1)
        return min(self.shift, fitting)


def class_histogram(labels: Ints, scores: Floats, cuts: ClassCuts) -> Int64s:
    """Count the scores inside the cut of their class by their next digit: ``(K, B)``."""
    shift, n_bins = cuts.shift - cuts.digit_bits, 1 << cuts.digit_bits
    counts = np.zeros(len(cuts.wanted) * n_bins, np.int64)
    for block in row_slices(len(scores)):
        some, bits = labels[block], ordered_bits(scores[block])
        chosen = cuts.in_bin(some, bits)
        digits = ((bits[chosen] >> shift) & (n_bins - 1)).astype(np.intp)
        counts += np.bincount(some[chosen].astype(np.intp) * n_bins + digits, minlength=len(counts))
    return counts.reshape(-1, n_bins)


def next_cuts(histogram: Int64s, cuts: ClassCuts) -> ClassCuts:
    """Return the bins of the next digit that hold the cuts."""
    cumulative = np.cumsum(histogram, axis=1)
    digits = np.argmax(cumulative >= (cuts.wanted - cuts.below)[:, None], axis=1)
    rows = np.arange(len(digits))
    inside = np.where(cuts.wanted > 0, histogram[rows, digits], 0)
    prefixes = (cuts.prefixes << np.uint64(cuts.digit_bits)) | digits.astype(np.uint64)
    below = cuts.below + np.where(cuts.wanted > 0, cumulative[rows, digits], 0) - inside
    return ClassCuts(prefixes, cuts.shift - cuts.digit_bits, cuts.wanted, below, inside)


def find_cuts(
    cuts: ClassCuts, histogram_within: Callable[[ClassCuts], Int64s], max_candidates: int = MAX_CANDIDATES
) -> ClassCuts:
    """Return bins around the cuts that hold few enough rows together, or single values."""
    while cuts.shift and int(cuts.inside.sum()) > max_candidates:
        cuts = next_cuts(histogram_within(cuts), cuts)
    return cuts


@dataclass(frozen=True)
class ClassTies:
    """Distinct scores of each class in the bins of their cuts, and how many rows have each.

    Parameters
    ----------
    labels : (V,) int64
        Classes; ascending once they are added up.
    bits : (V,) uint64
        Ordered bits of the scores; ascending within a class then.
    counts : (V,) int64
        Rows of each.
    """

    labels: Int64s
    bits: npt.NDArray[np.uint64]
    counts: Int64s

    @classmethod
    def of(cls, labels: Ints, scores: Floats, cuts: ClassCuts) -> ClassTies:
        """Return the rows inside the cuts, each by itself and in their order; `add_up` joins equal ones."""
        bits = ordered_bits(scores)
        chosen = cuts.in_bin(labels, bits)
        return cls(labels[chosen].astype(np.int64), bits[chosen].astype(np.uint64), np.ones(chosen.sum(), np.int64))

    @classmethod
    def add_up(cls, parts: Sequence[ClassTies]) -> ClassTies:
        """Join ties and add up equal ones."""
        labels, bits, counts = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "bits", "counts")
        )
        order = np.lexsort((bits, labels))
        labels, bits, counts = labels[order], bits[order], counts[order]
        new = np.flatnonzero((np.diff(labels, prepend=-1) != 0) | (np.diff(bits, prepend=bits[:1]) != 0))
        return cls(labels[new], bits[new], np.add.reduceat(counts, new) if len(new) else counts)


@dataclass(frozen=True)
class ExactCuts:
    """Single values as cuts, and which of the rows that tie with them are taken: the lower ones.

    Parameters
    ----------
    bits : (K,) uint64
        Ordered bits of the cut of each class.
    some : (K,) bool
        Whether any row of the class is taken.
    item, quotas : (K,) int64
        The number of the range of rows in which the last of the tied rows is taken, and how many there. Of ranges
        before it all tied rows are taken, of those behind it none.
    """

    bits: npt.NDArray[np.uint64]
    some: Bools
    item: Int64s
    quotas: Int64s

    def rows(self, labels: Ints, scores: Floats, item: int, left: Int64s) -> npt.NDArray[np.intp]:
        """Return which rows of a block of the range `item` are taken.

        `left` tells how many tied rows are still to be taken there of each class, and is counted down.
        """
        bits = ordered_bits(scores).astype(np.uint64)
        cut = self.bits[labels]
        taken = self.some[labels] & ((bits < cut) | ((bits == cut) & (self.item[labels] > item)))
        tied = np.flatnonzero(self.some[labels] & (bits == cut) & (self.item[labels] == item))
        if len(tied):
            of = labels[tied].astype(np.intp)
            order = np.argsort(of, kind="stable")
            first = np.searchsorted(of[order], of[order])
            place = np.empty(len(of), np.intp)
            place[order] = np.arange(len(of)) - first  # how many of the class come before it here
            taken[tied[place < left[of]]] = True
            np.subtract.at(left, of, 1)
        return np.flatnonzero(taken)


def find_exact_cuts(cuts: ClassCuts, parts: Sequence[ClassTies]) -> ExactCuts:
    """Return the cuts as single values, and where tied rows cease to be taken.

    Parameters
    ----------
    cuts : ClassCuts
        Bins around the cuts.
    parts : sequence of ClassTies
        What is inside, of consecutive ranges of rows.
    """
    n_classes = len(cuts.wanted)
    every = ClassTies.add_up(parts)
    # Ranks within a class: all that come before in it, and what is below its bin.
    cumulative = np.cumsum(every.counts)
    first = np.searchsorted(every.labels, np.arange(n_classes))
    before = np.concatenate(([0], cumulative))[first]
    reached = cumulative - before[every.labels] + cuts.below[every.labels] >= cuts.wanted[every.labels]
    bits, item, quotas = np.zeros(n_classes, np.uint64), np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    at = np.flatnonzero(reached)
    classes, where = np.unique(every.labels[at], return_index=True)
    at = at[where]
    bits[classes] = every.bits[at]
    below = cumulative[at] - every.counts[at] - before[classes] + cuts.below[classes]
    left = np.zeros(n_classes, np.int64)
    left[classes] = cuts.wanted[classes] - below
    some = cuts.wanted > 0
    open_ = some.copy()
    for number, part in enumerate(parts):
        tied = np.zeros(n_classes, np.int64)
        here = part.bits == bits[part.labels]
        np.add.at(tied, part.labels[here], part.counts[here])
        last = open_ & (tied >= left) & (left > 0)
        item[last], quotas[last] = number, left[last]
        open_ &= ~last
        left -= tied
    return ExactCuts(bits, some, item, quotas)
