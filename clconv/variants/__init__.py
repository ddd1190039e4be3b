"""How a pass can be computed: one module an algorithm."""

from __future__ import annotations

from clconv.variants import depthwise, direct, gemm, strip, window
from clconv.variants.base import Variant

__all__ = ["VARIANTS"]

# In the order of preference among equals.
VARIANTS: tuple[Variant, ...] = (depthwise, strip, window, gemm, direct)
