"""Memory and time: what a run needs, sizes that follow from that, and how much memory is free.

## Memory

`Need` computes the peak memory of the process that reads, or of each worker, in bytes of anonymous memory, including
the interpreter. `labelsieve plan` prints it, and `max_memory` limits it:

    120 MB                                       the interpreter with NumPy, Dask and Zarr; a worker of a cluster 220 MB
    + threads x (2.25 x batch + ahead + c x 4 MB)
                                                 batch: decoded bytes of a batch that is read whole (Zarr, HDF5, Fortran
                                                 order; of your own Dask arrays all batches of a partition); 0 for .npy
                                                 files and arrays, which are read in strips. ahead: bytes prefetched
                                                 from remote storage, and what decoding a table takes: of a Parquet
                                                 file 17 MB and, for each column, two pages and up to 1 MB. c: 3; with
                                                 computed scores 3 + 40 / probability
    + t x (24 x K + 64 kB + pairs of a partition)
                                                 t: p partitions (at most 4096), or 32 + p / 16 if that is less
    + 2 x pairs                                  16 bytes each: for a tenth of the rows, or K x (K - 1) if that is less
    + N x class                                  if the batches cut stored chunks of labels, which are then read first

    summaries in memory, shared by the workers of a cluster:
    + N x (2 x class + 2 x probability + score)  class: 1, 2 or 4 bytes (K up to 256, 65,536, more); probability: 2, 4
                                                 or 8; score: 0 for plain self-confidence (4 for float16), 8 if
                                                 computed, 16 if adjusted; 1 more with the exact rule
    + partitions x (24 x K)                      or 32 bytes per row, if that is less; with the exact rule also 8 x K
                                                 and the pairs
    + issues x 120                               on the client

    or summaries in a workdir only:
    + threads x (65,536 x (3 x row + 120) + 262,144 x 4 x (score + 1))
                                                 row: bytes of a summary; score: 4 or 8. The numbers of rows grow from
                                                 671 million and 1,074 million rows on
    + 16 x runs x ranges + sample                on the client, to merge issues: for a tenth of the rows 36 MB at 500
                                                 million rows and 236 MB at 25,000 million (`merge_bytes`)

    prune_by_class, prune_by_noise_rate and both:
    + t x 2.1 MB                                 histograms by class
    prune_by_noise_rate and both:
    + threads x 40 MB                            margins of a piece of rows
    + (threads + 1) x 100 x selected rows        planned for a tenth of the rows; if that is not enough, the run is
                                                 refused before the third read

    with n_jobs, for all processes together, each forked process counted as a thread:
    + n_jobs x 30 MB + a quarter of the summaries in memory

So 1 TB of float32 at K = 1000 (250 million rows) takes 3 GB in addition to the threads, or, with a workdir, nothing
that grows with the rows. An automatic batch has about 48 MB in whole stored chunks, and less if `max_memory` is small.

## Time

`seconds = reads x bytes / rate + N x row / threads`. *Reads* is 1, 2 or 3 (`labelsieve plan`). *Rate* is the speed of
reading and decoding `pred_probs`: on the machine of README about 25 GB/s for ``.npy`` in page cache (less on a slower
disk), and 2.5 GB/s for Zarr chunks of whole rows with zstd in a local folder, which are decoded into reused buffers.
Zarr chunks that split the classes, shards, other codecs and other stores are read by Zarr itself. *Row*, the work per
row summary, is about 40 ns.

Measured on that machine on 2026-11-24, and on 2 cores of an Intel Xeon on 2026-11-25 for the rows of filters and of the
joint, where one read of 2M x 1000 took 1.07 s:

| | Seconds | Own memory |
|---|---|---|
| 25M x 1000 `.npy` of holes, 100 GB, `--max-memory 1GiB` | 33 (1.5 of the bare read) | 331 MB |
| 500M x 2 float32, `--max-memory 1GiB -o out.zarr`, 26.9 million issues | 51 | 104 MB |
| the same in float16 | 46 | 97 MB |
| 1M x 100 and 50M x 100 float32, `--workdir` and `-o out.zarr` | | 59 and 78 MB |
| 2M x 1000 `.npy` with `confident_learning`, `low_self_confidence` | 1.7 times one read | 82 MB |
| cleanlab's `filter.find_label_issues` beside these two | 13 and 22 times as long | 16.3 GB |
| the same, `prune_by_class` and `prune_by_noise_rate` | 1.8 and 3.5 times one read | 158 MB |
| 200,000 x 21,841 `.npy`, 17 GB: the calibrated joint as a sparse array | 3.9 | 73 MB |
| 2M x 1000 Zarr on a local cluster of two workers, beside two threads | 1.09 times | |
| 2M x 1000 with a workdir, beside without | 1.03 times `.npy`, 1.01 times Zarr | |
| a resume with half of the partitions done, beside the whole run | 0.55 of it `.npy`, 0.45 Zarr | |
| 400,000 x 1000 Zarr on an S3 server, 100 ms added to each request | 1.03 times (40 MB chunks), 1.17 (4 MB) | |
| report of 1M x 1000 with 1,000 rows and their pictures, 3.1 MB | 2.7 | |
| classes and pairs of 20M rows of 21,841 classes, one row in ten predicted as another class | 0.9 | 54 MB |
| the same, all rows at random | 6.0 | 291 MB |

The memory of the last two is in addition to that of the summaries. The report loads nothing from elsewhere: its 3.1 MB
include all pictures.

## A terabyte and more

Float32, K = 1000, workers of 4 threads and 16 GB, summaries in memory; with a workdir, and with `output`, the workers
hold less. Computed as by `labelsieve plan`, and measured on a simulated cluster:

| | 1 TB, 200 workers | 10 TB, 200 workers | 100 TB, 1,000 workers |
|---|---|---|---|
| rows | 250,000,000 | 2,500,000,000 | 25,000,000,000 |
| memory per worker, of the client | 878 MB, 203 MB | 1.07 GB, 254 MB | 1.55 GB, 593 MB |
| network, at most, without the issues | 560 MB | 3.95 GB | 18.1 GB |
| summaries | 3 GB | 30 GB | 300 GB |
| scores and mask | 1 GB and 250 MB | 10 GB and 2.5 GB | 100 GB and 25 GB |
| partitions, tasks of the job | 3,501, 4,133 | 12,607, 13,239 | 23,907, 27,047 |
| reading, if no thread were ever idle | 5.1 s | 50.4 s | 100.3 s |
| the whole | 10.2 s | 60.1 s | 132.5 s |
| before the first read, after the last one | 1.5 s, 2.4 s | 1.3 s, 6.6 s | 3.9 s, 17.4 s |
| idle | 50%; 41% | 16%; 10% | 24%; 18% |
| scheduler, client | 3.1 s, 1.6 s | 11.6 s, 3.9 s | 28.7 s, 9.8 s |
| simulated workers, all on one core | 3.9 s | 15.9 s | 43.7 s |
| memory of the scheduler, of the client | 228 MB, 193 MB | 367 MB, 244 MB | 648 MB, 309 MB |
| messages of the scheduler | 30 MB | 108 MB | 537 MB |

The simulated cluster (`tests/benchmarks/simulated_cluster.py`, measured on 2 cores of an AMD EPYC on 2026-11-25) is a
real scheduler and a real client, and workers that speak the scheduler's protocol, all in one process. They run the real
tasks of the real graph, on generated rows of 100 classes that stand for the bytes, and report a task that reads when
the seconds have passed that the read takes at 1 GB/s per worker, with 20 ms before the first byte and a spread of 5%.
*Idle* is the share of the time from the call to the result in which threads do not read. The second figure leaves out
the seconds before the first and after the last read in which that one process was busy with what 200 or 1,000 workers
do at the same time. The scheduler's seconds are its CPU time.

A terabyte of absent Zarr chunks (250 million rows, a local cluster of two workers with one thread each, summaries in
memory) took 79 s and 6,543 tasks on 2026-11-24. The first partition started after 0.42 s, and client and scheduler took
174 MB.
"""

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
