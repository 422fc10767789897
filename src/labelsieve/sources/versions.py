"""Versions of stored data, so that a run never mixes two of them.

A version is noted before the first read, compared by each read with what it opens, and compared once more after the
last read. Times of access do not count, and neither do the times of folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from labelsieve.errors import ChangedDataError, UnreadableDataError

# Up to this many chunks are listed again after the last read; of more, only those that are read are compared.
MOST_LISTED_TWICE: Final = 100_000
_MOST_NAMED: Final = 3
_MOUNTS: Final = Path("/proc/self/mountinfo")
# File systems, besides FUSE, that store no inode numbers: a file may get another number each time it is opened.
_UNSTABLE_INODES: Final = frozenset({"vfat", "msdos", "exfat", "cifs", "smb3", "9p", "vboxsf"})


class FileVersion(NamedTuple):
    """Size, modification time and inode of a local file, as seen by a host."""

    size: int
    mtime_ns: int
    inode: int
    host: str

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the version of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, _host())

    def check(self, status: os.stat_result, where: object) -> None:
        """Raise if the status of a file differs from this version.

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
            # Inode numbers differ between hosts, and on some file systems from one moment to the next.
            if not here or not has_stable_inodes(status.st_dev):
                return
            differences.append("another file has taken its place")
        how = " and ".join(differences)
        raise changed(where, how) if here else _other_copy(where, self.host, how)


def file_version(path: Path | None) -> FileVersion | None:
    """Return the version of the file at a path; None if there is none."""
    try:
        return None if path is None else FileVersion.of(path.stat())
    except OSError:
        return None


def check_path(version: FileVersion | None, path: Path | None) -> None:
    """Raise if the file at `path` is no longer of `version`, unless one of them is None."""
    if version is None or path is None:
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        raise gone(path) from None
    except OSError as error:
        raise UnreadableDataError(f"{path} is not readable: {error}") from error
    version.check(status, path)


def changed(where: object, how: str) -> ChangedDataError:
    """Return the error for an input that has changed since the run began."""
    return ChangedDataError(
        f"{where} has changed since the run began: {how}. No result was published; run again once nothing writes to it"
    )


def _other_copy(where: object, host: str, how: str) -> UnreadableDataError:
    """Return the error for a file that differs from the one on the host that started the run."""
    return UnreadableDataError(
        f"{where} is not the same file on {_host()} as on {host}, where the run was started: {how}. Copies must keep "
        "the time of the last write (cp -p, rsync -t)"
    )


def gone(where: object) -> UnreadableDataError:
    """Return the error for an input that has disappeared; it may come back, like a disk that is unmounted."""
    return UnreadableDataError(f"{where} was there when the run began, and is gone. No result was published")


@cache
def _host() -> str:
    return socket.gethostname()


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def has_stable_inodes(device: int) -> bool:
    """Return whether a file on this device always has the same inode number."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        with _MOUNTS.open(encoding="utf-8", errors="replace") as mounts:
            kinds = [line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == name]
    except (OSError, IndexError):
        return True
    return not any(kind in _UNSTABLE_INODES or kind.startswith("fuse") for kind in kinds)


def row_digests(
    facts: Mapping[str, Any], ranges: Sequence[tuple[int, int]], versions: Sequence[bytes] | None = None
) -> list[str]:
    """Return a digest for each range of rows of an array.

    Parameters
    ----------
    facts : mapping
        What identifies the array, as JSON takes it.
    ranges : sequence of tuple of int
        Row ranges ``[start, stop)``.
    versions : sequence of bytes, optional
        The versions of the rows of each range, if they are not among the facts.
    """
    common = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    digests = []
    for (start, stop), version in zip(ranges, versions or [b""] * len(ranges), strict=True):
        one = common.copy()
        one.update(f" {start} {stop} ".encode() + version)
        digests.append(one.hexdigest())
    return digests


def stamp(*facts: object) -> int:
    """Return a number from 1 to 2**32 - 1 for the version of a chunk; 0 is for a chunk that is not stored."""
    return zlib.crc32(" ".join(map(str, facts)).encode()) or 1


@dataclass(frozen=True)
class StoredChunks:
    """The stored chunks of a Zarr array, or shards of one that has these, and their versions.

    A task is sent four bytes per chunk that it reads; one changed chunk in four billion goes unnoticed.

    Parameters
    ----------
    rows : int
        Rows of a chunk.
    width : int
        Chunks side by side, which have the same rows: 1 where chunks span all classes.
    n_rows : int
        Rows of the array.
    stamps : (C,) uint32
        Of each chunk, in C order of the grid.
    inodes : (C,) uint32 or None
        Of local files, on `host`.
    host : str
        Where they were listed.
    n_before : int
        Number of chunks of the array before the first of these. Chunks keep their numbers in the array.
    """

    rows: int
    width: int
    n_rows: int
    stamps: npt.NDArray[np.uint32]
    inodes: npt.NDArray[np.uint32] | None = None
    host: str = field(default_factory=_host)
    n_before: int = 0

    def __len__(self) -> int:
        return len(self.stamps)

    def first(self, start: int) -> int:
        """Return the number of the first chunk that holds row `start`."""
        return start // self.rows * self.width

    def part(self, start: int, stop: int) -> StoredChunks:
        """Return the chunks that hold rows ``[start, stop)``."""
        first, last = self.first(start), -(-stop // self.rows) * self.width
        some = slice(first - self.n_before, last - self.n_before)
        inodes = None if self.inodes is None else self.inodes[some]
        return replace(self, stamps=self.stamps[some], inodes=inodes, n_before=first)

    def is_stored(self, index: int) -> bool:
        """Return whether a chunk was stored when the chunks were listed."""
        return bool(self.stamps[index - self.n_before])

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
            Its stamp now; 0 if it is gone.
        inode : int, optional
            Of a local file.
        """
        place, here, inodes = index - self.n_before, self.host == _host(), self.inodes
        then = int(self.stamps[place])
        moved = here and inode is not None and inodes is not None and int(inodes[place]) != inode
        if then == now and not moved:
            return
        where = f"{where} ({self.rows_of(index)})"
        if inode is not None and not here:
            raise _other_copy(where, self.host, "it is missing, or its size or time differs")
        if not now:
            raise gone(where)
        raise changed(where, "it was overwritten" if then else "it was not stored, and is now")

    def check_all(self, later: StoredChunks, where: str, key_of: Any) -> None:
        """Raise if a later listing has another version of any chunk; `key_of` returns a chunk's key."""
        different = self.stamps != later.stamps
        if self.inodes is not None and later.inodes is not None:
            different |= self.inodes != later.inodes
        indices = np.flatnonzero(different).tolist()
        if not indices:
            return
        index, inode = indices[0], None if later.inodes is None else int(later.inodes[indices[0]])
        several = f" ({len(indices):,} chunks differ)" if len(indices) > 1 else ""
        self.check(index, f"{where}{several}: chunk {key_of(index)}", int(later.stamps[index]), inode)

    def missing(self) -> MissingRows:
        """Return the rows of which chunks are not stored."""
        stored = (self.stamps != 0).reshape(-1, self.width)
        whole, some = ~stored.any(axis=1), ~stored.all(axis=1)
        n_chunks = stored.size - int(np.count_nonzero(stored))
        return MissingRows(n_chunks, stored.size, self._ranges(whole), self._ranges(some & ~whole))

    def _ranges(self, hit: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(np.concatenate(([False], hit, [False])).astype(np.int8)))
        return [(int(a) * self.rows, min(int(b) * self.rows, self.n_rows)) for a, b in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class MissingRows:
    """Rows that read as the fill value, in whole or in part, because chunks are not stored.

    Parameters
    ----------
    n_missing, n_chunks : int
        Chunks that are not stored, and all chunks.
    whole, partly : list of tuple of int
        Ranges ``[start, stop)`` of rows of which nothing is stored, and of which some classes are not stored.
    accepted : bool
        Whether the fill value may be meant as data, so that rows of which nothing is stored are not an error.
    """

    n_missing: int
    n_chunks: int
    whole: list[tuple[int, int]]
    partly: list[tuple[int, int]]
    accepted: bool = False

    @classmethod
    def joined(cls, parts: Iterable[tuple[MissingRows, int]]) -> MissingRows:
        """Join the missing rows of several arrays, each with the row at which it begins."""
        total = cls(0, 0, [], [], accepted=True)
        for part, start in parts:
            whole, partly = ([(start + a, start + b) for a, b in ranges] for ranges in (part.whole, part.partly))
            n_missing, n_chunks = total.n_missing + part.n_missing, total.n_chunks + part.n_chunks
            accepted = total.accepted and part.accepted
            total = cls(n_missing, n_chunks, total.whole + whole, total.partly + partly, accepted=accepted)
        return total


def named_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Return the number of rows in some ranges, and the ranges.

    Examples
    --------
    >>> named_ranges([(0, 1000), (5000, 7000)])
    '3,000 rows (0..999, 5,000..6,999)'
    """
    parts = [f"{start:,}..{stop - 1:,}" for start, stop in ranges[:_MOST_NAMED]]
    more = " and more" if len(ranges) > _MOST_NAMED else ""
    return f"{sum(stop - start for start, stop in ranges):,} rows ({', '.join(parts)}{more})"
