"""Label quality scores of tags and of examples, out of core."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s
from labelsieve.confident_learning.selections import scores_of
from labelsieve.confident_learning.summarizer import ScanTotals, combine_totals
from labelsieve.confident_learning.summary_block import SummaryBlock
from labelsieve.confident_learning.tag_scores import Aggregator, adjusted_tag_scores
from labelsieve.confident_learning.thresholds import class_sums_finalize
from labelsieve.confident_learning.validation import raise_or_warn
from labelsieve.partitioning import Grid
from labelsieve.pipeline.inputs import map_partitions
from labelsieve.pipeline.opening import open_inputs
from labelsieve.results.layouts import TagLayout
from labelsieve.settings import Method, Settings
from labelsieve.sources.open_tags import OpenTags
from labelsieve.tasks.partition import Block, Partition
from labelsieve.tasks.scan import read_rows

# Rows whose summaries a task holds; their scores are combined as they are read.
_HELD_ROWS: Final = 1 << 15


def score_tags(
    tags: OpenTags, method: Method, combine: Aggregator | None, *, adjust_pred_probs: bool = False
) -> Float64s:
    """Return the scores of all examples, or of all tags, in one read; in two if probabilities are adjusted.

    Parameters
    ----------
    tags : OpenTags
        Both inputs.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        The score of a tag.
    combine : callable or None
        Makes ``(n,)`` scores of examples from ``(n, K)`` scores of tags; None returns the latter.
    adjust_pred_probs : bool
        Whether to subtract the thresholds of each tag from its two probabilities first.

    Returns
    -------
    (N,) or (N, K) float64
        The scores.

    Raises
    ------
    InvalidInputError
        For values that are no probabilities: which example and which tag.
    """
    settings, layout = Settings(method, adjust_pred_probs), TagLayout(tags.n_examples, tags.n_tags)
    inputs = open_inputs(tags.labels, tags.pred_probs)
    inputs = replace(inputs, grid=_of_whole_examples(inputs.grid, tags.n_tags)).read_labels()
    plain = Settings(method) if not adjust_pred_probs else Settings()
    thresholds = None
    if adjust_pred_probs:
        totals = combine_totals(map_partitions(inputs, _class_sums))
        raise_or_warn(totals.findings.placed(layout.in_words), inputs.n_classes)
        thresholds = class_sums_finalize(totals.sums.dense())
    work = partial(_scores, plain=plain, settings=settings, thresholds=thresholds, n_tags=tags.n_tags, combine=combine)
    parts = map_partitions(inputs, work)
    findings = combine_totals([part.totals for part in parts]).findings
    raise_or_warn(findings.placed(layout.in_words), inputs.n_classes)
    return np.concatenate([part.scores for part in parts])


@dataclass(frozen=True)
class _PartScores:
    """Scores of a partition.

    Parameters
    ----------
    scores : (n,) or (n, K) float64
        Scores.
    totals : ScanTotals
        What reading found.
    """

    scores: Float64s
    totals: ScanTotals


def _class_sums(partition: Partition) -> ScanTotals:
    return read_rows(partition, Settings(), None, _HELD_ROWS)[1]


def _scores(
    partition: Partition,
    *,
    plain: Settings,
    settings: Settings,
    thresholds: Float64s | None,
    n_tags: int,
    combine: Aggregator | None,
) -> _PartScores:
    """Return the scores of a partition, which has whole examples."""
    out = np.empty((partition.n_rows // n_tags, n_tags) if combine is None else partition.n_rows // n_tags)
    held, done = np.empty(0), 0

    def add(summary: SummaryBlock, probs: Block) -> None:
        nonlocal held, done
        if thresholds is None:
            scores = scores_of(summary).astype(np.float64)
        else:
            scores = adjusted_tag_scores(summary.label, probs, thresholds, settings.method)
        scores = np.concatenate([held, scores]) if len(held) else scores
        n_whole = len(scores) // n_tags
        whole: npt.NDArray[np.float64] = scores[: n_whole * n_tags].reshape(n_whole, n_tags)
        if n_whole:
            out[done : done + n_whole] = whole if combine is None else combine(whole)
        held, done = scores[n_whole * n_tags :], done + n_whole

    _, totals = read_rows(partition, plain, None, _HELD_ROWS, inspect=add)
    return _PartScores(out, totals)


def _of_whole_examples(grid: Grid, n_tags: int) -> Grid:
    """Return a grid like `grid` whose partitions end with an example."""
    stops = {-(-grid.bounds(index)[1] // n_tags) * n_tags for index in range(grid.n_partitions)}
    return Grid(grid.n_rows, grid.largest_batch, tuple(sorted(stops)))
