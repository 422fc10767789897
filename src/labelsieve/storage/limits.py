"""How much memory this process may still take: the host's free memory, or less where a control group says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

_CGROUPS: Final = Path("/sys/fs/cgroup")
# Names of a group's limit, of what it uses, and of the part of that which the kernel can drop at any time.
_V2: Final = ("memory.max", "memory.current", "inactive_file")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(proc: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int:
    """Return how many bytes this process can still take before the host or a control group runs out.

    Parameters
    ----------
    proc : Path
        Which control groups the process is in.
    cgroups : Path
        Where the control groups are mounted.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_group_bytes(proc, cgroups)]))


def _group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield what each control group around this process leaves, those above its own included."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        # Inside a container the path may be the host's, of which only the root is mounted here.
        path = PurePosixPath(inner.lstrip("/"))
        for folder in [path, *path.parents]:
            left = _left(root / folder, *names)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    """Return what one group leaves; None where it has no limit or is not there."""
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return most - used + int(stat.get(droppable, 0))


def own_bytes() -> int:
    """Return the memory that this process has for itself: what is not mapped from files."""
    info = psutil.Process().memory_info()
    return max(0, int(info.rss) - int(getattr(info, "shared", 0)))


def is_memory(folder: Path) -> bool:
    """Tell whether `folder` lies on a file system that is kept in memory: what is written there takes as much."""
    try:
        mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    except OSError:
        return False
    around = (path for path in (folder.resolve(), *folder.resolve().parents) if path in mounts)
    return mounts.get(next(around, folder), "") in ("tmpfs", "ramfs")


def size(n_bytes: float) -> str:
    """Name a number of bytes with the unit that leaves a number of at least 1.

    Examples
    --------
    >>> size(512_000_000), size(12)
    ('512 MB', '12 bytes')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
