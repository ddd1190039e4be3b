"""Every pass of every named problem: exact on integers, inside the rounding bound on any data."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from problems import PROBLEMS
from transposed import extended, transposed_problem

import clconv
from clconv import Conv1dProblem, Pass, reference, testing
from clconv import functional as F
from clconv.planning.planner import serving
from clconv.planning.profiles import PROFILES
from clconv.variants import VARIANTS
from clconv.variants.base import EXACT

DTYPES = ("float32", "float64", "float16")
# Each also planned as for a GPU; the rest of what GPUs do differently is the same code.
AS_GPU = (
    "several tiles and a remainder in every direction",
    "stride and dilation share a factor",
    "depthwise, strided",
    "depth multiplier",
    "padding wider than the input",
    "last samples reach no window",
    "no batch",
)
# Other dtypes differ in loads, stores and vectors: whole, strided, checked and at a row's end.
SOME = (*AS_GPU, "one output position", "pointwise, strided", "same with an even kernel",
        "depthwise", "long kernel over many channels")  # fmt: skip
GRADIENTS = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT, Pass.BIAS_GRADIENT)
# All, or those that `CLCONV_TEST_VARIANTS` names, separated by commas: of a new one alone.
NAMES = [variant.NAME for variant in VARIANTS]
if os.environ.get("CLCONV_TEST_VARIANTS"):
    ALL, NAMES = NAMES, os.environ["CLCONV_TEST_VARIANTS"].split(",")
    if not set(NAMES) <= set(ALL):
        raise pytest.UsageError(f"CLCONV_TEST_VARIANTS names {NAMES}, expected some of {ALL}")
EXACT_NAMES = [one.NAME for one in VARIANTS if one.NAME in NAMES and one.ERROR_CLASS is EXACT]
# The problems that a transform serves on CPUs.
TRANSFORMED = [
    name for name, problem in PROBLEMS.items()
    if {*serving(problem, Pass.FORWARD, PROFILES["cpu"])} & {*NAMES} - {*EXACT_NAMES}
]  # fmt: skip
REMAINDERS = PROBLEMS["several tiles and a remainder in every direction"]
TILED = ("several tiles and a remainder in every direction", "stride and dilation share a factor",
         "depthwise", "long kernel over many channels")  # fmt: skip
ACTIVATIONS = (None, "relu", ("leaky_relu", 0.25), "sigmoid", "tanh", "gelu", "silu")


def _problem(runtime, problem, dtype):
    if dtype == "float64" and not runtime.profile.fp64:
        pytest.skip(f"{runtime.info.name} has no float64")
    return replace(problem, dtype=dtype)


def _arrays(rng, problem, whole):
    make = testing.integers if whole else testing.normals
    shapes = {
        "x": problem.input_shape,
        "weight": problem.weight_shape,
        "bias": (problem.out_channels,),
        "grad_output": problem.output_shape,
    }
    return {name: make(rng, shape, problem.dtype) for name, shape in shapes.items()}


def _check_all_passes(rng, problem, names=None):
    """Each pass by the planner's choice, or by each of these variants that serves it, by name.

    The bias gradient has one variant. Returns which variants were seen.
    """
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    seen = set()
    for whole in (True, False):
        a = _arrays(rng, problem, whole)
        bias = a.pop("bias")
        for pass_ in Pass:
            for variant in _variants(problem, pass_, names):
                if pass_ is Pass.FORWARD:
                    y = F.conv1d(a["x"], a["weight"], bias, *geometry, variant=variant)
                    inputs = {"x": a["x"], "weight": a["weight"], "bias": bias}
                else:
                    need = [pass_ is one for one in GRADIENTS]
                    # Some variants sum the bias gradient on the way.
                    need[2] |= need[1]
                    gradients = F.conv1d_backward(a["x"], a["weight"], a["grad_output"], *geometry,
                                                  need=need, variant=variant)  # fmt: skip
                    y = gradients[need.index(True)]
                    inputs = a
                    if need[1]:
                        testing.assert_right(
                            gradients[2], problem, Pass.BIAS_GRADIENT, a,
                            f"bias gradient by {variant}", largest=4 * whole,
                        )  # fmt: skip
                message = f"{pass_.value} by {variant}"
                testing.assert_right(y, problem, pass_, inputs, message, largest=4 * whole,
                                     sums=_sums_bound(problem, pass_, variant))  # fmt: skip
                seen.add(variant)
    return seen


def _sums_bound(problem, pass_, variant):
    """That of the plan which a call takes, None for the exact ones."""
    return next(clconv.default_runtime().candidates(problem, pass_, variant=variant)).sums_bound


def _exact(problem, pass_):
    """The variants whose results on integers are the reference's."""
    found = clconv.variants(problem, pass_)
    return [one.NAME for one in VARIANTS if one.NAME in found and one.ERROR_CLASS is EXACT]


def _variants(problem, pass_, names):
    if names is None or pass_ is Pass.BIAS_GRADIENT:
        return ["auto"]
    return [name for name in clconv.variants(problem, pass_) if name in names]


@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem(each_cpu, rng, name):
    """By the variant that serves all on CPUs."""
    names = [name for name in NAMES if name == "strip"]
    assert {*names} <= _check_all_passes(rng, PROBLEMS[name], names)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem_by_others(runtime, rng, name):
    """By every other exact variant that serves it."""
    problem = PROBLEMS[name]
    names = [one for one in EXACT_NAMES if one != "strip"]
    seen = _check_all_passes(rng, problem, names)
    assert {"direct"} & {*names} <= seen
    depthwise = "depthwise" in names and problem.group_in == problem.stride == 1
    depthwise &= runtime.profile.kind == "cpu"
    assert ("depthwise" in seen) == depthwise


@pytest.mark.one_of(2)
@pytest.mark.parametrize("name", TRANSFORMED)
def test_named_problem_by_transforms(runtime, rng, name):
    """By those that are not exact, which have many kernels."""
    problem = _problem(runtime, PROBLEMS[name], "float32")
    assert _check_all_passes(rng, problem, [n for n in NAMES if n not in EXACT_NAMES]) > {"auto"}


# in_channels, out_channels, kernel_size, stride, padding, dilation, groups
LAYERS = {
    "dense": (2, 3, 4, 1, (3, 1), 1, 1),
    "two rows at once": (2, 3, 3, 2, (0, 2), 1, 1),
    "phases": (2, 3, 3, 3, 4, 2, 1),
    "depthwise": (3, 3, 3, 1, (2, 1), 1, 3),
}
# Around whole vectors, and whole work-groups of them.
LENGTHS = (*range(1, 36), *(n + d for n in (48, 64, 128, 256, 384, 512) for d in (-1, 0, 1)))


@pytest.mark.parametrize("layer", LAYERS)
def test_every_remainder(runtime, rng, layer):
    """Rows that end at, before and behind the end of a vector."""
    _check_remainders(rng, layer, LENGTHS)


@pytest.mark.one_of(2)
@pytest.mark.parametrize("layer", ["dense", "phases"])
def test_every_remainder_as_on_a_gpu(gpu_runtime, rng, layer):
    _check_remainders(rng, layer, (1, 2, 7, *(n + d for n in (16, 64, 256) for d in (-1, 0, 1))))


def _check_remainders(rng, layer, lengths):
    """All passes by every exact variant on integers, with the kernels of one layer."""
    in_channels, out_channels, size, stride, padding, dilation, groups = LAYERS[layer]
    for length in lengths:
        fields = (2, in_channels, length, out_channels, size, stride, padding, dilation, groups)
        if length + 4 < dilation * (size - 1) + 1:
            continue
        problem = Conv1dProblem(*fields)
        geometry = fields[5:]
        a = _arrays(rng, problem, whole=True)
        x, weight, bias, grad = a["x"], a["weight"], a["bias"], a["grad_output"]
        y = reference.conv1d(problem, x, weight, bias)
        gx = reference.input_gradient(problem, weight, grad)
        gw = reference.weight_gradient(problem, x, grad)
        for variant in _exact(problem, Pass.FORWARD):
            found = F.conv1d(x, weight, bias, *geometry, variant=variant)
            assert np.array_equal(found, y), (variant, length)
        for variant in _exact(problem, Pass.INPUT_GRADIENT):
            found = F.conv1d_input(x.shape, weight, grad, *geometry, variant=variant)
            assert np.array_equal(found, gx), (variant, length)
        for variant in _exact(problem, Pass.WEIGHT_GRADIENT):
            found = F.conv1d_weight(x, weight.shape, grad, *geometry, variant=variant)
            assert np.array_equal(found, gw), (variant, length)


@pytest.mark.one_of(3)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float16") for name in SOME]
    + [(name, "bfloat16") for name in ("depthwise", "no batch")],
)
def test_named_problem_in_half(cpu_runtime, rng, name, dtype):
    problem = _problem(cpu_runtime, PROBLEMS[name], dtype)
    assert {"direct", "strip"} & set(NAMES) <= _check_all_passes(rng, problem, NAMES)


@pytest.mark.one_of(4)
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem_in_double(first_runtime, rng, name):
    """Other vectors, the same code: by every variant where there are tiles of each kind."""
    names = NAMES if name in TILED else ["direct"]
    _check_all_passes(rng, _problem(first_runtime, PROBLEMS[name], "float64"), names)


@pytest.mark.every_device
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in TILED[:2] for dtype in ("float16", "float64")]
    + [(TILED[0], "bfloat16")],
)
def test_dtypes_on_every_device(runtime, rng, name, dtype):
    """Two of these problems; the others take long on drivers that compile slowly."""
    _check_all_passes(rng, _problem(runtime, PROBLEMS[name], dtype), NAMES)


@pytest.mark.parametrize("name", SOME)
def test_strips_that_ask_for_nothing(plain_runtime, rng, name):
    """As on a processor without AVX-512."""
    _check_all_passes(rng, _problem(plain_runtime, PROBLEMS[name], "float32"), "strip")


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", TILED)
def test_dtypes_of_strips_that_ask_for_nothing(plain_runtime, rng, name, dtype):
    _check_all_passes(rng, _problem(plain_runtime, PROBLEMS[name], dtype), "strip")


@pytest.mark.parametrize("name", AS_GPU)
def test_named_problem_as_on_a_gpu(gpu_runtime, rng, name):
    _check_all_passes(rng, _problem(gpu_runtime, PROBLEMS[name], "float32"), "direct")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_as_on_a_gpu(gpu_runtime, rng, dtype):
    _check_all_passes(rng, _problem(gpu_runtime, REMAINDERS, dtype), "direct")


@pytest.mark.one_of(3)
@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("pass_", [Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT])
def test_every_tile(runtime, rng, name, pass_):
    """Every sixth tile that the planner offers, the best and the last of them, is right."""
    problem = PROBLEMS[name]
    plans = runtime.plans(problem, pass_)
    arrays = _arrays(rng, problem, whole=True)
    del arrays["bias"]
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    for plan in [*plans[::6], plans[-1]]:
        chosen = {pass_: plan.choice}
        if pass_ is Pass.FORWARD:
            result = F.conv1d(arrays["x"], arrays["weight"], None, *geometry, variant=chosen)
        else:
            need = (pass_ is Pass.INPUT_GRADIENT, pass_ is Pass.WEIGHT_GRADIENT, False)
            inputs = arrays["x"], arrays["weight"], arrays["grad_output"]
            grads = F.conv1d_backward(*inputs, *geometry, need=need, variant=chosen)
            result = grads[0] if need[0] else grads[1]
        testing.assert_right(result, problem, pass_, arrays, str(dict(plan.tile)), largest=4,
                             sums=plan.sums_bound)  # fmt: skip


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_epilogue(runtime, rng, activation, dtype):
    """activation(sum + bias + residual), by one kernel."""
    problem = _problem(runtime, REMAINDERS, dtype)
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    for whole in (True, False):
        a = _arrays(rng, problem, whole)
        a["residual"] = a.pop("grad_output")
        y = F.conv1d(a["x"], a["weight"], a["bias"], *geometry, residual=a["residual"],
                     activation=activation)  # fmt: skip
        testing.assert_right(
            y, problem, Pass.FORWARD, a, str(activation), largest=4 * whole, activation=activation
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_two_calls_are_one_fused(runtime, rng, activation):
    """The sums first, then bias, residual and activation on them: inside twice the bound."""
    problem = REMAINDERS
    a = _arrays(rng, problem, whole=False)
    a["residual"] = a.pop("grad_output")
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    fused = F.conv1d(a["x"], a["weight"], a["bias"], *geometry, residual=a["residual"],
                     activation=activation)  # fmt: skip
    channels = problem.out_channels
    sums = F.conv1d(a["x"], a["weight"], None, *geometry)
    apart = F.conv1d(sums, np.ones((channels, 1, 1), np.float32), a["bias"], groups=channels,
                     residual=a["residual"], activation=activation)  # fmt: skip
    bound = testing.rounding_bound(problem, Pass.FORWARD, a, activation=activation)
    testing.assert_within_bound(apart, fused.astype(np.float64), 2 * bound, str(activation))


@pytest.mark.one_of(3)
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem_transposed(first_runtime, rng, name):
    """A named problem's input gradient, asked for as a transposed convolution with a bias; its
    kernels run on every device above."""
    problem = PROBLEMS[name]
    reached = (problem.out_length - 1) * problem.stride + problem.window - sum(problem.pads)
    a = _arrays(rng, problem, whole=True)
    bias = testing.integers(rng, (problem.in_channels,), "float32")
    y = F.conv_transpose1d(
        a["grad_output"], a["weight"], bias, problem.stride, problem.pads,
        problem.length - reached, problem.groups, problem.dilation,
    )  # fmt: skip
    inputs = {"weight": a["weight"], "grad_output": a["grad_output"], "bias": bias}
    testing.assert_right(y, problem, Pass.INPUT_GRADIENT, inputs, "y", largest=4)


# x's channels and length, output channels a group, kernel_size, stride, padding, output_padding,
# dilation, groups: why
TRANSPOSED = {
    "plain": (5, 40, 3, 4, 1, (0, 0), 0, 1, 1),
    "strided and cropped": (4, 30, 3, 5, 3, (2, 2), 2, 1, 2),
    "cropped more on the left": (4, 30, 2, 5, 2, (3, 0), 0, 2, 1),
    "output padding wider than the crop": (2, 20, 3, 2, 2, (0, 0), 1, 1, 2),
    "output padding as wide as the stride": (3, 20, 2, 3, 2, (0, 0), 4, 5, 1),
    "output padding of several strides": (4, 10, 2, 3, 1, (0, 0), 2, 3, 2),
    "output padding as wide as the crop": (3, 20, 2, 3, 1, (2, 2), 2, 3, 1),
    "depthwise": (6, 33, 1, 4, 2, (1, 1), 0, 1, 6),
    "depthwise, output padding of several strides": (6, 33, 1, 7, 1, (0, 1), 3, 4, 6),
    "one position": (3, 1, 4, 5, 3, (0, 0), 1, 1, 1),
}


@pytest.mark.one_of(2)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in TRANSPOSED]
    + [(name, dtype) for name in list(TRANSPOSED)[:3] for dtype in DTYPES if dtype != "float32"],
)
def test_transposed(runtime, rng, name, dtype):
    """A transposed convolution and its own gradients."""
    channels, length, group_out, size, stride, pads, extra, dilation, groups = TRANSPOSED[name]
    problem = _problem(
        runtime,
        transposed_problem(
            (2, channels, length), (channels, group_out, size), stride, pads, extra, dilation,
            groups, "float32",
        ),
        dtype,
    )  # fmt: skip
    make = {True: testing.integers, False: testing.normals}
    for whole in (True, False):
        x = make[whole](rng, (2, channels, length), dtype)
        weight = make[whole](rng, (channels, group_out, size), dtype)
        bias = make[whole](rng, (groups * group_out,), dtype)
        args = (stride, pads, extra, groups, dilation)
        y = F.conv_transpose1d(x, weight, bias, *args)
        a = {"weight": weight, "grad_output": extended(x, problem.out_length)}
        testing.assert_right(
            y, problem, Pass.INPUT_GRADIENT, a | {"bias": bias}, "y", largest=4 * whole
        )
        grad = make[whole](rng, y.shape, dtype)
        gx, gw, gb = F.conv_transpose1d_backward(x, weight, grad, *args)
        testing.assert_right(gx, problem, Pass.FORWARD, {"x": grad, "weight": weight}, "grad_x",
                              largest=4 * whole, positions=length)  # fmt: skip
        testing.assert_right(gw, problem, Pass.WEIGHT_GRADIENT,
                              {"x": grad, "grad_output": a["grad_output"]}, "grad_weight",
                              largest=4 * whole)  # fmt: skip
        flat = replace(problem, in_channels=bias.size, out_channels=bias.size, kernel_size=1,
                       groups=1, length=y.shape[2], stride=1, padding=0)  # fmt: skip
        testing.assert_right(gb, flat, Pass.BIAS_GRADIENT, {"grad_output": grad}, "grad_bias",
                              largest=4 * whole)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_make_no_wider_copy(runtime, rng, monkeypatch, dtype):
    """Whatever is allocated for a call of 16 bits is its results and, for sums, a fixed share."""
    problem = replace(REMAINDERS, dtype=dtype)
    arrays = {name: runtime.to_device(a) for name, a in _arrays(rng, problem, True).items()}
    allocated = []
    real = type(runtime.memory).allocate

    def recording(self, nbytes):
        allocated.append(nbytes)
        return real(self, nbytes)

    monkeypatch.setattr(type(runtime.memory), "allocate", recording)
    x, weight, grad = (arrays[name] for name in ("x", "weight", "grad_output"))
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    y = F.conv1d(x, weight, arrays["bias"], *geometry, residual=grad, activation="relu")
    assert allocated == [y.nbytes]
    allocated.clear()
    results = F.conv1d_backward(x, weight, grad, *geometry)
    inputs = x.nbytes + weight.nbytes + grad.nbytes
    outputs = sum(result.nbytes for result in results)
    assert sum(allocated) - outputs <= 0.25 * (inputs + outputs) + 2 * 4 * problem.weight_count
