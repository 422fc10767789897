"""Whatever dies, fills up, vanishes or is damaged: the answer is the undisturbed one, or an error says what to do."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import zarr

import s3
from draws import draw, find
from labelsieve.errors import WorkdirError
from labelsieve.storage.folder import UrlFolder
from processes import PATIENCE_S, Processes, assert_same_output, wait_until
from workdirs import record_files

N_ROWS, N_CLASSES, BATCH = 60_000, 4, 1000
N_PARTITIONS = N_ROWS // BATCH
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=5, dtype=np.float32)
# One read a partition, many partitions.
CUT = ("--batch-size", BATCH, "--quiet")


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.fixture
def files(tmp_path):
    """The inputs as files in the folder where the processes run."""
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "probs.npy", PROBS)
    return tmp_path


@pytest.fixture
def zarr_files(tmp_path):
    """The inputs with a stored chunk a partition."""
    np.save(tmp_path / "labels.npy", LABELS)
    zarr.create_array(str(tmp_path / "probs.zarr"), shape=PROBS.shape, chunks=(BATCH, N_CLASSES), dtype="f4")[:] = PROBS
    return tmp_path


NPY = ("labels.npy", "probs.npy")
ZARR = ("labels.npy", "probs.zarr")


THREADS = 2


def records(folder):
    return sorted(path.name for path in (Path(folder) / "summaries").glob("*.rec"))


def leftovers(folder):
    """What a run has left beside its inputs, its workdir and its result."""
    known = {
        "labels.npy",
        "probs.npy",
        "probs.zarr",
        "wd",
        "site",
        "reads.log",
        "scheduler.json",
        "dask-scratch-space",
    }
    return {path.name for path in Path(folder).iterdir()} - known


# Workers, clients and schedulers ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kept", [["--workdir", "wd"], []], ids=["workdir", "memory"])
def test_every_worker_is_killed_once_and_replaced(files, want, kept):
    with Processes(files) as processes:
        cluster = processes.cluster(2)
        cluster.wait_for_workers()
        processes.hold(15)
        job = processes.find(*NPY, *CUT, *kept, "-o", "out.zarr", "--scheduler", cluster.address)
        for n_kills, victim in enumerate(cluster.workers, 1):
            n_done = 15 * n_kills
            processes.hold(n_done)
            wait_until(lambda pid=victim.pid, n=n_done: pid in {read[0] for read in processes.reads()[n:]}, job)
            victim.kill()
            cluster.add_worker()
        processes.release()
        job.succeeds()
        if kept:
            assert processes.rows_read_again() <= 2 * BATCH, "a dead worker costs the partition in its hands"
    assert_same_output(files / "out.zarr", want)
    assert leftovers(files) == {"out.zarr"}


@pytest.mark.slow
def test_a_worker_is_killed_and_nobody_takes_its_place(files, want):
    with Processes(files) as processes:
        cluster = processes.cluster(2)
        cluster.wait_for_workers()
        processes.hold(20)
        job = processes.find(*NPY, *CUT, "-o", "issues.npy", "--scheduler", cluster.address)
        processes.wait_for_held(20, 2, job)
        cluster.workers[0].kill()
        processes.release()
        job.succeeds()
    assert np.load(files / "issues.npy").tobytes() == want.indices.tobytes()


@pytest.mark.slow
def test_the_client_and_then_the_scheduler_are_killed(files, want):
    with Processes(files) as processes:
        cluster = processes.cluster(2)
        cluster.wait_for_workers()
        command = (*NPY, *CUT, "--workdir", "wd", "-o", "out.zarr")
        processes.hold(15)
        first = processes.find(*command, "--scheduler", cluster.address)
        processes.wait_for_held(15, 2, first)
        first.kill()
        assert not (files / "out.zarr").exists()

        second = processes.find(*command, "--scheduler", cluster.address)
        processes.wait_for_held(30, 2, second)
        cluster.scheduler.kill()
        said = second.fails(1)
        assert "the scheduler died" in said
        assert "a workdir resumes" in said
        assert not (files / "out.zarr").exists()

        for worker in cluster.workers:
            worker.end()
        processes.release()
        cluster = processes.cluster(1)
        processes.find(*command, "--scheduler", cluster.address).succeeds()
        # A client that dies leaves tasks to workers that hold some in their hands, and some in their queues.
        assert processes.rows_read_again() <= 2 * 2 * 2 * BATCH
    assert_same_output(files / "out.zarr", want)
    assert leftovers(files) == {"out.zarr"}


@pytest.mark.slow
def test_all_workers_are_lost_before_the_run_begins(files):
    with Processes(files) as processes:
        cluster = processes.cluster(0)
        deadly = processes.environment | {"LABELSIEVE_TEST_DEADLY_CHECK": "1"}
        cluster.workers = [cluster.add_worker(env=deadly) for _ in range(2)]
        cluster.wait_for_workers()
        said = processes.find(*NPY, *CUT, "--scheduler", cluster.address).fails(1)
        assert f"the cluster at {cluster.address} lost all its workers before the run began" in said
        assert "start workers and run again" in said


@pytest.mark.slow
def test_a_worker_is_lost_before_the_run_begins_and_another_is_not(files, want):
    with Processes(files) as processes:
        cluster = processes.cluster(1)
        deadly = processes.environment | {"LABELSIEVE_TEST_DEADLY_CHECK": "1"}
        cluster.workers.append(cluster.add_worker(env=deadly))
        cluster.wait_for_workers()
        processes.find(*NPY, *CUT, "-o", "issues.npy", "--scheduler", cluster.address).succeeds()
    assert np.load(files / "issues.npy").tobytes() == want.indices.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_workers_that_a_command_has_started_end_with_it(files, number):
    with Processes(files) as processes:
        processes.hold(0)
        job = processes.find(*NPY, *CUT, "--workers", 2, "--threads", 1, "--workdir", "wd")
        processes.wait_for_held(0, 2, job)
        children = psutil.Process(job.pid).children(recursive=True)
        assert len(children) >= 2
        job.signal(number)
        code, _, err = job.wait()
        assert code == (143 if number == signal.SIGTERM else -signal.SIGKILL), err
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
        for process in alive:
            process.kill()
        assert not alive
        assert len(records(files / "wd")) < N_PARTITIONS
        assert leftovers(files) == set()


@pytest.mark.slow
def test_rows_that_kill_each_worker_are_given_up(files, want):
    command = (*NPY, *CUT, "--workers", 2, "--threads", 1, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        # Dask blames all tasks that a dead worker had, and gives each one more than it runs: here none, so that no
        # other task can have been with every worker that died.
        alone = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
        deadly = processes.environment | alone | {"LABELSIEVE_TEST_DEADLY_ROW": str(41 * BATCH)}
        said = processes.find(*command, env=deadly).fails(1, alone=False)  # new workers may log that they start
        assert "partition 41 (rows " in said
        assert ": 4 workers died while they ran it" in said
        assert leftovers(files) == set()
        done = len(records(files / "wd"))
        assert done < N_PARTITIONS
        processes.forget_reads()
        processes.find(*command).succeeds()
        assert processes.n_reads() == N_PARTITIONS - done
    assert_same_output(files / "out.zarr", want)


@pytest.mark.slow
def test_all_scores_are_tied_and_nearly_all_rows_are_issues(tmp_path):
    n_rows = 400_000
    labels = np.zeros(n_rows, np.int8)
    labels[::40_000] = 2
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "probs.npy", np.tile(np.array([0.125, 0.25, 0.625], np.float16), (n_rows, 1)))
    with Processes(tmp_path) as processes:
        cluster = processes.cluster(2)
        command = (*NPY, "--batch-size", 30_000, "-o", "out.zarr", "--quiet")
        processes.find(*command, "--scheduler", cluster.address).succeeds()
    want = find(tmp_path / "labels.npy", tmp_path / "probs.npy")
    assert want.num_issues == n_rows - 10
    assert_same_output(tmp_path / "out.zarr", want)


# Killed and resumed on threads ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_again_and_again(files, want):
    rng = random.Random(20)
    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        for kill in range(6):
            memory = ["--max-memory", "600MB" if kill != 3 else "300MB"]
            reads = processes.n_reads() + rng.randint(0, 2)
            processes.hold(reads)  # so few that no run is the last
            job = processes.find(*command, *memory)
            if rng.random() < 0.75:
                wait_until(lambda n=reads: processes.n_reads() > n, job)
            else:  # at any moment: what is asserted holds at all of them
                time.sleep(rng.uniform(0, 1))
            assert job.runs
            job.kill()
            assert processes.rows_read_again() <= (kill + 1) * THREADS * BATCH
            assert not (files / "out.zarr").exists()
        processes.release()
        processes.find(*command).succeeds()
        assert processes.rows_read_again() <= 6 * THREADS * BATCH
        assert_same_output(files / "out.zarr", want)
        # All is read: what follows is ranking, writing and publishing.
        started = time.monotonic()
        processes.find(*command).succeeds()
        lasts, reads = time.monotonic() - started, processes.n_reads()
        for _ in range(2):
            shutil.rmtree(files / "out.zarr", ignore_errors=True)
            job = processes.find(*command)
            time.sleep(rng.uniform(0.5, 1) * lasts)  # any moment will do
            job.kill()
            if (files / "out.zarr").exists():
                assert_same_output(files / "out.zarr", want)
        processes.find(*command).succeeds()
        assert processes.n_reads() == reads
    assert_same_output(files / "out.zarr", want)
    assert leftovers(files) == {"out.zarr"}


@pytest.mark.slow
def test_killed_while_it_reads_a_second_time(files):
    settings = {"method": "normalized_margin", "adjust_pred_probs": True}
    options = ("--method", "normalized_margin", "--adjust-pred-probs", "--threads", THREADS)
    command = (*NPY, *CUT, *options, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        for n_reads in (20, N_PARTITIONS + 20):
            processes.hold(n_reads)
            job = processes.find(*command)
            processes.wait_for_held(n_reads, 1, job)
            job.kill()
        processes.release()
        processes.find(*command).succeeds()
        assert processes.n_reads() <= 2 * N_PARTITIONS + 2 * THREADS
    assert_same_output(files / "out.zarr", find(LABELS, PROBS, **settings))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_leaves_what_is_done_and_nothing_else(files, want, number):
    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        processes.hold(15)
        job = processes.find(*command)
        processes.wait_for_held(15, THREADS, job)
        job.signal(number)
        processes.release_until_end(job)
        said = job.fails(143 if number == signal.SIGTERM else 130)
        assert said == f"labelsieve: {'terminated' if number == signal.SIGTERM else 'interrupted'}"
        assert leftovers(files) == set()
        done = len(records(files / "wd"))
        assert processes.rows_read_again() == 0
        n_reads = processes.n_reads()
        assert n_reads - THREADS <= done <= n_reads < N_PARTITIONS, "it waits for what is in flight and no more"
        processes.release()
        processes.find(*command).succeeds()
        assert processes.n_reads() - n_reads == N_PARTITIONS - done
        assert processes.rows_read_again() <= THREADS * BATCH
    assert_same_output(files / "out.zarr", want)
    assert leftovers(files) == {"out.zarr"}


def test_what_a_killed_run_has_left_harms_no_other(files, want):
    beside = files / ".out.zarr.partial"
    (beside / "out.zarr").mkdir(parents=True)
    (beside / "out.zarr" / "zarr.json").write_text("{")
    find(files / "labels.npy", files / "probs.npy", workdir=files / "wd")
    for record in (files / "wd" / "summaries").iterdir():
        record.unlink()
    (files / "wd" / "summaries" / ".0000003.rec.0123").write_bytes(b"half a record")
    (files / "wd" / "summaries" / record_files(files / "wd")[-1]).write_bytes(b"no more than this")
    (files / "wd" / "runs").mkdir()
    (files / "wd" / "runs" / "0-0").write_bytes(b"a run of another run")
    found = find(files / "labels.npy", files / "probs.npy", workdir=files / "wd", output=files / "out.zarr")
    assert_same_output(files / "out.zarr", want)
    assert found.facts.rows_read == N_ROWS
    assert leftovers(files) == {"out.zarr"}


# Stored data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["threads", pytest.param("cluster", marks=pytest.mark.slow)])
def test_a_chunk_that_does_not_decode(zarr_files, want, where):
    broken = zarr_files / "probs.zarr" / "c" / "41" / "0"
    whole = broken.read_bytes()
    broken.write_bytes(bytes(len(whole)))
    options = ("--threads", THREADS) if where == "threads" else ("--workers", 2, "--threads", 1)
    command = (*ZARR, *CUT, *options, "--workdir", "wd", "-o", "out.zarr")
    with Processes(zarr_files) as processes:
        said = processes.find(*command).fails(1)
        assert "partition 41 (rows 41,000..41,999) of" in said
        assert "probs.zarr" in said
        assert any(cause in said.lower() for cause in ("zstd", "decod", "corrupt", "decompress"))
        assert leftovers(zarr_files) == set()
        done = {record_files(zarr_files / "wd").index(name) for name in records(zarr_files / "wd")}
        assert 41 not in done
        assert done
        broken.write_bytes(whole)
        processes.forget_reads()
        processes.find(*command).succeeds()
        read = sorted(start // BATCH for _, start, _ in processes.reads())
        assert read == sorted(set(range(N_PARTITIONS)) - done)
    assert_same_output(zarr_files / "out.zarr", want)


def test_a_file_vanishes_while_it_is_read(files, want):
    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        processes.hold(10)
        job = processes.find(*command)
        processes.wait_for_held(10, THREADS, job)
        (files / "probs.npy").rename(files / "away")
        processes.release()
        said = job.fails(1)
        assert "probs.npy" in said
        assert "No such file" in said
        assert "partition" in said
        done = len(records(files / "wd"))
        assert 10 <= done < N_PARTITIONS
        (files / "away").rename(files / "probs.npy")
        n_reads = processes.n_reads()
        processes.find(*command).succeeds()
        assert processes.n_reads() - n_reads == N_PARTITIONS - done
    assert_same_output(files / "out.zarr", want)


def test_a_chunk_vanishes_while_the_array_is_read_and_comes_back(zarr_files, want):
    """As on a shared disk that is away for a while: Zarr would give zeros for a chunk that is not there."""
    command = (*ZARR, *CUT, "--threads", THREADS, "--workdir", "wd", "-o", "out.zarr")
    chunk = zarr_files / "probs.zarr" / "c" / "50"
    with Processes(zarr_files) as processes:
        processes.hold(5)
        job = processes.find(*command)
        processes.wait_for_held(5, THREADS, job)
        chunk.rename(zarr_files / "away")
        processes.release()
        said = job.fails(1)
        assert "(rows 50,000..50,999) was there when the run began, and is gone" in said
        assert not (zarr_files / "out.zarr").exists()
        (zarr_files / "away").rename(chunk)
        processes.find(*command).succeeds()
    assert_same_output(zarr_files / "out.zarr", want)


def test_an_input_that_has_changed_is_refused_by_what_differs(files, want):
    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd")
    with Processes(files) as processes:
        processes.hold(10)
        job = processes.find(*command)
        processes.wait_for_held(10, THREADS, job)
        job.kill()
        processes.release()
        before = records(files / "wd")
        for options, difference in (
            ({"method": "normalized_margin"}, r"settings\.method was self_confidence, is normalized_margin"),
            ({"allow_zero_rows": True}, r"settings\.allow_zero_rows was False, is True"),
        ):
            with pytest.raises(WorkdirError, match=difference):
                find(files / "labels.npy", files / "probs.npy", workdir=files / "wd", **options)
        other = PROBS.copy()
        other[17] = 1 / N_CLASSES
        np.save(files / "probs.npy", other)
        said = processes.find(*command).fails(2)
        assert "pred_probs.content.mtime_ns was " in said
        assert "--fresh" in said
        assert records(files / "wd") == before, "nothing in it is touched"
        processes.find(*command, "--fresh", "-o", "out.zarr").succeeds()
    assert_same_output(files / "out.zarr", find(LABELS, other))


# The workdir ------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder, *, n_bytes=2_000_000, read_only=False):
    """Give a folder that is a file system of its own in memory, which ends with the process that holds it."""
    at = folder / "disk"
    at.mkdir()
    script = f"mount -t tmpfs -o size={n_bytes} tmpfs {at} && mkdir {at}/wd && "
    script += f"mount -o remount,ro {at} && " if read_only else ""
    command = ["unshare", "-rm", "sh", "-c", script + "echo ready && exec sleep infinity"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare to mount with")
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("no file system may be mounted here")
        yield Path(f"/proc/{holder.pid}/root") / at.relative_to("/")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_disk_of_the_workdir_fills_up(files, want):
    with Processes(files) as processes, small_disk(files) as disk:
        (disk / "ballast").write_bytes(bytes(1_700_000))
        command = (*NPY, *CUT, "--threads", THREADS, "--workdir", disk / "wd", "-o", "out.zarr")
        said = processes.find(*command).fails(1)
        assert "No space left on device" in said
        assert str(disk / "wd") in said, "what is full is named"
        assert not (files / "out.zarr").exists()
        done = records(disk / "wd")
        assert 5 < len(done) < N_PARTITIONS
        assert not [path for path in (disk / "wd" / "summaries").iterdir() if path.name not in done], "no torn file"
        processes.forget_reads()
        (disk / "ballast").unlink()
        processes.find(*command).succeeds()
        assert processes.n_reads() == N_PARTITIONS - len(done)
    assert_same_output(files / "out.zarr", want)


@pytest.mark.slow
def test_the_workdir_of_a_full_disk_goes_on_elsewhere(files, want):
    with Processes(files) as processes, small_disk(files) as disk:
        (disk / "ballast").write_bytes(bytes(1_700_000))
        command = (*NPY, *CUT, "--threads", THREADS, "-o", "out.zarr")
        processes.find(*command, "--workdir", disk / "wd", "--retries", 0).wait()
        done = records(disk / "wd")
        shutil.copytree(disk / "wd", files / "wd")
        processes.forget_reads()
        processes.find(*command, "--workdir", "wd").succeeds()
        assert processes.n_reads() == N_PARTITIONS - len(done)
    assert_same_output(files / "out.zarr", want)


@pytest.mark.slow
def test_the_disk_of_the_output_fills_up(files, want):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # scores take more, records less

    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd", "-o", "out.zarr")
    with Processes(files) as processes:
        code, _, err = processes.find(*command, preexec_fn=limit_files).wait()
        assert code in (1, 2)
        assert "out.zarr" in err
        assert "File too large" in err
        assert len(err.splitlines()) == 1
        assert leftovers(files) == set()
        processes.forget_reads()
        processes.find(*command).succeeds()
        assert processes.n_reads() == 0
    assert_same_output(files / "out.zarr", want)


def test_a_workdir_that_is_read_only(files):
    with Processes(files) as processes, small_disk(files, read_only=True) as disk:
        said = processes.find(*NPY, *CUT, "--workdir", disk / "wd").fails(2)
        assert "Read-only file system" in said
        assert f"{disk}/wd" in said
        assert processes.n_reads() == 0


@pytest.mark.slow
def test_after_a_kill_in_an_object_store_the_same_command_goes_on_at_once(files, want):
    with s3.running_server() as server, pytest.MonkeyPatch.context() as patch:
        server.set_environment(patch)
        fsspec.filesystem("s3").mkdir(s3.BUCKET)
        work, batch = UrlFolder(f"s3://{s3.BUCKET}/work"), 5 * BATCH
        command = (*NPY, "--batch-size", batch, "--quiet", "--threads", 1, "--workdir", work.where, "-o", "out.zarr")
        with Processes(files) as processes:
            processes.hold(3)
            first = processes.find(*command)
            processes.wait_for_held(3, 1, first)
            first.kill()
            processes.release()
            before = json.loads(work.read("run.json"))
            assert before["owner"].startswith(f"process {first.pid} on ")
            code, _, said = processes.find(*command).wait()
            assert code == 0, said
            assert f"the workdir {work.where} has been in use by {before['owner']} since {before['since']}; if" in said
            assert processes.rows_read_again() <= 2 * batch
        assert_same_output(files / "out.zarr", want)
        assert "run.json" not in work.names()
    s3.clear_clients()


def test_two_runs_in_one_workdir(files, want):
    command = (*NPY, *CUT, "--threads", THREADS, "--workdir", "wd")
    with Processes(files) as processes:
        processes.hold(5)
        first = processes.find(*command, "-o", "out.zarr")
        processes.wait_for_held(5, THREADS, first)
        assert f"wd is in use by process {first.pid} on " in processes.find(*command, "--wait", 0).fails(75)
        assert f"wd is in use by process {first.pid} on " in processes.find(*command, "--wait", 0, "--fresh").fails(75)
        processes.release()
        first.succeeds()
        assert processes.n_reads() == N_PARTITIONS
    assert_same_output(files / "out.zarr", want)
