"""The job of `find_label_issues`: it opens, plans, locks, runs and publishes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from labelsieve.confident_learning.checks import Finding, RowChecks, notes_of, raise_or_warn
from labelsieve.confident_learning.filters import Filter, chosen_filter
from labelsieve.confident_learning.joint import ConfidentCounts, JointCounts, PruneCounts
from labelsieve.confident_learning.matrices import entries_of
from labelsieve.confident_learning.misfit import RowSample, describe_misfit, may_not_fit
from labelsieve.confident_learning.summarize import ScanTotals
from labelsieve.confident_learning.thresholds import class_means
from labelsieve.errors import (
    InvalidInputError,
    MemoryLimitError,
    TaskFailedError,
    UnreadableDataError,
    UnwritableError,
    size,
    warn,
)
from labelsieve.execution.cluster import choose_executor
from labelsieve.execution.executor import LostDataError, free_bytes
from labelsieve.job.grid import arrays_of, candidate_bytes, expected_issues, partitions_by_array
from labelsieve.job.inputs import Inputs, on_grid, open_given, open_pair
from labelsieve.job.kept import Kept, digest
from labelsieve.job.passes import Passes, can_fork, resolve_n_jobs
from labelsieve.job.plan import Fit, Plan, check_cluster, fit_in_memory, make_plan
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
from labelsieve.options import NOTHING, IgnoreLabel, JobSettings
from labelsieve.results.label_issues import LabelIssues, load_rows
from labelsieve.results.result import IdParts, IssueParts, RunFacts, check_class_names, loaded_versions, open_ids
from labelsieve.results.store import ISSUE_BYTES, Stage, StoredScores, run_rows, staged
from labelsieve.results.units import Layout
from labelsieve.sources.composite import EnsembleSource, check_dtype
from labelsieve.sources.names import (
    FloatTable,
    NameTable,
    Table,
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
from labelsieve.sources.open import ArraySource, Opened, ignored_value, open_labels, where_is
from labelsieve.sources.source import Source
from labelsieve.storage.folder import Folder, LocalFolder, open_folder, shared_probe, temporary_folder


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

    Attributes
    ----------
    labels : Source or dask.array.Array
        ``(N,)`` classes.
    ignored : int or None
        The value of `labels` that says that a row has none; None if each row has one.
    needs_names : bool
        Whether labels have to be read for the names of the classes.
    label_kind : {"numbers", "names", "booleans"}
        What the labels are.
    """

    values: Opened
    ignore_label: IgnoreLabel
    table: Table | None
    class_names: tuple[str, ...] | None
    categories: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    note: str = ""

    labels: Opened = field(init=False)
    ignored: int | None = field(init=False)
    needs_names: bool = field(init=False)
    label_kind: str = field(init=False)

    def __post_init__(self) -> None:
        values, table, kind = self.values, self.table, "numbers"
        if isinstance(table, NameTable):
            # A list of True and False is an array of objects.
            listed = values.array if isinstance(values, ArraySource) and values.dtype.kind == "O" else ()
            first = next((value for value in listed if not is_missing(value)), None)
            kind = "booleans" if values.dtype.kind == "b" or isinstance(first, bool | np.bool_) else "names"
        vars(self).update(
            labels=values if table is None else mapped(values, table),
            ignored=ignored_value(values, self.ignore_label) if table is None else table.ignored,
            needs_names=isinstance(table, NameTable) and not table.names,
            label_kind=kind,
        )

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
class Given:
    """What a job was given, opened once.

    Parameters
    ----------
    mapping : LabelMapping
        The labels.
    pred_probs : Source or dask.array.Array
        The probabilities.
    rule : Filter
        The filter.
    ids : IdParts or None
        The user's names of rows.
    n_weighing : int
        Number of reads so far that weighed the members of an ensemble.
    """

    mapping: LabelMapping
    pred_probs: Opened
    rule: Filter
    ids: IdParts | None
    n_weighing: int = 0


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
        self.started, self.settings, self.layout = time.perf_counter(), settings, layout
        self.attempts = settings.retries + 1
        self.rule = chosen_filter(settings)
        self.checks = RowChecks.of(
            allow_zero_rows=settings.allow_zero_rows, allow_unnormalized_rows=settings.allow_unnormalized_rows
        )
        joint = settings.confident_joint
        if joint is not None and not self.rule.prunes:
            raise InvalidInputError(f"filter_by={self.rule.name!r} does not use confident_joint")
        is_counted = joint is None or isinstance(joint, ConfidentCounts)
        # The joint of the user that the filters that prune use in place of their own.
        self.given_joint = joint if is_counted else entries_of("confident_joint", joint).counts()
        self.n_jobs = resolve_n_jobs(settings.n_jobs, verbose=settings.progress is not False)
        self.output = None if settings.output is None else os.fspath(settings.output)
        self.executor = choose_executor(settings.client, settings.max_memory, settings.retries, refuse=False)
        self.given = self._open(labels, pred_probs, named=named)

    def _open(self, labels: Any, pred_probs: Any, *, named: bool) -> Given:
        """Open what the user gave; only headers are read."""
        settings = self.settings
        ids = settings.ids
        if not settings.data is settings.summaries is settings.n_classes is None:
            limit = free_bytes() if self.executor.is_cluster else self.executor.limit
            labels, pred_probs, ids = open_given(labels, pred_probs, settings, limit)
        values, opened = open_pair(
            *(labels, pred_probs, settings.class_names, ids),
            attempts=self.attempts,
            from_logits=settings.from_logits,
            allow_zero_rows=settings.allow_zero_rows,
            dtype=None if settings.dtype is None else check_dtype(settings.dtype),
            open_as=partial(open_label_values, ignore_label=settings.ignore_label) if named else open_labels,
        )
        rule = self.rule
        if isinstance(opened, Source):
            opened, rule = opened.prepared_for(rule)
        n_rows, n_classes = opened.shape
        names = None if settings.class_names is None else check_class_names(settings.class_names, n_classes)
        kind, ignore_label = values.dtype.kind, settings.ignore_label
        if kind in "iu":
            mapping = LabelMapping(values, ignore_label, None, names)
        elif kind == "f":
            mapping = LabelMapping(values, ignore_label, FloatTable(), names)
        else:
            table, stated = _name_table(names or (), ignore_label), (category_names(labels), column_names(pred_probs))
            mapping = LabelMapping(values, ignore_label, table, names, *stated)
        found_ids = None if ids is None else open_ids(ids, n_rows, self.layout)
        rule.check_classes(n_classes)
        joint = self.given_joint
        if joint is not None and joint.n_classes != n_classes:
            raise InvalidInputError(f"confident_joint has {joint.n_classes:,} classes, pred_probs {n_classes:,}")
        return Given(mapping, opened, rule, found_ids)

    def run(self) -> LabelIssues:
        """Find the issues, and publish the result last."""
        issues = self._attempt(_Run.find)
        return issues if self.output is None else load_rows(self.output)

    def count(self) -> JointCounts:
        """Count the confident joint in two passes, and select nothing."""
        return self._attempt(_Run.count)

    def plan(self) -> Plan:
        """Plan the run, and check its cluster. Only for weights of an ensemble in a workdir all data is read."""
        workdir, facts, given = None, dict[str, Any](), self.given
        if self.settings.workdir is not None:
            workdir, given = self._workdir(self.settings.workdir), self._weighed(given)
            for opened in (given.mapping.labels, given.pred_probs):
                if isinstance(opened, Source):
                    retry(self.attempts, opened.note_version)
            facts = facts_of_workdir(given, self.settings)
        inputs, fit = self._fit(given, workdir, facts)
        plan = make_plan(fit, inputs, given.rule, self.executor)
        if workdir is not None:
            parts = parts_of_workdir(given, workdir, facts, inputs)
            known, others = workdir.committed_rows(*parts, inputs.grid.partition_rows)
            row_bytes = inputs.n_bytes // inputs.grid.n_rows
            plan = replace(
                plan,
                known_rows=known,
                known_bytes=known * row_bytes,
                unconfirmed_rows=others,
                unconfirmed_bytes=others * row_bytes,
            )
        if hasattr(self.executor, "ask"):  # workers run
            folders = {
                "workdir": None if workdir is None else workdir.folder,
                "output": None if self.output is None else open_folder(self.output),
            }
            plan = replace(plan, problems=tuple(check_cluster(self.executor, inputs, folders)))
        return plan

    def _attempt(self, steps: Callable[[_Run], _T]) -> _T:
        """Prepare and take `steps`; start again if a worker was lost that held arrays of this process."""
        if self.executor.misfits:
            raise TaskFailedError(self.executor.misfits[0].sentence)
        given = self.given
        pair = given.mapping.labels, given.pred_probs
        note_versions(pair, self.attempts, allow_zero_rows=self.settings.allow_zero_rows)
        if given.mapping.needs_names:
            given = replace(given, mapping=retry(self.attempts, given.mapping.learned, given.pred_probs))
        if isinstance(given.pred_probs, EnsembleSource):
            given = self._weighed(given)
        for attempt in range(self.attempts):
            with ExitStack() as stack:
                run = self._begin(stack, given)
                try:
                    return steps(run)
                except LostDataError:
                    if attempt + 1 == self.attempts or not run.inputs.in_memory:
                        raise
                except UnwritableError as error:
                    if self.settings.workdir is None or run.kept.records is None:
                        raise
                    kept = (
                        f"what is finished stays in the workdir {run.kept.records.folder.where}, and a new run uses it"
                    )
                    raise UnwritableError(f"{error}; {kept}") from error
        raise RuntimeError("there is at least one attempt")

    def _weighed(self, given: Given) -> Given:
        """Read the members of an ensemble that are weighted by their accuracy."""
        mapping, pred_probs = given.mapping, given.pred_probs
        if not isinstance(pred_probs, EnsembleSource) or pred_probs.weights != "accuracy":
            return given
        weights = member_accuracies(mapping.labels, pred_probs, self.executor, self.checks, mapping.ignored)
        return replace(given, pred_probs=pred_probs.with_weights(weights), n_weighing=1)

    def _workdir(self, place: str | os.PathLike[str], stack: ExitStack | None = None) -> Workdir:
        """Open the workdir, and own it until `stack` ends."""
        settings = self.settings
        refuse_nested(place, self.output)
        if stack is None:
            return Workdir.peek(place, fresh=settings.fresh)
        return stack.enter_context(Workdir.open(place, fresh=settings.fresh, wait=settings.wait))

    def _fit(self, given: Given, workdir: Workdir | None, facts: Mapping[str, Any]) -> tuple[Inputs, Fit]:
        """Return the inputs on a grid, and how the run fits in memory; raise if it cannot.

        The grid keeps the partitions of an earlier run in the workdir.
        """
        earlier = None
        if workdir is not None:
            earlier = workdir.earlier_partitions(facts, [place for place, _ in arrays_of(given.pred_probs)])
        inputs = on_grid(
            given.mapping.labels,
            given.pred_probs,
            batch_size=self.settings.batch_size,
            partition_batches=self.settings.partition_batches,
            n_jobs=self.n_jobs,
            executor=self.executor,
            earlier=earlier,
            ignored=given.mapping.ignored,
        )
        stores = {"workdir": workdir is not None, "output": self.output is not None}
        return inputs, fit_in_memory(inputs, given.rule, self.executor, **stores, n_jobs=self.n_jobs)

    def _begin(self, stack: ExitStack, given: Given) -> _Run:
        """Plan the run, lock its workdir and output, and check that all workers can reach what they need."""
        settings, executor = self.settings, self.executor
        workdir = None if settings.workdir is None else self._workdir(settings.workdir, stack)
        facts = {} if workdir is None else facts_of_workdir(given, settings)
        inputs, fit = self._fit(given, workdir, facts)
        if executor.is_cluster:
            executor.check_reachable(inputs.reachability())
        if inputs.labels_first:
            inputs = retry(self.attempts, inputs.read_labels)
        stage = None if self.output is None else stack.enter_context(staged(self.output, settings.wait))
        check_owned: Callable[[], None] = (lambda: None) if workdir is None else workdir.check_owned
        records = None
        if workdir is not None:
            partitions = partitions_by_array(given.pred_probs, inputs.grid)
            compare = partial(compare_labels, inputs, executor)
            parts = parts_of_workdir(given, workdir, facts, inputs)
            records = workdir.begin(facts, partitions, *parts, compare)
        elif fit.stored:
            workdir = Workdir(self._temporary(stage, fit))
            names = [f"{number:032x}" for number in range(inputs.grid.n_partitions)]
            records = workdir.begin({"run": uuid.uuid4().hex}, {}, names, [""] * len(names))
        if stage is not None:
            self._check_shared(stage.work)
        if workdir is not None and records is not None:
            self._check_shared(records.folder)
            check_finished(inputs, given.rule.settings, executor, records, workdir.finished)
        forks = self.n_jobs > 1 and can_fork(inputs, self.n_jobs, is_cluster=executor.is_cluster)
        finished = () if workdir is None else workdir.finished
        kept = Kept(executor, records, in_memory=not fit.stored, finished=finished)
        # A single partition is read in this process anyway.
        n_forks = self.n_jobs if forks and inputs.grid.n_partitions > 1 else 0
        return _Run(self, given, inputs, fit, kept, stage, check_owned, n_forks)

    def _check_shared(self, folder: Folder) -> None:
        """Raise unless all workers see the same folder as this process and can write to it."""
        if self.executor.is_cluster:
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


class _Run(Passes):
    """The passes of a job that is planned and has locked what it writes to, and what it checks in between.

    Parameters
    ----------
    job : Job
        The job.
    given : Given
        What it was given, with the names and weights that were read first.
    inputs : Inputs
        The same on a grid.
    fit : Fit
        How the run fits in memory.
    kept : Kept
        Where row summaries live.
    stage : Stage or None
        Where its output is made.
    check_owned : callable
        Raises if another run has taken over the workdir.
    n_forks : int
        Number of processes to fork for the first pass.
    """

    def __init__(
        self,
        job: Job,
        given: Given,
        inputs: Inputs,
        fit: Fit,
        kept: Kept,
        stage: Stage | None,
        check_owned: Callable[[], None],
        n_forks: int,
    ) -> None:
        checks, show = job.checks, job.settings.progress
        super().__init__(inputs, given.rule, job.executor, kept, accepted=checks, show=show, n_forks=n_forks)
        self.job, self.given, self.fit, self.stage, self._check_owned = job, given, fit, stage, check_owned

    def find(self) -> LabelIssues:
        """Find, sort and publish."""
        inputs, stage, rule, given = self.inputs, self.stage, self.rule, self.given
        found = self.run(self.job.given_joint, exactly=stage is not None)
        self._check_owned()
        issues: IssueParts
        if stage is not None:
            stage.clear()
            issues = found.table.write(found.selected, rule, stage.group, stage.work, self._run_room())
        else:
            self._check_fits(found.selected.n_rows * ISSUE_BYTES, found.selected.n_rows)
            issues = found.table.sorted_issues(found.selected, rule)
        scores = found.counts.scores
        result = LabelIssues(
            n_rows=inputs.grid.n_rows,
            n_classes=inputs.n_classes,
            found=issues,
            estimated_num_issues=found.totals.estimated,
            confident_thresholds=found.thresholds,
            class_counts=found.sums.counts,
            mean_scores=class_means(found.sums if scores is None else scores.dense()),
            confident=found.totals.confident,
            score_parts=StoredScores(stage.group) if stage is not None else found.table.scores(),
            settings=rule.settings,
            facts=self._facts(found.scanned, found.totals.note, found.misfit),
            class_names=given.mapping.class_names,
            ids=given.ids,
            layout=self.job.layout,
        )
        if stage is not None:
            self._check_owned()
            stage.publish(result)
        return result

    # What is checked between the passes ------------------------------------------------------------------------------

    def check_scanned(self, totals: ScanTotals) -> None:
        """Raise or warn if the rows that were read have bad data."""
        self._check_owned()
        self.check_read()  # first, because half-written rows would look like bad data
        counts, settings, layout = totals.sums.dense().counts, self.job.settings, self.job.layout
        if not counts.any():
            # A recorder knows by itself which rows have no label.
            ignored = settings.ignore_label
            are = "were recorded without one" if ignored is NOTHING else f"are {ignored!r}"
            raise InvalidInputError(f"no row has a label: all {self.inputs.grid.n_rows:,} {are}")
        mapping, findings = self.given.mapping, totals.findings
        if findings:
            describe = None if mapping.table is None else partial(retry, self.job.attempts, mapping.describe_unknown)
            findings = findings if layout is None else findings.placed(layout.in_words)
            raise_or_warn(findings, self.inputs.n_classes, self.job.checks, counts, describe)

    def check_fit(self, totals: ScanTotals, confident: ConfidentCounts) -> str:
        """Warn if labels and predictions do not seem to belong together; return the text of the warning, or ""."""
        source, sums = self.inputs.pred_probs_source, totals.sums.dense()
        text = None if source is None else source.describe_misfit(sums)  # some sources have a check of their own
        if text is None:
            if not may_not_fit(totals.agreement, sums.counts, confident):
                return ""
            table, sample = self.first_table(), RowSample(int(sums.counts.sum()))
            text = describe_misfit(*table.sampled_classes(sample), table.n_classes, sample.n_rows, sample.window)
        if text:
            warn(text)
        return text

    def check_margins(self, prune: PruneCounts) -> None:
        """Raise if the rows of largest margin do not fit in memory: their number is known only after counting.

        They may take what the plan has for them and what it leaves free. On a cluster the client holds all of them too.
        """
        executor = self.job.executor
        planned = candidate_bytes(expected_issues(self.inputs.grid.n_rows), executor.n_threads)
        room = planned + executor.limit - self.fit.process_bytes
        if executor.is_cluster:
            room = min(room, int(free_bytes() * _CLIENT_SHARE))
        n_candidates = int(prune.by_pair.sum())
        needed = candidate_bytes(n_candidates, executor.n_threads)
        if needed > room:
            raise MemoryLimitError(
                f"the {n_candidates:,} rows of largest margin of all pairs would take {size(needed)}, but may take "
                f"only {size(max(0, room))}. These take less: fewer threads, a lower frac_noise, or "
                "filter_by='prune_by_class'"
            )

    def check_read(self) -> None:
        """Raise if an input has changed since the run began."""
        check_versions((self.given.mapping.labels, self.given.pred_probs), self.job.attempts)

    def _check_fits(self, n_bytes: int, n_issues: int) -> None:
        """Raise unless `n_issues` issues of `n_bytes` bytes can be sorted in this process."""
        executor, need = self.executor, self.fit.need
        if executor.is_cluster:
            room = int(free_bytes() * _CLIENT_SHARE)
        else:
            taken = executor.base_bytes + need.partials + (0 if self.fit.stored else need.summaries())
            room = max(_FEW_ISSUE_BYTES, executor.limit - taken)
        if n_bytes > room:
            raise MemoryLimitError(
                f"the {n_issues:,} issues would take {size(n_bytes)} in this process, but may take only "
                f"{size(room)}. Write them to a file of any size with output='issues.zarr'"
            )

    def _run_room(self) -> int:
        """Return the bytes that each thread may take to sort issues: what the plan allows and what it leaves free.

        With more issues than planned the runs are larger, if there is memory for that: with many small runs each
        merging task would read only a few rows of each.
        """
        executor = self.job.executor
        planned = run_rows(expected_issues(self.inputs.grid.n_rows)) * ISSUE_BYTES
        return planned + max(0, executor.limit - self.fit.process_bytes) // executor.n_threads

    def _facts(self, total: ScanTotals, note: str, misfit: str) -> RunFacts:
        job, inputs, given = self.job, self.inputs, self.given
        forks = self.fit.n_processes if job.n_jobs > 1 and not job.executor.is_cluster and inputs.forkable else 0
        findings = total.findings if job.layout is None else total.findings.placed(job.layout.in_words)
        n_rows = inputs.grid.n_rows
        return RunFacts(
            bytes_read=(total.n_read + self.n_rescanned + given.n_weighing * n_rows) * inputs.read_row_bytes,
            n_reads=self.n_reads + given.n_weighing,
            rows_read=total.n_read,
            rows_resumed=n_rows - total.n_read,
            n_batches=inputs.grid.n_batches,
            n_partitions=inputs.grid.n_partitions,
            planned_bytes=self.fit.process_bytes,
            seconds=time.perf_counter() - job.started,
            scheduler=f"{forks} forked processes" if forks else job.executor.described,
            versions=loaded_versions(),
            notes=(*notes_of(findings), *(text for text in (note and f"{note}.", given.mapping.note) if text)),
            inputs={"labels": where_is(given.mapping.values), "pred_probs": where_is(given.pred_probs)},
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            label_kind=given.mapping.label_kind,
            misfit=misfit,
        )


def facts_of_workdir(given: Given, settings: JobSettings) -> dict[str, Any]:
    """Return the facts that all runs in one workdir have in common."""
    return fingerprint(
        given.pred_probs,
        asdict(given.rule.settings)
        | {
            "allow_zero_rows": settings.allow_zero_rows,
            "allow_unnormalized_rows": settings.allow_unnormalized_rows is True,
        },
    )


def parts_of_workdir(
    given: Given, workdir: Workdir, facts: Mapping[str, Any], inputs: Inputs
) -> tuple[list[str], list[str]]:
    """Return the name of the record, and the identity of the labels, of each partition."""
    names, ignored = record_names(given.pred_probs, inputs.grid, facts, workdir.folder.where), given.mapping.ignored
    of_labels = part_identities(given.mapping.labels, inputs.grid)
    return names, of_labels if ignored is None else [one and digest([one, ignored]) for one in of_labels]


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
