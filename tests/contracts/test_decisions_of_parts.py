"""Corrections of tokens, tags and pixels, in every form in which their labels are read."""

import itertools
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import zarr
from PIL import Image
from pyarrow import parquet

from labelsieve import InputTypeError, InvalidInputError, apply_decisions, multilabel_classification, segmentation
from labelsieve import token_classification as tokens
from labelsieve.cli.app import run
from labelsieve.review.page import ReviewRows

NAMES = ["cat", "dog", "=1+1", "dög", "a much longer name"]


def write_csv(path, rows, given, after, **columns):
    """Write decisions that accept, or keep where nothing changes; every 7th is about a class that is suggested."""
    changes = [old != new for old, new in zip(given, after, strict=True)]
    frame = pd.DataFrame(
        {
            "row": rows,
            "given_label": given,
            "decision": [
                ("other" if row % 7 else "accept") if one else "keep" for row, one in zip(rows, changes, strict=True)
            ],
            "label": [str(new) if one else "" for new, one in zip(after, changes, strict=True)],
            **columns,
        }
    )
    frame.to_csv(path, index=False)
    return path


def random_decisions(rng, labels, draw_label, share=0.3):
    """Return rows in any order, their flat labels, and new ones."""
    rows = rng.permutation(np.flatnonzero(rng.random(len(labels)) < share)).tolist()
    return rows, [labels[row] for row in rows], [draw_label(row) for row in rows]


def refused(error, match, folder, *args, **choices):
    """Apply decisions that are refused; nothing is written."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(error, match=match):
        apply_decisions(*args, **choices)
    assert sorted(path.name for path in folder.iterdir()) == before


# --- masks

MASKS = np.random.default_rng(0).integers(0, 4, (5, 7, 3))


def naive_masks(masks, rows, after):
    found = [mask.tolist() for mask in masks]
    places = [(i, y, x) for i, mask in enumerate(masks) for y in range(mask.shape[0]) for x in range(mask.shape[1])]
    for row, label in zip(rows, after, strict=True):
        image, y, x = places[row]
        found[image][y][x] = label
    return found


def store_masks(form, folder, masks):
    """Store masks in a form; return the place, its output, and what reads both."""
    path = folder / f"masks.{form.partition(' ')[0]}"
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(masks) if "fortran" in form else masks)
        return path, folder / "out.npy", np.load
    options = {"chunks": (2, 4, 3), "attributes": {"of": "a test"}, "dimension_names": ["n", "y", "x"]}
    if "sharded" in form:
        options |= {"shards": (4, 8, 3)}
    if "v2" in form:
        options = {"chunks": (2, 4, 2), "zarr_format": 2}
    zarr.create_array(path, data=masks, **options)
    return path, folder / "out.zarr", lambda place: zarr.open_array(place, mode="r")[:]


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", ["u1", "i8", ">i4"])
@pytest.mark.parametrize("form", ["npy", "npy fortran", "zarr", "zarr sharded", "zarr v2"])
def test_masks_on_disk(tmp_path, form, dtype):
    masks = MASKS.astype(dtype)
    path, output, read = store_masks(form, tmp_path, masks)
    rng = np.random.default_rng(1)
    rows, given, after = random_decisions(rng, masks.ravel().tolist(), lambda _: int(rng.integers(4)))
    decided = write_csv(tmp_path / "decisions.csv", rows, given, after)
    applied = apply_decisions(path, decided, output)
    got = read(output)
    assert got.tolist() == naive_masks(masks, rows, after)
    assert (got.dtype, got.shape) == (read(path).dtype, masks.shape)
    assert read(path).tolist() == masks.tolist()
    changed = sorted(row for row, old, new in zip(rows, given, after, strict=True) if old != new)
    assert applied.changed.tolist() == changed
    assert (applied.n_rows, applied.labels) == (masks.size, None)
    log = json.loads((tmp_path / f"{output.name}.log.json").read_text())
    assert [one["row"] for one in log["changes"]] == changed
    assert [one["before"] for one in log["changes"]] == masks.ravel()[changed].tolist()
    if form.startswith("zarr"):
        ours, theirs = (zarr.open_array(one, mode="r") for one in (output, path))
        assert (ours.chunks, ours.shards, dict(ours.attrs)) == (theirs.chunks, theirs.shards, dict(theirs.attrs))
    assert np.array_equal(apply_decisions(path, decided).labels, got)


def test_masks_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("labelsieve.review.labels.LabelFile.block_rows", 50)
    monkeypatch.setattr("labelsieve.review.labels._CHANGED", 10)
    np.save(tmp_path / "masks.npy", MASKS)
    zarr.create_array(tmp_path / "masks.zarr", data=MASKS, chunks=(2, 3, 2))
    np.savez(tmp_path / "masks.npz", masks=MASKS)
    rows = list(range(0, MASKS.size, 2))
    given = MASKS.ravel()[rows].tolist()
    decided = write_csv(tmp_path / "decisions.csv", rows, given, [3 - one for one in given])
    expected = naive_masks(MASKS, rows, [3 - one for one in given])
    for place, suffix in [("masks.npy", "npy"), ("masks.zarr", "zarr"), ("masks.npz", "npy"), ("masks.npz", "zarr")]:
        output = tmp_path / f"{place.replace('.', '-')}.{suffix}"
        apply_decisions(tmp_path / place, decided, output)
        got = np.load(output) if suffix == "npy" else zarr.open_array(output, mode="r")[:]
        assert got.tolist() == expected, (place, suffix)


@pytest.mark.parametrize("form", ["array", "list", "lists of lists", "bools", "one image", "dask"])
def test_masks_in_memory(tmp_path, form):
    rng = np.random.default_rng(2)
    masks = [MASKS[0], MASKS[1, :2], MASKS[2, :, :1]] if form == "list" else list(MASKS)
    if form == "bools":
        masks = [mask > 1 for mask in masks]
    flat = np.concatenate([mask.ravel() for mask in masks]).astype(int).tolist()
    rows, given, after = random_decisions(rng, flat, lambda _: int(rng.integers(2)))
    decided = {"row": rows, "given_label": given, "decision": ["other"] * len(rows), "label": after}
    choices = {"decisions": decided}
    labels = np.stack(masks) if form != "list" else masks
    if form == "lists of lists":
        labels = labels.tolist()
    if form == "one image":
        labels, choices["task"] = labels.reshape(-1, 3), "segmentation"
    if form == "dask":
        labels = pytest.importorskip("dask.array").from_array(labels, chunks=2)
    before = [np.array(mask) for mask in masks]
    got = apply_decisions(labels, **choices).labels
    expected = naive_masks(masks, rows, after)
    if form == "one image":
        assert got.reshape(MASKS.shape).tolist() == expected
    else:
        assert [np.asarray(one).tolist() for one in got] == expected
    assert all(np.array_equal(one, other) for one, other in zip(masks, before, strict=True)), "the input is untouched"
    if form == "bools":
        assert got.dtype == np.bool_
    if form == "list":
        refused(InvalidInputError, "no form as a file", tmp_path, labels, decided, tmp_path / "out.npy")
        return
    apply_decisions(labels, output=tmp_path / "out.npy", **choices)
    assert np.array_equal(np.load(tmp_path / "out.npy"), got)
    apply_decisions(labels, output=tmp_path / "out.zarr", **choices)
    assert np.array_equal(zarr.open_array(tmp_path / "out.zarr", mode="r")[:], got)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_masks_in_png_files(tmp_path, mode):
    folder, rng = tmp_path / "masks", np.random.default_rng(7)
    folder.mkdir()
    masks = [rng.integers(0, 2 if mode == "1" else 4, (3 + n % 3, 4)) for n in range(11)]
    for number, mask in enumerate(masks):
        image = Image.fromarray(mask.astype({"1": "?", "I;16": "u2"}.get(mode, "u1")))
        if mode == "P":
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.save(folder / f"{number}.png", **({"transparency": 1} if mode == "P" else {}))
    flat = np.concatenate([mask.ravel() for mask in masks]).tolist()
    # None of them in the second image, whose file is copied.
    rows = [row for row in rng.permutation(len(flat))[:60].tolist() if not 12 <= row < 28]
    highest = 1 if mode == "1" else 9
    after = [highest if row % 5 == 0 else flat[row] for row in rows]
    decided = write_csv(tmp_path / "decisions.csv", rows, [flat[row] for row in rows], after)
    expected, choices = naive_masks(masks, rows, after), {"class_names": list(map(str, range(10)))}
    assert [one.tolist() for one in apply_decisions(folder, decided, **choices).labels] == expected
    apply_decisions(folder / "*.png", decided, tmp_path / "out", **choices)
    found = [Image.open(tmp_path / "out" / f"{number}.png") for number in range(11)]
    assert [np.asarray(one).astype(int).tolist() for one in found] == expected
    assert {one.mode for one in found} == {mode}
    assert (tmp_path / "out/1.png").read_bytes() == (folder / "1.png").read_bytes()
    if mode == "P":
        assert [(one.getpalette()[:12], one.info["transparency"]) for one in found] == [
            ([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255], 1)
        ] * 11
    applied = apply_decisions([folder / f"{number}.png" for number in range(11)], decided, tmp_path / "list", **choices)
    assert (applied.output, len(list((tmp_path / "list").iterdir()))) == (str(tmp_path / "list"), 11)
    refused(InvalidInputError, "must be a folder", tmp_path, folder, decided, tmp_path / "out.npy", **choices)
    refused(InvalidInputError, "exists", tmp_path, folder, decided, tmp_path / "out", **choices)
    refused(
        InvalidInputError, "it is not replaced", tmp_path, folder, decided, tmp_path / "out", overwrite=True, **choices
    )
    refused(InvalidInputError, "not for masks in image files", tmp_path, folder, decided, task="tags")
    if mode == "1":
        decided = {"row": [0], "given_label": [flat[0]], "decision": ["other"], "label": [2]}
        refused(InvalidInputError, "mode 1, which cannot", tmp_path, folder, decided, tmp_path / "x", **choices)


def test_a_list_of_masks_of_booleans():
    masks, decided = [MASKS[0] > 1, MASKS[1, :2] > 1], {"row": [24], "given_label": [int(MASKS[1, 1, 0] > 1)]}
    decided |= {"decision": ["other"], "label": [1 - decided["given_label"][0]]}
    found = apply_decisions(masks, decided).labels
    assert [one.dtype for one in found] == [np.bool_] * 2
    assert [np.argwhere(one != other).tolist() for one, other in zip(found, masks, strict=True)] == [[], [[1, 0]]]
    with pytest.raises(InvalidInputError, match="booleans, which cannot hold the class 2"):
        apply_decisions(masks, decided | {"label": [2]}, class_names=["a", "b", "c"])


def test_masks_in_png_files_that_are_named_in_other_ways(tmp_path, monkeypatch):
    for name in ("a/0.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8([[0, 1], [2, 3]])).save(tmp_path / name)
    monkeypatch.chdir(tmp_path / "b")
    decided = {"row": [0, 11], "given_label": [0, 3], "decision": ["other"] * 2, "label": [3, 0]}
    apply_decisions(["../a/0.png", "0.png", "../b/1.png"], decided, tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")): np.asarray(Image.open(path)).tolist()
        for path in tmp_path.rglob("out/*/*.png")
    }
    assert found == {"a/0.png": [[3, 1], [2, 3]], "b/0.png": [[0, 1], [2, 3]], "b/1.png": [[0, 1], [2, 0]]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out", "out.log.json"]
    twice = ["0.png", "1.png", "../b/0.png"]
    assert apply_decisions(twice, decided).labels[2].tolist() == [[0, 1], [2, 0]]
    refused(InvalidInputError, "b/0.png 2 times", tmp_path, twice, decided, tmp_path / "x")


def test_masks_with_policies(tmp_path):
    decided = {
        "row": [4, 9],
        "given_label": MASKS.ravel()[[4, 9]].tolist(),
        "decision": ["unsure"] * 2,
        "label": ["", ""],
    }
    ignored = apply_decisions(MASKS, decided, unsure="ignore", ignore_label=255).labels
    assert (np.flatnonzero(ignored.ravel() == 255).tolist(), ignored.dtype) == ([4, 9], MASKS.dtype)
    applied = apply_decisions(MASKS, decided, unsure="drop")
    assert (applied.dropped.tolist(), int(applied.kept_mask().sum())) == ([4, 9], MASKS.size - 2)
    # In place, where that is asked for.
    np.save(tmp_path / "masks.npy", MASKS)
    choices = {"unsure": "ignore", "ignore_label": 3, "output": tmp_path / "masks.npy"}
    refused(InvalidInputError, "is the input", tmp_path, tmp_path / "masks.npy", decided, **choices)
    apply_decisions(tmp_path / "masks.npy", decided, overwrite=True, **choices)
    assert np.load(tmp_path / "masks.npy").ravel()[[4, 9]].tolist() == [3, 3]


def found_pixels():
    rng = np.random.default_rng(3)
    return segmentation.find_label_issues(
        MASKS, rng.dirichlet(np.ones(4), MASKS.shape).transpose(0, 3, 1, 2), filter_by="predicted_neq_given"
    )


def test_a_result_of_pixels_is_compared_and_accepted(tmp_path):
    found = found_pixels()
    rows = found.rows.indices[:5]
    given = MASKS.ravel()[rows].tolist()
    decided = write_csv(tmp_path / "decisions.csv", rows.tolist(), given, [0] * 5, result=found.rows.fingerprint)
    got = apply_decisions(MASKS, decided, issues=found).labels
    assert got.ravel()[rows].tolist() == [0] * 5
    other = MASKS.copy()
    other.ravel()[np.setdiff1d(np.arange(MASKS.size), rows)[:9]] = 0
    refused(InvalidInputError, "not one of these labels", tmp_path, other, decided)
    refused(InvalidInputError, "issues have 105 rows, labels 84", tmp_path, MASKS[:4], decided, issues=found)
    accepted = apply_decisions(MASKS, issues=found, auto="accept", margin=0.0)
    table = found.rows.issue_table()
    taken = table["p_suggested"] >= table["p_given"]
    expected = MASKS.copy()
    expected[table["image"][taken], table["y"][taken], table["x"][taken]] = table["suggested_label"][taken]
    assert np.array_equal(accepted.labels, expected)
    assert accepted.counts["auto"] == taken.sum()


def test_a_result_of_smaller_masks_is_refused(tmp_path):
    rng = np.random.default_rng(3)
    masks, pred_probs = rng.integers(0, 3, (4, 6, 6)), rng.dirichlet([1] * 3, (4, 6, 6)).transpose(0, 3, 1, 2)
    found = segmentation.find_label_issues(masks[:, ::2, ::2], pred_probs[..., ::2, ::2])
    nothing = {"row": [], "given_label": [], "decision": [], "label": []}
    refused(InvalidInputError, r"36 rows, labels 144: images of other sizes", tmp_path, masks, nothing, issues=found)
    refused(InvalidInputError, "another dataset", tmp_path, masks[:3], nothing, issues=found)


def test_ids_are_of_images():
    decided = {"row": [22], "id": ["b"], "given_label": [int(MASKS[1, 0, 1])], "decision": ["keep"], "label": [""]}
    assert apply_decisions(MASKS, decided, ids=list("abcde")).counts["keep"] == 1
    with pytest.raises(InvalidInputError, match=r"row 22 .* has the id 'b', ids has 'x'"):
        apply_decisions(MASKS, decided, ids=list("axcde"))


# --- tokens


def draw_sentences(rng, kind):
    lengths = [0, 3, 1, 0, *rng.integers(0, 6, 40).tolist(), 0]
    if kind == "names":
        return [[NAMES[k] for k in rng.integers(0, 4, n)] for n in lengths]
    return [rng.integers(0, 4, n).tolist() for n in lengths]


def naive_sentences(sentences, rows, after):
    found, places = (
        [list(one) for one in sentences],
        [(i, t) for i, one in enumerate(sentences) for t in range(len(one))],
    )
    for row, label in zip(rows, after, strict=True):
        sentence, token = places[row]
        found[sentence][token] = label
    return found


@pytest.fixture(params=["numbers", "names"])
def sentences(request):
    """Sentences, and decisions about their tokens: (sentences, rows, given, after, expected)."""
    rng = np.random.default_rng(4)
    drawn = draw_sentences(rng, request.param)
    classes = NAMES if request.param == "names" else list(range(300))
    rows, given, after = random_decisions(
        rng, list(itertools.chain(*drawn)), lambda row: classes[-1] if row == 2 else classes[int(rng.integers(4))], 0.4
    )
    return drawn, rows, given, after, naive_sentences(drawn, rows, after)


FORMS = {
    "lists": lambda lists: lists,
    "tuples": lambda lists: tuple(map(tuple, lists)),
    "pandas": pd.Series,
    "polars": pl.Series,
    "arrow": pa.array,
    "chunked arrow": lambda lists: pa.chunked_array([pa.array(lists[:5]), pa.array(lists[5:])]),
    "objects": lambda lists: pd.Series(lists).to_numpy(),
}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_in_memory(tmp_path, sentences, form):
    lists, rows, given, after, expected = sentences
    decided = {"row": rows, "given_label": given, "decision": ["other"] * len(rows), "label": after}
    classes = {"class_names": NAMES if isinstance(given[0], str) else list(map(str, range(300)))}
    labels = FORMS[form](lists)
    got = apply_decisions(labels, decided, task="tokens", **classes).labels
    assert got == expected
    assert {type(one) for one in itertools.chain(*got)} == {type(given[0])}
    apply_decisions(labels, decided, tmp_path / "out.parquet", task="tokens", **classes)
    assert parquet.read_table(tmp_path / "out.parquet")["labels"].to_pylist() == expected
    refused(InvalidInputError, "must end in .parquet", tmp_path, labels, decided, tmp_path / "x.npy", task="tokens")


def test_tokens_as_arrays():
    lists = [np.array([0, 1], np.int16), np.array([], np.int16), np.array([1], np.int16)]
    decided = {"row": [2], "given_label": [1], "decision": ["accept"], "label": [0]}
    got = apply_decisions(lists, decided, task="tokens").labels
    assert [one.tolist() for one in got] == [[0, 1], [], [0]]
    assert {one.dtype for one in got} == {np.dtype(np.int16)}
    square = np.array([["a", "b"], ["b", "b"]])
    decided = {"row": [2], "given_label": ["b"], "decision": ["other"], "label": ["longer"]}
    got = apply_decisions(square, decided, task="tokens", class_names=["a", "b", "longer"]).labels
    assert got.tolist() == [["a", "b"], ["longer", "b"]]


def test_tokens_of_which_some_have_no_label():
    decided = {"row": [0, 2], "given_label": ["", 4], "decision": ["other", "unsure"], "label": [4, ""]}
    got = apply_decisions([[None, 4], [4, None]], decided, task="tokens", unsure="ignore", ignore_label=None).labels
    assert got == [[4, 4], [None, None]]
    assert [type(one) for one in got[0]] == [int, int]


LIST_TYPES = {
    "list": pa.list_,
    "large list": pa.large_list,
    "dictionary": lambda kind: pa.list_(pa.dictionary(pa.int8(), kind)),
}


@pytest.mark.parametrize("kind", LIST_TYPES)
def test_tokens_in_parquet(tmp_path, monkeypatch, sentences, kind):
    monkeypatch.setattr("labelsieve.review.labels._BLOCK_LISTS", 7)
    lists, rows, given, after, expected = sentences
    if kind == "dictionary" and isinstance(given[0], int):
        pytest.skip("Parquet has dictionaries of text only")
    classes = {"class_names": NAMES if isinstance(given[0], str) else list(map(str, range(300)))}
    column = pa.array(lists, LIST_TYPES[kind](pa.string() if isinstance(given[0], str) else pa.int32()))
    table = pa.table({"id": range(len(lists)), "labels": column, "probs": [[0.5] * len(one) for one in lists]})
    table = table.replace_schema_metadata({"of": "a test"})
    # pyarrow does not read lists of codes across groups of rows.
    group = None if kind == "dictionary" else 11
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=group, compression="zstd")
    decided = write_csv(tmp_path / "decisions.csv", rows, given, after)
    apply_decisions(f"{tmp_path}/t.parquet::labels", decided, tmp_path / "out.parquet", task="tokens", **classes)
    got = parquet.read_table(tmp_path / "out.parquet")
    assert got["labels"].to_pylist() == expected
    assert got.schema == parquet.read_table(tmp_path / "t.parquet").schema
    assert got.schema.metadata[b"of"] == b"a test"
    assert got.drop_columns("labels") == table.drop_columns("labels")
    assert apply_decisions(tmp_path / "t.parquet", decided, column="labels", task="tokens", **classes).n_rows == sum(
        map(len, lists)
    )


def test_tokens_in_lists_of_one_length_and_empty_tables(tmp_path):
    column = pa.array([[0, 1], [1, 1], [0, 0]], pa.list_(pa.int64(), 2))
    parquet.write_table(pa.table({"labels": column}), tmp_path / "t.parquet")
    decided = {"row": [3], "given_label": [1], "decision": ["other"], "label": [0]}
    apply_decisions(tmp_path / "t.parquet", decided, tmp_path / "out.parquet", task="tokens")
    assert parquet.read_table(tmp_path / "out.parquet")["labels"].to_pylist() == [[0, 1], [1, 0], [0, 0]]
    for lists in ([], [[], []]):
        parquet.write_table(pa.table({"labels": pa.array(lists, pa.list_(pa.int64()))}), tmp_path / "t.parquet")
        refused(
            InvalidInputError,
            "there is no such row, labels has 0",
            tmp_path,
            tmp_path / "t.parquet",
            decided,
            task="tokens",
        )


def test_names_of_tokens_of_which_some_are_missing():
    decided = {"row": [0], "given_label": ["a"], "decision": ["other"], "label": ["b"]}
    for missing in (None, float("nan")):
        [[first, second], [third]] = apply_decisions([["a", missing], ["b"]], decided, task="tokens").labels
        assert (first, third) == ("b", "b")
        assert second is missing
    decided |= {"given_label": [None]}
    found = apply_decisions([[None], [None]], decided, task="tokens", class_names=["b"])
    assert found.labels == [["b"], [None]]


def test_a_result_of_tokens_says_the_task():
    labels, probs = [["a", "b"], [], ["b"]], [np.array([[0.9, 0.1], [0.8, 0.2]]), [], np.array([[0.9, 0.1]])]
    found = tokens.find_label_issues(labels, probs, class_names=["a", "b"], filter_by="predicted_neq_given")
    got = apply_decisions(labels, issues=found, auto="accept", margin=0.7)
    assert got.labels == [["a", "b"], [], ["a"]]
    decided = {
        "row": [1],
        "given_label": ["b"],
        "decision": ["accept"],
        "label": ["a"],
        "result": [found.rows.fingerprint],
    }
    assert apply_decisions(labels, decided, issues=found.rows).labels == [["a", "a"], [], ["b"]]
    # In one flat array they are labels of rows; so are those of pixels.
    pixels = found_pixels().rows
    flat = apply_decisions(MASKS.ravel(), issues=pixels, auto="accept", margin=0.0).labels
    assert np.array_equal(flat, apply_decisions(MASKS, issues=pixels, auto="accept", margin=0.0).labels.ravel())
    assert apply_decisions(["a", "b", "b"], decided, issues=found).labels.tolist() == ["a", "a", "b"]


# --- tags


def naive_tags(lists, n_tags, rows, after):
    found = [set(one) for one in lists]
    for row, label in zip(rows, after, strict=True):
        example, tag = divmod(row, n_tags)
        assert label // 2 == tag
        (found[example].add if label % 2 else found[example].discard)(tag)
    return [sorted(one) for one in found]


@pytest.fixture
def tagged():
    """Tags of 30 examples, and decisions: (lists, rows, given, after, expected lists)."""
    rng = np.random.default_rng(5)
    lists = [sorted(rng.choice(5, n, replace=False).tolist()) for n in [0, 5, *rng.integers(0, 5, 28)]]
    flat = [2 * tag + (tag in one) for one in lists for tag in range(5)]
    rows, given, after = random_decisions(rng, flat, lambda row: 2 * (row % 5) + int(rng.integers(2)), 0.4)
    return lists, rows, given, after, naive_tags(lists, 5, rows, after)


def matrix_of(lists, dtype=np.uint8):
    return np.array([[tag in one for tag in range(5)] for one in lists], dtype)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", ["u1", "?", "f4", "i8"])
@pytest.mark.parametrize("form", ["npy", "zarr", "array", "frame", "shards"])
def test_a_matrix_of_tags(tmp_path, tagged, form, dtype):
    lists, rows, given, after, expected = tagged
    matrix, decided = matrix_of(lists, dtype), write_csv(tmp_path / "decisions.csv", rows, given, after)
    labels, output = matrix, tmp_path / "out.npy"
    if form == "npy":
        labels = tmp_path / "tags.npy"
        np.save(labels, matrix)
    elif form == "zarr":
        labels, output = tmp_path / "tags.zarr", tmp_path / "out.zarr"
        zarr.create_array(labels, data=matrix, chunks=(4, 2))
    elif form == "frame":
        labels = pd.DataFrame(matrix, columns=NAMES)
    elif form == "shards":
        np.save(tmp_path / "tags-0.npy", matrix[:11])
        np.save(tmp_path / "tags-1.npy", matrix[11:])
        labels = tmp_path / "tags-*.npy"
    got = apply_decisions(labels, decided, task="tags").labels
    assert np.array_equal(got, matrix_of(expected, dtype))
    assert got.dtype == np.dtype(dtype)
    apply_decisions(labels, decided, output, task="tags")
    written = np.load(output) if output.suffix == ".npy" else zarr.open_array(output, mode="r")[:]
    assert np.array_equal(written, got)
    assert written.dtype == np.dtype(dtype)
    assert np.array_equal(matrix, matrix_of(lists, dtype)), "the input is untouched"


@pytest.mark.every_value
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("form", [*FORMS, "parquet"])
def test_lists_of_tags(tmp_path, monkeypatch, tagged, form, named):
    monkeypatch.setattr("labelsieve.review.labels._BLOCK_LISTS", 7)
    lists, rows, given, after, expected = tagged
    if named:
        lists, expected = ([[NAMES[tag] for tag in one] for one in found] for found in (lists, expected))
    decided = write_csv(tmp_path / "decisions.csv", rows, given, after)
    labels = tmp_path / "tags.parquet"
    if form == "parquet":
        parquet.write_table(pa.table({"id": range(30), "tags": lists}), labels, row_group_size=11)
        apply_decisions(labels, decided, tmp_path / "out.parquet", column="tags", task="tags", class_names=NAMES)
        got = parquet.read_table(tmp_path / "out.parquet")
        assert (got["tags"].to_pylist(), got["id"].to_pylist()) == (expected, list(range(30)))
        assert got.schema == parquet.read_table(labels).schema
        return
    applied = apply_decisions(FORMS[form](lists), decided, task="tags", class_names=NAMES)
    assert (applied.labels, applied.n_rows) == (expected, 150)
    apply_decisions(FORMS[form](lists), decided, tmp_path / "out.parquet", task="tags", class_names=NAMES)
    assert parquet.read_table(tmp_path / "out.parquet")["labels"].to_pylist() == expected


def test_tags_keep_their_order():
    decided = {"row": [1, 5, 3], "given_label": [2, 5, 1], "decision": ["accept"] * 3, "label": [3, 4, 0]}
    got = apply_decisions([[2, 0], [2, 0]], decided, task="tags", class_names=["a", "b", "c"]).labels
    assert got == [[2, 0, 1], []]


def test_a_result_of_tags_is_reviewed_and_applied(tmp_path, capsys):
    labels = [[0], [0, 1], [], [1], [0, 1]]
    probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    found = multilabel_classification.find_label_issues(labels, probs, class_names=["cat", "dog"])
    assert found.pairs().tolist() == [[4, 0]]
    decided = {"row": [8], "given_label": [1], "decision": ["accept"], "label": [0], "result": [found.rows.fingerprint]}
    for issues in (found, found.rows):
        assert apply_decisions(labels, decided, issues=issues).labels == [[0], [0, 1], [], [1], [1]]
    accepted = apply_decisions(labels, issues=found, auto="accept", margin=0.5)
    assert (accepted.labels, accepted.counts["auto"]) == ([[0], [0, 1], [], [1], [1]], 1)
    assert (accepted.before.tolist(), accepted.after.tolist()) == ([1], [0])
    # The command, which takes the task of the result.
    np.save(tmp_path / "tags.npy", [[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]])
    pd.DataFrame(decided).to_csv(tmp_path / "decisions.csv", index=False)
    found.save(tmp_path / "issues.zarr")
    command = ["apply", str(tmp_path / "tags.npy"), str(tmp_path / "decisions.csv"), "-o", str(tmp_path / "out.npy")]
    assert run([*command, "--issues", str(tmp_path / "issues.zarr")]) == 0
    assert np.load(tmp_path / "out.npy").tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [0, 1]]
    assert run([*command, "--task", "tags", "--overwrite"]) == 0
    assert np.load(tmp_path / "out.npy").tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [0, 1]]
    assert run([*command, "--overwrite"]) == 2
    assert "--task" in capsys.readouterr().err


def test_reviews_and_audits_take_labels_in_the_form_of_the_task(tmp_path):
    matrix = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]] * 8)
    probs = np.random.default_rng(6).random((40, 2))
    tags = multilabel_classification.find_label_issues(matrix, probs, class_names=["cat", "dog"])
    flat = np.array([2 * tag + has for one in matrix.tolist() for tag, has in enumerate(one)])
    lists = [[["cat", "dog"][tag] for tag in np.flatnonzero(one)] for one in matrix]
    np.save(tmp_path / "masks.npy", MASKS)
    pixels = found_pixels().rows
    cases = [(pixels, MASKS.ravel(), [MASKS, tmp_path / "masks.npy"]), (tags.rows, flat, [matrix, lists])]
    for found, whole, forms in cases:
        for labels in [whole, *forms]:
            audit = found.audit(40, labels=labels)
            assert audit.given_labels.tolist() == whole[audit.rows].tolist()
            for given in ({"audit": audit}, {"rows": audit.rows, "labels": labels}):
                rows = ReviewRows(found, **given)
                assert [rows.values[k] for k in rows.given] == whole[audit.rows].tolist()
        other = np.array(forms[0])
        other.ravel()[found.worst(1).rows] ^= 1
        with pytest.raises(InvalidInputError, match="differ from the result"):
            found.review(tmp_path / "page.html", rows=found.worst(1).rows, labels=other)


# --- bad input

ONE = {"row": [1], "given_label": [1], "decision": ["other"], "label": [0]}
TAGS = {"row": [1], "given_label": [2], "decision": ["accept"], "label": [3]}
BAD = {
    "lists of lists": (
        [[0, 1], [1]],
        ONE,
        {},
        "lists of lists: give task='tokens', task='tags' or task='segmentation'",
    ),
    "a matrix": (np.zeros((3, 2), int), ONE, {}, r"one axis \(N,\), not shape \(3, 2\); for more axes give task="),
    "a column of lists": (pd.Series([[0, 1], [1]]), ONE, {}, "for lists give task="),
    "a task that is none": ([[0, 1]], ONE, {"task": "token"}, "task"),
    "a row beyond the tokens": (
        [[0, 1], [1]],
        ONE | {"row": [3]},
        {"task": "tokens"},
        "no such row, labels has 3 rows",
    ),
    "another given label": ([[0, 0], [1]], ONE, {"task": "tokens"}, "has 1 as the given label, labels has 0"),
    "tokens too deep": ([[[0], [1]], [[1]]], ONE, {"task": "tokens"}, "nested too deeply"),
    "a sentence that is text": ([["a"], "ab"], ONE, {"task": "tokens"}, "labels of sentence 1 must be a list"),
    "another given pixel": (np.zeros((2, 2, 2), int), ONE, {}, "has 1 as the given label, labels has 0"),
    "a pixel beyond": (np.ones((2, 2, 2), int), ONE | {"row": [8]}, {}, "no such row, labels has 8 rows"),
    "masks of floats": (np.ones((2, 2, 2)), ONE, {}, "masks must be integers"),
    "a class above all": (np.ones((2, 2, 2), int), ONE | {"label": [2]}, {}, r"labels has 0\.\.1"),
    "a class too high": (np.ones((2, 2, 2), np.int8), ONE | {"label": [300]}, {}, "does not fit into labels of int8"),
    "flat labels of pixels": (np.ones(8, int), ONE, {"task": "segmentation"}, "must have shape"),
    "a class that no boolean is": (
        np.ones((2, 2, 2), bool),
        ONE | {"label": [2]},
        {"class_names": ["a", "b", "c"]},
        "cannot hold the class 2",
    ),
    "masks as tags": (np.ones((2, 2, 2), int), ONE, {"task": "tags"}, r"the shape \(N, K\)"),
    "tags of unknown number": ([[0], [1]], TAGS, {"task": "tags"}, "do not say how many tags there are"),
    "other names": (
        np.zeros((2, 2), int),
        TAGS,
        {"task": "tags", "class_names": ["a"]},
        "1 tags in class_names .* 2 col",
    ),
    "a tag out of range": ([[0], [2]], TAGS, {"task": "tags", "class_names": ["a", "b"]}, r"outside 0\.\.1"),
    "a tag twice": ([[0, 0], [1]], TAGS, {"task": "tags", "class_names": ["a", "b"]}, "has tag 0 twice"),
    "a label of another tag": (
        np.zeros((2, 2), int),
        TAGS | {"label": [1]},
        {"task": "tags"},
        "is about tag 1 of example 0",
    ),
    "a given label of another tag": (
        np.zeros((2, 2), int),
        TAGS | {"given_label": [0]},
        {"task": "tags"},
        "labels has 2",
    ),
    "a matrix of twos": (np.full((2, 2), 2), TAGS, {"task": "tags"}, "0 and 1 only, but tag 0 of example 0 is 2"),
    "no label for tags": (
        np.zeros((2, 2), int),
        TAGS,
        {"task": "tags", "unsure": "ignore", "ignore_label": -1},
        "is not for tags",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path, case):
    labels, decided, choices, match = BAD[case]
    refused(InvalidInputError, match, tmp_path, labels, decided, **choices)
    lists = isinstance(labels, list)
    refused(
        InvalidInputError, match, tmp_path, labels, decided, tmp_path / ("x.parquet" if lists else "x.npy"), **choices
    )


def test_bad_files(tmp_path):
    np.save(tmp_path / "masks.npy", MASKS)
    out = tmp_path / "out.npy"
    decided = ONE | {"given_label": [int(MASKS[0, 0, 1])]}
    out.write_bytes(b"here")
    refused(InvalidInputError, "exists", tmp_path, tmp_path / "masks.npy", decided, out)
    assert out.read_bytes() == b"here"
    refused(InvalidInputError, "must end in .npy", tmp_path, tmp_path / "masks.npy", decided, tmp_path / "x.zarr")
    np.save(tmp_path / "bad.npy", np.array([[0, 1], [2, 0]]))
    decided = {"row": [0], "given_label": [0], "decision": ["accept"], "label": [1]}
    refused(
        InvalidInputError,
        "tag 0 of example 1 is 2",
        tmp_path,
        tmp_path / "bad.npy",
        decided,
        tmp_path / "x.npy",
        task="tags",
    )
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": pa.array([[0], None, [1]])}), path)
    refused(InvalidInputError, "null in place of a list", tmp_path, path, ONE, task="tokens")
    refused(InvalidInputError, "for lists give task=", tmp_path, path, ONE)
    refused(InvalidInputError, "segmentation.* is not for a column", tmp_path, path, ONE, task="segmentation")
    parquet.write_table(pa.table({"x": [[0], [7], [1]]}), path)
    choices = {"task": "tags", "class_names": ["a", "b"]}
    refused(InvalidInputError, r"t.parquet, lines from 0 on.*outside 0\.\.1", tmp_path, path, TAGS, **choices)
    parquet.write_table(pa.table({"x": [["a"], ["c"]]}), path)
    refused(InvalidInputError, "tag 'c', which class_names does not have", tmp_path, path, TAGS, **choices)
    parquet.write_table(pa.table({"x": [0, 1]}), path)
    refused(InvalidInputError, "without lists", tmp_path, path, TAGS, **choices)
    refused(InputTypeError, "tags must be whole numbers", tmp_path, [[0.5]], TAGS, **choices)
    refused(InputTypeError, "labels must be a list of the tags", tmp_path, [0, 1], TAGS, **choices)
    refused(InputTypeError, "labels must be a list of sentences", tmp_path, np.ones((1, 1, 1)), TAGS, task="tokens")


def test_columns_that_cannot_hold_what_was_decided(tmp_path):
    path, out = tmp_path / "t.parquet", tmp_path / "out.parquet"

    def store(lists, kind):
        parquet.write_table(pa.table({"x": pa.array(lists, kind)}), path)

    decided = {"row": [1], "given_label": [2], "decision": ["other"], "label": [3]}
    choices = {"task": "tags", "class_names": ["a", "b"]}
    store([[], []], pa.list_(pa.int16()))  # which do not say whether tags are names
    apply_decisions(path, decided, out, **choices)
    assert parquet.read_table(out)["x"].to_pylist() == [[1], []]
    out.unlink()
    (tmp_path / "out.parquet.log.json").unlink()
    store([["a"], ["b"]], pa.list_(pa.string(), 1))
    refused(InvalidInputError, "cannot hold the corrected tags", tmp_path, path, decided, out, **choices)
    store([[0], []], pa.list_(pa.int8()))
    decided = {"row": [199], "given_label": [398], "decision": ["other"], "label": [399]}
    choices["class_names"] = list(map(str, range(200)))
    refused(InvalidInputError, "cannot hold the corrected tags", tmp_path, path, decided, out, **choices)
    decided = {"row": [0], "given_label": [1], "decision": ["unsure"], "label": [""]}
    choices = {"task": "tokens", "unsure": "ignore", "ignore_label": None}
    store([[1], []], pa.list_(pa.field("item", pa.int64(), nullable=False)))
    refused(InvalidInputError, "cannot be missing", tmp_path, path, decided, out, **choices)
    schema = pa.schema([pa.field("x", pa.list_(pa.int64()), nullable=False)])
    parquet.write_table(pa.table([pa.array([[1], []])], schema=schema), path)
    apply_decisions(path, decided, out, **choices)
    assert parquet.read_table(out)["x"].to_pylist() == [[None], []]


@pytest.mark.parametrize(
    ("labels", "choices", "error", "match"),
    [
        (np.ma.masked_equal(MASKS, 3), {}, InvalidInputError, "masked array with"),
        ([np.ma.masked_equal(MASKS[0], 3)], {"task": "segmentation"}, InvalidInputError, "masked array with"),
        ([[[0, 1], [1]], [[1]]], {}, InvalidInputError, "differ in length"),
        (np.zeros((2, 0), int), {"task": "tags"}, InvalidInputError, "has no tags"),
        (None, {"task": "tags", "class_names": ["a", "b"]}, InputTypeError, "not NoneType"),
        (iter([[0]]), {"task": "tags", "class_names": ["a", "b"]}, InputTypeError, "must be a list of the tags"),
        ([[0, "a"]], {"task": "tokens"}, InvalidInputError, "objects of int, str, not all names"),
        ([[True, 0]], {"task": "tokens"}, InvalidInputError, "objects of bool, int, not all names"),
        ([[2**64, 0]], {"task": "tokens"}, InvalidInputError, "objects of int"),
    ],
)
def test_what_is_in_no_form_of_a_task(tmp_path, labels, choices, error, match):
    refused(error, match, tmp_path, labels, ONE, **choices)
