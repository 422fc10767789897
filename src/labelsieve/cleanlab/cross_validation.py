"""Predicted probabilities by cross-validation, with scikit-learn and in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from labelsieve.cleanlab.arguments import flat_labels, warn_user
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InputTypeError, InvalidInputError, MissingDependencyError


def cross_validated_pred_probs(
    features: Any,
    labels: Any,
    model: Any,
    *,
    n_folds: int,
    seed: int | None,
    fit_arguments: Mapping[str, Any],
    validation: Callable[[Any, Any], Mapping[str, Any]] | None,
) -> Float64s:
    """Return the ``(N, K)`` probabilities of rows by models that were not trained on them.

    If a fold leaves out all rows of a class, one of them is used for training all the same. The model has seen it, so
    it gets the probability 1 for its label.

    Parameters
    ----------
    features : (N, ...) array, sparse matrix or pandas.DataFrame
        Features.
    labels : (N,) array-like of int
        Given labels, with all classes 0..K-1.
    model : scikit-learn classifier or None
        What is trained; logistic regression for None.
    n_folds : int
        Number of folds, stratified by label and shuffled.
    seed : int or None
        Seed of the shuffle.
    fit_arguments : mapping
        Further arguments of ``model.fit``.
    validation : callable or None
        Returns more such arguments, given the features and labels that a fold leaves out.

    Raises
    ------
    InvalidInputError
        For bad labels, and a model that cannot be copied.
    InputTypeError
        For features that cannot be indexed by rows, and a `validation` that cannot be called.
    MissingDependencyError
        Without scikit-learn.
    """
    try:
        from sklearn.base import clone
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold
    except ImportError as error:
        raise MissingDependencyError("Cross-validation", "demo") from error
    labels = np.asarray(flat_labels(labels))
    n_rows = features.shape[0] if hasattr(features, "shape") else len(features)
    n_classes = _n_classes(labels, n_rows)
    if validation is not None and not callable(validation):
        raise InputTypeError(f"validation_func must be callable, not {type(validation).__name__}")
    probs = np.zeros((len(labels), n_classes))
    folds = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for others, left_out in folds.split(labels, labels):
        missing = np.setdiff1d(np.arange(n_classes), labels[others])
        borrowed = np.array([left_out[labels[left_out] == k][0] for k in missing], np.int64)
        if len(missing):
            warn_user(f"classes {missing.tolist()} have so few rows that some are used both to train and to predict")
        try:
            fresh = clone(LogisticRegression() if model is None else model)
        except Exception as error:
            raise InvalidInputError(
                "clf must be a model that sklearn.base.clone can copy: give it get_params(), or cross-validate it "
                "yourself and give pred_probs"
            ) from error
        trained = np.concatenate([others, borrowed])
        features_left_out = _rows(features, left_out)
        more = {} if validation is None else validation(features_left_out, labels[left_out])
        fresh.fit(_rows(features, trained), labels[trained], **fit_arguments, **more)
        probs[left_out] = fresh.predict_proba(features_left_out)
        probs[borrowed] = np.eye(n_classes)[missing]
    return probs


def _n_classes(labels: npt.NDArray[Any], n_rows: int) -> int:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidInputError(f"labels must be one axis of integers, not {labels.ndim} of {labels.dtype}")
    if len(labels) != n_rows:
        raise InvalidInputError(f"{n_rows:,} rows of X, {len(labels):,} labels")
    classes = np.unique(labels)
    if len(classes) < 2 or classes.tolist() != list(range(len(classes))):
        raise InvalidInputError(
            f"labels must have all classes 0..K-1, and at least 2; they have {classes[:10].tolist()}"
        )
    return len(classes)


def _rows(features: Any, rows: npt.NDArray[Any]) -> Any:
    """Return some rows of features."""
    try:
        return features.iloc[rows] if hasattr(features, "iloc") else features[rows]
    except TypeError as error:
        raise InputTypeError(
            f"X must be an array, a sparse matrix or a table, not {type(features).__name__}"
        ) from error
