"""What the rows of a result are, if they are parts of larger things: pixels of images, tokens of sentences, tags.

A *group* (an image, a sentence, an example) owns consecutive rows. Only what opens the inputs and what shows a result
knows the groups; a run has rows.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.thresholds import Int64s
from labelsieve.options import TASKS

_LAYOUTS: dict[str, type[Layout]] = {}


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
    n_groups : int
        Number of groups.
    array : (n_groups, ...) int64 or None
        What a stored result has of the layout with a value for each group.
    attributes : dict
        What else it has of the layout, as JSON takes it.
    tags : int, sequence of str or None
        Number or names of the tags, if rows are tags.
    mask_shape : tuple of int or None
        Shape in which a result also stores the mask of all rows: ``(N, H, W)`` of images of one size.
    """

    kind: ClassVar[str]
    task: ClassVar[str]
    units: ClassVar[tuple[str, str]]
    classes_note: ClassVar[str] = ""
    n_groups: int
    array: Int64s | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    tags: int | Sequence[str] | None = None
    mask_shape: tuple[int, ...] | None = None

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "kind"):
            _LAYOUTS[cls.kind] = cls

    @abc.abstractmethod
    def edges(self, start: int, stop: int) -> Int64s:
        """Return the rows at which the groups ``[start, stop)`` begin, and the row at which the last one ends."""

    @abc.abstractmethod
    def groups_of(self, rows: Int64s) -> Int64s:
        """Return the group of each row."""

    @abc.abstractmethod
    def columns(self, rows: Int64s) -> dict[str, Int64s]:
        """Return the columns that say where rows are, for tables: the group first."""

    @classmethod
    @abc.abstractmethod
    def restored(cls, attributes: Mapping[str, Any], array: Int64s) -> Layout:
        """Return the layout of a stored result; `array` is empty if none is stored."""

    def has_same_groups(self, other: Layout) -> bool:
        """Return whether another layout has the same groups, whatever their names are."""
        sizes, others = ({k: v for k, v in one.attributes.items() if k != "names"} for one in (self, other))
        return (self.kind, sizes) == (other.kind, others) and (
            self.array is None or np.array_equal(self.array, other.array)  # type: ignore[arg-type]  # of one kind
        )

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


class _AnySize(Layout):
    """Groups of any sizes, of which `bounds` has the row at which each begins, and the number of rows."""

    def __init__(self, bounds: Int64s) -> None:
        self._edges, self.n_groups = bounds, len(bounds) - 1

    def edges(self, start: int, stop: int) -> Int64s:
        """Return the rows at which the groups ``[start, stop)`` begin, and the last one ends."""
        return self._edges[start : stop + 1]

    def groups_of(self, rows: Int64s) -> Int64s:
        """Return the group of each row."""
        # Of groups without rows that begin at the same row, the last one is followed by the rows.
        return np.searchsorted(self._edges, rows, "right").astype(np.int64) - 1


class TokenLayout(_AnySize):
    """Tokens of sentences, one sentence after the other.

    Parameters
    ----------
    bounds : (n_sentences + 1,) int64
        Row at which each sentence begins, and the number of tokens.
    """

    kind, task, units = "tokens", "tokens", ("tokens", "sentences")

    def __init__(self, bounds: Int64s) -> None:
        super().__init__(bounds)
        self.array = np.diff(bounds)

    def columns(self, rows: Int64s) -> dict[str, Int64s]:
        """Return ``sentence`` and ``token`` of each row."""
        sentences = self.groups_of(rows)
        return {"sentence": sentences, "token": rows - self._edges[sentences]}

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: Int64s) -> TokenLayout:  # noqa: ARG003
        """Return the layout of a stored result, which has the number of tokens of each sentence."""
        return cls(ends(array))


class PixelLayout(_AnySize):
    """Pixels of images of different sizes, row by row.

    Parameters
    ----------
    shapes : (n_images, 2) int64
        Height and width of each image.
    """

    kind, task, units = "pixels", "segmentation", ("pixels", "images")

    def __init__(self, shapes: Int64s) -> None:
        super().__init__(ends(shapes[:, 0] * shapes[:, 1]))
        self.array: Int64s = shapes

    def columns(self, rows: Int64s) -> dict[str, Int64s]:
        """Return ``image``, ``y`` and ``x`` of each row."""
        images = self.groups_of(rows)
        y, x = np.divmod(rows - self._edges[images], self.array[images, 1])
        return {"image": images, "y": y, "x": x}

    def shape(self, image: int) -> tuple[int, int]:
        """Return height and width of an image."""
        height, width = self.array[image].tolist()
        return height, width

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: Int64s) -> PixelLayout:  # noqa: ARG003
        """Return the layout of a stored result, which has height and width of each image."""
        return cls(array.reshape(-1, 2))


class _OneSize(Layout):
    """Groups of one size."""

    def __init__(self, n_groups: int, n_rows: int) -> None:
        self.n_groups, self._n_rows = n_groups, n_rows

    def edges(self, start: int, stop: int) -> Int64s:
        """Return the rows at which the groups ``[start, stop)`` begin, and the last one ends."""
        return np.arange(start, stop + 1) * self._n_rows

    def groups_of(self, rows: Int64s) -> Int64s:
        """Return the group of each row."""
        return rows // self._n_rows


class EqualImages(_OneSize):
    """Pixels of images of one size, row by row.

    Parameters
    ----------
    n_images, height, width : int
        Number of images, and pixels of each along both axes.
    """

    kind, task, units = "equal_images", "segmentation", ("pixels", "images")

    def __init__(self, n_images: int, height: int, width: int) -> None:
        super().__init__(n_images, height * width)
        self.mask_shape: tuple[int, int, int] = (n_images, height, width)
        self.attributes = {"n_images": n_images, "height": height, "width": width}

    def columns(self, rows: Int64s) -> dict[str, Int64s]:
        """Return ``image``, ``y`` and ``x`` of each row."""
        images, inside = np.divmod(rows, self._n_rows)
        y, x = np.divmod(inside, self.mask_shape[2])
        return {"image": images, "y": y, "x": x}

    def shape(self, image: int) -> tuple[int, int]:  # noqa: ARG002  # all have the same
        """Return height and width of an image."""
        return self.mask_shape[1:]

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: Int64s) -> EqualImages:  # noqa: ARG003
        """Return the layout of a stored result."""
        return cls(**attributes)


class TagLayout(_OneSize):
    """Tags of examples: each example has a row for each tag, which says whether it has the tag.

    Parameters
    ----------
    n_examples, n_tags : int
        Shape of `pred_probs`.
    names : sequence of str, optional
        K names of the tags, if the user gave them.
    """

    kind, task, units, classes_note = "tags", "tags", ("tags", "examples"), "two for each tag"

    def __init__(self, n_examples: int, n_tags: int, names: Sequence[str] | None = None) -> None:
        super().__init__(n_examples, n_tags)
        self.n_tags, self.names = n_tags, None if names is None else tuple(names)
        named = {} if names is None else {"names": list(names)}
        self.attributes = {"n_examples": n_examples, "n_tags": n_tags, **named}
        self.tags = self.names or n_tags

    def columns(self, rows: Int64s) -> dict[str, Int64s]:
        """Return ``example`` and ``tag`` of each row."""
        examples, tags = np.divmod(rows, self.n_tags)
        return {"example": examples, "tag": tags}

    @classmethod
    def restored(cls, attributes: Mapping[str, Any], array: Int64s) -> TagLayout:  # noqa: ARG003
        """Return the layout of a stored result."""
        return cls(**attributes)


def classes_of_tags(tags: Sequence[str]) -> list[str]:
    """Return the names of the two classes of each tag: of examples without and with it.

    Examples
    --------
    >>> classes_of_tags(["cat", "dog"])
    ['not cat', 'cat', 'not dog', 'dog']
    """
    return [text for tag in tags for text in (f"not {tag}", tag)]


def layout_of(kind: str) -> type[Layout]:
    """Return the layout of a stored result by its `kind`."""
    for module in TASKS.values():
        if kind not in _LAYOUTS:  # that of a task which is not imported yet
            importlib.import_module(module)
    return _LAYOUTS[kind]


def ends(lengths: npt.NDArray[Any]) -> Int64s:
    """Return 0 and the sums of the first lengths."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    return edges
