"""Conv1D, Deconv1D and Variable: PuzzleLib's behaviour, to the error message."""

from __future__ import annotations

import inspect
import json
import math

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
    Variable,
    gpuarray,
    reference,
)

EPSILON = 2.0**-23

# Few geometries, as every one is compiled for every device.
PLAIN = {"inmaps": 2, "outmaps": 3, "size": 3, "pad": 1}
GROUPED = {"inmaps": 4, "outmaps": 2, "size": 3, "stride": 2, "pad": 2, "dilation": 2, "groups": 2}
SPARSE = {"inmaps": 2, "outmaps": 1, "size": 2, "stride": 3}
TINY = {"inmaps": 2, "outmaps": 1, "size": 2, "pad": 1}  # float16 takes longest to compile
GEOMETRIES = [PLAIN, GROUPED, SPARSE]
GEOMETRY_NAMES = ["plain", "grouped", "sparse"]

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=GEOMETRY_NAMES)
both_classes = pytest.mark.parametrize("layer", [Conv1D, Deconv1D])


def made(layer, geometry=PLAIN, **more):
    """A layer of a geometry; Deconv1D's has the kernels of Conv1D's, in other roles."""
    arguments = dict(geometry, **more)
    if layer is Deconv1D:
        arguments |= {"inmaps": geometry["outmaps"], "outmaps": geometry["inmaps"]}
    return layer(**arguments)


def integers(rng, *shape, most=4, dtype=np.float32):
    return rng.integers(-most, most + 1, shape).astype(dtype)


def filled(layer, rng, most=4):
    """The layer with integers as parameters and as their gradients."""
    for variable in layer.vars.values():
        for array in (variable.data, variable.grad):
            array.set(integers(rng, *array.shape, most=most, dtype=array.dtype))
    return layer


def problem_of(conv, shape):
    return Conv1dProblem(
        shape[0], conv.inmaps, shape[2], conv.outmaps, conv.size, conv.stride, conv.pad,
        conv.dilation, conv.groups,
    )  # fmt: skip


def weights(layer):
    w = layer.W.get()
    return w.reshape(w.shape[0], w.shape[1], w.shape[3])


def bias(layer):
    return None if layer.b is None else layer.b.get().ravel()


def equal(device_array, expected):
    assert isinstance(device_array, cl_array.Array)
    assert device_array.shape == np.shape(expected)
    np.testing.assert_array_equal(device_array.get(), expected)


def pair(rng, layer):
    """Data and a gradient of PLAIN's shapes on the device."""
    x, g = integers(rng, 2, layer.inmaps, 9), integers(rng, 2, layer.outmaps, 9)
    return gpuarray.to_gpu(x), gpuarray.to_gpu(g)


def state_of(layer):
    """Everything that a failing call must leave alone."""
    kept = [layer.inData, layer.data, layer.grad, layer.train, layer.calctype]
    kept += [v for name in sorted(layer.vars) for v in (layer.vars[name],)]
    arrays = [layer.inData, layer.data, layer.grad]
    for name in sorted(layer.vars):
        arrays += [layer.vars[name].data, layer.vars[name].grad]
    return kept, arrays, [None if a is None else a.get() for a in arrays]


def assert_state(layer, before):
    kept, arrays, values = state_of(layer)
    assert len(kept) == len(before[0])
    assert all(a is b for a, b in zip(kept, before[0], strict=True))
    assert all(a is b for a, b in zip(arrays, before[1], strict=True))
    for a, b in zip(values, before[2], strict=True):
        np.testing.assert_array_equal(a, b)


def message_of(call, *arguments, error=ModuleError, **named):
    with pytest.raises(error) as caught:
        call(*arguments, **named)
    return str(caught.value)


def assert_names_both(caught, runtime, other):
    for context in (runtime.context, other.context):
        assert f"{context.int_ptr:#x}" in str(caught.value)


# Construction


def parameters_of(signature):
    return {p.name: p.default for p in signature.parameters.values() if p.kind != p.KEYWORD_ONLY}


CONV_ARGUMENTS = {
    "inmaps": inspect.Parameter.empty,
    "outmaps": inspect.Parameter.empty,
    "size": inspect.Parameter.empty,
    "stride": 1,
    "pad": 0,
    "dilation": 1,
    "wscale": 1.0,
    "useBias": True,
    "name": None,
    "initscheme": None,
    "empty": False,
    "groups": 1,
}


def deconv_arguments():
    found = {}
    for name, default in CONV_ARGUMENTS.items():
        found[name] = default
        if name == "dilation":
            found["postpad"] = 0
    return found


@both_classes
def test_constructor_has_puzzlelibs_arguments_in_its_order(layer):
    signature = inspect.signature(layer)
    found = parameters_of(signature)
    expected = CONV_ARGUMENTS if layer is Conv1D else deconv_arguments()
    assert list(found.items()) == list(expected.items())
    keyword_only = {
        p.name: p.default for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY
    }
    assert keyword_only == {"activation": None, "runtime": None, "exact": None}


def test_parameters_of_conv(runtime):
    conv = Conv1D(4, 6, 3, groups=2)
    assert isinstance(conv, Module)
    assert set(conv.vars) == {"W", "b"}
    assert conv.W is conv.vars["W"].data
    assert conv.b is conv.vars["b"].data
    assert isinstance(conv.W, cl_array.Array)
    assert conv.W.shape == (6, 2, 1, 3)
    assert conv.W.dtype == np.float32
    assert conv.b.shape == (1, 6, 1, 1)
    equal(conv.b, np.zeros((1, 6, 1, 1), np.float32))
    equal(conv.vars["W"].grad, np.zeros((6, 2, 1, 3), np.float32))
    assert conv.train is True
    assert conv.calctype == np.float32
    assert (conv.inData, conv.data, conv.grad, conv.name) == (None, None, None, None)


def test_parameters_of_deconv(runtime):
    deconv = Deconv1D(4, 6, 3, groups=2)
    assert deconv.W.shape == (4, 3, 1, 3)
    assert deconv.b.shape == (1, 6, 1, 1)
    equal(deconv.b, np.zeros((1, 6, 1, 1), np.float32))
    assert set(deconv.vars) == {"W", "b"}


@both_classes
def test_without_bias(runtime, layer):
    conv = layer(3, 4, 2, useBias=False)
    assert conv.b is None
    assert set(conv.vars) == {"W"}
    assert "b" in message_of(conv.getVar, "b")
    with pytest.raises(ModuleError):
        conv.setVar("b", Variable(gpuarray.zeros((1, 4, 1, 1))))


@both_classes
def test_empty(runtime, layer):
    conv = layer(3, 4, 2, empty=True)
    assert conv.W is None
    assert conv.b is None
    assert conv.vars == {}
    assert conv.numOfParams() == 0
    assert message_of(layer, 3, 4, 2, empty=True, groups=2) == (
        "Number of input and output maps must be divisible by number of groups "
        "(3 inmaps, 4 outmaps, 2 groups)"
    )
    with pytest.raises(ModuleError):
        conv(gpuarray.zeros((1, 3, 5)))


@both_classes
def test_empty_layer_takes_its_parameters_later(runtime, rng, layer):
    full = filled(made(layer), rng)
    empty = made(layer, empty=True)
    for name in ("W", "b"):
        empty.setVar(name, full.getVar(name))
    x = gpuarray.to_gpu(integers(rng, 2, full.inmaps, 9))
    equal(empty(x), full(x).get())


@both_classes
@pytest.mark.parametrize(("inmaps", "outmaps", "groups"), [(4, 6, 4), (5, 6, 3), (4, 6, 12)])
def test_groups_must_divide_the_maps(runtime, layer, inmaps, outmaps, groups):
    assert message_of(layer, inmaps, outmaps, 3, groups=groups) == (
        "Number of input and output maps must be divisible by number of groups "
        f"({inmaps} inmaps, {outmaps} outmaps, {groups} groups)"
    )


@both_classes
@pytest.mark.parametrize("value", [0, -2, 1.5, "3", None, True])
@pytest.mark.parametrize("argument", ["inmaps", "outmaps", "size", "stride", "dilation", "groups"])
def test_bad_argument_is_named_with_its_value(runtime, layer, argument, value):
    arguments = {"inmaps": 4, "outmaps": 4, "size": 2, argument: value}
    message = message_of(layer, **arguments)
    assert argument in message
    assert repr(value) in message


@both_classes
@pytest.mark.parametrize("argument", ["pad", "postpad"])
@pytest.mark.parametrize("value", [-1, 0.5, (1, 2), (1, -2), (1, 2, 3), "same", None, False])
def test_bad_padding_is_named_with_its_value(runtime, layer, argument, value):
    if argument == "postpad" and layer is Conv1D:
        with pytest.raises(TypeError, match="postpad"):
            layer(4, 4, 2, postpad=value)
        return
    if value == (1, 2) and layer is Conv1D:
        assert layer(4, 4, 2, pad=value).pad == value
        return
    message = message_of(layer, 4, 4, 2, stride=3, **{argument: value})
    assert argument in message
    assert repr(value) in message


@both_classes
@pytest.mark.parametrize("value", ["swish", ("relu", 0.1), ("leaky_relu", "x"), 3])
def test_bad_activation_is_named_with_its_value(runtime, layer, value):
    message = message_of(layer, 4, 4, 2, activation=value)
    assert "activation" in message
    assert repr(value) in message


def test_numpy_integers_are_integers(runtime, rng):
    n = np.int64
    conv = Conv1D(n(2), n(3), n(3), stride=n(1), pad=n(1), dilation=n(1), groups=n(1))
    filled(conv, rng)
    x = integers(rng, 2, 2, 8)
    equal(
        conv(gpuarray.to_gpu(x)),
        reference.conv1d(problem_of(conv, x.shape), x, weights(conv), bias(conv)),
    )
    json.dumps(conv.getBlueprint())


def test_blueprint_of_conv(runtime):
    arguments = (4, 6, 3, 2, 1, 2, 0.5, False, "some", ("he", "avg"), True, 2)
    conv = Conv1D(*arguments)
    assert conv.getBlueprint() == {
        "classname": "Conv1D",
        "scheme": dict(zip(CONV_ARGUMENTS, arguments, strict=True)),
    }
    assert len(Conv1D(4, 6, 3, runtime=runtime).getBlueprint()["scheme"]) == 12
    defaults = {k: v for k, v in CONV_ARGUMENTS.items() if k not in ("inmaps", "outmaps", "size")}
    assert Conv1D(4, 6, 3).getBlueprint()["scheme"] == dict(
        {"inmaps": 4, "outmaps": 6, "size": 3}, **defaults
    )


@both_classes
@pytest.mark.parametrize("activation", ["relu", ("leaky_relu", 0.2)])
def test_blueprint_has_the_activation_only_where_there_is_one(runtime, layer, activation):
    plain = layer(4, 6, 3).getBlueprint()
    assert "activation" not in plain["scheme"]
    assert len(plain["scheme"]) == (12 if layer is Conv1D else 13)
    scheme = layer(4, 6, 3, activation=activation, runtime=runtime).getBlueprint()["scheme"]
    assert scheme == dict(plain["scheme"], activation=activation)


@both_classes
def test_layer_made_anew_from_its_blueprint(runtime, rng, layer):
    first = made(layer, GROUPED, name="first", activation=["leaky_relu", 0.2])
    blueprint = json.loads(json.dumps(first.getBlueprint()))
    assert blueprint["classname"] == layer.__name__
    second = layer(**blueprint["scheme"])
    assert second.getBlueprint() == blueprint
    assert second.name == "first"
    assert second.W.shape == first.W.shape
    shape = (2, first.inmaps, 11)
    assert second.dataShapeFrom(shape) == first.dataShapeFrom(shape)
    first = filled(made(layer, activation="relu"), rng)
    second = layer(**json.loads(json.dumps(first.getBlueprint()))["scheme"])
    for name in ("W", "b"):
        second.setVar(name, first.getVar(name))
    x = pair(rng, first)[0]
    equal(second(x), first(x).get())
    assert first.data.get().min() == 0


# First values


def _cdf(kind, width, values):
    if kind == "uniform":
        return np.clip((values + width) / (2 * width), 0, 1)
    return np.array([0.5 * math.erfc(-v / (width * math.sqrt(2))) for v in values])


def assert_distribution(drawn, kind, width):
    """Kolmogorov and Smirnov's test, which a right distribution fails once in a thousand seeds."""
    values = np.sort(drawn.astype(np.float64).ravel())
    n = values.size
    cdf = _cdf(kind, width, values)
    steps = np.arange(n + 1) / n
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())
    assert distance < 1.95 / math.sqrt(n)
    if kind == "uniform":
        assert np.abs(values).max() <= np.float32(width)


WSCALE = 0.3
INITSCHEMES = [
    (None, "in", "uniform", 3),
    ("xavier_uniform", "in", "uniform", 3),
    (("xavier_uniform", "in"), "in", "uniform", 3),
    (("xavier_uniform", "out"), "out", "uniform", 3),
    (["xavier_uniform", "avg"], "avg", "uniform", 3),
    ("xavier", "in", "normal", 1),
    (("xavier", "out"), "out", "normal", 1),
    ("xavier_normal", "in", "normal", 1),
    (("xavier_normal", "avg"), "avg", "normal", 1),
    ("he", "in", "normal", 2),
    (("he", "out"), "out", "normal", 2),
    (("he", "avg"), "avg", "normal", 2),
    ("gaussian", None, "normal", None),
    (("gaussian", "out"), None, "normal", None),
    ("uniform", None, "uniform", None),
    (("uniform", "avg"), None, "uniform", None),
]


@both_classes
@pytest.mark.parametrize(("initscheme", "factor", "kind", "gain"), INITSCHEMES)
def test_first_weights(runtime, layer, initscheme, factor, kind, gain):
    inmaps, outmaps, size, groups = 16, 64, 10, 2
    if layer is Conv1D:
        fans = {"in": inmaps / groups * size, "out": outmaps * size}
    else:
        fans = {"in": inmaps * size, "out": outmaps / groups * size}
    fans["avg"] = (fans["in"] + fans["out"]) / 2
    width = WSCALE if factor is None else math.sqrt(gain / fans[factor])

    def draw():
        made = layer(inmaps, outmaps, size, groups=groups, wscale=WSCALE, initscheme=initscheme)
        return made.W.get()

    np.random.seed(11)
    first, other = draw(), draw()
    np.random.seed(11)
    again = draw()
    assert_distribution(first, kind, width)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_uninitialised_weights_draw_nothing(runtime):
    np.random.seed(5)
    expected = np.random.uniform()
    np.random.seed(5)
    conv = Conv1D(3, 4, 2, initscheme="none")
    assert np.random.uniform() == expected
    assert conv.W.shape == (4, 3, 1, 2)
    assert not conv.b.get().any()


def test_default_scheme_is_xavier_uniform(runtime):
    np.random.seed(8)
    first = Conv1D(3, 4, 2).W.get()
    np.random.seed(8)
    np.testing.assert_array_equal(first, Conv1D(3, 4, 2, initscheme="xavier_uniform").W.get())


@both_classes
@pytest.mark.parametrize("initscheme", [("xavier",), ("xavier", "in", "out"), [], ["he"] * 4])
def test_scheme_tuple_of_another_length(runtime, layer, initscheme):
    message = message_of(layer, 3, 4, 2, initscheme=initscheme, error=ValueError)
    assert message == f"Scheme tuple has {len(initscheme)} length, expected 2"


@pytest.mark.parametrize("initscheme", ["glorot", ("he", "middle"), ("glorot", "in"), 5])
def test_unknown_scheme_is_named(runtime, initscheme):
    message = message_of(Conv1D, 3, 4, 2, initscheme=initscheme)
    wrong = "middle" if initscheme == ("he", "middle") else "glorot"
    assert "initscheme" in message
    assert repr(5 if initscheme == 5 else wrong) in message


@pytest.mark.parametrize("wscale", [-1.0, "wide", math.nan])
def test_bad_wscale_is_named(runtime, wscale):
    message = message_of(Conv1D, 3, 4, 2, initscheme="gaussian", wscale=wscale)
    assert "wscale" in message
    assert repr(wscale) in message


# Variables of a layer


@both_classes
def test_set_and_get_of_variables(runtime, rng, layer):
    conv = filled(made(layer), rng)
    x = gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9))
    before = conv(x).get()
    w = Variable(gpuarray.to_gpu(-conv.W.get()))
    b = Variable(gpuarray.to_gpu(-conv.b.get()))
    conv.setVar("W", w)
    conv.setVar("b", b)
    assert conv.getVar("W") is w
    assert conv.vars["b"] is b
    assert conv.W is w.data
    assert conv.b is b.data
    equal(conv(x), -before)


def test_data_of_a_variable_may_be_exchanged(runtime, rng):
    conv = filled(Conv1D(**PLAIN), rng)
    x = gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9))
    before = conv(x).get()
    conv.vars["W"].data = gpuarray.to_gpu(2 * conv.W.get())
    conv.vars["b"].data = gpuarray.to_gpu(2 * conv.b.get())
    equal(conv(x), 2 * before)
    conv.vars["W"].grad = gpuarray.to_gpu(np.full(conv.W.shape, np.nan, np.float32))
    g = integers(rng, 2, conv.outmaps, 9)
    conv.backward(gpuarray.to_gpu(g))
    dw = reference.weight_gradient(problem_of(conv, x.shape), x.get(), g)
    equal(conv.vars["W"].grad, dw.reshape(conv.W.shape))


@both_classes
def test_variable_that_does_not_fit(runtime, rng, layer):
    conv = filled(made(layer), rng)
    before = state_of(conv)
    shape = conv.W.shape
    wrong = [
        ("W", Variable(gpuarray.zeros((shape[0], shape[1], 1, 2)))),
        ("W", Variable(gpuarray.zeros((shape[0], shape[1], 3)))),
        ("W", Variable(gpuarray.zeros((4, 1, 1, 1)))),
        ("b", Variable(gpuarray.zeros((conv.outmaps,)))),
        ("b", Variable(gpuarray.zeros((1, conv.outmaps + 1, 1, 1)))),
        ("W", Variable(gpuarray.zeros(shape, np.float16))),
        ("c", Variable(gpuarray.zeros((1,)))),
        ("W", conv.W),
        ("W", np.zeros(shape, np.float32)),
    ]
    for name, variable in wrong:
        with pytest.raises(ModuleError):
            conv.setVar(name, variable)
    assert_state(conv, before)
    assert "'c'" in message_of(conv.getVar, "c")


def test_variable_without_gradient_gets_none(runtime, rng):
    conv = filled(Conv1D(**PLAIN), rng)
    w = conv.W.get()
    conv.setVar("W", Variable(gpuarray.to_gpu(w), withgrad=False))
    x, g = integers(rng, 2, conv.inmaps, 9), integers(rng, 2, conv.outmaps, 9)
    conv(gpuarray.to_gpu(x))
    conv.backward(gpuarray.to_gpu(g))
    problem = problem_of(conv, x.shape)
    equal(conv.grad, reference.input_gradient(problem, weights(conv), g))
    assert conv.vars["W"].grad is None
    equal(conv.vars["b"].grad.ravel(), reference.bias_gradient(g))
    conv.updateParams(1.0)
    conv.zeroGradParams()
    equal(conv.W, w)


def test_variable_table_of_a_layer(runtime):
    conv = Conv1D(3, 4, 2, name="named")
    w, b = conv.vars["W"], conv.vars["b"]
    assert conv.getVarTable() == {w: ["W"], b: ["b"]}
    assert conv.getVarTable(name="a") == {w: ["a.W"], b: ["a.b"]}
    table = {w: ["other"]}
    assert conv.getVarTable(table, "a") is table
    assert table == {w: ["other", "a.W"], b: ["a.b"]}


@both_classes
def test_size_of_parameters(runtime, layer):
    conv = layer(8, 16, 4, groups=2)
    count = 8 * 16 // 2 * 4 + 16
    assert conv.numOfParams() == count
    assert conv.paramSize() == 4 * count
    assert conv.paramSize("kb") == 4 * count / 1024
    assert conv.paramSize(unit="mb") == 4 * count / 1024**2
    assert layer(8, 16, 4, groups=2, useBias=False).numOfParams() == count - 16
    conv.calcMode(np.float16)
    assert conv.numOfParams() == count
    assert conv.paramSize() == 2 * count
    assert "'gb'" in message_of(conv.paramSize, "gb")


def test_update_and_zero_of_parameters(runtime, rng):
    conv = filled(Conv1D(**PLAIN), rng)
    data = {name: v.data.get() for name, v in conv.vars.items()}
    grads = {name: v.grad.get() for name, v in conv.vars.items()}
    arrays = {name: (v.data, v.grad) for name, v in conv.vars.items()}
    conv.updateParams(0.5)
    for name, variable in conv.vars.items():
        equal(variable.data, data[name] + 0.5 * grads[name])
        equal(variable.grad, grads[name])
    conv.zeroGradParams()
    for name, variable in conv.vars.items():
        equal(variable.data, data[name] + 0.5 * grads[name])
        equal(variable.grad, np.zeros_like(grads[name]))
        assert (variable.data, variable.grad) == arrays[name]


def test_nan_in_a_gradient_is_zeroed(runtime):
    conv = Conv1D(**PLAIN)
    for variable in conv.vars.values():
        variable.grad.set(np.full(variable.grad.shape, np.nan, np.float32))
    conv.zeroGradParams()
    for variable in conv.vars.values():
        equal(variable.grad, np.zeros(variable.grad.shape, np.float32))


# Forward


@every_geometry
@pytest.mark.parametrize("useBias", [True, False], ids=["bias", "no bias"])
def test_forward(runtime, rng, geometry, useBias):
    conv = filled(Conv1D(**geometry, useBias=useBias), rng)
    for batch, length in ((2, 11), (1, 6)):
        x = integers(rng, batch, conv.inmaps, length)
        data = gpuarray.to_gpu(x)
        result = conv(data)
        problem = problem_of(conv, x.shape)
        equal(result, reference.conv1d(problem, x, weights(conv), bias(conv)))
        assert result.dtype == np.float32
        assert conv.data is result
        assert conv.inData is data
        assert conv.grad is None
        equal(data, x)
        assert conv.dataShapeFrom(x.shape) == result.shape == problem.output_shape
        assert all(type(n) is int for n in result.shape)


def test_data_may_be_a_view(runtime, rng):
    conv = filled(Conv1D(**PLAIN), rng)
    whole = integers(rng, 4, 6, 20)
    device = gpuarray.to_gpu(whole)
    w, b = weights(conv), bias(conv)
    for index in (np.s_[1:3, 2:4, 4:13], np.s_[::2, ::3, ::2], np.s_[:, 1:3, 3:4]):
        x = whole[index]
        problem = problem_of(conv, x.shape)
        equal(conv(device[index]), reference.conv1d(problem, x, w, b))
        g = integers(rng, *problem.output_shape)
        equal(conv.backward(gpuarray.to_gpu(g)), reference.input_gradient(problem, w, g))
        dw = reference.weight_gradient(problem, x, g)
        equal(conv.vars["W"].grad, dw.reshape(conv.W.shape))


def test_gradient_may_be_a_view(runtime, rng):
    x, g = integers(rng, 2, 2, 9), integers(rng, 4, 3, 18)
    for activation in (None, "relu"):
        conv = filled(Conv1D(**PLAIN, activation=activation), rng)
        problem = problem_of(conv, x.shape)
        v = reference.conv1d(problem, x, weights(conv), bias(conv))
        conv(gpuarray.to_gpu(x))
        got = conv.backward(gpuarray.to_gpu(g)[1::2, :, ::2])
        through = g[1::2, :, ::2] * reference.activation_derivative(activation, v)
        equal(got, reference.input_gradient(problem, weights(conv), through))
        equal(conv.vars["b"].grad.ravel(), reference.bias_gradient(through))


@every_geometry
def test_shapes_from_shapes(runtime, geometry):
    conv = Conv1D(**geometry)
    window = conv.dilation * (conv.size - 1) + 1
    for length in range(max(1, window - 2 * conv.pad), 24):
        out = (length + 2 * conv.pad - window) // conv.stride + 1
        assert conv.dataShapeFrom((5, conv.inmaps, length)) == (5, conv.outmaps, out)
        shortest = (out - 1) * conv.stride + window - 2 * conv.pad
        assert conv.gradShapeFrom((5, conv.outmaps, out)) == (5, conv.inmaps, shortest)


def conv_forward_errors(conv):
    """(shape, dtype, message) of data with one fault after another taken away."""
    return [
        ((2, 5), np.float16, "Data must be 3d tensor"),
        ((2, 5, 1, 1), np.float32, "Data must be 3d tensor"),
        ((2, 5, 1), np.float16, f"Data has 5 maps (expected: {conv.inmaps})"),
        ((2, 4, 0), np.float16, "Data maps size is too small (got 4, expected at least 5)"),
        ((2, 4, 9), np.float16, "Expected dtype float32, got float16"),
        ((2, 4, 9), np.float64, "Expected dtype float32, got float64"),
        ((2, 4, 9), np.int32, "Expected dtype float32, got int32"),
    ]


def test_wrong_data_messages_in_their_order_change_nothing(runtime, rng):
    conv = filled(Conv1D(**GROUPED), rng)
    fresh = Conv1D(**GROUPED)
    x, g = integers(rng, 2, 4, 9), integers(rng, 2, 2, 5)
    conv(gpuarray.to_gpu(x))
    conv.backward(gpuarray.to_gpu(g))
    before, unused = state_of(conv), state_of(fresh)
    for shape, dtype, message in conv_forward_errors(conv):
        data = gpuarray.empty(shape, dtype)
        assert message_of(conv, data) == message
        assert message_of(fresh, data) == message
    assert_state(conv, before)
    assert_state(fresh, unused)


@pytest.mark.parametrize(
    ("arguments", "length", "got", "least"),
    [
        ({"size": 4}, 3, 3, 4),
        ({"size": 4, "pad": 1}, 1, 3, 4),
        ({"size": 3, "dilation": 5, "pad": 2, "stride": 2}, 6, 10, 11),
        ({"size": 1}, 0, 0, 1),
    ],
)
def test_data_too_short(runtime, arguments, length, got, least):
    conv = Conv1D(1, 1, **arguments)
    expected = f"Data maps size is too small (got {got}, expected at least {least})"
    assert message_of(conv, gpuarray.zeros((1, 1, length))) == expected


@both_classes
def test_numpy_data_is_a_type_error(runtime, rng, layer):
    conv = filled(made(layer), rng)
    x = integers(rng, 2, conv.inmaps, 9)
    conv(gpuarray.to_gpu(x))
    before = state_of(conv)
    for wrong in (x, x.tolist(), None, torch.zeros(x.shape)):
        with pytest.raises(TypeError) as caught:
            conv(wrong)
        assert isinstance(caught.value, clconv.ClconvError)
        assert "data" in str(caught.value)
        with pytest.raises(TypeError) as caught:
            conv.backward(wrong)
        assert isinstance(caught.value, clconv.ClconvError)
        assert "grad" in str(caught.value)
    assert_state(conv, before)


@both_classes
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_array_of_another_context(runtime, rng, layer, activation):
    conv = filled(made(layer, activation=activation), rng)
    other = clconv.Runtime(runtime.device)
    x = gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9))
    g = other.to_device(integers(rng, 2, conv.outmaps, 9))
    conv(x)
    before = state_of(conv)
    with pytest.raises(DeviceError) as caught:
        conv(other.to_device(x.get()))
    assert_names_both(caught, runtime, other)
    with pytest.raises(DeviceError) as caught:
        conv.backward(g)
    assert_names_both(caught, runtime, other)
    with pytest.raises(DeviceError) as caught:
        conv.backward(g, updGrad=False)
    assert_names_both(caught, runtime, other)
    assert_state(conv, before)


def test_layer_on_a_runtime_of_its_own(runtime, rng):
    other = clconv.Runtime(runtime.device)
    conv = filled(Conv1D(**TINY, runtime=other), rng)
    assert conv.W.context == other.context
    x, g = integers(rng, 2, 2, 9), integers(rng, 2, 1, 10)
    problem = problem_of(conv, x.shape)
    result = conv(other.to_device(x))
    assert result.context == other.context
    equal(result, reference.conv1d(problem, x, weights(conv), bias(conv)))
    equal(conv.backward(other.to_device(g)), reference.input_gradient(problem, weights(conv), g))
    equal(conv.vars["b"].grad.ravel(), reference.bias_gradient(g))
    before = state_of(conv)
    with pytest.raises(DeviceError) as caught:
        conv(gpuarray.to_gpu(x))
    assert_names_both(caught, runtime, other)
    assert_state(conv, before)
    conv.updateParams(1.0)
    conv.calcMode(np.float16)
    assert conv.W.context == other.context


@both_classes
def test_no_batch(runtime, rng, layer):
    conv = filled(made(layer), rng)
    result = conv(gpuarray.empty((0, conv.inmaps, 9)))
    assert result.shape == (0, conv.outmaps, 9)
    old = {name: v.grad.get() for name, v in conv.vars.items()}
    grad = conv.backward(gpuarray.empty((0, conv.outmaps, 9)), momentum=2.0)
    assert grad.shape == (0, conv.inmaps, 9)
    for name, variable in conv.vars.items():
        equal(variable.grad, 2 * old[name])
        variable.grad.set(np.full(variable.grad.shape, np.nan, np.float32))
    conv.backward(gpuarray.empty((0, conv.outmaps, 9)))
    for variable in conv.vars.values():
        equal(variable.grad, np.zeros(variable.grad.shape, np.float32))


# Backward


@every_geometry
def test_backward(runtime, rng, geometry):
    conv = filled(Conv1D(**geometry), rng)
    w, b = conv.W.get(), conv.b.get()
    for batch, length in ((2, 11), (3, 7)):
        x = integers(rng, batch, conv.inmaps, length)
        problem = problem_of(conv, x.shape)
        g = integers(rng, *problem.output_shape)
        data, grad = gpuarray.to_gpu(x), gpuarray.to_gpu(g)
        y = conv(data)
        result = conv.backward(grad)
        assert result is conv.grad
        equal(result, reference.input_gradient(problem, weights(conv), g))
        assert result.shape == data.shape
        dw = reference.weight_gradient(problem, x, g)
        equal(conv.vars["W"].grad, dw.reshape(w.shape))
        equal(conv.vars["b"].grad, reference.bias_gradient(g).reshape(b.shape))
        assert conv.data is y
        assert conv.inData is data
        for array, value in ((data, x), (grad, g), (conv.W, w), (conv.b, b)):
            equal(array, value)


def test_input_gradient_is_zero_where_no_window_reached(runtime, rng):
    conv = filled(Conv1D(**SPARSE), rng)
    conv.W.set(np.ones(conv.W.shape, np.float32))
    for length in (9, 10, 11, 12):
        y = conv(gpuarray.to_gpu(integers(rng, 2, 2, length)))
        windows = (length - 2) // 3 + 1
        assert y.shape == (2, 1, windows)
        grad = conv.backward(gpuarray.to_gpu(np.ones(y.shape, np.float32)))
        position = np.arange(length)
        reached = (position % 3 < 2) & (position // 3 < windows)
        equal(grad, np.broadcast_to(1.0 * reached, (2, 2, length)))


@pytest.mark.parametrize("scale", [1.0, -2.0])
@pytest.mark.parametrize("momentum", [0.0, 1.0, 0.5])
@both_classes
def test_scale_and_momentum(runtime, rng, layer, scale, momentum):
    conv = filled(made(layer), rng)
    x, g = pair(rng, conv)
    conv(x)
    old = {name: v.grad.get() for name, v in conv.vars.items()}
    plain = conv.backward(g).get()
    new = {name: v.grad.get() for name, v in conv.vars.items()}
    arrays = {name: v.grad for name, v in conv.vars.items()}
    for name, variable in conv.vars.items():
        variable.grad.set(old[name])
    equal(conv.backward(g, scale=scale, momentum=momentum), plain)
    for name, variable in conv.vars.items():
        equal(variable.grad, momentum * old[name] + scale * new[name])
        assert variable.grad is arrays[name]
    conv.backward(g, True, True, scale, momentum)
    for name, variable in conv.vars.items():
        equal(
            variable.grad, momentum * (momentum * old[name] + scale * new[name]) + scale * new[name]
        )


@both_classes
def test_old_gradient_is_not_read_without_momentum(runtime, rng, layer):
    conv = filled(made(layer), rng)
    x, g = pair(rng, conv)
    conv(x)
    conv.backward(g)
    expected = {name: v.grad.get() for name, v in conv.vars.items()}
    for wrong in (np.nan, np.inf):
        for variable in conv.vars.values():
            variable.grad.set(np.full(variable.grad.shape, wrong, np.float32))
        conv.backward(g)
        for name, variable in conv.vars.items():
            equal(variable.grad, expected[name])


@both_classes
def test_gradients_that_are_not_wanted(runtime, rng, layer):
    conv = filled(made(layer), rng)
    x, g = pair(rng, conv)
    conv(x)
    old = {name: v.grad.get() for name, v in conv.vars.items()}
    expected = conv.backward(g, updParamGrads=False).get()
    for name, variable in conv.vars.items():
        equal(variable.grad, old[name])
    assert conv.backward(g, updParamGrads=False, updGrad=False) is None
    assert conv.grad is None
    for name, variable in conv.vars.items():
        equal(variable.grad, old[name])
    conv.backward(g)
    equal(conv.grad, expected)
    new = {name: v.grad.get() for name, v in conv.vars.items()}
    for variable in conv.vars.values():
        variable.grad.fill(np.float32(7))
    conv.backward(g, updGrad=False)
    assert conv.grad is None
    for name, variable in conv.vars.items():
        equal(variable.grad, new[name])


@both_classes
def test_modes(runtime, rng, layer):
    conv = filled(made(layer), rng)
    x, g = pair(rng, conv)
    y, grad = conv(x).get(), conv.backward(g).get()
    gradients = {name: v.grad.get() for name, v in conv.vars.items()}
    for variable in conv.vars.values():
        variable.grad.fill(np.float32(3))

    conv.evalMode()
    assert conv.train is False
    assert (conv.inData, conv.data, conv.grad) == (None, None, None)
    with pytest.raises(ModuleError):
        conv.backward(g)
    equal(conv(x), y)
    equal(conv.backward(g), grad)
    for variable in conv.vars.values():
        equal(variable.grad, np.full(variable.grad.shape, 3, np.float32))

    conv.trainMode()
    assert conv.train is True
    assert (conv.inData, conv.data, conv.grad) == (None, None, None)
    equal(conv(x), y)
    equal(conv.backward(g), grad)
    for name, variable in conv.vars.items():
        equal(variable.grad, gradients[name])

    conv.reset()
    assert conv.train is True
    assert (conv.inData, conv.data, conv.grad) == (None, None, None)


@both_classes
def test_backward_before_forward(runtime, layer):
    conv = made(layer)
    g = gpuarray.zeros((2, conv.outmaps, 9))
    with pytest.raises(ModuleError):
        conv.backward(g)
    with pytest.raises(ModuleError):
        conv.backward(g, updParamGrads=False, updGrad=False)


@both_classes
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_wrong_gradient_messages_change_nothing(runtime, rng, layer, activation):
    conv = filled(made(layer, activation=activation), rng)
    conv(gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9)))
    conv.backward(gpuarray.to_gpu(integers(rng, 2, conv.outmaps, 9)))
    before = state_of(conv)
    for shape, dtype, message in (
        ((2, conv.outmaps), np.float16, "Grad must be 3d tensor"),
        ((2, conv.outmaps, 9, 1), np.float32, "Grad must be 3d tensor"),
        ((2, 7, 9), np.float16, f"Grad has 7 maps (expected: {conv.outmaps})"),
        ((2, conv.outmaps, 9), np.float16, "Expected dtype float32, got float16"),
        ((2, conv.outmaps, 9), np.float64, "Expected dtype float32, got float64"),
    ):
        grad = gpuarray.zeros(shape, dtype)
        assert message_of(conv.backward, grad) == message
        assert message_of(conv.backward, grad, updGrad=False, updParamGrads=False) == message
    for batch, length in ((1, 9), (3, 9), (0, 9), (2, 8), (2, 10), (2, 1)):
        message = message_of(conv.backward, gpuarray.zeros((batch, conv.outmaps, length)))
        wrong, right = (batch, 2) if length == 9 else (length, 9)
        assert str(wrong) in message
        assert str(right) in message
    assert_state(conv, before)


@both_classes
@pytest.mark.parametrize("argument", ["scale", "momentum"])
def test_scale_and_momentum_that_are_no_numbers(runtime, rng, layer, argument):
    conv = filled(made(layer), rng)
    conv(gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9)))
    before = state_of(conv)
    grad = gpuarray.to_gpu(integers(rng, 2, conv.outmaps, 9))
    for value in ("2", None, 1j):
        with pytest.raises(clconv.ClconvError) as caught:
            conv.backward(grad, **{argument: value})
        assert argument in str(caught.value)
        assert repr(value) in str(caught.value)
    assert_state(conv, before)


def run_out_of_memory(monkeypatch, runtime, layer, call, check=lambda: None):
    """Makes every allocation of a call fail in turn; the layer must not change."""
    allocate = runtime.memory.allocate
    for granted in range(50):
        left = [granted]
        before = state_of(layer)

        def limited(nbytes, left=left):
            if not left[0]:
                raise OutOfMemoryError(f"{nbytes} bytes asked for")
            left[0] -= 1
            return allocate(nbytes)

        with monkeypatch.context() as patch:
            patch.setattr(runtime.memory, "allocate", limited)
            try:
                call()
            except OutOfMemoryError:
                assert_state(layer, before)
            else:
                return granted
        check()
    raise AssertionError("never succeeds")


@both_classes
def test_out_of_memory_changes_nothing(runtime, rng, layer, monkeypatch):
    conv = filled(made(layer, activation="gelu"), rng)
    x = gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9))
    g = gpuarray.to_gpu(integers(rng, 2, conv.outmaps, 9))
    conv(x)
    conv.backward(g)
    expected = conv.grad.get()

    def check():  # what was kept for the gradient is still that of the last result
        equal(conv.backward(g), expected)

    assert run_out_of_memory(monkeypatch, runtime, conv, lambda: conv(x), check) >= 2
    assert run_out_of_memory(monkeypatch, runtime, conv, lambda: conv.backward(g)) >= 2
    for dtype in (np.float16, np.float32):
        needed = run_out_of_memory(monkeypatch, runtime, conv, lambda d=dtype: conv.calcMode(d))
        assert needed >= 4
        assert conv.calctype == conv.W.dtype == conv.b.dtype == dtype


# Activations

ACTIVATIONS = ["relu", "leaky_relu", ("leaky_relu", 0.25), "sigmoid", "tanh", "gelu", "silu"]

# Bounds of float32 in units of EPSILON, from the errors that OpenCL allows: exp 3 ulp, tanh 5,
# erfc 16, a quotient 2.5, and what a rounded argument does to them where |v| <= 4.
# Of the result, relative; of the derivative, absolute.
RESULT_BOUND = {"relu": 0, "leaky_relu": 2, "sigmoid": 8, "tanh": 6, "gelu": 40, "silu": 10}
SLOPE_BOUND = {"relu": 0, "leaky_relu": 1, "sigmoid": 10, "tanh": 14, "gelu": 30, "silu": 48}


def eighths(layer, rng):
    """The layer with multiples of 1/8, so that its sums are exact and at most 4."""
    for variable, most in ((layer.vars["W"], 5), (layer.vars["b"], 2)):
        variable.data.set(integers(rng, *variable.data.shape, most=most) / np.float32(8))
    return layer


def within(device_array, expected, bound):
    got = device_array.get()
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= bound).all(), np.abs(got - expected).max()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(runtime, rng, activation):
    name, slope = activation if isinstance(activation, tuple) else (activation, 0.01)
    conv = eighths(Conv1D(**PLAIN, activation=activation), rng)
    w, b = weights(conv), bias(conv)
    x, g = integers(rng, 2, conv.inmaps, 11, most=1), integers(rng, 2, conv.outmaps, 11)
    problem = problem_of(conv, x.shape)
    v = reference.conv1d(problem, x, w, b)
    assert np.abs(v).max() <= 4
    assert v.min() < -1
    assert v.max() > 1
    expected = reference.activate(name, v, slope)
    slopes = reference.activation_derivative(name, v, slope)
    through = g * slopes
    # The products and sums of the gradients, beside the error of the derivative.
    error = np.abs(g) * (SLOPE_BOUND[name] * EPSILON)
    if name != "relu":
        error += 2 * EPSILON * np.abs(through)
    sums = 0 if name == "relu" else 64 * EPSILON

    def bounded(gradient, *before):
        magnitude = gradient(problem, *[np.abs(a) for a in before], np.abs(through))
        return gradient(problem, *[np.abs(a) for a in before], error) + sums * magnitude

    data, grad = gpuarray.to_gpu(x), gpuarray.to_gpu(g)
    for variable in conv.vars.values():
        variable.grad.fill(np.float32(5))
    conv.evalMode()
    within(conv(data), expected, np.abs(expected) * RESULT_BOUND[name] * EPSILON)
    in_bound = bounded(reference.input_gradient, w)
    within(conv.backward(grad), reference.input_gradient(problem, w, through), in_bound)
    for variable in conv.vars.values():
        equal(variable.grad, np.full(variable.grad.shape, 5, np.float32))

    conv.trainMode()
    within(conv(data), expected, np.abs(expected) * RESULT_BOUND[name] * EPSILON)
    within(conv.backward(grad), reference.input_gradient(problem, w, through), in_bound)
    within(
        conv.vars["W"].grad,
        reference.weight_gradient(problem, x, through).reshape(conv.W.shape),
        bounded(reference.weight_gradient, x).reshape(conv.W.shape),
    )
    within(
        conv.vars["b"].grad.ravel(),
        reference.bias_gradient(through),
        reference.bias_gradient(error) + sums * reference.bias_gradient(np.abs(through)),
    )


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_gradient_belongs_to_the_last_forward(runtime, rng, activation):
    conv = eighths(Conv1D(**PLAIN, activation=activation), rng)
    fresh = Conv1D(**PLAIN, activation=activation)
    for name in ("W", "b"):
        fresh.getVar(name).set(conv.getVar(name))
    first, second = (gpuarray.to_gpu(integers(rng, n, 2, 11, most=1)) for n in (3, 2))
    g = gpuarray.to_gpu(integers(rng, 2, conv.outmaps, 11))
    conv(first)
    conv(second)
    with pytest.raises(ModuleError):
        conv(gpuarray.zeros((3, 7, 11)))
    fresh(second)
    equal(conv.backward(g), fresh.backward(g).get())
    equal(conv.vars["W"].grad, fresh.vars["W"].grad.get())
    for layer in (conv, fresh):  # the same gradient again: nothing is used up
        equal(layer.backward(g), fresh.grad.get())


def test_deconv_with_activations(runtime, rng):
    x = integers(rng, 2, 1, 9, most=1)
    for activation in ("relu", "gelu"):
        deconv = eighths(made(Deconv1D, TINY, activation=activation), rng)
        w = torch.tensor(weights(deconv), dtype=torch.float64, requires_grad=True)
        b = torch.tensor(bias(deconv), dtype=torch.float64, requires_grad=True)
        tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        ty = torch.nn.functional.conv_transpose1d(tx, w, b, padding=1)
        assert ty.abs().max() <= 4
        ty = torch.nn.functional.gelu(ty) if activation == "gelu" else torch.relu(ty)
        g = integers(rng, *ty.shape)
        ty.backward(torch.tensor(g, dtype=torch.float64))
        # No sum has more than 18 terms of at most 4; those of relu are exact.
        bound = 0 if activation == "relu" else 18 * 4 * 64 * EPSILON
        for mode in (deconv.evalMode, deconv.trainMode):
            mode()
            within(deconv(gpuarray.to_gpu(x)), ty.detach().numpy(), bound)
            within(deconv.backward(gpuarray.to_gpu(g)), tx.grad.numpy(), bound)
        within(deconv.vars["W"].grad, w.grad.numpy().reshape(deconv.W.shape), bound)
        within(deconv.vars["b"].grad.ravel(), b.grad.numpy(), bound)


# Calculation modes


@both_classes
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_calc_mode(runtime, rng, layer, dtype):
    conv = filled(made(layer, TINY, useBias=layer is Conv1D), rng, most=2)
    values = {name: (v.data.get(), v.grad.get()) for name, v in conv.vars.items()}
    x = integers(rng, 2, conv.inmaps, 9, most=2)
    g = integers(rng, *conv.dataShapeFrom(x.shape), most=2)
    data, grad = gpuarray.to_gpu(x), gpuarray.to_gpu(g)
    y, dx = conv(data).get(), conv.backward(grad, momentum=1.0).get()
    new = {name: v.grad.get() for name, v in conv.vars.items()}
    for name, variable in conv.vars.items():
        variable.grad.set(values[name][1])
    if dtype == np.float64 and not runtime.profile.fp64:
        before = state_of(conv)
        assert message_of(conv.calcMode, np.float64) == f"Unsupported dtype {np.float64}"
        assert_state(conv, before)
        return
    variables = dict(conv.vars)
    conv.calcMode(dtype)
    assert conv.inData is conv.data is conv.grad is None  # of the dtype before
    assert conv.calctype == dtype
    assert conv.vars == variables
    for name, variable in conv.vars.items():
        assert variable.data.dtype == variable.grad.dtype == dtype
        equal(variable.data, values[name][0])
        equal(variable.grad, values[name][1])
    expected = f"Expected dtype {np.dtype(dtype)}, got float32"
    assert message_of(conv, data) == expected
    result = conv(gpuarray.to_gpu(x.astype(dtype)))
    assert result.dtype == dtype
    equal(result, y)
    assert message_of(conv.backward, grad) == expected
    result = conv.backward(gpuarray.to_gpu(g.astype(dtype)), momentum=1.0)
    assert result.dtype == dtype
    equal(result, dx)
    for name, variable in conv.vars.items():
        assert variable.grad.dtype == dtype
        equal(variable.grad, new[name])
    conv.updateParams(0.5)
    for name, variable in conv.vars.items():
        equal(variable.data, values[name][0] + 0.5 * new[name])
    conv.zeroGradParams()
    conv.calcMode(np.float32)
    for name, variable in conv.vars.items():
        assert variable.data.dtype == variable.grad.dtype == np.float32
        equal(variable.data, values[name][0] + 0.5 * new[name])
        assert not variable.grad.get().any()


@pytest.mark.parametrize("mode", [np.float32, np.dtype(np.float32), "float32"], ids=repr)
def test_same_calc_mode_changes_nothing(runtime, rng, mode):
    conv = filled(Conv1D(**TINY), rng)
    conv(gpuarray.to_gpu(integers(rng, 2, 2, 9)))
    before = state_of(conv)
    conv.calcMode(mode)
    assert_state(conv, before)
    conv.calcMode(np.float16)
    conv(gpuarray.to_gpu(integers(rng, 2, 2, 9, dtype=np.float16)))
    before = state_of(conv)
    conv.calcMode(np.float16)
    assert_state(conv, before)


@both_classes
@pytest.mark.parametrize(
    "mode", [np.int32, np.dtype(np.int32), "complex64", "nonsense", None, 3], ids=repr
)
def test_unsupported_calc_mode(runtime, rng, layer, mode):
    conv = filled(made(layer), rng)
    conv(gpuarray.to_gpu(integers(rng, 2, conv.inmaps, 9)))
    before = state_of(conv)
    assert message_of(conv.calcMode, mode) == f"Unsupported dtype {mode}"
    assert_state(conv, before)


def test_float16_rounds_to_nearest_even(runtime, rng):
    conv = Conv1D(**PLAIN)
    w = rng.standard_normal(conv.W.shape).astype(np.float32)
    w.ravel()[:6] = [1 + 2**-11, 1 + 3 * 2**-11, 1e-7, 7e4, 2**-24 * 1.5, -0.0]
    conv.W.set(w)
    conv.calcMode(np.float16)
    with np.errstate(over="ignore"):
        expected = w.astype(np.float16)
    got = conv.W.get()
    np.testing.assert_array_equal(got.view(np.uint16), expected.view(np.uint16))


def test_float64_is_rounded_once(runtime):
    """A little more than half a unit of float16, which float32 would make half of one."""
    if not runtime.profile.fp64:
        pytest.skip(f"{runtime.info.name} has no float64")
    values = np.array([1 + 2**-11 + 2**-40, 1 + 3 * 2**-11 - 2**-40, -1 - 2**-11 - 2**-40])
    variable = Variable(gpuarray.to_gpu(values))
    variable.calcMode(np.float16)
    equal(variable.data, values.astype(np.float16))


def test_float16_sums_in_float32(runtime):
    conv = Conv1D(**TINY)
    conv.calcMode(np.float16)
    conv.W.set(np.ones((1, 2, 1, 2), np.float16))
    x = np.zeros((1, 2, 9), np.float16)
    x[0, :, 4:6] = [[2048, 1], [0, -2048]]  # 2048 + 1 is no float16
    expected = np.zeros((1, 1, 10))
    expected[0, 0, 4:7] = [2048, 1, -2047]
    equal(conv(gpuarray.to_gpu(x)), expected)
    # 4096 ones: a sum in float16 would stay at 2048
    conv(gpuarray.to_gpu(np.ones((64, 2, 64), np.float16)))
    conv.backward(gpuarray.to_gpu(np.ones((64, 1, 65), np.float16)))
    equal(conv.vars["W"].grad, np.full((1, 2, 1, 2), 4096))
    equal(conv.vars["b"].grad, np.full((1, 1, 1, 1), 4160))


def test_float64_sums_in_float64(runtime):
    if not runtime.profile.fp64:
        assert "Unsupported dtype" in message_of(Conv1D(**TINY).calcMode, np.float64)
        return
    conv = Conv1D(**TINY)
    conv.calcMode(np.float64)
    conv.W.set(np.ones((1, 2, 1, 2)))
    large = 2.0**40 + 1
    x = np.zeros((1, 2, 9))
    x[0, :, 4] = [large, -1]
    expected = np.zeros((1, 1, 10))
    expected[:, :, 4:6] = large - 1
    equal(conv(gpuarray.to_gpu(x)), expected)
    g = np.full((1, 1, 10), large)
    equal(conv.backward(gpuarray.to_gpu(g)), np.full((1, 2, 9), 2 * large))
    equal(conv.vars["b"].grad, np.full((1, 1, 1, 1), 10 * large))
    expected = np.array([large, -1]).reshape(1, 2, 1, 1).repeat(2, axis=3)
    equal(conv.vars["W"].grad, expected * large)


# Choice of tiles


@both_classes
def test_optimize_for_shape(runtime, rng, layer):
    conv = filled(made(layer, TINY), rng)
    shapes = [(2, conv.inmaps, 9), (5, conv.inmaps, 40)]
    xs = [gpuarray.to_gpu(integers(rng, *shape)) for shape in shapes]
    gs = [gpuarray.to_gpu(integers(rng, *conv.dataShapeFrom(shape))) for shape in shapes]

    def results():
        found = []
        for x, g in zip(xs, gs, strict=True):
            found += [conv(x).get(), conv.backward(g).get()]
            found += [v.grad.get() for v in conv.vars.values()]
        return found

    expected = results()
    before = state_of(conv)
    assert "memlimit" in message_of(conv.optimizeForShape, shapes[1], memlimit=-1)
    conv.optimizeForShape(shapes[1], 0)
    conv.optimizeForShape(shapes[1])
    assert_state(conv, before)
    for a, b in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    conv.optimizeForShape(shapes[0], memlimit=2**20)
    for a, b in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    conv.optimizeForShape((0, *shapes[0][1:]))
    assert message_of(conv.optimizeForShape, (2, 7, 9)) == (
        f"Data has 7 maps (expected: {conv.inmaps})"
    )
    assert message_of(conv.optimizeForShape, (2, 9)) == "Data must be 3d tensor"


def test_memlimit_counts_the_kept_pre_activation(runtime):
    shape = (8, 2, 64)
    conv = Conv1D(**TINY, activation="gelu")
    kept = 8 * 1 * 65 * 4
    Conv1D(**TINY, activation="relu").optimizeForShape(shape, memlimit=kept - 1)
    assert "memlimit" in message_of(conv.optimizeForShape, shape, memlimit=kept - 1)
    conv.evalMode()  # nothing is kept
    conv.optimizeForShape(shape, memlimit=kept - 1)


# Deconv1D

DECONVOLUTIONS = {
    "plain": dict(PLAIN, inmaps=3, outmaps=2),
    "grouped with postpad": {
        "inmaps": 4,
        "outmaps": 2,
        "size": 3,
        "stride": 2,
        "pad": 1,
        "postpad": 1,
        "groups": 2,
    },
    "postpad of at least the stride": {
        "inmaps": 1,
        "outmaps": 2,
        "size": 2,
        "stride": 2,
        "pad": 1,
        "dilation": 4,
        "postpad": 3,
    },
    "postpad without pad, stride 1": {
        "inmaps": 1,
        "outmaps": 2,
        "size": 2,
        "dilation": 3,
        "postpad": 2,
    },
    "depthwise with gaps": {
        "inmaps": 3,
        "outmaps": 3,
        "size": 2,
        "stride": 3,
        "postpad": 2,
        "groups": 3,
    },
}


@pytest.mark.parametrize("name", DECONVOLUTIONS)
def test_deconv(runtime, rng, name):
    arguments = DECONVOLUTIONS[name]
    deconv = filled(Deconv1D(**arguments), rng)
    old = {key: v.grad.get() for key, v in deconv.vars.items()}
    for batch, length in ((2, 7), (1, 3)):
        x = integers(rng, batch, deconv.inmaps, length)
        tensors = [
            torch.tensor(a, dtype=torch.float64, requires_grad=True)
            for a in (x, weights(deconv), bias(deconv))
        ]
        expected = torch.nn.functional.conv_transpose1d(
            *tensors, deconv.stride, deconv.pad, arguments.get("postpad", 0), deconv.groups,
            deconv.dilation,
        )  # fmt: skip
        out = (
            (length - 1) * deconv.stride
            + deconv.dilation * (deconv.size - 1)
            - 2 * deconv.pad
            + 1
            + arguments.get("postpad", 0)
        )
        data = gpuarray.to_gpu(x)
        result = deconv(data)
        equal(result, expected.detach().numpy())
        assert result.shape == (batch, deconv.outmaps, out)
        assert deconv.dataShapeFrom(x.shape) == result.shape
        assert deconv.gradShapeFrom(result.shape) == x.shape
        assert deconv.data is result
        assert deconv.inData is data

        g = integers(rng, *result.shape)
        expected.backward(torch.tensor(g, dtype=torch.float64))
        for key, variable in deconv.vars.items():
            variable.grad.set(old[key])
        assert deconv.backward(gpuarray.to_gpu(g), momentum=2.0, scale=3.0) is deconv.grad
        dx, dw, db = (t.grad.numpy() for t in tensors)
        equal(deconv.grad, dx)
        equal(deconv.vars["W"].grad, 2 * old["W"] + 3 * dw.reshape(deconv.W.shape))
        equal(deconv.vars["b"].grad, 2 * old["b"] + 3 * db.reshape(deconv.b.shape))


def test_deconv_without_bias(runtime, rng):
    deconv = filled(Deconv1D(**DECONVOLUTIONS["grouped with postpad"], useBias=False), rng)
    x = integers(rng, 2, 4, 7)
    expected = torch.nn.functional.conv_transpose1d(
        torch.tensor(x).double(), torch.tensor(weights(deconv)).double(), None, 2, 1, 1, 2
    )
    equal(deconv(gpuarray.to_gpu(x)), expected.numpy())


@pytest.mark.parametrize(
    ("stride", "dilation", "postpad"), [(1, 1, 1), (2, 1, 2), (1, 3, 3), (2, 3, 7)]
)
def test_postpad_too_large(runtime, stride, dilation, postpad):
    arguments = {"stride": stride, "dilation": dilation}
    expected = "Postpad must be smaller than stride and dilation"
    assert message_of(Deconv1D, 2, 2, 2, postpad=postpad, **arguments) == expected
    allowed = Deconv1D(2, 2, 2, postpad=max(stride, dilation) - 1, **arguments)
    assert allowed.dataShapeFrom((1, 2, 4))[2] == (
        3 * stride + dilation + 1 + max(stride, dilation) - 1
    )


def test_wrong_data_messages_of_deconv(runtime, rng):
    deconv = filled(Deconv1D(4, 6, 1, stride=2, pad=2, groups=2), rng)
    before = state_of(deconv)
    for shape, dtype, message in (
        ((2, 5), np.float16, "Data must be 3d tensor"),
        ((2, 5, 1), np.float16, "Data has 5 maps (expected: 4)"),
        ((2, 4, 2), np.float16, "Data maps size is too small (got 2, expected at least 3)"),
        ((2, 4, 3), np.float16, "Expected dtype float32, got float16"),
    ):
        assert message_of(deconv, gpuarray.zeros(shape, dtype)) == message
    assert_state(deconv, before)
    assert deconv.dataShapeFrom((2, 4, 3)) == (2, 6, 1)
    assert message_of(Deconv1D(4, 6, 3), gpuarray.zeros((2, 4, 0))) == (
        "Data maps size is too small (got 0, expected at least 1)"
    )


# Variable


def test_variable_defaults(runtime):
    data = gpuarray.to_gpu(np.arange(6, dtype=np.float32).reshape(2, 3))
    first, second = Variable(data), Variable(data)
    assert first.data is data
    assert first.grad.shape == (2, 3)
    assert first.grad.dtype == np.float32
    assert first.grad is not second.grad
    equal(first.grad, np.zeros((2, 3), np.float32))
    assert (first.learnRate, first.momRate, first.wc) == (1.0, 1.0, 0.0)
    assert first.hasUpdater is False
    assert int(second.name) == int(first.name) + 1
    assert Variable(data, "named").name == "named"
    assert Variable(data, withgrad=False).grad is None
    grad = gpuarray.zeros((2, 3))
    assert Variable(data, grad=grad).grad is grad
    half = Variable(gpuarray.zeros((4,), np.float16))
    assert half.grad.dtype == np.float16
    assert len({first: 1, second: 2}) == 2


def test_variable_has_puzzlelibs_arguments_in_its_order():
    assert list(parameters_of(inspect.signature(Variable)).items()) == [
        ("data", inspect.Parameter.empty),
        ("name", None),
        ("withgrad", True),
        ("grad", None),
        ("updater", None),
        ("postUpdater", None),
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda data: Variable([1.0, 2.0]),
        lambda data: Variable(data, grad=gpuarray.zeros((3, 2))),
        lambda data: Variable(data, grad=gpuarray.zeros((2, 3), np.float16)),
    ],
    ids=["list", "shape", "dtype"],
)
def test_variable_of_wrong_arrays(runtime, make):
    with pytest.raises(ModuleError):
        make(gpuarray.zeros((2, 3)))


def test_variable_set_copies(runtime, rng):
    def variable(**named):
        data = integers(rng, 2, 3)
        return Variable(gpuarray.to_gpu(data), **named)

    first = variable(grad=gpuarray.to_gpu(integers(rng, 2, 3)), name="first")
    second = variable(grad=gpuarray.to_gpu(integers(rng, 2, 3)), name="second")
    data, grad = first.data, first.grad
    expected = second.data.get(), second.grad.get()
    first.set(second)
    assert first.data is data
    assert first.grad is grad
    assert first.name == "first"
    equal(data, expected[0])
    equal(grad, expected[1])
    first.data.fill(np.float32(9))
    first.grad.fill(np.float32(9))
    equal(second.data, expected[0])
    equal(second.grad, expected[1])

    without = variable(withgrad=False)
    without.set(second)
    equal(without.data, expected[0])
    assert without.grad is None
    third, other = variable(grad=gpuarray.to_gpu(integers(rng, 2, 3) + 9)), variable(withgrad=False)
    third.set(other)
    equal(third.data, other.data.get())
    assert not third.grad.get().any()

    before = first.data.get(), first.grad.get()
    for wrong in (
        Variable(gpuarray.zeros((3, 2))),
        Variable(gpuarray.zeros((2, 3), np.float16)),
        Variable(gpuarray.zeros((6,))),
    ):
        with pytest.raises(ModuleError):
            first.set(wrong)
    equal(first.data, before[0])
    equal(first.grad, before[1])


def test_variables_of_two_contexts(runtime):
    other = clconv.Runtime(runtime.device)
    foreign = other.to_device(np.ones((2, 3), np.float32))
    with pytest.raises(DeviceError) as caught:
        Variable(gpuarray.zeros((2, 3)), grad=foreign)
    assert_names_both(caught, runtime, other)
    variable = Variable(gpuarray.zeros((2, 3)))
    with pytest.raises(DeviceError) as caught:
        variable.set(Variable(foreign))
    assert_names_both(caught, runtime, other)
    equal(variable.data, np.zeros((2, 3)))


def test_variable_update(runtime):
    variable = Variable(gpuarray.to_gpu(np.array([1, 2, 3], np.float32)))
    variable.grad.set(np.array([4, 0, -2], np.float32))
    variable.update(0.5)
    equal(variable.data, [3, 2, 2])
    variable.learnRate = 0.25
    variable.update(2.0)
    equal(variable.data, [5, 2, 1])
    equal(variable.grad, [4, 0, -2])
    Variable(gpuarray.zeros((3,)), withgrad=False).update(1.0)


def test_variable_with_its_own_update(runtime):
    calls = []

    def updater(variable, rate):
        calls.append(("updater", variable, rate))

    def post(variable):
        calls.append(("post", variable))

    conv = Conv1D(**PLAIN)
    w = Variable(conv.vars["W"].data, updater=updater, postUpdater=post)
    b = Variable(conv.vars["b"].data, postUpdater=post)
    assert w.hasUpdater is True
    assert b.hasUpdater is False
    conv.setVar("W", w)
    conv.setVar("b", b)
    values = conv.W.get()
    w.grad.fill(np.float32(1))
    b.grad.fill(np.float32(1))
    conv.updateParams(0.5)
    assert calls == [("updater", w, 0.5), ("post", w), ("post", b)]
    equal(w.data, values)
    equal(b.data, np.full((1, 3, 1, 1), 0.5))


def test_variable_without_elements(runtime):
    variable, other = (Variable(gpuarray.zeros((0, 3))) for _ in range(2))
    variable.set(other)
    variable.update(1.0)
    variable.zeroGrad()
    variable.calcMode(np.float16)
    assert variable.data.shape == variable.grad.shape == (0, 3)
    assert variable.data.dtype == variable.grad.dtype == np.float16


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_variable_that_is_a_view(runtime, dtype):
    """What the library does to parameters runs on strided views too, and on nothing beside."""
    whole = np.arange(24, dtype=dtype).reshape(4, 6)
    data = gpuarray.to_gpu(whole)
    grads = gpuarray.to_gpu(-whole)
    view = np.s_[1:3, ::2]
    variable = Variable(data[view], grad=grads[view])
    variable.update(2.0)
    expected = whole.copy()
    expected[view] *= -1
    np.testing.assert_array_equal(gpuarray.copy(variable.data).get(), expected[view])
    equal(data, expected)
    variable.zeroGrad()
    np.testing.assert_array_equal(gpuarray.copy(variable.grad).get(), np.zeros((2, 3)))
    cleared = -whole
    cleared[view] = 0
    equal(grads, cleared)
    other = Variable(gpuarray.to_gpu(np.full((2, 3), 5, dtype)))
    other.set(variable)
    equal(other.data, expected[view])
    other.data.set(np.full((2, 3), 9, dtype))
    variable.set(other)
    expected[view] = 9
    equal(data, expected)
    target = np.float16 if dtype == np.float32 else np.float32
    variable.calcMode(target)
    assert variable.data.dtype == variable.grad.dtype == target
    np.testing.assert_array_equal(gpuarray.copy(variable.data).get(), expected[view])
    equal(data, expected)
