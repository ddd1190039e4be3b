"""The passes as functions of arrays: PyTorch's names and argument order.

Every array of a call is a `pyopencl.array.Array` of one context, and so is the result; or every
one is a NumPy array, and so is the result. Device arrays may be views. Calls on device arrays
queue work and return at once. Shapes are (N, C, L), or (C, L) unbatched.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyopencl.array as cl_array

from clconv.elementwise import copy_view, flat
from clconv.errors import ArrayTypeError, ProblemError
from clconv.planner import KernelPlan
from clconv.problem import Conv1dProblem, Epilogue, Padding, Pass, whole
from clconv.runtime import Argument, Runtime, check_context, default_runtime, runtime_of

__all__ = [
    "conv1d",
    "conv1d_backward",
    "conv1d_bias",
    "conv1d_input",
    "conv1d_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward",
]

Array = Any  # numpy.ndarray or pyopencl.array.Array
Shape = tuple[int, ...]
Gradients = tuple[Array | None, Array | None, Array | None]
# "auto", the name of a variant, or tiles by pass, tried before the planner's own order.
Choice = str | Mapping[Pass, Mapping[str, int]]


class _View(NamedTuple):
    """An array seen with three dimensions; strides in bytes."""

    array: Array
    shape: tuple[int, int, int]
    strides: tuple[int, int, int]


def _view(array: Array) -> _View:
    """(C, L) gets a batch of one; fewer dimensions are filled from the left."""
    missing = 3 - len(array.shape)
    shape = (1,) * missing + tuple(array.shape)
    strides = (0,) * missing + tuple(array.strides)
    return _View(array, (shape[0], shape[1], shape[2]), (strides[0], strides[1], strides[2]))


class _Addresses:
    """The addresses of a device array, as an object that NumPy can compare with another."""

    def __init__(self, array: cl_array.Array) -> None:
        # Never read: only the addresses' pattern counts, so any start but zero will do.
        self.__array_interface__ = {
            "version": 3,
            "data": (4096 + array.offset, True),
            "typestr": array.dtype.str,
            "shape": tuple(array.shape),
            "strides": tuple(array.strides),
        }


def _share_bytes(a: Array, b: Array) -> bool:
    if isinstance(a, np.ndarray):
        return np.shares_memory(a, b)
    if a.size == 0 or b.size == 0 or a.base_data.int_ptr != b.base_data.int_ptr:
        return False
    return np.shares_memory(np.asarray(_Addresses(a)), np.asarray(_Addresses(b)))


class _Call:
    """The arrays of one call by name, checked, on one runtime; and the launches it makes.

    First everything is checked, planned, built and allocated; then, in `commit`, queued. So a call
    that raises has changed nothing.
    """

    def __init__(self, runtime: Runtime | None, **arrays: Array | None) -> None:
        self.arrays = {name: a for name, a in arrays.items() if a is not None}
        self.host = self._on_host()
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ArrayTypeError(f"runtime is {runtime!r}, expected a clconv.Runtime or None")
        self._runtime = runtime
        self.dtype = self._one_dtype()
        if not self.host:
            self._check_contexts()
        self._steps: list[Callable[[], None]] = []

    def _on_host(self) -> bool:
        kinds = {}
        for name, array in self.arrays.items():
            if isinstance(array, np.ndarray):
                kinds[name] = "NumPy"
            elif isinstance(array, cl_array.Array):
                kinds[name] = "device"
            else:
                raise ArrayTypeError(
                    f"{name} is a {type(array).__module__}.{type(array).__qualname__}, "
                    "expected a NumPy array or a pyopencl.array.Array"
                )
        if len(set(kinds.values())) > 1:
            which = ", ".join(f"{name} is a {kind} array" for name, kind in kinds.items())
            raise ArrayTypeError(f"{which}; expected all of one kind")
        return "NumPy" in kinds.values()

    def _one_dtype(self) -> np.dtype[Any]:
        first, *others = self.arrays
        dtype: np.dtype[Any] = self.arrays[first].dtype
        for name in others:
            if self.arrays[name].dtype != dtype:
                raise ProblemError(
                    f"{name} has dtype {self.arrays[name].dtype}, expected {dtype}, that of {first}"
                )
        if dtype not in (np.float32, np.float16, np.float64):
            raise ProblemError(f"{first} has dtype {dtype}, expected float32, float16 or float64")
        return dtype

    def _check_contexts(self) -> None:
        first = next(iter(self.arrays))
        context = self._runtime.context if self._runtime else self.arrays[first].context
        owner = repr(self._runtime) if self._runtime else first
        for name, array in self.arrays.items():
            check_context(name, array, context, owner)
            size = array.dtype.itemsize
            if array.offset % size:
                raise ProblemError(
                    f"{name} starts at byte {array.offset} of its buffer, expected a multiple of "
                    f"{size}"
                )

    @property
    def runtime(self) -> Runtime:
        if self._runtime is None:
            some = next(iter(self.arrays.values()))
            self._runtime = default_runtime() if self.host else runtime_of(some.context)
        return self._runtime

    # Checks

    def tensor(self, name: str) -> tuple[int, int, int]:
        """The (N, C, L) of an array that may be unbatched."""
        shape = self.arrays[name].shape
        if len(shape) not in (2, 3):
            raise ProblemError(
                f"{name} has shape {tuple(shape)}, expected (N, C, L), or (C, L) unbatched"
            )
        return _view(self.arrays[name]).shape

    def expect(self, name: str, shape: Shape) -> None:
        """ProblemError unless the array, if given, has this shape."""
        if name in self.arrays and tuple(self.arrays[name].shape) != shape:
            raise ProblemError(
                f"{name} has shape {tuple(self.arrays[name].shape)}, expected {shape}"
            )

    def check_out(self, name: str, shape: Shape) -> None:
        """ProblemError unless this `out`, if given, can take a result of that shape."""
        if name not in self.arrays:
            return
        self.expect(name, shape)
        out = self.arrays[name]
        if not out.flags.c_contiguous:
            raise ProblemError(f"{name} has strides {tuple(out.strides)}, expected contiguous")
        if self.host and not out.flags.writeable:
            raise ProblemError(f"{name} is read-only, expected a writable array")
        for other, array in self.arrays.items():
            if other != name and _share_bytes(out, array):
                raise ProblemError(f"{name} shares memory with {other}, expected memory of its own")

    # Arrays as kernels take them

    def to_device(self, also: Sequence[str] = ()) -> None:
        """Uploads NumPy arrays: all but the outs, which only count where their old values do."""
        if self.host:
            self.arrays = {
                name: self.runtime.to_device(a)
                for name, a in self.arrays.items()
                if not name.startswith("out") or name in also
            }

    def rows(self, name: str) -> Argument:
        """Kernel arguments of an array with contiguous positions, copied where they are not."""
        array = self.arrays[name]
        view = _view(array)
        size = array.dtype.itemsize
        if (view.strides[2] != size and view.shape[2] > 1) or any(s % size for s in view.strides):
            self._copy(name)
            view = _view(self.arrays[name])
        offset = view.array.offset // size
        return view.array.base_data, offset, view.strides[0] // size, view.strides[1] // size

    def flat(self, name: str) -> Argument:
        """Kernel arguments of a contiguous array, copied where it is none."""
        if not self.arrays[name].flags.c_contiguous:
            self._copy(name)
        return flat(self.arrays[name])

    def _copy(self, name: str) -> None:
        array, runtime = self.arrays[name], self.runtime
        if any(stride % array.dtype.itemsize for stride in array.strides):
            raise ProblemError(
                f"{name} has strides {tuple(array.strides)}, expected multiples of "
                f"{array.dtype.itemsize} bytes"
            )
        copied = runtime.empty(array.shape, array.dtype)
        self._steps.append(lambda: copy_view(runtime, array, copied))
        self.arrays[name] = copied

    def result(self, name: str, shape: Shape) -> cl_array.Array:
        """The out of this name, or a new array."""
        if name not in self.arrays:
            self.arrays[name] = self.runtime.empty(shape, self.dtype)
        array: cl_array.Array = self.arrays[name]
        return array

    # Launches

    def plans(
        self, problem: Conv1dProblem, pass_: Pass, epilogue: Epilogue, variant: Choice
    ) -> list[KernelPlan]:
        """The plans to try, in order. Raises ProblemError where the variant cannot serve."""
        if isinstance(variant, str):
            return self.runtime.plans(problem, pass_, epilogue, variant)
        if not isinstance(variant, Mapping):
            raise ProblemError(f"variant is {variant!r}, expected 'auto' or the name of a variant")
        found = self.runtime.plans(problem, pass_, epilogue)
        return sorted(found, key=lambda plan: plan.tile != variant.get(pass_))

    def add(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue,
        variant: Choice,
        operands: dict[str, str],
        written: Sequence[str],
        given: dict[str, float],
        flat_operands: Sequence[str] = (),
    ) -> None:
        """Plans, builds and allocates one pass; `operands` maps kernels' names to the call's."""
        runtime = self.runtime
        prepared = runtime.prepare(self.plans(problem, pass_, epilogue, variant))
        bound = {
            operand: self.flat(name) if operand in flat_operands else self.rows(name)
            for operand, name in operands.items()
        }
        workspace = runtime.workspace(prepared)
        if workspace is not None:
            bound["partial"] = (workspace, 0)
        names = list(operands.values())
        reads = [self.arrays[name] for name in names if name not in written]
        writes = [self.arrays[name] for name in written]
        self._steps.append(lambda: runtime.run(prepared, bound, given, reads, writes))

    def commit(self) -> None:
        """Queues everything."""
        for step in self._steps:
            step()


def _number(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ProblemError(f"{name} is {value!r}, expected a number")
    return float(value)


def _shape_of(name: str, value: Any, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    try:
        shape = tuple(value)
    except TypeError:
        shape = ()
    if len(shape) not in dimensions:
        raise ProblemError(
            f"{name} is {value!r}, expected {' or '.join(map(str, dimensions))} sizes"
        )
    return tuple(whole(f"{name}[{i}]", size, 0) for i, size in enumerate(shape))


def _weight_shape(name: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ProblemError(
            f"{name} has shape {tuple(shape)}, expected (Cout, Cin / groups, kernel_size)"
        )
    return shape[0], shape[1], shape[2]


def _problem(
    call: _Call,
    input_shape: Shape,
    weight_shape: Shape,
    stride: Any,
    padding: Padding,
    dilation: Any,
    groups: Any,
    weight_name: str = "weight",
) -> Conv1dProblem:
    batch, in_channels, length = input_shape
    out_channels, group_in, kernel_size = _weight_shape(weight_name, weight_shape)
    problem = Conv1dProblem(
        batch,
        in_channels,
        length,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        call.dtype,
    )
    if group_in != problem.group_in:
        raise ProblemError(
            f"{weight_name} has shape {tuple(weight_shape)}, expected {problem.weight_shape} for "
            f"{in_channels} input channels in {problem.groups} groups"
        )
    return problem


def _unbatch(shape: tuple[int, int, int], like: Array) -> Shape:
    return shape[1:] if len(like.shape) == 2 else shape


def _back(call: _Call, name: str, out: Array | None) -> Array:
    """The result as the caller wants it: the device array, or its values in NumPy's memory."""
    result = call.arrays[name]
    if not call.host:
        return result
    values = np.empty(result.shape, result.dtype) if out is None else out
    if result.size:
        result.get(call.runtime.queue, values)
    return values


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    activation: str | tuple[str, float] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
    pre_activation: Array | None = None,
) -> Array:
    """activation(cross-correlation + bias + residual), (N, Cout, Lout).

    x (N, Cin, L), weight (Cout, Cin / groups, K), bias (Cout,), residual of the output's shape;
    padding in samples: an int, (left, right), "same" or "valid". `pre_activation`, a device array
    like `out`, takes the values before the activation. Raises ProblemError, DeviceError.
    """
    call = _Call(
        runtime, x=x, weight=weight, bias=bias, residual=residual, out=out, out_keep=pre_activation
    )
    problem = _problem(call, call.tensor("x"), weight.shape, stride, padding, dilation, groups)
    return _convolve(
        call,
        problem,
        Pass.FORWARD,
        _unbatch(problem.output_shape, x),
        (problem.out_channels,),
        activation,
        out,
        variant,
        {},
    )


def _convolve(
    call: _Call,
    problem: Conv1dProblem,
    pass_: Pass,
    shape: Shape,
    bias_shape: Shape,
    activation: Any,
    out: Array | None,
    variant: Choice,
    given: dict[str, float],
) -> Array:
    """What the forward pass and the transposed convolution share: checks, epilogue, launch."""
    call.expect("bias", bias_shape)
    call.expect("residual", shape)
    call.check_out("out", shape)
    call.check_out("out_keep", shape)
    name, slope = Epilogue.parse_activation(activation)
    epilogue = Epilogue(
        "bias" in call.arrays, "residual" in call.arrays, name, "out_keep" in call.arrays
    )
    call.plans(problem, pass_, epilogue, variant)
    call.to_device()
    call.result("out", shape)
    if problem.batch:
        operands = {
            "x": "x",
            "weight": "weight",
            "bias": "bias",
            "residual": "residual",
            "pre_activation": "out_keep",
            "y": "out",
        }
        written = [n for n in ("out", "out_keep") if n in call.arrays]
        present = {operand: n for operand, n in operands.items() if n in call.arrays}
        call.add(
            problem,
            pass_,
            epilogue,
            variant,
            present,
            written,
            {"slope": slope} | given,
            ("weight", "bias"),
        )
        call.commit()
    return _back(call, "out", out)


def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
    *,
    activation: str | tuple[str, float] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
    pre_activation: Array | None = None,
) -> Array:
    """activation(transposed convolution + bias + residual), (N, Cout, Lout).

    x (N, Cin, L), weight (Cin, Cout / groups, K), bias (Cout,);
    Lout = (L - 1) stride - left - right + dilation (K - 1) + 1 + output_padding. Raises
    ProblemError, DeviceError.
    """
    call = _Call(
        runtime, x=x, weight=weight, bias=bias, residual=residual, out=out, out_keep=pre_activation
    )
    problem = _transposed_problem(call, weight, stride, padding, output_padding, groups, dilation)
    return _convolve(
        call,
        problem,
        Pass.INPUT_GRADIENT,
        _unbatch(problem.input_shape, x),
        (problem.in_channels,),
        activation,
        out,
        variant,
        {"out_length": call.tensor("x")[2]},
    )


def _transposed_problem(
    call: _Call,
    weight: Array,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> Conv1dProblem:
    """The convolution whose input gradient this transposed convolution is."""
    batch, in_channels, length = call.tensor("x")
    if len(weight.shape) != 3:
        raise ProblemError(
            f"weight has shape {tuple(weight.shape)}, expected (Cin, Cout / groups, kernel_size)"
        )
    _, group_out, kernel_size = weight.shape
    stride, dilation = whole("stride", stride, 1), whole("dilation", dilation, 1)
    groups = whole("groups", groups, 1)
    if length < 1:
        raise ProblemError(f"x has shape {tuple(call.arrays['x'].shape)}, expected positions")
    if isinstance(padding, str):
        raise ProblemError(f"padding is {padding!r}, expected an integer or a pair")
    pair = padding if isinstance(padding, Sequence) and len(padding) == 2 else (padding, padding)
    left, right = whole("padding[0]", pair[0], 0), whole("padding[1]", pair[1], 0)
    extra = whole("output_padding", output_padding, 0)
    if extra >= max(stride, dilation):
        raise ProblemError(
            f"output_padding is {extra}, expected less than stride ({stride}) or dilation "
            f"({dilation})"
        )
    out_length = (length - 1) * stride + dilation * (kernel_size - 1) + 1 - left - right + extra
    if out_length < 1:
        raise ProblemError(
            f"padding is {(left, right)}, which leaves {out_length} output positions, "
            "expected at least 1"
        )
    # What output_padding adds on the right was cropped there, or lies beyond every window.
    problem = Conv1dProblem(
        batch,
        group_out * groups,
        out_length,
        in_channels,
        kernel_size,
        stride,
        (left, max(right - extra, 0)),
        dilation,
        groups,
        call.dtype,
    )
    call.expect("weight", problem.weight_shape)
    return problem


def conv1d_input(
    input_size: Sequence[int],
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Array:
    """The gradient of conv1d's input, of shape input_size, (N, Cin, L) or (Cin, L).

    weight (Cout, Cin / groups, K), grad_output (N, Cout, Lout). Raises ProblemError, DeviceError.
    """
    shape = _shape_of("input_size", input_size, (2, 3))
    call = _Call(runtime, weight=weight, grad_output=grad_output, out_x=out)
    problem = _problem(call, (1, *shape)[-3:], weight.shape, stride, padding, dilation, groups)
    call.expect("grad_output", problem.output_shape[3 - len(shape) :])
    return _gradients(
        call, problem, shape, (out, None, None), variant, (True, False, False), 1.0, 0.0
    )[0]


def conv1d_weight(
    x: Array,
    weight_size: Sequence[int],
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Array:
    """momentum * out + scale * the gradient of conv1d's weight, (Cout, Cin / groups, K).

    x (N, Cin, L), grad_output (N, Cout, Lout). With momentum 0 `out` is not read. Raises
    ProblemError, DeviceError.
    """
    shape = _shape_of("weight_size", weight_size, (3,))
    call = _Call(runtime, x=x, grad_output=grad_output, out_weight=out)
    problem = _problem(
        call, call.tensor("x"), shape, stride, padding, dilation, groups, "weight_size"
    )
    call.expect("grad_output", _unbatch(problem.output_shape, x))
    return _gradients(
        call, problem, x.shape, (None, out, None), variant, (False, True, False), scale, momentum
    )[1]


def conv1d_bias(
    grad_output: Array,
    *,
    out: Array | None = None,
    scale: float = 1.0,
    momentum: float = 0.0,
    runtime: Runtime | None = None,
) -> Array:
    """momentum * out + scale * the sum of grad_output (N, Cout, Lout) over N and Lout, (Cout,).

    Raises ProblemError, DeviceError.
    """
    call = _Call(runtime, grad_output=grad_output, out_bias=out)
    problem = _channels_problem(call, "grad_output")
    return _gradients(
        call,
        problem,
        grad_output.shape,
        (None, None, out),
        "auto",
        (False, False, True),
        scale,
        momentum,
    )[2]


def conv1d_backward(
    x: Array,
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    need: Sequence[bool] = (True, True, True),
    out: Sequence[Array | None] = (None, None, None),
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Gradients:
    """(grad_x, grad_weight, grad_bias) of conv1d, None where `need` is false.

    `out` of the weight and bias gradients accumulates: momentum * out + scale * gradient. Raises
    ProblemError, DeviceError.
    """
    outs = _three(need, out)
    call = _Call(
        runtime,
        x=x,
        weight=weight,
        grad_output=grad_output,
        out_x=outs[0],
        out_weight=outs[1],
        out_bias=outs[2],
    )
    problem = _problem(call, call.tensor("x"), weight.shape, stride, padding, dilation, groups)
    call.expect("grad_output", _unbatch(problem.output_shape, x))
    return _gradients(call, problem, x.shape, outs, variant, need, scale, momentum)


def conv_transpose1d_backward(
    x: Array,
    weight: Array,
    grad_output: Array,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
    *,
    need: Sequence[bool] = (True, True, True),
    out: Sequence[Array | None] = (None, None, None),
    scale: float = 1.0,
    momentum: float = 0.0,
    variant: Choice = "auto",
    runtime: Runtime | None = None,
) -> Gradients:
    """(grad_x, grad_weight, grad_bias) of conv_transpose1d, None where `need` is false.

    `out` as in conv1d_backward. Raises ProblemError, DeviceError.
    """
    outs = _three(need, out)
    call = _Call(
        runtime,
        x=x,
        weight=weight,
        grad_output=grad_output,
        out_x=outs[0],
        out_weight=outs[1],
        out_bias=outs[2],
    )
    problem = _transposed_problem(call, weight, stride, padding, output_padding, groups, dilation)
    call.expect("grad_output", _unbatch(problem.input_shape, x))
    return _gradients(call, problem, x.shape, outs, variant, need, scale, momentum, transposed=True)


def _three(need: Sequence[bool], out: Sequence[Array | None]) -> tuple[Array | None, ...]:
    """The outs that are needed."""
    for name, triple in (("need", need), ("out", out)):
        if not isinstance(triple, Sequence) or len(triple) != 3:
            raise ProblemError(f"{name} is {triple!r}, expected three: of x, weight and bias")
    return tuple(o if n else None for o, n in zip(out, need, strict=True))


def _channels_problem(call: _Call, name: str) -> Conv1dProblem:
    """A problem whose bias gradient sums an array over batch and positions."""
    batch, channels, length = call.tensor(name)
    return Conv1dProblem(batch, channels, length, channels, 1, groups=channels, dtype=call.dtype)


def _gradients(
    call: _Call,
    problem: Conv1dProblem,
    input_shape: Shape,
    outs: Sequence[Array | None],
    variant: Choice,
    need: Sequence[bool],
    scale: float,
    momentum: float,
    transposed: bool = False,
) -> Gradients:
    """The gradients that are needed, of a call whose inputs are checked.

    A transposed convolution is the input gradient of `problem`; so its own input gradient is the
    forward pass, and its weight gradient has input and output exchanged.
    """
    names = ("out_x", "out_weight", "out_bias")
    scale, momentum = _number("scale", scale), _number("momentum", momentum)
    bias_problem = _channels_problem(call, "grad_output")
    shapes = (tuple(input_shape), problem.weight_shape, (bias_problem.out_channels,))
    input_pass = Pass.FORWARD if transposed else Pass.INPUT_GRADIENT
    long, short = ("grad_output", "x") if transposed else ("x", "grad_output")
    # Where output_padding goes beyond every window, the problem has more positions than x.
    given: dict[str, float] = {"out_length": call.tensor("x")[2]} if transposed else {}
    passes: tuple[tuple[Conv1dProblem, Pass, Choice, dict[str, str], dict[str, float]], ...] = (
        (
            problem,
            input_pass,
            variant,
            {"x": "grad_output", "weight": "weight", "y": "out_x"},
            {"slope": 0.0},
        ),
        (
            problem,
            Pass.WEIGHT_GRADIENT,
            variant,
            {"x": long, "y": short, "result": "out_weight"},
            {},
        ),
        # A variant by name is meant for the convolution's own passes.
        (bias_problem, Pass.BIAS_GRADIENT, "auto", {"y": "grad_output", "result": "out_bias"}, {}),
    )
    wanted = [i for i in range(3) if need[i]]
    for i in wanted:
        call.check_out(names[i], shapes[i])
        call.plans(passes[i][0], passes[i][1], Epilogue(), passes[i][2])
    call.to_device(names[1:] if momentum else ())
    for i in wanted:
        # Without an old value there is nothing to keep of it.
        keep = momentum if names[i] in call.arrays else 0.0
        call.result(names[i], shapes[i])
        if i == 0 and not problem.batch:
            continue
        one, pass_, by, operands, numbers_ = passes[i]
        if i > 0:
            numbers_ = {"scale": scale, "momentum": keep}
        if i < 2:
            numbers_ = numbers_ | given
        call.add(one, pass_, Epilogue(), by, operands, [names[i]], numbers_, ["weight", "result"])
    call.commit()
    results = [_back(call, names[i], outs[i]) if i in wanted else None for i in range(3)]
    return results[0], results[1], results[2]
