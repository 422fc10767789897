"""What workers that are killed and replaced cost a run: a ratio.

Small with ``--benchmarks``; ``pytest tests/benchmarks -s --real-size`` prints the figures of 20 workers with 20
partitions each, whose reads sleep: other load of the machine matters little. No time is asserted.
"""

import os
import signal
import threading
import time

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from draws import assert_same_bits, draw, find
from labelsieve.execution.progress import listened_to
from slow_source import SleepingSource

pytestmark = pytest.mark.slow
# A partition has ten batches, each a strip.
ROWS, BATCHES = 2500, 10


@pytest.fixture(params=["memory", "workdir"])
def bed(request, tmp_path):
    """What to run, how long a partition takes, and how many workers there are."""
    real = request.config.getoption("--real-size")
    n_workers, n_units, unit_s = (20, 20, 1.5) if real else (3, 4, 0.1)
    labels, probs = draw(n_workers * n_units * BATCHES * ROWS, 3, seed=1, dtype=np.float32)
    np.save(tmp_path / "labels.npy", labels)
    want = find(tmp_path / "labels.npy", probs)

    def run(client, name, listener=lambda _: None):
        place = {"workdir": tmp_path / name, "output": tmp_path / f"{name}.zarr"} if request.param == "workdir" else {}
        source = SleepingSource(probs, unit_s / BATCHES / ROWS, tmp_path / "probs.npy")
        started = time.perf_counter()
        cut = {"batch_size": ROWS, "partition_batches": BATCHES}
        with listened_to(listener), pytest.MonkeyPatch.context() as patch:
            patch.setattr("labelsieve.job.scan.MAX_STRIP_ROWS", ROWS)
            found = find(tmp_path / "labels.npy", source, client=client, **cut, **place)
        seconds = time.perf_counter() - started
        assert_same_bits(found, want)
        return seconds

    np.save(tmp_path / "probs.npy", probs)
    return run, n_workers, n_units * unit_s, request.param


def cluster(n_workers):
    settings = {f"distributed.worker.memory.{what}": False for what in ("pause", "spill", "target", "terminate")}
    with dask.config.set(settings):
        return LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")


def test_a_fifth_of_the_workers_is_killed_and_replaced(bed):
    run, n_workers, ideal, kept = bed
    killed = threading.Event()
    with cluster(n_workers) as running, Client(running, set_as_default=False) as client:
        pids = list(client.run(os.getpid).values())[: max(1, n_workers // 5)]

        def kill(event):
            if event["stage"] == "read" and 2 * event["rows_done"] > event["n_rows"] and not killed.is_set():
                killed.set()
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

        even = run(client, "even")
        disturbed = run(client, "disturbed", listener=kill)
    assert killed.is_set()
    print(f"\n{kept}: {even:.1f} s (reading alone {ideal:.0f} s); killed {disturbed:.1f} s, {disturbed / even:.2f}")
