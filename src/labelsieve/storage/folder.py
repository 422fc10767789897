"""Folders in which tasks write, on disks and at URLs, and the lock that one run at a time holds."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import psutil

from labelsieve.errors import (
    InUseError,
    InvalidInputError,
    LabelsieveError,
    MissingDependencyError,
    UnreadableDataError,
    UnwritableError,
    WorkdirError,
    warn,
)
from labelsieve.storage.remote import cause_of, check_credentials, check_place, is_url, is_web, without_query

# The extra that installs the file system of a scheme. For other schemes fsspec names the package.
_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of `url`, which any thread may use, and the path in it.

    Raises
    ------
    MissingDependencyError
        If the package for S3 is not installed.
    InvalidInputError
        If no installed package knows the scheme.
    """
    import fsspec

    scheme = url.partition("://")[0].lower()
    try:
        kind = _own_kind(scheme)
        if kind is None:
            fs, path = fsspec.core.url_to_fs(url)
            return fs, path
        configured = {key: value for name in kind.protocol for key, value in fsspec.config.conf.get(name, {}).items()}
        fs = kind(**kind._get_kwargs_from_urls(url), **kind.options(configured))  # noqa: SLF001  # as fsspec does
        return fs, str(fs._strip_protocol(url))  # noqa: SLF001
    except Exception as error:
        if isinstance(error, ImportError) and scheme in _EXTRAS:
            raise MissingDependencyError(f"Reading {scheme}:// URLs", _EXTRAS[scheme]) from error
        # A file system may do anything here, even send a request to its server.
        raise InvalidInputError(f"{without_query(url)} cannot be opened: {cause_of(error, url)}") from None


def for_threads(fs: Any) -> Any:
    """Return a file system with the options of `fs`, which may be one for coroutines, for use in threads."""
    inner = getattr(fs, "sync_fs", None)
    if inner is not None:
        return inner
    options = {**fs.storage_options, "asynchronous": False}
    kind = _own_kind(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])
    if kind is not None and type(fs) in kind.__bases__:
        return kind(*fs.storage_args, **{**options, **kind.options(options)})
    return type(fs)(*fs.storage_args, **options)


def zarr_store(url: str, *, read_only: bool = True) -> Any:
    """Return a Zarr store at a URL in this process.

    It wraps the file system that the process has for this URL: Zarr's event loop would need another client, which
    nobody closes.
    """
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    fs, path = filesystem(url)
    return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=read_only, path=path.rstrip("/"))


def _own_kind(scheme: str) -> Any:
    """Return the class of this package for a scheme; None where fsspec's own is used."""
    if scheme in _EXTRAS:
        from labelsieve.storage.s3 import S3

        return S3
    if is_web(f"{scheme}://"):
        from labelsieve.storage.web import Web

        return Web
    return None


# Records are written in few large pieces.
_BUFFER_BYTES: Final = 1 << 18
_REQUEST_BYTES: Final = 8 << 20


class OutputFile:
    """A file that is being written.

    Parameters
    ----------
    file : binary file
        Open for writing.
    where : str
        Path or URL, for messages.
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

    On a disk the failures are errors of the operating system; clients of remote stores may raise any error.
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


def temporary_folder() -> str:
    """Return the folder in which Dask or Python put temporary files, or one on a disk if that is in memory."""
    from dask import config  # here, as Dask takes longer to import than a saved result to open

    chosen = config.get("temporary-directory", None) or tempfile.gettempdir()
    if is_memory(Path(chosen)):
        others = [path for path in (Path("/var/tmp"), Path.cwd()) if os.access(path, os.W_OK) and not is_memory(path)]  # noqa: S108  # mkdtemp makes a private folder in it
        if not others:
            warn(f"{chosen} is in memory, so temporary files take memory: set TMPDIR to a folder on a disk")
        return str(others[0]) if others else str(chosen)
    return str(chosen)


def is_memory(folder: Path) -> bool:
    """Return whether `folder` is on a file system in memory (tmpfs), where files take memory."""
    try:
        mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    except OSError:
        return False
    around = (path for path in (folder.resolve(), *folder.resolve().parents) if path in mounts)
    return mounts.get(next(around, folder), "") in ("tmpfs", "ramfs")


class LocalFolder:
    """A folder on a local disk, or a shared one that is mounted. It need not exist, and can be pickled.

    Parameters
    ----------
    path : Path
        Absolute.
    around : LocalFolder, optional
        A temporary folder that must not be removed as long as this folder is referenced.
    """

    def __init__(self, path: Path, around: LocalFolder | None = None) -> None:
        self.path, self.where, self._around = path, str(path), around

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFolder, (self.path,)

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in this one."""
        return LocalFolder(self.path / name, self)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        return (self.path / name).open("rb")

    @contextmanager
    def create(self, name: str, *, durable: bool = False) -> Iterator[OutputFile]:
        """Open a file for writing; it appears under its name when the block ends, and not at all if the block fails.

        It is a temporary file that is renamed at the end. Without `durable` there is no fsync: a record that a
        power cut has damaged is found by its checksums and made again.

        Raises
        ------
        UnwritableError
            If it cannot be written. Other errors of the block are not changed.
        """
        final = self.path / name
        where = str(final)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        with writing(where):
            final.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb", buffering=_BUFFER_BYTES)
        try:
            yield OutputFile(file, where)
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
        """Write a whole file at once, with fsync: there are few such files, and others depend on them."""
        with self.create(name, durable=True) as file:
            file.write(content)

    def write_new(self, name: str, content: bytes | memoryview) -> None:
        """Write a whole file at once, with fsync, that no other process has written.

        Raises
        ------
        FileExistsError
            If there is a file of this name, with other content.
        """
        final = self.path / name
        temporary = f".{final.name}.{uuid.uuid4().hex}"
        self.write(temporary, content)
        try:
            os.link(self.path / temporary, final)
        except FileExistsError:
            if final.read_bytes() != content:
                raise
        except OSError:  # a file system without links
            if final.exists():
                raise FileExistsError(str(final)) from None
            with writing(str(final)):
                (self.path / temporary).replace(final)
        finally:
            (self.path / temporary).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names of the files and folders in it; none if it does not exist."""
        try:
            return sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise WorkdirError(f"{self.where} is a file, not a folder") from error

    def is_folder(self) -> bool:
        """Return whether it exists."""
        return self.path.is_dir()

    def remove(self, name: str) -> None:
        """Remove a file, or a folder and everything in it, if it exists."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the folder itself, if it exists."""
        shutil.rmtree(self.path, ignore_errors=True)


class UrlFolder:
    """A prefix in an object store, or a folder of another file system that fsspec knows; as `LocalFolder`.

    Parameters
    ----------
    url : str
        Its URL.
    """

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return UrlFolder, (self.where,)  # without connections

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return filesystem(self.where)

    def _path(self, name: str) -> tuple[Any, str]:
        fs, path = self._opened
        return fs, f"{path}/{name}"

    @contextmanager
    def _reading(self, name: str = "") -> Iterator[None]:
        """Raise a Labelsieve error if the block fails to read."""
        where = f"{self.where}/{name}".rstrip("/")
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {where}") from None
        except LabelsieveError:
            raise
        except Exception as error:  # noqa: BLE001  # clients of remote stores may raise any error
            check_credentials(error, where, self.where)
            raise UnreadableDataError(f"{where} is not readable: {cause_of(error, self.where)}") from None

    def folder(self, name: str) -> UrlFolder:
        """Return a folder in this one."""
        return UrlFolder(f"{self.where}/{name}")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``[start, stop)`` of an object."""
        with self._reading(name):
            fs, path = self._path(name)
            return bytes(fs.cat_file(path, start=start or None, end=stop))

    def open(self, name: str) -> Any:
        """Open an object for reading. A small one is read with one request, a large one with some megabytes each."""
        with self._reading(name):
            fs, path = self._path(name)
            size = int(fs.info(path)["size"])
        if size > _REQUEST_BYTES:
            return io.BufferedReader(RangedFile(partial(self.read, name), size), _REQUEST_BYTES)
        return io.BytesIO(self.read(name))

    @contextmanager
    def create(self, name: str) -> Iterator[OutputFile]:
        """Open a temporary file for writing, and upload it at the end: an object is never incomplete."""
        with tempfile.NamedTemporaryFile(prefix="labelsieve-", dir=temporary_folder()) as file:
            yield OutputFile(file, f"a temporary file for {self.where}")
            with writing(self.where):
                file.flush()
                self._with_parent(name).put_file(file.name, self._path(name)[1])

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write an object in one request."""
        with writing(self.where):
            self._with_parent(name).pipe_file(self._path(name)[1], bytes(content))

    def write_new(self, name: str, content: bytes | memoryview) -> None:
        """Write an object in one request, if there is none of this name; see `LocalFolder`.

        Stores with conditional requests, as S3 has, refuse the second of two writers at the same time.
        """
        if not self.has(name):
            try:
                with writing(self.where):
                    self._with_parent(name).pipe_file(self._path(name)[1], bytes(content), mode="create")
            except UnwritableError:
                # What a store answers for a name that is taken differs.
                if not self.has(name):
                    raise
            else:
                return
        # A request that was repeated may find what it wrote itself.
        if self.read(name) != bytes(content):
            raise FileExistsError(f"{self.where}/{name}")

    def has(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        with self._reading(name):
            fs, path = self._path(name)
            fs.invalidate_cache()
            return bool(fs.exists(path))

    def _with_parent(self, name: str) -> Any:
        """Return the file system, after making the parent folder of `name` where there are folders."""
        fs, path = self._path(name)
        _make_parent(fs, path)
        return fs

    def is_folder(self) -> bool:
        """Return whether there is something below the URL."""
        with self._reading():
            fs, path = self._opened
            fs.invalidate_cache()
            return bool(fs.isdir(path))

    def upload(self, made: Path) -> None:
        """Replace what is at the URL by a local file, or by a local folder of files."""
        if made.is_dir() or self.is_folder():
            self.delete()
        with writing(self.where):
            fs, path = self._opened
            files = {f"{path}/{file.name}": file for file in sorted(made.iterdir())} if made.is_dir() else {path: made}
            for target, file in files.items():
                _make_parent(fs, target)
                fs.put_file(str(file), target)

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
        """Remove an object, or all objects below a prefix."""
        self._remove(f"/{name}")

    def delete(self) -> None:
        """Remove all objects below the prefix."""
        self._remove("")

    def _remove(self, below: str) -> None:
        with writing(self.where):
            fs, path = self._opened
            fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                fs.rm(f"{path}{below}", recursive=True)


class RangedFile(io.RawIOBase):
    """A file of which each read takes a range of bytes.

    Parameters
    ----------
    fetch : callable
        Returns bytes ``[start, stop)``.
    size : int
        Bytes of the file.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._fetch, self._size, self._position = fetch, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read from the position on."""
        stop = min(self._size, self._position + len(buffer))
        got = self._fetch(self._position, stop) if stop > self._position else b""
        buffer[: len(got)] = got
        self._position += len(got)
        return len(got)


def _make_parent(fs: Any, path: str) -> None:
    with contextlib.suppress(NotImplementedError):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)


Folder: TypeAlias = LocalFolder | UrlFolder


def open_folder(location: str | os.PathLike[str], name: str = "the folder") -> Folder:
    """Return the folder at a path or URL, without making it; `name` says what it is for, for messages.

    Raises
    ------
    InvalidInputError
        If it is not a valid location (see `check_place`), or a URL with a query, to which no names can be appended.
    """
    place = check_place(name, location)
    if is_url(place):
        if without_query(place) != place:
            raise InvalidInputError(
                f"{name}: {without_query(place)} is given with a query; the URL of a folder has none"
            )
        scheme, _, path = place.partition("://")
        # The same folder by path and by URL has the same lock.
        return LocalFolder(Path(path).absolute()) if scheme in ("file", "local") else UrlFolder(place)
    return LocalFolder(Path(place).absolute())


@contextmanager
def shared_probe(folder: Folder) -> Iterator[Callable[[], None]]:
    """Yield a check for other processes, which raises unless they see the same `folder` and can write to it.

    The file that it reads is in the folder while the block runs; no other folder of that name has it.
    """
    name = f".probe-{uuid.uuid4().hex}"
    folder.write(name, b"")
    try:
        yield partial(_check_probe, folder, name)
    finally:
        folder.remove(name)


def _check_probe(folder: Folder, name: str) -> None:
    folder.read(name)
    mine = f".probe-{uuid.uuid4().hex}"
    folder.write(mine, b"")
    folder.remove(mine)


try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("labelsieve")

LOCK: Final = "lock"
RUN_ID: Final = "run.json"
# Seconds from one attempt to lock a file to the next.
_RETRY_SECONDS: Final = 1.0
_TIME: Final = "%Y-%m-%d %H:%M:%S UTC"


@contextmanager
def own_folder(folder: Folder, name: str, wait: float = 0) -> Iterator[Callable[[], None]]:
    """Own `folder` while the block runs; yield a check, which can be pickled, that raises if another run took over.

    Parameters
    ----------
    folder : Folder
        Created on a disk if it is missing.
    name : str
        What it is, for messages.
    wait : float
        Seconds to wait for another run that has locked the folder. A log message says which run that is.

    Raises
    ------
    InUseError
        If another run still has the lock after that time. Where there are no locks, if another run took over while the
        block ran and the block failed.
    """
    locked = _lock(folder, name, wait) if isinstance(folder, LocalFolder) and fcntl is not None else None
    if locked is not None:
        with locked:
            yield always_owned
        return
    run = _Run(folder, name, uuid.uuid4().hex)
    run.begin()
    try:
        yield run.check
    except InUseError:
        raise
    except Exception:
        with contextlib.suppress(OSError):  # the store may be what failed
            run.check()  # another run may have removed what this one needed
        raise
    finally:
        run.end()


@contextmanager
def abandoned(folder: Path) -> Iterator[bool]:
    """Yield whether a killed process of this machine owned a folder; if so, it is locked while the block runs.

    False if the owner is alive, and if that cannot be known: without a lock file, without locks in the system, and for
    an owner on another machine, whose lock is not always seen here.

    Parameters
    ----------
    folder : Path
        On a disk.
    """
    with contextlib.ExitStack() as stack:
        is_abandoned = False
        with contextlib.suppress(OSError, AttributeError):
            file = stack.enter_context((folder / LOCK).open("r+", errors="replace"))
            # An owner writes its name once it has the lock.
            is_named = file.read().endswith(f" on {socket.gethostname()}")
            if is_named:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_abandoned = _is_same(file, folder / LOCK)
        yield is_abandoned


def always_owned() -> None:
    """Check nothing: a lock cannot be taken away."""


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _lock(folder: LocalFolder, name: str, wait: float) -> IO[str] | None:
    """Return the locked file, which frees the lock when it is closed; None on a file system without locks."""
    deadline, logged = time.monotonic() + wait, False
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_lock(folder, name))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
            except OSError:
                return None
            else:
                if _is_same(file, folder.path / LOCK):
                    file.truncate(0)
                    file.write(_this_process())
                    file.flush()
                    stack.pop_all()
                    return file
                # Its owner has removed the folder in the meantime, and this file with it.
                owner = "a process that is ending: try again"
        error = InUseError(f"{name} is in use by {owner}")
        left = deadline - time.monotonic()
        if left <= 0:
            raise error
        if not logged:
            logger.warning("%s; waiting up to %g s for it", error, wait)
            logged = True
        time.sleep(min(left, _RETRY_SECONDS))


def _open_lock(folder: LocalFolder, name: str) -> IO[str]:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # The file is never removed: a third run could lock a new file while a second one waits for this one.
        return (folder.path / LOCK).open("a+")
    except OSError as error:
        raise WorkdirError(f"{name} cannot be written: {error}") from error


def _is_same(file: IO[str], path: Path) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class _Run:
    """A run that owns a folder as long as its id is there.

    Parameters
    ----------
    folder : Folder
        The folder.
    name : str
        What it is, for messages.
    run_id : str
        The id.
    """

    folder: Folder
    name: str
    run_id: str

    def begin(self) -> None:
        """Become the owner."""
        before = self.read()
        since = datetime.now(UTC).strftime(_TIME)
        facts = {"id": self.run_id, "owner": _this_process(), "since": since}
        self.folder.write(RUN_ID, json.dumps(facts).encode())
        if before:
            logger.warning(
                "%s has been in use by %s since %s; if that run was not killed, it stops before it publishes anything, "
                "because this run takes over",
                *(self.name, before["owner"], before["since"]),
            )

    def check(self) -> None:
        """Raise if this run is no longer the owner.

        Raises
        ------
        InUseError
            Naming the new owner.
        """
        now = self.read()
        if not now:
            raise InUseError(f"{self.name} was used by a later run, which has ended: this run stops")
        if now["id"] != self.run_id:
            raise InUseError(f"{self.name} is in use by {now['owner']}, a later run: this run stops")

    def end(self) -> None:
        """Remove the id, unless it is that of another run."""
        with contextlib.suppress(OSError, LabelsieveError):
            if self.read().get("id") == self.run_id:
                self.folder.remove(RUN_ID)

    def read(self) -> dict[str, Any]:
        """Return what is known of the owner; nothing if there is none, or the file is not valid."""
        try:
            facts = json.loads(self.folder.read(RUN_ID))
        except (FileNotFoundError, ValueError):
            return {}
        return facts if isinstance(facts, dict) and {"id", "owner", "since"} <= facts.keys() else {}
