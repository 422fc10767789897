"""What a task reports to the client of a cluster while it runs, and when it stops because nobody waits for it."""

from __future__ import annotations

import sys
from typing import Any

from labelsieve.storage.cancellation import is_cancelled


class TaskAbandoned(BaseException):  # not an error, as `asyncio.CancelledError` is not
    """Nobody waits for this task any more: another try was faster, or the run has failed or was interrupted."""


def report(topic: str, kind: str, *facts: Any) -> None:
    """Send the client an event that `Progress.subscribed` handles: its kind, the key of this task, and facts."""
    worker = _worker()
    if worker is not None:
        worker.log_event(topic, (kind, worker.get_current_task(), *facts))


def stop_if_abandoned() -> None:
    """Raise `TaskAbandoned` in a task that is cancelled. A thread cannot be stopped from outside.

    Tasks call it before they open what they read, before each strip or block, and before they commit what they have
    read.
    """
    if is_cancelled():
        raise TaskAbandoned
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
