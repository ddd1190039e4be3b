"""How fast might a device be that nobody has at hand? A prediction, from the planner's cost model.

For each layer and pass: the variant and tile that the planner picks for a profile, its work-groups,
and the share of the roofline (the larger of arithmetic at peak and every array moved once at full
bandwidth) that the model predicts. Nothing is measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from clconv import Conv1dProblem, KernelPlan, Pass, plan
from clconv.commands.layers import load
from clconv.commands.text import table
from clconv.planning.profiles import PROFILES, DeviceProfile
from clconv.variants import gemm
from clconv.variants.base import Launch, Request, modelled_seconds
from clconv.variants.gemm import gemv

HEADER = ("layer", "pass", "variant", "tile", "work-groups", "predicted ms", "% of roofline")
RIGHT = ("work-groups", "predicted ms", "% of roofline")
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)


def sums_launch(made: KernelPlan) -> Launch:
    """The first, be it products of tiles, or of few columns, or something else."""
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


def predicted(made: KernelPlan, device: DeviceProfile) -> float:
    """The model's seconds: work-groups rounded up over the compute units, arithmetic or memory."""
    problem, units = made.problem, device.compute_units
    request = Request(problem, made.pass_, device, made.epilogue)
    few = gemv.tile(request) if sums_launch(made).kernel.name == gemv.NAME else None
    if few is not None:
        seconds = gemv.cost(request, few)
    elif made.variant == "gemm" and made.pass_ is not Pass.WEIGHT_GRADIENT:
        matrices = gemm.Matrices(request)
        names = ("tile_rows", "tile_columns", "item_rows", "item_columns", "depth", "buffers")
        tile = gemm.Tile(*(made.tile[name] for name in names))
        seconds = gemm.cost(matrices, tile, matrices.columns)
    else:
        groups = max(1, work_groups(made))
        rounded = -(-groups // units) * units / groups
        seconds = modelled_seconds(device, made.cost) * rounded
    return max(seconds, bytes_moved(problem) / device.peak_bandwidth)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m clconv predict", description=__doc__.splitlines()[0]
    )
    gpus = [name for name, one in PROFILES.items() if one.kind == "gpu"]
    parser.add_argument("--device", required=True, choices=gpus, metavar="PROFILE",
                        help=f"one of {', '.join(gpus)}")  # fmt: skip
    parser.add_argument(
        "--layers", metavar="FILE", help="Python file with a list LAYERS (default: the public set)"
    )
    arguments = parser.parse_args(argv)
    try:
        layers = load(arguments.layers)
    except ValueError as error:
        parser.error(f"--layers: {error}")
    device = PROFILES[arguments.device]
    rows = []
    for layer in layers:
        problem = layer.problem
        for pass_ in PASSES:
            made = plan(problem, pass_, device)
            seconds = predicted(made, device)
            tile = " ".join(f"{key}={value}" for key, value in made.tile.items() if key != "lanes")
            rows.append([
                layer.name, pass_.value.removesuffix("_gradient"), made.variant, tile,
                str(work_groups(made)), f"{1e3 * seconds:.3f}",
                f"{100 * roofline(problem, device) / seconds:.0f}",
            ])  # fmt: skip
    print(f"A prediction for {device.name} from a cost model, not a measurement:")
    print(table(HEADER, rows, RIGHT))
    return 0
