"""How can a pass be computed? One folder for each algorithm."""

from __future__ import annotations

from clconv.planning.profiles import DeviceProfile
from clconv.problem import Pass
from clconv.variants import depthwise, direct, gemm, pointwise, spectral, strip, window, winograd
from clconv.variants.base import Request, Variant

__all__ = ["VARIANTS", "serves"]

# In the order of preference among equals.
VARIANTS: tuple[Variant, ...] = (
    depthwise, pointwise, strip, window, gemm, direct, spectral, winograd,
)  # fmt: skip


def serves(variant: Variant, device: DeviceProfile) -> bool:
    """Whether a device is one that the variant is for: it serves a pass of some example there."""
    requests = (
        Request(problem, pass_, device) for problem in variant.EXAMPLES.values() for pass_ in Pass
    )
    return any(variant.refusal(request) is None for request in requests)
