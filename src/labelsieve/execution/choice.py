"""Which executor runs a job: a given client, the active one, or Dask's local scheduler."""

from __future__ import annotations

import sys
from typing import Any

import dask
from dask.utils import parse_bytes

from labelsieve.errors import InputTypeError, InvalidInputError, TaskFailedError
from labelsieve.execution.cluster import ClusterExecutor, DescribedExecutor, DescribedWorkers
from labelsieve.execution.executor import Executor, LocalExecutor
from labelsieve.settings import check_whole_number


def choose_executor(client: Any = None, max_memory: int | str | None = None, retries: int = 0) -> Executor:
    """Return who runs the tasks: `client`, the active one, or Dask's local scheduler.

    Parameters
    ----------
    client : distributed.Client or DescribedWorkers, optional
        Goes first; workers that are only described are for a plan.
    max_memory : int or str, optional
        Bytes for each process, or text such as ``"1GiB"``.
    retries : int
        How often a failed task is tried again.

    Raises
    ------
    InputTypeError
        If `client` is none.
    InvalidInputError
        For a `max_memory` that is no size.
    TaskFailedError
        For a cluster without workers.
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
    return LocalExecutor(limit, retries) if client is None else ClusterExecutor(client, limit, retries)


def active_client() -> Any:
    """Return the active `distributed.Client`; None where there is none, or Dask is set to a local scheduler.

    None inside a worker too: its task would wait for others that may have no thread to run on.
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
    """Read a number of bytes, or text such as "1GiB"."""
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
