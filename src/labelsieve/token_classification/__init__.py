"""Wrong labels of tokens: sentences whose words have a label each, as in named entity recognition.

>>> from labelsieve.token_classification import find_label_issues
>>> labels = [["O", "B-PER"], ["O", "O", "B-LOC"]]
>>> pred_probs = [
...     [[0.1, 0.1, 0.8], [0.1, 0.8, 0.1]],
...     [[0.0, 0.1, 0.9], [0.95, 0.0, 0.05], [0.9, 0.0, 0.1]],
... ]
>>> find_label_issues(labels, pred_probs, class_names=["B-LOC", "B-PER", "O"])
<TokenIssues: 1 of 5 tokens (20.00%) in 2 sentences and 3 classes; worst tokens: (1, 1)>

A token is a row of the main task (`labelsieve.find_label_issues`), so all that is said there holds here: filters and
scores, files and Dask arrays that are larger than memory, clusters, workdirs. Sentences are given in one of these ways:

| Sentences | Arguments |
|---|---|
| ragged lists, all in memory | `labels[i]` is a list of labels, `pred_probs[i]` an array ``(T_i, K)`` |
| flat arrays, of any size | `labels` (n_tokens,), `pred_probs` (n_tokens, K) and `offsets`, ``(n_sentences + 1,)`` |
| flat arrays, of any size | the same, and `sentence_ids`, the number of the sentence of each token, ascending |
| Parquet files and tables with a row for each sentence | `data`; `labels` and `pred_probs` name columns of lists |

The result is a `labelsieve.token_classification.TokenIssues`: pairs of a sentence and a token, both counted from 0.
``ignore_label=-100`` leaves out tokens without a label, such as padding.

`labelsieve.token_classification.rank` scores sentences and tokens, and `labelsieve.token_classification.summary` shows
issues in their sentences, as cleanlab's modules of these names do.
"""

from labelsieve.token_classification import rank, summary
from labelsieve.token_classification.find import find_label_issues, plan_label_issues
from labelsieve.token_classification.issues import TokenIssues

__all__ = ["TokenIssues", "find_label_issues", "plan_label_issues", "rank", "summary"]
