"""`find_label_issues` and `plan_label_issues` of tokens."""

from __future__ import annotations

from typing import Any, Final

from labelsieve.errors import InvalidInputError
from labelsieve.find import Task
from labelsieve.job.job import Job
from labelsieve.job.plan import Plan
from labelsieve.options import FOR_FINDING, JobSettings, Option
from labelsieve.results.units import TokenLayout
from labelsieve.sources.objects import retry
from labelsieve.sources.tables import open_columns
from labelsieve.token_classification.issues import TokenIssues
from labelsieve.token_classification.rows import (
    Tokens,
    depth_of,
    edges_of_ids,
    edges_of_offsets,
    join_sentences,
    open_token_table,
)

__all__ = ["find_label_issues", "plan_label_issues"]


def _open(labels: Any, pred_probs: Any, settings: JobSettings, *, offsets: Any, sentence_ids: Any) -> Job:
    """Return the job whose rows are tokens. Of files, labels and offsets are read at most."""
    tokens, ids = retry(settings.retries + 1, _open_tokens, labels, pred_probs, offsets, sentence_ids, settings)
    layout = TokenLayout(tokens.edges)
    if settings.data is not None:
        settings = settings.changed(data=None, ids=ids)
    job = Job(tokens.labels, tokens.pred_probs, settings, named=True, layout=layout)
    n_rows, n_tokens = job.given.pred_probs.shape[0], int(tokens.edges[-1])
    if n_rows != n_tokens:
        what = f"offsets end at {n_tokens:,}" if offsets is not None else f"sentence_ids has {n_tokens:,} numbers"
        raise InvalidInputError(f"{what}, but pred_probs has {n_rows:,} rows, one for each token")
    return job


def _open_tokens(
    labels: Any, pred_probs: Any, offsets: Any, sentence_ids: Any, choices: JobSettings
) -> tuple[Tokens, Any]:
    """Return the tokens of all sentences, in whatever form they were given, and the user's names of the sentences."""
    if offsets is not None and sentence_ids is not None:
        raise InvalidInputError("give offsets or sentence_ids, not both")
    data, ids, null_labels = choices.data, choices.ids, choices.ignore_label is None
    if offsets is None and sentence_ids is None:
        if data is None:
            return join_sentences(labels, pred_probs), ids
        return open_token_table(data, labels, pred_probs, ids, null_labels=null_labels)
    given = "offsets" if sentence_ids is None else "sentence_ids"
    if data is None and (depth_of(labels) > 1 or depth_of(pred_probs) > 2):
        raise InvalidInputError(f"leave out {given}, which are for arrays of all tokens: these are lists of sentences")
    if data is not None:
        if isinstance(ids, str):
            raise InvalidInputError("ids name sentences, but data has a row for each token: give them as an array")
        column = sentence_ids if isinstance(sentence_ids, str) else None
        labels, pred_probs, found = open_columns(data, labels, pred_probs, column, null_labels=null_labels)
        sentence_ids = sentence_ids if column is None else found
    edges = edges_of_ids(sentence_ids) if offsets is None else edges_of_offsets(offsets)
    return Tokens(labels, pred_probs, edges), ids


TASK: Final = Task(
    "tokens",
    "a word of a sentence",
    _open,
    TokenIssues,
    options={
        "offsets": Option(help="Where each sentence begins, and the last one ends.", metavar="FILE"),
        "sentence_ids": Option(help="The sentence of each token.", metavar="FILE"),
    },
    without={
        "confident_joint": FOR_FINDING["confident_joint"],
        "low_memory": "leave it out: pred_probs need not fit in memory",
        "tokens": "the result takes the words: .to_frame(tokens=...), .report(..., tokens=...)",
    },
)


@TASK.finds
def find_label_issues(
    labels: Any = None, pred_probs: Any = None, *, offsets: Any = None, sentence_ids: Any = None, **settings: Any
) -> TokenIssues:
    """Find the tokens whose given label is likely wrong.

    Parameters
    ----------
    labels : sequence of sequence of int or str, or (n_tokens,) array-like
        Class of each token, 0..K-1, or its name: a list for each sentence; or those of all tokens in one array, in any
        form that `labelsieve.find_label_issues` takes, with `offsets` or `sentence_ids`. Sentences may be empty.
    pred_probs : sequence of (T_i, K) array-like, or (n_tokens, K) array-like
        Out-of-sample probability of each class, in the same form as `labels`.
    offsets : (n_sentences + 1,) array-like of int, or path, optional
        The row at which each sentence begins, ascending from 0, and the number of rows.
    sentence_ids : (n_tokens,) array-like of int, or path, optional
        The number of the sentence of each token, ascending from 0. With `data`, the name of a column.
    **settings
        All keyword arguments of `labelsieve.find_label_issues`, among them `filter_by`, `method`, `class_names`,
        `ignore_label`, `from_logits`, `workdir`, `output`, `client` and `data`. A table in `data` has a row for each
        sentence, and `labels` and `pred_probs` name columns of lists, ``list<int>`` or ``list<string>`` and
        ``list<list<float>>``; with `sentence_ids` or `offsets` it has a row for each token.

    Returns
    -------
    TokenIssues
        Pairs of sentence and token, worst first, with the scores of all tokens and sentences.

    Raises
    ------
    InvalidInputError
        As `labelsieve.find_label_issues`; the message names sentences and tokens. Also if labels and predictions of a
        sentence differ in length, and for offsets or numbers of sentences that do not ascend or do not fit.
    InputTypeError
        For an object that holds no sentences, or an argument that does not exist.
    LabelsieveError
        As `labelsieve.find_label_issues`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.token_classification import find_label_issues
    >>> labels = [[0, 0, 1], [], [0, 1]]
    >>> pred_probs = [np.array([[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]]), [], np.array([[0.8, 0.2], [0.8, 0.2]])]
    >>> find_label_issues(labels, pred_probs).pairs()
    array([[2, 1]])

    The same tokens in flat arrays, which may be in files that are larger than memory:

    >>> flat = np.array([0, 0, 1, 0, 1]), np.concatenate([pred_probs[0], pred_probs[2]])
    >>> found = find_label_issues(*flat, offsets=[0, 3, 3, 5], filter_by="prune_by_noise_rate")
    >>> found.to_frame()[["sentence", "token", "given_label", "suggested_label"]].values.tolist()
    [[2, 1, 1, 0]]
    """
    raise NotImplementedError  # the task runs


@TASK.plans(find_label_issues)
def plan_label_issues(*args: Any, **settings: Any) -> Plan:
    """Plan a run of `find_label_issues`: batches, partitions, tasks, bytes, memory and time.

    Parameters
    ----------
    labels, pred_probs, offsets, sentence_ids
        As in `find_label_issues`. Lists are joined, and the labels of Parquet files read, to know the tokens.
    **settings
        All keyword arguments of `labelsieve.plan_label_issues`.

    Returns
    -------
    Plan
        The plan: its rows are tokens.

    Raises
    ------
    LabelsieveError
        As `labelsieve.plan_label_issues`.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve.token_classification import plan_label_issues
    >>> plan = plan_label_issues(np.zeros(1000, int), np.full((1000, 4), 0.25), offsets=[0, 400, 1000])
    >>> plan.n_partitions, plan.bytes_read
    (1, 32000)
    """
    raise NotImplementedError  # the task plans
