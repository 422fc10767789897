"""The small parts of what reading a partition gives: what trees fold, and what records keep in their footers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelsieve.confident_learning.agreement import Agreement
from labelsieve.confident_learning.confident_joint import ConfidentCounts, pair_dtype
from labelsieve.confident_learning.thresholds import SparseClassSums
from labelsieve.confident_learning.validation import Finding, Findings


@dataclass(frozen=True)
class Partial:
    """The K-sized part of what reading a partition gives.

    Parameters
    ----------
    sums : SparseClassSums
        Class sums of its rows.
    findings : Findings
        What is wrong with them.
    n_read : int
        Rows that were read for it: none where a committed record was found.
    agreement : Agreement
        How many labels are the predicted class.
    """

    sums: SparseClassSums
    findings: Findings
    n_read: int
    agreement: Agreement


@dataclass(frozen=True)
class Looked:
    """The small part of what a second read of a partition gives: numbers of K and of the pairs that occur.

    Parameters
    ----------
    joint : ConfidentCounts or None
        Its rows by given label and the class as which the confident joint counts them; None where that is not asked.
    n_off : int
        Those off the diagonal whose label is not nearly predicted.
    n_read : int
        Rows that were read for it: none where a committed record was found.
    """

    joint: ConfidentCounts | None
    n_off: int
    n_read: int


def footer_of(partial: Partial) -> dict[str, Any]:
    """Return the K-sized part of a partition as JSON takes it."""
    sums = partial.sums
    arrays = _as_text({name: getattr(sums, name) for name in ("classes", "counts", "high", "low")})
    findings = {kind: vars(finding) for kind, finding in partial.findings.items()}
    return {"n_classes": sums.n_classes, "sums": arrays, "findings": findings, "agreement": partial.agreement}


def partial_of_footer(footer: Mapping[str, Any]) -> Partial:
    """Return what `footer_of` was given, as found and not read."""
    findings = Findings()
    for kind, facts in footer["findings"].items():
        findings[kind] = Finding(**facts | {"ranges": [(a, b) for a, b in facts["ranges"]]})
    sums = SparseClassSums(footer["n_classes"], **_of_text(footer["sums"]))
    return Partial(sums, findings, 0, Agreement(*footer["agreement"]))


def footer_of_look(looked: Looked) -> dict[str, Any]:
    """Return the K-sized part of a second read as JSON takes it."""
    joint = looked.joint
    if joint is None:
        return {"n_off": looked.n_off, "joint": None}
    some = np.flatnonzero(joint.diagonal)
    arrays = {"classes": some, "diagonal": joint.diagonal[some], "pairs": joint.pairs, "counts": joint.counts}
    return {"n_off": looked.n_off, "n_classes": joint.n_classes, "joint": _as_text(arrays)}


def look_of_footer(footer: Mapping[str, Any]) -> Looked:
    """Return what `footer_of_look` was given, as found and not read."""
    if footer["joint"] is None:
        return Looked(None, footer["n_off"], 0)
    arrays, n_classes = _of_text(footer["joint"]), footer["n_classes"]
    diagonal = np.zeros(n_classes, np.int64)
    diagonal[arrays["classes"]] = arrays["diagonal"]
    pairs, counts = arrays["pairs"].astype(pair_dtype(n_classes)), arrays["counts"].astype(np.int32)
    return Looked(ConfidentCounts(diagonal, pairs, counts), footer["n_off"], 0)


def _as_text(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Write integers as base64: as numbers they took a third of the time of a record."""
    return {name: base64.b64encode(integers.astype("<i8").tobytes()).decode() for name, integers in arrays.items()}


def _of_text(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: np.frombuffer(base64.b64decode(text), "<i8").astype(np.int64) for name, text in texts.items()}
