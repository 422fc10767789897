"""The settings of a job, checked once."""

from __future__ import annotations

import multiprocessing
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Literal

import psutil

from labelsieve.confident_learning.checks import RowChecks
from labelsieve.confident_learning.filters import Filter, default_rule, filter_of
from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.confident_learning.matrices import entries_of
from labelsieve.confident_learning.scores import Settings
from labelsieve.errors import InvalidInputError
from labelsieve.job.grid import Auto, check_sizes
from labelsieve.options import (
    NOTHING,
    EstimationMethod,
    FilterName,
    Method,
    Rule,
    check_flag,
    check_ignore_label,
    check_seconds,
    check_whole_number,
)
from labelsieve.sources.composite import check_dtype
from labelsieve.storage.remote import check_place


@dataclass(frozen=True)
class JobSettings:
    """All settings of `labelsieve.find_label_issues`, under the same names, and one of cleanlab's function.

    Raises
    ------
    InvalidInputError
        For a value that is not allowed, and for values that cannot be combined.
    """

    data: Any = None
    summaries: Any = None
    n_classes: int | None = None
    batch_size: int | Auto = "auto"
    method: Method = "self_confidence"
    adjust_pred_probs: bool = False
    estimation_method: EstimationMethod = "off_diagonal"
    filter_by: FilterName | None = None
    rank_by: Method | None = None
    rule: Rule | None = None
    frac_noise: float = 1.0
    num_to_remove_per_class: Sequence[int] | None = None
    min_examples_per_class: int = 1
    partition_batches: int | Auto = "auto"
    from_logits: bool = False
    dtype: Any = None
    allow_zero_rows: bool = False
    allow_unnormalized_rows: bool | Literal["warn"] = False  # "warn" in cleanlab's batched API
    n_jobs: int | None = 1
    progress: bool | None = None
    client: Any = None
    workdir: str | os.PathLike[str] | None = None
    fresh: bool = False
    wait: float = 90
    output: str | os.PathLike[str] | None = None
    max_memory: int | str | None = None
    retries: int = 2
    class_names: Sequence[str] | None = None
    ignore_label: Any = NOTHING
    ids: Any = None
    confident_joint: Any = None  # for the filters that prune, of cleanlab's functions and of tags

    def __post_init__(self) -> None:
        check_flag("fresh", self.fresh)
        object.__setattr__(self, "ignore_label", check_ignore_label(self.ignore_label))
        check_flag("from_logits", self.from_logits)
        object.__setattr__(self, "dtype", check_dtype(self.dtype))
        check_sizes(self.batch_size, self.partition_batches)
        object.__setattr__(self, "retries", check_whole_number("retries", self.retries, 0))
        object.__setattr__(self, "wait", check_seconds("wait", self.wait))
        object.__setattr__(self, "n_jobs", resolve_n_jobs(self.n_jobs, verbose=self.progress is not False))
        object.__setattr__(self, "output", self._checked_output())
        self.filter, self.checks, self.given_joint  # noqa: B018  # to raise their errors here

    @cached_property
    def filter(self) -> Filter:
        """The filter, whose ``settings`` are the settings that change the result."""
        method, rule = self.method, self.rule
        if self.rank_by is not None:
            if self.filter_by is None:
                raise InvalidInputError(
                    "rank_by needs filter_by; without a filter, method both selects rows and ranks them"
                )
            if method not in ("self_confidence", self.rank_by):
                raise InvalidInputError(
                    f"rank_by={self.rank_by!r} and method={method!r} are two scores to rank by: give one"
                )
            method = self.rank_by
        return filter_of(
            Settings(
                method,
                self.adjust_pred_probs,
                self.estimation_method,
                default_rule(self.filter_by) if rule is None else rule,
                self.filter_by,
                self.frac_noise,
                self.num_to_remove_per_class,  # type: ignore[arg-type]  # checked and made a tuple
                self.min_examples_per_class,
            )
        )

    @cached_property
    def given_joint(self) -> ConfidentCounts | None:
        """The joint of the user that the filters that prune use in place of their own; None if there is none."""
        if self.confident_joint is None:
            return None
        if not self.filter.prunes:
            raise InvalidInputError(f"filter_by={self.filter.name!r} does not use confident_joint")
        if isinstance(self.confident_joint, ConfidentCounts):
            return self.confident_joint
        return entries_of("confident_joint", self.confident_joint).counts()

    @cached_property
    def checks(self) -> RowChecks:
        """Which rows are accepted although they cannot be a distribution."""
        if self.allow_unnormalized_rows == "warn":
            return RowChecks(unnormalized_rows="warn")
        return RowChecks.of(allow_zero_rows=self.allow_zero_rows, allow_unnormalized_rows=self.allow_unnormalized_rows)

    def _checked_output(self) -> str | None:
        if self.output is None:
            return None
        output = self.output
        location = check_place("output", output) if isinstance(output, str | os.PathLike) else output
        if not isinstance(location, str) or not location.endswith(".zarr"):
            raise InvalidInputError(f"output must be a path or URL that ends in .zarr, not {output!r}")
        return location


# The settings that `labelsieve.find_label_issues` takes.
SETTING_NAMES: Final = tuple(one.name for one in fields(JobSettings) if one.name != "confident_joint")


def resolve_n_jobs(n_jobs: int | None, *, verbose: bool = True) -> int:
    """Return the number of processes that `n_jobs` stands for.

    Parameters
    ----------
    n_jobs : int or None
        None means the number of physical cores, or of logical cores if psutil does not know the physical ones.
    verbose : bool
        Whether to print a message if the number is not what the user would expect.

    Raises
    ------
    InvalidInputError
        If `n_jobs` is not None or a whole number of at least 1.
    """
    if n_jobs is not None:
        n_jobs = check_whole_number("n_jobs", n_jobs, 1, otherwise="None or ")
    if platform.system() != "Linux":
        if verbose and n_jobs != 1:
            print("n_jobs is 1: processes are forked on Linux only")
        return 1
    if n_jobs is not None:
        return n_jobs
    physical = psutil.cpu_count(logical=False)
    if physical:
        return int(physical)
    logical = multiprocessing.cpu_count()
    if verbose:
        print(f"n_jobs is {logical}, the logical cores: the number of physical ones is unknown")
    return logical
