"""The simulated cluster of the benchmarks runs the whole job and counts what it does."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import labelsieve
import simulated_workers
from processes import run_python
from simulated_workers import SimulatedSource, Store, spend, spending

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "simulated_cluster.py"

SIMULATION = """
    import runpy, sys

    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def figures():
    options = ["--workers", "6", "--threads", "2", "--terabytes", "0.012"]
    title, *lines = run_python(SIMULATION, BENCHMARK, *options).splitlines()
    assert title == "0.012 TB, 6 workers of 2 threads, cut 1"
    return dict(line.split(maxsplit=1) for line in lines)


def test_the_job_finds_what_a_run_on_arrays_finds(figures):
    n_rows = 1024 * 12
    rows = [SimulatedSource(n_rows, 100, 8, store)[0:n_rows] for store in (None, Store(1e30, 0))]
    assert int(figures["issues"]) == labelsieve.find_label_issues(*rows).num_issues > 0


def test_every_partition_is_read_once_and_summaries_are_worked_on_in_groups(figures):
    kinds = json.loads(figures["kinds"])
    n_partitions = int(figures["partitions"])
    assert n_partitions >= 4 * 12
    assert kinds["scan"] == n_partitions
    assert kinds["issue-counts"] == kinds["select"] == 12


def test_a_job_takes_at_least_as_long_as_its_reads(figures):
    # 12 GB at 1 GB/s for each of 6 workers, give or take the spread of the reads.
    assert float(figures["reading_s"]) == pytest.approx(2, rel=0.1)
    assert float(figures["total_s"]) > float(figures["reading_s"])
    assert 0 < float(figures["idle"]) < 1
    assert float(figures["scheduler_s"]) > 0


def test_seconds_are_spent_by_sleeping_or_counted(monkeypatch):
    slept = []
    monkeypatch.setattr(simulated_workers, "time", SimpleNamespace(sleep=slept.append))
    spend(2.5)
    with spending() as spent:
        spend(1.5)
        spend(0.5)
    assert (slept, spent) == ([2.5], [1.5, 0.5])


def test_reads_take_their_latency_their_bytes_and_some_much_longer():
    assert Store(100.0, 0.5, spread=0).seconds(1000, seed=1) == 10.5
    slow = Store(100.0, 0, spread=0, slow_share=0.25, slow_factor=10)
    seconds = np.array([slow.seconds(100, seed) for seed in range(2000)])
    assert set(seconds) == {1.0, 10.0}
    assert np.mean(seconds == 10) == pytest.approx(0.25, abs=0.03)
