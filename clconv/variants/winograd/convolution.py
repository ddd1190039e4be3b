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
from clconv.variants.winograd.tiles import tile_outputs
from clconv.variants.winograd.transforms import every_second, in_turn, steps
from clconv.variants.winograd.work import Work, registers_hold

__all__ = ["designs", "works"]

# Fewer sums than this show their latency.
FEWEST_SUMS = 8

TRANSFORMED_WEIGHT = Operand("transformed_weight", Layout.FLAT, True, "SUM", True)
SCRATCH = Operand("scratch", Layout.FLAT, True, "SUM", True)
# Work-groups a core where each has transformed samples of its own in global memory.
GROUPS_A_CORE = 4

SCALARS = (
    *scalars("batch length positions pad lead channels written tiles parts part_tiles"),
    *scalars("row_tiles row_vectors block_vectors plane weight_plane"),
    *scalars(long_names="all_vectors position_blocks data_elements tasks", sum_names="slope"),
)


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile of outputs and of sums. If these ask for wider vectors, designs that
    do not ask come after them: activations that call functions must take one of those."""
    asking = request.asking()
    found = [_design(work) for work in works(asking)]
    yield from found
    if found and asking is not request:
        plain = [_design(work) for work in works(request)]
        least = min(one.cost.seconds for one in plain)
        behind = max(1.0, min(one.cost.seconds for one in found) / least)
        yield from (replace(one, cost=one.cost * behind) for one in plain)


def works(request: Request) -> Iterator[Work]:
    """What designs are of: tiles whose sums fit the registers and whose samples fit into memory."""
    for outputs in tile_outputs(request.problem, request.pass_):
        for channels, vectors in registers_hold(request):
            work = Work(request, outputs, channels, vectors)
            whole = channels % work.tiles.phases == 0
            if whole and work.most_vectors and work.sums >= FEWEST_SUMS:
                yield work


def _design(work: Work) -> Design:
    request, tiles, form = work.request, work.tiles, work.tiles.transform
    constants = (
        ("form", form),
        ("steps", steps),
        ("backward", not tiles.forward),
        ("kernel_size", request.problem.kernel_size),
        ("phases", tiles.phases),
        ("channel_tile", work.channels),
    )
    weight = Kernel(
        "weight_winograd",
        (*common_constants(replace(request, device=replace(request.device, vector_floats=1)), 1),
         *constants),
        (Operand("weight", Layout.FLAT), TRANSFORMED_WEIGHT),
        scalars("channels written tiles weight_plane", "tasks"),
        (1, 1, 1),
    )  # fmt: skip
    held = str(work.held_vectors)
    sums_elements = f"{form.points} * CHANNEL_TILE * {held} * LANES"
    raw = max(form.points, form.step, form.outputs * tiles.phases) + 2
    kernel = Kernel(
        "convolution_winograd",
        (
            *common_constants(request, work.lanes),
            *constants,
            ("vectors", work.vectors),
            ("stride", request.problem.stride),
            ("dilation", tiles.lines),
            ("lines_side_by_side", work.lines_side_by_side),
            ("every_second", every_second),
            ("in_turn", in_turn),
            ("scratch", work.scratch),
            ("activation", request.epilogue.activation),
            (
                "arrays",
                (
                    *(() if work.scratch else (("SUM", "data", str(work.data_elements)),)),
                    ("SUM", "sums", sums_elements),
                    ("SUM", "raw", f"{raw} * LANES"),
                    ("int", "place_row", held),
                    ("int", "place_tile", held),
                    ("int", "place_line", held),
                ),
            ),
        ),
        (*((SCRATCH,) if work.scratch else ()), TRANSFORMED_WEIGHT, *convolution_operands(request)),
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
                weight_plane=work.weight_plane, tasks=weights,
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
        if not own.scratch:
            return Schedule((kernel.launch((grid(numbers["tasks"]), 1, 1), **numbers),))
        elements = numbers["data_elements"]
        groups = _groups(own, numbers["tasks"], elements, preparation.workspace_bytes)
        launch = kernel.launch((groups, 1, 1), **numbers)
        return Schedule((launch,), (Workspace("scratch", sums, groups * elements),))

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
        "plane": work.plane,
        "weight_plane": work.weight_plane,
        "data_elements": work.scratch_elements(blocks.vectors),
        "all_vectors": work.all_vectors,
        "position_blocks": blocks.position_blocks,
        "tasks": blocks.tasks,
    }


def _groups(work: Work, tasks: int, elements: int, prepared_bytes: int) -> int:
    """Work-groups with transformed samples of their own, as many as the cores need and the
    workspaces may have."""
    groups = min(tasks, GROUPS_A_CORE * work.request.device.compute_units)
    limit = work.request.workspace_limit
    if limit is not None:
        groups = min(groups, (limit - prepared_bytes) // (elements * work.item_bytes))
    return max(groups, 1)
