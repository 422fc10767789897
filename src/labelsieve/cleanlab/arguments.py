"""Arguments of cleanlab's functions: what they accept that Labelsieve's do not, and their kinds of errors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.open import open_labels

# Settings that all functions have in common: rows that do not sum to 1 are a warning, because cleanlab takes them.
COMMON: Final[dict[str, Any]] = {"allow_unnormalized_rows": "warn", "progress": False}


class AssertedInputError(InvalidInputError, AssertionError):
    """A setting that cleanlab refuses by an assertion."""


def flat_labels(labels: Any) -> Any:
    """Return `labels`, or the only column of a pandas table.

    Raises
    ------
    InvalidInputError
        For a table of several columns.
    """
    pandas: Any = sys.modules.get("pandas")
    if pandas is None or not isinstance(labels, pandas.DataFrame):
        return labels
    if labels.shape[1] != 1:
        raise InvalidInputError(f"labels must be one dimensional, not a table of {labels.shape[1]} columns")
    return labels.iloc[:, 0]


def n_labels(labels: Any) -> int:
    """Return the number of labels, which are not read."""
    return int(open_labels(flat_labels(labels)).shape[0])


def refuse_multi_label(where: str, *, multi_label: bool) -> None:
    """Raise if `multi_label` is true; `where` is the function for such labels."""
    if multi_label:
        raise InvalidInputError(f"for rows with several labels call {where}")


def warn_user(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn as cleanlab does, at the line of the caller of the function that calls this."""
    warnings.warn(message, kind, stacklevel=3)


def one_vs_rest(labels: Any, pred_probs: Any) -> Iterator[tuple[Int64s, npt.NDArray[Any]]]:
    """Yield for each class which rows have it, and the ``(N, 2)`` probabilities that they have it not, and have it.

    Parameters
    ----------
    labels : list of list of int
        The classes of each row.
    pred_probs : (N, K) array
        Probability of each class, independent of the others. A column is read at a time.

    Raises
    ------
    InputTypeError
        If `labels` is not a list of lists.
    InvalidInputError
        For classes outside 0..K-1, and lengths that differ.
    """
    n_rows, n_classes = pred_probs.shape
    if n_rows != len(labels):
        raise InvalidInputError(f"{len(labels):,} labels, {n_rows:,} rows of pred_probs")
    for k, has_class in enumerate(one_hot_columns(labels, n_classes)):
        probs = np.asarray(pred_probs[:, k])
        yield has_class, np.stack([1 - probs, probs], axis=1)


def one_hot_columns(labels: Any, n_classes: int) -> Iterator[Int64s]:
    """Yield for each class an ``(N,)`` array that is 1 for the rows that have it; see `one_vs_rest`."""
    if not isinstance(labels, list) or not all(isinstance(row, list | tuple | np.ndarray) for row in labels):
        raise InputTypeError("with multi_label=True, labels must be a list with a list of classes for each row")
    lengths = np.array([len(row) for row in labels], np.int64)
    classes = np.array([int(k) for row in labels for k in row], np.int64)
    outside = np.flatnonzero((classes < 0) | (classes >= n_classes))
    if len(outside):
        row = int(np.searchsorted(np.cumsum(lengths), outside[0], "right"))
        raise InvalidInputError(f"row {row} has class {classes[outside[0]]}, outside 0..{n_classes - 1}")
    rows = np.repeat(np.arange(len(labels)), lengths)
    order = np.argsort(classes, kind="stable")
    edges = np.searchsorted(classes[order], np.arange(n_classes + 1))
    for k in range(n_classes):
        column = np.zeros(len(labels), np.int64)
        column[rows[order[edges[k] : edges[k + 1]]]] = 1
        yield column
