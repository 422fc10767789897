"""A Zarr store that does not take a chunk for absent after one failed request. Imported where Zarr already is."""

from __future__ import annotations

import asyncio
from typing import Any

import zarr
from zarr.storage import StorePath, WrapperStore

from labelsieve.sources.zarr_chunks import PAUSE


class _ListedStore(WrapperStore[Any]):
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


def with_listing(array: Any, listed: set[str], absent: set[str] | None = None) -> Any:
    """Return `array` on a store that raises where a chunk whose key is in `listed` is not found twice.

    Where nothing is listed, `absent` is given: a chunk that is not found twice is absent, and its key is added there.
    """
    store = _ListedStore(array.store)
    store.listed, store.absent, store.prefix = listed, absent, f"{array.path}/" if array.path else ""
    opened: Any = zarr.AsyncArray(array.metadata, StorePath(store, array.path))
    return zarr.Array(opened)
