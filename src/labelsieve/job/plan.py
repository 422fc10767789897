"""The plan of a run: tasks, bytes and memory. No data is read."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarize import STRIP_BYTES
from labelsieve.errors import MemoryLimitError, UnwritableError, size, warn
from labelsieve.execution.executor import INTERPRETER_BYTES, Executor
from labelsieve.execution.graph import n_graph_tasks
from labelsieve.job import grid as memory
from labelsieve.job.grid import Need, expected_issues, spans
from labelsieve.job.inputs import Inputs, kept_bytes
from labelsieve.job.passes import rounds
from labelsieve.results.store import ISSUE_BYTES
from labelsieve.sources.open import where_is
from labelsieve.sources.source import Source
from labelsieve.storage.folder import Folder, LocalFolder, shared_probe

if TYPE_CHECKING:
    from labelsieve.execution.cluster import ClusterExecutor

# Seconds until a worker is taken to hang.
_PATIENCE_S: Final = 30.0
# Seconds from which a clock is wrong, and from which S3 refuses its requests.
_CLOCK_S: Final = 1.0
_S3_CLOCK_S: Final = 900.0
# Bytes read at a time from files without chunks.
_PIECE_BYTES: Final = 4_000_000


def check_cluster(executor: Any, inputs: Inputs, folders: Mapping[str, Folder | None]) -> Iterator[str]:
    """Yield what would make a run fail: other versions, inputs and folders that workers cannot use, wrong clocks.

    Parameters
    ----------
    executor : ClusterExecutor
        Connected to the workers.
    inputs : Inputs
        Each worker reads their first batch.
    folders : mapping
        The workdir and the output, or None. Each worker writes a small file there, which it removes again.

    Warns
    -----
    LabelsieveWarning
        If a clock is wrong where an object store looks at it.
    """
    excluded = {name.removeprefix("worker ") for one in executor.misfits for name in one.processes}
    yield from (one.sentence for one in executor.misfits)
    workers = [worker for worker in executor.ask(time.time) if worker not in excluded]
    if not workers:
        return
    places = [where_is(inputs.opened_labels), where_is(inputs.opened_pred_probs)]
    places += [folder.where for folder in folders.values() if folder]
    if any("://" in place for place in places):
        on_s3 = any(re.search(r"\bs3a?://", place) for place in places)
        yield from _check_clocks(executor, workers, on_s3=on_s3)
    for name, source in (("labels", inputs.labels_source), ("pred_probs", inputs.pred_probs_source)):
        if source is not None and not source.facts.in_memory:
            read = partial(_read, source, *inputs.grid.ranges(0)[0])
            yield from _failures(executor, workers, read, f"cannot read {name} ({source.where})")
    for name, folder in folders.items():
        if folder is None:
            continue
        # Nothing may be left behind, so the probe of a folder that does not exist is in its parent.
        probed: Folder = folder.folder(".probe")
        if isinstance(folder, LocalFolder):
            parents = [folder.path, *folder.path.parents][name == "output" :]
            probed = LocalFolder(next(path for path in parents if path.is_dir()))
        try:
            with shared_probe(probed) as probe:
                what = f"does not see what the client writes to {probed.where} (the {name}), or cannot write there"
                yield from _failures(executor, workers, probe, what)
        except UnwritableError as error:
            yield f"the client cannot write the {name} {folder.where}: {error}"
        if not isinstance(probed, LocalFolder):
            probed.delete()


def _check_clocks(executor: ClusterExecutor, workers: list[str], *, on_s3: bool) -> Iterator[str]:
    """Compare clocks with the client's; an answer is from any moment of the round trip."""
    asked = time.time()
    clocks = executor.ask(time.time, workers=workers)
    answered = time.time()
    for worker, clock in clocks.items():
        off = 0.0 if isinstance(clock, Exception) else max(asked - clock, clock - answered)
        if off > _CLOCK_S:
            side = "ahead of" if clock > answered else "behind"
            text = f"worker {worker}: its clock is {off:.0f} s {side} the client's. Let NTP set both clocks"
            if on_s3 and off > _S3_CLOCK_S:
                yield f"{text}: S3 refuses requests of a clock that is 15 minutes off"
            else:
                warn(text)


def _failures(executor: ClusterExecutor, workers: list[str], check: Callable[[], None], what: str) -> Iterator[str]:
    """Yield what keeps workers from passing a check, once for all workers with the same failure."""
    from labelsieve.execution.cluster import named

    failed: dict[str, list[str]] = {}
    for worker, found in executor.ask(_failure, check, _PATIENCE_S, workers=workers).items():
        why = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
        if why:
            failed.setdefault(" ".join(why.split()), []).append(worker)
    for why, names in failed.items():
        yield f"worker {named(names)}: {what}: {why}"


async def _failure(check: Callable[[], None], patience: float) -> str:
    """Return what `check` raises, as text: not every error can be pickled. A thread leaves the worker responsive."""
    try:
        await asyncio.wait_for(asyncio.to_thread(check), patience)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        return f"{type(error).__name__}: {error or f'no answer within {patience:g} seconds'}"
    return ""


def _read(source: Source, start: int, stop: int) -> None:
    """Read rows ``[start, stop)`` in pieces."""
    source.reachable()
    step = source.facts.row_chunk or max(1, _PIECE_BYTES // source.row_bytes)
    rows: Any
    with source.open_raw(start, stop) as rows:
        for first in range(start, stop, step):
            rows.read(first, min(stop, first + step))


# Rounds of class histograms, after which so few rows are inside the cuts that their scores are returned.
_CLASS_ROUNDS: Final = 3
# Sizes in messages have three digits, and a size that would fit must not be rounded down.
_ROUNDING: Final = 1.006
# What is decoded together is named in messages if it takes as much as this many strips.
_LARGE_DECODING: Final = 8


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    dtype : str
        Dtype of `pred_probs`.
    n_batches, batch_rows, n_partitions : int
        Number of batches, rows of a batch, and number of partitions.
    n_tasks : int
        Tasks of the whole job, including ranking and writing; 0 if a single partition needs no graph. If tasks write
        the issues, merging takes one more task for each sorted run, and one for each stored chunk of issues, of 65,536
        rows or more (`memory.run_rows`).
    n_slabs : int
        Number of submissions of each map.
    network_bytes : int
        Bytes that tasks send to each other and to the client: class sums and histograms, without the issues.
    n_reads : int
        Number of reads of `pred_probs`.
    bytes_read : int
        Decoded bytes of `pred_probs` in all reads, including stored chunks that are decoded more than once.
    amplification : float
        Decoded bytes per read, divided by the bytes of `pred_probs`.
    n_processes, n_threads : int
        Number of processes that read, and of threads in each.
    stored : bool
        Whether row summaries are only in a workdir, and not in memory.
    process_bytes, client_bytes : int
        Peak memory of each worker, and of the client. Without a cluster both are the same: the peak of this process,
        or of all forked processes together.
    limit : int
        Bytes that each process that reads may take.
    limit_name : str
        Where that limit comes from.
    summary_bytes, score_bytes, mask_bytes : int
        Sizes of the summaries, scores and mask of all rows.
    issue_bytes : int
        Size of an issue with all columns.
    known_rows, known_bytes : int
        Rows whose summaries are in the workdir and whose labels are not changed, and their decoded bytes in
        `pred_probs`: so much less than `bytes_read` is read, except a few rows as a check.
    unconfirmed_rows, unconfirmed_bytes : int
        The same for further rows, which are known too if their labels have kept their values. The run checks that: the
        labels were written again, or nothing identifies them.
    problems : tuple of str
        What would make the run fail on a running cluster.
    """

    n_rows: int
    n_classes: int
    dtype: str
    n_batches: int
    batch_rows: int
    n_partitions: int
    n_tasks: int
    n_slabs: int
    network_bytes: int
    n_reads: int
    bytes_read: int
    amplification: float
    n_processes: int
    n_threads: int
    stored: bool
    process_bytes: int
    client_bytes: int
    limit: int
    limit_name: str
    summary_bytes: int
    score_bytes: int
    mask_bytes: int
    issue_bytes: int
    known_rows: int = 0
    known_bytes: int = 0
    unconfirmed_rows: int = 0
    unconfirmed_bytes: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """How a run fits in memory.

    Parameters
    ----------
    need : Need
        The terms of the memory formula.
    n_processes, n_threads, stored, process_bytes
        As in `Plan`.
    """

    need: Need
    n_processes: int
    n_threads: int
    stored: bool
    process_bytes: int


def fit_in_memory(
    inputs: Inputs, rule: Filter, executor: Executor, *, workdir: bool, output: bool, n_jobs: int = 1
) -> Fit:
    """Decide where row summaries are kept, so that the run fits in memory.

    Parameters
    ----------
    inputs : Inputs
        The opened inputs.
    rule : Filter
        The filter, with its settings.
    executor : Executor
        Runs the tasks, within its memory limit.
    workdir, output : bool
        Whether there is a workdir, and whether the tasks write the result.
    n_jobs : int
        Number of processes to fork, if the inputs can be read by them.

    Raises
    ------
    MemoryLimitError
        If the run cannot fit in memory; the message says what would fit.
    """
    need, grid = inputs.need(rule.settings, rule), inputs.grid
    if rule.n_reads > 1:
        kept = kept_bytes(inputs, executor) // executor.n_processes
        need = replace(need, held_bytes=need.held_bytes + kept)
    n_forks = min(n_jobs, grid.n_partitions) if n_jobs > 1 and inputs.forkable and not executor.is_cluster else 0
    n_forks = n_forks if n_forks > 1 else 0
    # Tasks that write stored chunks of a result, and passes after the first with a workdir, use records. On a cluster
    # records need fewer tasks; elsewhere summaries that fit stay in memory and are not read back.
    stored = output or (workdir and (executor.is_cluster or rule.n_reads > 1))
    process_bytes = _process_bytes(need, executor, n_forks, stored=stored)
    issues = 0 if executor.is_cluster else expected_issues(grid.n_rows) * ISSUE_BYTES
    if not stored and process_bytes + issues > executor.limit:
        on_disk = _process_bytes(need, executor, n_forks, stored=True)
        if on_disk < process_bytes + issues:
            stored, process_bytes = True, on_disk
    if process_bytes > executor.limit:
        _refuse(need, executor, n_forks, _decoding_note(inputs), stored=stored)
    n_processes, n_threads = (n_forks, 1) if n_forks else (executor.n_processes, executor.n_threads)
    return Fit(need, n_processes, n_threads, stored, process_bytes)


def make_plan(fit: Fit, inputs: Inputs, rule: Filter, executor: Executor) -> Plan:
    """Return all that `labelsieve plan` shows of a run that fits in memory."""
    need, grid, n_reads = fit.need, inputs.grid, rule.n_reads
    # The tasks of each map over the row summaries.
    n_spans = len(spans(grid, need.row, executor.all_threads)) if fit.stored else executor.n_groups(grid.n_partitions)
    amplification = _decoded_rows(inputs) / grid.n_rows
    merging = memory.merge_bytes(grid.n_rows) if fit.stored else 0
    client = INTERPRETER_BYTES + need.partials + need.held_bytes + merging
    return Plan(
        n_rows=grid.n_rows,
        n_classes=inputs.n_classes,
        dtype=str(inputs.dtype),
        n_batches=grid.n_batches,
        batch_rows=grid.largest_batch,
        n_partitions=grid.n_partitions,
        n_tasks=_n_tasks(inputs, rule, executor, n_spans, stored=fit.stored),
        n_slabs=-(-grid.n_partitions // executor.slab_size),
        network_bytes=_network_bytes(inputs, rule, executor, n_spans),
        n_reads=n_reads,
        bytes_read=round(inputs.n_bytes * amplification) * n_reads,
        amplification=amplification,
        n_processes=fit.n_processes,
        n_threads=fit.n_threads,
        stored=fit.stored,
        process_bytes=fit.process_bytes,
        client_bytes=client if executor.is_cluster else fit.process_bytes,
        limit=executor.limit,
        limit_name=executor.limit_name,
        summary_bytes=need.n_rows * need.row,
        score_bytes=need.n_rows * need.score,
        mask_bytes=need.n_rows,
        issue_bytes=8 + need.score + need.row - (0 if rule.settings.plain_self_confidence else 8),
    )


def _process_bytes(need: Need, executor: Executor, n_forks: int, n_threads: int | None = None, *, stored: bool) -> int:
    """Return the peak memory of a process, or of all forked processes together, each of which counts as a thread."""
    merging = memory.merge_bytes(need.n_rows) if stored and not executor.is_cluster else 0

    takes = partial(need.in_process, stored=stored, n_processes=executor.n_processes)
    if not n_forks:
        return merging + takes(n_threads or executor.n_threads, base=executor.base_bytes)
    # The children send their summaries in pieces of a few partitions.
    handed_over = 0 if stored else need.summaries() // 4
    n_forks = n_threads or n_forks
    reading = takes(n_forks, base=executor.base_bytes + n_forks * memory.FORK_BYTES) + handed_over
    # Only the first pass forks. A second pass, and work on stored summaries, use all threads.
    threads = executor.n_threads if stored or need.n_reads > 1 else 1
    return merging + max(reading, takes(threads, base=executor.base_bytes))


def _decoding_note(inputs: Inputs) -> str:
    """Return what has to be decoded together, if that is most of the memory that a thread takes; "" otherwise."""
    source = inputs.pred_probs_source
    if source is None or source.facts.decoding_bytes < _LARGE_DECODING * STRIP_BYTES:
        return ""
    return f" ({source.facts.decoding_note})"


def _refuse(need: Need, executor: Executor, n_forks: int, note: str, *, stored: bool) -> None:
    """Raise an error that says what would fit; `note` says what takes the memory."""
    takes = partial(_process_bytes, need, executor, n_forks, stored=stored)
    threads, kind = (n_forks, "forked process") if n_forks else (executor.n_threads, "thread")
    plural = "es" if n_forks else "s"
    fewer = next((n for n in range(threads - 1, 0, -1) if takes(n) <= executor.limit), 0)
    who = "each worker" if executor.is_cluster else "the process"
    would = [f"a limit of {size(takes(threads) * _ROUNDING)}"]
    if fewer:
        would.append(f"{fewer} {kind}{plural if fewer > 1 else ''} ({size(takes(fewer))})")
    copies = memory.BATCH_COPIES * threads
    room = executor.limit - takes(threads) + copies * need.batch_bytes
    if need.batch_bytes and room > 0:
        would.append(f"stored chunks or batches of {size(room / copies / _ROUNDING)}")
    raise MemoryLimitError(
        f"{who} would take {size(takes(threads))} with {threads} {kind}{plural if threads > 1 else ''}, but may take "
        f"only {size(executor.limit)} ({executor.limit_name}). What would fit: {', or '.join(would)}{note}"
    )


def _decoded_rows(inputs: Inputs) -> int:
    """Return the number of rows that one read decodes, which counts rows again if partitions cut stored chunks."""
    source, grid = inputs.pred_probs_source, inputs.grid
    if source is None or source.facts.in_pieces or not source.facts.row_chunk:
        return grid.n_rows
    stops = np.cumsum(grid.partition_rows, dtype=np.int64)
    starts = stops - grid.partition_rows
    first, last = starts // source.facts.row_chunk, -(-stops // source.facts.row_chunk)
    decoded = np.minimum(last * source.facts.row_chunk, grid.n_rows) - first * source.facts.row_chunk
    return int(decoded.sum())


def _n_tasks(inputs: Inputs, rule: Filter, executor: Executor, n_spans: int, *, stored: bool) -> int:
    """Count the tasks of a job: its maps, and the trees that reduce them."""
    n_partitions, on_cluster = inputs.grid.n_partitions, executor.is_cluster
    of_dask = not inputs.is_stored  # a Dask array needs a graph
    reading = partial(n_graph_tasks, is_cluster=on_cluster or of_dask)
    mapped = partial(n_graph_tasks, n_spans, is_cluster=on_cluster)
    # What is kept on workers is added up by a map of its own.
    each_pass = (
        reading(n_partitions, reduced=True) if stored else reading(n_partitions) + on_cluster * mapped(reduced=True)
    )
    total = (1 + rule.settings.rescans) * each_pass
    if rule.reads_pairs:
        stops = [0, *rounds(0, n_partitions, executor.all_threads)]
        total += sum(reading(stop - start) for start, stop in itertools.pairwise(stops))
        total += mapped(reduced=True) * (not stored and not on_cluster)  # margins that the summaries show
    total += rule.counts_summaries * mapped(reduced=True)
    settles = rule.cuts_classes or (rule.cuts_scores and (stored or rule.name))
    return total + (2 if settles else 1) * mapped()


def _network_bytes(inputs: Inputs, rule: Filter, executor: Executor, n_spans: int) -> int:
    """Add up the results that reductions combine: sums of the classes that occur, histograms, and confident pairs."""
    n_partitions, n_classes, n_rows = inputs.grid.n_partitions, inputs.n_classes, inputs.grid.n_rows
    read, counted = (n_graph_tasks(n, reduced=True, is_cluster=True) for n in (n_partitions, n_spans))
    total = read * 32 * min(n_classes, -(-n_rows // n_partitions))
    total += counted * (memory.HISTOGRAM_BYTES if rule.cuts_scores else 0)
    total += 0 if rule.settings.plain_self_confidence else counted * 32 * n_classes
    n_counts, rows_of = (read, n_partitions) if rule.settings.counts_joint else (counted, n_spans)
    total += n_counts * (8 * n_classes + memory.pair_bytes(-(-n_rows // rows_of), n_classes))
    if rule.cuts_classes:
        total += _CLASS_ROUNDS * counted * memory.class_histogram_bytes(n_classes)
    if rule.reads_pairs:
        # A round returns about as many candidates as are wanted, and sends all pairs to each worker.
        n_rounds = sum(1 for _ in rounds(0, n_partitions, executor.all_threads))
        sent = executor.n_processes * 2 * memory.pair_bytes(n_rows, n_classes)
        total += n_rounds * (memory.CANDIDATE_BYTES * expected_issues(n_rows) + sent)
    return total
