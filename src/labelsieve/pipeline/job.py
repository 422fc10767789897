"""The steps of a run, and the places where it keeps what it makes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from labelsieve.confident_learning.pruning import JointCounts, with_diagonal
from labelsieve.confident_learning.thresholds import class_means, class_sums_finalize
from labelsieve.confident_learning.validation import RowChecks, notes_of, raise_or_warn
from labelsieve.errors import InvalidInputError, MemoryLimitError, UnreadableDataError, UnwritableError
from labelsieve.execution.executor import Executor, LostDataError
from labelsieve.execution.graphs import tried
from labelsieve.memory import ISSUE_BYTES, candidate_bytes, expected_issues, free_bytes, run_rows, size
from labelsieve.partitioning import Auto
from labelsieve.pipeline import fork_pool
from labelsieve.pipeline.filters import check_fit, check_settings, choose, known_counts
from labelsieve.pipeline.fingerprint import check_versions, fingerprint, note_versions, part_identities
from labelsieve.pipeline.inputs import Inputs
from labelsieve.pipeline.opening import open_inputs, open_pair
from labelsieve.pipeline.plan import Plan, make_plan
from labelsieve.pipeline.run import Run
from labelsieve.pipeline.selecting import Selected
from labelsieve.pipeline.spot_check import check_finished
from labelsieve.pipeline.workdir import Workdir
from labelsieve.results import export
from labelsieve.results.export import Stage
from labelsieve.results.label_issues import LabelIssues
from labelsieve.results.result import IssueParts, RunFacts, loaded_versions
from labelsieve.results.row_ids import ArrayIds, check_class_names, open_ids
from labelsieve.results.zarr_store import ResultGroup, StoredIds, StoredIssues, StoredScores, open_group, publish_result
from labelsieve.settings import Settings
from labelsieve.sources.open_array import Opened, where_is
from labelsieve.storage.folders import Folder, LocalFolder, open_folder, temporary_folder
from labelsieve.tasks.checkpoint import Records
from labelsieve.tasks.partials import Partial

# Issues are put in order in one place up to this many bytes, or what is left of a limit.
_FEW_ISSUE_BYTES: Final = 32_000_000
# Share of the free memory that a client of a cluster may take for that.
_CLIENT_SHARE: Final = 0.5


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Begun:
    """A run that is ready to read, and the places where it keeps what it makes."""

    run: Run
    pair: tuple[Opened, Opened]
    inputs: Inputs
    plan: Plan
    records: Records | None
    stage: Stage | None


@dataclass
class Job:
    """A run, with the choices of `find_label_issues`.

    Parameters
    ----------
    labels, pred_probs : object
        As given.
    settings : Settings
        What changes the answer.
    executor : Executor
        Who runs the tasks.
    checks : RowChecks
        Which rows that cannot be a distribution are accepted.
    batch_size, partition_batches, n_jobs, workdir, fresh, output, class_names, ids, wait
        As in `find_label_issues`.
    """

    labels: Any
    pred_probs: Any
    settings: Settings
    executor: Executor
    batch_size: int | Auto
    partition_batches: int | Auto
    n_jobs: int
    checks: RowChecks
    workdir: str | os.PathLike[str] | None = None
    fresh: bool = False
    output: str | None = None
    class_names: Sequence[str] | None = None
    ids: Any = None
    wait: float = 0

    def __post_init__(self) -> None:
        self._attempts = self.executor.retries + 1  # to read what cannot be read
        self._check_owned: Callable[[], None] = lambda: None  # of the workdir, once there is one
        self._names: tuple[str, ...] | None = None
        self._ids: ArrayIds | None = None
        self._places: dict[str, str] = {}

    def run(self, progress: bool | None, started: float) -> LabelIssues:
        """Run all steps, and publish the result last."""
        pair = self._open_pair()
        n_rows, n_classes = pair[1].shape
        self._places = {"labels": where_is(pair[0]), "pred_probs": where_is(pair[1])}
        self._names, self._ids = check_class_names(self.class_names, n_classes), open_ids(self.ids, n_rows)
        check_settings(self.settings, n_classes)
        issues = self._attempted(pair, progress, partial(self._steps, started=started))
        if self.output is not None:  # it has moved to its place
            group, _ = open_group(open_folder(self.output))
            found = StoredIssues(group, issues.num_issues)
            ids = None if issues.ids is None else StoredIds(group)
            issues = replace(issues, found=found, score_parts=StoredScores(group), ids=ids)
        return issues

    def _open_pair(self) -> tuple[Opened, Opened]:
        return open_pair(self.labels, self.pred_probs, self.class_names, self.ids, attempts=self._attempts)

    def count(self, progress: bool | None) -> JointCounts:
        """Read twice and count the confident joint, and no more."""
        pair = self._open_pair()
        return self._attempted(pair, progress, self._count)

    def _count(self, begun: _Begun) -> JointCounts:
        total = self._read(begun)
        sums = total.sums.dense()
        looked = begun.run.reread(class_sums_finalize(sums))
        check_versions(begun.pair, self._attempts)
        if looked is None or looked.joint is None:
            raise RuntimeError("the settings of a count ask for the confident joint")
        check_fit(begun.run, total, looked.joint)
        return JointCounts(with_diagonal(looked.joint), looked.n_off, sums.counts)

    def _attempted(self, pair: tuple[Opened, Opened], progress: bool | None, steps: Callable[[_Begun], _T]) -> _T:
        """Return what `steps` make of a run; again where arrays in memory were lost with the worker that held them."""
        note_versions(pair, self._attempts, allow_zero_rows=self.checks.allow_zero_rows)
        for attempt in range(self._attempts):
            with ExitStack() as stack:
                begun = self._begin(pair, stack, progress)
                try:
                    return steps(begun)
                except LostDataError:
                    if attempt + 1 == self._attempts or not begun.inputs.in_memory:
                        raise
                except UnwritableError as error:
                    if self.workdir is None or begun.records is None:
                        raise
                    kept = f"what is finished stays in the workdir {begun.records.folder.where}, and a new run uses it"
                    raise UnwritableError(f"{error}; {kept}") from error
        raise RuntimeError("there is at least one attempt")

    def plan(self) -> Plan:
        """Plan the run; nothing is read, owned or made."""
        pair, workdir = self._open_pair(), None
        check_settings(self.settings, pair[1].shape[1])
        if self.workdir is not None:
            self._refuse_nested()
            workdir = Workdir.peek(self.workdir, fresh=self.fresh)
        inputs = self._open(workdir, pair, {} if workdir is None else self._fingerprint(workdir, pair))
        self.executor.check_reachable(inputs.reachability())
        return self._plan(inputs)

    def _refuse_nested(self) -> None:
        if self.workdir is not None and self.output is not None:
            _refuse_nested(open_folder(self.workdir, "workdir"), open_folder(self.output))

    def _open(self, workdir: Workdir | None, pair: tuple[Opened, Opened], facts: dict[str, Any]) -> Inputs:
        """Open the inputs on the grid of the run that goes on, or on a new one."""
        return open_inputs(
            *pair,
            batch_size=self.batch_size,
            partition_batches=self.partition_batches,
            n_jobs=self.n_jobs,
            executor=self.executor,
            read=False,
            grid=None if workdir is None else workdir.grid(facts, pair[1].shape[0]),
        )

    def _plan(self, inputs: Inputs) -> Plan:
        stores = {"workdir": self.workdir is not None, "output": self.output is not None}
        return make_plan(inputs, self.settings, self.executor, **stores, n_jobs=self.n_jobs)

    def _begin(self, pair: tuple[Opened, Opened], stack: ExitStack, progress: bool | None) -> _Begun:
        """Plan, and make ready a run with what is kept in the workdir, or in a temporary one."""
        workdir = None
        if self.workdir is not None:
            self._refuse_nested()
            workdir = stack.enter_context(Workdir.open(self.workdir, fresh=self.fresh, wait=self.wait))
            self._check_owned = workdir.check_owned
        facts = {"run": uuid.uuid4().hex} if workdir is None else self._fingerprint(workdir, pair)
        inputs = self._open(workdir, pair, facts)
        self.executor.check_reachable(inputs.reachability())
        plan = self._plan(inputs)
        inputs = tried(self._attempts, inputs.read_labels)
        stage = None if self.output is None else stack.enter_context(export.staged(self.output, self.wait))
        identities: list[str] = []
        if workdir is not None:
            identities = part_identities(pair, inputs)
        elif plan.stored:
            workdir = Workdir(self._temporary(stage, plan))
        records = None if workdir is None else workdir.begin(facts, inputs.grid, identities)
        if stage is not None:
            self._check_shared(stage.work)
        if records is not None:
            self._check_shared(records.folder)
        if workdir is not None and records is not None:
            check_finished(inputs, self.settings, self.executor, records, workdir.finished["summaries"])
        run = Run(
            inputs,
            self.settings,
            self.executor,
            records,
            progress,
            keep=not plan.stored,
            checks=self.checks,
            finished=None if workdir is None else workdir.finished,
        )
        return _Begun(run, pair, inputs, plan, records, stage)

    def _steps(self, begun: _Begun, started: float) -> LabelIssues:
        """Read, count, rank, and write what is to be written."""
        run, inputs, plan, stage = begun.run, begun.inputs, begun.plan, begun.stage
        total = self._read(begun)
        sums = total.sums.dense()
        thresholds = class_sums_finalize(sums)
        looked = run.reread(thresholds)
        counted = run.count(thresholds)
        known = known_counts(counted, looked, sums.counts, self.settings)
        misfit = check_fit(run, total, known.confident)
        # In memory the lowest scores are sorted once more, so a few too many do no harm.
        exactly = stage is not None or not self._fits(known.estimated, inputs, plan)
        chosen = choose(run, known, exactly=exactly, room=self._candidate_room(inputs, plan))
        if run.n_reads > 1:
            check_versions(begun.pair, self._attempts)
        found = self._rank(begun, chosen)
        issues = LabelIssues(
            n_rows=inputs.grid.n_rows,
            n_classes=inputs.n_classes,
            found=found,
            estimated_num_issues=known.estimated,
            confident_thresholds=thresholds,
            class_counts=sums.counts,
            mean_scores=class_means(sums if counted.scores is None else counted.scores.dense()),
            confident=known.confident,
            score_parts=StoredScores(stage.group) if stage is not None else run.scores(),
            settings=self.settings,
            facts=replace(self._facts(begun, total, known.note, started), misfit=misfit),
            class_names=self._names,
            ids=self._ids,
        )
        if stage is not None:
            if self._ids is not None:
                stage.group.write_ids(self._ids, StoredIssues(stage.group, len(found)))
            self._check_owned()
            stage.check_owned()
            publish_result(stage.group, issues)
        return issues

    def _rank(self, begun: _Begun, chosen: Selected) -> IssueParts:
        """Return the issues: in memory, or where the tasks write them."""
        run, inputs, plan, records, stage = begun.run, begun.inputs, begun.plan, begun.records, begun.stage
        self._check_owned()
        if stage is not None:
            stage.clear()
            return run.write(chosen, stage.group, stage.work, self._run_room(inputs, plan), rows_too=True)
        if self._fits(chosen.n_rows, inputs, plan):
            return run.select(chosen)
        scratch = self._temporary(None, plan) if records is None else records.folder
        scratch.remove("result")
        # A name of its own: of a result that a later run in the workdir has removed nothing is read any more.
        group = ResultGroup(scratch.folder("result").folder(uuid.uuid4().hex))
        return run.write(chosen, group, scratch, self._run_room(inputs, plan), rows_too=False)

    def _fits(self, n_issues: int, inputs: Inputs, plan: Plan) -> bool:
        """Tell whether so many issues can be put in order in this process."""
        return n_issues * ISSUE_BYTES <= self._room(inputs, plan)

    def _facts(self, begun: _Begun, total: Partial, note: str, started: float) -> RunFacts:
        run, inputs, plan = begun.run, begun.inputs, begun.plan
        forks = plan.n_processes if self.n_jobs > 1 and not self.executor.is_cluster and inputs.forkable else 0
        return RunFacts(
            bytes_read=(total.n_read + run.n_reread) * inputs.n_classes * inputs.dtype.itemsize,
            n_reads=run.n_reads,
            rows_read=total.n_read,
            rows_resumed=inputs.grid.n_rows - total.n_read,
            n_batches=inputs.grid.n_batches,
            n_partitions=inputs.grid.n_partitions,
            planned_bytes=plan.process_bytes,
            seconds=time.perf_counter() - started,
            scheduler=f"{forks} forked processes" if forks else self.executor.described,
            versions=loaded_versions(),
            notes=notes_of(total.findings) + ((f"{note}.",) if note else ()),
            inputs=self._places,
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        )

    def _read(self, begun: _Begun) -> Partial:
        """Read all rows once, and raise for what is wrong with them."""
        run, inputs = begun.run, begun.inputs
        forks = fork_pool.can_fork(inputs, self.n_jobs, is_cluster=self.executor.is_cluster)
        if forks and inputs.grid.n_partitions > 1:  # one would be read here anyway, without another attempt
            with run.reading() as bar:
                total = run.adopt(fork_pool.each_partition(inputs, run.summarise, self.n_jobs, advance=bar.advance))
        else:
            total = run.read()
        self._check_owned()
        check_versions(begun.pair, self._attempts)  # before what is odd about half-written rows is reported
        raise_or_warn(total.findings, inputs.n_classes, self.checks, total.sums.dense().counts)
        return total

    def _room(self, inputs: Inputs, plan: Plan) -> int:
        """Return the bytes that issues may take where they are put in order in this process."""
        if self.executor.is_cluster:
            return int(free_bytes() * _CLIENT_SHARE)
        need = inputs.need(self.settings)
        taken = self.executor.base_bytes + need.partials + (0 if plan.stored else need.summaries())
        return max(_FEW_ISSUE_BYTES, self.executor.limit - taken)

    def _candidate_room(self, inputs: Inputs, plan: Plan) -> int:
        """Return the bytes that each process may take for rows of largest margin: those planned for, and what is left.

        On a cluster this process holds all of them too.
        """
        planned = candidate_bytes(expected_issues(inputs.grid.n_rows), self.executor.n_threads)
        room = planned + self.executor.limit - plan.process_bytes
        return min(room, int(free_bytes() * _CLIENT_SHARE)) if self.executor.is_cluster else room

    def _run_room(self, inputs: Inputs, plan: Plan) -> int:
        """Return the bytes that each thread may take for the issues that it sorts: those planned for, and what is left.

        More issues than planned are sorted in larger runs where there is room for that: of many small ones each merging
        task would read a few rows.
        """
        planned = run_rows(expected_issues(inputs.grid.n_rows)) * ISSUE_BYTES
        return planned + max(0, self.executor.limit - plan.process_bytes) // self.executor.n_threads

    def _fingerprint(self, workdir: Workdir, pair: tuple[Opened, Opened]) -> dict[str, Any]:
        """Return what tells this run from another."""
        settings = asdict(self.settings) | self.checks.flags()
        return fingerprint(pair, settings, workdir.folder.where)

    def _check_shared(self, folder: Folder) -> None:
        """Raise unless all who run tasks see the same folder as this process, and can write in it."""
        if not self.executor.is_cluster:
            return
        name = f".probe-{uuid.uuid4().hex}"
        folder.write(name, b"")
        try:
            self.executor.check_reachable(partial(_meet, folder, name))
        finally:
            folder.remove(name)

    def _temporary(self, stage: Stage | None, plan: Plan) -> Folder:
        """Return a folder for what fits nowhere else; beside the output, or where Dask keeps temporary files."""
        if stage is not None:
            return stage.work
        path = tempfile.mkdtemp(prefix="labelsieve-", dir=temporary_folder())
        folder = LocalFolder(Path(path))
        # It lasts as long as anything that reads from it: scores, issues, a lazy array.
        weakref.finalize(folder, shutil.rmtree, path, ignore_errors=True)
        try:
            self._check_shared(folder)
        except (UnreadableDataError, UnwritableError) as error:
            raise MemoryLimitError(
                f"row summaries take {size(plan.summary_bytes)}, more than the workers hold, and not every worker can "
                f"write to {path} here ({error}): give a workdir that all reach"
            ) from error
        return folder


def _refuse_nested(workdir: Folder, output: Folder) -> None:
    """Raise where publishing the output would replace the workdir."""
    inner, outer = (
        f"{folder.path.resolve() if isinstance(folder, LocalFolder) else folder.where}/" for folder in (workdir, output)
    )
    if inner.startswith(outer):
        raise InvalidInputError(
            f"the workdir {workdir.where} lies where the output {output.where} will be: move either"
        )


def _meet(folder: Folder, name: str) -> None:
    """Read what the client has written, which no folder of that name elsewhere holds, and write beside it."""
    folder.read(name)
    mine = f".probe-{uuid.uuid4().hex}"
    folder.write(mine, b"")
    folder.remove(mine)
