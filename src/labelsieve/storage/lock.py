"""One run at a time in a workdir or an output.

On a disk the owner locks a file; the system frees the lock when the process ends. An object store has no locks. There
each run writes its id, and the latest run is the owner: a run that finds another id in place of its own fails before it
publishes anything. So no run waits for one that was killed, and two runs at the same time cannot mix their results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from labelsieve.errors import InUseError, LabelsieveError, WorkdirError
from labelsieve.storage.folder import Folder, LocalFolder

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("labelsieve")

LOCK: Final = "lock"
RUN_ID: Final = "run.json"
# Seconds from one attempt to lock a file to the next.
_RETRY_SECONDS: Final = 1.0
_TIME: Final = "%Y-%m-%d %H:%M:%S UTC"


@contextmanager
def own_folder(folder: Folder, name: str, wait: float = 0) -> Iterator[Callable[[], None]]:
    """Own `folder` while the block runs; yield a check, which can be pickled, that raises if another run took over.

    Parameters
    ----------
    folder : Folder
        Created on a disk if it is missing.
    name : str
        What it is, for messages.
    wait : float
        Seconds to wait for another run that has locked the folder. A log message says which run that is.

    Raises
    ------
    InUseError
        If another run still has the lock after that time. Where there are no locks, if another run took over while the
        block ran and the block failed.
    """
    locked = _lock(folder, name, wait) if isinstance(folder, LocalFolder) and fcntl is not None else None
    if locked is not None:
        with locked:
            yield always_owned
        return
    run = _Run(folder, name, uuid.uuid4().hex)
    run.begin()
    try:
        yield run.check
    except InUseError:
        raise
    except Exception:
        with contextlib.suppress(OSError):  # the store may be what failed
            run.check()  # another run may have removed what this one needed
        raise
    finally:
        run.end()


@contextmanager
def abandoned(folder: Path) -> Iterator[bool]:
    """Yield whether a killed process of this machine owned a folder; if so, it is locked while the block runs.

    False if the owner is alive, and if that cannot be known: without a lock file, without locks in the system, and for
    an owner on another machine, whose lock is not always seen here.

    Parameters
    ----------
    folder : Path
        On a disk.
    """
    with contextlib.ExitStack() as stack:
        is_abandoned = False
        with contextlib.suppress(OSError, AttributeError):
            file = stack.enter_context((folder / LOCK).open("r+", errors="replace"))
            # An owner writes its name once it has the lock.
            is_named = file.read().endswith(f" on {socket.gethostname()}")
            if is_named:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_abandoned = _is_same(file, folder / LOCK)
        yield is_abandoned


def always_owned() -> None:
    """Check nothing: a lock cannot be taken away."""


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _lock(folder: LocalFolder, name: str, wait: float) -> IO[str] | None:
    """Return the locked file, which frees the lock when it is closed; None on a file system without locks."""
    deadline, logged = time.monotonic() + wait, False
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_lock(folder, name))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
            except OSError:
                return None
            else:
                if _is_same(file, folder.path / LOCK):
                    file.truncate(0)
                    file.write(_this_process())
                    file.flush()
                    stack.pop_all()
                    return file
                # Its owner has removed the folder in the meantime, and this file with it.
                owner = "a process that is ending: try again"
        error = InUseError(f"{name} is in use by {owner}")
        left = deadline - time.monotonic()
        if left <= 0:
            raise error
        if not logged:
            logger.warning("%s; waiting up to %g s for it", error, wait)
            logged = True
        time.sleep(min(left, _RETRY_SECONDS))


def _open_lock(folder: LocalFolder, name: str) -> IO[str]:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # The file is never removed: a third run could lock a new file while a second one waits for this one.
        return (folder.path / LOCK).open("a+")
    except OSError as error:
        raise WorkdirError(f"{name} cannot be written: {error}") from error


def _is_same(file: IO[str], path: Path) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class _Run:
    """A run that owns a folder as long as its id is there.

    Parameters
    ----------
    folder : Folder
        The folder.
    name : str
        What it is, for messages.
    run_id : str
        The id.
    """

    folder: Folder
    name: str
    run_id: str

    def begin(self) -> None:
        """Become the owner."""
        before = self.read()
        since = datetime.now(UTC).strftime(_TIME)
        facts = {"id": self.run_id, "owner": _this_process(), "since": since}
        self.folder.write(RUN_ID, json.dumps(facts).encode())
        if before:
            logger.warning(
                "%s has been in use by %s since %s; if that run was not killed, it stops before it publishes anything, "
                "because this run takes over",
                *(self.name, before["owner"], before["since"]),
            )

    def check(self) -> None:
        """Raise if this run is no longer the owner.

        Raises
        ------
        InUseError
            Naming the new owner.
        """
        now = self.read()
        if not now:
            raise InUseError(f"{self.name} was used by a later run, which has ended: this run stops")
        if now["id"] != self.run_id:
            raise InUseError(f"{self.name} is in use by {now['owner']}, a later run: this run stops")

    def end(self) -> None:
        """Remove the id, unless it is that of another run."""
        with contextlib.suppress(OSError, LabelsieveError):
            if self.read().get("id") == self.run_id:
                self.folder.remove(RUN_ID)

    def read(self) -> dict[str, Any]:
        """Return what is known of the owner; nothing if there is none, or the file is not valid."""
        try:
            facts = json.loads(self.folder.read(RUN_ID))
        except (FileNotFoundError, ValueError):
            return {}
        return facts if isinstance(facts, dict) and {"id", "owner", "since"} <= facts.keys() else {}
