"""What a result of rows is written to: its own format, tables, and files and frames for other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelsieve.errors import InvalidInputError
from labelsieve.results import export
from labelsieve.results.audit import Audit
from labelsieve.results.label_studio import write_label_studio
from labelsieve.results.other_tools import argilla_frame, cleanlab_frame, fiftyone_frame
from labelsieve.results.result import Result
from labelsieve.settings import check_flag, check_whole_number
from labelsieve.storage.urls import check_place, without_query

if TYPE_CHECKING:
    import pandas as pd


class IssueExports(Result):
    """A result of rows that can be written: the part of `labelsieve.LabelIssues` for other tools."""

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
        export.write(self, _ending(path, ".zarr"))

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
        export.write(self, _ending(path, ".csv"), escape_formulas=escape_formulas)

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
        export.write(self, _ending(path, ".parquet"), rows_a_file=check_whole_number("rows_a_file", rows_a_file, 1))

    def to_label_studio(
        self,
        path: str | os.PathLike[str],
        *,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        top: int | None = None,
        audit: Audit | None = None,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> str:
        """Write the issues, or the rows of an audit, as tasks for Label Studio; return the labelling configuration.

        Each task has the suggested class as a prediction, and in its data ``row``, ``row_id`` (if there are ids),
        ``image`` or ``text``, ``given_label`` and ``suggested_label`` (as they are stored), ``given_choice`` and
        ``suggested_choice`` (as they are shown), ``p_given``, ``p_suggested``, ``score`` and ``result`` (the
        fingerprint). `labelsieve.exchange` shows the way back.

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
            Number of issues, from the worst; all by default. Without meaning for an audit.
        audit, labels, class_names : optional
            As in `review`.

        Returns
        -------
        str
            XML for *Settings, Labeling Interface, Code* of the project.

        Raises
        ------
        InvalidInputError
            For another ending, images or texts of another number of rows, and class names that are empty, occur twice
            or hold control characters.
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
        shown = self.num_issues if top is None else check_whole_number("top", top, 0)
        return write_label_studio(
            self, path, images=images, texts=texts, top=shown, audit=audit, labels=labels, class_names=class_names
        )

    def to_cleanlab(self, datalab: Any = None) -> pd.DataFrame:
        """Return all rows as a frame for cleanlab, and give the issues to a ``Datalab``.

        Parameters
        ----------
        datalab : cleanlab.Datalab, optional
            Take these issues as those of the kind ``label``, in place of any that are there, for ``report``,
            ``get_issues`` and ``issue_summary``. It must be of the same rows and labels.

        Returns
        -------
        pandas.DataFrame
            A line for each row, in order: ``is_label_issue``, ``label_quality`` (the score; also as ``label_score``,
            the name in ``Datalab.issues``), and ``predicted_label`` (the suggested class of issues; missing for other
            rows, whose predicted class a result does not keep).

        Raises
        ------
        InvalidInputError
            If the ``Datalab`` has other rows or labels.
        InputTypeError
            For another object as `datalab`.
        MissingDependencyError
            Without pandas.

        Notes
        -----
        A ``Datalab`` has a predicted label for each row: of those that are not issues it gets the given label.

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

        ``Datalab`` reports them::

            lab = cleanlab.Datalab({"label": labels}, label_name="label")
            found.to_cleanlab(datalab=lab)
            lab.report()
        """
        return cleanlab_frame(self, datalab)

    def to_fiftyone(self, images: Any = None, top: int | None = None) -> pd.DataFrame:
        """Return the issues as a frame for FiftyOne, worst first.

        Parameters
        ----------
        images : sequence of str, path, or pattern, optional
            Paths of the pictures of all rows, as in `to_label_studio`.
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        pandas.DataFrame
            ``id`` and ``row``; ``filepath`` (if images are given); ``ground_truth`` and ``suggestion`` (names of
            classes, or their numbers as text), ``confidence`` (probability of the suggestion), ``p_given``, and
            ``label_quality`` (the score).

        Raises
        ------
        InvalidInputError
            For images of another number of rows.
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.to_fiftyone(images="images/{row}.png")[["filepath", "ground_truth", "suggestion"]].values.tolist()
        [['images/2.png', '0', '1']]

        In FiftyOne::

            dataset = fiftyone.Dataset("label issues")
            dataset.add_samples(
                fiftyone.Sample(
                    filepath=line.filepath,
                    ground_truth=fiftyone.Classification(label=line.ground_truth),
                    suggestion=fiftyone.Classification(label=line.suggestion, confidence=line.confidence),
                    label_quality=line.label_quality,
                    row=line.row,
                )
                for line in found.to_fiftyone(images=paths).itertuples()
            )
        """
        return fiftyone_frame(self, images, None if top is None else check_whole_number("top", top, 0))

    def to_argilla(
        self, texts: Sequence[str] | Path | None = None, *, images: Any = None, top: int | None = None
    ) -> pd.DataFrame:
        """Return the issues as a frame for Argilla, worst first.

        Parameters
        ----------
        texts : sequence of str, or path, optional
            Texts of all rows, or a text file with one on each line.
        images : sequence of str, path, or pattern, optional
            URLs of the pictures of all rows, as in `to_label_studio`.
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        pandas.DataFrame
            ``id`` and ``row``; the fields ``text`` and ``image`` (if given); ``label`` (the suggested class, for a
            question of this name), ``confidence`` (its probability), ``given_label``, ``p_given`` and ``label_quality``
            (the score), for metadata. Classes are names, or numbers as text.

        Raises
        ------
        InvalidInputError
            For texts or images of another number of rows.
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import labelsieve
        >>> found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
        >>> found.to_argilla(["a cat", "a dog", "another dog"])[["id", "text", "label", "given_label"]].values.tolist()
        [['2', 'another dog', '1', '0']]

        In Argilla::

            settings = argilla.Settings(
                fields=[argilla.TextField(name="text")],
                questions=[argilla.LabelQuestion(name="label", labels=class_names)],
                metadata=[
                    argilla.TermsMetadataProperty(name="given_label"),
                    argilla.FloatMetadataProperty(name="confidence"),
                    argilla.FloatMetadataProperty(name="label_quality"),
                    argilla.FloatMetadataProperty(name="p_given"),
                    argilla.IntegerMetadataProperty(name="row"),
                ],
            )
            dataset = argilla.Dataset("label issues", settings=settings).create()
            records = found.to_argilla(texts).to_dict("records")
            dataset.records.log(records, mapping={"confidence": "label.suggestion.score"})
        """
        return argilla_frame(self, texts, images, None if top is None else check_whole_number("top", top, 0))


def _ending(path: str | os.PathLike[str], suffix: str) -> str:
    """Return the path or URL of an output, which must end in `suffix`."""
    place = check_place("path", path)
    if not place.endswith(suffix):
        raise InvalidInputError(f"{without_query(place)} must end in {suffix}")
    return place
