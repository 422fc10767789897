"""The numeric contract as slow, plain Python: explicit loops, Python integers and floats, nothing of the package.

Thresholds, scores, both counts, the ranked rows and those that are issues.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

METHODS = [
    ("self_confidence", False),
    ("self_confidence", True),
    ("normalized_margin", False),
    ("normalized_margin", True),
    ("confidence_weighted_entropy", False),
    ("logit_margin", False),
]
# cleanlab has no logit margin.
CLEANLAB_METHODS = METHODS[:-1]
EXACT = [("self_confidence", False), ("normalized_margin", False), ("logit_margin", False)]
COUNTS = ["off_diagonal", "off_diagonal_calibrated"]


class Answer(NamedTuple):
    """Everything that the contract says of one dataset under one choice of settings."""

    class_counts: list[int]
    thresholds: list[float]
    scores: list[float]
    num_issues: int
    ranked: list[int]
    issues: list[int]


def answer(labels, probs, method="self_confidence", adjust=False, count="off_diagonal"):
    """Return the whole `Answer` for array-likes of labels and probabilities."""
    labels, probs = plain(labels, probs)
    cuts = thresholds(labels, probs)
    row_scores = scores(labels, probs, method, adjust, cuts)
    num = num_issues(labels, probs, cuts, count)
    worst = ranked(row_scores, num)
    return Answer(class_counts(labels, len(cuts)), cuts, row_scores, num, worst, without_near(worst, labels, probs))


def plain(labels, probs):
    """Return a list of Python ints and a list of rows of Python floats; -0.0 becomes 0.0."""
    rows = [[float(p) + 0.0 for p in row] for row in np.asarray(probs).tolist()]
    return [int(label) for label in np.asarray(labels).tolist()], rows


def class_counts(labels, n_classes):
    counts = [0] * n_classes
    for label in labels:
        counts[label] += 1
    return counts


def units(p):
    """Return p in units of 2**-52, rounded half to even, as a Python int."""
    return round(Fraction(p) * 2**52)


def thresholds(labels, probs):
    n_classes = len(probs[0])
    totals, counts = [0] * n_classes, class_counts(labels, n_classes)
    for label, row in zip(labels, probs, strict=True):
        totals[label] += units(row[label])
    result = []
    for total, count in zip(totals, counts, strict=True):
        result.append(max(2e-6, total / (count * 2**52)) if count else 2.0)
    return result


def first_argmax(row):
    best = 0
    for k in range(1, len(row)):
        if row[k] > row[best]:
            best = k
    return best


def num_issues(labels, probs, cuts, count):
    n_classes = len(cuts)
    n, m, q = [0] * n_classes, [0] * n_classes, [0] * n_classes
    for label, row in zip(labels, probs, strict=True):
        predicted = first_argmax(row)
        confident = row[predicted] >= cuts[predicted] - 1e-6
        n[label] += 1
        m[label] += confident
        q[label] += confident and predicted != label
    if count == "off_diagonal":
        return sum(q)
    total = 0.0
    for j in range(n_classes):
        total += q[j] * n[j] / max(float(m[j]), 1e-6)
    return round(total)  # half to even, as rint


def scores(labels, probs, method, adjust, cuts):
    result = []
    for label, row in zip(labels, probs, strict=True):
        values = adjusted(row, cuts) if adjust else row
        if method == "self_confidence":
            result.append(values[label])
        elif method == "normalized_margin":
            others = [p for k, p in enumerate(values) if k != label]
            result.append((values[label] - max(others) + 1) / 2)
        elif method == "logit_margin":
            least = [max(p, 1e-30) for p in values]
            result.append(least[label] / (least[label] + max(p for k, p in enumerate(least) if k != label)))
        else:
            result.append(weighted_entropy(label, values))
    return result


def adjusted(row, cuts):
    shifted = [p - cut + max(cuts) for p, cut in zip(row, cuts, strict=True)]
    total = math.fsum(shifted)
    return [p / total for p in shifted] if total else shifted


def weighted_entropy(label, row):
    clipped = [min(max(p, 0.0), 1.0) for p in row]
    entropy = -math.fsum(p * math.log(p) for p in clipped if p > 0) / math.log(len(row))
    ratio = entropy / max(clipped[label], 1e-6)
    return math.log(ratio + 1) / max(ratio, 1e-6)


def ranked(row_scores, count):
    """Return the `count` rows of lowest score, by (score, row)."""
    return sorted(range(len(row_scores)), key=lambda row: (row_scores[row], row))[:count]


def near_predicted(label, row):
    """Tell whether the label would be the row's first argmax with 1e-6 more."""
    raised = list(row)
    raised[label] += 1e-6
    return first_argmax(row) == label or first_argmax(raised) == label


def without_near(rows, labels, probs):
    return [row for row in rows if not near_predicted(labels[row], probs[row])]
