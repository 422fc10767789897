"""Executors for the workers of a `distributed` cluster, the versions on them, and the cluster of a command."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import dask
from dask.utils import parse_bytes

from labelsieve.errors import (
    InputTypeError,
    InvalidInputError,
    LabelsieveError,
    TaskFailedError,
    UnreadableDataError,
    UnwritableError,
    warn,
)
from labelsieve.execution.executor import Executor, LocalExecutor, LostDataError, free_bytes
from labelsieve.execution.graph import Column, blocks_of, is_future, this_worker
from labelsieve.execution.progress import Progress
from labelsieve.options import check_whole_number

if TYPE_CHECKING:
    import dask.array as da

# Share of a worker's memory limit to plan with: Dask pauses a worker that takes more.
WORKER_SHARE: Final = 0.8
# With more workers than this, each gets one group of blocks and not one for each thread: a task costs the scheduler
# about a millisecond, and counting a million rows takes 10 to 20.
_FEW_GROUPS: Final = 256
# Seconds to wait for a first worker.
_WAIT_SECONDS: Final = 120
# Bytes from which Dask warns of a large graph: the versions of millions of chunks take more than the default 10 MB.
_LARGE_GRAPH: Final = 100_000_000


# A worker before any work: it has an event loop and its state beside the interpreter.
WORKER_BYTES: Final = 220_000_000


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
        self._client = client
        workers = self._workers()
        with self._watching():
            misfits = compare_versions(client, workers)
        limits = {name: int(worker["memory_limit"] or 0) for name, worker in workers.items()}
        if not all(limits.values()):  # a worker without its own limit has the limit of its machine or container
            limits |= {name: free for name, free in self._on_workers(free_bytes).items() if not limits.get(name)}
            limits = {name: limit for name, limit in limits.items() if limit}
        smallest = min(limits, key=lambda name: limits[name])
        super().__init__(
            max(int(worker["nthreads"]) for worker in workers.values()),
            n_processes=len(workers),
            limit=int(limits[smallest] * WORKER_SHARE),
            limit_name=f"{WORKER_SHARE:.0%} of the memory limit of worker {smallest}",
            base_bytes=WORKER_BYTES,
            is_cluster=True,
            retries=retries,
        )
        self.limited(max_memory)
        self.misfits = misfits
        many = "s" if self.n_processes > 1 else ""
        self.described = f"a cluster of {self.n_processes} worker{many}, {self.described} each"

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

    def hold(
        self,
        array: da.Array,
        progress: Progress | None = None,
        priority: Callable[[Any], int] | None = None,
        describe: Callable[[Any], str] = str,
    ) -> list[Any]:
        """Compute an array on the workers, which keep the blocks; return futures of them."""
        # Annotations of the layers are lost where Dask optimizes the graph.
        annotated = dask.annotate(priority=priority) if priority else contextlib.nullcontext()
        with contextlib.nullcontext() if progress is None else progress.subscribed(self._client):
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LARGE_GRAPH}), annotated:
                futures = blocks_of(self._client.persist(array, retries=self.retries))
            with self._watching(futures, describe):
                _wait(futures)
        return futures

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of groups that `groups` makes, where each worker holds some blocks."""
        return min(n_blocks, self.n_processes * _groups_of_worker(self))

    def groups(self, blocks: Column) -> list[list[int]]:
        """Return the numbers of the blocks that each worker holds, if these are futures: a group for each thread."""
        per_worker = _groups_of_worker(self)
        if not isinstance(blocks, list) or not is_future(blocks[0]) or len(blocks) <= self.n_processes * per_worker:
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

    def keep(self, array: da.Array) -> da.Array:
        """Compute a Dask array on the workers and keep it there."""
        from distributed import futures_of

        with self._watching():
            kept: da.Array = self._client.persist(array)
            _wait(futures_of(kept))
        return kept


class DescribedExecutor(Executor):
    """Stands for a cluster that does not run, in a plan.

    Parameters
    ----------
    n_workers, n_threads : int
        Number of workers, and of threads in each.
    memory_limit : int
        Memory limit of each worker, in bytes.
    """

    def __init__(self, n_workers: int, n_threads: int, memory_limit: int) -> None:
        super().__init__(
            n_threads,
            n_processes=n_workers,
            limit=int(memory_limit * WORKER_SHARE),
            limit_name=f"{WORKER_SHARE:.0%} of the memory limit of each worker",
            base_bytes=WORKER_BYTES,
            is_cluster=True,
        )

    def hold(self, *_: Any) -> list[Any]:
        """Raise: there are no workers."""
        raise RuntimeError("workers that are only described run nothing")

    def n_groups(self, n_blocks: int) -> int:
        """Return the number of groups that running workers would make."""
        return min(n_blocks, self.n_processes * _groups_of_worker(self))


def _groups_of_worker(executor: Executor) -> int:
    return max(1, min(executor.n_threads, _FEW_GROUPS // executor.n_processes))


def worker_facts(client: Any) -> dict[str, Any]:
    """Return what the scheduler knows of each worker, by its address."""
    try:
        info = client.scheduler_info(n_workers=-1)
    except TypeError:  # before distributed 2025.4 it always returned all workers
        info = client.scheduler_info()
    return dict(info["workers"])


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
    client : distributed.Client or Executor, optional
        The cluster to use, or an executor of your own.
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
    limit = None if max_memory is None else _bytes(max_memory)
    if isinstance(client, Executor):
        return client.limited(limit)
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
    if distributed is None or chosen not in (None, "dask.distributed", "distributed") or this_worker():
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def _bytes(value: int | str) -> int:
    """Return a number of bytes, given as a number or as text such as "1GiB"."""
    refused = InvalidInputError(f'max_memory must be bytes, or text such as "1GiB", not {value!r}')
    if isinstance(value, str) and not any(map(str.isdecimal, value)):
        raise refused
    try:
        n_bytes = int(parse_bytes(value)) if isinstance(value, str) else check_whole_number("max_memory", value, 1)
    except ValueError as error:
        raise refused from error
    if n_bytes < 1:
        raise InvalidInputError(f"max_memory must be at least 1 byte, not {value!r}")
    return n_bytes


# The versions in a process, or why they are not known: why Labelsieve could not be imported there.
Versions: TypeAlias = "Mapping[str, str] | Exception"

# Packages whose versions should be equal in all processes, and why.
_SHOULD_BE_EQUAL: Final = {
    "python": "functions of your own may not work in another Python",
    "numpy": "the last digits of some scores may differ",
    "dask": "Dask supports no other versions in one cluster",
    "distributed": "Dask supports no other versions in one cluster",
    "zarr": "what one version writes or sends may be unknown to the other",
}
PACKAGES: Final = ("labelsieve", *_SHOULD_BE_EQUAL)
# Names of processes that a message gives.
_NAMED: Final = 3


class Misfit(NamedTuple):
    """A package with another version in some processes than here: their names, and a sentence."""

    processes: tuple[str, ...]
    sentence: str


def installed_versions() -> dict[str, str]:
    """Return the versions of those `PACKAGES` that are loaded or installed; Python is one of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        loaded = getattr(sys.modules.get(package), "__version__", None)
        if loaded is not None:  # faster than to look for what is installed
            found[package] = str(loaded)
        elif package != "python":
            with suppress(metadata.PackageNotFoundError):
                found[package] = metadata.version(package)
    return found


def named(processes: Collection[str]) -> str:
    """Return the first names, and how many others there are.

    Examples
    --------
    >>> named(["scheduler"]), named(["a:1", "b:2", "c:3", "d:4"])
    ('scheduler', 'a:1, b:2, c:3 and 1 other')
    """
    first, n_others = list(processes)[:_NAMED], len(processes) - _NAMED
    return ", ".join(first) + (f" and {n_others} other{'s' if n_others > 1 else ''}" if n_others > 0 else "")


def differences(there: Mapping[str, Versions]) -> tuple[list[Misfit], list[Misfit]]:
    """Compare the versions in other processes, by their names, with those here.

    Returns
    -------
    problems, warnings : list of Misfit
        Other versions of Labelsieve, with which no run is possible, and of other packages.
    """
    here, by_message = installed_versions(), dict[tuple[str, str], list[str]]()
    for package in PACKAGES:
        for name, versions in there.items():
            if isinstance(versions, Exception):
                message = str(versions) if package == "labelsieve" else ""
            else:
                own, other = here.get(package), versions.get(package)
                same_python = package == "python" and str(own).rpartition(".")[0] == str(other).rpartition(".")[0]
                said = f"{package} {other or 'is not installed'} there, {own or 'not installed'} here"
                message = "" if own == other or same_python else said
            if message:
                by_message.setdefault((package, message), []).append(name)
    problems, warnings = list[Misfit](), list[Misfit]()
    for (package, message), names in by_message.items():
        if package == "labelsieve":
            advice = f"Install labelsieve {here[package]} there, and start that process anew"
            problems.append(Misfit(tuple(names), f"{named(names)}: {message}. {advice}"))
        else:
            said = f"{named(names)}: {message} ({_SHOULD_BE_EQUAL[package]}). "
            warnings.append(Misfit(tuple(names), f"{said}Install {package} {here.get(package)} there"))
    return problems, warnings


def _why_not_ours(error: object, installed: str | None) -> Exception:
    """Return why a process, where this version of Labelsieve is `installed`, or none, raised `error` on loading it."""
    own = installed_versions()["labelsieve"]
    if installed == own:
        return RuntimeError(f"labelsieve {installed} is installed there, but it does not load: {error}")
    return RuntimeError(f"labelsieve {installed or 'is not installed'} there, {own} here")


# For each client, the processes whose versions were compared.
_COMPARED: Final[WeakKeyDictionary[Any, set[str]]] = WeakKeyDictionary()


def compare_versions(client: Any, workers: Collection[str]) -> list[Misfit]:
    """Compare the versions of the scheduler and of workers with those here, once for each; return the problems.

    Warns
    -----
    LabelsieveWarning
        If versions differ that should be equal.
    """
    compared = _COMPARED.setdefault(client, set())
    new = [worker for worker in workers if worker not in compared]
    if not new:
        return []
    there = {f"worker {name}": found for name, found in _worker_versions(client, new).items()}
    of_scheduler = None if compared else scheduler_versions(client)
    if of_scheduler is not None:
        there["the scheduler"] = of_scheduler
    problems, warnings = differences(there)
    for misfit in warnings:
        warn(misfit.sentence)
    if not problems:
        compared.update(new)
    return problems


def _worker_versions(client: Any, workers: list[str]) -> dict[str, Versions]:
    """Return the versions of the workers that answer."""

    def on_workers(some: list[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = client.run(function, *arguments, workers=some, on_error="return")
        return {name: value for name, value in found.items() if not isinstance(value, OSError)}  # lost workers

    found = on_workers(workers, installed_versions)
    failed = {name: value for name, value in found.items() if isinstance(value, Exception)}
    if failed:
        for name, version in on_workers(list(failed), metadata.version, "labelsieve").items():
            found[name] = _why_not_ours(failed[name], version if isinstance(version, str) else None)
    return found


def scheduler_versions(client: Any) -> Versions | None:
    """Return the versions of the scheduler, which loads functions of Labelsieve too, as part of graphs.

    None if it is set not to run functions.
    """
    try:
        return dict(client.run_on_scheduler(installed_versions))
    except OSError:
        raise
    except ValueError:  # "distributed.scheduler.blocked-handlers"
        return None
    except Exception as error:  # noqa: BLE001  # whatever an import there has raised
        try:
            installed = str(client.run_on_scheduler(metadata.version, "labelsieve"))
        except metadata.PackageNotFoundError:
            installed = None
        return _why_not_ours(error, installed)


logger = logging.getLogger("labelsieve")

# Seconds to wait for the answer of a scheduler.
CONNECT_SECONDS: Final = 30


@contextmanager
def cluster(
    scheduler: str | None = None,
    n_workers: int | None = None,
    n_threads: int | None = None,
    worker_memory: str | None = None,
    *,
    start: bool = True,
    patience: float = CONNECT_SECONDS,
) -> Iterator[Any]:
    """Yield a client, or None if no option asks for a cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler, such as ``tcp://host:8786``.
    n_workers, n_threads : int, optional
        Number of worker processes to start on this machine, and of threads in each.
    worker_memory : str, optional
        Memory limit of each worker, such as ``4GiB``.
    start : bool
        Whether to start workers. Otherwise yield a `DescribedExecutor` in place of a client, for a plan.
    patience : float
        Seconds to wait for the answer of a scheduler.

    Raises
    ------
    InvalidInputError
        If both a scheduler and workers are given.
    TaskFailedError
        If the scheduler does not answer.
    """
    with (
        _silence_loggers(),
        _choose_client(scheduler, n_workers, n_threads, worker_memory, start=start, patience=patience) as client,
        _warning_of_lost_workers(client),
    ):
        yield client


@contextmanager
def _warning_of_lost_workers(client: Any) -> Iterator[None]:
    """Log a warning for each worker that the scheduler loses while the block runs.

    Only for a client of our own: Dask has one handler for a topic, which may be the user's.
    """
    if client is None or isinstance(client, DescribedExecutor):
        yield
        return
    client.subscribe_topic("all", _warn_of_lost_worker)
    try:
        yield
    finally:
        with suppress(OSError):  # the scheduler may be gone
            client.unsubscribe_topic("all")  # otherwise it would send the event that this client leaves


def _warn_of_lost_worker(event: tuple[float, Any]) -> None:
    """Log an event of the scheduler, if it is that a worker was lost."""
    facts = event[1]
    if facts["action"] == "remove-worker" and not facts.get("expected"):
        n_tasks = len(facts.get("processing-tasks", ()))
        logger.warning("lost the worker %s, which had %d tasks: they run elsewhere", facts["worker"], n_tasks)


@contextmanager
def _silence_loggers() -> Iterator[None]:
    """Silence loggers that repeat errors, here and in the workers: the command prints an error once."""
    import dask

    names = ("asyncio", "distributed", "distributed.client", "tornado", "tornado.application")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    # `distributed` sets its levels from this configuration when it is imported, in workers too.
    with dask.config.set({"logging": dict.fromkeys(names, "critical")}):
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _choose_client(
    scheduler: str | None,
    n_workers: int | None,
    n_threads: int | None,
    worker_memory: str | None,
    *,
    start: bool,
    patience: float,
) -> Iterator[Any]:
    if scheduler is not None:
        if n_workers or n_threads or worker_memory:
            raise InvalidInputError("give the address of a scheduler, or workers to start here; not both")
        with _connect(scheduler, patience) as client:
            yield client
    elif n_workers is not None:
        n_threads = n_threads or max(1, (os.cpu_count() or 1) // n_workers)
        if not start:
            yield DescribedExecutor(n_workers, n_threads, _memory_limit(worker_memory, n_threads))
            return
        with _start_local(n_workers, n_threads, worker_memory) as client:
            yield client
    elif worker_memory is not None:
        raise InvalidInputError("a memory limit of workers needs workers to start (--workers)")
    else:
        import dask

        with dask.config.set(num_workers=n_threads) if n_threads else dask.config.set():
            yield None


@contextmanager
def _connect(address: str, patience: float) -> Iterator[Any]:
    from distributed import Client

    _check_scheduler(address, patience)
    try:
        client = Client(address, timeout=patience, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise TaskFailedError(f"no scheduler answers at {address}: {error}") from error
    with client:
        yield client


def _check_scheduler(address: str, patience: float) -> None:
    """Raise unless a scheduler answers within `patience` seconds.

    A client that fails to connect waits a minute and more when it is deleted, so it is made only if one answers.
    """
    import asyncio

    from distributed import rpc
    from distributed.comm import resolve_address
    from distributed.security import Security

    async def ask() -> Any:
        arguments = Security().get_connection_args("client")
        async with rpc(address, timeout=patience, connection_args=arguments) as server:
            return (await server.identity())["type"]

    try:
        resolve_address(address)
        kind = asyncio.run(asyncio.wait_for(ask(), patience))
    except TimeoutError as error:
        raise TaskFailedError(f"no scheduler answers at {address} within {patience:g} seconds") from error
    except (OSError, ValueError) as error:
        raise TaskFailedError(f"no scheduler answers at {address}: {error}") from error
    except Exception as error:  # what another kind of server sends may look like anything, and need any memory
        raise TaskFailedError(
            f"no scheduler answers at {address}: what answers does not speak Dask's protocol; is that the port of a "
            "dashboard? A scheduler's own port is 8786 by default"
        ) from error
    if "Scheduler" not in kind:
        raise TaskFailedError(f"no scheduler answers at {address}: it is the address of a {kind.lower()}")


@contextmanager
def _start_local(n_workers: int, n_threads: int, worker_memory: str | None) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    def start() -> tuple[Any, Any]:
        _leave_interrupts_to_this_process()
        # Dask's profiler looks at all threads 100 times a second, on which Python 3.11 can deadlock:
        # https://github.com/python/cpython/issues/106883
        profiled = sys.version_info >= (3, 12) and dask.config.get("distributed.worker.profile.enabled")
        with dask.config.set({"distributed.worker.profile.enabled": profiled}):
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=n_threads,
                memory_limit=worker_memory or "auto",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        return cluster, Client(cluster, set_as_default=False)

    def close() -> None:
        if started.exception() is None:
            cluster, client = started.result()
            client.close()
            cluster.close()

    # In a thread, so that an interrupt does not leave a cluster half started or half closed: this thread raises it at
    # once, and the other one finishes starting before it closes.
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(start)
        try:
            try:
                _, client = started.result()
            except ValueError as error:
                raise InvalidInputError(f"workers cannot be started: {error}") from error
            yield client
        finally:
            pool.submit(close).result()


def _leave_interrupts_to_this_process() -> None:
    """Block SIGINT in this thread, and in all threads and processes that it starts.

    A terminal sends Ctrl-C to the workers too, and each would print a traceback.
    """
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # starting the tracker unblocks the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _memory_limit(worker_memory: str | None, n_threads: int) -> int:
    """Return the memory limit that Dask would give a worker; it may be larger than this machine."""
    from dask.system import CPU_COUNT
    from dask.utils import parse_bytes
    from distributed.system import MEMORY_LIMIT

    if worker_memory in (None, "auto"):
        return int(MEMORY_LIMIT * min(1, n_threads / CPU_COUNT))
    try:
        n_bytes = int(parse_bytes(worker_memory))
    except ValueError as error:
        raise InvalidInputError(f"the memory of workers must be a size such as 4GiB, not {worker_memory!r}") from error
    return n_bytes or free_bytes()
