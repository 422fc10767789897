"""``cleanlab.experimental.label_issues_batched``: the names of `labelsieve.label_issues_batched`."""

from labelsieve.label_issues_batched import LabelInspector, find_label_issues_batched, split_arr

__all__ = ["LabelInspector", "find_label_issues_batched", "split_arr"]
