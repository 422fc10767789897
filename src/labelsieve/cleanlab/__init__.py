"""The module tree of cleanlab 2.9, out of core: write ``labelsieve.`` before ``cleanlab`` in an import.

Names, arguments, defaults and kinds of results are those of cleanlab. Labels and probabilities may also be paths, Zarr
or Dask arrays, and whatever else `labelsieve.find_label_issues` takes; they are read batch by batch, by the scheduler
that Dask is set to.

>>> import numpy as np
>>> from labelsieve.cleanlab.filter import find_label_issues
>>> labels = np.array([0, 0, 1, 1, 1])
>>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
>>> find_label_issues(labels, pred_probs, return_indices_ranked_by="self_confidence")
array([4])

New code is better served by `labelsieve.find_label_issues`: one call returns issues, scores, thresholds and counts, and
takes clusters, workdirs, memory limits and outputs.

## Which functions are here

| Module of cleanlab | Functions and classes | In `labelsieve.cleanlab` |
|---|---|---|
| `filter` | `find_label_issues`, `find_predicted_neq_given` | the same |
| `filter` | `find_label_issues_using_argmax_confusion_matrix` | the same |
| `rank` | `get_label_quality_scores`, `get_label_quality_ensemble_scores`, `order_label_issues` | the same |
| `rank` | `find_top_issues`, `get_self_confidence_for_each_label`, `get_normalized_margin_for_each_label` | the same |
| `rank` | `get_confidence_weighted_entropy_for_each_label` | the same |
| `count` | `num_label_issues`, `calibrate_confident_joint`, `estimate_joint`, `compute_confident_joint` | the same |
| `count` | `estimate_latent`, `estimate_py_and_noise_matrices_from_probabilities` | the same |
| `count` | `get_confident_thresholds` | the same |
| `count` | `estimate_confident_joint_and_cv_pred_proba` | not here: trains a model |
| `count` | `estimate_py_noise_matrices_and_cv_pred_proba` | not here: trains a model |
| `count` | `estimate_cv_predicted_probabilities`, `estimate_noise_matrices` | not here: trains a model |
| `dataset` | `rank_classes_by_label_quality`, `find_overlapping_classes`, `overall_label_health_score` | the same |
| `dataset` | `health_summary` | the same |
| `experimental.label_issues_batched` | `find_label_issues_batched`, `LabelInspector`, `split_arr` | the same |
| `multilabel_classification.filter` | `find_label_issues`, `find_multilabel_issues_per_class` | the same |
| `multilabel_classification.rank` | `get_label_quality_scores`, `get_label_quality_scores_per_class` | the same |
| `multilabel_classification.dataset` | `common_multilabel_issues`, `rank_classes_by_multilabel_quality` | the same |
| `multilabel_classification.dataset` | `overall_multilabel_health_score`, `multilabel_health_summary` | the same |
| `segmentation.filter` | `find_label_issues` | the same |
| `segmentation.rank` | `get_label_quality_scores`, `issues_from_scores` | the same |
| `segmentation.summary` | `display_issues`, `common_label_issues`, `filter_by_class` | the same |
| `token_classification.filter` | `find_label_issues` | the same |
| `token_classification.rank` | `get_label_quality_scores`, `issues_from_scores` | the same |
| `token_classification.summary` | `display_issues`, `common_label_issues`, `filter_by_token` | the same |
| `classification` | `CleanLearning` | not here: trains a model; see below |
| `datalab.datalab` | `Datalab` | not here: reports on features too; see below |
| `multiannotator` | `get_label_quality_multiannotator` | not here: several labels for a row |
| `multiannotator` | `get_label_quality_multiannotator_ensemble` | not here: several labels for a row |
| `multiannotator` | `get_active_learning_scores` | not here: several labels for a row |
| `multiannotator` | `get_active_learning_scores_ensemble` | not here: several labels for a row |
| `multiannotator` | `get_majority_vote_label`, `convert_long_to_wide_dataset` | not here: several labels for a row |
| `object_detection.filter` | `find_label_issues` | not here: boxes |
| `object_detection.rank` | `get_label_quality_scores`, `issues_from_scores` | not here: boxes |
| `object_detection.rank` | `compute_overlooked_box_scores`, `compute_badloc_box_scores` | not here: boxes |
| `object_detection.rank` | `compute_swap_box_scores`, `pool_box_scores_per_image` | not here: boxes |
| `object_detection.summary` | `object_counts_per_image`, `bounding_box_size_distribution` | not here: boxes |
| `object_detection.summary` | `class_label_distribution`, `get_sorted_bbox_count_idxs` | not here: boxes |
| `object_detection.summary` | `plot_class_size_distributions`, `plot_class_distribution` | not here: boxes |
| `object_detection.summary` | `visualize`, `get_average_per_class_confusion_matrix` | not here: boxes |
| `object_detection.summary` | `calculate_per_class_metrics` | not here: boxes |
| `outlier` | `OutOfDistribution` | not here: judges features, not labels |
| `regression.learn` | `CleanLearning` | not here: labels are numbers |
| `regression.rank` | `get_label_quality_scores` | not here: labels are numbers |
| `data_valuation` | `data_shapley_knn` | not here: judges features |
| `experimental.span_classification` | `find_label_issues`, `display_issues` | not here: use token classification |
| `experimental.span_classification` | `get_label_quality_scores` | not here: use token classification |
| `experimental.coteaching` | `loss_coteaching`, `initialize_lr_scheduler` | not here: trains a model |
| `experimental.coteaching` | `adjust_learning_rate`, `forget_rate_scheduler`, `train` | not here: trains a model |
| `experimental.coteaching` | `evaluate` | not here: trains a model |
| `experimental.cifar_cnn` | `CNN`, `call_bn` | not here: an example |
| `experimental.mnist_pytorch` | `CNN`, `SimpleNet`, `get_mnist_dataset` | not here: an example |
| `experimental.mnist_pytorch` | `get_sklearn_digits_dataset` | not here: an example |
| `benchmarking.noise_generation` | `generate_noisy_labels` | not here: made-up noise |
| `benchmarking.noise_generation` | `generate_noise_matrix_from_trace` | not here: made-up noise |
| `benchmarking.noise_generation` | `noise_matrix_is_valid` | not here: made-up noise |
| `benchmarking.noise_generation` | `generate_n_rand_probabilities_that_sum_to_m` | not here: made-up noise |
| `benchmarking.noise_generation` | `randomly_distribute_N_balls_into_K_bins` | not here: made-up noise |

- Use the functions of `cleanlab.count` that train a model: the probabilities that they return can be given to the
  functions here.
- Boxes of objects are matched before they are classified, which is another problem; so are rows that several annotators
  label.
- Spans of one class are tokens of two classes, in a span or not: `labelsieve.cleanlab.token_classification`.
- Private names and ``cleanlab.internal`` are not here.

## What differs

- A row that ties with the last one chosen: of equal scores or margins, the first rows are chosen.
- Results do not depend on the dtype of `pred_probs`: all is computed as if in float64. Self-confidences have its
  values; other scores are float64. Of a tag the probability of not having it is ``1 - p`` in the dtype, as there.
- ``segmentation``: `downsample` must be 1. Of a class without pixels the threshold is 2.0.
- ``find_label_issues``: `confident_joint` is used by the filters that prune. Others do not use it, there as here, and
  warn. With ``n_jobs=None`` the work runs on Dask's scheduler, which by default uses all threads.
- ``dataset``: `confident_joint` alone is enough, as documented.
- Errors are a ValueError or a TypeError that says which rows are bad; where cleanlab asserts a setting, the error is
  also an AssertionError. More input is refused than there: `labelsieve.label_issues_batched` has the list. What is
  refused there may work here: labels of a single class.
- Warnings and printed texts have other words.

## CleanLearning and Datalab

``CleanLearning.fit`` takes the issues that it prunes before it trains. `labelsieve.LabelIssues.to_cleanlab` has the
frame for it:

>>> import labelsieve
>>> from cleanlab.classification import CleanLearning
>>> from sklearn.linear_model import LogisticRegression
>>> features = np.array([[0.0], [1.0], [8.0], [9.0], [0.5]])
>>> found = labelsieve.find_label_issues(labels, pred_probs, filter_by="both")
>>> model = CleanLearning(LogisticRegression()).fit(features, labels, label_issues=found.to_cleanlab())
>>> model.predict(np.array([[0.5], [8.5]]))
array([0, 1])

The same method gives the issues to a ``Datalab``, where they are those of the kind ``label``, beside others:

    from cleanlab import Datalab

    lab = Datalab({"label": labels}, label_name="label")
    found.to_cleanlab(datalab=lab)
    lab.report()
"""

import importlib

__all__ = [
    "count",
    "dataset",
    "experimental",
    "filter",
    "multilabel_classification",
    "rank",
    "segmentation",
    "token_classification",
]


def __getattr__(name: str) -> object:
    """Import a module of this package when it is first used, because ``import cleanlab`` brings them all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
