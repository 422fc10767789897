"""How well scores, filters and counts find known wrong labels is in `docs/which_filter_and_score.md`."""
