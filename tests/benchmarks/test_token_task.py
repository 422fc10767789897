"""Tokens beside cleanlab: 600,000 tokens of 9 classes in 40,000 sentences, from lists and from flat arrays.

Tiny with ``--benchmarks``, so that it cannot rot; ``pytest tests/benchmarks/test_token_task.py -s --real-size`` prints
the ratios. What is asserted is the result: no time.
"""

import itertools
import time

import numpy as np
import pytest
from cleanlab.token_classification.filter import find_label_issues as find_theirs

import draws
from labelsieve.token_classification import find_label_issues

pytestmark = pytest.mark.slow
RUNS = 5


def best(runs, function):
    """Return the least seconds of wall and of processor time, and the last result."""
    wall, processor = [], []
    for _ in range(runs):
        begun = time.perf_counter(), time.process_time()
        found = function()
        wall.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
    return min(wall), min(processor), found


def test_tokens(request):
    real = request.config.getoption("--real-size")
    n_tokens, n_sentences = (600_000, 40_000) if real else (3000, 200)
    probs, flat = draws.draw_part(np.random.default_rng(0), n_tokens, 9)
    probs = probs.astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    inner = np.random.default_rng(1).choice(np.arange(1, n_tokens), n_sentences - 1, replace=False)
    edges = np.array([0, *sorted(inner), n_tokens])
    of_sentences = [probs[start:stop].copy() for start, stop in itertools.pairwise(edges)]
    labels = [flat[start:stop].tolist() for start, stop in itertools.pairwise(edges)]
    how = {"filter_by": "prune_by_noise_rate", "progress": False}
    runs = RUNS if real else 1
    *theirs, want = best(min(runs, 3), lambda: find_theirs(labels, of_sentences, n_jobs=1))
    for name, function in {
        "lists": lambda: list(find_label_issues(labels, of_sentences, **how)),
        "flat arrays": lambda: list(find_label_issues(flat, probs, offsets=edges, **how)),
    }.items():
        *seconds, found = best(runs, function)
        print(
            f"\n{name}: {seconds[0]:.3f} s beside {theirs[0]:.3f} s ({theirs[0] / seconds[0]:.1f} times); "
            f"processor {seconds[1]:.3f} s beside {theirs[1]:.3f} s ({theirs[1] / seconds[1]:.1f} times)"
        )
        assert set(found) == set(want)
