"""What a user chooses, checked once, and the constants of the numeric contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Literal, SupportsIndex, TypeAlias, get_args

from labelsieve.errors import InvalidInputError

# Each list of names is written once, as a type, so that an editor and a type checker find a misspelt one.
Method: TypeAlias = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
EstimationMethod: TypeAlias = Literal["off_diagonal", "off_diagonal_calibrated"]
# As which class a row is counted: the predicted one, or the one that the confident joint counts it as.
Rule: TypeAlias = Literal["predicted_class", "confident_joint"]
Filter: TypeAlias = Literal[
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
FILTERS: Final[tuple[Filter, ...]] = get_args(Filter)
# Rows that a sum of 64 bits still holds the probabilities of (`reductions`).
_MOST_ROWS: Final = 1 << 36
_PRUNING: Final = ("prune_by_class", "prune_by_noise_rate", "both")

# The tolerances of confident learning as cleanlab defines them (cleanlab/internal/constants.py, 2.9).
FLOAT_TOLERANCE: Final = 1e-6
MIN_THRESHOLD: Final = 2e-6
# A class without labelled rows: no probability reaches it.
ABSENT_THRESHOLD: Final = 2.0
# How far outside [0, 1] a probability may lie; published predictions have 1.00001.
PROBABILITY_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Settings:
    """The choices that change the answer.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    adjust_pred_probs : bool
        Subtract the class thresholds from the probabilities before scoring.
    estimation_method : str
        One of `ESTIMATION_METHODS`.
    rule : str
        One of `RULES`.
    filter_by : str or None
        One of `FILTERS`; None takes the lowest scores and drops rows whose label is predicted.
    frac_noise : float
        Share of the noise that the pruning filters take away, 0 to 1.
    num_to_remove_per_class : tuple of int or None
        K numbers, for the pruning filters: rows with each label, or, for pairs, rows suggested as each class.
    min_examples_per_class : int
        Rows of each class that the pruning filters leave.

    Raises
    ------
    InvalidInputError
        For a value that is not allowed; the message lists what is.
    """

    method: Method = "self_confidence"
    adjust_pred_probs: bool = False
    estimation_method: EstimationMethod = "off_diagonal"
    rule: Rule = "predicted_class"
    filter_by: Filter | None = None
    frac_noise: float = 1.0
    num_to_remove_per_class: tuple[int, ...] | None = None
    min_examples_per_class: int = 1

    def __post_init__(self) -> None:
        check_one_of("method", self.method, METHODS)
        check_one_of("estimation_method", self.estimation_method, ESTIMATION_METHODS)
        check_one_of("rule", self.rule, RULES)
        check_flag("adjust_pred_probs", self.adjust_pred_probs)
        if self.adjust_pred_probs and self.method == "confidence_weighted_entropy":
            raise InvalidInputError("adjust_pred_probs is not defined for confidence_weighted_entropy")
        if self.filter_by is not None:
            check_one_of("filter_by", self.filter_by, FILTERS)
            if self.rule != "confident_joint" and self.filter_by != "predicted_neq_given":
                raise InvalidInputError(f"filter_by={self.filter_by!r} counts by rule='confident_joint' only")
            if self.filter_by == "low_normalized_margin" and self.calibrated and not self.plain_margin:
                raise InvalidInputError(
                    "filter_by='low_normalized_margin' with estimation_method='off_diagonal_calibrated' may take rows "
                    "whose label is predicted, whose margins only rank_by='normalized_margin' keeps, not adjusted"
                )
        object.__setattr__(self, "frac_noise", _share("frac_noise", self.frac_noise))
        least = check_whole_number("min_examples_per_class", self.min_examples_per_class, 0)
        object.__setattr__(self, "min_examples_per_class", least)
        if self.num_to_remove_per_class is not None:
            object.__setattr__(self, "num_to_remove_per_class", _numbers_to_remove(self.num_to_remove_per_class))
        if self.unused and (self.filter_by is None or self.num_to_remove_per_class is not None):
            raise InvalidInputError(
                f"with filter_by={self.filter_by!r} nothing follows from {' and '.join(self.unused)}: for "
                f"filter_by={', '.join(_PRUNING)}"
            )

    @property
    def described(self) -> list[str]:
        """The choices in words, those that are not by default."""
        words = [self.method, self.estimation_method] + ["adjust_pred_probs"] * self.adjust_pred_probs
        if self.filter_by is not None or self.rule != RULES[0]:
            words += [f"filter_by={self.filter_by}", f"rule={self.rule}"]
        if self.prunes:
            words += [f"frac_noise={self.frac_noise:g}", f"min_examples_per_class={self.min_examples_per_class}"]
        return words + ["num_to_remove_per_class"] * (self.num_to_remove_per_class is not None)

    @property
    def unused(self) -> list[str]:
        """Choices that were made for the pruning filters and do nothing with this one."""
        chosen = {
            "frac_noise": self.frac_noise != 1,
            "num_to_remove_per_class": self.num_to_remove_per_class is not None,
            "min_examples_per_class": self.min_examples_per_class != 1,
        }
        return [] if self.prunes else [name for name, given in chosen.items() if given]

    @classmethod
    def from_kwargs(
        cls, quality_score_kwargs: Mapping[str, Any] | None, num_issue_kwargs: Mapping[str, Any] | None
    ) -> Settings:
        """Read the two keyword dictionaries of the documented batched API."""
        quality = _only("quality_score_kwargs", quality_score_kwargs, ("method", "adjust_pred_probs"))
        counting = _only("num_issue_kwargs", num_issue_kwargs, ("estimation_method", "rule"))
        return cls(**quality, **counting)

    @property
    def calibrated(self) -> bool:
        """Whether the count is calibrated by the class sizes."""
        return self.estimation_method == "off_diagonal_calibrated"

    @property
    def scores_need_reread(self) -> bool:
        """Whether scores need the thresholds and every probability at once: a second read."""
        return self.adjust_pred_probs and self.method == "normalized_margin"

    @property
    def keeps_off_joint(self) -> bool:
        """Whether it is asked of each row where the joint counts it; for other filters how many there are is enough."""
        return self.filter_by == "confident_learning"

    @property
    def counts_summaries(self) -> bool:
        """Whether anything is asked of all summaries before rows are chosen."""
        return (
            not self.looks_again
            or self.cuts_scores
            or not self.plain_self_confidence
            or self.filter_by == "predicted_neq_given"
        )

    @property
    def looks_again(self) -> bool:
        """Whether a row's class can depend on all of its probabilities and the thresholds: a second read."""
        return self.rule == "confident_joint"

    @property
    def reads_twice(self) -> bool:
        """Whether anything takes a second read; one is enough for all that does."""
        return self.looks_again or self.scores_need_reread

    @property
    def cuts_scores(self) -> bool:
        """Whether the issues are so many rows of lowest score."""
        return self.filter_by in (None, "low_self_confidence", "low_normalized_margin")

    @property
    def keeps_near_predicted(self) -> bool:
        """Whether rows whose label is the predicted class, or nearly so, may be issues."""
        return self.filter_by in ("low_self_confidence", "low_normalized_margin")

    @property
    def prunes(self) -> bool:
        """Whether the filter takes rows away by the counts of the calibrated joint."""
        return self.filter_by in _PRUNING

    @property
    def prunes_pairs(self) -> bool:
        """Whether the filter compares margins within each pair of classes: a third read, once these are counted."""
        return self.filter_by in ("prune_by_noise_rate", "both")

    @property
    def n_reads(self) -> int:
        """How many times `pred_probs` is read."""
        return 1 + self.reads_twice + self.prunes_pairs

    @property
    def plain_margin(self) -> bool:
        """Whether the score is the normalized margin of the probabilities as they are."""
        return self.method == "normalized_margin" and not self.adjust_pred_probs

    @property
    def plain_self_confidence(self) -> bool:
        """Whether the score is the given label's probability itself, in the input's own precision."""
        return self.method == "self_confidence" and not self.adjust_pred_probs


def check_flag(name: str, value: object) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {value!r}")


def check_whole_number(name: str, value: object, at_least: int, otherwise: str = "") -> int:
    """Return `value` as an int, or raise; `otherwise` names what else would do, for the message."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < at_least:
        raise InvalidInputError(f"{name} must be {otherwise}a whole number of at least {at_least}, not {value!r}")
    return int(value)


def check_seconds(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise InvalidInputError(f"{name} must be a number of seconds of at least 0, not {value!r}")
    return float(value)


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `allowed` words."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"{name} must be one of {', '.join(allowed)}; not {value!r}")


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InvalidInputError(f"{name} must be a number from 0 to 1, not {value!r}")
    return float(value)


def _numbers_to_remove(values: Iterable[Any]) -> tuple[int, ...]:
    if isinstance(values, str | Mapping) or getattr(values, "ndim", 1) != 1 or not isinstance(values, Iterable):
        raise InvalidInputError(f"num_to_remove_per_class must be a list of K whole numbers, not {values!r}")
    numbers = tuple(check_whole_number("each of num_to_remove_per_class", value, 0) for value in values)
    if max(numbers, default=0) > _MOST_ROWS:
        raise InvalidInputError(f"num_to_remove_per_class has {max(numbers):,}: more rows than can be counted")
    return numbers


def _only(name: str, kwargs: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        raise InvalidInputError(f"{name} must be a dictionary with keys among {', '.join(allowed)}; not {kwargs!r}")
    unknown = sorted(str(key) for key in kwargs if key not in allowed)
    if unknown:
        raise InvalidInputError(f"{name} has unknown keys {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return dict(kwargs)
