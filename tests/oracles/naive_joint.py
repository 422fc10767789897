"""The exact rule and the filters as slow, plain Python: explicit loops, nothing of the package.

The confident joint, calibrated or not, how many rows are pruned of each class and pair, and the rows of each
filter.
"""

import numpy as np

import naive

FILTERS = [
    "low_self_confidence",
    "low_normalized_margin",
    "confident_learning",
    "predicted_neq_given",
    "prune_by_class",
    "prune_by_noise_rate",
    "both",
]
PRUNING = FILTERS[4:]


def counted_as(row, cuts):
    """Return the class as which a row counts, or None."""
    reached = [k for k, p in enumerate(row) if p >= cuts[k] - 1e-6]
    if not reached:
        return None
    return reached[0] if len(reached) == 1 else naive.first_argmax(row)


def off_rows(labels, probs, cuts):
    """Return the rows that are counted off the diagonal and whose label is not nearly predicted."""
    found = []
    for i, (label, row) in enumerate(zip(labels, probs, strict=True)):
        if counted_as(row, cuts) not in (None, label) and not naive.near_predicted(label, row):
            found.append(i)
    return found


def joint(labels, probs, cuts):
    """Return the K x K counts by given label and class, at least 1 on the diagonal."""
    n_classes = len(cuts)
    counts = [[0] * n_classes for _ in range(n_classes)]
    for label, row in zip(labels, probs, strict=True):
        k = counted_as(row, cuts)
        if k is not None:
            counts[label][k] += 1
    for k in range(n_classes):
        counts[k][k] = max(1, counts[k][k])
    return counts


def rounded(values):
    """Round numbers so that they add up to their rounded sum."""
    values = np.array(values, float)
    whole = [float(np.round(value)) for value in values]
    missing = float(np.round(np.sum(values))) - sum(whole)
    while abs(missing) > 1e-6:
        step = 1 if missing > 0 else -1
        order = np.argsort(values - np.array(whole))
        order = order[::-1] if step > 0 else order
        for place in order[: int(abs(missing))]:
            whole[place] += step
        missing -= step * min(int(abs(missing)), len(whole))
    return [int(value) for value in whole]


def calibrated(counts, sizes):
    """Scale the counts of each label to all of its rows, and round them."""
    scaled = [[c / max(sum(row), 1e-100) * size for c in row] for row, size in zip(counts, sizes, strict=True)]
    total = float(np.sum(np.array(scaled).T.copy()))
    return [rounded([value / total * sum(sizes) for value in row]) for row in scaled]


def prune_counts(calibrated_counts, sizes, frac_noise=1.0, min_examples_per_class=1, num_to_remove_per_class=None):
    """Return a table: of given label k and class j, how many rows to take; on the diagonal, how many to leave."""
    n_classes = len(sizes)
    taken = []
    for k in range(n_classes):
        row = calibrated_counts[k]
        right = max(row[k], min_examples_per_class)
        share = (right - row[k]) / max(sum(c != 0 for c in row) - 1.0, 1.0)
        others = [right if j == k else max(0, c - share) for j, c in enumerate(row)]
        reduced = [right if j == k else c * frac_noise for j, c in enumerate(others)]
        left = right + np.sum(np.array(others) - np.array(reduced))
        taken.append([int(left) if j == k else int(c) for j, c in enumerate(reduced)])
    if num_to_remove_per_class is None:
        return taken
    result = [[0] * n_classes for _ in range(n_classes)]
    of_true = [sum(taken[i][j] for i in range(n_classes)) for j in range(n_classes)]
    for j, wanted in enumerate(num_to_remove_per_class):
        parts = np.array([taken[i][j] / max(of_true[i], 1) for i in range(n_classes)])
        noise = parts.sum() - parts[j]
        scaled = parts * wanted / noise if noise > 0 else parts * 0
        scaled[j] = sizes[j] - wanted
        for i, value in enumerate(rounded(scaled)):
            result[i][j] = value
    return result


def pruned(labels, probs, table, by_pair, min_examples_per_class=1):
    """Return the rows that are pruned by class, or by pair of classes."""
    rows, n_classes = set(), len(table)
    for k in range(n_classes):
        own = [i for i, label in enumerate(labels) if label == k]
        if len(own) <= max(1, min_examples_per_class):
            continue
        if not by_pair:
            rows |= set(sorted(own, key=lambda i: (probs[i][k], i))[: max(0, len(own) - table[k][k])])
            continue
        for j in range(n_classes):
            if j != k and table[k][j] > 0:
                rows |= set(sorted(own, key=lambda i: (probs[i][k] - probs[i][j], i))[: table[k][j]])
    return rows


def filtered(labels, probs, filter_by, rank=("self_confidence", False), **choices):
    """Return the rows that a filter finds, by (score, row) of the score that ranks them."""
    labels, probs = naive.plain(labels, probs)
    cuts = naive.thresholds(labels, probs)
    scores = naive.scores(labels, probs, *rank, cuts)
    if filter_by in FILTERS[:2]:
        by = naive.scores(labels, probs, filter_by.removeprefix("low_"), False, cuts)
        rows = naive.ranked(by, len(off_rows(labels, probs, cuts)))
    elif filter_by == "confident_learning":
        rows = off_rows(labels, probs, cuts)
    elif filter_by == "predicted_neq_given":
        rows = naive.without_near(range(len(labels)), labels, probs)
    else:
        sizes = naive.class_counts(labels, len(cuts))
        table = prune_counts(calibrated(joint(labels, probs, cuts), sizes), sizes, **choices)
        least = choices.get("min_examples_per_class", 1)
        ways = {"prune_by_class": [False], "prune_by_noise_rate": [True], "both": [False, True]}[filter_by]
        rows = set.intersection(*(pruned(labels, probs, table, by_pair, least) for by_pair in ways))
        rows = naive.without_near(sorted(rows), labels, probs)
    return sorted(rows, key=lambda i: (scores[i], i))
