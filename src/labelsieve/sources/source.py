"""Versions of stored data, so that a run never mixes two of them.

A version is noted before the first read, compared by each read with what it opens, and compared once more after the
last read. Times of access do not count, and neither do the times of folders.
"""

from __future__ import annotations

import abc
import hashlib
import io
import json
import math
import os
import re
import socket
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.joint import JointCounter
from labelsieve.confident_learning.summarize import Summarizer
from labelsieve.confident_learning.thresholds import ClassSums
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
    def of(cls, file: Path | int) -> Self:
        """Return the version of the file at a path, or of an open one by its number."""
        status = os.stat(file)  # noqa: PTH116  # Path takes no number
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
        return None if path is None else FileVersion.of(path)
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

    def part(self, start: int, stop: int) -> StoredChunks:
        """Return the chunks that hold rows ``[start, stop)``."""
        first, last = start // self.rows * self.width, -(-stop // self.rows) * self.width
        some = slice(first - self.n_before, last - self.n_before)
        inodes = None if self.inodes is None else self.inodes[some]
        return replace(self, stamps=self.stamps[some], inodes=inodes, n_before=first)

    def is_stored(self, index: int) -> bool:
        """Return whether a chunk was stored when the chunks were listed."""
        return bool(self.stamps[index - self.n_before])

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
        start = index // self.width * self.rows
        where = f"{where} (rows {start:,}..{min(start + self.rows, self.n_rows) - 1:,})"
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
        found = list[list[tuple[int, int]]]()
        for hit in (whole, some & ~whole):
            edges = np.flatnonzero(np.diff(hit.astype(np.int8), prepend=0, append=0))
            found.append([(int(a) * self.rows, min(int(b) * self.rows, self.n_rows)) for a, b in edges.reshape(-1, 2)])
        return MissingRows(stored.size - int(np.count_nonzero(stored)), stored.size, found[0], found[1])


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


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Return a sort key for the natural order.

    Examples
    --------
    >>> sorted(["p-10.npy", "p-2.npy", "p-1.npy"], key=natural_key)
    ['p-1.npy', 'p-2.npy', 'p-10.npy']
    """
    # Text and numbers alternate, so that text is only compared with text.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


# Bytes read at a time where only some of the rows are taken.
_TAKE_BYTES: Final = 4_000_000


class Rows(abc.ABC):
    """An open source, for one thread; a context manager.

    Parameters
    ----------
    source : Source
        Gives the shape and dtype.
    """

    def __init__(self, source: Source) -> None:
        self._row_shape, self._dtype = source.shape[1:], source.dtype
        self._buffer = self._empty(0)

    def _empty(self, n_rows: int) -> npt.NDArray[Any]:
        return np.empty((n_rows, *self._row_shape), self._dtype)

    def _reused(self, n_rows: int) -> npt.NDArray[Any]:
        """Return a buffer of `n_rows` rows, the same memory each time."""
        if len(self._buffer) < n_rows:
            self._buffer = self._empty(n_rows)
        return self._buffer[:n_rows]

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)``: a read-only array, valid until the next call."""

    def close(self) -> None:  # noqa: B027  # most sources hold nothing open
        """Release what is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ChunkedRows(Rows):
    """Rows that are stored, or requested, in chunks: a chunk that reads cut is loaded once and kept for the next read.

    Parameters
    ----------
    source : Source
        Gives the shape and dtype.
    chunk_rows : int
        Rows of a chunk.
    origin : int
        Row at which chunk 0 begins.
    """

    def __init__(self, source: Source, chunk_rows: int, origin: int = 0) -> None:
        super().__init__(source)
        self._n_rows, self._chunk_rows, self._origin = source.n_rows, chunk_rows, origin
        self._held, self._chunk = -1, self._empty(0)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)``."""
        size = self._chunk_rows
        # The last chunk of an array is stored whole, so there must be room for it.
        end = stop + (self._origin - stop) % size if stop == self._n_rows else stop
        index, inside = divmod(start - self._origin, size)
        if 0 < stop - start <= size - inside and (inside or end - start != size):
            return self._hold(index)[inside : inside + stop - start]
        out, row = self._reused(end - start), start
        while row < stop:
            index, inside = divmod(row - self._origin, size)
            whole = (end - row) // size * size
            if inside or index == self._held or not whole:
                held = self._hold(index)[inside : inside + stop - row]
                out[row - start : row - start + len(held)] = held
                row += len(held)
            else:
                self._load(row, row + whole, out[row - start : row - start + whole])
                row += whole
        return out[: stop - start]

    def _hold(self, index: int) -> npt.NDArray[Any]:
        """Return a chunk, kept until another one is needed."""
        if self._held != index:
            if not len(self._chunk):
                self._chunk = self._empty(self._chunk_rows)
            self._held, start = -1, self._origin + index * self._chunk_rows
            self._load(start, start + self._chunk_rows, self._chunk)
            self._held = index
        return self._chunk

    @abc.abstractmethod
    def _load(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Load the whole chunks of rows ``[start, stop)`` into `out`; the last may reach beyond the array."""


@dataclass(frozen=True)
class ReadFacts:
    """What planning asks of a source: how its rows are stored, and what reading them takes.

    Parameters
    ----------
    row_chunk : int or None
        Rows that are stored together, so that reading some costs as much as reading all; None where rows are separate.
    in_pieces : bool
        Whether reading a batch in pieces costs no more than reading it whole.
    in_memory : bool
        Whether the rows are in the memory of this process, so that a cluster is sent them.
    forkable : bool
        Whether a forked process can read it: memory and plain files.
    is_encoded : bool
        Whether what is stored has to be decoded.
    prefetch_bytes : int
        Most bytes of prefetched rows that one open source holds; 0 where nothing is prefetched.
    decoding_bytes : int
        Bytes that one open source takes to decode rows, besides those that it returns; 0 where they are not much.
    decoding_note : str
        What takes these bytes, for messages.
    """

    row_chunk: int | None = None
    in_pieces: bool = True
    in_memory: bool = False
    forkable: bool = False
    is_encoded: bool = False
    prefetch_bytes: int = 0
    decoding_bytes: int = 0
    decoding_note: str = ""

    @classmethod
    def joined(cls, children: Iterable[ReadFacts]) -> Self:
        """Return the facts of several sources that are read together, of which forked processes read none."""
        some = list(children)
        return cls(
            row_chunk=max((one.row_chunk or 0 for one in some), default=0) or None,
            in_pieces=all(one.in_pieces for one in some),
            in_memory=any(one.in_memory for one in some),
            is_encoded=any(one.is_encoded for one in some),
            prefetch_bytes=sum(one.prefetch_bytes for one in some),
            decoding_bytes=sum(one.decoding_bytes for one in some),
            decoding_note=next((one.decoding_note for one in some if one.decoding_note), ""),
        )

    def times(self, rows_per_row: int) -> Self:
        """Return the facts of a source that makes so many rows of each row."""
        return replace(self, row_chunk=self.row_chunk and self.row_chunk * rows_per_row)


@lru_cache(256)
def _shared(facts: ReadFacts) -> ReadFacts:
    """Return the same object for equal facts, so that thousands of shards pickle with one."""
    return facts


_PLAIN: Final = ReadFacts()


class Source(abc.ABC):
    """A description of an array of rows; it pickles without the data, unless the data is in memory.

    Parameters
    ----------
    shape : tuple of int
        ``(N,)`` or ``(N, K)``.
    dtype : dtype
        As stored, in either byte order.
    facts : ReadFacts, optional
        What planning asks of it.

    Attributes
    ----------
    row_bytes : int
        Decoded bytes of one row.
    read_row_bytes : int
        Bytes of a row before it is converted, for statistics.
    strip_row_bytes : int
        Bytes of a row by which the number of rows of a strip is chosen; 0 for `row_bytes`.
    row_edges : (n,) int64 or None
        The rows, the last one included, at which what is decoded together ends; None where `row_chunk` says it all.
        Reading that begins elsewhere has to decode the rows before, from the last such row on.
    fill_value : float
        The value of rows whose chunks are not stored.
    summarizer : type
        Makes row summaries of the rows that `open_raw` gives.
    joint_counter : type
        Counts the confident joint of the rows that `open` gives, in the second pass.
    ignored : int or None
        Of labels: the value that says that a row has none; None where each row has one.
    class_columns : tuple of tuple of str
        What the columns may call the classes, if there is a column of a table for each: several readings of its names.
    listed_at : str or None
        The folder or pattern, or the first of a list, in which it was found, alone or with other shards; None for an
        array that was given by itself.
    """

    fill_value: float = 0
    summarizer: type[Summarizer] = Summarizer
    joint_counter: type[JointCounter] = JointCounter
    ignored: int | None = None
    class_columns: tuple[tuple[str, ...], ...] = ()
    listed_at: str | None = None
    strip_row_bytes: int = 0
    row_edges: npt.NDArray[np.int64] | None = None

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, facts: ReadFacts = _PLAIN) -> None:
        self.shape, self.dtype, self.facts = tuple(int(n) for n in shape), np.dtype(dtype), _shared(facts)
        self.row_bytes = self.read_row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def n_rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def where(self) -> str:
        """Path or URL for messages and records, without secrets."""
        return f"a {type(self).__name__}"

    def __repr__(self) -> str:
        """Return what a graph or a log may show: kind, shape, dtype and place."""
        return f"<{type(self).__name__} {self.shape} {self.dtype} at {self.where}>"

    @abc.abstractmethod
    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading in this thread.

        Parameters
        ----------
        start, stop : int
            The caller intends to read ascending ranges within rows ``[start, stop)``, None for the end, and a remote
            source prefetches these. Other reads return the right rows too, but slower.
        """

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for the first pass, which gives the rows to `summarizer`: probabilities, or what replaces them."""
        return self.open(start, stop)

    def prepared_for(self, rule: Filter) -> tuple[Source, Filter]:
        """Return the source with what a filter needs of its rows, and the filter that selects as it among these rows.

        Raises
        ------
        InvalidInputError
            If the rows do not hold it. The message says what to give, or to record.
        """
        return self, rule

    def describe_misfit(self, sums: ClassSums) -> str | None:  # noqa: ARG002  # rows are compared, class by class
        """Return why labels and these rows do not seem to belong together, "" if they do, or None to compare classes.

        Parameters
        ----------
        sums : ClassSums
            Sums of the label's probability over all rows, by class.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """Return facts, as JSON takes them, that identify this input without reading its data.

        ``content`` is None where no known fact changes with the data.
        """
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "row_chunk": self.facts.row_chunk,
            "content": self._content(),
        }

    @property
    def derivation(self) -> list[Any]:
        """What is computed from the stored rows as they are read, as JSON takes it; [] for the rows as stored."""
        return []

    def _content(self) -> Any:
        """Return facts that change when the data is rewritten: sizes, times, ETags; None if none are known."""
        return None

    @property
    def arrays(self) -> Sequence[Source]:
        """The arrays that the rows are stored in, one after the other."""
        return [self]

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have a version of their own; None if only the whole array has one."""
        return None

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range of rows, which changes when they are moved or rewritten; "" if not known.

        Parameters
        ----------
        ranges : sequence of tuple of int
            Row ranges ``[start, stop)``.
        """
        facts = self.identity()
        return row_digests(facts, ranges) if facts["content"] is not None else [""] * len(ranges)

    def note_version(self) -> None:  # noqa: B027  # an array in memory is its caller's
        """Note the version of the stored data before the first read, unless it is noted already.

        It is pickled with the description, and every read compares with it.
        """

    def check_version(self) -> None:  # noqa: B027  # an array in memory is its caller's
        """Raise if the stored data is not of the version that was noted.

        Raises
        ------
        UnreadableDataError
            Naming what has changed, and how.
        """

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks were not stored when the version was noted; None where none can be missing."""
        return None

    def reachable(self) -> None:
        """Raise unless this process can open what is described; no data is read.

        Raises
        ------
        UnreadableDataError
            Where it is not there, not as described, or not to be read from here.
        """
        try:
            self.open().close()
        except (OSError, KeyError) as error:
            raise UnreadableDataError(f"{self.where} cannot be opened: {error}") from error

    def part(self, start: int, stop: int) -> tuple[Source, int]:  # noqa: ARG002  # a file pickles as its path
        """Return a source that holds rows ``[start, stop)``, and the row at which it begins."""
        return self, 0

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows in any order; what lies between them is read a few megabytes at a time, if at all."""
        chunk, out = self.facts.row_chunk or 1, np.empty((len(rows), *self.shape[1:]), self.dtype)
        step = max(1, _TAKE_BYTES // max(1, chunk * self.row_bytes)) * chunk
        order = np.argsort(rows, kind="stable")
        with self.open() as opened:
            for places in np.split(order, np.flatnonzero(np.diff(rows[order] // step)) + 1) if len(rows) else ():
                start = int(rows[places[0]])
                out[places] = opened.read(start, int(rows[places[-1]]) + 1)[rows[places] - start]
        return out

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Read consecutive rows."""
        start, stop, _ = rows.indices(self.n_rows)
        with self.open(start, stop) as opened:
            return opened.read(start, stop)


class FileSource(Source):
    """An array whose file has a version that is noted and compared.

    Attributes
    ----------
    path : Path or None
        The file; None for an array that is not on a disk.
    version : FileVersion or None
        As noted; None where nothing is.
    """

    path: Path | None = None
    version: FileVersion | None = None

    def note_version(self) -> None:
        """Note the file's size, time and inode, unless they were noted as its header was read."""
        self.version = self.version or file_version(self.path)

    def check_version(self) -> None:
        """Compare the file's size, time and inode."""
        check_path(self.version, self.path)

    def _content(self) -> dict[str, Any] | None:
        version = self.version or file_version(self.path)
        return None if version is None else {"size": version.size, "mtime_ns": version.mtime_ns}


def read_into(file: io.FileIO, position: int, buffer: npt.NDArray[np.uint8]) -> bool:
    """Fill `buffer` from byte `position` of an unbuffered file; return whether there were enough bytes."""
    file.seek(position)
    view, done = buffer.data, 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            return False
        done += got
    return True
