"""The documented API, typed as its documentation shows it with nothing but the import changed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr

from draws import assert_same_array, draw, find
from labelsieve.label_issues_batched import LabelInspector, find_label_issues_batched

# Rows enough for several batches of the documented size.
LABELS, PROBS = draw(25_000, 4, seed=14)


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


# The documented examples -----------------------------------------------------------------------------------------


def test_the_example_of_find_label_issues_batched_on_npy_files(tmp_path, monkeypatch, want):
    monkeypatch.chdir(tmp_path)
    labels_array, pred_probs_array = LABELS, PROBS
    batch_size = 10000
    np.save("LABELS.npy", labels_array)
    np.save("PREDPROBS.npy", pred_probs_array)
    issues = find_label_issues_batched(labels_file="LABELS.npy", pred_probs_file="PREDPROBS.npy", batch_size=batch_size)
    assert_same_array(issues, want.indices)
    labels = np.load("LABELS.npy", mmap_mode="r")
    pred_probs = np.load("PREDPROBS.npy", mmap_mode="r")
    assert_same_array(find_label_issues_batched(labels, pred_probs, batch_size=batch_size), want.indices)


def test_the_example_of_find_label_issues_batched_on_zarr_arrays(tmp_path, monkeypatch, want):
    monkeypatch.chdir(tmp_path)
    labels_array, pred_probs_array = LABELS, PROBS
    batch_size = 10000
    zarr.save_array("LABELS.zarr", labels_array)
    zarr.save_array("PREDPROBS.zarr", pred_probs_array)
    labels = zarr.open("LABELS.zarr", mode="r")
    pred_probs = zarr.open("PREDPROBS.zarr", mode="r")
    issues = find_label_issues_batched(labels=labels, pred_probs=pred_probs, batch_size=batch_size)
    assert_same_array(issues, want.indices)


def test_the_example_of_label_inspector(capsys, want):
    labels, pred_probs = LABELS, PROBS
    n = len(labels)
    batch_size = 10000
    lab = LabelInspector(num_class=pred_probs.shape[1])
    i = 0
    while i < n:
        end_index = i + batch_size
        labels_batch = labels[i:end_index]
        pred_probs_batch = pred_probs[i:end_index, :]
        i = end_index
        lab.update_confident_thresholds(labels_batch, pred_probs_batch)
    confident_thresholds = lab.get_confident_thresholds()
    i = 0
    while i < n:
        end_index = i + batch_size
        labels_batch = labels[i:end_index]
        pred_probs_batch = pred_probs[i:end_index, :]
        i = end_index
        batch_results = lab.score_label_quality(labels_batch, pred_probs_batch)
    indices_of_examples_with_issues = lab.get_label_issues()

    assert_same_array(confident_thresholds, want.confident_thresholds)
    assert_same_array(batch_results, want.scores[20_000:])
    lowest = np.argsort(want.scores, kind="stable")[: want.estimated_num_issues]
    assert_same_array(indices_of_examples_with_issues, lowest)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "Total number of examples used to estimate confident thresholds: 25000",
        "Total number of examples whose labels have been evaluated: 25000",
    ]
    # The documented shortcut for all of the above.
    indices_of_examples_with_issues = find_label_issues_batched(labels, pred_probs, batch_size=10000)
    assert_same_array(indices_of_examples_with_issues, want.indices)


def test_the_documented_way_without_stored_results(want):
    lab = LabelInspector(num_class=4, store_results=False, verbose=False)
    for i in range(0, len(LABELS), 1000):
        lab.update_confident_thresholds(LABELS[i : i + 1000], PROBS[i : i + 1000])
    scores = [lab.score_label_quality(LABELS[i : i + 1000], PROBS[i : i + 1000]) for i in range(0, len(LABELS), 1000)]
    lowest = np.argsort(np.concatenate(scores), kind="stable")[: lab.get_num_issues()]
    assert_same_array(lowest, np.argsort(want.scores, kind="stable")[: want.estimated_num_issues])


@pytest.mark.every_pair
@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin", "confidence_weighted_entropy"])
@pytest.mark.parametrize("estimation_method", ["off_diagonal", "off_diagonal_calibrated"])
@pytest.mark.parametrize("adjust", [False, True])
def test_keywords_reach_the_modern_entry(method, estimation_method, adjust):
    if adjust and method == "confidence_weighted_entropy":
        pytest.skip("not defined")
    got = find_label_issues_batched(
        LABELS,
        PROBS,
        quality_score_kwargs={"method": method, "adjust_pred_probs": adjust},
        num_issue_kwargs={"estimation_method": estimation_method},
        verbose=False,
    )
    modern = find(LABELS, PROBS, method=method, adjust_pred_probs=adjust, estimation_method=estimation_method)
    assert_same_array(got, modern.indices)


def test_kwargs_may_be_none_or_empty(want):
    for kwargs in (None, {}):
        issues = find_label_issues_batched(
            LABELS, PROBS, quality_score_kwargs=kwargs, num_issue_kwargs=kwargs, verbose=False
        )
        assert_same_array(issues, want.indices)


def test_issues_are_sorted_by_label_quality_worst_first(want):
    issues = find_label_issues_batched(LABELS, PROBS, verbose=False)
    scores = want.scores[issues]
    assert (np.diff(scores) >= 0).all()
    ties = np.diff(scores) == 0
    assert (np.diff(issues)[ties] > 0).all()
    assert not np.array_equal(issues, np.sort(issues)), "row order would prove nothing"


def test_return_mask_is_the_mask_of_the_same_rows(want):
    for batch_size in (997, 10_000, "auto"):
        mask = find_label_issues_batched(LABELS, PROBS, return_mask=True, batch_size=batch_size, verbose=False)
        assert (mask.dtype, mask.shape) == (np.bool_, (25_000,))
        assert_same_array(np.flatnonzero(mask), np.sort(want.indices))


@pytest.mark.parametrize("batch_size", ["auto", 1000, 10**9])
def test_the_batch_size_does_not_change_the_answer(want, batch_size):
    assert_same_array(find_label_issues_batched(LABELS, PROBS, batch_size=batch_size, verbose=False), want.indices)


@pytest.mark.parametrize("as_str", [True, False])
def test_files_of_either_kind_beside_arrays(tmp_path, want, as_str):
    kind = str if as_str else lambda path: path
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "p.npy", PROBS)
    zarr.save_array(str(tmp_path / "y.zarr"), LABELS)
    zarr.save_array(str(tmp_path / "p.zarr"), PROBS)
    for ending in ("npy", "zarr"):
        labels_file, pred_probs_file = kind(tmp_path / f"y.{ending}"), kind(tmp_path / f"p.{ending}")
        for inputs in (
            {"labels_file": labels_file, "pred_probs_file": pred_probs_file},
            {"labels": LABELS, "pred_probs_file": pred_probs_file},
            {"labels_file": labels_file, "pred_probs": PROBS},
        ):
            assert_same_array(find_label_issues_batched(**inputs, verbose=False), want.indices)


def test_labels_may_be_a_list(want):
    assert_same_array(find_label_issues_batched(LABELS.tolist(), PROBS, verbose=False), want.indices)


# What is printed -------------------------------------------------------------------------------------------------


def test_verbose_prints_what_was_found_and_shows_bars(capsys, want):
    find_label_issues_batched(LABELS, PROBS)
    out, err = capsys.readouterr()
    assert f"{want.num_issues:,} label issues in 25,000 examples of 4 classes" in out
    assert re.search(r"100%.*25\.0k/25\.0k", err), "a bar of rows that reaches its end"


def test_quiet_is_silent_on_both_streams(capsys, tmp_path):
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "p.npy", PROBS)
    find_label_issues_batched(LABELS, PROBS, verbose=False)
    find_label_issues_batched(
        labels_file=str(tmp_path / "y.npy"), pred_probs_file=str(tmp_path / "p.npy"), verbose=False, n_jobs=2
    )
    lab = LabelInspector(num_class=4, verbose=False)
    lab.update_confident_thresholds(LABELS, PROBS)
    lab.score_label_quality(LABELS, PROBS)
    lab.get_confident_thresholds()
    lab.get_num_issues()
    lab.get_label_issues()
    assert capsys.readouterr() == ("", "")


def test_bars_show_for_forked_processes_too(capsys, want):
    issues = find_label_issues_batched(LABELS, PROBS, n_jobs=2, batch_size=1000)
    out, err = capsys.readouterr()
    assert f"{want.num_issues:,} label issues" in out
    assert "100%" in err
    assert_same_array(issues, want.indices)


def test_getters_are_silent_when_asked(capsys):
    lab = LabelInspector(num_class=4)
    lab.update_confident_thresholds(LABELS, PROBS)
    lab.score_label_quality(LABELS, PROBS)
    lab.get_confident_thresholds(silent=True)
    lab.get_num_issues(silent=True)
    assert capsys.readouterr() == ("", "")
    lab.get_confident_thresholds()
    lab.get_num_issues()
    assert capsys.readouterr().out.count("25000") == 2
