"""Stored objects of any fsspec file system: ranged reads, listings and versions.

A request that fails is repeated by the file system, which knows the transient errors: `labelsieve.storage.s3` and
`labelsieve.storage.web` do so by the limits of `labelsieve.storage.remote`. What still fails raises
`UnreadableDataError`, and the task that made the request is repeated (`retry`).
"""

from __future__ import annotations

import abc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any, Final, Literal, Self, TypeVar

import numpy.typing as npt

from labelsieve.errors import ChangedDataError, InvalidInputError, UnreadableDataError
from labelsieve.sources.source import ChunkedRows, Source
from labelsieve.storage import remote as limits
from labelsieve.storage.folder import filesystem
from labelsieve.storage.remote import (
    RETRY_LOG,
    Cancellation,
    cause_of,
    check_credentials,
    is_cancelled,
    url_of,
    without_query,
)

# File systems that are not asynchronous inside (FTP, archives) may have one connection and one position in it.
_LOCKS: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK: Final = threading.Lock()

# Of web servers, which do not say why.
_REFUSED_STATUS: Final = (401, 403)

NOT_FOUND: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class RefusedError(UnreadableDataError):
    """The store does not permit a request, such as listing a folder whose objects may be read; it is not repeated."""


def unreadable(error: BaseException, message: str) -> UnreadableDataError:
    """Return the error to raise for one of a file system: a `RefusedError` if it did not permit the request."""
    if getattr(error, "status", 0) in _REFUSED_STATUS:
        return RefusedError(f"{message} (if the URL is signed, its signature may have expired)")
    return (RefusedError if isinstance(error, PermissionError) else UnreadableDataError)(message)


class ObjectStore:
    """The objects of one file system; every error names the URL without its secrets.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Synchronous, of this process.
    url : str
        The URL that was opened, if any; its secrets are removed from error messages.
    """

    def __init__(self, fs: Any, url: str = "") -> None:
        self.fs, self._url = fs, url
        self._lock: AbstractContextManager[Any] = nullcontext()
        if not fs.async_impl:
            with _LOCKS_LOCK:
                self._lock = _LOCKS.setdefault(fs, threading.Lock())

    @classmethod
    def at(cls, url: str) -> tuple[Self, str]:
        """Return the file system of a URL, and the path in it."""
        fs, path = filesystem(url)
        return cls(fs, url), path

    def shown(self, path: str) -> str:
        """Return the URL of `path` without secrets."""
        return without_query(url_of(self.fs, path))

    @contextmanager
    def _request(self, path: str, what: str = "", name: str = "") -> Iterator[None]:
        """Translate any error but "not found" into one that says in one line where and why."""
        try:
            with self._lock:
                yield
        except NOT_FOUND:
            raise
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            where = (f"{name}: " if name else "") + self.shown(path) + (f" ({what})" if what else "")
            url = self._url or url_of(self.fs, path)
            check_credentials(error, where, url)
            raise unreadable(error, f"{where} is not readable: {cause_of(error, url)}") from None

    def read(self, path: str, start: int, stop: int, what: str = "") -> tuple[bytes | None, str]:
        """Return bytes ``[start, stop)`` of an object and its version.

        There are fewer bytes where the object ends earlier, and None where there is no object. The version is "" where
        the answer does not include it.

        Parameters
        ----------
        path : str
            In the file system.
        start, stop : int
            Bytes.
        what : str
            What they hold, for messages.
        """
        try:
            with self._request(path, what):
                if not self.tells_versions:
                    return bytes(self.fs.cat_file(path, start=start, end=stop)), ""
                from fsspec.asyn import sync

                found: tuple[bytes, str] = sync(self.fs.loop, self.fs.read_version, path, start, stop)
                return found
        except NOT_FOUND:
            return None, ""

    @property
    def tells_versions(self) -> bool:
        """Whether each answer includes the version of the object, as those of S3 and of web servers do."""
        return hasattr(self.fs, "read_version")

    def info(self, name: str, path: str) -> dict[str, Any]:
        """Return size and more of one object.

        Raises
        ------
        InvalidInputError
            Naming `name` and the URL, where there is no such object.
        UnreadableDataError
            Where the request fails.
        """
        try:
            with self._request(path, name=name):
                self.fs.invalidate_cache()  # of a listing made before the object was rewritten
                return dict(self.fs.info(path))
        except NOT_FOUND:
            raise InvalidInputError(f"{name}: there is no file {self.shown(path)}") from None

    def listed(self, name: str, path: str, how: Literal["ls", "find", "glob"]) -> list[dict[str, Any]]:
        """Return size and more of what is in a folder (ls), below it (find) or matches a pattern (glob)."""
        try:
            with self._request(path, name=name):
                self.fs.invalidate_cache()
                found = getattr(self.fs, how)(path, detail=True)
                return [dict(info) for info in (found if how == "ls" else found.values())]
        except NOT_FOUND:
            return []

    def has(self, path: str, names: Sequence[str]) -> bool:
        """Return whether a folder holds one of some names."""
        return any(self.read(f"{path.rstrip('/')}/{child}", 0, 1)[0] is not None for child in names)


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
