"""Products of matrices by GPUs: the tiles of a work-group, and those that a device can run."""

from __future__ import annotations

from dataclasses import dataclass

from clconv.planning.cost import ProductTile
from clconv.planning.profiles import DeviceProfile
from clconv.variants.base import Constants, Request, accumulator, common_constants

__all__ = ["DEPTHS", "MOST_FETCHED", "SHAPES", "Tile", "constants", "fitting"]

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
# Terms of a slab: longer ones need fewer barriers, more local memory, and registers for the
# addresses of what a work-item fetches, which work-items of 64 sums do not have.
DEPTHS = (4, 8, 16)

# Elements that a work-item copies at most, and the sums beside which the slab may be longer.
MOST_FETCHED, FEW_SUMS = 10, 32
# Work-groups this small are for devices that take no larger ones, and fetch what they must.
FEWEST_ITEMS = 16


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

    def work(self, request: Request) -> ProductTile:
        """What a work-item does, as the cost model counts it."""
        floats = self.item_rows + self.item_columns
        return ProductTile(
            self.sums, floats, self.fetched, self.depth, self.buffers, self.items,
            self.resident(request),
        )  # fmt: skip

    def constants(self) -> Constants:
        """What products.cl.mako needs."""
        return (
            ("tile_rows", self.rows),
            ("tile_columns", self.columns),
            ("item_rows", self.item_rows),
            ("item_columns", self.item_columns),
            ("depth", self.depth),
            ("buffers", self.buffers),
        )

    def numbers(self) -> dict[str, int]:
        """The tile as a design has it."""
        return dict(self.constants()) | {"lanes": 1}


def fitting(request: Request) -> list[Tile]:
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


def constants(request: Request) -> Constants:
    """What the templates of products have beside a tile and the layer."""
    return (*common_constants(request, 1), ("fetch_count", request.device.fetch_together))
