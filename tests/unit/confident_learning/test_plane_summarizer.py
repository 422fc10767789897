"""Strips of planes: the summaries and findings of the same rows in C order."""

import numpy as np
import pytest

from draws import draw
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import PlaneSummarizer, PlaneValues, Summarizer

DAMAGE = {
    "none": lambda probs: None,
    "ties": lambda probs: probs.__setitem__(slice(None, None, 3), 1 / probs.shape[1]),
    "NaN": lambda probs: probs.__setitem__((70, 1), np.nan),
    "below": lambda probs: probs.__setitem__((5, 0), -0.2),
    "minus zero": lambda probs: probs.__setitem__((slice(None, None, 2), 0), -0.0),
    "above": lambda probs: probs.__setitem__((slice(20, 30), 1), 1.5),
    "zeros": lambda probs: probs.__setitem__(slice(9, 12), 0),
    "low": lambda probs: probs.__setitem__(slice(40, 90), probs[40:90] / 2),
}


def summaries(kind, labels, probs, settings, ignored):
    summarizer = kind(300, probs.shape[1], probs.dtype.newbyteorder("="), settings, 1000, ignored=ignored)
    for rows in (slice(0, 77), slice(77, 300)):
        summarizer.add(labels[rows], probs[rows])
    return summarizer.take(), summarizer.totals()


def planes_of(probs):
    """Return the rows as a view of planes that are farther apart than they are long."""
    wide = np.zeros((probs.shape[1], len(probs) + 13), probs.dtype)
    wide[:, 5 : 5 + len(probs)] = probs.T
    return wide[:, 5 : 5 + len(probs)].T


@pytest.mark.every_pair
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("n_classes", [2, 33, 64, 65])
def test_planes_have_the_summaries_of_rows(n_classes, dtype, damage):
    labels, probs = draw(300, n_classes, seed=n_classes, signal=1.0)
    probs = probs.astype(dtype)
    DAMAGE[damage](probs)
    labels[3] = 99
    methods = ("normalized_margin", "confidence_weighted_entropy", "logit_margin")
    for method, ignored in (("self_confidence", None), *((method, 99) for method in methods)):
        with np.errstate(invalid="ignore", divide="ignore"):
            want = summaries(Summarizer, labels, probs, Settings(method), ignored)
            for strip in (planes_of(probs), probs):
                got = summaries(PlaneSummarizer, labels, strip, Settings(method), ignored)
                for name, column in want[0].columns().items():
                    assert got[0].columns()[name].tobytes() == column.tobytes(), name
                assert repr(got[1].findings) == repr(want[1].findings)  # NaN is not itself
                assert got[1].agreement == want[1].agreement


def test_values_of_planes():
    rng = np.random.default_rng(0)
    rows = planes_of(rng.random((50, 7)))
    columns = rng.integers(0, 7, 50)
    np.testing.assert_array_equal(PlaneValues(7).values(rows, columns), rows[np.arange(50), columns])
