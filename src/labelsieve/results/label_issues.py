"""`LabelIssues`: the result of a run, with its tables, files and pictures."""

from __future__ import annotations

import html
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.options import check_flag, check_whole_number
from labelsieve.results import report
from labelsieve.results import store as export
from labelsieve.results.report import Plots
from labelsieve.results.result import Result, frame_of
from labelsieve.results.store import StoredScores, check_ending, read_result
from labelsieve.results.units import Layout
from labelsieve.storage.folder import open_folder
from labelsieve.storage.remote import check_place

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.estimate import ErrorEstimate
    from labelsieve.confident_learning.thresholds import Bools, Float64s, Floats, Int64s
    from labelsieve.review.audit import Audit
    from labelsieve.review.compare import Comparison


def later(module: str) -> Any:
    """Import a module that shows or uses results when it is needed: nothing here depends on it."""
    return importlib.import_module(f"labelsieve.{module}")


class LabelIssues(Result):
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
    lowest(top) : (top,) int64
        The `top` rows of lowest score, the lowest first, whether they are issues or not; `review` shows them.
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

        Raises
        ------
        MissingDependencyError
            Without pandas.

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

        Raises
        ------
        MissingDependencyError
            Without pandas.

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
        """Return a weight for each row, to train without a review of the issues.

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

        Rows of low score are drawn more often than others, each with a known probability.
        The scores of all rows are read in blocks. The rows depend on the scores, the issues, and the arguments only.

        Parameters
        ----------
        budget : int
            Number of rows to review, at least 20; all rows that have a label, if there are no more. With the same
            seed, a larger audit holds the rows of a smaller one.
        seed : int
            Equal seeds draw equal rows.
        labels : (N,) array-like, path or URL, optional
            The given labels, as numbers or names, to be shown with the rows and for estimates by class;
            ``table.parquet::label`` is a column of a Parquet or CSV file. Of pixels, tokens and tags they may be masks,
            a matrix or lists. Without them these need the column ``given_label`` of the decisions: a result holds the
            labels of its issues only.

        Returns
        -------
        Audit
            Row numbers and weights.

        Raises
        ------
        InvalidInputError
            For a budget below 20, a negative seed, or labels that are not those of the result.

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
        drawn: Audit = later("review.audit").draw_audit(self, budget, seed, labels)
        return drawn

    def review(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 500,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        audit: Audit | None = None,
        rows: Any = None,
        pred_probs: Any = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        title: str | None = None,
    ) -> None:
        """Write a page on which a person decides about the issues, or about the rows of an audit.

        The page is one file that works offline. A row is shown at a time, or many in a grid; decisions are made by
        keyboard, stay in the browser, and are downloaded as the CSV file that `labelsieve.apply_decisions` and
        `labelsieve.estimate` take.

        Parameters
        ----------
        path : path
            Ends in ``.html``.
        top : int
            Number of issues to show, from the worst; with `audit` or `rows`, these are shown instead.
        images : (N, H, W) or (N, H, W, 3) array, path, pattern, or sequence of paths or URLs, optional
            Pictures of the rows, as for `report`; only those shown are read. Larger ones become thumbnails of at most
            20 kB.
        texts : sequence of str, or path, optional
            Texts of the rows, or a text file with one on each line; 5,000 letters of each are shown.
        audit : Audit, optional
            An audit of this result: its rows in its order. Rows that are not issues have no suggestion, unless
            `pred_probs` is given.
        rows : (n,) array-like of int, optional
            Rows to show, in this order, such as ``issues.lowest(500)``: also rows that are not issues, which need
            `labels`, and have a suggestion only with `pred_probs`.
        pred_probs : (N, K) array-like or path, optional
            The predicted probabilities of this result, or the logits, for the five most probable classes of each row.
            Otherwise only the given and the suggested class are shown with theirs.
        labels : (N,) array-like or path, optional
            The given labels, as in `audit`, which decisions then name. By default they are what the run read; needed
            for rows that are not issues, if they are not those of an audit that was drawn with labels.
        class_names : sequence of str, optional
            What to show of each class; by default the names in the result.
        title : str, optional
            Name of the dataset, for the heading; by default the end of the path of `pred_probs`.

        Raises
        ------
        InvalidInputError
            For another ending; an audit of another result; pictures, texts, labels or probabilities that are not of
            these rows; rows that are not there, have no label, or occur twice.
        InputTypeError
            For objects of another kind.
        MissingDependencyError
            Without jinja2, or Pillow for pictures.
        UnwritableError
            If the page cannot be written: a folder without permission, a full disk.

        Examples
        --------
        >>> import tempfile
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> path = f"{tempfile.mkdtemp()}/review.html"
        >>> found.review(path, texts=["a cat", "a dog", "another dog"])
        """
        shown = _shown(texts, audit, rows, pred_probs, labels, class_names)
        later("review.page").write_review(self, path, top=top, images=images, title=title, **shown)

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
            What an audit of this result says, for the summary: see `labelsieve.estimate`.
        before : LabelIssues or path, optional
            An earlier result of the same rows: a section says which of its issues were resolved, which are still there
            and which are new (`labelsieve.compare`).

        Raises
        ------
        InvalidInputError
            For another ending, pictures or texts that are not of N rows, an estimate of another result, or an earlier
            result of other rows.
        InputTypeError
            For objects of another kind.
        MissingDependencyError
            Without jinja2 or matplotlib, or Pillow for pictures.
        UnwritableError
            If the report cannot be written: a folder without permission, a full disk.
        """
        page, top = Path(check_place("path", path)), check_whole_number("top", top, 0)
        found, compared = report.check_estimate(estimate, self), compare_with(before, self)
        report.write_report(
            self, page, top=top, images=images, texts=texts, title=title, estimate=found, comparison=compared
        )

    @property
    def plot(self) -> Plots:
        """Pictures: ``plot.scores()``, ``plot.classes()`` and ``plot.pairs()``, which return matplotlib axes."""
        return Plots(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole result into one Zarr group, for `labelsieve.load`.

        Parameters
        ----------
        path : path or URL
            Ends in ``.zarr``; an earlier result there is replaced once all is written.

        Raises
        ------
        InvalidInputError
            For a path that is not a valid output location.
        UnwritableError
            If it cannot be written: a folder without permission, a full disk.
        """
        export.write(self, check_ending("path", path, ".zarr"))

    def to_csv(self, path: str | os.PathLike[str], *, escape_formulas: bool = True) -> None:
        """Write the issues as a CSV table, worst first.

        Parameters
        ----------
        path : path
            Ends in ``.csv``.
        escape_formulas : bool
            Write an apostrophe before ids and class names that a spreadsheet would run as formulas: those that begin
            with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, and are not numbers.
            `labelsieve.unescape_formula` takes it away again, and so does ``ids=`` for a ``.csv`` file.

        Raises
        ------
        InvalidInputError
            For another ending, or a missing folder.
        UnwritableError
            If the file cannot be written: a folder without permission, a full disk.
        """
        check_flag("escape_formulas", escape_formulas)
        export.write(self, check_ending("path", path, ".csv"), escape_formulas=escape_formulas)

    def to_parquet(self, path: str | os.PathLike[str], rows_a_file: int = export.ROWS_A_FILE) -> None:
        """Write the issues as a Parquet table, worst first.

        Parameters
        ----------
        path : path
            Ends in ``.parquet``. More than `rows_a_file` issues make a folder of such files, which pandas and Arrow
            read as one table.
        rows_a_file : int
            Most rows in a file.

        Raises
        ------
        MissingDependencyError
            Without pyarrow.
        UnwritableError
            If it cannot be written: a folder without permission, a full disk.
        """
        export.write(
            self, check_ending("path", path, ".parquet"), rows_a_file=check_whole_number("rows_a_file", rows_a_file, 1)
        )

    def to_label_studio(
        self,
        path: str | os.PathLike[str],
        *,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        top: int | None = None,
        audit: Audit | None = None,
        rows: Any = None,
        pred_probs: Any = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> str:
        """Write the issues, or the rows of an audit, as tasks for Label Studio; return the labelling configuration.

        Each task has the suggested class as a prediction, and in its data ``row``, ``row_id`` (if there are ids),
        ``image`` or ``text``, ``given_label`` and ``suggested_label`` (as they are stored), ``given_choice`` and
        ``suggested_choice`` (as they are shown), ``p_given``, ``p_suggested``, ``score`` and ``result`` (the
        fingerprint). `docs/from_found_to_fixed.md` shows the way back.

        Parameters
        ----------
        path : path
            Ends in ``.json``. Import this file into a project that has the returned configuration.
        images : sequence of str, path, or pattern, optional
            URLs that the browsers of reviewers can open, which are passed on as they are: of all rows, as a list, a
            column or a text file with one on each line; or a pattern, ``"https://example.org/{row}.png"``, with
            ``{row}`` or ``{id}``. (Local files are ``"/data/local-files/?d=..."`` in Label Studio.)
        texts : sequence of str, or path, optional
            Texts of all rows, or a text file with one on each line; 5,000 letters of each are passed on. Without images
            and texts, tasks show the id or the row.
        top : int, optional
            Number of issues, from the worst; all by default. With `audit` or `rows`, these are written instead.
        audit, rows, pred_probs, labels, class_names : optional
            As in `review`. Rows that are not issues have a prediction only with `pred_probs`.

        Returns
        -------
        str
            XML for *Settings, Labeling Interface, Code* of the project.

        Raises
        ------
        InvalidInputError
            For another ending, images or texts of another number of rows, and class names that are empty, occur twice
            or hold control characters; for `audit`, `rows`, `pred_probs` and `labels` as in `review`.
        InputTypeError
            For objects of another kind, such as pictures in memory.
        UnwritableError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> print(found.to_label_studio(f"{tempfile.mkdtemp()}/tasks.json", texts=["a cat", "a dog", "another dog"]))
        <View>
          <Header value="Given label: $given_choice"/>
          <Text name="text" value="$text"/>
          <Choices name="label" toName="text" choice="single-radio" showInline="true">
            <Choice value="0"/>
            <Choice value="1"/>
          </Choices>
        </View>
        """
        shown = _shown(texts, audit, rows, pred_probs, labels, class_names)
        config: str = later("review.label_studio").write_label_studio(self, path, top=top, images=images, **shown)
        return config

    def to_cleanlab(self) -> pd.DataFrame:
        """Return all rows as a frame for cleanlab.

        Returns
        -------
        pandas.DataFrame
            A line for each row, in order: ``is_label_issue``, ``label_quality`` (the score; also as ``label_score``,
            the name in ``Datalab.issues``), and ``predicted_label`` (the suggested class of issues; missing for other
            rows, whose predicted class a result does not keep).

        Raises
        ------
        MissingDependencyError
            Without pandas.

        Examples
        --------
        ``CleanLearning`` trains without the issues:

        >>> import numpy as np
        >>> import labelsieve
        >>> from cleanlab.classification import CleanLearning
        >>> from sklearn.linear_model import LogisticRegression
        >>> features, labels = np.array([[0.0], [0.1], [1.0], [1.1], [0.9]]), np.array([0, 0, 1, 1, 0])
        >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.1, 0.9]]
        >>> found = labelsieve.find_label_issues(labels, probs)
        >>> model = CleanLearning(LogisticRegression(C=100)).fit(features, labels, label_issues=found.to_cleanlab())
        >>> model.predict(np.array([[0.9]])).tolist()
        [1]
        """
        quality = self.score_parts.to_numpy().astype(np.float64)
        frame = frame_of({"is_label_issue": self.mask(), "label_quality": quality, "label_score": quality})
        suggested: npt.NDArray[np.int64] = np.full(self.n_rows, -1, np.int64)
        for rows, labels in zip(self.found.column("row"), self.found.column("suggested_label"), strict=True):
            suggested[rows] = labels
        frame["predicted_label"] = suggested
        frame["predicted_label"] = frame["predicted_label"].astype("Int64").mask(suggested < 0)
        return frame

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
    return None if before is None else later("review.compare").compare(before, after)


def load_rows(path: str | os.PathLike[str]) -> LabelIssues:
    """Open a saved result as issues of rows, whatever these are: see `labelsieve.load`."""
    return LabelIssues(**read_result(open_folder(path, "path")))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(texts: Any, audit: Any, rows: Any, pred_probs: Any, labels: Any, class_names: Any) -> dict[str, Any]:
    """Return which rows are reviewed, and what is shown of them, as several methods pass it on to `ReviewRows`."""
    return {
        "texts": texts,
        "audit": audit,
        "rows": rows,
        "pred_probs": pred_probs,
        "labels": labels,
        "class_names": class_names,
    }


# Rows whose scores are reduced at a time, unless a group has more.
_BLOCK_ROWS: Final = 1 << 20


class GroupedIssues:
    """The issues of a run whose rows are pixels, tokens or tags.

    Parameters
    ----------
    rows : LabelIssues
        The issues as rows, which have a `layout`.

    Attributes
    ----------
    rows : LabelIssues
        The issues as rows: one pixel, token or tag after the other.
    layout : Layout
        Where each row is.
    num_issues, n_classes, n_ignored, confident_thresholds, class_counts, class_names, settings, facts : object
        Those of `rows`.
    """

    def __init__(self, rows: LabelIssues) -> None:
        if rows.layout is None:
            raise ValueError("the rows have no groups")
        self.rows, self.layout = rows, rows.layout
        self.num_issues, self.n_classes, self.n_ignored = rows.num_issues, rows.n_classes, rows.n_ignored
        self.confident_thresholds, self.class_counts = rows.confident_thresholds, rows.class_counts
        self.class_names, self.settings, self.facts = rows.class_names, rows.settings, rows.facts

    def class_summary(self) -> pd.DataFrame:
        """Return a table with a row per class, the noisiest first: see `labelsieve.LabelIssues.class_summary`."""
        return self.rows.class_summary()

    def confused_pairs(self, top: int | None = 20) -> pd.DataFrame:
        """Return which labels are confused with which classes: see `labelsieve.LabelIssues.confused_pairs`."""
        return self.rows.confused_pairs(top)

    def health_score(self) -> float:
        """Return the estimated share of right labels."""
        return self.rows.health_score()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole result into one Zarr group, for `labelsieve.load`: see `labelsieve.LabelIssues.save`."""
        self.rows.save(path)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
        before: Any = None,
    ) -> None:
        """Write a report for a browser: see `labelsieve.LabelIssues.report`. Pictures and texts are those of groups."""
        self.rows.report(path, top=top, images=images, texts=texts, title=title, before=before)

    def issues_per_group(self) -> Int64s:
        """Return the ``(n_groups,)`` number of issues in each group."""
        total = np.zeros(self.layout.n_groups, np.int64)
        for rows in self.rows.found.column("row"):
            total += np.bincount(self.layout.groups_of(rows), minlength=len(total))
        return total

    def score_blocks(self) -> Iterator[tuple[int, Int64s, Floats]]:
        """Yield the scores of all rows, some whole groups at a time.

        Yields
        ------
        first : int
            Number of the first of the groups.
        edges : (n + 1,) int64
            Where the scores of each of n groups begin in `scores`, and the last ones end.
        scores : (edges[-1],) float
            Scores of their rows; valid until the next ones.
        """
        yield from whole_groups(self.layout, self.rows.score_parts.blocks())

    def __len__(self) -> int:
        return self.num_issues

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()

    def _rows_of(self, group: int | None) -> tuple[int, int]:
        """Return the first row of a group and the one behind its last; those of all groups without a number."""
        if group is None:
            return 0, self.rows.n_rows
        start, stop = self.layout.edges(group, group + 1).tolist()
        return start, stop

    def _mask_of_rows(self, start: int, stop: int) -> Bools:
        """Return which of the rows ``[start, stop)`` are issues."""
        scores = self.rows.score_parts
        if isinstance(scores, StoredScores):
            stored: Bools = scores.group.open("mask").read(start, stop)
            return stored
        mask = np.zeros(stop - start, np.bool_)
        for rows in self.rows.found.column("row"):
            mask[rows[(rows >= start) & (rows < stop)] - start] = True
        return mask

    def _scores_of_rows(self, start: int, stop: int) -> Floats:
        """Return the scores of the rows ``[start, stop)``."""
        scores = self.rows.score_parts
        if isinstance(scores, StoredScores):
            stored: Floats = scores.group.open("scores").read(start, stop)
            return stored
        return np.asarray(self.rows.scores[start:stop])

    def _checked_group(self, group: int) -> int:
        """Return the number of a group, or raise if there is none."""
        what = self.layout.units[1]
        number = check_whole_number(what.removesuffix("s"), group, 0)
        if number >= self.layout.n_groups:
            raise InvalidInputError(
                f"there is no {what.removesuffix('s')} {number:,}: there are {self.layout.n_groups:,}, from 0 on"
            )
        return number


class IssuePairs(GroupedIssues):
    """The issues of a run whose rows are named by two numbers: a sentence and a token, or an example and a tag.

    Iterating over a result gives its pairs, worst first, and NumPy converts it to an ``(num_issues, 2)`` array.
    """

    def pairs(self, top: int | None = None) -> Int64s:
        """Return the issues as pairs of a group and a place in it, worst first.

        Parameters
        ----------
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        (num_issues or top, 2) int64
            Sentence and token, or example and tag, of each issue.
        """
        stop = self.num_issues if top is None else check_whole_number("top", top, 0)
        return self._pairs_of(self.rows.indices if stop >= self.num_issues else self.rows.worst(stop).rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for rows in self.rows.found.column("row"):
            yield from as_tuples(self._pairs_of(rows))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.pairs(), dtype, copy=copy)

    def _pairs_of(self, rows: Int64s) -> Int64s:
        return np.stack(list(self.layout.columns(rows).values()), axis=1)


def as_tuples(pairs: Int64s) -> list[tuple[int, int]]:
    """Return an ``(n, 2)`` array as a list of tuples."""
    return list(zip(*pairs.T.tolist(), strict=True)) if len(pairs) else []


def lowest(scores: Float64s, top: int) -> Int64s:
    """Return the numbers of the `top` lowest scores, the lowest first, ties by number; those that are NaN are left out.

    Parameters
    ----------
    scores : (n_groups,) float64
        Scores of groups.
    top : int
        Most numbers to return.

    Raises
    ------
    InvalidInputError
        For a negative number.
    """
    order = np.argsort(scores, kind="stable")  # NaN last
    return order[: min(check_whole_number("top", top, 0), int(np.count_nonzero(~np.isnan(scores))))]


def whole_groups(
    layout: Layout, blocks: Iterator[npt.NDArray[Any]], block_rows: int = _BLOCK_ROWS
) -> Iterator[tuple[int, Int64s, npt.NDArray[Any]]]:
    """Cut a column of all rows, which comes in blocks of any lengths, into blocks of whole groups.

    Parameters
    ----------
    layout : Layout
        The groups.
    blocks : iterator of (n,) arrays
        The column, in row order.
    block_rows : int
        Most rows of a block, unless a single group has more.

    Yields
    ------
    first : int
        Number of the first of the groups.
    edges : (n + 1,) int64
        Where each of n groups begins in `values`, and the last one ends.
    values : (edges[-1],) array
        The column of their rows.
    """
    first, parts, n_held = 0, [np.empty(0)], 0
    for block in blocks:
        # Joined once there is a whole group: one may have many blocks.
        parts, n_held = [*parts, block] if n_held else [block], n_held + len(block)
        while first < layout.n_groups:
            edges = _next_edges(layout, first, min(n_held, block_rows))
            if edges[-1] > n_held:
                break
            held = parts[0] if len(parts) == 1 else np.concatenate(parts)
            yield first, edges, held[: edges[-1]]
            parts, n_held, first = [held[edges[-1] :]], n_held - int(edges[-1]), first + len(edges) - 1
    while first < layout.n_groups:  # groups without rows, at the end
        edges = _next_edges(layout, first, 0)
        yield first, edges, parts[-1][:0]
        first += len(edges) - 1


def _next_edges(layout: Layout, first: int, n_rows: int) -> Int64s:
    """Return the edges of the groups from `first` on that fit in `n_rows` rows, or of that group alone, from 0."""
    n = 1
    while (
        first + n < layout.n_groups and layout.edges(first, first + 2 * n)[-1] - layout.edges(first, first)[0] <= n_rows
    ):
        n *= 2
    edges = layout.edges(first, min(first + 2 * n, layout.n_groups))
    edges = edges - edges[0]
    fitting: Int64s = edges[: max(2, int(np.searchsorted(edges, n_rows, "right")))]
    return fitting


def load(path: str | os.PathLike[str]) -> LabelIssues | GroupedIssues | Audit:
    """Open a saved result or audit; issues and scores are read when they are used.

    Parameters
    ----------
    path : path or URL
        The ``.zarr`` group that `LabelIssues.save` or ``find_label_issues(..., output=...)`` wrote, or the ``.json``
        file that `Audit.save` wrote.

    Returns
    -------
    LabelIssues or Audit
        The result; for other tasks than classification the result of that task.

    Raises
    ------
    InvalidInputError
        If there is no result and no audit, or one in another format.
    UnreadableDataError
        If a file of it is missing or damaged, now or when it is first used: which file, and which rows.

    Warns
    -----
    LabelsieveWarning
        If an earlier version wrote the result, without checksums (format 2).

    Examples
    --------
    >>> import tempfile
    >>> import labelsieve
    >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> path = f"{tempfile.mkdtemp()}/result.zarr"
    >>> found.save(path)
    >>> labelsieve.load(path)
    <LabelIssues: 1 of 3 rows (33.33%) in 2 classes; worst rows: 2>
    """
    if str(path).endswith(".json"):
        audit: Audit = later("review.audit").read_audit(path)
        return audit
    issues = load_rows(path)
    if issues.layout is None:
        return issues
    grouped: GroupedIssues = later("find").task_of(issues.layout.task).wrap(issues)
    return grouped
