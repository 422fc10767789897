"""A recorder takes the arrays of other libraries, on the processor and on devices, and works in their loops."""

from __future__ import annotations

import sys
import tracemalloc
import types

import ml_dtypes
import numpy as np
import pytest
from test_recorder import find_recorded

import labelsieve
from draws import assert_same_bits, draw, find
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.recorder import Recorder
from labelsieve.sources.open import is_on_device, on_host
from pages import blocks, guide

N_ROWS, N_CLASSES = 400, 7
LABELS, PROBS = draw(N_ROWS, N_CLASSES, seed=8, dtype=np.float32)


class OnDevice:
    """A tensor of PyTorch in a memory that NumPy cannot read."""

    def __init__(self, array):
        self._array, self.shape, self.dtype, self.device = array, array.shape, f"torch.{array.dtype}", "cuda:0"

    def __dlpack_device__(self):
        return 2, 0

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return Tensor(self._array, gradient=False)


def record(place, convert, labels=LABELS, probs=PROBS, batch=45, **settings):
    with Recorder(place, N_CLASSES, **settings) as recorder:
        for start in range(0, len(labels), batch):
            these = slice(start, start + batch)
            recorder.update(convert(labels[these]), convert(probs[these]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_on_a_device_is_copied(tmp_path, dtype):
    probs = PROBS.astype(dtype)
    with pytest.raises(TypeError):
        np.asarray(OnDevice(probs))  # so that nothing reads it by mistake
    record(tmp_path, OnDevice, probs=probs)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, probs))


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "1 NaN probability in"), (np.inf, "infinite"), (-0.1, "below 0"), (1.2, "above 1")],
)
def test_bad_values_on_a_device_are_named(tmp_path, value, message):
    probs = PROBS[40:60].copy()
    probs[7, 2] = value
    recorder = Recorder(tmp_path, N_CLASSES, part=2)
    with pytest.raises(InvalidInputError, match=rf"part 2 of .*{message}.* row 47"):
        recorder.update(OnDevice(LABELS[40:60]), OnDevice(probs), rows=OnDevice(np.arange(40, 60)))
    with pytest.raises(InvalidInputError, match=r"1 label outside 0..6 in row 41"):
        recorder.update(OnDevice(np.array([0, 7])), OnDevice(PROBS[40:42]), rows=[40, 41])
    with pytest.raises(InvalidInputError, match=r"must have shape \(n, 7\), not \(5, 6\)"):
        recorder.update(LABELS[:5], OnDevice(PROBS[:5, :6]))
    recorder.close()
    assert recorder.rows_recorded == 0


def test_rows_without_a_label_on_a_device(tmp_path):
    labels, probs = LABELS.astype(np.int64), PROBS.copy()
    labels[[3, 40, 399]], probs[40] = -1, np.nan
    record(tmp_path, OnDevice, labels, probs, ignore_label=-1)
    assert_same_bits(find_recorded(tmp_path), find(labels, probs, ignore_label=-1))


def test_logits_on_a_device_have_the_bits_of_those_in_memory(tmp_path):
    logits = np.log(PROBS)
    record(tmp_path / "device", OnDevice, probs=logits, from_logits=True)
    record(tmp_path / "memory", np.asarray, probs=logits, from_logits=True)
    assert_same_bits(find_recorded(tmp_path / "device"), find_recorded(tmp_path / "memory"))


class Tensor:
    """A tensor of another library in the processor's memory: only DLPack, and a gradient that has to be left."""

    def __init__(self, array, *, gradient=True):
        self._array, self._gradient = array, gradient
        self.shape, self.dtype, self.device = array.shape, f"torch.{array.dtype}", "cpu"

    def detach(self):
        return Tensor(self._array, gradient=False)

    def __dlpack_device__(self):
        return 1, 0

    def __array__(self, dtype=None, copy=None):
        if self._gradient:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self._array


def test_tensors_with_gradients_are_read_in_place(tmp_path):
    assert not is_on_device(Tensor(PROBS))
    assert np.shares_memory(on_host("pred_probs", Tensor(PROBS)), PROBS)
    record(tmp_path, Tensor)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS))


class Bfloat16Tensor(Tensor):
    """A tensor of PyTorch in bfloat16, which NumPy cannot take; its bits, read as int16, it can."""

    def __init__(self, array):
        super().__init__(array, gradient=False)
        self.dtype = "torch.bfloat16"

    def detach(self):
        return self

    def view(self, dtype):
        assert dtype == "torch.int16"
        return Tensor(self._array.view(np.int16), gradient=False)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")


@pytest.mark.parametrize("kind", ["of NumPy", "of PyTorch"])
def test_bfloat16_is_widened(tmp_path, kind, monkeypatch):
    halves = PROBS.astype(ml_dtypes.bfloat16)
    wide = halves.astype(np.float32)
    stand_in(monkeypatch, "torch", Tensor=Bfloat16Tensor, bfloat16="torch.bfloat16", int16="torch.int16")
    convert = np.asarray if kind == "of NumPy" else Bfloat16Tensor
    assert on_host("pred_probs", convert(halves))[:].tobytes() == wide.tobytes()
    with Recorder(tmp_path, N_CLASSES) as recorder:
        for these in np.array_split(np.arange(N_ROWS), 7):
            recorder.update(LABELS[these], convert(halves[these]))
    assert_same_bits(find_recorded(tmp_path), find(LABELS, wide))


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("from_logits", [False, True])
def test_a_large_batch_takes_little_memory_beyond_it(tmp_path, dtype, from_logits):
    probs = np.full((16_000, 1000), 1e-3, np.float32).astype(dtype)
    labels = np.zeros(len(probs), np.int64)
    with Recorder(tmp_path, 1000, from_logits=from_logits, flush_rows=100) as recorder:
        recorder.update(labels[:10], probs[:10])
        tracemalloc.start()
        recorder.update(labels, probs)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 0.2 * 64_000_000


def test_lists(tmp_path):
    record(tmp_path, np.ndarray.tolist)
    assert_same_bits(find_recorded(tmp_path), find(LABELS, PROBS.astype(np.float64)))


def test_an_array_that_cannot_be_copied_is_refused_by_name():
    class Strange(Tensor):
        def detach(self):
            return self

        def __dlpack_device__(self):
            return 2, 0

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("no way")

    with pytest.raises(InputTypeError, match="an array of test_recorder_arrays on cpu cannot be copied to memory"):
        on_host("labels", Strange(LABELS))


def test_tensors_are_copied_from_their_device_by_their_own_methods():
    class OfTorch(Tensor):
        def __dlpack_device__(self):
            return 2, 0

        def detach(self):
            return self

        def cpu(self):
            return Tensor(self._array, gradient=False)

    assert on_host("labels", OfTorch(LABELS)) is LABELS


# The page's examples ---------------------------------------------------------------------------------------------


def example(name):
    """Return the class of that name in the guide."""
    [code] = [block for block in blocks(guide("inputs"), "py") if f"class {name}(" in block]
    assert len(code.strip().splitlines()) <= 20
    names = {}
    exec(code, names)
    return names[name]


def stand_in(monkeypatch, package, **names):
    """Put a package of that name in place, unless the real one is installed."""
    found = types.ModuleType(package)
    vars(found).update(names)
    monkeypatch.setitem(sys.modules, package, found)


class StandInTrainer:
    """The part of the Trainer of Hugging Face that predicts: one process of several, with a padded last batch."""

    def __init__(self, model, batches):
        self.model, self.batches = model, batches

    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        return (0.0, outputs) if return_outputs else 0.0

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits = self.compute_loss(model, dict(inputs), return_outputs=True)
        return (loss, None, None) if prediction_loss_only else (loss, logits, inputs["labels"])

    def predict(self, *, prediction_loss_only=False):
        return [self.prediction_step(self.model, dict(batch), prediction_loss_only) for batch in self.batches]


def batches_of(rank, n_ranks, size):
    """Return the batches of a rank as a distributed sampler deals them: every n-th row, padded with the first rows."""
    padded = np.resize(np.arange(N_ROWS), -(-N_ROWS // n_ranks) * n_ranks)
    rows = padded[rank::n_ranks]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("loss_only", [False, True])
def test_the_trainer_of_the_page(tmp_path, monkeypatch, loss_only):
    stand_in(monkeypatch, "transformers", Trainer=StandInTrainer)
    logits = np.log(PROBS)

    def model(pixels, labels):
        return logits[pixels]

    for rank in range(3):
        batches = [{"pixels": r, "labels": LABELS[r], "row": r} for r in batches_of(rank, 3, 32)]
        trainer = example("RecordingTrainer")(model, batches)
        with Recorder(tmp_path, N_CLASSES, part=rank, from_logits=True, n_rows=N_ROWS) as trainer.recorder:
            steps = trainer.predict(prediction_loss_only=loss_only)
        assert all((step[1] is None) == loss_only for step in steps)
    want = tmp_path / "want"
    record(want, np.asarray, probs=logits, from_logits=True)
    assert_same_bits(find_recorded(tmp_path), find_recorded(want))


def test_the_callback_of_the_page(tmp_path, monkeypatch):
    stand_in(monkeypatch, "lightning", Callback=object)
    logits = np.log(PROBS)
    for rank in range(2):
        callback, trainer = example("RecordPredictions")(tmp_path, N_CLASSES), types.SimpleNamespace(global_rank=rank)
        callback.on_predict_start(trainer, None)
        for number, rows in enumerate(batches_of(rank, 2, 30)):
            batch = {"label": LABELS[rows], "row": rows}
            callback.on_predict_batch_end(trainer, None, logits[rows], batch, number)
        callback.on_predict_end(trainer, None)
    want = tmp_path / "want"
    record(want, np.asarray, probs=logits, from_logits=True)
    assert_same_bits(find_recorded(tmp_path), find_recorded(want))


def test_the_recorder_is_public():
    assert labelsieve.Recorder is Recorder
