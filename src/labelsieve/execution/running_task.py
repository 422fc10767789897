"""What a task reports to the client of a cluster while it runs, and when it stops because nobody waits for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class TaskAbandoned(BaseException):  # not an error, as `asyncio.CancelledError` is not
    """Nobody waits for this task any more: another try was faster, or the run has failed or was interrupted."""


class Cancellation:
    """Tells the tasks of one map, in threads of this process, that nobody waits for them any more.

    On a cluster Dask cancels tasks. A copy in another process is never requested.

    Attributes
    ----------
    is_requested : bool
        Whether tasks shall stop.
    """

    def __init__(self) -> None:
        self.is_requested = False

    def request(self) -> None:
        """Let the tasks stop, each before its next strip of rows."""
        self.is_requested = True

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let `stop_if_abandoned` look at this one while the block runs a task in this thread."""
        token = _CANCELLATION.set(self)
        try:
            yield
        finally:
            _CANCELLATION.reset(token)


# That of the task that this thread runs.
_CANCELLATION: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


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
    cancellation = _CANCELLATION.get()
    if cancellation is not None and cancellation.is_requested:
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
