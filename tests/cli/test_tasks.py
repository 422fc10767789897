"""The tasks of the command line: pixels, tokens and tags are found and shown as the functions do."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import labelsieve
from draws import draw
from labelsieve import multilabel_classification, segmentation, token_classification
from labelsieve.cli.app import run

LABELS, PROBS = draw(240, 3, seed=4, dtype=np.float32)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", LABELS)
    np.save("probs.npy", PROBS)
    np.save("masks.npy", LABELS.reshape(6, 8, 5))
    np.save("planes.npy", np.ascontiguousarray(np.moveaxis(PROBS.reshape(6, 8, 5, 3), -1, 1)))
    np.save("offsets.npy", [0, 100, 100, 240])
    np.save("tags.npy", np.eye(3, dtype=np.uint8)[LABELS])


FIND = {
    "segmentation": (["masks.npy", "planes.npy"], segmentation, {}),
    "tokens": (
        ["labels.npy", "probs.npy", "--offsets", "offsets.npy"],
        token_classification,
        {"offsets": "offsets.npy"},
    ),
    "tags": (["tags.npy", "probs.npy"], multilabel_classification, {}),
}


@pytest.mark.parametrize("task", FIND)
def test_a_task_finds_what_its_function_finds(task, capsys):
    args, module, settings = FIND[task]
    want = module.find_label_issues(*args[:2], progress=False, **settings)
    assert want.num_issues > 3
    assert run(["find", "--task", task, *args, "-o", "issues.zarr", "--top", "2", "--report", "r.html"]) == 0
    printed = capsys.readouterr().out
    rows, groups = want.layout.units
    assert printed.startswith(f"{want.rows.n_rows:,} {rows} of {want.layout.n_groups:,} {groups}, ")
    assert ("two for each tag" in printed) == (task == "tags")
    assert f"The worst {rows}" in Path("r.html").read_text()
    assert f"The worst {rows}" in want._repr_html_()
    columns = want.rows.issue_table(0, 2)
    names = list(want.layout.columns(want.rows.indices))
    head, *lines = [line.split() for line in printed.splitlines() if line][4:7]
    assert head[: len(names)] == names
    for number, line in enumerate(lines):
        assert [int(cell) for cell in line[: len(names)]] == [columns[name][number] for name in names]
    found = labelsieve.load("issues.zarr")
    assert type(found) is type(want)
    np.testing.assert_array_equal(found.rows.indices, want.rows.indices)
    assert run(["report", "issues.zarr", "-o", "again.html"]) == 0
    assert run(["find", "--task", task, *args, "-o", "issues.csv", "--quiet"]) == 0
    with Path("issues.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == want.num_issues
    for name in names:
        assert [int(line[name]) for line in read] == want.rows.issue_table()[name].tolist()


@pytest.mark.parametrize("task", FIND)
def test_a_task_is_planned(task, capsys):
    args, module, settings = FIND[task]
    want = module.plan_label_issues(*args[:2], **settings)
    assert run(["plan", "--task", task, *args, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["n_rows"], planned["n_classes"]) == (want.n_rows, want.n_classes)
    assert planned["read_bytes"] == want.bytes_read


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--task", "tags", "tags.npy", "probs.npy", "--offsets", "o.npy"], "--offsets is for --task tokens"),
        (["labels.npy", "probs.npy", "--sentence-ids", "o.npy"], "--sentence-ids is for --task tokens"),
        (["--task", "segmentation", "masks.npy", "planes.npy", "--summaries", "s"], "--summaries takes the place"),
        (["--task", "segmentation", "labels.npy", "probs.npy"], "must have shape (N, H, W)"),
        (["--task", "pixels", "masks.npy", "planes.npy"], "'pixels' is not one of"),
        (["--task", "tags", "tags.npy", "probs.npy", "--ignore-label", "0"], "--ignore-label is not for --task tags"),
    ],
)
def test_what_a_task_has_not_is_one_line(args, message, capsys):
    assert run(["find", *args, "-o", "issues.csv"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line]
    assert message in line
