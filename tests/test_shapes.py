"""Shapes that layers are asked for: those that a call gives, or an error where there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clconv import Conv1D, Deconv1D, ModuleError, Pad1D, Sequential, gpuarray

LENGTHS = range(1, 40)


def _found(layer, maps):
    """{length of data: length of the result} by asking, None where the data is refused."""
    found = {}
    for length in LENGTHS:
        try:
            found[length] = layer.dataShapeFrom((2, maps, length))[2]
        except ModuleError:
            found[length] = None
    return found


def _grad_shape(layer, length):
    try:
        return layer.gradShapeFrom((2, 3, length))[2]
    except ModuleError:
        return None


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_conv1d(runtime, pad):
    for size, stride, dilation in itertools.product((1, 3), (1, 2, 5), (1, 3)):
        conv = Conv1D(2, 3, size, stride, pad, dilation, empty=True)
        window = dilation * (size - 1) + 1
        found = _found(conv, 2)
        for length, result in found.items():
            positions = range(0, length + 2 * pad - window + 1, stride)
            assert result == (len(positions) or None)
        for wanted in range(12):
            shortest = min((n for n, got in found.items() if got == wanted), default=None)
            if shortest is not None or wanted < 5:  # others may need longer data than was tried
                assert _grad_shape(conv, wanted) == shortest


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_deconv1d(runtime, pad):
    for size, stride, postpad in itertools.product((1, 3), (1, 2, 5), (0, 1)):
        if postpad >= stride:
            continue
        deconv = Deconv1D(2, 3, size, stride, pad, postpad=postpad, empty=True)
        found = _found(deconv, 2)
        for length, result in found.items():
            positions = (length - 1) * stride + size - 2 * pad + postpad
            assert result == (positions if positions > 0 else None)
        assert _grad_shape(deconv, 0) is None
        for wanted in range(1, 12):
            long_enough = [n for n, got in found.items() if got is not None and got >= wanted]
            assert _grad_shape(deconv, wanted) == min(long_enough)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad1d(runtime, mode):
    for pads in ((0, 0), (1, 0), (2, 5)):
        pad1d = Pad1D(pads, mode)
        found = {}
        for length in range(12):
            try:
                pad1d.checkDataShape((2, 3, length))
            except ModuleError:
                with pytest.raises(ModuleError):
                    pad1d.dataShapeFrom((2, 3, length))
            else:
                found[length + sum(pads)] = length
                assert pad1d.dataShapeFrom((2, 3, length)) == (2, 3, length + sum(pads))
        for wanted in range(12):
            assert _grad_shape(pad1d, wanted) == found.get(wanted)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda one: one.dataShapeFrom((1, 2)), "Data must be 3d tensor"),
        (lambda one: one.gradShapeFrom((1, 2, 3, 4)), "Grad must be 3d tensor"),
        (lambda one: one.dataShapeFrom((-1, 2, 9)), r"shape\[0\] is -1, expected at least 0"),
        (lambda one: one.gradShapeFrom((1, 2, 9.5)), r"shape\[2\] is 9\.5, expected an integer"),
        (lambda one: one.gradShapeFrom((1, "2", 9)), r"shape\[1\] is '2', expected an integer"),
    ],
)
def test_no_shapes(runtime, ask, message):
    for layer in (Conv1D(2, 3, 3), Deconv1D(2, 3, 3), Pad1D(1)):
        with pytest.raises(ModuleError, match=f"^{message}$"):
            ask(layer)
    net = Sequential().append(Conv1D(2, 2, 3))
    with pytest.raises(ModuleError, match=rf"error in module 0 \(.*\):\n{message}$"):
        ask(net)


def test_no_shapes_to_optimize_for(runtime):
    for shape in ((1, 2), (-1, 2, 9), (1, "2", 9)):
        with pytest.raises(ModuleError):
            Conv1D(2, 3, 3).optimizeForShape(shape)


def test_which_module_of_a_container(runtime):
    """The error says where no shape is possible, in containers within containers too."""
    inner = Sequential("inner").append(Conv1D(1, 1, 1, name="a")).append(Conv1D(1, 1, 9, name="b"))
    net = Sequential("net").append(Pad1D(1, name="p")).append(inner)
    with pytest.raises(ModuleError) as caught:
        net.dataShapeFrom((1, 1, 3))
    places = [line for line in str(caught.value).splitlines() if " error in module " in line]
    assert len(places) == 2
    assert "module 1" in places[0]
    assert "module 1" in places[1]
    with pytest.raises(
        ModuleError, match=r"Grad error in module 0 \(.*p>\):\nGrad maps size is too"
    ):
        Sequential().append(Pad1D(4, name="p")).append(Conv1D(1, 1, 3)).gradShapeFrom((1, 1, 2))


def test_as_a_call_gives(runtime):
    """The shape of the result is the result's shape."""
    for layer in (Conv1D(2, 3, 3, 2, 4), Deconv1D(2, 3, 3, 2, 1, postpad=1), Pad1D((2, 5))):
        for length in (1, 4, 9):
            x = gpuarray.zeros((2, 2, length))
            assert layer(x).shape == layer.dataShapeFrom(x.shape)
            assert np.all(np.array(layer.gradShapeFrom(layer.data.shape)) <= x.shape)
