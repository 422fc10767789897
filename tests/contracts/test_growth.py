"""Data that grows: with a workdir only what is new is read, and the result is that of a fresh run, bit for bit."""

import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import draws
import labelsieve
from labelsieve import WorkdirError, multilabel_classification, segmentation
from labelsieve.cli.text import plan_text
from labelsieve.job import scan
from labelsieve.job import scan as rescan
from labelsieve.job import workdir as spot_check
from labelsieve.sources import npy
from labelsieve.sources.source import natural_key
from workdirs import record_files

K = 5
CUT = {"batch_size": 20, "partition_batches": 2}  # partitions of at most 40 rows
MARGIN = {"method": "normalized_margin", "adjust_pred_probs": True}  # two reads
SETTINGS = [
    {},
    {"method": "confidence_weighted_entropy"},
    {"method": "self_confidence", "adjust_pred_probs": True, "estimation_method": "off_diagonal_calibrated"},
    MARGIN,
    {"filter_by": "prune_by_class"},
    {"filter_by": "confident_learning", "rank_by": "normalized_margin"},
    {"filter_by": "both"},  # three reads
]


def find(labels, probs, **choices):
    return labelsieve.find_label_issues(labels, probs, progress=False, **(CUT | choices))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def same_as_fresh(found, labels, probs, **choices):
    """Compare a result with that of a run that starts from nothing, with all it says of the data."""
    fresh = find(labels, probs, **{name: value for name, value in choices.items() if name not in ("workdir", "client")})
    assert draws.bits(found) == draws.bits(fresh)
    assert (found.facts.notes, found.facts.misfit) == (fresh.facts.notes, fresh.facts.misfit)
    return fresh


class Data:
    """Shards of labels and probabilities in a folder, all labels in one file too, and the workdir of nightly runs."""

    def __init__(self, root, kind="npy"):
        self.root, self.kind, self.shards = root, kind, {}
        (root / "probs").mkdir()
        (root / "labels").mkdir()
        self.workdir = root / "work"

    def put(self, name, n_rows=100, seed=None):
        """Write a shard, and its labels."""
        self.shards[name] = draws.draw(n_rows, K, seed=len(self.shards) if seed is None else seed, noise=0.3)
        self._write(name, *self.shards[name])

    def _write(self, name, labels, probs):
        np.save(self.root / "labels" / f"{name}.npy", labels)
        if self.kind == "npy":
            np.save(self.root / "probs" / f"{name}.npy", probs)
        else:
            array = zarr.create_array(
                self.root / "probs" / f"{name}.zarr", shape=probs.shape, chunks=(30, K), dtype="f8", overwrite=True
            )
            array[:] = probs

    def relabel(self, name, rows):
        """Change the labels of some rows of a shard."""
        labels, probs = self.shards[name]
        labels = labels.copy()
        labels[rows] = (labels[rows] + 1) % K
        self.shards[name] = labels, probs
        np.save(self.root / "labels" / f"{name}.npy", labels)

    def remove(self, name):
        del self.shards[name]
        (self.root / "labels" / f"{name}.npy").unlink()
        path = self.root / "probs" / f"{name}.{self.kind}"
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def names(self):
        return sorted(self.shards, key=natural_key)

    @property
    def n_rows(self):
        return sum(len(labels) for labels, _ in self.shards.values())

    def inputs(self, labels="shards", form="pattern"):
        """Return labels and probabilities as a user gives them."""
        folder = self.root / "probs"
        probs = {
            "pattern": str(folder / f"*.{self.kind}"),
            "folder": folder,
            "list": [folder / f"{name}.{self.kind}" for name in self.names],
        }[form]
        given = np.concatenate([self.shards[name][0] for name in self.names])
        if labels == "shards":
            return self.root / "labels", probs
        if labels == "memory":
            return given, probs
        if labels == "dask":
            return da.from_array(given, chunks=70), probs
        np.save(self.root / "labels.npy", given.astype("i4"))
        return self.root / "labels.npy", probs

    def night(self, labels="shards", form="pattern", **choices):
        """Run with the workdir, compare with a fresh run, and return how many rows were read."""
        inputs = self.inputs(labels, form)
        found = find(*inputs, workdir=self.workdir, **choices)
        same_as_fresh(found, *inputs, **choices)
        assert found.facts.rows_read + found.facts.rows_resumed == self.n_rows
        return found.facts.rows_read


@pytest.fixture
def data(tmp_path):
    data = Data(tmp_path)
    for number in (10, 20, 30):
        data.put(f"p-{number}")
    return data


@pytest.fixture
def read(monkeypatch):
    """Count the bytes that are read of each .npy file."""
    counts, lock, read_into = Counter(), threading.Lock(), npy.read_into

    def counting(file, position, buffer):
        with lock:
            counts["/".join(Path(file.name).parts[-2:])] += len(buffer)
        return read_into(file, position, buffer)

    monkeypatch.setattr(npy, "read_into", counting)
    return counts


class Killed(BaseException):
    """What a killed run ends with."""


# Shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "form"),
    [*draws.in_turn(["shards", "file", "memory", "dask"], ["pattern", "folder", "list"]), ("shards", "folder")],
)
def test_only_shards_that_were_added_are_read(data, labels, form):
    assert data.night(labels, form) == 300
    data.put("p-40", 70)
    data.put("p-9", 50)  # before all others
    data.put("p-15", 30)  # between them
    assert data.night(labels, form) == 150
    assert data.night(labels, form) == 0


def test_bytes_are_read_of_new_shards_only(data, read, monkeypatch):
    data.night()
    monkeypatch.setattr(spot_check, "MOST_BYTES", 7 * K * 8)
    data.put("p-5", 70)
    inputs = data.inputs()
    read.clear()
    find(*inputs, workdir=data.workdir)
    new = {name: count for name, count in read.items() if name.endswith("p-5.npy")}
    assert new == {"probs/p-5.npy": 70 * K * 8, "labels/p-5.npy": 70 * 8}
    rest = read.total() - sum(new.values())
    assert rest <= 8 * 7 * (K + 1) * 8, "a few rows of eight partitions"


def test_of_labels_in_one_file_only_labels_are_read_again(data, read, monkeypatch):
    data.night("file")
    monkeypatch.setattr(spot_check, "MOST_BYTES", 1)
    data.put("p-15", 30)
    inputs = data.inputs("file")
    read.clear()
    find(*inputs, workdir=data.workdir)
    probs = {name: count for name, count in read.items() if name.startswith("probs/")}
    assert probs.pop("probs/p-15.npy") == 30 * K * 8
    assert sum(probs.values()) <= 8 * K * 8


@pytest.mark.parametrize(
    ("settings", "stored"),
    [*draws.in_turn(SETTINGS, [False, True]), (MARGIN, False), (SETTINGS[-1], True)],
    ids=str,
)
def test_every_change_of_shards_gives_the_bits_of_a_fresh_run(data, settings, stored, monkeypatch):
    if stored:  # summaries are in the workdir only
        monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)
        settings = settings | {"max_memory": "100GB"}
    assert data.night(**settings) == 300
    data.put("p-15", 45)
    assert data.night(**settings) == 45, "inserted"
    data.remove("p-10")
    assert data.night(**settings) == 0, "removed"
    data.put("p-20", 100, seed=77)
    assert data.night(**settings) == 100, "rewritten with the same size"
    data.put("p-30", 200, seed=78)
    assert data.night(**settings) == 200, "twice its length"
    data.relabel("p-15", [44])
    assert data.night(**settings) == 5, "the partition of one label"


def test_a_shard_that_was_renamed_is_another_one(data):
    data.night()
    data.shards["p-25"] = data.shards.pop("p-10")
    for folder in ("labels", "probs"):
        (data.root / folder / "p-10.npy").rename(data.root / folder / "p-25.npy")
    assert data.night() == 100


def test_a_shard_that_comes_back_is_new(data):
    data.night()
    shard = data.shards["p-20"]
    data.remove("p-20")
    assert data.night() == 0
    data.shards["p-20"] = shard
    data._write("p-20", *shard)
    assert data.night() == 100


def test_records_that_nothing_needs_are_removed(data):
    data.night()
    for name in data.names[:2]:
        data.remove(name)
    data.night()
    kept = record_files(data.workdir)
    assert len(kept) == 3
    assert names_in(data.workdir / "summaries") == sorted(kept)
    data.put("p-30", 80, seed=5)
    data.night()
    assert names_in(data.workdir / "summaries") == sorted(record_files(data.workdir)) != sorted(kept)


def test_shards_that_were_all_rewritten_are_all_read(data):
    data.night()
    for number, name in enumerate(data.names):
        data.put(name, 60 + number, seed=50 + number)
    assert data.night() == data.n_rows


def test_shards_without_rows_change_nothing(data):
    data.night()
    data.put("p-5", 0, seed=1)
    data.put("p-25", 0, seed=1)
    assert data.night() == 0
    data.remove("p-5")
    assert data.night() == 0


def test_one_shard_becomes_several(data):
    for name in ("p-10", "p-20"):
        data.remove(name)
    assert data.night() == 100
    data.put("p-40")
    assert data.night() == 100
    data.remove("p-40")
    assert data.night() == 0
    data.put("p-30", 80, seed=9)
    assert data.night() == 80, "the only one, rewritten"
    data.remove("p-30")
    data.put("p-50", 60)
    assert data.night() == 60, "the only one, another one"


def test_shards_are_known_however_they_are_named(data):
    data.night(form="pattern")
    data.put("p-5", 30)
    assert data.night(form="list") == 30
    data.put("p-3", 20)
    assert data.night(form="folder") == 20


@pytest.mark.parametrize("cut", [(7, 1), (20, 3), (400, 1), ("auto", "auto")], ids=str)
def test_partitions_stay_however_the_next_night_runs(data, cut):
    data.night()
    data.put("p-5", 90)
    assert data.night(batch_size=cut[0], partition_batches=cut[1]) == 90
    data.put("p-40", 80)
    with dask.config.set(num_workers=5):
        assert data.night(max_memory="400MB") == 80


def test_partitions_cross_no_shard_and_are_of_equal_size(data):
    data.put("p-40", 130)
    found = find(*data.inputs(), workdir=data.workdir)
    assert found.facts.n_partitions == 3 * 3 + 4
    assert found.facts.n_batches == 3 * 5 + 7
    assert find(*data.inputs()).facts.n_partitions == 11, "without a workdir as before"


# Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["shards", "file", "memory", "dask"])
def test_rows_whose_labels_changed_are_read_again(data, labels):
    data.night(labels)
    data.relabel("p-20", [0, 99])
    assert data.night(labels) == 40 + 20
    data.put("p-15", 30)
    data.relabel("p-30", [50])
    assert data.night(labels) == 30 + 40


def test_labels_that_are_written_again_with_the_same_values_cost_nothing(data):
    data.night()
    for path in (data.root / "labels").iterdir():
        labels = np.load(path)
        np.save(path, labels.astype("u1"))
    assert data.night() == 0
    assert data.night("file") == 0, "in another file"
    assert data.night("memory") == 0, "or in none"


def test_labels_that_nothing_identifies_are_compared_by_their_values(data):
    def lazy():
        given = np.concatenate([data.shards[name][0] for name in data.names])
        return da.from_array(given, chunks=70, name="mine")

    find(lazy(), data.inputs()[1], workdir=data.workdir)
    assert find(lazy(), data.inputs()[1], workdir=data.workdir).facts.rows_read == 0
    data.put("p-15", 30)
    data.relabel("p-30", [50])
    found = find(lazy(), data.inputs()[1], workdir=data.workdir)
    assert found.facts.rows_read == 30 + 40
    same_as_fresh(found, *data.inputs())


def test_labels_may_be_sharded_in_another_way(data):
    def labels():
        given = np.concatenate([data.shards[name][0] for name in data.names])
        shutil.rmtree(data.root / "labels")
        (data.root / "labels").mkdir()
        for i in range(0, len(given), 130):
            np.save(data.root / "labels" / f"y-{i}.npy", given[i : i + 130])
        return data.root / "labels"

    probs = data.root / "probs"
    find(labels(), probs, workdir=data.workdir)
    data.put("p-15", 30)
    given = labels()
    found = find(given, probs, workdir=data.workdir)
    assert found.facts.rows_read == 30
    same_as_fresh(found, given, probs)


@pytest.mark.parametrize("bad", [-1, K])
def test_a_label_that_became_none_is_an_error_that_names_its_row(data, bad):
    data.night()
    labels = np.load(data.root / "labels" / "p-20.npy")
    labels[7] = bad
    np.save(data.root / "labels" / "p-20.npy", labels)
    with pytest.raises(labelsieve.InvalidInputError, match=r"1 label outside 0..4 in row 107"):
        find(*data.inputs(), workdir=data.workdir)
    data.relabel("p-20", [])
    assert data.night() == 40, "the partition of that label"


def test_a_run_that_dies_as_it_compares_labels_leaves_no_record_of_old_ones(data, monkeypatch):
    data.night()
    data.relabel("p-10", [3])
    inner = scan.has_same_labels

    def dies(partition, **how):
        if partition.index == 1:
            raise Killed
        return inner(partition, **how)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(spot_check, "has_same_labels", dies)
        with pytest.raises(Killed):
            find(*data.inputs(), workdir=data.workdir)
    assert data.night() == 40


# Zarr ------------------------------------------------------------------------------------------------------------


def zarr_of(place, probs, chunks, **layout):
    array = zarr.create_array(str(place), shape=probs.shape, chunks=chunks, dtype=probs.dtype, **layout)
    array[:] = probs
    return array


@pytest.fixture
def bucket():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield "memory://bucket"
    fs.store.clear()


@pytest.mark.parametrize(
    ("layout", "where", "settings"),
    draws.in_turn(
        [{}, {"shards": (20, K)}, {"zarr_format": 2}, {"compressors": None}],
        ["disk", "url"],
        [{}, {}, {"filter_by": "both"}],
    ),
    ids=str,
)
def test_of_an_array_that_was_appended_to_only_the_new_rows_are_read(tmp_path, bucket, where, layout, settings):
    place, work = (tmp_path / "p.zarr", tmp_path / "w") if where == "disk" else (f"{bucket}/p.zarr", f"{bucket}/w")
    unit = layout.get("shards", (10,))[0]
    labels, probs = draws.draw(1000, K, seed=1, noise=0.3)
    array = zarr_of(place, probs[:200], (10, K), **layout)
    n_rows, whole = 0, 0
    for stop in (200, 260, 264, 300, 300, 307, 309, 550):
        if stop > array.shape[0]:
            array.append(probs[array.shape[0] : stop])
        np.save(tmp_path / "y.npy", labels[:stop])
        found = find(tmp_path / "y.npy", str(place), workdir=work, **settings)
        same_as_fresh(found, tmp_path / "y.npy", str(place), **settings)
        # What was added, and the rows before it in the stored chunk that appending has written again.
        assert found.facts.rows_read == (stop - whole if stop != n_rows else 0)
        n_rows, whole = stop, stop - stop % unit


def of_logits(labels, logits, **choices):
    return find(labels, logits, from_logits=True, **choices)


def of_tags(labels, probs, **choices):
    return multilabel_classification.find_label_issues(labels, probs, progress=False, filter_by=None, **CUT, **choices)


def of_pixels(labels, planes, **choices):
    cut = CUT | {"batch_size": 60}
    return segmentation.find_label_issues(labels, planes, progress=False, **cut, **choices)


@pytest.mark.parametrize("search", [of_logits, of_tags, of_pixels])
def test_rows_that_are_computed_from_an_array_grow_with_it(tmp_path, search):
    rng = np.random.default_rng(0)
    images = search is of_pixels
    whole = rng.dirichlet(np.ones(K), (200, 4, 6) if images else 200)
    whole = np.ascontiguousarray(np.moveaxis(whole, -1, 1)) if images else whole
    whole = np.log(whole) if search is of_logits else whole
    labels = (whole > 0.3).astype(int) if search is of_tags else whole.argmax(axis=1)
    labels[::7] = 1 - labels[::7] if search is of_tags else (labels[::7] + 1) % K
    array = zarr_of(tmp_path / "probs.zarr", whole[:100], (10, *whole.shape[1:]))
    workdir = tmp_path / "work"
    search(labels[:100], tmp_path / "probs.zarr", workdir=workdir)
    array.append(whole[100:])
    found = search(labels, tmp_path / "probs.zarr", workdir=workdir)
    fresh = search(labels, tmp_path / "probs.zarr")
    assert found.facts.bytes_read == fresh.facts.bytes_read / 2
    assert getattr(found, "rows", found).indices.tolist() == getattr(fresh, "rows", fresh).indices.tolist()


def test_labels_in_coarse_chunks_cost_no_read_of_probabilities(tmp_path):
    labels, probs = draws.draw(1000, K, seed=1, noise=0.3)
    given, array = (
        zarr_of(tmp_path / "y.zarr", labels[:500], (400,)),
        zarr_of(tmp_path / "p.zarr", probs[:500], (10, K)),
    )
    places = tmp_path / "y.zarr", tmp_path / "p.zarr"
    find(*places, workdir=tmp_path / "w")
    given.append(labels[500:700])
    array.append(probs[500:700])
    found = find(*places, workdir=tmp_path / "w")
    assert found.facts.rows_read == 200
    same_as_fresh(found, *places)


def test_an_array_that_was_cut_short_keeps_what_is_left(tmp_path):
    labels, probs = draws.draw(400, K, seed=1, noise=0.3)
    array = zarr_of(tmp_path / "p.zarr", probs, (10, K))
    find(labels, tmp_path / "p.zarr", workdir=tmp_path / "w")
    array.resize((205, K))
    found = find(labels[:205], tmp_path / "p.zarr", workdir=tmp_path / "w")
    assert found.facts.rows_read == 5
    same_as_fresh(found, labels[:205], tmp_path / "p.zarr")


def test_an_array_that_is_stored_in_another_way_is_another_input(tmp_path):
    labels, probs = draws.draw(400, K, seed=1, noise=0.3)
    zarr_of(tmp_path / "p.zarr", probs, (10, K))
    find(labels, tmp_path / "p.zarr", workdir=tmp_path / "w")
    zarr_of(tmp_path / "p.zarr", probs, (20, K), overwrite=True)
    with pytest.raises(WorkdirError, match=r"pred_probs\.chunks was \[10, 5\], is \[20, 5\]"):
        find(labels, tmp_path / "p.zarr", workdir=tmp_path / "w")


def test_shards_of_zarr_grow_and_are_appended_to(tmp_path):
    data = Data(tmp_path, "zarr")
    data.put("p-1", 100)
    data.put("p-2", 65)
    assert data.night() == 165
    data.put("p-3", 90)
    assert data.night() == 90
    (labels, probs), (more_labels, more) = data.shards["p-2"], draws.draw(40, K, seed=9)
    zarr.open_array(tmp_path / "probs" / "p-2.zarr", mode="r+").append(more)
    data.shards["p-2"] = np.concatenate([labels, more_labels]), np.concatenate([probs, more])
    np.save(tmp_path / "labels" / "p-2.npy", data.shards["p-2"][0])
    assert data.night() == 45, "with the rows of the chunk that was incomplete"


def test_a_stored_chunk_larger_than_all_rows_is_read_as_a_whole(tmp_path):
    labels, probs = draws.draw(300, K, seed=1, noise=0.3)
    array = zarr_of(tmp_path / "p.zarr", probs[:100], (250, K))
    assert find(labels[:100], tmp_path / "p.zarr", workdir=tmp_path / "w").facts.rows_read == 100
    array.append(probs[100:])
    found = find(labels, tmp_path / "p.zarr", workdir=tmp_path / "w")
    assert found.facts.rows_read == 300
    same_as_fresh(found, labels, tmp_path / "p.zarr")


# Notes and warnings -----------------------------------------------------------------------------------------------


def test_rows_in_notes_and_warnings_are_those_of_today(data):
    labels, probs = data.shards["p-20"]
    probs = probs.copy()
    probs[10:13] = 0.98 / K  # below 1/K, and the sum is off by 2%
    probs[90:] *= 0.98
    data.shards["p-20"] = labels, probs
    data._write("p-20", labels, probs)
    with pytest.warns(labelsieve.LabelsieveWarning, match=r"3 rows .* \(rows 110\.\.112\)"):
        data.night()
    data.put("p-5", 33)
    with pytest.warns(labelsieve.LabelsieveWarning, match=r"3 rows .* \(rows 143\.\.145\)"):
        assert data.night() == 33
    data.remove("p-10")
    with pytest.warns(labelsieve.LabelsieveWarning, match=r"3 rows .* \(rows 43\.\.45\)"):
        assert data.night() == 0


def test_errors_in_new_shards_name_the_rows_of_today_and_keep_the_rest(data):
    data.night()
    data.put("p-15", 30)
    labels, probs = data.shards["p-15"]
    bad = probs.copy()
    bad[4] = np.nan
    data._write("p-15", labels, bad)
    with pytest.raises(labelsieve.InvalidInputError, match="5 NaN probabilities in row 104"):
        find(*data.inputs(), workdir=data.workdir)
    data._write("p-15", labels, probs)
    assert data.night() == 30


# Interrupted and elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, MARGIN, {"filter_by": "both"}], ids=str)
def test_a_growing_run_that_was_killed_goes_on(data, monkeypatch, settings):
    data.night(**settings)
    data.put("p-5", 100)
    data.put("p-35", 100)
    inner, done = scan.read_rows, []

    def dies(partition, *args, **how):
        if len(done) == 4:
            raise Killed
        done.append(partition.n_rows)
        return inner(partition, *args, **how)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(scan, "read_rows", dies)
        with pytest.raises(Killed):
            find(*data.inputs(), workdir=data.workdir, **settings)
    assert data.night(**settings) == 200 - sum(done)


def test_a_second_read_that_was_killed_goes_on(data, monkeypatch):
    monkeypatch.setattr("labelsieve.job.plan.expected_issues", lambda n_rows: 10**9 * n_rows)
    settings = {"max_memory": "100GB", **MARGIN}
    data.night(**settings)
    data.put("p-5", 100)
    inner, done = rescan.rescan, []

    def dies(partition, *args, **how):
        if len(done) == 5:
            raise Killed
        done.append(partition.n_rows)
        return inner(partition, *args, **how)

    with monkeypatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(rescan, "rescan", dies)
        with pytest.raises(Killed):
            find(*data.inputs(), workdir=data.workdir, **settings)
    found = find(*data.inputs(), workdir=data.workdir, **settings)
    assert found.facts.bytes_read == (400 - sum(done)) * K * 8
    same_as_fresh(found, *data.inputs(), **settings)


def test_a_damaged_record_of_an_old_shard_is_made_again(data):
    data.night()
    data.put("p-5", 50)
    path = data.workdir / "summaries" / record_files(data.workdir)[1]
    path.write_bytes(path.read_bytes()[:-9])
    assert data.night() == 50 + 40


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"filter_by": "both"}], ids=str)
def test_workers_read_only_what_is_new(data, settings):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for labels in ("shards", "file", "dask"):
            data.put(f"p-{len(data.shards)}", 50)
            data.relabel("p-20", [5])
            expected = 350 if labels == "shards" else 50 + 40
            assert data.night(labels, client=client, **settings) == expected


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_forked_processes_read_only_the_partitions_whose_labels_changed(tmp_path, n_jobs):
    labels, probs = draws.draw(400, K, seed=3, noise=0.3)
    np.save(tmp_path / "p.npy", probs)
    find(labels, tmp_path / "p.npy", workdir=tmp_path / "w", n_jobs=n_jobs)
    labels[[3, 399]] = (labels[[3, 399]] + 1) % K
    found = find(labels, tmp_path / "p.npy", workdir=tmp_path / "w", n_jobs=n_jobs)
    assert found.facts.rows_read == 80
    same_as_fresh(found, labels, tmp_path / "p.npy")


def test_blocks_of_a_dask_array_are_computed_where_labels_changed(tmp_path):
    labels, probs = draws.draw(400, K, seed=3, noise=0.3)
    computed = Counter()

    def block(rows, block_info=None):
        computed[block_info[0]["chunk-location"][0]] += 1
        return rows + 0

    def lazy():
        array = da.from_array(probs, chunks=(20, K), name="probs-" + "0123456789abcdef" * 2)
        return array.map_blocks(block, name="rows-" + "0123456789abcdef" * 2, meta=np.empty((0, 0)))

    find(labels, lazy(), workdir=tmp_path / "w")
    labels[[3, 399]] = (labels[[3, 399]] + 1) % K
    computed.clear()
    found = find(labels, lazy(), workdir=tmp_path / "w")
    assert found.facts.rows_read == 80
    assert {0, 1, 18, 19} <= set(computed)
    assert computed.total() <= 4 + 8, "and eight for the check"
    same_as_fresh(found, labels, probs)


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda probs: np.hstack([probs * 0.5, probs * 0.5]), "pred_probs.n_classes was 5, is 10"),
        (lambda probs: probs.astype("f4"), "pred_probs.dtype was <f8, is <f4"),
    ],
    ids=["classes", "dtype"],
)
def test_shards_of_other_classes_or_another_dtype_are_another_input(data, write, message):
    data.night()
    for name in data.names:
        np.save(data.root / "probs" / f"{name}.npy", write(data.shards[name][1]))
    with pytest.raises(WorkdirError, match=rf"belongs to another run: {message}\. .* fresh=True$"):
        find(*data.inputs(), workdir=data.workdir)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda probs: probs[:, :4], r"shards differ in columns: .*p-10\.npy has 5, .*p-15\.npy has 4"),
        (lambda probs: probs.astype("f4"), r"shards differ in dtype: .*p-10\.npy has float64, .*p-15\.npy has float32"),
    ],
    ids=["classes", "dtype"],
)
def test_a_new_shard_of_other_classes_or_another_dtype_is_named_and_nothing_is_lost(data, write, message):
    data.night()
    data.put("p-15", 30)
    np.save(data.root / "probs" / "p-15.npy", write(data.shards["p-15"][1]))
    with pytest.raises(labelsieve.InvalidInputError, match=message):
        find(*data.inputs(), workdir=data.workdir)
    data._write("p-15", *data.shards["p-15"])
    assert data.night() == 30


def test_another_setting_is_named(data):
    data.night()
    data.put("p-15", 30)
    with pytest.raises(WorkdirError, match=r"settings\.method was self_confidence, is normalized_margin\. "):
        find(*data.inputs(), workdir=data.workdir, method="normalized_margin")
    assert data.night() == 30


def test_other_shards_at_another_place_are_another_input(data):
    data.night()
    (data.root / "probs").rename(data.root / "other")
    places = data.root / "labels", str(data.root / "other" / "*.npy")
    with pytest.raises(WorkdirError, match=r"pred_probs\.where was .*probs/\*\.npy, is .*other/\*\.npy"):
        find(*places, workdir=data.workdir)
    assert find(*places, workdir=data.workdir, fresh=True).facts.rows_read == 300


def test_a_pattern_that_matches_nothing_any_more_is_an_error_and_nothing_is_lost(data):
    data.night()
    (data.root / "probs").rename(data.root / "away")
    with pytest.raises(labelsieve.InvalidInputError, match=r"pred_probs: no file matches .*probs/\*\.npy"):
        find(*data.inputs(), workdir=data.workdir)
    (data.root / "away").rename(data.root / "probs")
    assert data.night() == 0


def test_a_shard_that_vanishes_after_it_was_listed_is_named_and_nothing_is_lost(data, monkeypatch):
    data.night()
    data.put("p-15", 30)
    inner = scan.read_rows

    def vanishes(partition, *args, **how):
        (data.root / "probs" / "p-30.npy").unlink(missing_ok=True)
        return inner(partition, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "read_rows", vanishes)
        with pytest.raises(
            labelsieve.UnreadableDataError, match=r"p-30\.npy was there when the run began, and is gone"
        ):
            find(*data.inputs(), workdir=data.workdir)
    np.save(data.root / "probs" / "p-30.npy", data.shards["p-30"][1])  # written again
    assert data.night() == 100


def test_a_workdir_of_another_format_is_refused_and_left_alone(data):
    data.night()
    path = data.workdir / "labelsieve.json"
    path.write_text(path.read_text().replace('"format": 7', '"format": 6'))
    before = names_in(data.workdir / "summaries")
    with pytest.raises(
        WorkdirError, match=r"is damaged, or was written by another version of Labelsieve\. Start over with fresh=True$"
    ):
        find(*data.inputs(), workdir=data.workdir)
    assert names_in(data.workdir / "summaries") == before


def test_shards_without_a_version_are_refused(tmp_path):
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(40, K), chunks=(20, K), dtype="f8")
    array[:] = draws.draw(40, K)[1]
    with pytest.raises(WorkdirError, match=r"pred_probs \(.*\) has nothing that identifies its data"):
        find(draws.draw(40, K)[0], array, workdir=tmp_path / "w")


# Plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_is_known(data):
    def plan(labels):
        planned = labelsieve.plan_label_issues(*data.inputs(labels), workdir=data.workdir, **CUT)
        assert planned.known_bytes == planned.known_rows * K * 8
        assert planned.unconfirmed_bytes == planned.unconfirmed_rows * K * 8
        return planned.known_rows, planned.unconfirmed_rows

    assert plan("shards") == (0, 0)
    data.night()
    assert plan("shards") == (300, 0)
    data.put("p-15", 30)
    data.relabel("p-20", [0])
    assert plan("shards") == (200, 100), "the labels of one shard were written again"
    assert plan("file") == (0, 300)
    (data.workdir / "summaries" / record_files(data.workdir)[0]).unlink()
    assert plan("shards") == (160, 100)
    planned = labelsieve.plan_label_issues(*data.inputs(), workdir=data.workdir, fresh=True, **CUT)
    assert (planned.known_rows, planned.unconfirmed_rows) == (0, 0)
    assert labelsieve.plan_label_issues(*data.inputs(), **CUT).known_rows == 0


def test_the_command_prints_what_is_known(data):
    data.night()
    data.relabel("p-20", [0])
    text = plan_text(labelsieve.plan_label_issues(*data.inputs(), workdir=data.workdir, **CUT))
    assert re.search(r"\nknown +8 kB of it \(200 rows\) are in the workdir\n", text)
    assert re.search(r"\nperhaps known +4 kB \(100 rows\) are in the workdir too, if their labels", text)
    assert "known" not in plan_text(labelsieve.plan_label_issues(*data.inputs(), **CUT))


def test_a_plan_reads_and_writes_nothing(data, read):
    data.night()
    data.put("p-15", 30)
    inputs = data.inputs("file")
    before = {path: path.stat().st_mtime_ns for path in data.workdir.rglob("*")}
    read.clear()
    labelsieve.plan_label_issues(*inputs, workdir=data.workdir, **CUT)
    assert not read
    assert {path: path.stat().st_mtime_ns for path in data.workdir.rglob("*")} == before


# Many nights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "kind"), draws.in_turn(range(len(SETTINGS)), ["npy", "zarr"]))
def test_nights_of_any_changes_give_the_bits_of_fresh_runs(tmp_path, kind, seed):
    rng, data = np.random.default_rng(seed), Data(tmp_path, kind)
    data.put("p-50", 60)
    data.put("p-60", 60)
    new = set(data.shards)

    def change():
        kind, name = rng.integers(5), data.names[rng.integers(len(data.shards))]
        if kind == 0 or len(data.shards) < 3:
            name = f"p-{rng.integers(100)}"
            data.put(name, int(rng.integers(1, 150)), int(rng.integers(10**6)))
        elif kind == 1:
            data.put(name, int(rng.integers(1, 150)), int(rng.integers(10**6)))
        elif kind == 2:
            data.remove(name)
        elif kind == 3:
            data.relabel(name, rng.integers(0, len(data.shards[name][0]), 2))
        else:
            os.utime(data.root / "labels" / f"{name}.npy")
            return
        new.add(name)

    for _ in range(6):
        inputs = {
            "labels": ["shards", "file", "memory", "dask"][rng.integers(4)],
            "form": ["pattern", "folder", "list"][rng.integers(3)],
            "batch_size": int(rng.integers(1, 60)),
        }
        most = sum(len(data.shards[name][0]) for name in new & data.shards.keys())
        assert data.night(**inputs, **SETTINGS[seed]) <= most
        new.clear()
        for _ in range(rng.integers(1, 4)):
            change()


def test_partitions_of_a_list_of_folders_end_with_each_file_in_them(tmp_path):
    data = Data(tmp_path)
    for name in ("a-1", "a-2", "b-1"):
        data.put(name, 50)
    patterns = [str(tmp_path / "probs" / f"{letter}-*.npy") for letter in "ab"]
    labels = str(tmp_path / "labels" / "*.npy")
    first = find(labels, patterns, workdir=data.workdir)
    data.put("a-3", 30)
    grown = find(labels, patterns, workdir=data.workdir)
    assert (first.facts.rows_read, grown.facts.rows_read) == (150, 30)
    same_as_fresh(grown, labels, patterns)


def test_a_run_over_few_of_the_shards_says_that_it_removes_what_is_known_of_the_others(tmp_path, caplog):
    data = Data(tmp_path)
    for number in range(5):
        data.put(f"p-{number}", 40)
    find(*data.inputs(), workdir=data.workdir)
    data.remove("p-0")
    find(*data.inputs(), workdir=data.workdir)
    assert not caplog.messages
    for number in (1, 2, 3):
        data.remove(f"p-{number}")
    find(*data.inputs(), workdir=data.workdir)
    [said] = caplog.messages
    assert said.startswith("3 of the 4 finished partitions in the workdir")
