"""Opening tags and their probabilities, given as an object of any supported kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.axes import check_tag_axes
from labelsieve.sources.base import Source
from labelsieve.sources.dask_rows import DaskRows
from labelsieve.sources.ensemble import Ensemble, member_name
from labelsieve.sources.open_array import Opened, open_any, open_pred_probs
from labelsieve.sources.open_path import are_places
from labelsieve.sources.tables import list_column, open_columns
from labelsieve.sources.tags import (
    CheckedTags,
    SigmoidSource,
    TagMatrix,
    TagProbs,
    check_tag_shape,
    open_lists,
    open_sparse,
)


@dataclass(frozen=True)
class OpenTags:
    """Both inputs as rows of tags.

    Parameters
    ----------
    labels : Source
        ``(N * K,)`` classes 2k and 2k + 1.
    pred_probs : TagProbs
        ``(N * K, 2K)`` probabilities of these.
    n_examples, n_tags : int
        N and K.
    ids : object
        The user's names of examples, or where these are.
    """

    labels: Source
    pred_probs: TagProbs
    n_examples: int
    n_tags: int
    ids: Any = None


def open_tags(
    labels: Any,
    pred_probs: Any,
    *,
    data: Any = None,
    ids: Any = None,
    from_logits: bool = False,
    dtype: str | None = None,
    names: Sequence[str] | None = None,
) -> OpenTags:
    """Open tags and probabilities. Lists are joined; of arrays and files only headers are read.

    Parameters
    ----------
    labels : list of lists of int or str, or (N, K) matrix of 0 and 1
        The tags of each example; a matrix in any form that `open_any` takes, or sparse.
    pred_probs : (N, K) array-like of float
        Probability of each tag.
    data : table, optional
        Has them as columns.
    ids : object, optional
        The user's names of examples.
    from_logits : bool
        Whether `pred_probs` are logits.
    dtype : "bfloat16", optional
        What values of `pred_probs` are that are stored as 16 bits without a dtype of NumPy.
    names : sequence of str, optional
        K names of tags.

    Raises
    ------
    InvalidInputError
        For anything that can be refused without reading.
    InputTypeError
        For an object of the wrong kind.
    """
    if data is not None:
        column = labels if isinstance(labels, str) else None
        of_table = pred_probs if isinstance(pred_probs, str | list | tuple) else None
        if column is not None:
            labels = list_column("labels", data, column)
        if of_table is not None:
            _, pred_probs, ids = open_columns(data, None, pred_probs, ids)
    for member in pred_probs.members if isinstance(pred_probs, Ensemble) else [pred_probs]:
        check_tag_axes(labels, member, names, ids)
    opened = _open_probs(pred_probs, dtype, from_logits=from_logits)
    n_examples, n_tags = opened.shape
    if not n_examples:
        raise InvalidInputError("labels and pred_probs have no examples")
    if names is not None and len(names) != n_tags:
        raise InvalidInputError(f"{len(names):,} class_names, pred_probs has {n_tags:,} tags")
    found = _open_labels(labels, n_examples, n_tags, names)
    return OpenTags(found, TagProbs(opened), n_examples, n_tags, ids)


def _open_probs(pred_probs: Any, dtype: str | None, *, from_logits: bool) -> Source:
    """Open probabilities; of an ensemble the mean of those of its members, which are checked one by one."""
    if isinstance(pred_probs, Ensemble):
        if pred_probs.weights == "accuracy":
            raise InvalidInputError("the accuracy of a model is not defined for tags: give the weights as numbers")
        members = [_open_probs(member, dtype, from_logits=from_logits) for member in pred_probs.members]
        names = [member_name(number, member.where) for number, member in enumerate(members)]
        checked = [CheckedTags(member, name) for member, name in zip(members, names, strict=True)]
        return _source(open_pred_probs(Ensemble(checked, pred_probs.weights), of_tags=True))
    opened = _source(open_pred_probs(pred_probs, dtype, of_tags=True))
    return SigmoidSource(opened) if from_logits else opened


def _source(opened: Opened) -> Source:
    return opened if isinstance(opened, Source) else DaskRows(opened)


def _open_labels(labels: Any, n_examples: int, n_tags: int, names: Sequence[str] | None) -> Source:
    if labels is None:
        raise InputTypeError("labels is missing")
    if hasattr(labels, "tocsr"):
        return open_sparse(labels, n_examples, n_tags)
    package = type(labels).__module__.partition(".")[0]
    is_column = package in ("pandas", "polars", "pyarrow") and len(getattr(labels, "shape", (0,))) == 1
    is_list = isinstance(labels, list | tuple) and not are_places(labels)
    if package == "polars" and is_column:
        labels = labels.to_arrow()
    if is_column or is_list or (isinstance(labels, np.ndarray) and labels.dtype == object):
        return open_lists(labels, n_examples, n_tags, names)
    matrix = open_any("the matrix of labels", labels)
    check_tag_shape(matrix.shape, n_examples, n_tags)
    if matrix.dtype.kind not in "biuf":
        raise InvalidInputError(f"a matrix of tags has 0 and 1 only, not {matrix.dtype}")
    return TagMatrix(_source(matrix))
