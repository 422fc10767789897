"""Rows of Arrow record batches, in memory or mapped from a file, and how they are read."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.columns import (
    Columns,
    LocalTableFile,
    TableFile,
    TableFileSource,
    arrow,
    columns_of,
    common_length,
    in_one_line,
    reading,
)
from labelsieve.sources.source import ReadFacts, Rows, Source

# Rows whose values are hashed at a time.
_DIGEST_ROWS: Final = 1 << 14


class BatchRows(Rows):
    """Reads rows of record batches; a read that spans several copies them.

    Parameters
    ----------
    source : Source
        Gives the shape and dtype.
    columns : Columns
        Which columns, and how a row of them is read.
    ends : (B,) int64
        The rows at which batches end.
    batch : callable
        Given the number of a batch, returns it as a ``pyarrow.RecordBatch``.
    """

    def __init__(
        self, source: Source, columns: Columns, ends: npt.NDArray[np.int64], batch: Callable[[int], Any]
    ) -> None:
        super().__init__(source)
        self._columns, self._ends, self._batch = columns, ends, batch

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows ``[start, stop)``."""
        first = int(np.searchsorted(self._ends, start, "right"))
        if start < stop <= self._ends[first]:
            return self._part(first, start, stop)
        out, row = self._reused(stop - start), start
        for index in range(first, len(self._ends)):
            end = min(stop, int(self._ends[index]))
            if row < end:
                out[row - start : end - start] = self._part(index, row, end)
                row = end
            if row >= stop:
                break
        return out

    def _part(self, index: int, start: int, stop: int) -> npt.NDArray[Any]:
        begin = int(self._ends[index - 1]) if index else 0
        part = self._batch(index).slice(start - begin, stop - start)
        return self._columns.to_numpy([part.column(column) for column in self._columns.columns], start)


class BatchesSource(Source):
    """Columns of record batches in memory as an array; it pickles as a NumPy array.

    Parameters
    ----------
    batches : sequence of pyarrow.RecordBatch
        Only read.
    columns : Columns
        Which columns, and how a row of them is read.
    first_row : int
        Number of the first row in the table of the user, for messages.
    """

    def __init__(self, batches: Sequence[Any], columns: Columns, first_row: int = 0) -> None:
        self._batches, self.columns, self._first_row = [batch for batch in batches if len(batch)], columns, first_row
        self._ends = np.array(list(itertools.accumulate(map(len, self._batches))), np.int64)
        self.class_columns = columns.class_columns
        shape = (int(self._ends[-1]) if len(self._ends) else 0, *columns.shape)
        super().__init__(shape, columns.dtype, ReadFacts(in_memory=True))

    def __reduce__(self) -> tuple[Any, ...]:
        # A slice of a record batch would pickle with all of its buffers.
        return ArraySource, (np.ascontiguousarray(self[:]),)

    @classmethod
    def of_table(cls, batches: Sequence[Any], columns: Columns) -> Source:
        """Return the source of the columns of a table; one array where that takes no copy, or only one of labels."""
        found = cls(batches, columns)
        one = len(found._batches) == 1 and columns.in_lists
        return ArraySource(found[:]) if one or columns.width is None else found

    @property
    def where(self) -> str:
        """What it is: memory has no path."""
        return self.columns.where

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing to prefetch
        """Open for reading."""
        return BatchRows(self, self.columns, self._ends, self._batches.__getitem__)

    def _content(self) -> str:
        """Return a digest of the values."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        with self.open() as rows:
            for start in range(0, self.n_rows, _DIGEST_ROWS):
                block = rows.read(start, min(start + _DIGEST_ROWS, self.n_rows))
                digest.update(np.ascontiguousarray(block).tobytes())
        return digest.hexdigest()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return these rows, without a copy."""
        begins, parts = [0, *self._ends.tolist()], []
        for batch, begin in zip(self._batches, begins, strict=False):
            a, b = max(start - begin, 0), min(stop - begin, len(batch))
            if a < b:
                parts.append(batch.slice(a, b - a))
        return BatchesSource(parts, self.columns, self._first_row + start), start


_MAGIC: Final = b"ARROW1"
# The mark before the size of each message.
_CONTINUATION: Final = 0xFFFFFFFF
# Kind of the messages that hold rows, and places of fields in the tables of messages and record batches.
_RECORD_BATCH: Final = 3
_KIND, _HEADER, _BODY_BYTES = 1, 2, 3
_N_ROWS, _COMPRESSION = 0, 3


class ArrowTable:
    """An open Arrow file: its columns and the number of rows of each record batch. No values are read.

    Parameters
    ----------
    name : str
        What is to be read, for messages.
    file : TableFile
        The file, of a known version.

    Attributes
    ----------
    names : list of str
        Names of the columns.
    where : str
        The path.
    n_rows : int
        Number of rows.

    Raises
    ------
    InvalidInputError
        For a file that is not an Arrow file, is cut off, is compressed in the stream format, or is not on a disk.
    """

    def __init__(self, name: str, file: TableFile) -> None:
        if not isinstance(file, LocalTableFile):
            raise InvalidInputError(
                f"{name}: {file.where} is an Arrow file, which is mapped from a disk: copy it, or store a Parquet file"
            )
        pa = arrow()
        self._file, self.where = file, file.where
        try:
            with file.path.open("rb") as opened:
                is_stream, sizes = _record_batches(opened)
            self._schema = _reader(file, is_stream=is_stream).schema
        except (pa.ArrowException, OSError, struct.error) as error:
            raise InvalidInputError(
                f"{name}: {file.where} is not a readable Arrow file: {in_one_line(error)}"
            ) from error
        self._rows, self._compressed = [n for n, _ in sizes], any(is_compressed for _, is_compressed in sizes)
        self._is_stream = is_stream
        if is_stream and self._compressed:
            raise InvalidInputError(
                f"{name}: {file.where} is a compressed Arrow stream, which has no index: store it as a Parquet file"
            )
        self.names: list[str] = self._schema.names
        self.n_rows = sum(self._rows)

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> ArrowFileSource:
        """Return the source of one or more columns."""

        def list_width(column: str) -> int:
            [batch, *_] = [index for index, n_rows in enumerate(self._rows) if n_rows] or [-1]
            counts = []
            if batch >= 0:
                with reading(f"{self.where}, record batch {batch:,},"):
                    lists = _batch(self._file, self._is_stream, self._compressed, (column,), batch).column(column)
                    counts = [(len(lists), len(lists.flatten()))]
            return common_length(name, column, counts, self._file.where)

        columns = columns_of(name, wanted, self._schema, self.where, list_width, with_nulls=with_nulls)
        return ArrowFileSource(self._file, columns, self._rows, is_stream=self._is_stream, compressed=self._compressed)

    def batches(self, columns: tuple[str, ...]) -> list[Any]:
        """Return all record batches with these columns: mapped, or decoded if they are compressed."""
        with reading(self.where):
            return [
                _batch(self._file, self._is_stream, self._compressed, columns, index)
                for index, n_rows in enumerate(self._rows)
                if n_rows
            ]


class ArrowFileSource(TableFileSource):
    """Columns of one Arrow file as an array.

    Parameters
    ----------
    file : LocalTableFile
        The file.
    columns : Columns
        Which columns, and how a row of them is read.
    batch_rows : list of int
        Number of rows of each record batch.
    is_stream : bool
        Whether the file has the stream format.
    compressed : bool
        Whether record batches have to be decoded, each whole.
    """

    file: LocalTableFile

    def __init__(
        self, file: LocalTableFile, columns: Columns, batch_rows: list[int], *, is_stream: bool, compressed: bool
    ) -> None:
        super().__init__(file, columns, batch_rows)
        self.is_stream = is_stream
        if compressed:
            largest = max(batch_rows) * self.row_bytes
            note = f"record batches of {file.where} have up to {largest / 1e6:,.0f} MB in what is read, and are decoded"
            self.facts = ReadFacts(is_encoded=True, decoding_bytes=2 * largest, decoding_note=f"{note} whole")

    @property
    def row_edges(self) -> npt.NDArray[np.int64] | None:
        """The rows at which record batches end, if these are compressed."""
        return self.ends if self.facts.is_encoded else None

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is prefetched
        """Open for reading."""
        return _ArrowFileRows(self)


class _ArrowFileRows(BatchRows):
    """Holds the last record batch, which may have been decompressed."""

    def __init__(self, source: ArrowFileSource) -> None:
        super().__init__(source, source.columns, source.ends, self._load)
        source.file.check()
        self._source, self._index, self._loaded = source, -1, None

    def _load(self, index: int) -> Any:
        if index != self._index:
            source, self._loaded = self._source, None
            with reading(f"{source.where}, record batch {index:,},"):
                self._loaded = _batch(
                    source.file, source.is_stream, source.facts.is_encoded, source.columns.columns, index
                )
            self._index = index
        return self._loaded


def _reader(file: LocalTableFile, *, is_stream: bool, options: Any = None) -> Any:
    import pyarrow.ipc

    mapped = arrow().memory_map(str(file.path), "r")
    return (pyarrow.ipc.open_stream if is_stream else pyarrow.ipc.open_file)(mapped, options=options)


@lru_cache(maxsize=16)
def _mapped_batches(file: LocalTableFile, is_stream: bool) -> list[Any]:
    """Return all record batches, whose values are those of the mapped file."""
    reader = _reader(file, is_stream=is_stream)
    if is_stream:
        return list(reader)
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]


def _batch(file: LocalTableFile, is_stream: bool, compressed: bool, columns: tuple[str, ...], index: int) -> Any:
    """Return a record batch; of a compressed one only some columns."""
    if not compressed:
        return _mapped_batches(file, is_stream)[index]
    names = _reader(file, is_stream=False).schema.names
    options = arrow().ipc.IpcReadOptions(included_fields=[names.index(column) for column in columns], use_threads=False)
    return _reader(file, is_stream=False, options=options).get_batch(index)


def _record_batches(file: BinaryIO) -> tuple[bool, list[tuple[int, bool]]]:
    """Return whether a file has the stream format, and of each record batch its rows and whether it is compressed.

    Messages follow each other in both formats. Each is a mark, the size of its header, the header, and a body.
    """
    is_stream = file.read(len(_MAGIC)) != _MAGIC
    position, found = (0 if is_stream else 8), list[tuple[int, bool]]()
    while True:
        file.seek(position)
        prefix = file.read(8)
        mark, size = struct.unpack("<II", prefix) if len(prefix) == 8 else (0, 0)
        if mark != _CONTINUATION or not size:
            return is_stream, found
        header = file.read(size)
        root = struct.unpack_from("<I", header)[0]
        [n_bytes] = _field(header, root, _BODY_BYTES, "<q")
        if n_bytes < 0:  # would lead back to where it came from
            raise struct.error(f"a message has {n_bytes:,} bytes")
        if _field(header, root, _KIND, "<B")[0] == _RECORD_BATCH:
            at = _place(header, root, _HEADER)
            batch = at + struct.unpack_from("<I", header, at)[0]
            [n_rows] = _field(header, batch, _N_ROWS, "<q")
            if n_rows < 0:
                raise struct.error(f"a record batch has {n_rows:,} rows")
            found.append((n_rows, bool(_place(header, batch, _COMPRESSION))))
        position += 8 + size + n_bytes


def _place(buffer: bytes, table: int, number: int) -> int:
    """Return where a field of a table of a FlatBuffer is; 0 if it is not stored."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", buffer, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", buffer, fields + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _field(buffer: bytes, table: int, number: int, form: str) -> tuple[int]:
    """Return a number of a table of a FlatBuffer, 0 if it is not stored."""
    place = _place(buffer, table, number)
    return struct.unpack_from(form, buffer, place) if place else (0,)
