"""Which variant and tile to use: the candidates of all variants, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clconv.device import DeviceProfile
from clconv.errors import OutOfMemoryError, ProblemError
from clconv.problem import Conv1dProblem, Epilogue, Pass
from clconv.render import render
from clconv.variants import VARIANTS
from clconv.variants.base import Launch, Request

__all__ = ["Choice", "KernelPlan", "chosen_first", "plans", "serving"]


class Choice(NamedTuple):
    """What tells a pass's candidates apart: the variant, and its tile."""

    variant: str
    tile: Mapping[str, int]


@dataclass(frozen=True)
class KernelPlan:
    """How a pass of a problem is computed on a device: the same inputs give the same plan.

    `tile` is the variant's own numbers, `workspace_bytes` what its launches share beside the
    arrays of the call.
    """

    problem: Conv1dProblem
    pass_: Pass
    epilogue: Epilogue
    variant: str
    tile: Mapping[str, int]
    launches: tuple[Launch, ...]
    workspace_bytes: int
    cost: float

    @property
    def choice(self) -> Choice:
        """What tells the plan from the other candidates."""
        return Choice(self.variant, self.tile)

    @property
    def sums_bias(self) -> bool:
        """Whether a weight gradient's launches give the bias gradient too."""
        operands = (o for launch in self.launches for o in launch.operands)
        return self.pass_ is Pass.WEIGHT_GRADIENT and any(o.name == "bias" for o in operands)

    def source(self) -> str:
        """The OpenCL C of all launches, in their order."""
        return "\n".join(render(launch) for launch in self.launches)


def plans(
    problem: Conv1dProblem,
    pass_: Pass,
    device: DeviceProfile,
    *,
    epilogue: Epilogue | None = None,
    variant: str = "auto",
    workspace_limit: int | None = None,
) -> list[KernelPlan]:
    """All plans, best first; at least one.

    Raises ProblemError where the variant asked for cannot serve, with the reason, and
    OutOfMemoryError where no plan's workspace fits `workspace_limit` bytes.
    """
    request = Request(problem, pass_, device, epilogue or Epilogue(), workspace_limit)
    names = [v.NAME for v in VARIANTS]
    if variant != "auto" and variant not in names:
        raise ProblemError(f"variant is {variant!r}, expected 'auto' or one of {', '.join(names)}")
    found = []
    refusals = []
    for one in VARIANTS:
        if variant not in ("auto", one.NAME):
            continue
        why = one.refusal(request)
        if why is not None:
            refusals.append(f"{one.NAME} ({why})")
            continue
        found += [
            KernelPlan(
                problem,
                pass_,
                request.epilogue,
                one.NAME,
                c.tile,
                c.launches,
                c.workspace_bytes,
                c.cost,
            )
            for c in one.candidates(request)
        ]
    if not found:
        raise ProblemError(
            f"variant is {variant!r}, which cannot serve this {pass_.value}: {'; '.join(refusals)}"
        )
    fitting = [p for p in found if workspace_limit is None or p.workspace_bytes <= workspace_limit]
    if not fitting:
        least = min(p.workspace_bytes for p in found)
        raise OutOfMemoryError(
            f"the {pass_.value} needs at least {least} bytes of workspace, "
            f"workspace_limit is {workspace_limit}"
        )
    return sorted(fitting, key=lambda p: p.cost)


def chosen_first(candidates: Sequence[KernelPlan], choices: Sequence[Choice]) -> list[KernelPlan]:
    """The same plans; the first of the choices that is among them goes before the others."""
    there = [plan.choice for plan in candidates] if choices else []
    chosen = next((choice for choice in choices if choice in there), None)
    return sorted(candidates, key=lambda plan: plan.choice != chosen)


def serving(problem: Conv1dProblem, pass_: Pass, device: DeviceProfile) -> list[str]:
    """The names of the variants that can serve, best first by the cost model."""
    try:
        found = plans(problem, pass_, device)
    except ProblemError:  # none can: an empty list is the answer
        return []
    return list(dict.fromkeys(p.variant for p in found))
