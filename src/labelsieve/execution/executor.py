"""Who runs the tasks, in this process: Dask's local scheduler."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dask
import dask.threaded
from dask.system import CPU_COUNT

from labelsieve.errors import TaskFailedError
from labelsieve.execution.graphs import Graph
from labelsieve.execution.progress import Progress
from labelsieve.memory import INTERPRETER_BYTES, SLAB, free_bytes, own_bytes

_FREE_SHARE: Final = 0.8
# What imports of a run add to a process that has none of them yet.
_FRESH_BYTES: Final = 60_000_000

Columns = Sequence[Sequence[Any]]


class LostDataError(TaskFailedError):
    """What was being computed, or was handed out, is gone with a worker or the scheduler."""


class Executor(abc.ABC):
    """Runs maps of one task a partition.

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
        How often a task reads before what it cannot read is an error; a cluster tries elsewhere instead.
    retries : int
        How often what failed is tried again.
    """

    n_processes: int
    n_threads: int
    limit: int
    limit_name: str
    base_bytes: int
    is_cluster: bool
    attempts: int = 1
    retries: int = 0

    @property
    def described(self) -> str:
        """Who runs the tasks, in words."""
        return f"{self.n_threads} thread{'s' if self.n_threads > 1 else ''}"

    @property
    def all_threads(self) -> int:
        """Threads of all processes."""
        return self.n_processes * self.n_threads

    def gather(self, layer: str, function: Callable[..., Any], columns: Columns, progress: Any = None) -> list[Any]:
        """Return what `function` gives for each row of `columns`."""
        found = []
        for part in _slabs(columns):
            graph = Graph(self.attempts, None if progress is None else progress.topic)
            graph.wanted = graph.map(layer, function, part)
            found += self.run(graph, progress)
        return found

    def reduce(
        self,
        layer: str,
        function: Callable[..., Any],
        combine: Callable[[Iterable[Any]], Any],
        columns: Columns,
        progress: Any = None,
    ) -> Any:
        """Return what `combine` makes of what `function` gives for each row of `columns`."""
        totals = []
        for part in _slabs(columns):
            graph = Graph(self.attempts, None if progress is None else progress.topic)
            graph.wanted = [graph.tree(layer, combine, graph.map(layer, function, part))]
            totals += self.run(graph, progress)
        return totals[0] if len(totals) == 1 else combine(totals)

    def keep(
        self,
        layer: str,
        function: Callable[..., Any],
        columns: Columns,
        take: Callable[[Any], Any] | None = None,
        combine: Callable[[Iterable[Any]], Any] | None = None,
        progress: Any = None,
    ) -> tuple[list[Any], Any]:
        """Keep what `function` gives where it is made, and return handles on it and what `combine` makes of its parts.

        Parameters
        ----------
        take : callable, optional
            Picks the small part of a result, so that no whole result travels.
        combine : callable, optional
            Folds these parts.
        """
        handles, totals = [], []
        for part in _slabs(columns):
            graph = Graph(self.attempts, None if progress is None else progress.topic)
            kept = graph.map(layer, function, part)
            graph.wanted = list(kept)
            if combine is not None:
                parts = graph.map(f"{layer}-part", take, [kept]) if self.is_cluster and take else kept
                graph.wanted.append(graph.tree(layer, combine, parts))
            found = self.hold(graph, n_small=len(graph.wanted) - len(kept), progress=progress)
            handles += found[: len(kept)]
            totals += found[len(kept) :]
        if combine is None:
            return handles, None
        return handles, totals[0] if len(totals) == 1 else combine(totals)

    @abc.abstractmethod
    def run(self, graph: Graph, progress: Any = None) -> list[Any]:
        """Return the values of the wanted tasks of `graph`."""

    @abc.abstractmethod
    def hold(self, graph: Graph, n_small: int, progress: Any = None) -> list[Any]:
        """Return handles on the wanted tasks, the last `n_small` of them as values."""

    @abc.abstractmethod
    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the values of handles."""

    def scatter(self, parts: Sequence[Any]) -> list[Any]:
        """Hand out arrays to whoever runs the tasks, once."""
        return list(parts)

    def unless_lost(self, function: Callable[[], list[Any]]) -> list[Any]:
        """Return what `function` gives, which hands out what it needs; again where that is lost with a worker."""
        for _ in range(self.retries):
            try:
                return function()
            except LostDataError:
                continue
        return function()

    @abc.abstractmethod
    def check_reachable(self, check: Callable[[], None]) -> None:
        """Run `check` wherever tasks will run, and raise its error with the name of the worker."""

    def persist(self, array: Any) -> Any:
        """Compute a user's Dask array and keep it, chunk by chunk."""
        return array.persist()


def _slabs(columns: Columns) -> Iterable[Columns]:
    for start in range(0, len(columns[0]), SLAB):
        yield [column[start : start + SLAB] for column in columns]


class LocalExecutor(Executor):
    """Dask's threads in this process, or whatever scheduler Dask's configuration names.

    Parameters
    ----------
    max_memory : int, optional
        Bytes that this process may take.
    retries : int
        How often what cannot be read is read again.
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

    def run(self, graph: Graph, progress: Any = None) -> list[Any]:
        """Compute the wanted tasks."""
        with _listening(progress):
            values: list[Any] = dask.compute(graph, optimize_graph=False, **_scheduler())[0]
        return values

    def hold(self, graph: Graph, n_small: int, progress: Any = None) -> list[Any]:  # noqa: ARG002  # all is here
        """Compute the wanted tasks."""
        return self.run(graph, progress)

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


@contextmanager
def _listening(progress: Progress | None) -> Any:
    if progress is None:
        yield
    else:
        with progress.listening():
            yield
