"""Where row summaries live: in memory, or in records that tasks commit to a workdir. Nothing else asks which."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from labelsieve.confident_learning.checks import Finding, Findings
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounts, confident_combine, with_diagonal
from labelsieve.confident_learning.misfit import Agreement
from labelsieve.confident_learning.scores import Settings, with_adjusted_scores
from labelsieve.confident_learning.summarize import ScanTotals
from labelsieve.confident_learning.thresholds import (
    Float64s,
    Int64s,
    SparseClassSums,
    SummaryBlock,
    pair_dtype,
    row_slices,
)
from labelsieve.errors import WorkdirError
from labelsieve.execution.executor import Executor
from labelsieve.execution.graph import Column, stop_if_abandoned
from labelsieve.execution.progress import Progress
from labelsieve.job.grid import Span
from labelsieve.storage.checked import Columns, DamagedRecordError, Record, RecordWriter
from labelsieve.storage.folder import Folder

KINDS: Final = ("summaries", "rescan", "margins")
_NAME_BYTES: Final = 16
RECORD_FILE: Final = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})\.rec")


class _Unfinished(Exception):  # noqa: N818  # not an error: it keeps a file from being committed
    """The writer of a record was not finished."""


@dataclass(frozen=True)
class Records:
    """The records of a run: one file for each partition and kind. It pickles without the data.

    A record is named by digests of everything that its content depends on. Nothing in it depends on the number of the
    partition or on the numbers of its rows, so a later run finds it wherever these rows are then.

    Parameters
    ----------
    folder : Folder
        The workdir.
    names : bytes
        16 bytes for each partition: a digest of what its record depends on, except `versions`.
    versions : bytes
        16 bytes for each partition: the identity of its labels, or of the thresholds and the whole input.
    """

    folder: Folder
    names: bytes
    versions: bytes

    def name(self, index: int) -> str:
        """Return the file name of the record of partition `index`."""
        digits = slice(_NAME_BYTES * index, _NAME_BYTES * (index + 1))
        return record_file(self.names[digits].hex(), self.versions[digits].hex())

    @property
    def n_partitions(self) -> int:
        """Number of partitions."""
        return len(self.names) // _NAME_BYTES

    def of_version(self, facts: Any) -> Records:
        """Return the records that depend on the whole input, and on `facts`."""
        version = digest([self.names.hex(), self.versions.hex(), facts])
        return replace(self, versions=bytes.fromhex(version) * self.n_partitions)

    def present(self, kind: str) -> list[int]:
        """Return the partitions that have a record, which may be damaged."""
        files = set(self.folder.folder(kind).names())
        return [index for index in range(self.n_partitions) if self.name(index) in files]

    def open(self, kind: str, index: int) -> Record:
        """Open an existing record.

        Raises
        ------
        FileNotFoundError
            If there is no such record.
        WorkdirError
            If it is another record, under the name of this one.
        """
        record = Record(self.folder.folder(kind), self.name(index))
        if (record.header.get("kind"), record.header.get("name")) != (kind, self.name(index)):
            record.close()
            raise WorkdirError(f"{record.where} is another record: it was renamed or copied")
        return record

    @contextmanager
    def reading(self, kind: str, index: int) -> Iterator[Record]:
        """Open a committed record, and close it when the block ends.

        Raises
        ------
        DamagedRecordError
            If it is missing or damaged. A damaged block is found when it is read.
        WorkdirError
            If it is another record, under the name of this one.
        """
        try:
            with self.open(kind, index) as record:
                yield record
        except (FileNotFoundError, IsADirectoryError, DamagedRecordError) as error:
            raise DamagedRecordError(f"{error}. Run the same command again, which makes the record again") from error

    def summaries(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        """Yield the summaries of rows ``[start, stop)`` of partition `index`, a block at a time."""
        with self.reading("summaries", index) as record:
            for block in record.blocks(start, stop):
                columns: dict[str, Any] = dict(block)
                yield SummaryBlock(**columns)

    def is_committed(self, index: int, n_rows: int, *, kind: str) -> bool:
        """Return whether there is a record of `n_rows` rows and all its checksums match."""
        return self.committed(kind, index, n_rows) is not None

    @contextmanager
    def create(self, kind: str, index: int) -> Iterator[RecordWriter]:
        """Yield the writer of a record, which is committed when the block ends if `finish` was called."""
        header = {"kind": kind, "name": self.name(index)}
        with suppress(_Unfinished), self.folder.folder(kind).create(self.name(index)) as file:
            writer = RecordWriter(file, header)
            yield writer
            if not writer.finished:
                raise _Unfinished

    def committed(
        self, kind: str, index: int, n_rows: int, take: Callable[[Columns], object] = lambda _: None
    ) -> dict[str, Any] | None:
        """Check a record and return its footer; None if it is missing, damaged or another one.

        `take` is called with each block once its checksum matches, including the blocks before a damaged one.
        """
        try:
            with self.open(kind, index) as record:
                if record.n_rows != n_rows:
                    return None
                for block in record.blocks():
                    take(block)
                footer: dict[str, Any] = record.footer
                return footer
        except (
            FileNotFoundError,
            IsADirectoryError,
            DamagedRecordError,
            WorkdirError,
            ValueError,
            TypeError,
            KeyError,
        ):
            return None


def record_file(name: str, version: str) -> str:
    """Return the file name of the record with a name and a version, both of hexadecimal digits."""
    return f"{name}-{version}.rec"


def digest(facts: Any) -> str:
    """Return a short digest of JSON values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[: 2 * _NAME_BYTES]


@dataclass(frozen=True)
class RescanTotals:
    """Totals of the second pass over some rows.

    Parameters
    ----------
    joint : ConfidentCounts or None
        Rows by given label and the class as which the confident joint counts them; None where it is not needed.
    n_off_diagonal : int
        Rows off the diagonal whose label is not nearly predicted.
    n_read : int
        Number of rows that were read; 0 if a committed record was found.
    """

    joint: ConfidentCounts | None
    n_off_diagonal: int
    n_read: int

    def joint_counts(self, class_counts: Int64s) -> JointCounts | None:
        """Return the counts with at least 1 for each class on the diagonal; None where they are not needed."""
        if self.joint is None:
            return None
        return JointCounts(with_diagonal(self.joint), self.n_off_diagonal, class_counts)


def combine_rescans(parts: Iterable[RescanTotals]) -> RescanTotals:
    """Combine the totals of the second pass."""
    parts = list(parts)
    joints = [part.joint for part in parts if part.joint is not None]
    return RescanTotals(
        confident_combine(joints) if joints else None,
        sum(part.n_off_diagonal for part in parts),
        sum(part.n_read for part in parts),
    )


def footer_of(totals: ScanTotals, first_row: int) -> dict[str, Any]:
    """Return the totals of a partition as JSON values, with rows counted from its first row."""
    sums = totals.sums
    arrays = _to_text({name: getattr(sums, name) for name in ("classes", "counts", "high", "low")})
    findings = {
        kind: vars(finding) | {"ranges": [(a - first_row, b - first_row) for a, b in finding.ranges]}
        for kind, finding in totals.findings.items()
    }
    return {"n_classes": sums.n_classes, "sums": arrays, "findings": findings, "agreement": totals.agreement}


def totals_of_footer(footer: Mapping[str, Any], first_row: int) -> ScanTotals:
    """Return the totals in a footer that `footer_of` made, for a partition from `first_row` on. None count as read."""
    findings = Findings()
    for kind, facts in footer["findings"].items():
        known = {name: fact for name, fact in facts.items() if name in Finding.__dataclass_fields__}
        findings[kind] = Finding(**known | {"ranges": [(a + first_row, b + first_row) for a, b in facts["ranges"]]})
    sums = SparseClassSums(footer["n_classes"], **_from_text(footer["sums"]))
    return ScanTotals(sums, {first_row: findings} if findings else {}, 0, Agreement(*footer["agreement"]))


def footer_of_rescan(totals: RescanTotals) -> dict[str, Any]:
    """Return the totals of a second pass as JSON values."""
    joint = totals.joint
    if joint is None:
        return {"n_off_diagonal": totals.n_off_diagonal, "joint": None}
    some = np.flatnonzero(joint.diagonal)
    arrays = {"classes": some, "diagonal": joint.diagonal[some], "pairs": joint.pairs, "counts": joint.counts}
    return {"n_off_diagonal": totals.n_off_diagonal, "n_classes": joint.n_classes, "joint": _to_text(arrays)}


def rescan_of_footer(footer: Mapping[str, Any]) -> RescanTotals:
    """Return the totals in a footer that `footer_of_rescan` made. No rows count as read."""
    if footer["joint"] is None:
        return RescanTotals(None, footer["n_off_diagonal"], 0)
    arrays, n_classes = _from_text(footer["joint"]), footer["n_classes"]
    diagonal = np.zeros(n_classes, np.int64)
    diagonal[arrays["classes"]] = arrays["diagonal"]
    pairs, counts = arrays["pairs"].astype(pair_dtype(n_classes)), arrays["counts"].astype(np.int32)
    return RescanTotals(ConfidentCounts(diagonal, pairs, counts), footer["n_off_diagonal"], 0)


def _to_text(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return integers as base64. JSON numbers would take a third of the time of writing a record."""
    return {name: base64.b64encode(integers.astype("<i8").tobytes()).decode() for name, integers in arrays.items()}


def _from_text(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: np.frombuffer(base64.b64decode(text), "<i8").astype(np.int64) for name, text in texts.items()}


@dataclass(frozen=True)
class SummaryChunk:
    """Row summaries in memory.

    Parameters
    ----------
    start : int
        Number of the first row.
    summary : SummaryBlock
        Summaries of consecutive rows.
    totals : ScanTotals
        Totals of the first pass over these rows.
    rescan : RescanTotals or None
        Totals of the second pass, if there was one.
    """

    start: int
    summary: SummaryBlock
    totals: ScanTotals
    rescan: RescanTotals | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.summary)

    @property
    def n_read(self) -> int:
        """Number of rows that the last pass read."""
        return int(totals_of(self).n_read)


Chunk: TypeAlias = SummaryChunk | Span


_T = TypeVar("_T")


@dataclass
class Kept:
    """Keeps the row summaries of a run where they are made: in memory, in records of a workdir, or in both.

    Parameters
    ----------
    executor : Executor
        Who runs the tasks.
    records : Records, optional
        Where the tasks of a pass commit what it makes.
    in_memory : bool
        Whether summaries stay in memory, beside any records; without records they always do.
    finished : collection of int
        The partitions whose summaries are committed already.
    chunks : list
        In memory: a `SummaryChunk` for each partition, or futures of those that workers hold.
    """

    executor: Executor
    records: Records | None = None
    in_memory: bool = True
    finished: Collection[int] = ()
    chunks: list[Any] = field(default_factory=list)

    def run(
        self,
        name: str,
        work: Callable[..., Any],
        combine: Callable[[Iterable[Any]], _T],
        columns: Sequence[Column],
        progress: Progress | None,
    ) -> _T:
        """Run a pass over the partitions, keep what it makes, and return the combined totals.

        `work` returns a `SummaryChunk` if it is kept in memory, otherwise it commits a record and returns its totals.
        """
        if not self.in_memory:
            return self.executor.reduce(name, work, combine, columns, progress)
        self.chunks, total = self.executor.persist(name, work, columns, totals_of, combine, progress)
        return total

    def take(self, results: Sequence[Any], combine: Callable[[Iterable[Any]], _T]) -> _T:
        """Keep the results of a pass that ran in other processes, and return the combined totals."""
        if not self.in_memory:
            return combine(results)
        self.chunks = list(results)
        return combine(map(totals_of, results))

    def records_of(self, kind: str, thresholds: Float64s) -> Records | None:
        """Return the records of what follows from the thresholds; None if that is kept in memory."""
        if self.in_memory or self.records is None:
            return None
        return self.records.of_version([kind, thresholds.tolist()])


def totals_of(chunk: SummaryChunk) -> Any:
    """Return the totals of the last pass."""
    return chunk.totals if chunk.rescan is None else chunk.rescan


@dataclass(frozen=True)
class SummaryReader:
    """Reads chunks of the table, with final scores.

    Parameters
    ----------
    settings : Settings
        How to score rows.
    thresholds : (K,) float64
        Confident thresholds.
    records : Records, optional
        Records with the summaries of `Span` chunks.
    rescan_records : Records, optional
        Records with the columns of a second pass, if these are needed.
    no_label : int, optional
        K, if rows may be without a label: then their label is K, and only other rows are read.
    """

    settings: Settings
    thresholds: Float64s
    records: Records | None = None
    rescan_records: Records | None = None
    no_label: int | None = None

    def blocks(self, chunk: Chunk, *, whole: bool = False) -> Iterator[SummaryBlock]:
        """Yield the summaries of a chunk block by block, in row order; one in memory as one block if `whole`.

        Rows without a label are left out; `SummaryBlock.labelled` has the numbers of the others.
        """
        first = chunk.start
        for block in self._blocks(chunk, whole=whole):
            stop_if_abandoned()
            labelled = block if self.no_label is None else block.only_labelled(self.no_label, first)
            yield self.scored(labelled) if self.settings.adjust_pred_probs else labelled
            first += len(block)

    def _blocks(self, chunk: Chunk, *, whole: bool) -> Iterator[SummaryBlock]:
        if isinstance(chunk, SummaryChunk):
            # A user's Dask array may have a chunk without rows: it is one empty block.
            n_rows = len(chunk.summary)
            for rows in [slice(None)] if whole or not n_rows else row_slices(n_rows):
                yield chunk.summary[rows]
            return
        for index, start, stop in chunk.pieces:
            yield from self._stored(index, start, stop)

    def scored(self, summary: SummaryBlock) -> SummaryBlock:
        """Return `summary` with final scores: adjusted self-confidences are computed from the sums of rows."""
        return with_adjusted_scores(summary, self.thresholds) if self.settings.adjust_pred_probs else summary

    def _stored(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        stored = self.stored(index, start, stop)
        if self.rescan_records is None:
            yield from stored
            return
        with self.rescan_records.reading("rescan", index) as record:
            for block in stored:
                parts = list(record.blocks(start, start + len(block)))
                start += len(block)
                found: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                yield replace(block, **found)

    def stored(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        """Yield the summaries of rows ``[start, stop)`` of partition `index` as the first pass has committed them."""
        if self.records is None:
            raise RuntimeError("stored chunks are read from records")
        return self.records.summaries(index, start, stop)
