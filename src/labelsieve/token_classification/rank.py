"""Scores of sentences and tokens, and issues from scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InputTypeError, MissingDependencyError
from labelsieve.options import FOR_FINDING, Method, explain_keywords
from labelsieve.results.units import ends
from labelsieve.token_classification.find import TASK, find_label_issues
from labelsieve.token_classification.issues import TEMPERATURE, SentenceScoreMethod, Words

__all__ = ["get_label_quality_scores", "issues_from_scores"]


@explain_keywords(
    FOR_FINDING | TASK.without | {"method": "give token_score_method=..."},
    [name for name in TASK.all_options if name != "method"],
)
def get_label_quality_scores(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    tokens: Any = None,
    token_score_method: Method = "self_confidence",  # noqa: S107  # tokens are words
    sentence_score_method: SentenceScoreMethod = "min",
    sentence_score_kwargs: Mapping[str, float] | None = None,
    offsets: Any = None,
    sentence_ids: Any = None,
    **settings: Any,
) -> tuple[Float64s, list[Any]]:
    """Return the label quality scores of all sentences and of their tokens, in one read of `pred_probs`.

    Parameters
    ----------
    labels, pred_probs, offsets, sentence_ids
        As in `labelsieve.token_classification.find_label_issues`.
    tokens : sequence of sequence of str, optional
        The words of each sentence, or of all tokens.
    token_score_method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        Score of a token: see `labelsieve.find_label_issues`.
    sentence_score_method : {"min", "softmin"}
        Score of a sentence: the lowest score of its tokens, or their mean with weights that grow as scores fall.
    sentence_score_kwargs : mapping, optional
        Of ``"softmin"``: ``temperature``, 0.05 by default.
    **settings
        Keyword arguments of `labelsieve.find_label_issues`, such as `from_logits` or `ignore_label`.

    Returns
    -------
    sentence_scores : (n_sentences,) float64
        NaN for a sentence without a token that has a label.
    token_scores : list of (T_i,) arrays
        The scores of the tokens of each sentence; with `tokens` as pandas Series whose index has the words.

    Raises
    ------
    LabelsieveError
        As `labelsieve.token_classification.find_label_issues`.
    MissingDependencyError
        With `tokens`, without pandas.

    Examples
    --------
    >>> import numpy as np
    >>> labels = [[0, 0, 1], [0, 1]]
    >>> pred_probs = [np.array([[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]]), np.array([[0.8, 0.2], [0.8, 0.2]])]
    >>> get_label_quality_scores(labels, pred_probs)
    (array([0.7, 0.2]), [array([0.9 , 0.7 , 0.95]), array([0.8, 0.2])])
    """
    further = dict(sentence_score_kwargs or {})
    temperature = further.pop("temperature", TEMPERATURE)
    if further:
        raise InputTypeError(f"sentence_score_kwargs has temperature, not {', '.join(map(repr, further))}")
    found = find_label_issues(
        labels, pred_probs, offsets=offsets, sentence_ids=sentence_ids, method=token_score_method, **settings
    )
    sentence_scores = found.sentence_scores(sentence_score_method, temperature=temperature)
    token_scores: list[Any] = found.token_scores()
    if tokens is not None:
        words = Words(tokens, found.edges)
        token_scores = [as_series(scores, words.of(sentence)) for sentence, scores in enumerate(token_scores)]
    return sentence_scores, token_scores


def as_series(scores: npt.NDArray[Any], index: Sequence[str] | None = None) -> Any:
    """Return scores as a pandas Series."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("A Series of pandas", "frame") from error
    return pd.Series(scores, index=index)


def issues_from_scores(
    sentence_scores: npt.ArrayLike, *, token_scores: Sequence[Any] | None = None, threshold: float = 0.1
) -> list[tuple[int, int]] | npt.NDArray[np.int64]:
    """Return the tokens or sentences whose score is below a threshold, the lowest score first.

    Parameters
    ----------
    sentence_scores : (n_sentences,) array-like of float
        Scores of sentences, as `get_label_quality_scores` returns them.
    token_scores : sequence of (T_i,) array-like, optional
        Scores of the tokens of each sentence.
    threshold : float
        Scores must be lower.

    Returns
    -------
    list of (sentence, token), or (M,) int64
        Tokens if `token_scores` are given, else numbers of sentences. Ties are in the order of the sentences and
        tokens; NaN is never below.

    Examples
    --------
    >>> issues_from_scores([0.2, 0.05, 0.01])
    array([2, 1])
    >>> issues_from_scores([0.2, 0.05], token_scores=[[0.2, 0.9], [0.7, 0.05]])
    [(1, 1)]
    """
    if not token_scores:
        scores = np.asarray(sentence_scores, np.float64)
        below = np.flatnonzero(scores < threshold)
        sentences: npt.NDArray[np.int64] = below[np.argsort(scores[below], kind="stable")]
        return sentences
    edges = ends(np.array([len(one) for one in token_scores]))
    scores = np.concatenate([np.asarray(one, np.float64) for one in token_scores])
    below = np.flatnonzero(scores < threshold)
    rows = below[np.argsort(scores[below], kind="stable")]
    found = np.searchsorted(edges, rows, "right") - 1
    return list(zip(found.tolist(), (rows - edges[found]).tolist(), strict=True))
