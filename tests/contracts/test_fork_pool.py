"""Forked processes: the same bits, real processes, and no harm to what else runs in the parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import pytest
import zarr

import labelsieve
from draws import assert_same_array, assert_same_bits, draw, find
from labelsieve import ForkedWorkerError, LabelInspector, LabelsieveWarning, TaskFailedError, label_issues_batched
from labelsieve.execution import fork
from labelsieve.job import passes, scan
from labelsieve.job.inputs import open_inputs
from processes import PATIENCE_S, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

LABELS, PROBS = draw(1000, 6, seed=12)
SHARED_NAMES = ("adj_confident_thresholds_shared", "labels_shared", "pred_probs_shared")
ALL_SETTINGS = [
    {"method": "self_confidence"},
    {"method": "self_confidence", "adjust_pred_probs": True},
    {"method": "normalized_margin"},
    {"method": "normalized_margin", "adjust_pred_probs": True},
    {"method": "confidence_weighted_entropy"},
    {"estimation_method": "off_diagonal_calibrated"},
]


def shared():
    """Return the shared arrays as the documented module shows them."""
    return [getattr(label_issues_batched, name) for name in SHARED_NAMES]


# The same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("n_jobs", [2, 3, None])
@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_forked_processes_give_the_same_bits(settings, n_jobs):
    want = find(LABELS, PROBS, **settings)
    assert_same_bits(find(LABELS, PROBS, n_jobs=n_jobs, batch_size=90, **settings), want)


@pytest.mark.every_value
@pytest.mark.parametrize("batch_size", [1, 37, 999, "auto"])
@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8"])
def test_forked_processes_give_the_same_bits_for_any_batch_and_dtype(batch_size, dtype):
    probs = PROBS.astype(dtype)
    assert_same_bits(find(LABELS.astype("u1"), probs, n_jobs=2, batch_size=batch_size), find(LABELS, probs))


@pytest.mark.every_value
@pytest.mark.parametrize("n_jobs", [2, 3, None])
@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_the_inspector_gives_the_same_bits_from_forked_processes(settings, n_jobs):
    settings = dict(settings)
    num_issue_kwargs = {"estimation_method": settings.pop("estimation_method", "off_diagonal")}
    kwargs = {"quality_score_kwargs": settings, "num_issue_kwargs": num_issue_kwargs, "verbose": False}
    forked, plain = (LabelInspector(num_class=6, n_jobs=n, **kwargs) for n in (n_jobs, 1))
    for inspector in (forked, plain):
        for start in (0, 400):
            inspector.update_confident_thresholds(LABELS[start : start + 600], PROBS[start : start + 600])
        for start, stop in ((0, 1000), (1000, 1001), (0, 300)):
            batch = LABELS[start:stop], PROBS[start:stop]
            inspector.score_label_quality(*batch)
    assert_same_array(forked.get_confident_thresholds(), plain.get_confident_thresholds())
    assert_same_array(forked.get_quality_scores(), plain.get_quality_scores())
    assert forked.get_num_issues() == plain.get_num_issues()
    assert_same_array(forked.get_label_issues(), plain.get_label_issues())


def test_the_inspector_forks_for_scores_alone():
    inspector = LabelInspector(num_class=6, n_jobs=2, verbose=False)
    inspector.update_confident_thresholds(LABELS, PROBS)
    scores = inspector.score_label_quality(LABELS, PROBS, update_num_issues=False)
    assert_same_array(scores, find(LABELS, PROBS).scores)


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_and_memmaps_are_forked(tmp_path, order):
    np.save(tmp_path / "p.npy", np.asarray(PROBS, order=order))
    np.save(tmp_path / "y.npy", LABELS)
    want = find(LABELS, PROBS)
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("y.npy", "p.npy")]
    for labels, probs in ((tmp_path / "y.npy", tmp_path / "p.npy"), mapped, (LABELS, mapped[1])):
        assert_same_bits(find(labels, probs, n_jobs=2, batch_size=130), want)
    half = find(mapped[0][333:800], mapped[1][333:800], n_jobs=2, batch_size=50)
    assert_same_bits(half, find(LABELS[333:800], PROBS[333:800]))


def test_the_documented_call_forks():
    want = labelsieve.find_label_issues_batched(LABELS, PROBS, verbose=False)
    got = labelsieve.find_label_issues_batched(LABELS, PROBS, verbose=False, n_jobs=2, batch_size=100)
    assert_same_array(got, want)


# Real processes --------------------------------------------------------------------------------------------------


def process_of(partition):
    return os.getpid(), partition.n_rows


def shared_in_child(partition, adj_thresholds):
    arrays = [getattr(label_issues_batched, name) for name in SHARED_NAMES]
    return os.getpid(), adj_thresholds, [array.shape for array in arrays], float(arrays[2][partition.start, 0])


def kill_itself(partition):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(partition):
    os._exit(7)


def large(partition):
    columns = np.full((100, 50), partition.start // 50, np.float32, order="F")[::2]
    return np.arange(partition.start, partition.start + 300_000), np.empty((0, 3)), columns


def pause(partition):
    while True:
        signal.pause()


def interrupt_itself(partition):
    os.kill(os.getpid(), signal.SIGINT)


def fail(partition):
    raise KeyError(partition.start)


def exit_(partition):
    raise SystemExit(3)


def unpicklable(partition):
    return Unpicklable()


@pytest.fixture
def inputs():
    return open_inputs(LABELS, PROBS, batch_size=50, partition_batches=1, n_jobs=2)


def test_partitions_are_worked_on_in_other_processes_and_come_back_in_order(inputs):
    results = passes.map_in_forks(inputs, process_of, 2)
    pids = {pid for pid, _ in results}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert [n for _, n in results] == [50] * 20
    assert multiprocessing.active_children() == []


def test_children_read_the_shared_arrays_and_nobody_after(inputs):
    assert shared() == [None, None, None]
    thresholds = np.linspace(0.1, 0.6, 6)
    results = passes.map_in_forks(inputs, shared_in_child, 2, {"adj_thresholds": thresholds})
    for index, (pid, adj_thresholds, shapes, first) in enumerate(results):
        assert pid != os.getpid()
        assert_same_array(adj_thresholds, thresholds)
        assert shapes == [(6,), (1000,), (1000, 6)]
        assert first == PROBS[50 * index, 0]
    assert shared() == [None, None, None]


def test_the_shared_arrays_are_set_in_the_parent_while_the_pool_runs(inputs):
    seen = []
    passes.map_in_forks(inputs, process_of, 2, advance=lambda _: seen.append([array is not None for array in shared()]))
    assert seen
    assert all(flags == [False, True, True] for flags in seen), "thresholds are shared for counting only"
    assert shared() == [None, None, None]


def test_the_documented_module_has_no_other_dynamic_names():
    with pytest.raises(AttributeError, match="no attribute 'scores_shared'"):
        label_issues_batched.scores_shared  # noqa: B018  # the access is the test


scan_in_memory = scan.scan


def recording_scan(partition, *blocks, **shared):
    with (Path(os.environ["RECORD_PIDS_IN"]) / str(os.getpid())).open("a") as file:
        file.write("x")
    return scan_in_memory(partition, *blocks, **shared)


def test_a_whole_run_reads_in_the_children_only(tmp_path, monkeypatch):
    monkeypatch.setenv("RECORD_PIDS_IN", str(tmp_path))
    monkeypatch.setattr("labelsieve.job.scan.scan", recording_scan)
    found = find(LABELS, PROBS, n_jobs=2, batch_size=50, partition_batches=1)
    records = {int(file.name): len(file.read_text()) for file in tmp_path.iterdir()}
    assert os.getpid() not in records
    assert sum(records.values()) == 20
    assert_same_bits(found, find(LABELS, PROBS))


@pytest.mark.parametrize("kind", ["array", "npy", "dask"])
def test_one_job_forks_nothing(tmp_path, monkeypatch, kind):
    np.save(tmp_path / "p.npy", PROBS)
    probs = {"array": PROBS, "npy": tmp_path / "p.npy", "dask": da.from_array(PROBS, chunks=(100, 6))}[kind]
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    find(LABELS, probs, n_jobs=1, batch_size=50)
    inspector = LabelInspector(num_class=6, verbose=False, n_jobs=1)
    inspector.update_confident_thresholds(LABELS, probs)
    inspector.score_label_quality(LABELS, probs)


def children():
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture
def no_child_left():
    before = children()
    yield
    assert children() <= before
    assert shared() == [None, None, None]


@pytest.mark.usefixtures("no_child_left")
def test_a_killed_child_is_an_error_and_not_a_hang(inputs):
    killed = r"forked process \d+ was killed by SIGKILL while it worked on rows [\d,]+\.\.[\d,]+; out of memory\?"
    with pytest.raises(ForkedWorkerError, match=killed) as error:
        passes.map_in_forks(inputs, kill_itself, 2)
    assert isinstance(error.value, RuntimeError)
    # And the next run is as good as ever.
    assert_same_bits(find(LABELS, PROBS, n_jobs=2, batch_size=50), find(LABELS, PROBS))


@pytest.mark.usefixtures("no_child_left")
def test_a_child_that_ends_by_itself_is_an_error(inputs):
    with pytest.raises(ForkedWorkerError, match=r"forked process \d+ ended with exit code 7 while it worked on rows"):
        passes.map_in_forks(inputs, leave, 2)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.usefixtures("no_child_left")
def test_a_child_that_is_killed_while_it_writes_its_result_is_an_error(inputs, monkeypatch, share):
    write = fork._write

    def torn(pipe, parts):
        whole = b"".join(parts)
        if len(whole) < 1000:  # an item is announced
            return write(pipe, parts)
        write(pipe, [whole[: int(share * len(whole))]])
        return os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(fork, "_write", torn)
    with pytest.raises(ForkedWorkerError, match=r"was killed by SIGKILL while it worked on rows"):
        passes.map_in_forks(inputs, large, 2)


@pytest.mark.usefixtures("no_child_left")
def test_a_killed_child_is_found_though_another_process_holds_its_pipe(inputs, monkeypatch):
    pipe, held = fork._pipe, []

    def held_pipe():
        ours, theirs = pipe()
        held.append(os.dup(theirs))  # as in a process that somebody forks at this moment: no end of file ever comes
        return ours, theirs

    monkeypatch.setattr(fork, "_pipe", held_pipe)
    try:
        with pytest.raises(ForkedWorkerError, match="was killed by SIGKILL while it worked on rows"):
            passes.map_in_forks(inputs, kill_itself, 2)
    finally:
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.usefixtures("no_child_left")
def test_large_results_come_back_whole_and_writable(inputs):
    results = passes.map_in_forks(inputs, large, 3)
    for index, (numbers, none, columns) in enumerate(results):
        assert_same_array(numbers, np.arange(50 * index, 50 * index + 300_000))
        assert none.shape == (0, 3)
        assert_same_array(columns, np.full((100, 50), index, np.float32, order="F")[::2])
        numbers[0] = -1


@pytest.mark.usefixtures("no_child_left")
def test_a_process_that_cannot_be_forked_is_an_error_and_the_others_end(inputs, monkeypatch):
    fork, forked = os.fork, []

    def fork_once():
        if forked:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        forked.append(fork())
        return forked[0]

    monkeypatch.setattr(os, "fork", fork_once)
    with pytest.raises(ForkedWorkerError, match=r"process 2 could not be forked: .*temporarily unavailable"):
        passes.map_in_forks(inputs, pause, 2)


def test_a_child_that_is_killed_as_it_takes_an_item_is_an_error_even_where_its_end_is_not_reported(monkeypatch):
    next_item = fork._next_item

    def killed(items):
        [number] = fork._ITEM.unpack(os.read(items[0], fork._ITEM.size))  # others wait for it until it is written back
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(items[1], fork._ITEM.pack(number))
        return next_item(items)

    monkeypatch.setattr(fork, "_next_item", killed)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as some processes leave it to those that they start
    try:
        with pytest.raises(ForkedWorkerError, match=r"forked process \d+ ended( while it worked on \d+)?$"):
            list(fork.forked_map(abs, 3000, 2, str))
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("no_child_left")
def test_ctrl_c_while_processes_are_forked_loses_none(inputs, monkeypatch):
    fork = os.fork

    def interrupted():
        pid = fork()
        if pid:
            signal.raise_signal(signal.SIGINT)
        return pid

    monkeypatch.setattr(os, "fork", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        passes.map_in_forks(inputs, pause, 2)
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_children_leave_ctrl_c_to_the_parent(inputs):
    assert len(passes.map_in_forks(inputs, interrupt_itself, 2)) == 20


@pytest.mark.usefixtures("no_child_left")
def test_an_error_in_a_child_is_raised_here(inputs):
    named = r"partition \d+ \(rows (\d+)\.\.\d+\) of an array in memory: KeyError: \1"
    with pytest.raises(TaskFailedError, match=named) as error:
        passes.map_in_forks(inputs, fail, 2)
    [note] = error.value.__notes__
    assert "in fail\n    raise KeyError(partition.start)" in note, "where it was raised"


class Unpicklable:
    def __reduce__(self):
        class OddError(Exception):
            """Cannot be pickled either: no module has it, whatever other packages register for exceptions."""

        raise OddError("no")


@pytest.mark.parametrize(("work", "match"), [(exit_, "SystemExit: 3"), (unpicklable, "OddError: no")])
@pytest.mark.usefixtures("no_child_left")
def test_whatever_goes_wrong_in_a_child_is_an_error_here(inputs, work, match):
    with pytest.raises(TaskFailedError, match=match):
        passes.map_in_forks(inputs, work, 2)


def test_pools_of_several_threads_take_turns():
    other_labels, other_probs = draw(800, 4, seed=13)
    datasets = [(LABELS, PROBS), (other_labels, other_probs)] * 2
    found = [None] * len(datasets)

    def run(index):
        found[index] = find(*datasets[index], n_jobs=2, batch_size=100)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(datasets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, dataset in zip(found, datasets, strict=True):
        assert_same_bits(result, find(*dataset))


# Where there is no forking ---------------------------------------------------------------------------------------


def stored_elsewhere(tmp_path, kind):
    if kind == "dask":
        return da.from_array(PROBS, chunks=(100, 6))
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "p.h5", "w") as file:
            file["p"] = PROBS
        return h5py.File(tmp_path / "p.h5", "r")["p"]
    array = zarr.create_array(str(tmp_path / "p.zarr"), shape=PROBS.shape, chunks=(100, 6), dtype="f8")
    array[:] = PROBS
    return array


@pytest.mark.parametrize("kind", ["dask", "zarr", "hdf5"])
def test_zarr_hdf5_and_dask_inputs_run_on_threads_and_say_so(tmp_path, monkeypatch, kind):
    probs = stored_elsewhere(tmp_path, kind)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored: Zarr, HDF5 and Dask inputs") as caught:
        found = find(LABELS, probs, n_jobs=2)
    assert len(caught) == 1
    assert caught[0].filename == find.__code__.co_filename, "the warning points at the caller's line"
    assert_same_bits(found, find(LABELS, PROBS))
    inspector = LabelInspector(num_class=6, n_jobs=2, verbose=False)
    with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored"):
        inspector.update_confident_thresholds(LABELS, probs)


def test_forking_works_after_zarr_has_started_its_threads(tmp_path):
    array = stored_elsewhere(tmp_path, "zarr")
    assert np.array_equal(array[:], PROBS)
    assert threading.active_count() > 1
    assert_same_bits(find(LABELS, PROBS, n_jobs=2, batch_size=50), find(LABELS, PROBS))


def test_deprecation_warnings_as_errors_do_not_stop_the_pool():
    # Python 3.12 and newer warn of forking a process with threads: with children that touch NumPy only it is safe.
    printed = run_python(
        """
        import threading
        import warnings
        import labelsieve
        from draws import draw

        labels, probs = draw(500, 5, seed=1)
        want = labelsieve.find_label_issues(labels, probs, progress=False, batch_size=50, partition_batches=1)
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        warnings.simplefilter("error", DeprecationWarning)
        got = labelsieve.find_label_issues(labels, probs, progress=False, n_jobs=2, batch_size=50)
        stop.set()
        assert got.indices.tobytes() == want.indices.tobytes()
        assert got.scores.tobytes() == want.scores.tobytes()
        print(got.num_issues)
        """,
        options=["-W", "error::DeprecationWarning"],
    )
    assert int(printed) > 0


def test_a_daemonic_process_warns_and_works_alone():
    printed = run_python(
        """
        import multiprocessing
        import warnings
        import numpy as np
        from draws import draw, find

        def work(results):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = find(*draw(500, 5, seed=1), n_jobs=2, batch_size=50)
            results.send(([str(w.message) for w in caught], found.indices))

        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        messages, indices = ours.recv()
        process.join()
        assert process.exitcode == 0
        assert np.array_equal(indices, find(*draw(500, 5, seed=1)).indices)
        print(len(messages), messages[0])
        """
    )
    assert printed.startswith("1 n_jobs=2 is ignored: this is a worker process")


@pytest.mark.slow
def test_an_active_client_does_the_work_and_warns_once_of_n_jobs(monkeypatch):
    distributed = pytest.importorskip("distributed")
    want = find(LABELS, PROBS)
    margins = {"method": "normalized_margin", "adjust_pred_probs": True}
    want_margins = find(LABELS, PROBS, **margins)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    )
    with cluster, distributed.Client(cluster):
        monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
        with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored: the Dask client") as caught:
            found = find(LABELS, PROBS, n_jobs=2, batch_size=90)
        assert [w.category for w in caught if issubclass(w.category, LabelsieveWarning)] == [LabelsieveWarning]
        assert_same_bits(found, want)
        assert_same_bits(find(LABELS, PROBS, batch_size=90), want)
        assert_same_bits(find(LABELS, da.from_array(PROBS, chunks=(130, 2)), partition_batches=3), want)
        assert_same_bits(find(LABELS, PROBS, batch_size=90, **margins), want_margins)
        inspector = LabelInspector(num_class=6, n_jobs=2, verbose=False)
        with pytest.warns(LabelsieveWarning, match="n_jobs=2 is ignored"):
            inspector.update_confident_thresholds(LABELS, PROBS)
        assert_same_array(inspector.get_confident_thresholds(), want.confident_thresholds)


def test_an_imported_but_idle_distributed_does_not_stop_the_pool():
    pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_bits(find(LABELS, PROBS, n_jobs=2, batch_size=50), find(LABELS, PROBS))


@pytest.mark.every_value
@pytest.mark.parametrize("n_jobs", [2, None])
@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_elsewhere_than_linux_one_job_is_all_and_it_says_so(monkeypatch, capsys, system, n_jobs):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert LabelInspector(num_class=6, n_jobs=n_jobs).n_jobs == 1
    assert "n_jobs is 1" in capsys.readouterr().out
    labelsieve.find_label_issues_batched(LABELS, PROBS, n_jobs=n_jobs, verbose=True)
    assert "n_jobs is 1" in capsys.readouterr().out
    labelsieve.find_label_issues_batched(LABELS, PROBS, n_jobs=n_jobs, verbose=False)
    LabelInspector(num_class=6, n_jobs=n_jobs, verbose=False)
    assert capsys.readouterr().out == ""


def test_one_job_elsewhere_than_linux_has_nothing_to_say(monkeypatch, capsys):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert LabelInspector(num_class=6).n_jobs == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("physical", "want"), [(3, 3), (None, 7), (0, 7)])
def test_none_takes_the_physical_cores_or_the_logical_ones_where_unknown(monkeypatch, capsys, physical, want):
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 99 if logical else physical)
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert LabelInspector(num_class=6, n_jobs=None, verbose=False).n_jobs == want
    assert capsys.readouterr().out == ""
    LabelInspector(num_class=6, n_jobs=None)
    assert ("logical" in capsys.readouterr().out) == (want == 7)


# split_arr -------------------------------------------------------------------------------------------------------


@pytest.mark.every_value
@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 10, 11, 100])
@pytest.mark.parametrize("shape", [(0,), (1,), (10,), (10, 3), (23,)])
def test_split_arr_is_cleanlabs(shape, chunksize):
    cleanlab = pytest.importorskip("cleanlab.experimental.label_issues_batched")
    arr = np.arange(np.prod(shape)).reshape(shape)
    got, want = label_issues_batched.split_arr(arr, chunksize), cleanlab.split_arr(arr, chunksize)
    assert isinstance(got, list)
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert_same_array(ours, theirs)


def test_split_arr_by_hand():
    pieces = labelsieve.split_arr(np.arange(5), chunksize=2)
    assert [piece.tolist() for piece in pieces] == [[0, 1], [2, 3], [4]]
    assert [piece.tolist() for piece in labelsieve.split_arr(np.arange(4), 2)] == [[0, 1], [2, 3]]


def test_split_arr_gives_views():
    arr = np.arange(9)
    assert all(np.shares_memory(piece, arr) for piece in labelsieve.split_arr(arr, 4))


@pytest.mark.parametrize("chunksize", [0, -1])
def test_split_arr_refuses_empty_pieces(chunksize):
    with pytest.raises(ValueError, match=f"chunksize must be a whole number of at least 1, not {chunksize}"):
        labelsieve.split_arr(np.arange(5), chunksize)


def fail_first(partition, **_):
    if partition.start == 0:
        raise ValueError("the first one failed")
    pause(partition)


def interrupt_parent(partition, **_):
    if partition.start == 0:
        os.kill(os.getppid(), signal.SIGINT)
    pause(partition)


@pytest.mark.parametrize(("work", "error"), [(fail_first, TaskFailedError), (interrupt_parent, KeyboardInterrupt)])
@pytest.mark.usefixtures("no_child_left")
def test_an_error_or_ctrl_c_ends_the_other_processes_at_once(work, error):
    inputs = open_inputs(LABELS, PROBS, batch_size=10, partition_batches=1, n_jobs=2)
    with pytest.raises(error):
        passes.map_in_forks(inputs, work, 2)  # its children never end by themselves


@pytest.mark.parametrize("n_rows", [2, 7, 100])
def test_small_batches_are_shared_out_too(n_rows):
    inputs = open_inputs(LABELS[:n_rows], PROBS[:n_rows], n_jobs=2)
    assert inputs.grid.n_partitions >= 2
    lab = labelsieve.LabelInspector(num_class=PROBS.shape[1], n_jobs=2, verbose=False)
    lab.update_confident_thresholds(LABELS[:n_rows], PROBS[:n_rows])
    one = labelsieve.LabelInspector(num_class=PROBS.shape[1], verbose=False)
    one.update_confident_thresholds(LABELS[:n_rows], PROBS[:n_rows])
    assert_same_array(lab.get_confident_thresholds(), one.get_confident_thresholds())


def test_the_bar_of_the_read_moves_with_forked_processes_too(capsys):
    labelsieve.find_label_issues_batched(LABELS, PROBS, n_jobs=2, batch_size=50, verbose=True)
    assert "read: 100%" in capsys.readouterr().err


ORPHANS = """
import signal
import time
import numpy as np, psutil
from labelsieve.job import passes
from labelsieve.job.inputs import open_inputs

def work(partition):
    if partition.start == 0:
        parent = psutil.Process().parent()
        while len(children := parent.children()) < 2:  # the other one may not be there yet
            time.sleep(0.01)
        print([child.pid for child in children], flush=True)
    signal.pause()

labels, probs = np.zeros(4, int), np.full((4, 2), 0.5)
passes.map_in_forks(open_inputs(labels, probs, batch_size=1, partition_batches=1, n_jobs=2), work, 2)
"""


def test_children_end_with_a_parent_that_is_killed():
    process = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    try:
        children = [psutil.Process(pid) for pid in json.loads(process.stdout.readline())]
    finally:
        process.kill()
        process.communicate()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    for child in alive:
        child.kill()
    assert alive == []


def test_a_failing_pool_leaves_other_children_alone(inputs):
    other = multiprocessing.get_context("fork").Process(target=signal.pause)

    def advance(_):
        other.start()
        raise ValueError("stop here")

    try:
        with pytest.raises(ValueError, match="stop here"):
            passes.map_in_forks(inputs, process_of, 2, advance=advance)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_zarr_is_cut_for_dasks_threads_whatever_n_jobs_says(tmp_path):
    probs = zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, chunks=(20, PROBS.shape[1]), dtype="f8")
    grids = [open_inputs(LABELS, probs, n_jobs=n_jobs).grid for n_jobs in (1, 2, 16)]
    assert grids[0] == grids[1] == grids[2]


def test_each_of_many_items_is_taken_once():
    # Children that do nothing else ask for their next items at the same moments.
    for _ in range(5):
        done = [item for item, _ in fork.forked_map(abs, 3000, 4, str)]
        assert sorted(done) == list(range(3000))
