"""Row summaries in place of probabilities: the same answers to the bit, in every form and on every executor."""

import itertools
import pickle
import re

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

import labelsieve
import labelsieve.recorder
from draws import assert_same_array, assert_same_bits, bits, draw, odd, pieces
from labelsieve.cli import app
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, MemoryLimitError, WorkdirError
from labelsieve.sources.recording import open_summaries
from pages import blocks, guide

K = 6
LABELS, PROBS = draw(1000, K, seed=4, noise=0.2)
ROWS = np.arange(len(LABELS))
DTYPES = [np.float16, np.float32, np.float64]
SCORED = {
    "normalized_margin": {"method": "normalized_margin"},
    "confidence_weighted_entropy": {"method": "confidence_weighted_entropy"},
    "logit_margin": {"method": "logit_margin"},
    "row_sum": {"adjust_pred_probs": True},
}
# Ten partitions, whose last one is short.
CUT = {"batch_size": 37, "partition_batches": 3}


def columns(probs=PROBS, labels=LABELS, **changes):
    """Return what a user's own loop would record."""
    rows, predicted = np.arange(len(probs)), probs.argmax(axis=1)
    return {
        "label": labels,
        "predicted": predicted,
        "p_label": probs[rows, labels],
        "p_predicted": probs[rows, predicted],
    } | changes


def find(table, n_classes=K, **choices):
    return labelsieve.find_label_issues(summaries=table, n_classes=n_classes, progress=False, **choices)


def find_in_arrays(probs=PROBS, labels=LABELS, **choices):
    return labelsieve.find_label_issues(labels, probs, progress=False, **choices)


def structured(table):
    found = np.empty(len(table["label"]), [(name, column.dtype) for name, column in table.items()])
    for name, column in table.items():
        found[name] = column
    return found


def relation(table):
    return duckdb.connect().from_arrow(pa.table(table))


def dictionary_encoded(table):
    return pa.table({name: pa.array(column).dictionary_encode() for name, column in table.items()})


class OnlyAStream:
    """A table of which only the Arrow C stream interface is known."""

    def __init__(self, table):
        self._table = pa.table(table)

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


FORMS = {
    "dict": dict,
    "lists": lambda table: {name: column.tolist() for name, column in table.items()},
    "structured": structured,
    "pandas": pd.DataFrame,
    "nullable pandas": lambda table: pd.DataFrame(table).convert_dtypes(),
    "arrow pandas": lambda table: pd.DataFrame(table).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "record batch": pa.RecordBatch.from_pydict,
    "chunked arrow": lambda table: pa.concat_tables([pa.table(table)[:301], pa.table(table)[301:]]),
    "dictionary-encoded": dictionary_encoded,
    "duckdb": relation,
    "stream": OnlyAStream,
}


# The same answers -----------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "choices", [{}, {"estimation_method": "off_diagonal_calibrated"}, {"filter_by": "predicted_neq_given"}], ids=str
)
def test_the_answer_is_that_of_the_probabilities(dtype, choices):
    probs = PROBS.astype(dtype)
    want = find_in_arrays(probs, **choices)
    for cut in ({}, CUT):
        found = find(columns(probs), **choices, **cut)
        assert_same_bits(found, want)
        assert bits(found) == bits(want)
        assert found.class_summary().equals(want.class_summary())
    assert (found.facts.n_reads, found.facts.n_partitions, found.facts.rows_read) == (1, 10, 1000)
    assert found.facts.bytes_read == 1000 * (8 + 2 * probs.itemsize)


@pytest.mark.parametrize("shape", ["absent", "single row", "sorted", "two classes", "ties", "float16", "near"])
def test_odd_data_gives_the_answer_of_the_probabilities(shape):
    labels, probs = odd(shape)
    want = find_in_arrays(probs, labels)
    with pieces():
        assert_same_bits(find(columns(probs, labels), probs.shape[1], **CUT), want)


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_any_package_gives_the_same_bits(form):
    # DuckDB and Polars have no float16, and lists no float32.
    probs = PROBS if form == "lists" else PROBS.astype(np.float32)
    assert bits(find(FORMS[form](columns(probs)))) == bits(find_in_arrays(probs))


@pytest.mark.parametrize(("name", "dtype"), [*itertools.product(SCORED, DTYPES)])
def test_recorded_columns_serve_the_settings_that_need_them(name, dtype):
    probs = PROBS.astype(dtype)
    table = labelsieve.summarize_batch(LABELS, probs, scores=tuple(SCORED))
    assert_same_bits(find(table, **SCORED[name]), find_in_arrays(probs, **SCORED[name]))
    ranked = {"filter_by": "predicted_neq_given", **SCORED[name]}
    assert_same_bits(find(table, **ranked, **CUT), find_in_arrays(probs, **ranked))
    assert_same_bits(find(table), find_in_arrays(probs))


def test_rows_in_any_order_are_put_in_order():
    order = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = {name: column[order] for name, column in columns(row=ROWS, id=ROWS + 7000).items()}
    want = find_in_arrays()
    for form in ("dict", "pandas", "polars", "arrow", "duckdb"):
        found = find(FORMS[form](shuffled))
        assert_same_bits(found, want)
        assert (found.to_frame()["id"] == found.indices + 7000).all()
    assert_same_bits(find(columns(row=ROWS.astype(np.uint64))), want)


@pytest.mark.parametrize("choices", [{}, CUT, {"method": "normalized_margin"}, {"ignore_label": -5}], ids=str)
def test_rows_that_are_missing_have_no_label(choices):
    labels = np.where(ROWS % 50 == 3, -5, LABELS) if "ignore_label" in choices else LABELS
    kept = np.random.default_rng(1).permutation(np.flatnonzero(ROWS % 7 != 2))
    recorded = labelsieve.summarize_batch(LABELS, PROBS, scores=("normalized_margin",), row=ROWS, id=ROWS + 70)
    table = {name: column[kept] for name, column in (recorded | {"label": labels}).items()}
    found = find(table, **choices)
    want = find_in_arrays(labels=np.where(ROWS % 7 == 2, -5, labels), **{"ignore_label": -5} | choices)
    assert found.n_ignored == want.n_ignored > 100
    assert_same_bits(found, want)
    assert found.to_frame()["id"].tolist() == (found.indices + 70).tolist()
    texts = np.array([f"image-{row}" for row in ROWS])[kept]
    assert find(table | {"id": texts}, **choices).to_frame()["id"].tolist() == [f"image-{row}" for row in found.indices]


def test_labels_that_stand_for_none_are_left_out():
    labels = np.where(ROWS % 50 == 3, 255, LABELS)
    table = columns() | {"label": labels, "p_label": np.where(labels == 255, np.nan, columns()["p_label"])}
    found = find(table, ignore_label=255, **CUT)
    assert found.n_ignored == 20
    assert_same_bits(found, find_in_arrays(labels=labels, ignore_label=255))


NAMES = np.array(["ant", "bee", "cat", "dog", "eel", "fox"])


@pytest.mark.parametrize(
    ("form", "named"),
    [*((form, True) for form in ("dict", "lists", "pandas", "polars", "arrow", "duckdb", "files")), ("files", False)],
)
def test_labels_may_be_names(tmp_path, form, named):
    order = np.random.default_rng(3).permutation(1000)
    table = {name: column[order] for name, column in columns(label=NAMES[LABELS], row=ROWS).items()}
    opened = write_files(tmp_path / "t", table) if form == "files" else FORMS[form](table)
    found = find(opened, class_names=NAMES.tolist() if named else None)
    assert_same_bits(found, find_in_arrays())
    assert found.class_names == tuple(NAMES)
    with pytest.raises(InvalidInputError, match=r"in row 7: 'be' \(nearest: 'bee'\)"):
        find(FORMS["dict"](columns(label=np.where(ROWS == 7, "be", NAMES[LABELS]))), class_names=NAMES.tolist())


@pytest.mark.every_value
@pytest.mark.parametrize("form", ["dict", "pandas", "nullable pandas", "polars", "arrow", "duckdb", "files"])
@pytest.mark.parametrize("names", [None, NAMES], ids=["numbers", "names"])
def test_missing_labels_are_left_out(tmp_path, form, names):
    labels = LABELS if names is None else names[LABELS]
    missing = [None if row % 9 == 4 else label for row, label in enumerate(labels.tolist())]
    if form == "dict":
        table = columns(label=missing)
    elif "pandas" in form:
        dtype = object if names is not None else "Int64"
        table = pd.DataFrame(columns()).assign(label=pd.Series(missing, dtype=dtype))
    else:
        base = columns() | {"label": missing}
        table = pl.DataFrame(base) if form == "polars" else pa.table(base)
        table = duckdb.connect().from_arrow(table) if form == "duckdb" else table
        table = write_files(tmp_path / "t", table) if form == "files" else table
    choices = {"ignore_label": None} | ({} if names is None else {"class_names": names.tolist()})
    found = find(table, **choices)
    assert found.n_ignored == 111
    assert_same_bits(found, find_in_arrays(labels=missing, **choices))
    with pytest.raises(
        InvalidInputError, match=r"(label has 111 missing values|nulls in column 'label').*, in rows 4, 13"
    ):
        find(table)


@pytest.mark.parametrize("names", [None, NAMES], ids=["numbers", "names"])
@pytest.mark.parametrize("form", ["dict", "files"])
def test_missing_rows_and_missing_labels_go_together(tmp_path, form, names):
    labels = LABELS if names is None else names[LABELS]
    missing = [None if row % 9 == 4 else label for row, label in enumerate(labels.tolist())]
    order = np.random.default_rng(2).permutation(np.flatnonzero(ROWS % 10 != 3))
    table = pa.table(columns(row=ROWS) | {"label": missing}).take(order)
    opened = write_files(tmp_path / "t", table, (0, 500, 900)) if form == "files" else table.to_pydict()
    choices = {"ignore_label": None} | ({} if names is None else {"class_names": names.tolist()})
    left = [None if row % 10 == 3 else label for row, label in enumerate(missing)]
    assert_same_bits(find(opened, **choices), find_in_arrays(labels=left, **choices))


def test_names_of_rows_are_those_of_the_result():
    names = np.array([f"image-{row}" for row in ROWS])
    for form in ("dict", "lists", "pandas", "polars", "arrow", "duckdb"):
        found = find(FORMS[form](columns(id=names)))
        assert found.to_frame()["id"].tolist() == names[found.indices].tolist()
    given = find(columns(id=names), ids=ROWS * 2)
    assert given.to_frame()["id"].tolist() == (given.indices * 2).tolist(), "what is given counts"


def test_other_columns_are_ignored():
    others = {"text": ["a"] * 1000, "probs": [[0.1, 0.9]] * 1000, "self_confidence": np.full(1000, np.nan)}
    for form in ("dict", "pandas", "polars", "arrow", "duckdb"):
        assert_same_bits(find(FORMS[form](columns() | others)), find_in_arrays())


# Files of tables ------------------------------------------------------------------------------------------------------


def write_files(folder, table, edges=(0, 400, 401, 1000), group=37):
    """Write a table as a folder of Parquet files with small row groups."""
    folder.mkdir()
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = pa.table(table)[start:stop]
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=group, compression="zstd")
    return folder


@pytest.fixture
def recorded():
    table = labelsieve.summarize_batch(
        LABELS, PROBS.astype(np.float32), scores=("normalized_margin",), row=ROWS, id=[f"image-{row}" for row in ROWS]
    )
    return table | {"other": ["x"] * 1000}


@pytest.mark.parametrize(
    ("form", "choices"),
    [
        *((form, CUT) for form in ("folder", "pattern", "list", "one file", "arrow file", "URL")),
        ("folder", {}),
        ("folder", {"method": "normalized_margin", "batch_size": 100}),
    ],
    ids=str,
)
def test_files_give_the_same_bits(tmp_path, recorded, form, choices):
    folder = write_files(tmp_path / "t", recorded)
    place = {
        "folder": folder,
        "pattern": f"{folder}/part-*.parquet",
        "list": sorted(folder.iterdir()),
        "one file": write_files(tmp_path / "one", recorded, (0, 1000)) / "part-0.parquet",
        "arrow file": tmp_path / "t.arrow",
        "URL": folder.as_uri(),
    }[form]
    if form == "arrow file":
        pyarrow.feather.write_feather(pa.table(recorded), place, chunksize=37, compression="uncompressed")
    found = find(place, **choices)
    assert_same_bits(found, find_in_arrays(PROBS.astype(np.float32), **choices))
    assert found.to_frame()["id"].tolist() == [f"image-{row}" for row in found.indices]
    assert str(tmp_path) in found.facts.inputs["pred_probs"]


def test_files_in_any_order_are_put_in_order_in_memory(tmp_path, recorded):
    order = np.random.default_rng(0).permutation(np.flatnonzero(ROWS != 500))
    shuffled = pa.table(recorded).take(order)
    folder, want = write_files(tmp_path / "t", shuffled, (0, 400, 999)), np.where(ROWS == 500, -1, LABELS)
    found = find(folder)
    assert_same_bits(found, find_in_arrays(PROBS.astype(np.float32), want, ignore_label=-1))
    assert found.to_frame()["id"].tolist() == [f"image-{row}" for row in found.indices]
    with pytest.raises(MemoryLimitError, match=r"not in the order of their numbers.*ORDER BY row"):
        open_summaries(folder, K, room=1000)


@pytest.mark.parametrize("kept", ["memory", "workdir"])
def test_files_are_read_by_workers(client, tmp_path, recorded, kept):
    folder = write_files(tmp_path / "t", recorded)
    choices = {"workdir": tmp_path / "w"} if kept == "workdir" else {}
    assert_same_bits(find(folder, client=client, **CUT, **choices), find_in_arrays(PROBS.astype(np.float32)))


def test_a_new_file_is_all_that_the_next_night_reads(tmp_path, recorded):
    del recorded["row"]
    folder = write_files(tmp_path / "t", pa.table(recorded)[:700], (0, 400, 700))
    first = find(folder, workdir=tmp_path / "w")
    assert (first.n_rows, first.facts.rows_read) == (700, 700)
    pq.write_table(pa.table(recorded)[700:], folder / "part-2.parquet")
    second = find(folder, workdir=tmp_path / "w")
    assert (second.n_rows, second.facts.rows_read) == (1000, 300)
    assert_same_bits(second, find_in_arrays(PROBS.astype(np.float32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_label": None}, r"has no column 'p_label'\. Did you mean 'p_labels'\? It has the columns label, "),
        ({"p_label": pa.array([None, *[0.5] * 999], pa.float32())}, r"nulls in column 'p_label' of .*, in row 0"),
        ({"label": pa.array([*[0] * 500, None, *[0] * 499])}, r"nulls in column 'label' of .*, in row"),
        (
            {"p_label": pa.array([0.5] * 1000).cast(pa.decimal128(3, 2))},
            r"'p_label' .* has the type decimal128\(3, 2\)",
        ),
        ({"p_label": [[0.5]] * 1000}, "'p_label' .* has the type list<"),
        ({"p_label": ["a"] * 1000}, "the column p_label must be float16, float32 or float64, not StringDType"),
        ({"p_label": np.full(1000, 0.5)}, "p_label is float64 and p_predicted float32: give both the dtype"),
        ({"p_label": np.full(1000, np.nan, np.float32)}, r"NaN probabilities in rows 0\.\.999"),
    ],
)
def test_files_that_hold_no_summaries_are_refused(tmp_path, recorded, changes, message):
    table = recorded | changes
    if table["p_label"] is None:
        del table["p_label"]
        table["p_labels"] = recorded["p_label"]
    with pytest.raises(InvalidInputError, match=message):
        find(write_files(tmp_path / "t", table))


def test_places_without_a_table_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="there is no file"):
        find(tmp_path / "none.parquet")
    with pytest.raises(InvalidInputError, match="give n_classes="):
        find(write_files(tmp_path / "t", columns()), None)
    with pytest.raises(InvalidInputError, match="is an input"):
        find(write_files(tmp_path / "r.zarr", columns()), output=tmp_path / "r.zarr")


def test_the_command_line_takes_files_of_summaries(tmp_path, recorded, capsys):
    place, output = tmp_path / "t.parquet", tmp_path / "issues.npy"
    pq.write_table(pa.table(recorded), place)
    of_files = ["--summaries", str(place), "--n-classes", str(K)]
    assert app.run(["find", *of_files, "-o", str(output), "--quiet"]) == 0
    assert np.load(output).tolist() == find_in_arrays(PROBS.astype(np.float32)).indices.tolist()
    assert app.run(["plan", *of_files, "--json"]) == 0
    assert '"n_rows": 1000' in capsys.readouterr().out
    report = ["--report", str(tmp_path / "r.html"), "--texts", str(place)]
    for call, message in (
        (["find", *of_files, "labels.npy"], "--summaries takes the place of LABELS, PRED_PROBS and --data"),
        (["find", *of_files, "--data", str(place)], "--summaries takes the place of LABELS, PRED_PROBS and --data"),
        (["find", "--summaries", str(place)], "give n_classes="),
        (["find", *of_files, "-o", str(place)], "is an input"),
        (["plan", *of_files, "--filter-by", "both"], "--filter-by both needs all probabilities of each row"),
        (["find", *of_files, *report], "texts"),
    ):
        assert app.run(call) == 2
        assert message in capsys.readouterr().err


# Executors, workdirs, outputs, plans ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit="2GB"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("kept", ["memory", "workdir", "output"])
def test_a_cluster_gives_the_same_bits(client, tmp_path, kept):
    choices = {"memory": {}, "workdir": {"workdir": tmp_path / "w"}, "output": {"output": tmp_path / "r.zarr"}}[kept]
    found = find(columns(), client=client, **CUT, **choices)
    assert_same_bits(found, find_in_arrays())


def test_a_workdir_resumes_and_knows_its_table(tmp_path):
    choices, want = {"workdir": tmp_path / "w", **CUT}, find_in_arrays()
    table = labelsieve.summarize_batch(LABELS, PROBS, scores=("normalized_margin",))
    first = find(table, **choices)
    again = find(table, **choices)
    assert (first.facts.rows_resumed, again.facts.rows_resumed) == (0, 1000)
    assert_same_bits(again, want)
    # A column that the settings do not need is not part of what was read.
    assert find({name: table[name] for name in columns()}, **choices).facts.rows_resumed == 1000
    other = LABELS.copy()
    other[5] = (other[5] + 1) % K
    changed = columns(labels=other)
    with pytest.raises(WorkdirError, match="belongs to another run: "):
        find(changed, **choices)
    with pytest.raises(WorkdirError, match="belongs to another run: "):
        find_in_arrays(workdir=tmp_path / "w")
    assert_same_bits(find(changed, fresh=True, **choices), find_in_arrays(labels=other))


def test_an_output_holds_the_same(tmp_path):
    found = find(columns(), output=tmp_path / "r.zarr", **CUT)
    assert_same_bits(found, find_in_arrays())
    assert_same_bits(labelsieve.load(tmp_path / "r.zarr"), find_in_arrays())


@pytest.mark.slow
def test_little_memory_is_enough(tmp_path):
    n_rows = 4_000_000
    table = columns(np.resize(PROBS.astype(np.float32), (n_rows, K)), np.resize(LABELS, n_rows))
    in_memory = labelsieve.plan_label_issues(summaries=table, n_classes=K)
    limit = labelsieve.plan_label_issues(summaries=table, n_classes=K, output=tmp_path / "r.zarr").process_bytes + 10**6
    plan = labelsieve.plan_label_issues(summaries=table, n_classes=K, max_memory=limit)
    assert (in_memory.stored, plan.stored) == (False, True)
    found, want = find(table, max_memory=limit, output=tmp_path / "r.zarr"), find_in_arrays(PROBS.astype(np.float32))
    # Each row is there 4,000 times.
    assert found.num_issues == 4000 * want.num_issues
    assert found.confident_thresholds.tobytes() == want.confident_thresholds.tobytes()


def test_the_plan_is_that_of_the_bytes_of_summaries():
    plan = labelsieve.plan_label_issues(summaries=columns(PROBS.astype(np.float32)), n_classes=K, **CUT)
    assert (plan.n_partitions, plan.bytes_read) == (10, 1000 * (8 + 4 + 4))


def test_forked_processes_are_not_used():
    with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored"):
        found = find(columns(), n_jobs=2, **CUT)
    assert_same_bits(found, find_in_arrays())


def test_misfit_and_low_rows_are_reported_as_of_probabilities():
    shifted = np.roll(LABELS, 1)
    with pytest.warns(LabelsieveWarning, match="labels are shifted by one row"):
        find(columns(labels=shifted))
    low = {"label": [0, 1, 2], "predicted": [0, 1, 2], "p_label": [0.9, 0.2, 0.8], "p_predicted": [0.9, 0.2, 0.8]}
    with pytest.warns(LabelsieveWarning, match=r"1 row of pred_probs whose largest value is below 1/K.*\(row 1\)"):
        assert len(find(low, 3).facts.notes) == 1
    zero = low | {"p_label": [0.9, 0.0, 0.8], "p_predicted": [0.9, 0.0, 0.8]}
    with pytest.raises(InvalidInputError, match="1 row of pred_probs that is all zeros, row 1"):
        find(zero, 3)
    assert find(zero, 3, allow_zero_rows=True).n_rows == 3


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"filter_by": "both"}, "filter_by='both' needs all probabilities of each row, which the summaries"),
        ({"filter_by": "confident_learning"}, "filter_by='confident_learning' needs all probabilities"),
        ({"rule": "confident_joint"}, "rule='confident_joint' needs all probabilities .* give labels and pred_probs"),
        ({"adjust_pred_probs": True}, r"needs the column row_sum .*record it with scores=\('row_sum',\)"),
        ({"adjust_pred_probs": True, "method": "normalized_margin"}, "with method='normalized_margin' needs all prob"),
        ({"method": "normalized_margin"}, r"method='normalized_margin' needs the column normalized_margin"),
        ({"labels": LABELS, "pred_probs": PROBS}, "give labels and pred_probs, or summaries"),
        ({"n_classes": None}, "give n_classes=, the number of classes"),
        ({"n_classes": 1}, "n_classes must be a whole number of at least 2"),
        ({"n_classes": 5}, r"labels outside 0\.\.4 in rows"),
    ],
)
def test_what_summaries_cannot_tell_is_refused_by_name(choices, message):
    with pytest.raises(InvalidInputError, match=message):
        find(columns(), **choices)


def test_the_number_of_classes_is_for_summaries():
    with pytest.raises(InvalidInputError, match="n_classes is for summaries"):
        find_in_arrays(n_classes=K)


def test_more_classes_than_fit_in_memory_are_refused():
    with pytest.raises(MemoryLimitError):
        find(columns(), 10**12)


def changed(name, row, value, dtype=None):
    column = columns(row=ROWS)[name].astype(dtype) if dtype else columns(row=ROWS)[name].copy()
    column[row] = value
    return {name: column}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": LABELS[:-1]}, "999 values in the column label and 1,000 in predicted: all columns need one value"),
        (changed("label", 7, 6), r"1 label outside 0\.\.5 in row 7 \(first: 6\)"),
        (changed("label", 7, np.nan, float), "labels must be integers"),
        ({"predicted": LABELS.astype(float)}, "the column predicted must be integers, not float64"),
        (changed("predicted", 7, -1), r"1 predicted class outside 0\.\.5 in row 7"),
        (changed("p_label", 3, np.nan), "1 NaN probability in row 3"),
        (changed("p_predicted", 3, 7), r"1 probability above 1 in row 3 \(first: 7;"),
        (
            {"p_label": np.full(1000, 0.1, np.float32)},
            "p_label is float32 and p_predicted float64: give both the dtype",
        ),
        ({"p_predicted": np.full(1000, 0.01)}, "rows whose p_predicted is not the largest probability in rows 0"),
        ({"p_label": [0.5] * 1000, "p_predicted": [0.5] * 1000}, "predicted class is not the first with the largest"),
        ({"p_label": np.full(1000, 0.1, np.longdouble)}, "p_label must be float16, float32 or float64, not "),
        ({"p_label": np.ones(1000, int)}, "p_label must be float16, float32 or float64, not int64"),
        ({"label": [[0], [1, 2]]}, "the column label is not an array"),
        ({"label": [[0]]}, r"the column label has shape \(1, 1\): it needs one value for each row"),
        (
            {"label": np.ma.masked_equal(LABELS, 3)},
            "the column label has 164 missing values, in rows 3, 9, 12, 14, 19 and",
        ),
        ({"label": [None, *LABELS[1:]]}, "the column label has 1 missing value, in row 0"),
        ({"label": pd.Series(LABELS, dtype="Int64").where(LABELS != 3)}, "label has 164 missing values, in rows 3, 9"),
        ({"label": pl.Series(LABELS).set(pl.Series(LABELS == 3), None)}, "label has 164 missing values, in rows 3, 9"),
        ({"predicted": pa.array([None, *LABELS[1:]])}, "the column predicted has 1 missing value, in row 0"),
        ({"p_label": pa.array([0.5] * 1000).cast(pa.decimal128(3, 2))}, r"p_label has the type decimal128\(3, 2\)"),
        ({"p_label": pa.array([[0.5]] * 1000)}, "p_label has the type list<"),
        ({"p_label": np.array([[0.5], [1]] * 500, object)}, r"p_label has shape \(1000, 1\)"),
        (changed("row", 5, 9), "row 9 is given twice, in places 5 and 9 of the table: each row needs one summary"),
        (changed("row", slice(0, 4), 9), "row 9 is given twice, in places 0 and 1 of the table, and 3 more are"),
        (changed("row", 0, -1), "the column row has -1, in place 0: rows are numbered from 0"),
        (changed("row", 5, 10**9), "the column row goes up to 1,000,000,000, with 1,000 rows: if these"),
        ({"row": ROWS.astype(float)}, "the column row must be integers, not float64"),
        (
            {"row": ROWS + 1, "label": np.full(1000, 2**63, np.uint64)},
            "1 row has no summary, so label must be integers",
        ),
    ],
)
def test_columns_that_are_no_summaries_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        find(columns(**changes))


@pytest.mark.parametrize("value", [np.inf, 1e300, -0.5, np.nan])
def test_scores_that_are_not_possible_are_refused(value):
    table = columns(normalized_margin=np.where(ROWS == 3, value, 0.5))
    with pytest.raises(InvalidInputError, match="1 recorded score that is not between 0 and 1 in row 3"):
        find(table, method="normalized_margin")
    assert find(table).n_rows == 1000, "a column that is not needed is not looked at"


@pytest.mark.parametrize("form", ["dict", "pandas", "polars", "arrow", "duckdb", "stream", "structured"])
def test_a_missing_column_is_named_with_those_that_there_are(form):
    table = columns(plabel=columns()["p_label"])
    del table["p_label"]
    message = " has no column 'p_label'. Did you mean 'plabel'? It has the columns label, predicted, p_predicted,"
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        find(FORMS[form](table))


def test_a_column_that_is_there_twice_is_refused():
    table = pd.DataFrame(columns())
    with pytest.raises(InvalidInputError, match="has 2 columns called 'p_label'"):
        find(pd.concat([table, table["p_label"]], axis=1))


def test_what_is_not_computed_or_has_no_exact_type_is_refused():
    with pytest.raises(InputTypeError, match=r"summaries is a polars LazyFrame: give its .collect\(\)"):
        find(pl.DataFrame(columns()).lazy())
    query = relation(columns()).project("label, predicted, p_label::DECIMAL(3, 2) AS p_label, p_predicted")
    with pytest.raises(InvalidInputError, match=r"p_label has the type decimal128\(3, 2\)"):
        find(query)


@pytest.mark.parametrize("thing", [7, PROBS, [1, 2], object()])
def test_an_object_that_is_no_table_is_refused(thing):
    with pytest.raises(InputTypeError, match=r"summaries must be a path, .* or a table of pandas"):
        find(thing)


def test_a_table_without_rows_is_refused():
    with pytest.raises(InvalidInputError, match="have no rows"):
        find({name: column[:0] for name, column in columns().items()})


# RowSummaries.from_columns --------------------------------------------------------------------------------------------


def test_columns_given_one_by_one_are_a_table():
    for method in ("normalized_margin", "confidence_weighted_entropy"):
        want = find_in_arrays(method=method)
        table = labelsieve.RowSummaries.from_columns(**columns(), n_classes=K, score=want.scores)
        found = labelsieve.find_label_issues(summaries=table, method=method, progress=False)
        assert_same_bits(found, want)
        assert_same_bits(find(table, None), find_in_arrays()), "a table serves several methods"
    assert_same_bits(find(pickle.loads(pickle.dumps(table)), K), find_in_arrays())
    with pytest.raises(InvalidInputError, match="n_classes is 7, and the summaries are of 6 classes"):
        find(table, 7)
    with pytest.raises(InvalidInputError, match="n_classes must be a whole number of at least 2"):
        labelsieve.RowSummaries.from_columns(**columns(), n_classes=1)


# summarize_batch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_of_any_size_are_the_table(dtype):
    probs = np.asfortranarray(PROBS.astype(dtype))
    want = columns(probs)
    batches = [
        labelsieve.summarize_batch(LABELS[rows], probs[rows], scores=("normalized_margin",), row=ROWS[rows])
        for rows in (slice(0, 0), slice(0, 1), slice(1, 700), slice(700, 1000))
    ]
    table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert list(table) == [*want, "normalized_margin", "row"]
    assert {name: column.dtype for name, column in table.items()} == {
        **dict.fromkeys(("label", "predicted"), np.dtype(np.int32)),
        **dict.fromkeys(("p_label", "p_predicted"), np.dtype(dtype)),
        "normalized_margin": np.dtype(np.float64),
        "row": np.dtype(np.int64),
    }
    for name, column in want.items():
        assert (table[name] == column).all()
    scores = find_in_arrays(probs, method="normalized_margin").scores
    assert table["normalized_margin"].tobytes() == scores.tobytes()


@pytest.mark.every_value
@pytest.mark.parametrize("ignored", [-1, 255, 1, 1 << 40])
@pytest.mark.parametrize("from_logits", [False, True])
def test_a_batch_may_have_rows_without_a_label(ignored, from_logits):
    labels, probs = np.where(ROWS % 50 == 3, ignored, LABELS), PROBS.copy()
    probs[labels == ignored] = np.nan
    choices = {"scores": ("normalized_margin",), "ignore_label": ignored, "from_logits": from_logits}
    batches = [
        labelsieve.summarize_batch(labels[rows], probs[rows], **choices)
        for rows in (slice(0, 0), slice(0, 53), slice(53, 54), slice(54, 1000))
    ]
    table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert (table["label"] == labels).all()
    how = {"method": "normalized_margin", "ignore_label": ignored}
    want = find_in_arrays(probs, labels, from_logits=from_logits, **how)
    assert want.n_ignored == np.count_nonzero(labels == ignored)
    assert_same_bits(find(table, **how), want)


def test_a_label_that_stands_for_none_is_a_number():
    for value in ("unknown", 1.5, True):
        with pytest.raises(InvalidInputError, match="ignore_label must be a whole number or None"):
            labelsieve.summarize_batch(LABELS, PROBS, ignore_label=value)


def test_a_batch_of_lists_and_of_tables():
    want = labelsieve.summarize_batch(LABELS, PROBS, id=ROWS)
    frame = pd.DataFrame(PROBS)
    for labels, probs, names in ((LABELS.tolist(), PROBS.tolist(), ROWS.tolist()), (pd.Series(LABELS), frame, ROWS)):
        found = labelsieve.summarize_batch(labels, probs, id=names)
        assert all((found[name] == want[name]).all() for name in want)


def test_a_batch_of_logits_is_that_of_their_softmax():
    logits = np.log(PROBS).astype(np.float32) * 2 + 7
    probs = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probs /= np.add.reduce(probs, axis=1)[:, np.newaxis]
    for scores in ((), ("normalized_margin", "row_sum")):
        found = labelsieve.summarize_batch(LABELS, logits, from_logits=True, scores=scores)
        want = labelsieve.summarize_batch(LABELS, probs, scores=scores)
        assert found.keys() == want.keys()
        for name, column in want.items():
            assert_same_array(found[name], column, name)
    assert labelsieve.summarize_batch([], np.empty((0, 3), np.float32), from_logits=True)["p_label"].dtype == float


@pytest.mark.parametrize(
    ("labels", "probs", "choices", "message"),
    [
        (LABELS, np.full((1000, 6), np.inf), {"from_logits": True}, r"6,000 logits of \+inf in rows 0\.\.999"),
        (LABELS, PROBS, {"from_logits": 1}, "from_logits must be True or False"),
        (np.where(ROWS == 7, K, LABELS), PROBS, {}, r"1 label outside 0\.\.5 in row 7"),
        (LABELS, np.where(ROWS[:, np.newaxis] == 7, np.nan, PROBS), {}, "6 NaN probabilities in row 7"),
        (LABELS, np.where(ROWS[:, np.newaxis] == 7, 0, PROBS), {}, "all zeros, row 7: missing chunk"),
        (LABELS, np.log(PROBS), {}, "logarithms of probabilities"),
        (LABELS, PROBS / 2, {}, "do not sum to 1 within 0.05"),
        (LABELS[1:], PROBS, {}, "999 labels, 1,000 rows of pred_probs"),
        (LABELS, PROBS[:, 0], {}, r"pred_probs must have two axes"),
        (LABELS, PROBS, {"scores": ["margin"]}, "scores must be among normalized_margin, .*; not margin"),
        (LABELS, PROBS, {"row": ROWS[1:]}, "row has 999 values, pred_probs 1,000 rows"),
        (LABELS, PROBS, {"row": ROWS * 0.5}, "row must be integers, not float64: names of rows are given as id"),
        (LABELS, PROBS, {"id": [None, *ROWS[1:].tolist()]}, "the column id has 1 missing value, in row 0"),
    ],
)
def test_bad_batches_are_refused(labels, probs, choices, message):
    with pytest.raises(InvalidInputError, match=message):
        labelsieve.summarize_batch(labels, probs, **choices)


def test_unusual_batches_are_accepted_where_the_user_says_so():
    halves = labelsieve.summarize_batch(LABELS, PROBS / 2, scores="row_sum", allow_unnormalized_rows=True)
    choices = {"allow_unnormalized_rows": True, "adjust_pred_probs": True}
    assert_same_bits(find(halves, **choices), find_in_arrays(PROBS / 2, **choices))
    zeros = labelsieve.summarize_batch([0], [[0.0, 0.0]], allow_zero_rows=True)
    assert zeros["p_label"].tolist() == [0]


# The SQL of the page --------------------------------------------------------------------------------------------------


def queries():
    return blocks(guide("inputs"), "sql")


@pytest.fixture(params=["list", "array", "float"])
def database(request):
    """Return a database with three classes, many ties, and rows in any order, and its labels and probabilities."""
    labels, probs = draw(3000, 3, seed=8, noise=0.3, decimals=None if request.param == "float" else 1)
    probs = probs.astype(np.float32 if request.param == "float" else np.float64)
    assert request.param == "float" or (probs == probs.max(axis=1, keepdims=True)).sum(axis=1).max() > 1
    values = pa.array(probs.reshape(-1))
    lists = (
        pa.FixedSizeListArray.from_arrays(values, 3)
        if request.param == "array"
        else pa.ListArray.from_arrays(np.arange(0, len(values) + 1, 3, dtype=np.int32), values)
    )
    classes = {f"p_{name}": probs[:, k] for k, name in enumerate(("cat", "dog", "fox"))}
    table = pa.table({"row": np.arange(3000), "label": labels, "probs": lists, **classes})
    connection = duckdb.connect()
    shuffled = table.take(np.random.default_rng(0).permutation(3000))
    connection.register("predictions", shuffled)
    return connection, labels, probs


def test_the_queries_of_the_page_find_the_same_rows(database):
    connection, labels, probs = database
    by_list, with_margin, by_class, unusual = queries()
    want = find_in_arrays(probs, labels)
    for query in (by_list, with_margin, by_class):
        assert_same_bits(find(connection.sql(query), 3), want)
    margin = {"method": "normalized_margin"}
    assert_same_bits(find(connection.sql(with_margin), 3, **margin), find_in_arrays(probs, labels, **margin))
    assert connection.sql(unusual).fetchall() == [(0,)]


def test_the_query_of_the_page_counts_what_is_no_distribution():
    connection = duckdb.connect()
    lists = [
        "[0.2, 0.3, 0.5]",
        "[0.2, 0.3, 0.1]",
        "[0.5, 0.5]",
        "[0.2, NaN, 0.5]",
        "[]",
        "[0.2, NULL, 0.8]",
        "[-1, 1, 1]",
    ]
    rows = ", ".join(f"('{one}'::DOUBLE[])" for one in lists)
    connection.sql(f"CREATE TABLE predictions AS SELECT * FROM (VALUES {rows}) AS t(probs)")
    assert connection.sql(queries()[-1]).fetchall() == [(len(lists) - 1,)]


def test_files_that_are_no_tables_are_called_summaries(tmp_path):
    np.save(tmp_path / "labels.npy", np.zeros(3, int))
    for place, message in {
        "none.parquet": "there is no file .*none.parquet",
        "labels.npy": ".*labels.npy is neither a Parquet nor an Arrow file",
        "": ".* has no files whose names end in",
        "*.arrow": "no file matches",
    }.items():
        with pytest.raises(InvalidInputError, match=f"^summaries: {message}"):
            labelsieve.find_label_issues(summaries=f"{tmp_path}/{place}", n_classes=2)
