"""`cleanlab.token_classification`, over `labelsieve.token_classification`."""

from labelsieve.cleanlab.token_classification import filter, rank, summary  # noqa: A004  # cleanlab's names

__all__ = ["filter", "rank", "summary"]
