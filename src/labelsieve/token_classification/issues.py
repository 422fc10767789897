"""`TokenIssues`: wrong labels of tokens, as pairs of a sentence and a token."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from labelsieve.confident_learning.checks import rows_in_words
from labelsieve.errors import InvalidInputError
from labelsieve.options import check_whole_number
from labelsieve.results.label_issues import IssuePairs, LabelIssues, as_tuples, compare_with, later, lowest
from labelsieve.results.report import write_report
from labelsieve.storage.remote import check_place

if TYPE_CHECKING:
    import pandas as pd

    from labelsieve.confident_learning.thresholds import Float64s, Floats, Int64s

SentenceScoreMethod = Literal["min", "softmin"]
SENTENCE_SCORES: Final = ("min", "softmin")
# Temperature of the softmin of a sentence.
TEMPERATURE: Final = 0.05
# Letters of a sentence in a report, on each side of the word that is marked.
_LETTERS_BESIDE: Final = 200


class TokenIssues(IssuePairs):
    """The label issues of tokens, from `labelsieve.token_classification.find_label_issues` or `labelsieve.load`.

    A result stands for its pairs of sentence and token: its length is ``num_issues``, iterating over it gives the
    pairs, worst first, NumPy converts it to an ``(num_issues, 2)`` array, and it is false if there are no issues.

    Attributes
    ----------
    rows : LabelIssues
        The issues as rows, one token after the other: tables, pictures and files of all tokens.
    num_issues : int
        Number of tokens whose label is an issue.
    n_sentences, n_tokens, n_classes : int
        Numbers of sentences, tokens and classes.

    Examples
    --------
    >>> from labelsieve.token_classification import find_label_issues
    >>> labels = [[0, 0, 1], [0, 1]]
    >>> pred_probs = [[[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]], [[0.8, 0.2], [0.8, 0.2]]]
    >>> found = find_label_issues(labels, pred_probs)
    >>> found
    <TokenIssues: 1 of 5 tokens (20.00%) in 2 sentences and 2 classes; worst tokens: (1, 1)>
    >>> list(found), found.sentence_scores()
    ([(1, 1)], array([0.7, 0.2]))
    """

    def __init__(self, rows: LabelIssues) -> None:
        super().__init__(rows)
        self.n_sentences, self.n_tokens = self.layout.n_groups, rows.n_rows

    @property
    def edges(self) -> Int64s:
        """``(n_sentences + 1,)`` row at which each sentence begins, and the number of tokens."""
        return self.layout.edges(0, self.n_sentences)

    def token_scores(self, sentence: int | None = None) -> Any:
        """Return the label quality scores of tokens; NaN for tokens without a label (`ignore_label`).

        Parameters
        ----------
        sentence : int, optional
            Number of the sentence; all sentences by default.

        Returns
        -------
        (T_i,) float
            The scores of the sentence. Without `sentence`, a list of arrays, views of one in memory.

        Examples
        --------
        >>> from labelsieve.token_classification import find_label_issues
        >>> find_label_issues([[0], [1, 0]], [[[0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]]).token_scores()
        [array([0.9]), array([0.8, 0.1])]
        """
        if sentence is None:
            return split_sentences(np.asarray(self.rows.scores), self.edges)
        return self._scores_of_rows(*self._rows_of(self._checked_group(sentence)))

    def mask(self, sentence: int | None = None) -> Any:
        """Return which tokens are label issues.

        Parameters
        ----------
        sentence : int, optional
            Number of the sentence; all sentences by default.

        Returns
        -------
        (T_i,) bool
            The mask of the sentence. Without `sentence`, a list of arrays, views of one in memory.

        Examples
        --------
        >>> from labelsieve.token_classification import find_label_issues
        >>> find_label_issues([[0], [1, 0]], [[[0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]]).mask()
        [array([False]), array([False,  True])]
        """
        if sentence is None:
            return split_sentences(self.rows.mask(), self.edges)
        return self._mask_of_rows(*self._rows_of(self._checked_group(sentence)))

    def sentence_scores(self, method: SentenceScoreMethod = "min", *, temperature: float = TEMPERATURE) -> Float64s:
        """Return a label quality score of each sentence. The scores of tokens are read in blocks.

        Parameters
        ----------
        method : {"min", "softmin"}
            The lowest score of the sentence's tokens, or their mean with weights that grow as scores fall:
            ``softmax((1 - scores) / temperature)``.
        temperature : float
            Of ``"softmin"``: the score goes to the lowest one as it falls to 0, and to the mean as it grows.

        Returns
        -------
        (n_sentences,) float64
            NaN for a sentence without a token that has a label. The same bits for any chunking.

        Raises
        ------
        InvalidInputError
            For another method, or a temperature below 0.

        Examples
        --------
        >>> from labelsieve.token_classification import find_label_issues
        >>> found = find_label_issues([[0], [1, 0]], [[[0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]])
        >>> found.sentence_scores("softmin", temperature=0.5).round(3)
        array([0.9  , 0.238])
        """
        scores = np.empty(self.n_sentences)
        for first, edges, block in self.score_blocks():
            scores[first : first + len(edges) - 1] = scores_of_sentences(block, edges, method, temperature)
        return scores

    def worst_sentences(self, top: int = 20) -> Int64s:
        """Return the numbers of the `top` sentences of lowest score, worst first, ties by number.

        Examples
        --------
        >>> from labelsieve.token_classification import find_label_issues
        >>> find_label_issues([[0], [1, 0]], [[[0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]]).worst_sentences()
        array([1, 0])
        """
        return lowest(self.sentence_scores(), top)

    def to_frame(self, top: int | None = None, *, tokens: Any = None) -> pd.DataFrame:
        """Return the issues as a pandas DataFrame, worst first.

        Parameters
        ----------
        top : int, optional
            Number of issues, from the worst; all by default.
        tokens : sequence of sequence of str, optional
            The words of each sentence, or of all tokens.

        Returns
        -------
        pandas.DataFrame
            ``sentence``, ``token``, ``word`` (with `tokens`), and the columns of `labelsieve.LabelIssues.to_frame`.

        Raises
        ------
        InvalidInputError
            For words that are not those of the tokens.
        MissingDependencyError
            Without pandas.

        Examples
        --------
        >>> from labelsieve.token_classification import find_label_issues
        >>> found = find_label_issues([[0], [1, 0]], [[[0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]])
        >>> found.to_frame(tokens=[["Yes"], ["Cats", "purr"]]).values.tolist()
        [[1, 1, 'purr', 0.1, 0, 1, 0.1, 0.9]]
        """
        frame = self.rows.to_frame(top)
        if tokens is not None:
            words = Words(tokens, self.edges)
            found = [words.of(i)[j] for i, j in zip(frame["sentence"].tolist(), frame["token"].tolist(), strict=True)]
            frame.insert(2, "word", found)
        return frame

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        top: int = 100,
        images: Any = None,
        texts: Sequence[str] | Path | None = None,
        title: str | None = None,
        tokens: Any = None,
        before: Any = None,
    ) -> None:
        """Write a report for a browser, with the words of each sentence around the one whose label is an issue.

        Parameters
        ----------
        path, top, title
            As in `labelsieve.LabelIssues.report`.
        images, texts : optional
            A picture or a text of each sentence.
        tokens : sequence of sequence of str, optional
            The words of each sentence, or of all tokens; the word of the issue is marked.
        before : TokenIssues or path, optional
            An earlier result of the same sentences: as in `labelsieve.LabelIssues.report`.

        Raises
        ------
        InvalidInputError
            As `labelsieve.LabelIssues.report`; and for words that are not those of the tokens.
        MissingDependencyError
            Without jinja2 or matplotlib.
        UnwritableError
            If the report cannot be written.
        """
        top, marked = check_whole_number("top", top, 0), None
        if tokens is not None:
            words = Words(tokens, self.edges)
            marked = [words.around(sentence, token) for sentence, token in as_tuples(self.pairs(top))]
        page = Path(check_place("path", path))
        comparison = compare_with(before, self.rows)
        write_report(
            self.rows,
            page,
            top=top,
            images=images,
            texts=texts,
            title=title,
            marked=marked,
            comparison=comparison,
        )

    def review(self, path: str | os.PathLike[str], *, tokens: Any = None, **choices: Any) -> None:
        """Write a page on which a person decides about tokens, each in its sentence: see `LabelIssues.review`.

        Decisions are about the tokens of all sentences, one after the other: `labelsieve.apply_decisions` takes them
        with labels that are one array, such as ``numpy.concatenate(labels)``.

        Parameters
        ----------
        path : path
            Ends in ``.html``.
        tokens : sequence of sequence of str, optional
            The words of each sentence, or of all tokens; the word of the issue is marked.
        **choices : object
            ``top``, ``audit``, ``rows``, ``pred_probs``, ``labels``, ``class_names`` and ``title`` as there, of all
            tokens; ``images`` and ``texts`` of all sentences.

        Raises
        ------
        InvalidInputError
            As `labelsieve.LabelIssues.review`; and for words that are not those of the tokens.
        MissingDependencyError
            Without jinja2, or Pillow for pictures.
        UnwritableError
            If the page cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from labelsieve.token_classification import find_label_issues
        >>> labels = [[0, 0, 1], [0, 1]]
        >>> pred_probs = [[[0.9, 0.1], [0.7, 0.3], [0.05, 0.95]], [[0.8, 0.2], [0.8, 0.2]]]
        >>> found = find_label_issues(labels, pred_probs)
        >>> found.review(f"{tempfile.mkdtemp()}/review.html", tokens=[["He", "saw", "Rome"], ["It", "rained"]])
        """
        later("review.page").write_review(self.rows, path, marked=self._marker(tokens), **choices)

    def _marker(self, tokens: Any) -> Callable[[int], tuple[str, str, str]] | None:
        """Return a function that shows a row, as a word in its sentence; None without words."""
        if tokens is None:
            return None
        words, edges = Words(tokens, self.edges), self.edges

        def marked(row: int) -> tuple[str, str, str]:
            sentence = int(self.layout.groups_of(np.array([row]))[0])
            return words.around(sentence, row - int(edges[sentence]))

        return marked

    def __repr__(self) -> str:
        n_labelled = self.n_tokens - self.n_ignored
        worst = ", ".join(map(str, as_tuples(self.pairs(5)))) + (", ..." if self.num_issues > 5 else "")
        return (
            f"<TokenIssues: {self.num_issues:,} of {n_labelled:,} {'labelled ' if self.n_ignored else ''}tokens "
            f"({self.num_issues / n_labelled:.2%}) in {self.n_sentences:,} sentences and {self.n_classes:,} classes; "
            f"worst tokens: {worst or 'none'}>"
        )


class Words:
    """The words of all sentences, as users have them.

    Parameters
    ----------
    tokens : sequence of sequence of str, or sequence of str
        The words of each sentence, or of all tokens.
    edges : (n_sentences + 1,) int64
        Token at which each sentence begins.

    Raises
    ------
    InvalidInputError
        If there are more or fewer words or sentences.
    """

    def __init__(self, tokens: Any, edges: Int64s) -> None:
        n_sentences, n_tokens = len(edges) - 1, int(edges[-1])
        self._tokens, self._edges = getattr(tokens, "iloc", tokens), edges
        n_given = len(tokens)
        self._is_flat = n_given == n_tokens and (n_given == 0 or isinstance(self._tokens[0], str))
        if not self._is_flat and n_given != n_sentences:
            raise InvalidInputError(
                f"tokens has {n_given:,} items, and there are {n_sentences:,} sentences of {n_tokens:,} tokens: give "
                "the words of each sentence, or of all tokens"
            )

    def of(self, sentence: int) -> list[str]:
        """Return the words of a sentence."""
        start, stop = self._edges[sentence : sentence + 2].tolist()
        words = self._tokens[start:stop] if self._is_flat else self._tokens[sentence]
        if isinstance(words, str) or len(words) != stop - start:
            given = f"the text {words!r}" if isinstance(words, str) else rows_in_words(len(words), "word", "words")
            raise InvalidInputError(
                f"sentence {sentence:,} has {rows_in_words(stop - start, 'token', 'tokens')}, but {given}"
            )
        return [str(word) for word in words]

    def around(self, sentence: int, token: int) -> tuple[str, str, str]:
        """Return a word, with the text before and after it; long ones are cut."""
        words = self.of(sentence)
        before, after = " ".join(words[:token]), " ".join(words[token + 1 :])
        if len(before) > _LETTERS_BESIDE:
            before = "…" + before[-_LETTERS_BESIDE:]
        if len(after) > _LETTERS_BESIDE:
            after = after[:_LETTERS_BESIDE] + "…"
        return f"{before} " if before else "", words[token], f" {after}" if after else ""


def split_sentences(values: npt.NDArray[Any], edges: Int64s) -> list[npt.NDArray[Any]]:
    """Return views of the values of each sentence."""
    ends = edges.tolist()
    return [values[start:stop] for start, stop in itertools.pairwise(ends)]


def scores_of_sentences(scores: Floats, edges: Int64s, method: SentenceScoreMethod, temperature: float) -> Float64s:
    """Return the score of each sentence: see `TokenIssues.sentence_scores`.

    Parameters
    ----------
    scores : (n_tokens,) float
        Scores of the tokens of all sentences; NaN for those without a label.
    edges : (n_sentences + 1,) int64
        Where the scores of each sentence begin, and the last ones end.
    method : {"min", "softmin"}
        How they become one.
    temperature : float
        Of ``"softmin"``.

    Raises
    ------
    InvalidInputError
        For another method, or a temperature below 0.
    """
    if method not in SENTENCE_SCORES:
        raise InvalidInputError(f"the score of a sentence is one of {', '.join(SENTENCE_SCORES)}, not {method!r}")
    if not isinstance(temperature, Real) or not temperature >= 0:
        raise InvalidInputError(f"temperature must be a number of 0 or more, not {temperature!r}")
    found = np.full(len(edges) - 1, np.nan)
    values, labelled = np.asarray(scores, np.float64), ~np.isnan(scores)
    if not labelled.all():
        before = np.zeros(len(values) + 1, np.int64)
        np.cumsum(labelled, out=before[1:])
        values, edges = values[labelled], before[edges]
    lengths = np.diff(edges)
    filled = lengths > 0
    if not filled.any():
        return found
    starts, lengths = edges[:-1][filled], lengths[filled]
    # A sentence is reduced by itself, so that its score does not depend on the others in a block.
    lowest = np.minimum.reduceat(values, starts)
    if method == "min" or temperature == 0:
        found[filled] = lowest
        return found
    weights = np.exp((np.repeat(lowest, lengths) - values) / temperature)
    found[filled] = np.add.reduceat(values * weights, starts) / np.add.reduceat(weights, starts)
    return found
