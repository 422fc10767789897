"""`Recorder`: row summaries from a model's own loop, so that the probabilities are never stored.

Parts, interrupted loops, and examples for Hugging Face and Lightning are in `docs/inputs.md`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import MAX_RANGES, Findings, RowChecks, errors_in, raise_or_warn
from labelsieve.confident_learning.summarize import check_recordable
from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, LabelsieveError
from labelsieve.options import check_flag, check_ignored_number, check_whole_number
from labelsieve.sources.open import check_lengths, on_host, open_labels, open_pred_probs
from labelsieve.sources.recording import BatchSummarizer, PartWriter, RecorderSettings, rename_rows
from labelsieve.sources.source import Source
from labelsieve.sources.tables import column_values
from labelsieve.storage.folder import open_folder

__all__ = ["Recorder", "summarize_batch"]

logger = logging.getLogger("labelsieve")

# Row numbers beyond this are mistakes; sums of probabilities are exact up to it.
_MOST_ROWS: Final = 1 << 36
# Dtypes of other libraries, by the last part of their names.
_FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})
# Classes of `summarize_batch` are signed, as Spark and most databases have no other integers.
_CLASS_DTYPE: Final = np.dtype(np.int32)


class Recorder:
    """Records row summaries of batches of predictions in a folder; a context manager.

    Any number of processes may record at the same time, each a part of its own. `docs/inputs.md` explains rows, parts
    and interrupted loops.

    Parameters
    ----------
    path : path or URL
        Folder of the recording, which all parts share.
    n_classes : int
        Number of classes K.
    part : int
        Number of the part that this process records.
    from_logits : bool
        Whether `update` gets logits.
    n_rows : int, optional
        Number of rows of all parts together. Then rows that were never recorded are an error when the folder is read.
    scores : sequence of str
        Columns to compute from whole rows: ``"normalized_margin"``, ``"logit_margin"`` and
        ``"confidence_weighted_entropy"`` for the methods of these names, ``"row_sum"`` for `adjust_pred_probs` with
        self-confidence.
    classes_per_row : int
        How many of the largest probabilities of each row to keep, for the exact rule (``rule="confident_joint"`` and
        the filters that use it in two reads).
    ignore_label : int, optional
        The label that says that a row has none, such as -1 or 255. Its probabilities are not looked at.
    flush_rows : int
        Number of rows that are written at a time.
    resume : bool
        Whether to go on with a part that exists.
    allow_zero_rows, allow_unnormalized_rows : bool
        As in `labelsieve.find_label_issues`, which needs the first one again.

    Raises
    ------
    InvalidInputError
        If the folder was begun with other settings, or the part exists.
    InUseError
        If another recorder writes this part.
    UnwritableError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import labelsieve
    >>> labels = [0, 0, 1, 1, 1]
    >>> pred_probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with labelsieve.Recorder(folder, n_classes=2, n_rows=5) as recorder:
    ...         recorder.update(labels[3:], pred_probs[3:], rows=[3, 4])
    ...         recorder.update(labels[:3], pred_probs[:3], rows=[0, 1, 2])
    ...     recorder.rows_recorded
    5
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_classes: int,
        *,
        part: int = 0,
        from_logits: bool = False,
        n_rows: int | None = None,
        scores: Sequence[str] = (),
        classes_per_row: int = 0,
        ignore_label: int | None = None,
        flush_rows: int = 1_000_000,
        resume: bool = False,
        allow_zero_rows: bool = False,
        allow_unnormalized_rows: bool = False,
    ) -> None:
        self._folder = open_folder(path, "the folder of a recorder")
        n_classes = check_whole_number("n_classes", n_classes, 2)
        for name, flag in (("resume", resume), ("from_logits", from_logits)):
            check_flag(name, flag)
        self._settings = RecorderSettings(
            n_classes,
            from_logits,
            None if n_rows is None else check_whole_number("n_rows", n_rows, 1, "None or "),
            check_recordable(scores),
            check_whole_number("classes_per_row", classes_per_row, 0),
        )
        if classes_per_row > n_classes:
            raise InvalidInputError(f"classes_per_row is {classes_per_row:,}, there are {n_classes:,} classes")
        self._checks = RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows)
        self._summarizer = BatchSummarizer(self._settings, self._checks, check_ignored_number(ignore_label))
        self.part = check_whole_number("part", part, 0)
        flush_rows = check_whole_number("flush_rows", flush_rows, 1)
        self._writer = PartWriter(self._folder, self.part, self._settings, flush_rows, resume=resume)
        self._closed = False

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<Recorder: {self.rows_recorded:,} rows in {self._writer.where}{closed}>"

    @property
    def where(self) -> str:
        """Path or URL of the folder."""
        return self._folder.where

    @property
    def rows_recorded(self) -> int:
        """Number of rows given to `update` that are safely written, repeated ones included."""
        return self._writer.n_committed

    def update(self, labels: Any, pred_probs: Any, rows: Any = None, ids: Any = None) -> None:
        """Record a batch.

        Parameters
        ----------
        labels : (n,) array-like of int
            Labels, 0..K-1.
        pred_probs : (n, K) array-like of float
            Probabilities, or logits with `from_logits`; an array of any library with DLPack.
        rows : (n,) array-like of int, optional
            Numbers of the rows, from 0.
        ids : (n,) array-like of int or str, optional
            Row IDs.

        Raises
        ------
        InvalidInputError
            For bad data; the message names the part and the rows.
        InUseError
            If another recorder took over this part.
        UnwritableError
            If rows have to be written and cannot be. After any error nothing of the batch is recorded.
        """
        if self._closed:
            raise InvalidInputError(f"the recorder of {self._writer.where} is closed")
        findings, writer = Findings(), self._writer
        try:
            label, probs = on_host("labels", labels), on_host("pred_probs", pred_probs)
            _check_batch(label, probs, self._settings.n_classes)
            numbers = None if rows is None else self._checked_rows(rows, len(label))
            names = None if ids is None else _checked_ids(ids, len(label))
            writer.check_kind(has_rows=numbers is not None, has_ids=names is not None)
        except (InvalidInputError, InputTypeError) as error:
            raise type(error)(f"{writer.where}: {error}") from error
        if not len(label):
            return
        columns = self._summarizer.columns(label, probs, findings)
        if errors_in(findings, self._checks):
            self._refuse(findings, numbers, names)
        if numbers is not None:
            columns["row"] = numbers
        if names is not None:
            columns["id"] = names
        writer.add(columns)

    def _checked_rows(self, rows: Any, n: int) -> Int64s:
        array: npt.NDArray[Any] = on_host("rows", rows)
        if array.dtype.kind not in "iu" or array.shape != (n,):
            raise InvalidInputError(f"rows must be ({n},) integers, not {array.dtype} of shape {array.shape}")
        limit = self._settings.n_rows or _MOST_ROWS
        outside = np.flatnonzero((array < 0) | (array >= limit))
        if len(outside):
            raise InvalidInputError(
                f"rows must be 0..{limit - 1:,}, and {len(outside):,} are not (first: {array[outside[0]]})"
            )
        numbers: Int64s = array.astype(np.int64)
        return numbers

    def _refuse(self, findings: Findings, numbers: Int64s | None, names: npt.NDArray[Any] | None) -> None:
        """Raise for bad data, with the user's own numbers of the rows."""
        what = "row numbers are positions in the batch"
        if numbers is not None:
            rename_rows(findings, numbers)
            what = ""
        elif names is not None:
            bad = sorted({row for kind in errors_in(findings, self._checks) for row, _ in findings[kind].ranges})
            what = f"{what}; ids of the first: {', '.join(repr(names[row].item()) for row in bad[:MAX_RANGES])}"
        try:
            raise_or_warn(findings, self._settings.n_classes, self._checks)
        except InvalidInputError as error:
            text = f"{self._writer.where}, after {self.rows_recorded + self._writer.n_held:,} rows: {error}"
            raise InvalidInputError(f"{text} ({what})" if what else text).at(error.rows) from error

    def flush(self) -> None:
        """Write the rows that are not written yet.

        Raises
        ------
        InvalidInputError
            If a row was given twice with different values since the last flush.
        InUseError
            If another recorder took over this part.
        UnwritableError
            If they cannot be written. They are kept, and the next flush tries again.
        """
        self._writer.flush()

    def close(self) -> None:
        """Write all rows and close the part, so that the folder can be read. Raises as `flush` does."""
        if not self._closed:
            self._writer.close()
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._writer.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self.close()
            finally:
                if not self._closed:
                    self._release()
            return
        # What was recorded before the error is kept, and the part stays open.
        try:
            if not self._closed:
                self.flush()
        except LabelsieveError as second:
            logger.warning("%s: the rows since the last flush are lost: %s", self._writer.where, second)
        finally:
            self._release()


def _check_batch(labels: npt.NDArray[Any], pred_probs: Any, n_classes: int) -> None:
    """Raise unless a batch has labels, and probabilities of all classes for each."""
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


def _checked_ids(ids: Any, n: int) -> npt.NDArray[Any]:
    """Return ids as integers or as UTF-8."""
    array: npt.NDArray[Any] = on_host("ids", ids)
    if array.shape != (n,):
        raise InvalidInputError(f"ids must be ({n},) integers or strings, not of shape {array.shape}")
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and n and array.max() > np.iinfo(np.int64).max:
            raise InvalidInputError("integer ids must be below 2**63")
        return array.astype(np.int64)
    if array.dtype.kind == "O" and not all(isinstance(name, str) for name in array.tolist()):
        raise InputTypeError("ids must be integers or strings")
    if array.dtype.kind not in "UTO":
        raise InputTypeError(f"ids must be integers or strings, not {array.dtype}")
    texts = array.tolist()
    if any("\0" in text for text in texts):
        raise InvalidInputError("ids must not have null characters")
    return np.array([text.encode("utf-8", "backslashreplace") for text in texts], "S")


def summarize_batch(
    labels: Any,
    pred_probs: Any,
    *,
    from_logits: bool = False,
    scores: Sequence[str] = (),
    row: Any = None,
    id: Any = None,  # noqa: A002  # the name of the column
    ignore_label: int | None = None,
    allow_zero_rows: bool = False,
    allow_unnormalized_rows: bool = False,
) -> dict[str, npt.NDArray[Any]]:
    """Summarize the rows of a batch: the columns of a table for ``find_label_issues(summaries=...)``.

    Parameters
    ----------
    labels : (n,) array-like of int
        Given class of each row, 0..K-1.
    pred_probs : (n, K) array-like of float16, bfloat16, float32 or float64
        Out-of-sample probabilities of each class, or logits.
    from_logits : bool
        Whether `pred_probs` holds logits: probabilities are their softmax, in float64.
    scores : sequence of str
        Columns that other settings need: ``"normalized_margin"``, ``"logit_margin"`` and
        ``"confidence_weighted_entropy"`` for that `method` or `rank_by`, ``"row_sum"`` for ``adjust_pred_probs=True``.
    row : (n,) array-like of int, optional
        Numbers of the rows in the whole dataset.
    id : (n,) array-like of int or str, optional
        Row IDs.
    ignore_label : int, optional
        The label of rows that have none, such as -1 or 255. Their probabilities are not looked at, and the column
        ``label`` keeps that number: give the same `ignore_label` to `labelsieve.find_label_issues`.
    allow_zero_rows, allow_unnormalized_rows : bool
        As in `labelsieve.find_label_issues`, where the first is needed too.

    Returns
    -------
    dict of str to (n,) array
        ``label`` and ``predicted`` (int32), ``p_label`` and ``p_predicted`` (the dtype of `pred_probs`; of bfloat16
        float32, of logits float64), the `scores` (float64), and ``row`` and ``id`` if they are given. A batch without
        rows has columns without rows.

    Raises
    ------
    InvalidInputError
        A ValueError, for data that cannot give a right result, as in `labelsieve.find_label_issues`. The message counts
        rows from the first of the batch.
    InputTypeError
        A TypeError, for an object of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> batches = [labelsieve.summarize_batch(labels[rows], pred_probs[rows]) for rows in (slice(0, 3), slice(3, 5))]
    >>> batches[1]["p_predicted"]
    array([0.9 , 0.95])
    >>> table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    >>> labelsieve.find_label_issues(summaries=table, n_classes=2).indices
    array([4])
    """
    wanted, ignored = check_recordable(scores), check_ignored_number(ignore_label)
    checks = RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows)
    opened_labels, opened = open_labels(labels), open_pred_probs(pred_probs)
    if not isinstance(opened_labels, Source) or not isinstance(opened, Source):
        raise InputTypeError("summarize_batch takes a batch in memory, not a Dask array: give .compute() of its rows")
    check_lengths(opened_labels, opened)
    check_flag("from_logits", from_logits)
    n_rows, n_classes = opened.shape
    named = {"row": row, "id": id}
    names = {name: _checked_names(name, values, n_rows) for name, values in named.items() if values is not None}
    if not n_rows:
        dtype = np.dtype(np.float64) if from_logits else opened.dtype.newbyteorder("=")
        empty = {"label": _CLASS_DTYPE, "predicted": _CLASS_DTYPE, "p_label": dtype, "p_predicted": dtype}
        return {name: np.empty(0, one) for name, one in (empty | dict.fromkeys(wanted, np.float64)).items()} | names
    given, findings = opened_labels[:], Findings()
    summarizer = BatchSummarizer(RecorderSettings(n_classes, from_logits, scores=wanted), checks, ignored)
    columns = summarizer.columns(given, opened[:], findings)
    if findings:
        known = given[(given >= 0) & (given < n_classes)]
        counts = np.bincount(known.astype(np.intp), minlength=n_classes)
        counts[0] += n_rows - len(known)
        raise_or_warn(findings, n_classes, checks, counts)
    limits = np.iinfo(_CLASS_DTYPE)
    fits = ignored is None or limits.min <= ignored <= limits.max
    columns["label"] = given.astype(_CLASS_DTYPE if fits else np.int64)
    columns["predicted"] = columns["predicted"].astype(_CLASS_DTYPE)
    order = ("label", "predicted", "p_label", "p_predicted", *wanted)
    return {name: columns[name] for name in order} | names


def _checked_names(name: str, values: Any, n_rows: int) -> npt.NDArray[Any]:
    column = column_values(name, values)
    if len(column) != n_rows:
        raise InvalidInputError(f"{name} has {len(column):,} values, pred_probs {n_rows:,} rows")
    if name == "row" and column.dtype.kind not in "iu":
        raise InvalidInputError(f"row must be integers, not {column.dtype}: names of rows are given as id")
    return column
