"""Recorded summaries give what the probabilities give, and bad ones are findings with their rows."""

import numpy as np
import pytest

import draws
from labelsieve.confident_learning.checks import raise_or_warn
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import RecordedSummarizer, Summarizer, recorded_columns, summary_dtype
from labelsieve.errors import InvalidInputError

LABELS, PROBS = draws.draw(500, 5, seed=7, noise=0.2)
SCORES = {"normalized_margin": Settings("normalized_margin"), "row_sum": Settings(adjust_pred_probs=True)}


def record(dtype=np.float32, recorded=()):
    """Return the strip that a recorder would keep of all rows."""
    probs = PROBS.astype(dtype)
    strip = np.empty(len(probs), summary_dtype(5, np.dtype(dtype), recorded))
    for name in recorded:
        summarizer = Summarizer(len(probs), 5, np.dtype(dtype), SCORES[name])
        summary = summarizer.add(LABELS, probs)
        strip[name] = summary.row_sum if name == "row_sum" else summary.score
    strip["predicted"] = probs.argmax(axis=1)
    strip["p_label"], strip["p_predicted"] = probs[np.arange(len(probs)), LABELS], probs.max(axis=1)
    return strip


def totals_of(summarizer, labels, rows, size=77):
    for start in range(0, len(rows), size):
        summarizer.add(labels[start : start + size], rows[start : start + size])
    return summarizer.take(), summarizer.totals()


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("recorded", [(), ("normalized_margin",), ("row_sum",)], ids=str)
def test_the_table_is_that_of_the_probabilities(dtype, recorded):
    settings = SCORES[recorded[0]] if recorded else Settings()
    want, wanted = totals_of(Summarizer(500, 5, np.dtype(dtype), settings), LABELS, PROBS.astype(dtype))
    found, totals = totals_of(RecordedSummarizer(500, 5, np.dtype(dtype), settings), LABELS, record(dtype, recorded))
    assert found.columns().keys() == want.columns().keys()
    for name, column in want.columns().items():
        assert found.columns()[name].dtype == column.dtype
        assert found.columns()[name].tobytes() == column.tobytes()
    for name in ("classes", "counts", "high", "low"):
        np.testing.assert_array_equal(getattr(totals.sums, name), getattr(wanted.sums, name))
    assert (totals.agreement, totals.n_read, totals.found) == (wanted.agreement, 500, {})


def findings(first_row=0, n_classes=5, labels=LABELS, recorded=("normalized_margin",), **changes):
    """Return the findings after values of some rows were changed: of each column a mapping of row to value."""
    strip, labels = record(recorded=recorded), labels.copy()
    strip = strip.astype([(name, np.int64 if name == "predicted" else strip.dtype[name]) for name in strip.dtype.names])
    for name, values in changes.items():
        for row, value in values.items():
            if name == "label":
                labels[row] = value
            else:
                strip[name][row] = value
    settings = SCORES[recorded[0]] if recorded else Settings()
    summarizer = RecordedSummarizer(500, n_classes, np.dtype(np.float32), settings, first_row)
    return totals_of(summarizer, labels, strip)[1].findings


SAME = int(np.flatnonzero(PROBS.argmax(axis=1) == LABELS)[3])
OTHER = int(np.flatnonzero((PROBS.argmax(axis=1) != LABELS) & (PROBS.argmax(axis=1) > LABELS))[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": {3: 5}}, r"1 label outside 0\.\.4 in row 1003 \(first: 5\)"),
        ({"predicted": {3: -1, 4: 5}}, r"2 predicted classes outside 0\.\.4 in rows 1003\.\.1004 \(first: -1\)"),
        ({"predicted": {3: 2**32}}, r"1 predicted class outside 0\.\.4 in row 1003 \(first: 4294967296\)"),
        ({"p_label": {OTHER: np.nan}}, f"1 NaN probability in row {1000 + OTHER}$"),
        ({"p_label": {SAME: np.nan}, "p_predicted": {SAME: np.nan}}, f"2 NaN probabilities in row {1000 + SAME}$"),
        ({"p_predicted": {9: np.inf}}, "1 infinite probability in row 1009$"),
        ({"p_predicted": {9: 1.5}}, r"1 probability above 1 in row 1009 \(first: 1.5;"),
        ({"p_label": {9: -0.5}}, r"1 probability below 0 in row 1009 \(first: -0.5;"),
        (
            {"p_label": {OTHER: 0, 0: 0}, "p_predicted": {OTHER: 0, 0: 0}},
            f"all zeros, rows 1000, {1000 + OTHER}: missing",
        ),
        (
            {"p_label": {SAME: 0.9}, "p_predicted": {SAME: 0.95}},
            rf"1 row whose p_predicted is not the largest probability in row {1000 + SAME} \(first: p_label is 0.9\)",
        ),
        ({"p_label": {OTHER: 0.9}, "p_predicted": {OTHER: 0.8}}, f"not the largest probability in row {1000 + OTHER} "),
        (
            {"p_label": {OTHER: 0.5}, "p_predicted": {OTHER: 0.5}},
            rf"row whose predicted class is not the first .* in row {1000 + OTHER} \(first: the label {LABELS[OTHER]}",
        ),
        (
            {"normalized_margin": {8: np.nan}},
            r"1 recorded score that is not between 0 and 1 in row 1008 \(first: nan\)",
        ),
        ({"normalized_margin": {8: 3, 9: -3}}, r"2 recorded scores that are not between 0 and 1 in rows 1008\.\.1009"),
        ({"recorded": ("row_sum",), "row_sum": {8: 99}}, "1 recorded sum of a row that is not possible in row 1008"),
    ],
)
def test_bad_summaries_are_errors_with_their_rows(changes, message):
    changes = dict(changes)
    found = findings(1000, recorded=changes.pop("recorded", ("normalized_margin",)), **changes)
    with pytest.raises(InvalidInputError, match=message):
        raise_or_warn(found, 5)


def test_rows_that_no_distribution_has_are_a_warning():
    found = findings(p_label={SAME: 0.1}, p_predicted={SAME: 0.1})
    with pytest.warns(UserWarning, match=rf"largest value is below 1/K, which no distribution has \(row {SAME}\)"):
        raise_or_warn(found, 5)


def test_minus_zero_counts_as_zero_and_ties_of_later_classes_are_right():
    strip = np.array([(0, -0.0, 1.0), (0, 0.5, 0.5)], summary_dtype(2, np.dtype(np.float64)))
    summarizer = RecordedSummarizer(2, 2, np.dtype(np.float64))
    summary = summarizer.add(np.array([1, 1]), strip)
    assert not np.signbit(summary.p_label).any()
    assert not summarizer.totals().findings


def test_what_is_not_recorded_is_named():
    assert recorded_columns(Settings(), ()) == {}
    assert recorded_columns(Settings("normalized_margin"), ("row_sum", "normalized_margin")) == {
        "score": "normalized_margin"
    }
    with pytest.raises(
        InvalidInputError, match=r"recorded are row_sum\): record it with scores=\('normalized_margin',"
    ):
        recorded_columns(Settings("normalized_margin"), ("row_sum",))
    with pytest.raises(InvalidInputError, match=r"adjust_pred_probs=True needs the column row_sum .*no such column"):
        recorded_columns(Settings(adjust_pred_probs=True), ())
