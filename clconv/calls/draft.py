"""What is a recipe, and how is it made from layouts and options?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from clconv.calls.copying import copying
from clconv.calls.layouts import Layout, Shape, exchanged, three_dimensions
from clconv.calls.options import check_sizes
from clconv.dtypes import EXPECTED_DTYPES, is_computed
from clconv.errors import ProblemError
from clconv.geometry import Geometry
from clconv.planning.planner import IN_ROWS, KernelPlan, Layouts
from clconv.planning.planner import Choice as PlanChoice
from clconv.problem import Conv1dProblem, Epilogue, Pass
from clconv.render import render
from clconv.runtime import Argument, Prepared, Runtime, arguments
from clconv.variants.base import Kernel, Launch, Workspace
from clconv.variants.base import Layout as Lies

__all__ = ["Choice", "Draft", "Filling", "Gap", "Recipe", "Step"]

# Arrays that have positions; "NLC" exchanges their last two dimensions.
TENSORS = frozenset(("x", "residual", "grad_output", "out", "out_keep", "out_x"))
# "auto", the name of a variant, or choices by pass, tried before the planner's own order.
Choice = str | Mapping[Pass, PlanChoice]
# The numbers of `momentum * out + scale * gradient`.
ACCUMULATION = ("scale", "momentum")
NO_NAMES: Mapping[str, str] = MappingProxyType({})
# Arrays of integers, whose dtype is checked by who drafts.
NUMBERS = frozenset(("seq_idx", "cache_seqlens", "conv_state_indices"))


class Gap(NamedTuple):
    """An argument that each call fills in: an array's buffer with its offset, or a number."""

    name: str


class Filling(NamedTuple):
    """A launch with its arguments in order, and where the gaps in them are."""

    launch: Launch
    arguments: tuple[Any, ...]
    buffers: tuple[tuple[int, str], ...]
    numbers: tuple[tuple[int, str], ...]


class Copy(NamedTuple):
    """A launch that copies an array to one that lies otherwise, with its OpenCL C."""

    sources: tuple[tuple[Kernel, str], ...]
    launches: tuple[Filling, ...]


class Step(NamedTuple):
    """One pass: what its plan derives from the weights, copies of what it reads, its launches, and
    copies of what they write. `accumulates` says that it writes to an array of the caller's."""

    prepared: Prepared
    preparation: tuple[Filling, ...]
    before: tuple[Copy, ...]
    launches: tuple[Filling, ...]
    after: tuple[Copy, ...]
    accumulates: bool


class Recipe(NamedTuple):
    """What a call does with its arrays, which go by name. `copies` are those that do not lie as
    kernels take them, `copied` the memory for them."""

    dtype: np.dtype[Any]
    results: Mapping[str, Shape]
    copies: tuple[str, ...]
    copied: tuple[Workspace, ...]
    reads: tuple[str, ...]
    steps: tuple[Step, ...]


class Draft:
    """A recipe that is being made: checks the layout of the arrays, plans and builds.

    Every ProblemError that follows from layouts and options comes from here. Shapes and strides are
    in the order (N, C, L), except for what callers see: with `channels_last` that is (N, L, C).
    `outs_copied` says that outs are the caller's, with gaps, and kernels write contiguous arrays
    that are copied there.
    """

    def __init__(
        self,
        runtime: Runtime,
        layouts: Mapping[str, Layout],
        names: Mapping[str, str],
        exact: bool | None = None,
        prepared_for: Geometry | None = None,
        kept: bool = False,
        channels_last: bool = False,
        outs_copied: bool = False,
    ) -> None:
        self.runtime = runtime
        self._outs_copied = outs_copied
        self._channels_last = channels_last
        self._prepared_for = prepared_for
        self._kept = kept
        self._exact = exact
        self.layouts = {
            name: layout.exchanged if channels_last and name in TENSORS else layout
            for name, layout in layouts.items()
        }
        self._names = names
        self.dtype = self._one_dtype()
        self.given = frozenset(layouts)
        self._results: dict[str, Shape] = {}
        self._copied: dict[tuple[str, Lies], tuple[Workspace, Layout]] = {}
        self._moved: dict[str, str] = {}  # arrays of launches that no variant plans, to copies
        self._before: list[Copy] = []
        self._reads: list[str] = []
        self._steps: list[Step] = []

    def recipe(self) -> Recipe:
        """What was drafted so far."""
        reads = tuple(dict.fromkeys(self._reads))
        copies = tuple(dict.fromkeys(name for name, _ in self._copied))
        copied = tuple(workspace for workspace, _ in self._copied.values())
        return Recipe(self.dtype, self._results, copies, copied, reads, tuple(self._steps))

    # Checks

    def said(self, name: str) -> str:
        """The caller's name of an array."""
        return self._names.get(name, name)

    def _one_dtype(self) -> np.dtype[Any]:
        for name, layout in self.layouts.items():
            if not is_computed(layout.dtype) and name not in NUMBERS:
                raise ProblemError(
                    f"{self.said(name)} has dtype {layout.dtype}, expected {EXPECTED_DTYPES}: "
                    f"{self.said(name)}.astype('float32') converts it"
                )
        first, *others = (name for name in self.layouts if name not in NUMBERS)
        dtype = self.layouts[first].dtype
        for name in others:
            other = self.layouts[name].dtype
            if other != dtype:
                # Of NumPy's doubles and a network's floats it is the doubles that nobody chose.
                wide, narrow = (first, other) if dtype.itemsize > other.itemsize else (name, dtype)
                raise ProblemError(
                    f"{self.said(name)} has dtype {other}, expected {dtype}, that of "
                    f"{self.said(first)}: {self.said(wide)}.astype('{narrow}') makes them alike"
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
                f"{self.said(name)} has shape {self.as_seen(shape)}, expected {self._expected}"
            )
        check_sizes(f"{self.said(name)} has shape", self.as_seen(shape))
        return three_dimensions(shape)

    def as_seen(self, shape: Shape) -> Shape:
        """A tensor's shape in the caller's order, or back from there."""
        return exchanged(shape) if self._channels_last else shape

    @property
    def _expected(self) -> str:
        three, two = ("N, L, C", "L, C") if self._channels_last else ("N, C, L", "C, L")
        return f"({three}), or ({two}) unbatched"

    def unbatched(self, shape: tuple[int, int, int], like: str) -> Shape:
        """A (N, C, L) without N where the array of this name has none."""
        return shape[1:] if len(self.shape(like)) == 2 else shape

    def expect(self, name: str, shape: Shape) -> None:
        """ProblemError unless the array, if given, has this shape."""
        if name in self.given and self.shape(name) != shape:
            found = self.shape(name)
            if name in TENSORS:
                found, shape = self.as_seen(found), self.as_seen(shape)
            raise ProblemError(f"{self.said(name)} has shape {found}, expected {shape}")

    def expect_out(self, name: str, shape: Shape) -> None:
        """ProblemError unless this `out`, if given, can take a result of that shape."""
        self.expect(name, shape)
        if name in self.given and not self._caller_layout(name).is_contiguous:
            raise ProblemError(
                f"{self.said(name)} has strides {self._caller_layout(name).strides}, expected "
                "contiguous"
            )

    def _caller_layout(self, name: str) -> Layout:
        """An array's, with dimensions in the caller's order."""
        turned = self._channels_last and name in TENSORS
        return self.layouts[name].exchanged if turned else self.layouts[name]

    def check_prepared(self, problem: Conv1dProblem, transposed: bool = False) -> None:
        """ProblemError where the weights were prepared for something else than the problem."""
        prepared = self._prepared_for
        if prepared is None:
            return
        if prepared.transposed != transposed:
            called = "a transposed convolution" if transposed else "a convolution"
            raise ProblemError(
                f"weight was prepared with transposed={prepared.transposed}, expected "
                f"{transposed} for {called}"
            )
        for name in ("stride", "dilation", "groups"):
            given, expected = getattr(problem, name), getattr(prepared, name)
            if given != expected:
                raise ProblemError(
                    f"{name} is {given}, expected {expected}, for which weight was prepared"
                )

    # Arrays as kernels take them

    def result(self, name: str, shape: Shape) -> None:
        """The call gives an array of this shape, its out of this name or a new one."""
        turned = self._channels_last and name in TENSORS
        self._results[name] = self.as_seen(shape) if turned else shape
        layout = Layout.contiguous(self._results[name], self.dtype)
        self.layouts[name] = layout.exchanged if turned else layout

    def _lies(self, name: str) -> Lies:
        """How kernels could address an array that has positions."""
        self._check_strides(name)
        shape, strides, dtype = self.layouts[name]
        size = dtype.itemsize
        if strides[-1] == size:
            return Lies.ROWS
        if shape[-2] > 1 and strides[-2] == size:
            return Lies.CHANNELS
        return Lies.ROWS if shape[-1] == 1 else Lies.STRIDED

    def _planned(self, name: str | None) -> Lies:
        """How an array is said to lie for planning. One element that is repeated is copied: it is
        seldom anything but the gradient of a sum, which needs no kernels of its own."""
        if name is None or 0 in self.layouts[name].strides:
            return Lies.ROWS
        return self._lies(name)

    def _check_strides(self, name: str) -> None:
        size = self.layouts[name].dtype.itemsize
        if any(step % size for step in self.layouts[name].strides):
            raise ProblemError(
                f"{self.said(name)} has strides {self._caller_layout(name).strides}, expected "
                f"multiples of {size} bytes"
            )

    def _argument(self, name: str, lies: Lies, copies: list[Copy]) -> Argument:
        """An array as a kernel takes it that addresses it so: the array, or a copy where it lies
        otherwise."""
        layout = self.layouts[name]
        if lies is Lies.FLAT:
            fits = layout.is_contiguous
        else:
            fits = lies in (self._lies(name), Lies.STRIDED) or 0 in layout.shape
        place = name
        if not fits:
            place, layout = self._copy(name, lies, copies)
        size = layout.dtype.itemsize
        _, *strides = (step // size for step in (0, 0, 0, *layout.strides)[-4:])
        batch, channel, position = strides
        steps = {"batch_stride": batch, "channel_stride": channel, "position_stride": position}
        return (Gap(place), 0, *(steps[number] for number in lies.numbers[1:]))

    def _copy(self, name: str, lies: Lies, copies: list[Copy]) -> tuple[str, Layout]:
        """The name and the layout of an array's copy, once for all passes that read it."""
        self._check_strides(name)
        shape, strides, dtype = self.layouts[name]
        size = dtype.itemsize
        known = self._copied.get((name, lies))
        if known is not None:
            return known[0].name, known[1]
        if lies is Lies.CHANNELS:
            layout = Layout.contiguous(exchanged(shape), dtype).exchanged
        else:
            layout = Layout.contiguous(shape, dtype)
        workspace = Workspace(f"{name} in {lies.value}", dtype, math.prod(shape))
        self._copied[name, lies] = workspace, layout
        both = [tuple(step // size for step in steps) for steps in (strides, layout.strides)]
        ends = [name, workspace.name]
        if name in self._results:
            both, ends = both[::-1], ends[::-1]
        launch = copying(self.runtime.profile, size, shape, *both)
        bound: dict[str, Argument] = {"x": (Gap(ends[0]), 0), "y": (Gap(ends[1]), 0)}
        filling = _filling(launch, bound, {})
        copies.append(Copy(((launch.kernel, render(launch.kernel)),), (filling,)))
        return workspace.name, layout

    # Passes

    def plans(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue,
        variant: Choice,
        layouts: Layouts = IN_ROWS,
    ) -> Iterator[KernelPlan]:
        """The plans to try, in order, for x and y that lie so. Raises ProblemError where the
        variant cannot serve."""
        if isinstance(variant, str):
            return self.runtime.candidates(
                problem, pass_, epilogue, variant, None, self._exact, self._kept, layouts
            )
        if not isinstance(variant, Mapping):
            raise ProblemError(f"variant is {variant!r}, expected 'auto' or the name of a variant")
        choice = variant.get(pass_)
        if not isinstance(choice, PlanChoice | None):
            raise ProblemError(f"variant of {pass_.value} is {choice!r}, expected a plan's choice")
        return self.runtime.candidates(
            problem, pass_, epilogue, "auto", choice, self._exact, self._kept, layouts
        )

    def add(
        self,
        problem: Conv1dProblem,
        pass_: Pass,
        epilogue: Epilogue,
        variant: Choice,
        operands: Mapping[str, str],
        numbers_: Mapping[str, float],
    ) -> Prepared:
        """Plans and builds one pass. `operands` maps the kernels' names to the call's. Returns the
        plan that the device built, and those that other sizes may take."""
        x, y = (self._planned(operands.get(one)) for one in "xy")
        prepared = self.runtime.prepare(self.plans(problem, pass_, epilogue, variant, (x, y)))
        plan = prepared.plan
        bound: dict[str, Argument] = {
            operand.name: (None, 0)  # of launches that do without
            for kernel in plan.kernels
            for operand in kernel.operands
            if operand.workspace
        }
        bound |= {one.name: (Gap(one.name), 0) for one in plan.workspaces}
        before: list[Copy] = []
        after: list[Copy] = []
        for operand, lies in _operands(plan).items():
            name = operands[operand]
            copies = after if name in self._results else before
            bound[operand] = self._argument(name, lies, copies)
        self._reads += [name for name in operands.values() if name not in self._results]
        given: dict[str, Gap | float] = {name: Gap(name) for name in ACCUMULATION}
        given |= {"bias_momentum": Gap("momentum"), **numbers_}
        accumulates = not self.given.isdisjoint(set(operands.values()) & set(self._results))
        self._steps.append(
            Step(
                prepared,
                tuple(_filling(launch, bound, given) for launch in plan.preparation.launches),
                tuple(before),
                tuple(_filling(launch, bound, given) for launch in plan.launches),
                tuple(after),
                accumulates,
            )
        )
        return prepared

    # Launches that no variant plans

    def read_rows(self, name: str) -> Shape:
        """Strides of the outer two of three dimensions, of an array that is read as rows."""
        self._reads.append(name)
        layout = self.layouts[name]
        if self._lies(name) is not Lies.ROWS:
            self._moved[name], layout = self._copy(name, Lies.ROWS, self._before)
        return tuple(step // layout.dtype.itemsize for step in layout.strides[:2])

    def read_flat(self, name: str) -> None:
        """An array that is read as a whole."""
        self._reads.append(name)
        if not self.layouts[name].is_contiguous:
            self._moved[name], _ = self._copy(name, Lies.FLAT, self._before)

    def read_anywhere(self, name: str) -> Shape:
        """All strides, of an array whose elements may lie anywhere."""
        self._reads.append(name)
        return self.placed(name)

    def placed(self, name: str) -> Shape:
        """All strides of an array, in elements."""
        self._check_strides(name)
        _, strides, dtype = self.layouts[name]
        return tuple(step // dtype.itemsize for step in strides)

    def write_rows(self, name: str, shape: Shape) -> None:
        """A result in rows, its out of this name, which has that shape, or a new one."""
        self.write_anywhere(name, shape)
        if shape[-1] > 1 and self.layouts[name].strides[-1] != self.dtype.itemsize:
            raise ProblemError(
                f"{self.said(name)} has strides {self.layouts[name].strides}, expected those of x, "
                "or contiguous"
            )

    def write_anywhere(self, name: str, shape: Shape) -> None:
        """A result whose elements may lie anywhere, its out of this name or a new one."""
        self._results[name] = shape
        if self._outs_copied or name not in self.given:
            self.layouts[name] = Layout.contiguous(shape, self.dtype)

    def changed(self, name: str) -> None:
        """An array of the call that is read and changed in place."""
        self._results[name] = self.shape(name)

    def add_launches(
        self,
        plan: KernelPlan,
        bound: Sequence[Mapping[str, Argument]],
        numbers_: Mapping[str, float],
    ) -> None:
        """Builds the launches of a plan that is the only one, each with its own operands."""
        prepared = self.runtime.prepare([plan])
        fillings = []
        for launch, own in zip(plan.launches, bound, strict=True):
            places = {
                operand: (Gap(self._moved.get(gap.name, gap.name)), *rest)
                for operand, (gap, *rest) in own.items()
            }
            fillings.append(_filling(launch, places, numbers_))
        step = Step(prepared, (), tuple(self._before), tuple(fillings), (), False)
        self._steps.append(step)
        self._before = []


def _operands(plan: KernelPlan) -> dict[str, Lies]:
    """The arrays of a call that a plan's kernels take, and how they address them."""
    return {
        operand.name: operand.layout
        for kernel in plan.kernels
        for operand in kernel.operands
        if not operand.workspace
    }


def _filling(
    launch: Launch, bound: Mapping[str, Argument], numbers_: Mapping[str, Gap | float]
) -> Filling:
    """A launch's arguments, with gaps for what each call fills in."""
    values = arguments(launch, bound, numbers_)
    gaps = [(i, value.name) for i, value in enumerate(values) if isinstance(value, Gap)]
    return Filling(
        launch,
        tuple(values),
        tuple(gap for gap in gaps if gap[1] not in ACCUMULATION),
        tuple(gap for gap in gaps if gap[1] in ACCUMULATION),
    )
