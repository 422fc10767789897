"""Find wrong labels in datasets whose predicted probabilities are larger than memory."""

from labelsieve import count
from labelsieve.engine import Plan
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
from labelsieve.issues import LabelIssues, load
from labelsieve.label_issues_batched import LabelInspector, find_label_issues_batched, split_arr
from labelsieve.results import IssueRows

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
