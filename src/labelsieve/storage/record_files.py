"""Record files: columns of rows in blocks with checksums, in which row summaries and sorted issues are stored.

A record is a sequence of blocks and a footer. A block is the columns of some rows, one after the other, as raw
little-endian values. The footer is JSON: the facts of the header and of the footer that the writer gave, the names and
dtypes of the columns, and for each block its rows and its CRC-32. The last bytes are the footer's length and CRC-32,
and the format. So a record that was not finished has no valid end, and a file that was cut off, or of which a part was
lost or changed, is never read as other data: it raises `DamagedRecordError`. `labelsieve.tasks.checkpoint` takes such a
record for one that was never committed, so that its rows are read again.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.errors import TaskFailedError
from labelsieve.storage.folders import Folder, OutputFile

_FORMAT: Final = b"labelsieve record 3\n"
# The footer's length and checksum, and the format.
_END: Final = struct.Struct(f"<QI{len(_FORMAT)}s")

Columns = Mapping[str, npt.NDArray[Any]]


class DamagedRecordError(TaskFailedError):
    """A record is cut off, altered or missing, or the file never was one: its rows must be computed again."""


class RecordWriter:
    """Writes a record to a file.

    Parameters
    ----------
    file : OutputFile
        Empty.
    header : dict
        JSON facts that identify the record.
    """

    def __init__(self, file: OutputFile, header: Mapping[str, Any]) -> None:
        self._file, self._header, self.finished = file, header, False
        self._dtypes: dict[str, str] = {}
        self._blocks: list[tuple[int, int]] = []  # rows and checksum

    def add(self, columns: Columns) -> None:
        """Append a block: ``(n,)`` arrays, with the same names and dtypes in each block."""
        # Widest first, so that every column begins at a multiple of its item size.
        ordered = sorted(columns.items(), key=lambda item: -item[1].itemsize)
        dtypes = {name: column.dtype.newbyteorder("<").str for name, column in ordered}
        if self._blocks and dtypes != self._dtypes:
            raise ValueError(f"a block of {dtypes} in a record of {self._dtypes}")
        self._dtypes = dtypes
        # One write per block: after each write this thread may have to wait for the interpreter lock.
        block = b"".join(np.ascontiguousarray(column, dtypes[name]).view(np.uint8).data for name, column in ordered)
        self._file.write(block)
        self._blocks.append((len(ordered[0][1]), zlib.crc32(block)))

    def finish(self, footer: Mapping[str, Any]) -> None:
        """Write the footer with JSON facts that are known at the end, which makes the record whole."""
        facts = {"header": self._header, "columns": list(self._dtypes.items()), "blocks": self._blocks}
        content = json.dumps({**facts, "footer": footer}, sort_keys=True).encode()
        self._file.write(content + _END.pack(len(content), zlib.crc32(content), _FORMAT))
        self.finished = True


@dataclass(frozen=True)
class RecordLayout:
    """Where the blocks of a record are in its file, so that any of them can be read without the footer.

    Parameters
    ----------
    columns : tuple of (str, str)
        Names and dtypes.
    rows : (n,) int64 array
        Rows of each block.
    checksums : (n,) uint32 array
        CRC-32 of each block.
    """

    columns: tuple[tuple[str, str], ...]
    rows: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return sum(np.dtype(dtype).itemsize for _, dtype in self.columns)

    def read(self, folder: Folder, name: str, first: int, stop: int) -> list[dict[str, npt.NDArray[Any]]]:
        """Return the columns of blocks ``[first, stop)``, which are read in one piece.

        Raises
        ------
        DamagedRecordError
            If a block does not match its checksum, or is not there.
        """
        ends = np.cumsum(self.rows) * self.row_bytes
        start = int(ends[first - 1]) if first else 0
        try:
            raw = memoryview(folder.read(name, start, int(ends[stop - 1])))
        except FileNotFoundError:
            raise DamagedRecordError(f"{folder.where}/{name} is not there any more") from None
        blocks, columns = [], {column: np.dtype(dtype) for column, dtype in self.columns}
        for n_rows, checksum, end in zip(
            self.rows[first:stop].tolist(), self.checksums[first:stop].tolist(), ends[first:stop].tolist(), strict=True
        ):
            block = raw[end - start - n_rows * self.row_bytes : end - start]
            if zlib.crc32(block) != checksum:
                raise DamagedRecordError(f"a block of {folder.where}/{name} does not match its checksum")
            blocks.append(_columns_of(block, columns, n_rows))
        return blocks


class Record:
    """An open record; a context manager.

    Parameters
    ----------
    folder : Folder
        Where it is.
    name : str
        Its name there.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DamagedRecordError
        If the file does not end as a record does.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.where = f"{folder.where}/{name}"
        self._file = folder.open(name)
        try:
            self._read_footer()
        except BaseException:
            self._file.close()
            raise

    def _read_footer(self) -> None:
        size = self._file.seek(0, io.SEEK_END)
        length, checksum, written_format = _END.unpack(self._take(max(0, size - _END.size), _END.size))
        start = size - _END.size - length
        if written_format != _FORMAT or start < 0:
            raise self._damage("it does not end as a record does")
        content = self._take(start, length)
        if zlib.crc32(content) != checksum:
            raise self._damage("its footer does not match its checksum")
        try:
            facts = json.loads(content)
            self.header, self.footer, self._blocks = facts["header"], facts["footer"], facts["blocks"]
            self._columns = {name: np.dtype(dtype) for name, dtype in facts["columns"]}
            blocks_bytes = self.n_rows * self._row_bytes
        except (KeyError, TypeError, ValueError) as error:
            raise self._damage("its footer lacks something") from error
        if blocks_bytes != start:
            raise self._damage(f"its blocks have {start:,} bytes, not {blocks_bytes:,}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def n_rows(self) -> int:
        """Rows of all blocks."""
        return sum(rows for rows, _ in self._blocks)

    @property
    def layout(self) -> RecordLayout:
        """Where the blocks are."""
        rows, checksums = [rows for rows, _ in self._blocks], [checksum for _, checksum in self._blocks]
        columns = tuple((name, dtype.str) for name, dtype in self._columns.items())
        return RecordLayout(columns, np.array(rows, np.int64), np.array(checksums, np.uint32))

    @property
    def _row_bytes(self) -> int:
        return sum(dtype.itemsize for dtype in self._columns.values())

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the columns of rows ``[start, stop)`` in blocks. Each block is read and checked as a whole.

        Raises
        ------
        DamagedRecordError
            If a block does not match its checksum.
        """
        first, stop = 0, self.n_rows if stop is None else stop
        for n_rows, checksum in self._blocks:
            a, b = max(start - first, 0), min(stop - first, n_rows)
            if a < b:
                block = self._read_block(first, n_rows, checksum)
                # A part is copied, so that the memory of the whole block is freed.
                yield block if b - a == n_rows else {name: column[a:b].copy() for name, column in block.items()}
            first += n_rows

    def _read_block(self, first: int, n_rows: int, checksum: int) -> dict[str, npt.NDArray[Any]]:
        raw = self._take(first * self._row_bytes, n_rows * self._row_bytes)
        if zlib.crc32(raw) != checksum:
            raise self._damage(f"a block of {n_rows:,} rows does not match its checksum")
        return _columns_of(raw, self._columns, n_rows)

    def _take(self, start: int, n_bytes: int) -> bytes:
        """Read `n_bytes` bytes from `start` on."""
        self._file.seek(start)
        taken: bytes = self._file.read(n_bytes)
        if len(taken) < n_bytes:
            raise self._damage("it is cut off")
        return taken

    def _damage(self, why: str) -> DamagedRecordError:
        return DamagedRecordError(f"{self.where} is not a whole record: {why}")


def _columns_of(
    raw: bytes | memoryview, columns: Mapping[str, np.dtype[Any]], n_rows: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a block, in native byte order."""
    found, position = {}, 0
    for name, dtype in columns.items():
        found[name] = np.frombuffer(raw, dtype, n_rows, position).astype(dtype.newbyteorder("="), copy=False)
        position += n_rows * dtype.itemsize
    return found
