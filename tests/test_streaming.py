"""Streams: any chunks of a signal give what the layer gives of the whole."""

from __future__ import annotations

import numpy as np
import pyopencl.array as cl_array
import pytest

from clconv import (
    Conv1D,
    Conv1dProblem,
    DeviceError,
    Module,
    ModuleError,
    Pad1D,
    Pass,
    Runtime,
    Sequential,
    gpuarray,
)
from clconv import functional as F
from clconv.errors import ArrayTypeError, ProblemError
from clconv.streaming import StreamingConv1D, StreamingSequential, causal_padding
from clconv.testing import assert_right

# inmaps, outmaps, size, stride, pad, dilation, groups, activation
LAYERS = {
    "plain": (1, 2, 3, 1, 0, 1, 1, None),
    "groups and dilation": (2, 4, 3, 1, 2, 2, 2, "relu"),
    "stride beyond the window, pad beyond both": (3, 3, 2, 3, 5, 1, 1, None),
    "depthwise": (4, 4, 5, 2, 1, 1, 4, "gelu"),
    "one tap": (2, 2, 1, 2, 0, 1, 1, None),
    "pad of the window": (2, 3, 4, 1, 12, 3, 1, ("leaky_relu", 0.25)),
}


class ReLU(Module):
    """A layer of one's own that works position by position."""

    def updateData(self, data):
        return cl_array.if_positive(data, data, cl_array.zeros_like(data))


def layer(kind, rng=None, dtype=np.float32):
    inmaps, outmaps, size, stride, pad, dilation, groups, activation = LAYERS[kind]
    conv = Conv1D(
        inmaps, outmaps, size, stride, pad, dilation, groups=groups, activation=activation
    )
    conv.calcMode(dtype)
    for variable in conv.getVarTable():
        shape = variable.data.shape
        values = np.ones(shape) if rng is None else rng.standard_normal(shape)
        variable.data.set(values.astype(dtype))
    return conv


def whole(conv, x, variant="auto"):
    return F.conv1d(
        gpuarray.to_gpu(x),
        conv.W.reshape(conv.W.shape[0], conv.W.shape[1], conv.W.shape[3]),
        conv.b.ravel(),
        conv.stride,
        conv.pad,
        conv.dilation,
        conv.groups,
        activation=conv.activation,
        variant=variant,
    ).get()


def chunks(rng, x):
    """A signal in pieces of random lengths, none among them, some longer than any window."""
    at = 0
    while at < x.shape[2]:
        length = int(rng.choice([0, 1, 1, 2, 3, 5, 8, 40]))
        yield x[:, :, at : at + length]
        at += length


def streamed(stream, pieces):
    """The stream's samples, whose number after each chunk is what the latency says."""
    got, samples, positions = [], 0, 0
    for piece in pieces:
        device = gpuarray.to_gpu(np.ascontiguousarray(piece))
        result = stream(device)
        if piece.size:  # the stream keeps none of the caller's memory
            device.set(np.full_like(piece, np.nan, order="C"))
        samples += piece.shape[2]
        positions += result.shape[2]
        if samples:
            assert positions == max(0, (samples - 1 - stream.latency) // stream.stride + 1)
        got.append(result.get())
    got.append(stream.flush().get())
    return np.concatenate(got, axis=2)


@pytest.mark.parametrize("variant", ["direct", "auto"])
@pytest.mark.parametrize("kind", LAYERS)
def test_random_chunks(runtime, rng, kind, variant):
    """Of every length, also shorter than a window: the same bits, and within the rounding bound."""
    conv = layer(kind, rng)
    stream = StreamingConv1D(conv, variant=variant)
    for length in (1, 2, 7, 30, 131):
        x = rng.standard_normal((2, conv.inmaps, length)).astype(np.float32)
        got = streamed(stream, chunks(rng, x))
        if length + 2 * conv.pad < conv.geometry.window(conv.size):
            assert got.shape == (2, conv.outmaps, 0)
            continue
        problem = Conv1dProblem(
            2, conv.inmaps, length, conv.outmaps, conv.size, conv.stride, conv.pad, conv.dilation,
            conv.groups,
        )  # fmt: skip
        arrays = {
            "x": x,
            "weight": conv.W.get().reshape(problem.weight_shape),
            "bias": conv.b.get().ravel(),
        }
        assert_right(got, problem, Pass.FORWARD, arrays, activation=conv.activation)
        if variant != "auto":
            np.testing.assert_array_equal(got, whole(conv, x, variant))


@pytest.mark.parametrize("length", [1, 2, 9, 50])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_chunk_and_single_samples(runtime, rng, kind, length):
    conv = layer(kind, rng)
    x = rng.standard_normal((1, conv.inmaps, length)).astype(np.float32)
    single = streamed(StreamingConv1D(conv, variant="direct"), np.split(x, length, axis=2))
    at_once = streamed(StreamingConv1D(conv, variant="direct"), [x])
    np.testing.assert_array_equal(single, at_once)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes(runtime, rng, dtype):
    if dtype == np.float64 and not runtime.info.fp64:
        pytest.skip("the device has no float64")
    conv = layer("groups and dilation", rng, dtype)
    x = rng.standard_normal((2, conv.inmaps, 40)).astype(dtype)
    got = streamed(StreamingConv1D(conv, variant="direct"), chunks(rng, x))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, whole(conv, x, "direct"))


def test_infinite_weights(runtime):
    """Padding and samples meet them as they do in the whole signal."""
    conv = layer("stride beyond the window, pad beyond both")
    w = np.ones(conv.W.shape, np.float32)
    w[..., 0] = np.inf
    conv.W.set(w)
    x = np.ones((1, 3, 7), np.float32)
    got = streamed(StreamingConv1D(conv, variant="direct"), np.split(x, 7, axis=2))
    np.testing.assert_array_equal(got, whole(conv, x, "direct"))


# Chains


def integral(net, rng):
    """The net with small integers, so that sums are exact in any order."""
    for variable in net.getVarTable():
        variable.data.set(rng.integers(-2, 3, variable.data.shape).astype(np.float32))
    return net


def three_layers():
    net = Sequential("net").append(Pad1D((3, 2), "reflect"))
    net.append(Conv1D(2, 4, 3, stride=2, pad=1, activation="relu")).append(Pad1D((1, 4), "edge"))
    net.append(Conv1D(4, 2, 2, dilation=3, groups=2)).append(ReLU())
    inner = Sequential("inner").append(Pad1D((0, 2), fillValue=7.0))
    return net.append(inner.append(Conv1D(2, 1, 3, stride=3)))


CHAINS = {
    "three layers": three_layers,
    "padding alone": lambda: Sequential().append(Pad1D((2, 5), "reflect")),
    "constant": lambda: Sequential().append(Pad1D((2, 5), fillValue=3.0)),
    "edge": lambda: Sequential().append(Pad1D((0, 3), "edge")).append(Pad1D((3, 0), "edge")),
    "no wrap": lambda: Sequential().append(Pad1D(0, "wrap")),
    "pad twice": lambda: Sequential().append(Conv1D(2, 2, 2, pad=4)).append(Conv1D(2, 2, 3, pad=3)),
    "empty": Sequential,
}


@pytest.mark.parametrize("kind", CHAINS)
def test_chains(runtime, rng, kind):
    net = integral(CHAINS[kind](), rng)
    stream = StreamingSequential(net, pointwise=[ReLU])
    for length in (27, 28, 90):
        x = rng.integers(-2, 3, (2, 2, length)).astype(np.float32)
        expected = net(gpuarray.to_gpu(x)).get()
        got = []
        for piece in chunks(rng, x):
            got.append(stream(gpuarray.to_gpu(np.ascontiguousarray(piece))).get())
        got.append(stream.flush().get())
        np.testing.assert_array_equal(np.concatenate(got, axis=2), expected)
    assert stream.latency == latency_by_trial(stream)


def latency_by_trial(stream):
    """Samples after sample q stride that output q took, of a late one."""
    stream.reset()
    positions = 0
    for sample in range(60):
        one = stream(gpuarray.zeros((1, 2, 1)))
        positions += one.shape[2]
        if one.shape[2]:
            late = sample - (positions - 1) * stream.stride
    stream.reset()
    return late


def test_too_short_for_reflection(runtime, rng):
    """A chain says of a short signal what the net says of it."""
    net = Sequential("net").append(Pad1D((1, 4), "reflect"))
    x = gpuarray.zeros((1, 2, 3))
    with pytest.raises(ModuleError) as expected:
        net(x)
    stream = StreamingSequential(net)
    stream(x)
    with pytest.raises(ModuleError) as got:
        stream.flush()
    assert str(got.value) == str(expected.value)
    assert "size is too small (got 3, expected >= 5)" in str(got.value)
    stream(x)  # nothing has changed: six samples now
    assert stream.flush().shape == (1, 2, 4)


def test_causal_padding(runtime, rng):
    """Each sample gives its output at once; the outputs are those of PyTorch's left padding."""
    conv = integral(Conv1D(2, 3, 3, dilation=2), rng)
    pad = causal_padding(conv)
    assert pad.pad == (4, 0)
    net = Sequential().append(pad).append(conv)
    stream = StreamingSequential(net)
    assert stream.latency == 0
    x = rng.integers(-2, 3, (1, 2, 9)).astype(np.float32)
    got = [stream(gpuarray.to_gpu(x[:, :, i : i + 1].copy())) for i in range(9)]
    assert [one.shape[2] for one in got] == [1] * 9
    expected = net(gpuarray.to_gpu(x)).get()
    np.testing.assert_array_equal(np.concatenate([g.get() for g in got], axis=2), expected)
    assert stream.flush().shape == (1, 3, 0)
    named = causal_padding(conv, "edge", name="before")
    assert (named.mode, named.name) == ("edge", "before")
    with pytest.raises(ModuleError, match="conv has pad 1, expected 0 for causal padding"):
        causal_padding(Conv1D(1, 1, 3, pad=1))
    with pytest.raises(ModuleError, match="conv is a Pad1D, expected a Conv1D"):
        causal_padding(pad)


# The stream


def test_reset_and_flush_begin_anew(runtime, rng):
    conv = layer("groups and dilation", rng)
    stream = StreamingConv1D(conv)
    x = gpuarray.to_gpu(rng.standard_normal((1, 2, 9)).astype(np.float32))
    first = stream(x).get()
    stream.reset()
    np.testing.assert_array_equal(stream(x).get(), first)
    stream.flush()
    np.testing.assert_array_equal(stream(x).get(), first)
    assert not np.array_equal(stream(x).get()[:, :, : first.shape[2]], first)
    stream.reset()
    with pytest.raises(ModuleError, match="flush needs a chunk before it"):
        stream.flush()


def test_lengths_compile_nothing(runtime, rng):
    net = integral(three_layers(), rng)
    stream = StreamingSequential(net, pointwise=[ReLU])
    for length in (1, 30, 2):
        stream(gpuarray.zeros((1, 2, length)))
    stream.flush()
    programs = len(runtime.programs)
    for length in (1, 2, 3, 17, 64, 333, 1000):
        stream(gpuarray.zeros((1, 2, length)))
    stream.flush()
    stream(gpuarray.zeros((3, 2, 77)))
    assert len(runtime.programs) == programs


def test_the_device_does_it(runtime, rng, monkeypatch):
    """No value comes to the host."""
    stream = StreamingSequential(integral(three_layers(), rng), pointwise=[ReLU])
    data = [gpuarray.to_gpu(rng.standard_normal((1, 2, n)).astype(np.float32)) for n in (5, 1, 50)]

    def refuse(*_, **__):
        raise AssertionError("a value came to the host")

    monkeypatch.setattr(cl_array.Array, "get", refuse)
    monkeypatch.setattr(cl_array.Array, "map_to_host", refuse)
    for chunk in data:
        stream(chunk)
    stream.flush()


def test_views_as_chunks(runtime, rng):
    """Pieces of one array on the device, with strides and offsets."""
    conv = layer("depthwise", rng)
    x = rng.standard_normal((2, 4, 40)).astype(np.float32)
    device = gpuarray.to_gpu(x)
    stream = StreamingConv1D(conv, variant="direct")
    got = [stream(device[:, :, at : at + 7]).get() for at in range(0, 40, 7)]
    got.append(stream.flush().get())
    np.testing.assert_array_equal(np.concatenate(got, axis=2), whole(conv, x, "direct"))


def test_wrong_chunks_change_nothing(runtime, rng):
    net = integral(Sequential("net").append(Conv1D(2, 2, 3)).append(Conv1D(2, 2, 2)), rng)
    x = rng.integers(-2, 3, (1, 2, 12)).astype(np.float32)
    stream = StreamingSequential(net)
    first = stream(gpuarray.to_gpu(x[:, :, :5].copy())).get()
    other = Runtime(runtime.device)
    for wrong, error, message in (
        (x, ArrayTypeError, "chunk is a numpy.ndarray, expected a device array"),
        (gpuarray.zeros((2, 5)), ModuleError, "Data must be 3d tensor"),
        (gpuarray.zeros((1, 3, 5)), ModuleError, r"Data has maps 3 \(expected: 2, of the chunks"),
        (gpuarray.zeros((2, 2, 5)), ModuleError, r"Data has batch 2 \(expected: 1, of the chunks"),
        (gpuarray.zeros((1, 2, 5), np.float16), ModuleError, "Data has dtype float16"),
        (other.zeros((1, 2, 5)), DeviceError, "expected context"),
    ):
        with pytest.raises(error, match=message):
            stream(wrong)
    second = net[1]
    kept, second.vars = second.vars, {}
    with pytest.raises(ModuleError, match=r"Data error in module 1 (?s:.*) has no weights"):
        stream(gpuarray.zeros((1, 2, 5)))
    second.vars = kept
    got = [first, stream(gpuarray.to_gpu(x[:, :, 5:].copy())).get(), stream.flush().get()]
    np.testing.assert_array_equal(np.concatenate(got, axis=2), net(gpuarray.to_gpu(x)).get())


def test_wrong_first_chunk(runtime):
    stream = StreamingConv1D(layer("plain"))
    for chunk, message in (
        (gpuarray.zeros((1, 3, 5)), r"Data has 3 maps \(expected: 1\)"),
        (gpuarray.zeros((1, 1, 5), np.float64), "Expected dtype float32, got float64"),
    ):
        with pytest.raises(ModuleError, match=message):
            stream(chunk)
    net = StreamingSequential(Sequential("net").append(Conv1D(1, 2, 1)).append(Conv1D(3, 1, 1)))
    with pytest.raises(ModuleError, match=r"Data error in module 1 .*\nData has 2 maps \(expec"):
        net(gpuarray.zeros((1, 1, 5)))


def test_wrong_modules(runtime):
    for module, message in (
        (ReLU(), "cannot be streamed"),
        (Pad1D(2, "wrap"), "has mode 'wrap', expected 'constant', 'reflect' or 'edge'"),
    ):
        with pytest.raises(ModuleError, match=message):
            StreamingSequential(Sequential().append(module))
    with pytest.raises(ModuleError, match="conv is a Pad1D, expected a Conv1D"):
        StreamingConv1D(Pad1D(1))
    with pytest.raises(ModuleError, match="net is a Conv1D, expected a Sequential"):
        StreamingSequential(Conv1D(1, 1, 1))
    with pytest.raises(ProblemError, match="variant is 'no such', expected 'auto' or one of"):
        StreamingConv1D(layer("plain"), variant="no such")(gpuarray.zeros((1, 1, 5)))


def test_named_variants_keep_what_the_layer_asks_for(first_runtime):
    """A bound where sums must be exact is refused; the layer's word counts more than the
    runtime's."""
    x = gpuarray.zeros((1, 4, 40))
    with pytest.raises(ProblemError, match="its results keep the bound 'Winograd', exact asks"):
        StreamingConv1D(Conv1D(4, 4, 3, exact=True), variant="winograd")(x)
    assert StreamingConv1D(Conv1D(4, 4, 3), variant="winograd")(x).shape == (1, 4, 38)
    first_runtime.exact = True
    try:
        with pytest.raises(ProblemError, match="its results keep the bound 'Winograd', exact asks"):
            StreamingConv1D(Conv1D(4, 4, 3), variant="winograd")(x)
        inexact = Conv1D(4, 4, 3, exact=False)
        assert StreamingConv1D(inexact, variant="winograd")(x).shape == (1, 4, 38)
    finally:
        first_runtime.exact = False
