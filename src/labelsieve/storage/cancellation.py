"""Whether anybody still waits for what a thread of this process does.

A thread cannot be stopped from outside. So what runs for long in one asks `is_cancelled` from time to time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Cancellation:
    """Tells code in threads of this process that nobody waits for it any more. Other processes do not learn of it.

    Attributes
    ----------
    is_requested : bool
        Whether the code shall stop.
    """

    def __init__(self) -> None:
        self.is_requested = False

    def request(self) -> None:
        """Let the code stop when it next asks."""
        self.is_requested = True

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let this one count for `is_cancelled` too, in the block and in what runs in a copy of its context."""
        token = _HEEDED.set((*_HEEDED.get(), self))
        try:
            yield
        finally:
            _HEEDED.reset(token)


_HEEDED: ContextVar[tuple[Cancellation, ...]] = ContextVar("heeded", default=())


def is_cancelled() -> bool:
    """Return whether nobody waits for the code that calls this; False where no `Cancellation` is heeded.

    Examples
    --------
    >>> cancellation = Cancellation()
    >>> with cancellation.heeded():
    ...     cancellation.request()
    ...     is_cancelled()
    True
    >>> is_cancelled()
    False
    """
    return any(cancellation.is_requested for cancellation in _HEEDED.get())
