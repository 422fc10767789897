"""Scores of a strip against loops, for every dtype and layout."""

import math

import numpy as np
import pytest

import draws
import naive
from labelsieve.confident_learning import scores as quality_scores
from labelsieve.confident_learning.scores import Settings

FLOATS = [np.float16, np.float32, np.float64]
CLASSES = [2, 3, quality_scores._FEW_CLASSES, quality_scores._FEW_CLASSES + 1, 40]


def loops(labels, probs, method, adjust=False, cuts=None):
    return naive.scores(*naive.plain(labels, probs), method, adjust, cuts)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", CLASSES)
def test_normalized_margin_is_exact(dtype, n_classes):
    labels, probs = draws.draw(150, n_classes, seed=1, dtype=dtype)
    before = probs.tobytes()
    got = quality_scores.normalized_margin(probs, labels)
    assert loops(labels, probs, "normalized_margin") == got.tolist()
    assert got.dtype == np.float64
    assert before == probs.tobytes()


def test_normalized_margin_of_two_rows_by_hand():
    probs = np.array([[0.75, 0.125, 0.125], [0.5, 0.5, 0.0]])
    assert quality_scores.normalized_margin(probs, np.array([0, 1])).tolist() == [0.8125, 0.5]
    assert quality_scores.normalized_margin(probs, np.array([2, 2])).tolist() == [0.1875, 0.25]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", CLASSES)
def test_logit_margin_is_exact(dtype, n_classes):
    labels, probs = draws.draw(150, n_classes, seed=1, dtype=dtype)
    before = probs.tobytes()
    got = quality_scores.logit_margin(probs, labels)
    assert loops(labels, probs, "logit_margin") == got.tolist()
    assert got.dtype == np.float64
    assert before == probs.tobytes()


def test_logit_margin_has_the_order_of_differences_of_logits():
    rng = np.random.default_rng(2)
    logits, labels = 3 * rng.standard_normal((500, 6)), rng.integers(0, 6, 500)
    others = logits.copy()
    others[np.arange(500), labels] = -np.inf
    margins = logits[np.arange(500), labels] - others.max(axis=1)
    got = quality_scores.logit_margin(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)
    assert np.argsort(margins).tolist() == np.argsort(got).tolist()
    np.testing.assert_allclose(1 / (1 + np.exp(-margins)), got, rtol=1e-12)


def test_logit_margin_of_rows_by_hand():
    probs = np.array([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    for label, want in enumerate([[0.75, 0.5, 1 / 3], [0.25, 0.5, 2 / 3], [1e-30 / 0.75, 2e-30, 1 / 3]]):
        assert quality_scores.logit_margin(probs, np.full(3, label)).tolist() == want


def test_what_is_not_above_0_counts_as_the_least_probability():
    probs = np.array([[0.0, 1.0], [-0.0, 1.0], [-0.0005, 1.0], [1e-40, 1.0], [0.0, 0.0], [-0.0, -0.0005]])
    low, high = (
        quality_scores.logit_margin(probs, np.zeros(6, int)),
        quality_scores.logit_margin(probs, np.ones(6, int)),
    )
    assert low.tolist() == [1e-30, 1e-30, 1e-30, 1e-30, 0.5, 0.5]
    assert high.tolist() == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", CLASSES)
def test_confidence_weighted_entropy_agrees_with_loops(dtype, n_classes):
    labels, probs = draws.draw(150, n_classes, seed=2, dtype=dtype, decimals=2)
    got = quality_scores.confidence_weighted_entropy(probs, labels)
    np.testing.assert_allclose(loops(labels, probs, "confidence_weighted_entropy"), got, rtol=1e-12, atol=1e-13)
    assert got.dtype == np.float64


def test_entropy_of_certain_and_even_rows_by_hand():
    probs = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    sure, wrong, even = quality_scores.confidence_weighted_entropy(probs, np.array([0, 1, 0])).tolist()
    assert (sure, wrong) == (0.0, 0.0)  # no entropy, so cleanlab's bound on the denominator makes the score 0
    assert even == math.log(3) / 2


def test_entropy_clips_what_lies_a_little_outside():
    outside, inside = np.array([[1.0005, -0.0005]]), np.array([[1.0, 0.0]])
    for label in (0, 1):
        got = quality_scores.confidence_weighted_entropy(outside, np.array([label]))
        assert quality_scores.confidence_weighted_entropy(inside, np.array([label])).tolist() == got.tolist()


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("absent", [False, True])
def test_adjusted_scores_agree_with_loops(dtype, n_classes, absent):
    labels, probs = draws.draw(150, n_classes, seed=3, dtype=dtype)
    if absent:
        labels = labels % (n_classes - 1)  # the last class has threshold 2, which is part of the shift
    cuts = naive.thresholds(*naive.plain(labels, probs))
    assert (cuts[-1] == 2.0) == absent
    margin = quality_scores.adjusted_margin(probs, labels, np.array(cuts))
    np.testing.assert_allclose(loops(labels, probs, "normalized_margin", True, cuts), margin, rtol=1e-12, atol=1e-14)
    given = probs[np.arange(150), labels]
    confidence = quality_scores.adjusted_self_confidence(
        given, labels, quality_scores.row_sum(probs, labels), np.array(cuts)
    )
    np.testing.assert_allclose(loops(labels, probs, "self_confidence", True, cuts), confidence, rtol=1e-12, atol=1e-14)
    assert margin.dtype == confidence.dtype == np.float64


def test_a_row_without_any_mass_gets_a_finite_adjusted_score():
    probs, labels, cuts = np.zeros((1, 3)), np.array([1]), np.full(3, 0.4)
    assert quality_scores.adjusted_margin(probs, labels, cuts).tolist() == [0.5]
    sums = quality_scores.row_sum(probs, labels)
    assert quality_scores.adjusted_self_confidence(probs[:, 1], labels, sums, cuts).tolist() == [0.0]


def test_a_row_whose_sum_is_a_little_negative_agrees_with_loops():
    probs, labels, cuts = np.array([[2.0**-12, -(2.0**-10)]] * 2), np.array([0, 1]), [0.5, 0.5]
    want = loops(labels, probs, "self_confidence", True, cuts)
    sums = quality_scores.row_sum(probs, labels)
    assert want == quality_scores.adjusted_self_confidence(probs[0], labels, sums, np.array(cuts)).tolist()
    margins = loops(labels, probs, "normalized_margin", True, cuts)
    assert margins == quality_scores.adjusted_margin(probs, labels, np.array(cuts)).tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_row_sums_are_sums_of_float64(dtype):
    labels, probs = draws.draw(100, 9000, seed=4, dtype=dtype)
    want = np.array([row.astype(np.float64).sum() for row in probs])
    assert want.tobytes() == quality_scores.row_sum(probs, labels).tobytes()


@pytest.mark.parametrize("n_classes", [2, 7, 8, 9, 129, 9000])
@pytest.mark.parametrize(
    "kernel", ["row_sum", "normalized_margin", "logit_margin", "confidence_weighted_entropy", "adjusted_margin"]
)
def test_a_score_does_not_depend_on_layout_dtype_or_the_rows_beside_it(kernel, n_classes):
    labels, narrow = draws.draw(40, n_classes, seed=5, dtype=np.float32)
    probs = narrow.astype(np.float64)
    cuts = (np.linspace(0.1, 0.9, n_classes),) if kernel == "adjusted_margin" else ()
    function = getattr(quality_scores, kernel)
    want = function(probs, labels, *cuts)
    for form in (narrow, np.asfortranarray(probs), probs[::-1][::-1], np.repeat(probs, 2, axis=1)[:, ::2]):
        assert want.tobytes() == function(form, labels, *cuts).tobytes()
    for cut in (1, 3, 7):
        parts = [function(probs[i : i + cut], labels[i : i + cut], *cuts) for i in range(0, 40, cut)]
        assert want.tobytes() == np.concatenate(parts).tobytes()


@pytest.mark.parametrize(
    ("method", "adjust", "kernels"),
    [
        ("self_confidence", False, {}),
        ("self_confidence", True, {"row_sum": quality_scores.row_sum}),
        ("normalized_margin", False, {"score": quality_scores.normalized_margin}),
        ("normalized_margin", True, {}),
        ("confidence_weighted_entropy", False, {"score": quality_scores.confidence_weighted_entropy}),
        ("logit_margin", False, {"score": quality_scores.logit_margin}),
    ],
)
def test_a_first_read_computes_only_what_needs_no_thresholds(method, adjust, kernels):
    assert quality_scores.column_kernels(Settings(method, adjust)) == kernels


def test_adjusted_margins_are_computed_at_once_where_thresholds_are_known():
    labels, probs = draws.draw(30, 4, seed=6)
    cuts = np.array([0.4, 0.5, 0.6, 0.7])
    kernels = quality_scores.column_kernels(Settings("normalized_margin", adjust_pred_probs=True), cuts)
    assert quality_scores.adjusted_margin(probs, labels, cuts).tobytes() == kernels["score"](probs, labels).tobytes()
