"""Decisions that were exported from Label Studio: see `docs/from_found_to_fixed.md`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelsieve.corrections.label_studio_export import Reviewed, read_export
from labelsieve.results.frames import frame_of
from labelsieve.results.label_studio import label_studio_config
from labelsieve.storage.urls import check_place

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["label_studio_config", "read_label_studio"]


def read_label_studio(path: str | os.PathLike[str], class_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the decisions in an export of Label Studio.

    Parameters
    ----------
    path : path
        A project's export as JSON or JSON-MIN, of tasks that `LabelIssues.to_label_studio` wrote.
    class_names : sequence of str, optional
        All classes. Needed only if labels are numbers, classes have names, and a reviewer chose a class that no task
        has as the given or the suggested one.

    Returns
    -------
    pandas.DataFrame
        A row for each annotation: ``row``, ``id``, ``given_label``, ``decision``, ``label``, ``reviewer``, ``time`` and
        ``result``, as in `docs/from_found_to_fixed.md`.

    Raises
    ------
    InvalidInputError
        For a file that is missing, cut off or not such an export, tasks that Labelsieve did not write, and choices that
        are not classes.
    MissingDependencyError
        Without pandas.

    Examples
    --------
    A task that was annotated with its suggestion, and one that was skipped:

    >>> import json, pathlib, tempfile
    >>> import labelsieve
    >>> found = labelsieve.find_label_issues([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]])
    >>> path = pathlib.Path(tempfile.mkdtemp(), "tasks.json")
    >>> _ = found.to_label_studio(path)
    >>> first, second = json.loads(path.read_text())
    >>> first["annotations"] = [{"completed_by": 7, "result": first["predictions"][0]["result"]}]
    >>> second["annotations"] = [{"completed_by": 7, "was_cancelled": True, "result": []}]
    >>> _ = path.write_text(json.dumps([first, second]))
    >>> labelsieve.read_label_studio(path)[["row", "given_label", "decision", "label"]].values.tolist()
    [[2, 0, 'accept', 1], [3, 1, 'unsure', '']]
    """
    found = [one for _, one in read_export(Path(check_place("decisions", path)), class_names)]
    columns = {}
    for place, name in enumerate(Reviewed._fields):
        columns[name] = np.empty(len(found), np.int64 if name == "row" else object)
        columns[name][:] = [one[place] for one in found]
    return frame_of(columns)
