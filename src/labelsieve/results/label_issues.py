"""`LabelIssues`: what a run found, to be asked, saved, opened again and looked at."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError, MissingDependencyError
from labelsieve.results import export, report
from labelsieve.results.plots import Plots
from labelsieve.results.result import Result
from labelsieve.results.zarr_store import read_result
from labelsieve.settings import check_flag, check_whole_number
from labelsieve.storage.folders import LocalFolder, open_folder
from labelsieve.storage.urls import check_place, without_query

if TYPE_CHECKING:
    import pandas as pd


class LabelIssues(Result):
    """Label issues of a dataset, found by `labelsieve.find_label_issues`, or opened by `labelsieve.load`.

    What is known is in the attributes of `results.Result`: ``num_issues``, ``indices``, ``issues``, ``scores``,
    ``mask()``, ``confident_thresholds``, ``class_counts``, ``mean_scores``, ``settings``, ``facts``.

    It also stands for its ``indices``: its length is ``num_issues``, iterating over it gives the rows of the issues,
    worst first, NumPy converts it to ``indices``, so that ``data[issues]`` selects these rows, and it is false if there
    are no issues.

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
        """Return the issues as a pandas table, worst first.

        Parameters
        ----------
        top : int, optional
            How many of the worst; all by default.

        Returns
        -------
        pandas.DataFrame
            ``row``, ``id`` (if given), ``score``, ``given_label``, ``suggested_label``, ``p_given``, ``p_suggested``,
            and with class names ``given_name`` and ``suggested_name``. float16 values are in columns of float32.

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
        return _frame(self.issue_table(0, stop))

    def class_summary(self) -> pd.DataFrame:
        """Return a row for each class, the noisiest first.

        Returns
        -------
        pandas.DataFrame
            ``class``, ``rows``, ``issues`` (found with this label), ``share`` (of its rows), ``label_noise`` (share of
            the rows with this label that truly are of another class), ``inverse_label_noise`` (share of the rows truly
            of this class that have another label), ``mean_score``, ``threshold``, ``flag`` (``absent``; ``rare``: fewer
            than 10 rows; ``tiny threshold``: below 1/K; else empty), and ``name``. NaN where a class has no rows.

        Notes
        -----
        Both noises are estimated with the calibrated joint, as ``cleanlab.dataset.rank_classes_by_label_quality`` (2.9)
        does, over the counts of the run's rule. By the confident joint (``settings.rule``) they are that function's of
        the same ``labels`` and ``pred_probs``; of more than 1,024 classes, where remainders do not tie as the joint is
        rounded. By the predicted class they are what it gives for these counts as its ``confident_joint``, and differ
        from its own where many rows do not reach the threshold of their predicted class.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.class_summary()[["class", "rows", "issues", "flag"]].values.tolist()
        [[0, 2, 1, 'rare'], [1, 1, 0, 'rare']]
        """
        frame = _frame(self.class_table())
        return frame.sort_values(["label_noise", "class"], ascending=[False, True], ignore_index=True)

    def confused_pairs(self, top: int | None = 20) -> pd.DataFrame:
        """Return which labels are confused with which classes, the most frequent pairs first; sparse for any K.

        Parameters
        ----------
        top : int or None
            How many pairs; None for all that occur.

        Returns
        -------
        pandas.DataFrame
            ``given_label``, ``suggested_label``, ``confident_rows`` (rows that are confidently predicted so),
            ``estimated_rows`` (scaled to all rows of the label), ``share`` (of these), and with class names
            ``given_name`` and ``suggested_name``.

        Notes
        -----
        ``estimated_rows`` are the *Num Overlapping Examples* of ``cleanlab.dataset.find_overlapping_classes`` (2.9)
        with ``asymmetric=True`` for the same counts, where remainders do not tie as the joint is rounded; see
        `class_summary`.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.confused_pairs().values.tolist()
        [[0.0, 1.0, 1.0, 1.0, 0.5]]
        """
        return _frame(self.pair_table(None if top is None else check_whole_number("top", top, 0)))

    def health_score(self) -> float:
        """Return the share of labels that are right, as estimated: 1 less ``estimated_num_issues / n_rows``.

        As the overall score of ``cleanlab.dataset.health_summary`` (2.9), there with the count of the in-memory rule.

        Examples
        --------
        >>> import labelsieve
        >>> labelsieve.find_label_issues([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]]).health_score()
        0.75
        """
        return 1 - self.estimated_num_issues / self.n_rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was found into one Zarr group, for `labelsieve.load`.

        Parameters
        ----------
        path : path or URL
            Ends in ``.zarr``; an earlier result there is replaced once all is written.

        Raises
        ------
        InvalidInputError
            For a path that is not a valid location of a result.
        UnwritableError
            If it cannot be written: a folder without permission, a full disk.
        """
        location = check_place("path", path)
        if not location.endswith(".zarr"):
            raise InvalidInputError(f"a result is saved where the name ends in .zarr, not to {without_query(location)}")
        export.check_output(location)
        self._refuse_own_place(location)
        export.save(self, location)

    def _refuse_own_place(self, location: str) -> None:
        """Raise where this result would be removed before it is read: in a store where nothing is renamed."""
        target = open_folder(location)
        groups = [getattr(part, "group", None) for part in (self.found, self.score_parts, self.ids)]
        if not isinstance(target, LocalFolder) and any(g and g.folder.where == target.where for g in groups):
            raise InvalidInputError(f"this result is read from {target.where}: save it to another place")

    def to_csv(self, path: str | os.PathLike[str], *, escape_formulas: bool = True) -> None:
        """Write the issues as a table, worst first, in a file whose name ends in ``.csv``.

        Parameters
        ----------
        path : path
            The file.
        escape_formulas : bool
            Write an apostrophe before ids and class names that a spreadsheet would run as formulas: those that begin
            with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, and are not numbers.
            `labelsieve.results.row_ids.unescape_formula` takes it away again, as ``ids=...`` does for a ``.csv`` file.

        Raises
        ------
        InvalidInputError
            For another ending, or a folder that is missing.
        UnwritableError
            If the file cannot be written: a folder without permission, a full disk.
        """
        check_flag("escape_formulas", escape_formulas)
        export.write(self, _ending(path, ".csv"), escape_formulas=escape_formulas)

    def to_parquet(self, path: str | os.PathLike[str], rows_a_file: int = export.ROWS_A_FILE) -> None:
        """Write the issues as a table, worst first, whose name ends in ``.parquet``.

        Parameters
        ----------
        path : path
            A file; of more than `rows_a_file` issues a folder of such files, which pandas and Arrow read as one table.
        rows_a_file : int
            Most rows of a file.

        Raises
        ------
        MissingDependencyError
            Without pyarrow.
        UnwritableError
            If it cannot be written: a folder without permission, a full disk.
        """
        export.write(self, _ending(path, ".parquet"), rows_a_file=check_whole_number("rows_a_file", rows_a_file, 1))

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
    ) -> None:
        """Write a page for a browser: headline, worst rows, scores, classes, confused pairs, the run.

        Parameters
        ----------
        path : path
            Ends in ``.html``. The page is one file and loads nothing from elsewhere.
        top : int
            How many of the worst rows it shows.
        images : (N, H, W) or (N, H, W, 3) array, or path, optional
            Pictures of the rows, or a ``.npy`` file or Zarr array of them; only those shown are read.
        texts : sequence of str, or path, optional
            Texts of the rows, or a file with one a line.
        title : str, optional
            Name of the dataset, for the heading; by default the end of the path of `pred_probs`.

        Raises
        ------
        InvalidInputError
            For another ending, or pictures or texts that are not of N rows.
        MissingDependencyError
            Without jinja2 or matplotlib.
        UnwritableError
            If the page cannot be written: a folder without permission, a full disk.
        """
        page = Path(check_place("path", path))
        report.write_report(self, page, top=check_whole_number("top", top, 0), images=images, texts=texts, title=title)

    @property
    def plot(self) -> Plots:
        """Pictures: ``plot.scores()``, ``plot.classes()``, ``plot.pairs()``, each of which returns matplotlib axes."""
        return Plots(self)

    def __repr__(self) -> str:
        share = self.num_issues / self.n_rows
        worst = ", ".join(str(row) for row in self.worst(5).rows.tolist()) + (", ..." if self.num_issues > 5 else "")
        return (
            f"<LabelIssues: {self.num_issues:,} of {self.n_rows:,} rows ({share:.2%}) in {self.n_classes:,} classes; "
            f"worst rows: {worst or 'none'}>"
        )

    def _repr_html_(self) -> str:
        """Show the headline and the worst rows in a notebook; names of classes and rows are shown as text."""
        columns = self.issue_table(0, 5)
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>"
            for row in zip(*(column.tolist() for column in columns.values()), strict=True)
        )
        return (
            f"<p><strong>{self.num_issues:,}</strong> label issues in {self.n_rows:,} rows "
            f"({self.num_issues / self.n_rows:.2%}) of {self.n_classes:,} classes; "
            f"an estimated {self.estimated_num_issues:,} labels are wrong: label health {self.health_score():.1%}</p>"
            f"<table><caption>The worst rows</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def load(path: str | os.PathLike[str]) -> LabelIssues:
    """Open a result that was saved, or that the tasks of a run wrote; issues and scores are read as they are asked for.

    Parameters
    ----------
    path : path or URL
        The ``.zarr`` group.

    Returns
    -------
    LabelIssues
        What the run found.

    Raises
    ------
    InvalidInputError
        Where there is no result, or one of another version.
    UnreadableDataError
        Where a file of it is missing or damaged, now or when what is in it is first used: which file, and which rows.

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
    return LabelIssues(**read_result(open_folder(path, "path")))


def _ending(path: str | os.PathLike[str], suffix: str) -> Path:
    place = check_place("path", path)
    if not place.endswith(suffix):
        raise InvalidInputError(f"{place} must end in {suffix}")
    return Path(place)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("A table of pandas", "frame") from error
    # pandas cannot print float16 without an overflow: it compares with 1e6. As float32 the values are the same.
    return pd.DataFrame({n: c.astype(np.float32) if c.dtype == np.float16 else c for n, c in columns.items()})
