"""An input that changes while it is read, and chunks that are not stored: never another answer without a word."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import shutil
import time
import warnings

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr

import labelsieve
import s3
from draws import assert_same_bits, draw, find
from labelsieve import count
from labelsieve.errors import ChangedDataError, InvalidInputError, LabelsieveWarning, UnreadableDataError
from labelsieve.execution.cluster import ClusterExecutor
from labelsieve.job import passes
from labelsieve.job.passes import Passes
from labelsieve.sources import npy
from labelsieve.sources import objects as object_store
from labelsieve.sources import source as base
from labelsieve.sources import source as versions
from labelsieve.sources import zarr as remote_zarr
from labelsieve.sources import zarr as zarr_arrays
from labelsieve.sources import zarr as zarr_chunks
from labelsieve.sources.open import open_pred_probs
from workdirs import shift_time

N_ROWS, N_CLASSES, BATCH = 600, 6, 100
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=31, signal=2.5)
_, OTHER = draw(N_ROWS, N_CLASSES, seed=32, signal=2.5)
IN_ORDER = np.argsort(LABELS, kind="stable")
LAYOUTS = {
    "direct": {"chunks": (BATCH, N_CLASSES)},
    "direct, format 2": {"chunks": (BATCH, N_CLASSES), "zarr_format": 2},
    "plain": {"chunks": (BATCH, N_CLASSES), "compressors": None},
    "split classes": {"chunks": (BATCH, 2)},
    "shards": {"chunks": (50, N_CLASSES), "shards": (BATCH, N_CLASSES)},
}
READ_BY_BATCH = {"batch_size": BATCH, "partition_batches": 1}


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(num_workers=1):
        yield


@pytest.fixture
def want():
    return find(LABELS, PROBS)


def at_read(monkeypatch, number, act):
    """Act once, when read `number` of any array is done: counted from 1, whoever reads.

    `act` is handed the batches that were read so far: Dask may take partitions in any order.
    """
    batches = []

    def counted(inner):
        def reading(self, start, stop):
            got = inner(self, start, stop)
            batches.append(start // BATCH)
            if len(batches) == number:
                act(batches)
            return got

        return reading

    for kind in (npy._NpyRows, base.ChunkedRows):
        monkeypatch.setattr(kind, "read", counted(kind.read))


def to_come(batches):
    return min(set(range(N_ROWS // BATCH)) - set(batches))


def save_anew(path, array):
    """Put another file in the place of one, as `mv` does."""
    np.save(path.with_suffix(".new.npy"), array)
    path.with_suffix(".new.npy").replace(path)
    shift_time(path)


def write_into(path, array):
    """Write over the bytes of a file."""
    with path.open("r+b") as file:
        file.seek(-array.nbytes, os.SEEK_END)
        file.write(array.tobytes())
    shift_time(path)


def cut(path, _):
    os.truncate(path, path.stat().st_size - 8)


def with_the_same_time(path, array):
    status = path.stat()
    save_anew(path, array)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def gone(path, _):
    path.unlink()


CHANGES = {
    save_anew: "it was last written at",
    write_into: "it was last written at",
    cut: "its size was 28,928 bytes and is 28,920",
    with_the_same_time: "another file has taken its place",
    gone: "was there when the run began, and is gone",
}


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("number", [1, 6], ids=["first read", "last read"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch, change, number):
    path, out = tmp_path / "probs.npy", tmp_path / "out.zarr"
    np.save(path, PROBS)
    at_read(monkeypatch, number, lambda _: change(path, OTHER))
    with pytest.raises(UnreadableDataError, match=r"probs\.npy") as caught:
        find(LABELS, path, output=out, **READ_BY_BATCH, retries=0)
    if number == 6 or change in (save_anew, with_the_same_time):
        assert isinstance(caught.value, ChangedDataError) == (change is not gone)
        assert CHANGES[change] in str(caught.value)
    assert not out.exists()


@pytest.mark.every_value
@pytest.mark.parametrize("what", ["labels", "pred_probs"])
@pytest.mark.parametrize("kind", ["path", "memmap", "list"])
def test_every_kind_of_file_is_watched(tmp_path, monkeypatch, kind, what):
    arrays = {"labels": LABELS, "pred_probs": PROBS}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.save(tmp_path / f"{name}-0.npy", array[:250])
        np.save(tmp_path / f"{name}-1.npy", array[250:])
    path = tmp_path / (f"{what}-1.npy" if kind == "list" else f"{what}.npy")

    def given(name):
        if kind == "list":
            return [tmp_path / f"{name}-{i}.npy" for i in range(2)]
        return tmp_path / f"{name}.npy" if kind == "path" else np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    inputs = {name: given(name) for name in arrays}
    new = np.load(path)[::-1].copy()
    at_read(monkeypatch, 8, lambda _: write_into(path, new))
    with pytest.raises(ChangedDataError, match=rf"{path.name} has changed since the run began"):
        find(inputs["labels"], inputs["pred_probs"], **READ_BY_BATCH)


@pytest.mark.parametrize(
    ("settings", "number"),
    [({"filter_by": "confident_learning"}, 7), ({"filter_by": "confident_learning"}, 12), ({"filter_by": "both"}, 18)],
    ids=["between two reads", "second read", "third read"],
)
def test_later_reads_are_of_the_same_file(tmp_path, monkeypatch, settings, number):
    path = tmp_path / "probs.npy"
    np.save(path, PROBS)
    want = find(LABELS, path, **settings, **READ_BY_BATCH)
    assert want.facts.n_reads * 6 >= number > (want.facts.n_reads - 1) * 6 - 6
    at_read(monkeypatch, number, lambda _: save_anew(path, OTHER))
    with pytest.raises(ChangedDataError, match="has changed since the run began"):
        find(LABELS, path, **settings, **READ_BY_BATCH)


def test_counts_are_of_one_file(tmp_path, monkeypatch):
    np.save(tmp_path / "probs.npy", PROBS)
    np.save(tmp_path / "labels.npy", LABELS)
    at_read(monkeypatch, 2, lambda _: save_anew(tmp_path / "probs.npy", OTHER))
    with pytest.raises(ChangedDataError, match=r"probs\.npy has changed"):
        count.num_label_issues(LABELS, tmp_path / "probs.npy", progress=False)
    at_read(monkeypatch, 1, lambda _: save_anew(tmp_path / "labels.npy", LABELS[::-1]))
    with pytest.raises(ChangedDataError, match=r"labels\.npy has changed"):
        count.estimate_joint(tmp_path / "labels.npy", confident_joint=np.eye(N_CLASSES, dtype=int), dense=True)


@pytest.mark.parametrize("act", ["update_confident_thresholds", "score_label_quality"])
def test_a_batch_that_changes_leaves_an_inspector_as_it_was(tmp_path, monkeypatch, act):
    inspector = labelsieve.LabelInspector(num_class=N_CLASSES, verbose=False)
    inspector.update_confident_thresholds(LABELS, PROBS)
    before = inspector.get_confident_thresholds()
    np.save(tmp_path / "probs.npy", PROBS)
    batch = np.load(tmp_path / "probs.npy", mmap_mode="r")
    at_read(monkeypatch, 1, lambda _: write_into(tmp_path / "probs.npy", OTHER))
    with pytest.raises(ChangedDataError, match=r"probs\.npy has changed"):
        getattr(inspector, act)(LABELS, batch)
    np.testing.assert_array_equal(inspector.get_confident_thresholds(), before)


def test_forked_processes_read_one_version(tmp_path, monkeypatch):
    path = tmp_path / "probs.npy"
    np.save(path, PROBS)
    scan = Passes.scan

    def changing(self):
        assert self._n_forks == 2
        total = scan(self)
        write_into(path, OTHER)
        return total

    monkeypatch.setattr(Passes, "scan", changing)
    with pytest.raises(ChangedDataError, match=r"probs\.npy has changed since the run began: it was last written"):
        find(LABELS, path, n_jobs=2, **READ_BY_BATCH)


def test_what_is_mapped_for_forked_processes_is_the_version_that_was_opened(tmp_path):
    np.save(tmp_path / "probs.npy", PROBS)
    source = open_pred_probs(tmp_path / "probs.npy")
    np.testing.assert_array_equal(source.as_memmap(), PROBS)
    save_anew(tmp_path / "probs.npy", OTHER)
    with pytest.raises(ChangedDataError, match=r"probs\.npy has changed"):
        source.as_memmap()


def test_a_memmap_whose_file_was_cut_off_is_an_error(tmp_path):
    np.save(tmp_path / "probs.npy", PROBS)
    mapped = np.load(tmp_path / "probs.npy", mmap_mode="r")
    os.truncate(tmp_path / "probs.npy", 1000)
    for settings in ({}, {"n_jobs": 2}):
        with pytest.raises(UnreadableDataError, match=r"probs\.npy ended before byte .*: was it cut while in use\?"):
            find(LABELS, mapped, **settings)
    assert passes.labels_shared is None
    assert passes.pred_probs_shared is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_workers_of_a_cluster_read_the_version_that_the_client_has_opened(tmp_path, monkeypatch, kind):
    distributed = pytest.importorskip("distributed")
    path = tmp_path / f"probs.{kind}"
    if kind == "npy":
        np.save(path, PROBS)
    else:
        store(path, PROBS, LAYOUTS["direct"])
    hold = ClusterExecutor.hold

    def changing(self, *given):
        if kind == "npy":
            save_anew(path, OTHER)
        else:
            rewrite_chunk(path, 4, {})
        monkeypatch.setattr(ClusterExecutor, "hold", hold)
        return hold(self, *given)

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_same_bits(find(LABELS, path, client=client, **READ_BY_BATCH), find(LABELS, PROBS))
        monkeypatch.setattr(ClusterExecutor, "hold", changing)
        with pytest.raises(ChangedDataError, match=r"partition \d+ \(rows .*has changed since the run began"):
            find(LABELS, path, client=client, **READ_BY_BATCH)


@pytest.mark.parametrize("kind", ["npy", "shards", "zarr", "hdf5"])
def test_the_version_travels_to_the_workers(tmp_path, kind):
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "p.h5", "w") as file:
            file["p"] = PROBS
        with h5py.File(tmp_path / "p.h5") as file:
            source = open_pred_probs(file["p"])
            source.note_version()
            travelled = pickle.loads(pickle.dumps(source))
        changed = tmp_path / "p.h5"
    elif kind == "zarr":
        zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, dtype="f8", chunks=(BATCH, N_CLASSES))[:] = PROBS
        source = open_pred_probs(tmp_path / "p.zarr")
        source.note_version()
        travelled, changed = pickle.loads(pickle.dumps(source)), tmp_path / "p.zarr" / "c" / "0" / "0"
    else:
        for i in range(2):
            np.save(tmp_path / f"p-{i}.npy", PROBS[i * 300 : i * 300 + 300])
        paths = [tmp_path / f"p-{i}.npy" for i in range(2)]
        source = open_pred_probs(paths if kind == "shards" else paths[0])
        travelled, changed = pickle.loads(pickle.dumps(source)), paths[0]
    with travelled.open(0, 100) as rows:
        np.testing.assert_array_equal(rows.read(0, 100), PROBS[:100])
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    with pytest.raises(ChangedDataError, match="has changed since the run began"), travelled.open(0, 100) as rows:
        rows.read(0, 100)


def test_another_host_may_number_files_otherwise_but_must_keep_their_times(tmp_path, monkeypatch):
    np.save(tmp_path / "p.npy", PROBS)
    source = open_pred_probs(tmp_path / "p.npy")
    monkeypatch.setattr(versions, "_host", lambda: "worker-7")
    with_the_same_time(tmp_path / "p.npy", PROBS)
    source.reachable()
    with source.open() as rows:
        np.testing.assert_array_equal(rows.read(0, N_ROWS), PROBS)
    save_anew(tmp_path / "p.npy", PROBS)
    with pytest.raises(
        UnreadableDataError, match=r"p\.npy is not the same file on worker-7 as on .*: it was last writ"
    ):
        source.reachable()


def mounts(path, *kinds):
    """Describe mounts as the kernel does, the last of them that of `path`."""
    device, lines = path.stat().st_dev, []
    for number, kind in enumerate(kinds):
        other = device - (len(kinds) - number - 1)
        name = f"{os.major(other)}:{os.minor(other)}"
        lines.append(f"3{number} 24 {name} / /mnt/{number} rw,relatime shared:2 - {kind} source rw\n")
    file = path / "mountinfo"
    file.write_text("".join(lines))
    return file


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "fuseblk", "vfat", "exfat", "cifs", "9p"])
def test_some_file_systems_may_number_files_anew(tmp_path, monkeypatch, kind):
    np.save(tmp_path / "p.npy", PROBS)
    store(tmp_path / "p.zarr", PROBS, LAYOUTS["direct"])
    source = open_pred_probs(tmp_path / "p.npy")
    monkeypatch.setattr(versions, "_MOUNTS", mounts(tmp_path, kind, "ext4"))
    with_the_same_time(tmp_path / "p.npy", PROBS)
    with pytest.raises(ChangedDataError, match="another file has taken its place"):
        source.check_version()
    monkeypatch.setattr(versions, "_MOUNTS", mounts(tmp_path, "ext4", kind))
    source.check_version()
    chunks = open_pred_probs(tmp_path / "p.zarr")
    chunks.note_version()
    chunk = tmp_path / "p.zarr" / "c" / "3" / "0"
    shutil.copy2(chunk, tmp_path / "copy")
    (tmp_path / "copy").replace(chunk)
    chunks.check_version()
    with chunks.open() as rows:
        np.testing.assert_array_equal(rows.read(300, 400), PROBS[300:400])


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_a_memmap_that_can_be_written_to_is_no_change(tmp_path, monkeypatch, want, mode):
    np.save(tmp_path / "probs.npy", PROBS)
    if mode == "r+":
        probs = np.load(tmp_path / "probs.npy", mmap_mode=mode)
    else:
        probs = np.lib.format.open_memmap(tmp_path / "probs.npy", mode=mode, dtype="f8", shape=PROBS.shape)
    probs[:] = PROBS
    at_read(monkeypatch, 3, lambda _: probs.flush())
    assert_same_bits(find(LABELS, probs, **READ_BY_BATCH), want)


@pytest.mark.parametrize("layout", [None, "direct", "shards"])
def test_other_files_and_times_of_access_are_no_change(tmp_path, monkeypatch, want, layout):
    if layout is None:
        path = changed = tmp_path / "probs.npy"
        np.save(path, PROBS)
    else:
        path = tmp_path / "probs.zarr"
        zarr.create_array(path, shape=PROBS.shape, dtype="f8", **LAYOUTS[layout])[:] = PROBS
        changed = path / "c" / "2" / "0"

    def harmless(_):
        os.utime(changed, ns=(1, changed.stat().st_mtime_ns))
        (tmp_path / "other.npy").write_bytes(b"other")
        (changed.parent / ".nfs0001").write_bytes(b"other")
        changed.chmod(0o600)

    at_read(monkeypatch, 3, harmless)
    assert_same_bits(find(LABELS, path, **READ_BY_BATCH), want)


def test_hdf5_files_are_watched(tmp_path, monkeypatch, want):
    h5py = pytest.importorskip("h5py")
    from labelsieve.sources import npy as hdf5

    with h5py.File(tmp_path / "p.h5", "a") as file:
        file["p"] = PROBS  # not flushed, and the file stays open for writing
        assert_same_bits(find(LABELS, file["p"], **READ_BY_BATCH), want)
    read = hdf5._Hdf5Rows.read

    def changing(self, start, stop):
        shift_time(tmp_path / "p.h5")
        return read(self, start, stop)

    monkeypatch.setattr(hdf5._Hdf5Rows, "read", changing)
    with (
        h5py.File(tmp_path / "p.h5") as file,
        pytest.raises(ChangedDataError, match=r"p\.h5 has changed since the run began"),
    ):
        find(LABELS, file["p"], **READ_BY_BATCH)


# Zarr --------------------------------------------------------------------------------------------------------------


def chunk_file(path, index, layout):
    name = f"{index}.0" if layout.get("zarr_format") == 2 else f"c/{index}/0"
    return path / name


def store(path, array, layout, **options):
    made = zarr.create_array(path, shape=array.shape, dtype=array.dtype, **layout, **options)
    made[:] = array
    return made


def rewrite_chunk(path, index, layout):
    zarr.open_array(path, mode="r+")[index * BATCH : (index + 1) * BATCH] = OTHER[index * BATCH : (index + 1) * BATCH]
    shift_time(chunk_file(path, index, layout))


def rewrite_chunk_with_the_same_time(path, index, layout):
    file = chunk_file(path, index, layout)
    status, content = file.stat(), file.read_bytes()
    file.with_name("new").write_bytes(content)
    file.with_name("new").replace(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove_chunk(path, index, layout):
    chunk_file(path, index, layout).unlink()


CHUNK_CHANGES = {
    rewrite_chunk: "overwritten",
    rewrite_chunk_with_the_same_time: "overwritten",
    remove_chunk: "when the run began, and is gone|No such file",
}


@pytest.mark.every_pair
@pytest.mark.parametrize("which", [max, to_come], ids=["a chunk that was read", "a chunk to come"])
@pytest.mark.parametrize("change", CHUNK_CHANGES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_changes_while_the_array_is_read_is_an_error(tmp_path, monkeypatch, layout, change, which):
    path, out = tmp_path / "probs.zarr", tmp_path / "out.zarr"
    store(path, PROBS, LAYOUTS[layout])
    chosen = []

    def act(batches):
        chosen.append(which(batches))
        change(path, chosen[0], LAYOUTS[layout])

    at_read(monkeypatch, 3, act)
    with pytest.raises(UnreadableDataError, match=CHUNK_CHANGES[change]) as caught:
        find(LABELS, path, output=out, **READ_BY_BATCH, retries=0)
    start = chosen[0] * BATCH
    assert f"rows {start:,}..{start + BATCH - 1:,}" in str(caught.value)
    assert "probs.zarr" in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("layout", ["direct", "shards"])
def test_a_chunk_that_is_written_while_the_array_is_read_is_an_error(tmp_path, monkeypatch, layout):
    path = tmp_path / "labels.zarr"
    shape = {"chunks": (50,)} | ({"shards": (BATCH,)} if layout == "shards" else {})
    store(path, np.where(np.arange(N_ROWS) < 500, LABELS, 0), shape)
    monkeypatch.setattr("labelsieve.job.inputs._READ_FIRST_BYTES", -1)

    def write(_):
        zarr.open_array(path, mode="r+")[500:] = LABELS[500:]

    at_read(monkeypatch, 2, write)
    with (
        pytest.warns(LabelsieveWarning, match=r"of labels are not stored .*: 100 rows \(500..599\) read as class 0"),
        pytest.raises(ChangedDataError, match="has changed since the run began"),
    ):
        find(path, PROBS, **READ_BY_BATCH)


def test_changed_metadata_is_an_error(tmp_path, monkeypatch):
    array = store(tmp_path / "probs.zarr", PROBS, LAYOUTS["direct"])
    at_read(monkeypatch, 6, lambda _: array.resize((N_ROWS - 1, N_CLASSES)))
    with pytest.raises(ChangedDataError, match=r"zarr\.json has changed since the run began"):
        find(LABELS, tmp_path / "probs.zarr", **READ_BY_BATCH)


def test_metadata_that_change_between_opening_and_listing_are_an_error(tmp_path):
    store(tmp_path / "p.zarr", PROBS, LAYOUTS["direct"])
    source = open_pred_probs(tmp_path / "p.zarr")
    shutil.rmtree(tmp_path / "p.zarr")
    store(tmp_path / "p.zarr", OTHER, LAYOUTS["direct"])
    source.note_version()
    with pytest.raises(ChangedDataError, match=r"zarr\.json has changed since the run began"):
        source.open()


def test_an_archive_is_watched(tmp_path, monkeypatch, want):
    path = tmp_path / "p.zip"
    with zarr.storage.ZipStore(path, mode="w") as made:
        store(made, PROBS, LAYOUTS["direct"])
    with zarr.storage.ZipStore(path, mode="r") as opened:
        array = zarr.open_array(opened, mode="r")
        assert_same_bits(find(LABELS, array, **READ_BY_BATCH), want)
        at_read(monkeypatch, 2, lambda _: os.utime(path))
        with pytest.raises(ChangedDataError, match=r"p\.zip has changed since the run began"):
            find(LABELS, array, **READ_BY_BATCH)


def test_of_many_chunks_each_read_is_checked_and_they_are_listed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_arrays, "MOST_LISTED_TWICE", 5)
    looks = []
    inner = zarr_arrays.chunk_files
    monkeypatch.setattr(zarr_arrays, "chunk_files", lambda *given: looks.append(1) or inner(*given))
    for layout in ("direct", "split classes"):
        path = tmp_path / f"{layout}.zarr"
        store(path, PROBS, LAYOUTS[layout])
        looks.clear()
        find(LABELS, path, **READ_BY_BATCH)
        assert len(looks) == 1
        at_read(monkeypatch, 3, lambda batches, path=path: rewrite_chunk(path, to_come(batches), {}))
        with pytest.raises(ChangedDataError, match="overwritten"):
            find(LABELS, path, **READ_BY_BATCH)
        monkeypatch.undo()
        monkeypatch.setattr(zarr_arrays, "MOST_LISTED_TWICE", 5)
        monkeypatch.setattr(zarr_arrays, "chunk_files", lambda *given: looks.append(1) or inner(*given))


def test_files_of_chunks_are_looked_at_in_threads_where_there_are_many(tmp_path, monkeypatch):
    store(tmp_path / "p.zarr", PROBS, {"chunks": (7, 4)})
    shutil.rmtree(tmp_path / "p.zarr" / "c" / "3")
    source = open_pred_probs(tmp_path / "p.zarr")
    source.note_version()
    monkeypatch.setattr(zarr_chunks, "_FEW_FILES", 10)
    other = open_pred_probs(tmp_path / "p.zarr")
    other.note_version()
    assert len(source.stored.stamps) == 86 * 2
    np.testing.assert_array_equal(other.stored.stamps, source.stored.stamps)
    np.testing.assert_array_equal(np.flatnonzero(source.stored.stamps == 0), [6, 7])
    assert zarr_chunks.key_of(source.array, 7) == "c/3/1"


def test_files_of_chunks_are_looked_at_once_where_a_workdir_asks_too(tmp_path, monkeypatch, want):
    store(tmp_path / "p.zarr", PROBS, LAYOUTS["direct"])
    looked, inner = [], zarr_chunks.file_stamp
    monkeypatch.setattr(
        zarr_chunks, "file_stamp", lambda path: (isinstance(path, str) and looked.append(path)) or inner(path)
    )
    monkeypatch.setattr(zarr_arrays, "MOST_LISTED_TWICE", 0)
    for n_resumed in (0, N_ROWS):
        found = find(LABELS, tmp_path / "p.zarr", workdir=tmp_path / "work", **READ_BY_BATCH)
        assert_same_bits(found, want)
        assert found.facts.rows_resumed == n_resumed
        assert len(looked) == len(set(looked)) == N_ROWS // BATCH
        looked.clear()


# URLs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with s3.running_server() as running:
        yield running


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, as a URL and a file system."""
    server.set_environment(monkeypatch)
    fs, name = fsspec.filesystem("s3"), f"b{time.time_ns()}"
    fs.mkdir(name)
    yield f"s3://{name}", fs
    s3.clear_clients()


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield "memory://folder", fs
    fs.rm("/", recursive=True)
    fs.store.clear()


PLACES = pytest.mark.parametrize("place", [pytest.param("bucket", marks=pytest.mark.slow), "memory"])


def put(fs, url, array):
    with fs.open(url, "wb") as file:
        np.save(file, array)


def put_zarr(fs, url, array, layout, *, metadata=True):
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, shape=array.shape, dtype=array.dtype, **layout)[:] = array
    objects = {f"{url}/{key}": buffer.to_bytes() for key, buffer in store._store_dict.items()}
    fs.pipe({key: content for key, content in objects.items() if metadata or key.rpartition("/")[2][-1].isdecimal()})


def at_request(monkeypatch, number, act):
    """Act once, before piece `number` of any object is asked for: counted from 1."""
    numbers, inner = itertools.count(1), object_store.ObjectStore.read

    def counted(self, path, start, stop, what=""):
        if what.startswith("rows") and next(numbers) == number:
            act()
        return inner(self, path, start, stop, what)

    monkeypatch.setattr(object_store.ObjectStore, "read", counted)


@PLACES
@pytest.mark.parametrize("number", [1, 6], ids=["first request", "last request"])
def test_an_object_that_changes_while_it_is_read_is_an_error(request, monkeypatch, tmp_path, place, number):
    url, fs = request.getfixturevalue(place)
    put(fs, f"{url}/p.npy", PROBS)
    at_request(monkeypatch, number, lambda: put(fs, f"{url}/p.npy", OTHER))
    with pytest.raises(ChangedDataError, match=r"p\.npy .*has changed since the run began: it was overwritten"):
        find(LABELS, f"{url}/p.npy", output=tmp_path / "out.zarr", **READ_BY_BATCH)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.slow
def test_an_object_that_was_another_for_a_moment_is_seen_by_the_read_itself(bucket, monkeypatch):
    url, fs = bucket
    put(fs, f"{url}/p.npy", PROBS)
    at_request(monkeypatch, 3, lambda: put(fs, f"{url}/p.npy", OTHER))
    at_request(monkeypatch, 4, lambda: put(fs, f"{url}/p.npy", PROBS))
    with pytest.raises(ChangedDataError, match=r"p\.npy \(rows .*\) has changed since the run began"):
        find(LABELS, f"{url}/p.npy", **READ_BY_BATCH)


@PLACES
def test_shards_at_urls_are_checked(request, place):
    url, fs = request.getfixturevalue(place)
    for i in range(6):
        put(fs, f"{url}/p/probs-{i}.npy", PROBS[i * 100 : i * 100 + 100])
    source = open_pred_probs(f"{url}/p")
    source.check_version()
    put(fs, f"{url}/p/probs-4.npy", OTHER[400:500])
    with pytest.raises(ChangedDataError, match=r"probs-4\.npy has changed since the run began: it was overwritten"):
        source.check_version()
    fs.rm(f"{url}/p/probs-2.npy")
    with pytest.raises(UnreadableDataError, match=r"probs-2\.npy was there when the run began, and is gone"):
        source.check_version()


@PLACES
@pytest.mark.parametrize("layout", ["direct", "direct, format 2", "split classes", "shards"])
def test_a_stored_chunk_at_a_url_that_changes_is_an_error(request, monkeypatch, place, layout):
    url, fs = request.getfixturevalue(place)
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS[layout])
    want = find(LABELS, PROBS)
    assert_same_bits(find(LABELS, f"{url}/p.zarr", **READ_BY_BATCH), want)
    # Before the last look, whichever way the chunks are read.
    check = remote_zarr.RemoteZarrSource.check_version

    def changing(self):
        put_zarr(fs, f"{url}/p.zarr", OTHER, LAYOUTS[layout], metadata=False)
        check(self)

    monkeypatch.setattr(remote_zarr.RemoteZarrSource, "check_version", changing)
    with pytest.raises(ChangedDataError, match=r"\(\d+ chunks differ\): chunk (c/)?0[./]0 \(rows 0..99\) has changed"):
        find(LABELS, f"{url}/p.zarr", **READ_BY_BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_a_store_that_allows_reading_and_not_listing_is_read(bucket, want, kind):
    url, fs = bucket
    if kind == "npy":
        for i in range(6):
            put(fs, f"{url}/unlisted/{i}.npy", PROBS[i * 100 : i * 100 + 100])
        shards = [f"{url}/unlisted/{i}.npy" for i in range(6)]
        assert_same_bits(find(LABELS, shards, **READ_BY_BATCH), want)
        source = open_pred_probs(shards)
        put(fs, shards[4], OTHER[:100])
        with pytest.raises(ChangedDataError, match=r"unlisted/4\.npy has changed since .*: it was overwritten"):
            source.check_version()
    else:
        put_zarr(fs, f"{url}/unlisted.zarr", PROBS, LAYOUTS["direct"])
        with pytest.warns(LabelsieveWarning, match="this store allows reading, but not listing"):
            assert_same_bits(find(LABELS, f"{url}/unlisted.zarr", **READ_BY_BATCH), want)


@pytest.mark.parametrize("layout", ["direct", "split classes"])
def test_where_nothing_is_listed_an_absent_chunk_is_believed_the_second_time_and_said(
    memory, monkeypatch, want, layout
):
    url, fs = memory
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS[layout])
    put_zarr(fs, f"{url}/l.zarr", LABELS, {"chunks": (50,)})

    def refused(*_, **__):
        raise object_store.RefusedError("no listing")

    failed, inner = set(), fs.cat_file

    def fails_once(path, **how):
        if path not in failed and path.rpartition("/")[2].isdecimal():
            failed.add(path)
            raise FileNotFoundError(path)
        return inner(path, **how)

    monkeypatch.setattr(object_store.ObjectStore, "listed", refused)
    monkeypatch.setattr(type(fs), "cat_file", lambda _, path, **how: fails_once(path, **how))
    with pytest.warns(LabelsieveWarning) as caught:
        assert_same_bits(find(f"{url}/l.zarr", f"{url}/p.zarr", **READ_BY_BATCH), want)
    assert len(failed) == 12 + 6 * (3 if layout == "split classes" else 1)
    assert not any("not stored" in str(one.message) for one in caught)
    for name in ("l.zarr/c/3", "l.zarr/c/11", "p.zarr/c/2/0"):
        fs.rm(f"{url}/{name}")
    with pytest.warns(LabelsieveWarning) as caught:
        find(f"{url}/l.zarr", f"{url}/p.zarr", allow_zero_rows=True, allow_unnormalized_rows=True)
    said = sorted(str(one.message).partition("folder/")[2] for one in caught if "not stored" in str(one.message))
    assert said[0].startswith("l.zarr: chunks that are not stored: c/3, c/11 (2 in all). Nothing lists what should be")
    assert said[1].startswith("p.zarr: chunks that are not stored: c/2/0 (1 in all). Nothing lists what should be")


def without_etags(listing):
    return [{k: v for k, v in info.items() if k != "ETag"} for info in listing]


@pytest.mark.slow
def test_a_store_without_etags_tells_times_otherwise_in_listings_and_answers(bucket, monkeypatch, want):
    url, fs = bucket
    for i in range(6):
        put(fs, f"{url}/p/{i}.npy", PROBS[i * 100 : i * 100 + 100])
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS["direct"])
    call, info, listing = type(fs)._call_s3, object_store.ObjectStore.info, object_store.ObjectStore.listed

    async def answer(self, method, *given, **how):
        found = await call(self, method, *given, **how)
        if method == "get_object":
            found.pop("ETag")
        return found

    def by_the_second(self, *given):
        found = without_etags([info(self, *given)])[0]
        return found | {"LastModified": "2026-01-01 00:00:00"}

    def by_the_millisecond(self, *given, **how):
        return [
            one | {"LastModified": "2026-01-01 00:00:00.123"} for one in without_etags(listing(self, *given, **how))
        ]

    monkeypatch.setattr(type(fs), "_call_s3", answer)
    monkeypatch.setattr(object_store.ObjectStore, "info", by_the_second)
    monkeypatch.setattr(object_store.ObjectStore, "listed", by_the_millisecond)
    for place in (f"{url}/p.zarr", f"{url}/p", [f"{url}/p/{i}.npy" for i in range(6)]):
        assert_same_bits(find(LABELS, place, **READ_BY_BATCH), want)


@pytest.mark.slow
def test_each_answer_of_s3_is_checked_so_that_many_chunks_are_listed_once(bucket, server, monkeypatch):
    url, fs = bucket
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS["direct"])
    monkeypatch.setattr(remote_zarr, "MOST_LISTED_TWICE", 5)
    server.requests()
    find(LABELS, f"{url}/p.zarr", **READ_BY_BATCH)
    root = f"/{url.removeprefix('s3://')}"
    assert sum(method == "GET" and path == root for method, path, _ in server.requests()) == 1
    at_request(monkeypatch, 3, lambda: put_zarr(fs, f"{url}/p.zarr", OTHER, LAYOUTS["direct"], metadata=False))
    with pytest.raises(ChangedDataError, match=r"p\.zarr/c/\d/0 \(rows \d+..\d+\) has changed .* it was overwritten"):
        find(LABELS, f"{url}/p.zarr", **READ_BY_BATCH)


@PLACES
@pytest.mark.parametrize("layout", ["direct", "shards"])
def test_a_request_for_a_listed_chunk_that_fails_with_404_is_tried_again(request, monkeypatch, place, layout):
    url, fs = request.getfixturevalue(place)
    put_zarr(fs, f"{url}/labels.zarr", LABELS, {"chunks": (50,)} | ({"shards": (100,)} if layout == "shards" else {}))
    calls, opened = [], object_store.ObjectStore.at(url)[0].fs
    inner, with_version = opened.cat_file, getattr(opened, "read_version", None)

    def missing(path):
        calls.extend([path] if path.endswith("labels.zarr/c/3") else [])
        if path.endswith("labels.zarr/c/3") and len(calls) in failing:
            raise FileNotFoundError(path)

    def cat_file(path, *given, **options):
        missing(path)
        return inner(path, *given, **options)

    async def read_version(path, *given):
        missing(path)
        return await with_version(path, *given)

    monkeypatch.setattr(opened, "cat_file", cat_file)
    if with_version is not None:
        monkeypatch.setattr(opened, "read_version", read_version)
    failing = {1}
    assert_same_bits(find(f"{url}/labels.zarr", PROBS, **READ_BY_BATCH), find(LABELS, PROBS))
    assert len(calls) >= 2
    failing = set(range(1000))
    with pytest.raises(UnreadableDataError, match=r"c/3.* when the run began, and is gone"):
        find(f"{url}/labels.zarr", PROBS, **READ_BY_BATCH)


@PLACES
def test_chunks_at_urls_that_are_not_stored_are_said(request, place):
    url, fs = request.getfixturevalue(place)
    put_zarr(fs, f"{url}/labels.zarr", np.sort(LABELS), {"chunks": (50,)})
    with pytest.warns(LabelsieveWarning, match=r"chunks of labels are not stored in .*labels\.zarr: 50 rows \(0..49\)"):
        find(f"{url}/labels.zarr", PROBS[IN_ORDER])
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS["direct"])
    fs.rm(f"{url}/p.zarr/c/4/0")
    with pytest.raises(InvalidInputError, match=r"1 of 6 chunks of pred_probs .* nothing is stored of 100 rows \(400"):
        find(LABELS, f"{url}/p.zarr")


@pytest.mark.every_value
@pytest.mark.parametrize("cut", [{}, {"batch_size": 70}, READ_BY_BATCH], ids=["one partition", "cut chunks", "many"])
@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_one_failed_request_of_any_kind_ends_no_run(memory, monkeypatch, kind, cut):
    url, fs = memory
    put(fs, f"{url}/labels.npy", LABELS)
    put(fs, f"{url}/p.npy", PROBS)
    put_zarr(fs, f"{url}/labels.zarr", LABELS, {"chunks": (100,)})
    put_zarr(fs, f"{url}/p.zarr", PROBS, LAYOUTS["direct"])
    inputs, want = (f"{url}/labels.{kind}", f"{url}/p.{kind}"), find(LABELS, PROBS)
    requests, failing = itertools.count(1), [0]
    for name in ("cat_file", "info", "find"):
        inner = getattr(type(fs), name)

        def failed_once(self, *given, inner=inner, **options):
            if next(requests) == failing[0]:
                raise OSError("connection reset")
            return inner(self, *given, **options)

        monkeypatch.setattr(type(fs), name, failed_once)
    assert_same_bits(find(*inputs, **cut), want)
    n_requests = next(requests) - 1
    assert n_requests >= 6
    for number in range(1, n_requests + 1):
        requests, failing[0] = itertools.count(1), number
        assert_same_bits(find(*inputs, **cut), want)
        requests = itertools.count(1)
        with pytest.raises(UnreadableDataError, match="connection reset"):
            find(*inputs, **cut, retries=0)


def test_one_failed_read_ends_no_batch_of_an_inspector(memory, monkeypatch):
    url, fs = memory
    put(fs, f"{url}/p.npy", PROBS)
    inner, calls = type(fs).cat_file, itertools.count(1)

    def failed_once(self, *given, **options):
        if next(calls) == 2:
            raise OSError("connection reset")
        return inner(self, *given, **options)

    monkeypatch.setattr(type(fs), "cat_file", failed_once)
    inspector = labelsieve.LabelInspector(num_class=N_CLASSES, verbose=False)
    inspector.update_confident_thresholds(LABELS, f"{url}/p.npy")
    assert next(calls) > 3
    np.testing.assert_array_equal(inspector.get_confident_thresholds(), find(LABELS, PROBS).confident_thresholds)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_shards_are_what_they_are_whatever_their_names(tmp_path, request, place):
    """A Zarr array in a folder of another name, and files of another one, which are refused by name."""
    url, fs = (
        (str(tmp_path), fsspec.filesystem("file", auto_mkdir=True))
        if place == "local"
        else request.getfixturevalue(place)
    )
    for i in range(2):
        put_zarr(fs, f"{url}/folders/p-{i}.npy", PROBS[i * 300 : i * 300 + 300], LAYOUTS["direct"])
    assert_same_bits(find(LABELS, f"{url}/folders/p-*"), find(LABELS, PROBS))
    for i in range(2):
        put(fs, f"{url}/files/p-{i}.bin", PROBS[i * 300 : i * 300 + 300])
    with pytest.raises(
        InvalidInputError,
        match=r"has no \.npy, \.npz or safetensors files and no \.zarr arrays; it has p-0\.bin, p-1\.bin",
    ):
        find(LABELS, f"{url}/files/p-*")


# Chunks that are not stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{"chunks": (50,)}, {"chunks": (50,), "zarr_format": 2}], ids=str)
def test_labels_without_a_stored_chunk_are_the_fill_value_and_said(tmp_path, layout):
    in_order, probs = LABELS[IN_ORDER], PROBS[IN_ORDER]
    assert (in_order[:50] == 0).all()
    store(tmp_path / "labels.zarr", in_order, layout)
    with pytest.warns(LabelsieveWarning) as caught:
        found = find(tmp_path / "labels.zarr", probs)
    n_zeros = int((in_order == 0).sum()) // 50 * 50
    [said] = caught
    assert str(said.message) == (
        f"{n_zeros // 50} of 12 chunks of labels are not stored in {tmp_path}/labels.zarr: {n_zeros} rows "
        f"(0..{n_zeros - 1}) read as class 0, the array's fill value. Zarr leaves out chunks that hold nothing else, "
        "as in labels sorted by class; if these rows have other labels, write them"
    )
    assert_same_bits(found, find(in_order, probs))


@pytest.mark.parametrize("transform", [lambda array: array, lambda array: array.rechunk(70) + 0])
def test_chunks_behind_a_dask_array_that_are_not_stored_are_said(tmp_path, transform):
    store(tmp_path / "labels.zarr", LABELS, {"chunks": (50,)})
    store(tmp_path / "probs.zarr", PROBS, {"chunks": (50, N_CLASSES)}, fill_value=1 / N_CLASSES)
    given = [transform(da.from_zarr(tmp_path / name)) for name in ("labels.zarr", "probs.zarr")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_bits(find(*given), find(LABELS, PROBS))
    (tmp_path / "labels.zarr" / "c" / "3").unlink()
    (tmp_path / "probs.zarr" / "c" / "5" / "0").unlink()
    with pytest.warns(LabelsieveWarning) as caught:
        find(*given)
    of_labels, of_probs = (str(one.message) for one in caught if "not stored" in str(one.message))
    assert of_labels.startswith("1 of 12 chunks of labels are not stored in ")
    assert f"{tmp_path}/labels.zarr: 50 rows (150..199) read as class 0, the array's fill value" in of_labels
    assert of_probs.startswith("1 of 12 chunks of pred_probs are not stored in ")
    assert of_probs.endswith(
        f"{tmp_path}/probs.zarr: 50 rows (250..299) read as {1 / N_CLASSES:g}, the array's fill value"
    )


def test_shards_of_labels_name_the_rows_of_the_whole(tmp_path):
    for i in range(2):
        store(tmp_path / f"labels-{i}.zarr", LABELS[i * 300 : i * 300 + 300], {"chunks": (50,)})
    (tmp_path / "labels-0.zarr" / "c" / "1").unlink()
    for chunk in (2, 3, 5):
        (tmp_path / "labels-1.zarr" / "c" / str(chunk)).unlink()
    holes = LABELS.copy()
    for start in (50, 400, 450, 550):
        holes[start : start + 50] = 0
    with pytest.warns(LabelsieveWarning, match=r"^4 of 12 chunks .* 200 rows \(50..99, 400..499, 550..599\) read as"):
        found = find([tmp_path / f"labels-{i}.zarr" for i in range(2)], PROBS)
    assert_same_bits(found, find(holes, PROBS))


@pytest.mark.every_value
@pytest.mark.parametrize("layout", ["direct", "split classes", "shards"])
@pytest.mark.parametrize("fill", [0, 1 / N_CLASSES, np.nan])
def test_rows_without_stored_probabilities_are_an_error_before_anything_is_read(tmp_path, monkeypatch, layout, fill):
    store(tmp_path / "probs.zarr", PROBS, LAYOUTS[layout], fill_value=fill)
    for chunk in (1, 2, 4):
        shutil.rmtree(tmp_path / "probs.zarr" / "c" / str(chunk))
    at_read(monkeypatch, 1, lambda _: pytest.fail("nothing is to be read"))
    with pytest.raises(InvalidInputError) as caught:
        find(LABELS, tmp_path / "probs.zarr")
    n, of = {"direct": (3, 6), "split classes": (9, 18), "shards": (3, 6)}[layout]
    accepts = " (find_label_issues accepts them with allow_zero_rows=True)" if fill == 0 else ""
    assert str(caught.value) == (
        f"{n} of {of} chunks of pred_probs are not stored in {tmp_path}/probs.zarr: nothing is stored of 300 rows "
        f"(100..299, 400..499), which would read as {fill:g}, the array's fill value{accepts}: missing chunk? Write "
        "these rows, or leave them out of the array"
    )
    if fill == 0:
        monkeypatch.undo()
        holes = PROBS.copy()
        holes[100:300] = holes[400:500] = 0
        found = find(LABELS, tmp_path / "probs.zarr", allow_zero_rows=True)
        want = find(LABELS, holes, allow_zero_rows=True)
        np.testing.assert_array_equal(found.scores, want.scores)
        np.testing.assert_array_equal(found.confident_thresholds, want.confident_thresholds)


def test_rows_of_which_some_classes_are_not_stored_are_said(tmp_path):
    sparse = PROBS.copy()
    sparse[200:300, 2:4] = 0
    sparse[200:300] /= sparse[200:300].sum(axis=1, keepdims=True)
    store(tmp_path / "probs.zarr", sparse, LAYOUTS["split classes"])
    with pytest.warns(LabelsieveWarning) as caught:
        found = find(LABELS, tmp_path / "probs.zarr")
    [said] = caught
    assert str(said.message) == (
        f"1 of 18 chunks of pred_probs are not stored in {tmp_path}/probs.zarr: some classes of 100 rows (200..299) "
        "read as 0, the array's fill value. Zarr leaves out chunks that hold nothing else; if these classes have other "
        "probabilities, write them"
    )
    assert_same_bits(found, find(LABELS, sparse))


@pytest.mark.every_value
@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("shape", [(650,), (650, 7)], ids=["labels", "probabilities"])
def test_shards_that_are_missing_are_known(tmp_path, monkeypatch, shape, location):
    rng = np.random.default_rng(3)
    data = rng.random(shape) + 1
    data[100:150] = data[600:] = 0  # two chunks inside a shard, and a whole shard
    chunks, shards = ((25,), (100,)) if len(shape) == 1 else ((25, 2), (100, 4))
    if len(shape) == 2:
        data[200:300, 4:] = 0
    sharding = zarr.codecs.ShardingCodec(chunk_shape=chunks, index_location=location)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=shape, dtype="f8", chunks=shards, serializer=sharding, compressors=None, filters=None
    )
    array[:] = data
    source = zarr_arrays.ZarrSource(zarr.open_array(tmp_path / "a.zarr", mode="r"))
    source.note_version()
    missing = source.missing_rows()
    assert missing.whole == [(600, 650)]
    assert missing.partly == ([] if len(shape) == 1 else [(200, 300)])
    assert (missing.n_missing, missing.n_chunks) == ((1, 7) if len(shape) == 1 else (3, 14))
    monkeypatch.setattr(zarr_chunks, "_FEW_FILES", 3)
    other = zarr_arrays.ZarrSource(zarr.open_array(tmp_path / "a.zarr", mode="r"))
    other.note_version()
    assert other.missing_rows() == missing, "in threads"


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_ids_that_change_are_an_error(tmp_path, kind, want):
    ids, path = np.arange(N_ROWS) + 5000, tmp_path / f"ids.{kind}"
    if kind == "npy":
        np.save(path, ids)
    else:
        store(path, ids, {"chunks": (100,)})
    result = find(LABELS, PROBS, ids=path)
    np.testing.assert_array_equal(result.ids.part(0, 3, want.indices[:3]), want.indices[:3] + 5000)
    [first] = want.indices[:1] // 100
    if kind == "npy":
        write_into(path, ids[::-1])
    else:
        zarr.open_array(path, mode="r+")[first * 100 : first * 100 + 100] = 7
    with pytest.raises(ChangedDataError, match=r"ids.* has changed since the run began"):
        result.ids.part(0, 3, want.indices[:3])


def test_the_inspector_and_the_counts_say_what_is_not_stored_too(tmp_path):
    store(tmp_path / "labels.zarr", np.sort(LABELS), {"chunks": (50,)})
    labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    inspector = labelsieve.LabelInspector(num_class=N_CLASSES, verbose=False)
    with pytest.warns(LabelsieveWarning, match="chunks of labels are not stored"):
        inspector.update_confident_thresholds(labels, PROBS)
    with pytest.warns(LabelsieveWarning, match="chunks of labels are not stored"):
        count.estimate_joint(labels, confident_joint=np.eye(N_CLASSES, dtype=int), dense=True)


@pytest.mark.parametrize("layout", ["direct", "shards"])
def test_a_chunk_that_is_listed_is_looked_for_again(tmp_path, monkeypatch, want, layout):
    """As on a shared disk where a file is away for a moment."""
    path = tmp_path / "probs.zarr"
    store(path, PROBS, LAYOUTS[layout])
    away, files = tmp_path / "away", []

    def move(batches):
        files.append(path / "c" / str(to_come(batches)) / "0")
        files[0].rename(away)

    at_read(monkeypatch, 2, move)
    sleep, pause = time.sleep, asyncio.sleep

    def back():
        if away.exists():
            away.rename(files[0])

    async def waiting(seconds):
        back()
        await pause(0)

    monkeypatch.setattr(time, "sleep", lambda seconds: back() or sleep(0))
    monkeypatch.setattr(asyncio, "sleep", waiting)
    assert_same_bits(find(LABELS, path, **READ_BY_BATCH), want)
    assert files
    assert not away.exists()
