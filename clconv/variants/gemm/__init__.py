"""For GPUs: products of tiles in local memory, summed in registers, as an implicit GEMM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clconv.planning.profiles import DeviceProfile
from clconv.problem import Pass
from clconv.variants.base import (
    ACCUMULATION,
    CACHE_RATE,
    EXACT,
    MAX_GROUPS,
    WEIGHT_GRADIENT,
    Constants,
    Design,
    Kernel,
    Launch,
    Request,
    Schedule,
    accumulator,
    ceil_div,
    common_constants,
    comparable,
    convolution_operands,
    geometry_constants,
    grid,
    partials_limit,
    phase_constants,
    scalars,
    weight_gradient_design,
)
from clconv.variants.gemm import gemv
from clconv.variants.gemm.examples import EXAMPLES

__all__ = ["ERROR_CLASS", "EXAMPLES", "NAME", "designs", "refusal"]

NAME = "gemm"
ERROR_CLASS = EXACT

# (rows, columns) of a work-group's tile, (rows, columns) of a work-item's sums. Large tiles read
# less, since each element that is fetched serves a whole row or column of sums; small ones waste
# less where there are few channels, and make more work-groups.
SHAPES = (
    (128, 128, 8, 8),
    (128, 64, 8, 8),
    (64, 128, 8, 8),
    (64, 64, 8, 8),
    (128, 32, 8, 8),
    (32, 128, 8, 8),
    (64, 64, 8, 4),
    (32, 32, 4, 4),
    (32, 32, 8, 8),
    (16, 16, 4, 4),
)
# Floats that the template reads at once.
QUAD = 4
# Terms of a slab: longer ones need fewer barriers, more local memory, and registers for the
# addresses of what a work-item fetches, which work-items of 64 sums do not have.
DEPTHS = (4, 8, 16)

# Columns for which the choice of a tile is made: it may not depend on batch or length.
TYPICAL_COLUMNS = 16384
# Work-groups a compute unit, over which a weight gradient is spread.
GROUPS_A_UNIT = 4
# Positions of a share at least: fewer, and its partial sums cost more than its products.
LEAST_SHARE = 256
MAX_STRIDE = 2**20
# Terms of a share at most: kernels count them in 32 bits.
MOST_TERMS = 2**30
# The kernel for few columns must be so many times as fast, by the model, to have more of them.
FEW_COLUMNS_GAIN = 2.0

# The modelled costs of a work-item, in multiply-adds: of an element that it fetches (index, bounds,
# address, copy), of a read from local memory, of the loop, of a slab's barriers.
FETCH, LOCAL_READ, LOOP, BARRIER = 14.0, 1.0, 4.0, 16.0
# Floats that a compute unit reads from local memory for each multiply-add that it could do.
LOCAL_RATE = 0.4
# Elements that a work-item copies at most, and the sums beside which the slab may be longer.
MOST_FETCHED, FEW_SUMS = 10, 32
# Work-groups this small are for devices that take no larger ones, and fetch what they must.
FEWEST_ITEMS = 16
# Without a second buffer nothing hides the way to memory but other work-groups.
ONE_BUFFER, ONE_GROUP = 0.9, 0.6
# Where local memory is no faster than the cache.
LOCAL_AS_GLOBAL = 0.5


@dataclass(frozen=True)
class Tile:
    """A tile's numbers. Constraints: all are powers of two; a work-item has blocks of 4 x 4 sums,
    for reads of four floats; work-items are a multiple of the depth, and copy equally many
    elements, so that what an element is follows from its number alone."""

    rows: int
    columns: int
    item_rows: int
    item_columns: int
    depth: int
    buffers: int

    @property
    def items(self) -> int:
        """Work-items of a work-group."""
        return (self.rows // self.item_rows) * (self.columns // self.item_columns)

    @property
    def sums(self) -> int:
        """Sums of a work-item."""
        return self.item_rows * self.item_columns

    @property
    def fetched(self) -> int:
        """Elements that a work-item copies to a slab."""
        return self.depth * (self.rows + self.columns) // self.items

    def local_bytes(self, item_bytes: int) -> int:
        """Local memory of a work-group: its slabs, or a row of results of each work-item."""
        slabs = self.buffers * self.depth * (self.rows + self.columns + 8)
        return max(slabs, self.rows // self.item_rows * self.columns) * item_bytes

    def registers(self, device: DeviceProfile, item_bytes: int) -> int:
        """32-bit registers of a work-item, estimated."""
        elements = self.sums + self.item_rows + self.item_columns
        if self.buffers == 2:
            elements += self.fetched
        # With two buffers the addresses of both what is fetched and what is summed up are held.
        addresses = device.address_registers * (1 + (self.buffers - 1) * self.fetched / 8)
        return elements * item_bytes // 4 + int(addresses)

    def fits(self) -> bool:
        """Whether the constraints hold."""
        return (
            self.items % self.depth == 0
            and (self.fetched <= MOST_FETCHED or self.items <= FEWEST_ITEMS)
            and (self.depth <= 8 or self.sums <= FEW_SUMS)
            and (self.depth >= 8 or 2 * self.fetched > MOST_FETCHED)
            and self.depth * self.rows % self.items == 0
            and self.depth * self.columns % self.items == 0
        )

    def resident(self, request: Request) -> int:
        """Work-groups that a compute unit holds at once, estimated."""
        device, item_bytes = request.device, accumulator(request.problem.dtype).itemsize
        return min(
            device.unit_local_bytes // self.local_bytes(item_bytes),
            device.unit_registers // (self.registers(device, item_bytes) * self.items),
            device.unit_items // self.items,
            device.unit_groups,
        )

    def efficiency(self, request: Request) -> float:
        """The share of a compute unit's multiply-adds that are the tile's products."""
        floats = self.item_rows + self.item_columns
        reads = floats / min(QUAD, request.device.read_floats)
        a_term = max(self.sums, floats / LOCAL_RATE) + LOCAL_READ * reads + LOOP
        a_term += (FETCH * self.fetched + BARRIER / self.buffers) / self.depth
        share = self.sums / a_term
        resident = self.resident(request)
        if self.buffers == 1:
            share *= ONE_BUFFER
        if resident < 2:
            share *= ONE_GROUP
        if not request.device.local_pays:
            share *= LOCAL_AS_GLOBAL
        # Eight waves a unit hide most latencies.
        waves = resident * self.items / request.device.lanes
        share *= min(1.0, self.items / request.device.lanes)
        return share * min(1.0, math.sqrt(waves / 8))

    def constants(self) -> Constants:
        """What gemm.cl.mako needs."""
        return (
            ("tile_rows", self.rows),
            ("tile_columns", self.columns),
            ("item_rows", self.item_rows),
            ("item_columns", self.item_columns),
            ("depth", self.depth),
            ("buffers", self.buffers),
        )


@dataclass(frozen=True)
class Matrices:
    """The sizes of a pass as a product of matrices, for each of `products` of them."""

    request: Request

    @property
    def forward(self) -> bool:
        """Or a gradient."""
        return self.request.pass_ is Pass.FORWARD

    @property
    def weights(self) -> bool:
        """The weight gradient."""
        return self.request.pass_ is Pass.WEIGHT_GRADIENT

    @cached_property
    def products(self) -> int:
        """One a group, and a phase of the input gradient."""
        problem = self.request.problem
        phases = problem.stride if self.request.pass_ is Pass.INPUT_GRADIENT else 1
        return problem.groups * phases

    @cached_property
    def rows(self) -> int:
        """Rows of the result."""
        problem = self.request.problem
        backward = self.request.pass_ is Pass.INPUT_GRADIENT
        return problem.group_in if backward else problem.group_out

    @cached_property
    def columns(self) -> int:
        """Columns of the result."""
        problem = self.request.problem
        if self.weights:
            return problem.group_in * problem.kernel_size
        return gemv.columns(self.request)

    @cached_property
    def terms(self) -> float:
        """Terms of a sum, on average over the phases."""
        problem = self.request.problem
        if self.weights:
            return problem.batch * problem.out_length
        if self.forward:
            return problem.group_in * problem.kernel_size
        return problem.group_out * problem.kernel_size / problem.stride


def refusal(request: Request) -> str | None:
    """Why the variant cannot serve: no GPU, no float64, sizes beyond 32 bits, tiny work-groups."""
    problem, device = request.problem, request.device
    if device.vector_floats > 1:
        return f"it is for GPUs, {device.name} has vectors of its own"
    if problem.dtype == np.float64 and not device.fp64:
        return f"{device.name} has no float64"
    if request.pass_ is Pass.BIAS_GRADIENT:
        return "it computes no bias gradients on their own"
    if max(problem.group_in, problem.group_out) * problem.kernel_size >= 2**30:
        return f"a group has {problem.group_in * problem.kernel_size} weights a channel"
    if problem.stride > MAX_STRIDE:
        return f"stride is {problem.stride}, expected at most {MAX_STRIDE}"
    if not _tiles(request):
        return (
            f"{device.name} takes work-groups of {device.max_work_group_size} with "
            f"{device.local_bytes} bytes of local memory, too small for any tile"
        )
    return None


def _tiles(request: Request) -> list[Tile]:
    """The tiles that the device can run, two work-groups a compute unit where that is possible."""
    device, item_bytes = request.device, accumulator(request.problem.dtype).itemsize
    most = min(device.max_work_group_size, device.max_work_item_sizes[0])
    found = [
        tile
        for shape in SHAPES
        for depth in DEPTHS
        for buffers in (2, 1)
        if (tile := Tile(*shape, depth, buffers)).fits()
        and tile.items <= most
        and tile.local_bytes(item_bytes) <= device.local_bytes
        and tile.registers(device, item_bytes) <= device.item_registers
    ]
    found = [t for t in found if t.resident(request) >= 2] or found
    # With fewer sums than 8 x 8 the reads of local memory are the limit.
    return [t for t in found if t.sums > FEW_SUMS] or found


def designs(request: Request) -> Iterator[Design]:
    """A design for each tile that the device can run."""
    matrices = Matrices(request)
    for tile in _tiles(request):
        # Tiles of which more than half would be empty are for fewer channels than these.
        if tile.rows > 32 and tile.rows >= 2 * matrices.rows:
            continue
        if matrices.weights:
            yield _weight_gradient(matrices, tile)
        else:
            yield _convolution(matrices, tile)


def cost(matrices: Matrices, tile: Tile, columns: int) -> float:
    """Modelled seconds of the product of tiles for so many columns.

    Tiles are rounded up over the result, and work-groups over the compute units.
    """
    request = matrices.request
    device = request.device
    tiles = ceil_div(matrices.rows, tile.rows) * ceil_div(columns, tile.columns)
    tiles *= matrices.products
    units = device.compute_units
    a_unit = ceil_div(tiles, units)
    terms = ceil_div(int(matrices.terms) or 1, tile.depth) * tile.depth
    products = a_unit * units * tile.rows * tile.columns * terms
    seconds = 2 * products / (device.peak_flops * tile.efficiency(request))
    read = tiles * (tile.rows + tile.columns) * terms * request.problem.dtype.itemsize
    return float(max(seconds, read / (CACHE_RATE * device.peak_bandwidth)))


def _modelled(matrices: Matrices, tile: Tile) -> float:
    """Seconds in proportion to batch and length, so that the choice depends on neither, though few
    columns take longer, and have another kernel."""
    request = matrices.request
    device = request.device
    if matrices.weights:
        # The shares fill the device; their number is no part of the tile.
        tiles = ceil_div(matrices.rows, tile.rows) * ceil_div(matrices.columns, tile.columns)
        tiles *= matrices.products
        a_term = 2 * tiles * tile.rows * tile.columns / device.peak_flops
        read = tiles * (tile.rows + tile.columns) * request.problem.dtype.itemsize
        a_term = max(a_term / tile.efficiency(request), read / (CACHE_RATE * device.peak_bandwidth))
        return matrices.terms * comparable(device, a_term)
    a_column = cost(matrices, tile, TYPICAL_COLUMNS) / TYPICAL_COLUMNS
    return matrices.columns * comparable(device, a_column)


def _numbers(tile: Tile) -> dict[str, int]:
    return dict(tile.constants()) | {"lanes": 1}


def _constants(request: Request) -> Constants:
    fetch = ("fetch_count", request.device.fetch_together)
    return (*common_constants(request, 1), fetch, *geometry_constants(request.problem))


def _convolution(matrices: Matrices, tile: Tile) -> Design:
    request = matrices.request
    problem = request.problem
    kernel = Kernel(
        "convolution_gemm",
        _constants(request)
        + (
            ("backward", not matrices.forward),
            *phase_constants(problem),
            ("weight_index", "int" if problem.weight_count < 2**31 else "long"),
            ("activation", request.epilogue.activation),
        )
        + tile.constants(),
        convolution_operands(request),
        (
            *scalars("batch length out_length pad positions"),
            *scalars(long_names="blocks"),
            *scalars("terms_given", sum_names="slope"),
        ),
        (tile.items, 1, 1),
    )
    few = gemv.tile(request)
    few_kernel = None if few is None else gemv.kernel(request, few)
    terms = problem.group_in * problem.kernel_size if matrices.forward else problem.group_out

    def schedule(wanted: Request) -> Schedule:
        products = Matrices(wanted)
        if few is not None and few_kernel is not None and _is_few(products, tile, few):
            return Schedule((gemv.launch(wanted, few, few_kernel),))
        problem = wanted.problem
        blocks = ceil_div(products.columns, tile.columns)
        tiles = ceil_div(products.rows, tile.rows) * products.products
        launch = kernel.launch(
            (grid(tiles) * tile.items, grid(blocks), 1),
            batch=problem.batch,
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            positions=problem.positions(wanted.pass_),
            blocks=blocks,
            terms_given=terms,
        )
        return Schedule((launch,))

    kernels = (kernel,) if few_kernel is None else (kernel, few_kernel)
    return Design(_numbers(tile), kernels, _modelled(matrices, tile), schedule)


def _is_few(matrices: Matrices, tile: Tile, few: gemv.Tile) -> bool:
    """Whether the kernel for few columns is the one to run: as asked for, else if it pays."""
    wanted = matrices.request.kernel
    return few_columns_pay(matrices, tile, few) if wanted is None else wanted == gemv.NAME


def few_columns_pay(matrices: Matrices, tile: Tile, few: gemv.Tile) -> bool:
    """Whether the kernel for few columns is the faster one: always if a work-group has all."""
    columns = matrices.columns
    if not gemv.COLUMNS < columns <= gemv.MOST_COLUMNS:
        return columns <= gemv.COLUMNS
    gained = FEW_COLUMNS_GAIN * gemv.cost(matrices.request, few)
    return gained <= cost(matrices, tile, columns)


def _weight_gradient(matrices: Matrices, tile: Tile) -> Design:
    request = matrices.request
    tiles = ceil_div(matrices.rows, tile.rows) * ceil_div(matrices.columns, tile.columns)
    tiles *= matrices.products
    kernel = Kernel(
        "weight_gradient_gemm",
        _constants(request) + tile.constants(),
        WEIGHT_GRADIENT,
        (
            *scalars("length out_length pad"),
            *scalars(long_names="all_terms share_terms"),
            *scalars("shares step_n step_q"),
            *ACCUMULATION,
        ),
        (tile.items, 1, 1),
    )

    def schedule(wanted: Request, kernel: Kernel) -> tuple[Launch | None, int]:
        problem = wanted.problem
        share_bytes = problem.weight_count * accumulator(problem.dtype).itemsize
        all_terms = problem.batch * problem.out_length
        if not all_terms:
            return None, 0
        many = ceil_div(GROUPS_A_UNIT * wanted.device.compute_units, tiles)
        most = int(partials_limit(wanted, share_bytes) // share_bytes)
        shares = max(1, min(many, most, ceil_div(all_terms, LEAST_SHARE), MAX_GROUPS))
        shares = max(shares, ceil_div(all_terms, MOST_TERMS))
        share_terms = ceil_div(ceil_div(all_terms, shares), tile.depth) * tile.depth
        shares = ceil_div(all_terms, share_terms)
        launch = kernel.launch(
            (grid(tiles) * tile.items, shares, 1),
            length=problem.length,
            out_length=problem.out_length,
            pad=problem.pads[0],
            all_terms=all_terms,
            share_terms=share_terms,
            shares=shares,
            step_n=tile.depth // problem.out_length,
            step_q=tile.depth % problem.out_length,
        )
        return launch, shares

    modelled = _modelled(matrices, tile)
    return weight_gradient_design(request, _numbers(tile), kernel, modelled, schedule)
