"""Two results compared: against sets of rows, in memory and stored, for each task; refusals; the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import labelsieve
from draws import draw, find
from labelsieve import (
    InputTypeError,
    InvalidInputError,
    LabelsieveWarning,
    compare,
    multilabel_classification,
    segmentation,
    token_classification,
)
from labelsieve.cli.app import run
from labelsieve.review import compare as comparison

NAMES = ["=1+1", "<img src=x onerror=alert(1)>", "cat"]


def two_results(**choices):
    """Return results of labels before and after: half of the issues corrected, some clean labels spoiled."""
    labels, probs = draw(800, 3, seed=3)
    before = find(labels, probs, **choices)
    rng = np.random.default_rng(0)
    corrected = labels.copy()
    some = before.issues.take(np.flatnonzero(rng.random(before.num_issues) < 0.5))
    corrected[some.rows] = some.suggested_labels
    # Wrong in another way than before, and newly wrong.
    moved = np.setdiff1d(before.indices, some.rows)[::3]
    corrected[moved] = 3 - corrected[moved] - probs[moved].argmax(axis=1)
    clean = before.clean_rows()[::40]
    corrected[clean] = probs[clean].argmin(axis=1)
    return before, find(corrected, probs, **choices)


def naive(before, after):
    """Compare by sets and dictionaries, row by row."""
    old, new = (
        dict(zip(one.indices.tolist(), one.issues.given_labels.tolist(), strict=True)) for one in (before, after)
    )
    table = []
    for row in sorted(old.keys() | new.keys()):
        status = "kept" if row in old and row in new else "resolved" if row in old else "new"
        table.append((row, status, old.get(row), new.get(row)))
    classes = []
    for k in range(after.n_classes):
        of_before = [line for line in table if line[2] == k]
        of_after = [line for line in table if line[3] == k]
        resolved, kept = ([line for line in of_before if line[1] == name] for name in ("resolved", "kept"))
        relabelled, new_ones = [line for line in kept if line[3] != k], [line for line in of_after if line[1] == "new"]
        classes.append([k, *map(len, (of_before, resolved, kept, relabelled, new_ones, of_after))])
    return table, classes


def plain(frame, columns):
    return [tuple(None if pd.isna(cell) else cell for cell in line) for line in frame[columns].values.tolist()]


def assert_naive(found, before, after):
    table, classes = naive(before, after)
    assert plain(found.to_frame(), ["row", "status", "given_label_before", "given_label_after"]) == table
    for name in ("resolved", "kept", "new"):
        rows = [line[0] for line in table if line[1] == name]
        assert getattr(found, name).tolist() == rows
        assert getattr(found, f"n_{name}") == len(rows)
    moved = [line[0] for line in table if line[1] == "kept" and line[2] != line[3]]
    assert (found.relabelled.tolist(), found.n_relabelled) == (moved, len(moved))
    columns = ["class", "issues_before", "resolved", "kept", "relabelled", "new", "issues_after"]
    assert found.by_class()[columns].values.tolist() == classes


@pytest.mark.parametrize("form", ["memory", "stored"])
def test_numbers_rows_and_classes_are_those_of_sets(tmp_path, form):
    ids = [f"={row}" for row in range(800)]
    before, after = two_results(class_names=NAMES, ids=ids)
    given = before, after
    if form == "stored":
        given = tmp_path / "before.zarr", str(tmp_path / "after.zarr")
        before.save(given[0])
        after.save(given[1])
    found = compare(*given)
    assert min(found.n_resolved, found.n_kept, found.n_new, found.n_relabelled) > 3, "a test of nothing"
    assert_naive(found, before, after)
    frame = found.to_frame()
    assert frame["id"].tolist() == [f"={row}" for row in frame["row"]]
    assert frame["given_name_before"].tolist() == ["" if pd.isna(k) else NAMES[k] for k in frame["given_label_before"]]
    of_after = dict(zip(after.indices.tolist(), after.issues.scores.tolist(), strict=True))
    scores = frame.loc[frame["status"] != "resolved"]
    assert scores["score_after"].tolist() == [of_after[row] for row in scores["row"]]
    classes = found.by_class()
    noise = after.class_summary().set_index("class")["label_noise"]
    expected = [noise[k] * after.class_counts[k] for k in range(3)]
    assert classes["estimated_after"].to_numpy() == pytest.approx(expected, abs=1e-9)
    assert classes["name"].tolist() == NAMES
    assert classes["rows_before"].tolist() == before.class_counts.tolist()
    assert (found.health_before, found.health_after) == (before.health_score(), after.health_score())
    assert (found.estimated_before, found.estimated_after) == (
        before.estimated_num_issues,
        after.estimated_num_issues,
    )


def test_too_many_issues_are_refused(monkeypatch, tmp_path):
    before, after = two_results()
    n_issues = before.num_issues + after.num_issues
    monkeypatch.setattr(comparison, "_MOST_ISSUES", n_issues)
    assert_naive(compare(before, after), before, after)
    monkeypatch.setattr(comparison, "_MOST_ISSUES", n_issues - 1)
    message = f"before and after have {n_issues:,} issues together, and at most {n_issues - 1:,} can be compared"
    with pytest.raises(InvalidInputError, match=message):
        compare(before, after)
    with pytest.raises(InvalidInputError, match=message):
        after.report(tmp_path / "r.html", before=before)
    assert list(tmp_path.iterdir()) == []


def test_no_issues_and_one_issue():
    probs = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]]
    none, one = find([0, 1, 1, 0], probs), find([0, 1, 0, 0], probs)
    assert str(compare(none, none)) == "Of 0 issues 0 were resolved, 0 are still there, 0 are new"
    assert compare(none, none).to_frame().empty
    assert str(compare(one, none)) == "Of 1 issue 1 was resolved, 0 are still there, 0 are new"
    assert str(compare(none, one)) == "Of 0 issues 0 were resolved, 0 are still there, 1 is new"
    assert repr(compare(one, one)) == "<Comparison: 1 issues before, 1 after: 0 resolved, 1 kept, 0 new>"


def test_the_table_is_safe_in_a_spreadsheet(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_TEXT_ROWS", 7)
    before, after = two_results(class_names=NAMES, ids=[f"@{row}" for row in range(800)])
    found = compare(before, after)
    found.to_csv(tmp_path / "t.csv")
    table, frame = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype=str), found.to_frame()
    assert table["id"].tolist() == [f"'@{row}" for row in frame["row"]]
    assert set(table["given_name_after"]) == {"'=1+1", *NAMES[1:], ""}
    assert table["status"].tolist() == frame["status"].tolist()
    read = pd.read_csv(tmp_path / "t.csv", dtype={"given_label_after": "Int64"})
    assert read["given_label_after"].tolist() == frame["given_label_after"].tolist()
    assert read["score_before"].equals(frame["score_before"])
    found.to_csv(tmp_path / "raw.csv", escape_formulas=False)
    assert pd.read_csv(tmp_path / "raw.csv")["id"].tolist() == frame["id"].tolist()
    with pytest.raises(InvalidInputError, match=r"t\.txt must end in \.csv"):
        found.to_csv(tmp_path / "t.txt")


def test_ids_of_one_result_or_of_another_kind():
    labels, probs = draw(300, 3, seed=1)
    plain_one = find(labels, probs)
    numbers, texts = find(labels, probs, ids=np.arange(300)), find(labels, probs, ids=[str(row) for row in range(300)])
    assert "id" not in compare(plain_one, plain_one).to_frame()
    for other in (plain_one, texts):
        frame = compare(numbers, other).to_frame()
        assert frame["id"].tolist() == [str(row) for row in frame["row"]]
    assert compare(numbers, numbers).to_frame()["id"].dtype == np.int64


def tags():
    labels = [[0], [0, 1], [], [1], [0, 1]]
    probs = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2], [0.1, 0.9], [0.05, 0.8]])
    options = {"class_names": ["cat", "dog"]}
    return (
        multilabel_classification.find_label_issues(labels, probs, **options),
        multilabel_classification.find_label_issues([*labels[:4], [1]], probs, **options),
        "Of 1 issue 1 was resolved, 0 are still there, 0 are new",
        {"example": [4], "tag": [0]},
    )


def images():
    masks = np.zeros((2, 4, 4), np.int64)
    masks[:, 2:] = 1
    probs = np.moveaxis(np.where(masks[:, None] == np.arange(2)[:, None, None], 0.9, 0.1), 1, 1).astype(np.float32)
    wrong = masks.copy()
    wrong[1, 0, 2] = 1
    return (
        segmentation.find_label_issues(wrong, probs, progress=False),
        segmentation.find_label_issues(masks, probs, progress=False),
        "Of 1 issue 1 was resolved, 0 are still there, 0 are new",
        {"image": [1], "y": [0], "x": [2]},
    )


def sentences():
    labels = [[0, 0, 1], [0, 1, 0]]
    probs = [np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])]
    return (
        token_classification.find_label_issues(labels, probs),
        token_classification.find_label_issues([[0, 0, 1], [1, 1, 0]], probs),
        "Of 1 issue 1 was resolved, 0 are still there, 0 are new",
        {"sentence": [1], "token": [0]},
    )


@pytest.mark.parametrize("task", [tags, images, sentences])
def test_other_tasks(task, tmp_path):
    before, after, said, places = task()
    before.save(tmp_path / "before.zarr")
    after.save(tmp_path / "after.zarr")
    for found in (compare(before, after), compare(tmp_path / "before.zarr", tmp_path / "after.zarr")):
        assert str(found) == said
        assert {name: found.to_frame()[name].tolist() for name in places} == places
    labelsieve.load(tmp_path / "after.zarr").report(tmp_path / "r.html", before=tmp_path / "before.zarr", top=1)
    assert said in (tmp_path / "r.html").read_text()
    after.report(tmp_path / "again.html", before=before, top=1)
    assert said in (tmp_path / "again.html").read_text()


# What cannot be compared ------------------------------------------------------------------------------------------


def another(**choices):
    labels, probs = draw(300, 3, seed=1)
    return find(labels, probs, **choices)


NAMED = another(class_names=["a", "b", "c"], ids=list(range(300)))
REFUSED = {
    "rows": (find(*draw(299, 3)), r"before has 300 rows, after 299"),
    "classes": (find(*draw(300, 4)), r"before has 3 classes, after 4"),
    "names": (another(class_names=["a", "x", "c"]), "class 1 is 'b' before and 'x' after"),
    "ids": (another(ids=list(range(7, 307))), r"row \d+ has the id \d+ before and \d+ after: another dataset"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_data_is_refused(what, tmp_path):
    other, message = REFUSED[what]
    with pytest.raises(InvalidInputError, match=message):
        compare(NAMED, other)
    page = tmp_path / "r.html"
    with pytest.raises(InvalidInputError, match=message):
        other.report(page, before=NAMED)
    assert not page.exists()


def test_other_groups_are_refused():
    before, after, *_ = sentences()
    with pytest.raises(InvalidInputError, match="before is a result of tokens, after of rows without groups"):
        compare(before, find([0, 0, 1, 0, 1, 0], np.full((6, 2), 0.5)))
    labels, probs = [[0, 0], [1, 0, 1, 0]], [np.full((2, 2), 0.5), np.full((4, 2), 0.5)]
    with pytest.raises(InvalidInputError, match="before and after have other sentences"):
        compare(after, token_classification.find_label_issues(labels, probs))
    masks, probs = np.array([[[0, 1], [0, 1]]]), np.full((1, 2, 2, 2), 0.5)
    of = segmentation.find_label_issues(masks, probs, progress=False)
    wide = segmentation.find_label_issues(masks.reshape(1, 1, 4), probs.reshape(1, 2, 1, 4), progress=False)
    with pytest.raises(InvalidInputError, match="before and after have other images"):
        compare(of, wide)


def test_what_is_not_a_result_is_refused(tmp_path):
    audit = another().audit(budget=50)
    for wrong in (None, [1, 2], audit):
        with pytest.raises(InputTypeError, match="after must be a result or the path of a saved one, not"):
            compare(NAMED, wrong)
    with pytest.raises(InvalidInputError, match="there is no result of Labelsieve at"):
        compare(tmp_path / "nothing.zarr", NAMED)


def test_other_settings_are_warned_of():
    with pytest.warns(LabelsieveWarning, match="method='self_confidence' before, method='normalized_margin' after"):
        compare(another(), another(method="normalized_margin"))


# The report and the command line ----------------------------------------------------------------------------------


def test_the_report_says_what_became_of_the_issues(tmp_path):
    before, after = two_results(class_names=NAMES)
    after.report(tmp_path / "r.html", before=before, top=3)
    page, found = (tmp_path / "r.html").read_text(), compare(before, after)
    assert f"Of {before.num_issues} issues {found.n_resolved} were resolved" in page
    assert "<img src=x" not in page
    section = page.partition('id="before"')[2].partition("</section>")[0]
    assert section.count("<tr>") == 4
    after.report(tmp_path / "alone.html", top=3)
    assert "Before and after" not in (tmp_path / "alone.html").read_text()


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before, after = two_results(class_names=NAMES)
    before.save("before.zarr")
    after.save("after.zarr")
    found = compare(before, after)
    assert run(["compare", "before.zarr", "after.zarr", "-o", "t.csv", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(found)
    assert lines[-1] == "written to t.csv"
    assert len(lines) == 3 + 1 + 3 + 1
    assert len(pd.read_csv("t.csv")) == found.n_resolved + found.n_kept + found.n_new
    assert run(["compare", "before.zarr", "after.zarr", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {name: answer[name] for name in ("n_resolved", "n_kept", "n_new", "n_relabelled", "output")} == {
        "n_resolved": found.n_resolved,
        "n_kept": found.n_kept,
        "n_new": found.n_new,
        "n_relabelled": found.n_relabelled,
        "output": None,
    }
    assert sum(one["resolved"] for one in answer["by_class"]) == found.n_resolved
    monkeypatch.setenv("LABELSIEVE_COMPARE_JSON", "1")
    assert run(["compare", "before.zarr", "after.zarr"]) == 0
    assert json.loads(capsys.readouterr().out)["n_kept"] == found.n_kept
    monkeypatch.delenv("LABELSIEVE_COMPARE_JSON")
    assert run(["report", "after.zarr", "--before", "before.zarr", "-o", "r.html", "--top", "1"]) == 0
    assert str(found) in Path("r.html").read_text()
    for wrong in (["before.zarr", "nothing.zarr"], ["before.zarr", "after.zarr", "-o", "t.parquet"], ["before.zarr"]):
        assert run(["compare", *wrong]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.zarr", "before.zarr", "r.html", "t.csv"]
