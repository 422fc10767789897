"""Against cleanlab itself, on real datasets, at its best: a float64 copy, one batch, one process.

Rows that tie with the cut may differ: which of them cleanlab takes is left to an unstable sort.
"""

import cleanlab.count
import cleanlab.experimental.label_issues_batched as theirs
import cleanlab.rank
import numpy as np
import pytest

import draws
import labelsieve
import naive

DATASETS = ["digits", "wine", "breast_cancer"]

every_choice = pytest.mark.parametrize(("method", "adjust"), naive.CLEANLAB_METHODS)
every_count = pytest.mark.parametrize("count", naive.COUNTS)


@pytest.fixture(params=DATASETS)
def dataset(request, real_datasets):
    return real_datasets[request.param]


def keywords(method, adjust, count):
    return {
        "verbose": False,
        "quality_score_kwargs": {"method": method, "adjust_pred_probs": adjust},
        "num_issue_kwargs": {"estimation_method": count},
    }


def inspected(module, labels, probs, n_batches, **how):
    lab = module.LabelInspector(num_class=probs.shape[1], n_jobs=1, **how)
    batches = list(zip(np.array_split(labels, n_batches), np.array_split(probs, n_batches), strict=True))
    for batch in batches:
        lab.update_confident_thresholds(*batch)
    for batch in batches:
        lab.score_label_quality(*batch)
    return lab


def assert_same_rows(want, got, scores):
    """Hold two selections of rows against each other, apart from the rows that tie with the last one chosen."""
    assert len(got) > 0, "no issues would show nothing"
    cut = max(scores[want].max(), scores[got].max())
    tied = set(np.flatnonzero(np.abs(scores - cut) <= 1e-9).tolist())
    assert set(want.tolist()) ^ set(got.tolist()) <= tied


@pytest.mark.every_pair
@every_choice
@every_count
def test_the_documented_function_finds_the_rows_that_cleanlab_finds(dataset, method, adjust, count):
    labels, probs = dataset
    how = keywords(method, adjust, count)
    want = theirs.find_label_issues_batched(labels=labels, pred_probs=probs, batch_size=len(labels), n_jobs=1, **how)
    got = labelsieve.find_label_issues_batched(labels=labels, pred_probs=probs, batch_size=100, **how)
    scores = np.array(naive.answer(labels, probs, method, adjust, count).scores)
    assert_same_rows(want, got, scores)
    # cleanlab documents this order and returns rows ascending.
    assert (np.diff(scores[got]) >= -1e-12).all()


@pytest.mark.every_pair
@every_choice
@every_count
def test_label_inspector_agrees_with_cleanlab(dataset, method, adjust, count):
    labels, probs = dataset
    how = keywords(method, adjust, count)
    want, got = inspected(theirs, labels, probs, 1, **how), inspected(labelsieve, labels, probs, 7, **how)
    np.testing.assert_allclose(
        want.get_confident_thresholds(silent=True), got.get_confident_thresholds(silent=True), rtol=0, atol=1e-12
    )
    scores = np.asarray(want.get_quality_scores())
    np.testing.assert_allclose(scores, got.get_quality_scores(), rtol=1e-11, atol=1e-11)
    assert want.get_num_issues(silent=True) == got.get_num_issues(silent=True)
    assert_same_rows(want.get_label_issues(), got.get_label_issues(), scores)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_probabilities_agree_with_cleanlab_on_a_float64_copy(dataset, dtype):
    labels, probs = dataset[0], dataset[1].astype(dtype)
    how = keywords("normalized_margin", False, "off_diagonal_calibrated")
    want = inspected(theirs, labels, probs.astype(np.float64), 1, **how)
    got = inspected(labelsieve, labels, probs, 3, **how)
    np.testing.assert_allclose(want.get_quality_scores(), got.get_quality_scores(), rtol=1e-11, atol=1e-11)
    assert want.get_num_issues(silent=True) == got.get_num_issues(silent=True)
    assert_same_rows(want.get_label_issues(), got.get_label_issues(), np.asarray(want.get_quality_scores()))


@every_choice
def test_scores_are_those_of_cleanlab_rank(dataset, method, adjust):
    labels, probs = dataset
    want = cleanlab.rank.get_label_quality_scores(labels, probs, method=method, adjust_pred_probs=adjust)
    got = labelsieve.find_label_issues(labels, probs, method=method, adjust_pred_probs=adjust, batch_size=100).scores
    np.testing.assert_allclose(want, got, rtol=1e-11, atol=1e-11)


@every_choice
def test_scores_are_those_of_cleanlab_rank_where_a_class_is_absent(method, adjust):
    labels, probs = draws.draw(500, 6, seed=1)
    labels = np.where(labels >= 4, 0, labels)
    want = cleanlab.rank.get_label_quality_scores(labels, probs, method=method, adjust_pred_probs=adjust)
    got = labelsieve.find_label_issues(labels, probs, method=method, adjust_pred_probs=adjust).scores
    np.testing.assert_allclose(want, got, rtol=1e-11, atol=1e-11)


def test_thresholds_are_those_of_cleanlab_count(dataset):
    labels, probs = dataset
    want = cleanlab.count.get_confident_thresholds(labels, probs)
    found = labelsieve.find_label_issues(labels, probs)
    np.testing.assert_allclose(want, found.confident_thresholds, rtol=0, atol=1e-12)
    assert np.bincount(labels).tolist() == found.class_counts.tolist()


@pytest.mark.parametrize("absent", [0, 2, 5])
def test_thresholds_of_absent_classes_are_those_of_cleanlab_count(absent):
    labels, probs = draws.draw(400, 6, seed=2)
    keep = labels != absent
    want = cleanlab.count.get_confident_thresholds(labels[keep], probs[keep])
    got = labelsieve.find_label_issues(labels[keep], probs[keep]).confident_thresholds
    np.testing.assert_allclose(want, got, rtol=0, atol=1e-12)
    assert got[absent] == 2.0


@every_count
def test_most_flipped_labels_of_digits_are_found(real_datasets, count):
    # A sanity check of the whole: a tenth of the labels is wrong and the model is right nine times in ten.
    labels, probs = real_datasets["digits"]
    found = labelsieve.find_label_issues(labels, probs, estimation_method=count)
    assert 0.08 < found.num_issues / len(labels) < 0.2
    assert naive.answer(labels, probs, count=count).issues == found.indices.tolist()
