"""Which rows an audit draws: strata by score, rows of each stratum, and which of its rows.

Wrong labels gather at low scores, so these are drawn more often than others. Each row has a known probability of being
drawn, which makes estimates from the drawn rows unbiased whatever the scores are worth (Horvitz & Thompson 1952).
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from labelsieve.confident_learning.dtypes import Bools, Float64s, Floats, Int64s

# Strata of scores end after these shares of the rows, from the lowest score on.
STRATUM_ENDS: Final = (0.01, 0.03, 0.1, 0.3)
# The issues and the other rows of a stratum of scores are strata of their own, numbered 2 * s and 2 * s + 1, so that
# precision and recall come from strata of known sizes.
N_STRATA: Final = 2 * (len(STRATUM_ENDS) + 1)
# The part of the budget that is shared out by size. The rest goes to the strata of scores in equal shares. With a half
# intervals were up to 1.15 times as wide as those of rows drawn from all alike where scores tell nothing; with two
# thirds up to 1.08 times, and no wider where scores are informative.
_SIZE_SHARE: Final = 2 / 3
# Rows of a stratum at least, if it has them: fewer say nothing of how rows differ.
_FEWEST: Final = 2
# Rows are counted up to some scores, for cuts that are chosen later: each has about a 50th more rows than the last.
_GRID_STEP: Final = 50
# The smallest budget that gives each stratum its fewest rows.
SMALLEST_BUDGET: Final = _FEWEST * N_STRATA
# Strata up to this size are put in a random order; in larger ones rows are drawn one by one.
_SHUFFLED_ROWS: Final = 1 << 16


def stratum_edges(scores: Floats) -> Float64s:
    """Return the highest score of each stratum of scores but the last.

    Parameters
    ----------
    scores : (n,) float
        Scores of rows, at least one, or of every k-th row: edges need not be exact, as the rows of each stratum are
        counted.

    Returns
    -------
    (4,) float64
        Ascending.
    """
    last = np.array([max(0, int(np.ceil(end * len(scores))) - 1) for end in STRATUM_ENDS])
    edges: Float64s = np.partition(scores, last)[last].astype(np.float64)
    return edges


def cut_scores(edges: Float64s, of_issues: Floats) -> Float64s:
    """Return the scores up to which precision and recall are estimated, ascending.

    Parameters
    ----------
    edges : (4,) float64
        From `stratum_edges`.
    of_issues : (n,) float
        Scores of the issues, or of every k-th one; perhaps none.
    """
    last = [max(0, int(np.ceil(quarter / 4 * len(of_issues))) - 1) for quarter in (1, 2, 3, 4)]
    return np.unique(np.concatenate([edges, np.sort(of_issues)[last if len(of_issues) else []]]))


def score_grid(scores: Floats) -> Float64s:
    """Return the scores up to which rows are counted for cuts: close to each other where they are low.

    Parameters
    ----------
    scores : (n,) float
        Scores of all rows, or of every k-th one, in any order; at least one.

    Returns
    -------
    (G,) float64
        Some of them, ascending, the first and the last included.

    Examples
    --------
    >>> grid = score_grid(np.arange(1000.0))
    >>> grid[:3].tolist(), grid[50:53].tolist(), grid[-3:].tolist()
    ([0.0, 1.0, 2.0], [50.0, 52.0, 54.0], [967.0, 987.0, 999.0])
    """
    places, place = [0], 0
    while place < len(scores) - 1:
        place = min(place + 1 + place // _GRID_STEP, len(scores) - 1)
        places.append(place)
    return np.unique(np.sort(scores)[places].astype(np.float64))


def rows_up_to(n_issues: Int64s, n_others: Int64s, stratum_rows: Int64s) -> Int64s:
    """Return how many rows of each stratum have at most some scores.

    Strata follow each other by score. So the numbers of issues and of other rows fill them one after the other.

    Parameters
    ----------
    n_issues, n_others : (C,) int64
        Issues and other rows that have at most each score.
    stratum_rows : (10,) int64
        All rows of each stratum.

    Returns
    -------
    (C, 10) int64
        Rows of each stratum.
    """
    rows = np.empty((len(n_issues), len(stratum_rows)), np.int64)
    for first, counts in enumerate((n_issues, n_others)):
        sizes = stratum_rows[first::2]
        rows[:, first::2] = np.clip(counts[:, np.newaxis] - (sizes.cumsum() - sizes), 0, sizes)
    return rows


def cut_counts(strata: Int64s, scores: Floats, cuts: Float64s) -> Int64s:
    """Return how many rows of each stratum are between each two cuts, ``(10, C + 1)``; the last ones are above all."""
    between = strata * (len(cuts) + 1) + np.searchsorted(cuts, scores, side="left")
    return np.bincount(between, minlength=N_STRATA * (len(cuts) + 1)).reshape(N_STRATA, -1)


def strata_of(scores: Floats, is_issue: Bools, edges: Float64s) -> Int64s:
    """Return the ``(n,)`` stratum of each row; -1 for rows without a label, whose score is NaN."""
    strata = 2 * np.searchsorted(edges, scores, side="left") + ~is_issue
    return np.where(np.isnan(scores), -1, strata).astype(np.int64)


def allocate(stratum_rows: Int64s, budget: int) -> Int64s:
    """Return how many rows of each stratum are drawn.

    The rows are given out one by one, always to the stratum that is furthest behind its share (Sainte-Laguë). So a
    larger budget takes no row from any stratum, and the rows of an audit can be part of a larger one.

    The equal share of a stratum of scores is divided between its issues and its other rows by the square roots of
    their numbers, so that few issues are not estimated from one or two rows.

    Parameters
    ----------
    stratum_rows : (10,) int64
        Rows of each stratum.
    budget : int
        Rows to draw, at least `SMALLEST_BUDGET`; all, if there are no more.

    Returns
    -------
    (10,) int64
        Rows to draw, at most those of the stratum.
    """
    by_score = stratum_rows.reshape(-1, 2)
    roots = np.sqrt(by_score)
    within = roots / np.maximum(roots.sum(axis=1, keepdims=True), 1)
    shares = _SIZE_SHARE * stratum_rows / stratum_rows.sum() + (1 - _SIZE_SHARE) * within.ravel() / len(by_score)
    drawn = np.minimum(_FEWEST, stratum_rows)
    behind = [(-shares[h] / (drawn[h] + 0.5), h) for h in np.flatnonzero(drawn < stratum_rows).tolist()]
    heapq.heapify(behind)
    for _ in range(min(budget, int(stratum_rows.sum())) - int(drawn.sum())):
        _, h = heapq.heappop(behind)
        drawn[h] += 1
        if drawn[h] < stratum_rows[h]:
            heapq.heappush(behind, (-shares[h] / (drawn[h] + 0.5), h))
    return drawn


def draw_ordinals(n_rows: int, n_drawn: int, seed: int, stratum: int) -> Int64s:
    """Return which rows of a stratum are drawn, without replacement, as numbers from 0 to ``n_rows - 1``.

    The first ones are the same for any `n_drawn`.

    Parameters
    ----------
    n_rows : int
        Rows of the stratum.
    n_drawn : int
        Rows to draw.
    seed : int
        Seed of the audit.
    stratum : int
        Number of the stratum: each has its own random numbers.

    Returns
    -------
    (n_drawn,) int64
        In the order in which they were drawn.
    """
    random = np.random.default_rng([seed, stratum])
    if n_rows <= _SHUFFLED_ROWS:
        order: Int64s = np.argsort(random.random(n_rows), kind="stable")[:n_drawn]
        return order
    drawn = np.empty(0, np.int64)
    while len(drawn) < n_drawn:
        # As many as there are already: where nearly all rows are drawn, most of the new ones are repetitions.
        more = (random.random(max(2 * n_drawn - len(drawn), len(drawn)) + 16) * n_rows).astype(np.int64)
        drawn = np.concatenate([drawn, more])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # without repetitions, in order
    return drawn[:n_drawn]
