"""Zarr arrays in which every chunk is stored with a checksum, so that damage raises an error.

Zarr reads a chunk that is not stored as the fill value, and may read a damaged chunk as other numbers. Here each chunk
ends in a CRC32C, which is one of Zarr's codecs, so any reader of Zarr checks it; and a missing chunk is an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from labelsieve.errors import TaskFailedError, UnreadableDataError
from labelsieve.storage.folder import Folder, LocalFolder, OutputFile, zarr_store
from labelsieve.storage.remote import cause_of

_CHUNK: Final = re.compile(r"(^|/)c(/\d+)+$")
RESTORE: Final = "restore the file from a copy, or find the issues again"


class _MissingChunkError(Exception):
    """A chunk that is not stored."""


def create_array(folder: Folder, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, chunk: int) -> None:
    """Create an array in the group at `folder`, in chunks of `chunk` rows."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    chunks: Any = (max(1, min(chunk, shape[0])), *(max(1, size) for size in shape[1:]))
    # Zarr's default, zstd, took half of the time in which 500 million rows were ranked and written. The checksum has no
    # measurable cost: 50 million scores and their mask take 0.37 s with it and without it.
    typesize = 1 if dtype is str else np.dtype(dtype).itemsize
    codecs = [BloscCodec(cname="lz4", shuffle="shuffle", typesize=typesize), Crc32cCodec()]
    zarr.create_array(
        store_of(folder),
        name=name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=codecs,
        # Distinguishes this array from one of the same shape that is written in its place later.
        attributes={"array_id": uuid4().hex},
        overwrite=True,
    )


def open_for_writing(folder: Folder, name: str) -> Any:
    """Open an array to write whole chunks; chunks of zeros are stored too."""
    import zarr

    array: Any = zarr.open_array(store_of(folder), path=name, mode="r+", zarr_format=3)
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, config={"write_empty_chunks": True}))


class StoredArray:
    """An array of a stored group. Every chunk is checked when it is read; each process opens the files for itself.

    Parameters
    ----------
    folder : Folder
        The group.
    name : str
        Its path in the group.
    unit : str
        What the first axis counts, such as ``rows``, for messages.
    check : callable
        Raises if the array's metadata are not those that were written.
    complete : bool
        Whether every chunk should be stored. Otherwise a chunk that is not stored is read as zeros.

    Raises
    ------
    UnreadableDataError
        If the array or a chunk is damaged or missing, here and in all methods: names the file and its rows.
    """

    def __init__(
        self, folder: Folder, name: str, unit: str, check: Callable[[], None], *, complete: bool = True
    ) -> None:
        self._folder, self._name, self._unit, self._check, self._complete = folder, name, unit, check, complete
        self._array: Any = None
        array = self._opened()
        self.shape: tuple[int, ...] = array.shape
        self.chunks: tuple[int, ...] = array.chunks
        self.dtype: Any = array.dtype
        self.ndim = len(self.shape)
        self._array_id = str(array.attrs.get("array_id"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __dask_tokenize__(self) -> tuple[str, ...]:
        """Return what identifies the array, for the names of Dask arrays."""
        return self._folder.where, self._name, self._array_id

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Return rows for a lazy array. It may be computed long after it was made, so look whether it was replaced."""
        self._check()
        return self._read(rows)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the rows ``[start, stop)``."""
        return self._read(slice(start, stop))

    def read_all(self) -> npt.NDArray[Any]:
        """Return all rows."""
        return self.read(0, len(self))

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all rows, one stored chunk at a time."""
        for start in range(0, len(self), self.chunks[0]):
            yield self._read(slice(start, start + self.chunks[0]))

    def _opened(self) -> Any:
        import zarr

        if self._array is None:
            self._check()
            try:
                store = _complete_store(self._folder) if self._complete else store_of(self._folder, read_only=True)
                self._array = zarr.open_array(store, path=self._name, mode="r", zarr_format=3)
            except Exception as error:  # noqa: BLE001  # stores may raise any error
                raise self._unreadable(f"{self._name}/zarr.json", error) from None
        return self._array

    def _read(self, rows: Any) -> npt.NDArray[Any]:
        array = self._opened()
        try:
            values: npt.NDArray[Any] = array[rows]
        except Exception as error:
            damage = self._damage(array, rows, error)
            if damage is None:
                raise
            raise damage from None
        return values

    def _damage(self, array: Any, rows: Any, error: Exception) -> UnreadableDataError | None:
        """Return the error for the first chunk of `rows` that cannot be read; None if there is no such chunk."""
        step, axis = self.chunks[0], rows[0] if isinstance(rows, tuple) and rows else rows
        wanted = range(len(self))[axis] if isinstance(axis, slice) else range(len(self))
        first, last = (min(wanted), max(wanted)) if wanted else (0, -1)
        for start in range(first // step * step, last + 1, step):
            try:
                array[start : start + step]
            except Exception as found:  # noqa: BLE001  # codecs and stores may raise any error
                file = "/".join([self._name, "c", str(start // step), *["0"] * (self.ndim - 1)])
                return self._unreadable(file, found, (start, start + step))
        return self._unreadable(self._name, error) if isinstance(error, OSError | ValueError) else None

    def _unreadable(self, file: str, error: Exception, rows: tuple[int, int] | None = None) -> UnreadableDataError:
        what = "damaged"
        if isinstance(error, _MissingChunkError | FileNotFoundError):
            what = "missing"
        elif isinstance(error, OSError):
            what = f"not readable ({cause_of(error, self._folder.where)})"
        lost = "" if rows is None else f" with {self._unit} {rows[0]:,} to {min(rows[1], len(self)) - 1:,}"
        return UnreadableDataError(f"{self._folder.where}/{file}{lost} is {what}: {RESTORE}")


def digest(content: bytes) -> str:
    """Return a checksum of a metadata document."""
    return hashlib.sha256(content).hexdigest()[:32]


def with_checksum(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with a checksum of them. Attributes that are added later are not part of it."""
    return {**attributes, "checksum": {"of": sorted(attributes), "sha256": _attributes_digest(attributes)}}


def matches_checksum(attributes: Mapping[str, Any]) -> bool:
    """Return whether attributes match their checksum."""
    try:
        checksum = attributes["checksum"]
        written = {name: attributes[name] for name in checksum["of"]}
        return bool(written) and bool(checksum["sha256"] == _attributes_digest(written))
    except (KeyError, TypeError):
        return False


def _attributes_digest(attributes: Mapping[str, Any]) -> str:
    return digest(json.dumps(attributes, sort_keys=True).encode())


def store_of(folder: Folder, *, read_only: bool = False) -> Any:
    """Return a Zarr store at `folder`."""
    from zarr.storage import LocalStore

    if isinstance(folder, LocalFolder):
        return LocalStore(folder.path, read_only=read_only)
    return zarr_store(folder.where, read_only=read_only)


def _complete_store(folder: Folder) -> Any:
    """Return the store at `folder` for reading; a missing chunk raises."""
    from labelsieve.storage.watched_store import WatchedStore

    def is_chunk(key: str) -> bool:
        return _CHUNK.search(key) is not None

    def report(key: str) -> None:
        raise _MissingChunkError(key)

    return WatchedStore.around(store_of(folder, read_only=True), is_chunk, report)


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
            self._row_bytes = sum(dtype.itemsize for dtype in self._columns.values())
            self.n_rows = int(sum(rows for rows, _ in self._blocks))
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
    def layout(self) -> RecordLayout:
        """Where the blocks are."""
        rows, checksums = np.array(self._blocks, np.int64).reshape(-1, 2).T
        columns = tuple((name, dtype.str) for name, dtype in self._columns.items())
        return RecordLayout(columns, rows.copy(), checksums.astype(np.uint32))

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
