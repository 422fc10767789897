"""Which rows belong to which group, and results that say so."""

import itertools

import numpy as np
import pytest

import labelsieve
from labelsieve.job.job import Job
from labelsieve.options import JobSettings
from labelsieve.results.label_issues import GroupedIssues, load_rows, whole_groups
from labelsieve.results.units import EqualImages, PixelLayout, TagLayout, TokenLayout


def token_layout(lengths):
    return TokenLayout(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


LAYOUTS = {
    "tokens": (token_layout([2, 0, 3, 0, 0, 1]), [2, 0, 3, 0, 0, 1]),
    "empty_first": (token_layout([0, 0, 4, 0]), [0, 0, 4, 0]),
    "pixels": (PixelLayout(np.array([[2, 3], [1, 1], [4, 2]])), [6, 1, 8]),
    "equal_images": (EqualImages(3, 2, 5), [10, 10, 10]),
    "tags": (TagLayout(4, 3), [3, 3, 3, 3]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_row_is_in_its_group(name):
    layout, lengths = LAYOUTS[name]
    assert layout.n_groups == len(lengths)
    np.testing.assert_array_equal(layout.edges(0, len(lengths)), np.concatenate([[0], np.cumsum(lengths)]))
    np.testing.assert_array_equal(
        layout.edges(1, 3) - layout.edges(1, 1), np.concatenate([[0], np.cumsum(lengths[1:3])])
    )
    np.testing.assert_array_equal(
        layout.groups_of(np.arange(sum(lengths))), np.repeat(np.arange(len(lengths)), lengths)
    )


def test_places_of_rows():
    rows = np.array([0, 4, 7, 14])
    images = LAYOUTS["pixels"][0].columns(rows)
    assert {name: column.tolist() for name, column in images.items()} == {
        "image": [0, 0, 2, 2],
        "y": [0, 1, 0, 3],
        "x": [0, 1, 0, 1],
    }
    assert EqualImages(3, 2, 5).columns(np.array([17]))["y"].tolist() == [1]
    assert {name: column.tolist() for name, column in token_layout([2, 0, 3]).columns(np.array([1, 2])).items()} == {
        "sentence": [0, 2],
        "token": [1, 0],
    }
    assert TagLayout(4, 3).columns(np.array([7]))["tag"].tolist() == [1]


@pytest.mark.parametrize("seed", range(8))
def test_blocks_become_whole_groups(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, rng.integers(1, 30)) * rng.integers(0, 2, 1)
    layout, column = token_layout(lengths), rng.random(lengths.sum())
    cuts = np.sort(rng.integers(0, len(column) + 1, 5))
    groups = []
    for first, edges, values in whole_groups(layout, iter(np.split(column, cuts)), int(rng.integers(1, 20))):
        assert first == len(groups)
        assert edges[-1] == len(values)
        groups += [values[a:b].tolist() for a, b in itertools.pairwise(edges)]
    assert groups == [part.tolist() for part in np.split(column, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_stored_result_has_its_layout(name, tmp_path):
    layout, lengths = LAYOUTS[name]
    rng, n = np.random.default_rng(0), sum(lengths)
    probs = rng.dirichlet(np.ones(3), n)
    labels = rng.integers(0, 3, n)
    output = tmp_path / "whole.zarr"
    found = Job(labels, probs, JobSettings(progress=False), layout=layout).run()
    assert Job(labels, probs, JobSettings(progress=False, output=output), layout=layout).run().layout is not None
    found.save(tmp_path / "saved.zarr")
    for path in (output, tmp_path / "saved.zarr"):
        again = load_rows(path)
        assert type(again.layout) is type(layout)
        np.testing.assert_array_equal(again.layout.edges(0, len(lengths)), layout.edges(0, len(lengths)))
        table, rows = again.issue_table(), again.indices
        assert next(iter(table)) == next(iter(layout.columns(rows)))
        for column, values in layout.columns(rows).items():
            np.testing.assert_array_equal(table[column], values)
        counts = np.bincount(layout.groups_of(rows), minlength=len(lengths))
        np.testing.assert_array_equal(GroupedIssues(again).issues_per_group(), counts)


def test_rows_without_groups_have_no_layout(tmp_path):
    found = labelsieve.find_label_issues([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    found.save(tmp_path / "rows.zarr")
    assert labelsieve.load(tmp_path / "rows.zarr").layout is None
    with pytest.raises(ValueError, match="groups"):
        GroupedIssues(found)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((0, 1), "image 0, y 0, x 0"),
        ((5, 8), "image 0, y 1, x 0..2"),
        ((2, 9), "image 0, y 0, x 2 to y 1, x 3"),
        ((3, 30), "image 0, y 0, x 3 to image 2, y 1, x 4"),
        ((0, 10), "image 0"),
        ((10, 30), "images 1..2"),
        ((9, 11), "image 0, y 1, x 4 to image 1, y 0, x 0"),
    ],
)
def test_rows_are_named_by_their_places(rows, words):
    assert EqualImages(3, 2, 5).in_words(*rows) == words


def test_tokens_are_named_by_their_places():
    layout = token_layout([1, 3, 0, 5])
    assert [layout.in_words(*rows) for rows in ((0, 1), (1, 4), (2, 4), (2, 6))] == [
        "sentence 0, token 0",
        "sentence 1",
        "sentence 1, token 1..2",
        "sentence 1, token 1 to sentence 3, token 1",
    ]
