"""Which kernels compute causal convolutions with states and packed sequences, and on what grids?

A form says how the arrays lie: in "rows" the positions of a channel follow each other, in
"channels" the channels of a position do. Each has kernels of its own, whose vectors, or on GPUs
neighbouring work-items, lie along what is contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clconv.planning.profiles import DeviceProfile
from clconv.variants.base import (
    MAX_GROUPS,
    Constants,
    Kernel,
    Launch,
    Layout,
    Operand,
    Request,
    Workspace,
    accumulator,
    ceil_div,
    kernel_constants,
    local_items,
    scalars,
    sum_partials,
    vector_lanes,
)

__all__ = [
    "Form",
    "Sizes",
    "Strides",
    "final_states",
    "states_gradient",
    "sums",
    "taps",
    "update",
    "weight_sums",
]

Form = str  # "rows" or "channels"
# Strides of batch, of the other outer dimension, and where there is one of the innermost.
Strides = tuple[int, ...]

# Taps up to which loops over them are unrolled, and how many of a gradient are summed at once.
UNROLLED, TAPS_TOGETHER = 8, 8
# Positions that are computed side by side, where channels are contiguous.
TILE = 4
# Elements of a row that a CPU's work-item reads before it goes on to the next row.
BLOCK = 512
# Work-groups that each core of a CPU, and each compute unit of a GPU, should have.
GROUPS_A_CORE, GROUPS_A_UNIT = 8, 32
# Positions of a chunk: of long rows, and of channels side by side.
ROW_CHUNK, CHANNELS_CHUNK = 4096, 64
GROUP = 64  # work-items, on GPUs


class Sizes(NamedTuple):
    """What a launch depends on besides strides."""

    device: DeviceProfile
    dtype: np.dtype[Any]
    batch: int
    channels: int
    length: int
    width: int

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return vector_lanes(self.device, self.dtype)

    @property
    def group(self) -> int:
        """Work-items of a work-group."""
        return 1 if self.lanes > 1 else local_items(self.device, GROUP)

    @property
    def wanted(self) -> int:
        """Work-groups that keep the whole device at work."""
        return self.device.compute_units * (GROUPS_A_CORE if self.lanes > 1 else GROUPS_A_UNIT)

    @property
    def vectors(self) -> int:
        """Vectors of channels of a work-item, where channels are contiguous."""
        return BLOCK // self.lanes if self.lanes > 1 else 1

    @property
    def blocks(self) -> int:
        """Blocks of channels of such work-groups."""
        return ceil_div(self.channels, self.vectors * self.group * self.lanes)

    def chunk(self, form: Form, most: int, enough: int) -> int:
        """Positions of a chunk, so short that there are `enough` of all rows if that is possible:
        a multiple of what is computed at once."""
        least = TILE if form == "channels" else self.lanes * self.group
        size = least
        while size < most and size < self.length:
            size *= 2
        while size > least and self.batch * ceil_div(self.length, size) < enough:
            size //= 2
        return size


def _kernel(
    sizes: Sizes,
    name: str,
    operands: tuple[Operand, ...],
    numbers: Mapping[str, int],
    local: int,
    constants: Constants = (),
    lanes: int | None = None,
) -> tuple[Kernel, dict[str, int]]:
    """A kernel with 64-bit numbers, and these."""
    lanes = sizes.lanes if lanes is None else lanes
    basis = kernel_constants(sizes.device, sizes.dtype, lanes)
    typed = scalars(long_names=" ".join(numbers))
    return Kernel(name, basis + constants, operands, typed, (local, 1, 1)), dict(numbers)


def _launch(sizes: Sizes, made: tuple[Kernel, dict[str, int]], tasks: int, most: int) -> Launch:
    """One work-group for each task; they take several in turn where there would be too many."""
    kernel, numbers = made
    groups = max(1, min(tasks, most))
    return kernel.launch((groups * kernel.local_size[0], 1, 1), **numbers)


def _each(sizes: Sizes, made: tuple[Kernel, dict[str, int]], count: int) -> Launch:
    """One work-item for each of `count` elements."""
    return _launch(sizes, made, ceil_div(count, made[0].local_size[0]), MAX_GROUPS)


def _named(name: str, strides: Strides, *dimensions: str) -> dict[str, int]:
    """Numbers of a launch, of the strides of an array."""
    return {f"{name}_{d}": step for d, step in zip(dimensions, strides, strict=True)}


OUTER = ("batch", "outer")
ALL = ("batch", "channel", "step")


def _flat(name: str, element: str = "STORED", written: bool = False) -> Operand:
    return Operand(name, Layout.FLAT, written, element)


def _workspace(name: str, written: bool = False) -> Operand:
    return Operand(name, Layout.FLAT, written, "SUM", workspace=True)


def taps(sizes: Sizes, bias: bool) -> tuple[Launch, Workspace, int]:
    """What puts the weights, and then the bias, in rows of channels: the launch, what it writes,
    and the length of such a row."""
    row = ceil_div(sizes.channels, sizes.lanes) * sizes.lanes
    count = row * (sizes.width + 1)
    operands = (_flat("weight"), *((_flat("bias"),) if bias else ()), _workspace("taps", True))
    numbers = {"count": count, "row": row, "channels": sizes.channels, "width": sizes.width}
    local = local_items(sizes.device, GROUP)
    made = _kernel(sizes, "causal_taps", operands, numbers, local, lanes=1)
    space = Workspace("taps", accumulator(sizes.dtype), count)
    return _each(sizes, made, count), space, row


def sums(
    sizes: Sizes,
    form: Form,
    pass_: str,
    strides: Mapping[str, Strides],
    given: frozenset[str],
    silu: bool,
    grad_sums: bool,
    taps_row: int,
) -> Launch:
    """The sums of a pass, "forward", "through" or "input", as the template says. `strides` of x,
    grad, y, states and grad_final; `given` are the optional arrays that there are; `grad_sums`
    says that the gradient is a workspace of sums, as is what "through" writes."""
    backward, through = pass_ == "input", pass_ == "through"
    rows = form == "rows"
    operands = [] if backward else [_flat("x")]
    if backward and grad_sums:
        operands.append(_workspace("grad"))
    elif backward or through:
        operands.append(_flat("grad"))
    operands += [_flat("weight")] if rows else [_workspace("taps")]
    if rows and "bias" in given and not backward:
        operands.append(_flat("bias"))
    if "seq_idx" in given:
        operands.append(_flat("seq_idx", "int"))
    numbers: dict[str, int] = {}
    for name in ("states",) if not backward else ("grad_final",):
        if name in given:
            operands.append(_flat(name))
            numbers |= _named(name.removeprefix("grad_"), strides[name], *ALL)
    operands.append(_workspace("y", True) if through else _flat("y", written=True))
    for name in ("x", "grad", "y"):
        if any(operand.name == name for operand in operands):
            numbers |= _named(name, strides[name], *OUTER)
    most = ROW_CHUNK if rows else CHANNELS_CHUNK
    own = sizes.channels if rows else sizes.blocks
    chunk = sizes.chunk(form, most, ceil_div(sizes.wanted, own))
    chunks = ceil_div(sizes.length, chunk)
    tasks = sizes.batch * own * chunks
    numbers |= {"tasks": tasks, "chunks": chunks, "chunk": chunk}
    numbers |= {"length": sizes.length, "channels": sizes.channels}
    numbers |= {} if rows else {"blocks": sizes.blocks, "taps_row": taps_row}
    constants = _constants(sizes, grad_sums and backward, through)
    constants += (("pass_", pass_), ("silu", silu), ("unrolled", UNROLLED))
    if not rows:
        constants += (("tile", TILE), ("vectors", sizes.vectors))
    made = _kernel(sizes, f"causal_{form}", tuple(operands), numbers, sizes.group, constants)
    return _launch(sizes, made, tasks, _most_groups(sizes))


def _constants(sizes: Sizes, grad_sums: bool, y_sums: bool) -> Constants:
    return (
        ("width", sizes.width),
        ("group", sizes.group),
        ("grad_sums", grad_sums),
        ("y_sums", y_sums),
    )


def _most_groups(sizes: Sizes) -> int:
    """Work-groups at most: a CPU's take many tasks each, since each takes time to start."""
    return min(MAX_GROUPS, 8 * sizes.wanted if sizes.lanes > 1 else MAX_GROUPS)


def weight_sums(
    sizes: Sizes,
    form: Form,
    request: Request,
    strides: Mapping[str, Strides],
    given: frozenset[str],
    bias: bool,
    grad_sums: bool,
) -> tuple[Launch, Launch, Workspace]:
    """The gradient of the weights, and with `bias` of the bias: what sums shares, what adds them,
    and where they lie."""
    rows = form == "rows"
    own = sizes.channels if rows else sizes.blocks
    enough = ceil_div(sizes.wanted, own)
    chunk = sizes.chunk(form, 16 * ROW_CHUNK if rows else CHANNELS_CHUNK, enough)
    chunks = ceil_div(sizes.length, chunk)
    units = sizes.batch * chunks
    shares = min(units, enough)
    count = sizes.channels * (sizes.width + bias)
    operands = [_flat("x"), _workspace("grad") if grad_sums else _flat("grad")]
    if "seq_idx" in given:
        operands.append(_flat("seq_idx", "int"))
    numbers = _named("x", strides["x"], *OUTER) | _named("grad", strides["grad"], *OUTER)
    if "states" in given:
        operands.append(_flat("states"))
        numbers |= _named("states", strides["states"], *ALL)
    operands.append(_workspace("partial", True))
    numbers |= {"tasks": own * shares, "units": units, "shares": shares, "count": count}
    numbers |= {"chunks": chunks, "chunk": chunk, "length": sizes.length}
    numbers |= {"channels": sizes.channels} | ({} if rows else {"blocks": sizes.blocks})
    constants = _constants(sizes, grad_sums, False)
    constants += (("taps", min(sizes.width, TAPS_TOGETHER)), ("bias", bias))
    constants += () if rows else (("vectors", sizes.vectors),)
    name = f"causal_{form}_weight"
    made = _kernel(sizes, name, tuple(operands), numbers, sizes.group, constants)
    adding = sum_partials(request, bias)
    local = adding.local_size[0]
    size = min(ceil_div(count, local), MAX_GROUPS) * local
    weights = {"weights": sizes.channels * sizes.width} if bias else {}
    added = adding.launch((size, 1, 1), count=count, shares=shares, **weights)
    space = Workspace("partial", accumulator(sizes.dtype), shares * count)
    return _launch(sizes, made, own * shares, MAX_GROUPS), added, space


def final_states(sizes: Sizes, strides: Mapping[str, Strides], states: bool) -> Launch:
    """What copies the last samples; `strides` of x, y and states."""
    operands = (_flat("x"), *((_flat("states"),) if states else ()), _flat("y", written=True))
    count = sizes.batch * sizes.channels * (sizes.width - 1)
    numbers = {"count": count, "channels": sizes.channels, "before": sizes.width - 1}
    numbers |= {"length": sizes.length}
    for operand in operands:
        numbers |= _named(operand.name, strides[operand.name], *ALL)
    local = local_items(sizes.device, GROUP)
    return _each(sizes, _kernel(sizes, "causal_final", operands, numbers, local, lanes=1), count)


def states_gradient(
    sizes: Sizes, strides: Mapping[str, Strides], final: bool, grad_sums: bool
) -> Launch:
    """The gradient of the states; `strides` of grad, y and grad_final."""
    operands = [_workspace("grad") if grad_sums else _flat("grad"), _flat("weight")]
    operands += [_flat("grad_final")] if final else []
    operands.append(_flat("y", written=True))
    count = sizes.batch * sizes.channels * (sizes.width - 1)
    numbers = {"count": count, "channels": sizes.channels, "before": sizes.width - 1}
    numbers |= {"length": sizes.length}
    numbers |= _named("grad", strides["grad"], *ALL) | _named("y", strides["y"], *ALL)
    numbers |= _named("final", strides["grad_final"], *ALL) if final else {}
    made = _kernel(
        sizes,
        "causal_states_gradient",
        tuple(operands),
        numbers,
        local_items(sizes.device, GROUP),
        (("grad_sums", grad_sums),),
        lanes=1,
    )
    return _each(sizes, made, count)


def update(
    sizes: Sizes,
    strides: Mapping[str, Strides],
    given: frozenset[str],
    entries: int,
    state_length: int,
    silu: bool,
) -> Launch:
    """A few positions of sequences with states; `strides` of x, y and conv_state."""
    blocks = ceil_div(sizes.channels, sizes.lanes)
    count = sizes.batch * blocks
    operands = [_flat("x"), _flat("conv_state", written=True), _flat("weight")]
    operands += [_flat("bias")] if "bias" in given else []
    for name in ("cache_seqlens", "conv_state_indices"):
        operands += [_flat(name, "int")] if name in given else []
    operands.append(_flat("y", written=True))
    numbers = {"count": count, "blocks": blocks, "channels": sizes.channels}
    numbers |= {"length": sizes.length, "entries": entries, "state_length": state_length}
    numbers |= _named("x", strides["x"], *ALL) | _named("y", strides["y"], *ALL)
    numbers |= _named("state", strides["conv_state"], *ALL)
    constants: Constants = (("width", sizes.width), ("unrolled", UNROLLED), ("silu", silu))
    local = sizes.group
    made = _kernel(sizes, "causal_update", tuple(operands), numbers, local, constants)
    return _each(sizes, made, count)
