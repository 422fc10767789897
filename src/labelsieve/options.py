"""The options of a run, each declared once, and the settings that change the result.

An entry of `JobSettings` is a keyword in Python, an option on the command line, and an attribute of the settings.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, wraps
from numbers import Real
from pathlib import Path
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
            check_keywords(name, kwargs, known, allowed)
            return function(*args, **kwargs)

        return call

    return decorate


def check_keywords(
    function: str, given: Mapping[str, object], known: Mapping[str, str], allowed: Collection[str]
) -> None:
    """Raise for the keyword arguments that a function does not take, as `explain_keywords` does."""
    unknown = [keyword for keyword in given if keyword not in allowed]
    if unknown:
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
    "both",
    "prune_by_noise_rate",
    "prune_by_class",
    "confident_learning",
    "low_self_confidence",
    "low_normalized_margin",
    "predicted_neq_given",
]
Auto: TypeAlias = Literal["auto"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
ESTIMATION_METHODS: Final[tuple[EstimationMethod, ...]] = get_args(EstimationMethod)
RULES: Final[tuple[Rule, ...]] = get_args(Rule)
# Each task: the module with its `TASK`, which is imported when it is used.
TASKS: Final = {
    "classification": "labelsieve.find",
    "segmentation": "labelsieve.segmentation.find",
    "tokens": "labelsieve.token_classification.find",
    "tags": "labelsieve.multilabel_classification.find",
}
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


def check_flag(name: str, value: object) -> bool:
    """Return `value`, or raise unless it is True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {value!r}")
    return value


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


def check_one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value`, or raise unless it is one of the `allowed` words."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}; not {value!r}")
    return value


def check_size(name: str, value: object) -> int | Auto:
    """Return a number of rows or batches, or raise unless it is "auto" or a whole number of at least 1."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    return check_whole_number(name, value, 1, otherwise='"auto" or ')


def check_share(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InvalidInputError(f"{name} must be a number from 0 to 1, not {value!r}")
    return float(value)


def _only(name: str, kwargs: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        raise InvalidInputError(f"{name} must be a dictionary with keys among {', '.join(allowed)}; not {kwargs!r}")
    unknown = sorted(str(key) for key in kwargs if key not in allowed)
    if unknown:
        raise InvalidInputError(f"{name} has unknown keys {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return dict(kwargs)


def check_names(name: str, names: Any) -> tuple[str, ...]:
    """Return names of classes, or raise an `InputTypeError` if they are anything but strings."""
    given: tuple[Any, ...] = tuple(names) if isinstance(names, Iterable) else (names,)
    if isinstance(names, str) or not all(isinstance(one, str) for one in given):
        raise InputTypeError(f"{name} must be a sequence of strings, one for each class")
    return given


@dataclass(frozen=True)
class Option:
    """One option: a keyword in Python, and an option on the command line.

    Parameters
    ----------
    default : object
        Its value if it is not given.
    help : str
        What the command line says of it; it does not have an option without help.
    heading : str
        Under which heading the command line lists it.
    check : callable
        Takes the name and a value, and returns the value to use or raises an `InvalidInputError`. The command line
        knows the kinds of values that the ``check_...`` functions of this module take.
    metavar : str, optional
        What its value is called on the command line.
    parse : callable, optional
        Returns the value that a text on the command line stands for, or raises a ValueError.
    """

    default: Any = None
    help: str = ""
    heading: str = "Input"
    check: Callable[[str, Any], Any] = lambda _, value: value
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None

    def checked(self, name: str, value: Any) -> Any:
        """Return the value to use, or raise."""
        return value if value is None and self.default is None else self.check(name, value)


def _option(*args: Any, **kwargs: Any) -> Any:
    """Return an `Option` as the value of an attribute that has another type."""
    return Option(*args, **kwargs)


def _count(at_least: int = 0) -> Callable[[str, Any], int]:
    return partial(check_whole_number, at_least=at_least)


def _number_or(word: str, value: Any) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text != word and (not text.isdecimal() or int(text) < 1):
            raise ValueError(f"{text!r} is neither {word!r} nor a whole number of at least 1")
        return value if text == word else int(text)

    return parse


def _numbers(text: str) -> list[int]:
    """Return whole numbers that are separated by commas, or those in a file."""
    parts = text.split(",") if "," in text or text.isdecimal() else Path(text).read_text("utf-8").split()
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not a list of whole numbers")
    return [int(part) for part in parts]


def _label(text: str) -> int | str | None:
    """Return the label that a text stands for: a number, a name, or a missing label."""
    return int(text) if text.removeprefix("-").removeprefix("+").isdecimal() else text or None


_METHOD, _MEMORY, _CLUSTER = "Method", "Memory and workdir", "Cluster and processes"


class JobSettings:
    """All options of `labelsieve.find_label_issues`, under the same names, and one of other tasks and of cleanlab.

    Raises
    ------
    InvalidInputError
        For a value that is not allowed.
    """

    data: Any = _option(
        None, "A table in Parquet or Arrow files, whose columns are the inputs.", metavar="FILE|DIR|URL"
    )
    summaries: Any = _option(
        help="A table of row summaries in Parquet or Arrow files, or the folder of a recorder, in place of the inputs.",
        metavar="FILE|DIR|URL",
    )
    n_classes: int | None = _option(None, "With --summaries: the number of classes.", check=_count(2), metavar="K")
    ignore_label: IgnoreLabel = _option(
        NOTHING,
        'Leave out rows with this label, such as -1 or 255; "" leaves out missing labels.',
        check=lambda _, value: check_ignore_label(value),
        metavar="LABEL",
        parse=_label,
    )
    from_logits: bool = _option(False, "PRED_PROBS are logits: take the softmax of each row.", check=check_flag)
    dtype: Any = _option(None, "What values of 16 bits without a dtype are.", metavar="bfloat16")
    class_names: Sequence[str] | None = _option(
        None, "File with one name per line, or a JSON list.", check=check_names, metavar="FILE", parse=Path
    )
    ids: Any = _option(
        None,
        "Your own names of the rows: .npy, Zarr, .csv, or one name per line; with --data: a column.",
        metavar="FILE",
    )
    allow_zero_rows: bool = _option(False, "Accept rows that are all zeros.", check=check_flag)
    allow_unnormalized_rows: bool | Literal["warn"] = _option(  # "warn" in cleanlab's batched API
        False,
        "Accept rows that do not sum to 1 within 0.05.",
        check=lambda name, value: "warn" if isinstance(value, str) and value == "warn" else check_flag(name, value),
    )
    method: Method = _option("self_confidence", "Label quality score.", _METHOD)
    adjust_pred_probs: bool = _option(False, "Subtract the class thresholds before scoring.", _METHOD, check_flag)
    estimation_method: EstimationMethod = _option(
        "off_diagonal", "How issues are counted.", _METHOD, partial(check_one_of, allowed=ESTIMATION_METHODS)
    )
    filter_by: FilterName | None = _option(None, "Which rows are issues: see below.", _METHOD, metavar="FILTER")
    rank_by: Method | None = _option(None, "With --filter-by: the score that sorts the issues.", _METHOD)
    rule: Rule | None = _option(None, "Which class a row is counted as.", _METHOD, partial(check_one_of, allowed=RULES))
    frac_noise: float = _option(1.0, "Share to prune.", _METHOD, check_share, "SHARE")
    num_to_remove_per_class: Sequence[int] | None = _option(
        None, "Rows to prune, one number per class: 5,0,1.", _METHOD, metavar="N,N,...|FILE", parse=_numbers
    )
    min_examples_per_class: int = _option(1, "Rows per class that pruning leaves.", _METHOD, _count(), "N")
    confident_joint: Any = _option()  # for the filters that prune
    batch_size: int | Auto = _option(
        "auto", "Rows that a thread holds at a time.", _MEMORY, check_size, "AUTO|N", _number_or("auto", "auto")
    )
    partition_batches: int | Auto = _option("auto", check=check_size)
    max_memory: int | str | None = _option(
        None, "Most memory of the process, or of each worker: 1GiB.", _MEMORY, metavar="SIZE"
    )
    workdir: str | os.PathLike[str] | None = _option(
        None, "Keep finished partitions there, so that a killed run can resume.", _MEMORY, metavar="DIR|URL"
    )
    fresh: bool = _option(False, "Discard the contents of the workdir.", _MEMORY, check_flag)
    wait: float = _option(
        90,
        "How long to wait for another run that uses the workdir or the output on a disk.",
        _MEMORY,
        check_seconds,
        "SECONDS",
    )
    output: str | os.PathLike[str] | None = _option(
        None, "Write to .npy, .csv, .parquet, or a .zarr group or URL, which the tasks write.", "Output"
    )
    progress: bool | None = _option()
    client: Any = _option()
    retries: int = _option(2, "How often a failed task is tried again.", _CLUSTER, _count(), "N")
    n_jobs: int | None = _option(
        1,
        "Forked processes for .npy files on Linux; 1: threads.",
        _CLUSTER,
        metavar="CORES|N",  # `resolve_n_jobs` checks it
        parse=_number_or("cores", None),
    )

    def __init__(self, **given: Any) -> None:
        for name, option in OPTIONS.items():
            setattr(self, name, option.checked(name, given.pop(name, option.default)))
        if given:
            raise TypeError(f"there are no settings {', '.join(given)}")

    def changed(self, **changes: Any) -> JobSettings:
        """Return the settings with other values for some."""
        return JobSettings(**vars(self) | changes)


OPTIONS: Final = {name: one for name, one in vars(JobSettings).items() if isinstance(one, Option)}
