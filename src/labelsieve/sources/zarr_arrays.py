"""Zarr arrays of format 2 and 3, decoded into a reused buffer.

Covers: any store, any chunking, sharded arrays; a direct path for whole chunks of rows in a local folder.
Does not cover: groups, and dtypes that are no probabilities or labels (`sources.check`).

Zarr decodes a chunk into fresh memory and copies it out; the pages of a fresh 40 MB block cost as much as decoding it.
The direct path reads the stored bytes into one reused buffer and lets the codec write into another. It is taken where
a chunk is whole rows in C order, in a local folder, plain or under one codec that numcodecs decodes into given memory,
and the generic path gives the same rows.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.sources.base import Rows, Source, file_content, read_into
from labelsieve.urls import redacted

METADATA_NAMES: Final = ("zarr.json", ".zarray", ".zgroup")


class ZarrSource(Source):
    """A Zarr array.

    Parameters
    ----------
    array : zarr.Array
        Open for reading. It pickles as its store, path and metadata.
    """

    in_pieces = False

    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype, int(array.chunks[0]) if array.ndim else None)
        self.array = array
        self.grid = {"chunks": list(array.chunks), "shards": list(array.shards) if array.shards else None}

    @classmethod
    def from_path(cls, name: str, path: Path) -> ZarrSource:
        """Open a folder that holds one array."""
        import zarr

        if not path.exists():
            raise InvalidInputError(f"{name}: there is no folder {path}")
        if not is_zarr_folder(path):
            raise InvalidInputError(f"{name}: {path} is no Zarr array: it has no zarr.json or .zarray")
        try:
            node = zarr.open(str(path), mode="r")
        except (FileNotFoundError, TypeError, ValueError, KeyError) as error:
            what = f"its metadata lack {error}" if isinstance(error, KeyError) else error
            raise InvalidInputError(f"{name}: {path} is not a readable Zarr array: {what}") from error
        return cls.from_node(name, node)

    @classmethod
    def from_node(cls, name: str, node: Any) -> ZarrSource:
        """Take an array, and refuse a group by naming the arrays in it."""
        return cls(checked_array(name, node))

    @property
    def where(self) -> str:
        """Folder, or store and path in it."""
        folder = _local_folder(self.array)
        return redacted(str(self.array.store_path)) if folder is None else str(folder.absolute())

    def open(self, start: int = 0, stop: int | None = None) -> Rows:  # noqa: ARG002  # nothing is read ahead
        """Open for reading, on the direct path where there is one."""
        folder, direct = _local_folder(self.array), direct_codec(self.array)
        return ZarrRows(self.array) if folder is None or direct is None else _DirectRows(self.array, folder, *direct)

    def identity(self) -> dict[str, Any]:
        """Return what every source tells, and the grid of chunks."""
        return super().identity() | self.grid

    def _content(self) -> dict[str, int] | None:
        """Return size and time of the metadata document, or of the archive that holds the array."""
        folder, archive = _local_folder(self.array), getattr(self.array.store, "path", None)
        if folder is not None:
            return file_content(folder / metadata_name(self.array))
        if isinstance(archive, Path) and archive.is_file():
            return file_content(archive)
        return None

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest of sizes and times of the stored chunks or shards of each range."""
        folder = _local_folder(self.array)
        if folder is None:
            return super().part_identities(ranges)

        def version(key: str) -> str:
            try:
                status = os.stat(f"{folder}/{key}")  # noqa: PTH116  # thrice as fast as Path, and there are many
            except FileNotFoundError:
                return "missing"
            return f"{status.st_size} {status.st_mtime_ns}"

        return chunk_digests(self.array, ranges, version)

    def reachable(self) -> None:
        """Look for the metadata document in a local folder, or for the archive; other stores travel as they are."""
        folder, archive = _local_folder(self.array), getattr(self.array.store, "path", None)
        needed = archive if folder is None else folder / metadata_name(self.array)
        if isinstance(needed, Path) and not needed.exists():
            raise UnreadableDataError(f"{self.where} cannot be opened: there is no {needed}")


def is_zarr_folder(path: Path) -> bool:
    """Tell whether a local folder holds a Zarr array or group."""
    return any((path / name).exists() for name in METADATA_NAMES)


def checked_array(name: str, node: Any) -> Any:
    """Return an array as it is, and refuse a group by naming the arrays in it."""
    if not hasattr(node, "chunks"):
        arrays = ", ".join(sorted(node.array_keys())) or "none"
        raise InputTypeError(f"{name} is a Zarr group, not an array; arrays in it: {arrays}")
    return node


def metadata_name(array: Any) -> str:
    """Return the name of the document that describes `array`."""
    return "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"


def chunk_digests(array: Any, ranges: Sequence[tuple[int, int]], version: Callable[[str], str]) -> list[str]:
    """Return a digest for each range of rows over the stored chunks, or shards, that cover it.

    Parameters
    ----------
    array : zarr.Array
        Only its grid is looked at.
    ranges : sequence of tuple of int
        Row ranges ``[start, stop)``.
    version : callable
        Returns what is known of the object of a key.
    """
    return [
        hashlib.blake2b(
            "\n".join(f"{key} {version(key)}" for key in _keys(array, start, stop)).encode(), digest_size=16
        ).hexdigest()
        for start, stop in ranges
    ]


def _keys(array: Any, start: int, stop: int) -> Iterator[str]:
    """Yield the keys of the stored chunks, or shards, that cover rows ``[start, stop)``."""
    rows, *columns = array.shards or array.chunks
    others = [range(-(-n // size)) for n, size in zip(array.shape[1:], columns, strict=True)]
    for index in itertools.product(range(start // rows, -(-stop // rows)), *others):
        yield array.metadata.encode_chunk_key(index)


def _local_folder(array: Any) -> Path | None:
    """Return the folder of an array in a plain local store, else None."""
    from zarr.storage import LocalStore

    # A subclass may do more than read files.
    return Path(array.store.root) / array.path if type(array.store) is LocalStore else None


class ZarrRows(Rows):
    """Zarr's own reading, into one reused buffer."""

    _chained = True  # whether an error may show the one that it came from

    def __init__(self, array: Any) -> None:
        from zarr.buffer import cpu

        as_buffer: Any = cpu.NDBuffer
        self._array, self._as_buffer = array, as_buffer
        self._out = np.empty((0, *array.shape[1:]), array.dtype)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Let Zarr decode the rows."""
        n = stop - start
        if len(self._out) < n:
            self._out = np.empty((n, *self._array.shape[1:]), self._array.dtype)
        out = self._out[:n]
        try:
            self._array.get_basic_selection((slice(start, stop), ...), out=self._as_buffer(out))
        except Exception as error:  # noqa: BLE001  # stores and codecs raise what they like
            raise self._unreadable(start, stop, error) from (error if self._chained else None)
        return out

    def _unreadable(self, start: int, stop: int, error: Exception) -> UnreadableDataError:
        where = f"{self._array.store_path} (rows {start:,}..{stop - 1:,})"
        return UnreadableDataError(f"{where} is not readable: {type(error).__name__}: {error}")


class _DirectRows(ZarrRows):
    """Whole chunks from local files, through one reused buffer for stored bytes and one for rows."""

    def __init__(self, array: Any, folder: Path, codec: Any) -> None:
        super().__init__(array)
        self._folder, self._codec = folder, codec
        self._stored = np.empty(0, np.uint8)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        array = self._array
        n_rows, chunk = array.shape[0], array.chunks[0]
        if start % chunk or (stop % chunk and stop != n_rows):
            return super().read(start, stop)
        padded = -(-(stop - start) // chunk) * chunk  # the last chunk is stored whole
        if len(self._out) < padded:
            self._out = np.empty((padded, *array.shape[1:]), array.dtype)
        for first in range(start, stop, chunk):
            self._decode(first // chunk, self._out[first - start : first - start + chunk])
        return self._out[: stop - start]

    def _decode(self, index: int, out: npt.NDArray[Any]) -> None:
        key = self._array.metadata.encode_chunk_key((index,) + (0,) * (out.ndim - 1))
        where = f"{self._folder / key} (rows from {index * len(out):,})"
        try:
            with io.FileIO(self._folder / key) as file:
                size = os.fstat(file.fileno()).st_size
                if len(self._stored) < size:
                    self._stored = np.empty(size + size // 8, np.uint8)
                stored = self._stored[:size]
                if not read_into(file, 0, stored):
                    raise UnreadableDataError(f"{where} ended before byte {size:,}: was it cut while in use?")
        except FileNotFoundError:  # Zarr does not store a chunk of nothing but the fill value
            fill = self._array.fill_value
            out.fill(0 if fill is None else fill)
            return
        decode_into(self._codec, stored, out.reshape(-1).view(np.uint8), where)


def decode_into(codec: Any, stored: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], where: str) -> None:
    """Decode exactly one chunk into `target`, or raise."""
    if codec is None:
        if len(stored) != len(target):
            raise UnreadableDataError(f"{where} holds {len(stored):,} bytes, a chunk has {len(target):,}")
        target[:] = stored
        return
    if codec.codec_id == "blosc" and _blosc_length(stored) != len(stored):
        raise UnreadableDataError(f"{where} does not decode: {len(stored):,} bytes, its header says otherwise")
    if not _overflows(codec, stored, target[:-1]):
        raise UnreadableDataError(f"{where} holds fewer than the {len(target):,} bytes of a chunk")
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError) as error:  # what numcodecs raises
        raise UnreadableDataError(f"{where} does not decode: {error}") from error


def _blosc_length(stored: npt.NDArray[np.uint8]) -> int:
    """Return the length that a Blosc header claims for itself (16 bytes, little-endian, the last four of them).

    Blosc believes its header and reads on past a chunk that was cut off, here into what is left of the chunk before.
    """
    return int(stored[12:16].view("<u4")[0]) if len(stored) >= 16 else -1


def _overflows(codec: Any, stored: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> bool:
    """Tell whether `stored` decodes to more than `target` holds.

    A codec refuses a target that is too small before it decodes, but leaves the rest of one that is too large as it
    was: a short chunk would silently keep rows of the chunk before it.
    """
    try:
        codec.decode(stored, target)
    except (RuntimeError, ValueError):
        return True
    return False


def direct_codec(array: Any) -> tuple[Any] | None:
    """Return the codec (or None for plain bytes), in a tuple, if whole chunks can be decoded straight, else None."""
    try:
        import numcodecs
    except ImportError:
        return None
    whole_rows = tuple(array.chunks[1:]) == tuple(array.shape[1:])
    if not (whole_rows and array.dtype.isnative and array.dtype.kind in "fiu"):
        return None
    metadata = array.metadata
    if metadata.zarr_format == 2:
        codec, plain = metadata.compressor, not metadata.filters and metadata.order == "C"
    else:
        first, *rest = [entry.to_dict() for entry in metadata.codecs]
        endian = first.get("configuration", {}).get("endian", sys.byteorder)
        plain = first["name"] == "bytes" and endian == sys.byteorder and len(rest) <= 1
        codec = _numcodecs_of(numcodecs, rest[0]["name"]) if rest else None
        plain = plain and not (rest and codec is None)
    known = (numcodecs.Zstd, numcodecs.Blosc, numcodecs.LZ4)
    if not plain or not (codec is None or isinstance(codec, known)):
        return None
    return (codec,)


def _numcodecs_of(numcodecs: Any, name: str) -> Any:
    return {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}.get(name, lambda: None)()
