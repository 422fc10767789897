"""The time of a run by arithmetic: values computed by hand, and what more workers and faster stores change."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.pipeline.forecast import (
    CLIENT_TASK_S,
    LOCAL_TASK_S,
    SCHEDULER_TASK_S,
    Rates,
    Workload,
    forecast,
    typical_rates,
    workers_within,
)

# 100 partitions of 1,000 rows of 1,000 bytes: 1 MB each, and 8 bytes a label.
WORK = Workload(
    n_rows=100_000,
    row_bytes=1000,
    label_bytes=0,
    n_partitions=100,
    n_reads=1,
    n_tasks=0,
    slab_size=4096,
    n_workers=5,
    n_threads=2,
    is_cluster=True,
)
NOTHING = Rates(summary_row_s=0)


def total(work, **rates):
    return forecast(work, replace(NOTHING, **rates)).total_s


# By hand -----------------------------------------------------------------------------------------------------------


def test_a_store_feeds_the_partitions_of_a_worker():
    # Each of 5 workers gets 20 MB, at 1 MB/s.
    found = forecast(WORK, replace(NOTHING, worker_rate=1e6))
    assert (found.total_s, found.store_s, found.limit, found.store_bytes) == (20, 20, "store", 10**8)
    # Each of 7 workers gets 15 partitions at most.
    assert total(replace(WORK, n_workers=7), worker_rate=1e6) == 15


def test_threads_take_whole_partitions():
    # Of 100 partitions each of 10 threads takes 10, and one of 30 takes 4; 1 ms a row.
    assert total(WORK, kernels_row_s=1e-3) == pytest.approx(10)
    found = forecast(replace(WORK, n_workers=15), replace(NOTHING, kernels_row_s=1e-3))
    assert (found.total_s, found.kernels_s, found.limit) == (pytest.approx(4), pytest.approx(4), "kernels")


def test_a_thread_reads_decodes_and_computes_in_turn_unless_rows_are_prefetched():
    rates = {"thread_rate": 1e6, "decoding_byte_s": 2e-6, "kernels_row_s": 1e-3}  # 1, 2 and 1 s a partition
    found = forecast(WORK, replace(NOTHING, **rates))
    assert [found.store_s, found.decoding_s, found.kernels_s] == pytest.approx([10, 20, 10])
    assert (found.total_s, found.limit) == (pytest.approx(40), "decoding")
    ahead = replace(WORK, ahead_bytes=10**6)
    assert total(ahead, **rates) == pytest.approx(30)
    slow = forecast(ahead, replace(NOTHING, **rates | {"thread_rate": 1e5}))
    assert (slow.total_s, slow.limit) == (pytest.approx(100), "store")


def test_threads_of_a_worker_share_its_rate():
    # Two threads compute 1 s a partition each, while the store takes 2 s for the partitions of both.
    assert total(WORK, worker_rate=1e6, kernels_row_s=1e-3) == pytest.approx(20)
    # At ten times the rate a thread waits 0.1 s for its own.
    assert total(WORK, worker_rate=1e7, kernels_row_s=1e-3) == pytest.approx(10 * 1.1)


def test_latency_is_waited_for_once_a_partition_and_limits_what_is_in_flight():
    ahead = replace(WORK, ahead_bytes=100_000)
    # 0.1 MB in flight arrive every 0.5 s: 1 MB takes 5 s, after a wait of 0.5 s; 10 partitions a thread.
    found = forecast(ahead, replace(NOTHING, latency_s=0.5, worker_rate=1e9))
    assert (found.total_s, found.limit) == (pytest.approx(10 * 5.5), "store")
    # Without prefetching each of 4 requests a partition is waited for.
    assert total(replace(WORK, n_requests=400), latency_s=0.5) == pytest.approx(10 * 4 * 0.5)


def test_labels_are_read_once_and_later_passes_may_be_in_the_cache():
    work = replace(WORK, n_reads=3, label_bytes=500)
    found = forecast(work, replace(NOTHING, thread_rate=1e6, warm_thread_rate=1e7, stored_share=0.5))
    # A partition has 1 MB stored in the first pass, labels included, and 0.5 MB in the others.
    assert found.store_s == found.total_s == pytest.approx(10 * (1 + 0.05 + 0.05))
    assert found.store_bytes == 100 * 2 * 10**6


def test_scheduler_and_client_by_their_tasks():
    work = replace(WORK, n_tasks=10_000)
    found = forecast(work, replace(NOTHING, kernels_row_s=1e-4, startup_s=0.25))  # 1 s of reading
    assert found.scheduler_s == pytest.approx(10_000 * SCHEDULER_TASK_S)
    assert found.total_s == pytest.approx(0.25 + 10_000 * (CLIENT_TASK_S + SCHEDULER_TASK_S))
    assert found.limit == "scheduler"
    local = forecast(replace(work, is_cluster=False, n_workers=1), replace(NOTHING, kernels_row_s=1e-4))
    assert (local.client_s, local.scheduler_s) == (0, pytest.approx(10_000 * LOCAL_TASK_S))


def test_reading_hides_the_scheduler():
    work = replace(WORK, n_tasks=100)
    found = forecast(work, replace(NOTHING, kernels_row_s=1e-3, summary_row_s=1e-3))
    assert (found.total_s, found.limit) == (pytest.approx(20 + 100 * CLIENT_TASK_S), "kernels")
    assert forecast(work, replace(NOTHING, startup_s=9)).limit == "startup"
    assert forecast(replace(work, n_tasks=10**6), replace(NOTHING, kernels_row_s=1)).limit == "kernels"


def test_each_submission_ends_with_a_round_that_leaves_threads_idle():
    work = replace(WORK, n_partitions=2001, slab_size=1000)
    assert work.rounds(1000) == 3
    assert work.rounds(999) == 5
    assert work.rounds(1) == 2001


def test_typical_rates_decode_only_what_is_encoded():
    plain, encoded = (typical_rates(1000, 4, is_encoded=is_encoded) for is_encoded in (False, True))
    assert plain.decoding_byte_s == 0 < encoded.decoding_byte_s
    assert plain.kernels_row_s == encoded.kernels_row_s == pytest.approx(10e-9 + 32 * 1.2e-9 + 1000 * 0.14e-9)
    assert typical_rates(10, 4, is_encoded=False).kernels_row_s == pytest.approx(10e-9 + 10 * 1.34e-9)
    assert plain.worker_rate == math.inf


# What must hold of any run -----------------------------------------------------------------------------------------

WORKLOADS = st.builds(
    Workload,
    n_rows=st.integers(10_000, 10**9),
    row_bytes=st.floats(8, 40_000),
    label_bytes=st.sampled_from([0, 1, 8]),
    n_partitions=st.integers(1, 10_000),
    n_reads=st.integers(1, 3),
    n_tasks=st.integers(0, 10**5),
    slab_size=st.integers(1, 5000),
    n_workers=st.integers(1, 2000),
    n_threads=st.integers(1, 16),
    is_cluster=st.booleans(),
    n_requests=st.none() | st.integers(1, 10**6),
    ahead_bytes=st.sampled_from([0, 10**6, 10**8]),
)
RATES = st.builds(
    Rates,
    worker_rate=st.floats(1e6, 1e11) | st.just(math.inf),
    thread_rate=st.floats(1e6, 1e11) | st.just(math.inf),
    warm_thread_rate=st.just(math.inf),
    latency_s=st.sampled_from([0, 0.02, 2]),
    stored_share=st.floats(0.1, 1),
    decoding_byte_s=st.floats(0, 1e-7),
    kernels_row_s=st.floats(0, 1e-4),
    summary_row_s=st.floats(0, 1e-6),
    startup_s=st.floats(0, 10),
)


@given(WORKLOADS, RATES)
def test_more_and_faster_is_never_slower(work, rates):
    found = forecast(work, rates).total_s * (1 + 1e-9)
    assert forecast(replace(work, n_workers=2 * work.n_workers), rates).total_s <= found
    assert forecast(replace(work, n_workers=work.n_workers + 1), rates).total_s <= found
    assert forecast(work, replace(rates, worker_rate=2 * rates.worker_rate)).total_s <= found
    assert forecast(work, replace(rates, thread_rate=2 * rates.thread_rate)).total_s <= found
    assert forecast(work, replace(rates, latency_s=rates.latency_s / 2)).total_s <= found
    assert forecast(replace(work, n_reads=1), rates).total_s <= found
    assert forecast(replace(work, n_tasks=work.n_tasks // 2), rates).total_s <= found


@given(WORKLOADS, RATES)
def test_the_whole_takes_at_least_its_longest_part_and_at_most_their_sum(work, rates):
    found = forecast(work, rates)
    parts = {
        name: getattr(found, f"{name}_s")
        for name in ("startup", "store", "decoding", "kernels", "summaries", "scheduler", "client")
    }
    least, most = max(parts.values()), sum(parts.values())
    assert least * (1 - 1e-9) <= found.total_s <= most * (1 + 1e-9)
    assert parts[found.limit] > 0 or most == 0


@given(WORKLOADS, RATES)
def test_the_limit_is_what_a_faster_part_would_shorten(work, rates):
    found = forecast(work, rates)
    faster = {
        "store": {"worker_rate": math.inf, "thread_rate": math.inf, "latency_s": 0},
        "decoding": {"decoding_byte_s": 0},
        "kernels": {"kernels_row_s": 0},
        "summaries": {"summary_row_s": 0},
        "startup": {"startup_s": 0},
    }
    if found.limit in faster and found.total_s:
        assert forecast(work, replace(rates, **faster[found.limit])).total_s < found.total_s


# How many workers --------------------------------------------------------------------------------------------------


def needed(wanted_s, work=WORK, **rates):
    return workers_within(wanted_s, lambda n: forecast(replace(work, n_workers=n), replace(NOTHING, **rates)))


@pytest.mark.parametrize("wanted_s", [1, 1.5, 2, 7, 49.9, 50, 1000])
def test_the_least_number_of_workers(wanted_s):
    n_workers, why_not = needed(wanted_s, kernels_row_s=1e-3)
    assert why_not == ""
    times = [total(replace(WORK, n_workers=n), kernels_row_s=1e-3) for n in (n_workers, max(1, n_workers - 1))]
    assert times[0] <= wanted_s * (1 + 1e-9)
    assert times[1] > wanted_s or n_workers == 1


def test_no_number_of_workers_is_enough():
    n_workers, why_not = needed(0.5, kernels_row_s=1e-3)
    assert n_workers is None
    assert why_not == (
        "the least is about 1 s, with 64 workers: the partitions cannot be divided any further, and each is "
        "summarized by one thread (1 s)"
    )
    n_workers, why_not = needed(10, replace(WORK, n_tasks=10**6), kernels_row_s=1e-3)
    assert n_workers is None
    assert "more workers do not make the scheduler faster" in why_not
    assert workers_within(10, lambda _: None) == (None, "the run fits in the memory of no number of such workers")


def test_workers_that_do_not_hold_the_summaries_are_not_enough():
    def forecast_of(n_workers):
        return forecast(replace(WORK, n_workers=n_workers), NOTHING) if n_workers >= 37 else None

    assert workers_within(10, forecast_of) == (37, "")
