"""Repeated calls: what is kept of the first, and what belongs to each."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pytest

import clconv
from clconv import Conv1D, Conv1dProblem, DeviceError, Pass, ProblemError, Runtime, reference
from clconv import functional as F
from clconv.calls.draft import Draft
from clconv.runtime import RECIPES_KEPT

PROBLEM = Conv1dProblem(2, 4, 37, 6, 3, 2, 1, 1, 2)
OPTIONS = {"stride": 2, "padding": 1, "groups": 2}


def whole(rng, shape):
    """Integers in -4 … 4, whose sums are exact."""
    return rng.integers(-4, 5, shape).astype(np.float32)


@pytest.fixture
def plain(runtime):
    """A runtime of its own, so that what it keeps can be counted."""
    with Runtime(runtime.device) as own:
        yield own


@pytest.fixture
def data(rng):
    shapes = (PROBLEM.input_shape, PROBLEM.weight_shape, (6,), PROBLEM.output_shape)
    return [whole(rng, shape) for shape in shapes]


def drafts(monkeypatch):
    """A list that grows with every recipe that is made."""
    made = []
    real = Draft.__init__

    def counting(self, runtime, layouts, *rest):
        made.append(layouts)
        real(self, runtime, layouts, *rest)

    monkeypatch.setattr(Draft, "__init__", counting)
    return made


# One recipe, many calls


def test_one_recipe_for_other_data(plain, data, rng, monkeypatch):
    """The same layouts and options: one recipe, whatever arrays, and right results."""
    made = drafts(monkeypatch)
    _, weight, bias, _ = data
    for _ in range(3):
        x = whole(rng, PROBLEM.input_shape)
        arrays = [plain.to_device(a) for a in (x, weight, bias)]
        y = F.conv1d(*arrays, **OPTIONS)
        assert np.array_equal(y.get(), reference.conv1d(PROBLEM, x, weight, bias))
        assert np.array_equal(F.conv1d(x, weight, bias, **OPTIONS), y.get())  # NumPy's too
    assert len(made) == 1
    assert len(plain.recipes) == 1


def test_new_memory_for_each_result(plain, data):
    x, weight, bias, _ = (plain.to_device(a) for a in data)
    first, second = F.conv1d(x, weight, bias, **OPTIONS), F.conv1d(x, weight, bias, **OPTIONS)
    assert first.base_data.int_ptr != second.base_data.int_ptr
    assert first.events is not second.events
    first.fill(np.float32(7))
    assert np.array_equal(second.get(), reference.conv1d(PROBLEM, *data[:3]))


def test_alike_arrays_of_other_names(plain, data):
    """A residual, an out and values before an activation may lie alike: other recipes."""
    x, weight, _, grad = (plain.to_device(a) for a in data)
    sums = reference.conv1d(PROBLEM, *data[:2])
    for _ in range(2):
        out, kept = plain.zeros(grad.shape), plain.zeros(grad.shape)
        y = F.conv1d(x, weight, **OPTIONS, activation="relu", residual=grad)
        assert np.array_equal(y.get(), np.maximum(sums + data[3], 0))
        assert F.conv1d(x, weight, **OPTIONS, activation="relu", out=out) is out
        assert np.array_equal(out.get(), np.maximum(sums, 0))
        y = F.conv1d(x, weight, **OPTIONS, activation="relu", pre_activation=kept)
        assert np.array_equal(y.get(), np.maximum(sums, 0))
        assert np.array_equal(kept.get(), sums)


def test_other_shapes(plain, rng):
    for batch, length in ((1, 9), (3, 64), (1, 9), (0, 9), (3, 64)):
        problem = Conv1dProblem(batch, 4, length, 6, 3, 2, 1, 1, 2)
        x, weight = whole(rng, problem.input_shape), whole(rng, problem.weight_shape)
        y = F.conv1d(plain.to_device(x), plain.to_device(weight), **OPTIONS)
        assert np.array_equal(y.get(), reference.conv1d(problem, x, weight))


def test_views_with_offsets(plain, data, rng, monkeypatch):
    """Views that lie alike share a recipe; each is read and written at its own offset."""
    made = drafts(monkeypatch)
    bias = data[2]
    xs, pairs = whole(rng, (4, *PROBLEM.input_shape)), whole(rng, (2, *PROBLEM.weight_shape))
    device_xs, device_pairs, outs = plain.to_device(xs), plain.to_device(pairs), []
    results = plain.zeros((8, *PROBLEM.output_shape))
    for i in range(4):
        outs.append(results[2 * i])
        F.conv1d(device_xs[i], device_pairs[i % 2], plain.to_device(bias), **OPTIONS, out=outs[i])
    assert len(made) == 1
    values = results.get()
    assert not values[1::2].any()
    for i in range(4):
        expected = reference.conv1d(PROBLEM, xs[i], pairs[i % 2], bias)
        assert np.array_equal(values[2 * i], expected)


def test_strided_views(plain, rng):
    """Positions that are not neighbours are copied anew in each call."""
    weight = whole(rng, PROBLEM.weight_shape)
    for _ in range(2):
        wide, weights = whole(rng, (2, 4, 74)), whole(rng, (6, 2, 6))
        x, w = plain.to_device(wide)[:, :, ::2], plain.to_device(weights)[:, :, ::2]
        y = F.conv1d(x, w, **OPTIONS)
        expected = reference.conv1d(PROBLEM, wide[:, :, ::2], weights[:, :, ::2])
        assert np.array_equal(y.get(), expected)
        y = F.conv1d(x, plain.to_device(weight), **OPTIONS)
        assert np.array_equal(y.get(), reference.conv1d(PROBLEM, wide[:, :, ::2], weight))


def test_numbers_of_each_call(plain, data):
    """scale and momentum are the call's, though the recipe is kept."""
    x, weight, _, grad = (plain.to_device(a) for a in data)
    gradient = reference.weight_gradient(PROBLEM, data[0], data[3])
    sums = data[3].sum((0, 2))
    old_weight, old_bias = gradient * 0 + 3, sums * 0 + 5
    for scale, momentum in ((1.0, 0.0), (2.0, 0.5), (-1.0, 1.0), (1, 0), (0.5, 0.0)):
        outs = plain.to_device(old_weight.astype("f")), plain.to_device(old_bias.astype("f"))
        numbers = {"scale": scale, "momentum": momentum}
        F.conv1d_backward(
            x, weight, grad, **OPTIONS, need=(False, True, True), out=(None, *outs), **numbers
        )
        assert np.array_equal(outs[0].get(), momentum * old_weight + scale * gradient)
        assert np.array_equal(outs[1].get(), momentum * old_bias + scale * sums)
        # Without an out there is nothing old.
        _, new, _ = F.conv1d_backward(
            x, weight, grad, **OPTIONS, need=(False, True, False), **numbers
        )
        assert np.array_equal(new.get(), scale * gradient)


@pytest.mark.parametrize("problem", [PROBLEM, Conv1dProblem(1, 9, 37, 9, 3, groups=9)],
                         ids=["dense", "depthwise"])  # fmt: skip
def test_absent_outs_are_not_read(plain, rng, problem):
    """With a momentum, whatever the pool's memory held before."""
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    data = [whole(rng, shape) for shape in shapes]
    x, weight, grad = (plain.to_device(a) for a in data)
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    gradients = (
        reference.weight_gradient(problem, data[0], data[2]),
        reference.bias_gradient(data[2]),
    )
    for variant in clconv.variants(problem, Pass.WEIGHT_GRADIENT, plain):
        for given in ((), (0,), (1,)):
            poison = [plain.empty(g.shape) for g in gradients for _ in range(3)]
            for array in poison:
                array.fill(np.float32(np.nan))
            addresses = {array.base_data.int_ptr for array in poison}
            outs = [plain.zeros(g.shape) if i in given else None for i, g in enumerate(gradients)]
            del poison, array
            results = F.conv1d_backward(
                x, weight, grad, *place, need=(False, True, True), out=(None, *outs),
                momentum=3.0, variant=variant,
            )[1:]  # fmt: skip
            for i, result in enumerate(results):
                assert (i in given) or result.base_data.int_ptr in addresses
                assert np.array_equal(result.get(), gradients[i]), (variant, given)


def test_groups_of_a_transposed_convolution(plain, rng):
    """The same arrays with other groups: another convolution, of another shape."""
    x, weight = whole(rng, (2, 4, 9)), whole(rng, (4, 3, 5))
    arrays = plain.to_device(x), plain.to_device(weight)
    for groups in (1, 2, 4, 1):
        problem = Conv1dProblem(2, 3 * groups, 13, 4, 5, groups=groups)
        y = F.conv_transpose1d(*arrays, groups=groups)
        assert np.array_equal(y.get(), reference.input_gradient(problem, weight, x))


def test_slopes(plain, data):
    x, weight, _, _ = (plain.to_device(a) for a in data)
    y = reference.conv1d(PROBLEM, *data[:2])
    for slope in (0.5, 0.25, 0, 0.0, 0.5):
        result = F.conv1d(x, weight, **OPTIONS, activation=("leaky_relu", slope)).get()
        assert np.array_equal(result, np.where(y > 0, y, slope * y))


def test_variant_by_name(plain, data):
    """A kept recipe is of the variant that was asked for; one that cannot serve never is."""
    x, weight, _, _ = (plain.to_device(a) for a in data)
    expected = reference.conv1d(PROBLEM, *data[:2])
    queued = []
    real = plain.enqueue
    plain.enqueue = lambda commands, *rest: (queued.append(commands), real(commands, *rest))
    for variant in ("direct", "auto", "direct", "auto"):
        assert np.array_equal(F.conv1d(x, weight, **OPTIONS, variant=variant).get(), expected)
        with pytest.raises(ProblemError, match="variant is 'magic'"):
            F.conv1d(x, weight, **OPTIONS, variant="magic")
    kernels = [[launch.kernel.name for _, launch, _ in commands] for commands in queued]
    assert kernels[0] == kernels[2] == ["forward_direct"]
    assert kernels[1] == kernels[3]


def test_choices(plain, data):
    """Choices by pass, as a layer that was optimized has them, are part of the key."""
    x, weight, _, _ = (plain.to_device(a) for a in data)
    expected = reference.conv1d(PROBLEM, *data[:2])
    plans = plain.plans(PROBLEM, Pass.FORWARD)
    for plan in (plans[0], plans[-1]) * 2:
        result = F.conv1d(x, weight, **OPTIONS, variant={Pass.FORWARD: plan.choice})
        assert np.array_equal(result.get(), expected)
    assert len(plain.recipes) == len({(p.variant, *p.tile.items()) for p in (plans[0], plans[-1])})


def test_each_pass_has_its_choice(plain, data):
    """A call of several passes takes for each the choice that was made for it."""
    x, weight, _, grad = (plain.to_device(a) for a in data)
    last = {pass_: plain.plans(PROBLEM, pass_)[-1] for pass_ in Pass}
    queued = []
    real = plain.enqueue
    plain.enqueue = lambda commands, *rest: (queued.extend(commands), real(commands, *rest))
    choices = {pass_: plan.choice for pass_, plan in last.items()}
    F.conv1d_backward(x, weight, grad, **OPTIONS, need=(True, True, False), variant=choices)
    expected = *last[Pass.INPUT_GRADIENT].launches, *last[Pass.WEIGHT_GRADIENT].launches
    assert tuple(launch for _, launch, _ in queued) == expected


def test_workspace_limit(plain, rng):
    """A new limit means a new plan."""
    problem = Conv1dProblem(8, 1, 4000, 1, 3)
    x, grad = whole(rng, problem.input_shape), whole(rng, problem.output_shape)
    arrays = plain.to_device(x), plain.to_device(grad)
    asked = []
    real = plain.allocated
    plain.allocated = lambda some: (asked.append(sum(w.nbytes for w in some)), real(some))[1]
    for limit in (None, 64, None, 64):
        plain.workspace_limit = limit
        result = F.conv1d_weight(arrays[0], (1, 1, 3), arrays[1])
        assert np.array_equal(result.get(), reference.weight_gradient(problem, x, grad))
    assert asked[0] == asked[2] > 64 >= asked[1] == asked[3]


# What is checked in each call


def refused(runtime, error, words, call):
    """The call raises this, and queues nothing."""
    runtime.finish()
    launches = runtime.launches
    with pytest.raises(error, match=words):
        call()
    assert runtime.launches == launches


def test_sharing_memory(plain, data):
    """An out in an input's bytes is refused in a later call as in a first."""
    weight, both = plain.to_device(data[1]), plain.zeros((2000,))
    x, y = both[:296].reshape(2, 4, 37), both[500:728].reshape(2, 6, 19)
    inside, beside = both[200:428].reshape(2, 6, 19), both[296:524].reshape(2, 6, 19)
    for _ in range(2):
        F.conv1d(x, weight, **OPTIONS, out=y)
        F.conv1d(x, weight, **OPTIONS, out=beside)
        refused(plain, ProblemError, "out shares memory with x",
                lambda: F.conv1d(x, weight, **OPTIONS, out=inside))  # fmt: skip
    host = np.zeros(2000, np.float32)
    hx, hy = host[:296].reshape(2, 4, 37), host[200:428].reshape(2, 6, 19)
    for _ in range(2):
        refused(plain, ProblemError, "out shares memory with x",
                lambda: F.conv1d(hx, data[1], **OPTIONS, out=hy))  # fmt: skip
    hy = np.zeros((2, 6, 19), np.float32)
    F.conv1d(hx, data[1], **OPTIONS, out=hy)
    hy.flags.writeable = False
    refused(plain, ProblemError, "out is read-only",
            lambda: F.conv1d(hx, data[1], **OPTIONS, out=hy))  # fmt: skip


def test_wrong_arrays_after_right_ones(plain, runtime, data):
    x, weight, bias, grad = (plain.to_device(a) for a in data)
    other = Runtime(runtime.device).to_device(data[0])
    out = plain.empty(PROBLEM.output_shape)
    wide = plain.zeros((2, 6, 40))
    shifted = cl_array.Array(plain.queue, x.shape, x.dtype, data=wide.base_data, offset=2)
    for _ in range(2):
        F.conv1d(x, weight, bias, **OPTIONS, out=out)
        for error, words, arrays in (
            (ProblemError, "out has dtype float16", (x, weight, bias, plain.empty(out.shape, "e"))),
            (ProblemError, "out has shape", (x, weight, bias, plain.empty((2, 6, 20)))),
            (ProblemError, "out has strides", (x, weight, bias, wide[:, :, :19])),
            (ProblemError, "x is a NumPy array", (data[0], weight, bias, out)),
            (ProblemError, "weight is a builtins.NoneType", (x, None, bias, out)),
            (ProblemError, "x starts at byte 2", (shifted, weight, bias, out)),
            (ProblemError, "bias has shape", (x, weight, bias[:5], out)),
            (DeviceError, "weight is on context", (other, weight, bias, out)),
        ):
            *inputs, y = arrays
            refused(plain, error, words, lambda i=inputs, y=y: F.conv1d(*i, **OPTIONS, out=y))
    assert np.array_equal(grad.get(), data[3])


def test_numbers_that_are_equal_but_not_the_same(plain, data):
    """1.0 and True are no stride, though they equal one that was."""
    x, weight = plain.to_device(data[0]), plain.to_device(data[1])
    for _ in range(2):
        F.conv1d(x, weight, stride=1, padding=(1, 1), groups=2)
        F.conv1d(x, weight, stride=np.int64(1), padding=[1, 1], groups=2)
        for wrong in ({"stride": True}, {"stride": 1.0}, {"padding": (1, True)},
                      {"padding": (1, 1.0)}, {"padding": [True, 1]}):  # fmt: skip
            refused(plain, ProblemError, "expected an integer",
                    lambda wrong=wrong: F.conv1d(x, weight, **{"groups": 2, **wrong}))  # fmt: skip
    refused(plain, ProblemError, "scale is True",
            lambda: F.conv1d_bias(plain.to_device(data[3]), scale=True))  # fmt: skip


def test_options_that_may_change(plain, data):
    """What is no constant is looked at in each call."""

    class Pads(list):
        pass

    x, weight = plain.to_device(data[0]), plain.to_device(data[1])
    pads = Pads([1, 1])
    for right in (1, 4, 1):
        pads[1] = right
        problem = Conv1dProblem(2, 4, 37, 6, 3, 1, (1, right), 1, 2)
        y = F.conv1d(x, weight, padding=pads, groups=2)
        assert np.array_equal(y.get(), reference.conv1d(problem, *data[:2]))
    assert len(plain.recipes) == 0


def test_other_queues_in_a_later_call(plain, data):
    """An array that another queue is still writing is waited for, each time."""
    x, weight, _, _ = data
    other = cl.CommandQueue(plain.context)
    own = plain.to_device(weight)
    expected = reference.conv1d(PROBLEM, x, weight)
    foreign = cl_array.zeros(other, PROBLEM.input_shape, np.float32)
    F.conv1d(foreign, own, **OPTIONS)
    for _ in range(3):
        foreign = cl_array.zeros(other, PROBLEM.input_shape, np.float32)
        foreign.finish()
        gate = cl.UserEvent(plain.context)
        event = cl.enqueue_copy(other, foreign.base_data, x, is_blocking=False, wait_for=[gate])
        foreign.add_event(event)
        # Nothing fails before the gate is open: pytest's words for a failure print arrays, whose
        # values would never come.
        try:
            y = F.conv1d(foreign, own, **OPTIONS)
            kept = sys.getrefcount(foreign.base_data)
            queue, status = y.events[0].command_queue, y.events[0].command_execution_status
            may_wait = y.events[0] in foreign.events  # its queue, before it writes again
        finally:
            gate.set_status(cl.command_execution_status.COMPLETE)
        assert queue == plain.queue
        assert may_wait
        assert status > cl.command_execution_status.COMPLETE
        assert np.array_equal(y.get(), expected)
        plain.finish()
        released = sys.getrefcount(foreign.base_data)
        assert released == kept - 1  # it was kept for the launch alone


# What is kept


def test_recipes_are_bounded(plain, monkeypatch):
    plain.recipes._size = 3
    assert RECIPES_KEPT >= 3
    weight = plain.to_device(np.ones((1, 1, 3), np.float32))
    for length in (*range(5, 12), 5):
        x = plain.to_device(np.ones((1, 1, length), np.float32))
        assert (F.conv1d(x, weight).get() == 3).all()
        assert len(plain.recipes) <= 3


def test_kernels_come_back(runtime):
    """A kept recipe whose kernels were forgotten gets them built again."""
    small = Runtime(runtime.device, program_cache_size=1)
    x = small.to_device(np.ones((1, 1, 20), np.float32))
    weights = [small.to_device(np.ones((1, 1, size), np.float32)) for size in (2, 3)]
    for _ in range(3):
        for size, weight in zip((2, 3), weights, strict=True):
            assert (F.conv1d(x, weight).get() == size).all()
            assert len(small.programs) == len(small.programs._threads.kernels) == 1
    assert len(small.recipes) == 2


def test_kernels_belong_to_threads(plain):
    """Arguments are a kernel's state: no two threads have one, and one keeps its own."""
    prepared = plain.prepare(plain.plans(PROBLEM, Pass.FORWARD))
    own, others = plain.kernels(prepared), []
    thread = threading.Thread(target=lambda: others.extend(plain.kernels(prepared)), daemon=True)
    thread.start()
    thread.join(60)
    assert len(own) == len(others) == len(prepared.sources)
    assert not {kernel.int_ptr for kernel in own} & {kernel.int_ptr for kernel in others}
    assert all(a is b for a, b in zip(plain.kernels(prepared), own, strict=True))


def test_a_runtime_goes_with_its_last_user(runtime):
    """What a runtime keeps does not keep it."""
    own = Runtime(runtime.device)
    before = sys.getrefcount(own)
    x = own.to_device(np.ones((1, 1, 20), np.float32))
    y = F.conv1d(x, own.to_device(np.ones((1, 1, 3), np.float32)))
    F.conv1d_backward(x, own.to_device(np.ones((1, 1, 3), np.float32)), y)
    after = sys.getrefcount(own)
    assert after == before


def test_threads_share_a_layer(plain, rng):
    """Two threads in one layer's forward pass at once, each with its own data."""
    layer = Conv1D(4, 6, 3, stride=2, pad=1, groups=2)
    layer.b.fill(np.float32(0))
    weight = whole(rng, PROBLEM.weight_shape)
    layer.W.set(weight.reshape(layer.W.shape))
    inputs = [whole(rng, PROBLEM.input_shape) for _ in range(2)]
    faults = []
    start = threading.Barrier(2)

    def work(x):
        try:
            device, expected = plain.to_device(x), reference.conv1d(PROBLEM, x, weight)
            start.wait(60)
            for _ in range(50):
                assert np.array_equal(layer(device).get(), expected)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(x,), daemon=True) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not faults
    assert clconv.default_runtime() is plain


def test_empty_arrays(plain):
    """Arrays made from one outline are arrays of their own."""
    for shape in ((2, 3), (), (0, 4), 5, [2, 3], (np.int64(2), 3)):
        first, second = plain.empty(shape, "f"), plain.empty(shape, np.float32)
        expected = np.empty(shape, np.float32)
        for array in (first, second):
            assert array.shape == expected.shape
            assert array.dtype == expected.dtype
            assert array.nbytes == expected.nbytes
            assert array.strides == expected.strides or not array.size
            assert array.flags.c_contiguous
            assert array.offset == 0
            assert array.queue == plain.queue
        assert first.events is not second.events
        assert first.base_data.int_ptr != second.base_data.int_ptr
    first = plain.empty((2, 3))
    first.fill(np.float32(1))
    assert (plain.empty((2, 3)).events, len(first.events)) == ([], 1)
