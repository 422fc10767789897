"""What a killed run leaves beside its output, and what the next one does with it."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import labelsieve
from labelsieve.errors import UnwritableError
from labelsieve.results.store import replacing
from labelsieve.storage.folder import LocalFolder

# What the lock of a process that was killed says.
KILLED = f"process 1 on {socket.gethostname()}"
WRITER = """
import sys
from pathlib import Path
from labelsieve.results.store import replacing
from labelsieve.storage.folder import LocalFolder

with replacing(LocalFolder(Path(sys.argv[1]))) as made:
    made.write_bytes(b"of another process")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writing_process(path):
    """Give a process that has begun to write a file, and waits for a line before it ends."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def hidden(folder):
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def write(path, content=b"new"):
    with replacing(LocalFolder(path)) as made:
        made.write_bytes(content)


def left_behind(path, name="abcd_123", owner=KILLED):
    """Return a hidden folder as a killed run leaves it."""
    folder = path.with_name(f".{path.name}.{name}")
    folder.mkdir()
    if owner is not None:
        (folder / "lock").write_text(owner)
    return folder


def test_apply_removes_what_a_killed_run_left_and_nothing_of_one_that_is_alive(tmp_path):
    labels = np.arange(40) % 3
    np.save(tmp_path / "labels.npy", labels)
    out = tmp_path / "out.npy"
    decisions = {"row": [4], "given_label": [1], "decision": ["other"], "label": [2]}
    with writing_process(out) as killed:
        killed.kill()
        killed.wait()
        [of_killed] = hidden(tmp_path)
        with writing_process(out) as alive:
            # The second process has removed the folder of the first.
            [of_alive] = hidden(tmp_path)
            assert of_alive != of_killed
            labelsieve.apply_decisions(tmp_path / "labels.npy", decisions, out)
            assert hidden(tmp_path) == {of_alive}
            assert np.load(out).tolist() == np.where(np.arange(40) == 4, 2, labels).tolist()
            alive.communicate("\n")
            assert alive.returncode == 0
            assert out.read_bytes() == b"of another process"  # the last one that ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.npy", "out.npy", "out.npy.log.json"]


def test_what_nobody_is_known_to_have_left_stays(tmp_path):
    path = tmp_path / "out.npy"
    kept = [
        left_behind(path, "no_lock1", None),
        left_behind(path, "no_owner", ""),
        left_behind(path, "elsewher", "process 1 on another-machine"),
        left_behind(path, "too_long1"),
        left_behind(path, "Capitals"),
        left_behind(tmp_path / "out.npy2"),
        left_behind(tmp_path / "outXnpy"),
    ]
    kept.append(left_behind(path, "not_ours"))
    (kept[-1] / "lock").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".out.npy.a_file_1").write_text(KILLED)
    (tmp_path / ".out.npy.aboutone").symlink_to(left_behind(tmp_path / "other"))
    with (kept[0] / "lock").open("w") as file:  # that of one which is alive
        file.write(KILLED)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        before = hidden(tmp_path)
        write(path)
        assert hidden(tmp_path) == before
    write(path)
    assert hidden(tmp_path) == before - {".out.npy.no_lock1"}
    assert path.read_bytes() == b"new"


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    folder = left_behind(tmp_path / "out.npy")
    with monkeypatch.context() as patched:
        patched.setattr("labelsieve.storage.folder.fcntl", None)
        write(tmp_path / "out.npy")
        assert hidden(tmp_path) == {folder.name}
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lambda *_: os.open("/nowhere", 0))  # any error of the system
        write(tmp_path / "out.npy")
        assert hidden(tmp_path) == {folder.name}
    write(tmp_path / "out.npy")
    assert hidden(tmp_path) == set()


@pytest.mark.parametrize("at_the_end", [True, False])
def test_a_folder_that_was_moved_away_by_a_killed_run_is_there_again(tmp_path, at_the_end):
    """A run may be killed between the renames of the old and of the new folder, or after both."""
    path = tmp_path / "out.zarr"
    left = left_behind(path)
    for folder in (left / "replaced", path if at_the_end else left / f"new-{path.name}"):
        folder.mkdir()
        (folder / "zarr.json").write_text(folder.name)

    def fail():
        with replacing(LocalFolder(path)):
            raise OSError(28, "No space left on device")

    with pytest.raises(UnwritableError, match=r"out\.zarr cannot be written: No space left"):
        fail()
    assert (path / "zarr.json").read_text() == ("out.zarr" if at_the_end else "replaced")
    assert hidden(tmp_path) == set()


def test_a_folder_that_was_moved_away_stays_where_it_cannot_be_moved_back(tmp_path, monkeypatch):
    path = tmp_path / "out.zarr"
    left = left_behind(path)
    for name in ("replaced", "new-out.zarr"):
        (left / name).mkdir()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.rename", fail)
        with pytest.raises(UnwritableError, match=r"out\.zarr cannot be written: Permission denied"):
            write(path)
    assert (left / "replaced").is_dir()
    path.symlink_to(tmp_path / "nowhere")  # what is there now is not replaced by what was there
    write(path)
    assert (path.read_bytes(), hidden(tmp_path)) == (b"new", set())


@pytest.mark.parametrize("name", ["lock", "run.json", "replaced"])
def test_names_of_what_is_in_the_hidden_folder_are_outputs_too(tmp_path, name):
    for content in ("old", "new"):
        with replacing(LocalFolder(tmp_path / name)) as made:
            made.mkdir()
            (made / "file").write_text(content)
    assert [path.name for path in tmp_path.rglob("*")] == [name, "file"]
    assert (tmp_path / name / "file").read_text() == "new"


def test_many_writers_at_once_leave_each_other_alone(tmp_path):
    path, errors = tmp_path / "out.bin", []

    def write_often(number):
        try:
            for _ in range(60):
                write(path, bytes([number]) * 5000)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=write_often, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_bytes() in {bytes([number]) * 5000 for number in range(4)}
    assert [one.name for one in tmp_path.iterdir()] == ["out.bin"]
