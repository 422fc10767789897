"""What the passes over `pred_probs` add up: folded by the reductions, and kept in the footers of records."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelsieve.confident_learning.agreement import Agreement
from labelsieve.confident_learning.confident_joint import ConfidentCounts, confident_combine
from labelsieve.confident_learning.dtypes import pair_dtype
from labelsieve.confident_learning.thresholds import ClassSums, SparseClassSums
from labelsieve.confident_learning.validation import Finding, Findings, combine_findings


@dataclass(frozen=True)
class ScanTotals:
    """What the first pass adds up over rows.

    Parameters
    ----------
    sums : SparseClassSums
        Class sums of the rows.
    findings : Findings
        What is wrong with them.
    n_read : int
        Rows that were read; 0 where a committed record was found.
    agreement : Agreement
        How many labels are the predicted class.
    """

    sums: SparseClassSums
    findings: Findings
    n_read: int
    agreement: Agreement


@dataclass(frozen=True)
class RescanTotals:
    """What the second pass adds up over rows.

    Parameters
    ----------
    joint : ConfidentCounts or None
        Rows by given label and the class as which the confident joint counts them; None where it is not needed.
    n_off_diagonal : int
        Rows off the diagonal whose label is not nearly predicted.
    n_read : int
        Rows that were read; 0 where a committed record was found.
    """

    joint: ConfidentCounts | None
    n_off_diagonal: int
    n_read: int


def combine_totals(parts: Iterable[ScanTotals]) -> ScanTotals:
    """Fold the totals of consecutive rows, given in row order."""
    parts = list(parts)
    total = ClassSums.zeros(parts[0].sums.n_classes)
    for part in parts:
        part.sums.add_to(total)
    findings = combine_findings(part.findings for part in parts)
    agreement = Agreement.total(part.agreement for part in parts)
    return ScanTotals(SparseClassSums.of(total), findings, sum(part.n_read for part in parts), agreement)


def combine_rescans(parts: Iterable[RescanTotals]) -> RescanTotals:
    """Add up what the second pass found."""
    parts = list(parts)
    joints = [part.joint for part in parts if part.joint is not None]
    return RescanTotals(
        confident_combine(joints) if joints else None,
        sum(part.n_off_diagonal for part in parts),
        sum(part.n_read for part in parts),
    )


def footer_of(totals: ScanTotals) -> dict[str, Any]:
    """Return the totals of a partition as JSON values."""
    sums = totals.sums
    arrays = _as_text({name: getattr(sums, name) for name in ("classes", "counts", "high", "low")})
    findings = {kind: vars(finding) for kind, finding in totals.findings.items()}
    return {"n_classes": sums.n_classes, "sums": arrays, "findings": findings, "agreement": totals.agreement}


def totals_of_footer(footer: Mapping[str, Any]) -> ScanTotals:
    """Return the totals that `footer_of` was given, with no rows read."""
    findings = Findings()
    for kind, facts in footer["findings"].items():
        findings[kind] = Finding(**facts | {"ranges": [(a, b) for a, b in facts["ranges"]]})
    sums = SparseClassSums(footer["n_classes"], **_of_text(footer["sums"]))
    return ScanTotals(sums, findings, 0, Agreement(*footer["agreement"]))


def footer_of_rescan(totals: RescanTotals) -> dict[str, Any]:
    """Return the totals of a second pass as JSON values."""
    joint = totals.joint
    if joint is None:
        return {"n_off_diagonal": totals.n_off_diagonal, "joint": None}
    some = np.flatnonzero(joint.diagonal)
    arrays = {"classes": some, "diagonal": joint.diagonal[some], "pairs": joint.pairs, "counts": joint.counts}
    return {"n_off_diagonal": totals.n_off_diagonal, "n_classes": joint.n_classes, "joint": _as_text(arrays)}


def rescan_of_footer(footer: Mapping[str, Any]) -> RescanTotals:
    """Return the totals that `footer_of_rescan` was given, with no rows read."""
    if footer["joint"] is None:
        return RescanTotals(None, footer["n_off_diagonal"], 0)
    arrays, n_classes = _of_text(footer["joint"]), footer["n_classes"]
    diagonal = np.zeros(n_classes, np.int64)
    diagonal[arrays["classes"]] = arrays["diagonal"]
    pairs, counts = arrays["pairs"].astype(pair_dtype(n_classes)), arrays["counts"].astype(np.int32)
    return RescanTotals(ConfidentCounts(diagonal, pairs, counts), footer["n_off_diagonal"], 0)


def _as_text(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Write integers as base64: as numbers they took a third of the time of a record."""
    return {name: base64.b64encode(integers.astype("<i8").tobytes()).decode() for name, integers in arrays.items()}


def _of_text(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: np.frombuffer(base64.b64decode(text), "<i8").astype(np.int64) for name, text in texts.items()}
