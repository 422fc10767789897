"""What a task on a worker of a cluster reports while it runs, and when it can stop because nobody waits for it."""

from __future__ import annotations

import sys
from typing import Any


class TaskAbandoned(BaseException):  # not an error, as `asyncio.CancelledError` is not
    """Nobody waits for this task any more: another try was faster, or the run was interrupted."""


def report(topic: str, kind: str, *facts: Any) -> None:
    """Send the client an event that `Progress.subscribed` handles: its kind, the key of this task, and facts."""
    worker = _worker()
    if worker is not None:
        worker.log_event(topic, (kind, worker.get_current_task(), *facts))


def stop_if_abandoned() -> None:
    """Raise `TaskAbandoned` in a task that Dask has cancelled. A thread cannot be stopped from outside.

    Tasks call it before each strip that they read, and before they commit what they have read.
    """
    worker = _worker()
    if worker is None:
        return
    try:
        state = worker.state.tasks[worker.get_current_task()].state
    except (AttributeError, KeyError, ValueError):  # Dask may change this, which is not documented
        return
    if state == "cancelled":
        raise TaskAbandoned


def _worker() -> Any:
    """Return the worker that runs this task; None elsewhere."""
    distributed: Any = sys.modules.get("distributed")
    try:
        return distributed.get_worker()
    except (AttributeError, ValueError):
        return None
