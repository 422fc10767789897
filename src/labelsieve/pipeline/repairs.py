"""Records that are damaged while a run still needs them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from labelsieve.confident_learning.thresholds import SparseClassSums
from labelsieve.errors import UnreadableDataError
from labelsieve.execution.executor import Executor
from labelsieve.execution.progress import logger
from labelsieve.partitioning import Grid
from labelsieve.tasks.checkpoint import DamagedRecordError, Records

# How often a pass starts again: a disk that keeps damaging records is an error.
_MOST_REPAIRS: Final = 3


class _Repairable(Protocol):
    def redo_damaged(self) -> None:
        """Make the records again that are damaged."""


_Run = TypeVar("_Run", bound=_Repairable)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def redoing_damaged(method: Callable[Concatenate[_Run, _P], _R]) -> Callable[Concatenate[_Run, _P], _R]:
    """Make a pass of a run start again after damaged records were made again."""

    @wraps(method)
    def passed(run: _Run, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        for _ in range(_MOST_REPAIRS):
            try:
                return method(run, *args, **kwargs)
            except DamagedRecordError as error:
                logger.warning("%s; the partitions whose records are damaged are read again", error)
                run.redo_damaged()
        return method(run, *args, **kwargs)

    return passed


def committed(executor: Executor, records: Records, kind: str, grid: Grid) -> list[int]:
    """Return the partitions whose record is there and whole."""
    numbers = range(grid.n_partitions)
    starts, stops = zip(*map(grid.bounds, numbers), strict=True)
    whole = executor.gather("verify", partial(records.is_committed, kind=kind), [numbers, starts, stops])
    return [index for index in numbers if whole[index]]


def check_same(sums: SparseClassSums, before: SparseClassSums | None, where: str, records: Records) -> None:
    """Raise unless rows that were read again have the same class sums as before.

    Raises
    ------
    UnreadableDataError
        Where the input changed meanwhile.
    """
    if before is not None and not sums.same(before):
        raise UnreadableDataError(
            f"{where} changed during the run: rows whose record in {records.folder.where} was damaged were read again, "
            "and differ from what was read before. Run again with fresh=True (--fresh)"
        )
