"""Transforms for GPUs, on devices as if they were some: the code of a tile, kernels, planning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import _as_gpu, _devices, _label

import clconv
from clconv import Conv1dProblem, OutOfMemoryError, Pass, ProblemError, testing
from clconv import functional as F
from clconv.planning.planner import Choice, LayerChoice, candidates, plans
from clconv.planning.profiles import PROFILES, profile
from clconv.variants import batched, spectral, winograd
from clconv.variants.base import Request
from clconv.variants.spectral import straight
from clconv.variants.winograd import planes
from clconv.variants.winograd.transforms import OUTPUTS

VARIANTS = {"spectral": spectral, "winograd": winograd}
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
GPUS = [name for name, one in PROFILES.items() if one.kind == "gpu"]
SCHEMES = [
    *(("spectral", size, taps) for size in straight.SIZES for taps in (1, 4, 2 * size // 3)),
    *(("winograd", outputs + taps - 1, taps) for taps in OUTPUTS for outputs in OUTPUTS[taps]),
]
# A family's example by tiles of so many samples, and its passes; on other devices than the first
# one of them alone: kernels take long to build.
CASES = (
    ("spectral", "strided", 16, PASSES), ("spectral", "groups", 48, PASSES[:1]),
    ("spectral", "dilated", 32, PASSES[1:]), ("winograd", "short rows", 6, PASSES),
    ("winograd", "groups", 4, PASSES[2:]), ("winograd", "16 bits", 6, PASSES[1:2]),
    ("winograd", "dilated by more than a vector", 5, PASSES[::2]),
)  # fmt: skip
PLACED = [
    pytest.param(place, case, pass_, id=f"{_label(one)}-{' '.join(map(str, case))}-{pass_.value}")
    for place, one in enumerate(_devices)
    for *case, passes in CASES
    for pass_ in passes
    if place == 0 or (case[1] == "short rows" and pass_ is Pass.FORWARD)
]
# A layer with more tiles than one work-group transforms, in rows that end within a tile.
LAYER = Conv1dProblem(3, 5, 190, 6, 5, 1, 2)


@pytest.fixture
def gpu(request):
    """The runtime of a place in the list of devices (the first), as a GPU."""
    yield from _as_gpu(getattr(request, "param", 0))


def _scheme(family, size, taps, gradient):
    if family == "spectral":
        return straight.scheme(size, taps, gradient=gradient)
    return planes.scheme(size - taps + 1, taps, gradient=gradient)


def _run(steps, names):
    for name, expression in steps:
        names[name] = eval(expression, {}, names)
    return names


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("family", "size", "taps"), SCHEMES)
def test_schemes(rng, family, size, taps, gradient):
    """Numbers of samples times those of taps give the correlation; or those of the results'
    gradients its weight gradient."""
    scheme = _scheme(family, size, taps, gradient)
    assert {scheme.taken, scheme.given} == {taps, size - taps + 1}
    samples, factors = rng.standard_normal(size), rng.standard_normal(scheme.taken)
    constants = dict(scheme.constants)
    x = _run(scheme.samples, constants | {f"s{i}": v for i, v in enumerate(samples)})
    w = _run(scheme.factors, constants | {f"s{i}": v for i, v in enumerate(factors)})
    products = {f"v{i}": x[f"v{i}"] * w[f"v{i}"] for i in range(scheme.planes)}
    y = _run(scheme.results, constants | products)
    found = np.array([y[f"r{i}"] for i in range(scheme.given)])
    assert np.abs(found - np.correlate(samples, factors, "valid")).max() < 1e-13


def _data(rng, problem, make=testing.normals):
    shapes = {
        "x": problem.input_shape, "weight": problem.weight_shape,
        "grad_output": problem.output_shape,
    }  # fmt: skip
    return {name: make(rng, shape, problem.dtype) for name, shape in shapes.items()}


def _computed(problem, pass_, arrays, plan):
    """A pass by a plan, and the arrays that it reads."""
    x, weight, grad = (arrays[name] for name in ("x", "weight", "grad_output"))
    options = (problem.stride, problem.pads, problem.dilation, problem.groups)
    variant = {pass_: plan.choice}
    if pass_ is Pass.FORWARD:
        result = F.conv1d(x, weight, None, *options, variant=variant)
    elif pass_ is Pass.INPUT_GRADIENT:
        result = F.conv1d_input(x.shape, weight, grad, *options, variant=variant)
    else:
        result = F.conv1d_weight(x, weight.shape, grad, *options, variant=variant)
    return result, {name: arrays[name] for name in testing.OPERANDS[pass_]}


def _plan(runtime, problem, pass_, family, size):
    found = runtime.plans(problem, pass_, variant=family)
    return next(plan for plan in found if plan.tile["size"] == size)


@pytest.mark.one_of(2)
@pytest.mark.parametrize(("gpu", "case", "pass_"), PLACED, indirect=["gpu"])
def test_results_keep_the_bound(gpu, rng, case, pass_):
    family, name, size = case
    problem = VARIANTS[family].EXAMPLES[name]
    arrays = _data(rng, problem)
    plan = _plan(gpu, problem, pass_, family, size)
    result, given = _computed(problem, pass_, arrays, plan)
    testing.assert_right(result, problem, pass_, given, name, sums=plan.sums_bound)
    # The bound is one: a result that is off by three times as much is seen.
    off = result.astype(np.float64)
    off.flat[7] += 3 * plan.error_bound(*given.values()).flat[7]
    with pytest.raises(AssertionError, match="values are wrong"):
        testing.assert_right(off, problem, pass_, given, name, sums=plan.sums_bound)


@pytest.mark.parametrize(
    ("family", "pass_"),
    [("spectral", Pass.FORWARD), *(("winograd", pass_) for pass_ in PASSES)],
)  # fmt: skip
def test_what_is_not_finite(gpu, rng, family, pass_):
    """NaN and infinities are where the definition has them, and nowhere else; sums that have a
    place among float32's numbers come out, though their tile's transform has none."""
    problem = LAYER if family == "spectral" else replace(LAYER, kernel_size=3)
    clean = _data(rng, problem, testing.integers)
    plan = _plan(gpu, problem, pass_, family, 16 if family == "spectral" else 6)
    right, given = _computed(problem, pass_, clean, plan)
    bound = plan.error_bound(*given.values())
    large, small = ("grad_output", "weight") if pass_ is Pass.INPUT_GRADIENT else ("x", "weight")
    small = "grad_output" if pass_ is Pass.WEIGHT_GRADIENT else small
    for value in (np.nan, np.inf):
        odd = clean | {large: clean[large].copy()}
        odd[large][1, 2, 50] = value
        result, given = _computed(problem, pass_, odd, plan)
        with np.errstate(invalid="ignore"):
            expected = testing.evaluate(problem, pass_, given).astype("f")
        touched = ~np.isfinite(expected)
        assert 0 < touched.sum() < touched.size
        assert np.array_equal(result[touched], expected[touched], equal_nan=True)
        assert (np.abs(result - right)[~touched] <= 2 * bound[~touched]).all()
    huge = clean | {large: np.full_like(clean[large], 3e38), small: 1e-5 * clean[small]}
    result, given = _computed(problem, pass_, huge, plan)
    assert np.isfinite(result).all()
    testing.assert_right(result, problem, pass_, given, sums=plan.sums_bound)


@pytest.mark.parametrize("pass_", PASSES)
def test_turns(gpu, rng, pass_):
    """With less memory tiles are transformed in turns: results are the same, bit for bit, but for
    weight gradients, which are summed turn by turn."""
    problem = replace(LAYER, batch=9, kernel_size=3)
    arrays = _data(rng, problem)
    whole = _plan(gpu, problem, pass_, "winograd", 6)
    result, given = _computed(problem, pass_, arrays, whole)
    kept = whole.workspace_bytes - sum(
        one.nbytes for one in whole.workspaces if one.name in ("planes_x", "planes_y")
    )
    gpu.workspace_limit = kept + (whole.workspace_bytes - kept) // 2
    try:
        gpu.forget_plans()
        plan = _plan(gpu, problem, pass_, "winograd", 6)
        assert plan.workspace_bytes <= gpu.workspace_limit
        assert plan.source() == whole.source()
        assert len(plan.launches) > len(whole.launches)
        apart, _ = _computed(problem, pass_, arrays, plan)
    finally:
        gpu.workspace_limit = None
        gpu.forget_plans()
    testing.assert_right(apart, problem, pass_, given, sums=plan.sums_bound)
    if pass_ is not Pass.WEIGHT_GRADIENT:
        assert np.array_equal(result, apart)


def test_the_epilogue_and_prepared_weights(gpu, rng):
    """By the launch that transforms back; weights are transformed once where they are prepared."""
    arrays = _data(rng, replace(LAYER, kernel_size=3, padding=1))
    problem = replace(LAYER, kernel_size=3, padding=1)
    x, weight, residual = (arrays[name] for name in ("x", "weight", "grad_output"))
    bias, before = testing.normals(rng, (6,), "f"), np.empty(problem.output_shape, "f")
    prepared = clconv.prepare_weight(weight)
    plan = _plan(gpu, problem, Pass.FORWARD, "winograd", 6)
    counts = []
    for given in (weight, prepared, prepared):
        start = gpu.launches
        y = F.conv1d(x, given, bias, padding=1, residual=residual, activation="gelu",
                     pre_activation=before, variant="winograd")  # fmt: skip
        counts.append(gpu.launches - start)
        named = {"x": x, "weight": weight, "bias": bias, "residual": residual}
        sums = plan.sums_bound
        testing.assert_right(y, problem, "forward", named, activation="gelu", sums=sums)
        testing.assert_right(before, problem, "forward", named, sums=sums)
    assert counts == [4, 4, 3]


def test_accumulation(gpu, rng):
    """momentum * old + scale * gradient; nothing old is left without momentum. No batch gives
    zeros."""
    problem = replace(LAYER, kernel_size=3)
    arrays = _data(rng, problem)
    old = testing.normals(rng, problem.weight_shape, "f")
    plan = _plan(gpu, problem, Pass.WEIGHT_GRADIENT, "winograd", 4)
    for momentum, before in ((2.0, old), (0.0, np.full_like(old, np.nan))):
        out = before.copy()
        F.conv1d_weight(arrays["x"], out.shape, arrays["grad_output"], padding=2, out=out,
                        scale=0.5, momentum=momentum,
                        variant={Pass.WEIGHT_GRADIENT: plan.choice})  # fmt: skip
        given = {"x": arrays["x"], "grad_output": arrays["grad_output"], "old": old}
        testing.assert_right(out, problem, "weight", given, scale=0.5, momentum=momentum,
                             sums=plan.sums_bound)  # fmt: skip
    none = F.conv1d_weight(arrays["x"][:0], old.shape, arrays["grad_output"][:0], padding=2,
                           variant="winograd")  # fmt: skip
    assert not none.any()


# Planning


@pytest.mark.parametrize("device", GPUS)
def test_records_alone_make_auto_take_them(device):
    """Nobody has timed them: whatever is predicted, "auto" takes them where a record says so."""
    layers = {
        "spectral": Conv1dProblem(4, 256, 3200, 256, 11, 1, 5),
        "winograd": Conv1dProblem(4, 256, 3200, 256, 3, 1, 1),
    }
    for family, problem in layers.items():
        for pass_ in PASSES:
            found = plans(problem, pass_, PROFILES[device])
            assert found[0].variant == "gemm"
            ours = next(plan for plan in found if plan.variant == family)
            assert ours.design.measured_only
            # By the model alone it would be taken: a fifth of the products.
            if family == "spectral":
                assert ours.predicted.seconds < found[0].predicted.seconds
            taken = next(
                candidates(
                    problem, pass_, PROFILES[device], choices=lambda mine=ours.choice: [mine]
                )
            )
            assert taken.choice == ours.choice
            known = LayerChoice(ours.choice, (1, 1), (10**6, 10**9))
            taken = next(
                candidates(problem, pass_, PROFILES[device], of_layer=lambda known=known: [known])
            )
            assert taken.choice == ours.choice
            exact = plans(problem, pass_, PROFILES[device], exact=True)
            assert family not in {plan.variant for plan in exact}


def test_records_name_tiles_of_this_machine():
    """A choice of a tile that is none of the device's is no choice."""
    problem = Conv1dProblem(4, 256, 3200, 256, 3, 1, 1)
    strange = Choice("winograd", {"size": 7})
    found = candidates(problem, Pass.FORWARD, profile("sm_90"), choices=lambda: [strange])
    assert next(found).variant == "gemm"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("device", ["gpu", "gfx942", "skl"])
def test_workspaces_and_grids(device, pass_):
    """Bounded for signals of any length, and no dimension has more than 65,535 work-groups."""
    for problem in (
        Conv1dProblem(1, 4, 30_000_000, 4, 4), Conv1dProblem(700_000, 4, 12, 4, 4),
        Conv1dProblem(1, 400, 9, 400_000, 4, 1, 2, 1, 200),
    ):  # fmt: skip
        for made in plans(problem, pass_, PROFILES[device], variant="spectral"):
            mine = sum(w.nbytes for w in made.workspaces if w.name in ("planes_x", "planes_y"))
            step = mine // len(made.launches)  # of the largest layer a turn has the least columns
            assert mine <= max(batched.TURN_BYTES, 4 * step)
            for launch in made.launches:
                sizes = zip(launch.global_size, launch.kernel.local_size, strict=True)
                assert max(whole // local for whole, local in sizes) <= 65535
    with pytest.raises(OutOfMemoryError, match="needs at least"):
        plans(LAYER, pass_, PROFILES[device], variant="spectral", workspace_limit=1000)


def test_kernels_do_not_depend_on_length():
    """Nor on batch and padding."""
    for family, size in (("spectral", 7), ("winograd", 3)):
        for pass_ in PASSES:
            texts = {
                tuple(plan.source() for plan in plans(one, pass_, profile("sm_90"), variant=family))
                for one in (
                    Conv1dProblem(1, 16, 100, 24, size), Conv1dProblem(9, 16, 7000, 24, size, 1, 2),
                )
            }  # fmt: skip
            assert len(texts) == 1


def test_refusals():
    """Each says what is there and what would be right."""
    one = replace(LAYER, in_channels=6, groups=6)
    for family, problem, pass_, words in (
        ("spectral", one, Pass.FORWARD, "it has one channel a group"),
        ("spectral", replace(LAYER, kernel_size=40), Pass.FORWARD, "expected on a GPU at most 33"),
        ("winograd", replace(LAYER, kernel_size=3, stride=2), Pass.FORWARD, "stride is 2"),
        ("winograd", replace(LAYER, kernel_size=3), Pass.BIAS_GRADIENT, "no bias gradients"),
        ("winograd", replace(LAYER, kernel_size=3), Pass.WEIGHT_GRADIENT, None),
    ):
        why = VARIANTS[family].refusal(Request(problem, pass_, profile("gfx1100")))
        assert (why is None) if words is None else (words in why), why
    small = profile("gpu").with_limits(1)
    with pytest.raises(ProblemError, match="too small for any tile"):
        plans(LAYER, Pass.FORWARD, small, variant="spectral")
