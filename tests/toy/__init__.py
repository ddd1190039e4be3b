"""A variant that has all that a variant may have, small and slow: Winograd's F(2,3), forward.

It derives something from the weights, has workspaces of the call beside that, several launches,
and an error class of its own. Its folder and templates lie here, so that tests can list it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clconv import testing
from clconv.planning.cost import Cost
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import (
    Design,
    ErrorClass,
    Kernel,
    Launch,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    ceil_div,
    common_constants,
    convolution_operands,
    grid,
    layout_refusal,
    local_items,
    scalars,
)

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "toy"
EXAMPLES = {
    "several tiles": Conv1dProblem(2, 5, 21, 6, 3, 1, 1),
    "half a tile": Conv1dProblem(1, 3, 3, 2, 3),
    "uneven padding": Conv1dProblem(1, 2, 8, 3, 3, 1, (2, 4)),
}
# Points of a tile: two outputs of three taps.
POINTS, OUTPUTS, TAPS = 4, 2, 3
# Roundings on the way of a product: two of the weights' transform, one of the input's, one of the
# product, two of the inverse. The sums over channels come on top.
TRANSFORMS = 6

TRANSFORMED_WEIGHT = Operand(
    "transformed_weight", Layout.FLAT, written=True, element="SUM", workspace=True
)
TRANSFORMED_X = Operand("transformed_x", Layout.FLAT, written=True, element="SUM", workspace=True)


def bound(
    problem: Conv1dProblem, pass_: Pass, tile: Mapping[str, int], arrays: Mapping[str, Any]
) -> Any:
    """|A| (|G| |w|) (|B| |x|), summed over channels, times gamma of all roundings.

    Every step is a sum of products of at most so many terms, so that the error of the whole is at
    most gamma of the number of all roundings, times the same steps of magnitudes (Higham, section
    3.1, for a product of matrices).
    """
    x, weight = (np.abs(arrays[name].astype(np.float64)) for name in ("x", "weight"))
    left, right = problem.pads
    tiles = ceil_div(problem.out_length, OUTPUTS)
    x = np.pad(x, ((0, 0), (0, 0), (left, right + OUTPUTS)))
    first = OUTPUTS * np.arange(tiles)
    d = [x[..., first + i] for i in range(POINTS)]
    v = np.stack([d[0] + d[2], d[1] + d[2], d[1] + d[2], d[1] + d[3]])
    total = weight.sum(axis=2) / 2
    u = np.stack([weight[..., 0], total, total, weight[..., 2]])
    m = np.einsum("poc,pnct->pnot", u, v)
    y = np.stack([m[0] + m[1] + m[2], m[1] + m[2] + m[3]], axis=-1)
    magnitudes = y.reshape(*y.shape[:-2], OUTPUTS * tiles)[..., : problem.out_length]
    terms = problem.in_channels + TRANSFORMS
    smallest = float(np.finfo(accumulator(problem.dtype)).tiny)
    return testing.gamma(terms, accumulator(problem.dtype)) * magnitudes + terms * smallest


ERROR_CLASS = ErrorClass("F(2,3)", bound, keeps_infinity=False)


def refusal(request: Request) -> str | None:
    """Why it cannot serve: another pass, other taps, a stride, gaps, groups."""
    problem = request.problem
    if not request.in_rows:
        return layout_refusal(request)
    if request.pass_ is not Pass.FORWARD:
        return "it computes the forward pass alone"
    if problem.kernel_size != TAPS:
        return f"kernel_size is {problem.kernel_size}, expected {TAPS}"
    for name in ("stride", "dilation", "groups"):
        if getattr(problem, name) != 1:
            return f"{name} is {getattr(problem, name)}, expected 1"
    if problem.dtype == np.float64 and not request.device.fp64:
        return f"{request.device.name} has no float64"
    return None


def designs(request: Request) -> Iterator[Design]:
    """The one."""
    problem, sums = request.problem, accumulator(request.problem.dtype)
    channels = (("in_channels", problem.in_channels), ("out_channels", problem.out_channels))
    constants = (*common_constants(request, 1), *channels)
    size = local_items(request.device, 16)
    of_weight = Kernel(
        "weight_toy", constants,
        (Operand("weight", Layout.FLAT), TRANSFORMED_WEIGHT), (), (size, 1, 1),
    )  # fmt: skip
    of_x = Kernel(
        "input_toy", constants, (Operand("x", Layout.ROWS), TRANSFORMED_X),
        scalars("batch length pad tiles"), (size, 1, 1),
    )  # fmt: skip
    operands = convolution_operands(request)
    products = Kernel(
        "convolution_toy", (*constants, ("activation", request.epilogue.activation)),
        (TRANSFORMED_WEIGHT, TRANSFORMED_X, *operands[2:]),
        scalars("batch out_length tiles", sum_names="slope"), (size, 1, 1),
    )  # fmt: skip

    def over(count: int) -> tuple[int, int, int]:
        return grid(ceil_div(count, size)) * size, 1, 1

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        tiles = ceil_div(problem.out_length, OUTPUTS)
        inputs = problem.batch * problem.in_channels * tiles
        launches: tuple[Launch, ...] = (
            of_x.launch(
                over(inputs),
                batch=problem.batch, length=problem.length, pad=problem.pads[0], tiles=tiles,
            ),
            products.launch(
                over(problem.batch * problem.out_channels * tiles),
                batch=problem.batch, out_length=problem.out_length, tiles=tiles,
            ),
        )  # fmt: skip
        return Schedule(launches, (Workspace("transformed_x", sums, POINTS * inputs),))

    weights = problem.in_channels * problem.out_channels
    preparation = Schedule(
        (of_weight.launch(over(weights)),),
        (Workspace("transformed_weight", sums, POINTS * weights),),
    )
    tile, kernels = {"outputs": OUTPUTS, "lanes": 1}, (of_weight, of_x, products)
    cost = Cost(arithmetic=1.0)  # never the first choice
    yield Design(tile, kernels, cost, schedule, preparation)
