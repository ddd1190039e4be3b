"""For GPUs, few channels a group: windows of rows in local memory, one launch for all groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Request, layout_refusal
from clconv.variants.window import convolution, weight_gradient
from clconv.variants.window.examples import EXAMPLES
from clconv.variants.window.room import FEW_CHANNELS, room

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "window"
ERROR_CLASS = EXACT


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: no GPU, many channels, windows too wide for local memory."""
    problem, device = request.problem, request.device
    if not request.in_rows:
        return layout_refusal(request)
    if device.vector_floats > 1:
        return f"it is for GPUs, {device.name} has vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients on their own"
    if min(problem.group_in, problem.group_out) > FEW_CHANNELS:
        return (
            f"a group has {problem.group_in} input and {problem.group_out} output channels, "
            f"expected at most {FEW_CHANNELS} of either"
        )
    if not any(True for _ in designs(request)):
        return (
            f"a window of {problem.window} samples with stride {problem.stride} does not fit "
            f"{room(request)} elements of local memory"
        )
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of a work-item that fits local memory."""
    weights = request.pass_ is Pass.WEIGHT_GRADIENT
    yield from (weight_gradient if weights else convolution).designs(request)
