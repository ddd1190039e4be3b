"""Sequential: names, variables, modes, errors; and layers of one's own in it."""

from __future__ import annotations

import numpy as np
import pyopencl.array as cl_array
import pytest
import torch

import clconv
from clconv import (
    Conv1D,
    Conv1dProblem,
    Deconv1D,
    DeviceError,
    Module,
    ModuleError,
    OutOfMemoryError,
    Pad1D,
    Sequential,
    Variable,
    gpuarray,
    reference,
)

# One geometry for most tests, as every one is compiled for every device.
TINY = {"inmaps": 2, "outmaps": 2, "size": 2}


def integers(rng, *shape, most=3, dtype=np.float32):
    return rng.integers(-most, most + 1, shape).astype(dtype)


def filled(module, rng):
    """The module with integers as parameters and as their gradients."""
    for variable in module.getVarTable():
        for array in (variable.data, variable.grad):
            array.set(integers(rng, *array.shape, dtype=array.dtype))
    return module


def equal(device_array, expected):
    assert isinstance(device_array, cl_array.Array)
    assert device_array.shape == np.shape(expected)
    np.testing.assert_array_equal(device_array.get(), expected)


def leaves(module):
    """The module and all that it contains."""
    inner = list(module) if isinstance(module, Sequential) else []
    return [module] + [leaf for one in inner for leaf in leaves(one)]


def state_of(net):
    """Everything that a failing call must leave alone."""
    kept, arrays = [], []
    for module in leaves(net):
        kept += [module, module.name, module.train, module.calctype]
        arrays += [module.inData, module.data, module.grad]
    for variable in net.getVarTable():
        kept.append(variable)
        arrays += [variable.data, variable.grad]
    return kept, arrays, [None if a is None else a.get() for a in arrays]


def assert_state(net, before):
    kept, arrays, values = state_of(net)
    assert kept == before[0]
    assert all(a is b for a, b in zip(arrays, before[1], strict=True))
    for a, b in zip(values, before[2], strict=True):
        np.testing.assert_array_equal(a, b)


def message_of(call, *arguments, **named):
    with pytest.raises(ModuleError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def place(net, kind, index, inner):
    """The text of an error inside a container."""
    return f"{net}:\n{kind} error in module {index} ({net[index]}):\n{inner}"


class Scale(Module):
    """A layer of one's own: y = factor * x, with one factor for all."""

    def __init__(self, factor=2.0, name=None):
        super().__init__(name)
        self.setVar("factor", Variable(gpuarray.to_gpu(np.array([factor], np.float32))))

    def updateData(self, data):
        return data * float(self.getVar("factor").data.get()[0])

    def updateGrad(self, grad):
        return grad * float(self.getVar("factor").data.get()[0])

    def accGradParams(self, grad, scale=1.0, momentum=0.0):
        variable = self.getVar("factor")
        gradient = (grad.get() * self.inData.get()).sum()
        old = variable.grad.get() if momentum else 0
        variable.grad.set(np.float32([1]) * (momentum * old + scale * gradient))


class Failing(Module):
    """A layer that passes everything on, or raises what it is told to."""

    def __init__(self, name=None):
        super().__init__(name)
        self.data_error = self.grad_error = None

    def updateData(self, data):
        if self.data_error is not None:
            raise self.data_error
        return gpuarray.copy(data)

    def updateGrad(self, grad):
        if self.grad_error is not None:
            raise self.grad_error
        return gpuarray.copy(grad)


class Recording(Module):
    """A layer that halves the length, and keeps the arguments of its calls."""

    def __init__(self, name=None):
        super().__init__(name)
        self.calls = []

    def dataShapeFrom(self, shape):
        return (*shape[:2], shape[2] // 2)

    def gradShapeFrom(self, shape):
        return (*shape[:2], shape[2] * 2)

    def optimizeForShape(self, shape, memlimit=None):
        self.calls.append((tuple(shape), memlimit))


# The container


def test_names(runtime):
    net = Sequential()
    assert isinstance(net, Module)
    assert net.name is None
    convs = [Conv1D(**TINY), Conv1D(**TINY, name="conv"), Conv1D(**TINY)]
    for conv in convs:
        assert net.append(conv) is net
    assert [module.name for module in convs] == ["0", "conv", "2"]
    assert [module.name for module in net] == ["0", "conv", "2"]
    assert Sequential("net").name == "net"
    assert Sequential(name="net").name == "net"


def test_access_by_position_name_and_slice(runtime):
    a, b, c = Conv1D(**TINY, name="a"), Conv1D(**TINY), Conv1D(**TINY, name="c")
    net = Sequential("net").append(a).append(b).append(c)
    assert len(net) == 3
    assert [net[i] for i in range(3)] == [a, b, c]
    assert (net[-1], net[-3]) == (c, a)
    assert (net["a"], net["1"], net["c"]) == (a, b, c)
    assert net.getByName("c") is c
    for index in (np.s_[1:], np.s_[:2], np.s_[::2], np.s_[:], np.s_[3:]):
        part = net[index]
        assert isinstance(part, Sequential)
        assert list(part) == [a, b, c][index]
    assert len(net) == 3
    assert [module.name for module in net] == ["a", "1", "c"]
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            net[wrong]
    for call in (net.getByName, net.__getitem__):
        assert "'d'" in message_of(call, "d")


def test_slice_computes(runtime, rng):
    net = filled(Sequential().extend([Conv1D(**TINY) for _ in range(3)]), rng)
    x = gpuarray.to_gpu(integers(rng, 2, 2, 7))
    middle = net[0](x)
    expected = net[2](net[1](middle)).get()
    equal(net[1:](middle), expected)
    equal(net[:](x), expected)


def test_extend_insert_and_pop(runtime):
    a, b, c, d = (Conv1D(**TINY, name=name) for name in "abcd")
    net = Sequential()
    net.extend([a, c])
    net.insert(b, 1)
    assert list(net) == [a, b, c]
    net.insert(d, 0)
    assert list(net) == [d, a, b, c]
    assert net.pop() is c
    assert list(net) == [d, a, b]
    net.append(c)
    assert [module.name for module in net] == ["d", "a", "b", "c"]
    assert net.extend(iter([Conv1D(**TINY)])) is net
    assert net[-1].name == "4"


def test_unnamed_modules_never_share_a_name(runtime):
    net = Sequential().extend([Conv1D(**TINY) for _ in range(3)])
    net.insert(Conv1D(**TINY), 0)
    net.insert(Conv1D(**TINY), 2)
    net.pop()
    net.append(Conv1D(**TINY))
    names = [module.name for module in net]
    assert len(set(names)) == len(net) == 5
    assert all(net[name] is module for name, module in zip(names, net, strict=True))


def test_wrong_modules(runtime):
    net = Sequential().append(Conv1D(**TINY, name="a"))
    for call in (net.append, lambda wrong: net.insert(wrong, 0)):
        for wrong in (None, "conv", Conv1D, Conv1D(**TINY, name="a")):
            with pytest.raises(ModuleError):
                call(wrong)
    assert len(net) == 1
    with pytest.raises(ModuleError):
        Sequential().pop()


def test_container_without_modules(runtime, rng):
    net = Sequential()
    x = gpuarray.to_gpu(integers(rng, 2, 2, 5))
    equal(net(x), x.get())
    equal(net.backward(x), x.get())
    assert net.dataShapeFrom((2, 2, 5)) == (2, 2, 5)
    assert net.getVarTable() == {}
    assert net.numOfParams() == 0


# Variables


def test_variables_by_path(runtime):
    conv, inner = Conv1D(**TINY, name="conv"), Conv1D(**TINY, name="inner")
    net = Sequential("net").append(conv).append(Sequential("block").append(inner))
    assert net.getVar("conv.W") is conv.vars["W"]
    assert net.getVar("block.inner.b") is inner.vars["b"]
    other = Variable(gpuarray.zeros(conv.W.shape))
    net.setVar("conv.W", other)
    assert conv.vars["W"] is other
    for wrong in ("conv.c", "other.W", "W", "conv", "block.W", "block.other.W", "", "conv."):
        with pytest.raises(ModuleError):
            net.getVar(wrong)


def test_variable_table(runtime):
    a, b = Conv1D(**TINY, name="a"), Conv1D(**TINY, useBias=False)
    for name, prefix in ((None, ""), ("net", "net.")):
        net = Sequential(name).append(a).append(b)
        assert net.getVarTable() == {
            a.vars["W"]: [f"{prefix}a.W"],
            a.vars["b"]: [f"{prefix}a.b"],
            b.vars["W"]: [f"{prefix}1.W"],
        }
    nested = Sequential("net").append(Sequential("block").append(a)).append(Sequential())
    assert nested.getVarTable() == {a.vars["W"]: ["net.block.a.W"], a.vars["b"]: ["net.block.a.b"]}
    table = {}
    assert Sequential().append(a).getVarTable(table) is table
    assert table == {a.vars["W"]: ["a.W"], a.vars["b"]: ["a.b"]}


def test_shared_variables(runtime, rng):
    a, b = Conv1D(**TINY, name="a", useBias=False), Conv1D(**TINY, name="b", useBias=False)
    b.setVar("W", a.vars["W"])
    net = filled(Sequential().append(a).append(b), rng)
    w = a.vars["W"]
    assert net.getVarTable() == {w: ["a.W", "b.W"]}
    assert net.numOfParams() == 8
    assert net.paramSize() == 32
    x = integers(rng, 2, 2, 7)
    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    tw = torch.tensor(a.W.get().reshape(2, 2, 2), dtype=torch.float64, requires_grad=True)
    ty = torch.nn.functional.conv1d(torch.nn.functional.conv1d(tx, tw), tw)
    g = integers(rng, *ty.shape)
    ty.backward(torch.tensor(g, dtype=torch.float64))
    equal(net(gpuarray.to_gpu(x)), ty.detach().numpy())
    net.zeroGradParams()
    equal(net.backward(gpuarray.to_gpu(g)), tx.grad.numpy())
    equal(w.grad, tw.grad.numpy().reshape(2, 2, 1, 2))
    data, grad = w.data.get(), w.grad.get()
    net.updateParams(0.5)
    equal(w.data, data + 0.5 * grad)  # once, not once for each name
    net.calcMode(np.float16)
    assert a.vars["W"] is b.vars["W"]
    assert a.W.dtype == b.W.dtype == np.float16
    assert net.paramSize() == 16


def test_parameters_of_all(runtime, rng):
    net = Sequential().append(Conv1D(**TINY)).append(Sequential().append(Conv1D(**TINY)))
    filled(net, rng)
    table = net.getVarTable()
    assert len(table) == 4
    assert net.numOfParams() == 20
    assert net.paramSize("kb") == 80 / 1024
    values = {v: (v.data.get(), v.grad.get()) for v in table}
    net.updateParams(-0.25)
    for variable, (data, grad) in values.items():
        equal(variable.data, data - 0.25 * grad)
        equal(variable.grad, grad)
    net.zeroGradParams()
    for variable, (data, grad) in values.items():
        equal(variable.data, data - 0.25 * grad)
        equal(variable.grad, np.zeros_like(grad))


# Forward and backward


def depthwise_separable():
    net = Sequential("separable")
    net.append(Conv1D(16, 16, size=2, groups=16, name="depthwise"))
    net.append(Conv1D(16, 32, size=1, name="pointwise"))
    return net


def test_depthwise_separable_pair(runtime, rng):
    net = depthwise_separable()
    depthwise, pointwise = net["depthwise"], net["pointwise"]
    assert depthwise.W.shape == (16, 1, 1, 2)
    assert pointwise.W.shape == (32, 16, 1, 1)
    assert net.numOfParams() == 32 + 16 + 512 + 32
    filled(net, rng)
    x = integers(rng, 2, 16, 9)
    first = Conv1dProblem(2, 16, 9, 16, 2, groups=16)
    second = Conv1dProblem(2, 16, 8, 32, 1)
    w1, w2 = depthwise.W.get().reshape(16, 1, 2), pointwise.W.get().reshape(32, 16, 1)
    middle = reference.conv1d(first, x, w1, depthwise.b.get().ravel())
    expected = reference.conv1d(second, middle, w2, pointwise.b.get().ravel())
    data = gpuarray.to_gpu(x)
    result = net(data)
    equal(result, expected)
    equal(depthwise.data, middle)
    assert net.data is result
    assert net.inData is data
    assert pointwise.inData is depthwise.data

    g = integers(rng, 2, 32, 8)
    old = {name: net.getVar(name).grad.get() for name in ("depthwise.W", "pointwise.W")}
    result = net.backward(gpuarray.to_gpu(g))
    assert net.grad is result
    assert net.grad is depthwise.grad
    inner = reference.input_gradient(second, w2, g)
    equal(pointwise.grad, inner)
    equal(net.grad, reference.input_gradient(first, w1, inner))
    gradients = {
        "depthwise.W": reference.weight_gradient(first, x, inner),
        "pointwise.W": reference.weight_gradient(second, middle, g),
    }
    for name, gradient in gradients.items():
        shape = old[name].shape
        equal(net.getVar(name).grad, old[name] + gradient.reshape(shape))
    net.backward(gpuarray.to_gpu(g), momentum=0.0)
    for name, gradient in gradients.items():
        equal(net.getVar(name).grad, gradient.reshape(old[name].shape))
    equal(net.getVar("depthwise.b").grad.ravel(), reference.bias_gradient(inner))
    equal(net.getVar("pointwise.b").grad.ravel(), reference.bias_gradient(g))


def two(rng):
    net = filled(Sequential().extend([Conv1D(**TINY, name="a"), Conv1D(**TINY, name="b")]), rng)
    x, g = gpuarray.to_gpu(integers(rng, 2, 2, 7)), gpuarray.to_gpu(integers(rng, 2, 2, 5))
    return net, x, g


def gradients_of(net):
    return {names[0]: variable.grad.get() for variable, names in net.getVarTable().items()}


def test_backward_accumulates_unless_told(runtime, rng):
    net, x, g = two(rng)
    net(x)
    net.zeroGradParams()
    net.backward(g)
    once = gradients_of(net)
    assert all(gradient.any() for gradient in once.values())
    net.backward(g)
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, 2 * once[name])
    net.backward(g, scale=-3.0, momentum=0.5)
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, -2 * once[name])
    net.backward(g, True, True, 2.0, 0.0)
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, 2 * once[name])


def test_gradients_that_are_not_wanted(runtime, rng):
    net, x, g = two(rng)
    net(x)
    expected = net.backward(g, momentum=0.0).get(), net["b"].grad.get()
    gradients = gradients_of(net)
    for variable in net.getVarTable():
        variable.grad.fill(np.float32(100))
    assert net.backward(g, updGrad=False, momentum=0.0) is None
    assert net.grad is None
    assert net["a"].grad is None
    equal(net["b"].grad, expected[1])
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, gradients[name])
    equal(net.backward(g, updParamGrads=False), expected[0])
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, gradients[name])


def test_input_gradient_of_a_nested_first_module(runtime, rng):
    net = Sequential().append(Sequential("block").extend([Conv1D(**TINY), Conv1D(**TINY)]))
    filled(net.append(Conv1D(**TINY)), rng)
    net(gpuarray.to_gpu(integers(rng, 2, 2, 7)))
    g = gpuarray.to_gpu(integers(rng, 2, 2, 4))
    assert net.backward(g, updGrad=False) is None
    block = net["block"]
    assert (block.grad, block[0].grad) == (None, None)
    assert block[1].grad is not None
    assert net[1].grad is not None


def test_modes_reach_all(runtime, rng):
    net, x, g = two(rng)
    net.append(Sequential("block").append(Pad1D(1, name="pad")))
    modules = leaves(net)
    assert len(modules) == 5
    g = gpuarray.to_gpu(integers(rng, 2, 2, 7))
    y, grad = net(x).get(), net.backward(g).get()
    gradients = gradients_of(net)
    for mode, train in ((net.evalMode, False), (net.trainMode, True)):
        mode()
        assert all(module.train is train for module in modules)
        assert all((m.inData, m.data, m.grad) == (None, None, None) for m in modules)
        with pytest.raises(ModuleError):
            net.backward(g)
    net.evalMode()
    equal(net(x), y)
    equal(net.backward(g), grad)
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, gradients[name])
    net.reset()
    assert all((m.inData, m.data, m.grad) == (None, None, None) for m in modules)
    assert not any(module.train for module in modules)


def test_calc_mode_reaches_all(runtime, rng):
    net = filled(Sequential().append(Conv1D(2, 1, 2)), rng)
    net.append(Sequential("block").append(Pad1D(1)))
    x = gpuarray.to_gpu(integers(rng, 2, 2, 7))
    before = state_of(net)
    net.calcMode(np.float32)
    assert_state(net, before)
    assert message_of(net.calcMode, "int32") == "Unsupported dtype int32"
    assert_state(net, before)
    y = net(x).get()
    net.calcMode(np.float16)
    assert all(module.calctype == np.float16 for module in leaves(net))
    assert all(v.data.dtype == v.grad.dtype == np.float16 for v in net.getVarTable())
    result = net(gpuarray.to_gpu(x.get().astype(np.float16)))
    assert result.dtype == np.float16
    equal(result, y)
    expected = place(net, "Data", 0, "Expected dtype float16, got float32")
    assert message_of(net, x) == expected
    net.calcMode(np.float32)
    equal(net(x), y)


# Errors


@pytest.mark.parametrize("name", [None, "net"])
def test_data_errors_say_where(runtime, rng, name):
    net = Sequential(name)
    net.append(Conv1D(**TINY, name="a")).append(Conv1D(2, 3, 4)).append(Pad1D(9, "reflect"))
    filled(net, rng)
    fresh = state_of(net)
    for shape, index, inner in (
        ((2, 2), 0, "Data must be 3d tensor"),
        ((2, 5, 9), 0, "Data has 5 maps (expected: 2)"),
        ((2, 2, 4), 1, "Data maps size is too small (got 3, expected at least 4)"),
        ((2, 2, 9), 2, "Data maps size is too small (got 5, expected >= 10)"),
    ):
        text = place(net, "Data", index, inner)
        assert text.count("\n") == 2
        assert message_of(net, gpuarray.zeros(shape)) == text
        assert message_of(net.dataShapeFrom, shape) == text
        assert_state(net, fresh)
    assert message_of(net, gpuarray.zeros((2, 2, 30), np.float16)) == place(
        net, "Data", 0, "Expected dtype float32, got float16"
    )
    assert_state(net, fresh)
    assert net(gpuarray.zeros((2, 2, 20))).shape == (2, 3, 34)
    before = state_of(net)
    assert message_of(net, gpuarray.zeros((2, 2, 9))) == place(
        net, "Data", 2, "Data maps size is too small (got 5, expected >= 10)"
    )
    assert_state(net, before)


def test_data_error_in_a_nested_container(runtime, rng):
    block = Sequential("block").append(Conv1D(**TINY, name="a")).append(Conv1D(3, 2, 2, name="b"))
    net = Sequential("net").append(Conv1D(**TINY, name="first")).append(block)
    inner = place(block, "Data", 1, "Data has 2 maps (expected: 3)")
    fresh = state_of(net)
    assert message_of(net, gpuarray.zeros((2, 2, 9))) == place(net, "Data", 1, inner)
    assert_state(net, fresh)


@pytest.mark.parametrize(
    "error",
    [
        ModuleError("told to"),
        clconv.ProblemError("told to"),
        OutOfMemoryError("told to"),
        DeviceError("told to"),
        KeyError("told to"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failing_forward_leaves_all_modules_alone(runtime, rng, error):
    block = Sequential("block").extend([Conv1D(**TINY, name="inner", activation="gelu")])
    failing = Failing("failing")
    net = filled(Sequential("net").extend([Conv1D(**TINY, name="a"), block, failing]), rng)
    failing.data_error = error
    fresh = state_of(net)
    x, other = (gpuarray.to_gpu(integers(rng, n, 2, 7)) for n in (2, 3))
    with pytest.raises((type(error), ModuleError)) as caught:
        net(x)
    assert "told to" in str(caught.value)
    if isinstance(error, ValueError):  # one about arguments, not about the device
        assert str(caught.value) == place(net, "Data", 2, "told to")
    assert_state(net, fresh)
    g = gpuarray.to_gpu(integers(rng, 2, 2, 5))
    with pytest.raises(ModuleError):  # nothing was computed, as far as anyone can see
        net.backward(g)
    failing.data_error = None
    net(x)
    net.zeroGradParams()
    net.backward(g)
    before, gradients = state_of(net), gradients_of(net)
    failing.data_error = error
    with pytest.raises((type(error), ModuleError)):
        net(other)
    assert_state(net, before)
    net.backward(g, momentum=0.0)  # of the forward that succeeded
    for name, gradient in gradients_of(net).items():
        np.testing.assert_array_equal(gradient, gradients[name])


def test_gradient_errors_say_where(runtime, rng):
    net, x, _ = two(rng)
    net(x)
    net.backward(gpuarray.to_gpu(integers(rng, 2, 2, 5)))
    before = state_of(net)
    for shape, dtype, inner in (
        ((2, 2), np.float32, "Grad must be 3d tensor"),
        ((2, 3, 5), np.float32, "Grad has 3 maps (expected: 2)"),
        ((2, 2, 5), np.float16, "Expected dtype float32, got float16"),
    ):
        grad = gpuarray.zeros(shape, dtype)
        assert message_of(net.backward, grad) == place(net, "Grad", 1, inner)
    for shape in ((3, 2, 5), (2, 2, 6)):
        start = place(net, "Grad", 1, "")
        assert message_of(net.backward, gpuarray.zeros(shape)).startswith(start)
    assert_state(net, before)


def test_gradient_error_of_a_layer_says_where(runtime, rng):
    failing = Failing("failing")
    net = Sequential().extend([failing, Failing("fine")])
    net(gpuarray.to_gpu(integers(rng, 2, 2, 5)))
    failing.grad_error = ModuleError("told to")
    grad = gpuarray.to_gpu(integers(rng, 2, 2, 5))
    assert message_of(net.backward, grad) == place(net, "Grad", 0, "told to")


def test_backward_that_cannot_reach_the_first_module_changes_nothing(runtime, rng):
    """All modules are asked before the first gradient is accumulated."""
    net, x, g = two(rng)
    net(x)
    net["a"].reset()
    before = state_of(net)
    start = place(net, "Grad", 0, "")
    assert message_of(net.backward, g).startswith(start)
    assert_state(net, before)
    net["a"](gpuarray.zeros((3, 2, 7)))  # a batch of its own
    before = state_of(net)
    assert message_of(net.backward, g).startswith(start)
    assert_state(net, before)


def test_backward_before_forward(runtime, rng):
    net, _, g = two(rng)
    before = state_of(net)
    with pytest.raises(ModuleError):
        net.backward(g)
    assert_state(net, before)


def test_wrong_kinds_of_arrays(runtime, rng):
    net, x, g = two(rng)
    net(x)
    net.backward(g)
    before = state_of(net)
    for call, array in ((net, x), (net.backward, g)):
        with pytest.raises(TypeError) as caught:
            call(array.get())
        assert isinstance(caught.value, clconv.ClconvError)
    other = clconv.Runtime(runtime.device)
    for call, array in ((net, x), (net.backward, g)):
        with pytest.raises(DeviceError) as caught:
            call(other.to_device(array.get()))
        for context in (runtime.context, other.context):
            assert f"{context.int_ptr:#x}" in str(caught.value)
    assert_state(net, before)


# Shapes


def test_shapes_chain(runtime):
    net = Sequential()
    net.append(Conv1D(2, 4, 3, stride=2, pad=1))
    net.append(Sequential().append(Deconv1D(4, 3, 4, stride=3)))
    net.append(Pad1D((1, 2)))
    # 20 -> 10 -> 31 -> 34
    assert net.dataShapeFrom((5, 2, 20)) == (5, 3, 34)
    assert net.gradShapeFrom((5, 3, 34)) == (5, 2, 19)


def test_optimize_for_shape_chains(runtime, rng):
    records = [Recording(), Recording("named"), Recording()]
    conv = filled(Conv1D(2, 1, 2), rng)
    net = Sequential().extend([records[0], conv, records[1], Sequential().append(records[2])])
    net.optimizeForShape((2, 2, 21))
    net.optimizeForShape((2, 2, 41), 2**20)
    net.optimizeForShape((2, 2, 41), memlimit=2**21)
    assert records[0].calls == [((2, 2, 21), None), ((2, 2, 41), 2**20), ((2, 2, 41), 2**21)]
    assert [shape for shape, _ in records[1].calls] == [(2, 1, 9), (2, 1, 19), (2, 1, 19)]
    assert [shape for shape, _ in records[2].calls] == [(2, 1, 4), (2, 1, 9), (2, 1, 9)]
    assert [limit for _, limit in records[2].calls] == [None, 2**20, 2**21]
    x = integers(rng, 2, 2, 9)
    problem = Conv1dProblem(2, 2, 9, 1, 2)
    w, b = conv.W.get().reshape(1, 2, 2), conv.b.get().ravel()
    equal(conv(gpuarray.to_gpu(x)), reference.conv1d(problem, x, w, b))
    start = place(net, "Data", 1, "")
    message = message_of(net.optimizeForShape, (2, 2, 21), -1)
    assert message.startswith(start)
    assert "memlimit" in message
    assert message_of(net.optimizeForShape, (2, 3, 21)) == place(
        net, "Data", 1, "Data has 3 maps (expected: 2)"
    )


# Layers of one's own


def test_layer_of_ones_own(runtime, rng):
    net = Sequential("net").append(Scale(3.0)).append(filled(Conv1D(**TINY, name="conv"), rng))
    scale, conv = net[0], net["conv"]
    variable = scale.getVar("factor")
    assert scale.name == "0"
    assert net.getVarTable()[variable] == ["net.0.factor"]
    assert net.getVar("0.factor") is variable
    assert scale.vars == {"factor": variable}
    assert scale.attrs == {}
    x, g = integers(rng, 2, 2, 7), integers(rng, 2, 2, 6)
    problem = Conv1dProblem(2, 2, 7, 2, 2)
    w, b = conv.W.get().reshape(2, 2, 2), conv.b.get().ravel()
    data = gpuarray.to_gpu(x)
    equal(net(data), reference.conv1d(problem, 3 * x, w, b))
    assert scale.inData is data
    assert scale.data is conv.inData
    inner = reference.input_gradient(problem, w, g)
    equal(net.backward(gpuarray.to_gpu(g)), 3 * inner)
    equal(variable.grad, [(inner * x).sum()])
    net.backward(gpuarray.to_gpu(g), scale=2.0, momentum=0.5)
    equal(variable.grad, [2.5 * (inner * x).sum()])
    variable.grad.set(np.array([4], np.float32))
    net.updateParams(0.25)
    equal(variable.data, [4])
    net.zeroGradParams()
    equal(variable.grad, [0])
    net.evalMode()
    net(data)
    net.backward(gpuarray.to_gpu(g))
    equal(variable.grad, [0])
    assert net.dataShapeFrom((2, 2, 7)) == (2, 2, 6)
    assert net.numOfParams() == 11


def test_layer_of_ones_own_alone(runtime, rng):
    scale = Scale(2.0, "scale")
    x = gpuarray.to_gpu(integers(rng, 2, 2, 7))
    with pytest.raises(ModuleError):
        scale.backward(x)
    equal(scale(x), 2 * x.get())
    equal(scale.backward(x), 2 * x.get())
    equal(scale.getVar("factor").grad, [(x.get() ** 2).sum()])
    assert scale.backward(x, updGrad=False, momentum=1.0) is None
    assert scale.grad is None
    equal(scale.getVar("factor").grad, [2 * (x.get() ** 2).sum()])
    scale.backward(x, updParamGrads=False)
    equal(scale.getVar("factor").grad, [2 * (x.get() ** 2).sum()])
    scale.calcMode(np.float16)
    assert scale.getVar("factor").data.dtype == np.float16
    assert scale.inData is None
    assert message_of(scale, x) == "Expected dtype float16, got float32"
    with pytest.raises(TypeError):
        scale(x.get())


def test_layer_may_check_shapes(runtime):
    class Strict(Failing):
        def checkDataShape(self, shape):
            if shape[2] % 2:
                raise ModuleError(f"Length {shape[2]} is odd")

        def checkGradShape(self, shape):
            if tuple(shape) != tuple(self.data.shape):
                raise ModuleError("Other shape")

    net = Sequential().append(Strict("a"))
    assert message_of(net, gpuarray.zeros((1, 1, 3))) == place(net, "Data", 0, "Length 3 is odd")
    assert message_of(net.dataShapeFrom, (1, 1, 3)) == place(net, "Data", 0, "Length 3 is odd")
    assert net.inData is None
    net(gpuarray.zeros((1, 1, 4)))
    message = message_of(net.backward, gpuarray.zeros((1, 1, 2)))
    assert message == place(net, "Grad", 0, "Other shape")


def test_layer_without_definitions(runtime):
    module = Module("bare")
    assert module.name == "bare"
    assert (module.vars, module.attrs, module.train) == ({}, {}, True)
    assert module.calctype == np.float32
    assert module.getVarTable() == {}
    with pytest.raises(ModuleError, match="updateData"):
        module(gpuarray.zeros((1, 1, 1)))
    with pytest.raises(ModuleError):
        module.setVar("x", gpuarray.zeros((1,)))
    with pytest.raises(ModuleError, match="'x'"):
        module.getVar("x")
