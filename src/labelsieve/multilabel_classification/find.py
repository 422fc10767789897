"""`find_label_issues` and `plan_label_issues` of multi-label classification.

Each of the K tags is a problem of two classes: examples that have the tag, and examples that have not. All K are solved
in the same reads of `pred_probs`, by the job of `labelsieve.find_label_issues`, whose docstring says what that is: out
of core, in a memory that is planned, on threads or a cluster, resumed from a workdir.

| `filter_by` | The issues, of each tag | Reads |
|---|---|---|
| None | the examples of lowest score, as many as are counted by the predicted class | 1 |
| `predicted_neq_given` | all examples whose tag is not as predicted | 1 |
| `low_self_confidence`, `low_normalized_margin` | those of lowest such score, as many as the exact rule counts | 2 |
| `confident_learning` | those that the exact rule counts | 2 |
| `prune_by_class` | of those with and those without the tag, the least likely to be so | 2 |
| `prune_by_noise_rate` (the default) | of both, those of largest margin, as many as the calibrated joint expects | 2 |
| `both` | those that the last two agree on | 2 |
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np

from labelsieve.confident_learning.filters import joint_of_tags
from labelsieve.confident_learning.joint import ConfidentCounts
from labelsieve.errors import InvalidInputError
from labelsieve.find import Task
from labelsieve.job.job import Job
from labelsieve.job.plan import Plan
from labelsieve.multilabel_classification.issues import MultilabelIssues
from labelsieve.multilabel_classification.rows import open_tags
from labelsieve.options import OPTIONS, JobSettings
from labelsieve.results.result import check_class_names
from labelsieve.results.units import TagLayout, classes_of_tags
from labelsieve.sources.composite import check_dtype
from labelsieve.sources.objects import retry

__all__ = ["find_label_issues", "plan_label_issues"]


def _open(labels: Any, pred_probs: Any, settings: JobSettings) -> Job:
    """Return the job over the tags of all examples as rows."""
    opening = partial(
        open_tags,
        data=settings.data,
        ids=settings.ids,
        from_logits=settings.from_logits,
        dtype=check_dtype(settings.dtype),
        names=settings.class_names,
    )
    found = retry(settings.retries + 1, opening, labels, pred_probs)
    tags = check_class_names(settings.class_names, found.n_tags)
    texts = [f"tag {tag}" for tag in range(found.n_tags)] if tags is None else tags
    rows = settings.changed(
        data=None,
        ids=found.ids,
        from_logits=False,
        dtype=None,
        class_names=classes_of_tags(texts),
        confident_joint=_checked_joint(settings.confident_joint, found.n_tags),
        batch_size="auto" if settings.batch_size == "auto" else settings.batch_size * found.n_tags,
    )
    return Job(found.labels, found.pred_probs, rows, layout=TagLayout(found.n_examples, found.n_tags, tags))


def _checked_joint(joint: Any, n_tags: int) -> ConfidentCounts | None:
    """Return the counts of the user; None without any."""
    if joint is None:
        return None
    found = np.asarray(joint)
    if found.shape != (n_tags, 2, 2) or found.dtype.kind not in "iu":
        raise InvalidInputError(
            f"confident_joint must be integers of the shape ({n_tags}, 2, 2): for each tag the counts by label and "
            f"true label, not {found.dtype} of the shape {found.shape}"
        )
    if found.min(initial=0) < 0:
        raise InvalidInputError(f"confident_joint has counts below 0 (first: {int(found[found < 0][0])})")
    return joint_of_tags(found.astype(np.int64))


TASK: Final = Task(
    "tags",
    "one of the tags of an example",
    _open,
    MultilabelIssues,
    options={"filter_by": replace(OPTIONS["filter_by"], default="prune_by_noise_rate")},
    without={
        "summaries": "give labels and pred_probs",
        "n_classes": "pred_probs has a column for each tag",
        "adjust_pred_probs": "multilabel_classification.rank.get_label_quality_scores(..., adjust_pred_probs=True) "
        "has such scores",
        "ignore_label": "leave out examples without labels; an example without any tag is []",
        "allow_unnormalized_rows": "the probabilities of tags need not add up to 1 anyway",
        "multi_label": "leave it out: an example has any number of tags here",
    },
)


@TASK.finds
def find_label_issues(
    labels: Any = None, pred_probs: Any = None, *, confident_joint: Any = None, **settings: Any
) -> MultilabelIssues:
    """Find the tags of examples that are likely wrong, out of core, all in the same reads of `pred_probs`.

    Parameters
    ----------
    labels : list of lists of int or str, (N, K) matrix of 0 and 1, or str
        The tags of each example, ``[[0, 2], [], [1]]``; of texts, `class_names` says the number of each. Or a matrix
        with a column for each tag: an array, a table of pandas, a sparse matrix of SciPy, a Zarr array, HDF5 dataset or
        Dask array, or a path or URL. With `data`, the name of its column of lists.
    pred_probs : (N, K) array-like of float16, bfloat16, float32 or float64
        Out-of-sample probability that an example has a tag, as any of the kinds that `labelsieve.find_label_issues`
        takes, except `Ensemble` with weights by accuracy. Rows need not add up to 1.
    confident_joint : (K, 2, 2) array-like of int, optional
        For each tag the counts by label and true label, in place of those that are found; only for filters that prune.
    **settings : object
        As of `labelsieve.find_label_issues`, except that `filter_by` is ``"prune_by_noise_rate"`` by default,
        `from_logits` takes the sigmoid of each value, `batch_size` is a number of examples, `class_names` and
        `num_to_remove_per_class` are of the K tags (that many examples *without* each tag are removed, as in cleanlab),
        `ids` are of the N examples, and `allow_zero_rows` only matters for chunks that are not stored. Not here are
        `summaries`, `n_classes`, `adjust_pred_probs`, `ignore_label` and `allow_unnormalized_rows`.

    Returns
    -------
    MultilabelIssues
        The issues, worst first.

    Raises
    ------
    InvalidInputError
        For tags out of range or twice in one example, probabilities that are none, and other lengths: which example and
        which tag.
    InputTypeError
        For objects of the wrong kind, and unknown arguments.
    UnreadableDataError, MemoryLimitError, WorkdirError, InUseError, TaskFailedError
        As of `labelsieve.find_label_issues`.

    Warns
    -----
    LabelsieveWarning
        If tags and probabilities do not seem to belong together. ``rows.facts.misfit`` keeps the text.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import multilabel_classification
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> found = multilabel_classification.find_label_issues(labels, pred_probs)
    >>> found.pairs().tolist(), found.example_mask().tolist()
    ([[4, 0]], [False, False, False, False, True])

    The same as a matrix, and by another filter in one read:

    >>> matrix = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]])
    >>> found = multilabel_classification.find_label_issues(matrix, pred_probs, filter_by="predicted_neq_given")
    >>> found.pairs().tolist(), found.rows.facts.n_reads
    ([[4, 0]], 1)
    """
    raise NotImplementedError  # the task runs


@TASK.plans(find_label_issues)
def plan_label_issues(*args: Any, **settings: Any) -> Plan:
    """Plan a run of `find_label_issues`: batches, partitions, tasks, bytes and memory.

    Parameters
    ----------
    labels, pred_probs, confident_joint
        As in `find_label_issues`.
    **settings : object
        As in `find_label_issues`.

    Returns
    -------
    Plan
        The plan. Its rows are the tags of the examples, N * K.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import multilabel_classification
    >>> plan = multilabel_classification.plan_label_issues([[0], [1, 2]], np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.7]]))
    >>> plan.n_rows, plan.n_reads, plan.bytes_read
    (6, 2, 96)
    """
    raise NotImplementedError  # the task plans
