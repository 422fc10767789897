"""Totals of the passes over `pred_probs`, which reductions combine and footers of records store."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelsieve.confident_learning.agreement import Agreement
from labelsieve.confident_learning.calibration import JointCounts, with_diagonal
from labelsieve.confident_learning.confident_joint import ConfidentCounts, confident_combine
from labelsieve.confident_learning.dtypes import Int64s, pair_dtype
from labelsieve.confident_learning.summarizer import ScanTotals
from labelsieve.confident_learning.thresholds import SparseClassSums
from labelsieve.confident_learning.validation import Finding, Findings


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
    """Return the totals of a partition as JSON values, with rows counted from its first row.

    The rows whose sums were examined for a likely cause were chosen by their numbers at that time.
    """
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
        findings[kind] = Finding(**facts | {"ranges": [(a + first_row, b + first_row) for a, b in facts["ranges"]]})
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
