"""Rows of `pred_probs` that do not sum to 1: found whatever the cut, named with what they look like."""

import ctypes
import platform
import warnings

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import draws
import labelsieve
from draws import find
from labelsieve import LabelInspector, LabelsieveWarning, find_label_issues_batched
from labelsieve.cli.app import run
from labelsieve.confident_learning.checks import NOTED_DIFFERENCE, SUM_TOLERANCE, RowSumCheck
from labelsieve.confident_learning.summarize import Summarizer

FLOATS = [np.float16, np.float32, np.float64]


def by_loops(probs):
    """Return the rows that are off by more than 0.05, and those that are off by more than 0.01 alone."""
    bad, loose = [], []
    for row, values in enumerate(probs.tolist()):
        total = 0.0
        for value in values:
            total += value
        if abs(total - 1) > 0.05:
            bad.append(row)
        elif abs(total - 1) > 0.01:
            loose.append(row)
    return bad, loose


def found_in(probs, strip):
    summarizer = Summarizer(len(probs), probs.shape[1], probs.dtype)
    labels = np.zeros(len(probs), int)
    for start in range(0, len(probs), strip):
        summarizer.add(labels[start : start + strip], probs[start : start + strip])
    return summarizer.findings


def rows_of(findings, kind):
    if kind not in findings:
        return []
    assert not findings[kind].more
    return [row for start, stop in findings[kind].ranges for row in range(start, stop)]


def in_blocks(bits, n_rows):
    """Return rows in blocks of `n_rows`, each by class."""
    return np.ascontiguousarray(bits.reshape(-1, n_rows, bits.shape[1]).transpose(0, 2, 1))


@st.composite
def rows_near_the_limits(draw_from):
    """Draw rows whose sums are within rounding of the limits, and far from them."""
    n_classes = draw_from(st.sampled_from([2, 3, 10, 32, 33, 100, 700]))
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    probs = rng.dirichlet(np.full(n_classes, 0.3), 5)
    limit = rng.choice([SUM_TOLERANCE, NOTED_DIFFERENCE], 5)
    distance = rng.choice([0.0, 1e-9, -1e-9, 3e-8, -3e-8, 1e-5, -1e-5, 1e-3, -1e-3, 3e-3, -3e-3, 0.3], 5)
    probs *= (1 + rng.choice([-1, 1], 5) * (limit + distance))[:, None]
    return probs.astype(draw_from(st.sampled_from(FLOATS)))


@given(probs=rows_near_the_limits())
def test_the_rows_are_those_that_loops_find_whatever_the_strips_and_the_dtype(probs):
    bad, loose = by_loops(probs)
    for strip in (1, 2, 5):
        for wider in (probs, probs.astype(np.float64)):
            findings = found_in(wider, strip)
            assert rows_of(findings, "row_sum") == bad
            assert rows_of(findings, "loose_sum") == loose


@pytest.mark.every_value
@pytest.mark.parametrize("n_classes", [2, 10, 33, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_approximate_sums_are_well_within_the_margin(dtype, n_classes):
    # Most of 1,000 probabilities are below the smallest normal float16.
    logits = np.random.default_rng(3).normal(size=(3000, n_classes)) * 4
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(dtype)
    probs[5] = 0
    want = probs.astype(np.float64).sum(axis=1)
    check = RowSumCheck(n_classes)
    bits = probs.view(f"u{probs.itemsize}")
    for got in (check.of_bits(bits), check.of_bits(in_blocks(bits, 600))):
        np.testing.assert_allclose(got, want, rtol=0, atol=n_classes * 2**-24)
    np.testing.assert_allclose(check.of_any(-probs), -want, rtol=0, atol=n_classes * 2**-24)


@pytest.mark.parametrize("dtype", FLOATS)
def test_many_classes_are_summed_well_within_the_margin(dtype, monkeypatch):
    probs = np.random.default_rng(4).random((4, 150_000))
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(dtype)
    sums = RowSumCheck(150_000).of_bits(probs.view(f"u{probs.itemsize}"))
    np.testing.assert_allclose(sums, probs.astype(np.float64).sum(axis=1), rtol=0, atol=1e-3)
    # Sums in column order take twenty times as long: good rows are not near a limit.
    monkeypatch.setattr("labelsieve.confident_learning.checks._in_column_order", None)
    assert not found_in(probs, 2)


@pytest.fixture
def no_subnormals():
    """Have the processor take subnormal numbers for 0, as ``torch.set_flush_denormal(True)`` does."""
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        pytest.skip("the register is another one")
    before, changed = ((ctypes.c_uint32 * 8)() for _ in range(2))
    maths = ctypes.CDLL("libm.so.6")
    assert maths.fegetenv(before) == maths.fegetenv(changed) == 0
    changed[7] |= 0x8040
    assert maths.fesetenv(changed) == 0
    yield
    assert maths.fesetenv(before) == 0


def test_small_float16_values_count_where_subnormal_numbers_are_taken_for_0(no_subnormals):
    tiny = np.array([1 << 13], np.uint32).view(np.float32)
    assert (tiny + tiny)[0] == 0
    probs = np.full((3, 20_000), 1 / 20_000, np.float16)  # below the smallest normal float16
    for bits in (probs.view(np.uint16), in_blocks(probs.view(np.uint16), 1)):
        np.testing.assert_allclose(RowSumCheck(20_000).of_bits(bits), 1, atol=1e-3)
    assert "row_sum" not in found_in(probs, 2)


def logits_of(labels, n_classes, seed=1):
    logits = np.random.default_rng(seed).normal(size=(len(labels), n_classes))
    logits[np.arange(len(labels)), labels] += 3
    return logits


LABELS = np.random.default_rng(2).integers(0, 6, 400)
LOGITS = logits_of(LABELS, 6)
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
KINDS = {
    "logits": (LOGITS, "softmax"),
    "logits above 0": (LOGITS - LOGITS.min() + 0.5, "softmax"),
    "logarithms": (np.log(PROBS), "np.exp(pred_probs)"),
    "percentages": (PROBS * 100, "pred_probs / 100"),
    "whole percentages": (np.round(PROBS * 100), "pred_probs / 100"),
    "counts": (np.round(PROBS * 37), "are these counts?"),
    "sigmoid": (1 / (1 + np.exp(-LOGITS)), "sigmoid"),
    "sigmoid, few classes likely": (1 / (1 + np.exp(1.5 - LOGITS)), "sigmoid"),
    "halved": (PROBS * 0.5, "are these probabilities times 0.5? Take pred_probs = pred_probs / pred_probs.sum("),
    "of 255": (PROBS * 255, "are these probabilities times 255? Take pred_probs = pred_probs / pred_probs.sum("),
    "of five models": (PROBS * 5, "are these probabilities times 5? Take pred_probs = pred_probs / pred_probs.sum("),
    "largest alone": (np.where(PROBS.max(axis=1, keepdims=True) == PROBS, PROBS, 0), "are some classes missing"),
    "a missing chunk": (np.where(np.arange(400)[:, None] // 50 == 3, 0.25, PROBS), "missing chunk"),
}


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("probs", "cause"), KINDS.values(), ids=list(KINDS))
def test_what_they_look_like_is_said(probs, cause, dtype):
    probs = probs.astype(dtype)
    n_bad = len(by_loops(probs)[0])
    assert n_bad >= 50
    with pytest.raises(labelsieve.InvalidInputError) as caught:
        find(LABELS, probs)
    text = str(caught.value)
    assert f"{n_bad} rows of pred_probs do not sum to 1 within 0.05, rows " in text
    assert cause in text
    # Values outside [0, 1] would still be errors.
    accepted = ", or give allow_unnormalized_rows=True to use such rows as they are"
    assert text.endswith(accepted) == (probs.min() >= 0 and probs.max() <= 1)


@pytest.mark.parametrize("cut", [(1, 1), (700, 2), (3000, 1)])
def test_a_cause_is_named_for_one_row_far_down(cut):
    probs = np.tile(PROBS, (7, 1))
    probs[2001] *= 0.5
    with pytest.raises(labelsieve.InvalidInputError) as caught:
        find(np.tile(LABELS, 7), probs, batch_size=cut[0], partition_batches=cut[1])
    text = (
        "1 row of pred_probs does not sum to 1 within 0.05, row 2001 (first sum: 0.5): are some classes missing, as a"
    )
    assert str(caught.value).startswith(text)


def test_the_likely_cause_is_one_string_however_the_rows_are_cut():
    messages = set()
    for batch_size, partition_batches in ((1, 1), (7, 3), (400, 1)):
        with pytest.raises(labelsieve.InvalidInputError) as caught:
            find(LABELS, KINDS["sigmoid"][0], batch_size=batch_size, partition_batches=partition_batches)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_missing_zarr_chunk_with_a_fill_value_is_named(tmp_path):
    stored = zarr.create_array(tmp_path / "p.zarr", shape=PROBS.shape, chunks=(50, 6), dtype="f4", fill_value=0.25)
    stored[:] = PROBS
    (tmp_path / "p.zarr" / "c" / "3" / "0").unlink()
    with pytest.raises(
        labelsieve.InvalidInputError, match=r"nothing is stored of 50 rows \(150..199\), .* read as 0.25"
    ):
        find(LABELS, str(tmp_path / "p.zarr"))
    # Copied, the chunk is stored.
    filled = zarr.open_array(tmp_path / "p.zarr", mode="r")[:]
    with pytest.raises(labelsieve.InvalidInputError, match=r"50 rows .* rows 150..199 \(first sum: 1.5\): all"):
        find(LABELS, filled)


@pytest.mark.parametrize("dtype", FLOATS)
def test_good_probabilities_are_quiet(dtype):
    # Warnings are errors in these tests.
    notes = find(LABELS, PROBS.astype(dtype)).facts.notes
    assert not [note for note in notes if "sum to 1" in note]


def test_rows_are_accepted_where_allowed_without_a_word(tmp_path):
    halved = PROBS * 0.5
    found = find(LABELS, halved, allow_unnormalized_rows=True, workdir=tmp_path / "w")
    assert found.scores.tolist() == halved[np.arange(400), LABELS].tolist()
    again = find(LABELS, halved, allow_unnormalized_rows=True, workdir=tmp_path / "w")
    assert draws.bits(found) == draws.bits(again)
    with pytest.raises(labelsieve.WorkdirError, match="allow_unnormalized_rows was True, is False"):
        find(LABELS, halved, workdir=tmp_path / "w")


def test_zero_rows_are_not_counted_twice():
    probs = PROBS.copy()
    probs[:10] = 0
    assert find(LABELS, probs, allow_zero_rows=True).n_rows == 400
    with pytest.raises(labelsieve.InvalidInputError) as caught:
        find(LABELS, probs, allow_unnormalized_rows=True)
    assert "sum to 1" not in str(caught.value)


def test_the_documented_call_warns_once_and_counts_as_before():
    halved = PROBS * 0.5
    want = find(LABELS, halved, allow_unnormalized_rows=True)
    with pytest.warns(LabelsieveWarning) as caught:
        got = find_label_issues_batched(LABELS, halved, verbose=False, batch_size=30)
    assert [str(w.message)[:54] for w in caught] == ["400 rows of pred_probs do not sum to 1 within 0.05, ro"]
    assert got.tolist() == want.indices.tolist()


def test_a_label_inspector_warns_once_and_counts_as_before():
    halved = PROBS * 0.5
    want = find(LABELS, halved, allow_unnormalized_rows=True)
    inspector = LabelInspector(num_class=6, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rows in (slice(0, 100), slice(100, 400)):
            inspector.update_confident_thresholds(LABELS[rows], halved[rows])
        for rows in (slice(0, 100), slice(100, 400)):
            inspector.score_label_quality(LABELS[rows], halved[rows])
    assert [str(w.message)[:54] for w in caught] == ["100 rows of pred_probs do not sum to 1 within 0.05, ro"]
    assert inspector.get_num_issues() == want.estimated_num_issues


def test_the_command_line_refuses_them_and_has_the_flag(tmp_path, capsys):
    np.save(tmp_path / "l.npy", LABELS)
    np.save(tmp_path / "p.npy", KINDS["sigmoid"][0])
    command = ["find", str(tmp_path / "l.npy"), str(tmp_path / "p.npy"), "--quiet"]
    assert run(command) == 2
    assert "sigmoid" in capsys.readouterr().err
    assert run([*command, "--allow-unnormalized-rows"]) == 0
    assert not capsys.readouterr().err
