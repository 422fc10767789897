"""Corrected labels make a better model: digits with a tenth of their labels flipped, and a classifier trained again."""

import numpy as np
import pytest

import labelsieve

SEEDS = range(5)


def accuracies(seed):
    """Return the accuracy of a nearest neighbour trained on flipped, accepted, reviewed and true labels."""
    datasets, selection, neighbors = (
        pytest.importorskip(f"sklearn.{name}") for name in ("datasets", "model_selection", "neighbors")
    )
    rng = np.random.default_rng(seed)
    pixels, digits = datasets.load_digits(return_X_y=True)
    train, test = selection.train_test_split(np.arange(len(digits)), test_size=0.3, random_state=seed, stratify=digits)
    true = digits[train]
    labels, flipped = true.copy(), rng.choice(len(true), len(true) // 10, replace=False)
    labels[flipped] = (true[flipped] + rng.integers(1, 10, len(flipped))) % 10
    model = neighbors.KNeighborsClassifier(10, weights="distance")
    pred_probs = selection.cross_val_predict(model, pixels[train], labels, cv=5, method="predict_proba")
    issues = labelsieve.find_label_issues(labels, pred_probs, progress=False)
    accepted = labelsieve.apply_decisions(labels, None, issues=issues, auto="accept", margin=0.0).labels
    worst = np.argsort(issues.scores, kind="stable")[:250]
    pd = pytest.importorskip("pandas")
    decisions = pd.DataFrame({"row": worst, "given_label": labels[worst]})
    decisions["decision"] = np.where(labels[worst] == true[worst], "keep", "other")
    decisions["label"] = np.where(labels[worst] == true[worst], "", true[worst].astype(str))
    reviewed = labelsieve.apply_decisions(labels, decisions).labels
    assert np.array_equal(reviewed[worst], true[worst])
    classifier = neighbors.KNeighborsClassifier(1)
    return [
        classifier.fit(pixels[train], these).score(pixels[test], digits[test])
        for these in (labels, accepted, reviewed, true)
    ]


def test_corrections_regain_most_of_the_accuracy_that_wrong_labels_cost():
    flipped, accepted, reviewed, clean = np.mean([accuracies(seed) for seed in SEEDS], axis=0)
    assert clean - flipped > 0.05
    assert accepted - flipped >= 0.75 * (clean - flipped)
    assert reviewed - flipped >= 0.85 * (clean - flipped)
