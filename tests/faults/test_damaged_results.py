"""Stored results that are damaged: an error that names the file and its rows, or the same numbers, and nothing else."""

import pickle
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import zarr

import draws
import labelsieve
from labelsieve import InvalidInputError, LabelsieveWarning, UnreadableDataError
from labelsieve.storage import checked as checked_arrays

N = 400


@pytest.fixture(scope="module")
def data():
    return draws.draw(N, 4, seed=8, noise=0.25)


def find(data, **choices):
    ids = [f"img/{i}" for i in range(N)]
    return labelsieve.find_label_issues(*data, progress=False, class_names=list("abcd"), ids=ids, **choices)


@pytest.fixture(scope="module", params=["saved", "written by tasks"])
def stored(request, data, tmp_path_factory):
    """A result in several chunks, some of which hold nothing but zeros; where it is, and what it answers."""
    path = tmp_path_factory.mktemp("results") / "r.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelsieve.results.store.RESULT_ROWS", 100)
        patch.setattr("labelsieve.results.store.RUN_ROWS", 16)
        labels, probs = data[0].copy(), data[1]
        labels[100:200] = probs[100:200].argmax(axis=1)  # no issues here
        if request.param == "saved":
            find((labels, probs)).save(path)
        else:
            find((labels, probs), output=path, batch_size=30, partition_batches=2)
    return path, {name: ask(labelsieve.load(path)) for name, ask in QUESTIONS.items()}


QUESTIONS = {
    "attributes": lambda r: (r.n_rows, r.n_classes, r.num_issues, r.class_names, r.settings, r.facts),
    "indices": lambda r: r.indices.tolist(),
    "lazy scores": lambda r: r.lazy_scores[90:310].compute(scheduler="synchronous").tolist(),
    "scores": lambda r: np.asarray(r.scores).tolist(),
    "histogram": lambda r: r.score_histogram()[1].tolist(),
    "mask": lambda r: r.mask().tolist(),
    "table": lambda r: {name: column.tolist() for name, column in r.issue_table().items()},
    "classes": lambda r: repr(r.class_summary().to_dict()),
    "pairs": lambda r: repr(r.confused_pairs(None).to_dict()),
    "health": lambda r: r.health_score(),
    "thresholds": lambda r: r.confident_thresholds.tolist(),
    "counts": lambda r: r.class_counts.tolist(),
    "mean scores": lambda r: repr(r.mean_scores.tolist()),
}


def damages(content, n_bits):
    """Yield what may become of a file: it is gone (None), empty or cut off, or one of `n_bits` bits is flipped."""
    yield "gone", None
    yield "empty", b""
    if len(content) > 1:
        yield "cut off", content[: len(content) // 2]
    rng = np.random.default_rng(len(content))
    for place in rng.choice(len(content), min(n_bits, len(content)), replace=False).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        yield f"bit in byte {place}", bytes(changed)


@contextmanager
def damaged(file, content):
    before = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def answers(path):
    """Return what each question gives: its answer, or an UnreadableDataError; other errors are raised."""
    try:
        result = labelsieve.load(path)
    except UnreadableDataError as error:
        return dict.fromkeys(QUESTIONS, error)
    found = {}
    for name, ask in QUESTIONS.items():
        try:
            found[name] = ask(result)
        except UnreadableDataError as error:
            found[name] = error
    return found


@pytest.mark.slow
def test_no_damage_gives_other_numbers_or_a_raw_error(stored, request):
    path, want = stored
    # The mask is made of the issues here, and metadata of a group of arrays say nothing.
    unread = {path / "issue_table" / "zarr.json", *(path / "mask").rglob("*")}
    files = sorted({file for file in path.rglob("*") if file.is_file()} - unread)
    assert len(files) == 44
    if "tasks" in request.node.name:  # all else is written in the same way
        files = [file for file in files if file.parts[-2] == "c" and file.parts[-3] in ("scores", "issues", "p_given")]
    for file in files:
        n_bits = 20 if file.parent == path else 1
        for what, content in damages(file.read_bytes(), n_bits):
            with damaged(file, content):
                got = answers(path)
            errors = {name: str(error) for name, error in got.items() if isinstance(error, UnreadableDataError)}
            assert {name: answer for name, answer in got.items() if name not in errors} == {
                name: answer for name, answer in want.items() if name not in errors
            }, (file, what)
            # A space more or less between two words of the group's metadata changes nothing; all else is noticed.
            assert errors or (file.parent == path and what.startswith("bit")), (file, what)
            assert all(str(file) in error for error in errors.values()), (file, what, errors)
            if file.name != "zarr.json":
                assert all(" with " in error and " to " in error for error in errors.values())


@pytest.mark.every_value
@pytest.mark.parametrize(
    ("file", "rows", "asked"),
    [
        ("scores/c/2", "rows 200 to 299", "lazy scores"),
        ("issues/c/0", "issues 0 to 15", "indices"),
        ("issue_table/id/c/0", "issues 0 to 15", "table"),
        ("issue_table/given_label/c/1", "issues 16 to 31", "classes"),
        ("class_counts/c/0", "classes 0 to 3", "counts"),
        ("confident_pairs/c/0/0", "lines 0 to 2", "pairs"),
    ],
)
@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_the_error_names_the_file_and_its_rows(stored, file, rows, asked, what):
    path, _ = stored
    content = (path / file).read_bytes()
    with damaged(path / file, None if what == "missing" else content[:-1] + bytes([content[-1] ^ 1])):
        error = answers(path)[asked]
    assert str(error) == (
        f"{path / file} with {rows} is {what}: restore the file from a copy, or find the issues again"
    )


def test_tables_and_pages_are_not_made_of_damaged_results(stored, tmp_path):
    path, _ = stored
    for file in ("scores/c/3", "issues/c/0"):
        with damaged(path / file, None):
            result = labelsieve.load(path)
            asked = [
                lambda r: r.report(tmp_path / "r.html"),
                lambda r: r.save(tmp_path / "s.zarr"),
                lambda r: r.plot.scores(),
            ]
            if file == "issues/c/0":
                asked = [
                    *asked[:2],
                    lambda r: r.to_frame(1),
                    repr,
                    lambda r: r.to_csv(tmp_path / "r.csv"),
                    lambda r: r.to_parquet(tmp_path / "r.parquet"),
                ]
            for ask in asked:
                with pytest.raises(UnreadableDataError, match=f"{file} with .* is missing"):
                    ask(result)
    assert list(tmp_path.iterdir()) == []


def test_every_chunk_is_stored_also_of_zeros(stored):
    path, _ = stored
    for name, array in zarr.open_group(path, mode="r").arrays():
        assert len(list((path / name / "c").iterdir())) == array.nchunks, name
    assert not zarr.open_array(path / "mask", mode="r")[100:200].any()


def test_damage_at_a_url_is_named_too(data):
    url, fs = "memory://results/d.zarr", fsspec.filesystem("memory")
    find(data).save(url)
    content = fs.cat_file("/results/d.zarr/scores/c/0")
    fs.rm_file("/results/d.zarr/scores/c/0")
    with pytest.raises(UnreadableDataError, match=r"memory://results/d\.zarr/scores/c/0 with rows 0 to 399 is missing"):
        np.asarray(labelsieve.load(url).scores)
    fs.pipe_file("/results/d.zarr/scores/c/0", content[:50] + b"?" + content[51:])
    with pytest.raises(UnreadableDataError, match=r"scores/c/0 with rows 0 to 399 is damaged"):
        np.asarray(labelsieve.load(url).scores)
    fs.rm_file("/results/d.zarr/zarr.json")
    with pytest.raises(UnreadableDataError, match=r"d\.zarr/zarr\.json is missing: .* was killed"):
        labelsieve.load(url)
    fs.rm("/results", recursive=True)


def test_a_result_that_was_replaced_is_not_read_as_the_one_before(data, tmp_path):
    path = tmp_path / "r.zarr"
    find(data).save(path)
    before = labelsieve.load(path)
    lazy = before.lazy_scores
    find(draws.draw(N, 4, seed=9, noise=0.25)).save(path)
    for ask in (lazy.compute, lambda: before.indices, before.mask):
        with pytest.raises(UnreadableDataError, match="a later run has replaced the result: load it again"):
            ask()


def test_a_lazy_array_travels_and_is_named_by_what_it_holds(data, tmp_path):
    path = tmp_path / "r.zarr"
    find(data).save(path)
    lazy = labelsieve.load(path).lazy_scores
    want = find(data).scores.tolist()
    assert pickle.loads(pickle.dumps(lazy)).compute(scheduler="synchronous").tolist() == want
    assert lazy[::-3].compute().tolist() == want[::-3]
    assert lazy.name == labelsieve.load(path).lazy_scores.name
    find(data).save(path)
    assert lazy.name != labelsieve.load(path).lazy_scores.name


def as_format_2(path):
    """Rewrite a saved result as earlier versions wrote it: no checksums, and chunks of zeros are not stored."""
    group = zarr.open_group(path)
    for name, array in [(name, node) for name, node in group.members(max_depth=2) if hasattr(node, "shape")]:
        values, chunks, dtype = array[:], array.chunks, str if array.dtype.kind in "OT" else array.dtype
        codec = zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")
        new = zarr.create_array(
            path, name=name, shape=array.shape, chunks=chunks, dtype=dtype, compressors=codec, overwrite=True
        )
        new[:] = values
    attributes = {key: value for key, value in group.attrs.items() if key not in ("checksum", "arrays")}
    facts = {key: value for key, value in attributes["facts"].items() if key not in ("misfit", "inputs", "finished")}
    group.attrs.put(attributes | {"format": 2, "facts": facts})


def test_a_result_without_checksums_still_opens_with_a_warning(tmp_path):
    path, (_, probs) = tmp_path / "r.zarr", draws.draw(N, 4, seed=9)
    labels = np.where(np.arange(N) % 10, probs.argmax(axis=1), 0)  # all issues have the label 0, whose chunk is absent
    want = find((labels, probs))
    want.save(path)
    as_format_2(path)
    assert not (path / "issue_table/given_label/c").exists()
    with pytest.warns(LabelsieveWarning, match=r"r\.zarr was written by an earlier version, without checksums"):
        got = labelsieve.load(path)
    draws.assert_same_bits(got, want)
    assert got.issue_table()["id"].tolist() == want.issue_table()["id"].tolist()
    got.save(tmp_path / "again.zarr")
    draws.assert_same_bits(labelsieve.load(tmp_path / "again.zarr"), want)
    (path / "issues/zarr.json").unlink()
    with pytest.raises(UnreadableDataError, match=r"issues/zarr\.json is missing"):
        got.mask()


def test_a_result_in_another_format_is_refused_with_what_to_do(data, tmp_path):
    path = tmp_path / "r.zarr"
    find(data).save(path)
    group = zarr.open_group(path)
    attributes = dict(group.attrs)
    del attributes["checksum"], attributes["arrays"]
    group.attrs.put(attributes | {"format": 1})
    with pytest.raises(
        InvalidInputError, match="format 1; this version of Labelsieve reads formats 2 and 3 only: find"
    ):
        labelsieve.load(path)
    group.attrs.put(attributes)
    with pytest.raises(UnreadableDataError, match=r"zarr\.json is damaged"):
        labelsieve.load(path)


def test_notes_that_others_add_to_the_group_do_no_harm(data, tmp_path):
    path = tmp_path / "r.zarr"
    find(data).save(path)
    zarr.open_group(path).attrs["note"] = "looked at on Monday"
    assert labelsieve.load(path).num_issues == find(data).num_issues


def test_attributes_are_whole_or_not():
    signed = checked_arrays.with_checksum({"a": 1, "b": [1.5, None]})
    assert checked_arrays.matches_checksum(signed)
    assert checked_arrays.matches_checksum(signed | {"c": 3})
    assert not checked_arrays.matches_checksum(signed | {"a": 2})
    assert not checked_arrays.matches_checksum({name: signed[name] for name in ("a", "checksum")})
    for checksum in (None, [], {}, {"of": ["a"]}, {"of": [[]], "sha256": ""}, {"of": [], "sha256": "x"}):
        assert not checked_arrays.matches_checksum(signed | {"checksum": checksum})
    assert not checked_arrays.matches_checksum({})


def test_a_reader_of_zarr_finds_a_flipped_bit_too(stored):
    path, _ = stored
    content = (path / "scores/c/0").read_bytes()
    changed = content[:20] + bytes([content[20] ^ 1]) + content[21:]
    with damaged(path / "scores/c/0", changed), pytest.raises(ValueError, match="checksum do not match"):
        zarr.open_array(path / "scores", mode="r")[:]
