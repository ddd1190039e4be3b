"""Faults, load and bad input: nothing is lost, nothing hangs. docs/reliability.md says what is
promised; tools/check/stress.py has the long runs."""

from __future__ import annotations

import ast
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array
import pytest
import stress
from conftest import working
from problems import PROBLEMS

import clconv
from clconv import (
    BuildError,
    Conv1dProblem,
    DeviceError,
    OutOfMemoryError,
    Pad1D,
    Pass,
    ProblemError,
    Runtime,
    gpuarray,
    reference,
    testing,
)
from clconv import functional as F
from clconv.commands import devices
from clconv.drivers import binaries
from clconv.drivers.discovery import choose, info_of
from clconv.drivers.programs import Programs
from clconv.planning import planner
from clconv.variants import VARIANTS
from clconv.variants.base import Kernel
from clconv.variants.gemm import convolution

ROOT = Path(__file__).parent.parent
NAMES = [variant.NAME for variant in VARIANTS]
# What a process does in these tests: small convolutions of some kernel sizes, checked.
SMALL_CALL = """
import numpy as np, clconv, clconv.runtime
from clconv import functional as F, reference
clconv.drivers.programs.DRIVERS_WITH_CACHE = ()  # binaries of every driver are kept
x = np.random.default_rng(0).integers(-4, 5, (2, 3, 40)).astype("f")
def small_call(*sizes):
    for size in sizes or (3,):
        problem = clconv.Conv1dProblem(2, 3, 40, 4, size)
        w = np.full((4, 3, size), 2, "f")
        y = F.conv1d(x, w, variant="direct")
        assert np.array_equal(y, reference.conv1d(problem, x, w))
"""


def start(code, arguments=(), **environment):
    """A Python process that runs this; None takes a variable away."""
    merged = {**os.environ, **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={name: v for name, v in merged.items() if v is not None},
        start_new_session=True,
    )  # fmt: skip


def finished(process, seconds=60):
    """(standard output, standard error) of a process that must end well in time."""
    with process:  # pipes are closed and it is waited for, whatever happens
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:  # its time, the test's, or Ctrl-C, which it does not get itself
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)  # forked children hold the pipes, too
            else:
                process.kill()
            raise
    assert process.returncode == 0, err
    return out.strip(), err


@pytest.fixture
def plain(runtime):
    """A runtime of its own with a pool, so that what it keeps can be counted."""
    with Runtime(runtime.device) as own:
        yield own


@pytest.fixture(scope="module")
def device():
    """The default device, for tests of what all devices share."""
    return info_of(choose())


@pytest.fixture
def folders(tmp_path, device):
    """The environment of a process that finds nothing built."""
    for name in ("pocl", "clconv"):
        (tmp_path / name).mkdir()
    return {
        "POCL_CACHE_DIR": str(tmp_path / "pocl"),
        "CLCONV_CACHE_DIR": str(tmp_path / "clconv"),
        "CLCONV_DEVICE": device.id,
    }


# Threads


@pytest.mark.parametrize("runtimes", [1, 3])
def test_threads_of_mixed_calls(runtime, runtimes):
    """8 threads, functions, layers and views of all passes, on one runtime and on several."""
    many = [Runtime(runtime.device) for _ in range(runtimes)]
    calls = [stress.Calls(many[i % runtimes], seed=i, longest=60) for i in range(8)]
    faults = stress.in_threads(calls, 12, patience=120)
    assert not faults, faults[0]


def test_no_lock_over_a_compile(plain, rng, monkeypatch):
    """While one thread compiles, others allocate, plan, compile and compute."""
    problem = PROBLEMS["depthwise"]
    x = rng.integers(-4, 5, problem.input_shape).astype("f")
    weight = rng.integers(-4, 5, problem.weight_shape).astype("f")
    compiling, go_on, results = threading.Event(), threading.Event(), []
    real = Programs._compile

    def slow(self, launch, source):
        if threading.current_thread() is thread:
            compiling.set()
            assert go_on.wait(60)
        return real(self, launch, source)

    def work():
        results.append(F.conv1d(x, weight, None, 1, 2, 1, 9, runtime=plain))

    monkeypatch.setattr(Programs, "_compile", slow)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert compiling.wait(60)
    try:
        for size in (2, 3):
            y = F.conv1d(x, np.ones((1, 9, size), "f"), runtime=plain)
            whole = Conv1dProblem(*problem.input_shape, 1, size)
            assert np.array_equal(y, reference.conv1d(whole, x, np.ones((1, 9, size))))
        plain.trim()
        plain.finish()
        assert not results
    finally:
        go_on.set()
        thread.join(60)
    assert np.array_equal(results[0], reference.conv1d(problem, x, weight))


def test_no_lock_over_a_wait(plain, rng):
    """While one thread waits for its result, others queue."""
    x = rng.integers(-4, 5, (1, 2, 30)).astype("f")
    weight = rng.integers(-4, 5, (3, 2, 3)).astype("f")
    expected = reference.conv1d(Conv1dProblem(1, 2, 30, 3, 3), x, weight)
    on_device = plain.to_device(x), plain.to_device(weight)
    F.conv1d(*on_device)  # so that nothing is built below
    foreign = cl_array.to_device(cl.CommandQueue(plain.context, plain.device), x)
    gate = cl.UserEvent(plain.context)
    foreign.add_event(gate)
    results = []
    try:
        waiting = F.conv1d(foreign, on_device[1])
        thread = threading.Thread(target=lambda: results.append(waiting.get()), daemon=True)
        thread.start()
        time.sleep(0.05)
        later = [F.conv1d(*on_device) for _ in range(5)]
        assert thread.is_alive()
        assert not results
    finally:
        gate.set_status(cl.command_execution_status.COMPLETE)
    thread.join(60)
    for y in (*results, *(y.get() for y in later)):
        assert np.array_equal(y, expected)


def test_no_lock_over_an_enqueue(plain, rng, monkeypatch):
    """While one thread is about to queue a kernel, others compute, with the same kernel too."""
    x = rng.integers(-4, 5, (1, 2, 30)).astype("f")
    weights = [rng.integers(-4, 5, (3, 2, size)).astype("f") for size in (3, 3, 4)]
    expected = [reference.conv1d(Conv1dProblem(1, 2, 30, 3, w.shape[2]), x, w) for w in weights]
    queueing, go_on, results = threading.Event(), threading.Event(), []
    real = cl.enqueue_nd_range_kernel

    def slow(*args):
        if threading.current_thread() is thread:
            queueing.set()
            assert go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", slow)
    thread = threading.Thread(
        target=lambda: results.append(F.conv1d(x, weights[0], runtime=plain)), daemon=True
    )
    thread.start()
    assert queueing.wait(60)
    try:
        for weight, right in zip(weights[1:], expected[1:], strict=True):
            assert np.array_equal(F.conv1d(x, weight, runtime=plain), right)
        plain.trim()
        plain.finish()
        assert not results
    finally:
        go_on.set()
        thread.join(60)
    assert np.array_equal(results[0], expected[0])


def test_arrays_of_other_queues_in_threads(plain, rng):
    """Threads whose arrays come from queues of their own: kept until used, each result right."""
    weight = rng.integers(-4, 5, (3, 2, 3)).astype("f")
    problem = Conv1dProblem(1, 2, 50, 3, 3)
    faults = []

    def work(seed):
        try:
            own = np.random.default_rng(seed)
            queue = cl.CommandQueue(plain.context, plain.device)
            for _ in range(40):
                x = own.integers(-4, 5, problem.input_shape).astype("f")
                y = F.conv1d(cl_array.to_device(queue, x), plain.to_device(weight), runtime=plain)
                assert np.array_equal(y.get(), reference.conv1d(problem, x, weight))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    assert not faults, faults[0]
    plain.finish()
    assert not plain._foreign


# Processes


def test_processes_on_an_empty_cache(folders):
    """8 processes that start together and build the same programs: each is right, and leaves whole
    binaries behind."""
    processes = [start(SMALL_CALL + "small_call()\nprint('right')", **folders) for _ in range(8)]
    # Generous: on two busy cores they take most of a minute.
    assert [finished(process, 240)[0] for process in processes] == ["right"] * 8
    (kept,) = (Path(folders["CLCONV_CACHE_DIR"]) / "binaries").iterdir()
    assert kept.read_bytes().startswith(binaries.MAGIC)
    assert finished(start(SMALL_CALL + "small_call()", **folders))[1] == ""


@pytest.mark.parametrize("moment", ["compile", "store"])
def test_killed_while_building(folders, moment):
    """Killed in the middle of a compile, or of writing a binary, a process harms no later one."""
    dying = {
        "compile": """
real = clconv.drivers.programs.Programs._compile
def slow(self, launch, source):
    print("now", flush=True)
    return real(self, launch, source)
clconv.drivers.programs.Programs._compile = slow
""",
        "store": """
import os, clconv.drivers.binaries, time
def stuck(*_):
    print("now", flush=True)
    time.sleep(600)
os.replace = stuck
""",
    }
    process = start(SMALL_CALL + dying[moment] + "small_call()", **folders)
    try:
        assert process.stdout.readline() == "now\n"
        time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    begun = time.monotonic()
    assert "warning" not in finished(start(SMALL_CALL + "small_call()", **folders))[1].lower()
    assert time.monotonic() - begun < 60  # and nobody waits for a lock that the dead one left


def test_damaged_binaries(folders, monkeypatch):
    """A file that is truncated, foreign or another driver's shows in a warning, not in a result."""
    code = SMALL_CALL + "small_call(2, 3, 4)\nprint('right')"
    finished(start(code, **folders))
    truncated, foreign, others = files = list(
        (Path(folders["CLCONV_CACHE_DIR"]) / "binaries").iterdir()
    )
    whole = [path.read_bytes() for path in files]
    truncated.write_bytes(whole[0][: len(whole[0]) // 2])
    foreign.write_bytes(b"\x80\x04\x95 not one of ours")
    monkeypatch.setenv("CLCONV_CACHE_DIR", folders["CLCONV_CACHE_DIR"])
    binaries.store(others.name, b"\x7fELF of another driver")
    printed, warnings = finished(start(code, **folders))
    assert printed == "right"
    for path in (truncated, foreign):
        assert f"{path} is damaged or of another version, building anew" in warnings
    assert warnings.count("refuses a kept binary, building anew") == 1
    assert finished(start(code, **folders)) == ("right", "")


def test_nowhere_to_write(folders, tmp_path):
    """A cache folder that is a file, one that cannot be made, a HOME that is not there: right, with
    a warning where nothing can be kept."""
    code = SMALL_CALL + "small_call()\nprint('right')"
    (tmp_path / "file").write_text("")
    nowhere = {"XDG_CACHE_HOME": None, "CLCONV_CACHE_DIR": None, "HOME": "/proc/nobody"}
    for place in (
        {"CLCONV_CACHE_DIR": str(tmp_path / "file")},
        {"CLCONV_CACHE_DIR": "/proc/clconv"},
        nowhere,
    ):
        printed, warnings = finished(start(code, **folders | place))
        assert printed == "right"
        assert "keeps no binaries" in warnings
        assert ("pyopencl keeps no cache" in warnings) == ("HOME" in place)


@pytest.mark.skipif(sys.platform == "win32", reason="no list of users")
@pytest.mark.parametrize("known", [True, False])
def test_no_home(folders, tmp_path, known):
    """Without HOME the system's list of users may know a place; else nothing is kept. Nothing is
    written to the current folder."""
    code = """
import os, pwd, sys
def entry(_):
    if not sys.argv[1]: raise KeyError("no such user")
    return pwd.struct_passwd(("me", "x", 1, 1, "", sys.argv[1], ""))
pwd.getpwuid = entry
os.chdir(sys.argv[2])
"""
    home, current = tmp_path / "home", tmp_path / "current"
    home.mkdir()
    current.mkdir()
    gone = {"XDG_CACHE_HOME": None, "CLCONV_CACHE_DIR": None, "HOME": None}
    printed, warnings = finished(
        start(
            code + SMALL_CALL + "small_call()\nprint('right')",
            [str(home) if known else "", str(current)],
            **folders | gone,
        )
    )
    assert printed == "right"
    assert ("keeps no binaries" in warnings) == (not known)
    assert [path.name for path in home.rglob("binaries")] == ["binaries"] * known
    assert not list(current.iterdir())


def test_a_damaged_cache_of_the_driver(folders):
    """PoCL 3.0 builds empty programs from its own damaged files: another text is built instead."""
    found = [one.info for one in working()]
    old = [d for d in found if d.platform.startswith("Portable") and "3.0" in d.driver]
    if not old:
        pytest.skip("a test of PoCL 3.0, later ones stop the process")
    folders["CLCONV_DEVICE"] = old[0].id
    code = SMALL_CALL + "small_call()\nprint('right', flush=True)\nimport os; os._exit(0)"
    finished(start(code, **folders))
    kept = list(Path(folders["POCL_CACHE_DIR"]).rglob("program.bc"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:5000])
    shutil.rmtree(folders["CLCONV_CACHE_DIR"])
    printed, warnings = finished(start(code, **folders))
    assert printed == "right"
    assert "built forward_direct without its kernel" in warnings


def test_another_text_is_built(plain, monkeypatch, caplog, tmp_path):
    """Where a driver built a program without its kernel, once."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))  # without a binary that is kept
    real, empty = clconv.drivers.building.has_kernel, [True]
    monkeypatch.setattr(
        clconv.drivers.building,
        "has_kernel",
        lambda *program: not (empty and empty.pop()) and real(*program),
    )
    assert (F.conv1d(np.ones((1, 1, 9), "f"), np.ones((1, 1, 3), "f")) == 3).all()
    assert caplog.text.count("without its kernel") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_amid_threads(folders):
    """A child forked while threads compute and hold locks gets its errors, and ends, in 60 s."""
    code = (
        SMALL_CALL
        + """
import gc, os, threading, time, warnings
warnings.simplefilter("ignore")
layer, data = clconv.Conv1D(3, 4, 3), clconv.gpuarray.to_gpu(x)
stop = False
def work():
    size = 1
    while not stop:
        size += 1
        F.conv1d(x, np.ones((2, 3, 1 + size % 20), "f"))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
children = []
for _ in range(4):
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        wrong = 0
        for call in (small_call, lambda: layer(data), clconv.default_runtime, clconv.devices,
                     clconv.Runtime, lambda: clconv.gpuarray.to_gpu(x)):
            try:
                call()
                wrong += 1
            except clconv.DeviceError as error:
                wrong += "forked child" not in str(error)
        os._exit(wrong)
    children.append(child)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop = True
for thread in threads: thread.join()
small_call()
print(statuses)
"""
    )
    assert finished(start(code, **folders), 60)[0] == "[0, 0, 0, 0]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("driver", working(), ids=lambda one: one.info.driver)
def test_a_forked_child_that_cleans_up(folders, driver):
    """A child that frees what it inherited and ends the usual way ends, also with kernels queued
    at the fork, and what it wrote is there."""
    code = """
import ctypes, gc, os, sys, warnings
import numpy as np
import clconv
warnings.simplefilter("ignore")
layer = clconv.Conv1D(32, 32, 9)
data = clconv.gpuarray.to_gpu(np.ones((8, 32, 20000), "f"))
layer(data)
results = [layer(data) for _ in range(4)]
child = os.fork()
if child == 0:
    del layer, data, results
    gc.collect()
    ctypes.CDLL(None).printf(b"written by C, ")
    sys.exit(7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
clconv.default_runtime().finish()  # how the parent ends with kernels queued is not asked here
print(status, "of the child")
"""
    folders["CLCONV_DEVICE"] = driver.info.id
    assert finished(start(code, **folders), 90)[0] == "written by C, 7 of the child"


# Memory


def test_a_device_that_runs_out(folders, device):
    """On PoCL with 1 GB: OutOfMemoryError with the figures and nothing queued, before the machine
    is asked for more; then the next, smaller call works."""
    if not device.platform.startswith("Portable"):
        pytest.skip("only PoCL can be limited")
    code = (
        SMALL_CALL
        + """
runtime = clconv.default_runtime()
info = runtime.memory_info()
assert info["device"] == 2**30, info
part = info["largest"] // 4 * 3  # bytes
kept = []
try:
    while True: kept.append(runtime.empty(part // 4))
except clconv.OutOfMemoryError as error:
    print(len(kept) * part, error)
assert sum(a.nbytes for a in kept) <= 2**30 < sum(a.nbytes for a in kept) + part
wide = kept[0].reshape(1, 3, -1)
out = runtime.zeros((1, 3, 1))
ones = [runtime.to_device(np.ones(s, "f")) for s in ((4, 3, 3), (1, 3, 3), (1, 3, 1))]
launches = runtime.launches
for call in (lambda: F.conv1d(wide, ones[0]),
             lambda: F.conv1d(wide[:, :, ::2], ones[1], variant="direct"),  # which copies it
             lambda: F.conv1d_backward(wide, ones[2], wide[:, :1], out=(None, out, None))):
    try:
        call()
        print("fits?")
    except clconv.OutOfMemoryError:
        assert runtime.launches == launches
small_call()
del kept[1:]
before = runtime.memory_info()
assert before["held"] >= 2 * part, before
again = runtime.empty(part // 4 + 1000)  # another size: what is held goes back first
again = [again, runtime.empty(part // 4 + 1000), runtime.empty(part // 4 + 1000)]
assert runtime.memory_info()["held"] < part
small_call()
print("right")
"""
    )
    printed, _ = finished(start(code, POCL_MEMORY_LIMIT="1", **folders))
    figures, right = printed.split("\n")
    used, asked = figures.split()[:2]
    assert f"{asked} bytes asked for" in figures
    assert "allocates at most 268435456 bytes at once and 1073741824 in all" in figures
    assert f"{used} of them in use by this runtime" in figures
    assert right == "right"


def test_sizes_beyond_the_device(plain):
    """More than an allocation takes, more than 2**32 bytes, more than 64 bits count: refused before
    anything is queued."""
    launches = plain.launches
    one = plain.to_device(np.ones((1, 1, 1), "f"))
    many = plain.to_device(np.ones((512, 1, 1), "f"))
    most = plain.memory_info()["largest"]
    for call in (
        lambda: plain.empty(most // 4 + 1),
        lambda: plain.empty((3, 2**15, 2**30), np.float16),
        lambda: plain.empty((2**31, 2**31, 2**31)),
        lambda: plain.zeros((2**31, 2**31, 2**31, 2**31)),
        lambda: clconv.Conv1D(2**17, 2**17, 3),
        lambda: F.conv1d(many, many, padding=(2**30, 2**29), variant="direct"),
        lambda: F.conv_transpose1d(many, many.reshape(1, 512, 1), stride=2**20,
                                   output_padding=2**20 - 1, variant="direct"),
    ):  # fmt: skip
        with pytest.raises(OutOfMemoryError, match=r"\d+ bytes asked for; .* at most"):
            call()
    assert plain.launches == launches
    assert F.conv1d(one, one).get() == 1


def test_arrays_that_cannot_be(plain):
    """Sizes and dtypes of no array are refused by name."""
    for shape, dtype, words in (
        (-1, "f", r"shape is \(-1,\), expected sizes of at least 0"),
        ((2, -3), "f", r"shape is \(2, -3\)"),
        (1.5, "f", "shape is 1.5"),
        ("12", "f", "shape is '12'"),
        ((2, None), "f", r"shape is \(2, None\)"),
        (3, "no dtype", "dtype 'no dtype'"),
        (3, object, "dtype is object, expected numbers"),
    ):
        for make in (plain.empty, plain.zeros):
            with pytest.raises(ProblemError, match=words):
                make(shape, dtype)
    with pytest.raises(ProblemError, match="dtype is object"):
        plain.to_device(np.array([None, {}]))
    assert plain.empty((np.int64(2), 3)).shape == (2, 3)


def test_memory_is_flat(plain):
    """After some calls of changing lengths the device's memory grows no more."""
    calls = stress.Calls(plain, seed=5, longest=400)
    for _ in range(60):
        calls.one()
    before = plain.memory_info()
    for _ in range(60):
        calls.one()
    after = plain.memory_info()
    assert after["in_use"] <= before["in_use"] + 10_000
    assert after["held"] <= 2 * before["held"] + 100_000
    calls.layers.clear()
    plain.trim()
    assert plain.memory_info()["held"] == 0


def test_caches_are_bounded(plain, monkeypatch):
    """Recipes and outlines that the limit pushes out are made again, and right."""
    for owner, name in ((plain, "recipes"), (plain.memory, "outlines")):
        monkeypatch.setattr(owner, name, clconv.bounded.Bounded(4))
    weight = np.ones((1, 1, 2), "f")
    for length in (*range(2, 14), *range(2, 14)):
        assert (F.conv1d(np.ones((1, 1, length), "f"), weight) == 2).all()
        assert max(map(len, (plain.recipes, plain.memory.outlines))) <= 4


# Sizes


def test_more_than_a_dimension_of_groups(runtime, monkeypatch):
    """Kernels loop where there is more work than work-groups, in every dimension and variant."""
    for name, module in list(sys.modules.items()):
        if name.startswith("clconv.variants.") and hasattr(module, "MAX_GROUPS"):
            monkeypatch.setattr(module, "MAX_GROUPS", 3)
    with Runtime(runtime.device) as own:
        for name in ("several tiles and a remainder in every direction", "depthwise, strided"):
            problem = replace(PROBLEMS[name], batch=9, length=2100)
            for variant in NAMES:
                _check_named(own, problem, variant)
        own.profile = replace(own.profile, kind="gpu", lanes=32, vector_floats=1)
        own.recipes = clconv.bounded.Bounded(9)
        _check_named(own, problem, "direct")


def _check_named(runtime, problem, variant):
    """All passes that a variant serves, on integers; the bias gradient has one variant."""
    rng = np.random.default_rng(7)
    x, weight, grad = (
        testing.integers(rng, shape, problem.dtype)
        for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)
    )
    arrays = {"x": x, "weight": weight, "grad_output": grad}
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    for pass_ in Pass:
        if pass_ is not Pass.BIAS_GRADIENT and variant not in planner.serving(
            problem, pass_, runtime.profile
        ):
            continue
        if pass_ is Pass.FORWARD:
            result = F.conv1d(x, weight, None, *place, variant=variant, runtime=runtime)
        else:
            need = [pass_ is one for one in list(Pass)[1:]]
            result = F.conv1d_backward(x, weight, grad, *place, need=need, variant=variant,
                                       runtime=runtime)[need.index(True)]  # fmt: skip
        by = "auto" if pass_ is Pass.BIAS_GRADIENT else variant
        plan = next(runtime.candidates(problem, pass_, variant=by))
        testing.assert_right(result, problem, pass_, arrays, f"{pass_.value} by {variant}",
                              largest=4, sums=plan.sums_bound)  # fmt: skip


# batch, in_channels, length, out_channels, kernel_size, stride, padding, dilation, groups
LARGE = {
    "a batch of 100,000": (100_000, 2, 5, 2, 2, 1, 0, 1, 1),
    "70,000 channels, depthwise": (1, 70_000, 4, 70_000, 2, 1, 1, 1, 70_000),
    "70,000 output channels": (1, 1, 3, 70_000, 2, 1, 0, 1, 1),
    "70,000 input channels": (1, 70_000, 3, 1, 2, 1, 0, 1, 1),
    "2,000,000 positions": (1, 1, 2_000_000, 1, 3, 1, 1, 1, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_large(plain, name):
    """Sizes that need more than 65,535 work-groups in a dimension, or could."""
    problem = Conv1dProblem(*LARGE[name])
    _check_named(plain, problem, "auto" if "input" in name else "direct")
    if "channels" not in name:
        _check_named(plain, problem, "strip")


def test_strides_beyond_32_bits(plain, rng):
    """A dimension of one has any stride: the kernels' 64-bit arguments take it."""
    problem = Conv1dProblem(1, 3, 40, 2, 3)
    x = rng.integers(-4, 5, problem.input_shape).astype("f")
    weight = rng.integers(-4, 5, problem.weight_shape).astype("f")
    on_device = plain.to_device(x)
    far = cl_array.Array(
        plain.queue, x.shape, x.dtype, data=on_device.base_data,
        strides=(2**40, *on_device.strides[1:]),
    )  # fmt: skip
    assert far.strides[0] > 2**31
    for variant in ("direct", "strip"):
        y = F.conv1d(far, plain.to_device(weight), variant=variant)
        assert np.array_equal(y.get(), reference.conv1d(problem, x, weight))


def test_backward_views(plain, rng):
    """Views that walk backwards, in every dimension."""
    problem = Conv1dProblem(3, 3, 40, 2, 3)
    x = rng.integers(-4, 5, problem.input_shape).astype("f")
    weight = rng.integers(-4, 5, problem.weight_shape).astype("f")
    turns = (slice(None, None, -1), slice(None))
    for turn in [(a, b, c) for a in turns for b in turns for c in turns]:
        y = F.conv1d(plain.to_device(x)[turn], plain.to_device(weight)[turn])
        assert np.array_equal(y.get(), reference.conv1d(problem, x[turn], weight[turn]))


# Numbers

SPECIAL = ("several tiles and a remainder in every direction", "depthwise", "depth multiplier",
           "stride and dilation share a factor", "long kernel over many channels",
           "one output position", "groups with few outputs",
           "last samples reach no window")  # fmt: skip
IN_BOTH = [(name, "float32") for name in SPECIAL] + [(name, "float16") for name in SPECIAL[:4]]


@pytest.mark.one_of(2)
@pytest.mark.parametrize(("name", "dtype"), IN_BOTH)
def test_nan_and_infinity_in_remainders(runtime, rng, name, dtype):
    """NaN and infinity at the first and last places of every dimension reach what the definition
    says, by every variant, and change no bit elsewhere; with those that are not exact, whose
    results elsewhere may be made another way then, nothing beyond their bound."""
    seen = _check_special(runtime, rng, replace(PROBLEMS[name], dtype=np.dtype(dtype)))
    on_cpu = runtime.profile.kind == "cpu"
    assert {"direct", *(["strip"] if on_cpu else [])} <= seen
    assert ("depthwise" in seen) == (on_cpu and name.startswith("depth"))


@pytest.mark.one_of(2)
@pytest.mark.parametrize("few_columns", [False, True])
@pytest.mark.parametrize("name", [SPECIAL[0], SPECIAL[3]])
def test_nan_and_infinity_as_on_a_gpu(gpu_runtime, rng, name, few_columns, monkeypatch):
    """Products by either of their kernels."""
    monkeypatch.setattr(convolution, "few_columns_pay", lambda *_: few_columns)
    gpu_runtime.forget_plans()
    seen = _check_special(gpu_runtime, rng, PROBLEMS[name])
    assert {"direct", "gemm"} <= seen
    assert ("window" in seen) == (name != SPECIAL[0])


def _check_special(runtime, rng, problem):
    """Which variants were seen."""
    place = (problem.stride, problem.pads, problem.dilation, problem.groups)
    clean = {
        name: testing.integers(rng, shape, problem.dtype)
        for name, shape in (
            ("x", problem.input_shape), ("weight", problem.weight_shape),
            ("grad_output", problem.output_shape),
        )
    }  # fmt: skip

    def compute(pass_, variant, x, weight, grad_output):
        if pass_ is Pass.FORWARD:
            return F.conv1d(x, weight, None, *place, variant=variant)
        if pass_ is Pass.INPUT_GRADIENT:
            return F.conv1d_input(x.shape, weight, grad_output, *place, variant=variant)
        return F.conv1d_weight(x, weight.shape, grad_output, *place, variant=variant)

    keeps = {one.NAME: one.ERROR_CLASS.keeps_infinity for one in VARIANTS}
    seen = set()
    for pass_, read in (
        (Pass.FORWARD, ("x", "weight")),
        (Pass.INPUT_GRADIENT, ("weight", "grad_output")),
        (Pass.WEIGHT_GRADIENT, ("x", "grad_output")),
    ):
        for variant in planner.serving(problem, pass_, runtime.profile):
            seen.add(variant)
            right = compute(pass_, variant, **clean)
            plan = next(runtime.candidates(problem, pass_, variant=variant))
            operands = [clean[name] for name in testing.OPERANDS[pass_]]
            bound = None if plan.error_class == "exact" else plan.error_bound(*operands)
            for name in read:
                for value in (np.nan, np.inf):
                    odd = clean | {name: clean[name].copy()}
                    odd[name][0, 0, 0] = odd[name][-1, -1, -1] = value
                    with np.errstate(invalid="ignore"):
                        expected = testing.evaluate(problem, pass_, odd).astype(problem.dtype)
                    result = compute(pass_, variant, **odd)
                    touched = ~np.isfinite(expected)
                    what = f"{pass_.value} by {variant}, {value} in {name}"
                    assert touched.any(), what
                    if keeps[variant]:
                        same = np.array_equal(result[touched], expected[touched], equal_nan=True)
                    else:
                        same = not np.isfinite(result[touched]).any()
                    assert same, what
                    if bound is None:
                        assert np.array_equal(result[~touched], right[~touched]), what
                    else:
                        off = np.abs(np.float64(result[~touched]) - right[~touched])
                        assert (off <= 2 * bound[~touched]).all(), what
    return seen


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (1, 3), (3, 1)])
def test_infinite_weights_of_transposed_convolutions(each_cpu, stride, groups):
    """What no product reaches stays as it is, with an epilogue too, and where output_padding goes
    on behind the last sample."""
    x, weight = np.ones((2, 3, 40), "f"), np.full((3, 1, 4), 2, "f")
    weight[-1, -1, 1], weight[0, 0, 3] = np.inf, np.nan
    length, dilation = (40 - 1) * stride + 3 * 2 + 1 + 1, 2
    expected = np.zeros((2, groups, length), "f")
    for c in range(3):
        for k in range(4):
            at = slice(k * dilation, k * dilation + 39 * stride + 1, stride)
            expected[:, c * groups // 3, at] += weight[c, 0, k]
    assert np.isfinite(expected).any()
    for activation in (None, "sigmoid"):
        wanted = reference.activate(activation, expected + 1)
        for variant in ("direct", "strip", *(["depthwise"] if groups == 3 else [])):
            y = F.conv_transpose1d(
                x, weight, np.ones(groups, "f"), stride, 0, 1, groups, dilation,
                activation=activation, variant=variant, runtime=each_cpu,
            )  # fmt: skip
            assert np.allclose(y, wanted, equal_nan=True), (variant, activation)


@pytest.mark.parametrize("variant", ["direct", "strip", "depthwise"])
def test_long_sums(plain, variant):
    """The weight gradient over 10**7 positions keeps the bound of its blocked sum."""
    stress.check_long_sums(plain, variant)


# Build failures


def _nameless(kernel):
    return "__kernel void another(void) {}"


def test_a_program_without_its_kernel(plain, caplog):
    """A driver that builds, but not what was asked for, is a BuildError, by name and remembered."""
    kernel = Kernel("missing", (("dtype", "float32"),), (), (), (1, 1, 1))
    for _ in range(2):
        with pytest.raises(BuildError, match="kernel missing does not build on") as info:
            plain.programs.kernel(kernel, _nameless(kernel))
        assert info.value.log == "the program is without this kernel"
    assert caplog.text.count("built missing without its kernel") == 2  # tries of the first call


def test_auto_goes_on_where_kernels_are_missing(plain, monkeypatch, caplog):
    """The next candidate serves, and the refusal is named once."""
    problem = Conv1dProblem(1, 2, 30, 4, 3)
    real = clconv.runtime.render
    first, second = plain.plans(problem, Pass.FORWARD)[:2]
    text = real(first.kernels[0])
    monkeypatch.setattr(
        clconv.runtime, "render", lambda one: _nameless(one) if real(one) == text else real(one)
    )
    x, weight = np.ones((1, 2, 30), "f"), np.ones((4, 2, 3), "f")
    with caplog.at_level(logging.WARNING, "clconv"):
        for _ in range(2):
            assert (F.conv1d(x, weight) == 6).all()
    assert caplog.text.count(f"refuses {first.variant} {dict(first.tile)}") == 1
    assert f"trying {second.variant} {dict(second.tile)}" in caplog.text


def test_check_catches_a_device_that_computes_wrongly(device, monkeypatch, capsys):
    """`clconv-devices --check` says which result is wrong, and fails."""
    real = Runtime.enqueue

    def faulty(self, commands, reads, writes):
        real(self, commands, reads, writes)
        for array in writes[1:2]:  # the weight gradient
            cl.enqueue_fill_buffer(
                self.queue, array.base_data, np.float32(99), array.offset + 4, 4
            ).wait()

    monkeypatch.setattr(Runtime, "enqueue", faulty)
    assert devices.main(["--check", "--json"]) == 1
    for one in json.loads(capsys.readouterr().out):
        if one["why_not"] is None:
            assert "input gradient" not in one["check"]
            assert "weight gradient" in one["check"]
            assert "wrong" in one["check"]


# Interrupts


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_interrupts(folders):
    """Ctrl-C at many moments of compiling and of waiting for a long queue: KeyboardInterrupt, after
    which the same call is right, for the thread that was interrupted and for another."""
    code = (
        SMALL_CALL
        + """
import os, signal, threading, time
runtime = clconv.default_runtime()
small_call()
big = np.ones((8, 16, 4000), "f")
interrupted = {"compile": 0, "queue": 0}
def later(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
def ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGALRM, ctrl_c)
def attempt(what, seconds, call):
    try:
        later(seconds)
        call()
        time.sleep(2)
    except KeyboardInterrupt:
        interrupted[what] += 1
    later(0)
for i in range(10):
    weight = np.ones((2, 3, 2 + i), "f")
    call = lambda: F.conv1d(x, weight, variant="direct")
    attempt("compile", 0.002 + 0.03 * i, call)
    y = call()
    problem = clconv.Conv1dProblem(2, 3, 40, 2, 2 + i)
    assert np.array_equal(y, reference.conv1d(problem, x, weight))
data, taps = runtime.to_device(big), runtime.to_device(np.ones((16, 16, 9), "f"))
def queue():
    for _ in range(6): y = F.conv1d(data, taps)
    runtime.finish()
queue()
for i in range(6):
    attempt("queue", 0.001 + 0.005 * i, queue)
    small_call()
results = []
def work():
    small_call()
    results.append(F.conv1d(x, np.ones((2, 3, 2), "f"), variant="direct"))
thread = threading.Thread(target=work)
thread.start()
thread.join(30)
assert len(results) == 1
print(interrupted["compile"], interrupted["queue"])
"""
    )
    printed, _ = finished(start(code, **folders), 100)
    compiles, queues = map(int, printed.split())
    # One that comes amid a destructor is ignored by Python.
    assert compiles >= 8
    assert queues >= 5


def test_an_interrupted_build_is_taken_over(plain, monkeypatch):
    """A thread that waits for a build which is interrupted builds itself."""
    waiting, results = threading.Event(), []
    real = Programs._compile
    builder = threading.current_thread()

    def compile_(self, launch, source):
        if threading.current_thread() is builder:
            thread.start()
            assert waiting.wait(60)
            time.sleep(0.05)
            raise KeyboardInterrupt
        return real(self, launch, source)

    def work():
        waiting.set()
        results.append(F.conv1d(x, weight, variant="direct", runtime=plain))

    x, weight = np.ones((1, 1, 9), "f"), np.ones((1, 1, 4), "f")
    thread = threading.Thread(target=work, daemon=True)
    monkeypatch.setattr(Programs, "_compile", compile_)
    with pytest.raises(KeyboardInterrupt):
        F.conv1d(x, weight, variant="direct", runtime=plain)
    thread.join(60)
    assert (results[0] == 4).all()


# Untrusted input

# What runs code that comes as data.
EXECUTING = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "code"}
CALLS = {"eval", "exec", "compile", "__import__"}


def test_data_is_never_code():
    """No module of the library reads pickles or evaluates text."""
    for path in (ROOT / "clconv").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                names = []
            assert not EXECUTING & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in CALLS, (path, node.lineno)
            if isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "shell"), (path, node.value.lineno)


INJECTED = (
    "relu\n#error injected", "relu; }", "${__import__('os').system('false')}", "<%! x = 1 %>",
    "../../etc/passwd", "direct.cl.mako", "##", "% if True:",
)  # fmt: skip


def test_nothing_injects_source(plain, monkeypatch):
    """Names and parameters are checked before any template sees them; layers' names reach none."""
    rendered = []
    real = clconv.runtime.render

    def watching(launch):
        source = real(launch)
        rendered.append(source)
        return source

    monkeypatch.setattr(clconv.runtime, "render", watching)
    x, weight = np.ones((1, 2, 9), "f"), np.ones((2, 2, 3), "f")
    for text in INJECTED:
        for option in ("activation", "variant", "padding", "stride", "dilation", "groups"):
            with pytest.raises(ProblemError, match=option):
                F.conv1d(x, weight, **{option: text})
        for activation in ((text, 0.1), ("leaky_relu", text)):
            with pytest.raises(ProblemError, match="activation"):
                F.conv1d(x, weight, activation=activation)
        with pytest.raises(clconv.ModuleError):
            Pad1D((1, 1), text)
        with pytest.raises(clconv.ModuleError):
            clconv.Conv1D(2, 2, 3, activation=text)
        with pytest.raises(DeviceError):
            Runtime(text)
    assert not rendered
    for text in INJECTED:
        clconv.Conv1D(2, 2, 3, name=text)(gpuarray.to_gpu(x))
    assert rendered
    assert not any(text in source for text in INJECTED for source in rendered)
