"""Which executor runs a job: a given client, the active one, or Dask's local scheduler.

Covers: `choose_executor` and `active_client`.
Does not cover: what executors do (`engine.executors`, `engine.on_cluster`).
"""

from __future__ import annotations

import sys
from typing import Any

import dask

from labelsieve.engine.executors import Executor, LocalExecutor
from labelsieve.engine.on_cluster import ClusterExecutor
from labelsieve.errors import InputTypeError, TaskFailedError


def choose_executor(client: Any = None, max_memory: int | None = None, retries: int = 0) -> Executor:
    """Return who runs the tasks: `client`, the active one, or Dask's local scheduler.

    Parameters
    ----------
    client : distributed.Client, optional
        Goes first.
    max_memory : int, optional
        Bytes for each process.
    retries : int
        How often a failed task is tried again.

    Raises
    ------
    InputTypeError
        If `client` is none.
    TaskFailedError
        For a cluster without workers.
    """
    if client is None:
        client = active_client()
    elif not (hasattr(client, "scheduler_info") and hasattr(client, "gather")):
        raise InputTypeError(f"client must be a distributed.Client, not {type(client).__name__}")
    elif getattr(client, "asynchronous", False):
        raise InputTypeError("client is asynchronous: give a synchronous distributed.Client")
    elif client.status == "closed":
        raise TaskFailedError("client is closed: connect a new distributed.Client")
    return LocalExecutor(max_memory, retries) if client is None else ClusterExecutor(client, max_memory, retries)


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
