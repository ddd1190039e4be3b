"""A call of a container that raises has changed nothing, wherever in it something fails."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_sequential import TINY, Failing, Scale, assert_state, filled, integers, state_of

import clconv.layers.sequential
from clconv import (
    Conv1D,
    Deconv1D,
    Module,
    ModuleError,
    OutOfMemoryError,
    Pad1D,
    Sequential,
    Variable,
    gpuarray,
)


class Halfway(Module):
    """A layer of one's own that changes its first gradient before it fails."""

    def __init__(self, name=None):
        super().__init__(name)
        self.fails = False
        for one in ("first", "second"):
            self.setVar(one, Variable(gpuarray.to_gpu(np.ones((1, 2), np.float32))))

    def updateData(self, data):
        return gpuarray.copy(data)

    def updateGrad(self, grad):
        return gpuarray.copy(grad)

    def accGradParams(self, grad, scale=1.0, momentum=0.0):
        for variable in self.vars.values():
            variable.grad.set(variable.grad.get() * momentum + scale)
            if self.fails:
                raise ModuleError("halfway")
        # A gradient may be another array from now on.
        self.vars["second"].grad = gpuarray.copy(self.vars["second"].grad)


def ours():
    """Modules of clconv's alone, with containers, shared parameters and kept arguments."""
    inner = Sequential("inner").append(Conv1D(**TINY, activation="gelu")).append(Pad1D((1, 2)))
    inner.append(Deconv1D(**TINY, stride=2, useBias=False))
    net = Sequential("net").append(Conv1D(**TINY, pad=1, name="a")).append(inner)
    net.append(Conv1D(**TINY, activation="relu", name="c"))
    return net


def mixed():
    """The same with layers of one's own."""
    net = ours()
    net["inner"].insert(Scale(3.0, "scale"), 1)
    return net.append(Halfway("halfway")).append(Conv1D(**TINY, name="last"))


def with_shared():
    net = ours()
    net.setVar("c.W", net.getVar("a.W"))
    return net


def with_evaluated():
    net = ours()
    net["c"].evalMode()
    return net


NETS = {"ours": ours, "mixed": mixed, "shared": with_shared, "partly evaluated": with_evaluated}


@pytest.fixture(params=["waits", "copies"])
def way(request, monkeypatch):
    """How gradients are kept from changing too early."""
    if request.param == "copies":
        monkeypatch.setattr(clconv.layers.sequential, "MOST_WAITING", -1)


def ready(make, rng):
    """A net after a forward call, with a gradient for it."""
    net = filled(make(), rng)
    y = net(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    return net, gpuarray.to_gpu(integers(rng, *y.shape))


def leaves(net):
    for one in net:
        if isinstance(one, Sequential):
            yield from leaves(one)
        else:
            yield one


@pytest.mark.parametrize("kind", NETS)
def test_backward_that_fails_in_any_module(runtime, rng, way, kind):
    for place in range(len(list(leaves(NETS[kind]())))):
        for error in (OutOfMemoryError("no room"), ModuleError("no"), KeyboardInterrupt()):
            net, grad = ready(NETS[kind], rng)
            net.backward(grad)
            before = state_of(net)
            module = list(leaves(net))[place]

            def fails(*_, error=error, **__):
                raise error

            module._backward = fails
            # The attribute is part of the module's state.
            with pytest.raises(type(error)):
                net.backward(grad, momentum=0.5)
            assert_state(net, before)
            del module._backward
            net.backward(grad)


@pytest.mark.parametrize("kind", NETS)
def test_backward_without_memory(runtime, rng, way, kind, monkeypatch):
    """Every allocation of a backward call fails once."""
    net, grad = ready(NETS[kind], rng)
    net.backward(grad)
    before = state_of(net)
    kind = type(runtime.memory)
    allocate = kind.allocate
    for successes in itertools.count():
        left = [successes]

        def once(self, nbytes, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OutOfMemoryError(f"{nbytes} bytes asked for")
            return allocate(self, nbytes)

        monkeypatch.setattr(kind, "allocate", once)
        try:
            net.backward(grad)
        except OutOfMemoryError:
            monkeypatch.setattr(kind, "allocate", allocate)
            assert_state(net, before)
        else:
            break
    monkeypatch.setattr(kind, "allocate", allocate)
    assert successes > 5


def test_a_module_that_fails_halfway(runtime, rng):
    """Gradients that a layer of one's own changed before it failed are back too."""
    for place in (0, 1):
        net = filled(Sequential().append(Conv1D(**TINY)).insert(Halfway(), place), rng)
        y = net(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
        grad = gpuarray.to_gpu(integers(rng, *y.shape))
        net.backward(grad)
        before = state_of(net)
        net[place].fails = True
        with pytest.raises(ModuleError, match="halfway"):
            net.backward(grad, momentum=0.5)
        net[place].fails = False
        assert_state(net, before)


@pytest.mark.parametrize("kind", NETS)
def test_backward_is_that_of_its_modules(runtime, rng, way, kind):
    """What waits or was copied first comes out as from module to module."""
    for momentum, scale in ((1.0, 1.0), (0.0, 2.0), (0.5, -1.0)):
        net, grad = ready(NETS[kind], rng)
        start = [v.grad.get() for v in net.getVarTable()]
        out = grad
        for module in reversed(list(leaves(net))):
            out = module.backward(out, scale=scale, momentum=momentum)
        expected = [out.get()] + [v.grad.get() for v in net.getVarTable()]
        for variable, old in zip(net.getVarTable(), start, strict=True):
            variable.grad.set(old)
        result = net.backward(grad, scale=scale, momentum=momentum)
        found = [result.get()] + [v.grad.get() for v in net.getVarTable()]
        for ours_, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours_, right)


def test_a_subclass_sees_its_gradients(runtime, rng):
    """A layer of one's own on a Conv1D reads in `backward` what was just added."""

    class Clipped(Conv1D):
        def backward(self, *arguments, **named):
            result = super().backward(*arguments, **named)
            grad = self.getVar("W").grad
            grad.set(np.clip(grad.get(), -1, 1))
            return result

    net = filled(Sequential().append(Conv1D(**TINY)).append(Clipped(**TINY)), rng)
    y = net(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    net.backward(gpuarray.to_gpu(9 + integers(rng, *y.shape)))
    assert np.abs(net[1].getVar("W").grad.get()).max() <= 1


def test_an_inner_container_alone(runtime, rng, way):
    """A container in a module of one's own, which goes on where the container fails."""

    class Lenient(Module):
        def __init__(self, net):
            super().__init__("lenient")
            self.net = net

        def getVarTable(self, vartable=None, name=None):
            return self.net.getVarTable(vartable, name)

        def updateData(self, data):
            return self.net(data)

        def _backward(self, grad, *arguments):
            try:
                return self.net.backward(grad)
            except ModuleError:
                return gpuarray.zeros(self.inData.shape)

    inner = Sequential().append(Failing()).append(Conv1D(**TINY, name="inner"))
    net = filled(Sequential().append(Conv1D(**TINY)).append(Lenient(inner)), rng)
    y = net(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    inner[0].grad_error = ModuleError("no")
    before = [v.grad.get() for v in inner.getVarTable()]
    net.backward(gpuarray.to_gpu(integers(rng, *y.shape)))
    for variable, old in zip(inner.getVarTable(), before, strict=True):
        np.testing.assert_array_equal(variable.grad.get(), old)


def test_calc_mode_that_fails(runtime, rng):
    class Stubborn(Module):
        def calcMode(self, T):
            raise ModuleError("float32 only")

    net = filled(Sequential().append(Conv1D(**TINY)).append(Stubborn()), rng)
    net[0](gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    before = state_of(net)
    with pytest.raises(ModuleError, match="float32 only"):
        net.calcMode(np.float16)
    assert_state(net, before)


def test_optimize_that_fails(runtime, rng):
    net = Sequential().append(Conv1D(**TINY)).append(Conv1D(2, 2, 20))
    before = net[0]._chosen
    with pytest.raises(ModuleError, match="module 1"):
        net.optimizeForShape((1, 2, 9))
    assert net[0]._chosen is before


def test_extend_that_fails(runtime):
    first, second = Conv1D(**TINY), Conv1D(**TINY, name="x")
    net = Sequential().append(Conv1D(**TINY, name="x"))
    for wrong in ([first, second], [first, "no module"], [first, None]):
        with pytest.raises(ModuleError):
            net.extend(wrong)
        assert len(net) == 1
        assert first.name is None
