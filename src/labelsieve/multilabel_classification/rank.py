"""Label quality scores of examples and their tags: ``cleanlab.multilabel_classification.rank`` (2.9), out of core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import raise_or_warn
from labelsieve.confident_learning.scores import Aggregator, Settings, adjusted_tag_scores, aggregator
from labelsieve.confident_learning.select import scores_of
from labelsieve.confident_learning.summarize import ScanTotals, combine_totals
from labelsieve.confident_learning.thresholds import Float64s, SummaryBlock, class_sums_finalize
from labelsieve.errors import InputTypeError
from labelsieve.job.grid import Grid
from labelsieve.job.inputs import map_partitions, open_inputs
from labelsieve.job.scan import Block, Partition, read_rows
from labelsieve.multilabel_classification.rows import OpenTags, open_tags
from labelsieve.options import Method
from labelsieve.results.units import TagLayout
from labelsieve.sources.objects import RETRIES, retry

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
    raise_or_warn(combine_totals(totals for _, totals in parts).findings.placed(layout.in_words), inputs.n_classes)
    return np.concatenate([scores for scores, _ in parts])


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
) -> tuple[Float64s, ScanTotals]:
    """Return the scores of a partition, which has whole examples, and what reading it found."""
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
    return out, totals


def _of_whole_examples(grid: Grid, n_tags: int) -> Grid:
    """Return a grid like `grid` whose partitions end with an example."""
    stops = {-(-grid.bounds(index)[1] // n_tags) * n_tags for index in range(grid.n_partitions)}
    return Grid(grid.n_rows, grid.largest_batch, tuple(sorted(stops)))


__all__ = ["get_label_quality_scores", "get_label_quality_scores_per_class"]

MOVING_AVERAGE: Final[Mapping[str, Any]] = MappingProxyType({"method": "exponential_moving_average", "alpha": 0.8})


def get_label_quality_scores(
    labels: Any,
    pred_probs: Any,
    *,
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    aggregator_kwargs: Mapping[str, Any] = MOVING_AVERAGE,
) -> npt.NDArray[np.float64]:
    """Return a label quality score of each example: the lower, the less likely are all of its tags right.

    Parameters
    ----------
    labels, pred_probs
        As in `labelsieve.multilabel_classification.find_label_issues`: in memory or on disk. `pred_probs` is read once,
        and twice with `adjust_pred_probs`.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        The score of each tag, which is that of two classes.
    adjust_pred_probs : bool
        Whether to subtract the confident thresholds of each tag from its two probabilities first; not with entropy.
    aggregator_kwargs : dict, optional
        How scores of tags become one: ``{"method": "exponential_moving_average", "alpha": 0.8}`` by default, over the
        scores from the highest to the lowest; ``{"method": "softmin", "temperature": 0.1}``; or with a callable as
        method, which takes ``(n, K)`` scores and ``axis=1``, such as `numpy.min`.

    Returns
    -------
    (N,) float64
        Scores from 0 to 1.

    Raises
    ------
    InvalidInputError, InputTypeError
        For bad labels and probabilities, which are named, and for unknown methods.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.rank import get_label_quality_scores
    >>> pred_probs = np.array([[0.1, 0.9, 0.1], [0.4, 0.1, 0.9]])
    >>> get_label_quality_scores([[1], [0, 2]], pred_probs)
    array([0.9, 0.5])
    >>> get_label_quality_scores([[1], [0, 2]], pred_probs, aggregator_kwargs={"method": np.min})
    array([0.9, 0.4])
    """
    kwargs = aggregator_kwargs or MOVING_AVERAGE
    if not isinstance(kwargs, Mapping):
        raise InputTypeError(f"aggregator_kwargs must be a dict, not {type(kwargs).__name__}")
    if kwargs.get("method") == "exponential_moving_average":
        kwargs = {"alpha": None} | dict(kwargs)  # cleanlab's own default, where a method is given without
    tags = retry(RETRIES + 1, open_tags, labels, pred_probs)
    return score_tags(tags, method, aggregator(**kwargs), adjust_pred_probs=adjust_pred_probs)


def get_label_quality_scores_per_class(
    labels: Any, pred_probs: Any, *, method: Method = "self_confidence", adjust_pred_probs: bool = False
) -> npt.NDArray[np.float64]:
    """Return a label quality score of each tag of each example.

    Parameters
    ----------
    labels, pred_probs, method, adjust_pred_probs
        As in `get_label_quality_scores`.

    Returns
    -------
    (N, K) float64
        Scores from 0 to 1.

    Raises
    ------
    InvalidInputError, InputTypeError
        As by `get_label_quality_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.rank import get_label_quality_scores_per_class
    >>> get_label_quality_scores_per_class([[1], [0, 2]], np.array([[0.1, 0.9, 0.1], [0.4, 0.1, 0.9]]))
    array([[0.9, 0.9, 0.9],
           [0.4, 0.9, 0.9]])
    """
    tags = retry(RETRIES + 1, open_tags, labels, pred_probs)
    return score_tags(tags, method, None, adjust_pred_probs=adjust_pred_probs)
