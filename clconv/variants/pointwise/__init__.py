"""For CPUs, one tap and no stride: rows read in place, all channels summed in registers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Request, layout_refusal
from clconv.variants.pointwise import convolution
from clconv.variants.pointwise.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "pointwise"
ERROR_CLASS = EXACT


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: not a CPU, more taps, a stride, float16, a gradient of
    parameters, or positions that are not contiguous."""
    problem, device = request.problem, request.device
    if device.vector_floats == 1:
        return f"it is for CPUs, {device.name} has no vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if problem.dtype == np.float16:
        return "dtype is float16, which would be converted for every tile of channels"
    if request.pass_ not in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        return "it computes no gradients of parameters"
    if problem.kernel_size > 1:
        return f"kernel_size is {problem.kernel_size}, expected 1"
    if problem.stride > 1:
        return f"stride is {problem.stride}, expected 1"
    if device.local_bytes < convolution.LEAST_LOCAL_BYTES:
        return (
            f"{device.name} has {device.local_bytes} bytes of local memory, "
            f"it takes {convolution.LEAST_LOCAL_BYTES}"
        )
    return layout_refusal(request)


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit a core's registers."""
    yield from convolution.designs(request)
