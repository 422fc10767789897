"""Progress of a job: bars in a terminal or notebook, lines in a log on a cluster, or events for other programs."""

from __future__ import annotations

import abc
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

from dask.callbacks import Callback
from tqdm import tqdm

from labelsieve.storage.remote import RETRY_LOG

logger = logging.getLogger("labelsieve")

Event: TypeAlias = dict[str, str | int | float | None]
_LISTENER: ContextVar[Callable[[Event], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listened_to(listener: Callable[[Event], None]) -> Iterator[None]:
    """Call `listener` with events of all jobs that this thread runs in the block, in place of bars and lines in a log.

    An event is a dict with the keys that `docs/command_line.md` explains. There is at most one a second in
    a stage, and one at its end. Threads of Dask may make the call.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progress_of(
    layer: str,
    partition_rows: Sequence[int],
    description: str,
    *,
    show: bool | None,
    row_bytes: int = 0,
    on_cluster: bool = False,
) -> AbstractContextManager[Progress | None]:
    """Return a context manager that yields a `Progress`, or None if nobody looks; parameters as of `Progress`."""
    if not on_cluster and _LISTENER.get() is None and not (_is_watched() if show is None else show):
        return nullcontext()
    return Progress(layer, partition_rows, description, show=show, row_bytes=row_bytes, on_cluster=on_cluster)


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

    Attributes
    ----------
    topic : str or None
        Topic under which tasks on workers report; None without a cluster.
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
        watched = _is_watched()
        self._listener = _LISTENER.get()
        self._bar_shown = watched if show is None else show
        self._logged = show is None and not watched and on_cluster
        self.topic = f"labelsieve-{uuid.uuid4().hex}" if on_cluster else None
        self._n_workers = 1
        self._done: set[int] = set()

    def __enter__(self) -> Self:
        self._first = self._seen = self._n_read = 0
        total = sum(self._rows)
        self._bar: _Display
        if self._listener is not None:
            self._bar = _Events(self._description, total, self._listener, lambda: self._n_workers)
        elif self._logged:
            self._bar = _Lines(self._description, total)
        else:
            self._bar = _Bar(self._description, total, shown=self._bar_shown)
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
        """Handle what tasks on the workers of a cluster report while the block runs."""
        if self._listener is not None:
            self._n_workers = len(client.nthreads())
        handlers: dict[str, Callable[..., None]] = {"finished": self._finish, "failed": self._fail}

        def handle(event: Any) -> None:
            kind, *facts = event[1]
            handlers[kind](*facts)

        client.subscribe_topic(self.topic, handle)
        try:
            yield
        finally:
            client.unsubscribe_topic(self.topic)

    def _finish(self, first_row: int, n_rows: int, n_read: int) -> None:
        """Count a task, but only once: that of a lost worker is run again."""
        if first_row not in self._done:
            self._done.add(first_row)
            self.advance(n_rows, n_read)

    def _fail(self, message: str) -> None:
        RETRY_LOG.add(message, condition=" if retries are left")  # Dask does not say how many are

    def advance(self, n_rows: int, n_read: int | None = None) -> None:
        """Count `n_rows` rows as done, but never more than the total: a partition may be computed again.

        `n_read` of them were read, by default all; the others were already in a workdir.
        """
        self._n_read += n_rows if n_read is None else n_read
        self._bar.update(min(n_rows, self._bar.total - self._bar.n), self._n_read * self._row_bytes)

    def _posttask(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple) and str(key[0]).rpartition("-")[0] == self._layer:
            n_rows = self._rows[self._first + key[1]]
            self.advance(n_rows, rows_read(value, n_rows))
            self._seen += 1


class _Display(abc.ABC):
    """Shows how far a map over partitions is.

    Parameters
    ----------
    description : str
        Name of the stage.
    total : int
        Number of rows.
    """

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.n, self.n_bytes = description, total, 0, 0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning of the stage."""
        return max(1e-9, time.perf_counter() - self._started)

    @property
    def bytes_per_second(self) -> float:
        """Bytes read per second."""
        return self.n_bytes / self.seconds

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of the stage; None before the first rows are done."""
        return self.seconds / self.n * (self.total - self.n) if self.n else None

    def update(self, n_rows: int, n_bytes: int) -> None:
        """Add `n_rows` rows that are done; `n_bytes` bytes were read since the beginning."""
        self.n, self.n_bytes = self.n + n_rows, n_bytes

    @abc.abstractmethod
    def close(self) -> None:
        """Show the end."""


class _Bar(_Display):
    """A bar in a terminal or a notebook."""

    def __init__(self, description: str, total: int, *, shown: bool) -> None:
        super().__init__(description, total)
        self._tqdm = tqdm(desc=description, total=total, unit="rows", unit_scale=True, disable=not shown)

    def update(self, n_rows: int, n_bytes: int) -> None:
        super().update(n_rows, n_bytes)
        self._tqdm.update(n_rows)
        if n_bytes:  # no rate if all rows are from a workdir
            self._tqdm.set_postfix_str(f"{self.bytes_per_second / 1e9:.2f} GB/s", refresh=False)

    def close(self) -> None:
        self._tqdm.close()


class _Reports(_Display):
    """A report at most once in `period` seconds while rows are left, and one at the end.

    Attributes
    ----------
    period : float
        Least seconds between two reports.
    """

    period: ClassVar[float]

    def __init__(self, description: str, total: int) -> None:
        super().__init__(description, total)
        self._last_report = self._started

    def update(self, n_rows: int, n_bytes: int) -> None:
        super().update(n_rows, n_bytes)
        now = time.perf_counter()
        if now - self._last_report >= self.period and self.n < self.total:
            self._last_report = now
            self._report()

    def close(self) -> None:
        self._report()

    @abc.abstractmethod
    def _report(self) -> None:
        """Report how far the stage is."""


class _Lines(_Reports):
    """Lines in the log."""

    period = 30.0

    def _report(self) -> None:
        left = f", {self.seconds_left:.0f} s left" if self.seconds_left else ""
        rate = f", {self.bytes_per_second / 1e9:.2f} GB/s" if self.n_bytes else ""
        done = f"{self.n:,} of {self.total:,} ({self.n / max(1, self.total):.0%})"
        logger.info("%s: %s in %.0f s%s%s", self.description, done, self.seconds, rate, left)


class _Events(_Reports):
    """Events for other programs."""

    period = 1.0

    def __init__(
        self, description: str, total: int, listener: Callable[[Event], None], n_workers: Callable[[], int]
    ) -> None:
        super().__init__(description, total)
        self._listener, self._n_workers, self._retries_before = listener, n_workers, RETRY_LOG.n_retries

    def _report(self) -> None:
        left = self.seconds_left
        self._listener(
            {
                "stage": self.description,
                "rows_done": self.n,
                "n_rows": self.total,
                "read_bytes": self.n_bytes,
                "read_bytes_per_s": round(self.bytes_per_second),
                "elapsed_s": round(self.seconds, 3),
                "left_s": None if left is None else round(left, 3),
                "retries": RETRY_LOG.n_retries - self._retries_before,
                "workers": self._n_workers(),
            }
        )


def _is_watched() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, whose output is not a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def rows_read(result: Any, n_rows: int) -> int:
    """Return how many of the `n_rows` rows of a task were read: fewer if its result has an `n_read`."""
    return int(getattr(result, "n_read", n_rows))
