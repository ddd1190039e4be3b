#!/usr/bin/env python3
"""Do random geometries compute what the reference does, on views, with no compilation too many?

Each geometry (channels, kernel size, stride, dilation, groups, dtype, epilogue) runs on several
batches, lengths and paddings: the convolution, its three gradients, together and one by one, the
transposed convolution and its gradients. Inputs lie between NaNs, results between guards, and so
does every buffer; data are integers, whose results must be equal, and normal numbers, whose
results must keep the rounding bound, in turn. After the first batch of a geometry no program may be
built.

--as PROFILE plans for another device than there is, a GPU mostly, in what this one can run; --as
all for each profile of a GPU in turn. Every pass is then computed by some candidate of some
variant, unless --variant says which.

A geometry depends on --seed, its index, --dtypes and whether there is float64 alone (and with
--served on the variant and the device): --only INDEX runs one again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent / "check"))
from guarded import GuardedRuntime, limited
from transposed import extended, transposed_problem

from clconv import Conv1dProblem, DeviceError, Epilogue, Pass, ProblemError, functional, testing
from clconv.dtypes import DTYPES
from clconv.geometry import Geometry as Windows
from clconv.geometry import reached_by, window_of
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.variants import VARIANTS
from clconv.variants.base import Request

Array = NDArray[Any]
Rng = np.random.Generator

# Multiplications of a pass, so that the reference takes milliseconds. Its long doubles are slow.
WORK = {"float32": 400_000, "float16": 400_000, "bfloat16": 400_000, "float64": 100_000}
MAX_POSITIONS = 20_000
# Integers are exact in float16 up to 2048, in bfloat16 up to 256: larger sums are rounded.
LARGEST = {"float32": (4,), "float64": (4,), "float16": (4, 32), "bfloat16": (4, 32)}
ACTIVATIONS = (None, None, "relu", ("leaky_relu", 0.25), "sigmoid", "tanh", "gelu", "silu")
# Powers of two, so that integers stay exact; momentum 0 first, which must not read the old values.
SCALES = (1.0, -1.0, 2.0, 0.5)
MOMENTA = (0.0, 1.0, -1.0, 0.5)
GUARD = 776.0  # a number of every dtype
MARGIN = 3
# A variant "by name" that is any, each pass by one of its own; and those passes.
SOME = "some"
CHOSEN = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
# Geometries that are tried until a variant serves one.
DRAWS = 1000


GPUS = [name for name, profile in PROFILES.items() if profile.kind == "gpu"]


class CountingRuntime(GuardedRuntime):
    """A runtime that tells which kernels it built, however many of them it keeps."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self.own = self.profile
        self.built: list[str] = []
        self._build = self.programs._build
        self.programs._build = self._counting

    def plan_as(self, name: str) -> None:
        """Plans from now on as for the device of this profile."""
        self.profile = limited(name, self.own)
        self.forget_plans()

    def _counting(self, kernel: Any, source: str) -> Any:
        self.built.append(kernel.name)
        return self._build(kernel, source)


def some(rng: Rng, *choices: Any) -> Any:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def between(rng: Rng, low: int, high: int) -> int:
    """An integer in low … high."""
    return int(rng.integers(low, high + 1))


@dataclass(frozen=True)
class Geometry:
    """What is compiled in: everything but batch, length and padding."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int
    groups: int
    dtype: str
    bias: bool
    residual: bool
    activation: Any
    keep: bool  # the values before the activation

    @property
    def window(self) -> int:
        """Input samples from a window's first tap to its last."""
        return window_of(self.kernel_size, self.dilation)

    def room(self, batch: int) -> int:
        """How many output positions a case of that batch may have."""
        taps = self.out_channels * self.in_channels // self.groups * self.kernel_size
        return max(1, min(MAX_POSITIONS, WORK[self.dtype] // (max(1, batch) * taps)))


def draw_geometry(rng: Rng, dtypes: Sequence[str]) -> Geometry:
    """Mostly small, sometimes wide; every kind of groups."""
    kind = some(rng, "one", "depthwise", "multiplier", "between")
    if kind == "one":
        groups, group_in, group_out = 1, between(rng, 1, 20), between(rng, 1, 20)
        if rng.random() < 0.2:
            group_out = between(rng, 21, 70)
    elif kind == "between":
        groups, group_in, group_out = between(rng, 2, 5), between(rng, 1, 9), between(rng, 1, 13)
    else:
        groups, group_in = between(rng, 2, 24), 1
        group_out = 1 if kind == "depthwise" else between(rng, 2, 5)
    sizes = [(1, 5)] * 7 + [(6, 16)] * 2 + [(17, 70)]
    return Geometry(
        in_channels=groups * group_in,
        out_channels=groups * group_out,
        kernel_size=between(rng, *some(rng, *sizes)),
        stride=some(rng, 1, 1, 1, 1, 2, 3, 4, 5, between(rng, 6, 12)),
        dilation=some(rng, 1, 1, 1, between(rng, 2, 9), between(rng, 2, 9)),
        groups=groups,
        dtype=some(rng, *dtypes),
        bias=rng.random() < 0.6,
        residual=rng.random() < 0.3,
        activation=some(rng, *ACTIVATIONS),
        keep=rng.random() < 0.2,
    )


class NoneServed(Exception):
    """A variant serves no random geometry on a device."""


def draw_served(rng: Rng, dtypes: Sequence[str], device: DeviceProfile, name: str) -> Geometry:
    """The next of which a variant can compute a pass. Raises NoneServed where there is none."""
    variant = next(one for one in VARIANTS if name == one.NAME)
    for _ in range(DRAWS):
        one = draw_geometry(rng, dtypes)
        problem = Conv1dProblem(
            1, one.in_channels, one.window + 99, one.out_channels, one.kernel_size, one.stride, 0,
            one.dilation, one.groups, one.dtype,
        )  # fmt: skip
        requests = (Request(problem, pass_, device) for pass_ in CHOSEN)
        if any(variant.refusal(request) is None for request in requests):
            return one
    raise NoneServed(f"{name} serves none of {DRAWS} random geometries on {device.name}")


@dataclass(frozen=True)
class Case:
    """What must not compile: batch, length, padding, data and the forms of the arrays."""

    problem: Conv1dProblem
    padding: Any  # as it is given
    transposed_length: int
    transposed_padding: tuple[int, int]
    output_padding: int
    largest: int  # of integers as data; 0 is normal numbers
    host: bool  # NumPy arrays
    unbatched: bool
    need: tuple[bool, bool, bool]
    outs: tuple[bool, bool, bool]
    scale: float
    momentum: float
    apart: bool  # the gradients of the convolution one by one, by their own functions

    def __str__(self) -> str:
        data = f"integers to {self.largest}" if self.largest else "normal numbers"
        named = (("NumPy", self.host), ("unbatched", self.unbatched), ("one by one", self.apart))
        forms = [name for name, on in named if on]
        return (
            f"batch {self.problem.batch} length {self.problem.length} padding {self.padding!r}, "
            f"transposed length {self.transposed_length} padding {self.transposed_padding} "
            f"output_padding {self.output_padding}, {', '.join([data, *forms])}, need {self.need} "
            f"out {self.outs} scale {self.scale} momentum {self.momentum}"
        )


def _draw_padding(rng: Rng, geometry: Geometry) -> Any:
    window = geometry.window
    kinds = ["none", "int", "small", "wide", "valid"] + ["same"] * 2 * (geometry.stride == 1)
    kind = some(rng, *kinds)
    if kind == "none":
        return 0
    if kind == "int":
        return between(rng, 0, window)
    if kind == "small":
        return between(rng, 0, window), between(rng, 0, window)
    if kind == "wide":  # wider than the window; the length below is often shorter
        return between(rng, window, window + 40), between(rng, 0, window + 40)
    return kind


def draw_case(rng: Rng, geometry: Geometry, place: int) -> Case:
    """The batch at this place; the first one builds everything that the others need."""
    first = place == 0
    batch = some(rng, 1, 1, 2, 3, 5, 0 if place % 5 == 4 else 1)
    room = geometry.room(batch)
    padding = _draw_padding(rng, geometry)
    stride, kernel_size = geometry.stride, geometry.kernel_size
    windows = Windows(stride, padding, geometry.dilation)
    if padding == "same":
        windows = windows._replace(padding=windows.pads(kernel_size)[0])  # the least there is
    least = windows.shortest_length(kernel_size)
    extra = some(rng, 0, between(rng, 0, 2 * stride), between(rng, 0, 60), room * stride)
    length = least + between(rng, 0, min(extra, (room - 1) * stride))
    problem = Conv1dProblem(
        batch, geometry.in_channels, length, geometry.out_channels, kernel_size,
        stride, padding, geometry.dilation, geometry.groups, geometry.dtype,
    )  # fmt: skip
    positions = some(rng, 1, between(rng, 1, min(room, 40)), between(rng, 1, room))
    reached = reached_by(positions, geometry.window, stride)
    output_padding = some(rng, 0, between(rng, 0, windows.most_output_padding))
    most = reached + output_padding - 1
    cropped = some(rng, 0, between(rng, 0, min(most, geometry.window)), between(rng, 0, most))
    left = between(rng, 0, cropped)

    def flags(chance: float) -> tuple[bool, bool, bool]:
        one, two, three = (bool(rng.random() < chance) for _ in range(3))
        return one, two, three

    need, outs = flags(0.85), flags(0.5)
    return Case(
        problem=problem,
        padding=padding,
        transposed_length=positions,
        transposed_padding=(left, cropped - left),
        output_padding=output_padding,
        largest=0 if place % 2 else some(rng, *LARGEST[geometry.dtype]),
        host=bool(rng.random() < 0.2),
        unbatched=batch == 1 and bool(rng.random() < 0.3),
        need=(True, True, True) if first else need,
        outs=outs,
        scale=some(rng, *SCALES),
        momentum=some(rng, *MOMENTA),
        apart=not first and bool(rng.random() < 0.3),
    )


def host(array: Any) -> Array:
    """The values of a result."""
    values: Array = array if isinstance(array, np.ndarray) else array.get()
    return values


class Arrays:
    """Makes the arrays of one case, as views into larger ones, and looks at what lies around."""

    def __init__(self, runtime: CountingRuntime, case: Case, rng: Rng) -> None:
        self._runtime = runtime
        self._case = case
        self._rng = rng
        self._guarded: list[tuple[str, Any]] = []

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Data of the case's kind."""
        dtype, largest = self._case.problem.dtype, self._case.largest
        if largest:
            return testing.integers(self._rng, shape, dtype, largest)
        return testing.normals(self._rng, shape, dtype)

    def _device(self, array: Array) -> Any:
        return array if self._case.host else self._runtime.to_device(array)

    def rows(self, values: Array) -> Any:
        """(N, C, L), or (C, L), amid NaNs in every direction; positions are contiguous."""
        values = values[0] if self._case.unbatched else values
        if values.size == 0:
            return self._device(values)
        place = tuple(slice(1, 1 + s) for s in values.shape[:-1])
        place += (slice(MARGIN, MARGIN + values.shape[-1]),)
        wider = np.full([s.stop + s.start for s in place], np.nan, values.dtype)
        wider[place] = values
        return self._device(wider)[place]

    def flat(self, values: Array) -> Any:
        """A contiguous array between NaNs that starts anywhere."""
        wider = np.pad(values.ravel(), MARGIN, constant_values=np.nan)
        return self._device(wider)[MARGIN:-MARGIN].reshape(values.shape)

    def out(self, name: str, values: Array, shape: tuple[int, ...]) -> Any:
        """An `out` of this shape with these old values, between guards."""
        if values.size == 0:
            return self._device(values)
        whole = self._device(np.pad(values.ravel(), MARGIN, constant_values=GUARD))
        self._guarded.append((name, whole))
        return whole[MARGIN:-MARGIN].reshape(shape)

    def check_guards(self) -> None:
        """AssertionError where an `out`'s surroundings changed."""
        for name, whole in self._guarded:
            found = host(whole)
            around = np.concatenate([found[:MARGIN], found[-MARGIN:]])
            assert (around == GUARD).all(), f"{name} was written outside: {around}"
        self._guarded.clear()


class Task(NamedTuple):
    """A result to check: what the reference makes it from, and the shape it must have."""

    name: str
    problem: Conv1dProblem
    pass_: Pass
    operands: dict[str, Array]
    shape: tuple[int, ...]

    def form(self, case: Case) -> tuple[int, ...]:
        """The shape that the case has it in: tensors, not weights, may be unbatched."""
        tensor = self.pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT)
        return self.shape[1:] if tensor and case.unbatched else self.shape


@dataclass(frozen=True)
class Convolution:
    """The convolution of a case, or the transposed one, with its functions and its data."""

    name: str
    forward: Any
    backward: Any
    place: tuple[Any, ...]  # stride, padding and what follows
    x: Array
    weight: Array
    grad: Array
    tasks: tuple[Task, Task, Task, Task]  # forward, gradients of input, weight and bias


def one_by_one(
    x: Any,
    weight: Any,
    grad: Any,
    *place: Any,
    need: Sequence[bool],
    out: Sequence[Any],
    scale: float,
    momentum: float,
    variant: Any,
    runtime: Any,
) -> tuple[Any, Any, Any]:
    """What conv1d_backward gives, by the three functions for one gradient."""
    update = {"scale": scale, "momentum": momentum, "runtime": runtime}
    results: list[Any] = [None] * 3
    if need[0]:
        results[0] = functional.conv1d_input(
            x.shape, weight, grad, *place, out=out[0], variant=variant, runtime=runtime
        )
    if need[1]:
        results[1] = functional.conv1d_weight(
            x, weight.shape, grad, *place, out=out[1], variant=variant, **update
        )
    if need[2]:
        results[2] = functional.conv1d_bias(grad, out=out[2], **update)
    return results[0], results[1], results[2]


def plain(case: Case, arrays: Arrays) -> Convolution:
    """The convolution."""
    p = case.problem
    x, weight = arrays.draw(p.input_shape), arrays.draw(p.weight_shape)
    grad = arrays.draw(p.output_shape)
    forward, backward = {"x": x, "weight": weight}, {"weight": weight, "grad_output": grad}
    both = {"x": x, "grad_output": grad}
    tasks = (
        Task("forward", p, Pass.FORWARD, forward, grad.shape),
        Task("input gradient", p, Pass.INPUT_GRADIENT, backward, x.shape),
        Task("weight gradient", p, Pass.WEIGHT_GRADIENT, both, weight.shape),
        bias_task(grad),
    )
    return Convolution(
        "", functional.conv1d, one_by_one if case.apart else functional.conv1d_backward,
        (p.stride, case.padding, p.dilation, p.groups), x, weight, grad, tasks,
    )  # fmt: skip


def transposed(case: Case, arrays: Arrays) -> Convolution:
    """The transposed convolution: the input gradient of a problem, so that its own input gradient
    is that problem's forward pass and in its weight gradient x and grad change places."""
    p = case.problem
    x = arrays.draw((p.batch, p.out_channels, case.transposed_length))
    weight = arrays.draw(p.weight_shape)
    p = transposed_problem(
        x.shape, p.weight_shape, p.stride, case.transposed_padding, case.output_padding,
        p.dilation, p.groups, p.dtype,
    )  # fmt: skip
    grad = arrays.draw(p.input_shape)
    longer = extended(x, p.out_length)
    forward, backward = {"weight": weight, "grad_output": longer}, {"x": grad, "weight": weight}
    both = {"x": grad, "grad_output": longer}
    tasks = (
        Task("forward", p, Pass.INPUT_GRADIENT, forward, grad.shape),
        Task("input gradient", p, Pass.FORWARD, backward, x.shape),
        Task("weight gradient", p, Pass.WEIGHT_GRADIENT, both, weight.shape),
        bias_task(grad),
    )
    return Convolution(
        "transposed ", functional.conv_transpose1d, functional.conv_transpose1d_backward,
        (p.stride, case.transposed_padding, case.output_padding, p.groups, p.dilation),
        x, weight, grad, tasks,
    )  # fmt: skip


def bias_task(grad: Array) -> Task:
    """The sum of the output's gradient over batch and positions."""
    batch, channels, length = grad.shape
    problem = Conv1dProblem(batch, channels, length, channels, 1, groups=channels, dtype=grad.dtype)
    shape = (channels,)
    return Task("bias gradient", problem, Pass.BIAS_GRADIENT, {"grad_output": grad}, shape)


class Checker:
    """Runs the cases of one geometry on one runtime."""

    def __init__(self, runtime: CountingRuntime, geometry: Geometry, variant: Any) -> None:
        self.runtime = runtime
        self.geometry = geometry
        self.variant = variant
        self.options = {"variant": variant, "runtime": runtime}
        self.checked = 0

    def choose(self, rng: Rng, problem: Conv1dProblem) -> str:
        """Takes some candidate of some variant for each pass, and says which."""
        self.variant = self.options["variant"] = {}
        for pass_ in CHOSEN:
            found = self.runtime.plans(problem, pass_)
            name = some(rng, *dict.fromkeys(plan.variant for plan in found))
            choice = some(rng, *(plan.choice for plan in found if plan.variant == name))
            self.variant[pass_] = choice
        named = (f"{c.variant} {tuple(c.tile.values())}" for c in self.variant.values())
        return ", ".join(named)

    def run(self, case: Case, rng: Rng) -> None:
        """AssertionError where a result is wrong."""
        arrays = Arrays(self.runtime, case, rng)
        for make in (plain, transposed):
            convolution = make(case, arrays)
            given = (
                arrays.rows(convolution.x),
                arrays.flat(convolution.weight),
                arrays.rows(convolution.grad),
            )
            self._forward(case, arrays, convolution, given)
            self._backward(case, arrays, convolution, given)
        self.runtime.check_guards()

    def _serves(self, task: Task, epilogue: Epilogue = Epilogue()) -> bool:
        """Whether the variant asked for can; what the planner chose, or we, always can."""
        if not isinstance(self.variant, str):
            return True
        try:
            return bool(self.runtime.plans(task.problem, task.pass_, epilogue, self.variant))
        except ProblemError:
            if self.variant == "auto":
                raise
            return False

    def _sums_bound(self, task: Task) -> Any:
        """That of the plan which computes a result, None where it is exact."""
        if task.pass_ is Pass.BIAS_GRADIENT:
            return None
        by, choice = self.variant, None
        if not isinstance(by, str):
            by, choice = "auto", by.get(task.pass_)
        found = self.runtime.candidates(task.problem, task.pass_, Epilogue(), by, choice)
        return next(found).sums_bound

    def _forward(self, case: Case, arrays: Arrays, convolution: Convolution, given: Any) -> None:
        geometry, task = self.geometry, convolution.tasks[0]
        name, _ = Epilogue.parse_activation(geometry.activation)
        finish, more = {}, {}
        if geometry.bias:
            finish["bias"] = arrays.draw(task.shape[1:2])
            more["bias"] = arrays.flat(finish["bias"])
        if geometry.residual:
            finish["residual"] = arrays.draw(task.shape)
            more["residual"] = arrays.rows(finish["residual"])
        if case.outs[0]:
            more["out"] = arrays.out("out", arrays.draw(task.shape), task.form(case))
        if geometry.keep:
            more["pre_activation"] = arrays.out("kept", arrays.draw(task.shape), task.form(case))
        epilogue = Epilogue(geometry.bias, geometry.residual, name, geometry.keep)
        if not self._serves(task, epilogue):
            return
        bias = more.pop("bias", None)
        y = convolution.forward(
            *given[:2], bias, *convolution.place, activation=geometry.activation, **more,
            **self.options,
        )  # fmt: skip
        task = task._replace(operands=task.operands | finish)
        self._check(case, convolution, task, y, activation=geometry.activation)
        if geometry.keep:
            self._check(case, convolution, task, more["pre_activation"])
        arrays.check_guards()

    def _backward(self, case: Case, arrays: Arrays, convolution: Convolution, given: Any) -> None:
        tasks = convolution.tasks[1:]
        outs: list[Any] = [None] * 3
        updates: list[dict[str, float]] = [{}, {"scale": case.scale}, {"scale": case.scale}]
        for i, task in enumerate(tasks):
            if not case.outs[i]:
                continue
            old = arrays.draw(task.shape)
            if i > 0 and case.momentum:
                task.operands["old"] = old
                updates[i]["momentum"] = case.momentum
            else:
                old = np.full_like(old, np.nan)  # must not be read
            outs[i] = arrays.out(f"out of the {task.name}", old, task.form(case))
        need = (
            case.need[0] and self._serves(tasks[0]),
            case.need[1] and self._serves(tasks[1]),
            case.need[2],
        )
        results = convolution.backward(
            *given, *convolution.place, need=need, out=outs, scale=case.scale,
            momentum=case.momentum, **self.options,
        )  # fmt: skip
        for needed, task, result, update in zip(need, tasks, results, updates, strict=True):
            if needed:
                self._check(case, convolution, task, result, **update)
            else:
                assert result is None, f"the {task.name} was not asked for"
        arrays.check_guards()

    def _check(
        self, case: Case, convolution: Convolution, task: Task, result: Any, **numbers: Any
    ) -> None:
        values, what, shape = host(result), convolution.name + task.name, task.form(case)
        assert values.shape == shape, f"{what} has shape {values.shape}, expected {shape}"
        assert values.dtype == task.problem.dtype, f"{what} has dtype {values.dtype}"
        testing.assert_right(
            values.reshape(task.shape), task.problem, task.pass_, task.operands, what,
            largest=case.largest, positions=task.shape[2] if task.pass_ is Pass.FORWARD else None,
            sums=self._sums_bound(task), **numbers,
        )  # fmt: skip
        self.checked += 1


def run_geometry(runtime: CountingRuntime, index: int, options: argparse.Namespace) -> str | None:
    """What is wrong with a geometry, None where nothing is."""
    rng = np.random.default_rng((options.seed, index))
    able = [one for one in options.dtypes if one != "float64" or runtime.profile.fp64]
    dtypes = able or ["float32"]
    if options.served:
        geometry = draw_served(rng, dtypes, runtime.profile, options.variant)
    else:
        geometry = draw_geometry(rng, dtypes)
    shown = ", ".join(f"{name} {value}" for name, value in vars(geometry).items())
    print(f"{index}: {shown}", end="", flush=True)
    start = time.perf_counter()
    runtime.built.clear()
    checker = Checker(runtime, geometry, options.variant)
    case: Case | None = None
    try:
        for place in range(options.batches):
            case = draw_case(rng, geometry, place)
            if place == 0 and options.variant == SOME:
                print(f", by {checker.choose(rng, case.problem)}", end="", flush=True)
            before = len(runtime.built)
            checker.run(case, rng)
            if place == 0:  # gradients one by one may have other kernels than together
                for alone in ((False, True, False), (False, False, True)):
                    checker.run(replace(case, need=alone, apart=True), rng)
            late = runtime.built[before:]
            assert place == 0 or not late, f"built after the first batch: {', '.join(late)}"
    except Exception as error:
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        print()
        return f"{type(error).__name__}: {error}\n  batch {place}: {case}"
    seconds = time.perf_counter() - start
    print(f": {checker.checked} results, {len(runtime.built)} programs, {seconds:.1f} s")
    return None


def _dtypes(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(DTYPES):
        raise argparse.ArgumentTypeError(f"{text!r}, expected some of {','.join(DTYPES)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--geometries", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--first", type=int, default=0, help="index of the first (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batches", type=int, help="of each geometry (default 20, or 4 with --as)")
    parser.add_argument("--only", type=int, metavar="INDEX", help="run this geometry alone")
    parser.add_argument("--device", help="as Runtime takes it: index, id or part of a name")
    parser.add_argument("--dtypes", type=_dtypes, default=list(DTYPES), help="(default all)")
    parser.add_argument(
        "--as", dest="profile", choices=["all", *PROFILES], metavar="PROFILE",
        help=f"plan as for this device: all (GPUs, in turn), {', '.join(PROFILES)}",
    )  # fmt: skip
    names = ["auto", SOME, *(variant.NAME for variant in VARIANTS)]
    parser.add_argument(
        "--variant", choices=names,
        help=f"passes it cannot serve are left out; {SOME}: any candidate of any variant for each "
        f"pass (default auto, or {SOME} with --as)",
    )  # fmt: skip
    parser.add_argument(
        "--served", action="store_true",
        help="only geometries of which the variant serves a pass, which depend on the device, too",
    )  # fmt: skip
    parser.add_argument(
        "--keep-going", action="store_true", help="do not stop at a failure, as always with --as"
    )
    return parser


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command line says."""
    parser = _parser()
    options = parser.parse_args(argv)
    options.variant = options.variant or (SOME if options.profile else "auto")
    options.batches = options.batches or (4 if options.profile else 20)
    if options.served and options.variant in ("auto", SOME):
        parser.error("--served is for the name of a --variant")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a geometry failed."""
    options = options_of(argv)
    try:
        runtime = CountingRuntime(options.device)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{runtime.info.name}, {runtime.info.version}, driver {runtime.info.driver}", flush=True)
    if options.only is not None:
        options.first, options.geometries = options.only, 1
    indices = range(options.first, options.first + options.geometries)
    profiles = GPUS if options.profile == "all" else [options.profile]
    failures = 0
    for index in indices:
        name = profiles[index % len(profiles)]
        if name is not None:
            print(f"as {name} ", end="")
            runtime.plan_as(name)
        try:
            wrong = run_geometry(runtime, index, options)
        except NoneServed as error:
            print(error, file=sys.stderr)
            return 1
        if wrong is None:
            continue
        failures += 1
        again = ["--seed", options.seed, "--only", index, "--batches", options.batches]
        again += ["--dtypes", ",".join(options.dtypes), "--variant", options.variant]
        again += ["--device", options.device] if options.device else []
        again += ["--as", name] if name else []
        again += ["--served"] if options.served else []
        command = " ".join(shlex.quote(str(word)) for word in again)
        print(f"FAILED {wrong}\n  again: python tools/fuzz.py {command}", flush=True)
        if not (options.keep_going or options.profile):
            break
    print(f"{index - indices[0] + 1} of {len(indices)} geometries run, {failures} failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
