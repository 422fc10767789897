"""What a run at scale takes: memory, the workdir's cost, a resume, a local cluster beside threads.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks -s --real-size`` runs it on gigabytes and
prints the figures. What is asserted is that the answers are right: no wall time, and no memory.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, SchedulerPlugin

import draws
import labelsieve
from labelsieve.errors import LabelsieveWarning
from processes import own_bytes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
READ_BYTES = 8_000_000


@pytest.fixture
def real(request):
    return request.config.getoption("--real-size")


def make_input(folder, n_rows, n_classes, dtype=np.float32, wrong=0.05):
    """Write seeded predictions of a rather good model, with a share of the labels drawn anew."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    probs = np.lib.format.open_memmap(folder / "pred_probs.npy", mode="w+", dtype=dtype, shape=(n_rows, n_classes))
    labels = np.lib.format.open_memmap(folder / "labels.npy", mode="w+", dtype=np.int64, shape=(n_rows,))
    step = max(1, 20_000_000 // n_classes)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        n = part.stop - part.start
        probs[part], labels[part] = draws.draw_part(rng, n, n_classes, spread=True, wrong=wrong)
    probs.flush(), labels.flush()


def make_holes(folder, n_rows, n_classes):
    """Write files of holes: all zeros, any size on a small disk."""
    for name, shape, dtype in (("labels", (n_rows,), np.int64), ("pred_probs", (n_rows, n_classes), np.float32)):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()


def find(folder, *options):
    """Run the command; return its output, seconds and the peak of its own memory in MB."""
    command = [sys.executable, "-m", "labelsieve", "find", folder / "labels.npy", folder / "pred_probs.npy", *options]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, own_bytes(process.pid))
            time.sleep(0.02)
        out = process.stdout.read()
    assert process.returncode == 0
    return out, time.perf_counter() - started, peak / 2**20


def bare_read(path):
    """Return the seconds in which two threads read a file into reused buffers, the best of three."""
    fd, buffers, size = os.open(path, os.O_RDONLY), [bytearray(READ_BYTES) for _ in range(2)], path.stat().st_size

    def read(thread):
        for start in range(thread * READ_BYTES, size, 2 * READ_BYTES):
            os.preadv(fd, [buffers[thread]], start)

    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read, range(2)))
        best = min(best, time.perf_counter() - started)
    os.close(fd)
    return best


def timed(function):
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def in_process(folder, kind="npy", **choices):
    paths = [folder / f"{name}.{kind}" for name in ("labels", "pred_probs")]
    return labelsieve.find_label_issues(*paths, progress=False, **choices)


def test_a_file_of_holes_under_a_gibibyte(tmp_path, real):
    make_holes(tmp_path, 25_000_000 if real else 2000, 1000)
    out, seconds, peak = find(tmp_path, "--allow-zero-rows", "--max-memory", "1GiB")
    assert "\n0 label issues" in out
    read = bare_read(tmp_path / "pred_probs.npy")
    print(f"\nholes: {seconds:.1f} s, {seconds / read:.2f} times the bare read, {peak:.0f} MB")


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_state_of_many_rows_goes_to_disk(tmp_path, real, dtype):
    make_input(tmp_path, 500_000_000 if real else 50_000, 2, dtype, wrong=0.12)  # a twentieth become issues
    _, seconds, peak = find(tmp_path, "--max-memory", "1GiB", "-o", tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    rows, mask = group["issues"][:], group["mask"][:]
    assert len(rows) == group.attrs["num_issues"] == np.count_nonzero(mask) > len(mask) // 25
    assert mask[rows].all()
    assert (np.diff(group["issue_table/score"][:]) >= 0).all()
    print(f"\n{len(mask):,} x 2 {dtype}: {seconds:.1f} s, {peak:.0f} MB, {len(rows):,} issues written")


def test_memory_grows_little_with_the_rows(tmp_path, real):
    peaks = []
    for n_rows in (1_000_000, 50_000_000) if real else (10_000, 20_000):
        make_input(tmp_path, n_rows, 100)
        _, _, peak = find(tmp_path, "--workdir", tmp_path / f"work{n_rows}", "-o", tmp_path / "out.zarr")
        assert zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["n_rows"] == n_rows
        peaks.append(peak)
    print(f"\nfrom fewer to more rows: {peaks[0]:.0f} MB, {peaks[1]:.0f} MB, {peaks[1] - peaks[0]:.0f} MB more")


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_a_workdir_costs_little_and_a_resume_saves_much(tmp_path, real, kind):
    make_input(tmp_path, 2_000_000 if real else 4000, 1000)
    if kind == "zarr":
        to_zarr(tmp_path, 10_000 if real else 1000)
    plain, kept = [], []
    want = in_process(tmp_path, kind)
    for _ in range(11 if real else 1):
        plain.append(timed(lambda: in_process(tmp_path, kind))[0])
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        seconds, found = timed(lambda: in_process(tmp_path, kind, workdir=tmp_path / "work"))
        kept.append(seconds)
        assert found.indices.tolist() == want.indices.tolist()
    ratio = statistics.median(k / p for k, p in zip(kept, plain, strict=True))
    # As after a kill at half: every other partition is committed.
    records = sorted((tmp_path / "work" / "summaries").iterdir())
    resumed = []
    for _ in range(3 if real else 1):
        for record in records[: len(records) // 2]:
            record.unlink()
        seconds, found = timed(lambda: in_process(tmp_path, kind, workdir=tmp_path / "work"))
        resumed.append(seconds)
        assert found.indices.tolist() == want.indices.tolist()
        assert found.facts.rows_read == found.n_rows - found.facts.rows_resumed
        kept_share = 1 - len(records) // 2 / len(records)  # of partitions, whose number follows that of the cores
        assert found.facts.rows_resumed / found.n_rows == pytest.approx(kept_share, abs=0.1)
    half = statistics.median(resumed) / statistics.median(kept)
    print(f"\n{kind}: the workdir costs {ratio - 1:.1%}; a resume at half takes {half:.2f} of the time")


def to_zarr(folder, rows):
    for name in ("labels", "pred_probs"):
        array = np.load(folder / f"{name}.npy", mmap_mode="r")
        chunks = (rows, *array.shape[1:])
        stored = zarr.create_array(folder / f"{name}.zarr", shape=array.shape, chunks=chunks, dtype=array.dtype)
        for start in range(0, len(array), rows):
            stored[start : start + rows] = array[start : start + rows]
        (folder / f"{name}.npy").unlink()


def test_a_killed_run_goes_on(tmp_path, real):
    make_input(tmp_path, 2_000_000 if real else 4000, 1000)
    _, full, _ = find(tmp_path, "--workdir", tmp_path / "once", "--quiet")
    command = [sys.executable, "-m", "labelsieve", "find", tmp_path / "labels.npy", tmp_path / "pred_probs.npy"]
    with subprocess.Popen([*map(str, command), "--workdir", str(tmp_path / "work")]) as process:
        done, wanted = tmp_path / "work" / "summaries", len(list((tmp_path / "once" / "summaries").iterdir()))
        while process.poll() is None and len(list(done.glob("*.rec"))) < wanted // 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    _, resumed, _ = find(tmp_path, "--workdir", tmp_path / "work", "--quiet")
    assert in_process(tmp_path, workdir=tmp_path / "work").facts.rows_read == 0
    print(f"\nkilled at half: the rest took {resumed / full:.2f} of the whole command")


@pytest.fixture
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as connected,
    ):
        labelsieve.find_label_issues([0, 1] * 50, [[0.9, 0.1], [0.2, 0.8]] * 50, progress=False)
        connected.cluster_here = cluster
        yield connected


def test_a_local_cluster_beside_threads(tmp_path, real, client):
    make_input(tmp_path, 2_000_000 if real else 4000, 1000)
    to_zarr(tmp_path, 10_000 if real else 1000)
    ratios = []
    for _ in range(5 if real else 1):
        cluster, found = timed(lambda: in_process(tmp_path, "zarr"))
        with dask.config.set(scheduler="threads"):
            threads, want = timed(lambda: in_process(tmp_path, "zarr"))
        assert found.indices.tolist() == want.indices.tolist()
        ratios.append(cluster / threads)
    print(f"\na cluster of two workers takes {statistics.median(ratios):.2f} times what threads take")


class FirstTask(SchedulerPlugin):
    """Notes when the first partition is handed to a worker, and counts the tasks that were done."""

    def __init__(self):
        self.first, self.n_tasks = None, 0

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "processing" and str(key).startswith("('scan-") and self.first is None:
            self.first = time.perf_counter()
        self.n_tasks += (start, finish) == ("processing", "memory")


def test_a_terabyte_of_absent_chunks_on_a_cluster(tmp_path, real, client):
    n_rows = 250_000_000 if real else 50_000
    chunk = 10_000
    zarr.create_array(tmp_path / "pred_probs.zarr", shape=(n_rows, 1000), chunks=(chunk, 1000), dtype="f4")
    zarr.create_array(tmp_path / "labels.zarr", shape=(n_rows,), chunks=(chunk,), dtype="i8")
    plugin, done, peaks = FirstTask(), threading.Event(), [0]
    client.cluster_here.scheduler.add_plugin(plugin)

    def watch():
        while not done.wait(0.5):
            peaks.append(own_bytes(os.getpid(), children=False))

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.perf_counter()
    with pytest.warns(LabelsieveWarning, match="of labels are not stored"):
        found = in_process(tmp_path, "zarr", allow_zero_rows=True)
    seconds = time.perf_counter() - started
    done.set()
    watching.join()
    assert (found.n_rows, found.num_issues) == (n_rows, 0)
    print(
        f"\n{n_rows:,} x 1000 of absent chunks: first partition after {plugin.first - started:.2f} s, "
        f"{plugin.n_tasks:,} tasks, {seconds:.0f} s, client and scheduler {max(peaks) / 2**20:.0f} MB at their peak"
    )
