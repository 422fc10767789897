"""A cluster for the length of a command: one that runs somewhere, or a local one."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Final

from labelsieve.errors import InvalidInputError, TaskFailedError
from labelsieve.execution.cluster import DescribedWorkers
from labelsieve.memory import free_bytes

_CONNECT_SECONDS: Final = 30


@contextmanager
def cluster(
    scheduler: str | None = None,
    n_workers: int | None = None,
    n_threads: int | None = None,
    worker_memory: str | None = None,
    *,
    start: bool = True,
) -> Iterator[Any]:
    """Yield a client, or None where no option asks for a cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address of a scheduler that runs, such as ``tcp://host:8786``.
    n_workers, n_threads : int, optional
        Worker processes to start on this machine, and threads of each.
    worker_memory : str, optional
        Memory limit of each, such as ``4GiB``.
    start : bool
        Whether workers are started; otherwise a description of them takes the client's place, for a plan.

    Raises
    ------
    InvalidInputError
        If both a scheduler and workers are asked for.
    TaskFailedError
        If the scheduler does not answer.
    """
    with _quiet(), _chosen(scheduler, n_workers, n_threads, worker_memory, start=start) as client:
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave it to the command to say, once, what failed: these log it again, here and in the workers."""
    import dask

    names = ("asyncio", "distributed", "distributed.client", "tornado", "tornado.application")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    # The import of distributed sets levels as configured here, and so do workers.
    with dask.config.set({"logging": dict.fromkeys(names, "critical")}):
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _chosen(
    scheduler: str | None, n_workers: int | None, n_threads: int | None, worker_memory: str | None, *, start: bool
) -> Iterator[Any]:
    if scheduler is not None:
        if n_workers or n_threads or worker_memory:
            raise InvalidInputError("give the address of a scheduler, or workers to start here; not both")
        with _connected(scheduler) as client:
            yield client
    elif n_workers is not None:
        n_threads = n_threads or max(1, (os.cpu_count() or 1) // n_workers)
        if not start:
            yield DescribedWorkers(n_workers, n_threads, _memory_limit(worker_memory, n_threads))
            return
        with _local(n_workers, n_threads, worker_memory) as client:
            yield client
    elif worker_memory is not None:
        raise InvalidInputError("a memory limit of workers needs workers to start (--workers)")
    else:
        import dask

        with dask.config.set(num_workers=n_threads) if n_threads else dask.config.set():
            yield None


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client
    from distributed.comm import resolve_address

    try:
        resolve_address(address)  # a client that fails because of its address waits without end once it is deleted
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise TaskFailedError(f"no scheduler answers at {address}: {error}") from error
    with client:
        yield client


@contextmanager
def _local(n_workers: int, n_threads: int, worker_memory: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    def start() -> tuple[Any, Any]:
        _leave_interrupts_to_this_process()
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

    # In a thread: an interrupt that comes meanwhile is raised here at once, but what it finds half started or half
    # closed is first started and then closed.
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
    """Block SIGINT in this thread, and so in all threads and processes that it starts.

    Ctrl-C at a terminal goes to the workers too, each of which would end with a traceback.
    """
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # the first process to start one unblocks the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _memory_limit(worker_memory: str | None, n_threads: int) -> int:
    """Return the bytes that Dask would let a worker take, except that a larger machine than this may be described."""
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
