"""Executors for the workers of a `distributed` cluster, running or only described."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dask
from dask.utils import parse_bytes

from labelsieve.errors import (
    InputTypeError,
    InvalidInputError,
    LabelsieveError,
    TaskFailedError,
    UnreadableDataError,
    UnwritableError,
)
from labelsieve.execution.executor import Executor, LocalExecutor, LostDataError, Stage, blocks_of, compare_versions
from labelsieve.execution.memory import WORKER_BYTES, free_bytes
from labelsieve.execution.progress import Progress
from labelsieve.options import check_whole_number

# Share of a worker's memory limit to plan with: Dask pauses a worker that takes more.
WORKER_SHARE: Final = 0.8
# With more workers than this, each gets one group of blocks and not one for each thread: a task costs the scheduler
# about a millisecond, and counting a million rows takes 10 to 20.
_FEW_GROUPS: Final = 256
# Seconds to wait for a first worker.
_WAIT_SECONDS: Final = 120
# Bytes from which Dask warns of a large graph: the versions of millions of chunks take more than the default 10 MB.
_LARGE_GRAPH: Final = 100_000_000


class ClusterExecutor(Executor):
    """Runs tasks on the workers of a `distributed` cluster.

    Parameters
    ----------
    client : distributed.Client
        Connected to its scheduler.
    max_memory : int, optional
        Most bytes that each worker may take, if its own limit is not lower.
    retries : int
        Number of times to run a failed task again.
    """

    def __init__(self, client: Any, max_memory: int | None = None, retries: int = 0) -> None:
        self._client, self.retries, self.is_cluster, self.base_bytes = client, retries, True, WORKER_BYTES
        workers = self._workers()
        with self._watching():
            self.misfits = compare_versions(client, workers)
        limits = {name: int(worker["memory_limit"] or 0) for name, worker in workers.items()}
        if not all(limits.values()):  # a worker without its own limit has the limit of its machine or container
            limits |= {name: free for name, free in self._on_workers(free_bytes).items() if not limits.get(name)}
            limits = {name: limit for name, limit in limits.items() if limit}
        self.n_processes = len(workers)
        self.n_threads = max(int(worker["nthreads"]) for worker in workers.values())
        smallest = min(limits, key=lambda name: limits[name])
        self.limit, self.limit_name = _planned_limit(limits[smallest], f"worker {smallest}", max_memory)

    @property
    def described(self) -> str:
        """Description of the workers, for reports."""
        workers = f"{self.n_processes} worker{'s' if self.n_processes > 1 else ''}"
        return f"a cluster of {workers}, {super().described} each"

    def _workers(self) -> dict[str, Any]:
        """Return the scheduler's facts about each worker; wait for the first one."""
        workers = worker_facts(self._client)
        if not workers:
            try:
                # An adaptive cluster starts workers only when there are tasks.
                self._client.submit(int, pure=False).result(timeout=_WAIT_SECONDS)
            except Exception as error:
                raise TaskFailedError(
                    f"the cluster at {self._address} has no worker that answers within {_WAIT_SECONDS} seconds"
                ) from error
            workers = worker_facts(self._client)
        return workers

    @property
    def _address(self) -> str:
        scheduler = self._client.scheduler
        return str(scheduler.address if scheduler is not None else "an unknown address")

    def hold(self, stage: Stage, progress: Progress | None = None, describe: Callable[[Any], str] = str) -> list[Any]:
        """Compute a stage on the workers, which keep the blocks; return futures of them."""
        # Annotations of the layers are lost where Dask optimizes the graph.
        annotated = dask.annotate(priority=stage.priority) if stage.priority else contextlib.nullcontext()
        with contextlib.nullcontext() if progress is None else progress.subscribed(self._client):
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LARGE_GRAPH}), annotated:
                futures = blocks_of(self._client.persist(stage.output, retries=self.retries))
            with self._watching(futures, describe):
                _wait(futures)
        return futures

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of groups that `groups` makes, where each worker holds some blocks."""
        return min(n_blocks, self.n_processes * _groups_of_worker(self))

    def groups(self, blocks: Sequence[Any]) -> list[list[int]]:
        """Return the numbers of the blocks that each worker holds, given their futures: a group for each thread.

        A task for each group instead of each block keeps the scheduler from being the limit while all workers wait.
        """
        per_worker = _groups_of_worker(self)
        if len(blocks) <= self.n_processes * per_worker:
            return []
        held: dict[str, list[int]] = {}
        with self._watching():
            who_has = self._client.who_has(list(blocks))
        for number, block in enumerate(blocks):
            # Blocks that were lost are computed again anywhere; of several holders the one with the fewest takes it.
            holders = who_has[block.key] or [f"lost {number % self.n_processes}"]
            held.setdefault(min(holders, key=lambda one: (len(held.get(one, ())), one)), []).append(number)
        return [
            numbers[start::per_worker] for numbers in held.values() for start in range(per_worker) if numbers[start:]
        ]

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Fetch values."""
        with self._watching(handles):
            return list(self._client.gather(list(handles)))

    @contextmanager
    def _watching(self, futures: Sequence[Any] = (), describe: Callable[[Any], str] = str) -> Iterator[None]:
        """Release `futures` if the block fails, and say in our own words what became of workers and scheduler."""
        from concurrent.futures import CancelledError

        import distributed

        gone = (CancelledError, distributed.comm.CommClosedError, ConnectionError, TimeoutError)
        try:
            yield
        except BaseException as error:
            for future in futures:
                # `Client.cancel` would take down the connection, and all that the user computes with this client: the
                # scheduler asserts that somebody waits for each task that depends on what it cancels.
                future.release()
            if isinstance(error, LabelsieveError) or not isinstance(error, Exception):
                raise
            if isinstance(error, distributed.KilledWorker):
                raise TaskFailedError(
                    f"Dask gave up on {describe(error.task)}: {error.allowed_failures + 1} workers died while they ran "
                    f"it, the last one {error.last_worker.address}; out of memory?"
                ) from error
            if isinstance(error, gone) or type(error).__name__ == "FutureCancelledError":
                raise LostDataError(
                    f"the cluster at {self._address} lost what was being computed ({type(error).__name__}: {error}): "
                    "the scheduler died, or a worker that held arrays from memory; run again, and a workdir resumes"
                ) from error
            raise

    def scatter(self, parts: Sequence[Any]) -> list[Any]:
        """Send each array to one of the workers."""
        with self._watching():
            return list(self._client.scatter(list(parts), hash=False))

    def unless_lost(self, function: Callable[[], list[Any]]) -> list[Any]:
        """Return what `function` gives; again where what it hands out is lost with a worker."""
        for _ in range(self.retries):
            try:
                return function()
            except LostDataError:
                continue
        return function()

    def check_reachable(self, check: Callable[[], None]) -> None:
        """Run `check` on every worker."""
        for worker, found in self._on_workers(_error_of, check).items():
            if found is not None:
                kind, text = found
                raise kind(f"worker {worker}: {text}")

    def ask(
        self, function: Callable[..., Any], *arguments: Any, workers: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the result of `function` on each worker, or on some: an exception if it is lost or cannot load it."""
        with self._watching():
            found = self._client.run(function, *arguments, workers=workers, on_error="return")
        return dict(found)

    def _on_workers(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return the result of `function` on each worker that is alive. Dask gives these the tasks of the others."""
        found = self.ask(function, *arguments)
        lost = [error for error in found.values() if isinstance(error, Exception)]
        if len(lost) == len(found):
            why = f" ({type(lost[0]).__name__}: {lost[0]})" if lost else ""
            raise TaskFailedError(
                f"the cluster at {self._address} lost all its workers before the run began{why}: see what ended them, "
                "start workers and run again"
            )
        return {worker: value for worker, value in found.items() if not isinstance(value, Exception)}

    def persist(self, array: Any) -> Any:
        """Compute a Dask array on the workers and keep it there."""
        from distributed import futures_of

        with self._watching():
            kept = self._client.persist(array)
            _wait(futures_of(kept))
        return kept


@dataclass(frozen=True)
class DescribedWorkers:
    """Workers of a cluster that does not run, for a plan.

    Parameters
    ----------
    n_workers, n_threads : int
        Number of workers, and of threads in each.
    memory_limit : int
        Memory limit of each worker, in bytes.
    """

    n_workers: int
    n_threads: int
    memory_limit: int


class DescribedExecutor(Executor):
    """Stands for a cluster in a plan, and runs nothing.

    Parameters
    ----------
    workers : DescribedWorkers
        The workers of the cluster.
    max_memory : int, optional
        Most bytes that each worker may take, if its own limit is not lower.
    """

    def __init__(self, workers: DescribedWorkers, max_memory: int | None = None) -> None:
        self.n_processes, self.n_threads = workers.n_workers, workers.n_threads
        self.is_cluster, self.base_bytes = True, WORKER_BYTES
        self.limit, self.limit_name = _planned_limit(workers.memory_limit, "each worker", max_memory)

    def hold(self, *_: Any) -> list[Any]:
        """Raise: there are no workers."""
        raise RuntimeError("workers that are only described run nothing")

    def values(self, handles: Sequence[Any]) -> list[Any]:
        """Return the handles."""
        return list(handles)

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of groups that running workers would make."""
        return min(n_blocks, self.n_processes * _groups_of_worker(self))

    def check_reachable(self, check: Callable[[], None]) -> None:
        """Do nothing: only running workers can tell."""


def _groups_of_worker(executor: Executor) -> int:
    return max(1, min(executor.n_threads, _FEW_GROUPS // executor.n_processes))


def worker_facts(client: Any) -> dict[str, Any]:
    """Return what the scheduler knows of each worker, by its address."""
    try:
        info = client.scheduler_info(n_workers=-1)
    except TypeError:  # before distributed 2025.4 it always returned all workers
        info = client.scheduler_info()
    return dict(info["workers"])


def _planned_limit(memory_limit: int, whose: str, max_memory: int | None) -> tuple[int, str]:
    """Return the bytes to plan with for each worker, and where that limit comes from."""
    limit = int(memory_limit * WORKER_SHARE)
    if max_memory is not None and max_memory < limit:
        return max_memory, "max_memory"
    return limit, f"{WORKER_SHARE:.0%} of the memory limit of {whose}"


def _wait(futures: Sequence[Any]) -> None:
    """Wait until all futures are done, and raise their errors, without fetching results.

    `distributed.wait` would use the loop of the default client, even for futures of another client.
    """
    for future in futures:
        if future.exception() is not None:
            future.result()


def _error_of(check: Callable[[], None]) -> tuple[type[LabelsieveError], str] | None:
    try:
        check()
    except UnwritableError as error:
        return UnwritableError, str(error)
    except Exception as error:  # noqa: BLE001  # any error that keeps a worker from its data is reported
        return UnreadableDataError, f"{type(error).__name__}: {error}"
    return None


def choose_executor(
    client: Any = None, max_memory: int | str | None = None, retries: int = 0, *, refuse: bool = True
) -> Executor:
    """Return the executor for `client`, for the active client, or for Dask's local scheduler.

    Parameters
    ----------
    client : distributed.Client or DescribedWorkers, optional
        The cluster to use. `DescribedWorkers` stand for a cluster that does not run, for a plan.
    max_memory : int or str, optional
        Most memory of each process: bytes, or text such as ``"1GiB"``.
    retries : int
        Number of times to run a failed task again.
    refuse : bool
        Whether processes with another version of Labelsieve are an error, and not left to the caller.

    Raises
    ------
    InputTypeError
        If `client` is not a synchronous client.
    InvalidInputError
        If `max_memory` is not a size.
    TaskFailedError
        If the client is closed, or the cluster has no workers, or other versions.
    """
    limit = _bytes(max_memory)
    if isinstance(client, DescribedWorkers):
        return DescribedExecutor(client, limit)
    if client is None:
        client = active_client()
    elif not (hasattr(client, "scheduler_info") and hasattr(client, "gather")):
        raise InputTypeError(f"client must be a distributed.Client, not {type(client).__name__}")
    elif getattr(client, "asynchronous", False):
        raise InputTypeError("client is asynchronous: give a synchronous distributed.Client")
    elif client.status == "closed":
        raise TaskFailedError("client is closed: connect a new distributed.Client")
    if client is None:
        return LocalExecutor(limit, retries)
    executor = ClusterExecutor(client, limit, retries)
    if refuse and executor.misfits:
        raise TaskFailedError(executor.misfits[0].sentence)
    return executor


def active_client() -> Any:
    """Return the active `distributed.Client`; None if there is none, or Dask is set to a local scheduler.

    Inside a task on a worker this is None too: the task would wait for other tasks, which might never get a thread.
    """
    distributed: Any = sys.modules.get("distributed")
    chosen = dask.config.get("scheduler", None)
    if distributed is None or chosen not in (None, "dask.distributed", "distributed"):
        return None
    if _in_worker(distributed):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def _in_worker(distributed: Any) -> bool:
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _bytes(value: int | str | None) -> int | None:
    """Return a number of bytes, given as a number or as text such as "1GiB"."""
    if value is None:
        return None
    if isinstance(value, str) and not any(map(str.isdecimal, value)):
        raise InvalidInputError(f'max_memory must be bytes, or text such as "1GiB", not {value!r}')
    try:
        n_bytes = int(parse_bytes(value)) if isinstance(value, str) else check_whole_number("max_memory", value, 1)
    except ValueError as error:
        raise InvalidInputError(f'max_memory must be bytes, or text such as "1GiB", not {value!r}') from error
    if n_bytes < 1:
        raise InvalidInputError(f"max_memory must be at least 1 byte, not {value!r}")
    return n_bytes
