"""For GPUs: products of tiles in local memory, summed in registers, as an implicit GEMM."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Request, layout_refusal
from clconv.variants.gemm import convolution, weight_gradient
from clconv.variants.gemm.examples import EXAMPLES
from clconv.variants.gemm.tiles import Matrices, fitting

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "gemm"
ERROR_CLASS = EXACT

MAX_STRIDE = 2**20


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: no GPU, no float64, sizes beyond 32 bits, tiny work-groups."""
    problem, device = request.problem, request.device
    if not request.in_rows:
        return layout_refusal(request)
    if device.vector_floats > 1:
        return f"it is for GPUs, {device.name} has vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients on their own"
    if max(problem.group_in, problem.group_out) * problem.kernel_size >= 2**30:
        return f"a group has {problem.group_in * problem.kernel_size} weights a channel"
    if problem.stride > MAX_STRIDE:
        return f"stride is {problem.stride}, expected at most {MAX_STRIDE}"
    if not fitting(request):
        return (
            f"{device.name} takes work-groups of {device.max_work_group_size} with "
            f"{device.local_bytes} bytes of local memory, too small for any tile"
        )
    return None


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile that the device can run."""
    matrices = Matrices(request)
    for tile in fitting(request):
        # Tiles of which more than half would be empty are for fewer channels than these.
        if tile.rows > 32 and tile.rows >= 2 * matrices.rows:
            continue
        yield (weight_gradient if matrices.weights else convolution).design(matrices, tile)
