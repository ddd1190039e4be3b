"""The functions at their border: layouts, queues, contexts, out, and what bad input gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pytest

import clconv
from clconv import Conv1dProblem, DeviceError, Epilogue, Pass, ProblemError, Runtime, reference
from clconv import functional as F
from clconv.errors import ClconvError

PROBLEM = Conv1dProblem(2, 4, 37, 6, 3, 2, 1, 1, 2)
OPTIONS = {"stride": 2, "padding": 1, "groups": 2}


@pytest.fixture
def data(rng):
    """Integer arrays of PROBLEM: x, weight, bias, grad."""
    shapes = (PROBLEM.input_shape, PROBLEM.weight_shape, (6,), PROBLEM.output_shape)
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


def test_numpy_in_numpy_out(runtime, data):
    x, weight, bias, grad = data
    y = F.conv1d(x, weight, bias, **OPTIONS)
    assert type(y) is np.ndarray
    assert np.array_equal(y, reference.conv1d(PROBLEM, x, weight, bias))
    gx, gw, gb = F.conv1d_backward(x, weight, grad, **OPTIONS)
    assert np.array_equal(gx, reference.input_gradient(PROBLEM, weight, grad))
    assert np.array_equal(gw, reference.weight_gradient(PROBLEM, x, grad))
    assert np.array_equal(gb, reference.bias_gradient(grad))
    assert np.array_equal(F.conv1d_input(x.shape, weight, grad, **OPTIONS), gx)
    assert np.array_equal(F.conv1d_weight(x, weight.shape, grad, **OPTIONS), gw)
    assert np.array_equal(F.conv1d_bias(grad), gb)


def test_positional_arguments(runtime, data):
    """stride, padding, dilation, groups follow in PyTorch's order."""
    x, weight, bias, grad = data
    y = F.conv1d(x, weight, bias, 2, 1, 1, 2)
    assert np.array_equal(y, reference.conv1d(PROBLEM, x, weight, bias))
    assert np.array_equal(
        F.conv1d_input(x.shape, weight, grad, 2, 1, 1, 2),
        reference.input_gradient(PROBLEM, weight, grad),
    )


@pytest.mark.parametrize("variant", ["strip", "direct"])
@pytest.mark.parametrize("given", [(), (1,), (2,), (1, 2)])
def test_weight_and_bias_gradients_together(runtime, data, variant, given):
    """By one pass over the data or two: each out accumulates on its own."""
    x, weight, _, grad = data
    if variant not in clconv.variants(PROBLEM, Pass.WEIGHT_GRADIENT):
        pytest.skip(f"{runtime.info.name} has too little local memory for {variant}")
    plan = runtime.plans(PROBLEM, Pass.WEIGHT_GRADIENT, Epilogue(bias=True), variant)[0]
    assert plan.sums_bias == (variant == "strip")
    old = (None, np.full(weight.shape, 7, np.float32), np.arange(6, dtype=np.float32))
    out = [old[i].copy() if i in given else None for i in range(3)]
    _, gw, gb = F.conv1d_backward(
        x, weight, grad, **OPTIONS, variant=variant, need=(False, True, True), out=out,
        scale=2, momentum=3,
    )  # fmt: skip
    for i, got, sums in (
        (1, gw, reference.weight_gradient(PROBLEM, x, grad)),
        (2, gb, reference.bias_gradient(grad)),
    ):
        assert np.array_equal(got, 2 * sums + (3 * old[i] if i in given else 0))


def test_a_choice_that_is_none(data):
    """A tile alone names no plan: silently taking another would hide it."""
    tile = clconv.default_runtime().plans(PROBLEM, Pass.FORWARD)[-1].tile
    with pytest.raises(ProblemError, match=r"variant of forward is .* expected a plan's choice"):
        F.conv1d(*data[:2], **OPTIONS, variant={Pass.FORWARD: tile})


def test_unbatched(runtime, data):
    x, weight, bias, grad = data
    one = Conv1dProblem(1, 4, 37, 6, 3, 2, 1, 1, 2)
    y = F.conv1d(x[0], weight, bias, **OPTIONS)
    assert y.shape == one.output_shape[1:]
    assert np.array_equal(y, reference.conv1d(one, x[:1], weight, bias)[0])
    gx, gw, gb = F.conv1d_backward(x[0], weight, grad[0], **OPTIONS)
    assert gx.shape == x[0].shape
    assert np.array_equal(gx, reference.input_gradient(one, weight, grad[:1])[0])
    assert np.array_equal(gw, reference.weight_gradient(one, x[:1], grad[:1]))
    assert np.array_equal(gb, reference.bias_gradient(grad[:1]))
    assert F.conv1d_input((4, 37), weight, grad[0], **OPTIONS).shape == (4, 37)


@pytest.mark.parametrize("padding", ["same", "valid", 2, (0, 3)])
def test_paddings(runtime, rng, padding):
    problem = Conv1dProblem(2, 3, 20, 4, 4, 1, padding, 2)
    x = rng.integers(-4, 5, problem.input_shape).astype(np.float32)
    weight = rng.integers(-4, 5, problem.weight_shape).astype(np.float32)
    y = F.conv1d(x, weight, padding=padding, dilation=2)
    assert np.array_equal(y, reference.conv1d(problem, x, weight))
    gx, gw, _ = F.conv1d_backward(x, weight, y, padding=padding, dilation=2)
    assert np.array_equal(gx, reference.input_gradient(problem, weight, y))
    assert np.array_equal(gw, reference.weight_gradient(problem, x, y))


def test_zero_batch(runtime):
    """An empty result, and gradients of zero."""
    x, grad = np.zeros((0, 4, 37), np.float32), np.zeros((0, 6, 19), np.float32)
    weight = np.ones(PROBLEM.weight_shape, np.float32)
    assert F.conv1d(x, weight, **OPTIONS).shape == (0, 6, 19)
    gx, gw, gb = F.conv1d_backward(x, weight, grad, **OPTIONS)
    assert gx.shape == (0, 4, 37)
    assert gw.shape == weight.shape
    assert not gw.any()
    assert not gb.any()
    out = np.full(weight.shape, 3, np.float32)
    F.conv1d_weight(x, weight.shape, grad, **OPTIONS, out=out, momentum=2.0)
    assert (out == 6).all()
    assert F.conv_transpose1d(grad, weight, **OPTIONS).shape == (0, 4, 37)


def _views(runtime, array):
    """Device arrays of the same values: whole, at an offset, steps in each dimension."""
    n, c, length = array.shape
    yield runtime.to_device(array)
    shifted = np.zeros((n + 1, c, length), array.dtype)
    shifted[1:] = array
    yield runtime.to_device(shifted)[1:]
    wide = np.full((2 * n, c + 3, length + 2), np.nan, array.dtype)
    wide[::2, 2 : c + 2, 1:-1] = array
    yield runtime.to_device(wide)[::2, 2 : c + 2, 1:-1]
    stepped = np.full((n, c, 3 * length), np.nan, array.dtype)
    stepped[:, :, ::3] = array
    yield runtime.to_device(stepped)[:, :, ::3]
    turned = np.ascontiguousarray(array.transpose(2, 1, 0))
    yield runtime.to_device(turned).transpose((2, 1, 0))


def test_views(runtime, data):
    """Whatever their layout, arrays of the same values give the same bits."""
    x, weight, bias, grad = data
    whole = [runtime.to_device(a) for a in data]
    y = F.conv1d(*whole[:3], **OPTIONS).get()
    expected = [g.get() for g in F.conv1d_backward(whole[0], whole[1], whole[3], **OPTIONS)]
    assert np.array_equal(y, reference.conv1d(PROBLEM, x, weight, bias))
    for x_view, w_view, g_view in zip(
        *(_views(runtime, a) for a in (x, weight, grad)), strict=True
    ):
        assert np.array_equal(F.conv1d(x_view, w_view, whole[2], **OPTIONS).get(), y)
        for ours, want in zip(
            F.conv1d_backward(x_view, w_view, g_view, **OPTIONS), expected, strict=True
        ):
            assert np.array_equal(ours.get(), want)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_views_of_few_positions(runtime, rng, length):
    """Every second sample, however few there are: only one alone has no stride."""
    problem = Conv1dProblem(2, 3, length, 4, 1)
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    wide = [rng.integers(-4, 5, (*shape[:2], 2 * shape[2])).astype(np.float32) for shape in shapes]
    x, weight, grad = (array[:, :, ::2] for array in wide)
    views = [runtime.to_device(array)[:, :, ::2] for array in wide]
    y = F.conv1d(*views[:2], residual=views[2])
    assert np.array_equal(y.get(), reference.conv1d(problem, x, weight) + grad)
    gx, gw, gb = F.conv1d_backward(*views)
    assert np.array_equal(gx.get(), reference.input_gradient(problem, weight, grad))
    assert np.array_equal(gw.get(), reference.weight_gradient(problem, x, grad))
    assert np.array_equal(gb.get(), reference.bias_gradient(grad))


# For each variant one at least that it serves, and some vectors of positions beside a remainder.
IN_PLACES = {
    "dense": Conv1dProblem(3, 4, 150, 6, 3, 1, 1, 1, 2),
    "strided": Conv1dProblem(3, 4, 150, 6, 3, 2, 1, 1, 2),
    "depthwise": Conv1dProblem(3, 4, 150, 4, 3, 1, 1, 1, 4),
}
PLACED = pytest.mark.parametrize("problem", IN_PLACES.values(), ids=list(IN_PLACES))


@PLACED
def test_views_of_what_is_added(each_cpu, rng, problem):
    """A bias in the midst of its buffer, a residual with a batch stride of its own."""
    assert {"strip", "direct"} <= _check_views_of_what_is_added(each_cpu, rng, problem)


# One of them: transforms for GPUs have many kernels.
@pytest.mark.parametrize("problem", list(PLACED.args[1])[:1])
def test_views_of_what_is_added_as_on_a_gpu(gpu_runtime, rng, problem):
    assert {"window", "gemm"} <= _check_views_of_what_is_added(gpu_runtime, rng, problem)


def _check_views_of_what_is_added(runtime, rng, problem):
    """By every variant, forward and transposed; their names."""

    def integers(*shape):
        return rng.integers(-4, 5, shape).astype(np.float32)

    geometry = {"stride": problem.stride, "padding": problem.pads, "groups": problem.groups}
    weight, seen = integers(*problem.weight_shape), set()
    for pass_, (read, written) in {
        Pass.FORWARD: (problem.input_shape, problem.output_shape),
        Pass.INPUT_GRADIENT: (problem.output_shape, problem.input_shape),
    }.items():
        batch, channels, length = written
        x, bias, wide = integers(*read), integers(channels + 9), integers(2 * batch, *written[1:])
        if pass_ is Pass.FORWARD:
            call, sums = F.conv1d, reference.conv1d(problem, x, weight)
        else:
            call, sums = F.conv_transpose1d, reference.input_gradient(problem, weight, x)
            geometry["output_padding"] = (length + 2 - 3) % problem.stride
        arrays = runtime.to_device(x), runtime.to_device(weight), runtime.to_device(bias)[4:-5]
        steps = slice(1, None, 2), slice(None, None, -2)
        with_bias = sums + bias[4:-5, None]
        for variant in clconv.variants(problem, pass_, runtime):
            options = {**geometry, "variant": variant}
            assert np.array_equal(call(*arrays, **options).get(), with_bias), variant
            for step in steps:
                y = call(*arrays, **options, residual=runtime.to_device(wide)[step])
                assert np.array_equal(y.get(), with_bias + wide[step]), variant
            seen.add(variant)
    return seen


@PLACED
def test_gradients_in_the_midst_of_a_buffer(each_cpu, rng, problem):
    """Outs at offsets of their own, of one share and of many, and nothing beside them changes."""
    assert {"strip", "direct"} <= _check_gradients_in_places(each_cpu, rng, problem)


@PLACED
def test_gradients_in_the_midst_of_a_buffer_as_on_a_gpu(gpu_runtime, rng, problem):
    assert {"window", "gemm"} <= _check_gradients_in_places(gpu_runtime, rng, problem)


def _check_gradients_in_places(runtime, rng, problem):
    """By every variant; their names."""
    seen = set()
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    for one in (problem, replace(problem, batch=1, length=5)):
        x, grad = (
            rng.integers(-4, 5, shape).astype(np.float32)
            for shape in (one.input_shape, one.output_shape)
        )
        sums = reference.weight_gradient(one, x, grad), reference.bias_gradient(grad)
        weight = runtime.zeros(one.weight_shape)
        for variant in clconv.variants(one, Pass.WEIGHT_GRADIENT, runtime):
            whole = [runtime.zeros((5, *array.shape)) for array in sums]
            for array in whole:
                array.fill(np.float32(8))
            outs = whole[0][3], whole[1][2]
            F.conv1d_backward(
                runtime.to_device(x), weight, runtime.to_device(grad), *place,
                need=(False, True, True), out=(None, *outs), momentum=3.0, variant=variant,
            )  # fmt: skip
            for array, at, right in zip(whole, (3, 2), sums, strict=True):
                values = array.get()
                assert np.array_equal(values[at], 24 + right), variant
                assert (np.delete(values, at, axis=0) == 8).all(), variant
            seen.add(variant)
    return seen


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("variant", ["strip", "direct", "depthwise"])
def test_bias_momentum_where_shares_are_added(runtime, rng, variant, given):
    """The second launch of a weight gradient has the bias's old values and a momentum of its own,
    which is 0 where there is no old bias."""
    problem = Conv1dProblem(64, 3, 4000, 3, 3, groups=3 if variant == "depthwise" else 1)
    if variant not in clconv.variants(problem, Pass.WEIGHT_GRADIENT, runtime):
        pytest.skip(f"{runtime.info.name} has too little local memory for {variant}")
    plan = runtime.plans(problem, Pass.WEIGHT_GRADIENT, Epilogue(bias=True), variant)[0]
    assert plan.sums_bias == (variant != "direct")
    assert plan.workspace_bytes > 0
    x, grad = (
        rng.integers(-1, 2, shape).astype(np.float32)
        for shape in (problem.input_shape, problem.output_shape)
    )
    old = np.full(problem.weight_shape, 5, np.float32), np.full(3, 8, np.float32)
    out = [runtime.to_device(array) for array in old]
    arrays = (
        runtime.to_device(array) for array in (x, np.zeros(problem.weight_shape, np.float32), grad)
    )
    _, gw, gb = F.conv1d_backward(
        *arrays, groups=problem.groups, need=(False, True, True), variant=variant, momentum=3.0,
        out=(None, out[0], out[1] if given else None),
    )  # fmt: skip
    assert np.array_equal(gw.get(), 15 + reference.weight_gradient(problem, x, grad))
    assert np.array_equal(gb.get(), 24 * given + reference.bias_gradient(grad))


def test_accumulation(runtime, data):
    """out = momentum * out + scale * gradient; with momentum 0 it is not read."""
    x, weight, _, grad = (runtime.to_device(a) for a in data)
    gw = reference.weight_gradient(PROBLEM, data[0], data[3])
    gb = reference.bias_gradient(data[3])
    out_w = runtime.to_device(np.full(gw.shape, 8, np.float32))
    out_b = runtime.to_device(np.full(gb.shape, 8, np.float32))
    F.conv1d_backward(x, weight, grad, **OPTIONS, need=(False, True, True),
                      out=(None, out_w, out_b), scale=2.0, momentum=0.5)  # fmt: skip
    assert np.array_equal(out_w.get(), 4 + 2 * gw)
    assert np.array_equal(out_b.get(), 4 + 2 * gb)
    for out in (out_w, out_b):
        out.fill(np.nan)
    assert F.conv1d_weight(x, gw.shape, grad, **OPTIONS, out=out_w, scale=-1.0) is out_w
    assert F.conv1d_bias(grad, out=out_b) is out_b
    assert np.array_equal(out_w.get(), -gw)
    assert np.array_equal(out_b.get(), gb)


def test_out(runtime, data):
    """The result is written where it is asked for, device or NumPy, and returned."""
    x, weight, bias, grad = data
    y = reference.conv1d(PROBLEM, x, weight, bias)
    host = np.empty(y.shape, np.float32)
    assert F.conv1d(x, weight, bias, **OPTIONS, out=host) is host
    assert np.array_equal(host, y)
    on_device = [runtime.to_device(a) for a in (x, weight, bias)]
    place = runtime.zeros((3, *y.shape), np.float32)[1]
    assert F.conv1d(*on_device, **OPTIONS, out=place) is place
    assert np.array_equal(place.get(), y)
    gx = runtime.empty(x.shape)
    F.conv1d_input(x.shape, on_device[1], runtime.to_device(grad), **OPTIONS, out=gx)
    assert np.array_equal(gx.get(), reference.input_gradient(PROBLEM, weight, grad))


def test_other_queue(runtime, data):
    """Arrays that another queue still writes are waited for, and the result can be waited for."""
    x, weight, bias, _ = data
    queue = cl.CommandQueue(runtime.context, runtime.device)
    big = cl_array.zeros(queue, 1 << 20, np.float32)
    foreign = cl_array.zeros(queue, x.shape, np.float32)
    gate = cl.UserEvent(runtime.context)
    event = cl.enqueue_copy(queue, foreign.data, x, wait_for=[gate], is_blocking=False)
    foreign.add_event(event)
    on_device = runtime.to_device(weight), runtime.to_device(bias)
    try:
        y = F.conv1d(foreign, *on_device, **OPTIONS)
    finally:
        gate.set_status(cl.command_execution_status.COMPLETE)
    assert y.events
    cl.wait_for_events(y.events)
    assert y.queue == runtime.queue
    assert np.array_equal(y.get(), reference.conv1d(PROBLEM, x, weight, bias))
    del big


def test_shared_context_and_queue(runtime, data):
    """A runtime on another code's context or queue takes that code's arrays."""
    x, weight, bias, _ = data
    context = cl.Context([runtime.device])
    queue = cl.CommandQueue(context)
    for shared in (context, queue):
        other = Runtime(shared)
        arrays = [cl_array.to_device(queue, a) for a in (x, weight, bias)]
        y = F.conv1d(*arrays, **OPTIONS, runtime=other)
        assert y.context == context
        assert np.array_equal(y.get(), reference.conv1d(PROBLEM, x, weight, bias))
    assert Runtime(queue).queue == queue
    adopted = F.conv1d(*arrays, **OPTIONS)
    assert np.array_equal(adopted.get(), y.get())


def test_the_same_bits_twice(runtime, rng):
    x = rng.standard_normal((3, 4, 900)).astype(np.float32)
    weight = rng.standard_normal((6, 2, 3)).astype(np.float32)
    first = [F.conv1d(x, weight, **OPTIONS)]
    first += F.conv1d_backward(x, weight, first[0], **OPTIONS)
    second = [F.conv1d(x, weight, **OPTIONS)]
    second += F.conv1d_backward(x, weight, first[0], **OPTIONS)
    for one, other in zip(first, second, strict=True):
        assert one.tobytes() == other.tobytes()


def test_nan_and_infinity_stay_in_their_windows(runtime):
    """A NaN or infinity reaches the outputs whose window it is in, and no other."""
    x = np.ones((1, 1, 90), np.float32)
    x[0, 0, 40], x[0, 0, 89] = np.nan, np.inf
    y = F.conv1d(x, np.ones((3, 1, 3), np.float32), padding=1)
    assert np.isnan(y[:, :, 39:42]).all()
    assert np.isinf(y[:, :, 88:]).all()
    clean = np.ones(90, bool)
    clean[39:42] = clean[88:] = False
    assert np.isfinite(y[:, :, clean]).all()
    for activation in ("relu", "leaky_relu"):
        activated = F.conv1d(x, np.ones((3, 1, 3), np.float32), padding=1, activation=activation)
        assert np.array_equal(activated, y, equal_nan=True)  # all of which is positive
    gw = F.conv1d_weight(x, (3, 1, 3), np.zeros((1, 3, 90), np.float32), padding=1)
    assert np.isnan(gw).all()
    x[0, 0, 40] = 1
    gx, gw, gb = F.conv1d_backward(x[:, :, :80], np.ones((3, 1, 3), np.float32),
                                   np.full((1, 3, 78), np.inf, np.float32))  # fmt: skip
    assert np.isposinf(gx).all()
    assert np.isposinf(gw).all()
    assert np.isposinf(gb).all()


def _bad_calls(runtime, data):
    x, weight, bias, grad = data
    d = runtime.to_device
    wide = d(np.zeros((2, 6, 40), np.float32))
    f = OPTIONS
    yield lambda: F.conv1d(x[0, 0], weight, **f), r"x has shape \(37,\), expected \(N, C, L\)"
    yield lambda: F.conv1d(x, weight[0], **f), "weight has shape"
    yield lambda: F.conv1d(x[:, :3], weight, **f), "groups is 2, expected a divisor of in_channels"
    yield lambda: F.conv1d(x, weight[:, :1], **f), r"weight has shape \(6, 1, 3\), expected"
    yield lambda: F.conv1d(x, weight, bias[:5], **f), r"bias has shape \(5,\), expected \(6,\)"
    yield lambda: F.conv1d(x.astype(int), weight.astype(int), **f), "x has dtype int64"
    yield lambda: F.conv1d(x, weight.astype(float), **f), "weight has dtype float64, expected"
    yield lambda: F.conv1d(x, weight, stride=0, groups=2), "stride is 0, expected at least 1"
    yield lambda: F.conv1d(x, weight, dilation=-1, groups=2), "dilation is -1"
    yield lambda: F.conv1d(x, weight, groups=0), "groups is 0"
    yield lambda: F.conv1d(x, weight, padding=-1, groups=2), "padding is -1"
    yield lambda: F.conv1d(x, weight, padding="full", groups=2), "padding is 'full'"
    yield lambda: F.conv1d(x, weight, padding="same", stride=2, groups=2), "stride is 2"
    yield lambda: F.conv1d(x[:, :, :1], weight, groups=2), "length with padding is 1, expected"
    yield lambda: F.conv1d(x, weight, **f, activation="swish"), "activation is 'swish'"
    yield lambda: F.conv1d(x, weight, **f, variant="magic"), "variant is 'magic'"
    yield lambda: F.conv1d(x, weight, **f, variant=3), "variant is 3"
    yield lambda: F.conv1d(x, weight, **f, residual=grad[:, :, 1:]), "residual has shape"
    yield lambda: F.conv1d(x, weight, **f, out=grad[:, :, 1:]), "out has shape"
    yield lambda: F.conv1d(x, weight, **f, out=grad.astype(float)), "out has dtype float64"
    yield (
        lambda: F.conv1d(d(x), d(weight), **f, out=wide[:, :, :19]),
        "out has strides .* expected contiguous",
    )
    yield lambda: F.conv1d_backward(x, weight, grad[:, :, 1:], **f), "grad_output has shape"
    yield lambda: F.conv1d_backward(x, weight, grad[:1], **f), "grad_output has shape"
    yield lambda: F.conv1d_backward(x, weight, grad, **f, need=(True,)), "need is"
    yield lambda: F.conv1d_backward(x, weight, grad, **f, scale="x"), "scale is 'x'"
    yield lambda: F.conv1d_input((37,), weight, grad, **f), r"input_size is \(37,\)"
    yield lambda: F.conv1d_input((2, 4, 38.5), weight, grad, **f), r"input_size\[2\] is 38.5"
    yield lambda: F.conv1d_weight(x, (6, 2), grad, **f), "weight_size is"
    yield lambda: F.conv1d_bias(grad[0, 0]), "grad_output has shape"
    yield lambda: F.conv_transpose1d(x, weight), r"weight has shape .* expected \(4, 2, 3\)"
    yield (
        lambda: F.conv_transpose1d(grad, weight, stride=2, output_padding=2, groups=2),
        "output_padding is 2, expected less than stride",
    )
    yield lambda: F.conv_transpose1d(grad, weight, padding=60, groups=2), "padding is"
    yield lambda: F.conv_transpose1d(grad, weight, padding="same", groups=2), "padding is 'same'"


def test_bad_input(runtime, data):
    """Each fault is a ProblemError that names the argument; nothing is queued or changed."""
    before = [a.copy() for a in data]
    for call, words in _bad_calls(runtime, data):
        runtime.finish()
        launches = runtime.launches
        with pytest.raises(ProblemError, match=words):
            call()
        assert runtime.launches == launches, words
    for array, old in zip(data, before, strict=True):
        assert np.array_equal(array, old)


def test_mixed_arrays(runtime, data):
    """NumPy and device arrays in one call: an error that is a ProblemError and a TypeError."""
    x, weight, _, _ = data
    with pytest.raises(ProblemError, match="x is a NumPy array, weight is a device array") as info:
        F.conv1d(x, runtime.to_device(weight), **OPTIONS)
    assert isinstance(info.value, TypeError)
    with pytest.raises(TypeError, match=r"x is a builtins\.list, expected a NumPy array") as info:
        F.conv1d(x.tolist(), weight, **OPTIONS)
    assert isinstance(info.value, ClconvError)


def test_overlapping_out(runtime, rng):
    """An out that shares bytes with an input is refused; one that lies between its rows is not."""
    base = runtime.to_device(rng.integers(-4, 5, (5, 2, 8)).astype(np.float32))
    weight = runtime.to_device(rng.integers(-4, 5, (2, 2, 1)).astype(np.float32))
    expected = F.conv1d(base[0:4:2], weight).get()
    with pytest.raises(ProblemError, match="out shares memory with x"):
        F.conv1d(base[1:3], weight, out=base[2:4])
    with pytest.raises(ProblemError, match="out shares memory with x"):
        F.conv1d(base[0:4:2], weight, out=base[1:3])
    with pytest.raises(ProblemError, match="out shares memory with weight"):
        F.conv1d(base[1:2, :, :2], weight, out=weight.reshape(1, 2, 2))
    between = base[1:2]
    assert F.conv1d(base[0:5:4][:1], weight, out=between) is between
    assert np.array_equal(between.get()[0], expected[0])
    spread = F.conv1d(base[0:3:2], weight)
    rows = base.reshape(1, 5, 16)[:, 1:2]  # batch 1 between batches 0 and 2
    assert rows.flags.c_contiguous
    assert spread.shape == (2, 2, 8)
    host = np.zeros((4, 2, 8), np.float32)
    with pytest.raises(ProblemError, match="out shares memory with x"):
        F.conv1d(host[:2], weight.get(), out=host[1:3])


def test_out_between_the_rows_of_an_input(runtime):
    """Views that interleave share no bytes."""
    base = runtime.to_device(np.arange(40, dtype=np.float32).reshape(5, 1, 8))
    out = base[1:2]
    weight = runtime.to_device(np.full((1, 2, 1), 1, np.float32))
    x = base.reshape(5, 8)[0:3:2]  # channels 0 and 2 of an unbatched input
    F.conv1d(x, weight, out=out.reshape(1, 8))
    assert np.array_equal(out.get()[0, 0], np.arange(8) * 2 + 16)


def test_other_context(runtime, data):
    """Arrays of two contexts: a DeviceError that names both."""
    x, weight, _, _ = data
    other = Runtime(cl.Context([runtime.device]))
    with pytest.raises(DeviceError, match=r"weight is on context 0x\w+ .* expected context 0x"):
        F.conv1d(runtime.to_device(x), other.to_device(weight), **OPTIONS)
    with pytest.raises(DeviceError, match=r"x is on context .* expected context"):
        F.conv1d(runtime.to_device(x), runtime.to_device(weight), **OPTIONS, runtime=other)


def test_a_fused_call_is_one_launch(runtime, data):
    """Bias, residual and activation cost no launch of their own."""
    x, weight, bias, grad = (runtime.to_device(a) for a in data)
    before = runtime.launches
    y = F.conv1d(x, weight, bias, **OPTIONS, residual=grad, activation="relu")
    assert runtime.launches == before + 1
    expected = reference.conv1d(PROBLEM, *data[:3]) + data[3]
    assert np.array_equal(y.get(), np.maximum(expected, 0))


def test_no_arithmetic_in_numpy(runtime, data, monkeypatch):
    """The device does the work: NumPy's own products raise, and every pass launches kernels."""

    def refuse(*_, **__):
        raise AssertionError("arithmetic on tensor data in Python")

    arrays = [runtime.to_device(a) for a in data]
    for name in ("dot", "einsum", "matmul", "convolve", "correlate", "tensordot", "vdot", "inner"):
        monkeypatch.setattr(np, name, refuse)
    x, weight, bias, grad = arrays
    plan = runtime.plans(PROBLEM, Pass.WEIGHT_GRADIENT)[0]
    of_weight = len(plan.launches)
    for call, launches in (
        (lambda: F.conv1d(x, weight, bias, **OPTIONS), 1),
        (lambda: F.conv1d_input(x.shape, weight, grad, **OPTIONS), 1),
        (lambda: F.conv1d_weight(x, weight.shape, grad, **OPTIONS), of_weight),
        (lambda: F.conv1d_bias(grad), 2),
        (lambda: F.conv1d_backward(x, weight, grad, **OPTIONS), 1 + of_weight + 2),
        (lambda: F.conv_transpose1d(grad, weight, **OPTIONS), 1),
    ):
        before = runtime.launches
        call()
        assert runtime.launches == before + launches
    y = F.conv1d(*data[:3], **OPTIONS)
    monkeypatch.undo()
    assert np.array_equal(y, reference.conv1d(PROBLEM, *data[:3]))


def test_public_names():
    """Everything promised is there."""
    for name in clconv.__all__:
        assert hasattr(clconv, name)
    for name in F.__all__:
        assert callable(getattr(F, name))


# Errors in the caller's words


def _ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


X, W, G = _ones(1, 4, 9), _ones(6, 4, 3), _ones(1, 6, 7)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: F.conv1d(_ones(4, 0), W), "x has shape (4, 0), expected at least one channel and"),
        (lambda: F.conv1d(_ones(1, 0, 9), W), "x has shape (1, 0, 9), expected at least one ch"),
        (lambda: F.conv1d(X, _ones(0, 4, 3)), "weight has shape (0, 4, 3), expected (Cout, Cin /"),
        (lambda: F.conv1d(X, W, padding=(1, 2, 3)), "padding is (1, 2, 3), expected an integer or"),
        (
            lambda: F.conv1d(_ones(1, 4, 9, dtype=np.int16), W),
            "x has dtype int16, expected float32",
        ),
        (lambda: F.conv1d(X, _ones(6, 4, 3, dtype=np.int8)), "weight has dtype int8, expected flo"),
        (
            lambda: F.conv1d(X, _ones(6, 4, 3, dtype=np.float64)),
            "weight has dtype float64, expected float32, that of x",
        ),
        (lambda: F.conv1d(X, W, out=_ones(1, 6, 8)), "out has shape (1, 6, 8), expected (1, 6, 7)"),
        (
            lambda: F.conv1d(X, W, pre_activation=_ones(1)),
            "pre_activation has shape (1,), expected",
        ),
        (
            lambda: F.conv1d(X, W, pre_activation=_ones(1, 6, 7, dtype=np.float64)),
            "pre_activation has dtype float64, expected float32, that of x",
        ),
        (lambda: F.conv1d(X, W, pre_activation=[1]), "pre_activation is a builtins.list, expected"),
        (
            lambda: F.conv1d(X, W, out=G, pre_activation=G),
            "out shares memory with pre_activation, expected memory of its own",
        ),
        (
            lambda: F.conv1d(X, W, pre_activation=_ones(1, 6, 14)[:, :, ::2]),
            "pre_activation has strides (336, 56, 8), expected contiguous",
        ),
        (
            lambda: F.conv_transpose1d(X, W, groups=3),
            "groups is 3, expected a divisor of in_channe",
        ),
        (lambda: F.conv_transpose1d(X, _ones(6, 4, 3)), "weight has shape (6, 4, 3), expected (4,"),
        (lambda: F.conv_transpose1d(_ones(4, 0), W), "x has shape (4, 0), expected at least one"),
        (
            lambda: F.conv_transpose1d(X, _ones(4, 0, 3)),
            "weight has shape (4, 0, 3), expected (Cin, Cout / groups, kernel_size), each at least",
        ),
        (
            lambda: F.conv_transpose1d(X, _ones(4, 6, 3), padding=-1),
            "padding is -1, expected at lea",
        ),
        (
            lambda: F.conv_transpose1d(X, _ones(4, 6, 3), stride=10**9),
            "stride is 1000000000 and dil",
        ),
        (
            lambda: F.conv1d_input((4, 0), W, G),
            "input_size is (4, 0), expected at least one channe",
        ),
        (lambda: F.conv1d_input((1, 4, 9), W, G, out=_ones(1)), "out has shape (1,), expected (1,"),
        (lambda: F.conv1d_input((1, 4, 9), W, G, out=W), "out shares memory with weight, expected"),
        (lambda: F.conv1d_weight(X, (6, 3, 3), G), "weight_size is (6, 3, 3), expected (6, 4, 3)"),
        (lambda: F.conv1d_weight(X, (6, 0, 3), G), "weight_size is (6, 0, 3), expected (Cout, Cin"),
        (lambda: F.conv1d_weight(X, (6, 4, 3), G, out=G), "out shares memory with grad_output, ex"),
        (
            lambda: F.conv1d_bias(_ones(1, 4, 0)),
            "grad_output has shape (1, 4, 0), expected at leas",
        ),
        (lambda: F.conv1d_bias(G, out=_ones(5)), "out has shape (5,), expected (6,)"),
        (
            lambda: F.conv1d_backward(X, W, G, out=(_ones(1), None, None)),
            "out[0] has shape (1,), e",
        ),
        (
            lambda: F.conv1d_backward(X, W, G, out=(None, [1], None)),
            "out[1] is a builtins.list, ex",
        ),
        (lambda: F.conv1d_backward(X, W, G, out=(None, W, None)), "out[1] shares memory with weig"),
        (
            lambda: F.conv1d_backward(X, W, G, out=(None, None, _ones(6, dtype=np.int8))),
            "out[2] has dtype int8, expected float32, float16, bfloat16 or float64",
        ),
        (
            lambda: F.conv_transpose1d_backward(X, _ones(4, 6, 3), G, out=(_ones(9), None, None)),
            "grad_output has shape (1, 6, 7), expected (1, 6, 11)",
        ),
    ],
)
def test_errors_name_what_the_caller_named(runtime, call, said):
    with pytest.raises(ProblemError) as caught:
        call()
    assert str(caught.value).startswith(said), str(caught.value)


def test_errors_of_device_arrays_name_what_the_caller_named(runtime):
    x, w = runtime.to_device(X), runtime.to_device(W)
    g = runtime.to_device(G)
    for said, call in (
        ("out[1] shares memory with wei", lambda: F.conv1d_backward(x, w, g, out=(None, w, None))),
        ("out shares memory with grad_output", lambda: F.conv1d_input((1, 4, 9), w, x, out=x)),
        ("x is a device array, weight is a device array, pre_activation is a NumPy array; expected",
         lambda: F.conv1d(x, w, pre_activation=G)),
    ):  # fmt: skip
        with pytest.raises(ProblemError) as caught:
            call()
        assert str(caught.value).startswith(said), str(caught.value)
