"""`LabelIssues`: the result of a run, with its tables, files and pictures."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.error_estimate import ErrorEstimate
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.results import report
from labelsieve.results.audit import Audit, draw_audit
from labelsieve.results.comparison import Comparison, compare_results
from labelsieve.results.frames import frame_of
from labelsieve.results.issue_exports import IssueExports
from labelsieve.results.plots import Plots
from labelsieve.results.result import Result
from labelsieve.results.review.reviewable import ReviewableResult
from labelsieve.results.zarr_store import read_result
from labelsieve.settings import check_whole_number
from labelsieve.storage.folders import open_folder
from labelsieve.storage.urls import check_place

if TYPE_CHECKING:
    import pandas as pd


class LabelIssues(ReviewableResult, IssueExports):
    """The label issues of a dataset, from `labelsieve.find_label_issues` or `labelsieve.load`.

    A result stands for its ``indices``: its length is ``num_issues``, iterating over it gives the rows of the issues,
    worst first, NumPy converts it to ``indices``, so that ``data[issues]`` selects these rows, and it is false if there
    are no issues.

    Attributes
    ----------
    num_issues : int
        Number of label issues.
    indices : (num_issues,) int64
        Rows of the label issues, worst first, ties by row.
    issues : IssueRows
        The label issues, worst first, with labels, predicted classes, probabilities and scores.
    scores : (N,) array of float
        Label quality scores of all rows: a read-only NumPy array, or a lazy Dask array if they are stored.
    lazy_scores : (N,) dask.array.Array
        The same, always as a lazy Dask array.
    mask() : (N,) bool
        True for label issues.
    worst(top) : IssueRows
        The `top` worst issues; no others are loaded.
    score_histogram(n_bins) : two arrays
        Edges of bins, and how many of all rows have a score in each.
    estimated_num_issues : int
        The number of issues that was estimated; ``num_issues`` is lower if some of the rows of lowest score are
        not issues, because their label is the predicted class, or nearly so.
    confident_thresholds : (K,) float64
        Mean probability of each class over the rows labelled with it; 2.0 for a class without rows.
    class_counts, mean_scores : (K,) arrays
        Number of rows and mean score of each label.
    n_rows, n_classes : int
        Shape of `pred_probs`.
    n_ignored : int
        Number of rows without a label (`ignore_label`), whose scores are NaN.
    fingerprint : str
        What tells this result from others, and from results of other labels.
    settings, facts : object
        The settings, and how the run went: bytes, reads, partitions, seconds, versions, notes.

    Examples
    --------
    >>> import labelsieve
    >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> found
    <LabelIssues: 1 of 3 rows (33.33%) in 2 classes; worst rows: 2>
    >>> import numpy as np
    >>> np.array(["a", "b", "c"])[found].tolist(), len(found), list(found)
    (['c'], 1, [2])
    """

    # Named here, so that the documentation of this class has them.
    save = IssueExports.save
    to_csv = IssueExports.to_csv
    to_parquet = IssueExports.to_parquet
    to_label_studio = IssueExports.to_label_studio
    to_cleanlab = IssueExports.to_cleanlab
    to_fiftyone = IssueExports.to_fiftyone
    to_argilla = IssueExports.to_argilla
    review = ReviewableResult.review
    serve_review = ReviewableResult.serve_review

    def __len__(self) -> int:
        return self.num_issues

    def __iter__(self) -> Iterator[int]:
        for rows in self.found.column("row"):
            yield from rows.tolist()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.indices, dtype, copy=copy)

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """Return the issues as a pandas DataFrame, worst first.

        Parameters
        ----------
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        pandas.DataFrame
            ``row``, ``id`` (if given), ``score``, ``given_label``, ``suggested_label``, ``p_given``, ``p_suggested``,
            and with class names ``given_name`` and ``suggested_name``. float16 values become float32.

        Raises
        ------
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]], ids=["a", "b", "c"])
        >>> found.to_frame()[["row", "id", "given_label", "suggested_label"]].values.tolist()
        [[2, 'c', 0, 1]]
        """
        stop = None if top is None else check_whole_number("top", top, 0)
        return frame_of(self.issue_table(0, stop))

    def class_summary(self) -> pd.DataFrame:
        """Return a table with a row per class, the noisiest first.

        Returns
        -------
        pandas.DataFrame
            ``class``, ``rows`` (with this label), ``issues`` (among them), ``share`` (issues over rows),
            ``label_noise`` (share of the rows with this label whose true class is another), ``inverse_label_noise``
            (share of the rows whose true class is this one that have another label), ``mean_score``, ``threshold``,
            ``flag`` (``absent``; ``rare``: fewer than 10 rows; ``tiny threshold``: below 1/K; else empty), and with
            class names ``name``. NaN where a class has no rows.

        Notes
        -----
        Both noises are estimated with the calibrated joint, by the formulas of
        ``cleanlab.dataset.rank_classes_by_label_quality`` (2.9), from the counts of the run's rule
        (``settings.rule``). With the confident joint they equal the values of that function for the same ``labels``
        and ``pred_probs`` (with more than 1,024 classes only if no remainders tie when the joint is rounded). With the
        predicted class they equal its values if it is given these counts as ``confident_joint``, and differ from its
        defaults where many rows do not reach the threshold of their predicted class.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.class_summary()[["class", "rows", "issues", "flag"]].values.tolist()
        [[0, 2, 1, 'rare'], [1, 1, 0, 'rare']]
        """
        frame = frame_of(self.class_table())
        return frame.sort_values(["label_noise", "class"], ascending=[False, True], ignore_index=True)

    def confused_pairs(self, top: int | None = 20) -> pd.DataFrame:
        """Return which labels are confused with which classes, the most frequent pairs first.

        Parameters
        ----------
        top : int or None
            Number of pairs; None for all that occur.

        Returns
        -------
        pandas.DataFrame
            ``given_label``, ``suggested_label``, ``confident_rows`` (rows with this label that are confidently
            predicted as this class), ``estimated_rows`` (scaled to all rows with the label), ``share`` (estimated rows
            over rows with the label), and with class names ``given_name`` and ``suggested_name``.

        Notes
        -----
        ``estimated_rows`` equal the *Num Overlapping Examples* of ``cleanlab.dataset.find_overlapping_classes`` (2.9)
        with ``asymmetric=True`` for the same counts, if no remainders tie when the joint is rounded; see
        `class_summary`.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.confused_pairs().values.tolist()
        [[0.0, 1.0, 1.0, 1.0, 0.5]]
        """
        return frame_of(self.pair_table(None if top is None else check_whole_number("top", top, 0)))

    def health_score(self) -> float:
        """Return the estimated share of right labels, ``1 - estimated_num_issues / n_rows``, of rows with a label.

        The overall score of ``cleanlab.dataset.health_summary`` (2.9), which counts by the confident joint.

        Examples
        --------
        >>> import labelsieve
        >>> labelsieve.find_label_issues([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]]).health_score()
        0.75
        """
        return 1 - self.estimated_num_issues / self.n_labelled

    def sample_weights(self) -> npt.NDArray[np.float64]:
        """Return a weight for each row, to train without a look at the issues.

        Returns
        -------
        (N,) float64
            0 for label issues and rows without a label; the label quality score, clipped to [0, 1], for all others.

        Notes
        -----
        With self-confidence, the score by default, a row counts as much as the model believes its label. This is the
        simplest weighting by a model's probabilities; importance reweighting (Liu and Tao 2016, *Classification with
        noisy labels by importance reweighting*, IEEE TPAMI 38(3)) divides by the probability that noise gives this
        label, which has to be estimated. That issues are left out altogether is pruning (Northcutt, Jiang and Chuang
        2021, *Confident learning*, JAIR 70). Rows of hard classes get low weights: compare with `clean_rows`.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.sample_weights().tolist()
        [0.9, 0.8, 0.0]

        In scikit-learn it is an argument of ``fit``:

        >>> from sklearn.linear_model import LogisticRegression
        >>> features, labels = [[0.0], [1.0], [1.1]], [0, 1, 0]
        >>> LogisticRegression().fit(features, labels, sample_weight=found.sample_weights()).predict([[1.1]]).tolist()
        [1]

        In PyTorch it weights the loss of each row:
        ``(cross_entropy(logits, labels, reduction="none") * weights[rows]).sum() / weights[rows].sum()``.
        """
        weights: npt.NDArray[np.float64] = np.empty(self.n_rows, np.float64)
        start = 0
        for block in self.score_parts.blocks():
            weights[start : start + len(block)] = np.clip(np.nan_to_num(block, nan=0.0), 0.0, 1.0)
            start += len(block)
        for rows in self.found.column("row"):
            weights[rows] = 0.0
        return weights

    def clean_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows that have a label and are not label issues, ascending: a dataset to train on.

        Returns
        -------
        (n,) int64
            Rows.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.clean_rows().tolist()
        [0, 1]

        They select rows of arrays, ``features[found.clean_rows()]``, and of a dataset of PyTorch,
        ``torch.utils.data.Subset(dataset, found.clean_rows())``.
        """
        clean, start = ~self.mask(), 0
        if self.n_ignored:
            for block in self.score_parts.blocks():
                clean[start : start + len(block)] &= ~np.isnan(block)
                start += len(block)
        return np.flatnonzero(clean).astype(np.int64, copy=False)

    def audit(self, budget: int = 200, seed: int = 0, *, labels: Any = None) -> Audit:
        """Draw rows to review, from which `labelsieve.estimate` tells how many labels are wrong.

        Rows of low score are drawn more often than others, each with a known probability: see `labelsieve.audit`.
        The scores of all rows are read in blocks. The rows depend on the scores, the issues, and the arguments only.

        Parameters
        ----------
        budget : int
            Number of rows to review, at least 20; all rows that have a label, if there are no more. With the same
            seed, a larger audit holds the rows of a smaller one.
        seed : int
            Equal seeds draw equal rows.
        labels : (N,) array-like, path or URL, optional
            The given labels, as numbers or names, to be shown with the rows and for estimates by class. Without them
            these need the column ``given_label`` of the decisions: a result holds the labels of its issues only.

        Returns
        -------
        Audit
            Row numbers and weights.

        Raises
        ------
        InvalidInputError
            For a budget below 20, a negative seed, or labels of another number of rows.

        Examples
        --------
        >>> import numpy as np
        >>> import labelsieve
        >>> rng = np.random.default_rng(0)
        >>> probs = rng.dirichlet([0.2, 0.2], 1000)
        >>> issues = labelsieve.find_label_issues(probs.argmax(axis=1) ^ (rng.random(1000) < 0.1), probs)
        >>> audit = issues.audit(budget=100)
        >>> len(audit.rows), [round(float(weight), 1) for weight in (audit.weights.min(), audit.weights.max())]
        (100, [1.4, 13.0])
        """
        return draw_audit(self, budget, seed, labels)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
        estimate: ErrorEstimate | None = None,
        before: LabelIssues | str | os.PathLike[str] | None = None,
    ) -> None:
        """Write a report for a browser: summary, worst rows, scores, classes, confused pairs, the run.

        Parameters
        ----------
        path : path
            Ends in ``.html``. The report is one file and loads nothing from elsewhere.
        top : int
            Number of issues to show, from the worst.
        images : (N, H, W) or (N, H, W, 3) array, path, URL, pattern, or sequence of these; optional
            Pictures of the rows; only those shown are read. Arrays of bytes or numbers of any range, or the path of a
            ``.npy`` file or Zarr array; or PNG and JPEG files: a list or column of paths or URLs, a pattern such as
            ``images/*.png``, whose files are in natural order (2 before 10), or a ``.txt`` file with one on each line.
        texts : sequence of str, or path, optional
            Texts of the rows, or a text file with one on each line.
        title : str, optional
            Name of the dataset, for the heading; by default the end of the path of `pred_probs`.
        estimate : ErrorEstimate, optional
            What an audit says, for the summary: see `labelsieve.estimate`.
        before : LabelIssues or path, optional
            An earlier result of the same rows: a section says which of its issues were resolved, which are still there
            and which are new (`labelsieve.compare`).

        Raises
        ------
        InvalidInputError
            For another ending, pictures or texts that are not of N rows, or an earlier result of other rows.
        MissingDependencyError
            Without jinja2 or matplotlib.
        UnwritableError
            If the report cannot be written: a folder without permission, a full disk.
        """
        page = Path(check_place("path", path))
        shown = check_whole_number("top", top, 0)
        report.write_report(
            self,
            page,
            top=shown,
            images=images,
            texts=texts,
            title=title,
            estimate=check_estimate(estimate, self),
            comparison=compare_with(before, self),
        )

    @property
    def plot(self) -> Plots:
        """Pictures: ``plot.scores()``, ``plot.classes()`` and ``plot.pairs()``, which return matplotlib axes."""
        return Plots(self)

    def __repr__(self) -> str:
        share = self.num_issues / self.n_labelled
        worst = ", ".join(str(row) for row in self.worst(5).rows.tolist()) + (", ..." if self.num_issues > 5 else "")
        of_all = f"{self.n_labelled:,} {'labelled ' if self.n_ignored else ''}rows ({share:.2%})"
        return (
            f"<LabelIssues: {self.num_issues:,} of {of_all} in {self.n_classes:,} classes; "
            f"worst rows: {worst or 'none'}>"
        )

    def _repr_html_(self) -> str:
        """Show a summary and the worst rows in a notebook. Names of classes and rows are escaped."""
        columns = self.issue_table(0, 5)
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>"
            for row in zip(*(column.tolist() for column in columns.values()), strict=True)
        )
        unit = "rows" if self.layout is None else self.layout.units[0]
        ignored = f" ({self.n_ignored:,} more {unit} have no label)" if self.n_ignored else ""
        return (
            f"<p><strong>{self.num_issues:,}</strong> label issues in {self.n_labelled:,} {unit} "
            f"({self.num_issues / self.n_labelled:.2%}) of {self.n_classes:,} classes{ignored}; "
            f"an estimated {self.estimated_num_issues:,} labels are wrong: label health {self.health_score():.1%}</p>"
            f"<table><caption>The worst {unit}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def check_estimate(estimate: object, result: Result) -> ErrorEstimate | None:
    """Return an estimate for the report of `result`, or raise unless it is one of as many rows."""
    if estimate is None:
        return None
    if not isinstance(estimate, ErrorEstimate):
        raise InputTypeError(f"estimate must be what labelsieve.estimate returns, not {estimate!r}")
    if estimate.n_rows != result.n_labelled:
        raise InvalidInputError(
            f"the estimate is of {estimate.n_rows:,} labelled rows, the result has {result.n_labelled:,}"
        )
    return estimate


def open_rows(name: str, result: Any) -> LabelIssues:
    """Return a result, which may be saved or of any task, as issues of rows.

    Raises
    ------
    InvalidInputError, UnreadableDataError
        As `load_rows`.
    InputTypeError
        For anything but a result or a path; `name` is for the message.
    """
    if isinstance(result, str | os.PathLike):
        return load_rows(result)
    rows = getattr(result, "rows", result)  # of pixels, tokens and tags
    if not isinstance(rows, LabelIssues):
        raise InputTypeError(f"{name} must be a result or the path of a saved one, not {type(result).__name__}")
    return rows


def compare_with(before: Any, after: LabelIssues) -> Comparison | None:
    """Return the comparison for the report of `after`; None without an earlier result."""
    return None if before is None else compare_results(open_rows("before", before), after)


def load_rows(path: str | os.PathLike[str]) -> LabelIssues:
    """Open a saved result as issues of rows, whatever these are: see `labelsieve.load`."""
    return LabelIssues(**read_result(open_folder(path, "path")))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
