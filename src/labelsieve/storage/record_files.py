"""Columns of rows in a file of checked blocks: how summaries and selected rows are kept. Never a pickle.

A record is a line that names the format, a JSON header, blocks of rows with all columns raw in little-endian order, and
a JSON footer that says where each block begins; every part is followed by its CRC-32, and the last bytes say where the
footer begins. A record is whole if its end is.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.storage.folders import Folder, Output

_MAGIC: Final = b"labelsieve record 2\n"
_LENGTH: Final = struct.Struct("<I")
_BLOCK: Final = struct.Struct("<Q")
_END: Final = struct.Struct("<Q20s")

Columns = Mapping[str, npt.NDArray[Any]]


class TornRecordError(ValueError):
    """A record that is cut off, altered, or not one at all."""


class RecordWriter:
    """Writes a record to a file.

    Parameters
    ----------
    file : Output
        Empty.
    header : dict
        JSON facts that tell this record from another.
    """

    def __init__(self, file: Output, header: Mapping[str, Any]) -> None:
        self._file, self._position, self.finished = file, 0, False
        self._blocks: list[tuple[int, int]] = []  # where each begins, and its rows
        self._dtypes: dict[str, str] = {}
        self._put(_MAGIC)
        self._seed = self._put_json(header)  # so that a block belongs to its header

    def add(self, columns: Columns) -> None:
        """Append a block: ``(n,)`` arrays of the same names and dtypes each time."""
        # Widest first, so that every column begins at a multiple of its item size.
        widest_first = sorted(columns.items(), key=lambda item: -item[1].itemsize)
        arrays = {name: np.ascontiguousarray(array) for name, array in widest_first}
        dtypes = {name: array.dtype.newbyteorder("<").str for name, array in arrays.items()}
        if self._blocks and dtypes != self._dtypes:
            raise ValueError(f"a block of {dtypes} in a record of {self._dtypes}")
        self._dtypes = dtypes
        n_rows = len(next(iter(arrays.values())))
        self._blocks.append((self._position, n_rows))
        raw = [array.astype(dtypes[name], copy=False).view(np.uint8).data for name, array in arrays.items()]
        # Joined first: each call of the system lets go of the interpreter's lock, for which other threads are waiting.
        block = b"".join([_BLOCK.pack(n_rows), *raw])
        self._put(block)
        self._put(_LENGTH.pack(zlib.crc32(block, self._seed)))

    def finish(self, footer: Mapping[str, Any]) -> None:
        """Write what is known at the end, as JSON, and close the record."""
        begin = self._position
        self._put_json({"blocks": self._blocks, "columns": list(self._dtypes.items()), "footer": footer})
        self._put(_END.pack(begin, _MAGIC))
        self.finished = True

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._position += len(data)

    def _put_json(self, content: Mapping[str, Any]) -> int:
        """Write JSON, and return its checksum."""
        raw = json.dumps(content, sort_keys=True).encode()
        checksum = zlib.crc32(raw)
        self._put(_LENGTH.pack(len(raw)))
        self._put(raw)
        self._put(_LENGTH.pack(checksum))
        return checksum


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
        If it is not there.
    TornRecordError
        If its ends do not read as those of a record.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.where = f"{folder.where}/{name}"
        self._file = folder.open(name)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        size = self._size = self._file.seek(0, io.SEEK_END)
        if size < len(_MAGIC) + _END.size:
            raise self._torn("it is too short")
        self._file.seek(0)
        if self._take(len(_MAGIC)) != _MAGIC:
            raise self._torn("it begins otherwise")
        self.header, self._seed = self._take_json()
        self._file.seek(size - _END.size)
        begin, magic = _END.unpack(self._take(_END.size))
        if magic != _MAGIC or begin >= size:
            raise self._torn("its end is missing")
        self._file.seek(begin)
        content, _ = self._take_json()
        try:
            self._blocks, self.footer = content["blocks"], content["footer"]
            self._columns = {name: np.dtype(dtype) for name, dtype in content["columns"]}
        except (KeyError, TypeError, ValueError) as error:
            raise self._torn("its footer lacks something") from error

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
        return sum(rows for _, rows in self._blocks)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the columns of rows ``[start, stop)``, a block at a time, each block checked whole.

        Raises
        ------
        TornRecordError
            If a block does not match its checksum.
        """
        first, stop = 0, self.n_rows if stop is None else stop
        for begin, n_rows in self._blocks:
            a, b = max(start - first, 0), min(stop - first, n_rows)
            if a < b:
                block = self._block(begin, n_rows)
                # A copy of a part, so that the rest of the block is let go.
                yield block if b - a == n_rows else {name: array[a:b].copy() for name, array in block.items()}
            first += n_rows

    def _block(self, begin: int, n_rows: int) -> dict[str, npt.NDArray[Any]]:
        self._file.seek(begin)
        n_bytes = n_rows * sum(dtype.itemsize for dtype in self._columns.values())
        raw = self._take(_BLOCK.size + n_bytes + _LENGTH.size)
        body = memoryview(raw)[: -_LENGTH.size]
        if (
            _LENGTH.unpack(raw[-_LENGTH.size :])[0] != zlib.crc32(body, self._seed)
            or _BLOCK.unpack(raw[: _BLOCK.size])[0] != n_rows
        ):
            raise self._torn(f"a block of {n_rows:,} rows does not match its checksum")
        columns, position = {}, _BLOCK.size
        for name, dtype in self._columns.items():
            columns[name] = np.frombuffer(raw, dtype, n_rows, position).astype(dtype.newbyteorder("="), copy=False)
            position += n_rows * dtype.itemsize
        return columns

    def _take(self, n_bytes: int) -> bytes:
        parts = []
        while n_bytes:
            part = self._file.read(n_bytes)  # a raw file may give less than asked for
            if not part:
                raise self._torn("it is cut off")
            parts.append(part)
            n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_json(self) -> tuple[dict[str, Any], int]:
        """Read JSON, and return it with its checksum."""
        length = _LENGTH.unpack(self._take(_LENGTH.size))[0]
        if length > self._size:
            raise self._torn("its header or footer is longer than the file")
        raw = self._take(length)
        checksum = zlib.crc32(raw)
        if _LENGTH.unpack(self._take(_LENGTH.size))[0] != checksum:
            raise self._torn("its header or footer does not match its checksum")
        try:
            content: dict[str, Any] = json.loads(raw)
        except ValueError as error:
            raise self._torn("its header or footer is no JSON") from error
        return content, checksum

    def _torn(self, why: str) -> TornRecordError:
        return TornRecordError(f"{self.where} is no whole record: {why}")
