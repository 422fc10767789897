"""Find wrong labels in datasets whose predicted probabilities are larger than memory.

Names are imported when they are first used: the command line has to answer to Ctrl-C before it imports anything slow.
"""

import importlib

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from labelsieve import count
    from labelsieve.errors import (
        ChangedDataError,
        ForkedWorkerError,
        InputTypeError,
        InUseError,
        InvalidInputError,
        LabelsieveError,
        LabelsieveWarning,
        MemoryLimitError,
        MissingDependencyError,
        TaskFailedError,
        UnreadableDataError,
        UnwritableError,
        WorkdirError,
    )
    from labelsieve.find import find_label_issues, plan_label_issues
    from labelsieve.label_issues_batched import LabelInspector, find_label_issues_batched, split_arr
    from labelsieve.pipeline.plan import Plan
    from labelsieve.results.label_issues import LabelIssues, load
    from labelsieve.results.result import IssueRows

__all__ = [
    "ChangedDataError",
    "ForkedWorkerError",
    "InUseError",
    "InputTypeError",
    "InvalidInputError",
    "IssueRows",
    "LabelInspector",
    "LabelIssues",
    "LabelsieveError",
    "LabelsieveWarning",
    "MemoryLimitError",
    "MissingDependencyError",
    "Plan",
    "TaskFailedError",
    "UnreadableDataError",
    "UnwritableError",
    "WorkdirError",
    "count",
    "find_label_issues",
    "find_label_issues_batched",
    "load",
    "plan_label_issues",
    "split_arr",
]
__version__ = "0.1.0"

# Where the names above are from; those that are not here are errors.
_MODULES = {
    "IssueRows": "results.result",
    "LabelInspector": "label_issues_batched",
    "LabelIssues": "results.label_issues",
    "Plan": "pipeline.plan",
    "find_label_issues": "find",
    "find_label_issues_batched": "label_issues_batched",
    "load": "results.label_issues",
    "plan_label_issues": "find",
    "split_arr": "label_issues_batched",
}


def __getattr__(name: str) -> object:
    """Import a public name, or a module of this package."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = name in __all__ and name != "count"
    module = f"{__name__}.{_MODULES.get(name, 'errors') if public else name}"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # something that a module of ours needs
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found: object = getattr(imported, name) if public else imported
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
