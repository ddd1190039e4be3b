"""Which runtime does a device's name mean that is given to the backend?"""

from __future__ import annotations

import functools
from typing import Any

from clconv.drivers.discovery import choose, devices, info_of
from clconv.errors import DeviceError
from clconv.runtime import Runtime, default_runtime

__all__ = ["index_of", "runtime_of_name"]


@functools.cache
def _runtime_at(index: int) -> Runtime:
    """One runtime a device, so that models share programs and memory."""
    return Runtime(index)


def _cuda(device: str) -> int:
    """The index in `clconv.devices()` of ONNX's "CUDA" or "CUDA:1": NVIDIA's cards in order."""
    number = device.partition(":")[2] or "0"
    cards = [d for d in devices() if "nvidia" in d.vendor.lower() and d.why_not is None]
    if not number.isdecimal() or int(number) >= len(cards):
        names = ", ".join(f"CUDA:{i} = {card.name}" for i, card in enumerate(cards)) or "none"
        raise DeviceError(f"device is {device!r}, expected one of NVIDIA's that are here: {names}")
    return cards[int(number)].index


def index_of(device: Any) -> int | None:
    """The index in `clconv.devices()` that a device's name means, None for the default runtime."""
    if not isinstance(device, str):
        raise DeviceError(
            f"device is {device!r}, expected 'CPU' (the default runtime), 'CUDA', 'CUDA:1', an "
            "index or id of clconv.devices(), part of a device's name, or a Runtime"
        )
    if device in ("CPU", "CPU:0"):
        choose()  # DeviceError where there is none
        return None
    if device.partition(":")[0] == "CUDA":
        return _cuda(device)
    return info_of(choose(device)).index


def runtime_of_name(device: Any) -> Runtime:
    if isinstance(device, Runtime):
        return device
    index = index_of(device)
    return default_runtime() if index is None else _runtime_at(index)
