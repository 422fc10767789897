"""One strip in, its row summaries and findings out."""

import numpy as np
import pytest

import draws
import naive
from labelsieve.confident_learning import summarize as summary_block
from labelsieve.confident_learning.scores import Settings
from labelsieve.confident_learning.summarize import FirstArgmax, Summarizer
from labelsieve.confident_learning.thresholds import SummaryBlock, class_dtype, unsigned_dtype

FLOATS = [np.float16, np.float32, np.float64]
FEW = summary_block.FEW_CLASSES
PLAIN, MARGIN = Settings(), Settings("normalized_margin")


def summarize(labels, probs, settings=PLAIN, first_row=0, strip=None):
    """Feed `probs` in strips of `strip` rows and return the summary and the findings."""
    native = probs.dtype.newbyteorder("=")
    summarizer = Summarizer(len(probs), probs.shape[1], native, settings, first_row)
    strip = strip or len(probs)
    for start in range(0, len(probs), strip):
        summarizer.add(labels[start : start + strip], probs[start : start + strip])
    return summarizer.take(), summarizer.findings


@pytest.mark.parametrize(("dtype", "same"), [("f2", "u2"), ("<f4", "u4"), ("f8", "u8")])
def test_unsigned_type_is_as_wide_as_the_float(dtype, same):
    assert unsigned_dtype(np.dtype(dtype)) == np.dtype(same)


@pytest.mark.parametrize(
    ("n_classes", "dtype"), [(2, "u1"), (256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4"), (10**6, "u4")]
)
def test_class_dtype_is_the_smallest_that_holds_the_last_class(n_classes, dtype):
    assert class_dtype(n_classes) == np.dtype(dtype)
    assert class_dtype(n_classes).type(n_classes - 1) == n_classes - 1


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", [2, 3, FEW - 1, FEW, FEW + 1, 256, 300])
def test_first_argmax_is_the_first_of_equal_values(dtype, n_classes):
    rng = np.random.default_rng(n_classes)
    probs = rng.integers(0, 4, (500, n_classes)).astype(dtype) / 4  # four values: nearly every row ties
    probs[0], probs[1], probs[2, -1], probs[3, [0, -1]] = 0, 1, 1, 1
    classes, top = FirstArgmax(n_classes, unsigned_dtype(probs.dtype))(probs.view(unsigned_dtype(probs.dtype)))
    assert [naive.first_argmax(row) for row in probs.tolist()] == classes.tolist()
    assert probs.max(axis=1).tolist() == top.view(dtype).tolist()


@pytest.mark.parametrize("n_classes", [2, FEW, FEW + 1])
def test_first_argmax_reuses_its_scratch_for_strips_of_other_lengths(n_classes):
    argmax = FirstArgmax(n_classes, np.dtype(np.uint32))
    block = argmax._block_rows
    for seed, n_rows in enumerate([50, 7, 1, 80, 50, block, 3 * block + 1, block - 1]):
        bits = np.random.default_rng(seed).integers(0, 5, (n_rows, n_classes), dtype=np.uint32)
        classes, top = argmax(bits)
        assert bits.argmax(axis=1).tolist() == classes.tolist()
        assert bits.max(axis=1).tolist() == top.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", [2, 5, FEW, FEW + 1, 300])
def test_a_summary_holds_what_loops_find(dtype, n_classes):
    labels, probs = draws.draw(120, n_classes, seed=3, dtype=dtype)
    summary, findings = summarize(labels, probs)
    plain_labels, rows = naive.plain(labels, probs)
    predicted = [naive.first_argmax(row) for row in rows]
    assert plain_labels == summary.label.tolist()
    assert predicted == summary.predicted.tolist()
    assert [row[c] for row, c in zip(rows, predicted, strict=True)] == summary.p_predicted.tolist()
    assert [row[label] for row, label in zip(rows, plain_labels, strict=True)] == summary.p_label.tolist()
    assert summary.p_label.dtype == summary.p_predicted.dtype == dtype
    assert summary.label.dtype == summary.predicted.dtype == class_dtype(n_classes)
    assert summary.score is None
    assert findings == {}
    assert len(summary) == 120


@pytest.mark.parametrize("strip", [1, 7, 64, 100])
def test_strips_of_any_length_make_the_same_summary(strip):
    labels, probs = draws.draw(100, 6, seed=4)
    whole, _ = summarize(labels, probs, MARGIN)
    cut, _ = summarize(labels, probs, MARGIN, strip=strip)
    for name in ("label", "predicted", "p_label", "p_predicted", "score"):
        assert getattr(whole, name).tobytes() == getattr(cut, name).tobytes(), name


@pytest.mark.parametrize("label_dtype", ["i1", "u1", "<i2", ">i4", "i8", "u8"])
def test_labels_of_any_integer_dtype_and_byte_order_are_the_same_classes(label_dtype):
    labels, probs = draws.draw(60, 100, seed=5)
    summary, findings = summarize(labels.astype(label_dtype), probs)
    assert labels.tolist() == summary.label.tolist()
    assert findings == {}


def test_labels_of_one_byte_go_with_more_classes_than_they_can_name():
    labels, probs = draws.draw(60, 300, seed=5)
    labels = labels % 100
    summary, findings = summarize(labels.astype(np.int8), probs)
    assert labels.tolist() == summary.label.tolist()
    assert findings == {}


@pytest.mark.parametrize("layout", ["fortran", "strided", "big-endian", "read-only"])
def test_memory_layout_does_not_change_a_summary(layout):
    labels, probs = draws.draw(80, 7, seed=6)
    want, _ = summarize(labels, probs, MARGIN)
    twice = np.repeat(np.repeat(probs, 2, axis=0), 2, axis=1)
    forms = {"fortran": np.asfortranarray(probs), "strided": twice[::2, ::2], "big-endian": probs.astype(">f8")}
    form = forms.get(layout, probs.copy())
    form.flags.writeable = False
    got, _ = summarize(labels, form, MARGIN, strip=9)
    assert want.score.tobytes() == got.score.tobytes()
    assert want.predicted.tobytes() == got.predicted.tobytes()
    assert want.p_label.tobytes() == got.p_label.tobytes()


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_classes", [3, FEW + 1])
def test_minus_zero_counts_as_zero(dtype, n_classes):
    probs = np.zeros((3, n_classes), dtype)
    probs[:, 1], probs[:, 0] = 1, -0.0
    probs[2] = [-0.0] * (n_classes - 1) + [1]
    summary, findings = summarize(np.array([0, 1, 0]), probs)
    assert [1, 1, n_classes - 1] == summary.predicted.tolist()
    assert summary.p_label.tolist() == [0.0, 1.0, 0.0]
    assert not np.signbit(summary.p_label).any()
    assert findings == {}
    assert np.signbit(probs[0, 0])  # the input itself is only read


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_a_little_outside_0_and_1_are_used_as_they_are(dtype):
    probs = np.array([[1.0009, -0.0009], [0.5, 0.5], [-0.0009, 1.0009]], dtype)
    summary, findings = summarize(np.array([1, 0, 1]), probs)
    assert findings == {}
    assert summary.predicted.tolist() == [0, 0, 1]
    assert probs[[0, 1, 2], [1, 0, 1]].tolist() == summary.p_label.tolist()
    assert probs.max(axis=1).tolist() == summary.p_predicted.tolist()


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.nan, "nan"), (-np.nan, "nan"), (np.inf, "infinite"), (-np.inf, "infinite"), (-0.01, "below"), (1.01, "above")],
)
@pytest.mark.parametrize("n_classes", [2, FEW + 1])
def test_what_is_no_probability_is_found_with_its_row(dtype, value, kind, n_classes):
    labels, probs = draws.draw(20, n_classes, seed=7, dtype=dtype)
    probs[[4, 5, 11], 1] = value
    probs[11, 0] = value
    _, findings = summarize(labels, probs, first_row=100, strip=6)
    # The values make their rows' sums wrong too, where there are sums.
    findings.pop("row_sum", None), findings.pop("loose_sum", None)
    assert list(findings) == [kind]
    assert (findings[kind].n_values, findings[kind].n_rows) == (4, 3)
    assert findings[kind].ranges == [(104, 106), (111, 112)]


def test_several_kinds_of_trouble_in_one_row_are_all_found():
    probs = np.full((3, 6), 0.2)
    probs[1] = [np.nan, np.inf, -np.inf, -0.5, 3.0, 0.2]
    _, findings = summarize(np.zeros(3, int), probs)
    assert findings.pop("row_sum").ranges == [(0, 1), (2, 3)], "six times 0.2"
    assert {kind: f.n_values for kind, f in findings.items()} == {"nan": 1, "infinite": 2, "below": 1, "above": 1}
    assert {(1, 2)} == {span for f in findings.values() for span in f.ranges}
    assert findings["below"].example == -0.5
    assert findings["above"].example == 3.0


@pytest.mark.parametrize("label", [-1, 3, 200, -(2**40)])
def test_labels_outside_the_classes_are_found(label):
    labels = np.array([0, 1, label, 2, label])
    _, findings = summarize(labels, np.full((5, 3), 1 / 3), first_row=10)
    assert list(findings) == ["label"]
    assert findings["label"].ranges == [(12, 13), (14, 15)]
    assert findings["label"].example == label


def test_rows_of_zeros_and_rows_too_low_are_told_apart():
    probs = np.full((6, 4), 0.25)
    probs[1], probs[2], probs[3] = 0, -0.0, 0.2
    probs[4] = 0.25 * (1 - 0.9e-3)  # within the tolerance
    probs[5] = [0, 0, 0, -1e-4]  # not all zeros, but far too low
    _, findings = summarize(np.zeros(6, int), probs)
    assert {"zero_row", "low_row", "row_sum"} == set(findings)
    assert findings["row_sum"].ranges == [(3, 4), (5, 6)]
    assert findings["zero_row"].ranges == [(1, 3)]
    assert findings["low_row"].ranges == [(3, 4), (5, 6)]


def test_an_empty_summary_has_the_columns_that_were_asked_for():
    plain = SummaryBlock.empty(0, 300, np.dtype(np.float16))
    scored = SummaryBlock.empty(3, 300, np.dtype(np.float16), ["score"])
    assert (len(plain), plain.score) == (0, None)
    assert (plain.label.dtype, plain.p_label.dtype) == (np.uint16, np.float16)
    assert scored.score.dtype == np.float64
