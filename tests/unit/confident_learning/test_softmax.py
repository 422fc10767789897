"""Probabilities of logits, compared with Python's own arithmetic, and their bits in any strip."""

import math

import numpy as np
import pytest

from labelsieve.confident_learning import derived as module
from labelsieve.confident_learning.checks import Findings, raise_or_warn
from labelsieve.confident_learning.derived import record_bad_logits, softmax
from labelsieve.errors import InvalidInputError


def drawn(n_rows, n_classes, dtype=np.float64, seed=0):
    return (5 * np.random.default_rng(seed).standard_normal((n_rows, n_classes))).astype(dtype)


def naive_softmax(logits):
    rows = []
    for row in logits.astype(np.float64).tolist():
        powers = [math.exp(value - max(row)) for value in row]
        rows.append([power / math.fsum(powers) for power in powers])
    return np.array(rows)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("n_classes", [2, 3, 17, 300])
def test_softmax_equals_a_naive_one(dtype, n_classes):
    logits = drawn(40, n_classes, dtype)
    probs = softmax(logits)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, naive_softmax(logits), rtol=1e-13)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-13)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e30, 1e30, -1e30], [-3e38, -3e38, 3e38], [-1000, -1001, -2000]], np.float32)
    probs = softmax(logits)
    assert probs[0].tolist() == [0.5, 0.5, 0]
    assert probs[1].tolist() == [0, 0, 1]
    np.testing.assert_allclose(probs[2, :2], [1 / (1 + math.exp(-1)), 1 / (1 + math.e)], rtol=1e-14)
    assert softmax(np.array([[1.7e308, -1.7e308]])).tolist() == [[1, 0]]


def test_masked_classes_have_probability_0():
    assert softmax(np.array([[-np.inf, 0, 0], [-np.inf, -np.inf, 7]])).tolist() == [[0, 0.5, 0.5], [0, 0, 1]]


@pytest.mark.parametrize("n_classes", [2, 3, 7, 8, 9, 31, 100, 129, 1000, 9000])
def test_bits_do_not_depend_on_the_rows_around(n_classes, monkeypatch):
    logits = drawn(70, n_classes)
    whole = softmax(logits)
    for step in (1, 2, 3, 5, 64):
        cut = np.concatenate([softmax(logits[start : start + step]) for start in range(0, 70, step)])
        assert cut.tobytes() == whole.tobytes()
    for values in (1, 13 * n_classes, 1 << 30):
        monkeypatch.setattr(module, "_EXPONENTIALS", values)
        assert softmax(logits).tobytes() == whole.tobytes()
        assert softmax(np.asfortranarray(logits)).tobytes() == whole.tobytes()
        assert softmax(np.repeat(logits, 2, axis=1)[:, ::2]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_do_not_depend_on_the_dtype(dtype):
    logits = drawn(50, 37, dtype)
    assert softmax(logits).tobytes() == softmax(logits.astype(np.float64)).tobytes()


def test_the_input_is_not_modified_and_out_is_filled():
    logits = drawn(9, 5)
    before, out = logits.copy(), np.empty((9, 5))
    assert softmax(logits, out) is out
    assert logits.tobytes() == before.tobytes()


@pytest.mark.filterwarnings("error")
def test_bad_rows_are_nan_and_recorded_by_kind():
    logits = drawn(8, 3)
    logits[1, 2], logits[3, [0, 1]], logits[4, 0] = np.nan, np.inf, -np.inf
    logits[6:] = -np.inf
    with np.errstate(all="raise"):
        probs = softmax(logits)
    assert np.isnan(probs).all(axis=1).tolist() == [False, True, False, True, False, False, True, True]
    findings = Findings()
    record_bad_logits(logits, 100, findings)
    assert {kind: (found.n_values, found.ranges) for kind, found in findings.items()} == {
        "nan_logit": (1, [(101, 102)]),
        "infinite_logit": (2, [(103, 104)]),
        "empty_logits": (2, [(106, 108)]),
    }
    with pytest.raises(InvalidInputError) as raised:
        raise_or_warn(findings, 3)
    assert str(raised.value) == (
        "1 NaN logit in row 101; 2 logits of +inf in row 103; 2 rows of logits that are all -inf in rows 106..107"
    )
