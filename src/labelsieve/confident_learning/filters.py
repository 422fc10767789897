"""The filters: which rows are label issues.

Each filter is a class that says how often it reads `pred_probs`, which score it cuts on, what it selects, what memory
it takes, and when to use it. A new filter is a subclass of `Filter` and an entry in `FILTERS`. To offer it to users,
add its name to `options.FilterName`, and describe it in the table of `docs/which_filter_and_score.md` and under
`filter_by` of `find_label_issues`: a test finds what is missing. The help of the command line follows from the classes.

The tags of examples are groups of two classes. With ``in_groups=True`` a filter selects within each group.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.confident_learning.joint import (
    ConfidentCounter,
    ConfidentCounts,
    JointCounts,
    PruneCounts,
    calibrated_joint,
    confident_combine,
    estimated_issues,
    off_diagonal_rows,
    prune_counts,
)
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.select import (
    Cut,
    Ranked,
    Ranking,
    RowSelection,
    Selection,
    Where,
    add_up,
    first_cut,
    is_off_diagonal,
    label_scores,
    score_histogram,
    scores_of,
)
from labelsieve.confident_learning.thresholds import (
    Bools,
    ClassSums,
    Float64s,
    Floats,
    Int64s,
    Ints,
    SparseClassSums,
    SummaryBlock,
    adjusted_thresholds,
    class_sums_chunk,
    class_sums_combine,
    issue_counts_finalize,
    near_predicted,
    pair_dtype,
    sparse_sums_combine,
)
from labelsieve.errors import InvalidInputError, warn
from labelsieve.options import FilterName, JobSettings, check_one_of

_EXACT_ADVICE: Final = "The exact rule: few false alarms, unless classes are rare."


@dataclass(frozen=True)
class IssueTotals:
    """Totals over all rows, which filters select by.

    Parameters
    ----------
    confident : ConfidentCounts
        Confident rows by label and class, counted by the rule of the settings; by the confident joint, with at least 1
        for each class on the diagonal.
    class_counts : (K,) int64
        Number of rows with each label.
    estimated : int
        Estimated number of issues, at most the number of rows.
    n_off_diagonal : int
        Number of rows in which the column `off_diagonal` is true; 0 if the confident joint is not counted.
    n_counted : int
        Number of rows that `Filter.chooses`.
    histogram : (B,) int64 or None
        Histogram of the scores that the filter cuts on.
    note : str
        A warning about the counts, or "".
    given_joint : ConfidentCounts or None
        A joint of the user, which the filters that prune use as it is, in place of the calibrated joint.
    """

    confident: ConfidentCounts
    class_counts: Int64s
    estimated: int
    n_off_diagonal: int = 0
    n_counted: int = 0
    histogram: Int64s | None = None
    note: str = ""
    given_joint: ConfidentCounts | None = None


class Table(Protocol):
    """The methods of `RowSummaries` that filters call."""

    def select_where(self, selection: Selection, n_rows: int) -> RowSelection:
        """Return the `n_rows` rows that `selection` picks."""

    def select_lowest(
        self,
        cut_scores: Callable[[SummaryBlock], Floats],
        cut: Cut,
        n_rows: int,
        *,
        exactly: bool,
    ) -> RowSelection:
        """Return the `n_rows` rows of lowest score; possibly a few more unless `exactly` is true."""

    def select_lowest_by_class(
        self, n_rows: Int64s, class_counts: Int64s | None = None, ranking: Ranking = label_scores
    ) -> RowSelection:
        """Return for each label the ``n_rows[label]`` rows of lowest probability, or for each group of a ranking."""

    def count_ranked(self, ranking: Ranking, n_groups: int) -> Int64s:
        """Return the number of rows in each group of a ranking."""

    def select_largest_margins(self, prune: PruneCounts) -> RowSelection:
        """Return the rows with the largest margins of each pair of classes; this reads `pred_probs` a third time."""


@dataclass(frozen=True)
class Filter(abc.ABC):
    """Selects label issues.

    Parameters
    ----------
    settings : Settings
        The settings that change the result.
    in_groups : bool
        Whether the classes 2k and 2k + 1 are the two of group k, and each group is a problem by itself.

    Attributes
    ----------
    name : str or None
        Value of `filter_by`.
    exact_rule : bool
        Whether the filter needs the confident joint.
    cuts_scores : bool
        Whether the filter selects the rows of lowest `cut_scores`, for which their histogram is counted.
    needs_off_diagonal : bool
        Whether the filter needs the column `off_diagonal` of the table.
    counts_rows : bool
        Whether the filter needs the number of rows that it `chooses`.
    keeps_near_predicted : bool
        Whether rows whose label is nearly predicted can be issues.
    prunes : bool
        Whether the filter uses `frac_noise`, `num_to_remove_per_class` and `min_examples_per_class`.
    cuts_classes : bool
        Whether the filter makes histograms by class, which take memory.
    reads_pairs : bool
        Whether the filter compares rows within pairs of classes, which takes another read, and memory for candidates.
    advice : str
        When to use the filter, for the help of the command line; with precision and recall where README gives them.
    unused : list of str
        Names of the settings that were changed but have no effect with this filter.
    n_reads : int
        Number of times that `pred_probs` is read.
    counts_summaries : bool
        Whether the table has to be counted before rows are selected.
    """

    settings: Settings
    in_groups: bool = False

    name: ClassVar[FilterName | None]
    exact_rule: ClassVar[bool] = True
    cuts_scores: ClassVar[bool] = False
    needs_off_diagonal: ClassVar[bool] = False
    counts_rows: ClassVar[bool] = False
    keeps_near_predicted: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    cuts_classes: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    advice: ClassVar[str]
    unused: ClassVar[list[str]]
    n_reads: ClassVar[int]
    counts_summaries: ClassVar[bool]

    def __post_init__(self) -> None:
        if self.exact_rule and not self.settings.counts_joint:
            raise InvalidInputError(f"filter_by={self.name!r} counts by rule='confident_joint' only")
        settings, unused = self.settings, list[str]()
        if not self.prunes:
            unused += ["frac_noise"] * (settings.frac_noise != 1)
            unused += ["num_to_remove_per_class"] * (settings.num_to_remove_per_class is not None)
            unused += ["min_examples_per_class"] * (settings.min_examples_per_class != 1)
        if unused and (self.name is None or settings.num_to_remove_per_class is not None):
            pruning = ", ".join(str(name) for name, kind in FILTERS.items() if kind.prunes)
            raise InvalidInputError(
                f"filter_by={self.name!r} does not use {' and '.join(unused)}; filter_by={pruning} do"
            )
        if self.in_groups:  # rows compete within their group, by their summaries alone
            by_group = {"cuts_classes": self.cuts_scores or self.prunes, "cuts_scores": False, "reads_pairs": False}
            vars(self).update(by_group, needs_off_diagonal=self.needs_off_diagonal or self.cuts_scores)
        counts = self.cuts_scores or self.counts_rows or not (settings.counts_joint and settings.plain_self_confidence)
        n_reads = 1 + settings.rescans + self.reads_pairs
        vars(self).update(unused=unused, n_reads=n_reads, counts_summaries=counts)

    @property
    def described(self) -> list[str]:
        """The settings in words, for summaries and reports."""
        settings = self.settings
        words = [settings.method, settings.estimation_method] + ["adjust_pred_probs"] * settings.adjust_pred_probs
        if self.name is not None or settings.counts_joint:
            words += [f"filter_by={self.name}", f"rule={settings.rule}"]
        if self.prunes:
            words.append(f"frac_noise={settings.frac_noise:g}")
            words.append(f"min_examples_per_class={settings.min_examples_per_class}")
        return words + ["num_to_remove_per_class"] * (settings.num_to_remove_per_class is not None)

    def check_classes(self, n_classes: int) -> None:
        """Raise if settings do not fit `n_classes` classes; warn if some have no effect."""
        numbers, what = self.settings.num_to_remove_per_class, "classes"
        if self.in_groups:
            n_classes, what = n_classes // 2, "tags"
        if numbers is not None and len(numbers) != n_classes:
            raise InvalidInputError(
                f"num_to_remove_per_class has {len(numbers):,} numbers, pred_probs {n_classes:,} {what}"
            )
        if self.unused:
            warn(f"filter_by={self.name!r} does not use {' and '.join(self.unused)}")

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the ``(n,)`` scores of which the lowest are selected, if the filter `cuts_scores`."""
        return scores_of(block)

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of `cut_scores`, given the dtype of `pred_probs`."""
        return dtype if self.settings.plain_self_confidence else np.dtype(np.float64)

    def are_issues(self, label: Ints, predicted: Ints, p_label: Floats, p_predicted: Floats) -> Bools:
        """Return which of the selected rows are issues. Most filters drop rows whose label is predicted, or nearly."""
        return ~near_predicted(label, predicted, p_label, p_predicted) | self.keeps_near_predicted

    def chooses(self, block: SummaryBlock) -> Bools:
        """Return which rows of `block` the filter selects, if it `counts_rows`."""
        raise NotImplementedError

    @abc.abstractmethod
    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:
        """Select the issues.

        Parameters
        ----------
        table : Table
            The row summaries.
        totals : IssueTotals
            Totals over all rows.
        dtype : dtype
            Dtype of `pred_probs` in native byte order.
        exactly : bool
            Whether exactly the counted number of rows must be selected, not a few more.
        """


@dataclass(frozen=True)
class LowestScores(Filter):
    """The default: the rows of lowest score, as many as are counted."""

    name: ClassVar[FilterName | None] = None
    exact_rule = False
    cuts_scores = True
    advice = "To review a short list, or for many rare classes: 0.98, 0.63."

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:
        """Select the rows of lowest score, of all rows or of each group."""
        if self.in_groups:
            settings = self.settings
            has_half = self.name is not None or settings.plain_self_confidence or settings.plain_margin
            ranking = LowestOfGroup(self.cut_scores, only_low=has_half and not settings.calibrated)
            return table.select_lowest_by_class(self._estimated_by_group(table, totals), ranking=ranking)
        cut = first_cut(totals.histogram, totals.estimated, 8 * self.cut_dtype(dtype).itemsize)
        # The issues of a named filter are sorted by another score, so that one row too many would stay.
        return table.select_lowest(self.cut_scores, cut, totals.estimated, exactly=exactly or self.name is not None)

    def _estimated_by_group(self, table: Table, totals: IssueTotals) -> Int64s:
        """Return the ``(K / 2,)`` estimated number of issues of each group."""
        settings, counts = self.settings, totals.class_counts.reshape(-1, 2)
        if settings.counts_joint and not settings.calibrated:
            return table.count_ranked(off_diagonal_of_group, len(counts))
        numbers = [
            off_diagonal_rows(calibrated_joint(joint, of_group))
            if settings.counts_joint
            else issue_counts_finalize(joint.issue_counts(of_group, calibrated=settings.calibrated))
            for joint, of_group in zip(joints_of_tags(totals.confident), counts, strict=True)
        ]
        return np.array(numbers, np.int64)


@dataclass(frozen=True)
class LowSelfConfidence(LowestScores):
    """The rows with the lowest probability of the label, as many as are counted."""

    name = "low_self_confidence"
    exact_rule = True
    keeps_near_predicted = True
    advice = _EXACT_ADVICE

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the probabilities of the labels."""
        return block.p_label

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return `dtype`."""
        return dtype


@dataclass(frozen=True)
class LowNormalizedMargin(LowestScores):
    """The rows with the lowest normalized margin, as many as are counted."""

    name = "low_normalized_margin"
    exact_rule = True
    keeps_near_predicted = True
    advice = _EXACT_ADVICE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings.calibrated and not self.settings.plain_margin:
            raise InvalidInputError(
                "filter_by='low_normalized_margin' with estimation_method='off_diagonal_calibrated' may select rows "
                "whose label is predicted; their margins are kept only with rank_by='normalized_margin', not adjusted"
            )

    def cut_scores(self, block: SummaryBlock) -> Floats:
        """Return the normalized margins, but 0.5 for rows whose label is predicted.

        These rows have margins of at least 0.5. They are not selected, because only as many rows are selected as are
        off the diagonal and not nearly predicted, and all of those have margins below 0.5.
        """
        if self.settings.plain_margin:
            return scores_of(block)
        margins: npt.NDArray[np.float64] = (block.p_label.astype(np.float64) - block.p_predicted + 1) / 2
        return margins

    def cut_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG002  # margins are computed in float64
        """Return float64."""
        return np.dtype(np.float64)


@dataclass(frozen=True)
class OffDiagonal(Filter):
    """The rows that the confident joint counts off its diagonal."""

    name = "confident_learning"
    needs_off_diagonal = True
    advice = _EXACT_ADVICE

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows off the diagonal."""
        return table.select_where(Where(is_off_diagonal), totals.n_off_diagonal)


@dataclass(frozen=True)
class PredictedNotGiven(Filter):
    """The rows whose label is not the predicted class."""

    name = "predicted_neq_given"
    exact_rule = False
    counts_rows = True
    advice = "To review every row that the model disagrees with: 0.46, 1.00."

    def chooses(self, block: SummaryBlock) -> Bools:
        """Return which labels are not the predicted class."""
        chosen: Bools = block.predicted != block.label
        return chosen

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows whose label is not predicted."""
        return table.select_where(Where(self.chooses), totals.n_counted)


@dataclass(frozen=True)
class _Pruning(Filter):
    """A filter that selects as many rows as the calibrated joint has off the diagonal."""

    prunes = True

    def prune_counts(self, totals: IssueTotals) -> PruneCounts:
        """Return the number of rows to select of each label and of each pair of classes."""
        settings, counts, joint = self.settings, totals.class_counts, totals.given_joint
        least = max(1, settings.min_examples_per_class)  # as in cleanlab, the only row of a class is never an issue
        small = counts <= least
        n_small = int(np.count_nonzero((counts > 0) & small))
        if n_small:
            words, rows = ("class has", "classes have"), "labelled rows"
            if self.in_groups:
                words = "group of examples, with or without a tag, has", "groups, with or without a tag, have"
                rows = "examples"
            warn(
                f"{rows_in_words(n_small, *words)} no more than {least} {rows} (min_examples_per_class): none of these "
                "is flagged"
            )
        numbers, used = settings.num_to_remove_per_class, totals.confident if joint is None else joint
        problems = [(used, slice(None), numbers)]
        if self.in_groups:
            problems = [
                (one, slice(2 * k, 2 * k + 2), None if numbers is None else (numbers[k], 0))
                for k, one in enumerate(joints_of_tags(used))
            ]
        return PruneCounts.joined(
            [
                prune_counts(
                    calibrated_joint(one, counts[classes]) if joint is None else one,
                    counts[classes],
                    frac_noise=settings.frac_noise,
                    min_examples_per_class=settings.min_examples_per_class,
                    num_to_remove_per_class=to_remove,
                ).without(small[classes])
                for one, classes, to_remove in problems
            ]
        )

    def by_class(self, table: Table, totals: IssueTotals, prune: PruneCounts) -> RowSelection:
        """Select for each label the rows in which it has the lowest probabilities."""
        if self.in_groups:
            return table.select_lowest_by_class(prune.by_label, ranking=low_self_confidence)
        return table.select_lowest_by_class(prune.by_label, totals.class_counts)

    def by_pair(self, table: Table, prune: PruneCounts) -> RowSelection:
        """Select the rows with the largest margins of each pair of classes. In a group, each label has one."""
        if not self.in_groups:
            return table.select_largest_margins(prune)
        n_rows = np.zeros(len(prune.by_label), np.int64)
        n_rows[np.diff(prune.edges) > 0] = prune.by_pair
        return table.select_lowest_by_class(n_rows, ranking=negative_margins)


@dataclass(frozen=True)
class PruneByClass(_Pruning):
    """For each label, the rows in which it has the lowest probabilities."""

    name = "prune_by_class"
    cuts_classes = True
    advice = "Like prune_by_noise_rate, but counted by class and not by pair of classes."

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each label as the calibrated joint has off the diagonal."""
        return self.by_class(table, totals, self.prune_counts(totals))


@dataclass(frozen=True)
class PruneByNoiseRate(_Pruning):
    """For each label and other class, the rows with the largest margins between the two."""

    name = "prune_by_noise_rate"
    reads_pairs = True
    advice = "To clean a training set and leave few wrong rows: 0.86, 0.84."

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select as many rows of each pair as the calibrated joint has."""
        return self.by_pair(table, self.prune_counts(totals))


@dataclass(frozen=True)
class Both(_Pruning):
    """The rows that both pruning filters select."""

    name = "both"
    cuts_classes = True
    reads_pairs = True
    advice = "To clean a training set and lose few right rows: 0.96, 0.78."

    def select(self, table: Table, totals: IssueTotals, dtype: np.dtype[Any], *, exactly: bool) -> RowSelection:  # noqa: ARG002
        """Select the rows that both filters select."""
        prune = self.prune_counts(totals)
        return self.by_class(table, totals, prune) & self.by_pair(table, prune)


FILTERS: Final[dict[FilterName | None, type[Filter]]] = {
    kind.name: kind
    for kind in (
        LowestScores,
        Both,
        PruneByNoiseRate,
        PruneByClass,
        OffDiagonal,
        LowSelfConfidence,
        LowNormalizedMargin,
        PredictedNotGiven,
    )
}


def filter_of(settings: Settings) -> Filter:
    """Return the filter of `settings`.

    Raises
    ------
    InvalidInputError
        For settings that cannot be combined.
    """
    return FILTERS[settings.filter_by](settings)


def chosen_filter(options: JobSettings) -> Filter:
    """Return the filter of the options of a run, whose ``settings`` are the settings that change the result.

    Raises
    ------
    InvalidInputError
        For an unknown name, and for settings that cannot be combined.
    """
    method, filter_by, rule = options.method, options.filter_by, options.rule
    if filter_by is not None:
        check_one_of("filter_by", filter_by, tuple(name for name in FILTERS if name is not None))
    kind = FILTERS[filter_by]
    if options.rank_by is not None:
        if filter_by is None:
            raise InvalidInputError(
                "rank_by needs filter_by; without a filter, method both selects rows and ranks them"
            )
        if method not in ("self_confidence", options.rank_by):
            raise InvalidInputError(
                f"rank_by={options.rank_by!r} and method={method!r} are two scores to rank by: give one"
            )
        method = options.rank_by
    return kind(
        Settings(
            method,
            options.adjust_pred_probs,
            options.estimation_method,
            rule or ("confident_joint" if kind.exact_rule else "predicted_class"),
            filter_by,
            options.frac_noise,
            options.num_to_remove_per_class,  # type: ignore[arg-type]  # a tuple, once it is checked
            options.min_examples_per_class,
        )
    )


# Histograms of one chunk that are kept before they are added up.
_MOST_HISTOGRAMS: Final = 8
# A warning says if more rows than this share of the counted rows, and at least this number, are undecided.
_UNDECIDED_SHARE: Final = 0.1
_UNDECIDED_ROWS: Final = 10


@dataclass(frozen=True)
class SummaryCounts:
    """Counts and sums that come from comparing row summaries with the thresholds.

    Parameters
    ----------
    confident : ConfidentCounts or None
        Confident rows by label and predicted class; None if a second pass counts them.
    histogram : (B,) int64 or None
        Histogram of the scores that the filter cuts on; None if it cuts on none.
    scores : SparseClassSums or None
        Sums of the scores by label; None if the score is the label's probability, which the first pass adds up.
    n_counted : int
        Number of rows that `Filter.chooses`.
    """

    confident: ConfidentCounts | None = None
    histogram: Int64s | None = None
    scores: SparseClassSums | None = None
    n_counted: int = 0


class SummaryCounter:
    """Counts row summaries, block by block.

    Parameters
    ----------
    rule : Filter
        Says what has to be counted.
    thresholds : (K,) float64
        Confident thresholds.
    """

    def __init__(self, rule: Filter, thresholds: Float64s) -> None:
        self._rule, self._n_classes, settings = rule, len(thresholds), rule.settings
        self._confident = None
        if not settings.counts_joint:
            adjusted = adjusted_thresholds(thresholds)
            self._confident = ConfidentCounter(adjusted, finds_undecided=not rule.in_groups)
        # The first pass has added up plain self-confidences by label.
        self._scores = None if settings.plain_self_confidence else ClassSums.zeros(self._n_classes)
        self._histograms, self._n_counted = list[Int64s](), 0

    def add(self, block: SummaryBlock) -> None:
        """Count a block whose scores are final."""
        rule = self._rule
        if self._confident is not None:
            self._confident.add(block)
        if rule.cuts_scores:
            self._histograms.append(score_histogram(rule.cut_scores(block)))
        if rule.counts_rows:
            self._n_counted += int(np.count_nonzero(rule.chooses(block)))
        if self._scores is not None:
            sums = class_sums_chunk(block.label, scores_of(block), self._n_classes)
            self._scores = class_sums_combine([self._scores, sums])
        if len(self._histograms) > _MOST_HISTOGRAMS:
            self._histograms = [add_up(self._histograms)]

    def counts(self) -> SummaryCounts:
        """Return the counts of all blocks so far."""
        return SummaryCounts(
            None if self._confident is None else self._confident.counts(),
            add_up(self._histograms) if self._histograms else None,
            None if self._scores is None else SparseClassSums.of(self._scores),
            self._n_counted,
        )


def combine_counts(parts: Iterable[SummaryCounts]) -> SummaryCounts:
    """Add up counts, histograms and sums."""
    parts = list(parts)
    sums = [part.scores for part in parts if part.scores is not None]
    confident = [part.confident for part in parts if part.confident is not None]
    histograms = [part.histogram for part in parts if part.histogram is not None]
    return SummaryCounts(
        confident_combine(confident) if confident else None,
        add_up(histograms) if histograms else None,
        SparseClassSums.of(sparse_sums_combine(sums)) if sums else None,
        sum(part.n_counted for part in parts),
    )


def issue_totals(
    counts: SummaryCounts, joint: JointCounts | None, class_counts: Int64s, settings: Settings
) -> IssueTotals:
    """Return the totals by the rule of the settings; warn if the exact rule would likely count many other rows.

    Parameters
    ----------
    counts : SummaryCounts
        Counts of all row summaries.
    joint : JointCounts or None
        Counts of the confident joint, if the rule is that one.
    class_counts : (K,) int64
        Number of rows with each label.
    settings : Settings
        The settings.
    """
    if joint is not None:
        return IssueTotals(
            joint.joint,
            class_counts,
            estimated_issues(joint, calibrated=settings.calibrated),
            n_off_diagonal=joint.n_off_diagonal,
            n_counted=counts.n_counted,
            histogram=counts.histogram,
        )
    if counts.confident is None:
        raise RuntimeError("confident rows are counted in the summaries or in a second pass")
    issue_counts = counts.confident.issue_counts(class_counts, calibrated=settings.calibrated)
    note = _undecided_warning(counts.confident) if settings.filter_by is None else ""
    if note:
        warn(note)
    return IssueTotals(
        counts.confident,
        class_counts,
        issue_counts_finalize(issue_counts),
        n_counted=counts.n_counted,
        histogram=counts.histogram,
        note=note,
    )


def _undecided_warning(confident: ConfidentCounts) -> str:
    """Return a warning if many rows do not count that the confident joint likely counts, or ""."""
    n_counted = int(confident.counts.sum(dtype=np.int64))
    if confident.undecided < max(_UNDECIDED_ROWS, _UNDECIDED_SHARE * n_counted):
        return ""
    return (
        f"{n_counted:,} rows are counted by their predicted class; another {confident.undecided:,} do not reach its "
        "threshold, but may reach the low threshold of another class, so that the confident joint counts them: "
        "filter_by='low_self_confidence' or 'confident_learning' includes them"
    )


# Rows whose label is not nearly predicted have a lower probability of the label, and a lower margin.
_HALF: Final = np.float16(0.5)


@dataclass(frozen=True)
class LowestOfGroup:
    """The scores of each group of two classes.

    Parameters
    ----------
    cut_scores : callable
        Returns the scores of a block.
    only_low : bool
        Whether to leave out scores from 1/2 on. No more rows are wanted than have lower ones, or these are no issues.
    """

    cut_scores: Callable[[SummaryBlock], Floats]
    only_low: bool

    def __call__(self, block: SummaryBlock) -> Ranked:
        """Return positions, groups and scores."""
        scores = self.cut_scores(block)
        rows = np.flatnonzero(scores < _HALF) if self.only_low else np.arange(len(block))
        values: Float64s = scores[rows].astype(np.float64)
        return rows, block.label[rows] // 2, values


def low_self_confidence(block: SummaryBlock) -> Ranked:
    """Return positions, classes and probabilities of rows whose label has a probability below 1/2."""
    rows = np.flatnonzero(block.p_label < _HALF)
    return rows, block.label[rows], block.p_label[rows].astype(np.float64)


def negative_margins(block: SummaryBlock) -> Ranked:
    """Return positions, classes and negative margins of rows whose label is not predicted."""
    rows = np.flatnonzero(block.label != block.predicted)
    margins: Float64s = block.p_label[rows].astype(np.float64) - block.p_predicted[rows]
    return rows, block.label[rows], margins


def off_diagonal_of_group(block: SummaryBlock) -> Ranked:
    """Return positions, groups and probabilities of rows off the diagonal of the confident joint."""
    rows = np.flatnonzero(is_off_diagonal(block))
    return rows, block.label[rows] // 2, block.p_label[rows].astype(np.float64)


def joint_of_tags(counts: Int64s) -> ConfidentCounts:
    """Return ``(K, 2, 2)`` counts of tags, by label and class, as one joint of 2K classes."""
    n_classes, labels = 2 * len(counts), np.arange(2 * len(counts))
    off = counts[:, [0, 1], [1, 0]].reshape(-1)
    pairs = (labels * n_classes + (labels ^ 1)).astype(pair_dtype(n_classes))
    return ConfidentCounts(counts[:, [0, 1], [0, 1]].reshape(-1), pairs[off > 0], off[off > 0])


def joints_of_tags(joint: ConfidentCounts) -> Iterator[ConfidentCounts]:
    """Yield the joint of two classes of each tag."""
    off = np.zeros(joint.n_classes, np.int64)
    off[joint.given] = joint.counts
    for first in range(0, joint.n_classes, 2):
        counts = off[first : first + 2]
        yield ConfidentCounts(joint.diagonal[first : first + 2], np.array([1, 2])[counts > 0], counts[counts > 0])
