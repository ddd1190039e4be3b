"""Pad1D: numpy.pad's modes, and gradients that fold the padding back."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pyopencl.array as cl_array
import pytest
import torch

import clconv
from clconv import DeviceError, Module, ModuleError, OutOfMemoryError, Pad1D, gpuarray

MODES = ["constant", "reflect", "edge", "wrap"]
# (left, right), and a length that every mode can do.
PADS = [(2, 2), (0, 3), (4, 0), (1, 4), (0, 0)]
LENGTHS = [5, 9]

every_mode = pytest.mark.parametrize("mode", MODES)


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-9, 10, shape).astype(dtype)


def equal(device_array, expected):
    assert isinstance(device_array, cl_array.Array)
    assert device_array.shape == np.shape(expected)
    np.testing.assert_array_equal(device_array.get(), expected)


def folded(g, pads, mode):
    """The gradient of numpy.pad's argument: what each element was copied to, summed."""
    length = g.shape[2] - sum(pads)
    source = np.pad(np.arange(length), pads, mode, **outside(mode))
    result = np.zeros((*g.shape[:2], length))
    for q, p in enumerate(source):
        if p >= 0:
            result[:, :, p] += g[:, :, q]
    return result


def outside(mode):
    return {"constant_values": -1} if mode == "constant" else {}


def message_of(call, *arguments, **named):
    with pytest.raises(ModuleError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_constructor_has_puzzlelibs_arguments_in_its_order(runtime):
    positional = [
        (p.name, p.default)
        for p in inspect.signature(Pad1D).parameters.values()
        if p.kind != p.KEYWORD_ONLY
    ]
    assert positional == [
        ("pad", inspect.Parameter.empty),
        ("mode", "constant"),
        ("fillValue", None),
        ("name", None),
    ]
    layer = Pad1D((1, 2), "constant", 3.0, "named")
    assert isinstance(layer, Module)
    assert layer.name == "named"
    assert layer.vars == {}
    assert layer.numOfParams() == 0


@every_mode
@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_forward_and_backward(runtime, rng, mode, pads, length):
    x = integers(rng, 2, 3, length)
    data = gpuarray.to_gpu(x)
    layer = Pad1D(pads, mode)
    result = layer(data)
    equal(result, np.pad(x, ((0, 0), (0, 0), pads), mode))
    assert layer.data is result
    assert layer.inData is data
    assert layer.dataShapeFrom(x.shape) == result.shape
    assert layer.gradShapeFrom(result.shape) == x.shape
    g = integers(rng, *result.shape)
    grad = layer.backward(gpuarray.to_gpu(g))
    assert layer.grad is grad
    equal(grad, folded(g, pads, mode))
    equal(data, x)
    # <pad(x), g> == <x, backward(g)>, whatever numpy.pad does
    assert (result.get().astype(int) * g.astype(int)).sum() == (
        x.astype(int) * grad.get().astype(int)
    ).sum()


@every_mode
def test_gradient_by_hand(runtime, mode):
    layer = Pad1D((2, 1), mode)
    layer(gpuarray.to_gpu(np.arange(4, dtype=np.float32).reshape(1, 1, 4)))
    g = np.array([1, 2, 4, 8, 16, 32, 64], np.float32).reshape(1, 1, 7)
    expected = {
        "constant": [4, 8, 16, 32],
        "reflect": [4, 8 + 2, 16 + 1 + 64, 32],
        "edge": [4 + 1 + 2, 8, 16, 32 + 64],
        "wrap": [4 + 64, 8, 16 + 1, 32 + 2],
    }[mode]
    equal(layer.backward(gpuarray.to_gpu(g)), [[expected]])


@pytest.mark.parametrize(
    ("mode", "torch_mode"), [("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")]
)
@pytest.mark.parametrize("pads", [(3, 1), (0, 4)], ids=str)
def test_gradient_is_pytorchs(runtime, rng, mode, torch_mode, pads):
    x = integers(rng, 2, 3, 6)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(tensor, pads, torch_mode)
    g = integers(rng, *padded.shape)
    padded.backward(torch.tensor(g, dtype=torch.float64))
    layer = Pad1D(pads, mode)
    equal(layer(gpuarray.to_gpu(x)), padded.detach().numpy())
    equal(layer.backward(gpuarray.to_gpu(g)), tensor.grad.numpy())


@pytest.mark.parametrize("pad", [2, np.int64(2), (2, 2), [2, 2], (np.int32(2), 2)], ids=repr)
def test_forms_of_pad(runtime, rng, pad):
    x = integers(rng, 2, 3, 5)
    equal(Pad1D(pad)(gpuarray.to_gpu(x)), np.pad(x, ((0, 0), (0, 0), (2, 2))))


@pytest.mark.parametrize("fill", [None, 0, 7, -2.5, np.float32(1.5), math.inf, math.nan], ids=repr)
def test_fill_value(runtime, rng, fill):
    x = integers(rng, 2, 3, 5)
    layer = Pad1D((1, 2), fillValue=fill)
    value = 0 if fill is None else fill
    equal(layer(gpuarray.to_gpu(x)), np.pad(x, ((0, 0), (0, 0), (1, 2)), constant_values=value))
    g = integers(rng, 2, 3, 8)
    equal(layer.backward(gpuarray.to_gpu(g)), g[:, :, 1:6])


def test_constant_padding_at_any_length(runtime, rng):
    layer = Pad1D((4, 3), fillValue=2)
    for length in (0, 1, 2, 70):
        x = integers(rng, 2, 3, length)
        equal(layer(gpuarray.to_gpu(x)), np.pad(x, ((0, 0), (0, 0), (4, 3)), constant_values=2))
        g = integers(rng, 2, 3, length + 7)
        equal(layer.backward(gpuarray.to_gpu(g)), g[:, :, 4 : 4 + length])


@pytest.mark.parametrize(
    ("mode", "least"), [("reflect", 5), ("edge", 1), ("wrap", 4)], ids=["reflect", "edge", "wrap"]
)
@pytest.mark.parametrize("pads", [(4, 1), (2, 4), (4, 4)], ids=str)
def test_shortest_length_of_a_mode(runtime, rng, mode, least, pads):
    layer = Pad1D(pads, mode)
    x = integers(rng, 1, 2, least)
    equal(layer(gpuarray.to_gpu(x)), np.pad(x, ((0, 0), (0, 0), pads), mode))
    g = integers(rng, 1, 2, least + sum(pads))
    equal(layer.backward(gpuarray.to_gpu(g)), folded(g, pads, mode))
    before = layer.inData, layer.data, layer.grad
    for length in range(least):
        assert message_of(layer, gpuarray.zeros((1, 2, length))) == (
            f"Data maps size is too small (got {length}, expected >= {least})"
        )
    assert all(a is b for a, b in zip(before, (layer.inData, layer.data, layer.grad), strict=True))


@every_mode
def test_no_batch(runtime, mode):
    layer = Pad1D((1, 2), mode)
    assert layer(gpuarray.zeros((0, 3, 5))).shape == (0, 3, 8)
    assert layer.backward(gpuarray.zeros((0, 3, 8))).shape == (0, 3, 5)


@every_mode
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_calc_mode(runtime, rng, mode, dtype):
    layer = Pad1D((3, 2), mode)
    if dtype == np.float64 and not runtime.profile.fp64:
        assert message_of(layer.calcMode, dtype) == f"Unsupported dtype {dtype}"
        return
    layer.calcMode(dtype)
    x = (rng.standard_normal((2, 3, 5)) * 100).astype(dtype)
    x[0, 0] = [0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).tiny, 1]
    result = layer(gpuarray.to_gpu(x))
    assert result.dtype == dtype
    equal(result, np.pad(x, ((0, 0), (0, 0), (3, 2)), mode))
    g = integers(rng, 2, 3, 10, dtype=dtype)
    grad = layer.backward(gpuarray.to_gpu(g))
    assert grad.dtype == dtype
    equal(grad, folded(g, (3, 2), mode))
    expected = f"Expected dtype {np.dtype(dtype)}, got float32"
    assert message_of(layer, gpuarray.zeros((2, 3, 5))) == expected
    assert message_of(layer.backward, gpuarray.zeros((2, 3, 10))) == expected
    with pytest.raises(ModuleError):
        layer.calcMode("int8")


def test_float16_gradient_sums_in_float32(runtime):
    layer = Pad1D((3, 0), "edge")
    layer.calcMode(np.float16)
    layer(gpuarray.to_gpu(np.zeros((1, 1, 2), np.float16)))
    g = np.array([2048, 1, -2048, 1, 0], np.float16).reshape(1, 1, 5)  # 2049 is no float16
    equal(layer.backward(gpuarray.to_gpu(g)), [[[2, 0]]])


@every_mode
def test_views(runtime, rng, mode):
    whole, grads = integers(rng, 4, 6, 20), integers(rng, 4, 6, 20)
    x, g = whole[1:3, ::2, 2:12:2], grads[::2, 1:4, 3:11]
    layer = Pad1D((1, 2), mode)
    result = layer(gpuarray.to_gpu(whole)[1:3, ::2, 2:12:2])
    equal(result, np.pad(x, ((0, 0), (0, 0), (1, 2)), mode))
    grad = layer.backward(gpuarray.to_gpu(grads)[::2, 1:4, 3:11])
    equal(grad, folded(g, (1, 2), mode))


def test_modes_of_training(runtime, rng):
    layer = Pad1D(1, "reflect")
    data = gpuarray.to_gpu(integers(rng, 2, 3, 5))
    grad = gpuarray.to_gpu(integers(rng, 2, 3, 7))
    with pytest.raises(ModuleError):
        layer.backward(grad)
    expected = layer(data).get(), layer.backward(grad).get()
    assert layer.backward(grad, updGrad=False) is None
    assert layer.grad is None
    layer.evalMode()
    assert layer.train is False
    assert (layer.inData, layer.data, layer.grad) == (None, None, None)
    with pytest.raises(ModuleError):
        layer.backward(grad)
    equal(layer(data), expected[0])
    equal(layer.backward(grad), expected[1])
    layer.trainMode()
    assert layer.train is True
    assert layer.data is None


@pytest.mark.parametrize(
    "pad", [-1, (1, -2), 1.5, (1, 2, 3), (1,), "2", "22", None, True, (1, None), ()], ids=repr
)
def test_bad_pad_is_named_with_its_value(runtime, pad):
    message = message_of(Pad1D, pad)
    assert "pad" in message
    assert repr(pad) in message


@pytest.mark.parametrize("mode", ["symmetric", None, 0, "", ["edge"]], ids=repr)
def test_bad_mode_is_named_with_its_value(runtime, mode):
    message = message_of(Pad1D, 1, mode)
    assert "mode" in message
    assert repr(mode) in message


@pytest.mark.parametrize("fill", ["0", 1j, [0]], ids=repr)
def test_bad_fill_value_is_named_with_its_value(runtime, fill):
    message = message_of(Pad1D, 1, fillValue=fill)
    assert "fillValue" in message
    assert repr(fill) in message


def test_wrong_arrays_change_nothing(runtime, rng):
    layer = Pad1D((1, 2), "reflect")
    x = integers(rng, 2, 3, 5)
    layer(gpuarray.to_gpu(x))
    layer.backward(gpuarray.to_gpu(integers(rng, 2, 3, 8)))
    before = layer.inData, layer.data, layer.grad
    values = [a.get() for a in before]

    assert message_of(layer, gpuarray.zeros((3, 5), np.float16)) == "Data must be 3d tensor"
    assert message_of(layer, gpuarray.zeros((2, 3, 2), np.float16)) == (
        "Data maps size is too small (got 2, expected >= 3)"
    )
    assert message_of(layer, gpuarray.zeros((2, 3, 5), np.float16)) == (
        "Expected dtype float32, got float16"
    )
    backward = layer.backward
    assert message_of(backward, gpuarray.zeros((3, 8), np.float16)) == "Grad must be 3d tensor"
    for shape in ((2, 3, 7), (2, 3, 9), (2, 3, 5), (1, 3, 8), (2, 4, 8)):
        message = message_of(backward, gpuarray.zeros(shape))
        wrong = next(a for a, b in zip(shape, (2, 3, 8), strict=True) if a != b)
        assert str(wrong) in message
    assert message_of(backward, gpuarray.zeros((2, 3, 8), np.float16)) == (
        "Expected dtype float32, got float16"
    )
    for call in (layer, backward):
        with pytest.raises(TypeError) as caught:
            call(x)
        assert isinstance(caught.value, clconv.ClconvError)

    assert all(a is b for a, b in zip(before, (layer.inData, layer.data, layer.grad), strict=True))
    for a, b in zip(before, values, strict=True):
        np.testing.assert_array_equal(a.get(), b)


@every_mode
def test_array_of_another_context(runtime, mode):
    other = clconv.Runtime(runtime.device)
    layer = Pad1D(1, mode)
    layer(gpuarray.zeros((2, 3, 5)))
    before = layer.inData, layer.data, layer.grad
    for call, length in ((layer, 5), (layer.backward, 7)):
        with pytest.raises(DeviceError) as caught:
            call(other.zeros((2, 3, length)))
        for context in (runtime.context, other.context):
            assert f"{context.int_ptr:#x}" in str(caught.value)
    assert all(a is b for a, b in zip(before, (layer.inData, layer.data, layer.grad), strict=True))


def test_out_of_memory_changes_nothing(runtime, monkeypatch):
    layer = Pad1D(1)
    data, grad = gpuarray.zeros((2, 3, 5)), gpuarray.zeros((2, 3, 7))
    layer(data)
    layer.backward(grad)
    before = layer.inData, layer.data, layer.grad

    def refuse(nbytes):
        raise OutOfMemoryError(f"{nbytes} bytes asked for")

    with monkeypatch.context() as patch:
        patch.setattr(runtime.memory, "allocate", refuse)
        for call, array in ((layer, gpuarray.zeros), (layer.backward, None)):
            with pytest.raises(OutOfMemoryError):
                call(data if array else grad)
    assert all(a is b for a, b in zip(before, (layer.inData, layer.data, layer.grad), strict=True))
