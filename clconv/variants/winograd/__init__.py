"""Two or three taps a phase: tiles of outputs by Winograd's transforms, products of channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import Design, ErrorClass, Request, layout_refusal, vector_lanes
from clconv.variants.winograd import convolution, planes, weight_gradient
from clconv.variants.winograd.bound import bound
from clconv.variants.winograd.examples import EXAMPLES
from clconv.variants.winograd.tiles import tile_outputs
from clconv.variants.winograd.work import LEAST_LOCAL_BYTES, Work

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "winograd"
ERROR_CLASS = ErrorClass("Winograd", bound)

# With fewer channels, of a group, transforms take longer than the products that they save.
FEWEST_CHANNELS = 4


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: another pass, more or fewer taps, a stride and a dilation, few
    channels; on CPUs so many that a vector of tiles does not fit into memory."""
    problem, device = request.problem, request.device
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients"
    if device.vector_floats == 1 and problem.stride > 1:
        return f"stride is {problem.stride}, expected 1 on a GPU"
    if not tile_outputs(problem, request.pass_):
        least = 4 if request.pass_ is Pass.INPUT_GRADIENT else 3
        return (
            f"kernel_size is {problem.kernel_size}, stride {problem.stride} and dilation "
            f"{problem.dilation}, expected 2 or 3 taps, or {least} to 6 and a stride of 2 alone"
        )
    if min(problem.group_in, problem.group_out) < FEWEST_CHANNELS:
        return (
            f"a group has {problem.group_in} input channels and {problem.group_out} output "
            f"channels, expected at least {FEWEST_CHANNELS} of both"
        )
    if device.vector_floats == 1:
        return layout_refusal(request) or planes.refusal(request)
    if vector_lanes(device, problem.dtype) < 2:
        return f"vectors of {device.name} hold one {problem.dtype.name}"
    if device.local_bytes < LEAST_LOCAL_BYTES:
        return (
            f"{device.name} has {device.local_bytes} bytes of local memory, "
            f"it takes {LEAST_LOCAL_BYTES}"
        )
    if request.pass_ is Pass.WEIGHT_GRADIENT:
        if not any(True for _ in weight_gradient.gradients(request.asking())):
            return f"a tile does not fit into {device.local_bytes} bytes of local memory"
        return layout_refusal(request)
    if not any(True for _ in convolution.works(request.asking())):
        channels = Work(request, tile_outputs(problem, request.pass_)[-1], 8, 1).tiles.channels
        return (
            f"{channels} channels are summed over, whose transformed samples do not fit into a "
            f"second-level cache of {device.l2_bytes} bytes"
        )
    return layout_refusal(request)


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of outputs, on CPUs for each of sums, too."""
    if request.device.vector_floats == 1:
        yield from planes.designs(request)
    elif request.pass_ is Pass.WEIGHT_GRADIENT:
        yield from weight_gradient.designs(request)
    else:
        yield from convolution.designs(request)
