"""Convolution by Winograd's transforms: the matrices, the sums that templates write, the bound."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import clconv
from clconv import Conv1dProblem, Pass, ProblemError, testing
from clconv import functional as F
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES
from clconv.variants import winograd
from clconv.variants.base import Request
from clconv.variants.winograd.bound import bound
from clconv.variants.winograd.convolution import works
from clconv.variants.winograd.tiles import Tiles, tile_outputs
from clconv.variants.winograd.transforms import (
    OUTPUTS,
    Step,
    every_second,
    roundings,
    steps,
    transform,
    transposed,
)
from clconv.variants.winograd.weight_gradient import Gradient, gradients
from clconv.variants.winograd.work import Work

FORMS = sorted((outputs, taps) for taps, some in OUTPUTS.items() for outputs in some)


def _product(matrix, values):
    return [sum(a * b for a, b in zip(row, values, strict=True)) for row in matrix]


def _by_steps(matrix, values, kind=Fraction):
    """The product as templates write it, by numbers of a kind."""
    names = {f"x{j}": value for j, value in enumerate(values)}
    for step in steps(matrix):
        text = step.expression(lambda factor: f"kind(Fraction({str(factor)!r}))")
        names[step.name] = eval(text, {"kind": kind, "Fraction": Fraction}, names)
    return [names[f"r{i}"] for i in range(len(matrix))]


@pytest.mark.parametrize(("outputs", "taps"), [*FORMS, (1, 1), (1, 4), (5, 1), (2, 5)])
def test_transforms_give_correlations(rng, outputs, taps):
    """For whole numbers as fractions, by the matrices and by their steps: the very sums."""
    form = transform(outputs, taps)
    assert form.points == outputs + taps - 1
    w, x = (list(map(int, rng.integers(-99, 100, n))) for n in (taps, form.points))
    expected = [sum(w[k] * x[i + k] for k in range(taps)) for i in range(outputs)]
    for multiplied in (_product, _by_steps):
        factors, data = multiplied(form.weight, w), multiplied(form.data, x)
        products = [a * b for a, b in zip(factors, data, strict=True)]
        assert multiplied(form.inverse, products) == expected


@pytest.mark.parametrize("taps", [3, 4, 5, 6])
def test_strided_transforms_give_correlations(rng, taps):
    """Their phases' products are fewer than the definition's."""
    form = transform(4, taps, 2)
    assert form.points == 4 * taps - {3: 3, 4: 6, 5: 9, 6: 12}[taps]
    assert form.samples == 6 + taps
    w, x = (list(map(int, rng.integers(-99, 100, n))) for n in (taps, form.samples))
    products = [
        a * b for a, b in zip(_by_steps(form.weight, w), _by_steps(form.data, x), strict=True)
    ]
    expected = [sum(w[k] * x[2 * i + k] for k in range(taps)) for i in range(4)]
    assert _by_steps(form.inverse, products) == expected


@pytest.mark.parametrize("count", [2, 4, 8])
def test_turned_vectors_have_every_nth_element(count):
    vectors = {f"v{i}": list(range(8 * i, 8 * i + 8)) for i in range(count)}
    for name, a, b, first in every_second(count):
        vectors[name] = (vectors[a] + vectors[b])[first::2]
    for i in range(count):
        assert vectors[f"x{i}"] == list(range(i, 8 * count, count))


def test_transforms_have_points_for_few():
    with pytest.raises(ValueError, match="outputs is 5 and taps 3, expected at least 1, and at "):
        transform(5, 3)


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_magnitudes_are_those_of_the_matrix(outputs, taps):
    """Each entry reaches its row in one way: what steps share does not cancel."""
    form = transform(outputs, taps)
    for matrix in (form.data, form.weight, form.inverse):
        found = {}
        for step in steps(matrix):
            total = {}
            for factor, name in step.terms:
                for at, entry in found.get(name, {name: Fraction(1)}).items():
                    total[at] = total.get(at, 0) + abs(factor) * entry
            found[step.name] = total
        for i, row in enumerate(matrix):
            assert found[f"r{i}"] == {f"x{j}": abs(entry) for j, entry in enumerate(row) if entry}


def test_shared_sums_save_additions():
    """Of F(4, 3): as few as by hand."""
    form = transform(4, 3)
    counts = [sum(max(0, len(s.terms) - 1) for s in steps(m)) for m in (form.data, form.inverse)]
    assert counts == [16, 12]


def test_roundings():
    half, third = Fraction(1, 2), Fraction(1, 3)
    assert roundings([Step("a", ((half, "x"), (Fraction(-4), "y")))]) == 1
    assert roundings([Step("a", ((3 * half, "x"), (Fraction(1), "y"), (half, "z")))]) == 3
    shared = Step("t", ((Fraction(1), "x"), (Fraction(1), "y")))
    assert roundings([shared, Step("a", ((third, "t"),))]) == 3


@pytest.mark.parametrize("taps", [2, 3])
def test_two_outputs_are_exact_on_whole_numbers(rng, taps):
    """F(2, r) rounds no small ones: 1/2 is the least of its fractions."""
    form = transform(2, taps)
    w, x = (testing.integers(rng, (n,), np.float32) for n in (taps, form.points))
    factors, data = (_by_steps(m, v, np.float32) for m, v in ((form.weight, w), (form.data, x)))
    products = [a * b for a, b in zip(factors, data, strict=True)]
    found = _by_steps(form.inverse, products, np.float32)
    assert [float(v) for v in found] == [float(w @ x[i : i + taps]) for i in range(2)]


def _simulated(problem, pass_, outputs, arrays, dtype):
    """The pass as kernels do it, with every operation rounded to a dtype."""
    tiles = Tiles(problem, pass_, outputs)
    form = tiles.transform
    source, taps = arrays["x" if tiles.forward else "grad_output"], arrays["weight"]
    shape = (problem.groups, problem.group_out, problem.group_in, problem.kernel_size)
    taps = taps.reshape(shape)
    if not tiles.forward:
        taps = taps.swapaxes(1, 2)[..., ::-1]
    factors = _by_steps(form.weight, list(np.moveaxis(taps, -1, 0)), dtype)
    found = np.zeros((problem.batch, problem.groups * tiles.written, tiles.positions), dtype)
    for g in range(problem.groups):
        for line in range(tiles.lines):
            for t in range(tiles.row_tiles):
                at = (t * form.step + np.arange(form.samples)) * tiles.lines + line - tiles.lead
                inside = (at >= 0) & (at < tiles.length)
                rows = source[:, g * tiles.channels : (g + 1) * tiles.channels]
                samples = np.where(inside, rows[:, :, np.where(inside, at, 0)], dtype(0))
                data = _by_steps(form.data, list(np.moveaxis(samples, -1, 0)), dtype)
                sums = [0] * form.points
                for c in range(tiles.channels):
                    for p in range(form.points):
                        sums[p] = sums[p] + data[p][:, None, c] * factors[p][g][None, :, c]
                for i, result in enumerate(_by_steps(form.inverse, sums, dtype)):
                    p = (t * outputs + i) * tiles.lines + line
                    if p < tiles.positions:
                        found[:, g * tiles.written : (g + 1) * tiles.written, p] = result
    return found, {name: arrays[name] for name in testing.OPERANDS[pass_]}


def _simulated_gradient(problem, outputs, arrays, dtype):
    """The same of the weight gradient."""
    tiles = Tiles(problem, Pass.FORWARD, outputs)
    form = tiles.transform
    x, y = arrays["x"], arrays["grad_output"]
    shape = (problem.groups, problem.group_out, problem.group_in)
    sums = [np.zeros(shape, dtype) for _ in range(form.points)]
    places = [(line, t) for line in range(tiles.lines) for t in range(tiles.row_tiles)]
    for n, (line, t) in itertools.product(range(problem.batch), places):
        turned = []
        for rows, matrix, step, size, lead in (
            (x[n], form.data, form.step, form.samples, tiles.lead),
            (y[n], transposed(form.inverse), outputs, outputs, 0),
        ):
            at = (t * step + np.arange(size)) * tiles.lines + line - lead
            inside = (at >= 0) & (at < rows.shape[1])
            samples = np.where(inside, rows[:, np.where(inside, at, 0)], dtype(0))
            samples = samples.reshape(problem.groups, -1, size)
            turned.append(_by_steps(matrix, list(np.moveaxis(samples, -1, 0)), dtype))
        for p, (data, factors) in enumerate(zip(*turned, strict=True)):
            sums[p] = sums[p] + factors[:, :, None] * data[:, None, :]
    found = np.stack(_by_steps(transposed(form.weight), sums, dtype), axis=-1)
    return found.reshape(problem.weight_shape), {"x": x, "grad_output": y}


SIMULATED = (
    Conv1dProblem(2, 3, 21, 4, 3, 1, (1, 2)),
    Conv1dProblem(1, 4, 30, 6, 3, 1, 2, 3, 2),
    Conv1dProblem(1, 3, 19, 2, 2, 1, 0, 2),
    Conv1dProblem(1, 3, 40, 2, 3, 2, 1),
)


def _arrays(rng, problem, make=testing.normals):
    return {
        "x": make(rng, problem.input_shape, problem.dtype),
        "weight": make(rng, problem.weight_shape, problem.dtype),
        "grad_output": make(rng, problem.output_shape, problem.dtype),
    }


PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", SIMULATED)
def test_simulated_tiles_keep_the_bound(rng, problem, pass_):
    """And one that is off by some bounds, or a lost sample, does not."""
    if problem.stride > 1 and pass_ is Pass.INPUT_GRADIENT:
        pytest.skip("three taps with a stride have no tiles in the input gradient")
    arrays = _arrays(rng, problem)

    def simulated(outputs, arrays):
        if pass_ is Pass.WEIGHT_GRADIENT:
            return _simulated_gradient(problem, outputs, arrays, np.float32)
        return _simulated(problem, pass_, outputs, arrays, np.float32)

    for outputs in tile_outputs(problem):
        found, given = simulated(outputs, arrays)
        sums = lambda a, outputs=outputs: bound(problem, pass_, {"outputs": outputs}, a)  # noqa: E731
        testing.assert_right(found, problem, pass_, given, sums=sums)
        most = sums(given)
        assert most.shape == found.shape
        for place in ((0, 0, 0), (0, 1, found.shape[2] - 1)):
            off = found.copy()
            off[place] += 3 * most[place]
            with pytest.raises(AssertionError, match=r"1 of \d+ values are wrong"):
                testing.assert_right(off, problem, pass_, given, sums=sums)
        name = "grad_output" if pass_ is Pass.INPUT_GRADIENT else "x"
        lost = {**arrays, name: arrays[name].copy()}
        lost[name][0, 0, 7] = 0
        found, _ = simulated(outputs, lost)
        with pytest.raises(AssertionError, match="values are wrong"):
            testing.assert_right(found, problem, pass_, given, sums=sums)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", [SIMULATED[1], Conv1dProblem(1, 4, 30, 6, 4, 2, 1)])
def test_the_bound_of_an_empty_batch(problem, pass_):
    empty = replace(problem, batch=0)
    arrays = _arrays(np.random.default_rng(0), empty)
    found = bound(empty, pass_, {"outputs": 2 if problem.stride == 1 else 4}, arrays)
    assert found.shape == testing.evaluate(empty, pass_, arrays).shape


@pytest.mark.parametrize("problem", SIMULATED)
def test_the_bound_of_gradients_has_all_positions(rng, problem):
    """Where a few of them alone are not zero: transforms make no term's magnitude less than it
    is."""
    arrays = {name: abs(array) for name, array in _arrays(rng, problem).items()}
    whole = arrays["grad_output"]
    for outputs in tile_outputs(problem):
        for first in range(0, problem.out_length, 5):
            given = {"x": arrays["x"], "grad_output": np.zeros_like(whole)}
            given["grad_output"][..., first : first + 5] = whole[..., first : first + 5]
            terms = testing.evaluate(problem, Pass.WEIGHT_GRADIENT, given)
            found = bound(problem, Pass.WEIGHT_GRADIENT, {"outputs": outputs}, given)
            assert (found >= testing.gamma(2, np.float32) * terms).all()


# Kernels


def _computed(problem, pass_, arrays, variant="winograd", **options):
    """A pass, and the arrays that it reads."""
    x, weight, grad = (arrays[name] for name in ("x", "weight", "grad_output"))
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    if pass_ is Pass.FORWARD:
        result = F.conv1d(x, weight, None, *place, variant=variant, **options)
    elif pass_ is Pass.INPUT_GRADIENT:
        result = F.conv1d_input(x.shape, weight, grad, *place, variant=variant, **options)
    else:
        result = F.conv1d_weight(x, weight.shape, grad, *place, variant=variant, **options)
    return result, {name: arrays[name] for name in testing.OPERANDS[pass_]}


def _by_outputs(runtime, problem, pass_, outputs):
    """The best plan by tiles of so many results."""
    found = runtime.plans(problem, pass_, variant="winograd")
    return next(plan for plan in found if plan.tile["outputs"] == outputs)


def _check(runtime, rng, problem, pass_, plan):
    arrays = _arrays(rng, problem)
    with runtime:
        result, given = _computed(problem, pass_, arrays, {pass_: plan.choice})
    what = f"{pass_.value} {dict(plan.tile)}"
    testing.assert_right(result, problem, pass_, given, what, sums=plan.sums_bound)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", winograd.EXAMPLES)
def test_examples_keep_the_bound(cpu_runtime, rng, name, pass_):
    problem = winograd.EXAMPLES[name]
    if winograd.refusal(Request(problem, pass_, cpu_runtime.profile)):
        assert problem.stride > 1
        return
    if problem.dtype == np.float64 and not cpu_runtime.profile.fp64:
        pytest.skip(f"{cpu_runtime.info.name} has no float64")
    _check(cpu_runtime, rng, problem, pass_, _by_outputs(cpu_runtime, problem, pass_, 4))


@pytest.mark.parametrize("pass_", [Pass.FORWARD, Pass.INPUT_GRADIENT])
@pytest.mark.parametrize("channel_tile", [8, 6, 4, 2])
def test_channel_tiles(cpu_runtime, rng, channel_tile, pass_):
    """Weights are transformed for as many channels at a time: whole tiles, and one that is not but
    for the gradient's tiles of two."""
    backward = pass_ is Pass.INPUT_GRADIENT
    channels = (5, 11) if not backward else (11, 5)
    problem = Conv1dProblem(1, channels[0], 150, channels[1], 4 if backward else 3, 1 + backward, 1)
    plan = next(
        one
        for one in cpu_runtime.plans(problem, pass_, variant="winograd")
        if one.tile["channel_tile"] == channel_tile
    )
    _check(cpu_runtime, rng, problem, pass_, plan)


@pytest.mark.every_device
@pytest.mark.parametrize("pass_", [Pass.FORWARD, Pass.WEIGHT_GRADIENT])
@pytest.mark.parametrize("name", ["short rows", "lines side by side"])
def test_every_device(runtime, rng, name, pass_):
    problem = winograd.EXAMPLES[name]
    _check(runtime, rng, problem, pass_, runtime.plans(problem, pass_, variant="winograd")[0])


@pytest.mark.every_device
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dilation", [3, 6])
def test_lines_of_each_dtype(runtime, rng, dilation, dtype):
    """Lines that vectors put in turn: asked for AVX-512, PoCL 3.0 gets some of 16 bits wrong."""
    problem = Conv1dProblem(1, 8, 1318, 14, 2, 1, 3, dilation, dtype=dtype)
    plan = runtime.plans(problem, Pass.FORWARD, variant="winograd")[0]
    _check(runtime, rng, problem, Pass.FORWARD, plan)


@pytest.mark.parametrize("pass_", PASSES)
def test_two_outputs_are_exact(cpu_runtime, rng, pass_):
    """On whole numbers: rows of whole vectors, and their ends."""
    problem = Conv1dProblem(3, 5, 150, 9, 3, 1, (1, 2))
    plan = _by_outputs(cpu_runtime, problem, pass_, 2)
    arrays = _arrays(rng, problem, testing.integers)
    with cpu_runtime:
        result, given = _computed(problem, pass_, arrays, {pass_: plan.choice})
    testing.assert_exact(result, testing.evaluate(problem, pass_, given))


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", ["rows of whole vectors", "short rows", "dilated"])
def test_what_is_not_finite_stays_where_it_belongs(cpu_runtime, rng, name, pass_):
    """NaN and infinities in exactly the results that the definition gives; sums that overflow in
    transforms alone have their place among the numbers."""
    problem = winograd.EXAMPLES[name]
    arrays = _arrays(rng, problem)
    source = arrays["grad_output" if pass_ is Pass.INPUT_GRADIENT else "x"]
    source[0, 1, 5], source[-1, 0, 12], source[-1, 2, -1] = np.nan, np.inf, -np.inf
    source[0, 0, 14:20] = 1.5e38
    # So that the definition's own sums of these do not overflow.
    arrays["grad_output" if pass_ is Pass.WEIGHT_GRADIENT else "weight"] *= np.float32(0.1)
    arrays["weight"][1, 1, 0] = np.inf
    plan = _by_outputs(cpu_runtime, problem, pass_, 4)
    with cpu_runtime, np.errstate(invalid="ignore", over="ignore"):
        result, given = _computed(problem, pass_, arrays, {pass_: plan.choice})
        expected = testing.evaluate(problem, pass_, given)
        most = plan.error_bound(*given.values())
    finite = np.isfinite(expected)
    assert finite.any()
    assert np.array_equal(np.isnan(result), np.isnan(expected))
    infinite = np.isinf(expected)
    assert np.array_equal(result[infinite], expected[infinite])
    assert not testing.outside(result[finite], expected[finite], most[finite]).any()


@pytest.mark.parametrize("taps", [2, 3])
def test_the_error_is_as_small_as_that_of_direct_sums(cpu_runtime, rng, taps):
    """At most four times, of normal data, as root of the mean square; small integers round to the
    right ones."""
    problem = Conv1dProblem(2, 64, 300, 48, taps, 1, 1)
    arrays = _arrays(rng, problem)
    errors = []
    with cpu_runtime:
        for variant in ("winograd", "strip"):
            result, given = _computed(problem, Pass.FORWARD, arrays, variant)
            true = testing.evaluate(problem, Pass.FORWARD, given)
            errors.append(float(np.sqrt(((result - true) ** 2).mean())))
        whole = _arrays(rng, problem, testing.integers)
        result, given = _computed(problem, Pass.FORWARD, whole)
    assert 0 < errors[0] < 4 * errors[1]
    assert np.array_equal(np.rint(result), testing.evaluate(problem, Pass.FORWARD, given))


def test_the_epilogue(first_runtime, rng):
    """Bias, residual, activation and the value before it; of a transposed convolution, too."""
    problem = Conv1dProblem(2, 5, 90, 9, 3, 1, 1)
    arrays = _arrays(rng, problem)
    x, weight, residual = (arrays[name] for name in ("x", "weight", "grad_output"))
    bias = testing.normals(rng, (9,), "f")
    before = np.empty(problem.output_shape, "f")
    with first_runtime:
        y = F.conv1d(x, weight, bias, padding=1, residual=residual, activation="gelu",
                     pre_activation=before, variant="winograd")  # fmt: skip
    plan = first_runtime.plans(problem, Pass.FORWARD, variant="winograd")[0]
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    sums = plan.sums_bound
    testing.assert_right(y, problem, "forward", given, activation="gelu", sums=sums)
    testing.assert_right(before, problem, "forward", given, sums=sums)

    transposed = Conv1dProblem.transposed(2, 9, 80, 5, 3, 1, 1)
    with first_runtime:
        y = F.conv_transpose1d(residual[..., :80], weight, bias[:5], padding=1, activation="relu",
                               variant="winograd")  # fmt: skip
    plan = first_runtime.plans(transposed, Pass.INPUT_GRADIENT, variant="winograd")[0]
    given = {"weight": weight, "grad_output": residual[..., :80], "bias": bias[:5]}
    testing.assert_right(y, transposed, "input", given, activation="relu", sums=plan.sums_bound)


@pytest.mark.parametrize("pass_", PASSES[:2])
def test_samples_do_not_hang_on_each_other(first_runtime, rng, pass_):
    """A batch gives the bits of its elements alone, however tasks are cut; so does every run."""
    problem = Conv1dProblem(9, 5, 101, 9, 3, 1, 1)
    arrays = _arrays(rng, problem)
    choice = {pass_: first_runtime.plans(problem, pass_, variant="winograd")[0].choice}
    with first_runtime:
        result, _ = _computed(problem, pass_, arrays, choice)
        again, _ = _computed(problem, pass_, arrays, choice)
        one = arrays | {name: arrays[name][4:5] for name in ("x", "grad_output")}
        alone, _ = _computed(replace(problem, batch=1), pass_, one, choice)
    assert np.array_equal(result, again)
    assert np.array_equal(result[4:5], alone)


def test_weights_are_transformed_once(cpu_runtime, rng):
    """Where they are prepared; without a batch nothing runs."""
    problem = Conv1dProblem(2, 5, 90, 9, 3, 1, 1)
    x, weight = (_arrays(rng, problem)[name] for name in ("x", "weight"))
    with cpu_runtime:
        prepared = clconv.prepare_weight(weight)
        expected = F.conv1d(x, weight, padding=1, variant="winograd")
        counts = []
        for given in (weight, prepared, prepared):
            before = cpu_runtime.launches
            y = F.conv1d(x, given, padding=1, variant="winograd")
            counts.append(cpu_runtime.launches - before)
            assert np.array_equal(y, expected)
        assert counts == [2, 2, 1]
        assert F.conv1d(x[:0], weight, padding=1, variant="winograd").shape == (0, 9, 90)


ZEN4 = PROFILES["zen4"]


@pytest.mark.parametrize(
    ("problem", "pass_", "why"),
    [
        (
            Conv1dProblem(1, 2, 90, 2, 4),
            "forward",
            "kernel_size is 4, stride 1 and dilation 1, exp",
        ),
        (Conv1dProblem(1, 2, 90, 2, 3, 2, 0, 2), "forward", "kernel_size is 3, stride 2 and dil"),
        (Conv1dProblem(1, 8, 90, 8, 3, 2), "input", "kernel_size is 3, stride 2 and dilation 1, e"),
        (Conv1dProblem(1, 2, 90, 2, 3), "bias", "it computes no bias gradients"),
        (Conv1dProblem(1, 3, 90, 8, 3), "forward", "a group has 3 input channels and 8 output"),
        (Conv1dProblem(1, 4096, 90, 8, 3), "forward", "4096 channels are summed over, whose "),
    ],
)
def test_refusals(problem, pass_, why):
    assert winograd.refusal(Request(problem, Pass.of(pass_), ZEN4)).startswith(why)


def test_exact_calls_do_without(first_runtime):
    x, weight = np.zeros((1, 256, 900), "f"), np.zeros((256, 256, 3), "f")
    with first_runtime, pytest.raises(ProblemError, match="its results keep the bound 'Winograd'"):
        F.conv1d(x, weight, variant="winograd", exact=True)


@pytest.mark.parametrize("profile", ["cpu", "zen4", "zen5", "neon"])
def test_tasks_have_all_vectors_and_channels(profile):
    """Of work of many sizes: each once, in tasks that local memory has room for."""
    for batch, channels, length, dilation in (
        (1, 512, 4000, 1), (30, 64, 50, 1), (2, 80, 700, 3), (1, 64, 9000, 512), (1, 3, 5, 1),
    ):  # fmt: skip
        problem = Conv1dProblem(batch, channels, length, 96, 3, 1, dilation, dilation)
        for channel_tile, vectors in ((8, 1), (4, 2)):
            work = Work(Request(problem, Pass.FORWARD, PROFILES[profile]), 4, channel_tile, vectors)
            assert work.most_vectors
            blocks = work.blocks()
            assert (blocks.position_blocks - 1) * blocks.vectors < work.all_vectors
            assert work.all_vectors <= blocks.position_blocks * blocks.vectors
            assert (blocks.parts - 1) * blocks.part_tiles < work.channel_tiles
            assert work.channel_tiles <= blocks.parts * blocks.part_tiles
            assert blocks.vectors % vectors == 0
            each = 6 * work.plane * work.lanes * 4
            assert work.plane >= vectors * channels
            assert work.scratch == (each > 200 << 10)
            room = PROFILES[profile].l2_bytes if work.scratch else 200 << 10
            assert blocks.vectors // vectors * each <= room


@pytest.mark.parametrize("channels", [64, 384, 512, 1024])
def test_planes_of_points_are_not_pages_apart(channels):
    """Else all points of a channel share the few lines of one place of the first-level cache, which
    made layers of 512 channels a fifth slower."""
    problem = Conv1dProblem(1, channels, 900, 384, 3, 2, 1)
    found = list(works(Request(problem, Pass.FORWARD, PROFILES["cpu"])))
    assert found
    for work in found:
        for elements in (work.plane * work.lanes, work.weight_plane):
            places = {p * elements * 4 % 4096 // 64 for p in range(work.tiles.points)}
            assert len(places) == work.tiles.points


@pytest.mark.parametrize("channels", [32, 256, 512, 1024])
def test_rows_of_sums_share_no_place(channels):
    """Where a task has a part of each row; whole rows lie end to end."""
    problem = Conv1dProblem(1, channels, 900, channels, 3, 1, 1)
    for own in gradients(Request(problem, Pass.WEIGHT_GRADIENT, PROFILES["cpu"])):
        cut = own.blocks()
        pitch = own.c_pitch(cut)
        assert pitch - cut.c_blocks * cut.block_c in range(32 if cut.c_blocks > 1 else 1)
        assert cut.c_blocks == 1 or pitch * 4 // 64 % 2
        assert own.share_elements(cut) == own.points * channels * pitch


@pytest.mark.parametrize("profile", ["cpu", "zen4", "zen5", "neon"])
def test_chunks_have_all_tiles_and_channels(profile):
    """Of weight gradients of many sizes: each once, in chunks that local memory has room for."""
    for batch, channels, length, dilation, kernel_size, stride in (
        (1, 512, 4000, 1, 3, 1), (30, 64, 50, 1, 2, 1), (2, 80, 700, 3, 3, 1), (2, 9, 70, 1, 6, 2),
        (1, 64, 9000, 512, 2, 1), (1, 4, 5, 1, 3, 1), (500, 24, 8, 1, 3, 2), (1, 8, 900, 40, 3, 1),
        (1, 70000, 500, 1, 6, 2),
    ):  # fmt: skip
        problem = Conv1dProblem(
            batch, channels, length, 96, kernel_size, stride, dilation, dilation
        )
        for channel_tile, vectors in ((8, 1), (6, 2)):
            request = Request(problem, Pass.WEIGHT_GRADIENT, PROFILES[profile])
            own = Gradient(request, 4, channel_tile, vectors)
            tiles, cut = own.tiles, own.blocks()
            lines = tiles.lines
            assert (cut.line_blocks - 1) * cut.block_lines < lines
            assert lines <= cut.line_blocks * cut.block_lines
            assert cut.tiles == cut.chunk_places * cut.block_lines
            assert cut.line_blocks == 1 or cut.chunk_places == 1
            places = batch * tiles.row_tiles * cut.line_blocks
            assert (cut.chunks - 1) * cut.chunk_places < places <= cut.chunks * cut.chunk_places
            assert 1 <= cut.shares <= cut.chunks
            assert (cut.m_blocks - 1) * cut.block_m < 96 <= cut.m_blocks * cut.block_m
            assert (cut.c_blocks - 1) * cut.block_c < channels <= cut.c_blocks * cut.block_c
            assert cut.block_c % (vectors * own.lanes) == 0
            pitch, form = own.y_pitch(cut.block_m), tiles.transform
            assert pitch % own.lanes == 0
            assert pitch >= -(-cut.block_m // channel_tile) * channel_tile
            assert form.points * cut.tiles * (pitch + cut.block_c) <= own.data_elements
            of_x = (cut.chunk_places - 1) * form.step + form.samples
            positions = of_x * lines if cut.line_blocks == 1 else form.samples * cut.block_lines
            assert positions <= own.raw_positions


def test_another_length_is_planned_with_what_is_known_of_the_layer(monkeypatch):
    """Of weight gradients: blocks of channels are priced once a layer, requests once."""
    problem = Conv1dProblem(8, 160, 700, 160, 3, 1, 1)
    plan = plans(problem, Pass.WEIGHT_GRADIENT, ZEN4, variant="winograd")[0]
    made = []
    monkeypatch.setattr(Gradient, "_ways", lambda self: made.append(self))
    longer = replace(problem, length=1400)
    tasks = set()
    for one in (problem, longer, longer):
        plan = plans(one, Pass.WEIGHT_GRADIENT, ZEN4, variant="winograd")[0]
        assert plan.predicted.seconds > 0
        tasks.add(plan.launches[0].numbers["places"])
    assert not made
    assert tasks == {8 * 175, 8 * 350}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("shares", Conv1dProblem(9, 33, 1100, 40, 3, 1, 1)),
        ("cut_lines", Conv1dProblem(2, 5, 1500, 6, 2, 1, (701, 0), 701)),
        ("odd places", Conv1dProblem(30, 17, 46, 9, 3, 1, 2, 5)),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_gradients_of_many_chunks(cpu_runtime, rng, name, problem):
    """In shares, whose sums are added; of lines, a prime number, that are too many for a chunk."""
    plan = _by_outputs(cpu_runtime, problem, Pass.WEIGHT_GRADIENT, 4)
    request = Request(problem, Pass.WEIGHT_GRADIENT, cpu_runtime.profile).asking()
    cut = Gradient(request, 4, plan.tile["channel_tile"], plan.tile["vectors"]).blocks()
    reached = {"shares": min(cut.shares, cut.chunks - cut.shares), "cut_lines": cut.line_blocks - 1}
    assert reached.get(name, cut.chunks - 1) > 0
    _check(cpu_runtime, rng, problem, Pass.WEIGHT_GRADIENT, plan)


def test_gradients_are_added_to(cpu_runtime, rng):
    """With scale and momentum; without a batch what was there alone is left."""
    problem = Conv1dProblem(2, 33, 90, 9, 3, 1, 1)
    x, _, grad = _arrays(rng, problem, testing.integers).values()
    before = testing.integers(rng, problem.weight_shape, problem.dtype)
    plan = _by_outputs(cpu_runtime, problem, Pass.WEIGHT_GRADIENT, 2)
    choice = {Pass.WEIGHT_GRADIENT: plan.choice}
    with cpu_runtime:
        for batch in (2, 0):
            out = before.copy()
            given = {"x": x[:batch], "grad_output": grad[:batch]}
            F.conv1d_weight(given["x"], problem.weight_shape, given["grad_output"], padding=1,
                            out=out, scale=0.5, momentum=2.0, variant=choice)  # fmt: skip
            true = testing.evaluate(replace(problem, batch=batch), Pass.WEIGHT_GRADIENT, given)
            testing.assert_exact(out, 2 * before + 0.5 * true)
