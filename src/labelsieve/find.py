"""`find_label_issues` and `plan_label_issues`: filters, how a run works, inputs and clusters.

## Which rows are issues

Confident learning counts, for each given label and each class, the rows that are confidently predicted as the class.
The *threshold* of a class is its mean probability over the rows labelled with it. There are two rules for counting:

- By the **predicted class** (the default, as in cleanlab's batched module): a row is counted as its predicted class if
  it reaches the threshold of that class. It is off the diagonal if that class is not its label.
- By the **confident joint** (the exact rule, as in cleanlab's in-memory functions): a row is counted as the class whose
  threshold it reaches, or as the predicted class if it reaches several.

Without `filter_by` a run reads `pred_probs` once. Each filter of cleanlab's ``filter.find_label_issues`` (2.9) is
available at any size:

| `filter_by` | The issues | Reads |
|---|---|---|
| None | the rows of lowest score, as many as the first rule counts, except rows whose label is predicted | 1 |
| `low_self_confidence`, `low_normalized_margin` | the rows of lowest such score, as many as the exact rule counts | 2 |
| `confident_learning` | the rows that the exact rule counts | 2 |
| `predicted_neq_given` | all rows whose label is not the predicted class | 1 |
| `prune_by_class` | for each label, the rows least likely to have it, as many as the calibrated joint expects | 2 |
| `prune_by_noise_rate` | for each label and class, the rows of largest margin, as many as that joint expects | 3 |
| `both` | the rows that the last two agree on | 3 |

``labelsieve plan`` prints the number of reads. The calibrated joint scales the counts to all rows of a label, so the
filters that prune take more rows than are counted. Those with three reads keep the rows of all pairs in memory, 100
bytes per row and as many per thread; a run that would not fit is refused.

On the command line these are ``--filter-by``, ``--rank-by`` (the score that sorts the issues), ``--frac-noise``,
``--num-to-remove-per-class`` and ``--min-examples-per-class``. `LabelInspector` and `find_label_issues_batched` count
exactly with ``num_issue_kwargs={"rule": "confident_joint"}``.

As in cleanlab, `num_to_remove_per_class` takes that number of rows with each label in `prune_by_class`, and that number
of rows that look like each class, whatever their labels, in `prune_by_noise_rate`.

## Which filter to use

README has the short answer: `both` or `prune_by_noise_rate` to clean a training set, no filter for a short list of rows
that are nearly all wrong.

If all classes have enough rows and the model is decent, the two rules agree row for row; on MNIST, CIFAR-10, 20
Newsgroups and IMDB they do. They differ where a class has few rows, or where the model hardly ever predicts it: its
threshold is then so low that rows of other classes reach it. A run without a filter warns where that is likely, and the
report has a note (`LabelInspector` does not warn). There the exact rule finds nearly all wrong labels and also flags
many right ones, while the default finds about half of the wrong ones and flags hardly any right ones.
`low_self_confidence` and `confident_learning` give the answers of cleanlab's in-memory functions by the same names; the
filters that prune are for counts by class or by pair of classes. Precision and recall on synthetic predictions, with 5%
of the labels redrawn at random:

| `filter_by` | 10 equal classes, 50,000 rows | 1,000 classes with Zipf frequencies, 20,000 rows |
|---|---|---|
| None | 1.00, 0.65 | 1.00, 0.55 |
| `low_self_confidence`, `confident_learning` | 1.00, 0.65 | 0.28, 1.00 |
| `prune_by_class` | 0.96, 0.97 | 0.32, 0.99 |
| `prune_by_noise_rate` | 0.96, 0.94 | 0.31, 0.96 |
| `both` | 0.98, 0.93 | 0.35, 0.96 |
| `predicted_neq_given` | 0.74, 1.00 | 0.28, 1.00 |

`labelsieve.accuracy` measures all filters on known errors, says which score (`method`, `rank_by`) to use, and how far
the estimated number of issues is from the truth.

## How a run works

One pass over `pred_probs` makes a *row summary* of each row: its label, the predicted class, the probability of each
of the two, and the score where it needs the whole row. Thresholds, counts and ranking then need only the summaries.

1. The first pass reads each partition batch by batch, and returns its summaries and exact integer sums of each class.
   A tree reduction combines the sums to the confident thresholds.
2. Counting compares the summaries with the thresholds: how many rows are predicted as another class than their label,
   with at least that class's mean confidence.
3. For the exact rule a second pass reads `pred_probs` again. It looks only at rows that do not reach the threshold of
   their predicted class and whose largest probability is at least the lowest threshold, and counts them by pair of
   label and class, sparsely.
4. Selection returns that number of rows of the lowest score. A histogram of the leading bits of the scores finds the
   bin of the cut, so that all N scores are never sorted; a radix select splits a bin that is too full. Then the rows
   whose label is predicted, or nearly so, are dropped. The filters that prune cut each class in the same way. For pairs
   of classes a third pass keeps the rows of largest margin, never more of a pair than are wanted. Each round of
   partitions starts from the margins that earlier rounds have found, and that summaries in memory show.

The work runs on whatever scheduler Dask is set to: threads by default, the active `distributed.Client`, or processes.

**Why a task is a partition and not a chunk.** A chunk (here a *batch*) is what a thread holds in memory, while a task
costs the scheduler about the same whatever it does. With one task per chunk, 100,000 chunks of 10 MB made 233,000
tasks, and the client took 10.5 s before any work began. So one task streams the batches of a *partition*, about 512 MB
of them, through one buffer: memory follows the batch, the number of tasks follows the bytes, and a task returns a few
bytes per row. With `partition_batches=1` there is one task per chunk, and the results are the same to the bit. The
blocks of your own Dask array that a task takes are in memory together, so a partition has only a few of them.

**Where summaries are kept.** Summaries stay in the memory of the process that made them. With a `workdir` they are also
written there, one record per partition. With an `output`, with a `workdir` on a cluster, or where they would not fit in
memory, they are in these records only; later steps then run on spans of rows, each the records of some partitions and
whole stored chunks of the result. With an `output` the tasks that select issues write them as sorted
runs, and further tasks merge the runs; otherwise the issues must fit in this process.

**Several reads.** A Dask array of your own is kept between the reads if it fits in memory. Otherwise it is computed
again, with a warning.

## Labels that are names

Labels may be texts, categories of pandas, Polars or Arrow, or True and False, in memory or in files. They are mapped to
classes as they are read:

- With `class_names`, each name is the class at its place in that list. A label that is not in it is an error, which
  says in which rows, and what the nearest name is.
- Without, a pandas table of `pred_probs` whose columns have all these names gives the order. So do the columns of
  `data` that are given for each class, also if all begin or end with the same word (``p_cat`` and ``p_dog`` for cat
  and dog); they must have these names, unless they are only numbered. Otherwise the names are sorted, if there are K
  of them, as scikit-learn sorts its classes; that reads the labels once before the run. The mapping is in
  ``facts.notes``, and the result has the names as its `class_names`.
- An order that is in doubt is an error: categories that are not sorted, and numbers as text such as "10" and "9".
- True and False are the classes 1 and 0 of two, or the classes of these names.

With `ignore_label`, rows whose label is that number or name, or None for missing values, count as not labelled. Missing
values that are not ignored are an error. Numbers with a fraction part of 0 are labels only beside missing values, as
pandas stores integers then.

## Logits, bfloat16 and tensors

With ``from_logits=True`` (``--from-logits``) `pred_probs` holds logits, and p is ``exp(x - max(x)) / sum`` of each row,
in float64, as the row is read: the result is that of these probabilities, to the bit, and does not depend on batches
or the dtype of the logits. A logit of -inf is a class of probability 0; NaN, +inf and rows of -inf are errors. The
first pass computes all exponentials of a row, but only the two quotients that its summary needs, unless a score needs
whole rows; a run takes about 3 times the processor time of the same run on float32 probabilities.

Arrays of ``ml_dtypes.bfloat16`` are used as they are. `numpy.save` and Zarr keep their 16 bits without a dtype: give
``dtype="bfloat16"`` (``--dtype bfloat16``), also for bits in integers. Values are widened to float32 as they are read.
float8 has too few bits for probabilities and is refused.

Tensors of PyTorch, JAX, CuPy and whatever gives its memory by DLPack are read in place; their gradients are ignored. A
tensor on a GPU is copied to memory whole, and the logger ``labelsieve`` says so at level INFO: to summarize batches
where they are, and to keep no probabilities at all, use `labelsieve.Recorder`.

## Data that grows

Give each run of every night the same `workdir`. A run then reads only the rows of `pred_probs` that are new, and its
result is that of a run from nothing, to the bit.

- *Shards* (a pattern, a folder, a list) are known by their names and versions (size and time, or ETag). New and
  rewritten ones are read, and removed ones are left out; rows are numbered in today's order. With a `workdir` no
  partition spans two shards, so shards of some hundred megabytes are best.
- *A Zarr array* may be appended to along its rows. Appending rewrites the last stored chunk if that was incomplete, so
  its rows are read again.
- *Labels* are compared by their values, wherever they are: in shards like `pred_probs`, other shards, or one file that
  is written again each night. Where labels have changed, their rows of `pred_probs` are read again.
- A second or third pass (adjusted margins and the exact rule) depends on the thresholds, and so on all rows: it reads
  everything whenever anything has changed.
- Another number of classes, another dtype, other settings, and a single file that was rewritten are a `WorkdirError`
  that names what differs. `fresh=True` starts over.

## Where data may be

Any input is a path or a URL (`s3://`, `gs://`, `https://`, whatever fsspec knows) of a ``.npy`` file or a Zarr array,
or shards of these: a list, a pattern (`"pred_probs-*.npy"`), or their folder, in natural order of their names (`-2`
before `-10`). An array in an ``.npz`` archive or a safetensors file is named behind the file, `"run.npz::probs"` or
`"run-*.safetensors::probs"`; the name may be left out if the file holds only one array. It is read in place, as a
``.npy`` file is; an array that `numpy.savez_compressed` wrote is an error. Shards of
several formats, or data in another format beside shards, such as ``.pt``, are an error, since rows would be missing;
hidden files, text files and files of unknown formats are ignored. Files of ``torch.save`` hold a pickle and are not
opened: the error has the line that converts them. Every worker opens the inputs itself; a worker that cannot is named
before the run. Chunks of remote stores are prefetched. Arrays in memory are sent to the workers once.

With `data` the inputs are columns of a table. Parquet files are read at these places too, Arrow files on disks; those
in a folder, and in the folders in it, are one table, in natural order. A Parquet file is decoded as a stream, some rows
of the columns that are named at a time, so memory does not follow its row groups (only their pages; a plan that does
not fit says how large these are). A task decodes whole row groups, so a file should have more of them than there are
threads. Arrow files that are not compressed are mapped; of others each record batch is decoded whole.

Credentials stay where your tools keep them (environment, `~/.aws`, fsspec's configuration). Each process finds its own,
and none is in a graph, a log or a result.

Requests to S3 and to web servers have limits of time, and those that fail are repeated, each for itself
(`labelsieve.errors`). One process makes at most 64 at a time, all its threads together. Fewer may suit a small store:
set ``labelsieve.max-requests`` in Dask's configuration where the workers run, for example by the environment variable
``DASK_LABELSIEVE__MAX_REQUESTS=16``. A store that serves 1,000 workers then gets at most 16,000 requests at a time.

On Python 3.11 a worker of Dask can stop for ever, in whatever it computes: Dask's profiler looks at all threads, which
can deadlock in that version (https://github.com/python/cpython/issues/106883). Use Python 3.12 or newer on clusters, or
turn the profiler off where workers start: ``DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False``. The workers that
``labelsieve find --workers`` starts on Python 3.11 are not profiled.

Zarr does not write chunks that hold only the fill value, and reads a chunk that is not stored as that value. So missing
chunks need care. Stored chunks are listed once, before the first read, and a chunk in that list is never treated as
absent.

- A chunk of *labels* that is not stored reads as the fill value, class 0 by default, with a warning that counts and
  names the rows: labels sorted by class look like that.
- If no chunk of `pred_probs` is stored for some rows, the run fails before it reads anything; `allow_zero_rows=True`
  accepts these rows if the fill value is 0. If chunks split the classes and only some chunks of a row are stored, a
  warning names the rows.
- For a Dask array made from a Zarr array of the same shape, missing chunks are a warning.
- Of shards, only whole missing ones count. A web server lists nothing: there a missing chunk is requested twice, and a
  warning names it when it is read.

## Clusters

Labelsieve uses the active `distributed.Client` or the one that you pass as `client`, and nothing else of the cluster.
Inputs, `workdir` and `output` must be where all workers can reach them: a shared file system or `s3://` URLs. Scheduler
and workers need the same version of Labelsieve as the client, and should have the same versions of Python, NumPy, Dask
and Zarr. ``labelsieve plan labels.zarr pred_probs.zarr --scheduler tcp://host:8786`` checks versions and clocks, and
whether each worker can read the inputs and write to the workdir and the output.

The client is `Client("tcp://scheduler:8786")` of any running scheduler (``labelsieve find --scheduler``), or that of a
cluster that your program starts: with [dask-kubernetes](https://kubernetes.dask.org) or
[dask-jobqueue](https://jobqueue.dask.org) (Slurm, PBS, LSF), for which the repository has the notebooks
``09_kubernetes`` and ``10_slurm``, or with [Coiled](https://docs.coiled.io), `coiled.Cluster(...).get_client()`. In a
script, start a local cluster below ``if __name__ == "__main__":``. ``dask.config.set(scheduler="threads")`` keeps the
work on this machine. Runs that a scheduler such as cron, Airflow or Argo starts are in the notebook ``08_every_night``.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from labelsieve.confident_learning.filters import chosen_filter
from labelsieve.job.inputs import check_output_of
from labelsieve.job.job import Job
from labelsieve.job.plan import Plan
from labelsieve.options import (
    FOR_FINDING,
    NOTHING,
    OPTIONS,
    TASKS,
    Auto,
    EstimationMethod,
    FilterName,
    IgnoreLabel,
    JobSettings,
    Method,
    Option,
    Rule,
    check_keywords,
)
from labelsieve.results.label_issues import LabelIssues

__all__ = ["find_label_issues", "plan_label_issues"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Task:
    """What a label belongs to. Python's functions, the command line and saved results of a task follow from it.

    A module that has one as `TASK` is registered by a line in `labelsieve.options.TASKS`.

    Parameters
    ----------
    name : str
        Its name on the command line, and the `task` of its layouts.
    row : str
        What has a label, for help: ``"a pixel of a mask"``.
    open : callable
        Takes labels, pred_probs, the `JobSettings` and its own options by name, and returns the `Job`.
    wrap : callable
        Makes the result of issues of rows.
    options : mapping of Option
        Its own options, and those of all tasks that have another default.
    without : mapping of str
        Options of other tasks that it does not have, and arguments of cleanlab, with what to do instead.
    """

    name: str
    row: str
    open: Callable[..., Job]
    wrap: Callable[[LabelIssues], Any]
    options: Mapping[str, Option] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    @property
    def all_options(self) -> dict[str, Option]:
        """All options that it has."""
        return {name: one for name, one in {**OPTIONS, **self.options}.items() if name not in self.without}

    def job(self, labels: Any = None, pred_probs: Any = None, **given: Any) -> Job:
        """Return the job of a run; of files, no predictions are read."""
        given = {name: one.default for name, one in self.options.items()} | given
        own = {name: one.checked(name, given.pop(name)) for name, one in self.options.items() if name not in OPTIONS}
        settings = JobSettings(**given)
        chosen_filter(settings)
        check_output_of(settings, labels, pred_probs, *own.values())
        return self.open(labels, pred_probs, settings, **own)

    def find(self, *args: Any, **given: Any) -> Any:
        """Find the label issues."""
        return self.wrap(self.job(*args, **given).run())

    def plan(self, *args: Any, **given: Any) -> Plan:
        """Plan a run of `find`."""
        return self.job(*args, **given | {"progress": False}).plan()

    def finds(self, declared: Callable[_P, _R]) -> Callable[_P, _R]:
        """Make a public function, which runs this task, of its name, docstring and signature."""
        return self._public(declared, declared, self.find)

    def plans(self, like: Callable[_P, object]) -> Callable[[Callable[..., Plan]], Callable[_P, Plan]]:
        """Make a public function that plans what `like` does, and takes the same arguments."""
        return lambda declared: self._public(declared, like, self.plan)

    def _public(
        self, declared: Callable[..., Any], like: Callable[..., Any], run: Callable[..., Any]
    ) -> Callable[..., Any]:
        @wraps(declared)
        def call(*args: Any, **given: Any) -> Any:
            check_keywords(declared.__name__, given, FOR_FINDING | self.without, {**named, **self.all_options})
            return run(*args, **given)

        # All keywords show, with their types and defaults, also where the declaration has **options.
        signature, own = inspect.signature(declared), inspect.signature(like).parameters.values()
        named = {one.name: one for one in own if one.kind is not one.VAR_KEYWORD}
        named |= {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=JobSettings.__annotations__.get(name, "Any"),
            )
            for name, one in self.all_options.items()
            if name not in named
        }
        call.__signature__ = signature.replace(parameters=list(named.values()))  # type: ignore[attr-defined]
        return call


def task_of(name: str) -> Task:
    """Return a task by its name; its module is imported."""
    task: Task = importlib.import_module(TASKS[name]).TASK
    return task


def _open(labels: Any, pred_probs: Any, settings: JobSettings) -> Job:
    return Job(labels, pred_probs, settings, named=True)


TASK: Final = Task(
    "classification",
    "a row",
    _open,
    lambda rows: rows,
    without={"confident_joint": FOR_FINDING["confident_joint"]},
)


@TASK.finds
def find_label_issues(
    labels: Any = None,
    pred_probs: Any = None,
    *,
    data: Any = None,
    summaries: Any = None,
    n_classes: int | None = None,
    batch_size: int | Auto = "auto",
    method: Method = "self_confidence",
    adjust_pred_probs: bool = False,
    estimation_method: EstimationMethod = "off_diagonal",
    filter_by: FilterName | None = None,
    rank_by: Method | None = None,
    rule: Rule | None = None,
    frac_noise: float = 1.0,
    num_to_remove_per_class: Sequence[int] | None = None,
    min_examples_per_class: int = 1,
    partition_batches: int | Auto = "auto",
    from_logits: bool = False,
    dtype: Any = None,
    allow_zero_rows: bool = False,
    allow_unnormalized_rows: bool = False,
    n_jobs: int | None = 1,
    progress: bool | None = None,
    client: Any = None,
    workdir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    wait: float = 90,
    output: str | os.PathLike[str] | None = None,
    max_memory: int | str | None = None,
    retries: int = 2,
    class_names: Sequence[str] | None = None,
    ignore_label: IgnoreLabel = NOTHING,
    ids: Any = None,
) -> LabelIssues:
    """Find the rows whose given label is likely wrong, out of core and in as few reads of `pred_probs` as possible.

    This is confident learning (Northcutt, Jiang, Chuang, JAIR 2021). The default is its batched form, in one read: it
    counts the rows that are predicted as another class with at least that class's mean confidence, and takes that
    number of rows of the lowest label quality, except those whose label is the predicted class. With `filter_by` it
    finds the issues of cleanlab's in-memory ``filter.find_label_issues`` (2.9), by the exact confident joint and in two
    or three reads. The docstring of `labelsieve.find` explains the filters.

    Parameters
    ----------
    labels : (N,) array-like of int, str or bool
        Given class of each row, 0..K-1, or its name (see "Labels that are names" above): a list, NumPy array, pandas,
        Polars or Arrow column, memmap, Zarr array, HDF5 dataset, Dask array, xarray.DataArray, tensor, the path or URL
        of a ``.npy`` file or Zarr array, of an array in an ``.npz`` or safetensors file (`"run.npz::labels"`), or
        shards of these: a list of paths, a pattern, or their folder.
    pred_probs : (N, K) array-like of float16, bfloat16, float32 or float64
        Out-of-sample probability of each class, as any of these kinds; the mean of several models (`Ensemble`), or one
        array for each fold of a cross-validation (`Folds`).
    data : path, URL, or table, optional
        A table whose columns are `labels`, `pred_probs` and `ids`: a Parquet or Arrow file, a folder, a pattern or a
        list of them, or a table of pandas, Polars, Arrow, DuckDB or Hugging Face datasets. `labels` and `ids` then
        name a column each. `pred_probs` names a column of lists of K numbers, or one column for each class, in the
        order of the classes: ``["p_cat", "p_dog"]``, or a pattern such as ``"p_*"``, whose columns are in the order of
        the table, or of their numbers. What is not text, such as an array or a `Path`, is taken as without `data`.
        Only these columns are read.
    summaries : table, path or URL, optional
        Row summaries in place of `labels` and `pred_probs`: the folder of a `labelsieve.Recorder`, or a table with the
        columns `label`, `predicted`, `p_label` and `p_predicted` (`labelsieve.recorder`): a dict of arrays, a table of
        pandas, Polars, Arrow or DuckDB, or Parquet or Arrow files. Filters that read `pred_probs` more than once need
        whole rows: `labels` and `pred_probs`, or a recorder with ``classes_per_row``.
    n_classes : int, optional
        Number of classes K, for a table of summaries, which does not say it.
    batch_size : int or "auto"
        Number of rows that a thread holds in memory; by default about 48 MB of them. A Dask array keeps its own chunks.
        This does not change the result.
    method : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}
        Label quality score; `labelsieve.accuracy` says which one to use.
    adjust_pred_probs : bool
        Subtract the class thresholds from the probabilities first. With ``normalized_margin`` this needs a second read.
    estimation_method : {"off_diagonal", "off_diagonal_calibrated"}
        How issues are counted; the default filter, ``low_normalized_margin`` and ``low_self_confidence`` take that
        number of rows.
    filter_by : str, optional
        Which rows are issues, and how often `pred_probs` is read to find them.
        ``"low_self_confidence"``, ``"low_normalized_margin"`` (2 reads): the rows of the lowest such score, as many as
        are counted off the diagonal of the confident joint. ``"confident_learning"`` (2): the rows counted there.
        ``"predicted_neq_given"`` (1): the rows whose label is not the predicted class. ``"prune_by_class"`` (2): for
        each label, the rows least likely to have it, as many as the calibrated joint has off its diagonal.
        ``"prune_by_noise_rate"`` (3): for each label and other class, the rows of the largest margin between the two,
        as many as the calibrated joint has for the pair. ``"both"`` (3): the rows that the last two agree on. All but
        the first two leave out rows whose label is the predicted class, or nearly so.
    rank_by : {"self_confidence", "normalized_margin", "confidence_weighted_entropy", "logit_margin"}, optional
        With `filter_by`, the score that sorts the issues and that ``scores`` holds; `method` by default. It does not
        change which rows are issues.
    rule : {"predicted_class", "confident_joint"}, optional
        Which class a row is counted as: the predicted one, if the row reaches its threshold (the default without
        `filter_by`), or that of the confident joint (in two reads; see `labelsieve.count.compute_confident_joint`).
    frac_noise : float
        For the filters that prune: the share of the rows off the diagonal to take, 0 to 1.
    num_to_remove_per_class : sequence of int, optional
        For the filters that prune: K numbers. ``"prune_by_class"`` takes this number of rows with each label;
        ``"prune_by_noise_rate"`` takes about this number (within one) of rows that look like each class, whatever their
        labels.
    min_examples_per_class : int
        For the filters that prune: the number of rows of each class to leave.
    partition_batches : int or "auto"
        Number of consecutive batches that one task streams; by default about 512 MB of them. This does not change the
        result.
    from_logits : bool
        `pred_probs` are logits: take the softmax of each row, in float64, as it is read. A logit of -inf is a class of
        probability 0. See "Logits, bfloat16 and tensors" above.
    dtype : "bfloat16", optional
        What the values of `pred_probs` are, if they are stored as 16 bits without a dtype: NumPy has no bfloat16, and
        saves arrays of ``ml_dtypes.bfloat16`` as such bits. Any other dtype is known from the data.
    allow_zero_rows : bool
        Accept rows that are all zeros. Otherwise they are an error, because they are usually missing data.
    allow_unnormalized_rows : bool
        Accept rows that do not sum to 1 within 0.05. Otherwise they are an error, because they are often logits,
        percentages, scores of independent classes, or a missing chunk.
    n_jobs : int or None
        1 runs on Dask's scheduler; a larger number forks that many processes, for arrays in memory and ``.npy`` files
        on Linux; None takes the physical cores. This does not change the result.
    progress : bool or None
        Whether to show bars; None shows them on a terminal.
    client : distributed.Client, optional
        The cluster that does the work: by default the active client, or Dask's local scheduler if there is none.
        Workers open files and URLs themselves.
    workdir : path or URL, optional
        Folder in which finished partitions are kept, so that a killed run can resume, and so that a run on data that
        has grown reads only what is new (see "Data that grows" above). The next run reads only the others. It also
        reads from each of up to 8 finished partitions at most 1 MB (one stored chunk of a Zarr array, one computed
        block of a Dask array) to check that the input is still the same. A workdir belongs to one input with one choice
        of settings.
    fresh : bool
        Discard what is in `workdir`.
    wait : float
        Seconds to wait while another run uses `workdir` or `output` on a disk; the logger ``labelsieve`` says which run
        that is. In an object store there is no waiting: the run that started last takes over.
    output : path or URL, optional
        A ``.zarr`` group. The tasks write the scores and the mask of all rows and the issues into it; it appears only
        once it is complete. The result then reads from it.
    max_memory : int or str, optional
        The most memory of this process, interpreter included, or of each worker: bytes, or text such as ``"1GiB"``.
        What does not fit goes to the workdir, a temporary one if none is given; a run that cannot fit is refused.
    retries : int
        Number of times to run a failed task again.
    class_names : sequence of str, optional
        K names, in the order of the columns of `pred_probs`: for tables and reports, and to find the class of labels
        that are names.
    ignore_label : int, str or None, optional
        The label of rows that have none: -1, 255, "unknown", or None for missing values. Such rows are left out of
        thresholds, counts and issues, and their probabilities are not checked. Their scores are NaN, and ``n_ignored``
        is their number. By default every row has a label.
    ids : array-like of int or str, or path, optional
        ``(N,)`` names of your own for the rows: a list, array, pandas column, Zarr array, or the path of a ``.npy``
        file, a Zarr array, a ``.csv`` file with a column ``id``, or a text file with one name per line. With `data`,
        a column of it. Only the names of issues are read.

    Returns
    -------
    LabelIssues
        The issues, worst first, the scores of all rows, the thresholds and the counts.

    Raises
    ------
    InvalidInputError
        A ValueError, for data or settings that cannot give a right result. The message says what is wrong, in which
        rows, and in how many.
    InputTypeError
        A TypeError, for an object of the wrong kind, or for an argument that does not exist; the message names the
        right one.
    UnreadableDataError
        An OSError, for stored data that is corrupt, missing, or out of a worker's reach: which rows, where and why. A
        ChangedDataError if it has changed since the run began; nothing is published then.
    MemoryLimitError
        A MemoryError, if the run cannot fit in memory. The message says what would fit.
    WorkdirError
        A RuntimeError, for a workdir that is damaged, or belongs to another input or other settings.
    InUseError
        A WorkdirError, if another run still uses `workdir` or `output` after `wait` seconds, or took over in an
        object store.
    TaskFailedError
        A RuntimeError, if workers or the scheduler died too often: run again with the same `workdir`.

    Warns
    -----
    LabelsieveWarning
        If labels and predictions do not seem to belong together, with the likely cause: classes or rows in different
        orders. ``facts.misfit`` keeps the text.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> labels = np.array([0, 0, 1, 1, 1])
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05]])
    >>> labelsieve.find_label_issues(labels, pred_probs).indices
    array([4])

    Files are read out of core, and other scores need one read too:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/labels.npy", labels)
    >>> np.save(f"{folder}/pred_probs.npy", pred_probs)
    >>> found = labelsieve.find_label_issues(
    ...     f"{folder}/labels.npy", f"{folder}/pred_probs.npy", method="normalized_margin", progress=False
    ... )
    >>> found.scores.round(3)
    array([0.9 , 0.8 , 0.8 , 0.9 , 0.05])

    Columns of a table, here of pandas; a Parquet file is read out of core:

    >>> import pandas as pd
    >>> table = pd.DataFrame({"label": labels, "p_cat": pred_probs[:, 0], "p_dog": pred_probs[:, 1]})
    >>> found = labelsieve.find_label_issues(data=table, labels="label", pred_probs=["p_cat", "p_dog"], progress=False)
    >>> found.indices
    array([4])

    Logits, and an array in a file of several:

    >>> np.savez(f"{folder}/run.npz", labels=labels, logits=np.log(pred_probs))
    >>> found = labelsieve.find_label_issues(
    ...     f"{folder}/run.npz::labels", f"{folder}/run.npz::logits", from_logits=True, progress=False
    ... )
    >>> found.indices
    array([4])

    By the exact rule, like cleanlab's in-memory filter:

    >>> found = labelsieve.find_label_issues(
    ...     f"{folder}/labels.npy", f"{folder}/pred_probs.npy", filter_by="prune_by_class", progress=False
    ... )
    >>> found.indices, found.facts.n_reads
    (array([4]), 2)
    """
    raise NotImplementedError  # the task runs


@TASK.plans(find_label_issues)
def plan_label_issues(*args: Any, **options: Any) -> Plan:
    """Plan a run of `find_label_issues`: batches, partitions, tasks, bytes and memory.

    No data is read, except that each worker of a running cluster reads a batch, and writes a small file to `workdir`
    and `output`, which it removes again: what would make the run fail there is in `Plan.problems`.

    Parameters
    ----------
    *args, **options
        Takes the same arguments as `find_label_issues`. The plan uses the partitions of an earlier run in `workdir`.
        It counts what is known there (`Plan.known_bytes`), but `Plan.bytes_read` and `Plan.n_tasks` are those of a run
        that knows nothing.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    MemoryLimitError
        If the run cannot fit in memory.
    InvalidInputError, InputTypeError, UnreadableDataError, WorkdirError
        For anything that `find_label_issues` would refuse before it reads data.

    Warns
    -----
    LabelsieveWarning
        If workers have other versions of packages than the client, or clocks that differ where that matters.

    Examples
    --------
    >>> import numpy as np
    >>> import labelsieve
    >>> plan = labelsieve.plan_label_issues(np.zeros(1000, int), np.full((1000, 4), 0.25))
    >>> plan.n_partitions, plan.bytes_read, plan.stored
    (1, 32000, False)
    """
    raise NotImplementedError  # the task plans
