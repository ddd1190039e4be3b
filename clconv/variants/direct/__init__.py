"""The portable variant: every pass of every problem on every device, from global memory alone.

The tile depends on what is compiled in and on the device, never on batch, length or padding, so
that a new batch or length finds its kernels compiled.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Request, layout_refusal
from clconv.variants.direct import bias_gradient, convolution, weight_gradient
from clconv.variants.direct.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "direct"
ERROR_CLASS = EXACT

PASSES = {
    Pass.FORWARD: convolution,
    Pass.INPUT_GRADIENT: convolution,
    Pass.WEIGHT_GRADIENT: weight_gradient,
    Pass.BIAS_GRADIENT: bias_gradient,
}


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve; only a float64 problem without float64 hardware."""
    if not request.in_rows:
        return layout_refusal(request)
    if request.problem.dtype == np.float64 and not request.device.fp64:
        return f"{request.device.name} has no float64"
    return None


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit the device's registers, for any pass."""
    yield from PASSES[request.pass_].designs(request)
