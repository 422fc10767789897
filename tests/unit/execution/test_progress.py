"""What whoever watches is told: rows that add up, wherever they are done, and nothing where nobody watches."""

import contextlib
import itertools
import logging
import re
import threading
from typing import ClassVar

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import draws
import labelsieve
from labelsieve.errors import UnreadableDataError
from labelsieve.execution import progress
from labelsieve.job import scan
from labelsieve.storage.remote import RETRY_LOG
from processes import wait_until

LABELS, PROBS = draws.draw(2000, 5, seed=41, noise=0.3)
CUT = {"batch_size": 20, "partition_batches": 2}


class Bar:
    """A bar that notes what it is told."""

    made: ClassVar = []

    def __init__(self, *, desc, total, disable, **_):
        self.desc, self.total, self.disable, self.n, self.steps, self.postfix = desc, total, disable, 0, [], ""
        self.made.append(self)

    def update(self, n):
        self.n += n
        self.steps.append(n)

    def set_postfix_str(self, text, **_):
        self.postfix = text

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(progress, "tqdm", Bar)
    return Bar.made


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def steps_of(bar):
    return [n for n in bar.steps if n]


@pytest.mark.every_value
@pytest.mark.parametrize("where", ["threads", "synchronous", "forked", "cluster"])
@pytest.mark.parametrize("adjust", [False, True])
def test_rows_are_told_as_they_are_done(bars, client, where, adjust):
    choices = {"forked": {"n_jobs": 2}, "cluster": {"client": client}}.get(where, {})
    settings = {"method": "normalized_margin", "adjust_pred_probs": True} if adjust else {}
    chosen = dask.config.set(scheduler=where) if where in ("threads", "synchronous") else contextlib.nullcontext()
    with chosen:
        labelsieve.find_label_issues(LABELS, PROBS, progress=True, **choices, **settings, **CUT)
    said = {bar.desc: bar for bar in bars}
    assert list(said) == ["read", *(["read again"] if adjust else []), "threshold", "rank"]
    for bar in bars:
        assert (bar.n, bar.total, bar.closed, bar.disable) == (2000, 2000, True, False)
        if where == "forked" and bar.desc == "read":
            assert len(steps_of(bar)) > 4, "a piece of partitions at a time"
        elif where != "cluster":
            assert steps_of(bar) == [40] * 50
        else:  # what is told too late is one step at the end
            # Summaries are worked on in a task for each worker, one of its partitions after the other.
            assert bar.desc in ("threshold", "rank") or set(steps_of(bar)[:-1]) <= {40}
    assert said["read"].postfix.endswith(" GB/s")
    assert said["threshold"].postfix == ""


SCAN, BEGUN = scan.scan, itertools.count(1)


def scan_in_step(*args, **kwargs):
    """Begin only once all partitions are told that must be done by now: two threads have one each at most."""
    n_done = next(BEGUN) - 2
    wait_until(lambda: sum(bar.n for bar in Bar.made if bar.desc == "read") >= 40 * n_done)
    return SCAN(*args, **kwargs)


def test_a_cluster_tells_on_the_way(bars, client, monkeypatch):
    monkeypatch.setattr("labelsieve.job.scan.scan", scan_in_step)
    labelsieve.find_label_issues(LABELS, PROBS, progress=True, client=client, **CUT)
    assert next(BEGUN) == 51


def test_a_workdir_tells_of_partitions_once(bars, tmp_path):
    for _ in range(2):
        found = labelsieve.find_label_issues(
            LABELS, PROBS, progress=True, workdir=tmp_path / "w", output=tmp_path / "o.zarr", **CUT
        )
    told = [("read", 2000), ("threshold", 2000), ("rank", 2000), ("write", found.num_issues)]
    assert [(bar.desc, bar.n) for bar in bars] == 2 * told


@pytest.mark.parametrize(("show", "terminal", "notebook", "shown"), [
    (None, False, False, False),
    (None, True, False, True),
    (None, False, True, True),
    (False, True, True, False),
    (True, False, False, True),
])  # fmt: skip
def test_a_bar_is_shown_where_somebody_watches(bars, monkeypatch, show, terminal, notebook, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(progress, "_in_notebook", lambda: notebook)
    labelsieve.find_label_issues(LABELS, PROBS, progress=show, **CUT)
    assert [not bar.disable for bar in bars] == [True] * (3 * shown)


def test_a_job_on_a_cluster_logs_lines_where_nobody_watches(bars, client, caplog, monkeypatch):
    monkeypatch.setattr(progress._Lines, "period", 0.0)
    monkeypatch.setattr(progress, "_in_notebook", lambda: False)
    with caplog.at_level(logging.INFO, "labelsieve"):
        labelsieve.find_label_issues(LABELS, PROBS, client=client, **CUT)
    assert bars == []
    lines = [record.getMessage() for record in caplog.records if record.name == "labelsieve"]
    last = [line for line in lines if "2,000 of 2,000 (100%) in " in line]
    assert [line.partition(":")[0] for line in last] == ["read", "threshold", "rank"]
    assert last[0].endswith(" GB/s")
    on_the_way = [line for line in lines if line.startswith("read") and line not in last]
    assert all(line.endswith(" s left") for line in on_the_way)
    caplog.clear()
    labelsieve.find_label_issues(LABELS, PROBS, client=client, progress=False, **CUT)
    labelsieve.find_label_issues(LABELS, PROBS, **CUT)
    assert [record for record in caplog.records if record.name == "labelsieve"] == []


N_FAILURES = itertools.count(1)


def scan_fails_twice(*args, **kwargs):
    """Fail at first; of this module, so that a worker gets this very function and not a copy."""
    if next(N_FAILURES) <= 2:
        raise UnreadableDataError("the line is down")
    return SCAN(*args, **kwargs)


def test_a_task_that_a_cluster_tries_again_is_a_warning(client, caplog, monkeypatch):
    before, expected = RETRY_LOG.n_retries, labelsieve.find_label_issues(LABELS, PROBS).indices
    monkeypatch.setattr("labelsieve.job.scan.scan", scan_fails_twice)
    found = labelsieve.find_label_issues(LABELS, PROBS, progress=False, client=client, **CUT)
    np.testing.assert_array_equal(found.indices, expected)
    assert RETRY_LOG.n_retries == before + 2
    warned = [record.getMessage() for record in caplog.records if record.name == "labelsieve"]
    pattern = r"tried again if retries are left: partition \d+ \(rows [\d,.]+\) of .*: the line is down"
    assert [bool(re.fullmatch(pattern, line)) for line in warned] == [True, True]


def test_the_events_of_a_cluster_count_its_workers(client):
    events = []
    with progress.listened_to(events.append):
        labelsieve.find_label_issues(LABELS, PROBS, client=client, **CUT)
    assert [event["stage"] for event in events] == ["read", "threshold", "rank"]
    assert {(event["rows_done"], event["n_rows"], event["workers"]) for event in events} == {(2000, 2000, 2)}


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_rows_that_were_done_before_are_no_bytes(bars, client, tmp_path, where, monkeypatch):
    told, inner = [], progress.Progress.advance

    def advance(bar, n_rows, n_read=None):
        if bar._description == "read":
            told.append((n_rows, n_read))
        inner(bar, n_rows, n_read)

    monkeypatch.setattr(progress.Progress, "advance", advance)
    choices = {"workdir": tmp_path / "w", "progress": True} | ({"client": client} if where == "cluster" else {})
    for reads in (True, False):
        told.clear()
        labelsieve.find_label_issues(LABELS, PROBS, **choices, **CUT)
        on_the_way = told[:-1]
        assert {n_read for _, n_read in on_the_way} <= {40 if reads else 0}
        assert len(on_the_way) == 50 or where == "cluster", "a cluster may tell too late"
    first, resumed = (bar.postfix for bar in bars if bar.desc == "read")
    assert first.endswith(" GB/s")
    assert resumed == ""


def test_no_more_rows_are_told_than_there_are(bars):
    with progress.Progress("scan", [10, 10], "read", show=True) as bar:
        for _ in range(3):  # one of them by a worker that died after it
            bar.advance(10)
    assert bars[0].n == 20
    assert np.array(bars[0].steps).sum() == 20


def test_rows_of_a_task_that_runs_again_are_counted_once():
    with progress.Progress("scan", [10, 10], "read", show=False, on_cluster=True) as bar:
        bar._finish(0, 10, 10)
        bar._finish(0, 10, 10)
        assert bar._bar.n == 10
        bar._finish(10, 10, 0)
        assert bar._bar.n == 20


def test_the_graphs_of_other_threads_are_not_counted(monkeypatch):
    monkeypatch.setattr(progress, "tqdm", Bar)
    found = []
    bar = progress.Progress("issue-counts", [7], "count", show=True)
    with bar, bar.listening():
        other = threading.Thread(target=lambda: found.append(labelsieve.find_label_issues(LABELS, PROBS, **CUT)))
        other.start()
        other.join()
        assert bar._bar.n == 0
    assert len(found) == 1
    np.testing.assert_array_equal(found[0].indices, labelsieve.find_label_issues(LABELS, PROBS).indices)


def test_a_round_of_one_partition_counts_the_rows_of_that_partition(bars, monkeypatch):
    # Rounds of the third pass that have one partition run without a graph.
    done, inner = [], progress.Progress.advance

    def advance(bar, n_rows, n_read=None):
        if bar._description == "read a third time" and n_rows:
            done.append(n_rows)
        inner(bar, n_rows, n_read)

    monkeypatch.setattr(progress.Progress, "advance", advance)
    monkeypatch.setattr("labelsieve.job.passes.rounds", lambda start, stop, _: range(start + 1, stop + 1))
    choices = {"filter_by": "prune_by_noise_rate", "progress": True, "batch_size": 900, "partition_batches": 1}
    labelsieve.find_label_issues(LABELS, PROBS, **choices)
    assert done == [900, 900, 200]
