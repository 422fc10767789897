"""Row summaries of batches of predictions, which a model's own loop gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Floats, Ints
from labelsieve.confident_learning.logit_summarizer import LogitSummarizer
from labelsieve.confident_learning.quality_scores import (
    confidence_weighted_entropy,
    logit_margin,
    normalized_margin,
    row_sum,
)
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.summary_block import MAX_STRIP_ROWS, STRIP_BYTES, SummaryBlock
from labelsieve.confident_learning.top_classes import TOP_CLASSES, TOP_PROBS
from labelsieve.confident_learning.validation import MAX_RANGES, Findings, RowChecks, errors_in
from labelsieve.errors import InvalidInputError
from labelsieve.sources.recording_format import RecorderSettings

# Dtypes of other libraries, by the last part of their names.
_FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})

BatchColumns = dict[str, npt.NDArray[Any]]

# Columns that are computed from whole rows, by the name of the method that needs them.
SCORES: Final[dict[str, Callable[[Floats, Ints], npt.NDArray[np.float64]]]] = {
    "normalized_margin": normalized_margin,
    "confidence_weighted_entropy": confidence_weighted_entropy,
    "logit_margin": logit_margin,
    "row_sum": row_sum,
}


class BatchSummarizer:
    """Summarizes batches, with scratch arrays that are made once.

    Parameters
    ----------
    settings : RecorderSettings
        Number of classes, and what to compute.
    checks : RowChecks
        Which rows are accepted although they cannot be a distribution.
    ignored : int, optional
        The value of labels that says that a row has none.
    """

    def __init__(self, settings: RecorderSettings, checks: RowChecks, ignored: int | None = None) -> None:
        self._settings, self._checks, self._ignored = settings, checks, ignored
        self._summarizer: Summarizer | None = None
        self._summarizer_rows = 0

    def columns(self, labels: Ints, probs: Any, findings: Findings) -> BatchColumns:
        """Return the columns of a batch, and add what is wrong with it to `findings`, by the position in the batch.

        Parameters
        ----------
        labels : (n,) int
            Labels, in the processor's memory.
        probs : (n, K) ndarray or Bfloat16Rows
            Probabilities or logits.
        findings : Findings
            Bad or suspicious values.
        """
        settings, dtype = self._settings, probs.dtype.newbyteorder("=")
        step = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // (settings.n_classes * dtype.itemsize)))
        summarizer = self._summarizer_of(min(step, len(labels)), dtype)
        parts: list[BatchColumns] = []
        for start in range(0, len(labels), step):
            summarizer.restart()
            strip, given = probs[start : start + step], labels[start : start + step]
            parts.append(self._columns_of(summarizer, given, strip))
            found = summarizer.findings
            rename_rows(found, np.arange(start, start + len(given)))
            findings.extend(found)
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _columns_of(self, summarizer: Summarizer, labels: Ints, strip: Floats) -> BatchColumns:
        block: SummaryBlock = summarizer.add(labels, strip)
        columns: BatchColumns = {name: column.copy() for name, column in block.columns().items()}
        settings = self._settings
        if errors_in(summarizer.findings, self._checks) or not (settings.scores or settings.classes_per_row):
            return columns
        whole, given = np.ascontiguousarray(summarizer.probabilities(strip)), labels.astype(np.intp, copy=False)
        unlabelled = np.flatnonzero(block.label == settings.n_classes)
        if len(unlabelled):  # theirs may be anything
            whole, given = whole.copy(), given.copy()
            whole[unlabelled], given[unlabelled] = 0, 0
            whole[unlabelled, 0] = 1
        columns |= {name: SCORES[name](whole, given) for name in settings.scores}
        if settings.classes_per_row:
            columns |= _largest(whole, settings.classes_per_row, block.predicted.dtype)
        return columns

    def _summarizer_of(self, n_rows: int, dtype: np.dtype[Any]) -> Summarizer:
        """Return a summarizer for strips of `n_rows` rows, the same one as long as it is large enough."""
        dtype = np.dtype(np.float64) if self._settings.from_logits else dtype
        if self._summarizer is None or self._summarizer.dtype != dtype or self._summarizer_rows < n_rows:
            kind = LogitSummarizer if self._settings.from_logits else Summarizer
            self._summarizer = kind(n_rows, self._settings.n_classes, dtype, ignored=self._ignored)
            self._summarizer_rows = n_rows
        return self._summarizer


def check_batch(labels: npt.NDArray[Any], pred_probs: Any, n_classes: int) -> None:
    """Raise unless a batch has labels, and probabilities of all classes for each.

    Parameters
    ----------
    labels : array
        Labels.
    pred_probs : array of any library
        Probabilities or logits.
    n_classes : int
        Number of classes K.

    Raises
    ------
    InvalidInputError
        Naming the shapes or dtypes.
    """
    shape, dtype = tuple(pred_probs.shape), pred_probs.dtype
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        what = f"shape {labels.shape}" if labels.ndim != 1 else f"dtype {labels.dtype}"
        raise InvalidInputError(f"labels of a batch must be (n,) integers 0..K-1, not of {what}")
    if len(shape) != 2 or shape[1] != n_classes:
        raise InvalidInputError(f"pred_probs of a batch must have shape (n, {n_classes:,}), not {shape}")
    if shape[0] != len(labels):
        raise InvalidInputError(f"a batch has {len(labels):,} labels and {shape[0]:,} rows of pred_probs")
    known = dtype.char in "efd" if isinstance(dtype, np.dtype) else str(dtype).rpartition(".")[2] in _FLOATS
    if not known:
        raise InvalidInputError(f"pred_probs of a batch must be float16, bfloat16, float32 or float64, not {dtype}")


def rename_rows(findings: Findings, numbers: npt.NDArray[Any]) -> None:
    """Replace positions in `numbers` by what is there, in the rows of findings."""
    for kind, finding in list(findings.items()):
        places = np.concatenate([np.arange(start, stop) for start, stop in finding.ranges])
        renamed = Findings()
        renamed.add(kind, np.unique(numbers[places]), 0)
        more = finding.more or renamed[kind].more
        finding.ranges, finding.more = renamed[kind].ranges[:MAX_RANGES], more


def _largest(probs: Floats, k: int, classes: np.dtype[Any]) -> BatchColumns:
    """Return the `k` largest probabilities of each row, in descending order, and their classes, as one item a row."""
    n, n_classes = probs.shape
    found = np.argpartition(probs, n_classes - k, axis=1)[:, n_classes - k :]
    values = np.take_along_axis(probs, found, axis=1)
    order = np.lexsort((found, -values.astype(np.float64)), axis=1)
    found, values = np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
    little = values.dtype.newbyteorder("<"), classes.newbyteorder("<")
    as_items = [
        np.ascontiguousarray(array, dtype).view(f"V{k * dtype.itemsize}").reshape(n)
        for array, dtype in zip((values, found.astype(classes)), little, strict=True)
    ]
    return dict(zip((TOP_PROBS, TOP_CLASSES), as_items, strict=True))
