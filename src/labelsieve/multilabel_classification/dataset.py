"""Summaries of the issues of tags: ``cleanlab.multilabel_classification.dataset`` (2.9), out of core.

All need pandas. Each function reads `pred_probs` twice, and `multilabel_health_summary` no more often than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labelsieve.confident_learning.matrices import Columns
from labelsieve.errors import InvalidInputError
from labelsieve.multilabel_classification.find import find_label_issues
from labelsieve.multilabel_classification.issues import MultilabelIssues
from labelsieve.results.result import frame_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "common_multilabel_issues",
    "multilabel_health_summary",
    "overall_multilabel_health_score",
    "rank_classes_by_multilabel_quality",
]


def common_multilabel_issues(
    labels: Any = list,  # as in cleanlab; it stands for none
    pred_probs: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    confident_joint: Any = None,
) -> pd.DataFrame:
    """Return how often each tag was given wrongly, and how often it is missing, most frequent first.

    Parameters
    ----------
    labels, pred_probs
        As in `labelsieve.multilabel_classification.find_label_issues`, which finds the issues.
    class_names : sequence of str, optional
        K names.
    confident_joint : (K, 2, 2) array-like of int, optional
        Counts of each tag.

    Returns
    -------
    pandas.DataFrame
        Two rows for each tag, with *Class Name* (if given), *Class Index*, *In Given Label*, *In Suggested Label*,
        *Num Examples* and *Issue Probability*, the share of all examples.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.dataset import common_multilabel_issues
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> common_multilabel_issues(labels, pred_probs).iloc[0].to_dict()
    {'Class Index': 0, 'In Given Label': True, 'In Suggested Label': False, 'Num Examples': 1, 'Issue Probability': 0.2}
    """
    return _common_issues(_find(labels, pred_probs, class_names, confident_joint))


def rank_classes_by_multilabel_quality(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    joint: Any = None,
    confident_joint: Any = None,  # noqa: ARG001  # of cleanlab
) -> pd.DataFrame:
    """Return the quality of each tag, the lowest first.

    Parameters
    ----------
    labels, pred_probs, class_names
        As in `common_multilabel_issues`.
    joint : (K, 2, 2) array-like of int, optional
        Counts of each tag; cleanlab takes them by this name here.
    confident_joint : object, optional
        Has no effect, as in cleanlab.

    Returns
    -------
    pandas.DataFrame
        A row for each tag, with *Class Name* (if given), *Class Index*, *Label Issues* (examples that have the tag and
        likely should not), *Inverse Label Issues* (the other way round), *Label Noise* and *Inverse Label Noise*
        (these as shares of all examples), and *Label Quality Score*, 1 less *Label Noise*.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.dataset import rank_classes_by_multilabel_quality
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> rank_classes_by_multilabel_quality(labels, pred_probs)[["Class Index", "Label Issues"]].values.tolist()
    [[0, 1], [1, 0]]
    """
    return _quality(_find(labels, pred_probs, class_names, joint))


def overall_multilabel_health_score(
    labels: Any = None, pred_probs: Any = None, *, confident_joint: Any = None
) -> float:
    """Return the share of examples whose tags all seem right.

    Parameters
    ----------
    labels, pred_probs, confident_joint
        As in `common_multilabel_issues`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.dataset import overall_multilabel_health_score
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> overall_multilabel_health_score(labels, pred_probs)
    0.8
    """
    return _find(labels, pred_probs, None, confident_joint).health_score()


def multilabel_health_summary(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    num_examples: int | None = None,
    confident_joint: Any = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Return, and print, the results of the other functions of this module.

    Parameters
    ----------
    labels, pred_probs, class_names, confident_joint
        As in `common_multilabel_issues`.
    num_examples : int, optional
        Only printed; N by default.
    verbose : bool
        Whether to print them.

    Returns
    -------
    dict
        ``"overall_multilabel_health_score"``, ``"classes_by_multilabel_quality"`` and ``"common_multilabel_issues"``.
        As in cleanlab, `confident_joint` does not change the second one.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.multilabel_classification.dataset import multilabel_health_summary
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> multilabel_health_summary(labels, pred_probs, verbose=False)["overall_multilabel_health_score"]
    0.8
    """
    found = _find(labels, pred_probs, class_names, confident_joint)
    plain = found if confident_joint is None else _find(labels, pred_probs, class_names, None)
    summary = {
        "overall_multilabel_health_score": found.health_score(),
        "classes_by_multilabel_quality": _quality(plain),
        "common_multilabel_issues": _common_issues(found),
    }
    if verbose:
        n = found.n_examples if num_examples is None else num_examples
        print(f"Health of the tags of {n:,} examples: {summary['overall_multilabel_health_score']:.1%} have no issue\n")
        print("Tags, those of lowest quality first:")
        print(summary["classes_by_multilabel_quality"].to_string(), "\n")
        print("Issues, the most frequent first:")
        print(summary["common_multilabel_issues"].to_string())
    return summary


def _find(labels: Any, pred_probs: Any, class_names: Any, confident_joint: Any) -> MultilabelIssues:
    if labels is None or labels is list:
        raise InvalidInputError("labels is missing: the issues are found from labels and pred_probs")
    names = None if class_names is None else list(class_names)
    return find_label_issues(labels, pred_probs, class_names=names, confident_joint=confident_joint, progress=False)


def _common_issues(found: MultilabelIssues) -> pd.DataFrame:
    counts = found.issues_by_label[:, ::-1].reshape(-1)  # of each tag those that have it first
    given = np.tile([True, False], found.n_tags)
    columns = _tags(found, 2) | {
        "In Given Label": given,
        "In Suggested Label": ~given,
        "Num Examples": counts,
        "Issue Probability": counts / found.n_examples,
    }
    return frame_of(columns).sort_values("Issue Probability", ascending=False).reset_index(drop=True)


def _tags(found: MultilabelIssues, n_rows: int) -> Columns:
    """Return the names, if there are any, and the numbers of the tags, each in `n_rows` rows."""
    names = {} if found.tag_names is None else {"Class Name": np.repeat(np.array(found.tag_names, object), n_rows)}
    return {**names, "Class Index": np.repeat(np.arange(found.n_tags), n_rows)}


def _quality(found: MultilabelIssues) -> pd.DataFrame:
    shares = found.issues_by_label / found.n_examples
    # As in cleanlab, the product is truncated, so that some numbers are one too low.
    numbers = (shares * found.n_examples).astype(np.int64)
    columns = _tags(found, 1) | {
        "Label Issues": numbers[:, 1],
        "Inverse Label Issues": numbers[:, 0],
        "Label Noise": shares[:, 1],
        "Inverse Label Noise": shares[:, 0],
        "Label Quality Score": 1 - shares[:, 1],
    }
    # Ties in the order of the other table, as in cleanlab.
    order = list(dict.fromkeys(_common_issues(found)["Class Index"].tolist()))
    return frame_of(columns).iloc[order].sort_values("Label Quality Score").reset_index(drop=True)
