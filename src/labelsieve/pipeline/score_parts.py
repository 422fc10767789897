"""Scores of all rows, wherever a run has left their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve.confident_learning import radix_select
from labelsieve.execution.executor import Executor

if TYPE_CHECKING:
    import dask.array as da

# Partitions or spans whose scores are fetched at a time, where not all are wanted at once.
_BLOCK_ITEMS: Final = 16


@dataclass(frozen=True)
class ArrayScores:
    """Scores of all rows in this process, a part a partition."""

    parts: Sequence[radix_select.Scores]
    in_store: bool = False

    def to_numpy(self) -> radix_select.Scores:
        """Return them as ``(N,)`` in memory."""
        return np.concatenate(self.parts)

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        return da.concatenate([da.from_array(part, chunks=-1) for part in self.parts])

    def blocks(self) -> Iterator[radix_select.Scores]:
        """Yield them in row order, a partition at a time."""
        yield from self.parts


@dataclass(frozen=True)
class TaskScores:
    """Scores of all rows, made from the summaries where these are.

    Parameters
    ----------
    executor : Executor
        Who makes them.
    work : callable
        Gives the scores of an item.
    items : sequence
        Partitions or spans.
    rows : sequence of int
        Rows of each.
    dtype : dtype
        Of all.
    in_store : bool
        Whether items are spans of what is in a workdir; else they are handles of what workers hold.
    """

    executor: Executor
    work: Callable[..., Any]
    items: Sequence[Any]
    rows: Sequence[int]
    dtype: np.dtype[Any]
    in_store: bool

    def to_numpy(self) -> radix_select.Scores:
        """Return them as ``(N,)`` in memory."""
        return np.concatenate(self.executor.gather("scores", self.work, [self.items]))

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask
        import dask.array as da

        work = dask.delayed(self.work, pure=False, traverse=False)
        parts = (work(item) for item in self.items)
        return da.concatenate(
            [da.from_delayed(part, (n,), dtype=self.dtype) for part, n in zip(parts, self.rows, strict=True)]
        )

    def blocks(self) -> Iterator[radix_select.Scores]:
        """Yield them in row order, some partitions or spans at a time."""
        for start in range(0, len(self.items), _BLOCK_ITEMS):
            yield from self.executor.gather("scores", self.work, [self.items[start : start + _BLOCK_ITEMS]])
