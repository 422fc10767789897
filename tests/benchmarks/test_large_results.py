"""What asking a result takes: the classes and pairs of very many classes, the report of a large run.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks -s --real-size`` runs it on gigabytes and
prints the figures. What is asserted is that the answers are right: no wall time, and no memory.
"""

import itertools
import time
import tracemalloc

import numpy as np
import pytest

import draws
import labelsieve
from labelsieve.confident_learning.filters import LowestScores, combine_counts
from labelsieve.confident_learning.matrices import class_columns, pair_columns
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    SummaryBlock,
    class_dtype,
    class_means,
    class_sums_chunk,
    class_sums_finalize,
)
from labelsieve.job import table as count_and_select
from labelsieve.job.kept import SummaryChunk, SummaryReader

pytestmark = pytest.mark.slow


@pytest.fixture
def real(request):
    return request.config.getoption("--real-size")


def made_up(n_rows, n_classes, wrong):
    """Return seeded row summaries of classes of very different sizes, some predicted as any other class."""
    rng = np.random.default_rng(0)
    dtype = class_dtype(n_classes)
    labels = (n_classes * rng.random(n_rows) ** 3).astype(dtype)
    predicted = np.where(rng.random(n_rows) < wrong, rng.integers(0, n_classes, n_rows).astype(dtype), labels)
    p_predicted = (0.4 + 0.6 * rng.random(n_rows, np.float32)).astype(np.float32)
    p_label = np.where(predicted == labels, p_predicted, (1 - p_predicted) / 2).astype(np.float32)
    return SummaryBlock(label=labels, predicted=predicted, p_label=p_label, p_predicted=p_predicted)


@pytest.mark.parametrize("wrong", [0.1, 1.0])
def test_classes_and_pairs_of_very_many_classes(real, wrong):
    n_rows, n_classes = (20_000_000, 21_841) if real else (20_000, 300)
    summary, parts = made_up(n_rows, n_classes, wrong), 40
    sums = ClassSums.zeros(n_classes)
    edges = np.linspace(0, n_rows, parts + 1).astype(int)
    for a, b in itertools.pairwise(edges):
        part = class_sums_chunk(summary.label[a:b], summary.p_label[a:b], n_classes)
        sums.counts += part.counts
        sums.high += part.high
        sums.low += part.low
    thresholds = class_sums_finalize(sums)
    reader = SummaryReader(Settings(), thresholds)
    shared = {"reader": reader, "rule": LowestScores(Settings()), "thresholds": thresholds}
    tracemalloc.start()
    started = time.perf_counter()
    total = None
    for a, b in itertools.pairwise(edges):
        piece = SummaryChunk(int(a), summary[a:b], None)
        counted = count_and_select.count(piece, **shared)
        total = counted if total is None else combine_counts([total, counted])
    confident, no_issues = total.confident, np.zeros(n_classes, np.int64)
    classes = class_columns(confident, sums.counts, thresholds, class_means(sums), no_issues)
    pairs = pair_columns(confident, sums.counts, 100)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sure = summary.p_predicted >= thresholds[summary.predicted] - 1e-6
    assert confident.counts.sum() + confident.diagonal.sum() == np.count_nonzero(sure)
    worst = int(pairs["given_label"][0]), int(pairs["suggested_label"][0])
    there = sure & (summary.label == worst[0]) & (summary.predicted == worst[1])
    assert pairs["confident_rows"][0] == np.count_nonzero(there)
    assert classes["rows"].sum() == n_rows
    print(
        f"\n{n_rows:,} rows, {n_classes:,} classes, {len(confident.pairs):,} pairs: {seconds:.1f} s, "
        f"{peak / 1e6:.0f} MB beside the summaries"
    )


def test_the_report_of_a_large_run(tmp_path, real):
    n_rows, n_classes, step = (1_000_000, 1000, 20_000) if real else (2000, 50, 1000)
    rng = np.random.default_rng(0)
    probs = np.lib.format.open_memmap(tmp_path / "p.npy", mode="w+", dtype=np.float32, shape=(n_rows, n_classes))
    labels = np.empty(n_rows, np.int64)
    for start in range(0, n_rows, step):
        part = slice(start, start + step)
        probs[part], labels[part] = draws.draw_part(rng, step, n_classes, spread=True, wrong=0.2)
    found = labelsieve.find_label_issues(labels, tmp_path / "p.npy", progress=False)
    images = np.broadcast_to(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), (n_rows, 224, 224, 3))
    started = time.perf_counter()
    found.report(tmp_path / "r.html", top=1000, images=images)
    seconds, n_bytes = time.perf_counter() - started, (tmp_path / "r.html").stat().st_size
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("<img ") == min(1000, found.num_issues)
    assert n_bytes < 5_000_000
    print(f"\nreport of {n_rows:,} x {n_classes:,}: {seconds:.1f} s, {n_bytes / 1e6:.2f} MB")
