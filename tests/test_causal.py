"""Padding on the left alone, and other padding that differs on both sides, wherever it is taken."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from clconv import Conv1D, Conv1dProblem, Deconv1D, ModuleError, Pass, Sequential, gpuarray
from clconv import functional as F
from clconv.errors import ProblemError
from clconv.files import blueprint_of, build
from clconv.geometry import Geometry
from clconv.testing import assert_right
from clconv.torch import Conv1d, conv1d, revert

# taps, stride, dilation
WINDOWS = [(3, 2, 3)]


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def right(result, problem, pass_, arrays):
    """Equal to the definition."""
    assert_right(result, problem, pass_, arrays, largest=4)


@pytest.mark.parametrize(("taps", "stride", "dilation"), WINDOWS)
def test_functions(runtime, rng, taps, stride, dilation):
    """The result and the gradients are those of so many zeros on the left, at every length."""
    for length in (1, 7, 40):
        x, w = integers(rng, 2, 4, length), integers(rng, 6, 2, taps)
        pads = (dilation * (taps - 1), 0)
        problem = Conv1dProblem(2, 4, length, 6, taps, stride, "causal", dilation, 2)
        assert problem.pads == pads
        place = {"stride": stride, "padding": "causal", "dilation": dilation, "groups": 2}
        y = F.conv1d(x, w, **place, exact=True)
        assert y.shape[2] == -(-length // stride)
        right(y, problem, Pass.FORWARD, {"x": x, "weight": w})
        grad = integers(rng, *y.shape)
        of_x, of_weight, of_bias = F.conv1d_backward(x, w, grad, **place, exact=True)
        np.testing.assert_array_equal(of_x, F.conv1d_input(x.shape, w, grad, **place, exact=True))
        np.testing.assert_array_equal(
            of_weight, F.conv1d_weight(x, w.shape, grad, **place, exact=True)
        )
        right(of_x, problem, Pass.INPUT_GRADIENT, {"weight": w, "grad_output": grad})
        right(of_weight, problem, Pass.WEIGHT_GRADIENT, {"x": x, "grad_output": grad})
        np.testing.assert_array_equal(of_bias, grad.sum(axis=(0, 2)))


def test_functions_say_what_they_take(first_runtime):
    x, w = np.ones((1, 1, 5), np.float32), np.ones((1, 1, 3), np.float32)
    with pytest.raises(ProblemError, match="padding is 'Causal', expected an integer, a pair, \"s"):
        F.conv1d(x, w, padding="Causal")
    with pytest.raises(ProblemError, match="padding is 'causal', expected an integer or a pair"):
        F.conv_transpose1d(x, w, padding="causal")


@pytest.mark.parametrize("pad", ["causal", (5, 0), (0, 3), [2, 1]])
def test_layers(first_runtime, rng, pad, tmp_path):
    """Forward, backward, shapes, files and copies of a Conv1D with such padding."""
    conv = Conv1D(2, 3, 4, 3, pad, 2, initscheme="he", name="conv", exact=True)
    geometry = Geometry(3, pad, 2)
    conv.W.set(integers(rng, *conv.W.shape))
    w = conv.W.get().reshape(3, 2, 4)
    assert conv.pad == (tuple(pad) if isinstance(pad, list) else pad)
    x = integers(rng, 2, 2, 20)
    y = conv(gpuarray.to_gpu(x))
    assert y.shape == conv.dataShapeFrom(x.shape) == (2, 3, geometry.out_length(20, 4))
    assert conv.gradShapeFrom(y.shape)[2] == geometry.shortest_length(4, y.shape[2])
    problem = Conv1dProblem(2, 2, 20, 3, 4, 3, geometry.pads(4), 2)
    right(y.get(), problem, Pass.FORWARD, {"x": x, "weight": w})
    grad = integers(rng, *y.shape)
    of_x = conv.backward(gpuarray.to_gpu(grad)).get()
    right(of_x, problem, Pass.INPUT_GRADIENT, {"weight": w, "grad_output": grad})
    of_weight = conv.vars["W"].grad.get().reshape(w.shape)
    right(of_weight, problem, Pass.WEIGHT_GRADIENT, {"x": x, "grad_output": grad})
    least = geometry.shortest_length(4)
    with pytest.raises(ModuleError, match=r"size is too small \(got 6, expected at least 7"):
        conv.checkDataShape((1, 2, least - 1))
    conv.save(str(tmp_path / "conv.hdf5"), withBlueprint=True)
    json.dumps(conv.getBlueprint())
    built = build(blueprint_of(str(tmp_path / "conv.hdf5")))
    built.load(str(tmp_path / "conv.hdf5"))
    for other in (built, pickle.loads(pickle.dumps(conv))):
        assert other.pad == conv.pad
        np.testing.assert_array_equal(other(gpuarray.to_gpu(x)).get(), y.get())


def test_causal_transposed_layer(first_runtime, rng):
    """Each sample gives stride outputs, which no later sample changes; integers stay as before."""
    size, stride, dilation = 3, 2, 4
    layer = Deconv1D(2, 3, size, stride, "causal", dilation, exact=True)
    layer.W.set(integers(rng, *layer.W.shape))
    x = integers(rng, 1, 2, 9)
    y = layer(gpuarray.to_gpu(x)).get()
    assert y.shape[2] == 9 * stride
    assert Deconv1D(1, 1, 2, 5, "causal").dataShapeFrom((1, 1, 9)) == (1, 1, 8 * 5 + 2)
    x[:, :, 5:] = 4
    later = layer(gpuarray.to_gpu(x)).get()
    np.testing.assert_array_equal(later[:, :, : 5 * stride], y[:, :, : 5 * stride])
    cropped = Deconv1D(2, 3, size, stride, 0, dilation, exact=True)
    cropped.setVar("W", layer.getVar("W"))
    full = cropped(gpuarray.to_gpu(x)).get()
    np.testing.assert_array_equal(later, full[:, :, : y.shape[2]])
    grad = integers(rng, *y.shape)
    missing = full.shape[2] - y.shape[2]
    of_x = layer.backward(gpuarray.to_gpu(grad)).get()
    padded = np.pad(grad, ((0, 0), (0, 0), (0, missing)))
    np.testing.assert_array_equal(of_x, cropped.backward(gpuarray.to_gpu(padded)).get())


def test_sequential_of_causal_layers(first_runtime, rng):
    """The gradient of an output reaches no later input."""
    net = Sequential("net")
    for _ in range(3):
        net.append(Conv1D(2, 2, 3, pad="causal", dilation=2, exact=True))
    for variable in net.getVarTable():
        variable.data.set(np.ones(variable.data.shape, np.float32))
    x = gpuarray.to_gpu(integers(rng, 1, 2, 30))
    grad = np.zeros(net(x).shape, np.float32)
    grad[:, :, 20] = 1
    of_x = net.backward(gpuarray.to_gpu(grad)).get()
    assert not of_x[:, :, 21:].any()
    assert of_x[:, :, 20 - 12 : 21 : 2].all()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_torch(first_runtime, rng, mode):
    """The layer and the function pad on the left alone; the state dict is torch.nn's."""
    layer = Conv1d(2, 3, 3, 2, "causal", dilation=2, padding_mode=mode)
    theirs = nn.Conv1d(2, 3, 3, 2, dilation=2)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.tensor(integers(rng, *weight.shape)))
    layer.load_state_dict(theirs.state_dict())
    assert "padding=causal" in repr(layer)
    x = torch.tensor(integers(rng, 2, 2, 11), requires_grad=True)
    padded = nn.functional.pad(x, (4, 0), mode="constant" if mode == "zeros" else mode)
    expected = theirs(padded)
    result = pickle.loads(pickle.dumps(layer))(x)
    assert torch.equal(result, expected)
    grad = torch.tensor(integers(rng, *result.shape))
    gradients = [torch.autograd.grad(y, x, grad)[0] for y in (result, expected)]
    assert torch.equal(*gradients)
    if mode == "zeros":
        by_function = conv1d(x, layer.weight, layer.bias, 2, "causal", 2)
        assert torch.equal(by_function, expected)
        assert revert(layer) == 0  # torch.nn's layer could not compute it
        assert type(layer) is Conv1d
        with pytest.raises(ValueError, match="Invalid padding string 'left'"):
            Conv1d(2, 3, 3, padding="left")
