"""Host memory is borrowed for a call: it is as it was afterwards, and lives until kernels end."""

from __future__ import annotations

import threading

import pyopencl as cl
import pytest
import torch
import torch.nn.functional as TF

from clconv import DeviceError
from clconv.calls.recipes import draft_conv1d
from clconv.geometry import Geometry
from clconv.torch import conv1d, conv_transpose1d, memory


def ones(*shape, grad=False):
    return torch.ones(shape, requires_grad=grad)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("function", [conv1d, conv_transpose1d])
def test_storages_can_still_be_resized(runtime, monkeypatch, function, in_place):
    """As FSDP does to inputs, weights, results and gradients, and `out=` to any."""
    monkeypatch.setattr(memory, "shares_memory", lambda _: in_place)
    x, weight, bias = ones(2, 4, 9, grad=True), ones(4, 4, 3, grad=True), ones(4, grad=True)
    y = function(x, weight, bias)
    grads = torch.autograd.grad(y, (x, weight, bias), ones(*y.shape))
    for tensor in (x, weight, bias, y, *grads):
        tensor = tensor.detach()
        assert tensor.untyped_storage().resizable()
        tensor.resize_(1000)
        tensor.untyped_storage().resize_(0)


@pytest.mark.parametrize("in_place", [True, False])
def test_memory_that_is_gone(runtime, monkeypatch, in_place):
    """A storage without its bytes is refused, in the backward pass too, and comes back."""
    monkeypatch.setattr(memory, "shares_memory", lambda _: in_place)
    x, weight = ones(1, 2, 12), ones(2, 2, 3, grad=True)
    y = conv1d(x, weight)
    x.untyped_storage().resize_(0)
    expected = r"shape \(1, 2, 12\), expected 96 bytes in its storage, which was resized to 0"
    for call in (
        lambda: conv1d(x, weight),
        lambda: conv1d(x, x.view(1, 2, 12)),
        lambda: y.sum().backward(),
    ):
        with pytest.raises(TypeError, match=expected):
            call()
    x.untyped_storage().resize_(96)
    x.data.fill_(1)  # as FSDP does, behind autograd's back
    y.sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((2, 2, 3), 10.0))


def test_views_of_a_negated_or_absent_tensor(runtime):
    """What PyTorch keeps as a mark on a tensor is worked out before a kernel reads it."""
    negated = torch.randn(1, 2, 9, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    weight = torch.randn(3, 2, 3)
    torch.testing.assert_close(conv1d(negated, weight), TF.conv1d(negated, weight))
    nothing = torch._efficientzerotensor((1, 2, 9))
    torch.testing.assert_close(conv1d(nothing, weight), torch.zeros(1, 3, 7))


@pytest.fixture
def gate(runtime):
    """Kernels of the runtime wait until it is opened, soon."""
    event = cl.UserEvent(runtime.context)
    cl.enqueue_barrier(runtime.queue, wait_for=[event])
    runtime.queue.flush()
    opened = threading.Timer(0.5, event.set_status, [cl.command_execution_status.COMPLETE])
    opened.start()
    yield event
    opened.join()


@pytest.mark.parametrize("place", ["after the kernels", "waiting"])
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_an_interrupt_waits_for_the_kernels(runtime, monkeypatch, request, which, place):
    """Ctrl-C between the first kernel and the end of the last: no tensor is freed that one uses."""
    x, weight = ones(2, 4, 9, grad=True), ones(6, 4, 3, grad=True)
    y = conv1d(x, weight)
    y.sum().backward()  # builds everything
    request.getfixturevalue("gate")
    markers = []

    def interrupt(*_, **__):
        markers.append(cl.enqueue_marker(runtime.queue))
        assert memory._held  # kernels wait, and the tensors for them
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "shares_memory", lambda _: True)
    if place == "waiting":
        monkeypatch.setattr(cl, "enqueue_map_buffer", interrupt)
    else:
        real = memory.Arrays.call
        monkeypatch.setattr(memory.Arrays, "call", lambda *a, **k: (real(*a, **k), interrupt()))
    layer = 1, [0, 0], 1, 1, False, 0
    operators = torch.ops.clconv
    tensors = x.detach(), weight.detach()
    calls = {
        "forward": lambda: operators.convolution(*tensors, None, *layer),
        "backward": lambda: operators.convolution_backward(*tensors, y, [True] * 3, *layer),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[which]()
    (marker,) = markers
    assert marker.command_execution_status == cl.command_execution_status.COMPLETE
    assert not memory._held


def test_tensors_are_held_where_nobody_knows_when_kernels_end(runtime, monkeypatch):
    """Better a leak than a kernel that writes what belongs to somebody else by now."""
    x, weight = ones(2, 4, 9), ones(6, 4, 3)

    def lost(*_, **__):
        raise DeviceError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(cl, "enqueue_map_buffer", lost)
        patch.setattr(memory, "shares_memory", lambda _: True)
        patch.setattr(type(runtime), "finish", lost)
        with pytest.raises(DeviceError, match="lost"):
            conv1d(x, weight)
    (held,) = memory._held
    assert [tuple(t.shape) for t in held._tensors] == [(2, 4, 9), (6, 4, 3), (2, 6, 7)]
    runtime.finish()  # what was said to be lost is not: now they may go
    memory._held.clear()


def test_nothing_is_held_after_a_call(runtime):
    x, weight = ones(2, 4, 9, grad=True), ones(6, 4, 3)
    conv1d(x, weight).sum().backward()
    conv1d(ones(0, 4, 9), weight)
    with pytest.raises(ValueError, match="groups is 3"):
        conv1d(x, weight, groups=3)
    assert not memory._held


def test_tensors_are_read_where_they_lie(runtime):
    """A driver that copied the memory of a buffer would have the values of then."""
    if not memory.shares_memory(runtime):
        pytest.skip(f"{runtime.info.name} has memory of its own")
    x, weight = torch.zeros(1, 64, 1000), torch.zeros(64, 64, 1)
    y = torch.empty(1, 64, 1000)
    with memory.Arrays(runtime) as arrays:
        arrays.read("x", x)
        arrays.weight(weight)
        arrays.write("out", y)
        x.fill_(3)
        weight.fill_(2)
        arrays.call(draft_conv1d, Geometry(), None, "auto")
    assert torch.equal(y, torch.full_like(y, 2 * 3 * 64))


@pytest.mark.parametrize("function", [conv1d, conv_transpose1d])
def test_recipes_are_kept_by_how_tensors_lie(runtime, monkeypatch, function):
    """A call like an earlier one checks nothing again; other strides are another call."""
    if not memory.shares_memory(runtime):
        pytest.skip(f"{runtime.info.name} has memory of its own")
    x, weight, bias = ones(2, 4, 9), ones(4, 4, 3), ones(4)
    grad = torch.ones_like(function(x, weight, bias))
    weight.requires_grad_()
    function(x, weight, bias).backward(grad)

    def check(*_, **__):
        raise AssertionError("checked again")

    monkeypatch.setattr(memory, "Call", check)
    weight.grad = None
    y = function(x + 1, weight, bias)
    y.backward(grad)
    assert torch.equal(y, 2 * function(x, weight, bias) - 1)
    other = ones(2, 9, 4).transpose(1, 2)
    for call in (
        lambda: function(other, weight, bias),
        lambda: function(x, weight),
        lambda: function(x, weight, bias, 2),
        lambda: function(x.double(), weight.double(), bias.double()),
        lambda: function(x, weight, ones(8)[::2]),
    ):
        with pytest.raises(AssertionError, match="checked again"):
            call()
    monkeypatch.setattr(runtime, "exact", not runtime.exact)
    with pytest.raises(AssertionError, match="checked again"):
        function(x, weight, bias)
