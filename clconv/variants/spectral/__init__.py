"""Tiles of samples by Fourier transforms, and products of channels at each point."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import Design, ErrorClass, Request, layout_refusal
from clconv.variants.spectral import convolution, rows, straight, weight_gradient
from clconv.variants.spectral.bound import bound
from clconv.variants.spectral.examples import EXAMPLES
from clconv.variants.spectral.kernels import row_sizes, sizes

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "spectral"
ERROR_CLASS = ErrorClass("Fourier transforms", bound)

# With fewer taps, of a phase of the stride, the definition's products are as few.
FEWEST_TAPS = 4


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: another pass, few or too many taps, both a stride and a
    dilation; on GPUs one channel a group."""
    problem, device = request.problem, request.device
    if not request.in_rows:
        return layout_refusal(request)
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients"
    if problem.stride > 1 and problem.dilation > 1:
        return (
            f"stride is {problem.stride} and dilation {problem.dilation}, expected 1 for one of "
            "them"
        )
    taps = -(-problem.kernel_size // problem.stride)
    if taps < FEWEST_TAPS:
        return (
            f"kernel_size is {problem.kernel_size} with stride {problem.stride}, expected at least "
            f"{FEWEST_TAPS} taps a phase of the stride"
        )
    if device.vector_floats == 1:
        return straight.refusal(request)
    if not _sizes(request):
        return (
            f"kernel_size is {problem.kernel_size} with stride {problem.stride}, for which no "
            f"tile is large enough and fits into {device.local_bytes} bytes of local memory"
        )
    return None


def _sizes(request: Request) -> list[int]:
    alone = request.pass_ is not Pass.WEIGHT_GRADIENT and rows.serves(request.problem)
    return row_sizes(request) if alone else sizes(request)


def designs(request: Request) -> Iterator[Design]:
    """A design for each size of a tile."""
    if request.device.vector_floats == 1:
        yield from straight.designs(request)
    elif request.pass_ is Pass.WEIGHT_GRADIENT:
        yield from weight_gradient.designs(request)
    elif rows.serves(request.problem):
        yield from rows.designs(request)
    else:
        yield from convolution.designs(request)
