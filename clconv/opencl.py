"""Which OpenCL devices there are, and which one a caller means. Nothing is built here."""

from __future__ import annotations

import logging
import os
import re
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl as cl

from clconv import settings
from clconv.building import program_of_source
from clconv.device import DeviceProfile, refined
from clconv.errors import DeviceError

__all__ = ["DeviceInfo", "check_process", "choose", "devices", "info_of", "profile_of"]

_log = logging.getLogger(__name__)

NO_PLATFORM = (
    "no OpenCL platform found; install one: on x86-64 Linux "
    '`pip install "clconv[pocl]"` runs on the CPU, else the vendor\'s GPU driver with OpenCL'
)
FORKED = (
    "OpenCL was started in process {0} and cannot be used in its forked child {1}; "
    "start workers with the 'spawn' or 'forkserver' method of multiprocessing"
)

# Platforms that drive the devices of several vendors; a vendor's own goes before them.
SHARED_PLATFORMS = ("portable computing language", "rusticl", "clover")
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CPU_INFO = Path("/proc/cpuinfo")
KINDS = ("discrete GPU", "integrated GPU", "accelerator", "CPU")

_started_in: int | None = None
_starting = threading.Lock()


def check_process() -> None:
    """DeviceError in a forked child of the process that started OpenCL; drivers would hang."""
    global _started_in
    process = os.getpid()
    if _started_in is None:
        with _starting:
            if _started_in is None:
                _started_in = process
    if _started_in != process:
        raise DeviceError(FORKED.format(_started_in, process))


@dataclass(frozen=True)
class DeviceInfo:
    """One OpenCL device.

    `id` is "platform:device", `index` its place in `devices()`; sizes are in bytes; `kind` is
    one of "discrete GPU", "integrated GPU", "accelerator", "CPU"; `why_not` says why nothing can
    run there, None where it can.
    """

    id: str
    index: int
    name: str
    vendor: str
    platform: str
    kind: str
    version: str
    driver: str
    compute_units: int
    global_bytes: int
    local_bytes: int
    max_work_group_size: int
    fp16: bool
    fp64: bool
    is_default: bool
    why_not: str | None


@dataclass(frozen=True)
class Found:
    """A device with the OpenCL object behind it."""

    info: DeviceInfo
    device: Any


def _kind(device: Any) -> str:
    if device.type & cl.device_type.CPU:
        return "CPU"
    if device.type & cl.device_type.GPU:
        return "integrated GPU" if device.host_unified_memory else "discrete GPU"
    return "accelerator"


def _why_not(device: Any) -> str | None:
    if not device.available:
        return "the driver says that it is not available"
    if not device.compiler_available:
        return "the driver has no compiler"
    words = device.version.split()
    try:
        version = tuple(int(part) for part in words[1].split("."))
    except (IndexError, ValueError):
        return f"its version {device.version!r} cannot be read"
    if version < (1, 2):
        return f"{device.version.strip()}, expected at least OpenCL 1.2"
    return None


def _describe(device: Any, place: str, platform: str) -> dict[str, Any]:
    extensions = device.extensions.split()
    return {
        "id": place,
        "name": device.name.strip(),
        "vendor": device.vendor.strip(),
        "platform": platform,
        "kind": _kind(device),
        "version": device.version.strip(),
        "driver": device.driver_version.strip(),
        "compute_units": device.max_compute_units,
        "global_bytes": device.global_mem_size,
        "local_bytes": device.local_mem_size,
        "max_work_group_size": device.max_work_group_size,
        "fp16": "cl_khr_fp16" in extensions,
        "fp64": "cl_khr_fp64" in extensions,
        "why_not": _why_not(device),
    }


def _platforms() -> list[Any]:
    check_process()
    settings.keep_cpu_workers_apart()
    try:
        return list(cl.get_platforms())
    except cl.Error as error:
        if error.code in (-1001, -32):  # PLATFORM_NOT_FOUND_KHR, INVALID_PLATFORM: there is none
            return []
        raise DeviceError(f"the OpenCL platforms cannot be listed: {error}") from error


def _rank(found: dict[str, Any]) -> tuple[int, int, bool, int]:
    shared = found["platform"].lower().startswith(SHARED_PLATFORMS)
    return (
        found["why_not"] is not None,
        KINDS.index(found["kind"]),
        shared,
        -found["compute_units"],
    )


def find() -> list[Found]:
    """All devices with their OpenCL objects, in the order of preference."""
    found = []
    for p, platform in enumerate(_platforms()):
        name = platform.name.strip()
        try:
            members = platform.get_devices()
        except cl.Error as error:
            if error.code != -1:  # DEVICE_NOT_FOUND: a platform without devices is no fault
                _log.warning("platform %s cannot list its devices: %s", name, error)
            continue
        for d, device in enumerate(members):
            try:
                found.append((_describe(device, f"{p}:{d}", name), device))
            except cl.Error as error:
                _log.warning("device %d of platform %s cannot be queried: %s", d, name, error)
    found.sort(key=lambda one: _rank(one[0]))
    usable = [fields["why_not"] is None for fields, _ in found]
    default = usable.index(True) if True in usable else -1
    return [
        Found(DeviceInfo(index=i, is_default=i == default, **fields), device)
        for i, (fields, device) in enumerate(found)
    ]


def devices() -> list[DeviceInfo]:
    """All OpenCL devices, best first; builds nothing. Empty where there is no platform."""
    return [found.info for found in find()]


def info_of(device: Any) -> DeviceInfo:
    """The DeviceInfo of a pyopencl Device."""
    for found in find():
        if found.device == device:
            return found.info
    # A sub-device is in no list.
    fields = _describe(device, "", device.platform.name.strip())
    return DeviceInfo(index=-1, is_default=False, **fields)


def _table(found: list[Found]) -> str:
    return "; ".join(f"{one.info.index} = {one.info.id} {one.info.name}" for one in found)


def _usable(one: Found, wanted: object) -> Found:
    if one.info.why_not is not None:
        raise DeviceError(f"device is {wanted!r}: {one.info.name} cannot run: {one.info.why_not}")
    return one


def choose(wanted: object = None) -> Any:
    """The pyopencl Device that `wanted` means: None, an index, an id "platform:device" or part
    of a name. Raises DeviceError that lists what there is."""
    check_process()
    if wanted is None:
        wanted = settings.device_choice()
    if wanted is None and settings.pyopencl_choice() is not None:
        try:
            return cl.create_some_context(interactive=False).devices[0]
        except (cl.Error, RuntimeError) as error:
            raise DeviceError(
                f"PYOPENCL_CTX is {settings.pyopencl_choice()!r}, which names no device: {error}"
            ) from error
    found = find()
    if not found:
        raise DeviceError(NO_PLATFORM)
    if wanted is None:
        for one in found:
            if one.info.is_default:
                return one.device
        whys = "; ".join(f"{one.info.name}: {one.info.why_not}" for one in found)
        raise DeviceError(f"no OpenCL device can run anything: {whys}")
    if isinstance(wanted, str) and wanted.strip().isdecimal():
        wanted = int(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
        raise DeviceError(
            f"device is {wanted!r}, expected None, an index, an id, part of a name, or a pyopencl "
            "Device, Context or CommandQueue"
        )
    if isinstance(wanted, int):
        if not 0 <= wanted < len(found):
            raise DeviceError(f"device is {wanted}, expected an index of: {_table(found)}")
        return _usable(found[wanted], wanted).device
    text = wanted.strip().lower()
    for one in found:
        if text == one.info.id:
            return _usable(one, wanted).device
    if text:
        matching = [one for one in found if text in one.info.name.lower()]
        matching = matching or [one for one in found if text in one.info.platform.lower()]
        matching.sort(key=lambda one: one.info.why_not is not None)
        if matching:
            return _usable(matching[0], wanted).device
    raise DeviceError(f"device is {wanted!r}, which matches none of: {_table(found)}")


# What PoCL compiles for is what counts: a processor that its LLVM does not know gets code for an
# older one, whose vectors are narrower than the driver says.
VECTOR_PROBE = """
#if defined(__AVX512F__)
__kernel void floats_16(void) {}
#else
__kernel void floats_8(void) {}
#endif
"""
# Functions that ask for the wider ones get them. The probe does what kernels that ask do, with
# local memory and several work-groups: y[16 * g + i] = (g + i)**2.
WIDE_TARGET = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
WIDE_GROUPS = 5
WIDE_PROBE = """
#pragma clang attribute push(__attribute__((target("%s"))), apply_to = function)
__attribute__((noinline)) void squares_body(
    __global float *y, __local float *kept, const long group)
{
    for (int i = 0; i < 16; ++i) kept[i] = group + i;
    const float16 v = *(__local const float16 *)kept;
    *(__global float16 *)(y + 16 * group) = v * v;
}
#pragma clang attribute pop

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void squares(__global float *y)
{
    __local float kept[16] __attribute__((aligned(64)));
    squares_body(y, kept, get_group_id(0));
}
"""


@lru_cache(maxsize=16)
def _vectors(device: Any) -> tuple[int, str]:
    """float32 values of a CPU's vector register, as the driver reports and uses it; and what
    functions have to ask the compiler for to have 16, "" where none need to or can."""
    width = max(1, min(16, int(device.native_vector_width_float)))
    if width < 16 or not device.platform.name.lower().startswith("portable computing"):
        return width, ""
    context = cl.Context([device])
    # A driver whose own cache is damaged builds programs without kernels; of another text it has
    # nothing kept.
    for text in (VECTOR_PROBE, VECTOR_PROBE + "typedef int again;\n"):
        program = program_of_source(context, text)
        name: str = program.build(cache_dir=False).kernel_names
        if name:
            width = int(name.removeprefix("floats_"))
            return width, "" if width == 16 else _wide_target(context)
    return 8, ""  # right for both, if not the fastest


def _wide_target(context: Any) -> str:
    """What functions ask for to have vectors of 16 floats; "" where they would not run or not be
    right."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPU_INFO.read_text(), re.MULTILINE)
    except OSError as error:
        _log.info("%s cannot be read: %s", CPU_INFO, error)
        return ""
    if flags is None or not set(WIDE_TARGET) <= set(flags[1].split()):
        return ""
    target = ",".join(WIDE_TARGET)
    try:
        program = program_of_source(context, WIDE_PROBE % target)
        kernel: Any = cl.Kernel(program.build(cache_dir=False), "squares")
        queue = cl.CommandQueue(context)
        squares = np.zeros((WIDE_GROUPS, 16), np.float32)
        result = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, squares.nbytes)
        kernel(queue, (WIDE_GROUPS,), (1,), result)
        cl.enqueue_copy(queue, squares, result)
    except cl.Error as error:
        _log.info("functions cannot ask for %s: %s", target, error)
        return ""
    expected = np.add.outer(np.arange(WIDE_GROUPS), np.arange(16)) ** 2
    return target if np.array_equal(squares, expected) else ""


def _data_caches() -> dict[str, Any]:
    """Bytes of a core's data caches by the profile's names, where Linux tells."""
    names = {"1": "l1_bytes", "2": "l2_bytes"}
    found = {}
    for index in sorted(CPU_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError as error:
            _log.info("%s cannot be read: %s", index, error)
            continue
        if level in names and kind != "Instruction" and re.fullmatch(r"[1-9]\d*K", size):
            found[names[level]] = int(size[:-1]) << 10
    return found


def _architecture(device: Any) -> str:
    """What tells a GPU's architecture: its name, and NVIDIA's compute capability as sm_86."""
    name = str(device.name).strip()
    if "cl_nv_device_attribute_query" not in device.extensions.split():
        return name
    return f"{name} sm_{device.compute_capability_major_nv}{device.compute_capability_minor_nv}"


def profile_of(device: Any) -> DeviceProfile:
    """The planner's numbers of a device: what its driver reports, what is known of GPUs and, of a
    CPU's caches, what the system says."""
    width, asked = _vectors(device) if device.type & cl.device_type.CPU else (1, "")
    # A CPU driver without vectors of its own makes lanes of work-items, as a GPU does.
    cpu = width > 1
    sizes = [int(s) for s in device.max_work_item_sizes[:3]]
    reported = DeviceProfile(
        name=device.name.strip(),
        kind="cpu" if cpu else "gpu",
        compute_units=device.max_compute_units,
        lanes=1 if cpu else 32,
        vector_floats=width,
        max_work_group_size=device.max_work_group_size,
        max_work_item_sizes=(sizes[0], sizes[1], sizes[2]),
        local_bytes=device.local_mem_size,
        global_bytes=device.global_mem_size,
        max_alloc_bytes=device.max_mem_alloc_size,
        fp64="cl_khr_fp64" in device.extensions.split(),
        half_builtins=not cpu,
        instruction_sets=asked,
    )
    return replace(reported, **_data_caches()) if cpu else refined(reported, _architecture(device))
