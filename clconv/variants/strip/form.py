"""How is the kernel of a tile written? This module decides, so that its templates need not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clconv.dtypes import is_short
from clconv.problem import Pass
from clconv.variants.base import Layout, Request, vector_lanes
from clconv.variants.strip.geometry import row_pitch

__all__ = ["Form", "form"]

# Vectors of products of a channel that are straight code at most; more would be long code.
MOST_UNROLLED = 144
# So few of them that the loop over channels costs beside them; and how many channels it takes at a
# time then.
FEW_UNROLLED, CHANNEL_UNROLL = 24, 4
# Products of a sum so few that what comes before and after them counts: addresses of the strip's
# vectors, and the loop from a tile to the next.
FEW_BESIDE_ADDRESSES, FEW_BESIDE_TILES = 32, 16
# Rows that are staged at once at most: more would be long code.
MOST_TOGETHER = 8
# Activations that cost less than a call, and are written at each store.
PLAIN_ACTIVATIONS = (None, "relu", "leaky_relu")
# Weights from a channel summed over to the next, so few that an int counts those of all channels.
SHORT_STRIDE = 2**20


@dataclass(frozen=True)
class Form:
    """A kernel's form: its fields are the templates' constants.

    packed: weights of 16 bits are converted once for a block of tiles, into local memory, since
        converting them at every use costs more.
    tile_strides: from a weight of a tile to that of the next channel written, of the next channel
        summed over, of the next tap.
    short_index: the product of a channel summed over and its stride needs no long.
    unrolled: the taps are straight code; those of a phase cannot be, their number depends on it.
    channel_unroll: channels that a turn of the loop over them takes where taps are straight code.
    side_by_side: vectors that lie side by side have sums of their own, with fewer addresses.
    rows_together: all rows of a stride are staged at once from the same loads.
    row_parts: then, for each row, what its vector is made of, step by step (`_row_parts`).
    plain_end: sums that are whole vectors are stored at once, without a test: nothing is read or
        written beside them but a bias.
    block_unrolled: tiles that follow one another at a place are straight code, although that takes
        longer to compile.
    """

    packed: bool
    tile_strides: tuple[int, int, int]
    short_index: bool
    unrolled: bool
    channel_unroll: int
    side_by_side: bool
    rows_together: bool
    row_parts: tuple[tuple[str, ...], ...]
    plain_end: bool
    block_unrolled: bool


def form(
    request: Request,
    weight_strides: tuple[int, int],
    rows: int,
    channel_tile: int,
    vectors: int,
    block_tiles: int,
    term_block: int,
) -> Form:
    """The form of a kernel whose weights have those strides (of a channel written, and summed over)
    and whose channels have that many rows of the strip, which holds `term_block` of them."""
    problem, epilogue = request.problem, request.epilogue
    forward = request.pass_ is Pass.FORWARD
    taps = problem.kernel_size
    terms = (problem.group_in if forward else problem.group_out) * taps
    a_channel = taps * channel_tile * vectors
    packed = is_short(problem.dtype)
    strides = (*weight_strides, 1)
    if packed:
        strides = (*panel_strides(weight_strides, taps, channel_tile, term_block), 1)
    one_phase = forward or problem.stride == 1
    more_arrays = epilogue.residual or epilogue.keep
    plain_end = epilogue.activation in PLAIN_ACTIVATIONS and not more_arrays
    lanes, stride = vector_lanes(request.device, problem.dtype), problem.stride
    rows_together = (
        forward
        and request.x_layout is Layout.ROWS
        and 1 < stride == rows <= MOST_TOGETHER
        and problem.dilation == 1
        and lanes > 1
    )
    return Form(
        packed=packed,
        tile_strides=strides,
        short_index=strides[1] < SHORT_STRIDE,
        unrolled=one_phase and a_channel <= MOST_UNROLLED,
        channel_unroll=CHANNEL_UNROLL if a_channel <= FEW_UNROLLED else 1,
        side_by_side=rows > 1 and vectors > 1 and terms <= FEW_BESIDE_ADDRESSES,
        rows_together=rows_together,
        row_parts=_row_parts(stride, lanes) if rows_together else (),
        plain_end=plain_end,
        block_unrolled=one_phase and plain_end and block_tiles > 1 and terms <= FEW_BESIDE_TILES,
    )


def panel_strides(
    weight_strides: tuple[int, int], taps: int, channel_tile: int, term_block: int
) -> tuple[int, int]:
    """The strides of the converted weights of a tile, which are neighbours where the weights are:
    all of a channel written, whose rows must not fall on the same lines of the cache, or all of
    one summed over."""
    if weight_strides[1] == taps:
        return row_pitch(term_block * taps, np.dtype(np.float32).itemsize), taps
    return taps, taps * channel_tile


def _row_parts(stride: int, lanes: int) -> tuple[tuple[str, ...], ...]:
    """Each row of a stride out of the loaded vectors v0, v1, …, two of them at a time: row b has
    every stride-th element from b on, and is r{b} after the first step."""
    return tuple(tuple(_steps_of_row(b, stride, lanes)) for b in range(stride))


def _steps_of_row(b: int, stride: int, lanes: int) -> Iterator[str]:
    # Of each element the vector that it is in, and its place there.
    places = [divmod(t * stride + b, lanes) for t in range(lanes)]
    sources = sorted({source for source, _ in places})
    row, is_first = f"v{sources[0]}", True
    for last in sources[1:] or sources:
        parts = []
        for t, (source, place) in enumerate(places):
            if source == last:
                parts.append(f"v{last}.s{place:x}")
            else:  # there already, or yet to come
                parts.append(f"{row}.s{place if source < last and is_first else t:x}")
        yield f"(VECTOR)({', '.join(parts)})"
        row, is_first = f"r{b}", False
