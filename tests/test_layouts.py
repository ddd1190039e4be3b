"""Channels last, and other positions that are not contiguous: results as of contiguous arrays, in
place where that is said to be faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import PROBLEMS

import clconv
from clconv import Conv1dProblem, Epilogue, Pass, ProblemError, reference, testing
from clconv import functional as F
from clconv.calls.draft import Draft
from clconv.calls.elementwise import host_values
from clconv.planning.planner import candidates
from clconv.variants.base import Layout

CHANNELS = (Layout.CHANNELS, Layout.CHANNELS)
# Of every kind: all tiles, strides, dilations and groups, lanes with a remainder of channels.
MORE = {
    "whole vectors of channels": Conv1dProblem(2, 32, 70, 24, 3, 1, 1),
    "vectors of channels that overlap": Conv1dProblem(1, 19, 90, 18, 4, 2, 1),
    "depthwise, whole vectors": Conv1dProblem(2, 48, 72, 48, 5, 1, 2, 1, 48),
    "depthwise, many taps": Conv1dProblem(1, 20, 90, 20, 21, 1, 10, 1, 20),
    "depthwise, dilated and strided": Conv1dProblem(1, 17, 90, 17, 10, 3, (9, 4), 2, 17),
}


def turned(array):
    """(N, C, L) as (N, L, C), contiguous, and back."""
    return np.ascontiguousarray(np.swapaxes(array, -1, -2))


def drawn(rng, shape, dtype="float32", most=4):
    """Integers, whose sums are exact."""
    return rng.integers(-most, most + 1, shape).astype(dtype)


def options(problem):
    return {
        "stride": problem.stride,
        "padding": problem.pads,
        "dilation": problem.dilation,
        "groups": problem.groups,
    }


def recipes(monkeypatch):
    """A list that grows with every recipe that is made."""
    made = []
    real = Draft.recipe

    def kept(self):
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Draft, "recipe", kept)
    return made


SWEPT = (
    "stride and dilation share a factor",
    "padding wider than the input",
    "large batch of short sequences",
    "no batch",
)


def _check(rng, problem, **more):
    """Forward and input gradient of (N, L, C)."""
    x, weight = drawn(rng, problem.input_shape), drawn(rng, problem.weight_shape)
    grad = drawn(rng, problem.output_shape)
    common = options(problem) | {"layout": "NLC", "exact": True} | more
    y = reference.conv1d(problem, x, weight)
    assert np.array_equal(F.conv1d(turned(x), weight, **common), turned(y))
    found = F.conv1d_input(turned(x).shape, weight, turned(grad), **common)
    assert np.array_equal(found, turned(reference.input_gradient(problem, weight, grad)))


def _check_epilogue(rng, problem, **more):
    """With all that may follow the sums."""
    x, residual = drawn(rng, problem.input_shape), drawn(rng, problem.output_shape)
    weight, bias = drawn(rng, problem.weight_shape), drawn(rng, problem.out_channels)
    before = turned(np.empty_like(residual))
    found = F.conv1d(
        turned(x), weight, bias, activation="relu", residual=turned(residual),
        pre_activation=before, layout="NLC", exact=True, **options(problem), **more,
    )  # fmt: skip
    sums = reference.conv1d(problem, x, weight) + bias[:, None] + residual
    assert np.array_equal(before, turned(sums))
    assert np.array_equal(found, turned(np.maximum(sums, 0)))


@pytest.mark.parametrize("name", [*SWEPT, *MORE])
def test_channels_last(first_runtime, rng, name):
    """The same as of contiguous rows, which is exact."""
    _check(rng, (PROBLEMS | MORE)[name])


@pytest.mark.every_device
def test_channels_last_on_every_device(runtime, rng):
    """Strips with an epilogue, and lanes that are channels."""
    _check_epilogue(rng, PROBLEMS["several tiles and a remainder in every direction"])
    _check(rng, MORE["depthwise, whole vectors"])


def test_channels_last_as_on_a_gpu(gpu_runtime, rng):
    """Arrays are copied there."""
    _check(rng, PROBLEMS["stride does not divide"])


def test_epilogues_of_depthwise_layers(first_runtime, rng):
    for name in ("depthwise, whole vectors", "depthwise, many taps"):
        _check_epilogue(rng, MORE[name])


def test_gradients_and_transposed_convolutions(first_runtime, rng):
    problem = Conv1dProblem(2, 6, 41, 4, 3, 2, 1, 1, 2)
    x, weight = drawn(rng, problem.input_shape), drawn(rng, problem.weight_shape)
    grad = drawn(rng, problem.output_shape)
    common = options(problem) | {"layout": "NLC"}
    expected = (
        turned(reference.input_gradient(problem, weight, grad)),
        reference.weight_gradient(problem, x, grad),
        grad.sum(axis=(0, 2)),
    )
    found = F.conv1d_backward(turned(x), weight, turned(grad), **common)
    for one, right in zip(found, expected, strict=True):
        assert np.array_equal(one, right)
    of_weight = F.conv1d_weight(turned(x), weight.shape, turned(grad), **common)
    assert np.array_equal(of_weight, expected[1])
    assert np.array_equal(F.conv1d_bias(turned(grad), layout="NLC"), expected[2])
    none = F.conv1d_backward(turned(x)[:0], weight, turned(grad)[:0], **common)
    assert [one.shape for one in none] == [(0, 41, 6), weight.shape, (4,)]
    assert not none[1].any()
    # The transposed convolution, and what exchanges input and output in its gradients.
    rows = options(problem)
    y = F.conv_transpose1d(grad, weight, **rows)
    assert np.array_equal(F.conv_transpose1d(turned(grad), weight, **common), turned(y))
    arrays = grad, weight, drawn(rng, y.shape)
    expected = F.conv_transpose1d_backward(*arrays, **rows)
    found = F.conv_transpose1d_backward(turned(grad), weight, turned(arrays[2]), **common)
    assert np.array_equal(turned(found[0]), expected[0])
    for one, right in zip(found[1:], expected[1:], strict=True):
        assert np.array_equal(one, right)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes(first_runtime, rng, dtype):
    """Exact, and within the bound of sums; one channel a group, too."""
    if dtype == "float64" and not first_runtime.profile.fp64:
        pytest.skip(f"{first_runtime.info.name} has no float64")
    for name in ("vectors of channels that overlap", "depthwise, whole vectors"):
        problem = replace(MORE[name], dtype=dtype)
        x, weight = (
            testing.normals(rng, s, dtype) for s in (problem.input_shape, problem.weight_shape)
        )
        grad = testing.normals(rng, problem.output_shape, dtype)
        common = options(problem) | {"layout": "NLC", "exact": True}
        y = F.conv1d(turned(x), weight, **common)
        testing.assert_right(turned(y), problem, "forward", {"x": x, "weight": weight})
        gx = F.conv1d_input(turned(x).shape, weight, turned(grad), **common)
        arrays = {"weight": weight, "grad_output": grad}
        testing.assert_right(turned(gx), problem, "input_gradient", arrays)
        whole = (
            drawn(rng, problem.input_shape, dtype, 1),
            drawn(rng, problem.weight_shape, dtype, 1),
        )
        expected = reference.conv1d(problem, *whole)
        assert np.array_equal(F.conv1d(turned(whole[0]), whole[1], **common), turned(expected))


@pytest.mark.parametrize("name", ["whole vectors of channels", *list(MORE)[2:4]])
def test_special_values(first_runtime, rng, name):
    """NaN and infinity reach what they reach by the definition, near the ends as well."""
    problem = MORE[name]
    weight = drawn(rng, problem.weight_shape)
    weight[3, 0, -1] = np.inf
    x, grad = drawn(rng, problem.input_shape), drawn(rng, problem.output_shape)
    x[0, 2, 0] = x[0, 5, 20] = np.nan
    grad[0, 1, 0], grad[0, 3, -1] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        y = reference.conv1d(problem, x, weight)
        gx = reference.input_gradient(problem, weight, grad)
    common = options(problem) | {"layout": "NLC", "exact": True}
    found = F.conv1d(turned(x), weight, **common)
    assert np.array_equal(found, turned(y), equal_nan=True)
    found = F.conv1d_input(turned(x).shape, weight, turned(grad), **common)
    assert np.array_equal(found, turned(gx), equal_nan=True)


# Views


def test_views_in_place(cpu_runtime, rng, monkeypatch):
    """Every second sample, reversed positions, some of the channels: strips read them as they lie,
    and the result is contiguous."""
    made = recipes(monkeypatch)
    problem = Conv1dProblem(2, 20, 60, 12, 3, 1, 1)
    weight = cpu_runtime.to_device(drawn(rng, problem.weight_shape))
    wide = cpu_runtime.to_device(drawn(rng, (2, 20, 120)))
    last = cpu_runtime.to_device(drawn(rng, (2, 60, 40)))
    views = [wide[:, :, ::2], wide[:, :, 59::-1], last.transpose((0, 2, 1))[:, 7:27]]
    for view in views:
        y = F.conv1d(view, weight, padding=1)
        right = reference.conv1d(problem, host_values(view), weight.get())
        assert y.flags.c_contiguous
        assert np.array_equal(y.get(), right)
        assert made[-1].copies == ()
    y = F.conv1d(last[:, :, 7:27], weight, padding=1, layout="NLC")
    assert np.array_equal(y.get(), turned(right))
    assert made[-1].copies == ()


def test_out_and_unbatched(first_runtime, rng):
    problem = Conv1dProblem(1, 8, 30, 6, 3)
    x, weight = drawn(rng, problem.input_shape), drawn(rng, problem.weight_shape)
    y = reference.conv1d(problem, x, weight).astype(np.float32)
    device = [first_runtime.to_device(one) for one in (turned(x), weight)]
    out = first_runtime.empty((1, 28, 6))
    assert F.conv1d(*device, out=out, layout="NLC") is out
    assert np.array_equal(out.get(), turned(y))
    assert np.array_equal(F.conv1d(turned(x)[0], weight, layout="NLC"), turned(y)[0])
    size = (30, 8)
    gx = F.conv1d_input(size, weight, turned(y)[0], layout="NLC")
    assert np.array_equal(gx, turned(reference.input_gradient(problem, weight, y))[0])
    host = np.empty((1, 28, 6), np.float32)
    assert F.conv1d(turned(x), weight, out=host, layout="NLC") is host
    assert np.array_equal(host, turned(y))


def test_errors_name_shapes_in_the_callers_order(first_runtime):
    x, weight = np.zeros((2, 30, 8), "f"), np.zeros((6, 8, 3), "f")
    wrong = [
        (
            {"residual": np.zeros((2, 6, 28), "f")},
            r"residual has shape \(2, 6, 28\), expected \(2, 28, 6\)",
        ),
        ({"out": np.zeros((2, 6, 28), "f")}, r"out has shape \(2, 6, 28\), expected \(2, 28, 6\)"),
        (
            {"out": np.zeros((2, 6, 28), "f").swapaxes(1, 2)},
            "out has strides .* expected contiguous",
        ),
    ]
    for more, message in wrong:
        with pytest.raises(ProblemError, match=message):
            F.conv1d(x, weight, layout="NLC", **more)
    with pytest.raises(
        ProblemError, match=r"x has shape \(5,\), expected \(N, L, C\), or \(L, C\)"
    ):
        F.conv1d(x[0, :5, 0], weight, layout="NLC")
    with pytest.raises(
        ProblemError, match=r"x has shape \(2, 30, 0\), expected at least one channel"
    ):
        F.conv1d(x[:, :, :0], weight, layout="NLC")
    with pytest.raises(
        ProblemError, match=r"grad_output has shape \(2, 6, 28\), expected \(2, 28, 6\)"
    ):
        F.conv1d_input((2, 30, 8), weight, np.zeros((2, 6, 28), "f"), layout="NLC")
    with pytest.raises(ProblemError, match="layout is 'NHC', expected 'NCL' or 'NLC'"):
        F.conv1d(x, weight, layout="NHC")


# Which is taken


def test_nothing_is_copied_where_that_is_faster(cpu_runtime, rng, monkeypatch):
    """Dense layers and depthwise ones; weight gradients are of copies."""
    made = recipes(monkeypatch)
    for groups in (1, 32):
        x, weight = drawn(rng, (1, 90, 32)), drawn(rng, (32, 32 // groups, 3))
        y = F.conv1d(x, weight, groups=groups, layout="NLC")
        F.conv1d_input(x.shape, weight, y, groups=groups, layout="NLC")
        assert [one.copies for one in made[-2:]] == [(), ()]
    F.conv1d_backward(x, weight, y, groups=32, need=(False, True, True), layout="NLC")
    assert set(made[-1].copies) == {"x", "grad_output"}


@pytest.mark.parametrize("pass_", [Pass.FORWARD, Pass.INPUT_GRADIENT])
def test_the_plan_in_place_or_on_copies(pass_):
    """By predicted cost, which includes the copies; their kernels are those for rows, and follow
    from the layer alone."""
    dense = Conv1dProblem(4, 256, 2000, 256, 3, 1, 1)
    for problem, device, exact, in_place in (
        (dense, "zen5", True, True),
        (dense, "zen5", False, False),  # transforms are faster by more than the copies take
        (dense, "cpu", True, True),
        (replace(dense, groups=256), "zen4", False, True),
        (replace(dense, kernel_size=129), "zen5", False, False),
        (dense, "gfx1100", False, False),
    ):
        device = clconv.profiles()[device]
        plans = list(candidates(problem, pass_, device, layouts=CHANNELS, exact=exact))
        assert ("in_place" in plans[0].tile) is in_place
        costs = [
            float(f"{p.design.cost.seconds:.6e}")
            for p in plans
            if not (p.design.decides or p.design.measured_only)
        ]
        assert costs == sorted(costs)
        rows = {_named(plan): plan for plan in candidates(problem, pass_, device, exact=exact)}
        copying = [plan for plan in plans if plan.design.copies]
        assert copying
        for plan in copying:
            own = rows[_named(plan)]
            assert plan.kernels == own.kernels
            assert plan.launches == own.launches
            assert plan.design.copies == 2
            assert plan.cost > own.cost


def _named(plan):
    return plan.variant, *sorted(plan.tile.items())


def test_lengths_compile_nothing(first_runtime):
    """Batch, length and padding are numbers of a launch."""
    problem = Conv1dProblem(4, 32, 500, 32, 3, groups=32)
    for one in (problem, replace(problem, groups=1)):
        kernels = {
            next(
                first_runtime.candidates(other, Pass.FORWARD, Epilogue(), layouts=CHANNELS)
            ).kernels
            for other in (one, replace(one, batch=1), replace(one, length=77, padding=(2, 9)))
        }
        assert len(kernels) == 1
