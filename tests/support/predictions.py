"""What the benchmarks read: seeded predictions of a rather good model, with some labels wrong."""

import numpy as np


def draw(rng, n_rows, n_classes, *, spread=False, wrong=0.05):
    """Return probabilities and given labels of some rows; `spread` makes it surer of some rows than of others.

    That share of the labels is drawn anew, so that some of them stay right.
    """
    true = rng.integers(0, n_classes, n_rows)
    logits = rng.standard_normal((n_rows, n_classes), dtype=np.float32)
    logits[np.arange(n_rows), true] += 2 + np.log(n_classes)
    if spread:
        logits[np.arange(n_rows), true] += rng.gamma(2.0, 1.0, n_rows).astype(np.float32)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits, np.where(rng.random(n_rows) < wrong, rng.integers(0, n_classes, n_rows), true)
