"""What do variants share? Requests, kernels, designs and schedules.

A variant is a folder, whose module has
    NAME                                       what users call it
    ERROR_CLASS                                EXACT, or a bound of its own
    EXAMPLES                                   tiny problems that reach all paths of its kernels
    refusal(request)                           why it cannot serve, or None
    designs(request)                           its kernels, in the variant's own order
Each pass has a module beside it. It is listed in `clconv.variants.VARIANTS`, from where tests,
tuning and tools take it. A design follows from layer, epilogue and device; a schedule of it from
batch, length and padding as well.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from clconv.dtypes import accumulator, is_short
from clconv.planning.cost import LINE_BYTES, Cost
from clconv.planning.profiles import DeviceProfile
from clconv.problem import Conv1dProblem, Epilogue, Pass

__all__ = [
    "ACCUMULATION",
    "BIAS_RESULT",
    "EXACT",
    "MAX_GROUPS",
    "PARTIAL",
    "WEIGHT_GRADIENT",
    "Constants",
    "Design",
    "ErrorClass",
    "Kernel",
    "Launch",
    "Layout",
    "Operand",
    "Request",
    "Scalar",
    "Schedule",
    "Variant",
    "Workspace",
    "accumulator",
    "ceil_div",
    "common_constants",
    "convolution_operands",
    "geometry_constants",
    "gradient_arguments",
    "grid",
    "grouped_taps",
    "kernel_constants",
    "launch_partials",
    "layout_refusal",
    "local_items",
    "padded",
    "partials_limit",
    "phase_constants",
    "rounded",
    "scalars",
    "share_sums",
    "sum_partials",
    "vector_lanes",
    "weight_gradient_design",
]

Constants = tuple[tuple[str, Any], ...]


class ErrorClass(NamedTuple):
    """How far a variant's sums may be from the true ones.

    `sums(problem, pass_, tile, arrays)` gives that for each value of a pass, before what follows
    its sums: `arrays` are the NumPy arrays that the pass reads, by name. None stands for the
    definition's own sums, in whatever order: integers come out exact, and other data keeps the
    rounding bound of such sums.

    NaN appears in exactly the results that the definition gives. So do infinities; unless
    `keeps_infinity`, a result may be NaN instead.
    """

    name: str
    sums: Callable[[Conv1dProblem, Pass, Mapping[str, int], Mapping[str, Any]], Any] | None = None
    keeps_infinity: bool = True


EXACT = ErrorClass("exact")

# Partial sums may take this part of the bytes of the arrays that they are made of.
WORKSPACE_SHARE = 0.25
# Work-items a group of element-wise kernels.
ELEMENT_GROUP = 64

# Activations that call functions of OpenCL, whose vectors are those that the compiler knows.
CALLING = frozenset({"sigmoid", "tanh", "gelu", "silu", "elu"})

# Drivers get slow, or compile again, beyond this many work-groups in a dimension; kernels loop.
MAX_GROUPS = 65535


class Layout(enum.Enum):
    """How a kernel addresses an array, and so which arguments it gets behind the pointer, all in
    elements."""

    ROWS = "rows"  # positions are contiguous
    CHANNELS = "channels"  # channels are contiguous
    STRIDED = "strided"  # neither need be
    FLAT = "flat"  # all is

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of those arguments, each behind the array's own."""
        return _NUMBERS[self]


_NUMBERS = {
    Layout.ROWS: ("offset", "batch_stride", "channel_stride"),
    Layout.CHANNELS: ("offset", "batch_stride", "position_stride"),
    Layout.STRIDED: ("offset", "batch_stride", "channel_stride", "position_stride"),
    Layout.FLAT: ("offset",),
}


@dataclass(frozen=True)
class Request:
    """All that planning depends on.

    `kernel` names the one to run where a design has several for one job; None lets the model
    choose. `kept` says that what is derived from the weights is kept from call to call. `x_layout`
    and `y_layout` say how what a pass reads and writes by position lies; what is read or written
    beside y lies as y does.
    """

    problem: Conv1dProblem
    pass_: Pass
    device: DeviceProfile
    epilogue: Epilogue = field(default_factory=Epilogue)
    workspace_limit: int | None = None
    kernel: str | None = None
    kept: bool = False
    x_layout: Layout = Layout.ROWS
    y_layout: Layout = Layout.ROWS

    @property
    def in_rows(self) -> bool:
        """Whether the positions of all arrays are contiguous."""
        return self.x_layout is self.y_layout is Layout.ROWS

    def asking(self) -> Request:
        """The same with the widest vectors of a CPU, for kernels that ask for them.

        None of 16-bit elements does: asked for AVX-512, PoCL 3.0 gave wrong results (Winograd of
        float16, dilations of 3 and 6); the same text is right where nothing is asked.
        """
        forbidden = self.epilogue.activation in CALLING or is_short(self.problem.dtype)
        if forbidden or not self.device.instruction_sets:
            return self
        return replace(self, device=self.device.asking())


@dataclass(frozen=True)
class Operand:
    """An array argument of a kernel, bound by name.

    `element` is the C type of its elements: STORED, the call's dtype in memory, SUM, that of the
    sums, or one by name. A `workspace` is no array of the call: the schedule, or the preparation of
    weights, says how large it is; where it is in neither, the launch does not use it.
    """

    name: str
    layout: Layout
    written: bool = False
    element: str = "STORED"
    workspace: bool = False


@dataclass(frozen=True)
class Scalar:
    """A run-time number of a kernel."""

    name: str
    type: str  # "int", "long" or "SUM", the sums' dtype


@lru_cache(maxsize=64)
def scalars(int_names: str = "", long_names: str = "", sum_names: str = "") -> tuple[Scalar, ...]:
    """Scalars by type, names separated by spaces."""
    typed = (("int", int_names), ("long", long_names), ("SUM", sum_names))
    return tuple(Scalar(name, type_) for type_, names in typed for name in names.split())


# Shares of sums, which a second kernel adds.
PARTIAL = Operand("partial", Layout.FLAT, written=True, element="SUM", workspace=True)
# The arrays of a weight gradient, and how it is added to an old one:
# momentum * old + scale * gradient.
WEIGHT_GRADIENT = (
    Operand("x", Layout.ROWS),
    Operand("y", Layout.ROWS),
    PARTIAL,
    Operand("result", Layout.FLAT, written=True),
)
# The bias gradient beside it, which has an old one of its own.
BIAS_RESULT = Operand("bias", Layout.FLAT, written=True)
BIAS_MOMENTUM = Scalar("bias_momentum", "SUM")
ACCUMULATION = (Scalar("scale", "SUM"), Scalar("momentum", "SUM"))


@dataclass(frozen=True)
class Kernel:
    """A kernel: its template, what is compiled in, and what it is given."""

    name: str  # the template's stem, too
    constants: Constants
    operands: tuple[Operand, ...]
    scalars: tuple[Scalar, ...]
    local_size: tuple[int, int, int]

    @cached_property
    def _hash(self) -> int:
        parts = self.name, self.constants, self.operands, self.scalars, self.local_size
        return hash(parts)

    def __hash__(self) -> int:
        return self._hash  # which every call looks up

    def launch(self, global_size: tuple[int, int, int], **numbers: int) -> Launch:
        """A launch of it; scalars that `numbers` does not name are the call's to give."""
        unknown = numbers.keys() - {scalar.name for scalar in self.scalars}
        if unknown:
            raise TypeError(f"{self.name} has no scalars {sorted(unknown)}")
        values = tuple(numbers.get(scalar.name) for scalar in self.scalars)
        return Launch(self, global_size, values)


@dataclass(frozen=True)
class Launch:
    """A kernel with its numbers: a value for each scalar, None where only the call knows it."""

    kernel: Kernel
    global_size: tuple[int, int, int]
    values: tuple[int | None, ...] = ()

    @property
    def numbers(self) -> dict[str, int | None]:
        """The values by name."""
        return dict(zip((s.name for s in self.kernel.scalars), self.values, strict=True))


@dataclass(frozen=True)
class Workspace:
    """Memory besides the arrays of a call, which kernels bind by its name: `count` elements of a
    dtype."""

    name: str
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Schedule:
    """What runs: launches in order, and the workspaces that they share."""

    launches: tuple[Launch, ...] = ()
    workspaces: tuple[Workspace, ...] = ()

    @property
    def workspace_bytes(self) -> int:
        """Of all workspaces."""
        return sum(one.nbytes for one in self.workspaces)


@dataclass(frozen=True)
class Design:
    """A way to compute a pass of a layer: its tile, its kernels, and what it costs.

    `cost` is the modelled cost of the request's problem, without launches: in proportion to batch
    and positions, so these do not change the choice. `schedule` divides the work of a request with
    the design's layer, epilogue and device: its workspaces live as long as the call. `preparation`
    is
    what is derived from the weights alone: its launches read the operand `weight` and write its
    workspaces, which live as long as the weights do not change, and which the schedule's launches
    read. `predicted` is the cost of one request with its launches, if it is known better than in
    proportion to batch and positions. It `decides` where that is far off: then the planner compares
    what is predicted of it and of designs that do not, and which of the two is taken depends on
    batch and length. What is `measured_only` has a cost that nobody could compare with times yet:
    "auto" takes it where a record of times says so. `copies` arrays that do not lie as its kernels
    take them are copied in each call, which its costs include. The planner marks an `alternative`,
    which other sizes of the layer take.
    """

    tile: Mapping[str, int]
    kernels: tuple[Kernel, ...]
    cost: Cost
    schedule: Callable[[Request], Schedule] = field(compare=False)
    preparation: Schedule = Schedule()
    predicted: Callable[[Request], Cost] | None = field(default=None, compare=False)
    decides: bool = False
    measured_only: bool = False
    copies: int = 0
    alternative: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", MappingProxyType(dict(self.tile)))


class Variant(Protocol):
    """What a module of this folder offers."""

    NAME: str
    ERROR_CLASS: ErrorClass

    @property
    def EXAMPLES(self) -> Mapping[str, Conv1dProblem]:
        """Tiny problems that reach all paths of its kernels, by what each is there for."""

    def refusal(self, request: Request) -> str | None:
        """Why the variant cannot serve this request; None where it can."""

    def designs(self, request: Request) -> Iterator[Design]:
        """The variant's tiles for this request; at least one where `refusal` is None."""


def vector_lanes(device: DeviceProfile, dtype: np.dtype[Any]) -> int:
    """Vector length of a work-item: a CPU's register, 1 where work-items are the lanes."""
    if device.vector_floats == 1:
        return 1
    return max(1, min(16, device.vector_floats * 4 // accumulator(dtype).itemsize))


def layout_refusal(request: Request) -> str | None:
    """Of variants that read and write contiguous positions alone: why they cannot serve."""
    for name, layout in (("x", request.x_layout), ("y", request.y_layout)):
        if layout is not Layout.ROWS:
            return f"the positions of {name} are not contiguous ({layout.value}), as it takes them"
    return None


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def padded(elements: int, item_bytes: int) -> int:
    """So many elements or a few more: an odd number of a cache's lines, so that the same place of
    several rows or points is on different ones."""
    return (ceil_div(elements * item_bytes, LINE_BYTES) | 1) * LINE_BYTES // item_bytes


def rounded(count: int, step: int) -> int:
    """The least multiple of `step` that is no less: what tasks take, of cores that wait for the
    last ones."""
    return ceil_div(count, step) * step


def grouped_taps(lanes: int, spacing: int, taps: int) -> tuple[int, int]:
    """(taps from one to the next that reads a whole vector further, how many such a group has)."""
    if not spacing or lanes % spacing:
        return 1, 1
    tap_stride = lanes // spacing
    return tap_stride, max(1, min(4, taps // tap_stride))


def local_items(device: DeviceProfile, wanted: int, dimension: int = 0) -> int:
    """The largest power of two of at most `wanted` that the device takes as a work-group."""
    most = min(wanted, device.max_work_group_size, device.max_work_item_sizes[dimension])
    return 1 << (max(most, 1).bit_length() - 1)


def grid(count: int) -> int:
    """Work-groups of a dimension for that many tasks; kernels loop beyond."""
    return max(1, min(count, MAX_GROUPS))


def common_constants(request: Request, lanes: int) -> Constants:
    """What common.cl.mako needs, of a request."""
    return kernel_constants(request.device, request.problem.dtype, lanes)


def kernel_constants(
    device: DeviceProfile, dtype: np.dtype[Any], lanes: int, half_builtins: bool | None = None
) -> Constants:
    """What common.cl.mako needs; `half_builtins` of the device unless given."""
    return (
        ("dtype", dtype.name),
        ("lanes", lanes),
        ("half_builtins", device.half_builtins if half_builtins is None else half_builtins),
        ("instruction_sets", device.asked_for if lanes > 1 else ""),
    )


def geometry_constants(problem: Conv1dProblem) -> Constants:
    """The layer, by the names that templates know."""
    return (
        ("group_in", problem.group_in),
        ("group_out", problem.group_out),
        ("kernel_size", problem.kernel_size),
        ("stride", problem.stride),
        ("dilation", problem.dilation),
        ("groups", problem.groups),
    )


def phase_constants(problem: Conv1dProblem) -> Constants:
    """How the taps of the input gradient fall on the phases of a stride."""
    return (
        ("common", problem.tap_phase_gcd),
        ("tap_step", problem.phase_tap_step),
        ("tap_inverse", problem.phase_tap_inverse),
    )


def convolution_operands(request: Request) -> tuple[Operand, ...]:
    """The arrays of the forward pass and of the input gradient, those of the epilogue as
    epilogue.cl.mako names them."""
    epilogue, y_layout = request.epilogue, request.y_layout
    operands = [Operand("x", request.x_layout), Operand("weight", Layout.FLAT)]
    if epilogue.bias:
        operands.append(Operand("bias", Layout.FLAT))
    if epilogue.residual:
        operands.append(Operand("residual", y_layout))
    if epilogue.keep:
        operands.append(Operand("pre_activation", y_layout, written=True))
    return (*operands, Operand("y", y_layout, written=True))


def partials_limit(request: Request, result_bytes: int) -> float:
    """Bytes that the partial sums of a gradient may take, `result_bytes` in all for one share."""
    problem = request.problem
    values = problem.batch * problem.out_channels * problem.out_length
    if request.pass_ is Pass.WEIGHT_GRADIENT:
        values += problem.batch * problem.in_channels * problem.length
    most = WORKSPACE_SHARE * (values * problem.dtype.itemsize + result_bytes)
    return float(most if request.workspace_limit is None else min(most, request.workspace_limit))


def gradient_arguments(
    request: Request, numbers: Sequence[Scalar]
) -> tuple[tuple[Operand, ...], tuple[Scalar, ...]]:
    """The arrays and numbers of a weight gradient's kernel that sums the bias gradient, too, where
    the request wants that."""
    if not request.epilogue.bias:
        return WEIGHT_GRADIENT, (*numbers, *ACCUMULATION)
    return (*WEIGHT_GRADIENT, BIAS_RESULT), (*numbers, *ACCUMULATION, BIAS_MOMENTUM)


def share_sums(problem: Conv1dProblem, bias: bool) -> int:
    """Sums of a share of a weight gradient; those of the bias gradient come after the weights'."""
    return problem.weight_count + bias * problem.out_channels


def weight_gradient_design(
    request: Request,
    tile: Mapping[str, int],
    kernel: Kernel,
    cost: Cost,
    schedule: Callable[[Request, Kernel], tuple[Launch | None, int]],
    predicted: Callable[[Request], Cost] | None = None,
) -> Design:
    """A kernel that sums shares of a weight gradient, then one that adds them.

    `schedule` gives the first one's launch and how many shares it sums. A single share is the
    result, and needs neither workspace nor the second kernel. Without a batch there is nothing to
    sum: None and 0.
    """
    bias = BIAS_RESULT in kernel.operands
    adding = sum_partials(request, bias)
    count = share_sums(request.problem, bias)
    sums = accumulator(request.problem.dtype)

    def both(wanted: Request) -> Schedule:
        launch, shares = schedule(wanted, kernel)
        launches = () if launch is None else (launch,)
        if shares == 1:
            return Schedule(launches)
        added = launch_partials(adding, wanted.problem, count, shares)
        return Schedule((*launches, added), (Workspace("partial", sums, shares * count),))

    return Design(tile, (kernel, adding), cost, both, predicted=predicted)


def sum_partials(request: Request, bias: bool = False) -> Kernel:
    """The kernel that adds shares of sums in order, scales them and stores them; with `bias` those
    after the weights' are the bias gradient's."""
    local = local_items(request.device, ELEMENT_GROUP)
    return Kernel(
        "sum_partials",
        common_constants(request, 1),
        (
            replace(PARTIAL, written=False),
            Operand("result", Layout.FLAT, written=True),
            *((BIAS_RESULT,) if bias else ()),
        ),
        (
            Scalar("count", "long"),
            *((Scalar("weights", "long"),) if bias else ()),
            *((BIAS_MOMENTUM,) if bias else ()),
            Scalar("shares", "int"),
            *ACCUMULATION,
        ),
        (local, 1, 1),
    )


def launch_partials(kernel: Kernel, problem: Conv1dProblem, count: int, shares: int) -> Launch:
    """Adds the shares of `count` sums."""
    local = kernel.local_size[0]
    weights = {"weights": problem.weight_count} if BIAS_RESULT in kernel.operands else {}
    size = (grid(ceil_div(count, local)) * local, 1, 1)
    return kernel.launch(size, count=count, shares=shares, **weights)
