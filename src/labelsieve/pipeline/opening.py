"""Opens both inputs and plans one grid of batches for them. Reads nothing but headers, and sometimes the labels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any, Final, TypeGuard

import numpy as np

from labelsieve import partitioning
from labelsieve.confident_learning.dtypes import class_dtype, label_dtype
from labelsieve.confident_learning.summary_block import STRIP_BYTES
from labelsieve.errors import InvalidInputError, warn
from labelsieve.execution.choice import choose_executor
from labelsieve.execution.executor import Executor
from labelsieve.memory import free_bytes
from labelsieve.pipeline import grids
from labelsieve.pipeline.growing_grid import growing_grid
from labelsieve.pipeline.inputs import Inputs, forkable
from labelsieve.pipeline.job_settings import JobSettings
from labelsieve.results.publish import check_output
from labelsieve.sources.axes import check_axes
from labelsieve.sources.base import Source
from labelsieve.sources.ensemble import Ensemble
from labelsieve.sources.folds import Folds
from labelsieve.sources.logits import softmax_blocks
from labelsieve.sources.open_array import Opened, check_lengths, open_labels, open_pred_probs
from labelsieve.sources.open_path import are_places
from labelsieve.sources.open_summaries import open_summaries
from labelsieve.sources.retries import retry
from labelsieve.sources.tables import open_columns
from labelsieve.storage.urls import is_url

# Labels of at most this size are read first if batches would cut their stored chunks.
_READ_FIRST_BYTES: Final = 64_000_000


def open_given(labels: Any, pred_probs: Any, settings: JobSettings, limit: int) -> tuple[Any, Any, Any]:
    """Return labels, probabilities and names of rows: as they are given, or those of a table.

    Parameters
    ----------
    labels, pred_probs : object
        The arguments of the user.
    settings : JobSettings
        Has a table of both (`data`) or a table of row summaries (`summaries`), or neither.
    limit : int
        Bytes of memory that the run may take in this process.

    Raises
    ------
    InvalidInputError
        For arguments that cannot be given together, and for a table that cannot be what it should be.
    """
    attempts, ids = settings.retries + 1, settings.ids
    if settings.summaries is not None:
        if any(one is not None for one in (labels, pred_probs, settings.data)):
            raise InvalidInputError("give labels and pred_probs, or summaries")
        if settings.from_logits or settings.dtype is not None:
            name = "from_logits" if settings.from_logits else "dtype"
            raise InvalidInputError(f"{name} is for pred_probs: give it where the summaries are made")
        room = min(limit, free_bytes())
        table = retry(attempts, open_summaries, settings.summaries, settings.n_classes, settings.ignore_label, room)
        return table.labels, table.pred_probs, table.ids if ids is None else ids
    if settings.n_classes is not None:
        raise InvalidInputError("n_classes is for summaries: pred_probs has a column for each class")
    if settings.data is not None:
        opening = partial(open_columns, null_labels=settings.ignore_label is None)
        return retry(attempts, opening, settings.data, labels, pred_probs, ids)
    return labels, pred_probs, ids


def given_places(given: Any) -> list[str]:
    """Return the paths and URLs in one argument: itself, or those in a list, an ensemble or folds."""
    if isinstance(given, Ensemble):
        return [place for member in given.members for place in given_places(member)]
    if isinstance(given, Folds):
        return [place for fold in given.folds for one in fold for place in given_places(one)]
    if isinstance(given, list | tuple) and are_places(given):
        return [os.fspath(place) for place in given]
    return [os.fspath(given)] if isinstance(given, str | os.PathLike) else []


def check_output_of(settings: JobSettings, *inputs: Any) -> None:
    """Raise unless the result of a job can be written to its output, which is not one of the inputs.

    Raises
    ------
    LabelsieveError
        As `labelsieve.results.publish.check_output`.
    """
    if settings.output is not None:
        given = (settings.data, settings.summaries, settings.ids, *inputs)
        check_output(os.fspath(settings.output), [place for one in given for place in given_places(one)])


def open_pair(
    labels: Any,
    pred_probs: Any,
    class_names: Any = None,
    ids: Any = None,
    *,
    attempts: int = 1,
    from_logits: bool = False,
    allow_zero_rows: bool = False,
    dtype: str | None = None,
    open_as: Callable[[Any], Opened] = open_labels,
) -> tuple[Opened, Opened]:
    """Open both inputs, and compare their shapes and the names of rows and classes. Only headers are read.

    Parameters
    ----------
    labels, pred_probs : object
        The arguments of the user.
    class_names, ids : object, optional
        The user's names of classes and rows.
    attempts : int
        Number of times to try to open each.
    from_logits : bool
        Whether `pred_probs` are logits, which are opened as their probabilities.
    allow_zero_rows : bool
        Whether rows of zeros are accepted.
    dtype : "bfloat16", optional
        What values of `pred_probs` are that are stored as 16 bits without a dtype of NumPy.
    open_as : callable
        Opens the labels: `open_labels`, or `open_label_values` for those that may be names.

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    """
    opening = partial(open_pred_probs, dtype=dtype, from_logits=from_logits)
    if is_url(labels) and is_url(pred_probs):
        opened_labels, opened = _open_both(labels, pred_probs, attempts, open_as, opening)
    else:
        opened_labels, opened = retry(attempts, open_as, labels), retry(attempts, opening, pred_probs)
    if from_logits and not isinstance(opened, Source):
        opened = softmax_blocks(grids.whole_rows(opened), allow_zero_rows=allow_zero_rows)
    check_lengths(opened_labels, opened)
    if not opened.shape[0]:
        raise InvalidInputError("labels and pred_probs have no rows")
    for member in pred_probs.members if isinstance(pred_probs, Ensemble) else [pred_probs]:
        check_axes(labels, member, class_names, ids)
    for fold, _ in pred_probs.folds if isinstance(pred_probs, Folds) else ():
        check_axes(None, fold, class_names)
    return opened_labels, opened


def _open_both(
    labels: Any, pred_probs: Any, attempts: int, open_as: Callable[[Any], Opened], opening: Callable[[Any], Opened]
) -> tuple[Opened, Opened]:
    """Open both inputs at the same time, since each waits for a remote store."""
    other: Future[Opened] = Future()

    def open_other() -> None:
        try:
            other.set_result(retry(attempts, opening, pred_probs))
        except BaseException as error:  # noqa: BLE001  # raised below, if the labels open
            other.set_exception(error)

    # A daemon thread, so that an error of the labels or Ctrl-C does not wait for a store that does not answer.
    Thread(target=open_other, name="labelsieve-open", daemon=True).start()
    return retry(attempts, open_as, labels), other.result()


def open_inputs(
    labels: Any,
    pred_probs: Any,
    *,
    batch_size: int | partitioning.Auto = "auto",
    partition_batches: int | partitioning.Auto = "auto",
    n_jobs: int = 1,
    executor: Executor | None = None,
    earlier: Mapping[str, Sequence[int]] | None = None,
    read: bool = True,
    ignored: int | None = None,
) -> Inputs:
    """Open both inputs, compare them, and plan one grid of batches for them.

    Only headers are read, and labels whose stored chunks many batches would decode again.

    Parameters
    ----------
    labels, pred_probs : array-like
        Anything that `sources.open_labels` and `sources.open_pred_probs` take.
    batch_size, partition_batches : int or "auto"
        As `find_label_issues` takes them; a Dask array keeps its own chunks as batches.
    n_jobs : int
        Number of processes to fork; 1 uses Dask's threads.
    executor : Executor, optional
        Runs the tasks; by default the active client or threads.
    earlier : mapping, optional
        For a run with a workdir: the partitions of the earlier run in it, which are kept (`growing_grid`).
    read : bool
        Whether to read such labels now; otherwise `Inputs.read_labels` reads them.
    ignored : int, optional
        The value of labels that says that a row has none; by default what the labels themselves say (`Source.ignored`).

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    """
    opened_labels, opened = open_pair(labels, pred_probs)
    if ignored is None and isinstance(opened_labels, Source):
        ignored = opened_labels.ignored
    partitioning.check_sizes(batch_size, partition_batches)
    executor = executor or choose_executor()
    forking = n_jobs > 1 and not executor.is_cluster and forkable(opened_labels, opened)
    n_threads = n_jobs if forking else executor.all_threads
    if not isinstance(opened, Source):
        opened = grids.whole_rows(opened)
        planned = grids.plan_dask_grid(opened, n_threads, partition_batches)
    else:
        planned = grids.plan_source_grid(
            opened, n_threads, executor, batch_size, partition_batches, 1 if forking else STRIP_BYTES
        )
        _warn_if_read_in_pieces(opened, planned, n_threads)
    if earlier is not None:
        planned = growing_grid(opened, planned, earlier)
    if not _reads_first(opened_labels, planned, executor, opened.shape[1]):
        return Inputs(opened_labels, opened, planned, ignored=ignored)
    # The labels in the smallest dtype, and the stored chunk that is being decoded.
    held = opened_labels.n_rows * label_dtype(opened.shape[1], ignored).itemsize
    held += min(opened_labels.row_chunk or 0, opened_labels.n_rows) * opened_labels.dtype.itemsize
    inputs = Inputs(opened_labels, opened, planned, held_bytes=held, labels_first=True, ignored=ignored)
    return inputs.read_labels() if read else inputs


def _reads_first(labels: Opened, grid: partitioning.Grid, executor: Executor, n_classes: int) -> TypeGuard[Source]:
    """Return whether to read the labels first: if they are small, or if partitions would decode a chunk again."""
    small = labels.shape[0] * class_dtype(n_classes).itemsize <= _READ_FIRST_BYTES and not executor.is_cluster
    return (
        isinstance(labels, Source) and _cuts(grid, labels) and (small or _stored_rows(labels) > grid.largest_partition)
    )


def _warn_if_read_in_pieces(source: Source, grid: partitioning.Grid, n_threads: int) -> None:
    stored, partition_rows = min(source.row_chunk or 0, source.n_rows), grid.largest_partition
    if stored > partition_rows:
        warn(
            f"a stored chunk of {stored:,} rows takes {stored * source.row_bytes / 1e9:.1f} GB, too much for "
            f"{n_threads} threads: it is read about {math.ceil(stored / partition_rows)} times, in pieces, and "
            "decoded whole each time if it spans all classes. Chunks of fewer rows avoid that."
        )


def _cuts(grid: partitioning.Grid, labels: Source) -> bool:
    """Return whether the labels of some rows would be decoded again for the next batch or partition."""
    if labels.row_edges is None:
        return bool(labels.row_chunk and _is_cut(labels.row_chunk, grid))
    edges = set(labels.row_edges.tolist())
    return any(grid.bounds(index)[1] not in edges for index in range(grid.n_partitions))


def _stored_rows(source: Source) -> int:
    """Return the largest number of rows that are decoded together."""
    edges = source.row_edges
    return source.row_chunk or 0 if edges is None else int(np.diff(edges, prepend=0).max())


def _is_cut(row_chunk: int, grid: partitioning.Grid) -> bool:
    """Return whether batches cut stored chunks, which the next batch would have to decode again."""
    if isinstance(grid.batches, int) and grid.n_batches > 1 and grid.batches % row_chunk:
        return True
    sizes = grid.batches if isinstance(grid.batches, tuple) else grid.partition_rows
    return any(rows % row_chunk for rows in set(sizes[:-1]))
