"""Arrays of every kind of memory, wherever an array enters: right, or refused by name."""

from __future__ import annotations

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pyopencl.tools
import pytest

import clconv.functional as F
from clconv import Conv1D, Deconv1D, Pad1D, ProblemError, Sequential, Variable, gpuarray
from clconv.calls.elementwise import copy_view, fill, fingerprint, host_values
from clconv.errors import ArrayTypeError
from clconv.streaming import StreamingConv1D


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def _svm(runtime, queue, kind):
    """A function from bytes to shared virtual memory."""
    if not runtime.device.svm_capabilities:
        pytest.skip(f"{runtime.info.name} has no shared virtual memory")
    if runtime.info.platform.startswith("Portable") and runtime.info.driver.startswith("3.0"):
        pytest.skip("PoCL 3.0 crashes where a queue frees such memory, without clconv too")
    if kind == "allocation":
        flags = cl.svm_mem_flags.READ_WRITE
        return lambda nbytes: cl.SVMAllocation(runtime.context, nbytes, 0, flags, queue=queue)
    allocator = cl.tools.SVMAllocator(runtime.context, alignment=0, queue=queue)
    return cl.tools.SVMPool(allocator) if kind == "pool" else allocator


def _maker(runtime, kind):
    """A function from NumPy's arrays to arrays of a kind of memory."""
    context, queue = runtime.context, runtime.queue
    flags = cl.mem_flags.READ_WRITE
    if kind.startswith("svm"):
        other = cl.CommandQueue(context, runtime.device) if kind.endswith("queue") else queue
        memory, queue = _svm(runtime, other, kind.split()[1]), other
    elif kind == "buffer":
        memory = lambda nbytes: cl.Buffer(context, flags, nbytes)  # noqa: E731
    elif kind == "part of a buffer":
        whole = cl.Buffer(context, flags, 1 << 20)
        places = iter(range(1 << 12, 1 << 20, 1 << 12))
        memory = lambda nbytes: whole.get_sub_region(next(places), nbytes)  # noqa: E731
    elif kind == "pool":
        memory = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(queue))
    else:
        memory = lambda nbytes: cl.Buffer(  # noqa: E731
            context, flags | cl.mem_flags.ALLOC_HOST_PTR, nbytes
        )

    def make(array):
        array = np.ascontiguousarray(array)
        made = cl_array.Array(queue, array.shape, array.dtype, data=memory(array.nbytes))
        made.set(array)
        return made.with_queue(None) if kind == "no queue" else made

    return make


@pytest.fixture(
    params=[
        "buffer",
        "part of a buffer",
        "pool",
        "host memory",
        "no queue",
        "svm pool",
        "svm allocator",
        "svm allocation",
        "svm pool of another queue",
    ]
)
def make(request, runtime):
    """Makes arrays of one kind of memory."""
    return _maker(runtime, request.param)


@pytest.fixture
def shared(runtime):
    """Makes arrays in shared virtual memory."""
    return _maker(runtime, "svm pool")


def test_functions(make, rng):
    x, w, b, g = (integers(rng, *s) for s in ((2, 3, 9), (4, 3, 3), (4,), (2, 4, 7)))
    out = make(np.zeros((2, 4, 7), np.float32))
    assert F.conv1d(make(x), make(w), make(b), out=out) is out
    np.testing.assert_array_equal(host_values(out), F.conv1d(x, w, b))
    for view in (np.s_[:, :, 1:], np.s_[:, :, ::2], np.s_[1:]):
        result = F.conv1d(make(x)[view], make(w))
        np.testing.assert_array_equal(result.get(), F.conv1d(x[view].copy(), w))
    for ours, right in zip(
        F.conv1d_backward(make(x), make(w), make(g)), F.conv1d_backward(x, w, g), strict=True
    ):
        np.testing.assert_array_equal(ours.get(), right)
    up = F.conv_transpose1d(make(x), make(w[:3]))
    np.testing.assert_array_equal(up.get(), F.conv_transpose1d(x, w[:3]))


def test_accumulating_outs(make, rng):
    x, g, old = integers(rng, 2, 3, 9), integers(rng, 2, 4, 7), integers(rng, 4, 3, 3)
    out = make(old)
    F.conv1d_weight(make(x), (4, 3, 3), make(g), out=out, scale=2, momentum=3)
    right = 3 * old + 2 * F.conv1d_weight(x, (4, 3, 3), g)
    np.testing.assert_array_equal(host_values(out), right)


def test_layers(make, rng):
    W, b, x = integers(rng, 4, 3, 1, 3), integers(rng, 1, 4, 1, 1), integers(rng, 2, 3, 9)
    results = []
    for to_device in (make, gpuarray.to_gpu):
        net = Sequential().append(Pad1D(2, "reflect")).append(Conv1D(3, 4, 3, activation="relu"))
        net.append(Deconv1D(4, 2, 2, stride=2, initscheme="none"))
        for name, array in (("W", W), ("b", b)):
            net[1].setVar(name, Variable(to_device(array), grad=to_device(0 * array)))
        net[2].getVar("W").data.fill(1)
        y = net(to_device(x))
        grad = net.backward(to_device(np.ones(y.shape, np.float32)))
        net.updateParams(0.5)
        gradients = [host_values(v.grad) for v in net.getVarTable()]
        net.zeroGradParams()
        arrays = [v.data for v in net.getVarTable()] + [v.grad for v in net.getVarTable()]
        results.append([y.get(), grad.get(), *gradients, *map(host_values, arrays)])
    for ours, right in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, right)


def test_copies(make, rng):
    x = integers(rng, 2, 3, 9)
    np.testing.assert_array_equal(gpuarray.copy(make(x)[:, 1:, ::2]).get(), x[:, 1:, ::2])
    joined = gpuarray.concatenate([make(x), make(x)[:, :, 3:]], axis=2)
    np.testing.assert_array_equal(joined.get(), np.concatenate([x, x[:, :, 3:]], axis=2))


def test_fills(make, runtime, rng):
    x = integers(rng, 2, 3, 9)
    for view in (np.s_[:], np.s_[:, :, ::2], np.s_[1:]):
        device, right = make(x), x.copy()
        fill(runtime, device[view], 7)
        right[view] = 7
        np.testing.assert_array_equal(host_values(device), right)


def test_streams(make, rng):
    conv = Conv1D(3, 4, 3, stride=2, pad=1)
    conv.W.set(integers(rng, *conv.W.shape))
    x = integers(rng, 2, 3, 9)
    stream = StreamingConv1D(conv)
    pieces = [stream(make(x[:, :, :4])), stream(make(x[:, :, 4:])), stream.flush()]
    whole = conv(gpuarray.to_gpu(x)).get()
    np.testing.assert_array_equal(np.concatenate([p.get() for p in pieces], axis=2), whole)


def test_files(make, rng):
    W = integers(rng, 4, 3, 1, 3)
    conv, other = Conv1D(3, 4, 3, useBias=False), Conv1D(3, 4, 3, useBias=False)
    for one, array in ((conv, W), (other, 0 * W)):
        one.setVar("W", Variable(make(array)))
    other.load(conv.save())
    np.testing.assert_array_equal(host_values(other.W), W)


def test_overlaps_in_shared_memory(shared):
    """Two arrays of one piece share bytes where their addresses overlap, whatever held them."""
    piece = shared(np.zeros(200, np.float32))
    x, weight = piece[:54].reshape(2, 3, 9), shared(np.ones((4, 3, 3), np.float32))
    apart, over = piece[54:110].reshape(2, 4, 7), piece[53:109].reshape(2, 4, 7)
    F.conv1d(x, weight, out=apart)
    with pytest.raises(ProblemError, match=r"^out shares memory with x"):
        F.conv1d(x, weight, out=over)


def _without_memory(runtime, shape):
    bad = cl_array.Array(runtime.queue, shape, np.float32)
    bad.base_data = None
    return bad


@pytest.mark.parametrize("kind", ["none", "image", "number"])
def test_no_such_memory(runtime, kind):
    """What is no memory for arrays is refused by the name of the argument."""

    def bad(*shape):  # fmt: skip
        one = _without_memory(runtime, shape)
        if kind == "image":
            form = cl.ImageFormat(cl.channel_order.RGBA, cl.channel_type.FLOAT)
            one.base_data = cl.create_image(
                runtime.context, cl.mem_flags.READ_WRITE, form, shape=(9, 6)
            )
        if kind == "number":
            one.base_data = 4096
        return one

    x = gpuarray.zeros((2, 3, 9))
    weight = gpuarray.zeros((4, 3, 3))
    conv = Conv1D(3, 4, 3)
    conv(x)
    for name, call in (
        ("x", lambda: F.conv1d(bad(2, 3, 9), weight)),
        ("weight", lambda: F.conv1d(x, bad(4, 3, 3))),
        ("out", lambda: F.conv1d(x, weight, out=bad(2, 4, 7))),
        ("pre_activation", lambda: F.conv1d(x, weight, pre_activation=bad(2, 4, 7))),
        ("out", lambda: F.conv1d_input((2, 3, 9), weight, x, out=bad(2, 3, 9))),
        ("data", lambda: conv(bad(2, 3, 9))),
        ("data", lambda: Pad1D(1)(bad(2, 3, 9))),
        ("data", lambda: Sequential().append(Pad1D(1))(bad(2, 3, 9))),
        ("grad", lambda: conv.backward(bad(2, 4, 7))),
        ("chunk", lambda: StreamingConv1D(conv)(bad(2, 3, 9))),
        ("array", lambda: gpuarray.copy(bad(2, 3))),
        ("arrays[1]", lambda: gpuarray.concatenate([x, bad(2, 3, 9)])),
        ("data", lambda: Variable(bad(2, 3))),
        ("grad", lambda: Variable(gpuarray.zeros((2, 3)), grad=bad(2, 3))),
    ):
        with pytest.raises(ArrayTypeError) as caught:
            call()
        assert str(caught.value).startswith(f"{name} has memory of type "), str(caught.value)


def test_empty_arrays_need_no_memory(runtime):
    weight = gpuarray.zeros((4, 3, 3))
    assert F.conv1d(_without_memory(runtime, (0, 3, 9)), weight).shape == (0, 4, 7)
    assert Pad1D(1)(_without_memory(runtime, (0, 3, 9))).shape == (0, 3, 11)
    assert gpuarray.copy(_without_memory(runtime, (0, 3))).shape == (0, 3)
    assert Variable(_without_memory(runtime, (0, 3))).grad.shape == (0, 3)


def test_between_elements(runtime):
    """A kernel that read what starts between two elements would read others."""
    whole = gpuarray.zeros((9,))
    shifted = cl_array.Array(runtime.queue, (1, 1, 5), np.float32, data=whole.base_data, offset=2)
    target = gpuarray.zeros((1, 1, 5))
    for call in (
        lambda: gpuarray.copy(shifted[:, :, ::2]),
        lambda: Pad1D(1)(shifted),
        lambda: copy_view(runtime, target[:, :, ::2], shifted[:, :, ::2]),
    ):
        with pytest.raises(ProblemError, match="array starts at byte 2 of its buffer"):
            call()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_fingerprints_tell_changes(runtime, dtype):
    """Signs above all, which products alone would not spread: of all values, a part, or two."""
    rng = np.random.default_rng(20240229)
    values = rng.standard_normal(64 * 64 * 8).astype(dtype)
    places = (slice(None), slice(512, 1024), [0, 16], [0, 64], [0, 4096], [5])
    changed = [values]
    for place in places:
        for change in (lambda part: -part, lambda part: part[::-1], lambda part: part + 1):
            other = values.copy()
            other[place] = change(other[place])
            if not np.array_equal(other, values):
                changed.append(other)
    changed.append(values[:-1])
    found = []
    for one in changed:
        array = runtime.to_device(one)
        found += [fingerprint(runtime, array.base_data, one.nbytes, one.itemsize)] * 2
    assert found[0::2] == found[1::2]
    assert len(set(found)) == len(changed)
