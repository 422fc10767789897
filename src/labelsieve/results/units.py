"""What the rows of a result are, if they are parts of larger things: pixels of images, tokens of sentences, tags.

A *group* (an image, a sentence, an example) owns consecutive rows. Only what opens the inputs and what shows a result
knows the groups; a run has rows.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from labelsieve.options import TASKS

LAYOUTS: dict[str, type[Layout]] = {}


class Layout(abc.ABC):
    """Where each row is: its group, and its place in it.

    Attributes
    ----------
    kind : str
        Name of the layout in a stored result.
    task : str
        The task, one of `TASKS`, whose results have this layout.
    units : tuple of str
        What rows and groups are called.
    classes_note : str
        What to say with the number of classes, or "".
    """

    kind: ClassVar[str]
    task: ClassVar[str]
    units: ClassVar[tuple[str, str]]
    classes_note: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "kind"):
            LAYOUTS[cls.kind] = cls

    @property
    @abc.abstractmethod
    def n_groups(self) -> int:
        """Number of groups."""

    @abc.abstractmethod
    def edges(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at which the groups ``[start, stop)`` begin, and the row at which the last one ends."""

    @abc.abstractmethod
    def groups_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the group of each row."""

    @abc.abstractmethod
    def columns(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return the columns that say where rows are, for tables: the group first."""

    def in_words(self, start: int, stop: int) -> str:
        """Name rows ``[start, stop)`` by their places, for messages: ``image 3, y 0, x 5``, or ``images 2..4``."""
        columns = self.columns(np.array([start, stop - 1], np.int64))
        names, (first, last) = list(columns), zip(*(column.tolist() for column in columns.values()), strict=True)
        edges = self.edges(first[0], first[0] + 1)[0], self.edges(last[0], last[0] + 1)[1]
        if edges == (start, stop) and stop - start > 1:  # whole groups
            return f"{names[0]} {first[0]:,}" if first[0] == last[0] else f"{names[0]}s {first[0]:,}..{last[0]:,}"
        words = [f"{name} {number:,}" for name, number in zip(names, first, strict=True)]
        differing = [i for i in range(len(names)) if first[i] != last[i]]
        if differing == [len(names) - 1]:
            words[-1] += f"..{last[-1]:,}"
        elif differing:
            words[-1] += " to " + ", ".join(f"{names[i]} {last[i]:,}" for i in range(differing[0], len(names)))
        return ", ".join(words)

    def attributes(self) -> dict[str, Any]:
        """Return what a stored result has of the layout, as JSON takes it, besides its `array`."""
        return {}

    @property
    def array(self) -> npt.NDArray[np.int64] | None:
        """What a stored result has of the layout with a value for each group; None if there is nothing."""
        return None

    @classmethod
    @abc.abstractmethod
    def restored(cls, attributes: Mapping[str, Any], array: npt.NDArray[np.int64] | None) -> Self:
        """Return the layout of a stored result."""


class _Edges(Layout):
    """A layout whose groups begin at any rows.

    Parameters
    ----------
    edges : (n_groups + 1,) int64
        Row at which each group begins, and the number of rows.
    """

    def __init__(self, edges: npt.NDArray[np.int64]) -> None:
        self._edges = edges

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self._edges) - 1

    def edges(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at which the groups ``[start, stop)`` begin, and the last one ends."""
        return self._edges[start : stop + 1]

    def groups_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the group of each row."""
        # Of groups without rows that begin at the same row, the last one is followed by the rows.
        return np.searchsorted(self._edges, rows, "right").astype(np.int64) - 1


class TokenLayout(_Edges):
    """Tokens of sentences, one sentence after the other.

    Parameters
    ----------
    edges : (n_sentences + 1,) int64
        Row at which each sentence begins, and the number of tokens.
    """

    kind, task, units = "tokens", "tokens", ("tokens", "sentences")

    def columns(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return ``sentence`` and ``token`` of each row."""
        sentences = self.groups_of(rows)
        return {"sentence": sentences, "token": rows - self._edges[sentences]}

    @property
    def array(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each sentence."""
        return np.diff(self._edges)

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: npt.NDArray[np.int64] | None) -> Self:  # noqa: ARG003
        """Return the layout of a stored result."""
        return cls(ends(np.empty(0, np.int64) if array is None else array))


class PixelLayout(_Edges):
    """Pixels of images of different sizes, row by row.

    Parameters
    ----------
    shapes : (n_images, 2) int64
        Height and width of each image.
    """

    kind, task, units = "pixels", "segmentation", ("pixels", "images")

    def __init__(self, shapes: npt.NDArray[np.int64]) -> None:
        super().__init__(ends(shapes[:, 0] * shapes[:, 1]))
        self.shapes = shapes

    def columns(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return ``image``, ``y`` and ``x`` of each row."""
        images = self.groups_of(rows)
        y, x = np.divmod(rows - self._edges[images], self.shapes[images, 1])
        return {"image": images, "y": y, "x": x}

    def shape(self, image: int) -> tuple[int, int]:
        """Return height and width of an image."""
        height, width = self.shapes[image].tolist()
        return height, width

    @property
    def array(self) -> npt.NDArray[np.int64]:
        """Height and width of each image."""
        return self.shapes

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: npt.NDArray[np.int64] | None) -> Self:  # noqa: ARG003
        """Return the layout of a stored result."""
        return cls(np.empty((0, 2), np.int64) if array is None else array)


@dataclass(frozen=True)
class EqualImages(Layout):
    """Pixels of images of one size, row by row.

    Parameters
    ----------
    n_images, height, width : int
        Number of images, and pixels of each along both axes.
    """

    n_images: int
    height: int
    width: int
    kind, task, units = "equal_images", "segmentation", ("pixels", "images")

    @property
    def n_groups(self) -> int:
        """Number of images."""
        return self.n_images

    def edges(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at which the images ``[start, stop)`` begin, and the last one ends."""
        return np.arange(start, stop + 1) * (self.height * self.width)

    def groups_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the image of each row."""
        return rows // (self.height * self.width)

    def columns(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return ``image``, ``y`` and ``x`` of each row."""
        images, inside = np.divmod(rows, self.height * self.width)
        y, x = np.divmod(inside, self.width)
        return {"image": images, "y": y, "x": x}

    def shape(self, image: int) -> tuple[int, int]:  # noqa: ARG002  # all have the same
        """Return height and width of an image."""
        return self.height, self.width

    def attributes(self) -> dict[str, Any]:
        """Return the numbers."""
        return {"n_images": self.n_images, "height": self.height, "width": self.width}

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: npt.NDArray[np.int64] | None) -> Self:  # noqa: ARG003
        """Return the layout of a stored result."""
        return cls(**attributes)


@dataclass(frozen=True)
class TagLayout(Layout):
    """Tags of examples: each example has a row for each tag, which says whether it has the tag.

    Parameters
    ----------
    n_examples, n_tags : int
        Shape of `pred_probs`.
    names : tuple of str, optional
        K names of the tags, if the user gave them.
    """

    n_examples: int
    n_tags: int
    names: tuple[str, ...] | None = None
    kind, task, units, classes_note = "tags", "tags", ("tags", "examples"), "two for each tag"

    @property
    def n_groups(self) -> int:
        """Number of examples."""
        return self.n_examples

    def edges(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at which the examples ``[start, stop)`` begin, and the last one ends."""
        return np.arange(start, stop + 1) * self.n_tags

    def groups_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the example of each row."""
        return rows // self.n_tags

    def columns(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Return ``example`` and ``tag`` of each row."""
        examples, tags = np.divmod(rows, self.n_tags)
        return {"example": examples, "tag": tags}

    def attributes(self) -> dict[str, Any]:
        """Return the numbers, and the names."""
        named = {} if self.names is None else {"names": list(self.names)}
        return {"n_examples": self.n_examples, "n_tags": self.n_tags, **named}

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: npt.NDArray[np.int64] | None) -> Self:  # noqa: ARG003
        """Return the layout of a stored result."""
        names = attributes.get("names")
        return cls(attributes["n_examples"], attributes["n_tags"], None if names is None else tuple(names))


def classes_of_tags(tags: Sequence[str]) -> list[str]:
    """Return the names of the two classes of each tag: of examples without and with it.

    Examples
    --------
    >>> classes_of_tags(["cat", "dog"])
    ['not cat', 'cat', 'not dog', 'dog']
    """
    return [text for tag in tags for text in (f"not {tag}", tag)]


def restored_layout(facts: Mapping[str, Any] | None, array: npt.NDArray[np.int64] | None) -> Layout | None:
    """Return the layout of a stored result, of which ``kind`` and the attributes are `facts`; None without facts."""
    if facts is None:
        return None
    for module in TASKS.values():
        if facts["kind"] not in LAYOUTS:  # that of a task which is not imported yet
            importlib.import_module(module)
    return LAYOUTS[facts["kind"]].restored({name: one for name, one in facts.items() if name != "kind"}, array)


def ends(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return 0 and the sums of the first lengths."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    return edges
