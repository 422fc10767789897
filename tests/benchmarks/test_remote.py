"""Zarr on an S3 server, with and without 100 ms added to each request, in turn, in one run.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_remote.py -s --real-size`` runs it on
gigabytes and prints the ratio. What is asserted is the same answer: no wall time.
"""

import statistics
import time

import fsspec
import numpy as np
import pytest
import zarr

import draws
import labelsieve
import s3

# Rows, classes, rows a chunk: chunks as tools make them, and smaller ones, where requests weigh more.
REAL = {"40 MB chunks": (400_000, 1000, 10_000), "4 MB chunks": (400_000, 1000, 1000)}
TINY = dict.fromkeys(REAL, (2000, 50, 100))


def upload(url, n_rows, n_classes, chunk_rows):
    """Store seeded predictions and labels, a twentieth of them wrong, chunk by chunk."""
    rng, memory = np.random.default_rng(0), zarr.storage.MemoryStore()
    probs = zarr.create_array(memory, name="p", shape=(n_rows, n_classes), chunks=(chunk_rows, n_classes), dtype="f4")
    labels = zarr.create_array(memory, name="y", shape=(n_rows,), chunks=(min(n_rows, 100_000),), dtype="i8")
    fs = fsspec.filesystem("s3")
    every = np.empty(n_rows, np.int64)
    for start in range(0, n_rows, chunk_rows):
        rows = slice(start, min(start + chunk_rows, n_rows))
        n = rows.stop - rows.start
        probs[rows], every[rows] = draws.draw_part(rng, n, n_classes)
        move(memory, fs, url)
    labels[:] = every
    move(memory, fs, url)


def move(memory, fs, url):
    """Send to S3 what the store in memory holds, and keep there the metadata alone."""
    fs.pipe({f"{url}/{key}": buffer.to_bytes() for key, buffer in memory._store_dict.items()})
    for key in [key for key in memory._store_dict if not key.endswith(".json")]:
        del memory._store_dict[key]


@pytest.mark.slow
@pytest.mark.parametrize("chunks", REAL)
def test_a_delay_of_each_request_is_hidden(chunks, request, monkeypatch):
    real = request.config.getoption("--real-size")
    shape = (REAL if real else TINY)[chunks]
    with s3.running_server() as server:
        server.set_environment(monkeypatch)
        fsspec.filesystem("s3").mkdir(s3.BUCKET)
        upload(f"s3://{s3.BUCKET}", *shape)
        seconds, found = {False: [], True: []}, {}
        for slow in [False, True] * (3 if real else 1):
            server.set_environment(monkeypatch, slow=slow)
            started = time.perf_counter()
            found[slow] = labelsieve.find_label_issues(f"s3://{s3.BUCKET}/y", f"s3://{s3.BUCKET}/p", progress=False)
            seconds[slow].append(time.perf_counter() - started)
        s3.clear_clients()
    plain, delayed = (statistics.median(seconds[slow]) for slow in (False, True))
    n_rows, n_classes, _ = shape
    print(
        f"\n{n_rows:,} x {n_classes:,}, {chunks}: {plain:.2f} s, with {1000 * s3.DELAY_S:.0f} ms a request "
        f"{delayed:.2f} s, {delayed / plain:.2f} times; all: {[f'{s:.2f}' for s in seconds[False] + seconds[True]]}"
    )
    assert np.array_equal(found[False].indices, found[True].indices)
    assert found[True].num_issues > n_rows // 100
