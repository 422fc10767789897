"""The exact rule beside one read of the same rows and beside cleanlab's in-memory filter, each in its own process.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_exact_rule.py -s --real-size`` runs it
on 8 GB of float32 (2 million rows of 1,000 classes), where cleanlab takes 16 GB of memory, and on 17 GB of 21,841
classes.
What is asserted is that both find the same rows: no wall time.
"""

import json
import statistics
import subprocess
import sys

import numpy as np
import pytest

import draws

FILTERS = ["confident_learning", "low_self_confidence"]

OURS = """
import json, sys, time
import numpy as np
import labelsieve
folder, filter_by = sys.argv[1:]
started = time.perf_counter()
found = labelsieve.find_label_issues(
    f"{folder}/labels.npy", f"{folder}/pred_probs.npy", filter_by=filter_by or None, progress=False
)
seconds = time.perf_counter() - started
np.save(f"{folder}/ours.npy", found.indices)
"""
THEIRS = """
import json, sys, time
import numpy as np
from cleanlab.filter import find_label_issues
folder, filter_by = sys.argv[1:]
labels, pred_probs = np.load(f"{folder}/labels.npy"), np.load(f"{folder}/pred_probs.npy")
started = time.perf_counter()
found = find_label_issues(
    labels, pred_probs, filter_by=filter_by, return_indices_ranked_by="self_confidence", n_jobs=1
)
seconds = time.perf_counter() - started
np.save(f"{folder}/theirs.npy", found)
"""
COUNT = """
import json, sys, time
from labelsieve import count
folder, what = sys.argv[1:]
started = time.perf_counter()
joint = count.compute_confident_joint(
    f"{folder}/labels.npy", f"{folder}/pred_probs.npy", calibrate=what == "calibrated", progress=False
)
assert joint.nnz < joint.shape[0] * 10
if what == "latent":
    count.estimate_latent(joint, f"{folder}/labels.npy", converge_latent_estimates=True)
seconds = time.perf_counter() - started
"""
WATCHED = """
import threading

def own_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(("Pss_Anon", "Pss_Shmem")))

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, own_bytes())

peak, done = 0, threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
"""


def run(code, *arguments):
    """Return the seconds of a call in a fresh process, and the peak of its own memory in bytes."""
    end = "\ndone.set()\nwatcher.join()\nprint(json.dumps([seconds, max(peak, own_bytes())]))"
    command = [sys.executable, "-c", WATCHED + code + end, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def make_input(folder, n_rows, n_classes):
    rng = np.random.default_rng(0)
    probs = np.lib.format.open_memmap(folder / "pred_probs.npy", mode="w+", dtype=np.float32, shape=(n_rows, n_classes))
    labels, step = np.empty(n_rows, np.int64), max(1, 20_000_000 // n_classes)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        probs[part], labels[part] = draws.draw_part(rng, part.stop - part.start, n_classes, spread=True)
    probs.flush()
    np.save(folder / "labels.npy", labels)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    for path in tmp_path.glob("*.npy"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_the_exact_rule_beside_one_read_and_beside_cleanlab(folder, request):
    real = request.config.getoption("--real-size")
    make_input(folder, *((2_000_000, 1000) if real else (20_000, 100)))
    times = {by: [] for by in ["", *FILTERS, "prune_by_class", "prune_by_noise_rate"]}
    peaks = dict.fromkeys(times, 0)
    for _ in range(5 if real else 1):
        for by, seconds in times.items():
            took, peak = run(OURS, folder, by)
            seconds.append(took)
            peaks[by] = max(peaks[by], peak)
    once = statistics.median(times[""])
    for by in FILTERS:
        run(OURS, folder, by)
        seconds, peak = run(THEIRS, folder, by)
        ours, theirs = np.load(folder / "ours.npy"), np.load(folder / "theirs.npy")
        assert len(ours) > 100
        assert set(ours.tolist()) == set(theirs.tolist())
        assert not real or peaks[by] < peak / 10
        ratio = seconds / statistics.median(times[by])
        print(
            f"\n{by}: {ratio:.1f} times as fast as cleanlab ({seconds:.2f} s, {peak / 1e6:,.0f} MB), {len(ours):,} rows"
        )
    print()
    for by, taken in times.items():
        median = statistics.median(taken)
        print(f"{by or 'one read':20} {median:.3f} s, {median / once:.2f} of one read, {peaks[by] / 1e6:.0f} MB")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_the_joint_of_very_many_classes_is_never_dense(folder, request):
    real = request.config.getoption("--real-size")
    make_input(folder, *((200_000, 21_841) if real else (2_000, 1_500)))
    for what in ("counted", "calibrated", "latent"):
        seconds, peak = run(COUNT, folder, what)
        assert peak < 2_000_000_000
        print(f"\nthe joint, {what}: {seconds:.1f} s, {peak / 1e6:.0f} MB")
