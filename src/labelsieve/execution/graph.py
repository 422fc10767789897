"""The Dask arrays of a run: maps over chunks, and tree reductions.

A job is a few of these, which show up on Dask's dashboard under their names::

    labels (N,), pred_probs (N, K)                   chunked alike; a block of a file is a lazy range of rows

    scan         = blockwise(labels, pred_probs)     a chunk of row summaries for each chunk of pred_probs
    thresholds   = reduction(scan)                   class sums, and what is wrong with the rows
    rescan       = blockwise(pred_probs, scan)       only where whole rows are needed again: a second pass
    issue-counts = reduction(blockwise(scan))        confident pairs, and a histogram of the scores
    ties         = blockwise(scan)                   the scores at the cut; rounds of "histogram" where these are many
    margins      = blockwise(pred_probs, scan)       only where pairs of classes are pruned: a third pass
    select       = blockwise(scan)                   the issues of each chunk, or sorted runs of them

The ranges of rows of a file are values that `blockwise` hands to the tasks. As blocks of `da.from_array` they are fused
with the scan, and each task then sorts the four nodes of its own small graph: a partition without rows takes 1.37 times
as long as with a graph written by hand, instead of 1.01 times (4,000 partitions, a local cluster of two workers). A job
of one chunk on this machine calls the same functions without a graph, because `dask.array` takes longer to import.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from dask import _task_spec as spec  # dask.task_spec, from some version on
from dask.core import flatten

from labelsieve.execution.progress import rows_read
from labelsieve.sources.objects import retry
from labelsieve.storage.remote import Cancellation, is_cancelled

if TYPE_CHECKING:
    import dask.array as da

# Results that one task of a reduction combines.
SPLIT_EVERY: Final = 16

# Arguments of the tasks of a map, one for each chunk: values, rows to be read among them, futures of values, or the
# blocks of a user's Dask array.
Column: TypeAlias = "Sequence[Any] | da.Array"


class TaskAbandoned(BaseException):  # not an error, as `asyncio.CancelledError` is not
    """Nobody waits for this task any more: the run has failed or was interrupted."""


def stop_if_abandoned() -> None:
    """Raise `TaskAbandoned` in a task that is cancelled. A thread cannot be stopped from outside.

    Tasks call it before they open what they read, before each strip or block, and before they commit what they have
    read.
    """
    if is_cancelled():
        raise TaskAbandoned
    worker = this_worker()
    if worker is None:
        return
    try:
        state = worker.state.tasks[worker.get_current_task()].state
    except (AttributeError, KeyError, ValueError):  # Dask may change this, which is not documented
        return
    if state == "cancelled":
        raise TaskAbandoned


def this_worker() -> Any:
    """Return the worker that runs this task; None elsewhere."""
    distributed: Any = sys.modules.get("distributed")
    try:
        return distributed.get_worker()
    except (AttributeError, ValueError):
        return None


class Task:
    """What all tasks of a map share.

    Parameters
    ----------
    work : callable
        Called with the blocks.
    attempts : int
        Number of times to call it before data that it cannot read is an error.
    topic : str, optional
        Under which to report to the client what is done (`Progress.subscribed`).
    cancellation : Cancellation, optional
        Stops the tasks where threads of the client's process run them.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        attempts: int,
        topic: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.work, self.attempts, self.topic, self.cancellation = work, attempts, topic, cancellation

    def run(self, *blocks: Any) -> Any:
        """Call the function, which stops once nobody waits for it."""
        try:
            with contextlib.nullcontext() if self.cancellation is None else self.cancellation.heeded():
                result = retry(self.attempts, self.work, *blocks)
        except Exception as error:
            self._report("failed", str(error))
            raise
        except TaskAbandoned:
            if self.cancellation is not None:
                raise
            from distributed import Reschedule

            raise Reschedule from None  # if Dask wants the task again in this very moment
        if self.topic is not None:
            work: Any = self.work
            n_rows = work.n_rows(blocks[0])
            self._report("finished", work.first_row(blocks[0]), n_rows, rows_read(result, n_rows))
        return result

    def _report(self, kind: str, *facts: Any) -> None:
        worker = this_worker()
        if self.topic is not None and worker is not None:
            worker.log_event(self.topic, (kind, *facts))


def _run(task: Task, *blocks: Any) -> Any:
    return task.run(*blocks)


class GroupWork:
    """Runs a function on each chunk of a group, and combines the results if there is a `combine`."""

    def __init__(self, work: Callable[..., Any], combine: Callable[[Iterable[Any]], Any] | None) -> None:
        self._work, self._combine = work, combine

    def n_rows(self, chunks: Sequence[Any]) -> int:
        """Return the number of rows of all chunks."""
        return sum(map(self._work.n_rows, chunks))  # type: ignore[attr-defined]  # of what shows progress

    def first_row(self, chunks: Sequence[Any]) -> int:
        """Return the first row of the first chunk."""
        return int(self._work.first_row(chunks[0]))  # type: ignore[attr-defined]

    def __call__(self, *columns: Sequence[Any]) -> Any:
        """Call the function for each chunk; a few results are held at a time if they are combined."""
        chunks = zip(*columns, strict=True)
        if self._combine is None:
            return [self._work(*blocks) for blocks in chunks]
        total: list[Any] = []
        while some := list(itertools.islice(chunks, SPLIT_EVERY)):
            total = [self._combine([*total, *(self._work(*blocks) for blocks in some)])]
        return total[0]


def map_blocks(name: str, task: Task, columns: Sequence[Column]) -> da.Array:
    """Return a Dask array with the result of a task for each chunk; `columns` give the arguments."""
    import dask
    import dask.array as da
    from dask.layers import ArrayValuesDep

    # What all tasks share is one node of the graph, so that each task is a few hundred bytes.
    shared = dask.delayed(task, pure=False, traverse=False)
    arrays: list[Any] = [  # values, or futures of them, are part of the tasks that they are for
        ArrayValuesDep(((1,) * len(column),), _Values(column)) if isinstance(column, Sequence) else column
        for column in columns
    ]
    index = "ij" if any(len(array.numblocks) == 2 for array in arrays) else "i"
    pairs = [part for array in arrays for part in (array, index[: len(array.numblocks)])]
    return da.blockwise(
        _run,
        index,
        shared,
        None,
        *pairs,
        name=f"{name}-{uuid.uuid4().hex}",
        adjust_chunks={"j": 1},
        align_arrays=False,  # a block belongs to a chunk, whatever its own length
        dtype=object,
        meta=np.empty((0,) * len(index), object),
    )


class _Values:
    """Values by the index of their block. Dask asks for a name, and would print all of them to make one."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values, self._name = values, uuid.uuid4().hex

    def __getitem__(self, index: tuple[int]) -> Any:
        return self._values[index[0]]

    def __dask_tokenize__(self) -> str:
        return self._name


def map_groups(name: str, task: Task, columns: Sequence[Column], groups: Sequence[Sequence[int]]) -> da.Array:
    """Return a Dask array with a block for each group of chunks; `blockwise` takes only neighbours together."""
    name, shared = f"{name}-{uuid.uuid4().hex}", f"task-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = {shared: spec.DataNode(shared, task)}
    for number, group in enumerate(groups):
        arguments = [[column[index] for index in group] for column in columns]
        graph |= {value.key: value for values in arguments for value in values if is_future(value)}
        references = [
            spec.List(*(spec.TaskRef(value.key) if is_future(value) else value for value in values))
            for values in arguments
        ]
        graph[name, number] = spec.Task((name, number), _run, spec.TaskRef(shared), *references)
    return _objects(name, graph, len(groups))


def tree_reduce(name: str, mapped: da.Array, combine: Callable[[Iterable[Any]], Any]) -> da.Array:
    """Return a Dask array with one block: what `combine` makes of all blocks, in a tree that keeps their order."""
    import dask.array as da

    total: da.Array = da.reduction(
        mapped,
        chunk=_itself,
        combine=partial(_combined, combine=combine),
        aggregate=partial(_combined, combine=combine),
        concatenate=False,
        split_every=dict(zip(range(mapped.ndim), (SPLIT_EVERY, 2), strict=False)),
        name=name,
        dtype=object,
        meta=np.empty((), object),
    )
    return total


def _itself(block: Any, axis: Any, keepdims: bool) -> Any:  # noqa: ARG001
    return block


def _combined(blocks: Any, axis: Any, keepdims: bool, combine: Callable[[Iterable[Any]], Any]) -> Any:  # noqa: ARG001
    return combine(list(_flat(blocks)))


def _flat(blocks: Any) -> Iterator[Any]:
    """Yield the blocks of nested lists, as deep as there are axes, in order."""
    for block in blocks if isinstance(blocks, list) else [blocks]:
        yield from _flat(block) if isinstance(block, list) else [block]


def _objects(name: str, graph: dict[Any, Any], n_blocks: int) -> da.Array:
    import dask.array as da

    return da.Array(graph, name, ((1,) * n_blocks,), dtype=object, meta=np.empty(0, object))


def values_array(name: str, values: Sequence[Any]) -> da.Array:
    """Return a Dask array whose blocks are `values`, whatever they are, or futures of them."""
    name = f"{name}-{uuid.uuid4().hex}"
    return _objects(name, {(name, index): value for index, value in enumerate(values)}, len(values))


def nothing_like(array: da.Array) -> da.Array:
    """Return a Dask array of the same chunks whose blocks are all None: for tasks that do not need them."""
    import dask.array as da

    name = f"nothing-{uuid.uuid4().hex}"
    graph = dict.fromkeys(itertools.product([name], *map(range, array.numblocks)))
    return da.Array(graph, name, array.chunks, dtype=array.dtype, meta=array._meta)  # noqa: SLF001  # as Dask passes it on


def blocks_of(persisted: da.Array) -> list[Any]:
    """Return the blocks of a persisted Dask array in order, or their futures."""
    graph = dict(persisted.__dask_graph__())
    return [graph[key] for key in flatten(persisted.__dask_keys__())]


def some_chunks(columns: Sequence[Column], start: int, stop: int) -> list[Column]:
    """Return the columns of the chunks from `start` to `stop`."""
    chunks = slice(start, stop)
    return [one[chunks] if isinstance(one, Sequence) else one.blocks[chunks] for one in columns]


def is_future(value: Any) -> bool:
    """Return whether a value is a future of a cluster."""
    return type(value).__module__.startswith("distributed.") and hasattr(value, "key")


def n_graph_tasks(n_chunks: int, *, reduced: bool = False, is_cluster: bool = False) -> int:
    """Return the tasks of a map over `n_chunks` chunks, and of its reduction; 0 where no graph is needed.

    Parameters
    ----------
    n_chunks : int
        Number of chunks.
    reduced : bool
        Whether the results are combined in a tree.
    is_cluster : bool
        Whether a cluster runs the tasks.
    """
    if n_chunks == 1 and not is_cluster:
        return 0
    total = left = n_chunks
    if reduced:
        for _ in range(max(1, math.ceil(math.log(n_chunks, SPLIT_EVERY)))):
            left = -(-left // SPLIT_EVERY)
            total += left
    return total
