"""Files of tables, on a disk or at a URL, which pyarrow reads."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, LabelsieveError, UnreadableDataError
from labelsieve.sources.base import Source
from labelsieve.sources.columns import Columns, arrow
from labelsieve.sources.object_store import ObjectStore
from labelsieve.sources.remote_npy import read_exactly
from labelsieve.sources.versions import FileVersion, changed, check_path, file_version, gone
from labelsieve.storage.urls import digest_of, stamp_of, version_of, without_query


@dataclass(frozen=True)
class LocalTableFile:
    """A file on a disk.

    Parameters
    ----------
    path : Path
        Absolute.
    version : FileVersion or None
        As noted.
    """

    path: Path
    version: FileVersion | None = None

    is_remote = False

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def open(self) -> Any:
        """Open the file, and compare its size, time and inode."""
        file = arrow().OSFile(str(self.path), "rb")
        try:
            self.check()
        except BaseException:
            file.close()
            raise
        return file

    def noted(self) -> LocalTableFile:
        """Note size, time and inode."""
        return self if self.version else replace(self, version=file_version(self.path))

    def check(self) -> None:
        """Compare size, time and inode."""
        check_path(self.version, self.path)

    def content(self) -> Any:
        """Return size and time."""
        version = self.version or file_version(self.path)
        return None if version is None else {"size": version.size, "mtime_ns": version.mtime_ns}


@dataclass(frozen=True)
class RemoteTableFile:
    """An object in a store or on a web server.

    Parameters
    ----------
    url : str
        In full; messages show it without its secrets.
    size : int
        Bytes.
    stamp : str
        Its version, as the file system states it.
    """

    url: str
    size: int
    stamp: str

    is_remote = True

    @classmethod
    def at(cls, name: str, url: str, info: dict[str, Any] | None = None) -> RemoteTableFile:
        """Request the size and the version of an object, unless `info`, its entry in a listing, has them."""
        store, path = ObjectStore.at(url)
        if not (info and (info.get("ETag") or info.get("etag"))):
            info = store.info(name, path)
        size, where = info.get("size"), without_query(url)
        if size is None or info.get("partial") is False:
            raise InvalidInputError(f"{name}: the server of {where} does not send parts of a file of known size")
        return cls(url, int(size), stamp_of(info))

    @property
    def where(self) -> str:
        """The URL without its query."""
        return without_query(self.url)

    def open(self) -> Any:
        """Return a file whose reads are requests."""
        return arrow().PythonFile(ObjectFile(self), mode="r")

    def read(self, start: int, stop: int) -> bytes:
        """Request some bytes, which must be of the version that was noted."""
        store, path = ObjectStore.at(self.url)
        version = version_of({"size": self.size, "ETag": self.stamp})
        return read_exactly(store, path, start, stop, f"bytes {start:,}..{stop - 1:,}", version)

    def noted(self) -> RemoteTableFile:
        """Return itself: its version was noted when it was opened."""
        return self

    def check(self) -> None:
        """Request size and stamp, and compare them."""
        store, path = ObjectStore.at(self.url)
        try:
            info = store.info("data", path)
        except InvalidInputError:
            raise gone(self.where) from None
        if info.get("size") != self.size:
            raise changed(self.where, f"its size was {self.size:,} bytes and is {info.get('size') or 0:,}")
        if stamp_of(info) != self.stamp:
            raise changed(self.where, "it was overwritten")

    def content(self) -> Any:
        """Return size and stamp; a size alone does not change with the data."""
        return {"size": self.size, "stamp": self.stamp, "url": digest_of(self.url)} if self.stamp else None


# A file whose version is known, and which opens for pyarrow. It is hashable, and pickles as its place.
TableFile: TypeAlias = LocalTableFile | RemoteTableFile


class TableFileSource(Source):
    """Columns of one file of a table as an array. Its version was noted before its footer was read.

    Parameters
    ----------
    file : TableFile
        The file.
    columns : Columns
        Which columns, and how a row of them is read.
    group_rows : sequence of int
        Number of rows of each row group or record batch.

    Attributes
    ----------
    ends : (G,) int64
        The rows at which these end.
    """

    def __init__(self, file: TableFile, columns: Columns, group_rows: Sequence[int]) -> None:
        super().__init__((sum(group_rows), *columns.shape), columns.dtype)
        self.file, self.columns, self.class_columns = file, columns, columns.class_columns
        self.ends: npt.NDArray[np.int64] = np.cumsum(group_rows, dtype=np.int64)

    @property
    def where(self) -> str:
        """Path, or URL without secrets."""
        return self.file.where

    def identity(self) -> dict[str, Any]:
        """Return what every source returns, and the columns."""
        return super().identity() | {"columns": list(self.columns.columns)}

    def _content(self) -> Any:
        return self.file.content()

    def check_version(self) -> None:
        """Compare the version of the file."""
        self.file.check()


class ObjectFile(io.RawIOBase):
    """An object in a store as a file that can be sought.

    Parameters
    ----------
    file : RemoteTableFile
        The object.
    """

    def __init__(self, file: RemoteTableFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def size(self) -> int:
        """Return the size of the object."""
        return self._file.size

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the position on."""
        start = min(self._position, self._file.size)
        stop = self._file.size if size is None or size < 0 else min(start + size, self._file.size)
        self._position = stop
        return self._read(start, stop) if start < stop else b""

    def _read(self, start: int, stop: int) -> bytes:
        return self._file.read(start, stop)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Translate the errors of pyarrow into one that names the file, or the part of it, that cannot be read."""
    pa = arrow()
    try:
        yield
    except LabelsieveError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableDataError(f"{where} is not readable: {in_one_line(error)}") from error


def in_one_line(error: Exception) -> str:
    """Return the message of an error without the line ends that pyarrow puts in it."""
    return " ".join(str(error).split())
