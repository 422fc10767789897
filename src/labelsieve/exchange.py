"""To and from other tools: Label Studio, cleanlab, FiftyOne, Argilla and spreadsheets.

## Label Studio

`LabelIssues.to_label_studio` writes the issues as tasks with the suggested class as a prediction, and returns the
labelling configuration of the project. Reviewers choose a class; the project is exported as JSON or JSON-MIN; and the
export is a table of decisions: `labelsieve.apply_decisions`, `labelsieve.estimate` and ``labelsieve apply`` take it as
it is.

>>> import json, pathlib, tempfile
>>> import labelsieve
>>> labels = ["cat", "dog", "cat", "cat"]
>>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
>>> found = labelsieve.find_label_issues(labels, probs, class_names=["cat", "dog"])
>>> tasks = pathlib.Path(tempfile.mkdtemp(), "tasks.json")
>>> config = found.to_label_studio(tasks, images="https://example.org/{row}.png")
>>> [task] = json.loads(tasks.read_text())
>>> task["data"]["image"], task["data"]["given_choice"], task["predictions"][0]["result"][0]["value"]
('https://example.org/2.png', 'cat', {'choices': ['dog']})

A reviewer agrees with the suggestion; Label Studio exports the task with an annotation:

>>> chosen = {"completed_by": 7, "updated_at": "2026-11-26T10:00:00Z", "result": task["predictions"][0]["result"]}
>>> export = tasks.with_name("export.json")
>>> _ = export.write_text(json.dumps([task | {"id": 1, "annotations": [chosen]}]))
>>> decided = labelsieve.read_label_studio(export)
>>> decided[["row", "given_label", "decision", "label", "reviewer"]].values.tolist()
[[2, 'cat', 'accept', 'dog', '7']]
>>> labelsieve.apply_decisions(labels, export).labels.tolist()
['cat', 'dog', 'dog', 'cat']

| In the export | Decision |
|---|---|
| the given class | ``keep`` |
| the suggested class | ``accept`` |
| another class | ``other`` |
| no class, or a task that was skipped | ``unsure`` |
| no annotation, or a draft | none |

Several annotations of a task are decisions of several reviewers (``completed_by``), with their agreement and conflicts.
On the command line, ``labelsieve label-studio`` writes the tasks of a saved result and prints the configuration.
JSON-MIN leaves out skipped tasks. The data of each task names the row, the given label as it is stored, and the
fingerprint of the result, so that an export of another dataset is refused.

## cleanlab

`LabelIssues.to_cleanlab` is a frame that ``CleanLearning.fit(label_issues=...)`` takes; given a ``Datalab``, it also
puts the issues there, for ``Datalab.report``.

## FiftyOne and Argilla

`LabelIssues.to_fiftyone` and `LabelIssues.to_argilla` are frames; their pages show how to load them there.

## Spreadsheets

`LabelIssues.to_csv` and `Comparison.to_csv` write no cell that a spreadsheet would run as a formula; decisions that a
spreadsheet saved as CSV are read back without what was added (`labelsieve.unescape_formula`).
"""

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
        ``result``, as in `labelsieve.decisions`.

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
