"""Stored objects of any fsspec file system: ranged reads, listings and versions.

A request that fails is repeated by the file system, which knows the transient errors: `labelsieve.storage.s3` and
`labelsieve.storage.web` do so by the limits of `labelsieve.storage.limits`. What still fails raises
`UnreadableDataError`, and the task that made the request is repeated (`retries.retry`).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Self

from labelsieve.errors import InvalidInputError, UnreadableDataError
from labelsieve.storage.file_systems import filesystem
from labelsieve.storage.urls import cause_of, check_credentials, url_of, without_query

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

    def list_folder(self, name: str, path: str) -> list[dict[str, Any]]:
        """Return size and more of all objects in a folder; [] where there are none."""
        return self._listing(name, path, lambda: self.fs.ls(path, detail=True))

    def list_below(self, name: str, path: str) -> list[dict[str, Any]]:
        """Return size and more of all objects below a folder."""
        return self._listing(name, path, lambda: self.fs.find(path, detail=True).values())

    def match(self, name: str, pattern: str) -> list[dict[str, Any]]:
        """Return size and more of all objects and folders that match a pattern."""
        return self._listing(name, pattern, lambda: self.fs.glob(pattern, detail=True).values())

    def _listing(self, name: str, path: str, infos: Any) -> list[dict[str, Any]]:
        try:
            with self._request(path, name=name):
                self.fs.invalidate_cache()
                return [dict(info) for info in infos()]
        except NOT_FOUND:
            return []

    def has(self, path: str, names: Sequence[str]) -> bool:
        """Return whether a folder holds one of some names."""
        return any(self.read(f"{path.rstrip('/')}/{child}", 0, 1)[0] is not None for child in names)
