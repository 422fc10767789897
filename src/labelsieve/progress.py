"""Bars for whoever watches.

Covers: `Progress`, which listens to Dask's local schedulers and moves a bar when a partition is done.
Does not cover: clusters, where the dashboard shows the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from dask.callbacks import Callback
from tqdm.auto import tqdm


class Progress:
    """A bar of rows for one map over partitions; a context manager around the computation.

    Parameters
    ----------
    layer : str
        Name of the map whose tasks count.
    partition_rows : sequence of int
        Rows of each partition.
    description : str
        What the bar says.
    show : bool or None
        Whether to show it; None shows it on a terminal only.
    """

    def __init__(self, layer: str, partition_rows: Sequence[int], description: str, *, show: bool | None) -> None:
        self._layer, self._rows, self._description = layer, partition_rows, description
        self._disable = None if show is None else not show

    def __enter__(self) -> Self:
        self._first = self._seen = 0
        self._bar: tqdm[Any] = tqdm(
            desc=self._description, total=sum(self._rows), unit="rows", unit_scale=True, disable=self._disable
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._bar.update(self._bar.total - self._bar.n)  # a cluster tells nothing on the way
        self._bar.close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to Dask's local scheduler while it runs the next of the map's graphs."""
        with Callback(posttask=self._posttask):
            yield
        self._first, self._seen = self._first + self._seen, 0

    def advance(self, n_rows: int) -> None:
        """Move the bar by `n_rows` rows that were not done by Dask."""
        self._bar.update(n_rows)

    def _posttask(self, key: Any, *_: object) -> None:
        if isinstance(key, tuple) and key[0].rpartition("-")[0] == self._layer:
            self._bar.update(self._rows[self._first + key[1]])
            self._seen += 1
