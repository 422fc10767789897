"""Logits in place of probabilities: the softmax of each row is computed as it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Float64s
from labelsieve.confident_learning.logit_summarizer import LogitSummarizer
from labelsieve.confident_learning.softmax import softmax
from labelsieve.sources.base import Rows, Source
from labelsieve.sources.derived import DerivedSource


class LogitsSource(DerivedSource):
    """Probabilities in float64 of stored logits.

    Parameters
    ----------
    source : Source
        ``(N, K)`` logits.
    """

    summarizer = LogitSummarizer

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.float64)

    def convert(self, rows: npt.NDArray[Any], first_row: int) -> Float64s:  # noqa: ARG002  # no messages
        """Return the probabilities of the rows."""
        return softmax(rows)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open the logits themselves, which `LogitSummarizer` takes."""
        return self.source.open(start, stop)
