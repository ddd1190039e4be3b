"""How much local memory a window's work-group may take, and for how few channels that pays."""

from __future__ import annotations

from clconv.variants.base import Request, accumulator

__all__ = ["FEW_CHANNELS", "room"]

# Channels a group, read or written, of which products of matrices would waste most of a tile.
FEW_CHANNELS = 4
# Local memory that a work-group takes at most, so that a compute unit holds several.
MOST_LOCAL_BYTES = 16 << 10


def room(request: Request) -> int:
    """Elements of local memory that a work-group may take."""
    most = min(request.device.local_bytes // 2, MOST_LOCAL_BYTES)
    return most // accumulator(request.problem.dtype).itemsize
