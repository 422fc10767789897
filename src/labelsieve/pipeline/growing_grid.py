"""The grid of a run with a workdir, whose partitions stay the same when the data grows.

A partition has rows of one array: of one shard, or of the only array. So shards that are added, removed or rewritten
change no partition of the others. An array that was appended to keeps its partitions, except those with rows of its
last stored chunk, if that was incomplete: appending rewrites that chunk, so its rows are a partition of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labelsieve.partitioning import Grid
from labelsieve.sources.base import Source
from labelsieve.sources.open_array import Opened, where_is


def arrays_of(opened: Opened) -> list[tuple[str, int]]:
    """Return the place and the number of rows of each array that has rows: of each shard, or of the only array."""
    if isinstance(opened, Source):
        return [(array.where, array.n_rows) for array in opened.arrays if array.n_rows]
    return [(where_is(opened), int(opened.shape[0]))]


def growing_grid(opened: Opened, planned: Grid, earlier: Mapping[str, Sequence[int]]) -> Grid:
    """Return a grid for a run with a workdir.

    Parameters
    ----------
    opened : Source or dask.array.Array
        Opened `pred_probs`.
    planned : Grid
        The grid without a workdir, whose batches are kept, and the size of whose partitions new rows get.
    earlier : mapping
        For each place of an array, the rows at which its partitions ended in an earlier run.
    """
    if not isinstance(opened, Source):
        stops = earlier.get(where_is(opened), ())
        return replace(planned, partitions=tuple(stops)) if planned.n_rows in stops[-1:] else planned
    found, first, sizes = list[int](), 0, (planned.largest_partition, planned.largest_batch)
    for source in opened.arrays:
        found += [first + stop for stop in _partition_stops(source, *sizes, earlier.get(source.where, ()))]
        first += source.n_rows
    return replace(planned, partitions=tuple(found))


def partitions_by_array(opened: Opened, grid: Grid) -> dict[str, list[int]]:
    """Return, for each place of an array, the rows at which its partitions end: what `growing_grid` takes later."""
    stops = [grid.bounds(index)[1] for index in range(grid.n_partitions)]
    found, first, index = dict[str, list[int]](), 0, 0
    for place, n_rows in arrays_of(opened):
        last = index
        while last < len(stops) and stops[last] <= first + n_rows:
            last += 1
        found[place] = [stop - first for stop in stops[index:last]]
        first, index = first + n_rows, last
    return found


def _partition_stops(source: Source, rows: int, batch: int, earlier: Sequence[int]) -> list[int]:
    """Return the rows at which the partitions of one array end, of at most `rows` rows if they are new."""
    if not source.n_rows:
        return []
    unit = source.version_rows or source.n_rows
    whole = source.n_rows - source.n_rows % unit
    kept = max((stop for stop in earlier if stop <= whole and stop % unit == 0), default=0)
    # Partitions of whole batches if these are whole stored chunks, otherwise of whole stored chunks.
    chunk = source.row_chunk or 1
    whole_unit = chunk if batch % chunk and chunk <= rows else batch
    return [
        *sorted({stop for stop in earlier if 0 < stop <= kept}),
        *_equal_stops(kept, whole, rows, whole_unit),
        *_equal_stops(whole, source.n_rows, rows, whole_unit),
    ]


def _equal_stops(start: int, stop: int, rows: int, unit: int) -> list[int]:
    """Return the ends of the fewest pieces of at most `rows` rows, of about equal numbers of whole units."""
    if start == stop:
        return []
    n_pieces = -(-(stop - start) // rows)
    size = -(-(stop - start) // (n_pieces * unit)) * unit
    return [*range(start + size, stop, size), stop]
