"""The module tree of cleanlab: its page against what is installed, its functions against cleanlab's."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import cleanlab.count
import cleanlab.dataset
import cleanlab.filter
import cleanlab.rank
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from cleanlab.classification import CleanLearning
from distributed import Client, LocalCluster
from sklearn.linear_model import LogisticRegression

import labelsieve
import labelsieve.cleanlab as tree
import naive
from draws import SHAPES, draw, near_ties, odd
from labelsieve import InputTypeError, InvalidInputError, LabelsieveWarning
from labelsieve.cleanlab import count, dataset, filter, rank  # noqa: A004  # cleanlab's names
from labelsieve.cleanlab.filter import AssertedInputError
from labelsieve.options import FILTER_NAMES
from pages import blocks, guide

METHODS = ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
PRUNING = ["prune_by_noise_rate", "prune_by_class", "both"]
# Warnings of both about the made-up data: few rows of a class, ties, an ignored joint.
pytestmark = pytest.mark.filterwarnings(
    "ignore:May not flag:UserWarning",
    "ignore:.*min_examples_per_class:labelsieve.LabelsieveWarning",
)


@pytest.fixture(params=["digits", "wine", "breast_cancer", *SHAPES])
def data(request, real_datasets):
    labels, probs = odd(request.param) if request.param in SHAPES else real_datasets[request.param]
    return np.asarray(labels), np.asarray(probs, np.float64)


# The page ------------------------------------------------------------------------------------------------------------

ROWS = [
    (module, name, here)
    for module, names, here in re.findall(r"^\| `(\S+)` \| (`.*`) \| (.*) \|$", guide("from_cleanlab"), re.MULTILINE)
    for name in re.findall(r"`(\w+)`", names)
]
NOT_TRAINED = "not here: trains a model"


def test_the_page_has_all_public_functions_and_classes_of_cleanlab():
    root = Path(cleanlab.__file__).parent
    want = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if "internal" in module or module.endswith("__init__"):
            continue
        defined = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        want += [(module, node.name) for node in defined if not node.name.startswith("_")]
    assert sorted(want) == sorted((module, name) for module, name, _ in ROWS)
    assert all(here.startswith(("the same", "not here: ")) for _, _, here in ROWS)


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


# What cleanlab has for these is a list that a call could change, for which an empty tuple stands, or nothing.
OTHER_DEFAULTS = {
    ("segmentation.summary", "common_label_issues"): {"labels", "pred_probs"},
    ("token_classification.summary", "display_issues"): {"exclude"},
    ("token_classification.summary", "common_label_issues"): {"exclude"},
}


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, n, here in ROWS if here.startswith("the same")])
def test_what_is_the_same_has_the_same_arguments_and_defaults(module, name):
    want = parameters(getattr(importlib.import_module(f"cleanlab.{module}"), name))
    ours = importlib.import_module(f"labelsieve.cleanlab.{module}")
    got = parameters(getattr(ours, name))
    assert [(key, kind) for key, kind, _ in want] == [(key, kind) for key, kind, _ in got]
    differ = {key for (key, _, one), (_, _, other) in zip(want, got, strict=True) if one != other}
    assert differ == OTHER_DEFAULTS.get((module, name), set())
    assert getattr(ours, name).__module__.startswith("labelsieve.")


def test_modules_are_attributes_as_in_cleanlab():
    code = "import labelsieve.cleanlab as cleanlab; print(cleanlab.filter.find_label_issues.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "labelsieve.cleanlab.filter"
    assert all(getattr(tree, name).__name__ == f"labelsieve.cleanlab.{name}" for name in tree.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'outlier'"):
        tree.outlier  # noqa: B018  # the access is the test


def test_the_batched_module_is_the_same():
    from labelsieve.cleanlab.experimental import label_issues_batched

    assert label_issues_batched.find_label_issues_batched is labelsieve.find_label_issues_batched
    assert label_issues_batched.LabelInspector is labelsieve.LabelInspector


def test_clean_learning_takes_the_issues_of_a_result():
    labels, probs = draw(300, 2, seed=5)
    features = np.log(probs)
    found = labelsieve.find_label_issues(labels, probs, filter_by="both")
    model = CleanLearning(LogisticRegression()).fit(features, labels, label_issues=found.to_cleanlab())
    assert model.get_label_issues()["is_label_issue"].tolist() == found.mask().tolist()
    kept = LogisticRegression().fit(features[~found.mask()], labels[~found.mask()])
    assert model.predict(features).tolist() == kept.predict(features).tolist()


def test_datalab_takes_a_result():
    pytest.importorskip("datasets")
    labels, probs = draw(50, 2, seed=5)
    features = probs + np.random.default_rng(0).normal(size=probs.shape)
    found = labelsieve.find_label_issues(labels, probs, filter_by="both")
    names = {"features": features, "labels": labels, "found": found}
    [code] = [block for block in blocks(guide("from_cleanlab"), "py") if "Datalab" in block]
    exec(code, names)
    issues = names["issues"]
    assert "is_outlier_issue" in issues
    assert issues["is_label_issue"].tolist() == found.mask().tolist()


# filter --------------------------------------------------------------------------------------------------------------


def assert_same_rows(want, got, scores, by_class=None):
    """Hold two masks against each other, apart from rows that tie with a row that only one of them has."""
    differ = np.flatnonzero(want != got)
    assert want.sum() == got.sum()
    for row in differ:
        alike = differ[np.abs(scores[differ] - scores[row]) <= 1e-9]
        if by_class is not None:
            alike = alike[by_class[alike] == by_class[row]]
        assert want[alike].sum() == got[alike].sum()


@pytest.mark.parametrize("filter_by", FILTER_NAMES)
def test_masks_are_those_of_cleanlab(real_datasets, filter_by):
    for labels, probs in real_datasets.values():
        want = cleanlab.filter.find_label_issues(labels, probs, filter_by=filter_by, n_jobs=1)
        got = filter.find_label_issues(labels, probs, filter_by=filter_by)
        assert (got.dtype, got.shape) == (np.bool_, want.shape)
        assert want.any()
        assert want.tolist() == got.tolist()


def test_the_default_filter_prunes_by_noise_rate():
    labels, probs = draw(500, 4, seed=1)
    want = cleanlab.filter.find_label_issues(labels, probs)
    assert want.tolist() == filter.find_label_issues(labels, probs).tolist()
    assert want.tolist() == filter.find_label_issues(labels.tolist(), probs, n_jobs=2).tolist()


@pytest.mark.every_value
@pytest.mark.parametrize("filter_by", ["confident_learning", "predicted_neq_given"])
def test_masks_of_odd_data_are_those_of_cleanlab(data, filter_by):
    want = cleanlab.filter.find_label_issues(*data, filter_by=filter_by, n_jobs=1)
    assert want.tolist() == filter.find_label_issues(*data, filter_by=filter_by).tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("adjust", [False, True])
def test_ranked_rows_are_those_of_cleanlab(real_datasets, method, adjust):
    how = {"return_indices_ranked_by": method, "rank_by_kwargs": {"adjust_pred_probs": adjust}}
    for labels, probs in real_datasets.values():
        if adjust and method == "confidence_weighted_entropy":
            for module in (cleanlab.filter, filter):
                with pytest.raises(ValueError, match="adjust_pred_probs is not"):
                    module.find_label_issues(labels, probs, **how)
            continue
        want = cleanlab.filter.find_label_issues(labels, probs, n_jobs=1, **how)
        got = filter.find_label_issues(labels, probs, **how)
        scores = cleanlab.rank.get_label_quality_scores(labels, probs, method=method, adjust_pred_probs=adjust)
        assert got.dtype == want.dtype
        assert sorted(want) == sorted(got)
        np.testing.assert_allclose(scores[want], scores[got], rtol=0, atol=1e-12)


@pytest.mark.every_value
@pytest.mark.parametrize("filter_by", PRUNING)
@pytest.mark.parametrize("kind", ["own", "calibrated", "float", "ones", "other"])
def test_a_given_joint_prunes_as_in_cleanlab(filter_by, kind):
    labels, probs = draw(600, 5, seed=7, noise=0.3, signal=1.5)
    own = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    joint = {
        "own": own,
        "calibrated": cleanlab.count.calibrate_confident_joint(own, labels),
        "float": own * 1.37 + 0.2,
        "ones": np.ones((5, 5), int),
        "other": np.random.default_rng(3).integers(0, 60, (5, 5)),
    }[kind]
    for more in ({}, {"frac_noise": 0.5}, {"min_examples_per_class": 90}):
        how = {"filter_by": filter_by, "confident_joint": joint, **more}
        want = cleanlab.filter.find_label_issues(labels, probs, n_jobs=1, **how)
        assert want.tolist() == filter.find_label_issues(labels, probs, **how).tolist()
        if not more and kind in ("own", "calibrated"):
            assert want.any()
    by_default = filter.find_label_issues(labels, probs, filter_by=filter_by)
    calibrated = count.compute_confident_joint(labels, probs)
    given = filter.find_label_issues(labels, probs, filter_by=filter_by, confident_joint=calibrated)
    assert by_default.tolist() == given.tolist()


@pytest.mark.parametrize("filter_by", sorted(set(FILTER_NAMES) - set(PRUNING)))
def test_other_filters_ignore_a_given_joint_as_in_cleanlab(filter_by):
    labels, probs = draw(300, 3, seed=8)
    with pytest.warns(UserWarning, match="confident_joint is ignored"):
        got = filter.find_label_issues(labels, probs, filter_by=filter_by, confident_joint=np.ones((3, 3)))
    assert got.tolist() == filter.find_label_issues(labels, probs, filter_by=filter_by).tolist()


@pytest.mark.parametrize("filter_by", PRUNING)
def test_one_number_to_remove_stands_for_all_classes(filter_by):
    labels, probs = draw(400, 3, seed=9)
    how = {"filter_by": filter_by, "num_to_remove_per_class": 5}
    want = cleanlab.filter.find_label_issues(labels, probs, n_jobs=1, **how)
    got = filter.find_label_issues(labels, probs, **how)
    assert want.tolist() == got.tolist()
    assert got.any()


def test_labels_that_are_not_predicted_are_those_of_cleanlab(data):
    labels, probs = near_ties(*data, seed=2)
    want = cleanlab.filter.find_predicted_neq_given(labels, probs)
    got = filter.find_predicted_neq_given(labels, probs)
    assert got.dtype == np.bool_
    assert want.tolist() == got.tolist()


@pytest.mark.every_value
@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("filter_by", PRUNING)
def test_issues_by_the_confusion_matrix_are_those_of_cleanlab(real_datasets, calibrate, filter_by):
    how = {"calibrate": calibrate, "filter_by": filter_by}
    for labels, probs in real_datasets.values():
        want = cleanlab.filter.find_label_issues_using_argmax_confusion_matrix(labels, probs, **how)
        got = filter.find_label_issues_using_argmax_confusion_matrix(labels, probs, **how)
        assert want.tolist() == got.tolist()


@pytest.mark.parametrize("form", ["npy", "zarr", "dask", "series", "table", "float32"])
def test_inputs_of_any_kind_give_the_same(tmp_path, form):
    labels, probs = draw(500, 4, seed=11, decimals=3)
    probs = probs.astype(np.float32)
    want = filter.find_label_issues(labels, probs, return_indices_ranked_by="normalized_margin")
    if form == "npy":
        np.save(tmp_path / "labels.npy", labels)
        np.save(tmp_path / "probs.npy", probs)
        given = tmp_path / "labels.npy", str(tmp_path / "probs.npy")
    elif form == "zarr":
        given = labels, zarr.create_array(tmp_path / "probs.zarr", data=probs, chunks=(50, 4))
    elif form == "dask":
        given = da.from_array(labels, chunks=70), da.from_array(probs, chunks=(70, 4))
    else:
        given = {"series": pd.Series(labels), "table": pd.DataFrame({"label": labels})}.get(form, labels), probs
    assert want.tolist() == filter.find_label_issues(*given, return_indices_ranked_by="normalized_margin").tolist()
    scores = rank.get_label_quality_scores(*given, method="confidence_weighted_entropy")
    np.testing.assert_array_equal(
        scores, rank.get_label_quality_scores(labels, probs, method="confidence_weighted_entropy")
    )
    assert count.compute_confident_joint(*given, return_indices_of_off_diagonals=True)[1].tolist() == (
        count.compute_confident_joint(labels, probs, return_indices_of_off_diagonals=True)[1].tolist()
    )
    np.testing.assert_array_equal(count.get_confident_thresholds(*given), count.get_confident_thresholds(labels, probs))
    assert filter.find_predicted_neq_given(*given).tolist() == (labels != probs.argmax(axis=1)).tolist()
    assert dataset.overall_label_health_score(*given, verbose=False) == (
        dataset.overall_label_health_score(labels, probs, verbose=False)
    )


def test_a_cluster_gives_the_same(tmp_path):
    labels, probs = draw(3000, 4, seed=12)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "probs.npy", probs)
    given = tmp_path / "labels.npy", tmp_path / "probs.npy"

    def results():
        joint, rows = count.compute_confident_joint(*given, return_indices_of_off_diagonals=True)
        issues = filter.find_label_issues(*given, confident_joint=joint)
        return joint.tolist(), rows.tolist(), issues.tolist(), rank.get_label_quality_scores(*given).tolist()

    want = results()
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster):
        assert want == results()


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_strips_and_chunks_of_any_size_give_the_same(monkeypatch, rows):
    labels, probs = draw(300, 4, seed=12, decimals=2)
    members = [probs, (probs + 0.1) / 1.4]

    def results(kind):
        return (
            *count.compute_confident_joint(labels, kind(probs), return_indices_of_off_diagonals=True),
            count.get_confident_thresholds(labels, kind(probs)),
            rank.get_label_quality_ensemble_scores(
                labels, members, weight_ensemble_members_by="log_loss_search", verbose=False
            ),
        )

    want = results(np.asarray)
    monkeypatch.setattr("labelsieve.job.scan.MAX_STRIP_ROWS", rows)
    monkeypatch.setattr("labelsieve.job.whole_rows.BLOCK_ROWS", 2 * rows)
    for kind in (np.asarray, lambda probs: da.from_array(probs, chunks=(97, 4))):
        for one, other in zip(want, results(kind), strict=True):
            np.testing.assert_array_equal(one, other)


def test_verbose_prints_the_number_of_issues(capsys):
    labels, probs = draw(200, 3, seed=13)
    found = filter.find_label_issues(labels, probs, verbose=True)
    assert f"{found.sum():,} label issues in 200 examples of 3 classes" in capsys.readouterr().out
    filter.find_label_issues(labels, probs)
    assert capsys.readouterr() == ("", "")


def test_what_filters_refuse():
    labels, probs = draw(50, 3, seed=14)
    find = filter.find_label_issues
    for error, words, make in (
        (AssertionError, "filter_by must be one of", lambda: find(labels, probs, filter_by="pruned")),
        (AssertedInputError, "n_jobs must be", lambda: find(labels, probs, n_jobs=0)),
        (ValueError, "num_to_remove_per_class is not supported with filter_by='confident_learning'",
         lambda: find(labels, probs, filter_by="confident_learning", num_to_remove_per_class=[1, 1, 1])),
        (InputTypeError, "rank_by_kwargs has unknown names method",
         lambda: find(labels, probs, return_indices_ranked_by="self_confidence", rank_by_kwargs={"method": "x"})),
        (InvalidInputError, "confident_joint has 2 classes, pred_probs 3",
         lambda: find(labels, probs, confident_joint=np.ones((2, 2)))),
        (InvalidInputError, "confident_joint must be square",
         lambda: find(labels, probs, confident_joint=np.ones((3, 2)))),
        (InvalidInputError, "49", lambda: find(labels[:49], probs)),
        (InvalidInputError, "one dimensional", lambda: find(pd.DataFrame({"a": labels, "b": labels}), probs)),
        (TypeError, "must be a list of lists",
         lambda: filter.find_multi_label_issues(labels, probs)),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            make()


def test_a_joint_with_a_filter_that_has_no_use_for_it_is_refused_by_a_job():
    from labelsieve.job.job import Job
    from labelsieve.options import JobSettings

    labels, probs = draw(20, 2, seed=15)
    with pytest.raises(InvalidInputError, match="filter_by='confident_learning' does not use confident_joint"):
        Job(labels, probs, JobSettings(filter_by="confident_learning", confident_joint=np.ones((2, 2))))


def test_rows_that_do_not_sum_to_1_are_a_warning_as_cleanlab_takes_them():
    labels, probs = draw(200, 3, seed=15)
    probs *= 0.9
    want = cleanlab.filter.find_label_issues(labels, probs)
    for function in (filter.find_label_issues, rank.get_label_quality_scores, count.compute_confident_joint,
                     count.get_confident_thresholds, filter.find_predicted_neq_given):  # fmt: skip
        with pytest.warns(LabelsieveWarning, match="do not sum to 1"):
            got = function(labels, probs)
        if function is filter.find_label_issues:
            assert want.tolist() == got.tolist()


# rank ----------------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize(("method", "adjust"), naive.CLEANLAB_METHODS)
def test_scores_are_those_of_cleanlab(data, method, adjust):
    how = {"method": method, "adjust_pred_probs": adjust}
    want = cleanlab.rank.get_label_quality_scores(*data, **how)
    got = rank.get_label_quality_scores(*data, **how)
    assert (got.dtype, got.flags.writeable) == (np.float64, True)
    np.testing.assert_allclose(want, got, rtol=1e-11, atol=1e-11)
    if not adjust:
        np.testing.assert_array_equal(got, getattr(rank, f"get_{method}_for_each_label")(*data))


@pytest.mark.parametrize("method", METHODS)
def test_issues_are_sorted_as_in_cleanlab(real_datasets, method):
    labels, probs = real_datasets["digits"]
    mask = labels != probs.argmax(axis=1)
    want = cleanlab.rank.order_label_issues(mask, labels, probs, rank_by=method)
    assert want.tolist() == rank.order_label_issues(mask, labels, probs, rank_by=method).tolist()
    adjusted = {"rank_by_kwargs": {"adjust_pred_probs": True}}
    if method != "confidence_weighted_entropy":
        want = cleanlab.rank.order_label_issues(mask, labels, probs, rank_by=method, **adjusted)
        assert want.tolist() == rank.order_label_issues(mask, labels, probs, rank_by=method, **adjusted).tolist()
    with pytest.raises(InvalidInputError, match="must be 1,797 booleans, not of dtype int64"):
        rank.order_label_issues(np.flatnonzero(mask), labels, probs)


@pytest.mark.parametrize("top", [0, 3, 100, None])
def test_the_lowest_scores_are_those_of_cleanlab(top):
    scores = np.random.default_rng(0).permutation(50) / 50
    want, got = (module.find_top_issues(scores, top=top) for module in (cleanlab.rank, rank))
    assert want.tolist() == got.tolist()


@pytest.mark.parametrize("weighting", ["uniform", "accuracy", "log_loss_search", "custom"])
def test_ensemble_scores_and_printed_weights_are_those_of_cleanlab(weighting, capsys):
    labels, first = draw(300, 4, seed=16)
    members = [first, (first + 0.1) / 1.4, (first + np.roll(first, 1, axis=1) / 4) / 1.25]
    how = {"weight_ensemble_members_by": weighting}
    how |= {"custom_weights": np.array([0.5, 0.3, 0.2])} if weighting == "custom" else {}
    want = cleanlab.rank.get_label_quality_ensemble_scores(labels, members, verbose=False, **how)
    got = rank.get_label_quality_ensemble_scores(labels, members, **how)
    np.testing.assert_allclose(want, got, rtol=0, atol=1e-12)
    assert f"Weighting scheme for ensemble: {weighting}" in capsys.readouterr().out


def test_what_ensembles_refuse_by_assertion_as_cleanlab():
    labels, probs = draw(20, 3, seed=18)
    members = [probs, probs[::-1].copy()]
    for words, members_given, more in (
        ("must be a list of the pred_probs", np.array(members), {}),
        ("is empty", [], {}),
        ("0 custom_weights for 2 models", members, {"weight_ensemble_members_by": "custom"}),
        ("1 custom_weights", members, {"weight_ensemble_members_by": "custom", "custom_weights": np.ones(1)}),
    ):
        for function in (cleanlab.rank.get_label_quality_ensemble_scores, rank.get_label_quality_ensemble_scores):
            with pytest.raises(AssertionError):
                function(labels, members_given, **more)
        with pytest.raises(InvalidInputError, match=words):
            rank.get_label_quality_ensemble_scores(labels, members_given, **more)
    for more in ({"custom_weights": np.ones(2)}, {"weight_ensemble_members_by": "loss"}):
        for function in (cleanlab.rank.get_label_quality_ensemble_scores, rank.get_label_quality_ensemble_scores):
            with pytest.raises(ValueError):  # noqa: PT011  # cleanlab's words differ
                function(labels, members, **more)


# count ---------------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("given", [None, 0.3, 0.0, "classes"])
def test_joints_and_rows_off_the_diagonal_are_those_of_cleanlab(data, calibrate, given):
    labels, probs = near_ties(*data, seed=4)
    n_classes = probs.shape[1]
    how = {"calibrate": calibrate, "thresholds": given}
    if given is not None:
        how["thresholds"] = np.linspace(0.1, 0.9, n_classes).tolist() if given == "classes" else [given] * n_classes
    want = cleanlab.count.compute_confident_joint(labels, probs, return_indices_of_off_diagonals=True, **how)
    got = count.compute_confident_joint(labels, probs, return_indices_of_off_diagonals=True, **how)
    assert (got[0].dtype, got[1].dtype) == (np.int64, np.int64)
    assert want[0].tolist() == got[0].tolist() == count.compute_confident_joint(labels, probs, **how).tolist()
    assert want[1].tolist() == got[1].tolist()


def test_calibrated_joints_are_those_of_cleanlab(data):
    labels, probs = data
    rng = np.random.default_rng(6)
    n_classes = probs.shape[1]
    own = cleanlab.count.compute_confident_joint(labels, probs, calibrate=False)
    # Sums of eighths are exact. The last bits of others depend on the order of memory, and decide how ties are rounded.
    for joint in (own, own * 0.375, rng.random((n_classes, n_classes)), np.zeros((n_classes, n_classes), int)):
        want = cleanlab.count.calibrate_confident_joint(joint, labels)
        got = count.calibrate_confident_joint(joint, labels)
        assert want.tolist() == got.tolist()
        np.testing.assert_array_equal(
            cleanlab.count.estimate_joint(labels, None, confident_joint=joint),
            count.estimate_joint(labels, None, confident_joint=joint),
        )
        np.testing.assert_array_equal(
            cleanlab.count.estimate_joint(None, None, confident_joint=joint),
            count.estimate_joint(None, None, confident_joint=joint),
        )
    np.testing.assert_array_equal(cleanlab.count.estimate_joint(labels, probs), count.estimate_joint(labels, probs))


@pytest.mark.every_value
@pytest.mark.parametrize("method", ["off_diagonal", "off_diagonal_calibrated", "off_diagonal_custom"])
def test_the_number_of_issues_is_that_of_cleanlab(data, method):
    joint = {} if method != "off_diagonal_custom" else {"confident_joint": np.ones((data[1].shape[1],) * 2, int)}
    want = cleanlab.count.num_label_issues(*data, estimation_method=method, **joint)
    assert want == count.num_label_issues(*data, estimation_method=method, **joint)


@pytest.mark.every_value
@pytest.mark.parametrize("converge", [True, False])
@pytest.mark.parametrize("py_method", ["cnt", "eqn", "marginal", "marginal_ps"])
def test_latent_estimates_are_those_of_cleanlab(real_datasets, py_method, converge):
    how = {"py_method": py_method, "converge_latent_estimates": converge}
    for labels, probs in real_datasets.values():
        want = cleanlab.count.estimate_py_and_noise_matrices_from_probabilities(labels, probs, **how)
        got = count.estimate_py_and_noise_matrices_from_probabilities(labels, probs, **how)
        for one, other in zip(want, got, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
        for one, other in zip(count.estimate_latent(got[3], labels, **how), got, strict=False):
            np.testing.assert_array_equal(one, other)


def test_thresholds_are_those_of_cleanlab(data):
    want = cleanlab.count.get_confident_thresholds(*data)
    np.testing.assert_allclose(want, count.get_confident_thresholds(*data), rtol=0, atol=1e-12)


def tags(n_rows=120, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.random((n_rows, n_classes)) < 0.4
    probs = np.clip(np.where(true, 0.75, 0.25) + rng.normal(0, 0.2, true.shape), 0.01, 0.99)
    given = true ^ (rng.random(true.shape) < 0.1)
    return [np.flatnonzero(row).tolist() for row in given], probs


def test_counts_of_rows_with_several_labels_are_those_of_cleanlab():
    labels, probs = tags()
    several = {"multi_label": True}
    np.testing.assert_allclose(
        cleanlab.count.get_confident_thresholds(labels, probs, **several),
        count.get_confident_thresholds(labels, probs, **several),
        rtol=0,
        atol=1e-12,
    )
    for calibrate in (True, False):
        how = {"calibrate": calibrate, **several}
        want = cleanlab.count.compute_confident_joint(labels, probs, **how)
        assert want.tolist() == count.compute_confident_joint(labels, probs, **how).tolist()
        how |= {"return_indices_of_off_diagonals": True, "thresholds": [[0.4, 0.7], None][calibrate]}
        want, want_rows = cleanlab.count.compute_confident_joint(labels, probs, **how)
        got, rows = count.compute_confident_joint(labels, probs, **how)
        assert want.tolist() == got.tolist()
        assert [one.tolist() for one in want_rows] == [one.tolist() for one in rows]
    assert cleanlab.count.calibrate_confident_joint(want, labels, **several).tolist() == (
        count.calibrate_confident_joint(got, labels, **several).tolist()
    )
    for joint in ({}, {"confident_joint": got}):
        np.testing.assert_array_equal(
            cleanlab.count.estimate_joint(labels, probs, **several, **joint),
            count.estimate_joint(labels, probs, **several, **joint),
        )
    assert cleanlab.filter.find_predicted_neq_given(labels, probs, **several).tolist() == (
        filter.find_predicted_neq_given(labels, probs, **several).tolist()
    )
    chunked = da.from_array(probs, chunks=(30, 2))
    assert count.compute_confident_joint(labels, chunked, **several).tolist() == (
        count.compute_confident_joint(labels, probs, **several).tolist()
    )


@pytest.mark.parametrize("ranked", [None, "normalized_margin"])
@pytest.mark.filterwarnings("ignore:The multi_label argument:DeprecationWarning")  # of cleanlab
def test_issues_of_rows_with_several_labels_are_those_of_cleanlab(ranked):
    labels, probs = tags(seed=1)
    how = {"multi_label": True, "return_indices_ranked_by": ranked}
    want = cleanlab.filter.find_label_issues(labels, probs, n_jobs=1, **how)
    with pytest.warns(DeprecationWarning, match="multi_label is deprecated"):
        got = filter.find_label_issues(labels, probs, **how)
    assert want.dtype == got.dtype
    assert want.tolist() == got.tolist()
    assert cleanlab.count.num_label_issues(labels, probs, multi_label=True) == (
        count.num_label_issues(labels, probs, multi_label=True)
    )


@pytest.mark.parametrize("name", [name for module, name, here in ROWS if (module, here) == ("count", NOT_TRAINED)])
def test_functions_that_train_a_model_are_those_of_cleanlab(name):
    words = rf"^labelsieve\.cleanlab\.count does not train models: use (cleanlab\.count\.{name})$"
    with pytest.raises(ImportError, match=words) as caught:
        exec(f"from labelsieve.cleanlab.count import {name}")
    with pytest.raises(ImportError, match=words):
        getattr(count, name)
    labels, probs = draw(90, 3, seed=20)
    module, _, function = re.match(words, str(caught.value))[1].rpartition(".")
    found = getattr(importlib.import_module(module), function)(probs, labels, cv_n_folds=3, seed=0)
    if "cv_pred" in name:  # the probabilities are what the functions here take
        joint, predicted = found[-2:] if isinstance(found, tuple) else (None, found)
        assert joint is None or joint.tolist() == count.compute_confident_joint(labels, predicted).tolist()
    with pytest.raises(AttributeError, match="has no attribute 'estimate_other'"):
        count.estimate_other  # noqa: B018  # the access is the test


def test_what_counts_refuse():
    labels, probs = draw(50, 3, seed=21)
    lists, tag_probs = tags(20)
    for error, words, make in (
        (ValueError, "not a valid estimation method",
         lambda: count.num_label_issues(labels, probs, estimation_method="x")),
        (ValueError, "you need to provide pre-calculated",
         lambda: count.num_label_issues(labels, probs, estimation_method="off_diagonal_custom")),
        (ValueError, "py_method should be one of",
         lambda: count.estimate_latent(np.ones((3, 3)), labels, py_method="x")),
        (InvalidInputError, "give labels and pred_probs, or", lambda: count.estimate_joint(labels, None)),
        (InvalidInputError, "thresholds must be 3 numbers, not of shape",
         lambda: count.compute_confident_joint(labels, probs, thresholds=[0.5])),
        (InvalidInputError, "or NaN",
         lambda: count.compute_confident_joint(labels, probs, thresholds=[0.5, np.nan, 1])),
        (InputTypeError, "thresholds must be 3 numbers, not of dtype",
         lambda: count.compute_confident_joint(labels, probs, thresholds=["a", "b", "c"])),
        (InvalidInputError, "must have shape",
         lambda: count.calibrate_confident_joint(np.ones((3, 3)), lists, multi_label=True)),
        (InputTypeError, "must be a list with a list of classes",
         lambda: count.compute_confident_joint(labels, probs, multi_label=True, return_indices_of_off_diagonals=True)),
        (InputTypeError, "must be a list of lists",
         lambda: count.compute_confident_joint(labels, probs, multi_label=True)),
        (InvalidInputError, "19 labels, 20 rows",
         lambda: count.compute_confident_joint(lists[1:], tag_probs, multi_label=True, thresholds=[0.5, 0.5])),
        (InvalidInputError, "row 1 has class 7, outside 0..3",
         lambda: filter.find_predicted_neq_given([[0], [7], *lists[2:]], tag_probs, multi_label=True)),
        (InvalidInputError, "labels outside 0..2", lambda: count.get_confident_thresholds(labels + 1, probs)),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            make()
    with pytest.warns(UserWarning, match="confident_joint is ignored"):
        assert count.num_label_issues(labels, probs, confident_joint=np.ones((3, 3))) == (
            count.num_label_issues(labels, probs)
        )


# dataset -------------------------------------------------------------------------------------------------------------


def inputs_of(labels, probs, kind):
    if kind == "data":
        return {"labels": labels, "pred_probs": probs}
    joint = cleanlab.count.compute_confident_joint(labels, probs)
    if kind == "joint":
        return {"joint": cleanlab.count.estimate_joint(labels, probs), "num_examples": len(labels)}
    return {"labels": labels, "confident_joint": joint}


@pytest.mark.every_value
@pytest.mark.parametrize("kind", ["data", "joint", "counts"])
@pytest.mark.parametrize("names", [False, True])
def test_tables_are_those_of_cleanlab(data, kind, names):
    given = inputs_of(*data, kind)
    if names:
        given["class_names"] = [f"class {k}" for k in range(data[1].shape[1])]
    want = cleanlab.dataset.rank_classes_by_label_quality(**given)
    pd.testing.assert_frame_equal(want, dataset.rank_classes_by_label_quality(**given), check_exact=True)
    for asymmetric in (True, False):
        want = cleanlab.dataset.find_overlapping_classes(**given, asymmetric=asymmetric)
        got = dataset.find_overlapping_classes(**given, asymmetric=asymmetric)
        pd.testing.assert_frame_equal(want, got, check_exact=True)
    given.pop("class_names", None)
    want = cleanlab.dataset.overall_label_health_score(**given, verbose=False)
    assert want == dataset.overall_label_health_score(**given, verbose=False)


def test_the_summary_is_that_of_cleanlab(real_datasets, capsys):
    for labels, probs in real_datasets.values():
        want = cleanlab.dataset.health_summary(labels, probs, verbose=False)
        got = dataset.health_summary(labels, probs, verbose=False)
        assert list(want) == list(got)
        assert want["overall_label_health_score"] == got["overall_label_health_score"]
        np.testing.assert_array_equal(want["joint"], got["joint"])
        for name in ("classes_by_label_quality", "overlapping_classes"):
            pd.testing.assert_frame_equal(want[name], got[name], check_exact=True)
    assert capsys.readouterr() == ("", "")
    names = [f"name{k}" for k in range(probs.shape[1])]
    dataset.health_summary(labels, probs, class_names=iter(names))
    printed = capsys.readouterr().out
    assert all(words in printed for words in (*names, "Label Quality Score", "Joint Probability", "health score is"))


def test_a_notebook_shows_tables_its_own_way(monkeypatch):
    labels, probs = draw(100, 3, seed=25)
    shown = []
    for session, n_shown in ((None, 0), (object(), 2)):
        shell, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        shell.get_ipython, display.display = lambda session=session: session, shown.append
        monkeypatch.setitem(sys.modules, "IPython", shell)
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        summary = dataset.health_summary(labels, probs)
        assert len(shown) == n_shown
    assert shown[0] is summary["classes_by_label_quality"]


def test_the_summary_reads_pred_probs_twice(monkeypatch):
    labels, probs = draw(300, 3, seed=22)
    n_computed = 0

    def block(part):
        nonlocal n_computed
        n_computed += len(part)
        return part

    lazy = da.from_array(probs, chunks=(100, 3)).map_blocks(block, dtype=probs.dtype, meta=probs[:0])
    monkeypatch.setattr("labelsieve.job.inputs._PERSIST_SHARE", 0.0)  # it is not kept between the reads
    with pytest.warns(LabelsieveWarning, match="computed twice"):
        got = dataset.health_summary(labels, lazy, verbose=False)
    assert n_computed == 2 * 300
    assert got["overall_label_health_score"] == dataset.overall_label_health_score(labels, probs, verbose=False)


def test_estimates_alone_are_enough():
    labels, probs = draw(300, 3, seed=23)
    joint = count.compute_confident_joint(labels, probs)
    want = dataset.rank_classes_by_label_quality(labels, probs)
    pd.testing.assert_frame_equal(want, dataset.rank_classes_by_label_quality(confident_joint=joint))
    summary = dataset.health_summary(confident_joint=joint, verbose=False)
    pd.testing.assert_frame_equal(want, summary["classes_by_label_quality"])
    assert summary["overall_label_health_score"] == pytest.approx(np.trace(joint) / 300)
    with pytest.warns(UserWarning, match="does not use confident_joint"):
        other = dataset.health_summary(labels, probs, confident_joint=joint, verbose=False)
    assert other["overall_label_health_score"] == dataset.overall_label_health_score(labels, probs, verbose=False)


@pytest.mark.parametrize(
    "function",
    [
        dataset.rank_classes_by_label_quality,
        dataset.find_overlapping_classes,
        dataset.overall_label_health_score,
        dataset.health_summary,
    ],
)
def test_what_summaries_refuse(function):
    labels, probs = draw(30, 3, seed=24)
    for words, given in (
        ("multilabel_classification.dataset", {"multi_label": True}),
        ("give labels and pred_probs, or joint and num_examples", {"joint": np.eye(3) / 3}),
        ("give labels and pred_probs, or a confident_joint", {"labels": labels}),
        ("joint must be a", {"joint": np.ones(3), "num_examples": 30}),
    ):
        with pytest.raises(ValueError, match=words):
            function(**given)
    if function is not dataset.overall_label_health_score:
        with pytest.raises(InvalidInputError, match="2 class_names for 3 classes"):
            function(labels, probs, class_names=["a", "b"])
