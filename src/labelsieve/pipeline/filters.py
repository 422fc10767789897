"""From the counts of a run to the rows that its filter takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from labelsieve.confident_learning.agreement import RowSample, may_not_fit, misfit
from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.pruning import (
    JointCounts,
    PruneCounts,
    calibrated_joint,
    estimated_issues,
    prune_counts,
    with_diagonal,
)
from labelsieve.confident_learning.selections import OffJoint, PredictedElse
from labelsieve.confident_learning.thresholds import Int64s, issue_counts_finalize
from labelsieve.confident_learning.validation import rows_in_words
from labelsieve.errors import InvalidInputError, MemoryLimitError, warn
from labelsieve.memory import candidate_bytes, size
from labelsieve.pipeline.run import Run
from labelsieve.pipeline.selecting import Selected
from labelsieve.settings import Settings
from labelsieve.tasks.partials import Looked, Partial
from labelsieve.tasks.scan import Counted

# Share of the counted rows that may be undecided before the rules are said to part, and how many at least.
_UNDECIDED_SHARE: Final = 0.1
_UNDECIDED_ROWS: Final = 10


@dataclass(frozen=True)
class Known:
    """What is known before rows are chosen.

    Parameters
    ----------
    counted : Counted
        Of all rows.
    confident : ConfidentCounts
        Confident rows by given label and class, by the settings' rule; by the exact one at least 1 on the diagonal.
    n_off : int
        Those off the diagonal of the confident joint whose label is not nearly predicted; 0 by the other rule.
    class_counts : (K,) int64
        All rows of each label.
    estimated : int
        Estimated number of issues, no more than there are rows.
    note : str
        What is odd about the counts; empty if nothing is.
    """

    counted: Counted
    confident: ConfidentCounts
    n_off: int
    class_counts: Int64s
    estimated: int
    note: str = ""


def check_settings(settings: Settings, n_classes: int) -> None:
    """Raise for choices that do not fit K classes; warn of those that do nothing."""
    numbers = settings.num_to_remove_per_class
    if numbers is not None and len(numbers) != n_classes:
        raise InvalidInputError(
            f"num_to_remove_per_class has {len(numbers):,} numbers, pred_probs {n_classes:,} classes"
        )
    if settings.unused:
        warn(f"filter_by={settings.filter_by!r} takes no {' and no '.join(settings.unused)}: nothing follows from it")


def known_counts(counted: Counted, looked: Looked | None, class_counts: Int64s, settings: Settings) -> Known:
    """Return the counts by the settings' rule; warn where the exact rule would count otherwise."""
    if looked is not None and looked.joint is not None:
        counts = JointCounts(with_diagonal(looked.joint), looked.n_off, class_counts)
        estimated = estimated_issues(counts, calibrated=settings.calibrated)
        return Known(counted, counts.joint, counts.n_off, class_counts, estimated)
    if counted.confident is None:
        raise RuntimeError("either the count or a second look gives the confident rows")
    of_class = counted.confident.issue_counts(class_counts, calibrated=settings.calibrated)
    note = _undecided(counted.confident) if settings.filter_by is None else ""
    if note:
        warn(note)
    return Known(counted, counted.confident, 0, class_counts, issue_counts_finalize(of_class), note)


def check_fit(run: Run, total: Partial, confident: ConfidentCounts) -> str:
    """Warn of labels that do not belong to the predictions, and return that text; "" if they do.

    Parameters
    ----------
    run : Run
        Has read all rows.
    total : Partial
        What that gave.
    confident : ConfidentCounts
        Confident rows by given label and class.
    """
    if not may_not_fit(total.agreement, total.sums.dense().counts, confident):
        return ""
    sample = RowSample(run.inputs.grid.n_rows)
    text = misfit(*run.sampled_classes(sample), run.inputs.n_classes, sample.n_rows, sample.window)
    if text:
        warn(text)
    return text


def choose(run: Run, known: Known, *, exactly: bool, room: int) -> Selected:
    """Return the rows that the filter of the run's settings takes.

    Parameters
    ----------
    run : Run
        Asked for its choices.
    known : Known
        What is known of all rows.
    exactly : bool
        See `Run.lowest`.
    room : int
        Bytes that each process may take for rows of largest margin.

    Raises
    ------
    MemoryLimitError
        Where these would take more.
    """
    settings, by = run.settings, run.settings.filter_by
    if settings.cuts_scores:
        # What the lowest scores are sorted by again is another score where a filter has one of its own.
        return run.lowest(known.counted.histogram, known.estimated, exactly=exactly or by is not None)
    if by == "confident_learning":
        return run.all_that(OffJoint(), known.n_off)
    if by == "predicted_neq_given":
        return run.all_that(PredictedElse(), known.counted.n_else)
    least = max(1, settings.min_examples_per_class)  # a single row of a class is never flagged there either
    prune = prune_counts(
        calibrated_joint(known.confident, known.class_counts),
        known.class_counts,
        frac_noise=settings.frac_noise,
        min_examples_per_class=settings.min_examples_per_class,
        num_to_remove_per_class=settings.num_to_remove_per_class,
    ).without(known.class_counts <= least)
    few = int(np.count_nonzero((known.class_counts > 0) & (known.class_counts <= least)))
    if few:
        classes = rows_in_words(few, "class has", "classes have")
        warn(f"{classes} no more than {least} labelled rows (min_examples_per_class): none of these is flagged")
    if settings.prunes_pairs:
        _check_room(int(prune.of_pair.sum()), run.n_threads, room)
    return _pruned(run, prune, known.class_counts)


def _check_room(n_candidates: int, n_threads: int, room: int) -> None:
    """Raise where so many rows of largest margin do not fit; how many is known only once rows are counted."""
    needed = candidate_bytes(n_candidates, n_threads)
    if needed > room:
        raise MemoryLimitError(
            f"the {n_candidates:,} rows of largest margin of all pairs would take {size(needed)}, and may take "
            f"{size(max(0, room))}. What takes less: fewer threads, a lower frac_noise, or filter_by='prune_by_class'"
        )


def _pruned(run: Run, prune: PruneCounts, class_counts: Int64s) -> Selected:
    by = run.settings.filter_by
    if by == "prune_by_class":
        return run.lowest_of_classes(prune.of_class, class_counts)
    if by == "prune_by_noise_rate":
        return run.largest_margins(prune)
    return run.lowest_of_classes(prune.of_class, class_counts) & run.largest_margins(prune)


def _undecided(confident: ConfidentCounts) -> str:
    """Tell where many rows are left out that the confident joint likely counts."""
    n_counted = int(confident.counts.sum(dtype=np.int64))
    if confident.undecided < max(_UNDECIDED_ROWS, _UNDECIDED_SHARE * n_counted):
        return ""
    return (
        f"{n_counted:,} rows are counted by their predicted class; another {confident.undecided:,} do not reach its "
        "threshold, but may reach that of a class with a low one, which the confident joint counts: "
        "filter_by='low_self_confidence' or 'confident_learning' tells"
    )
