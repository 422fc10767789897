"""A source whose reads sleep: a cluster's time without its work."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from labelsieve.sources.source import ReadFacts, Rows, Source


class SleepingSource(Source):
    """An array in memory, each read of which sleeps.

    Parameters
    ----------
    array : (N, K) array
        The rows.
    seconds : float
        Sleep per row of a read.
    path : Path, optional
        A ``.npy`` file with the same array, to send to other processes in its place.
    """

    def __init__(self, array: np.ndarray, seconds: float, path: Path | None = None) -> None:
        super().__init__(array.shape, array.dtype, ReadFacts(in_pieces=False))
        self.array, self.seconds, self.path = array, seconds, path

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | ({} if self.path is None else {"array": None})

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if self.path is not None:
            self.array = np.load(self.path, mmap_mode="r")

    def _content(self) -> str:
        return "always the same"

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        return _SleepingRows(self)


class _SleepingRows(Rows):
    def __init__(self, source: SleepingSource) -> None:
        super().__init__(source)
        self._source = source

    def read(self, start: int, stop: int) -> np.ndarray:
        time.sleep(self._source.seconds * (stop - start))
        return self._source.array[start:stop]
