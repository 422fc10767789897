"""External sort of issues that are too many for one process: the tasks write sorted runs, then merge them.

1. Each task sorts the rows that it selects, some hundred thousand at a time. It writes them as *runs*, and returns a
   sample of their keys (score, row).
2. The client uses the samples to cut the keys into ranges of about equal size.
3. One task per run counts its rows before each cut, so that the rank at which each range begins is known exactly.
4. One task per *stretch* of ranks merges the rows of the ranges that overlap the stretch.

A task holds only a few ranges in memory, however many issues and ties there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select
from labelsieve.confident_learning.dtypes import Floats, Int32s, Int64s
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.selections import Selection, scores_of
from labelsieve.partitioning import Span, result_rows
from labelsieve.results.result import IssueRows
from labelsieve.results.zarr_store import COLUMNS, ResultGroup
from labelsieve.storage.folders import Folder
from labelsieve.storage.record_files import Record, RecordWriter
from labelsieve.tasks.count_and_select import issue_rows, selected_blocks, widen
from labelsieve.tasks.summary_reader import SummaryReader

# A sample has every 1024th key of a run, and at least 16 keys: the ranges are only as even as the samples.
_SAMPLE_STEP: Final = 1024
_LEAST_SAMPLE: Final = 16
# Rows of a block of a run, which is read whole to get one row.
_RUN_BLOCK_ROWS: Final = 1024

# Name of the file with the first row of each range in each run.
_EDGES: Final = "edges"


@dataclass(frozen=True)
class Keys:
    """Sort keys: rows are ordered by score, and ties by row.

    Parameters
    ----------
    scores : (n,) float
        Scores.
    rows : (n,) int64
        Row numbers.
    """

    scores: Floats
    rows: Int64s


@dataclass(frozen=True)
class SortedRun:
    """A file of sorted issues.

    Parameters
    ----------
    name : str
        Name of the file in the folder of runs.
    n_rows : int
        Number of rows.
    sample : Keys
        Evenly spaced keys.
    step : int
        Number of rows from one key of the sample to the next.
    """

    name: str
    n_rows: int
    sample: Keys
    step: int


def write_rows(
    span: Span,
    *parts: Any,
    reader: SummaryReader,
    rule: Filter,
    selection: Selection,
    n_rows: int,
    run_rows: int,
    folder: Folder,
    group: ResultGroup | None,
) -> list[SortedRun]:
    """Write the issues of a span as sorted runs; with a `group`, write the scores and the mask of all its rows too.

    Parameters
    ----------
    span : Span
        Rows of whole chunks of the result.
    *parts : object
        What the selection needs for these rows.
    reader : SummaryReader
        Reads the summaries.
    rule : Filter
        Drops selected rows that are not issues.
    selection : Selection
        Selects rows.
    n_rows : int
        Number of rows of the whole table.
    run_rows : int
        Number of issues to sort at a time.
    folder : Folder
        Where to write the runs.
    group : ResultGroup or None
        Where to write the scores and the mask.
    """
    runs: list[SortedRun] = []
    held = _IssueBuffer()
    chunk = None if group is None else _ResultChunk(group, span, result_rows(n_rows))
    for block, rows, first in selected_blocks(span, *parts, reader=reader, selection=selection):
        found = issue_rows(block, rows, first)
        kept = rule.are_issues(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
        issues = found.take(np.flatnonzero(kept))
        held.add(issues)
        if chunk is not None:
            chunk.add(first, block.spread(widen(scores_of(block))), issues.rows)
        if held.n_rows >= run_rows:
            runs.append(_write_run(folder, f"{span.start}-{len(runs)}", held.take()))
    if held.n_rows:
        runs.append(_write_run(folder, f"{span.start}-{len(runs)}", held.take()))
    return runs


class _IssueBuffer:
    """Collects issues until there are enough for a run."""

    def __init__(self) -> None:
        self._parts: list[IssueRows] = []
        self.n_rows = 0

    def add(self, part: IssueRows) -> None:
        if len(part):
            self._parts.append(part)
            self.n_rows += len(part)

    def take(self) -> IssueRows:
        parts, self._parts, self.n_rows = self._parts, [], 0
        return IssueRows.concatenate(parts)


class _ResultChunk:
    """Writes the scores and the mask of a span, one stored chunk at a time."""

    def __init__(self, group: ResultGroup, span: Span, chunk_rows: int) -> None:
        self._start, self._stop, self._chunk_rows = span.start, span.stop, chunk_rows
        self._to_scores, self._to_mask = group.writer("scores"), group.writer("mask")
        self._scores: Floats | None = None
        self._mask = np.empty(0, np.bool_)

    def add(self, first: int, scores: Floats, issues: Int64s) -> None:
        """Add a block of scores that begins at row `first`, and the numbers of its rows that are issues."""
        while len(scores):
            if self._scores is None:
                n = min(self._chunk_rows, self._stop - self._start)
                self._scores, self._mask = np.empty(n, scores.dtype), np.zeros(n, np.bool_)
            at = first - self._start
            n = min(len(scores), len(self._scores) - at)
            self._scores[at : at + n] = scores[:n]
            here = issues[: np.searchsorted(issues, first + n)]
            self._mask[here - self._start] = True
            scores, issues, first = scores[n:], issues[len(here) :], first + n
            if at + n == len(self._scores):
                self._to_scores(self._start, self._scores)
                self._to_mask(self._start, self._mask)
                self._start, self._scores = first, None


def _write_run(folder: Folder, name: str, issues: IssueRows) -> SortedRun:
    order = radix_select.lowest_first(issues.scores, len(issues))  # the sort is stable, so ties stay in row order
    with folder.create(name) as file:
        writer = RecordWriter(file, {"kind": "run"})
        for start in range(0, len(issues), _RUN_BLOCK_ROWS):
            writer.add(issues.take(order[start : start + _RUN_BLOCK_ROWS]).columns())
        writer.finish({})
    step = max(1, min(_SAMPLE_STEP, len(issues) // _LEAST_SAMPLE))
    sampled = order[step - 1 :: step]
    sample = Keys(issues.scores[sampled], issues.rows[sampled])
    return SortedRun(name, len(issues), sample, step)


def range_cuts(runs: Sequence[SortedRun], rows: int) -> Keys:
    """Return keys that cut all issues into ranges of about `rows` rows: the first key of each range after the first."""
    joined = Keys(
        np.concatenate([run.sample.scores for run in runs]), np.concatenate([run.sample.rows for run in runs])
    )
    weights = np.repeat([run.step for run in runs], [len(run.sample.rows) for run in runs])
    order = np.lexsort((joined.rows, joined.scores))
    ranges = np.cumsum(weights[order]) // rows
    first = np.flatnonzero(np.diff(ranges, prepend=0))  # where each next range begins
    return Keys(joined.scores[order[first]], joined.rows[order[first]])


def rows_before(name: str, *, folder: Folder, cuts: Keys) -> Int32s:
    """Return the number of rows of a run before each cut."""
    with Record(folder, name) as record:
        parts = [(block["score"], block["row"]) for block in record.blocks()]
    scores, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    low = np.searchsorted(scores, cuts.scores, "left")
    high = np.searchsorted(scores, cuts.scores, "right")
    before = low.astype(np.int64)
    for tied in np.flatnonzero(low < high):
        before[tied] += np.searchsorted(rows[low[tied] : high[tied]], cuts.rows[tied])
    return before.astype(np.int32)


@dataclass(frozen=True)
class Stretch:
    """Consecutive ranks of the final order, and the ranges of keys that hold their rows.

    Parameters
    ----------
    start, stop : int
        Ranks ``[start, stop)``.
    first : int
        Rank of the first row of the first range.
    edges : tuple of int
        Number of the first range, and of the last range plus one.
    """

    start: int
    stop: int
    first: int
    edges: tuple[int, int]


def stretches(
    runs: Sequence[SortedRun], before: list[Int32s], rows: int, folder: Folder
) -> tuple[list[str], list[Stretch]]:
    """Cut the final order into stretches, and write the table of edges that their tasks read.

    Parameters
    ----------
    runs : sequence of SortedRun
        In the order of their rows.
    before : list of (cuts,) int32
        For each run, the number of rows before each cut. The arrays are freed as they are copied.
    rows : int
        Ranks of a stretch, a whole number of stored chunks of the result.
    folder : Folder
        Folder of the runs.

    Returns
    -------
    names : list of str
        Names of the runs.
    stretches : list of Stretch
        The stretches in order.
    """
    lengths = np.array([run.n_rows for run in runs], np.int32)
    edges = np.empty((len(before[0]) + 2, len(runs)), np.int32)  # a row per edge, so that a task reads two rows
    edges[0], edges[-1] = 0, lengths
    for index in range(len(runs)):
        edges[1:-1, index], before[index] = before[index], edges[:0, index]  # free it
    # Ranges times runs: over a hundred megabytes at the largest, so it is a file and not part of the graph.
    folder.write(_EDGES, edges.astype("<i4", copy=False).view(np.uint8).reshape(-1).data)
    ranks = edges.sum(axis=1, dtype=np.int64)  # the rank at which each range begins
    found, total = [], int(ranks[-1])
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        a = int(np.searchsorted(ranks, start, "right")) - 1
        b = int(np.searchsorted(ranks, stop, "left"))
        found.append(Stretch(start, stop, int(ranks[a]), (a, b)))
    return [run.name for run in runs], found


def run_slices(stretch: Stretch, names: Sequence[str], folder: Folder) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each run with rows in a stretch, and the range ``[start, stop)`` of these rows."""
    row = 4 * len(names)
    low, high = (np.frombuffer(folder.read(_EDGES, row * edge, row * (edge + 1)), "<i4") for edge in stretch.edges)
    for index in np.flatnonzero(low < high):
        yield names[int(index)], int(low[index]), int(high[index])


def merge(stretch: Stretch, *, names: Sequence[str], folder: Folder, group: ResultGroup) -> int:
    """Merge the rows of a stretch, write its columns, and return its number of rows."""
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for name, start, stop in run_slices(stretch, names, folder):
        with Record(folder, name) as record:
            parts += record.blocks(start, stop)
    scores = np.concatenate([part["score"] for part in parts])
    # The runs are in row order, so a stable sort keeps ties in row order.
    order = radix_select.lowest_first(scores, len(scores))[stretch.start - stretch.first : stretch.stop - stretch.first]
    for key, path in COLUMNS.items():  # one at a time, to save memory
        column = np.concatenate([part[key] for part in parts])[order]
        group.writer(path)(stretch.start, widen(column) if key == "score" else column)
    return len(order)
