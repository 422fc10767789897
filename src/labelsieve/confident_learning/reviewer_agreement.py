"""How far two reviewers agree, beyond what chance explains."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from labelsieve.confident_learning.dtypes import Int32s


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree.

    Parameters
    ----------
    reviewers : (str, str)
        Their names.
    n_rows : int
        Rows that both decided.
    share : float
        Share of these rows with the same resulting label (the given one for ``keep``; ``unsure`` is one more).
    kappa : float
        Cohen's kappa: ``(share - chance) / (1 - chance)``, where ``chance`` is the share that would be the same if both
        drew their resulting labels independently, as often as they gave them (Cohen 1960, *A coefficient of agreement
        for nominal scales*, Educational and Psychological Measurement 20(1)). NaN if both gave one and the same label
        to all rows, which chance explains.
    """

    reviewers: tuple[str, str]
    n_rows: int
    share: float
    kappa: float


def kappa_of(ours: Int32s, theirs: Int32s) -> tuple[float, float]:
    """Return the share of equal pairs, and Cohen's kappa.

    Parameters
    ----------
    ours, theirs : (n,) int32
        What each of two reviewers said of some rows, as codes.

    Examples
    --------
    >>> kappa_of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
    (0.75, 0.5)
    """
    n, n_same = len(ours), int(np.count_nonzero(ours == theirs))
    of_first, of_second = Counter(ours.tolist()), Counter(theirs.tolist())
    chance = sum(times * of_second[outcome] for outcome, times in of_first.items())  # of n * n, in whole numbers
    return n_same / n, (n_same * n - chance) / (n * n - chance) if chance < n * n else math.nan
