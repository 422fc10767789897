"""Memory by plan: what a run takes, measured in a process of its own, stays below what was planned before it."""

import json
import sys

import dask.array as da
import numpy as np
import pytest
import zarr

from labelsieve.confident_learning.scores import Settings
from labelsieve.job.grid import STRIP_BYTES, Need
from labelsieve.job.inputs import open_inputs
from labelsieve.results.store import ISSUE_BYTES
from processes import run_python

MEASURED = """
import json, os, sys, threading, time
import dask
import labelsieve

def own_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(("Pss_Anon", "Pss_Shmem")))

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, own_bytes())

peak, done = 0, threading.Event()
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
labels, pred_probs, settings = sys.argv[1:]
with dask.config.set(num_workers=2):
    issues = labelsieve.find_label_issues(labels, pred_probs, progress=False, **json.loads(settings))
done.set()
watcher.join()
print(json.dumps([max(peak, own_bytes()), issues.facts.planned_bytes, issues.num_issues, issues.facts.bytes_read]))
"""


FILE_BYTES = 500_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """500 MB of predictions over 100 classes, as .npy and as Zarr with chunks of 20 MB."""
    path, rng = tmp_path_factory.mktemp("predictions"), np.random.default_rng(1)
    shape = (FILE_BYTES // 400, 100)
    labels = rng.integers(0, 100, shape[0])
    probs = np.lib.format.open_memmap(path / "pred_probs.npy", mode="w+", dtype=np.float32, shape=shape)
    stored = zarr.create_array(path / "pred_probs.zarr", shape=shape, chunks=(50_000, 100), dtype=np.float32)
    block = rng.dirichlet([0.1] * 100, 50_000).astype(np.float32)
    for start in range(0, shape[0], len(block)):
        part = slice(start, start + len(block))
        probs[part] = block
        probs[np.arange(start, part.stop), labels[part]] += 0.0005
        stored[part] = probs[part]
    probs.flush()
    del probs
    np.save(path / "labels.npy", labels)
    # Of these one row in twenty-five is labelled otherwise than predicted.
    predicted = np.concatenate([block.argmax(axis=1)] * (shape[0] // len(block)))
    np.save(path / "likely.npy", np.where(rng.random(shape[0]) < 0.04, labels, predicted))
    yield path
    for file in path.glob("*.npy"):
        file.unlink()


@pytest.fixture(scope="module")
def measure(folder):
    """Run a job with two threads in a process of its own, and return what it took and found."""

    def run(ending, labels="labels.npy", **settings):
        printed = run_python(MEASURED, folder / labels, folder / f"pred_probs.{ending}", json.dumps(settings))
        peak, planned, num_issues, bytes_read = json.loads(printed)
        n_reads = 1 + bool(settings.keys() & {"adjust_pred_probs", "filter_by"}) + (settings.get("filter_by") == "both")
        assert bytes_read == FILE_BYTES * n_reads
        assert num_issues > (20_000 if labels == "likely.npy" else 100_000)
        return peak, planned, num_issues

    return run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("settings", "ending"),
    [
        ({}, "npy"),
        ({"method": "normalized_margin", "adjust_pred_probs": True}, "zarr"),
        ({"method": "confidence_weighted_entropy"}, "npy"),
    ],
    ids=["plain", "adjusted margin", "entropy"],
)
def test_peak_memory_is_below_the_plan(measure, ending, settings):
    peak, planned, num_issues = measure(ending, **settings)
    assert peak < planned + ISSUE_BYTES * num_issues
    assert planned < FILE_BYTES


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("settings", "ending"),
    [({}, "zarr"), ({"method": "normalized_margin", "adjust_pred_probs": True}, "npy")],
    ids=["plain", "adjusted margin"],
)
def test_peak_memory_with_workdir_and_output_is_below_the_plan_without_an_issue(measure, tmp_path, ending, settings):
    # The tasks sort and write the issues: they are no part of what one process holds.
    where = {"workdir": str(tmp_path / "work"), "output": str(tmp_path / "result.zarr")}
    peak, planned, _ = measure(ending, **settings, **where)
    assert peak < planned < FILE_BYTES


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("filter_by", "stored"), [("confident_learning", True), ("both", False)])
def test_peak_memory_of_the_exact_rule_is_below_the_plan(measure, tmp_path, filter_by, stored):
    where = {"output": str(tmp_path / "result.zarr")} if stored else {}
    peak, planned, num_issues = measure("npy", "likely.npy", filter_by=filter_by, **where)
    assert peak < planned + (0 if stored else ISSUE_BYTES * num_issues)
    assert planned < FILE_BYTES


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stored", [False, True])
def test_peak_memory_is_below_a_limit_that_was_given(measure, tmp_path, stored):
    where = {"output": str(tmp_path / "result.zarr")} if stored else {"workdir": str(tmp_path / "work")}
    # Without an output the issues stay in this process: a million of them would be an error.
    labels = "labels.npy" if stored else "likely.npy"
    peak, planned, _ = measure("npy", labels, max_memory=250_000_000, **where)
    assert planned <= 250_000_000
    assert peak < 250_000_000


def test_the_formula_as_the_docstring_gives_it():
    # The interpreter; for each thread a stored batch, decoded and not, and scratch for a strip; the sums and histograms
    # that the reduction trees hold; for each row its summary. README gives the same.
    def take(n_threads, n_rows, n_classes, itemsize, settings=None, **more):
        return Need(n_rows, n_classes, itemsize, settings or Settings(), **more).in_process(n_threads, stored=False)

    strips, entropy = 3 * STRIP_BYTES, Settings("confidence_weighted_entropy")
    # A tree of one partition: its sums by class, a histogram and its pairs of classes, 16 bytes each, of as many as
    # there are, or as a tenth of the rows; and the sums and pairs that the client keeps.
    ten, thousand = 2 * 24 * 10 + 65_536 + 3 * 16 * 90, 2 * 24 * 1000 + 65_536 + 3 * 16 * 10**5
    assert take(2, 10**6, 1000, 4) == 120_000_000 + 2 * strips + thousand + 10**6 * (4 + 8)
    assert take(1, 10**6, 10, 2) == 120_000_000 + strips + ten + 10**6 * (2 + 4 + 4)
    assert take(1, 10**6, 10, 8, entropy) == 120_000_000 + 8 * STRIP_BYTES + ten + 10**6 * (2 + 16 + 8)
    adjusted, batch = Settings(adjust_pred_probs=True), 48_000_000
    partials = (32 + 10) * (24 * 70_000 + 65_536 + 16 * 625) + 2 * 16 * 10**5
    # 6,250 rows a partition, so its sums are of as many classes at most: 32 bytes each, sparse.
    assert take(1, 10**6, 70_000, 4, adjusted, n_partitions=160, batch_bytes=batch, ahead_bytes=9, held_bytes=5) == (
        120_000_000 + int(2.25 * batch) + 13 * STRIP_BYTES + partials + 160 * 32 * 6250 + 10**6 * (8 + 8 + 16) + 9 + 5
    )


def test_the_plan_counts_what_the_inputs_hold():
    def planned(inputs):
        return inputs.need(Settings()).in_process(2, stored=False)

    labels, probs = np.zeros(1000, np.int64), np.full((1000, 4), 0.25)
    plain = planned(open_inputs(labels, probs))
    stored = zarr.create_array(zarr.storage.MemoryStore(), shape=(1000,), chunks=(70,), dtype=np.int64)
    assert planned(open_inputs(stored, probs, batch_size=100)) >= plain + 1000
    # Dask hands a task all blocks of its partition at once.
    lazy_labels, lazy = da.zeros(10**7, dtype=int, chunks=10**6), da.full((10**7, 4), 0.25, chunks=(10**6, 4))
    one, five = (planned(open_inputs(lazy_labels, lazy, partition_batches=n)) for n in (1, 5))
    assert five > one + 4 * 32 * 10**6
