"""`cleanlab.token_classification.filter`: the tokens whose labels are probably wrong, as pairs."""

from __future__ import annotations

import warnings
from typing import Any

from labelsieve.cleanlab.filter import COMMON, filter_settings
from labelsieve.job.job import Job
from labelsieve.options import Method
from labelsieve.results.units import TokenLayout
from labelsieve.token_classification.find import find_label_issues as find
from labelsieve.token_classification.issues import TokenIssues
from labelsieve.token_classification.rows import join_sentences

__all__ = ["find_label_issues"]


def find_label_issues(
    labels: list[Any],
    pred_probs: list[Any],
    *,
    return_indices_ranked_by: Method = "self_confidence",
    low_memory: bool = False,
    **kwargs: Any,
) -> list[tuple[int, int]]:
    """Return the tokens whose labels are probably wrong, the lowest score first.

    `labelsieve.token_classification.find_label_issues` takes flat arrays and tables in files, ignored labels, names of
    classes, clusters, workdirs and outputs, and its result has scores and tables.

    Parameters
    ----------
    labels : list of list of int
        Class of each token of each sentence, 0..K-1.
    pred_probs : list of (T_i, K) array
        Out-of-sample probabilities.
    return_indices_ranked_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}
        Score by which the issues are sorted.
    low_memory : bool
        Count issues as ``find_label_issues_batched`` does, in one read: by the predicted class. The order is the
        documented one, by score; cleanlab 2.9 sorts by token.
    **kwargs
        Arguments of `labelsieve.cleanlab.filter.find_label_issues`, such as `filter_by` (``"prune_by_noise_rate"`` by
        default). With `low_memory` they are not used, and there is a warning for each.

    Returns
    -------
    list of (sentence, token)
        Issues, the lowest score first, ties by token.

    Raises
    ------
    InvalidInputError
        A ValueError, for bad data: which sentence and token.
    InputTypeError
        A TypeError, for an object that holds no sentences.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.cleanlab.token_classification.filter import find_label_issues
    >>> labels = [[0, 0, 1], [0, 1]]
    >>> pred_probs = [np.array([[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]]), np.array([[0.8, 0.2], [0.8, 0.2]])]
    >>> find_label_issues(labels, pred_probs)
    [(1, 1)]
    """
    if low_memory:
        for name in kwargs:
            warnings.warn(f"`{name}` is not used when `low_memory=True`.", UserWarning, stacklevel=2)
        return list(find(labels, pred_probs, method=return_indices_ranked_by, **COMMON))
    tokens = join_sentences(labels, pred_probs)
    settings = filter_settings(tokens.pred_probs, return_indices_ranked_by=return_indices_ranked_by, **kwargs)
    return list(TokenIssues(Job(tokens.labels, tokens.pred_probs, settings, layout=TokenLayout(tokens.edges)).run()))
