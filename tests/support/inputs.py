"""Drawn inputs and comparisons for the tests of sources, bad input, reading, forking and the documented API.

Covers: datasets with wrong labels from a seed, and "the same bits" as one assertion.
Does not cover: what the right answer is (`naive`).
"""

from __future__ import annotations

import numpy as np

import labelsieve


def draw(n_rows=500, n_classes=5, seed=0, dtype=np.float64, noise=0.2):
    """Return `n_rows` labels, a share `noise` of them drawn anew, and the probabilities of a fair model."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.normal(size=(n_rows, n_classes))
    logits[np.arange(n_rows), true] += 2.5
    odds = np.exp(logits)
    labels = np.where(rng.random(n_rows) < noise, rng.integers(0, n_classes, n_rows), true)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(dtype)


def find(labels, pred_probs, **settings):
    """Run `find_label_issues` without bars."""
    return labelsieve.find_label_issues(labels, pred_probs, progress=False, **settings)


def assert_same_bits(got, want):
    """Hold two results against each other, to the last bit of every number."""
    assert want.num_issues > 0, "a test without issues shows nothing"
    assert (got.n_rows, got.n_classes, got.estimated_num_issues) == (
        want.n_rows,
        want.n_classes,
        want.estimated_num_issues,
    )
    for name in ("indices", "scores", "confident_thresholds", "class_counts", "mean_scores"):
        assert_same_array(np.asarray(getattr(got, name)), np.asarray(getattr(want, name)), name)
    for name in ("diagonal", "pairs", "counts"):
        assert_same_array(getattr(got.confident, name), getattr(want.confident, name), name)
    for name, column in want.issues.columns().items():
        assert_same_array(got.issues.columns()[name], column, name)


def assert_same_array(got, want, what="array"):
    """Hold two arrays against each other: dtype, shape and bytes."""
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    assert got.tobytes() == want.tobytes(), what
