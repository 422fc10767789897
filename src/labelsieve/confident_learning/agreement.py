"""Whether labels and predictions belong together, and if not, the likely cause.

A model's predictions agree with the labels far more often than two unrelated columns would. Where they do not, the
classes or the rows of one input are in another order, and nearly every row would be reported as an issue.

Two steps, so that the usual run pays nothing: `may_not_fit` looks at counts that a run has anyway, and only if these
leave a doubt are the labels and predicted classes of up to 262,144 rows (`RowSample`) examined by `misfit`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.confident_joint import ConfidentCounts
from labelsieve.confident_learning.dtypes import Bools, Int64s, Ints
from labelsieve.confident_learning.row_summary import SummaryBlock
from labelsieve.confident_learning.thresholds import row_slices

# Standard deviations that tell an agreement from chance.
_CLEAR: Final = 5.0
# Without a cause that fits the data, a warning takes more: agreement below this share of what the class counts allow,
# in data where full agreement would be this many standard deviations above chance. Small or nearly constant data and
# weak models do not reach five of them either.
_WEAK: Final = 0.1
_LEAST_POWER: Final = 20.0
# Deviations say nothing where a class of few rows is hardly ever predicted: one row by accident is many of them. There
# must also be this many more agreeing rows possible than by chance, and a cause has to explain this many more.
_LEAST_ROOM: Final = 80
_LEAST_ROWS: Final = 16
# Rows examined, and the neighbouring rows of which a sample consists.
SAMPLE_ROWS: Final = 1 << 18
_WINDOW: Final = 64
# Labels that do agree more than by chance are shifted only if that would make this share of the rows agree besides.
_LEAST_GAIN: Final = 0.01
# A permutation of most classes has to multiply the agreement by this, where labels agree more than by chance.
_LEAST_FACTOR: Final = 1.5
# Rows by which one input may be shifted against the other.
_SHIFTS: Final = (1, -1, 2, -2, 3, -3)
# Classes of a permutation that a message lists.
_LISTED: Final = 5


class Agreement(NamedTuple):
    """How many rows agree; sums over runs of rows, so that no more than three numbers travel.

    Parameters
    ----------
    same : int
        Rows whose label is the predicted class.
    next, before : int
        Rows whose label is the predicted class of the next row, or of the row before. The first or last row of each run
        counts as if it were, so these are at least the numbers for all rows, wherever the runs are cut.
    """

    same: int
    next: int
    before: int

    @classmethod
    def of(cls, labels: Ints, predicted: Ints) -> Agreement:
        """Count ``(n,)`` labels and predicted classes."""
        found = []
        for rows in row_slices(len(labels)):
            given, seen = labels[rows], predicted[rows]
            matches = (given == seen, given[:-1] == seen[1:], given[1:] == seen[:-1])
            found.append([int(np.count_nonzero(match)) for match in matches])
        same, *shifted = (sum(numbers) for numbers in zip((0, 0, 0), *found, strict=True))
        return cls(same, *(number + len(found) for number in shifted))

    @classmethod
    def total(cls, parts: Iterable[Agreement]) -> Agreement:
        """Add up counts."""
        return cls(*(sum(numbers) for numbers in zip((0, 0, 0), *parts, strict=True)))


@dataclass(frozen=True)
class RowSample:
    """The rows that are examined: all, or windows of neighbouring rows spread evenly.

    The windows are placed symmetrically, so that the reversed sample is the sample of the reversed rows.

    Parameters
    ----------
    n_rows : int
        All rows.
    """

    n_rows: int

    @property
    def window(self) -> int:
        """Rows of a window; all rows are one."""
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
        """Return the labels and predicted classes of the sample's rows in consecutive blocks from `first_row` on."""
        labels, predicted = [], []
        for block in blocks:
            rows = self.rows(first_row, first_row + len(block)) - first_row
            labels.append(block.label[rows])
            predicted.append(block.predicted[rows])
            first_row += len(block)
        return np.concatenate(labels), np.concatenate(predicted)


@dataclass(frozen=True)
class Fit:
    """How often two columns of classes agree.

    Parameters
    ----------
    share : float
        Share of rows that agree.
    chance : float
        The share to expect if one of the columns were shuffled.
    deviations : float
        Standard deviations of a shuffled column's agreement between the two; 0 if it is always the same.
    most : float
        Standard deviations between chance and the most agreement that these class counts allow.
    gain : float
        Rows that agree beyond chance.
    room : float
        The most rows that could, with these class counts.
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
        """Whether they agree no more than by chance, in data where even a weak model would do better."""
        telling = self.most >= _LEAST_POWER and self.room >= _LEAST_ROOM
        return telling and self.deviations < _CLEAR and self.strength < _WEAK

    def beats(self, other: Fit) -> bool:
        """Whether this is clearly more agreement than `other`."""
        clear = self.deviations >= max(other.deviations, 0.0) + _CLEAR
        return clear and self.gain >= max(other.gain, 0.0) + _LEAST_ROWS

    @classmethod
    def of(cls, labels: Ints, predicted: Ints, n_classes: int) -> Fit:
        """Compare two ``(n,)`` columns; the mean and variance are those over all orders of one of them."""
        n = len(labels)
        given = np.bincount(labels, minlength=n_classes).astype(np.float64)
        seen = np.bincount(predicted, minlength=n_classes).astype(np.float64)
        agreeing = int(np.count_nonzero(labels == predicted))
        products = given * seen
        mean = float(products.sum()) / n
        variance = (products.sum() + mean**2 - (products * (given + seen)).sum() / n) / max(n - 1, 1)
        # Rounding leaves a little where one column is constant.
        spread = float(np.sqrt(variance)) if variance > 1e-9 * n else 0.0
        gain, room = agreeing - mean, float(np.minimum(given, seen).sum()) - mean
        deviations = (gain / spread, room / spread) if spread else (0.0, 0.0)
        return cls(agreeing / n, mean / n, *deviations, gain, room)


@dataclass(frozen=True)
class _Cause:
    """An explanation, and how well the inputs would fit once it is mended."""

    fit: Fit
    text: str


def may_not_fit(agreement: Agreement, class_counts: Int64s, confident: ConfidentCounts) -> bool:
    """Return whether labels and predictions need to be examined; bounds alone, no rows.

    Parameters
    ----------
    agreement : Agreement
        Of all rows.
    class_counts : (K,) int64
        Rows of each label.
    confident : ConfidentCounts
        Confident rows by label and class. If classes are in another order, thresholds are low and most rows are among
        these.
    """
    n_rows = int(class_counts.sum())
    if n_rows < 2:
        return False
    # Chance is at most the share of the largest class, and its deviation at most sqrt(n) / 2 rows.
    chance = int(class_counts.max()) + _CLEAR / 2 * n_rows / np.sqrt(n_rows - 1)
    if agreement.same < chance or max(agreement.next, agreement.before) >= agreement.same + _CLEAR**2:
        return True
    n_labels, n_rows_elsewhere = 0, 0
    for piece in confident.pieces():
        given = piece.given
        first = np.flatnonzero(np.diff(given, prepend=-1))
        largest = np.maximum.reduceat(piece.counts, first).astype(np.int64)
        n_labels += int(np.count_nonzero(2 * largest > class_counts[given[first]]))
        n_rows_elsewhere += int(largest.sum())
    most_labels = 2 * n_labels > int(np.count_nonzero(class_counts))
    return most_labels or n_rows_elsewhere >= max(1, 2 * int(confident.diagonal.sum()))


def misfit(labels: Ints, predicted: Ints, n_classes: int, n_rows: int, window: int | None = None) -> str:
    """Return what is wrong with labels that do not belong to the predictions, and the likely cause; else "".

    Parameters
    ----------
    labels, predicted : (n,) int
        Classes of a `RowSample`, in row order.
    n_classes : int
        Number of classes K.
    n_rows : int
        Rows of which these are a sample; for the message.
    window : int, optional
        The columns are windows of this many neighbouring rows; one window by default.
    """
    window = window or len(labels)
    plain = Fit.of(labels, predicted, n_classes)
    causes = _other_classes(labels, predicted, n_classes, plain)
    causes += _shifted_rows(labels, predicted, n_classes, window, plain)
    if plain.deviations < _CLEAR:
        causes += _reversed_rows(labels, predicted, n_classes, plain)
        # Neighbours that are alike leave a little agreement wherever the rows are; that explains nothing.
        causes = [cause for cause in causes if cause.fit.strength >= _WEAK or cause.fit.share >= 2 * cause.fit.chance]
    if not causes and not plain.weak:
        return ""
    if causes:
        cause = max(causes, key=lambda cause: cause.fit.share).text
    else:
        cause = (
            "the rows are in different orders (labels or pred_probs was shuffled, sorted or filtered without the other)"
            ", or the model has not learned these classes"
        )
        share, top = _most_predicted(predicted)
        if share > 0.5 and 2 * np.count_nonzero(labels == top) < share * len(labels):
            cause = f"the model has not learned these classes: it predicts class {top} in {share:.1%} of rows"
    examined = "" if len(labels) == n_rows else " examined"
    return (
        f"labels and pred_probs do not seem to belong together: the label is the predicted class in {plain.share:.1%} "
        f"of {len(labels):,} rows{examined}, where chance alone would give {plain.chance:.1%}. Likely cause: {cause}"
    )


def _most_predicted(predicted: Ints) -> tuple[float, int]:
    """Return the share of the class that is predicted most often, and the class."""
    counts = np.bincount(predicted)
    return float(counts.max() / len(predicted)), int(counts.argmax())


def _other_classes(labels: Ints, predicted: Ints, n_classes: int, plain: Fit) -> list[_Cause]:
    """Return a permutation of the classes, if the labels fit clearly better with it.

    Labels that do agree more than by chance need more, since asymmetric noise looks similar: the permutation doubles
    the agreement, or most rows of most classes are predicted as one other class and it is half as much again.

    Each half of the rows is tested with the permutation of the other half: with many classes of few rows the best
    permutation agrees with the rows that it was made from, whatever these are.
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
    text = f"the classes are in a different order. {_in_words(order, whole.present)}, {share:.1%} of rows would agree"
    return [_Cause(replace(fit, share=share), text)]


def _reversed_rows(labels: Ints, predicted: Ints, n_classes: int, plain: Fit) -> list[_Cause]:
    """Return that the rows of one input are reversed, if they are."""
    fit = Fit.of(labels[::-1], predicted, n_classes)
    text = f"the rows are reversed. With labels[::-1], {fit.share:.1%} of rows would agree"
    return [_Cause(fit, text)] if fit.beats(plain) else []


def _shifted_rows(labels: Ints, predicted: Ints, n_classes: int, window: int, plain: Fit) -> list[_Cause]:
    """Return by how many rows labels are shifted, each number that would give clearly more agreement.

    Neighbouring rows often have the same label (words of a sentence, rows sorted by class): such labels agree more than
    by chance when they are shifted, but less than in their place.
    """
    found, given, seen = [], labels.reshape(-1, window), predicted.reshape(-1, window)
    same = given == seen
    for shift in _SHIFTS:
        by = abs(shift)
        if window <= by:
            continue
        ends, starts = (slice(by, None), f"[{by}:]"), (slice(None, -by), f"[:-{by}]")
        (own, of_labels), (other, of_probs) = (ends, starts) if shift > 0 else (starts, ends)
        shifted, kept = given[:, own] == seen[:, other], same[:, own]
        gained, lost = np.count_nonzero(shifted & ~kept), np.count_nonzero(kept & ~shifted)
        fit = Fit.of(given[:, own].reshape(-1), seen[:, other].reshape(-1), n_classes)
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
        found.append(_Cause(fit, text))
    return found


@dataclass(frozen=True)
class _Pairs:
    """Rows by label and predicted class, the pairs that occur.

    Parameters
    ----------
    labels, classes, counts : (P,) int64
        Ascending by label and class.
    sizes : (K,) int64
        Rows of each label.
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
        """Which classes have rows."""
        return self.sizes > 0

    def permutation(self) -> Int64s:
        """Return a class for each label, each class once: the most frequent pairs first."""
        n_classes = len(self.sizes)
        order, taken = np.full(n_classes, -1), np.zeros(n_classes, np.bool_)
        frequent = np.argsort(-self.counts, kind="stable")
        for label, predicted in zip(self.labels[frequent].tolist(), self.classes[frequent].tolist(), strict=True):
            if order[label] < 0 and not taken[predicted]:
                order[label], taken[predicted] = predicted, True
        # The rest stay where they are if that is free.
        free = (order < 0) & ~taken
        order[free] = np.flatnonzero(free)
        order[order < 0] = np.flatnonzero(~(taken | free))
        return order

    def mostly_elsewhere(self) -> bool:
        """Whether most rows of most labels are predicted as one other class, each label's its own."""
        most = (self.labels != self.classes) & (2 * self.counts > self.sizes[self.labels])
        return 2 * len(np.unique(self.classes[most])) > int(np.count_nonzero(self.present))


def _in_words(order: Int64s, present: Bools) -> str:
    """Write a permutation as the start of a sentence that ends in what would follow."""
    labels, n_classes = np.flatnonzero(present), len(order)
    if n_classes == 2:
        return "With labels = 1 - labels"
    steps = order[labels] - labels
    # Unsigned labels would wrap around below 0.
    if len(set(steps.tolist())) == 1:
        return f"With labels = labels.astype(int) {_signed(int(steps[0]))}"
    wrapped = set((steps % n_classes).tolist())
    if len(wrapped) == 1:
        [step] = wrapped
        step = step - n_classes if 2 * step > n_classes else step
        return f"With labels = (labels.astype(int) {_signed(step)}) % {n_classes}"
    moved = labels[order[labels] != labels].tolist()
    first, *others = moved[:_LISTED]
    listed = "".join(f", {label} as {order[label]}" for label in others)
    more = f", and {len(moved) - _LISTED:,} more are moved" if len(moved) > _LISTED else ""
    return (
        f"Label {first} is mostly predicted as class {order[first]}{listed}{more}. With the labels renumbered like this"
    )


def _signed(step: int) -> str:
    return f"{'-' if step < 0 else '+'} {abs(step)}"
