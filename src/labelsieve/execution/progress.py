"""Progress of a job: bars in a terminal or notebook, lines in a log on a cluster."""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from dask.callbacks import Callback
from tqdm import tqdm

logger = logging.getLogger("labelsieve")
# Seconds between lines in a log.
_LINE_SECONDS: Final = 30.0


class Progress:
    """Counts the finished rows of one map over partitions; a context manager around the computation.

    Parameters
    ----------
    layer : str
        Name of the Dask layer whose tasks are counted.
    partition_rows : sequence of int
        Number of rows of each partition.
    description : str
        Label of the bar.
    show : bool or None
        Whether to show a bar. None shows a bar on a terminal and in a notebook, and otherwise logs lines on a cluster.
    row_bytes : int
        Bytes read per row, for the rate; 0 shows no rate.
    on_cluster : bool
        Whether a cluster runs the tasks.
    """

    def __init__(
        self,
        layer: str,
        partition_rows: Sequence[int],
        description: str,
        *,
        show: bool | None,
        row_bytes: int = 0,
        on_cluster: bool = False,
    ) -> None:
        self._layer, self._rows, self._description = layer, partition_rows, description
        self._row_bytes = row_bytes
        watched = sys.stderr.isatty() or _in_notebook()
        self._bar_shown = watched if show is None else show
        self._logged = show is None and not watched and on_cluster
        # Workers report finished rows under this topic; None if nothing is shown.
        self.topic = f"labelsieve-{uuid.uuid4().hex}" if on_cluster and (self._bar_shown or self._logged) else None

    def __enter__(self) -> Self:
        self._first = self._seen = self._n_read = 0
        total = sum(self._rows)
        self._started = time.perf_counter()
        self._bar: tqdm[Any] | _Lines = (
            _Lines(self._description, total)
            if self._logged
            else tqdm(desc=self._description, total=total, unit="rows", unit_scale=True, disable=not self._bar_shown)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.advance(self._bar.total - self._bar.n, 0)  # rows whose reports came too late
        self._bar.close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count the tasks that Dask's local scheduler finishes while the block runs the next graph of the map.

        Dask has one set of callbacks for all threads. So this also gets calls for graphs of other threads, even after
        the block if two threads end at the same time. A scheduler calls from the thread that started it.
        """
        thread, listens = threading.get_ident(), True

        def posttask(key: Any, value: Any, *_: object) -> None:
            if listens and threading.get_ident() == thread:
                self._posttask(key, value)

        try:
            with Callback(posttask=posttask):
                yield
        finally:
            listens = False
        self._first, self._seen = self._first + self._seen, 0

    @contextmanager
    def subscribed(self, client: Any) -> Iterator[None]:
        """Count the rows that the workers of a cluster report while the block runs."""
        if self.topic is None:
            yield
            return
        client.subscribe_topic(self.topic, lambda event: self.advance(*event[1]))
        try:
            yield
        finally:
            client.unsubscribe_topic(self.topic)

    def advance(self, n_rows: int, n_read: int | None = None) -> None:
        """Count `n_rows` rows as done, but never more than the total: rows of a lost worker are done twice.

        `n_read` of them were read, by default all; the others were already in a workdir.
        """
        self._n_read += n_rows if n_read is None else n_read
        self._bar.update(min(n_rows, self._bar.total - self._bar.n))
        if self._row_bytes and self._n_read:  # no rate if all rows are from a workdir
            rate = self._n_read * self._row_bytes / max(1e-9, time.perf_counter() - self._started)
            self._bar.set_postfix_str(f"{rate / 1e9:.2f} GB/s", refresh=False)

    def _posttask(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple) and str(key[0]).rpartition("-")[0] == self._layer:
            n_rows = self._rows[self._first + key[1]]
            self.advance(n_rows, rows_read(value, n_rows))
            self._seen += 1


class _Lines:
    """Takes the place of a bar in a log: a line every 30 seconds, and one at the end."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self.total, self.n, self._rate = description, total, 0, ""
        self._started = self._last_line = time.perf_counter()

    def update(self, n_rows: int) -> None:
        self.n += n_rows
        if time.perf_counter() - self._last_line >= _LINE_SECONDS and self.n < self.total:
            self._write_line()

    def set_postfix_str(self, text: str, *, refresh: bool) -> None:  # noqa: ARG002  # as a bar takes it
        self._rate = f", {text}"

    def close(self) -> None:
        self._write_line()

    def _write_line(self) -> None:
        self._last_line = time.perf_counter()
        seconds = max(1e-9, self._last_line - self._started)
        left = f", {seconds / self.n * (self.total - self.n):.0f} s left" if 0 < self.n < self.total else ""
        done = f"{self.n:,} of {self.total:,} ({self.n / max(1, self.total):.0%})"
        logger.info("%s: %s in %.0f s%s%s", self._description, done, seconds, self._rate, left)


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, whose output is not a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def rows_read(result: Any, n_rows: int) -> int:
    """Return how many of the `n_rows` rows of a task were read: fewer if its result has an `n_read`."""
    return int(getattr(result, "n_read", n_rows))


def tell(topic: str, n_rows: int, n_read: int) -> None:
    """Report finished rows from a task on a worker, and how many of them were read."""
    distributed: Any = sys.modules.get("distributed")
    try:
        worker = distributed.get_worker()
    except (AttributeError, ValueError):
        return
    worker.log_event(topic, (n_rows, n_read))
