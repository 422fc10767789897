"""The stored chunks, or shards, of a Zarr array: their keys, files, objects and versions."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from labelsieve.errors import UnreadableDataError
from labelsieve.sources.object_store import ObjectStore
from labelsieve.sources.versions import StoredChunks, has_stable_inodes, stamp
from labelsieve.storage.urls import version_of

# Files are examined in threads where there are more of them than this: over a network each takes a while.
_FEW_FILES: Final = 2_000
_THREADS: Final = 16

_T = TypeVar("_T")


def metadata_name(array: Any) -> str:
    """Return the name of the document that describes `array`."""
    return "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"


def layout_digest(array: Any) -> str:
    """Return a digest of how `array` is stored: of its metadata, except its length and its attributes."""
    from zarr.core.buffer import default_buffer_prototype

    documents = array.metadata.to_buffer_dict(default_buffer_prototype())
    facts = json.loads(documents[metadata_name(array)].to_bytes())
    facts = {name: value for name, value in facts.items() if name not in ("shape", "attributes")}
    facts["columns"] = list(array.shape[1:])
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def local_folder(array: Any) -> Path | None:
    """Return the folder of an array in a plain local store, else None."""
    from zarr.storage import LocalStore

    # A subclass may do more than read files.
    return Path(array.store.root) / array.path if type(array.store) is LocalStore else None


def _rows_and_grid(array: Any) -> tuple[int, tuple[int, ...]]:
    """Return the rows of a stored chunk, or shard, and how many there are along each axis."""
    sizes = array.shards or array.chunks
    return int(sizes[0]), tuple(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))


def keys_of(array: Any, start: int, stop: int) -> Iterator[str]:
    """Yield the keys of the stored chunks, or shards, that cover rows ``[start, stop)``, in order of their numbers."""
    rows, grid = _rows_and_grid(array)
    for index in itertools.product(range(start // rows, -(-stop // rows)), *map(range, grid[1:])):
        yield array.metadata.encode_chunk_key(index)


def key_of(array: Any, index: int) -> str:
    """Return the key of a stored chunk, or shard, by its number."""
    position = np.unravel_index(index, _rows_and_grid(array)[1])
    key: str = array.metadata.encode_chunk_key(tuple(int(i) for i in position))
    return key


def chunk_files(array: Any, folder: Path) -> StoredChunks:
    """Examine the file of each stored chunk, or shard."""

    def examine(start: int, stop: int) -> npt.NDArray[np.uint32]:
        return np.array([file_stamp(f"{folder}/{key}") for key in keys_of(array, start, stop)], np.uint32)

    table = np.concatenate(_map_rows(array, examine)).reshape(-1, 2)
    inodes = table[:, 1].copy() if has_stable_inodes(folder.stat().st_dev) else None
    return _stored_chunks(array, table[:, 0].copy(), inodes)


def _stored_chunks(
    array: Any, stamps: npt.NDArray[np.uint32], inodes: npt.NDArray[np.uint32] | None = None
) -> StoredChunks:
    rows, grid = _rows_and_grid(array)
    return StoredChunks(rows, math.prod(grid[1:]), int(array.shape[0]), stamps, inodes)


def _map_rows(array: Any, function: Callable[[int, int], _T]) -> list[_T]:
    """Apply `function` to ranges of rows, of whole stored chunks or shards; in threads where there are many."""
    rows, grid = _rows_and_grid(array)
    n_rows, step = int(array.shape[0]), rows * max(1, _FEW_FILES // math.prod(grid[1:]))
    if n_rows <= step:
        return [function(0, n_rows)]
    starts = range(0, n_rows, step)
    with ThreadPoolExecutor(_THREADS, "labelsieve-list") as pool:
        return list(pool.map(function, starts, (min(start + step, n_rows) for start in starts)))


def file_stamp(path: str) -> tuple[int, int]:
    """Return the stamp and the inode number of a chunk's file; (0, 0) if there is none."""
    try:
        return status_stamp(os.stat(path))  # noqa: PTH116  # three times as fast as Path, and there are many
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    except OSError as error:
        raise UnreadableDataError(f"{path} is not readable: {error}") from error


def status_stamp(status: os.stat_result) -> tuple[int, int]:
    """Return the stamp and the inode number of a file with this status."""
    return stamp(status.st_size, status.st_mtime_ns), status.st_ino & 0xFFFFFFFF


def chunk_objects(array: Any, store: ObjectStore, root: str) -> tuple[StoredChunks, str, bool]:
    """Return the versions of the stored chunks, or shards, and that of the metadata, from a listing.

    The last value is whether all chunks have a version: some stores list nothing but sizes.
    """
    key = array.metadata.encode_chunk_key((7,) * (array.ndim + 1))  # one more number shows the separator
    begin, separator, shape = key.partition("7")[0], key[key.index("7") + 1], _rows_and_grid(array)[1]
    stamps, document, are_versioned = np.zeros(shape, np.uint32), "", True
    for info in store.list_below("data", root):
        key = str(info["name"]).strip("/").removeprefix(f"{root.strip('/')}/")
        if key == metadata_name(array):
            document = version_of(info)
        numbers = key.removeprefix(begin).split(separator) if key.startswith(begin) else []
        if len(numbers) == len(shape) and all(map(str.isdecimal, numbers)):
            index = tuple(map(int, numbers))
            if all(i < n for i, n in zip(index, shape, strict=True)):
                version = version_of(info)
                stamps[index], are_versioned = stamp(version or info.get("size")), are_versioned and bool(version)
    return _stored_chunks(array, stamps.reshape(-1)), document, are_versioned
