"""What tells results apart: a fingerprint, of which the first half follows from the labels alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

# Hexadecimal digits of each half.
FINGERPRINT_DIGITS: Final = 12
FINGERPRINT: Final = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}-[0-9a-f]{{{FINGERPRINT_DIGITS}}}")


def labels_digest(counts: Iterable[int]) -> str:
    """Return the first part of a fingerprint: 12 digits that follow from how often each label occurs.

    Parameters
    ----------
    counts : iterable of int
        Number of rows of each label, also of the one that says that a row has none; in any order, as it is the same for
        names and for numbers.
    """
    present = sorted(count for count in counts if count)
    return sha256(",".join(map(str, present)).encode()).hexdigest()[:FINGERPRINT_DIGITS]
