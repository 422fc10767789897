"""Tables: columns of Parquet and Arrow files and of objects in memory give the bits of the arrays that they hold."""

import itertools
import pickle
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

import labelsieve
import s3
from draws import assert_same_array, assert_same_bits, draw, pieces
from draws import find as find_arrays
from labelsieve import InputTypeError, InvalidInputError, MemoryLimitError, UnreadableDataError
from labelsieve.cli import app
from labelsieve.errors import ChangedDataError, install_line
from labelsieve.sources import parquet
from labelsieve.sources.tables import open_table

N, K = 1000, 5
LABELS, PROBS = draw(N, K, seed=31)
IDS = np.array([f"image-{row:05}" for row in range(N)])
# Sizes of row groups and of record batches: of no size, of one row, of most rows.
IRREGULAR = [1, 0, 37, 600, 2, 360]
NAMES = ["p_ant", "p_bee", "p_cow", "p_dog", "p_eel"]


def lists(probs, form="list"):
    flat = pa.array(np.ascontiguousarray(probs).reshape(-1))
    if form == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, probs.shape[1])
    kind, offset = (pa.LargeListArray, np.int64) if form == "large" else (pa.ListArray, np.int32)
    return kind.from_arrays(pa.array(np.arange(len(probs) + 1, dtype=offset) * probs.shape[1]), flat)


def table_of(labels=LABELS, probs=PROBS, form="list", ids=IDS):
    """Return an Arrow table with columns that are not read between those that are."""
    columns = {"image_id": pa.array(ids[: len(labels)]), "note": pa.array(["x" * (i % 7) for i in range(len(labels))])}
    columns["label"] = pa.array(labels)
    if form == "columns":
        columns |= {name: pa.array(np.ascontiguousarray(probs[:, k])) for k, name in enumerate(NAMES)}
    else:
        columns["probs"] = lists(probs, form)
    return pa.table(columns | {"last": pa.array(np.arange(len(labels)))})


def write(path, table, sizes=IRREGULAR, **options):
    """Write a Parquet file with row groups of some sizes; the last takes what is left."""
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        start = 0
        for size in [*sizes, len(table)]:
            if size == 0:
                writer.write_table(table[:0])
            elif start < len(table):
                writer.write_table(table[start : start + size], row_group_size=size)
                start += size
    return path


def assert_same(found, want):
    """Hold two results with ids against each other."""
    assert_same_bits(found, want)
    pd.testing.assert_frame_equal(found.to_frame(), want.to_frame())


def find(data, labels="label", pred_probs="probs", **settings):
    return labelsieve.find_label_issues(labels, pred_probs, data=data, progress=False, **settings)


def refused(data, *columns, error=InvalidInputError, **settings):
    with pytest.raises(error) as caught:
        find(data, *columns, **settings)
    return str(caught.value)


@pytest.fixture(scope="module")
def want():
    return find_arrays(LABELS, PROBS)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("form", ["list", "large", "fixed", "columns"])
def test_every_form_of_parquet_gives_the_bits_of_the_array(tmp_path, form, dtype):
    probs = PROBS.astype(dtype)
    write(tmp_path / "t.parquet", table_of(probs=probs, form=form), compression="zstd")
    wanted = "p_*" if form == "columns" else "probs"
    for settings in ({}, {"method": "confidence_weighted_entropy"}, {"filter_by": "both"}):
        want = find_arrays(LABELS, probs, **settings)
        assert_same_bits(find(tmp_path / "t.parquet", "label", wanted, **settings), want)


@pytest.mark.parametrize(
    "cut", [{}, {"batch_size": 7}, {"batch_size": 50, "partition_batches": 1}, {"batch_size": 400}]
)
def test_no_cut_of_rows_changes_a_bit(tmp_path, cut, want):
    for name, options in {
        "zstd": {"compression": "zstd"},
        "pages": {"data_page_size": 64, "write_batch_size": 3},
        "dictionary": {"use_dictionary": True, "compression": "snappy", "data_page_version": "2.0"},
        "plain": {"compression": "none", "use_dictionary": False, "write_page_checksum": True},
    }.items():
        write(tmp_path / f"{name}.parquet", table_of(), **options)
        with pieces():
            assert_same_bits(find(tmp_path / f"{name}.parquet", **cut), want)


@pytest.mark.parametrize("kind", ["list", "columns", "label", "id", "feather", "lz4", "stream", "memory"])
def test_any_range_of_rows_is_read_in_any_order(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(parquet, "_LEAST_ROWS", 16)
    table = table_of(form="columns" if kind == "columns" else "list")
    place = tmp_path / "t"
    if kind in ("feather", "lz4"):
        pa.feather.write_feather(table, place, "uncompressed" if kind == "feather" else "lz4", chunksize=130)
    elif kind == "stream":
        with pa.ipc.new_stream(place, table.schema) as writer:
            writer.write_table(table, max_chunksize=77)
    elif kind == "memory":
        place = pa.Table.from_batches(table.to_batches(max_chunksize=77))
    else:
        write(place, table)
    wanted = {"columns": ("pred_probs", "p_*"), "label": ("labels", "label"), "id": ("ids", "image_id")}
    name, column = wanted.get(kind, ("pred_probs", "probs"))
    source, array = open_table(place).source(name, column), {"labels": LABELS, "ids": IDS}.get(name, PROBS)
    rng = np.random.default_rng(3)
    for one in (source, pickle.loads(pickle.dumps(source))):
        with one.open() as forward, one.open() as anywhere:
            row = 0
            while row < N:
                stop = min(N, row + int(rng.integers(1, 90)))
                assert np.array_equal(forward.read(row, stop), array[row:stop])
                row = stop
            for start, stop in np.sort(rng.integers(0, N + 1, (60, 2))).tolist():
                assert np.array_equal(anywhere.read(start, stop), array[start:stop])
        rows = rng.integers(0, N, 50)
        assert np.array_equal(one.take(rows), array[rows])
        for start, stop in ((0, 1), (5, 700), (640, 1000)):
            part, origin = one.part(start, stop)
            assert np.array_equal(part[start - origin : stop - origin], array[start:stop])


def test_partitions_are_whole_row_groups(tmp_path):
    write(tmp_path / "t.parquet", table_of(), [100] * 9)
    plan = labelsieve.plan_label_issues(
        "label", "probs", data=tmp_path / "t.parquet", batch_size=30, partition_batches=5
    )
    assert (plan.n_rows, plan.n_classes, plan.n_partitions) == (N, K, 7)
    assert find(tmp_path / "t.parquet", batch_size=10, partition_batches=1).facts.n_partitions == 10
    edges = open_table(write(tmp_path / "i.parquet", table_of())).source("pred_probs", "probs").row_edges
    assert sorted(set(edges.tolist())) == [1, 38, 638, 640, 1000]


def test_only_the_columns_that_are_named_are_decoded(tmp_path, monkeypatch):
    write(tmp_path / "t.parquet", table_of())
    read, iter_batches = set(), pq.ParquetFile.iter_batches

    def noted(self, *args, columns, **kwargs):
        read.update(columns)
        return iter_batches(self, *args, columns=columns, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    found = find(tmp_path / "t.parquet")
    assert read == {"label", "probs"}
    found = find(tmp_path / "t.parquet", ids="image_id")
    assert read == {"label", "probs"}, "ids are read for issues alone"
    assert found.to_frame()["id"].tolist() == IDS[found.indices].tolist()
    assert read == {"label", "probs", "image_id"}


def test_several_files_folders_and_patterns(tmp_path, want):
    ends, folder = [0, 300, 310, N], tmp_path / "data"
    (folder / "year=1" / "_temporary").mkdir(parents=True)
    parts = [table_of()[a:b] for a, b in itertools.pairwise(ends)]
    paths = [
        write(folder / "year=1" / f"part-{name}.parquet", part, [90])
        for name, part in zip((2, 9, 10), parts, strict=True)
    ]
    write(folder / "year=1" / "_temporary" / "part-0.parquet", parts[0])
    pq.write_table(parts[0][:0], folder / "part-11.parquet")
    (folder / "_SUCCESS").touch()
    (folder / "notes.txt").write_text("about")
    for data in (folder, f"{folder}/year=1/*.parquet", [str(path) for path in paths], f"file://{folder}"):
        assert_same(find(data, ids="image_id"), find_arrays(LABELS, PROBS, ids=IDS))
    assert find(folder).facts.inputs["labels"] == f"{folder} (3 shards)"
    assert_same_bits(find(paths[0]), find_arrays(LABELS[:300], PROBS[:300]))
    pa.feather.write_feather(parts[2], paths[2])
    assert_same_bits(find(folder), want)


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_arrow_files(tmp_path, compression, want):
    pa.feather.write_feather(table_of(), tmp_path / "t.feather", compression, chunksize=130)
    assert_same(find(tmp_path / "t.feather", ids="image_id", batch_size=50), find_arrays(LABELS, PROBS, ids=IDS))
    pa.feather.write_feather(table_of(form="columns"), tmp_path / "c.arrow", compression)
    assert_same_bits(find(tmp_path / "c.arrow", "label", NAMES), want)
    table = table_of().set_column(2, "label", pa.array(LABELS).dictionary_encode())
    pa.feather.write_feather(table, tmp_path / "d.arrow", compression, chunksize=400)
    assert_same_bits(find(tmp_path / "d.arrow"), want)


def test_arrow_streams(tmp_path, want):
    with pa.ipc.new_stream(tmp_path / "t.arrow", table_of().schema) as writer:
        writer.write_table(table_of(), max_chunksize=130)
    assert_same_bits(find(tmp_path / "t.arrow"), want)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(tmp_path / "z.arrow", table_of().schema, options=options) as writer:
        writer.write_table(table_of())
    assert "z.arrow is a compressed Arrow stream, which has no index" in refused(tmp_path / "z.arrow")


class Dataset:
    """What is called of a dataset of Hugging Face; its table is that of the mapped files."""

    __module__ = "datasets.arrow_dataset"

    def __init__(self, table, indices=None, form=None):
        self.data, self._indices, self._format = types.SimpleNamespace(table=table), indices, form
        self.column_names = table.column_names

    def select_columns(self, columns):
        return Dataset(self.data.table.select(columns), self._indices, self._format)

    def with_format(self, form):
        return Dataset(self.data.table, self._indices, form)

    def __getitem__(self, rows):
        assert self._format == "arrow"
        return self.data.table.take(self._indices)


ORDER = np.random.default_rng(2).permutation(N)
IN_MEMORY = {
    "arrow": table_of,
    "arrow, chunks": lambda: pa.Table.from_batches(table_of().to_batches(max_chunksize=90)),
    "arrow, a slice": lambda: pa.concat_tables([table_of()[:7], table_of()])[7:],
    "arrow, fixed": lambda: pa.Table.from_batches(table_of(form="fixed").to_batches(max_chunksize=90)),
    "record batch": lambda: table_of().to_batches()[0],
    "pandas": lambda: table_of().to_pandas(),
    "pandas, shuffled": lambda: table_of().to_pandas().iloc[ORDER].sort_values("image_id"),
    "polars": lambda: pl.from_arrow(table_of()),
    "polars, array": lambda: pl.from_arrow(table_of(form="fixed")),
    "duckdb": lambda: duckdb.from_arrow(table_of()),
    "datasets": lambda: Dataset(table_of()),
    "datasets, shuffled": lambda: Dataset(table_of().take(ORDER), np.argsort(ORDER)),
    "dict": lambda: {"label": LABELS, "probs": PROBS, "image_id": list(IDS)},
    "capsule": lambda: types.SimpleNamespace(__arrow_c_stream__=table_of().__arrow_c_stream__),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_tables_in_memory(kind):
    want = find_arrays(LABELS, PROBS, ids=IDS)
    assert_same(find(IN_MEMORY[kind](), ids="image_id"), want)
    assert_same(find(IN_MEMORY[kind](), ids="image_id", batch_size=70, partition_batches=2), want)


def test_a_query_runs_once_for_all_of_its_columns():
    connection = duckdb.connect()
    probs = np.eye(3)[np.arange(3000) % 3] * 0.7 + 0.1
    connection.register(
        "t", pa.table({"label": probs.argmax(axis=1), "a": probs[:, 0], "b": probs[:, 1], "c": probs[:, 2]})
    )
    shuffled = connection.sql("SELECT * FROM t ORDER BY random()")
    found = labelsieve.find_label_issues(data=shuffled, labels="label", pred_probs=["a", "b", "c"], progress=False)
    assert found.num_issues == 0, "every row is predicted as its label"


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars", "duckdb"])
def test_columns_for_each_class_in_memory(kind, want):
    table = table_of(form="columns")
    data = {"arrow": lambda t: t, "pandas": pa.Table.to_pandas, "polars": pl.from_arrow, "duckdb": duckdb.from_arrow}
    assert_same_bits(find(data[kind](table), "label", "p_*", batch_size=70), want)
    assert_same_bits(find(data[kind](table), "label", NAMES), want)
    assert_same_bits(find(data[kind](table), K - 1 - LABELS, NAMES[::-1]), find_arrays(K - 1 - LABELS, PROBS[:, ::-1]))


def test_a_table_in_memory_is_not_copied():
    table = table_of(form="fixed")
    values = table.column("probs").chunk(0).flatten().to_numpy()
    source = open_table(table).source("pred_probs", "probs")
    assert np.shares_memory(source.array, values)
    chunked = open_table(pa.Table.from_batches(table.to_batches(max_chunksize=300))).source("pred_probs", "probs")
    with chunked.open() as rows:
        assert np.shares_memory(rows.read(10, 250), values)


def test_arrays_beside_a_table(tmp_path, want):
    path = write(tmp_path / "t.parquet", table_of(np.zeros(N, int)))
    np.save(tmp_path / "labels.npy", LABELS)
    assert_same_bits(find(path, LABELS), want)
    assert_same_bits(find(path, tmp_path / "labels.npy"), want)
    assert_same_bits(find(path, LABELS, batch_size=30, partition_batches=1), want)
    # Partitions of the array cut the row groups of the labels.
    path = write(tmp_path / "l.parquet", table_of())
    for labels_at_once in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("labelsieve.job.inputs._READ_FIRST_BYTES", 1 << 20 if labels_at_once else 0)
            found = find(path, "label", PROBS, batch_size=30, partition_batches=1, ids=IDS.tolist())
        assert_same(found, find_arrays(LABELS, PROBS, ids=IDS))
    assert "999 labels, 1,000 rows of pred_probs" in refused(path, LABELS[1:])


def test_labels_of_other_types(tmp_path, want):
    for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())):
        table = table_of().set_column(
            2, "label", pa.array(LABELS).cast(kind) if "dict" not in str(kind) else pa.array(LABELS).dictionary_encode()
        )
        assert_same_bits(find(write(tmp_path / "t.parquet", table)), want)
        assert_same_bits(find(table), want)


def as_names(labels, names):
    return pa.array([None if label is None else names[label] for label in labels])


@pytest.mark.every_value
@pytest.mark.parametrize("place", ["memory", "parquet", "feather"])
@pytest.mark.parametrize("form", ["list", "columns"])
def test_labels_that_are_names_or_null(tmp_path, place, form):
    names = ["dog", "cat", "eel", "ant", "bee"]  # not in the order of the alphabet
    labels = [None if row % 10 == 3 else label for row, label in enumerate(LABELS.tolist())]
    columns = {f"p_{name}": pa.array(PROBS[:, k].copy()) for k, name in enumerate(names)}
    probs = columns if form == "columns" else {"probs": lists(PROBS)}
    table = pa.table({"name": as_names(LABELS, names), "null": as_names(labels, names), "number": labels} | probs)
    table = table.append_column("category", table["name"].dictionary_encode())
    data = table
    if place == "parquet":
        data = write(tmp_path / "t.parquet", table, [90, 200])
    elif place == "feather":
        pa.feather.write_feather(table, tmp_path / "t.feather", chunksize=90)
        data = tmp_path / "t.feather"
    wanted = "p_*" if form == "columns" else "probs"
    given = {} if form == "columns" else {"class_names": names}
    for column in ("name", "category"):
        found = find(data, column, wanted, **given)
        assert_same_bits(found, find_arrays(LABELS, PROBS))
        assert found.class_names == tuple(names)
    assert "nulls in column 'null'" in refused(data, "null", wanted, **given)
    for column in ("null", "number"):
        found = find(data, column, wanted, ignore_label=None, **given)
        want = find_arrays(np.where([label is None for label in labels], -1, LABELS), PROBS, ignore_label=-1)
        assert_same_bits(found, want)
        assert found.n_ignored == want.n_ignored == 100


@pytest.mark.every_value
@pytest.mark.parametrize("place", ["memory", "parquet", "feather"])
@pytest.mark.parametrize("form", ["list", "columns"])
def test_logits_in_a_table(tmp_path, place, form):
    logits = (np.log(PROBS) + 1.5).astype(np.float32)
    data, want = table_of(probs=logits, form=form), find_arrays(LABELS, logits, from_logits=True)
    if place == "parquet":
        data = write(tmp_path / "t.parquet", data)
    elif place == "feather":
        pa.feather.write_feather(data, tmp_path / "t.feather", chunksize=90)
        data = tmp_path / "t.feather"
    wanted = "p_*" if form == "columns" else "probs"
    assert_same_bits(find(data, "label", wanted, from_logits=True, batch_size=70), want)
    assert "from_logits" in refused(data, "label", wanted)


def test_categories_of_pandas_in_an_order_of_their_own():
    frame = table_of().to_pandas()
    names = ["dog", "cat", "eel", "ant", "bee"]
    frame["label"] = pd.Categorical.from_codes(LABELS, names)
    assert "the categories of labels are in the order" in refused(frame)
    assert_same_bits(find(frame, class_names=names), find_arrays(LABELS, PROBS))


def test_columns_in_another_order_than_the_names(want):
    table = pa.table({"label": as_names(LABELS, NAMES), **{name: PROBS[:, k].copy() for k, name in enumerate(NAMES)}})
    assert_same_bits(find(table, "label", NAMES), want)
    other = table.rename_columns(["label", *(name.replace("p_", "hot_") for name in NAMES)])
    assert re.match(
        "labels have the names .*p_ant.*, columns of pred_probs .*hot_ant", refused(other, "label", "hot_*")
    )
    names = [name.removeprefix("p_") for name in NAMES]
    message = refused(table, LABELS, NAMES, class_names=names[::-1])
    assert message.startswith("the columns of pred_probs are not in the order of class_names (column 0 is 'ant'")
    assert_same_bits(find(table, LABELS, NAMES, class_names=names), want)


def test_a_workdir_reads_only_the_shard_that_is_new(tmp_path):
    folder, work = tmp_path / "data", tmp_path / "work"
    folder.mkdir()
    for part in range(3):
        rows = slice(part * 250, part * 250 + 250)
        write(folder / f"p-{part}.parquet", table_of()[rows], [40, 100])
    cut = {"batch_size": 20, "partition_batches": 2}
    first = find(folder, workdir=work, **cut)
    assert (first.facts.rows_read, first.facts.rows_resumed) == (750, 0)
    assert_same_bits(first, find_arrays(LABELS[:750], PROBS[:750]))
    write(folder / "p-3.parquet", table_of()[750:], [40, 100])
    plan = labelsieve.plan_label_issues("label", "probs", data=folder, workdir=work, **cut)
    assert plan.known_rows == 750
    again = find(folder, workdir=work, **cut)
    assert (again.facts.rows_read, again.facts.rows_resumed) == (250, 750)
    assert_same_bits(again, find_arrays(LABELS, PROBS))
    # Rewritten with other labels: only its rows are read.
    labels = LABELS.copy()
    labels[250:500] = (labels[250:500] + 1) % K
    write(folder / "p-1.parquet", table_of(labels)[250:500], [40, 100])
    changed = find(folder, workdir=work, **cut)
    assert (changed.facts.rows_read, changed.facts.rows_resumed) == (250, 750)
    assert_same_bits(changed, find_arrays(labels, PROBS))
    with pytest.raises(labelsieve.WorkdirError):
        find(folder, "label", PROBS, workdir=work, **cut)


def test_a_workdir_of_other_columns_is_refused(tmp_path):
    columns = {"label": LABELS, "a": PROBS, "b": PROBS[:, ::-1].copy()}
    table = pa.table({name: lists(one) if one.ndim == 2 else pa.array(one) for name, one in columns.items()})
    path = write(tmp_path / "t.parquet", table)
    find(path, "label", "a", workdir=tmp_path / "work")
    with pytest.raises(labelsieve.WorkdirError, match="columns"):
        find(path, "label", "b", workdir=tmp_path / "work")


def test_a_file_that_changes_during_the_run_publishes_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", table_of())
    iter_batches = pq.ParquetFile.iter_batches

    def rewriting(self, *args, **kwargs):
        for batch in iter_batches(self, *args, **kwargs):
            write(tmp_path / "other", table_of(LABELS[::-1])).replace(path)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", rewriting)
    with pytest.raises(ChangedDataError, match=r"t\.parquet has changed since the run began"):
        find(path, output=tmp_path / "o.zarr", retries=0)
    assert not (tmp_path / "o.zarr").exists()


def test_a_damaged_page_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", table_of(), write_page_checksum=True, compression="none", use_dictionary=False)
    source = open_table(path).source("pred_probs", "probs")
    start, stop = source.byte_ranges(range(3, 4))[0]
    data = bytearray(path.read_bytes())
    data[(start + stop) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableDataError, match=r"t\.parquet, row .* is not readable"):
        find(path, retries=0)


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0", silence_logs=40) as one,
        Client(one, set_as_default=False) as client,
    ):
        yield client


_SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("columns", "feather", "pandas")]


@pytest.mark.parametrize("kind", ["parquet", "arrow", *_SLOWER])
def test_a_cluster_of_processes(tmp_path, cluster, kind):
    table = table_of(form="columns" if kind == "columns" else "list")
    data = {"arrow": pa.Table.from_batches(table.to_batches(max_chunksize=90)), "pandas": table.to_pandas()}.get(kind)
    if kind == "feather":
        pa.feather.write_feather(table, tmp_path / "t.feather", "zstd", chunksize=90)
    elif data is None:
        write(tmp_path / "t.parquet", table, [100] * 9)
    data = next(tmp_path.iterdir()) if data is None else data
    wanted = "p_*" if kind == "columns" else "probs"
    found = find(data, "label", wanted, ids="image_id", batch_size=50, partition_batches=2, client=cluster)
    assert_same(found, find_arrays(LABELS, PROBS, ids=IDS))
    assert found.facts.n_partitions == 10


def put(url, path):
    fs, place = fsspec.core.url_to_fs(url)
    fs.pipe(place, Path(path).read_bytes())


@pytest.mark.parametrize("form", ["list", "columns"])
def test_urls(tmp_path, form, monkeypatch):
    monkeypatch.setattr(parquet, "_REQUEST_BYTES", 3000)
    wanted = "p_*" if form == "columns" else "probs"
    for part in range(2):
        path = write(tmp_path / f"p-{part}.parquet", table_of(form=form)[part * 500 : part * 500 + 500], [200])
        put(f"memory://tables/{form}/p-{part}.parquet", path)
    put(f"memory://tables/{form}/notes.txt", __file__)
    want = find_arrays(LABELS, PROBS, ids=IDS)
    base = f"memory://tables/{form}"
    for data in (base, f"{base}/*.parquet", [f"{base}/p-0.parquet", f"{base}/p-1.parquet"]):
        assert_same(find(data, "label", wanted, ids="image_id", batch_size=90), want)
    monkeypatch.setattr(parquet, "_WHOLE_GROUP_BYTES", 0)
    assert_same(find(base, "label", wanted, ids="image_id"), want)
    source = open_table(f"{base}/p-1.parquet").source("pred_probs", wanted)
    with source.open(0, 500) as rows:
        for start, stop in ((0, 150), (150, 500), (10, 20), (300, 450)):
            assert_same_array(rows.read(start, stop).copy(), PROBS[500 + start : 500 + stop])


@pytest.fixture(scope="module")
def store():
    with s3.running_server() as server:
        yield server


@pytest.mark.slow
def test_s3(tmp_path, store, monkeypatch, want):
    store.set_environment(monkeypatch)
    fsspec.filesystem("s3").mkdir(s3.BUCKET)
    url = f"s3://{s3.BUCKET}/tables"
    for part in range(2):
        path = write(tmp_path / "p.parquet", table_of()[part * 500 : part * 500 + 500], [200])
        put(f"{url}/p-{part}.parquet", path)
    assert_same_bits(find(f"{url}/*.parquet"), want)
    source = open_table(f"{url}/p-0.parquet").source("pred_probs", "probs")
    write(tmp_path / "p.parquet", table_of()[:500], [300])
    put(f"{url}/p-0.parquet", tmp_path / "p.parquet")
    with pytest.raises(ChangedDataError, match="has changed since the run began"), source.open(0, 500) as rows:
        rows.read(0, 500)
    with pytest.raises(ChangedDataError, match="has changed since the run began"):
        source.check_version()


def with_column(name, values, table=None):
    table = table_of() if table is None else table
    return table.set_column(table.column_names.index(name), name, values)


def ragged(row, length):
    return pa.array([p[:length] if i == row else p for i, p in enumerate(PROBS.tolist())])


def nulls(values, rows):
    return pa.array([None if i in rows else value for i, value in enumerate(values)])


BAD_TABLES = {
    "ragged": (lambda: with_column("probs", ragged(640, 3)), "row 640 has 3 values, others have 5"),
    "an empty list": (lambda: with_column("probs", ragged(7, 0)), "row 7 has 0 values, others have 5"),
    "a null list": (
        lambda: with_column("probs", nulls(PROBS.tolist(), {3, 900})),
        "pred_probs: nulls in column 'probs'",
    ),
    "nulls in lists": (
        lambda: with_column(
            "probs", nulls([[*p[:4], None] if i in (8, 9) else p for i, p in enumerate(PROBS.tolist())], ())
        ),
        "nulls in the lists of column 'probs' of .*, in rows 8, 9",
    ),
    "nulls in fixed lists": (
        lambda: with_column(
            "probs",
            nulls([[*p[:4], None] if i == 8 else p for i, p in enumerate(PROBS.tolist())], ()).cast(
                pa.list_(pa.float64(), K)
            ),
        ),
        "nulls in the lists of column 'probs' of .*, in row 8",
    ),
    "null labels": (
        lambda: with_column("label", nulls(LABELS.tolist(), {1, 5, 6, 7, 20})),
        "labels: nulls in column 'label' of .*, in row",
    ),
    "labels of text": (lambda: with_column("label", pa.array(IDS)), "labels have more than 5 distinct names"),
    "labels of floats": (
        lambda: with_column("label", pa.array(LABELS * 1.0)),
        "labels must be integers 0..K-1, not float64",
    ),
    "labels of times": (
        lambda: with_column("label", pa.array(LABELS).cast(pa.timestamp("ms"))),
        r"labels: column 'label' of .* has the type timestamp\[ms\], not integers or strings",
    ),
    "labels of lists": (lambda: with_column("label", lists(PROBS)), "has the type list<.*>, not integers or strings"),
    "labels of decimals": (
        lambda: with_column("label", pa.array(LABELS).cast(pa.decimal128(20))),
        r"has the type decimal128\(20, 0\), not integers",
    ),
    "probabilities of decimals": (
        lambda: with_column("probs", pa.array([[None] * K] * N, pa.list_(pa.decimal128(9, 8)))),
        r"pred_probs: column 'probs' of .* has the type list<.*decimal128\(9, 8\)>: .*; cast it to double",
    ),
    "probabilities of text": (
        lambda: with_column("probs", pa.array(IDS)),
        "column 'probs' of .* has the type string: prob",
    ),
    "probabilities of integers": (lambda: with_column("probs", lists(np.ones((N, K), int))), "; if these are counts"),
    "lists of lists": (lambda: with_column("probs", pa.array([[[0.5]]] * N)), "has the type list<.*list<"),
    "structs": (
        lambda: with_column("probs", pa.array([{"a": 0.5}] * N)),
        "has the type struct<a: double>: probabilities",
    ),
    "one number": (
        lambda: with_column("probs", pa.array(PROBS[:, 0])),
        "holds one number in each row: give a column of",
    ),
    "one class": (lambda: with_column("probs", lists(PROBS[:, :1])), "pred_probs has 1 columns"),
    "NaN": (lambda: with_column("probs", lists(np.where(np.arange(N)[:, None] == 41, np.nan, PROBS))), "NaN.*41"),
    "labels out of range": (lambda: with_column("label", pa.array(np.where(LABELS == 4, 9, LABELS))), "labels .*9"),
    "no rows": (lambda: table_of()[:0], "no rows"),
}


@pytest.mark.every_value
@pytest.mark.parametrize("place", ["memory", "parquet", "feather"])
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_columns_are_refused_by_name(tmp_path, case, place):
    make, message = BAD_TABLES[case]
    data = make()
    if place == "parquet":
        data = write(tmp_path / "t.parquet", data)
    elif place == "feather":
        pa.feather.write_feather(data, tmp_path / "t.feather", chunksize=300)
        data = tmp_path / "t.feather"
    text = refused(data)
    assert re.search(message, text), text
    if case in ("a null list", "null labels"):
        rows = {int(row) for row in re.findall(r"\d+", text.partition("in row")[2])}
        assert rows & ({3, 900} if case == "a null list" else {1, 5, 6}), text


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path / "t.parquet", table_of(form="columns"))
    has = "It has the columns image_id, note, label, p_ant, p_bee, p_cow, p_dog, p_eel, last"
    assert refused(path, "labels", "p_*") == f"labels: {path} has no column 'labels'. Did you mean 'label'? {has}"
    assert refused(path, "LABEL", "p_*") == f"labels: {path} has no column 'LABEL'. Did you mean 'label'? {has}"
    assert refused(path, "label", ["p_ant", "p_be"]).startswith(
        f"pred_probs: {path} has no column 'p_be'. Did you mean"
    )
    assert refused(path, "label", "q_*").startswith(
        f"pred_probs: no column of {path} matches 'q_*': it has the columns"
    )
    assert refused(path, "label", "p_*", ids="xyz") == f"ids: {path} has no column 'xyz'. {has}"
    assert refused(path, "label", ["p_ant", "p_ant"]) == "pred_probs: column 'p_ant' is listed 2 times"
    assert refused(path, "label", "p_ant").startswith(f"pred_probs: column 'p_ant' of {path} holds one number")
    wide = pa.table({f"c{i}": [0.5] for i in range(30)})
    assert refused(wide, "x", "y").endswith(
        "It has the columns " + ", ".join(f"c{i}" for i in range(12)) + " and 18 more"
    )
    twice = pa.table([pa.array(LABELS), pa.array(LABELS), lists(PROBS)], ["label", "label", "probs"])
    assert "has 2 columns called 'label'" in refused(twice)


def test_columns_of_a_pattern_are_in_the_order_of_their_numbers(want):
    numbered = {f"p_{k}": pa.array(PROBS[:, k].copy()) for k in (3, 0, 4, 2, 1)}
    table = pa.table({"label": LABELS, **numbered})
    assert_same_bits(find(table, "label", "p_*"), want)
    message = refused(table.drop_columns(["p_2"]), "label", "p_*")
    assert "matches 4 columns of the pyarrow Table, numbered 0 to 4, but not p_2" in message
    many = {f"p_{k}": [1.0] if k == 3 else [0.0] for k in range(12)}
    source = open_table(many).source("pred_probs", "p_*")
    assert source[:].tolist() == [[0.0] * 3 + [1.0] + [0.0] * 8]


def test_objects_that_are_no_tables(tmp_path):
    lazy = pl.LazyFrame({"label": [1]})
    assert (
        refused(lazy, error=InputTypeError)
        == "data is a polars LazyFrame: give its .collect(), or the files that it reads"
    )
    reader = table_of().to_reader()
    assert "it can be read only once" in refused(reader, error=InputTypeError)
    splits = type("DatasetDict", (dict,), {"__module__": "datasets.dataset_dict"})(train=1)
    assert "give one of them, such as data['train']" in refused(splits, error=InputTypeError)
    for data in (5, PROBS, object(), [1, 2]):
        assert refused(data, error=InputTypeError).startswith("data must be a path")
    assert "name its columns" in refused(table_of(), LABELS, PROBS, error=InputTypeError)
    assert refused(tmp_path / "none.parquet") == f"data: there is no file {tmp_path / 'none.parquet'}"
    assert refused(f"{tmp_path}/*.parquet") == f"data: no file matches {tmp_path}/*.parquet"
    assert "has no files whose names end in .parquet" in refused(tmp_path)
    (tmp_path / "t.parquet").write_bytes(b"not at all")
    assert refused(tmp_path / "t.parquet") == f"data: {tmp_path}/t.parquet is neither a Parquet nor an Arrow file"
    (tmp_path / "t.parquet").write_bytes(b"PAR1 cut off")
    assert refused(tmp_path / "t.parquet").startswith(f"data: {tmp_path}/t.parquet is not a readable Parquet file")
    path = write(tmp_path / "t.parquet", table_of())
    assert refused([path, path]) == f"data: {path} is listed twice"
    write(tmp_path / "u.parquet", with_column("probs", lists(PROBS[:, :4])))
    assert f"pred_probs: shards differ in columns: {path} has 5, {tmp_path}/u.parquet has 4" in refused(tmp_path)
    with pytest.raises(InvalidInputError, match="give labels and pred_probs, or summaries"):
        labelsieve.find_label_issues(data=path, summaries=1)


def test_a_small_run_imports_no_pandas(tmp_path):
    write(tmp_path / "t.parquet", table_of())
    code = """
    import sys, labelsieve
    print(labelsieve.find_label_issues("label", "probs", data="t.parquet", progress=False).num_issues > 0)
    print([name for name in ("dask.array", "pandas") if name in sys.modules])
    """
    call = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n[]\n"


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", table_of())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(labelsieve.MissingDependencyError) as caught:
        find(path)
    assert str(caught.value) == f"Reading tables needs an optional package: {install_line('parquet')}"


def test_a_table_given_as_an_array_is_told_to_be_data(tmp_path):
    path = write(tmp_path / "t.parquet", table_of())
    with pytest.raises(InvalidInputError) as caught:
        find_arrays(LABELS, path)
    assert f"{path} is a Parquet file" in str(caught.value)
    assert "give it as data=..., with the names of its columns as labels=... and pred_probs=..." in str(caught.value)


HUGE = """
    import sys
    import dask, numpy as np, pyarrow as pa, pyarrow.parquet as pq
    import labelsieve
    from labelsieve.execution.executor import peak_bytes
    data, labels, probs = sys.argv[1:]
    pa.array([1.0]), pq.ParquetFile(data).close()
    before = peak_bytes()
    with dask.config.set(num_workers=2):
        found = labelsieve.find_label_issues(labels, probs, data=data, progress=False, max_memory="1GiB")
    print(found.num_issues, (peak_bytes() - before) / 1e6, found.facts.planned_bytes / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["list", "columns"])
def test_memory_does_not_follow_the_row_group(tmp_path, form):
    n_rows, n_classes = 400_000, 50  # a row group of 160 MB
    labels = np.arange(n_rows) % n_classes
    probs = np.full((n_rows, n_classes), 0.5 / (n_classes - 1), np.float64).astype("f8")
    probs[np.arange(n_rows), (labels + (labels % 7 == 0)) % n_classes] = 0.5
    columns = (
        {f"p_{k}": pa.array(probs[:, k].copy()) for k in range(n_classes)}
        if form == "columns"
        else {"probs": lists(probs)}
    )
    pq.write_table(
        pa.table({"label": labels, **columns}), tmp_path / "t.parquet", row_group_size=n_rows, use_dictionary=False
    )
    wanted = "p_*" if form == "columns" else "probs"
    call = [sys.executable, "-c", textwrap.dedent(HUGE), tmp_path / "t.parquet", "label", wanted]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    n_issues, grown, planned = map(float, done.stdout.split())
    assert n_issues == np.count_nonzero(labels % 7 == 0)
    assert grown < 110, "the row group takes 160 MB"
    assert grown < planned


@pytest.mark.usefixtures("two_threads")
def test_pages_too_large_for_the_memory_are_refused_with_their_size(tmp_path):
    probs = np.random.default_rng(0).random((40_000, 100))
    table = pa.table({"label": np.arange(40_000) % 100, "probs": lists(probs)})
    duckdb.from_arrow(table).write_parquet(str(tmp_path / "t.parquet"), row_group_size=40_960)
    with pytest.raises(MemoryLimitError) as caught:
        labelsieve.plan_label_issues("label", "probs", data=tmp_path / "t.parquet", max_memory="150MB")
    assert re.search(rf"row groups of {tmp_path}/t.parquet have up to \d+ MB", str(caught.value))
    assert re.search(r"MB in what is read, in pages of up to \d+\.\d MB", str(caught.value))
    labelsieve.plan_label_issues("label", "probs", data=tmp_path / "t.parquet", max_memory="500MB")


def test_no_page_counts_more_than_the_limit_of_the_program_that_wrote_it(tmp_path):
    table = table_of()
    write(tmp_path / "a.parquet", table, [N], use_dictionary=False, compression="none")
    duckdb.from_arrow(table).write_parquet(str(tmp_path / "d.parquet"))
    for name, limit in (("a", 1 << 20), ("d", 100 << 20)):
        source = open_table(tmp_path / f"{name}.parquet").source("pred_probs", "probs")
        size = pq.read_metadata(tmp_path / f"{name}.parquet").row_group(0).column(source.leaves[0])
        rest = source.facts.decoding_bytes - source.buffer_bytes - 4 * N * K * 8
        assert rest == 2 * min(size.total_uncompressed_size, limit)


@pytest.mark.parametrize(
    "columns",
    [
        ["--labels", "label", "--pred-probs", "p_*"],
        ["--labels", "label", "--pred-probs", ",".join(NAMES)],
        ["label", "p_*"],
    ],
)
def test_the_command_line(tmp_path, capsys, columns, want):
    path = write(tmp_path / "t.parquet", table_of(form="columns"))
    output = tmp_path / "issues.csv"
    call = ["find", "--data", str(path), *columns, "--ids", "image_id", "-o", str(output), "--quiet"]
    report = ["--report", str(tmp_path / "r.html")] if columns[0] == "label" else []
    assert app.run([*call, *report]) == 0, capsys.readouterr().err
    assert pd.read_csv(output)["id"].tolist() == IDS[want.indices].tolist()
    assert app.run(["plan", "--data", str(path), *columns, "--json"]) == 0
    assert f'"n_rows": {N}' in capsys.readouterr().out
    assert app.run(["find", "--data", str(path), *columns, "-o", str(path)]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["--labels", "label", "x.npy", "y.npy"], "--labels names a column of a table: give it with --data"),
        (["--data", "t.parquet", "--labels", "label"], "--data needs the column of pred_probs: --pred-probs"),
        (["--data", "t.parquet", "label", "--labels", "y"], "--labels and the argument LABELS are both given"),
        (["--data", "none.parquet", "label", "p"], "data: there is no file"),
        (["x.npy"], "Missing argument 'PRED_PROBS'."),
    ],
)
def test_the_command_line_refuses(capsys, call, message):
    assert app.run(["find", *call]) == 2
    assert message in capsys.readouterr().err
