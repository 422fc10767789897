"""What a correction has changed: two results of the same rows, before and after.

Labels are corrected (`labelsieve.apply_decisions`), perhaps a model is trained anew, and the issues are found again.
`compare` tells which issues were resolved, which are still there, and which are new, class by class:

>>> import numpy as np
>>> import labelsieve
>>> rng = np.random.default_rng(0)
>>> true = rng.integers(0, 3, 500)
>>> probs = rng.dirichlet([0.4, 0.4, 0.4], 500) * 0.5 + 0.5 * np.eye(3)[true]
>>> labels = np.where(rng.random(500) < 0.1, (true + 1) % 3, true)
>>> before = labelsieve.find_label_issues(labels, probs)
>>> corrected = labelsieve.apply_decisions(labels, issues=before, auto="accept", margin=0.6).labels
>>> after = labelsieve.find_label_issues(corrected, probs)
>>> comparison = labelsieve.compare(before, after)
>>> print(comparison)
Of 24 issues 15 were resolved, 9 are still there, 0 are new
>>> comparison.by_class()[["class", "issues_before", "resolved", "issues_after"]].values.tolist()
[[0, 6, 4, 2], [1, 10, 6, 4], [2, 8, 5, 3]]

A resolved issue is not always a corrected label: a model that was trained anew may also have learned a wrong label.
Compare the estimates (`labelsieve.audit`), or results of the same predictions, to tell these apart.

``after.report("report.html", before=before)`` has the same in a report. On the command line: ``labelsieve compare``,
and ``labelsieve report --before``.

Rows are compared by number, so both results must be of the same rows in the same order; ids are compared too, where
both have them. Issues of stored results are read in blocks, and may be more than memory holds: up to 2 million are
compared in memory, and more are sorted into temporary files first (``TMPDIR`` says where), 28 bytes or so for each
issue.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from labelsieve.results.comparison import Comparison, compare_results
from labelsieve.results.label_issues import LabelIssues, open_rows

if TYPE_CHECKING:
    from labelsieve.results.grouped_issues import GroupedIssues

__all__ = ["compare"]


def compare(
    before: LabelIssues | GroupedIssues | str | os.PathLike[str],
    after: LabelIssues | GroupedIssues | str | os.PathLike[str],
) -> Comparison:
    """Compare the issues of two results of the same rows: which were resolved, which are still there, which are new.

    Parameters
    ----------
    before, after : LabelIssues, or the result of another task, or path
        The results, or the ``.zarr`` groups in which they are saved.

    Returns
    -------
    Comparison
        Numbers, rows and tables.

    Raises
    ------
    InvalidInputError
        If the results have other numbers of rows or classes, other class names, other images, sentences or examples, or
        other ids, or there is no result at a path.
    InputTypeError
        For anything but results and paths.
    UnreadableDataError
        If a file of a saved result is missing or damaged.
    UnwritableError
        If there are more issues than fit into memory, and temporary files cannot be written.

    Warns
    -----
    LabelsieveWarning
        If the results have other settings, such as another score or filter.

    Examples
    --------
    >>> import labelsieve
    >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
    >>> before = labelsieve.find_label_issues([0, 1, 0, 1], probs)
    >>> after = labelsieve.find_label_issues([0, 1, 1, 1], probs)
    >>> labelsieve.compare(before, after)
    <Comparison: 2 issues before, 1 after: 1 resolved, 1 kept, 0 new>
    """
    return compare_results(open_rows("before", before), open_rows("after", after))
