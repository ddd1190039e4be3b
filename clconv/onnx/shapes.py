"""Nodes on the device that move elements, or only say how they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clconv.errors import ProblemError
from clconv.onnx import kernels
from clconv.onnx.convolutions import Convolution
from clconv.onnx.elementwise import Inputs, same
from clconv.onnx.graph import Node, scalar
from clconv.onnx.recording import Shape, Tensor
from clconv.onnx.turning import Turned
from clconv.onnx.work import OnHost, Value, Work, axis_of, counted

__all__ = [
    "concat",
    "expand",
    "flatten",
    "gather",
    "pad",
    "reshape",
    "slice_",
    "split",
    "squeeze",
    "transpose",
    "unsqueeze",
]


def _first(inputs: Inputs) -> Value:
    x = inputs[0]
    assert x is not None
    return x


def _numbers(
    work: Work, node: Node, inputs: Inputs, place: int, name: str
) -> tuple[int, ...] | None:
    """Whole numbers that are an attribute in older models and an input in newer ones."""
    if name in node.attributes:
        given = node.attributes[name]
        return tuple(given) if isinstance(given, Sequence) else (int(given),)
    value = work.known(inputs[place]) if len(inputs) > place else None
    return None if value is None else tuple(int(one) for one in value.reshape(-1))


# Views


def _view(work: Work, node: Node, x: Value, shape: Shape) -> list[Value]:
    work.check(x)
    if math.prod(shape) != x.size:
        raise ProblemError(f"{x.name} has shape {x.shape}, expected {math.prod(shape)} elements")
    return [Value.of(node.outputs[0], work.dense(x).view(shape))]


def reshape(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Reshape."""
    x = _first(inputs)
    work.check(x)
    given = _numbers(work, node, inputs, 1, "shape")
    assert given is not None
    zero_is_zero = node.attributes.get("allowzero", 0)
    shape = [x.shape[i] if n == 0 and not zero_is_zero else n for i, n in enumerate(given)]
    if shape.count(-1) == 1:
        others = math.prod(n for n in shape if n != -1)
        if not others or x.size % others:
            raise ProblemError(f"{x.name} has shape {x.shape}, expected one that becomes {given}")
        shape[shape.index(-1)] = x.size // others
    return _view(work, node, x, tuple(shape))


def flatten(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Flatten to two dimensions."""
    x = _first(inputs)
    rank = len(x.shape)
    given = int(node.attributes.get("axis", 1))
    axis = rank if given == rank else counted("axis", given, rank)
    return _view(work, node, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Squeeze."""
    x = _first(inputs)
    given = _numbers(work, node, inputs, 1, "axes")
    axes = [i for i, n in enumerate(x.shape) if n == 1]
    if given is not None:
        axes = [counted("axes", axis, len(x.shape)) for axis in given]
    if any(x.shape[axis] != 1 for axis in axes):
        raise ProblemError(f"{x.name} has shape {x.shape}, expected 1 at the axes {axes}")
    return _view(work, node, x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def unsqueeze(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Unsqueeze."""
    x = _first(inputs)
    given = _numbers(work, node, inputs, 1, "axes")
    assert given is not None
    rank = len(x.shape) + len(given)
    axes, rest = {counted("axes", axis, rank) for axis in given}, iter(x.shape)
    if len(axes) < len(given):
        raise ProblemError(f"axes are {list(given)}, expected each once")
    return _view(work, node, x, tuple(1 if i in axes else next(rest) for i in range(rank)))


# Slices: views with gaps, which convolutions and expressions read in place


def _placed(name: str, tensor: Tensor) -> Value:
    """A view as a value. Raises OnHost where no kernel could copy it."""
    if not kernels.fits(tensor.shape, tensor.strides):
        raise OnHost(f"shape {tensor.shape} has too many dimensions")
    return Value.of(name, tensor)


def _sliced(work: Work, x: Value, name: str, axis: int, part: range) -> Value:
    return _placed(name, work.tensor(x).part(axis, part.start, len(part), part.step))


def slice_(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Slice; the end of a convolution's result that is cut off is not computed."""
    x = _first(inputs)
    work.check(x)
    rank = len(x.shape)
    starts = _numbers(work, node, inputs, 1, "starts")
    ends = _numbers(work, node, inputs, 2, "ends")
    assert starts is not None
    assert ends is not None
    axes = _numbers(work, node, inputs, 3, "axes") or tuple(range(len(starts)))
    steps = _numbers(work, node, inputs, 4, "steps") or (1,) * len(starts)
    parts = {counted("axes", axis, rank): range(x.shape[axis])[start:end:step]
             for start, end, axis, step in zip(starts, ends, axes, steps, strict=True)}  # fmt: skip
    if any(not part for part in parts.values()):
        raise OnHost("the result has no elements")
    last = rank - 1
    if isinstance(x.pending, Convolution) and work.used_once(x) and list(parts) == [last]:
        part = parts[last]
        if part.start == 0 and part.step == 1:
            shorter = x.pending.ending_earlier(x.shape[last] - len(part))
            if shorter is not None:
                return [Value.of(node.outputs[0], shorter)]
    result = x
    for axis, part in parts.items():
        result = _sliced(work, result, node.outputs[0], axis, part)
    return [result]


def split(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Split along an axis."""
    x = _first(inputs)
    work.check(x)
    axis = axis_of(node, len(x.shape))
    size, count = x.shape[axis], len(node.outputs)
    sizes = _numbers(work, node, inputs, 1, "split")
    if sizes is None:
        each = -(-size // count)
        sizes = (*(each,) * (count - 1), size - each * (count - 1))
    if sum(sizes) != size or min(sizes) < 1:
        raise OnHost(f"the parts are {list(sizes)} of {size}")
    found, start = [], 0
    for name, its_size in zip(node.outputs, sizes, strict=True):
        found.append(_sliced(work, x, name, axis, range(start, start + its_size)))
        start += its_size
    return found


def expand(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Expand: elements repeated along axes of 1, in place."""
    x = _first(inputs)
    work.check(x)
    given = work.known(inputs[1])
    shape = tuple(np.broadcast_shapes(x.shape, tuple(int(n) for n in given)))
    tensor = work.tensor(x)
    strides = kernels.broadcast_strides(tensor, shape)
    return [_placed(node.outputs[0], tensor._replace(shape=shape, strides=strides))]


# Copies


def transpose(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Transpose; two that undo each other move nothing."""
    x = _first(inputs)
    work.check(x)
    rank = len(x.shape)
    order = tuple(node.attributes.get("perm", range(rank)[::-1]))
    if sorted(order) != list(range(rank)):
        raise ProblemError(f"perm is {list(order)}, expected {rank} different axes")
    product = x.pending if isinstance(x.pending, Convolution) and work.used_once(x) else None
    unturned = product.unturned() if product is not None and order == (0, 2, 1) else None
    if unturned is not None:
        return [Value.of(node.outputs[0], unturned)]
    if isinstance(x.pending, Turned):
        made = Turned(x.pending.source, tuple(x.pending.order[i] for i in order))
    else:
        made = Turned(work.tensor(x), order)
    return [_turned(work, node.outputs[0], made)]


def _turned(work: Work, name: str, made: Turned) -> Value:
    view = made.view
    if view.is_dense:
        return Value.of(name, view)
    if len(made.shape) > kernels.DIMENSIONS and not kernels.fits(view.shape, view.strides):
        raise OnHost(f"shape {made.source.shape} has too many dimensions")
    return Value.of(name, made)


def gather(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Gather at known places: one of any axis, or some along the last one; GatherND of the first
    axis."""
    x = _first(inputs)
    work.check(x)
    index = work.known(inputs[1])
    if index.dtype.kind not in "iu" or not index.size:
        raise OnHost(f"{node.inputs[1]} is {index.dtype} of shape {index.shape}")
    axis = axis_of(node, len(x.shape))
    if node.op == "GatherND":
        if node.attributes.get("batch_dims", 0) or index.shape[-1] != 1:
            raise OnHost(f"{node.inputs[1]} has shape {index.shape}")
        axis, index = 0, index[..., 0]
    size = x.shape[axis]
    places = [int(i) for i in index.reshape(-1)]
    if min(places) < -size or max(places) >= size:
        raise ProblemError(f"{node.inputs[1]} has {places}, expected places of {size}")
    places = [i % size for i in places]
    if index.ndim == 0:
        part = work.tensor(x).part(axis, places[0], 1)
        shape, strides = ((*one[:axis], *one[axis + 1 :]) for one in (part.shape, part.strides))
        return [_placed(node.outputs[0], part._replace(shape=shape, strides=strides))]
    pending = x.pending if isinstance(x.pending, Turned) else None
    own_axis = pending.order[axis] if pending else axis
    source = pending.source if pending else work.tensor(x)
    if own_axis != len(x.shape) - 1 or index.ndim != 1:
        raise OnHost(f"it takes from axis {axis}, not the last one")
    if not source.is_dense:
        source = work.copied(source)
    taken = kernels.take(work.recorder, source, work.table(places))
    if pending is None:
        return [Value.of(node.outputs[0], taken)]
    return [_turned(work, node.outputs[0], Turned(taken, pending.order))]


def concat(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Concat; what is pending is written where it belongs."""
    values = [one for one in inputs if one is not None]
    if any(not one.size for one in values):
        raise OnHost("an input has no elements")
    dtype = work.check(*values)
    rank = len(values[0].shape)
    axis = axis_of(node, rank)
    shape = list(values[0].shape)
    shape[axis] = sum(one.shape[axis] for one in values)
    for one in values:
        if len(one.shape) != rank or any(
            n != shape[i] for i, n in enumerate(one.shape) if i != axis
        ):
            raise ProblemError(
                f"{one.name} has shape {one.shape}, expected {tuple(shape)} but for {axis}"
            )
    out = work.recorder.empty(tuple(shape), dtype)
    start = 0
    for one in values:
        part = out.part(axis, start, one.shape[axis])
        start += one.shape[axis]
        _write(work, one, part)
    return [Value.of(node.outputs[0], out)]


def _write(work: Work, value: Value, part: Tensor) -> None:
    """A value into its place in a larger tensor."""
    pending = value.pending
    if pending is not None and work.used_once(value) and pending.fits(part):
        work.finish(pending, part)
        return
    source = work.tensor(value)
    if not kernels.fits(part.shape, source.strides, out=part.strides):
        source = work.dense(value)
    kernels.evaluate(work.recorder, ["x0"], [source], part)


def _places(mode: str, length: int, left: int, right: int) -> list[int]:
    """Where each position of a padded row comes from, -1 of the constant's."""
    found = []
    for p in range(-left, length + right):
        if 0 <= p < length:
            found.append(p)
        elif mode == "constant":
            found.append(-1)
        elif mode == "edge":
            found.append(min(max(p, 0), length - 1))
        elif mode == "wrap":
            found.append(p % length)
        else:
            turn = 2 * (length - 1)
            q = p % turn if turn else 0
            found.append(min(q, turn - q))
    return found


def pad(work: Work, node: Node, inputs: Inputs) -> list[Value]:
    """Pad along the last axis."""
    x = _first(inputs)
    work.check(x)
    rank = len(x.shape)
    given = _numbers(work, node, inputs, 1, "pads")
    assert given is not None
    axes = _numbers(work, node, inputs, 3, "axes") or tuple(range(rank))
    half = len(given) // 2
    pads = {counted("axes", axis, rank): (given[i], given[i + half]) for i, axis in enumerate(axes)}
    others = [axis for axis, both in pads.items() if any(both) and axis != rank - 1]
    left, right = pads.get(rank - 1, (0, 0))
    mode = node.attributes.get("mode", "constant")
    if others or left < 0 or right < 0:
        raise OnHost(f"pads are {list(given)}: more than the last axis grows")
    if mode == "reflect" and max(left, right) >= x.shape[-1]:
        raise OnHost(f"pads are {list(given)} of {x.shape[-1]} positions")
    fill = inputs[2] if len(inputs) > 2 else None
    value = scalar(work.known(fill)) if fill is not None else node.attributes.get("value", 0.0)
    if not left and not right:
        return same(work, node, inputs)
    index = work.table(_places(mode, x.shape[-1], left, right))
    made = kernels.take(work.recorder, work.dense(x), index, float(value or 0.0))
    return [Value.of(node.outputs[0], made)]
