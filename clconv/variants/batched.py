"""For GPUs: tiles of samples become planes of numbers, whose products are products of matrices.

An algorithm gives a `Scheme` for the numbers of a tile, one for each plane. A plane's products, of
all channels and tiles, are a product of matrices: the same kernel for all algorithms and planes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from clconv.planning import cost
from clconv.planning.cost import Cost
from clconv.variants.base import (
    ACCUMULATION,
    MAX_GROUPS,
    Constants,
    Design,
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
    local_items,
    rounded,
    scalars,
)
from clconv.variants.cuts import Cut
from clconv.variants.products import MOST_FETCHED, Tile, constants, fitting
from clconv.variants.schemes import Lines, Scheme

__all__ = ["TOO_MANY", "design", "fits", "refusal"]

# Work-items of a group that transforms tiles, and the local memory that it may take: so that
# several are on a compute unit.
ITEMS, MOST_LOCAL_BYTES = 64, 16 << 10
# Bytes of the planes that a turn makes, both of x and y.
TURN_BYTES = 256 << 20
# Kernels count elements of a plane in 32 bits.
MOST_ELEMENTS = 2**31
TOO_MANY = "weights of a group, or lines of a dilation, are too many to be counted in 32 bits"
# Tiles of samples for which the choice is made: it may depend on neither batch nor length.
TYPICAL_COLUMNS = 16384


@dataclass(frozen=True)
class Batch:
    """A pass by a scheme, its products by a tile: how the planes lie, and how many tiles of samples
    are transformed at a time."""

    cut: Cut
    scheme: Scheme
    tile: Tile

    @property
    def request(self) -> Request:
        """What is asked for."""
        return self.cut.request

    def of(self, request: Request) -> Batch:
        """The same of another batch, length or padding."""
        return replace(self, cut=replace(self.cut, request=request))

    @property
    def matrices(self) -> int:
        """Products of matrices: of all planes and groups."""
        return self.scheme.planes * self.cut.problem.groups

    @property
    def rows(self) -> int:
        """Channels written of all phases, of a group."""
        return self.cut.written * self.cut.write_phases

    @property
    def row_pitch(self) -> int:
        """The same with those that fill a tile of products, which are zeros."""
        return rounded(self.rows, self.tile.rows)

    @property
    def term_pitch(self) -> int:
        """Channels read of all phases, filled up likewise."""
        step = self.tile.columns if self.cut.gradient else self.tile.depth
        return rounded(self.cut.terms, step)

    @cached_property
    def items(self) -> int:
        """Work-items of a group that transforms tiles."""
        device, found = self.request.device, local_items(self.request.device, ITEMS)
        most = min(device.local_bytes, MOST_LOCAL_BYTES)
        while found > 1 and found * self._item_local_bytes > most:
            found //= 2
        return found

    @property
    def _item_local_bytes(self) -> int:
        return (self.scheme.size | 1) * self.cut.item_bytes + 16  # and where its tile begins

    @property
    def fits(self) -> bool:
        """Whether the device can run the kernels, which count in 32 bits, and transform all lines
        of a place at a time."""
        return (
            self._item_local_bytes <= self.request.device.local_bytes
            and self.term_pitch * self.row_pitch < MOST_ELEMENTS
            and max(self.term_pitch, self.row_pitch) * self.pitch(1) < MOST_ELEMENTS
            and self.pitch(1) <= MAX_GROUPS * self.items
        )

    # Tiles of samples, which are columns of the products (forward, input gradient) or terms

    @property
    def column_step(self) -> int:
        """What columns are filled up to multiples of. Both are powers of two."""
        return max(self.items, self.tile.depth if self.cut.gradient else self.tile.columns)

    def pitch(self, places: int) -> int:
        """Columns of so many places of tiles, with those that are zeros."""
        return rounded(places * self.cut.lines, self.column_step)

    def turns(self, other_bytes: int) -> Iterator[tuple[int, int]]:
        """Which places of tiles are transformed at a time: the first, and how many. `other_bytes`
        are those of other workspaces."""
        request = self.request
        most = min(TURN_BYTES, request.device.max_alloc_bytes)
        if request.workspace_limit is not None:
            most = min(most, request.workspace_limit - other_bytes)
        columns = self.matrices * (self.term_pitch + self.row_pitch) * self.cut.item_bytes
        steps = max(1, most // (columns * self.column_step))
        steps = min(steps, MAX_GROUPS * self.items // self.column_step)
        a_turn = max(1, steps * self.column_step // self.cut.lines)
        places = request.problem.batch * self.cut.row_tiles
        for first in range(0, places, a_turn):
            yield first, min(a_turn, places - first)

    def workspace(self, name: str, rows: int, columns: int) -> Workspace:
        """Planes of matrices of so many rows and columns."""
        sums = accumulator(self.cut.problem.dtype)
        return Workspace(f"planes_{name}", sums, self.matrices * rows * columns)


def planes(name: str) -> Operand:
    """The workspace for the planes that an array becomes."""
    return Operand(f"planes_{name}", Layout.FLAT, True, "SUM", True)


def refusal(request: Request) -> str | None:
    """Why no algorithm can have its products so."""
    problem, device = request.problem, request.device
    if problem.group_in == problem.group_out == 1:
        return "it has one channel a group, whose products are no matrices"
    if not fitting(request):
        return (
            f"{device.name} takes work-groups of {device.max_work_group_size} with "
            f"{device.local_bytes} bytes of local memory, too small for any tile"
        )
    return None


def _tiles(request: Request) -> list[Tile]:
    """Those of products; where there are others not those of small work-groups, whose work-items
    fetch much and take more registers for it."""
    found = fitting(request)
    return [tile for tile in found if tile.fetched <= MOST_FETCHED] or found


def fits(cut: Cut, scheme: Scheme) -> bool:
    """Whether there is a design."""
    return any(Batch(cut, scheme, tile).fits for tile in _tiles(cut.request))


def design(cut: Cut, scheme: Scheme) -> Design:
    """The design with the tile of products that the model prefers."""
    made = (Batch(cut, scheme, tile) for tile in _tiles(cut.request))
    best = min((one for one in made if one.fits), key=lambda one: _typical(one).seconds)
    return _gradient_design(best) if cut.gradient else _convolution_design(best)


# Kernels


def _steps(batch: Batch, lines: Lines) -> Constants:
    """What batched.cl.mako needs for one way between samples and planes."""
    named = tuple((name, value) for name, value in batch.scheme.constants if name in lines.words)
    return (*common_constants(batch.request, 1), ("named", named), ("steps", lines.lines))


PLACES = "element_first place_first row_tiles tiles pitch rows"


def _transform(batch: Batch, source: str) -> Kernel:
    """Tiles of x, or of the output's gradient, to planes."""
    cut, of_results = batch.cut, source == "y"
    scheme = batch.scheme
    return Kernel(
        "transform_batched",
        _steps(batch, scheme.from_factors if of_results else scheme.from_samples)
        + (
            ("source", source),
            ("taken", scheme.taken if of_results else scheme.size),
            ("outputs", cut.outputs),
            ("step", cut.write_step if of_results else cut.read_step),
            ("lines", cut.lines),
            ("items", batch.items),
            ("fetch_count", batch.request.device.fetch_together),
        ),
        (Operand(source, Layout.ROWS), planes(source)),
        scalars(f"length lead channels terms row_pitch {PLACES}"),
        (batch.items, 1, 1),
    )


def _weights(batch: Batch) -> Kernel:
    # As many as a tile of products has rows, or fewer, so that they divide a row of weights.
    cut, items = batch.cut, local_items(batch.request.device, min(ITEMS, batch.tile.rows))
    return Kernel(
        "weights_batched",
        _steps(batch, batch.scheme.from_factors)
        + (
            ("backward", not cut.forward),
            ("kernel_size", cut.problem.kernel_size),
            ("stride", cut.problem.stride),
            ("taps", cut.taps),
            ("items", items),
            ("fetch_count", batch.request.device.fetch_together),
        ),
        (Operand("weight", Layout.FLAT), planes("weight")),
        scalars("channels written terms rows_there term_pitch row_pitch rows"),
        (items, 1, 1),
    )


def _products(batch: Batch) -> Kernel:
    return Kernel(
        "products_batched",
        (*constants(batch.request), *batch.tile.constants()),
        (replace(planes("weight"), written=False), replace(planes("x"), written=False),
         planes("y")),
        scalars("terms row_tiles tiles blocks", "row_pitch pitch"),
        (batch.tile.items, 1, 1),
    )  # fmt: skip


def _inverse(batch: Batch) -> Kernel:
    cut, problem = batch.cut, batch.cut.problem
    return Kernel(
        "inverse_batched",
        _steps(batch, batch.scheme.to_results)
        + (
            ("backward", not cut.forward),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("outputs", cut.outputs),
            ("step", cut.write_step),
            ("lines", cut.lines),
            ("items", batch.items),
            ("activation", batch.request.epilogue.activation),
        ),
        (replace(planes("y"), written=False), *convolution_operands(batch.request)),
        scalars(
            f"length positions pad lead channels written rows_there row_pitch kernel_size {PLACES}",
            "plane_pitch",
            "slope",
        ),
        (batch.items, 1, 1),
    )


def _places(batch: Batch, first: int, places: int, rows: int) -> dict[str, int]:
    """The numbers that say which tiles a launch transforms, and of how many rows."""
    element, place = divmod(first, batch.cut.row_tiles)
    return {
        "element_first": element, "place_first": place, "row_tiles": batch.cut.row_tiles,
        "tiles": places * batch.cut.lines, "pitch": batch.pitch(places), "rows": rows,
    }  # fmt: skip


def _launch(kernel: Kernel, blocks: int, **numbers: int) -> Launch:
    """A work-group for each block of all rows, which two dimensions have."""
    first = grid(numbers["rows"])
    size = (blocks * kernel.local_size[0], first, ceil_div(numbers["rows"], first))
    return kernel.launch(size, **numbers)


def _looping(kernel: Kernel, columns: int, **numbers: int) -> Launch:
    """Work-groups for tiles of rows and of columns, which loop beyond what a dimension has."""
    size = (grid(numbers["tiles"]) * kernel.local_size[0], grid(columns), 1)
    return kernel.launch(size, **numbers)


def _of_x(batch: Batch, kernel: Kernel, first: int, places: int) -> Launch:
    cut, problem = batch.cut, batch.cut.problem
    rows = problem.groups * batch.term_pitch
    return _launch(
        kernel, batch.pitch(places) // batch.items,
        length=problem.length if cut.forward else problem.out_length, lead=cut.read_lead,
        channels=cut.channels, terms=cut.terms, row_pitch=batch.term_pitch,
        **_places(batch, first, places, rows),
    )  # fmt: skip


# The forward pass and the input gradient


def _convolution_design(batch: Batch) -> Design:
    weights, transform, products = _weights(batch), _transform(batch, "x"), _products(batch)
    inverse = _inverse(batch)
    cut, problem = batch.cut, batch.cut.problem
    rows = problem.groups * batch.term_pitch
    blocks = batch.row_pitch // weights.local_size[0]
    preparation = Schedule(
        (_launch(
            weights, blocks,
            channels=cut.channels, written=cut.written, terms=cut.terms, rows_there=batch.rows,
            term_pitch=batch.term_pitch, row_pitch=batch.row_pitch, rows=rows,
        ),),
        (batch.workspace("weight", batch.term_pitch, batch.row_pitch),),
    )  # fmt: skip

    def schedule(wanted: Request) -> Schedule:
        there = batch.of(wanted)
        launches: list[Launch] = []
        most = 0
        for first, places in there.turns(preparation.workspace_bytes):
            launches.append(_of_x(there, transform, first, places))
            launches.append(_multiplied(there, products, places))
            launches.append(_results(there, inverse, first, places))
            most = max(most, places)
        if not most:
            return Schedule()
        pitch = there.pitch(most)
        spaces = (
            there.workspace("x", there.term_pitch, pitch),
            there.workspace("y", there.row_pitch, pitch),
        )
        return Schedule(tuple(launches), spaces)

    def predicted(wanted: Request) -> Cost:
        there = batch.of(wanted)
        launches = 3 * len(list(there.turns(preparation.workspace_bytes))) + (not wanted.kept)
        places = wanted.problem.batch * there.cut.row_tiles
        made = _modelled(there, there.pitch(places), 0.0 if wanted.kept else 1.0)
        return made.launched(launches * wanted.device.launch_seconds)

    kernels = (weights, transform, products, inverse)
    return _made(batch, kernels, schedule, predicted, preparation)


def _multiplied(batch: Batch, kernel: Kernel, places: int) -> Launch:
    pitch, tile = batch.pitch(places), batch.tile
    row_tiles = batch.row_pitch // tile.rows
    tiles, blocks = row_tiles * batch.matrices, pitch // tile.columns
    return _looping(
        kernel, blocks,
        terms=batch.term_pitch, row_tiles=row_tiles, row_pitch=batch.row_pitch, pitch=pitch,
        tiles=tiles, blocks=blocks,
    )  # fmt: skip


def _results(batch: Batch, kernel: Kernel, first: int, places: int) -> Launch:
    cut, problem = batch.cut, batch.cut.problem
    length, positions = problem.length, problem.out_length
    if not cut.forward:
        length, positions = positions, length
    rows, pitch = problem.groups * batch.rows, batch.pitch(places)
    return _launch(
        kernel, pitch // batch.items,
        length=length, positions=positions, pad=problem.pads[0], lead=cut.write_lead,
        channels=cut.channels, written=cut.written, rows_there=batch.rows,
        row_pitch=batch.row_pitch, kernel_size=problem.kernel_size,
        plane_pitch=problem.groups * batch.row_pitch * pitch,
        **_places(batch, first, places, rows),
    )  # fmt: skip


def _made(
    batch: Batch,
    kernels: tuple[Kernel, ...],
    schedule: Callable[[Request], Schedule],
    predicted: Callable[[Request], Cost],
    preparation: Schedule = Schedule(),
) -> Design:
    return Design(
        {"size": batch.scheme.size, "planes": batch.scheme.planes, **batch.tile.numbers()},
        kernels,
        _typical(batch),
        schedule,
        preparation,
        predicted,
        measured_only=True,
    )


# Costs


def _typical(batch: Batch) -> Cost:
    """In proportion to batch and length."""
    columns = batch.request.problem.batch * batch.cut.row_tiles * batch.cut.lines
    share = columns / TYPICAL_COLUMNS
    return _modelled(batch, rounded(TYPICAL_COLUMNS, batch.column_step), 0.0) * share


def _modelled(batch: Batch, columns: int, weights: float) -> Cost:
    """Of so many columns, and so many times the weights' transforms; without launches."""
    cut, tile, scheme = batch.cut, batch.tile, batch.scheme
    device, problem = batch.request.device, cut.problem
    rows, other, terms = batch.row_pitch, columns, batch.term_pitch
    if cut.gradient:
        other, terms = terms, columns
    tiles = ceil_div(rows, tile.rows) * ceil_div(other, tile.columns) * batch.matrices
    units = device.compute_units
    sums = float(rounded(tiles, units) * tile.rows * tile.columns * terms)
    read = float(tiles * (tile.rows + tile.columns) * terms * cut.item_bytes)
    found = [cost.products(device, tile.work(batch.request), sums, read)]
    taps = float(problem.groups * batch.term_pitch * batch.row_pitch)
    ends = [
        (scheme.samples, problem.groups * batch.term_pitch * columns, scheme.size),
        (scheme.factors, taps * weights, scheme.taken),
        (scheme.results, problem.groups * batch.row_pitch * columns, scheme.given),
    ]
    if cut.gradient:
        written = problem.groups * batch.row_pitch * columns
        ends[1:] = [(scheme.factors, written, scheme.taken), (scheme.results, taps, scheme.given)]
    for steps, count, samples in ends:
        nbytes = count * (samples * problem.dtype.itemsize + scheme.planes * cut.item_bytes)
        found.append(cost.straight(device, float(count * len(steps)), float(nbytes)))
    return cost.together(found)


# The weight gradient


def _weight_products(batch: Batch) -> Kernel:
    return Kernel(
        "weight_products_batched",
        (*constants(batch.request), *batch.tile.constants()),
        (replace(planes("x"), written=False), replace(planes("y"), written=False),
         planes("result")),
        scalars("terms adding row_tiles column_tiles tiles", "row_pitch term_pitch"),
        (batch.tile.items, 1, 1),
    )  # fmt: skip


def _weight_inverse(batch: Batch) -> Kernel:
    cut, problem = batch.cut, batch.cut.problem
    items = local_items(batch.request.device, ITEMS)
    return Kernel(
        "weight_inverse_batched",
        _steps(batch, batch.scheme.to_results)
        + (
            ("kernel_size", problem.kernel_size),
            ("stride", problem.stride),
            ("dilation", problem.dilation),
            ("taps", cut.taps),
            ("items", items),
        ),
        (
            replace(planes("result"), written=False),
            Operand("x", Layout.ROWS),
            Operand("y", Layout.ROWS),
            Operand("result", Layout.FLAT, written=True),
        ),
        (
            *scalars("batch length out_length pad channels written term_pitch row_pitch rows"),
            *scalars(long_names="plane_pitch"),
            *ACCUMULATION,
        ),
        (items, 1, 1),
    )


def _gradient_design(batch: Batch) -> Design:
    of_x, of_y = _transform(batch, "x"), _transform(batch, "y")
    products, inverse = _weight_products(batch), _weight_inverse(batch)
    result = batch.workspace("result", batch.row_pitch, batch.term_pitch)
    row_tiles = batch.row_pitch // batch.tile.rows
    column_tiles = batch.term_pitch // batch.tile.columns
    tiles = row_tiles * column_tiles * batch.matrices

    def multiplied(terms: int, adding: bool) -> Launch:
        return _looping(
            products, 1,
            terms=terms, adding=int(adding), row_tiles=row_tiles, column_tiles=column_tiles,
            row_pitch=batch.row_pitch, term_pitch=batch.term_pitch, tiles=tiles,
        )  # fmt: skip

    def schedule(wanted: Request) -> Schedule:
        there = batch.of(wanted)
        cut, problem = there.cut, wanted.problem
        launches: list[Launch] = []
        most = 0
        rows = problem.groups * there.row_pitch
        for first, places in there.turns(result.nbytes):
            pitch = there.pitch(places)
            launches.append(_of_x(there, of_x, first, places))
            launches.append(_launch(
                of_y, pitch // there.items,
                length=problem.out_length, lead=0, channels=cut.written, terms=cut.written,
                row_pitch=there.row_pitch, **_places(there, first, places, rows),
            ))  # fmt: skip
            launches.append(multiplied(pitch, first > 0))
            most = max(most, places)
        if not most:
            launches = [multiplied(0, False)]  # what sums nothing is zero
        pitch = there.pitch(max(most, 1))
        blocks = ceil_div(cut.channels, inverse.local_size[0])
        launches.append(_launch(
            inverse, blocks,
            batch=problem.batch, length=problem.length, out_length=problem.out_length,
            pad=problem.pads[0], channels=cut.channels, written=cut.written,
            term_pitch=there.term_pitch, row_pitch=there.row_pitch,
            plane_pitch=problem.groups * there.row_pitch * there.term_pitch,
            rows=problem.groups * cut.written * problem.stride,
        ))  # fmt: skip
        spaces = (
            there.workspace("x", there.term_pitch, pitch),
            there.workspace("y", there.row_pitch, pitch),
            result,
        )
        return Schedule(tuple(launches), spaces)

    def predicted(wanted: Request) -> Cost:
        there = batch.of(wanted)
        launches = 3 * len(list(there.turns(result.nbytes))) + 1
        made = _modelled(there, there.pitch(wanted.problem.batch * there.cut.row_tiles), 1.0)
        return made.launched(launches * wanted.device.launch_seconds)

    return _made(batch, (of_x, of_y, products, inverse), schedule, predicted)
