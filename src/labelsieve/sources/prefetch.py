"""Reading ahead: what comes next is fetched in threads while the rows before it are worked on.

Errors are raised again by whoever takes the piece. Trying again is left to the file system, which knows what may be.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Self

from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.storage.urls import cause_of, check_credentials, filesystem, url_of, version_of, without_query

# What one handle holds ahead, unless two pieces are larger; enough for about 100 ms of a 10 Gbit line.
AHEAD_BYTES: Final = 64_000_000
_MOST_REQUESTS: Final = 32
# File systems that are not asynchronous inside (FTP, archives) may have one connection and one position in it.
_ONE_AT_A_TIME: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_REGISTERING: Final = threading.Lock()

Missing = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class RefusedError(UnreadableDataError):
    """What the store does not permit, such as to list what may be read."""


class Objects:
    """The stored objects of one file system; every error names the URL as it may be shown.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Synchronous, of this process.
    url : str
        What was opened, if it was a URL: what is secret in it is kept out of errors.
    """

    def __init__(self, fs: Any, url: str = "") -> None:
        self.fs, self._url = fs, url
        self._turn: AbstractContextManager[Any] = nullcontext()
        if not fs.async_impl:
            with _REGISTERING:
                self._turn = _ONE_AT_A_TIME.setdefault(fs, threading.Lock())

    @classmethod
    def at(cls, url: str) -> tuple[Self, str]:
        """Return the file system of a URL, and the path in it."""
        fs, path = filesystem(url)
        return cls(fs, url), path

    def shown(self, path: str) -> str:
        """Return the URL of `path` as it may be shown."""
        return without_query(url_of(self.fs, path))

    def get(self, path: str, start: int, stop: int, what: str = "") -> bytes | None:
        """Return bytes ``[start, stop)``, fewer where the object ends before; None where there is no object.

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
            with self._turn:
                return bytes(self.fs.cat_file(path, start=start, end=stop))
        except Missing:
            return None
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            raise self.unreadable(path, error, what) from None

    def get_version(self, path: str, start: int, stop: int, what: str = "") -> tuple[bytes | None, str]:
        """Return what `get` returns, and the version of the object that it is of; "" where that is not known.

        S3 sends size and ETag with each answer.
        """
        if not self.tells_versions:
            return self.get(path, start, stop, what), ""
        from fsspec.asyn import sync

        try:
            found: tuple[bytes, str] = sync(self.fs.loop, _of_s3, self.fs, path, start, stop)
        except Missing:
            return None, ""
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            raise self.unreadable(path, error, what) from None
        return found

    @property
    def tells_versions(self) -> bool:
        """Whether each answer states the version of the object; on S3 it does, though fsspec does not promise it."""
        return hasattr(self.fs, "_call_s3") and hasattr(self.fs, "retries")

    def info(self, name: str, path: str) -> dict[str, Any]:
        """Return size and more of one object.

        Raises
        ------
        InvalidInputError
            Naming `name` and the URL, where there is no such object.
        UnreadableDataError
            Where it cannot be looked at.
        """
        try:
            with self._turn:
                self.fs.invalidate_cache()  # of a listing made before the object was written anew
                return dict(self.fs.info(path))
        except Missing:
            raise InvalidInputError(f"{name}: there is no file {self.shown(path)}") from None
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            raise self.unreadable(path, error, name=name) from None

    def listing(self, name: str, path: str, *, deep: bool = False, prefix: str = "") -> list[dict[str, Any]]:
        """Return size and more of all objects in a folder, of all below it where `deep`; [] where there are none.

        `prefix` leaves out those below whose path from there does not begin with it, where `lists_prefixes`.
        """
        try:
            with self._turn:
                self.fs.invalidate_cache()
                if deep:
                    options = {"prefix": prefix} if prefix else {}
                    return [dict(info) for info in self.fs.find(path, detail=True, **options).values()]
                return [dict(info) for info in self.fs.ls(path, detail=True)]
        except Missing:
            return []
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            raise self.unreadable(path, error, name=name) from None

    @property
    def lists_prefixes(self) -> bool:
        """Whether a part of a long listing can be had by itself."""
        return "prefix" in inspect.signature(getattr(self.fs, "_find", self.fs.find)).parameters

    def match(self, name: str, pattern: str) -> list[dict[str, Any]]:
        """Return size and more of all objects and folders that match a pattern."""
        try:
            with self._turn:
                self.fs.invalidate_cache()
                return [dict(info) for info in self.fs.glob(pattern, detail=True).values()]
        except Missing:
            return []
        except Exception as error:  # noqa: BLE001  # file systems raise what they like
            raise self.unreadable(pattern, error, name=name) from None

    def has(self, path: str, names: Sequence[str]) -> bool:
        """Tell whether a folder holds one of some names."""
        return any(self.get(f"{path.rstrip('/')}/{child}", 0, 1) is not None for child in names)

    def unreadable(self, path: str, error: BaseException, what: str = "", name: str = "") -> UnreadableDataError:
        """Return the error that says where and why, in one line."""
        where = (f"{name}: " if name else "") + self.shown(path) + (f" ({what})" if what else "")
        url = self._url or url_of(self.fs, path)
        check_credentials(error, where, url)
        kind = RefusedError if isinstance(error, PermissionError) else UnreadableDataError
        return kind(f"{where} is not readable: {cause_of(error, url)}")


async def _of_s3(fs: Any, path: str, start: int, stop: int) -> tuple[bytes, str]:
    """Return bytes ``[start, stop)`` of an object, and its version; the body is asked for again where it breaks off.

    Without an ETag its version is not known: listings tell the time of the last write otherwise than answers do.
    """
    import asyncio

    from s3fs.core import S3_RETRYABLE_ERRORS  # type: ignore[import-untyped]  # it has no types

    bucket, key, version = fs.split_path(path)
    given = {"VersionId": version} if version else {}
    for attempt in range(fs.retries):
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **given)  # noqa: SLF001
        try:
            body = await answer["Body"].read()
        except S3_RETRYABLE_ERRORS:
            if attempt + 1 == fs.retries:
                raise
            await asyncio.sleep(min(1.7**attempt * 0.1, 15))
            continue
        finally:
            answer["Body"].close()
        size = str(answer.get("ContentRange", "")).rpartition("/")[2] or answer.get("ContentLength")
        return body, version_of({"size": size, "ETag": answer.get("ETag")})
    raise RuntimeError("there is at least one attempt")


def n_ahead(piece_bytes: int) -> int:
    """Return how many pieces of at most `piece_bytes` bytes one handle fetches ahead."""
    return max(2, min(_MOST_REQUESTS, AHEAD_BYTES // max(1, piece_bytes)))


def ahead_bytes(piece_bytes: int) -> int:
    """Return the most that a handle holds: pieces ahead, the one in use, and the copy that joins one."""
    return (n_ahead(piece_bytes) + 2) * piece_bytes


class ReadAhead:
    """Fetches numbered pieces in threads, a bounded number of them ahead of who takes them in ascending order.

    Parameters
    ----------
    fetch : callable
        Given a number, returns its piece; called in several threads.
    first, last : int
        Pieces ``[first, last)`` are fetched ahead, others when they are asked for.
    depth : int
        Most pieces ahead.
    """

    def __init__(self, fetch: Callable[[int], bytes | None], first: int, last: int, depth: int) -> None:
        self._fetch, self._next, self._last, self._depth = fetch, first, last, depth
        self._pieces: dict[int, Future[bytes | None]] = {}
        self._pool = ThreadPoolExecutor(max(1, min(depth, last - first)), "labelsieve-read-ahead")

    def start(self) -> None:
        """Begin to fetch before the first piece is asked for."""
        while len(self._pieces) < self._depth and self._next < self._last:
            self._pieces[self._next] = self._pool.submit(self._fetch, self._next)
            self._next += 1

    def take(self, index: int) -> bytes | None:
        """Return piece `index`, and go on fetching behind it."""
        if self._next < index < self._last:
            self._next = index  # the caller has left some out
        if index == self._next < self._last:
            self._drop_before(index)
            self.start()
        if index not in self._pieces:
            return self._fetch(index)
        self._drop_before(index)
        piece = self._pieces.pop(index).result()
        self.start()
        return piece

    def _drop_before(self, index: int) -> None:
        """Let go of pieces that were passed over; those in flight have to land first, or more would be held."""
        for passed in [i for i in self._pieces if i < index]:
            future = self._pieces.pop(passed)
            if not future.cancel():
                future.exception()

    def close(self) -> None:
        """Fetch no more; returns when nothing is in flight."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pieces.clear()
