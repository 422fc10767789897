"""``cleanlab.multilabel_classification`` (2.9)."""

from labelsieve.cleanlab.multilabel_classification import dataset, filter, rank  # noqa: A004  # cleanlab's names
from labelsieve.cleanlab.multilabel_classification.rank import get_label_quality_scores

__all__ = ["dataset", "filter", "get_label_quality_scores", "rank"]
