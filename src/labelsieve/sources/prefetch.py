"""Prefetching: threads fetch the next chunks while the caller works on the current one."""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final

import numpy.typing as npt

from labelsieve.sources.base import ChunkedRows, Source
from labelsieve.storage.cancellation import Cancellation

# Bytes that one open source prefetches, unless two chunks are larger; about 100 ms of a 10 Gbit line.
AHEAD_BYTES: Final = 64_000_000
_MOST_REQUESTS: Final = 32


def n_ahead(chunk_bytes: int) -> int:
    """Return how many chunks of at most `chunk_bytes` bytes one open source prefetches."""
    return max(2, min(_MOST_REQUESTS, AHEAD_BYTES // max(1, chunk_bytes)))


def ahead_bytes(chunk_bytes: int) -> int:
    """Return the most that an open source holds: chunks ahead, the one in use, and the copy that joins one."""
    return (n_ahead(chunk_bytes) + 2) * chunk_bytes


class Prefetcher:
    """Fetch numbered chunks in threads, a bounded number of them ahead of a caller that takes them in ascending order.

    An error is raised to the caller that takes the chunk.

    Parameters
    ----------
    fetch : callable
        Given a number, returns the chunk; called in several threads.
    first, last : int
        Chunks ``[first, last)`` are prefetched, others are fetched when they are taken.
    depth : int
        Most chunks ahead.
    """

    def __init__(self, fetch: Callable[[int], Any], first: int, last: int, depth: int) -> None:
        self._fetch, self._first, self._last, self._depth = fetch, first, last, depth
        self._chunks: dict[int, Future[Any]] = {}
        self._closed = Cancellation()
        self._pool = ThreadPoolExecutor(max(1, min(depth, last - first)), "labelsieve-prefetch")

    def start(self) -> None:
        """Begin before the first chunk is taken."""
        for index in range(self._first, min(self._first + self._depth, self._last)):
            if index not in self._chunks:
                with self._closed.heeded():
                    # In a copy of this context, what cancels the caller cancels the fetch too.
                    context = copy_context()
                self._chunks[index] = self._pool.submit(context.run, self._fetch, index)

    def take(self, index: int) -> Any:
        """Return chunk `index`, and prefetch those behind it."""
        if not self._first <= index < self._last:
            return self._fetch(index)
        for skipped in [i for i in self._chunks if i < index]:
            future = self._chunks.pop(skipped)
            if not future.cancel():
                future.exception()  # in flight: without waiting, more than `depth` would be held
        self._first = index
        self.start()
        chunk = self._chunks.pop(index).result()
        self._first = index + 1
        self.start()
        return chunk

    def close(self) -> None:
        """Fetch no more, and wait for what is in flight, which is not repeated if it fails."""
        self._closed.request()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._chunks.clear()


class PrefetchedRows(ChunkedRows):
    """Rows in chunks that are prefetched.

    Parameters
    ----------
    source : Source
        Gives the shape and dtype, and opens again for rows outside the range.
    chunk_rows, origin : int
        As in `ChunkedRows`.
    start, stop : int
        Rows that will be read. Where `stop` is None that is not known, and nothing is fetched before the first read.
    depth : int
        Most chunks ahead.
    """

    def __init__(self, source: Source, chunk_rows: int, origin: int, start: int, stop: int | None, depth: int) -> None:
        super().__init__(source, chunk_rows, origin)
        self._source, self._start = source, start
        self._stop = source.n_rows if stop is None else min(stop, source.n_rows)
        first, last = (start - origin) // chunk_rows, -((origin - self._stop) // chunk_rows)
        self._prefetcher = Prefetcher(self._fetch, first, last, depth)
        if stop is not None:
            self._prefetcher.start()

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)``."""
        if start < self._start or stop > self._stop:
            with self._source.open(start, stop) as rows:
                return rows.read(start, stop)
        return super().read(start, stop)

    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        for row in range(start, stop, self._chunk_rows):
            index = (row - self._origin) // self._chunk_rows
            self._decode(index, self._prefetcher.take(index), out[row - start : row - start + self._chunk_rows])

    @abc.abstractmethod
    def _fetch(self, index: int) -> Any:
        """Fetch a chunk; called in threads."""

    def _decode(self, index: int, fetched: Any, out: npt.NDArray[Any]) -> None:  # noqa: ARG002  # for those who decode
        """Write what `_fetch` returned for a chunk to `out`; by default an array, which may have fewer rows."""
        out[: len(fetched)] = fetched

    def _bounds(self, index: int) -> tuple[int, int]:
        """Return the row range ``[start, stop)`` of a chunk, up to the last row that will be read."""
        start = self._origin + index * self._chunk_rows
        return start, min(start + self._chunk_rows, self._stop)

    def close(self) -> None:
        """Wait for what is in flight."""
        self._prefetcher.close()
