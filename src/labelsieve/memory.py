"""The memory that a run takes, and the sizes that follow from it. Arithmetic alone: no data, no Dask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from labelsieve.confident_learning.row_summary import STRIP_BYTES, class_dtype
from labelsieve.partitioning import PARTITIONS_A_THREAD, Grid
from labelsieve.settings import Settings

# What a batch takes that is read whole: decoded, stored, and some room.
BATCH_COPIES: Final = 2.25
# Most tasks of a map that are submitted at once: neither client nor scheduler holds more.
SLAB: Final = 4096

# The interpreter with NumPy, Dask and Zarr, before any work; a worker of a cluster has an event loop and its state too.
INTERPRETER_BYTES: Final = 120_000_000
WORKER_BYTES: Final = 220_000_000
# What a forked process takes of its own of what it was forked from.
FORK_BYTES: Final = 30_000_000
# A histogram of scores, of which a span of rows gives one.
HISTOGRAM_BYTES: Final = 65_536
# What a piece of margins of pairs takes (`margins`).
PAIR_PIECE_BYTES: Final = 40_000_000
# A candidate, and copies of all that are held while the largest are sorted out.
CANDIDATE_BYTES: Final = 20
CANDIDATE_COPIES: Final = 5
# An issue with its columns, while the issues of all partitions are put in order.
ISSUE_BYTES: Final = 120
# Share of the rows that is planned to be issues.
EXPECTED_SHARE: Final = 0.1
# Rows of one block of stored summaries: a thread holds one.
BLOCK_ROWS: Final = 1 << 16
# Selected rows that a thread sorts at a time where the issues are written by the tasks.
RUN_ROWS: Final = 1 << 16
# Rows of a stored chunk of the scores and the mask of all rows.
RESULT_ROWS: Final = 1 << 18
# Bytes of summaries that a task works on where these are stored, and the most chunks of a result.
_SPAN_BYTES: Final = 32_000_000
_RESULT_CHUNKS: Final = 4096


@dataclass(frozen=True)
class Span:
    """Consecutive rows whose stored summaries one task works on.

    Parameters
    ----------
    start, stop : int
        The rows ``[start, stop)``.
    pieces : tuple of tuple of int
        For each partition that they touch its number, and the rows ``[a, b)`` of it, counted from its first.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, int, int], ...]


def result_rows(n_rows: int) -> int:
    """Return the rows of a stored chunk of the scores and the mask of all rows: some thousand chunks at most."""
    return RESULT_ROWS * max(1, -(-n_rows // (_RESULT_CHUNKS * RESULT_ROWS)))


def run_rows(n_issues: int, room: int | None = None) -> int:
    """Return the issues that a thread sorts at a time, and of a stored chunk: 1024 of these hold them all.

    Parameters
    ----------
    n_issues : int
        All issues.
    room : int, optional
        Bytes that a thread has for it; where that is not enough, there are more and smaller runs.
    """
    rows = RUN_ROWS * max(1, -(-n_issues // (1024 * RUN_ROWS)))
    return rows if room is None else max(RUN_ROWS, min(rows, room // ISSUE_BYTES // RUN_ROWS * RUN_ROWS))


def expected_issues(n_rows: int) -> int:
    """Return how many issues are planned for, where their memory has to be planned before they are known."""
    return int(EXPECTED_SHARE * n_rows)


def pair_bytes(n_rows: int, n_classes: int) -> int:
    """Return what the pairs of a given label and another class take that `n_rows` rows are confidently predicted as."""
    return 16 * min(expected_issues(n_rows), n_classes * (n_classes - 1))


def candidate_bytes(n_candidates: int, n_threads: int) -> int:
    """Return what the rows of largest margin take: here, and in each thread that looks for them (`margins`)."""
    return CANDIDATE_BYTES * CANDIDATE_COPIES * n_candidates * (n_threads + 1)


def class_histogram_bytes(n_classes: int) -> int:
    """Return what a histogram of scores by class takes: 2**18 bins, or 4 a class where these are more."""
    return 8 * max(1 << 18, 4 * n_classes)


def merge_bytes(n_rows: int) -> int:
    """Return what the client holds while runs are merged.

    How many rows of each run come before each cut, twice; and the keys of every 1024th row, or of 16 rows of each run,
    with what sorts them. There are at least as many runs as a thousand, or as spans with issues.
    """
    n_issues = expected_issues(n_rows)
    n_ranges = -(-n_issues // run_rows(n_issues))
    n_runs = n_ranges + -(-n_rows // result_rows(n_rows))
    return 2 * 4 * n_runs * 2 * n_ranges + 64 * max(n_issues // 1024, 16 * n_runs)


def spans(grid: Grid, row_bytes: int, n_threads: int) -> list[Span]:
    """Cut all rows in spans of whole stored chunks of the result, some for each thread.

    Parameters
    ----------
    grid : Grid
        The partitions.
    row_bytes : int
        Bytes of a row's summary.
    n_threads : int
        Threads that share the work.
    """
    chunk = result_rows(grid.n_rows)
    rows = min(_SPAN_BYTES // row_bytes, grid.n_rows // (n_threads * PARTITIONS_A_THREAD))
    rows = max(chunk, rows - rows % chunk)
    found, index = [], 0
    for start in range(0, grid.n_rows, rows):
        stop, pieces = min(start + rows, grid.n_rows), []
        while True:
            first, last = grid.bounds(index)
            pieces.append((index, max(start, first) - first, min(stop, last) - first))
            if last >= stop:
                break
            index += 1
        index += last == stop
        found.append(Span(start, stop, tuple(pieces)))
    return found


@dataclass(frozen=True)
class Need:
    """What the memory formula is made of.

    Parameters
    ----------
    n_rows, n_classes : int
        Shape of `pred_probs`.
    itemsize : int
        Bytes of a probability.
    settings : Settings
        The scores: computed ones take 8 bytes a row.
    n_partitions : int
        Tasks that read.
    batch_bytes : int
        Decoded bytes that a thread holds of batches that are read whole (Zarr, HDF5, Fortran order, Dask); 0 where they
        are read strip by strip (``.npy`` files and arrays in memory).
    ahead_bytes : int
        Bytes that a thread reads ahead, from remote storage.
    held_bytes : int
        Memory that the inputs were given: labels read first, a Dask array kept between two reads.
    """

    n_rows: int
    n_classes: int
    itemsize: int
    settings: Settings
    n_partitions: int = 1
    batch_bytes: int = 0
    ahead_bytes: int = 0
    held_bytes: int = 0

    @property
    def row(self) -> int:
        """Bytes of a row's summary."""
        computed = 0 if self.settings.plain_self_confidence else 8
        return 2 * class_dtype(self.n_classes).itemsize + 2 * self.itemsize + computed + self.settings.looks_again

    @property
    def score(self) -> int:
        """Bytes of a row's score, once the run is done."""
        return 8 if not self.settings.plain_self_confidence else max(4, self.itemsize)

    @property
    def _thread(self) -> float:
        """What a thread takes while it reads."""
        # A strip, a copy of it by class with a byte for each value, a few numbers for each row, and where whole rows
        # are scored some float64 copies.
        copies = 3 if self.settings.plain_self_confidence else 3 + 5 * 8 // self.itemsize
        pruned = 0
        if self.settings.prunes_pairs:  # what a thread more takes
            pruned = candidate_bytes(expected_issues(self.n_rows), 0) + PAIR_PIECE_BYTES
        return BATCH_COPIES * self.batch_bytes + self.ahead_bytes + copies * STRIP_BYTES + pruned

    @property
    def partials(self) -> int:
        """The sums, histograms and pairs of classes that a tree holds, of a slab of partitions; all pairs, twice."""
        n = min(self.n_partitions, SLAB)
        each = 24 * self.n_classes + HISTOGRAM_BYTES + pair_bytes(-(-self.n_rows // self.n_partitions), self.n_classes)
        if self.settings.filter_by in ("prune_by_class", "both"):
            each += class_histogram_bytes(self.n_classes)
        pruned = candidate_bytes(expected_issues(self.n_rows), 0) if self.settings.prunes_pairs else 0
        return min(n, 32 + n // 16) * each + 2 * pair_bytes(self.n_rows, self.n_classes) + pruned

    @property
    def _streaming(self) -> int:
        """What a thread takes beside reading, where summaries and results are stored."""
        run, chunk = run_rows(expected_issues(self.n_rows)), result_rows(self.n_rows)
        return 3 * BLOCK_ROWS * self.row + run * ISSUE_BYTES + 4 * chunk * (self.score + 1)

    def summaries(self) -> int:
        """Return the bytes of all row summaries in memory, with the class sums that come with each partition's."""
        again = self.score if self.settings.adjust_pred_probs or self.itemsize == 2 else 0
        rows = -(-self.n_rows // self.n_partitions)
        sums = self.n_partitions * min(24 * self.n_classes, 32 * rows)
        if self.settings.looks_again:
            sums += self.n_partitions * (8 * self.n_classes + pair_bytes(rows, self.n_classes))
        return self.n_rows * (self.row + again) + sums

    def in_process(self, n_threads: int, *, stored: bool, base: int = INTERPRETER_BYTES, n_processes: int = 1) -> int:
        """Return the most own memory, in bytes, that one process takes, but for `ISSUE_BYTES` an issue.

        The interpreter; for each thread a stored batch, decoded and not, and scratch for a strip; the sums and
        histograms that the reduction trees hold; for each row its summary, or for each thread a block of them where
        they are stored.

        Parameters
        ----------
        n_threads : int
            Threads of the process that read.
        stored : bool
            Whether summaries go to a workdir.
        base : int
            Bytes of the process before any work.
        n_processes : int
            Processes that share the summaries.
        """
        rest = n_threads * self._streaming if stored else -(-self.summaries() // n_processes)
        return int(base + n_threads * self._thread + self.partials + self.held_bytes + rest)
