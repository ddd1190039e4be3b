"""The passes as functions of arrays: PyTorch's names and argument order.

Every array of a call is a `pyopencl.array.Array` of one context, and so is the result; or every
one is a NumPy array, and so is the result. Device arrays may be views. Calls on device arrays
queue work and return at once. Shapes are (N, C, L), or (C, L) unbatched.

A call is its arrays and a recipe. The recipe says what is done; it follows from the function, its
options and how the arrays lie, so that a runtime keeps it, and only what belongs to the arrays
themselves is looked at in every call.
"""

from __future__ import annotations

import numbers
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl
import pyopencl.array as cl_array

from clconv.elementwise import copy_view
from clconv.errors import ArrayTypeError, ProblemError
from clconv.opencl import check_process
from clconv.planner import Choice as PlanChoice
from clconv.planner import KernelPlan
from clconv.problem import (
    DTYPES,
    MAX_POSITIONS,
    Conv1dProblem,
    Epilogue,
    Padding,
    Pass,
    padding_pair,
    whole,
)
from clconv.runtime import (
    Argument,
    Command,
    Prepared,
    Runtime,
    arguments,
    check_context,
    default_runtime,
    memory_of,
    runtime_of,
)
from clconv.variants.base import Launch

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
# "auto", the name of a variant, or choices by pass, tried before the planner's own order.
Choice = str | Mapping[Pass, PlanChoice]

# The numbers of `momentum * out + scale * gradient`.
ACCUMULATION = ("scale", "momentum")
DEVICE_ARRAY = {cl_array.Array}
REQUIRED = frozenset(("x", "weight", "grad_output"))
# Outs whose old values count where there is a momentum.
ACCUMULATING = frozenset(("out_weight", "out_bias"))
# What callers call the arrays whose names here are others.
FORWARD_NAMES = {"out_keep": "pre_activation"}
ONE_OUT = {"out_x": "out", "out_weight": "out", "out_bias": "out"}
NO_NAMES: Mapping[str, str] = MappingProxyType({})
THREE_OUTS = {"out_x": "out[0]", "out_weight": "out[1]", "out_bias": "out[2]"}


class _Layout(NamedTuple):
    """How an array lies; strides in bytes."""

    shape: Shape
    strides: Shape
    dtype: np.dtype[Any]

    @classmethod
    def contiguous(cls, shape: Shape, dtype: np.dtype[Any]) -> _Layout:
        """That of an array whose elements follow each other."""
        steps = [dtype.itemsize]
        for size in shape[:0:-1]:
            steps.append(steps[-1] * max(size, 1))
        return cls(shape, tuple(steps[::-1]) if shape else (), dtype)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other; one alone along a dimension may lie anywhere."""
        ideal = self.contiguous(self.shape, self.dtype).strides
        steps = zip(self.shape, self.strides, ideal, strict=True)
        return 0 in self.shape or all(n == 1 or a == b for n, a, b in steps)


def _three_dimensions(sizes: Shape) -> tuple[int, int, int]:
    """(C, L) gets a batch of one."""
    return (1, *sizes)[-3:]  # type: ignore[return-value]


class _Gap(NamedTuple):
    """An argument that each call gives anew: an array's buffer, with the offset behind it, or a
    number."""

    name: str


class _Launch(NamedTuple):
    """A launch with its arguments in order, and where the gaps in them are."""

    launch: Launch
    arguments: tuple[Any, ...]
    buffers: tuple[tuple[int, str], ...]
    numbers: tuple[tuple[int, str], ...]


class _Step(NamedTuple):
    """One pass. `accumulates` says that it writes to an array of the caller's."""

    prepared: Prepared
    launches: tuple[_Launch, ...]
    accumulates: bool


class _Recipe(NamedTuple):
    """What a call does with its arrays, which go by name."""

    dtype: np.dtype[Any]
    results: Mapping[str, Shape]
    copies: tuple[str, ...]  # of arrays that do not lie as kernels read them
    reads: tuple[str, ...]
    steps: tuple[_Step, ...]


class _Draft:
    """A recipe in the making: checks how the arrays lie, plans and builds.

    Every ProblemError that follows from layouts and options comes from here.
    """

    def __init__(
        self, runtime: Runtime, layouts: Mapping[str, _Layout], names: Mapping[str, str]
    ) -> None:
        self.runtime = runtime
        self.layouts = dict(layouts)
        self._names = names
        self.dtype = self._one_dtype()
        self.given = frozenset(layouts)
        self._results: dict[str, Shape] = {}
        self._copies: list[str] = []
        self._reads: list[str] = []
        self._steps: list[_Step] = []

    def recipe(self) -> _Recipe:
        """What was drafted so far."""
        reads = tuple(dict.fromkeys(self._reads))
        return _Recipe(self.dtype, self._results, tuple(self._copies), reads, tuple(self._steps))

    # Checks

    def said(self, name: str) -> str:
        """The caller's name of an array."""
        return self._names.get(name, name)

    def _one_dtype(self) -> np.dtype[Any]:
        for name, layout in self.layouts.items():
            if layout.dtype not in DTYPES:
                raise ProblemError(
                    f"{self.said(name)} has dtype {layout.dtype}, expected float32, float16 or "
                    "float64"
                )
        first, *others = self.layouts
        dtype = self.layouts[first].dtype
        for name in others:
            if self.layouts[name].dtype != dtype:
                raise ProblemError(
                    f"{self.said(name)} has dtype {self.layouts[name].dtype}, expected {dtype}, "
                    f"that of {self.said(first)}"
                )
        return dtype

    def shape(self, name: str) -> Shape:
        """The shape of an array of the call."""
        return self.layouts[name].shape

    def tensor(self, name: str) -> tuple[int, int, int]:
        """The (N, C, L) of an array that may be unbatched."""
        shape = self.shape(name)
        if len(shape) not in (2, 3):
            raise ProblemError(
                f"{self.said(name)} has shape {shape}, expected (N, C, L), or (C, L) unbatched"
            )
        _check_sizes(f"{self.said(name)} has shape", shape)
        return _three_dimensions(shape)

    def unbatched(self, shape: tuple[int, int, int], like: str) -> Shape:
        """A (N, C, L) without N where the array of this name has none."""
        return shape[1:] if len(self.shape(like)) == 2 else shape

    def expect(self, name: str, shape: Shape) -> None:
        """ProblemError unless the array, if given, has this shape."""
        if name in self.given and self.shape(name) != shape:
            raise ProblemError(f"{self.said(name)} has shape {self.shape(name)}, expected {shape}")

    def expect_out(self, name: str, shape: Shape) -> None:
        """ProblemError unless this `out`, if given, can take a result of that shape."""
        self.expect(name, shape)
        if name in self.given and not self.layouts[name].is_contiguous:
            raise ProblemError(
                f"{self.said(name)} has strides {self.layouts[name].strides}, expected contiguous"
            )

    # Arrays as kernels take them

    def result(self, name: str, shape: Shape) -> None:
        """The call gives an array of this shape, its out of this name or a new one."""
        self._results[name] = shape
        self.layouts[name] = _Layout.contiguous(shape, self.dtype)

    def _rows(self, name: str) -> Shape:
        """Strides of batch and channel of an array whose positions follow each other, copied where
        they do not."""
        size = self.dtype.itemsize
        shape, strides, _ = self.layouts[name]
        if (strides[-1] != size and shape[-1] > 1) or any(step % size for step in strides):
            self._copy(name)
            strides = self.layouts[name].strides
        return tuple([step // size for step in (0, *strides)[-3:-1]])

    def _flat(self, name: str) -> Shape:
        """No strides, of an array that is contiguous, copied where it is not."""
        if not self.layouts[name].is_contiguous:
            self._copy(name)
        return ()

    def _copy(self, name: str) -> None:
        shape, strides, dtype = self.layouts[name]
        if any(step % dtype.itemsize for step in strides):
            raise ProblemError(
                f"{self.said(name)} has strides {strides}, expected multiples of "
                f"{dtype.itemsize} bytes"
            )
        self._copies.append(name)
        self.layouts[name] = _Layout.contiguous(shape, dtype)

    # Passes

    def plans(
        self, problem: Conv1dProblem, pass_: Pass, epilogue: Epilogue, variant: Choice
    ) -> Iterator[KernelPlan]:
        """The plans to try, in order. Raises ProblemError where the variant cannot serve."""
        if isinstance(variant, str):
            return self.runtime.candidates(problem, pass_, epilogue, variant)
        if not isinstance(variant, Mapping):
            raise ProblemError(f"variant is {variant!r}, expected 'auto' or the name of a variant")
        choice = variant.get(pass_)
        if not isinstance(choice, PlanChoice | None):
            raise ProblemError(f"variant of {pass_.value} is {choice!r}, expected a plan's choice")
        return self.runtime.candidates(problem, pass_, epilogue, "auto", choice)

    def add(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue,
        variant: Choice,
        operands: Mapping[str, str],
        numbers_: Mapping[str, float],
        flat: Sequence[str],
    ) -> KernelPlan:
        """Plans and builds one pass. `operands` maps the kernels' names to the call's, `flat` are
        those of them that are read as a whole. Returns the plan that the device built."""
        prepared = self.runtime.prepare(self.plans(problem, pass_, epilogue, variant))
        bound: dict[str, Argument] = {"partial": (_Gap("partial"), 0)}
        for operand, name in operands.items():
            strides = self._flat(name) if operand in flat else self._rows(name)
            bound[operand] = (_Gap(name), 0, *strides)
        self._reads += [name for name in operands.values() if name not in self._results]
        given: dict[str, _Gap | float] = {name: _Gap(name) for name in ACCUMULATION}
        given |= {"bias_momentum": _Gap("momentum"), **numbers_}
        launches = []
        for launch in prepared.plan.launches:
            values = arguments(launch, bound, given)
            gaps = [(i, v.name) for i, v in enumerate(values) if isinstance(v, _Gap)]
            launches.append(
                _Launch(
                    launch,
                    tuple(values),
                    tuple(gap for gap in gaps if gap[1] not in ACCUMULATION),
                    tuple(gap for gap in gaps if gap[1] in ACCUMULATION),
                )
            )
        accumulates = not self.given.isdisjoint(set(operands.values()) & set(self._results))
        self._steps.append(_Step(prepared, tuple(launches), accumulates))
        return prepared.plan


class _Addresses:
    """The addresses of a device array, as an object that NumPy can compare with another."""

    def __init__(self, array: cl_array.Array) -> None:
        # Never read: only the pattern of addresses counts. A buffer may start anywhere but at 0.
        start = array.base_data.svm_ptr if isinstance(array.base_data, cl.SVMPointer) else 4096
        self.__array_interface__ = {
            "version": 3,
            "data": (start + array.offset, True),
            "typestr": array.dtype.str,
            "shape": tuple(array.shape),
            "strides": tuple(array.strides),
        }


def _share_bytes(a: Array, b: Array) -> bool:
    if isinstance(a, np.ndarray):
        return np.shares_memory(a, b)
    if a.size == 0 or b.size == 0 or memory_of("a", a) != memory_of("b", b):
        return False
    return np.shares_memory(np.asarray(_Addresses(a)), np.asarray(_Addresses(b)))


class _Call:
    """The arrays of one call by name: of one kind, on one runtime, the outs apart from the rest.

    `follow` checks, builds and allocates before it queues anything; so a call that raises has
    changed nothing.
    """

    def __init__(
        self, runtime: Runtime | None, names: Mapping[str, str] = NO_NAMES, **arrays: Array | None
    ) -> None:
        self.names = names
        self.arrays: dict[str, Array] = {
            name: a for name, a in arrays.items() if a is not None or name in REQUIRED
        }
        self.host = self._on_host()
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ArrayTypeError(f"runtime is {runtime!r}, expected a clconv.Runtime or None")
        if runtime is not None:
            check_process()
        if self.host:
            self._check_outs()
            self.runtime = runtime or default_runtime()
        else:
            context = self._one_context(runtime)
            self.runtime = runtime or runtime_of(context)

    def _said(self, name: str) -> str:
        """The caller's name of an array."""
        return self.names.get(name, name)

    def _on_host(self) -> bool:
        kinds = set(map(type, self.arrays.values()))
        if kinds == DEVICE_ARRAY:
            return False
        for name, array in self.arrays.items():
            if not isinstance(array, (cl_array.Array, np.ndarray)):
                raise ArrayTypeError(
                    f"{self._said(name)} is a {type(array).__module__}.{type(array).__qualname__}, "
                    "expected a NumPy array or a pyopencl.array.Array"
                )
        host = [isinstance(array, np.ndarray) for array in self.arrays.values()]
        if any(host) and not all(host):
            which = ", ".join(
                f"{self._said(name)} is a {'NumPy' if on_host else 'device'} array"
                for name, on_host in zip(self.arrays, host, strict=True)
            )
            raise ArrayTypeError(f"{which}; expected all of one kind")
        return host[0]

    def _one_context(self, runtime: Runtime | None) -> Any:
        """The context of all arrays, which start at whole elements, the outs by themselves."""
        first, array = next(iter(self.arrays.items()))
        context: Any = array.context if runtime is None else runtime.context
        handle = context.int_ptr
        buffers = []
        for name, array in self.arrays.items():
            if array.context.int_ptr != handle:
                check_context(self._said(name), array, context, runtime or self._said(first))
            size = array.dtype.itemsize
            if array.offset % size:
                raise ProblemError(
                    f"{self._said(name)} starts at byte {array.offset} of its buffer, expected a "
                    f"multiple of {size}"
                )
            if array.nbytes:
                buffers.append(memory_of(self._said(name), array))
        if len(set(buffers)) < len(buffers):
            self._check_outs()
        return context

    def _check_outs(self) -> None:
        outs = [name for name in self.arrays if name.startswith("out")]
        for name in outs:
            out = self.arrays[name]
            if self.host and not out.flags.writeable:
                raise ProblemError(f"{self._said(name)} is read-only, expected a writable array")
            for other, array in self.arrays.items():
                if other != name and _share_bytes(out, array):
                    raise ProblemError(
                        f"{self._said(name)} shares memory with {self._said(other)}, expected "
                        "memory of its own"
                    )

    def recipe(self, make: Callable[..., None], *options: Any) -> _Recipe:
        """What `make(draft, *options)` drafts for arrays that lie so, now or in an earlier call.

        Raises ProblemError, BuildError.
        """
        # Kept recipes are found by plain tuples, which take the least time to make.
        if self.host:
            layouts = [self._uploaded_layout(*one) for one in self.arrays.items()]
        else:
            layouts = [(a.shape, a.strides, a.dtype) for a in self.arrays.values()]
        key: Hashable = None
        named = _exactly(options)
        if named is not None:
            key = (make, named, *self.arrays, *layouts, self.runtime.workspace_limit)
            kept: _Recipe | None = self.runtime.recipes.get(key)
            if kept is not None:
                return kept
        names_and_layouts = zip(self.arrays, layouts, strict=True)
        laid = {name: _Layout(*one) for name, one in names_and_layouts}
        draft = _Draft(self.runtime, laid, self.names)
        make(draft, *options)
        recipe = draft.recipe()
        return recipe if key is None else self.runtime.recipes.set_default(key, recipe)

    def _uploaded_layout(self, name: str, array: Array) -> tuple[Shape, Shape, np.dtype[Any]]:
        """How an array of NumPy's lies on the device; an out that is to be refused, as it does."""
        if name.startswith("out") and not array.flags.c_contiguous:
            return array.shape, array.strides, array.dtype
        return _Layout.contiguous(array.shape, array.dtype)

    def follow(self, recipe: _Recipe, numbers_: Mapping[str, float] = MappingProxyType({})) -> Any:
        """The recipe's results by name. `numbers_` are the scalars that each call gives anew."""
        runtime = self.runtime
        arrays = self._uploaded(numbers_) if self.host else self.arrays
        for name, shape in recipe.results.items():
            if name not in arrays:
                arrays[name] = runtime.empty(shape, recipe.dtype)
        originals = [(name, arrays[name]) for name in recipe.copies]
        for name, array in originals:
            arrays[name] = runtime.empty(array.shape, recipe.dtype)
        size = recipe.dtype.itemsize
        buffers = {name: (a.base_data, a.offset // size) for name, a in arrays.items()}
        waiting: _Waiting | None = None if self.host else getattr(_thread, "waiting", None)
        commands: list[Command] = []
        later: list[Command] = []
        for step in recipe.steps:
            kernels = runtime.kernels(step.prepared)
            buffers["partial"] = runtime.workspace(step.prepared), 0
            for kernel, (launch, template, places, open_numbers) in zip(
                kernels, step.launches, strict=True
            ):
                values = list(template)
                for i, name in places:
                    values[i : i + 2] = buffers[name]
                for i, name in open_numbers:
                    values[i] = numbers_[name]
                late = step.accumulates and waiting is not None
                (later if late else commands).append((kernel, launch, values))
        # So far nothing was queued; from here on nothing is checked.
        for name, array in originals:
            copy_view(runtime, array, arrays[name])
        reads = [arrays[name] for name in recipe.reads]
        writes = [arrays[name] for name in recipe.results]
        if waiting is not None and later:
            given = [arrays[name] for name in recipe.results if name in self.arrays]
            waiting.append((runtime, later, reads, given))
            writes = [arrays[name] for name in recipe.results if name not in self.arrays]
        if commands:
            runtime.enqueue(commands, reads, writes)
        return {name: self._back(name, arrays[name]) for name in recipe.results}

    def _uploaded(self, numbers_: Mapping[str, float]) -> dict[str, Array]:
        """The arrays on the device; outs only where their old values count."""
        counting = ACCUMULATING if numbers_.get("momentum") else frozenset()
        return {
            name: self.runtime.to_device(array)
            for name, array in self.arrays.items()
            if not name.startswith("out") or name in counting
        }

    def _back(self, name: str, result: cl_array.Array) -> Array:
        """A result as the caller wants it: the device array, or its values in NumPy's memory."""
        if not self.host:
            return result
        return self.runtime.to_host(result, self.arrays.get(name))


# Types whose values stay as they are.
_CONSTANT = frozenset((int, str, NoneType, float, bool, Pass))


def _exactly(options: Any) -> Hashable:
    """Options as a key, in which 1, 1.0 and True differ; None where their values may change."""
    kinds = tuple(map(type, options))
    if _CONSTANT.issuperset(kinds):
        return kinds, options
    parts: list[Hashable] = []
    for kind, option in zip(kinds, options, strict=True):
        if kind in (dict, MappingProxyType):
            option = tuple(option.items())
        if kind in _CONSTANT or isinstance(option, np.generic):
            parts.append(option)
        elif isinstance(option, tuple) or kind is list:
            inner = _exactly(tuple(option))
            if inner is None:
                return None
            parts.append(inner)
        else:
            return None
    return kinds, tuple(parts)


# What an option says


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


def _accumulation(scale: Any, momentum: Any) -> dict[str, float]:
    return {"scale": _number("scale", scale), "momentum": _number("momentum", momentum)}


def _needed(
    need: Sequence[bool], out: Sequence[Array | None]
) -> tuple[tuple[bool, ...], dict[str, Array | None]]:
    """Which gradients are needed, and the outs of those."""
    for name, triple in (("need", need), ("out", out)):
        if not isinstance(triple, Sequence) or len(triple) != 3:
            raise ProblemError(f"{name} is {triple!r}, expected three: of x, weight and bias")
    needed = tuple(map(bool, need))
    names = ("out_x", "out_weight", "out_bias")
    return needed, {n: o if yes else None for n, o, yes in zip(names, out, needed, strict=True)}


def _check_sizes(said: str, shape: Shape) -> None:
    if 0 in shape[-2:]:
        raise ProblemError(f"{said} {shape}, expected at least one channel and one position")


def _check_weight(said: str, shape: Shape, expected: str) -> None:
    if len(shape) != 3:
        raise ProblemError(f"{said} {shape}, expected {expected}")
    if 0 in shape:
        raise ProblemError(f"{said} {shape}, expected {expected}, each at least 1")


def _problem(
    draft: _Draft,
    input_shape: tuple[int, int, int],
    weight_shape: Shape,
    stride: Any,
    padding: Padding,
    dilation: Any,
    groups: Any,
    weight_is: str = "weight has shape",
) -> Conv1dProblem:
    _check_weight(weight_is, weight_shape, "(Cout, Cin / groups, kernel_size)")
    batch, in_channels, length = input_shape
    out_channels, group_in, kernel_size = weight_shape
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
        draft.dtype,
    )
    if group_in != problem.group_in:
        raise ProblemError(
            f"{weight_is} {weight_shape}, expected {problem.weight_shape} for "
            f"{in_channels} input channels in {problem.groups} groups"
        )
    return problem


def _transposed_problem(
    draft: _Draft, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> Conv1dProblem:
    """The convolution whose input gradient this transposed convolution is."""
    batch, in_channels, length = draft.tensor("x")
    _check_weight("weight has shape", draft.shape("weight"), "(Cin, Cout / groups, kernel_size)")
    _, group_out, kernel_size = draft.shape("weight")
    stride, dilation = whole("stride", stride, 1), whole("dilation", dilation, 1)
    groups = whole("groups", groups, 1)
    if in_channels % groups:
        raise ProblemError(f"groups is {groups}, expected a divisor of in_channels ({in_channels})")
    if isinstance(padding, str):
        raise ProblemError(f"padding is {padding!r}, expected an integer or a pair")
    left, right = padding_pair(padding, 1, 1)
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
    if out_length + left + right > MAX_POSITIONS:
        raise ProblemError(
            f"stride is {stride} and dilation {dilation}, which makes {out_length + left + right} "
            f"output positions before padding is cropped, expected at most {MAX_POSITIONS}"
        )
    # What output_padding adds on the right was padding there, or lies beyond every window: a whole
    # stride of it would be an output position more than x has.
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
        draft.dtype,
        cropped=max(extra - right, 0) // stride * stride,
    )
    draft.expect("weight", problem.weight_shape)
    return problem


def _channels_problem(draft: _Draft, name: str) -> Conv1dProblem:
    """A problem whose bias gradient sums an array over batch and positions."""
    batch, channels, length = draft.tensor(name)
    return Conv1dProblem(batch, channels, length, channels, 1, groups=channels, dtype=draft.dtype)


# Accumulations that wait

_Waiting = list[tuple[Runtime, list[Command], list[cl_array.Array], list[cl_array.Array]]]
# In each thread, where calls leave them.
_thread = threading.local()


class Accumulations:
    """What device calls add to their outs, ready to run, but only once others are ready too."""

    def __init__(self) -> None:
        self._waiting: _Waiting = []

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Calls of this thread in here leave what they write to outs for `run`."""
        _thread.waiting = self._waiting
        try:
            yield
        finally:
            _thread.waiting = None

    def run(self) -> None:
        """Queues all, in the order of the calls."""
        for runtime, commands, reads, writes in self._waiting:
            runtime.enqueue(commands, reads, writes)


# Recipes


def _draft_conv1d(
    draft: _Draft,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    activation: Any,
    variant: Choice,
) -> None:
    x = draft.tensor("x")
    problem = _problem(draft, x, draft.shape("weight"), stride, padding, dilation, groups)
    shape = draft.unbatched(problem.output_shape, "x")
    bias_shape = (problem.out_channels,)
    _draft_result(draft, problem, Pass.FORWARD, shape, bias_shape, activation, variant)


def _draft_conv_transpose1d(
    draft: _Draft,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    activation: Any,
    variant: Choice,
) -> None:
    problem = _transposed_problem(draft, stride, padding, output_padding, groups, dilation)
    shape = draft.unbatched(problem.input_shape, "x")
    bias_shape = (problem.in_channels,)
    _draft_result(draft, problem, Pass.INPUT_GRADIENT, shape, bias_shape, activation, variant)


def _draft_result(
    draft: _Draft,
    problem: Conv1dProblem,
    pass_: Pass,
    shape: Shape,
    bias_shape: Shape,
    activation: Any,
    variant: Choice,
) -> None:
    """What the forward pass and the transposed convolution share: checks, epilogue, launch."""
    draft.expect("bias", bias_shape)
    draft.expect("residual", shape)
    draft.expect_out("out", shape)
    draft.expect_out("out_keep", shape)
    name, slope = Epilogue.parse_activation(activation)
    keep = "out_keep" in draft.given
    epilogue = Epilogue("bias" in draft.given, "residual" in draft.given, name, keep)
    operands = {"x": "x", "weight": "weight"}
    operands |= {one: one for one in ("bias", "residual") if one in draft.given}
    if keep:
        draft.result("out_keep", shape)
        operands["pre_activation"] = "out_keep"
    draft.result("out", shape)
    operands["y"] = "out"
    draft.plans(problem, pass_, epilogue, variant)
    if problem.batch:
        # 0.0 and -0.0 are one key.
        numbers_ = {"slope": slope + 0.0}
        draft.add(problem, pass_, epilogue, variant, operands, numbers_, ("weight", "bias"))


def _draft_conv1d_input(
    draft: _Draft,
    shape: Shape,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    variant: Choice,
) -> None:
    weight = draft.shape("weight")
    _check_sizes("input_size is", shape)
    x = _three_dimensions(shape)
    problem = _problem(draft, x, weight, stride, padding, dilation, groups)
    draft.expect("grad_output", problem.output_shape[3 - len(shape) :])
    _draft_gradients(draft, problem, shape, (True, False, False), variant)


def _draft_conv1d_weight(
    draft: _Draft,
    shape: Shape,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    variant: Choice,
) -> None:
    x = draft.tensor("x")
    problem = _problem(draft, x, shape, stride, padding, dilation, groups, "weight_size is")
    draft.expect("grad_output", draft.unbatched(problem.output_shape, "x"))
    _draft_gradients(draft, problem, draft.shape("x"), (False, True, False), variant)


def _draft_conv1d_bias(draft: _Draft) -> None:
    problem = _channels_problem(draft, "grad_output")
    shape = draft.shape("grad_output")
    _draft_gradients(draft, problem, shape, (False, False, True), "auto")


def _draft_conv1d_backward(
    draft: _Draft,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    need: tuple[bool, ...],
    variant: Choice,
) -> None:
    x = draft.tensor("x")
    problem = _problem(draft, x, draft.shape("weight"), stride, padding, dilation, groups)
    draft.expect("grad_output", draft.unbatched(problem.output_shape, "x"))
    _draft_gradients(draft, problem, draft.shape("x"), need, variant)


def _draft_conv_transpose1d_backward(
    draft: _Draft,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    need: tuple[bool, ...],
    variant: Choice,
) -> None:
    problem = _transposed_problem(draft, stride, padding, output_padding, groups, dilation)
    draft.expect("grad_output", draft.unbatched(problem.input_shape, "x"))
    _draft_gradients(draft, problem, draft.shape("x"), need, variant, transposed=True)


class _Gradient(NamedTuple):
    """A gradient of a call: its out, and what computes it."""

    name: str
    shape: Shape
    problem: Conv1dProblem
    pass_: Pass
    epilogue: Epilogue
    variant: Choice
    operands: dict[str, str]
    numbers: dict[str, float]


def _draft_gradients(
    draft: _Draft,
    problem: Conv1dProblem,
    input_shape: Shape,
    need: tuple[bool, ...],
    variant: Choice,
    transposed: bool = False,
) -> None:
    """The gradients that are needed, of inputs that are checked.

    A transposed convolution is the input gradient of `problem`; so its own input gradient is the
    forward pass, and its weight gradient has input and output exchanged.
    """
    bias_problem = _channels_problem(draft, "grad_output")
    long, short = ("grad_output", "x") if transposed else ("x", "grad_output")
    # Both are sums over the output's gradient: some variants read it once for weights and bias.
    together = all(need[1:]) and not transposed
    gradients = (
        _Gradient(
            "out_x",
            input_shape,
            problem,
            Pass.FORWARD if transposed else Pass.INPUT_GRADIENT,
            Epilogue(),
            variant,
            {"x": "grad_output", "weight": "weight", "y": "out_x"},
            {"slope": 0.0},
        ),
        _Gradient(
            "out_weight",
            problem.weight_shape,
            problem,
            Pass.WEIGHT_GRADIENT,
            Epilogue(bias=together),
            variant,
            {"x": long, "y": short, "result": "out_weight"}
            | ({"bias": "out_bias"} if together else {}),
            {} if "out_bias" in draft.given else {"bias_momentum": 0.0},
        ),
        _Gradient(
            "out_bias",
            (bias_problem.out_channels,),
            bias_problem,
            Pass.BIAS_GRADIENT,
            Epilogue(),
            "auto",  # a variant by name is meant for the convolution's own passes
            {"y": "grad_output", "result": "out_bias"},
            {},
        ),
    )
    wanted = [gradient for gradient, needed in zip(gradients, need, strict=True) if needed]
    for one in wanted:
        draft.expect_out(one.name, one.shape)
        draft.plans(one.problem, one.pass_, one.epilogue, one.variant)
    for one in wanted:
        draft.result(one.name, one.shape)
    bias_is_summed = False
    for name, _, its_problem, pass_, epilogue, by, operands, numbers_ in wanted:
        if (name == "out_x" and not problem.batch) or (name == "out_bias" and bias_is_summed):
            continue
        if name not in draft.given:
            numbers_ = {**numbers_, "momentum": 0.0}  # there is no old value to keep of
        flat = ("weight", "result", "bias")
        plan = draft.add(its_problem, pass_, epilogue, by, operands, numbers_, flat)
        bias_is_summed = plan.sums_bias


# The functions


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
    padding in samples: an int, (left, right), "same" or "valid". `pre_activation`, an array like
    `out`, takes the values before the activation. Raises ProblemError, DeviceError.
    """
    call = _Call(
        runtime,
        FORWARD_NAMES,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    options = stride, padding, dilation, groups, activation, variant
    return call.follow(call.recipe(_draft_conv1d, *options))["out"]


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
        runtime,
        FORWARD_NAMES,
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        out=out,
        out_keep=pre_activation,
    )
    options = stride, padding, output_padding, groups, dilation, activation, variant
    return call.follow(call.recipe(_draft_conv_transpose1d, *options))["out"]


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
    call = _Call(runtime, ONE_OUT, weight=weight, grad_output=grad_output, out_x=out)
    options = shape, stride, padding, dilation, groups, variant
    return call.follow(call.recipe(_draft_conv1d_input, *options))["out_x"]


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
    numbers_ = _accumulation(scale, momentum)
    call = _Call(runtime, ONE_OUT, x=x, grad_output=grad_output, out_weight=out)
    options = shape, stride, padding, dilation, groups, variant
    return call.follow(call.recipe(_draft_conv1d_weight, *options), numbers_)["out_weight"]


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
    numbers_ = _accumulation(scale, momentum)
    call = _Call(runtime, ONE_OUT, grad_output=grad_output, out_bias=out)
    return call.follow(call.recipe(_draft_conv1d_bias), numbers_)["out_bias"]


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
    needed, outs = _needed(need, out)
    numbers_ = _accumulation(scale, momentum)
    call = _Call(runtime, THREE_OUTS, x=x, weight=weight, grad_output=grad_output, **outs)
    options = stride, padding, dilation, groups, needed, variant
    results = call.follow(call.recipe(_draft_conv1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")


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
    needed, outs = _needed(need, out)
    numbers_ = _accumulation(scale, momentum)
    call = _Call(runtime, THREE_OUTS, x=x, weight=weight, grad_output=grad_output, **outs)
    options = stride, padding, output_padding, groups, dilation, needed, variant
    results = call.follow(call.recipe(_draft_conv_transpose1d_backward, *options), numbers_)
    return results.get("out_x"), results.get("out_weight"), results.get("out_bias")
