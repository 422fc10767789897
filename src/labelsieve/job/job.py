"""The job of `find_label_issues`: its steps, and the folders that it writes to."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from labelsieve.confident_learning.checks import Finding, Findings, notes_of, raise_or_warn
from labelsieve.confident_learning.filters import issue_totals
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounts, PruneCounts
from labelsieve.confident_learning.misfit import RowSample, describe_misfit, may_not_fit
from labelsieve.confident_learning.summarize import ScanTotals
from labelsieve.confident_learning.thresholds import class_means, class_sums_finalize
from labelsieve.errors import (
    InvalidInputError,
    MemoryLimitError,
    TaskFailedError,
    UnreadableDataError,
    UnwritableError,
    size,
    warn,
)
from labelsieve.execution.cluster import ClusterExecutor, choose_executor
from labelsieve.execution.executor import LostDataError
from labelsieve.execution.memory import candidate_bytes, expected_issues, free_bytes
from labelsieve.job import fork_pool
from labelsieve.job.grid import arrays_of, partitions_by_array
from labelsieve.job.inputs import Inputs, check_output_of, open_given, open_inputs, open_pair
from labelsieve.job.kept import Records, digest
from labelsieve.job.passes import Passes
from labelsieve.job.plan import Fit, Plan, check_cluster, fit_in_memory, make_plan
from labelsieve.job.settings import JobSettings
from labelsieve.job.table import RowSummaries
from labelsieve.job.whole_rows import member_accuracies
from labelsieve.job.workdir import (
    Workdir,
    check_finished,
    check_versions,
    compare_labels,
    fingerprint,
    note_versions,
    part_identities,
    record_names,
)
from labelsieve.options import NOTHING, IgnoreLabel
from labelsieve.results.label_issues import LabelIssues, load_rows
from labelsieve.results.result import IssueParts, RunFacts, check_class_names, loaded_versions, open_ids
from labelsieve.results.store import ISSUE_BYTES, Stage, StoredScores, run_rows, staged
from labelsieve.results.units import Layout
from labelsieve.sources.arrays import ArraySource
from labelsieve.sources.composite import EnsembleSource
from labelsieve.sources.names import (
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
    open_label_values,
)
from labelsieve.sources.objects import retry
from labelsieve.sources.open import Opened, ignored_value, open_labels, where_is
from labelsieve.sources.source import Source
from labelsieve.storage.folder import Folder, LocalFolder, open_folder, shared_probe, temporary_folder


def check_fit(table: RowSummaries, total: ScanTotals, confident: ConfidentCounts, opened: object = None) -> str:
    """Warn if labels and predictions do not seem to belong together; return the text of the warning, or "".

    Parameters
    ----------
    table : RowSummaries
        The table of all rows.
    total : ScanTotals
        Totals of the first pass.
    confident : ConfidentCounts
        Confident rows by given label and class.
    opened : Source or dask.array.Array
        The opened `pred_probs`, which may have a check of their own (`Source.describe_misfit`).
    """
    own = opened.describe_misfit(total.sums.dense()) if isinstance(opened, Source) else None
    if own is not None:
        if own:
            warn(own)
        return own
    if not may_not_fit(total.agreement, total.sums.dense().counts, confident):
        return ""
    sample = RowSample(int(total.sums.dense().counts.sum()))
    text = describe_misfit(*table.sampled_classes(sample), table.n_classes, sample.n_rows, sample.window)
    if text:
        warn(text)
    return text


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


# Issues of up to this many bytes are sorted in this process, even if a memory limit leaves less.
_FEW_ISSUE_BYTES: Final = 32_000_000
# Share of its free memory that the client of a cluster may take to sort issues.
_CLIENT_SHARE: Final = 0.5


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Setup:
    """What the steps of a job need once it is planned."""

    passes: Passes
    inputs: Inputs
    fit: Fit
    records: Records | None
    stage: Stage | None
    n_forks: int


class Job:
    """Finds label issues: from the inputs of the user to a published result.

    Parameters
    ----------
    labels, pred_probs : object
        The arguments of the user.
    settings : JobSettings
        All settings.
    named : bool
        Whether labels may be names of classes, which the result then says.
    layout : Layout, optional
        Where each row is, if rows are parts of larger things; for the result.
    """

    def __init__(
        self,
        labels: Any,
        pred_probs: Any,
        settings: JobSettings,
        *,
        named: bool = False,
        layout: Layout | None = None,
    ) -> None:
        self._started = time.perf_counter()
        self.settings, self.filter, self._layout = settings, settings.filter, layout
        self.output: str | None = settings.output  # type: ignore[assignment]  # checked to be text
        self._attempts = settings.retries + 1
        check_output_of(settings, labels, pred_probs)
        self.n_jobs: int = settings.n_jobs  # type: ignore[assignment]  # None was replaced
        self.executor = choose_executor(settings.client, settings.max_memory, settings.retries, refuse=False)
        limit = free_bytes() if self.executor.is_cluster else self.executor.limit
        labels, pred_probs, ids = open_given(labels, pred_probs, settings, limit)
        self.pair = open_pair(
            *(labels, pred_probs, settings.class_names, ids),
            attempts=self._attempts,
            from_logits=settings.from_logits,
            allow_zero_rows=settings.allow_zero_rows,
            dtype=settings.dtype,
            open_as=partial(open_label_values, ignore_label=settings.ignore_label) if named else open_labels,
        )
        if isinstance(self.pair[1], Source):
            self.pair = self.pair[0], self.pair[1].prepared_for(self.filter)
            self.filter = self.pair[1].filter_for(self.filter)
        self._n_weighing = 0  # reads that weigh the members of an ensemble
        self._check_owned: Callable[[], None] = lambda: None  # that of the workdir, once it is open
        n_rows, n_classes = self.pair[1].shape
        self._places = {"labels": where_is(self.pair[0]), "pred_probs": where_is(self.pair[1])}
        names = check_class_names(settings.class_names, n_classes)
        self._mapping = LabelMapping.of(self.pair[0], settings.ignore_label, names, labels, pred_probs)
        self._ignored = self._mapping.ignored
        self.pair = self._mapping.labels, self.pair[1]
        self._ids = open_ids(ids, n_rows, layout)
        self.filter.check_classes(n_classes)
        joint = settings.given_joint
        if joint is not None and joint.n_classes != n_classes:
            raise InvalidInputError(f"confident_joint has {joint.n_classes:,} classes, pred_probs {n_classes:,}")

    def _learn_names(self) -> None:
        """Read the labels for the names of the classes, if labels are names and the user gave none."""
        if self._mapping.needs_names:
            self._mapping = retry(self._attempts, self._mapping.learned, self.pair[1])
            self.pair = self._mapping.labels, self.pair[1]

    def run(self) -> LabelIssues:
        """Run all steps, and publish the result last."""
        issues = self._attempt(self._find)
        return issues if self.output is None else load_rows(self.output)

    def count(self) -> JointCounts:
        """Count the confident joint in two passes, and select nothing."""
        return self._attempt(self._count)

    def _count(self, setup: _Setup) -> JointCounts:
        total = setup.passes.scan(setup.n_forks)
        self._check_scanned(total)
        sums = total.sums.dense()
        _, rescanned = setup.passes.rescan(class_sums_finalize(sums))
        check_versions(self.pair, self._attempts)
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        if joint is None or rescanned is None or rescanned.joint is None:
            raise RuntimeError("the settings of a count ask for the confident joint")
        check_fit(setup.passes.first_table(), total, rescanned.joint, self.pair[1])
        return joint

    def _attempt(self, steps: Callable[[_Setup], _T]) -> _T:
        """Prepare and run `steps`; start again if a worker was lost that held arrays of this process."""
        if self.executor.misfits:
            raise TaskFailedError(self.executor.misfits[0].sentence)
        note_versions(self.pair, self._attempts, allow_zero_rows=self.settings.allow_zero_rows)
        self._learn_names()
        self._weigh_members()
        for attempt in range(self._attempts):
            with ExitStack() as stack:
                setup = self._prepare(stack)
                try:
                    return steps(setup)
                except LostDataError:
                    if attempt + 1 == self._attempts or not setup.inputs.in_memory:
                        raise
                except UnwritableError as error:
                    if self.settings.workdir is None or setup.records is None:
                        raise
                    kept = f"what is finished stays in the workdir {setup.records.folder.where}, and a new run uses it"
                    raise UnwritableError(f"{error}; {kept}") from error
        raise RuntimeError("there is at least one attempt")

    def _weigh_members(self) -> None:
        """Read the members of an ensemble that are weighted by their accuracy."""
        labels, pred_probs = self.pair
        if isinstance(pred_probs, EnsembleSource) and pred_probs.weights == "accuracy":
            weights = member_accuracies(labels, pred_probs, self.executor, self.settings.checks, self._ignored)
            self.pair = labels, pred_probs.with_weights(weights)
            self._places["pred_probs"] = where_is(self.pair[1])
            self._n_weighing = 1

    def plan(self) -> Plan:
        """Plan the run, and check its cluster. Only for weights of an ensemble in a workdir all data is read."""
        if self.settings.workdir is not None:
            self._weigh_members()
        workdir = None
        if self.settings.workdir is not None:
            refuse_nested(self.settings.workdir, self.output)
            workdir = Workdir.peek(self.settings.workdir, fresh=self.settings.fresh)
        facts, earlier = dict[str, Any](), None
        if workdir is not None:
            for opened in self.pair:
                if isinstance(opened, Source):
                    retry(self._attempts, opened.note_version)
            facts = self._facts_of_workdir()
            earlier = self._earlier_partitions(workdir, facts)
        inputs = self._open_inputs(earlier)
        plan = make_plan(self._fit(inputs), inputs, self.filter, self.executor)
        if workdir is not None:
            plan = self._with_known(plan, workdir, facts, inputs)
        if isinstance(self.executor, ClusterExecutor):
            folders = {
                "workdir": None if workdir is None else workdir.folder,
                "output": None if self.output is None else open_folder(self.output),
            }
            plan = replace(plan, problems=tuple(check_cluster(self.executor, inputs, folders)))
        return plan

    def _facts_of_workdir(self) -> dict[str, Any]:
        """Return the facts that all runs in one workdir have in common."""
        return fingerprint(self.pair[1], asdict(self.filter.settings) | self.settings.checks.flags())

    def _earlier_partitions(self, workdir: Workdir, facts: dict[str, Any]) -> Mapping[str, Sequence[int]]:
        """Return the partitions that the workdir has; raise if it belongs to another run."""
        return workdir.earlier_partitions(facts, [place for place, _ in arrays_of(self.pair[1])])

    def _parts(self, workdir: Workdir, facts: dict[str, Any], inputs: Inputs) -> tuple[list[str], list[str]]:
        """Return the name of the record, and the identity of the labels, of each partition."""
        names = record_names(self.pair[1], inputs.grid, facts, workdir.folder.where)
        labels = part_identities(self.pair[0], inputs.grid)
        if self._ignored is not None:
            labels = [one and digest([one, self._ignored]) for one in labels]
        return names, labels

    def _with_known(self, plan: Plan, workdir: Workdir, facts: dict[str, Any], inputs: Inputs) -> Plan:
        """Return a plan that says what the workdir has."""
        known, others = workdir.committed_rows(*self._parts(workdir, facts, inputs), inputs.grid.partition_rows)
        row_bytes = inputs.n_bytes // inputs.grid.n_rows
        return replace(
            plan,
            known_rows=known,
            known_bytes=known * row_bytes,
            unconfirmed_rows=others,
            unconfirmed_bytes=others * row_bytes,
        )

    def _open_inputs(self, earlier: Mapping[str, Sequence[int]] | None) -> Inputs:
        """Return the inputs on a grid, which keeps the partitions of an earlier run in the workdir."""
        return open_inputs(
            *self.pair,
            batch_size=self.settings.batch_size,
            partition_batches=self.settings.partition_batches,
            n_jobs=self.n_jobs,
            executor=self.executor,
            read=False,
            earlier=earlier,
            ignored=self._ignored,
        )

    def _fit(self, inputs: Inputs) -> Fit:
        """Return how the run fits in memory, or raise if it cannot."""
        stores = {"workdir": self.settings.workdir is not None, "output": self.output is not None}
        return fit_in_memory(inputs, self.filter, self.executor, **stores, n_jobs=self.n_jobs)

    def _prepare(self, stack: ExitStack) -> _Setup:
        """Plan the run, lock its workdir and output, and check that all workers can reach what they need."""
        workdir, facts, earlier = None, dict[str, Any](), None
        if self.settings.workdir is not None:
            refuse_nested(self.settings.workdir, self.output)
            owned = Workdir.open(self.settings.workdir, fresh=self.settings.fresh, wait=self.settings.wait)
            workdir = stack.enter_context(owned)
            self._check_owned = workdir.check_owned
            facts = self._facts_of_workdir()
            earlier = self._earlier_partitions(workdir, facts)
        inputs = self._open_inputs(earlier)
        self.executor.check_reachable(inputs.reachability())
        fit = self._fit(inputs)
        if inputs.labels_first:
            inputs = retry(self._attempts, inputs.read_labels)
        stage = None if self.output is None else stack.enter_context(staged(self.output, self.settings.wait))
        records = None
        if workdir is not None:
            partitions = partitions_by_array(self.pair[1], inputs.grid)
            compare = partial(compare_labels, inputs, self.executor)
            records = workdir.begin(facts, partitions, *self._parts(workdir, facts, inputs), compare)
        elif fit.stored:
            workdir = Workdir(self._temporary(stage, fit))
            names = [f"{number:032x}" for number in range(inputs.grid.n_partitions)]
            records = workdir.begin({"run": uuid.uuid4().hex}, {}, names, [""] * len(names))
        if stage is not None:
            self._check_shared(stage.work)
        if records is not None:
            self._check_shared(records.folder)
        if workdir is not None and records is not None:
            check_finished(inputs, self.filter.settings, self.executor, records, workdir.finished)
        passes = Passes(
            inputs,
            self.filter,
            self.executor,
            records,
            self.settings.progress,
            keep=not fit.stored,
            checks=self.settings.checks,
            finished=() if workdir is None else workdir.finished,
            check_margins=partial(self._check_margins, inputs, fit),
        )
        forks = fork_pool.can_fork(inputs, self.n_jobs, is_cluster=self.executor.is_cluster)
        # A single partition is read in this process anyway.
        n_forks = self.n_jobs if forks and inputs.grid.n_partitions > 1 else 0
        return _Setup(passes, inputs, fit, records, stage, n_forks)

    def _find(self, setup: _Setup) -> LabelIssues:
        """Scan, count, select, sort and publish."""
        passes, inputs, fit, stage = setup.passes, setup.inputs, setup.fit, setup.stage
        scanned = passes.scan(setup.n_forks)
        self._check_scanned(scanned)
        sums = scanned.sums.dense()
        thresholds = class_sums_finalize(sums)
        table, rescanned = passes.rescan(thresholds)
        counts = table.count(self.filter, thresholds)
        joint = None if rescanned is None else rescanned.joint_counts(sums.counts)
        totals = issue_totals(counts, joint, sums.counts, self.filter.settings)
        totals = replace(totals, given_joint=self.settings.given_joint)
        misfit = check_fit(passes.first_table(), scanned, totals.confident, self.pair[1])
        # Issues in memory are cut once more when they are sorted, so a few too many do no harm.
        selected = self.filter.select(table, totals, inputs.dtype, exactly=stage is not None)
        if passes.n_reads > 1:
            check_versions(self.pair, self._attempts)
        self._check_owned()
        found: IssueParts
        if stage is not None:
            stage.clear()
            found = table.write(selected, self.filter, stage.group, stage.work, self._run_room(inputs, fit))
        else:
            self._check_fits(selected.n_rows, fit)
            found = table.sorted_issues(selected, self.filter)
        issues = LabelIssues(
            n_rows=inputs.grid.n_rows,
            n_classes=inputs.n_classes,
            found=found,
            estimated_num_issues=totals.estimated,
            confident_thresholds=thresholds,
            class_counts=sums.counts,
            mean_scores=class_means(sums if counts.scores is None else counts.scores.dense()),
            confident=totals.confident,
            score_parts=StoredScores(stage.group) if stage is not None else table.scores(),
            settings=self.filter.settings,
            facts=replace(self._facts(setup, scanned, totals.note), misfit=misfit),
            class_names=self._mapping.class_names,
            ids=self._ids,
            layout=self._layout,
        )
        if stage is not None:
            self._check_owned()
            stage.publish(issues)
        return issues

    def _check_fits(self, n_issues: int, fit: Fit) -> None:
        """Raise unless `n_issues` issues can be sorted in this process."""
        needed, room = n_issues * ISSUE_BYTES, self._room(fit)
        if needed > room:
            raise MemoryLimitError(
                f"the {n_issues:,} issues would take {size(needed)} in this process, but may take only {size(room)}. "
                "Write them to a file of any size with output='issues.zarr'"
            )

    def _facts(self, setup: _Setup, total: ScanTotals, note: str) -> RunFacts:
        passes, inputs, fit = setup.passes, setup.inputs, setup.fit
        forks = fit.n_processes if self.n_jobs > 1 and not self.executor.is_cluster and inputs.forkable else 0
        return RunFacts(
            bytes_read=(total.n_read + passes.n_rescanned + self._n_weighing * inputs.grid.n_rows)
            * inputs.read_row_bytes,
            n_reads=passes.n_reads + self._n_weighing,
            rows_read=total.n_read,
            rows_resumed=inputs.grid.n_rows - total.n_read,
            n_batches=inputs.grid.n_batches,
            n_partitions=inputs.grid.n_partitions,
            planned_bytes=fit.process_bytes,
            seconds=time.perf_counter() - self._started,
            scheduler=f"{forks} forked processes" if forks else self.executor.described,
            versions=loaded_versions(),
            notes=(
                *notes_of(self._placed(total.findings)),
                *(text for text in (note and f"{note}.", self._mapping.note) if text),
            ),
            inputs=self._places,
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            label_kind=self._mapping.label_kind,
        )

    def _check_scanned(self, total: ScanTotals) -> None:
        """Raise or warn if the rows that were read have bad data."""
        self._check_owned()
        check_versions(self.pair, self._attempts)  # first, because half-written rows would look like bad data
        counts = total.sums.dense().counts
        if not counts.any():
            n_rows, ignored = self.pair[1].shape[0], self.settings.ignore_label
            # A recorder knows by itself which rows have no label.
            are = "were recorded without one" if ignored is NOTHING else f"are {ignored!r}"
            raise InvalidInputError(f"no row has a label: all {n_rows:,} {are}")
        mapping = self._mapping
        describe = None if mapping.table is None else partial(retry, self._attempts, mapping.describe_unknown)
        raise_or_warn(self._placed(total.findings), self.pair[1].shape[1], self.settings.checks, counts, describe)

    def _placed(self, findings: Findings) -> Findings:
        """Return findings that name rows by their places, if rows are parts of larger things."""
        return findings if self._layout is None else findings.placed(self._layout.in_words)

    def _room(self, fit: Fit) -> int:
        """Return the bytes that issues may take if they are sorted in this process."""
        if self.executor.is_cluster:
            return int(free_bytes() * _CLIENT_SHARE)
        taken = self.executor.base_bytes + fit.need.partials + (0 if fit.stored else fit.need.summaries())
        return max(_FEW_ISSUE_BYTES, self.executor.limit - taken)

    def _check_margins(self, inputs: Inputs, fit: Fit, prune: PruneCounts) -> None:
        """Raise if the rows of largest margin do not fit in memory: their number is known only after counting.

        They may take what the plan has for them and what it leaves free. On a cluster the client holds all of them too.
        """
        planned = candidate_bytes(expected_issues(inputs.grid.n_rows), self.executor.n_threads)
        room = planned + self.executor.limit - fit.process_bytes
        if self.executor.is_cluster:
            room = min(room, int(free_bytes() * _CLIENT_SHARE))
        n_candidates = int(prune.by_pair.sum())
        needed = candidate_bytes(n_candidates, self.executor.n_threads)
        if needed > room:
            raise MemoryLimitError(
                f"the {n_candidates:,} rows of largest margin of all pairs would take {size(needed)}, but may take "
                f"only {size(max(0, room))}. These take less: fewer threads, a lower frac_noise, or "
                "filter_by='prune_by_class'"
            )

    def _run_room(self, inputs: Inputs, fit: Fit) -> int:
        """Return the bytes that each thread may take to sort issues: what the plan allows and what it leaves free.

        With more issues than planned the runs are larger, if there is memory for that: with many small runs each
        merging task would read only a few rows of each.
        """
        planned = run_rows(expected_issues(inputs.grid.n_rows)) * ISSUE_BYTES
        return planned + max(0, self.executor.limit - fit.process_bytes) // self.executor.n_threads

    def _check_shared(self, folder: Folder) -> None:
        """Raise unless all workers see the same folder as this process and can write to it."""
        if not self.executor.is_cluster:
            return
        with shared_probe(folder) as check:
            self.executor.check_reachable(check)

    def _temporary(self, stage: Stage | None, fit: Fit) -> Folder:
        """Return a temporary folder, in the output's or where Dask keeps temporary files."""
        if stage is not None:
            return stage.work
        path = tempfile.mkdtemp(prefix="labelsieve-", dir=temporary_folder())
        folder = LocalFolder(Path(path))
        # It exists as long as anything that reads from it: scores, issues, a lazy array.
        weakref.finalize(folder, shutil.rmtree, path, ignore_errors=True)
        try:
            self._check_shared(folder)
        except (UnreadableDataError, UnwritableError) as error:
            raise MemoryLimitError(
                f"row summaries take {size(fit.need.n_rows * fit.need.row)}, more than the workers can hold, and not "
                f"every worker can write to {path} of this machine ({error}): give a workdir that all workers can reach"
            ) from error
        return folder


def refuse_nested(workdir: str | os.PathLike[str], output: str | None) -> None:
    """Raise if publishing the output would replace the workdir."""
    if output is None:
        return
    folders = open_folder(workdir, "workdir"), open_folder(output)
    inner, outer = (
        f"{folder.path.resolve() if isinstance(folder, LocalFolder) else folder.where}/" for folder in folders
    )
    if inner.startswith(outer):
        raise InvalidInputError(
            f"the workdir {folders[0].where} is inside the output {folders[1].where}, which is replaced: move one"
        )
