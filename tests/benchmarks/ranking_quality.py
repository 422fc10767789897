"""How well each score, filter, count and ensemble finds wrong labels that are known.

The cases are real predictions with verified errors (``--data``: a folder of folders with ``labels.npy``,
``pred_probs.npy`` and ``verified_errors.npy``), cross-validated models of scikit-learn on its own datasets with flipped
labels, and simulated models of 2 to 1,000 classes. Markdown tables go to the output, all figures to ``--json``.

    python tests/benchmarks/ranking_quality.py --data FOLDER --json quality.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import labelsieve
from labelsieve import count
from labelsieve.options import FILTER_NAMES, METHODS

NOISES = ("uniform", "pairwise", "instance", "rare classes")
CLASSES = (2, 10, 100, 1000)
RATES = (0.02, 0.1)
LOOKED_AT = (0.01, 0.02, 0.05, 0.1)
N_MEMBERS = 5
# Distances of the class centres at which a perfect model is right about 95% of the rows.
SCALES = {2: 2.4, 10: 3.5, 100: 4.5, 1000: 5.5}


@dataclass(frozen=True)
class Model:
    """A simulated model.

    Parameters
    ----------
    error : float
        Standard deviation of the errors of its logits.
    sharpness : float
        Factor of the logits of the calibrated model: above 1 it is too sure of itself.
    bias : float
        Standard deviation of what is added to the logits of each class.
    """

    error: float = 1
    sharpness: float = 1
    bias: float = 0


MODELS = {
    "good": Model(),
    "overconfident": Model(sharpness=3),
    "class-biased": Model(bias=2),
    "weak": Model(error=4),
    "weak, overconfident": Model(error=4, sharpness=3),
}
DATA = "LABELSIEVE_VERIFIED_ERRORS"
# Average precisions that differ by no more are alike.
ALIKE = 0.002
GROUPS = {
    "human": "human",
    "flipped": "flipped",
    "trained": "trained",
    "simulated": "simulated",
}


@dataclass(frozen=True)
class Case:
    """Labels, predictions, and which labels are wrong."""

    group: str
    name: str
    labels: np.ndarray
    members: list[np.ndarray]
    is_wrong: np.ndarray
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def probs(self) -> np.ndarray:
        """The probabilities of the first model."""
        return self.members[0]


def softmax(logits):
    """Return the probabilities of logits, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def top_two(probs):
    """Return the two most probable classes of each row."""
    rows, others = np.arange(len(probs)), probs.copy()
    first = probs.argmax(axis=1)
    others[rows, first] = -1
    return first, others.argmax(axis=1)


def flips(true, posterior, noise, rate, rng):
    """Return labels with errors, and the chance of an error by row, or by row and class.

    *Pairwise*: every other class is taken for the next one, and no other is. *Instance*: rows that are hard to tell
    apart are wrong more often, and labelled as the likeliest other class.
    """
    n, n_classes = posterior.shape
    chance = np.full(n, rate)
    wrong = (true + rng.integers(1, n_classes, n)) % n_classes
    if noise == "pairwise":
        chance = 2 * rate * (true % 2 == 0)
        wrong = (true + 1) % n_classes
    elif noise == "instance":
        first, second = top_two(posterior)
        rows = np.arange(n)
        doubt = 1 - (posterior[rows, first] - posterior[rows, second]).astype(np.float64)
        chance = np.minimum(0.9, rate * (0.5 + 0.5 * doubt / doubt.mean()))
        wrong = np.where(first == true, second, first)
    return np.where(rng.random(n) < chance, wrong, true), chance


def learned(probs, noise, rate, chance):
    """Return what a model predicts that has learned from labels with these errors."""
    n_classes = probs.shape[1]
    if noise == "pairwise":
        moved = probs * np.where(np.arange(n_classes) % 2 == 0, 2 * rate, 0).astype(probs.dtype)
        return probs - moved + np.roll(moved, 1, axis=1)
    if noise == "instance":
        rows, (first, second), share = np.arange(len(probs)), top_two(probs), chance.astype(probs.dtype)
        largest = probs[rows, first]
        mixed = probs * (1 - share[:, np.newaxis])
        mixed[rows, second] += share * largest
        mixed[rows, first] += share * (1 - largest)
        return mixed
    return probs * (1 - rate) + (1 - probs) * (rate / (n_classes - 1))


def simulated(noise, n_classes, model, rate, n_rows, seed):
    """Return a case of simulated rows and models.

    A row is its class's centre and Gaussian noise. The models know the logits of a perfect model with errors, half of
    whose variance they share.
    """
    settings = MODELS[model]
    numbers = (NOISES.index(noise), n_classes, list(MODELS).index(model), round(1000 * rate))
    rng = np.random.default_rng([seed, *numbers])
    n_features, scale = 64, SCALES[n_classes]
    centres = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    centres *= scale / np.linalg.norm(centres, axis=1, keepdims=True)
    shares = 1 / np.arange(1, n_classes + 1) if noise == "rare classes" else np.ones(n_classes)
    true = rng.choice(n_classes, n_rows, p=shares / shares.sum())
    logits = (centres[true] + rng.standard_normal((n_rows, n_features), dtype=np.float32)) @ centres.T
    logits += np.log(shares).astype(np.float32)
    labels, chance = flips(true, softmax(logits.copy()), noise, rate, rng)
    own_error = np.float32(settings.error * 0.5**0.5)
    logits += own_error * rng.standard_normal(logits.shape, dtype=np.float32)
    # With errors of this size the calibrated logits are smaller.
    calibration = np.float32(scale**2 / (scale**2 + settings.error**2))
    bias = (settings.bias * rng.standard_normal(n_classes)).astype(np.float32)
    members = []
    for _ in range(N_MEMBERS if n_classes <= 100 else 1):
        error = own_error * rng.standard_normal(logits.shape, dtype=np.float32)
        probs = learned(softmax(calibration * (logits + error)), noise, rate, chance)
        members.append(softmax(settings.sharpness * np.log(probs + 1e-30) + bias))
    name = f"{noise}, K={n_classes}, {model}, {rate:.0%}"
    facts = {"noise": noise, "model": model, "rate": rate}
    return Case("simulated", name, labels, members, labels != true, facts)


def simulated_cases(n_rows, seed) -> Iterator[Case]:
    """Yield a case for each noise, number of classes, model and rate."""
    for noise, n_classes, model, rate in itertools.product(NOISES, CLASSES, MODELS, RATES):
        yield simulated(noise, n_classes, model, rate, n_rows, seed)


def trained_cases(seed) -> Iterator[Case]:
    """Yield models of scikit-learn, cross-validated on its own datasets with flipped labels."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(10)),
        "naive Bayes": make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1e-3)),
        "random forest": RandomForestClassifier(50, random_state=seed),
    }
    for (name, load), noise, rate in itertools.product(
        (("digits", load_digits), ("breast cancer", load_breast_cancer)), NOISES[:3], RATES
    ):
        features, true = load(return_X_y=True)
        rng = np.random.default_rng([seed, len(true), NOISES.index(noise), round(1000 * rate)])
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        clean = cross_val_predict(models["random forest"], features, true, cv=folds, method="predict_proba")
        labels, _ = flips(true, clean, noise, rate, rng)
        predictions = {
            kind: cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
            for kind, model in models.items()
        }
        for kind in models:
            members = [predictions[kind], *(probs for other, probs in predictions.items() if other != kind)]
            facts = {"noise": noise, "model": kind, "rate": rate}
            yield Case("trained", f"{name}, {noise}, {kind}, {rate:.0%}", labels, members, labels != true, facts)


def verified_cases(folder) -> Iterator[Case]:
    """Yield the datasets in `folder` that have verified errors."""
    for path in sorted(folder.glob("*/verified_errors.npy")):
        labels, probs = (np.load(path.with_name(f"{name}.npy")) for name in ("labels", "pred_probs"))
        is_wrong = np.zeros(len(labels), bool)
        is_wrong[np.load(path)] = True
        # The data of confident learning itself, of which all errors are known; elsewhere people looked at some rows.
        group = "flipped" if path.parent.name.startswith("cl_") else "human"
        yield Case(group, path.parent.name, labels.astype(np.int64), [probs], is_wrong)


def log(probs):
    """Return logarithms of float64 probabilities; those below 1e-30 count as 1e-30."""
    return np.log(np.maximum(probs.astype(np.float64), 1e-30))


def label_and_other(values, labels):
    """Return the values of the label and the largest other ones."""
    rows, others = np.arange(len(labels)), values.copy()
    others[rows, labels] = -np.inf
    return values[rows, labels], others.max(axis=1)


def log_odds_margin(probs, labels, _thresholds):
    """Return the difference of the log odds of the label and of the likeliest other class; no publication is known."""
    wide = np.clip(probs.astype(np.float64), 1e-15, 1 - 1e-15)
    return np.subtract(*label_and_other(np.log(wide / (1 - wide)), labels))


def adjusted_logit_margin(probs, labels, thresholds):
    """Return the logit margin of probabilities divided by the thresholds (logit adjustment, Menon 2021)."""
    return np.subtract(*label_and_other(log(probs) - log(thresholds), labels))


def spherical(probs, labels, _thresholds):
    """Return ``p_label / |p|``, the spherical scoring rule (Good 1971; Gneiting and Raftery 2007)."""
    wide = probs.astype(np.float64)
    return wide[np.arange(len(labels)), labels] / np.sqrt((wide * wide).sum(axis=1))


def quadratic(probs, labels, _thresholds):
    """Return ``2 p_label - |p|**2``, the rule of Brier (1950): the order of EL2N (Paul 2021)."""
    wide = probs.astype(np.float64)
    return 2 * wide[np.arange(len(labels)), labels] - (wide * wide).sum(axis=1)


def surprise(probs, labels, _thresholds):
    """Return ``log(p_label) + entropy``: how much less likely the label is than one that is drawn from the row."""
    logs = log(probs)
    return logs[np.arange(len(labels)), labels] - (probs * logs).sum(axis=1)


def pointwise_information(probs, labels, _thresholds):
    """Return ``log(p_label / share of the label)`` (PVI, Ethayarajh 2022)."""
    shares = np.bincount(labels, minlength=probs.shape[1]) / len(labels)
    return log(probs[np.arange(len(labels)), labels]) - np.log(shares[labels])


def threshold_ratio(probs, labels, thresholds):
    """Return ``log(p_label / threshold)``: self-confidence beside the mean of its class."""
    return log(probs[np.arange(len(labels)), labels]) - log(thresholds[labels])


CANDIDATES = {
    function.__name__: function
    for function in (
        log_odds_margin,
        adjusted_logit_margin,
        spherical,
        quadratic,
        surprise,
        pointwise_information,
        threshold_ratio,
    )
}


def curve(scores, is_wrong):
    """Return for each distinct score how many rows, and how many wrong ones, have at most that score."""
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(scores))
    return ends, np.cumsum(is_wrong[order])[ends - 1]


def average_precision(scores, is_wrong):
    """Return the area under precision and recall; rows of equal score are found together."""
    n_rows, hits = curve(scores, is_wrong)
    return float(np.sum(np.diff(hits, prepend=0) * hits / n_rows) / hits[-1])


def hits_among(scores, is_wrong, n_rows):
    """Return the number of wrong labels expected among the `n_rows` lowest scores, with ties in random order."""
    ends, hits = curve(scores, is_wrong)
    return float(np.interp(n_rows, np.append(0, ends), np.append(0, hits)))


def quality(scores, is_wrong, n_found):
    """Return the figures of a ranking."""
    n, n_wrong = len(scores), np.count_nonzero(is_wrong)
    return {
        "average_precision": average_precision(scores, is_wrong),
        "precision_at_found": hits_among(scores, is_wrong, n_found) / max(n_found, 1),
        **{f"recall_at_{share:.0%}": hits_among(scores, is_wrong, share * n) / n_wrong for share in LOOKED_AT},
    }


def find(case, probs=None, **settings):
    """Return the issues of a case."""
    return labelsieve.find_label_issues(case.labels, case.probs if probs is None else probs, progress=False, **settings)


def measure(case):
    """Return all figures of a case."""
    n_wrong = np.count_nonzero(case.is_wrong)
    default = find(case)
    scores = {}
    for method, adjust in itertools.product(METHODS, (False, True)):
        if method in {"confidence_weighted_entropy", "logit_margin"} and adjust:
            continue
        name = f"{method}, adjusted" if adjust else method
        scores[name] = find(case, method=method, adjust_pred_probs=adjust).scores
    thresholds = default.confident_thresholds
    for name, candidate in CANDIDATES.items():
        scores[name] = candidate(case.probs, case.labels, thresholds)
    n_found = default.estimated_num_issues
    filters = {}
    for name in (None, *FILTER_NAMES):
        found = default if name is None else find(case, filter_by=name)
        hits = np.count_nonzero(case.is_wrong[found.indices])
        precision, recall = hits / max(len(found), 1), hits / n_wrong
        filters[name or "none"] = {
            "precision": precision,
            "recall": recall,
            "f1": 2 * hits / (len(found) + n_wrong),
        }
    counts = {
        "predicted_class": n_found,
        "predicted_class, calibrated": find(case, estimation_method="off_diagonal_calibrated").estimated_num_issues,
    }
    for name, method in (("", "off_diagonal"), (", calibrated", "off_diagonal_calibrated")):
        counts[f"confident_joint{name}"] = count.num_label_issues(
            case.labels, case.probs, estimation_method=method, progress=False
        )
    return {
        "group": case.group,
        "name": case.name,
        **case.facts,
        "rows": len(case.labels),
        "classes": case.probs.shape[1],
        "wrong": int(n_wrong),
        "accuracy": float(np.mean(case.probs.argmax(axis=1) == case.labels)),
        "scores": {name: quality(values, case.is_wrong, n_found) for name, values in scores.items()},
        "filters": filters,
        "counts": {name: number / n_wrong for name, number in counts.items()},
        "ensemble": ensemble(case),
    }


def ensemble(case):
    """Return the average precision of the members, and of the mean of 3 and of all."""
    if len(case.members) < 3:
        return {}
    found = [
        average_precision(find(case, probs).scores, case.is_wrong)
        for probs in (*case.members, *(labelsieve.Ensemble(case.members[:n]) for n in (3, len(case.members))))
    ]
    *single, mean_of_3, mean_of_all = found
    return {
        "mean_member": float(np.mean(single)),
        "best_member": max(single),
        "mean_of_3": mean_of_3,
        "mean_of_all": mean_of_all,
    }


def group_columns(measured):
    """Return the columns of the first tables: names, and the cases of each."""
    of_group = {group: [case for case in measured if case["group"] == group] for group in GROUPS}
    simulated = of_group.pop("simulated")
    columns = {GROUPS[group]: cases for group, cases in of_group.items()}
    columns |= {noise: [case for case in simulated if case["noise"] == noise] for noise in NOISES}
    return {name: cases for name, cases in columns.items() if cases}


def detail_columns(measured):
    """Return columns for each number of classes, model and rate of the simulated cases."""
    simulated = [case for case in measured if case["group"] == "simulated"]
    columns = {f"K={n}": [case for case in simulated if case["classes"] == n] for n in CLASSES}
    columns |= {
        f"{model}, {rate:.0%} wrong": [case for case in simulated if (case["model"], case["rate"]) == (model, rate)]
        for model in MODELS
        for rate in RATES
    }
    return {name: cases for name, cases in columns.items() if cases}


def markdown(title, columns, rows):
    """Print a table; `rows` has the cells of each row by its name."""
    print(f"\n## {title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def mean(cases, *keys):
    """Return the mean of a figure of cases, which is found by `keys`."""
    values = []
    for case in cases:
        found = case
        for key in keys:
            found = found[key]
        values.append(found)
    return float(np.mean(values))


def print_scores(measured, names):
    """Print the tables of scores."""
    for columns in (group_columns(measured), detail_columns(measured)):
        shown = [f"{name} ({len(cases)})" for name, cases in columns.items()]
        rows = {
            name: [f"{mean(cases, 'scores', name, 'average_precision'):.3f}" for cases in columns.values()]
            for name in names
        }
        markdown("Scores: mean average precision", shown, rows)
    figures = list(measured[0]["scores"][names[0]])
    for group, title in GROUPS.items():
        cases = [case for case in measured if case["group"] == group]
        if cases:
            rows = {name: [f"{mean(cases, 'scores', name, figure):.3f}" for figure in figures] for name in names}
            markdown(f"Scores: {title} ({len(cases)})", [figure.replace("_", " ") for figure in figures], rows)
    # Of two classes most scores have the same order.
    several = [case for case in measured if case["classes"] > 2]
    values = {name: np.array([case["scores"][name]["average_precision"] for case in several]) for name in names}
    present = [name for name in names if name.partition(",")[0] in METHODS]
    rows = {}
    for name in names:
        gains = [values[name] - values[other] for other in present]
        rows[name] = [f"{np.sum(gain > ALIKE)} : {np.sum(gain < -ALIKE)}" for gain in gains]
    markdown(f"Better : worse by more than {ALIKE} of average precision, {len(several)} cases, K > 2", present, rows)


def print_filters(measured):
    """Print the tables of filters, counts and ensembles."""
    columns = group_columns(measured)
    shown = [f"{name} ({len(cases)})" for name, cases in columns.items()]
    rows = {
        name: [
            ", ".join(f"{mean(cases, 'filters', name, figure):.2f}" for figure in ("precision", "recall", "f1"))
            for cases in columns.values()
        ]
        for name in measured[0]["filters"]
    }
    markdown("Filters: mean precision, recall and F1", shown, rows)
    for some in (columns, detail_columns(measured)):
        rows = {}
        for name in measured[0]["counts"]:
            values = [[case["counts"][name] for case in cases] for cases in some.values()]
            rows[name] = [
                f"{np.median(ratios):.2f} ({np.quantile(ratios, 0.1):.2f} to {np.quantile(ratios, 0.9):.2f})"
                for ratios in values
            ]
        shown = [f"{name} ({len(cases)})" for name, cases in some.items()]
        markdown("Estimated number of issues / number of wrong labels: median (10% to 90%)", shown, rows)
    several = {name: [case for case in cases if case["ensemble"]] for name, cases in columns.items()}
    several = {name: cases for name, cases in several.items() if cases}
    if several:
        figures = ("mean_member", "best_member", "mean_of_3", "mean_of_all")
        rows = {
            figure.replace("_", " "): [f"{mean(cases, 'ensemble', figure):.3f}" for cases in several.values()]
            for figure in figures
        }
        markdown("Ensembles: average precision", [f"{name} ({len(cases)})" for name, cases in several.items()], rows)


def cases_of(data, n_rows, seed) -> Iterator[Case]:
    """Yield all cases; those with verified errors only if a folder is given."""
    if data is not None:
        yield from verified_cases(data)
    yield from trained_cases(seed)
    yield from simulated_cases(n_rows, seed)


def measure_all(cases):
    """Return the figures of all cases, and show how far it is."""
    measured = []
    with warnings.catch_warnings():
        # Of rare classes, and of data that is as bad as it is meant to be.
        warnings.simplefilter("ignore", labelsieve.LabelsieveWarning)
        for case in cases:
            measured.append(measure(case))
            print(f"\r{len(measured):4} {case.name:60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def main() -> None:
    """Measure all cases, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get(DATA), help=f"by default the variable {DATA}")
    parser.add_argument("--json", type=Path, help="file for the figures of each case")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each simulated case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = None if options.data is None else Path(options.data)
    if data is not None and not any(data.glob("*/verified_errors.npy")):
        parser.error(f"no folder in {data} has verified_errors.npy")
    start = time.process_time()
    measured = measure_all(cases_of(data, options.rows, options.seed))
    print(
        f"{len(measured)} cases, {options.rows:,} rows in each simulated one, seed {options.seed}, NumPy "
        f"{np.__version__}, {time.process_time() - start:.0f} s of processor time, {time.strftime('%Y-%m-%d')}"
    )
    print_scores(measured, list(measured[0]["scores"]))
    print_filters(measured)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
