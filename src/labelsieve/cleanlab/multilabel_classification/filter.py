"""``cleanlab.multilabel_classification.filter`` (2.9)."""

from labelsieve.multilabel_classification.filter import find_label_issues, find_multilabel_issues_per_class

__all__ = ["find_label_issues", "find_multilabel_issues_per_class"]
