"""The module tree of cleanlab 2.9, out of core: write ``labelsieve.`` before ``cleanlab`` in an import.

Names, arguments, defaults and kinds of results are those of cleanlab. Labels and probabilities may also be paths, Zarr
or Dask arrays, and whatever else `labelsieve.find_label_issues` takes. `docs/from_cleanlab.md` lists all functions and
what differs.

>>> import numpy as np
>>> from labelsieve.cleanlab.filter import find_label_issues
>>> labels = np.array([0, 0, 1, 1, 1])
>>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
>>> find_label_issues(labels, pred_probs, return_indices_ranked_by="self_confidence")
array([4])
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
