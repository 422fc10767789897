"""One run at a time in a workdir or an output.

A lease is an object that names its owner and when it ends; the owner renews it from a thread. It is written on the
condition that there is none. Where a store has no such condition, or two runs take over the same ended lease, both read
after a while who won; a run that loses its lease later finds out before anything is published.

A lease outlives an owner that was killed. It is taken over at once if its owner was a process of this machine that has
provably ended, and otherwise when the lease has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
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

from labelsieve.errors import InUseError, LabelsieveError, WorkdirError
from labelsieve.storage.folders import Folder, LocalFolder
from labelsieve.storage.process_identity import still_runs, this_process

try:
    import fcntl
except ImportError:  # elsewhere than POSIX
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("labelsieve")

LOCK: Final = "lock"
LEASE: Final = "lease.json"
# How long a lease lasts that nobody renews, and how often it is renewed, in seconds.
LEASE_SECONDS: Final = 60.0
_RENEW_SECONDS: Final = 15.0
# Two who write a lease at once, without conditions, both see the later one after this long.
_SETTLE_SECONDS: Final = 0.5
# How often a lock or a lease of another run is looked at while waiting for it, in seconds.
_LOOK_SECONDS: Final = 1.0
# Later than any time that a lease ends at, in seconds since 1970.
_MOST_TIME: Final = 1e11


@contextmanager
def owned(folder: Folder, name: str, wait: float = 0) -> Iterator[Callable[[], None]]:
    """Own `folder` while the block runs; yield a check that raises if another run has taken it over.

    Parameters
    ----------
    folder : Folder
        Made if missing, on a disk.
    name : str
        What it is, for messages.
    wait : float
        Seconds to wait while another run owns it; the log says what is waited for.

    Raises
    ------
    InUseError
        If another run still owns it after that time; the message says which.
    """
    patience = _Patience(wait)
    if isinstance(folder, LocalFolder) and fcntl is not None:
        with _locked(folder, name, patience) as check:
            yield check
    else:
        with _leased(folder, name, patience) as check:
            yield check


class _Patience:
    """How long to wait for other runs, all in all.

    Parameters
    ----------
    seconds : float
        From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until, self._logged = seconds, time.monotonic() + seconds, False

    def wait(self, error: InUseError) -> None:
        """Sleep a little, or raise `error` if the time is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise error
        if not self._logged:
            logger.warning("%s; waiting up to %g s for it", error, self._seconds)
            self._logged = True
        time.sleep(min(left, _LOOK_SECONDS))


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _locked(folder: LocalFolder, name: str, patience: _Patience) -> Iterator[Callable[[], None]]:
    while True:
        with _lock_file(folder, name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                refused = _in_use(name, file.read().strip() or "another process")
            except OSError:  # a file system without locks
                with _leased(folder, name, patience) as check:
                    yield check
                return
            else:
                if _stands(file, folder.path / LOCK):
                    file.truncate(0)
                    file.write(_me())
                    file.flush()
                    yield lambda: None
                    return
                # Its owner has removed the folder meanwhile, and this file with it.
                refused = _in_use(name, "a process that is ending: try again")
        patience.wait(refused)


def _lock_file(folder: LocalFolder, name: str) -> IO[str]:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would let a third run lock a new file while a second one waits for this.
        return (folder.path / LOCK).open("a+")
    except OSError as error:
        raise WorkdirError(f"{name} cannot be written: {error}") from error


def _stands(file: IO[str], path: Path) -> bool:
    """Tell whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _leased(folder: Folder, name: str, patience: _Patience) -> Iterator[Callable[[], None]]:
    lease = _Lease(folder, name)
    try:
        lease.take(patience)
        yield lease.check
    finally:
        lease.release()


class _Lease:
    """A lease, and the thread that renews it."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name, self._id = folder, name, uuid.uuid4().hex
        self._ended, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="labelsieve-lease", daemon=True)
        self._ends = 0.0  # of the lease as it was last written
        # The lease of another run as it was last seen, and since when.
        self._watched: tuple[Any, float] = (None, 0.0)

    def take(self, patience: _Patience) -> None:
        """Write the lease, as soon as no other run has one, and begin to renew it."""
        while (refused := self._try_to_take()) is not None:
            patience.wait(refused)
        self._thread.start()

    def _try_to_take(self) -> InUseError | None:
        """Write the lease, or return the error that says who has it."""
        refused = self._refusal()
        if refused is not None:
            return refused
        if not self._write_new() and not self._is_mine():  # it has ended or does not read, or another run was faster
            refused = self._refusal()
            if refused is not None:
                return refused
            self._folder.remove(LEASE)
            if not self._write_new():
                return _in_use(self._name, "another process")
        time.sleep(_SETTLE_SECONDS)
        held = self._read()
        if held and held["id"] == self._id:
            return None
        return _in_use(self._name, held["owner"] if held else "another process")

    def _is_mine(self) -> bool:
        """Tell whether the lease is this one: the answer to its writing was lost, and it was written again."""
        held = self._read()
        return held is not None and held["id"] == self._id

    def _refusal(self) -> InUseError | None:
        """Return the error that says who has the lease; None if nobody has, or if its owner has ended."""
        held, now = self._read(), time.monotonic()
        if held is None or held["id"] == self._id or held["ends"] <= time.time():
            return None
        runs = still_runs(held.get("process"))
        if runs is False:
            return None
        if self._watched[0] != (held["id"], held["ends"]):
            self._watched = ((held["id"], held["ends"]), now)
        elif now - self._watched[1] > LEASE_SECONDS:
            return None  # not renewed for as long as it lasts: the owner's clock was ahead of this one
        if runs:
            return _in_use(self._name, f"{held['owner']}, which still runs")
        until = datetime.fromtimestamp(held["ends"], UTC).strftime("%H:%M:%S UTC")
        return _in_use(self._name, f"{held['owner']}, unless that has died: then it is free from {until} on")

    def check(self) -> None:
        """Raise if another run has taken over.

        Raises
        ------
        InUseError
            Naming it.
        """
        held = self._read()
        if self._lost.is_set() or self._is_taken(held):
            raise _in_use(
                self._name, f"{held['owner'] if held else 'another run'}, which took over while this one slept"
            )

    def _is_taken(self, held: dict[str, Any] | None) -> bool:
        """Tell whether another run has taken over, by the lease that is there: that run may also have ended since."""
        return held["id"] != self._id if held else time.time() > self._ends

    def release(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        with contextlib.suppress(OSError, LabelsieveError):
            held = self._read()
            if held and held["id"] == self._id:
                self._folder.remove(LEASE)

    def _keep(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(OSError, LabelsieveError):  # the next renewal may get through
                held = self._read()
                if self._is_taken(held):
                    self._lost.set()
                    return
                self._write()

    def _read(self) -> dict[str, Any] | None:
        """Return the lease that is there; None if there is none, or it does not read as one."""
        try:
            held = json.loads(self._folder.read(LEASE))
            whole = all(isinstance(held[name], str) for name in ("id", "owner")) and 0 <= held["ends"] < _MOST_TIME
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None
        return held if whole else None

    def _write_new(self) -> bool:
        """Write the lease unless there is one; tell whether it was written."""
        ends = time.time() + LEASE_SECONDS
        try:
            self._folder.write_new(LEASE, self._content(ends))
        except FileExistsError:
            return False
        self._ends = ends
        return True

    def _write(self) -> None:
        ends = time.time() + LEASE_SECONDS
        self._folder.write(LEASE, self._content(ends))
        self._ends = ends

    def _content(self, ends: float) -> bytes:
        facts = {"id": self._id, "owner": _me(), "process": this_process(), "ends": ends}
        return json.dumps(facts).encode()


def _in_use(name: str, by: str) -> InUseError:
    return InUseError(f"{name} is in use by {by}")
