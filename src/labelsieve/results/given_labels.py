"""Opening the given labels of a result, in the form in which its task reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labelsieve.corrections.label_arrays import LabelFile
from labelsieve.corrections.label_files import open_label_file
from labelsieve.results.layouts import Layout, TagLayout


def open_given_labels(
    labels: Any,
    layout: Layout | None,
    *,
    column: str | None = None,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LabelFile:
    """Open labels whose rows are those of a result.

    Parameters
    ----------
    labels : path or array-like
        As of `labelsieve.apply_decisions`; with a layout also one array with a label for each row.
    layout : Layout or None
        Where the rows of the result are, if they are parts of groups; None without a result.
    column : str, optional
        The column of a table.
    task : str, optional
        One of `TASKS`, in place of that of the layout.
    class_names : sequence of str, optional
        Names of the tags, if rows are tags; by default those of the layout.

    Raises
    ------
    InvalidInputError, InputTypeError
        As `open_label_file`.
    """
    tags = class_names or ((layout.names or layout.n_tags) if isinstance(layout, TagLayout) else None)
    known = None if task is not None or layout is None else layout.task
    return open_label_file(labels, column, task or known, tags, of_result=known is not None)
