"""The rows with the largest margins of each pair of classes, a given number per pair.

For the pair (k, j), a row labelled k has the margin ``p[j] - p[k]``. None of its margins exceeds the margin of its
predicted class, so most rows can be skipped without a look at their other probabilities. Once a pair has as many
candidates as it needs, further rows must exceed the smallest of these: rows come in order, and of ties the first rows
are selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Int64s
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.summary_block import SummaryBlock

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
