"""For CPUs: strips of the input in local memory, tiles of sums in vector registers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clconv.problem import Pass
from clconv.variants.base import EXACT, Design, Request
from clconv.variants.strip import convolution as strip_convolution
from clconv.variants.strip import weight_gradient as strip_weight_gradient
from clconv.variants.strip.examples import EXAMPLES
from clconv.variants.strip.geometry import LEAST_LOCAL_BYTES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "strip"
ERROR_CLASS = EXACT


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: no CPU, too little local memory, or too wide a window."""
    device = request.device
    if device.vector_floats == 1:
        return f"it is for CPUs, {device.name} has no vectors of its own"
    if request.problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if device.local_bytes < LEAST_LOCAL_BYTES:
        return (
            f"{device.name} has {device.local_bytes} bytes of local memory, "
            f"it takes {LEAST_LOCAL_BYTES}"
        )
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients on their own"
    why: str | None = _pass(request).refusal(request)
    return why


def designs(request: Request) -> Iterator[Design]:
    """The tiles that fit a core's registers."""
    yield from _pass(request).designs(request)


def _pass(request: Request) -> Any:
    weights = request.pass_ is Pass.WEIGHT_GRADIENT
    return strip_weight_gradient if weights else strip_convolution
