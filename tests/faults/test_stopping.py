"""After an error or an interrupt nothing goes on: no task reads its next strip, no request is made again."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import dask
import numpy as np
import pytest

import labelsieve
from draws import assert_same_bits, draw, find, in_turn
from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import UnreadableDataError
from labelsieve.execution.graph import TaskAbandoned
from labelsieve.execution.progress import Progress
from labelsieve.job.kept import SummaryReader
from labelsieve.job.scan import Batches, Partition, RowRange, scan
from labelsieve.sources.objects import Prefetcher, retry
from labelsieve.sources.source import ReadFacts, Rows, Source
from labelsieve.storage.folder import open_folder
from labelsieve.storage.remote import Cancellation, is_cancelled, repeat
from processes import PATIENCE_S, run_python, wait_until

N_ROWS, N_CLASSES, ROWS = 1600, 4, 20
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=4, dtype=np.float32)
# 8 partitions of 10 strips of 20 rows.
CUT = {"batch_size": ROWS, "partition_batches": 10}
RUNS = {
    "scan": {},
    "rescan": {"method": "normalized_margin", "adjust_pred_probs": True},
    "margins": {"filter_by": "prune_by_noise_rate"},
}


class WatchedSource(Source):
    """Notes the reads of Dask's threads once it is armed; the first of each of two threads waits for the other.

    Then one of the two raises the exception that ends the run, which the other waits for. Dask raises a
    `KeyboardInterrupt` of a task in the main thread too; a real one might come as that thread begins to wait.
    """

    def __init__(self, ending=None):
        super().__init__(PROBS.shape, PROBS.dtype, ReadFacts(in_pieces=False))
        self.ending, self.armed = ending, threading.Event()
        self.both, self.has_ended = threading.Barrier(2), threading.Event()
        self.reads: list[int] = []

    def _content(self):
        return "always the same"

    def open(self, start=0, stop=None):
        return _WatchedRows(self)


class _WatchedRows(Rows):
    def __init__(self, source):
        super().__init__(source)
        self._source = source

    def read(self, start, stop):
        source = self._source
        # A map of one chunk runs in the main thread.
        if source.armed.is_set() and threading.current_thread() is not threading.main_thread():
            source.reads.append(start)
            if source.has_ended.is_set():
                return PROBS[start:stop]
            if source.both.wait(PATIENCE_S) == 0 and source.ending is not None:
                raise source.ending
            assert source.has_ended.wait(PATIENCE_S)
        return PROBS[start:stop]


@pytest.fixture(autouse=True)
def _small_strips(monkeypatch):
    monkeypatch.setattr("labelsieve.job.scan.MAX_STRIP_ROWS", ROWS)


@contextmanager
def two_threads():
    """Yield Dask's threads, and wait for them in the end."""
    with ThreadPoolExecutor(2) as pool, dask.config.set(scheduler="threads", pool=pool, num_workers=2):
        yield pool


@pytest.mark.parametrize(
    ("layer", "ending", "kept"), in_turn(RUNS, [OSError, KeyboardInterrupt], ["memory", "workdir"], times=2)
)
def test_the_other_tasks_read_no_further(tmp_path, monkeypatch, layer, ending, kept):
    source, place = WatchedSource(ending("this read fails")), {} if kept == "memory" else {"workdir": tmp_path / "work"}
    enter = Progress.__enter__

    def arm(progress):
        if progress._layer == layer:
            source.armed.set()
        return enter(progress)

    monkeypatch.setattr(Progress, "__enter__", arm)
    want = find(LABELS, PROBS, **RUNS[layer])
    source.armed.clear()
    error = UnreadableDataError if ending is OSError else ending
    with two_threads():
        with pytest.raises(error):
            labelsieve.find_label_issues(LABELS, source, retries=0, progress=True, **place, **CUT, **RUNS[layer])
        source.has_ended.set()
    assert len(source.reads) == 2, "one of each thread, both begun before the end"
    assert len({start // (10 * ROWS) for start in source.reads}) == 2
    if kept == "workdir" and layer == "scan":
        assert open_folder(tmp_path / "work").folder("summaries").names() == [], "a stopped task commits nothing"
    assert_same_bits(find(LABELS, WatchedSource(), **place, **CUT, **RUNS[layer]), want)


def test_a_run_beside_it_goes_on():
    want, failing, other = find(LABELS, PROBS), WatchedSource(OSError("this read fails")), WatchedSource()
    began, may_go_on = threading.Event(), threading.Event()

    class HeldRows(_WatchedRows):
        def read(self, start, stop):
            other.reads.append(start)
            began.set()
            assert may_go_on.wait(PATIENCE_S)
            return PROBS[start:stop]

    other.open = lambda *_: HeldRows(other)
    failing.armed.set()
    with ThreadPoolExecutor(1) as caller, dask.config.set(scheduler="threads", num_workers=2):
        beside = caller.submit(find, LABELS, other, **CUT)
        assert began.wait(PATIENCE_S)
        with pytest.raises(UnreadableDataError, match="this read fails"):
            find(LABELS, failing, retries=0, **CUT)
        failing.has_ended.set()
        may_go_on.set()
        assert_same_bits(beside.result(), want)
    assert sorted(other.reads) == list(range(0, N_ROWS, ROWS)), "each strip once"


def test_ctrl_c_as_the_first_thread_starts_ends_the_process():
    printed = run_python(
        """
        import signal
        import threading
        from draws import draw, find

        start = threading.Thread.start

        def interrupted(thread):
            start(thread)
            if thread.name.startswith("labelsieve-task"):  # its pool does not know it yet
                print("started", flush=True)
                signal.raise_signal(signal.SIGINT)

        threading.Thread.start = interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        try:
            find(*draw(1000, 6, seed=1), batch_size=100, partition_batches=1)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert printed == "started\ninterrupted\n"


# The parts ----------------------------------------------------------------------------------------------------------


def test_a_task_that_begins_too_late_opens_nothing():
    source, cancellation = WatchedSource(), Cancellation()
    source.open = None  # cannot be called
    rows = RowRange(source)
    partition = Partition(Batches(0, [(0, N_ROWS)]), LABELS, rows, N_CLASSES, PROBS.dtype)
    with cancellation.heeded():
        cancellation.request()
        with pytest.raises(TaskAbandoned):
            scan(partition, settings=Settings())


def test_what_follows_the_passes_stops_between_two_blocks(monkeypatch):
    monkeypatch.setattr("labelsieve.confident_learning.thresholds.SLICE_ROWS", 100)
    partition = Partition(Batches(0, [(0, N_ROWS)]), LABELS, PROBS, N_CLASSES, PROBS.dtype)
    chunk, cancellation = scan(partition, settings=Settings()), Cancellation()
    with cancellation.heeded():
        blocks = SummaryReader(Settings(), np.zeros(N_CLASSES)).blocks(chunk)
        assert len(next(blocks)) == 100
        cancellation.request()
        with pytest.raises(TaskAbandoned):
            next(blocks)


def test_cancellations_are_nested_and_end_with_their_blocks():
    outer, inner = Cancellation(), Cancellation()
    with outer.heeded():
        with inner.heeded():
            assert not is_cancelled()
            inner.request()
            assert is_cancelled()
        assert not is_cancelled()
        with Cancellation().heeded():
            outer.request()
            assert is_cancelled()
    assert not is_cancelled()


@pytest.mark.parametrize(("at", "n_tries"), [(1, 1), (3, 3), (None, 8)])
def test_a_request_is_not_repeated_for_nobody(at, n_tries):
    cancellation, tries = Cancellation(), []

    async def fail():
        tries.append(is_cancelled())
        if len(tries) == at:
            cancellation.request()
        raise TimeoutError(f"try {len(tries)}")

    with cancellation.heeded(), pytest.raises(TimeoutError, match=f"try {n_tries}"):
        asyncio.run(repeat(fail, lambda _: True, lambda _: 0, str))
    assert tries == [False] * n_tries


@pytest.mark.parametrize(("at", "n_tries"), [(1, 1), (2, 2), (None, 4)])
def test_a_task_is_not_repeated_for_nobody(at, n_tries):
    cancellation, tries = Cancellation(), []

    def fail():
        tries.append(is_cancelled())
        if len(tries) == at:
            cancellation.request()
        raise UnreadableDataError(f"try {len(tries)}")

    with cancellation.heeded(), pytest.raises(UnreadableDataError, match=f"try {n_tries}"):
        retry(4, fail)
    assert tries == [False] * n_tries


@pytest.mark.parametrize("how", ["the task is cancelled", "the prefetcher is closed"])
def test_what_is_prefetched_knows_when_nobody_waits(how):
    began, told, seen = threading.Event(), threading.Event(), []
    cancellation = Cancellation()

    def fetch(index):
        seen.append((index, is_cancelled()))
        began.set()
        assert told.wait(PATIENCE_S)
        seen.append((index, is_cancelled()))

    with cancellation.heeded():
        ahead = Prefetcher(fetch, 0, 10, depth=1)
        ahead.start()
    assert began.wait(PATIENCE_S)
    if how == "the task is cancelled":
        cancellation.request()
        told.set()
        ahead.close()
    else:
        with ThreadPoolExecutor(1) as closer:
            closing = closer.submit(ahead.close)  # waits for what is in flight
            wait_until(lambda: ahead._closed.is_requested)
            told.set()
            closing.result()
    assert seen == [(0, False), (0, True)]
