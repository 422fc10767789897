"""Tables as frames of pandas, if it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelsieve.errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas as pd


def frame_of(columns: dict[str, Any]) -> pd.DataFrame:
    """Return columns as a pandas DataFrame.

    Raises
    ------
    MissingDependencyError
        Without pandas.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("A table of pandas", "frame") from error
    # pandas cannot print float16 without an overflow, as it compares with 1e6. float32 has the same values.
    return pd.DataFrame({n: c.astype(np.float32) if c.dtype == np.float16 else c for n, c in columns.items()})
