"""The filters: which rows are label issues.

Each filter is a class that says how often it reads `pred_probs`, which score it cuts on, what it selects and what
memory it takes. A new filter is a subclass of `Filter`, its name in `settings.FilterName`, and an entry in `FILTERS`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.calibration import calibrated_joint
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Floats, Int64s
from labelsieve.confident_learning.pruning import PruneCounts, prune_counts
from labelsieve.confident_learning.row_summary import SummaryBlock
from labelsieve.confident_learning.selections import (
    LabelNotPredicted,
    OffDiagonalRows,
    RowSelection,
    Selection,
    scores_of,
)
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError, warn
from labelsieve.settings import FilterName, Rule, Settings, check_one_of


@dataclass(frozen=True)
class IssueTotals:
    """What is known of all rows before some of them are selected.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by given label and class, by the rule of the settings; by the exact one at least 1 on the
        diagonal.
    class_counts : (K,) int64
        Rows with each label.
    estimated : int
        Estimated number of issues, at most the number of rows.
    n_off_diagonal : int
        Rows off the diagonal of the confident joint whose label is not nearly predicted; 0 by the other rule.
    n_counted : int
        Rows that `Filter.counted_rows` found.
    histogram : (B,) int64 or None
        Histogram of the scores that the filter cuts on.
    note : str
        What is odd about the counts; empty if nothing is.
    """

    confident: ConfidentCounts
    class_counts: Int64s
    estimated: int
    n_off_diagonal: int = 0
    n_counted: int = 0
    histogram: Int64s | None = None
    note: str = ""


class Table(Protocol):
    """What a filter asks of a table of row summaries."""

    def select_where(self, selection: Selection, n_rows: int) -> RowSelection:
        """Return the `n_rows` rows that `selection` picks by their summaries alone."""

    def select_lowest(
        self,
        cut_scores: Callable[[SummaryBlock], Floats],
        dtype: np.dtype[Any],
        histogram: Int64s | None,
        n_rows: int,
        *,
        exactly: bool,
    ) -> RowSelection:
        """Return the `n_rows` rows of lowest score; a few more in memory, unless `exactly` as many are needed."""

    def select_lowest_by_class(self, n_rows: Int64s, class_counts: Int64s) -> RowSelection:
        """Return for each label the ``n_rows[label]`` rows of lowest probability of that label."""

    def select_largest_margins(self, prune: PruneCounts) -> RowSelection:
        """Return for each pair of classes the rows of largest margin, in a third read."""


@dataclass(frozen=True)
class Filter(abc.ABC):
    """Selects label issues.

    Parameters
    ----------
    settings : Settings
        The choices that change the answer.

    Attributes
    ----------
    name : str or None
        As `filter_by` takes it.
    exact_rule : bool
        Whether the filter needs the counts of the confident joint.
    cuts_scores : bool
        Whether the issues are the rows of lowest `cut_scores`.
    needs_off_diagonal : bool
        Whether the table needs the column `off_diagonal`.
    counts_rows : bool
        Whether `counted_rows` is to be added up over all rows.
    keeps_near_predicted : bool
        Whether rows whose label is predicted, or nearly so, can be issues.
    prunes : bool
        Whether `frac_noise`, `num_to_remove_per_class` and `min_examples_per_class` have an effect.
    cuts_classes : bool
        Whether histograms by class are made, which take memory.
    reads_pairs : bool
        Whether rows are compared within pairs of classes: a read of its own, and candidates in memory.
    """

    settings: Settings

    name: ClassVar[FilterName | None]
    exact_rule: ClassVar[bool] = True
    cuts_scores: ClassVar[bool] = False
    needs_off_diagonal: ClassVar[bool] = False
    counts_rows: ClassVar[bool] = False
    keeps_near_predicted: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    cuts_classes: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.exact_rule and not self.settings.counts_joint:
            raise InvalidInputError(f"filter_by={self.name!r} counts by rule='confident_joint' only")
        if self.unused and (self.name is None or self.settings.num_to_remove_per_class is not None):
            pruning = ", ".join(str(name) for name, kind in FILTERS.items() if kind.prunes)
            raise InvalidInputError(
                f"filter_by={self.name!r} does not use {' and '.join(self.unused)}; filter_by={pruning} do"
            )

    @property
    def unused(self) -> list[str]:
        """Names of the choices that this filter does not use."""
        return [] if self.prunes else self.settings.pruning_choices

    @property
    def described(self) -> list[str]:
        """The settings in words, except those that are the default."""
        settings = self.settings
        words = [settings.method, settings.estimation_method] + ["adjust_pred_probs"] * settings.adjust_pred_probs
        if self.name is not None or settings.counts_joint:
            words += [f"filter_by={self.name}", f"rule={settings.rule}"]
        if self.prunes:
            words.append(f"frac_noise={settings.frac_noise:g}")
            words.append(f"min_examples_per_class={settings.min_examples_per_class}")
        return words + ["num_to_remove_per_class"] * (settings.num_to_remove_per_class is not None)

    @property
    def n_reads(self) -> int:
        """How many times `pred_probs` is read."""
        return 1 + self.settings.rescans + self.reads_pairs

    @property
    def counts_summaries(self) -> bool:
        """Whether all summaries are counted before rows are selected."""
        settings = self.settings
        return not settings.counts_joint or self.cuts_scores or self.counts_rows or not settings.plain_self_confidence

    def check_classes(self, n_classes: int) -> None:
        """Raise for choices that do not fit `n_classes` classes; warn of those that have no effect."""
        numbers = self.settings.num_to_remove_per_class
        if numbers is not None and len(numbers) != n_classes:
            raise InvalidInputError(
                f"num_to_remove_per_class has {len(numbers):,} numbers, pred_probs {n_classes:,} classes"
            )
        if self.unused:
            warn(f"filter_by={self.name!r} does not use {' and '.join(self.unused)}: they have no effect")

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the ``(n,)`` scores of which the lowest are selected, where the filter `cuts_scores`."""
        return scores_of(block)

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of `cut_scores` for probabilities of `dtype`."""
        return dtype if self.settings.plain_self_confidence else np.dtype(np.float64)

    def counted_rows(self, block: SummaryBlock) -> int:
        """Return how many rows of `block` the filter selects, where it `counts_rows`."""
        raise NotImplementedError

    @abc.abstractmethod
    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:
        """Select the issues.

        Parameters
        ----------
        table : Table
            The row summaries.
        totals : IssueTotals
            What is known of all rows.
        dtype : dtype
            Native dtype of `pred_probs`.
        exactly : bool
            Whether as many rows as were counted must be selected; otherwise a few more do no harm.
        """


@dataclass(frozen=True)
class LowestScores(Filter):
    """The default: as many rows of the lowest score as were counted."""

    name: ClassVar[FilterName | None] = None
    exact_rule = False
    cuts_scores = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:
        """Select the rows of lowest score."""
        # Another score puts the rows of a named filter in order, so one row too many would stay.
        exactly = exactly or self.name is not None
        return table.select_lowest(
            self.cut_scores, self.cut_dtype(dtype), totals.histogram, totals.estimated, exactly=exactly
        )


@dataclass(frozen=True)
class LowSelfConfidence(LowestScores):
    """As many rows of the lowest probability of the given label as were counted."""

    name = "low_self_confidence"
    exact_rule = True
    keeps_near_predicted = True

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the probability of the given label."""
        return block.p_label

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return `dtype`: these are probabilities as they were read."""
        return dtype


@dataclass(frozen=True)
class LowNormalizedMargin(LowestScores):
    """As many rows of the lowest normalized margin as were counted."""

    name = "low_normalized_margin"
    exact_rule = True
    keeps_near_predicted = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings.calibrated and not self.settings.plain_margin:
            raise InvalidInputError(
                "filter_by='low_normalized_margin' with estimation_method='off_diagonal_calibrated' may select rows "
                "whose label is predicted; their margins are kept only with rank_by='normalized_margin', not adjusted"
            )

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the normalized margins of rows whose label is not predicted, and 0.5 for the others.

        The others have at least 0.5, and no more rows are selected than have less: those that are counted off the
        diagonal and whose label is not nearly predicted. So their exact margins are not needed.
        """
        if self.settings.plain_margin:
            return scores_of(block)
        margins: npt.NDArray[np.float64] = (block.p_label.astype(np.float64) - block.p_predicted + 1) / 2
        return margins

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG002  # margins are computed
        """Return float64."""
        return np.dtype(np.float64)


@dataclass(frozen=True)
class OffDiagonal(Filter):
    """The rows that the confident joint counts off its diagonal."""

    name = "confident_learning"
    needs_off_diagonal = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows off the diagonal."""
        return table.select_where(OffDiagonalRows(), totals.n_off_diagonal)


@dataclass(frozen=True)
class PredictedNotGiven(Filter):
    """The rows whose label is not the predicted class."""

    name = "predicted_neq_given"
    exact_rule = False
    counts_rows = True

    def counted_rows(self, block: SummaryBlock) -> int:
        """Return how many labels are not the predicted class."""
        return int(np.count_nonzero(block.predicted != block.label))

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows whose label is not predicted."""
        return table.select_where(LabelNotPredicted(), totals.n_counted)


@dataclass(frozen=True)
class _Pruning(Filter):
    """Selects rows by the counts of the calibrated joint."""

    prunes = True

    def prune_counts(self, totals: IssueTotals) -> PruneCounts:
        """Return how many rows to select of each label and of each pair of classes."""
        settings, counts = self.settings, totals.class_counts
        least = max(1, settings.min_examples_per_class)  # as in cleanlab, the only row of a class is never an issue
        small = counts <= least
        n_small = int(np.count_nonzero((counts > 0) & small))
        if n_small:
            classes = rows_in_words(n_small, "class has", "classes have")
            warn(f"{classes} no more than {least} labelled rows (min_examples_per_class): none of these is flagged")
        return prune_counts(
            calibrated_joint(totals.confident, counts),
            counts,
            frac_noise=settings.frac_noise,
            min_examples_per_class=settings.min_examples_per_class,
            num_to_remove_per_class=settings.num_to_remove_per_class,
        ).without(small)


@dataclass(frozen=True)
class PruneByClass(_Pruning):
    """Of each label, the rows of lowest probability of it."""

    name = "prune_by_class"
    cuts_classes = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each label as the calibrated joint has off its diagonal."""
        return table.select_lowest_by_class(self.prune_counts(totals).by_label, totals.class_counts)


@dataclass(frozen=True)
class PruneByNoiseRate(_Pruning):
    """Of each given label and other class, the rows of largest margin between the two."""

    name = "prune_by_noise_rate"
    reads_pairs = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each pair as the calibrated joint counts."""
        return table.select_largest_margins(self.prune_counts(totals))


@dataclass(frozen=True)
class Both(_Pruning):
    """The rows that both pruning filters select."""

    name = "both"
    cuts_classes = True
    reads_pairs = True

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select what both select."""
        prune = self.prune_counts(totals)
        by_class = table.select_lowest_by_class(prune.by_label, totals.class_counts)
        return by_class & table.select_largest_margins(prune)


FILTERS: Final[dict[FilterName | None, type[Filter]]] = {
    kind.name: kind
    for kind in (
        LowestScores,
        PruneByClass,
        PruneByNoiseRate,
        Both,
        OffDiagonal,
        PredictedNotGiven,
        LowNormalizedMargin,
        LowSelfConfidence,
    )
}


def filter_of(settings: Settings) -> Filter:
    """Return the filter that `settings` name.

    Raises
    ------
    InvalidInputError
        For an unknown name, and for choices that do not go together.
    """
    return _kind(settings.filter_by)(settings)


def default_rule(filter_by: FilterName | None) -> Rule:
    """Return the rule that a filter counts by unless another is given."""
    return "confident_joint" if _kind(filter_by).exact_rule else "predicted_class"


def _kind(filter_by: FilterName | None) -> type[Filter]:
    if filter_by is not None:
        check_one_of("filter_by", filter_by, tuple(name for name in FILTERS if name is not None))
    return FILTERS[filter_by]
