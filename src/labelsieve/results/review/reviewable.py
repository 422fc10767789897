"""`ReviewableResult`: a result whose issues, or the rows of an audit, a person decides about on a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelsieve.results.audit import Audit
from labelsieve.results.pictures import open_pictures
from labelsieve.results.result import Result
from labelsieve.results.review.page import check_page, write_page
from labelsieve.results.review.rows import ReviewRows
from labelsieve.settings import check_whole_number
from labelsieve.storage.urls import check_place


class ReviewableResult(Result):
    """Adds the review page to the data of a result; `labelsieve.LabelIssues` is one."""

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
            The given labels, as numbers or names, which decisions then name. By default they are what the run read;
            needed for results of earlier versions with class names, and for rows that are not issues, if they are not
            those of an audit that was drawn with labels.
        class_names : sequence of str, optional
            What to show of each class; by default the names in the result.
        title : str, optional
            Name of the dataset, for the heading; by default the end of the path of `pred_probs`.

        Raises
        ------
        InvalidInputError
            For another ending; an audit of another result; pictures, texts, labels or probabilities that are not of
            these rows.
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
        page = Path(check_place("path", path))
        check_page(page)
        shown = ReviewRows(
            self,
            top=check_whole_number("top", top, 1),
            audit=audit,
            rows=rows,
            texts=texts,
            pred_probs=pred_probs,
            labels=labels,
            class_names=class_names,
        )
        write_page(shown, page, pictures=None if images is None else open_pictures(images, self.n_rows), title=title)

    def serve_review(
        self,
        decisions: str | os.PathLike[str],
        *,
        top: int | None = None,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        audit: Audit | None = None,
        rows: Any = None,
        pred_probs: Any = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        title: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Serve the page of `review` until Ctrl-C, and write decisions to a CSV file as they are made.

        Each decision is on the disk before the page shows it as saved. Rows and pictures are read when they are shown,
        so that 100,000 rows are no more work than 100. The URL, which is printed, has a secret in it that is another
        each time.

        Parameters
        ----------
        decisions : path
            Ends in ``.csv``. If the file is there, with decisions about this result, it is continued. It has one
            decision about each row, the last one: reviewers who decide independently take a file each.
        top : int, optional
            Number of issues to show, from the worst; all by default.
        images, texts, audit, rows, pred_probs, labels, class_names, title
            As for `review`; pictures are shown as large as they are.
        host : str
            Address of this machine; other machines reach only another one than the default, without encryption.
        port : int
            0 takes one that is free.

        Raises
        ------
        InvalidInputError
            As for `review`; also if the file holds anything else, or the server cannot listen there.
        InUseError
            If another server writes to the file.
        MissingDependencyError
            Without jinja2, or Pillow for pictures.
        UnwritableError
            If the file cannot be written.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.serve_review("decisions.csv", texts=["a cat", "a dog", "another dog"])  # doctest: +SKIP
        http://127.0.0.1:35011/Dy1lQz0TO-U6aW1P232nJmFOSaxA9FUn/
        1 row to review; decisions are written to decisions.csv; Ctrl-C ends
        """
        from labelsieve.results.review.server import serve_review  # Tornado, which nothing else here needs

        shown = ReviewRows(
            self,
            top=self.num_issues if top is None else check_whole_number("top", top, 1),
            audit=audit,
            rows=rows,
            texts=texts,
            pred_probs=pred_probs,
            labels=labels,
            class_names=class_names,
        )
        serve_review(
            shown,
            decisions,
            pictures=None if images is None else open_pictures(images, self.n_rows),
            title=title,
            host=host,
            port=check_whole_number("port", port, 0),
        )
