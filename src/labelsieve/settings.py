"""What a user chooses, checked once, and the constants of the numeric contract.

Covers: `Settings` and the tolerances that scores, thresholds and counts share.
Does not cover: how work is cut in batches and partitions (`memory`), the data's own checks (`checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, SupportsIndex

from labelsieve.errors import InvalidInputError

METHODS: Final = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
ESTIMATION_METHODS: Final = ("off_diagonal", "off_diagonal_calibrated")

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

    Raises
    ------
    InvalidInputError
        For a value that is not allowed; the message lists what is.
    """

    method: str = "self_confidence"
    adjust_pred_probs: bool = False
    estimation_method: str = "off_diagonal"

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("estimation_method", self.estimation_method, ESTIMATION_METHODS)
        check_flag("adjust_pred_probs", self.adjust_pred_probs)
        if self.adjust_pred_probs and self.method == "confidence_weighted_entropy":
            raise InvalidInputError("adjust_pred_probs is not defined for confidence_weighted_entropy")

    @classmethod
    def from_kwargs(
        cls, quality_score_kwargs: Mapping[str, Any] | None, num_issue_kwargs: Mapping[str, Any] | None
    ) -> Settings:
        """Read the two keyword dictionaries of the documented batched API."""
        quality = _only("quality_score_kwargs", quality_score_kwargs, ("method", "adjust_pred_probs"))
        counting = _only("num_issue_kwargs", num_issue_kwargs, ("estimation_method",))
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


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
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
