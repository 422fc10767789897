"""Calls that are repeated if a read in them fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from labelsieve.errors import ChangedDataError, UnreadableDataError

# How often a call is repeated outside of a job; a job has an argument for it.
RETRIES: Final = 2
# Seconds before the first new attempt; twice as long before each further one.
_FIRST_PAUSE: Final = 0.1

_T = TypeVar("_T")


def retry(attempts: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return ``function(*arguments)``, called up to `attempts` times, until no `UnreadableDataError` is raised.

    The whole call is repeated: a task, for example, begins again with its first row. Changed data is not read again.
    """
    for attempt in range(attempts - 1):
        try:
            return function(*arguments)
        except ChangedDataError:
            raise
        except UnreadableDataError:
            time.sleep(_FIRST_PAUSE * 2**attempt)
    return function(*arguments)
