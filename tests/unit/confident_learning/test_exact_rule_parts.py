"""The parts of the exact rule, each against its naive twin: joint, class cuts, margins of pairs, calibration."""

import tracemalloc

import numpy as np
import pytest
from cleanlab.count import calibrate_confident_joint
from cleanlab.filter import _keep_at_least_n_per_class

import draws
import naive
import naive_joint
from labelsieve.confident_learning import joint as calibration
from labelsieve.confident_learning import joint as confident_joint
from labelsieve.confident_learning import joint as pruning
from labelsieve.confident_learning import select as radix_select_by_class
from labelsieve.confident_learning import select as top_k_by_pair
from labelsieve.confident_learning.joint import ConfidentCounts, PairCounter
from labelsieve.confident_learning.select import Candidates, ClassCuts, ClassTies
from labelsieve.confident_learning.thresholds import pair_dtype, smallest_at_least
from labelsieve.job import kept as totals

DTYPES = [np.float16, np.float32, np.float64]


# Classes of the joint ----------------------------------------------------------------------------------------------


def strip(k, dtype, seed=0, n=300):
    """Return labels and probabilities of which many are at a threshold, just below it, 0, or slightly negative."""
    rng = np.random.default_rng(seed)
    labels, probs = draws.draw(n, k, seed=seed, signal=1.0, dtype=np.float64)
    thresholds = rng.choice([0.3, 0.4, 0.5, 2.0], k)
    thresholds[rng.integers(k)] = rng.choice([2e-6, 0.05])
    bars = thresholds - 1e-6
    at = rng.random(probs.shape) < 3 / k
    steps = rng.choice([-1e-5, -1e-7, -1e-12, 0, 1e-12, 1e-5], probs.shape)
    probs = np.where(at, np.minimum(bars + steps, 1), probs).astype(dtype)
    probs[rng.random(probs.shape) < 0.01] = rng.choice([0.0, -0.0, -9e-4, 1.0009])
    return labels, probs, thresholds


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 3, 32, 33, 40, 100])
@pytest.mark.parametrize("most_rows", [0.0, 0.4, 1.1])
def test_each_row_counts_as_loops_count_it(monkeypatch, dtype, k, most_rows):
    monkeypatch.setattr(confident_joint, "_MOST_ROWS", most_rows)
    for seed in range(4):
        labels, probs, thresholds = strip(k, dtype, seed)
        assigner = confident_joint.JointAssigner(thresholds, np.dtype(dtype))
        classes, counted = assigner.assign(draws.summary_of(labels, probs), probs)
        want = [naive_joint.counted_as([p + 0.0 for p in row], thresholds.tolist()) for row in probs.tolist()]
        assert want == [int(c) if some else None for c, some in zip(classes, counted, strict=True)]
        assert len(set(want)) > 1


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9])
def test_flags_that_fill_no_word_are_counted_too(n):
    # The mask is searched in words of eight flags; what an earlier, longer strip has left behind must not count.
    thresholds = np.full(41, 0.02)
    thresholds[7] = 0.5
    assigner = confident_joint.JointAssigner(thresholds, np.dtype(np.float32))
    for rows in (10, n):
        probs = np.full((rows, 41), 0.01, np.float32)
        probs[:, 40] = 0.03
        probs[:, 3] = 0.025 if rows == 10 else 0.01
        summary = draws.summary_of(np.zeros(rows, int), probs)
        summary.predicted[:] = 7  # which is not reached, so that all classes are compared
        classes, counted = assigner.assign(summary, probs)
        assert counted.all()
        assert set(classes.tolist()) == ({7} if rows == 10 else {40})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_number_that_is_no_less(dtype):
    values = np.random.default_rng(0).uniform(1e-6, 1, 2000)
    values[:3] = [1e-6, 0.5, 1.999999]
    found = smallest_at_least(values, np.dtype(dtype))
    assert found.dtype == dtype
    assert (found.astype(np.float64) >= values).all()
    below = np.nextafter(found, dtype(0)).astype(np.float64)
    assert (below < values).all()


# Cuts of classes -----------------------------------------------------------------------------------------------------


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [8, 1 << 18])
@pytest.mark.parametrize("max_candidates", [0, 3, 1000])
def test_the_lowest_of_each_class_are_taken_in_any_cut(monkeypatch, dtype, bins, max_candidates):
    monkeypatch.setattr(radix_select_by_class, "_BINS", bins)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        k, n = int(rng.integers(2, 6)), int(rng.integers(1, 60))
        labels = rng.integers(0, k, n).astype(np.uint8)
        scores = (rng.integers(-2, 8, n) / rng.choice([7, 8])).astype(dtype) + dtype(0)
        wanted = rng.integers(-1, 10, k)
        want = sorted(
            row
            for c in range(k)
            for row in sorted(np.flatnonzero(labels == c), key=lambda i: (scores[i], i))[: max(0, wanted[c])]
        )
        ranges = np.split(np.arange(n), np.sort(rng.integers(0, n + 1, 3)))
        cuts = ClassCuts.open(wanted, np.bincount(labels, minlength=k), 8 * scores.dtype.itemsize)
        cuts = radix_select_by_class.find_cuts(
            cuts,
            lambda cuts, y=labels, s=scores, ranges=ranges: sum(
                radix_select_by_class.class_histogram(y[rows], s[rows], cuts) for rows in ranges
            ),
            max_candidates,
        )
        exact = radix_select_by_class.find_exact_cuts(
            cuts, [ClassTies.of(labels[rows], scores[rows], cuts) for rows in ranges]
        )
        got = []
        for item, rows in enumerate(ranges):
            left = np.where(exact.last_chunk == item, exact.quotas, 0)
            for block in np.array_split(rows, 2):
                got += block[exact.rows(labels[block], scores[block], item, left)].tolist()
        assert want == got


# Margins of pairs ----------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("few_pairs", [0, 4096])
@pytest.mark.parametrize("n_pairs", [3, 70_000])
def test_the_largest_margins_are_kept_with_the_lower_of_tied_rows(monkeypatch, few_pairs, n_pairs):
    monkeypatch.setattr(top_k_by_pair, "_FEW_PAIRS", few_pairs)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pairs = rng.choice([0, 1, n_pairs - 1], 50).astype(np.uint32)
        values = rng.choice([-0.5, -0.1, 0.0, 0.25, 0.5], 50)
        wanted = np.ones(n_pairs, np.int64)
        wanted[[0, 1, n_pairs - 1]] = rng.integers(1, 25, 3)
        want = sorted(
            (pair, row)
            for pair in (0, 1, n_pairs - 1)
            for row in sorted(np.flatnonzero(pairs == pair), key=lambda i: (-values[i], i))[: wanted[pair]]
        )
        parts = [
            Candidates(pairs[some], values[some], some, len(some)) for some in np.split(np.arange(50), [10, 11, 30])
        ]
        some = top_k_by_pair.largest(parts[:2], wanted)
        found = top_k_by_pair.largest([some, *parts[2:]], wanted)
        assert want == list(zip(found.pairs.tolist(), found.rows.tolist(), strict=True))
        assert found.n_read == 50
        least = top_k_by_pair.margins_to_exceed(found, wanted)
        for pair in (0, 1, n_pairs - 1):
            own = found.margins[found.pairs == pair]
            assert least[pair] == (own.min() if len(own) == wanted[pair] else -np.inf)
        assert (least[2 : n_pairs - 1] == -np.inf).all()


# The joint -----------------------------------------------------------------------------------------------------------


def drawn_joint(k, seed, mean):
    rng = np.random.default_rng(seed)
    matrix = rng.poisson(mean, (k, k))
    np.fill_diagonal(matrix, np.maximum(1, rng.poisson(20, k)))
    sizes = (matrix.sum(axis=1) * rng.uniform(1, 2, k)).astype(int)
    sizes[rng.random(k) < 0.1] = 0
    return matrix, sizes


def counts_of(matrix):
    k = len(matrix)
    off = np.flatnonzero((matrix > 0) & ~np.eye(k, dtype=bool))
    return ConfidentCounts(np.diag(matrix).copy(), off.astype(pair_dtype(k)), matrix.ravel()[off])


def dense(counts):
    matrix = np.diag(counts.diagonal)
    matrix[counts.given, counts.predicted] = counts.counts
    return matrix


@pytest.mark.every_value
@pytest.mark.parametrize("k", [2, 3, 10, 50])
@pytest.mark.parametrize("mean", [0.1, 1, 5])
def test_the_calibrated_joint_and_its_prune_counts_are_those_of_cleanlab(k, mean):
    for seed in range(20):
        matrix, sizes = drawn_joint(k, seed, mean)
        labels = np.repeat(np.arange(k), sizes)
        want = calibrate_confident_joint(np.asfortranarray(matrix), labels)
        got = calibration.calibrated_joint(counts_of(matrix), sizes)
        assert want.tolist() == dense(got).tolist() == naive_joint.calibrated(matrix.tolist(), sizes.tolist())
        for frac_noise, least in ((1.0, 1), (0.37, 0), (0.7, 30)):
            taken = _keep_at_least_n_per_class(want.T, least, frac_noise=frac_noise)
            found = pruning.prune_counts(
                got, sizes, frac_noise=frac_noise, min_examples_per_class=least, num_to_remove_per_class=None
            )
            assert (sizes - np.diag(taken)).tolist() == found.by_label.tolist()
            table = np.zeros((k, k), int)
            table[np.repeat(np.arange(k), np.diff(found.edges)), found.classes] = found.by_pair
            assert (taken.T * (1 - np.eye(k, dtype=int))).tolist() == table.tolist()


def sparse_joint(k, seed, n_labels=30, n_pairs=9):
    """Return a matrix in which few labels of many have rows, and how many rows each label has."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((k, k), int)
    for label in rng.choice(k, n_labels, replace=False):
        matrix[label, rng.choice(k, n_pairs, replace=False)] = rng.integers(1, 9, n_pairs)
        matrix[label, label] = rng.integers(20)
    return matrix, matrix.sum(axis=1)


@pytest.mark.parametrize("numbers", [False, True])
def test_prune_counts_of_few_labels_among_many_are_those_of_loops(numbers):
    # Nine tenths of some whole numbers add up to a whole number or just less, and then another row is left: by the
    # order in which NumPy adds up all 150 columns, be most of them 0.
    for seed in range(6):
        matrix, sizes = sparse_joint(150, seed)
        wanted = np.random.default_rng(seed).integers(0, 5, 150).tolist() if numbers else None
        table = np.array(naive_joint.prune_counts(matrix.tolist(), sizes.tolist(), 0.9, 2, wanted))
        found = pruning.prune_counts(
            counts_of(matrix), sizes, frac_noise=0.9, min_examples_per_class=2, num_to_remove_per_class=wanted
        )
        assert (sizes - np.diag(table)).tolist() == found.by_label.tolist()
        np.fill_diagonal(table, 0)
        got = np.zeros_like(table)
        got[np.repeat(np.arange(150), np.diff(found.edges)), found.classes] = found.by_pair
        assert np.maximum(table, 0).tolist() == got.tolist()


def test_sums_have_the_bits_of_rows_of_a_matrix():
    rng = np.random.default_rng(0)
    matrix = np.where(rng.random((200, 300)) < 0.02, rng.random((200, 300)), 0)
    matrix = matrix[matrix.any(axis=1)]
    groups, columns = np.nonzero(matrix)
    first, lengths = np.unique(groups, return_index=True, return_counts=True)[1:]
    assert {1, 2, 3, 4} < set(lengths.tolist())
    got = pruning._matrix_sums(matrix[groups, columns], columns, first, lengths, 300)
    assert [row.sum() for row in matrix] == got.tolist()


@pytest.mark.parametrize("frac_noise", [1.0, 0.5])
def test_the_work_of_pruning_grows_with_the_pairs_and_not_with_the_classes(frac_noise):
    rows, columns = sparse_joint(40, 0, n_labels=6)[0].nonzero()

    def prune(k):
        matrix = np.zeros(k, np.int64), (rows * k + columns)[rows != columns].astype(pair_dtype(k))
        joint = ConfidentCounts(*matrix, np.full(len(matrix[1]), 4))
        sizes = np.bincount(rows, minlength=k) * 4
        calibrated = calibration.calibrated_joint(joint, sizes)
        options = {"min_examples_per_class": 1, "num_to_remove_per_class": None}
        return pruning.prune_counts(calibrated, sizes, frac_noise=frac_noise, **options)

    assert prune(2000).by_pair.tolist() == prune(20_000).by_pair.tolist()
    assert abs(draws.n_calls(lambda: prune(20_000)) - draws.n_calls(lambda: prune(2000))) < 20
    tracemalloc.start()
    try:
        prune(20_000)
        assert tracemalloc.get_traced_memory()[1] < 20 * 8 * 20_000  # some arrays of a number for each class
    finally:
        tracemalloc.stop()


def test_prune_counts_are_taken_in_pieces_of_whole_labels(monkeypatch):
    matrix, sizes = sparse_joint(40, 0, n_labels=6)
    options = {"frac_noise": 0.7, "min_examples_per_class": 2, "num_to_remove_per_class": None}
    want = pruning.prune_counts(counts_of(matrix), sizes, **options)
    monkeypatch.setattr(confident_joint, "_PIECE_PAIRS", 10)
    found = pruning.prune_counts(counts_of(matrix), sizes, **options)
    assert [column.tolist() for column in vars(want).values()] == [column.tolist() for column in vars(found).values()]
    assert len(want.by_pair) > 20


@pytest.mark.parametrize("seed", range(5))
def test_prune_counts_of_given_numbers_are_those_of_loops(seed):
    matrix, sizes = drawn_joint(7, seed, 1)
    wanted = np.random.default_rng(seed).integers(0, 9, 7).tolist()
    calibrated = calibration.calibrated_joint(counts_of(matrix), sizes)
    table = naive_joint.prune_counts(dense(calibrated).tolist(), sizes.tolist(), 0.8, 2, wanted)
    found = pruning.prune_counts(
        calibrated, sizes, frac_noise=0.8, min_examples_per_class=2, num_to_remove_per_class=wanted
    )
    assert [sizes[k] - table[k][k] for k in range(7)] == found.by_label.tolist() == wanted
    for k in range(7):
        own = slice(found.edges[k], found.edges[k + 1])
        pairs = dict(zip(found.classes[own].tolist(), found.by_pair[own].tolist(), strict=True))
        assert {j: n for j, n in enumerate(table[k]) if j != k and n > 0} == pairs


def test_labels_can_be_left_out_of_prune_counts():
    counts = pruning.PruneCounts(np.array([3, 2, 1]), np.array([0, 2, 3, 3]), np.array([1, 2, 0]), np.array([1, 2, 2]))
    left = counts.without(np.array([True, False, False]))
    assert left.by_label.tolist() == [0, 2, 1]
    assert (left.edges.tolist(), left.classes.tolist(), left.by_pair.tolist()) == ([0, 0, 1, 1], [0], [2])


@pytest.mark.every_value
@pytest.mark.parametrize("k", [2, 3, 255, 256, 300])
@pytest.mark.parametrize("held", [1, 100, 1 << 18])
def test_pairs_are_counted_some_rows_at_a_time(k, held, monkeypatch):
    monkeypatch.setattr(confident_joint, "_TABLE_ROWS", held)
    monkeypatch.setattr(confident_joint, "_PIECE_PAIRS", held)
    rng = np.random.default_rng(0)
    labels, classes, counted = rng.integers(0, k, 500), rng.integers(0, k, 500), rng.random(500) < 0.7
    counter = PairCounter(k)
    for some in np.array_split(np.arange(500), 9):
        counter.add(labels[some], classes[some], counted[some])
    want = np.zeros((k, k), int)
    np.add.at(want, (labels[counted], classes[counted]), 1)
    assert want.tolist() == dense(counter.counts()).tolist()


@pytest.mark.parametrize("with_joint", [True, False])
def test_what_a_second_read_tells_survives_a_footer(with_joint):
    matrix, _ = drawn_joint(9, 1, 0.5)
    rescanned = totals.RescanTotals(counts_of(matrix) if with_joint else None, 7, 100)
    again = totals.rescan_of_footer(totals.footer_of_rescan(rescanned))
    assert (again.n_off_diagonal, again.n_read) == (7, 0)
    if with_joint:
        assert dense(again.joint).tolist() == matrix.tolist()
        assert again.joint.pairs.dtype == rescanned.joint.pairs.dtype
    else:
        assert again.joint is None


def test_rows_that_are_near_the_predicted_class_are_never_off():
    labels, probs = draws.near_ties(*draws.draw(300, 4, seed=8, signal=0.5))
    plain = naive.plain(labels, probs)
    cuts = naive.thresholds(*plain)
    off = naive_joint.off_rows(*plain, cuts)
    counted = [naive_joint.counted_as(row, cuts) for row in plain[1]]
    near = [i for i, c in enumerate(counted) if c not in (None, plain[0][i]) and i not in off]
    assert off
    assert near
