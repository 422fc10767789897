"""``cleanlab.multilabel_classification`` (2.9): `labelsieve.multilabel_classification` has its modules."""

import sys

from labelsieve.multilabel_classification import dataset, filter, rank  # noqa: A004  # cleanlab's names
from labelsieve.multilabel_classification.rank import get_label_quality_scores

__all__ = ["dataset", "filter", "get_label_quality_scores", "rank"]

sys.modules |= {f"{__name__}.dataset": dataset, f"{__name__}.filter": filter, f"{__name__}.rank": rank}
