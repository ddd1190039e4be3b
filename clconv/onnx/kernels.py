"""Which launches compute the nodes of a model that are no convolutions?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clconv.calls.copying import joined
from clconv.calls.elementwise import converted_by
from clconv.onnx.recording import Recorder, Shape, Tensor, dense_strides
from clconv.render import render
from clconv.runtime import Runtime
from clconv.variants.base import (
    MAX_GROUPS,
    Constants,
    Kernel,
    Layout,
    Operand,
    ceil_div,
    kernel_constants,
    local_items,
    scalars,
    vector_lanes,
)

__all__ = [
    "evaluate",
    "joined",
    "normalise",
    "pool",
    "product",
    "reduce_rows",
    "softmax",
    "take",
    "transpose",
]

# Tasks that a core gets of an array: few enough to start, enough to share evenly.
TASKS_A_CORE = 4
# Elements that a work-item takes at least, since starting one takes time.
LEAST_BLOCK = 2048
# Work-items a group of a GPU; one of a CPU's is the whole group.
LOCAL = 64
TILE = 16
C_TYPES = {"float16": "ushort", "bfloat16": "ushort", "float32": "float", "float64": "double"}
DIMENSIONS = 4  # of the arrays of an expression
MATRIX_DIMENSIONS = 2  # of arrays of matrices
# Rows of a product that are summed at once: as many sums as a core needs under way.
ROWS_OF_PRODUCT = 8


def broadcast_strides(tensor: Tensor, shape: Shape) -> Shape:
    """The strides of a tensor as if it had that shape, 0 where an element is repeated."""
    missing = len(shape) - len(tensor.shape)
    pairs = zip(tensor.shape, tensor.strides, strict=True)
    return (0,) * missing + tuple(0 if n == 1 else s for n, s in pairs)


class _Kernels:
    """Kernels of a dtype on a runtime's device."""

    def __init__(self, runtime: Runtime, dtype: np.dtype[Any]) -> None:
        # Vectors are those that the compiler knows: kernels here call functions, and ask for none.
        self.device = replace(runtime.profile, instruction_sets="")
        self.dtype = dtype
        self.lanes = vector_lanes(self.device, dtype)
        self.is_cpu = self.lanes > 1

    def kernel(
        self,
        name: str,
        operands: Sequence[Operand],
        ints: str = "",
        longs: str = "",
        sums: str = "",
        constants: Constants = (),
    ) -> Kernel:
        local = 1 if self.is_cpu else local_items(self.device, LOCAL)
        return Kernel(
            name,
            (*kernel_constants(self.device, self.dtype, self.lanes), *constants),
            tuple(operands),
            scalars(int_names=ints, long_names=f"count {longs}", sum_names=sums),
            (local, 1, 1),
        )

    def blocks(self, rows: int, length: int) -> tuple[int, int]:
        """(positions of a task, tasks of a row)."""
        if not self.is_cpu:
            return 1, length
        wanted = ceil_div(rows * length, TASKS_A_CORE * self.device.compute_units)
        block = min(length, max(LEAST_BLOCK, wanted))
        if block < length:
            block = ceil_div(block, self.lanes) * self.lanes
        return block, ceil_div(length, block)

    def size(self, kernel: Kernel, tasks: int, elements: int) -> tuple[int, int, int]:
        """The global size for so many tasks with so many elements in all."""
        local = kernel.local_size[0]
        if not self.is_cpu:
            return min(ceil_div(tasks, local), MAX_GROUPS) * local, 1, 1
        most = 2 * TASKS_A_CORE * self.device.compute_units
        return max(1, min(tasks, most, ceil_div(elements, LEAST_BLOCK))), 1, 1


def _flat(*names: str, element: str = "STORED") -> list[Operand]:
    return [Operand(name, Layout.FLAT, element=element) for name in names]


RESULT = Operand("y", Layout.FLAT, written=True)


def _rows(shape: Shape, *strides: Shape) -> tuple[list[int], list[list[int]]]:
    """Shape and strides, neighbours joined, with a last axis along which the last array's elements
    follow each other."""
    sizes, steps = joined(shape, *strides)
    if not sizes or steps[-1][-1] != 1:  # rows of one element
        sizes.append(1)
        steps = [[*one, 1] for one in steps]
    return sizes, steps


def evaluate(
    recorder: Recorder, statements: Sequence[str], inputs: Sequence[Tensor], out: Tensor
) -> None:
    """Queues an expression of arrays, each broadcast to the result's shape. Its elements along the
    last axis follow each other. No more than four dimensions are left when neighbours are joined.
    """
    strides = [broadcast_strides(one, out.shape) for one in inputs]
    sizes, steps = _rows(out.shape, *strides, out.strides)
    missing = DIMENSIONS - len(sizes)
    sizes = [1] * missing + sizes
    steps = [[0] * missing + one for one in steps]
    kernels = _Kernels(recorder.runtime, out.dtype)
    names = [f"x{i}" for i in range(len(inputs))]
    longs = [f"{name}_{end}" for name in (*names, "y")
             for end in ("stride_0", "stride_1", "stride_2", "step")][:-1]  # fmt: skip
    kernel = kernels.kernel(
        "expression",
        (*_flat(*names), RESULT),
        longs=" ".join(("blocks block length size_1 size_2", *longs)),
        constants=(("statements", tuple(statements)), ("operand_count", len(inputs))),
    )
    length, rows = sizes[3], math.prod(sizes[:3])
    block, blocks = kernels.blocks(rows, length)
    numbers = dict(zip(longs, [step for one in steps for step in one][:-1], strict=True))
    launch = kernel.launch(
        kernels.size(kernel, rows * blocks, out.size),
        count=rows * blocks, blocks=blocks, block=block, length=length, size_1=sizes[1],
        size_2=sizes[2], **numbers,
    )  # fmt: skip
    recorder.launch(launch, {**dict(zip(names, inputs, strict=True)), "y": out})


def transpose(recorder: Recorder, x: Tensor, out: Tensor | None = None) -> Tensor:
    """(N, B, A) of x (N, A, B), whose last axis is dense; `out`, if given, is dense."""
    batch, a_size, b_size = x.shape
    kernels = _Kernels(recorder.runtime, x.dtype)
    kernel = kernels.kernel(
        "swap_axes",
        (*_flat("x"), RESULT),
        longs="a_tiles b_tiles a_size b_size x_n_stride x_a_stride",
        constants=(("tile", TILE),),
    )
    if 1 in (a_size, b_size) and x.is_dense and out is None:
        # Nothing moves; but of another batch or length it does, for which nothing is to be built.
        recorder.runtime.programs.kernel(kernel, render(kernel))
        return x.view((batch, b_size, a_size))
    if out is None:
        out = recorder.empty((batch, b_size, a_size), x.dtype)
    a_tiles, b_tiles = ceil_div(a_size, TILE), ceil_div(b_size, TILE)
    tasks = batch * a_tiles * b_tiles
    launch = kernel.launch(
        kernels.size(kernel, tasks, x.size),
        count=tasks, a_tiles=a_tiles, b_tiles=b_tiles, a_size=a_size, b_size=b_size,
        x_n_stride=x.strides[0], x_a_stride=x.strides[1],
    )  # fmt: skip
    recorder.launch(launch, {"x": x, "y": out})
    return out


def take(
    recorder: Recorder,
    x: Tensor,
    index: Tensor,
    fill: float = 0.0,
    linear: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(…, P) of x (…, L), dense: at the places of `index`, `fill` where that is negative; or, with
    the next places and their shares, between two samples."""
    length, out_length = x.shape[-1], index.shape[0]
    out = recorder.empty((*x.shape[:-1], out_length), x.dtype)
    rows = out.size // out_length
    kernels = _Kernels(recorder.runtime, x.dtype)
    operands = [*_flat("x"), *_flat("index", element="int")]
    bound = {"x": x, "index": index, "y": out}
    if linear is not None:
        operands += [*_flat("next", element="int"), *_flat("weight", element="SUM")]
        bound |= {"next": linear[0], "weight": linear[1]}
    kernel = kernels.kernel(
        "take",
        (*operands, RESULT),
        longs="blocks block length out_length",
        sums="" if linear else "fill",
        constants=(("linear", linear is not None),),
    )
    block, blocks = kernels.blocks(rows, out_length)
    launch = kernel.launch(
        kernels.size(kernel, rows * blocks, out.size),
        count=rows * blocks, blocks=blocks, block=block, length=length, out_length=out_length,
    )  # fmt: skip
    recorder.launch(launch, bound, {} if linear else {"fill": fill})
    return out


def product(recorder: Recorder, a: Tensor, b: Tensor, batch: Shape) -> Tensor:
    """The products of matrices a (…, M, K) and b (…, K, N), whose last axis is dense; `batch` says
    how many there are, in two dimensions at most when neighbours are joined."""
    rows, terms, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    out = recorder.empty((*batch, rows, columns), a.dtype)
    a_steps = broadcast_strides(a, (*batch, rows, terms))
    b_steps = broadcast_strides(b, (*batch, terms, columns))
    sizes, steps = joined(batch, a_steps[:-2], b_steps[:-2])
    missing = MATRIX_DIMENSIONS - len(sizes)
    sizes = [1] * missing + sizes
    (a_0, a_1), (b_0, b_1) = ([0] * missing + one for one in steps)
    kernels = _Kernels(recorder.runtime, a.dtype)
    at_once = ROWS_OF_PRODUCT if kernels.is_cpu else ROWS_OF_PRODUCT // 2
    kernel = kernels.kernel(
        "product",
        (*_flat("a", "b"), RESULT),
        longs="blocks block row_blocks rows terms columns size_1 a_stride_0 a_stride_1 a_i_stride "
        "a_k_stride b_stride_0 b_stride_1 b_k_stride",
        constants=(("rows_at_once", at_once),),
    )
    block = columns if kernels.is_cpu else 1
    blocks, row_blocks = ceil_div(columns, block), ceil_div(rows, at_once)
    tasks = math.prod(sizes) * row_blocks * blocks
    launch = kernel.launch(
        kernels.size(kernel, tasks, ceil_div(out.size * terms, at_once)),
        count=tasks, blocks=blocks, block=block, row_blocks=row_blocks, rows=rows, terms=terms,
        columns=columns, size_1=sizes[1], a_stride_0=a_0, a_stride_1=a_1, a_i_stride=a_steps[-2],
        a_k_stride=a_steps[-1], b_stride_0=b_0, b_stride_1=b_1, b_k_stride=b_steps[-2],
    )  # fmt: skip
    recorder.launch(launch, {"a": a, "b": b, "y": out})
    return out


def pool(
    recorder: Recorder,
    x: Tensor,
    out_length: int,
    mode: str,
    window: tuple[int, int, int],
    pads: tuple[int, int],
    count_padding: bool,
) -> Tensor:
    """The "maximum" or "average" of each window, (…, out_length) of x (…, L), dense; a window is
    its (kernel_size, stride, dilation)."""
    out = recorder.empty((*x.shape[:-1], out_length), x.dtype)
    rows = out.size // out_length
    kernels = _Kernels(recorder.runtime, x.dtype)
    kernel = kernels.kernel(
        "pool",
        (*_flat("x"), RESULT),
        ints="kernel_size stride dilation",
        longs="blocks block length out_length left right",
        constants=(("mode", mode), ("count_padding", count_padding)),
    )
    block, blocks = kernels.blocks(rows, out_length)
    kernel_size, stride, dilation = window
    launch = kernel.launch(
        kernels.size(kernel, rows * blocks, out.size),
        count=rows * blocks, blocks=blocks, block=block, length=x.shape[-1], out_length=out_length,
        left=pads[0], right=pads[1], kernel_size=kernel_size, stride=stride, dilation=dilation,
    )  # fmt: skip
    recorder.launch(launch, {"x": x, "y": out})
    return out


def normalise(
    recorder: Recorder,
    x: Tensor,
    rows: int,
    scale: Tensor,
    shift: Tensor | None,
    epsilon: float,
    channels: tuple[int, int, int] | None = None,
) -> Tensor:
    """Rows of x, dense, less their mean, by their deviation; scale and shift are those of each
    element of a row, or with `channels` (groups, channels a row, positions) of each channel."""
    out = recorder.empty(x.shape, x.dtype)
    length = x.size // rows
    kernels = _Kernels(recorder.runtime, x.dtype)
    bound = {"x": x, "scale": scale, "y": out}
    if shift is not None:
        bound["shift"] = shift
    groups, per_row, positions = channels or (1, 1, 1)
    kernel = kernels.kernel(
        "normalise",
        (*_flat(*(name for name in bound if name != "y")), RESULT),
        longs="length groups channels positions",
        sums="epsilon",
        constants=(("by", "channel" if channels else "element"),),
    )
    launch = kernel.launch(
        kernels.size(kernel, rows, x.size),
        count=rows, length=length, groups=groups, channels=per_row, positions=positions,
    )  # fmt: skip
    recorder.launch(launch, bound, {"epsilon": epsilon})
    return out


def softmax(recorder: Recorder, x: Tensor, rows: int, logarithm: bool) -> Tensor:
    """The softmax of each row of x, dense, or its logarithm."""
    out = recorder.empty(x.shape, x.dtype)
    kernels = _Kernels(recorder.runtime, x.dtype)
    kernel = kernels.kernel(
        "softmax", (*_flat("x"), RESULT), longs="length", constants=(("logarithm", logarithm),)
    )
    size = kernels.size(kernel, rows, x.size)
    launch = kernel.launch(size, count=rows, length=x.size // rows)
    recorder.launch(launch, {"x": x, "y": out})
    return out


def reduce_rows(
    recorder: Recorder, x: Tensor, sizes: tuple[int, int, int], middle: bool, operation: str
) -> Tensor:
    """(rows, inner) of x, dense, as (rows, length, inner): "sum", "mean", "maximum", "minimum",
    "squares" or "norm". Without `middle` inner is 1."""
    rows, length, inner = sizes
    out = recorder.empty((rows, inner), x.dtype)
    kernels = _Kernels(recorder.runtime, x.dtype)
    kernel = kernels.kernel(
        "reduce",
        (*_flat("x"), RESULT),
        longs="length" + (" blocks block inner" if middle else ""),
        constants=(("operation", operation), ("middle", middle)),
    )
    block, blocks = kernels.blocks(rows, inner) if middle else (1, 1)
    if middle and kernels.is_cpu:  # each element is a sum of many
        share = ceil_div(LEAST_BLOCK, length * kernels.lanes) * kernels.lanes
        block = min(inner, share)
        blocks = ceil_div(inner, block)
    numbers = {"blocks": blocks, "block": block, "inner": inner} if middle else {}
    tasks = rows * blocks
    launch = kernel.launch(
        kernels.size(kernel, tasks, x.size), count=tasks, length=length, **numbers
    )
    recorder.launch(launch, {"x": x, "y": out})
    return out


def convert(recorder: Recorder, x: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """x, dense, in another floating-point dtype."""
    out = recorder.empty(x.shape, dtype)
    kernels = _Kernels(recorder.runtime, converted_by(x.dtype, dtype))
    kernel = kernels.kernel(
        "convert",
        (
            *_flat("x", element=C_TYPES[x.dtype.name]),
            Operand("y", Layout.FLAT, written=True, element=C_TYPES[dtype.name]),
        ),
        constants=(("source", x.dtype.name), ("target", dtype.name)),
    )
    launch = kernel.launch(kernels.size(kernel, x.size, x.size), count=x.size)
    recorder.launch(launch, {"x": x, "y": out})
    return out


def fit_for_product(a: Tensor, b: Tensor, batch: Shape) -> bool:
    """Whether arrays of matrices have so few dimensions that `product` takes them."""
    a_steps = broadcast_strides(a, (*batch, *a.shape[-2:]))
    b_steps = broadcast_strides(b, (*batch, *b.shape[-2:]))
    sizes, _ = joined(batch, a_steps[:-2], b_steps[:-2])
    return len(sizes) <= MATRIX_DIMENSIONS


def copied(recorder: Recorder, x: Tensor) -> Tensor:
    """The same elements one after the other. No more than four dimensions, when neighbours are
    joined."""
    out = recorder.empty(x.shape, x.dtype)
    evaluate(recorder, ["x0"], [x], out)
    return out


def fits(shape: Shape, *strides: Shape, out: Shape | None = None) -> bool:
    """Whether arrays of that shape have so few dimensions, when neighbours are joined, that
    `evaluate` takes them, for a result that lies as `out` says, or dense."""
    sizes, _ = _rows(shape, *strides, dense_strides(shape) if out is None else out)
    return len(sizes) <= DIMENSIONS
