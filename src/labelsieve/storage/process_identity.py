"""Whether a process that left its name in a file still runs, as far as this machine can prove it.

A process is known by its number, its start time, and what these are relative to: the boot of the kernel and the
namespaces of process numbers and of clocks, which containers have of their own. Where any of these differs, or a system
does not tell them, nothing is known. The host name is compared too: clones of a virtual machine share all the rest.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final

_PROC: Final = Path("/proc")
# In what the kernel says of a process behind its name: its state, and 19 values later when it started.
_STATE, _STARTED = 0, 19


def this_process() -> dict[str, Any] | None:
    """Return the identity of this process; None where the system does not tell it."""
    machine, status = _machine(), _status("self")
    if machine is None or status is None:
        return None
    return {"machine": machine, "number": os.getpid(), "started": int(status[_STARTED])}


def still_runs(process: Any) -> bool | None:
    """Tell whether the process of an identity still runs.

    Parameters
    ----------
    process : object
        What `this_process` returned there, or anything else that was in a file.

    Returns
    -------
    bool or None
        None where it cannot be known here: a process of another machine or container, or a damaged identity.
    """
    here = this_process()
    if here is None or not isinstance(process, dict) or process.get("machine") != here["machine"]:
        return None
    number, started = process.get("number"), process.get("started")
    if type(number) is not int or type(started) is not int or not 0 < number < 1 << 31:
        return None
    try:
        os.kill(number, 0)  # no signal: it also finds a process of another user, which /proc may hide
    except ProcessLookupError:
        return False
    except OSError:
        pass
    status = _status(str(number))
    if status is None:
        return None
    if int(status[_STARTED]) != started:
        return False  # another process has its number by now
    # A killed process whose parent has not waited for it is a zombie. So is one that goes on after its first thread.
    return not (status[_STATE] in ("Z", "X") and _n_threads(number) <= 1)


def _machine() -> list[str] | None:
    """Return what process numbers and start times are relative to; None where that is not known."""
    try:
        if (_PROC / "self").readlink().name != str(os.getpid()):
            return None  # /proc shows the numbers of another namespace
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespaces = [str((_PROC / "self/ns" / name).readlink()) for name in ("pid", "time") if _has(name)]
    except (OSError, ValueError):
        return None
    return [socket.gethostname(), boot, *namespaces] if boot and namespaces else None


def _has(name: str) -> bool:
    """Tell whether the kernel has a kind of namespace: those of clocks are younger."""
    return name == "pid" or os.path.lexists(_PROC / "self/ns" / name)


def _status(name: str) -> list[str] | None:
    """Return what the kernel says of a process, without its number and name; None where it does not."""
    try:
        text = (_PROC / name / "stat").read_text(errors="replace")
    except OSError:
        return None
    values = text.rpartition(")")[2].split()  # a name may hold spaces and parentheses
    return values if len(values) > _STARTED and values[_STARTED].isdecimal() else None


def _n_threads(number: int) -> int:
    try:
        return len(list((_PROC / str(number) / "task").iterdir()))
    except OSError:
        return 0
