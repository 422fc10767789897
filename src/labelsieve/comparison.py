"""Two results of the same rows, before and after a correction: see `docs/from_found_to_fixed.md`."""

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
