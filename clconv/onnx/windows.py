"""Nodes on the device that read windows along the last axis: pooling, and changes of its length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clconv.errors import ProblemError
from clconv.geometry import outputs_of_pool
from clconv.onnx import kernels
from clconv.onnx.elementwise import Inputs, same
from clconv.onnx.graph import Node
from clconv.onnx.work import OnHost, Value, Work, counted
from clconv.variants.base import accumulator

__all__ = ["pool", "resize"]


def _one(node: Node, name: str, axis: int, rank: int, default: int) -> int:
    """A number of an axis, of those of all spatial axes."""
    given = node.attributes.get(name)
    if given is None:
        return default
    if len(given) != rank - 2:
        raise ProblemError(f"{name} is {list(given)}, expected {rank - 2} for shape of {rank}")
    return int(given[axis - 2])


def _pads(node: Node, axis: int, rank: int) -> tuple[int, int]:
    given = node.attributes.get("pads", [0] * (2 * rank - 4))
    if len(given) != 2 * rank - 4:
        raise ProblemError(f"pads is {list(given)}, expected {2 * rank - 4} for shape of {rank}")
    return int(given[axis - 2]), int(given[axis + rank - 4])


def _pooled_axis(node: Node, x: Value) -> int:
    """The spatial axis, where there are two that of which the other is 1 wide. Raises OnHost."""
    rank = len(x.shape)
    if rank == 3:
        return 2
    if rank == 4:
        for axis, other in ((3, 2), (2, 3)):
            plain = _one(node, "kernel_shape", other, rank, 0) == 1
            if x.shape[other] == 1 and plain and _pads(node, other, rank) == (0, 0):
                return axis
    raise OnHost(f"{x.name} has {rank} dimensions")


def pool(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """MaxPool and AveragePool of one spatial axis, or of two of which one is 1 wide."""
    (x,) = [one for one in inputs if one is not None]
    work.check(x)
    axis, rank = _pooled_axis(node, x), len(x.shape)
    if len([name for name in node.outputs if name]) > 1:
        raise OnHost("indices are wanted")
    get = node.attributes.get
    kernel_size = _one(node, "kernel_shape", axis, rank, 0)
    stride, dilation = (_one(node, one, axis, rank, 1) for one in ("strides", "dilations"))
    window = kernel_size, stride, dilation
    if min(window) < 1:
        raise ProblemError(f"kernel_shape, strides and dilations are {window}, expected at least 1")
    length = x.shape[axis]
    windows = outputs_of_pool(
        length, window, _pads(node, axis, rank), get("auto_pad", "NOTSET"),
        bool(get("ceil_mode", 0)),
    )  # fmt: skip
    if windows.outputs < 1:
        raise ProblemError(f"{x.name} has {length} positions, expected a window of {window}")
    if max(windows.left, windows.right) >= windows.reach:
        raise OnHost(f"pads are {[windows.left, windows.right]}: whole windows lie in the padding")
    mode = "maximum" if node.op == "MaxPool" else "average"
    rows = work.dense(x).view((*x.shape[:2], length))
    made = kernels.pool(
        work.recorder, rows, windows.outputs, mode, window, (windows.left, windows.right),
        bool(get("count_include_pad", 0)),
    )  # fmt: skip
    shape = tuple(windows.outputs if i == axis else n for i, n in enumerate(x.shape))
    return [Value.of(node.outputs[0], made.view(shape))]


# Another length


def _wanted(work: Work, x: Value, node: Node, inputs: Inputs) -> tuple[int, float]:
    """(positions, scale) of the last axis. Raises OnHost where others change."""
    scales: Any = node.attributes.get("scales")
    sizes = None
    if node.op == "Upsample" or node.version < 11:
        if len(inputs) > 1:
            scales = work.known(inputs[1])
    else:
        if len(inputs) > 2 and inputs[2] is not None:
            scales = work.known(inputs[2])
        if len(inputs) > 3:
            sizes = work.known(inputs[3])
    rank = len(x.shape)
    axes = [counted("axes", axis, rank) for axis in node.attributes.get("axes", range(rank))]
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise OnHost("its sizes keep a ratio")
    if scales is not None and len(scales):
        factors = dict(zip(axes, map(float, scales), strict=True))
        changed = [axis for axis, factor in factors.items() if factor != 1]
        factor = factors.get(rank - 1, 1.0)
        wanted = math.floor(x.shape[-1] * factor)
    else:
        if sizes is None:
            raise ProblemError("neither scales nor sizes are given")
        counts = dict(zip(axes, map(int, sizes), strict=True))
        changed = [axis for axis, count in counts.items() if count != x.shape[axis]]
        wanted = counts.get(rank - 1, x.shape[-1])
        factor = wanted / x.shape[-1]
    if [axis for axis in changed if axis != rank - 1] or wanted < 1:
        raise OnHost("another axis than the last changes")
    return wanted, factor


def _sources(mode: str, length: int, wanted: int, scale: float) -> Any:
    """Where in the input each output position lies, in samples."""
    # Indices are no tensor data; float64 is what the operator's definition leaves open.
    q = np.arange(wanted, dtype=np.float64)
    if mode == "asymmetric":
        return q / scale
    if mode == "half_pixel":
        return (q + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (q + 0.5) / scale - 0.5 if wanted > 1 else q * 0
    if mode == "align_corners":
        return q * (length - 1) / (wanted - 1) if wanted > 1 else q * 0
    if mode == "half_pixel_symmetric":
        adjusted = wanted / (scale * length)
        return length / 2 * (1 - adjusted) + (q + 0.5) / scale - 0.5
    raise OnHost(f"its coordinates are {mode}")


def _nearest(mode: str, places: Any) -> Any:
    if mode == "round_prefer_floor":
        return np.ceil(places - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(places + 0.5)
    return np.floor(places) if mode == "floor" else np.ceil(places)


def resize(work: Work, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """Resize and Upsample along the last axis, to the nearest sample or between two."""
    x = inputs[0]
    assert x is not None
    work.check(x)
    get = node.attributes.get
    mode = get("mode", "nearest")
    if mode not in ("nearest", "linear") or get("antialias", 0) or get("exclude_outside", 0):
        raise OnHost(f"its mode is {mode}, or it is antialiased")
    wanted, scale = _wanted(work, x, node, inputs)
    length = x.shape[-1]
    if wanted == length and scale == 1:
        return same(work, node, inputs)
    older = node.op == "Upsample" or node.version < 11
    coordinates = "asymmetric" if older else get("coordinate_transformation_mode", "half_pixel")
    places = _sources(coordinates, length, wanted, scale)
    source = work.dense(x)
    if mode == "nearest":
        rounding = "floor" if older else get("nearest_mode", "round_prefer_floor")
        near = np.clip(_nearest(rounding, places), 0, length - 1).astype(int).tolist()
        return [Value.of(node.outputs[0], kernels.take(work.recorder, source, work.table(near)))]
    below = np.floor(places)
    shares = np.where((below < 0) | (below >= length - 1), 0, places - below)
    first = np.clip(below, 0, length - 1)
    second = np.clip(below + 1, 0, length - 1)
    share = work.recorder.constant(shares.astype(accumulator(x.dtype)))
    here, there = (work.table(one.astype(int).tolist()) for one in (first, second))
    made = kernels.take(work.recorder, source, here, linear=(there, share))
    return [Value.of(node.outputs[0], made)]
