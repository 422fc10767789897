"""Reads that failed, tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from labelsieve.errors import ChangedDataError, UnreadableDataError

# How often a read is tried again outside of a job, which has an argument for it.
RETRIES: Final = 2
# Seconds before the first new attempt; twice as long before each further one.
_FIRST_PAUSE: Final = 0.1

_T = TypeVar("_T")


def tried(attempts: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return ``function(*arguments)``; a read that fails is tried again, up to `attempts` times in all.

    Data that has changed is not: it would be read as it is now.
    """
    for attempt in range(attempts - 1):
        try:
            return function(*arguments)
        except ChangedDataError:
            raise
        except UnreadableDataError:
            time.sleep(_FIRST_PAUSE * 2**attempt)
    return function(*arguments)
