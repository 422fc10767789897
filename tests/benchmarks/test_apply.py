"""What it takes to apply decisions, beside a bare copy of the labels.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_apply.py -s --real-size`` corrects 100
million labels and prints the figures. What is asserted is that the labels are right: no wall time, and no memory.

A bare copy of a ``.npy`` file is NumPy's, from a mapped file; that of a Zarr array is Zarr's, chunk by chunk, as the
decisions are in all chunks and each of them is decoded and encoded again.
"""

import csv
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

import labelsieve
from labelsieve.results.result import labels_digest
from processes import own_bytes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
N_CLASSES = 1000


@pytest.fixture(scope="module")
def stored(request, tmp_path_factory):
    """Store labels in both forms; return the folder and the labels."""
    n_rows = 100_000_000 if request.config.getoption("--real-size") else 100_000
    folder, labels = tmp_path_factory.mktemp("apply"), np.random.default_rng(0).integers(0, N_CLASSES, n_rows)
    np.save(folder / "labels.npy", labels)
    zarr.create_array(folder / "labels.zarr", data=labels, chunks=(max(1, n_rows // 100),))
    masks = labels.reshape(100, 100, -1)
    np.save(folder / "masks.npy", masks)
    zarr.create_array(folder / "masks.zarr", data=masks, chunks=(1, *masks.shape[1:]))
    yield folder, labels
    shutil.rmtree(folder)


def write_decisions(path, labels, n, fingerprint):
    """Write decisions about rows drawn from all; return the rows and their labels after them."""
    rng = np.random.default_rng(n)
    rows = np.unique(rng.integers(0, len(labels), n))
    after = (labels[rows] + rng.integers(0, 2, len(rows))) % N_CLASSES
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "id", "given_label", "decision", "label", "reviewer", "time", "result"])
        order = rng.permutation(len(rows))
        columns = (one[order].tolist() for one in (rows, labels[rows], after))
        for second, (row, old, new) in enumerate(zip(*columns, strict=True)):
            said = ("keep", "") if old == new else ("accept", new)
            when = (
                f"2026-11-{1 + second // 86_400:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"
            )
            writer.writerow([row, "", old, *said, "ann", when, fingerprint])
    return rows, after


def copy(source, target):
    """Copy labels."""
    if source.suffix == ".npy":
        with target.open("wb") as file:
            np.lib.format.write_array(file, np.load(source, mmap_mode="r"))
        return
    old = zarr.open_array(source, mode="r")
    new = zarr.create_array(target, shape=old.shape, dtype=old.dtype, chunks=old.chunks)
    for start in range(0, old.shape[0], old.chunks[0]):
        new[start : start + old.chunks[0]] = old[start : start + old.chunks[0]]


def best_of(function, target, times):
    """Return the fewest seconds, and the fewest seconds of processor time, of some calls that make `target`."""
    seconds = []
    for _ in range(times):
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        target.with_name(f"{target.name}.log.json").unlink(missing_ok=True)
        started = time.perf_counter(), time.process_time()
        function()
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return tuple(map(min, zip(*seconds, strict=True)))


@pytest.mark.parametrize(
    ("form", "n_decisions"),
    [
        ("labels.npy", 10_000),
        ("labels.npy", 100_000),
        ("labels.zarr", 10_000),
        ("labels.zarr", 100_000),
        ("masks.npy", 10_000),
        ("masks.zarr", 10_000),
    ],
)
def test_apply_beside_a_copy(request, stored, form, n_decisions):
    folder, labels = stored
    times = 3 if request.config.getoption("--real-size") else 1
    source, target, decisions = folder / form, folder / f"out-{form}", folder / "decisions.csv"
    n_decisions = min(n_decisions, len(labels) // 10)
    fingerprint = f"{labels_digest(np.bincount(labels).tolist())}-{'0' * 12}"
    rows, after = write_decisions(decisions, labels, n_decisions, fingerprint)
    of_copy, of_copy_cpu = best_of(lambda: copy(source, target), target, times)
    of_apply, of_apply_cpu = best_of(lambda: labelsieve.apply_decisions(source, decisions, target), target, times)
    got = np.load(target) if target.suffix == ".npy" else zarr.open_array(target, mode="r")[:]
    labels[rows], before = after, labels[rows]
    assert np.array_equal(got.reshape(-1), labels)
    labels[rows] = before
    print(
        f"\n{len(labels):,} labels, {form}, {len(rows):,} decisions: {of_apply:.2f} s, {of_apply / of_copy:.2f} times "
        f"a bare copy; processor time {of_apply_cpu:.2f} s, {of_apply_cpu / of_copy_cpu:.2f} times"
    )


@pytest.mark.parametrize("form", ["npy", "zarr"])
def test_memory_of_a_million_decisions(stored, form):
    folder, labels = stored
    source, target, decisions = folder / f"labels.{form}", folder / f"corrected.{form}", folder / "million.csv"
    rows, after = write_decisions(decisions, labels, min(1_000_000, len(labels) // 10), "")
    command = [sys.executable, "-m", "labelsieve", "apply", source, decisions, "-o", target, "--overwrite"]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, own_bytes(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0
    got = np.load(target, mmap_mode="r") if form == "npy" else zarr.open_array(target, mode="r")[:]
    assert np.array_equal(got[rows], after)
    print(f"\n.{form}, {len(rows):,} decisions: {time.perf_counter() - started:.1f} s, {peak / 2**20:.0f} MB")
