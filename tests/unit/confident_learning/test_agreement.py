"""Labels that do not belong to the predictions: when a warning says so, what it says, and when there is none."""

import itertools
import warnings

import dask.array as da
import numpy as np
import pytest

import labelsieve
from draws import draw, find, in_turn
from labelsieve import LabelInspector, LabelsieveWarning
from labelsieve.cli.app import run
from labelsieve.confident_learning import misfit as agreement
from labelsieve.confident_learning.misfit import Agreement, Fit, RowSample, describe_misfit
from labelsieve.errors import InvalidInputError

K = 10
LABELS, PROBS = draw(600, K, signal=4.0)
PREDICTED = PROBS.argmax(axis=1)
SHARE = f"{np.mean(LABELS == PREDICTED):.1%} of rows would agree"
CLASSES = "Likely cause: the classes are in a different order. "
ROWS = (
    "Likely cause: the rows are in different orders (labels or pred_probs was shuffled, sorted or filtered without the "
    "other), or the model has not learned these classes"
)
_RNG = np.random.default_rng(3)
ORDER = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])  # class 1 and class 8 stay
BACK = np.argsort(ORDER)
MOVED = ", ".join(f"{label} as {BACK[label]}" for label in (2, 3, 4, 5))
RENUMBERED = f"With the labels renumbered like this, {SHARE}"
# Each with the cause, as far as it does not hang on numbers that other tests look at.
WRONG = {
    "classes rolled up": (
        (LABELS + 1) % K,
        f"{CLASSES}Label 0 is mostly predicted as class 9, 1 as 0, 2 as 1, 3 as 2, 4 as 3, and 5 more are moved. With",
    ),
    "classes renumbered": (
        ORDER[LABELS],
        f"{CLASSES}Label 0 is mostly predicted as class {BACK[0]}, {MOVED}, and 3 more are moved. {RENUMBERED}",
    ),
    "rows shuffled": (_RNG.permutation(LABELS), ROWS),
    "rows sorted": (np.sort(LABELS), ROWS),
    "rows late": (
        np.roll(LABELS, 1),
        "Likely cause: labels are shifted by one row. With labels[1:] and pred_probs[:-1], ",
    ),
    "rows early": (
        np.roll(LABELS, -1),
        "Likely cause: labels are shifted by one row. With labels[:-1] and pred_probs[1:], ",
    ),
    "three rows late": (
        np.roll(LABELS, 3),
        "Likely cause: labels are shifted by 3 rows. With labels[3:] and pred_probs[:-3], ",
    ),
    "rows reversed": (LABELS[::-1], f"Likely cause: the rows are reversed. With labels[::-1], {SHARE}"),
}


def text_of(labels, predicted, n_classes=K):
    return describe_misfit(labels, predicted, n_classes, len(labels))


def warned(function, *args, **kwargs):
    """Return what `function` gives, and all that it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    assert {one.category for one in caught} <= {LabelsieveWarning}
    return result, [str(one.message) for one in caught if "undecided" not in str(one.message)]


# The cause -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRONG)
def test_the_likely_cause_is_named(name):
    labels, cause = WRONG[name]
    text = text_of(labels, PREDICTED)
    share, chance = np.mean(labels == PREDICTED), np.bincount(labels) @ np.bincount(PREDICTED) / 600**2
    assert text.startswith(
        f"labels and pred_probs do not seem to belong together: the label is the predicted class in {share:.1%} of 600 "
        f"rows, where chance alone would give {chance:.1%}. {cause}"
    )


def test_labels_that_count_from_one_and_lack_the_last_class_are_named_without_a_remainder():
    some = LABELS < K - 1
    text = text_of(LABELS[some] + 1, PREDICTED[some])
    share = np.mean(LABELS[some] == PREDICTED[some])
    assert f"{CLASSES}Label 1 is mostly predicted as class 0, 2 as 1, " in text
    assert text.endswith(f"With the labels renumbered like this, {share:.1%} of rows would agree")


def test_a_little_agreement_of_other_rows_is_no_cause():
    # Rows that come in rounds of the classes and are late by 7: each label meets the same other class more often.
    rng = np.random.default_rng(5)
    labels = np.where(rng.random(20_000) < 0.25, np.arange(20_000) % K, rng.integers(0, K, 20_000))
    late = np.roll(labels, 7)
    assert 0.14 < np.mean((late + 7) % K == labels) < 0.2
    assert text_of(late, labels).endswith(ROWS)
    # Many classes and a model that is right in one row of twelve: little, and far more than by chance.
    labels = rng.integers(0, 500, 20_000)
    predicted = np.where(rng.random(20_000) < 0.08, labels, rng.integers(0, 500, 20_000))
    text = text_of((labels + 1) % 500, predicted, 500)
    assert CLASSES in text
    assert text.endswith("With the labels renumbered like this, 8.2% of rows would agree")


def test_two_classes_that_are_swapped():
    labels, probs = draw(300, 2, signal=3.0)
    text = text_of(1 - labels, probs.argmax(axis=1), 2)
    cause = f"{CLASSES}Label 0 is mostly predicted as class 1, 1 as 0. With the labels renumbered like this, "
    assert f"{cause}{np.mean(labels == probs.argmax(axis=1)):.1%}" in text


def test_most_classes_in_another_order_are_told_beside_some_that_are_right():
    order = np.array([1, 2, 3, 4, 5, 0, 6, 7, 8, 9])
    labels = order[LABELS]
    assert Fit.of(labels, PREDICTED, K).deviations > 5  # so many agree that chance is out of the question
    assert (
        f"{CLASSES}Label 0 is mostly predicted as class 5, 1 as 0, 2 as 1, 3 as 2, 4 as 3, and 1 more are"
        in text_of(labels, PREDICTED)
    )
    # Of three classes of ten nothing is said: an asymmetric kind of noise looks the same.
    order = np.array([1, 2, 0, 3, 4, 5, 6, 7, 8, 9])
    assert text_of(order[LABELS], PREDICTED) == ""


def test_a_shift_is_found_where_neighbours_are_alike():
    labels, predicted = (np.repeat(column, 4) for column in (LABELS, PREDICTED))
    assert text_of(labels, predicted) == ""
    assert Fit.of(np.roll(labels, 1), predicted, K).deviations > 50
    assert "labels are shifted by one row. With labels[1:] and pred_probs[:-1]" in text_of(
        np.roll(labels, 1), predicted
    )


# No warning ------------------------------------------------------------------------------------------------------


def made_up(seed):
    """Return labels and predictions of a model that learned something, of any size, shape and noise."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.choice([2, 3, 5, 10, 100])), int(np.exp(rng.uniform(np.log(10), np.log(20_000))))
    shares = (np.ones(k), 1 / np.arange(1, k + 1), np.append(10.0 * k, np.ones(k - 1)))[rng.integers(3)]
    true = rng.choice(k, n, p=shares / shares.sum())
    noise = rng.uniform(0, 0.6 if k > 2 else 0.35)
    other = (rng.integers(0, k, n), (true + 1) % k)[rng.integers(2) if noise < 0.45 else 0]
    labels = np.where(rng.random(n) < noise, other, true)
    evidence = rng.normal(size=(n, k))
    evidence[np.arange(n), true] += rng.uniform(1.5, 5)
    predicted = (2 * evidence + np.log(shares) * rng.integers(0, 2)).argmax(axis=1)
    if rng.random() < 0.3:  # sorted by class
        order = np.argsort(labels, kind="stable")
        labels, predicted = labels[order], predicted[order]
    return labels, predicted, k


def test_data_that_fits_is_left_alone():
    found = {seed: text_of(*made_up(seed)) for seed in range(300)}
    # All but those where the model is hardly better than chance.
    weak = {seed for seed in found if Fit.of(*made_up(seed)).strength < 0.1}
    assert len(weak) < 30
    assert {seed: text for seed, text in found.items() if text and seed not in weak} == {}


def test_two_classes_that_are_confused_more_often_than_not_are_noise():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 3000)
    labels = np.where((true < 2) & (rng.random(3000) < 0.58), 1 - true, true)
    assert np.mean(labels[true < 2] == true[true < 2]) < 0.45
    assert text_of(labels, true, 3) == ""


@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_model_that_always_predicts_the_same_class_is_left_alone(n_classes):
    labels = np.where(np.arange(5000) % 20, 1, 0)
    assert text_of(labels, np.ones(5000, int), n_classes) == ""
    assert text_of(np.zeros(5000, int), labels, n_classes) == ""


def test_few_rows_are_left_alone_where_no_cause_fits():
    rng = np.random.default_rng(0)
    assert text_of(rng.integers(0, 2, 100), rng.integers(0, 2, 100), 2) == ""
    assert text_of(rng.permutation(10), rng.permutation(10), 10) == ""
    assert text_of(np.array([1]), np.array([0]), 2) == ""
    # But a cause that does is named: all of 40 rows the other way round is no chance.
    assert "With the labels renumbered like this, 100.0%" in text_of(np.arange(40) % 2, 1 - np.arange(40) % 2, 2)


@pytest.mark.parametrize("n_predicted", [1, 5, 20])
def test_a_rare_class_that_is_hardly_predicted_is_left_alone(n_predicted):
    rows = np.arange(100_000)
    labels = (rows < 100).astype(int)
    predicted = ((rows >= 500) & (rows < 500 + n_predicted)).astype(int)  # all of them wrong
    assert Fit.of(labels, predicted, 2).most > 30
    assert text_of(labels, predicted, 2) == ""
    # But half of a class of a hundred is enough to tell.
    predicted = ((rows >= 500) & (rows < 550)).astype(int)
    assert "rows are in different orders" in text_of(labels, predicted, 2)


@pytest.mark.parametrize("row", [297, 4])
def test_one_row_that_agrees_when_reversed_or_shifted_is_no_cause(row):
    labels, predicted = np.zeros(300, int), np.zeros(300, int)
    labels[2], predicted[row] = 1, 1
    agreeing = labels[::-1] if row == 297 else np.roll(labels, 2)
    assert Fit.of(agreeing, predicted, 2).deviations > 10
    assert text_of(labels, predicted, 2) == ""


@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer"])
def test_real_data_is_left_alone_and_its_rolled_classes_are_found(real_datasets, name):
    labels, probs = real_datasets[name]
    n_classes = probs.shape[1]
    issues, texts = warned(find, labels, probs)
    assert (texts, issues.facts.misfit) == ([], "")
    issues, texts = warned(find, (labels + 1) % n_classes, probs)
    assert texts == [issues.facts.misfit]
    assert f"{CLASSES}Label 0 is mostly predicted as class {n_classes - 1}, 1 as 0" in texts[0]


# The arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_that_of_all_orders(seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 3, 6), rng.integers(0, 3, 6)
    shares = [np.mean(labels == order) for order in itertools.permutations(predicted)]
    fit = Fit.of(labels, predicted, 3)
    assert fit.share == np.mean(labels == predicted)
    assert fit.chance == pytest.approx(np.mean(shares))
    assert fit.deviations == pytest.approx((fit.share - np.mean(shares)) / np.std(shares))
    assert fit.most == pytest.approx((max(shares) - np.mean(shares)) / np.std(shares))


@pytest.mark.parametrize("cut", [1, 7, 200, 600])
def test_neighbours_are_counted_at_least_wherever_rows_are_cut(cut):
    labels = np.roll(LABELS, 1)
    pieces = [Agreement.of(labels[i : i + cut], PREDICTED[i : i + cut]) for i in range(0, 600, cut)]
    total = Agreement.total(pieces)
    before = np.count_nonzero(labels[1:] == PREDICTED[:-1])
    after = np.count_nonzero(labels[:-1] == PREDICTED[1:])
    assert total.same == np.count_nonzero(labels == PREDICTED)
    assert before <= total.before <= before + len(pieces)
    assert after <= total.next <= after + len(pieces)


def test_a_sample_is_the_same_wherever_rows_are_cut_and_in_reverse(monkeypatch):
    monkeypatch.setattr(agreement, "SAMPLE_ROWS", 1024)
    sample = RowSample(10_001)
    rows = sample.rows(0, 10_001)
    assert (len(rows), sample.window) == (1024, 64)
    assert (np.diff(rows) > 0).all()
    assert (np.diff(rows.reshape(-1, 64), axis=1) == 1).all()
    assert (rows[0], rows[-1]) == (0, 10_000)
    np.testing.assert_array_equal(10_000 - rows[::-1], rows)
    for cut in (1, 63, 64, 1000):
        pieces = [sample.rows(start, min(start + cut, 10_001)) for start in range(0, 10_001, cut)]
        np.testing.assert_array_equal(np.concatenate(pieces), rows)
    np.testing.assert_array_equal(RowSample(1024).rows(5, 9), [5, 6, 7, 8])
    assert RowSample(1024).window == 1024
    assert len(RowSample(1025).rows(0, 1025)) == 1024


# In a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRONG)
def test_a_run_warns_once_and_keeps_the_text(name):
    labels, cause = WRONG[name]
    issues, texts = warned(find, labels, PROBS)
    assert texts == [text_of(labels, PREDICTED)]
    assert issues.facts.misfit == texts[0]
    assert cause in texts[0]


@pytest.mark.parametrize(("name", "rows"), in_turn(["classes rolled up", "rows late", "rows shuffled"], [600, 512]))
def test_the_text_is_the_same_however_rows_are_cut_and_stored(name, rows, monkeypatch, tmp_path):
    monkeypatch.setattr(agreement, "SAMPLE_ROWS", rows)
    labels = WRONG[name][0]
    want = find_text(labels)
    assert (" examined, where" in want) == (rows < 600)
    blocks = {"labels": da.from_array(labels, chunks=77), "probs": da.from_array(PROBS, chunks=(77, K))}
    assert find_text(blocks["labels"], blocks["probs"]) == want
    assert find_text(labels, batch_size=7, partition_batches=1) == want
    assert find_text(labels, batch_size=50, partition_batches=3, n_jobs=2) == want
    for _ in range(2):  # the second goes on from the first
        assert find_text(labels, batch_size=50, partition_batches=1, workdir=tmp_path / "workdir") == want
    assert find_text(labels, batch_size=50, partition_batches=1, output=tmp_path / "out.zarr") == want
    assert labelsieve.load(tmp_path / "out.zarr").facts.misfit == want


def find_text(labels, probs=PROBS, **settings):
    issues, texts = warned(find, labels, probs, **settings)
    assert texts == [issues.facts.misfit]
    return texts[0]


def test_stored_summaries_are_examined_too(monkeypatch):
    monkeypatch.setattr("labelsieve.job.grid.Need.summaries", lambda _need: 1 << 60)
    labels = WRONG["rows late"][0]
    assert find_text(labels, batch_size=50, partition_batches=1) == text_of(labels, PREDICTED)


@pytest.mark.every_value
@pytest.mark.parametrize(
    "settings",
    [
        {"filter_by": "prune_by_class"},
        {"filter_by": "confident_learning"},
        {"filter_by": "predicted_neq_given"},
        {"filter_by": "low_normalized_margin", "rank_by": "normalized_margin"},
        {"rule": "confident_joint"},
        {"method": "self_confidence", "adjust_pred_probs": True},
        {"method": "normalized_margin", "adjust_pred_probs": True},
    ],
)
@pytest.mark.parametrize("name", ["classes renumbered", "rows late"])
def test_every_filter_warns(settings, name):
    labels = WRONG[name][0]
    assert find_text(labels, **settings) == text_of(labels, PREDICTED)
    assert warned(find, LABELS, PROBS, **settings)[1] == []


def test_nothing_is_examined_where_there_is_no_doubt(monkeypatch):
    monkeypatch.setattr("labelsieve.job.job.describe_misfit", None)
    assert find(LABELS, PROBS).facts.misfit == ""


def test_the_functions_kept_for_others_warn():
    labels = WRONG["rows shuffled"][0]
    want = [text_of(labels, PREDICTED)]
    assert warned(labelsieve.find_label_issues_batched, labels, PROBS, verbose=False)[1] == want
    assert warned(labelsieve.count.num_label_issues, labels, PROBS)[1] == want
    assert warned(labelsieve.count.compute_confident_joint, labels, PROBS, dense=True)[1] == want
    assert warned(labelsieve.count.num_label_issues, LABELS, PROBS)[1] == []


@pytest.mark.parametrize("name", WRONG)
def test_the_inspector_warns_once(name, capsys):
    labels = WRONG[name][0]
    lab = inspector_of(labels)
    first, texts = warned(lab.get_label_issues)
    assert texts == [text_of(labels, PREDICTED)]
    again, texts = warned(lab.get_label_issues)
    assert texts == []
    np.testing.assert_array_equal(first, again)


def inspector_of(labels):
    lab = LabelInspector(num_class=K, verbose=False)
    batches = [slice(start, start + 70) for start in range(0, 600, 70)]
    for rows in batches:
        lab.update_confident_thresholds(labels[rows], PROBS[rows])
    for rows in batches:
        lab.score_label_quality(labels[rows], PROBS[rows])
    return lab


def test_the_inspector_keeps_a_limited_number_of_rows(monkeypatch):
    monkeypatch.setattr("labelsieve.inspector.SAMPLE_ROWS", 256)
    labels = WRONG["classes rolled up"][0]
    lab = inspector_of(labels)
    _, texts = warned(lab.get_num_issues)
    assert texts == [describe_misfit(labels[:256], PREDICTED[:256], K, 600)]
    assert " of 256 rows examined, where" in texts[0]
    assert len(lab._fit_check._labels) == len(lab._fit_check._predicted) == 256
    assert warned(inspector_of(LABELS).get_num_issues)[1] == []


# Labels outside 0..K-1 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"batch_size": 7, "partition_batches": 1}])
def test_labels_that_count_from_one_are_named(settings):
    with pytest.raises(InvalidInputError) as caught:
        find(LABELS + 1, PROBS, **settings)
    n_outside = np.count_nonzero(LABELS == K - 1)
    assert str(caught.value).startswith(f"{n_outside} labels outside 0..9 in rows ")
    hint = "No row is labelled 0, so the labels seem to be 1..10: subtract 1 from all of them"
    assert str(caught.value).endswith(f"(first: 10). {hint}")
    with pytest.raises(InvalidInputError, match=hint.replace(".", r"\.")):
        LabelInspector(num_class=K).update_confident_thresholds(LABELS + 1, PROBS)


@pytest.mark.parametrize(("dtype", "first"), [("i8", -1), ("u1", 255), ("u8", 2**64 - 1)])
def test_labels_of_minus_one_may_stand_for_none(dtype, first):
    labels = LABELS.astype(dtype) - np.ones(1, dtype)
    with pytest.raises(InvalidInputError) as caught:
        find(labels, PROBS)
    text = str(caught.value)
    assert text.startswith(f"{np.count_nonzero(LABELS == 0)} labels outside 0..9 in rows ")
    assert text.endswith(f"(first: {first}). If {first} means that a row has no label, give ignore_label={first}")


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.where(np.arange(600) == 5, 0, LABELS + 1), id="a row is labelled 0"),
        pytest.param(LABELS + 2, id="more than one value is outside"),
        pytest.param(np.where(LABELS == 0, -1, LABELS), id="below 0"),
    ],
)
def test_other_labels_outside_are_only_listed(labels):
    with pytest.raises(InvalidInputError) as caught:
        find(labels, PROBS)
    assert "subtract" not in str(caught.value)


# What people see ---------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("wrong.npy", WRONG["classes rolled up"][0])
    np.save("labels.npy", LABELS)
    np.save("probs.npy", PROBS)
    return tmp_path


def test_the_command_line_ends_with_the_warning(files, capsys):
    want = text_of(WRONG["classes rolled up"][0], PREDICTED)
    assert run(["find", "wrong.npy", "probs.npy", "-o", "issues.csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith(f"written to issues.csv\n\nWARNING: {want}\n")
    assert f"labelsieve: warning: {want}\n" in shown.err
    assert run(["find", "wrong.npy", "probs.npy", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"labelsieve: warning: {want}\n"
    assert run(["find", "labels.npy", "probs.npy"]) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_report_begins_with_the_warning(files):
    wrong = warned(find, "wrong.npy", "probs.npy")[0]
    wrong.save("wrong.zarr")
    for result in (wrong, labelsieve.load("wrong.zarr")):
        result.report("report.html", top=3)
        page = (files / "report.html").read_text(encoding="utf-8")
        alert = page.index('<p class="misfit" role="alert"><strong>Check this first:</strong>')
        assert alert < page.index('<dl class="cards">')
        assert "Label 0 is mostly predicted as class 9" in page[alert : page.index('<dl class="cards">')]
    find("labels.npy", "probs.npy").report("report.html", top=3)
    assert 'class="misfit"' not in (files / "report.html").read_text(encoding="utf-8")
