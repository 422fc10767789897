"""`Recorder`: row summaries from a model's own loop, so that the probabilities are never stored.

The method needs about 10 bytes of a row, whatever the number of classes. A recorder takes them from each batch of
predictions, and writes them to a folder; `labelsieve.find_label_issues` reads the folder:

    with labelsieve.Recorder("s3://bucket/summaries", n_classes=1000, part=rank) as recorder:
        for batch in loader:
            recorder.update(batch.labels, model(batch.x), rows=batch.rows)
    issues = labelsieve.find_label_issues(summaries="s3://bucket/summaries")

The result is that of the stored array, to the bit.

## Rows and parts

Any number of processes record at the same time, each a *part* of its own: a rank, a shard, a fold.

- With `rows=` rows may come in any order and in any part. A row may come more than once, since a distributed sampler
  repeats rows to fill its last batches: it counts once. With another label or other probabilities it is an error that
  names both parts. Give `n_rows` so that a row that never came is found.
- With `ids=` alone, or neither, the rows of a part are numbered as they come, and parts are joined in their order. The
  result has the ids.

## Interrupted loops

Rows are written every `flush_rows` rows, and when the recorder closes. A process that is killed loses what it recorded
since then. With ``resume=True`` its part goes on: `Recorder.rows_recorded` says how many rows given to `update` are
safe, so that a loop in the same order can skip them; with `rows=` it can also start over.

A part that was not closed cannot be read: the error names it. A part that exists is an error without ``resume=True``,
and so are two recorders of the same part at a time. (On a disk the second one is refused. An object store has no locks:
there the recorder that was opened last goes on, and the other one fails at its next flush. Their rows never mix.)

## Arrays

Batches may be NumPy arrays, lists, and arrays of PyTorch, JAX, CuPy and whatever else has the array API. What is in the
processor's memory is read in place. On another device (CUDA) the batch is summarized there, by functions of the array
API (``pip install labelsieve[arrays]``), and only the summaries are copied, with the rows that may have bad values.
Logits, scores and `classes_per_row` are computed by NumPy, so for these a batch is copied first.

## In a training framework

A `Trainer` of Hugging Face that records what it predicts or evaluates, on each of its processes. The data set has a
column ``row`` with the numbers of its rows, and `TrainingArguments` has ``remove_unused_columns=False``:

    import transformers

    class RecordingTrainer(transformers.Trainer):
        recorder = None  # labelsieve.Recorder(path, n_classes, part=trainer.args.process_index, from_logits=True)

        def compute_loss(self, model, inputs, *args, **kwargs):
            inputs.pop("row", None)  # the model does not take it
            return super().compute_loss(model, inputs, *args, **kwargs)

        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            rows = inputs.pop("row")
            loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
            if self.recorder is not None:
                self.recorder.update(labels, logits, rows=rows)
            return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

A callback of Lightning that records the logits which `predict_step` returns. Its batches are dictionaries with
``label`` and ``row``:

    import lightning
    import labelsieve

    class RecordPredictions(lightning.Callback):
        def __init__(self, path, n_classes):
            self.path, self.n_classes = path, n_classes

        def on_predict_start(self, trainer, pl_module):
            self.recorder = labelsieve.Recorder(
                self.path, self.n_classes, part=trainer.global_rank, from_logits=True
            )

        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            self.recorder.update(batch["label"], outputs, rows=batch["row"])

        def on_predict_end(self, trainer, pl_module):
            self.recorder.close()
"""

from __future__ import annotations

import io
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.dtypes import Floats, Int64s, Ints, class_dtype
from labelsieve.confident_learning.logit_summarizer import LogitSummarizer
from labelsieve.confident_learning.quality_scores import confidence_weighted_entropy, normalized_margin, row_sum
from labelsieve.confident_learning.summarizer import Summarizer
from labelsieve.confident_learning.summary_block import MAX_STRIP_ROWS, STRIP_BYTES, SummaryBlock
from labelsieve.confident_learning.validation import MAX_RANGES, Findings, RowChecks, errors_in, raise_or_warn
from labelsieve.errors import InputTypeError, InUseError, InvalidInputError, LabelsieveError, WorkdirError
from labelsieve.settings import check_flag, check_whole_number
from labelsieve.sources.device_arrays import check_batch, is_on_device, on_host, summarize_on_device
from labelsieve.sources.recordings import (
    BLOCK_ROWS,
    BY_NUMBER,
    BY_POSITION,
    CLOSED,
    FORMAT,
    SETTINGS,
    RecorderSettings,
    Segment,
    part_folder,
    segment_name,
    segment_numbers,
)
from labelsieve.storage.folders import OutputFile, open_folder
from labelsieve.storage.lock import own_folder
from labelsieve.storage.record_files import DamagedRecordError, RecordWriter

__all__ = ["Recorder"]

logger = logging.getLogger("labelsieve")

# Columns that are computed from whole rows, by the name of the method that needs them.
SCORES: Final[dict[str, Callable[[Floats, Ints], npt.NDArray[np.float64]]]] = {
    "normalized_margin": normalized_margin,
    "confidence_weighted_entropy": confidence_weighted_entropy,
    "row_sum": row_sum,
}
# Row numbers beyond this are mistakes; sums of probabilities are exact up to it.
_MOST_ROWS: Final = 1 << 36


class Recorder:
    """Records row summaries of batches of predictions in a folder; a context manager.

    The module page (`labelsieve.recorder`) explains rows, parts and what happens when a loop is interrupted.

    Parameters
    ----------
    path : path or URL
        Folder of the recording, which all parts share.
    n_classes : int
        Number of classes K.
    part : int
        Number of the part that this process records.
    from_logits : bool
        Whether `update` gets logits; their probabilities are computed in float64.
    n_rows : int, optional
        Number of rows of all parts together. Then rows that were never recorded are an error when the folder is read.
    scores : sequence of str
        Columns to compute from whole rows: ``"normalized_margin"`` and ``"confidence_weighted_entropy"`` for the
        methods of these names, ``"row_sum"`` for `adjust_pred_probs` with self-confidence.
    flush_rows : int
        Number of rows that are written at a time.
    resume : bool
        Whether to go on with a part that exists.
    allow_zero_rows, allow_unnormalized_rows : bool
        As in `labelsieve.find_label_issues`.

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
        flush_rows: int = 1_000_000,
        resume: bool = False,
        allow_zero_rows: bool = False,
        allow_unnormalized_rows: bool = False,
    ) -> None:
        self._folder = open_folder(path, "the folder of a recorder")
        self.part = check_whole_number("part", part, 0)
        self._flush_rows = check_whole_number("flush_rows", flush_rows, 1)
        check_flag("resume", resume)
        check_flag("from_logits", from_logits)
        self._settings = RecorderSettings(
            check_whole_number("n_classes", n_classes, 2),
            from_logits,
            None if n_rows is None else check_whole_number("n_rows", n_rows, 1, "None or "),
            _checked_scores(scores),
            check_whole_number("classes_per_row", classes_per_row, 0),
        )
        if classes_per_row > n_classes:
            raise InvalidInputError(f"classes_per_row is {classes_per_row:,}, there are {n_classes:,} classes")
        self._checks = RowChecks.of(allow_zero_rows=allow_zero_rows, allow_unnormalized_rows=allow_unnormalized_rows)
        self._where = f"part {self.part} of {self._folder.where}"
        self._inner, self._owner = part_folder(self._folder, self.part), uuid.uuid4().hex
        self._by: str | None = None
        self._has_ids: bool | None = None
        self._n_segments = self._n_committed = self._n_stored = 0
        self._summarizer: Summarizer | None = None
        self._summarizer_rows = 0
        self._buffer: _Buffer | None = None
        self._stack = ExitStack()
        self._join_folder()
        with ExitStack() as stack:
            self._check_owned = stack.enter_context(own_folder(self._inner, self._where))
            self._begin(resume=resume)
            self._stack = stack.pop_all()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Recorder: {self.rows_recorded:,} rows in {self._where}{', closed' if self._closed else ''}>"

    @property
    def where(self) -> str:
        """Path or URL of the folder."""
        return self._folder.where

    @property
    def rows_recorded(self) -> int:
        """Number of rows of this part, given to `update`, that are safely written; repeated ones are counted."""
        return self._n_committed

    def _join_folder(self) -> None:
        """Begin the folder, or compare its settings."""
        found = RecorderSettings.read(self._folder)
        if found is None:
            try:
                self._folder.write_new(SETTINGS, self._settings.to_json())
            except FileExistsError:  # another part was faster
                found = RecorderSettings.read(self._folder)
        if found is not None and found != self._settings:
            raise InvalidInputError(
                f"part {self.part} has {self._settings.differences(found)} as {self.where} was begun: all parts need "
                "the same settings"
            )

    def _begin(self, *, resume: bool) -> None:
        """Find what is there of this part."""
        names = self._inner.names()
        numbers = segment_numbers(names)
        if not resume and (numbers or CLOSED in names):
            raise InvalidInputError(
                f"{self._where} exists, with {len(numbers)} flushes: give resume=True to go on with it, another "
                f"part, or delete {self._inner.where}"
            )
        for name in names:
            if name.startswith("."):  # left by a process that was killed
                self._inner.remove(name)
        if numbers != list(range(len(numbers))):
            raise WorkdirError(f"{self._where} lacks some of its files: delete {self._inner.where}, record it again")
        for number in numbers:
            try:
                segment = Segment.read(self._folder, self.part, number)
            except (DamagedRecordError, FileNotFoundError) as error:
                raise WorkdirError(
                    f"{self._where} cannot go on: {error}. Delete {self._inner.where}, record it again"
                ) from error
            self._n_committed += segment.n_updated
            self._n_stored += segment.n_rows
            self._by, self._has_ids = segment.by, "id" in segment.dtypes
        self._n_segments = len(numbers)
        if CLOSED in names:
            self._inner.remove(CLOSED)

    def update(self, labels: Any, pred_probs: Any, rows: Any = None, ids: Any = None) -> None:
        """Record a batch.

        Parameters
        ----------
        labels : (n,) array-like of int
            Labels, 0..K-1.
        pred_probs : (n, K) array-like of float
            Probabilities, or logits with `from_logits`; an array of any library with the array API.
        rows : (n,) array-like of int, optional
            Numbers of the rows, from 0.
        ids : (n,) array-like of int or str, optional
            Names of the rows.

        Raises
        ------
        InvalidInputError
            For bad data; the message names the part and the rows. Nothing of the batch is recorded then.
        InUseError
            If another recorder took over this part.
        """
        if self._closed:
            raise InvalidInputError(f"the recorder of {self._where} is closed")
        label = on_host("labels", labels)
        probs = pred_probs if is_on_device(pred_probs) else on_host("pred_probs", pred_probs)
        try:
            check_batch(label, probs, self._settings.n_classes)
            numbers = self._checked_rows(rows, len(label))
            names = None if ids is None else _checked_ids(ids, len(label))
            self._check_kind(numbers, names)
        except InvalidInputError as error:
            raise InvalidInputError(f"{self._where}: {error}") from error
        if not len(label):
            return
        columns = self._summarized(label, probs, numbers, names)
        if self._buffer is not None and not self._buffer.fits(columns):
            self.flush()
            self._buffer = None
        if self._buffer is None:
            self._buffer = _Buffer(columns, max(self._flush_rows, len(label)))
        self._buffer.add(columns)
        if self._buffer.n_rows >= self._flush_rows:
            self.flush()

    def _checked_rows(self, rows: Any, n: int) -> Int64s | None:
        if rows is None:
            return None
        array = on_host("rows", rows)
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

    def _check_kind(self, numbers: Int64s | None, names: npt.NDArray[Any] | None) -> None:
        """Raise unless all batches of the part number and name their rows in the same way."""
        by = BY_POSITION if numbers is None else BY_NUMBER
        if (self._by or by) != by:
            raise InvalidInputError(f"earlier batches were given {'with' if numbers is None else 'without'} rows=")
        if self._has_ids is not None and self._has_ids != (names is not None):
            raise InvalidInputError(f"earlier batches were given {'with' if names is None else 'without'} ids=")
        if by == BY_POSITION and self._settings.n_rows is None and self._n_stored >= _MOST_ROWS:
            raise InvalidInputError(f"more than {_MOST_ROWS:,} rows")
        self._by, self._has_ids = by, names is not None

    def _summarized(
        self, labels: Ints, probs: Any, numbers: Int64s | None, names: npt.NDArray[Any] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a batch, or raise if it has bad data."""
        findings = Findings()
        columns = self._summarized_on_device(labels, probs, findings) if is_on_device(probs) else None
        if columns is None:
            host = on_host("pred_probs", probs) if is_on_device(probs) else probs
            columns = self._summarized_here(labels, host, findings)
        if errors_in(findings, self._checks):
            self._refuse(findings, numbers, names)
        if numbers is not None:
            columns["row"] = numbers
        if names is not None:
            columns["id"] = names
        return columns

    def _summarized_on_device(self, labels: Ints, probs: Any, findings: Findings) -> dict[str, npt.NDArray[Any]] | None:
        """Summarize a batch on its device; None if a setting needs NumPy, or a label is wrong."""
        settings = self._settings
        if settings.from_logits or settings.scores or settings.classes_per_row or not len(labels):
            return None
        if labels.min() < 0 or labels.max() >= settings.n_classes:
            return None
        summary = summarize_on_device(labels, probs)
        if summary is None:
            return None
        classes = class_dtype(settings.n_classes)
        columns: dict[str, npt.NDArray[Any]] = {
            "label": labels.astype(classes),
            "predicted": summary.predicted.astype(classes),
            "p_label": summary.p_label,
            "p_predicted": summary.p_predicted,
        }
        if len(summary.suspects):
            found = Findings()
            some = self._summarized_here(labels[summary.suspects], summary.rows, found)
            for name, column in columns.items():
                column[summary.suspects] = some[name]
            _with_positions(found, summary.suspects)
            findings.extend(found)
        return columns

    def _summarized_here(self, labels: Ints, probs: Floats, findings: Findings) -> dict[str, npt.NDArray[Any]]:
        """Summarize a batch in the processor's memory, strip by strip."""
        settings, dtype = self._settings, probs.dtype.newbyteorder("=")
        step = max(1, min(MAX_STRIP_ROWS, STRIP_BYTES // (settings.n_classes * dtype.itemsize)))
        summarizer = self._summarizer_of(min(step, len(labels)), dtype)
        parts: list[dict[str, npt.NDArray[Any]]] = []
        for start in range(0, len(labels), step):
            summarizer.restart()
            strip, given = probs[start : start + step], labels[start : start + step]
            parts.append(self._columns_of(summarizer, given, strip))
            found = summarizer.findings
            _with_positions(found, np.arange(start, start + len(given)))
            findings.extend(found)
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _columns_of(self, summarizer: Summarizer, labels: Ints, strip: Floats) -> dict[str, npt.NDArray[Any]]:
        block: SummaryBlock = summarizer.add(labels, strip)
        columns: dict[str, npt.NDArray[Any]] = {name: column.copy() for name, column in block.columns().items()}
        settings = self._settings
        if errors_in(summarizer.findings, self._checks) or not (settings.scores or settings.classes_per_row):
            return columns
        whole = np.ascontiguousarray(summarizer.probabilities(strip))
        given = labels.astype(np.intp, copy=False)
        columns |= {name: SCORES[name](whole, given) for name in settings.scores}
        if settings.classes_per_row:
            columns |= _largest(whole, settings.classes_per_row, block.predicted.dtype)
        return columns

    def _summarizer_of(self, n_rows: int, dtype: np.dtype[Any]) -> Summarizer:
        """Return a summarizer for strips of `n_rows` rows, the same one as long as it is large enough."""
        dtype = np.dtype(np.float64) if self._settings.from_logits else dtype
        if self._summarizer is None or self._summarizer.dtype != dtype or self._summarizer_rows < n_rows:
            kind = LogitSummarizer if self._settings.from_logits else Summarizer
            self._summarizer = kind(n_rows, self._settings.n_classes, dtype)
            self._summarizer_rows = n_rows
        return self._summarizer

    def _refuse(self, findings: Findings, numbers: Int64s | None, names: npt.NDArray[Any] | None) -> None:
        """Raise for bad data, with the user's own numbers of the rows."""
        what = "row numbers are positions in the batch"
        if numbers is not None:
            _with_positions(findings, numbers)
            what = ""
        elif names is not None:
            bad = sorted({row for kind in errors_in(findings, self._checks) for row, _ in findings[kind].ranges})
            what = f"{what}; ids of the first: {', '.join(repr(names[row].item()) for row in bad[:MAX_RANGES])}"
        try:
            raise_or_warn(findings, self._settings.n_classes, self._checks)
        except InvalidInputError as error:
            text = f"{self._where}, after {self._n_given:,} rows: {error}"
            raise InvalidInputError(f"{text} ({what})" if what else text).at(error.rows) from error

    @property
    def _n_given(self) -> int:
        return self._n_committed + (0 if self._buffer is None else self._buffer.n_rows)

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
        if self._buffer is None or not self._buffer.n_rows:
            return
        self._check_owned()
        n_updated = self._buffer.n_rows
        columns = self._buffer.columns()
        base, consecutive = 0, True
        if self._by == BY_NUMBER:
            columns = self._sorted(columns)
            numbers = columns.pop("row")
            base, last = int(numbers[0]), int(numbers[-1])
            consecutive = last - base == len(numbers) - 1
            first_rows, stop = numbers[::BLOCK_ROWS], last + 1
            if not consecutive:
                numbers = numbers - base
                columns["row"] = numbers.astype(np.uint32) if last - base < 1 << 32 else numbers
        else:
            stop = len(columns["label"])
            first_rows = np.arange(0, stop, BLOCK_ROWS)
        content = io.BytesIO()
        header = {"format": FORMAT, "part": self.part, "segment": self._n_segments, "owner": self._owner}
        writer = RecordWriter(OutputFile(content, self._where), header)
        n_rows = len(columns["label"])
        for start in range(0, n_rows, BLOCK_ROWS):
            writer.add({name: column[start : start + BLOCK_ROWS] for name, column in columns.items()})
        writer.finish(
            {"by": self._by, "base": base, "stop": stop, "n_updated": n_updated, "first_rows": first_rows.tolist()}
        )
        try:
            self._inner.write_new(segment_name(self._n_segments), content.getbuffer())
        except FileExistsError:
            raise InUseError(
                f"{self._where} is written by another recorder, which has made flush {self._n_segments}: only one "
                "recorder may write a part; give each process its own"
            ) from None
        self._n_segments += 1
        self._n_committed += n_updated
        self._n_stored += n_rows
        self._buffer.clear()

    def _sorted(self, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the columns in the order of their row numbers, each row once."""
        rows = columns["row"]
        steps = np.diff(rows)
        if (steps > 0).all():
            return columns
        order = np.argsort(rows, kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        again = np.flatnonzero(np.diff(columns["row"]) == 0)
        if not len(again):
            return columns
        for name, column in columns.items():
            differs = again[column[again] != column[again + 1]]
            if len(differs):
                row, at = int(columns["row"][differs[0]]), int(differs[0])
                raise InvalidInputError(
                    f"{self._where}: row {row:,} was given twice with different values: {name} is {column[at]} and "
                    f"{column[at + 1]}, and {len(differs) - 1:,} other rows too. Repeated rows must have the same "
                    "label and the same probabilities"
                ).at([(row, row + 1)])
        once = np.ones(len(rows), np.bool_)
        once[again + 1] = False
        return {name: column[once] for name, column in columns.items()}

    def close(self) -> None:
        """Write all rows and close the part, so that the folder can be read."""
        if self._closed:
            return
        self.flush()
        self._check_owned()
        facts = f'{{"segments": {self._n_segments}, "rows": {self._n_committed}}}'
        self._inner.write(CLOSED, facts.encode())
        self._release()

    def _release(self) -> None:
        self._closed = True
        self._stack.close()

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
            logger.warning("%s: the rows since the last flush are lost: %s", self._where, second)
        finally:
            self._release()


class _Buffer:
    """Columns of rows that are not written yet.

    Parameters
    ----------
    columns : dict
        The first batch, for names and dtypes.
    capacity : int
        Number of rows.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]], capacity: int) -> None:
        self._columns = {name: np.empty(capacity, column.dtype) for name, column in columns.items()}
        self._capacity, self.n_rows = capacity, 0

    def fits(self, columns: dict[str, npt.NDArray[Any]]) -> bool:
        """Return whether a batch can be added: there is room, and its dtypes are the same."""
        n = len(columns["label"])
        return self.n_rows + n <= self._capacity and all(
            column.dtype == self._columns[name].dtype or (name == "id" and column.dtype.kind == "S")
            for name, column in columns.items()
        )

    def add(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        """Append a batch."""
        stop = self.n_rows + len(columns["label"])
        for name, column in columns.items():
            if column.dtype.itemsize > self._columns[name].dtype.itemsize:  # longer strings
                self._columns[name] = self._columns[name].astype(column.dtype)
            self._columns[name][self.n_rows : stop] = column
        self.n_rows = stop

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return all rows, as views."""
        return {name: column[: self.n_rows] for name, column in self._columns.items()}

    def clear(self) -> None:
        """Forget all rows."""
        self.n_rows = 0


def _checked_scores(scores: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns to compute, in one order."""
    given = (scores,) if isinstance(scores, str) else tuple(scores)
    unknown = sorted(str(name) for name in given if name not in SCORES)
    if unknown:
        raise InvalidInputError(f"scores must be among {', '.join(SCORES)}; not {', '.join(unknown)}")
    return tuple(name for name in SCORES if name in given)


def _checked_ids(ids: Any, n: int) -> npt.NDArray[Any]:
    """Return ids as integers or as UTF-8."""
    array = on_host("ids", ids)
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


def _with_positions(findings: Findings, numbers: npt.NDArray[Any]) -> None:
    """Replace positions in `numbers` by what is there, in the rows of findings."""
    for kind, finding in list(findings.items()):
        places = np.concatenate([np.arange(start, stop) for start, stop in finding.ranges])
        renamed = Findings()
        renamed.add(kind, np.unique(numbers[places]), 0)
        more = finding.more or renamed[kind].more
        finding.ranges, finding.more = renamed[kind].ranges[:MAX_RANGES], more


def _largest(probs: Floats, k: int, classes: np.dtype[Any]) -> dict[str, npt.NDArray[Any]]:
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
    return dict(zip(("top_probs", "top_classes"), as_items, strict=True))
