"""A table of row summaries that other code has made gives the answers of the probabilities themselves."""

import numpy as np
import pytest

import draws
import labelsieve
from labelsieve.errors import InvalidInputError

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
        ({"label": LABELS[:-1]}, r"predicted has shape \(1000,\): all columns need one value per row"),
        ({"label": np.where(ROWS == 7, 6, LABELS)}, "label is 6 in row 7, and in 0 others"),
        ({"predicted": LABELS.astype(float)}, "predicted must be integers, not float64"),
        ({"p_label": np.where(ROWS == 3, np.nan, 0.1)}, "p_label is nan in row 3"),
        ({"p_label": np.full(1000, 0.1, np.float32)}, "give the same dtype"),
        ({"p_predicted": np.full(1000, 0.01)}, "p_predicted must be the largest probability of the row"),
        ({"n_classes": 1}, "n_classes must be a whole number of at least 2"),
    ],
)
def test_columns_that_are_no_summaries_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        labelsieve.RowSummaries.from_columns(**columns(**changes))
