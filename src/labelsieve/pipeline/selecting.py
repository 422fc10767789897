"""Which rows are the issues: the rounds that find the cuts, laid on the executor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning import radix_select, radix_select_by_class, top_k_by_pair
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.selections import AllOf, Selection, TheseRows, UpToClassCuts, UpToCut
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.execution.executor import Executor
from labelsieve.execution.progress import Progress
from labelsieve.settings import Settings
from labelsieve.tasks import rescan, scan
from labelsieve.tasks.checkpoint import Records

# A round of the third read takes at most this share of the partitions: what a killed run does again.
_ROUNDS: Final = 8

# Makes a task of a function of an item's finished summaries.
Work = Callable[..., Callable[..., Any]]


@dataclass(frozen=True)
class Selected:
    """The rows that a filter takes.

    Parameters
    ----------
    selection : Selection
        Tells them.
    parts : sequence
        What it needs to know for each item of the maps.
    n_rows : int
        How many they are, before those whose label is nearly predicted are dropped.
    scattered : bool
        Whether a part is, or ends in, an array that workers are handed.
    """

    selection: Selection
    parts: Sequence[Any]
    n_rows: int
    scattered: bool = False

    def __and__(self, other: Selected) -> Selected:
        """Return the rows that both take; how many there are is known only as no more than either."""
        parts = [list(both) for both in zip(self.parts, other.parts, strict=True)]
        selection = AllOf((self.selection, other.selection))
        return Selected(selection, parts, min(self.n_rows, other.n_rows), self.scattered or other.scattered)

    def handed_out(self, executor: Executor) -> Sequence[Any]:
        """Return the parts as the tasks' arguments, with their arrays handed out."""
        whole = [part[-1] if isinstance(part, list) else part for part in self.parts]
        handles = executor.scatter(whole)
        return [
            [*part[:-1], handle] if isinstance(part, list) else handle
            for part, handle in zip(self.parts, handles, strict=True)
        ]


def lowest(
    executor: Executor,
    work: Work,
    items: Sequence[Any],
    settings: Settings,
    histogram: radix_select.Int64s | None,
    wanted: int,
    n_bits: int,
    *,
    exactly: bool,
) -> Selected:
    """Choose the `wanted` lowest scores.

    Where they need not be taken `exactly`, tasks take all of a bin of few rows that holds the cut.
    """
    cut, quotas = radix_select.Cut(0, 0, 0, 0), list[int | None]([0] * len(items))
    if wanted >= 1 and histogram is not None:

        def histogram_within(within: radix_select.Cut) -> radix_select.Int64s:
            total: radix_select.Int64s = executor.reduce(
                "histogram", work(scan.histogram_within, cut=within), scan.add_up, [items]
            )
            return total

        cut, quotas = radix_select.find_cut(histogram, wanted, n_bits, histogram_within), [None] * len(items)
        if exactly or (not cut.shift and cut.inside > wanted - cut.below):
            cut, exact = radix_select.settle(
                cut, wanted, executor.gather("ties", work(scan.scores_inside, cut=cut), [items])
            )
            quotas = list(exact)
    return Selected(UpToCut(cut, settings), quotas, wanted)


def lowest_of_classes(
    executor: Executor, work: Work, items: Sequence[Any], wanted: Int64s, class_counts: Int64s, n_bits: int
) -> Selected:
    """Choose the `wanted` lowest probabilities of the given label of each class."""

    def histogram_within(within: radix_select_by_class.ClassCuts) -> Int64s:
        total: Int64s = executor.reduce(
            "histogram", work(scan.class_histogram_within, cuts=within), scan.add_up, [items]
        )
        return total

    cuts = radix_select_by_class.ClassCuts.open(wanted, class_counts, n_bits)
    cuts = radix_select_by_class.find_cuts(cuts, histogram_within)
    exact = radix_select_by_class.settle(cuts, executor.gather("ties", work(scan.class_ties, cuts=cuts), [items]))
    return Selected(UpToClassCuts(exact), range(len(items)), int(cuts.wanted.sum()))


def largest_margins(
    executor: Executor,
    reader: Callable[[Callable[..., Any]], Any],
    columns: Sequence[Sequence[Any]],
    prune: PruneCounts,
    work: partial[top_k_by_pair.Candidates],
    progress: Progress,
    records: Records | None,
    before: tuple[top_k_by_pair.Candidates, int] | None,
) -> top_k_by_pair.Candidates:
    """Read a third time for the rows of largest margin of each pair.

    In rounds, in row order, each of as many partitions as all before it: what those have found tells what the next ones
    can leave out, so that no round brings more than are wanted, however many partitions there are. `before` is what an
    earlier run has found, and in how many partitions.
    """
    found, n_done = before or (top_k_by_pair.Candidates.none(), 0)
    with progress as bar:
        for stop in rounds(n_done, len(columns[0]), executor.all_threads):
            least = top_k_by_pair.to_exceed(found, prune.of_pair)
            wanted, some = top_k_by_pair.Wanted(prune, least), [column[n_done:stop] for column in columns]
            parts = executor.unless_lost(partial(_look_for, executor, reader(work), wanted, some, bar))
            found, n_done = top_k_by_pair.largest([found, *parts], prune.of_pair), stop
            if records is not None:
                rescan.store_candidates(records, found, n_done)
    return found


def _look_for(
    executor: Executor,
    work: Callable[..., Any],
    wanted: top_k_by_pair.Wanted,
    columns: Sequence[Sequence[Any]],
    bar: Progress,
) -> list[top_k_by_pair.Candidates]:
    """Run a round; what is wanted is handed out, as of many pairs it is some megabytes, and no part of the graph."""
    [shared] = executor.scatter([wanted])
    return executor.gather("margins", work, [*columns, [shared] * len(columns[0])], bar)


def rounds(n_done: int, n_partitions: int, n_threads: int) -> Iterator[int]:
    """Yield up to which partition each round of the third read goes, from `n_done` on."""
    while n_done < n_partitions:
        most = max(n_threads, n_partitions // _ROUNDS)
        n_done = min(n_partitions, n_done + max(1, min(n_done, most)))
        yield n_done


def these_rows(rows: Int64s, starts: Sequence[int]) -> Selected:
    """Choose rows that are known, ascending; `starts` are the first rows of the items, and the end of the last."""
    cuts = np.searchsorted(rows, starts)
    parts = [rows[a:b] for a, b in itertools.pairwise(cuts.tolist())]
    return Selected(TheseRows(), parts, len(rows), scattered=True)
