"""Planning and rendering, without a device."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rendered
from problems import PROBLEMS

import clconv
from clconv import Conv1dProblem, DeviceError, Epilogue, OutOfMemoryError, Pass, ProblemError
from clconv.planning.planner import plans
from clconv.planning.profiles import FULL_WIDTH, PROFILES, has_full_width, processor, profile
from clconv.problem import ACTIVATIONS
from clconv.render import RenderError, render
from clconv.variants.base import BIAS_RESULT, MAX_GROUPS, Kernel

PACKAGE = Path(clconv.__file__).parent
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
    assert asks(replace(many, dtype=np.dtype("float16")), Pass.FORWARD)
    assert not asks(few, Pass.FORWARD)
    assert not asks(many, Pass.WEIGHT_GRADIENT)
    assert not asks(many, Pass.FORWARD, device=profile("cpu"))
    assert not asks(many, Pass.FORWARD, variant="direct")
    for activation in ("sigmoid", "tanh", "gelu", "silu"):
        assert not asks(many, Pass.FORWARD, Epilogue(activation=activation))


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
    with pytest.raises(ProblemError, match="variant is 'winograd', expected 'auto' or one of"):
        plans(problem, Pass.FORWARD, profile("cpu"), variant="winograd")
    double = Conv1dProblem(1, 1, 9, 1, 2, dtype=np.float64)
    with pytest.raises(ProblemError, match="acm-g10 has no float64"):
        plans(double, Pass.FORWARD, profile("acm-g10"), variant="direct")
    with pytest.raises(ProblemError, match="it is for CPUs"):
        plans(problem, Pass.FORWARD, profile("gfx1030"), variant="strip")
    assert clconv.variants(double, "forward", "acm-g10") == []
    assert set(clconv.variants(problem, "weight_gradient", "gfx1030")) == {"gemm", "direct"}


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


# Every module, each after those that it may import; "variants.*" stands for those of algorithms.
_ROOMS = (
    "errors", "version", "settings", "disk", "bounded", "geometry", "problem", "reference",
    "testing",
    "planning", "planning.profiles", "device", "planning.cost", "variants.base",
    "variants.*",
    "variants", "render",
    "planning.planner", "planner", "planning.records",
    "drivers", "drivers.binaries", "drivers.icd",
    "drivers.building", "drivers.probe", "drivers.discovery", "drivers.programs",
    "drivers.finished", "drivers.workers", "drivers.memory", "drivers.registry", "runtime",
    "rehearsal", "calls", "calls.elementwise", "gpuarray", "calls.layouts", "calls.options",
    "calls.prepared", "calls.draft",
    "calls.recipes", "calls.call", "functional", "tuning.bench", "tuning.verifier", "tuning",
    "layers", "layers.copying", "layers.variable", "layers.storage", "layers.hdf5",
    "layers.module", "layers.initialisation", "layers.convolution", "conv1d", "layers.deconv1d",
    "layers.pad1d", "layers.sequential", "streaming",
    "files", "onnx", "torch.memory", "torch.operators", "torch.functions", "torch.layers",
    "torch.conversion", "torch.reporting", "torch.tuning", "torch.warming", "torch",
    "commands", "commands.text", "commands.options", "commands.layers", "commands.roofline",
    "commands.benchmark_worker",
    "commands.benchmark_candidates", "commands.benchmark_plot", "commands.benchmark",
    "commands.devices", "commands.predict", "commands.source", "commands.tune_calibrate",
    "commands.tune_plot", "commands.tune", "__main__",
)  # fmt: skip


def _room(path: Path) -> str:
    """A module's name within the package, "" of the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_KNOWN = {f"clconv.{_room(path)}" for path in PACKAGE.rglob("*.py")}


def _imports(text: str, room: str, is_package: bool) -> set[str]:
    """The full names of all that a module imports, wherever and in whatever form."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                home = ["clconv", *(room.split(".") if room else [])]
                home = home[: len(home) + is_package - node.level]
                start = ".".join([*home, *([start] if start else [])])
            for alias in node.names:
                # What is imported from a package may be a module of it.
                full = f"{start}.{alias.name}"
                names.add(full if full in _KNOWN else start)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return names


def _algorithms() -> list[str]:
    """The modules of each algorithm's folder, each after those of the folder that it imports."""
    found: list[str] = []
    for folder in sorted((PACKAGE / "variants").iterdir()):
        if not (folder / "__init__.py").exists():
            continue
        waiting = {_room(path): path for path in sorted(folder.glob("*.py"))}
        while waiting:
            for room, path in waiting.items():
                imported = _imports(path.read_text(), room, path.name == "__init__.py")
                if imported.isdisjoint(f"clconv.{one}" for one in waiting if one != room):
                    break
            else:
                raise AssertionError(f"a circle of imports among {', '.join(waiting)}")
            found.append(room)
            del waiting[room]
    return found


ROOMS = tuple(room for one in _ROOMS for room in (_algorithms() if one == "variants.*" else [one]))
PLACE = {f"clconv.{room}": i for i, room in enumerate(ROOMS)}
DEVICE_FREE = ROOMS[: ROOMS.index("drivers.building")]
OPTIONAL = {
    "torch": {"torch"}, "torch.warming": {"torch", "tqdm"}, "onnx": {"onnx"},
    "layers.hdf5": {"h5py"}, "files": {"safetensors"},
    "commands.benchmark_worker": {"torch", "onnx", "onnxruntime"},
    "commands.benchmark_plot": {"matplotlib"}, "commands.tune_plot": {"matplotlib"},
    "commands.tune": {"tqdm", "onnx", "google"},
}  # fmt: skip


def _prints(text: str) -> bool:
    """Whether a module prints anything."""
    return any(
        isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(ast.parse(text))
    )


@pytest.mark.parametrize(
    "text",
    [
        "import clconv.runtime",
        "import clconv.runtime as r",
        "from clconv.runtime import Runtime",
        "from clconv import errors, runtime",
        "from .runtime import Runtime",
        "from . import runtime",
        "def f():\n    from clconv import runtime",
        "class A:\n    def f(self):\n        import clconv.runtime",
        "if TYPE_CHECKING:\n    from clconv.runtime import Runtime",
        "try:\n    import clconv.runtime\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('clconv.runtime')",
    ],
)
def test_every_form_of_import_is_seen(text):
    assert "clconv.runtime" in _imports(text, "problem", False)
    inner = text.replace("from .", "from ..")
    assert "clconv.runtime" in _imports(inner, "variants.base", False)
    assert "clconv.runtime" in _imports(inner, "variants", True)


def test_imports_point_one_way():
    """No module imports one that comes after its own, in whatever form, or one that is not here;
    nothing before those that need it knows OpenCL, only render knows Mako, only settings the
    environment, only commands print, and optional packages have a module each."""
    paths = {_room(path): path for path in PACKAGE.rglob("*.py")}
    assert set(paths) - {""} == set(ROOMS), "ROOMS lists every module, in order"
    for room, path in paths.items():
        text = path.read_text()
        imported = _imports(text, room, path.name == "__init__.py")
        roots = {name.split(".")[0] for name in imported}
        assert ("mako" in roots) == (room == "render"), path
        assert ("os.environ" in text) == (room == "settings"), path
        assert room.startswith("commands.") or not _prints(text), path
        own = OPTIONAL.get(room) or OPTIONAL.get(room.partition(".")[0], set())
        assert roots & set().union(*OPTIONAL.values()) <= own, path
        if room in DEVICE_FREE:
            assert "pyopencl" not in roots, path
        if room:
            late = [name for name in imported if PLACE.get(name, -1) >= ROOMS.index(room)]
            assert not late, f"{path} imports {late}, which are not before it"
        if room.startswith("variants.") and room != "variants.base":
            home = ".".join(room.split(".")[:2])
            allowed = (f"clconv.{home}", "clconv.variants.base")
            others = [name for name in imported if name.startswith("clconv.variants")]
            strange = [name for name in others if not name.startswith(allowed)]
            assert not strange, f"{path} imports {strange}, which are another algorithm's"


def test_templates_say_what_they_compute():
    """Each kernel's template starts with its contract, and has no vendor extension."""
    for path in sorted((PACKAGE / "templates").rglob("*.mako")):
        lines = [one for one in path.read_text().splitlines() if not one.startswith("<%namespace")]
        assert lines[0].startswith("## "), path
        extensions = re.findall(r"#pragma OPENCL EXTENSION (\S+)", path.read_text())
        assert set(extensions) <= {"cl_khr_fp64"}, path
        assert "atomic" not in path.read_text(), path
