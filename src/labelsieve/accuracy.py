"""How well scores, filters and counts find wrong labels that are known, and which ones to use.

All figures were measured on 2026-11-26 by ``python tests/benchmarks/ranking_quality.py --data FOLDER``, which takes two
minutes. The columns of the tables are kinds of cases, with their number; the last section describes them.

## Which score to use

The score, `method` or `rank_by`, says which rows are looked at first. No score is the best on all data:

- ``logit_margin`` if you do not know what the errors are like. Of 148 cases of more than two classes it orders 69
  better than ``self_confidence`` and 36 worse, and 82 better than ``normalized_margin`` and 62 worse. In nine of ten
  cases it is within 0.08 of the best of these three, while self-confidence is within 0.12, and the margin within 0.22.
- ``self_confidence``, the default and the cheapest, if wrong labels may be of any class, or some classes are rare.
- ``normalized_margin`` if classes are mistaken for certain others and the model is good. It loses most where the model
  is weak or errors are spread evenly.
- ``adjust_pred_probs=True`` only where you can check that it helps: with two classes it is better as often as worse,
  with 10 worse in most cases, and with 100 and more, or rare ones, much worse.
- Not ``confidence_weighted_entropy`` if probabilities are exactly 0 and 1, as those of trees, nearest neighbours and
  overconfident models are: as in cleanlab, the score of a row without entropy is 0, right labels included.

With two classes all of them give the same order, up to rounding, except the adjusted ones and the entropy. The mean
area under precision and recall (average precision), where 1 is every wrong label before every right one:

| score | human (4) | flipped (1) | trained (48) | uniform (40) | pairwise (40) | instance (40) | rare classes (40) |
|---|---|---|---|---|---|---|---|
| `self_confidence` | 0.453 | 0.755 | 0.719 | 0.854 | 0.389 | 0.483 | 0.882 |
| `self_confidence`, adjusted | 0.390 | 0.736 | 0.729 | 0.598 | 0.412 | 0.440 | 0.502 |
| `normalized_margin` | 0.584 | 0.742 | 0.738 | 0.698 | 0.470 | 0.527 | 0.775 |
| `normalized_margin`, adjusted | 0.531 | 0.819 | 0.739 | 0.622 | 0.469 | 0.493 | 0.524 |
| `confidence_weighted_entropy` | 0.221 | 0.721 | 0.265 | 0.656 | 0.219 | 0.413 | 0.677 |
| `logit_margin` | 0.516 | 0.767 | 0.738 | 0.849 | 0.412 | 0.487 | 0.879 |

Of the human cases, and of all 213, each counted once: the share of wrong labels among the rows that come first, as many
as the estimated number of issues, and the share of the wrong labels that are found in 1, 2, 5 and 10% of the rows:

| score | precision | recall at 1% | at 2% | at 5% | at 10% |
|---|---|---|---|---|---|
| `self_confidence` | 0.42, 0.55 | 0.53, 0.21 | 0.70, 0.38 | 0.98, 0.60 | 1.00, 0.81 |
| `self_confidence`, adjusted | 0.37, 0.52 | 0.49, 0.16 | 0.66, 0.29 | 0.96, 0.53 | 1.00, 0.74 |
| `normalized_margin` | 0.51, 0.55 | 0.62, 0.22 | 0.80, 0.37 | 0.99, 0.58 | 1.00, 0.78 |
| `normalized_margin`, adjusted | 0.51, 0.55 | 0.59, 0.18 | 0.77, 0.31 | 0.99, 0.55 | 1.00, 0.76 |
| `confidence_weighted_entropy` | 0.17, 0.36 | 0.13, 0.12 | 0.23, 0.22 | 0.63, 0.40 | 0.71, 0.57 |
| `logit_margin` | 0.44, 0.56 | 0.54, 0.21 | 0.74, 0.38 | 0.99, 0.60 | 1.00, 0.81 |

The benchmark has seven more scores. Six of these are worse than ``logit_margin`` in more cases than better. A margin of
log odds is about as good (67 better, 65 worse), but no publication of it is known. None of the seven is offered.

`logit_margin` is ``p_label / (p_label + largest other)``, the order of the margin of logits of Pleiss, Zhang, Elenberg
and Weinberger ("Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020) for a single
model. It costs the same as ``normalized_margin``, one read, 8 bytes per row.

## Several models

An `Ensemble` helps too. By self-confidence, the mean of five simulated models of up to 100 classes has 0.852 where a
single one has 0.813 (uniform), 0.495 where it has 0.394 (pairwise), 0.493 for 0.468 (instance) and 0.877 for 0.843
(rare classes); in 88% of the cases it is at least as good as the best of the five. The mean of the four trained models
has 0.834 where one has 0.719 on average, and the best one, which nobody knows beforehand, 0.853.

## Which filter to use

`labelsieve.find` explains the filters, and README has the short answer. These are their mean precision and recall. If
errors are spread evenly over the classes, the default is the most precise. If they go between certain pairs of classes,
the filters that prune and `confident_learning` find more, and are more precise.

| filter | human (4) | flipped (1) | trained (48) | uniform (40) | pairwise (40) | instance (40) | rare classes (40) |
|---|---|---|---|---|---|---|---|
| None | 0.41, 0.59 | 0.68, 0.83 | 0.68, 0.66 | 0.57, 0.90 | 0.41, 0.69 | 0.46, 0.51 | 0.61, 0.92 |
| `low_self_confidence` | 0.41, 0.59 | 0.68, 0.84 | 0.68, 0.66 | 0.56, 0.91 | 0.42, 0.69 | 0.46, 0.51 | 0.54, 0.93 |
| `low_normalized_margin` | 0.51, 0.69 | 0.72, 0.89 | 0.69, 0.66 | 0.49, 0.81 | 0.46, 0.75 | 0.48, 0.51 | 0.51, 0.88 |
| `confident_learning` | 0.49, 0.67 | 0.72, 0.88 | 0.71, 0.68 | 0.52, 0.84 | 0.50, 0.79 | 0.48, 0.52 | 0.52, 0.87 |
| `prune_by_class` | 0.39, 0.70 | 0.67, 0.95 | 0.65, 0.76 | 0.51, 0.92 | 0.45, 0.82 | 0.44, 0.56 | 0.50, 0.92 |
| `prune_by_noise_rate` | 0.44, 0.76 | 0.70, 0.95 | 0.66, 0.76 | 0.50, 0.88 | 0.48, 0.86 | 0.45, 0.56 | 0.50, 0.89 |
| `both` | 0.47, 0.66 | 0.72, 0.93 | 0.68, 0.74 | 0.53, 0.88 | 0.49, 0.78 | 0.47, 0.52 | 0.52, 0.88 |
| `predicted_neq_given` | 0.17, 1.00 | 0.61, 0.99 | 0.46, 0.91 | 0.33, 0.96 | 0.31, 0.93 | 0.32, 0.79 | 0.38, 0.97 |

## How good the estimated number of issues is

``estimated_num_issues`` counts the model's own confident mistakes too. Divided by the number of wrong labels, the
median of the same cases (and the range of 80% of them):

| model | 2% wrong | 10% wrong |
|---|---|---|
| simulated, good | 1.22 (0.77 to 1.38) | 0.95 (0.50 to 1.03) |
| simulated, overconfident | 2.12 (1.38 to 2.84) | 1.14 (0.67 to 1.34) |
| simulated, biased towards classes | 1.28 (1.06 to 1.49) | 0.87 (0.60 to 1.06) |
| simulated, weak | 4.25 (3.00 to 5.18) | 1.37 (0.96 to 1.75) |
| simulated, weak and overconfident | 8.03 (5.94 to 9.92) | 2.21 (1.71 to 2.65) |
| logistic regression | 1.15 (0.86 to 1.17) | 0.81 (0.52 to 0.93) |
| nearest neighbours | 0.79 (0.58 to 0.89) | 0.67 (0.53 to 0.84) |
| naive Bayes | 4.82 (3.32 to 7.84) | 1.83 (1.13 to 2.37) |
| random forest | 0.62 (0.47 to 0.87) | 0.55 (0.50 to 0.78) |

Of the errors that people found it is 1.00 times as many (MNIST), 0.67 (20 Newsgroups), 1.48 (IMDB) and 4.52 (CIFAR-10);
of flipped CIFAR-10 1.22. ``off_diagonal_calibrated`` counts 1.05 to 1.5 times as many in 80% of the cases. So the
number is right within a factor of about two for a good model, and many times too high for a weak one with few errors:
`labelsieve.audit` estimates how many labels are wrong, with an interval, after a person has looked at some rows.

## The cases

- *human*: the test sets of CIFAR-10, MNIST, IMDB and 20 Newsgroups, with the errors of "Pervasive Label Errors in Test
  Sets" (2021). People looked only at rows that confident learning had picked, so a row that nobody looked at counts as
  right, and a score that orders rows as that method did looks better than it is.
- *flipped*: CIFAR-10 with 20% of the labels flipped, and a ResNet-50, of "Confident Learning" (2021).
- *trained*: digits and breast cancer of scikit-learn with 2% or 10% of the labels flipped in the first three of the
  ways below; logistic regression, nearest neighbours, naive Bayes and random forests, cross-validated.
- The four others are simulated, 10,000 rows each: 2, 10, 100 and 1,000 classes, 2% or 10% wrong, models that are good,
  overconfident, biased towards classes, weak, and both weak and overconfident. *Uniform*: any label for any other.
  *Pairwise*: every other class is labelled as the next one. *Instance*: rows that are hard to tell apart are wrong more
  often, with the likeliest other class. *Rare classes*: uniform errors, Zipf frequencies.
"""
