"""Does a device's compiler work, and how wide are its vectors? Tried once, then remembered.

Some drivers list devices for which they can build nothing, such as processors that are newer than
their compiler. What a small kernel showed is kept in the cache folder, under everything that may
change it: device, driver, processor, and what the environment tells drivers.
"""

from __future__ import annotations

import json
import logging
import platform as system
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl as cl

from clconv import disk, settings
from clconv.drivers import binaries
from clconv.drivers.building import built, prepare_invoker

__all__ = ["Finding", "cpu_info", "finding", "probe", "reason", "remembered"]

_log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
# How many findings are kept on disk.
FINDINGS_KEPT = 256
FAULT = "a small kernel does not build or run there: {}"

# y[g * 4 + i] = factor * x[g * 4 + 3 - i] + g, through local memory; and the vector register that
# the compiler knows, in floats. That counts: a processor that it does not know gets code for an
# older one, whose vectors are narrower than the driver says.
GROUPS, ITEMS, FACTOR = 3, 4, 3.0
SOURCE = """
#if defined(__AVX512F__)
#define VECTOR_FLOATS 16
#elif defined(__AVX__)
#define VECTOR_FLOATS 8
#elif defined(__SSE__) || defined(__ARM_NEON)
#define VECTOR_FLOATS 4
#else
#define VECTOR_FLOATS 0
#endif

__kernel __attribute__((reqd_work_group_size(4, 1, 1))) void probe(
    __global const float *x, __global float *y, const float factor)
{
    __local float kept[4];
    const int i = get_local_id(0), g = get_group_id(0);
    kept[i] = x[g * 4 + i];
    barrier(CLK_LOCAL_MEM_FENCE);
    y[g * 4 + i] = factor * kept[3 - i] + g;
    if (g == 0 && i == 0) y[get_num_groups(0) * 4] = VECTOR_FLOATS;
}
"""

# Functions that ask for wider vectors than the compiler takes by itself get them. The probe does
# what kernels that ask do, with local memory and several work-groups: y[16 * g + i] = (g + i)**2.
WIDE_TARGET = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
WIDE_GROUPS = 5
WIDE_SOURCE = """
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


@dataclass(frozen=True)
class Finding:
    """What a small kernel showed of a device.

    `why_not` is None where it was built and right, else why nothing can run there, in the driver's
    own words. `vector_floats` is the width of a CPU's vectors as the compiler makes them, in
    float32 values, 0 where it does not tell; `instruction_sets` is what functions have to ask it
    for to have 16, "" where none need to or can.
    """

    why_not: str | None = None
    vector_floats: int = 0
    instruction_sets: str = ""


# Memory


def cpu_info() -> str:
    """What Linux says of the first core; "" elsewhere."""
    try:
        return CPU_INFO.read_text().partition("\n\n")[0]
    except OSError as error:
        _log.info("%s cannot be read: %s", CPU_INFO, error)
        return ""


@lru_cache(maxsize=1)
def _processor() -> str:
    """The processor that a CPU driver compiles for."""
    named = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
    lines = [line for line in cpu_info().splitlines() if line.startswith(named)]
    return "\n".join(lines) or f"{system.machine()} {system.processor()}"


def _key(device: Any) -> str:
    platform = device.platform
    names = (device.name, device.version, device.driver_version, device.vendor)
    return binaries.key(
        SOURCE,
        WIDE_SOURCE,
        platform.name,
        platform.version,
        *names,
        _processor(),
        json.dumps(settings.driver_choices()),
    )


_findings: dict[str, Finding] = {}  # of this process, one for each device and driver


def _path(key: str) -> Path:
    return settings.cache_folder() / "devices" / f"{key}.json"


def remembered(device: Any) -> Finding | None:
    """What was found of a device in this process or an earlier one, None if nothing; builds
    nothing."""
    key = _key(device)
    if key in _findings:
        return _findings[key]
    path = _path(key)
    try:
        fields = json.loads(path.read_bytes())
        found = Finding(fields["why_not"], int(fields["vector_floats"]), fields["instruction_sets"])
        if not isinstance(found.why_not, str | None) or not isinstance(found.instruction_sets, str):
            raise TypeError("a text was expected")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s is damaged, trying the device anew: %s", path, error)
        return None
    return _findings.setdefault(key, found)


def finding(device: Any) -> Finding:
    """What was found of a device, now if not before."""
    return remembered(device) or probe(device)


def probe(device: Any) -> Finding:
    """Builds and runs a small kernel on a device, and remembers what that showed."""
    found, lasting = _try(device)
    key = _key(device)
    _findings[key] = found
    if lasting:
        path = _path(key)
        try:
            disk.write(path, json.dumps(asdict(found)).encode())
            disk.trim(path.parent, FINDINGS_KEPT)
        except OSError as error:
            _log.info("%s keeps nothing of devices: %s", path.parent, error)
    return found


# What is tried


def _try(device: Any) -> tuple[Finding, bool]:
    """What a device shows, and whether it would show the same another time."""
    prepare_invoker()
    try:
        context = cl.Context([device])
        program = built(context, device, SOURCE, "probe", ("-cl-std=CL1.2",))
        if program is None:
            return Finding("its compiler builds programs without their kernels"), True
        expected, result = _run(context, device, program)
        if not np.array_equal(result[:-1], expected):
            return Finding("it computes wrongly: a small kernel gave another result"), True
        width = int(result[-1])
        wide = _wide_target(context, device) if _may_ask(device, width) else ""
        return Finding(None, width, wide), True
    except cl.MemoryError as error:  # maybe others hold the memory for now
        return Finding(FAULT.format(reason(error))), False
    except cl.Error as error:
        return Finding(FAULT.format(reason(error))), True


def _run(context: Any, device: Any, program: Any) -> tuple[Any, Any]:
    """The results that are right, and those of the device with the vector's width behind them."""
    x = np.arange(GROUPS * ITEMS, dtype=np.float32).reshape(GROUPS, ITEMS)
    result = np.zeros(GROUPS * ITEMS + 1, np.float32)
    flags = cl.mem_flags
    source = cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=x)
    target = cl.Buffer(context, flags.WRITE_ONLY, result.nbytes)
    queue = cl.CommandQueue(context, device)
    kernel: Any = cl.Kernel(program, "probe")
    kernel(queue, (x.size,), (ITEMS,), source, target, np.float32(FACTOR))
    cl.enqueue_copy(queue, result, target)
    return (np.float32(FACTOR) * x[:, ::-1] + np.arange(GROUPS)[:, None]).ravel(), result


def _may_ask(device: Any, width: int) -> bool:
    """Whether the driver says 16 floats, and its compiler makes fewer by itself."""
    return 0 < width < 16 and min(16, int(device.native_vector_width_float)) == 16


def _wide_target(context: Any, device: Any) -> str:
    """What functions ask for to have vectors of 16 floats; "" where they would not run or not be
    right."""
    flags = re.search(r"^flags\s*:(.*)$", cpu_info(), re.MULTILINE)
    if flags is None or not set(WIDE_TARGET) <= set(flags[1].split()):
        return ""
    target = ",".join(WIDE_TARGET)
    try:
        program = built(context, device, WIDE_SOURCE % target, "squares", ())
        if program is None:
            return ""
        kernel: Any = cl.Kernel(program, "squares")
        queue = cl.CommandQueue(context, device)
        squares = np.zeros((WIDE_GROUPS, 16), np.float32)
        result = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, squares.nbytes)
        kernel(queue, (WIDE_GROUPS,), (1,), result)
        cl.enqueue_copy(queue, squares, result)
    except cl.Error as error:
        _log.info("functions cannot ask for %s: %s", target, error)
        return ""
    expected = np.add.outer(np.arange(WIDE_GROUPS), np.arange(16)) ** 2
    return target if np.array_equal(squares, expected) else ""


def reason(error: Exception) -> str:
    """The line of a driver's error that says most: a compiler's own error, else the first."""
    text = str(error)
    log = text.partition("\nBuild on ")[2].partition("\n")[2].partition("\n(options:")[0]
    lines = [line.strip() for line in (log or text).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [type(error).__name__])[0]
