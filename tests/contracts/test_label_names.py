"""Labels as people write them: names, categories, booleans, missing values; the same answer as of their classes."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr

import labelsieve
from draws import draw, find
from labelsieve import count
from labelsieve.errors import InvalidInputError
from labelsieve.sources.names import IGNORED, UNKNOWN, LabelNames, NameTable, _FixedWidth, open_label_values
from labelsieve.sources.open import ArraySource

N_ROWS = 600
NAMES = ["ant", "bee", "cat", "dog"]
LABELS, PROBS = draw(N_ROWS, 4, seed=1)
TEXTS = np.array(NAMES)[LABELS]
TWO, PROBS_OF_TWO = draw(N_ROWS, 2, seed=1)
CUT = {"batch_size": 50, "partition_batches": 1}
GONE = np.arange(N_ROWS) % 5 == 0
ROWS = np.flatnonzero(~GONE)


def text_objects(values):
    objects = np.empty(len(values), object)
    objects[:] = values.tolist()
    return objects


def as_kind(kind, texts, folder):
    """Return texts as labels of some kind."""
    if kind in ("npy", "bytes npy"):
        np.save(folder / "y.npy", texts if kind == "npy" else texts.astype("S"))
        return folder / "y.npy"
    if kind == "shards":
        for index, part in enumerate(np.split(texts, [170, 180])):
            np.save(folder / f"y-{index}.npy", part.astype("U7"))
        return f"{folder}/y-*.npy"
    if kind.startswith("zarr"):
        # Text of fixed width has no specification in format 3.
        dtype, version = (str, 3) if kind == "zarr" else (texts.dtype, 2)
        stored = zarr.create_array(folder / "y.zarr", shape=texts.shape, chunks=(70,), dtype=dtype, zarr_format=version)
        stored[:] = text_objects(texts) if kind == "zarr" else texts
        return folder / "y.zarr"
    return {
        "text": lambda: texts,
        "big-endian": lambda: texts.astype(">U9"),
        "bytes": lambda: texts.astype("S"),
        "variable": lambda: texts.astype(np.dtypes.StringDType()),
        "objects": lambda: text_objects(texts),
        "list": texts.tolist,
        "tuple": lambda: tuple(texts.tolist()),
        "series": lambda: pd.Series(texts),
        "table": lambda: pd.DataFrame({"label": texts}),
        "strings of pandas": lambda: pd.Series(texts, dtype="string"),
        "categories": lambda: pd.Series(texts).astype("category"),
        "categorical": lambda: pd.Categorical(texts),
        "dask": lambda: da.from_array(texts, chunks=90),
        "dask objects": lambda: da.from_array(text_objects(texts), chunks=90),
    }[kind]()


KINDS = [
    *("text", "big-endian", "bytes", "variable", "objects", "list", "tuple", "series", "table", "strings of pandas"),
    *("categories", "categorical", "dask", "dask objects", "npy", "bytes npy", "shards", "zarr", "zarr of fixed width"),
]


def assert_same(found, wanted, rows=None):
    rows = np.arange(found.n_rows) if rows is None else rows
    assert found.indices.tolist() == rows[wanted.indices].tolist()
    assert np.asarray(found.scores)[rows].tobytes() == np.asarray(wanted.scores).tobytes()
    assert found.confident_thresholds.tobytes() == wanted.confident_thresholds.tobytes()


@pytest.mark.every_value
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [None, NAMES])
def test_names_are_their_classes(kind, names, tmp_path):
    wanted = find(LABELS, PROBS)
    assert len(wanted)
    cut = {} if "dask" in kind else CUT
    found = find(as_kind(kind, TEXTS, tmp_path), PROBS, class_names=names, **cut)
    assert_same(found, wanted)
    assert found.class_names == tuple(NAMES)
    note = "Labels are names, taken in this order as the columns of pred_probs: "
    note += "'ant' is 0, 'bee' is 1, 'cat' is 2, 'dog' is 3."
    assert found.facts.notes == ((note,) if names is None else ())


def test_class_names_need_not_be_sorted_and_are_in_the_tables():
    order = np.array([2, 0, 3, 1])
    names = [NAMES[k] for k in order]
    found = find(TEXTS, PROBS[:, order], class_names=names)
    assert found.indices.tolist() == find(LABELS, PROBS).indices.tolist()
    frame = found.to_frame()
    assert frame["given_name"].tolist() == TEXTS[found.indices].tolist()
    assert frame["suggested_name"].tolist() == np.array(NAMES)[PROBS[found.indices].argmax(axis=1)].tolist()


def test_the_columns_of_a_table_give_the_order():
    order = [2, 0, 3, 1]
    table = pd.DataFrame(PROBS[:, order], columns=[NAMES[k] for k in order])
    for labels in (TEXTS, pd.Categorical(TEXTS)):
        found = find(labels, table)
        assert found.class_names == tuple(table.columns)
        assert found.indices.tolist() == find(LABELS, PROBS).indices.tolist()
    # Not those that are other words.
    assert find(TEXTS, pd.DataFrame(PROBS, columns=["a", "b", "c", "d"])).class_names == tuple(NAMES)


def test_a_class_may_have_no_rows_where_names_are_given():
    wanted = find(np.where(LABELS == 3, 0, LABELS), PROBS)
    texts = np.where(TEXTS == "dog", "ant", TEXTS)
    assert_same(find(texts, PROBS, class_names=NAMES), wanted)
    assert_same(find(pd.Categorical(texts, categories=NAMES), PROBS), wanted)
    with pytest.raises(
        InvalidInputError, match=r"labels have 3 distinct names \('ant', 'bee', 'cat'\); pred_probs has 4"
    ):
        find(texts, PROBS)


@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, pd.Series, lambda x: pd.Series(x, dtype="boolean")])
def test_booleans_are_two_classes(make):
    labels, wanted = make(TWO.astype(bool)), find(TWO, PROBS_OF_TWO)
    assert find(labels, PROBS_OF_TWO).class_names == ("False", "True")
    assert_same(find(labels, PROBS_OF_TWO), wanted)
    assert_same(find(labels, PROBS_OF_TWO, class_names=["ham", "spam"]), wanted)
    assert_same(
        find(labels, PROBS_OF_TWO[:, ::-1], class_names=["True", "False"]), find(1 - TWO, PROBS_OF_TWO[:, ::-1])
    )


def test_booleans_are_not_more_classes():
    with pytest.raises(InvalidInputError, match=r"labels have 2 distinct names \('False', 'True'\); pred_probs has 4"):
        find(LABELS > 1, PROBS)


@pytest.mark.parametrize("kind", ["text", "objects", "variable", "dask", "npy", "zarr"])
def test_unknown_names_are_named_with_their_rows_and_the_nearest(kind, tmp_path):
    texts = TEXTS.astype("U10")
    texts[[3, 4, 5, 300]] = "caat"
    texts[7] = "Dog "
    labels = as_kind(kind, texts, tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        find(labels, PROBS, class_names=NAMES, **({} if kind == "dask" else CUT))
    assert str(caught.value) == (
        "5 labels are not class names, in rows 3..5, 7, 300: 'caat' (nearest: 'cat'), 'Dog ' (nearest: 'dog'). "
        "The names are 'ant', 'bee', 'cat', 'dog'"
    )
    assert list(caught.value.rows) == [(3, 6), (7, 8), (300, 301)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.where(LABELS == 3, "owl", "bee"),
            "2 distinct names ('bee', 'owl'); pred_probs has 4 classes: give class_names",
        ),
        (
            np.array([f"n{k}" for k in range(N_ROWS)]),
            "labels have more than 4 distinct names, such as 'n0', 'n1', 'n10', 'n100', 'n101'; pred_probs has 4",
        ),
        (
            pd.Categorical(TEXTS, categories=NAMES[::-1]),
            "the categories of labels are in the order 'dog', 'cat', 'bee', 'ant'",
        ),
        (
            ["cat", None, *TEXTS.tolist()[2:]],
            "labels has 1 missing value: drop these rows or label them, or give ignore_label=None",
        ),
        (TEXTS[:, None], "labels must have one axis (N,), not shape (600, 1)"),
    ],
)
def test_names_that_do_not_say_the_class(labels, message):
    with pytest.raises(InvalidInputError) as caught:
        find(labels, PROBS)
    assert message in str(caught.value)


def test_numbers_as_text_are_taken_only_where_their_order_is_clear():
    labels, probs = draw(400, 11, seed=3)
    with pytest.raises(InvalidInputError, match=r"numbers written as text.*whose order is in doubt"):
        find(labels.astype(str), probs)
    assert_same(find(labels.astype(str), probs, class_names=[str(k) for k in range(11)]), find(labels, probs))
    assert_same(find(LABELS.astype(str), PROBS), find(LABELS, PROBS))


def test_one_name_for_two_classes_is_refused():
    with pytest.raises(InvalidInputError, match="class_names has 'ant' for several classes"):
        find(TEXTS, PROBS, class_names=["ant", "bee", "ant", "dog"])
    assert len(find(LABELS, PROBS, class_names=["ant", "bee", "ant", "dog"]))  # numbers need no names


# Rows without a label ----------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("kind", ["text", "bytes", "variable", "list", "series", "dask", "npy", "zarr", "categories"])
@pytest.mark.parametrize("names", [None, NAMES])
def test_a_name_is_ignored(kind, names, tmp_path):
    texts = np.where(GONE, "unknown", TEXTS)
    found = find(as_kind(kind, texts, tmp_path), PROBS, ignore_label="unknown", class_names=names)
    assert (found.n_ignored, found.class_names) == (GONE.sum(), tuple(NAMES))
    assert_same(found, find(LABELS[ROWS], PROBS[ROWS]), ROWS)


MISSING = {
    "list": lambda: [None if gone else text for gone, text in zip(GONE, TEXTS.tolist(), strict=True)],
    "nan": lambda: [float("nan") if gone else text for gone, text in zip(GONE, TEXTS.tolist(), strict=True)],
    "series": lambda: pd.Series(TEXTS).where(~GONE),
    "strings of pandas": lambda: pd.Series(TEXTS, dtype="string").where(~GONE),
    "categories": lambda: pd.Series(TEXTS).astype("category").where(~GONE),
    "masked": lambda: np.ma.MaskedArray(TEXTS, GONE),
    "variable": lambda: np.array(
        [None if gone else text for gone, text in zip(GONE, TEXTS.tolist(), strict=True)],
        np.dtypes.StringDType(na_object=None),
    ),
    "numbers": lambda: [None if gone else k for gone, k in zip(GONE, LABELS.tolist(), strict=True)],
    "floats": lambda: np.where(GONE, np.nan, LABELS),
    "float32 dask": lambda: da.from_array(np.where(GONE, np.nan, LABELS).astype("f4"), chunks=77),
    "series of floats": lambda: pd.Series(LABELS).where(~GONE),
    "nullable": lambda: pd.Series(LABELS, dtype="Int64").where(~GONE),
    "masked numbers": lambda: np.ma.MaskedArray(LABELS, GONE),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_are_ignored_if_that_is_asked_for(kind):
    labels = MISSING[kind]()
    found = find(labels, PROBS, ignore_label=None)
    assert found.n_ignored == GONE.sum()
    assert_same(found, find(LABELS[ROWS], PROBS[ROWS]), ROWS)
    with pytest.raises(InvalidInputError):
        find(labels, PROBS)


def test_stored_floats_are_ignored_where_they_are_nan(tmp_path):
    np.save(tmp_path / "y.npy", np.where(GONE, np.nan, LABELS))
    found = find(tmp_path / "y.npy", PROBS, ignore_label=None, **CUT)
    assert_same(found, find(LABELS[ROWS], PROBS[ROWS]), ROWS)
    labels = np.where(GONE, np.nan, LABELS)
    labels[[7, 8]] = 1.5
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(InvalidInputError, match=r"2 labels are not classes, in rows 7\.\.8: 1\.5"):
        find(tmp_path / "y.npy", PROBS, ignore_label=None, **CUT)


def test_booleans_may_be_missing():
    labels = pd.Series(TWO.astype(bool), dtype="boolean").where(~GONE)
    assert_same(find(labels, PROBS_OF_TWO, ignore_label=None), find(TWO[ROWS], PROBS_OF_TWO[ROWS]), ROWS)


def test_an_ignored_name_need_not_be_a_class_and_may_be_one():
    wanted = find(np.where(LABELS == 3, -1, LABELS), PROBS, ignore_label=-1)
    found = find(TEXTS, PROBS, ignore_label="dog", class_names=NAMES)
    assert found.indices.tolist() == wanted.indices.tolist()
    assert found.n_ignored == (LABELS == 3).sum()
    assert find(np.where(GONE, "-1", TEXTS), PROBS, ignore_label=-1).n_ignored == GONE.sum()


# Columns of tables --------------------------------------------------------------------------------------------------

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("pyarrow.feather")


def table_of(**columns):
    return pa.table({"probs": pa.array(list(PROBS)), **columns})


COLUMNS = {
    "text": lambda: pa.array(MISSING["list"]()),
    "dictionary": lambda: pa.array(MISSING["list"]()).dictionary_encode(),
    "integers": lambda: pa.array(MISSING["numbers"](), pa.int8()),
    "floats": lambda: pa.array(MISSING["numbers"](), pa.float32()),
}


@pytest.mark.every_value
@pytest.mark.parametrize("place", ["memory", "parquet", "arrow", "shards"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_nulls_in_a_column_are_rows_without_a_label(kind, place, tmp_path):
    data = table = table_of(label=COLUMNS[kind]())
    if place in ("parquet", "shards"):
        data = tmp_path
        for index, (start, stop) in enumerate([(0, 600)] if place == "parquet" else [(0, 170), (170, 600)]):
            pa.parquet.write_table(table.slice(start, stop - start), tmp_path / f"{index}.parquet", row_group_size=130)
    elif place == "arrow":
        data = tmp_path / "t.arrow"
        pa.feather.write_feather(table, data, compression="uncompressed")
    given = {"data": data, "labels": "label", "pred_probs": "probs", "progress": False, **CUT}
    found = labelsieve.find_label_issues(ignore_label=None, **given)
    assert found.n_ignored == GONE.sum()
    assert_same(found, find(LABELS[ROWS], PROBS[ROWS]), ROWS)
    with pytest.raises(InvalidInputError, match=r"nulls in column 'label'|must be integers"):
        labelsieve.find_label_issues(**given)


def test_a_column_of_booleans_may_have_nulls():
    labels = [None if gone else bool(k) for gone, k in zip(GONE, TWO.tolist(), strict=True)]
    table = pa.table({"label": labels, "probs": pa.array(list(PROBS_OF_TWO))})
    given = {"data": table, "labels": "label", "pred_probs": "probs", "progress": False}
    found = labelsieve.find_label_issues(ignore_label=None, **given)
    assert_same(found, find(TWO[ROWS], PROBS_OF_TWO[ROWS]), ROWS)


@pytest.mark.parametrize("prefix", ["", "p_"])
def test_columns_called_by_the_classes_say_their_order(prefix, tmp_path):
    order = [3, 0, 2, 1]
    columns = [prefix + NAMES[k] for k in order]
    table = pa.table({"label": TEXTS, **{name: PROBS[:, k] for name, k in zip(columns, order, strict=True)}})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    for data in (table, table.to_pandas(), tmp_path / "t.parquet"):
        found = labelsieve.find_label_issues(data=data, labels="label", pred_probs=columns, progress=False)
        assert found.class_names == tuple(NAMES[k] for k in order)
        assert found.indices.tolist() == find(LABELS, PROBS).indices.tolist()


# Files, workdirs, other entries ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:300 rows are counted")
def test_a_workdir_knows_other_names(tmp_path):
    np.save(tmp_path / "y.npy", TEXTS)
    np.save(tmp_path / "p.npy", PROBS)
    where, choices = (tmp_path / "y.npy", tmp_path / "p.npy"), {"workdir": tmp_path / "work", **CUT}
    first = find(*where, class_names=NAMES, **choices)
    assert first.facts.rows_read == N_ROWS
    assert find(*where, class_names=NAMES, **choices).facts.rows_read == 0
    assert find(*where, **choices).facts.rows_read == 0  # the same, learned
    swapped = ["bee", "ant", "cat", "dog"]
    other = find(*where, class_names=swapped, **choices)
    assert other.facts.rows_read == N_ROWS
    assert_same(other, find(np.array([1, 0, 2, 3])[LABELS], PROBS))


def test_results_in_a_store_have_the_names(tmp_path):
    found = find(TEXTS, PROBS, output=tmp_path / "found.zarr", filter_by="both", **CUT)
    assert_same(found, find(LABELS, PROBS, filter_by="both"))
    assert labelsieve.load(tmp_path / "found.zarr").class_names == tuple(NAMES)
    assert labelsieve.load(tmp_path / "found.zarr").facts.notes == found.facts.notes


def test_a_plan_reads_no_names(tmp_path):
    np.save(tmp_path / "y.npy", TEXTS)
    plan = labelsieve.plan_label_issues(tmp_path / "y.npy", PROBS, **CUT)
    assert plan.n_rows == N_ROWS
    assert labelsieve.plan_label_issues(TEXTS, PROBS).n_batches == labelsieve.plan_label_issues(LABELS, PROBS).n_batches


def test_counts_have_no_place_for_names():
    with pytest.raises(InvalidInputError, match="labels must be integers"):
        count.compute_confident_joint(TEXTS, PROBS)


def test_forks_read_labels_of_names(tmp_path):
    assert_same(find(TEXTS, PROBS, n_jobs=2, **CUT), find(LABELS, PROBS))


# The table of names ------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("n_names", [1, 2, 37, 1000, 5000])
@pytest.mark.parametrize("kind", ["U", "S", "O", "T"])
def test_a_table_finds_each_name_and_no_other(n_names, kind):
    names = [f"class {k}" if k % 3 else f"{k}-ä" for k in range(n_names)]
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, n_names, 3000)
    texts = [f"other {k % 7}" if code < 0 else names[code] for k, code in enumerate(codes.tolist())]
    if kind == "S":
        values = np.array([text.encode() for text in texts])
    else:
        values = np.array(texts, np.dtypes.StringDType() if kind == "T" else kind)
    found = NameTable(names).codes(values)
    assert found.dtype == np.int32
    assert found.tolist() == np.where(codes < 0, UNKNOWN, codes).tolist()


def test_hashes_that_agree_are_not_names(monkeypatch):
    monkeypatch.setattr(_FixedWidth, "_hashed", lambda _self, values: np.zeros(len(values), np.uint64))
    values = np.array(["ant", "bee", "bug"])
    assert NameTable(["ant"]).codes(values).tolist() == [0, UNKNOWN, UNKNOWN]


def test_a_table_takes_text_of_any_width():
    table = NameTable(["a", "a longer name", ""], "x")
    for width in (1, 2, 3, 7, 20):
        values = np.array(["a", "x", "", "b"], f"U{width}")
        assert table.codes(values).tolist() == [0, IGNORED, 2, UNKNOWN]
    assert table.codes(np.array(["a longer name"])).tolist() == [1]
    assert table.codes(np.array(["a longer"])).tolist() == [UNKNOWN]
    assert table.codes(np.array(["", ""], "U0")).tolist() == [2, 2]
    assert table.codes(np.empty(0, "U3")).tolist() == []


def test_a_strip_of_names_does_not_depend_on_the_strip():
    source = LabelNames(ArraySource(TEXTS), NameTable(NAMES))
    assert source[0:N_ROWS].tolist() == LABELS.tolist()
    with source.open() as rows:
        assert rows.read(17, 93).tolist() == LABELS[17:93].tolist()
    part, origin = source.part(100, 200)
    assert part[100 - origin : 200 - origin].tolist() == LABELS[100:200].tolist()


def test_integers_stay_as_they_are():
    for labels in (LABELS, LABELS.tolist(), pd.Series(LABELS), LABELS.astype(np.uint8)):
        opened = open_label_values(labels)
        assert opened.dtype.kind in "iu"
        assert opened.ignored is None
