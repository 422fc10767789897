"""Chooses the executor of a job: the given client, the active client, or Dask's local scheduler."""

from __future__ import annotations

import sys
from typing import Any

import dask
from dask.utils import parse_bytes

from labelsieve.errors import InputTypeError, InvalidInputError, TaskFailedError
from labelsieve.execution.cluster import ClusterExecutor, DescribedExecutor, DescribedWorkers
from labelsieve.execution.executor import Executor, LocalExecutor
from labelsieve.settings import check_whole_number


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
