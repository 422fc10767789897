"""What a night costs on shards that grow: twenty shards are known, and two are new.

Tiny with ``--benchmarks``; ``pytest tests/benchmarks -s --real-size`` takes shards of 400 MB and prints the figures.
What is asserted is what is read, and the bits.
"""

import shutil
import statistics
import time
from functools import partial

import numpy as np
import pytest

import draws
import labelsieve

N_KNOWN, N_SHARDS, K = 20, 22, 100


@pytest.mark.slow
def test_two_shards_beside_twenty(tmp_path, request):
    real = request.config.getoption("--real-size")
    n_rows, runs, rng = (1_000_000, 5, np.random.default_rng(0)) if real else (500, 1, np.random.default_rng(0))
    labels, probs = [[tmp_path / f"{name}-{i}.npy" for i in range(N_SHARDS)] for name in ("labels", "probs")]
    for label_file, prob_file in zip(labels, probs, strict=True):
        drawn, given = draws.draw_part(rng, n_rows, K)
        np.save(label_file, given)
        np.save(prob_file, drawn)
    find = partial(labelsieve.find_label_issues, progress=False)
    find(labels[:N_KNOWN], probs[:N_KNOWN], workdir=tmp_path / "known")
    seconds, results = {"fresh": [], "grown": []}, {}
    for _ in range(runs):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(tmp_path / "known", tmp_path / "work")
        for name, choices in {"fresh": {}, "grown": {"workdir": tmp_path / "work"}}.items():
            started, cpu = time.perf_counter(), time.process_time()
            found = find(labels, probs, **choices)
            seconds[name].append((time.perf_counter() - started, time.process_time() - cpu))
            assert found.facts.rows_read == n_rows * (N_SHARDS if name == "fresh" else N_SHARDS - N_KNOWN)
            results[name] = draws.bits(found)
        assert results["grown"] == results["fresh"]
    (fresh, fresh_cpu), (grown, grown_cpu) = (
        [statistics.median(column) for column in zip(*seconds[name], strict=True)] for name in ("fresh", "grown")
    )
    print(
        f"\n{N_SHARDS} shards of {n_rows:,} x {K}: {fresh:.2f} s ({fresh_cpu:.2f} s of CPU) from nothing, "
        f"{grown:.2f} s ({grown_cpu:.2f} s of CPU) if {N_KNOWN} are known"
    )
