"""The stored chunks of a Zarr array, or shards of one that has these: their keys, files, objects and versions."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from labelsieve.errors import UnreadableDataError
from labelsieve.sources.prefetch import Objects
from labelsieve.sources.versions import StoredChunks, numbers_last, stamp
from labelsieve.storage.urls import version_of

# Files are looked at in threads where there are more of them than this: over a network each takes a while.
_FEW_FILES: Final = 2_000
# Objects that are listed one page after the other; more are listed by what their names begin with, at the same time.
_FEW_OBJECTS: Final = 10_000
_THREADS: Final = 16
# Seconds before a chunk that is listed and was not found is looked for again.
PAUSE: Final = 0.1

# Chunks inside shards that are looked for at most; their indices have 16 bytes for each.
_MOST_INNER: Final = 10_000_000

_T = TypeVar("_T")


def metadata_name(array: Any) -> str:
    """Return the name of the document that describes `array`."""
    return "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"


def local_folder(array: Any) -> Path | None:
    """Return the folder of an array in a plain local store, else None."""
    from zarr.storage import LocalStore

    # A subclass may do more than read files.
    return Path(array.store.root) / array.path if type(array.store) is LocalStore else None


def keys_of(array: Any, start: int, stop: int) -> Iterator[str]:
    """Yield the keys of the stored chunks, or shards, that cover rows ``[start, stop)``, in order of their numbers."""
    rows, others = _grid(array)
    for index in itertools.product(range(start // rows, -(-stop // rows)), *map(range, others)):
        yield array.metadata.encode_chunk_key(index)


def _grid(array: Any) -> tuple[int, list[int]]:
    """Return the rows of a stored chunk, or shard, and how many there are along each other axis."""
    rows, *columns = array.shards or array.chunks
    return int(rows), [-(-n // size) for n, size in zip(array.shape[1:], columns, strict=True)]


def key_of(array: Any, index: int) -> str:
    """Return the key of the stored chunk, or shard, of a number."""
    rows, others = _grid(array)
    shape = (-(-array.shape[0] // rows), *others)
    key: str = array.metadata.encode_chunk_key(tuple(int(i) for i in np.unravel_index(index, shape)))
    return key


def chunks_of(array: Any, stamps: npt.NDArray[np.uint32], inodes: npt.NDArray[np.uint32] | None = None) -> StoredChunks:
    """Return stamps as those of the chunks of `array`."""
    rows, others = _grid(array)
    return StoredChunks(rows, math.prod(others), int(array.shape[0]), stamps, inodes)


def files_of(array: Any, folder: Path) -> StoredChunks:
    """Look at the file of each stored chunk, or shard."""

    def looked(start: int, stop: int) -> npt.NDArray[np.uint32]:
        return np.array([look(f"{folder}/{key}") for key in keys_of(array, start, stop)], np.uint32).reshape(-1, 2)

    table = np.concatenate(_by_rows(array, looked))
    return chunks_of(array, table[:, 0].copy(), table[:, 1].copy() if numbers_last(folder.stat().st_dev) else None)


def _by_rows(array: Any, act: Callable[[int, int], _T]) -> list[_T]:
    """Return what `act` gives of all rows, some stored chunks or shards at a time; in threads where there are many."""
    rows, others = _grid(array)
    n_rows, step = int(array.shape[0]), rows * max(1, _FEW_FILES // math.prod(others))
    if n_rows <= step:
        return [act(0, n_rows)]
    starts = range(0, n_rows, step)
    with ThreadPoolExecutor(_THREADS, "labelsieve-list") as pool:
        return list(pool.map(act, starts, (min(start + step, n_rows) for start in starts)))


def look(path: str) -> tuple[int, int]:
    """Return the stamp and the inode's number of a chunk's file; (0, 0) where there is none."""
    try:
        return stamped(os.stat(path))  # noqa: PTH116  # thrice as fast as Path, and there are many
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    except OSError as error:
        raise UnreadableDataError(f"{path} is not readable: {error}") from error


def stamped(status: os.stat_result) -> tuple[int, int]:
    """Return the stamp and the inode's number of a file, by its status."""
    return stamp(status.st_size, status.st_mtime_ns), status.st_ino & 0xFFFFFFFF


def with_listing(array: Any, listed: set[str], absent: set[str] | None = None) -> Any:
    """Return `array` on a store that never takes a chunk for absent whose key is in `listed`.

    Where nothing is listed, `absent` is given: a chunk is taken for absent the second time, and its key is added there.
    """
    import zarr
    from zarr.storage import StorePath

    store = _listed_store()(array.store)
    store.listed, store.absent, store.prefix = listed, absent, f"{array.path}/" if array.path else ""
    opened: Any = zarr.AsyncArray(array.metadata, StorePath(store, array.path))
    return zarr.Array(opened)


@cache
def _listed_store() -> Any:
    import asyncio  # imported with Zarr anyway, and slow

    from zarr.storage import WrapperStore

    class ListedStore(WrapperStore[Any]):
        """Zarr reads an absent chunk as the fill value, also where a request has failed once with "not found"."""

        listed: set[str]
        absent: set[str] | None
        prefix: str

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found, name = await self._store.get(key, prototype, byte_range), key.removeprefix(self.prefix)
            if found is None and (name in self.listed or self.absent is not None):
                await asyncio.sleep(PAUSE)
                found = await self._store.get(key, prototype, byte_range)
                if found is None and name in self.listed:
                    raise FileNotFoundError(f"{key} was stored when the run began, and is gone")
                if found is None and self.absent is not None:
                    self.absent.add(name)
            return found

    return ListedStore


def objects_of(array: Any, objects: Objects, root: str) -> tuple[StoredChunks, str]:
    """Return the versions of the stored chunks, or shards, and that of the metadata, from a listing."""
    begin, separator, shape = _key_shape(array)
    stamps, document = np.zeros(shape, np.uint32), [""]

    def take(listed: Sequence[dict[str, Any]]) -> None:
        for info in listed:
            key = str(info["name"]).strip("/").removeprefix(f"{root.strip('/')}/")
            if key == metadata_name(array):
                document[0] = version_of(info)
            numbers = key.removeprefix(begin).split(separator) if key.startswith(begin) else []
            if len(numbers) == len(shape) and all(map(str.isdecimal, numbers)):
                index = tuple(map(int, numbers))
                if all(i < n for i, n in zip(index, shape, strict=True)):
                    stamps[index] = stamp(version_of(info) or info.get("size"))

    if stamps.size <= _FEW_OBJECTS or not objects.lists_prefixes:
        take(objects.listing("data", root, deep=True))
    else:
        document[0] = version_of(objects.info("data", f"{root}/{metadata_name(array)}"))
        prefixes = [begin + digits for digits in leading_digits(shape[0], separator if len(shape) > 1 else "")]
        with ThreadPoolExecutor(_THREADS, "labelsieve-list") as pool:
            for _ in pool.map(lambda prefix: take(objects.listing("data", root, deep=True, prefix=prefix)), prefixes):
                pass
    return chunks_of(array, stamps.reshape(-1)), document[0]


def _key_shape(array: Any) -> tuple[str, str, tuple[int, ...]]:
    """Return what keys of chunks, or shards, begin with, what is between their numbers, and how many there are."""
    sizes = array.shards or array.chunks
    shape = tuple(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))
    key = array.metadata.encode_chunk_key((7,) * (array.ndim + 1))  # one more number shows what is between
    return key.partition("7")[0], key[key.index("7") + 1], shape


def leading_digits(n: int, separator: str) -> list[str]:
    """Return what the keys of chunks ``0..n-1`` begin with, such that each key has one of them, and few keys the same.

    Examples
    --------
    >>> leading_digits(8, "/")
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    >>> leading_digits(1_000_000, "/")[8:12], leading_digits(1_000_000, "")[8:]
    (['8/', '9/', '10', '11'], ['8', '9'])
    """
    n_digits = max(1, len(str(n - 1)) - 4) if separator else 1
    short = [f"{i}{separator}" for i in range(10 ** (n_digits - 1))] if n_digits > 1 else ["0"]
    return short + [str(i) for i in range(10 ** (n_digits - 1), 10**n_digits)]


def inner_chunks(array: Any, folder: Path, shards: StoredChunks) -> StoredChunks | None:
    """Return which chunks are stored inside the shards of a local array; None where that is not known.

    That is so where their index is of another kind, and not looked for where there are too many.

    The index of a shard is a pair of numbers for each chunk, offset and length, all ones where it is not stored, and a
    checksum behind them. The stamps only tell the stored from the others.
    """
    sharding = array.metadata.codecs[0].to_dict()["configuration"]
    # Shards reach beyond the array.
    n_chunks = [-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True)]
    if math.prod(n_chunks) > _MOST_INNER:
        return None
    codecs = [codec if isinstance(codec, dict) else codec.to_dict() for codec in sharding["index_codecs"]]
    endian, checksums = codecs[0].get("configuration", {}).get("endian"), [codec["name"] for codec in codecs[1:]]
    if codecs[0]["name"] != "bytes" or endian != "little" or checksums not in ([], ["crc32c"]):
        return None
    inside = [shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True)]
    n_bytes, location = 16 * math.prod(inside), sharding["index_location"]
    at_end = getattr(location, "value", location) == "end"
    grid = [-(-n // size) for n, size in zip(array.shape, array.shards, strict=True)]

    def stored_in(index: int, key: str) -> npt.NDArray[np.bool_]:
        if not shards.stamps[index]:
            return np.zeros(inside, np.bool_)
        with (folder / key).open("rb") as file:
            file.seek(*((-n_bytes - 4 * len(checksums), os.SEEK_END) if at_end else (0,)))
            pairs = np.frombuffer(file.read(n_bytes), "<u8").reshape(-1, 2)
        stored: npt.NDArray[np.bool_] = (pairs != np.iinfo(np.uint64).max).any(axis=1).reshape(inside)
        return stored

    def stored_of(start: int, stop: int) -> npt.NDArray[np.bool_]:
        return np.array([stored_in(*one) for one in enumerate(keys_of(array, start, stop), shards.first(start))])

    found = np.concatenate(_by_rows(array, stored_of)).reshape(*grid, *inside)
    axes = [axis for pair in zip(range(array.ndim), range(array.ndim, 2 * array.ndim), strict=True) for axis in pair]
    whole = found.transpose(axes).reshape([a * b for a, b in zip(grid, inside, strict=True)])
    stamps = whole[tuple(slice(n) for n in n_chunks)].reshape(-1).astype(np.uint32)
    return StoredChunks(int(array.chunks[0]), math.prod(n_chunks[1:]), int(array.shape[0]), stamps)
