"""What a run hands back."""

import dataclasses

import dask
import numpy as np
import pytest

import draws
import naive
from labelsieve import IssueRows, LabelIssues, find_label_issues, find_label_issues_batched, load
from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.confident_learning.scores import Settings
from labelsieve.results.result import RunFacts

COLUMNS = ["row", "score", "given_label", "suggested_label", "p_given", "p_suggested"]


class Zeros:
    """Scores that are all zero."""

    in_store = False

    def __init__(self, n_rows):
        self._n_rows = n_rows

    def to_numpy(self):
        return np.zeros(self._n_rows)


def results_of(rows, n_rows=2000):
    """Return a result with the issues `rows`, without a run."""
    rows = np.array(rows, np.int64)
    m = len(rows)
    issues = IssueRows(rows, np.linspace(0, 1, m), *(np.zeros(m, np.uint8),) * 2, *(np.zeros(m),) * 2)
    facts = RunFacts(
        bytes_read=1,
        n_reads=1,
        rows_read=n_rows,
        rows_resumed=0,
        n_batches=1,
        n_partitions=1,
        planned_bytes=1,
        seconds=0.5,
    )
    none = np.empty(0, np.int64)
    return LabelIssues(
        n_rows=n_rows,
        n_classes=1000,
        found=issues,
        estimated_num_issues=m,
        confident_thresholds=np.zeros(1000),
        class_counts=np.array([n_rows] + [0] * 999),
        mean_scores=np.zeros(1000),
        confident=ConfidentCounts(np.zeros(1000, np.int64), none, none),
        score_parts=Zeros(n_rows),
        settings=Settings(),
        facts=facts,
    )


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [4, 300])
def test_each_issue_comes_with_labels_and_probabilities(dtype, k):
    labels, probs = draws.draw(400, k, signal=3.0, seed=1, dtype=dtype)
    plain_labels, rows = naive.plain(labels, probs)
    want = naive.answer(labels, probs)
    found = find_label_issues(labels, probs)
    issues = found.issues
    assert want.issues == issues.rows.tolist() == found.indices.tolist()
    assert [want.scores[row] for row in want.issues] == issues.scores.tolist()
    assert [plain_labels[row] for row in want.issues] == issues.given_labels.tolist()
    suggested = [naive.first_argmax(rows[row]) for row in want.issues]
    assert suggested == issues.suggested_labels.tolist()
    assert [rows[row][plain_labels[row]] for row in want.issues] == issues.p_given.tolist()
    assert [rows[row][c] for row, c in zip(want.issues, suggested, strict=True)] == issues.p_suggested.tolist()
    assert issues.rows.dtype == np.int64
    assert issues.p_given.dtype == dtype
    assert issues.scores.dtype == found.scores.dtype == np.promote_types(dtype, np.float32)
    assert len(issues) == found.num_issues == len(want.issues) > 10
    assert want.num_issues == found.estimated_num_issues
    assert want.thresholds == found.confident_thresholds.tolist()
    assert want.class_counts == found.class_counts.tolist()
    assert want.scores == found.scores.tolist()


def test_the_mask_marks_the_same_rows():
    labels, probs = draws.draw(300, 3, seed=2)
    found = find_label_issues(labels, probs)
    assert np.flatnonzero(found.mask()).tolist() == sorted(found.indices.tolist())
    assert found.mask().dtype == bool
    assert found.mask().shape == (300,)
    batched = find_label_issues_batched(labels, probs, return_mask=True, verbose=False)
    assert found.mask().tobytes() == batched.tobytes()


def test_a_mask_is_a_new_array_each_time():
    found = results_of([1, 5])
    found.mask()[:] = True
    assert np.flatnonzero(found.mask()).tolist() == [1, 5]


def test_the_repr_tells_how_many_which_share_and_the_worst():
    assert repr(results_of(range(10, 1244), 5000)) == (
        "<LabelIssues: 1,234 of 5,000 rows (24.68%) in 1,000 classes; worst rows: 10, 11, 12, 13, 14, ...>"
    )
    assert "worst rows: 7, 3, 9, 1, 2>" in repr(results_of([7, 3, 9, 1, 2]))
    assert "0 of 2,000 rows (0.00%)" in repr(results_of([]))
    assert "worst rows: none>" in repr(results_of([]))


def test_scores_are_computed_at_the_first_call_and_only_then():
    found = results_of([1])
    assert found.scores is found.scores
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0] = 1
    assert np.zeros(2000).tolist() == found.scores.tolist()


def test_lazy_scores_have_a_chunk_a_partition():
    labels, probs = draws.draw(100, 3, seed=3)
    found = find_label_issues(labels, probs, batch_size=10, partition_batches=3)
    assert found.lazy_scores.chunks == ((30, 30, 30, 10),)
    assert found.lazy_scores.dtype == found.scores.dtype
    with dask.config.set(scheduler="synchronous"):
        assert found.lazy_scores[40:50].compute().tolist() == found.scores[40:50].tolist()


@pytest.mark.parametrize(("method", "adjust"), naive.METHODS)
def test_facts_say_how_often_pred_probs_was_read(method, adjust):
    labels, probs = draws.draw(100, 3, seed=4)
    facts = find_label_issues(
        labels, probs, method=method, adjust_pred_probs=adjust, batch_size=10, partition_batches=4
    ).facts
    reads = 2 if (method, adjust) == ("normalized_margin", True) else 1
    assert (reads, reads * probs.nbytes, 10, 3) == (
        facts.n_reads,
        facts.bytes_read,
        facts.n_batches,
        facts.n_partitions,
    )
    assert (facts.rows_read, facts.rows_resumed) == (100, 0)
    assert facts.seconds > 0


def test_no_issues_are_empty_columns_of_the_right_dtypes():
    labels, probs = np.array([0, 1, 2]), np.eye(3, dtype=np.float16)
    found = find_label_issues(labels, probs)
    assert found.num_issues == len(found.issues) == 0
    assert not found.mask().any()
    dtypes = [np.int64, np.float32, np.uint8, np.uint8, np.float16, np.float16]
    assert dtypes == [column.dtype for column in found.issues.columns().values()]


def test_a_row_that_is_predicted_or_nearly_so_is_no_issue_though_it_counts():
    # The lowest score belongs to a row whose label is predicted: fewer issues than estimated.
    probs = np.array([[0.3, 0.25, 0.25, 0.2], [0.05, 0.9, 0.05, 0.0], [0.35, 0.6, 0.05, 0.0], [0.1, 0.85, 0.05, 0.0]])
    labels = np.array([0, 1, 0, 1])
    want = naive.answer(labels, probs)
    found = find_label_issues(labels, probs)
    assert want.num_issues == found.estimated_num_issues
    assert want.issues == found.indices.tolist()
    assert len(want.issues) <= want.num_issues


def test_columns_come_under_their_names_and_rows_can_be_taken():
    issues = results_of([5, 9, 2]).issues
    assert list(issues.columns()) == COLUMNS
    assert issues.take(np.array([2, 0])).rows.tolist() == [2, 5]
    none = IssueRows.none(np.float32, np.uint16, np.float16)
    assert len(none) == 0
    assert list(none.columns()) == COLUMNS
    assert none.given_labels.dtype == np.uint16


def test_the_worst_are_the_first_issues_and_no_others_are_loaded():
    found = results_of([5, 9, 2])
    assert found.worst(2).rows.tolist() == [5, 9]
    assert found.worst(0).rows.tolist() == []
    assert found.worst(99).rows.tolist() == [5, 9, 2]
    assert list(found.worst(2).columns()) == COLUMNS

    class Loaded:
        """Issues that tell which of them are asked for."""

        def __init__(self, issues):
            self.issues, self.asked = issues, []

        def __len__(self):
            return len(self.issues)

        def part(self, start, stop):
            self.asked.append((start, stop))
            return self.issues.part(start, stop)

        def column(self, name):
            self.asked.append(name)
            yield from (self.issues.columns()[name][:2], self.issues.columns()[name][2:])

    lazy = dataclasses.replace(found, found=Loaded(found.issues))
    assert lazy.worst(2).rows.tolist() == [5, 9]
    assert lazy.found.asked == [(0, 2)]
    assert np.flatnonzero(lazy.mask()).tolist() == [2, 5, 9]
    assert lazy.issues is lazy.issues
    assert lazy.indices.tolist() == [5, 9, 2]
    assert lazy.found.asked == [(0, 2), "row", (0, 3)]
    assert lazy.num_issues == 3


def test_results_cannot_be_changed_by_assignment():
    found = results_of([1])
    with pytest.raises(AttributeError, match="cannot assign"):
        found.n_rows = 3


@pytest.mark.parametrize("seed", range(5))
def test_the_lowest_scores_are_those_of_a_stable_sort(seed, tmp_path):
    rng = np.random.default_rng(seed)
    labels, probs = draws.draw(500, 3, seed=seed)
    probs = np.round(probs * 8) / 8  # ties
    probs[:, 0] += 1 - probs.sum(axis=1)
    probs = np.clip(probs, 0, 1)
    labels[rng.random(500) < 0.1] = -1
    found = find_label_issues(labels, probs, ignore_label=-1, progress=False, allow_unnormalized_rows=True)
    found.save(tmp_path / "r.zarr")
    scores = np.asarray(found.scores)
    order = np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]
    some = rng.permutation(500)[:77]

    class Blocks:
        def blocks(self):
            yield from np.array_split(scores, [0, 3, 4, 200, 200, 450])

    for result in (found, load(tmp_path / "r.zarr"), dataclasses.replace(found, score_parts=Blocks())):
        for top in (0, 1, 7, 300, 499, 1000):
            assert np.array_equal(result.lowest(top), order[:top])
        np.testing.assert_array_equal(result.scores_at(some), scores[some])
