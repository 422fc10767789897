"""Segmentation beside cleanlab, and out of core: time, memory and results.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_segmentation_task.py -s --real-size``
prints the ratios, for 200 images of 256 x 256 pixels and 20 classes, and 40 GB of chunks that are not stored. What is
asserted is the result and the memory: no time.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from cleanlab.segmentation.filter import find_label_issues as find_theirs

from labelsieve import segmentation

pytestmark = pytest.mark.slow
RUNS = 5
SCRIPT = """
import sys, warnings
from labelsieve import segmentation
warnings.simplefilter("ignore")
labels, pred_probs, max_memory = sys.argv[1:]
found = segmentation.find_label_issues(labels, pred_probs, progress=False, max_memory=max_memory or None)
print(found.num_issues, found.n_images, found.facts.planned_bytes)
"""


@pytest.fixture
def real(request):
    return request.config.getoption("--real-size")


def draw_images(folder, n, side, n_classes):
    """Write masks of squares, some of them moved or noisy, and the predictions of a good model."""
    rng, scale = np.random.default_rng(0), side // 8
    probs = np.lib.format.open_memmap(folder / "p.npy", mode="w+", dtype=np.float32, shape=(n, n_classes, side, side))
    labels = np.lib.format.open_memmap(folder / "l.npy", mode="w+", dtype=np.int64, shape=(n, side, side))
    for image in range(n):
        true = np.kron(rng.integers(0, n_classes, (8, 8)), np.ones((scale, scale), int))
        planes = rng.random((n_classes, side, side), np.float32)
        np.put_along_axis(planes, true[np.newaxis], 8 + rng.random((1, side, side), np.float32) * 12, axis=0)
        probs[image] = planes / planes.sum(axis=0)
        y, x = rng.integers(0, side - scale, 2)
        true[y : y + scale, x : x + scale] = rng.integers(0, n_classes)
        labels[image] = np.where(rng.random(true.shape) < 0.02, rng.integers(0, n_classes, true.shape), true)
    labels.reshape(-1)[:n_classes] = np.arange(n_classes)
    probs.flush(), labels.flush()


def best(runs, function):
    """Return the least seconds of wall and of processor time, and the last result."""
    wall, processor = [], []
    for _ in range(runs):
        begun = time.perf_counter(), time.process_time()
        found = function()
        wall.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
    return min(wall), min(processor), found


def own_bytes(pid):
    """Return the anonymous bytes of a process."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


def run_alone(*arguments):
    """Run the script in a process of its own; return what it prints, and the peak of its own memory in MB."""
    peaks = [0]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:

        def watch():
            while process.poll() is None:
                peaks.append(own_bytes(process.pid))
                time.sleep(0.02)

        watching = threading.Thread(target=watch)
        watching.start()
        out = process.stdout.read()
        watching.join()
    assert process.returncode == 0
    return [int(word) for word in out.split()], max(peaks) / 1e6


def test_files_beside_cleanlab(tmp_path, real):
    draw_images(tmp_path, *((200, 256, 20) if real else (4, 32, 5)))
    paths = tmp_path / "l.npy", tmp_path / "p.npy"
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    runs = RUNS if real else 1
    *theirs, want = best(min(runs, 2), lambda: find_theirs(*arrays, n_jobs=1, verbose=False))
    *ours, found = best(runs, lambda: segmentation.find_label_issues(*paths, progress=False))
    [n_issues, *_], peak = run_alone(*paths, "")
    print(
        f"\n{ours[0]:.3f} s beside {theirs[0]:.3f} s ({theirs[0] / ours[0]:.1f} times); processor {ours[1]:.3f} s "
        f"beside {theirs[1]:.3f} s ({theirs[1] / ours[1]:.1f} times); peak {peak:.0f} MB"
    )
    np.testing.assert_array_equal(found.mask(), want)
    assert n_issues == want.sum() > 0
    assert peak < 400


def test_absent_chunks_within_a_limit(tmp_path, real):
    n, side = (2500, 1024) if real else (4, 64)
    shapes = {"l.zarr": (n, side, side), "p.zarr": (n, 4, side, side)}
    for name, shape in shapes.items():
        kind = {"dtype": "f4", "fill_value": 0.25} if len(shape) == 4 else {"dtype": "u1"}
        zarr.create_array(tmp_path / name, shape=shape, chunks=(1, *shape[1:]), **kind)
    started = time.perf_counter()
    [n_issues, n_images, planned], peak = run_alone(*(tmp_path / name for name in shapes), "1GiB")
    print(f"\n{time.perf_counter() - started:.0f} s, peak {peak:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert (n_issues, n_images) == (0, n)
    assert peak < 1074
    assert planned <= 2**30
