"""Opening reads nothing, a run reads everything once, and memory follows the batch."""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback

import labelsieve
from draws import assert_same_bits, draw, find
from labelsieve.execution.executor import LocalExecutor
from labelsieve.job import inputs as grids
from labelsieve.job.inputs import open_inputs
from labelsieve.sources import npy
from labelsieve.sources import zarr as zarr_arrays
from labelsieve.sources.npy import NpySource
from labelsieve.sources.source import ReadFacts, Source
from labelsieve.sources.zarr import ZarrSource
from processes import run_python

LABELS, PROBS = draw(1000, 6, seed=11, signal=2.5)
TWO_READS = {"method": "normalized_margin", "adjust_pred_probs": True}


def never(*_, **__):
    pytest.fail("something was read")


def stored(store, data, **layout):
    array = zarr.create_array(store, shape=data.shape, dtype=data.dtype, **layout)
    array[:] = data
    return array


class CountingStore(zarr.storage.MemoryStore):
    """A store that counts what is asked for: (key, byte range)."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    async def get(self, key, prototype, byte_range=None):
        self.counts[key, str(byte_range)] += 1
        return await super().get(key, prototype, byte_range)

    def chunk_reads(self):
        """Return how often each chunk was read."""
        return [n for (key, _), n in self.counts.items() if key.startswith("c/") or key[0].isdigit()]


@pytest.fixture
def decoded(monkeypatch):
    """Count the chunks that the direct path decodes, by folder and number."""
    counts, lock = Counter(), threading.Lock()
    decode = zarr_arrays._DirectRows._load

    def counting(self, start, stop, out):
        with lock:
            counts.update((self._folder.name, row // self._chunk_rows) for row in range(start, stop, self._chunk_rows))
        decode(self, start, stop, out)

    monkeypatch.setattr(zarr_arrays._DirectRows, "_load", counting)
    return counts


def counted_blocks(data, chunks):
    """Return a Dask array over `data`, and a counter of how often each of its row chunks was computed."""
    counts, lock = Counter(), threading.Lock()

    def count(block, block_info=None):
        with lock:
            counts[block_info[0]["array-location"][0]] += 1
        return block

    array = da.from_array(data, chunks=chunks)
    return array.map_blocks(count, dtype=data.dtype, meta=np.empty((0,) * data.ndim, data.dtype)), counts


# Laziness --------------------------------------------------------------------------------------------------------


class UnreadableSource(Source):
    """Says what it is and cannot be read."""

    def open(self):
        never()


def test_opening_sources_reads_nothing():
    labels, probs = UnreadableSource((1000,), np.dtype("i8")), UnreadableSource((1000, 6), "f4", ReadFacts(100))
    inputs = open_inputs(labels, probs, batch_size=100, partition_batches=3)
    assert inputs.grid.partition_rows == [300, 300, 300, 100]
    assert inputs.grid.n_batches == 10
    assert (inputs.n_classes, inputs.dtype) == (6, np.float32)


def test_opening_dask_arrays_computes_nothing():
    labels = da.from_array(LABELS, chunks=170).map_blocks(never, dtype="i8", meta=np.empty(0, int))
    probs = da.from_array(PROBS, chunks=(90, 2)).map_blocks(never, dtype="f8", meta=np.empty((0, 0)))
    inputs = open_inputs(labels, probs, batch_size="auto")
    _, of_labels, of_probs = inputs.columns(LocalExecutor())
    assert of_probs.shape == PROBS.shape
    assert of_probs.chunks[1] == (6,), "a batch spans all classes"
    assert of_labels.chunks[0] == of_probs.chunks[0]


def test_opening_zarr_reads_no_chunk():
    store = CountingStore()
    probs = stored(store, PROBS, chunks=(100, 6))
    store.counts.clear()
    open_inputs(LABELS, probs, batch_size="auto")
    assert store.chunk_reads() == []


def test_opening_an_npy_file_reads_its_header_only(tmp_path, monkeypatch):
    np.save(tmp_path / "p.npy", PROBS)
    np.save(tmp_path / "y.npy", LABELS)
    monkeypatch.setattr(NpySource, "open", never)
    inputs = open_inputs(tmp_path / "y.npy", tmp_path / "p.npy", batch_size=128)
    assert inputs.grid.n_batches == 8


# One read --------------------------------------------------------------------------------------------------------

BATCHES = [7, 40, 100, 250, "auto"]
PARTITIONS = [1, 3, "auto"]


@pytest.mark.every_value
@pytest.mark.parametrize("partition_batches", PARTITIONS)
@pytest.mark.parametrize("batch_size", BATCHES)
def test_each_stored_chunk_is_decoded_once_on_the_direct_path(tmp_path, decoded, batch_size, partition_batches):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(40, 6))
    found = find(LABELS, probs, batch_size=batch_size, partition_batches=partition_batches)
    assert decoded == {("p.zarr", i): 1 for i in range(25)}
    assert (found.facts.n_reads, found.facts.bytes_read) == (1, PROBS.nbytes)


@pytest.mark.every_pair
@pytest.mark.parametrize("partition_batches", PARTITIONS)
@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("layout", [{"chunks": (40, 6)}, {"chunks": (40, 4)}, {"chunks": (40, 6), "zarr_format": 2}])
def test_each_stored_chunk_is_read_once_on_the_generic_path(batch_size, partition_batches, layout):
    store = CountingStore()
    probs = stored(store, PROBS, **layout)
    store.counts.clear()
    find(LABELS, probs, batch_size=batch_size, partition_batches=partition_batches)
    n_chunks = 25 * -(-6 // layout["chunks"][1])
    assert store.chunk_reads() == [1] * n_chunks


def test_each_inner_chunk_of_a_shard_is_read_once():
    store = CountingStore()
    probs = stored(store, PROBS, chunks=(40, 6), shards=(200, 6))
    store.counts.clear()
    find(LABELS, probs, batch_size=40, partition_batches=2)
    reads = [(key, times) for key, times in store.counts.items() if "RangeByteRequest" in key[1]]
    assert {times for _, times in reads} == {1}
    # Zarr may fetch neighbouring inner chunks at once: what counts is that the ranges of a shard join without overlap.
    for shard in {key[0] for key, _ in reads}:
        bounds = [tuple(map(int, re.findall(r"\d+", key[1]))) for key, _ in reads if key[0] == shard]
        starts, stops = zip(*sorted(bounds), strict=True)
        assert starts == (0, *stops[:-1])


@pytest.mark.parametrize("method", labelsieve.options.METHODS)
@pytest.mark.parametrize("adjust", [False, True])
def test_only_adjusted_margins_read_twice(tmp_path, decoded, method, adjust):
    if adjust and method in {"confidence_weighted_entropy", "logit_margin"}:
        pytest.skip("not defined")
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(100, 6))
    found = find(LABELS, probs, batch_size=100, partition_batches=2, method=method, adjust_pred_probs=adjust)
    n_reads = 2 if adjust and method == "normalized_margin" else 1
    assert decoded == {("p.zarr", i): n_reads for i in range(10)}
    assert (found.facts.n_reads, found.facts.bytes_read) == (n_reads, n_reads * PROBS.nbytes)


@pytest.mark.parametrize("settings", [{}, {"estimation_method": "off_diagonal_calibrated"}, TWO_READS])
def test_results_are_at_hand_without_another_read(tmp_path, decoded, settings):
    found = find(LABELS, stored(str(tmp_path / "p.zarr"), PROBS, chunks=(100, 6)), **settings)
    n_decoded = decoded.total()
    assert found.scores.shape == (1000,)
    assert found.mask().sum() == found.num_issues
    assert repr(found)
    assert decoded.total() == n_decoded


@pytest.mark.every_value
@pytest.mark.parametrize("batch_size", [7, 64, "auto"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_bytes_of_an_npy_file_are_read_once(tmp_path, monkeypatch, order, batch_size):
    np.save(tmp_path / "p.npy", np.asarray(PROBS, order=order))
    intervals, lock, read_into = [], threading.Lock(), npy.read_into

    def counting(file, position, buffer):
        with lock:
            intervals.append((position, position + len(buffer)))
        return read_into(file, position, buffer)

    monkeypatch.setattr(npy, "read_into", counting)
    find(LABELS, tmp_path / "p.npy", batch_size=batch_size, partition_batches=3)
    intervals.sort()
    size = (tmp_path / "p.npy").stat().st_size
    assert sum(stop - start for start, stop in intervals) == PROBS.nbytes
    assert (intervals[0][0], intervals[-1][1]) == (size - PROBS.nbytes, size)
    assert all(a[1] == b[0] for a, b in pairwise(intervals)), "no gap and no overlap"


@pytest.mark.every_value
@pytest.mark.parametrize("chunks", [(100, 6), (100, 4), ((1, 299, 700), (6,))], ids=str)
@pytest.mark.parametrize("settings", [{}, {"method": "normalized_margin"}, {"partition_batches": 1}])
def test_the_blocks_of_a_dask_array_are_computed_once(chunks, settings):
    probs, counts = counted_blocks(PROBS, chunks)
    labels, label_counts = counted_blocks(LABELS, 130)
    find(labels, probs, **settings)
    n_columns = len(probs.chunks[1])
    assert counts == dict.fromkeys(counts, n_columns)
    assert len(counts) == len(probs.chunks[0])
    assert label_counts == dict.fromkeys(label_counts, 1)
    assert len(label_counts) == 8


def test_a_small_dask_array_is_kept_between_two_reads():
    probs, counts = counted_blocks(PROBS, (100, 6))
    assert_same_bits(find(LABELS, probs, **TWO_READS), find(LABELS, PROBS, **TWO_READS))
    assert list(counts.values()) == [1] * 10


def test_a_dask_array_too_large_to_keep_is_computed_twice_with_a_warning(monkeypatch):
    monkeypatch.setattr("labelsieve.job.inputs.free_bytes", lambda: PROBS.nbytes)
    probs, counts = counted_blocks(PROBS, (100, 6))
    with pytest.warns(labelsieve.LabelsieveWarning, match="this Dask array is computed twice") as caught:
        found = find(LABELS, probs, **TWO_READS)
    assert len(caught) == 1
    assert list(counts.values()) == [2] * 10
    assert_same_bits(found, find(LABELS, PROBS, **TWO_READS))


def test_labels_stored_coarsely_are_read_once_though_several_partitions_need_them(tmp_path, decoded):
    labels = stored(str(tmp_path / "y.zarr"), LABELS, chunks=(600,))
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(50, 6))
    found = find(labels, probs, batch_size=50, partition_batches=2)
    assert found.facts.n_partitions == 10
    assert decoded == {("y.zarr", i): 1 for i in range(2)} | {("p.zarr", i): 1 for i in range(20)}
    assert_same_bits(found, find(LABELS, PROBS))


# Tasks -----------------------------------------------------------------------------------------------------------


class CountTasks(Callback):
    """Counts the tasks that a local scheduler runs, but for the one with which newer Dask ends each graph."""

    def __init__(self):
        self.names = Counter()
        super().__init__(pretask=self._count)

    def _count(self, key, *_):
        name = str(key[0] if isinstance(key, tuple) else key).rsplit("-", 1)[0]
        if not name.startswith("finalize"):
            self.names[name] += 1


@pytest.mark.parametrize(("partition_batches", "n_partitions"), [(1, 100), (3, 34), (10, 10), (1000, 1)])
def test_tasks_are_a_handful_a_partition(tmp_path, partition_batches, n_partitions):
    np.save(tmp_path / "p.npy", PROBS)
    with CountTasks() as tasks:
        found = find(LABELS, tmp_path / "p.npy", batch_size=10, partition_batches=partition_batches)
    assert (found.facts.n_batches, found.facts.n_partitions) == (100, n_partitions)
    if n_partitions == 1:
        assert tasks.names == {}, "one partition needs no graph"
        return
    # Three maps of one task for each partition, and a tree that folds 16 at a time.
    maps = ("scan", "issue-counts", "select")
    assert [tasks.names[name] for name in maps] == [n_partitions] * 3
    first = -(-n_partitions // 16)
    assert tasks.names.total() == 3 * n_partitions + first + (first > 1)


def test_tasks_follow_the_bytes_and_not_the_batches():
    totals = []
    for batch_size in (1, 10, 100):
        with CountTasks() as tasks:
            find(LABELS, PROBS, batch_size=batch_size)
        totals.append(tasks.names["scan"])
    n_threads = dask.config.get("num_workers", None) or dask.system.CPU_COUNT
    assert max(totals) <= 8 * n_threads, "a few partitions a thread"


def test_auto_partitions_stream_about_half_a_gigabyte():
    grid = grids.plan_grid(250_000_000, 4000, 10_000, 8, 64 * 10**9)
    batch_bytes = grid.largest_batch * 4000
    assert 32e6 <= batch_bytes <= 64e6
    assert 256e6 <= grid.largest_partition * 4000 <= 1e9
    assert grid.n_partitions < 4000, "1 TB is a few thousand tasks"


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["C", "F"])
def test_arrays_in_memory_are_never_written_to(layout):
    labels, probs = LABELS.copy(), np.asarray(PROBS.copy(), order=layout)
    probs[5, 0] = -0.0  # takes the close look, which cleans a copy
    probs[6] = [1.00001, 0, 0, 0, 0, 0]
    probs[5] /= probs[5].sum()
    before = labels.tobytes(), probs.tobytes()
    labels.flags.writeable = probs.flags.writeable = False
    for method in labelsieve.options.METHODS:
        for settings in ({}, {"n_jobs": 2}, {"batch_size": 70}):
            find(labels, probs, method=method, **settings)
    find(labels, probs, **TWO_READS)
    inspector = labelsieve.LabelInspector(num_class=6, verbose=False)
    inspector.update_confident_thresholds(labels, probs)
    inspector.score_label_quality(labels, probs)
    assert (labels.tobytes(), probs.tobytes()) == before


def test_blocks_of_dask_arrays_are_never_written_to():
    def frozen(block):
        block = block.copy()
        block[0, block[0].argmin()] = -0.0
        block.flags.writeable = False
        return block

    probs = da.from_array(PROBS, chunks=(100, 6)).map_blocks(frozen, dtype="f8")
    for settings in ({}, TWO_READS, {"method": "confidence_weighted_entropy"}):
        assert find(LABELS, probs, **settings).num_issues > 0


def test_a_stored_chunk_beyond_the_budget_is_read_in_pieces_with_a_warning(tmp_path, monkeypatch):
    want = find(LABELS, PROBS)
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(500, 6))
    # A share of the limit, divided by the threads, holds about 100 of the 500 rows.
    n_threads = dask.config.get("num_workers", None) or dask.system.CPU_COUNT
    budget = 100 * PROBS.itemsize * 6 * n_threads
    monkeypatch.setattr(grids, "_BATCH_SHARE", (budget + 1) / LocalExecutor(10**9).limit)
    with pytest.warns(labelsieve.LabelsieveWarning, match=r"stored chunk of 500 rows .* read about 5 times") as caught:
        found = find(LABELS, probs, max_memory=10**9)
    assert len(caught) == 1
    assert found.facts.n_batches == 10
    assert_same_bits(found, want)


def test_small_batches_of_what_is_stored_plainly_need_no_warning(tmp_path, monkeypatch):
    np.save(tmp_path / "p.npy", PROBS)
    monkeypatch.setattr(grids, "_BATCH_SHARE", 1e-9)
    assert_same_bits(find(LABELS, tmp_path / "p.npy", batch_size=100), find(LABELS, PROBS, batch_size=100))


PEAK = """
    import sys
    import dask
    import labelsieve

    def peak():
        # Of this program alone; ru_maxrss would start from the size of the process that started it.
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

    before = peak()
    with dask.config.set(num_workers=2):  # each thread has batches of its own
        found = labelsieve.find_label_issues(sys.argv[1], sys.argv[2], allow_zero_rows=True, progress=False)
    assert found.n_rows == int(sys.argv[3]), found
    print(peak() - before, found.num_issues)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_own_memory_follows_the_batch_and_not_the_file(tmp_path):
    n_rows, n_classes = 250_000, 1000
    # Holes of 1 GB that take no disk: reading them costs what reading data costs.
    np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.float32, (n_rows, n_classes))
    np.save(tmp_path / "y.npy", np.arange(n_rows) % n_classes)
    peak, n_issues = map(int, run_python(PEAK, tmp_path / "y.npy", tmp_path / "p.npy", n_rows).split())
    assert n_issues == 0
    assert peak < 250e6, "a quarter of the file"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_own_memory_follows_the_chunk_and_not_the_zarr_array(tmp_path):
    n_rows, n_classes = 250_000, 1000
    probs = zarr.create_array(
        str(tmp_path / "p.zarr"), shape=(n_rows, n_classes), chunks=(10_000, n_classes), dtype="f4"
    )
    for start in range(0, n_rows, 10_000):
        probs[start : start + 10_000] = np.tile(
            np.float32([2e-3, 0] if start == 0 else [1e-3, 1e-3]), (10_000, n_classes // 2)
        )
    np.save(tmp_path / "y.npy", np.arange(n_rows) % n_classes)
    peak, _ = map(int, run_python(PEAK, tmp_path / "y.npy", tmp_path / "p.zarr", n_rows).split())
    assert peak < 350e6, "about a third of the array: chunks of 40 MB, stored and decoded, a thread"


def test_sources_say_what_is_stored_together(tmp_path):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(40, 6))
    assert (ZarrSource(probs).facts.row_chunk, ZarrSource(probs).row_bytes) == (40, 48)
    np.save(tmp_path / "p.npy", PROBS)
    assert NpySource.from_path("pred_probs", tmp_path / "p.npy").facts.row_chunk is None


@pytest.mark.parametrize("batch_size", [1, 30, 250])
def test_a_batch_is_a_whole_number_of_stored_chunks(tmp_path, batch_size):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(40, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = open_inputs(LABELS, probs, batch_size=batch_size)
    rows = [b - a for n in range(inputs.grid.n_partitions) for a, b in inputs.grid.ranges(n)]
    assert all(n % 40 == 0 for n in rows[:-1])
    assert rows[0] == max(40, batch_size - batch_size % 40)


@pytest.mark.every_value
@pytest.mark.parametrize("row_chunk", [30, 130, 700])
@pytest.mark.parametrize("batch_size", [40, 100, "auto"])
def test_labels_whose_chunks_batches_would_cut_are_read_once(batch_size, row_chunk):
    store = CountingStore()
    labels = stored(store, LABELS, chunks=(row_chunk,))
    store.counts.clear()
    found = find(labels, PROBS, batch_size=batch_size, partition_batches=2)
    assert store.chunk_reads() == [1] * -(-len(LABELS) // row_chunk)
    assert_same_bits(found, find(LABELS, PROBS))


def test_labels_in_dask_are_computed_once_though_probabilities_are_read_twice(tmp_path):
    probs = stored(str(tmp_path / "p.zarr"), PROBS, chunks=(100, 6))
    labels, counts = counted_blocks(LABELS, 100)
    found = find(labels, probs, **TWO_READS)
    assert set(counts.values()) == {1}
    assert_same_bits(found, find(LABELS, PROBS, **TWO_READS))
