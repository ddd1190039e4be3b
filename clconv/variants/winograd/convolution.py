"""The forward pass and the input gradient by tiles: kernels, and what they are launched with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clconv.planning.cost import Cost
from clconv.variants.base import (
    Design,
    Kernel,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    common_constants,
    convolution_operands,
    grid,
    scalars,
)
from clconv.variants.winograd.transforms import OUTPUTS, steps
from clconv.variants.winograd.work import MOST_VECTORS, Work, registers_hold

__all__ = ["designs"]

# Fewer sums than this show their latency.
FEWEST_SUMS = 8

TRANSFORMED_WEIGHT = Operand("transformed_weight", Layout.FLAT, True, "SUM", True)

SCALARS = (
    *scalars("batch length positions pad lead channels written tiles parts part_tiles"),
    *scalars("row_tiles row_vectors block_vectors"),
    *scalars(long_names="all_vectors position_blocks tasks", sum_names="slope"),
)


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of outputs and of sums; those that ask for wider vectors, unless
    activations that call functions must not."""
    request = request.asking()
    for outputs in OUTPUTS[request.problem.kernel_size]:
        for channels, vectors in registers_hold(request):
            work = Work(request, outputs, channels, vectors)
            if work.most_vectors and work.sums >= FEWEST_SUMS:
                yield _design(work)


def _design(work: Work) -> Design:
    request, tiles, form = work.request, work.tiles, work.tiles.transform
    constants = (
        ("form", form),
        ("steps", steps),
        ("backward", not tiles.forward),
        ("channel_tile", work.channels),
    )
    weight = Kernel(
        "weight_winograd",
        (*common_constants(replace(request, device=replace(request.device, vector_floats=1)), 1),
         *constants),
        (Operand("weight", Layout.FLAT), TRANSFORMED_WEIGHT),
        scalars("channels written tiles", "tasks"),
        (1, 1, 1),
    )  # fmt: skip
    lines = f"{form.points} * CHANNEL_TILE * {MOST_VECTORS} * LANES"
    kernel = Kernel(
        "convolution_winograd",
        (
            *common_constants(request, work.lanes),
            *constants,
            ("vectors", work.vectors),
            ("dilation", tiles.lines),
            ("lines_side_by_side", work.lines_side_by_side),
            ("activation", request.epilogue.activation),
            (
                "arrays",
                (
                    ("SUM", "data", str(work.data_elements)),
                    ("SUM", "sums", lines),
                    ("SUM", "raw", f"{form.points + 1} * LANES"),
                    ("long", "place_row", str(MOST_VECTORS)),
                    ("int", "place_tile", str(MOST_VECTORS)),
                    ("int", "place_line", str(MOST_VECTORS)),
                ),
            ),
        ),
        (TRANSFORMED_WEIGHT, *convolution_operands(request)),
        SCALARS,
        (1, 1, 1),
    )
    weights = request.problem.groups * work.channel_tiles
    sums = accumulator(request.problem.dtype)
    preparation = Schedule(
        (
            weight.launch(
                (grid(weights), 1, 1),
                channels=tiles.channels, written=tiles.written, tiles=work.channel_tiles,
                tasks=weights,
            ),
        ),
        (Workspace("transformed_weight", sums, work.transformed_weights),),
    )  # fmt: skip

    def there(wanted: Request) -> Work:
        # With the vectors that the kernel has, whether it asks for them or not.
        return replace(work, request=replace(wanted, device=request.device))

    def schedule(wanted: Request) -> Schedule:
        own = there(wanted)
        if not own.all_vectors:
            return Schedule()
        numbers = _numbers(own)
        return Schedule((kernel.launch((grid(numbers["tasks"]), 1, 1), **numbers),))

    def predicted(wanted: Request) -> Cost:
        return there(wanted).predicted()

    tile = {
        "outputs": work.outputs, "channel_tile": work.channels, "vectors": work.vectors,
        "lanes": work.lanes,
    }  # fmt: skip
    return Design(
        tile, (weight, kernel), work.cost(), schedule, preparation, predicted, decides=True
    )


def _numbers(work: Work) -> dict[str, int]:
    """What a launch is given for a problem."""
    problem, tiles, blocks = work.problem, work.tiles, work.blocks()
    return {
        "batch": problem.batch,
        "length": tiles.length,
        "positions": tiles.positions,
        "pad": problem.pads[0],
        "lead": tiles.lead,
        "channels": tiles.channels,
        "written": tiles.written,
        "tiles": work.channel_tiles,
        "parts": blocks.parts,
        "part_tiles": blocks.part_tiles,
        "row_tiles": tiles.row_tiles,
        "row_vectors": work.row_vectors,
        "block_vectors": blocks.vectors,
        "all_vectors": work.all_vectors,
        "position_blocks": blocks.position_blocks,
        "tasks": blocks.tasks,
    }
