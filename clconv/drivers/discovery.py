"""Which OpenCL devices there are, and which one a caller means. Listing them builds nothing."""

from __future__ import annotations

import ctypes
import logging
import os
import platform as system
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyopencl as cl

from clconv import settings
from clconv.drivers import cards, icd
from clconv.drivers.probe import cpu_info, finding, probe, reason, remembered
from clconv.errors import DeviceError, OutOfMemoryError, to_install
from clconv.planning.profiles import DeviceProfile, launch_seconds, processor, refined, with_core

__all__ = [
    "DeviceInfo",
    "check",
    "check_process",
    "choose",
    "devices",
    "driver_errors",
    "find",
    "full_name",
    "hidden_gpus",
    "info_of",
    "meant",
    "profile_of",
    "refusal",
    "require",
]

_log = logging.getLogger(__name__)

INSTALL = (
    f"on x86-64 Linux and Windows a driver for every processor comes with {to_install('cpu')} (on "
    f"Linux a smaller one for many with {to_install('pocl')}), elsewhere conda-forge has PoCL; for "
    "a GPU, the vendor's driver with OpenCL"
)
NO_PLATFORM = f"no OpenCL platform found; install one: {INSTALL}"
FORKED = (
    "OpenCL was started in process {0} and cannot be used in its forked child {1}; "
    "start workers with the 'spawn' or 'forkserver' method of multiprocessing"
)

# Platforms that drive the devices of several vendors; a vendor's own goes before them.
SHARED_PLATFORMS = ("portable computing language", "rusticl", "clover")
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
KINDS = ("discrete GPU", "integrated GPU", "accelerator", "CPU")
# What users call them; the order within each is that of `devices()`.
KINDS_ASKED_FOR = {
    "gpu": ("discrete GPU", "integrated GPU"),
    "cpu": ("CPU",),
    "accelerator": ("accelerator",),
}

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


def _let_children_end() -> None:
    """Lets forked children end, where OpenCL was started before the fork: at the end of a process
    drivers finish what is queued, and wait there for threads which only the parent has. Handlers of
    C that were registered before the fork do not run, nor do destructors; C's files are flushed."""
    c = ctypes.CDLL(None)
    if not hasattr(c, "on_exit"):  # musl and macOS have none
        return
    # Looked up now: at the fork another thread may be amid that, whose lock a child would wait for.
    on_exit, at_exit, end, flush = c.on_exit, c.__cxa_atexit, c._exit, c.fflush

    def after_fork() -> None:
        if _started_in is not None:
            # The last one runs first, before those that take down the drivers.
            on_exit(end, None)
            at_exit(flush, None, None)

    os.register_at_fork(after_in_child=after_fork)


if hasattr(os, "register_at_fork"):
    _let_children_end()


@dataclass(frozen=True)
class DeviceInfo:
    """One OpenCL device.

    Attributes:
        id: "platform:device".
        index: its place in `devices()`.
        name: what the driver calls it; AMD's calls a GPU by its architecture, such as "gfx1101".
        board: the card's name where the driver has another one for that, else "".
        vendor: who made it.
        platform: the platform's name.
        kind: "discrete GPU", "integrated GPU", "accelerator" or "CPU".
        version: that of OpenCL.
        driver: the driver's version.
        compute_units: how many there are.
        global_bytes: bytes of its memory.
        local_bytes: bytes of local memory that a work-group may have.
        max_work_group_size: the most work-items of a work-group.
        fp16: whether it has half-precision arithmetic.
        fp64: whether it has double-precision arithmetic.
        is_default: whether `Runtime()` takes it.
        why_not: why nothing can run there, None where it can.
    """

    id: str
    index: int
    name: str
    board: str
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


def refusal(device: Any) -> str | None:
    """Why nothing can run on a device by what its driver says itself; builds nothing."""
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


def _board(device: Any, extensions: Sequence[str]) -> str:
    """The card's name, by a question of AMD's."""
    if "cl_amd_device_attribute_query" not in extensions:
        return ""
    try:
        return str(device.board_name_amd).strip()
    except cl.Error as error:
        _log.info("%s does not tell its board's name: %s", device.name, error)
        return ""


def _describe(device: Any, place: str, platform: str) -> dict[str, Any]:
    extensions = device.extensions.split()
    return {
        "id": place,
        "name": device.name.strip(),
        "board": _board(device, extensions),
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
        "why_not": refusal(device),
    }


_announced: bool | None = None


def _announce_drivers() -> None:
    """Makes what pip installed known to the OpenCL loader, once in a process."""
    global _announced
    with _starting:
        if _announced is None:
            _announced = icd.announce()


def _platforms() -> list[Any]:
    check_process()
    settings.keep_cpu_workers_apart()
    _announce_drivers()
    try:
        found = list(cl.get_platforms())
    except cl.Error as error:
        if error.code not in (-1001, -32):  # PLATFORM_NOT_FOUND_KHR, INVALID_PLATFORM: none
            raise DeviceError(f"the OpenCL platforms cannot be listed: {reason(error)}") from error
        found = []
    if _announced and all(one.name.strip() != icd.PLATFORM for one in found):
        _warn_once(
            f"{icd.PACKAGE} is installed, but its platform is not there: OpenCL was started in "
            "this process before clconv asked for devices, or the driver cannot be loaded. Call "
            "clconv.devices() before other code uses pyopencl"
        )
    return found


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


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
    for fields, device in found:
        if fields["why_not"] is None:
            known = remembered(device)
            fields["why_not"] = known.why_not if known is not None else None
    usable = [fields["why_not"] is None for fields, _ in found]
    default = usable.index(True) if True in usable else -1
    return [
        Found(DeviceInfo(index=i, is_default=i == default, **fields), device)
        for i, (fields, device) in enumerate(found)
    ]


def devices() -> list[DeviceInfo]:
    """All OpenCL devices, best first; builds nothing.

    Returns:
        A list, empty where there is no platform. Devices on which nothing can run have `why_not`.

    Examples:
        >>> [device.is_default for device in devices()].count(True)
        1
    """
    return [found.info for found in find()]


def info_of(device: Any) -> DeviceInfo:
    """The DeviceInfo of a pyopencl Device."""
    for found in find():
        if found.device == device:
            return found.info
    # A sub-device is in no list.
    fields = _describe(device, "", device.platform.name.strip())
    return DeviceInfo(index=-1, is_default=False, **fields)


def full_name(info: DeviceInfo) -> str:
    """Its name, and its board's behind it where that is another one."""
    return f"{info.name} ({info.board})" if info.board not in ("", info.name) else info.name


def hidden_gpus(found: Sequence[DeviceInfo]) -> list[str]:
    """A line for each maker of a GPU in this machine that is not among the devices; why, as far as
    the system tells, and what helps."""
    return cards.hidden(
        info.vendor for info in found if info.kind in ("discrete GPU", "integrated GPU")
    )


def _table(found: list[Found]) -> str:
    return "; ".join(f"{one.info.index} = {one.info.id} {full_name(one.info)}" for one in found)


def _named(one: Found) -> str:
    return f"{one.info.name} ({one.info.platform}, {one.info.driver})"


def _remedy(kind: str) -> str:
    """What helps where a driver fails, on this system."""
    if kind != "CPU":
        return "a newer driver of the vendor's may help, or another device: CLCONV_DEVICE=cpu"
    if sys.platform in ("linux", "win32") and system.machine().lower() in ("x86_64", "amd64"):
        return f"a driver for every x86-64 processor comes with {to_install('cpu')}"
    return "a newer driver may help, such as PoCL from conda-forge"


def _working(candidates: Sequence[Found], meaning: str) -> Any:
    """The first device that builds and runs a small kernel, with a warning of those before it.

    Raises DeviceError with the reasons where none does. `meaning` says what was asked for.
    """
    faults: list[tuple[Found, str]] = []
    for one in candidates:
        why = refusal(one.device) or finding(one.device).why_not
        if why is None:
            if faults:
                told = "; ".join(f"{_named(bad)} is left out: {why}" for bad, why in faults)
                _warn_once(f"{told}. {_named(one)} is used. {_remedy(faults[0][0].info.kind)}")
            return one.device
        faults.append((one, why))
    # What is remembered from another time may no longer hold.
    for one, _ in faults:
        if one.info.why_not and not refusal(one.device) and not probe(one.device).why_not:
            return one.device
    told = "; ".join(f"{_named(bad)} cannot run: {why}" for bad, why in faults)
    raise DeviceError(f"{meaning}: {told}. {_remedy(faults[0][0].info.kind)}")


def require(device: Any) -> None:
    """DeviceError, with the driver's own line and a remedy, where a pyopencl Device builds and runs
    no small kernel."""
    _working([Found(info_of(device), device)], f"device is {device.name.strip()!r}")


def check(device: Any) -> str | None:
    """Tries a small kernel on a pyopencl Device again, and remembers what is wrong; None if
    nothing."""
    return refusal(device) or probe(device).why_not


def choose(wanted: object = None) -> Any:
    """The pyopencl Device that `wanted` means: None, an index, an id "platform:device", a kind
    ("gpu", "cpu", "accelerator") or part of the name of a device, its board or its platform; of
    several the first that works.

    None asks `CLCONV_DEVICE`, then `PYOPENCL_CTX`, then takes the first of all. Raises DeviceError
    that lists what there is, or says why nothing works.
    """
    found = meant(wanted)
    for said, value in (
        ("device", wanted),
        ("CLCONV_DEVICE", settings.device_choice()),
        ("PYOPENCL_CTX", settings.pyopencl_choice()),
    ):
        if value is not None:
            return _working(found, f"{said} is {value!r}")
    return _working(found, "no OpenCL device can run anything")


def meant(wanted: object = None) -> list[Found]:
    """The devices that `wanted` may mean, as for `choose`, best first; at least one. Builds
    nothing."""
    check_process()
    said = "CLCONV_DEVICE" if wanted is None else "device"
    if wanted is None:
        wanted = settings.device_choice()
    found = find()
    if not found:
        raise DeviceError(". ".join((NO_PLATFORM, *hidden_gpus([]))))
    if wanted is None:
        return found if settings.pyopencl_choice() is None else [_pyopencl_choice()]
    if isinstance(wanted, str) and wanted.strip().isdecimal():
        wanted = int(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
        raise DeviceError(
            f"device is {wanted!r}, expected None, an index, an id, a kind, part of a name, or a "
            "pyopencl Device, Context or CommandQueue"
        )
    if isinstance(wanted, int):
        if not 0 <= wanted < len(found):
            raise DeviceError(f"{said} is {wanted}, expected an index of: {_table(found)}")
        return [found[wanted]]
    text = wanted.strip().lower()
    matching = [one for one in found if text == one.info.id]
    if text in KINDS_ASKED_FOR:
        matching = [one for one in found if one.info.kind in KINDS_ASKED_FOR[text]]
    elif text and not matching:
        # All names at once: "amd" means a GPU of the platform "AMD …" before a CPU named so.
        matching = [one for one in found if text in _names(one.info)]
    if not matching:
        told = f"{said} is {wanted!r}, which matches none of: {_table(found)}"
        raise DeviceError(". ".join((told, *hidden_gpus([one.info for one in found]))))
    return matching


def _names(info: DeviceInfo) -> str:
    """What a part of a name may be part of; no such part goes over the end of a line."""
    return "\n".join((info.name, info.board, info.platform)).lower()


def _pyopencl_choice() -> Found:
    """The device that `PYOPENCL_CTX` names."""
    try:
        device = cl.create_some_context(interactive=False).devices[0]
    except (cl.Error, RuntimeError) as error:
        raise DeviceError(
            f"PYOPENCL_CTX is {settings.pyopencl_choice()!r}, which names no device: {error}"
        ) from error
    return Found(info_of(device), device)


@contextmanager
def driver_errors(device: str, doing: str) -> Iterator[None]:
    """Makes what a driver raises clconv's own errors: `device` could not do what `doing` says.

    Raises OutOfMemoryError, DeviceError.
    """
    try:
        yield
    except cl.MemoryError as error:
        raise OutOfMemoryError(f"{device} has no room to {doing}: {reason(error)}") from error
    except cl.Error as error:
        raise DeviceError(f"{device} cannot {doing}: {reason(error)}") from error


# What planning wants to know


def _vectors(device: Any) -> tuple[int, str]:
    """float32 values of a CPU's vector register, as the driver reports and its compiler makes it;
    and what functions have to ask the compiler for to have 16, "" where none need to or can."""
    reported = max(1, min(16, int(device.native_vector_width_float)))
    found = finding(device)
    return min(reported, found.vector_floats or reported), found.instruction_sets


def _processor() -> str:
    """The profile that has the processor's kind of core, as far as the system tells."""
    fields = dict(re.findall(r"^(vendor_id|cpu family|model)\s*: (.*)$", cpu_info(), re.MULTILINE))
    family, model = (int(fields.get(name, 0)) for name in ("cpu family", "model"))
    return processor(fields.get("vendor_id", ""), family, model, system.machine())


def _data_caches() -> dict[str, Any]:
    """Bytes of the caches that a core has by the profile's names, where Linux tells."""
    names = {"1": "l1_bytes", "2": "l2_bytes", "3": "l3_bytes"}
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
    """The planner's numbers of a device: what its driver reports, what is known of GPUs and of
    processors and, of a CPU's caches, what the system says."""
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
        native_half="cl_khr_fp16" in device.extensions.split(),
        instruction_sets=asked,
        launch_seconds=launch_seconds(device.platform.name.strip()),
    )
    if not cpu:
        return refined(reported, _architecture(device))
    known = with_core(reported, _processor())
    # Drivers tell a nominal clock, or none.
    clock = max(known.clock, 1e6 * int(device.max_clock_frequency))
    return replace(known, clock=clock, **_data_caches())
