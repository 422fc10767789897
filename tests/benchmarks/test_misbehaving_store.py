"""A store that fails and is late now and then, beside the same store that does not, in turn, in one run.

Each answer begins after 20 ms and its body comes at 100 MB/s, as from S3; 2 % of the reads are answered with 503, 1 %
are reset, 1 % are cut short, and 2 % are 2 s late. Tiny with ``--benchmarks``, so that it cannot rot;
``pytest tests/benchmarks/test_misbehaving_store.py -s --real-size`` reads gigabytes and prints the ratio. What is
asserted is the same answer, and that only what failed is requested again: no wall time.
"""

import statistics
import time
from collections import Counter

import dask
import numpy as np
import pytest

import draws
import labelsieve
import misbehaving
from labelsieve.storage import remote as limits

# Rows and classes of a shard, and shards, of which all have the same content.
REAL, TINY = (100_000, 1000, 10), (2000, 50, 3)
FAULTS = {"slow_down": 0.02, "reset": 0.01, "cut": 0.01, "late": 0.02}
GOOD = {"latency_s": 0.02, "bytes_per_s": 100e6}
REPEATED = ("slow_down", "reset", "cut")


@pytest.mark.slow
def test_faults_of_a_store_cost_little(request, monkeypatch, tmp_path):
    real = request.config.getoption("--real-size")
    n_rows, n_classes, n_shards = REAL if real else TINY
    probs, labels = draws.draw_part(np.random.default_rng(0), n_rows, n_classes)
    np.save(tmp_path / "p.npy", probs.astype("f4"))
    labels = np.tile(labels, n_shards)
    seconds, found, counted = {False: [], True: []}, {}, []
    with misbehaving.running_store() as store, dask.config.set(scheduler="threads", num_workers=2):
        store.set_environment(monkeypatch)
        for shard in range(n_shards):
            store.put_file(f"{misbehaving.BUCKET}/shards/p-{shard}.npy", tmp_path / "p.npy")
        for seed in range(5 if real else 1):
            for bad in (False, True):
                store.behave(**GOOD, faults=FAULTS if bad else {}, seed=seed)
                started = time.perf_counter()
                found[bad] = labelsieve.find_label_issues(labels, f"s3://{misbehaving.BUCKET}/shards", progress=False)
                seconds[bad].append(time.perf_counter() - started)
                counted.append(Counter(fault or "good" for method, _, asked, fault in store.requests() if asked))
            assert np.array_equal(found[False].indices, found[True].indices)
            assert found[False].scores.tobytes() == found[True].scores.tobytes()
            good, bad = counted[-2:]
            # Besides what failed, those that were late are sent a second time. Where this machine stood still, others
            # were late too, of both stores; but never more than `HEDGES_AT_ONCE` and one in `HEDGE_EVERY`.
            more = bad.total() - good.total() - sum(bad[name] for name in REPEATED)
            assert abs(more) <= limits.HEDGES_AT_ONCE + max(good.total(), bad.total()) / limits.HEDGE_EVERY
    good, bad = (statistics.median(seconds[bad]) for bad in (False, True))
    print(
        f"\n{n_shards} shards of {n_rows:,} x {n_classes:,}: {good:.2f} s, misbehaving {bad:.2f} s, "
        f"{bad / good:.2f} times; all good: {[f'{s:.2f}' for s in seconds[False]]}, "
        f"misbehaving: {[f'{s:.2f}' for s in seconds[True]]}; requests in turn:"
    )
    for counts in counted:
        print(" ", dict(counts))
