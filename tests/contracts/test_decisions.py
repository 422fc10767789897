"""Corrections: labels after decisions, in every form in which labels are stored; refusals that write nothing."""

import csv
import io
import json
import os
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import GZip
from pyarrow import parquet
from zarr.codecs import GzipCodec

import labelsieve
from draws import draw
from labelsieve import InputTypeError, InvalidInputError, apply_decisions
from labelsieve.cli.app import run
from labelsieve.review import decisions as module
from labelsieve.review.labels import LabelFile, SourceLabels

NAMES = ["=1+1", "cat", "dög"]
HEADER = ["row", "id", "given_label", "decision", "label", "reviewer", "time"]


def write_csv(path, rows, header=HEADER):
    """Write decisions as a review page does: formulas escaped, each line ended."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"'{cell}" if str(cell).startswith("=") else cell for cell in row] for row in rows])
    return path


def decided(*rows, **columns):
    """Return a frame of (row, given label, decision, label)."""
    frame = pd.DataFrame(rows, columns=["row", "given_label", "decision", "label"])
    return frame.assign(**columns)


def store(form, folder, labels):
    """Store labels in a form; return the arguments for them, and a function that reads them again."""
    path = folder / f"labels.{form}"
    if form == "npy":
        np.save(path, labels)
        return {"labels": path}, np.load
    if form == "zarr":
        zarr.create_array(path, data=labels, chunks=(3,), attributes={"of": "a test"})
        return {"labels": path}, lambda place: zarr.open_array(place, mode="r")[:]
    table = pd.DataFrame({"name": [f"a,{row}" for row in range(len(labels))], "label": labels, "x": 0.5})
    if form == "parquet":
        table.to_parquet(path, index=False)
        return {"labels": path, "column": "label"}, lambda place: pd.read_parquet(place)["label"].to_numpy()
    table.to_csv(path, index=False)
    # As text would be read as numbers.
    kind = {"label": str} if labels.dtype.kind == "U" else {}
    return {"labels": path, "column": "label"}, lambda place: pd.read_csv(place, dtype=kind)["label"].to_numpy()


def naive(labels, rows, unsure="keep", ignore_label=None):
    """Apply decisions of one reviewer, one by one."""
    found, dropped = list(labels), []
    for row, given_label, decision, label in rows:
        assert found[row] == given_label
        if decision in ("accept", "other"):
            found[row] = label
        elif decision == "unsure" and unsure == "ignore":
            found[row] = ignore_label
        elif decision == "unsure" and unsure == "drop":
            dropped.append(row)
    return found, sorted(dropped)


def draw_decisions(labels, classes, rng, n):
    """Draw decisions about `n` rows, in any order."""
    rows = []
    for row in rng.permutation(len(labels))[:n].tolist():
        decision = str(rng.choice(["accept", "keep", "other", "unsure"]))
        label = classes[rng.integers(len(classes))] if decision in ("accept", "other") else ""
        rows.append((row, labels[row].item(), decision, label))
    return rows


@pytest.mark.every_value
@pytest.mark.parametrize("form", ["npy", "zarr", "parquet", "csv"])
@pytest.mark.parametrize("kind", ["numbers", "names"])
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_labels_in_any_form_are_corrected_as_one_by_one(form, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(LabelFile, "block_rows", 7)
    rng = np.random.default_rng(3)
    classes = [0, 1, 2] if kind == "numbers" else NAMES
    labels = np.array(classes, np.uint8 if kind == "numbers" else None)[rng.integers(0, 3, 50)]
    rows = draw_decisions(labels, classes, rng, 20)
    where, read = store(form, tmp_path, labels)
    before = where["labels"].read_bytes() if where["labels"].is_file() else None
    cells = [(row, "", old, word, new, "ann", "2026-11-26T07:30:00Z") for row, old, word, new in rows]
    decisions = write_csv(tmp_path / "decisions.csv", cells)
    output = tmp_path / f"corrected.{form}"
    applied = apply_decisions(**where, decisions=decisions, output=output, unsure="drop")
    wanted, dropped = naive(labels.tolist(), rows, "drop")
    got = read(output)
    assert got.tolist() == wanted
    assert form == "csv" or got.dtype == read(where["labels"]).dtype
    assert read(where["labels"]).tolist() == labels.tolist()
    changed = [row for row in range(50) if wanted[row] != labels[row]]
    assert applied.changed.tolist() == changed
    assert applied.dropped.tolist() == dropped
    assert np.flatnonzero(~applied.kept_mask()).tolist() == dropped
    assert applied.labels is None
    in_memory = apply_decisions(**where, decisions=decisions, unsure="drop").labels
    assert list(map(str, in_memory.tolist())) == list(map(str, wanted))
    assert before is None or where["labels"].read_bytes() == before
    words = Counter(word for _, _, word, _ in rows)
    log = json.loads((tmp_path / f"corrected.{form}.log.json").read_text(encoding="utf-8"))
    assert log["counts"] == applied.counts
    assert [log["counts"][word] for word in words] == list(words.values())
    assert log["counts"]["changed"] == len(changed)
    word_of = {row: word for row, _, word, _ in rows}
    assert log["changes"] == [
        {
            "row": row,
            "before": labels[row].item() if form != "csv" else str(labels[row]),
            "after": wanted[row] if form != "csv" else str(wanted[row]),
            "decision": word_of[row],
            "reviewer": "ann",
            "time": "2026-11-26T07:30:00Z",
        }
        for row in changed
    ]
    assert log["dropped"] == dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["decisions.csv", f"labels.{form}", f"corrected.{form}", f"corrected.{form}.log.json"]
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n_rows=st.integers(1, 40), seed=st.integers(0, 1000))
def test_labels_in_memory_are_corrected_as_one_by_one(data, n_rows, seed):
    rng = np.random.default_rng(seed)
    classes = data.draw(st.sampled_from([[0, 1, 2], ["a", "bb", "c"], [False, True], [0.0, 1.0, 2.0], [b"a", b"bb"]]))
    labels = np.array(classes)[rng.integers(0, len(classes), n_rows)]
    rows = draw_decisions(labels, classes, rng, data.draw(st.integers(0, n_rows)))
    known = (
        None if isinstance(classes[0], bool) else [str(k) if not isinstance(k, bytes) else k.decode() for k in classes]
    )
    unsure = data.draw(st.sampled_from(["keep", "drop", "ignore"]))
    more = {"ignore_label": classes[0]} if unsure == "ignore" else {}
    applied = apply_decisions(labels, decided(*rows), unsure=unsure, class_names=known, **more)
    wanted, dropped = naive(labels.tolist(), rows, unsure, classes[0])
    assert applied.labels.tolist() == wanted
    assert applied.labels.dtype == labels.dtype
    assert applied.dropped.tolist() == dropped
    assert applied.changed.tolist() == [row for row in range(n_rows) if wanted[row] != labels[row]]


def test_lines_of_a_csv_file_whose_label_stays_are_copied_as_they_are(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b'\xef\xbb\xbf"label",text\r\n"cat", "a"\r\n\r\ndog,"two\r\nlines"\r\n"c""t",x')
    frame = decided((1, "dog", "other", 'c"t'))
    apply_decisions(path, frame, tmp_path / "out.csv", column="label")
    wanted = b'\xef\xbb\xbf"label",text\r\n"cat", "a"\r\n\r\n"c""t","two\r\nlines"\r\n"c""t",x'
    assert (tmp_path / "out.csv").read_bytes() == wanted


def test_numbers_of_a_frame_with_missing_values_are_those_of_the_labels(tmp_path):
    frame = pd.DataFrame({"row": [0, 1], "given_label": [0, 1], "decision": ["keep", "accept"], "label": [None, 0.0]})
    pd.DataFrame({"label": [0, 1, 1]}).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame({"label": [0, 1, None]}, dtype="Int64").to_parquet(tmp_path / "labels.parquet")
    for labels in ([0, 1, 1], np.array([0, 1, 1], object), pd.Series([0, 1, 1], dtype="Int64")):
        assert apply_decisions(labels, frame).labels.tolist() == [0, 0, 1]
    assert apply_decisions(tmp_path / "labels.csv", frame).labels.tolist() == ["0", "0", "1"]
    frame.loc[0, "decision"] = "unsure"
    applied = apply_decisions(tmp_path / "labels.parquet", frame, unsure="ignore", ignore_label=None)
    assert applied.labels.tolist() == [None, 0, None]
    pd.DataFrame({"label": [0, 1]}).to_parquet(tmp_path / "whole.parquet")
    applied = apply_decisions(tmp_path / "whole.parquet", frame, unsure="ignore", ignore_label=None)
    assert applied.labels.tolist() == [None, 0]


@pytest.mark.parametrize("labels", [pd.Series(["a", "b"]), pd.Series(["a", "b"], dtype="category"), ("a", "b")])
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_labels_in_memory_may_be_columns(labels, tmp_path):
    decision = decided((1, "b", "accept", "a"))
    assert apply_decisions(labels, decision).labels.tolist() == ["a", "a"]
    apply_decisions(labels, decision, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == ["a", "a"]
    apply_decisions(labels, decision, tmp_path / "out.zarr")
    assert zarr.open_array(tmp_path / "out.zarr", mode="r")[:].tolist() == ["a", "a"]


def scattered(form, folder, labels):
    """Store labels in a form that is only read; return where they are."""
    if form == "npz":
        np.savez(folder / "run.npz", probs=np.zeros(3), labels=labels)
        return f"{folder}/run.npz::labels"
    if form == "url":
        import fsspec

        with fsspec.open("memory://apply/labels.npy", "wb") as file:
            np.save(file, labels)
        return "memory://apply/labels.npy"
    (folder / "parts").mkdir()
    for part, start in enumerate(range(0, len(labels), 9)):
        np.save(folder / "parts" / f"part-{part}.npy", labels[start : start + 9])
    pattern = f"{folder}/parts/part-*.npy"
    places = {"folder": folder / "parts", "pattern": pattern}
    return places.get(form) or [folder / "parts" / f"part-{part}.npy" for part in (0, 1, 2)]


@pytest.mark.every_value
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("form", ["npz", "url", "folder", "pattern", "list"])
@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_labels_that_are_only_read_are_written_as_the_user_chooses(form, ending, tmp_path, monkeypatch):
    monkeypatch.setattr(LabelFile, "block_rows", 7)
    rng = np.random.default_rng(1)
    classes = [0, 1, 2] if ending == "npy" else ["a", "bb", "c"]
    labels = np.array(classes)[rng.integers(0, 3, 27)]
    place = scattered(form, tmp_path, labels)
    rows = draw_decisions(labels, classes, rng, 15)
    output = tmp_path / f"out.{ending}"
    applied = apply_decisions(place, decided(*rows), output)
    wanted, _ = naive(labels.tolist(), rows)
    got = np.load(output) if ending == "npy" else zarr.open_array(output, mode="r")[:]
    assert got.tolist() == wanted == apply_decisions(place, decided(*rows)).labels.tolist()
    assert got.dtype == labels.dtype
    assert applied.n_rows == 27
    assert json.loads((tmp_path / f"out.{ending}.log.json").read_text())["counts"] == applied.counts
    with pytest.raises(InvalidInputError, match=r"must end in \.npy or \.zarr"):
        apply_decisions(place, decided(*rows), tmp_path / "out.csv")


def test_a_shard_is_never_replaced(tmp_path):
    place = scattered("folder", tmp_path, np.arange(27) % 3)
    shard = tmp_path / "parts" / "part-1.npy"
    before = shard.read_bytes()
    with pytest.raises(InvalidInputError, match="is a part of labels: it is not replaced"):
        apply_decisions(place, decided((1, 1, "accept", 0)), shard, overwrite=True)
    assert shard.read_bytes() == before
    assert apply_decisions(["n/a", "b"], decided((0, "n/a", "accept", "b"))).labels.tolist() == ["b", "b"]


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("form", ["npy", "zarr"])
def test_a_longer_name_widens_the_labels(form, tmp_path):
    where, read = store(form, tmp_path, np.array(["cat", "dog", "cat"] * 3))
    output = tmp_path / f"out.{form}"
    apply_decisions(**where, decisions=decided((1, "dog", "other", "horse")), output=output, class_names=["horse"])
    assert read(output).tolist() == ["cat", "horse", "cat", *["cat", "dog", "cat"] * 2]


@pytest.mark.every_value
@pytest.mark.parametrize("kind", [pa.int16(), pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_parquet_labels_of_any_type_may_be_missing(kind, compression, tmp_path):
    numbers = pa.types.is_integer(kind)
    labels, label = ([0, None, 3, 1], 2) if numbers else (["a", None, "c", "b"], "c")
    table = pa.table({"label": pa.array(labels, kind)})
    try:
        parquet.write_table(table, tmp_path / "labels.parquet", compression=compression)
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow does not write views")
    output = tmp_path / "out.parquet"
    apply_decisions(tmp_path / "labels.parquet", decided((0, labels[0], "other", label), (1, None, "keep", "")), output)
    found = parquet.read_table(output)
    assert found.schema == table.schema
    assert found["label"].to_pylist() == [label, *labels[1:]]
    codec = parquet.ParquetFile(output).metadata.row_group(0).column(0).compression
    assert codec == {"none": "UNCOMPRESSED", "snappy": "SNAPPY"}[compression]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels_in_memory_may_be_of_any_kind(missing, tmp_path):
    labels = pd.Series(["a", missing, "b", "a"], dtype=object)
    rows = decided((0, "a", "unsure", None), (1, None, "other", "b"), (3, "a", "other", "b"))
    applied = apply_decisions(labels, rows, tmp_path / "out.npy", unsure="ignore", ignore_label="none")
    assert np.load(tmp_path / "out.npy").tolist() == ["none", "b", "b", "b"]
    assert applied.changed.tolist() == [0, 1, 3]
    log = json.loads((tmp_path / "out.npy.log.json").read_text(), parse_constant=pytest.fail)
    assert [line["before"] for line in log["changes"]] == ["a", None, "a"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["a", None, "b"]),
        np.ma.masked_array(["a", "b", "b"], [False, True, False]),
        pa.array([0, None, 1]),
        np.ma.masked_array([0, 1, 1], [False, True, False]),
        np.array([0, None, 1], object),
    ],
)
def test_labels_of_arrow_and_masked_arrays_may_be_missing(labels):
    first, last = ("a", "b") if isinstance(labels[2], str) or str(labels[2]) == "b" else (0, 1)
    found = apply_decisions(labels, decided((0, first, "accept", last), (1, None, "unsure", None))).labels.tolist()
    assert found[::2] == [last, last]
    assert pd.isna(found[1])


@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_missing_labels_are_not_written_as_names(ending, tmp_path):
    with pytest.raises(InvalidInputError, match="1 label is missing, the first in row 1"):
        apply_decisions(["a", None], decided((0, "a", "keep", "")), tmp_path / f"out.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_a_zarr_group_is_never_replaced_and_nothing_is_written_within_labels(tmp_path):
    group = zarr.create_group(tmp_path / "all.zarr")
    group.create_array("labels", data=np.array([0, 1]))
    for output, why in (("all.zarr", "not a Zarr array"), ("all.zarr/labels/out.zarr", "is within the labels")):
        with pytest.raises(InvalidInputError, match=why):
            apply_decisions(
                tmp_path / "all.zarr" / "labels",
                decided((0, 0, "other", 1)),
                tmp_path / output,
                overwrite=True,
            )
    assert group["labels"][:].tolist() == [0, 1]


def test_a_column_that_cannot_be_missing_has_no_missing_label(tmp_path):
    schema = pa.schema([pa.field("label", pa.string(), nullable=False)])
    parquet.write_table(pa.table({"label": ["a", "b"]}, schema=schema), tmp_path / "labels.parquet")
    where = (tmp_path / "labels.parquet", decided((0, "a", "unsure", None)), tmp_path / "out.parquet")
    with pytest.raises(InvalidInputError, match="cannot be missing"):
        apply_decisions(*where, unsure="ignore", ignore_label=None)


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path):
    parquet.write_table(pa.table({"label": [0, 1]}), tmp_path / "labels.parquet")
    content = (tmp_path / "labels.parquet").read_bytes()
    (tmp_path / "labels.parquet").write_bytes(content[:4] + bytes(20) + content[24:])
    with pytest.raises(labelsieve.UnreadableDataError, match="not a readable Parquet file"):
        apply_decisions(tmp_path / "labels.parquet", decided((0, 0, "keep", "")), tmp_path / "out.parquet")


@pytest.mark.parametrize("text", ["1_0", "\N{FULLWIDTH DIGIT FIVE}"])
def test_numbers_are_not_read_as_python_reads_them(text):
    with pytest.raises(InvalidInputError, match="is not a number"):
        apply_decisions([0.0, 5.0, 10.0], decided((0, 0, "accept", text)))


def test_decisions_with_half_letters_have_a_log(tmp_path):
    half = "\ud800"
    columns = {"given_label": "a", "decision": "other", "label": half, "id": half, "reviewer": half, "time": half}
    rows = {"row": [0], **{name: [cell] for name, cell in columns.items()}}
    apply_decisions(["a", half], rows, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == [half, half]
    [change] = json.loads((tmp_path / "out.npy.log.json").read_text(encoding="utf-8"))["changes"]
    assert {change[name] for name in ("after", "reviewer", "time", "id")} == {"\\ud800"}


def test_ids_of_a_frame_with_missing_ones_are_whole_numbers():
    rows = decided((0, 0, "accept", 1), (1, 1, "keep", ""), id=[7, None], reviewer=[3, None])
    assert apply_decisions([0, 1], [rows, rows.assign(decision="keep", label=None, reviewer="3")]).labels[0] == 0
    assert apply_decisions([0, 1], rows, ids=[7, 8]).changed.tolist() == [0]
    with pytest.raises(InvalidInputError, match="has the id '7', ids has '6'"):
        apply_decisions([0, 1], rows, ids=[6, 8])


@pytest.mark.filterwarnings("ignore:The data type")  # of text in format 3
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_array_with_wider_names_keeps_what_is_beside_them(zarr_format, tmp_path):
    old = zarr.create_array(
        tmp_path / "labels.zarr",
        shape=(10,),
        chunks=(3,),
        dtype="U3",
        fill_value="cat",
        compressors=GzipCodec(level=3) if zarr_format == 3 else GZip(level=3),
        dimension_names=["row"] if zarr_format == 3 else None,
        attributes={"of": "a test"},
        zarr_format=zarr_format,
    )
    old[0] = "dog"
    rows = decided((1, "cat", "other", "giraffe"))
    apply_decisions(tmp_path / "labels.zarr", rows, tmp_path / "out.zarr", class_names=["cat", "dog", "giraffe"])
    new = zarr.open_array(tmp_path / "out.zarr", mode="r")
    assert new[:].tolist() == ["dog", "giraffe", *["cat"] * 8]
    for name in ("fill_value", "chunks", "compressors"):
        assert getattr(new, name) == getattr(old, name)
    assert getattr(new.metadata, "dimension_names", None) == getattr(old.metadata, "dimension_names", None)
    assert dict(new.attrs) == {"of": "a test"}


def test_what_is_beside_the_labels_is_kept(tmp_path):
    codes = pa.array(["a", None, "b", "a"]).dictionary_encode()
    table = pa.table({"x": [[1], [], None, [2, 3]], "label": codes}).replace_schema_metadata({"who": "me"})
    parquet.write_table(table, tmp_path / "labels.parquet", compression="zstd")
    rows = decided((0, "a", "accept", "b"), (1, None, "other", "a"), (3, "a", "unsure", None))
    apply_decisions(
        tmp_path / "labels.parquet",
        rows,
        tmp_path / "out.parquet",
        "ignore",
        ignore_label=None,
        column="label",
    )
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.schema.equals(parquet.read_table(tmp_path / "labels.parquet").schema, check_metadata=True)
    assert found["label"].chunk(0).dictionary.to_pylist() == ["a", "b"]
    assert found["label"].to_pylist() == ["b", "a", "b", None]
    assert found["x"].to_pylist() == table["x"].to_pylist()
    array = zarr.create_array(
        tmp_path / "labels.zarr", shape=(40,), chunks=(5,), shards=(10,), dtype="<i2", attributes={"of": "us"}
    )
    array[:] = np.arange(40) % 4
    apply_decisions(tmp_path / "labels.zarr", decided((31, 3, "other", 0)), tmp_path / "out.zarr")
    copy = zarr.open_array(tmp_path / "out.zarr", mode="r")
    assert copy.metadata == array.metadata
    assert np.flatnonzero(copy[:] != array[:]).tolist() == [31]
    untouched = "c/0"
    assert (tmp_path / "out.zarr" / untouched).read_bytes() == (tmp_path / "labels.zarr" / untouched).read_bytes()


def test_labels_are_corrected_in_their_place_only_if_told_and_earlier_logs_are_kept(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.array([0, 1, 0]))
    with pytest.raises(InvalidInputError, match="is the input: overwrite=True"):
        apply_decisions(path, decided((0, 0, "accept", 1)), path)
    apply_decisions(path, decided((0, 0, "accept", 1)), path, overwrite=True)
    apply_decisions(path, decided((2, 0, "accept", 1)), path, overwrite=True)
    assert np.load(path).tolist() == [1, 1, 1]
    log = json.loads((tmp_path / "labels.npy.log.json").read_text())
    assert [line["row"] for line in log["changes"]] == [2]
    assert [[line["row"] for line in earlier["changes"]] for earlier in log["earlier"]] == [[0]]


RULES = {"keep": [0, 1, 0, 1], "last": [2, 1, 0, 1]}


@pytest.mark.parametrize("rule", RULES)
def test_conflicts_are_settled_by_the_chosen_rule(rule):
    labels = [0, 1, 0, 1]
    ann = decided((0, 0, "accept", 1), (1, 1, "accept", 2), (3, 1, "keep", ""), reviewer="ann", time="2026-01-02")
    ben = decided((0, 0, "other", 2), (1, 1, "keep", ""), reviewer="ben", time="2026-01-03T10:00Z")
    eve = decided((0, 0, "accept", 2), reviewer="eve", time="2026-01-03T10:00Z")
    # The times count, whatever the order of the tables.
    applied = apply_decisions(labels, [eve, ben, ann], conflicts=rule, class_names=["a", "b", "c"])
    assert applied.labels.tolist() == RULES[rule]
    assert [one.row for one in applied.conflicts] == [0, 1]
    assert applied.conflicts[1].decisions == (("ben", "keep", 1), ("ann", "accept", 2))


def test_a_reviewer_has_one_place_in_time():
    twice = decided((0, 0, "accept", 1), (0, 0, "accept", 1), reviewer="ann", time=["2026-01-01", "2026-01-03"])
    once = decided((0, 0, "keep", None), reviewer="ben", time="2026-01-02")
    last = apply_decisions([0, 1], [twice, once], conflicts="last")
    assert (last.labels[0], last.counts["corrected"]) == (1, 0)
    [conflict] = last.conflicts
    assert conflict.decisions == (("ann", "accept", 1), ("ben", "keep", 0))
    # Without names, different times tell that one reviewer decided again.
    nobody = pd.concat([twice.assign(reviewer=""), once])
    [conflict] = apply_decisions([0, 1], nobody, conflicts="keep").conflicts
    assert conflict.decisions == (("", "accept", 1), ("ben", "keep", 0))


def naive_last(lines):
    """Return the (decision, label) that counts of one reviewer's lines about a row, or None for a conflict."""
    reviewer, times = lines[0][0], [line[1] for line in lines]
    if len({line[2:] for line in lines}) == 1:
        return lines[0][2:]
    if not reviewer and ("" in times or len(set(times)) < len(times)):
        return None
    best = 0
    for place in range(1, len(lines)):
        if "" in times or times[place] >= times[best]:
            best = place
    return lines[best][2:]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_last_decision_of_a_reviewer_counts(data):
    line = st.tuples(
        st.sampled_from(["", "ann"]), st.sampled_from(["", "2026-01-01", "2026-01-02", "2026-01-03T10:00Z"])
    )
    word = st.sampled_from([("accept", 0), ("accept", 2), ("keep", ""), ("unsure", "")])
    lines = [
        (who, when, *said) for (who, when), said in data.draw(st.lists(st.tuples(line, word), min_size=1, max_size=5))
    ]
    if len({who for who, *_ in lines}) > 1:
        lines = [("ann", *rest) for _, *rest in lines]
    frame = pd.DataFrame([(1, 1, word, label, who, when) for who, when, word, label in lines])
    frame.columns = ["row", "given_label", "decision", "label", "reviewer", "time"]
    wanted = naive_last(lines)
    applied = apply_decisions([0, 1, 2], frame, conflicts="keep", unsure="drop")
    assert len(applied.conflicts) == (wanted is None)
    decision, label = wanted or ("none", "")
    assert applied.labels.tolist() == [0, label if decision == "accept" else 1, 2]
    assert applied.dropped.tolist() == ([1] if decision == "unsure" else [])
    said = {line[2:] for line in lines}
    assert applied.counts["corrected"] == (len(lines) - 1 if len(said) > 1 and wanted else 0)


def test_reviewers_correct_themselves_but_not_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        (0, "", 0, "accept", 1, "ann", "2026-01-01T10:00:00Z"),
        (0, "", 0, "keep", "", "ann", "2026-01-01T12:00:00+02:00"),  # the same moment: the later line
        (1, "", 1, "unsure", "", "ann", "2026-01-01T10:00:00Z"),
        (1, "", 1, "accept", 0, "ann", "2026-01-01T09:00:00Z"),  # earlier, and in a later line
    ]
    np.save("labels.npy", np.array([0, 1]))
    write_csv(tmp_path / "ann.csv", lines)
    assert run(["apply", "labels.npy", "ann.csv", "-o", "out.npy", "--unsure", "drop"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "0 accept, 1 keep, 0 other, 1 unsure",
        "0 of 2 labels changed, 1 row to leave out",
        "2 decisions corrected by their reviewers",
    ]
    assert json.loads((tmp_path / "out.npy.log.json").read_text())["counts"]["corrected"] == 2
    write_csv(tmp_path / "ben.csv", [(0, "", 0, "keep", "", "ben", ""), (1, "", 1, "keep", "", "ben", "")])
    with pytest.raises(InvalidInputError, match=r"differ in 1 row: row 1 \(ann: unsure; ben: keep\)"):
        apply_decisions("labels.npy", ["ann.csv", "ben.csv"])


@pytest.mark.parametrize("kind", ["dict", "pandas", "polars", "arrow", "arrays"])
def test_tables_of_any_kind_are_read(kind):
    columns = {"row": [2, 0, 1], "given_label": ["a", "b", "a"], "decision": ["accept", "keep", "other"]}
    columns |= {"label": ["b", None, "b"], "reviewer": ["ann", None, "ben"], "note": ["x", "y", "z"]}
    makers = {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}
    makers["arrays"] = lambda columns: {name: np.array(column, object) for name, column in columns.items()}
    applied = apply_decisions(["b", "a", "a"], makers[kind](columns))
    assert applied.labels.tolist() == ["b", "b", "b"]
    assert applied.counts["corrected"] == 0


def test_a_column_of_a_dict_must_be_a_list():
    decisions = {"row": [2], "given_label": [0], "decision": ["keep"], "label": [None], "reviewer": "ann"}
    with pytest.raises(InvalidInputError, match="the column 'reviewer' of the frame must be a list with a value"):
        apply_decisions([0, 1, 0], decisions)
    with pytest.raises(InvalidInputError, match="the columns differ in length"):
        apply_decisions([0, 1, 0], decisions | {"reviewer": ["ann", "ben"]})


def test_more_names_than_the_codes_of_a_column_can_number_are_refused(tmp_path):
    names = [f"n{k}" for k in range(127)]
    codes = pa.array([k % 127 for k in range(200)], pa.int8())
    parquet.write_table(pa.table({"label": pa.DictionaryArray.from_arrays(codes, names)}), tmp_path / "labels.parquet")
    decisions = {"row": [0, 1], "given_label": ["n0", "n1"], "decision": ["other"] * 2, "label": ["new", "newer"]}
    choices = {"output": tmp_path / "out.parquet", "class_names": [*names, "new", "newer"]}
    with pytest.raises(InvalidInputError, match="codes of int8 cannot number 129 names"):
        apply_decisions(tmp_path / "labels.parquet", decisions, **choices)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]
    fewer = {name: column[:1] for name, column in decisions.items()}
    apply_decisions(tmp_path / "labels.parquet", fewer, **choices)
    assert parquet.read_table(tmp_path / "out.parquet")["label"].to_pylist()[:2] == ["new", "n1"]


def test_tables_without_names_are_of_another_reviewer_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array([0, 1]))
    accept, keep = (0, "", 0, "accept", 1, "", ""), (0, "", 0, "keep", "", "", "")
    other = (1, "", 1, "keep", "", "", "")
    for folder, lines in (("a", [accept, other]), ("b", [keep])):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "decisions.csv", lines)
    several = ["a/decisions.csv", "b/decisions.csv"]
    with pytest.raises(InvalidInputError, match=r"row 0 \(a/decisions\.csv: accept 1; b/decisions\.csv: keep\)"):
        apply_decisions("labels.npy", several)
    assert apply_decisions("labels.npy", several, conflicts="last").labels.tolist() == [0, 1]
    # Of two lines of one table nobody knows which one corrects the other, whether it is the only table or not.
    write_csv(tmp_path / "twice.csv", [accept, keep])
    for tables in (["twice.csv"], ["twice.csv", "a/decisions.csv"]):
        with pytest.raises(InvalidInputError, match="they differ in 1 row: row 0"):
            apply_decisions("labels.npy", tables)
        assert run(["apply", "labels.npy", *tables, "-o", "out.npy"]) == 2
        assert "they differ in 1 row: row 0" in capsys.readouterr().err
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("names", [None, ["zebra", "cat", "dog"]])
def test_suggestions_above_a_margin_are_accepted_without_a_look(names, tmp_path):
    codes, probs = draw(300, 3, seed=4)
    labels = codes if names is None else np.array(names)[codes]
    issues = labelsieve.find_label_issues(labels, probs, class_names=names, progress=False)
    table = issues.to_frame()
    looked_at = int(table.row[0])
    human = decided((looked_at, labels[looked_at], "keep", ""))
    np.save(tmp_path / "labels.npy", labels)
    apply_decisions(tmp_path / "labels.npy", human, tmp_path / "out.npy", issues=issues, auto="accept", margin=0.3)
    wanted = labels.copy()
    taken = table[(table.p_suggested - table.p_given >= 0.3) & (table.row != looked_at)]
    new = taken.suggested_label.to_numpy()
    wanted[taken.row] = new if names is None else np.array(names)[new]
    assert 0 < len(taken) < len(table)
    assert np.load(tmp_path / "out.npy").tolist() == wanted.tolist()
    log = json.loads((tmp_path / "out.npy.log.json").read_text())
    assert log["auto"] == {"decision": "accept", "margin": 0.3, "looked_at": False}
    assert {line["decision"] for line in log["changes"]} == {"auto"}
    assert log["counts"]["auto"] == log["counts"]["changed"] == len(taken)


def test_weights_are_scores_without_issues_and_clean_rows_the_others():
    labels, probs = draw(400, 4, seed=1)
    labels[[3, 50]] = -1
    issues = labelsieve.find_label_issues(labels, probs, ignore_label=-1, progress=False)
    weights, clean = issues.sample_weights(), issues.clean_rows()
    bad = set(issues.indices.tolist()) | {3, 50}
    assert issues.num_issues > 0
    assert weights.tolist() == [0.0 if row in bad else float(issues.scores[row]) for row in range(400)]
    assert clean.tolist() == [row for row in range(400) if row not in bad]
    assert (weights.dtype, clean.dtype) == (np.float64, np.int64)


def test_a_fingerprint_tells_results_and_labels_apart(tmp_path):
    labels, probs = draw(200, 3, seed=2)
    issues = labelsieve.find_label_issues(labels, probs, progress=False)
    issues.save(tmp_path / "result.zarr")
    assert labelsieve.load(tmp_path / "result.zarr").fingerprint == issues.fingerprint
    named = np.array(["b", "a", "c"])[labels]
    by_name = labelsieve.find_label_issues(named, probs, class_names=["b", "a", "c"], progress=False)
    assert by_name.fingerprint == issues.fingerprint
    row = int(issues.indices[0])
    about = decided((row, named[row], "keep", ""), result=issues.fingerprint)
    assert apply_decisions(named, about, issues=issues).counts["keep"] == 1
    others = labelsieve.find_label_issues(labels, probs, method="normalized_margin", progress=False)
    with pytest.raises(InvalidInputError, match=f"issues are {others.fingerprint}"):
        apply_decisions(named, about, issues=others)
    floats = np.where(labels == 2, np.nan, labels)
    some = decided((row, floats[row], "keep", ""), result=issues.fingerprint)
    assert apply_decisions(floats, some).counts["keep"] == 1
    changed = named.copy()
    changed[(row + 1) % 200] = "new"
    with pytest.raises(InvalidInputError, match="another dataset, or labels already changed"):
        apply_decisions(changed, about)
    with pytest.raises(InvalidInputError, match="is not the fingerprint of a result"):
        apply_decisions(named, about.assign(result=issues.fingerprint[:-1]))


GOOD = decided((1, 1, "accept", 0))
BAD_DECISIONS = {
    "an unknown row": (decided((9, 0, "accept", 1)), "no such row, labels has 4 rows"),
    "a negative row": (decided((-1, 0, "accept", 1)), "no such row"),
    "no row": (decided((1.5, 1, "accept", 0)), "1.5 is not a row"),
    "another given label": (decided((2, 1, "accept", 0)), "row 2 .*another dataset, or labels already changed"),
    "an unknown word": (decided((1, 1, "reject", 0)), r"row 1 \(.*\): 'reject' is not a decision"),
    "no resulting label": (decided((1, 1, "accept", "")), "accept needs the resulting label"),
    "a label that is kept and not": (decided((1, 1, "keep", 0)), "the decision is keep"),
    "a label above all": (decided((1, 1, "other", 7)), "the resulting label is 7, and labels has 0..1"),
    "a label below all": (decided((1, 1, "other", -1)), "the resulting label is -1"),
    "a name among numbers": (decided((1, 1, "other", "dog")), "'dog' is not a number"),
    "different decisions": (decided((1, 1, "accept", 0), (1, 1, "keep", "")), "differ in 1 row: row 1 .*conflicts="),
    "a missing column": (GOOD.drop(columns="label"), "has no column 'label'"),
    "no table": (42, "must be the path of a CSV file or an export"),
    "no tables": ([], "the list is empty"),
    "no file": ("missing.csv", "there is no file missing.csv"),
}


@pytest.mark.parametrize("case", BAD_DECISIONS)
def test_bad_decisions_are_refused_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decisions, why = BAD_DECISIONS[case]
    np.save("labels.npy", np.array([0, 1, 0, 1]))
    with pytest.raises((InvalidInputError, InputTypeError), match=why):
        apply_decisions("labels.npy", decisions, "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npy"]


@pytest.mark.parametrize("n_bytes", [1, 3, 9, 20, 23, 24, 25, 30])
def test_a_csv_file_that_is_cut_off_is_refused(n_bytes, tmp_path):
    rows = [
        (0, "", 0, "keep", "", "ann", "2026-11-26T07:30:00Z"),
        (1, "", 1, "accept", 0, "ann", "2026-11-26T07:31:00Z"),
    ]
    path = write_csv(tmp_path / "decisions.csv", rows)
    assert apply_decisions([0, 1], path).labels.tolist() == [0, 0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1 - n_bytes])
    with pytest.raises(InvalidInputError, match=r"cut off"):
        apply_decisions([0, 1], path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_csv_file_is_read_as_by_pythons_reader_whatever_its_blocks(data, tmp_path_factory):
    cell = st.sampled_from(["", "a", "x y", "two\nlines", 'quo"te', "a,b", "dög", "'=1"])
    n, ending = data.draw(st.integers(0, 12)), data.draw(st.sampled_from(["\n", "\r\n"]))
    rows = [(row, data.draw(cell), 0, "keep", "", data.draw(cell), "") for row in range(n)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending)
    for row in [HEADER, *rows]:
        writer.writerow(row)
        text.write(ending * (data.draw(st.integers(0, 8)) == 0))  # an empty line is none
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_BLOCK_CHARACTERS", data.draw(st.integers(1, 300)))
        patched.setattr(module, "_BLOCK_LINES", data.draw(st.integers(1, 5)))
        found = module.read_decisions(path)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        wanted = [(cells, reader.line_num) for cells in reader if cells][1:]
    assert len(found) == n
    for place, (cells, line) in enumerate(wanted):
        own, who = (cell.removeprefix("'") if cell == "'=1" else cell for cell in (cells[1], cells[5]))
        row, word, columns = found.rows[place], module.WORDS[found.words[place]], (found.label, found.reviewer)
        one = (str(row), found.id[place], found.given[place], word, *(column[place] for column in columns))
        assert one == (cells[0], own, *cells[2:5], who)
        assert found.lines[place] == line


BAD_FILES = {
    "nothing": (b"", "is empty"),
    "a line feed": (b"\n", "has no column 'row'"),
    "UTF-16": ("row,id\n".encode("utf-16"), "is not text in UTF-8, but in UTF-16: save it as UTF-8"),
    "Latin-1": ("row,id,given_label,decision,label\n0,é,0,keep,\n".encode("latin-1"), "is not text in UTF-8: .*0xe9"),
    "semicolons": (b"\xef\xbb\xbfrow;given_label;decision;label\r\n0;0;keep;\r\n", "semicolons .* save it with commas"),
    "tabs": (b"row\tgiven_label\tdecision\tlabel\r\n", "tabs .* save it with commas"),
    "an open quotation mark": (b'row,given_label,decision,label\n0,0,keep,"\n', "is it cut off"),
    "too many cells": (b"row,given_label,decision,label\n0,0,keep,,\n", "line 2 .* has 5 cells, the header has 4"),
    "a column twice": (b"row,row,given_label,decision,label\n0,0,0,keep,\n", "has 2 columns called 'row'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_decisions_are_refused(case, tmp_path):
    text, why = BAD_FILES[case]
    (tmp_path / "decisions.csv").write_bytes(text)
    with pytest.raises(InvalidInputError, match=why):
        apply_decisions([0, 1], tmp_path / "decisions.csv")


def test_a_pipe_is_refused(tmp_path):
    ends = os.pipe()
    try:
        os.mkfifo(tmp_path / "named.csv")
        for path in (f"/dev/fd/{ends[0]}", tmp_path / "named.csv"):
            with pytest.raises(InvalidInputError, match="is a pipe, which is read only once: write it to a file first"):
                apply_decisions([0, 1], path)
    finally:
        for end in ends:
            os.close(end)


def test_a_table_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "decisions.csv"
    lines = ["row,id,given_label,decision,label,reviewer,time", "0.0,,FALSE,accept,TRUE,Ann,26/11/2026 08:30"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", ""]).encode())
    assert apply_decisions([False, True, False], path).labels.tolist() == [True, True, False]
    path.write_bytes(path.read_bytes().replace(b"FALSE", b"0.0").replace(b"TRUE", b"1.0"))
    assert apply_decisions(np.array([0, 1, 0]), path).labels.tolist() == [1, 1, 0]


BAD_CALLS = {
    "an ending of another form": ({"output": "out.csv"}, "must end in .npy"),
    "an output that is there": ({"output": "there.npy"}, "there.npy exists: overwrite=True"),
    "the input": ({"output": "labels.npy"}, "is the input: overwrite=True"),
    "a log that is there": ({"output": "logged.npy"}, "logged.npy.log.json exists"),
    "a missing folder": ({"output": "none/out.npy"}, "there is no folder"),
    "a folder": ({"output": "folder.npy", "overwrite": True}, "is a folder"),
    "a URL": ({"output": "s3://bucket/out.npy"}, "is a URL"),
    "labels that are missing": ({"labels": "none.npy"}, "there is no file"),
    "labels of another kind": (
        {"labels": "there.txt"},
        "must be a Zarr array or end in one of .npy, .zarr, .parquet, .pq, .csv",
    ),
    "a table at a URL": ({"labels": "https://host/labels.csv"}, "is a URL: a table is corrected in a local file"),
    "a column of none": ({"column": "label"}, "has no columns"),
    "labels of several kinds": ({"labels": np.array([0, "a", 1, 1], object)}, "objects of int, str, not all names"),
    "labels of two axes": ({"labels": np.zeros((4, 2), int)}, r"must have one axis \(N,\), not shape"),
    "no decisions": ({"decisions": None}, "decisions are missing"),
    "an unknown policy": ({"unsure": "guess"}, "unsure"),
    "an unknown rule": ({"conflicts": "vote"}, "conflicts"),
    "no ignored label": ({"unsure": "ignore"}, "belong together"),
    "an ignored label too many": ({"ignore_label": -1}, "belong together"),
    "an ignored label that does not fit": ({"unsure": "ignore", "ignore_label": 1 << 70}, "does not fit"),
    "a missing ignored label": ({"unsure": "ignore", "ignore_label": None}, "cannot be missing"),
    "auto without issues": ({"auto": "accept", "margin": 0.5}, "needs issues"),
    "a margin alone": ({"margin": 0.5}, "margin is for auto"),
    "issues that are none": ({"issues": [1]}, "must be a LabelIssues"),
    "a label that is no class": (
        {"class_names": ["a"], "decisions": decided((1, 1, "other", 1))},
        "not one of the 1 cl",
    ),
    "a name that is no class": (
        {"labels": ["a", "b"], "class_names": ["a", "b"], "decisions": decided((1, "b", "other", "dgo"))},
        "'dgo' is not one of the 2 classes",
    ),
    "a name in no row": (
        {"labels": ["a", "b"], "decisions": decided((1, "b", "other", "dgo"))},
        "'dgo', and no row of labels has it",
    ),
    "names of classes that are none": ({"class_names": "ab"}, "must be a sequence of strings"),
    "other ids": ({"ids": ["a", "b", "c", "d"], "decisions": GOOD.assign(id="x")}, "has the id 'x', ids has 'b'"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_calls_that_cannot_be_right_are_refused_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array([0, 1, 0, 1]))
    for name in ("there.npy", "there.txt", "logged.npy.log.json"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "folder.npy").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    choices, why = BAD_CALLS[case]
    with pytest.raises((InvalidInputError, InputTypeError), match=why):
        apply_decisions(**{"labels": "labels.npy", "decisions": GOOD, "output": "out.npy"} | choices)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_issues_of_another_dataset_are_refused():
    labels, probs = draw(100, 3, seed=5)
    issues = labelsieve.find_label_issues(labels, probs, progress=False)
    with pytest.raises(InvalidInputError, match="issues have 100 rows, labels 99"):
        apply_decisions(labels[:-1], issues=issues, auto="accept", margin=0.0)
    with pytest.raises(InvalidInputError, match=r"given labels? differs? from labels"):
        apply_decisions((labels + 1) % 3, issues=issues, auto="accept", margin=0.0)
    with pytest.raises(InvalidInputError, match="margin must be a number from 0 to 1"):
        apply_decisions(labels, issues=issues, auto="accept", margin=1.5)


def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    path, output = tmp_path / "labels.npy", tmp_path / "out.npy"
    np.save(path, np.array([0, 1, 0]))
    np.save(output, np.array([7]))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SourceLabels, "corrected_blocks", fail)
    with pytest.raises(labelsieve.UnwritableError, match=r"out\.npy cannot be written: No space left"):
        apply_decisions(path, decided((0, 0, "accept", 1)), output, overwrite=True)
    assert np.load(output).tolist() == [7]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["labels.npy", "out.npy"]


def test_the_command_applies_decisions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array(["cat", "dog", "cat"]))
    write_csv(
        tmp_path / "ann.csv", [(0, "", "cat", "accept", "dog", "ann", ""), (1, "", "dog", "unsure", "", "ann", "")]
    )
    write_csv(tmp_path / "ben.csv", [(0, "", "cat", "keep", "", "ben", ""), (1, "", "dog", "unsure", "", "ben", "")])
    command = ["apply", "labels.npy", "ann.csv", "ben.csv", "-o", "out.npy", "--unsure", "drop"]
    assert run(command) == 2
    assert "decisions: they differ in 1 row: row 0 (ann: accept 'dog'; ben: keep)" in capsys.readouterr().err
    assert run([*command, "--conflicts", "last"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 accept, 1 keep, 0 other, 1 unsure",
        "0 of 3 labels changed, 1 row to leave out",
        "decisions differ in 1 row",
        f"written to {tmp_path}/out.npy, the log to {tmp_path}/out.npy.log.json",
    ]
    assert np.load("out.npy").tolist() == ["cat", "dog", "cat"]
    assert run(["apply", "labels.npy", "ben.csv", "ann.csv", *command[4:], "--conflicts", "last", "--overwrite"]) == 0
    assert np.load("out.npy").tolist() == ["dog", "dog", "cat"]
    capsys.readouterr()
    assert run([*command, "--conflicts", "keep", "--overwrite", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["counts"]["conflicts"] == 1


def test_the_command_accepts_suggestions_without_a_look(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels, probs = draw(200, 3, seed=6)
    np.save("labels.npy", labels)
    issues = labelsieve.find_label_issues(labels, probs, progress=False)
    issues.save("result.zarr")
    command = ["apply", "labels.npy", "-o", "out.npy", "--issues", "result.zarr", "--auto", "accept", "--margin", "0"]
    assert run(command) == 0
    assert f"{issues.num_issues} accepted without review" in capsys.readouterr().out
    wanted = labels.copy()
    wanted[issues.indices] = issues.issues.suggested_labels
    assert np.load("out.npy").tolist() == wanted.tolist()
    assert run(["apply", "labels.npy", "-o", "other.npy"]) == 2
    assert "decisions are missing" in capsys.readouterr().err


def test_text_of_any_length_and_no_labels_at_all(tmp_path):
    labels = np.array(["cat", "a much longer name"], np.dtypes.StringDType())
    decided = {"row": [0], "given_label": ["cat"], "decision": ["other"], "label": ["a much longer name"]}
    apply_decisions(labels, decided, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tolist() == ["a much longer name"] * 2
    zarr.create_array(tmp_path / "labels.zarr", data=np.empty(0, np.uint8))
    nothing = {"row": [], "given_label": [], "decision": [], "label": []}
    applied = apply_decisions(tmp_path / "labels.zarr", nothing)
    assert (applied.labels.tolist(), applied.labels.dtype, applied.n_rows) == ([], np.uint8, 0)
