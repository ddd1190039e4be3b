"""Drivers that fail, and those that have to be found: which device is taken, and what is said."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest

import clconv
from clconv import DeviceError, Runtime, disk
from clconv.drivers import discovery, icd, probe
from clconv.drivers.discovery import find
from clconv.drivers.probe import Finding

# A PoCL whose compiler refuses every program.
BROKEN = {"POCL_EXTRA_BUILD_FLAGS": "-march=nothing"}
REFUSED = "Invalid build option: -march=nothing"
REMEDY = 'pip install "clconv[cpu]"'
X86_64 = platform.machine().lower() in ("x86_64", "amd64")

WORKING = [one for one in find() if not discovery.refusal(one.device) and not one.info.why_not]


def _is_pocl(one):
    return one.info.platform.lower().startswith("portable")


POCLS = [one for one in WORKING if _is_pocl(one)]
OTHERS = [one for one in WORKING if not _is_pocl(one)]
needs_pocl = pytest.mark.skipif(not POCLS, reason="no PoCL that could be broken")
needs_both = pytest.mark.skipif(
    not POCLS or not OTHERS, reason="no driver that works beside a PoCL that could be broken"
)


@pytest.fixture
def run(tmp_path):
    """Python in a process and a cache folder of its own: (its output, what it says to stderr)."""

    def call(code, *arguments, **environment):
        given = {**os.environ, "CLCONV_CACHE_DIR": str(tmp_path / "cache"), **environment}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, timeout=120, env=given, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    return call


CALL = """
import sys, numpy as np, clconv
from clconv import functional as F
try:
    print(F.conv1d(np.ones((1, 1, 5), "f"), np.ones((1, 1, 3), "f")).tolist())
    print(clconv.default_runtime().info.id)
except clconv.DeviceError as error:
    print(type(error).__name__, error)
"""


@needs_both
def test_the_next_device_is_taken(run):
    """Where the first refuses programs: one warning with both, the reason and the remedy; the next
    process knows without trying."""
    code = """
import clconv.drivers.discovery
real = clconv.drivers.discovery._rank  # a broken driver that is preferred
clconv.drivers.discovery._rank = lambda one: (  # preferred, but broken
    not one["platform"].startswith("Portable"), *real(one))
tried = []
probe = clconv.drivers.probe._try
clconv.drivers.probe._try = lambda device: tried.append(device) or probe(device)
"""
    for expected in (1, 0):
        printed, said = run(code + CALL + "\nclconv.Runtime()\nprint(len(tried))", **BROKEN)
        result, used, count = printed.splitlines()
        assert result == "[[[3.0, 3.0, 3.0]]]"
        assert used in [one.info.id for one in OTHERS]
        assert (int(count) > 0) == bool(expected)
        assert len(said.splitlines()) == 1
        for words in (POCLS[0].info.name, OTHERS[0].info.name, REFUSED):
            assert words in said
        assert (REMEDY in said) == X86_64
    # Without the variable the compiler works, and what was remembered does not count.
    printed, said = run(code + CALL)
    assert printed.splitlines()[1] in [one.info.id for one in POCLS]
    assert not said


@needs_pocl
def test_no_device_is_left(run, tmp_path):
    """Each one's reason, and what to install, this time and the next."""
    vendors = tmp_path / "vendors"
    vendors.mkdir()
    for path in Path("/etc/OpenCL/vendors").glob("*pocl*.icd"):  # pip's is found without a file
        shutil.copy(path, vendors)
    for _ in range(2):
        printed, said = run(CALL, OCL_ICD_VENDORS=str(vendors), **BROKEN)
        assert printed.startswith("DeviceError no OpenCL device can run anything: ")
        assert printed.count(REFUSED) >= len(POCLS)
        assert (REMEDY in printed) == X86_64
        assert not said


@needs_pocl
def test_a_broken_device_by_name(run):
    """By index, id, part of a name, variable, and as pyopencl's objects: the driver's own line and
    the remedy, never an error of pyopencl's."""
    code = """
import sys, pyopencl as cl, clconv
from clconv.drivers.discovery import find
(one,) = [one for one in find() if one.info.id == sys.argv[1]]
device = one.device
context = cl.Context([device])
for wanted in (one.info.index, one.info.id, device, context, cl.CommandQueue(context)):
    try:
        clconv.Runtime(wanted)
    except clconv.DeviceError as error:
        print(error)
"""
    for one in POCLS:
        printed, said = run(code, one.info.id, **BROKEN)
        assert not said
        lines = printed.splitlines()
        assert len(lines) == 5
        for line in lines:
            assert one.info.name in line
            assert REFUSED in line
            assert (REMEDY in line) == X86_64
    for variable in ("CLCONV_DEVICE", "PYOPENCL_CTX"):
        printed, _ = run(CALL, **BROKEN, **{variable: POCLS[0].info.id})
        assert printed.startswith(f"DeviceError {variable} is ")
        assert REFUSED in printed


@needs_pocl
def test_listing_a_broken_device(run):
    """Listing builds nothing; --check does, remembers, and the default follows."""
    code = """
import json, sys
from clconv.drivers import probe
from clconv.commands import devices
real, tried = probe._try, []
probe._try = lambda device: tried.append(device) or real(device)
status = devices.main(["--json", *sys.argv[1:]])
print(json.dumps([status, len(tried)]))
"""

    def listed(*arguments):
        lines, _ = run(code, *arguments, **BROKEN)
        text, _, last = lines.rpartition("\n")
        return json.loads(text), *json.loads(last)

    before, status, tried = listed()
    assert not tried
    assert not any(one["why_not"] for one in before if one["id"] == POCLS[0].info.id)
    checked, status, tried = listed("--check")
    assert tried >= len(before)
    assert status == int(not OTHERS)
    after, _, tried = listed()
    assert not tried
    for one in after:
        broken = one["platform"].lower().startswith("portable")
        assert (REFUSED in (one["why_not"] or "")) == broken
    assert [one["is_default"] for one in after].count(True) == bool(OTHERS)
    for one, old in zip(after, checked, strict=True):
        assert {**one, "check": old["check"]} == old
        assert old["check"] == (one["why_not"] or "ok")


# What a small kernel shows


@pytest.fixture
def nothing_known(monkeypatch, tmp_path):
    """As in a process that knows nothing of any device, on an empty cache folder."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(probe, "_findings", {})
    discovery._warn_once.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("factor * kept[3 - i]", "factor * kept[i]", "it computes wrongly"),
        ("const float factor", "const int factor)(", "a small kernel does not build or run"),
    ],
)
def test_a_device_that_fails(runtime, monkeypatch, nothing_known, right, wrong, words):
    """A kernel that is built and wrong counts as one that is refused."""
    monkeypatch.setattr(probe, "SOURCE", probe.SOURCE.replace(right, wrong))
    with pytest.raises(DeviceError, match=words):
        Runtime(runtime.device)
    (kept,) = (nothing_known / "devices").iterdir()
    assert words in json.loads(kept.read_text())["why_not"]


def test_what_is_remembered(runtime, monkeypatch, nothing_known, caplog):
    """Under device, driver, processor and the driver's variables; damaged files count for nothing,
    and a folder that cannot be written does no harm."""
    device = runtime.device
    assert probe.remembered(device) is None
    found = probe.finding(device)
    assert found.why_not is None
    monkeypatch.setattr(probe, "_findings", {})
    monkeypatch.setattr(probe, "_try", None)  # whatever is tried now fails
    assert probe.finding(device) == found
    for name, value in (("POCL_SOMETHING", "1"), ("CL_CONFIG_SOMETHING", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert probe.remembered(device) is None
    with monkeypatch.context() as patch:
        patch.setattr(probe, "_processor", lambda: "another")
        assert probe.remembered(device) is None
    (path,) = (nothing_known / "devices").iterdir()
    for content in (b"", b"{}", b"[1]", b"\xff", b'{"why_not": 1}', path.read_bytes()[:-3]):
        path.write_bytes(content)
        monkeypatch.setattr(probe, "_findings", {})
        caplog.clear()
        assert probe.remembered(device) is None
        assert "damaged" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(probe, "_findings", {})
    blocked = nothing_known / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(blocked))
    assert probe.finding(device) == found


def test_no_memory_is_not_remembered(runtime, monkeypatch, nothing_known):
    """Others may hold the memory for now."""

    def no_memory(*_):
        raise cl.MemoryError("clCreateBuffer", -5, "")

    with monkeypatch.context() as patch:
        patch.setattr(probe, "built", no_memory)
        assert probe.probe(runtime.device).why_not
    assert not (nothing_known / "devices").exists()
    assert discovery.check(runtime.device) is None


def test_a_stale_fault_does_not_last(runtime, nothing_known):
    """What is remembered of the only device that is asked for is tried again."""
    stale = Finding("a fault of yesterday's")
    for one in find():
        probe._findings[probe._key(one.device)] = stale
    assert Runtime(runtime.device).info.why_not is None
    assert probe.remembered(runtime.device) != stale


def test_order_of_choice(runtime, nothing_known, caplog):
    """Kinds and parts of names mean the first device that works."""
    kinds = {"discrete GPU": "gpu", "integrated GPU": "gpu", "CPU": "cpu"}
    kind = kinds.get(runtime.info.kind, "accelerator")
    wanted = [one for one in WORKING if kinds.get(one.info.kind, "accelerator") == kind]
    assert Runtime(kind.upper()).info.id == wanted[0].info.id
    assert not caplog.text
    if len(wanted) > 1:
        probe._findings[probe._key(wanted[0].device)] = Finding("it is broken")
        for _ in range(2):
            assert Runtime(kind).info.id == wanted[1].info.id
        assert caplog.text.count("it is broken") == 1
    with pytest.raises(DeviceError, match=f"matches none of.*{WORKING[0].info.id}"):
        Runtime("gpu" if kind == "cpu" else "cpu")


def test_vectors_are_no_wider_than_the_compiler_s(runtime, monkeypatch):
    """Whatever the driver reports: without AVX a vector has four floats."""
    own = probe.finding(runtime.device)
    reported = min(16, runtime.device.native_vector_width_float)
    for seen, expected in ((4, 4), (8, min(8, reported)), (16, reported), (0, reported)):
        changed = replace(own, vector_floats=seen, instruction_sets="")
        monkeypatch.setattr(discovery, "finding", lambda _, changed=changed: changed)
        assert discovery.profile_of(runtime.device).vector_floats == max(1, min(expected, reported))


def test_no_lock_while_a_device_is_tried(run):
    """A thread that makes the default runtime and compiles keeps no other from what is there."""
    code = """
import threading, clconv, clconv.drivers.probe, clconv.runtime
real, trying, go = clconv.drivers.probe._try, threading.Event(), threading.Event()
def slow(device):
    trying.set()
    assert go.wait(60)
    return real(device)
clconv.drivers.probe._try = slow
made = []
threads = [threading.Thread(target=lambda: made.append(clconv.default_runtime())) for _ in range(3)]
for thread in threads: thread.start()
assert trying.wait(60)
assert clconv.runtime._registry.default_lock.acquire(timeout=10)
clconv.runtime._registry.default_lock.release()
clconv.devices()
go.set()
for thread in threads: thread.join(60)
print(len(made), len(set(map(id, made))))
"""
    assert run(code)[0] == "3 1"


def test_errors_of_drivers(runtime, monkeypatch):
    """What pyopencl raises comes out as an error of clconv's that says who could not do what."""
    own = Runtime(runtime.device)
    array = own.zeros((3,))

    def refuse(*_, **__):
        raise cl.RuntimeError("clFinish", -36, "")

    def no_room(*_, **__):
        raise cl.MemoryError("clEnqueueReadBuffer", -5, "")

    for function, error in ((refuse, DeviceError), (no_room, clconv.OutOfMemoryError)):
        with monkeypatch.context() as patch:
            patch.setattr(cl, "enqueue_fill_buffer", function)
            patch.setattr(cl.array.Array, "get", function)
            patch.setattr(cl.array.Array, "set", function)
            for call in (
                lambda: own.fill(array, 1),
                lambda: own.to_host(array),
                lambda: own.to_device(np.ones(3, "f")),
            ):
                with pytest.raises(error, match=own.info.name) as caught:
                    call()
                assert isinstance(caught.value.__cause__, cl.Error)
            patch.setattr(cl.tools, "MemoryPool", function)
            with pytest.raises(error, match="made ready"):
                Runtime(runtime.device)
    assert own.to_host(array).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("clCreateContext failed: NO_MEMORY", "clCreateContext failed: NO_MEMORY"),
        (
            "clBuildProgram failed: A - B\n\nBuild on <pyopencl.Device 'd'>:\n\nwarning: old\n"
            "error: unknown target CPU 'generic'\nDevice d failed\n\n(options: -I error)",
            "error: unknown target CPU 'generic'",
        ),
        ("f failed\n\nBuild on <d>:\n\nInvalid option\n\n(options: -x)", "Invalid option"),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_the_line_that_says_most(text, line):
    assert probe.reason(ValueError(text)) == line


# Drivers that pip installed


def _intel_installed():
    try:
        importlib.metadata.version(icd.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return sys.platform in icd.LIBRARIES


needs_intel = pytest.mark.skipif(not _intel_installed(), reason="Intel's runtime is not installed")
# Prints the names of the platforms, none where the loader has an error for that.
PLATFORMS = """
import pyopencl as cl
try: print([p.name for p in cl.get_platforms()])
except cl.Error: print([])
"""


@needs_intel
@pytest.mark.parametrize("first", ["", "import pyopencl, pyopencl.array\n"])
def test_intel_s_runtime_is_found(run, tmp_path, first):
    """After a pip install, with nothing set by hand, beside what the system has."""
    environment = dict.fromkeys(("OCL_ICD_VENDORS", "CLCONV_DEVICE"), "")
    before = eval(run(PLATFORMS, **environment)[0])
    code = first + "import clconv; clconv.devices()\n" + PLATFORMS
    printed, said = run(code, **environment)
    assert icd.PLATFORM not in before
    assert sorted(eval(printed)) == sorted([*before, icd.PLATFORM])
    assert not said
    (folder,) = (tmp_path / "cache" / "icd").iterdir()
    library = Path((folder / "clconv-intel.icd").read_text().strip())
    assert library.name.startswith(icd.LIBRARIES[sys.platform])
    assert library.is_file()
    # A process that inherits the variable makes a folder of its own where it needs one.
    code = "import clconv; print(len(clconv.devices()))"
    count = run(code, **environment)[0]
    other = {"OCL_ICD_VENDORS": str(folder), "CLCONV_CACHE_DIR": str(tmp_path / "other")}
    assert run(code, **other)[0] == count
    assert list((tmp_path / "other" / "icd").iterdir())


@needs_intel
def test_intel_s_runtime_too_late(run):
    """After the first query the loader reads nothing any more: one warning that says so."""
    code = f"{PLATFORMS}\nimport clconv\nfor _ in range(2): print(len(clconv.devices()))"
    printed, said = run(code, OCL_ICD_VENDORS="")
    assert icd.PLATFORM not in printed
    if POCLS:
        assert said.count("before other code uses pyopencl") == 1


@needs_intel
def test_a_users_own_variable_wins(run, tmp_path):
    (tmp_path / "mine").mkdir()
    code = "import os, clconv; clconv.devices(); print(os.environ['OCL_ICD_VENDORS'])\n" + PLATFORMS
    mine = str(tmp_path / "mine")
    printed, said = run(code, OCL_ICD_VENDORS=mine)
    assert printed.splitlines()[0] == mine
    assert icd.PLATFORM not in printed
    assert not said


def _files(folder, monkeypatch, *, needed=True):
    """As if pip had installed a driver there."""
    library = folder / icd.LIBRARIES[sys.platform]
    library.write_bytes(b"")
    entry = importlib.metadata.PackagePath(icd.LIBRARIES[sys.platform])
    entry.dist = importlib.metadata.Distribution.at(folder / "intel.dist-info")
    monkeypatch.setattr(icd.metadata, "files", lambda _: [entry])

    def version(name):
        if not needed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(icd.metadata, "version", version)
    return library


@pytest.mark.skipif(sys.platform != "linux", reason="the loader is another")
def test_what_is_announced(tmp_path, monkeypatch, absent, caplog):
    """A folder of the system's files and ours; nothing where the system has the driver, or half of
    it is installed; a temporary folder where the cache cannot be written."""
    system, cache = tmp_path / "vendors", tmp_path / "cache"
    system.mkdir()
    (system / "gpu.icd").write_text("libgpu.so.1\n")
    (system / "odd.icd").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("OPENCL_VENDOR_PATH", str(system))
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(cache))
    absent("OCL_ICD_VENDORS")
    library = _files(tmp_path, monkeypatch)
    assert icd.announce()
    folder = Path(os.environ["OCL_ICD_VENDORS"])
    assert folder.parent == cache / "icd"
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert texts == {"gpu.icd": "libgpu.so.1\n", "clconv-intel.icd": f"{library}\n"}
    # A new driver of the system's makes another folder, and old folders go.
    monkeypatch.setattr(icd, "FOLDERS_KEPT", 1)
    (system / "new.icd").write_text("libnew.so\n")
    os.utime(folder, (1, 1))
    assert icd.announce()
    assert not folder.exists()
    names = {path.name for path in Path(os.environ["OCL_ICD_VENDORS"]).iterdir()}
    assert names == {"gpu.icd", "new.icd", "clconv-intel.icd"}
    (system / "new.icd").write_text(f"/opt/intel/{icd.LIBRARIES[sys.platform]}\n")
    assert not icd.announce()
    (system / "new.icd").unlink()
    _files(tmp_path, monkeypatch, needed=False)
    assert not icd.announce()
    assert 'pip install "clconv[cpu]"' in caplog.text
    _files(tmp_path, monkeypatch)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(blocked))
    assert icd.announce()
    assert Path(os.environ["OCL_ICD_VENDORS"], "gpu.icd").is_file()
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(disk, "write", no_disk)
        assert not icd.announce()
    assert "cannot be announced" in caplog.text


def test_the_loader_of_windows(tmp_path, monkeypatch, absent):
    """It takes files beside the registry's."""
    monkeypatch.setattr(sys, "platform", "win32")
    absent("OCL_ICD_VENDORS")
    monkeypatch.setenv("OCL_ICD_FILENAMES", "other.dll")
    library = _files(tmp_path, monkeypatch)
    for _ in range(2):
        assert icd.announce()
        assert os.environ["OCL_ICD_FILENAMES"] == f"other.dll;{library}"


def no_disk(*_):
    raise OSError("no space left")


def test_default_lock_is_never_held_for_long():
    """Threads that ask for the default runtime at once get one and the same."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(clconv.default_runtime())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(map(id, found))) == 1
