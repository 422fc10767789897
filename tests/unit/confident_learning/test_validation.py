"""Findings: the same whatever the cut, and the words that come of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import cuts
from labelsieve.confident_learning.checks import (
    ERRORS,
    MAX_RANGES,
    Finding,
    Findings,
    RowChecks,
    combine_findings,
    raise_or_warn,
)
from labelsieve.errors import InvalidInputError, LabelsieveWarning


def found_in(hit, first_row=0, kind="nan"):
    """Return the findings of one strip whose rows are hit where the mask `hit` says."""
    findings = Findings()
    rows = np.flatnonzero(hit)
    findings.add(kind, rows, first_row, n_values=2 * len(rows), example=first_row + int(rows[0]) if len(rows) else 0)
    return findings


def by_loops(hit):
    """Return all row ranges of a mask."""
    ranges = []
    for row, is_hit in enumerate(hit):
        if is_hit and ranges and ranges[-1][1] == row:
            ranges[-1] = (ranges[-1][0], row + 1)
        elif is_hit:
            ranges.append((row, row + 1))
    return ranges


@given(st.data(), st.lists(st.booleans(), min_size=1, max_size=40))
def test_findings_do_not_depend_on_how_rows_are_cut(data, hit):
    hit = np.array(hit)
    strips, start = [], 0
    for rows in data.draw(cuts(len(hit), most=20)):
        strips.append(found_in(hit[start : start + rows], start))
        start += rows
    middle = data.draw(st.integers(0, len(strips)))
    got = combine_findings([combine_findings(strips[:middle]), combine_findings(strips[middle:])])
    assert combine_findings([found_in(hit)]) == got
    ranges = by_loops(hit)
    assert (["nan"] if ranges else []) == list(got)
    if ranges:
        assert ranges[:MAX_RANGES] == got["nan"].ranges
        assert (len(ranges) > MAX_RANGES) == got["nan"].more
        assert hit.sum() == got["nan"].n_rows
        assert 2 * hit.sum() == got["nan"].n_values
        assert ranges[0][0] == got["nan"].example


def test_ranges_that_meet_at_a_cut_are_joined():
    total = combine_findings([found_in([0, 1, 1]), found_in([1, 1, 0], 3), found_in([1], 6)])
    assert total["nan"].ranges == [(1, 5), (6, 7)]


def test_joined_ranges_make_room_for_no_more_than_there_are():
    # The later part has one range too many; its first is joined to the earlier part's only one.
    hit = np.tile([1, 0], MAX_RANGES + 1)
    total = combine_findings([found_in([1, 1]), found_in(hit, 2)])
    assert total["nan"].ranges[0] == (0, 3)
    assert len(total["nan"].ranges) == MAX_RANGES
    assert total["nan"].more
    assert combine_findings([found_in([1, 1, *hit])]) == total


def test_no_rows_are_no_finding():
    assert combine_findings([Findings(), found_in([0, 0])]) == {}


def test_kinds_are_kept_apart():
    total = combine_findings([found_in([1, 0], kind="nan"), found_in([0, 1], 2, kind="label")])
    assert (total["nan"].ranges, total["label"].ranges) == ([(0, 1)], [(3, 4)])


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding(1, 1, [(3, 4)]), "row 3"),
        (Finding(5, 5, [(3, 4), (17, 21)]), "rows 3, 17..20"),
        (Finding(9, 9, [(3, 4), (17, 21)], more=True), "rows 3, 17..20 and more"),
    ],
)
def test_rows_are_named_as_people_read_them(finding, text):
    assert text == finding.where()


@pytest.mark.parametrize("kind", list(ERRORS))
def test_each_error_says_what_how_many_and_where(kind):
    findings = Findings({kind: Finding(1234, 1200, [(7, 9)], more=True, example=-2)})
    with pytest.raises(InvalidInputError) as caught:
        raise_or_warn(findings, 10)
    text = str(caught.value)
    assert text.startswith("1,200 rows of pred_probs" if kind in ("zero_row", "row_sum") else "1,234 ")
    assert "rows 7..8 and more" in text
    assert ERRORS[kind].replace("K-1", "9") in text
    assert isinstance(caught.value, ValueError)


def test_one_error_names_every_kind_of_trouble():
    findings = Findings({kind: Finding(1, 1, [(row, row + 1)]) for row, kind in enumerate(ERRORS)})
    with pytest.raises(InvalidInputError) as caught:
        raise_or_warn(findings, 3)
    text = str(caught.value)
    named = [text.find(f"row {row}") for row in range(len(ERRORS))]
    assert -1 not in named
    assert sorted(named) == named


def test_values_out_of_range_come_with_the_first_and_the_tolerance():
    findings = Findings({"above": Finding(1, 1, [(0, 1)], example=1.5), "label": Finding(2, 2, [(3, 5)], example=12)})
    with pytest.raises(InvalidInputError, match=r"first: 1\.5; at most 1e-3 outside.*first: 12"):
        raise_or_warn(findings, 10)


def test_zero_rows_ask_for_a_missing_chunk_unless_allowed():
    findings = Findings({"zero_row": Finding(500, 500, [(1000, 1500)])})
    with pytest.raises(InvalidInputError, match=r"500 rows .*all zeros, rows 1000\.\.1499: missing chunk\?"):
        raise_or_warn(findings, 10)
    raise_or_warn(findings, 10, RowChecks(allow_zero_rows=True))  # neither error nor warning


def test_low_rows_are_one_warning_with_their_number():
    findings = Findings({"low_row": Finding(4321, 4321, [(0, 4321)])})
    with pytest.warns(LabelsieveWarning, match=r"4,321 rows .*below 1/K.*rows 0\.\.4320") as caught:
        raise_or_warn(findings, 10)
    assert len(caught) == 1


def test_an_error_goes_before_a_warning():
    findings = Findings({"low_row": Finding(1, 1, [(0, 1)]), "nan": Finding(1, 1, [(2, 3)])})
    with pytest.raises(InvalidInputError, match="1 NaN probability in row 2"):
        raise_or_warn(findings, 10)


def test_nothing_found_says_nothing():
    raise_or_warn(Findings(), 2)
