"""Checks of the labels that decisions result in, beyond a list of all classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.corrections.decisions import Decisions
from labelsieve.corrections.label_arrays import LabelFile
from labelsieve.corrections.outcomes import UNSURE, Outcomes
from labelsieve.errors import InvalidInputError
from labelsieve.sources.label_names import is_missing


def check_tags(n_tags: int, read: Decisions, outcomes: Outcomes) -> None:
    """Raise if a decision about one tag results in another.

    Parameters
    ----------
    n_tags : int
        Number of tags K.
    read : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.

    Raises
    ------
    InvalidInputError
        Naming the first such decision.
    """
    labels = np.array(outcomes.labels, np.int64)
    other = (outcomes.resulting != UNSURE) & (labels[outcomes.resulting] // 2 != read.rows % n_tags)
    if other.any():
        place = int(other.argmax())
        one, tag = read[place], int(read.rows[place]) % n_tags
        raise InvalidInputError(
            f"decisions: row {one.row:,} ({one.where}) is about tag {tag} of example {one.row // n_tags:,}, whose "
            f"labels are {2 * tag} (without it) and {2 * tag + 1}, not {labels[outcomes.resulting[place]]}"
        ).at([(one.row, one.row + 1)])


def check_occurring(file: LabelFile, read: Decisions, outcomes: Outcomes) -> None:
    """Raise if a resulting label is in no row; for numbers, if it is above the highest one.

    Parameters
    ----------
    file : LabelFile
        All labels, which are read until all resulting ones are found.
    read : Decisions
        Decisions.
    outcomes : Outcomes
        Their resulting labels.

    Raises
    ------
    InvalidInputError
        Naming the first such decision.
    """
    missing = set(outcomes.labels[outcomes.n_stored :])
    if not missing:
        return
    if file.dtype.kind in "iu":
        highest = max(_highest(block) for block in file.blocks() if len(block))
        missing = {label for label in missing if not 0 <= label <= highest}
    else:
        for block in file.blocks():
            missing -= set(block.tolist())
            if not missing:
                return
    if missing:
        codes = [code for code, label in enumerate(outcomes.labels) if label in missing]
        one, label = read[place := int(np.isin(outcomes.resulting, codes).argmax())], outcomes.labels
        of = f"labels has 0..{highest}" if file.dtype.kind in "iu" else "no row of labels has it"
        raise InvalidInputError(
            f"decisions: row {one.row:,} ({one.where}): the resulting label is "
            f"{label[outcomes.resulting[place]]!r}, and {of}: if it is a class, give class_names"
        ).at([(one.row, one.row + 1)])


def _highest(block: npt.NDArray[Any]) -> int:
    """Return the highest number among labels, of which some may be missing; -1 if all are."""
    if block.dtype.kind != "O":
        return int(block.max())
    return max((label for label in block.tolist() if not is_missing(label)), default=-1)
