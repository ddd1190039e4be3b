"""The bridge to PyTorch does what torch's own layers and functions do, to the bit on integers."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import subprocess
import sys
import threading

import numpy as np
import pyopencl as cl
import pytest
import torch
import torch.nn.functional as TF
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations

from clconv import Conv1D, DeviceError, ProblemError
from clconv.calls.recipes import draft_conv1d_backward
from clconv.geometry import Geometry
from clconv.torch import Conv1d, ConvTranspose1d, conv1d, conv_transpose1d, convert, memory

# What torch says of its own way with an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

DTYPES = (torch.float32, torch.float16, torch.float64, torch.bfloat16)
FUNCTIONS = {
    "conv1d": (conv1d, TF.conv1d),
    "conv_transpose1d": (conv_transpose1d, TF.conv_transpose1d),
}


def integers(*shape, dtype=torch.float32, grad=True):
    """Whole numbers in -4 … 4, whose sums are exact."""
    return torch.randint(-4, 5, shape).to(dtype).requires_grad_(grad)


@pytest.mark.parametrize(
    "geometry", [Geometry(2, (1, 0), 3), Geometry(1, "same"), Geometry(2, 1, 3, 1, True, 1)]
)
def test_lengths_of_symbols(geometry):
    """Shapes are PyTorch's symbols where it traces: the same formulas give theirs."""

    def result(x, weight):
        return x.new_empty(geometry.out_length(x.shape[2], weight.shape[2]))

    traced = make_fx(result, tracing_mode="symbolic")(torch.ones(1, 1, 30), torch.ones(1, 1, 4))
    for length, size in ((30, 4), (41, 7)):
        found = traced(torch.ones(1, 1, length), torch.ones(1, 1, size))
        assert found.shape == (geometry.out_length(length, size),)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240229)


def twin(tensor, dtype=None):
    """A leaf of its own with the same values."""
    if tensor is None:
        return None
    copied = tensor.detach().clone() if dtype is None else tensor.detach().to(dtype)
    return copied.requires_grad_(tensor.requires_grad)


def same(ours, theirs):
    """Equal in every bit, in dtype and in shape."""
    assert (ours is None) == (theirs is None)
    if ours is not None:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def compare(ours, theirs, tensors, *arguments, **named):
    """Result and gradients of integers: torch's in float64, rounded once."""
    exact = [twin(t, torch.float64) for t in tensors]
    y, true = ours(*tensors, *arguments, **named), theirs(*exact, *arguments, **named)
    dtype = tensors[0].dtype
    same(y, true.to(dtype))
    grad = integers(*true.shape, dtype=dtype, grad=False)
    y.backward(grad)
    true.backward(grad.double())
    for t, e in zip(tensors, exact, strict=True):
        if t is not None:
            same(t.grad, None if e.grad is None else e.grad.to(dtype))


# Functions

GEOMETRIES = {
    "plain": ((2, 4, 19), (6, 4, 3), {}),
    "stride does not divide": ((2, 4, 19), (6, 4, 3), {"stride": 2, "padding": 2}),
    "dilation and groups": ((2, 4, 19), (6, 2, 3), {"dilation": 3, "groups": 2, "padding": 1}),
    "same": ((2, 4, 19), (6, 4, 5), {"padding": "same"}),
    "same, even kernel": ((2, 4, 19), (6, 4, 4), {"padding": "same"}),
    "same, even kernel, dilation": ((2, 4, 19), (6, 4, 4), {"padding": "same", "dilation": 3}),
    "valid": ((2, 4, 19), (6, 4, 4), {"padding": "valid", "stride": 3}),
    "one-tuples": (
        (2, 4, 19),
        (6, 4, 4),
        {"padding": (2,), "stride": (2,), "dilation": (2,), "groups": 1},
    ),
    "unbatched": ((4, 19), (6, 4, 3), {"padding": 1}),
    "no batch": ((0, 4, 19), (6, 4, 3), {"padding": 1}),
}
TRANSPOSED = {
    "plain": ((2, 4, 9), (4, 6, 3), {}),
    "stride": ((2, 4, 9), (4, 6, 4), {"stride": 2, "padding": 1}),
    "output padding": ((2, 4, 9), (4, 6, 3), {"stride": 3, "output_padding": 2, "padding": 1}),
    "past every window": ((2, 4, 9), (4, 6, 2), {"stride": 3, "output_padding": 2}),
    "groups": ((2, 4, 9), (4, 3, 3), {"groups": 2, "dilation": 2}),
    "unbatched": ((4, 9), (4, 6, 3), {"stride": (2,), "padding": (1,), "output_padding": (1,)}),
    "no batch": ((0, 4, 9), (4, 6, 3), {"stride": 2}),
}


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_conv1d(runtime, name):
    x, weight, options = GEOMETRIES[name]
    compare(conv1d, TF.conv1d, [integers(*shape) for shape in (x, weight, (6,))], **options)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose1d(runtime, name):
    x, weight, options = TRANSPOSED[name]
    shapes = x, weight, (weight[1] * options.get("groups", 1),)
    tensors = [integers(*shape) for shape in shapes]
    compare(conv_transpose1d, TF.conv_transpose1d, tensors, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(runtime, dtype):
    tensors = [integers(*shape, dtype=dtype) for shape in ((2, 4, 19), (6, 2, 4), (6,))]
    compare(conv1d, TF.conv1d, tensors, padding="same", dilation=3, groups=2)
    tensors = [integers(*shape, dtype=dtype) for shape in ((2, 4, 9), (4, 6, 3), (6,))]
    compare(conv_transpose1d, TF.conv_transpose1d, tensors, stride=3, output_padding=2)


def test_arguments_stand_in_torch_s_order(runtime):
    x, weight, bias = integers(2, 4, 19), integers(6, 2, 3), integers(6)
    compare(conv1d, TF.conv1d, [x, weight, bias], 2, 3, 2, 2)
    x, weight, bias = integers(2, 6, 9), integers(6, 2, 3), integers(4)
    compare(conv_transpose1d, TF.conv_transpose1d, [x, weight, bias], 3, 1, 2, 2, 4)
    compare(conv1d, TF.conv1d, [integers(2, 4, 9), integers(6, 4, 3), None])


def test_two_paddings(runtime):
    """An addition to torch's: (left, right)."""
    x, weight = integers(2, 4, 9), integers(6, 4, 3)
    same(conv1d(x, weight, padding=(3, 1)), TF.conv1d(TF.pad(x, (3, 1)), weight))


# Memory

VIEWS = {
    "every second sample": lambda: integers(2, 4, 40, grad=False)[..., ::2],
    "every second channel": lambda: integers(2, 8, 20, grad=False)[:, 1::2],
    "channels last": lambda: integers(2, 20, 4, grad=False).transpose(1, 2),
    "the middle": lambda: integers(4, 6, 30, grad=False)[1:3, 1:5, 7:27],
    "one channel for all": lambda: integers(2, 1, 20, grad=False).expand(2, 4, 20),
    "one number for all": lambda: integers(1, grad=False).expand(2, 4, 20),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(runtime, name):
    view = VIEWS[name]()
    assert not view.is_contiguous()
    before = view.clone()
    weight = integers(3, 6, 4, grad=False).permute(1, 2, 0)
    bias = integers(6, grad=False)
    same(conv1d(view, weight, bias), TF.conv1d(view, weight, bias))
    same(view, before)
    leaf, others = integers(2, 4, 22), integers(6, 4, 3)
    y = conv1d(leaf, others)
    grad = torch.cat([view, view[:, :2]], 1)[:, ::1].transpose(1, 2).contiguous().transpose(1, 2)
    assert not grad.is_contiguous()
    (ours,) = torch.autograd.grad(y, others, grad)
    same(ours, torch.autograd.grad(TF.conv1d(leaf, others), others, grad)[0])


def test_tensors_over_the_same_memory(runtime):
    x = integers(4, 2, 6, grad=False)
    same(conv1d(x, x), TF.conv1d(x, x))
    weight = x.flatten()[3:39].view(6, 2, 3)
    same(
        conv1d(x, weight, weight[0, 0, :1].expand(6)),
        TF.conv1d(x, weight, weight[0, 0, :1].expand(6)),
    )


def test_no_two_buffers_over_the_same_memory(runtime, monkeypatch):
    """OpenCL leaves it undefined: of tensors of a call that overlap one is copied."""
    spans = []
    made = cl.Buffer

    class Watched(made):
        def __init__(self, context, flags, size=0, hostbuf=None):
            super().__init__(context, flags, size, hostbuf)
            if flags & cl.mem_flags.USE_HOST_PTR:
                memory = np.frombuffer(hostbuf, np.uint8)
                spans.append((memory.ctypes.data, memory.ctypes.data + memory.size))

    monkeypatch.setattr(cl, "Buffer", Watched)
    storage = integers(4 * 2 * 30, grad=False)
    x, weight = storage[:160].view(4, 2, 20), storage[100:136].view(6, 2, 3)
    for one, other, alike in (
        (x, weight, False),
        (x, x, False),
        (storage.view(4, 2, 30)[:, :, :20], storage.view(4, 2, 30)[:, :, 20:], False),
        (x, storage[159:165].view(1, 2, 3), False),
        (x, storage[160:196].view(6, 2, 3), True),  # one ends where the other begins
    ):
        spans.clear()
        leaf, taps = one.detach().requires_grad_(), other.detach().requires_grad_()
        y = conv1d(leaf, taps)
        same(y, TF.conv1d(one, other))
        shared = len(spans)
        y.backward(torch.ones_like(y))
        same(taps.grad, torch.nn.grad.conv1d_weight(one, other.shape, torch.ones_like(y)))
        for of_call in (spans[:shared], spans[shared:]):
            ordered = sorted(of_call)
            assert len(ordered) > 2
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
        if alike:
            begin = one.data_ptr()
            assert (begin, begin + one.nbytes) in spans
            assert (other.data_ptr(), other.data_ptr() + other.nbytes) in spans


def test_misaligned_memory(runtime):
    """Four bytes suffice; a tensor that starts inside an element is copied."""
    raw = np.zeros(4 * 200 + 64, np.uint8)
    for offset in (4, 1):
        begin = -raw.ctypes.data % 64 + offset
        numbers = raw[begin : begin + 4 * 80].view(np.float32).reshape(1, 4, 20)
        numbers[:] = np.arange(80).reshape(1, 4, 20) % 9 - 4
        x, weight = torch.from_numpy(numbers), integers(6, 4, 3, grad=False)
        assert x.data_ptr() % 64 == offset
        same(conv1d(x, weight), TF.conv1d(x.clone(), weight))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_copy_only_where_memory_is_not_shared(runtime, monkeypatch, in_place):
    copied = []
    upload = type(runtime).to_device
    monkeypatch.setattr(memory, "shares_memory", lambda _: in_place)
    monkeypatch.setattr(
        type(runtime), "to_device", lambda self, a: copied.append(a.shape) or upload(self, a)
    )
    compare(conv1d, TF.conv1d, [integers(2, 4, 19), integers(6, 2, 4), integers(6)], 2, 3, 1, 2)
    compare(conv_transpose1d, TF.conv_transpose1d, [integers(2, 4, 9), integers(4, 6, 4), None], 2)
    compare(conv1d, TF.conv1d, [integers(0, 4, 19), integers(6, 4, 4), integers(6)])
    assert (not copied) == in_place


def test_shared_memory_is_what_the_device_says(runtime):
    assert memory.shares_memory(runtime) == bool(runtime.device.host_unified_memory)


def test_results_keep_no_buffers(runtime):
    """What a call allocated on the device is free again when it returns."""
    plain = type(runtime).__mro__[1](runtime.device)
    with plain:
        x, weight = integers(2, 4, 40)[..., ::2], integers(6, 4, 3)
        conv1d(x, weight).sum().backward()
        gc.collect()
        assert plain.memory_info()["in_use"] == 0


def test_a_parameter_that_changed_in_place(runtime):
    """No buffer outlives its call, so that the device sees what an optimizer wrote."""
    x, weight = integers(2, 4, 19, grad=False), integers(6, 4, 3, grad=False)
    for _ in range(3):
        same(conv1d(x, weight), TF.conv1d(x, weight))
        weight.add_(1)
        x.mul_(-1)


def test_the_runtime_is_the_thread_s(runtime):
    launches = runtime.launches
    x, weight = integers(2, 4, 19), integers(6, 4, 3)
    y = conv1d(x, weight)
    assert runtime.launches > launches
    launches = runtime.launches
    y.sum().backward()
    assert runtime.launches > launches


def test_threads(runtime):
    """Several threads at once, forward and backward."""
    cases = [(integers(2, 4, 20 + i), integers(6, 4, 3)) for i in range(4)]
    grads = {}

    def work(i):
        with runtime:
            x, weight = cases[i]
            for _ in range(5):
                grads[i] = torch.autograd.grad(conv1d(x, weight).sum(), (x, weight))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, (x, weight) in enumerate(cases):
        for ours, theirs in zip(
            grads[i], torch.autograd.grad(TF.conv1d(x, weight).sum(), (x, weight)), strict=True
        ):
            same(ours, theirs)


# Autograd


def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


DIFFERENTIATED = {
    "convolution": (
        lambda *t: conv1d(*t, stride=2, padding=(2, 1), dilation=2, groups=2),
        ((2, 4, 9), (2, 2, 3), (2,)),
    ),
    "unbatched": (lambda *t: conv1d(*t, padding="same"), ((2, 7), (3, 2, 4), (3,))),
    "transposed": (
        lambda *t: conv_transpose1d(*t, stride=3, padding=1, output_padding=2, groups=2),
        ((2, 4, 5), (4, 1, 2), (2,)),
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_gradcheck(runtime, name):
    function, shapes = DIFFERENTIATED[name]
    tensors = [doubles(*shape) for shape in shapes]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_gradients(runtime, name):
    """A gradient penalty, as Wasserstein networks have; each gradient alone and all at once."""
    ours, theirs = FUNCTIONS[name]
    tensors = integers(2, 3, 8), integers(3, 3, 3), integers(3)
    for wanted in ([0], [1], [2], [0, 1, 2]):
        results = []
        for function in (ours, theirs):
            leaves = [twin(t, torch.float64) for t in tensors]
            y = function(*leaves)
            first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
            sum(first[i].square().sum() for i in wanted).backward()
            results.append([leaf.grad for leaf in leaves])
        for one, other in zip(*results, strict=True):
            same(one, other)


def test_only_needed_gradients_are_computed(runtime, monkeypatch):
    needs = []
    real = memory.Arrays.call

    def call(self, make, geometry, *options, **numbers):
        if make is draft_conv1d_backward:
            needs.append(options[0])
        real(self, make, geometry, *options, **numbers)

    monkeypatch.setattr(memory.Arrays, "call", call)
    for need in ((True, False, False), (False, True, False), (False, False, True), (True,) * 3):
        tensors = integers(2, 4, 9), integers(6, 4, 3), integers(6)
        for t, n in zip(tensors, need, strict=True):
            t.requires_grad_(n)
        compare(conv1d, TF.conv1d, tensors)
        assert needs.pop() == need
    compare(conv1d, TF.conv1d, [integers(2, 4, 9), integers(6, 4, 3), None])
    assert needs == [(True, True, False)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(runtime, mode):
    layer = Conv1d(4, 6, 3)
    with mode():
        y = layer(integers(2, 4, 9, grad=False))
        z = layer(integers(2, 4, 9, grad=False))
    assert not y.requires_grad
    assert y.shape == z.shape == (2, 6, 7)


def test_bfloat16_autocast(runtime):
    """As torch does it: the layer's inputs become bfloat16, and so does the result."""
    x, weight, bias = integers(2, 4, 19), integers(6, 4, 3), integers(6)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv1d(x, weight, bias)
    assert y.dtype is torch.bfloat16
    same(y, TF.conv1d(x, weight, bias).bfloat16())
    y.sum().backward()
    assert weight.grad.dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert conv1d(x.double(), weight.double()).dtype is torch.float64


# Layers

MODES = ("zeros", "reflect", "replicate", "circular")
LAYERS = {
    "defaults": (4, 6, 3),
    "all": (4, 6, 3, 2, 2, 2, 2, False),
    "same, even kernel and dilation": (4, 6, 4, 1, "same", 2),
    "valid": (4, 6, (4,), (2,), "valid"),
}


def whole_parameters(layer):
    """Small integers in place of a layer's parameters."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(integers(*parameter.shape, grad=False))
    return layer


@pytest.mark.one_of(2)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAYERS)
def test_conv1d_layer(runtime, name, mode):
    theirs = whole_parameters(nn.Conv1d(*LAYERS[name], padding_mode=mode))
    ours = Conv1d(*LAYERS[name], padding_mode=mode)
    assert isinstance(ours, nn.Conv1d)
    assert ours.load_state_dict(theirs.state_dict()) == theirs.load_state_dict(ours.state_dict())
    for shape in ((2, 4, 19), (4, 19)):
        compare(ours, theirs.double(), [integers(*shape)])
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            same(one.grad, other.grad.float())
        ours.zero_grad()
        theirs.zero_grad()


def test_conv_transpose1d_layer(runtime):
    arguments = (4, 6, 3, 3, 1, 1, 2)
    theirs = whole_parameters(nn.ConvTranspose1d(*arguments))
    ours = ConvTranspose1d(*arguments)
    assert isinstance(ours, nn.ConvTranspose1d)
    ours.load_state_dict(theirs.state_dict())
    for shape, size in (
        ((2, 4, 9), None),
        ((4, 9), None),
        ((2, 4, 9), [27]),
        ((2, 4, 9), [2, 6, 25]),
    ):
        compare(ours, theirs.double(), [integers(*shape)], output_size=size)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            same(one.grad, other.grad.float())
        ours.zero_grad()
        theirs.zero_grad()
    with pytest.raises(ValueError, match="size"):
        ours(integers(2, 4, 9), output_size=[99])


def test_layers_take_torch_s_keywords(runtime):
    layer = Conv1d(4, 6, 3, bias=False, device="cpu", dtype=torch.float64)
    assert layer.bias is None
    assert layer(integers(2, 4, 9, dtype=torch.float64)).dtype is torch.float64
    with torch.device("meta"), pytest.raises(TypeError, match="input is a tensor on meta"):
        Conv1d(4, 6, 3)(torch.empty(2, 4, 9))


def network():
    """Every kind of layer that `convert` meets."""
    shared = nn.Conv1d(8, 8, 3, padding="same", padding_mode="circular")
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        shared,
        nn.ReLU(),
        shared,
        parametrizations.weight_norm(nn.Conv1d(8, 8, 4, groups=2)),
        nn.Sequential(nn.ConvTranspose1d(8, 2, 4, stride=2)),
    )


def test_convert(runtime):
    theirs = network().double()
    ours = copy.deepcopy(theirs)
    parameters = dict(ours.named_parameters())
    assert convert(ours) == 4  # the shared one once
    assert {k: id(p) for k, p in ours.named_parameters()} == {
        k: id(p) for k, p in parameters.items()
    }
    assert ours[2] is ours[4]
    assert isinstance(ours[0], Conv1d)
    assert isinstance(ours[5], Conv1d)
    assert isinstance(ours[6][0], ConvTranspose1d)
    assert convert(ours) == 0
    x = torch.randn(3, 4, 20, dtype=torch.float64)
    y, true = ours(x), theirs(x)
    torch.testing.assert_close(y, true)
    y.square().sum().backward()
    true.square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert theirs.load_state_dict(ours.state_dict()).missing_keys == []
    torch.testing.assert_close(copy.deepcopy(ours)(x), true)


def test_convert_a_layer_and_what_is_no_layer(runtime):
    layer = nn.Conv1d(4, 6, 3)
    assert convert(layer) == 1
    assert type(layer) is Conv1d
    assert repr(layer) == "Conv1d(4, 6, kernel_size=(3,), stride=(1,), backend=clconv)"
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = torch.randn(2, 4, 9)
    same(torch.load(file, weights_only=False)(x), layer(x))
    assert convert(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(3, 3))) == 0
    with pytest.raises(TypeError, match=r"model is a Conv1D, expected a torch\.nn\.Module"):
        convert(Conv1D(1, 1, 3))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_follows_torch(runtime, optimizer):
    theirs = network().double()
    ours = copy.deepcopy(theirs)
    convert(ours)
    x, target = (
        torch.randn(3, 4, 20, dtype=torch.float64),
        torch.randn(3, 2, 36, dtype=torch.float64),
    )
    for model in (ours, theirs):
        steps = optimizer(model.parameters(), lr=0.01)
        for _ in range(5):
            steps.zero_grad()
            TF.mse_loss(model(x), target).backward()
            steps.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_only_who_asks_imports_torch():
    """Neither clconv nor its commands do."""
    code = (
        "import sys, clconv.__main__; print('torch' in sys.modules, 'clconv.torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False"] * 2


# torch.compile


def test_operators_are_what_the_dispatcher_expects(runtime):
    x, weight, bias = doubles(2, 4, 9), doubles(6, 2, 3), doubles(6)
    layer = (2, [3, 2], 2, 2, False, 0)
    y = torch.ops.clconv.convolution(x, weight, bias, *layer)
    torch.library.opcheck(torch.ops.clconv.convolution.default, (x, weight, bias, *layer))
    for need in ([True] * 3, [False, True, False]):
        torch.library.opcheck(
            torch.ops.clconv.convolution_backward.default,
            (x, weight, torch.randn_like(y), need, *layer),
        )


def test_compile(first_runtime):
    """The operators stay in one graph, forward and backward."""
    layers = nn.Sequential(
        nn.Conv1d(4, 8, 4, padding="same"), nn.ReLU(), nn.ConvTranspose1d(8, 2, 4, stride=2)
    )
    theirs = whole_parameters(layers)
    ours = copy.deepcopy(theirs)
    convert(ours)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for length in (20, 24):
        compare(compiled, copy.deepcopy(theirs).double(), [integers(3, 4, length)])
    torch._dynamo.reset()


# Errors


WRONG = {
    "no tensor": (lambda x, w: conv1d(x.detach().numpy(), w), TypeError, "input is a ndarray"),
    "other device": (
        lambda x, w: conv1d(x, w.to("meta")),
        TypeError,
        "weight is a tensor on meta, expected one on cpu",
    ),
    "bias elsewhere": (
        lambda x, w: conv_transpose1d(x, w, torch.empty(3, device="meta")),
        TypeError,
        "bias is a tensor on meta",
    ),
    "sparse": (
        lambda x, w: conv1d(x.to_sparse(), w),
        TypeError,
        "input has layout torch.sparse_coo",
    ),
    "integers": (lambda x, w: conv1d(x.int(), w.int()), TypeError, "input has dtype torch.int32"),
    "complex": (
        lambda x, w: conv1d(x, w.to(torch.complex64)),
        TypeError,
        "weight has dtype .*complex64",
    ),
    "mixed": (
        lambda x, w: conv1d(x, w.double()),
        ProblemError,
        "weight has dtype torch.float64, expected torch.float32",
    ),
    "dimensions": (
        lambda x, w: conv1d(x[None], w),
        ProblemError,
        r"input has shape \(1, 2, 4, 9\)",
    ),
    "weight's dimensions": (
        lambda x, w: conv1d(x, w[0]),
        ProblemError,
        r"weight has shape \(4, 3\)",
    ),
    "channels": (lambda x, w: conv1d(x[:, :3], w), ProblemError, r"weight has shape \(6, 4, 3\)"),
    "too short": (lambda x, w: conv1d(x[..., :2], w), ProblemError, "length with padding is 2"),
    "bias": (lambda x, w: conv1d(x, w, torch.zeros(5)), ProblemError, r"bias has shape \(5,\)"),
    "stride": (lambda x, w: conv1d(x, w, stride=0), ProblemError, "stride is 0"),
    "padding": (lambda x, w: conv1d(x, w, padding=-1), ProblemError, "padding is -1"),
    "padding's name": (
        lambda x, w: conv1d(x, w, padding="full"),
        ProblemError,
        "padding is 'full'",
    ),
    "same with stride": (
        lambda x, w: conv1d(x, w, stride=2, padding="same"),
        ProblemError,
        "stride is 2",
    ),
    "dilation": (lambda x, w: conv1d(x, w, dilation=0), ProblemError, "dilation is 0"),
    "groups": (lambda x, w: conv1d(x, w, groups=3), ProblemError, "groups is 3"),
    "no groups": (lambda x, w: conv1d(x, w, groups=0), ProblemError, "groups is 0"),
    "output padding": (
        lambda x, w: conv_transpose1d(x, w[:4], output_padding=1),
        ProblemError,
        "output_padding is 1",
    ),
    "nothing left": (
        lambda x, w: conv_transpose1d(x, w[:4], padding=9),
        ProblemError,
        "leaves -7 output positions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(runtime, name):
    call, error, message = WRONG[name]
    launches = runtime.launches
    with pytest.raises(error, match=message):
        call(integers(2, 4, 9), integers(6, 4, 3))
    assert runtime.launches == launches


def test_an_error_of_the_device_comes_through(runtime, monkeypatch):
    def refuse(*_, **__):
        raise DeviceError("out of order")

    monkeypatch.setattr(type(runtime), "enqueue", refuse)
    with pytest.raises(DeviceError, match="out of order"):
        conv1d(integers(2, 4, 9), integers(6, 4, 3))
