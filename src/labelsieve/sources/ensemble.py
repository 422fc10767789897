"""Several models' probabilities of the same rows, whose mean is computed as they are read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from numbers import Real
from typing import Any, Final, Literal, overload

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.derived import EnsembleMean, EnsembleSummarizer, MemberRows
from labelsieve.confident_learning.summarize import STRIP_BYTES
from labelsieve.confident_learning.thresholds import Float64s
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.source import MissingRows, Rows, Source
from labelsieve.storage.remote import check_place, without_query

# The sum of the weights; beyond these, products would lose digits or become infinite.
_LEAST_WEIGHT: Final = 1e-200
_MOST_WEIGHT: Final = 1e200
# Bytes of all members up to which rows are read in whole stored chunks of every member.
_WHOLE_CHUNK_BYTES: Final = 48_000_000
# A strip of a member, and copies of its rows.
_STRIP_COPIES: Final = 3


class Ensemble:
    """The mean of several models' predicted probabilities, as `pred_probs`.

    Each member is read once in each pass, in the same tasks, and the mean is never stored. Rows of a member that cannot
    be a distribution are an error that names the member. On 49 real datasets with known errors, the mean of several
    models found wrong labels as well as the best single model, and much better than a typical one;
    `docs/which_filter_and_score.md` has other measurements, in some of which the best one is a little better.

    The mean of the probabilities ``p`` with weights ``w`` is ``(w[0] * p[0] + w[1] * p[1] + ...) / (w[0] + w[1] +
    ...)``, in float64 and in the order of the members. So the result has the bits of a run on that array of means.

    Parameters
    ----------
    members : sequence of array-like
        At least one; each is anything that `find_label_issues` takes as ``(N, K)`` `pred_probs`: arrays, paths, URLs,
        lists of shards, `Folds`, but not a Dask array of your own. They have the same shape, and may differ in kind,
        dtype and chunks.
    weights : sequence of float or "accuracy", optional
        A weight of at least 0 for each member, at any scale; by default all are equal. With ``"accuracy"`` the weight
        of a member is the share of rows whose label it predicts, as in cleanlab's
        ``rank.get_label_quality_ensemble_scores``; that takes a pass of its own over all members.

    Raises
    ------
    InvalidInputError
        For no members, a path that is listed twice, and weights that are negative, not finite, all zero, or not one
        for each member.
    InputTypeError
        For members or weights of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> a = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> b = np.array([[0.7, 0.3], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.85, 0.15]])
    >>> labelsieve.Ensemble([a, b])
    <Ensemble of 2 members>
    >>> labelsieve.find_label_issues([0, 0, 1, 1, 1], labelsieve.Ensemble([a, b]))
    <LabelIssues: 1 of 5 rows (20.00%) in 2 classes; worst rows: 4>
    """

    def __init__(self, members: Iterable[Any], weights: Sequence[float] | Literal["accuracy"] | None = None) -> None:
        if isinstance(members, str | os.PathLike | dict | set) or not isinstance(members, Iterable):
            raise InputTypeError(f"Ensemble takes a list of pred_probs, not {type(members).__name__}")
        self.members = tuple(members)
        if not self.members:
            raise InvalidInputError("Ensemble takes at least one member")
        _refuse_repeated(self.members)
        self.weights = _checked_weights(weights, len(self.members))

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        """Return the number of members."""
        weighted = "" if self.weights is None else f" with weights {self.weights!r}"
        return f"<Ensemble of {len(self)} member{'s' if len(self) > 1 else ''}{weighted}>"


def _refuse_repeated(members: Sequence[Any]) -> None:
    seen = dict[str, int]()
    for number, member in enumerate(members):
        if isinstance(member, str | os.PathLike):
            place = check_place("a member of Ensemble", member)
            if place in seen:
                raise InvalidInputError(
                    f"members {seen[place]} and {number} of the ensemble are both {without_query(place)}: give weights "
                    "if one counts more than others"
                )
            seen[place] = number


def _checked_weights(weights: Any, n_members: int) -> tuple[float, ...] | Literal["accuracy"] | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "accuracy":
            raise InvalidInputError(f'weights must be numbers or "accuracy", not {weights!r}')
        return "accuracy"
    try:
        found = list(weights)
    except TypeError:
        raise InputTypeError(f"weights must be a list of numbers, not {type(weights).__name__}") from None
    if len(found) != n_members:
        raise InvalidInputError(f"{len(found)} weights for {n_members} members of the ensemble: give one for each")
    for number, weight in enumerate(found):
        if isinstance(weight, bool | np.bool_) or not isinstance(weight, Real):
            raise InputTypeError(f"weight {number} of the ensemble must be a number, not {weight!r}")
        if not 0 <= float(weight) < math.inf:
            raise InvalidInputError(f"weight {number} of the ensemble must be finite and at least 0, not {weight!r}")
    checked = tuple(map(float, found))
    if not _LEAST_WEIGHT <= sum(checked) <= _MOST_WEIGHT:
        raise InvalidInputError(
            f"the weights of the ensemble add up to {sum(checked):g}; the sum must be positive, from "
            f"{_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}"
        )
    return checked


def check_members(names: Sequence[str], shapes: Sequence[Sequence[int]]) -> None:
    """Raise unless all members of an ensemble have the same shape.

    Raises
    ------
    InvalidInputError
        Naming the first member and those that differ from it.
    """
    shapes = [tuple(shape) for shape in shapes]
    differing = [f"{name} has {shape}" for name, shape in zip(names, shapes, strict=True) if shape != shapes[0]]
    if differing:
        raise InvalidInputError(
            f"the members of an ensemble must have the same rows and classes, but {names[0]} has shape {shapes[0]}, "
            f"{', '.join(differing)}"
        )


def member_name(number: int, where: str) -> str:
    """Name a member for messages."""
    return f"member {number} of the ensemble ({where})"


class EnsembleSource(Source):
    """The mean of several sources.

    `row_bytes` counts all members, or the float64 mean where that is more. The stored row chunk is a multiple of those
    of all members if that is small, and otherwise the largest: the chunks of other members are then cut by some reads,
    and kept for the next read.

    Parameters
    ----------
    members : sequence of Source
        Of the same number of classes.
    weights : tuple of float, "accuracy" or None
        Weights; those by accuracy are not known yet.
    names : sequence of str, optional
        Names of the members, for messages.
    origins : sequence of int, optional
        Row of each member that is row 0 of the ensemble; 0 by default.
    n_rows : int, optional
        Number of rows; by default all of the first member.

    Attributes
    ----------
    members : tuple of Source
        The sources.
    """

    summarizer = EnsembleSummarizer

    def __init__(
        self,
        members: Sequence[Source],
        weights: tuple[float, ...] | Literal["accuracy"] | None,
        names: Sequence[str] | None = None,
        origins: Sequence[int] | None = None,
        n_rows: int | None = None,
    ) -> None:
        first, self.members, self.weights = members[0], tuple(members), weights
        super().__init__((first.n_rows if n_rows is None else n_rows, *first.shape[1:]), np.dtype(np.float64))
        self.names = tuple(names or (member_name(i, member.where) for i, member in enumerate(members)))
        self.origins = tuple(origins or [0] * len(members))
        self.row_bytes = max(self.row_bytes, sum(member.row_bytes for member in members))
        self.row_chunk = _common_chunk([member.row_chunk for member in members if member.row_chunk], self.row_bytes)
        self.in_pieces = all(member.in_pieces for member in members)
        self.in_memory = any(member.in_memory for member in members)
        self.is_encoded = any(member.is_encoded for member in members)
        self.prefetch_bytes = sum(member.prefetch_bytes for member in members)
        # The strips of all members beyond the one that every source has.
        strips = _STRIP_COPIES * max(0, self.row_bytes - self.strip_row_bytes) * STRIP_BYTES // self.strip_row_bytes
        self.decoding_bytes = sum(member.decoding_bytes for member in members) + strips
        notes = [member.decoding_note for member in members if member.decoding_note]
        self.decoding_note = notes[0] if notes else f"strips of {len(members)} members"
        requesting = [member for member in members if member.request_rows]
        if requesting:
            self.request_rows = min(member.request_rows or 1 for member in requesting)
            self.n_side_by_side = sum(member.n_side_by_side for member in requesting)
        listed = [member.listed_at for member in members]
        if all(listed):
            self.listed_at = self._named(map(str, listed))

    @property
    def mean(self) -> EnsembleMean:
        """How the members are averaged."""
        if isinstance(self.weights, str):
            raise InvalidInputError(
                f"the weights of {self.where} are not known: only find_label_issues and the functions of "
                "labelsieve.count compute weights='accuracy'; give numbers"
            )
        dtype = np.result_type(np.float32, *(member.dtype for member in self.members))
        return EnsembleMean(self.names, self.weights, dtype)

    @property
    def where(self) -> str:
        """The places of the members."""
        return self._named(member.where for member in self.members)

    def _named(self, places: Iterable[str]) -> str:
        weighted = "" if self.weights is None else f", weights {self.weights}"
        return f"the mean of {', '.join(places)}{weighted}"

    @property
    def arrays(self) -> Sequence[Source]:
        """An ensemble for each stored array, if the members are divided into arrays in the same way."""
        arrays = [member.arrays for member in self.members]
        sizes = [[array.n_rows for array in some] for some in arrays]
        if any(self.origins) or len(sizes[0]) == 1 or any(one != other for one, other in pairwise(sizes)):
            return [self]
        return [EnsembleSource(some, self.weights, self.names) for some in zip(*arrays, strict=True)]

    @property
    def strip_row_bytes(self) -> int:
        """Bytes of a row of one member, and half as much again.

        The members are read one after the other, and long reads are faster, until strips leave the cache. Three members
        took 3.4 times the wall time of one model with strips of 2.7 MB, 3.6 times with 4 MB, and 4.4 times where all
        shared a strip (400,000 x 500 float32).
        """
        return 3 * max(member.row_bytes for member in self.members) // 2

    @property
    def read_row_bytes(self) -> int:
        """Bytes of a row of all members."""
        return sum(member.read_row_bytes for member in self.members)

    def with_weights(self, weights: tuple[float, ...]) -> EnsembleSource:
        """Return the same members with other weights."""
        return EnsembleSource(self.members, weights, self.names, self.origins, self.n_rows)

    def open(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all members, to read their mean."""
        return _MeanRows(self, start, stop)

    def open_raw(self, start: int = 0, stop: int | None = None) -> Rows:
        """Open all members, to read `MemberRows`."""
        return _RawRows(self, start, stop)

    def open_stored(self, start: int, stop: int, count: Callable[[int], object]) -> Rows:
        """Open to read the stored bytes of all members."""
        return _StoredRows(self, start, stop, count)

    def identity(self) -> dict[str, Any]:
        """Return the identities of the members, and the weights."""
        members = [member.identity() for member in self.members]
        known = all(member["content"] is not None for member in members)
        return {
            "kind": type(self).__name__,
            "where": self.where,
            "dtype": self.dtype.str,
            "weights": list(self.weights) if isinstance(self.weights, tuple) else self.weights,
            "members": members,
            "content": "of the members" if known else None,
        }

    @property
    def derivation(self) -> list[Any]:
        """The mean, and what is computed from the stored rows of each member."""
        return [[type(self).__name__, self.weights, [member.derivation for member in self.members]]]

    @property
    def version_rows(self) -> int | None:
        """Number of consecutive rows that have versions of their own in all members."""
        rows = [member.version_rows for member in self.members]
        return None if any(self.origins) or not all(rows) else math.lcm(*(one or 1 for one in rows))

    def part_identities(self, ranges: Sequence[tuple[int, int]]) -> list[str]:
        """Return a digest for each range over all members and the weights."""
        parts = [
            member.part_identities([(start + origin, stop + origin) for start, stop in ranges])
            for member, origin in zip(self.members, self.origins, strict=True)
        ]
        found = []
        for digests in zip(*parts, strict=True):
            facts = json.dumps(["ensemble", self.weights, digests]).encode()
            found.append(hashlib.blake2b(facts, digest_size=16).hexdigest() if all(digests) else "")
        return found

    def note_version(self) -> None:
        """Note the versions of all members."""
        for member in self.members:
            member.note_version()

    def check_version(self) -> None:
        """Compare the versions of all members."""
        for member in self.members:
            member.check_version()

    def missing_rows(self) -> MissingRows | None:
        """Return the rows whose chunks are not stored, in any member."""
        found = [member.missing_rows() for member in self.members]
        return MissingRows.joined((rows, -origin) for rows, origin in zip(found, self.origins, strict=True) if rows)

    def reachable(self) -> None:
        """Look for every member."""
        for member in self.members:
            if not member.in_memory:
                member.reachable()

    def part(self, start: int, stop: int) -> tuple[Source, int]:
        """Return an ensemble of the parts of the members that hold these rows."""
        members, origins = [], []
        for member, origin in zip(self.members, self.origins, strict=True):
            part, begin = member.part(start + origin, stop + origin)
            members.append(part)
            origins.append(start + origin - begin)
        return EnsembleSource(members, self.weights, self.names, origins, stop - start), start


def _common_chunk(chunks: Sequence[int], row_bytes: int) -> int | None:
    if not chunks:
        return None
    common = math.lcm(*chunks)
    return common if common * row_bytes <= _WHOLE_CHUNK_BYTES else max(chunks)


class _OpenMembers(Rows):
    """All members of an ensemble, open for reading."""

    def __init__(
        self,
        source: EnsembleSource,
        start: int,
        stop: int | None,
        opening: Callable[[Source, int, int | None], Rows] = lambda member, start, stop: member.open(start, stop),
    ) -> None:
        super().__init__(source)
        self._origins = source.origins
        with ExitStack() as stack:
            self._members = [
                stack.enter_context(opening(member, start + origin, None if stop is None else stop + origin))
                for member, origin in zip(source.members, source.origins, strict=True)
            ]
            self._stack = stack.pop_all()

    def _read(self, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        return _LazyRows(self._members, [(start + origin, stop + origin) for origin in self._origins])

    def close(self) -> None:
        """Close all members."""
        self._stack.close()


class _LazyRows(Sequence[npt.NDArray[Any]]):
    """The rows of each member, read when they are first taken, so that they are in the cache then."""

    def __init__(self, members: Sequence[Rows], ranges: Sequence[tuple[int, int]]) -> None:
        self._members, self._ranges = members, ranges
        self._read: list[npt.NDArray[Any] | None] = [None] * len(members)

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[npt.NDArray[Any]]: ...

    def __getitem__(self, index: int | slice) -> npt.NDArray[Any] | Sequence[npt.NDArray[Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        found = self._read[index]
        if found is None:
            found = self._read[index] = self._members[index].read(*self._ranges[index])
        return found


class _MeanRows(_OpenMembers):
    def __init__(self, source: EnsembleSource, start: int, stop: int | None) -> None:
        super().__init__(source, start, stop)
        self._mean = source.mean

    def read(self, start: int, stop: int) -> Float64s:
        return self._mean.of(self._read(start, stop), self._reused(stop - start))


class _RawRows(_MeanRows):
    def read(self, start: int, stop: int) -> Any:
        return MemberRows(self._read(start, stop), stop - start, self._mean)


class _StoredRows(_OpenMembers):
    """Reads the stored bytes of all members; counts those of members that do not count their own."""

    def __init__(self, source: EnsembleSource, start: int, stop: int, count: Callable[[int], object]) -> None:
        super().__init__(source, start, stop, lambda member, first, last: member.open_stored(first, last or 0, count))
        self._count = count
        self._row_bytes = sum(member.read_row_bytes for member in source.members if not member.is_encoded)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        for rows in self._read(start, stop):
            first = rows
        if self._row_bytes:
            self._count((stop - start) * self._row_bytes)
        return first
