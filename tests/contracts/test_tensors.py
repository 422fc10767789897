"""Tensors as inputs, by stand-ins that give their memory by DLPack alone, as PyTorch, JAX and CuPy do."""

import logging
import sys
import types

import dask.array as da
import ml_dtypes
import numpy as np
import pytest

from draws import assert_same_bits, draw, find
from labelsieve.errors import InputTypeError, InvalidInputError
from labelsieve.sources.open import open_labels, open_pred_probs

LABELS, PROBS = draw(300, 5, seed=5, dtype=np.float32)
CPU, CUDA = 1, 2


class Tensor:
    """What a library has that gives its memory by DLPack."""

    def __init__(self, array, device=CPU, dtype=None):
        self.array, self.kind = array, device
        self.shape, self.dtype = array.shape, dtype or f"torch.{array.dtype}"
        self.device = "cpu" if device == CPU else "cuda:0"

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, **options):
        if self.kind != CPU or self.dtype == "torch.quint8":
            raise BufferError("this dtype or device has no memory for NumPy")
        return self.array.__dlpack__(**options)


class OnGpu(Tensor):
    """A tensor that can be copied to memory."""

    def __init__(self, array):
        super().__init__(array, CUDA)

    def cpu(self):
        return Tensor(self.array)


class Leaf(Tensor):
    """A tensor with gradients."""

    def detach(self):
        return Tensor(self.array)

    def __dlpack__(self, **options):
        raise BufferError("Can't export tensors that require gradient")


@pytest.fixture(scope="module")
def want():
    return find(LABELS, PROBS)


@pytest.mark.parametrize("kind", [Tensor, Leaf])
def test_tensors_in_memory_are_not_copied(want, kind):
    assert_same_bits(find(kind(LABELS), kind(PROBS)), want)
    assert_same_bits(find(LABELS, kind(np.asfortranarray(PROBS)), batch_size=50, partition_batches=1), want)
    assert np.shares_memory(open_pred_probs(kind(PROBS)).array, PROBS)
    assert np.shares_memory(open_labels(kind(LABELS)).array, LABELS)


@pytest.mark.every_value
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("label_dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_every_dtype(dtype, label_dtype):
    probs = PROBS.astype(dtype)
    assert_same_bits(find(Tensor(LABELS.astype(label_dtype)), Tensor(probs)), find(LABELS, probs))


def test_tensors_on_a_gpu_are_copied_and_the_log_says_so(want, caplog):
    with caplog.at_level(logging.INFO, "labelsieve"):
        assert_same_bits(find(LABELS, OnGpu(PROBS)), want)
    assert "pred_probs is on cuda:0, and is copied to the memory of this process" in caplog.text


def test_tensors_that_cannot_be_copied_are_refused():
    with pytest.raises(InputTypeError, match=r"on cuda:0 cannot be copied to memory"):
        find(LABELS, Tensor(PROBS, CUDA))


def test_logits(want):
    logits = np.log(PROBS)
    assert_same_bits(find(LABELS, Tensor(logits), from_logits=True), find(LABELS, logits, from_logits=True))


class TorchTensor(Tensor):
    """A bfloat16 tensor of PyTorch: NumPy cannot take it, but its bits as integers."""

    def __init__(self, array):
        super().__init__(array.view(np.int16), dtype="torch.bfloat16")

    def detach(self):
        return self

    def __dlpack__(self, **options):
        raise BufferError("bfloat16 is not supported")

    def view(self, dtype):
        assert dtype == "int16"
        return self.array


def test_bfloat16_of_pytorch_is_read_by_its_bits(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(Tensor=TorchTensor, int16="int16"))
    half = PROBS.astype(ml_dtypes.bfloat16)
    want = find(LABELS, half.astype(np.float32))
    assert_same_bits(find(LABELS, TorchTensor(half)), want)
    assert_same_bits(find(LABELS, TorchTensor(half), dtype="bfloat16"), want)
    assert np.shares_memory(open_pred_probs(TorchTensor(half)).source.array, half)


def test_bfloat16_of_ml_dtypes_is_what_jax_gives():
    class JaxArray(Tensor):
        def __array__(self, dtype=None, copy=None):
            return self.array

    half = PROBS.astype(ml_dtypes.bfloat16)
    assert_same_bits(find(LABELS, JaxArray(half, dtype="bfloat16")), find(LABELS, half.astype(np.float32)))


def test_what_numpy_cannot_take_is_refused():
    with pytest.raises(InvalidInputError, match=r"pred_probs is float8_e4m3fn, which has too few bits"):
        find(LABELS, Tensor(PROBS.view(np.uint8), dtype="torch.float8_e4m3fn"))
    with pytest.raises(InputTypeError, match="pred_probs is a Tensor that NumPy cannot take: this dtype"):
        find(LABELS, Tensor(PROBS, dtype="torch.quint8"))
    with pytest.raises(InvalidInputError, match=r"labels must be integers"):
        find(Tensor(PROBS[:, 0].copy()), PROBS)
    with pytest.raises(InvalidInputError, match=r"pred_probs must have two axes"):
        find(LABELS, Tensor(LABELS))


def test_real_pytorch(want):
    torch = pytest.importorskip("torch")
    labels, probs = torch.from_numpy(LABELS), torch.from_numpy(PROBS)
    assert_same_bits(find(labels, probs), want)
    assert np.shares_memory(open_pred_probs(probs).array, PROBS)
    assert_same_bits(find(labels, probs.clone().requires_grad_()), want)
    half = probs.to(torch.bfloat16)
    assert_same_bits(find(labels, half), find(LABELS, half.float().numpy()))
    assert_same_bits(find(labels, da.from_array(PROBS, chunks=(50, 5))), want)
