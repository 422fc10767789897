"""Issues of tokens in words: in their sentences, and by word."""

from __future__ import annotations

import operator
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from labelsieve.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["common_label_issues", "display_issues", "filter_by_token"]

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
# Punctuation that has a space before it.
_OPENING: Final = ("-", "(")
_NUMBERS_SHOWN: Final = (
    "Classes will be printed in terms of their integer index since `class_names` was not provided.",
    "Specify this argument to see the string names of each class.",
)


def display_issues(
    issues: Iterable[Any],
    tokens: Sequence[Sequence[str]],
    *,
    labels: Sequence[Any] | None = None,
    pred_probs: Sequence[Any] | None = None,
    exclude: Sequence[tuple[int, int]] = (),
    class_names: Sequence[str] | None = None,
    top: int = 20,
) -> None:
    """Print issues in their sentences, with the word of each in red.

    Parameters
    ----------
    issues : iterable of (sentence, token), or of int
        Issues, worst first: a `TokenIssues`, a list of pairs, or a list of sentences.
    tokens : sequence of sequence of str
        The words of each sentence.
    labels : sequence of sequence of int, optional
        Given labels, to print that of each issue.
    pred_probs : sequence of (T_i, K) array, optional
        Probabilities, to print the predicted class of each issue.
    exclude : sequence of (int, int)
        Pairs of a given and a predicted class that are not printed; needs `labels` and `pred_probs`.
    class_names : sequence of str, optional
        K names, printed in place of numbers.
    top : int
        Most issues that are printed.

    Examples
    --------
    >>> tokens = [["A", "?weird", "sentence"], ["A", "valid", "sentence"], ["An", "sentence", "with", "a", "typo"]]
    >>> display_issues([2], tokens)
    Sentence issue: An sentence with a typo
    """
    with_labels, with_probs = _is_given(labels), _is_given(pred_probs)
    if not class_names and (with_labels or with_probs):
        print(*_NUMBERS_SHOWN, "", sep="\n")
    pairs = _pairs(issues, tokens)
    most, shown = min(top, len(pairs)), 0
    for pair in pairs if most > 0 else ():
        if len(pair) == 1:
            text = f"Sentence issue: {sentence_of(tokens[pair[0]])}"
        else:
            i, j = pair
            given = labels[i][j] if with_labels and labels is not None else None
            predicted = int(np.argmax(pred_probs[i][j])) if with_probs and pred_probs is not None else None
            if (given, predicted) in exclude:
                continue
            text = "\n".join(
                [
                    f"Sentence index: {i}, Token index: {j}",
                    f"Token: {tokens[i][j]}",
                    *_classes_of(given, predicted, class_names),
                    "----",
                    marked_sentence(sentence_of(tokens[i]), tokens[i][j]),
                ]
            )
        shown += 1
        print(text)
        if shown == most:
            break
        print("\n")


def common_label_issues(
    issues: Iterable[Any],
    tokens: Sequence[Sequence[str]],
    *,
    labels: Sequence[Any] | None = None,
    pred_probs: Sequence[Any] | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 10,
    exclude: Sequence[tuple[int, int]] = (),
    verbose: bool = True,
) -> pd.DataFrame:
    """Print and return the words that have the most issues.

    Parameters
    ----------
    issues : iterable of (sentence, token)
        Issues: a `TokenIssues`, or a list of pairs.
    tokens : sequence of sequence of str
        The words of each sentence.
    labels : sequence of sequence of int, optional
        Given labels.
    pred_probs : sequence of (T_i, K) array, optional
        Probabilities. With both, issues are also counted by given and predicted class.
    class_names : sequence of str, optional
        K names, in place of numbers.
    top : int
        Most words that are printed; the table has all.
    exclude : sequence of (int, int)
        Pairs of a given and a predicted class that are not counted.
    verbose : bool
        Whether to print the classes too.

    Returns
    -------
    pandas.DataFrame
        ``token`` and ``num_label_issues``, the most frequent first; with labels and probabilities a row for each word,
        ``given_label`` and ``predicted_label``.

    Raises
    ------
    MissingDependencyError
        Without pandas.

    Examples
    --------
    >>> tokens = [["A", "?weird", "sentence"], ["A", "valid", "sentence"], ["An", "sentence", "with", "a", "typo"]]
    >>> common_label_issues([(2, 0), (0, 1)], tokens, top=1).values.tolist()
    Token '?weird' is potentially mislabeled 1 times throughout the dataset
    <BLANKLINE>
    [['An', 1], ['?weird', 1]]
    """
    pairs = _pairs(issues, tokens)
    if labels is None or pred_probs is None or not _is_given(labels) or not _is_given(pred_probs):
        counts = Counter(tokens[i][j] for i, j in pairs)
        words = list(counts)
        for place in _most_frequent(list(counts.values()))[:top]:
            print(f"{_mislabeled(words[place], counts[words[place]])}\n")
        # Sorted as words come up, where they tie.
        return _frame(sorted(counts.items(), key=lambda item: -item[1]), ["token", "num_label_issues"])
    if not class_names:
        print(*_NUMBERS_SHOWN, sep=" \n", end=" \n\n")
    n_classes = len(pred_probs[0][0]) if len(pred_probs[0]) else np.shape(pred_probs[0])[1]
    swaps = dict[str, Counter[tuple[int, int]]]()
    for i, j in pairs:
        of_word = swaps.setdefault(tokens[i][j], Counter())
        swap = int(labels[i][j]), int(np.argmax(pred_probs[i][j]))
        if swap not in exclude:
            of_word[swap] += 1
    words = list(swaps)
    for place in _most_frequent([swaps[word].total() for word in words])[:top]:
        of_word = swaps[words[place]]
        print(_mislabeled(words[place], of_word.total()))
        if verbose:
            _print_swaps(of_word, n_classes, class_names)
        print()
    rows = [
        [word, *((given, predicted) if not class_names else (class_names[given], class_names[predicted])), count]
        for word in words
        for (given, predicted), count in sorted(swaps[word].items())
    ]
    rows.sort(key=lambda row: -row[3])
    return _frame(rows, ["token", "given_label", "predicted_label", "num_label_issues"])


def filter_by_token(token: str, issues: Iterable[Any], tokens: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Return the issues of a word, in whatever letters it is written.

    Parameters
    ----------
    token : str
        The word.
    issues : iterable of (sentence, token)
        Issues: a `TokenIssues`, or a list of pairs.
    tokens : sequence of sequence of str
        The words of each sentence.

    Examples
    --------
    >>> tokens = [["A", "?weird", "sentence"], ["A", "valid", "sentence"], ["An", "sentence", "with", "a", "typo"]]
    >>> filter_by_token("?Weird", [(2, 0), (0, 1)], tokens)
    [(0, 1)]
    """
    return [(i, j) for i, j in _pairs(issues, tokens) if tokens[i][j].lower() == token.lower()]


def sentence_of(words: Sequence[str]) -> str:
    """Return words as a sentence: no space before punctuation, except dashes and opening brackets.

    Examples
    --------
    >>> sentence_of(["It", "'s", "(", "almost", ")", "done", "."])
    "It's (almost) done."
    """
    text = "".join(word if word in string.punctuation and word not in _OPENING else f" {word}" for word in words)
    return text.replace(" '", "'").replace("( ", "(").strip()


def marked_sentence(sentence: str, word: str) -> str:
    """Return a sentence with a word in red, wherever it stands alone; if it never does, wherever it occurs."""
    red = f"{_RED}{word}{_PLAIN}"
    text, n_found = re.subn(rf"\b{re.escape(word)}\b", lambda _: red, sentence)
    return text if n_found else sentence.replace(word, red)


def _is_given(values: Any) -> bool:
    return values is not None and len(values) > 0


def _pairs(issues: Iterable[Any], tokens: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """Return issues as tuples: of sentence and token, or of a sentence.

    Raises
    ------
    InvalidInputError
        For anything else, and for sentences and tokens that are not among `tokens`.
    """
    pairs, n_sentences = list[tuple[int, ...]](), len(tokens)
    for one in issues:
        try:
            pair = tuple(operator.index(number) for number in (one if np.ndim(one) else (one,)))
        except TypeError as error:
            raise InvalidInputError(f"issues must be pairs of a sentence and a token, not {one!r}") from error
        if len(pair) not in (1, 2) or not 0 <= pair[0] < n_sentences:
            raise InvalidInputError(f"tokens has {n_sentences:,} sentences, and issue {one!r} is in none of them")
        if len(pair) == 2 and not 0 <= pair[1] < len(tokens[pair[0]]):
            n_words = len(tokens[pair[0]])
            raise InvalidInputError(f"sentence {pair[0]:,} has {n_words:,} tokens, and issue {one!r} is none of them")
        pairs.append(pair)
    return pairs


def _classes_of(given: Any, predicted: Any, names: Sequence[str] | None) -> list[str]:
    """Return the line on the given and the predicted class, as far as they are known."""
    if names:
        given, predicted = (None if one is None else names[one] for one in (given, predicted))
    if given is None and predicted is None:
        return []
    if predicted is None:
        return [f"Given label: {given}"]
    text = f"redicted label according to provided pred_probs: {predicted}"
    return [f"P{text}" if given is None else f"Given label: {given}, p{text}"]


def _mislabeled(word: str, count: int) -> str:
    return f"Token '{word}' is potentially mislabeled {count} times throughout the dataset"


def _most_frequent(counts: Sequence[int]) -> list[int]:
    """Return the places of counts, the largest first, in the order in which cleanlab has those that tie."""
    places: list[int] = np.argsort(np.array(counts, np.int64))[::-1].tolist()
    return places


def _print_swaps(swaps: Counter[tuple[int, int]], n_classes: int, names: Sequence[str] | None) -> None:
    print("-" * 87)
    matrix = np.zeros(n_classes * n_classes, np.int64)
    for (given, predicted), count in swaps.items():
        matrix[given * n_classes + predicted] = count
    for place in _most_frequent(matrix.tolist())[: len(swaps)]:
        given, predicted = divmod(place, n_classes)
        classes = (f"`{names[given]}`", f"`{names[predicted]}`") if names else (str(given), str(predicted))
        print(f"labeled as class {classes[0]} but predicted to actually be class {classes[1]} {matrix[place]} times")


def _frame(rows: list[Any], columns: list[str]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("A table of pandas", "frame") from error
    return pd.DataFrame(rows, columns=columns)
