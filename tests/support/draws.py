"""Seeded data, the choices that must not matter, and results compared to the last bit.

Draws of labels and probabilities, hypothesis strategies, `in_turn` (some of all combinations), `pieces` (tiny strips
and bins), `find`, `bits`, and `n_calls`, which measures work by no clock.
"""

import contextlib
import itertools
import sys
from functools import partial

import numpy as np
import pytest
import zarr
from hypothesis import strategies as st

import labelsieve
import labelsieve.confident_learning.select
import labelsieve.confident_learning.thresholds
import labelsieve.job.scan
from labelsieve.confident_learning.summarize import Summarizer

SHAPES = ["absent", "single row", "sorted", "two classes", "ties", "float16", "many classes", "near"]
_CHUNK_BYTES = 40_000_000


def draw(n_rows=500, n_classes=5, *, signal=2.0, noise=0.2, seed=0, dtype=np.float64, decimals=None):
    """Return labels, a share `noise` of them drawn anew, and the ``(n_rows, n_classes)`` probabilities of a fair model.

    The model favours the true class by `signal`. `decimals` rounds the probabilities, so that scores tie.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.normal(size=(n_rows, n_classes))
    logits[np.arange(n_rows), true] += signal
    probs = np.exp(logits)
    probs /= probs.sum(axis=1, keepdims=True)
    if decimals is not None:
        units = np.floor(probs * 10**decimals)
        missing = 10**decimals - units.sum(axis=1, keepdims=True)
        by_remainder = np.argsort(units - probs * 10**decimals, axis=1, kind="stable").argsort(axis=1)
        probs = (units + (by_remainder < missing)) / 10**decimals  # each row stays a distribution
    labels = np.where(rng.random(n_rows) < noise, rng.integers(0, n_classes, n_rows), true)
    return labels, probs.astype(dtype)


def draw_part(rng, n_rows, n_classes, *, spread=False, wrong=0.05):
    """Return probabilities and labels of some rows of a dataset that is drawn part by part, for benchmarks.

    A share `wrong` of the labels is drawn anew, so some of these stay right. `spread` makes the model surer of some
    rows than of others.
    """
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.standard_normal((n_rows, n_classes), dtype=np.float32)
    logits[np.arange(n_rows), true] += 2 + np.log(n_classes)
    if spread:
        logits[np.arange(n_rows), true] += rng.gamma(2.0, 1.0, n_rows).astype(np.float32)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits, np.where(rng.random(n_rows) < wrong, rng.integers(0, n_classes, n_rows), true)


def near_ties(labels, probs, seed=0):
    """Put the given label's probability 0, 5e-7, 1e-6 or 2e-6 below the row's largest, in half of the rows."""
    rng = np.random.default_rng(seed)
    probs, labels = probs.copy(), np.asarray(labels)
    rows = np.flatnonzero(rng.random(len(labels)) < 0.5)
    probs[rows, labels[rows]] = probs[rows].max(axis=1) - rng.choice([0, 5e-7, 1e-6, 2e-6], len(rows))
    probs[rows] /= probs[rows].sum(axis=1, keepdims=True)
    return labels, probs


def odd(shape):
    """Return datasets that are easy to get wrong."""
    labels, probs = draw(400, 6, seed=3, noise=0.4, signal=1.0)
    if shape == "absent":
        labels = np.where(labels >= 4, 0, labels)
    elif shape == "single row":
        labels = np.where(labels == 2, 1, labels)
        labels[17] = 2
    elif shape == "sorted":
        order = np.argsort(labels, kind="stable")
        labels, probs = labels[order], probs[order]
    elif shape == "two classes":
        labels, probs = draw(300, 2, seed=4, noise=0.3, signal=0.7)
    elif shape == "ties":
        labels, probs = draw(400, 6, seed=5, noise=0.4, decimals=1)
    elif shape == "float16":
        probs = probs.astype(np.float16)
    elif shape == "many classes":
        labels, probs = draw(900, 60, seed=6, noise=0.3, signal=3.0)
    elif shape == "near":
        labels, probs = near_ties(labels, probs)
    return labels, probs


@st.composite
def datasets(draw_from, max_rows=70, classes=(2, 3, 5, 33), dtype=None):
    """Draw labels and probabilities: ties, absent classes, sorted labels, one row and two classes among them."""
    n = draw_from(st.one_of(st.just(1), st.integers(2, max_rows)))
    k = draw_from(st.sampled_from(classes))
    seed = draw_from(st.integers(0, 2**32 - 1))
    labels, probs = draw(
        n,
        k,
        signal=draw_from(st.sampled_from([0.0, 1.0, 3.0])),
        noise=draw_from(st.sampled_from([0.0, 0.3, 1.0])),
        seed=seed,
        dtype=dtype or draw_from(st.sampled_from([np.float16, np.float32, np.float64])),
        decimals=draw_from(st.sampled_from([None, 1, 2])),
    )
    shape = draw_from(st.sampled_from(["plain", "absent", "sorted", "near", "one class"]))
    if shape == "absent":
        labels = np.minimum(labels, (k - 1) // 2)
    elif shape == "one class":
        labels = np.full(n, k - 1)
    elif shape == "sorted":  # whole blocks hold a single class
        order = np.argsort(labels, kind="stable")
        labels, probs = labels[order], probs[order]
    elif shape == "near" and probs.dtype == np.float64:
        labels, probs = near_ties(labels, probs, seed)
    return labels, probs


@st.composite
def cuts(draw_from, n_rows, most=6):
    """Draw runs that add up to `n_rows`, none of them empty."""
    inner = draw_from(st.sets(st.integers(1, n_rows - 1), max_size=most)) if n_rows > 1 else set()
    edges = [0, *sorted(inner), n_rows]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@contextlib.contextmanager
def pieces(strip_bytes=1000, slice_rows=7, max_candidates=2):
    """Make small data large: strips, blocks and bins of a few rows, so that every loop goes round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelsieve.job.scan, "STRIP_BYTES", strip_bytes)
        patch.setattr(labelsieve.confident_learning.thresholds, "SLICE_ROWS", slice_rows)
        # A default argument is bound early, so the constant itself would change nothing.
        find_cut = partial(labelsieve.confident_learning.select.find_cut, max_candidates=max_candidates)
        patch.setattr(labelsieve.confident_learning.select, "find_cut", find_cut)
        patch.setattr(labelsieve.confident_learning.select, "MAX_CANDIDATES", max_candidates)
        yield


def in_turn(*choices, times=1):
    """Return tuples with every choice of each list, each one `times` for the longest list: far fewer than all tuples.

    The shorter lists begin one choice later in each round of the longest, so that choices meet others each time.
    """
    longest = max(map(len, choices))
    return [
        tuple(list(values)[(i + (lap if len(values) < longest else 0)) % len(values)] for values in choices)
        for lap in range(times)
        for i in range(longest)
    ]


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


def wide(scores):
    """Return scores as float64, which holds every narrower one exactly."""
    return np.asarray(scores, dtype=np.float64)


def bits(found):
    """Return all that a run found as bytes and counts, the same for every dtype that holds the same values."""
    columns = {name: wide(column).tobytes() for name, column in found.issues.columns().items()}
    return {
        **columns,
        "all scores": wide(found.scores).tobytes(),
        "thresholds": found.confident_thresholds.tobytes(),
        "class counts": found.class_counts.tobytes(),
        "estimated": found.estimated_num_issues,
        "mask": found.mask().tobytes(),
    }


def summary_of(labels, probs):
    """Return the row summaries of arrays in memory."""
    summarizer = Summarizer(len(probs), probs.shape[1], probs.dtype)
    summarizer.add(labels, probs)
    return summarizer.take()


def few_of_many(k, n=60):
    """Return rows of six classes among `k`, some of them labelled wrongly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, n)
    probs = np.full((n, k), 0.1 / k, np.float32)
    probs[np.arange(n), np.where(rng.random(n) < 0.3, rng.integers(0, 6, n), labels)] += 0.6
    probs[np.arange(n), rng.integers(0, 6, n)] += 0.3
    return labels, probs


def n_calls(function):
    """Return how many functions `function` calls in this thread, directly or not, those of C included."""
    calls = 0

    def note(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def make_input(folder, n_rows, n_classes, *, as_zarr):
    """Write seeded predictions of a rather good model, with a twentieth of the labels wrong."""
    rng = np.random.default_rng(0)
    probs = np.lib.format.open_memmap(folder / "pred_probs.npy", mode="w+", dtype=np.float32, shape=(n_rows, n_classes))
    labels = np.empty(n_rows, np.int64)
    step = max(1, 20_000_000 // n_classes)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        n = part.stop - part.start
        probs[part], labels[part] = draw_part(rng, n, n_classes)
    probs.flush()
    np.save(folder / "labels.npy", labels)
    if as_zarr:
        rows = max(1, min(n_rows // 4, _CHUNK_BYTES // (4 * n_classes)))
        for name, array in (("labels", labels), ("pred_probs", probs)):
            chunks = (rows, *array.shape[1:])
            stored = zarr.create_array(folder / f"{name}.zarr", shape=array.shape, chunks=chunks, dtype=array.dtype)
            for start in range(0, n_rows, rows):
                stored[start : start + rows] = array[start : start + rows]
