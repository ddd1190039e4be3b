"""Which GPUs are in the machine, and why does no OpenCL driver show one? Where Linux tells.

A card without a driver is in no list of OpenCL's, so that what is wrong with it cannot be told from
there. The system's list of devices on the PCI bus has it, with its maker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clconv import settings

__all__ = ["hidden"]

PCI = Path("/sys/bus/pci/devices")
NODES = Path("/dev/dri")
# Classes of PCI devices that compute: displays of any kind, and accelerators without a display.
CLASSES = ("0x03", "0x12")


class _Maker(NamedTuple):
    """A maker of GPUs: its name, how its OpenCL drivers' vendor may begin, what to install, and
    whether the drivers open the kernel's render nodes; what Mesa calls its driver, "" if nothing
    here depends on it."""

    name: str
    vendors: tuple[str, ...]
    install: str
    has_nodes: bool = True
    mesa: str = ""


# By the number on the PCI bus.
MAKERS = {
    0x1002: _Maker(
        "AMD", ("advanced micro devices", "amd", "ati "),
        "install ROCm's OpenCL (rocm-opencl-icd; rocm-opencl-runtime from AMD's repository) or "
        "Mesa's (mesa-opencl-icd, with RUSTICL_ENABLE=radeonsi)",
        mesa="radeonsi",
    ),
    0x10DE: _Maker(
        "NVIDIA", ("nvidia",),
        "install NVIDIA's driver; where it is, the package with its OpenCL (nvidia-opencl-icd)",
        has_nodes=False,
    ),
    0x8086: _Maker("Intel", ("intel",), "install Intel's compute runtime (intel-opencl-icd)"),
}  # fmt: skip


def hidden(shown: Iterable[str]) -> list[str]:
    """A line for each maker of a GPU in this machine that no OpenCL driver shows, with what helps;
    none where the system does not tell.

    `shown` are the vendors of the GPUs that drivers show.
    """
    known = [vendor.strip().lower() for vendor in shown]
    return [
        f"this machine has a GPU of {maker.name}'s that no OpenCL driver shows: {_remedy(maker)}"
        for number, maker in MAKERS.items()
        if number in _numbers() and not any(vendor.startswith(maker.vendors) for vendor in known)
    ]


def _numbers() -> set[int]:
    """The makers of what computes on the PCI bus."""
    found = set()
    for device in PCI.glob("*"):
        try:
            if (device / "class").read_text().startswith(CLASSES):
                found.add(int((device / "vendor").read_text(), 16))
        except (OSError, ValueError):
            continue  # taken out meanwhile, or of another form: nothing is known of it
    return found


def _remedy(maker: _Maker) -> str:
    """What keeps the driver from it, as far as that can be seen; else what to install."""
    if maker.has_nodes:
        nodes = sorted(NODES.glob("renderD*"))
        if not nodes:
            return (
                f"there is no {NODES}/renderD*, through which drivers reach it; the kernel's "
                "driver makes it, and a container gets it by --device /dev/dri --device /dev/kfd"
            )
        if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
            return (
                f"you may not open {nodes[0]}: `sudo usermod -aG render,video $USER`, and log in "
                "again"
            )
    if maker.mesa and _has_rusticl():
        enabled = settings.driver_choices().get("RUSTICL_ENABLE", "")
        if maker.mesa not in enabled:
            return f"Mesa's driver is installed, and shows it with RUSTICL_ENABLE={maker.mesa} set"
    return maker.install


def _has_rusticl() -> bool:
    """Whether the loader knows Mesa's OpenCL."""
    folder = Path(settings.icd_vendors() or settings.icd_folder())
    return any("rusticl" in path.name.lower() for path in folder.glob("*.icd"))
