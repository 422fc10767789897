"""The job in Dask's words: maps over the chunks of Dask arrays, and tree reductions.

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

Chunks that workers hold are worked on by a task for each thread or worker, which takes all the chunks that are there,
instead of a task for each chunk: all workers wait meanwhile, and on 1,000 workers the scheduler would be the limit.
`blockwise` takes only neighbours together, so these tasks are made with Dask's own task classes. With that and the
larger partitions, a job of 100 TB on 1,000 workers takes the scheduler 28 s instead of 492.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np
from dask._task_spec import DataNode, List, Task, TaskRef  # dask.task_spec, from some version on

from labelsieve.execution.executor import Executor, Stage, TaskAbandoned, report
from labelsieve.execution.memory import SLAB
from labelsieve.execution.progress import Progress, rows_read
from labelsieve.sources.objects import retry
from labelsieve.storage.remote import Cancellation

if TYPE_CHECKING:
    import dask.array as da

_T = TypeVar("_T")

# Results that one task of a reduction combines.
SPLIT_EVERY: Final = 16


# Arguments of the tasks of a map, one for each chunk: values, rows to be read among them, futures of values, or the
# blocks of a user's Dask array.
Column: TypeAlias = "Sequence[Any] | da.Array"


def values_array(name: str, values: Sequence[Any]) -> da.Array:
    """Return a Dask array whose blocks are `values`, whatever they are, or futures of them."""
    import dask.array as da

    name = f"{name}-{uuid.uuid4().hex}"
    graph = {(name, index): value for index, value in enumerate(values)}
    return da.Array(graph, name, ((1,) * len(values),), dtype=object, meta=np.empty(0, object))


def nothing_like(array: da.Array) -> da.Array:
    """Return a Dask array of the same chunks whose blocks are all None: for tasks that do not need them."""
    import dask.array as da

    name = f"nothing-{uuid.uuid4().hex}"
    graph = dict.fromkeys(itertools.product([name], *map(range, array.numblocks)))
    return da.Array(graph, name, array.chunks, dtype=array.dtype, meta=array._meta)  # noqa: SLF001  # as Dask passes it on


class DaskJob:
    """Runs maps and reductions over chunks on an executor.

    Parameters
    ----------
    executor : Executor
        Who runs the tasks.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def map(
        self, name: str, function: Callable[..., Any], columns: Sequence[Column], progress: Progress | None = None
    ) -> list[Any]:
        """Return ``function(*blocks)`` for each chunk, in order; `columns` give the blocks."""
        return self._compute(name, function, columns, progress)[0]

    def reduce(
        self,
        name: str,
        function: Callable[..., Any],
        combine: Callable[[Iterable[Any]], _T],
        columns: Sequence[Column],
        progress: Progress | None = None,
    ) -> _T:
        """Return what `combine` makes of ``function(*blocks)`` of all chunks, in a tree that keeps their order."""
        total: _T = self._compute(name, function, columns, progress, combine)[1]
        return total

    def persist(
        self,
        name: str,
        function: Callable[..., Any],
        columns: Sequence[Column],
        take: Callable[[Any], Any],
        combine: Callable[[Iterable[Any]], _T],
        progress: Progress | None = None,
    ) -> tuple[list[Any], _T]:
        """Keep ``function(*blocks)`` of each chunk where it is made.

        Returns
        -------
        kept : list
            The results on this machine, or futures of those that workers hold.
        total : object
            What `combine` makes of ``take(result)`` of all chunks.
        """
        kept, _ = self._compute(name, function, columns, progress, keep=True)
        if not self.executor.is_cluster:
            return kept, combine(map(take, kept))
        return kept, self.reduce(f"{name}-totals", take, combine, [kept])

    def _compute(
        self,
        name: str,
        function: Callable[..., Any],
        columns: Sequence[Column],
        progress: Progress | None,
        combine: Callable[[Iterable[Any]], Any] | None = None,
        *,
        keep: bool = False,
    ) -> tuple[list[Any], Any]:
        """Map, then combine if there is a `combine`; return the results, or only their total.

        With `keep` the results stay where they are, and futures of those that workers hold are returned.
        """
        if not self.executor.is_cluster and all(isinstance(one, Sequence) and len(one) == 1 for one in columns):
            # One chunk, here: a graph would only take time.
            blocks = [one[0] for one in columns]
            result = retry(self.executor.attempts, function, *blocks)
            if progress is not None:
                n_rows: int = function.n_rows(blocks[0])  # type: ignore[attr-defined]  # of what shows progress
                progress.advance(n_rows, rows_read(result, n_rows))
            return [result], combine and combine([result])
        if isinstance(columns[0], list) and _is_future(columns[0][0]):
            groups = self.executor.groups(columns[0])
            if groups:
                return self._compute_groups(name, function, columns, groups, progress, combine)
        results, describe = list[Any](), partial(_describe, name, function)
        n_chunks = len(columns[0]) if isinstance(columns[0], Sequence) else columns[0].numblocks[0]
        size = slab_size(self.executor)
        for start in range(0, n_chunks, size):  # as many as are submitted at once
            slab = some_chunks(columns, start, start + size) if n_chunks > size else columns
            cancellation, n_first = Cancellation(), max(0, getattr(function, "n_first", 0) - start)
            mapped = self._blockwise(name, function, slab, progress, cancellation)
            priority = partial(_priority, n_first=n_first) if n_first else None
            stage = Stage(_reduction(name, mapped, combine) if combine else mapped, priority, cancellation)
            handles = self.executor.hold(stage, progress, partial(describe, slab[0]))
            results += handles if keep else self.executor.values(handles)
            del handles  # workers free what is here now
        if combine is None:
            return results, None
        return [], results[0] if len(results) == 1 else combine(results)

    def _compute_groups(
        self,
        name: str,
        function: Callable[..., Any],
        columns: Sequence[Column],
        groups: Sequence[Sequence[int]],
        progress: Progress | None,
        combine: Callable[[Iterable[Any]], Any] | None,
    ) -> tuple[list[Any], Any]:
        """Do what `_compute` does, with one task for each group of chunks."""
        mapped = self._by_group(name, _GroupWork(function, combine), columns, groups, progress)
        stage = Stage(_reduction(name, mapped, combine) if combine else mapped)
        handles = self.executor.hold(stage, progress, lambda key: f"task {key}, a group of chunks")
        values = self.executor.values(handles)
        if combine is not None:
            return [], values[0]
        found = dict(zip(itertools.chain.from_iterable(groups), itertools.chain.from_iterable(values), strict=True))
        return [found[index] for index in range(len(found))], None

    def _by_group(
        self,
        name: str,
        function: Callable[..., Any],
        columns: Sequence[Column],
        groups: Sequence[Sequence[int]],
        progress: Progress | None,
    ) -> da.Array:
        """Return a Dask array with a block for each group of chunks; `blockwise` takes only neighbours together."""
        import dask.array as da

        name, shared = f"{name}-{uuid.uuid4().hex}", f"task-{uuid.uuid4().hex}"
        graph: dict[Any, Any] = {shared: DataNode(shared, self._task(function, progress))}
        for number, group in enumerate(groups):
            arguments = [[column[index] for index in group] for column in columns]
            futures = {value.key: value for values in arguments for value in values if _is_future(value)}
            graph |= futures
            references = [
                List(*(TaskRef(value.key) if _is_future(value) else value for value in values)) for values in arguments
            ]
            graph[name, number] = Task((name, number), _run, TaskRef(shared), *references)
        return da.Array(graph, name, ((1,) * len(groups),), dtype=object, meta=np.empty(0, object))

    def _task(
        self, function: Callable[..., Any], progress: Progress | None, cancellation: Cancellation | None = None
    ) -> _Task:
        here = None if self.executor.is_cluster else cancellation
        return _Task(function, self.executor.attempts, None if progress is None else progress.topic, here)

    def _blockwise(
        self,
        name: str,
        function: Callable[..., Any],
        columns: Sequence[Column],
        progress: Progress | None,
        cancellation: Cancellation | None = None,
    ) -> da.Array:
        import dask
        import dask.array as da
        from dask.layers import ArrayValuesDep

        # What all tasks share is one node of the graph, so that each task is a few hundred bytes.
        shared = dask.delayed(self._task(function, progress, cancellation), pure=False, traverse=False)
        arrays: list[Any] = []
        for column in columns:
            if isinstance(column, Sequence):  # values, or futures of them, are part of the tasks that they are for
                arrays.append(ArrayValuesDep(((1,) * len(column),), _Values(column)))
            else:
                arrays.append(column)
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


class _Task:
    """What all tasks of a map share."""

    def __init__(
        self, function: Callable[..., Any], attempts: int, topic: str | None, cancellation: Cancellation | None
    ) -> None:
        self.function, self.attempts, self.topic, self.cancellation = function, attempts, topic, cancellation

    def run(self, *blocks: Any) -> Any:
        """Call the function, which stops once nobody waits for it."""
        with contextlib.nullcontext() if self.cancellation is None else self.cancellation.heeded():
            return retry(self.attempts, self.function, *blocks)


def _run(task: _Task, *blocks: Any) -> Any:
    try:
        result = task.run(*blocks)
    except Exception as error:
        if task.topic is not None:
            report(task.topic, "failed", str(error))
        raise
    except TaskAbandoned:
        if task.cancellation is not None:
            raise
        from distributed import Reschedule

        raise Reschedule from None  # if Dask wants the task again in this very moment
    if task.topic is None:
        return result
    function = task.function
    n_rows = function.n_rows(blocks[0])  # type: ignore[attr-defined]  # of what has a topic
    first_row = function.first_row(blocks[0])  # type: ignore[attr-defined]
    report(task.topic, "finished", first_row, n_rows, rows_read(result, n_rows))
    return result


class _GroupWork:
    """Runs a function on each chunk of a group, and combines the results if there is a `combine`."""

    def __init__(self, function: Callable[..., Any], combine: Callable[[Iterable[Any]], Any] | None) -> None:
        self._function, self._combine = function, combine

    def n_rows(self, chunks: Sequence[Any]) -> int:
        """Return the number of rows of all chunks."""
        return sum(map(self._function.n_rows, chunks))  # type: ignore[attr-defined]  # of what shows progress

    def first_row(self, chunks: Sequence[Any]) -> int:
        """Return the first row of the first chunk."""
        return int(self._function.first_row(chunks[0]))  # type: ignore[attr-defined]

    def __call__(self, *columns: Sequence[Any]) -> Any:
        """Call the function for each chunk; a few results are held at a time if they are combined."""
        chunks = zip(*columns, strict=True)
        if self._combine is None:
            return [self._function(*blocks) for blocks in chunks]
        total: list[Any] = []
        while some := list(itertools.islice(chunks, SPLIT_EVERY)):
            total = [self._combine([*total, *(self._function(*blocks) for blocks in some)])]
        return total[0]


def _priority(key: Any, n_first: int) -> int:
    """Return the priority of a task. Dask alone would go by keys as text, from "9999" to "0"."""
    return -1 if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int) and key[1] >= n_first else 0


def _is_future(value: Any) -> bool:
    return type(value).__module__.startswith("distributed.") and hasattr(value, "key")


def _reduction(name: str, mapped: da.Array, combine: Callable[[Iterable[Any]], Any]) -> da.Array:
    """Return the tree reduction of `mapped`."""
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


def _combined(blocks: Any, axis: Any, keepdims: bool, combine: Callable[[Iterable[Any]], Any]) -> Any:  # noqa: ARG001
    return combine(list(_flat(blocks)))


def _flat(blocks: Any) -> Iterator[Any]:
    """Yield the blocks of nested lists, as deep as there are axes, in order."""
    for block in blocks if isinstance(blocks, list) else [blocks]:
        yield from _flat(block) if isinstance(block, list) else [block]


def _itself(block: Any, axis: Any, keepdims: bool) -> Any:  # noqa: ARG001
    return block


def _describe(name: str, function: Callable[..., Any], rows: Column, key: Any) -> str:
    """Name the rows of a task, by its key, whichever way that is written."""
    found = re.match(rf"\('{name}-\w+', (\d+)", str(key))
    name_of = getattr(function, "name", None)
    if found is None or name_of is None or not isinstance(rows, Sequence):
        return f"task {key}"
    return str(name_of(rows[int(found[1])]))


def some_chunks(columns: Sequence[Column], start: int, stop: int) -> list[Column]:
    """Return the columns of the chunks from `start` to `stop`."""
    chunks = slice(start, stop)
    return [one[chunks] if isinstance(one, Sequence) else one.blocks[chunks] for one in columns]


def slab_size(executor: Executor) -> int:
    """Return the number of tasks of a map that are submitted at a time.

    On a cluster they are more, because all threads wait for the last task of a slab.
    """
    return max(4 * SLAB, 8 * executor.all_threads) if executor.is_cluster else SLAB


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
