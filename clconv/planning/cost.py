"""How long does a pass take? Modelled seconds by parts, from what a variant counts.

Variants count their work: vectors summed, loaded, staged and stored, elements fetched, tiles set
up. This module alone says what each takes. Prices of CPUs are in cycles of a core, those of GPUs in
multiply-adds of a work-item; `DeviceProfile` turns both into seconds.

Where a price comes from: "guide" is what the vendors' optimisation guides say ("Software
Optimization Guide for the AMD Zen4 Microarchitecture", "Intel 64 and IA-32 Architectures
Optimization Reference Manual"); "fitted" was chosen so that the model's order agrees with times of
candidates measured on two cores of Zen 4, that of full width on two of Zen 5, and stayed where
`clconv tune --calibrate` found none of a better order (`docs/log.md`); "counted" follows
from the machine code (`docs/gpu-evidence.md`); "estimate" is none of these. No GPU was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from clconv.planning.profiles import DeviceProfile

__all__ = [
    "CALL_PRODUCTS",
    "PARTS",
    "Blocks",
    "Core",
    "Cost",
    "ProductTile",
    "Sums",
    "Tally",
    "copied",
    "core",
    "few_columns",
    "fourier_bandwidth",
    "portable_seconds",
    "products",
    "straight",
    "together",
    "windows",
]

# What takes time, in the order in which it is told.
PARTS = ("arithmetic", "loads", "staging", "stores", "setup", "latency", "memory", "launch")


@dataclass(frozen=True)
class Cost:
    """Modelled seconds by parts, whose sum is `seconds`.

    `arithmetic` is multiplying and adding, and converting for it; `loads` are reads of what is
    multiplied; `staging` is copying it to local memory first; `stores` is writing results and
    spilling sums; `setup` is starting and looping; `latency` is waiting that nothing hides;
    `memory` is the bandwidth of memory or cache; `launch` is queueing kernels and waking threads.
    Times that overlap with these are in `hidden`, by the same names, and not counted.
    """

    arithmetic: float = 0.0
    loads: float = 0.0
    staging: float = 0.0
    stores: float = 0.0
    setup: float = 0.0
    latency: float = 0.0
    memory: float = 0.0
    launch: float = 0.0
    hidden: tuple[tuple[str, float], ...] = ()

    @cached_property
    def seconds(self) -> float:
        """All parts together."""
        return (
            self.arithmetic + self.loads + self.staging + self.stores
            + self.setup + self.latency + self.memory + self.launch
        )  # fmt: skip

    @property
    def parts(self) -> dict[str, float]:
        """The seconds that count, by name, in the order of `PARTS`."""
        return {name: getattr(self, name) for name in PARTS}

    def __mul__(self, times: float) -> Cost:
        """Of so many times as much work, in as many launches."""
        scaled = {name: times * value for name, value in self.parts.items() if name != "launch"}
        hidden = tuple((name, times * value) for name, value in self.hidden)
        return Cost(**scaled, launch=self.launch, hidden=hidden)

    def launched(self, seconds: float) -> Cost:
        """With the seconds that its launches take."""
        return Cost(**self.parts | {"launch": seconds}, hidden=self.hidden)

    def copying(self, seconds: float) -> Cost:
        """With the seconds that copying arrays takes."""
        return Cost(**self.parts | {"memory": self.memory + seconds}, hidden=self.hidden)

    def bounded(self, memory: float) -> Cost:
        """The same overlapped with so many seconds of memory traffic: the longer of the two
        counts."""
        work = {name: value for name, value in self.parts.items() if name != "launch"}
        tally = Tally()
        tally.overlapped(work, {"memory": memory})
        for name, value in self.hidden:
            tally.hide(name, value)
        return tally.cost(1.0).launched(self.launch)


class Tally:
    """A cost in the making: parts in one unit, cycles or multiply-adds."""

    def __init__(self, **parts: float) -> None:
        self._parts: dict[str, float] = parts
        self._hidden: dict[str, float] = {}

    def add(self, part: str, amount: float) -> None:
        """What takes time of its own."""
        self._parts[part] = self._parts.get(part, 0.0) + amount

    def hide(self, part: str, amount: float) -> None:
        """Time that something longer hides."""
        if amount:
            self._hidden[part] = self._hidden.get(part, 0.0) + amount

    def overlapped(self, *groups: Mapping[str, float], times: float = 1.0) -> None:
        """What happens at once, so many times: the longest counts, of equals the first."""
        longest = max(groups, key=lambda group: sum(group.values()))
        for group in groups:
            into = self.add if group is longest else self.hide
            for part, amount in group.items():
                into(part, times * amount)

    def sums(self, sums: Sums, times: float) -> None:
        """The sums of a tap, so many times."""
        longest = max(sums[:3])
        counted = False
        for part, cycles in zip(("arithmetic", "loads", "latency"), sums, strict=False):
            if cycles == longest and not counted:
                self.add(part, times * cycles)
                counted = True
            else:
                self.hide(part, times * cycles)
        self.add("loads", times * sums.beside)
        self.add("setup", times * sums.loop)

    def cost(self, unit: float) -> Cost:
        """With the seconds of a unit."""
        parts = {name: unit * amount for name, amount in self._parts.items()}
        return Cost(**parts, hidden=tuple((n, unit * amount) for n, amount in self._hidden.items()))


# CPUs
#
# Cycles of a core. A vector that is moved counts by its bytes, as multiples of 32.

# Loading one element to all lanes, two a cycle (guide).
BROADCAST = 0.5
# What the loads of a tap take beside its sums, as a share of what they take alone, and that where
# vectors have full width (fitted).
LOADS_BESIDE, FULL_WIDTH_LOADS_BESIDE = 0.1, 0.04
# Rows of x of a weight gradient's tile whose addresses stay in registers, and what reading one more
# takes: another load (fitted on full width; elsewhere tiles are smaller).
ADDRESSED_ROWS, RELOAD = 8, 0.5
# The latency of a chain of sums: four cycles (guide), and a little more, since others come between
# (fitted).
CHAIN_LATENCY = 4.4
# A tap where the number of taps hangs on the phase: the loop's own instructions (fitted).
PHASE_LOOP = 1.0
# Converting a weight of 16 bits: its part of a vector's load, conversion and store (estimate).
CONVERT_WEIGHT = 0.25

# Staging a row of a strip, 32 bytes of it, and 32 bytes whose elements do not lie side by side
# (fitted).
STAGE_ROW, STAGE_VECTOR, STAGE_GATHERED = 100.0, 12.0, 28.0
# Where vectors have full width, staging takes this part of it: in predictions of one request; work
# is divided by the price above (fitted to 51 layers on Zen 5).
FULL_WIDTH_STAGING = 0.5
# Setting up a tile; storing 32 bytes of sums; keeping them for the next channels (fitted).
TILE_SETUP, STORE_VECTOR, HOLD_VECTOR = 40.0, 8.0, 2.0
# The same where channels lie side by side, and neither do positions nor their neighbours: 32 bytes
# that are turned, and an element alone, staged and stored (fitted).
STAGE_TURNED, STAGE_ELEMENT, STORE_TURNED, STORE_ELEMENT = 12.0, 2.0, 12.0, 3.0
# Storing 32 bytes takes so much more where positions are a multiple of half a page apart, which
# share few lines of the first-level cache (fitted).
STORE_FEW_LINES, HALF_PAGE = 24.0, 2048
# Beginning to write a row: its pages, and lines that come in before they are overwritten (fitted).
WRITE_ROW = 150.0
# Bytes of weights that come from the second-level cache in a cycle (fitted; guide: at most 32).
WEIGHT_BYTES = 8.0
# A task's set-up, and how many tasks the cores wait for the last one, since they are not equally
# fast (fitted).
TASK_SETUP, LAST_TASK = 2000.0, 1.0
# Of rows that are read in place for many channels (pointwise): a line of the cache, in bytes
# (guide); and going on to the next channel's row. Where a place's piece of x is more than the
# first-level cache holds, a line that comes from the second, and going on to the next row (fitted).
# Where those of a vector lie in different rows: copying, or storing, an element, and storing a
# vector beside that (estimates).
LINE_BYTES, NEXT_ROW, FAR_LINE, FAR_ROW = 64, 0.5, 2.2, 1.5
FLAT_ELEMENT, FLAT_VECTOR = 3.0, 20.0
# Positions of a row that is neither short nor long: its last tile is half empty (estimate).
TYPICAL_ROW = 2048
# Positions for which a tile's weights are converted once (estimate).
CONVERTED_POSITIONS = 192
# Turning one element of the output's gradient, and writing one sum of a weight gradient (fitted).
TURN_ELEMENT, WRITE_SUM = 0.8, 3.0

# Of rows that are read in place (depthwise): bytes that come and go in a cycle; storing 32 bytes,
# with what a tile begins with; a sum at least, of 32 bytes (fitted; two a cycle in the guide).
IN_PLACE_BYTES, IN_PLACE_STORE, IN_PLACE_SUM = 4.0, 4.0, 0.57
# Of their weight gradient: a sum at least and copying 32 bytes of x or y, keeping the sums of a tap
# (fitted), and the latency of a chain of sums (guide).
ROWS_SUM, ROWS_STAGE, ROWS_KEEP, ROWS_LATENCY = 0.55, 5.0, 4.0, 4.0

# Of tiles by Fourier transforms, cycles of a vector of samples where two multiply-adds take one:
# reading and turning it; a pass; separating or joining; turning and storing it. Of a single element
# that is read or stored at a row's end, or where samples lie far from each other (all fitted to 145
# passes of layers on Zen 5).
FOURIER_STAGE, FOURIER_PASS, FOURIER_SEPARATE, FOURIER_STORE = 7.0, 4.2, 4.8, 9.6
FOURIER_ELEMENT, FOURIER_APART = 1.5, 16.0
# Transforms of weights take so many times as long: each tap is read by itself (fitted).
FOURIER_WEIGHTS = 1.3
# Of a weight gradient, which sums over tiles, all of it takes so many times as long (fitted).
FOURIER_GRADIENT = 1.3
# What the products of channels take, as times of their multiply-adds alone; with one vector of them
# each number is loaded for fewer (fitted). Transformed tiles come from the last-level cache so many
# times as fast as memory (estimate).
FOURIER_PRODUCTS, FOURIER_SINGLE_PRODUCTS, FOURIER_CACHE = 1.15, 1.35, 2.0
# Transforms of single rows take this part where half a second-level cache holds their tiles
# (fitted, to 20 filters on Zen 5).
FOURIER_CACHED = 0.7
# Where memory's bandwidth is not known: bytes a second of a core, and of all (estimates).
FOURIER_CORE_BANDWIDTH, FOURIER_BANDWIDTH = 20e9, 200e9

# Of tiles by Winograd's transforms, cycles of a vector of transformed samples, or of results, where
# two multiply-adds take one: reading, turning and transforming; transforming back, turning and
# storing; and a part of a vector at a row's end, either way. Of a single element where those of a
# tile lie apart; of a weight, transformed at all points; and of the loop over channels, with
# keeping its sums (fitted to 9 layers on Zen 4).
WINOGRAD_STAGE, WINOGRAD_STORE, WINOGRAD_END = 10.0, 12.0, 120.0
WINOGRAD_ELEMENT, WINOGRAD_WEIGHT, WINOGRAD_LOOP = 2.0, 12.0, 40.0
# Of its weight gradient: a vector of channels that is transformed, and one of results.
WINOGRAD_TURNED, WINOGRAD_RESULT = 3.0, 8.0
# All of it is priced so many times higher: among what takes about as long exact sums go first
# (estimate: predictions are as far off).
WINOGRAD_MARGIN = 1.15
# Transformed weights that take at most this part of the second-level cache come from there; else
# so many bytes of them come in a cycle of a core from the third, of which they take no more than
# that part either (fitted to four layers on Zen 3), or from memory (estimate: by it two layers that
# were measured on Zen 1 come out as they did, one faster than direct sums and one slower).
WINOGRAD_CACHED, WINOGRAD_NEAR_BYTES, WINOGRAD_FAR_BYTES = 0.5, 5.0, 2.3

# Of the portable variant: bytes that a core moves in a cycle, in its small pieces (fitted); vectors
# of sums below which their latency shows: four cycles of two (guide); and what a tile's weights
# take beside its sums (fitted).
PORTABLE_BYTES, PORTABLE_SUMS, PORTABLE_WEIGHT = 2.0, 8, 0.25


class Sums(NamedTuple):
    """Cycles of the sums of a tap, the first three at once; loads that they do not hide, and the
    loop."""

    arithmetic: float
    loads: float
    latency: float
    beside: float = 0.0
    loop: float = 0.0

    @property
    def cycles(self) -> float:
        """Of the tap."""
        return max(self.arithmetic, self.loads, self.latency) + self.beside + self.loop


@dataclass(frozen=True)
class Core:
    """What a CPU's work takes, for vectors of the device's width.

    `width` is a vector's bytes by 32; `multiply_add` and `load` are cycles of one, `beside` is what
    loads take beside the sums, as a share; broadcasts beyond `addressed` read their addresses
    first; `cycle` is seconds of a cycle of all cores together.
    """

    width: float
    multiply_add: float
    load: float
    beside: float
    addressed: float
    cycle: float
    full_width: bool = False

    def sums(
        self, sums: int, broadcasts: int, loads: float, *, folded: bool = False, loop: bool = False
    ) -> Sums:
        """A tap of a tile: vectors of sums, weights to all lanes, vectors loaded. Where the
        multiply-add takes its weights from memory they are `folded`; `loop` where the number of
        taps depends on the phase."""
        weights = BROADCAST * broadcasts
        loading = weights + self.load * loads
        beside = self.beside * (loading - weights if folded else loading)
        beside += RELOAD * max(0.0, broadcasts - self.addressed)
        arithmetic = self.multiply_add * sums
        return Sums(arithmetic, loading, CHAIN_LATENCY, beside, PHASE_LOOP if loop else 0.0)

    def rows(self, sums: int, broadcasts: int, vectors: int, far: bool) -> Sums:
        """A channel of a tile whose vectors are read in place, where rows begin anywhere in a line:
        a vector that lies across its end takes two loads. `far` rows come from the second-level
        cache."""
        lines = 32 * self.width * vectors / LINE_BYTES + 1
        loads = vectors * (1 + 32 * self.width / LINE_BYTES)
        one = self.sums(sums, broadcasts, loads)
        loading = max(one.loads, FAR_LINE * lines * far)
        next_row = FAR_ROW if far else NEXT_ROW
        return one._replace(loads=loading, beside=one.beside + next_row)

    def stage(self, gathered: bool) -> float:
        """Cycles of a vector of a strip that is staged."""
        return self.width * (STAGE_GATHERED if gathered else STAGE_VECTOR)

    @property
    def staged(self) -> float:
        """The part of that which it takes in a prediction of one request."""
        return FULL_WIDTH_STAGING if self.full_width else 1.0

    def stage_apart(self, lanes: int, *, turned: bool) -> float:
        """The same where positions are not contiguous: turned with their neighbours, or one by
        one."""
        return self.width * STAGE_TURNED if turned else lanes * STAGE_ELEMENT

    def store_apart(self, lanes: int, turned: float, row_bytes: int) -> float:
        """Cycles of a vector of sums that is stored to positions so many bytes apart; `turned` is
        the share of those that are turned with their neighbours."""
        few_lines = STORE_FEW_LINES * self.width if row_bytes % HALF_PAGE == 0 else 0.0
        return turned * self.width * STORE_TURNED + (1 - turned) * lanes * STORE_ELEMENT + few_lines

    def ends(self, sums: int, blocks: int, store: float) -> tuple[float, float]:
        """Cycles of a tile's set-up and of its stores, `store` of a vector, for all blocks of
        channels."""
        moved = store + (blocks - 1) * HOLD_VECTOR * self.width
        return TILE_SETUP * blocks, moved * sums

    def in_place(self, side: int, groups: int) -> Sums:
        """A tap of a weight gradient whose rows are read in place: taps side by side, and groups of
        them a vector apart."""
        sums = side * groups
        loads = self.width * (side + groups) / sums / 2
        return Sums(self.width * ROWS_SUM, loads, ROWS_LATENCY / sums)


@lru_cache(maxsize=256)
def core(device: DeviceProfile, *, turned: bool = False) -> Core:
    """The prices of a CPU; `turned` are those of weight gradients, whose panels are turned: there
    full width hides all loads but those of addresses."""
    size = 4 * device.vector_floats
    least = 1 / device.vectors_a_cycle
    beside, addressed = LOADS_BESIDE, math.inf
    if device.full_width:
        beside = 0.0 if turned else FULL_WIDTH_LOADS_BESIDE
        addressed = ADDRESSED_ROWS if turned else math.inf
    return Core(
        width=size / 32,
        multiply_add=max(size / device.multiply_add_bytes, least),
        load=max(size / device.load_bytes, least),
        beside=beside,
        addressed=addressed,
        cycle=1 / (device.compute_units * device.clock),
        full_width=device.full_width,
    )


def fourier_bandwidth(device: DeviceProfile) -> float:
    """Bytes a second that transforms read and write."""
    return device.bandwidth or min(device.compute_units * FOURIER_CORE_BANDWIDTH, FOURIER_BANDWIDTH)


# The portable variant
#
# In cycles of a CPU's core, which its GPU tiles count too: those have so many multiply-adds where
# nothing else is in their way.
PORTABLE_MULTIPLY_ADDS = 2
# On GPUs it is taken to do these at a quarter of the peak, with its loads at about a fifth, and a
# little less, so that it is no first choice by rounding (estimate).
PORTABLE_SHARE = 0.25 * 0.999


def portable_seconds(device: DeviceProfile) -> float:
    """Of a cycle of the portable variant on the whole device."""
    if device.vector_floats > 1:
        return core(device).cycle
    return 2 * PORTABLE_MULTIPLY_ADDS / (PORTABLE_SHARE * device.peak_flops)


def portable_width(device: DeviceProfile) -> float:
    """A vector's bytes by 32; 1 where work-items are the lanes."""
    return core(device).width if device.vector_floats > 1 else 1.0


def portable_tap(width: float, sums: int, weights: int, loads: float) -> Sums:
    """A tap of a tile: vectors of sums, weights to all lanes, loads. Inputs come from farther away
    than weights, so that what they take is not hidden."""
    return Sums(
        width * sums / PORTABLE_MULTIPLY_ADDS,
        (weights + loads) / 2,
        PORTABLE_SUMS / PORTABLE_MULTIPLY_ADDS,
        loads + PORTABLE_WEIGHT * weights,
    )


def portable_addition() -> Sums:
    """Adding a vector, one a cycle with its load."""
    return Sums(1.0, 0.0, 0.0)


# GPUs
#
# In multiply-adds of a work-item, whose seconds follow from the peak.

# Products of matrices: an element that a work-item fetches (index, bounds, address, copy), a read
# from local memory, the loop, a slab's barriers (counted, for 8 x 8 sums).
FETCH_ELEMENT, READ_LOCAL, SLAB_LOOP, SLAB_BARRIER = 14.0, 1.0, 4.0, 16.0
# Floats that a work-item reads at once at most: the template's.
READ_AT_ONCE = 4
# Floats that a compute unit reads from local memory for each multiply-add that it could do
# (estimate; AMD's and NVIDIA's guides: 128 bytes a cycle beside 64 or 128 multiply-adds).
LOCAL_RATE = 0.4
# Shares of the peak: without a second buffer nothing hides the way to memory but other work-groups;
# where a compute unit holds but one work-group; where local memory is no faster than the cache
# (estimates).
ONE_BUFFER, ONE_GROUP, LOCAL_AS_GLOBAL = 0.9, 0.6, 0.5
# Waves of a compute unit that hide most latencies (estimate).
HIDING_WAVES = 8
# A second-level cache delivers this many times the memory's bandwidth (estimate).
CACHE_RATE = 4.0

# Few columns: an element that a work-item reads, a row of sums that is added up (estimates), and
# seconds that a turn waits for what it reads (estimate, of the order that vendors give for memory).
READ_ELEMENT, FOLD_ROW, MEMORY_LATENCY = 4.0, 64.0, 0.5e-6

# Windows: a read from local memory, and a turn of the loop over taps (estimates).
WINDOW_READ, WINDOW_LOOP = 4.0, 4.0


class ProductTile(NamedTuple):
    """What a work-item of a product's tile does: sums, floats that it reads for a term, elements
    that it fetches for a slab of `depth` terms, buffers, and work-groups a compute unit holds."""

    sums: int
    floats: int
    fetched: int
    depth: int
    buffers: int
    items: int
    resident: int

    def busy(self, device: DeviceProfile) -> float:
        """The share of a compute unit's time in which its work-groups have something to do."""
        share = 1.0
        if self.buffers == 1:
            share *= ONE_BUFFER
        if self.resident < 2:
            share *= ONE_GROUP
        if not device.local_pays:
            share *= LOCAL_AS_GLOBAL
        waves = self.resident * self.items / device.lanes
        share *= min(1.0, self.items / device.lanes)
        return share * min(1.0, math.sqrt(waves / HIDING_WAVES))


def products(device: DeviceProfile, tile: ProductTile, sums: float, read: float) -> Cost:
    """Of `sums` multiply-adds, with those of tiles that stick out, in tiles that read so many bytes
    from the cache."""
    reads = tile.floats / min(READ_AT_ONCE, device.read_floats)
    a_term = Tally(
        loads=READ_LOCAL * reads,
        setup=SLAB_LOOP,
        staging=FETCH_ELEMENT * tile.fetched / tile.depth,
        latency=SLAB_BARRIER / tile.buffers / tile.depth,
    )
    a_term.overlapped({"arithmetic": float(tile.sums)}, {"loads": tile.floats / LOCAL_RATE})
    busy = a_term.cost(2 * sums / (tile.sums * device.peak_flops))
    waiting = busy.seconds / tile.busy(device) - busy.seconds
    work = busy.parts | {"latency": busy.latency + waiting}
    both = Tally()
    both.overlapped(work, {"memory": read / (CACHE_RATE * device.peak_bandwidth)})
    for name, amount in busy.hidden:
        both.hide(name, amount)
    return both.cost(1.0)


class Blocks(NamedTuple):
    """What the kernel for few columns does: turns of a work-item over the terms, `each` channels
    and `seen` columns of a turn, turns fetched at once; blocks of columns, work-groups of `items`
    work-items, how many of them a compute unit holds."""

    turns: int
    each: int
    seen: int
    at_once: int
    blocks: int
    groups: int
    items: int
    resident: int


def few_columns(device: DeviceProfile, work: Blocks, weight_bytes: int) -> Cost:
    """Arithmetic, waiting for memory, or its bandwidth, whichever takes longest."""
    units = device.compute_units
    a_unit = -(-work.groups // units)
    an_amount = 2 * a_unit * units * work.items / device.peak_flops
    rounds = -(-a_unit // work.resident)
    turns = -(-work.turns // work.at_once)
    tally = Tally()
    tally.overlapped(
        {
            "arithmetic": an_amount * work.turns * work.each * work.seen,
            "loads": an_amount * work.turns * READ_ELEMENT * (work.each + work.seen),
            "setup": an_amount * work.each * FOLD_ROW,
        },
        {"latency": rounds * turns * MEMORY_LATENCY},
        {"memory": weight_bytes * max(1.0, work.blocks / CACHE_RATE) / device.peak_bandwidth},
    )
    return tally.cost(1.0)


def windows(
    device: DeviceProfile, turns: float, *, sums: int, reads: int, loop: float = 1.0
) -> Cost:
    """Of so many turns of a loop over taps, each of `sums` multiply-adds and `reads` from local
    memory; `loop` is the share of a turn of the loop that it takes."""
    a_turn = Tally(setup=WINDOW_LOOP * loop)
    a_turn.overlapped({"arithmetic": float(sums)}, {"loads": WINDOW_READ * reads})
    return a_turn.cost(2 * turns / device.peak_flops)


def straight(device: DeviceProfile, steps: float, nbytes: float) -> Cost:
    """Of so many steps of straight-line code, between bytes that are read and written once."""
    tally = Tally()
    tally.overlapped(
        {"arithmetic": 2 * steps / device.peak_flops}, {"memory": nbytes / device.peak_bandwidth}
    )
    return tally.cost(1.0)


def together(costs: Iterable[Cost]) -> Cost:
    """What takes place one after the other."""
    tally = Tally()
    for one in costs:
        for name, seconds in one.parts.items():
            tally.add(name, seconds)
        for name, seconds in one.hidden:
            tally.hide(name, seconds)
    return tally.cost(1.0)


# Calls

# Copying an element whose neighbours in memory are others than in the copy: cycles of a core, of up
# to 4 bytes (fitted), and how often a GPU moves its bytes, of lines that are not used whole
# (estimate).
COPY_ELEMENT, COPY_MOVES = 3.0, 8.0


def copied(device: DeviceProfile, elements: float, itemsize: int) -> float:
    """Seconds in which so many elements are copied to where they lie otherwise."""
    if device.vector_floats > 1:
        return core(device).cycle * COPY_ELEMENT * elements * max(1.0, itemsize / 4)
    return COPY_MOVES * elements * itemsize / device.peak_bandwidth


# Multiply-adds of all cores in the time of a call and its launches (estimate: 0.1 ms on two cores).
# A resampling takes larger blocks of phases where that saves calls.
CALL_PRODUCTS = 1e7
