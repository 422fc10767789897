"""Text of users in files and tables: lines, letters that can be written, and cells that no spreadsheet runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

# Text that a spreadsheet takes for a formula, with any apostrophes before it.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def as_text(text: str) -> str:
    """Return text that can be written anywhere: lone surrogates, as in names of files, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe before it, except
    numbers. So does such text with apostrophes before it: `unescape_formula` restores every text.

    Examples
    --------
    >>> [escape_formula(text) for text in ("=1+1", "-5", "-a", "'=1+1", "'tis", "cat")]
    ["'=1+1", '-5', "'-a", "''=1+1", "'tis", 'cat']
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` turned into the text of a CSV cell.

    Examples
    --------
    >>> [unescape_formula(text) for text in ("'=1+1", "-5", "''=1+1", "'tis")]
    ['=1+1', '-5', "'=1+1", "'tis"]
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def cell_text(value: Any) -> str:
    """Return a cell of a frame as text: among missing values, a frame has whole numbers as floats.

    Examples
    --------
    >>> cell_text(3.0), cell_text(2.5), cell_text("cat")
    ('3', '2.5', 'cat')
    """
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a text file. They end with ``\n`` or ``\r\n``, and with nothing else."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().split("\n")
    last = lines.pop()  # the text after the last line feed
    return [line.removesuffix("\r") for line in lines] + [last] * (last != "")
