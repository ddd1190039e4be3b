"""Which variant and tile to use: the designs of all variants, best first."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from clconv import testing
from clconv.bounded import Bounded
from clconv.errors import OutOfMemoryError, ProblemError
from clconv.planning.cost import Cost, copied
from clconv.planning.profiles import DeviceProfile
from clconv.problem import Conv1dProblem, Epilogue, Layer, Pass
from clconv.render import render
from clconv.variants import VARIANTS
from clconv.variants.base import (
    EXACT,
    Design,
    ErrorClass,
    Kernel,
    Launch,
    Layout,
    Request,
    Schedule,
    Workspace,
)

__all__ = [
    "IN_ROWS",
    "Choice",
    "KernelPlan",
    "LayerChoice",
    "Layouts",
    "candidates",
    "chosen_first",
    "designs",
    "other_of_layer",
    "plans",
    "serving",
]

_log = logging.getLogger(__name__)

# A bound of a pass's sums, of its arrays by name.
SumsBound = Callable[[Mapping[str, Any]], Any]
# How what a pass reads and writes by position lies, as the fields of Request.
Layouts = tuple[Layout, Layout]
IN_ROWS: Layouts = (Layout.ROWS, Layout.ROWS)
# Kernels that a pass queues: those of a layer's parameters are summed in shares, and added.
LAUNCHES = {
    Pass.FORWARD: 1, Pass.INPUT_GRADIENT: 1, Pass.WEIGHT_GRADIENT: 2, Pass.BIAS_GRADIENT: 2,
}  # fmt: skip
# Digits by which costs are compared: the order in which they are summed up decides nothing.
DIGITS = 7

# Batches and lengths for which designs that decide are compared with others before any is needed.
SIZES_PROBED = tuple(
    (batch, length) for batch in (1, 8, 64) for length in (1, 64, 256, 1024, 4096, 65536)
)

# How many layers' designs are remembered, each for a pass, device and epilogue: about 0.2 MB.
LAYERS_KEPT = 256


class Choice(NamedTuple):
    """What tells a pass's candidates apart: the variant, and its tile."""

    variant: str
    tile: Mapping[str, int]


class LayerChoice(NamedTuple):
    """What was measured to be the fastest for a layer, from the `least` to the `most` positions of
    a row, and of all rows. Beyond them it may be slow."""

    choice: Choice
    least: tuple[int, int]
    most: tuple[int, int]

    def covers(self, problem: Conv1dProblem, pass_: Pass) -> bool:
        """Whether a problem of the layer lies within what was measured."""
        row = problem.positions(pass_)
        sizes = zip(self.least, (row, row * problem.batch), self.most, strict=True)
        return all(least <= size <= most for least, size, most in sizes)


@dataclass(frozen=True, repr=False)
class KernelPlan:
    """How a pass of a problem is computed on a device: the same inputs give the same plan.

    The kernels follow from the layer; the launches follow from batch, length and padding too, and
    so does the workspace that they share. Made by `clconv.plan`.

    Attributes:
        request: the problem, the pass, the device and what follows the sums.
        variant: the name of the algorithm.
        design: its kernels for the layer, its tile and its cost.
    """

    request: Request
    variant: str
    design: Design

    def __repr__(self) -> str:
        """What it is for, in a line; `source()` is all of it."""
        tile = ", ".join(f"{name}={value}" for name, value in self.tile.items())
        on = self.request.device.name
        return f"<plan for {self.pass_.value} of {self.problem} on {on}: {self.variant}({tile})>"

    @property
    def problem(self) -> Conv1dProblem:
        """What is computed."""
        return self.request.problem

    @property
    def pass_(self) -> Pass:
        """Which of its passes."""
        return self.request.pass_

    @property
    def epilogue(self) -> Epilogue:
        """What follows the sums."""
        return self.request.epilogue

    @property
    def tile(self) -> Mapping[str, int]:
        """The variant's own numbers."""
        return self.design.tile

    @property
    def choice(self) -> Choice:
        """What tells the plan from the other candidates."""
        return Choice(self.variant, self.design.tile)

    @property
    def error_class(self) -> str:
        """ "exact" where the sums are the definition's own, in whatever order; else the name of the
        variant's bound."""
        return self._error_class.name

    @property
    def _error_class(self) -> ErrorClass:
        return next(one.ERROR_CLASS for one in VARIANTS if self.variant == one.NAME)

    @property
    def sums_bound(self) -> SumsBound | None:
        """How far the pass's sums may be from the true ones, given its arrays by name, as
        `clconv.testing` takes it; None where the error class is "exact"."""
        sums = self._error_class.sums
        return None if sums is None else partial(sums, self.problem, self.pass_, self.tile)

    def error_bound(self, *operands: NDArray[Any]) -> NDArray[Any]:
        """How far each value of the result may be from the true one, for tests.

        Args:
            operands: NumPy arrays, those that the pass reads in their order: x and weight, weight
                and grad_output, or x and grad_output.

        Returns:
            A NumPy array of the result's shape.

        Raises:
            ProblemError: arrays that are not the problem's.
            ValueError: too many terms for a bound.
        """
        names = testing.OPERANDS[self.pass_]
        arrays = dict(zip(names, operands, strict=True))
        return testing.rounding_bound(self.problem, self.pass_, arrays, sums=self.sums_bound)

    @property
    def cost(self) -> float:
        """Modelled seconds: in proportion to batch and positions, plus the launches; or as the
        design predicts them."""
        return self.cost_parts.seconds

    @property
    def cost_parts(self) -> Cost:
        """The same by parts."""
        if self.design.decides and self.design.predicted is not None:
            return self.design.predicted(self.request)
        typical = self.problem.layer.typical()
        amount = max(self.problem.batch, 1) * self.problem.positions(self.pass_)
        work = self.design.cost * (amount / typical.positions(self.pass_))
        launches = LAUNCHES[self.pass_] + self.design.copies
        return work.launched(launches * self.request.device.launch_seconds)

    @property
    def predicted(self) -> Cost:
        """The cost of this very problem, as far as the design knows it: what is not in proportion
        to batch and positions counts as well."""
        known = self.design.predicted
        return self.cost_parts if known is None else known(self.request)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All that may run, whatever batch, length and padding."""
        return self.design.kernels

    @cached_property
    def schedule(self) -> Schedule:
        """What runs for this problem."""
        return self.design.schedule(self.request)

    @property
    def launches(self) -> tuple[Launch, ...]:
        """What runs for this problem, in order."""
        return self.schedule.launches

    @property
    def preparation(self) -> Schedule:
        """The launches that derive from the weights alone what the others read. They run before
        those, unless the result was kept (`clconv.prepare_weight`)."""
        return self.design.preparation

    @property
    def workspaces(self) -> tuple[Workspace, ...]:
        """Memory besides the arrays of the call, including that of the preparation."""
        return (*self.preparation.workspaces, *self.schedule.workspaces)

    @property
    def workspace_bytes(self) -> int:
        """Of all workspaces."""
        return self.preparation.workspace_bytes + self.schedule.workspace_bytes

    @property
    def sums_bias(self) -> bool:
        """Whether a weight gradient's launches give the bias gradient too."""
        operands = (o for kernel in self.kernels for o in kernel.operands)
        return self.pass_ is Pass.WEIGHT_GRADIENT and any(o.name == "bias" for o in operands)

    def source(self) -> str:
        """The OpenCL C of all kernels, in their order."""
        return "\n".join(render(kernel) for kernel in self.kernels)


@lru_cache(maxsize=LAYERS_KEPT)
def designs(
    layer: Layer,
    pass_: Pass,
    device: DeviceProfile,
    epilogue: Epilogue,
    variant: str,
    exact: bool = False,
    layouts: Layouts = IN_ROWS,
) -> tuple[tuple[str, Design], ...]:
    """The names of variants with their designs for a layer, best first; at least one.

    With `exact` only those whose error class is "exact". Where x and y do not lie in rows
    (`layouts`), some designs read and write them in place, and others work on copies. Raises
    ProblemError where the variant asked for cannot serve, with the reason.
    """
    names = [v.NAME for v in VARIANTS]
    if variant != "auto" and variant not in names:
        raise ProblemError(f"variant is {variant!r}, expected 'auto' or one of {', '.join(names)}")
    request = Request(layer.typical(), pass_, device, epilogue)
    found, refusals = _of_variants(request, variant, exact)
    if layouts != IN_ROWS:
        lying = replace(request, x_layout=layouts[0], y_layout=layouts[1])
        in_place, _ = _of_variants(lying, variant, exact)
        found = [(name, _on_copies(design, lying)) for name, design in found]
        found += [(name, _in_place(design)) for name, design in in_place]
    if not found:
        raise ProblemError(
            f"variant is {variant!r}, which cannot serve this {pass_.value}: {'; '.join(refusals)}"
        )
    # What is for records alone comes behind all others.
    return tuple(sorted(found, key=lambda named: (named[1].measured_only, _rank(named[1].cost))))


def _of_variants(
    request: Request, variant: str, exact: bool
) -> tuple[list[tuple[str, Design]], list[str]]:
    """The designs of all variants that may and can serve, and why others cannot."""
    found: list[tuple[str, Design]] = []
    refusals = []
    for one in VARIANTS:
        if variant not in ("auto", one.NAME):
            continue
        why = one.refusal(request)
        if exact and one.ERROR_CLASS is not EXACT:
            why = f"its results keep the bound {one.ERROR_CLASS.name!r}, exact asks for exact ones"
        if why is not None:
            refusals.append(f"{one.NAME} ({why})")
            continue
        found += [(one.NAME, design) for design in one.designs(request)]
    return found, refusals


def _in_place(design: Design) -> Design:
    """Told apart from the design for rows."""
    return replace(design, tile={**design.tile, "in_place": 1})


def _on_copies(design: Design, lying: Request) -> Design:
    """The design for rows with what it takes to copy arrays that lie as in a request."""
    copies, seconds = _copies(lying)
    predicted = design.predicted

    def in_rows(request: Request) -> Request:
        return replace(request, x_layout=Layout.ROWS, y_layout=Layout.ROWS)

    def with_copies(request: Request) -> Cost:
        assert predicted is not None
        _, seconds = _copies(request)
        launching = copies * request.device.launch_seconds
        cost = predicted(in_rows(request))
        return cost.copying(seconds).launched(cost.launch + launching)

    return replace(
        design,
        cost=design.cost.copying(seconds),
        schedule=lambda request: design.schedule(in_rows(request)),
        predicted=None if predicted is None else with_copies,
        copies=copies,
    )


def _copies(request: Request) -> tuple[int, float]:
    """How many arrays of a request do not lie in rows, and the seconds that copying them takes."""
    problem, pass_ = request.problem, request.pass_
    x, y = math.prod(problem.input_shape), math.prod(problem.output_shape)
    if pass_ is Pass.INPUT_GRADIENT:
        x, y = y, x
    of_y = 1
    if pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        of_y += request.epilogue.residual + request.epilogue.keep
    of_x = int(request.x_layout is not Layout.ROWS)
    of_y *= request.y_layout is not Layout.ROWS
    elements = of_x * x + of_y * y
    return of_x + of_y, copied(request.device, elements, problem.dtype.itemsize)


def _rank(cost: Cost) -> float:
    """What designs are sorted by: seconds, rounded so that equals stay in the variants' order."""
    return float(f"{cost.seconds:.{DIGITS - 1}e}")


def candidates(
    problem: Conv1dProblem,
    pass_: Pass,
    device: DeviceProfile,
    *,
    epilogue: Epilogue = Epilogue(),
    variant: str = "auto",
    workspace_limit: int | None = None,
    choices: Callable[[], Sequence[Choice]] = list,
    of_layer: Callable[[], Sequence[LayerChoice]] = list,
    exact: bool = False,
    kept: bool = False,
    layouts: Layouts = IN_ROWS,
) -> Iterator[KernelPlan]:
    """The plans, best first, each made when it is needed. The first of `choices()` that is among
    them goes before the others, else the first such of `of_layer()` that covers the problem. `kept`
    says that what is derived from the weights need not be derived in every call, `layouts` how x
    and y lie.

    Raises ProblemError at once, and OutOfMemoryError in the end where no plan's workspace fits
    `workspace_limit` bytes.
    """
    request = Request(problem, pass_, device, epilogue, workspace_limit, None, kept, *layouts)
    found = designs(problem.layer, pass_, device, epilogue, variant, exact, layouts)
    return _fitting(request, _with_known(request, found, of_layer()), choices)


def _with_known(
    request: Request, found: Sequence[tuple[str, Design]], of_layer: Sequence[LayerChoice]
) -> Sequence[tuple[str, Design]]:
    """The designs in the order for a request, with what is known of the layer: what another size
    of the layer would take comes behind the first one, marked as an alternative."""
    ordered = _for_request(request, found)
    first, others = ordered[0], [ordered[0]]
    for known in reversed(of_layer):
        named = next((n for n in ordered if Choice(n[0], n[1].tile) == known.choice), None)
        if named is None:
            _log.debug("%s is no candidate for this layer", known.choice)
            continue
        others.append(named)
        if known.covers(request.problem, request.pass_):
            first = named
    rest = [named for named in ordered if named not in others]
    if first is not ordered[0]:
        others = [first, *(named for named in others if named is not first)]
    marked = [(name, replace(design, alternative=True)) for name, design in others]
    return [ordered[0] if first is ordered[0] else marked[0], *marked[1:], *rest]


def _for_request(
    request: Request, found: Sequence[tuple[str, Design]]
) -> Sequence[tuple[str, Design]]:
    """The same designs; of those that decide and the others the best one that is predicted to be
    faster for a request goes first, and then the other. Which they are follows from the layer."""
    deciding = [named for named in found if named[1].decides]
    others = [n for n in found if not n[1].decides and not n[1].measured_only]
    if not deciding or not others:
        return found
    if not request.problem.batch:  # of which nothing is predicted
        request = replace(request, problem=replace(request.problem, batch=1))
    first = sorted(
        (others[0], deciding[0]), key=lambda named: _rank(KernelPlan(request, *named).predicted)
    )
    return [*first, *(named for named in found if named not in first)]


def other_of_layer(plan: KernelPlan, following: Iterator[KernelPlan]) -> Iterator[KernelPlan]:
    """Of the plans behind a plan the one that the layer may take instead for another batch or
    length; none where the choice follows from the layer."""
    own = plan  # the planner's own choice
    for other in following:
        if other.design.alternative:
            if own is plan and plan.design.alternative:
                own = other
            yield other
        else:
            if other.design.decides is not own.design.decides and _is_better_somewhere(other, own):
                yield other
            return


def _is_better_somewhere(one: KernelPlan, other: KernelPlan) -> bool:
    """Whether a plan is predicted to be faster than another for any of some sizes of the layer."""
    request = one.request
    key = (
        request.problem.layer,
        request.pass_,
        request.device,
        request.epilogue,
        request.workspace_limit,
        request.x_layout,
        request.y_layout,
        *((plan.variant, *plan.tile.items()) for plan in (one, other)),
    )
    known = _better.get(key)
    if known is None:
        known = _better.set_default(key, any(
            _rank(replace(one, request=sized).predicted)
            < _rank(replace(other, request=sized).predicted)
            for sized in _sizes_of_layer(request)
        ))  # fmt: skip
    return known


_better: Bounded[Hashable, bool] = Bounded(LAYERS_KEPT)


def _sizes_of_layer(request: Request) -> Iterator[Request]:
    """The request for short and long rows, few and many, with what weights give kept and not."""
    problem = request.problem
    of_weights = request.pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT)
    for batch, length in SIZES_PROBED:
        length = max(length, problem.window)
        sized = replace(problem, batch=batch, length=length, cropped=0)
        yield replace(request, problem=sized, kept=False)
        if of_weights:
            yield replace(request, problem=sized, kept=True)


def chosen_first(
    found: Sequence[tuple[str, Design]], choices: Sequence[Choice]
) -> Sequence[tuple[str, Design]]:
    """The same designs; the first of the choices that is among them goes before the others."""
    for choice in choices:
        for place, (variant, design) in enumerate(found):
            if Choice(variant, design.tile) == choice:
                return (found[place], *found[:place], *found[place + 1 :])
    return found


def _fitting(
    request: Request, found: Sequence[tuple[str, Design]], choices: Callable[[], Sequence[Choice]]
) -> Iterator[KernelPlan]:
    limit, least = request.workspace_limit, None
    for variant, design in chosen_first(found, choices()):
        plan = KernelPlan(request, variant, design)
        if limit is None or plan.workspace_bytes <= limit:
            least = 0
            yield plan
        elif least is None or plan.workspace_bytes < least:
            least = plan.workspace_bytes
    if least:
        raise OutOfMemoryError(
            f"the {request.pass_.value} needs at least {least} bytes of workspace, "
            f"workspace_limit is {limit}"
        )


def plans(
    problem: Conv1dProblem,
    pass_: Pass,
    device: DeviceProfile,
    *,
    epilogue: Epilogue | None = None,
    variant: str = "auto",
    workspace_limit: int | None = None,
    exact: bool = False,
) -> list[KernelPlan]:
    """All plans, best first; at least one.

    Raises ProblemError where the variant asked for cannot serve, with the reason, and
    OutOfMemoryError where no plan's workspace fits `workspace_limit` bytes.
    """
    return list(
        candidates(
            problem,
            pass_,
            device,
            epilogue=epilogue or Epilogue(),
            variant=variant,
            workspace_limit=workspace_limit,
            exact=exact,
        )
    )


def serving(problem: Conv1dProblem, pass_: Pass, device: DeviceProfile) -> list[str]:
    """The names of the variants that can serve, best first by the cost model."""
    try:
        found = designs(problem.layer, pass_, device, Epilogue(), "auto")
    except ProblemError:  # none can: an empty list is the answer
        return []
    return list(dict.fromkeys(variant for variant, _ in found))
