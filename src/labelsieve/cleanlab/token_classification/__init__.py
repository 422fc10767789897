"""`cleanlab.token_classification`, over `labelsieve.token_classification`, whose `summary` it has."""

import sys

from labelsieve.cleanlab.token_classification import filter, rank  # noqa: A004  # cleanlab's names
from labelsieve.token_classification import summary

__all__ = ["filter", "rank", "summary"]

sys.modules[f"{__name__}.summary"] = summary
