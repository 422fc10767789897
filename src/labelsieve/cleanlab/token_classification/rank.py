"""`cleanlab.token_classification.rank`: label quality scores of sentences and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from labelsieve.cleanlab.filter import COMMON, AssertedInputError
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.options import Method
from labelsieve.results.units import ends
from labelsieve.token_classification import rank
from labelsieve.token_classification.issues import (
    SENTENCE_SCORES,
    TEMPERATURE,
    SentenceScoreMethod,
    scores_of_sentences,
)
from labelsieve.token_classification.rank import as_series, issues_from_scores

__all__ = ["get_label_quality_scores", "issues_from_scores"]


def get_label_quality_scores(
    labels: list[Any],
    pred_probs: list[Any],
    *,
    tokens: list[Any] | None = None,
    token_score_method: Method = "self_confidence",  # noqa: S107  # tokens are words
    sentence_score_method: SentenceScoreMethod = "min",
    sentence_score_kwargs: dict[str, Any] = {},  # noqa: B006  # as in cleanlab, and only read
) -> tuple[Float64s, list[Any]]:
    """Return the label quality scores of all sentences and of their tokens.

    `labelsieve.token_classification.rank.get_label_quality_scores` takes flat arrays and files too, and returns arrays,
    which are faster to make than a Series for each sentence.

    Parameters
    ----------
    labels : list of list of int
        Class of each token of each sentence, 0..K-1.
    pred_probs : list of (T_i, K) array
        Out-of-sample probabilities.
    tokens : list of list of str, optional
        The words of each sentence, which become the index of its scores.
    token_score_method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy"}
        Score of a token.
    sentence_score_method : {"min", "softmin"}
        Score of a sentence: the lowest score of its tokens, or their soft minimum.
    sentence_score_kwargs : dict
        ``temperature`` of the soft minimum, 0.05 by default.

    Returns
    -------
    sentence_scores : (N,) float64
        NaN for a sentence without tokens.
    token_scores : list of pandas.Series
        Scores of the tokens of each sentence.

    Raises
    ------
    AssertedInputError
        An AssertionError, for another score of sentences.
    InvalidInputError
        A ValueError, for bad data: which sentence and token.

    Examples
    --------
    >>> import numpy as np
    >>> labels = [[0, 0, 1], [0, 1]]
    >>> pred_probs = [np.array([[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]]), np.array([[0.8, 0.2], [0.8, 0.2]])]
    >>> sentence_scores, token_scores = get_label_quality_scores(labels, pred_probs)
    >>> sentence_scores, token_scores[1].tolist()
    (array([0.7, 0.2]), [0.8, 0.2])
    """
    if sentence_score_method not in SENTENCE_SCORES:
        raise AssertedInputError("\n".join(["Select from the following methods:", *SENTENCE_SCORES]))
    temperature = sentence_score_kwargs.get("temperature", TEMPERATURE)
    sentence_scores, token_scores = rank.get_label_quality_scores(
        labels,
        pred_probs,
        tokens=tokens or None,
        token_score_method=token_score_method,
        sentence_score_method=sentence_score_method,
        sentence_score_kwargs={"temperature": temperature},
        **COMMON,
    )
    if not tokens:
        token_scores = [as_series(scores) for scores in token_scores]
    return sentence_scores, token_scores


def _softmin_sentence_score(token_scores: list[Any], *, temperature: float = TEMPERATURE) -> Float64s:
    """Return the soft minimum of the scores of each sentence; tests of cleanlab call it."""
    edges = ends(np.array([len(scores) for scores in token_scores]))
    flat = np.concatenate([np.asarray(scores, np.float64) for scores in token_scores])
    return scores_of_sentences(flat, edges, "softmin", temperature)
