"""Bad input is refused with its kind, its rows and their number, and leaves no trace behind."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from fractions import Fraction

import cleanlab.count
import cleanlab.experimental.label_issues_batched
import cleanlab.filter
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from draws import assert_same_array, assert_same_bits, draw, find
from labelsieve import (
    InputTypeError,
    InvalidInputError,
    LabelInspector,
    LabelsieveError,
    LabelsieveWarning,
    count,
    find_label_issues,
    find_label_issues_batched,
    plan_label_issues,
)
from labelsieve.sources import places

N_ROWS, N_CLASSES = 300, 4
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=4, signal=2.5)


def via_find(labels, pred_probs):
    find(labels, pred_probs)


def via_batched(labels, pred_probs):
    find_label_issues_batched(labels, pred_probs, verbose=False)


def via_update(labels, pred_probs):
    LabelInspector(num_class=N_CLASSES, verbose=False).update_confident_thresholds(labels, pred_probs)


def via_score(labels, pred_probs):
    ready_inspector().score_label_quality(labels, pred_probs)


def ready_inspector(**settings):
    """Return an inspector with thresholds of the good data."""
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False, **settings)
    inspector.update_confident_thresholds(LABELS, PROBS)
    return inspector


ENTRIES = [via_find, via_batched, via_update, via_score]
every_entry = pytest.mark.parametrize("entry", ENTRIES)


def changed(rows, value, column=slice(None), dtype=PROBS.dtype):
    """Return the good probabilities with `value` at `rows`."""
    probs = PROBS.astype(dtype)
    probs[rows, column] = value
    return probs


def relabelled(rows, value, dtype=LABELS.dtype):
    """Return the good labels with `value` at `rows`."""
    labels = LABELS.astype(dtype)
    labels[rows] = value
    return labels


def refused(call, *args, error=InvalidInputError, **kwargs):
    """Return the message with which a call is refused."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    assert isinstance(caught.value, LabelsieveError)
    assert isinstance(caught.value, TypeError if error is InputTypeError else ValueError)
    return str(caught.value)


# Values of pred_probs --------------------------------------------------------------------------------------------

VALUES = [
    ("nan", changed([7], np.nan, 1), "1 NaN probability in row 7"),
    ("nan rows", changed([3, 17, 18, 19], np.nan, 2), "4 NaN probabilities in rows 3, 17..19"),
    ("nan values", changed([5, 6], np.nan, slice(0, 3)), "6 NaN probabilities in rows 5..6"),
    ("negative nan", changed([7], np.copysign(np.nan, -1), 1), "1 NaN probability in row 7"),
    ("inf", changed([299], np.inf, 0), "1 infinite probability in row 299"),
    ("minus inf", changed([0], -np.inf, 0), "1 infinite probability in row 0"),
    ("below", changed([40, 42], -0.25, 3), "2 probabilities below 0 in rows 40, 42 (first: -0.25"),
    ("just below", changed([40], -1.1e-3, 3), "1 probability below 0 in row 40 (first: -0.0011"),
    ("above", changed([8], 1.5, 3), "1 probability above 1 in row 8 (first: 1.5"),
    ("just above", changed([8], 1.0011, 3), "1 probability above 1 in row 8 (first: 1.0011"),
    ("percent", PROBS * 100, "probabilities above 1 in rows 0"),
    ("float16", changed([9], np.nan, 1, "f2"), "1 NaN probability in row 9"),
    ("float32", changed([9], 2.5, 1, "f4"), "1 probability above 1 in row 9 (first: 2.5"),
    ("big-endian", changed([9], -np.inf, 1, ">f4"), "1 infinite probability in row 9"),
    ("zero rows", changed(slice(10, 20), 0.0), "10 rows of pred_probs that are all zeros, rows 10..19: missing chunk?"),
    ("minus zero rows", changed([4, 6], -0.0), "2 rows of pred_probs that are all zeros, rows 4, 6: missing chunk?"),
]


@pytest.mark.every_value
@every_entry
@pytest.mark.parametrize(("probs", "message"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_that_are_no_probabilities(entry, probs, message):
    assert message in refused(entry, LABELS, probs)


@pytest.mark.every_value
@pytest.mark.parametrize("method", ["normalized_margin", "confidence_weighted_entropy"])
@pytest.mark.parametrize(("probs", "message"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_are_checked_under_every_score_without_noise(method, probs, message):
    # Warnings are errors here: the arithmetic on bad values must not speak before the check does.
    assert message in refused(find, LABELS, probs, method=method)


def test_all_kinds_of_trouble_are_named_at_once():
    probs = changed([7], np.nan, 1)
    probs[9, 0], probs[11, 2], probs[12] = np.inf, 3, 0
    message = refused(find, relabelled([20, 21], 4), probs)
    for part in ("NaN", "infinite", "above 1", "all zeros", "2 labels outside 0..3 in rows 20..21 (first: 4)"):
        assert part in message


def test_many_ranges_are_cut_short():
    message = refused(find, LABELS, changed(slice(0, 40, 2), np.nan, 1))
    assert "20 NaN probabilities in rows 0, 2, 4, 6, 8 and more" in message


def test_numbers_of_many_rows_have_separators():
    labels, probs = draw(5000, 3, seed=5)
    probs[1000:3000] = 0
    assert "2,000 rows of pred_probs that are all zeros, rows 1000..2999" in refused(find, labels, probs)


@pytest.mark.parametrize("value", [-1e-3, -1e-5, 1.00001, 1.001])
def test_values_within_the_tolerance_are_used_as_they_are(value):
    probs = changed([3, 5], [[value, 0.0, 0.0, 0.0], [0.0, value, 0.0, 0.0]])
    labels = relabelled([3, 5], [0, 1])
    probs[[3, 5], 3] = 1 - value  # the largest value where the other is below 0
    found = find(labels, probs)
    assert found.scores[3] == found.scores[5] == value
    rows = np.flatnonzero(labels == 0)
    # The mean is taken once, of exact values in units of 2**-52.
    exact = sum(round(p * 2**52) for p in probs[rows, 0].tolist())
    assert found.confident_thresholds[0] == float(Fraction(exact, len(rows) * 2**52))


def test_a_value_slightly_above_one_is_the_predicted_class():
    probs = changed([3], [0.0, 1.0, 1.00001, 0.0])
    found = find(relabelled([3], 0), probs, allow_unnormalized_rows=True)
    at = found.indices.tolist().index(3)
    assert (found.issues.suggested_labels[at], found.issues.p_suggested[at]) == (2, 1.00001)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin", "confidence_weighted_entropy"])
def test_minus_zero_counts_as_zero(dtype, method):
    zeros = np.maximum(PROBS, 0.3).astype(dtype)  # no row is low, whatever is zeroed
    zeros[:50, 1] = 0.0
    minus = zeros.copy()
    minus[:50, 1] = -0.0
    assert np.signbit(minus[0, 1])
    settings = {"method": method, "allow_unnormalized_rows": True}
    assert_same_bits(find(LABELS, minus, **settings), find(LABELS, zeros, **settings))


def test_zero_rows_are_accepted_where_allowed():
    probs = changed(slice(100, 150), 0.0)
    found = find(LABELS, probs, allow_zero_rows=True)
    assert_same_array(found.scores, probs[np.arange(N_ROWS), LABELS])
    assert found.scores[100:150].tolist() == [0.0] * 50


@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin"])
@pytest.mark.parametrize("adjust", [False, True])
def test_zero_rows_give_finite_scores_under_every_score(method, adjust):
    found = find(LABELS, changed(slice(100, 150), 0.0), allow_zero_rows=True, method=method, adjust_pred_probs=adjust)
    assert np.isfinite(found.scores).all()


def test_allowed_zero_rows_do_not_hide_other_trouble():
    probs = changed(slice(100, 150), 0.0)
    probs[3, 1] = np.nan
    message = refused(find, LABELS, probs, allow_zero_rows=True)
    assert "1 NaN probability in row 3" in message
    assert "all zeros" not in message


def test_a_row_of_zeros_but_for_noise_is_no_zero_row():
    assert refused(find, LABELS, changed([3], [0.0, 1e-30, 0.0, 0.0])).startswith(
        "1 row of pred_probs does not sum to 1 within 0.05, row 3 (first sum: 1e-30)"
    )


@pytest.mark.every_pair
@pytest.mark.parametrize("partition_batches", [1, "auto"])
@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
@pytest.mark.parametrize("adjust", [False, True])
def test_low_rows_warn_once_with_their_number(batch_size, partition_batches, adjust):
    probs = changed([5, *range(60, 80), 250], 0.24)
    settings = {"method": "normalized_margin", "adjust_pred_probs": adjust, "partition_batches": partition_batches}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        find(LABELS, probs, batch_size=batch_size, **settings)
    assert [w.category for w in caught] == [LabelsieveWarning]
    assert str(caught[0].message).startswith("22 rows of pred_probs whose largest value is below 1/K")
    assert "(rows 5, 60..79, 250)" in str(caught[0].message)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_uniform_rows_are_not_low(dtype):
    # 1/3 rounds down in float16 and float32: within the tolerance.
    labels, probs = draw(200, 3, seed=6, dtype=dtype)
    probs[:] = 1 / 3
    assert find(labels, probs).num_issues == 0


# Values of labels ------------------------------------------------------------------------------------------------

LABEL_VALUES = [
    ("negative", relabelled([2], -1), "1 label outside 0..3 in row 2 (first: -1)"),
    ("too large", relabelled([2, 3, 9], 4), "3 labels outside 0..3 in rows 2..3, 9 (first: 4)"),
    ("huge uint64", relabelled([9], 2**64 - 1, "u8"), f"1 label outside 0..3 in row 9 (first: {2**64 - 1})"),
    ("int8", relabelled([9], -128, "i1"), "1 label outside 0..3 in row 9 (first: -128)"),
    ("big-endian", relabelled([9], 256, ">i2"), "1 label outside 0..3 in row 9 (first: 256)"),
    ("one-based", LABELS + 1, "labels outside 0..3"),
    ("list", relabelled([2], 7).tolist(), "1 label outside 0..3 in row 2 (first: 7)"),
    ("float", LABELS.astype(float), "not float64: take labels = np.asarray(labels, int) if all are whole numbers"),
    ("float32", LABELS.astype("f4"), "labels must be integers 0..K-1, not float32"),
    ("complex", LABELS.astype(complex), "labels must be integers 0..K-1, not complex128"),
    ("object", LABELS.astype(object), "labels must be integers 0..K-1, not object"),
    ("dates", LABELS.astype("datetime64[s]"), "labels must be integers 0..K-1, not datetime64"),
    ("none", [None, *LABELS.tolist()[1:-1], None], "labels has 2 missing values: drop"),
    ("lists", [[0, 1]] * N_ROWS, "labels is a list of lists: for rows with several labels"),
    ("ragged lists", [[0], [0, 1], *LABELS.tolist()[2:]], "labels is a list of lists: for rows with several labels"),
    ("sets", [{1}, *LABELS.tolist()[1:]], "labels is a list of lists: for rows with several labels"),
    ("tuples of arrays", tuple(np.array([k]) for k in LABELS), "for rows with several labels"),
    ("one-hot", np.eye(N_CLASSES, dtype=int)[LABELS], "not shape (300, 4): of one-hot rows take labels.argmax(axis=1)"),
    ("predictions", PROBS, "not shape (300, 4): were pred_probs given as labels, which come first?"),
    ("a column", LABELS[:, None], "labels must have one axis (N,), not shape (300, 1)"),
    ("a scalar", np.array(3), "labels must have one axis (N,), not shape ()"),
    ("table", pd.DataFrame({"a": LABELS, "b": LABELS}), "labels is a table of 2 columns"),
    ("series of objects", pd.Series(LABELS, dtype=object), "integers 0..K-1: take labels = np.asarray(labels, int)"),
    ("series of floats", pd.Series(LABELS, dtype=float), "labels must be integers 0..K-1, not float64"),
    ("nullable floats", pd.Series(LABELS, dtype="Float64"), "integers 0..K-1"),
    ("nullable", pd.Series(LABELS).astype("Int64").where(LABELS != 2), "missing values"),
    ("arrow", pd.Series(LABELS).astype("int64[pyarrow]").where(LABELS != 2), "missing values"),
    ("masked", np.ma.MaskedArray(LABELS, LABELS == 2), "labels is a masked array with"),
]


@pytest.mark.every_value
@every_entry
@pytest.mark.parametrize(
    ("labels", "message"), [case[1:] for case in LABEL_VALUES], ids=[case[0] for case in LABEL_VALUES]
)
def test_labels_that_are_no_labels(entry, labels, message):
    assert message in refused(entry, labels, PROBS)


# `find_label_issues` takes these, with class names (test_label_names.py).
NAMES = [
    ("nan in list", [float("nan"), *LABELS.tolist()[1:]], "labels must be integers 0..K-1, not float64"),
    ("bool", LABELS > 1, "labels must be integers 0..K-1, not bool"),
    ("strings", LABELS.astype(str), "labels must be integers 0..K-1, not <U21: with class_names in the order of the"),
    (
        "list of strings",
        ["cat"] * N_ROWS,
        "labels must be integers 0..K-1, not <U3: with class_names in the order of the",
    ),
    ("bytes", LABELS.astype("S"), "labels must be integers 0..K-1, not |S21: with class_names in the order of the"),
    (
        "variable strings",
        LABELS.astype(np.dtypes.StringDType()),
        "0..K-1, not StringDType(): with class_names in the order of the",
    ),
    ("series of strings", pd.Series(LABELS).astype(str), "integers 0..K-1: with class_names in the order of the"),
    (
        "categories",
        pd.Series(LABELS.astype(str)).astype("category"),
        "integers 0..K-1: with class_names in the order of the",
    ),
]


@pytest.mark.every_value
@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry is not via_find])
@pytest.mark.parametrize(("labels", "message"), [case[1:] for case in NAMES], ids=[case[0] for case in NAMES])
def test_names_are_no_labels_without_a_result_that_has_names(entry, labels, message):
    assert message in refused(entry, labels, PROBS)


@pytest.mark.parametrize("kind", ["Int64", "int64[pyarrow]", "masked"])
def test_missing_labels_are_counted(kind):
    missing = int((LABELS == 2).sum())
    if kind == "masked":
        labels = np.ma.MaskedArray(LABELS, LABELS == 2)
    else:
        labels = pd.Series(LABELS).astype(kind).where(LABELS != 2)
    assert f" {missing} m" in refused(find, labels, PROBS)


def test_masked_probabilities_are_counted():
    message = refused(find, LABELS, np.ma.MaskedArray(PROBS, PROBS < 0.01))
    assert f"pred_probs is a masked array with {int((PROBS < 0.01).sum())} masked values" in message


# Kinds, shapes and dtypes ----------------------------------------------------------------------------------------


@pytest.mark.every_value
@every_entry
@pytest.mark.parametrize("n_labels", [0, 1, 299, 301])
def test_lengths_that_differ_are_both_named(entry, n_labels):
    labels = np.zeros(n_labels, int)
    assert f"{n_labels} labels, 300 rows of pred_probs" in refused(entry, labels, PROBS)


def test_rows_and_columns_the_wrong_way_round_are_named():
    want = "300 labels, 4 rows of pred_probs: are rows and columns the wrong way round? Give pred_probs.T"
    assert refused(find, LABELS, PROBS.T) == want


def test_lengths_that_differ_have_separators():
    message = refused(find, np.zeros(4000, int), np.full((3999, 2), 0.5))
    assert message.startswith("4,000 labels, 3,999 rows of pred_probs")


SHAPES = [
    ("one axis", PROBS[:, 0], "pred_probs must have two axes (N, K), not shape (300,)"),
    ("three axes", PROBS[..., None], "pred_probs must have two axes (N, K), not shape (300, 4, 1)"),
    ("int", (PROBS > 0.5).astype(int), "float32 or float64, not int64: if these are counts or percentages, take"),
    ("uint8", (PROBS * 255).astype("u1"), "pred_probs must be float16, float32 or float64, not uint8"),
    ("bool", PROBS > 0.5, "pred_probs must be float16, float32 or float64, not bool"),
    ("complex", PROBS.astype(complex), "pred_probs must be float16, float32 or float64, not complex128"),
    ("object", PROBS.astype(object), "pred_probs must be float16, float32 or float64, not object"),
    ("strings", PROBS.astype(str), "pred_probs must be float16, float32 or float64, not <U"),
    ("ragged", [[0.5, 0.5], [1.0]], "pred_probs is a list whose rows differ in length"),
]
if np.dtype(np.longdouble).itemsize > 8:
    SHAPES.append(("longdouble", PROBS.astype(np.longdouble), "pred_probs must be float16, float32 or float64, not"))


@pytest.mark.every_value
@every_entry
@pytest.mark.parametrize(("probs", "message"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_pred_probs_of_the_wrong_shape_or_dtype(entry, probs, message):
    assert message in refused(entry, LABELS, probs)


@pytest.mark.parametrize("n_classes", [0, 1])
def test_fewer_than_two_classes(n_classes):
    message = refused(find, np.zeros(10, int), np.ones((10, n_classes)))
    assert f"pred_probs has {n_classes} columns" in message
    assert "at least 2" in message


@pytest.mark.parametrize("labels", [[], np.empty(0, int), np.empty(0)])
def test_no_rows(labels):
    message = refused(find, labels, np.empty((0, 3)))
    assert "no rows" in message or "float64" in message


def test_no_rows_in_any_storage(tmp_path):
    np.save(tmp_path / "y.npy", np.empty(0, int))
    np.save(tmp_path / "p.npy", np.empty((0, 3)))
    assert "no rows" in refused(find, tmp_path / "y.npy", tmp_path / "p.npy")
    probs = zarr.create_array(str(tmp_path / "p.zarr"), shape=(0, 3), chunks=(5, 3), dtype="f8")
    assert "no rows" in refused(find, np.empty(0, int), probs)
    assert "no rows" in refused(find, np.empty(0, int), da.zeros((0, 3), chunks=(1, 3)))


@pytest.mark.every_value
@every_entry
@pytest.mark.parametrize(
    "bad", [5, 0.5, {0: 1}, {1, 2}, b"bytes", object(), iter([1, 2])], ids=lambda bad: repr(bad)[:9]
)
def test_objects_that_are_no_arrays(entry, bad):
    kind = type(bad).__name__
    assert f"labels must be an array, a list or a path to a .npy or .zarr file; not {kind}" in refused(
        entry, bad, PROBS, error=InputTypeError
    )
    assert f"pred_probs must be an array, a list or a path to a .npy or .zarr file; not {kind}" in refused(
        entry, LABELS, bad, error=InputTypeError
    )


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.coo_array])
def test_sparse_matrices(kind):
    assert "pred_probs must be an array" in refused(find, LABELS, kind(PROBS), error=InputTypeError)


def test_missing_arguments():
    assert refused(find, None, PROBS, error=InputTypeError) == "labels is missing"
    assert refused(find, LABELS, None, error=InputTypeError) == "pred_probs is missing"


@pytest.mark.every_value
@pytest.mark.parametrize("n_classes", [3, 5])
@pytest.mark.parametrize("entry", ["update_confident_thresholds", "score_label_quality"])
def test_num_class_other_than_the_columns(entry, n_classes):
    labels, probs = draw(50, n_classes, seed=7)
    message = refused(getattr(ready_inspector(), entry), labels, probs)
    assert message == f"pred_probs has {n_classes} columns, num_class is 4"


@pytest.mark.parametrize("num_class", [1, 0, -3, 2.5, 4.0, True, "4", None])
def test_num_class_must_be_a_number_of_classes(num_class):
    message = refused(LabelInspector, num_class=num_class)
    assert message == f"num_class must be a whole number of at least 2, not {num_class!r}"


# Files -----------------------------------------------------------------------------------------------------------


def test_files_that_are_no_arrays(tmp_path):
    objects, archive, text, half = (tmp_path / name for name in ("o.npy", "a.npz", "t.npy", "h.npy"))
    np.save(objects, PROBS.astype(object), allow_pickle=True)
    archive.write_bytes(b"PK")
    text.write_text("0.5 0.5")
    np.save(half, PROBS)
    size = half.stat().st_size
    half.write_bytes(half.read_bytes()[:-1])
    missing, empty = tmp_path / "missing.npy", tmp_path / "empty"
    empty.mkdir()
    cases = {
        objects: "holds Python objects, which are never unpickled",
        archive: "is not a readable .npz archive",
        text: "is not a readable .npy file",
        half: f"is cut off: {size - 1:,} bytes, its header asks for {size:,}",
        missing: "there is no file",
        tmp_path / "missing.zarr": "there is no folder",
        tmp_path / ("a" * 300): "cannot be opened: File name too long",
        empty: "it has no zarr.json or .zarray",
    }
    for path, message in cases.items():
        for given in (path, str(path)):
            for found in (refused(find, LABELS, given), refused(find, given, PROBS)):
                assert message in found
                assert str(path) in found
        kwargs = {"labels": LABELS, "pred_probs_file": str(path), "verbose": False}
        assert message in refused(find_label_issues_batched, **kwargs)


@pytest.mark.parametrize("n_bytes", [0, 5, 9, 40])
def test_an_npy_file_cut_in_its_header(tmp_path, n_bytes):
    np.save(tmp_path / "p.npy", PROBS)
    (tmp_path / "p.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:n_bytes])
    assert "p.npy is not a readable .npy file" in refused(find, LABELS, tmp_path / "p.npy")


@pytest.mark.parametrize("as_path", [True, False])
def test_a_zarr_group_names_the_arrays_in_it(tmp_path, as_path):
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    for name in ("probs", "labels"):
        group.create_array(name, shape=(3,), dtype="f8")
    given = tmp_path / "g.zarr" if as_path else group
    message = refused(find, LABELS, given, error=InputTypeError)
    assert message == "pred_probs is a Zarr group, not an array; arrays in it: labels, probs"


def test_an_hdf5_file_or_group(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert "pred_probs is an HDF5 file, not a dataset" in refused(find, LABELS, file, error=InputTypeError)
        group = file.create_group("g")
        assert "labels is an HDF5 group, not a dataset" in refused(find, group, PROBS, error=InputTypeError)


# Forms that are not read: how each is written, and the same rows have to be found after the line that the message says.
def _table(array):
    names = ["label"] if array.ndim == 1 else [f"p{k}" for k in range(array.shape[1])]
    return pd.DataFrame(array.reshape(len(array), -1), columns=names).assign(note="x")


def _hdf5(array, path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["labels" if array.ndim == 1 else "pred_probs"] = array


WRITERS = {
    "parquet": lambda array, path: _table(array).to_parquet(path),
    "csv": lambda array, path: _table(array).to_csv(path, index=False),
    "tsv": lambda array, path: _table(array).to_csv(path, index=False, sep="\t"),
    "json": lambda array, path: _table(array).to_json(path, double_precision=15),
    "jsonl": lambda array, path: _table(array).to_json(path, orient="records", lines=True, double_precision=15),
    "feather": lambda array, path: _table(array).to_feather(path),
    "arrow": lambda array, path: _table(array).to_feather(path),
    "txt": lambda array, path: np.savetxt(path, array, fmt="%d" if array.ndim == 1 else "%.18g"),
    "h5": _hdf5,
    "hdf5": _hdf5,
    "pkl": lambda array, path: path.write_bytes(pickle.dumps(array)),
    "pickle": lambda array, path: path.write_bytes(pickle.dumps(array)),
    "pt": lambda array, path: path.write_bytes(pickle.dumps(array)),
    "pth": lambda array, path: path.write_bytes(pickle.dumps(array)),
}


def test_every_form_that_is_refused_is_tried():
    assert {f".{form}" for form in WRITERS} == set(places.OTHER_FORMATS)


@pytest.mark.parametrize("form", WRITERS)
def test_a_file_of_another_form_is_an_error(tmp_path, form):
    for name, array in (("labels", LABELS), ("pred_probs", PROBS)):
        path = tmp_path / f"my {name}.{form}"
        WRITERS[form](array, path)
        message = refused(find, **{"labels": LABELS, "pred_probs": PROBS} | {name: path})
        assert message.startswith(f"{name}: {path} is a")
        assert message.endswith(
            "; only .npy, .npz and safetensors files and Zarr arrays are read from a path: "
            + places.OTHER_FORMATS[f".{form}"][1]
        )


def test_the_advice_for_files_of_other_forms_works(tmp_path):
    want = find(LABELS, PROBS)
    table = _table(PROBS).assign(label=LABELS)
    for form in ("parquet", "feather"):  # "give it as data=..., with the names of its columns"
        getattr(table, f"to_{form}")(tmp_path / f"t.{form}")
        assert_same_bits(find("label", list(table.columns[:-2]), data=tmp_path / f"t.{form}"), want)
    h5py = pytest.importorskip("h5py")
    _hdf5(PROBS, tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:  # "open it with h5py and give the dataset"
        assert_same_bits(find(LABELS, file["pred_probs"]), want)
    WRITERS["pkl"](PROBS, tmp_path / "p.pkl")
    array = pickle.loads((tmp_path / "p.pkl").read_bytes())  # "load it and give the array, or save that with np.save"
    np.save(tmp_path / "p.npy", array)
    assert_same_bits(find(LABELS, array), want)
    assert_same_bits(find(LABELS, tmp_path / "p.npy"), want)


@pytest.mark.parametrize("form", ["parquet", "csv", "pt"])
def test_a_folder_of_files_of_another_form_is_an_error(tmp_path, form):
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in range(11):
        WRITERS[form](PROBS[27 * part : 27 * part + 27], folder / f"p-{part}.{form}")
    (folder / "README.md").write_text("about these")
    for place in (folder, f"{folder}/*.{form}"):
        message = refused(find, LABELS, place)
        assert message.startswith(
            f"pred_probs: {place} has no .npy, .npz or safetensors files and no .zarr arrays"
            + (", and it has no zarr.json or .zarray itself" if place == folder else "")
            + f"; it has 11 .{form} files, "
            f"such as p-0.{form}; only .npy, .npz and safetensors files and Zarr arrays are read from a path: "
        )
        assert message.endswith(places.OTHER_FORMATS[f".{form}"][1].replace(" it ", " them "))


def test_a_missing_file_of_another_form_is_missing(tmp_path):
    assert "there is no file" in refused(find, LABELS, tmp_path / "p.parquet")


def test_an_npy_file_under_another_name_is_read(tmp_path):
    with (tmp_path / "p.pt").open("wb") as file:
        np.save(file, PROBS)
    assert_same_bits(find(LABELS, tmp_path / "p.pt"), find(LABELS, PROBS))


def test_wrong_dtypes_in_files_are_refused_before_they_are_read(tmp_path):
    np.save(tmp_path / "y.npy", LABELS.astype(float))
    assert "not float64" in refused(find, tmp_path / "y.npy", PROBS)
    probs = zarr.create_array(str(tmp_path / "p.zarr"), shape=PROBS.shape, chunks=(50, 4), dtype="i4")
    assert "not int32" in refused(find, LABELS, probs)


@pytest.mark.parametrize("bad", [b"y.npy", 5, LABELS, ["y.npy"], object()], ids=lambda bad: type(bad).__name__)
def test_file_arguments_of_the_wrong_kind(bad):
    for name, other in (("labels", {"pred_probs": PROBS}), ("pred_probs", {"labels": LABELS})):
        message = refused(find_label_issues_batched, **{f"{name}_file": bad}, **other, verbose=False)
        assert message == f"{name}_file must be the path of a .npy file or Zarr array, not {type(bad).__name__}"


def test_both_an_array_and_a_file_or_neither():
    assert refused(find_label_issues_batched) == "give one of labels and labels_file"
    assert refused(find_label_issues_batched, LABELS) == "give one of pred_probs and pred_probs_file"
    assert refused(find_label_issues_batched, pred_probs=PROBS) == "give one of labels and labels_file"
    message = refused(find_label_issues_batched, LABELS, PROBS, labels_file="y.npy")
    assert message == "give only one of labels and labels_file"
    message = refused(find_label_issues_batched, LABELS, PROBS, pred_probs_file="p.npy")
    assert message == "give only one of pred_probs and pred_probs_file"


# Dask ------------------------------------------------------------------------------------------------------------


def test_unknown_chunk_sizes():
    probs = da.from_array(PROBS, chunks=(50, 4))
    unknown = probs[probs[:, 0] >= 0]
    assert "pred_probs is a Dask array of unknown chunk sizes" in refused(find, LABELS, unknown)
    labels = da.from_array(LABELS, chunks=50)
    assert "labels is a Dask array of unknown chunk sizes" in refused(find, labels[labels >= 0], PROBS)


def test_dask_arrays_of_the_wrong_shape_or_dtype_are_refused_before_they_are_computed():
    def never(block):
        pytest.fail("computed")

    probs = da.from_array(PROBS, chunks=(50, 4)).map_blocks(never, dtype="f8", meta=np.empty((0, 0)))
    labels = da.from_array(LABELS, chunks=50).map_blocks(never, dtype="i8", meta=np.empty(0, int))
    assert "299 rows" in refused(find, labels, probs[:299])
    assert "not int64" in refused(find, labels, da.from_array(PROBS.astype(int), chunks=50))
    assert "two axes" in refused(find, labels, probs[:, 0])
    assert "not float64" in refused(find, probs[:, 0], probs)


# Every block lies; which of them is met first is up to the threads.
PLACES = [f"partition {i} (rows {50 * i}..{50 * i + 49}) of a Dask array" for i in range(6)]


@pytest.mark.every_value
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (
            lambda block: block.astype("f4"),
            "a block of the Dask array pred_probs has dtype float32; the array says float64",
        ),
        (
            lambda block: block.astype("i8"),
            "a block of the Dask array pred_probs has dtype int64; the array says float64",
        ),
        (lambda block: block[:-1], "a block of the Dask array pred_probs has shape (49, 4); the array says (50, 4)"),
    ],
)
def test_pred_probs_blocks_that_are_not_what_they_say(lie, message, scheduler):
    probs = da.from_array(PROBS, chunks=(50, 4)).map_blocks(lie, dtype="f8", meta=np.empty((0, 0)), chunks=(50, 4))
    with dask.config.set(scheduler=scheduler):
        assert refused(find, LABELS, probs) in [f"{place}: {message}" for place in PLACES]


@pytest.mark.parametrize(("n_classes", "width"), [(4, 3), (4, 5), (40, 39), (40, 41)])
def test_pred_probs_blocks_of_another_width(n_classes, width):
    labels, probs = draw(N_ROWS, n_classes, seed=10)
    wide = np.eye(width)[np.arange(N_ROWS) % min(width, n_classes)]  # all of it fine but for its width

    def lie(block):
        return wide[: len(block)]

    lying = da.from_array(probs, chunks=(50, -1)).map_blocks(
        lie, dtype="f8", meta=np.empty((0, 0)), chunks=(50, n_classes)
    )
    message = refused(find, labels, lying)
    assert "a block of the Dask array pred_probs has" in message
    assert str(width) in message


def test_masked_dask_blocks_are_refused_like_masked_arrays():
    masked = da.ma.masked_less(da.from_array(PROBS, chunks=(50, 4)), 0.01)
    assert "masked" in refused(find, LABELS, masked)
    labels = da.ma.masked_equal(da.from_array(LABELS, chunks=50), 2)
    assert "masked" in refused(find, labels, PROBS)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (
            lambda block: block.astype("f8"),
            "a block of the Dask array labels has dtype float64; the array says integers",
        ),
        (lambda block: block[:-1], "a block of the Dask array labels has shape (49,); the array says (50,)"),
    ],
)
def test_label_blocks_that_are_not_what_they_say(lie, message):
    labels = da.from_array(LABELS, chunks=50).map_blocks(lie, dtype="i8", meta=np.empty(0, int), chunks=(50,))
    got = refused(find, labels, da.from_array(PROBS, chunks=(50, 4)))
    assert got in [f"{place}: {message}" for place in PLACES]


# The same message however the work is cut ------------------------------------------------------------------------


def troubled():
    """Return inputs whose trouble crosses the boundaries of batches, strips and chunks."""
    labels, probs = LABELS.copy(), PROBS.copy()
    probs[95:106] = 0
    probs[[3, 5, 7, 9, 11, 13, 15], 1] = np.nan
    probs[200:260, 2] = 1.5
    probs[131, 0] = -0.5
    labels[49:52] = -1
    labels[250] = 9
    return labels, probs


@pytest.fixture(scope="module")
def message():
    return refused(find, *troubled())


def test_the_message_of_the_troubled_input(message):
    assert message == (
        "7 NaN probabilities in rows 3, 5, 7, 9, 11 and more; "
        "1 probability below 0 in row 131 (first: -0.5; at most 1e-3 outside [0, 1] is accepted); "
        "60 probabilities above 1 in rows 200..259 (first: 1.5; at most 1e-3 outside [0, 1] is accepted); "
        "11 rows of pred_probs that are all zeros, rows 95..105: missing chunk? "
        "If not, find_label_issues accepts them with allow_zero_rows=True; "
        "61 rows of pred_probs do not sum to 1 within 0.05, rows 131, 200..259 (first sum: 0.486834): "
        "are these logits? find_label_issues takes them with from_logits=True; elsewhere, take "
        "pred_probs = scipy.special.softmax(pred_probs, axis=1); "
        "4 labels outside 0..3 in rows 49..51, 250 (first: -1)"
    )


@pytest.mark.every_pair
@pytest.mark.parametrize("strip_bytes", [100, 1000, 4_000_000])
@pytest.mark.parametrize("partition_batches", [1, 3, "auto"])
@pytest.mark.parametrize("batch_size", [1, 7, 50, "auto"])
def test_the_message_is_the_same_for_any_batches_and_strips(
    message, monkeypatch, batch_size, partition_batches, strip_bytes
):
    monkeypatch.setattr("labelsieve.job.scan.STRIP_BYTES", strip_bytes)
    settings = {"batch_size": batch_size, "partition_batches": partition_batches}
    assert refused(find, *troubled(), **settings) == message


@pytest.mark.every_value
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("chunks", [(10, 4), (101, 2), (300, 1)])
def test_the_message_is_the_same_for_any_chunks_and_scheduler(message, tmp_path, chunks, scheduler):
    labels, probs = troubled()
    stored = zarr.create_array(str(tmp_path / "p.zarr"), shape=probs.shape, chunks=chunks, dtype="f8")
    stored[:] = probs
    with dask.config.set(scheduler=scheduler):
        assert refused(find, labels, da.from_array(probs, chunks=chunks)) == message
        assert refused(find, da.from_array(labels, chunks=77), stored) == message


def test_the_message_is_the_same_with_forked_processes_and_in_the_documented_call(message):
    labels, probs = troubled()
    assert refused(find, labels, probs, n_jobs=2, batch_size=40) == message
    # The functions for cleanlab's users only warn of sums, so the likely cause alone stands at the end.
    errors, cause = message.split("; 61 rows")[0], re.search(r"are these logits\?.*axis=1\)", message)[0]
    at_labels = message[message.index("4 labels") :]
    documented = f"{errors}; {at_labels}; {cause}"
    assert refused(find_label_issues_batched, labels, probs, verbose=False, batch_size=40) == documented
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    assert refused(inspector.update_confident_thresholds, labels, probs) == documented


def test_rows_are_those_of_the_whole_array_where_a_slice_was_not_given():
    # In a loop of one's own, rows are those of the batch.
    inspector = ready_inspector()
    assert "in row 5" in refused(inspector.score_label_quality, LABELS[100:120], changed([105], np.nan, 1)[100:120])


# Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("name", ["batch_size", "partition_batches"])
@pytest.mark.parametrize("size", [0, -1, 1.5, 100.0, True, False, "big", "Auto", None, [10]])
def test_sizes_must_be_whole_numbers_of_at_least_one(name, size):
    message = refused(find, LABELS, PROBS, **{name: size})
    assert message.startswith(f"{name} must be ")
    assert "at least 1" in message
    assert repr(size) in message


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "big"])
def test_batch_sizes_of_the_documented_call(size):
    message = refused(find_label_issues_batched, LABELS, PROBS, batch_size=size, verbose=False)
    assert message.startswith("batch_size must be ")
    assert repr(size) in message


@pytest.mark.parametrize("probs", [da.from_array(PROBS, chunks=(50, 4)), PROBS.tolist()], ids=["dask", "list"])
def test_sizes_are_checked_for_every_input(probs):
    message = 'batch_size must be "auto" or a whole number of at least 1, not 0'
    assert message in refused(find, LABELS, probs, batch_size=0)


@pytest.mark.parametrize("size", [np.int64(50), np.uint8(50), 10**12])
def test_sizes_of_any_integer_type(size):
    assert_same_bits(find(LABELS, PROBS, batch_size=size, partition_batches=size), find(LABELS, PROBS))


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, 2.0, True, "2"])
def test_n_jobs_must_be_a_whole_number_of_at_least_one(n_jobs):
    message = f"n_jobs must be None or a whole number of at least 1, not {n_jobs!r}"
    assert refused(find, LABELS, PROBS, n_jobs=n_jobs) == message
    assert refused(find_label_issues_batched, LABELS, PROBS, n_jobs=n_jobs, verbose=False) == message
    assert refused(LabelInspector, num_class=3, n_jobs=n_jobs) == message


METHODS = "self_confidence, normalized_margin, confidence_weighted_entropy, logit_margin"
ESTIMATION_METHODS = "off_diagonal, off_diagonal_calibrated"


@pytest.mark.parametrize("bad", ["self_confidense", "", None, 3, ["self_confidence"]])
def test_unknown_methods_list_what_is_allowed(bad):
    message = f"method must be one of {METHODS}; not {bad!r}"
    assert refused(find, LABELS, PROBS, method=bad) == message
    kwargs = {"quality_score_kwargs": {"method": bad}}
    assert refused(find_label_issues_batched, LABELS, PROBS, **kwargs, verbose=False) == message
    assert refused(LabelInspector, num_class=3, **kwargs) == message


@pytest.mark.parametrize("bad", ["off_diagonal_custom", "", None, 3])
def test_unknown_estimation_methods_list_what_is_allowed(bad):
    message = f"estimation_method must be one of {ESTIMATION_METHODS}; not {bad!r}"
    assert refused(find, LABELS, PROBS, estimation_method=bad) == message
    kwargs = {"num_issue_kwargs": {"estimation_method": bad}}
    assert refused(find_label_issues_batched, LABELS, PROBS, **kwargs, verbose=False) == message
    assert refused(LabelInspector, num_class=3, **kwargs) == message


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"quality_score_kwargs": {"metod": 1, "adjust": True}},
            "quality_score_kwargs has unknown keys adjust, metod; allowed: method, adjust_pred_probs",
        ),
        (
            {"quality_score_kwargs": {3: 1}},
            "quality_score_kwargs has unknown keys 3; allowed: method, adjust_pred_probs",
        ),
        ({"quality_score_kwargs": "method"}, "quality_score_kwargs must be a dictionary"),
        ({"num_issue_kwargs": {"method": 1}}, "num_issue_kwargs has unknown keys method; allowed: estimation_method"),
        ({"num_issue_kwargs": ["estimation_method"]}, "num_issue_kwargs must be a dictionary"),
    ],
)
def test_unknown_keywords_list_what_is_allowed(kwargs, message):
    assert message in refused(find_label_issues_batched, LABELS, PROBS, **kwargs, verbose=False)
    assert message in refused(LabelInspector, num_class=3, **kwargs)


@pytest.mark.parametrize(
    ("call", "unknown", "message"),
    [
        (find_label_issues, "batchsize", "did you mean 'batch_size'?"),
        (find_label_issues, "Filter_By", "did you mean 'filter_by'?"),
        (plan_label_issues, "max_mem", "did you mean 'max_memory'?"),
        (find_label_issues_batched, "pred_probs_files", "did you mean 'pred_probs_file'?"),
        (find_label_issues_batched, "filter_by", "labelsieve.find_label_issues has the filters"),
        (count.compute_confident_joint, "callibrate", "did you mean 'calibrate'?"),
        (count.estimate_joint, "retry", "did you mean 'retries'?"),
        (count.estimate_latent, "pymethod", "did you mean 'py_method'?"),
        (count.estimate_latent, "xyz", "it takes confident_joint, labels, py_method, converge_latent_estimates, dense"),
    ],
)
def test_unknown_arguments_are_type_errors_that_name_the_right_one(call, unknown, message):
    said = refused(call, LABELS, PROBS, **{unknown: 3}, error=InputTypeError)
    assert said.startswith(f"{call.__name__}() has no argument {unknown!r}: {message}")


def test_an_unknown_argument_of_the_inspector():
    said = refused(LabelInspector, num_classes=3, error=InputTypeError)
    assert said == "LabelInspector() has no argument 'num_classes': did you mean 'num_class'?"


# cleanlab's arguments that `find_label_issues` does not have, and those of its own that the message names.
CLEANLAB = {
    "return_indices_ranked_by": {"method", "rank_by"},
    "rank_by_kwargs": {"adjust_pred_probs"},
    "confident_joint": set(),
    "verbose": {"progress"},
    "multi_label": set(),
    "labels_file": {"labels"},
    "pred_probs_file": {"pred_probs"},
    "quality_score_kwargs": {"method", "adjust_pred_probs"},
    "num_issue_kwargs": {"estimation_method", "rule"},
    "return_mask": set(),
}


@pytest.mark.parametrize("call", [find_label_issues, plan_label_issues])
def test_arguments_of_cleanlab_are_answered_with_the_name_here(call):
    theirs = set(inspect.signature(cleanlab.filter.find_label_issues).parameters)
    theirs |= set(inspect.signature(cleanlab.experimental.label_issues_batched.find_label_issues_batched).parameters)
    ours = set(inspect.signature(find_label_issues).parameters)
    assert theirs - ours == set(CLEANLAB)
    for name, named in CLEANLAB.items():
        said = refused(call, LABELS, PROBS, **{name: None}, error=InputTypeError)
        assert said.startswith(f"{call.__name__}() has no argument {name!r}: ")
        assert set(re.findall(r"(\w+)=", said)) == named
        assert named <= ours
        assert "did you mean" not in said
        assert "it takes" not in said
    both = refused(call, LABELS, PROBS, verbose=True, rank_by_kwargs={}, error=InputTypeError)
    assert "progress=" in both
    assert "adjust_pred_probs=True" in both


def test_arguments_of_cleanlabs_counts_are_answered_too():
    for name in ("num_label_issues", "compute_confident_joint", "estimate_joint"):
        call = getattr(count, name)
        theirs = set(inspect.signature(getattr(cleanlab.count, name)).parameters)
        for unknown in theirs - set(inspect.signature(call).parameters):
            said = refused(call, LABELS, PROBS, **{unknown: None}, error=InputTypeError)
            assert said.startswith(f"{name}() has no argument {unknown!r}: ")
            assert "it takes" not in said


def test_explained_functions_keep_their_signatures_and_names():
    parameters = inspect.signature(find_label_issues).parameters
    assert all(one.kind is not one.VAR_KEYWORD for one in parameters.values())
    assert list(parameters)[:4] == ["labels", "pred_probs", "data", "summaries"]
    assert find_label_issues.__name__ == "find_label_issues"
    assert "Find the rows whose given label is likely wrong" in find_label_issues.__doc__
    with pytest.raises(TypeError, match="pred_probs is missing"):
        find_label_issues(LABELS)


@pytest.mark.every_value
@pytest.mark.parametrize("name", ["adjust_pred_probs", "allow_zero_rows"])
@pytest.mark.parametrize("bad", [1, 0, "yes", None])
def test_flags_must_be_flags(name, bad):
    assert refused(find, LABELS, PROBS, **{name: bad}) == f"{name} must be True or False, not {bad!r}"


def test_adjusted_entropy_is_not_defined():
    kwargs = {"method": "confidence_weighted_entropy", "adjust_pred_probs": True}
    message = "adjust_pred_probs is not defined for confidence_weighted_entropy"
    assert refused(find, LABELS, PROBS, **kwargs) == message
    assert refused(LabelInspector, num_class=3, quality_score_kwargs=kwargs) == message


def test_settings_are_checked_before_data_is_opened():
    with pytest.raises(InvalidInputError, match="method must be one of"):
        find("no such file", "no such file either", method="x")


# LabelInspector --------------------------------------------------------------------------------------------------


def state(inspector):
    """Return all that the getters say."""
    return (
        inspector.get_confident_thresholds().tobytes(),
        inspector.get_num_issues(),
        inspector.get_quality_scores().tobytes(),
        inspector.get_label_issues().tobytes(),
    )


@pytest.mark.every_value
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("estimation_method", ESTIMATION_METHODS.split(", "))
def test_a_refused_batch_leaves_all_state_as_it_was(estimation_method, n_jobs):
    inspector = ready_inspector(num_issue_kwargs={"estimation_method": estimation_method}, n_jobs=n_jobs)
    inspector.score_label_quality(LABELS, PROBS)
    before = state(inspector)
    batches = [
        (LABELS, changed([299], np.nan, 1)),
        (LABELS, changed([0], 0.0)),
        (relabelled([299], 4), PROBS),
        (LABELS[:-1], PROBS),
        (LABELS, PROBS[:, :3]),
        (LABELS.astype(float), PROBS),
    ]
    for batch in batches:
        refused(inspector.update_confident_thresholds, *batch)
        refused(inspector.score_label_quality, *batch)
        refused(inspector.score_label_quality, *batch, update_num_issues=False)
        assert state(inspector) == before
    # And the next good batch counts as if the refused ones had never come.
    inspector.update_confident_thresholds(LABELS[:100], PROBS[:100])
    other = ready_inspector(num_issue_kwargs={"estimation_method": estimation_method})
    other.update_confident_thresholds(LABELS[:100], PROBS[:100])
    assert_same_array(inspector.get_confident_thresholds(), other.get_confident_thresholds())


def test_a_batch_whose_warning_is_raised_leaves_all_state_as_it_was():
    inspector = ready_inspector()
    inspector.score_label_quality(LABELS, PROBS)
    before = state(inspector)
    low = changed([3], 0.1)
    for call in (inspector.update_confident_thresholds, inspector.score_label_quality):
        with pytest.raises(LabelsieveWarning, match="1 row "):
            call(LABELS, low)
        assert state(inspector) == before


def test_scoring_before_any_update_is_an_error():
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    message = "no confident thresholds yet: call update_confident_thresholds() first"
    assert refused(inspector.score_label_quality, LABELS, PROBS) == message
    assert refused(inspector.get_confident_thresholds) == message
    inspector.update_confident_thresholds(LABELS[:0], PROBS[:0])
    assert refused(inspector.score_label_quality, LABELS, PROBS) == message, "an empty batch updates nothing"


def test_getters_before_any_score_are_errors():
    inspector = ready_inspector()
    message = "no labels evaluated yet: call score_label_quality() first"
    assert refused(inspector.get_num_issues) == message
    assert refused(inspector.get_label_issues) == message
    assert inspector.get_quality_scores().shape == (0,)


def test_issues_are_refused_when_no_scored_row_was_counted():
    inspector = ready_inspector()
    inspector.score_label_quality(LABELS, PROBS, update_num_issues=False)
    for call in (inspector.get_num_issues, inspector.get_label_issues):
        assert "300 rows were scored, 0 of them counted" in refused(call)
    assert_same_array(inspector.get_quality_scores(), find(LABELS, PROBS).scores)


@pytest.mark.parametrize("first", [True, False])
def test_issues_are_refused_when_only_some_scored_rows_were_counted(first):
    inspector = ready_inspector()
    inspector.score_label_quality(LABELS[:120], PROBS[:120], update_num_issues=first)
    inspector.score_label_quality(LABELS[120:], PROBS[120:], update_num_issues=not first)
    for call in (inspector.get_num_issues, inspector.get_label_issues):
        assert f"300 rows were scored, {120 if first else 180} of them counted" in refused(call)


def test_numbers_in_these_messages_have_separators():
    labels, probs = draw(2500, N_CLASSES, seed=8)
    inspector = ready_inspector()
    inspector.score_label_quality(labels, probs)
    inspector.score_label_quality(labels, probs, update_num_issues=False)
    assert "5,000 rows were scored, 2,500 of them counted" in refused(inspector.get_num_issues)


def test_batches_of_no_rows_do_nothing():
    inspector = ready_inspector()
    inspector.score_label_quality(LABELS, PROBS)
    before = state(inspector)
    for labels in ([], LABELS[:0], da.from_array(LABELS, chunks=50)[:0]):
        inspector.update_confident_thresholds(labels, PROBS[:0])
        scores = inspector.score_label_quality(labels, PROBS[:0])
        assert scores.shape == (0,)
        assert state(inspector) == before


@pytest.mark.parametrize("estimation_method", ESTIMATION_METHODS.split(", "))
def test_batches_of_one_row_are_the_whole(estimation_method):
    settings = {"num_issue_kwargs": {"estimation_method": estimation_method}, "verbose": False}
    inspector, whole = (LabelInspector(num_class=N_CLASSES, **settings) for _ in range(2))
    for i in range(N_ROWS):
        inspector.update_confident_thresholds(LABELS[i : i + 1], PROBS[i : i + 1])
    for i in range(N_ROWS):
        inspector.score_label_quality(LABELS[i : i + 1], PROBS[i : i + 1])
    whole.update_confident_thresholds(LABELS, PROBS)
    whole.score_label_quality(LABELS, PROBS)
    assert state(inspector) == state(whole)


def test_getters_return_copies():
    inspector = ready_inspector()
    scores = inspector.score_label_quality(LABELS, PROBS)
    before = state(inspector)
    scores[:] = 7
    for getter in (inspector.get_confident_thresholds, inspector.get_quality_scores, inspector.get_label_issues):
        getter()[:] = 7
    assert state(inspector) == before


def test_without_stored_results_the_user_picks_the_lowest():
    stored, bare = ready_inspector(), ready_inspector(store_results=False)
    scores = []
    for i in range(0, N_ROWS, 70):
        stored.score_label_quality(LABELS[i : i + 70], PROBS[i : i + 70])
        scores.append(bare.score_label_quality(LABELS[i : i + 70], PROBS[i : i + 70]))
    for getter in (bare.get_quality_scores, bare.get_label_issues):
        assert "store_results=False" in refused(getter)
    lowest = np.argsort(np.concatenate(scores), kind="stable")[: bare.get_num_issues()]
    assert bare.get_num_issues() > 0
    assert_same_array(lowest, stored.get_label_issues())


def test_batches_of_mixed_dtypes_keep_every_bit():
    dtypes = ["f2", "f8", "f4", ">f8", "f2"]
    batches = [(LABELS[i * 60 : i * 60 + 60], PROBS[i * 60 : i * 60 + 60].astype(d)) for i, d in enumerate(dtypes)]
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    wide = np.concatenate([probs.astype("f8") for _, probs in batches])
    for batch in batches:
        inspector.update_confident_thresholds(*batch)
    for batch in batches:
        inspector.score_label_quality(*batch)
    want = find(LABELS, wide)
    assert_same_array(inspector.get_confident_thresholds(), want.confident_thresholds)
    assert_same_array(inspector.get_quality_scores(), want.scores)
    assert inspector.get_num_issues() == want.estimated_num_issues


def test_the_first_pass_may_run_on_a_subset():
    subset = np.random.default_rng(9).choice(N_ROWS, 120, replace=False)
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    inspector.update_confident_thresholds(LABELS[subset], PROBS[subset])
    thresholds = find(LABELS[subset], PROBS[subset]).confident_thresholds
    assert_same_array(inspector.get_confident_thresholds(), thresholds)
    inspector.score_label_quality(LABELS, PROBS)
    predicted = PROBS.argmax(axis=1)
    off = (predicted != LABELS) & (PROBS.max(axis=1) >= thresholds[predicted] - 1e-6)
    assert inspector.get_num_issues() == int(off.sum())
    scores = PROBS[np.arange(N_ROWS), LABELS]
    assert_same_array(inspector.get_label_issues(), np.argsort(scores, kind="stable")[: int(off.sum())])


def test_later_updates_revise_nothing():
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    inspector.update_confident_thresholds(LABELS[:100], PROBS[:100])
    inspector.score_label_quality(LABELS, PROBS)
    n_issues, scores = inspector.get_num_issues(), inspector.get_quality_scores()
    inspector.update_confident_thresholds(LABELS, np.full_like(PROBS, 0.25))
    assert inspector.get_num_issues() == n_issues
    assert_same_array(inspector.get_quality_scores(), scores)


@pytest.mark.parametrize("kind", ["dask", "zarr", "memmap", "list"])
def test_whole_arrays_of_any_kind_are_taken(tmp_path, kind):
    np.save(tmp_path / "p.npy", PROBS)
    stored = zarr.create_array(str(tmp_path / "p.zarr"), shape=PROBS.shape, chunks=(70, 4), dtype="f8")
    stored[:] = PROBS
    probs = {
        "dask": da.from_array(PROBS, chunks=(40, 3)),
        "zarr": stored,
        "memmap": np.load(tmp_path / "p.npy", mmap_mode="r"),
        "list": PROBS.tolist(),
    }[kind]
    inspector = LabelInspector(num_class=N_CLASSES, verbose=False)
    inspector.update_confident_thresholds(LABELS.tolist(), probs)
    inspector.score_label_quality(LABELS, probs)
    plain = ready_inspector()
    plain.score_label_quality(LABELS, PROBS)
    assert state(inspector) == state(plain)


def test_messages_are_one_line():
    for labels, probs in ((LABELS, changed([1], np.nan)), (LABELS[:3], PROBS), (LABELS, [[1.0], [1.0, 2.0]])):
        assert not re.search(r"\n", refused(find, labels, probs))


def test_labels_of_dtype_object_are_named_for_what_they_hold():
    probs = PROBS[:3]
    cases = {
        "2 missing values": [0, None, float("nan")],
        "for rows with several labels": [[0, 1], [1], [2]],
        "not object: take labels = np.asarray(labels, int)": [0, 1, 2],
        "labels have 2 distinct names ('a', 'b'); pred_probs has 4 classes": ["a", "b", "a"],
    }
    for message, values in cases.items():
        labels = np.empty(3, object)
        labels[:] = values
        assert message in refused(find, labels, probs)


def test_other_packages_objects_are_refused_by_their_kind():
    xarray = pytest.importorskip("xarray")
    for data in (xarray.Dataset({"p": (("row", "class"), PROBS)}), 3.5, {"p": PROBS}):
        refused(find, LABELS, data, error=InputTypeError)


def test_a_result_does_not_replace_one_of_a_list_of_inputs(tmp_path):
    places = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for place in places:
        zarr.save_array(place, np.full((2, 2), 0.5))
    with pytest.raises(InvalidInputError, match="is an input"):
        find_label_issues(np.array([0, 1, 0, 1]), places, output=places[1])
