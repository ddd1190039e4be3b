"""Devices, memory, programs, threads and processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest
from conftest import working

import clconv
from clconv import (
    BuildError,
    Conv1dProblem,
    DeviceError,
    OutOfMemoryError,
    Pass,
    Runtime,
    reference,
)
from clconv import functional as F
from clconv.drivers import binaries, discovery, probe
from clconv.drivers.discovery import find, profile_of
from clconv.drivers.programs import Programs
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.variants.base import Kernel

ROOT = Path(__file__).parent.parent


def _run(code, **environment):
    """A fresh Python process: (standard output, standard error), its exit status being 0."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


# Devices


def test_devices():
    """The order of preference, one default, ids that name platform and device."""
    found = clconv.devices()
    assert [d.index for d in found] == list(range(len(found)))
    assert [d.is_default for d in found].count(True) == 1
    kinds = ["discrete GPU", "integrated GPU", "accelerator", "CPU"]
    usable = [d for d in found if d.why_not is None]
    ranks = [kinds.index(d.kind) for d in usable]
    assert ranks == sorted(ranks)
    for d in found:
        platform, device = (int(part) for part in d.id.split(":"))
        assert cl.get_platforms()[platform].get_devices()[device].name.strip() == d.name
        assert d.compute_units > 0
        assert d.global_bytes > 0


def test_order_of_preference():
    """Usable before others, kinds, a vendor's own platform before shared ones, compute units."""
    vendor, pocl, rusticl = "NVIDIA CUDA", "Portable Computing Language", "rusticl"
    in_order = [
        ("discrete GPU", vendor, 20, None),
        ("discrete GPU", vendor, 10, None),
        ("discrete GPU", rusticl, 80, None),
        ("discrete GPU", rusticl, 10, None),
        ("integrated GPU", vendor, 100, None),
        ("integrated GPU", rusticl, 100, None),
        ("accelerator", vendor, 200, None),
        ("CPU", "Intel(R) OpenCL", 4, None),
        ("CPU", pocl, 300, None),
        ("CPU", pocl, 8, None),
        ("discrete GPU", vendor, 500, "it has no compiler"),
        ("CPU", pocl, 500, "it has no compiler"),
    ]
    known = {
        "id": "0:0", "name": "a device", "vendor": "a vendor", "version": "OpenCL 3.0",
        "driver": "1.0", "global_bytes": 1 << 30, "local_bytes": 1 << 15,
        "max_work_group_size": 256, "fp16": False, "fp64": False,
    }  # fmt: skip
    names = ("kind", "platform", "compute_units", "why_not")
    devices = [known | dict(zip(names, one, strict=True)) for one in in_order]
    for mixed in (devices[::-1], devices[::2] + devices[1::2]):
        assert sorted(mixed, key=discovery._rank) == devices


def test_choosing(runtime):
    """Index, id, part of a name, and pyopencl's own objects mean the same device."""
    info = runtime.info
    device = runtime.device
    for wanted in (info.index, str(info.index), info.id, device, runtime.context):
        assert Runtime(wanted).device == device
    part = info.name[3:].upper()
    assert part.lower() in Runtime(part).info.name.lower()
    for wanted, words in (
        (99, "device is 99, expected an index of: 0 = "),
        ("9:9", "device is '9:9', which matches none of: 0 = "),
        ("no such card", "device is 'no such card', which matches none of"),
        ("", "device is '', which matches none of"),
        (1.5, "device is 1.5, expected None, an index"),
    ):
        with pytest.raises(DeviceError, match=words):
            Runtime(wanted)
    for option in ({"workspace_limit": -1}, {"program_cache_size": 0}):
        with pytest.raises(DeviceError, match=next(iter(option))):
            Runtime(device, **option)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity")
    or not any("portable" in d.info.platform.lower() for d in working()),
    reason="no PoCL, or a system where it pins no threads",
)
@pytest.mark.parametrize("value", [None, "0"])
@pytest.mark.parametrize("restricted", [False, True])
def test_cpu_workers_apart(value, restricted):
    """PoCL's threads have a core each, unless the user or the process's own cores say otherwise."""
    code = """
import os, clconv
if RESTRICTED: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
cores = os.sched_getaffinity(0)
others = set(os.listdir("/proc/self/task"))
for one in clconv.drivers.discovery.find():
    if "portable" in one.info.platform.lower() and not clconv.drivers.discovery.check(one.device):
        clconv.Runtime(one.device).zeros((1, 1, 8)).get()
mine = [os.sched_getaffinity(int(t)) for t in set(os.listdir("/proc/self/task")) - others]
apart = {min(c) for c in mine if len(c) == 1 < len(cores)}
print(len(mine) > 0, apart == cores, all(c == cores for c in mine))
""".replace("RESTRICTED", str(restricted))  # fmt: skip
    before = {k: v for k, v in os.environ.items() if k != "POCL_AFFINITY"}
    if value is not None:
        before["POCL_AFFINITY"] = value
    printed = subprocess.run(
        [sys.executable, "-c", code], env=before, capture_output=True, text=True, check=True
    ).stdout.split()
    alone = restricted or len(os.sched_getaffinity(0)) == 1
    apart = value is None and not alone and len(os.sched_getaffinity(0)) == os.cpu_count()
    assert printed == ["True", str(apart), str(not apart)]


@pytest.mark.parametrize("variable", ["CLCONV_DEVICE", "PYOPENCL_CTX"])
def test_environment(variable):
    """The variables choose the default device, clconv's before pyopencl's."""
    last = working()[-1]
    code = "import clconv; r = clconv.default_runtime(); print(r.info.id)"
    assert _run(code, **{variable: last.info.id})[0] == last.info.id
    code = "import clconv\ntry: clconv.default_runtime()\nexcept clconv.DeviceError as e: print(e)"
    if variable == "CLCONV_DEVICE":
        printed = _run(code, CLCONV_DEVICE="no such card", PYOPENCL_CTX=last.info.id)[0]
        assert "'no such card', which matches none of: 0 = " in printed
    else:
        assert "PYOPENCL_CTX is '9:9', which names no device" in _run(code, PYOPENCL_CTX="9:9")[0]


def test_no_platform(tmp_path):
    """Without OpenCL: an empty list, and an error that says what to install."""
    code = """
import clconv
print(clconv.devices())
try:
    clconv.functional.conv1d(*[__import__("numpy").ones((1, 1, 4), "f")] * 2)
except clconv.DeviceError as error:
    print(error)
"""
    printed, _ = _run(code, OCL_ICD_VENDORS=str(tmp_path / "none"))
    assert printed.startswith("[]\nno OpenCL platform found")
    assert 'pip install "clconv[pocl]"' in printed


def test_importing_is_light():
    """`import clconv` starts no OpenCL and imports nothing optional."""
    code = """
import sys, clconv, clconv.drivers.discovery
optional = ("torch", "onnx", "h5py", "safetensors", "scipy", "matplotlib")
print([m for m in optional if m in sys.modules])
print(clconv.drivers.discovery._started_in)
"""
    assert _run(code)[0].split("\n") == ["[]", "None"]


def test_profile_of_a_device(runtime):
    """The planner's numbers are the driver's."""
    profile = profile_of(runtime.device)
    assert profile.compute_units == runtime.device.max_compute_units
    assert profile.max_work_group_size == runtime.device.max_work_group_size
    assert profile.fp64 == runtime.info.fp64


def test_vectors_are_those_that_the_compiler_makes(each_cpu):
    """No vector is wider than the registers that the driver's own compiler knows of, whatever the
    processor has: a wider one is slow, and PoCL's built-in functions take it for another type."""
    source = """
        #ifdef __AVX512F__
        __kernel void wide(void) {}
        #else
        __kernel void narrow(void) {}
        #endif
    """
    made = cl.Program(each_cpu.context, source).build(cache_dir=False).kernel_names
    if each_cpu.info.platform.startswith("Portable") and made == "narrow":
        assert each_cpu.profile.vector_floats <= 8
    else:
        assert each_cpu.profile.vector_floats == min(16, each_cpu.device.native_vector_width_float)


def test_wide_vectors_are_asked_for_where_they_run(runtime, monkeypatch, tmp_path):
    """What functions ask for is what the processor has, what the driver's compiler does not take
    by itself, and what gives right results."""
    target = runtime.profile.instruction_sets
    if not target:
        assert runtime.profile.asking() == runtime.profile
        pytest.skip(f"{runtime.info.name} has nothing to ask for")
    assert runtime.profile.vector_floats == 8
    all_of_them = " ".join(probe.WIDE_TARGET)
    assert set(probe.WIDE_TARGET) <= set(Path("/proc/cpuinfo").read_text().split())
    for text, expected in (
        (f"model name\t: x\nflags\t\t: fpu {all_of_them} vme\n", target),
        ("model name\t: x\n", ""),
        (f"flags\t\t: fpu {all_of_them.removeprefix('avx512f ')}\nbugs\t\t: avx512f\n", ""),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(probe, "CPU_INFO", tmp_path / "cpuinfo")
        assert probe._wide_target(runtime.context, runtime.device) == expected
    monkeypatch.setattr(probe, "CPU_INFO", tmp_path / "none")
    assert probe._wide_target(runtime.context, runtime.device) == ""
    monkeypatch.undo()
    for wrong in (probe.WIDE_SOURCE.replace("v * v", "v"), "__kernel void squares(%s x) {}"):
        monkeypatch.setattr(probe, "WIDE_SOURCE", wrong)
        assert probe._wide_target(runtime.context, runtime.device) == ""


def test_cache_sizes_of_the_system(runtime, monkeypatch, tmp_path):
    """A CPU's caches are read from the system; what cannot be read is as usual for its cores."""
    for index, fields in enumerate((("1", "Data", "48K"), ("1", "Instruction", "64K"),
                                    ("2", "Unified", "plenty"))):  # fmt: skip
        (tmp_path / f"index{index}").mkdir()
        for name, text in zip(("level", "type", "size"), fields, strict=True):
            (tmp_path / f"index{index}" / name).write_text(text + "\n")
    monkeypatch.setattr(discovery, "CPU_CACHES", tmp_path)
    profile, usual = profile_of(runtime.device), PROFILES[discovery._processor()]
    assert (profile.l1_bytes, profile.l2_bytes) == (48 << 10, usual.l2_bytes)


def test_a_profile_to_plan_for(runtime, rng):
    """By name or as it is, within the limits of the device, which runs what is planned."""
    own = runtime.profile
    problem = Conv1dProblem(2, 64, 70, 64, 3)
    other = Runtime(runtime.device, profile="gfx1030")
    assert isinstance(other.profile, DeviceProfile)
    assert (other.profile.name, other.profile.vector_floats) == ("gfx1030", 1)
    assert other.profile.max_alloc_bytes <= own.max_alloc_bytes
    assert other.profile == Runtime(runtime.device, profile=PROFILES["gfx1030"]).profile
    assert clconv.plan(problem, "forward", other).variant == "gemm"
    x, weight = (rng.integers(-4, 5, shape).astype("f")
                 for shape in (problem.input_shape, problem.weight_shape))  # fmt: skip
    with other:
        y = F.conv1d(other.to_device(x), other.to_device(weight)).get()
    assert np.array_equal(y, reference.conv1d(problem, x, weight))
    other.profile = own
    assert clconv.plan(problem, "forward", other) == clconv.plan(problem, "forward", runtime)
    with pytest.raises(DeviceError, match="no device profile 'gfx9000', expected one of cpu"):
        Runtime(runtime.device, profile="gfx9000")
    with pytest.raises(DeviceError, match="profile is 3, expected a DeviceProfile or the name"):
        Runtime(runtime.device, profile=3)


# Memory


def test_memory(runtime):
    plain = Runtime(runtime.device)
    array = plain.to_device(np.arange(1000, dtype=np.float32))
    used = plain.memory_info()
    assert used["in_use"] >= 4000
    assert np.array_equal(array.get(), np.arange(1000))
    assert not plain.zeros((3, 5), np.float16).get().any()
    assert plain.empty(7).shape == (7,)
    assert plain.zeros((0, 3)).get().shape == (0, 3)
    del array
    assert plain.memory_info()["held"] >= 4000
    plain.trim()
    assert plain.memory_info()["held"] == 0
    with pytest.raises(
        OutOfMemoryError, match=r"4000000000000 bytes asked for; .* at most"
    ) as info:
        plain.empty(10**12)
    assert isinstance(info.value, MemoryError)
    assert isinstance(info.value, DeviceError)


def test_filling_a_part(runtime):
    """An array in the midst of a buffer, and nothing beside it."""
    whole = runtime.zeros((3, 4))
    runtime.fill(whole[1], 7)
    assert np.array_equal(whole.get(), np.outer([0, 7, 0], np.ones(4)))


def test_the_pool_reuses(runtime, rng):
    """A loop of calls allocates no more after its first rounds."""
    plain = Runtime(runtime.device)
    x = plain.to_device(rng.standard_normal((2, 4, 500)).astype(np.float32))
    weight = plain.to_device(rng.standard_normal((4, 4, 3)).astype(np.float32))
    for _ in range(3):
        F.conv1d_backward(x, weight, F.conv1d(x, weight))
    before = plain.memory_info()
    for _ in range(20):
        F.conv1d_backward(x, weight, F.conv1d(x, weight))
    after = plain.memory_info()
    assert after == before


def test_one_thread_at_a_time_in_the_pool(runtime):
    """The pool is not safe for threads: whoever comes meanwhile, to allocate or to trim, waits."""

    class SlowPool:
        """A pool in which the first thread waits a little for another to come in too."""

        def __init__(self, pool):
            self._pool = pool
            self._second = threading.Event()
            self.inside = self.most = 0

        def _slowly(self, act):
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside > 1:
                self._second.set()
            self._second.wait(0.1)
            try:
                return act()
            finally:
                self.inside -= 1

        def __call__(self, nbytes):
            return self._slowly(lambda: self._pool(nbytes))

        def free_held(self):
            self._slowly(self._pool.free_held)

        def __getattr__(self, name):
            return getattr(self._pool, name)

    def most_inside(act):
        """Threads in the pool at once while one allocates and another acts."""
        plain = Runtime(runtime.device)
        plain.empty(10)
        plain.memory.pool = pool = SlowPool(plain.memory.pool)
        acts = (lambda: plain.empty(10), lambda: act(plain))
        threads = [threading.Thread(target=one, daemon=True) for one in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return pool.most

    assert most_inside(lambda plain: plain.empty(20)) == 1
    assert most_inside(lambda plain: plain.trim()) == 1


# Programs


def _pocl_files(folder):
    return {p for p in Path(folder).rglob("*") if p.is_file()}


def test_batch_length_and_padding_compile_nothing(tmp_path):
    """A second batch size, length and padding build no program, here or in the driver."""
    code = """
import os, pathlib, numpy as np, clconv
from clconv import functional as F
runtime = clconv.default_runtime()
def call(n, length, pad):
    x = np.ones((n, 4, length), "f")
    weight = np.ones((6, 2, 3), "f")
    y = F.conv1d(x, weight, None, 2, pad, 2, 2)
    F.conv1d_backward(x, weight, y, 2, pad, 2, 2)
def files():
    return {str(p) for p in pathlib.Path(os.environ["POCL_CACHE_DIR"]).rglob("*") if p.is_file()}
call(2, 50, 1)
programs, kept = len(runtime.programs), files()
for n, length, pad in ((1, 50, 1), (2, 900, 1), (2, 50, (0, 7)), (9, 5, (3, 40)), (70, 3000, 0)):
    call(n, length, pad)
new = {f for f in files() - kept}
print(programs, len(runtime.programs), len(new), sorted(new)[:3])
"""
    for one in find():
        if one.info.why_not is None:
            folder = tmp_path / one.info.id.replace(":", "_")
            folder.mkdir()
            printed, _ = _run(code, POCL_CACHE_DIR=str(folder), CLCONV_DEVICE=one.info.id)
            programs, later, new = printed.split()[:3]
            assert (programs, later, new) == ("5", "5", "0"), printed


def test_kernels_that_only_other_sizes_need_are_built(runtime):
    """With the others of their plan: a single share needs nobody to add shares."""
    single = Runtime(runtime.device, workspace_limit=0)
    plan = single.plans(Conv1dProblem(2, 3, 40, 4, 3), Pass.WEIGHT_GRADIENT)[0]
    assert len(plan.launches) < len(plan.kernels)
    single.prepare([plan])
    assert len(single.programs) == len(plan.kernels)


def test_program_cache_is_bounded(runtime):
    """The least recently used program goes; its kernels still work when they come back."""
    small = Runtime(runtime.device, program_cache_size=2)
    x = small.to_device(np.ones((1, 1, 20), np.float32))
    for _ in range(2):
        for size in (2, 3, 4):
            weight = small.to_device(np.ones((1, 1, size), np.float32))
            assert (F.conv1d(x, weight, runtime=small).get() == size).all()
            assert len(small.programs) <= 2
            assert len(small.programs._threads.kernels) <= 2


def test_work_groups_larger_than_the_device_takes(runtime):
    """A kernel of them is refused before it is queued, by the compiler or by us."""
    plan = runtime.plans(Conv1dProblem(1, 2, 30, 4, 3), Pass.FORWARD, variant="direct")[0]
    large = replace(plan.kernels[0], local_size=(2 * runtime.info.max_work_group_size, 1, 1))
    with pytest.raises(BuildError, match="kernel forward_direct does not build on"):
        runtime.prepare([replace(plan, design=replace(plan.design, kernels=(large,)))])


def test_what_was_used_stays():
    """The entry that goes is the one that was not asked for longest, not the oldest."""
    kept = clconv.bounded.Bounded(2)
    for key in ("a", "b"):
        kept.set_default(key, key.upper())
    assert kept.get("a") == "A"
    assert kept.set_default("c", "C") == "C"
    assert [kept.get(key) for key in ("a", "b", "c")] == ["A", None, "C"]


def _broken(name="broken", body="this is no C;"):
    return Kernel(name, (("dtype", "float32"), ("lanes", 1), ("body", body)), (), (), (1, 1, 1))


def test_build_error(runtime, monkeypatch, caplog):
    """A refused kernel: BuildError with its name, the device and the log; with "auto" the next
    plan, with a warning, and no second try of the refused one."""
    plain = Runtime(runtime.device)
    problem = Conv1dProblem(1, 2, 30, 4, 3)
    real = clconv.runtime.render
    refused = plain.plans(problem, Pass.FORWARD)[0]
    text = real(refused.kernels[0])

    def faulty(one):
        source = real(one)
        if source == text:
            return source + "\nthis is no C;"
        return source

    monkeypatch.setattr(clconv.runtime, "render", faulty)
    x, weight = np.ones((1, 2, 30), np.float32), np.ones((4, 2, 3), np.float32)
    with caplog.at_level(logging.WARNING, "clconv"):
        y = F.conv1d(x, weight, runtime=plain)
    assert np.array_equal(y, reference.conv1d(problem, x, weight))
    assert f"refuses {refused.variant}" in caplog.text
    assert f", trying {plain.plans(problem, Pass.FORWARD)[1].variant}" in caplog.text
    kernel = refused.kernels[0].name
    with pytest.raises(BuildError, match=f"kernel {kernel} does not build on") as info:
        plain.prepare([refused])
    assert info.value.kernel == kernel
    assert info.value.device == plain.info.name
    assert "error" in info.value.log.lower()
    monkeypatch.setattr(plain.programs, "_compile", None)  # whatever compiled now would fail
    assert np.array_equal(F.conv1d(x, weight, runtime=plain), y)
    assert caplog.text.count(f"refuses {refused.variant}") == 1
    with pytest.raises(BuildError, match=f"kernel {kernel} does not build on"):
        plain.prepare([refused])


def test_binary_cache(tmp_path, monkeypatch, caplog):
    """A binary comes back as it was; what is damaged, foreign or unreadable is a miss."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    name = binaries.key("source", "options")
    assert name == binaries.key("source", "options") != binaries.key("sourceopt", "ions")
    assert binaries.load(name) is None
    binaries.store(name, b"machine code")
    assert binaries.load(name) == b"machine code"
    path = tmp_path / "binaries" / name
    whole = path.read_bytes()
    with caplog.at_level(logging.WARNING, "clconv"):
        for content in (whole[:-1], whole[:10], b"", b"\x80\x04pickled", whole + b"x"):
            path.write_bytes(content)
            assert binaries.load(name) is None
        assert str(path) in caplog.text
        blocked = tmp_path / "file"
        blocked.write_text("no folder")
        monkeypatch.setenv("CLCONV_CACHE_DIR", str(blocked))
        binaries.store(name, b"machine code")
        assert "keeps no binaries" in caplog.text
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(binaries, "FILES_KEPT", 3)
    path.unlink()
    names = [binaries.key(str(i)) for i in range(6)]
    for i, name in enumerate(names):
        binaries.store(name, b"code")
        os.utime(tmp_path / "binaries" / name, (i + 1, i + 1))
    assert {path.name for path in (tmp_path / "binaries").iterdir()} == set(names[-3:])


def test_kept_binaries_are_used(runtime, tmp_path, monkeypatch, caplog):
    """Where the driver keeps none, a second runtime builds from our file, and survives its loss."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    x, weight = np.ones((1, 1, 20), np.float32), np.ones((1, 1, 3), np.float32)
    compiled = []
    real = Programs._compile

    def counting(self, kernel, source):
        compiled.append(kernel.name)
        return real(self, kernel, source)

    monkeypatch.setattr(Programs, "_compile", counting)

    def use(**identity):
        fresh = Runtime(runtime.device)
        fresh.programs.keeps_binaries = True
        vars(fresh.programs).update(identity)
        assert (F.conv1d(x, weight, variant="direct", runtime=fresh) == 3).all()

    use()
    assert compiled == ["forward_direct"]
    use()
    assert compiled == ["forward_direct"]
    (file,) = (tmp_path / "binaries").iterdir()
    use(identity=("another driver",))
    assert compiled.pop() == "forward_direct"
    assert len(compiled) == 1
    file.write_bytes(file.read_bytes()[:-5])
    use()
    assert compiled == ["forward_direct"] * 2
    binaries.store(file.name, b"\x7fELF, but not what the driver takes")
    with caplog.at_level(logging.WARNING, "clconv"):
        use()
    assert compiled == ["forward_direct"] * 3
    assert "refuses a kept binary" in caplog.text


@pytest.mark.parametrize("place", [0, 1])
def test_binary_in_a_context_of_several_devices(runtime, place, tmp_path, monkeypatch):
    """What is kept was built for the runtime's own device, wherever that stands in its context."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    try:
        parts = runtime.device.create_sub_devices([cl.device_partition_property.EQUALLY, 1])
    except cl.Error as error:
        pytest.skip(f"{runtime.info.name} has no parts: {error}")
    if len(parts) < 2:
        pytest.skip(f"{runtime.info.name} has one part")
    _keeps_one_binary(cl.Context(parts), parts[place], monkeypatch)


def _keeps_one_binary(context, device, monkeypatch):
    compiled = []
    real = Programs._compile

    def counting(self, kernel, source):
        compiled.append(kernel.name)
        return real(self, kernel, source)

    monkeypatch.setattr(Programs, "_compile", counting)
    x, weight = np.ones((1, 1, 20), np.float32), np.ones((1, 1, 3), np.float32)
    for _ in range(2):
        fresh = Runtime(cl.CommandQueue(context, device))
        fresh.programs.keeps_binaries = True
        assert (F.conv1d(x, weight, variant="direct", runtime=fresh) == 3).all()
    assert compiled == ["forward_direct"]


TWO_DEVICES = """
import pyopencl as cl
import pytest
import test_runtime
platforms = [one for one in cl.get_platforms() if one.version == {version!r}]
devices = platforms[0].get_devices()
assert len(devices) == 2, devices
with pytest.MonkeyPatch.context() as patch:
    test_runtime._keeps_one_binary(cl.Context(devices), devices[{place}], patch)
"""


@pytest.mark.parametrize("place", [0, 1])
def test_binary_of_two_kinds_of_devices(runtime, place, tmp_path):
    """PoCL's two kinds of device in one context, in a process that asks for them. Its platforms may
    have another order."""
    if not runtime.info.platform.startswith("Portable"):
        pytest.skip(f"{runtime.info.platform} has one kind of device")
    _run(
        TWO_DEVICES.format(version=runtime.device.platform.version, place=place),
        POCL_DEVICES="pthread basic",
        CLCONV_CACHE_DIR=str(tmp_path),
        PYTHONPATH=f"{ROOT / 'tests'}{os.pathsep}{ROOT}",
    )


IMPORT_ALONE = """
import warnings
before = list(warnings.filters)
import clconv
import clconv.files, clconv.onnx, clconv.streaming, clconv.tuning
assert warnings.filters == before, [f for f in warnings.filters if f not in before]
"""


def test_import_changes_no_filter_of_warnings():
    # pyopencl and onnx are imported first: what they do is their own affair.
    _run("import onnx, onnx.reference, pyopencl, pyopencl.array, pyopencl.tools\n" + IMPORT_ALONE)


CHATTY = """
import warnings
warnings.simplefilter("error")
import pyopencl as cl
from clconv import Runtime
from clconv.drivers.building import binary_of, program_of_binary, program_of_source
runtime = Runtime(%r)
text = "#warning talk\\n__kernel void f(__global float *a) { a[0] = 1; }\\n"
program = program_of_source(runtime.context, text).build(devices=[runtime.device])
assert cl.Kernel(program, "f")
again = program_of_binary(runtime.context, runtime.device, binary_of(program)).build()
assert cl.Kernel(again, "f")
try:
    program_of_source(runtime.context, "nonsense;").build(devices=[runtime.device], cache_dir=False)
except cl.Error as error:
    assert "nonsense" in str(error) or "error" in str(error).lower(), error
else:
    raise AssertionError("no error")
"""


def test_what_compilers_say_is_no_warning(runtime):
    """Every warning is an error here; the words of a failed build belong to the error."""
    _run(CHATTY % runtime.info.id)


def test_plans_belong_to_the_caller(runtime):
    """Whoever changes the list changes nothing that is kept."""
    problem = Conv1dProblem(1, 2, 9, 3, 3)
    first = runtime.plans(problem, Pass.FORWARD)
    kept = list(first)
    first.clear()
    assert runtime.plans(problem, Pass.FORWARD) == kept


# Threads and processes


def test_default_runtime_of_a_thread(runtime):
    """`with runtime:` holds in its block and thread alone."""
    inner = Runtime(runtime.device)
    assert clconv.default_runtime() is runtime
    elsewhere = []
    with inner:
        assert clconv.default_runtime() is inner
        thread = threading.Thread(
            target=lambda: elsewhere.append(clconv.default_runtime()), daemon=True
        )
        thread.start()
        thread.join(60)
    assert clconv.default_runtime() is runtime
    assert elsewhere[0] is not inner
    assert elsewhere[0] is not runtime


def test_runtime_of_arrays(runtime):
    """Of several runtimes on the arrays' context the one that was entered last."""
    first, second = Runtime(runtime.context), Runtime(runtime.context)
    x, weight = (first.to_device(np.ones((1, 1, n), np.float32)) for n in (9, 3))
    for inner, outer in ((first, second), (second, first)):
        before = inner.launches, outer.launches
        with outer, inner:
            F.conv1d(x, weight)
        assert (inner.launches, outer.launches) == (before[0] + 1, before[1])


def test_threads(runtime, rng):
    """Six threads on one runtime, the same kernels with different arguments: all right."""
    plain = Runtime(runtime.device)
    weight = rng.integers(-4, 5, (4, 3, 3)).astype(np.float32)
    faults = []

    def work(seed):
        try:
            own = np.random.default_rng(seed)
            for _ in range(15):
                problem = Conv1dProblem(int(own.integers(1, 4)), 3, int(own.integers(3, 99)), 4, 3)
                x = own.integers(-4, 5, problem.input_shape).astype(np.float32)
                y = F.conv1d(x, weight, runtime=plain)
                gx, gw, _ = F.conv1d_backward(x, weight, y, runtime=plain)
                assert np.array_equal(y, reference.conv1d(problem, x, weight))
                assert np.array_equal(gx, reference.input_gradient(problem, weight, y))
                assert np.array_equal(gw, reference.weight_gradient(problem, x, y))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not faults


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child():
    """A forked child gets an error that says what to do, and ends."""
    code = """
import os, sys, numpy as np, clconv
x, w = np.ones((1, 1, 9), "f"), np.ones((1, 1, 3), "f")
clconv.functional.conv1d(x, w)
layer = clconv.Conv1D(1, 1, 3)
data = clconv.gpuarray.to_gpu(x)
child = os.fork()
if child == 0:
    calls = (lambda: clconv.functional.conv1d(x, w), lambda: clconv.Runtime(), clconv.devices,
             lambda: layer(data), lambda: clconv.gpuarray.zeros(3), clconv.default_runtime)
    wrong = 0
    for call in calls:
        try:
            call()
            wrong += 1
        except clconv.DeviceError as error:
            wrong += "forked child" not in str(error) or "spawn" not in str(error)
    os._exit(wrong)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert _run(code)[0] == "0"


def test_list_devices():
    """The command prints a table, JSON, and what --check found."""
    tool = [sys.executable, str(ROOT / "tools" / "list_devices.py")]
    table = subprocess.run(tool, capture_output=True, text=True, check=True, timeout=120).stdout
    for info in clconv.devices():
        assert info.id in table
    done = subprocess.run(
        [*tool, "--json", "--check"], capture_output=True, text=True, check=True, timeout=280
    )
    listed = json.loads(done.stdout)
    assert [one["id"] for one in listed] == [one.id for one in clconv.devices()]
    assert all(one["check"] == "ok" for one in listed if one["why_not"] is None)
