"""Indexes and columns of pandas and xarray that say that rows or classes are in different orders."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import labelsieve
from draws import draw, find
from labelsieve import InvalidInputError, LabelInspector, count

N, K = 240, 12
LABELS, PROBS = draw(N, K, signal=5.0)
IDS = np.array([f"row {i}" for i in range(N)])
NAMES = [f"name {chr(97 + k)}" for k in range(K)]
_RNG = np.random.default_rng(0)
ROWS, CLASSES = _RNG.permutation(N), _RNG.permutation(K)
PAIRS = pd.MultiIndex.from_arrays([np.arange(N) // 20, np.arange(N) % 20])
LEVELS = pd.MultiIndex.from_product([["p"], range(K)])
# Without the first row, and with another at the end.
SHIFTED = np.append(IDS[1:], "another row")


WANT = find(LABELS, PROBS).indices


def series(index=None):
    return pd.Series(LABELS, index=index)


def frame(index=None, columns=None):
    return pd.DataFrame(PROBS, index=index, columns=columns)


def array(rows=IDS, classes=None):
    coords = {"row": rows} | ({} if classes is None else {"class": classes})
    return xr.DataArray(PROBS, dims=("row", "class"), coords=coords)


def given(rows=IDS):
    return xr.DataArray(LABELS, dims="row", coords={"row": rows})


def refused(labels, probs, **settings):
    with pytest.raises(InvalidInputError) as caught:
        find(labels, probs, **settings)
    return str(caught.value)


# Rows ------------------------------------------------------------------------------------------------------------

OTHER_ORDER = {
    "counted rows": (series(), frame().iloc[ROWS]),
    "counted predictions": (series().iloc[ROWS], frame(pd.RangeIndex(N))),
    "ids": (series(IDS), frame(IDS).iloc[ROWS]),
    "a column of labels": (series(IDS).to_frame("label"), frame(IDS).iloc[ROWS]),
    "two levels": (series(PAIRS), frame(PAIRS).iloc[ROWS]),
    "dates": (series(pd.date_range("2020", periods=N)), frame(pd.date_range("2020", periods=N)).iloc[ROWS]),
    "categories": (series(pd.CategoricalIndex(IDS)), frame(IDS).iloc[ROWS]),
    "xarray": (given(), array()[ROWS]),
    "pandas and xarray": (series(IDS), array()[ROWS]),
    "xarray and pandas": (given(), frame(IDS).iloc[ROWS]),
}


@pytest.mark.parametrize("name", OTHER_ORDER)
def test_rows_in_another_order_are_an_error(name):
    labels, probs = OTHER_ORDER[name]
    message = refused(labels, probs)
    assert message.startswith("labels and pred_probs have the same index in different orders (row 0 is ")
    counted = {"counted rows": "labels", "counted predictions": "pred_probs"}.get(name)
    assert (f"), but that of {counted} only counts its rows: " if counted else "): ") in message
    assert message.endswith(
        ": give both in the same order, or give both as .to_numpy() if row i of labels does belong to row i of "
        "pred_probs"
    )


def test_both_in_the_same_order_pass():
    labels, probs = OTHER_ORDER["ids"]
    np.testing.assert_array_equal(find(labels, probs.loc[labels.index]).indices, WANT)
    np.testing.assert_array_equal(find(given(), OTHER_ORDER["xarray"][1].sel(row=IDS)).indices, WANT)


def test_the_first_row_that_differs_is_named():
    order = [0, 1, 3, 2, *range(4, N)]
    assert "(row 2 is 'row 2' in labels and 'row 3' in pred_probs)" in refused(series(IDS), frame(IDS).iloc[order])


@pytest.mark.parametrize(
    ("labels", "probs"),
    [
        pytest.param(series(IDS), pd.DataFrame(np.roll(PROBS, -1, axis=0), SHIFTED), id="pandas"),
        pytest.param(given(), array(SHIFTED).copy(data=np.roll(PROBS, -1, axis=0)), id="xarray"),
        pytest.param(
            series(np.arange(N) + 1), pd.DataFrame(np.roll(PROBS, -1, axis=0), np.arange(N) + 2), id="numbers"
        ),
    ],
)
def test_other_rows_are_an_error(labels, probs):
    message = refused(labels, probs)
    assert message.startswith(
        "labels and pred_probs are not of the same rows: only 239 of 240 index labels are in both: give the rows that "
        "both have, or "
    )
    fewer = (labels[1:], probs[:-1]) if isinstance(labels, xr.DataArray) else (labels.iloc[1:], probs.iloc[:-1])
    find(*fewer)


def test_repeated_index_labels_that_differ_are_an_error():
    twice = np.arange(N) // 2 + 5
    message = refused(series(twice), frame(twice[ROWS]))
    assert message.startswith("labels and pred_probs have different indexes, in which labels are repeated, so that")


FITTING_ROWS = {
    "counted both": (series(), frame()),
    "counted and equal numbers": (series(), frame(np.arange(N))),
    "counted and equal floats": (series(np.arange(N) * 1.0), frame()),
    "a nullable index": (series(pd.Index([*range(N - 1), pd.NA], dtype="Int64")), frame(np.arange(N) + 2 * N)),
    "ids": (series(IDS), frame(IDS)),
    "ids and counted": (series(IDS), frame()),
    "counted and ids": (series(), frame(IDS)),
    "a shuffled part of a table, and counted": (series(ROWS + 7), frame()),
    "nothing in common": (series(IDS), frame(pd.date_range("2020", periods=N))),
    "repeated, equal": (series(np.arange(N) // 2), frame(np.arange(N) // 2)),
    "repeated, and counted": (series(np.arange(N) // 2), frame()),
    "two levels and counted": (series(PAIRS), frame()),
    "a plain array of labels": (LABELS, frame(IDS)),
    "a plain array of predictions": (series(ROWS), PROBS),
    "a list": (LABELS.tolist(), frame(ROWS)),
    "an index of labels": (pd.Index(LABELS), frame(IDS)),
    "xarray without coordinates": (xr.DataArray(LABELS), xr.DataArray(PROBS)),
    "xarray": (given(), array()),
}


@pytest.mark.parametrize("name", FITTING_ROWS)
def test_indexes_that_fit_or_say_nothing_pass(name):
    labels, probs = FITTING_ROWS[name]
    np.testing.assert_array_equal(find(labels, probs).indices, WANT)


def test_lengths_are_compared_first():
    assert refused(series(IDS), frame(IDS)[:-1]).startswith("240 labels, 239 rows of pred_probs")


# Classes ---------------------------------------------------------------------------------------------------------

NUMBERS = [str(k) for k in range(K)]
OTHER_CLASSES = {
    "numbers": (frame()[CLASSES], "column 0 is 3"),
    "numbers from 1": (frame(columns=range(1, K + 1))[CLASSES + 1], "column 0 is 4"),
    "floats": (frame(columns=np.arange(K) * 1.0)[CLASSES], "column 0 is 3.0"),
    "numbers as text, sorted as text": (frame(columns=NUMBERS).sort_index(axis=1), "column 2 is '10'"),
    "words with numbers, sorted as text": (
        frame(columns=[f"p_{k}" for k in range(K)]).sort_index(axis=1),
        "column 2 is 'p_10'",
    ),
    "two levels": (frame(columns=LEVELS).iloc[:, CLASSES], "column 0 is 3"),
    "xarray": (array(classes=range(K))[:, CLASSES], "column 0 is 3"),
    "xarray, text": (array(classes=NUMBERS)[:, CLASSES], "column 0 is '3'"),
}


SORTED_AS_TEXT = np.argsort(np.argsort(NUMBERS, kind="stable"))
ORDERS = {name: SORTED_AS_TEXT for name in OTHER_CLASSES if "sorted as text" in name}


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_classes_in_another_order_are_an_error(name):
    probs, where = OTHER_CLASSES[name]
    message = refused(LABELS, probs)
    assert message == (
        f"the columns of pred_probs are not in the order of the classes ({where}): give them in that order, or give "
        "pred_probs.to_numpy() if column k does belong to label k"
    )
    in_order = (
        probs[:, np.argsort(CLASSES)]
        if isinstance(probs, xr.DataArray)
        else probs.iloc[:, ORDERS.get(name, np.argsort(CLASSES))]
    )
    np.testing.assert_array_equal(find(LABELS, in_order).indices, WANT)


@pytest.mark.parametrize("probs", [frame(columns=NAMES).iloc[:, CLASSES], array(classes=NAMES)[:, CLASSES]])
def test_names_in_another_order_than_class_names_are_an_error(probs):
    message = refused(LABELS, probs, class_names=NAMES)
    assert message == (
        "the columns of pred_probs are not in the order of class_names (column 0 is 'name d', which is class 3): give "
        "them in that order"
    )
    in_order = probs.sel({"class": NAMES}) if isinstance(probs, xr.DataArray) else probs[NAMES]
    np.testing.assert_array_equal(find(LABELS, in_order, class_names=NAMES).indices, WANT)


def test_a_known_name_at_another_place_is_an_error():
    message = refused(LABELS, frame(columns=["other", *NAMES[:-1]]), class_names=NAMES)
    assert "(column 1 is 'name a', which is class 0): give them in that order" in message


def test_two_truth_values_in_another_order_are_an_error():
    labels, probs = draw(50, 2, signal=5.0)
    assert "(column 0 is True): give them in that order, or" in refused(
        labels, pd.DataFrame(probs, columns=[True, False])
    )
    find(labels, pd.DataFrame(probs, columns=[False, True]))


FITTING_CLASSES = {
    "numbers": (frame(), None),
    "numbers from 1": (frame(columns=range(1, K + 1)), None),
    "numbers of another kind": (frame(columns=[7, 3, *range(100, 110)]), None),
    "text": (frame(columns=NUMBERS), None),
    "numbers that are the names": (frame(columns=CLASSES), [str(k) for k in CLASSES]),
    "names": (frame(columns=NAMES), NAMES),
    "names that are not checked": (frame(columns=NAMES[::-1]), None),
    "other names": (frame(columns=NAMES), [name.upper() for name in NAMES]),
    "one name for all": (frame(columns=["p"] * K), None),
    "numbers and text": (frame(columns=[1, "0", *range(2, K)]), None),
    "numbers and nothing": (frame(columns=[1, np.nan, *range(2, K)]), None),
    "two levels": (frame(columns=LEVELS), None),
    "two levels without names": (frame(columns=pd.MultiIndex.from_product([["a", "b"], range(K // 2)])), None),
}


@pytest.mark.parametrize("name", FITTING_CLASSES)
def test_columns_that_fit_or_say_nothing_pass(name):
    probs, names = FITTING_CLASSES[name]
    np.testing.assert_array_equal(find(LABELS, probs, class_names=names).indices, WANT)


# Everywhere ------------------------------------------------------------------------------------------------------


def test_ids_in_another_order_are_an_error():
    own = pd.Series(IDS, index=IDS)
    np.testing.assert_array_equal(find(series(IDS), PROBS, ids=own).issue_table()["id"], IDS[WANT])
    message = refused(series(IDS), PROBS, ids=own.iloc[ROWS])
    assert message.startswith("ids and labels have the same index in different orders (row 0 is ")
    assert message.endswith("or give both as .to_numpy() if row i of ids does belong to row i of labels")
    assert "ids and pred_probs have the same" in refused(LABELS, frame(IDS), ids=own.iloc[ROWS])
    np.testing.assert_array_equal(find(series(IDS), PROBS, ids=own.iloc[ROWS].loc[IDS]).indices, WANT)


@pytest.mark.parametrize(
    "function",
    [
        find,
        labelsieve.plan_label_issues,
        lambda labels, probs: labelsieve.find_label_issues_batched(labels, probs, verbose=False),
        count.num_label_issues,
        lambda labels, probs: count.compute_confident_joint(labels, probs, dense=True),
        lambda labels, probs: count.estimate_joint(labels, probs, dense=True),
        LabelInspector(num_class=K).update_confident_thresholds,
    ],
)
def test_every_function_compares(function):
    for labels, probs in (OTHER_ORDER["ids"], (LABELS, OTHER_CLASSES["numbers"][0])):
        with pytest.raises(InvalidInputError, match=" order"):
            function(labels, probs)
    function(series(IDS), frame(IDS))


def test_a_batch_of_the_inspector_is_compared_before_it_is_scored():
    lab = LabelInspector(num_class=K, verbose=False)
    for start in range(0, N, 100):
        lab.update_confident_thresholds(series(IDS)[start : start + 100], frame(IDS)[start : start + 100])
    with pytest.raises(InvalidInputError, match="same index in different orders"):
        lab.score_label_quality(*OTHER_ORDER["ids"])
    for start in range(0, N, 100):
        lab.score_label_quality(series(IDS)[start : start + 100], PROBS[start : start + 100])
    assert set(WANT) <= set(lab.get_label_issues())
