"""Convolution by Fourier transforms: the data that templates write, the kernels, their bound."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import clconv
from clconv import Conv1dProblem, OutOfMemoryError, Pass, ProblemError, Runtime, testing
from clconv import functional as F
from clconv.planning.planner import candidates, other_of_layer, plans
from clconv.planning.profiles import PROFILES, profile
from clconv.variants import spectral
from clconv.variants.base import Request
from clconv.variants.spectral.kernels import TURN_BYTES
from clconv.variants.spectral.tiles import Tiles
from clconv.variants.spectral.transforms import CONSTANTS, SIZES, Transform, butterfly, radices

PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
PROBLEM = Conv1dProblem(3, 5, 90, 6, 7, 1, 3)


def _transformed(transform, samples):
    """The complex transform of pairs of samples, by the passes and steps that templates write."""
    points = list(samples[0::2] + 1j * samples[1::2])
    for one in transform.passes:
        written = [0j] * len(points)
        for p in range(one.after):
            for q in range(one.before):
                values = dict(CONSTANTS)
                for j in range(one.radix):
                    point = points[q + one.before * (p + one.after * j)]
                    values |= {f"x{j}r": point.real, f"x{j}i": point.imag}
                for name, expression in butterfly(one.radix):
                    values[name] = eval(expression, {}, values)
                for j in range(one.radix):
                    factor = 1 + 0j
                    if j and one.after > 1:
                        at = one.first + p * 2 * (one.radix - 1) + 2 * (j - 1)
                        factor = complex(*transform.factors[at : at + 2])
                    point = complex(values[f"y{j}r"], values[f"y{j}i"]) * factor
                    written[q + one.before * (one.radix * p + j)] = point
        points = written
    return np.array(points)


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_transforms(rng, size, registers):
    """The steps of all passes are a discrete Fourier transform in natural order."""
    transform = Transform(size, radices(size // 2, registers))
    assert np.prod(transform.radices) == transform.points == size // 2
    assert max(transform.radices) <= (8 if registers == 32 else 4)
    samples = rng.standard_normal(size)
    found = _transformed(transform, samples)
    expected = np.fft.fft(samples[0::2] + 1j * samples[1::2])
    assert np.abs(found - expected).max() < 1e-14 * size
    pairs = np.array(transform.factors[transform.separating :]).reshape(-1, 2)
    angles = 2 * np.pi * np.arange(1, size // 4 + 1) / size
    assert np.abs(pairs - np.stack([np.cos(angles), np.sin(angles)], axis=1)).max() < 1e-15


def test_radices():
    with pytest.raises(ValueError, match="points is 40, expected factors of 2 and 3 alone"):
        radices(40, 32)


def _data(rng, problem, make=testing.normals):
    shapes = {
        "x": problem.input_shape, "weight": problem.weight_shape,
        "grad_output": problem.output_shape,
    }  # fmt: skip
    return {name: make(rng, shape, problem.dtype) for name, shape in shapes.items()}


def _computed(problem, pass_, arrays, variant="spectral", **options):
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


IN_SINGLE = [name for name, one in spectral.EXAMPLES.items() if one.dtype == np.float32]


@pytest.mark.one_of(3)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", IN_SINGLE[3:])
def test_every_tile_on_the_first_cpu(cpu_runtime, rng, name, pass_):
    """As below; kernels take long to build."""
    _check_tiles(cpu_runtime, cpu_runtime, rng, name, pass_)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", IN_SINGLE[:3])
def test_every_tile_keeps_the_bound(runtime, first_runtime, rng, name, pass_):
    """Each path of the kernels, by the best tile, on the first device the smallest and largest,
    too: kernels take long to build."""
    _check_tiles(runtime, first_runtime, rng, name, pass_)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", sorted(spectral.EXAMPLES.keys() - set(IN_SINGLE)))
def test_other_dtypes_keep_the_bound(first_runtime, rng, name, pass_):
    """By the same text, on the first device."""
    if spectral.EXAMPLES[name].dtype == np.float64 and not first_runtime.profile.fp64:
        pytest.skip(f"{first_runtime.info.name} has no float64")
    _check_tiles(first_runtime, first_runtime, rng, name, pass_)


def _check_tiles(runtime, first_runtime, rng, name, pass_):
    problem = spectral.EXAMPLES[name]
    arrays = _data(rng, problem)
    found = runtime.plans(problem, pass_, variant="spectral")
    by_size = sorted(found, key=lambda plan: plan.tile["size"])
    chosen = [found[0], *((by_size[0], by_size[-1]) if runtime is first_runtime else ())]
    for plan in {id(plan): plan for plan in chosen}.values():
        with runtime:
            result, given = _computed(problem, pass_, arrays, {pass_: plan.choice})
        what = f"{name} {dict(plan.tile)}"
        testing.assert_right(result, problem, pass_, given, what, sums=plan.sums_bound)


@pytest.mark.parametrize("pass_", PASSES)
def test_the_error_is_as_small_as_that_of_direct_sums(cpu_runtime, rng, pass_):
    """At most four times, of normal data, as root of the mean square."""
    problem = Conv1dProblem(2, 64, 300, 48, 11, 1, 5)
    arrays = _data(rng, problem)
    errors = []
    for variant in ("spectral", "strip"):
        result, given = _computed(problem, pass_, arrays, variant)
        true = testing.evaluate(problem, pass_, given)
        errors.append(float(np.sqrt(((result - true) ** 2).mean())))
    assert errors[0] < 4 * errors[1]


@pytest.mark.parametrize("pass_", PASSES)
def test_planted_faults_are_outside_the_bound(runtime, rng, pass_):
    """A lost sample, and a result that is a little off."""
    arrays = _data(rng, PROBLEM)
    plan = runtime.plans(PROBLEM, pass_, variant="spectral")[0]
    result, given = _computed(PROBLEM, pass_, arrays)
    testing.assert_right(result, PROBLEM, pass_, given, sums=plan.sums_bound)
    bound = plan.error_bound(*given.values())
    off = result.copy()
    off[0, 1, 2] += 3 * bound[0, 1, 2]
    with pytest.raises(AssertionError, match=r"1 of \d+ values are wrong, most of all \[0, 1, 2\]"):
        testing.assert_right(off, PROBLEM, pass_, given, sums=plan.sums_bound)
    name = "weight" if pass_ is Pass.INPUT_GRADIENT else "x"
    lost = arrays | {name: arrays[name].copy()}
    lost[name][1, 2, 3] = 0
    result, _ = _computed(PROBLEM, pass_, lost)
    with pytest.raises(AssertionError, match="values are wrong"):
        testing.assert_right(result, PROBLEM, pass_, given, sums=plan.sums_bound)


@pytest.mark.parametrize("pass_", PASSES)
def test_integers_round_to_the_right_ones(runtime, rng, pass_):
    arrays = _data(rng, PROBLEM, testing.integers)
    result, given = _computed(PROBLEM, pass_, arrays)
    assert np.array_equal(np.rint(result), testing.evaluate(PROBLEM, pass_, given))


@pytest.mark.parametrize("pass_", PASSES)
def test_great_dynamic_range(runtime, rng, pass_):
    """1e6 beside 1e-3: within the bound, which is that of the tile's norm; tiles without large
    samples are as good as ever."""
    arrays = {name: 1e-3 * array for name, array in _data(rng, PROBLEM).items()}
    for array in arrays.values():
        array[0, 0, 0] = 1e6
    plan = runtime.plans(PROBLEM, pass_, variant="spectral")[0]
    result, given = _computed(PROBLEM, pass_, arrays)
    testing.assert_right(result, PROBLEM, pass_, given, sums=plan.sums_bound)
    if pass_ is Pass.FORWARD:
        one = {"x": arrays["x"][1:2], "weight": arrays["weight"][1:2]}
        small = testing.evaluate(replace(PROBLEM, batch=1, out_channels=1), pass_, one)
        assert np.abs(result[1, 1] - small[0, 0]).max() < 1e-11


@pytest.mark.parametrize("pass_", PASSES)
def test_what_overflows_in_transforms_alone(runtime, rng, pass_):
    """Sums that have a place among float32's numbers come out, though those of a tile have none."""
    arrays = _data(rng, PROBLEM)
    large, small = ("grad_output", "weight") if pass_ is Pass.INPUT_GRADIENT else ("x", "weight")
    if pass_ is Pass.WEIGHT_GRADIENT:
        small = "grad_output"
    arrays[large] = np.full_like(arrays[large], 3e38)
    arrays[small] = 1e-4 * arrays[small]
    plan = runtime.plans(PROBLEM, pass_, variant="spectral")[0]
    result, given = _computed(PROBLEM, pass_, arrays)
    assert np.isfinite(result).all()
    testing.assert_right(result, PROBLEM, pass_, given, sums=plan.sums_bound)


def test_the_epilogue(runtime, rng):
    """Bias, residual, activation and the value before it; of a transposed convolution, too."""
    problem = Conv1dProblem(2, 20, 77, 19, 9, 1, 4)
    arrays = _data(rng, problem)
    x, weight, residual = (arrays[name] for name in ("x", "weight", "grad_output"))
    bias = testing.normals(rng, (19,), "f")
    before = np.empty(problem.output_shape, "f")
    y = F.conv1d(x, weight, bias, padding=4, residual=residual, activation="gelu",
                 pre_activation=before, variant="spectral")  # fmt: skip
    plan = runtime.plans(problem, Pass.FORWARD, variant="spectral")[0]
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    bound = plan.sums_bound
    testing.assert_right(y, problem, "forward", given, activation="gelu", sums=bound)
    testing.assert_right(before, problem, "forward", given, sums=bound)

    strided = Conv1dProblem.transposed(2, 19, 40, 18, 11, 2, 3)
    taps = testing.normals(rng, strided.weight_shape, "f")
    data, bias = testing.normals(rng, (2, 19, 40), "f"), testing.normals(rng, (18,), "f")
    y = F.conv_transpose1d(data, taps, bias, stride=2, padding=3, activation="relu",
                           variant="spectral")  # fmt: skip
    plan = runtime.plans(strided, Pass.INPUT_GRADIENT, variant="spectral")[0]
    given = {"weight": taps, "grad_output": data, "bias": bias}
    testing.assert_right(y, strided, "input", given, activation="relu", sums=plan.sums_bound)


def test_accumulation(runtime, rng):
    """momentum * old + scale * gradient, with the bias gradient beside it."""
    problem = Conv1dProblem(2, 5, 60, 6, 19, 1, 9)
    arrays = _data(rng, problem)
    old, old_bias = testing.normals(rng, problem.weight_shape, "f"), testing.normals(rng, (6,), "f")
    out, out_bias = old.copy(), old_bias.copy()
    F.conv1d_backward(arrays["x"], arrays["weight"], arrays["grad_output"], padding=9,
                      need=(False, True, True), out=(None, out, out_bias), scale=0.5,
                      momentum=2.0, variant="spectral")  # fmt: skip
    plan = runtime.plans(problem, Pass.WEIGHT_GRADIENT, variant="spectral")[0]
    update = {"scale": 0.5, "momentum": 2.0}
    testing.assert_right(out, problem, "weight", arrays | {"old": old}, sums=plan.sums_bound,
                         **update)  # fmt: skip
    testing.assert_right(out_bias, problem, "bias", arrays | {"old": old_bias}, **update)


@pytest.mark.parametrize("pass_", PASSES[:2])
def test_samples_do_not_hang_on_each_other(runtime, rng, pass_):
    """A batch gives the bits of its elements alone, in however many turns; so does every run."""
    problem = Conv1dProblem(9, 20, 200, 18, 7, 1, 3)
    arrays = _data(rng, problem)
    result, _ = _computed(problem, pass_, arrays)
    again, _ = _computed(problem, pass_, arrays)
    assert np.array_equal(result, again)
    one = arrays | {name: arrays[name][4:5] for name in ("x", "grad_output")}
    alone, _ = _computed(replace(problem, batch=1), pass_, one)
    assert np.array_equal(result[4:5], alone)
    whole = runtime.plans(problem, pass_, variant="spectral")[0]
    prepared = whole.preparation.workspace_bytes
    limit = prepared + (whole.workspace_bytes - prepared) // 3
    with Runtime(runtime.device, workspace_limit=limit) as tight:
        plan = tight.plans(problem, pass_, variant="spectral")[0]
        assert plan.tile == whole.tile
        assert len(plan.launches) > len(whole.launches) == 3
        apart, _ = _computed(problem, pass_, arrays)
    assert np.array_equal(result, apart)


def test_weight_gradients_in_turns(runtime, rng):
    """Each turn adds to the sums of those before it, in their order."""
    problem = Conv1dProblem(9, 20, 200, 18, 7, 1, 3)
    arrays = _data(rng, problem)
    whole = runtime.plans(problem, Pass.WEIGHT_GRADIENT, variant="spectral")[0]
    limit = whole.workspace_bytes * 2 // 3
    with Runtime(runtime.device, workspace_limit=limit) as tight:
        plan = tight.plans(problem, Pass.WEIGHT_GRADIENT, variant="spectral")[0]
        assert plan.workspace_bytes <= limit
        assert len(plan.launches) > 4
        result, given = _computed(problem, Pass.WEIGHT_GRADIENT, arrays)
        again, _ = _computed(problem, Pass.WEIGHT_GRADIENT, arrays)
    testing.assert_right(result, problem, "weight", given, sums=plan.sums_bound)
    assert np.array_equal(result, again)


@pytest.mark.every_device
@pytest.mark.parametrize(("taps", "dilation"), [(129, 1), (130, 3)])
def test_long_filters_on_every_device(each_cpu, rng, taps, dilation):
    _check_long_filters(each_cpu, rng, taps, dilation)


@pytest.mark.parametrize("taps", [1025, 2500])
def test_longer_filters(cpu_runtime, rng, taps):
    """Whose kernels take long to build."""
    _check_long_filters(cpu_runtime, rng, taps, 1)


def _check_long_filters(runtime, rng, taps, dilation):
    """One channel a group, by tiles of a row side by side: fewer than there are lanes, and more."""
    channels = 2 if taps < 1000 else 1
    for length in (taps * dilation, 40_001):
        problem = Conv1dProblem(
            channels, channels, length, channels, taps, 1, (taps // 2, 5), dilation, channels
        )
        arrays = _data(rng, problem)
        for pass_ in PASSES[:2]:
            plan = runtime.plans(problem, pass_, variant="spectral")[0]
            assert plan.launches[0].kernel.name == "row_spectral"
            result, given = _computed(problem, pass_, arrays)
            testing.assert_right(result, problem, pass_, given, sums=plan.sums_bound)


def test_no_batch(runtime):
    """No result, and a weight gradient of zeros."""
    x, weight, grad = (np.zeros(shape, "f") for shape in ((0, 5, 90), (6, 5, 7), (0, 6, 84)))
    assert F.conv1d(x, weight, variant="spectral").shape == (0, 6, 84)
    gradient = F.conv1d_weight(x, weight.shape, grad, variant="spectral")
    assert gradient.shape == weight.shape
    assert not gradient.any()


def test_weights_are_transformed_once(runtime, rng):
    """Where they are prepared."""
    x, weight = (_data(rng, PROBLEM)[name] for name in ("x", "weight"))
    prepared = clconv.prepare_weight(weight)
    expected = F.conv1d(x, weight, padding=3, variant="spectral")
    counts = []
    for given in (weight, prepared, prepared):
        before = runtime.launches
        y = F.conv1d(x, given, padding=3, variant="spectral")
        counts.append(runtime.launches - before)
        assert np.array_equal(y, expected)
    assert counts == [4, 4, 3]


def test_who_keeps_transforms_takes_them_sooner(first_runtime):
    """Prepared weights, and PyTorch's without gradients; each call has a recipe of its own kind."""
    torch = pytest.importorskip("torch")
    import clconv.torch

    with Runtime(first_runtime.device, profile=profile("zen5")) as own:
        x, weight = np.zeros((1, 256, 400), "f"), np.zeros((256, 256, 11), "f")
        prepared, layer = clconv.prepare_weight(weight), clconv.torch.Conv1d(256, 256, 11)
        calls = (
            lambda: F.conv1d(x, weight), lambda: F.conv1d(x, prepared),
            lambda: layer(torch.from_numpy(x)), torch.no_grad()(lambda: layer(torch.from_numpy(x))),
        )  # fmt: skip
        counts = []
        for _ in range(2):
            for call in calls:
                before = own.launches
                call()
                counts.append(own.launches - before)
        # One launch more, of the last, looks whether the weights are the same.
        assert counts == [1, 4, 1, 5, 1, 3, 1, 4]


# Planning


def test_the_choice_depends_on_the_size():
    """The weights' transforms pay only for enough positions, or where they are kept; the kernels
    of each choice are the same for all sizes."""
    long = Conv1dProblem(4, 256, 3200, 256, 11, 1, 5)
    short = replace(long, batch=1, length=64)
    device = profile("zen5")
    for pass_ in PASSES:
        best = [plans(one, pass_, device)[0] for one in (long, short)]
        assert [one.variant for one in best] == ["spectral", "strip"]
        assert plans(long, pass_, device, exact=True)[0].variant == "strip"
        sources = [
            {dict(made.tile)["size"]: made.source() for made in found}
            for found in (plans(one, pass_, device, variant="spectral") for one in (long, short))
        ]
        assert sources[0] == sources[1]
    middle = replace(short, length=400)
    anew, kept = (next(candidates(middle, Pass.FORWARD, device, kept=k)) for k in (False, True))
    assert (anew.variant, kept.variant) == ("strip", "spectral")


def test_single_elements_are_counted():
    """As the kernels find them: samples of vectors outside a row, results of less than a vector."""
    device, counted = profile("zen5"), set()
    for sizes in ((9, 1, 0), (9, 1, 4), (5, 1, (4, 0)), (7, 1, 3, 2), (12, 3, 5), (6, 4, 0)):
        kernel_size, stride, padding, *dilation = sizes
        for length in (14, 31, 56, 100, 257):
            problem = Conv1dProblem(
                1, 16, length, 16, kernel_size, stride, padding, *(dilation or [1])
            )
            for pass_, size in itertools.product((Pass.FORWARD, Pass.INPUT_GRADIENT), (32, 48)):
                tiles = Tiles(Request(problem, pass_, device), size)
                forward = pass_ is Pass.FORWARD
                read, written = problem.length, problem.out_length
                if not forward:
                    read, written = written, read
                step, lanes = tiles.read_step, tiles.lanes
                single = 0
                for tile in range(tiles.row_tiles):
                    first = tile * tiles.outputs * step - tiles.read_lead
                    for at in range(first, first + step * size, lanes):
                        single += lanes * (read < lanes or not -lanes < at < read)
                assert tiles.single_reads() == single, (sizes, length, pass_, size)
                step, stored = tiles.write_step, 0
                for tile in range(tiles.row_tiles):
                    first = tile * tiles.outputs * step - tiles.write_lead
                    span = min(written - first, tiles.outputs * step)
                    stored += lanes * (span < lanes or first < 0)
                assert tiles.single_stores == stored, (sizes, length, pass_, size)
                counted |= {single > 0, stored > 0}
    assert counted == {False, True}


def test_short_rows_are_predicted():
    """Strips waste the empty part of a row's vectors: a row a little longer than whole vectors is
    sooner left to transforms."""
    device = profile("zen5")
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        names = [
            plans(Conv1dProblem(50, 300, length, 100, 5, 1, 2), pass_, device)[0].variant
            for length in (48, 52)
        ]
        assert names == ["strip", "spectral"], pass_


@pytest.mark.parametrize("lengths", [(40, 20000), (20000, 40)])
def test_no_length_compiles(first_runtime, lengths):
    """Which of two kernels is taken depends on the length; both are built with the first."""
    runtime = Runtime(first_runtime.queue)
    weight = runtime.zeros((64, 64, 9))
    taken, built = [], []
    for length in lengths:
        problem = Conv1dProblem(1, 64, length, 64, 9, 1, 4)
        taken.append({next(runtime.candidates(problem, pass_)).variant for pass_ in PASSES})
        x = runtime.zeros((1, 64, length))
        F.conv1d(x, weight, padding=4, runtime=runtime)
        F.conv1d_backward(x, weight, x, padding=4, runtime=runtime)
        built.append(len(runtime.programs))
    assert taken[0] != taken[1]
    assert 0 < built[0] == built[1]


@pytest.mark.parametrize(("channels", "choices"), [(3, 1), (64, 2)])
def test_only_kernels_that_a_length_may_take_are_built(channels, choices):
    """Of few channels transforms are never faster. An empty batch changes no choice."""
    for length, batch in ((40, 1), (20000, 1), (40, 0)):
        problem = Conv1dProblem(batch, channels, length, channels, 9, 1, 4)
        for pass_ in PASSES:
            found = candidates(problem, pass_, profile("zen5"))
            first = next(found)
            named = {first.variant, *(one.variant for one in other_of_layer(first, found))}
            assert len(named) == choices, (length, batch, pass_)
            assert ("spectral" in named) is (choices == 2), (length, batch, pass_)


@pytest.mark.parametrize("pass_", PASSES)
def test_workspaces(pass_):
    """At most four times the arrays' bytes, what is kept of the weights apart, and bounded for a
    signal of any length; less under a limit."""
    for problem in (
        Conv1dProblem(4, 256, 800, 256, 11, 1, 5), Conv1dProblem(64, 32, 150, 32, 39, 1, 19),
        Conv1dProblem(1, 256, 2560, 256, 11, 1, 25, 5), Conv1dProblem(2, 16, 10**7, 16, 9),
        Conv1dProblem(1, 12, 50_000, 64, 17, 2),
    ):  # fmt: skip
        sizes = (problem.input_shape, problem.weight_shape, problem.output_shape)
        arrays = 4 * sum(int(np.prod(shape)) for shape in sizes)
        for made in plans(problem, pass_, profile("zen5"), variant="spectral"):
            nbytes = made.schedule.workspace_bytes
            assert nbytes <= 4 * arrays, (dict(made.tile), nbytes / arrays)
            if pass_ is not Pass.WEIGHT_GRADIENT:
                assert nbytes <= TURN_BYTES
            limit = made.preparation.workspace_bytes + nbytes // 2
            for tight in plans(problem, pass_, profile("zen5"), variant="spectral",
                               workspace_limit=limit):  # fmt: skip
                assert tight.workspace_bytes <= limit
    with pytest.raises(OutOfMemoryError, match="needs at least"):
        plans(PROBLEM, pass_, profile("zen5"), variant="spectral", workspace_limit=1000)


def test_refusals():
    """Each says what is there and what would be right."""
    for problem, pass_, device, words in (
        (PROBLEM, Pass.FORWARD, "gfx1030", None),
        (PROBLEM, Pass.BIAS_GRADIENT, "cpu", "it computes no bias gradients"),
        (replace(PROBLEM, stride=2, dilation=3), Pass.FORWARD, "cpu",
         "stride is 2 and dilation 3, expected 1 for one of them"),
        (replace(PROBLEM, kernel_size=3), Pass.FORWARD, "cpu",
         "kernel_size is 3 with stride 1, expected at least 4 taps"),
        (replace(PROBLEM, stride=2), Pass.FORWARD, "cpu", None),
        (replace(PROBLEM, stride=3), Pass.FORWARD, "cpu", "kernel_size is 7 with stride 3"),
        (one := Conv1dProblem(1, 1, 9000, 1, 1025), Pass.FORWARD, "cpu", None),
        (one, Pass.WEIGHT_GRADIENT, "cpu", "no tile is large enough"),
        (replace(one, in_channels=2), Pass.FORWARD, "cpu", "no tile is large enough"),
    ):  # fmt: skip
        why = spectral.refusal(Request(problem, pass_, PROFILES[device]))
        assert (why is None) if words is None else (words in why), why
    with pytest.raises(ProblemError, match="'spectral', which cannot serve this forward"):
        plans(replace(PROBLEM, kernel_size=3), Pass.FORWARD, profile("cpu"), variant="spectral")
