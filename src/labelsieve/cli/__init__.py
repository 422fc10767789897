"""The command line for other programs: JSON, progress, logs, environment variables.

``labelsieve --help`` and the help of each command explain the options; `labelsieve.errors` lists the exit codes.

## JSON

With ``--json``, `labelsieve find`, `labelsieve plan`, `labelsieve review`,
`labelsieve label-studio`, `labelsieve apply`, `labelsieve audit`, `labelsieve estimate` and `labelsieve compare` print
one JSON object on stdout, in one line, and nothing else. The summary and the worst rows go to stderr (``--quiet``
leaves them out), and so does what libraries and worker processes print. The plan is not printed as text. Sizes are in
bytes and end in ``_bytes``; times are in seconds and end in ``_s``. `labelsieve report` and `labelsieve demo` have no
answer but their exit code.

| Key of ``find`` | |
|---|---|
| ``num_issues`` | number of label issues |
| ``issue_share`` | the same as a share of the rows that have a label, 0 to 1 |
| ``estimated_num_issues`` | estimated number of wrong labels |
| ``n_rows``, ``n_classes`` | shape of `pred_probs` |
| ``n_ignored`` | number of rows without a label (``--ignore-label``) |
| ``labels``, ``pred_probs`` | the inputs: a path, or a URL without secrets |
| ``output``, ``report`` | what was written; null without the option |
| ``total_s`` | wall time of the command, except imports |
| ``read_bytes`` | decoded bytes of `pred_probs` that were read, in all passes |
| ``n_reads`` | number of passes over `pred_probs` |
| ``rows_read``, ``rows_resumed`` | rows that the first pass read, and rows that the workdir had |
| ``n_batches``, ``n_partitions`` | how the rows are divided |
| ``peak_memory_bytes`` | most resident memory of this process, with the pages of mapped files; of no workers |
| ``planned_memory_bytes`` | most memory of a process that reads, as planned, without the issues |
| ``runs_on`` | what ran the tasks, in words |
| ``misfit`` | why labels and predictions do not seem to belong together; null if they do |
| ``notes``, ``warnings`` | lists of sentences: what looks suspicious in the data, and what was warned of |
| ``finished`` | when the run ended, in UTC |
| ``version`` | of Labelsieve |

| Key of ``plan`` | |
|---|---|
| ``n_rows``, ``n_classes``, ``dtype`` | shape and dtype of `pred_probs` |
| ``n_batches``, ``batch_rows``, ``n_partitions`` | number of batches, rows of a batch, number of partitions |
| ``n_tasks``, ``n_slabs`` | tasks of the job, and submissions of each map |
| ``n_reads``, ``read_bytes`` | passes over `pred_probs`, and decoded bytes in all of them |
| ``amplification`` | how often each stored row is decoded in a pass |
| ``network_bytes`` | what tasks send to each other and to the client, without the issues |
| ``n_processes``, ``n_threads`` | processes that read, and threads in each |
| ``known_rows``, ``known_bytes`` | rows that the workdir has, so that the first pass does not read them |
| ``unconfirmed_rows``, ``unconfirmed_bytes`` | more rows that it has, if their labels have kept their values |
| ``stored`` | whether row summaries are only in a workdir, and not in memory |
| ``peak_memory_bytes`` | of each worker; without a cluster, of this process |
| ``client_memory_bytes`` | of the client |
| ``limit_bytes``, ``limit_name`` | what each process that reads may take, and where that limit comes from |
| ``summary_bytes``, ``score_bytes``, ``mask_bytes`` | sizes of the summaries, scores and mask of all rows |
| ``issue_bytes`` | size of one issue |
| ``problems`` | list of sentences: what would make the run fail on the cluster of ``--scheduler`` |
| ``exit_code`` | 1 if there are problems, otherwise 0 |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``review`` | |
|---|---|
| ``output`` | path of the page |
| ``n_rows``, ``page_bytes`` | rows to review, and size of the page |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``label-studio`` | |
|---|---|
| ``output``, ``config`` | paths of the tasks, and of the labelling configuration; null without the option |
| ``label_config`` | the labelling configuration itself |
| ``n_tasks`` | number of tasks |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``apply`` | |
|---|---|
| ``output``, ``log`` | paths of the corrected labels, and of the log of what was changed |
| ``counts`` | object of numbers of rows: see `labelsieve.review.apply` |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``audit`` | |
|---|---|
| ``output``, ``table`` | paths of the audit, and of the table to fill in; null without the option |
| ``n_rows``, ``n_labelled`` | rows to review, and all rows that have a label |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``estimate`` | |
|---|---|
| ``error_rate`` | object of ``estimate``, ``low`` and ``high``, 0 to 1: the share of wrong labels |
| ``precision_of_issues``, ``recall_of_issues`` | such objects; the estimate is null if it is not known |
| ``per_class`` | of each class such an object, with its ``class`` |
| ``curve`` | an object for each cut: see `labelsieve.ErrorEstimate.curve` |
| ``n_rows``, ``n_reviewed``, ``n_left_out`` | rows that have a label, with a decision, and in the audit without one |
| ``n_wrong``, ``n_conflicts`` | reviewed rows whose label is wrong, and rows about which reviewers differ |
| ``rows_for_width`` | rows to review besides, for ``--width``; null without it |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

| Key of ``compare`` | |
|---|---|
| ``n_rows``, ``n_classes`` | shape of `pred_probs` |
| ``issues_before``, ``issues_after`` | number of issues of each result |
| ``n_resolved``, ``n_kept``, ``n_new`` | issues before only, in both, and after only |
| ``n_relabelled`` | those of ``n_kept`` with another given label after |
| ``estimated_before``, ``estimated_after`` | estimated number of wrong labels |
| ``health_before``, ``health_after`` | estimated share of right labels, 0 to 1 |
| ``by_class`` | an object for each class with issues, the most first: see `labelsieve.Comparison.by_class` |
| ``output`` | the table that was written; null without the option |
| ``total_s`` | wall time of the command, except imports |
| ``warnings``, ``version`` | as for ``find`` |

A command that fails prints this object instead; bad usage, Ctrl-C and SIGTERM do too.

| Key of an error | |
|---|---|
| ``error`` | class of the error, of `labelsieve.errors` or of Python |
| ``message`` | what happened, in one line |
| ``exit_code`` | exit code of the command |
| ``rows`` | rows that the error is about, where known: a list of ranges ``[start, stop]`` |

For bad usage ``error`` is ``UsageError``; after a signal it is ``Interrupted`` or ``Terminated``. A range does not
include its ``stop``, and of many ranges only the first ones are there.

## Progress

``--progress json`` prints a JSON object per line on stderr: at most one a second while a stage runs, and one at its
end.

| Key of a line | |
|---|---|
| ``stage`` | ``read``, ``read again``, ``read a third time``, ``threshold``, ``rank`` or ``write`` |
| ``rows_done``, ``n_rows`` | rows that are done, and all rows of the stage |
| ``read_bytes``, ``read_bytes_per_s`` | bytes of `pred_probs` that the stage has read so far, and per second |
| ``elapsed_s``, ``left_s`` | seconds since the stage began, and estimated seconds to its end |
| ``retries`` | requests, reads and tasks of the stage that were tried again; on a cluster only tasks |
| ``workers`` | workers of the cluster when the stage was submitted; 1 without a cluster |

``left_s`` is null before the first rows are done. ``auto``, the default, shows bars in a terminal, and otherwise logs
lines if a cluster does the work; ``bar`` and ``none`` are what they say.

## Logs

All messages are of the logger ``labelsieve``: retries, lost workers and waiting for another run are warnings, progress
on a cluster is ``INFO``. The command prints them on stderr with date and level, from ``--log-level`` on. In Python,
configure that logger as any other: ``logging.getLogger("labelsieve").setLevel("INFO")``. Requests that a worker repeats
are in the worker's log. Of many retries, 20 are logged at once and then one in 10 s, with the number of the others.
Lost workers are logged by the command only; Dask logs them in ``distributed.scheduler``.

## Environment variables

Each option has a variable, which the help shows: ``LABELSIEVE_FIND_MAX_MEMORY=4GiB`` is ``--max-memory 4GiB`` of
`labelsieve find`, and ``LABELSIEVE_PLAN_MAX_MEMORY`` that of `labelsieve plan`. Flags take ``1`` or ``0``. An option on
the command line goes first.
"""

__all__: list[str] = []
