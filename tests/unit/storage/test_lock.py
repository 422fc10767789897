"""One run at a time: a lock that ends with its process; where there are no locks, the id of the latest run."""

import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

import labelsieve
import s3
from labelsieve import InUseError, WorkdirError
from labelsieve.storage import folder as lock
from labelsieve.storage.folder import LocalFolder, UrlFolder, open_folder, own_folder
from processes import wait_until

ME = f"process {os.getpid()} on {socket.gethostname()}"


def owned(folder, wait=0):
    """Own a folder as a workdir does."""
    return own_folder(folder, f"the workdir {folder.where}", wait)


@pytest.fixture
def local(tmp_path):
    return LocalFolder(tmp_path / "work")


@pytest.fixture
def remote():
    """A folder in memory."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield UrlFolder("memory://bucket/work")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def id_in(folder):
    return json.loads(folder.read("run.json"))


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
from labelsieve.storage.folder import own_folder
from labelsieve.storage.folder import open_folder
with own_folder(open_folder(sys.argv[1]), f"the workdir {sys.argv[1]}"):
    print("owned", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def another_process(code, *args):
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def test_a_disk_without_locks_takes_a_run_id(local, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with owned(local) as check:
        assert id_in(local)["owner"] == ME
        check()
    assert local.names() == ["lock"]


def test_a_system_without_locks_takes_a_run_id(local, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    with owned(local) as check:
        assert id_in(local)["owner"] == ME
        check()
    assert local.names() == []


# A run id --------------------------------------------------------------------------------------------------------


def test_a_run_id_names_its_owner_and_is_gone_with_it(remote, caplog):
    for _ in range(2):
        with owned(remote) as check:
            facts = id_in(remote)
            assert facts["owner"] == ME
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", facts["since"])
            check()
        assert remote.names() == []
    assert not caplog.records


def test_the_later_run_is_the_owner_and_the_earlier_one_stops(remote, caplog):
    with owned(remote) as first:
        before = id_in(remote)
        with owned(UrlFolder(remote.where)) as second:
            second()
            with pytest.raises(InUseError) as caught:
                first()
            assert str(caught.value) == f"the workdir {remote.where} is in use by {ME}, a later run: this run stops"
        with pytest.raises(InUseError) as caught:
            first()
        assert (
            str(caught.value) == f"the workdir {remote.where} was used by a later run, which has ended: this run stops"
        )
    [record] = caplog.records
    assert (record.name, record.levelname) == ("labelsieve", "WARNING")
    assert record.getMessage() == (
        f"the workdir {remote.where} has been in use by {ME} since {before['since']}; if that run was not killed, "
        "it stops before it publishes anything, because this run takes over"
    )
    assert remote.names() == []


def test_an_earlier_run_leaves_the_id_of_the_later_one(remote):
    with contextlib.ExitStack() as later:
        with owned(remote):
            second = later.enter_context(owned(UrlFolder(remote.where)))
        second()
        assert id_in(remote)["owner"] == ME
    assert remote.names() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"null", b"{}", b'{"id": "x"}', b"\xff\xfe"])
def test_an_id_that_is_not_valid_is_replaced(remote, content, caplog):
    remote.write("run.json", content)
    with owned(remote) as check:
        check()
        remote.write("run.json", content)
        with pytest.raises(InUseError, match="was used by a later run, which has ended"):
            check()
    assert not caplog.records


def test_an_error_of_a_run_that_was_replaced_says_so(remote):
    def read_what_the_later_run_has_removed(later):
        with owned(remote):
            later.enter_context(owned(UrlFolder(remote.where)))
            remote.read("record")

    with contextlib.ExitStack() as later:
        with pytest.raises(InUseError, match=f"in use by {ME}, a later run") as caught:
            read_what_the_later_run_has_removed(later)
        assert isinstance(caught.value.__context__, FileNotFoundError)


def test_an_error_of_the_owner_stays_as_it_is(remote, monkeypatch):
    with pytest.raises(FileNotFoundError, match="of its own"), owned(remote):
        raise FileNotFoundError("of its own")
    assert remote.names() == []

    def gone(*_):
        raise labelsieve.UnreadableDataError("the store is gone")

    def lose_the_store():
        with owned(remote):
            monkeypatch.setattr(UrlFolder, "read", gone)
            raise labelsieve.UnwritableError("of its own")

    with pytest.raises(labelsieve.UnwritableError, match="of its own"):
        lose_the_store()


def test_an_id_is_not_left_where_its_run_was_interrupted(remote):
    with pytest.raises(KeyboardInterrupt), owned(remote):
        raise KeyboardInterrupt
    assert remote.names() == []


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_check_travels_to_workers(request, kind):
    folder = request.getfixturevalue(kind)
    with owned(folder) as check:
        travelled = pickle.loads(pickle.dumps(check))
        travelled()
        if kind == "remote":
            with owned(UrlFolder(folder.where)), pytest.raises(InUseError, match="a later run: this run stops"):
                travelled()


CHECK = """
import sys
from labelsieve import InUseError
from labelsieve.storage.folder import own_folder
from labelsieve.storage.folder import open_folder
with own_folder(open_folder(sys.argv[1]), f"the workdir {sys.argv[1]}") as check:
    print("owned", flush=True)
    sys.stdin.readline()
    check()
    print("still owned", flush=True)
    sys.stdin.readline()
    try:
        check()
    except InUseError as error:
        print(error, flush=True)
"""


def test_of_two_processes_the_later_one_has_a_real_store(monkeypatch):
    with s3.running_server() as server, another_process_of(server, monkeypatch) as (url, process):
        assert process.stdout.readline() == "owned\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "still owned\n"
        with owned(UrlFolder(url)) as check:
            process.stdin.write("\n")
            process.stdin.flush()
            said = process.stdout.readline()
            assert said == f"the workdir {url} is in use by {ME}, a later run: this run stops\n"
            assert process.wait(60) == 0
            check()
    s3.clear_clients()


@contextlib.contextmanager
def another_process_of(server, monkeypatch):
    server.set_environment(monkeypatch)
    fsspec.filesystem("s3").mkdir(s3.BUCKET)
    url = f"s3://{s3.BUCKET}/work"
    with another_process(CHECK, url) as process:
        yield url, process


# Waiting ----------------------------------------------------------------------------------------------------------


def test_who_waits_is_the_owner_once_the_other_has_ended(local, monkeypatch, caplog):
    monkeypatch.setattr(lock, "_RETRY_SECONDS", 0.02)
    began = threading.Event()
    end, got = threading.Event(), []

    def hold():
        with owned(local):
            began.set()
            end.wait(60)
            got.append("first")

    def sleep(seconds, inner=time.sleep):
        end.set()  # only once the other has been refused
        inner(seconds)

    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    thread = threading.Thread(target=hold)
    thread.start()
    assert began.wait(60)
    with owned(open_folder(local.where), wait=60):
        got.append("second")
    thread.join(60)
    assert got == ["first", "second"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("labelsieve", "WARNING")
    who = f"the workdir {local.where} is in use by {ME}"
    assert record.getMessage() == f"{who}; waiting up to 60 s for it"


def test_waiting_ends_with_the_error_that_would_have_come_at_once(local, monkeypatch):
    monkeypatch.setattr(lock, "_RETRY_SECONDS", 0.02)
    with owned(local):
        began = time.monotonic()
        with pytest.raises(InUseError, match=f"in use by {ME}"), owned(open_folder(local.where), wait=0.3):
            pass
        assert time.monotonic() - began >= 0.3
