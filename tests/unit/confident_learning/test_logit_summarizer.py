"""Row summaries of logits are those of their probabilities, to the bit."""

import numpy as np
import pytest

from labelsieve.confident_learning import derived as softmax_module
from labelsieve.confident_learning.derived import LogitSummarizer, softmax
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import Summarizer

FLOAT64 = np.dtype(np.float64)
SETTINGS = [
    Settings(),
    Settings("normalized_margin"),
    Settings("confidence_weighted_entropy"),
    Settings("logit_margin"),
    Settings(adjust_pred_probs=True),
]


def drawn(n_rows, n_classes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_classes, n_rows), (5 * rng.standard_normal((n_rows, n_classes))).astype(dtype)


def summarized(kind, labels, rows, settings=SETTINGS[0], strip=None, first_row=0):
    summarizer = kind(len(rows), rows.shape[1], FLOAT64, settings, first_row)
    strip = strip or len(rows)
    for start in range(0, len(rows), strip):
        summarizer.add(labels[start : start + strip], rows[start : start + strip])
    return summarizer.take(), summarizer


def same(labels, logits, settings=SETTINGS[0], strip=None):
    """Compare with the summaries of the probabilities, and return them."""
    expected, of_probs = summarized(Summarizer, labels, softmax(logits), settings)
    found, of_logits = summarized(LogitSummarizer, labels, logits, settings, strip)
    assert list(expected.columns()) == list(found.columns())
    for name, column in expected.columns().items():
        assert column.dtype == getattr(found, name).dtype
        assert column.tobytes() == getattr(found, name).tobytes(), name
    for fact in ("sums", "agreement", "n_read"):
        assert str(getattr(of_probs.totals(), fact)) == str(getattr(of_logits.totals(), fact))
    return found


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("n_classes", [2, 10, 40, 300])
@pytest.mark.parametrize("settings", SETTINGS)
def test_summaries_are_those_of_the_probabilities(dtype, n_classes, settings):
    labels, logits = drawn(150, n_classes, dtype)
    logits[::7, 0] = -np.inf
    for strip in (None, 1, 7, 64):
        same(labels, logits, settings, strip)


@pytest.mark.parametrize("values", [1, 1000, 4096])
def test_blocks_do_not_change_bits(monkeypatch, values):
    labels, logits = drawn(300, 33, np.float32)
    monkeypatch.setattr(softmax_module, "_EXPONENTIALS", values)
    for settings in SETTINGS:
        same(labels, logits, settings)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_first_of_equal_quotients_is_predicted(dtype):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 4000)
    # Logits so close together that different ones have the same probability, on both sides of 0.
    tiny = rng.integers(-6, 7, (4000, 5)) * rng.choice([2.0**-24, 1e-12, 2.0**-53, 2.0**-54, 1e-17, 1e-40], (4000, 1))
    logits = (tiny + rng.choice([0.0, 0.0, 1.0, -3.0], (4000, 1))).astype(dtype)
    found = same(labels, logits, strip=700)
    if dtype != np.float16:
        assert (found.predicted != logits.argmax(axis=1)).any()  # these rows are in the draw


def test_close_logits_tie_wherever_they_are():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3000, 40)) * 10.0 ** rng.integers(-3, 3, (3000, 1))
    top = logits.max(axis=1)
    where = rng.integers(0, 40, 3000)
    logits[np.arange(3000), where] = np.nextafter(top, -np.inf)
    same(rng.integers(0, 40, 3000), logits)


def test_bad_logits_are_found_and_other_rows_kept():
    labels, logits = drawn(20, 6, np.float32)
    good, _ = summarized(LogitSummarizer, labels, logits)
    logits[3, 2], logits[4], logits[11, 5] = np.nan, -np.inf, np.inf
    found, summarizer = summarized(LogitSummarizer, labels, logits, SETTINGS[2], strip=6, first_row=50)
    assert {kind: (one.n_values, one.ranges) for kind, one in summarizer.findings.items()} == {
        "nan_logit": (1, [(53, 54)]),
        "infinite_logit": (1, [(61, 62)]),
        "empty_logits": (1, [(54, 55)]),
    }
    fine = np.setdiff1d(np.arange(20), [3, 4, 11])
    assert found.p_label[fine].tobytes() == good.p_label[fine].tobytes()
    summarizer.totals()  # has no NaN to stumble over


def test_suspicious_logits_are_found():
    labels, logits = drawn(20, 4, np.float32)
    logits[[2, 5]] = 0
    _, summarizer = summarized(LogitSummarizer, labels, logits, strip=8, first_row=100)
    assert {kind: one.ranges for kind, one in summarizer.findings.items()} == {"zero_row": [(102, 103), (105, 106)]}
    _, summarizer = summarized(LogitSummarizer, labels, softmax(logits), strip=8, first_row=100)
    assert {kind: one.ranges for kind, one in summarizer.findings.items()} == {"like_probabilities": [(100, 120)]}
    assert summarizer.findings["like_probabilities"].n_rows == 20


def test_rows_without_a_label_may_have_any_logits():
    labels, logits = drawn(30, 6, np.float32)
    want, _ = summarized(LogitSummarizer, labels, logits)
    left_out = np.array([3, 4, 29])
    labels[left_out], logits[left_out] = -1, np.array([[np.nan], [np.inf], [-np.inf]])
    summarizer = LogitSummarizer(30, 6, FLOAT64, ignored=-1)
    for start in range(0, 30, 8):
        summarizer.add(labels[start : start + 8], logits[start : start + 8])
    found, others = summarizer.take(), np.setdiff1d(np.arange(30), left_out)
    assert not summarizer.findings
    assert found.label[left_out].tolist() == [6] * 3
    for name in ("predicted", "p_label", "p_predicted"):
        assert getattr(found, name)[others].tobytes() == getattr(want, name)[others].tobytes()


def test_bad_labels_are_found():
    labels, logits = drawn(20, 6, np.float32)
    labels[5] = 6
    _, summarizer = summarized(LogitSummarizer, labels, logits, strip=8)
    assert summarizer.findings["label"].ranges == [(5, 6)]


def test_probabilities_of_a_strip():
    _, logits = drawn(20, 6, np.float32)
    assert LogitSummarizer.probabilities(logits).tobytes() == softmax(logits).tobytes()
