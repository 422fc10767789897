"""Multi-label classification: each example may have any number of tags, and each tag may be wrong.

`find_label_issues` returns a `labelsieve.results.tag_issues.MultilabelIssues`. The modules `filter`, `rank` and
`dataset` have the functions of ``cleanlab.multilabel_classification`` (2.9), with its arguments and results.
"""

from labelsieve.multilabel_classification.find import find_label_issues, plan_label_issues

__all__ = ["find_label_issues", "plan_label_issues"]
