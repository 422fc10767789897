"""One run at a time: a lock that dies with its process, a lease that ends."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest

import labelsieve
import s3
from labelsieve import InUseError, WorkdirError
from labelsieve.storage import lock, process_identity
from labelsieve.storage.folders import LocalFolder, UrlFolder, open_folder
from labelsieve.storage.lock import owned as owned_by_name
from processes import wait_until

ME = f"process {os.getpid()} on {socket.gethostname()}"


def owned(folder, wait=0):
    """Own a folder as a workdir does."""
    return owned_by_name(folder, f"the workdir {folder.where}", wait)


@pytest.fixture
def local(tmp_path):
    return LocalFolder(tmp_path / "work")


@pytest.fixture
def remote(monkeypatch):
    """A folder in memory, whose leases last a second."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.02)
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield UrlFolder("memory://bucket/work")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def lease_of(folder):
    return json.loads(folder.read("lease.json"))


def write_lease(folder, ends, owner="process 7 on elsewhere", name="theirs", **more):
    folder.write("lease.json", json.dumps({"id": name, "owner": owner, "ends": ends, **more}).encode())


def lease_threads():
    return [thread for thread in threading.enumerate() if thread.name == "labelsieve-lease"]


# A lock ----------------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_with_who_is_the_first(local):
    with owned(local), pytest.raises(WorkdirError) as caught, owned(open_folder(local.path)):
        pytest.fail("two own it")
    assert str(caught.value) == f"the workdir {local.path} is in use by {ME}"


def test_a_lock_is_free_again_once_its_block_ends(local):
    for _ in range(3):
        with owned(local):
            pass

    def fail():
        with owned(local):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with owned(local):
        assert local.read("lock").decode() == ME


def test_who_held_the_lock_before_is_not_named(local):
    local.write("lock", b"process 123456789 on a host with a much longer name, which is gone")
    with owned(local):
        assert local.read("lock").decode() == ME
        with pytest.raises(WorkdirError, match=f"in use by {ME}$"), owned(local):
            pass


HOLD = """
import signal, sys
from labelsieve.storage.lock import owned
from labelsieve.storage.folders import open_folder
with owned(open_folder(sys.argv[1]), f"the workdir {sys.argv[1]}"):
    print("owned", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def another_process(code, *args):
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_dies_with_its_process(local):
    with another_process(HOLD, local.path) as process:
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(WorkdirError, match=f"in use by process {process.pid} on {socket.gethostname()}"):
            owned(local).__enter__()
        process.kill()
        process.wait()
        with owned(local):
            pass


def test_of_many_processes_one_is_the_owner(local):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(another_process(HOLD + "\n", local.path)) for _ in range(2)]
        # The others end with an error; the owner goes on.
        wait_until(lambda: sum(process.poll() is None for process in processes) == 1)
        [owner] = [process for process in processes if process.poll() is None]
        assert owner.stdout.readline() == "owned\n"
        assert local.read("lock").decode() == f"process {owner.pid} on {socket.gethostname()}"


def test_a_lock_on_a_file_that_its_owner_has_removed_is_none(local, monkeypatch):
    # As the owner of an output does at its end: in between, another process has opened the lock but not locked it.
    inner, opened = lock.fcntl.flock, []

    def locked_too_late(file, flags):
        opened.append(file)
        if len(opened) == 1:
            shutil.rmtree(local.path)
        return inner(file, flags)

    monkeypatch.setattr(lock.fcntl, "flock", locked_too_late)
    with pytest.raises(InUseError, match="in use by a process that is ending: try again"), owned(local):
        pass
    opened.clear()
    with owned(local, wait=60):
        assert len(opened) == 2
        assert local.read("lock").decode() == ME, "the file that is there is the one that is locked"
        with pytest.raises(InUseError), owned(local):
            pass


def test_a_run_names_who_is_in_its_workdir(tmp_path):
    labels, probs = np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    with another_process(HOLD, tmp_path / "work") as process:
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(WorkdirError, match=f"work is in use by process {process.pid}"):
            labelsieve.find_label_issues(labels, probs, workdir=tmp_path / "work", fresh=True, wait=0)
    assert labelsieve.find_label_issues(labels, probs, workdir=tmp_path / "work").num_issues == 1


def test_a_disk_without_locks_takes_a_lease(local, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0)

    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with owned(local):
        assert lease_of(local)["owner"] == ME
        with pytest.raises(WorkdirError, match=f"in use by {ME}, which still runs"), owned(local):
            pass
    assert local.names() == ["lock"]


def test_a_system_without_locks_takes_a_lease(local, monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0)
    monkeypatch.setattr(lock, "fcntl", None)
    with owned(local):
        assert lease_of(local)["owner"] == ME
    assert local.names() == []


# A lease ---------------------------------------------------------------------------------------------------------


def test_a_lease_names_its_owner_and_is_gone_with_it(remote):
    with owned(remote):
        lease = lease_of(remote)
        assert lease["owner"] == ME
        assert time.time() < lease["ends"] <= time.time() + 1
        assert len(lease_threads()) == 1
    assert remote.names() == []
    assert lease_threads() == []


def test_a_second_owner_is_refused_with_who_it_is(remote):
    with owned(remote), pytest.raises(InUseError) as caught, owned(UrlFolder(remote.url)):
        pytest.fail("two own it")
    assert str(caught.value) == f"the workdir memory://bucket/work is in use by {ME}, which still runs"
    with owned(remote):
        pass


def test_of_an_owner_elsewhere_it_is_said_until_when(remote):
    write_lease(remote, 1_800_000_000 + 4_000_000_000)
    with pytest.raises(InUseError) as caught, owned(remote):
        pass
    who = "the workdir memory://bucket/work is in use by process 7 on elsewhere"
    assert str(caught.value) == f"{who}, unless that has died: then it is free from 15:06:40 UTC on"


def test_a_lease_is_renewed_while_its_owner_lives(remote):
    with owned(remote):
        first = lease_of(remote)
        time.sleep(1.3)  # longer than it lasts
        later = lease_of(remote)
        assert later["id"] == first["id"]
        assert later["ends"] > first["ends"] + 0.5
        with pytest.raises(WorkdirError), owned(UrlFolder(remote.url)):
            pass


def test_a_lease_that_nobody_renews_ends(remote):
    write_lease(remote, time.time() + 600)
    with pytest.raises(WorkdirError, match="in use by process 7 on elsewhere, unless that has died"), owned(remote):
        pass
    write_lease(remote, time.time() - 0.001)
    with owned(remote):
        assert lease_of(remote)["owner"] == ME


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"7", b"null", b"{}", b'{"id": "x"}', b"\xff\xfe"),
        *(b'{"id": "x", "owner": "y", "ends": ' + ends + b"}" for ends in (b'"z"', b"null", b"NaN", b"1e400", b"[]")),
        b'{"id": 1, "owner": "y", "ends": 4e9}',
    ],
)
def test_a_lease_that_does_not_read_is_none(remote, content):
    remote.write("lease.json", content)
    with owned(remote):
        assert lease_of(remote)["owner"] == ME


def test_a_lease_that_was_taken_over_is_left_to_its_new_owner(remote):
    with owned(remote):
        write_lease(remote, time.time() + 60)
        time.sleep(0.2)  # some renewals
        assert lease_of(remote)["id"] == "theirs"
        deadline = time.monotonic() + 5
        while lease_threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease_threads() == [], "it has stopped renewing"
    assert lease_of(remote)["id"] == "theirs"


@pytest.mark.parametrize("conditions", [True, False])
def test_of_those_who_take_it_at_once_one_has_it(remote, monkeypatch, conditions):
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0 if conditions else 0.5)
    if not conditions:  # a store that knows none: the later one has it
        monkeypatch.setattr(UrlFolder, "write_new", UrlFolder.write)
    together, got, mutex = threading.Barrier(4), [], threading.Lock()
    read = lock._Lease._read

    def read_together(self):
        held = read(self)
        with contextlib.suppress(threading.BrokenBarrierError):
            if held is None:
                together.wait(timeout=2)  # all have seen that it is free before any of them writes
        return held

    monkeypatch.setattr(lock._Lease, "_read", read_together)

    def take():
        try:
            with owned(UrlFolder(remote.url)):
                with mutex:
                    got.append("owner")
                time.sleep(0.3)
        except WorkdirError:
            with mutex:
                got.append("refused")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert sorted(got) == ["owner", "refused", "refused", "refused"]


def test_of_many_processes_one_has_the_lease_of_a_real_store(monkeypatch):
    with s3.running_server() as server, contextlib.ExitStack() as stack:
        server.set_environment(monkeypatch)
        fsspec.filesystem("s3").mkdir(s3.BUCKET)
        url = f"s3://{s3.BUCKET}/work"
        processes = [stack.enter_context(another_process(HOLD, url)) for _ in range(3)]
        deadline = time.monotonic() + 45
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        [owner] = [process for process in processes if process.poll() is None]
        assert owner.stdout.readline() == "owned\n"
        assert lease_of(UrlFolder(url))["owner"] == f"process {owner.pid} on {socket.gethostname()}"
        with pytest.raises(WorkdirError, match=f"in use by process {owner.pid} on "), owned(UrlFolder(url)):
            pass
        folder = UrlFolder(f"{url}/new")
        folder.write_new("once", b"1")
        with pytest.raises(FileExistsError):
            folder.write_new("once", b"2")
        assert folder.read("once") == b"1"
    s3.clear_clients()


def test_a_store_that_says_otherwise_that_there_is_a_lease_is_believed(remote, monkeypatch):
    remote.write("lease.json", b"theirs")

    def conflict(*_, **__):
        raise OSError(22, "ConditionalRequestConflict")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", conflict)
    with pytest.raises(FileExistsError):
        remote.write_new("lease.json", b"mine")
    assert remote.read("lease.json") == b"theirs"


@pytest.mark.parametrize("expired", [False, True])
def test_a_run_that_took_over_and_has_ended_is_known_too(remote, monkeypatch, expired):
    monkeypatch.setattr(lock, "_RENEW_SECONDS", 600)  # as of a computer that sleeps
    with owned(remote) as check:
        remote.remove("lease.json")
        check()
        if expired:
            later = time.time() + 2
            monkeypatch.setattr(lock.time, "time", lambda: later)
            with pytest.raises(InUseError, match="in use by another run, which took over while this one slept"):
                check()


def test_a_renewal_that_failed_does_not_count(remote, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 600.0)
    failed, later = threading.Event(), 0.0

    def fail(*_):
        failed.set()
        raise OSError("the store is gone")

    with owned(remote) as check, monkeypatch.context() as patch:
        patch.setattr(UrlFolder, "write", fail)
        assert failed.wait(30)
        remote.remove("lease.json")
        later = time.time() + 590
        failed.clear()
        patch.setattr(lock.time, "time", lambda: later)
        check()
        assert failed.wait(30)
        later += 20
        with pytest.raises(InUseError, match="in use by another run, which took over"):
            check()


def test_a_sleeper_does_not_renew_what_another_run_has_had(remote, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.0)
    with owned(remote):
        remote.remove("lease.json")
        [thread] = lease_threads()
        thread.join(30)
        assert not thread.is_alive()
        assert remote.names() == []


def test_a_lease_is_not_left_where_taking_it_was_interrupted(remote, monkeypatch):
    def interrupted(_):
        assert lease_of(remote)["owner"] == ME
        raise KeyboardInterrupt

    monkeypatch.setattr(lock.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), owned(remote):
        pass
    assert remote.names() == []


def test_a_lease_that_is_not_seen_at_once_is_taken_all_the_same(remote, monkeypatch):
    inner, reads = UrlFolder.read, itertools.count(1)

    def read(folder, name):
        if next(reads) == 2:  # the first is before it is written
            raise FileNotFoundError(name)
        return inner(folder, name)

    monkeypatch.setattr(UrlFolder, "read", read)
    with owned(remote, wait=0.5):  # shorter than it lasts
        assert lease_of(remote)["owner"] == ME


def test_a_lease_whose_writing_was_answered_too_late_is_held(remote, monkeypatch):
    inner = UrlFolder.write_new

    def written_twice(folder, name, content):
        inner(folder, name, content)
        inner(folder, name, content)

    monkeypatch.setattr(UrlFolder, "write_new", written_twice)
    with owned(remote):
        assert lease_of(remote)["owner"] == ME


def test_a_store_that_fails_for_a_while_costs_no_lease(remote, monkeypatch):
    with owned(remote):
        with monkeypatch.context() as patch:
            patch.setattr(UrlFolder, "write", lambda *_: (_ for _ in ()).throw(OSError("the store is gone")))
            time.sleep(0.2)
        assert len(lease_threads()) == 1
        time.sleep(0.2)
        assert lease_of(remote)["ends"] > time.time()


def test_a_lease_is_given_back_if_its_block_fails(remote):
    def fail():
        with owned(remote):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert remote.names() == []
    assert lease_threads() == []


# An owner that was killed -----------------------------------------------------------------------------------------


HOLD_BY_LEASE = "from labelsieve.storage import lock\nlock.fcntl = None\n" + HOLD


@pytest.fixture
def without_locks(local, monkeypatch):
    """A folder that takes leases, which last long."""
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0)
    return local


@pytest.mark.slow
def test_a_lease_is_free_at_once_where_its_owner_was_killed_on_this_machine(without_locks):
    with another_process(HOLD_BY_LEASE, without_locks.path) as process:
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(InUseError, match=f"in use by process {process.pid} on .*, which still runs$"):
            owned(without_locks).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not asked about it yet
        assert lease_of(without_locks)["ends"] > time.time() + 10
        with owned(without_locks):
            assert lease_of(without_locks)["owner"] == ME
        process.wait(timeout=30)
        with owned(without_locks):
            pass


@pytest.mark.slow
def test_a_lease_is_not_free_where_its_owner_may_run_elsewhere(without_locks):
    with another_process(HOLD_BY_LEASE, without_locks.path) as process:
        assert process.stdout.readline() == "owned\n"
        lease = lease_of(without_locks)
        process.kill()
        process.wait(timeout=30)
    machine = lease["process"]["machine"]
    others = [{**lease["process"], "machine": [*machine[:i], "other", *machine[i + 1 :]]} for i in range(len(machine))]
    damaged = [{**lease["process"], key: "7"} for key in ("number", "started")]
    for process in (*others, *damaged, None, [], 7, {}):
        without_locks.write("lease.json", json.dumps(lease | {"process": process}).encode())
        with pytest.raises(InUseError, match="unless that has died"):
            owned(without_locks).__enter__()
    without_locks.write("lease.json", json.dumps(lease).encode())
    with owned(without_locks):
        pass


def test_a_process_is_known_by_its_number_and_its_start():
    me = process_identity.this_process()
    assert me["number"] == os.getpid()
    assert process_identity.still_runs(json.loads(json.dumps(me))) is True
    assert process_identity.still_runs(me | {"started": me["started"] - 1}) is False, "its number was given again"
    assert process_identity.still_runs(me | {"machine": None}) is None
    assert process_identity.still_runs(None) is None
    with another_process("import time; time.sleep(60)") as process:
        assert process_identity.still_runs(me | {"number": process.pid, "started": me["started"]}) is False


def test_nothing_is_known_of_processes_where_proc_is_of_another_namespace(tmp_path, monkeypatch):
    me = process_identity.this_process()
    (tmp_path / "self").symlink_to("1")
    monkeypatch.setattr(process_identity, "_PROC", tmp_path)
    assert process_identity.this_process() is None
    assert process_identity.still_runs(me | {"number": 2**30}) is None


# Waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_who_waits_is_the_owner_once_the_other_has_ended(request, kind, monkeypatch, caplog):
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    folder, began = request.getfixturevalue(kind), threading.Event()
    end, got = threading.Event(), []

    def hold():
        with owned(folder):
            began.set()
            end.wait(60)
            got.append("first")

    def look(_patience, error, inner=lock._Patience.wait):
        inner(_patience, error)
        end.set()  # only once the other has been refused

    monkeypatch.setattr(lock._Patience, "wait", look)
    thread = threading.Thread(target=hold)
    thread.start()
    assert began.wait(60)
    with owned(open_folder(folder.location), wait=60):
        got.append("second")
    thread.join(60)
    assert got == ["first", "second"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("labelsieve", "WARNING")
    who = f"the workdir {folder.where} is in use by {ME}{', which still runs' if kind == 'remote' else ''}"
    assert record.getMessage() == f"{who}; waiting up to 60 s for it"


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_waiting_ends_with_the_error_that_would_have_come_at_once(request, kind, monkeypatch):
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    folder = request.getfixturevalue(kind)
    with owned(folder):
        began = time.monotonic()
        with pytest.raises(InUseError, match=f"in use by {ME}"), owned(open_folder(folder.location), wait=0.3):
            pass
        assert time.monotonic() - began >= 0.3


@pytest.mark.slow
def test_a_lease_that_nobody_renews_ends_whatever_its_owner_s_clock_said(remote, monkeypatch):
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    write_lease(remote, time.time() + 86_400)
    with owned(remote, wait=60):
        assert lease_of(remote)["owner"] == ME


def test_a_password_in_the_url_is_not_told():
    error = lock._in_use(UrlFolder("s3://key:secret@bucket/work"), "process 1")
    assert "secret" not in str(error)
    assert "bucket/work" in str(error)
