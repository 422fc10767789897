"""`cleanlab.segmentation`, over `labelsieve.segmentation`, whose `summary` it has."""

import sys

from labelsieve.cleanlab.segmentation import filter, rank  # noqa: A004  # cleanlab's names
from labelsieve.segmentation import summary

__all__ = ["filter", "rank", "summary"]

sys.modules[f"{__name__}.summary"] = summary
