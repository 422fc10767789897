"""Weights by accuracy, and cleanlab's scores of an ensemble: the same numbers, or a word on what to do instead."""

import cleanlab.rank
import numpy as np
import pytest

import labelsieve
from draws import assert_same_bits, draw, find
from labelsieve import Ensemble, LabelInspector
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning

SETTINGS = [
    ("self_confidence", False),
    ("self_confidence", True),
    ("normalized_margin", False),
    ("normalized_margin", True),
    ("confidence_weighted_entropy", False),
]


def models(n_classes=6, n_rows=400, dtype="f8"):
    labels, first = draw(n_rows, n_classes, signal=2.0, noise=0.2)
    rng = np.random.default_rng(1)
    members = []
    for spread in (0.2, 1.0, 2.0):
        probs = first * np.exp(rng.normal(size=first.shape) * spread)
        members.append((probs / probs.sum(axis=1, keepdims=True)).astype(dtype))
    return labels, members


def accuracies(labels, members):
    return [float(np.mean(member.argmax(axis=1) == labels)) for member in members]


@pytest.mark.parametrize("n_classes", [6, 40])
def test_weights_by_accuracy_are_those_of_the_predicted_classes(tmp_path, n_classes):
    labels, members = models(n_classes)
    shares = accuracies(labels, members)
    assert len(set(shares)) == 3
    want = find(labels, Ensemble(members, shares))
    for number, member in enumerate(members):
        np.save(tmp_path / f"{number}.npy", member)
    for given in (members, [tmp_path / f"{number}.npy" for number in range(3)]):
        got = find(labels, Ensemble(given, "accuracy"), batch_size=70, partition_batches=2)
        assert_same_bits(got, want)
    assert got.facts.bytes_read == 2 * want.facts.bytes_read
    assert str(shares[1]) in got.facts.inputs["pred_probs"]


def test_weights_by_accuracy_in_a_workdir_follow_the_labels(tmp_path):
    labels, members = models()
    settings = {"workdir": tmp_path / "work", "batch_size": 70}
    find(labels, Ensemble(members, "accuracy"), **settings)
    again = find(labels, Ensemble(members, "accuracy"), **settings)
    assert again.facts.rows_read == 0
    assert labelsieve.plan_label_issues(labels, Ensemble(members, "accuracy"), **settings).known_rows == 400
    other = np.where(np.arange(400) < 40, (labels + 1) % 6, labels)
    with pytest.raises(labelsieve.WorkdirError):
        find(other, Ensemble(members, "accuracy"), **settings)


def test_weights_that_are_not_known_are_refused():
    labels, members = models()
    inspector = LabelInspector(num_class=6)
    with pytest.raises(InvalidInputError, match=r"weights of the mean of .* are not known"):
        inspector.update_confident_thresholds(labels, Ensemble(members, "accuracy"))
    with pytest.raises(InvalidInputError, match=r"member 1 of the ensemble .*NaN"):
        find(labels, Ensemble([members[0], np.where(np.arange(6) == 3, np.nan, members[1])], "accuracy"))
    wrong = np.eye(6)[(labels + 1) % 6]
    with pytest.raises(InvalidInputError, match="no member of the ensemble predicts a single label"):
        find(labels, Ensemble([wrong, wrong.copy()], "accuracy"))
    assert labelsieve.plan_label_issues(labels, Ensemble(members, "accuracy")).n_partitions == 1


@pytest.mark.every_pair
@pytest.mark.parametrize("weighting", ["uniform", "accuracy", "log_loss_search", "custom"])
@pytest.mark.parametrize(("method", "adjust"), SETTINGS)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # scikit-learn's, of float32
def test_scores_are_those_of_cleanlab(method, adjust, weighting, dtype):
    labels, members = models(dtype=dtype)
    settings = {
        "method": method,
        "adjust_pred_probs": adjust,
        "weight_ensemble_members_by": weighting,
        "custom_weights": np.array([0.2, 0.5, 0.4]) if weighting == "custom" else None,
        "verbose": False,
    }
    got = labelsieve.get_label_quality_ensemble_scores(labels, members, **settings)
    want = cleanlab.rank.get_label_quality_ensemble_scores(labels, members, **settings)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 if dtype == "f8" else 1e-6)


def test_scores_of_real_data_are_those_of_cleanlab(real_datasets):
    for labels, probs in real_datasets.values():
        flat = (probs + 0.02) / (probs + 0.02).sum(axis=1, keepdims=True)
        members = [probs, flat, (probs + flat) / 2]
        got = labelsieve.get_label_quality_ensemble_scores(labels, members, verbose=False)
        want = cleanlab.rank.get_label_quality_ensemble_scores(labels, members, verbose=False)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_what_scores_refuse(capsys):
    labels, members = models()
    scores = labelsieve.get_label_quality_ensemble_scores
    for error, words, make in (
        (InvalidInputError, "none of log_loss_search_T_values gives weights",
         lambda: scores(labels, members, weight_ensemble_members_by="log_loss_search", log_loss_search_T_values=[1e9])),
        (InvalidInputError, "uniform, accuracy, log_loss_search, custom",
         lambda: scores(labels, members, weight_ensemble_members_by="loss")),
        (InvalidInputError, "and only then", lambda: scores(labels, members, custom_weights=[1, 1, 1])),
        (InvalidInputError, "and only then", lambda: scores(labels, members, weight_ensemble_members_by="custom")),
        (InvalidInputError, "2 custom_weights for 3 models",
         lambda: scores(labels, members, weight_ensemble_members_by="custom", custom_weights=[1, 1])),
        (InvalidInputError, "finite numbers",
         lambda: scores(labels, members, weight_ensemble_members_by="custom", custom_weights=[1, 1, np.nan])),
        (InputTypeError, "must be a list of pred_probs, not ndarray", lambda: scores(labels, members[0])),
        (InvalidInputError, "at least one member", lambda: scores(labels, [])),
        (InvalidInputError, "member 1", lambda: scores(labels, [members[0], members[1][:9]])),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            make()
    with pytest.warns(LabelsieveWarning, match="has one element"):
        scores(labels, members[:1])
    assert "Model 0 weight: 1.0" in capsys.readouterr().out
