"""The passes over `pred_probs`, in their order: the algorithm in Dask's words.

labels (N,), pred_probs (N, K)                   chunked alike; a block of a file is a lazy range of rows

scan         = blockwise(labels, pred_probs)     a chunk of row summaries for each chunk of pred_probs
thresholds   = reduction(scan)                   class sums, and what is wrong with the rows
rescan       = blockwise(pred_probs, scan)       only where whole rows are needed again: a second pass
issue-counts = reduction(blockwise(scan))        confident pairs, and a histogram of the scores
ties         = blockwise(scan)                   the scores at the cut; rounds of "histogram" where these are many
margins      = blockwise(pred_probs, scan)       only where pairs of classes are pruned: a third pass
select       = blockwise(scan)                   the issues of each chunk, or sorted runs of them
"""

from __future__ import annotations

import abc
import itertools
import multiprocessing
import os
import platform
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import psutil

from labelsieve.confident_learning.checks import DEFAULT_CHECKS, RowChecks
from labelsieve.confident_learning.filters import Filter, IssueTotals, SummaryCounts, issue_totals
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounts, PruneCounts
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.select import (
    Candidates,
    MarginSearch,
    RowSelection,
    largest,
    margins_to_exceed,
    margins_to_reach,
)
from labelsieve.confident_learning.summarize import ScanTotals, combine_totals
from labelsieve.confident_learning.thresholds import ClassSums, Float64s, Int64s, class_sums_finalize
from labelsieve.errors import warn
from labelsieve.execution.executor import Executor
from labelsieve.execution.fork import forked_map
from labelsieve.execution.graph import Column, some_chunks
from labelsieve.execution.progress import progress_of
from labelsieve.job import scan
from labelsieve.job.grid import spans
from labelsieve.job.inputs import Inputs, kept_if_it_fits, without_blocks
from labelsieve.job.kept import Kept, Records, RescanTotals, SummaryReader, combine_rescans
from labelsieve.job.scan import PartitionWork, RowRange
from labelsieve.job.table import RowSummaries, predicted_candidates
from labelsieve.options import check_whole_number
from labelsieve.sources.composite import WrappedSource
from labelsieve.sources.npy import NpySource
from labelsieve.sources.open import ArraySource
from labelsieve.sources.source import Source
from labelsieve.storage.checked import DamagedRecordError

# A round of the third pass reads at most this share of the partitions, which is what a killed run reads again.
_ROUNDS: Final = 8

_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """What the passes have found.

    Parameters
    ----------
    scanned : ScanTotals
        Totals of the first pass.
    sums : ClassSums
        Sums of each class.
    thresholds : (K,) float64
        Confident thresholds.
    counts : SummaryCounts
        What comparing the summaries with the thresholds counts.
    totals : IssueTotals
        Totals over all rows, by the rule of the settings.
    misfit : str
        A warning that labels and predictions do not seem to belong together, or "".
    table : RowSummaries
        The row summaries.
    selected : RowSelection
        The selected rows.
    """

    scanned: ScanTotals
    sums: ClassSums
    thresholds: Float64s
    counts: SummaryCounts
    totals: IssueTotals
    misfit: str
    table: RowSummaries
    selected: RowSelection


class Passes(abc.ABC):
    """The passes of one run over the partitions of its inputs.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    rule : Filter
        Selects issues; says which passes and columns it needs.
    executor : Executor
        Who runs the tasks.
    kept : Kept
        Where row summaries live.
    accepted : RowChecks
        Which rows that cannot be a distribution are accepted.
    show : bool or None
        Whether to show progress; None shows it on a terminal.
    n_forks : int
        Number of processes to fork for the first pass; 0 for none.

    Attributes
    ----------
    n_reads, n_rescanned : int
        Number of passes so far, and of rows that were read after the first one.
    """

    def __init__(
        self,
        inputs: Inputs,
        rule: Filter,
        executor: Executor,
        kept: Kept,
        *,
        accepted: RowChecks = DEFAULT_CHECKS,
        show: bool | None = None,
        n_forks: int = 0,
    ) -> None:
        self.inputs, self.rule, self.executor, self.kept = inputs, rule, executor, kept
        self._accepted, self._show, self._n_forks = accepted, show, n_forks
        self._progress = partial(
            progress_of,
            partition_rows=inputs.grid.partition_rows,
            show=show,
            row_bytes=inputs.read_row_bytes,
            on_cluster=executor.is_cluster,
        )
        self.n_reads, self.n_rescanned = 1, 0
        self._all_columns: list[Column] | None = None

    def run(self, given_joint: ConfidentCounts | None = None, *, exactly: bool) -> Found:
        """Find the issues, and select exactly as many as are counted if `exactly`, or a few more."""
        scanned = self.scan()
        self.check_scanned(scanned)
        sums = scanned.sums.dense()
        thresholds = class_sums_finalize(sums)
        table, rescanned = self.rescan(thresholds)
        counts = table.count(self.rule, thresholds)
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        totals = replace(issue_totals(counts, joint, sums.counts, self.rule.settings), given_joint=given_joint)
        misfit = self.check_fit(scanned, totals.confident)
        selected = self.rule.select(table, totals, self.inputs.dtype, exactly=exactly)
        if self.n_reads > 1:
            self.check_read()
        return Found(scanned, sums, thresholds, counts, totals, misfit, table, selected)

    def count(self) -> JointCounts:
        """Count the confident joint in two passes, and select nothing."""
        scanned = self.scan()
        self.check_scanned(scanned)
        sums = scanned.sums.dense()
        _, rescanned = self.rescan(class_sums_finalize(sums))
        self.check_read()
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        if joint is None or rescanned is None or rescanned.joint is None:
            raise RuntimeError("the settings of a count ask for the confident joint")
        self.check_fit(scanned, rescanned.joint)
        return joint

    # What is checked between the passes: each raises what ends the run, or warns.

    @abc.abstractmethod
    def check_scanned(self, totals: ScanTotals) -> None:
        """Check the rows of the first pass."""

    @abc.abstractmethod
    def check_fit(self, totals: ScanTotals, confident: ConfidentCounts) -> str:
        """Return a warning if labels and predictions do not seem to belong together, or ""."""

    @abc.abstractmethod
    def check_margins(self, prune: PruneCounts) -> None:
        """Check that the rows of largest margin fit in memory."""

    @abc.abstractmethod
    def check_read(self) -> None:
        """Check the inputs after the last read."""

    def scan(self) -> ScanTotals:
        """Summarize all rows, and return what they add up to."""
        kept = self.kept
        work = partial(
            scan.scan,
            settings=self.rule.settings,
            records=kept.records,
            checks=self._accepted,
            in_memory=kept.in_memory,
        )
        if self._n_forks:
            with self._progress("scan", description="read") as bar:
                advance = (lambda _: None) if bar is None else bar.advance
                return kept.take(map_in_forks(self.inputs, work, self._n_forks, advance=advance), combine_totals)
        return self._read("scan", "read", work, combine_totals, lambda columns: columns, kept.records, kept.finished)

    def rescan(self, thresholds: Float64s) -> tuple[RowSummaries, RescanTotals | None]:
        """Return the table, and what a second pass adds up over `pred_probs`, where one is needed."""
        rule, kept, settings = self.rule, self.kept, self.rule.settings
        records = kept.records_of("rescan", thresholds) if settings.rescans else None
        # The columns of a second pass are read back only if they are needed.
        needed = records if rule.needs_off_diagonal or settings.scores_need_rescan else None
        reader = SummaryReader(settings, thresholds, kept.records, needed, self.inputs.no_label)
        if not settings.rescans:
            return self._table(reader), None
        keeps = rule.needs_off_diagonal if kept.in_memory else settings.counts_joint  # a record needs a column
        work = partial(scan.rescan, reader=replace(reader, rescan_records=records), keeps_off_diagonal=keeps)
        nothing = [None] * self.inputs.grid.n_partitions

        def columns_of(columns: list[Column]) -> list[Column]:
            return [columns[0], nothing, columns[2], kept.chunks if kept.in_memory else nothing]

        finished = [] if records is None else records.present("rescan")
        totals = self._read("rescan", "read again", work, combine_rescans, columns_of, records, finished)
        if kept.in_memory and not self.executor.is_cluster:  # each chunk's counts are added up
            kept.chunks = [replace(chunk, rescan=None) for chunk in kept.chunks]
        self.n_rescanned += totals.n_read
        self.n_reads += 1
        return self._table(reader), totals

    def _read(
        self,
        name: str,
        description: str,
        work: Callable[..., Any],
        combine: Callable[..., _T],
        columns_of: Callable[[list[Column]], list[Column]],
        records: Records | None,
        finished: Collection[int],
    ) -> _T:
        """Run a pass whose results are kept.

        A user's Dask array gives no blocks for records that an earlier run has committed. Where these turn out to be
        damaged, the pass begins again with their blocks.
        """
        try:
            with self._progress(name, description=description) as bar:
                columns = columns_of(self._columns(finished))
                return self.kept.run(name, self.inputs.work(work), combine, columns, bar)
        except DamagedRecordError:
            if records is None or self.inputs.is_stored or not finished:
                raise
        numbers, rows = range(self.inputs.grid.n_partitions), self.inputs.grid.partition_rows
        is_whole = partial(records.is_committed, kind="summaries" if name == "scan" else name)
        whole = list(itertools.compress(numbers, self.executor.map("verify", is_whole, [numbers, rows])))
        with self._progress(name, description=description) as bar:
            return self.kept.run(name, self.inputs.work(work), combine, columns_of(self._columns(whole)), bar)

    def _columns(self, finished: Collection[int] = ()) -> list[Column]:
        """Return the arguments of tasks that read: numbers, labels and pred_probs of the partitions.

        Dask would have to compute the blocks of finished partitions, so these are left out of a user's Dask array,
        which is not even kept if all are finished. Arrays in memory are sent to the workers once.
        """
        inputs, numbers = self.inputs, range(self.inputs.grid.n_partitions)
        if not inputs.is_stored and len(finished) == len(numbers):
            return [numbers, [None] * len(numbers), [None] * len(numbers)]
        if self._all_columns is None:
            if self.rule.n_reads > 1:
                inputs = kept_if_it_fits(inputs, self.executor, self.rule.n_reads)
            self._all_columns = inputs.columns(self.executor)
        if inputs.is_stored or not finished:
            return self._all_columns
        return [numbers, *(without_blocks(column, finished) for column in self._all_columns[1:])]

    def first_table(self) -> RowSummaries:
        """Return the table of the first pass, without scores that need the thresholds."""
        return self._table(SummaryReader(Settings(), np.empty(0), self.kept.records, no_label=self.inputs.no_label))

    def _table(self, reader: SummaryReader) -> RowSummaries:
        inputs, in_memory = self.inputs, self.kept.in_memory
        chunks, rows = self.kept.chunks, inputs.grid.partition_rows
        if not in_memory:
            chunks = list[Any](
                spans(inputs.grid, inputs.need(self.rule.settings, self.rule).row, self.executor.all_threads)
            )
            rows = [span.stop - span.start for span in chunks]
        margins = partial(self._read_margins, reader)
        return RowSummaries(
            self.executor, chunks, rows, reader, inputs.n_classes, inputs.dtype, not in_memory, self._show, margins
        )

    def _read_margins(self, reader: SummaryReader, prune: PruneCounts) -> Int64s:
        """Read a third time for the rows of largest margin of each pair, and return their row numbers.

        In rounds, in row order, each of as many partitions as all before it: what those have found tells what the next
        ones can leave out, so no round returns more rows than are wanted, however many partitions there are.
        """
        self.check_margins(prune)
        kept, executor, n_partitions = self.kept, self.executor, self.inputs.grid.n_partitions
        records = kept.records_of("margins", reader.thresholds)
        found, n_done = (Candidates.none(), 0) if records is None else scan.stored_candidates(records)
        numbers, _, pred_probs = self._columns(range(n_done))
        nothing = [None] * n_partitions
        columns = [numbers, nothing, pred_probs, kept.chunks if kept.in_memory else nothing]
        work = self.inputs.work(partial(scan.pair_candidates, reader=reader))
        reached = self._margins_to_reach(reader, prune)
        with self._progress("margins", description="read a third time") as bar:
            for stop in rounds(n_done, n_partitions, executor.all_threads):
                search = MarginSearch(prune, np.maximum(margins_to_exceed(found, prune.by_pair), reached))
                some = some_chunks(columns, n_done, stop)

                def find(search: MarginSearch = search, some: list[Column] = some, n: int = stop - n_done) -> list[Any]:
                    # With many pairs `search` has some megabytes, so it is sent to the workers once.
                    [shared] = executor.scatter([search])
                    return executor.map("margins", work, [*some, [shared] * n], bar)

                found, n_done = largest([found, *executor.unless_lost(find)], prune.by_pair), stop
                if records is not None:
                    scan.store_candidates(records, found, n_done)
        self.n_rescanned += found.n_read
        self.n_reads += 1
        rows: Int64s = np.unique(found.rows)
        return rows

    def _margins_to_reach(self, reader: SummaryReader, prune: PruneCounts) -> Float64s:
        """Return ``(P,)`` margins that all rows to select exceed, by the summaries, where these are in this process.

        Few rows are then compared in the third pass: it takes about half of the time.
        """
        if not self.kept.in_memory or self.executor.is_cluster:
            return np.full(len(prune.by_pair), -np.inf)
        shown = self._table(reader).reduce(
            "predicted-margins",
            predicted_candidates,
            lambda parts: largest(list(parts), prune.by_pair),
            prune=prune,
        )
        return margins_to_reach(shown, prune.by_pair)


def rounds(n_done: int, n_partitions: int, n_threads: int) -> Iterator[int]:
    """Yield up to which partition each round of the third pass goes, from `n_done` on."""
    while n_done < n_partitions:
        most = max(n_threads, n_partitions // _ROUNDS)
        n_done = min(n_partitions, n_done + max(1, min(n_done, most)))
        yield n_done


# Forked processes that read arrays in memory and memmaps, on Linux. The children use only NumPy and the shared arrays,
# so a fork is safe whatever threads the parent has. The names of the shared arrays are those of cleanlab's batched
# module, and `labelsieve.label_issues_batched` shows them too.
adj_confident_thresholds_shared: Float64s | None = None
labels_shared: npt.NDArray[Any] | None = None
pred_probs_shared: npt.NDArray[Any] | None = None

SHARED_NAMES: Final = ("adj_confident_thresholds_shared", "labels_shared", "pred_probs_shared")

# Only one pool at a time can use the shared arrays.
_lock = threading.Lock()


def _replace_lock() -> None:
    """Replace the lock in a process that other code forks while a pool runs here."""
    global _lock  # noqa: PLW0603  # no thread of the child releases the inherited one
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


def split_arr(arr: npt.NDArray[Any], chunksize: int) -> list[npt.NDArray[Any]]:
    """Split an array along its first axis into pieces of `chunksize` rows; the last piece may be shorter.

    Parameters
    ----------
    arr : (N, ...) array
        The array.
    chunksize : int
        Number of rows of a piece, at least 1.

    Returns
    -------
    list of array
        The pieces in order, as views.

    Raises
    ------
    InvalidInputError
        If `chunksize` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> split_arr(np.arange(5), 2)
    [array([0, 1]), array([2, 3]), array([4])]
    """
    check_whole_number("chunksize", chunksize, 1)
    arr = np.asarray(arr)
    return np.split(arr, np.arange(chunksize, arr.shape[0], chunksize), axis=0)


def can_fork(inputs: Inputs, n_jobs: int, *, is_cluster: bool) -> bool:
    """Return whether to fork `n_jobs` processes for `inputs`; warn if they are requested but cannot be used."""
    if n_jobs == 1:
        return False
    reason = _reason_not_to_fork(inputs, is_cluster=is_cluster)
    if reason:
        warn(f"n_jobs={n_jobs} is ignored: {reason}")
    return not reason


def _reason_not_to_fork(inputs: Inputs, *, is_cluster: bool) -> str:
    if isinstance(inputs.opened_labels, WrappedSource):
        return "labels that are names in a file are mapped by Dask's threads"
    if not inputs.forkable:
        return "Zarr, HDF5 and Dask inputs, ensembles and folds are read by Dask's threads"
    if multiprocessing.current_process().daemon:
        return "this is a worker process, which may not have children"
    return "the Dask client does the work" if is_cluster else ""


def map_in_forks(
    inputs: Inputs,
    function: Callable[..., Any],
    n_jobs: int,
    shared: Mapping[str, Float64s | None] | None = None,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Any]:
    """Return ``function(partition, **shared)`` for each partition, in row order, computed by forked processes.

    Parameters
    ----------
    inputs : Inputs
        Arrays in memory or files; the children read them as the shared arrays.
    function : callable
        Called with a `Partition`; picklable.
    n_jobs : int
        Number of processes, at most one per partition.
    shared : mapping, optional
        ``adj_thresholds``, ``(K,)`` float64 or None, which the children read as a shared array too.
    advance : callable
        Called with the number of rows of each piece that is done.

    Raises
    ------
    ForkedWorkerError
        If a process is killed. The message names the process and its rows.
    """
    shared = shared or {}
    n_partitions = inputs.grid.n_partitions
    pieces = split_arr(np.arange(n_partitions), -(-n_partitions // (4 * n_jobs)))
    bounds = [(inputs.grid.bounds(piece[0])[0], inputs.grid.bounds(piece[-1])[1]) for piece in pieces]
    sources = inputs.labels_source, inputs.pred_probs_source
    work = partial(_run_piece, inputs.work(function), tuple(shared), pieces, sources)
    found: list[list[Any]] = [[] for _ in pieces]

    def name(number: int) -> str:
        start, stop = bounds[number]
        return f"rows {start:,}..{stop - 1:,}"

    with (
        _lock,
        _shared(inputs, **shared),
        closing(forked_map(work, len(pieces), min(n_jobs, len(pieces)), name)) as results,
    ):
        for number, results_of_piece in results:
            found[number] = results_of_piece
            start, stop = bounds[number]
            advance(stop - start)
    return [result for results_of_piece in found for result in results_of_piece]


@contextmanager
def _shared(inputs: Inputs, adj_thresholds: Float64s | None = None) -> Iterator[None]:
    """Set the shared arrays, which the children inherit, while the block runs."""
    global adj_confident_thresholds_shared, labels_shared, pred_probs_shared  # noqa: PLW0603  # children inherit these
    try:
        labels_shared = _array_to_share(inputs.labels_source)
        pred_probs_shared = _array_to_share(inputs.pred_probs_source)
        adj_confident_thresholds_shared = adj_thresholds
        yield
    finally:
        adj_confident_thresholds_shared = labels_shared = pred_probs_shared = None


def _array_to_share(source: Source | None) -> npt.NDArray[Any]:
    if isinstance(source, WrappedSource):
        return _array_to_share(source.source)
    if isinstance(source, NpySource):
        return source.as_memmap()
    if isinstance(source, ArraySource):
        return source.array
    raise RuntimeError("only arrays in memory and files are shared with forked processes")


def _over_shared(source: Source | None, shared: npt.NDArray[Any]) -> Source:
    """Return the shared array as a source, with what `source` computes from its stored rows."""
    if isinstance(source, WrappedSource):
        return source.over(_over_shared(source.source, shared))
    return ArraySource(shared)


def _run_piece(
    work: PartitionWork,
    names: tuple[str, ...],
    pieces: Sequence[npt.NDArray[np.intp]],
    sources: Sequence[Source | None],
    number: int,
) -> list[Any]:
    """Run the work on the partitions of a piece, in a child, on the shared arrays."""
    if labels_shared is None or pred_probs_shared is None:
        raise RuntimeError("the shared arrays are set only while a pool runs")
    both = zip(sources, (labels_shared, pred_probs_shared), strict=True)
    labels, pred_probs = (RowRange(_over_shared(source, shared)) for source, shared in both)
    work = replace(work, work=partial(work.work, **dict.fromkeys(names, adj_confident_thresholds_shared)))
    return [work(index, labels, pred_probs) for index in pieces[number].tolist()]


def resolve_n_jobs(n_jobs: int | None, *, verbose: bool = True) -> int:
    """Return the number of processes that `n_jobs` stands for.

    Parameters
    ----------
    n_jobs : int or None
        None means the number of physical cores, or of logical cores if psutil does not know the physical ones.
    verbose : bool
        Whether to print a message if the number is not what the user would expect.

    Raises
    ------
    InvalidInputError
        If `n_jobs` is not None or a whole number of at least 1.
    """
    if n_jobs is not None:
        n_jobs = check_whole_number("n_jobs", n_jobs, 1, otherwise="None or ")
    if platform.system() != "Linux":
        if verbose and n_jobs != 1:
            print("n_jobs is 1: processes are forked on Linux only")
        return 1
    if n_jobs is not None:
        return n_jobs
    physical = psutil.cpu_count(logical=False)
    if physical:
        return int(physical)
    logical = multiprocessing.cpu_count()
    if verbose:
        print(f"n_jobs is {logical}, the logical cores: the number of physical ones is unknown")
    return logical
