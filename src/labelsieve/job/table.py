"""Counting and selecting: the tasks that work on chunks of row summaries, after the passes over `pred_probs`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import select as radix_select
from labelsieve.confident_learning import select as radix_select_by_class
from labelsieve.confident_learning import select as top_k_by_pair
from labelsieve.confident_learning.filters import Filter, SummaryCounter, SummaryCounts, combine_counts
from labelsieve.confident_learning.joint import PruneCounts
from labelsieve.confident_learning.misfit import RowSample
from labelsieve.confident_learning.select import (
    ClassCuts,
    ClassTies,
    Ranking,
    RowSelection,
    Selection,
    UpToClassCuts,
    UpToCut,
    class_histogram,
    label_scores,
    scores_of,
)
from labelsieve.confident_learning.summarize import ANY_SCORE
from labelsieve.confident_learning.thresholds import Float64s, Floats, Int32s, Int64s, Ints, SummaryBlock, class_dtype
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import values_array
from labelsieve.execution.progress import progress_of
from labelsieve.job.grid import Span
from labelsieve.job.kept import Chunk, SummaryReader
from labelsieve.job.scan import ChunkWork, Stretch
from labelsieve.options import check_whole_number
from labelsieve.results.result import IssueRows, ScoreParts
from labelsieve.results.store import COLUMNS, ResultGroup, StoredIssues, result_rows, run_rows
from labelsieve.sources.recording import SummaryTable, table_of_columns
from labelsieve.sources.tables import summary_columns
from labelsieve.storage.checked import Record, RecordWriter
from labelsieve.storage.folder import Folder

if TYPE_CHECKING:
    import dask.array as da

CutScores: TypeAlias = Callable[[SummaryBlock], Floats]


def widen(scores: Floats) -> Floats:
    """Return scores in the dtype that users get: float32 for float16."""
    return scores.astype(np.promote_types(scores.dtype, np.float32), copy=False)


def all_scores(chunk: Chunk, *, reader: SummaryReader) -> Floats:
    """Return the scores of a chunk, NaN for rows without a label; not copied where it is one block of labelled rows."""
    parts = [block.spread(widen(scores_of(block))) for block in reader.blocks(chunk, whole=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def count(chunk: Chunk, *, reader: SummaryReader, rule: Filter, thresholds: Float64s) -> SummaryCounts:
    """Compare the summaries of a chunk with the thresholds."""
    counter = SummaryCounter(rule, thresholds)
    for block in reader.blocks(chunk):
        counter.add(block)
    return counter.counts()


def n_labelled(chunk: Chunk, *, reader: SummaryReader) -> int:
    """Return the number of rows of a chunk that have a label."""
    return sum(map(len, reader.blocks(chunk)))


def sampled_classes(chunk: Chunk, first: int, *, reader: SummaryReader, sample: RowSample) -> tuple[Ints, Ints]:
    """Return the labels and predicted classes of the rows of a chunk that are in the sample.

    The sample counts labelled rows alone; `first` of them come before this chunk.
    """
    return sample.take(first, reader.blocks(chunk))


def predicted_candidates(chunk: Chunk, *, reader: SummaryReader, prune: PruneCounts) -> top_k_by_pair.Candidates:
    """Return the rows of largest margin of each pair whose other class is the predicted one."""
    found = top_k_by_pair.Candidates.none()
    for block in reader.blocks(chunk):  # never more are held than are wanted
        found = top_k_by_pair.largest([found, top_k_by_pair.predicted_candidates(block, prune)], prune.by_pair)
    return found


def histogram_within(chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut) -> Int64s:
    """Return the histogram of the next digit of the scores inside the cut."""
    return radix_select.add_up(radix_select.score_histogram(cut_scores(block), cut) for block in reader.blocks(chunk))


def scores_inside(
    chunk: Chunk, *, reader: SummaryReader, cut_scores: CutScores, cut: radix_select.Cut
) -> radix_select.Ties:
    """Return the distinct scores inside the cut, with the number of rows of each."""
    parts = [radix_select.inside(cut_scores(block), cut) for block in reader.blocks(chunk)]
    return radix_select.Ties.of(np.concatenate(parts))


def n_ranked(chunk: Chunk, *, reader: SummaryReader, ranking: Ranking, n_groups: int) -> Int64s:
    """Return the number of rows in each group of a ranking."""
    return radix_select.add_up(np.bincount(ranking(block)[1], minlength=n_groups) for block in reader.blocks(chunk))


def class_histogram_within(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts, ranking: Ranking) -> Int64s:
    """Return the histogram of the next digit of the scores of a ranking, inside the cut of each group."""
    ranked = map(ranking, reader.blocks(chunk))
    return radix_select.add_up(class_histogram(groups, scores, cuts) for _, groups, scores in ranked)


def class_ties(chunk: Chunk, *, reader: SummaryReader, cuts: ClassCuts, ranking: Ranking) -> ClassTies:
    """Return the distinct scores of a ranking inside the cut of each group, with the number of rows of each."""
    ranked = map(ranking, reader.blocks(chunk))
    return ClassTies.add_up([ClassTies.of(groups, scores, cuts) for _, groups, scores in ranked])


def selected_blocks(
    chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection
) -> Iterator[tuple[SummaryBlock, npt.NDArray[np.intp], int]]:
    """Yield blocks of summaries, the positions of the selected rows in each, and the number of its first row."""
    first, pick = chunk.start, selection.picker(*parts)
    for block in reader.blocks(chunk):
        yield block, pick(block, first), first
        first += block.n_covered


def issue_rows(block: SummaryBlock, rows: npt.NDArray[np.intp], first_row: int) -> IssueRows:
    """Return the issues at the positions `rows` of a block, in row order."""
    return IssueRows(
        rows=block.row_numbers(rows, first_row),
        scores=scores_of(block)[rows],
        # All of these have a label, so that they need no wider dtype.
        given_labels=block.label[rows].astype(block.predicted.dtype, copy=False),
        suggested_labels=block.predicted[rows],
        p_given=block.p_label[rows],
        p_suggested=block.p_predicted[rows],
    )


def select(chunk: Chunk, *parts: Any, reader: SummaryReader, selection: Selection) -> IssueRows:
    """Return the selected rows of a chunk in row order; `parts` are what the selection needs for the chunk."""
    return IssueRows.concatenate(
        [issue_rows(*found) for found in selected_blocks(chunk, *parts, reader=reader, selection=selection)]
    )


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
    group: ResultGroup,
) -> list[SortedRun]:
    """Write the issues of a span as sorted runs, and the scores and the mask of all its rows.

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
    group : ResultGroup
        Where to write the scores and the mask.
    """
    runs: list[SortedRun] = []
    held = _IssueBuffer()
    chunk = _ResultChunk(group, span, result_rows(n_rows))
    for block, rows, first in selected_blocks(span, *parts, reader=reader, selection=selection):
        found = issue_rows(block, rows, first)
        kept = rule.are_issues(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
        issues = found.take(np.flatnonzero(kept))
        held.add(issues)
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


# Number of chunks whose scores are fetched at a time.
_FETCHED_CHUNKS: Final = 16

_T = TypeVar("_T")


@dataclass(frozen=True)
class RowSummaries:
    """A table of row summaries in chunks.

    Parameters
    ----------
    executor : Executor
        Runs maps and reductions over the chunks.
    chunks : list
        The chunks, in row order: `SummaryChunk`, futures of these, or `Span` of stored rows.
    rows : list of int
        Number of rows of each chunk.
    reader : SummaryReader
        Reads chunks, with final scores.
    n_classes : int
        Number of classes K.
    dtype : dtype
        Native dtype of the probabilities.
    stored : bool
        Whether the chunks are rows of a checkpoint.
    show : bool or None
        Whether to show progress; None shows it on a terminal.
    read_margins : callable, optional
        Reads `pred_probs` for `select_largest_margins`; returns row numbers.
    """

    executor: Executor
    chunks: list[Any]
    rows: list[int]
    reader: SummaryReader
    n_classes: int
    dtype: np.dtype[Any]
    stored: bool = False
    show: bool | None = False
    read_margins: Callable[[PruneCounts], Int64s] | None = None

    @staticmethod
    def from_columns(
        *,
        label: npt.ArrayLike,
        predicted: npt.ArrayLike,
        p_label: npt.ArrayLike,
        p_predicted: npt.ArrayLike,
        n_classes: int,
        score: npt.ArrayLike | None = None,
    ) -> SummaryTable:
        """Make a table from columns that other code has computed.

        `labelsieve.find_label_issues` takes it as ``summaries=``; it also takes the columns as a dict, beside
        ``n_classes=``.

        Parameters
        ----------
        label : (N,) array-like of int
            Labels, 0..K-1.
        predicted : (N,) array-like of int
            First class of the largest probability.
        p_label, p_predicted : (N,) array-like of float16, float32 or float64
            Probability of the label and of the predicted class, of the same dtype.
        n_classes : int
            Number of classes K.
        score : (N,) array-like of float, optional
            Label quality scores, 0 to 1, if they are not self-confidences. Then pass their name as ``method=``.

        Returns
        -------
        SummaryTable
            The table. Its values are checked when it is read.

        Raises
        ------
        InvalidInputError
            For columns that cannot be summaries of predictions.

        Examples
        --------
        >>> import labelsieve
        >>> table = labelsieve.RowSummaries.from_columns(
        ...     label=[0, 0, 1, 1, 1],
        ...     predicted=[0, 0, 1, 1, 0],
        ...     p_label=[0.9, 0.8, 0.8, 0.9, 0.05],
        ...     p_predicted=[0.9, 0.8, 0.8, 0.9, 0.95],
        ...     n_classes=2,
        ... )
        >>> labelsieve.find_label_issues(summaries=table).indices
        array([4])
        """
        columns = {"label": label, "predicted": predicted, "p_label": p_label, "p_predicted": p_predicted}
        if score is not None:
            columns[ANY_SCORE] = score
        n_classes = check_whole_number("n_classes", n_classes, 2)
        found, _ = summary_columns(columns, list(columns), list(columns))
        return table_of_columns(found, n_classes, "the table of columns")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(self.rows)

    @property
    def score_dtype(self) -> np.dtype[Any]:
        """Dtype of the scores as they are returned."""
        scores = self.dtype if self.reader.settings.plain_self_confidence else np.dtype(np.float64)
        wide: np.dtype[Any] = np.promote_types(scores, np.float32)
        return wide

    def map(
        self, name: str, function: Callable[..., Any], *columns: Sequence[Any], show: str = "", **shared: Any
    ) -> Any:
        """Return ``function(chunk, *blocks, reader=..., **shared)`` for each chunk; `columns` give the blocks.

        `show` is the label of the progress bar; "" shows none.
        """
        return self._run(name, function, shared, show, self.executor.map, [self.chunks, *columns])

    def reduce(
        self,
        name: str,
        function: Callable[..., Any],
        combine: Callable[[Iterable[Any]], _T],
        *,
        show: str = "",
        **shared: Any,
    ) -> _T:
        """Combine ``function(chunk, reader=..., **shared)`` of all chunks with `combine`."""
        total: _T = self._run(name, function, shared, show, self.executor.reduce, combine, [self.chunks])
        return total

    def _run(
        self,
        name: str,
        function: Callable[..., Any],
        shared: Mapping[str, Any],
        show: str,
        run: Callable[..., Any],
        *how: Any,
    ) -> Any:
        """Map or reduce, and show progress under the label `show`, unless that is ""."""
        work = self._work(function, shared)
        if not show:
            return run(name, work, *how)
        on_cluster = self.executor.is_cluster
        with progress_of(name, self.rows, show, show=self.show, on_cluster=on_cluster) as bar:
            return run(name, work, *how, bar)

    def _work(self, function: Callable[..., Any], shared: Mapping[str, Any]) -> ChunkWork:
        """Return the callable of the tasks that run `function` on a chunk."""
        where = self.reader.records.folder.where if self.stored and self.reader.records is not None else "memory"
        return ChunkWork(partial(function, reader=self.reader, **shared), where)

    def sampled_classes(self, sample: RowSample) -> tuple[Ints, Ints]:
        """Return the labels and predicted classes of the rows of `sample`, which counts labelled rows, in row order."""
        lengths = self.rows if self.reader.no_label is None else self.map("labelled", n_labelled)
        first = np.cumsum([0, *lengths[:-1]]).tolist()
        parts = self.map("agreement", sampled_classes, first, sample=sample)
        labels, predicted = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(predicted)

    def count(self, rule: Filter, thresholds: Float64s) -> SummaryCounts:
        """Compare all rows with the thresholds, if the filter needs that."""
        if not rule.counts_summaries:
            return SummaryCounts()
        return self.reduce("issue-counts", count, combine_counts, show="threshold", rule=rule, thresholds=thresholds)

    # What filters ask for -------------------------------------------------------------------------------------------

    def select_where(self, selection: Selection, n_rows: int) -> RowSelection:
        """Return the `n_rows` rows that `selection` picks by their summaries alone."""
        return RowSelection(selection, ([None] * len(self.chunks),), n_rows)

    def select_lowest(
        self,
        cut_scores: Callable[[SummaryBlock], Floats],
        cut: radix_select.Cut,
        n_rows: int,
        *,
        exactly: bool,
    ) -> RowSelection:
        """Return the `n_rows` rows of lowest score, which `cut` may cut too coarsely.

        Unless `exactly`, a few more may be returned: all rows of the bin that holds the cut, if it has few.
        """
        while cut.inside > radix_select.MAX_CANDIDATES and cut.shift:
            histogram = self.reduce("histogram", histogram_within, radix_select.add_up, cut_scores=cut_scores, cut=cut)
            cut = radix_select.next_cut(histogram, n_rows, cut.shift, cut)
        quotas: Sequence[int | None] = [None if n_rows else 0] * len(self.chunks)
        if n_rows and (exactly or (not cut.shift and cut.inside > n_rows - cut.below)):
            ties = self.map("ties", scores_inside, cut_scores=cut_scores, cut=cut)
            cut, quotas = radix_select.find_exact_cut(cut, n_rows, ties)
        return RowSelection(UpToCut(cut, cut_scores), (quotas,), n_rows)

    def select_lowest_by_class(
        self, n_rows: Int64s, class_counts: Int64s | None = None, ranking: Ranking = label_scores
    ) -> RowSelection:
        """Return, for each label, the ``n_rows[label]`` rows with the lowest probability of that label.

        With another `ranking`, whose scores are float64, for each of its groups the rows of lowest score in it.
        """
        if class_counts is None:
            class_counts = self.count_ranked(ranking, len(n_rows))
        n_bits = 8 * self.dtype.itemsize if ranking is label_scores else 64
        cuts = radix_select_by_class.ClassCuts.open(n_rows, class_counts, n_bits)
        histogram = partial(self.reduce, "histogram", class_histogram_within, radix_select.add_up)
        cuts = radix_select_by_class.find_cuts(cuts, lambda within: histogram(cuts=within, ranking=ranking))
        ties = self.map("ties", class_ties, cuts=cuts, ranking=ranking)
        exact = radix_select_by_class.find_exact_cuts(cuts, ties)
        return RowSelection(UpToClassCuts(exact, ranking), (range(len(self.chunks)),), int(cuts.n_rows.sum()))

    def count_ranked(self, ranking: Ranking, n_groups: int) -> Int64s:
        """Return the number of rows in each group of a ranking."""
        return self.reduce("ranked", n_ranked, radix_select.add_up, ranking=ranking, n_groups=n_groups)

    def select_largest_margins(self, prune: PruneCounts) -> RowSelection:
        """Return the rows of largest margin for each pair of classes, in a third pass over `pred_probs`."""
        read = self.read_margins
        if read is None:
            raise RuntimeError("margins between classes need pred_probs")
        rows = read(prune) if len(prune.by_pair) else np.empty(0, np.int64)
        return RowSelection.of_rows(rows, self.rows)

    # Results --------------------------------------------------------------------------------------------------------

    def sorted_issues(self, selected: RowSelection, rule: Filter) -> IssueRows:
        """Return the selected rows by (score, row), without those that the filter drops."""
        if not selected.n_rows:
            return IssueRows.none(self.score_dtype, class_dtype(self.n_classes), self.dtype)
        found = IssueRows.concatenate(self._selected(select, selected))
        kept = rule.are_issues(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
        order = radix_select.lowest_first(found.scores, selected.n_rows)
        issues = found.take(order[kept[order]])
        return replace(issues, scores=widen(issues.scores))

    def _selected(self, function: Callable[..., Any], selected: RowSelection, **shared: Any) -> list[Any]:
        """Map `function` over the chunks and the selection, whose arrays are sent to the workers once."""
        send = self.executor.scatter
        return self.executor.unless_lost(
            lambda: self.map(
                "select",
                function,
                *(send(c) if sent else c for c, sent in zip(selected.columns, selected.scattered, strict=True)),
                show="rank",
                selection=selected.selection,
                **shared,
            )
        )

    def write(
        self, selected: RowSelection, rule: Filter, group: ResultGroup, scratch: Folder, room: int
    ) -> StoredIssues:
        """Write the issues of `sorted_issues`, and the scores and the mask of all rows, to `group`, by the tasks.

        Parameters
        ----------
        selected : RowSelection
            The selected rows.
        rule : Filter
            Drops selected rows that are not issues.
        group : ResultGroup
            Where to write them.
        scratch : Folder
            Where to write sorted runs until they are merged.
        room : int
            Bytes that a thread may take to sort a run.
        """
        scratch.remove("runs")  # left by a run that was killed
        folder = scratch.folder("runs").folder(uuid.uuid4().hex)
        group.create_rows(self.n_rows, self.score_dtype)
        n_sorted = run_rows(selected.n_rows, room)
        parts = self._selected(
            write_rows,
            selected,
            rule=rule,
            n_rows=self.n_rows,
            run_rows=n_sorted,
            folder=folder,
            group=group,
        )
        issues = self._merge([run for part in parts for run in part], n_sorted, folder, group)
        folder.delete()
        if not scratch.folder("runs").names():  # in an object store a later run may have written some
            scratch.remove("runs")
        return issues

    def _merge(self, sorted_runs: list[SortedRun], rows: int, folder: Folder, group: ResultGroup) -> StoredIssues:
        n_issues = sum(run.n_rows for run in sorted_runs)
        classes = class_dtype(self.n_classes)
        dtypes = [np.dtype(np.int64), self.score_dtype, classes, classes, self.dtype, self.dtype]
        columns = list(IssueRows.none(np.float32, classes, np.float32).columns())
        group.create_issues(n_issues, rows, dict(zip(columns, dtypes, strict=True)))
        if n_issues:
            cuts = range_cuts(sorted_runs, rows // 2)
            files = [run.name for run in sorted_runs]
            before = self.executor.map("rank", partial(rows_before, folder=folder, cuts=cuts), [files])
            names, merged = stretches(sorted_runs, before, rows, folder)
            work = ChunkWork(partial(merge, names=names, folder=folder, group=group), folder.where)
            lengths = [work.n_rows(stretch) for stretch in merged]
            on_cluster = self.executor.is_cluster
            with progress_of("merge", lengths, "write", show=self.show, on_cluster=on_cluster) as bar:
                self.executor.map("merge", work, [merged], bar)
        return StoredIssues(group.sealed(), n_issues)

    def scores(self) -> ScoreParts:
        """Return the scores of all rows, lazily if the summaries are stored or on a cluster.

        Otherwise the scores are copied, and each chunk is freed after that, so that no other column stays in memory.
        """
        work = self._work(all_scores, {})
        if not (self.stored or self.executor.is_cluster):
            return ArrayScores([work(self.chunks.pop(0)) for _ in self.rows])
        return TaskScores(self.executor, work, self.chunks, self.rows, self.score_dtype, in_store=self.stored)


@dataclass(frozen=True)
class ArrayScores:
    """Scores of all rows, in the memory of this process.

    Parameters
    ----------
    parts : sequence of (n,) float
        The scores of each chunk.
    """

    parts: Sequence[Floats]
    in_store: bool = False

    def to_numpy(self) -> Floats:
        """Return the scores as an ``(N,)`` array in memory."""
        return np.concatenate(self.parts)

    def to_dask(self) -> da.Array:
        """Return the scores as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        return da.concatenate([da.from_array(part, chunks=-1) for part in self.parts])

    def blocks(self) -> Iterator[Floats]:
        """Yield the scores in row order, chunk by chunk."""
        yield from self.parts


@dataclass(frozen=True)
class TaskScores:
    """Scores of all rows, computed from the summaries by tasks on demand.

    Parameters
    ----------
    executor : Executor
        Runs the tasks.
    work : callable
        Returns the scores of a chunk.
    chunks : sequence
        Chunks of the table.
    rows : sequence of int
        Number of rows of each chunk.
    dtype : dtype
        Dtype of the scores.
    in_store : bool
        Whether the summaries are in a workdir; otherwise workers hold them.
    """

    executor: Executor
    work: Callable[..., Any]
    chunks: Sequence[Any]
    rows: Sequence[int]
    dtype: np.dtype[Any]
    in_store: bool

    def to_numpy(self) -> Floats:
        """Return the scores as an ``(N,)`` array in memory."""
        return np.concatenate(self.executor.map("scores", self.work, [self.chunks]))

    def to_dask(self) -> da.Array:
        """Return the scores as a lazy ``(N,)`` Dask array."""
        import dask
        import dask.array as da

        work = dask.delayed(self.work, pure=False, traverse=False)
        return da.blockwise(
            lambda chunk, function: function(chunk),
            "i",
            values_array("summaries", self.chunks),
            "i",
            work,
            None,
            name=f"scores-{uuid.uuid4().hex}",
            adjust_chunks={"i": tuple(self.rows)},
            dtype=self.dtype,
            meta=np.empty(0, self.dtype),
        )

    def blocks(self) -> Iterator[Floats]:
        """Yield the scores in row order, chunk by chunk, and fetch a few chunks at a time."""
        for start in range(0, len(self.chunks), _FETCHED_CHUNKS):
            yield from self.executor.map("scores", self.work, [self.chunks[start : start + _FETCHED_CHUNKS]])
