"""The advice of an error message is followed to the letter, on the input that caused it.

An expression or an argument is taken out of the message; only what is said in words is written down here.
"""

import ast
import re
import tomllib
import warnings
from pathlib import Path

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy
import xarray
import zarr

import labelsieve
from draws import draw, find
from labelsieve import (
    Ensemble,
    Folds,
    LabelInspector,
    LabelsieveError,
    apply_decisions,
    count,
    find_label_issues_batched,
    multilabel_classification,
    segmentation,
    token_classification,
)

LABELS, PROBS = draw(300, 4, seed=4, signal=2.5)
LOGITS = np.log(PROBS) + 7.0
NAMES = ["ant", "bee", "cow", "dog"]
NAMED = np.array(NAMES)[LABELS]
WANT = find(LABELS, PROBS).indices.tolist()
BINARY = draw(300, 2, seed=1, signal=2.5)
STATEMENT = re.compile(r"[\w, ]+ = ")


def said(call, **given):
    """Return the text of the error or the warning of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call(**given)
        except LabelsieveError as error:
            return str(error)
    return str(caught[0].message)


def advice(pattern, call, given):
    """Return what the only group of `pattern` matches in the message of a call."""
    text = said(call, **given)
    found = re.search(pattern, text)
    assert found, text
    return found[1]


def by_code(pattern, call, given, **space):
    """Return the result after the code in the message, which gives an input another value, was run."""
    line = advice(pattern, call, given)
    space |= given | {"np": np, "scipy": scipy, "da": da}
    if not STATEMENT.match(line):
        line = f"{re.search(r'labels|pred_probs|offsets|sentence_ids', line)[0]} = {line}"
    exec(line, space)
    return call(**{name: space[name] for name in given})


def by_option(pattern, call, given):
    """Return the result with the argument in the message."""
    option = advice(pattern, call, given)
    return call(**given | eval(f"dict({option})"))


def by_hand(pattern, call, given, changes):
    """Return the result with what the message says in words."""
    advice(f"({pattern})", call, given)
    return call(**given | changes)


# Rows of classes -----------------------------------------------------------------------------------------------------

CODE = {
    "logits": (LABELS, LOGITS, r"elsewhere, take (pred_probs = scipy\.special\.softmax\(pred_probs, axis=1\))"),
    "logarithms": (LABELS, np.log(PROBS), r"Take (pred_probs = np\.exp\(pred_probs\))"),
    "percentages": (LABELS, PROBS * 100, r"Take (pred_probs = pred_probs / 100)"),
    "counts": (LABELS, np.round(PROBS * 1e6), r"these counts\? Take (pred_probs = .*?keepdims=True\))"),
    "a multiple": (LABELS, PROBS / 2, r"times 0\.5\? Take (pred_probs = .*?keepdims=True\))"),
    "one-hot labels": (np.eye(4, dtype=int)[LABELS], PROBS, r"of one-hot rows take (labels\.argmax\(axis=1\))"),
    "floats": (LABELS.astype(float), PROBS, r"take (np\.asarray\(labels, int\)) if all are whole"),
    "a list of floats": (LABELS.astype(float).tolist(), PROBS, r"take (np\.asarray\(labels, int\)) if all are whole"),
    "the wrong way round": (LABELS, PROBS.T, r"Give (pred_probs\.T)"),
    "whole percentages": (LABELS, np.round(PROBS * 1e6).astype(int), r"take (pred_probs / pred_probs\.sum\(.*\))"),
    "two axes of labels": (pd.DataFrame({"a": LABELS, "b": 0}), PROBS, r"columns; (give the one) that holds"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_about_labels_and_pred_probs_works(name):
    labels, probs, pattern = CODE[name]
    print(by_code(pattern, find, {"labels": labels, "pred_probs": probs}).indices.tolist() == WANT)


MORE = {
  'logits0': (find, dict(labels=LABELS, pred_probs=LOGITS)),
  'zeros': (find, dict(labels=LABELS, pred_probs=np.where(np.arange(300)[:,None]==3,0,PROBS))),
  'sigmoid': (find, dict(labels=LABELS, pred_probs=1/(1+np.exp(1.5-np.log(PROBS)-3)))),
  'short': (find, dict(labels=LABELS, pred_probs=np.where(PROBS.max(1,keepdims=True)==PROBS,PROBS,0))),
  'labels+1': (find, dict(labels=LABELS+1, pred_probs=PROBS)),
  'pm1': (find, dict(labels=2*BINARY[0]-1, pred_probs=BINARY[1])),
  '-1': (find, dict(labels=LABELS-1, pred_probs=PROBS)),
  '-1u': (find, dict(labels=(LABELS-1).astype('u1'), pred_probs=PROBS)),
  '255': (find, dict(labels=np.where(LABELS==1,255,LABELS), pred_probs=PROBS)),
  'swapped': (find, dict(labels=PROBS, pred_probs=LABELS)),
  'masks': (find, dict(labels=LABELS.reshape(3,10,10), pred_probs=PROBS)),
  'softmax': (find, dict(labels=LABELS, pred_probs=PROBS, from_logits=True)),
  'missing': (find, dict(labels=pd.Series(LABELS).astype('Int64').where(LABELS>0), pred_probs=PROBS)),
  'missingn': (find, dict(labels=pd.Series(NAMED).where(LABELS>0), pred_probs=PROBS)),
  'missing names2': (find, dict(labels=pd.Series(NAMED).where(LABELS>0), pred_probs=PROBS, class_names=NAMES)),
  'nan': (find, dict(labels=np.where(LABELS>0,LABELS,np.nan), pred_probs=PROBS)),
  'namesfew': (find, dict(labels=np.where(NAMED=='ant','bee',NAMED), pred_probs=PROBS)),
  'text numbers': (find, dict(labels=draw(900,12)[0].astype(str), pred_probs=draw(900,12)[1])),
  'categories': (find, dict(labels=pd.Categorical(NAMED, NAMES[::-1]), pred_probs=PROBS)),
  'Names typo': (find, dict(labels=np.char.upper(NAMED), pred_probs=PROBS, class_names=NAMES)),
  'inspnames': (lambda labels, pred_probs: find_label_issues_batched(labels, pred_probs, verbose=False), dict(labels=NAMED, pred_probs=PROBS)),
  'batched logits': (lambda labels, pred_probs: find_label_issues_batched(labels, pred_probs, verbose=False), dict(labels=LABELS, pred_probs=LOGITS)),
  'batched half': (lambda labels, pred_probs: find_label_issues_batched(labels, pred_probs, verbose=False), dict(labels=LABELS, pred_probs=PROBS/2)),
  'bags': (find, dict(labels=__import__('dask.bag').bag.from_sequence(LABELS.tolist()), pred_probs=PROBS)),
  'dd': (find, dict(labels=dd.from_pandas(pd.Series(LABELS),npartitions=2), pred_probs=PROBS)),
  'objects': (find, dict(labels=[__import__('decimal').Decimal(int(x)) for x in LABELS], pred_probs=PROBS)),
  'xr': (find, dict(labels=LABELS, pred_probs=xarray.Dataset({'p':(('a','b'),PROBS)}))),
  'rank_by': (find, dict(labels=LABELS, pred_probs=PROBS, rank_by='self_confidence')),
  'rank_by2': (find, dict(labels=LABELS, pred_probs=PROBS, rank_by='self_confidence', method='self_confidence', filter_by='both')),
  'lownm': (find, dict(labels=LABELS, pred_probs=PROBS, filter_by='low_normalized_margin', estimation_method='off_diagonal_calibrated')),
  'rule': (find, dict(labels=LABELS, pred_probs=PROBS, filter_by='low_self_confidence', rule='exact')),
  'frac': (find, dict(labels=LABELS, pred_probs=PROBS, filter_by='low_self_confidence', frac_noise=.5)),
  'numremove': (find, dict(labels=LABELS, pred_probs=PROBS, filter_by='both', num_to_remove_per_class=[1])),
  'ens dup': (find, dict(labels=LABELS, pred_probs=Ensemble(['a.npy','a.npy']) if 0 else PROBS.astype(int).astype('u2'))),
  'cj': (count.num_label_issues, dict(labels=LABELS, pred_probs=PROBS, estimation_method='off_diagonal_custom')),
  'lat': (count.estimate_latent, dict()),
}
if __name__ == "__main__":
    for n,(call,g) in MORE.items():
        try: print(f"{n:12}", said(call, **g))
        except Exception as e: print(f"{n:12} !!", type(e), e)
