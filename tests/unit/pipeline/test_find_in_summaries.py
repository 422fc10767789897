"""A table of row summaries that other code has made gives the answers of the probabilities themselves."""

import pickle

import numpy as np
import pytest

import draws
import labelsieve
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, MemoryLimitError

LABELS, PROBS = draws.draw(1000, 6, seed=4, noise=0.2)
ROWS = np.arange(len(LABELS))


def columns(probs=PROBS, **changes):
    """Return what a user's own loop would record."""
    predicted = probs.argmax(axis=1)
    return {
        "label": LABELS,
        "predicted": predicted,
        "p_label": probs[ROWS, LABELS],
        "p_predicted": probs[ROWS, predicted],
        "n_classes": probs.shape[1],
    } | changes


def find(table, **choices):
    return labelsieve.find_label_issues(summaries=table, progress=False, **choices)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "choices", [{}, {"estimation_method": "off_diagonal_calibrated"}, {"filter_by": "predicted_neq_given"}], ids=str
)
def test_the_answer_is_that_of_the_probabilities(dtype, choices):
    probs = PROBS.astype(dtype)
    want = labelsieve.find_label_issues(LABELS, probs, progress=False, **choices)
    found = find(labelsieve.RowSummaries.from_columns(**columns(probs)), **choices)
    assert found.num_issues > 20
    assert draws.bits(found) == draws.bits(want)
    assert found.estimated_num_issues == want.estimated_num_issues
    assert found.class_summary().equals(want.class_summary())
    assert (found.facts.bytes_read, found.facts.n_reads) == (0, 0)


@pytest.mark.parametrize("method", ["normalized_margin", "confidence_weighted_entropy"])
def test_scores_of_another_method_are_a_column(method):
    want = labelsieve.find_label_issues(LABELS, PROBS, method=method, progress=False)
    table = labelsieve.RowSummaries.from_columns(**columns(score=want.scores))
    assert draws.bits(find(table, method=method)) == draws.bits(want)
    plain = labelsieve.find_label_issues(LABELS, PROBS, progress=False)
    assert draws.bits(find(table)) == draws.bits(plain), "a table serves several methods"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"filter_by": "both"}, "needs all probabilities of each row"),
        ({"rule": "confident_joint"}, "needs all probabilities of each row"),
        ({"adjust_pred_probs": True}, "adjust_pred_probs needs all probabilities of each row"),
        ({"method": "normalized_margin"}, "method='normalized_margin' needs the column score"),
        ({"workdir": "w"}, "workdir cannot be used with summaries"),
        ({"labels": LABELS, "pred_probs": PROBS}, "give labels and pred_probs, or summaries"),
    ],
)
def test_what_a_table_cannot_tell_is_refused_by_name(choices, message):
    with pytest.raises(InvalidInputError, match=message):
        find(labelsieve.RowSummaries.from_columns(**columns()), **choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": LABELS[:-1]}, r"predicted has shape \(1000,\), label \(999,\): all columns need one value per row"),
        ({"label": np.where(ROWS == 7, 6, LABELS)}, "label is 6 in row 7, and in 0 others"),
        ({"predicted": LABELS.astype(float)}, "predicted must be integers, not float64"),
        ({"p_label": np.where(ROWS == 3, np.nan, 0.1)}, "p_label is nan in row 3"),
        ({"p_label": np.full(1000, 0.1, np.float32)}, "give the same dtype"),
        ({"p_predicted": np.full(1000, 0.01)}, "p_predicted must be the largest probability of the row"),
        ({"n_classes": 1}, "n_classes must be a whole number of at least 2"),
        ({"n_classes": 10**14}, "100,000,000,000,000 classes would take"),
        ({"label": [[0], [1, 2]]}, "label is not an array"),
        ({"label": [[0]]}, r"label has shape \(1, 1\): all columns need one value per row"),
        ({"label": np.ma.masked_equal(LABELS, 3)}, "label has masked values: drop or fill them first"),
        ({"p_label": np.full(1000, 0.1, np.longdouble)}, "p_label must be float16, float32 or float64, not float128"),
        ({"score": np.full(1000, np.inf)}, "score is inf in row 0, and in 999 others"),
        ({"score": np.full(1000, 1e300)}, "score is 1e[+]300 in row 0"),
        (
            {"predicted": np.maximum(LABELS, 1), "p_label": np.full(1000, 0.5), "p_predicted": np.full(1000, 0.5)},
            "predicted must be the first class of the largest probability; in row .* class 0 has it too",
        ),
    ],
)
def test_columns_that_are_no_summaries_are_refused(changes, message):
    with pytest.raises((InvalidInputError, MemoryLimitError), match=message):
        labelsieve.RowSummaries.from_columns(**columns(**changes))


def test_rows_that_no_distribution_has_are_told_as_of_probabilities():
    rows = {"label": [0, 1, 2], "predicted": [0, 1, 2], "n_classes": 3}
    low = labelsieve.RowSummaries.from_columns(p_label=[0.9, 0.2, 0.8], p_predicted=[0.9, 0.2, 0.8], **rows)
    with pytest.warns(LabelsieveWarning, match=r"1 row of pred_probs whose largest value is below 1/K.*\(row 1\)"):
        assert len(find(low).facts.notes) == 1
    zero = labelsieve.RowSummaries.from_columns(p_label=[0.9, 0, 0.8], p_predicted=[0.9, 0, 0.8], **rows)
    with pytest.raises(InvalidInputError, match="1 row of pred_probs that is all zeros, row 1"):
        find(zero)
    assert find(zero, allow_zero_rows=True).n_rows == 3


def test_choices_without_effect_are_told_as_of_probabilities():
    table = labelsieve.RowSummaries.from_columns(**columns())
    with pytest.warns(LabelsieveWarning, match="does not use frac_noise"):
        find(table, filter_by="predicted_neq_given", frac_noise=0.5)


def test_an_object_that_is_no_table_is_refused():
    with pytest.raises(InputTypeError, match=r"summaries must be a table .* not dict"):
        find(columns())


def test_a_table_can_be_pickled():
    table = labelsieve.RowSummaries.from_columns(**columns())
    assert draws.bits(find(pickle.loads(pickle.dumps(table)))) == draws.bits(find(table))
