"""Error messages for unknown keyword arguments that say what to write instead."""

from __future__ import annotations

import contextlib
import enum
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from numbers import Real
from typing import Any, Final, Literal, ParamSpec, SupportsIndex, TypeAlias, TypeVar, get_args

from labelsieve.errors import InputTypeError, InvalidInputError

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


# Each list of names is written once, as a type, so that editors and type checkers find misspelt names.
Method: TypeAlias = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"]
EstimationMethod: TypeAlias = Literal["off_diagonal", "off_diagonal_calibrated"]
# The class that a row is counted as: the predicted class, or its class in the confident joint.
Rule: TypeAlias = Literal["predicted_class", "confident_joint"]
FilterName: TypeAlias = Literal[
    "prune_by_class",
    "prune_by_noise_rate",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
ESTIMATION_METHODS: Final[tuple[EstimationMethod, ...]] = get_args(EstimationMethod)
RULES: Final[tuple[Rule, ...]] = get_args(Rule)
# What a label belongs to: a row, a pixel of a mask, a token of a sentence, one of the tags of an example.
TASKS: Final = ("classification", "segmentation", "tokens", "tags")
# What becomes of rows whose decision is unsure, and of rows about which reviewers differ.
UNSURE_RULES: Final = ("keep", "drop", "ignore")
CONFLICT_RULES: Final = ("error", "keep", "last")
FILTER_NAMES: Final[tuple[FilterName, ...]] = get_args(FilterName)

# The tolerances of confident learning as cleanlab defines them (cleanlab/internal/constants.py, 2.9).
FLOAT_TOLERANCE: Final = 1e-6
MIN_THRESHOLD: Final = 2e-6
# The threshold of a class without labelled rows, which no probability reaches.
ABSENT_THRESHOLD: Final = 2.0
# How far outside [0, 1] a probability may lie; published predictions have 1.00001.
PROBABILITY_TOLERANCE: Final = 1e-3


class Nothing(enum.Enum):
    """The default of `ignore_label`: no row is left out. None is a choice of its own, that of missing values."""

    NOTHING = "nothing"

    def __repr__(self) -> str:
        return "<nothing>"


NOTHING: Final = Nothing.NOTHING
# What stands for "no label": an integer, a name, or None for missing values.
IgnoreLabel: TypeAlias = int | str | Nothing | None


def batched_choices(
    quality_score_kwargs: Mapping[str, Any] | None, num_issue_kwargs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings in the two keyword dictionaries of cleanlab's batched API."""
    quality = _only("quality_score_kwargs", quality_score_kwargs, ("method", "adjust_pred_probs"))
    return quality | _only("num_issue_kwargs", num_issue_kwargs, ("estimation_method", "rule"))


def check_flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {value!r}")


def check_whole_number(name: str, value: object, at_least: int, otherwise: str = "") -> int:
    """Return `value` as an int, or raise; `otherwise` is what else is allowed, for the message."""
    number = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError):  # arrays have the method too, and may be of anything
            number = operator.index(value)
    if number is None or number < at_least:
        raise InvalidInputError(f"{name} must be {otherwise}a whole number of at least {at_least}, not {value!r}")
    return number


def check_ignore_label(value: object) -> IgnoreLabel:
    """Return an `ignore_label` as an int, text, None or `NOTHING`; NaN is None.

    Raises
    ------
    InvalidInputError
        For anything else.
    """
    if value is None or value is NOTHING or (isinstance(value, str) and value):
        return value
    if isinstance(value, Real) and not isinstance(value, SupportsIndex) and math.isnan(value):
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InvalidInputError(
            f"ignore_label must be one label, a whole number or a name, or None for missing values; not {value!r}"
        )
    return int(value)


def check_ignored_number(value: object) -> int | None:
    """Return the `ignore_label` of a batch as an int; None if each row has a label.

    Raises
    ------
    InvalidInputError
        For anything but a whole number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InvalidInputError(f"ignore_label must be a whole number or None, not {value!r}")
    return int(value)


def check_seconds(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise InvalidInputError(f"{name} must be a number of seconds of at least 0, not {value!r}")
    return float(value)


def check_positive(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < float("inf"):
        raise InvalidInputError(f"{name} must be a number above 0, not {value!r}")
    return float(value)


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `allowed` words."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}; not {value!r}")


def _only(name: str, kwargs: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        raise InvalidInputError(f"{name} must be a dictionary with keys among {', '.join(allowed)}; not {kwargs!r}")
    unknown = sorted(str(key) for key in kwargs if key not in allowed)
    if unknown:
        raise InvalidInputError(f"{name} has unknown keys {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return dict(kwargs)
