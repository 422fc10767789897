"""The texts of the rows that a page shows."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from labelsieve.confident_learning.dtypes import Int64s
from labelsieve.errors import InputTypeError, InvalidInputError, UnreadableDataError
from labelsieve.sources.text_cells import as_text
from labelsieve.storage.urls import check_place

# Letters of a text that are shown.
MOST_LETTERS: Final = 5000


class RowTexts(Protocol):
    """Texts of some rows, in their order."""

    def part(self, start: int, stop: int) -> list[str]:
        """Return the texts ``[start, stop)``, without what is too long."""


class ListedTexts:
    """Texts in memory.

    Parameters
    ----------
    texts : sequence of str
        Of all rows.
    rows : (n,) int64
        The rows that are shown.
    most_letters : int
        Letters of each that are shown.
    """

    def __init__(self, texts: Any, rows: Int64s, most_letters: int) -> None:
        self._texts = getattr(texts, "iloc", texts)  # pandas would look rows up by its own index
        self._rows, self._most_letters = rows, most_letters

    def part(self, start: int, stop: int) -> list[str]:
        """Return the texts ``[start, stop)``, without what is too long."""
        return [_shortened(str(self._texts[row]), self._most_letters) for row in self._rows[start:stop].tolist()]


class FileTexts:
    """Texts that are lines of a file, of which only the places are kept.

    Parameters
    ----------
    path : Path
        The file, with a line for each row.
    n_rows : int
        Number of lines that it must have.
    rows : (n,) int64
        The rows that are shown.
    most_letters : int
        Letters of each that are shown.

    Raises
    ------
    InvalidInputError
        If it has another number of lines, is not in UTF-8, or cannot be read.
    """

    def __init__(self, path: Path, n_rows: int, rows: Int64s, most_letters: int) -> None:
        self._path, self._most_letters, places = path, most_letters, array("q")
        try:
            with path.open("rb") as file:
                place = len(b"\xef\xbb\xbf") if file.read(3) == b"\xef\xbb\xbf" else 0
                file.seek(place)
                for line in file:
                    line.decode("utf-8")  # so that a file that is not text is refused before a run
                    places.append(place)
                    place += len(line)
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"texts: {path} is not readable: {error}") from error
        _check_number(len(places), n_rows)
        self._places = np.array(places, np.int64)[rows]

    def part(self, start: int, stop: int) -> list[str]:
        """Return the texts ``[start, stop)``, without what is too long.

        Raises
        ------
        UnreadableDataError
            If the file has changed, and cannot be read.
        """
        found = []
        try:
            with self._path.open("rb") as file:
                for place in self._places[start:stop].tolist():
                    file.seek(place)
                    # The lines of `read_lines`, which would keep all.
                    line = file.readline().decode("utf-8").removesuffix("\r\n").removesuffix("\n")
                    found.append(_shortened(line, self._most_letters))
        except (OSError, ValueError) as error:
            raise UnreadableDataError(f"texts: {self._path} is not readable: {error}") from error
        return found


def open_texts(texts: Any, n_rows: int, rows: Int64s, most_letters: int = MOST_LETTERS) -> RowTexts:
    """Open the texts of all rows, to show those of some.

    Parameters
    ----------
    texts : sequence of str, or path
        Texts, or a text file with one on each line.
    n_rows : int
        Number of all rows, or of the images, sentences or examples that they are parts of.
    rows : (n,) int64
        The rows that are shown.
    most_letters : int
        Letters of each that are shown; the last one of a longer text is an ellipsis.

    Raises
    ------
    InvalidInputError
        For another number of texts, or a file that cannot be read.
    InputTypeError
        For anything else.

    Examples
    --------
    >>> import numpy as np
    >>> open_texts(["a cat", "a dog", "another dog"], 3, np.array([2, 0]), most_letters=8).part(0, 2)
    ['another…', 'a cat']
    """
    if isinstance(texts, str | os.PathLike):
        return FileTexts(Path(check_place("texts", texts)), n_rows, rows, most_letters)
    if not hasattr(texts, "__len__") or not hasattr(texts, "__getitem__"):
        raise InputTypeError(f"texts must be a sequence of strings or a file's path, not {type(texts).__name__}")
    _check_number(len(texts), n_rows)
    return ListedTexts(texts, rows, most_letters)


def _check_number(n_texts: int, n_rows: int) -> None:
    if n_texts != n_rows:
        raise InvalidInputError(f"texts: there are {n_texts:,} texts, and there must be {n_rows:,}")


def _shortened(text: str, most_letters: int) -> str:
    text = as_text(text)
    return text if len(text) <= most_letters else text[: most_letters - 1] + "…"
