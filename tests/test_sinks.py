"""Results on disk, read back by other readers."""

import csv
import pathlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

import labelsieve
from labelsieve import sinks


@pytest.fixture
def issues():
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 900)
    probs = (rng.dirichlet([1] * 4, 900) * 0.5 + np.eye(4)[true] * 0.5).astype(np.float32)
    labels = np.where(rng.random(900) < 0.2, rng.integers(0, 4, 900), true)
    return labelsieve.find_label_issues(labels, probs)


def test_npy_holds_the_indices(issues, tmp_path):
    sinks.write(issues, tmp_path / "i.npy")
    read = np.load(tmp_path / "i.npy")
    assert read.dtype == np.int64
    assert read.tolist() == issues.indices.tolist()


def test_csv_reads_back_to_the_same_bits(issues, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "_CSV_ROWS", 50)
    sinks.write(issues, tmp_path / "i.csv", ["a", 'b "quoted"', "c, with comma", "d"])
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
    sinks.write(issues, tmp_path / "i.parquet")
    frame = pd.read_parquet(tmp_path / "i.parquet")
    assert list(frame.columns) == ["row", "score", "given_label", "suggested_label", "p_given", "p_suggested"]
    for name, column in issues.issues.columns().items():
        assert frame[name].to_numpy().tobytes() == column.tobytes()
    assert pq.read_metadata(tmp_path / "i.parquet").num_rows == issues.num_issues


def test_zarr_holds_all_rows(issues, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "_ZARR_ROWS", 128)
    sinks.write(issues, tmp_path / "i.zarr")
    group = zarr.open_group(tmp_path / "i.zarr", mode="r")
    assert group["scores"][:].tobytes() == issues.scores.tobytes()
    assert group["mask"][:].tolist() == issues.mask().tolist()
    assert group["issues"][:].tolist() == issues.indices.tolist()
    assert group["confident_thresholds"][:].tobytes() == issues.confident_thresholds.tobytes()
    assert group["class_counts"][:].tolist() == issues.class_counts.tolist()
    assert group["scores"].chunks == (128,)


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet", "zarr"])
def test_no_issues_at_all_are_written_too(tmp_path, ending):
    none = labelsieve.find_label_issues([0, 1], np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert none.num_issues == 0
    sinks.write(none, tmp_path / f"i.{ending}")
    assert (tmp_path / f"i.{ending}").exists()


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet", "zarr"])
def test_an_earlier_result_is_replaced_whole(issues, tmp_path, ending):
    path = tmp_path / f"i.{ending}"
    sinks.write(issues, path)
    sinks.write(issues, path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet", "zarr"])
def test_a_failure_leaves_the_earlier_result_and_no_other_file(issues, tmp_path, monkeypatch, ending):
    path = tmp_path / f"i.{ending}"
    sinks.write(issues, path)
    before = [entry.stat().st_mtime_ns for entry in (path, *path.rglob("*"))]

    def full(_issues, temporary, _names):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setitem(sinks._WRITERS, f".{ending}", full)
    with pytest.raises(OSError, match="disk full"):
        sinks.write(issues, path)
    assert list(tmp_path.iterdir()) == [path]
    assert [entry.stat().st_mtime_ns for entry in (path, *path.rglob("*"))] == before


def test_what_is_no_result_is_not_replaced(issues, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "photo").write_text("precious")
    with pytest.raises(labelsieve.InvalidInputError, match="no result of Labelsieve"):
        sinks.write(issues, tmp_path / "mine.zarr")
    assert (tmp_path / "mine.zarr" / "photo").read_text() == "precious"
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(labelsieve.InvalidInputError, match="is a folder"):
        sinks.write(issues, tmp_path / "folder.npy")


@pytest.mark.parametrize("ending", ["npy", "zarr"])
def test_an_interrupt_at_the_last_moment_keeps_the_earlier_result(issues, tmp_path, monkeypatch, ending):
    path = tmp_path / f"i.{ending}"
    sinks.write(issues, path)
    before = sorted((str(entry), entry.stat().st_mtime_ns) for entry in tmp_path.rglob("*"))

    replace = pathlib.Path.replace

    def interrupted(self, target):
        if target == path:  # Zarr moves its own files too, in threads of its own
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sinks.write(issues, path)
    assert sorted((str(entry), entry.stat().st_mtime_ns) for entry in tmp_path.rglob("*")) == before
