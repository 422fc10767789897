"""Chunks of the table of row summaries, in memory or in a checkpoint, and one reader for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s
from labelsieve.confident_learning.summarizer import ScanTotals
from labelsieve.confident_learning.summary_block import SummaryBlock, with_adjusted_scores
from labelsieve.confident_learning.thresholds import row_slices
from labelsieve.execution.running_task import stop_if_abandoned
from labelsieve.partitioning import Span
from labelsieve.settings import Settings
from labelsieve.tasks.checkpoint import Records
from labelsieve.tasks.totals import RescanTotals


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
        return (self.totals if self.rescan is None else self.rescan).n_read


Chunk: TypeAlias = SummaryChunk | Span


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
            yield self.scored(block if self.no_label is None else block.only_labelled(self.no_label, first))
            first += len(block)

    def _blocks(self, chunk: Chunk, *, whole: bool) -> Iterator[SummaryBlock]:
        if isinstance(chunk, SummaryChunk):
            # A user's Dask array may have a chunk without rows: it is one empty block.
            for rows in [slice(None)] if whole or not chunk.n_rows else row_slices(chunk.n_rows):
                yield chunk.summary[rows]
            return
        for index, start, stop in chunk.pieces:
            yield from self._stored(index, start, stop)

    def scored(self, summary: SummaryBlock) -> SummaryBlock:
        """Return `summary` with final scores: adjusted self-confidences are computed from the sums of rows."""
        return with_adjusted_scores(summary, self.thresholds) if self.settings.adjust_pred_probs else summary

    def _stored(self, index: int, start: int, stop: int) -> Iterator[SummaryBlock]:
        if self.records is None:
            raise RuntimeError("stored chunks are read from records")
        stored = self.records.summaries(index, start, stop)
        if self.rescan_records is None:
            yield from stored
            return
        with self.rescan_records.reading("rescan", index) as record:
            for block in stored:
                parts = list(record.blocks(start, start + len(block)))
                start += len(block)
                found: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                yield replace(block, **found)
