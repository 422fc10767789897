"""Results on disk, read back by other readers."""

import contextlib
import csv
import pathlib
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

import draws
import labelsieve
from labelsieve.results import store as export
from labelsieve.results import store as zarr_store
from labelsieve.results.store import ResultGroup, StoredIssues, check_output, is_result, staged
from labelsieve.storage.folder import LocalFolder, open_folder

FORMS = ["npy", "csv", "parquet", "zarr"]
COLUMNS = ["score", "given_label", "suggested_label", "p_given", "p_suggested"]


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 900)
    probs = (rng.dirichlet([1] * 4, 900) * 0.5 + np.eye(4)[true] * 0.5).astype(np.float32)
    labels = np.where(rng.random(900) < 0.2, rng.integers(0, 4, 900), true)
    return labels, probs


@pytest.fixture
def issues(data):
    return labelsieve.find_label_issues(*data)


def publish(data, path):
    """Write a result of `data` as a user would: a table once it is found, a Zarr group by the run."""
    if path.suffix == ".zarr":
        labelsieve.find_label_issues(*data, output=path)
    else:
        export.write(labelsieve.find_label_issues(*data), path)


def snapshot(folder):
    """Return all that is in a folder, with the time of each file."""
    return sorted((str(entry), entry.stat().st_mtime_ns) for entry in folder.rglob("*"))


def test_npy_holds_the_indices(issues, tmp_path):
    export.write(issues, tmp_path / "i.npy")
    read = np.load(tmp_path / "i.npy")
    assert read.dtype == np.int64
    assert read.tolist() == issues.indices.tolist()


def test_csv_reads_back_to_the_same_bits(issues, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_CSV_ROWS", 50)
    export.write(replace(issues, class_names=("a", 'b "quoted"', "c, with comma", "d")), tmp_path / "i.csv")
    with (tmp_path / "i.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = issues.issues
    assert [int(row["row"]) for row in rows] == table.rows.tolist()
    assert np.array([row["score"] for row in rows], np.float32).tobytes() == table.scores.tobytes()
    assert np.array([row["p_suggested"] for row in rows], np.float32).tobytes() == table.p_suggested.tobytes()
    assert [int(row["suggested_label"]) for row in rows] == table.suggested_labels.tolist()
    names = np.array(["a", 'b "quoted"', "c, with comma", "d"])
    assert [row["given_name"] for row in rows] == names[table.given_labels].tolist()


def test_parquet_reads_back_in_pandas_and_pyarrow(issues, tmp_path):
    export.write(issues, tmp_path / "i.parquet")
    frame = pd.read_parquet(tmp_path / "i.parquet")
    assert list(frame.columns) == ["row", "score", "given_label", "suggested_label", "p_given", "p_suggested"]
    for name, column in issues.issues.columns().items():
        assert frame[name].to_numpy().tobytes() == column.tobytes()
    assert pq.read_metadata(tmp_path / "i.parquet").num_rows == issues.num_issues


def test_zarr_holds_all_rows(data, issues, tmp_path, monkeypatch):
    monkeypatch.setattr("labelsieve.results.store.RESULT_ROWS", 128)
    monkeypatch.setattr("labelsieve.results.store.RUN_ROWS", 32)
    found = labelsieve.find_label_issues(*data, output=tmp_path / "i.zarr", batch_size=50, partition_batches=3)
    group = zarr.open_group(tmp_path / "i.zarr", mode="r")
    assert group["scores"][:].tobytes() == issues.scores.tobytes()
    assert group["mask"][:].tolist() == issues.mask().tolist()
    assert group["issues"][:].tolist() == issues.indices.tolist()
    for name in COLUMNS:
        column = group[f"issue_table/{name}"][:]
        assert column.dtype == issues.issues.columns()[name].dtype
        assert column.tobytes() == issues.issues.columns()[name].tobytes()
    assert group["confident_thresholds"][:].tobytes() == issues.confident_thresholds.tobytes()
    assert group["class_counts"][:].tolist() == issues.class_counts.tolist()
    assert group["scores"].chunks == group["mask"].chunks == (128,)
    assert group["issues"].chunks == (32,)
    attributes = dict(group.attrs)
    assert attributes.pop("facts")["rows_read"] == 900
    assert set(attributes.pop("arrays")) == {name for name, _ in group.arrays()} | {f"issue_table/{c}" for c in COLUMNS}
    assert attributes.pop("checksum")["of"] == sorted([*attributes, "arrays", "facts"])
    assert attributes.pop("settings") == {
        "method": "self_confidence",
        "adjust_pred_probs": False,
        "estimation_method": "off_diagonal",
        "rule": "predicted_class",
        "filter_by": None,
        "frac_noise": 1.0,
        "num_to_remove_per_class": None,
        "min_examples_per_class": 1,
    }
    assert attributes == {
        "kind": "labelsieve result",
        "format": 3,
        "n_rows": 900,
        "n_classes": 4,
        "class_names": None,
        "num_issues": issues.num_issues,
        "estimated_num_issues": issues.estimated_num_issues,
    }
    # What the run hands back reads from there, and says the same.
    assert draws.bits(found) == draws.bits(issues)
    assert found.lazy_scores.compute().tobytes() == issues.scores.tobytes()


def test_a_table_of_issues_that_tasks_wrote_is_the_same(data, issues, tmp_path, monkeypatch):
    # They come in parts.
    monkeypatch.setattr("labelsieve.results.result.TABLE_ROWS", 7)
    names = ("w", "x", "y", "z")
    issues = replace(issues, class_names=names)
    stored = labelsieve.find_label_issues(*data, output=tmp_path / "o.zarr", class_names=names)
    assert isinstance(stored.found, StoredIssues)
    for form in ("npy", "csv", "parquet"):
        export.write(issues, tmp_path / f"a.{form}")
        export.write(stored, tmp_path / f"b.{form}")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "b.parquet"))


@pytest.mark.parametrize("ending", FORMS)
def test_no_issues_at_all_are_written_too(tmp_path, ending):
    publish(([0, 1], np.array([[0.9, 0.1], [0.1, 0.9]])), tmp_path / f"i.{ending}")
    read = {
        "npy": np.load,
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "zarr": lambda path: zarr.open_group(path, mode="r")["issues"][:],
    }[ending]
    assert len(read(tmp_path / f"i.{ending}")) == 0


@pytest.mark.parametrize("ending", FORMS)
def test_an_earlier_result_is_replaced_whole(data, tmp_path, ending):
    path = tmp_path / f"i.{ending}"
    publish(data, path)
    before = snapshot(tmp_path)
    publish((data[0][:500], data[1][:500]), path)
    assert list(tmp_path.iterdir()) == [path]
    assert not {entry for entry in before if not Path(entry[0]).is_dir()} & set(snapshot(tmp_path))


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet"])
def test_a_failure_leaves_the_earlier_result_and_no_other_file(issues, tmp_path, monkeypatch, ending):
    path = tmp_path / f"i.{ending}"
    export.write(issues, path)
    before = snapshot(tmp_path)

    def full(_result, temporary, *_args, **_choices):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setitem(export.WRITERS, f".{ending}", full)
    with pytest.raises(OSError, match="disk full"):
        export.write(issues, path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("array", ["scores", "mask", "issues", "issue_table/p_given", "class_counts"])
def test_a_disk_that_is_full_leaves_the_earlier_result_and_no_other_file(data, tmp_path, monkeypatch, array):
    path = tmp_path / "i.zarr"
    publish(data, path)
    before = snapshot(tmp_path)
    opened = zarr_store.open_for_writing

    class Full:
        def __setitem__(self, rows, values):
            raise OSError(28, "No space left on device")

    def full(folder, name):
        return Full() if name == array else opened(folder, name)

    monkeypatch.setattr(zarr_store, "open_for_writing", full)
    with pytest.raises(labelsieve.UnwritableError, match=r"cannot be written: .*No space left"):
        publish(data, path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("cause", ["bad data", "too little memory"])
def test_what_is_refused_leaves_the_earlier_result_and_no_other_file(data, tmp_path, cause):
    path = tmp_path / "i.zarr"
    publish(data, path)
    before = snapshot(tmp_path)
    labels, probs = data
    if cause == "bad data":
        probs = probs.copy()
        probs[7] = np.nan
        with pytest.raises(labelsieve.InvalidInputError, match="NaN"):
            labelsieve.find_label_issues(labels, probs, output=path)
    else:
        with pytest.raises(labelsieve.MemoryLimitError):
            labelsieve.find_label_issues(labels, probs, output=path, max_memory=1000)
    assert snapshot(tmp_path) == before


def test_what_a_killed_run_left_beside_the_result_is_swept_away(data, tmp_path):
    left = tmp_path / ".i.zarr.partial"
    (left / "work" / "summaries").mkdir(parents=True)
    (left / "work" / "summaries" / "0000000.rec").write_bytes(b"half")
    publish(data, tmp_path / "i.zarr")
    assert list(tmp_path.iterdir()) == [tmp_path / "i.zarr"]


def test_a_stage_is_in_place_only_once_its_block_has_ended(tmp_path):
    path = tmp_path / "i.zarr"
    with staged(path) as stage:
        stage.work.write("anything", b"")
        stage.group.create("scores", (3,), np.float32, 2)
        stage.group.writer("scores")(0, np.float32([1, 2, 3]))
        stage.group.publish({"class_counts": np.array([1, 2])}, {"n_rows": 3})
        assert not path.exists()
        assert not is_result(LocalFolder(path))
    assert is_result(LocalFolder(path))
    assert list(tmp_path.iterdir()) == [path]
    assert zarr.open_array(path / "scores", mode="r")[:].tolist() == [1, 2, 3]


def test_two_runs_that_write_the_same_result_do_not_write_into_each_other(tmp_path):
    path = tmp_path / "i.zarr"
    with staged(path) as first:
        first.group.create("scores", (3,), np.float32, 3)
        first.group.writer("scores")(0, np.float32([1, 2, 3]))
        with contextlib.suppress(labelsieve.LabelsieveError), staged(path) as second:
            second.group.create("scores", (3,), np.float32, 3)
            second.group.writer("scores")(0, np.float32([4, 5, 6]))
            assert first.group.folder != second.group.folder
        assert first.group.open("scores").read_all().tolist() == [1, 2, 3]
        first.group.publish({}, {})
    assert zarr.open_array(path / "scores", mode="r")[:].tolist() == [1, 2, 3]


@pytest.fixture
def bucket():
    """A folder in memory, empty before and after."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_a_result_goes_to_a_url_and_replaces_an_earlier_one(data, issues, bucket):
    url = "memory://results/i.zarr"
    for _ in range(2):
        found = labelsieve.find_label_issues(*data, output=url)
        assert draws.bits(found) == draws.bits(issues)
        assert {name.split("/")[2] for name in bucket.find("/results")} == {"i.zarr"}
    assert is_result(open_folder(url))
    labels, probs = data
    labelsieve.find_label_issues(labels[:500], probs[:500], output=url)
    assert zarr.open_array(url, path="scores", mode="r").shape == (500,)


def test_no_folder_is_left_beside_a_result_at_a_url(data, bucket):
    labelsieve.find_label_issues(*data, output="memory://results/i.zarr")
    assert bucket.ls("/results", detail=False) == ["/results/i.zarr"]


def test_a_failure_at_a_url_leaves_nothing_that_reads_as_a_result(data, bucket, monkeypatch):
    url = "memory://results/i.zarr"
    labelsieve.find_label_issues(*data, output=url)

    def fail(*_):
        assert {"scores", "mask", "issues"} <= set(open_folder(url).names()), "all but the root metadata is there"
        raise OSError("the store is gone")

    with monkeypatch.context() as patch:
        patch.setattr(ResultGroup, "publish", fail)
        with pytest.raises(OSError, match="the store is gone"):
            labelsieve.find_label_issues(*data, output=url)
    assert not is_result(open_folder(url))
    assert not bucket.find("/results/i.zarr.partial")
    with pytest.raises(FileNotFoundError):
        zarr.open_group(url, mode="r")
    labelsieve.find_label_issues(*data, output=url)  # what was left is written over
    assert is_result(open_folder(url))


def test_what_is_no_result_is_not_replaced_at_a_url_either(data, bucket):
    bucket.pipe_file("/results/i.zarr/photo", b"precious")
    with pytest.raises(labelsieve.InvalidInputError, match=r"i\.zarr exists and is not a result of Labelsieve"):
        labelsieve.find_label_issues(*data, output="memory://results/i.zarr")
    assert bucket.cat_file("/results/i.zarr/photo") == b"precious"


def test_a_group_of_others_with_scores_is_not_replaced_at_a_url(data, bucket):
    url = "memory://results/i.zarr"
    zarr.create_group(url, attributes={"made by": "another program"})
    zarr.create_array(url, name="scores", data=np.arange(5))
    before = {name: bucket.cat_file(name) for name in bucket.find("/results")}
    with pytest.raises(labelsieve.InvalidInputError, match="not a result of Labelsieve"):
        labelsieve.find_label_issues(*data, output=url)
    assert {name: bucket.cat_file(name) for name in bucket.find("/results")} == before


def test_the_url_of_a_local_file_is_its_path(issues, tmp_path):
    export.write(issues, f"file://{tmp_path}/i.csv")
    assert len(pd.read_csv(tmp_path / "i.csv")) == issues.num_issues
    for output, source in (("i.csv", f"file://{tmp_path}/i.csv"), (f"file://{tmp_path}/i.csv", "i.csv")):
        with contextlib.chdir(tmp_path), pytest.raises(labelsieve.InvalidInputError, match=r"i\.csv is an input"):
            check_output(output, [source])


@pytest.mark.parametrize("place", ["i.zarr", "memory://results/i.zarr"])
def test_one_function_writes_every_form(issues, tmp_path, monkeypatch, bucket, place):
    monkeypatch.chdir(tmp_path)
    export.write(issues, place)
    assert draws.bits(labelsieve.load(place)) == draws.bits(issues)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("i.npy", "must be a path or URL that ends in .zarr"),
        (7, "must be a path or URL that ends in .zarr, not 7"),
        ("no/i.zarr", "there is no folder"),
        ("s3://bucket/i.csv", "must be a path or URL that ends in .zarr"),
        ("mine.zarr", "not a result of Labelsieve"),
        ("input.zarr", "input.zarr is an input or lies in one"),
        ("input.zarr/i.zarr", "is an input or lies in one"),
    ],
)
def test_a_bad_output_is_refused_before_anything_is_read(data, tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "photo").write_text("precious")
    zarr.create_array("input.zarr", data=data[1])
    monkeypatch.setattr("labelsieve.job.job.open_pair", lambda *_: pytest.fail("opened"))
    with pytest.raises(labelsieve.InvalidInputError, match=message):
        labelsieve.find_label_issues(data[0], "input.zarr", output=output)
    assert (tmp_path / "mine.zarr" / "photo").read_text() == "precious"


def test_what_is_no_result_is_not_replaced(issues, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "photo").write_text("precious")
    with pytest.raises(labelsieve.InvalidInputError, match="not a result of Labelsieve"):
        export.write(issues, tmp_path / "mine.zarr")
    assert (tmp_path / "mine.zarr" / "photo").read_text() == "precious"
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(labelsieve.InvalidInputError, match="is a folder"):
        export.write(issues, tmp_path / "folder.npy")


@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_an_interrupt_at_the_last_moment_keeps_the_earlier_result(data, tmp_path, monkeypatch, ending):
    path = tmp_path / f"i.{ending}"
    publish(data, path)
    before = snapshot(tmp_path)
    replace = pathlib.Path.replace

    def interrupted(self, target):
        if target == path:  # Zarr moves its own files too, in threads of its own
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(data, path)
    assert snapshot(tmp_path) == before
