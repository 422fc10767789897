"""The rows of largest margin for each pair of classes, so many of each. NumPy only.

A row labelled k has a margin ``p[j] - p[k]`` for each class j of which rows of label k are wanted. Most rows cannot be
among the largest of any pair: none of their margins is above that to the predicted class. Once a pair has as many
candidates as are wanted, the lowest of these is what others must exceed: rows come in order, and ties go to the lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.row_summary import SummaryBlock

# Margins that are worked on at a time, and candidates that are held before the largest are sorted out.
_PIECE: Final = 1 << 18
_HELD: Final = 1 << 19
# Up to this many pairs each is sorted out by itself.
_FEW_PAIRS: Final = 4096
COLUMNS: Final = ("pairs", "margins", "rows")


@dataclass(frozen=True)
class Candidates:
    """Rows that may be among those of largest margin, by pair, and by row within a pair.

    Parameters
    ----------
    pairs : (C,) uint32
        Numbers of the pairs, as in `joint.PruneCounts`.
    margins : (C,) float64
        Margins.
    rows : (C,) int64
        Row numbers.
    n_read : int
        Rows that were read to find them.
    """

    pairs: npt.NDArray[np.uint32]
    margins: Float64s
    rows: Int64s
    n_read: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def none(cls) -> Candidates:
        """Return no rows."""
        return cls(np.empty(0, np.uint32), np.empty(0, np.float64), np.empty(0, np.int64))


def largest(parts: Sequence[Candidates], wanted: Int64s) -> Candidates:
    """Join candidates of consecutive rows, and keep of each pair the `wanted` largest margins, ties by row."""
    pairs, margins, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
    order = _by_pair(pairs)
    pairs, margins, rows = pairs[order], margins[order], rows[order]
    counts = np.bincount(pairs, minlength=len(wanted))
    kept = np.ones(len(pairs), np.bool_)
    too_many = np.flatnonzero(counts > wanted)
    if len(too_many) <= _FEW_PAIRS:
        stops = np.cumsum(counts)
        for pair in too_many:
            segment = slice(stops[pair] - counts[pair], stops[pair])
            kept[segment] = _are_largest(margins[segment], int(wanted[pair]))
    else:
        some = np.flatnonzero((counts > wanted)[pairs])
        some = some[np.argsort(-margins[some], kind="stable")]
        some = some[_by_pair(pairs[some])]
        of = pairs[some]
        place = np.arange(len(of)) - np.searchsorted(of, of)
        kept[some[place >= wanted[of]]] = False
    return Candidates(pairs[kept], margins[kept], rows[kept], sum(part.n_read for part in parts))


def _by_pair(pairs: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return a stable order by pair: NumPy sorts 16 bits at a time by counting, and more by comparing."""
    order = np.argsort(pairs.astype(np.uint16), kind="stable")
    if pairs.max(initial=0) > np.iinfo(np.uint16).max:
        order = order[np.argsort((pairs >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _are_largest(margins: Float64s, wanted: int) -> npt.NDArray[np.bool_]:
    """Tell which are the `wanted` largest, the first ones where they tie."""
    cut = np.partition(margins, len(margins) - wanted)[len(margins) - wanted]
    chosen: npt.NDArray[np.bool_] = margins > cut
    chosen[np.flatnonzero(margins == cut)[: wanted - int(np.count_nonzero(chosen))]] = True
    return chosen


def to_exceed(found: Candidates, wanted: Int64s) -> Float64s:
    """Return the ``(P,)`` margins that rows behind those of `found` must exceed; -inf where any will do."""
    counts = np.bincount(found.pairs, minlength=len(wanted))
    some = np.flatnonzero(counts)
    least = np.full(len(wanted), -np.inf)
    if len(some):
        least[some] = np.minimum.reduceat(found.margins, (np.cumsum(counts) - counts)[some])
        least[counts < wanted] = -np.inf
    return least


@dataclass(frozen=True)
class Wanted:
    """What rows are looked for.

    Parameters
    ----------
    prune : PruneCounts
        How many of each pair.
    least : (P,) float64
        Margins that they must exceed.
    """

    prune: PruneCounts
    least: Float64s


class Pool:
    """The candidates of consecutive rows.

    Parameters
    ----------
    wanted : Wanted
        What rows are looked for.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._prune, self._least = wanted.prune, wanted.least.copy()
        self._lowest = self._of_labels()
        self._found, self._n_held, self._room = [Candidates.none()], 0, _HELD

    def add(self, summary: SummaryBlock, probs: Floats, first: int) -> None:
        """Take in the ``(n, K)`` strip `probs` of the rows from `first` on, and their summaries."""
        labels = summary.label.astype(np.intp)
        given = summary.p_label.astype(np.float64)
        some = np.flatnonzero(summary.p_predicted - given > self._lowest[labels])
        lengths = self._prune.edges[labels[some] + 1] - self._prune.edges[labels[some]]
        # Pieces of some rows, with all of their pairs.
        ends = np.cumsum(lengths)
        start = 0
        while start < len(some):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _PIECE, "right")))
            self._compare(some[start:stop], lengths[start:stop], labels, given, probs, first)
            start = stop

    def candidates(self) -> Candidates:
        """Return the candidates, no more than are wanted of each pair."""
        return largest(self._found, self._prune.by_pair)

    def _compare(
        self, rows: Int64s, lengths: Int64s, labels: npt.NDArray[np.intp], given: Float64s, probs: Floats, first: int
    ) -> None:
        row = np.repeat(rows, lengths)
        pair = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pair += np.repeat(self._prune.edges[labels[rows]], lengths)
        margins = probs[row, self._prune.classes[pair]].astype(np.float64) - given[row]
        kept = np.flatnonzero(margins > self._least[pair])
        if not len(kept):
            return
        self._found.append(Candidates(pair[kept].astype(np.uint32), margins[kept], row[kept] + first))
        self._n_held += len(kept)
        if self._n_held > self._room:
            self._found = [self.candidates()]
            self._n_held = len(self._found[0])
            self._room = max(_HELD, 2 * self._n_held)
            np.maximum(self._least, to_exceed(self._found[0], self._prune.by_pair), out=self._least)
            self._lowest = self._of_labels()

    def _of_labels(self) -> Float64s:
        """Return the lowest margin that a row of each label must exceed; inf where none of its rows are wanted."""
        lowest = np.full(len(self._prune.edges) - 1, np.inf)
        some = np.flatnonzero(np.diff(self._prune.edges))
        if len(some):
            lowest[some] = np.minimum.reduceat(self._least, self._prune.edges[some])
        return lowest
