"""How rows are cut with a workdir: partitions stay when data grows, and none has rows of two arrays."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.job.grid import Grid, arrays_of, growing_grid, partitions_by_array
from labelsieve.sources.composite import ShardsSource
from labelsieve.sources.source import ReadFacts, Source


class Described(Source):
    """An array that is only described."""

    def __init__(self, place, n_rows, row_chunk=None, version_rows=None):
        super().__init__((n_rows, 3), np.dtype("f8"), ReadFacts(row_chunk))
        self._place, self._version_rows = place, version_rows

    @property
    def where(self):
        return self._place

    @property
    def version_rows(self):
        return self._version_rows

    def open(self, start=0, stop=None):
        pytest.fail("it was read")


def shards(lengths, row_chunk=None):
    return ShardsSource([Described(f"p-{i}", n, row_chunk) for i, n in lengths.items()], "p-*")


def planned(n_rows, batch, partition_batches):
    return Grid.grouped(n_rows, batch, partition_batches)


lengths = st.dictionaries(st.integers(0, 9), st.integers(0, 70), min_size=1).filter(lambda of: sum(of.values()))
cuts = st.tuples(st.integers(1, 30), st.integers(1, 4))


@given(lengths, lengths, cuts, cuts)
def test_shards_keep_their_partitions_whatever_is_added_or_removed(then, now, cut, later_cut):
    before, after = shards(then), shards(now)
    grid = growing_grid(before, planned(before.n_rows, *cut), {})
    kept = partitions_by_array(before, grid)
    assert list(kept) == [place for place, _ in arrays_of(before)]
    assert growing_grid(before, planned(before.n_rows, *later_cut), kept).partitions == grid.partitions
    grown = growing_grid(after, planned(after.n_rows, *later_cut), kept)
    assert sum(grown.partition_rows) == after.n_rows
    ends = partitions_by_array(after, grown)
    for place, n_rows in arrays_of(after):
        assert ends[place][-1] == n_rows
        if place in kept and kept[place][-1] == n_rows:
            assert ends[place] == kept[place]
        else:
            assert max(np.diff([0, *ends[place]])) <= later_cut[0] * later_cut[1]
    edges = {0, *itertools.accumulate(now.values())}
    assert edges <= {0, *grown.partitions}, "every shard ends a partition"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(1, 40), cuts, cuts)
def test_an_array_that_grows_keeps_all_but_its_last_stored_chunk(growth, chunk, cut, later_cut):
    kept, n_rows, whole = {}, 0, 0
    for number, more in enumerate(growth):
        n_rows += more
        source = Described("p", n_rows, chunk, chunk)
        grid = growing_grid(source, planned(n_rows, *(cut if number == 0 else later_cut)), kept)
        ends = partitions_by_array(source, grid)["p"]
        before = [stop for stop in kept.get("p", ()) if stop <= whole]
        assert ends[: len(before)] == before
        whole = n_rows - n_rows % chunk
        assert whole in (0, *ends), "what appending rewrites is cut from the rest"
        assert ends == sorted(set(ends))
        assert ends[-1] == n_rows
        kept = {"p": ends}


@given(st.integers(1, 500), st.integers(1, 30), st.integers(1, 12), st.integers(1, 20))
def test_new_partitions_are_of_equal_numbers_of_batches(n_rows, batch, partition_batches, chunk):
    batch *= chunk
    source = Described("p", n_rows, chunk, None)
    grid = growing_grid(source, planned(n_rows, batch, partition_batches), {})
    assert grid.n_partitions <= -(-n_rows // (batch * partition_batches))
    assert all(rows % chunk == 0 for rows in grid.partition_rows[:-1])
    assert len(set(grid.partition_rows[:-1])) <= 1
    assert max(grid.partition_rows) <= max(batch * partition_batches, n_rows if grid.n_partitions == 1 else 0)


def test_a_shard_whose_chunks_fit_no_batch_is_cut_between_its_own_chunks():
    both = ShardsSource([Described("a", 300, 100), Described("b", 300, 70)], "p-*")
    grid = growing_grid(both, planned(600, 100, 2), {})
    assert partitions_by_array(both, grid) == {"a": [200, 300], "b": [210, 300]}
    assert all(stop % 70 == 0 for stop in partitions_by_array(both, grid)["b"][:-1])


def test_the_last_new_rows_of_a_large_cluster_are_in_smaller_partitions():
    tapered = Grid.tapered(120_000, 10, 30)
    for source in (Described("p", 120_000, 10, 10), shards(dict.fromkeys(range(12), 10_000), 10)):
        grid = growing_grid(source, tapered, {})
        rows = grid.partition_rows
        assert sum(rows) == 120_000
        assert max(rows) <= 300
        assert max(rows[grid.n_large :]) <= 100
        assert sum(rows[: grid.n_large]) == pytest.approx(90_000, rel=0.02)
        kept = partitions_by_array(source, grid)
        assert growing_grid(source, Grid.grouped(120_000, 10, 7), kept).partitions == grid.partitions
