"""The grid of a run with a workdir, whose partitions stay the same when the data grows.

A partition has rows of one array: of one shard, or of the only array. So shards that are added, removed or rewritten
change no partition of the others. An array that was appended to keeps its partitions, except those with rows of its
last stored chunk, if that was incomplete: appending rewrites that chunk, so its rows are a partition of their own.

On a large cluster the last rows are in smaller partitions, as without a workdir, where they are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labelsieve.partitioning import Grid, snapped
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
    found, first = list[int](), 0
    tapered = planned.bounds(planned.n_large) if planned.n_large else (planned.n_rows, planned.n_rows)
    for source in opened.arrays:
        # From this row of the array on, partitions are smaller.
        large_rows = min(max(0, tapered[0] - first), source.n_rows)
        sizes = (large_rows, planned.largest_partition), (source.n_rows, tapered[1] - tapered[0])
        stops = _partition_stops(source, sizes, planned.largest_batch, earlier.get(source.where, ()))
        if source.row_edges is not None and source.n_rows:
            stops = list(snapped(stops, source.row_edges))
        found += [first + stop for stop in stops]
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


def _partition_stops(source: Source, sizes: Sequence[tuple[int, int]], batch: int, earlier: Sequence[int]) -> list[int]:
    """Return the rows at which the partitions of one array end.

    `sizes` has rows up to which a new partition has at most so many rows, in ascending order.
    """
    if not source.n_rows:
        return []
    unit = source.version_rows or source.n_rows
    whole = source.n_rows - source.n_rows % unit
    kept = max((stop for stop in earlier if stop <= whole and stop % unit == 0), default=0)
    stops, start = sorted({stop for stop in earlier if 0 < stop <= kept}), kept
    # Partitions of whole batches if these are whole stored chunks, otherwise of whole stored chunks.
    chunk = source.row_chunk or 1
    for limit, rows in sizes:
        whole_unit = chunk if batch % chunk and chunk <= rows else batch
        for last in (min(whole, limit), limit):
            end = last if last in (whole, source.n_rows) else last - (last - start) % whole_unit
            stops += _equal_stops(start, end, rows, whole_unit)
            start = max(start, end)
    return stops


def _equal_stops(start: int, stop: int, rows: int, unit: int) -> list[int]:
    """Return the ends of the fewest pieces of about `rows` rows, of about equal numbers of whole units."""
    if start >= stop:
        return []
    n_pieces = -(-(stop - start) // rows)
    size = -(-(stop - start) // (n_pieces * unit)) * unit
    return [*range(start + size, stop, size), stop]
