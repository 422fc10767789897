"""Calls that are repeated if a read in them fails."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from labelsieve.errors import ChangedDataError, UnreadableDataError

logger = logging.getLogger("labelsieve")
# How often a call is repeated outside of a job. In a job, the argument `retries` says it.
RETRIES: Final = 2
# Seconds before the first new attempt; twice as long before each further one.
_FIRST_PAUSE: Final = 0.1

_T = TypeVar("_T")


class RetryLog:
    """Logs what is tried again as warnings, and counts it; for all threads of a process."""

    def __init__(self) -> None:
        self.n_retries = 0
        self._numbers = itertools.count(1)  # next() is atomic

    def add(self, failure: object, *, condition: str = "") -> None:
        """Log and count a failure after which something is tried again; `condition` is added to the message."""
        logger.warning("tried again%s: %s", condition, failure)
        self.n_retries = next(self._numbers)


RETRY_LOG: Final = RetryLog()


def retry(attempts: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return ``function(*arguments)``, called up to `attempts` times, until no `UnreadableDataError` is raised.

    The whole call is repeated: a task, for example, begins again with its first row. Changed data is not read again.
    """
    for attempt in range(attempts - 1):
        try:
            return function(*arguments)
        except ChangedDataError:
            raise
        except UnreadableDataError as error:
            RETRY_LOG.add(error)
            time.sleep(_FIRST_PAUSE * 2**attempt)
    return function(*arguments)
