"""How rows are cut: arithmetic only."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve import memory
from labelsieve.errors import InvalidInputError, LabelsieveWarning
from labelsieve.memory import Grid, check_sizes, equal_runs, group_size, plan_grid, planned_bytes
from labelsieve.settings import Settings


@pytest.fixture
def free_memory(monkeypatch):
    """Set the bytes of free memory; plenty until told otherwise."""

    def set_bytes(n_bytes):
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=n_bytes))

    set_bytes(10**15)
    return set_bytes


@pytest.mark.parametrize(
    ("n_rows", "rows", "runs"), [(10, 3, (3, 3, 3, 1)), (9, 3, (3, 3, 3)), (2, 5, (2,)), (1, 1, (1,)), (0, 4, ())]
)
def test_equal_runs_leave_the_rest_to_the_last(n_rows, rows, runs):
    assert runs == equal_runs(n_rows, rows)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 25))
def test_partitions_cover_all_rows_in_order(batch_rows, partition_batches):
    partitions = list(Grid(sum(batch_rows), tuple(batch_rows), partition_batches).partitions())
    flat = [edge for ranges in partitions for edge in ranges]
    edges = [sum(batch_rows[:i]) for i in range(len(batch_rows) + 1)]
    assert list(itertools.pairwise(edges)) == flat
    assert all(len(ranges) == partition_batches for ranges in partitions[:-1])
    assert 1 <= len(partitions[-1]) <= partition_batches


def test_a_given_batch_size_is_taken(free_memory):
    assert Grid(100, (30, 30, 30, 10), 2) == plan_grid(100, 8, None, 1, batch_size=30, partition_batches=2)


def test_a_batch_has_at_most_all_rows(free_memory):
    assert plan_grid(7, 8, None, 1, batch_size=10_000, partition_batches=1).batch_rows == (7,)


@pytest.mark.parametrize(("row_bytes", "rows"), [(4000, 12_000), (40, 1_200_000), (1_000_000_000, 1)])
def test_an_automatic_batch_is_about_48_mb(free_memory, row_bytes, rows):
    grid = plan_grid(10_000_000, row_bytes, None, 2)
    assert set(grid.batch_rows[:-1]) == {rows}
    assert sum(grid.batch_rows) == 10_000_000


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
def test_a_batch_is_a_whole_number_of_stored_chunks(free_memory, batch_size, row_chunk, rows):
    grid = plan_grid(100_000, 4000, row_chunk, 1, batch_size=batch_size)
    assert rows == grid.batch_rows[0]
    assert sum(grid.batch_rows) == 100_000


def test_a_stored_chunk_too_large_for_memory_is_read_in_pieces_with_a_warning(free_memory):
    free_memory(4_000_000)  # a quarter over two threads of 100 byte rows: 5,000 rows
    with pytest.warns(LabelsieveWarning, match="a stored chunk of 20,000 rows .* read about 4 times"):
        grid = plan_grid(50_000, 100, 20_000, 2)
    assert grid.batch_rows == (5000,) * 10


@pytest.mark.parametrize("batch_size", ["auto", 1_000_000])
def test_small_stored_chunks_stay_whole_where_memory_is_short(free_memory, batch_size):
    free_memory(4_004_000)  # 5,005 rows: a chunk of 10 is not too large, only the batch is
    grid = plan_grid(50_000, 100, 10, 2, batch_size=batch_size)
    assert set(grid.batch_rows) == {5000}


def test_rows_that_are_stored_apart_need_no_such_warning(free_memory):
    free_memory(4_000_000)
    assert plan_grid(50_000, 100, None, 2, batch_size=20_000).batch_rows == (20_000, 20_000, 10_000)


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


def test_a_given_partition_size_is_taken():
    assert group_size(48_000_000, 10**12, 2, 7) == 7


def test_a_terabyte_is_a_few_thousand_tasks(free_memory):
    grid = plan_grid(250_000_000, 4000, None, 4)
    assert 1000 < len(list(grid.partitions())) < 5000


@pytest.mark.parametrize("good", [1, 10_000, np.int64(3), np.uint8(3), "auto"])
def test_good_sizes_pass(good):
    check_sizes(good, good)


@pytest.mark.parametrize("bad", [0, -1, 2.0, 1.5, None, "big", True, np.float64(2), [3]])
@pytest.mark.parametrize("name", ["batch_size", "partition_batches"])
def test_bad_sizes_are_refused_by_name(name, bad):
    with pytest.raises(InvalidInputError, match=f"{name} must be .*at least 1"):
        check_sizes(**{"batch_size": 1, "partition_batches": 1, name: bad})


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
    few, many = (planned_bytes(n, n_classes, itemsize, 2, settings) for n in (10**6, 10**9))
    assert a_row * (10**9 - 10**6) == many - few


def test_planned_memory_grows_by_thread_and_by_batch_where_batches_are_read_whole():
    one, two, six = (planned_bytes(10**6, 100, 4, n, Settings()) for n in (1, 2, 6))
    assert 0 < two - one < 20_000_000
    assert 5 * (two - one) == six - one
    batch = 40_000_000
    assert 2 * 9 * batch // 4 == planned_bytes(10**6, 100, 4, 2, Settings(), batch_bytes=batch) - two
