"""Folders that tasks write in: on a local or shared disk, or under a URL of any fsspec file system."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import dask
import psutil

from labelsieve.errors import (
    InvalidInputError,
    LabelsieveError,
    UnreadableDataError,
    UnwritableError,
    WorkdirError,
    warn,
)
from labelsieve.storage.urls import cause_of, check_credentials, check_place, filesystem, is_url, redacted

# A record is written in a few large pieces.
_BUFFER_BYTES: Final = 1 << 18


class Output:
    """A file that is being written.

    Parameters
    ----------
    file : binary file
        Open for writing.
    where : str
        Its path, for messages.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where = file, where

    def write(self, content: bytes | memoryview) -> None:
        """Append to the file."""
        with writing(self._where):
            self._file.write(content)


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Raise `UnwritableError` if the block fails to write to the path or URL `where`.

    On a disk that are errors of the operating system; clients of remote stores may raise any error.
    """
    try:
        yield
    except LabelsieveError:
        raise
    except Exception as error:
        remote = is_url(where)
        if not remote and not isinstance(error, OSError):
            raise
        check_credentials(error, where, where)
        # Without the name in the system's error, which may be that of a temporary file.
        why = cause_of(error, where) if remote else getattr(error, "strerror", None) or str(error)
        raise UnwritableError(f"{where} cannot be written: {why}") from (None if remote else error)


def local_disk() -> str:
    """Return where Dask or Python keep temporary files, unless that is memory and there is a disk."""
    chosen = dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    if is_memory(Path(chosen)):
        others = [path for path in (Path("/var/tmp"), Path.cwd()) if os.access(path, os.W_OK) and not is_memory(path)]  # noqa: S108  # made private by mkdtemp
        if not others:
            warn(f"{chosen} is kept in memory, so what goes there takes as much: set TMPDIR to a folder on a disk")
        return str(others[0]) if others else str(chosen)
    return str(chosen)


def is_memory(folder: Path) -> bool:
    """Tell whether `folder` is on a file system in memory (tmpfs), where files take memory."""
    try:
        mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    except OSError:
        return False
    around = (path for path in (folder.resolve(), *folder.resolve().parents) if path in mounts)
    return mounts.get(next(around, folder), "") in ("tmpfs", "ramfs")


class Folder(abc.ABC):
    """A place for files, as a description: it travels to whoever writes there."""

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """The path or URL."""

    @abc.abstractmethod
    def folder(self, name: str) -> Folder:
        """Return a folder in this one; it need not exist."""

    @abc.abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """

    @abc.abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""

    @abc.abstractmethod
    def create(self, name: str) -> AbstractContextManager[Output]:
        """Give a file to write; it appears under its name when the block ends, and not at all if the block fails.

        Raises
        ------
        UnwritableError
            If it cannot be written; what the block itself raises comes as it is.
        """

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a whole file at once."""
        with self.create(name) as file:
            file.write(content)

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Return the names of the files and folders in it, none where it does not exist."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it exists."""

    def remove_all(self) -> None:
        """Empty the folder."""
        for name in self.names():
            self.remove(name)

    @abc.abstractmethod
    def delete(self) -> None:
        """Remove the folder itself, if it exists."""


def open_folder(location: str | os.PathLike[str], name: str = "the folder") -> Folder:
    """Return the folder at a path or URL, without making it; `name` says what it is for, for messages.

    Raises
    ------
    InvalidInputError
        If it is not a valid location (see `check_place`), or a URL with a query, to which no names can be appended.
    """
    place = check_place(name, location)
    if is_url(place):
        if redacted(place) != place:
            raise InvalidInputError(f"{name}: {redacted(place)} is given with a query; the URL of a folder has none")
        scheme, _, path = place.partition("://")
        # A local file is one thing, by path or by URL: one lock, one place.
        return LocalFolder(Path(path).absolute()) if scheme in ("file", "local") else UrlFolder(place)
    return LocalFolder(Path(place).absolute())


class LocalFolder(Folder):
    """A folder on a local disk, or a shared one that is mounted.

    Parameters
    ----------
    path : Path
        Absolute.
    """

    def __init__(self, path: Path, around: LocalFolder | None = None) -> None:
        self.path = path
        self._around = around  # kept, so that a temporary folder lasts as long as any folder in it

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_around": None}

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in this one."""
        return LocalFolder(self.path / name, self)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of a file."""
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading, unbuffered: who reads here reads blocks."""
        return (self.path / name).open("rb", buffering=0)

    @contextmanager
    def create(self, name: str, *, durable: bool = False) -> Iterator[Output]:
        """Give a file to write, and rename it into its place.

        No fsync unless it is to be durable: a record that a power cut left torn is found by its checksum, and made
        again.
        """
        final = self.path / name
        where = str(final)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        with writing(where):
            try:
                file = temporary.open("wb", buffering=_BUFFER_BYTES)
            except FileNotFoundError:
                final.parent.mkdir(parents=True, exist_ok=True)
                file = temporary.open("wb", buffering=_BUFFER_BYTES)
        try:
            yield Output(file, where)
            with writing(where):
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
                file.close()
                temporary.replace(final)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a whole file at once, to stay: these are few, and others rest on them."""
        with self.create(name, durable=True) as file:
            file.write(content)

    def names(self) -> list[str]:
        """Return the names in it."""
        try:
            return sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise WorkdirError(f"{self.where} is a file") from error

    def remove(self, name: str) -> None:
        """Remove a file or a folder."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


class UrlFolder(Folder):
    """A prefix in an object store, or a folder of another file system that fsspec knows.

    Parameters
    ----------
    url : str
        Its URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __repr__(self) -> str:
        return f"UrlFolder({self.where!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}  # connections stay here

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return filesystem(self.url)

    def _path(self, name: str) -> tuple[Any, str]:
        fs, path = self._opened
        return fs, f"{path}/{name}"

    @contextmanager
    def _reading(self, name: str = "") -> Iterator[None]:
        """Raise what keeps the folder from being read, with nothing secret in it."""
        where = f"{self.where}/{name}".rstrip("/")
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {where}") from None
        except LabelsieveError:
            raise
        except Exception as error:  # noqa: BLE001  # clients of remote stores raise what they like
            check_credentials(error, where, self.url)
            raise UnreadableDataError(f"{where} is not readable: {cause_of(error, self.url)}") from None

    @property
    def where(self) -> str:
        """The URL."""
        return self.url

    def folder(self, name: str) -> UrlFolder:
        """Return a folder in this one."""
        return UrlFolder(f"{self.url}/{name}")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of an object."""
        with self._reading(name):
            fs, path = self._path(name)
            return bytes(fs.cat_file(path) if not start and stop is None else fs.cat_file(path, start=start, end=stop))

    def open(self, name: str) -> IO[bytes]:
        """Open an object for reading, some megabytes at a time."""
        with self._reading(name):
            fs, path = self._path(name)
            file: IO[bytes] = fs.open(path, "rb", block_size=8 << 20, cache_type="readahead")
            return file

    @contextmanager
    def create(self, name: str) -> Iterator[Output]:
        """Give a temporary file to write, and put it into the store at the end: an object appears whole."""
        with tempfile.NamedTemporaryFile(prefix="labelsieve-", dir=local_disk()) as file:
            yield Output(file, f"a temporary file for {self.where}")
            with writing(self.where):
                file.flush()
                self._made(name).put_file(file.name, self._path(name)[1])

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write an object in one request."""
        with writing(self.where):
            self._made(name).pipe_file(self._path(name)[1], bytes(content))

    def _made(self, name: str) -> Any:
        """Return the file system, with the folder of `name` in it where it has folders."""
        fs, path = self._path(name)
        with contextlib.suppress(NotImplementedError):
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return fs

    def names(self) -> list[str]:
        """Return the names in it."""
        try:
            with self._reading():
                fs, path = self._opened
                fs.invalidate_cache(path)
                return sorted(entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Remove an object or all below a prefix."""
        self._remove(f"/{name}")

    def delete(self) -> None:
        """Remove all below the prefix."""
        self._remove("")

    def _remove(self, below: str) -> None:
        with writing(self.where):
            fs, path = self._opened
            fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                fs.rm(f"{path}{below}", recursive=True)
