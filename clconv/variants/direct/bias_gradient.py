"""The bias gradient by the portable variant."""

from __future__ import annotations

from collections.abc import Iterator

from clconv.planning.cost import portable_addition
from clconv.variants.base import (
    MAX_GROUPS,
    PARTIAL,
    Design,
    Kernel,
    Layout,
    Operand,
    Request,
    Schedule,
    Workspace,
    accumulator,
    grid,
    launch_partials,
    local_items,
    partials_limit,
    scalars,
    sum_partials,
    vector_lanes,
)
from clconv.variants.direct.common import modelled, portable_constants, shares_of

__all__ = ["designs"]


def designs(request: Request) -> Iterator[Design]:
    """The one that there is."""
    device = request.device
    channels, dtype = request.problem.out_channels, request.problem.dtype
    lanes = vector_lanes(device, dtype)
    local = local_items(device, 1 if device.vector_floats > 1 else 64)
    kernel = Kernel(
        "bias_gradient_direct",
        portable_constants(request, lanes) + (("items", local),),
        (Operand("y", Layout.ROWS), PARTIAL),
        (
            *scalars("channels out_length"),
            *scalars(long_names="units"),
            *scalars("row_units unit_length"),
        ),
        (local, 1, 1),
    )
    adding = sum_partials(request)

    def schedule(wanted: Request) -> Schedule:
        problem = wanted.problem
        share_bytes = channels * accumulator(dtype).itemsize * local
        most = partials_limit(wanted, 0)
        unit_length, parts = shares_of(wanted, channels * local, most, share_bytes)
        row_units = -(-problem.out_length // unit_length)
        units = problem.batch * row_units
        parts = min(parts, units, MAX_GROUPS)
        added = launch_partials(adding, problem, channels, parts * local)
        partial = Workspace("partial", accumulator(dtype), max(parts, 1) * channels * local)
        if not parts:
            return Schedule((added,), (partial,))
        launch = kernel.launch(
            (parts * local, grid(channels), 1),
            channels=channels,
            out_length=problem.out_length,
            units=units,
            row_units=row_units,
            unit_length=unit_length,
        )
        return Schedule((launch, added), (partial,))

    tile = {"lanes": lanes, "local": local}
    cost = modelled(request, portable_addition(), channels / lanes, overlapped=True)
    yield Design(tile, (kernel, adding), cost, schedule)
