"""The advice of an error message is followed to the letter, on the input that caused it.

An expression or an argument is taken out of the message; only what is said in words is written down here.
"""

import ast
import re
import tomllib
import warnings
from decimal import Decimal
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
ROWS = np.arange(300)
ROW = ROWS[:, np.newaxis]
NAMES = ["ant", "bee", "cow", "dog"]
NAMED = np.array(NAMES)[LABELS]
WANT = find(LABELS, PROBS).indices.tolist()
BINARY = draw(300, 2, seed=1, signal=2.5)
LEFT_OUT = object()
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
    return call(**{name: value for name, value in (given | changes).items() if value is not LEFT_OUT})


# Rows of classes -----------------------------------------------------------------------------------------------------


def batched(labels, pred_probs):
    """Return the result of the function that only warns of rows that do not sum to 1."""
    return find_label_issues_batched(labels, pred_probs, verbose=False)


SIGMOID = 1 / (1 + np.exp(1.5 - np.log(PROBS) - 3))
LARGEST = np.where(PROBS.max(axis=1, keepdims=True) == PROBS, PROBS, 0)
CODE = {
    "logits": (LABELS, LOGITS, r"elsewhere, take (pred_probs = scipy\.special\.softmax\(pred_probs, axis=1\))"),
    "logarithms": (LABELS, np.log(PROBS), r"Take (pred_probs = np\.exp\(pred_probs\))"),
    "percentages": (LABELS, PROBS * 100, r"Take (pred_probs = pred_probs / 100)"),
    "counts": (LABELS, np.round(PROBS * 1e6), r"these counts\? Take (pred_probs = .*?keepdims=True\))"),
    "a multiple": (LABELS, PROBS / 2, r"times 0\.5\? Take (pred_probs = .*?keepdims=True\))"),
    "one-hot labels": (np.eye(4, dtype=int)[LABELS], PROBS, r"of one-hot rows take (labels\.argmax\(axis=1\))"),
    "one-hot floats": (np.eye(4)[LABELS], PROBS, r"Of one-hot rows take (labels\.argmax\(axis=1\))"),
    "floats": (LABELS.astype(float), PROBS, r"take (labels = np\.asarray\(labels, int\)) if all are whole"),
    "a list of floats": (LABELS.astype(float).tolist(), PROBS, r"take (labels = np.asarray\(labels, int\)) if all are"),
    "objects": ([Decimal(k) for k in LABELS.tolist()], PROBS, r"take (labels = np\.asarray\(labels, int\)) if all are"),
    "the wrong way round": (LABELS, PROBS.T, r"Give (pred_probs\.T)"),
    "whole numbers": (LABELS, np.round(PROBS * 1e6).astype(int), r"take (pred_probs / pred_probs\.sum\(.*?True\))"),
}


@pytest.mark.parametrize("name", CODE)
def test_code_about_labels_and_pred_probs_gives_the_issues(name):
    labels, probs, pattern = CODE[name]
    got = by_code(pattern, find, {"labels": labels, "pred_probs": probs})
    assert got.indices.tolist() == find(LABELS, PROBS).indices.tolist()


@pytest.mark.parametrize("probs", [SIGMOID, LARGEST], ids=["sigmoid", "largest alone"])
def test_code_about_rows_that_do_not_sum_to_1_makes_them_probabilities(probs):
    got = by_code(r"[Tt]ake (pred_probs = .*?keepdims=True\))", find, {"labels": LABELS, "pred_probs": probs})
    assert got.indices.tolist() == find(LABELS, probs / probs.sum(axis=1)[:, np.newaxis]).indices.tolist()


def test_the_softmax_works_where_from_logits_is_no_argument():
    got = by_code("elsewhere, take (pred_probs = .*?axis=1\\))", batched, {"labels": LABELS, "pred_probs": LOGITS})
    assert got.tolist() == batched(LABELS, np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)).tolist()


def test_names_are_mapped_where_results_have_no_names():
    code = r"take (labels = \[class_names.*\])"
    got = by_code(code, batched, {"labels": NAMED, "pred_probs": PROBS}, class_names=NAMES)
    assert got.tolist() == batched(LABELS, PROBS).tolist()


OPTIONS = {
    "logits": ({"pred_probs": LOGITS}, "takes them with (from_logits=True)"),
    "no sum of 1": ({"pred_probs": SIGMOID}, "or give (allow_unnormalized_rows=True) to use such rows"),
    "zeros": ({"pred_probs": np.where(ROW == 3, 0, PROBS)}, "accepts them with (allow_zero_rows=True)"),
    "-1": ({"labels": np.where(LABELS == 3, -1, LABELS)}, "give (ignore_label=-1)$"),
    "-1 in bytes": ({"labels": np.where(LABELS == 3, -1, LABELS).astype("u1")}, "give (ignore_label=255)$"),
    "255": ({"labels": np.where(LABELS == 1, 255, LABELS)}, "give (ignore_label=255)$"),
    "missing": ({"labels": pd.Series(LABELS, dtype="Int64").where(LABELS > 0)}, "or give (ignore_label=None) to leave"),
    "missing names": (
        {"labels": pd.Series(NAMED).where(LABELS != 1), "class_names": NAMES},
        "or give (ignore_label=None) to leave",
    ),
    "bits": ({"pred_probs": (PROBS.astype("f4").view("u4") >> 16).astype("u2")}, "give (dtype='bfloat16')"),
    "bits of void": (
        {"pred_probs": (PROBS.astype("f4").view("u4") >> 16).astype("u2").view("V2")},
        "(dtype='bfloat16')",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_argument_in_a_message_is_accepted(name):
    changed, pattern = OPTIONS[name]
    found = by_option(pattern, find, {"labels": LABELS, "pred_probs": PROBS} | changed)
    n_ignored = {"-1": (LABELS == 3).sum(), "-1 in bytes": (LABELS == 3).sum(), "255": (LABELS == 1).sum()}
    n_ignored |= {"missing": (LABELS == 0).sum(), "missing names": (LABELS == 1).sum()}
    assert found.n_ignored == n_ignored.get(name, 0)
    if name == "logits" or name.startswith("bits"):
        assert len(set(found.indices.tolist()) ^ set(WANT)) <= 2


IN_WORDS = {
    "labels from 1 on": ({"labels": LABELS + 1}, "subtract 1 from all of them", {"labels": LABELS}),
    "swapped": (
        {"labels": PROBS, "pred_probs": LABELS},
        "were pred_probs given as labels, which come first",
        {"labels": LABELS, "pred_probs": PROBS},
    ),
    "probabilities as logits": (
        {"from_logits": True},
        "so they look like probabilities: if they are, leave out from_logits=True",
        {"from_logits": LEFT_OUT},
    ),
    "too few names": (
        {"labels": NAMED[LABELS > 0], "pred_probs": PROBS[LABELS > 0]},
        "give class_names, in the order of the columns of pred_probs",
        {"class_names": NAMES},
    ),
    "categories": (
        {"labels": pd.Categorical(NAMED, NAMES[::-1])},
        "give class_names, in the order of the columns of pred_probs",
        {"class_names": NAMES},
    ),
    "unknown chunks": (
        {"labels": da.from_array(LABELS)[da.from_array(LABELS) >= 0]},
        r"call compute_chunk_sizes\(\) on it first",
        {"labels": da.from_array(LABELS)[da.from_array(LABELS) >= 0].compute_chunk_sizes()},
    ),
    "a Dask series": (
        {"labels": dd.from_pandas(pd.Series(LABELS), npartitions=2)},
        r"give its .to_dask_array\(lengths=True\)",
        {"labels": dd.from_pandas(pd.Series(LABELS), npartitions=2).to_dask_array(lengths=True)},
    ),
    "a table of labels": (
        {"labels": pd.DataFrame({"a": 0, "b": LABELS})},
        "give the one that holds the labels",
        {"labels": pd.DataFrame({"a": 0, "b": LABELS})["b"]},
    ),
    "a dataset of xarray": (
        {"pred_probs": xarray.Dataset({"p": (("row", "class"), PROBS)})},
        "give one of its arrays",
        {"pred_probs": xarray.Dataset({"p": (("row", "class"), PROBS)})["p"]},
    ),
    "other rows": (
        {"labels": pd.Series(LABELS, index=ROWS + 7), "pred_probs": pd.DataFrame(PROBS, index=ROWS[::-1] + 7)},
        r"give both as .to_numpy\(\) if row i of labels does belong to row i of pred_probs",
        {"labels": pd.Series(LABELS).to_numpy(), "pred_probs": pd.DataFrame(PROBS).to_numpy()},
    ),
    "folds by a mask": (
        {"pred_probs": Folds([(PROBS[LABELS == 0], LABELS == 0), (PROBS[LABELS > 0], np.flatnonzero(LABELS > 0))])},
        r"of a mask take np.flatnonzero\(mask\)",
        {"pred_probs": Folds([(PROBS[k::4], np.arange(k, 300, 4)) for k in range(4)])},
    ),
    "a method to rank by": ({"rank_by": "self_confidence"}, "rank_by needs filter_by", {"filter_by": "both"}),
    "two scores": (
        {"rank_by": "self_confidence", "filter_by": "both", "method": "normalized_margin"},
        "give one",
        {"method": LEFT_OUT},
    ),
}


@pytest.mark.parametrize("name", IN_WORDS)
def test_advice_in_words_gives_the_issues(name):
    changed, pattern, followed = IN_WORDS[name]
    given = {"labels": LABELS, "pred_probs": PROBS} | changed
    got = by_hand(pattern, find, given, followed)
    assert got.num_issues > 0
    if len(got.scores) == len(LABELS) and not got.settings.filter_by:
        assert got.indices.tolist() == WANT


def test_a_bag_is_not_said_to_have_what_it_has_not():
    assert "to_dask_array" not in said(find, labels=da.from_array(LABELS).to_delayed().ravel()[0], pred_probs=PROBS)


# Images, tokens, tags ------------------------------------------------------------------------------------------------

MASKS = LABELS[:288].reshape(6, 6, 8)
PLANES = np.moveaxis(PROBS[:288].reshape(6, 6, 8, 4), -1, 1).copy()


def images(labels, pred_probs):
    return segmentation.find_label_issues(labels, pred_probs, progress=False)


IMAGES = {
    "one channel": (MASKS[:, np.newaxis], PLANES, r"take (labels\[:, 0\])"),
    "one channel, last": (MASKS[..., np.newaxis], PLANES, r"take (labels\[\.\.\., 0\])"),
    "one-hot": (np.moveaxis(np.eye(4, dtype=int)[MASKS], -1, 1), PLANES, r"take (labels\.argmax\(axis=1\))"),
    "one-hot, last": (np.eye(4, dtype=int)[MASKS], PLANES, r"or (labels\.argmax\(axis=-1\))"),
    "classes last": (MASKS, np.moveaxis(PLANES, 1, -1), r"Write (pred_probs = np\.moveaxis\(pred_probs, -1, 1\))"),
    "a list, classes last": (list(MASKS), list(np.moveaxis(PLANES, 1, -1)), r"Write (pred_probs = \[.*\])"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_code_about_images_gives_the_issues(name):
    labels, planes, pattern = IMAGES[name]
    got = by_code(pattern, images, {"labels": labels, "pred_probs": planes})
    assert np.array_equal(got.mask(), images(MASKS, PLANES).mask())
    assert got.num_issues > 0


def test_a_single_image_gets_an_axis():
    got = by_code(r"give (labels\[np\.newaxis\])", images, {"labels": MASKS[0], "pred_probs": PLANES[:1]})
    assert np.array_equal(got.mask(), images(MASKS[:1], PLANES[:1]).mask())


def test_probabilities_of_one_class_of_two_get_the_other():
    p = PLANES[:, :1]
    code = advice(r"give both: (.*)", images, {"labels": MASKS % 2, "pred_probs": p})
    assert images(MASKS % 2, eval(code, {"np": np, "p": p})).n_images == 6


def test_smaller_predictions_are_scaled_to_the_mask():
    small = PLANES[:, :, ::2, ::2]
    got = by_hand(
        "smaller by a factor of 2; scale them to the mask first",
        images,
        {"labels": MASKS, "pred_probs": small},
        {"pred_probs": small.repeat(2, axis=2).repeat(2, axis=3)},
    )
    assert got.n_images == 6


EDGES = np.array([0, 40, 100, 300])
SENTENCE = np.repeat([0, 1, 2], np.diff(EDGES))


def tokens(**given):
    return token_classification.find_label_issues(LABELS, PROBS, progress=False, **given)


def test_lengths_of_sentences_become_offsets():
    lengths = np.array([140, 60, 100])
    line = advice(r"(np\.concatenate\(\[\[0\], np\.cumsum\(lengths\)\]\))", tokens, {"offsets": np.r_[0, lengths]})
    got = tokens(offsets=eval(line, {"np": np, "lengths": np.diff(EDGES)}))
    assert list(got) == list(tokens(sentence_ids=SENTENCE))


def test_tokens_are_sorted_by_their_sentence():
    order = np.random.default_rng(0).permutation(300)
    assert "sort the tokens by their sentence, in their order" in said(tokens, sentence_ids=SENTENCE[order])
    back = np.argsort(SENTENCE[order], kind="stable")
    found = token_classification.find_label_issues(
        LABELS[order][back], PROBS[order][back], sentence_ids=SENTENCE[order][back], progress=False
    )
    assert found.num_issues == len(WANT)


def test_offsets_or_ids_are_given_for_tokens_in_one_array():
    text = said(token_classification.find_label_issues, labels=LABELS, pred_probs=PROBS)
    for name, value in re.findall(r"(offsets|sentence_ids) \((the .*?)\)", text):
        assert value
        assert list(tokens(**{name: {"offsets": EDGES, "sentence_ids": SENTENCE}[name]})) == list(tokens(offsets=EDGES))


MATRIX = (PROBS > 0.3).astype(int)
MATRIX[5] = 1 - MATRIX[5]


def tags(labels, pred_probs, **settings):
    return multilabel_classification.find_label_issues(labels, pred_probs, progress=False, **settings)


def test_advice_about_tags_gives_the_issues():
    want = tags(MATRIX, PROBS)
    given = {"labels": MATRIX.tolist(), "pred_probs": PROBS}
    code = advice(r"give[n]? (?:as )?(numpy\.array\(labels\))", tags, given)
    assert tags(eval(code, {"numpy": np, "labels": MATRIX.tolist()}), PROBS).num_issues == want.num_issues
    got = by_code(r"Give (labels\.T)", tags, {"labels": MATRIX.T, "pred_probs": PROBS})
    assert got.num_issues == want.num_issues
    lists = [np.flatnonzero(row).tolist() for row in MATRIX]
    assert tags(lists, PROBS).num_issues == want.num_issues
    named = [[NAMES[tag] for tag in row] for row in lists]
    got = by_hand(
        "for names give class_names too", tags, {"labels": named, "pred_probs": PROBS}, {"class_names": NAMES}
    )
    assert got.num_issues == want.num_issues


# Arguments of cleanlab -----------------------------------------------------------------------------------------------

CLEANLAB = {
    "return_indices_ranked_by": lambda: find(LABELS, PROBS, rank_by="self_confidence", filter_by="both").indices,
    "rank_by_kwargs": lambda: find(LABELS, PROBS, adjust_pred_probs=True),
    "quality_score_kwargs": lambda: find(LABELS, PROBS, method="normalized_margin", adjust_pred_probs=True),
    "num_issue_kwargs": lambda: find(LABELS, PROBS, estimation_method="off_diagonal", rule="confident_joint"),
    "return_mask": lambda: find(LABELS, PROBS).mask(),
    "verbose": lambda: labelsieve.find_label_issues(LABELS, PROBS, progress=False),
    "confident_joint": lambda: count.compute_confident_joint(LABELS, PROBS),
    "multi_label": lambda: tags(MATRIX, PROBS),
}


@pytest.mark.parametrize("name", CLEANLAB)
def test_what_replaces_an_argument_of_cleanlab_works(name):
    text = said(labelsieve.find_label_issues, labels=LABELS, pred_probs=PROBS, **{name: None})
    assert text.startswith(f"find_label_issues() has no argument {name!r}: ")
    assert CLEANLAB[name]() is not None


# Counts and the inspector --------------------------------------------------------------------------------------------


def test_the_inspector_says_what_to_call_first():
    inspector = LabelInspector(num_class=4, verbose=False)
    for call in (
        lambda: inspector.score_label_quality(LABELS, PROBS),
        inspector.get_label_issues,
    ):
        first = advice(r"call (\w+)\(\) first", call, {})
        getattr(inspector, first)(LABELS, PROBS)
    assert inspector.get_label_issues().tolist() == batched(LABELS, PROBS).tolist()
    inspector = LabelInspector(num_class=4, verbose=False)
    inspector.update_confident_thresholds(LABELS, PROBS)
    inspector.score_label_quality(LABELS, PROBS, update_num_issues=False)
    option = advice(r"score every batch with (update_num_issues=True)", inspector.get_label_issues, {})
    inspector = LabelInspector(num_class=4, verbose=False)
    inspector.update_confident_thresholds(LABELS, PROBS)
    inspector.score_label_quality(LABELS, PROBS, **eval(f"dict({option})"))
    assert inspector.get_label_issues().tolist() == batched(LABELS, PROBS).tolist()


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_workdir_of_another_run_is_started_over(tmp_path):
    labels, probs = tmp_path / "y.npy", tmp_path / "p.npy"
    np.save(labels, LABELS)
    np.save(probs, PROBS)
    given = {"labels": labels, "pred_probs": probs, "workdir": tmp_path / "w"}
    find(**given)
    given["method"] = "normalized_margin"
    assert by_option("start over in this one with (fresh=True)", find, given).num_issues > 0
    given["method"] = "self_confidence"
    assert by_hand("Name another folder", find, given, {"workdir": tmp_path / "v"}).indices.tolist() == WANT
    [damaged] = [one for one in (tmp_path / "v").iterdir() if one.suffix == ".json"]
    damaged.write_text("{")
    assert (
        by_option(r"Start over with (fresh=True)", find, given | {"workdir": tmp_path / "v"}).indices.tolist() == WANT
    )


def test_missing_chunks_are_accepted_or_written(tmp_path):
    stored = zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, chunks=(50, 4), dtype="f8", fill_value=0)
    stored[:250] = PROBS[:250]
    given = {"labels": LABELS, "pred_probs": tmp_path / "p.zarr"}
    assert by_option(r"accepts them with (allow_zero_rows=True)", find, given).n_rows == 300
    advice("(Write these rows, or leave them out of the array)", find, given)
    stored[250:] = PROBS[250:]
    assert find(**given).indices.tolist() == WANT


def test_files_of_other_formats_are_given_as_the_message_says(tmp_path):
    place = tmp_path / "t.parquet"
    pd.DataFrame({"label": LABELS, "probs": list(PROBS)}).to_parquet(place)
    given = {"labels": place, "pred_probs": PROBS}
    names = re.findall(r"(\w+)=\.\.\.", advice("(give it as data=.*)", find, given))
    assert find(**dict(zip(names, (place, "label", "probs"), strict=True))).indices.tolist() == WANT


# Reviews -------------------------------------------------------------------------------------------------------------


def decided(words):
    """Return decisions about row 1, whose label becomes 2 with "other"."""
    given, label = [str(LABELS[1])] * len(words), ["2" if word == "other" else "" for word in words]
    return pd.DataFrame({"row": 1, "given_label": given, "decision": words, "label": label})


def test_advice_about_decisions_is_accepted(tmp_path):
    decisions = decided(["keep", "other"])
    given = {"labels": LABELS, "decisions": decisions}
    assert by_option("or (conflicts='last')", apply_decisions, given).n_rows == 300
    np.save(tmp_path / "y.npy", LABELS)
    given = {"labels": tmp_path / "y.npy", "decisions": decided(["other"]), "output": tmp_path / "y.npy"}
    assert by_option(r": (overwrite=True) \(--overwrite\) replaces it", apply_decisions, given).n_rows == 300
    assert np.load(tmp_path / "y.npy")[1] == 2


def test_a_task_in_a_message_is_accepted():
    lists = [LABELS[:40].tolist(), LABELS[40:].tolist()]
    given = {"labels": lists, "decisions": decided(["other"])}
    assert by_option("give (task='tokens')", apply_decisions, given).n_rows == 300


def test_an_audit_is_drawn_with_the_given_labels():
    audit = find(LABELS, PROBS).audit(40)
    estimate = labelsieve.estimate(audit, np.ones(len(audit), bool))
    with pytest.raises(KeyError, match=r"give labels=\.\.\. to issues\.audit"):
        estimate.per_class[0]
    audit = find(LABELS, PROBS).audit(40, labels=LABELS)
    assert set(labelsieve.estimate(audit, np.ones(len(audit), bool)).per_class) == {0, 1, 2, 3}


# Packages ------------------------------------------------------------------------------------------------------------


def test_every_extra_that_an_error_names_exists():
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for path in (root / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("MissingDependencyError"):
                named |= {ast.literal_eval(node.args[1])} if isinstance(node.args[1], ast.Constant) else set()
    assert named >= {"frame", "report", "parquet", "hdf5", "images", "sparse"}
    assert named <= set(extras)
