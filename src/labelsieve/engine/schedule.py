"""Tasks, and who runs them.

Covers: which of Dask's schedulers is asked, and the two ways to ask it: for a value, or to keep values where they are.
Does not cover: which tasks there are (`engine.run`).
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.threaded
from dask.delayed import Delayed, delayed
from dask.system import CPU_COUNT


def n_workers() -> int:
    """Return how many threads Dask's local scheduler uses."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def token() -> str:
    """Return what makes the keys of one run differ from those of any other."""
    return uuid.uuid4().hex


def scheduler() -> dict[str, Any]:
    """Return the keyword that keeps Dask from importing `distributed` only to find that there is no client.

    That import takes longer than many a job. A scheduler that the user has set, or an active client, goes first.
    """
    chosen = "distributed" in sys.modules or dask.config.get("scheduler", None)
    return {} if chosen else {"scheduler": dask.threaded.get}


def compute(*values: Any) -> Any:
    """Return the values of tasks."""
    return dask.compute(*values, **scheduler())


def persist_array(array: Any) -> Any:
    """Compute a Dask array and keep it, chunk by chunk."""
    return array.persist(**scheduler())


def persist(*values: Delayed) -> list[Delayed]:
    """Compute what is to stay where it was made, and wait for it."""
    kept = list(dask.persist(*values, **scheduler()))
    distributed: Any = sys.modules.get("distributed")
    futures = distributed.futures_of(kept) if distributed else []
    if futures:
        distributed.wait(futures)
    return kept


def value(task: Delayed) -> Any:
    """Return the value of one task."""
    return compute(task)[0]


def map_partitions(layer: str, functions: Sequence[Callable[..., Any]], *columns: Sequence[Any]) -> list[Delayed]:
    """Make one task a partition: each function on its partition's entry of each of the `columns`."""
    rows = zip(*columns, strict=True)
    return [
        delayed(function, pure=False)(*row, dask_key_name=(layer, i))
        for i, (function, row) in enumerate(zip(functions, rows, strict=True))
    ]
