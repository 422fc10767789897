"""The cluster of a command: a running one to connect to, or a local one that ends with the command."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, Final

from labelsieve.errors import InvalidInputError, TaskFailedError
from labelsieve.execution.cluster import DescribedWorkers
from labelsieve.execution.memory import free_bytes

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
        Whether to start workers. Otherwise yield `DescribedWorkers` in place of a client, for a plan.
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
    if client is None or isinstance(client, DescribedWorkers):
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
            yield DescribedWorkers(n_workers, n_threads, _memory_limit(worker_memory, n_threads))
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
