"""How rows are cut: arithmetic only."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InvalidInputError
from labelsieve.execution.executor import _priority
from labelsieve.job import grid as memory
from labelsieve.job import grid as partitioning
from labelsieve.job.grid import BLOCK_ROWS, Grid, Need, spans
from labelsieve.job.inputs import group_size, plan_grid
from labelsieve.job.scan import PartitionWork
from labelsieve.options import check_size
from labelsieve.results.store import ISSUE_BYTES, RESULT_ROWS, result_rows, run_rows

PLENTY = 10**15


def batch_rows(grid):
    return tuple(stop - start for index in range(grid.n_partitions) for start, stop in grid.ranges(index))


@pytest.mark.parametrize(
    ("n_rows", "rows", "runs"), [(10, 3, (3, 3, 3, 1)), (9, 3, (3, 3, 3)), (2, 5, (2,)), (1, 1, (1,)), (0, 4, ())]
)
def test_equal_batches_leave_the_rest_to_the_last(n_rows, rows, runs):
    assert runs == batch_rows(Grid.grouped(n_rows, rows, 1))


def grids(least_rows=1):
    """Draw grids of equal batches and of a Dask array's own, which have `least_rows` rows at least."""
    equal = st.builds(Grid.grouped, st.integers(1, 200), st.integers(1, 70), st.integers(1, 25))
    chunks = st.lists(st.integers(least_rows, 9), min_size=1, max_size=40)
    own = st.builds(lambda b, p: Grid.grouped(sum(b), tuple(b), p), chunks, st.integers(1, 25))
    sizes = st.lists(st.integers(1, 90), min_size=1, max_size=9)
    listed = st.builds(lambda s, b: Grid(sum(s), b, tuple(itertools.accumulate(s))), sizes, st.integers(1, 30))
    return st.one_of(equal, own, listed)


def ranges_of(grid):
    return [grid.ranges(index) for index in range(grid.n_partitions)]


@given(grids())
def test_partitions_cover_all_rows_in_order(grid):
    partitions = ranges_of(grid)
    flat = [edge for ranges in partitions for edge in ranges]
    rows = batch_rows(grid)
    edges = [sum(rows[:i]) for i in range(len(rows) + 1)]
    assert list(itertools.pairwise(edges)) == flat
    assert sum(batch_rows(grid)) == grid.n_rows
    assert grid.partition_rows == [ranges[-1][1] - ranges[0][0] for ranges in partitions]
    assert max(grid.partition_rows) == grid.largest_partition
    assert (len(flat), len(partitions)) == (grid.n_batches, grid.n_partitions)
    assert max(batch_rows(grid)) == grid.largest_batch


@given(grids(least_rows=0))
def test_bounds_are_the_ends_of_the_ranges(grid):
    for index in range(grid.n_partitions):
        ranges = grid.ranges(index)
        assert grid.bounds(index) == (ranges[0][0], ranges[-1][1])


@pytest.mark.every_value
@pytest.mark.parametrize("batches", [7, (7, 7, 7, 7, 7, 7, 7, 1), (3, 1, 40, 6)], ids=str)
@pytest.mark.parametrize("partition_batches", [1, 2, 3, 8, 10**30])
def test_a_partition_is_a_group_of_batches(batches, partition_batches):
    grid = Grid.grouped(50, batches, partition_batches)
    assert all(len(ranges) == partition_batches for ranges in ranges_of(grid)[:-1])
    assert grid.n_partitions == -(-len(batch_rows(grid)) // partition_batches)
    assert sum(grid.partition_rows) == 50


def test_equal_batches_and_the_same_ones_listed_are_the_same_grid():
    equal = Grid.grouped(100, 30, 3)
    listed = Grid.grouped(100, batch_rows(equal), 3)
    assert batch_rows(equal) == (30, 30, 30, 10)
    assert ranges_of(equal) == ranges_of(listed) == [[(0, 30), (30, 60), (60, 90)], [(90, 100)]]
    assert [equal.bounds(i) for i in (0, 1)] == [listed.bounds(i) for i in (0, 1)] == [(0, 90), (90, 100)]


# Spans -----------------------------------------------------------------------------------------------------------


@given(
    grid=grids(least_rows=0).filter(lambda grid: grid.n_rows),
    chunk=st.integers(1, 30),
    span_bytes=st.integers(1, 3000),
    n_threads=st.integers(1, 5),
)
def test_spans_cover_all_rows_once_and_are_whole_stored_chunks(grid, chunk, span_bytes, n_threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelsieve.results.store.RESULT_ROWS", chunk)
        patch.setattr(partitioning, "_SPAN_BYTES", span_bytes)
        found = spans(grid, 10, n_threads)
    edges = [found[0].start, *(span.stop for span in found)]
    assert (edges[0], edges[-1]) == (0, grid.n_rows)
    assert all(a < b for a, b in itertools.pairwise(edges))
    assert [span.start for span in found] == edges[:-1]
    assert all(edge % chunk == 0 for edge in edges[:-1])
    assert all(span.stop - span.start <= max(chunk, span_bytes // 10) for span in found)
    for span in found:
        rows = []
        for index, a, b in span.pieces:
            first, last = grid.bounds(index)
            assert 0 <= a <= b <= last - first
            rows += range(first + a, first + b)
        assert rows == list(range(span.start, span.stop))
        numbers = [index for index, _, _ in span.pieces]
        assert numbers == sorted(set(numbers)), "each partition once"


def test_spans_touch_no_partition_in_vain():
    grid = Grid.grouped(3 * RESULT_ROWS, RESULT_ROWS, 1)
    assert [span.pieces for span in spans(grid, 10, 100)] == [((i, 0, RESULT_ROWS),) for i in range(3)]


def test_there_are_some_spans_for_each_thread_and_each_is_about_32_mb():
    many, few = Grid.grouped(10**9, 10**6, 1), Grid.grouped(10**7, 10**6, 1)
    assert {span.stop - span.start for span in spans(many, 10, 2)[:-1]} == {32_000_000 // 10 // 2**18 * 2**18}
    assert len(spans(few, 10, 2)) == 10  # four a thread, but whole chunks of 262,144 rows


@pytest.mark.parametrize(
    ("n_rows", "rows"),
    [(1, 2**18), (2**30, 2**18), (2**30 + 1, 2**19), (25 * 10**9, 24 * 2**18), (10**12, 932 * 2**18)],
)
def test_a_result_of_any_size_has_some_thousand_chunks_at_most(n_rows, rows):
    assert rows == result_rows(n_rows)
    assert -(-n_rows // rows) <= 4096


@pytest.mark.parametrize(("n_issues", "rows"), [(1, 2**16), (2**26, 2**16), (2**26 + 1, 2**17), (10**11, 1491 * 2**16)])
def test_issues_are_sorted_in_a_thousand_runs_where_there_is_room(n_issues, rows):
    assert rows == run_rows(n_issues) == run_rows(n_issues, rows * ISSUE_BYTES)
    assert n_issues / rows <= 1024
    assert run_rows(n_issues, rows * ISSUE_BYTES - 1) == max(2**16, rows - 2**16)
    assert run_rows(n_issues, 0) == 2**16


def test_a_client_merges_the_issues_of_a_hundred_terabytes_in_some_hundred_megabytes():
    assert memory.merge_bytes(25 * 10**9) < 350e6
    assert memory.merge_bytes(250 * 10**6) < 20e6


# Planning --------------------------------------------------------------------------------------------------------


def test_a_given_batch_size_is_taken():
    assert Grid.grouped(100, 30, 2) == plan_grid(100, 8, None, 1, PLENTY, batch_size=30, partition_batches=2)


def test_a_batch_has_at_most_all_rows():
    assert batch_rows(plan_grid(7, 8, None, 1, PLENTY, batch_size=10_000, partition_batches=1)) == (7,)


@pytest.mark.parametrize(("row_bytes", "rows"), [(4000, 12_000), (40, 1_200_000), (1_000_000_000, 1)])
def test_an_automatic_batch_is_about_48_mb(row_bytes, rows):
    n_rows = min(10_000_000, 1000 * rows)
    grid = plan_grid(n_rows, row_bytes, None, 2, PLENTY)
    assert set(batch_rows(grid)[:-1]) == {rows}
    assert sum(batch_rows(grid)) == n_rows


@pytest.mark.parametrize(
    ("batch_size", "row_chunk", "rows"),
    [
        (1000, 300, 900),  # whole stored chunks, rounded down
        (100, 300, 300),  # never less than one
        (300, 300, 300),
        ("auto", 7000, 7000),
        ("auto", 5000, 10_000),
        (10, 99_999, 99_999),
        (10, 200_000, 100_000),  # one stored chunk holds everything
        (10, 100_000, 100_000),
    ],
)
def test_a_batch_is_a_whole_number_of_stored_chunks(batch_size, row_chunk, rows):
    grid = plan_grid(100_000, 4000, row_chunk, 1, PLENTY, batch_size=batch_size)
    assert rows == batch_rows(grid)[0]
    assert sum(batch_rows(grid)) == 100_000


def test_a_stored_chunk_too_large_for_memory_is_read_in_pieces():
    # A quarter over two threads of 100 byte rows: 5,000 rows. `test_reading` holds the warning.
    grid = plan_grid(50_000, 100, 20_000, 2, 4_000_000)
    assert batch_rows(grid) == (5000,) * 10


@pytest.mark.parametrize("batch_size", ["auto", 1_000_000])
def test_small_stored_chunks_stay_whole_where_memory_is_short(batch_size):
    # 5,005 rows: a chunk of 10 is not too large, only the batch is.
    grid = plan_grid(50_000, 100, 10, 2, 4_004_000, batch_size=batch_size)
    assert set(batch_rows(grid)) == {5000}


def test_rows_that_are_stored_apart_keep_a_given_batch_size():
    assert batch_rows(plan_grid(50_000, 100, None, 2, 4_000_000, batch_size=20_000)) == (20_000, 20_000, 10_000)


@pytest.mark.parametrize(
    ("batch_bytes", "total_bytes", "n_threads", "batches"),
    [
        (48_000_000, 10**12, 2, 10),  # about 512 MB
        (48_000_000, 10**9, 2, 2),  # four partitions a thread
        (48_000_000, 10**8, 2, 1),
        (10**10, 10**12, 2, 1),
        (0, 0, 1, 1),
    ],
)
def test_a_partition_is_about_512_mb_and_less_where_rows_are_few(batch_bytes, total_bytes, n_threads, batches):
    assert batches == group_size(batch_bytes, total_bytes, n_threads)


@pytest.mark.parametrize(
    ("terabytes", "n_workers", "gigabytes", "per_thread"),
    [
        (1, 25, 0.5, 20),
        (1, 200, 0.3, 4),
        (10, 200, 1.2, 10),
        (10, 1000, 0.6, 4),
        (100, 200, 1.2, 100),
        (100, 1000, 6.2, 4),
        (1000, 1000, 6.2, 40),
    ],
)
def test_partitions_grow_with_the_threads_and_each_thread_gets_four(terabytes, n_workers, gigabytes, per_thread):
    batch, n_threads = 1_000_000, 4 * n_workers
    for remote in (False, True):
        size = batch * group_size(batch, terabytes * 10**12, n_threads, remote=remote)
        assert size / 1e9 == pytest.approx(gigabytes, rel=0.1)
        assert terabytes * 1e12 / size / n_threads == pytest.approx(per_thread, rel=0.03)


@pytest.mark.every_value
@pytest.mark.parametrize("n_threads", [2, 8, 100, 4000])
@pytest.mark.parametrize("gigabytes", [1, 3, 17, 100, 1100, 10_100, 99_999])
def test_no_thread_has_much_more_than_the_others(gigabytes, n_threads):
    batch, total = 1_000_000, gigabytes * 10**9
    n_batches = total // batch
    size = group_size(batch, total, n_threads)
    n_partitions = -(-n_batches // size)
    most = -(-n_partitions // n_threads) * size
    assert most <= 1.07 * n_batches / n_threads + 1 + 4 * (size == 1)


def test_the_last_partitions_of_a_large_cluster_are_smaller_and_read_last():
    grid = plan_grid(25_000_000_000, 4000, None, 4000, PLENTY, remote=True)
    rows = grid.partition_rows
    assert sum(rows) == grid.n_rows == grid.bounds(grid.n_partitions - 1)[1]
    assert rows[0] * 4000 == pytest.approx(6.25e9, rel=0.02)
    assert set(rows[: grid.n_large]) == {rows[0]}
    assert sum(rows[: grid.n_large]) == pytest.approx(0.75 * grid.n_rows, rel=0.01)
    assert max(rows[grid.n_large :]) <= rows[0] / 3 + grid.largest_batch
    assert 5.8 < grid.n_partitions / 4000 < 6.1
    assert all(len(grid.ranges(index)) for index in (0, grid.n_large, grid.n_partitions - 1))
    work = PartitionWork(None, grid, 1000, np.dtype("f4"), "here")
    assert work.n_first == grid.n_large
    assert [_priority(("scan", index), work.n_first) for index in (0, grid.n_large - 1, grid.n_large)] == [0, 0, -1]


def test_partitions_of_few_threads_are_alike():
    for grid in (plan_grid(250_000_000, 4000, None, 8, PLENTY), plan_grid(10**6, 4000, None, 4000, PLENTY)):
        assert grid.n_large == 0
        assert len(set(grid.partition_rows[:-1])) <= 1


def test_few_remote_rows_are_two_partitions_a_thread():
    sizes = [group_size(1, total, 4, remote=True) for total in (800, 8 * 128_000_000, 16 * 128_000_000, 10**10)]
    assert sizes == [100, 128_000_000, 128_000_000, 500_000_000]


def test_a_given_partition_size_is_taken():
    assert group_size(48_000_000, 10**12, 2, 7) == 7


def test_a_terabyte_is_a_few_thousand_tasks():
    grid = plan_grid(250_000_000, 4000, None, 4, PLENTY)
    assert 1000 < grid.n_partitions < 5000


@pytest.mark.parametrize("good", [1, 10_000, np.int64(3), np.uint8(3), "auto"])
def test_good_sizes_pass(good):
    assert check_size("batch_size", good) == good


@pytest.mark.every_value
@pytest.mark.parametrize("bad", [0, -1, 2.0, 1.5, None, "big", True, np.float64(2), [3]])
@pytest.mark.parametrize("name", ["batch_size", "partition_batches"])
def test_bad_sizes_are_refused_by_name(name, bad):
    with pytest.raises(InvalidInputError, match=f"{name} must be .*at least 1"):
        check_size(name, bad)


@pytest.mark.parametrize(
    ("n_classes", "itemsize", "method", "adjust", "a_row"),
    [
        (10, 4, "self_confidence", False, 2 * 1 + 2 * 4),
        (10, 2, "self_confidence", False, 2 * 1 + 2 * 2 + 4),
        (1000, 8, "self_confidence", False, 2 * 2 + 2 * 8),
        (1000, 4, "normalized_margin", False, 2 * 2 + 2 * 4 + 8),
        (100_000, 8, "confidence_weighted_entropy", False, 2 * 4 + 2 * 8 + 8),
        (256, 4, "self_confidence", True, 2 * 1 + 2 * 4 + 16),
        (65_536, 4, "normalized_margin", True, 2 * 2 + 2 * 4 + 16),
    ],
)
def test_planned_memory_grows_by_the_summary_of_a_row_and_not_by_its_probabilities(
    n_classes, itemsize, method, adjust, a_row
):
    settings = Settings(method, adjust)
    needs = [Need(n, n_classes, itemsize, settings) for n in (10**6, 10**9)]
    few, many = (need.in_process(2, stored=False) - need.partials for need in needs)
    assert a_row * (10**9 - 10**6) == many - few
    # But for the pairs of classes, of which there are so many, or a tenth of the rows; in a tree and when all is done.
    pairs = [16 * min(n // 10, n_classes * (n_classes - 1)) for n in (10**6, 10**9)]
    assert needs[1].partials - needs[0].partials == 3 * (pairs[1] - pairs[0])


def test_planned_memory_of_stored_summaries_does_not_grow_with_the_rows():
    few, many = (Need(n, 100, 4, Settings()).in_process(2, stored=True) for n in (10**6, 6 * 10**8))
    assert few == many
    # Beyond, only as runs and chunks of the result do, of which there are some thousands at most.
    assert Need(10**10, 100, 4, Settings()).in_process(2, stored=True) < 600_000_000


def test_planned_memory_grows_by_thread_and_by_batch_where_batches_are_read_whole():
    need = Need(10**6, 100, 4, Settings())
    one, two, six = (need.in_process(n, stored=False) for n in (1, 2, 6))
    assert 0 < two - one < 20_000_000
    assert 5 * (two - one) == six - one
    batch = 40_000_000
    assert 2 * 9 * batch // 4 == replace(need, batch_bytes=batch).in_process(2, stored=False) - two
    assert replace(need, ahead_bytes=10_000).in_process(2, stored=False) - two == 2 * 10_000
    assert replace(need, held_bytes=77).in_process(2, stored=False) - two == 77


def test_planned_memory_of_a_worker_is_its_share_of_the_summaries():
    need = Need(10**6, 100, 4, Settings())
    alone, shared = (need.in_process(2, stored=False, n_processes=n) for n in (1, 4))
    assert alone - shared == need.summaries() - need.summaries() // 4
    assert need.in_process(2, stored=False, base=7) == alone - memory.INTERPRETER_BYTES + 7


def test_a_thread_that_streams_takes_blocks_a_run_and_some_chunks_of_the_result():
    need = Need(10**6, 100, 4, Settings())
    summaries = need.in_process(3, stored=False) - need.summaries()
    streaming = 3 * BLOCK_ROWS * need.row + run_rows(10**5) * ISSUE_BYTES + 4 * result_rows(10**6) * (4 + 1)
    assert need.in_process(3, stored=True) - summaries == 3 * streaming
