"""Measures the rates that a forecast needs, by reading parts of some partitions with the code of a run.

The threads of the run, or of all workers, do the same at the same time, each on rows of its own, which it reads three
or four times: the stored bytes alone, as a run would find them now (twice, since the first read leaves a local file in
the page cache); decoding them too; and summarizing them too. What a step takes beyond the one before is its own time.
Where rows are prefetched, other threads wait for the store, and the CPU time of the reading thread is compared instead.
At last the summaries are counted, selected and sorted, as at the end of a run.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import psutil

from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarizer import combine_totals
from labelsieve.confident_learning.summary_counts import issue_totals
from labelsieve.confident_learning.thresholds import class_sums_finalize
from labelsieve.errors import InvalidInputError, LabelsieveWarning
from labelsieve.execution.executor import Executor, LocalExecutor
from labelsieve.pipeline.dask_job import DaskJob
from labelsieve.pipeline.forecast import SUMMARY_ROW_S, Rates
from labelsieve.pipeline.inputs import Inputs, rows_of
from labelsieve.pipeline.row_summaries import RowSummaries
from labelsieve.sources.base import Source
from labelsieve.tasks.measuring import MeasuringWork, Timing
from labelsieve.tasks.partition import Batches, Block, RowRange
from labelsieve.tasks.summary_reader import SummaryChunk, SummaryReader

# Seconds that a measurement reads for, unless a single read takes longer.
MEASURE_S: Final = 5.0
# What is measured at the same time takes about this share of that.
_SHARE: Final = 1 / 6
# Bytes of the first read where rows are read in pieces; elsewhere it is a batch.
_FIRST_BYTES: Final = 8_000_000
# Each thread reads at least as many times as much, so that what the first read takes longer does not count for all.
_FEWEST_UNITS: Final = 3
# Row summaries of a chunk that show what the steps cost whatever the number of rows; with few more than these, what a
# row costs cannot be told.
_FEW_ROWS: Final = 256
_LEAST_ROWS: Final = 20_000
# What is measured on the same rows, one after the other.
_STEPS: Final = ("cold", "stored", "decoded", "scanned")


def measure(inputs: Inputs, rule: Filter, executor: Executor) -> tuple[Rates, int]:
    """Return the rates of reading and of each step of the work, and the decoded bytes that they were measured on.

    Parameters
    ----------
    inputs : Inputs
        What a run would read.
    rule : Filter
        The filter of the run.
    executor : Executor
        Runs the measuring tasks, one on each thread.

    Raises
    ------
    InvalidInputError
        For Dask arrays, which have no stored bytes to tell from the work that makes them.
    """
    probs = inputs.pred_probs_source
    if probs is None or inputs.labels_source is None:
        raise InvalidInputError(
            "measure reads files and arrays, not Dask arrays: give the path that they are read from"
        )
    began = time.perf_counter()
    imports_s = _import_dask(inputs, executor)
    job, prefetched = DaskJob(executor), probs.prefetch_bytes > 0
    deadline = began + imports_s + MEASURE_S
    unit = _unit(inputs, probs)
    groups: list[dict[str, Timing]] = []
    chunks: list[SummaryChunk] = []
    rows, n_pieces = unit, 0
    for number, partitions in enumerate(_groups(inputs, executor.all_threads)):
        pieces = [_piece(inputs, index, rows, is_first=number == 0) for index in partitions]
        n_kept = 1 if executor.is_cluster else len(pieces)
        found, chunks = _measure_pieces(job, inputs, rule, pieces, unit, n_kept, prefetched=prefetched)
        if number == 1:
            groups, n_pieces = [], 0
        n_pieces += len(pieces)
        groups.append(found)
        row_s = sum(timing.wall_s for timing in found.values()) / found["scanned"].n_rows
        rows = max(_FEWEST_UNITS * unit, int(MEASURE_S * _SHARE / row_s))
        rows = min(rows, int((deadline - time.perf_counter()) / row_s))
        if rows < min(_FEWEST_UNITS * unit, _largest_partition(inputs)):
            break
    rates = _rates(groups, inputs, n_pieces, prefetched=prefetched)
    summary_row_s = _summary_row_s(chunks, inputs, rule, executor)
    rates = replace(rates, summary_row_s=summary_row_s, startup_s=imports_s)
    return rates, sum(found["scanned"].n_rows for found in groups) * probs.row_bytes


def _import_dask(inputs: Inputs, executor: Executor) -> float:
    """Import what a run of several partitions needs; return the seconds that it took."""
    if "dask.array" in sys.modules or (inputs.grid.n_partitions == 1 and not executor.is_cluster):
        return 0.0
    began = time.perf_counter()
    import dask.array  # noqa: F401

    return time.perf_counter() - began


def _unit(inputs: Inputs, source: Source) -> int:
    """Return the number of rows of the smallest read that costs what a longer one does per row."""
    if source.in_pieces:
        return source.request_rows or max(1, _FIRST_BYTES // source.row_bytes)
    return inputs.grid.largest_batch


def _largest_partition(inputs: Inputs) -> int:
    start, stop = inputs.grid.bounds(0)
    return stop - start


def _groups(inputs: Inputs, n_threads: int) -> Iterator[Sequence[int]]:
    """Yield the numbers of the partitions that are read at the same time, spread over all rows.

    The first ones come twice: the first read of each thread does not count.
    """
    n_partitions = inputs.grid.n_partitions
    order = np.random.default_rng(0).permutation(n_partitions).tolist()
    yield order[:n_threads]
    for start in range(0, max(1, n_partitions - n_threads + 1), n_threads):
        yield order[start : start + n_threads]


def _piece(inputs: Inputs, index: int, rows: int, *, is_first: bool) -> Batches:
    """Return at most `rows` rows of a partition: whole batches of its beginning, or a part of one."""
    ranges = inputs.grid.ranges(index)
    start, stop = ranges[-1] if is_first else ranges[0]
    whole = [] if is_first else [batch for batch in ranges if batch[1] - start <= rows]
    return Batches(index, whole or [(start, min(start + rows, stop))])


def _measure_pieces(
    job: DaskJob,
    inputs: Inputs,
    rule: Filter,
    pieces: Sequence[Batches],
    n_first: int,
    n_kept: int,
    *,
    prefetched: bool,
) -> tuple[dict[str, Timing], list[SummaryChunk]]:
    """Return the time of each step, added up over all pieces, and the summaries of the first `n_kept` pieces."""
    columns = [
        [_rows(source, piece) for piece in pieces] for source in (inputs.labels_source, inputs.pred_probs_source)
    ]
    found: dict[str, Timing] = {}
    kept: list[SummaryChunk] = []
    for step in _STEPS:
        # No cache is known to keep remote rows; and what is stored as it is needs no decoding.
        if (step == "stored" and prefetched) or (step == "decoded" and not _is_decoded(inputs)):
            continue
        kind = "stored" if step == "cold" else step
        work = MeasuringWork(kind, inputs.n_classes, inputs.dtype, rule.settings, n_first, ignored=inputs.ignored)
        works = [replace(work, keeps=step == "scanned" and number < n_kept) for number in range(len(pieces))]
        results = job.map("measure", _call, [works, pieces, *columns])
        found[step] = sum((timing for timing, _ in results), Timing())
        kept += [summaries for _, summaries in results if summaries is not None]
    return found, kept


def _call(work: MeasuringWork, *blocks: Any) -> Any:
    return work(*blocks)


def _rows(source: Source | None, piece: Batches) -> RowRange | Block:
    """Return the rows of a piece, lazy unless they are in memory."""
    start, stop = piece.ranges[0][0], piece.ranges[-1][1]
    if source is None:
        raise RuntimeError("Dask arrays are refused before")
    return rows_of(source, start, stop)


def _rates(groups: Sequence[dict[str, Timing]], inputs: Inputs, n_pieces: int, *, prefetched: bool) -> Rates:
    """Return the rates, from the time of each step on each group of pieces."""
    times = {step: sum((found[step] for found in groups), Timing()) for step in groups[0]}
    cold, scanned = times["cold"], times["scanned"]
    warm = times.get("stored", cold)
    decoded = times.get("decoded", warm)
    n_rows, row_bytes = scanned.n_rows, inputs.read_row_bytes
    if prefetched:
        reading_s, decoding_s = cold.row_wall_s, min(decoded.row_cpu_s, scanned.row_cpu_s)
        kernels_s = scanned.row_cpu_s - decoding_s
    else:
        # A scan is what a run does, so that its time is divided, and is not the sum of three inexact ones.
        until_decoded_s = min(decoded.row_wall_s, scanned.row_wall_s)
        reading_s = min(warm.row_wall_s, until_decoded_s)
        decoding_s, kernels_s = until_decoded_s - reading_s, scanned.row_wall_s - until_decoded_s
    # A thread that is held up in one of the two reads must not pass for a cold cache.
    cold_s = statistics.median(
        found["cold"].row_wall_s - found.get("stored", found["cold"]).row_wall_s for found in groups
    )
    sent = (cold.stored_bytes + cold.label_bytes) / n_rows
    warm_rate, cold_rate = (sent / max(seconds, 1e-12) for seconds in (reading_s, reading_s + max(0.0, cold_s)))
    # A later pass finds the rows in the page cache if there is room for them.
    stored_share = cold.stored_bytes / (n_rows * row_bytes)
    stays = inputs.n_bytes * stored_share < psutil.virtual_memory().available
    return Rates(
        thread_rate=cold_rate,
        warm_thread_rate=warm_rate if stays else cold_rate,
        stored_share=stored_share,
        stored_label_share=cold.label_bytes / (n_rows * inputs.opened_labels.dtype.itemsize),
        decoding_byte_s=decoding_s / row_bytes,
        kernels_row_s=kernels_s,
        partition_s=scanned.extra_s / n_pieces,
    )


def _is_decoded(inputs: Inputs) -> bool:
    return any(source is not None and source.is_encoded for source in (inputs.pred_probs_source, inputs.labels_source))


def _summary_row_s(chunks: Sequence[SummaryChunk], inputs: Inputs, rule: Filter, executor: Executor) -> float:
    """Return the seconds of a thread to count, select and sort the summary of a row."""
    if rule.n_reads > 1:  # the later passes add columns
        return SUMMARY_ROW_S
    job = DaskJob(LocalExecutor() if executor.is_cluster else executor)
    few = [replace(chunk, summary=chunk.summary[:_FEW_ROWS]) for chunk in chunks]
    n_rows, n_few = (sum(chunk.n_rows for chunk in some) for some in (chunks, few))
    if n_rows < _LEAST_ROWS:
        return SUMMARY_ROW_S
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelsieveWarning)  # a run warns of all rows
        fixed_s, taken_s = (min(_find(some, inputs, rule, job) for _ in range(2)) for some in (few, chunks))
    n_threads = min(len(chunks), 1 if executor.is_cluster else executor.n_threads)
    return max(0.0, taken_s - fixed_s) * n_threads / (n_rows - n_few)


def _find(chunks: Iterable[SummaryChunk], inputs: Inputs, rule: Filter, job: DaskJob) -> float:
    """Find the issues among some summaries, as a run does; return the seconds."""
    chunks = list(chunks)
    began = time.perf_counter()
    scanned = combine_totals(chunk.totals for chunk in chunks)
    sums = scanned.sums.dense()
    thresholds = class_sums_finalize(sums)
    reader = SummaryReader(rule.settings, thresholds, no_label=inputs.no_label)
    rows = [chunk.n_rows for chunk in chunks]
    table = RowSummaries(job, chunks, rows, reader, inputs.n_classes, inputs.dtype)
    counts = table.count(rule, thresholds)
    totals = issue_totals(counts, None, sums.counts, rule.settings)
    selected = rule.select(table, totals, inputs.dtype, exactly=False)
    table.sorted_issues(selected, rule)
    table.scores()
    return time.perf_counter() - began
