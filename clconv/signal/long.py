"""Filters of tens of thousands of taps: which launches convolve rows with them?

The taps are cut into parts as long as half a tile, and so are the samples: a part of the taps meets
every tile by one product of their Fourier transforms, and these products are summed before the way
back. So each tile is transformed once, whatever the number of taps, and no transform is larger than
the second-level cache (a "partitioned convolution").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyopencl.array as cl_array

from clconv.calls.elementwise import contiguous, flat
from clconv.planning.profiles import DeviceProfile
from clconv.runtime import Runtime
from clconv.variants.base import (
    Constants,
    Kernel,
    Launch,
    Layout,
    Operand,
    ceil_div,
    grid,
    kernel_constants,
    padded,
    scalars,
    vector_lanes,
)
from clconv.variants.spectral.transforms import Transform, butterfly, radices

__all__ = ["convolve_rows", "serves"]

# Fewer taps are left to the planner's variants.
LEAST_TAPS = 10_000
# Fewer products than that many of direct sums are not worth the launches.
LEAST_PRODUCTS = 10**8
# Samples of a tile: arrays of 16 such tiles are in the second-level cache.
SIZE = 4096
# Vectors of tiles whose sums are in registers at once.
PRODUCT_BLOCKS = 4
# The transforms of a turn take about so many bytes, but some times those of the taps.
TURN_BYTES, TURN_PARTS = 16 << 20, 4
GROUPS_A_CORE = 4

_SPECTRUM = Operand("spectrum", Layout.FLAT, element="SUM")
_PRODUCT = Operand("product", Layout.FLAT, element="SUM")
_SCRATCH = Operand("scratch", Layout.FLAT, True, "SUM")


def serves(profile: DeviceProfile, dtype: np.dtype[Any], taps: int, outputs: int) -> bool:
    """Whether a device has vectors, and so many taps and outputs are enough."""
    return (
        profile.kind == "cpu"
        and vector_lanes(profile, dtype) > 1
        and taps > LEAST_TAPS
        and taps * outputs >= LEAST_PRODUCTS
    )


@dataclass(frozen=True)
class _Kernels:
    """The three kernels for a device and dtype."""

    profile: DeviceProfile
    dtype: np.dtype[Any]

    @property
    def lanes(self) -> int:
        """Elements of a vector."""
        return vector_lanes(self.profile, self.dtype)

    @property
    def points(self) -> int:
        """Complex points of a tile."""
        return SIZE // 2

    @property
    def groups(self) -> int:
        """Work-groups at most, each of which has arrays of its own."""
        return GROUPS_A_CORE * self.profile.compute_units

    @cached_property
    def _own(self) -> Constants:
        return kernel_constants(self.profile, self.dtype, self.lanes)

    @cached_property
    def _transforming(self) -> Constants:
        transform = Transform(SIZE, radices(self.points, self.profile.vector_registers))
        return (*self._own, ("transform", transform), ("butterfly", butterfly))

    @cached_property
    def transform(self) -> Kernel:
        """Tiles to points."""
        return Kernel(
            "long_transform",
            self._transforming,
            (Operand("x", Layout.FLAT), _SCRATCH, Operand("spectrum", Layout.FLAT, True, "SUM")),
            scalars("length taken", "x_batch step lead pitch row_pitch blocks tasks", "scale"),
            (1, 1, 1),
        )

    @cached_property
    def products(self) -> Kernel:
        """Points of tiles and taps to points of results."""
        return Kernel(
            "long_products",
            (*self._own, ("blocks", PRODUCT_BLOCKS)),
            (
                _SPECTRUM,
                Operand("taps", Layout.FLAT, element="SUM"),
                Operand("product", Layout.FLAT, True, "SUM"),
            ),
            scalars("parts", "points tiles x_pitch x_row_pitch w_pitch y_pitch y_row_pitch tasks"),
            (1, 1, 1),
        )

    @cached_property
    def inverse(self) -> Kernel:
        """Points to results."""
        return Kernel(
            "long_inverse",
            (*self._transforming, ("backward", False)),
            (
                _PRODUCT,
                _SCRATCH,
                Operand("x", Layout.FLAT),
                Operand("weight", Layout.FLAT),
                Operand("y", Layout.FLAT, True),
            ),
            scalars(
                "length kernel_size pad",
                "x_batch y_batch step first_position positions pitch row_pitch blocks tasks",
            ),
            (1, 1, 1),
        )


def convolve_rows(
    runtime: Runtime, x: cl_array.Array, weight: cl_array.Array, pad: int, y: cl_array.Array
) -> None:
    """Queues y[n, p] = sum_k weight[k] x[n, p + k - pad] of x (N, L), which is 0 beyond its ends,
    weight (K,) and y (N, P), whose positions follow each other."""
    if x.strides[1] != x.dtype.itemsize:
        x = contiguous(runtime, x)
    call = _Call(runtime, x, contiguous(runtime, weight), pad, y)
    call.transform_taps()
    most = TURN_BYTES // (2 * SIZE * x.dtype.itemsize * x.shape[0])
    turn = max(most, TURN_PARTS * call.parts)
    for first in range(0, call.tiles, turn):
        call.queue_tiles(first, min(turn, call.tiles - first))


class _Call:
    """The launches of one call."""

    def __init__(
        self,
        runtime: Runtime,
        x: cl_array.Array,
        weight: cl_array.Array,
        pad: int,
        y: cl_array.Array,
    ) -> None:
        self.runtime, self.x, self.weight, self.pad, self.y = runtime, x, weight, pad, y
        self.kernels = _Kernels(runtime.profile, x.dtype)
        self.step = SIZE // 2
        self.taps = weight.shape[0]
        self.parts = ceil_div(self.taps, self.step)
        self.tiles = ceil_div(y.shape[1], self.step)
        lanes = self.kernels.lanes
        self.scratch = runtime.empty(self.kernels.groups * 2 * SIZE * lanes, x.dtype)
        self.taps_pitch = self._pitch(ceil_div(self.parts, lanes) * lanes)
        self.spectrum_of_taps = self._points(1, self.taps_pitch)

    def _pitch(self, tiles: int) -> int:
        return padded(tiles, self.x.dtype.itemsize)

    def _points(self, rows: int, pitch: int) -> cl_array.Array:
        return self.runtime.empty(rows * SIZE * pitch, self.x.dtype)

    def _queue(self, launch: Launch, written: cl_array.Array, **arrays: cl_array.Array) -> None:
        reads = tuple(arrays.values())
        bound = {name: flat(array) for name, array in arrays.items()}
        numbers = {"scale": self.scale}
        self.runtime.run_one(launch, bound, numbers, reads, (written,))

    def transform_taps(self) -> None:
        """The parts of the taps are tiles whose second half is zeros."""
        self.scale = 0.25 / SIZE  # what the ways there and back multiply by
        blocks = ceil_div(self.parts, self.kernels.lanes)
        launch = self.kernels.transform.launch(
            (min(grid(blocks), self.kernels.groups), 1, 1),
            length=self.taps, taken=self.step, x_batch=0, step=self.step, lead=0,
            pitch=self.taps_pitch, row_pitch=0, blocks=blocks, tasks=blocks,
        )  # fmt: skip
        made = self.spectrum_of_taps
        self._queue(launch, made, x=self.weight, scratch=self.scratch, spectrum=made)

    def queue_tiles(self, first: int, tiles: int) -> None:
        """The results of some tiles."""
        self.scale = 1.0
        x, y, kernels, rows = self.x, self.y, self.kernels, self.x.shape[0]
        vectors = PRODUCT_BLOCKS * kernels.lanes
        read = tiles + self.parts - 1
        # Vectors of products read and write behind the last tile.
        whole = ceil_div(tiles, vectors) * vectors
        blocks = ceil_div(read, kernels.lanes)
        x_pitch = self._pitch(max(whole + self.parts - 1, blocks * kernels.lanes))
        y_pitch = self._pitch(whole)
        spectrum, product = self._points(rows, x_pitch), self._points(rows, y_pitch)
        tasks = rows * blocks
        launch = kernels.transform.launch(
            (min(grid(tasks), kernels.groups), 1, 1),
            length=x.shape[1], taken=SIZE, x_batch=x.strides[0] // x.dtype.itemsize,
            step=self.step, lead=self.pad - first * self.step, pitch=x_pitch,
            row_pitch=SIZE * x_pitch, blocks=blocks, tasks=tasks,
        )  # fmt: skip
        self._queue(launch, spectrum, x=x, scratch=self.scratch, spectrum=spectrum)
        tasks = rows * kernels.points
        launch = kernels.products.launch(
            (grid(tasks), 1, 1),
            parts=self.parts, points=kernels.points, tiles=tiles, x_pitch=x_pitch,
            x_row_pitch=SIZE * x_pitch, w_pitch=self.taps_pitch, y_pitch=y_pitch,
            y_row_pitch=SIZE * y_pitch, tasks=tasks,
        )  # fmt: skip
        self._queue(launch, product, spectrum=spectrum, taps=self.spectrum_of_taps, product=product)
        blocks = ceil_div(tiles, kernels.lanes)
        tasks = rows * blocks
        launch = kernels.inverse.launch(
            (min(grid(tasks), kernels.groups), 1, 1),
            length=x.shape[1], kernel_size=self.taps, pad=self.pad,
            x_batch=x.strides[0] // x.dtype.itemsize, y_batch=y.strides[0] // y.dtype.itemsize,
            step=self.step, first_position=first * self.step,
            positions=min((first + tiles) * self.step, y.shape[1]), pitch=y_pitch,
            row_pitch=SIZE * y_pitch, blocks=blocks, tasks=tasks,
        )  # fmt: skip
        self._queue(launch, y, product=product, scratch=self.scratch, x=x, weight=self.weight, y=y)
