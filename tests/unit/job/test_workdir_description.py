"""The description of a workdir: any damage is one error that names the file."""

import copy
import json

import dask.array as da
import fsspec
import numpy as np
import pytest

import draws
import labelsieve
from labelsieve import WorkdirError
from labelsieve.job.workdir import Description, Workdir, _checksum, _leaves, read_description
from labelsieve.storage.folder import LocalFolder, open_folder

LABELS, PROBS = draws.draw(90, 4, seed=5, noise=0.3)


def find(place, probs=PROBS, **choices):
    return labelsieve.find_label_issues(
        LABELS, probs, workdir=place, batch_size=10, partition_batches=2, progress=False, **choices
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir of a run that was done, and its description."""
    place = tmp_path_factory.mktemp("made") / "work"
    find(place)
    return place, json.loads((place / "labelsieve.json").read_text())


@pytest.fixture
def place(made):
    """The workdir, whose description is mended after the test."""
    path = made[0] / "labelsieve.json"
    whole = path.read_bytes()
    yield made[0]
    LocalFolder(made[0]).remove("labelsieve.json")
    path.write_bytes(whole)


def assert_refused(place):
    """Assert what a run is refused with; a plan reads the same file as a run, and reads it first."""
    with pytest.raises(WorkdirError) as caught:
        Workdir.peek(place, fresh=False)
    assert str(caught.value) == (
        f"{place}/labelsieve.json is damaged, or was written by another version of Labelsieve. "
        "Start over with fresh=True"
    )


def at(fields, name):
    """Return the table that holds the field of a dotted name, and its key there."""
    *tables, key = name.split(".")
    for table in tables:
        fields = fields[table]
    return fields, key


def delete(fields, name):
    table, key = at(fields, name)
    del table[key]


def replace_by(value):
    def harm(fields, name):
        table, key = at(fields, name)
        assert table[key] != value or type(table[key]) is not type(value)
        table[key] = value

    return harm


def change(fields, name):
    """Change a value a little, and keep its type."""
    table, key = at(fields, name)
    value = table[key]
    if isinstance(value, bool):
        table[key] = not value
    elif isinstance(value, int | float):
        table[key] = value + 1
    elif isinstance(value, str):
        table[key] = value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    elif isinstance(value, list):
        table[key] = [*value[:-1], value[0]] if len(value) > 1 and value[0] != value[-1] else [*value, 0]
    else:
        table[key] = 0


DAMAGES = {
    "deleted": delete,
    "changed": change,
    "a longer list": replace_by([[1, 2], {"a": None}]),
    "a table": replace_by({"inner": 1}),
    "text": replace_by("seven"),
    "below zero": replace_by(-3),
    "huge": replace_by(10**400),
    "infinite": replace_by(float("inf")),
    "not a number": replace_by(float("nan")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_field_is_noticed(place, made, damage):
    fields = {name for name, _ in _leaves(made[1]) if not name.startswith("checksums.")}
    assert {"kind", "format", "partitions", "records", "confirmed", "fingerprint.settings.method"} <= fields
    assert len(fields) > 20
    for name in fields | {"fingerprint", "fingerprint.pred_probs", "checksums"}:
        fields = copy.deepcopy(made[1])
        DAMAGES[damage](fields, name)
        (place / "labelsieve.json").write_text(json.dumps(fields))
        assert_refused(place)


@pytest.mark.parametrize("value", [None, 0, True, 1.5, []], ids=str)
def test_a_field_of_a_wrong_kind_is_noticed(place, made, value):
    for name in ("partitions", "records"):
        fields = copy.deepcopy(made[1])
        fields[name] = value
        (place / "labelsieve.json").write_text(json.dumps(fields))
        assert_refused(place)


CONTENTS = {
    "empty": b"",
    "half": b'{"kind": "labelsieve workdir", ',
    "bytes": b"\xff\xfe\x00",
    "bad UTF-8 in a text": b'{"kind": "labelsieve \xff"}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "no fields": b"{}",
    "a number of 5,000 digits": b"9" * 5000,
    "deep": b"[" * 100_000,
    "zeros": bytes(300),
}


@pytest.mark.every_value
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("url", [False, True])
def test_a_file_that_is_not_a_description_is_refused_and_a_fresh_run_starts_over(tmp_path, monkeypatch, content, url):
    place = "memory://bucket/described" if url else str(tmp_path / "work")
    try:
        open_folder(place).write("labelsieve.json", CONTENTS[content])
        assert_refused(place)
        with pytest.raises(WorkdirError, match=r"labelsieve\.json"):
            find(place)
        assert find(place, fresh=True).facts.rows_read == 90
        assert find(place).facts.rows_resumed == 90
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_folder_in_its_place_is_refused_and_a_fresh_run_starts_over(place, made):
    (place / "labelsieve.json").unlink()
    (place / "labelsieve.json").mkdir()
    assert_refused(place)
    assert find(place, fresh=True).facts.rows_read == 90


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 99])
def test_another_version_is_refused(place, made, version):
    (place / "labelsieve.json").write_text(json.dumps(made[1] | {"format": version}))
    assert_refused(place)


@pytest.mark.every_value
@pytest.mark.parametrize("stops", [[], [0], [60], [20, 40, 95], [7, 60, 90]], ids=str)
@pytest.mark.parametrize("lazy", [False, True])
def test_partitions_of_other_rows_harm_nothing_whatever_the_checksum(tmp_path, stops, lazy):
    probs, place = da.from_array(PROBS, chunks=(10, 4)) if lazy else PROBS, tmp_path / "work"
    want = find(None, probs)
    find(place, probs)
    fields = json.loads((place / "labelsieve.json").read_text())
    fields["partitions"] = [[where, stops] for where, _ in fields["partitions"]]
    del fields["checksums"]
    fields["checksums"] = {field: _checksum(found) for field, found in _leaves(fields)}
    (place / "labelsieve.json").write_text(json.dumps(fields))
    assert draws.bits(find(place, probs)) == draws.bits(want)


def test_what_was_written_comes_back(tmp_path):
    folder = LocalFolder(tmp_path)
    for stops in ([40, 80, 90], [0, 30, 90, 90]):
        facts, partitions = {"a": {"b": [1.5, None, "\N{SNOWMAN}"]}, "c": True}, {"p \N{SNOWMAN}": stops, "q": [7]}
        description = Description(facts, partitions, ["ab", "cd"], {"ab": "", "cd": "0"})
        description.write(folder)
        assert read_description(folder) == description
    assert read_description(LocalFolder(tmp_path / "none")) is None


def test_a_workdir_that_was_not_harmed_goes_on(made):
    assert find(made[0]).facts.rows_resumed == 90
    assert np.array_equal(find(made[0]).indices, find(None).indices)
