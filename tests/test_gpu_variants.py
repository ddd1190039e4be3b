"""The variants for GPUs, on devices as if they were some: right, inside limits, the same twice."""

from __future__ import annotations

import math
import mmap
from dataclasses import replace

import fuzz
import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pytest
import rendered
from conftest import _as_gpu, _devices, _label
from problems import PROBLEMS
from test_accuracy import AS_GPU, REMAINDERS, _arrays, _problem
from transposed import extended, transposed_problem

from clconv import Conv1dProblem, Epilogue, Pass, ProblemError, planner, testing
from clconv import functional as F
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, profile
from clconv.variants import base, gemm, window
from clconv.variants.base import Request
from clconv.variants.gemm import convolution, gemv, tiles, weight_gradient

VARIANTS = {"gemm": gemm, "window": window}
# A product has two kernels: which runs follows from the columns, or is said.
KINDS = ("gemm, tiles", "gemm, few columns", "window")
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
# Registers in which 8 x 8 sums do not fit: smaller tiles are quicker to build.
FEW_REGISTERS = 90
# Every named problem on the first device, and on the others those that differ most.
NAMED = [
    pytest.param(place, name, id=f"{_label(one)}-{name}")
    for place, one in enumerate(_devices)
    for name in PROBLEMS
    if place == 0 or name in AS_GPU[:3]
]


def _result(problem, pass_, a, variant, **more):
    """A pass of a problem by functional's own functions."""
    geometry = (problem.stride, problem.pads, problem.dilation, problem.groups)
    if pass_ is Pass.FORWARD:
        return F.conv1d(a["x"], a["weight"], a.get("bias"), *geometry, variant=variant, **more)
    need = (pass_ is Pass.INPUT_GRADIENT, pass_ is Pass.WEIGHT_GRADIENT, False)
    grads = F.conv1d_backward(a["x"], a["weight"], a["grad_output"], *geometry, need=need,
                              variant=variant)  # fmt: skip
    return grads[0] if need[0] else grads[1]


def _check(rng, problem, pass_, variant, seen=None):
    """Exact on integers, inside the bound on normals."""
    for whole in (True, False):
        a = _arrays(rng, problem, whole)
        operands = {k: v for k, v in a.items() if k != "bias" or pass_ is Pass.FORWARD}
        result = _result(problem, pass_, operands, variant)
        if pass_ is Pass.FORWARD:
            del operands["grad_output"]
        testing.assert_right(result, problem, pass_, operands, str(seen), largest=4 * whole)


@pytest.fixture
def chosen(request):
    """The runtime of a place in the list of devices (the first), as a GPU with few registers."""
    for runtime in _as_gpu(getattr(request, "param", 0)):
        own = runtime.profile
        runtime.profile = replace(own, item_registers=FEW_REGISTERS, name="few registers")
        runtime.forget_plans()
        yield runtime
        runtime.profile = own
        runtime.forget_plans()


@pytest.fixture
def variant(request, monkeypatch):
    """A variant's name; of a product one of its kernels runs, whatever the columns."""
    name, _, launch = request.param.partition(", ")
    if launch:
        monkeypatch.setattr(convolution, "few_columns_pay", lambda *_: launch == "few columns")
    return name


def _queued(made):
    """The names of a plan's kernels that run."""
    return [launch.kernel.name for launch in made.launches]


@pytest.mark.one_of(4)
@pytest.mark.parametrize("variant", KINDS, indirect=True)
@pytest.mark.parametrize(("chosen", "name"), NAMED, indirect=["chosen"])
def test_named_problem(chosen, rng, variant, name, request):
    problem = PROBLEMS[name]
    few = KINDS[1] in request.node.callspec.id  # they have no weight gradients
    for pass_ in PASSES[: 2 if few else 3]:
        if VARIANTS[variant].refusal(Request(problem, pass_, chosen.profile)) is None:
            _check(rng, problem, pass_, variant)


# (batch, positions) of 1 to 9 columns and more: a work-group has at most 8.
MIXTURES = ((1, 1), (2, 1), (1, 2), (3, 1), (2, 2), (5, 1), (2, 3), (7, 1), (1, 8), (4, 2), (3, 3),
            (1, 9), (17, 1), (2, 12))  # fmt: skip
# in_channels, out_channels, kernel_size, stride, padding, dilation, groups
GEOMETRIES = {
    "dense": (8, 24, 3, 1, 1, 1, 1),
    "groups, gaps and phases": (12, 10, 4, 3, (2, 4), 2, 2),
    "phases without taps": (6, 5, 2, 5, 0, 1, 1),
    "dilation wider than the input": (5, 9, 3, 1, 40, 40, 1),
    "more taps than work-items": (5, 6, 300, 1, 0, 1, 1),
}


@pytest.mark.parametrize("variant", [KINDS[1]], indirect=True)
@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [(name, dtype) for name in GEOMETRIES for dtype in ("float32", "float16", "float64")
     if dtype == "float32" or name == "groups, gaps and phases"],
)  # fmt: skip
def test_few_columns(chosen, rng, variant, geometry, dtype):
    """Any number of columns, from one batch element or several, by kernels that are built once."""
    in_channels, out_channels, size, stride, pad, dilation, groups = GEOMETRIES[geometry]
    pads = sum(pad) if isinstance(pad, tuple) else 2 * pad
    seen = set()
    for batch, positions in MIXTURES:
        length = max(1, dilation * (size - 1) + 1 + (positions - 1) * stride - pads)
        problem = _problem(chosen, Conv1dProblem(
            batch, in_channels, length, out_channels, size, stride, pad, dilation, groups,
        ), dtype)  # fmt: skip
        for pass_ in PASSES[:2]:
            made = chosen.plans(problem, pass_, variant="gemm")[0]
            # A work-group has all taps of a channel; else products are of tiles.
            few = size <= min(gemv.MOST_ITEMS, chosen.profile.max_work_group_size)
            assert _queued(made) == ["convolution_gemv" if few else "convolution_gemm"]
            _check(rng, problem, pass_, variant)
            seen.add((pass_, made.source()))
    assert len(seen) == 2


@pytest.mark.parametrize("pass_", PASSES[:2])
@pytest.mark.parametrize("device", [name for name, one in PROFILES.items() if one.kind == "gpu"])
def test_columns_decide_what_is_queued(device, pass_):
    """Few columns and many have one design, of which another kernel runs."""
    for channels, size in ((64, 3), (512, 3), (768, 1)):
        order, found = [], []
        for batch, positions in ((1, 1), (8, 1), (2, 4), (1, 200_000)):
            problem = Conv1dProblem(batch, channels, positions, channels, size, 1, size // 2)
            made = plans(problem, pass_, PROFILES[device], variant="gemm")
            order.append([(one.tile, one.source()) for one in made])
            assert {one.kernel for one in made[0].launches} <= set(made[0].kernels)
            found.append(_queued(made[0]))
        assert found == 3 * [["convolution_gemv"]] + [["convolution_gemm"]]
        assert all(one == order[0] for one in order)


@pytest.mark.parametrize("device", [name for name, one in PROFILES.items() if one.kind == "gpu"])
def test_few_columns_fill_the_device(device):
    """One position of a large layer makes work-groups for most of the compute units."""
    problem = Conv1dProblem(1, 1024, 3, 1024, 3)
    for pass_ in PASSES[:2]:
        made = plans(problem, pass_, PROFILES[device], variant="gemm")[0]
        launch = made.launches[0]
        groups = math.prod(launch.global_size) // math.prod(launch.kernel.local_size)
        assert 2 * groups >= PROFILES[device].compute_units


@pytest.mark.parametrize("groups", [1, 2])
def test_sliding_windows(chosen, rng, groups):
    """Many taps are summed from elements that stay in registers."""
    problem = Conv1dProblem(2, 2, 700, 4 * groups, 20, 1, (7, 30), 1, groups)
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        made = plans(problem, pass_, chosen.profile, variant="window")[0]
        assert made.tile["sliding"] == 1
        _check(rng, problem, pass_, "window")


# More channels than the largest tile has, in positions that fill no tile; groups and stride too.
WIDE = Conv1dProblem(2, 140, 33, 130, 2, 2, 1)


# Of the shapes that the planner picks, those which differ in how slabs lie on the work-items.
SHAPES = ((128, 128, 8, 8), (64, 128, 8, 8), (128, 32, 8, 8), (32, 32, 8, 8))


@pytest.mark.parametrize("place", range(len(SHAPES)), ids=["x".join(map(str, s)) for s in SHAPES])
def test_shape(rng, place, monkeypatch):
    """A tile of a product of matrices, the passes in turn, with one buffer and with two."""
    monkeypatch.setattr(convolution, "few_columns_pay", lambda *_: False)
    shape, pass_ = SHAPES[place], PASSES[place % 3]
    assert shape in tiles.SHAPES
    for runtime in _as_gpu(0):
        epilogue = Epilogue(bias=pass_ is Pass.FORWARD)  # as _check has one
        request = Request(WIDE, pass_, runtime.profile, epilogue)
        tile = next(t for depth in tiles.DEPTHS
                    if (t := tiles.Tile(*shape, depth, 1 + place % 2)).fits())  # fmt: skip
        matrices = tiles.Matrices(request)
        make = (weight_gradient if matrices.weights else convolution).design
        first = plans(WIDE, pass_, runtime.profile, epilogue=epilogue, variant="gemm")[0]
        made = replace(first, design=make(matrices, tile))
        runtime.forget_plans()
        monkeypatch.setattr(runtime, "candidates", lambda *_, made=made, **__: [made])
        try:
            _check(rng, WIDE, pass_, "gemm", shape)
        finally:
            runtime.forget_plans()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize(
    ("variant", "name"),
    [(KINDS[0], "two groups of odd sizes"), ("window", "depthwise, strided")],
    indirect=["variant"],
)
def test_dtypes(chosen, rng, variant, name, dtype):
    problem = _problem(chosen, PROBLEMS[name], dtype)
    for pass_ in PASSES:
        _check(rng, problem, pass_, variant)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    ("variant", "problem"),
    [(KINDS[0], REMAINDERS), (KINDS[1], REMAINDERS), ("window", PROBLEMS["depth multiplier"])],
    ids=KINDS, indirect=["variant"],
)  # fmt: skip
def test_epilogue(chosen, rng, variant, problem, activation):
    """activation(sum + bias + residual) by one launch."""
    a = _arrays(rng, problem, whole=False)
    a["residual"] = a.pop("grad_output")
    before = chosen.launches
    y = _result(problem, Pass.FORWARD, a, variant, residual=a["residual"], activation=activation)
    assert chosen.launches == before + 1
    testing.assert_right(y, problem, Pass.FORWARD, a, variant, largest=0, activation=activation)


@pytest.mark.parametrize("variant", KINDS, indirect=True)
def test_transposed(chosen, rng, variant):
    """A transposed convolution with a bias is the input gradient, all phases in one launch."""
    problem = PROBLEMS["stride and dilation share a factor"]
    reached = (problem.out_length - 1) * problem.stride + problem.window - sum(problem.pads)
    a = _arrays(rng, problem, whole=True)
    bias = testing.integers(rng, (problem.in_channels,), "float32")
    before = chosen.launches
    y = F.conv_transpose1d(
        a["grad_output"], a["weight"], bias, problem.stride, problem.pads,
        problem.length - reached, problem.groups, problem.dilation, variant=variant,
    )  # fmt: skip
    assert chosen.launches == before + 1
    inputs = {"weight": a["weight"], "grad_output": a["grad_output"], "bias": bias}
    testing.assert_right(y, problem, Pass.INPUT_GRADIENT, inputs, "y", largest=4)


@pytest.mark.parametrize("variant", ["direct", *KINDS], indirect=True)
def test_output_padding_beyond_every_window(chosen, rng, variant):
    """Whole strides of it, so that the convolution whose gradients these are could have more output
    positions than x has: it has no more."""
    length, size, stride, dilation, extra = 10, 3, 1, 3, 2
    x = testing.integers(rng, (2, 8, length), "float32")
    weight = testing.integers(rng, (8, 3, size), "float32")
    problem = transposed_problem(
        x.shape, weight.shape, stride, (0, 0), extra, dilation, 2, "float32"
    )
    assert problem.out_length > length
    longer = extended(x, problem.out_length)
    options = stride, 0, extra, 2, dilation
    y = F.conv_transpose1d(x, weight, None, *options, variant=variant)
    operands = {"weight": weight, "grad_output": longer}
    testing.assert_right(y, problem, Pass.INPUT_GRADIENT, operands, "y", largest=4)
    grad = testing.integers(rng, y.shape, "float32")
    grads = F.conv_transpose1d_backward(x, weight, grad, *options, variant=variant)
    testing.assert_right(grads[0], problem, Pass.FORWARD, {"x": grad, "weight": weight}, "grad_x",
                          largest=4, positions=length)  # fmt: skip
    testing.assert_right(grads[1], problem, Pass.WEIGHT_GRADIENT,
                          {"x": grad, "grad_output": longer}, "grad_weight", largest=4)  # fmt: skip


FAR = 2**31 + 64  # elements from a batch element to the next


class _FarApart:
    """Arrays of two batch elements whose distance takes more than 32 bits.

    No device here allocates as much at once. But a CPU's kernels address the host's own memory: the
    elements lie in pages that nobody else touches, and only the first of them is in the buffer. A
    distance cut to 32 bits ends in such pages too, and gives wrong values.
    """

    def __init__(self, runtime):
        self._runtime = runtime
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._pages = mmap.mmap(-1, 4 * FAR * 2, flags=flags)
        self._memory = np.frombuffer(self._pages, np.float16)
        self._first = 2 * FAR // 4096 * 4096

    def lay(self, values):
        """A device array with these values, (2, C, L) of float16."""
        first, count = self._first, values[0].size
        self._first += -(-count // 4096) * 4096
        for n in range(2):
            place = first + n * FAR
            self._memory[place : place + count] = values[n].ravel()
        kind = cl.mem_flags.READ_ONLY | cl.mem_flags.USE_HOST_PTR
        one = cl.Buffer(self._runtime.context, kind, hostbuf=self._memory[first : first + count])
        strides = (2 * FAR, 2 * values.shape[2], 2)
        return cl_array.Array(self._runtime.queue, values.shape, np.float16, data=one,
                              strides=strides)  # fmt: skip


@pytest.mark.one_of(2)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("variant", ["direct", *KINDS], indirect=True)
def test_batch_strides_beyond_32_bits(chosen, rng, variant, groups):
    """Two batch elements, further apart than 32 bits can say, of everything that is read."""
    far = _FarApart(chosen)
    _check_far_apart(chosen, rng, variant, Conv1dProblem(
        2, 3, 40, 6, 3, 2, 1, 1, groups, np.float16
    ), far)  # fmt: skip


@pytest.mark.parametrize("variant", ["direct", "strip", "depthwise"])
def test_batch_strides_beyond_32_bits_on_cpus(each_cpu, rng, variant):
    """The same of the variants for CPUs."""
    depthwise = variant == "depthwise"
    problem = Conv1dProblem(2, 3, 90, 3 if depthwise else 6, 5, 1, 2, 1, 3 if depthwise else 1,
                            np.float16)  # fmt: skip
    _check_far_apart(each_cpu, rng, variant, problem, _FarApart(each_cpu))


def _check_far_apart(runtime, rng, variant, problem, far):
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    x, weight, grad = (testing.integers(rng, shape, np.float16) for shape in shapes)
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    far_x, far_grad, weight_there = far.lay(x), far.lay(grad), runtime.to_device(weight)
    serving = {pass_ for pass_ in PASSES if variant in planner.serving(
        problem, pass_, runtime.profile
    )}  # fmt: skip
    assert Pass.FORWARD in serving
    y = F.conv1d(far_x, weight_there, None, *place, residual=far_grad, variant=variant)
    operands = {"x": x, "weight": weight, "residual": grad}
    testing.assert_right(y.get(), problem, Pass.FORWARD, operands, "y", largest=4)
    need = [pass_ in serving for pass_ in PASSES[1:]] + [True]
    grads = F.conv1d_backward(far_x, weight_there, far_grad, *place, need=need, variant=variant)
    operands = {"x": x, "weight": weight, "grad_output": grad}
    for needed, pass_, result in zip(need, list(Pass)[1:], grads, strict=True):
        if needed:
            testing.assert_right(result.get(), problem, pass_, operands, pass_.value, largest=4)


# On each device every other profile; on the next one the others.
@pytest.mark.one_of(3)
@pytest.mark.parametrize(
    ("place", "name"),
    [pytest.param(place, name, id=f"{_label(one)}-{name}") for place, one in enumerate(_devices)
     for name in fuzz.GPUS[place % 2 :: 2]],
)  # fmt: skip
def test_random_geometry(place, name):
    """One that differs by profile and device, all functions, each pass by some candidate."""
    runtime = fuzz.CountingRuntime(_devices[place].device)
    runtime.plan_as(name)
    runtime.profile = replace(runtime.profile, item_registers=FEW_REGISTERS)
    index = place * len(fuzz.GPUS) + fuzz.GPUS.index(name)
    options = fuzz.options_of(["--as", name, "--seed", "7", "--batches", "2"])
    assert fuzz.run_geometry(runtime, index, options) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_weight_gradient_is_the_same_twice(chosen, rng, variant):
    """Shares are added in a fixed order."""
    problem = Conv1dProblem(3, 3, 400, 5, 3, 1, 1)
    a = _arrays(rng, problem, whole=False)
    made = plans(problem, Pass.WEIGHT_GRADIENT, chosen.profile, variant=variant)[0]
    assert made.launches[0].global_size[1] > 1  # several shares
    first, second = (_result(problem, Pass.WEIGHT_GRADIENT, a, variant) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("dtype", "length"), [("float32", 20), ("float32", 900), ("float16", 20)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulation(chosen, rng, variant, dtype, length):
    """momentum * old + scale * gradient, of one share and of several. Without momentum nothing old
    is left, be it NaN."""
    problem = Conv1dProblem(1, 3, length, 5, 3, dtype=dtype)
    made = chosen.plans(problem, Pass.WEIGHT_GRADIENT, variant=variant)[0]
    assert len(_queued(made)) == (1 if length == 20 else 2)
    a = _arrays(rng, problem, whole=True)
    operands = {"x": a["x"], "grad_output": a["grad_output"]}
    gradient = testing.evaluate(problem, Pass.WEIGHT_GRADIENT, operands)
    arrays = [chosen.to_device(operands[name]) for name in ("x", "grad_output")]
    old = 2 * testing.integers(rng, problem.weight_shape, dtype)
    for momentum, before in ((0.5, old), (0.0, np.full_like(old, np.nan))):
        out = chosen.to_device(before)
        F.conv1d_weight(arrays[0], out.shape, arrays[1], out=out, scale=2.0, momentum=momentum,
                        variant=variant)  # fmt: skip
        assert np.array_equal(out.get(), 2 * gradient + momentum * old)


@pytest.mark.parametrize("name", ["depth multiplier", "stride and dilation share a factor"])
@pytest.mark.parametrize("variant", KINDS, indirect=True)
def test_one_work_group_does_all(chosen, rng, variant, name, monkeypatch):
    """Where there are more tiles than a grid has work-groups, they loop."""
    monkeypatch.setattr(base, "MAX_GROUPS", 1)
    for pass_ in PASSES:
        made = plans(PROBLEMS[name], pass_, chosen.profile, variant=variant)[0]
        launch = made.launches[0]
        sizes = zip(launch.global_size, launch.kernel.local_size, strict=True)
        groups = [whole // local for whole, local in sizes]
        assert groups[0] == 1
        assert groups[1] == 1 or pass_ is Pass.WEIGHT_GRADIENT
        _check(rng, PROBLEMS[name], pass_, variant)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("limit", [16, 64, 1024])
@pytest.mark.parametrize("local_bytes", [16 << 10, 32 << 10])
@pytest.mark.parametrize("device", ["gpu", "gfx942", "sm_75", "skl"])
def test_limits_of_devices(device, local_bytes, limit, dtype):
    """No launch of any plan takes a larger work-group, or declares more local memory, than the
    device has."""
    device = PROFILES[device]
    limit = min(limit, device.max_work_group_size)
    device = replace(device.with_limits(limit), local_bytes=local_bytes)
    seen = set()
    for problem in (WIDE, PROBLEMS["depthwise"], PROBLEMS["long kernel over many channels"]):
        for pass_ in PASSES:
            for made in plans(replace(problem, dtype=np.dtype(dtype)), pass_, device):
                for kernel in made.kernels:
                    assert np.prod(kernel.local_size) <= limit
                    declared = rendered.local_bytes(kernel)
                    assert declared <= local_bytes, kernel.name
                    seen |= {kernel.name} if declared else set()
    assert {"convolution_gemv", "convolution_window"} <= seen
    assert {"convolution_gemm", "weight_gradient_gemm"} <= seen


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("limit", [16, 64, 256])
def test_work_group_limits(pass_, limit):
    """A product's tiles are what their constraints say, and as large as the work-group."""
    device = replace(profile("gpu").with_limits(limit), local_bytes=32 << 10)
    for problem in (WIDE, PROBLEMS["depthwise"], REMAINDERS):
        for made in plans(problem, pass_, device):
            kernel = made.kernels[0]
            assert np.prod(kernel.local_size) <= limit
            if made.variant == "gemm":
                names = ("tile_rows", "tile_columns", "item_rows", "item_columns", "depth",
                         "buffers")  # fmt: skip
                tile = tiles.Tile(*(made.tile[name] for name in names))
                assert tile.fits()
                assert tile.items == kernel.local_size[0]
                assert tile.local_bytes(4) <= device.local_bytes
    assert "gemm" in {made.variant for made in plans(WIDE, pass_, device)}


def test_shares_are_counted_in_32_bits():
    """Of more positions than that, a product takes more shares than the workspace would have."""
    problem = Conv1dProblem(3, 1, 2**30, 1, 3, dtype="float16")
    for limit in (None, 64):
        for made in plans(problem, Pass.WEIGHT_GRADIENT, profile("sm_90"), variant="gemm",
                          workspace_limit=limit):  # fmt: skip
            numbers = made.launches[0].numbers
            assert numbers["share_terms"] <= 2**30 + 16
            assert numbers["share_terms"] * numbers["shares"] >= 3 * problem.out_length
    none = plans(problem, Pass.WEIGHT_GRADIENT, profile("sm_90"), workspace_limit=0)
    assert {made.variant for made in none} == {"direct", "window"}


def test_refusals():
    """A variant that cannot serve says why."""
    problem = PROBLEMS["pointwise"]
    for name, why in (("gemm", "it is for GPUs"), ("window", "it is for GPUs")):
        with pytest.raises(ProblemError, match=why):
            plans(problem, Pass.FORWARD, profile("cpu"), variant=name)
    with pytest.raises(ProblemError, match="too small for any tile"):
        plans(problem, Pass.FORWARD, profile("gpu").with_limits(1), variant="gemm")
    with pytest.raises(ProblemError, match="8 input and 12 output channels, expected at most 4"):
        plans(problem, Pass.FORWARD, profile("gpu"), variant="window")
    wide = Conv1dProblem(1, 1, 90_000, 1, 3, dilation=40_000)
    with pytest.raises(ProblemError, match="a window of 80001 samples"):
        plans(wide, Pass.FORWARD, profile("gpu"), variant="window")
    with pytest.raises(ProblemError, match="stride is 2097152"):
        plans(Conv1dProblem(1, 1, 9, 1, 2, 2**21), Pass.FORWARD, profile("gpu"), variant="gemm")
    for module in VARIANTS.values():
        assert "bias" in module.refusal(Request(problem, Pass.BIAS_GRADIENT, profile("gpu")))


@pytest.mark.parametrize("device", [name for name, one in PROFILES.items() if one.kind == "gpu"])
def test_what_gpus_get(device):
    """Dense layers are products of matrices with 8 x 8 sums, depthwise ones windows."""
    for pass_ in PASSES:
        dense = plans(Conv1dProblem(1, 512, 7999, 512, 3, 2), pass_, PROFILES[device])[0]
        assert dense.variant == "gemm"
        assert dense.tile["item_rows"] * dense.tile["item_columns"] == 64
        depthwise = Conv1dProblem(16, 256, 800, 256, 33, 1, 16, 1, 256)
        assert plans(depthwise, pass_, PROFILES[device])[0].variant == "window"
