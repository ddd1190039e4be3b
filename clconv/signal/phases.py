"""A resampling by one kernel: where does it serve, and how is the work cut?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array
from numpy.typing import NDArray

from clconv.calls.elementwise import contiguous, flat
from clconv.geometry import Resampling
from clconv.planning.profiles import DeviceProfile
from clconv.runtime import Runtime
from clconv.variants.base import (
    Kernel,
    Layout,
    Operand,
    ceil_div,
    grid,
    kernel_constants,
    scalars,
    vector_lanes,
)

__all__ = ["resample_rows", "serves"]

# Phases that share what they read of the strip. Their windows begin at different samples.
PHASES = 4
# Local memory of the strip at most, of which a task takes what it needs.
STRIP_BYTES = 128 << 10
# Windows that the samples of a period have room for, at least.
WINDOWS = 2
# Tasks a core, where there are as many periods and phases.
TASKS_A_CORE = 8


class _Cut(NamedTuple):
    """Phases of a period, and of a task."""

    phases: int
    part_phases: int


def serves(profile: DeviceProfile, of: Resampling, dtype: np.dtype[Any]) -> bool:
    """Whether a device has vectors, and room for the samples of some phases."""
    return profile.kind == "cpu" and _cut(profile, of, dtype, 1) is not None


def _strip(profile: DeviceProfile, dtype: np.dtype[Any]) -> int:
    """Rows of the strip; the same whatever is resampled, so that nothing is compiled again."""
    lanes = vector_lanes(profile, dtype)
    return min(STRIP_BYTES, profile.local_bytes) // (lanes * dtype.itemsize) - lanes


def _cut(profile: DeviceProfile, of: Resampling, dtype: np.dtype[Any], count: int) -> _Cut | None:
    """How `count` outputs of a row are cut; None where the fewest phases have no room."""
    lanes = vector_lanes(profile, dtype)
    taps = ceil_div(of.kernel_size, of.up)
    # Several periods count as one until their samples are more than a window's, if there are
    # enough for all lanes.
    whole = lanes // math.gcd(of.up, lanes)
    periods = ceil_div(ceil_div(WINDOWS * taps, of.down), whole) * whole
    wanted = TASKS_A_CORE * profile.compute_units
    for together in (max(1, min(periods, count // (of.up * lanes))), 1):
        phases = of.up * together
        part = ceil_div(phases, ceil_div(wanted, ceil_div(ceil_div(count, phases), lanes)))
        part = ceil_div(part, lanes) * lanes
        while part:
            samples = ceil_div(min(part, phases) * of.down, of.up) + taps + lanes
            if samples <= _strip(profile, dtype):
                return _Cut(phases, part)
            part = part // 2 // lanes * lanes
    return None


def _panel(h: NDArray[Any], up: int) -> NDArray[Any]:
    """(up, taps): those that meet a remainder, the last one first, behind zeros."""
    taps = ceil_div(h.shape[0], up)
    padded = np.zeros(taps * up, h.dtype)
    padded[: h.shape[0]] = h
    return np.ascontiguousarray(padded.reshape(taps, up)[::-1].T)


def resample_rows(
    runtime: Runtime, x: cl_array.Array, h: NDArray[Any], of: Resampling, y: cl_array.Array
) -> None:
    """Queues the outputs y (N, count), contiguous, of a resampling of x (N, L); h is (K,), of
    their dtype."""
    rows, count = y.shape
    if x.strides[1] != x.dtype.itemsize:
        x = contiguous(runtime, x)
    profile = runtime.profile
    cut = _cut(profile, of, x.dtype, count)
    assert cut is not None
    lanes = vector_lanes(profile, x.dtype)
    kernel = Kernel(
        "resample",
        (
            *kernel_constants(profile, x.dtype, lanes),
            ("phases", PHASES),
            ("strip", _strip(profile, x.dtype)),
        ),
        (
            Operand("x", Layout.FLAT),
            Operand("panel", Layout.FLAT),
            Operand("y", Layout.FLAT, written=True),
        ),
        scalars(
            "length up down kernel_size taps phases samples part_phases parts",
            "x_batch y_batch positions first shift blocks tasks",
        ),
        (1, 1, 1),
    )
    parts = ceil_div(cut.phases, cut.part_phases)
    blocks = ceil_div(ceil_div(count, cut.phases), lanes)
    tasks = rows * blocks * parts
    shift, first = divmod(of.first, of.up)
    launch = kernel.launch(
        (grid(tasks), 1, 1),
        length=x.shape[1], up=of.up, down=of.down, kernel_size=of.kernel_size,
        taps=ceil_div(of.kernel_size, of.up), phases=cut.phases,
        samples=cut.phases // of.up * of.down, part_phases=cut.part_phases, parts=parts,
        x_batch=x.strides[0] // x.dtype.itemsize, y_batch=count, positions=count, first=first,
        shift=shift, blocks=blocks, tasks=tasks,
    )  # fmt: skip
    panel = runtime.to_device(_panel(h, of.up))
    bound = {"x": flat(x), "panel": flat(panel), "y": flat(y)}
    runtime.run_one(launch, bound, {}, (x, panel), (y,))
