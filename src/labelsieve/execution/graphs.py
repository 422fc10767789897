"""Graphs of one task a partition, and the trees that fold what they return.

A function and all that its tasks share (sources, settings, thresholds) are one node; a task names it, its partition's
number and the results it needs, so that thousands of tasks are some hundred kilobytes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from dask.delayed import Delayed

from labelsieve.errors import ChangedDataError, UnreadableDataError
from labelsieve.execution.progress import rows_read, tell

# Partials that one task of a tree reduction folds.
TREE_WIDTH: Final = 16
# Seconds before what could not be read is read again; twice as long each time.
_FIRST_PAUSE: Final = 0.1

Key = tuple[str, int]
_T = TypeVar("_T")


class Graph:
    """Tasks of one computation; a Dask collection of those that are `wanted`.

    Parameters
    ----------
    attempts : int
        How often a task reads before what it cannot read is an error.
    topic : str, optional
        Under which the tasks of a map tell that they are done.
    """

    def __init__(self, attempts: int = 1, topic: str | None = None) -> None:
        self.tasks: dict[Any, Any] = {}
        self.wanted: list[Key] = []
        self._attempts, self._topic, self._token = attempts, topic, uuid.uuid4().hex

    def map(self, layer: str, function: Callable[..., Any], columns: Sequence[Sequence[Any]]) -> list[Key]:
        """Add a task for each row of `columns`, which hold values, keys, futures or a user's Dask blocks."""
        name, shared = f"{layer}-{self._token}", f"{layer}-function-{self._token}"
        self.tasks[shared] = _Function(function, self._attempts, self._topic if hasattr(function, "n_rows") else None)
        keys = []
        for index, row in enumerate(zip(*columns, strict=True)):
            keys.append((name, index))
            self.tasks[name, index] = (_call, shared, *(self._argument(value) for value in row))
        return keys

    def tree(self, layer: str, combine: Callable[[Iterable[Any]], Any], keys: Sequence[Key]) -> Key:
        """Add tasks that fold `keys` in order, some at a time, and return the key of the whole."""
        level = 0
        while len(keys) > 1 or not level:
            groups = [keys[i : i + TREE_WIDTH] for i in range(0, len(keys), TREE_WIDTH)]
            keys = self.map(f"{layer}-combine-{level}", combine, [groups])
            level += 1
        return keys[0]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._argument(item) for item in value]
        if isinstance(value, Delayed):
            self.tasks.update(value.dask)
            return value.key
        if _is_future(value):
            self.tasks[value.key] = value
            return value.key
        return value

    def describe(self, key: Any) -> str:
        """Name the rows of a task for a message, by its key, whichever way that is written."""
        found = next((task for name, task in self.tasks.items() if str(name) == str(key)), None)
        if isinstance(found, tuple) and found[1] in self.tasks:
            name = getattr(self.tasks[found[1]].function, "name", None)
            if name is not None:
                return str(name(found[2]))
        return f"task {key}"

    def __dask_graph__(self) -> dict[Any, Any]:
        return self.tasks

    def __dask_keys__(self) -> list[Key]:
        return self.wanted

    def __dask_tokenize__(self) -> str:
        return self._token

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return list, ()


class _Function:
    """A function as a value of a graph, which would call a bare one."""

    def __init__(self, function: Callable[..., Any], attempts: int, topic: str | None) -> None:
        self.function, self.attempts, self.topic = function, attempts, topic


def _call(shared: _Function, *arguments: Any) -> Any:
    result = tried(shared.attempts, shared.function, *arguments)
    if shared.topic is not None:
        n_rows = shared.function.n_rows(arguments[0])  # type: ignore[attr-defined]  # of what has a topic
        tell(shared.topic, n_rows, rows_read(result, n_rows))
    return result


def tried(attempts: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return what `function` gives of `arguments`; what cannot be read is read again, `attempts` times in all."""
    for attempt in range(attempts - 1):
        try:
            return function(*arguments)
        except ChangedDataError:
            raise
        except UnreadableDataError:
            time.sleep(_FIRST_PAUSE * 2**attempt)
    return function(*arguments)


def _is_future(value: Any) -> bool:
    return type(value).__module__.startswith("distributed.") and hasattr(value, "key")
