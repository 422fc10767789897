"""Checks by a few rows that the input of a resumed run is still the one that its records were made from.

The facts in the workdir do not show every change: a file may be rewritten with its times restored, and a Dask array may
keep its name although it computes other data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from labelsieve.errors import WorkdirError
from labelsieve.execution.executor import Executor
from labelsieve.pipeline.dask_job import Column, DaskJob
from labelsieve.pipeline.inputs import Inputs, rows_of
from labelsieve.settings import Settings
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import Opened
from labelsieve.storage.record_files import DamagedRecordError
from labelsieve.tasks.checkpoint import Records
from labelsieve.tasks.partition import Batches, Partition
from labelsieve.tasks.scan import has_same_labels, read_rows

MOST_PARTITIONS: Final = 8
MOST_BYTES: Final = 1_000_000
# The last bits of the logarithm in entropy depend on the processor and the build of NumPy, and a run may resume
# elsewhere. The score divides the logarithm of 1 + a ratio by a ratio of at least 1e-6: 1e-16 becomes at most 1e-10.
_ENTROPY_TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class Difference:
    """How the summaries of some rows differ from the record.

    Parameters
    ----------
    start, stop : int
        The rows ``[start, stop)`` that were read again.
    n_rows : int
        Number of rows that differ.
    columns : tuple of str
        Names of the columns that differ.
    """

    start: int
    stop: int
    n_rows: int
    columns: tuple[str, ...]


def check_finished(
    inputs: Inputs, settings: Settings, executor: Executor, records: Records, finished: Sequence[int]
) -> None:
    """Read a few rows of finished partitions again, and compare their summaries with the records, bit for bit.

    Up to 8 partitions are drawn at random. At most 1 MB is read from each, within one stored chunk; of a user's Dask
    array one block of each is computed. Entropy scores may differ by 1e-9: their last bits depend on the machine.

    Parameters
    ----------
    inputs : Inputs
        The inputs.
    settings : Settings
        How to score rows.
    executor : Executor
        Runs the tasks.
    records : Records
        The records of the run.
    finished : sequence of int
        The committed partitions. Damaged records are skipped; the run repairs them later.

    Raises
    ------
    WorkdirError
        If the summaries differ.
    """
    rng = np.random.default_rng()
    drawn = rng.permutation(np.asarray(finished, np.int64))[:MOST_PARTITIONS].tolist()
    spots = [(index, *_choose_rows(inputs, index, rng)) for index in drawn]
    spots = [spot for spot in spots if spot[1] < spot[2]]
    if not spots:
        return
    batches = [Batches(index, ((start, stop),)) for index, start, stop in spots]
    rows = [(start, stop) for _, start, stop in spots]
    bounds = [inputs.grid.bounds(index) for index, _, _ in spots]
    columns = [batches, _rows(inputs.opened_labels, rows), _rows(inputs.opened_pred_probs, rows), bounds]
    stored = inputs.labels_source and inputs.pred_probs_source
    otherwise = "" if stored else " (or its Dask array computes other values each time)"
    work = inputs.work(partial(compare, settings=settings, records=records))
    for found in DaskJob(executor).map("check", work, columns):
        if found is not None:
            raise WorkdirError(
                f"{_changed_inputs(found.columns)} changed after the workdir {records.folder.where} was made, although "
                f"name, size and times are the same{otherwise}: of rows {found.start:,}..{found.stop - 1:,}, "
                f"which were read again as a check, {found.n_rows:,} differ from the workdir. "
                "Start over with fresh=True (--fresh)"
            )


def compare_labels(inputs: Inputs, executor: Executor, records: Records, numbers: Sequence[int]) -> list[int]:
    """Return those of the partitions `numbers` whose record was made with the labels that its rows have now.

    No rows of `pred_probs` are read.
    """
    bounds = [inputs.grid.bounds(number) for number in numbers]
    batches = [Batches(number, inputs.grid.ranges(number)) for number in numbers]
    columns = [batches, _rows(inputs.opened_labels, bounds), [None] * len(bounds)]
    work = inputs.work(partial(has_same_labels, records=records))
    return list(itertools.compress(numbers, DaskJob(executor).map("labels", work, columns)))


def _choose_rows(inputs: Inputs, index: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose the rows of a partition to read again."""
    source, (first, last) = inputs.pred_probs_source, inputs.grid.bounds(index)
    if source is None:  # a block is always computed whole, so compare all of it
        ranges = [(start, stop) for start, stop in inputs.grid.ranges(index) if start < stop]
        return ranges[rng.integers(len(ranges))] if ranges else (first, first)
    row, n_rows = int(rng.integers(first, last)), max(1, MOST_BYTES // source.row_bytes)
    if source.row_chunk:  # stored chunks are read whole, so stay in one
        chunk = row // source.row_chunk
        first, last = max(first, chunk * source.row_chunk), min(last, (chunk + 1) * source.row_chunk)
    start = min(row, max(first, last - n_rows))
    return start, min(start + n_rows, last)


def _rows(opened: Opened, bounds: Sequence[tuple[int, int]]) -> Column:
    """Return ranges of rows of an input, as an argument of tasks."""
    if isinstance(opened, Source):
        return [rows_of(opened, start, stop) for start, stop in bounds]
    import dask.array as da

    return da.concatenate([opened[start:stop].rechunk(-1) for start, stop in bounds])


def compare(
    partition: Partition, bounds: tuple[int, int], *, settings: Settings, records: Records
) -> Difference | None:
    """Summarize rows again, and return how they differ from the record of their partition, or None.

    `partition` has some of the rows ``[first, last)`` in `bounds`, which are all rows of the recorded partition.
    """
    (first, last), start, stop, n_rows = bounds, partition.start, partition.stop, partition.n_rows
    try:
        with records.reading("summaries", partition.index) as record:
            kept = list(record.blocks(start - first, stop - first)) if record.n_rows == last - first else []
    except (DamagedRecordError, WorkdirError):
        return None
    if not kept:
        return None
    found, _ = read_rows(partition, settings)
    differs, columns = np.zeros(n_rows, np.bool_), []
    for name, now in found.columns().items():
        then = np.concatenate([block[name] for block in kept])
        other = (_bytes(then) != _bytes(now)).any(axis=1) if then.dtype == now.dtype else np.ones(n_rows, np.bool_)
        if name == "score" and settings.method == "confidence_weighted_entropy":
            other &= ~np.isclose(then, now, rtol=0, atol=_ENTROPY_TOLERANCE)
        if other.any():
            columns.append(name)
            differs |= other
    return Difference(start, stop, int(differs.sum()), tuple(columns)) if columns else None


def _bytes(column: Any) -> Any:
    """Return a column as ``(n, itemsize)`` bytes, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), -1)


def _changed_inputs(columns: Sequence[str]) -> str:
    """Name the changed input. The probability of the label changes with the label as well as with `pred_probs`."""
    if "label" not in columns:
        return "pred_probs"
    return "labels and pred_probs" if {"predicted", "p_predicted"} & set(columns) else "labels"
