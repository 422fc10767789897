"""`cleanlab.token_classification.summary`: the functions of `labelsieve.token_classification.summary`."""

from __future__ import annotations

from labelsieve.token_classification.summary import common_label_issues, display_issues, filter_by_token

__all__ = ["common_label_issues", "display_issues", "filter_by_token"]
