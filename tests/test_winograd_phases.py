"""Winograd's transforms in the input gradient of a stride: results in phases, of the same tiles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import clconv
from clconv import Conv1dProblem, Pass, testing
from clconv import functional as F
from clconv.planning.profiles import PROFILES
from clconv.variants import winograd
from clconv.variants.base import Request
from clconv.variants.winograd.bound import bound
from clconv.variants.winograd.tiles import Tiles, tile_outputs
from clconv.variants.winograd.transforms import in_turn, steps
from clconv.variants.winograd.work import Work

PASS = Pass.INPUT_GRADIENT
# Every number of taps, padding whose first result is of either phase, and results that no window
# reaches: in front of the first, behind the last.
PROBLEMS = {
    "even taps": Conv1dProblem(2, 3, 22, 2, 4, 2, 1),
    "odd taps": Conv1dProblem(1, 2, 21, 3, 5, 2, (2, 1)),
    "groups": Conv1dProblem(2, 4, 19, 4, 6, 2, (3, 0), 1, 2),
    "padding beyond the taps": Conv1dProblem(1, 2, 17, 2, 4, 2, (7, 6)),
    "no padding": Conv1dProblem(1, 2, 24, 2, 5, 2),
    "cropped": Conv1dProblem.transposed(1, 2, 11, 3, 4, 2, 0, 1),
}


def _arrays(rng, problem, make=testing.normals):
    return {
        "weight": make(rng, problem.weight_shape, problem.dtype),
        "grad_output": make(rng, problem.output_shape, problem.dtype),
    }


def _by_steps(matrix, values, kind):
    """The product as templates write it, by numbers of a kind."""
    names = {f"x{j}": value for j, value in enumerate(values)}
    for step in steps(matrix):
        text = step.expression(lambda factor: f"kind(Fraction({str(factor)!r}))")
        names[step.name] = eval(text, {"kind": kind, "Fraction": Fraction}, names)
    return [names[f"r{i}"] for i in range(len(matrix))]


def _simulated(problem, outputs, arrays, dtype):
    """The pass as kernels do it, with every operation rounded to a dtype."""
    tiles = Tiles(problem, PASS, outputs)
    form, groups = tiles.transform, problem.groups
    y = arrays["grad_output"].reshape(problem.batch, groups, problem.group_out, -1)
    shape = (groups, problem.group_out, problem.group_in, problem.kernel_size)
    weight = arrays["weight"].reshape(shape)
    left, stride = problem.pads[0], problem.stride
    found = np.zeros((problem.batch, groups, problem.group_in, problem.length), dtype)
    written = np.zeros(problem.length, int)
    for phase in range(stride):
        own = weight[..., phase::stride][..., ::-1]
        # The phase may have a tap less: its last, which comes first here.
        own = np.pad(own, (*((0, 0),) * 3, (form.taps - own.shape[-1], 0)))
        factors = _by_steps(form.weight, list(np.moveaxis(own, -1, 0)), dtype)
        for t in range(tiles.row_tiles):
            at = t * outputs + np.arange(form.samples) + left // stride - (form.taps - 1)
            inside = (at >= 0) & (at < problem.out_length)
            samples = np.where(inside, y[..., np.where(inside, at, 0)], dtype(0))
            data = _by_steps(form.data, list(np.moveaxis(samples, -1, 0)), dtype)
            sums = [0] * form.points
            for c in range(problem.group_out):
                for p in range(form.points):
                    sums[p] = sums[p] + data[p][:, :, None, c] * factors[p][None, :, c]
            for i, result in enumerate(_by_steps(form.inverse, sums, dtype)):
                q = (t * outputs + i + left // stride) * stride + phase - left
                if 0 <= q < problem.length:
                    found[..., q] = result
                    written[q] += 1
    assert np.all(written == 1)
    return found.reshape(problem.input_shape)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_vectors_in_turn_have_an_element_of_each(count):
    names = [f"r{i}" for i in range(count)]
    vectors = {name: list(range(i, 8 * count, count)) for i, name in enumerate(names)}
    vectors |= {"o0": vectors["r0"]} if count == 1 else {}
    for name, a, b, high in in_turn(names):
        halves = (vectors[one][4 * high : 4 * high + 4] for one in (a, b))
        vectors[name] = [element for both in zip(*halves, strict=True) for element in both]
    assert [vectors[f"o{i}"] for i in range(count)] == [
        list(range(8 * i, 8 * i + 8)) for i in range(count)
    ]


def test_tiles_save_products():
    """Of four results of each phase: 10 or 12 products instead of those of all taps."""
    for taps, products in ((4, 10), (5, 12), (6, 12)):
        problem = Conv1dProblem(1, 4, 90, 4, taps, 2)
        tiles = Tiles(problem, PASS, tile_outputs(problem, PASS)[0])
        assert tiles.phases * tiles.points == products
        assert products * 1.6 < 4 * taps + 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_simulated_tiles_keep_the_bound(rng, name):
    """And one that is off by some bounds, or a lost sample, or tap, does not."""
    problem = PROBLEMS[name]
    arrays = _arrays(rng, problem)
    for outputs in tile_outputs(problem, PASS):
        found = _simulated(problem, outputs, arrays, np.float32)
        sums = lambda a, outputs=outputs: bound(problem, PASS, {"outputs": outputs}, a)  # noqa: E731
        testing.assert_right(found, problem, PASS, arrays, sums=sums)
        most = sums(arrays)
        assert most.shape == found.shape
        reached = np.flatnonzero(most[0, 1])
        for place in ((0, 0, reached[0]), (0, 1, reached[-1])):
            off = found.copy()
            off[place] += 3 * most[place]
            with pytest.raises(AssertionError, match=r"1 of \d+ values are wrong"):
                testing.assert_right(off, problem, PASS, arrays, sums=sums)
        for lost, place in (("grad_output", (0, 0, 7)), ("weight", (1, 1, -1))):
            without = arrays | {lost: arrays[lost].copy()}
            without[lost][place] = 0
            found = _simulated(problem, outputs, without, np.float32)
            with pytest.raises(AssertionError, match="values are wrong"):
                testing.assert_right(found, problem, PASS, arrays, sums=sums)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_bound_has_all_positions(name):
    """Where a single position of y is not zero: transforms make no term's magnitude less than it
    is."""
    problem = PROBLEMS[name]
    weight = np.ones(problem.weight_shape, np.float32)
    for outputs in tile_outputs(problem, PASS):
        for position in range(problem.out_length):
            grad = np.zeros(problem.output_shape, np.float32)
            grad[..., position] = 1
            given = {"weight": weight, "grad_output": grad}
            terms = testing.evaluate(problem, PASS, given)
            found = bound(problem, PASS, {"outputs": outputs}, given)
            assert (found >= testing.gamma(2, np.float32) * terms).all()


# Kernels


def _computed(runtime, problem, plan, arrays):
    with runtime:
        return F.conv1d_input(
            problem.input_shape, *arrays.values(), problem.stride, problem.pads,
            groups=problem.groups, variant={PASS: plan.choice},
        )  # fmt: skip


def _by_outputs(runtime, problem, outputs):
    """The best plan by tiles of so many results a phase."""
    found = runtime.plans(problem, PASS, variant="winograd")
    return next(plan for plan in found if plan.tile["outputs"] == outputs)


def _check(runtime, rng, problem):
    plan, arrays = _by_outputs(runtime, problem, 4), _arrays(rng, problem)
    result = _computed(runtime, problem, plan, arrays)
    testing.assert_right(result, problem, PASS, arrays, str(dict(plan.tile)), sums=plan.sums_bound)


@pytest.mark.parametrize("name", ["phases", "phases, short rows"])
def test_every_device(each_cpu, rng, name):
    _check(each_cpu, rng, winograd.EXAMPLES[name])


@pytest.mark.parametrize("taps", [4, 5, 6])
def test_all_lengths_and_paddings(cpu_runtime, rng, taps):
    """Ends of rows at every place of a vector of tiles, or of what is written from it, by one set
    of kernels."""
    for length in (1, 2, 3, 8, 15, 31, 63, 64, 65, 130):
        for pads in ((0, 0), (1, 1), (2, 1), (3, 2), (9, 8)):
            if length + sum(pads) < taps:
                continue
            _check(cpu_runtime, rng, Conv1dProblem(2, 6, length, 5, taps, 2, pads))


def test_two_outputs_are_exact(cpu_runtime, rng):
    """On whole numbers: rows of whole vectors, and their ends."""
    problem = Conv1dProblem(3, 9, 301, 5, 5, 2, (1, 2))
    plan = _by_outputs(cpu_runtime, problem, 2)
    arrays = _arrays(rng, problem, testing.integers)
    result = _computed(cpu_runtime, problem, plan, arrays)
    testing.assert_exact(result, testing.evaluate(problem, PASS, arrays))


@pytest.mark.parametrize("name", ["phases", "phases, short rows", "phases, odd taps"])
def test_what_is_not_finite_stays_where_it_belongs(cpu_runtime, rng, name):
    """NaN and infinities in exactly the results that the definition gives; sums that overflow in
    transforms alone have their place among the numbers."""
    problem = winograd.EXAMPLES[name]
    arrays = _arrays(rng, problem)
    source = arrays["grad_output"]
    source[0, 1, 5], source[-1, 0, 3], source[-1, 2, -1] = np.nan, np.inf, -np.inf
    source[0, 0, 7:11] = 1.5e38
    arrays["weight"] *= np.float32(0.1)
    arrays["weight"][1, 1, 0] = np.inf
    plan = _by_outputs(cpu_runtime, problem, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        result = _computed(cpu_runtime, problem, plan, arrays)
        expected = testing.evaluate(problem, PASS, arrays)
        most = plan.error_bound(arrays["weight"], arrays["grad_output"])
    finite = np.isfinite(expected)
    assert finite.any()
    assert np.array_equal(np.isnan(result), np.isnan(expected))
    infinite = np.isinf(expected)
    assert infinite.any()
    assert np.array_equal(result[infinite], expected[infinite])
    assert not testing.outside(result[finite], expected[finite], most[finite]).any()


@pytest.mark.parametrize("taps", [4, 6])
def test_the_error_is_as_small_as_that_of_direct_sums(cpu_runtime, rng, taps):
    """At most four times, of normal data, as root of the mean square; small integers round to the
    right ones."""
    problem = Conv1dProblem(2, 48, 300, 64, taps, 2, 1)
    arrays = _arrays(rng, problem)
    true = testing.evaluate(problem, PASS, arrays)
    errors = []
    for plan in (
        _by_outputs(cpu_runtime, problem, 4),
        cpu_runtime.plans(problem, PASS, variant="strip")[0],
    ):
        result = _computed(cpu_runtime, problem, plan, arrays)
        errors.append(float(np.sqrt(((result - true) ** 2).mean())))
    assert 0 < errors[0] < 4 * errors[1]
    whole = _arrays(rng, problem, testing.integers)
    result = _computed(cpu_runtime, problem, _by_outputs(cpu_runtime, problem, 4), whole)
    assert np.array_equal(np.rint(result), testing.evaluate(problem, PASS, whole))


@pytest.mark.parametrize(("padding", "extra"), [(1, 0), (0, 1)])
def test_transposed_convolutions(cpu_runtime, rng, padding, extra):
    """With bias, residual and activation, and a sample that output_padding appends, which no window
    reaches; weights that are prepared are transformed once."""
    problem = Conv1dProblem.transposed(2, 9, 70, 5, 4, 2, padding, extra)
    arrays = _arrays(rng, problem)
    bias = testing.normals(rng, (5,), "f")
    residual = testing.normals(rng, problem.input_shape, "f")
    place = (bias, 2, padding, extra)
    options = {"residual": residual, "activation": "gelu", "variant": "winograd"}
    with cpu_runtime:
        prepared = clconv.prepare_weight(arrays["weight"], 2, transposed=True)
        counts = []
        for weight in (arrays["weight"], prepared, prepared):
            before = cpu_runtime.launches
            y = F.conv_transpose1d(arrays["grad_output"], weight, *place, **options)
            counts.append(cpu_runtime.launches - before)
    assert counts == [2, 2, 1]
    assert y.shape == (2, 5, 140 if padding else 143)
    plan = cpu_runtime.plans(problem, PASS, variant="winograd")[0]
    given = arrays | {"bias": bias, "residual": residual}
    testing.assert_right(y, problem, PASS, given, activation="gelu", sums=plan.sums_bound)


def test_samples_do_not_hang_on_each_other(cpu_runtime, rng):
    """A batch gives the bits of its elements alone, however tasks are cut; so does every run."""
    problem = Conv1dProblem(9, 9, 101, 5, 4, 2, 1)
    arrays = _arrays(rng, problem)
    plan = cpu_runtime.plans(problem, PASS, variant="winograd")[0]
    result = _computed(cpu_runtime, problem, plan, arrays)
    again = _computed(cpu_runtime, problem, plan, arrays)
    one = arrays | {"grad_output": arrays["grad_output"][4:5]}
    alone = _computed(cpu_runtime, replace(problem, batch=1), plan, one)
    assert np.array_equal(result, again)
    assert np.array_equal(result[4:5], alone)


@pytest.mark.parametrize("profile", ["cpu", "zen4", "zen5", "neon"])
def test_tasks_have_all_vectors_and_channels(profile):
    """Of work of many sizes: each once; the phases of a channel are in one task."""
    device = PROFILES[profile]
    for batch, written, length, read, taps in (
        (1, 256, 8000, 512, 4), (30, 33, 50, 64, 5), (2, 7, 700, 80, 6), (1, 4, 9, 800, 4),
    ):  # fmt: skip
        problem = Conv1dProblem(batch, written, length, read, taps, 2, 1)
        request = Request(problem, PASS, device)
        assert winograd.refusal(request) is None
        for design in winograd.designs(request):
            assert design.tile["channel_tile"] % 2 == 0
            work = Work(
                request, design.tile["outputs"], design.tile["channel_tile"], design.tile["vectors"]
            )
            blocks = work.blocks()
            reached = work.all_vectors * work.lanes * work.outputs * 2
            assert reached >= batch * length
            assert (blocks.position_blocks - 1) * blocks.vectors < work.all_vectors
            assert work.all_vectors <= blocks.position_blocks * blocks.vectors
            assert 2 * written <= blocks.parts * blocks.part_tiles * work.channels
            assert (blocks.parts - 1) * blocks.part_tiles * work.channels < 2 * written
