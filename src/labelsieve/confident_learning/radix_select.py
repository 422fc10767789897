"""The exact lowest scores without sorting all of them.

The bits of a float, flipped so that they order like the number, are radix digits. A histogram of the first digit tells
which bin holds the cut; if that bin is too full to sort, the next digit splits it, down to single values. Rows that tie
at the cut are taken in row order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Floats, Int64s, unsigned_dtype
from labelsieve.confident_learning.thresholds import row_slices

_DIGIT_BITS: Final = 13
# Rows of the cut's bin that are sorted rather than split further.
MAX_CANDIDATES: Final = 1 << 18


@dataclass(frozen=True)
class Cut:
    """Which ordered bits are low enough: all below `prefix`, and some of those equal to it, after a right shift.

    Parameters
    ----------
    prefix : int
        Leading ordered bits of the bin that holds the cut.
    shift : int
        Trailing bits that the bin leaves open; 0 for a single value.
    below, inside : int
        Rows below the bin and in it.
    """

    prefix: int
    shift: int
    below: int
    inside: int


def ordered_bits(scores: Floats) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return unsigned integers that order like `scores`, which hold no NaN and no -0.0."""
    unsigned = unsigned_dtype(scores.dtype)
    n_bits = 8 * unsigned.itemsize
    signed = np.ascontiguousarray(scores).view(f"i{unsigned.itemsize}")
    flip = np.array(1 << (n_bits - 1), unsigned).view(signed.dtype)
    if signed.min(initial=0) < 0:
        flip = flip | (signed >> (n_bits - 1))  # all ones for a negative number, which orders backwards
    bits: npt.NDArray[np.unsignedinteger[Any]] = (signed ^ flip).view(unsigned)
    return bits


def score_histogram(scores: Floats, within: Cut | None = None) -> Int64s:
    """Count `scores` by their next digit, among those in the bin `within` or among all of them.

    Returns
    -------
    (B,) int64
        Counts of the digit, at most 8192 bins.
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


def next_cut(histogram: Int64s, count: int, n_bits: int, within: Cut | None = None) -> Cut:
    """Return the bin of `histogram` (made with the same `within`) that holds the `count`-th lowest score."""
    top, prefix, below = (n_bits, 0, 0) if within is None else (within.shift, within.prefix, within.below)
    shift = max(0, top - _DIGIT_BITS)
    cumulative = np.cumsum(histogram)
    digit = int(np.searchsorted(cumulative, count - below))
    inside = int(histogram[digit])
    return Cut((prefix << (top - shift)) | digit, shift, below + int(cumulative[digit]) - inside, inside)


def find_cut(
    first: Int64s,
    count: int,
    n_bits: int,
    histogram_within: Callable[[Cut], Int64s],
    max_candidates: int = MAX_CANDIDATES,
) -> Cut:
    """Return a bin around the `count`-th lowest score, small enough to sort or a single value.

    Parameters
    ----------
    first : (B,) int64
        `score_histogram` of all scores.
    count : int
        Rows wanted, at least 1 and at most all of them.
    n_bits : int
        Width of a score.
    histogram_within : callable
        Gives the `score_histogram` of all scores within a cut; called only while the bin is too full.
    max_candidates : int
        The most rows that a bin may hold unsplit.
    """
    cut = next_cut(first, count, n_bits)
    while cut.inside > max_candidates and cut.shift:
        cut = next_cut(histogram_within(cut), count, n_bits, cut)
    return cut


def inside(scores: Floats, cut: Cut) -> Floats:
    """Return the scores in the bin of `cut`, in row order."""
    chosen: Floats = scores[(ordered_bits(scores) >> cut.shift) == cut.prefix]
    return chosen


@dataclass(frozen=True)
class Ties:
    """Distinct scores, ascending, and how many rows have each.

    Parameters
    ----------
    values : (V,) float
        The scores.
    counts : (V,) int64
        Their rows.
    """

    values: Floats
    counts: Int64s

    @classmethod
    def of(cls, scores: Floats) -> Ties:
        """Count equal scores."""
        values, counts = np.unique(scores, return_counts=True)
        return cls(values, counts.astype(np.int64))


def find_exact_cut(cut: Cut, wanted: int, parts: Sequence[Ties]) -> tuple[Cut, list[int]]:
    """Return the cut as a single value, and how many rows of it to take from each of the consecutive `parts`.

    Parameters
    ----------
    cut : Cut
        A bin around the `wanted`-th lowest score.
    wanted : int
        Rows to take in all.
    parts : sequence of Ties
        The scores inside the bin, of consecutive ranges of rows.
    """
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(values, kind="stable")
    cumulative = cut.below + np.cumsum(np.concatenate([part.counts for part in parts])[order])
    value = values[order][np.searchsorted(cumulative, wanted)]
    at = [int(part.counts[part.values == value].sum()) for part in parts]
    below = cut.below + sum(int(part.counts[part.values < value].sum()) for part in parts)
    exact = Cut(int(ordered_bits(np.array([value]))[0]), 0, below, sum(at))
    return exact, tie_quotas(at, wanted - below)


def tie_quotas(ties: Sequence[int], wanted: int) -> list[int]:
    """Share out the `wanted` tied rows over blocks that hold `ties` of them each: lower rows first."""
    quotas = []
    for held in ties:
        quotas.append(min(held, wanted))
        wanted -= quotas[-1]
    return quotas


def count_inside(scores: Floats, cut: Cut) -> int:
    """Count the scores in the bin of `cut`."""
    return sum(
        int(np.count_nonzero((ordered_bits(scores[block]) >> cut.shift) == cut.prefix))
        for block in row_slices(len(scores))
    )


def rows_up_to(scores: Floats, cut: Cut, quota: int | None = None) -> npt.NDArray[np.intp]:
    """Return the ascending rows of all scores below the bin of `cut` and of those in it, the first `quota` of these."""
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


def lowest_first(scores: Floats, count: int) -> npt.NDArray[np.intp]:
    """Return the positions of the `count` lowest of all `scores`, by (score, position).

    A radix sort by 16 bits at a time, the least significant first: NumPy's stable argsort of 16-bit integers is 25
    times faster than its stable argsort of floats.
    """
    bits = ordered_bits(scores)
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    for shift in range(16, 8 * bits.itemsize, 16):
        digits = (bits >> shift).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order[:count]


def lowest_rows(scores: Floats, count: int) -> Int64s:
    """Return the rows of the `count` lowest `scores` held in memory, ordered by (score, row).

    Examples
    --------
    >>> import numpy as np
    >>> lowest_rows(np.array([0.5, 0.1, 0.5, 0.9]), 2)
    array([1, 0])
    """
    count = min(count, len(scores))
    if count < 1:
        return np.empty(0, np.int64)
    n_bits = 8 * scores.dtype.itemsize
    cut = find_cut(score_histogram(scores), count, n_bits, lambda within: score_histogram(scores, within))
    quota = None if cut.shift else count - cut.below
    rows = rows_up_to(scores, cut, quota)
    return rows[lowest_first(scores[rows], count)].astype(np.int64)
