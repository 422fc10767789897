"""Calls that are repeated if a read in them fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from labelsieve.errors import ChangedDataError, UnreadableDataError
from labelsieve.sources.object_store import RefusedError
from labelsieve.storage import limits
from labelsieve.storage.cancellation import is_cancelled
from labelsieve.storage.retry_log import RETRY_LOG

# How often a call is repeated outside of a job. In a job, the argument `retries` says it.
RETRIES: Final = limits.TASK_RETRIES

_T = TypeVar("_T")


def retry(attempts: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return ``function(*arguments)``, called up to `attempts` times, until no `UnreadableDataError` is raised.

    The whole call is repeated: a task, for example, begins again with its first row. Data that has changed is not read
    again, what a store does not permit is not requested again, and nothing is repeated once nobody waits for it.
    """
    for attempt in range(attempts - 1):
        try:
            return function(*arguments)
        except (ChangedDataError, RefusedError):
            raise
        except UnreadableDataError as error:
            if is_cancelled():
                raise
            RETRY_LOG.add(error)
            time.sleep(random.uniform(0.5, 1) * limits.TASK_PAUSE_S * 2**attempt)  # noqa: S311  # workers must not return together
    return function(*arguments)
