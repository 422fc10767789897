"""Who runs the tasks: maps over chunks and tree reductions, and Dask's threads in this process.

Chunks that workers hold are worked on by a task for each thread or worker, which takes all the chunks that are there,
instead of a task for each chunk: all workers wait meanwhile, and on 1,000 workers the scheduler would be the limit.
With that and the larger partitions, a job of 100 TB on 1,000 workers takes the scheduler 28 s instead of 492.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeVar

import dask
import dask.threaded
import psutil
from dask.system import CPU_COUNT

from labelsieve.errors import TaskFailedError
from labelsieve.execution import graph
from labelsieve.execution.graph import Column, GroupWork, Task
from labelsieve.execution.progress import Progress, rows_read
from labelsieve.sources.objects import retry
from labelsieve.storage.remote import Cancellation

if TYPE_CHECKING:
    import dask.array as da  # for types alone: its import takes longer than many a job

# The interpreter with NumPy, Dask and Zarr, before any work.
INTERPRETER_BYTES: Final = 120_000_000
# Bytes that the imports of a run add to a fresh process.
_FRESH_BYTES: Final = 60_000_000
_FREE_SHARE: Final = 0.8
# Tasks of a map that are submitted at a time on this machine, whose memory this bounds.
SLAB: Final = 4096

_CGROUPS: Final = Path("/sys/fs/cgroup")
# For control groups of version 2 and 1: the files with the limit and the usage, and the line of memory.stat with the
# part of the usage that the kernel can drop at any time.
_V2: Final = ("memory.max", "memory.current", "inactive_file")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
# The pool that Dask's own scheduler uses; older versions of Dask use the standard library's.
_Pool: Final = getattr(dask.threaded, "ContextAwareThreadPoolExecutor", ThreadPoolExecutor)

_T = TypeVar("_T")


class LostDataError(TaskFailedError):
    """Blocks that were being computed, or scattered arrays, were lost with a worker or the scheduler."""


class Executor(abc.ABC):
    """Runs maps over the chunks of a run, and tree reductions of their results.

    A subclass computes Dask arrays in `hold`; `labelsieve.find_label_issues` takes an object of it as ``client=``.

    Parameters
    ----------
    n_threads, n_processes : int
        Threads of each process, and processes, that share the work.
    limit : int, optional
        Bytes that each process may take; by default most of the memory that is free.
    limit_name : str
        Where that limit comes from, for messages.
    base_bytes : int, optional
        Bytes of a process before any work; by default those of this process.
    is_cluster : bool
        Whether tasks run in other processes than this.
    retries : int
        Number of times to run a failed task again.
    """

    def __init__(
        self,
        n_threads: int = 1,
        *,
        n_processes: int = 1,
        limit: int | None = None,
        limit_name: str = "",
        base_bytes: int | None = None,
        is_cluster: bool = False,
        retries: int = 0,
    ) -> None:
        self.n_threads, self.n_processes, self.is_cluster = n_threads, n_processes, is_cluster
        self.all_threads = n_threads * n_processes
        # A task runs so often in one process; a cluster runs it again on another worker.
        self.retries, self.attempts = retries, 1 if is_cluster else retries + 1
        # What this process already holds counts too: a notebook, arrays in memory.
        self.base_bytes = max(INTERPRETER_BYTES, own_bytes() + _FRESH_BYTES) if base_bytes is None else base_bytes
        if limit is None:
            limit = int(free_bytes() * _FREE_SHARE) + self.base_bytes
            limit_name = f"{_FREE_SHARE:.0%} of the free memory"
        self.limit, self.limit_name = limit, limit_name
        # Sentences on versions of other processes with which no run is possible.
        self.misfits: Sequence[Any] = ()
        self.described = f"{n_threads} thread{'s' if n_threads > 1 else ''}"

    def limited(self, max_memory: int | None) -> Executor:
        """Lower the limit of each process to `max_memory` bytes, and return this executor."""
        if max_memory is not None and max_memory < self.limit:
            self.limit, self.limit_name = max_memory, "max_memory"
        return self

    @abc.abstractmethod
    def hold(
        self,
        array: da.Array,
        progress: Progress | None = None,
        priority: Callable[[Any], int] | None = None,
        describe: Callable[[Any], str] = str,
    ) -> list[Any]:
        """Compute a Dask array whose blocks may be any objects, in one graph.

        Parameters
        ----------
        array : dask.array.Array
            Has one block for each task of a map, or one block with the total.
        progress : Progress, optional
            Reports what is done.
        priority : callable, optional
            Returns the priority of a task on a cluster by its key; None if the order does not matter.
        describe : callable
            Names the rows of a task by its key, for messages.

        Returns
        -------
        list
            The blocks in order; futures if workers hold them.
        """

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the blocks that `hold` returned futures of."""
        return list(handles)

    def map(
        self, name: str, work: Callable[..., _T], columns: Sequence[Column], progress: Progress | None = None
    ) -> list[_T]:
        """Return ``work(*blocks)`` for each chunk, in order; `columns` give the blocks."""
        found: list[_T] = self._run(name, work, columns, progress)
        return found

    def reduce(
        self,
        name: str,
        work: Callable[..., Any],
        combine: Callable[[Iterable[Any]], _T],
        columns: Sequence[Column],
        progress: Progress | None = None,
    ) -> _T:
        """Return what `combine` makes of ``work(*blocks)`` of all chunks, in a tree that keeps their order."""
        total: _T = self._run(name, work, columns, progress, combine)
        return total

    def persist(
        self,
        name: str,
        work: Callable[..., Any],
        columns: Sequence[Column],
        take: Callable[[Any], Any],
        combine: Callable[[Iterable[Any]], _T],
        progress: Progress | None = None,
    ) -> tuple[list[Any], _T]:
        """Keep ``work(*blocks)`` of each chunk where it is made.

        Returns
        -------
        kept : list
            The results on this machine, or futures of those that workers hold.
        total : object
            What `combine` makes of ``take(result)`` of all chunks.
        """
        kept = self._run(name, work, columns, progress, keep=True)
        if not self.is_cluster:
            return kept, combine(map(take, kept))
        return kept, self.reduce(f"{name}-totals", take, combine, [kept])

    def _run(
        self,
        name: str,
        work: Callable[..., Any],
        columns: Sequence[Column],
        progress: Progress | None,
        combine: Callable[[Iterable[Any]], Any] | None = None,
        *,
        keep: bool = False,
    ) -> Any:
        """Map, and combine the results if there is a `combine`; with `keep` they stay where they are."""
        if not self.is_cluster and all(isinstance(one, Sequence) and len(one) == 1 for one in columns):
            # One chunk, here: a graph would only take time.
            blocks = [one[0] for one in columns]
            result = retry(self.attempts, work, *blocks)
            if progress is not None:
                n_rows: int = work.n_rows(blocks[0])  # type: ignore[attr-defined]  # of what shows progress
                progress.advance(n_rows, rows_read(result, n_rows))
            return combine([result]) if combine else [result]
        topic = None if progress is None else progress.topic
        groups = self.groups(columns[0])
        if groups:
            task = Task(GroupWork(work, combine), self.attempts, topic)
            mapped = graph.map_groups(name, task, columns, groups)
            array = graph.tree_reduce(name, mapped, combine) if combine else mapped
            parts = self.values(self.hold(array, progress, None, lambda key: f"task {key}, a group of chunks"))
            if combine:
                return parts[0]
            order = itertools.chain.from_iterable(groups)
            found = dict(zip(order, itertools.chain.from_iterable(parts), strict=True))
            return [found[index] for index in range(len(found))]
        n_chunks = len(columns[0]) if isinstance(columns[0], Sequence) else columns[0].numblocks[0]
        size, n_first, results = self.slab_size, getattr(work, "n_first", 0), list[Any]()
        for start in range(0, n_chunks, size):  # as many as are submitted at once
            slab = graph.some_chunks(columns, start, start + size) if n_chunks > size else columns
            cancellation = Cancellation()
            task = Task(work, self.attempts, topic, None if self.is_cluster else cancellation)
            mapped = graph.map_blocks(name, task, slab)
            array = graph.tree_reduce(name, mapped, combine) if combine else mapped
            priority = partial(_priority, n_first=n_first - start) if n_first > start else None
            try:
                handles = self.hold(array, progress, priority, partial(_describe, name, work, slab[0]))
            except BaseException:  # an interrupt too: the tasks that still run stop soon
                cancellation.request()
                raise
            results += handles if keep else self.values(handles)
            del handles  # workers free what is here now
        if combine is None:
            return results
        return results[0] if len(results) == 1 else combine(results)

    @property
    def slab_size(self) -> int:
        """Number of tasks of a map that are submitted at a time; more on a cluster, whose threads wait for the last."""
        return max(4 * SLAB, 8 * self.all_threads) if self.is_cluster else SLAB

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of tasks of a map over `n_blocks` blocks that are kept where they were made."""
        return n_blocks

    def groups(self, blocks: Column) -> list[list[int]]:  # noqa: ARG002  # of blocks on this machine
        """Return the numbers of the blocks in groups, each held by one worker; an empty list for a task each."""
        return []

    def scatter(self, parts: Sequence[Any]) -> list[Any]:
        """Send arrays to the workers, once; return handles of them."""
        return list(parts)

    def unless_lost(self, function: Callable[[], list[Any]]) -> list[Any]:
        """Return what `function` gives, which hands out what it needs; again where that is lost with a worker."""
        return function()

    def check_reachable(self, check: Callable[[], None]) -> None:  # noqa: B027  # here all inputs are open
        """Run `check` wherever tasks will run, and raise its error with the name of the worker."""

    def keep(self, array: da.Array) -> da.Array:
        """Compute a user's Dask array and keep it, chunk by chunk."""
        return array.persist()


class LocalExecutor(Executor):
    """Dask's threads in this process, or whatever scheduler Dask's configuration names.

    Parameters
    ----------
    max_memory : int, optional
        Bytes that this process may take.
    retries : int
        Number of times to run a task again that cannot read its data.
    """

    def __init__(self, max_memory: int | None = None, retries: int = 0) -> None:
        super().__init__(int(dask.config.get("num_workers", None) or CPU_COUNT), retries=retries)
        if max_memory is not None:
            self.limited(max_memory)

    def hold(
        self,
        array: da.Array,
        progress: Progress | None = None,
        priority: Callable[[Any], int] | None = None,  # noqa: ARG002  # Dask's threads go by the order of the graph
        describe: Callable[[Any], str] = str,  # noqa: ARG002  # no worker dies here
    ) -> list[Any]:
        """Compute an array in this process."""
        with contextlib.nullcontext() if progress is None else progress.listening():
            return graph.blocks_of(self.keep(array))

    def keep(self, array: da.Array) -> da.Array:
        """Compute a Dask array and keep it."""
        with self._scheduler() as keyword:
            return array.persist(**keyword)

    @contextlib.contextmanager
    def _scheduler(self) -> Iterator[dict[str, Any]]:
        """Yield the keyword that has Dask use threads which end with the block.

        A process would never end if Ctrl-C came while the first thread of Dask's own pool starts: nobody knows of that
        thread to end it, and Python waits for it. The keyword also keeps Dask from importing `distributed` only to find
        that there is no client, which takes longer than many a job. What the user has set goes first.
        """
        if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed", "threads"):
            yield {}
        elif dask.config.get("pool", None):
            yield {"scheduler": dask.threaded.get}
        else:
            pool = _Pool(self.n_threads, "labelsieve-task")
            try:
                yield {"scheduler": partial(dask.threaded.get, pool=pool)}
            finally:
                pool.shutdown(wait=False)  # after Ctrl-C a thread may be stuck in a store that does not answer


def _priority(key: Any, n_first: int) -> int:
    """Return the priority of a task. Dask alone would go by keys as text, from "9999" to "0"."""
    return -1 if isinstance(key, tuple) and len(key) > 1 and isinstance(key[1], int) and key[1] >= n_first else 0


def _describe(name: str, work: Callable[..., Any], rows: Column, key: Any) -> str:
    """Name the rows of a task, by its key, whichever way that is written."""
    found = re.match(rf"\('{name}-\w+', (\d+)", str(key))
    name_of = getattr(work, "name", None)
    if found is None or name_of is None or not isinstance(rows, Sequence):
        return f"task {key}"
    return str(name_of(rows[int(found[1])]))


def free_bytes(proc: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int:
    """Return the bytes that this process can take before the host or a control group runs out of memory.

    Parameters
    ----------
    proc : Path
        File that lists the control groups of the process.
    cgroups : Path
        Folder where control groups are mounted.
    """
    left = int(psutil.virtual_memory().available)
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        # In a container this may be the path on the host, of which only the root is mounted.
        path = PurePosixPath(inner.lstrip("/"))
        for folder in (root / parent for parent in [path, *path.parents]):
            try:
                most, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
                stat = dict(one.split() for one in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            except (OSError, ValueError):  # no such group, or "max"
                continue
            left = min(left, most - used + int(stat.get(names[2], 0)))
    return max(0, left)


def own_bytes() -> int:
    """Return the bytes of memory of this process that are not mapped from files."""
    info = psutil.Process().memory_info()
    return max(0, int(info.rss) - int(getattr(info, "shared", 0)))


def peak_bytes() -> int:
    """Return the most memory that this process has had resident so far, with the pages of mapped files."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return own_bytes()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else own_bytes()
