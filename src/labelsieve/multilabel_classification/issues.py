"""The result of multi-label classification: which tags of which examples are likely wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.filters import joints_of_tags
from labelsieve.confident_learning.matrices import Columns
from labelsieve.confident_learning.scores import aggregator
from labelsieve.errors import InvalidInputError
from labelsieve.options import check_whole_number
from labelsieve.results.label_issues import IssuePairs, LabelIssues, lowest
from labelsieve.results.result import frame_of
from labelsieve.results.units import TagLayout

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.thresholds import Bools, Floats, Int64s

# Scores that are made those of examples at a time.
_BLOCK_VALUES: Final = 1 << 18


class MultilabelIssues(IssuePairs):
    """The issues of `labelsieve.multilabel_classification.find_label_issues`.

    An issue is an example and a tag: the example has the tag and likely should not, or the other way round. Each tag is
    a problem of two classes, 0 for examples without the tag and 1 for those with it; `class_counts`,
    `confident_thresholds` and `confident_joint` have a row for each tag.

    Parameters
    ----------
    rows : LabelIssues
        The issues as rows: row ``example * K + tag`` has the class ``2 * tag + 1`` if the example has the tag, else
        ``2 * tag``.

    Attributes
    ----------
    num_issues : int
        Number of (example, tag) issues.
    n_examples, n_tags : int
        Shape of `pred_probs`.
    tag_names : tuple of str or None
        K names, if they were given.
    class_counts : (K, 2) int64
        Number of examples without and with each tag.
    confident_thresholds : (K, 2) float64
        Mean probability of not having and of having each tag, over the examples without and with it; 2.0 if there are
        none.
    confident_joint : (K, 2, 2) int64
        For each tag the number of examples by label and the class that they are confidently counted as.
    rows : LabelIssues
        The issues as rows.

    Examples
    --------
    >>> import numpy as np
    >>> from labelsieve import multilabel_classification
    >>> labels = [[0], [0, 1], [], [1], [0, 1]]
    >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    >>> found = multilabel_classification.find_label_issues(labels, pred_probs)
    >>> found
    <MultilabelIssues: 1 of 10 tags of 5 examples, in 1 of them (20.00%); worst: tag 0 of example 4>
    >>> found.pairs()
    array([[4, 0]])
    """

    layout: TagLayout

    def __init__(self, rows: LabelIssues) -> None:
        super().__init__(rows)
        self.n_examples, self.n_tags, self.tag_names = self.layout.n_groups, self.layout.n_tags, self.layout.names
        self.class_counts = rows.class_counts.reshape(-1, 2)
        self.confident_thresholds = rows.confident_thresholds.reshape(-1, 2)

    @property
    def confident_joint(self) -> Int64s:
        """``(K, 2, 2)`` number of examples by label and the class that they are confidently counted as."""
        joint = np.zeros((self.n_tags, 2, 2), np.int64)
        for tag, counts in enumerate(joints_of_tags(self.rows.confident)):
            joint[tag, [0, 1], [0, 1]] = counts.diagonal
            joint[tag, counts.given, counts.predicted] = counts.counts
        return joint

    def __repr__(self) -> str:
        n_examples = int(np.count_nonzero(self.issues_per_group()))
        worst = "; worst: none"
        if self.num_issues:
            example, tag = divmod(int(self.rows.worst(1).rows[0]), self.n_tags)
            worst = f"; worst: tag {self._named(tag)} of example {example}"
        return (
            f"<MultilabelIssues: {self.num_issues:,} of {self.n_examples * self.n_tags:,} tags of {self.n_examples:,} "
            f"examples, in {n_examples:,} of them ({n_examples / self.n_examples:.2%}){worst}>"
        )

    def _named(self, tag: int) -> str:
        return str(tag) if self.tag_names is None else repr(self.tag_names[tag])

    def mask(self, example: int | None = None) -> Bools:
        """Return which tags are label issues.

        Parameters
        ----------
        example : int, optional
            Number of the example; all examples by default.

        Returns
        -------
        (K,) bool
            The mask of the example. Without `example`, an ``(N, K)`` array.
        """
        if example is not None:
            return self._mask_of_rows(*self._rows_of(self._checked_group(example)))
        return self._mask_of_rows(0, self.rows.n_rows).reshape(-1, self.n_tags)

    def example_mask(self) -> Bools:
        """Return an ``(N,)`` mask that is True for examples with an issue in any tag."""
        found: Bools = self.issues_per_group() > 0
        return found

    def issues_of_tag(self, tag: int) -> Int64s:
        """Return the examples of which a tag is an issue, worst first.

        Parameters
        ----------
        tag : int
            Number of the tag.

        Raises
        ------
        InvalidInputError
            For a number that is not that of a tag.
        """
        if not 0 <= check_whole_number("tag", tag, 0) < self.n_tags:
            raise InvalidInputError(f"tag {tag} is not one of 0..{self.n_tags - 1}")
        parts = [rows[rows % self.n_tags == tag] for rows in self.rows.found.column("row")]
        return np.concatenate([np.empty(0, np.int64), *parts]) // self.n_tags

    def issues_by_tag(self) -> list[Int64s]:
        """Return the examples of which each tag is an issue: K arrays, each worst first."""
        rows = self.rows.indices
        tags = rows % self.n_tags
        order = np.argsort(tags, kind="stable")
        ends = np.cumsum(np.bincount(tags, minlength=self.n_tags))
        return np.split(rows[order] // self.n_tags, ends[:-1])

    def example_scores(
        self, method: str | Callable[..., Any] = "exponential_moving_average", **kwargs: Any
    ) -> npt.NDArray[np.float64]:
        """Return the ``(N,)`` scores of examples: the lower, the less likely are all of their tags right.

        Parameters
        ----------
        method : {"exponential_moving_average", "softmin"} or callable
            How the scores of the tags of an example become one: by default their exponential moving average, from the
            highest to the lowest, with ``alpha=0.8``. A callable takes ``(n, K)`` scores and ``axis=1``.
        **kwargs : object
            ``alpha`` of the first, ``temperature`` (0.1) of the second, or arguments of the callable.

        Raises
        ------
        InvalidInputError, InputTypeError
            For an unknown method, and for arguments out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from labelsieve import multilabel_classification
        >>> probs = np.array([[0.1, 0.9, 0.1], [0.4, 0.1, 0.9]])
        >>> multilabel_classification.find_label_issues([[1], [0, 2]], probs, filter_by=None).example_scores()
        array([0.9, 0.5])
        """
        combine, scores = aggregator(method, **kwargs), np.empty(self.n_examples)
        step = max(1, _BLOCK_VALUES // self.n_tags)
        for first, edges, values in self.score_blocks():
            of_tags = values.reshape(len(edges) - 1, self.n_tags)
            for start in range(0, len(of_tags), step):
                block = of_tags[start : start + step].astype(np.float64)
                scores[first + start : first + start + len(block)] = combine(block)
        return scores

    def tag_scores(self, example: int | None = None) -> Floats:
        """Return the label quality scores of tags.

        Parameters
        ----------
        example : int, optional
            Number of the example; all examples by default.

        Returns
        -------
        (K,) float
            The scores of the example. Without `example`, an ``(N, K)`` array; `score_blocks` has it in blocks.
        """
        if example is not None:
            return self._scores_of_rows(*self._rows_of(self._checked_group(example)))
        return self._scores_of_rows(0, self.rows.n_rows).reshape(-1, self.n_tags)

    def worst_examples(self, top: int = 20) -> Int64s:
        """Return the numbers of the `top` examples of lowest score, worst first, ties by number."""
        return lowest(self.example_scores(), top)

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """Return the issues as a pandas DataFrame, worst first.

        Parameters
        ----------
        top : int, optional
            Number of issues, from the worst; all by default.

        Returns
        -------
        pandas.DataFrame
            ``example``, ``tag``, ``id`` and ``tag_name`` (if given), ``score``, ``has_tag`` (whether the example has
            the tag), ``suggestion`` (``"remove"`` or ``"add"``) and ``p_tag``, the probability of having the tag.

        Raises
        ------
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> import numpy as np
        >>> from labelsieve import multilabel_classification
        >>> labels = [[0], [0, 1], [], [1], [0, 1]]
        >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
        >>> found = multilabel_classification.find_label_issues(labels, pred_probs, class_names=["cat", "dog"])
        >>> found.to_frame()[["example", "tag_name", "has_tag", "suggestion"]].values.tolist()
        [[4, 'cat', True, 'remove']]
        """
        table = self.rows.issue_table(0, None if top is None else check_whole_number("top", top, 0))
        has_tag = table["given_label"] % 2 == 1
        columns: Columns = {name: table[name] for name in ("example", "tag", "id") if name in table}
        if self.tag_names is not None:
            columns["tag_name"] = np.array(self.tag_names, object)[table["tag"]]
        # The label of an issue is not the predicted class, so the two probabilities are of having and of not having it.
        p_tag = np.where(has_tag, table["p_given"], table["p_suggested"])
        suggestion = np.where(has_tag, "remove", "add").astype(object)
        columns |= {"score": table["score"], "has_tag": has_tag, "suggestion": suggestion, "p_tag": p_tag}
        return frame_of(columns)

    def class_summary(self) -> pd.DataFrame:
        """Return a table with a row for each tag, the one with the most issues for its examples first.

        Returns
        -------
        pandas.DataFrame
            ``tag``, ``name`` (if given), ``examples`` (that have the tag), ``remove`` (issues among these), ``add``
            (issues among the others), ``share`` (issues of all examples), ``mean_score`` (of all examples),
            ``threshold_without`` and ``threshold_with``.

        Examples
        --------
        >>> import numpy as np
        >>> from labelsieve import multilabel_classification
        >>> labels = [[0], [0, 1], [], [1], [0, 1]]
        >>> pred_probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
        >>> summary = multilabel_classification.find_label_issues(labels, pred_probs).class_summary()
        >>> summary[["tag", "examples", "remove", "add"]].values.tolist()
        [[0, 3, 1, 0], [1, 3, 0, 0]]
        """
        counts, issues, means = self.class_counts, self.issues_by_label, self.rows.mean_scores.reshape(-1, 2)
        columns: Columns = {"tag": np.arange(self.n_tags)}
        if self.tag_names is not None:
            columns["name"] = np.array(self.tag_names, object)
        columns |= {
            "examples": counts[:, 1],
            "remove": issues[:, 1],
            "add": issues[:, 0],
            "share": issues.sum(axis=1) / self.n_examples,
            "mean_score": np.where(counts > 0, means * counts, 0).sum(axis=1) / self.n_examples,
            "threshold_without": self.confident_thresholds[:, 0],
            "threshold_with": self.confident_thresholds[:, 1],
        }
        return frame_of(columns).sort_values(["share", "tag"], ascending=[False, True], ignore_index=True)

    @property
    def issues_by_label(self) -> Int64s:
        """``(K, 2)`` number of issues among the examples without and with each tag."""
        return self.rows.issues_of_class.reshape(-1, 2)

    def health_score(self) -> float:
        """Return the share of examples without any issue."""
        return 1 - int(np.count_nonzero(self.example_mask())) / self.n_examples
