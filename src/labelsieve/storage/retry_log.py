"""What is tried again: counted, and logged as warnings without flooding the log."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from labelsieve.storage import limits

logger = logging.getLogger("labelsieve")


class RetryLog:
    """Counts what is tried again and logs it; for all threads of a process.

    Attributes
    ----------
    n_retries : int
        All that was added.
    """

    def __init__(self) -> None:
        self.n_retries = 0
        self._lock = threading.Lock()
        # Messages that may be logged now: so many at once, and then one in a while.
        self._allowed, self._since, self._n_hidden = float(limits.LOG_AT_ONCE), time.monotonic(), 0

    def add(self, failure: object, *, condition: str = "") -> None:
        """Count a failure after which something is tried again, and log it; `condition` is added to the message."""
        with self._lock:
            self.n_retries += 1
            now = time.monotonic()
            self._allowed = min(limits.LOG_AT_ONCE, self._allowed + (now - self._since) / limits.LOG_EVERY_S)
            self._since = now
            if self._allowed < 1:
                self._n_hidden += 1
                level, n_hidden = logging.DEBUG, 0
            else:
                self._allowed -= 1
                level, n_hidden, self._n_hidden = logging.WARNING, self._n_hidden, 0
        others = f" ({n_hidden:,} others since the last such message)" if n_hidden else ""
        logger.log(level, "tried again%s: %s%s", condition, failure, others)


RETRY_LOG: Final = RetryLog()
