"""Causal convolutions of sequences: any layout, states, packed rows, the package's functions."""

from __future__ import annotations

import itertools
import re
import sys
from types import ModuleType

import numpy as np
import pyopencl.array as cl_array
import pytest
import torch
from numpy.lib.stride_tricks import as_strided
from test_kernel_texts import assert_indented

from clconv import Conv1dProblem, ProblemError, reference, testing
from clconv import functional as F
from clconv.calls.causal_kernels import Sizes, sums
from clconv.calls.layouts import Layout
from clconv.planning.profiles import profile
from clconv.rehearsal import Rehearsal
from clconv.render import render
from clconv.torch import causal_conv1d_fn, causal_conv1d_update, memory, use_in_transformers

WIDTHS = (1, 2, 3, 4, 7, 64)
# (batch, dim, length): shorter than a vector and than the taps, of several blocks and chunks.
SHAPES = ((2, 5, 70), (1, 40, 9), (3, 33, 1), (2, 530, 140))


def expected(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):
    """The definition in float64: the result, and the last samples."""
    width, length = weight.shape[1], x.shape[2]
    zeros = np.zeros((*x.shape[:2], width - 1))
    samples = np.concatenate(
        [zeros if initial_states is None else initial_states, x], 2, dtype=float
    )
    y = np.zeros(x.shape) if bias is None else np.zeros(x.shape) + bias[:, None].astype(float)
    for k in range(width):
        one = samples[:, :, k : k + length] * weight[:, k, None].astype(float)
        if seq_idx is not None:
            before = np.pad(seq_idx, ((0, 0), (width - 1, 0)), constant_values=-1)
            one = np.where((before[:, k : k + length] == seq_idx)[:, None], one, 0)
        y += one
    y = y if activation is None else y / (1 + np.exp(-y))
    y = y if seq_idx is None else np.where((seq_idx >= 0)[:, None], y, 0)
    return y, samples[:, :, length:]


def channels_last(x):
    """The same values with channels side by side."""
    return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)


def integers(rng, *shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def packed_rows(rng, batch, length):
    """Numbers of sequences of one sample and more, in no order, and of padding."""
    one = np.repeat(rng.permutation(length) - 1, rng.integers(1, 6, length))[:length]
    return np.stack([np.roll(one, i) for i in range(batch)]).astype(np.int32)


def on(runtime, array, last=False):
    """A device array; with `last` its channels lie side by side."""
    if array is None:
        return None
    if not last:
        return runtime.to_device(array)
    return runtime.to_device(array.transpose(0, 2, 1)).transpose((0, 2, 1))


def values(array):
    """Of a device array, whichever way its channels lie."""
    if array.flags.c_contiguous:
        return array.get()
    return array.transpose((0, 2, 1)).get().transpose(0, 2, 1)


def combinations():
    """Every layout with states, packed rows or neither, at width 4, and some at others, with silu
    or bias in turn."""
    forms = itertools.product(WIDTHS, (False, True), ("plain", "states", "packed"))
    for i, (width, last, kind) in enumerate(forms):
        if width == 4 or i % 3 == i // 6 % 3:
            shape = SHAPES[(i // 6 + i) % len(SHAPES)]
            yield width, last, kind, shape, (None, "silu", "swish")[i % 4 % 3], i // 2 % 2 > 0


def check(runtime, rng, width, last, kind, shape, activation, bias, dtype=np.float32):
    """A call on device arrays and all its gradients: exact on integers but for silu, of which the
    rounding bound is kept."""
    batch, dim, length = shape
    x, weight = integers(rng, *shape, dtype=dtype), integers(rng, dim, width, dtype=dtype)
    b = integers(rng, dim, dtype=dtype) if bias else None
    states = integers(rng, batch, dim, width - 1, dtype=dtype) if kind == "states" else None
    seq_idx = packed_rows(rng, batch, length) if kind == "packed" else None
    arrays = [on(runtime, one) for one in (weight, b, seq_idx, states)]
    final = kind == "states"
    found = F.causal_conv1d(on(runtime, x, last), *arrays, final, None, activation)
    y, states_found = found if final else (found, None)
    if last and dim > 1:
        assert y.strides[1] == x.dtype.itemsize
    wanted, last_samples = expected(x, weight, b, seq_idx, states, activation)
    before, _ = expected(x, weight, b, seq_idx, states)
    if activation is None:
        testing.assert_exact(values(y), wanted.astype(dtype))
    else:  # the sums are exact: what is left are silu and, in half precision, its rounding
        problem = Conv1dProblem(batch, dim, length, dim, 1, groups=dim, dtype=dtype)
        given = {"x": before, "weight": np.ones((dim, 1, 1))}
        bound = testing.rounding_bound(problem, "forward", given, activation="silu", exact=True)
        testing.assert_within_bound(values(y), wanted, bound)
    if final:
        testing.assert_exact(states_found.get(), last_samples.astype(dtype))
    if activation is None:
        check_gradients(runtime, rng, x, weight, last, seq_idx, states)


def check_gradients(runtime, rng, x, weight, last, seq_idx, states):
    """Those of sums, against the reference of each sequence or of states and x together."""
    batch, dim, length = x.shape
    width = weight.shape[1]
    grad, of_final = integers(rng, *x.shape), integers(rng, batch, dim, width - 1)
    with_states = states is not None
    arrays = [on(runtime, one) for one in (seq_idx, states, of_final if with_states else None)]
    found = F.causal_conv1d_backward(
        on(runtime, x, last), on(runtime, weight), on(runtime, grad, last), None, *arrays,
        need=(True, True, True, with_states),
    )  # fmt: skip
    weights = weight[:, None]
    of_x, of_weight = np.zeros(x.shape), np.zeros(weight.shape)
    samples = (
        np.concatenate([states, x], 2)
        if with_states
        else np.pad(x, [(0, 0)] * 2 + [(width - 1, 0)])
    )
    numbers = np.zeros((batch, length), int) if seq_idx is None else seq_idx
    if seq_idx is None:
        problem = Conv1dProblem(batch, dim, length + width - 1, dim, width, groups=dim)
        of_all = reference.input_gradient(problem, weights, grad)
        of_weight += reference.weight_gradient(problem, samples, grad)[:, 0]
        if with_states:
            of_all[:, :, length:] += of_final
        of_x, of_states = of_all[:, :, width - 1 :], of_all[:, :, : width - 1]
        if with_states:
            testing.assert_exact(found[3].get(), of_states.astype(np.float32))
    else:
        for n, number in itertools.product(range(batch), np.unique(numbers[numbers >= 0])):
            here = np.where(numbers[n] == number, grad[n], 0)
            inside = np.where(numbers[n] == number, x[n], 0)
            problem = Conv1dProblem(1, dim, length, dim, width, 1, (width - 1, 0), 1, dim)
            one = reference.input_gradient(problem, weights, here[None])[0]
            of_x[n] += np.where(numbers[n] == number, one, 0)
            of_weight += reference.weight_gradient(problem, inside[None], here[None])[:, 0]
    counted = grad * (numbers >= 0)[:, None]
    testing.assert_exact(values(found[0]), of_x.astype(np.float32))
    testing.assert_exact(found[1].get(), of_weight.astype(np.float32))
    testing.assert_exact(found[2].get(), counted.sum((0, 2)).astype(np.float32))


def test_all_arguments(first_runtime, rng):
    for one in combinations():
        check(first_runtime, rng, *one)


@pytest.mark.every_device
def test_some_arguments_on_every_device(runtime, rng):
    for one in itertools.islice(combinations(), 0, None, 3):
        check(runtime, rng, *one)


def test_all_arguments_as_on_a_gpu(gpu_runtime, rng):
    for one in itertools.islice(combinations(), 1, None, 4):
        check(gpu_runtime, rng, *one)


def test_half_precision(runtime, rng):
    """Sums and what is between kernels are float32: only results are rounded."""
    shape = (2, 21, 40)
    check(runtime, rng, 4, False, "states", shape, "silu", True, np.float16)
    arrays = [integers(rng, *one) for one in (shape, (21, 4), shape, (21,))]
    found = []
    for dtype in (np.float32, np.float16):
        x, weight, grad, bias = (one.astype(dtype) for one in arrays)
        given = on(runtime, x, True), on(runtime, weight), on(runtime, grad, True)
        need = (True, True, True, False)
        found.append(
            F.causal_conv1d_backward(*given, on(runtime, bias), activation="silu", need=need)[:3]
        )
    for one, other in zip(*found, strict=True):
        testing.assert_exact(values(other), values(one).astype(np.float16))


def test_numpy_arrays_and_outs(first_runtime, rng):
    """NumPy arrays in and out, views that are copied, an out in the layout of x."""
    x, weight, bias = integers(rng, 2, 6, 30), integers(rng, 6, 3), integers(rng, 6)
    wanted = expected(x, weight, bias)[0].astype(np.float32)
    wide = np.repeat(x, 2, axis=2)
    for array in (x, channels_last(x), wide[:, :, ::2]):
        testing.assert_exact(F.causal_conv1d(array, weight, bias), wanted)
    y = F.causal_conv1d(channels_last(x), weight, bias)
    assert y.strides[1] == 4
    for out in (np.empty_like(x), channels_last(x)):
        assert F.causal_conv1d(x, weight, bias, out=out) is not None
        testing.assert_exact(out, wanted)
    view = on(first_runtime, wide)[:, :, ::2]
    testing.assert_exact(
        F.causal_conv1d(view, on(first_runtime, weight), on(first_runtime, bias)).get(), wanted
    )
    empty = F.causal_conv1d_backward(x[:0], weight, x[:0])
    assert empty[0].shape == (0, 6, 30)
    assert not empty[1].any()
    assert not empty[2].any()
    given, found = (
        np.empty((2, 6, 2), np.float32),
        F.causal_conv1d(x, weight, None, None, None, True),
    )
    F.causal_conv1d(x, weight, None, None, None, True, given)
    testing.assert_exact(given, x[:, :, -2:])
    testing.assert_exact(found[1], given)


@pytest.fixture(params=[True, False], ids=["in place", "copied"])
def either(runtime, request, monkeypatch):
    """A runtime that takes NumPy arrays in place, or copies them."""
    if request.param and not runtime.memory.shares_host:
        pytest.skip("the device has memory of its own")
    monkeypatch.setattr(runtime.memory, "shares_host", request.param)
    return runtime


def unaligned(array):
    """The same values, not at a multiple of their size."""
    made = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    made[:] = array
    return made


def test_outs_with_gaps(either, rng):
    """NumPy outs that lie anywhere, also between one another, are filled, and nothing beside."""
    x, weight = integers(rng, 2, 6, 30), integers(rng, 6, 4)
    y, states = expected(x, weight)

    def split(around):  # each row has its result and its last samples, with gaps
        return around[:, :, 1:31], around[:, :, 33:36]

    def turned(around):  # backwards, with channels side by side
        of_y = around[:, 30:0:-1, :6].transpose(0, 2, 1)
        return of_y, around[:, 31:34, 2:8].transpose(0, 2, 1)

    def off(around):  # not at multiples of their size, and with gaps
        bytes_ = around.view(np.uint8)[:, :, 1:-3].view(np.float32)
        return bytes_[:, :, :30], bytes_[:, :, 30:33]

    for views, shape in ((split, (2, 6, 40)), (turned, (2, 40, 9)), (off, (2, 6, 40))):
        around = np.full(shape, 7, np.float32)
        kept = around.copy()
        outs = views(around)
        found = F.causal_conv1d(x, weight, None, None, None, True, outs[1], out=outs[0])
        assert found[1] is outs[1]
        assert np.shares_memory(found[0], outs[0])
        for out, place, wanted in zip(outs, views(kept), (y, states), strict=True):
            testing.assert_exact(out.copy(), wanted.astype(np.float32))
            place[:] = wanted
        testing.assert_exact(around, kept)
    out = np.zeros((2, 6, 60), np.float32)[:, :, ::2]
    F.causal_conv1d(x, weight, out=out)
    testing.assert_exact(out.copy(), y.astype(np.float32))


def test_states_that_lie_anywhere(either, rng):
    """Of updates on NumPy arrays: in a larger array, between x, unaligned; the out with gaps."""
    x, weight, old = integers(rng, 2, 6, 2), integers(rng, 6, 3), integers(rng, 2, 6, 2)
    wanted = expected(x, weight, initial_states=old)[0].astype(np.float32)
    large = np.full((5, 6, 2), 7, np.float32)
    large[1:3], large[::4] = old, x
    for state, samples in ((large[1:3], large[::4]), (unaligned(old), x), (old.copy(), x)):
        out = np.full((2, 6, 5), 7, np.float32)
        F.causal_conv1d_update(samples, state, weight, out=out[:, :, 1:3])
        testing.assert_exact(out[:, :, 1:3].copy(), wanted)
        assert (out[:, :, [0, 3, 4]] == 7).all()
        testing.assert_exact(state, x)
    assert (large[3] == 7).all()
    state, single = old.copy(), np.full((2, 12), 7, np.float32)
    F.causal_conv1d_update(x[:, :, 0], state, weight, out=single[:, ::2])
    testing.assert_exact(single[:, ::2].copy(), wanted[:, :, 0])
    assert (single[:, 1::2] == 7).all()


def test_places_of_elements(rng):
    """Layouts whose elements share a place are known; views of arrays are none of them."""
    for _ in range(300):
        shape, steps = rng.integers(1, 4, 3).tolist(), rng.integers(-9, 10, 3).tolist()
        layout = Layout(tuple(shape), tuple(4 * one for one in steps), np.dtype(np.float32))
        places = {sum(a * b for a, b in zip(i, steps, strict=True)) for i in np.ndindex(*shape)}
        assert len(places) == np.prod(shape) or not layout.has_own_places
    whole = np.empty((3, 4, 5), np.float32)
    for view in (whole, whole.T, whole[::-1, 1:3, ::2], whole[:, :, :0], whole[:, None, 2]):
        assert Layout(view.shape, view.strides, view.dtype).has_own_places
        assert Layout(view.shape, view.strides, view.dtype).exchanged.has_own_places


def test_written_elements_have_a_place_each(first_runtime):
    """On a device and in NumPy's memory."""
    ones, weight = np.ones((2, 3, 5), np.float32), np.ones((3, 4), np.float32)
    memory_ = first_runtime.empty((30,), np.float32).base_data
    for shape, strides, name in (
        ((2, 3, 3), (0, 0, 4), "final_states_out"), ((2, 3, 3), (0, 12, 4), "final_states_out"),
        ((2, 3, 5), (0, 20, 4), "out"), ((2, 3, 5), (20, 20, 4), "out"),
        ((2, 3, 5), (0, 4, 12), "out"),
    ):  # fmt: skip
        on_device = cl_array.Array(
            first_runtime.queue, shape, np.float32, data=memory_, strides=strides
        )
        on_host = as_strided(np.zeros(30, np.float32), shape, strides)
        given = [
            ([on(first_runtime, ones), on(first_runtime, weight)], on_device),
            ([ones, weight], on_host),
        ]
        message = re.escape(f"{name} has strides {strides}, expected a place of its own")
        for arrays, out in given:
            with pytest.raises(ProblemError, match=message):
                F.causal_conv1d(*arrays, return_final_states=True, **{name: out})
            if name == "out":
                state = np.zeros((2, 3, 3), np.float32)
                state = state if out is on_host else on(first_runtime, state)
                with pytest.raises(ProblemError, match=message):
                    F.causal_conv1d_update(arrays[0], state, arrays[1], out=out)


def test_numbers_that_are_views(first_runtime, rng):
    """Whatever the dtype of the samples."""
    numbers = on(first_runtime, np.zeros((2, 7), np.int32))
    pair = on(first_runtime, np.array([0, 9, 9, 1], np.int32))
    for dtype in (np.float32, np.float16, np.float64):
        if dtype == np.float64 and not first_runtime.profile.fp64:
            continue
        x, weight = integers(rng, 2, 3, 5, dtype=dtype), integers(rng, 3, 4, dtype=dtype)
        given = on(first_runtime, x), on(first_runtime, weight)
        y = F.causal_conv1d(*given, seq_idx=numbers[:, 1:6])
        testing.assert_exact(y.get(), expected(x, weight)[0].astype(dtype))
        state = on(first_runtime, np.zeros((2, 3, 5), dtype))
        F.causal_conv1d_update(given[0], state, given[1], None, None, pair[::3], pair[::3])
        testing.assert_exact(state.get()[0], x[0])
        testing.assert_exact(state.get()[1], np.roll(x[1], 1, 1))


def test_nan_reaches_its_own_taps(runtime, rng):
    """In gradients of weights, also of samples that the last outputs of a row do not read."""
    for last, width, length in itertools.product((False, True), (4, 10), (1, 5, 40)):
        x, states = integers(rng, 1, 3, length), integers(rng, 1, 3, width - 1)
        x[0, 0, -1], x[0, 1, -min(2, length)], states[0, 2, -1] = np.nan, np.inf, np.nan
        grad = rng.integers(1, 5, x.shape).astype(np.float32)
        for before in (None, states):
            zeros = np.zeros_like(states)
            samples = np.concatenate([zeros if before is None else before, x], 2)
            wanted = [(samples[0, :, k : k + length] * grad[0]).sum(1) for k in range(width)]
            found = F.causal_conv1d_backward(
                on(runtime, x, last), on(runtime, np.ones((3, width), np.float32)),
                on(runtime, grad, last), None, None, on(runtime, before),
                need=(False, True, False, False),
            )[1]  # fmt: skip
            np.testing.assert_array_equal(found.get(), np.stack(wanted, 1))


def test_gradients_that_are_needed(first_runtime):
    """By default all that there are; what is not needed is not computed."""
    x, weight = np.ones((1, 1, 4), np.float32), np.full((1, 3), 2, np.float32)
    numbers = np.array([[0, 0, 1, 1]], np.int32)
    grads = F.causal_conv1d_backward(x, weight, x)
    assert grads[2].tolist() == [4.0]
    assert grads[3].tolist() == [[[2.0, 4.0]]]
    grads = F.causal_conv1d_backward(x, weight, x, seq_idx=numbers)
    assert grads[1].tolist() == [[0.0, 2.0, 4.0]]
    assert grads[3] is None
    with pytest.raises(ProblemError, match="of initial_states, is given together with seq_idx"):
        F.causal_conv1d_backward(x, weight, x, seq_idx=numbers, need=(True,) * 4)
    queued = first_runtime.launches
    nothing = F.causal_conv1d_backward(
        *(on(first_runtime, one) for one in (x, weight, x)), activation="silu", need=(False,) * 4
    )
    assert nothing == (None,) * 4
    assert first_runtime.launches == queued


def test_any_split_is_the_whole(first_runtime, rng):
    """Chunks that are joined by their states give the bits of one call, and so do single tokens."""
    x, weight, bias = rng.normal(size=(2, 17, 23)), rng.normal(size=(17, 4)), rng.normal(size=17)
    arrays = [one.astype(np.float32) for one in (x, weight, bias)]
    x = arrays[0]
    whole = F.causal_conv1d(*arrays, activation="silu")
    for ends in ((1, 2, 23), (3, 10, 23), (22, 23)):
        states, parts = np.zeros((2, 17, 3), np.float32), []
        for begin, end in itertools.pairwise((0, *ends)):
            y, states = F.causal_conv1d(
                x[:, :, begin:end], *arrays[1:], None, states, True, activation="silu"
            )
            parts.append(y)
        exact_on_integers = np.concatenate(parts, 2)
        bound = rounding(x, arrays[1], arrays[2])
        testing.assert_within_bound(exact_on_integers, whole, 2 * bound)
    whole_numbers = [np.round(2 * one) for one in arrays]
    state, parts = np.zeros((2, 17, 3), np.float32), []
    for begin, end in itertools.pairwise((0, 1, 5, 6, 23)):
        chunk = whole_numbers[0][:, :, begin:end]
        y, state = F.causal_conv1d(chunk, *whole_numbers[1:], None, state, True)
        parts.append(y)
    testing.assert_exact(np.concatenate(parts, 2), F.causal_conv1d(*whole_numbers))


def rounding(x, weight, bias, activation="silu"):
    """The bound of a call without states."""
    batch, dim, length = x.shape
    width = weight.shape[1]
    problem = Conv1dProblem(batch, dim, length, dim, width, 1, (width - 1, 0), 1, dim, x.dtype)
    arrays = {"x": x, "weight": weight[:, None], "bias": bias}
    return testing.rounding_bound(problem, "forward", arrays, activation=activation)


def test_rounding(first_runtime, rng):
    """Other data keeps the bound of sums in any order, forward and backward through silu."""
    for last, shape in ((False, (2, 5, 70)), (True, (2, 40, 70))):
        x, grad = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        weight = rng.normal(size=(shape[1], 4)).astype(np.float32)
        bias = rng.normal(size=shape[1]).astype(np.float32)
        x_d, grad_d = on(first_runtime, x, last), on(first_runtime, grad, last)
        y = F.causal_conv1d(
            x_d, on(first_runtime, weight), on(first_runtime, bias), activation="silu"
        )
        before, _ = expected(x, weight, bias)
        wanted = before / (1 + np.exp(-before))
        testing.assert_within_bound(values(y), wanted, rounding(x, weight, bias))
        # silu' has a slope of at most 1/2, and its own 5 operations, of which exp and the quotient
        # have 3 units in the last place each, are formed of values of at most 1 + |v|.
        u = testing.unit_roundoff(np.float32)
        error = 0.5 * rounding(x, weight, bias, None) + 16 * u * (1 + abs(before))
        sigmoid = 1 / (1 + np.exp(-before))
        through = grad * (sigmoid * (1 + before * (1 - sigmoid)))
        problem = Conv1dProblem(*shape, shape[1], 4, 1, (3, 0), 1, shape[1])
        found = F.causal_conv1d_backward(
            x_d, on(first_runtime, weight), grad_d, on(first_runtime, bias), activation="silu"
        )
        for i, pass_, arrays in (
            (0, "input_gradient", {"weight": weight[:, None]}),
            (1, "weight_gradient", {"x": x}),
        ):
            arrays = arrays | {"grad_output": through}
            off = {name: abs(one) for name, one in arrays.items()} | {
                "grad_output": abs(grad) * error
            }
            bound = testing.rounding_bound(problem, pass_, arrays) + testing.evaluate(
                problem, pass_, off
            )
            result = values(found[0]) if i == 0 else found[1].get()[:, None]
            testing.assert_within_bound(result, testing.evaluate(problem, pass_, arrays), bound)


def test_other_sequences_are_not_seen(runtime, rng):
    """NaN and infinity of one sequence and of padding stay there, in gradients, too."""
    numbers = np.repeat([3, 0, -1, 0, 7], 5)[None].astype(np.int32)
    for last in (False, True):
        x, weight = integers(rng, 1, 40, 25), integers(rng, 40, 4)
        bad = x.copy()
        bad[:, :, 5:10], bad[:, :, 10:15] = np.nan, np.inf
        arrays = on(runtime, weight), None, on(runtime, numbers)
        y = values(F.causal_conv1d(on(runtime, bad, last), *arrays))
        clean = expected(x, weight, None, numbers)[0].astype(np.float32)
        others = np.r_[0:5, 18:25]  # the second part of sequence 0 sees the first
        testing.assert_exact(y[:, :, others], clean[:, :, others])
        assert np.isnan(y[:, :, 5:10]).all()
        assert not y[:, :, 10:15].any()
        grad = np.ones_like(x)
        grad[:, :, 5:15] = np.nan
        of_x = F.causal_conv1d_backward(
            on(runtime, x, last), arrays[0], on(runtime, grad, last), None, arrays[2],
            need=(True, False, False, False),
        )[0]  # fmt: skip
        of_x = values(of_x)
        assert not np.isnan(of_x[:, :, np.r_[0:5, 10:25]]).any()
        assert np.isnan(of_x[:, :, 5:10]).all()
        assert not of_x[:, :, 10:15].any()


def updates(rng, state_length, ring, indexed, silu):
    """Arrays of an update with a state for each of more sequences, and of what came before."""
    batch, entries = 3, 5 if indexed else 3
    past = integers(rng, batch, 19, 11)
    weight, bias = integers(rng, 19, 4), integers(rng, 19)
    where = np.array([4, -1, 1] if indexed else [0, 1, 2], np.int32)
    seen = np.array([11, 11, 11], np.int32)
    state = integers(rng, entries, 19, state_length)
    for n, entry in enumerate(where):
        for i in range(max(0, 11 - state_length), 11):
            if entry >= 0:
                state[entry, :, i % state_length if ring else i - 11] = past[n, :, i]
    return past, state, weight, bias, where, seen


@pytest.mark.parametrize("ring", [False, True])
def test_updates(runtime, rng, ring):
    """Tokens one by one and several at once give what the whole sequence gives; the states are
    those of the last samples; padding and other states stay as they are."""
    for state_length, indexed, count in itertools.product((3, 9), (False, True), (1, 2, 12)):
        past, state, weight, bias, where, seen = updates(rng, state_length, ring, indexed, False)
        old = state.copy()
        x = integers(rng, 3, 19, count)
        state_d, given = on(runtime, state), [on(runtime, one) for one in (weight, bias)]
        y = F.causal_conv1d_update(
            on(runtime, x, count == 2), state_d, *given, None,
            on(runtime, seen) if ring else None, on(runtime, where) if indexed else None,
        )  # fmt: skip
        samples = np.concatenate([past, x], 2)
        wanted = expected(samples, weight, bias)[0][:, :, 11:] * (where >= 0)[:, None, None]
        testing.assert_exact(values(y), wanted.astype(np.float32))
        for n, entry in enumerate(where):
            for i in range(max(0, 11 + count - state_length), 11 + count):
                if entry >= 0:
                    place = i % state_length if ring else i - 11 - count
                    old[entry, :, place] = samples[n, :, i]
        testing.assert_exact(state_d.get(), old)


def test_update_of_one_token(first_runtime, rng):
    """(batch, dim) in and out, NumPy arrays, an index that there is not, states of no sample."""
    past, state, weight, bias, *_ = updates(rng, 3, False, False, False)
    x = integers(rng, 3, 19)
    y = F.causal_conv1d_update(x, state, weight, bias, "silu", runtime=first_runtime)
    samples = np.concatenate([past, x[:, :, None]], 2)
    wanted = expected(samples, weight, bias, activation="silu")[0][:, :, -1]
    bound = rounding(samples, weight, bias)[:, :, -1]
    testing.assert_within_bound(y, wanted, bound)
    testing.assert_exact(state, samples[:, :, -3:])
    out, old = np.empty_like(x), state.copy()
    beyond = np.array([0, 3, 99], np.int32)
    y = F.causal_conv1d_update(x, state, weight, None, None, None, beyond, out=out)
    assert np.isnan(out[1:]).all()
    assert not np.isnan(out[0]).any()
    assert y.shape == x.shape
    testing.assert_exact(state[1:], old[1:])
    ones = F.causal_conv1d_update(x, np.empty((3, 19, 0), np.float32), weight[:, :1])
    testing.assert_exact(ones, x * weight[:, 0])
    assert F.causal_conv1d_update(x[:0], state[:0], weight).shape == (0, 19)


WRONG = {
    "x has shape (2, 6)": {"x": np.ones((2, 6), np.float32)},
    "x has dtype int32": {"x": np.ones((2, 6, 9), np.int32)},
    "weight has shape (5, 3)": {"weight": np.ones((5, 3), np.float32)},
    "weight has shape (6, 0)": {"weight": np.ones((6, 0), np.float32)},
    "bias has shape (5,), expected (6,)": {"bias": np.ones(5, np.float32)},
    "seq_idx has dtype int64, expected int32": {"seq_idx": np.ones((2, 9), np.int64)},
    "seq_idx has shape (2, 8), expected (2, 9)": {"seq_idx": np.ones((2, 8), np.int32)},
    "initial_states has shape (2, 6, 3), expected (2, 6, 2)":
        {"initial_states": np.ones((2, 6, 3), np.float32)},
    "initial_states is given together with seq_idx":
        {"initial_states": np.ones((2, 6, 2), np.float32), "seq_idx": np.ones((2, 9), np.int32)},
    "return_final_states is given together with seq_idx":
        {"return_final_states": True, "seq_idx": np.ones((2, 9), np.int32)},
    "final_states_out has shape (2, 6, 9)":
        {"return_final_states": True, "final_states_out": np.ones((2, 6, 9), np.float32)},
    "activation is 'gelu', expected None, 'silu' or 'swish'": {"activation": "gelu"},
    "out has shape (2, 6, 8), expected (2, 6, 9)": {"out": np.ones((2, 6, 8), np.float32)},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_errors(first_runtime, message):
    given = {"x": np.ones((2, 6, 9), np.float32), "weight": np.ones((6, 3), np.float32)}
    with pytest.raises(ProblemError) as raised:
        F.causal_conv1d(**given | WRONG[message])
    assert message in str(raised.value)
    tensors = {
        name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one
        for name, one in (given | WRONG[message]).items()
        if name != "out"
    }
    if "out" not in WRONG[message]:
        with pytest.raises(ProblemError, match=message.split()[0]):
            causal_conv1d_fn(**tensors)


def test_failing_updates_change_nothing(first_runtime):
    ones = np.ones((2, 6, 4), np.float32)
    for wrong, message in (
        ({"weight": ones[0, :, :1].repeat(6, 1)}, "conv_state has shape (2, 6, 4)"),
        ({"x": ones[:1]}, "conv_state has shape (2, 6, 4), expected (1, 6, 2 or more)"),
        ({"cache_seqlens": np.ones(3, np.int32)}, "cache_seqlens has shape (3,), expected (2,)"),
        ({"conv_state_indices": np.ones(2)}, "conv_state_indices has dtype float64"),
        ({"activation": "relu"}, "activation is 'relu'"),
    ):
        state = ones.copy()
        given = {"x": ones, "conv_state": state, "weight": np.ones((6, 3), np.float32)} | wrong
        with pytest.raises(ProblemError) as raised:
            F.causal_conv1d_update(**given)
        assert message in str(raised.value)
        tensors = {n: a if n == "activation" else torch.from_numpy(a) for n, a in given.items()}
        with pytest.raises(ProblemError):
            causal_conv1d_update(**tensors)
        testing.assert_exact(state, ones)
    state = ones.copy()
    with pytest.raises(ProblemError, match="conv_state shares memory with x"):
        F.causal_conv1d_update(state, state, ones[0, :, :3])
    with pytest.raises(ProblemError, match="conv_state has strides"):
        F.causal_conv1d_update(ones, state[:, :, ::2], ones[0, :, :2])
    with pytest.raises(ProblemError, match="need is"):
        F.causal_conv1d_backward(ones, ones[0], ones, need=(True,))
    with pytest.raises(TypeError, match="conv_state is a builtins"):
        F.causal_conv1d_update(ones, None, ones[0])


def test_texts(rng):
    """Of kernels for CPUs and GPUs, forward and backward: indented, the same for all lengths."""
    for device, form, pass_ in itertools.product(
        ("cpu", "sm_90"), ("rows", "channels"), ("forward", "through", "input")
    ):
        strides = dict.fromkeys(("x", "grad", "y"), (9, 1)) | {"states": (1, 2, 3)}
        kernels = {
            sums(
                Sizes(profile(device), np.dtype(np.float32), batch, 7, length, 4), form, pass_,
                strides, frozenset({"seq_idx"}), True, pass_ == "input", 16,
            ).kernel
            for batch, length in ((1, 1), (3, 1000), (100, 10**6))
        }  # fmt: skip
        assert len(kernels) == 1
        assert_indented(render(kernels.pop()))


# PyTorch


def test_gradients_are_true(first_runtime):
    """In float64, by differences: of every input, through the last samples, and none twice."""
    if not first_runtime.profile.fp64:
        pytest.skip("the device has no float64")
    torch.manual_seed(1)

    def leaf(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    x, weight, bias, states = leaf(2, 2, 5), leaf(2, 3), leaf(2), leaf(2, 2, 2)
    for last in (False, True):

        def call(x, weight, bias, states, last=last):
            x = x.transpose(1, 2).contiguous().transpose(1, 2) if last else x
            return causal_conv1d_fn(x, weight, bias, None, states, True, activation="silu")

        assert torch.autograd.gradcheck(call, (x, weight, bias, states))
    numbers = torch.tensor([[0, 0, 1, -1, 1], [4, 4, 4, 4, 4]], dtype=torch.int32)

    def packed(x, weight, bias, last=True):
        x = x.transpose(1, 2).contiguous().transpose(1, 2) if last else x
        return causal_conv1d_fn(x, weight, bias, numbers, activation="silu")

    assert torch.autograd.gradcheck(packed, (x, weight, bias))
    assert torch.autograd.gradcheck(packed, (x, weight, bias, False))
    (once,) = torch.autograd.grad(packed(x, weight, bias).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        once.sum().backward()


def test_tensors(first_runtime):
    """Layouts, mixed and narrow dtypes, an out for states, gradients of some inputs alone."""
    torch.manual_seed(2)
    x = torch.randint(-4, 5, (2, 9, 24)).float().transpose(1, 2)  # (2, 24, 9), channels last
    weight, bias = torch.randint(-4, 5, (24, 3)).float(), torch.randint(-4, 5, (24,)).float()
    wanted = torch.from_numpy(expected(x.numpy(), weight.numpy(), bias.numpy())[0]).float()
    y = causal_conv1d_fn(x, weight, bias)
    assert torch.equal(y, wanted)
    assert y.stride() == x.stride()
    assert torch.equal(causal_conv1d_fn(x.contiguous(), weight, bias), wanted)
    half = causal_conv1d_fn(x.bfloat16(), weight, bias)
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, wanted.bfloat16())
    numbers = torch.arange(9, dtype=torch.int32).div(4, rounding_mode="floor").expand(2, 9)
    packed = causal_conv1d_fn(x, weight, bias, numbers)  # of strides (0, 1)
    assert torch.equal(packed, causal_conv1d_fn(x, weight, bias, numbers.contiguous()))
    assert torch.equal(packed[:, :, :4], wanted[:, :, :4])
    assert not torch.equal(packed, wanted)
    out = torch.empty(2, 24, 2)
    y, last = causal_conv1d_fn(x, weight, bias, None, None, True, out)
    assert last is out
    assert torch.equal(out, x[:, :, -2:])
    x.requires_grad_(), bias.requires_grad_()
    (of_x,) = torch.autograd.grad(causal_conv1d_fn(x, weight, bias).sum(), x)  # of stride 0
    (again,) = torch.autograd.grad(causal_conv1d_fn(x, weight).sum(), x)
    assert torch.equal(of_x, again)
    assert of_x.stride() == x.stride()
    (of_bias,) = torch.autograd.grad(causal_conv1d_fn(x, weight, bias).sum(), bias)
    assert torch.equal(of_bias, torch.full((24,), 18.0))
    state = torch.zeros(2, 24, 3, dtype=torch.bfloat16)
    version = state._version
    parts = [causal_conv1d_update(x[:, :, i].bfloat16(), state, weight, bias) for i in range(9)]
    assert torch.equal(torch.stack(parts, 2), half)
    assert state._version > version
    assert torch.equal(state, x[:, :, -3:].bfloat16())
    assert not parts[0].requires_grad
    with pytest.raises(TypeError, match="x is a list"):
        causal_conv1d_fn([1], weight)
    with pytest.raises(TypeError, match="weight has dtype"):
        causal_conv1d_fn(x, weight.long())
    with pytest.raises(ProblemError, match="conv_state has strides"):
        causal_conv1d_update(x[:, :, 0], torch.zeros(1, 24, 4).expand(2, -1, -1), weight)
    whole = x.detach().contiguous()
    y = causal_conv1d_update(whole[:, :, 3:4], whole, weight)  # of its own state
    assert torch.equal(y[:, :, 0], (whole[:, :, -3:] * weight).sum(-1))


def test_devices_with_memory_of_their_own(first_runtime, monkeypatch):
    """There tensors are copied, and results and states copied back."""
    torch.manual_seed(4)
    x, weight = torch.randint(-4, 5, (2, 7, 20)).float(), torch.randint(-4, 5, (20, 4)).float()
    found = []
    for shares in (True, False):
        monkeypatch.setattr(memory, "shares_memory", lambda _, shares=shares: shares)
        leaf = x.clone().requires_grad_()
        y, states = causal_conv1d_fn(leaf.transpose(1, 2), weight, None, None, None, True)
        (of_x,) = torch.autograd.grad(y.sum() + states.sum(), leaf)
        state = torch.zeros(20, 2, 5).transpose(0, 1)
        step = causal_conv1d_update(x.transpose(1, 2), state, weight)
        found.append((y, states, of_x, step, state))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(state, x.transpose(1, 2)[:, :, -5:])


def test_rehearsed_updates_change_no_state(runtime):
    """Nor does a model that is warmed up, though results are made up."""
    x, weight = torch.ones(2, 9, 1), torch.ones(9, 3)
    state = torch.arange(54.0).view(2, 9, 3)
    old, half = state.clone(), state.bfloat16()
    with Rehearsal(runtime) as rehearsal:
        for _ in range(2):
            causal_conv1d_update(x, state, weight)
            causal_conv1d_update(x.bfloat16(), half, weight)
        array, given = on(rehearsal, old.numpy()), old.numpy().copy()
        y = F.causal_conv1d_update(on(rehearsal, x.numpy()), array, on(rehearsal, weight.numpy()))
        F.causal_conv1d_update(x.numpy(), given, weight.numpy())
    assert rehearsal.asked_for
    assert abs(y.get()).max() <= 1
    assert torch.equal(state, old)
    assert torch.equal(half, old.bfloat16())
    testing.assert_exact(array.get(), old.numpy())
    testing.assert_exact(given, old.numpy())


def test_operators(first_runtime):
    """PyTorch's own checks of them: shapes of fake tensors, derivatives, what they change."""
    torch.manual_seed(3)
    x, weight = torch.randn(2, 5, 9).transpose(1, 2), torch.randn(9, 3)
    numbers = torch.zeros(2, 5, dtype=torch.int32)
    ops = torch.ops.clconv
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(
        ops.causal_conv1d, (*leaves, None, numbers, None, True, False), test_utils=tests
    )
    update = (x, torch.zeros(2, 9, 3), weight, None, None, None, True)
    torch.library.opcheck(ops.causal_conv1d_update, update, test_utils=tests[:2])


def made_by(decorate, name):
    """A function as modules of transformers have it."""

    @decorate(name, "causal_conv1d")
    def function(hidden_states, *args, activation=None, **kwargs):
        return "theirs"

    return function


def check_options(function, x, weight):
    """Those of the package do what they do there; what is no call is left to theirs."""
    states, out = torch.full((1, 2, 2), 2.0), torch.zeros(1, 2, 2)
    y, last = function(
        x, weight=weight, initial_states=states, return_final_states=True, final_states_out=out
    )
    assert last is out
    assert last.eq(1).all()
    assert y[0, 0].tolist() == [5, 4, 3, 3, 3]
    assert function(x=x, weight=weight, bias=None)[0, 0].tolist() == [1, 2, 3, 3, 3]
    assert function(x, weight, initial_states=states.to("meta")) == "theirs"
    assert function(x, weight, None, "silu", None) == "theirs"
    assert function(x, None) == "theirs"
    with pytest.raises(TypeError, match="hidden_states"):
        function(weight=weight)
    with pytest.raises(TypeError, match="hidden_states"):
        function(x, weight, hidden_states=x)


def test_the_switch_in_transformers(first_runtime, monkeypatch):
    """Modules that are there and those that are made later go through clconv while it is on."""

    def decorate(name, package):
        return lambda function: function

    home, integrations, old = (ModuleType(n) for n in ("hub_kernels", "integrations", "old"))
    home.use_kernel_func_from_hub_with_fallback = decorate
    integrations.use_kernel_func_from_hub_with_fallback = decorate
    for name in ("causal_conv1d_fn", "causal_conv1d_update"):
        setattr(old, name, made_by(decorate, name))
    theirs = dict(vars(old))
    for name, module in (
        ("transformers", ModuleType("transformers")), ("transformers.integrations", integrations),
        ("transformers.integrations.hub_kernels", home), ("transformers.models.old", old),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    x, weight = torch.ones(1, 2, 5), torch.ones(2, 3)
    with use_in_transformers():
        second = use_in_transformers()
        new = made_by(integrations.use_kernel_func_from_hub_with_fallback, "causal_conv1d_fn")
        assert made_by(home.use_kernel_func_from_hub_with_fallback, "other")(x) == "theirs"
        for function in (old.causal_conv1d_fn, new):
            assert function(x, weight, None, activation="silu", unknown=1).shape == x.shape
            assert function(x, weight, None, activation="gelu") == "theirs"
            assert function(x.to("meta"), weight) == "theirs"
            numbers = torch.tensor([[0, 1, 2, 3, 4]], dtype=torch.int32)
            assert torch.equal(function(x, weight, seq_idx=numbers), x)
            assert function(x, weight, cu_seqlens=numbers) == "theirs"
            check_options(function, x, weight)
        state = torch.zeros(1, 2, 3)
        assert old.causal_conv1d_update(x[:, :, :1], state, weight, None, None).eq(1).all()
        assert state[0, 0].tolist() == [0, 0, 1]
        named = {"x": x[:, :, :1], "conv_state": state, "weight": weight, "unknown": 1}
        at = torch.tensor([4], dtype=torch.int32)
        assert old.causal_conv1d_update(**named, cache_seqlens=at).eq(2).all()
        assert state[0, 0].tolist() == [0, 1, 1]
        assert old.causal_conv1d_update(x, state, weight.clone().requires_grad_()) == "theirs"
    assert new(x, weight).shape == x.shape  # the second switch is on
    second.undo()
    second.undo()
    assert vars(old) == theirs
    assert new(x, weight) == "theirs"
    assert home.use_kernel_func_from_hub_with_fallback is decorate
    assert integrations.use_kernel_func_from_hub_with_fallback is decorate
    del home.use_kernel_func_from_hub_with_fallback
    with pytest.raises(ImportError, match="transformers is unknown, expected a release"):
        use_in_transformers()
