"""For CPUs, one input channel a group: rows read in place, vectors of positions in registers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Layout, Request, accumulator, layout_refusal
from clconv.variants.depthwise import channels, convolution, weight_gradient
from clconv.variants.depthwise.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "depthwise"
ERROR_CLASS = EXACT

# Taps are kept beside the sums.
MOST_TAPS = 4096


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: not a CPU, more input channels, a stride, too wide a window."""
    problem, device = request.problem, request.device
    if device.vector_floats == 1:
        return f"it is for CPUs, {device.name} has no vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients of their own"
    if _lanes_are_channels(request):
        return channels.refusal(request)
    if not request.in_rows:
        return layout_refusal(request)
    if problem.group_in > 1:
        return f"a group has {problem.group_in} input channels, expected 1"
    if request.pass_ is Pass.INPUT_GRADIENT and problem.group_out > 1:
        return f"a group has {problem.group_out} output channels, expected 1 for this pass"
    if problem.stride > 1:
        return f"stride is {problem.stride}, expected 1"
    if problem.kernel_size > MOST_TAPS:
        return f"kernel_size is {problem.kernel_size}, expected at most {MOST_TAPS}"
    room = device.local_bytes // 2 // accumulator(problem.dtype).itemsize
    if convolution.STRIP_POSITIONS + problem.window + 64 > room:
        return f"the window is {problem.window} samples wide, local memory has room for {room}"
    wanted = weight_gradient.local_bytes(request)
    if request.pass_ is Pass.WEIGHT_GRADIENT and wanted > device.local_bytes // 2:
        return f"the taps' sums take {wanted} bytes, expected half of {device.local_bytes} at most"
    return None


def _lanes_are_channels(request: Request) -> bool:
    return request.x_layout is request.y_layout is Layout.CHANNELS


def designs(request: Request) -> Iterator[Design]:
    """A design for some numbers of vectors or taps in registers."""
    if _lanes_are_channels(request):
        yield from channels.designs(request)
        return
    weights = request.pass_ is Pass.WEIGHT_GRADIENT
    yield from (weight_gradient if weights else convolution).designs(request)
