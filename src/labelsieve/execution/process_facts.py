"""Facts about a process that reads: its limits, threads and temporary folder. It runs on workers too."""

from __future__ import annotations

import os
import shutil
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
from dask.system import CPU_COUNT

from labelsieve.errors import LabelsieveWarning
from labelsieve.execution.versions import installed_versions
from labelsieve.memory import free_bytes
from labelsieve.storage.folders import is_memory, temporary_folder

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

# Variables that set the threads of BLAS libraries, the most specific ones first.
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class ProcessFacts:
    """Facts about a process.

    Parameters
    ----------
    versions : dict
        Versions of packages.
    host : str
        Name of the machine or container.
    n_cores : int
        Cores that the process may use.
    most_bytes, free_bytes : int
        Memory of the machine or control group, and what is left of it.
    pause_share : float
        Share of its memory limit from which Dask pauses a worker; 1 if it does not.
    open_files : int or None
        How many files and connections it may have open; None if there is no limit.
    blas_threads : int
        Threads that BLAS starts in each thread that calls it.
    temporary_folder : str
        Where temporary files go; "" if there is no folder for them.
    temporary_bytes : int
        Free space there.
    temporary_in_memory : bool
        Whether files there take memory.
    allocator : dict
        Variables that change the allocator of the C library.
    """

    versions: dict[str, str]
    host: str
    n_cores: int
    most_bytes: int
    free_bytes: int
    pause_share: float
    open_files: int | None
    blas_threads: int
    temporary_folder: str
    temporary_bytes: int
    temporary_in_memory: bool
    allocator: dict[str, str]


def process_facts() -> ProcessFacts:
    """Return the facts about this process."""
    from distributed.system import MEMORY_LIMIT  # of the machine, its control groups and rlimits

    folder = _temporary_folder()
    pause = dask.config.get("distributed.worker.memory.pause", 1.0)
    return ProcessFacts(
        versions=installed_versions(),
        host=socket.gethostname(),
        n_cores=int(CPU_COUNT),
        most_bytes=int(MEMORY_LIMIT),
        free_bytes=free_bytes(),
        pause_share=float(pause or 1),
        open_files=_open_files(),
        blas_threads=_blas_threads(),
        temporary_folder=folder,
        temporary_bytes=shutil.disk_usage(folder).free if folder else 0,
        temporary_in_memory=bool(folder) and is_memory(Path(folder)),
        allocator={name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
    )


def _temporary_folder() -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LabelsieveWarning)  # what it warns of is among the facts
            return temporary_folder()
    except FileNotFoundError:
        return ""


def _open_files() -> int | None:
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _blas_threads() -> int:
    """Return what threadpoolctl finds; without it, what the environment says."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        chosen = (os.environ.get(name, "") for name in _BLAS_VARIABLES)
        return next((int(value) for value in chosen if value.isdecimal()), int(CPU_COUNT))
    return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
