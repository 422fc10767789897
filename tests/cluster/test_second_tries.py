"""A worker that is much slower than the others holds up no run: its last partition is also read by another one."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client, LocalCluster, get_worker
from test_cluster import HTTP, counting

from draws import assert_same_bits, draw, find, in_turn
from labelsieve.errors import TaskFailedError, UnreadableDataError
from labelsieve.execution import second_tries
from labelsieve.execution.progress import Progress, listened_to
from labelsieve.sources.source import Rows
from processes import PATIENCE_S, assert_same_output, wait_until
from slow_source import SleepingSource, worker_name

N_ROWS, N_CLASSES, ROWS = 4000, 4, 20
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=3, dtype=np.float32)
# 40 partitions of 5 strips of 20 rows.
CUT = {"batch_size": ROWS, "partition_batches": 5}


class Held:
    """What happens to the read that a slow worker has begun, in this process."""

    def __init__(self) -> None:
        # Set by the second try as it begins if one of them fails; otherwise the first is held until it is cancelled.
        self.go_on, self.second_began = threading.Event(), threading.Event()
        self.first_row: int | None = None
        self.reads: list[tuple[object, int]] = []


HELD = Held()


class HeldSource(SleepingSource):
    """Holds the second read of worker 0, and may fail in the first or the second try of those rows."""

    def __init__(self, array, *, first_fails=False, second_fails=False):
        super().__init__(array, 0.0001)
        self.first_fails, self.second_fails = first_fails, second_fails

    def open(self, start=0, stop=None):
        return _HeldRows(self)


class _HeldRows(Rows):
    def __init__(self, source):
        super().__init__(source)
        self.source = source

    def read(self, start, stop):
        is_slow = worker_name() == 0
        HELD.reads.append((worker_name(), start))
        if is_slow and HELD.first_row is None and start % (5 * ROWS) == ROWS:
            HELD.first_row = start
            if not (self.source.first_fails or self.source.second_fails):
                worker = get_worker()
                wait_until(lambda: worker.state.tasks[worker.get_current_task()].state == "cancelled")
                if not HELD.second_began.is_set():  # on a busy machine, this was itself the second try of another
                    HELD.first_row = None
                    return self.source.array[start:stop]
            assert HELD.go_on.wait(PATIENCE_S)
            if self.source.first_fails:
                raise OSError("the first try fails")
        elif not is_slow and start == HELD.first_row:
            HELD.second_began.set()
            HELD.go_on.set()
            if self.source.first_fails:
                time.sleep(0.5)
            if self.source.second_fails:
                raise OSError("the second try fails")
        time.sleep(self.source.seconds * (stop - start))
        return self.source.array[start:stop]


class LooksClock:
    """Seconds between looks at the tasks, as many as are wanted: where all of this process stood still, no more."""

    def __init__(self):
        self._seconds, self._last = 0.0, time.monotonic()

    def monotonic(self):
        """Return the seconds that count."""
        before, self._last = self._last, time.monotonic()
        self._seconds += min(self._last - before, 0.05)
        return self._seconds


@pytest.fixture(autouse=True)
def _at_once(monkeypatch, _without_haste):
    """Look often, and try again soon; a strip is a batch."""
    monkeypatch.setattr(second_tries, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(second_tries, "_LEAST_SECONDS", 1.0)
    clock = SimpleNamespace(monotonic=LooksClock().monotonic, sleep=time.sleep)
    monkeypatch.setattr(second_tries, "time", clock)
    monkeypatch.setattr("labelsieve.job.partition.MAX_STRIP_ROWS", ROWS)
    HELD.__init__()
    yield
    HELD.go_on.set()


@pytest.fixture
def client():
    with (
        LocalCluster(n_workers=4, threads_per_worker=1, processes=False, dashboard_address=HTTP) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.tasks = counting(cluster)
        yield client


@pytest.fixture
def labels(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path / "labels.npy"


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.mark.parametrize("kept", ["memory", "workdir"])
def test_a_slow_worker_does_not_hold_up_the_run(client, labels, want, tmp_path, caplog, kept):
    place = {} if kept == "memory" else {"workdir": tmp_path / "work", "output": tmp_path / "out.zarr"}
    events = []
    with caplog.at_level(logging.WARNING, "labelsieve"), listened_to(events.append):
        found = find(labels, HeldSource(PROBS), client=client, **place, **CUT)
    assert HELD.second_began.is_set()
    assert_same_bits(found, want)
    if kept == "workdir":
        assert_same_output(tmp_path / "out.zarr", want)
    # A second try that begins as the first one ends finds its record in the workdir.
    assert found.facts.rows_read + found.facts.rows_resumed == N_ROWS
    read = [event for event in events if event["stage"] == "read"]
    assert max(event["rows_done"] for event in read) == N_ROWS
    said = [text for text in caplog.messages if text.startswith("tried again on another worker: partition")]
    held = f"(rows {HELD.first_row - ROWS:,}..{HELD.first_row + 4 * ROWS - 1:,}) of a HeldSource is still not done on"
    assert sum(held in text for text in said) == 1
    assert len(said) <= 2, "it, and what was queued behind it"
    assert read[-1]["retries"] == len(said)
    assert (0, HELD.first_row + ROWS) not in HELD.reads, "what nobody waits for reads no further"
    if kept == "workdir":
        again = find(labels, HeldSource(PROBS), client=client, **place, **CUT)
        assert again.facts.rows_read == 0
        assert_same_bits(again, want)


@pytest.mark.parametrize(("layer", "kept"), in_turn(["rescan", "margins"], ["memory", "workdir"]))
def test_later_passes_are_not_held_up_either(client, labels, tmp_path, layer, kept, monkeypatch):
    settings = {
        "rescan": {"method": "normalized_margin", "adjust_pred_probs": True},
        # The third pass begins with rounds of one partition, which the slow worker may get.
        "margins": {"filter_by": "prune_by_noise_rate"},
    }[layer]
    place = {} if kept == "memory" else {"workdir": tmp_path / "work", "output": tmp_path / "out.zarr"}
    want = find(LABELS, PROBS, **settings)
    HELD.first_row = -1  # not in the first pass
    inner = Progress.__enter__

    def enter(bar):
        if bar._layer == layer:
            HELD.first_row = None
        return inner(bar)

    monkeypatch.setattr(Progress, "__enter__", enter)
    found = find(labels, HeldSource(PROBS), client=client, **settings, **place, **CUT)
    assert HELD.first_row is not None
    assert HELD.second_began.is_set()
    assert_same_bits(found, want)


def test_the_time_of_a_row_is_known_from_an_earlier_pass():
    with Progress("scan", [10], "read", show=False, on_cluster=True) as first:
        first._finish(("scan", 0), 1.0, 0, 10, 10)
    with Progress("rescan", [10], "read again", show=False, on_cluster=True, earlier=first) as second:
        pass
    with Progress("margins", [10, 10], "read", show=False, on_cluster=True, earlier=second) as third:
        assert third.seconds_per_row() == 0.1
        third._finish(("margins", 0), 5.0, 0, 10, 10)
        assert third.seconds_per_row() == 0.5


def test_where_nothing_is_slow_no_partition_is_read_twice(client, labels, want):
    found = find(labels, SleepingSource(PROBS, 0.0002), client=client, **CUT)
    assert_same_bits(found, want)
    assert client.tasks.layers["scan"] == found.facts.n_partitions == 40


@pytest.mark.parametrize("kept", ["memory", "workdir"])
def test_an_error_of_one_try_is_none_of_the_run(client, labels, want, tmp_path, kept):
    place = {} if kept == "memory" else {"workdir": tmp_path / "work", "output": tmp_path / "out.zarr"}
    for fails in ({"second_fails": True}, {"first_fails": True}):
        HELD.__init__()
        found = find(labels, HeldSource(PROBS, **fails), client=client, retries=0, **place, fresh=bool(place), **CUT)
        assert HELD.second_began.is_set()
        assert_same_bits(found, want)


@pytest.mark.parametrize("kept", ["memory", "workdir"])
def test_an_error_of_both_tries_is_raised(client, labels, tmp_path, kept):
    place = {} if kept == "memory" else {"workdir": tmp_path / "work", "output": tmp_path / "out.zarr"}
    source = HeldSource(PROBS, first_fails=True, second_fails=True)
    with pytest.raises((TaskFailedError, UnreadableDataError), match="the first try fails"):
        find(labels, source, client=client, retries=0, **place, **CUT)
    assert HELD.second_began.is_set()


def test_rows_of_two_tries_are_counted_once():
    with Progress("scan", [10, 10], "read", show=False, on_cluster=True) as bar:
        bar._finish(("scan-a", 0), 1.0, 0, 10, 10)
        bar._finish(("scan-b", 0), 1.0, 0, 10, 10)
        assert bar._bar.n == 10
        bar._finish(("scan-a", 1), 1.0, 10, 10, 0)
        assert bar._bar.n == 20
        assert bar.seconds_per_row() == 0.1  # those of a workdir were not read
