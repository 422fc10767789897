"""The documented API of ``cleanlab.experimental.label_issues_batched``, under the same names: change one import.

Names, arguments, defaults and return values are those that cleanlab documents. What differs from cleanlab 2.9, and why:

| | cleanlab 2.9 | Labelsieve |
|---|---|---|
| Zarr 3 and Dask arrays | fail | accepted, with HDF5, xarray, memmaps, and `.npy` in any memory order |
| memory | a copy of all of `pred_probs` at the end | the formula of `labelsieve.execution.memory` |
| returned indices | in row order, though documented as sorted by score | sorted by score, ties by row |
| a class without labelled rows | threshold 2e-6, which most rows reach: false issues | threshold 2.0: none does |
| calibrated count with `n_jobs` > 1 | drops repeated labels: not the number of one job | the same number |
| NaN, missing chunks, negative labels, misspelt settings | a wrong result, silently | an error that says where |
| rows or classes that pandas or xarray name in another order | by position: nearly every row is an issue | an error |
| labels and predictions that do not belong together | nearly every row is an issue | a warning |
| thresholds | running means; last bits (in float16 the count too) vary with the batch size | exact |
| ties at the cut | any of the tied rows | the first of the tied rows |
| `get_num_issues` when only some scored rows were counted | a number | an error with both numbers |
| Zarr read with `batch_size` below the stored chunk | every chunk is decoded many times | once |
| rows that do not sum to 1 within 0.05 | used as they are, silently | a warning here, once; an error elsewhere |
| all-zero rows (a missing chunk, a dead inference job) | take the lowest scores | an error |

- Names in another order: the error gives the line of code that puts rows or classes in the right order.
- Labels and predictions do not belong together when classes or rows are in another order, shifted or reversed. The
  warning names the likely cause and the share of rows that would then agree; it is also at the end of the command
  line's output and in the report.
- Rows that do not sum to 1 are often logits, percentages or scores of independent classes. They are an error in
  `labelsieve.find_label_issues` and `labelsieve.count`, where `allow_unnormalized_rows=True` accepts them;
  `LabelInspector` and `find_label_issues_batched` warn once and count as before.
- `labelsieve.find_label_issues(..., allow_zero_rows=True)` accepts all-zero rows.

## The in-memory functions of cleanlab

`labelsieve.cleanlab` has them under the same names and with the same arguments, out of core. What they find is also a
choice of one call:

| cleanlab 2.9 | Labelsieve |
|---|---|
| `filter.find_label_issues(labels, pred_probs, filter_by=...)` | `labelsieve.find_label_issues`, same arguments |
| `return_indices_ranked_by=...` | `rank_by=...`, and `.indices`; or `.mask()` |
| `rank_by_kwargs={"adjust_pred_probs": True}` | `adjust_pred_probs=True` |
| `count.num_label_issues`, `compute_confident_joint`, `estimate_joint`, `estimate_latent` | in `labelsieve.count` |
| rows that tie at a cut: any of them | the first ones |
| `frac_noise` and the like with a filter that does not use them | a warning where cleanlab warns |
| `confident_joint=` of `filter.find_label_issues` | in `labelsieve.cleanlab.filter`; else that of the data |
| `num_to_remove_per_class`, `min_examples_per_class=0` and a class without rows: no row | rows of the other classes |

- Without `filter_by`, `labelsieve.find_label_issues` uses the rule of the batched module, not `prune_by_noise_rate`.
- `frac_noise` and the like without any filter are an error.
- Matrices of `labelsieve.count` are sparse, or full with `dense=True`.

`LabelIssues.class_summary` and `confused_pairs` use cleanlab's formulas over the counts of the run's rule. With a
filter that counts exactly they give what ``rank_classes_by_label_quality`` and ``find_overlapping_classes`` give for
the same `pred_probs`. By default they give what these functions give for the counts of the predicted classes as
``confident_joint``. With more than 1,024 classes this holds except where remainders tie as the joint is rounded (see
`labelsieve.count`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.inspector import LabelInspector
from labelsieve.job import fork_pool
from labelsieve.job.fork_pool import split_arr
from labelsieve.job.job import Job
from labelsieve.options import Auto, JobSettings, batched_choices, explain_keywords

__all__ = ["LabelInspector", "find_label_issues_batched", "split_arr"]

# Arguments of cleanlab's in-memory functions, which belong to `labelsieve.find_label_issues`.
_IN_MEMORY_ARGUMENTS: Final = dict.fromkeys(
    ("filter_by", "frac_noise", "num_to_remove_per_class", "min_examples_per_class", "return_indices_ranked_by"),
    "labelsieve.find_label_issues has the filters and the ranking of cleanlab's in-memory functions",
)


def __getattr__(name: str) -> Any:
    if name in fork_pool.SHARED_NAMES:
        return getattr(fork_pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@explain_keywords(_IN_MEMORY_ARGUMENTS)
def find_label_issues_batched(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    pred_probs_file: str | os.PathLike[str] | None = None,
    batch_size: int | Auto = 10000,
    n_jobs: int | None = 1,
    verbose: bool = True,
    quality_score_kwargs: Mapping[str, Any] | None = None,
    num_issue_kwargs: Mapping[str, Any] | None = None,
    return_mask: bool = False,
) -> npt.NDArray[Any]:
    """Find label issues in arrays that need not fit in memory, with the signature of cleanlab's function.

    If rows of `pred_probs` do not sum to 1 within 0.05, there is one warning; `labelsieve.find_label_issues` refuses
    such rows.

    Parameters
    ----------
    labels : (N,) array-like of int, optional
        Given labels; anything that `labelsieve.find_label_issues` takes. Give this or `labels_file`.
    pred_probs : (N, K) array-like of float, optional
        Out-of-sample probabilities. Give this or `pred_probs_file`.
    labels_file, pred_probs_file : str or path, optional
        Path of a ``.npy`` file or a Zarr array, instead of the array.
    batch_size : int or "auto"
        Number of rows that a thread holds in memory. A Dask array keeps its own chunks.
    n_jobs : int or None
        1 runs on Dask's scheduler; a larger number forks that many processes, on Linux; None takes the physical cores.
    verbose : bool
        Whether to print what was found and show progress.
    quality_score_kwargs : dict, optional
        ``method`` (self_confidence, normalized_margin, confidence_weighted_entropy or logit_margin) and
        ``adjust_pred_probs``.
    num_issue_kwargs : dict, optional
        ``estimation_method`` (off_diagonal or off_diagonal_calibrated), and ``rule`` (predicted_class, or
        confident_joint for the exact count, in two reads).
    return_mask : bool
        Return a mask instead of indices.

    Returns
    -------
    (M,) int64 or (N,) bool
        Rows with label issues, lowest label quality first, ties by row; or the mask of the same rows.

    Raises
    ------
    InvalidInputError
        A ValueError, for an array and a file of the same input, for neither, for bad data and for unknown settings.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> find_label_issues_batched(labels, pred_probs, verbose=False)
    array([4])
    """
    settings = JobSettings(
        **batched_choices(quality_score_kwargs, num_issue_kwargs),
        batch_size=batch_size,
        n_jobs=n_jobs,
        progress=bool(verbose),
        allow_unnormalized_rows="warn",
    )
    inputs = _array_or_file("labels", labels, labels_file), _array_or_file("pred_probs", pred_probs, pred_probs_file)
    issues = Job(*inputs, settings).run()
    if verbose:
        print(f"{issues.num_issues:,} label issues in {issues.n_rows:,} examples of {issues.n_classes:,} classes")
    return issues.mask() if return_mask else issues.indices


def _array_or_file(name: str, array: Any, file: Any) -> Any:
    if file is None:
        if array is None:
            raise InvalidInputError(f"give one of {name} and {name}_file")
        return array
    if array is not None:
        raise InvalidInputError(f"give only one of {name} and {name}_file")
    if not isinstance(file, str | os.PathLike):
        raise InvalidInputError(f"{name}_file must be the path of a .npy file or Zarr array, not {type(file).__name__}")
    return file
