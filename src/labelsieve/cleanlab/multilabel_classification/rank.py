"""``cleanlab.multilabel_classification.rank`` (2.9)."""

from labelsieve.multilabel_classification.rank import get_label_quality_scores, get_label_quality_scores_per_class

__all__ = ["get_label_quality_scores", "get_label_quality_scores_per_class"]
