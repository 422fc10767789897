"""The time of a run, computed from its plan and from rates. Arithmetic alone: nothing is read or started.

Time has these parts, in seconds. Each is what the part would take if it were alone:

=============  =======================================================================================================
part           what it is
=============  =======================================================================================================
`startup_s`    opening the inputs and `import dask.array`, and opening each partition, where these were measured
`client_s`     tasks x `CLIENT_TASK_S`: making the graph and taking it apart, before the tasks run
`scheduler_s`  tasks x `SCHEDULER_TASK_S`, while the workers read
`store_s`      stored bytes by the rate of a worker or of a thread, whichever takes longer, with the waits for first
               answers
`decoding_s`   decoded bytes by the rate of a thread
`kernels_s`    rows by the time that a thread takes to summarize one
`summaries_s`  rows by the time that a thread takes to count, select and sort summaries
=============  =======================================================================================================

A worker, or a thread, takes whole partitions: of 9 partitions one of 4 threads reads 3, so that the last round leaves
others idle. Each submission of a map (`labelsieve.pipeline.dask_job.slab_size`) ends with such a round. In a round:

- the threads of a worker share its rate;
- a thread reads, decodes and computes one after the other. If its source prefetches, reading goes on meanwhile, and
  the larger of the two counts, after the wait for the first answer.

So the time of a pass is the larger of what the store takes to feed a worker and what a thread takes for its partitions,
and ``total = startup + client + max(passes + summaries, scheduler)``. Writing records and results is not included, and
neither are retries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Seconds of the scheduler for a task, with the messages of the worker that runs it, and of the client, which makes the
# graph before tasks run. CPU time of both processes for 4,000 partitions of 100 rows on two workers, 2026-11-25: 0.7 ms
# without a workdir (16,500 tasks) and 1.3 ms with one (4,300 tasks); the client 0.21 and 0.04 ms.
SCHEDULER_TASK_S: Final = 1.3e-3
CLIENT_TASK_S: Final = 0.2e-3
# Seconds of Dask's local scheduler for a task, with making the graph.
LOCAL_TASK_S: Final = 0.2e-3
# Typical times of one thread, used where nothing was measured: one core of an AMD EPYC (Zen 5).
# Decoding a byte of a Zarr chunk compressed with zstd.
DECODING_BYTE_S: Final = 1 / 0.9e9
# Summarizing a row in the first pass, with the default score: for each row, for each of its first classes, whose
# columns are handled one by one, and for each probability, by its bytes. Within 40% of what 2 to 10,000 classes take.
KERNELS_ROW_S: Final = 10e-9
KERNELS_COLUMN_S: Final = 1.2e-9
KERNELS_VALUE_S: Final = {2: 0.4e-9, 4: 0.14e-9, 8: 0.28e-9}
_COLUMNS: Final = 32
# The same for a logit, in addition: its exponential, and the sum.
KERNELS_LOGIT_S: Final = 2e-9
# Counting, selecting and sorting, for each row summary.
SUMMARY_ROW_S: Final = 10e-9
# The search for a number of workers ends here.
_MOST_WORKERS: Final = 1 << 17


@dataclass(frozen=True)
class Workload:
    """What a run reads, and with how many threads: what its time depends on.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    row_bytes : float
        Decoded bytes of `pred_probs` per row and pass, including stored chunks that are decoded more than once.
    label_bytes : int
        Bytes of a label, which the first pass reads.
    n_partitions, n_reads, n_tasks : int
        Numbers of partitions, of passes, and of all tasks.
    slab_size : int
        Number of partitions that are submitted at a time.
    n_workers, n_threads : int
        Number of workers, and of threads in each. Forked processes are threads of one worker.
    is_cluster : bool
        Whether a scheduler and workers in other processes run the tasks.
    n_requests : int or None
        Number of requests to the store in all passes; None if files are read without any.
    ahead_bytes : int
        Bytes that a thread requests ahead; 0 if nothing is prefetched.
    """

    n_rows: int
    row_bytes: float
    label_bytes: int
    n_partitions: int
    n_reads: int
    n_tasks: int
    slab_size: int
    n_workers: int
    n_threads: int
    is_cluster: bool
    n_requests: int | None = None
    ahead_bytes: int = 0

    def rounds(self, n_takers: int) -> int:
        """Return how many partitions one of `n_takers` workers or threads takes at most."""
        whole, rest = divmod(self.n_partitions, self.slab_size)
        return whole * -(-self.slab_size // n_takers) + -(-rest // n_takers)


@dataclass(frozen=True)
class Rates:
    """Rates of a store and of a thread.

    Parameters
    ----------
    worker_rate : float
        Stored bytes per second that a worker gets from the store, shared by its threads.
    thread_rate, warm_thread_rate : float
        Stored bytes per second that a thread gets while all others read too, in the first pass and in later ones.
    latency_s : float
        Seconds until the first byte of an answer.
    stored_share, stored_label_share : float
        Stored bytes of `pred_probs` and of the labels, divided by decoded ones.
    decoding_byte_s : float
        Seconds of a thread to decode a byte of `pred_probs`, counted decoded.
    kernels_row_s : float
        Seconds of a thread to summarize a row.
    summary_row_s : float
        Seconds of a thread to count, select and sort the summary of a row.
    partition_s : float
        Seconds that a thread takes for a partition in addition: opening files, new memory.
    startup_s : float
        Seconds to open the inputs and to import what a run needs.
    """

    worker_rate: float = math.inf
    thread_rate: float = math.inf
    warm_thread_rate: float = math.inf
    latency_s: float = 0
    stored_share: float = 1
    stored_label_share: float = 1
    decoding_byte_s: float = 0
    kernels_row_s: float = 0
    summary_row_s: float = SUMMARY_ROW_S
    partition_s: float = 0
    startup_s: float = 0


@dataclass(frozen=True)
class Forecast:
    """The time of a run.

    Parameters
    ----------
    total_s : float
        Seconds of the whole run.
    startup_s, store_s, decoding_s, kernels_s, summaries_s, scheduler_s, client_s : float
        Seconds of each part if it were alone: the parts overlap (see `labelsieve.pipeline.forecast`).
    limit : str
        The longest part of those that no other part hides: ``"store"``, ``"decoding"``, ``"kernels"``,
        ``"summaries"``, ``"scheduler"``, ``"client"`` or ``"startup"``.
    store_bytes : int
        Bytes that the store sends in all passes: stored bytes if measured, otherwise decoded ones.
    n_requests : int or None
        Requests to the store for these; None if files are read without any.
    measured_bytes : int
        Decoded bytes that were read to measure the rates; 0 if the rates were given.
    within_s : float or None
        The time that was asked for.
    n_workers_needed : int or None
        Least number of workers that finish within that time; None if no number does, or none was asked for.
    why_not : str
        Why no number of workers is enough, or "".
    """

    total_s: float
    startup_s: float
    store_s: float
    decoding_s: float
    kernels_s: float
    summaries_s: float
    scheduler_s: float
    client_s: float
    limit: str
    store_bytes: int
    n_requests: int | None = None
    measured_bytes: int = 0
    within_s: float | None = None
    n_workers_needed: int | None = None
    why_not: str = ""


def typical_rates(n_classes: int, itemsize: int, *, is_encoded: bool, from_logits: bool = False) -> Rates:
    """Return the rates of one thread of the machine that the constants of this module were measured on.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    itemsize : int
        Bytes of a probability.
    is_encoded : bool
        Whether rows are stored compressed.
    from_logits : bool
        Whether the probabilities are those of logits.
    """
    value_s = KERNELS_VALUE_S[itemsize] + (KERNELS_LOGIT_S if from_logits else 0)
    columns_s = min(n_classes, _COLUMNS) * KERNELS_COLUMN_S
    return Rates(
        decoding_byte_s=DECODING_BYTE_S if is_encoded else 0,
        kernels_row_s=KERNELS_ROW_S + columns_s + n_classes * value_s,
    )


def forecast(work: Workload, rates: Rates) -> Forecast:
    """Compute the time of a run, by the rule at the top of this module."""
    n_threads = work.n_workers * work.n_threads
    thread_rounds, worker_rounds = work.rounds(n_threads), work.rounds(work.n_workers)
    rows = work.n_rows / work.n_partitions
    decoding = rows * work.row_bytes * rates.decoding_byte_s
    kernels = rows * rates.kernels_row_s
    store_s = passes_s = store_bytes = 0.0
    for number in range(work.n_reads):
        labels = 0 if number else work.label_bytes * rates.stored_label_share
        stored = rows * (work.row_bytes * rates.stored_share + labels)
        store_bytes += stored * work.n_partitions
        waits, alone = _reading(work, rates, stored, is_first=number == 0)
        feeding = worker_rounds * stored / rates.worker_rate
        working = max(alone, decoding + kernels) if work.ahead_bytes else alone + decoding + kernels
        store_s += max(feeding, thread_rounds * (waits + alone))
        passes_s += max(feeding, thread_rounds * (waits + working))
    summaries_s = thread_rounds * rows * rates.summary_row_s
    startup_s = rates.startup_s + thread_rounds * work.n_reads * rates.partition_s
    decoding_s, kernels_s = (thread_rounds * work.n_reads * part for part in (decoding, kernels))
    scheduler_s = work.n_tasks * (SCHEDULER_TASK_S if work.is_cluster else LOCAL_TASK_S)
    client_s = work.n_tasks * CLIENT_TASK_S if work.is_cluster else 0.0
    parts = {"store": store_s, "decoding": decoding_s, "kernels": kernels_s, "summaries": summaries_s}
    if scheduler_s > passes_s + summaries_s:
        parts = {"scheduler": scheduler_s}
    elif passes_s <= store_s:  # whatever the threads do is hidden behind the store
        parts = {"store": store_s, "summaries": summaries_s}
    elif work.ahead_bytes:
        del parts["store"]
    parts |= {"client": client_s, "startup": startup_s}
    return Forecast(
        total_s=startup_s + client_s + max(passes_s + summaries_s, scheduler_s),
        startup_s=startup_s,
        store_s=store_s,
        decoding_s=decoding_s,
        kernels_s=kernels_s,
        summaries_s=summaries_s,
        scheduler_s=scheduler_s,
        client_s=client_s,
        limit=max(parts, key=lambda name: parts[name]),
        store_bytes=round(store_bytes),
        n_requests=work.n_requests,
    )


def _reading(work: Workload, rates: Rates, stored: float, *, is_first: bool) -> tuple[float, float]:
    """Return the seconds that a thread waits before a partition, and those to read its `stored` bytes."""
    rate = min(rates.worker_rate, rates.thread_rate if is_first else rates.warm_thread_rate)
    if not work.ahead_bytes:
        n_requests = (work.n_requests or 0) / work.n_reads / work.n_partitions
        return 0.0, stored / rate + n_requests * rates.latency_s
    if rates.latency_s:
        rate = min(rate, work.ahead_bytes / rates.latency_s)
    return rates.latency_s, stored / rate


def workers_within(wanted_s: float, forecast_of: Callable[[int], Forecast | None]) -> tuple[int | None, str]:
    """Return the least number of workers that finish in `wanted_s` seconds, or None and why there is none.

    Parameters
    ----------
    wanted_s : float
        Seconds.
    forecast_of : callable
        Returns the forecast for a number of workers; None if the run would not fit in their memory.
    """
    best: Forecast | None = None
    best_n, n_workers, is_enough = 0, 1, False
    while n_workers <= _MOST_WORKERS and not is_enough:
        found = forecast_of(n_workers)
        if found is not None and (best is None or found.total_s < best.total_s):
            best, best_n = found, n_workers
        is_enough = found is not None and found.total_s <= wanted_s
        if best is not None and n_workers >= 16 * best_n:
            break  # further workers do not help
        n_workers *= 2
    if best is None:
        return None, "the run fits in the memory of no number of such workers"
    if not is_enough:
        return None, (
            f"the least is about {best.total_s:,.3g} s, with {best_n:,} workers: {_REASONS[best.limit]} "
            f"({getattr(best, f'{best.limit}_s'):,.3g} s)"
        )
    few, enough = best_n // 2, best_n
    while enough - few > 1:
        middle = (few + enough) // 2
        found = forecast_of(middle)
        if found is not None and found.total_s <= wanted_s:
            enough = middle
        else:
            few = middle
    return enough, ""


_REASONS: Final = {
    "store": "the partitions cannot be divided any further, and each waits for the store",
    "decoding": "the partitions cannot be divided any further, and each is decoded by one thread",
    "kernels": "the partitions cannot be divided any further, and each is summarized by one thread",
    "summaries": "the partitions cannot be divided any further",
    "scheduler": "more workers do not make the scheduler faster",
    "client": "more workers do not make the client faster",
    "startup": "the rest is opening the inputs and imports",
}
