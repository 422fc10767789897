"""How the labels of a run become classes: as they are, or by a table of names, which may have to be learned."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labelsieve.confident_learning.validation import Finding
from labelsieve.errors import InvalidInputError
from labelsieve.settings import IgnoreLabel
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.base import Source
from labelsieve.sources.label_names import (
    FloatTable,
    NameTable,
    Table,
    are_names,
    category_names,
    column_names,
    describe_unknown,
    is_missing,
    learn_names,
    mapped,
    mapping_note,
)
from labelsieve.sources.open_array import Opened, ignored_value


@dataclass(frozen=True)
class LabelMapping:
    """Maps the values of labels to classes.

    Parameters
    ----------
    values : Source or dask.array.Array
        ``(N,)`` labels as they were opened.
    ignore_label : int, str, None or NOTHING
        The label that says that a row has none, as the user gave it.
    table : NameTable or FloatTable, optional
        Maps the values; None for labels that are classes already.
    class_names : tuple of str, optional
        The names of all classes, as far as they are known.
    categories, columns : tuple of str, optional
        Names by which the user's objects may state the order of the classes: the categories of the labels, and the
        columns of `pred_probs`.
    note : str
        Which class each name is, if the user did not say it.
    """

    values: Opened
    ignore_label: IgnoreLabel
    table: Table | None
    class_names: tuple[str, ...] | None
    categories: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        values: Opened,
        ignore_label: IgnoreLabel,
        class_names: tuple[str, ...] | None,
        labels: Any,
        pred_probs: Any,
    ) -> LabelMapping:
        """Return the mapping, as far as names are known before labels are read.

        Parameters
        ----------
        values : Source or dask.array.Array
            ``(N,)`` labels as they were opened.
        ignore_label : int, str, None or NOTHING
            The label that says that a row has none.
        class_names : tuple of str or None
            The names that the user gave to all classes.
        labels, pred_probs : object
            The inputs before they were opened, which may name the classes.

        Raises
        ------
        InvalidInputError
            If labels are names, and several classes have the same one.
        """
        table: Table | None = None
        if are_names(values):
            table = FloatTable() if values.dtype.kind == "f" else _name_table(class_names or (), ignore_label)
        return cls(values, ignore_label, table, class_names, category_names(labels), column_names(pred_probs))

    @property
    def labels(self) -> Opened:
        """``(N,)`` classes."""
        return self.values if self.table is None else mapped(self.values, self.table)

    @property
    def ignored(self) -> int | None:
        """The value of `labels` that says that a row has none; None if each row has one."""
        return ignored_value(self.values, self.ignore_label) if self.table is None else self.table.ignored

    @property
    def label_kind(self) -> str:
        """What the labels are: ``"numbers"``, ``"names"`` or ``"booleans"``."""
        if not isinstance(self.table, NameTable):
            return "numbers"
        # A list of True and False is an array of objects.
        listed = self.values.array if isinstance(self.values, ArraySource) and self.values.dtype.kind == "O" else ()
        first = next((value for value in listed if not is_missing(value)), None)
        is_boolean = self.values.dtype.kind == "b" or isinstance(first, bool | np.bool_)
        return "booleans" if is_boolean else "names"

    @property
    def needs_names(self) -> bool:
        """Whether labels have to be read for the names of the classes."""
        return isinstance(self.table, NameTable) and not self.table.names

    def learned(self, pred_probs: Opened) -> LabelMapping:
        """Return the mapping with the names of all classes, for which it reads the labels.

        Parameters
        ----------
        pred_probs : Source or dask.array.Array
            Opened; columns of a table may have the names of the classes.

        Raises
        ------
        InvalidInputError
            If the labels have not K names, or names whose order is in doubt.
        """
        readings = pred_probs.class_columns if isinstance(pred_probs, Source) else ()
        names = learn_names(
            self.values, pred_probs.shape[1], self.ignore_label, self.columns, self.categories, readings
        )
        return replace(self, table=NameTable(names, self.ignore_label), class_names=names, note=mapping_note(names))

    def describe_unknown(self, found: Finding) -> str:
        """Return a sentence on labels that the table does not have; their first rows are read again."""
        return describe_unknown(self.values, () if self.table is None else self.table.names, found)


def _name_table(names: tuple[str, ...], ignore_label: IgnoreLabel) -> NameTable:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InvalidInputError(f"labels are names, and class_names has {repeated[0]!r} for several classes")
    return NameTable(names, ignore_label)
