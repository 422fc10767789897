"""A cluster for the length of a command: one that runs somewhere, or a local one.

Covers: connecting and starting, with errors in a line.
Does not cover: what runs there (`engine.executors`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from labelsieve.errors import InvalidInputError, TaskFailedError

_CONNECT_SECONDS: Final = 30


@contextmanager
def cluster(
    scheduler: str | None = None,
    n_workers: int | None = None,
    n_threads: int | None = None,
    worker_memory: str | None = None,
) -> Iterator[Any]:
    """Give a client, or None where nothing asks for a cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address of a scheduler that runs, such as ``tcp://host:8786``.
    n_workers, n_threads : int, optional
        Worker processes to start on this machine, and threads of each.
    worker_memory : str, optional
        Memory limit of each, such as ``4GiB``.

    Raises
    ------
    InvalidInputError
        If both a scheduler and workers are asked for.
    TaskFailedError
        If the scheduler does not answer.
    """
    with _quiet(), _chosen(scheduler, n_workers, n_threads, worker_memory) as client:
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave it to the command to say, once, what failed: distributed logs it again, here and in the workers."""
    import dask

    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({"logging.distributed": "critical"}):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _chosen(
    scheduler: str | None, n_workers: int | None, n_threads: int | None, worker_memory: str | None
) -> Iterator[Any]:
    if scheduler is not None:
        if n_workers or n_threads or worker_memory:
            raise InvalidInputError("give the address of a scheduler, or workers to start here; not both")
        with _connected(scheduler) as client:
            yield client
    elif n_workers is not None:
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

    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise TaskFailedError(f"no scheduler answers at {address}: {error}") from error
    with client:
        yield client


@contextmanager
def _local(n_workers: int, n_threads: int | None, worker_memory: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    try:
        started = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=n_threads or max(1, (os.cpu_count() or 1) // n_workers),
            memory_limit=worker_memory or "auto",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except ValueError as error:
        raise InvalidInputError(f"workers cannot be started: {error}") from error
    with started, Client(started, set_as_default=False) as client:
        yield client
