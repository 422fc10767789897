"""Error messages for unknown keyword arguments that say what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from labelsieve.errors import InputTypeError

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Arguments of cleanlab that `labelsieve.find_label_issues` does not have, and what replaces each.
FOR_FINDING: Final = {
    "return_indices_ranked_by": "the result's .indices are already ranked, by method=..., or by rank_by=... with "
    "filter_by",
    "rank_by_kwargs": "give adjust_pred_probs=True as an argument of its own",
    "quality_score_kwargs": "give method=... and adjust_pred_probs=... as arguments of their own",
    "num_issue_kwargs": "give estimation_method=... and rule=... as arguments of their own",
    "return_mask": "the result has .mask(), and .indices",
    "verbose": "use progress=True or progress=False",
    "labels_file": "labels=... takes a path as well as an array",
    "pred_probs_file": "pred_probs=... takes a path as well as an array",
    "confident_joint": "leave it out: the confident joint is always counted from labels and pred_probs; "
    "labelsieve.count and labelsieve.cleanlab.filter take one",
    "thresholds": "leave it out: the thresholds are always computed from labels and pred_probs",
    "multi_label": "for rows with several labels call labelsieve.multilabel_classification.find_label_issues",
}
# The same for `labelsieve.count`.
FOR_COUNTING: Final = {
    "thresholds": FOR_FINDING["thresholds"],
    "return_indices_of_off_diagonals": "labelsieve.find_label_issues(..., filter_by='confident_learning').indices are "
    "these rows",
    "verbose": FOR_FINDING["verbose"],
    "multi_label": "labelsieve.cleanlab.count counts rows with several labels",
}


def explain_keywords(
    known: Mapping[str, str], options: Iterable[str] = ()
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator that raises for unknown keyword arguments and says what to write instead.

    Parameters
    ----------
    known : mapping of str
        Arguments of cleanlab, with what replaces each.
    options : iterable of str
        Arguments that the function takes through ``**options``.

    Raises
    ------
    InputTypeError
        A TypeError, when the function is called with an unknown keyword argument.

    Examples
    --------
    >>> @explain_keywords({"verbose": "use progress=False"})
    ... def find(labels, *, batch_size=1, progress=None):
    ...     return batch_size
    >>> find([0], batch_size=3)
    3
    >>> find([0], verbose=True)
    Traceback (most recent call last):
    labelsieve.errors.InputTypeError: find() has no argument 'verbose': use progress=False
    >>> find([0], batchsize=3)
    Traceback (most recent call last):
    labelsieve.errors.InputTypeError: find() has no argument 'batchsize': did you mean 'batch_size'?
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        parameters = inspect.signature(function).parameters.values()
        named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        allowed = dict.fromkeys([name for name in named if name != "self"] + list(options))
        # For a class, the name that the user has called.
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            _check_keywords(name, kwargs, known, allowed)
            return function(*args, **kwargs)

        return call

    return decorate


def _check_keywords(
    function: str, given: Mapping[str, object], known: Mapping[str, str], allowed: Mapping[str, object]
) -> None:
    if not given.keys() <= allowed.keys():
        unknown = [keyword for keyword in given if keyword not in allowed]
        raise InputTypeError("; ".join(_sentence(function, keyword, known, list(allowed)) for keyword in unknown))


def _sentence(function: str, keyword: str, known: Mapping[str, str], allowed: list[str]) -> str:
    text = f"{function}() has no argument {keyword!r}: "
    if keyword in known:
        return text + known[keyword]
    close = get_close_matches(keyword.lower(), allowed, 1)
    return text + (f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(allowed)}")
