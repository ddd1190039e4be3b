"""How fast might a device be that you do not have? A prediction, from the planner's cost model.

For each layer and pass: the variant and tile that the planner picks for a profile, its work-groups,
and the share of the roofline (the larger of arithmetic at peak and every array moved once at full
bandwidth) that the model predicts; with --explain the time by parts, for the next candidates too.
What the planner takes only where tuning found it faster comes in a table of its own. Nothing is
measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from clconv import Conv1dProblem, KernelPlan, Pass, progress
from clconv.commands.layers import load
from clconv.commands.options import which_device
from clconv.commands.text import table
from clconv.planning.cost import PARTS, Cost
from clconv.planning.planner import plans
from clconv.planning.profiles import DeviceProfile
from clconv.variants.base import Launch

HEADER = ("layer", "pass", "variant", "tile", "work-groups", "predicted ms", "% of roofline")
RIGHT = ("work-groups", "predicted ms", "% of roofline")
# What --explain prints of a plan, in milliseconds, and of how many candidates behind the first.
EXPLAINED = ("layer", "pass", "variant", "tile", "ms in all", *PARTS)
NEXT = 3
# What the planner takes by records alone, beside what it picks without.
BESIDE = ("layer", "pass", "variant", "tile", "predicted ms", "picked", "ms of that")
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)


def sums_launch(made: KernelPlan) -> Launch:
    """The first launch, which does the sums."""
    return made.launches[0]


def work_groups(made: KernelPlan) -> int:
    """Of the first launch, which does the sums."""
    launch = sums_launch(made)
    return math.prod(launch.global_size) // math.prod(launch.kernel.local_size)


def bytes_moved(problem: Conv1dProblem) -> int:
    """Input, weights and output once each, which are what any pass reads and writes."""
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    return sum(math.prod(shape) for shape in shapes) * int(problem.dtype.itemsize)


def flops(problem: Conv1dProblem) -> int:
    """Of the products and sums of a pass; a multiply-add counts two."""
    return 2 * math.prod(problem.output_shape) * problem.terms(Pass.FORWARD)


def roofline(problem: Conv1dProblem, device: DeviceProfile) -> float:
    """The least seconds that the peaks allow."""
    return max(
        flops(problem) / device.peak_flops, bytes_moved(problem) / device.peak_bandwidth
    )  # fmt: skip


def predicted_parts(made: KernelPlan, device: DeviceProfile) -> Cost:
    """The model's seconds for the actual launches: work-groups rounded up to whole compute units,
    or as the variant predicts, and never faster than memory."""
    if made.design.predicted is not None:
        work = made.predicted
    else:
        groups = max(1, work_groups(made))
        rounded = -(-groups // device.compute_units) * device.compute_units / groups
        work = made.cost_parts * rounded
    return work.bounded(bytes_moved(made.problem) / device.peak_bandwidth)


def predicted(made: KernelPlan, device: DeviceProfile) -> float:
    """The same in all."""
    return predicted_parts(made, device).seconds


def milliseconds(seconds: float) -> str:
    """Three decimals, and two digits of what is less than a tenth."""
    return f"{1e3 * seconds:.3f}" if seconds >= 1e-4 else f"{1e3 * seconds:#.2g}"


def described(made: KernelPlan) -> list[str]:
    """Variant and tile."""
    tile = (f"{name}={value}" for name, value in made.tile.items() if name != "lanes")
    return [made.variant, " ".join(tile)]


def row(name: str, made: KernelPlan, device: DeviceProfile) -> list[str]:
    """What is predicted of the plan that is chosen."""
    seconds = predicted(made, device)
    share = roofline(made.problem, device) / seconds
    return [
        name, short(made.pass_), *described(made), str(work_groups(made)), milliseconds(seconds),
        f"{100 * share:.0f}",
    ]  # fmt: skip


def by_records_alone(found: Sequence[KernelPlan], device: DeviceProfile) -> list[KernelPlan]:
    """Of each variant that "auto" takes only where a record says so the plan that is predicted to
    be the fastest."""
    best: dict[str, KernelPlan] = {}
    for made in sorted(found, key=lambda one: predicted(one, device)):
        if made.design.measured_only:
            best.setdefault(made.variant, made)
    return list(best.values())


def beside(name: str, made: KernelPlan, picked: KernelPlan, device: DeviceProfile) -> list[str]:
    """What is predicted of such a plan, and of the one that is picked."""
    times = (f"{1e3 * predicted(one, device):.3f}" for one in (made, picked))
    own, theirs = times
    return [name, short(made.pass_), *described(made), own, picked.variant, theirs]


def explained(name: str, made: KernelPlan, device: DeviceProfile) -> list[str]:
    """The same by parts; times that are hidden by something longer are in brackets."""
    cost = predicted_parts(made, device)
    hidden = dict(cost.hidden)
    cells = []
    for part, seconds in cost.parts.items():
        beside = f"({1e3 * hidden[part]:.4f})" if hidden.get(part) else ""
        cells.append(" ".join(filter(None, (f"{1e3 * seconds:.4f}" if seconds else "", beside))))
    return [
        name, short(made.pass_), *described(made), f"{1e3 * cost.seconds:.4f}",
        *(cell or "-" for cell in cells),
    ]  # fmt: skip


def short(pass_: Pass) -> str:
    """A pass in one word."""
    return pass_.value.removesuffix("_gradient")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m clconv predict", description=__doc__.splitlines()[0]
    )
    which_device(parser)
    parser.add_argument(
        "--layers", metavar="FILE", help="Python file with a list LAYERS (default: the public set)"
    )
    parser.add_argument(
        "--explain", action="store_true",
        help=f"what takes the time, of the plan and of the next {NEXT} candidates",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        layers = load(arguments.layers)
    except ValueError as error:
        parser.error(f"--layers: {error}")
    device = arguments.profile
    print(f"A prediction for {device.name} from a cost model, not a measurement:")
    rows, others = [], []
    with progress.bar("planning", "layer", len(layers)) as told:
        for done, layer in enumerate(layers):
            told.tell(done)
            for pass_ in PASSES:
                found = plans(layer.problem, pass_, device)
                alone = by_records_alone(found, device)
                if arguments.explain:
                    shown = [
                        *found[: 1 + NEXT],
                        *(one for one in alone if one not in found[: 1 + NEXT]),
                    ]
                    rows += [explained(layer.name, made, device) for made in shown]
                else:
                    rows.append(row(layer.name, found[0], device))
                    others += [beside(layer.name, made, found[0], device) for made in alone]
    print(
        table(EXPLAINED, rows, EXPLAINED[4:]) if arguments.explain else table(HEADER, rows, RIGHT)
    )
    if others:
        print("\nWhat is taken only where tuning found it faster, since nobody has timed it there:")
        print(table(BESIDE, others, ("predicted ms", "ms of that")))
    return 0
