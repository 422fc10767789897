"""Exact class sums and issue counts, in any blocks and any order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import draws
import naive
from labelsieve.confident_learning import thresholds
from labelsieve.confident_learning.joint import confident_chunk
from labelsieve.confident_learning.thresholds import (
    ClassSums,
    IssueCounts,
    adjusted_thresholds,
    class_sums_chunk,
    class_sums_combine,
    class_sums_finalize,
    issue_counts_combine,
    issue_counts_finalize,
)


def issue_counts(summary, adj_thresholds, *, calibrated):
    class_counts = np.bincount(summary.label, minlength=len(adj_thresholds))
    return confident_chunk(summary, adj_thresholds).issue_counts(class_counts, calibrated=calibrated)


def integers(sums):
    """Return the sums in units of 2**-52 as Python ints."""
    return [(high << 26) + low for high, low in zip(sums.high.tolist(), sums.low.tolist(), strict=True)]


def by_loops(labels, p_label, n_classes):
    totals = [0] * n_classes
    for label, p in zip(labels.tolist(), p_label.tolist(), strict=True):
        totals[label] += round(Fraction(p) * 2**52)
    return totals


@pytest.mark.every_value
@pytest.mark.parametrize("slice_rows", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_class_sums_are_exact_integers(monkeypatch, slice_rows, dtype):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", slice_rows)
    rng = np.random.default_rng(1)
    labels, p = rng.integers(0, 5, 500), rng.random(500).astype(dtype)
    sums = class_sums_chunk(labels.astype(np.uint8), p, 6)
    assert by_loops(labels, p, 6) == integers(sums)
    assert naive.class_counts(labels.tolist(), 6) == sums.counts.tolist()
    assert sums.counts.dtype == sums.high.dtype == sums.low.dtype == np.int64


def test_class_sums_are_exact_for_negatives_tiny_values_halves_and_values_above_1():
    half = 2.0**-53  # halfway between two units: rounds to even
    p = np.array(
        [-1e-3, -0.0, 5e-324, -half, half, 3 * half, -3 * half, 5 * half, 1.001, 1.0 - half, 1e-300, 2.0**-52, -1e-17]
    )
    labels = np.arange(len(p)) % 3
    assert by_loops(labels, p, 3) == integers(class_sums_chunk(labels, p, 3))
    for value in p.tolist():  # and each alone, so that no error hides behind another
        assert [naive.units(value)] == integers(class_sums_chunk(np.array([0]), np.array([value]), 1))


@pytest.mark.parametrize("value", [np.nextafter(1.001, 2), -1e-3, np.nextafter(1, 0), 2.0**-40])
def test_class_sums_of_a_whole_block_of_the_largest_and_lowest_values_are_exact(value):
    n = thresholds.SLICE_ROWS + 3
    sums = class_sums_chunk(np.zeros(n, np.uint8), np.full(n, value), 2)
    assert [n * naive.units(float(value)), 0] == integers(sums)
    assert sums.counts.tolist() == [n, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e-3, 1.001)), min_size=1, max_size=40), st.randoms())
def test_class_sums_commute(rows, random):
    labels, p = np.array([label for label, _ in rows]), np.array([p for _, p in rows])
    want = class_sums_chunk(labels, p, 4)
    singles = [class_sums_chunk(labels[i : i + 1], p[i : i + 1], 4) for i in range(len(p))]
    random.shuffle(singles)
    while len(singles) > 1:  # a random tree
        at = random.randrange(len(singles) - 1)
        singles[at : at + 2] = [class_sums_combine(singles[at : at + 2])]
    for name in ("counts", "high", "low"):
        assert getattr(want, name).tobytes() == getattr(singles[0], name).tobytes()
    assert by_loops(labels, p, 4) == integers(want)


def test_combining_leaves_the_parts_as_they_were():
    part = class_sums_chunk(np.array([0, 1]), np.array([0.5, 0.25]), 2)
    total = class_sums_combine([part, part, ClassSums.zeros(2)])
    assert total.counts.tolist() == [2, 2]
    assert part.counts.tolist() == [1, 1]
    assert integers(part) == [n // 2 for n in integers(total)]
    counts = IssueCounts(1, np.ones((3, 2), np.int64))
    assert issue_counts_combine([counts, counts]).per_label.tolist() == [[2, 2]] * 3
    assert counts.per_label.tolist() == [[1, 1]] * 3
    assert counts.off_diagonal == 1


def test_thresholds_are_means_with_a_floor_and_2_for_absent_classes():
    labels, p = np.array([0, 0, 1, 3]), np.array([0.5, 0.25, 1e-9, -1e-3])
    got = class_sums_finalize(class_sums_chunk(labels, p, 5))
    assert got.tolist() == [0.375, 2e-6, 2.0, 2e-6, 2.0]
    assert got.dtype == np.float64


def test_a_threshold_is_the_correctly_rounded_mean():
    p = np.random.default_rng(2).random(1001)
    got = class_sums_finalize(class_sums_chunk(np.zeros(1001, int), p, 1))
    assert float(sum(Fraction(naive.units(q)) for q in p.tolist()) / 1001 / 2**52) == got[0]


def test_sums_of_many_rows_do_not_overflow():
    # 2**36 rows of probability 1: what int64 partials have to hold.
    full = ClassSums(np.array([1 << 36]), np.array([1 << 62]), np.array([0]))
    assert class_sums_finalize(full).tolist() == [1.0]


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("slice_rows", [1, 7, 1 << 16])
@pytest.mark.parametrize("count", naive.COUNTS)
def test_counts_agree_with_loops(monkeypatch, dtype, slice_rows, count):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", slice_rows)
    labels, probs = draws.draw(300, 4, signal=1.0, noise=0.4, seed=5, dtype=dtype, decimals=2)
    rows = naive.plain(labels, probs)
    cuts = naive.thresholds(*rows)
    counts = issue_counts(
        draws.summary_of(labels, probs), adjusted_thresholds(np.array(cuts)), calibrated=count != "off_diagonal"
    )
    assert naive.num_issues(*rows, cuts, count) == issue_counts_finalize(counts)
    assert naive.num_issues(*rows, cuts, "off_diagonal") == counts.off_diagonal


def test_a_row_is_confident_up_to_1e_6_below_the_threshold():
    cut = 0.6
    low = np.float64(cut) - 1e-6
    top = np.array([low, np.nextafter(low, 0), cut, 0.9])
    probs = np.stack([top, 1 - top], axis=1)
    counts = issue_counts(
        draws.summary_of(np.ones(4, int), probs), adjusted_thresholds(np.array([cut, 0.5])), calibrated=True
    )
    assert counts.off_diagonal == 3
    assert counts.per_label.tolist() == [[0, 4], [0, 3], [0, 3]]


def test_counts_of_parts_add_up_in_any_cut():
    labels, probs = draws.draw(200, 5, signal=1.0, seed=6)
    adjusted = adjusted_thresholds(np.full(5, 0.4))
    want = issue_counts(draws.summary_of(labels, probs), adjusted, calibrated=True)
    for step in (1, 13, 150):
        parts = [
            issue_counts(draws.summary_of(labels[i : i + step], probs[i : i + step]), adjusted, calibrated=True)
            for i in range(0, 200, step)
        ]
        got = issue_counts_combine(parts)
        assert want.off_diagonal == got.off_diagonal
        assert want.per_label.tolist() == got.per_label.tolist()


@pytest.mark.parametrize(
    ("n", "m", "q", "want"),
    [
        ([10, 4], [5, 2], [1, 1], 4),
        ([10, 4], [0, 0], [0, 0], 0),  # no confident row: nothing is divided by 0
        ([5, 1], [2, 1], [1, 0], 2),  # 2.5 rounds to even
        ([7, 1], [2, 1], [1, 0], 4),  # 3.5 too
    ],
)
def test_the_calibrated_count_scales_by_all_over_confident_rows(n, m, q, want):
    assert want == issue_counts_finalize(IssueCounts(sum(q), np.array([n, m, q], np.int64)))


def test_the_plain_count_needs_no_calibration():
    assert issue_counts_finalize(IssueCounts(17, None)) == 17


@pytest.mark.parametrize("n_rows", [0, 1, 6, 7, 8, 21])
def test_blocks_cover_all_rows_in_order(monkeypatch, n_rows):
    monkeypatch.setattr(thresholds, "SLICE_ROWS", 7)
    cut = [list(range(n_rows)[block]) for block in thresholds.row_slices(n_rows)]
    assert list(range(n_rows)) == [row for rows in cut for row in rows]
    assert all(1 <= len(rows) <= 7 for rows in cut)
