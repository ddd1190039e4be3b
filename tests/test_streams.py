"""Streams of whole networks: any chunks of a signal give what the network gives of the whole."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clconv import Activation, Conv1D, Deconv1D, ModuleError, Pad1D, Parallel, Sequential, gpuarray
from clconv.errors import ArrayTypeError
from clconv.geometry import Geometry, rounded_count
from clconv.streaming import (
    StreamingActivation,
    StreamingConv1D,
    StreamingDeconv1D,
    StreamingPad1D,
    StreamingParallel,
    StreamingSequential,
    deconvolution,
)
from clconv.streaming.pieces import CHUNKS, ODD
from clconv.torch import Conv1d, stream


def integral(net, rng):
    """The net with small integers, so that sums are exact in any order."""
    for variable in net.getVarTable():
        variable.data.set(rng.integers(-2, 3, variable.data.shape).astype(np.float32))
    return net


def integers(rng, *shape):
    return rng.integers(-2, 3, shape).astype(np.float32)


def pieces(rng, x):
    """A signal in pieces of random lengths, none among them."""
    at = 0
    while at < x.shape[2]:
        length = int(rng.choice([0, 1, 1, 2, 3, 5, 8, 40]))
        yield np.ascontiguousarray(x[:, :, at : at + length])
        at += length


def replaced(stream, rng):
    """The stream, or one that goes on where it is."""
    way = rng.integers(0, 8)
    if way == 0:
        return copy.deepcopy(stream)
    if way == 1:
        return pickle.loads(pickle.dumps(stream))
    if way == 2:  # a shallow copy that goes another way
        copy.copy(stream)(gpuarray.to_gpu(np.full((2, 2, 9), np.nan, np.float32)))
    if way == 3:
        other = copy.deepcopy(stream)
        other.reset()
        other.load_state_dict(stream.state_dict())
        return other
    return stream


def streamed(stream, rng, x):
    """The samples that a stream gives of random pieces, replaced by copies on the way."""
    got = []
    for piece in pieces(rng, x):
        stream = replaced(stream, rng)
        device = gpuarray.to_gpu(piece)
        got.append(stream(device).get())
        if piece.size:  # the stream keeps none of the caller's memory
            device.set(np.full(piece.shape, np.nan, np.float32))
    got.append(stream.flush().get())
    return np.concatenate(got, axis=2)


def residual(maps, size, dilation, pad):
    branch = Sequential().append(Activation("leaky_relu", 0.25))
    branch.append(Conv1D(maps, maps, size, pad=pad, dilation=dilation))
    return Parallel().append(branch).append(Sequential())


def causal_decoder():
    """As EnCodec's: every sample gives its outputs at once."""
    net = Sequential().append(Conv1D(2, 2, 3, pad="causal"))
    net.append(Activation("relu")).append(Deconv1D(2, 2, 4, 2, "causal"))
    net.append(residual(2, 3, 1, "causal")).append(Activation("relu"))
    return net.append(Conv1D(2, 2, 3, pad="causal", activation="relu"))


def centred_decoder():
    """As HiFi-GAN's: padding on both sides, so that skips wait for branches."""
    net = Sequential().append(Conv1D(2, 2, 3, pad=1)).append(Activation("leaky_relu", 0.5))
    net.append(Deconv1D(2, 2, 6, 3, pad=2, postpad=1))
    three = [residual(2, 3, 1, 1), residual(2, 3, 2, 2)]
    net.append(Parallel("concat").extend([*three, Sequential().append(Activation("relu"))]))
    return net.append(Conv1D(6, 1, 3, 2, pad=(1, 0)))


def uneven():
    """Strides beyond windows, more cropped than a window has, padding that mirrors."""
    net = Sequential().append(Deconv1D(2, 2, 2, 3, pad=3, dilation=2, postpad=2))
    net.append(Pad1D((2, 3), "reflect")).append(Conv1D(2, 2, 2, 3, pad=(0, 4)))
    return net.append(Deconv1D(2, 4, 1, 2, groups=2)).append(Pad1D((0, 2), "edge"))


NETS = {
    "causal": (causal_decoder, "auto"),
    "centred": (centred_decoder, "auto"),
    "uneven": (uneven, "direct"),
}


def latency_by_trial(stream, maps):
    """The most samples after that at q stride, rounded down, that late outputs q took."""
    stream.reset()
    outputs, most = 0, -100
    for sample in range(60):
        count = stream(gpuarray.zeros((1, maps, 1))).shape[2]
        for q in range(outputs, outputs + count):
            if sample >= 30:
                most = max(most, sample - int(q * stream.stride))
        outputs += count
    stream.reset()
    return most


@pytest.mark.parametrize("kind", NETS)
def test_networks(runtime, rng, kind):
    """The same bits, with "auto" and a variant by name; copies and loaded states go on."""
    make, variant = NETS[kind]
    net = integral(make(), rng)
    stream = StreamingSequential(net, variant=variant)
    for length in (9, 30, 100):
        x = integers(rng, 2, 2, length)
        expected = net(gpuarray.to_gpu(x)).get()
        np.testing.assert_array_equal(streamed(stream, rng, x), expected)
        stream.reset()
    assert stream.latency == latency_by_trial(stream, 2)
    if kind == "causal":
        assert stream.latency == 0
        assert stream.stride == 0.5


def test_as_on_a_gpu(gpu_runtime, rng):
    net = integral(causal_decoder()[:3], rng)
    x = integers(rng, 2, 2, 70)
    got = streamed(StreamingSequential(net), rng, x)
    np.testing.assert_array_equal(got, net(gpuarray.to_gpu(x)).get())


def test_rows_of_a_batch_are_streams(first_runtime, rng):
    """N signals in one batch get what each gets alone, also where they go through activations
    that are rounded."""
    net = Sequential().append(Conv1D(2, 2, 3, pad="causal")).append(Activation("elu", 0.5))
    net.append(residual(2, 3, 1, "causal")).append(Activation("tanh"))
    x = rng.standard_normal((3, 2, 50)).astype(np.float32)
    together = StreamingSequential(net, variant="direct")
    alone = [StreamingSequential(net, variant="direct") for _ in range(3)]
    for start, end in ((0, 7), (7, 8), (8, 50)):
        chunk = x[:, :, start:end]
        got = together(gpuarray.to_gpu(chunk.copy())).get()
        for i, one in enumerate(alone):
            own = one(gpuarray.to_gpu(chunk[i : i + 1].copy())).get()
            np.testing.assert_array_equal(own[0], got[i])


def test_deconv_alone(first_runtime, rng):
    """Options of a transposed convolution, at lengths around its window, in single samples."""
    layer = integral(Deconv1D(2, 2, 3, 2, pad=1, dilation=2, postpad=1), rng)
    stream = StreamingDeconv1D(layer)
    assert (float(stream.stride), stream.latency) == (0.5, 1)
    for length in (1, 2, 3, 8):
        x = integers(rng, 2, 2, length)
        got = [stream(gpuarray.to_gpu(x[:, :, i : i + 1].copy())).get() for i in range(length)]
        got.append(stream.flush().get())
        np.testing.assert_array_equal(np.concatenate(got, 2), layer(gpuarray.to_gpu(x)).get())
    with pytest.raises(ModuleError, match="deconv is a Pad1D, expected a Deconv1D"):
        StreamingDeconv1D(Pad1D(1))
    with pytest.raises(ModuleError, match="pad1d is a Deconv1D, expected a Pad1D"):
        StreamingPad1D(layer)
    with pytest.raises(ModuleError, match="module is a Deconv1D, expected an Activation"):
        StreamingActivation(layer)


def test_deconv_by_phases(runtime, rng, monkeypatch):
    """As a convolution with the outputs of a stride as maps: the same, also after its weights
    changed, in sight or unseen."""
    monkeypatch.setattr(deconvolution, "MANY_WEIGHTS", 1)
    layer = Deconv1D(2, 2, 6, 2, pad=3, postpad=1, activation="relu")
    layer.evalMode()
    stream = StreamingDeconv1D(layer)
    for change in ("seen", "seen", "unseen"):
        for variable in layer.vars.values():
            values = integers(rng, *variable.array.shape)
            if change == "seen":
                variable.replace(runtime.to_device(values), None)
            else:
                variable.data.set(values)
        for length in (2, 3, 40):
            x = integers(rng, 2, 2, length)
            expected = layer(gpuarray.to_gpu(x)).get()
            np.testing.assert_array_equal(streamed(stream, rng, x), expected)
            stream(gpuarray.to_gpu(x))
            assert change == "unseen" or stream._phases is not None
            stream.reset()
    weight = gpuarray.to_gpu(np.arange(24, dtype=np.float32).reshape(1, 4, 6))
    turned, _, _ = deconvolution.phase_weights(runtime, weight, None, 2)
    expected = weight.get().reshape(1, 4, 3, 2)[:, :, ::-1].transpose(1, 3, 0, 2)
    np.testing.assert_array_equal(turned.get(), expected.reshape(8, 1, 3))


def test_completed_outputs_of_a_transposed_convolution(rng):
    """Against counting, without a device: which outputs no later sample reaches."""
    for _ in range(300):
        stride, size, dilation, pad = (int(rng.integers(1, n)) for n in (5, 5, 4, 6))
        one = Geometry(stride, pad, dilation, 1, True, int(rng.integers(0, max(stride, dilation))))
        window, length = one.window(size), int(rng.integers(1, 9))
        crop = int(rng.integers(0, 8))
        outputs, start, left, _ = one.completed(crop, length, size)
        end = crop + outputs
        assert not outputs or end <= length * stride  # sample `length` reaches from there on
        shortest = one.out_length(length, size) + pad  # what there is if no more comes
        assert not outputs or end <= max(shortest, crop)
        assert 0 <= start < length
        if outputs:
            assert left == end - start * stride
            assert start == 0 or (start - 1) * stride + window <= end  # reaches no later output
        part = one.part_of_outputs(crop, max(outputs, 1), length, size)
        assert part.out_length(length, size) == max(outputs, 1) or not outputs
        rest = one.rest(crop, length, size)
        assert rest == max(shortest - crop, 0) or shortest == pad


def test_rounded_counts():
    counts = {rounded_count(n) for n in range(1, 1025)}
    assert len(counts) <= 20
    assert all(n <= rounded_count(n) <= n + max(15, n // 4) for n in range(1, 5000))


def test_parallel_of_modules(first_runtime, rng):
    """Branches may be given as they are; they have one stride and give equally many samples."""
    conv = integral(Conv1D(2, 2, 3, pad=1), rng)
    stream = StreamingParallel([conv, Sequential()], "concat")
    x = integers(rng, 2, 2, 30)
    expected = np.concatenate([conv(gpuarray.to_gpu(x)).get(), x], axis=1)
    np.testing.assert_array_equal(streamed(stream, rng, x), expected)
    assert stream.latency == 1
    for branches, message in (
        ([], "has no branches"),
        (conv, "branches is a Conv1D, expected a Parallel or a sequence"),
        ([Conv1D(2, 2, 2, 2), Sequential()], "branch 1 has stride 1, expected 2, that of branch 0"),
        ([Pad1D(1, "wrap")], "mode 'wrap'"),
    ):
        with pytest.raises(ModuleError, match=message):
            StreamingParallel(branches)
    with pytest.raises(ModuleError, match="merge is 'sum', expected None or 'concat'"):
        StreamingParallel(Parallel("concat").append(conv), "sum")
    short = StreamingParallel(Parallel().append(Conv1D(2, 2, 3)).append(Sequential()))
    short(gpuarray.to_gpu(x))
    for _ in range(2):  # nothing has changed
        with pytest.raises(ModuleError, match="Branch 1 gives 2 positions more than another one"):
            short.flush()


def test_a_skip_beside_a_branch_of_other_rates(first_runtime, rng):
    """The branch gives two samples for every other one; a copy of the stream is one of its own."""
    down = Conv1D(2, 3, 3, stride=2, pad="causal", activation=["leaky_relu", 0.5])
    branch = Sequential().extend([down, Deconv1D(3, 2, 4, stride=2, pad="causal")])
    net = integral(Parallel("sum").extend([Sequential(), branch]), rng)
    x = integers(rng, 1, 2, 16)
    whole = net(gpuarray.to_gpu(x)).get()
    for cuts in ([0, 16], [0, 4, 8, 16], [0, 1, 3, 16], [0, 3, 7, 16]):
        running, given = StreamingParallel(net), []
        for start, stop in itertools.pairwise(cuts):
            piece = gpuarray.to_gpu(np.ascontiguousarray(x[:, :, start:stop]))
            copy.copy(running)(gpuarray.to_gpu(np.full((1, 2, 5), np.nan, np.float32)))
            given.append(running(piece).get())
        given.append(running.flush().get())
        assert np.array_equal(np.concatenate(given, axis=2), whole), cuts
    one = StreamingParallel(net)
    assert copy.copy(one)._adding[1] is not one._adding[1]


def test_states(first_runtime, rng):
    """A state goes through a file; one that does not fit is refused by its key and changes
    nothing."""
    net = Sequential("net").append(Conv1D(2, 2, 4, 2, pad=3, name="conv"))
    net.append(Parallel(name="skip").append(Conv1D(2, 2, 3, pad=1)).append(Sequential()))
    integral(net.append(Deconv1D(2, 2, 4, 3, name="up")).append(Pad1D((1, 2), "edge")), rng)
    stream, other = StreamingSequential(net), StreamingSequential(net)
    other.load_state_dict(stream.state_dict())  # before the first chunk
    x = integers(rng, 2, 2, 40)
    first = stream(gpuarray.to_gpu(x[:, :, :13].copy())).get()
    state = stream.state_dict()
    assert {"signal", "conv.left", "conv.kept", "skip.1.waiting", "up.crop"} <= set(state)
    assert all(isinstance(value, (int, np.ndarray)) for value in state.values())
    for key, value, message in (
        ("conv.left", 9, "conv.left is 9, expected at most 3"),
        ("conv.left", 1.5, "conv.left: left is 1.5, expected an integer"),
        ("conv.skip", 2, "conv.skip is 2, expected less than 2"),
        (
            "conv.kept",
            np.zeros((2, 3, 1), np.float32),
            r"conv.kept has shape \(2, 3, 1\), expected",
        ),
        ("conv.kept", np.zeros((2, 2, 1)), "conv.kept has dtype float64"),
        ("conv.kept", np.zeros((2, 2, 30), np.float32), "conv.kept has 30 samples after"),
        ("up.kept", np.zeros((2, 2, 9), np.float32), "up.kept has 9 samples, of which outputs"),
        ("skip.1.waiting", [1], "skip.1.waiting is a list, expected a NumPy array"),
        ("signal", np.int64([3, 2]), "conv.signal has batch 2, expected 3, as in signal"),
        ("conv.signal", np.int64([2, 5]), r"conv.signal: Data has 5 maps \(expected: 2\)"),
        ("3.started", 2, "3.started is 2, expected 0, or 1 with a signal"),
    ):
        with pytest.raises(ModuleError, match=message):
            other.load_state_dict({**state, key: value})
        assert not other.state_dict()["signal"].size
    with pytest.raises(ModuleError, match=r"conv\.kepd is unknown to"):
        other.load_state_dict({**state, "conv.kepd": 1})
    with pytest.raises(ModuleError, match=r"conv\.kept is missing for"):
        other.load_state_dict({k: v for k, v in state.items() if k != "conv.kept"})
    with pytest.raises(ModuleError, match="state is a int, expected a dictionary"):
        other.load_state_dict(3)
    other.load_state_dict(state)
    rest = gpuarray.to_gpu(x[:, :, 13:].copy())
    got = [first, other(rest).get(), other.flush().get()]
    np.testing.assert_array_equal(np.concatenate(got, 2), net(gpuarray.to_gpu(x)).get())


def test_a_chunk_that_fails_leaves_the_stream(first_runtime, rng):
    """Also where the first layers have gone on already."""
    net = integral(causal_decoder(), rng)
    stream = StreamingSequential(net)
    x = integers(rng, 1, 2, 40)
    first = stream(gpuarray.to_gpu(x[:, :, :9].copy())).get()
    last = net[5]
    kept, last.vars = last.vars, {}
    for _ in range(3):
        with pytest.raises(ModuleError, match=r"Data error in module 5 (?s:.*) has no weights"):
            stream(gpuarray.to_gpu(np.full((1, 2, 20), np.nan, np.float32)))
    last.vars = kept
    got = np.concatenate([first, stream(gpuarray.to_gpu(x[:, :, 9:].copy())).get()], 2)
    np.testing.assert_array_equal(got, net(gpuarray.to_gpu(x)).get())


def test_memory_is_flat(first_runtime, rng):
    """A long signal needs what a short one needs; random lengths have few plans."""
    conv = integral(Conv1D(1, 2, 3, pad="causal"), rng)
    stream = StreamingConv1D(conv)
    lengths = rng.integers(1, 300, 400)
    for length in lengths[:100]:
        stream(gpuarray.zeros((1, 1, int(length))))
    rows, held = stream._kept.array.shape[2], first_runtime.memory_info()["held"]
    recipes = len(first_runtime.recipes)
    for length in lengths[100:]:
        stream(gpuarray.zeros((1, 1, int(length))))
    assert stream._kept.array.shape[2] == rows <= 2 * 300 * CHUNKS + ODD
    assert first_runtime.memory_info()["held"] <= held + 2**20
    assert len(first_runtime.recipes) <= recipes + 40


# PyTorch


def model():
    """Every kind of layer that a stream of a PyTorch model takes."""
    return nn.Sequential(
        nn.ConstantPad1d((2, 0), 0.0),
        nn.Conv1d(2, 4, 3),
        nn.LeakyReLU(0.25),
        nn.Sequential(nn.ConvTranspose1d(4, 2, 4, 2, 1), nn.ELU(0.5), nn.Dropout()),
        Conv1d(2, 2, 3, padding="causal", dilation=2),
        nn.Conv1d(2, 2, 3, 2, padding=1, padding_mode="reflect"),
        nn.ReplicationPad1d((1, 2)),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3, padding="same")),
        nn.Tanh(),
    ).eval()


def test_torch_models(first_runtime, rng):
    """Tensors in, tensors out, batched or not; what the model gives of the whole."""
    torch.manual_seed(0)
    net = model()
    one = stream(net)
    x = torch.randn(2, 2, 60)
    with torch.no_grad():
        expected = net(x)
    for batch in (x, x[0]):
        cuts = [batch[..., a:b] for a, b in ((0, 1), (1, 1), (1, 22), (22, 60))]
        got = torch.cat([*(one(cut) for cut in cuts), one.flush()], -1)
        wanted = expected if batch.dim() == 3 else expected[0]
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    one(x[..., :30])
    other = pickle.loads(pickle.dumps(one))
    third = stream(net)
    third.load_state_dict(one.state_dict())
    assert torch.equal(other(x[..., 30:]), third(x[..., 30:]))
    assert (one.stride, one.latency) == (one.stream.stride, one.stream.latency)
    with torch.no_grad():
        net[1].weight.fill_(0)  # weights are copied
    assert torch.equal(other.flush(), third.flush())


class Padded(nn.Conv1d):
    """A layer that does more than its class."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2))), "1.0, Linear.* cannot"),
        (lambda: nn.Sequential(Padded(1, 1, 1)), "0, Padded.* cannot be streamed, expected Seq"),
        (lambda: nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
        (lambda: nn.Sequential(nn.Dropout()), "0, Dropout.*in training mode, expected model.eval"),
        (lambda: nn.GELU("tanh"), "the model itself, GELU.*approximate 'tanh', expected 'none'"),
        (lambda: nn.ConstantPad1d((-1, 0), 0), r"has padding \(-1, 0\), expected at least 0"),
        (lambda: nn.LeakyReLU(-0.5), "cannot be streamed: slope is -0.5"),
        (
            lambda: nn.Conv1d(1, 1, 1, dtype=torch.complex64),
            "dtype torch.complex64, expected one of",
        ),
    ],
)
def test_torch_models_that_cannot_be_streamed(first_runtime, made, message):
    with pytest.raises(ModuleError, match=message):
        stream(made())


def test_wrong_tensors(first_runtime):
    one = stream(nn.Conv1d(1, 1, 2))
    hooked = nn.Sequential(nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ModuleError, match=r"0, ReLU.*has the hook"):
        stream(hooked)
    with pytest.raises(ArrayTypeError, match="model is a int"):
        stream(3)
    for chunk, message in (
        (np.zeros((1, 1, 3), np.float32), "chunk is ndarray, expected a CPU tensor"),
        (torch.zeros(1, 1, 3, dtype=torch.float64), "chunk has dtype torch.float64"),
    ):
        with pytest.raises(ArrayTypeError, match=message):
            one(chunk)
    with pytest.raises(ModuleError, match=r"chunk has shape \(3,\), expected \(N, C, T\)"):
        one(torch.zeros(3))


# examples/stream_decoder.py


def test_the_example(first_runtime, tmp_path, monkeypatch, capsys):
    """It agrees with the whole signal, and sees where a stream does not."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    import stream_decoder

    monkeypatch.setattr(stream_decoder, "RATIOS", (2,))
    arguments = ["--frames", "9", "--maps", "16", "--output", str(tmp_path / "sound.png")]
    assert stream_decoder.main(arguments) == 0
    assert (tmp_path / "sound.png").stat().st_size > 10_000
    assert "latency 0, stride 1/2" in capsys.readouterr().out
    real = StreamingSequential.__call__
    monkeypatch.setattr(StreamingSequential, "__call__", lambda self, x: real(self, 1.001 * x))
    assert stream_decoder.main(arguments) == 1
