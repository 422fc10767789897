"""Versions of what is stored: which bytes a run has begun to read, so that others are never mixed in.

A version is taken before the first read, compared with what each read opens, and taken again after the last read.
Times of access do not count, and neither do the times of folders.
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from labelsieve.errors import ChangedDataError, UnreadableDataError

# Objects whose versions are taken a second time after the last read; above, each read is checked alone.
MOST_LISTED_TWICE: Final = 100_000
_MOST_NAMED: Final = 3
_MOUNTS: Final = Path("/proc/self/mountinfo")
# File systems beside FUSE that store no inodes: a file gets a number as it is looked at, and another one later.
_MADE_UP_NUMBERS: Final = frozenset({"vfat", "msdos", "exfat", "cifs", "smb3", "9p", "vboxsf"})


class FileVersion(NamedTuple):
    """Size, modification time and inode of a local file, and the host where it was looked at."""

    size: int
    mtime_ns: int
    inode: int
    host: str

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the version of a file by its status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, _host())

    def check(self, status: os.stat_result, where: object) -> None:
        """Raise if a file has another status now.

        Raises
        ------
        UnreadableDataError
            Naming `where` and what differs.
        """
        if (status.st_size, status.st_mtime_ns, status.st_ino) == self[:3]:
            return
        here, differences = self.host == _host(), []
        if status.st_size != self.size:
            differences.append(f"its size was {self.size:,} bytes and is {status.st_size:,}")
        if status.st_mtime_ns != self.mtime_ns:
            differences.append(f"it was last written at {_time(self.mtime_ns)}, now at {_time(status.st_mtime_ns)}")
        if not differences:
            # Hosts number a file each in its own way, and some file systems do each time that they look.
            if not here or not numbers_last(status.st_dev):
                return
            differences.append("another file has taken its place")
        if here:
            raise changed(where, " and ".join(differences))
        raise UnreadableDataError(
            f"{where} is not the same file on {_host()} as on {self.host}, where the run was started: "
            f"{' and '.join(differences)}. Copies must keep the time of the last write (cp -p, rsync -t)"
        )


def file_version(path: Path) -> FileVersion | None:
    """Return the version of the file at a path; None where there is none."""
    try:
        return FileVersion.of(path.stat())
    except OSError:
        return None


def check_path(version: FileVersion | None, path: Path) -> None:
    """Raise if the file at `path` is not of `version` any more; None says that nothing was known."""
    if version is None:
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        raise gone(path) from None
    except OSError as error:
        raise UnreadableDataError(f"{path} is not readable: {error}") from error
    version.check(status, path)


def changed(where: object, how: str) -> ChangedDataError:
    """Return the error for an input that is not what it was when the run began."""
    return ChangedDataError(
        f"{where} has changed since the run began: {how}. No result was published; run again once nothing writes to it"
    )


def gone(where: object) -> UnreadableDataError:
    """Return the error for what was there when the run began; it may come back, as on a disk that is away."""
    return UnreadableDataError(f"{where} was there when the run began, and is gone. No result was published")


@cache
def _host() -> str:
    return socket.gethostname()


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def numbers_last(device: int) -> bool:
    """Tell whether a file keeps its inode's number on a device, also while the system does not have it in mind."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        with _MOUNTS.open(encoding="utf-8", errors="replace") as mounts:
            kinds = [line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == name]
    except (OSError, IndexError):
        return True
    return not any(kind in _MADE_UP_NUMBERS or kind.startswith("fuse") for kind in kinds)


def stamp(*facts: object) -> int:
    """Return a number from 1 to 2**32 - 1 that stands for the version of a chunk; 0 stands for a chunk not stored."""
    return zlib.crc32(" ".join(map(str, facts)).encode()) or 1


@dataclass(frozen=True)
class StoredChunks:
    """Which chunks of a Zarr array, or shards of one that has these, are stored, and in which version.

    Four bytes a chunk travel to the workers; a changed chunk passes unseen once in four billion.

    Parameters
    ----------
    rows : int
        Rows of a chunk.
    width : int
        Chunks that have the same rows: 1 where all have whole rows.
    n_rows : int
        Rows of the array.
    stamps : (C,) uint32
        Of each chunk, in C order of the grid.
    inodes : (C,) uint32 or None
        Of local files, on `host`.
    host : str
        Where they were looked at.
    """

    rows: int
    width: int
    n_rows: int
    stamps: npt.NDArray[np.uint32]
    inodes: npt.NDArray[np.uint32] | None = None
    host: str = field(default_factory=_host)

    def __len__(self) -> int:
        return len(self.stamps)

    def first(self, start: int) -> int:
        """Return the number of the first chunk that holds row `start`."""
        return start // self.rows * self.width

    def rows_of(self, index: int) -> str:
        """Name the rows of a chunk."""
        start = index // self.width * self.rows
        return f"rows {start:,}..{min(start + self.rows, self.n_rows) - 1:,}"

    def check(self, index: int, where: object, now: int, inode: int | None = None) -> None:
        """Raise if a chunk is not of the version that was listed.

        Parameters
        ----------
        index : int
            Number of the chunk.
        where : object
            Its place, for the message.
        now : int
            Its stamp now; 0 where it is gone.
        inode : int, optional
            Of a local file.
        """
        then, here, inodes = int(self.stamps[index]), self.host == _host(), self.inodes
        moved = here and inode is not None and inodes is not None and int(inodes[index]) != inode
        if then == now and not moved:
            return
        where = f"{where} ({self.rows_of(index)})"
        if inode is not None and not here:
            raise UnreadableDataError(
                f"{where} is not the same file on {_host()} as on {self.host}, where the run was started, or has "
                "changed since. Copies must keep the time of the last write (cp -p, rsync -t)"
            )
        if not now:
            raise gone(where)
        raise changed(where, "it was written anew" if then else "it was not stored, and is now")

    def check_all(self, later: StoredChunks, where: str, key_of: Any) -> None:
        """Raise if another listing has another version of any chunk; `key_of` names one by its number."""
        different = self.stamps != later.stamps
        if self.inodes is not None and later.inodes is not None:
            different |= self.inodes != later.inodes
        indices = np.flatnonzero(different)
        if not len(indices):
            return
        index = int(indices[0])
        more = f" (and {len(indices) - 1:,} more chunks)" if len(indices) > 1 else ""
        if not later.stamps[index]:
            raise gone(f"{where}: its chunk {key_of(index)} ({self.rows_of(index)}){more}")
        how = "was written anew" if self.stamps[index] else "was not stored, and is now"
        raise changed(where, f"its chunk {key_of(index)} ({self.rows_of(index)}) {how}{more}")

    def missing(self) -> MissingRows:
        """Return the rows of which no chunk is stored, and those of which some are not."""
        stored = (self.stamps != 0).reshape(-1, self.width)
        whole, some = ~stored.any(axis=1), ~stored.all(axis=1)
        n_chunks = stored.size - int(np.count_nonzero(stored))
        return MissingRows(n_chunks, stored.size, self._ranges(whole), self._ranges(some & ~whole))

    def _ranges(self, hit: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(np.concatenate(([False], hit, [False])).astype(np.int8)))
        return [(int(a) * self.rows, min(int(b) * self.rows, self.n_rows)) for a, b in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class MissingRows:
    """Rows that are read as the fill value, in whole or in part, because their chunks are not stored.

    Parameters
    ----------
    n_missing, n_chunks : int
        Chunks that are not stored, and all.
    whole, partly : list of tuple of int
        Ranges ``[start, stop)`` of rows of which nothing is stored, and of which some classes are not.
    """

    n_missing: int
    n_chunks: int
    whole: list[tuple[int, int]]
    partly: list[tuple[int, int]]

    @classmethod
    def joined(cls, parts: Iterable[tuple[MissingRows, int]]) -> MissingRows:
        """Return those of several arrays, each with the row at which it begins."""
        total = cls(0, 0, [], [])
        for part, origin in parts:
            whole, partly = ([(origin + a, origin + b) for a, b in ranges] for ranges in (part.whole, part.partly))
            total = cls(
                total.n_missing + part.n_missing,
                total.n_chunks + part.n_chunks,
                total.whole + whole,
                total.partly + partly,
            )
        return total


def named_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return how many rows there are in some ranges, and which.

    Examples
    --------
    >>> named_ranges([(0, 1000), (5000, 7000)])
    '3,000 rows (0..999, 5,000..6,999)'
    """
    parts = [f"{start:,}..{stop - 1:,}" for start, stop in ranges[:_MOST_NAMED]]
    more = " and more" if len(ranges) > _MOST_NAMED else ""
    return f"{sum(stop - start for start, stop in ranges):,} rows ({', '.join(parts)}{more})"
