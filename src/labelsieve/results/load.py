"""`labelsieve.load`: opens the stored result of any task, or a stored audit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from labelsieve.results.audit import Audit, is_audit, read_audit
from labelsieve.results.grouped_issues import GroupedIssues
from labelsieve.results.label_issues import LabelIssues, load_rows
from labelsieve.results.layouts import EqualImages, Layout, PixelLayout, TagLayout, TokenLayout
from labelsieve.results.pixel_issues import SegmentationIssues
from labelsieve.results.tag_issues import MultilabelIssues
from labelsieve.results.token_issues import TokenIssues

# How each layout is shown.
_GROUPED: Final[dict[type[Layout], Callable[[LabelIssues], GroupedIssues]]] = {
    EqualImages: SegmentationIssues,
    PixelLayout: SegmentationIssues,
    TagLayout: MultilabelIssues,
    TokenLayout: TokenIssues,
}


def load(path: str | os.PathLike[str]) -> LabelIssues | GroupedIssues | Audit:
    """Open a saved result or audit; issues and scores are read when they are used.

    Parameters
    ----------
    path : path or URL
        The ``.zarr`` group that `LabelIssues.save` or ``find_label_issues(..., output=...)`` wrote, or what
        `Audit.save` wrote.

    Returns
    -------
    LabelIssues or Audit
        The result; for other tasks than classification the result of that task.

    Raises
    ------
    InvalidInputError
        If there is no result and no audit, or one in another format.
    UnreadableDataError
        If a file of it is missing or damaged, now or when it is first used: which file, and which rows.

    Warns
    -----
    LabelsieveWarning
        If an earlier version wrote the result, without checksums (format 2).

    Examples
    --------
    >>> import tempfile
    >>> import labelsieve
    >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> path = f"{tempfile.mkdtemp()}/result.zarr"
    >>> found.save(path)
    >>> labelsieve.load(path)
    <LabelIssues: 1 of 3 rows (33.33%) in 2 classes; worst rows: 2>
    """
    if str(path).endswith(".json") or is_audit(path):
        return read_audit(path)
    issues = load_rows(path)
    return issues if issues.layout is None else _GROUPED[type(issues.layout)](issues)
