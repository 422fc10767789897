"""The exact lowest scores: digits, cuts, ties and order."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive
from labelsieve.confident_learning import select as radix_select
from labelsieve.confident_learning import thresholds
from labelsieve.confident_learning.select import Cut, find_cut, ordered_bits, rows_up_to, score_histogram, tie_quotas
from labelsieve.confident_learning.thresholds import near_predicted

FLOATS = [np.float16, np.float32, np.float64]


def lowest_in_rounds(scores, count, max_candidates):
    """Return the lowest rows and how many radix rounds it took."""
    rounds = []

    def histogram_within(cut):
        rounds.append(cut)
        return score_histogram(scores, cut)

    n_bits = 8 * scores.dtype.itemsize
    cut = find_cut(score_histogram(scores), count, n_bits, histogram_within, max_candidates)
    rows = rows_up_to(scores, cut, None if cut.shift else count - cut.below)
    return rows[radix_select.lowest_first(scores[rows], count)].tolist(), cut, len(rounds)


@pytest.mark.parametrize("dtype", FLOATS)
def test_ordered_bits_order_like_the_scores(dtype):
    info = np.finfo(dtype)
    values = np.unique(
        np.concatenate(
            [
                np.random.default_rng(1).normal(size=200),
                [-1.5, -1, -info.smallest_subnormal, 0, info.smallest_subnormal, info.tiny, 0.5, 1, 1.001, info.max],
                np.nextafter(dtype(1), dtype([0, 2])),
            ]
        ).astype(dtype)
    )
    bits = ordered_bits(values)
    assert (np.diff(values) > 0).all()
    assert bits.dtype.kind == "u"
    assert (bits[1:] > bits[:-1]).all()


def test_ordered_bits_of_every_finite_float16_are_distinct_and_ascending():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.sort(every[np.isfinite(every) & ~(np.signbit(every) & (every == 0))])
    bits = ordered_bits(finite)
    assert (bits[1:] > bits[:-1]).all()


@given(st.lists(st.floats(-1, 2, allow_subnormal=True), min_size=2, max_size=2))
def test_ordered_bits_compare_like_floats(pair):
    a, b = ordered_bits(np.array(pair) + 0.0).tolist()
    assert (pair[0] < pair[1]) == (a < b)
    assert (pair[0] == pair[1]) == (a == b)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("slice_rows", [3, 1 << 16])
def test_a_histogram_counts_each_score_in_the_bin_of_its_leading_bits(monkeypatch, dtype, slice_rows):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", slice_rows)
    scores = np.random.default_rng(2).random(300).astype(dtype)
    digits = [int(b) >> (8 * scores.dtype.itemsize - 13) for b in ordered_bits(scores)]
    want = [digits.count(digit) for digit in range(1 << 13)]
    assert want == score_histogram(scores).tolist()


def test_a_histogram_within_a_cut_splits_only_that_bin():
    scores = np.random.default_rng(3).random(4000)
    cut = radix_select.next_cut(score_histogram(scores), 2000, 64)
    inside = [int(b) for b in ordered_bits(scores) if int(b) >> cut.shift == cut.prefix]
    histogram = score_histogram(scores, cut)
    digits = [(b >> (cut.shift - 13)) & 8191 for b in inside]
    assert cut.inside == len(inside) == radix_select.count_inside(scores, cut) == histogram.sum()
    assert [digits.count(digit) for digit in range(1 << 13)] == histogram.tolist()


def test_the_last_digit_of_a_cut_may_be_short():
    scores = np.array([0.5, 0.25, 0.5], np.float16)  # 16 bits: digits of 13 and 3
    cut = radix_select.next_cut(score_histogram(scores), 2, 16)
    assert cut.shift == 3
    assert score_histogram(scores, cut).shape == (8,)


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("max_candidates", [1, 2, 10, 1000])
@pytest.mark.parametrize("decimals", [1, 3, 17])
def test_find_cut_goes_down_to_a_bin_small_enough_or_a_single_value(dtype, max_candidates, decimals):
    scores = np.round(np.random.default_rng(4).random(500), decimals).astype(dtype)
    for count in (1, 2, 17, 250, 499, 500):
        rows, cut, _ = lowest_in_rounds(scores, count, max_candidates)
        assert naive.ranked(scores.tolist(), count) == rows
        assert cut.below < count <= cut.below + cut.inside
        assert cut.inside <= max_candidates or cut.shift == 0


def test_find_cut_takes_as_many_rounds_as_digits_where_scores_are_almost_the_same():
    scores = 0.5 + np.arange(40) * 2.0**-53
    rows, cut, rounds = lowest_in_rounds(scores, 20, 1)
    assert list(range(20)) == rows
    assert (cut.shift, cut.inside, rounds) == (0, 1, 4)  # 64 bits: the first histogram and four more


def test_find_cut_asks_for_no_histogram_where_the_first_bin_is_small():
    scores = np.linspace(0, 1, 50)
    _, cut, rounds = lowest_in_rounds(scores, 3, 50)
    assert rounds == 0
    assert cut.shift == 51


def test_find_cut_in_digits_works_for_negative_scores_too():
    scores = np.random.default_rng(5).normal(size=300)
    rows, _, rounds = lowest_in_rounds(scores, 120, 1)
    assert naive.ranked(scores.tolist(), 120) == rows
    assert rounds


@pytest.mark.parametrize(
    ("ties", "wanted", "quotas"),
    [
        ([3, 0, 2, 4], 0, [0, 0, 0, 0]),
        ([3, 0, 2, 4], 2, [2, 0, 0, 0]),
        ([3, 0, 2, 4], 4, [3, 0, 1, 0]),
        ([3, 0, 2, 4], 9, [3, 0, 2, 4]),
        ([], 0, []),
    ],
)
def test_tie_quotas_go_to_lower_rows_first(ties, wanted, quotas):
    assert quotas == tie_quotas(ties, wanted)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_settled_ties_are_the_value_of_the_last_row_that_is_taken(n_parts):
    scores = np.round(np.random.default_rng(8).random(60), 1)
    parts = [radix_select.Ties.of(part) for part in np.array_split(scores, n_parts)]
    everything = Cut(0, 64, below=0, inside=60)
    for wanted in range(1, 61):  # also where a run of ties ends just there, and after all rows
        last = sorted(scores.tolist())[wanted - 1]
        below, tied = int(np.sum(scores < last)), int(np.sum(scores == last))
        exact, quotas = radix_select.find_exact_cut(everything, wanted, parts)
        assert exact == Cut(int(ordered_bits(np.array([last]))[0]), 0, below, tied)
        assert quotas == tie_quotas([int(np.sum(p == last)) for p in np.array_split(scores, n_parts)], wanted - below)


@pytest.mark.parametrize("slice_rows", [1, 3, 1 << 16])
def test_rows_up_to_a_cut_keep_the_first_ties_only(monkeypatch, slice_rows):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", slice_rows)
    scores = np.array([0.5, 0.1, 0.5, 0.9, 0.5, 0.1, 0.5])
    cut = Cut(int(ordered_bits(np.array([0.5]))[0]), 0, below=2, inside=4)
    assert rows_up_to(scores, cut).tolist() == [0, 1, 2, 4, 5, 6]
    assert rows_up_to(scores, cut, 0).tolist() == [1, 5]
    assert rows_up_to(scores, cut, 2).tolist() == [0, 1, 2, 5]
    assert rows_up_to(scores, cut, 3).tolist() == [0, 1, 2, 4, 5]
    assert rows_up_to(scores[:0], cut, 3).tolist() == []


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("decimals", [1, 3, 12])
@pytest.mark.parametrize("n_rows", [0, 1, 2, 70_000])
def test_lowest_first_is_a_stable_sort(dtype, decimals, n_rows):
    scores = np.random.default_rng(n_rows).uniform(-0.5, 1.1, n_rows).round(decimals).astype(dtype) + dtype(0)
    want = np.argsort(scores, kind="stable")
    for count in (0, 1, n_rows // 2, n_rows):
        assert want[:count].tolist() == radix_select.lowest_first(scores, count).tolist()


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("decimals", [0, 1, 17])
@pytest.mark.parametrize("max_candidates", [1, 1 << 18])
def test_lowest_is_ordered_by_score_and_row(monkeypatch, dtype, decimals, max_candidates):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", 11)
    monkeypatch.setattr(radix_select, "find_cut", partial(find_cut, max_candidates=max_candidates))
    scores = np.round(np.random.default_rng(6).random(200), decimals).astype(dtype)
    for count in (0, 1, 99, 200, 1000):
        got = radix_select.lowest_rows(scores, count)
        assert naive.ranked(scores.tolist(), count) == got.tolist()
        assert got.dtype == np.int64


def test_lowest_of_nothing_is_nothing():
    assert radix_select.lowest_rows(np.empty(0), 5).tolist() == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_near_predicted_agrees_with_loops(dtype):
    rng = np.random.default_rng(7)
    top = rng.random(400) * 0.5 + 0.4
    probs = np.stack([top, top - rng.choice([0, 5e-7, 1e-6, 2e-6, 0.1], 400), np.full(400, 0.3)], axis=1)
    probs = rng.permuted(probs, axis=1).astype(dtype)
    labels, rows = naive.plain(rng.integers(0, 3, 400), probs)
    predicted = [naive.first_argmax(row) for row in rows]
    at = np.arange(400)
    got = near_predicted(np.array(labels), np.array(predicted), probs[at, labels], probs[at, predicted])
    assert [naive.near_predicted(label, row) for label, row in zip(labels, rows, strict=True)] == got.tolist()


def test_near_predicted_at_exactly_1e_6_goes_by_the_lower_class():
    given_p = 0.25
    top = given_p + 1e-6  # the very sum that the rule compares
    labels, predicted = np.array([0, 1]), np.array([1, 0])
    got = near_predicted(labels, predicted, np.full(2, given_p), np.full(2, top))
    assert [naive.near_predicted(0, [given_p, top]), naive.near_predicted(1, [top, given_p])] == got.tolist()
    assert got.tolist() == [True, False]
