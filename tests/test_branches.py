"""Parallel and Activation: what they give, their gradients, files, copies and errors."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from clconv import Activation, Conv1D, Module, ModuleError, Parallel, Sequential, gpuarray
from clconv.calls.rows import SPAN
from clconv.files import blueprint_of, build

THEIRS = {
    "relu": torch.relu,
    "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, 0.2),
    "elu": lambda x: torch.nn.functional.elu(x, 0.5),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}
SLOPES = {"leaky_relu": 0.2, "elu": 0.5}
SPECIAL = [np.inf, -np.inf, np.nan, -0.0, 0.0, 1e30, -1e30, 100, -100, 5, -5, 1e-30, -1e-30]


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def integral(net, rng):
    for variable in net.getVarTable():
        variable.data.set(rng.integers(-2, 3, variable.data.shape).astype(np.float32))
    return net


@pytest.mark.parametrize("name", THEIRS)
def test_activations(runtime, rng, name):
    """As PyTorch's, with their gradients, at special values too; of views, in other dtypes."""
    layer = Activation(name, SLOPES.get(name))
    data = np.zeros((2, 3, 40), np.float32)
    data[:] = rng.standard_normal(data.shape) * 3
    data[1, 2, : len(SPECIAL)] = SPECIAL
    wide = gpuarray.to_gpu(np.repeat(data, 2, axis=2))
    # In float64: PyTorch's float32 vectors make NaN of gelu(inf).
    theirs = torch.tensor(data, dtype=torch.float64, requires_grad=True)
    expected = THEIRS[name](theirs)
    for x in (gpuarray.to_gpu(data), wide[:, :, ::2]):
        got = layer(x)
        wanted = expected.detach().numpy()
        np.testing.assert_allclose(got.get(), wanted, rtol=1e-5, atol=1e-6)
        grad = rng.standard_normal(data.shape).astype(np.float32)
        (of_x,) = torch.autograd.grad(expected, theirs, torch.tensor(grad).double(), True)
        ours = layer.backward(gpuarray.to_gpu(grad)).get()
        np.testing.assert_allclose(ours, of_x.numpy(), rtol=1e-5, atol=1e-5)
    layer.calcMode(np.float16)
    half = layer(gpuarray.to_gpu(np.clip(data, -6e4, 6e4).astype(np.float16))).get()
    finite = np.isfinite(data) & (abs(data) < 6e4)
    np.testing.assert_allclose(half[finite], wanted[finite], rtol=2e-3, atol=2e-3)


def test_long_rows(first_runtime, rng):
    """Many vectors of a row, and what is left of the last one."""
    layer = Activation("relu")
    for length in (1, 15, 16, 17, 16 * SPAN, 3 * 16 * SPAN + 5):
        x = integers(rng, 2, 3, length)
        np.testing.assert_array_equal(layer(gpuarray.to_gpu(x)).get(), np.maximum(x, 0))
    assert layer(gpuarray.zeros((0, 3, 5))).shape == (0, 3, 5)


def test_activations_say_what_they_take(first_runtime):
    layer = Activation("elu")
    assert layer.slope == 1.0
    for given, message in (
        (("swish",), "activation is 'swish', expected one of relu"),
        (("relu", 0.1), "slope is 0.1, which relu has no use for"),
        (("elu", -1), "slope is -1, expected a number of at least 0"),
        (("leaky_relu", "x"), "slope is 'x', expected a number of at least 0"),
    ):
        with pytest.raises(ModuleError, match=message):
            Activation(*given)
    with pytest.raises(ModuleError, match="Data must be 3d tensor"):
        layer(gpuarray.zeros((2, 3)))
    layer(gpuarray.zeros((2, 3, 4)))
    with pytest.raises(ModuleError, match=r"Grad has shape \(2, 3, 5\) \(expected: \(2, 3, 4\)\)"):
        layer.backward(gpuarray.zeros((2, 3, 5)))


def same(name=None):
    """A layer whose kernels are built once."""
    return Conv1D(2, 2, 3, pad=1, exact=True, name=name)


def branches(merge, rng):
    """A branch of two layers, one of one, and a skip."""
    net = Parallel(merge, name="net")
    two = Sequential("two").append(same("a"))
    net.append(two.append(Activation("relu")).append(same("b")))
    net.append(same("one")).append(Sequential("skip"))
    return integral(net, rng)


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_branches(runtime, rng, merge, tmp_path):
    """Results, gradients of input and parameters, files, copies, blueprints."""
    net = branches(merge, rng)
    x = integers(rng, 2, 2, 20)
    device = gpuarray.to_gpu(x)
    y = net(device)
    each = [integral_result(branch, device) for branch in net]
    np.testing.assert_array_equal(
        y.get(), sum(each) if merge == "sum" else np.concatenate(each, axis=1)
    )
    assert net.dataShapeFrom(x.shape) == y.shape
    assert net.gradShapeFrom(y.shape) == x.shape
    grad = integers(rng, *y.shape)
    own = [grad] * 3 if merge == "sum" else np.split(grad, 3, axis=1)
    net.zeroGradParams()
    of_x = net.backward(gpuarray.to_gpu(grad)).get()
    gradients = {name[0]: one.grad.get() for one, name in net.getVarTable().items()}
    assert set(gradients) == {"net.two.a.W", "net.two.a.b", "net.two.b.W", "net.two.b.b",
                              "net.one.W", "net.one.b"}  # fmt: skip
    net.zeroGradParams()
    alone = [b.backward(gpuarray.to_gpu(g.copy())).get() for b, g in zip(net, own, strict=True)]
    np.testing.assert_array_equal(of_x, sum(alone))
    for variable, names in net.getVarTable().items():
        np.testing.assert_array_equal(gradients[names[0]], variable.grad.get())
    assert net.backward(gpuarray.to_gpu(grad), updGrad=False) is None
    path = str(tmp_path / "net.hdf5")
    net.save(path, withBlueprint=True)
    json.dumps(net.getBlueprint())
    built = build(blueprint_of(path))
    assert (built.merge, built.name) == (merge, "net")
    built.load(path)
    for other in (built, pickle.loads(pickle.dumps(net)), net[:]):
        np.testing.assert_array_equal(other(device).get(), y.get())


def integral_result(branch, x):
    return branch(x).get()


class Refuses(Module):
    """A layer whose backward pass fails."""

    def updateData(self, data):
        return gpuarray.copy(data)

    def updateGrad(self, grad):
        raise ModuleError("no gradient here")


def test_branches_change_all_or_nothing(first_runtime, rng):
    """A branch that fails takes back what the others did; the error says which it is."""
    net = Parallel().append(integral(Conv1D(2, 2, 3, pad=1, exact=True), rng)).append(Refuses())
    outer = Sequential("outer").append(integral(same(), rng)).append(net)
    x = gpuarray.to_gpu(integers(rng, 1, 2, 9))
    y = outer(x)
    outer.zeroGradParams()
    with pytest.raises(ModuleError, match=r"(?s)Grad error in module 1 .*Grad error in module 1 "):
        outer.backward(y)
    assert not any(variable.grad.get().any() for variable in outer.getVarTable())
    with pytest.raises(ModuleError, match=r"(?s)Data error in module 0 .*Data has 3 maps"):
        net(gpuarray.zeros((1, 3, 9)))


def test_branches_that_do_not_fit(first_runtime):
    x = gpuarray.zeros((1, 2, 9))
    for merge, modules, message in (
        ("sum", [Conv1D(2, 3, 1), Sequential()], r"Branch 1 gives shape \(1, 2, 9\) \(expected:"),
        ("concat", [Conv1D(2, 3, 2), Sequential()], "of branch 0, in all but the maps"),
        ("sum", [], "has no branches"),
    ):
        net = Parallel(merge).extend(modules)
        with pytest.raises(ModuleError, match=message):
            net(x)
        with pytest.raises(ModuleError, match=message):
            net.dataShapeFrom(x.shape)
        assert net.inData is None
    with pytest.raises(ModuleError, match="merge is 'mean', expected one of sum, concat"):
        Parallel("mean")
