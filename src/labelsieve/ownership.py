"""One run at a time in a workdir.

Covers: a lock on a local or shared disk, which dies with its owner; a lease with a heartbeat elsewhere, which expires.
Does not cover: what the owner does (`workdir`).

A lease is an object that names its owner and when it ends; the owner renews it from a thread. It is written on the
condition that there is none. Where a store knows no such condition, or two take over a lease that has ended, both read
who won after a while; and who has lost it all the same finds out before anything is published.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from labelsieve.errors import WorkdirError
from labelsieve.storage import Folder, LocalFolder

try:
    import fcntl
except ImportError:  # elsewhere than POSIX
    fcntl = None  # type: ignore[assignment]

LOCK: Final = "lock"
LEASE: Final = "lease.json"
# How long a lease lasts that nobody renews, and how often it is renewed, in seconds.
LEASE_SECONDS: Final = 60.0
_RENEW_SECONDS: Final = 15.0
# Two who write a lease at once, without conditions, both see the later one after this long.
_SETTLE_SECONDS: Final = 0.5


@contextmanager
def owned(folder: Folder, name: str) -> Iterator[Callable[[], None]]:
    """Own `folder` while the block runs; give what raises once it is owned no more.

    Parameters
    ----------
    folder : Folder
        Made if missing, on a disk.
    name : str
        What it is, for messages.

    Raises
    ------
    WorkdirError
        If another run does; the message says which.
    """
    if isinstance(folder, LocalFolder) and fcntl is not None:
        with _locked(folder, name) as check:
            yield check
    else:
        with _leased(folder, name) as check:
            yield check


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _locked(folder: LocalFolder, name: str) -> Iterator[Callable[[], None]]:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would let a third run lock a new file while a second one waits for this.
        lock = (folder.path / LOCK).open("a+")
    except OSError as error:
        raise WorkdirError(f"{name} cannot be written: {error}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _in_use(name, file.read().strip() or "another process") from None
        except OSError:  # a file system without locks
            with _leased(folder, name) as check:
                yield check
            return
        if not _stands(lock, folder.path / LOCK):  # its owner has removed it with its folder meanwhile
            raise _in_use(name, "a process that is ending: try again")
        file.truncate(0)
        file.write(_me())
        file.flush()
        yield lambda: None


def _stands(file: IO[str], path: Path) -> bool:
    """Tell whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _leased(folder: Folder, name: str) -> Iterator[Callable[[], None]]:
    lease = _Lease(folder, name)
    lease.take()
    try:
        yield lease.check
    finally:
        lease.release()


class _Lease:
    """A lease, and the thread that renews it."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name, self._id = folder, name, uuid.uuid4().hex
        self._ended, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="labelsieve-lease", daemon=True)

    def take(self) -> None:
        self._refuse_held()
        if not self._write_new() and not self._is_mine():  # it has ended or does not read, or another run was faster
            self._refuse_held()
            self._folder.remove(LEASE)
            if not self._write_new():
                raise _in_use(self._name, "another process")
        time.sleep(_SETTLE_SECONDS)
        held = self._read()
        if not held or held["id"] != self._id:
            raise _in_use(self._name, held["owner"] if held else "another process")
        self._thread.start()

    def _is_mine(self) -> bool:
        """Tell whether the lease is this one: the answer to its writing was lost, and it was written again."""
        held = self._read()
        return held is not None and held["id"] == self._id

    def _refuse_held(self) -> None:
        held = self._read()
        if held and held["ends"] > time.time():
            until = datetime.fromtimestamp(held["ends"], UTC).strftime("%H:%M:%S UTC")
            raise _in_use(self._name, f"{held['owner']}, unless it has died: then from {until} on it is free")

    def check(self) -> None:
        """Raise if another run has taken over.

        Raises
        ------
        WorkdirError
            Naming it.
        """
        held = self._read()
        if self._lost.is_set() or (held and held["id"] != self._id):
            raise _in_use(
                self._name, f"{held['owner'] if held else 'another run'}, which took over while this one slept"
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            held = self._read()
            if held and held["id"] == self._id:
                self._folder.remove(LEASE)

    def _keep(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(OSError):  # the next renewal may get through
                held = self._read()
                if held and held["id"] != self._id:
                    self._lost.set()  # taken over, since it had expired
                    return
                self._write()

    def _read(self) -> dict[str, Any] | None:
        try:
            held = json.loads(self._folder.read(LEASE))
            return held if {"id", "owner", "ends"} <= held.keys() else None
        except (FileNotFoundError, ValueError, AttributeError):
            return None

    def _write_new(self) -> bool:
        """Write the lease unless there is one; tell whether it was written."""
        try:
            self._folder.write_new(LEASE, self._content())
        except FileExistsError:
            return False
        return True

    def _write(self) -> None:
        self._folder.write(LEASE, self._content())

    def _content(self) -> bytes:
        return json.dumps({"id": self._id, "owner": _me(), "ends": time.time() + LEASE_SECONDS}).encode()


def _in_use(name: str, by: str) -> WorkdirError:
    return WorkdirError(f"{name} is in use by {by}")
