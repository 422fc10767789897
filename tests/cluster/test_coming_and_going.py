"""Workers that join late, leave with and without notice, or all at once: the same bits, and the late ones are used."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client, get_worker
from test_cluster import HTTP, counting, small_cluster

import slow_source
from draws import assert_same_bits, draw, find
from processes import PATIENCE_S, Processes, run_python, wait_until
from slow_source import SleepingSource

N_ROWS, N_CLASSES, ROWS = 3000, 4, 50
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=4, dtype=np.float32)
# 60 partitions.
CUT = {"batch_size": ROWS, "partition_batches": 1}
SECONDS_PER_ROW = 0.02 / ROWS


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    return tmp_path


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.mark.slow
def test_an_adaptive_cluster_grows_and_shrinks(files, want):
    code = f"""
        import sys, threading, time, numpy as np
        from distributed import Client, LocalCluster
        from labelsieve import find_label_issues
        import slow_source
        from slow_source import SleepingSource
        from types import SimpleNamespace

        settings = {{"n_workers": 0, "threads_per_worker": 1, "processes": False, "dashboard_address": "{HTTP}"}}
        with LocalCluster(**settings) as cluster, Client(cluster, set_as_default=False) as client:
            cluster.adapt(minimum=0, maximum=4, interval="200ms", wait_count=3)
            source = SleepingSource(np.load(sys.argv[2]), {5 * SECONDS_PER_ROW})
            most, over, sleep = 0, threading.Event(), time.sleep

            def watch():
                global most
                while not over.wait(0.02):
                    most = max(most, len(cluster.workers))

            def sleep_until_it_has_grown(seconds):
                sleep(seconds)
                while most < 2:
                    sleep(0.02)

            slow_source.time = SimpleNamespace(sleep=sleep_until_it_has_grown)

            threading.Thread(target=watch, daemon=True).start()
            found = find_label_issues(
                sys.argv[1], source, client=client, batch_size={ROWS}, partition_batches=1, progress=False
            )
            over.set()
            np.save(sys.argv[3], found.indices)
            print(most)
    """
    most = run_python(code, files / "labels.npy", files / "probs.npy", files / "issues.npy")
    assert int(most) > 1
    assert np.load(files / "issues.npy").tobytes() == want.indices.tobytes()


@pytest.mark.parametrize("kept", ["memory", "workdir"])
def test_workers_that_join_late_do_most_of_what_is_left(files, want, monkeypatch, kept):
    place = {} if kept == "memory" else {"workdir": files / "work", "output": files / "out.zarr"}
    with small_cluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        tasks = counting(cluster)
        n_tasks, first, all_there = tasks.workers, cluster.workers[0].address, threading.Event()

        def late():
            return sum(list(n_tasks.values())) - n_tasks[first]

        def sleep(seconds, inner=time.sleep):
            """Hold the first worker until the others have done most of it, and those until all of them are there."""
            inner(seconds)
            if get_worker().address != first:
                assert all_there.wait(PATIENCE_S)
            elif n_tasks[first] >= 10:
                wait_until(lambda: late() > 40)

        monkeypatch.setattr(slow_source, "time", SimpleNamespace(sleep=sleep))
        source = SleepingSource(PROBS, SECONDS_PER_ROW)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(find, files / "labels.npy", source, client=client, **place, **CUT)
            wait_until(lambda: tasks.layers["scan"] >= 10 or run.done())
            cluster.scale(4)
            client.wait_for_workers(4, timeout=PATIENCE_S)
            all_there.set()
            assert_same_bits(run.result(), want)
        assert late() > sum(n_tasks.values()) / 2
        assert len(n_tasks) == 4


def test_a_worker_that_leaves_with_notice(files, want):
    with small_cluster(n_workers=3, threads_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        tasks = counting(cluster)
        source = SleepingSource(PROBS, SECONDS_PER_ROW)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(find, files / "labels.npy", source, client=client, **CUT)
            wait_until(lambda: tasks.layers["scan"] >= 20 or run.done())
            worker = cluster.workers[0]
            cluster.sync(worker.close_gracefully)
            assert_same_bits(run.result(), want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "kept"), [(signal.SIGTERM, ["--workdir", "wd"]), (signal.SIGKILL, [])], ids=["SIGTERM", "SIGKILL"]
)
def test_all_workers_leave_and_others_join(files, want, number, kept):
    with Processes(files) as processes:
        cluster = processes.cluster(2)
        cluster.wait_for_workers()
        command = ("labels.npy", "probs.npy", "--batch-size", ROWS, "--quiet", *kept)
        processes.hold(20)
        job = processes.find(*command, "-o", "issues.npy", "--scheduler", cluster.address)
        processes.wait_for_held(20, 2, job)
        old = {worker.pid for worker in cluster.workers}
        for worker in cluster.workers:
            worker.signal(number)
        processes.release()
        wait_until(lambda: not any(worker.runs for worker in cluster.workers), job)
        n_reads = processes.n_reads()
        cluster.add_worker()
        job.succeeds()
        assert {pid for pid, *_ in processes.reads()[n_reads:]} & old == set()
    assert np.load(files / "issues.npy").tobytes() == want.indices.tobytes()
