"""The rows of largest margin of each pair, and what summaries alone say about them."""

import numpy as np
import pytest

import draws
from labelsieve.confident_learning.joint import PruneCounts
from labelsieve.confident_learning.select import (
    CandidatePool,
    Candidates,
    MarginSearch,
    largest,
    margins_to_reach,
    predicted_candidates,
)

K = 5


def wanted(n_rows, *, labels=range(K)):
    """Return counts of all pairs of some labels, `n_rows` of each."""
    edges = np.cumsum([0, *(K - 1 if k in labels else 0 for k in range(K))])
    classes = np.concatenate([[j for j in range(K) if j != k] for k in labels]).astype(np.uint8)
    return PruneCounts(np.zeros(K, np.int64), edges, classes, np.full(len(classes), n_rows))


def naive(labels, probs, prune):
    """Return pairs and rows of the largest margins, of ties the first rows."""
    found = []
    for pair, (j, n_rows) in enumerate(zip(prune.classes.tolist(), prune.by_pair.tolist(), strict=True)):
        k = int(np.searchsorted(prune.edges, pair, "right")) - 1
        rows = np.flatnonzero(labels == k)
        margins = probs[rows, j].astype(np.float64) - probs[rows, k]
        best = sorted(zip(-margins, rows.tolist(), strict=True))[:n_rows]
        found += [(pair, row) for _, row in sorted(best, key=lambda one: one[1])]
    return found


def searched(labels, probs, prune, least):
    pool = CandidatePool(MarginSearch(prune, least))
    pool.add(draws.summary_of(labels, probs), probs, 0)
    found = pool.candidates()
    return list(zip(found.pairs.tolist(), found.rows.tolist(), strict=True)), found


@pytest.mark.every_pair
@pytest.mark.parametrize("n_rows", [1, 3, 10, 60])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_summaries_leave_out_is_never_selected(n_rows, decimals, dtype):
    labels, probs = draws.draw(400, K, noise=0.5, seed=n_rows, decimals=decimals, dtype=dtype)
    prune = wanted(n_rows, labels=[0, 1, 3])
    # As of two chunks: what each shows is joined.
    shown = [predicted_candidates(draws.summary_of(labels[a], probs[a]), prune) for a in (slice(150), slice(150, 400))]
    joined = largest(shown, prune.by_pair)
    assert np.bincount(joined.pairs, minlength=len(prune.classes)).max() <= n_rows
    reached = margins_to_reach(joined, prune.by_pair)
    everything, _ = searched(labels, probs, prune, np.full(len(prune.by_pair), -np.inf))
    some, found = searched(labels, probs, prune, reached)
    assert some == everything == naive(labels, probs, prune)
    assert (found.margins > reached[found.pairs]).all()
    if n_rows == 1:
        assert np.isfinite(reached).all()  # so that the test shows something
    if n_rows == 60:
        assert np.isneginf(reached).any()


def test_rows_of_other_pairs_show_nothing():
    labels, probs = draws.draw(50, K, noise=0.5)
    none = PruneCounts(np.zeros(K, np.int64), np.zeros(K + 1, np.int64), np.empty(0, np.uint8), np.empty(0, np.int64))
    found = predicted_candidates(draws.summary_of(labels, probs), none)
    assert (len(found), len(Candidates.none())) == (0, 0)
