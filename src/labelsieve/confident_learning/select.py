"""Selection of the lowest scores, exactly and without sorting all of them: a radix select.

The bits of a float are mapped to unsigned integers that order like the floats; their digits are radix digits. A
histogram of the leading digit shows which bin holds the cut. If that bin has too many rows to sort, a histogram of the
next digit splits it, down to single values. Of the rows that tie at the cut, the first ones are selected.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import PruneCounts
from labelsieve.confident_learning.thresholds import (
    Bools,
    Float64s,
    Floats,
    Int64s,
    Ints,
    SummaryBlock,
    row_slices,
    unsigned_dtype,
)

_DIGIT_BITS: Final = 13
# A bin with at most as many rows is sorted, not split further.
MAX_CANDIDATES: Final = 1 << 18


@dataclass(frozen=True)
class Cut:
    """A bin of scores that holds the cut. All rows below the bin are selected, and some of the rows in it.

    Parameters
    ----------
    prefix : int
        Leading bits of the scores in the bin, as `ordered_bits` returns them.
    shift : int
        Number of trailing bits in which scores of the bin differ; 0 if the bin is a single value.
    below, inside : int
        Number of rows below the bin and in it.
    """

    prefix: int
    shift: int
    below: int
    inside: int


def ordered_bits(scores: Floats) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return unsigned integers that order like `scores`, which must not have NaN or -0.0."""
    unsigned = unsigned_dtype(scores.dtype)
    n_bits = 8 * unsigned.itemsize
    signed = np.ascontiguousarray(scores).view(f"i{unsigned.itemsize}")
    flip = np.array(1 << (n_bits - 1), unsigned).view(signed.dtype)
    if signed.min(initial=0) < 0:
        flip = flip | (signed >> (n_bits - 1))  # all bits of negative numbers, which order backwards
    bits: npt.NDArray[np.unsignedinteger[Any]] = (signed ^ flip).view(unsigned)
    return bits


def score_histogram(scores: Floats, within: Cut | None = None) -> Int64s:
    """Return the histogram of the next digit of `scores`: of all of them, or of those in the bin `within`.

    Returns
    -------
    (B,) int64
        Number of scores by digit; at most 8192 bins.
    """
    top = 8 * scores.dtype.itemsize if within is None else within.shift
    shift = max(0, top - _DIGIT_BITS)
    n_bins = 1 << (top - shift)
    counts = np.zeros(n_bins, np.int64)
    for block in row_slices(len(scores)):
        bits = ordered_bits(scores[block])
        if within is not None:
            bits = bits[(bits >> within.shift) == within.prefix] & ((1 << top) - 1)
        counts += np.bincount((bits >> shift).astype(np.intp), minlength=n_bins)
    return counts


def add_up(histograms: Iterable[Int64s]) -> Int64s:
    """Add up histograms."""
    total: Int64s = np.sum(list(histograms), axis=0)
    return total


def next_cut(histogram: Int64s, n_rows: int, n_bits: int, within: Cut | None = None) -> Cut:
    """Return the bin that holds the `n_rows`-th lowest score, given the `score_histogram` with the same `within`."""
    top, prefix, below = (n_bits, 0, 0) if within is None else (within.shift, within.prefix, within.below)
    shift = max(0, top - _DIGIT_BITS)
    cumulative = np.cumsum(histogram)
    digit = int(np.searchsorted(cumulative, n_rows - below))
    inside = int(histogram[digit])
    return Cut((prefix << (top - shift)) | digit, shift, below + int(cumulative[digit]) - inside, inside)


def first_cut(histogram: Int64s | None, n_rows: int, n_bits: int) -> Cut:
    """Return the bin that holds the `n_rows`-th lowest score, given the histogram of all scores; no bin of no rows."""
    return Cut(0, 0, 0, 0) if n_rows < 1 or histogram is None else next_cut(histogram, n_rows, n_bits)


def find_cut(
    first: Int64s,
    n_rows: int,
    n_bits: int,
    histogram_within: Callable[[Cut], Int64s],
    max_candidates: int = MAX_CANDIDATES,
) -> Cut:
    """Return a bin that holds the `n_rows`-th lowest score, and that is a single value or has few enough rows to sort.

    Parameters
    ----------
    first : (B,) int64
        `score_histogram` of all scores.
    n_rows : int
        Number of rows to select, from 1 to all rows.
    n_bits : int
        Number of bits of a score.
    histogram_within : callable
        Returns the `score_histogram` of all scores within a cut. Called as long as the bin has too many rows.
    max_candidates : int
        The number of rows up to which a bin is not split.
    """
    cut = next_cut(first, n_rows, n_bits)
    while cut.inside > max_candidates and cut.shift:
        cut = next_cut(histogram_within(cut), n_rows, n_bits, cut)
    return cut


def inside(scores: Floats, cut: Cut) -> Floats:
    """Return the scores in the bin of `cut`, in row order."""
    chosen: Floats = scores[(ordered_bits(scores) >> cut.shift) == cut.prefix]
    return chosen


@dataclass(frozen=True)
class Ties:
    """Distinct scores, and the number of rows with each of them.

    Parameters
    ----------
    values : (V,) float
        Scores, ascending.
    counts : (V,) int64
        Number of rows with each score.
    """

    values: Floats
    counts: Int64s

    @classmethod
    def of(cls, scores: Floats) -> Ties:
        """Return the distinct values of `scores` with their counts."""
        values, counts = np.unique(scores, return_counts=True)
        return cls(values, counts.astype(np.int64))


def find_exact_cut(cut: Cut, n_rows: int, parts: Sequence[Ties]) -> tuple[Cut, list[int]]:
    """Return the cut as a single value, and the number of rows with this value to select from each part.

    Parameters
    ----------
    cut : Cut
        A bin that holds the `n_rows`-th lowest score.
    n_rows : int
        Number of rows to select.
    parts : sequence of Ties
        The scores in the bin, for consecutive ranges of rows.
    """
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(values, kind="stable")
    cumulative = cut.below + np.cumsum(np.concatenate([part.counts for part in parts])[order])
    value = values[order][np.searchsorted(cumulative, n_rows)]
    ties = [int(part.counts[part.values == value].sum()) for part in parts]
    below = cut.below + sum(int(part.counts[part.values < value].sum()) for part in parts)
    exact = Cut(int(ordered_bits(np.array([value]))[0]), 0, below, sum(ties))
    return exact, tie_quotas(ties, n_rows - below)


def tie_quotas(ties: Sequence[int], n_rows: int) -> list[int]:
    """Distribute `n_rows` tied rows over parts with `ties` of them each: the first parts give all they have."""
    quotas = []
    for n_ties in ties:
        quotas.append(min(n_ties, n_rows))
        n_rows -= quotas[-1]
    return quotas


def count_inside(scores: Floats, cut: Cut) -> int:
    """Count the scores in the bin of `cut`."""
    return sum(
        int(np.count_nonzero((ordered_bits(scores[block]) >> cut.shift) == cut.prefix))
        for block in row_slices(len(scores))
    )


def rows_up_to(scores: Floats, cut: Cut, quota: int | None = None) -> npt.NDArray[np.intp]:
    """Return the rows of all scores below the bin of `cut`, and of the first `quota` scores in it, ascending."""
    found = []
    for block in row_slices(len(scores)):
        bits = ordered_bits(scores[block])
        rows = np.flatnonzero(bits <= ((cut.prefix + 1) << cut.shift) - 1)
        if quota is not None:
            inside = bits[rows] >> cut.shift == cut.prefix
            keep = ~inside | (np.cumsum(inside) <= quota)
            quota -= min(quota, int(np.count_nonzero(inside)))
            rows = rows[keep]
        found.append(rows + block.start)
    return np.concatenate(found) if found else np.empty(0, np.intp)


def lowest_first(scores: Floats, n_rows: int) -> npt.NDArray[np.intp]:
    """Return the positions of the `n_rows` lowest `scores`, sorted by (score, position).

    Sorts by 16 bits at a time, the least significant first: NumPy's stable argsort of 16-bit integers is 25 times as
    fast as its stable argsort of floats.
    """
    bits = ordered_bits(scores)
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    for shift in range(16, 8 * bits.itemsize, 16):
        digits = (bits >> shift).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order[:n_rows]


def lowest_rows(scores: Floats, n_rows: int) -> Int64s:
    """Return the rows of the `n_rows` lowest `scores`, sorted by (score, row).

    Examples
    --------
    >>> import numpy as np
    >>> lowest_rows(np.array([0.5, 0.1, 0.5, 0.9]), 2)
    array([1, 0])
    """
    n_rows = min(n_rows, len(scores))
    if n_rows < 1:
        return np.empty(0, np.int64)
    n_bits = 8 * scores.dtype.itemsize
    cut = find_cut(score_histogram(scores), n_rows, n_bits, lambda within: score_histogram(scores, within))
    quota = None if cut.shift else n_rows - cut.below
    rows = rows_up_to(scores, cut, quota)
    return rows[lowest_first(scores[rows], n_rows)].astype(np.int64)


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


Positions = npt.NDArray[np.intp]
# Returns the selected positions of a block, given also the number of its first row.
Picker = Callable[[SummaryBlock, int], Positions]
# Positions of the rows of a block that compete, None for all; the group in which each does, and its score.
Ranked = tuple[Positions | None, Ints, Floats]
Ranking = Callable[[SummaryBlock], Ranked]


class Selection(Protocol):
    """Which rows are selected."""

    @property
    def picker(self) -> Callable[..., Picker]:
        """Function that returns the picker of a chunk, given the part for that chunk."""


def scores_of(summary: SummaryBlock) -> Floats:
    """Return the scores of a block whose scores are final."""
    return summary.p_label if summary.score is None else summary.score


@dataclass(frozen=True)
class UpToCut:
    """The lowest scores up to a cut. A part is the number of rows in the bin of the cut to select, None for all."""

    cut: Cut
    cut_scores: Callable[[SummaryBlock], Floats]

    def picker(self, part: int | None) -> Picker:
        """Return a function that picks rows."""
        left = part

        def pick(block: SummaryBlock, _first: int) -> Positions:
            nonlocal left
            scores, quota = self.cut_scores(block), left
            if quota is not None:
                left = quota - min(quota, count_inside(scores, self.cut))
            return rows_up_to(scores, self.cut, quota)

        return pick


@dataclass(frozen=True)
class Where:
    """The rows that `condition` is true of. Parts are not used."""

    condition: Callable[[SummaryBlock], Bools]

    def picker(self, _part: Any) -> Picker:
        """Return a function that picks rows."""
        return lambda block, _first: np.flatnonzero(self.condition(block))


def is_off_diagonal(block: SummaryBlock) -> Bools:
    """Return which rows the confident joint counts off its diagonal."""
    if block.off_diagonal is None:
        raise RuntimeError("off_diagonal is added by the second pass")
    return block.off_diagonal


def label_scores(block: SummaryBlock) -> Ranked:
    """Return the labels of all rows, and their probabilities."""
    return None, block.label, block.p_label


@dataclass(frozen=True)
class UpToClassCuts:
    """The lowest scores of each class, or other group of rows, a number each. A part is the number of the chunk."""

    cuts: ExactCuts
    ranking: Ranking

    def picker(self, part: int) -> Picker:
        """Return a function that picks rows."""
        left = np.where(self.cuts.last_chunk == part, self.cuts.quotas, 0)

        def pick(block: SummaryBlock, _first: int) -> Positions:
            rows, groups, scores = self.ranking(block)
            chosen = self.cuts.rows(groups, scores, part, left)
            return chosen if rows is None else rows[chosen]

        return pick


@dataclass(frozen=True)
class ListedRows:
    """Rows with given numbers. A part is the numbers of the rows of the chunk, ascending."""

    def picker(self, part: npt.NDArray[np.int64]) -> Picker:
        """Return a function that picks rows."""

        def pick(block: SummaryBlock, first: int) -> Positions:
            start, stop = np.searchsorted(part, [first, first + block.n_covered])
            rows = part[start:stop]
            if block.labelled is not None:
                return np.searchsorted(block.labelled.numbers, rows)
            return (rows - first).astype(np.intp)

        return pick


@dataclass(frozen=True)
class Intersection:
    """The rows that all of some selections pick, each of which needs one part."""

    selections: tuple[Selection, ...]

    def picker(self, *parts: Any) -> Picker:
        """Return a function that picks rows."""
        pickers = [selection.picker(part) for selection, part in zip(self.selections, parts, strict=True)]

        def pick(block: SummaryBlock, first: int) -> Positions:
            rows, *others = [each(block, first) for each in pickers]
            for other in others:
                rows = np.intersect1d(rows, other, assume_unique=True)
            return rows

        return pick


@dataclass(frozen=True)
class RowSelection:
    """The rows that a filter selects.

    Parameters
    ----------
    selection : Selection
        Picks rows.
    columns : tuple of sequence
        The parts that `selection` needs, one per chunk of the table.
    n_rows : int
        Number of rows, including those whose label is nearly predicted, which some filters drop later. An upper bound
        if two selections are combined.
    scattered : tuple of bool
        For each of the columns, whether its parts are arrays, which are scattered to the workers.
    """

    selection: Selection
    columns: tuple[Sequence[Any], ...]
    n_rows: int
    scattered: tuple[bool, ...] = (False,)

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.int64], chunk_rows: Sequence[int]) -> RowSelection:
        """Return the selection of ascending row numbers, for chunks of `chunk_rows` rows."""
        edges = np.searchsorted(rows, np.cumsum([0, *chunk_rows]))
        parts = [rows[start:stop] for start, stop in itertools.pairwise(edges.tolist())]
        return cls(ListedRows(), (parts,), len(rows), (True,))

    def __and__(self, other: RowSelection) -> RowSelection:
        """Return the rows that both select."""
        return RowSelection(
            Intersection((self.selection, other.selection)),
            self.columns + other.columns,
            min(self.n_rows, other.n_rows),
            self.scattered + other.scattered,
        )


# Margins that are computed at a time, and candidates that are collected before the largest are selected.
_PIECE: Final = 1 << 18
_MOST_CANDIDATES: Final = 1 << 19
# Up to this many pairs, the largest margins of each pair are selected in a loop over the pairs.
_FEW_PAIRS: Final = 4096
# Taken off a margin that is to be reached, and not exceeded.
_MARGIN_SLACK: Final = 1e-9
COLUMNS: Final = ("pairs", "margins", "rows")


@dataclass(frozen=True)
class Candidates:
    """Rows that may have one of the largest margins of a pair, sorted by pair and row.

    Parameters
    ----------
    pairs : (C,) uint32
        Positions of the pairs in `PruneCounts`.
    margins : (C,) float64
        Margins.
    rows : (C,) int64
        Row numbers.
    n_read : int
        Number of rows that were read to find them.
    """

    pairs: npt.NDArray[np.uint32]
    margins: Float64s
    rows: Int64s
    n_read: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def none(cls) -> Candidates:
        """Return no candidates."""
        return cls(np.empty(0, np.uint32), np.empty(0, np.float64), np.empty(0, np.int64))


def largest(parts: Sequence[Candidates], n_rows: Int64s) -> Candidates:
    """Join the candidates of consecutive rows, and keep the ``n_rows[pair]`` largest margins of each pair.

    Of equal margins the first rows are kept.
    """
    pairs, margins, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
    order = _by_pair(pairs)
    pairs, margins, rows = pairs[order], margins[order], rows[order]
    counts = np.bincount(pairs, minlength=len(n_rows))
    kept = np.ones(len(pairs), np.bool_)
    too_many = np.flatnonzero(counts > n_rows)
    if len(too_many) <= _FEW_PAIRS:
        stops = np.cumsum(counts)
        for number in too_many:
            members = slice(stops[number] - counts[number], stops[number])
            kept[members] = _are_largest(margins[members], int(n_rows[number]))
    else:
        # Sort by pair, largest margin first, and drop what comes after the first `n_rows` of its pair.
        order = np.flatnonzero((counts > n_rows)[pairs])
        order = order[np.argsort(-margins[order], kind="stable")]
        order = order[_by_pair(pairs[order])]
        pair = pairs[order]
        rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
        kept[order[rank >= n_rows[pair]]] = False
    return Candidates(pairs[kept], margins[kept], rows[kept], sum(part.n_read for part in parts))


def _by_pair(pairs: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return a stable order by pair. NumPy's radix sort takes 16 bits, so that two sorts beat one of 32 bits."""
    order = np.argsort(pairs.astype(np.uint16), kind="stable")
    if pairs.max(initial=0) > np.iinfo(np.uint16).max:
        order = order[np.argsort((pairs >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _are_largest(margins: Float64s, n_rows: int) -> Bools:
    """Return which are the `n_rows` largest margins, the first ones where they tie."""
    cut = np.partition(margins, len(margins) - n_rows)[len(margins) - n_rows]
    chosen: Bools = margins > cut
    chosen[np.flatnonzero(margins == cut)[: n_rows - int(np.count_nonzero(chosen))]] = True
    return chosen


def margins_to_exceed(found: Candidates, n_rows: Int64s) -> Float64s:
    """Return the ``(P,)`` margins that later rows must exceed; -inf for pairs with fewer than `n_rows` candidates."""
    counts = np.bincount(found.pairs, minlength=len(n_rows))
    pairs = np.flatnonzero(counts)
    least = np.full(len(n_rows), -np.inf)
    if len(pairs):
        least[pairs] = np.minimum.reduceat(found.margins, (np.cumsum(counts) - counts)[pairs])
        least[counts < n_rows] = -np.inf
    return least


def predicted_candidates(summary: SummaryBlock, prune: PruneCounts) -> Candidates:
    """Return the rows of largest margin among those whose other class is the predicted one, by their summaries alone.

    They bound what is worth a comparison: where there are as many rows of a pair as are wanted, none of a smaller
    margin than all of them can be among the largest.
    """
    rows = np.flatnonzero(summary.predicted != summary.label)
    n_classes = len(prune.edges) - 1
    wanted = np.repeat(np.arange(n_classes), np.diff(prune.edges)) * n_classes + prune.classes
    cells = summary.label[rows].astype(np.int64) * n_classes + summary.predicted[rows]
    places = np.searchsorted(wanted, cells)
    known = np.append(wanted, -1)[places] == cells
    rows, pairs = rows[known], places[known].astype(np.uint32)
    margins = summary.p_predicted[rows].astype(np.float64) - summary.p_label[rows]
    return largest([Candidates(pairs, margins, rows)], prune.by_pair)


def margins_to_reach(found: Candidates, n_rows: Int64s) -> Float64s:
    """Return ``(P,)`` margins that all rows to select exceed, given `predicted_candidates` of all rows."""
    return margins_to_exceed(found, n_rows) - _MARGIN_SLACK


@dataclass(frozen=True)
class MarginSearch:
    """What to search for in a range of rows.

    Parameters
    ----------
    prune : PruneCounts
        The pairs, and the number of rows of each.
    least : (P,) float64
        Margins that rows must exceed; see `margins_to_exceed`.
    """

    prune: PruneCounts
    least: Float64s


class CandidatePool:
    """Collects the candidates of consecutive rows.

    Parameters
    ----------
    search : MarginSearch
        What to search for.
    """

    def __init__(self, search: MarginSearch) -> None:
        self._prune, self._least = search.prune, search.least.copy()
        self._least_of_label = self._by_label()
        self._found, self._n_found, self._room = [Candidates.none()], 0, _MOST_CANDIDATES

    def add(self, summary: SummaryBlock, probs: Floats, first: int) -> None:
        """Add the rows of the ``(n, K)`` strip `probs` from row `first` on, given their summaries too."""
        labels, p_label = summary.label.astype(np.intp), summary.p_label.astype(np.float64)
        rows = np.flatnonzero(summary.p_predicted - p_label > self._least_of_label[labels])
        lengths = self._prune.edges[labels[rows] + 1] - self._prune.edges[labels[rows]]
        # Work on pieces of rows, each row with all pairs of its label.
        ends = np.cumsum(lengths)
        start = 0
        while start < len(rows):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _PIECE, "right")))
            self._compare(rows[start:stop], lengths[start:stop], labels, p_label, probs, first)
            start = stop

    def candidates(self) -> Candidates:
        """Return the candidates, no more of each pair than are selected."""
        return largest(self._found, self._prune.by_pair)

    def _compare(
        self, rows: Int64s, lengths: Int64s, labels: npt.NDArray[np.intp], p_label: Float64s, probs: Floats, first: int
    ) -> None:
        # An entry for each row and each pair of its label; the pairs of a label are consecutive.
        row = np.repeat(rows, lengths)
        pair = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pair += np.repeat(self._prune.edges[labels[rows]], lengths)
        margins = probs[row, self._prune.classes[pair]].astype(np.float64) - p_label[row]
        kept = np.flatnonzero(margins > self._least[pair])
        if not len(kept):
            return
        self._found.append(Candidates(pair[kept].astype(np.uint32), margins[kept], row[kept] + first))
        self._n_found += len(kept)
        if self._n_found > self._room:
            self._found = [self.candidates()]
            self._n_found = len(self._found[0])
            self._room = max(_MOST_CANDIDATES, 2 * self._n_found)
            np.maximum(self._least, margins_to_exceed(self._found[0], self._prune.by_pair), out=self._least)
            self._least_of_label = self._by_label()

    def _by_label(self) -> Float64s:
        """Return the least margin that a row of each label must exceed; inf for labels without pairs.

        So it is for the label K, which stands for none.
        """
        least = np.full(len(self._prune.edges), np.inf)
        labels = np.flatnonzero(np.diff(self._prune.edges))
        if len(labels):
            least[labels] = np.minimum.reduceat(self._least, self._prune.edges[labels])
        return least
