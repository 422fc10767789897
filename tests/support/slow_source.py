"""A source whose reads sleep, on some workers longer than on others: a cluster's time without its work."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import numpy as np
from distributed import get_worker

from labelsieve.sources.base import Rows, Source


class SleepingSource(Source):
    """An array in memory, each read of which sleeps.

    Parameters
    ----------
    array : (N, K) array
        The rows.
    seconds : float
        Sleep per row of a read.
    slow : mapping
        How many times as long the workers with these names sleep.
    """

    in_pieces = False

    def __init__(self, array: np.ndarray, seconds: float, slow: Mapping[object, float] | None = None) -> None:
        super().__init__(array.shape, array.dtype)
        self.array, self.seconds, self.slow = array, seconds, dict(slow or {})

    def _content(self) -> str:
        return "always the same"

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        return _SleepingRows(self)


class _SleepingRows(Rows):
    def __init__(self, source: SleepingSource) -> None:
        super().__init__(source)
        self._source = source

    def read(self, start: int, stop: int) -> np.ndarray:
        times = self._source.slow.get(worker_name(), 1)
        time.sleep(self._source.seconds * times * (stop - start))
        return self._source.array[start:stop]


def worker_name() -> object:
    """Return the name of the worker that runs this task; None elsewhere. A test may name a process by a variable."""
    try:
        return os.environ.get("LABELSIEVE_TEST_WORKER") or get_worker().name
    except ValueError:
        return None
