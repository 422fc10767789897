"""Find wrong labels in classification datasets whose predicted probabilities are larger than memory.

Ten public benchmarks have on average at least 3.3% wrong labels in their test sets ([Northcutt, Athalye, Mueller
2021](https://arxiv.org/abs/2103.14749)). Confident learning finds them from two arrays: the given labels, and the
out-of-sample predicted probabilities of a model. `find_label_issues` does it out of core, on Dask, in bounded memory.

>>> import labelsieve
>>> labels = [0, 0, 1, 1, 1]
>>> pred_probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]]
>>> labelsieve.find_label_issues(labels, pred_probs)
<LabelIssues: 1 of 5 rows (20.00%) in 2 classes; worst rows: 4>

Guides:

| Question | Guide |
|---|---|
| what may be given as labels and predictions? | `docs/inputs.md` |
| which rows are issues, and which come first? | `docs/which_filter_and_score.md` |
| how are they reviewed and corrected, and how many labels are wrong? | `docs/from_found_to_fixed.md` |
| what does a run need in memory and time, here or on a cluster? | `docs/memory_and_scale.md` |
| how does it run every night, and what happens when something fails? | `docs/every_night.md` |
| how do other programs use the command line? | `docs/command_line.md` |
| what changes for users of cleanlab? | `docs/from_cleanlab.md` |
| how does it work? | `docs/how_it_works.md` |
"""

# Names are imported when they are first used: the command line has to answer to Ctrl-C before it imports anything slow.
import importlib

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from labelsieve import (
        cleanlab,
        cli,
        count,
        errors,
        find,
        inspector,
        label_issues_batched,
        multilabel_classification,
        recorder,
        segmentation,
        token_classification,
    )
    from labelsieve.confident_learning.estimate import ErrorEstimate
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
    from labelsieve.find import find_label_issues, get_label_quality_ensemble_scores, plan_label_issues
    from labelsieve.job.plan import Plan
    from labelsieve.job.table import RowSummaries
    from labelsieve.label_issues_batched import LabelInspector, find_label_issues_batched, split_arr
    from labelsieve.recorder import Recorder, summarize_batch
    from labelsieve.results.label_issues import LabelIssues, load
    from labelsieve.results.result import IssueRows
    from labelsieve.review.apply import AppliedDecisions, apply_decisions
    from labelsieve.review.audit import Audit, estimate
    from labelsieve.review.compare import Comparison, compare
    from labelsieve.review.label_studio import read_label_studio
    from labelsieve.sources.composite import Ensemble, Folds
    from labelsieve.sources.names import unescape_formula

__all__ = [  # noqa: RUF022  # in the order of the documentation
    "find_label_issues",
    "LabelIssues",
    "load",
    "Audit",
    "estimate",
    "ErrorEstimate",
    "plan_label_issues",
    "Plan",
    "apply_decisions",
    "AppliedDecisions",
    "read_label_studio",
    "compare",
    "Comparison",
    "Recorder",
    "summarize_batch",
    "Ensemble",
    "Folds",
    "get_label_quality_ensemble_scores",
    "RowSummaries",
    "IssueRows",
    "unescape_formula",
    "find_label_issues_batched",
    "LabelInspector",
    "split_arr",
    "find",
    "segmentation",
    "token_classification",
    "multilabel_classification",
    "count",
    "label_issues_batched",
    "cleanlab",
    "recorder",
    "inspector",
    "errors",
    "cli",
    "LabelsieveError",
    "InvalidInputError",
    "InputTypeError",
    "UnreadableDataError",
    "ChangedDataError",
    "UnwritableError",
    "MissingDependencyError",
    "MemoryLimitError",
    "WorkdirError",
    "InUseError",
    "TaskFailedError",
    "ForkedWorkerError",
    "LabelsieveWarning",
]
__version__ = "0.1.0"

_SUBMODULES = (
    "cleanlab",
    "cli",
    "count",
    "errors",
    "find",
    "inspector",
    "label_issues_batched",
    "multilabel_classification",
    "recorder",
    "segmentation",
    "token_classification",
)
# The modules that define the names above; the names that are not here are errors.
_MODULES = {
    "AppliedDecisions": "review.apply",
    "Audit": "review.audit",
    "Comparison": "review.compare",
    "Ensemble": "sources.composite",
    "ErrorEstimate": "confident_learning.estimate",
    "Folds": "sources.composite",
    "IssueRows": "results.result",
    "LabelInspector": "label_issues_batched",
    "LabelIssues": "results.label_issues",
    "Plan": "job.plan",
    "Recorder": "recorder",
    "RowSummaries": "job.table",
    "apply_decisions": "review.apply",
    "compare": "review.compare",
    "estimate": "review.audit",
    "find_label_issues": "find",
    "get_label_quality_ensemble_scores": "find",
    "find_label_issues_batched": "label_issues_batched",
    "load": "results.label_issues",
    "plan_label_issues": "find",
    "read_label_studio": "review.label_studio",
    "split_arr": "label_issues_batched",
    "summarize_batch": "recorder",
    "unescape_formula": "sources.names",
}


def __getattr__(name: str) -> object:
    """Import a public name, or a module of this package, when it is first used."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = name in __all__ and name not in _SUBMODULES
    module = f"{__name__}.{_MODULES.get(name, 'errors') if public else name}"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # a module of ours needs something that is missing
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found: object = getattr(imported, name) if public else imported
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
