"""The table in the middle: a row for each labelled example, with all that the answer needs of `pred_probs`.

Whatever reads predictions makes such a table; thresholds, counts, filters, ranking and results read one. Its columns:

==============  =================  =====================================================================================
column          dtype              meaning
==============  =================  =====================================================================================
`label`         unsigned integer   label, 0..K-1, or K for a row that has none, where rows may have none
`predicted`     unsigned integer   first class of the largest probability
`p_label`       that of the input  probability of the label
`p_predicted`   that of the input  probability of the predicted class
`score`         float64            label quality score, where it is computed from the whole row; absent where the score
                                   is `p_label`
`row_sum`       float64            sum of the row's probabilities, from which adjusted self-confidence is computed as
                                   the table is read; only with ``adjust_pred_probs=True``
`off_diagonal`  bool               whether the confident joint counts the row off its diagonal (its class is not the
                                   label), and the label is not nearly predicted: `p_label` + 1e-6 would not be the
                                   largest probability of the row; only with ``filter_by="confident_learning"``
==============  =================  =====================================================================================

The first two columns have the smallest dtype that holds K - 1. The chunks of the table stay in the memory of the
process that made them, or are rows of a checkpoint (`labelsieve.tasks.summary_reader`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning import radix_select, radix_select_by_class
from labelsieve.confident_learning.agreement import RowSample
from labelsieve.confident_learning.dtypes import Float64s, Floats, Int64s, Ints, class_dtype
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.pruning import PruneCounts
from labelsieve.confident_learning.recorded_summaries import ANY_SCORE
from labelsieve.confident_learning.selections import (
    Ranking,
    RowSelection,
    Selection,
    UpToClassCuts,
    UpToCut,
    label_scores,
)
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.summary_counts import SummaryCounts, combine_counts
from labelsieve.execution.progress import Progress, logger
from labelsieve.memory import run_rows
from labelsieve.pipeline.dask_job import DaskJob, values_array
from labelsieve.results.result import IssueRows, ScoreParts
from labelsieve.results.zarr_store import ResultGroup, StoredIssues
from labelsieve.settings import check_whole_number
from labelsieve.sources.open_summaries import SummaryTable, table_of_columns
from labelsieve.sources.summary_columns import open_summary_columns
from labelsieve.storage.folders import Folder
from labelsieve.storage.record_files import DamagedRecordError
from labelsieve.tasks import count_and_select, external_sort
from labelsieve.tasks.summary_reader import SummaryReader
from labelsieve.tasks.work import ChunkWork

if TYPE_CHECKING:
    import dask.array as da

# How often a computation may repair records and start again. More repairs mean a failing disk.
_MOST_REPAIRS: Final = 3
# Number of chunks whose scores are fetched at a time.
_FETCHED_CHUNKS: Final = 16

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _no_repair() -> None:
    """Do nothing: a table in memory has no records."""


@dataclass(frozen=True)
class RowSummaries:
    """A table of row summaries in chunks.

    Parameters
    ----------
    job : DaskJob
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
    repair : callable
        Repairs damaged records of the checkpoint.
    read_margins : callable, optional
        Reads `pred_probs` for `select_largest_margins`; returns row numbers.
    """

    job: DaskJob
    chunks: list[Any]
    rows: list[int]
    reader: SummaryReader
    n_classes: int
    dtype: np.dtype[Any]
    stored: bool = False
    show: bool | None = False
    repair: Callable[[], None] = _no_repair  # a table can be pickled
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
        table = open_summary_columns("summaries", columns)
        n_classes = check_whole_number("n_classes", n_classes, 2)
        return table_of_columns(table.columns(list(columns)), n_classes, "the table of columns")

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
        with self._progress(name, show) as bar:
            return repairing(
                self.repair, self.job.map, name, self._work(function, shared), [self.chunks, *columns], bar
            )

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
        with self._progress(name, show) as bar:
            return repairing(
                self.repair, self.job.reduce, name, self._work(function, shared), combine, [self.chunks], bar
            )

    def _work(self, function: Callable[..., Any], shared: Mapping[str, Any]) -> ChunkWork:
        """Return the callable of the tasks that run `function` on a chunk."""
        where = self.reader.records.folder.where if self.stored and self.reader.records is not None else "memory"
        return ChunkWork(partial(function, reader=self.reader, **shared), where)

    def _progress(self, name: str, description: str) -> AbstractContextManager[Progress | None]:
        if not description:
            return nullcontext()
        return Progress(name, self.rows, description, show=self.show, on_cluster=self.job.executor.is_cluster)

    def sampled_classes(self, sample: RowSample) -> tuple[Ints, Ints]:
        """Return the labels and predicted classes of the rows of `sample`, which counts labelled rows, in row order."""
        n_labelled = self.rows if self.reader.no_label is None else self.map("labelled", count_and_select.n_labelled)
        first = np.cumsum([0, *n_labelled[:-1]]).tolist()
        parts = self.map("agreement", count_and_select.sampled_classes, first, sample=sample)
        labels, predicted = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(predicted)

    def count(self, rule: Filter, thresholds: Float64s) -> SummaryCounts:
        """Compare all rows with the thresholds, if the filter needs that."""
        step = "issue-counts", count_and_select.count, combine_counts
        return (
            self.reduce(*step, show="threshold", rule=rule, thresholds=thresholds)
            if rule.counts_summaries
            else SummaryCounts()
        )

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
            histogram = self.reduce(
                "histogram", count_and_select.histogram_within, radix_select.add_up, cut_scores=cut_scores, cut=cut
            )
            cut = radix_select.next_cut(histogram, n_rows, cut.shift, cut)
        quotas: Sequence[int | None] = [None if n_rows else 0] * len(self.chunks)
        if n_rows and (exactly or (not cut.shift and cut.inside > n_rows - cut.below)):
            ties = self.map("ties", count_and_select.scores_inside, cut_scores=cut_scores, cut=cut)
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
        histogram = partial(self.reduce, "histogram", count_and_select.class_histogram_within, radix_select.add_up)
        cuts = radix_select_by_class.find_cuts(cuts, lambda within: histogram(cuts=within, ranking=ranking))
        ties = self.map("ties", count_and_select.class_ties, cuts=cuts, ranking=ranking)
        exact = radix_select_by_class.find_exact_cuts(cuts, ties)
        return RowSelection(UpToClassCuts(exact, ranking), (range(len(self.chunks)),), int(cuts.n_rows.sum()))

    def count_ranked(self, ranking: Ranking, n_groups: int) -> Int64s:
        """Return the number of rows in each group of a ranking."""
        counts = count_and_select.n_ranked
        return self.reduce("ranked", counts, radix_select.add_up, ranking=ranking, n_groups=n_groups)

    def select_largest_margins(self, prune: PruneCounts) -> RowSelection:
        """Return the rows of largest margin for each pair of classes, in a third pass over `pred_probs`."""
        read = self.read_margins
        if read is None:
            raise RuntimeError("margins between classes need pred_probs")
        rows = repairing(self.repair, read, prune) if len(prune.by_pair) else np.empty(0, np.int64)
        return RowSelection.of_rows(rows, self.rows)

    # Results --------------------------------------------------------------------------------------------------------

    def sorted_issues(self, selected: RowSelection, rule: Filter) -> IssueRows:
        """Return the selected rows by (score, row), without those that the filter drops."""
        if not selected.n_rows:
            return IssueRows.none(self.score_dtype, class_dtype(self.n_classes), self.dtype)
        found = IssueRows.concatenate(self._selected(count_and_select.select, selected))
        kept = rule.are_issues(found.given_labels, found.suggested_labels, found.p_given, found.p_suggested)
        order = radix_select.lowest_first(found.scores, selected.n_rows)
        issues = found.take(order[kept[order]])
        return replace(issues, scores=count_and_select.widen(issues.scores))

    def _selected(self, function: Callable[..., Any], selected: RowSelection, **shared: Any) -> list[Any]:
        """Map `function` over the chunks and the selection, whose arrays are sent to the workers once."""
        send = self.job.executor.scatter
        return self.job.executor.unless_lost(
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
        self, selected: RowSelection, rule: Filter, group: ResultGroup, scratch: Folder, room: int, *, with_rows: bool
    ) -> StoredIssues:
        """Write the issues of `sorted_issues` to `group`, by the tasks.

        Parameters
        ----------
        selected : RowSelection
            The selected rows.
        rule : Filter
            Drops selected rows that are not issues.
        group : ResultGroup
            Where to write the issues.
        scratch : Folder
            Where to write sorted runs until they are merged.
        room : int
            Bytes that a thread may take to sort a run.
        with_rows : bool
            Whether to write the scores and the mask of all rows too.
        """
        scratch.remove("runs")  # left by a run that was killed
        folder = scratch.folder("runs").folder(uuid.uuid4().hex)
        if with_rows:
            group.create_rows(self.n_rows, self.score_dtype)
        n_sorted = run_rows(selected.n_rows, room)
        parts = self._selected(
            external_sort.write_rows,
            selected,
            rule=rule,
            n_rows=self.n_rows,
            run_rows=n_sorted,
            folder=folder,
            group=group if with_rows else None,
        )
        issues = self._merge([run for part in parts for run in part], n_sorted, folder, group)
        folder.delete()
        if not scratch.folder("runs").names():  # in an object store a later run may have written some
            scratch.remove("runs")
        return issues

    def _merge(
        self, sorted_runs: list[external_sort.SortedRun], rows: int, folder: Folder, group: ResultGroup
    ) -> StoredIssues:
        n_issues = sum(run.n_rows for run in sorted_runs)
        classes = class_dtype(self.n_classes)
        dtypes = [np.dtype(np.int64), self.score_dtype, classes, classes, self.dtype, self.dtype]
        columns = list(IssueRows.none(np.float32, classes, np.float32).columns())
        group.create_issues(n_issues, rows, dict(zip(columns, dtypes, strict=True)))
        if n_issues:
            cuts = external_sort.range_cuts(sorted_runs, rows // 2)
            files = [run.name for run in sorted_runs]
            before = self.job.map("rank", partial(external_sort.rows_before, folder=folder, cuts=cuts), [files])
            names, stretches = external_sort.stretches(sorted_runs, before, rows, folder)
            work = ChunkWork(partial(external_sort.merge, names=names, folder=folder, group=group), folder.where)
            lengths = [work.n_rows(stretch) for stretch in stretches]
            on_cluster = self.job.executor.is_cluster
            with Progress("merge", lengths, "write", show=self.show, on_cluster=on_cluster) as bar:
                self.job.map("merge", work, [stretches], bar)
        return StoredIssues(group.sealed(), n_issues)

    def scores(self) -> ScoreParts:
        """Return the scores of all rows, lazily if the summaries are stored or on a cluster.

        Otherwise the scores are copied, and each chunk is freed after that, so that no other column stays in memory.
        """
        work = self._work(count_and_select.all_scores, {})
        return (
            TaskScores(self.job, work, self.chunks, self.rows, self.score_dtype, in_store=self.stored)
            if self.stored or self.job.executor.is_cluster
            else ArrayScores([work(self.chunks.pop(0)) for _ in self.rows])
        )


def repairing(repair: Callable[[], None], compute: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return ``compute(*args)``. If a record is damaged, call `repair` and compute again."""
    for _ in range(_MOST_REPAIRS):
        try:
            return compute(*args, **kwargs)
        except DamagedRecordError as error:
            logger.warning("%s; partitions with damaged records are read again", error)
            repair()
    return compute(*args, **kwargs)


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
    job : DaskJob
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

    job: DaskJob
    work: Callable[..., Any]
    chunks: Sequence[Any]
    rows: Sequence[int]
    dtype: np.dtype[Any]
    in_store: bool

    def to_numpy(self) -> Floats:
        """Return the scores as an ``(N,)`` array in memory."""
        return np.concatenate(self.job.map("scores", self.work, [self.chunks]))

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
            yield from self.job.map("scores", self.work, [self.chunks[start : start + _FETCHED_CHUNKS]])
