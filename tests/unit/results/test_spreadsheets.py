"""Names in files: CSV cells that a spreadsheet would run, and the lines of text files."""

import csv

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import draws
import labelsieve
from labelsieve import InvalidInputError
from labelsieve.cli.app import run
from labelsieve.results.report import RowTexts
from labelsieve.results.result import open_ids, read_class_names
from labelsieve.sources.names import escape_formula, read_lines, unescape_formula

# What is written, and what a spreadsheet gets to see.
CELLS = {
    '=HYPERLINK("http://x","y")': '\'=HYPERLINK("http://x","y")',
    "=1+1": "'=1+1",
    "+1 234": "'+1 234",
    "-a": "'-a",
    "-": "'-",
    "-5-3": "'-5-3",
    "-inf": "'-inf",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "-5\n": "'-5\n",
    "-\u0665": "'-\u0665",
    "'=1": "''=1",
    "''-a": "'''-a",
    "'-5": "''-5",
    # As they are.
    "-5": "-5",
    "+3": "+3",
    "-.5e-7": "-.5e-7",
    "-1.": "-1.",
    "'tis": "'tis",
    "''": "''",
    "": "",
    "a=b": "a=b",
    " =1": " =1",
    "img/1.png": "img/1.png",
}


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_is_escaped_where_a_spreadsheet_would_run_it(text):
    assert escape_formula(text) == CELLS[text]
    assert unescape_formula(CELLS[text]) == text


@given(st.text(st.sampled_from("'=+-@\t\r\n5.ea "), max_size=6))
def test_every_text_comes_back_and_none_is_run(text):
    cell = escape_formula(text)
    assert unescape_formula(cell) == text
    if cell[:1] in tuple("=+-@\t\r"):
        assert float(cell) == float(text)


@pytest.fixture(scope="module")
def all_found():
    """A result in which all of a few rows are issues, with ids and class names that spreadsheets would run."""
    names = list(CELLS)
    probs = np.tile(np.float32([0.1, 0.9]), (len(names), 1))
    labels = np.zeros(len(names), int)
    return labelsieve.find_label_issues(
        labels, probs, filter_by="predicted_neq_given", ids=names, class_names=["=cmd|x", "-1"], progress=False
    )


def test_ids_and_class_names_are_escaped_in_tables_and_come_back(all_found, tmp_path):
    path = tmp_path / "issues.csv"
    all_found.to_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    want = all_found.to_frame()["id"].tolist()
    assert sorted(want) == sorted(CELLS)
    assert [line["id"] for line in lines] == [CELLS[name] for name in want]
    assert {(line["given_name"], line["suggested_name"]) for line in lines} == {("'=cmd|x", "-1")}
    assert open_ids(path, len(want)).part(0, 0, np.arange(len(want))).tolist() == want
    again = labelsieve.find_label_issues(
        [0] * len(want), [[0.1, 0.9]] * len(want), filter_by="predicted_neq_given", ids=path, progress=False
    )
    assert again.to_frame()["id"].tolist() == want
    again.to_csv(tmp_path / "again.csv")
    assert pd.read_csv(tmp_path / "again.csv")["id"].tolist() == pd.read_csv(path)["id"].tolist()


def test_cells_are_written_as_they_are_where_this_is_wanted(all_found, tmp_path):
    all_found.to_csv(tmp_path / "i.csv", escape_formulas=False)
    with (tmp_path / "i.csv").open(newline="", encoding="utf-8") as file:
        assert {line["id"] for line in csv.DictReader(file)} == set(CELLS)
    with pytest.raises(InvalidInputError, match="escape_formulas must be True or False"):
        all_found.to_csv(tmp_path / "i.csv", escape_formulas="no")


def test_the_command_line_escapes_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels, probs = draws.draw(50, 3, seed=1, noise=0.4)
    np.save("labels.npy", labels)
    np.save("pred_probs.npy", probs)
    (tmp_path / "ids.txt").write_bytes(b"".join(b"=row(%d)\r\n" % row for row in range(50)))
    command = ["find", "labels.npy", "pred_probs.npy", "--ids", "ids.txt", "--quiet", "-o", "i.csv"]
    assert run(command) == 0
    frame = pd.read_csv("i.csv")
    assert len(frame) > 5
    assert frame["id"].tolist() == [f"'=row({row})" for row in frame["row"]]


def test_negative_numbers_in_columns_stay_numbers(tmp_path):
    labels, probs = draws.draw(100, 3, seed=2, noise=0.4)
    found = labelsieve.find_label_issues(labels, probs, adjust_pred_probs=True, ids=-np.arange(100), progress=False)
    found.to_csv(tmp_path / "i.csv")
    frame = pd.read_csv(tmp_path / "i.csv")
    assert frame["id"].tolist() == (-found.indices).tolist()
    assert "'" not in (tmp_path / "i.csv").read_text()


def test_a_csv_file_without_an_id_column_is_a_text_file(tmp_path):
    (tmp_path / "names.csv").write_text("'=a\nb,c\nd\n")
    assert open_ids(tmp_path / "names.csv", 3).part(0, 0, np.arange(3)).tolist() == ["'=a", "b,c", "d"]
    (tmp_path / "cut.csv").write_text("row,id,score\n1,a,0.5\n2\n")
    with pytest.raises(InvalidInputError, match=r"line 3 of .*cut\.csv has 1 cells, its header has 3"):
        open_ids(tmp_path / "cut.csv", 2)
    (tmp_path / "long.csv").write_text('id\n"' + "x" * 200_000 + '"\n')
    with pytest.raises(InvalidInputError, match=r"ids: .*long\.csv is not readable: field larger"):
        open_ids(tmp_path / "long.csv", 1)


def test_lines_end_with_a_line_feed_and_nothing_else(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffa\rb\r\nc\x0bd\u2028e\n\r\nf\r".encode())
    lines = ["a\rb", "c\x0bd\u2028e", "", "f\r"]
    assert read_lines(path) == lines
    assert open_ids(path, 4).part(0, 0, np.arange(4)).tolist() == lines
    assert RowTexts(path, 4, np.arange(4)).part(0, 4) == lines
    path.write_bytes("a\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match=r"texts: .*names\.txt is not readable: 'utf-8'"):
        RowTexts(path, 2, np.array([0]))
    path.write_bytes(b"a\rb\nc\n")
    assert read_class_names(path) == ["a\rb", "c"]
    path.write_bytes(b"")
    assert read_lines(path) == []
