"""Planning and rendering, without a device."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import rendered
from problems import PROBLEMS

import clconv
from clconv import Conv1dProblem, DeviceError, Epilogue, OutOfMemoryError, Pass, ProblemError
from clconv.planning.planner import plans, serving
from clconv.planning.profiles import FULL_WIDTH, PROFILES, has_full_width, processor, profile
from clconv.problem import ACTIVATIONS
from clconv.render import RenderError, render
from clconv.variants import VARIANTS
from clconv.variants.base import BIAS_RESULT, MAX_GROUPS, Kernel

PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
ASKING = replace(profile("cpu"), instruction_sets="avx512f,avx512vl")
# Each pass, with an epilogue that takes memory of its own, or without.
EPILOGUES = (
    (Pass.FORWARD, None),
    (Pass.INPUT_GRADIENT, None),
    (Pass.WEIGHT_GRADIENT, None),
    (Pass.WEIGHT_GRADIENT, Epilogue(bias=True)),
)
SOME = ("several tiles and a remainder in every direction", "depthwise, strided", "no batch",
        "stride and dilation share a factor")  # fmt: skip


@pytest.mark.parametrize("device", PROFILES)
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("pass_", Pass)
def test_every_candidate_renders(device, name, pass_):
    """Every tile of every variant renders for every profile, inside the device's limits."""
    found = plans(PROBLEMS[name], pass_, PROFILES[device])
    assert found
    for plan in found:
        source = plan.source()
        assert "${" not in source
        assert {launch.kernel for launch in plan.launches} <= set(plan.kernels)
        for kernel in plan.kernels:
            assert f"void {kernel.name}(" in source
        for launch in plan.launches:
            assert np.prod(launch.kernel.local_size) <= PROFILES[device].max_work_group_size
            sizes = zip(launch.global_size, launch.kernel.local_size, strict=True)
            for (whole, local), most in zip(
                sizes, PROFILES[device].max_work_item_sizes, strict=True
            ):
                assert whole % local == 0
                assert 1 <= whole // local <= MAX_GROUPS
                assert local <= most


@pytest.mark.parametrize("limit", [1, 16])
@pytest.mark.parametrize("device", PROFILES)
def test_small_work_groups(device, limit):
    """Planning never takes a larger work-group than the device has."""
    small = PROFILES[device].with_limits(limit)
    for pass_ in Pass:
        for plan in plans(PROBLEMS[SOME[0]], pass_, small):
            assert all(np.prod(kernel.local_size) <= limit for kernel in plan.kernels)


def test_within_the_limits_of_another():
    """What is planned for a device fits one that has less, and is the device's own otherwise."""
    wanted = profile("gfx1030")
    own = replace(profile("cpu").with_limits(16), local_bytes=16 << 10, max_alloc_bytes=7,
                  global_bytes=8, fp64=False)  # fmt: skip
    found = wanted.within(own)
    assert (found.max_work_group_size, found.max_work_item_sizes) == (16, (16, 16, 16))
    assert (found.local_bytes, found.max_alloc_bytes, found.global_bytes) == (16 << 10, 7, 8)
    assert not found.fp64
    assert (found.name, found.flops, found.lanes) == ("gfx1030", wanted.flops, 32)
    assert wanted.within(wanted) == wanted


# Vectors as the compiler has them, and the widest that can be asked for.
CPU_VECTORS = ((4, ""), (8, ""), (8, "avx512f,avx512vl"), (16, ""))
WORKSPACE = 1 << 20
# What makes arrays of local memory large: channels, taps, windows, phases; many channels of one
# tap, whose sums for the bias are as many as those of the weights.
LARGE = {
    name: Conv1dProblem(*fields)
    for name, fields in {
        "dense": (2, 150, 700, 140, 3, 1, 1),
        "many channels read": (2, 600, 90, 9, 1),
        "many channels written": (1, 1, 50, 20_000, 1),
        "many taps": (1, 2, 900, 3, 201, 1, 100),
        "wide windows": (1, 3, 4000, 5, 3, 1, 0, 900),
        "many phases": (1, 4, 900, 8, 30, 24, 3),
        "a multiplier": (1, 2, 900, 70, 33, 1, 16, 1, 2),
        "depthwise, many taps": (1, 3, 2000, 3, 501, 1, 9, 2, 3),
    }.items()
}


@pytest.mark.one_of(4)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("local_bytes", [32 << 10, 64 << 10, 256 << 10])
@pytest.mark.parametrize("vectors", CPU_VECTORS, ids=lambda v: f"{v[0]}{v[1] and '-asking'}")
def test_limits_of_cpus(vectors, local_bytes, dtype):
    """No launch of any plan declares more local memory, or takes a larger work-group or workspace,
    than the device has."""
    width, asked = vectors
    seen = set()
    for l1_bytes, limit in ((32 << 10, 1), (48 << 10, 16), (64 << 10, 4096)):
        device = replace(
            profile("cpu").with_limits(limit), vector_floats=width, instruction_sets=asked,
            local_bytes=local_bytes, l1_bytes=l1_bytes,
        )  # fmt: skip
        for problem in LARGE.values():
            problem = replace(problem, dtype=np.dtype(dtype))
            for pass_, epilogue in EPILOGUES:
                for made in plans(problem, pass_, device, epilogue=epilogue,
                                  workspace_limit=WORKSPACE):  # fmt: skip
                    assert made.workspace_bytes <= WORKSPACE
                    for kernel in made.kernels:
                        assert np.prod(kernel.local_size) <= limit
                        compiled = kernel.name, kernel.constants, BIAS_RESULT in kernel.operands
                        if compiled not in seen:
                            declared = rendered.local_bytes(kernel)
                            assert declared <= local_bytes, (kernel.name, dict(made.tile))
                            seen.add(compiled)
    kernels = {kernel for kernel, *_ in seen}
    assert {"convolution_depthwise", "weight_gradient_depthwise"} <= kernels
    strips = {"convolution_strip", "input_gradient_strip", "weight_gradient_strip"}
    assert strips & kernels == (strips if local_bytes >= 64 << 10 else set())


def test_planning_is_pure():
    problem, device = PROBLEMS[SOME[0]], profile("gfx1030")
    first, second = plans(problem, Pass.FORWARD, device), plans(problem, Pass.FORWARD, device)
    assert first == second
    assert first[0].source() == second[0].source()
    assert [p.cost for p in first] == sorted(p.cost for p in first)


@pytest.mark.parametrize("device", PROFILES)
@pytest.mark.parametrize("pass_", Pass)
def test_batch_length_and_padding_change_no_source(device, pass_):
    """Another batch, length or padding is the same OpenCL C, in the same order of preference."""
    first = Conv1dProblem(1, 6, 40, 8, 3, 2, 1, 2, 2)
    others = [
        Conv1dProblem(n, 6, length, 8, 3, 2, pad, 2, 2)
        for n, length, pad in ((2, 40, 1), (1, 40_000, 1), (64, 7, (0, 9)), (1000, 100_000, 3))
    ]
    sources = [p.source() for p in plans(first, pass_, PROFILES[device])]
    for other in others:
        assert [p.source() for p in plans(other, pass_, PROFILES[device])] == sources
    # Without a batch some launches are left out, but nothing else is built.
    order = [(p.variant, p.tile) for p in plans(first, pass_, PROFILES[device])]
    none = plans(replace(first, batch=0), pass_, PROFILES[device])
    assert [(p.variant, p.tile) for p in none] == order


def test_a_choice_by_size_changes_no_source():
    """Where it depends on the length which of two designs is first, these are the same two."""
    many = Conv1dProblem(8, 64, 3000, 64, 9, 1, 4)
    for pass_ in PASSES:
        long, short = (
            plans(one, pass_, profile("zen5")) for one in (many, replace(many, batch=1, length=20))
        )
        assert [p.variant for p in long[:2]] == ["spectral", "strip"]
        assert [p.source() for p in short[:2]] == [p.source() for p in long[1::-1]]
        assert [p.source() for p in short[2:]] == [p.source() for p in long[2:]]


def test_epilogue_changes_the_source():
    problem, device = PROBLEMS[SOME[0]], profile("cpu")
    texts = {
        plans(problem, Pass.FORWARD, device, epilogue=Epilogue(*fields))[0].source()
        for fields in ((), (True,), (True, True), (True, True, "gelu"), (True, True, "gelu", True))
    }
    assert len(texts) == 5


def test_wide_sizes_get_wide_indices():
    """A weight tensor of more than 2**31 elements is indexed by 64 bits; no grid overflows."""
    problem = Conv1dProblem(100_000, 2**17, 2**20, 2**16, 3)
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        plan = plans(problem, pass_, profile("sm_86"))[0]
        assert max(plan.launches[0].global_size[1:]) <= MAX_GROUPS
    direct = plans(problem, Pass.FORWARD, profile("cpu"), variant="direct")[0]
    assert "typedef long WEIGHT_INDEX" in direct.source()


def test_who_asks_for_wider_vectors():
    """The strips of convolutions whose sums have more than a few products, unless they call
    OpenCL's own functions; nobody where there is nothing to ask for."""
    many, few = Conv1dProblem(2, 6, 50, 9, 3), Conv1dProblem(2, 2, 50, 9, 3)

    def asks(problem, pass_, epilogue=None, device=ASKING, variant="strip"):
        best = plans(problem, pass_, device, epilogue=epilogue, variant=variant)[0]
        asked = 'target("avx512f,avx512vl")' in best.source()
        assert asked == (best.tile["lanes"] == 16)
        assert best.source().count("attribute push") == best.source().count("attribute pop")
        return asked

    assert asks(many, Pass.FORWARD)
    assert asks(many, Pass.INPUT_GRADIENT)
    assert asks(many, Pass.FORWARD, Epilogue(activation="relu"))
    for dtype in ("float16", "bfloat16"):  # which PoCL 3.0 gets wrong then
        assert not asks(replace(many, dtype=dtype), Pass.FORWARD)
    assert not asks(few, Pass.FORWARD)
    assert not asks(many, Pass.WEIGHT_GRADIENT)
    assert not asks(many, Pass.FORWARD, device=profile("cpu"))
    assert not asks(many, Pass.FORWARD, variant="direct")
    for activation in ("sigmoid", "tanh", "gelu", "silu"):
        assert not asks(many, Pass.FORWARD, Epilogue(activation=activation))


def test_what_is_asked_for_ends_in_each_kernel():
    """However kernels are written: what is not ended does not build."""
    seen = set()
    for variant in VARIANTS:
        for problem in (*(PROBLEMS[name] for name in SOME), *variant.EXAMPLES.values()):
            for pass_ in PASSES:
                if variant.NAME in serving(problem, pass_, ASKING):
                    for plan in plans(problem, pass_, ASKING, variant=variant.NAME):
                        seen |= {*plan.kernels}
    texts = {kernel: render(kernel) for kernel in seen}
    asking = {kernel.name for kernel, text in texts.items() if "attribute push" in text}
    assert {"convolution_strip", "convolution_winograd", "weight_results_winograd"} <= asking
    for kernel, text in texts.items():
        assert text.count("attribute push") == text.count("attribute pop"), kernel.name


def test_schedules_have_the_vectors_of_their_kernels():
    """Whether these ask for wider ones or not."""
    problem = Conv1dProblem(2, 6, 50, 9, 3)
    found = plans(problem, Pass.FORWARD, ASKING, variant="strip")
    assert {made.tile["lanes"] for made in found} == {8, 16}
    for made in found:
        (launch,) = made.launches
        assert launch.numbers["row_vectors"] == -(-problem.out_length // made.tile["lanes"])


@pytest.mark.parametrize("device", PROFILES)
def test_a_choice_has_no_epilogue(device):
    """What can be chosen with an activation, or beside a bias gradient, can be without; where no
    wider vectors are asked for it is the same. So a choice that was timed without serves with."""
    device = PROFILES[device]
    asked = bool(device.instruction_sets)
    for name in SOME[:2]:
        for pass_ in PASSES:
            bare = [p.choice for p in plans(PROBLEMS[name], pass_, device)]
            assert all(bare.count(choice) == 1 for choice in bare)
            epilogues = [Epilogue(activation=activation) for activation in ACTIVATIONS]
            for epilogue in [Epilogue(bias=True)] if pass_ is PASSES[2] else epilogues:
                found = [p.choice for p in plans(PROBLEMS[name], pass_, device, epilogue=epilogue)]
                assert all(choice in bare for choice in found)
                missing = [choice for choice in bare if choice not in found]
                assert all(asked and choice.tile["lanes"] == 16 for choice in missing)


def test_vectors_of_full_width():
    """Where two loads feed two multiply-adds of whole vectors, tiles have more sums for each."""
    half = replace(profile("cpu"), vector_floats=16, l1_bytes=48 << 10)
    full = replace(half, **FULL_WIDTH)
    assert (half.full_width, full.full_width) == (False, True)
    for problem in (Conv1dProblem(4, 256, 800, 256, 11), Conv1dProblem(1, 80, 3000, 384, 3)):
        for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
            sums_a_load = []
            for device in (half, full):
                tile = plans(problem, pass_, device, variant="strip")[0].tile
                channels, vectors = tile["channel_tile"], tile["vectors"]
                sums_a_load.append(channels * vectors / (channels + vectors))
            assert sums_a_load[0] < 1 < 1.6 <= sums_a_load[1]


def test_which_processors_have_full_width():
    for vendor, family, model, expected in (
        ("AuthenticAMD", 25, 0x01, "cpu"),  # Zen 3
        ("AuthenticAMD", 25, 0x11, "zen4"),
        ("AuthenticAMD", 26, 0x02, "zen5"),  # EPYC 9005
        ("AuthenticAMD", 26, 0x24, "zen4"),  # Zen 5 of notebooks
        ("GenuineIntel", 6, 0x8F, "zen5"),  # Sapphire Rapids
        ("GenuineIntel", 6, 0xA7, "cpu"),  # Rocket Lake
        ("Somebody", 26, 0x02, "cpu"),
        ("", 0, 0, "cpu"),
    ):
        assert has_full_width(vendor, family, model) == (expected == "zen5")
        assert processor(vendor, family, model, "x86_64") == expected
        assert PROFILES[expected].full_width == (expected == "zen5")
    assert processor("", 0, 0, "aarch64") == processor("", 0, 0, "arm64") == "neon"


def test_vector_registers():
    """Of x86-64 as many as its vectors have, of other processors as the profile says."""
    assert [profile(name).vector_registers for name in ("cpu", "zen4", "zen5", "neon")] == [
        16, 16, 32, 32,
    ]  # fmt: skip
    assert profile("zen4").asking().vector_registers == 32


def test_workspace_limit():
    """The limit means fewer shares, and an error where not even one fits."""
    problem = Conv1dProblem(8, 1, 48000, 1, 101)
    free = plans(problem, Pass.WEIGHT_GRADIENT, profile("gpu"))[0]
    tight = plans(problem, Pass.WEIGHT_GRADIENT, profile("gpu"), workspace_limit=4096)[0]
    assert free.workspace_bytes > 4096 >= tight.workspace_bytes >= 2 * 404
    # One share goes to the result.
    for device in ("gpu", "cpu"):
        none = plans(problem, Pass.WEIGHT_GRADIENT, profile(device), workspace_limit=800)[0]
        assert none.workspace_bytes == 0
        assert [launch.kernel for launch in none.launches] == [none.kernels[0]]
        assert len(none.kernels) == 2
    with pytest.raises(OutOfMemoryError, match="workspace_limit is 3"):
        plans(problem, Pass.BIAS_GRADIENT, profile("gpu"), workspace_limit=3)


@pytest.mark.parametrize("variant", ["strip", "depthwise"])
def test_workspace_limit_with_a_bias(variant):
    """A share's sums for the bias count, too: no limit is too small for one share."""
    problem = Conv1dProblem(8, 1, 48000, 1, 2)
    for limit in range(0, 120, 4):
        for bias in (False, True):
            epilogue = Epilogue(bias=bias)
            plan = plans(problem, Pass.WEIGHT_GRADIENT, profile("cpu"), epilogue=epilogue,
                         variant=variant, workspace_limit=limit)[0]  # fmt: skip
            assert plan.workspace_bytes <= limit


@pytest.mark.parametrize("device", PROFILES)
def test_workspace_is_a_quarter_of_the_arrays(device):
    """Of weight gradients; other passes need none where they form the definition's own sums."""
    for name, problem in PROBLEMS.items():
        if not problem.batch:
            continue
        sizes = [math.prod(shape) for shape in (problem.input_shape, problem.output_shape)]
        most = 0.25 * 4 * (sum(sizes) + problem.weight_count)
        for plan in plans(problem, Pass.WEIGHT_GRADIENT, PROFILES[device], exact=True):
            assert plan.workspace_bytes <= most, (name, dict(plan.tile))
        for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
            for plan in plans(problem, pass_, PROFILES[device], exact=True):
                assert not plan.workspace_bytes


def test_variant_by_name():
    problem = PROBLEMS[SOME[0]]
    assert {p.variant for p in plans(problem, Pass.FORWARD, profile("cpu"), variant="direct")} == {
        "direct"
    }
    with pytest.raises(ProblemError, match="variant is 'cook', expected 'auto' or one of"):
        plans(problem, Pass.FORWARD, profile("cpu"), variant="cook")
    double = Conv1dProblem(1, 1, 9, 1, 2, dtype=np.float64)
    with pytest.raises(ProblemError, match="acm-g10 has no float64"):
        plans(double, Pass.FORWARD, profile("acm-g10"), variant="direct")
    with pytest.raises(ProblemError, match="it is for CPUs"):
        plans(problem, Pass.FORWARD, profile("gfx1030"), variant="strip")
    assert clconv.variants(double, "forward", "acm-g10") == []
    # Behind the others what records alone choose.
    found = clconv.variants(problem, "weight_gradient", "gfx1030")
    assert set(found[:-1]) == {"gemm", "direct"}
    assert found[-1] == "winograd"


def test_plan_of_a_profile():
    plan = clconv.plan(PROBLEMS[SOME[0]], "forward", "gfx1030")
    assert plan.variant == "direct"
    assert plan.tile["lanes"] == 1
    assert plan.workspace_bytes == 0
    assert "forward_direct" in plan.source()
    with pytest.raises(DeviceError, match="no device profile 'gfx9000', expected one of cpu"):
        clconv.plan(PROBLEMS[SOME[0]], "forward", "gfx9000")
    with pytest.raises(DeviceError, match="device is 3"):
        clconv.plan(PROBLEMS[SOME[0]], "forward", 3)


def test_render_error_names_the_constants():
    """A template that lacks a constant says so, with what it was given."""
    kernel = Kernel(
        "forward_direct",
        (("dtype", "float32"), ("lanes", 1), ("half_builtins", True), ("group_in", 77)),
        (), (), (1, 1, 1),
    )  # fmt: skip
    with pytest.raises(RenderError, match=r"forward_direct does not render with .*77"):
        render(kernel)
