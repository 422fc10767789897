"""Sources of rows: descriptions of stored arrays, and how their rows are read."""

from __future__ import annotations

import abc
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import JointCounter
from labelsieve.confident_learning.filters import Filter
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.thresholds import ClassSums
from labelsieve.errors import UnreadableDataError
from labelsieve.sources.versions import FileVersion, MissingRows, check_path, file_version, row_digests

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


class Source(abc.ABC):
    """A description of an array of rows; it pickles without the data, unless the data is in memory.

    Parameters
    ----------
    shape : tuple of int
        ``(N,)`` or ``(N, K)``.
    dtype : dtype
        As stored, in either byte order.
    row_chunk : int or None
        Rows that are stored together, so that reading some costs as much as reading all; None where rows are separate.

    Attributes
    ----------
    row_bytes : int
        Decoded bytes of one row.
    in_pieces : bool
        Whether reading a batch in pieces costs no more than reading it whole.
    forkable : bool
        Whether a forked process can read it: memory and plain files.
    prefetch_bytes : int
        Most bytes of prefetched rows that one open source holds; 0 where nothing is prefetched.
    fill_value : float
        The value of rows whose chunks are not stored.
    request_rows : int or None
        Rows of a request, or of a stored chunk in a file of its own; None where any rows are read without requests.
    n_side_by_side : int
        Number of requests for the same rows, each for some of the classes.
    is_encoded : bool
        Whether what is stored has to be decoded.
    in_memory : bool
        Whether the rows are in the memory of this process, so that a cluster is sent them.
    summarizer : type
        Makes row summaries of the rows that `open_raw` gives.
    joint_counter : type
        Counts the confident joint of the rows that `open` gives, in the second pass.
    ignored : int or None
        Of labels: the value that says that a row has none; None where each row has one.
    decoding_bytes : int
        Bytes that one open source takes to decode rows, besides those that it returns; 0 where they are not much.
    decoding_note : str
        What takes these bytes, for messages.
    class_columns : tuple of tuple of str
        What the columns may call the classes, if there is a column of a table for each: several readings of its names.
    listed_at : str or None
        The folder or pattern, or the first of a list, in which it was found, alone or with other shards; None for an
        array that was given by itself.
    """

    in_pieces: bool = True
    request_rows: int | None = None
    n_side_by_side: int = 1
    is_encoded: bool = False
    forkable: bool = False
    prefetch_bytes: int = 0
    fill_value: float = 0
    in_memory: bool = False
    summarizer: type[Summarizer] = Summarizer
    joint_counter: type[JointCounter] = JointCounter
    ignored: int | None = None
    decoding_bytes: int = 0
    decoding_note: str = ""
    class_columns: tuple[tuple[str, ...], ...] = ()
    listed_at: str | None = None

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], row_chunk: int | None = None) -> None:
        self.shape, self.dtype, self.row_chunk = tuple(int(n) for n in shape), np.dtype(dtype), row_chunk
        self.row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])

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

    def prepared_for(self, rule: Filter) -> Source:  # noqa: ARG002  # whole rows hold all that any filter needs
        """Return the source with what a filter needs of its rows.

        Raises
        ------
        InvalidInputError
            If the rows do not hold it. The message says what to give, or to record.
        """
        return self

    def filter_for(self, rule: Filter) -> Filter:
        """Return the filter that selects as `rule` does among these rows."""
        return rule

    def describe_misfit(self, sums: ClassSums) -> str | None:  # noqa: ARG002  # rows are compared, class by class
        """Return why labels and these rows do not seem to belong together, "" if they do, or None to compare classes.

        Parameters
        ----------
        sums : ClassSums
            Sums of the label's probability over all rows, by class.
        """
        return None

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:  # noqa: ARG002
        """Open to read the stored bytes alone, for a measurement: rows have any values if they would need decoding.

        Parameters
        ----------
        start, stop : int
            As for `open`.
        count : callable
            Called with the number of bytes of each stored chunk. Not called where rows are stored as they are, or
            where reading and decoding cannot be told apart; then the rows are read as by `open`.
        """
        return self.open(start, stop)

    def identity(self) -> dict[str, Any]:
        """Return facts, as JSON takes them, that identify this input without reading its data.

        ``content`` is None where no known fact changes with the data.
        """
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "row_chunk": self.row_chunk,
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
    def strip_row_bytes(self) -> int:
        """Bytes of a row by which the number of rows of a strip is chosen."""
        return self.row_bytes

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a row before it is converted, for statistics."""
        return self.row_bytes

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows, the last one included, at which what is decoded together ends; None where `row_chunk` says it all.

        Reading that begins elsewhere has to decode the rows before, from the last such row on.
        """
        return None

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
        chunk, out = self.row_chunk or 1, np.empty((len(rows), *self.shape[1:]), self.dtype)
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
