"""Multi-label classification: each example may have any number of tags, and each tag may be wrong.

>>> import numpy as np
>>> from labelsieve import multilabel_classification
>>> labels = [[0], [0, 1], [], [1], [0, 1]]  # the tags of each example
>>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])  # of having each tag
>>> found = multilabel_classification.find_label_issues(labels, pred_probs)
>>> found
<MultilabelIssues: 1 of 10 tags of 5 examples, in 1 of them (20.00%); worst: tag 0 of example 4>
>>> found.pairs()
array([[4, 0]])

The modules `filter`, `rank` and `dataset` have the functions of ``cleanlab.multilabel_classification`` (2.9), with its
arguments and results.
"""

from labelsieve.multilabel_classification import dataset, filter, rank  # noqa: A004  # cleanlab's name
from labelsieve.multilabel_classification.find import find_label_issues, plan_label_issues
from labelsieve.multilabel_classification.issues import MultilabelIssues

__all__ = ["MultilabelIssues", "dataset", "filter", "find_label_issues", "plan_label_issues", "rank"]
