"""Rows of Arrow record batches, in memory or mapped from a file, and how they are read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
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
from labelsieve.sources.open import ArraySource
from labelsieve.sources.source import ReadFacts, Rows, Source

# Rows whose values are hashed at a time.
_DIGEST_ROWS: Final = 1 << 14


class BatchRows(Rows):
    """Reads rows of record batches that end at `ends`, given by number by `batch`; a read of several copies them."""

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
        out, row, index = self._reused(stop - start), start, first
        while row < stop:
            end = min(stop, int(self._ends[index]))
            if row < end:
                out[row - start : end - start] = self._part(index, row, end)
            row, index = end, index + 1
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


class ArrowTable:
    """An open Arrow file: the names of its columns, and the number of rows of each record batch.

    Record batches are mapped. Where they are compressed, the first one is decoded to see it, and the narrowest column
    of all to count their rows.

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
        self._file, self.where, self._compressed = file, file.where, False
        try:
            with file.path.open("rb") as opened:
                self._is_stream = opened.read(6) != b"ARROW1"
            whole, reader = _reader(file, is_stream=self._is_stream)
            self._schema, self._rows = reader.schema, list[int]()
            for batch in _batches(reader):
                self._compressed = not _is_within(batch, whole)
                if self._compressed:
                    break
                self._rows.append(batch.num_rows)
            if self._compressed and not self._is_stream:
                widths = {_width(field.type): index for index, field in enumerate(self._schema)}
                _, reader = _reader(file, is_stream=False, fields=[widths[min(widths)]])
                self._rows = [batch.num_rows for batch in _batches(reader)]
        except (arrow().ArrowException, OSError) as error:
            raise InvalidInputError(
                f"{name}: {file.where} is not a readable Arrow file: {in_one_line(error)}"
            ) from error
        if self._is_stream and self._compressed:
            raise InvalidInputError(
                f"{name}: {file.where} is a compressed Arrow stream, which has no index: store it as a Parquet file"
            )
        self.names: list[str] = self._schema.names
        self.n_rows = sum(self._rows)

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> ArrowFileSource:
        """Return the source of one or more columns."""

        def list_width(column: str) -> int:
            lists = [batch.column(column) for batch in self.batches((column,), 1)]
            return common_length(name, column, [(len(one), len(one.flatten())) for one in lists], self.where)

        columns = columns_of(name, wanted, self._schema, self.where, list_width, with_nulls=with_nulls)
        return ArrowFileSource(self._file, columns, self._rows, is_stream=self._is_stream, compressed=self._compressed)

    def arrow_column(self, column: str) -> Any:
        """Return a column as an Arrow array in chunks."""
        chunks = [batch.column(column) for batch in self.batches((column,))]
        return arrow().chunked_array(chunks, self._schema.field(column).type)

    def batches(self, columns: tuple[str, ...], most: int | None = None) -> list[Any]:
        """Return all record batches that have rows, or the first of them: mapped, or decoded if compressed."""
        filled = [index for index, n_rows in enumerate(self._rows) if n_rows][:most]
        with reading(self.where):
            return [_batch(self._file, self._is_stream, self._compressed, columns, index) for index in filled]


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
            self.row_edges, largest = self.ends, max(batch_rows) * self.row_bytes
            note = f"record batches of {file.where} have up to {largest / 1e6:,.0f} MB in what is read, and are decoded"
            self.facts = ReadFacts(is_encoded=True, decoding_bytes=2 * largest, decoding_note=f"{note} whole")

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


def _reader(file: LocalTableFile, *, is_stream: bool, fields: Sequence[int] = ()) -> tuple[Any, Any]:
    """Return the mapped file, and a reader of its record batches, with all fields or some."""
    from pyarrow import ipc

    whole = arrow().memory_map(str(file.path), "r").read_buffer()
    options = ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
    return whole, (ipc.open_stream if is_stream else ipc.open_file)(whole, options=options)


def _batches(reader: Any) -> Iterator[Any]:
    n_batches = getattr(reader, "num_record_batches", None)
    return iter(reader) if n_batches is None else map(reader.get_batch, range(n_batches))


def _width(kind: Any) -> int:
    """Return the bits of a value; many for types without a fixed number."""
    try:
        return kind.bit_width or 1 << 30
    except ValueError:
        return 1 << 30


def _is_within(batch: Any, whole: Any) -> bool:
    """Return whether the values of a record batch are those of the mapped file, so that they are not compressed."""
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    return all(whole.address <= buffer.address < whole.address + whole.size for buffer in buffers)


@lru_cache(maxsize=16)
def _mapped_batches(file: LocalTableFile, is_stream: bool) -> list[Any]:
    """Return all record batches, whose values are those of the mapped file."""
    return list(_batches(_reader(file, is_stream=is_stream)[1]))


def _batch(file: LocalTableFile, is_stream: bool, compressed: bool, columns: tuple[str, ...], index: int) -> Any:
    """Return a record batch; of a compressed one only some columns."""
    if not compressed:
        return _mapped_batches(file, is_stream)[index]
    names = _reader(file, is_stream=False)[1].schema.names
    return _reader(file, is_stream=False, fields=[names.index(column) for column in columns])[1].get_batch(index)
