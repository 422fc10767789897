"""``cleanlab.experimental``, of which Labelsieve has `label_issues_batched`."""

import sys

from labelsieve import label_issues_batched

__all__ = ["label_issues_batched"]

sys.modules[f"{__name__}.label_issues_batched"] = label_issues_batched
