"""What must not matter does not: the same bits for any cut, dtype, layout and scheduler, and what loops find.

Strips, blocks and bins are made tiny (`draws.pieces`), so that small data goes through every loop and ranking through
its radix rounds.
"""

import concurrent.futures
from unittest import mock

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import naive
from draws import bits, cuts, datasets, draw, in_turn, near_ties, pieces, wide
from labelsieve import LabelInspector, find_label_issues, find_label_issues_batched
from labelsieve.job import table as count_and_select
from labelsieve.job.inputs import open_inputs
from labelsieve.job.scan import Batches, Partition, RowRange
from labelsieve.sources.open import open_labels, open_pred_probs

# Some of the models that are drawn know nothing.
pytestmark = pytest.mark.filterwarnings("ignore:labels and pred_probs do not seem to belong together:UserWarning")

methods = st.sampled_from(naive.METHODS)
counts = st.sampled_from(naive.COUNTS)
sizes = st.sampled_from([1, 3, 8, 1000, "auto"])
groups = st.sampled_from([1, 3, "auto"])
ways = st.fixed_dictionaries({"batch_size": sizes, "partition_batches": groups})


def find(labels, probs, choice=naive.METHODS[0], count=naive.COUNTS[0], **how):
    method, adjust = choice
    return find_label_issues(
        labels, probs, method=method, adjust_pred_probs=adjust, estimation_method=count, progress=False, **how
    )


def inspector(n_classes, choice, count, **how):
    method, adjust = choice
    return LabelInspector(
        num_class=n_classes,
        verbose=False,
        quality_score_kwargs={"method": method, "adjust_pred_probs": adjust},
        num_issue_kwargs={"estimation_method": count},
        **how,
    )


def inspected(labels, probs, runs, choice, count):
    """Run a `LabelInspector` over batches of `runs` rows."""
    edges = np.cumsum(runs)[:-1]
    batches = list(zip(np.split(labels, edges), np.split(probs, edges), strict=True))
    lab = inspector(probs.shape[1], choice, count)
    for batch in batches:
        lab.update_confident_thresholds(*batch)
    returned = [lab.score_label_quality(*batch) for batch in batches]
    assert np.concatenate(returned).tobytes() == lab.get_quality_scores().tobytes()
    return lab


def inspector_bits(lab):
    return (
        lab.get_confident_thresholds(silent=True).tobytes(),
        lab.get_num_issues(silent=True),
        wide(lab.get_quality_scores()).tobytes(),
        lab.get_label_issues().tobytes(),
    )


def check_against_loops(labels, probs, choice, count, found):
    """Hold a run against the naive answer: to the bit where no sum over a row is involved."""
    want = naive.answer(labels, probs, *choice, count)
    assert want.class_counts == found.class_counts.tolist()
    assert want.thresholds == found.confident_thresholds.tolist()
    assert want.num_issues == found.estimated_num_issues
    if choice in naive.EXACT:
        assert want.scores == found.scores.tolist()
        assert want.issues == found.indices.tolist()
    np.testing.assert_allclose(want.scores, found.scores, rtol=1e-11, atol=1e-12)
    # The order by the run's own scores: rounding may swap rows that tie but for the last bit.
    ranked = naive.ranked(found.scores.tolist(), want.num_issues)
    assert naive.without_near(ranked, *naive.plain(labels, probs)) == found.indices.tolist()
    assert found.indices.dtype == np.int64
    return want, ranked


@pytest.mark.parametrize("count", naive.COUNTS)
@pytest.mark.parametrize("choice", naive.METHODS)
@given(datasets(), ways)
def test_every_score_and_count_agrees_with_loops(choice, count, data, how):
    labels, probs = data
    with pieces(strip_bytes=200):
        found = find(labels, probs, choice, count, **how)
        _, ranked = check_against_loops(labels, probs, choice, count, found)
        lab = inspected(labels, probs, (len(labels),), choice, count)
    assert ranked == lab.get_label_issues().tolist()
    assert wide(found.scores).tobytes() == wide(lab.get_quality_scores()).tobytes()
    assert found.confident_thresholds.tobytes() == lab.get_confident_thresholds(silent=True).tobytes()


@pytest.mark.parametrize("count", naive.COUNTS)
@given(st.data())
def test_rows_on_a_coarse_grid_agree_with_loops(count, data):
    # Few distinct values, some of them 1e-6 and less apart: ties and near ties everywhere.
    n, k = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 4))
    weights = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=k, max_size=k), min_size=n, max_size=n))
    nudges = data.draw(st.lists(st.sampled_from([0, 0, 5e-7, 1e-6, 2e-6]), min_size=n * k, max_size=n * k))
    labels = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)))
    probs = np.array(weights, float)
    probs[probs.sum(axis=1) == 0] = 1
    probs /= probs.sum(axis=1, keepdims=True)
    probs = np.maximum(probs - np.reshape(nudges, (n, k)), 0)
    for choice in naive.EXACT:
        with pieces(strip_bytes=100, slice_rows=3, max_candidates=1):
            found = find(labels, probs, choice, count, batch_size=2, partition_batches=3)
        check_against_loops(labels, probs, choice, count, found)


@given(datasets(), methods, counts, ways, st.sampled_from([1, 100, 900, 10**6]))
@example(draw(1, 2, seed=1), naive.METHODS[0], naive.COUNTS[1], {"batch_size": 1, "partition_batches": 1}, 1)
def test_no_cut_changes_a_bit(data, choice, count, how, strip_bytes):
    want = bits(find(*data, choice, count))
    for max_candidates in (1, 5):
        with pieces(strip_bytes=strip_bytes, slice_rows=5, max_candidates=max_candidates):
            assert want == bits(find(*data, choice, count, **how))


@given(st.data(), datasets(), methods, counts, groups)
def test_no_chunking_of_dask_arrays_changes_a_bit(data, rows, choice, count, partition_batches):
    labels, probs = rows
    want = bits(find(labels, probs, choice, count))
    n, k = probs.shape
    chunks = data.draw(cuts(n)), data.draw(cuts(k, most=2))
    lazy_labels = da.from_array(labels, chunks=(data.draw(cuts(n)),))
    lazy_probs = da.from_array(probs, chunks=chunks)
    with pieces(strip_bytes=300):
        for form in ((lazy_labels, lazy_probs), (labels, lazy_probs), (lazy_labels, probs)):
            assert want == bits(find(*form, choice, count, partition_batches=partition_batches, batch_size=7))


def test_chunks_without_rows_change_nothing():
    labels, probs = draw(20, 3, seed=2)
    want = bits(find(labels, probs))
    lazy = [da.from_array(a, chunks=((0, 7, 0, 0, 13, 0), *((s,) for s in a.shape[1:]))) for a in (labels, probs)]
    for size in (1, 3, "auto"):
        assert want == bits(find(*lazy, partition_batches=size))


@given(datasets(dtype=np.float16), methods, counts)
def test_the_dtype_that_holds_the_values_changes_no_bit(data, choice, count):
    labels, probs = data
    want = bits(find(labels, probs.astype(np.float64), choice, count))
    with pieces(strip_bytes=150):
        for dtype in (np.float16, np.float32, ">f2", ">f4", ">f8"):
            assert want == bits(find(labels, probs.astype(dtype), choice, count, batch_size=9)), dtype


@pytest.mark.parametrize("choice", naive.METHODS)
def test_plain_self_confidence_keeps_the_precision_and_the_rest_is_float64(choice):
    labels, probs = draw(50, 3, seed=3)
    for dtype, kept in ((np.float16, np.float32), (np.float32, np.float32), (">f4", np.float32), (float, float)):
        expected = np.dtype(kept if choice == naive.METHODS[0] else np.float64)
        found = find(labels, probs.astype(dtype), choice)
        assert (expected, expected) == (found.scores.dtype, found.issues.scores.dtype)
        assert (
            expected
            == inspected(labels, probs.astype(dtype), (20, 30), choice, "off_diagonal").get_quality_scores().dtype
        )


@given(datasets(dtype=np.float64, classes=(2, 9, 33)), methods)
def test_memory_layout_changes_no_bit(data, choice):
    labels, probs = data
    want = bits(find(labels, probs, choice))
    spread = np.zeros((3 * probs.shape[0], 2 * probs.shape[1]))
    spread[::3, ::2] = probs
    columns = np.stack([labels, labels], axis=1)
    forms = [
        (labels.astype(np.uint8), np.asfortranarray(probs)),
        (columns[:, 0], spread[::3, ::2]),
        (labels.astype(">i4"), probs.astype(">f8")),
        (labels[::-1].copy()[::-1], probs[::-1].copy()[::-1]),
        (labels.tolist(), probs.tolist()),
    ]
    with pieces(strip_bytes=500):
        for form in forms:
            assert want == bits(find(*form, choice, batch_size=11))


@given(datasets(), methods, counts)
def test_no_local_scheduler_changes_a_bit(data, choice, count):
    how = {"batch_size": 5, "partition_batches": 2}
    with pieces(strip_bytes=200):
        with dask.config.set(scheduler="synchronous"):
            want = bits(find(*data, choice, count, **how))
        assert want == bits(find(*data, choice, count, **how))
        for workers in (1, 2, 4):
            with dask.config.set(scheduler="threads", num_workers=workers):
                assert want == bits(find(*data, choice, count, **how))


@pytest.mark.slow
@pytest.mark.parametrize("choice", [naive.METHODS[2], naive.METHODS[3]])
def test_processes_change_no_bit(choice):
    labels, probs = draw(600, 4, signal=1.0, noise=0.4, seed=4, decimals=2)
    want = bits(find(labels, probs, choice))
    with (
        concurrent.futures.ProcessPoolExecutor(2) as pool,
        dask.config.set(scheduler="processes", pool=pool),
    ):
        assert want == bits(find(labels, probs, choice, batch_size=100, partition_batches=2))


@given(st.data(), datasets(), methods, counts)
def test_a_label_inspector_gives_the_same_bits_for_any_cut_of_batches(data, rows, choice, count):
    labels, probs = rows
    whole = inspected(labels, probs, (len(labels),), choice, count)
    with pieces():
        cut = inspected(labels, probs, data.draw(cuts(len(labels), most=20)), choice, count)
        assert inspector_bits(whole) == inspector_bits(cut)


@given(datasets(), methods, counts)
def test_a_label_inspector_takes_single_rows_and_whole_lazy_arrays(rows, choice, count):
    labels, probs = rows
    want = inspector_bits(inspected(labels, probs, (len(labels),), choice, count))
    assert want == inspector_bits(inspected(labels, probs, (1,) * len(labels), choice, count))
    lab = inspector(probs.shape[1], choice, count)
    lazy = da.from_array(labels, chunks=7), da.from_array(probs, chunks=(11, 2))
    lab.update_confident_thresholds(*lazy)
    lab.score_label_quality(*lazy)
    assert want == inspector_bits(lab)


def test_the_first_pass_may_run_on_a_subset():
    labels, probs = draw(200, 4, seed=5)
    some = naive.plain(labels[:80], probs[:80])
    everything = naive.plain(labels, probs)
    row_cuts = naive.thresholds(*some)
    for count in naive.COUNTS:
        lab = inspector(4, naive.METHODS[1], count)
        lab.update_confident_thresholds(labels[:80], probs[:80])
        for part in (slice(0, 90), slice(90, 200)):
            lab.score_label_quality(labels[part], probs[part])
        assert row_cuts == lab.get_confident_thresholds().tolist()
        assert naive.num_issues(*everything, row_cuts, count) == lab.get_num_issues()
        want = naive.scores(*everything, "self_confidence", True, row_cuts)
        np.testing.assert_allclose(want, lab.get_quality_scores(), rtol=1e-12)


def test_later_thresholds_revise_nothing():
    labels, probs = draw(200, 4, signal=1.0, seed=6)
    lab = inspector(4, naive.METHODS[3], "off_diagonal")
    for part in (slice(0, 60), slice(60, 200)):
        lab.update_confident_thresholds(labels[part], probs[part])
        lab.score_label_quality(labels[part], probs[part])
    parts = [naive.plain(labels[:60], probs[:60]), naive.plain(labels[60:], probs[60:])]
    row_cuts = [naive.thresholds(*parts[0]), naive.thresholds(*naive.plain(labels, probs))]
    assert row_cuts[1] == lab.get_confident_thresholds().tolist()
    want = [naive.num_issues(*part, c, "off_diagonal") for part, c in zip(parts, row_cuts, strict=True)]
    assert sum(want) == lab.get_num_issues()
    scores = [naive.scores(*part, "normalized_margin", True, c) for part, c in zip(parts, row_cuts, strict=True)]
    np.testing.assert_allclose(scores[0] + scores[1], lab.get_quality_scores(), rtol=1e-12)


def test_rows_that_are_not_counted_are_scored_all_the_same():
    labels, probs = draw(60, 3, seed=7)
    lab = inspector(3, naive.METHODS[0], "off_diagonal", store_results=False)
    lab.update_confident_thresholds(labels, probs)
    lab.score_label_quality(labels, probs)
    counted = lab.get_num_issues()
    more = lab.score_label_quality(labels, probs, update_num_issues=False)
    assert naive.answer(labels, probs).scores == more.tolist()
    assert naive.answer(labels, probs).num_issues == counted
    with pytest.raises(ValueError, match="120 rows were scored, 60 of them counted"):
        lab.get_num_issues()


@given(datasets(), methods, counts, sizes)
def test_the_documented_call_and_its_mask_are_the_modern_result(rows, choice, count, batch_size):
    method, adjust = choice
    want = find(*rows, choice, count).indices
    for return_mask in (False, True):
        got = find_label_issues_batched(
            *rows,
            batch_size=batch_size,
            verbose=False,
            return_mask=return_mask,
            quality_score_kwargs={"method": method, "adjust_pred_probs": adjust},
            num_issue_kwargs={"estimation_method": count},
        )
        rows_found = np.flatnonzero(got) if return_mask else got
        assert (np.sort(want) if return_mask else want).tobytes() == rows_found.tobytes()


@pytest.mark.parametrize(
    ("shape", "choice", "count"),
    in_turn(
        [
            (1, 2, "one row"),
            (40, 2, "two classes"),
            (50, 5, "absent"),
            (50, 4, "sorted"),
            (60, 3, "all tied"),
            (50, 3, "near"),
        ],
        naive.METHODS,
        naive.COUNTS,
        times=3,
    ),
    ids=str,
)
def test_the_odd_shapes_agree_with_loops_in_any_cut(shape, choice, count):
    n, k, shape = shape
    labels, probs = draw(n, k, signal=1.0, noise=0.5, seed=n + k)
    if shape == "absent":
        labels = np.where(labels % 2, 0, labels)
    elif shape == "sorted":
        order = np.argsort(labels, kind="stable")
        labels, probs = labels[order], probs[order]
    elif shape == "all tied":
        probs = np.tile([0.25, 0.5, 0.25], (n, 1))
    elif shape == "near":
        labels, probs = near_ties(labels, probs, seed=1)
    want = find(labels, probs, choice, count)
    check_against_loops(labels, probs, choice, count, want)
    with pieces(strip_bytes=80, max_candidates=1):
        for size in (1, 3, "auto"):
            assert bits(want) == bits(find(labels, probs, choice, count, batch_size=4, partition_batches=size))


def test_ties_at_the_cut_go_to_the_lower_rows_across_partitions():
    # 40 rows tie at 0.25, and 17 rows, the last of the 40, are confident enough to count: the first 17 are the issues.
    labels = np.arange(80) % 2
    unsure, sure, right = [0.25, 0.4, 0.35], [0.25, 0.75, 0.0], [0.9, 0.05, 0.05]
    probs = np.array([unsure] * 23 + [sure] * 17 + [right] * 40)
    probs[labels == 1] = probs[labels == 1][:, [1, 0, 2]]
    want = naive.answer(labels, probs)
    assert want.num_issues == 17
    assert want.issues == list(range(17))
    for strip_bytes, size in ((24, 1), (100, 3), (10**6, "auto")):
        with pieces(strip_bytes=strip_bytes, slice_rows=4, max_candidates=1):
            found = find(labels, probs, batch_size=5, partition_batches=size)
        assert want.issues == found.indices.tolist()


def test_an_adjusted_score_of_minus_zero_ties_with_zero():
    # Row 3 is a little below 0: its adjusted score is 0 over a negative sum.
    probs = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, -0.001], [1.0, 0.0], [0.0, 1.0]])
    labels = np.array([0, 1, 1, 0, 0, 1])
    want = naive.answer(labels, probs, *naive.METHODS[1])
    assert want.issues == [0, 1, 2]
    for max_candidates in (1, 1000):
        with pieces(max_candidates=max_candidates):
            found = find(labels, probs, naive.METHODS[1], allow_unnormalized_rows=True)
        assert want.scores == found.scores.tolist()
        assert want.issues == found.indices.tolist()


@pytest.mark.parametrize("choice", naive.METHODS)
def test_rows_of_zeros_that_are_allowed_agree_with_loops(choice):
    labels, probs = draw(60, 3, signal=1.0, noise=0.5, seed=10)
    probs[20:30], probs[45] = 0, -0.0
    with pieces():
        found = find(labels, probs, choice, batch_size=7, allow_zero_rows=True)
    check_against_loops(labels, probs, choice, "off_diagonal", found)


def test_ranking_goes_through_its_rounds_and_quotas_when_bins_are_tiny():
    # The properties above would show little if `pieces` did not reach these parts.
    labels, probs = draw(100, 3, signal=1.0, noise=0.5, seed=8, decimals=1)
    seen = {"histogram_within": 0, "scores_inside": 0}

    def counting(name):
        inner = getattr(count_and_select, name)

        def call(*args, **kwargs):
            seen[name] += 1
            return inner(*args, **kwargs)

        return mock.patch.object(count_and_select, name, call)

    with pieces(max_candidates=1), counting("histogram_within"), counting("scores_inside"):
        found = find(labels, probs, batch_size=10, partition_batches=2)
    assert naive.answer(labels, probs).issues == found.indices.tolist()
    assert seen["histogram_within"] == 4 * 5  # five partitions: four digits after the first, down to a single value
    assert seen["scores_inside"] == 5


@pytest.mark.parametrize(
    ("batch_size", "lengths"),
    [
        (16, [3, 3, 3, 3, 3, 1] * 4),  # a batch is worked on in strips of three rows
        (1, [3] * 21 + [1]),  # batches smaller than a strip are read together
        (2, [2] * 32),  # but never in part
    ],
)
def test_strips_of_a_partition(batch_size, lengths):
    labels, probs = draw(64, 4, seed=9)
    opened = open_labels(labels), open_pred_probs(probs)
    with pieces(strip_bytes=3 * 4 * 8):
        grid = open_inputs(*opened, batch_size=batch_size, partition_batches=100).grid
        assert grid.n_partitions == 1
        batches = Batches(0, grid.ranges(0))
        strips = list(Partition(batches, *map(RowRange, opened), 4, probs.dtype).strips())
    assert lengths == [len(part) for part, _ in strips] == [len(part) for _, part in strips]
    assert labels.tolist() == np.concatenate([part for part, _ in strips]).tolist()
    assert probs.tobytes() == np.concatenate([part for _, part in strips]).tobytes()


def test_getters_of_a_label_inspector_return_copies():
    labels, probs = draw(30, 3, seed=11)
    lab = inspected(labels, probs, (30,), naive.METHODS[0], "off_diagonal")
    want = inspector_bits(lab)
    for getter in (lab.get_confident_thresholds, lab.get_quality_scores, lab.get_label_issues):
        getter()[:] = 0
    assert want == inspector_bits(lab)
