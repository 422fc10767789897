"""Whether tags and predictions belong together, by totals that every run has.

An example that has a tag should have a higher probability of it than one that has not. If that is so of hardly any tag,
the examples or the tags of one input are in a different order, and nearly every issue would be wrong.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from labelsieve.confident_learning.dtypes import Float64s, Int64s

# As in `labelsieve.confident_learning.agreement`: the standard deviations from which a difference is more than chance,
# the share of what a perfect model would have that is too little, and how clear that would have to be.
_CLEAR: Final = 5.0
_WEAK: Final = 0.1
_LEAST_POWER: Final = 20.0


def describe_tag_misfit(means: Float64s, class_counts: Int64s) -> str:
    """Return a warning if examples with a tag have no higher probability of it than others; "" if they have.

    Parameters
    ----------
    means : (K, 2) float64
        Mean probability of not having, and of having each tag, over the examples that are so.
    class_counts : (K, 2) int64
        Number of these examples.
    """
    both = (class_counts > 0).all(axis=1)
    if not both.any():
        return ""
    counts, means = class_counts[both].astype(np.float64), means[both].clip(0, 1)
    p_without, p_with = 1 - means[:, 0], means[:, 1]
    mean = (p_without * counts[:, 0] + p_with * counts[:, 1]) / counts.sum(axis=1)
    # No probabilities of this mean vary more than 0 and 1 do.
    spread = np.sqrt(np.maximum(mean * (1 - mean), 1e-12) * (1 / counts).sum(axis=1))
    found, most = (float(one.sum() / np.sqrt(len(counts))) for one in ((p_with - p_without) / spread, 1 / spread))
    if most < _LEAST_POWER or found >= _CLEAR or found >= _WEAK * most:
        return ""
    return (
        "labels and pred_probs do not seem to belong together: over all tags, the mean probability of a tag is "
        f"{p_with.mean():.3g} for examples that have it, and {p_without.mean():.3g} for others. Likely cause: the "
        "examples or the tags are in different orders, or the model has not learned these tags"
    )
