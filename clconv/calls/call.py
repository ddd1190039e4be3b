"""How do the arrays of one call become commands in a queue?

A call is its arrays and a recipe. The recipe says what to do. It depends only on the function, its
options and the layout of the arrays, so a runtime keeps it, and each call only checks the arrays
themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.draft import NO_NAMES, Copy, Draft, Filling, Recipe, Step
from clconv.calls.host import HostArrays
from clconv.calls.layouts import Array, Layout, Shape, share_bytes
from clconv.calls.options import as_key
from clconv.calls.prepared import Derived, KnownWeight, PreparedWeight
from clconv.drivers.discovery import check_process
from clconv.errors import ArrayTypeError, ProblemError
from clconv.runtime import Command, Runtime, check_context, default_runtime, memory_of, runtime_of
from clconv.variants.base import Schedule, Workspace

__all__ = ["Accumulations", "Call", "follow_on_buffers"]

DEVICE_ARRAY = {cl_array.Array}
REQUIRED = frozenset(("x", "weight", "grad_output", "conv_state"))
# Outs whose old values count where there is a momentum.
ACCUMULATING = frozenset(("out_weight", "out_bias"))


class Call:
    """The arrays of one call by name: all of one kind, on one runtime; no out shares memory with
    another array.

    `follow` checks, builds and allocates before it queues anything; so a call that raises has
    changed nothing.
    """

    def __init__(
        self,
        runtime: Runtime | None,
        names: Mapping[str, str] = NO_NAMES,
        exact: bool | None = None,
        layout: str = "NCL",
        **arrays: Array | None,
    ) -> None:
        self.names = names
        self.exact = exact
        self.channels_last = layout == "NLC"
        self.prepared: PreparedWeight | None = None
        self._derived: Derived | None = None
        self._outs_copied = False
        weight = arrays.get("weight")
        if isinstance(weight, PreparedWeight):
            self.prepared, runtime = weight, runtime or weight.runtime
        if isinstance(weight, (PreparedWeight, KnownWeight)):
            arrays["weight"], self._derived = weight.array, weight.derived
        self.arrays: dict[str, Array] = {
            name: a for name, a in arrays.items() if a is not None or name in REQUIRED
        }
        self.host = self._on_host()
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ArrayTypeError(f"runtime is {runtime!r}, expected a clconv.Runtime or None")
        if layout not in ("NCL", "NLC"):
            raise ProblemError(f"layout is {layout!r}, expected 'NCL' or 'NLC'")
        if exact is not None and not isinstance(exact, bool):
            raise ProblemError(f"exact is {exact!r}, expected True, False or None")
        if runtime is not None:
            check_process()
        if self.host:
            self._check_outs()
            self.runtime = runtime or default_runtime()
        else:
            context = self._one_context(runtime)
            self.runtime = runtime or runtime_of(context)
        if self.prepared is not None and self.prepared.runtime is not self.runtime:
            raise ProblemError(
                f"weight was prepared on {self.prepared.runtime!r}, expected {self.runtime!r}"
            )

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
                    f"expected a NumPy array or a pyopencl.array.Array{_way_to_arrays(array)}"
                )
        host = {name: isinstance(array, np.ndarray) for name, array in self.arrays.items()}
        if self.prepared is not None:
            del host["weight"]  # it goes with either kind
        if any(host.values()) and not all(host.values()):
            which = ", ".join(
                f"{self._said(name)} is a {'NumPy' if on_host else 'device'} array"
                for name, on_host in host.items()
            )
            raise ArrayTypeError(f"{which}; expected all of one kind")
        return all(host.values())

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
            if self.host:
                self._outs_copied |= not out.flags.c_contiguous
                if not out.flags.writeable:
                    said = self._said(name)
                    raise ProblemError(f"{said} is read-only, expected a writable array")
            for other, array in self.arrays.items():
                alike = isinstance(array, np.ndarray) == self.host  # prepared weights may differ
                if other != name and alike and share_bytes(out, array):
                    raise ProblemError(
                        f"{self._said(name)} shares memory with {self._said(other)}, expected "
                        "memory of its own"
                    )

    def recipe(self, make: Callable[..., None], *options: Any) -> Recipe:
        """What `make(draft, *options)` drafts for arrays that lie so, now or in an earlier call.

        Raises ProblemError, BuildError.
        """
        # Kept recipes are found by plain tuples, which take the least time to make.
        if self.host:
            layouts = [self._uploaded_layout(*one) for one in self.arrays.items()]
        else:
            layouts = [(a.shape, a.strides, a.dtype) for a in self.arrays.values()]
        key: Hashable = None
        kept = self._derived is not None
        named = as_key(options)
        if named is not None:
            runtime = self.runtime
            exact = runtime.exact if self.exact is None else self.exact
            state = runtime.workspace_limit, exact, kept, self.channels_last, self._outs_copied
            key = (make, named, *self.arrays, *layouts, *state)
            if self.prepared is not None:
                key = (*key, self.prepared.geometry)
            known: Recipe | None = self.runtime.recipes.get(key)
            if known is not None:
                return known
        names_and_layouts = zip(self.arrays, layouts, strict=True)
        laid = {name: Layout(*one) for name, one in names_and_layouts}
        prepared_for = None if self.prepared is None else self.prepared.geometry
        last = self.channels_last
        order = last, self._outs_copied
        draft = Draft(self.runtime, laid, self.names, self.exact, prepared_for, kept, *order)
        make(draft, *options)
        recipe = draft.recipe()
        return recipe if key is None else self.runtime.recipes.set_default(key, recipe)

    def _uploaded_layout(self, name: str, array: Array) -> tuple[Shape, Shape, np.dtype[Any]]:
        """The layout of a NumPy array after its upload; of an out that is refused or copied to, and
        of weights that are on the device already, their own."""
        there = not isinstance(array, np.ndarray)
        if there or (name.startswith("out") and not array.flags.c_contiguous):
            return array.shape, array.strides, array.dtype
        return Layout.contiguous(array.shape, array.dtype)

    def follow(self, recipe: Recipe, numbers_: Mapping[str, float] = MappingProxyType({})) -> Any:
        """The recipe's results by name. `numbers_` are the scalars, which may differ in each
        call."""
        if not self.host:
            return self._follow(recipe, numbers_, self.arrays)
        with HostArrays(self.runtime) as host:
            results = self._follow(recipe, numbers_, self._placed(host, recipe, numbers_))
            return {name: host.values(y, self.arrays.get(name)) for name, y in results.items()}

    def _follow(
        self, recipe: Recipe, numbers_: Mapping[str, float], arrays: dict[str, Array]
    ) -> dict[str, cl_array.Array]:
        """The recipe's results by name, of device arrays."""
        runtime = self.runtime
        for name, shape in recipe.results.items():
            if name not in arrays:
                arrays[name] = runtime.empty(shape, recipe.dtype)
        buffers = {name: (a.base_data, a.offset // a.dtype.itemsize) for name, a in arrays.items()}
        waiting: _Waiting | None = None if self.host else getattr(_thread, "waiting", None)
        commands: list[Command] = []
        later: list[Command] = []
        given = Commands(runtime, recipe, buffers, numbers_, self._derived)
        for step in recipe.steps:
            commands += given.preparing(step)
            late = step.accumulates and waiting is not None
            target = later if late else commands
            target += given.launching(step)
        # So far nothing was queued; from here on nothing is checked.
        reads = [arrays[name] for name in recipe.reads]
        writes = [arrays[name] for name in recipe.results]
        if waiting is not None and later:
            theirs = [arrays[name] for name in recipe.results if name in self.arrays]
            waiting.append((runtime, later, reads, theirs))
            writes = [arrays[name] for name in recipe.results if name not in self.arrays]
        if commands:
            runtime.enqueue(commands, reads, writes)
        given.keep()
        return {name: arrays[name] for name in recipe.results}

    def _placed(
        self, host: HostArrays, recipe: Recipe, numbers_: Mapping[str, float]
    ) -> dict[str, Array]:
        """The NumPy arrays on the device, and the results; outs with their values only where these
        count, as do those of an array that changes in place."""
        counting = ACCUMULATING if numbers_.get("momentum") else frozenset()
        placed: dict[str, Array] = {}
        for name, array in self.arrays.items():
            if not isinstance(array, np.ndarray):
                placed[name] = array
            elif name in recipe.results:
                counts = name in counting or not name.startswith("out")
                placed[name] = host.write(array.shape, array.dtype, array, counts=counts)
            else:
                placed[name] = host.read(array)
        for name, shape in recipe.results.items():
            if name not in placed:
                placed[name] = host.write(shape, recipe.dtype)
        return placed


def _way_to_arrays(value: Any) -> str:
    """What makes an array of it, or takes it, as the end of a sentence."""
    if isinstance(value, (list, tuple)):
        return ": numpy.asarray makes one"
    if type(value).__module__.partition(".")[0] == "torch":
        return ": clconv.torch has the same functions for tensors"
    return ""


class Commands:
    """The commands of a recipe's steps with what one call gives: buffers by name, which workspaces
    join, and numbers. `derived` is what is known of the weights."""

    def __init__(
        self,
        runtime: Runtime,
        recipe: Recipe,
        buffers: dict[str, tuple[Any, int]],
        numbers_: Mapping[str, float],
        derived: Derived | None,
    ) -> None:
        self._runtime = runtime
        self._buffers = buffers
        if recipe.copied:
            self._allocate(recipe.copied)
        self._numbers = numbers_
        self._derived = derived
        self._made: dict[Schedule, Mapping[str, Any]] = {}

    def _allocate(self, workspaces: Iterable[Workspace]) -> None:
        found = self._runtime.allocated(workspaces)
        self._buffers.update((name, (buffer, 0)) for name, buffer in found.items())

    def preparing(self, step: Step) -> list[Command]:
        """What derives from the weights, unless it is there, and copies of what a step reads."""
        copies = self._copying(step.before)
        if not step.preparation:
            return copies
        preparation = step.prepared.plan.preparation
        there = self._made.get(preparation)
        if there is None and self._derived is not None:
            there = self._derived.get(preparation)
        made = there
        if made is None:
            made = self._made[preparation] = self._runtime.allocated(preparation.workspaces)
        self._buffers.update((name, (buffer, 0)) for name, buffer in made.items())
        kernels = self._runtime.kernels(step.prepared)
        return copies + (self._filled(kernels, step.preparation) if there is None else [])

    def _copying(self, copies: Iterable[Copy]) -> list[Command]:
        return [
            command
            for copy in copies
            for command in self._filled(self._runtime.kernels(copy), copy.launches)
        ]

    def launching(self, step: Step) -> list[Command]:
        """The step's own launches, and copies of what they write."""
        plan = step.prepared.plan
        if plan.schedule.workspaces:
            self._allocate(plan.schedule.workspaces)
        kernels = self._runtime.kernels(step.prepared)[len(step.preparation) :]
        return self._filled(kernels, step.launches) + self._copying(step.after)

    def _filled(self, kernels: Sequence[Any], fillings: Sequence[Filling]) -> list[Command]:
        """Launches with their arguments. The buffers are those of now: the next step may have
        others by the same names."""
        found: list[Command] = []
        for kernel, (launch, template, places, open_numbers) in zip(
            kernels, fillings, strict=False
        ):
            values = list(template)
            for i, name in places:
                values[i : i + 2] = self._buffers[name]
            for i, name in open_numbers:
                values[i] = self._numbers[name]
            found.append((kernel, launch, values))
        return found

    def keep(self) -> None:
        """Keeps what was derived, once that is queued."""
        if self._derived is not None:
            for preparation, buffers in self._made.items():
                self._derived.keep(preparation, buffers)


def follow_on_buffers(
    runtime: Runtime,
    recipe: Recipe,
    buffers: dict[str, tuple[Any, int]],
    numbers_: Mapping[str, float],
    derived: Derived | None,
    reads: Sequence[cl_array.Array] = (),
    writes: Sequence[cl_array.Array] = (),
) -> None:
    """Queues a recipe on buffers: of each array its buffer and where in it, in elements. `reads`
    and `writes` are those arrays that another queue may use."""
    given = Commands(runtime, recipe, buffers, numbers_, derived)
    commands: list[Command] = []
    for step in recipe.steps:
        commands += given.preparing(step)
        commands += given.launching(step)
    if commands:
        runtime.enqueue(commands, reads, writes)
    given.keep()


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
