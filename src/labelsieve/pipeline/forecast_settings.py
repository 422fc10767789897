"""What a plan needs in addition to forecast the time of a run, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Final, Self

from dask.utils import parse_bytes

from labelsieve.errors import InvalidInputError
from labelsieve.settings import check_flag

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class ForecastSettings:
    """The settings of `labelsieve.plan_label_issues` that a run does not have, under the same names.

    Raises
    ------
    InvalidInputError
        For a value that is not allowed, and for values that cannot be combined.
    """

    worker_rate: float | str | None = None
    latency: float | str | None = None
    within: float | str | None = None
    measure: bool = False

    @classmethod
    def taken_from(cls, settings: MutableMapping[str, Any]) -> Self:
        """Take the settings of a plan out of those of a run."""
        return cls(**{one.name: settings.pop(one.name) for one in fields(cls) if one.name in settings})

    def __post_init__(self) -> None:
        check_flag("measure", self.measure)
        self.bytes_per_s, self.latency_s, self.within_s  # noqa: B018  # to raise their errors here
        for name in ("latency", "within"):
            if getattr(self, name) is not None and not self.is_wanted:
                raise InvalidInputError(f"{name} needs worker_rate or measure: without a rate no time is known")

    @property
    def is_wanted(self) -> bool:
        """Whether a rate is known, so that a time can be computed."""
        return self.measure or self.worker_rate is not None

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes per second that the store gives each worker."""
        value, rate = self.worker_rate, math.nan
        if value is None:
            return None
        if isinstance(value, str) and any(map(str.isdecimal, value)):
            try:
                rate = float(parse_bytes(value.strip().removesuffix("/s")))
            except ValueError:
                rate = math.nan
        elif isinstance(value, Real) and not isinstance(value, bool):
            rate = float(value)
        if not 1 <= rate < math.inf:
            raise InvalidInputError(
                f'worker_rate must be bytes per second, at least 1, or text such as "1GB", not {value!r}'
            )
        return rate

    @property
    def latency_s(self) -> float | None:
        """Seconds until the first byte of an answer."""
        return _seconds("latency", self.latency, "20ms", at_least=0)

    @property
    def within_s(self) -> float | None:
        """Seconds in which the run is to finish."""
        return _seconds("within", self.within, "10min", at_least=1e-6)


def _seconds(name: str, value: object, example: str, *, at_least: float) -> float | None:
    """Return a time in seconds, given as a number of them or as text with a unit."""
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]+)\s*", value, re.ASCII)
        if found is not None:
            seconds = float(found[1]) * _UNITS.get(found[2], math.nan)
    elif isinstance(value, Real) and not isinstance(value, bool):
        seconds = float(value)
    if not at_least <= seconds < math.inf:
        kinds = f"with one of the units {', '.join(_UNITS)}"
        raise InvalidInputError(
            f'{name} must be seconds of at least {at_least:g}, or text {kinds}, such as "{example}", not {value!r}'
        )
    return seconds


NO_FORECAST: Final = ForecastSettings()
# Settings that only a plan has.
PLANNING_NAMES: Final = tuple(one.name for one in fields(ForecastSettings))
