"""`cleanlab.segmentation`, over `labelsieve.segmentation`."""

from labelsieve.cleanlab.segmentation import filter, rank, summary  # noqa: A004  # cleanlab's names

__all__ = ["filter", "rank", "summary"]
