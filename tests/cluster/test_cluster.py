"""Clusters: the bits of threads, work where it was asked for, little over the wire, plain words where it cannot be."""

from __future__ import annotations

import asyncio
import pickle
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, SchedulerPlugin

import labelsieve
from draws import assert_same_array, assert_same_bits, draw, find
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveWarning, MemoryLimitError, TaskFailedError
from labelsieve.execution import cluster as choice
from labelsieve.execution import cluster as cluster_executor
from labelsieve.execution import cluster as local_cluster
from labelsieve.job import inputs
from labelsieve.job import inputs as opening
from labelsieve.sources.zarr import ZarrSource
from processes import Processes, assert_same_output

N_ROWS, N_CLASSES = 3000, 5
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=9, dtype=np.float32)
# Some twenty partitions, whose last one is short.
CUT = {"batch_size": 70, "partition_batches": 2}
# Without an address a scheduler takes port 8787 for its HTTP server, which may be taken.
HTTP = "127.0.0.1:0"
METHODS = [
    {"method": method, "adjust_pred_probs": adjust, "estimation_method": estimation}
    for method, adjust in (
        ("self_confidence", False),
        ("self_confidence", True),
        ("normalized_margin", False),
        ("normalized_margin", True),
        ("confidence_weighted_entropy", False),
    )
    for estimation in ("off_diagonal", "off_diagonal_calibrated")
]


class Tasks(SchedulerPlugin):
    """Counts the tasks that a scheduler has sent to workers, by layer, and the partitions that each worker has read."""

    def __init__(self):
        self.layers, self.workers = Counter(), Counter()

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "processing":
            name = key[0].rpartition("-")[0] if isinstance(key, tuple) else "shared"
            # The only task of a map is fused with what it shares; its own key is an alias.
            self.layers["shared" if name.startswith("Task-") else name] += 1
        if finish == "memory" and isinstance(key, tuple) and key[0].startswith("scan-") and "worker" in kwargs:
            self.workers[kwargs["worker"]] += 1

    @property
    def total(self):
        """Tasks on rows, without the functions that they share and the question whether there is a worker."""
        return self.layers.total() - self.layers["shared"]


def small_cluster(**options):
    """Two workers in this process."""
    settings = {"n_workers": 2, "threads_per_worker": 2, "processes": False, "dashboard_address": HTTP}
    return LocalCluster(**(settings | options))


def counting(cluster):
    plugin = Tasks()
    cluster.scheduler.add_plugin(plugin, name=f"tasks-{id(plugin)}")
    return plugin


@pytest.fixture(scope="module")
def cluster():
    with small_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def in_process(cluster):
    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def in_processes():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=HTTP) as running,
        Client(running, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["in_process", pytest.param("in_processes", marks=pytest.mark.slow)])
def client(request):
    """A client that is not the active one, of workers in this process or in their own."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def want():
    with dask.config.set(scheduler="threads"):
        return find(LABELS, PROBS, **CUT)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The inputs as files of all kinds."""
    folder = tmp_path_factory.mktemp("stored")
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "probs.npy", PROBS)
    for name, data, chunks in (("labels.zarr", LABELS, (500,)), ("probs.zarr", PROBS, (140, N_CLASSES))):
        zarr.create_array(str(folder / name), shape=data.shape, chunks=chunks, dtype=data.dtype)[:] = data
    with h5py.File(folder / "probs.h5", "w") as file:
        file.create_dataset("probs", data=PROBS, chunks=(140, N_CLASSES))
    for i, (labels, probs) in enumerate(zip(np.array_split(LABELS, 7), np.array_split(PROBS, 7), strict=True)):
        for name, data in (("labels", labels), ("probs", probs)):
            (folder / f"{name}-shards").mkdir(exist_ok=True)
            np.save(folder / f"{name}-shards" / f"{name}-{i}.npy", data)
    return folder


KINDS = {
    "memory": lambda _: (LABELS, PROBS),
    "lists": lambda _: (LABELS.tolist(), PROBS),
    "npy": lambda folder: (folder / "labels.npy", str(folder / "probs.npy")),
    "memmap": lambda folder: (np.load(folder / "labels.npy", "r"), np.load(folder / "probs.npy", "r")),
    "zarr": lambda folder: (str(folder / "labels.zarr"), folder / "probs.zarr"),
    "zarr array": lambda folder: (zarr.open_array(folder / "labels.zarr"), zarr.open_array(folder / "probs.zarr")),
    "shards": lambda folder: (folder / "labels-shards", f"{folder}/probs-shards/*.npy"),
    "dask": lambda folder: (da.from_zarr(folder / "labels.zarr"), da.from_zarr(folder / "probs.zarr")),
    "dask cut across": lambda _: (LABELS, da.from_array(PROBS, chunks=(130, 2))),
    "dask and file": lambda folder: (folder / "labels.npy", da.from_array(PROBS, chunks=(130, -1))),
}


# The same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_gives_the_bits_of_threads(client, stored, want, kind):
    assert_same_bits(find(*KINDS[kind](stored), client=client, **CUT), want)


def test_a_recording_gives_the_bits_of_threads(client, tmp_path, want):
    """Rows in random order, in two parts, some of them twice."""
    order = np.random.default_rng(0).permutation(np.concatenate([np.arange(N_ROWS), np.arange(100)]))
    for part, rows in enumerate(np.array_split(order, 2)):
        with labelsieve.Recorder(tmp_path / "recording", N_CLASSES, part=part, flush_rows=400) as recorder:
            for these in np.array_split(rows, 10):
                recorder.update(LABELS[these], PROBS[these], rows=these)
    settings = {"summaries": tmp_path / "recording", "client": client, "progress": False, **CUT}
    assert_same_bits(labelsieve.find_label_issues(**settings), want)
    stored = labelsieve.find_label_issues(**settings, workdir=tmp_path / "work", output=str(tmp_path / "out.zarr"))
    assert_same_bits(stored, want)


@pytest.mark.every_value
@pytest.mark.parametrize("filter_by", [None, "both"])
@pytest.mark.parametrize("kept", ["workers", "store", "array"])
def test_names_and_rows_without_a_label_give_the_bits_of_threads(client, stored, tmp_path, filter_by, kept):
    names = np.array(["ant", "bee", "cat", "dog", "eel"])[LABELS]
    gone = np.arange(N_ROWS) % 3 == 0
    names = np.where(gone, "none", names)
    np.save(tmp_path / "y.npy", names)
    labels = names if kept == "array" else tmp_path / "y.npy"
    choices = {"filter_by": filter_by, **CUT}
    output = tmp_path / "found.zarr" if kept == "store" else None
    with dask.config.set(scheduler="threads"):
        alone = find(np.where(gone, -1, LABELS), PROBS, ignore_label=-1, **choices)
    found = find(labels, stored / "probs.npy", ignore_label="none", client=client, output=output, **choices)
    assert found.n_ignored == gone.sum()
    assert found.class_names == ("ant", "bee", "cat", "dog", "eel")
    assert found.indices.tolist() == alone.indices.tolist()
    assert np.asarray(found.scores).tobytes() == np.asarray(alone.scores).tobytes()
    assert found.confident_thresholds.tobytes() == alone.confident_thresholds.tobytes()


def test_hdf5_gives_the_bits_of_threads(client, stored, want):
    with h5py.File(stored / "probs.h5") as file:
        assert_same_bits(find(stored / "labels.npy", file["probs"], client=client, **CUT), want)


@pytest.mark.parametrize(
    "kept", ["output", *(pytest.param(kept, marks=pytest.mark.slow) for kept in ("memory", "workdir"))]
)
@pytest.mark.parametrize("settings", METHODS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_method_gives_the_bits_of_threads(in_process, stored, tmp_path, settings, kept):
    with dask.config.set(scheduler="threads"):
        want = find(LABELS, PROBS, **settings)
    place = {"memory": {}, "workdir": {"workdir": tmp_path / "wd"}, "output": {"output": tmp_path / "out.zarr"}}[kept]
    found = find(stored / "labels.npy", stored / "probs.npy", client=in_process, **settings, **place, **CUT)
    assert_same_bits(found, want)
    if kept == "output":
        assert_same_output(tmp_path / "out.zarr", want)


@pytest.mark.slow
@pytest.mark.parametrize("settings", METHODS[::3], ids=lambda settings: "-".join(map(str, settings.values())))
def test_methods_give_the_bits_of_threads_in_other_processes(in_processes, stored, tmp_path, settings):
    with dask.config.set(scheduler="threads"):
        want = find(LABELS, PROBS, **settings)
    for place in ({}, {"workdir": tmp_path / "wd", "output": tmp_path / "out.zarr"}):
        assert_same_bits(find(*KINDS["zarr"](stored), client=in_processes, **settings, **place, **CUT), want)
    assert_same_bits(find(LABELS, PROBS, client=in_processes, **settings, **CUT), want)


@pytest.mark.parametrize("kind", ["memory", "zarr", "dask"])
def test_a_workdir_goes_on_wherever_it_was_begun(in_process, stored, tmp_path, want, kind):
    labels, probs = KINDS[kind](stored)
    runs = [{"client": in_process}, {}, {"client": in_process, "output": tmp_path / "out.zarr"}]
    found = [find(labels, probs, workdir=tmp_path / "wd", **run, **CUT) for run in runs]
    for one in found:
        assert_same_bits(one, want)
    assert [one.facts.rows_read for one in found] == [N_ROWS, 0, 0]


def test_partitions_of_any_size_give_the_same_bits(in_process, stored, want):
    for batch_size, partition_batches in ((33, 1), (33, 4), (1000, 1), (1000, "auto"), ("auto", "auto")):
        cut = {"batch_size": batch_size, "partition_batches": partition_batches}
        assert_same_bits(find(*KINDS["npy"](stored), client=in_process, **cut), want)


def test_a_map_in_slabs_gives_the_same_bits(in_process, stored, tmp_path, want, monkeypatch):
    monkeypatch.setattr("labelsieve.execution.executor.Executor.slab_size", 5)
    assert_same_bits(find(*KINDS["npy"](stored), client=in_process, **CUT), want)
    assert_same_bits(find(LABELS, PROBS, client=in_process, output=tmp_path / "out.zarr", **CUT), want)


def test_the_versions_of_millions_of_chunks_are_no_reason_for_a_warning(in_process, stored, want, monkeypatch):
    note = ZarrSource.note_version

    def long_description(self):
        note(self)
        self.padding = np.zeros(20_000_000, np.uint8)

    monkeypatch.setattr(ZarrSource, "note_version", long_description)
    assert_same_bits(find(*KINDS["zarr"](stored), client=in_process, **CUT), want)


def test_arrays_that_are_kept_on_the_cluster(in_process, stored, want):
    probs = in_process.persist(da.from_zarr(stored / "probs.zarr"))
    assert_same_bits(find(LABELS, probs, client=in_process), want)
    margins = {"method": "normalized_margin", "adjust_pred_probs": True}
    assert_same_bits(find(LABELS, probs, client=in_process, **margins), find(LABELS, PROBS, **margins))


def test_scores_are_lazy_on_the_cluster_too(in_process, stored, want):
    found = find(*KINDS["npy"](stored), client=in_process, **CUT)
    with in_process.as_current():
        lazy = found.scores_dask() if hasattr(found, "scores_dask") else found.score_parts.to_dask()
        assert_same_array(lazy.compute(), want.scores)


def test_several_runs_at_once_share_a_client(in_process, stored, want):
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(find, *KINDS["npy"](stored), client=in_process, **CUT) for _ in range(4)]
        for run in runs:
            assert_same_bits(run.result(), want)


def test_a_run_that_fails_leaves_what_else_the_client_computes(cluster):
    probs = da.from_array(PROBS, chunks=(130, -1))
    short = probs.map_blocks(lambda block: block[:-1], dtype=probs.dtype, chunks=probs.chunks)
    with Client(cluster, set_as_default=False) as client:
        kept = client.submit(sum, [40, 2])
        for _ in range(2):
            with pytest.raises(InvalidInputError, match="has shape"):
                find(LABELS, short, client=client, partition_batches=1)
            assert client.submit(sum, [1, 2], pure=False).result() == 3  # once the scheduler knows of the failure
        assert (kept.status, kept.result()) == ("finished", 42)


@pytest.mark.parametrize("place", ["memory", "workdir"])
def test_labels_that_do_not_belong_to_the_predictions_are_examined_where_they_are(in_process, place, tmp_path):
    labels = np.roll(LABELS, 1)
    choices = CUT | ({} if place == "memory" else {"workdir": tmp_path / "work"})
    with pytest.warns(LabelsieveWarning, match=r"shifted by one row\. With labels\[1:\] and pred_probs\[:-1\]") as here:
        find(labels, PROBS, **CUT)
    with pytest.warns(LabelsieveWarning) as there:
        found = find(labels, PROBS, client=in_process, **choices)
    assert [str(one.message) for one in there] == [str(one.message) for one in here] == [found.facts.misfit]


# Where the work is done -------------------------------------------------------------------------------------------


def test_the_client_that_is_given_goes_before_the_active_one(cluster, stored, want):
    with small_cluster(n_workers=1) as other, Client(other, set_as_default=False) as active:
        asked, not_asked = counting(cluster), counting(other)
        with Client(cluster, set_as_default=False) as given, active.as_current():
            found = find(*KINDS["npy"](stored), client=given, **CUT)
            assert_same_bits(found, want)
            found = find(LABELS, da.from_array(PROBS, chunks=(130, 2)), client=given)
            assert_same_bits(found, want)
            assert asked.total > 20
            assert not_asked.total == 0
            assert choice.active_client() is active


def test_the_active_client_does_the_work_of_documented_functions(cluster, in_process, stored, want):
    tasks = counting(cluster)
    with in_process.as_current():
        rows = labelsieve.find_label_issues_batched(
            labels_file=stored / "labels.npy", pred_probs_file=stored / "probs.npy", batch_size=100, verbose=False
        )
        assert_same_array(rows, want.indices)
        assert tasks.layers["scan"] > 1
        inspector = labelsieve.LabelInspector(num_class=N_CLASSES, verbose=False)
        inspector.update_confident_thresholds(LABELS, da.from_array(PROBS, chunks=(500, -1)))
        inspector.score_label_quality(LABELS, da.from_array(PROBS, chunks=(500, -1)))
        assert_same_array(inspector.get_quality_scores(), want.scores)
        lowest = np.lexsort((np.arange(N_ROWS), want.scores))[: want.estimated_num_issues]
        assert_same_array(inspector.get_label_issues(), lowest)
        assert inspector.get_num_issues() == want.estimated_num_issues
        assert tasks.layers["inspect"] >= 12


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler")  # Dask before 2025.2 says so
def test_a_local_scheduler_that_is_set_keeps_work_here(cluster, in_process, stored, want, scheduler):
    tasks = counting(cluster)
    with in_process.as_current(), dask.config.set(scheduler=scheduler):
        assert_same_bits(find(*KINDS["npy"](stored), **CUT), want)
        assert_same_bits(find(LABELS, da.from_array(PROBS, chunks=(130, 2))), want)
        labelsieve.find_label_issues_batched(LABELS, PROBS, verbose=False)
    assert tasks.layers == {}


def test_a_run_inside_a_task_waits_for_no_thread_that_it_holds(stored, tmp_path):
    code = f"""
        import sys
        from distributed import Client, LocalCluster
        from labelsieve import find_label_issues
        settings = {{"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "{HTTP}"}}
        with LocalCluster(**settings) as cluster, Client(cluster) as client:
            run = lambda: find_label_issues(*sys.argv[1:], progress=False).num_issues
            print(client.submit(run).result())
    """
    with Processes(tmp_path) as processes:
        job = processes.start("-c", textwrap.dedent(code), *KINDS["npy"](stored))
        assert int(job.succeeds()) > 0


@pytest.mark.slow
def test_a_worker_that_cannot_reach_the_input_is_named_before_any_task(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "labels.npy", LABELS)
    np.save(data / "probs.npy", PROBS)
    hidden = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs tmpfs {data} && exec "$@"', "sh")
    with Processes(tmp_path) as processes:
        if processes.start("-c", "", before=hidden).wait()[0]:
            pytest.skip("no file system may be mounted here")
        cluster = processes.cluster(1)
        cluster.add_worker(before=hidden)
        cluster.wait_for_workers(2)
        said = processes.find("data/labels.npy", "data/probs.npy", "--scheduler", cluster.address).fails(1)
        assert "UnreadableDataError: worker tcp://127.0.0.1:" in said
        assert str(data / "labels.npy") in said or str(data / "probs.npy") in said
        assert "No such file" in said
        assert processes.n_reads() == 0


# What travels -----------------------------------------------------------------------------------------------------


def test_large_arrays_in_memory_warn(in_process, want, monkeypatch):
    monkeypatch.setattr(inputs, "_SCATTER_WARN_BYTES", 10_000)
    with pytest.warns(LabelsieveWarning) as caught:
        found = find(LABELS, PROBS, client=in_process, **CUT)
    assert_same_bits(found, want)
    said = [str(one.message) for one in caught if issubclass(one.category, LabelsieveWarning)]
    assert [text.partition(" is an array in memory of 0 MB, sent to the workers")[0] for text in said] == [
        "labels",
        "pred_probs",
    ]
    find(LABELS, PROBS)  # on threads nothing travels


class SubmittedError(Exception):
    """Raised where the graph would be sent."""


@pytest.mark.parametrize(("terabytes", "kept"), [(1, True), (16, False)])
def test_the_graph_of_a_memmap_of_any_size_is_small(tmp_path, monkeypatch, terabytes, kept):
    n_rows, n_classes = terabytes * 2_500_000_000, 100
    sparse_npy(tmp_path / "labels.npy", "|i1", (n_rows,))
    sparse_npy(tmp_path / "probs.npy", "<f4", (n_rows, n_classes))
    sizes = []

    def measure(_self, array, **_):
        graph = dask.optimize(array)[0].__dask_graph__()
        sizes.append((len(dict(graph)), len(cloudpickle.dumps(graph))))
        raise SubmittedError

    monkeypatch.setattr(Client, "persist", measure)
    labels, probs = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("labels", "probs"))
    assert probs.nbytes == terabytes * 10**12
    with small_cluster(memory_limit=0) as cluster, Client(cluster, set_as_default=False) as client:
        place = {"workdir": tmp_path / "wd"} if kept else {}
        with pytest.raises(SubmittedError):
            find(labels, probs, client=client, **place)
    assert sizes
    for n_tasks, n_bytes in sizes:
        assert 1000 < n_tasks < 20_000
        assert n_bytes < 8_000_000


def sparse_npy(path, dtype, shape):
    """Make a .npy file that is all hole."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        try:
            file.truncate(file.tell() + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize)
        except OSError:
            pytest.skip("this file system takes no file of that size")


def test_with_an_output_the_client_never_fetches_what_grows_with_the_rows(in_process, tmp_path, monkeypatch):
    n_rows = 1_000_000
    rng = np.random.default_rng(3)
    probs = rng.random((n_rows, 2), np.float32)
    probs[:, 1] = 1 - probs[:, 0]
    labels = np.where(rng.random(n_rows) < 0.9, rng.integers(0, 2, n_rows, np.int8), probs.argmax(axis=1))
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "probs.npy", probs)
    fetched, gather = [], Client.gather

    def measured(self, *args, **kwargs):
        found = gather(self, *args, **kwargs)
        fetched.append(len(cloudpickle.dumps(found)))
        return found

    monkeypatch.setattr(Client, "gather", measured)
    cut = {"batch_size": 20_000, "partition_batches": 1}
    files = tmp_path / "labels.npy", tmp_path / "probs.npy"
    found = find(*files, client=in_process, output=tmp_path / "out.zarr", **cut)
    assert fetched
    assert found.num_issues > n_rows // 5
    assert sum(fetched) < n_rows, fetched
    monkeypatch.undo()
    assert_same_output(tmp_path / "out.zarr", find(*files))


# The plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_too", [False, True], ids=["memory", "output"])
@pytest.mark.parametrize("settings", [{}, {"method": "normalized_margin", "adjust_pred_probs": True}], ids=["1", "2"])
def test_the_plan_counts_the_tasks(stored, tmp_path, settings, stored_too):
    files, place = KINDS["npy"](stored), {"output": tmp_path / "out.zarr"} if stored_too else {}
    # A cluster of its own: another one may still hold what a test before has computed of the same files.
    with small_cluster() as cluster, Client(cluster, set_as_default=False) as client:
        tasks = counting(cluster)
        plan = labelsieve.plan_label_issues(*files, client=client, **settings, **CUT, **place)
        find(*files, client=client, **settings, **CUT, **place)
    assert plan.n_partitions == tasks.layers["scan"]
    # How many tasks merge the issues that are found is not known before.
    planned = plan.n_tasks + tasks.layers["rank"] + tasks.layers["merge"]
    # Dask fuses the counting of a single span of stored rows with its reduction.
    assert tasks.total in ((planned - 1, planned) if stored_too else (planned,))


def test_a_worker_with_too_little_memory_is_refused_in_the_plan(stored, monkeypatch):
    monkeypatch.setattr("labelsieve.sources.npy._NpyRows.read", lambda *_: pytest.fail("read"))
    # A worker in this process has what this process has, which is more than that limit.
    settings = {f"distributed.worker.memory.{what}": False for what in ("pause", "spill", "target", "terminate")}
    with (
        dask.config.set(settings),
        small_cluster(memory_limit="150MB") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        tasks = counting(cluster)
        for act in (find, labelsieve.plan_label_issues):
            with pytest.raises(
                MemoryLimitError, match=r"each worker would take .* MB with 2 threads, but may take only 120 MB"
            ):
                act(*KINDS["npy"](stored), client=client)
        assert tasks.total == 0


def test_max_memory_holds_for_each_worker(in_process, stored, want):
    with pytest.raises(MemoryLimitError, match=r"each worker .* \(max_memory\)"):
        find(*KINDS["npy"](stored), client=in_process, max_memory="100MB")
    plan = labelsieve.plan_label_issues(*KINDS["npy"](stored), client=in_process, max_memory="2GB")
    assert plan.limit == 2_000_000_000
    assert (plan.n_processes, plan.n_threads) == (2, 2)


# Clients that are none --------------------------------------------------------------------------------------------


def test_a_client_that_is_none_is_refused(stored):
    for client in ("tcp://127.0.0.1:8786", 3, object()):
        with pytest.raises(InputTypeError, match=r"client must be a distributed\.Client, not (str|int|object)"):
            find(*KINDS["npy"](stored), client=client)


@pytest.mark.parametrize("address", ["localhost", "tcp://127.0.0.1", "http://127.0.0.1:8786", ""])
def test_no_client_is_made_of_an_address_that_is_not_valid(address, monkeypatch):
    made = []
    monkeypatch.setattr("distributed.Client", lambda *_, **__: made.append(1))  # one that fails may never be deleted
    with pytest.raises(TaskFailedError, match="no scheduler answers at"), local_cluster.cluster(address):
        pass
    assert not made


def test_a_closed_client_is_refused_at_once(cluster, stored):
    client = Client(cluster, set_as_default=False)
    client.close()
    with pytest.raises(TaskFailedError, match="closed"):
        find(*KINDS["npy"](stored), client=client)


def test_a_cluster_without_workers_is_named(stored, monkeypatch):
    monkeypatch.setattr(cluster_executor, "_WAIT_SECONDS", 0.3)
    with (
        small_cluster(n_workers=0) as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(TaskFailedError, match=f"the cluster at {cluster.scheduler_address} has no worker"),
    ):
        find(*KINDS["npy"](stored), client=client)


def test_without_a_client_no_cluster_is_even_imported(stored, tmp_path, want):
    code = """
        import sys
        from labelsieve import find_label_issues

        print(find_label_issues(*sys.argv[1:], batch_size=70, progress=False).num_issues, "distributed" in sys.modules)
    """
    with Processes(tmp_path) as processes:
        said = processes.start("-c", textwrap.dedent(code), *KINDS["npy"](stored)).succeeds()
    assert said.split() == [str(want.num_issues), "False"]


def test_an_asynchronous_client_is_refused():
    async def ask():
        settings = {"n_workers": 1, "processes": False, "dashboard_address": HTTP, "asynchronous": True}
        async with LocalCluster(**settings) as cluster, Client(cluster, asynchronous=True) as client:
            with pytest.raises(InputTypeError, match="client is asynchronous"):
                labelsieve.find_label_issues(LABELS, PROBS, client=client)

    asyncio.run(ask())


def test_a_worker_that_retires_in_the_middle(want):
    with small_cluster(threads_per_worker=1) as cluster, Client(cluster, set_as_default=False) as client:
        tasks, probs = counting(cluster), da.from_array(PROBS, chunks=(50, -1))
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(find, LABELS.tolist(), probs, client=client, partition_batches=1)
            while tasks.layers["scan"] < 10 and not run.done():
                time.sleep(0.002)
            client.retire_workers([cluster.workers[0].address])
            assert_same_bits(run.result(), want)


def test_the_check_of_every_worker_takes_no_array_along(stored):
    labels, probs = LABELS, PROBS
    opened = opening.open_inputs(labels, probs)
    assert len(pickle.dumps(opened.reachability())) < 1000 < probs.nbytes


@pytest.mark.slow
def test_workers_of_a_command_are_not_profiled_where_that_can_deadlock():
    profiled = {"distributed.worker.profile.enabled": True}
    with dask.config.set(profiled), local_cluster.cluster(n_workers=1, n_threads=1) as client:
        [callbacks] = client.run(lambda dask_worker: list(dask_worker.periodic_callbacks)).values()
        assert ("profile" in callbacks) == (sys.version_info >= (3, 12))
        assert dask.config.get("distributed.worker.profile.enabled"), "of what else this process starts"
