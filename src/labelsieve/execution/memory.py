"""The memory that a run needs, as a formula (`docs/memory_and_scale.md`), and how much is free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

from labelsieve.confident_learning.filters import Filter, filter_of
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import STRIP_BYTES
from labelsieve.confident_learning.thresholds import class_dtype
from labelsieve.results.store import ISSUE_BYTES, result_rows, run_rows

__all__ = ["Need"]

# Memory for a batch that is read whole, in units of its decoded bytes: decoded, stored, and some reserve.
BATCH_COPIES: Final = 2.25
# Tasks of a map that are submitted at a time on this machine, whose memory this bounds; see `dask_job.slab_size`.
SLAB: Final = 4096

# The interpreter with NumPy, Dask and Zarr, before any work. Workers of a cluster have an event loop and its state too.
INTERPRETER_BYTES: Final = 120_000_000
WORKER_BYTES: Final = 220_000_000
# Memory of its own that a forked process takes.
FORK_BYTES: Final = 30_000_000
# A histogram of scores; there is one per span of rows.
HISTOGRAM_BYTES: Final = 65_536
# A piece of margins (`labelsieve.confident_learning.select`).
PAIR_PIECE_BYTES: Final = 40_000_000
# A candidate, and the number of copies of all candidates while the largest are selected.
CANDIDATE_BYTES: Final = 20
CANDIDATE_COPIES: Final = 5
# Memory is planned for this share of the rows as issues.
EXPECTED_SHARE: Final = 0.1
# Rows of a block of summaries in a workdir; a thread holds one block.
BLOCK_ROWS: Final = 1 << 16

_CGROUPS: Final = Path("/sys/fs/cgroup")
# For control groups of version 2 and 1: the files with the limit and the usage, and the line of memory.stat with the
# part of the usage that the kernel can drop at any time.
_V2: Final = ("memory.max", "memory.current", "inactive_file")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def expected_issues(n_rows: int) -> int:
    """Return the number of issues that memory is planned for, before their number is known."""
    return int(EXPECTED_SHARE * n_rows)


def pair_bytes(n_rows: int, n_classes: int) -> int:
    """Return the planned bytes of the off-diagonal pairs in the confident counts of `n_rows` rows."""
    return 16 * min(expected_issues(n_rows), n_classes * (n_classes - 1))


def candidate_bytes(n_candidates: int, n_threads: int) -> int:
    """Return the bytes of the candidates for the largest margins, in this process and in `n_threads` threads."""
    return CANDIDATE_BYTES * CANDIDATE_COPIES * n_candidates * (n_threads + 1)


def class_histogram_bytes(n_classes: int) -> int:
    """Return the bytes of a histogram of scores by class: 2**18 bins, or 4 per class if that is more."""
    return 8 * max(1 << 18, 4 * n_classes)


def merge_bytes(n_rows: int) -> int:
    """Return the bytes that the client holds while sorted runs are merged.

    These are two arrays with the number of rows of each run before each cut, and a sample of the keys (of every 1024th
    row, or of 16 rows per run) with its sorted copy. The number of runs is that of the chunks of issues, plus one per
    span.
    """
    n_issues = expected_issues(n_rows)
    n_ranges = -(-n_issues // run_rows(n_issues))
    n_runs = n_ranges + -(-n_rows // result_rows(n_rows))
    return 2 * 4 * n_runs * 2 * n_ranges + 64 * max(n_issues // 1024, 16 * n_runs)


@dataclass(frozen=True)
class Need:
    """The memory that a run needs, computed from the numbers in the formula above.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    itemsize : int
        Bytes of a probability.
    settings : Settings
        The settings that change the result; they decide about scores and passes.
    n_partitions : int
        Number of partitions.
    batch_bytes : int
        Decoded bytes that a thread holds of batches that are read whole (Zarr, HDF5, Fortran order, Dask); 0 if they
        are read strip by strip (``.npy`` files and arrays in memory).
    ahead_bytes : int
        Bytes that a thread prefetches from remote storage.
    held_bytes : int
        Bytes of inputs that are kept in memory: labels that are read first, a Dask array that is persisted.
    rule : Filter, optional
        The filter, if it is not that of the settings: rows of tags have filters of their own.
    """

    n_rows: int
    n_classes: int
    itemsize: int
    settings: Settings
    n_partitions: int = 1
    batch_bytes: int = 0
    ahead_bytes: int = 0
    held_bytes: int = 0
    rule: Filter | None = None

    @cached_property
    def filter(self) -> Filter:
        """The filter."""
        return filter_of(self.settings) if self.rule is None else self.rule

    @property
    def row(self) -> int:
        """Bytes of the summary of a row."""
        computed = 0 if self.settings.plain_self_confidence else 8
        return 2 * class_dtype(self.n_classes).itemsize + 2 * self.itemsize + computed + self.settings.counts_joint

    @property
    def score(self) -> int:
        """Bytes of the score of a row in the result."""
        return 8 if not self.settings.plain_self_confidence else max(4, self.itemsize)

    @property
    def _thread(self) -> float:
        """Bytes that a thread takes while it reads."""
        # A strip, its transposed copy with a byte for each value, a few numbers per row, and, if scores are computed
        # from whole rows, some float64 copies.
        copies = 3 if self.settings.plain_self_confidence else 3 + 5 * 8 // self.itemsize
        pruned = 0
        if self.filter.reads_pairs:
            pruned = candidate_bytes(expected_issues(self.n_rows), 0) + PAIR_PIECE_BYTES
        return BATCH_COPIES * self.batch_bytes + self.ahead_bytes + copies * STRIP_BYTES + pruned

    @property
    def partials(self) -> int:
        """Bytes of the sums, histograms and pairs that a tree reduction holds, and of two copies of all pairs."""
        n = min(self.n_partitions, SLAB)
        each = 24 * self.n_classes + HISTOGRAM_BYTES + pair_bytes(-(-self.n_rows // self.n_partitions), self.n_classes)
        if self.filter.cuts_classes:
            each += class_histogram_bytes(self.n_classes)
        pruned = candidate_bytes(expected_issues(self.n_rows), 0) if self.filter.reads_pairs else 0
        return min(n, 32 + n // 16) * each + 2 * pair_bytes(self.n_rows, self.n_classes) + pruned

    @property
    def _streaming(self) -> int:
        """Bytes that a thread takes for summaries in a workdir and for the result, in addition to reading."""
        run, chunk = run_rows(expected_issues(self.n_rows)), result_rows(self.n_rows)
        return 3 * BLOCK_ROWS * self.row + run * ISSUE_BYTES + 4 * chunk * (self.score + 1)

    def summaries(self) -> int:
        """Return the bytes of all row summaries in memory, with the class sums of each partition."""
        final_score = self.score if self.settings.adjust_pred_probs or self.itemsize == 2 else 0
        rows = -(-self.n_rows // self.n_partitions)
        sums = self.n_partitions * min(24 * self.n_classes, 32 * rows)
        if self.settings.counts_joint:
            sums += self.n_partitions * (8 * self.n_classes + pair_bytes(rows, self.n_classes))
        return self.n_rows * (self.row + final_score) + sums

    def in_process(self, n_threads: int, *, stored: bool, base: int = INTERPRETER_BYTES, n_processes: int = 1) -> int:
        """Return the peak memory of one process in bytes, without the issues (`ISSUE_BYTES` each).

        This is the interpreter; for each thread a batch, decoded and as stored, and scratch arrays of a strip; the sums
        and histograms of tree reductions; and the summaries of all rows, or, in a workdir, a block of them per thread.

        Parameters
        ----------
        n_threads : int
            Number of threads of the process that read.
        stored : bool
            Whether summaries are in a workdir only.
        base : int
            Bytes of the process before any work.
        n_processes : int
            Number of processes that share the summaries.
        """
        rest = n_threads * self._streaming if stored else -(-self.summaries() // n_processes)
        return int(base + n_threads * self._thread + self.partials + self.held_bytes + rest)


def free_bytes(proc: Path = Path("/proc/self/cgroup"), cgroups: Path = _CGROUPS) -> int:
    """Return the bytes that this process can take before the host or a control group runs out of memory.

    Parameters
    ----------
    proc : Path
        File that lists the control groups of the process.
    cgroups : Path
        Folder where control groups are mounted.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_group_bytes(proc, cgroups)]))


def _group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the bytes that are left in each control group of this process and in the parents of these groups."""
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        # In a container this may be the path on the host, of which only the root is mounted.
        path = PurePosixPath(inner.lstrip("/"))
        for folder in [path, *path.parents]:
            left = _left(root / folder, *names)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    """Return the bytes that are left in a control group, or None if it has no limit or does not exist."""
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return most - used + int(stat.get(droppable, 0))


def own_bytes() -> int:
    """Return the bytes of memory of this process that are not mapped from files."""
    info = psutil.Process().memory_info()
    return max(0, int(info.rss) - int(getattr(info, "shared", 0)))


def peak_bytes() -> int:
    """Return the most memory that this process has had resident so far, with the pages of mapped files."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return own_bytes()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else own_bytes()
