"""What is a recipe, and how is it made from layouts and options?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from clconv.calls.layouts import Layout, Shape, three_dimensions
from clconv.calls.options import check_sizes
from clconv.errors import ProblemError
from clconv.geometry import Geometry
from clconv.planning.planner import Choice as PlanChoice
from clconv.planning.planner import KernelPlan
from clconv.problem import DTYPES, Conv1dProblem, Epilogue, Pass
from clconv.runtime import Argument, Prepared, Runtime, arguments
from clconv.variants.base import Launch

__all__ = ["Choice", "Draft", "Filling", "Gap", "Recipe", "Step"]

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


class Step(NamedTuple):
    """One pass: what its plan derives from the weights, then its launches. `accumulates` says that
    it writes to an array of the caller's."""

    prepared: Prepared
    preparation: tuple[Filling, ...]
    launches: tuple[Filling, ...]
    accumulates: bool


class Recipe(NamedTuple):
    """What a call does with its arrays, which go by name."""

    dtype: np.dtype[Any]
    results: Mapping[str, Shape]
    copies: tuple[str, ...]  # of arrays that do not lie as kernels read them
    reads: tuple[str, ...]
    steps: tuple[Step, ...]


class Draft:
    """A recipe that is being made: checks the layout of the arrays, plans and builds.

    Every ProblemError that follows from layouts and options comes from here.
    """

    def __init__(
        self,
        runtime: Runtime,
        layouts: Mapping[str, Layout],
        names: Mapping[str, str],
        exact: bool | None = None,
        prepared_for: Geometry | None = None,
        kept: bool = False,
    ) -> None:
        self.runtime = runtime
        self._prepared_for = prepared_for
        self._kept = kept
        self._exact = exact
        self.layouts = dict(layouts)
        self._names = names
        self.dtype = self._one_dtype()
        self.given = frozenset(layouts)
        self._results: dict[str, Shape] = {}
        self._copies: list[str] = []
        self._reads: list[str] = []
        self._steps: list[Step] = []

    def recipe(self) -> Recipe:
        """What was drafted so far."""
        reads = tuple(dict.fromkeys(self._reads))
        return Recipe(self.dtype, self._results, tuple(self._copies), reads, tuple(self._steps))

    # Checks

    def said(self, name: str) -> str:
        """The caller's name of an array."""
        return self._names.get(name, name)

    def _one_dtype(self) -> np.dtype[Any]:
        for name, layout in self.layouts.items():
            if layout.dtype not in DTYPES and name not in NUMBERS:
                raise ProblemError(
                    f"{self.said(name)} has dtype {layout.dtype}, expected float32, float16 or "
                    "float64"
                )
        first, *others = (name for name in self.layouts if name not in NUMBERS)
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
        check_sizes(f"{self.said(name)} has shape", shape)
        return three_dimensions(shape)

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
        self._results[name] = shape
        self.layouts[name] = Layout.contiguous(shape, self.dtype)

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
        self.layouts[name] = Layout.contiguous(shape, dtype)

    # Passes

    def plans(
        self, problem: Conv1dProblem, pass_: Pass, epilogue: Epilogue, variant: Choice
    ) -> Iterator[KernelPlan]:
        """The plans to try, in order. Raises ProblemError where the variant cannot serve."""
        if isinstance(variant, str):
            return self.runtime.candidates(
                problem, pass_, epilogue, variant, None, self._exact, self._kept
            )
        if not isinstance(variant, Mapping):
            raise ProblemError(f"variant is {variant!r}, expected 'auto' or the name of a variant")
        choice = variant.get(pass_)
        if not isinstance(choice, PlanChoice | None):
            raise ProblemError(f"variant of {pass_.value} is {choice!r}, expected a plan's choice")
        return self.runtime.candidates(
            problem, pass_, epilogue, "auto", choice, self._exact, self._kept
        )

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
        plan = prepared.plan
        bound: dict[str, Argument] = {
            operand.name: (None, 0)  # of launches that do without
            for kernel in plan.kernels
            for operand in kernel.operands
            if operand.workspace
        }
        bound |= {one.name: (Gap(one.name), 0) for one in plan.workspaces}
        for operand, name in operands.items():
            strides = self._flat(name) if operand in flat else self._rows(name)
            bound[operand] = (Gap(name), 0, *strides)
        self._reads += [name for name in operands.values() if name not in self._results]
        given: dict[str, Gap | float] = {name: Gap(name) for name in ACCUMULATION}
        given |= {"bias_momentum": Gap("momentum"), **numbers_}
        accumulates = not self.given.isdisjoint(set(operands.values()) & set(self._results))
        self._steps.append(
            Step(
                prepared,
                tuple(_filling(launch, bound, given) for launch in plan.preparation.launches),
                tuple(_filling(launch, bound, given) for launch in plan.launches),
                accumulates,
            )
        )
        return plan

    # Launches that no variant plans

    def read_rows(self, name: str) -> Shape:
        """Strides of the outer two of three dimensions, of an array that is read as rows."""
        self._reads.append(name)
        return self._rows(name)

    def read_flat(self, name: str) -> None:
        """An array that is read as a whole."""
        self._reads.append(name)
        self._flat(name)

    def read_anywhere(self, name: str) -> Shape:
        """All strides, of an array whose elements may lie anywhere."""
        self._reads.append(name)
        return self.placed(name)

    def placed(self, name: str) -> Shape:
        """All strides of an array, in elements."""
        _, strides, dtype = self.layouts[name]
        if any(step % dtype.itemsize for step in strides):
            raise ProblemError(
                f"{self.said(name)} has strides {strides}, expected multiples of "
                f"{dtype.itemsize} bytes"
            )
        return tuple(step // dtype.itemsize for step in strides)

    def write_rows(self, name: str, shape: Shape) -> None:
        """A result in rows, its out of this name, which has that shape, or a new one."""
        self._results[name] = shape
        if name not in self.given:
            self.layouts[name] = Layout.contiguous(shape, self.dtype)
        elif shape[-1] > 1 and self.layouts[name].strides[-1] != self.dtype.itemsize:
            raise ProblemError(
                f"{self.said(name)} has strides {self.layouts[name].strides}, expected those of x, "
                "or contiguous"
            )

    def write_anywhere(self, name: str, shape: Shape) -> None:
        """A result whose elements may lie anywhere, its out of this name or a new one."""
        self._results[name] = shape
        if name not in self.given:
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
        launches = zip(plan.launches, bound, strict=True)
        fillings = tuple(_filling(launch, own, numbers_) for launch, own in launches)
        self._steps.append(Step(prepared, (), fillings, False))


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
