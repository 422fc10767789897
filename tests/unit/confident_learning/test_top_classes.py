"""The confident joint by the largest probabilities: never another answer than that of whole rows."""

import numpy as np
import pytest

from draws import draw, summary_of
from labelsieve.confident_learning.joint import TOP_CLASSES, TOP_PROBS, JointCounter, TopClassCounter
from labelsieve.errors import InvalidInputError


def largest(probs, k):
    """Return the k largest probabilities of each row and their classes."""
    order = np.argsort(-probs.astype(np.float64), axis=1, kind="stable")[:, :k]
    rows = np.empty(len(probs), [(TOP_CLASSES, np.uint8, (k,)), (TOP_PROBS, probs.dtype, (k,))])
    rows[TOP_CLASSES], rows[TOP_PROBS] = order, np.take_along_axis(probs, order, axis=1)
    return rows


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(6))
def test_each_row_is_counted_as_with_whole_rows_or_refused(dtype, seed):
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 12))
    labels, probs = draw(40, n_classes, seed=seed, signal=1.0, dtype=dtype, decimals=[None, 1, 2][seed % 3])
    # Thresholds of all sizes, some of them values that occur, and one that nothing reaches.
    thresholds = np.where(rng.random(n_classes) < 0.5, rng.random(n_classes), probs[0].astype(np.float64) + 1e-6)
    thresholds[rng.integers(n_classes)] = 2.0
    summary, n_refused, n_counted = summary_of(labels, probs), 0, 0
    for k in range(1, n_classes + 1):
        rows = largest(probs, k)
        for i in range(40):
            row = slice(i, i + 1)
            want, got = (kind(thresholds, np.dtype(dtype)) for kind in (JointCounter, TopClassCounter))
            off = want.add(summary[row], probs[row]), got.add(summary[row], rows[row])
            try:
                counts, n_off = got.counts()
            except InvalidInputError:
                n_refused += 1
                assert k < n_classes
                continue
            n_counted += 1
            whole, n_whole = want.counts()
            assert off[0].tolist() == off[1].tolist()
            assert (n_off, counts.pairs.tolist(), counts.counts.tolist()) == (
                n_whole,
                whole.pairs.tolist(),
                whole.counts.tolist(),
            )
            assert counts.diagonal.tolist() == whole.diagonal.tolist()
    assert n_counted > n_refused


def test_a_row_is_refused_only_if_what_was_not_kept_could_matter():
    """Of 0.4, 0.3 and at most 0.3 in two other classes, one class is reached; each other one might be."""
    probs = np.array([[0.4, 0.3, 0.2, 0.1]])
    summary, rows = summary_of(np.array([0]), probs), largest(probs, 2)
    for thresholds, is_fine in (
        ([0.5, 0.25, 0.9, 0.9], True),
        ([0.5, 0.25, 0.9, 0.29], False),  # class 3 may have 0.3
        ([0.5, 0.25, 0.9, 0.31], True),
        ([0.5, 0.9, 0.3, 0.9], False),
        ([0.3, 0.9, 0.1, 0.1], True),  # the predicted class is reached
    ):
        counter = TopClassCounter(np.array(thresholds), np.dtype(np.float64))
        counter.add(summary, rows)
        if is_fine:
            counter.counts()
        else:
            with pytest.raises(InvalidInputError, match="the probabilities kept of 1 row are too few"):
                counter.counts()
