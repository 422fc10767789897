"""The tasks of the command line: which functions find the issues of each, and which options only it has."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from labelsieve.errors import InvalidInputError
from labelsieve.options import NOTHING
from labelsieve.results.label_issues import GroupedIssues, LabelIssues

_MODULES: Final = {
    "classification": "labelsieve.find",
    "segmentation": "labelsieve.segmentation",
    "tokens": "labelsieve.token_classification",
    "tags": "labelsieve.multilabel_classification",
}
# Options that only one task has.
_OF_TASK: Final = {"offsets": "tokens", "sentence_ids": "tokens"}


def module_of(task: str) -> Any:
    """Return the module with `find_label_issues` and `plan_label_issues` of a task; only that one is imported."""
    return importlib.import_module(_MODULES[task])


def check_options(task: str, choices: Mapping[str, Any]) -> None:
    """Raise if an option of another task is given.

    Raises
    ------
    InvalidInputError
        Naming the option and its task.
    """
    for name, only in _OF_TASK.items():
        if choices[name] is not None and task != only:
            raise InvalidInputError(f"--{name.replace('_', '-')} is for --task {only}")


def settings_of(task: str, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as arguments of the functions of a task, which has not all that classification has."""
    if task == "classification":
        return {name: value for name, value in choices.items() if name not in _OF_TASK}
    not_given = (None, False, NOTHING)  # compared as objects: 0 is a label, and equals False
    return {name: value for name, value in choices.items() if not any(value is one for one in not_given)}


def rows_of(issues: LabelIssues | GroupedIssues) -> LabelIssues:
    """Return the issues of any task as rows."""
    return issues.rows if isinstance(issues, GroupedIssues) else issues
