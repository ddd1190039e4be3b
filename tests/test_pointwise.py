"""Convolutions of one tap without a stride: which take rows in place, and what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import clconv
from clconv import Conv1dProblem, Pass, ProblemError, reference, testing
from clconv import functional as F
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, profile
from clconv.variants import pointwise

GRADIENTS = (Pass.FORWARD, Pass.INPUT_GRADIENT)
CPUS = ("cpu", "zen4", "zen5", "neon")


@pytest.mark.parametrize("device", CPUS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_of_one_tap_take_it(device, dtype):
    """With the kernel of another batch, length and padding. Where vectors have half the width, many
    tiles of channels may share a strip instead."""
    few, many = ((544, 93), (81, 32), (48, 16)), ((128, 624), (256, 1), (4, 512))
    wide = device in ("zen5", "neon")
    for channels in (*few, *many) if wide else few:
        for pass_ in GRADIENTS if wide else (Pass.FORWARD,):
            layer = Conv1dProblem(6, channels[0], 316, channels[1], 1, dtype=dtype)
            plan = plans(layer, pass_, PROFILES[device])[0]
            assert plan.variant == "pointwise", (channels, pass_)
            for other in (
                replace(layer, batch=1, length=1),
                replace(layer, batch=0),
                replace(layer, length=40_000, padding=(3, 1)),
            ):
                same = plans(other, pass_, PROFILES[device])[0]
                assert same.source() == plan.source()
                assert same.tile == plan.tile


@pytest.mark.parametrize(
    ("problem", "pass_", "device", "why"),
    [
        (Conv1dProblem(1, 8, 50, 8, 3), "forward", "zen5", "kernel_size is 3, expected 1"),
        (Conv1dProblem(1, 8, 50, 8, 1, 2), "forward", "zen5", "stride is 2, expected 1"),
        (Conv1dProblem(1, 8, 50, 8, 1), "weight_gradient", "zen5", "no gradients of parameters"),
        (Conv1dProblem(1, 8, 50, 8, 1, dtype="float16"), "forward", "cpu", "dtype is float16"),
        (Conv1dProblem(1, 8, 50, 8, 1), "forward", "sm_90", "it is for CPUs"),
    ],
)
def test_what_it_refuses(problem, pass_, device, why):
    with pytest.raises(ProblemError, match=why):
        plans(problem, Pass.of(pass_), profile(device), variant="pointwise")


def _elements(numbers, place):
    """The positions of each row that each task writes, as the kernel counts them."""
    for block in range(numbers["position_blocks"]):
        first = block % numbers["chunks"] * numbers["chunk_places"]
        last = min(first + numbers["chunk_places"], numbers["places"])
        row = 0 if numbers["flat"] else block // numbers["chunks"]
        end = numbers["total"] if numbers["flat"] else numbers["positions"]
        found = set()
        for one in range(first, last):
            begin = one * place if numbers["flat"] else min(one * place, end - place)
            assert begin >= 0
            found |= {(row, p) for p in range(begin, min(begin + place, end))}
        yield found


@pytest.mark.parametrize("device", ["cpu", "zen5"])
def test_no_two_tasks_write_the_same(device):
    """All positions are written, each by one task, whatever the row's last place shares with the
    place before it."""
    seen = set()
    for length in (*range(1, 140), 316, 1000, 1024, 1657):
        for batch in (1, 3):
            problem = Conv1dProblem(batch, 40, length, 24, 1)
            for plan in plans(problem, Pass.FORWARD, PROFILES[device], variant="pointwise")[::5]:
                (launch,) = plan.launches
                place = plan.tile["vectors"] * plan.tile["lanes"]
                tasks = list(_elements(launch.numbers, place))
                assert sum(map(len, tasks)) == len(set().union(*tasks)) == batch * length
                seen.add((launch.numbers["flat"], len(tasks) > batch))
    assert {(0, False), (0, True), (1, False)} <= seen


def _pass(problem, pass_, arrays, **options):
    """A pass by the variant, as users call it."""
    place = (1, problem.pads, problem.dilation, problem.groups)
    if pass_ is Pass.FORWARD:
        return F.conv1d(arrays["x"], arrays["weight"], None, *place, **options)
    given = (problem.input_shape, arrays["weight"], arrays["grad_output"])
    return F.conv1d_input(*given, *place, **options)


def _arrays(rng, problem, make=testing.integers):
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    names = ("x", "weight", "grad_output")
    return {
        name: make(rng, shape, problem.dtype) for name, shape in zip(names, shapes, strict=True)
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_remainder(each_cpu, rng, dtype):
    """Rows that end at, before and behind the end of a vector and of a place, each alone and end to
    end."""
    seen = set()
    for length in (*range(1, 36), 47, 48, 49, 63, 64, 65, 95, 97, 127, 128, 129, 255, 257):
        for padding in (0, (2, 1)) if length % 5 == 0 else (0,):
            problem = Conv1dProblem(3, 10, length, 14, 1, 1, padding, 1, 2, dtype=dtype)
            arrays = _arrays(rng, problem)
            for pass_ in GRADIENTS:
                plan = next(each_cpu.candidates(problem, pass_, variant="pointwise"))
                seen.add(plan.launches[0].numbers["flat"])
                found = _pass(problem, pass_, arrays, variant="pointwise")
                testing.assert_right(found, problem, pass_, arrays, f"{pass_.value} of {problem}")
    assert seen == {0, 1}


def test_other_tiles_and_epilogues(each_cpu, rng):
    """Rows in place and end to end, with all that may follow the sums."""
    for length, batch in ((70, 2), (5, 7)):
        problem = Conv1dProblem(batch, 6, length, 9, 1)
        arrays = _arrays(rng, problem)
        bias = testing.integers(rng, (9,), problem.dtype)
        residual = testing.integers(rng, problem.output_shape, problem.dtype)
        sums = reference.conv1d(problem, arrays["x"], arrays["weight"])
        sums = sums + bias[:, None] + residual
        for activation in ("relu", "silu"):
            kept = each_cpu.empty(problem.output_shape)
            given = [each_cpu.to_device(one) for one in (arrays["x"], arrays["weight"], bias)]
            found = F.conv1d(
                *given, activation=activation, residual=each_cpu.to_device(residual),
                pre_activation=kept, variant="pointwise",
            ).get()  # fmt: skip
            assert np.array_equal(kept.get(), sums)
            if activation == "relu":
                assert np.array_equal(found, np.maximum(sums, 0))
            else:
                assert np.allclose(found, sums / (1 + np.exp(-sums.astype(np.float64))), 1e-5)


def test_the_same_bits_as_by_strips(each_cpu, rng):
    """Both sum channel after channel, so a layer may change between them."""
    layer = Conv1dProblem(2, 600, 130, 9, 1)
    for problem in (layer, replace(layer, batch=9, length=7)):
        arrays = _arrays(rng, problem, testing.normals)
        one, other = (
            _pass(problem, Pass.FORWARD, arrays, variant=name) for name in ("pointwise", "strip")
        )
        assert np.array_equal(one, other), problem


def test_positions_that_nothing_was_read_for(each_cpu):
    """Have no products in a gradient: not with infinite weights either. In the forward pass padding
    is zeros, of which they make NaN."""
    x, weight = np.ones((2, 3, 40), np.float32), np.full((3, 4, 1), np.inf, np.float32)
    found = F.conv_transpose1d(x, weight, None, 1, 0, 3, 1, 4, variant="pointwise")
    assert found.shape == (2, 4, 43)
    assert (found[..., :40] == np.inf).all()
    assert (found[..., 40:] == 0).all()
    padded = F.conv1d(x, weight.transpose(1, 0, 2), padding=2, variant="pointwise")
    assert np.isnan(padded[..., [0, 1, -2, -1]]).all()
    assert (padded[..., 2:-2] == np.inf).all()


def test_its_examples_reach_all_paths():
    """As Oclgrind's device has them: rows alone and end to end, whole and spilled, and padding."""
    device = replace(profile("cpu"), local_bytes=64 << 10)
    paths = set()
    for problem in pointwise.EXAMPLES.values():
        for pass_ in GRADIENTS:
            plan = plans(problem, pass_, device, variant="pointwise")[0]
            numbers = plan.launches[0].numbers
            paths.add((numbers["flat"], dict(plan.kernels[0].constants)["spill_tiles"] > 0))
    assert {(0, False), (1, False), (1, True)} <= paths
    assert clconv.variants(pointwise.EXAMPLES["64 bits"], "forward", "cpu")[0] == "pointwise"


def test_rows_in_reverse(each_cpu, rng):
    """Samples and positions may lie backwards, so that what is read begins before its array."""
    for length in (3, 40):
        x = rng.integers(-4, 5, (6, 4, length)).astype(np.float32)
        weight = rng.integers(-4, 5, (5, 4, 1)).astype(np.float32)
        problem = Conv1dProblem(6, 4, length, 5, 1)
        there, its_weight = each_cpu.to_device(x), each_cpu.to_device(weight)
        y = F.conv1d(there[::-1], its_weight, variant="pointwise").get()
        assert np.array_equal(y, reference.conv1d(problem, x[::-1], weight))
        turned = each_cpu.to_device(weight.transpose(1, 0, 2).copy())
        y = F.conv1d_input(x.shape[:1] + (5, length), turned, there[::-1], variant="pointwise")
        assert np.array_equal(y.get(), reference.conv1d(problem, x[::-1], weight))
