"""Tokens: pairs and scores of cleanlab, the same bits in every form and chunking, and errors that name sentences."""

import contextlib
import inspect
import io
import itertools
import pickle
from functools import partial

import cleanlab.rank
import cleanlab.token_classification.filter as their_filter
import cleanlab.token_classification.rank as their_rank
import cleanlab.token_classification.summary as their_summary
import dask.array as da
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import draws
import labelsieve
import s3
from labelsieve.cleanlab import token_classification as ours
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.parquet import ParquetListsSource
from labelsieve.token_classification import TokenIssues, find_label_issues, plan_label_issues, rank, summary
from labelsieve.token_classification.issues import scores_of_sentences
from labelsieve.token_classification.rows import edges_of_ids, edges_of_offsets

FILTERS = [
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]
METHODS = ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]
NAMES = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]


def cut(values, edges):
    """Return the values of each sentence, by an explicit loop."""
    return [values[start:stop] for start, stop in itertools.pairwise(edges)]


def sentences(n_tokens=400, n_classes=5, n_sentences=60, seed=0, **how):
    """Return labels and probabilities of sentences, some of them empty, and the same in flat arrays with offsets."""
    labels, probs = draws.draw(n_tokens, n_classes, seed=seed, **how)
    rng = np.random.default_rng(seed)
    edges = np.array([0, *sorted(rng.integers(0, n_tokens + 1, n_sentences - 1)), n_tokens])
    return [one.tolist() for one in cut(labels, edges)], cut(probs, edges), labels, probs, edges


LABELS, PROBS, FLAT_LABELS, FLAT_PROBS, EDGES = sentences()
IDS = np.repeat(np.arange(len(LABELS)), np.diff(EDGES))


def find(*args, **settings):
    return find_label_issues(*args, progress=False, **settings)


def pairs_of(rows, edges):
    """Return sentence and token of rows, by an explicit search."""
    found = []
    for row in rows:
        [sentence] = [i for i, (start, stop) in enumerate(itertools.pairwise(edges)) if start <= row < stop]
        found.append((sentence, int(row - edges[sentence])))
    return found


def assert_same(found, want):
    draws.assert_same_bits(found.rows, want.rows)
    np.testing.assert_array_equal(found.edges, want.edges)
    assert list(found) == list(want)


# Beside cleanlab ------------------------------------------------------------------------------------------------------


def assert_same_order(want, got, scores, edges):
    """Hold two lists of pairs against each other: the same pairs, in the same order except where scores tie."""
    assert len(want) > 0, "no issues would show nothing"
    assert set(want) == set(got)
    of_want, of_got = (np.array([scores[edges[i] + j] for i, j in pairs]) for pairs in (want, got))
    np.testing.assert_allclose(of_want, of_got, rtol=0, atol=1e-9)
    assert (np.diff(of_got) >= -1e-12).all()


@pytest.mark.parametrize("filter_by", FILTERS)
def test_the_pairs_are_those_of_cleanlab_by_every_filter_and_score(filter_by):
    for method in METHODS:
        scores = cleanlab.rank.get_label_quality_scores(FLAT_LABELS, FLAT_PROBS, method=method)
        want = their_filter.find_label_issues(
            LABELS, PROBS, return_indices_ranked_by=method, filter_by=filter_by, n_jobs=1
        )
        got = find(LABELS, PROBS, filter_by=filter_by, rank_by=method)
        assert_same_order(want, list(got), scores, EDGES)
        mirrored = ours.filter.find_label_issues(
            LABELS, PROBS, return_indices_ranked_by=method, filter_by=filter_by, n_jobs=1
        )
        assert mirrored == list(got)
        assert type(mirrored[0]) is tuple
        assert all(type(number) is int for number in mirrored[0])


def test_the_margin_of_logits_ranks_tokens_as_rows():
    flat = labelsieve.find_label_issues(FLAT_LABELS, FLAT_PROBS, method="logit_margin", progress=False)
    found = find(LABELS, PROBS, method="logit_margin")
    assert list(found) == pairs_of(flat.indices, EDGES) != []


@pytest.mark.parametrize("method", METHODS)
def test_low_memory_finds_the_pairs_of_cleanlab_in_the_documented_order(method, capfd):
    scores = cleanlab.rank.get_label_quality_scores(FLAT_LABELS, FLAT_PROBS, method=method)
    want = their_filter.find_label_issues(LABELS, PROBS, return_indices_ranked_by=method, low_memory=True)
    capfd.readouterr()
    got = ours.filter.find_label_issues(LABELS, PROBS, return_indices_ranked_by=method, low_memory=True)
    assert_same_order(sorted(want, key=lambda pair: scores[EDGES[pair[0]] + pair[1]]), got, scores, EDGES)
    assert got == list(find(LABELS, PROBS, method=method))
    with pytest.warns(UserWarning, match="`n_jobs` is not used when `low_memory=True`."):
        ours.filter.find_label_issues(LABELS, PROBS, low_memory=True, n_jobs=1)


@pytest.mark.parametrize("seed", range(4))
def test_the_defaults_and_other_arguments_are_those_of_cleanlab(seed):
    labels, probs, flat, flat_probs, edges = sentences(700, 3 + seed, 50, seed + 10, noise=0.3)
    scores = cleanlab.rank.get_label_quality_scores(flat, flat_probs)
    for how in [{}, {"frac_noise": 0.5}, {"filter_by": "both", "min_examples_per_class": 30}]:
        want = their_filter.find_label_issues(labels, probs, n_jobs=1, **how)
        assert_same_order(want, ours.filter.find_label_issues(labels, probs, **how), scores, edges)


@pytest.mark.every_value
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", [{}, {"sentence_score_method": "softmin"}, {"temperature": 0.4}, {"words": True}])
def test_the_scores_are_those_of_cleanlab(method, how):
    lists = [one for one in LABELS if one], [one for one in PROBS if len(one)]  # it takes no empty sentences
    arguments = {"token_score_method": method}
    if "temperature" in how:
        arguments |= {"sentence_score_method": "softmin", "sentence_score_kwargs": how}
    elif "words" in how:
        arguments["tokens"] = [[f"w{n}" for n in range(len(one))] for one in lists[0]]
    else:
        arguments |= how
    want, of_tokens = their_rank.get_label_quality_scores(*lists, **arguments)
    for module in (ours.rank, rank):
        got, got_tokens = module.get_label_quality_scores(*lists, **arguments)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
        assert (got.dtype, len(got_tokens)) == (np.float64, len(of_tokens))
        for one, other in zip(got_tokens, of_tokens, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
            if module is ours.rank or "words" in how:
                assert (type(one), list(one.index)) == (pd.Series, list(other.index))


def test_issues_from_scores_are_those_of_cleanlab():
    lists = [one for one in LABELS if one], [one for one in PROBS if len(one)]
    of_sentences, of_tokens = their_rank.get_label_quality_scores(*lists)
    for threshold in (0.03, 0.1, 0.4):
        want = their_rank.issues_from_scores(of_sentences, token_scores=of_tokens, threshold=threshold)
        assert rank.issues_from_scores(of_sentences, token_scores=of_tokens, threshold=threshold) == want
        want = their_rank.issues_from_scores(of_sentences, threshold=threshold)
        np.testing.assert_array_equal(rank.issues_from_scores(of_sentences, threshold=threshold), want)
    # cleanlab raises an IndexError.
    assert rank.issues_from_scores([0.3, 0.2, np.nan], threshold=1).tolist() == [1, 0]
    assert rank.issues_from_scores([np.nan, 0.2], token_scores=[[], [0.4, 0.05]]) == [(1, 1)]


WORDS = ["EU", "rejects", "-", "(", ")", ",", "'s", "a", "A", "b.c", "?w", "#x", "x|y", "5", "50%", ".", "!", "and"]


def printed(function, *args, **kwargs):
    """Return what a function prints, and what it returns."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        returned = function(*args, **kwargs)
    return out.getvalue(), returned


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"labels": LABELS},
        {"pred_probs": PROBS},
        {"labels": LABELS, "pred_probs": PROBS},
        {"labels": LABELS, "pred_probs": PROBS, "class_names": NAMES, "top": 3},
        {"labels": LABELS, "pred_probs": PROBS, "class_names": NAMES, "exclude": [(0, 1), (1, 0)], "top": 40},
    ],
    ids=["words", "labels", "probs", "both", "names", "exclude"],
)
def test_summaries_print_and_return_what_cleanlab_does(how):
    rng = np.random.default_rng(3)
    tokens = [[WORDS[n] for n in rng.integers(0, len(WORDS), len(one))] for one in LABELS]
    found = find(LABELS, PROBS, filter_by="both")
    pairs = list(found)
    want, _ = printed(their_summary.display_issues, pairs, tokens, **how)
    assert len(want) > 500
    for issues in (pairs, found, np.array(found)):
        assert printed(summary.display_issues, issues, tokens, **how)[0] == want
    for verbose in (True, False):
        want, table = printed(their_summary.common_label_issues, pairs, tokens, verbose=verbose, **how)
        got, got_table = printed(ours.summary.common_label_issues, found, tokens, verbose=verbose, **how)
        assert got == want
        pd.testing.assert_frame_equal(got_table, table)
    of_sentences = [sentence for sentence, _ in pairs]
    want, _ = printed(their_summary.display_issues, of_sentences, tokens)
    assert printed(summary.display_issues, of_sentences, tokens)[0] == want
    for word in ("a", "b.c", "missing"):
        assert summary.filter_by_token(word, found, tokens) == their_summary.filter_by_token(word, pairs, tokens)


def test_words_that_cleanlab_cannot_show_are_shown():
    # There a word with a backslash is a pattern of its own replacement, and no issues are an IndexError.
    text, _ = printed(summary.display_issues, [(0, 1)], [["a", "\\d+"]])
    assert text == "Sentence index: 0, Token index: 1\nToken: \\d+\n----\na \x1b[31m\\d+\x1b[0m\n"
    assert printed(summary.display_issues, [], [["a"]]) == ("", None)
    assert printed(summary.display_issues, [(0, 0)], [["a"]], top=0) == ("", None)


@pytest.mark.parametrize("issue", [(-1, 0), (2, 0), (0, 1), (1, 0), (0, -1), (0, 0, 0), (0.5, 0), "a"])
def test_issues_that_are_no_tokens_are_errors(issue):
    tokens = [["a"], []]
    for show in (summary.display_issues, summary.common_label_issues, partial(summary.filter_by_token, "a")):
        with pytest.raises(InvalidInputError, match="issue"):
            show([(0, 0), issue], tokens)


@pytest.mark.parametrize("module", ["filter", "rank", "summary"])
def test_signatures_are_those_of_cleanlab(module):
    theirs = {"filter": their_filter, "rank": their_rank, "summary": their_summary}[module]
    for name in getattr(ours, module).__all__:
        want, got = (
            [(p.name, p.kind, p.default or None) for p in inspect.signature(one).parameters.values()]
            for one in (getattr(theirs, name), getattr(getattr(ours, module), name))
        )
        assert [one for one in got if one[0] != "verbose"] == [one for one in want if one[0] != "verbose"], name


# Forms and chunkings --------------------------------------------------------------------------------------------------


def as_table():
    """Return a table with a row for each sentence."""
    values = pa.array(FLAT_PROBS.ravel())
    rows = pa.ListArray.from_arrays(np.arange(0, FLAT_PROBS.size + 1, 5, dtype=np.int32), values)
    fixed = pa.FixedSizeListArray.from_arrays(values, 5)
    offsets = EDGES.astype(np.int32)
    return pa.table(
        {
            "id": [f"s{n}" for n in range(len(LABELS))],
            "labels": pa.ListArray.from_arrays(offsets, pa.array(FLAT_LABELS)),
            "names": pa.ListArray.from_arrays(offsets, pa.array([NAMES[k] for k in FLAT_LABELS])),
            "probs": pa.ListArray.from_arrays(offsets, rows),
            "fixed": pa.ListArray.from_arrays(offsets, fixed),
        }
    )


def stored(folder, form):
    """Return the arguments that give the sentences in a form."""
    flat = {"offsets": EDGES}
    table = {"data": as_table(), "labels": "names", "pred_probs": "probs"}
    if form in ("parquet", "folder"):
        size = 7 if form == "parquet" else 1000
        for n, rows in enumerate([table["data"]] if form == "parquet" else map(table["data"].slice, (0, 25), (25, 99))):
            pq.write_table(rows, folder / f"{n}.parquet", row_group_size=size)
        return table | {"data": folder, "pred_probs": "fixed"}
    if form == "arrow":
        with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_file(file, table["data"].schema) as writer:
            writer.write_table(table["data"], max_chunksize=9)
        return table | {"data": folder / "t.arrow", "labels": "labels"}
    if form == "npy":
        for name, array in {"labels": FLAT_LABELS, "probs": FLAT_PROBS, "offsets": EDGES}.items():
            np.save(folder / f"{name}.npy", array)
        return {"labels": folder / "labels.npy", "pred_probs": folder / "probs.npy", "offsets": folder / "offsets.npy"}
    if form == "zarr":
        for name, array in {"labels": FLAT_LABELS, "probs": FLAT_PROBS}.items():
            zarr.create_array(folder / f"{name}.zarr", data=array, chunks=(70, *array.shape[1:]))
        return flat | {"labels": folder / "labels.zarr", "pred_probs": folder / "probs.zarr"}
    return {
        "lists": {"labels": LABELS, "pred_probs": [one.tolist() for one in PROBS]},
        "arrays": {"labels": tuple(map(np.array, LABELS)), "pred_probs": tuple(PROBS)},
        "integers": {
            "labels": [np.array(one, np.uint64 if n % 2 else np.int64) for n, one in enumerate(LABELS)],
            "pred_probs": PROBS,
        },
        "objects": {"labels": pd.Series(LABELS), "pred_probs": pd.Series(PROBS)},
        "names": {"labels": [[NAMES[k] for k in one] for one in LABELS], "pred_probs": PROBS},
        "offsets": flat | {"labels": FLAT_LABELS, "pred_probs": FLAT_PROBS},
        "sentence_ids": {"labels": FLAT_LABELS, "pred_probs": FLAT_PROBS, "sentence_ids": IDS},
        "dask": {
            "labels": da.from_array(FLAT_LABELS, chunks=70),
            "pred_probs": da.from_array(FLAT_PROBS, chunks=(70, 5)),
            "sentence_ids": da.from_array(IDS, chunks=50),
        },
        "table": table,
        "pandas": {
            "data": pd.DataFrame({"l": LABELS, "p": [list(one) for one in PROBS]}),
            "labels": "l",
            "pred_probs": "p",
        },
        "rows": {
            "data": pa.table({"s": IDS, "l": FLAT_LABELS, **{f"p{k}": FLAT_PROBS[:, k] for k in range(5)}}),
            "labels": "l",
            "pred_probs": "p*",
            "sentence_ids": "s",
        },
    }[form]


FORMS = ["lists", "arrays", "integers", "objects", "names", "offsets", "sentence_ids", "dask", "npy", "zarr"]
FORMS += ["table", "pandas", "rows", "parquet", "folder", "arrow"]


@pytest.mark.every_value
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("filter_by", [None, "prune_by_noise_rate"])
def test_every_form_gives_the_same_bits(tmp_path, form, filter_by):
    want = find(LABELS, PROBS, filter_by=filter_by)
    given_as = stored(tmp_path, form)
    found = find(**given_as, filter_by=filter_by)
    if form in ("sentence_ids", "dask", "rows"):  # which do not know of empty sentences at the end
        assert list(found) == list(want)
        assert found.n_sentences == IDS[-1] + 1
    else:
        assert_same(found, want)
    if form not in ("dask", "lists", "arrays"):
        found = find(**given_as, filter_by=filter_by, batch_size=11, partition_batches=2)
        draws.assert_same_bits(found.rows, want.rows)


def test_sentences_of_one_length_may_be_arrays():
    labels, probs = FLAT_LABELS.reshape(40, 10), FLAT_PROBS.reshape(40, 10, 5)
    found = find(labels, probs)
    assert_same(found, find(FLAT_LABELS, FLAT_PROBS, offsets=np.arange(0, 401, 10)))
    assert np.asarray(found).shape == (found.num_issues, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_floats_give_the_answer_of_the_same_values(dtype):
    narrow = [one.astype(dtype) for one in PROBS]
    want = find(LABELS, [one.astype(np.float64) for one in narrow], filter_by="both")
    assert draws.bits(find(LABELS, narrow, filter_by="both").rows) == draws.bits(want.rows)
    logits = [np.log(one) for one in PROBS]
    flat = find(FLAT_LABELS, np.log(FLAT_PROBS), offsets=EDGES, from_logits=True)
    assert_same(find(LABELS, logits, from_logits=True), flat)


@pytest.mark.filterwarnings("ignore:.* no more than 1 labelled rows:UserWarning")
@given(st.data())
def test_any_sentences_and_chunks_give_the_bits_of_flat_rows(data):
    labels, probs = data.draw(draws.datasets())
    edges = [0, *itertools.accumulate(data.draw(draws.cuts(len(labels))))]
    for _ in range(data.draw(st.integers(0, 3))):
        edges.insert(data.draw(st.integers(0, len(edges) - 1)) + 1, None)
    edges = pd.Series(edges).ffill().astype(int).tolist()
    settings = {
        "filter_by": data.draw(st.sampled_from([None, *FILTERS])),
        "batch_size": data.draw(st.integers(10, 90)),
        "partition_batches": data.draw(st.integers(1, 3)),
        "allow_unnormalized_rows": True,
    }
    want = draws.find(labels, probs, **settings)
    for found in (
        find([one.tolist() for one in cut(labels, edges)], cut(probs, edges), **settings),
        find(labels, probs, offsets=edges, **settings),
    ):
        assert draws.bits(found.rows) == draws.bits(want)
        assert list(found) == pairs_of(want.indices, edges)
    for method, naive in {"min": min, "softmin": naive_softmin}.items():
        scores = [naive(one.tolist()) if len(one) else np.nan for one in cut(want.scores, edges)]
        np.testing.assert_allclose(found.sentence_scores(method), scores, rtol=1e-9, atol=1e-12)


def naive_softmin(scores, temperature=0.05):
    weights = [np.exp((min(scores) - score) / temperature) for score in scores]
    return sum(weight * score for weight, score in zip(weights, scores, strict=True)) / sum(weights)


@given(st.data())
def test_scores_of_sentences_do_not_depend_on_what_is_reduced_with_them(data):
    lengths = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    edges = np.array([0, *itertools.accumulate(lengths)])
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).random(edges[-1])
    scores[scores < 0.1] = np.nan
    whole = scores_of_sentences(scores, edges, "softmin", 0.05)
    for n, one in enumerate(cut(scores, edges)):
        alone = scores_of_sentences(one, np.array([0, len(one)]), "softmin", 0.05)
        assert alone.tobytes() == whole[n : n + 1].tobytes()


def test_a_table_names_its_sentences_and_ignores_missing_labels(tmp_path):
    table = as_table()
    missing = [[None if n % 7 == 0 else label for n, label in enumerate(one)] for one in LABELS]
    table = table.append_column("missing", pa.array(missing, pa.list_(pa.int64())))
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10)
    want = find(missing, PROBS, ignore_label=None)
    assert want.n_ignored > 50
    for data in (tmp_path / "t.parquet", table):
        found = find("missing", "probs", data=data, ids="id", ignore_label=None)
        assert list(found) == list(want)
        assert found.to_frame()["id"].tolist() == [f"s{sentence}" for sentence, _ in list(want)]


def test_a_task_is_sent_the_lengths_of_its_own_sentences(tmp_path):
    offsets = np.arange(0, 200_001, 10, dtype=np.int32)
    labels = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(200_000, np.int8)))
    pq.write_table(pa.table({"l": labels}), tmp_path / "t.parquet", row_group_size=1000)
    lengths = [np.full(1000, 10)] * 20
    table = labelsieve.sources.tables.open_table(tmp_path / "t.parquet").tables[0]
    source = table.list_source("labels", "l", lengths, 0, with_nulls=False)
    assert isinstance(source, ParquetListsSource)
    part, origin = source.part(30_000, 40_000)
    assert (origin, len(pickle.dumps(source)) > 150_000, len(pickle.dumps(part)) < 20_000) == (0, True, True)
    assert part[39_995:40_005].tolist() == [0] * 10
    assert part.part(35_000, 36_000)[0][35_500:35_510].tolist() == [0] * 10


@pytest.mark.parametrize("group_rows", [1, 9, 1000])
def test_rows_of_lists_are_read_in_any_order(tmp_path, group_rows):
    pq.write_table(as_table(), tmp_path / "t.parquet", row_group_size=group_rows)
    table = labelsieve.sources.tables.open_table(tmp_path / "t.parquet").tables[0]
    lengths = table.list_lengths("labels", "labels", 0)
    source = table.list_source("pred_probs", "fixed", lengths, 0, with_nulls=False)
    assert source.shape == FLAT_PROBS.shape
    assert source.row_edges[-1] == len(FLAT_PROBS)
    rng = np.random.default_rng(0)
    with source.open() as rows:
        for start, stop in np.sort(rng.integers(0, 401, (40, 2)), axis=1).tolist():
            np.testing.assert_array_equal(rows.read(start, stop), FLAT_PROBS[start:stop])
    some = rng.permutation(400)[:50]
    np.testing.assert_array_equal(source.take(some), FLAT_PROBS[some])


@pytest.mark.slow
def test_lists_in_an_object_store(tmp_path, monkeypatch):
    with s3.running_server() as server:
        server.set_environment(monkeypatch)
        files = fsspec.filesystem("s3")
        files.mkdir(s3.BUCKET)
        for n, rows in enumerate(map(as_table().slice, (0, 25), (25, 99))):
            pq.write_table(rows, tmp_path / "t.parquet", row_group_size=8)
            files.put(str(tmp_path / "t.parquet"), f"{s3.BUCKET}/tables/{n}.parquet")
        url = f"s3://{s3.BUCKET}/tables"
        found = find("names", "probs", data=url, filter_by="both", batch_size=40, partition_batches=1)
        assert_same(found, find(LABELS, PROBS, filter_by="both"))
        np.testing.assert_array_equal(
            find("labels", "fixed", data=f"{url}/*.parquet").rows.scores, find(LABELS, PROBS).rows.scores
        )


# What the main function has -------------------------------------------------------------------------------------------


def test_a_workdir_resumes_and_an_output_is_loaded(tmp_path):
    settings = {"batch_size": 50, "partition_batches": 2, "workdir": tmp_path / "work"}
    want = find(LABELS, PROBS)
    for arguments in (stored(tmp_path, "npy"), {"labels": LABELS, "pred_probs": PROBS}):
        found = find(**arguments, **settings)
        assert (found.facts.rows_read, found.facts.rows_resumed) == (400, 0)
        assert_same(found, want)
        found = find(**arguments, **settings, output=tmp_path / "out.zarr")
        assert (found.facts.rows_read, found.facts.rows_resumed) == (0, 400)
        loaded = labelsieve.load(tmp_path / "out.zarr")
        assert isinstance(loaded, TokenIssues)
        for one in (found, loaded):
            assert_same(one, want)
            np.testing.assert_array_equal(one.sentence_scores("softmin"), want.sentence_scores("softmin"))
        settings["workdir"] = tmp_path / "other"
    want.save(tmp_path / "saved.zarr")
    assert_same(labelsieve.load(tmp_path / "saved.zarr"), want)


def test_a_cluster_gives_the_same_bits(tmp_path):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        settings = {"filter_by": "prune_by_noise_rate", "batch_size": 30, "partition_batches": 1}
        want = find(LABELS, PROBS, **settings)
        for arguments in (stored(tmp_path, "parquet"), {"labels": LABELS, "pred_probs": PROBS}):
            assert_same(find(**arguments, **settings, client=client), want)


def test_the_plan_has_the_tokens(tmp_path):
    plan = plan_label_issues(**stored(tmp_path, "parquet"), filter_by="both")
    assert (plan.n_rows, plan.n_classes) == (400, 5)
    with pytest.raises(InputTypeError, match="latency"):
        plan_label_issues(LABELS, PROBS, latency="20ms")


# The result -----------------------------------------------------------------------------------------------------------

TOKENS = [[f"w{n}<b>" for n in range(len(one))] for one in LABELS]


def test_the_tables_have_sentences_tokens_and_words(tmp_path):
    found = find(LABELS, PROBS, class_names=NAMES)
    frame = found.to_frame(7, tokens=TOKENS)
    assert list(frame)[:4] == ["sentence", "token", "word", "score"]
    assert frame[["sentence", "token"]].to_numpy().tolist() == found.pairs(7).tolist() == found.pairs()[:7].tolist()
    for row in frame.to_dict("records"):
        i, j = row["sentence"], row["token"]
        assert (row["given_label"], row["word"]) == (LABELS[i][j], f"w{j}<b>")
        assert (row["score"], row["suggested_label"]) == (PROBS[i][j][LABELS[i][j]], PROBS[i][j].argmax())
        assert row["given_name"] == NAMES[LABELS[i][j]]
    flat = list(itertools.chain.from_iterable(TOKENS))
    pd.testing.assert_frame_equal(found.to_frame(7, tokens=flat), frame)
    found.rows.to_csv(tmp_path / "issues.csv")
    assert (tmp_path / "issues.csv").read_text().startswith("sentence,token,score,")

    scores = found.sentence_scores()
    order = sorted((score, n) for n, score in enumerate(scores.tolist()) if not np.isnan(score))[:5]
    assert found.worst_sentences(5).tolist() == [n for _, n in order]
    counts = np.bincount([i for i, _ in found], minlength=len(LABELS))
    np.testing.assert_array_equal(found.issues_per_group(), counts)


def test_scores_by_sentence_leave_out_tokens_without_a_label():
    labels = [[-100 if n % 3 else label for n, label in enumerate(one)] for one in LABELS]
    labels[4] = [-100] * len(labels[4])
    found = find(labels, PROBS, ignore_label=-100)
    assert found.n_ignored == sum(one.count(-100) for one in labels)
    want = []
    for given_labels, probs in zip(labels, PROBS, strict=True):
        scores = [p[k] for k, p in zip(given_labels, probs, strict=True) if k >= 0]
        want.append(min(scores, default=np.nan))
    np.testing.assert_array_equal(found.sentence_scores(), want)
    assert np.isnan(found.sentence_scores("softmin")[4])
    for scores, given_labels in zip(found.token_scores(), labels, strict=True):
        assert np.isnan(scores).tolist() == [k < 0 for k in given_labels]
    assert len(found.worst_sentences(1000)) == np.count_nonzero(~np.isnan(want))
    assert repr(found).startswith(f"<TokenIssues: {len(found)} of {400 - found.n_ignored} labelled tokens (")


def test_a_result_stands_for_its_pairs():
    found = find(LABELS, PROBS)
    assert (len(found), bool(found)) == (found.num_issues, True)
    assert np.array(found).tolist() == found.pairs().tolist() == [list(pair) for pair in found]
    assert all(type(number) is int for number in next(iter(found)))
    assert (found.n_sentences, found.n_tokens, found.n_classes) == (60, 400, 5)
    masked = [(i, j) for i, mask in enumerate(found.mask()) for j in np.flatnonzero(mask).tolist()]
    assert masked == sorted(found)
    sentence = masked[0][0]
    assert found.mask(sentence).tolist() == found.mask()[sentence].tolist()
    assert found.token_scores(sentence).tolist() == found.token_scores()[sentence].tolist()
    with pytest.raises(InvalidInputError, match="there is no sentence 60: there are 60, from 0 on"):
        found.mask(60)
    assert '<th scope="col">sentence</th>' in found._repr_html_()
    right = find([[0], [1]], [[[0.9, 0.1]], [[0.1, 0.9]]])
    assert (len(right), bool(right), list(right), right.pairs().shape) == (0, False, [], (0, 2))
    assert repr(right) == "<TokenIssues: 0 of 2 tokens (0.00%) in 2 sentences and 2 classes; worst tokens: none>"
    assert right.to_frame(tokens=[["a"], ["b"]]).empty


def test_the_report_marks_the_word_in_its_sentence(tmp_path):
    found = find(LABELS, PROBS)
    found.report(tmp_path / "r.html", top=5, tokens=TOKENS)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    (i, j), *_ = found
    assert '<button type="button">Sentence</button>' in page
    assert '<button type="button">Token</button>' in page
    assert f"<mark>w{j}&lt;b&gt;</mark>" in page
    assert page.count("<mark>") == 5
    assert '<dt>Tokens</dt><dd>400</dd><dd class="of">of 60 sentences</dd>' in page
    assert f"{found.num_issues / 400:.2%} of the tokens" in page
    assert "<b>" not in page
    assert f'data-value="{i}">{i}</th><td class="number" data-value="{j}">{j}</td>' in page
    found.report(tmp_path / "r.html", top=3, texts=[f"text {n}" for n in range(60)])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (f"text {i}<" in page, "<mark>" in page) == (True, False)
    # Long sentences are cut around the word.
    long = [[f"{'x' * 9}{n}" for n in range(len(one))] for one in LABELS]
    long[i] = ["word" * 20] * len(LABELS[i])
    before, _, after = labelsieve.token_classification.issues.Words(long, found.edges).around(i, j)
    assert len(before) <= 202
    assert len(after) <= 202


# Bad input ------------------------------------------------------------------------------------------------------------

L, P = [[0, 1], [], [0]], [np.array([[0.9, 0.1], [0.2, 0.8]]), np.zeros((0, 2)), np.array([[0.8, 0.2]])]
FLAT = np.array([0, 1, 0]), np.concatenate(P)


def table_of(labels, probs):
    return {
        "data": pa.table({"l": pa.array(labels), "p": pa.array(probs)}),
        "labels": "l",
        "pred_probs": "p",
    }


BAD = {
    "fewer labels": ({"labels": [[0], [], [0]], "pred_probs": P}, "sentence 0 has 1 label, but 2 rows of pred_probs"),
    "fewer sentences": ({"labels": L[:2], "pred_probs": P}, "labels has 2 sentences, pred_probs has 3"),
    "label out of range": ({"labels": [[0, 1], [], [5]], "pred_probs": P}, "sentence 2, token 0 .first: 5."),
    "negative label": ({"labels": [[0, -1], [], [0]], "pred_probs": P}, "sentence 0, token 1 .first: -1."),
    "other K": (
        {"labels": L, "pred_probs": [P[0], P[1], [[0.8, 0.1, 0.1]]]},
        r"sentence 2 has shape \(1, 3\), not \(T, 2\)",
    ),
    "NaN": ({"labels": L, "pred_probs": [P[0], P[1], [[0.8, np.nan]]]}, "1 NaN probability in sentence 2, token 0"),
    "nested labels": ({"labels": [[[0], [1]], [], [[0]]], "pred_probs": P}, "token 0 of sentence 0 is a list"),
    "labels (T, 1)": ({"labels": [np.zeros((2, 1), int), [], [0]], "pred_probs": P}, r"shape \(2, 1\), not \(T,\)"),
    "flat labels": ({"labels": [0, 1, 0], "pred_probs": P}, "labels of sentence 0 must be a list.*offsets"),
    "texts": ({"labels": ["OB", "", "O"], "pred_probs": P}, "labels of sentence 0 must be a list"),
    "flat probs": ({"labels": L, "pred_probs": FLAT[1].tolist()}, r"sentence 0 has shape \(2,\), not \(T, K\)"),
    "deep probs": ({"labels": L, "pred_probs": [one[None] for one in P]}, r"shape \(1, 2, 2\), not \(T, K\)"),
    "ragged rows": ({"labels": L, "pred_probs": [[[0.9, 0.1], [0.2]], [], [[1, 0]]]}, "sentence 0 has rows of diff"),
    "None": ({"labels": L, "pred_probs": [None] * 3}, "pred_probs of sentence 0 must be an array"),
    "unknown name": (
        {"labels": [["O", "X"], [], ["O"]], "pred_probs": P, "class_names": ["O", "B"]},
        "e 0, token 1: 'X'",
    ),
    "float labels": ({"labels": [[0.5, 1], [], [0]], "pred_probs": P}, "labels must be integers"),
    "missing labels": ({"labels": [[None, 1], [], [0]], "pred_probs": P}, "1 missing value.*ignore_label=None"),
    "no sentences": ({"labels": [], "pred_probs": []}, "no sentences"),
    "no tokens": ({"labels": [[], []], "pred_probs": [[], []]}, "all sentences are empty"),
    "integers": ({"labels": L, "pred_probs": [[[1, 0], [0, 1]], [], [[1, 0]]]}, "must be float16, float32 or float64"),
    "sums": ({"labels": L, "pred_probs": [one / 2 for one in P]}, "do not sum to 1 within 0.05, sentences 0..2"),
    "offsets descend": ({"offsets": [0, 2, 1, 3]}, "sentence 1 would begin at token 2 and end at 1"),
    "offsets end": ({"offsets": [0, 2]}, "offsets end at 2, but pred_probs has 3 rows"),
    "offsets begin": ({"offsets": [1, 3]}, "offsets must begin with 0, not 1"),
    "float offsets": ({"offsets": [0.0, 3.0]}, "offsets must be integers, not float64"),
    "one offset": ({"offsets": [0]}, "offsets has 1 value"),
    "offsets (1, 2)": ({"offsets": [[0, 3]]}, "offsets must have one axis"),
    "both": ({"offsets": [0, 3], "sentence_ids": [0, 0, 0]}, "give offsets or sentence_ids, not both"),
    "ids apart": (
        {"sentence_ids": [0, 1, 0]},
        "token 2 of sentence 0 comes after sentence 1",
    ),
    "ids descend": ({"sentence_ids": [2, 1, 1]}, "token 1 of sentence 1 comes after sentence 2"),
    "negative ids": ({"sentence_ids": [-1, 1, 1]}, "numbers from 0 that ascend, but token 0 of sentence -1"),
    "large ids": ({"sentence_ids": [0, 1, 10**12]}, "goes up to 1,000,000,000,000"),
    "ids of text": ({"sentence_ids": ["a", "a", "b"]}, "sentence_ids must be integers"),
    "fewer ids": ({"sentence_ids": [0, 0]}, "sentence_ids has 2 numbers, but pred_probs has 3 rows"),
    "offsets and lists": ({"labels": L, "pred_probs": P, "offsets": [0, 2, 2, 3]}, "leave out offsets"),
    "no lists": (table_of([0, 1], [[0.9, 0.1], [0.2, 0.8]]), "has the type int64; with a row for each sentence"),
    "lists of numbers": (table_of([[0, 1]], [[0.9, 0.1]]), "pred_probs: column 'p' .* holds one number"),
    "null sentence": (table_of([[0], None], [[[0.9, 0.1]], None]), "first is sentence 1"),
    "null label": (table_of([[0, None]], [[[0.9, 0.1], [0.9, 0.1]]]), "nulls .*, in sentence 0, token 1"),
    "other K in lists": (table_of([[0, 1], [1]], [[[0.9, 0.1]] * 2, [[1.0]]]), "sentence 1, token 0 has 1 value"),
    "lists differ": (table_of([[0, 1], [1]], [[[0.9, 0.1]], [[0.9, 0.1]]]), "sentence 0 has 2 labels, but 1 row"),
    "empty lists": (table_of([[0][:0]] * 2, [[[0.1]][:0]] * 2), "list of|all sentences are empty|type"),
    "ids of rows": (
        {
            "data": pa.table({"l": FLAT[0], "p": list(FLAT[1])}),
            "labels": "l",
            "pred_probs": "p",
            "ids": "l",
            "offsets": [0, 3],
        },
        "ids name sentences",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_before_any_output(tmp_path, case):
    arguments, message = BAD[case]
    if not {"labels", "data"} & set(arguments):
        arguments = {"labels": FLAT[0], "pred_probs": FLAT[1]} | arguments
    with pytest.raises(InvalidInputError, match=message):
        find(**arguments, output=tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "labels is missing"),
        ({"labels": FLAT[0], "pred_probs": FLAT[1]}, r"list of sentences, and is of shape \(3,\); .*offsets"),
        ({"labels": {1, 2}, "pred_probs": P}, "list of sentences, and is of the type set"),
        ({"labels": "l", "pred_probs": P, "data": pa.table({"l": [[1]]})}, "name its columns of lists"),
        ({"labels": L, "pred_probs": P, "filterby": "both"}, "did you mean 'filter_by'"),
        ({"labels": L, "pred_probs": P, "low_memory": True}, "no argument 'low_memory': leave it out"),
    ],
)
def test_objects_of_the_wrong_kind_are_type_errors(arguments, message):
    with pytest.raises(InputTypeError, match=message):
        find(**arguments)


def test_lengths_of_a_parquet_file_are_compared_as_it_is_read(tmp_path):
    table = as_table()
    shorter = [one[:-1] if n == 33 else one for n, one in enumerate(LABELS)]
    table = table.set_column(1, "labels", pa.array(shorter, pa.list_(pa.int64())))
    for n, rows in enumerate(map(table.slice, (0, 20), (20, 99))):
        pq.write_table(rows, tmp_path / f"{n}.parquet", row_group_size=6)
    assert len(LABELS[33]) > 1
    message = f"sentence 33 has {len(LABELS[33]) - 1} labels?, but {len(LABELS[33])} rows of pred_probs"
    with pytest.raises(InvalidInputError, match=message):
        find("labels", "fixed", data=tmp_path)


def test_errors_of_scores_and_words():
    with pytest.raises(InvalidInputError, match="one of min, softmin, not 'max'"):
        rank.get_label_quality_scores(L, P, sentence_score_method="max")
    with pytest.raises(AssertionError, match="Select from the following methods:\nmin\nsoftmin"):
        ours.rank.get_label_quality_scores(L, P, sentence_score_method="max")
    for temperature in (-1, "a", None):
        with pytest.raises(InvalidInputError, match="temperature must be a number of 0 or more"):
            find(L, P).sentence_scores("softmin", temperature=temperature)
    with pytest.raises(InputTypeError, match="has temperature, not 'temp'"):
        rank.get_label_quality_scores(L, P, sentence_score_kwargs={"temp": 1})
    with pytest.raises(InputTypeError, match="give token_score_method"):
        rank.get_label_quality_scores(L, P, method="self_confidence")
    found = find([[1, 1], [], [0]], P)
    assert list(found) == [(0, 0)]
    with pytest.raises(InvalidInputError, match="tokens has 1 item"):
        found.to_frame(tokens=[["a"]])
    with pytest.raises(InvalidInputError, match="sentence 0 has 2 tokens, but 1 word"):
        found.to_frame(tokens=[["a"], [], ["b"]])
    with pytest.raises(InvalidInputError, match="sentence 0 has 2 tokens, but the text 'ab'"):
        find([[1, 1], [0]], [P[0], P[2]]).to_frame(tokens=["ab", ["c"]])


def test_edges_are_read_in_blocks():
    assert edges_of_offsets(da.from_array([0, 2, 2, 5], chunks=2)).tolist() == [0, 2, 2, 5]
    ids = da.from_array([0, 0, 2, 2, 2, 3], chunks=(2, 2, 2))
    assert edges_of_ids(ids).tolist() == [0, 2, 2, 5, 6]
    with pytest.raises(InvalidInputError, match="token 4 of sentence 2 comes after sentence 3"):
        edges_of_ids(da.from_array([0, 2, 3, 3, 2], chunks=(2, 2, 1)))
