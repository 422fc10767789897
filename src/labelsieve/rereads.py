"""The second read of `pred_probs`: adjusted margins, which need every probability and the thresholds at once.

Covers: the map of that read, with summaries in memory and in a workdir.
Does not cover: the first read and what follows (`tasks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.kernels import RowSummary
from labelsieve.memory import BLOCK_ROWS
from labelsieve.partitions import Partition
from labelsieve.scores import Float64s, adjusted_margin
from labelsieve.tasks import Blocks, Finish, Summarised
from labelsieve.workdir import StoredSummary


def score_reread(
    partition: Partition, summarised: Summarised, _labels: Blocks, pred_probs: Blocks, *, finish: Finish
) -> Summarised:
    """Read a partition a second time for its adjusted margins, which need every probability and the thresholds."""
    if not isinstance(summarised.summary, RowSummary):
        raise TypeError("stored summaries are scored by `store_reread`")
    parts = _margins(partition, iter([summarised.summary]), pred_probs, finish.thresholds)
    margins = np.concatenate([np.empty(0, np.float64), *parts])  # a partition may have no rows
    return replace(summarised, summary=replace(summarised.summary, row_values=margins))


def store_reread(partition: Partition, _labels: Blocks, pred_probs: Blocks, *, finish: Finish) -> int:
    """Read a partition a second time and commit its adjusted margins, unless they are; return the rows read."""
    if finish.records is None or finish.scored is None:
        raise RuntimeError("scores are stored where summaries are")
    index, rows = partition.index, (partition.start, partition.stop)
    if finish.scored.committed("scores", index, rows) is not None:
        return 0
    with finish.scored.create("scores", index, rows) as writer:
        summaries = StoredSummary(finish.records, index).blocks(0, partition.n_rows)
        held: list[Float64s] = []
        for margins in _margins(partition, summaries, pred_probs, finish.thresholds):
            held.append(margins)
            if sum(map(len, held)) >= BLOCK_ROWS:
                writer.add({"row_values": np.concatenate(held)})
                held = []
        if held:
            writer.add({"row_values": np.concatenate(held)})
        writer.finish({})
    return partition.n_rows


def _margins(
    partition: Partition, summaries: Iterator[RowSummary], pred_probs: Blocks, thresholds: Float64s
) -> Iterator[Float64s]:
    """Yield the adjusted margins of a partition, strip by strip, with the labels that its summaries hold."""
    labels: npt.NDArray[Any] = np.empty(0, np.int64)
    for strip in partition.prob_strips(pred_probs):
        while len(labels) < len(strip):
            more = next(summaries).labels
            labels = np.concatenate((labels, more)) if len(labels) else more
        yield adjusted_margin(strip, labels[: len(strip)], thresholds)
        labels = labels[len(strip) :]
