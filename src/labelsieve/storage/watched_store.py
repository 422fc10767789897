"""A Zarr store that reports chunks that are not found: Zarr would read them as the fill value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zarr.storage import WrapperStore

from labelsieve.storage.remote import LOOK_AGAIN_S


class WatchedStore(WrapperStore[Any]):
    """A store that looks for expected keys twice, and then reports them.

    Attributes
    ----------
    expects : callable
        Given a key, returns whether something should be stored there.
    report : callable
        Called with the key where nothing was found twice; may raise.
    """

    expects: Callable[[str], bool]
    report: Callable[[str], None]

    @classmethod
    def around(cls, store: Any, expects: Callable[[str], bool], report: Callable[[str], None]) -> WatchedStore:
        """Watch `store`."""
        watched = cls(store)  # whose constructor Zarr calls with the store alone
        watched.expects, watched.report = expects, report
        return watched

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return what is stored at `key`."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and self.expects(key):
            await asyncio.sleep(LOOK_AGAIN_S)
            found = await self._store.get(key, prototype, byte_range)
            if found is None:
                self.report(key)
        return found
