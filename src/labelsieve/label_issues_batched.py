"""The documented API of ``cleanlab.experimental.label_issues_batched``, under the same names: change one import.

What differs from cleanlab 2.9, and why, is in `docs/from_cleanlab.md`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.inspector import LabelInspector
from labelsieve.job import passes
from labelsieve.job.job import Job
from labelsieve.job.passes import split_arr
from labelsieve.options import Auto, JobSettings, batched_choices, explain_keywords

__all__ = ["LabelInspector", "find_label_issues_batched", "split_arr"]

# Arguments of cleanlab's in-memory functions, which belong to `labelsieve.find_label_issues`.
_IN_MEMORY_ARGUMENTS: Final = dict.fromkeys(
    ("filter_by", "frac_noise", "num_to_remove_per_class", "min_examples_per_class", "return_indices_ranked_by"),
    "labelsieve.find_label_issues has the filters and the ranking of cleanlab's in-memory functions",
)


def __getattr__(name: str) -> Any:
    if name in passes.SHARED_NAMES:
        return getattr(passes, name)
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
