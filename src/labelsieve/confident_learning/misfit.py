"""Whether labels and predictions belong together, and if not, the likely cause.

A model's predictions agree with the labels far more often than two unrelated columns would. If they do not, the classes
or the rows of one input are in a different order, and nearly every row would be reported as an issue.

The check has two steps, so that it costs nothing in most runs. `may_not_fit` checks totals that every run has. Only if
they leave a doubt does `describe_misfit` compare the labels and predicted classes of up to 262,144 rows (`RowSample`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.confident_learning.thresholds import Bools, Float64s, Int64s, Ints, SummaryBlock, row_slices

# Agreement is more than chance from this number of standard deviations on.
_CLEAR: Final = 5.0
# If no cause is found, a warning needs more: agreement below this share of what the class counts allow, in data where
# full agreement would be this many standard deviations above chance. (Small or nearly constant data, and weak models,
# do not reach five standard deviations either.)
_WEAK: Final = 0.1
_LEAST_POWER: Final = 20.0
# If a class of few rows is hardly ever predicted, one agreeing row is many standard deviations. So more agreement than
# by chance must also be possible in this many rows, and a cause has to explain this many rows.
_LEAST_ROOM: Final = 80
_LEAST_ROWS: Final = 16
# Rows that are compared, and the number of neighbouring rows in each window of a sample.
SAMPLE_ROWS: Final = 1 << 18
_WINDOW: Final = 64
# If labels agree more than by chance, a shift of rows has to make this share of the rows agree in addition.
_LEAST_GAIN: Final = 0.01
# If labels agree more than by chance, a permutation of most classes has to multiply the agreement by this.
_LEAST_FACTOR: Final = 1.5
# Shifts of the rows of one input against the other that are tried.
_SHIFTS: Final = (1, -1, 2, -2, 3, -3)
# Classes of a permutation that a message lists.
_LISTED: Final = 5


class Agreement(NamedTuple):
    """Number of rows whose label is the predicted class, in their own row and in its neighbours.

    Parameters
    ----------
    same : int
        Number of rows whose label is the predicted class.
    next, before : int
        Number of rows whose label is the predicted class of the next row, or of the row before. They are summed over
        slices of rows. The row of each slice without such a neighbour is counted too, so that these numbers are upper
        bounds.
    """

    same: int
    next: int
    before: int

    @classmethod
    def of(cls, labels: Ints, predicted: Ints) -> Agreement:
        """Return the counts of ``(n,)`` labels and predicted classes."""
        counts = []
        for rows in row_slices(len(labels)):
            own, other = labels[rows], predicted[rows]
            matches = (own == other, own[:-1] == other[1:], own[1:] == other[:-1])
            counts.append([int(np.count_nonzero(match)) for match in matches])
        same, *shifted = (sum(numbers) for numbers in zip((0, 0, 0), *counts, strict=True))
        return cls(same, *(number + len(counts) for number in shifted))

    @classmethod
    def total(cls, parts: Iterable[Agreement]) -> Agreement:
        """Add up counts."""
        return cls(*(sum(numbers) for numbers in zip((0, 0, 0), *parts, strict=True)))


@dataclass(frozen=True)
class RowSample:
    """The rows that are compared: all, or evenly spaced windows of neighbouring rows.

    The windows are symmetric, so that the sample of the reversed rows is the reversed sample.

    Parameters
    ----------
    n_rows : int
        Number of all rows.
    """

    n_rows: int

    @property
    def window(self) -> int:
        """Number of rows of a window; if the sample has all rows, they are one window."""
        return self.n_rows if self.n_rows <= SAMPLE_ROWS else _WINDOW

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows of the sample in ``[start, stop)``."""
        if self.n_rows <= SAMPLE_ROWS:
            return np.arange(start, stop)
        half = SAMPLE_ROWS // _WINDOW // 2
        first = np.arange(half) * (self.n_rows // 2 // half)
        firsts = np.concatenate([first, (self.n_rows - _WINDOW - first)[::-1]])
        near = firsts[np.searchsorted(firsts, start - _WINDOW, side="right") : np.searchsorted(firsts, stop)]
        rows = (near[:, None] + np.arange(_WINDOW)).reshape(-1)
        return rows[(rows >= start) & (rows < stop)]

    def take(self, first_row: int, blocks: Iterable[SummaryBlock]) -> tuple[Ints, Ints]:
        """Return the labels and predicted classes of the rows in the sample, given blocks from `first_row` on."""
        labels, predicted = [], []
        for block in blocks:
            rows = self.rows(first_row, first_row + len(block)) - first_row
            labels.append(block.label[rows])
            predicted.append(block.predicted[rows])
            first_row += len(block)
        return np.concatenate(labels), np.concatenate(predicted)


@dataclass(frozen=True)
class Fit:
    """Agreement of two columns of classes, compared with chance: the agreement with one of them shuffled.

    Parameters
    ----------
    share : float
        Share of rows that agree.
    chance : float
        Expected share by chance.
    deviations : float
        Agreement beyond chance, in standard deviations of the agreement by chance; 0 if that does not vary.
    most : float
        The highest value of `deviations` with these class counts.
    gain : float
        Number of rows that agree beyond chance.
    room : float
        The highest value of `gain` with these class counts.
    """

    share: float
    chance: float
    deviations: float
    most: float
    gain: float
    room: float

    @property
    def strength(self) -> float:
        """Agreement beyond chance, as a share of the most that is possible."""
        return self.deviations / self.most if self.most else 0.0

    @property
    def weak(self) -> bool:
        """Whether the columns agree no more than by chance, in data where even a weak model would do better."""
        conclusive = self.most >= _LEAST_POWER and self.room >= _LEAST_ROOM
        return conclusive and self.deviations < _CLEAR and self.strength < _WEAK

    def beats(self, other: Fit) -> bool:
        """Whether this is clearly more agreement than `other`."""
        clear = self.deviations >= max(other.deviations, 0.0) + _CLEAR
        return clear and self.gain >= max(other.gain, 0.0) + _LEAST_ROWS

    @classmethod
    def of(cls, labels: Ints, predicted: Ints, n_classes: int) -> Fit:
        """Compare two ``(n,)`` columns. Chance is the mean and variance over all orders of one of them."""
        n = len(labels)
        label_counts = np.bincount(labels, minlength=n_classes).astype(np.float64)
        predicted_counts = np.bincount(predicted, minlength=n_classes).astype(np.float64)
        agreeing = int(np.count_nonzero(labels == predicted))
        products = label_counts * predicted_counts
        mean = float(products.sum()) / n
        variance = (products.sum() + mean**2 - (products * (label_counts + predicted_counts)).sum() / n) / max(n - 1, 1)
        # If one column is constant, the variance is 0, except for rounding.
        spread = float(np.sqrt(variance)) if variance > 1e-9 * n else 0.0
        gain, room = agreeing - mean, float(np.minimum(label_counts, predicted_counts).sum()) - mean
        deviations = (gain / spread, room / spread) if spread else (0.0, 0.0)
        return cls(agreeing / n, mean / n, *deviations, gain, room)


@dataclass(frozen=True)
class _Cause:
    """A cause of disagreement, and how well the inputs would fit without it."""

    fit: Fit
    text: str


def may_not_fit(agreement: Agreement, class_counts: Int64s, confident: ConfidentCounts) -> bool:
    """Return whether labels and predictions need to be compared, judged by totals over all rows.

    Parameters
    ----------
    agreement : Agreement
        Agreement of all rows.
    class_counts : (K,) int64
        Number of rows with each label.
    confident : ConfidentCounts
        Confident rows by label and class. If classes are in a different order, thresholds are low and most rows are
        confident.
    """
    n_rows = int(class_counts.sum())
    if n_rows < 2:
        return False
    # By chance at most as many rows agree as the largest class has, with a standard deviation of at most sqrt(n) / 2.
    chance = int(class_counts.max()) + _CLEAR / 2 * n_rows / np.sqrt(n_rows - 1)
    if agreement.same < chance or max(agreement.next, agreement.before) >= agreement.same + _CLEAR**2:
        return True
    # Look at the most frequent other class of each label.
    n_labels, n_largest = 0, 0
    for piece in confident.pieces():
        label_of_pair = piece.given
        first = np.flatnonzero(np.diff(label_of_pair, prepend=-1))
        largest = np.maximum.reduceat(piece.counts, first).astype(np.int64)
        n_labels += int(np.count_nonzero(2 * largest > class_counts[label_of_pair[first]]))
        n_largest += int(largest.sum())
    most_labels = 2 * n_labels > int(np.count_nonzero(class_counts))
    return most_labels or n_largest >= max(1, 2 * int(confident.diagonal.sum()))


def describe_misfit(labels: Ints, predicted: Ints, n_classes: int, n_rows: int, window: int | None = None) -> str:
    """Return a warning with the likely cause if labels and predictions do not belong together, else "".

    Parameters
    ----------
    labels, predicted : (n,) int
        Labels and predicted classes of a `RowSample`, in row order.
    n_classes : int
        Number of classes K.
    n_rows : int
        Number of all rows, for the message.
    window : int, optional
        Number of neighbouring rows in each window of the sample; by default all are neighbours.
    """
    window = window or len(labels)
    plain = Fit.of(labels, predicted, n_classes)
    causes = _other_classes(labels, predicted, n_classes, plain)
    causes += _shifted_rows(labels, predicted, n_classes, window, plain)
    if plain.deviations < _CLEAR:
        fit = Fit.of(labels[::-1], predicted, n_classes)
        if fit.beats(plain):
            text = f"the rows are reversed. With labels[::-1], {fit.share:.1%} of rows would agree"
            causes.append(_Cause(fit, text))
        # If neighbouring rows are alike, a shift leaves a little agreement, which explains nothing.
        causes = [cause for cause in causes if cause.fit.strength >= _WEAK or cause.fit.share >= 2 * cause.fit.chance]
    if not causes and not plain.weak:
        return ""
    cause = (
        "the rows are in different orders (labels or pred_probs was shuffled, sorted or filtered without the other), "
        "or the model has not learned these classes"
    )
    if causes:
        cause = max(causes, key=lambda cause: cause.fit.share).text
    examined = "" if len(labels) == n_rows else " examined"
    return (
        f"labels and pred_probs do not seem to belong together: the label is the predicted class in {plain.share:.1%} "
        f"of {len(labels):,} rows{examined}, where chance alone would give {plain.chance:.1%}. Likely cause: {cause}"
    )


def _other_classes(labels: Ints, predicted: Ints, n_classes: int, plain: Fit) -> list[_Cause]:
    """Return the cause that the classes are in a different order, if the labels fit clearly better after a permutation.

    If labels agree more than by chance, asymmetric noise is an alternative, and more is required: that the permutation
    doubles the agreement, or that it multiplies it by 1.5 and most rows of most classes are predicted as one other
    class.

    Each half of the rows is tested with the permutation that fits the other half best: with many classes of few rows,
    the best permutation fits the rows that it was made from in any case.
    """
    whole = _Pairs.of(labels, predicted, n_classes)
    order = whole.permutation()
    tested = np.empty_like(labels)
    for one, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        tested[other] = _Pairs.of(labels[one], predicted[one], n_classes).permutation()[labels[other]]
    fit = Fit.of(tested, predicted, n_classes)
    changed = tested != labels
    gained = int(np.count_nonzero(changed & (tested == predicted)))
    lost = int(np.count_nonzero(changed & (labels == predicted)))
    better = fit.beats(plain) and gained - lost >= _CLEAR * np.sqrt(gained + lost)
    factor = fit.share / plain.share if plain.share else np.inf
    needed = plain.deviations < _CLEAR or factor >= 2 or (factor >= _LEAST_FACTOR and whole.mostly_elsewhere())
    if not (better and needed):
        return []
    share = int(np.count_nonzero(order[labels] == predicted)) / len(labels)
    text = (
        f"the classes are in a different order. {_in_words(order, whole.present)}. With the labels renumbered like "
        f"this, {share:.1%} of rows would agree"
    )
    return [_Cause(replace(fit, share=share), text)]


def _shifted_rows(labels: Ints, predicted: Ints, n_classes: int, window: int, plain: Fit) -> list[_Cause]:
    """Return the causes that labels are shifted, one for each number of rows that gives clearly more agreement.

    Neighbouring rows often have the same label (words of a sentence, rows sorted by class). Such labels agree more than
    by chance after a shift too, but less than before it.
    """
    causes, labels, predicted = [], labels.reshape(-1, window), predicted.reshape(-1, window)
    same = labels == predicted
    for shift in _SHIFTS:
        by = abs(shift)
        if window <= by:
            continue
        ends, starts = (slice(by, None), f"[{by}:]"), (slice(None, -by), f"[:-{by}]")
        (own, of_labels), (other, of_probs) = (ends, starts) if shift > 0 else (starts, ends)
        shifted, kept = labels[:, own] == predicted[:, other], same[:, own]
        gained, lost = np.count_nonzero(shifted & ~kept), np.count_nonzero(kept & ~shifted)
        fit = Fit.of(labels[:, own].reshape(-1), predicted[:, other].reshape(-1), n_classes)
        if plain.deviations < _CLEAR:
            clear = fit.beats(plain)
        else:
            clear = gained - lost >= max(_CLEAR * np.sqrt(gained + lost), _LEAST_GAIN * shifted.size)
        if not clear:
            continue
        rows = "one row" if by == 1 else f"{by} rows"
        text = (
            f"labels are shifted by {rows}. With labels{of_labels} and pred_probs{of_probs}, {fit.share:.1%} of rows "
            "would agree"
        )
        causes.append(_Cause(fit, text))
    return causes


@dataclass(frozen=True)
class _Pairs:
    """Number of rows of each pair of label and predicted class that occurs.

    Parameters
    ----------
    labels, classes, counts : (P,) int64
        The pairs, sorted, with the number of rows of each.
    sizes : (K,) int64
        Number of rows with each label.
    """

    labels: Int64s
    classes: Int64s
    counts: Int64s
    sizes: Int64s

    @classmethod
    def of(cls, labels: Ints, predicted: Ints, n_classes: int) -> _Pairs:
        keys, counts = np.unique(labels.astype(np.int64) * n_classes + predicted, return_counts=True)
        return cls(keys // n_classes, keys % n_classes, counts, np.bincount(labels, minlength=n_classes))

    @property
    def present(self) -> Bools:
        """Which classes have labelled rows."""
        return self.sizes > 0

    def permutation(self) -> Int64s:
        """Return a permutation of the classes that takes labels to predicted classes, most frequent pairs first."""
        n_classes = len(self.sizes)
        order, taken = np.full(n_classes, -1), np.zeros(n_classes, np.bool_)
        frequent = np.argsort(-self.counts, kind="stable")
        for label, predicted in zip(self.labels[frequent].tolist(), self.classes[frequent].tolist(), strict=True):
            if order[label] < 0 and not taken[predicted]:
                order[label], taken[predicted] = predicted, True
        # Of the other classes, those that are free stay in place.
        free = (order < 0) & ~taken
        order[free] = np.flatnonzero(free)
        order[order < 0] = np.flatnonzero(~(taken | free))
        return order

    def mostly_elsewhere(self) -> bool:
        """Whether most rows of most labels are predicted as one other class, each label's its own."""
        most = (self.labels != self.classes) & (2 * self.counts > self.sizes[self.labels])
        return 2 * len(np.unique(self.classes[most])) > int(np.count_nonzero(self.present))


def _in_words(order: Int64s, present: Bools) -> str:
    """Return which labels a permutation moves, as a sentence."""
    labels = np.flatnonzero(present)
    moved = labels[order[labels] != labels].tolist()
    first, *others = moved[:_LISTED]
    listed = "".join(f", {label} as {order[label]}" for label in others)
    more = f", and {len(moved) - _LISTED:,} more are moved" if len(moved) > _LISTED else ""
    return f"Label {first} is mostly predicted as class {order[first]}{listed}{more}"


def describe_tag_misfit(means: Float64s, class_counts: Int64s) -> str:
    """Return a warning if examples with a tag have no higher probability of it than others; "" if they have.

    Parameters
    ----------
    means : (K, 2) float64
        Mean probability of not having, and of having each tag, over the examples that are so.
    class_counts : (K, 2) int64
        Number of these examples.
    """
    both = (class_counts > 0).all(axis=1)
    if not both.any():
        return ""
    counts, means = class_counts[both].astype(np.float64), means[both].clip(0, 1)
    p_without, p_with = 1 - means[:, 0], means[:, 1]
    mean = (p_without * counts[:, 0] + p_with * counts[:, 1]) / counts.sum(axis=1)
    # No probabilities of this mean vary more than 0 and 1 do.
    spread = np.sqrt(np.maximum(mean * (1 - mean), 1e-12) * (1 / counts).sum(axis=1))
    found, most = (float(one.sum() / np.sqrt(len(counts))) for one in ((p_with - p_without) / spread, 1 / spread))
    if most < _LEAST_POWER or found >= _CLEAR or found >= _WEAK * most:
        return ""
    return (
        "labels and pred_probs do not seem to belong together: over all tags, the mean probability of a tag is "
        f"{p_with.mean():.3g} for examples that have it, and {p_without.mean():.3g} for others. Likely cause: the "
        "examples or the tags are in different orders, or the model has not learned these tags"
    )
