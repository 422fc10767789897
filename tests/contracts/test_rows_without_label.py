"""Rows without a label: the answer is that of the other rows alone, to the bit, and says how many were left out."""

import json

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import labelsieve
from draws import draw, find
from labelsieve.cli.app import run
from labelsieve.cli.options import cli
from labelsieve.confident_learning.misfit import RowSample
from labelsieve.confident_learning.summarize import Summarizer, is_ignored, label_column
from labelsieve.errors import InvalidInputError, LabelsieveWarning
from labelsieve.options import FILTER_NAMES, NOTHING

N_ROWS, N_CLASSES = 1500, 5
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=21, decimals=2)
# Alone, in stretches longer than a partition, and at both ends.
GONE = np.random.default_rng(3).random(N_ROWS) < 0.3
GONE[:420] = GONE[900:1100] = GONE[-5:] = True
ROWS = np.flatnonzero(~GONE)
SCORES = [
    {},
    {"adjust_pred_probs": True},
    {"method": "normalized_margin"},
    {"method": "normalized_margin", "adjust_pred_probs": True},
    {"method": "confidence_weighted_entropy"},
    {"method": "logit_margin"},
    {"estimation_method": "off_diagonal_calibrated"},
]
CUT = {"batch_size": 50, "partition_batches": 2}


def given(ignored=-1, labels=LABELS, dtype=np.int64):
    """Return labels with `ignored` for rows without one, whose probabilities are anything."""
    probs = PROBS.copy()
    probs[GONE] = np.random.default_rng(5).choice([np.nan, np.inf, -3.0, 0.0, 7.0, 0.2], (GONE.sum(), N_CLASSES))
    return np.where(GONE, ignored, labels).astype(dtype), probs


def assert_same_answer(found, alone, rows=ROWS):
    """Compare a result with that of the labelled rows alone, which are `rows`."""
    for name, column in alone.issues.columns().items():
        wanted = rows[column] if name == "row" else column
        assert getattr(found.issues.columns()[name], "dtype", None) == wanted.dtype
        np.testing.assert_array_equal(found.issues.columns()[name], wanted, err_msg=name)
    scores = np.asarray(found.scores)
    assert scores[rows].tobytes() == np.asarray(alone.scores).tobytes()
    assert np.isnan(np.delete(scores, rows)).all()
    assert found.mask().sum() == len(found)
    assert not np.delete(found.mask(), rows).any()
    assert found.confident_thresholds.tobytes() == alone.confident_thresholds.tobytes()
    assert found.class_counts.tolist() == alone.class_counts.tolist()
    assert found.mean_scores.tobytes() == alone.mean_scores.tobytes()
    assert found.estimated_num_issues == alone.estimated_num_issues
    assert found.health_score() == alone.health_score()
    assert found.n_ignored == found.n_rows - len(rows)
    assert found.facts.misfit == alone.facts.misfit


@pytest.mark.every_value
@pytest.mark.parametrize("filter_by", [None, *FILTER_NAMES])
@pytest.mark.parametrize("scores", SCORES, ids=str)
def test_the_answer_is_that_of_the_other_rows(filter_by, scores, tmp_path):
    if filter_by == "low_normalized_margin" and "estimation_method" in scores:
        pytest.skip("refused")
    choices = {"filter_by": filter_by} | scores
    alone = find(LABELS[ROWS], PROBS[ROWS], **choices)
    assert len(alone)
    assert alone.n_ignored == 0
    assert_same_answer(find(*given(), ignore_label=-1, **CUT, **choices), alone)
    if not scores:
        stored = find(*given(), ignore_label=-1, output=tmp_path / "found.zarr", **CUT, **choices)
        assert_same_answer(stored, alone)
        assert zarr.open(tmp_path / "found.zarr")["mask"][:].tolist() == stored.mask().tolist()


@pytest.mark.parametrize(
    ("ignored", "dtype"), [(-1, np.int8), (255, np.uint8), (N_CLASSES, np.uint16), (-(2**63), np.int64), (2, np.int16)]
)
def test_any_whole_number_can_stand_for_none(ignored, dtype):
    labels = np.where(LABELS == 2, 1, LABELS)  # so that 2 is free
    alone = find(labels[ROWS], PROBS[ROWS])
    assert_same_answer(find(*given(ignored, labels, dtype), ignore_label=ignored, **CUT), alone)


def test_a_number_that_the_labels_cannot_hold_ignores_nothing():
    labels, probs = LABELS.astype(np.uint8), PROBS
    for ignored in (-1, 256, 10**30):
        found = find(labels, probs, ignore_label=ignored)
        assert_same_answer(found, find(labels, probs), np.arange(N_ROWS))


@pytest.mark.every_value
@pytest.mark.parametrize("filter_by", [None, "both", "confident_learning"])
@pytest.mark.parametrize("kind", ["npy", "zarr", "coarse labels", "shards", "dask", "forks", "little memory"])
def test_every_way_in_leaves_the_same_rows_out(kind, filter_by, tmp_path):
    labels, probs = given()
    choices = {"filter_by": filter_by, "ignore_label": -1, **CUT}
    if kind == "zarr":
        labels = zarr.create_array(tmp_path / "y.zarr", data=labels, chunks=(70,))
        probs = zarr.create_array(tmp_path / "p.zarr", data=probs, chunks=(90, N_CLASSES))
    elif kind == "coarse labels":  # are read first
        labels = zarr.create_array(tmp_path / "y.zarr", data=labels, chunks=(1000,))
    elif kind == "shards":
        for index, (start, stop) in enumerate([(0, 300), (300, 1000), (1000, N_ROWS)]):
            np.save(tmp_path / f"y-{index}.npy", labels[start:stop])
            np.save(tmp_path / f"p-{index}.npy", probs[start:stop])
        labels, probs = f"{tmp_path}/y-*.npy", f"{tmp_path}/p-*.npy"
    elif kind == "dask":
        labels, probs = da.from_array(labels, chunks=40), da.from_array(probs, chunks=(130, N_CLASSES))
    elif kind == "npy":
        np.save(tmp_path / "y.npy", labels)
        np.save(tmp_path / "p.npy", probs)
        labels, probs = tmp_path / "y.npy", tmp_path / "p.npy"
    elif kind == "forks":
        choices["n_jobs"] = 2
    elif kind == "little memory":
        choices["workdir"] = tmp_path / "work"
        choices["output"] = tmp_path / "found.zarr"
    if kind == "dask":
        choices = {name: value for name, value in choices.items() if name not in CUT}
    assert_same_answer(find(labels, probs, **choices), find(LABELS[ROWS], PROBS[ROWS], filter_by=filter_by))


def test_256_classes_and_none():
    labels, probs = draw(1500, 256, seed=2, signal=4.0)
    labels = labels.astype(np.int16)
    alone = find(labels[ROWS], probs[ROWS])
    labels[GONE] = -1
    assert_same_answer(find(labels, probs, ignore_label=-1, **CUT), alone)


def test_a_workdir_goes_on_and_knows_another_ignored_label(tmp_path):
    labels, probs = np.where(np.arange(N_ROWS) < 420, 0, np.maximum(LABELS, 1)), PROBS
    np.save(tmp_path / "y.npy", labels)
    np.save(tmp_path / "p.npy", probs)
    where, rows = (tmp_path / "y.npy", tmp_path / "p.npy"), np.arange(420, N_ROWS)
    choices = {"workdir": tmp_path / "work", **CUT}
    alone, whole = (find(labels[some], probs[some]) for some in (rows, slice(None)))
    first = find(*where, ignore_label=0, **choices)
    again = find(*where, ignore_label=0, **choices)
    assert (first.facts.rows_read, again.facts.rows_read) == (N_ROWS, 0)
    assert_same_answer(first, alone, rows)
    assert_same_answer(again, alone, rows)
    # Only partitions with ignored rows are read again.
    found = find(*where, **choices)
    assert (found.n_ignored, found.facts.rows_read) == (0, 500)
    assert_same_answer(found, whole, np.arange(N_ROWS))
    found = find(*where, ignore_label=0, **choices)
    assert found.facts.rows_read == 500
    assert_same_answer(found, alone, rows)


def test_a_run_that_ignores_nothing_has_the_records_of_one_that_cannot(tmp_path):
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "p.npy", PROBS)
    where = tmp_path / "y.npy", tmp_path / "p.npy"
    find(*where, workdir=tmp_path / "a", **CUT)
    find(*where, workdir=tmp_path / "b", ignore_label=NOTHING, **CUT)
    files = [sorted((tmp_path / name / "summaries").iterdir()) for name in "ab"]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_bad_rows_are_named_by_their_own_numbers():
    labels, probs = given()
    labels[ROWS[3]] = N_CLASSES
    with pytest.raises(InvalidInputError, match=f"1 label outside 0..4 in row {ROWS[3]} \\(first: {N_CLASSES}\\)"):
        find(labels, probs, ignore_label=-1, **CUT)
    labels, probs = given()
    probs[ROWS[200]] = np.nan
    with pytest.raises(InvalidInputError, match=f"5 NaN probabilities in row {ROWS[200]}"):
        find(labels, probs, ignore_label=-1, **CUT)
    with pytest.raises(InvalidInputError, match=r"labels outside 0\.\.4"):
        find(*given(), **CUT)


def test_counts_leave_the_same_rows_out():
    labels, probs = given()
    alone = labelsieve.count.compute_confident_joint(LABELS[ROWS], PROBS[ROWS], dense=True, progress=False)
    options = {"ignore_label": -1, "progress": False, **CUT}
    joint = labelsieve.count.compute_confident_joint(labels, probs, dense=True, **options)
    assert joint.tolist() == alone.tolist()
    assert labelsieve.count.num_label_issues(labels, probs, **options) == labelsieve.count.num_label_issues(
        LABELS[ROWS], PROBS[ROWS], progress=False
    )
    custom = {"confident_joint": joint, "estimation_method": "off_diagonal_custom"}
    assert labelsieve.count.num_label_issues(labels, probs, **options, **custom) == labelsieve.count.num_label_issues(
        LABELS[ROWS], PROBS[ROWS], **custom
    )
    mine = labelsieve.count.estimate_latent(joint, labels, dense=True, ignore_label=-1)
    for one, other in zip(mine, labelsieve.count.estimate_latent(alone, LABELS[ROWS], dense=True), strict=True):
        assert one.tobytes() == other.tobytes()
    with pytest.raises(InvalidInputError, match="labels outside"):
        labelsieve.count.estimate_latent(joint, labels)


@pytest.mark.parametrize("choices", [{}, {"filter_by": "both"}])
def test_no_label_at_all_is_an_error(choices):
    with pytest.raises(InvalidInputError, match="no row has a label: all 1,500 are -1"):
        find(np.full(N_ROWS, -1), np.full((N_ROWS, 3), np.nan), ignore_label=-1, **CUT, **choices)


@pytest.mark.parametrize("bad", [1.5, True, "", [1], b"x"])
def test_what_is_not_a_label_is_refused(bad):
    with pytest.raises(InvalidInputError, match="ignore_label must be one label"):
        find(LABELS, PROBS, ignore_label=bad)


def test_a_name_is_refused_where_labels_are_numbers():
    with pytest.raises(InvalidInputError, match="labels are int64, so that ignore_label must be a number; not 'cat'"):
        find(LABELS, PROBS, ignore_label="cat")


def test_no_missing_value_is_no_ignored_row():
    assert_same_answer(find(LABELS, PROBS, ignore_label=None), find(LABELS, PROBS), np.arange(N_ROWS))


def test_labels_that_do_not_fit_are_sampled_without_the_rows_left_out(monkeypatch):
    monkeypatch.setattr("labelsieve.confident_learning.misfit.SAMPLE_ROWS", 512)
    labels, probs = draw(20_000, 4, seed=8)
    labels = (labels + 1) % 4
    gone = np.random.default_rng(0).random(len(labels)) < 0.4
    rows = np.flatnonzero(~gone)
    assert RowSample(len(rows)).window < len(rows)
    with pytest.warns(LabelsieveWarning, match="classes are in a different order"):
        alone = find(labels[rows], probs[rows])
    labels[gone] = -1
    with pytest.warns(LabelsieveWarning, match="classes are in a different order"):
        found = find(labels, probs, ignore_label=-1, batch_size=999, partition_batches=1)
    assert_same_answer(found, alone, rows)


def test_results_say_how_many_rows_have_no_label(tmp_path):
    found = find(*given(), ignore_label=-1)
    alone = find(LABELS[ROWS], PROBS[ROWS])
    assert repr(found).startswith(f"<LabelIssues: {len(alone):,} of {len(ROWS):,} labelled rows (")
    assert f"{GONE.sum():,} more rows have no label" in found._repr_html_()
    assert found.to_frame()["row"].tolist() == ROWS[alone.indices].tolist()
    for mine, other in zip(found.score_histogram(20), alone.score_histogram(20), strict=True):
        np.testing.assert_array_equal(mine, other)
    found.save(tmp_path / "found.zarr")
    loaded = labelsieve.load(tmp_path / "found.zarr")
    assert loaded.n_ignored == GONE.sum()
    assert_same_answer(loaded, alone)
    pytest.importorskip("jinja2")
    found.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Rows without a label" in text
    assert f"{GONE.sum():,}" in text


def test_the_command_line_ignores_a_label(tmp_path, capfd):
    labels, probs = given()
    np.save(tmp_path / "y.npy", labels)
    np.save(tmp_path / "p.npy", probs)
    places = [str(tmp_path / "y.npy"), str(tmp_path / "p.npy")]
    assert run(["find", *places, "--ignore-label", "-1", "--json", "--quiet"]) == 0
    answer = json.loads(capfd.readouterr().out)
    alone = find(LABELS[ROWS], PROBS[ROWS])
    assert (answer["num_issues"], answer["n_ignored"]) == (len(alone), GONE.sum())
    assert answer["issue_share"] == len(alone) / len(ROWS)
    done = CliRunner().invoke(cli, ["find", *places, "--ignore-label", "-1"])
    assert f"1,500 rows ({GONE.sum():,} of them without a label)" in done.output
    assert CliRunner().invoke(cli, ["plan", *places, "--ignore-label", "-1"]).exit_code == 0


def test_strips_and_blocks_do_not_change_a_summary(monkeypatch):
    monkeypatch.setattr("labelsieve.job.scan.STRIP_BYTES", 400)
    monkeypatch.setattr("labelsieve.confident_learning.thresholds.SLICE_ROWS", 7)
    alone = find(LABELS[ROWS], PROBS[ROWS], filter_by="both")
    assert_same_answer(find(*given(), ignore_label=-1, filter_by="both", **CUT), alone)


def test_the_summary_of_a_row_without_label_does_not_depend_on_its_probabilities():
    blocks = []
    for value in (np.nan, 0.3):
        summarizer = Summarizer(3, 2, np.dtype(np.float64), ignored=-1)
        summarizer.add(np.array([0, -1, 1]), np.array([[0.9, 0.1], [value, value], [0.3, 0.7]]))
        blocks.append(summarizer.take())
        assert not summarizer.findings
        assert summarizer.totals().sums.dense().counts.tolist() == [1, 1]
        assert summarizer.totals().agreement.same == 2
    assert blocks[0].label.tolist() == [0, 2, 1]
    for name, column in blocks[0].columns().items():
        assert column.tobytes() == blocks[1].columns()[name].tobytes()


def test_labels_as_the_table_has_them():
    assert label_column(np.array([0, 255, 1], np.uint8), 3, 255).tolist() == [0, 3, 1]
    assert label_column(np.array([0, 3, 1]), 3, 255) is None
    assert label_column(np.array([0, -1, 1]), 3, None) is None
    assert label_column(np.array([0, 255]), 256, None).dtype == np.uint8
    assert label_column(np.array([0, 255]), 256, -1).dtype == np.uint16
    assert is_ignored(np.array([1, 255], np.uint8), -1).tolist() == [False, False]
