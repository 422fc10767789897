"""Columns of Parquet files, decoded as a stream: memory follows the strip that is read, and not the row group.

Decoding begins at the first row of a row group, so partitions are whole row groups (`Source.row_edges`). A task
decodes its row groups in its own thread, some rows at a time. ``pre_buffer=True`` of pyarrow would hold whole row
groups, and so would a reader without a buffer for each column.

A page of each column is decompressed whole. Footers do not say how large pages are, so the plan takes the limit of the
program that wrote the file: 1 MiB for Arrow, Polars and Spark, which is their default, and 100 MiB for DuckDB. A page
never counts more than its whole column chunk. Files written with larger pages than that need more than is planned.
"""

from __future__ import annotations

import bisect
import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.summarize import MAX_STRIP_ROWS, STRIP_BYTES
from labelsieve.errors import InvalidInputError
from labelsieve.sources.columns import (
    Columns,
    TableFile,
    TableFileSource,
    arrow,
    columns_of,
    common_length,
    in_one_line,
    list_columns_of,
    list_items,
    list_lengths,
    open_file,
    reading,
)
from labelsieve.sources.npy import RemoteFile
from labelsieve.sources.objects import Prefetcher, ahead_bytes, n_ahead
from labelsieve.sources.source import ReadFacts, Rows, Source
from labelsieve.storage.folder import RangedFile

# Bytes that are read at a time from a column on a disk, if there is one; several columns share 16 MB.
_BUFFER_BYTES: Final = 1 << 20
_ALL_BUFFERS: Final = 16 << 20
_LEAST_BUFFER: Final = 1 << 16
# One request, and the largest row group of several columns that is requested whole.
_REQUEST_BYTES: Final = 8_000_000
_WHOLE_GROUP_BYTES: Final = 64_000_000
# Rows that are decoded at a time, where fewer are asked for first.
_LEAST_ROWS: Final = 1024
# Lists whose lengths are read at a time.
_LISTS: Final = 1 << 14
# Most bytes of a page of DuckDB, and the default of others, which use what is left of the last page.
_DUCKDB_PAGE_BYTES: Final = 100 << 20
_PAGE_BYTES: Final = 1 << 20
# Copies of a strip that decoding takes: the values, their levels of nesting, and room to grow.
_DECODING_COPIES: Final = 4


class ParquetTable:
    """An open Parquet file: the names of its columns, its number of rows, and its row groups. Only its footer is read.

    Raises
    ------
    InvalidInputError
        For a file that is not a Parquet file, or is cut off.
    """

    def __init__(self, name: str, file: TableFile) -> None:
        self._file, self.where = file, file.where
        try:
            metadata = _metadata(file)
            with _parquet_file(file, metadata) as opened:
                self._schema = opened.schema_arrow
        except FileNotFoundError:
            raise InvalidInputError(f"{name}: there is no file {file.where}") from None
        except (arrow().ArrowException, OSError) as error:
            raise InvalidInputError(
                f"{name}: {file.where} is not a readable Parquet file: {in_one_line(error)}"
            ) from error
        self.names: list[str] = self._schema.names
        self.n_rows: int = metadata.num_rows
        self._leaf = np.cumsum([0, *(_n_leaves(field.type) for field in self._schema)]).tolist()

    def source(self, name: str, wanted: Any, *, with_nulls: bool = False) -> ParquetSource:
        """Return the source of one or more columns."""
        metadata = _metadata(self._file)

        def list_width(column: str) -> int:
            leaf = self._leaf[self.names.index(column)]
            groups = map(metadata.row_group, range(metadata.num_row_groups))
            return common_length(name, column, ((g.num_rows, g.column(leaf).num_values) for g in groups), self.where)

        columns = columns_of(name, wanted, self._schema, self.where, list_width, with_nulls=with_nulls)
        return ParquetSource(self._file, columns, [self._leaf[self.names.index(one)] for one in columns.columns])

    def arrow_column(self, column: str) -> Any:
        """Return a column as an Arrow array in chunks, read whole."""
        with reading(self.where), _parquet_file(self._file, _metadata(self._file)) as opened:
            return opened.read([column]).column(0)

    def list_lengths(self, name: str, column: str, first_list: int) -> list[npt.NDArray[np.int64]]:
        """Return the lengths of the lists of a column in each row group, for which it is decoded.

        In messages, lists are counted from `first_list`, the number of the first one in the table of the user.
        """
        metadata, found = _metadata(self._file), []
        with reading(self.where), _parquet_file(self._file, metadata) as opened:
            for group in range(metadata.num_row_groups):
                parts = [np.empty(0, np.int64)]
                for batch in opened.iter_batches(_LISTS, row_groups=[group], columns=[column], use_threads=False):
                    parts.append(list_lengths(name, batch.column(column), first_list, self.where))
                    first_list += batch.num_rows
                found.append(np.concatenate(parts))
        return found

    def list_source(
        self, name: str, column: str, lengths: Sequence[npt.NDArray[np.int64]], first_list: int, *, with_nulls: bool
    ) -> ParquetListsSource:
        """Return the source of a column of lists, whose items are the rows.

        `lengths` are those that the lists of each row group must have; `first_list` is that of `list_lengths`.
        """

        def inner_width(column: str) -> int:
            with reading(self.where), _parquet_file(self._file, _metadata(self._file)) as opened:
                for batch in opened.iter_batches(_LEAST_ROWS, columns=[column], use_threads=False):
                    items = list_items(batch.column(column))
                    if len(items):
                        return common_length(name, column, [(len(items), len(list_items(items)))], self.where)
            return common_length(name, column, [], self.where)

        columns = list_columns_of(name, column, self._schema, self.where, inner_width, with_nulls=with_nulls)
        leaf = self._leaf[self.names.index(column)]
        return ParquetListsSource(self._file, replace(columns, of_items=True), leaf, lengths, first_list)


class ParquetSource(TableFileSource):
    """Columns of one Parquet file as an array.

    Parameters
    ----------
    file : TableFile
        The file.
    columns : Columns
        Which columns, and how a row of them is read.
    leaves : sequence of int
        The number of each column among the stored columns of the file.
    group_rows : sequence of int, optional
        Number of rows of each row group, where these are not what is stored.

    Attributes
    ----------
    stored_rows : int
        Number of rows that one stored row makes, on average.
    """

    stored_rows = 1

    def __init__(
        self, file: TableFile, columns: Columns, leaves: Sequence[int], group_rows: Sequence[int] | None = None
    ) -> None:
        metadata = _metadata(file)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        super().__init__(file, columns, [group.num_rows for group in groups] if group_rows is None else group_rows)
        self.leaves, self.row_edges = tuple(leaves), self.ends
        sizes = [[group.column(leaf) for leaf in self.leaves] for group in groups if group.num_rows]
        stored = [sum(column.total_compressed_size for column in columns) for columns in sizes]
        decoded = [sum(column.total_uncompressed_size for column in columns) for columns in sizes]
        largest = decoded.index(max(decoded)) if decoded else 0
        page = _DUCKDB_PAGE_BYTES if (metadata.created_by or "").startswith("DuckDB") else _PAGE_BYTES
        pages = [min(column.total_uncompressed_size, page) for column in sizes[largest]] if sizes else [0]
        strip = min(self.n_rows, MAX_STRIP_ROWS) * self.row_bytes
        # Bytes that are read at a time from each column.
        self.buffer_bytes = max(_LEAST_BUFFER, min(_BUFFER_BYTES, _ALL_BUFFERS // len(self.leaves)))
        buffers = len(self.leaves) * self.buffer_bytes
        note = (
            (
                f"row groups of {file.where} have up to {decoded[largest] / 1e6:,.0f} MB in what is read, in pages of "
                f"up to {max(pages) / 1e6:,.1f} MB, of which {len(self.leaves):,} are decoded at a time"
            )
            if decoded
            else ""
        )
        is_fetched = file.is_remote and bool(stored)
        self.loads_groups = is_fetched and len(self.leaves) > 1 and max(stored) <= _WHOLE_GROUP_BYTES
        ahead = max(stored) if self.loads_groups else ahead_bytes(_REQUEST_BYTES)
        self.facts = ReadFacts(
            is_encoded=True,
            prefetch_bytes=ahead if is_fetched else 0,
            decoding_bytes=2 * sum(pages) + buffers + _DECODING_COPIES * min(strip, STRIP_BYTES),
            decoding_note=note,
        )

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open for reading."""
        return _ParquetRows(self, start, self.n_rows if stop is None else min(stop, self.n_rows))

    def byte_ranges(self, groups: range) -> list[tuple[int, int]]:
        """Return where the first column is stored in some row groups."""
        metadata, ranges = _metadata(self.file), []
        for group in groups:
            column = metadata.row_group(group).column(self.leaves[0])
            first = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            start = min(first or column.data_page_offset, column.data_page_offset)
            ranges.append((start, start + column.total_compressed_size))
        return ranges

    def check_stored(self, arrays: Sequence[Any], group: int, row: int) -> None:
        """Raise unless stored rows, from number `row` of a row group on, are as they must be."""


class ParquetListsSource(ParquetSource):
    """A column of lists of one Parquet file as an array, whose rows are the items of the lists.

    Parameters
    ----------
    file : TableFile
        The file.
    columns : Columns
        The column, and how its items are read.
    leaf : int
        The number of the column among the stored columns of the file.
    lengths : sequence of (n,) int64
        Lengths that the lists of each row group must have.
    first_list : int
        Number of the first list in the table of the user, for messages.
    """

    def __init__(
        self,
        file: TableFile,
        columns: Columns,
        leaf: int,
        lengths: Sequence[npt.NDArray[np.int64]],
        first_list: int = 0,
    ) -> None:
        super().__init__(file, columns, [leaf], [int(one.sum()) for one in lengths])
        self._first_list, self._starts = first_list, np.cumsum([0, *map(len, lengths)])
        # The lengths that are known begin with this list of the file.
        self._lengths, self._known_from = np.concatenate([np.empty(0, np.int64), *lengths]), 0
        self.stored_rows = max(1, self.n_rows // max(1, len(self._lengths)))
        self.row_edges = np.unique(self.ends[self.ends > 0])  # some row groups may hold only empty lists

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return a source that knows only the lengths in these row groups: a task need not be sent all of them."""
        first, last = np.searchsorted(self.ends, [start, max(start, stop - 1)], "right").tolist()
        begin, end = self._starts[[first, min(last + 1, len(self.ends))]].tolist()
        other = copy.copy(self)
        known = self._lengths[begin - self._known_from : end - self._known_from]
        vars(other).update(_known_from=begin, _lengths=known)
        return other, 0

    def check_stored(self, arrays: Sequence[Any], group: int, row: int) -> None:
        """Raise if a list has another length."""
        name, [array], number = self.columns.name, arrays, int(self._starts[group]) + row
        lengths = list_lengths(name, array, self._first_list + number, self.where)
        known = self._lengths[number - self._known_from :][: len(lengths)]
        differing = np.flatnonzero(lengths[: len(known)] != known)
        if len(differing):
            place = int(differing[0])
            sentence = self._first_list + number + place
            raise InvalidInputError(
                f"sentence {sentence:,} has {known[place]:,} labels, but {lengths[place]:,} rows of {name}, one for "
                "each token"
            )


class _ParquetRows(Rows):
    """Decodes row groups one after the other; going back, or beyond the next row group, begins a new stream."""

    def __init__(self, source: ParquetSource, start: int, stop: int) -> None:
        super().__init__(source)
        self._source, self._stop = source, stop
        self._batches: Iterator[Any] = iter(())
        self._opened: Any = None
        self._prefetcher: Prefetcher | None = None
        self._held: npt.NDArray[Any] = self._empty(0)
        self._first = self._next = -1
        self._group = self._n_stored = 0  # where decoding began, and how many stored rows have come since
        with reading(source.where):
            if source.file.is_remote and start < stop:
                self._begin(self._group_of(start), MAX_STRIP_ROWS)
            else:
                self._opened = _parquet_file(source.file, _metadata(source.file), source.buffer_bytes)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        n_rows, row = stop - start, start
        out: npt.NDArray[Any] | None = None
        while row < stop:
            self._cover(row, n_rows)
            piece = self._held[row - self._first : stop - self._first]
            if len(piece) == n_rows:
                return piece
            out = self._reused(n_rows) if out is None else out
            out[row - start : row - start + len(piece)] = piece
            row += len(piece)
        return self._reused(0) if out is None else out

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._source.ends, row, "right"))

    def _cover(self, row: int, n_rows: int) -> None:
        """Decode until a row is in memory."""
        if self._first <= row < self._first + len(self._held):
            return
        source = self._source
        with reading(f"{source.where}, row {row:,} or before,"):
            if not 0 <= self._next <= row or self._group_of(row) > self._group_of(self._next):
                self._begin(self._group_of(row), n_rows)
            self._held = self._empty(0)  # freed before more is decoded
            while True:
                batch = next(self._batches)
                arrays = [batch.column(column) for column in source.columns.columns]
                source.check_stored(arrays, self._group, self._n_stored)
                self._n_stored += batch.num_rows
                held = source.columns.to_numpy(arrays, self._next)
                self._first, self._next = self._next, self._next + len(held)
                if row < self._next:
                    break
        self._held = held

    def _begin(self, group: int, n_rows: int) -> None:
        """Begin to decode at the first row of a row group, about `n_rows` rows at a time."""
        source = self._source
        groups = range(group, max(group, self._group_of(self._stop - 1)) + 1)
        self._next = int(source.ends[group - 1]) if group else 0
        self._first, self._held = self._next, self._empty(0)
        most = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // max(1, source.row_bytes)))
        rows = max(1, min(most, max(_LEAST_ROWS, n_rows)) // source.stored_rows)
        self._group, self._n_stored = group, 0
        if source.file.is_remote:
            self._open_remote(groups)
        steps = [[one] for one in groups] if source.loads_groups else [list(groups)]
        columns, opened = list(source.columns.columns), self._opened
        self._batches = (
            batch
            for step in steps
            for batch in opened.iter_batches(rows, row_groups=step, columns=columns, use_threads=False)
        )

    def _open_remote(self, groups: range) -> None:
        """Open the object anew, to prefetch what these row groups need."""
        self.close()
        source, file = self._source, self._source.file
        if len(source.leaves) == 1 and isinstance(file, RemoteFile):
            blocks = [
                (start, min(start + _REQUEST_BYTES, stop))
                for first, stop in source.byte_ranges(groups)
                for start in range(first, stop, _REQUEST_BYTES)
            ]
            self._prefetcher = Prefetcher(
                lambda index: file.read(*blocks[index]), 0, len(blocks), n_ahead(_REQUEST_BYTES)
            )
            self._prefetcher.start()
            blocks_file = RangedFile(_Blocks(file, self._prefetcher, blocks).read, file.size)
            opened: Any = arrow().PythonFile(blocks_file, mode="r")
        else:
            opened = open_file(file)
        self._opened = _parquet_file(file, _metadata(file), source.buffer_bytes, opened, whole=source.loads_groups)

    def close(self) -> None:
        self._batches = iter(())
        if self._prefetcher is not None:
            self._prefetcher.close()
        if self._opened is not None:
            self._opened.close(force=True)


class _Blocks:
    """Reads an object of which some blocks of bytes are prefetched, in the order in which they are read."""

    def __init__(self, file: RemoteFile, prefetcher: Prefetcher, blocks: Sequence[tuple[int, int]]) -> None:
        self._file, self._prefetcher, self._blocks = file, prefetcher, blocks
        self._index, self._block = -1, b""

    def read(self, start: int, stop: int) -> bytes:
        parts = list[bytes]()
        while start < stop:
            index = bisect.bisect_right(self._blocks, start, key=operator.itemgetter(0)) - 1
            if index < 0 or start >= self._blocks[index][1]:  # not in a block, such as the footer
                return b"".join([*parts, self._file.read(start, stop)])
            if index != self._index:
                self._index, self._block = index, self._prefetcher.take(index)
            first, end = self._blocks[index]
            parts.append(self._block[start - first : stop - first])
            start = min(stop, end)
        return b"".join(parts)


@lru_cache(maxsize=64)
def _metadata(file: TableFile) -> Any:
    """Return the footer of a file, which is parsed once in each process for each version of the file."""
    with _parquet_file(file, None) as opened:
        return opened.metadata


def _parquet_file(
    file: TableFile, metadata: Any, buffer_bytes: int = _BUFFER_BYTES, opened: Any = None, *, whole: bool = False
) -> Any:
    """Open a file so that memory follows the rows that are decoded; `whole` requests whole row groups."""
    import pyarrow.parquet as pq

    opened = open_file(file) if opened is None else opened
    try:
        return pq.ParquetFile(
            opened,
            metadata=metadata,
            pre_buffer=whole,
            buffer_size=0 if whole else buffer_bytes,
            page_checksum_verification=True,
        )
    except BaseException:
        opened.close()
        raise


def _n_leaves(kind: Any) -> int:
    """Return the number of stored columns of a column of some type."""
    pa = arrow()
    if isinstance(kind, pa.BaseExtensionType):
        return _n_leaves(kind.storage_type)
    if not pa.types.is_nested(kind):
        return 1
    return sum(_n_leaves(kind.field(index).type) for index in range(kind.num_fields))
