"""The maps and reductions of a run.

Covers: one task a partition for each map, tree reductions, the rounds of the ranking, and where scores stay.
Does not cover: what a task does (`tasks`), the inputs (`engine.inputs`), who runs the tasks (`engine.schedule`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dask.delayed import Delayed

from labelsieve import ranking, tasks
from labelsieve.engine.inputs import Inputs, read_twice
from labelsieve.engine.schedule import compute, map_partitions, persist, token, value
from labelsieve.kernels import class_dtype
from labelsieve.progress import Progress
from labelsieve.reductions import Float64s, adjusted_thresholds
from labelsieve.results import IssueRows
from labelsieve.settings import Settings

if TYPE_CHECKING:
    import dask.array as da

# Partials that one task of a tree reduction folds.
_TREE_WIDTH: Final = 16


def each_partition(inputs: Inputs, function: Callable[..., Any]) -> list[Any]:
    """Return ``function(partition, label_blocks, pred_probs_blocks)`` of every partition, in row order.

    A single partition is worked on here and now: a graph would only add to the time of a small batch.
    """
    partitions = inputs.partitions()
    if len(partitions) == 1 and inputs.labels_source and inputs.pred_probs_source:
        return [function(partitions[0])]
    functions = [partial(function, partition) for partition in partitions]
    return list(compute(*map_partitions(f"inspect-{token()}", functions, *inputs.blocks())))


class Run:
    """One job: the maps and reductions over the partitions of `inputs`.

    Parameters
    ----------
    inputs : Inputs
        What to read.
    settings : Settings
        What to find.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    """

    def __init__(self, inputs: Inputs, settings: Settings, progress: bool | None = None) -> None:
        self.settings, self._show, self._token = settings, progress, token()
        self.inputs = read_twice(inputs) if settings.scores_need_reread else inputs
        self.partitions = inputs.partitions()
        self._rows = [partition.n_rows for partition in self.partitions]
        self._summaries: list[Delayed] = []

    def read(self) -> tasks.Partial:
        """Summarise every partition, once, and return the class sums and findings of all."""
        read = [partial(tasks.summarise, partition, settings=self.settings) for partition in self.partitions]
        summarised = self._map("summarise", read, *self.inputs.blocks())
        total = self._tree("class-sums", tasks.combine_partials, self._each("class-sums", tasks.partial_of, summarised))
        with self.reading():
            # Only summaries stay: the sums of a partition are let go as soon as the tree has taken them.
            *self._summaries, total = persist(*self._each("summary", tasks.summary_of, summarised), total)
            result: tasks.Partial = value(total)
        return result

    def reading(self) -> Progress:
        """Return the bar of the pass that reads."""
        return self._progress("summarise", "rows read")

    def adopt(self, summarised: Sequence[tasks.Summarised]) -> tasks.Partial:
        """Take in what was read elsewhere, a summary for each partition."""
        keys = (self._key("summary", i) for i in range(len(summarised)))
        self._summaries = [Delayed(key, {key: part.summary}) for key, part in zip(keys, summarised, strict=True)]
        return tasks.combine_partials(part.partial for part in summarised)

    def score(self, thresholds: Float64s) -> None:
        """Finish the scores that need the thresholds first, reading again only for adjusted margins."""
        if not self.settings.adjust_pred_probs:
            return
        if self.settings.scores_need_reread:
            again = [partial(tasks.score_reread, partition, thresholds=thresholds) for partition in self.partitions]
            scored = self._map("score", again, self._summaries, self.inputs.blocks()[1])
        else:
            scored = self._each("score", partial(tasks.score_adjusted, thresholds=thresholds), self._summaries)
        with self._progress("score", "rows scored"):
            self._summaries = persist(*scored)

    def count(self, thresholds: Float64s) -> tasks.Counted:
        """Return the issue counts and the histogram of all scores."""
        chunk = partial(
            tasks.count, adj_thresholds=adjusted_thresholds(thresholds), calibrated=self.settings.calibrated
        )
        counted = self._each("issue-counts", chunk, self._summaries)
        with self._progress("issue-counts", "rows checked"):
            total: tasks.Counted = value(self._tree("issue-counts", tasks.combine_counted, counted))
        return total

    def select(self, histogram: ranking.Int64s, wanted: int) -> IssueRows:
        """Return the `wanted` lowest rows, by (score, row), without those whose label is predicted or nearly so."""
        wanted = min(wanted, self.inputs.grid.n_rows)
        if wanted < 1:
            return IssueRows.none(self._wide_dtype(), class_dtype(self.inputs.n_classes), self.inputs.dtype)
        cut = ranking.find_cut(histogram, wanted, 8 * self._score_dtype().itemsize, self._histogram_within)
        quotas: list[int | None] = [None] * len(self.partitions)
        if not cut.shift and cut.inside > wanted - cut.below:
            ties = compute(*self._each("ties", partial(tasks.count_inside, cut=cut), self._summaries))
            quotas = list(ranking.tie_quotas(ties, wanted - cut.below))
        chunks = [
            partial(tasks.select, cut=cut, quota=quota, first_row=partition.start)
            for quota, partition in zip(quotas, self.partitions, strict=True)
        ]
        with self._progress("select", "rows ranked"):
            return tasks.rank(compute(*self._map("select", chunks, self._summaries)), wanted)

    def scores(self) -> ScoreParts:
        """Return the scores of all rows, a part a partition; no other column is kept."""
        parts = persist(*self._each("scores", tasks.wide_scores_of, self._summaries))
        return ScoreParts(parts, self._rows, self._wide_dtype())

    def _score_dtype(self) -> np.dtype[Any]:
        return self.inputs.dtype if self.settings.plain_self_confidence else np.dtype(np.float64)

    def _wide_dtype(self) -> np.dtype[Any]:
        wide: np.dtype[Any] = np.promote_types(self._score_dtype(), np.float32)
        return wide

    def _histogram_within(self, cut: ranking.Cut) -> ranking.Int64s:
        histograms = self._each("histogram", partial(tasks.histogram_within, cut=cut), self._summaries)
        total: ranking.Int64s = value(self._tree("histogram", tasks.add_up, histograms))
        return total

    def _map(self, layer: str, functions: Sequence[Callable[..., Any]], *columns: Sequence[Any]) -> list[Delayed]:
        return map_partitions(f"{layer}-{self._token}", functions, *columns)

    def _each(self, layer: str, function: Callable[..., Any], column: Sequence[Delayed]) -> list[Delayed]:
        return self._map(layer, [function] * len(column), column)

    def _tree(self, layer: str, combine: Callable[[Iterable[Any]], Any], parts: Sequence[Delayed]) -> Delayed:
        """Fold `parts` in order, `_TREE_WIDTH` at a time."""
        level = 0
        while len(parts) > 1 or not level:
            groups = [parts[i : i + _TREE_WIDTH] for i in range(0, len(parts), _TREE_WIDTH)]
            parts = self._each(f"{layer}-combine-{level}", combine, groups)
            level += 1
        return parts[0]

    def _key(self, layer: str, index: int) -> tuple[str, int]:
        return f"{layer}-{self._token}", index

    def _progress(self, layer: str, description: str) -> Progress:
        return Progress(self._key(layer, 0)[0], self._rows, description, show=self._show)


@dataclass(frozen=True)
class ScoreParts:
    """Scores of all rows as one task a partition.

    Parameters
    ----------
    parts : list of Delayed
        ``(n,)`` scores of each partition.
    rows : list of int
        Rows of each.
    dtype : dtype
        Of all.
    """

    parts: Sequence[Delayed]
    rows: Sequence[int]
    dtype: np.dtype[Any]

    def to_numpy(self) -> ranking.Scores:
        """Return them as ``(N,)`` in memory."""
        return np.concatenate(compute(*self.parts))

    def to_dask(self) -> da.Array:
        """Return them as a lazy ``(N,)`` Dask array."""
        import dask.array as da

        pairs = zip(self.parts, self.rows, strict=True)
        return da.concatenate([da.from_delayed(part, (n,), dtype=self.dtype) for part, n in pairs])
