"""Who runs the tasks: the interface, and Dask's local scheduler."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import dask
import dask.threaded
from dask.core import flatten
from dask.system import CPU_COUNT

from labelsieve.errors import TaskFailedError
from labelsieve.execution.progress import Progress
from labelsieve.execution.versions import Difference
from labelsieve.memory import INTERPRETER_BYTES, free_bytes, own_bytes
from labelsieve.storage.cancellation import Cancellation

_FREE_SHARE: Final = 0.8
# Bytes that the imports of a run add to a fresh process.
_FRESH_BYTES: Final = 60_000_000

if TYPE_CHECKING:
    import dask.array as da  # for types alone: its import takes longer than many a job


class LostDataError(TaskFailedError):
    """Blocks that were being computed, or scattered arrays, were lost with a worker or the scheduler."""


@dataclass(frozen=True)
class Stage:
    """A map over chunks, and the tree reduction of its results, as Dask arrays whose blocks may be any objects.

    Parameters
    ----------
    mapped : dask.array.Array
        Has one block per chunk.
    levels : sequence of dask.array.Array
        The levels of the tree, from the blocks to the total; none if nothing is reduced, and the blocks are kept.
    priority : callable, optional
        Returns the priority of a task on a cluster by its key; None if the order does not matter.
    again : callable, optional
        Returns a map over one chunk alone, given by its number, for a second try. None where a task may not run twice
        at once, or never needs to; then the rest is not needed either.
    n_rows : callable, optional
        Returns the number of rows of a chunk.
    combine : callable, optional
        Returns a list of results combined.
    split_every : int
        Number of results that one task of the tree combines.
    cancellation : Cancellation
        Stops the tasks of the map where threads of this process run them.
    """

    mapped: da.Array
    levels: Sequence[da.Array] = ()
    priority: Callable[[Any], int] | None = None
    again: Callable[[int], da.Array] | None = None
    n_rows: Callable[[int], int] | None = None
    combine: Callable[[Any], Any] | None = None
    split_every: int = 0
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def output(self) -> da.Array:
        """The array whose blocks are returned: the total, if there is one."""
        return self.levels[-1] if self.levels else self.mapped


class Executor(abc.ABC):
    """Computes Dask arrays.

    Attributes
    ----------
    n_processes, n_threads : int
        Processes, and threads in each, that share the work.
    limit : int
        Bytes that each process may take.
    limit_name : str
        Where that limit comes from, for messages.
    base_bytes : int
        Bytes of a process before any work.
    is_cluster : bool
        Whether tasks run in other processes than this.
    attempts : int
        Number of times that a task may run in one process before data that it cannot read is an error; 1 on a cluster,
        which runs the task again on another worker.
    retries : int
        Number of times to run a failed task again.
    misfits : sequence of Difference
        Versions of other processes with which no run is possible.
    """

    n_processes: int
    n_threads: int
    limit: int
    limit_name: str
    base_bytes: int
    is_cluster: bool
    attempts: int = 1
    retries: int = 0
    misfits: Sequence[Difference] = ()

    @property
    def described(self) -> str:
        """Who runs the tasks, in words."""
        return f"{self.n_threads} thread{'s' if self.n_threads > 1 else ''}"

    @property
    def all_threads(self) -> int:
        """Threads of all processes."""
        return self.n_processes * self.n_threads

    @abc.abstractmethod
    def hold(self, stage: Stage, progress: Progress | None = None, describe: Callable[[Any], str] = str) -> list[Any]:
        """Compute a stage in one graph.

        Parameters
        ----------
        stage : Stage
            What to compute.
        progress : Progress, optional
            Reports what is done.
        describe : callable
            Names the rows of a task by its key, for messages.

        Returns
        -------
        list
            The blocks of the map in order, or the total alone if there is one; futures if workers hold them.
        """

    @abc.abstractmethod
    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the blocks that `hold` returned futures of."""

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of tasks of a map over `n_blocks` blocks that are kept where they were made."""
        return n_blocks

    def groups(self, blocks: Sequence[Any]) -> list[list[int]]:  # noqa: ARG002  # of blocks on this machine
        """Return the numbers of the blocks in groups, each held by one worker; an empty list for a task each."""
        return []

    def scatter(self, parts: Sequence[Any]) -> list[Any]:
        """Send arrays to the workers, once; return handles of them."""
        return list(parts)

    def unless_lost(self, function: Callable[[], list[Any]]) -> list[Any]:
        """Return what `function` gives, which hands out what it needs; again where that is lost with a worker."""
        return function()

    @abc.abstractmethod
    def check_reachable(self, check: Callable[[], None]) -> None:
        """Run `check` wherever tasks will run, and raise its error with the name of the worker."""

    def persist(self, array: Any) -> Any:
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
        self.attempts, self.retries = retries + 1, retries
        self.n_processes, self.n_threads = 1, int(dask.config.get("num_workers", None) or CPU_COUNT)
        # What this process already holds counts too: a notebook, arrays in memory.
        self.base_bytes, self.is_cluster = max(INTERPRETER_BYTES, own_bytes() + _FRESH_BYTES), False
        free = free_bytes()
        self.limit = int(free * _FREE_SHARE) + self.base_bytes
        self.limit_name = f"{_FREE_SHARE:.0%} of the free memory"
        if max_memory is not None and max_memory < self.limit:
            self.limit, self.limit_name = max_memory, "max_memory"

    def hold(
        self,
        stage: Stage,
        progress: Progress | None = None,
        describe: Callable[[Any], str] = str,  # noqa: ARG002  # no worker dies here
    ) -> list[Any]:
        """Compute a stage in this process. After an error or an interrupt, the tasks that still run stop soon."""
        try:
            with contextlib.nullcontext() if progress is None else progress.listening():
                return blocks_of(stage.output.persist(**_scheduler()))
        except BaseException:
            stage.cancellation.request()
            raise

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the handles: they are the values."""
        return list(handles)

    def check_reachable(self, check: Callable[[], None]) -> None:
        """Do nothing: what opened the sources reads them."""

    def persist(self, array: Any) -> Any:
        """Compute a Dask array and keep it."""
        return array.persist(**_scheduler())


def _scheduler() -> dict[str, Any]:
    """Return the keyword that keeps Dask from importing `distributed` only to find that there is no client.

    That import takes longer than many a job. A scheduler that the user has set goes first.
    """
    if dask.config.get("scheduler", None) in (None, "dask.distributed", "distributed"):
        return {"scheduler": dask.threaded.get}
    return {}


def blocks_of(persisted: da.Array) -> list[Any]:
    """Return the blocks of a persisted Dask array in order, or their futures."""
    graph = dict(persisted.__dask_graph__())
    return [graph[key] for key in flatten(persisted.__dask_keys__())]
