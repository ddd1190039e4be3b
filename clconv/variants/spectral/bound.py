"""How far may sums by Fourier transforms be from the true ones?

Let x_c be a tile's N samples of channel c, w_c the taps that meet them, u the unit roundoff. A
computed transform of t stages of radix 2 is off by at most e |X| in the Euclidean norm, |X| that
of the exact transform, with e = t h / (1 - t h) and h = m + g4 (sqrt(2) + m), where m is the error
of the factors and g4 = 4 u / (1 - 4 u) (Higham, "Accuracy and Stability of Numerical Algorithms",
theorem 24.2). Factors are rounded from float64, so that m <= 2 u and h <= 9 u. A butterfly of
radix 4 or 8 is two or three stages with fewer roundings. One of radix 3 has a matrix of norm
sqrt(3) and sums of at most 4 roundings, so that it is off by 4 sqrt(3) u at most, less than a
stage; it is counted as two. Separating the transforms of even and odd samples, and joining them, is
a stage with one more addition, counted as two. Scaling the weights is one rounding, u <= h.

Let X_c, W_c be transforms, so that |X_c| = sqrt(N) |x_c|, and y = F^-1 sum_c X_c W_c.
1. Errors e |X_c| and e |W_c| of the transforms, and a relative error of at most g = gamma of
   2 C + 2 in each product and its sum over C channels (real parts are sums of 2 C products), change
   the spectrum at point p by at most
     sum_c |dX_c| |W_c| + |X_c| |dW_c| + sqrt(2) g |X_c| |W_c|, each at p, and terms of order e^2.
   A result is 1 / N times the sum of all points times numbers of magnitude 1; by Cauchy and Schwarz
   it changes by at most sum_c (2 e + e^2 + sqrt(2) g (1 + e)^2) |x_c| |w_c|.
   Of three real products in place of a complex one each has factors whose errors are g, gamma of
   C + 2 with the addition that joins them: both parts of a result together are off by at most
   4 g sum_c |X_c| |W_c| instead.
2. The inverse transform is off by at most e times the norm of its result, in any one result too.
   That norm is at most sum_c max_p |W_c(p)| |x_c| <= sum_c |w_c|_1 |x_c|, the sum of magnitudes of
   w_c, times 1 + what step 1 has added.
So the bound is sum_c |x_c| (a |w_c| + b |w_c|_1), with a and b a little enlarged for the products
of small numbers. It is the same for all results of a tile: where a tile has samples of very
different magnitudes, it is poor for the small results. Numbers below the smallest normal one may be
flushed to zero in each of fewer than 64 N operations that a point hangs on, and reach a result
N-fold.

A weight gradient is off by the same for each pair of channels, where the gradients of a tile's
results are in place of w_c, and the sums go over tiles in place of channels: all tiles are summed
before the one inverse transform, and the bounds of all tiles add up.

Sums that are not finite are made again by the definition. For what overflows in the transforms
alone the bound is that of such sums, gamma of their terms times sum_c |x_c| |w_c|, where it is
larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import testing
from clconv.planning.profiles import profile
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import Request, accumulator
from clconv.variants.spectral.tiles import Tiles

__all__ = ["bound", "transform_error"]

Array = NDArray[Any]


def transform_error(size: int, dtype: Any) -> float:
    """e, the relative error of a transform of that many real samples, in the Euclidean norm."""
    points, stages = size // 2, 2
    while points % 3 == 0:
        points //= 3
        stages += 2
    stages += points.bit_length() - 1 + 1  # and the scale of the weights
    found = stages * 9 * testing.unit_roundoff(dtype)
    return found / (1 - found)


def bound(
    problem: Conv1dProblem, pass_: Pass, tile: Mapping[str, int], arrays: Mapping[str, Any]
) -> Array:
    """For each value of a pass that `tile` computes of these arrays."""
    tiles = Tiles(Request(problem, pass_, profile("cpu")), tile["size"])
    of_products = _of_three_products if "planes" in tile else _of_products
    x = _tiles_of(tiles, arrays["x" if tiles.forward else "grad_output"])
    norms, sums = _norms(x), x.sum(axis=-1)
    if tiles.gradient:
        return _gradient(tiles, norms, sums, arrays["grad_output"], of_products)
    weight_norms, weight_sums = _weight_norms(tiles, arrays["weight"])
    plain = np.einsum("ngcjt,gcm->ngmjt", norms, weight_norms)
    peak = np.einsum("ngcjt,gcm->ngmjt", norms, weight_sums)
    small = sums.sum(axis=2)[:, :, None] + weight_sums.sum(axis=1)[None, :, :, None, None]
    gained = of_products(tiles.terms, accumulator(problem.dtype))
    return _placed(tiles, _bounded(tiles, gained, plain, peak, small))


def _of_products(count: int, dtype: Any) -> float:
    """Of sums of so many complex products, relative to their magnitudes."""
    return math.sqrt(2) * testing.gamma(2 * count + 2, dtype)


def _of_three_products(count: int, dtype: Any) -> float:
    """The same, of three real products each."""
    return 4 * testing.gamma(count + 2, dtype)


def _bounded(tiles: Tiles, products: float, plain: Array, peak: Array, small: Array) -> Array:
    """The bound, with that of the sums of products at each point, by sum |x| |w| (`plain`),
    sum |x| |w|_1 (`peak`) and what the smallest numbers are multiplied by."""
    dtype = accumulator(tiles.problem.dtype)
    info = np.finfo(dtype)
    e = transform_error(tiles.size, dtype)
    of_norm = 2 * e + e * e
    of_norm += products * (1 + e) ** 2
    found = 1.01 * (of_norm * plain + e * (1 + of_norm) * peak)
    direct = testing.gamma(tiles.problem.terms(tiles.request.pass_), dtype) * plain
    overflows = 16 * tiles.size * (peak + 1) > float(info.max)
    found = np.where(overflows, np.maximum(found, direct), found)
    return found + 64.0 * tiles.size**2 * float(info.tiny) * (small + 1)


def _gradient(
    tiles: Tiles,
    norms: Array,
    sums: Array,
    grad_output: Array,
    of_products: Callable[[int, Any], float],
) -> Array:
    """That of the weight gradient, with norms of the tiles of x."""
    problem = tiles.problem
    y = _tiles_of(tiles, grad_output, of_results=True)
    y_sums = y.sum(axis=-1)
    plain = np.einsum("ngcjt,ngmjt->gmc", norms, _norms(y))
    peak = np.einsum("ngcjt,ngmjt->gmc", norms, y_sums)
    small = sums.sum(axis=(0, 3, 4))[:, None] + y_sums.sum(axis=(0, 3, 4))[:, :, None]
    count = problem.batch * tiles.lines * tiles.row_tiles
    gained = of_products(count, accumulator(problem.dtype))
    found = _bounded(tiles, gained, plain, peak, small)
    # Channels of x are those of all phases of the taps.
    phases = np.arange(problem.kernel_size) % problem.stride
    shape = (problem.out_channels, problem.stride, problem.group_in)
    return np.moveaxis(found.reshape(shape)[:, phases], 1, 2)


def _tiles_of(tiles: Tiles, array: Array, of_results: bool = False) -> Array:
    """Magnitudes of the samples of each tile: (batch, group, channel of all phases, line, tile,
    sample), of the array that is read, or of the results' gradient."""
    x = np.abs(array.astype(np.float64))
    batch, groups = x.shape[0], tiles.problem.groups
    step, lead, size, phases = tiles.read_step, tiles.read_lead, tiles.size, tiles.read_phases
    if of_results:
        step, lead, size, phases = tiles.write_step, 0, tiles.outputs, 1
    places = np.arange(tiles.row_tiles)[:, None] * tiles.outputs + np.arange(size)
    at = places * step + np.arange(step)[:, None, None] - lead
    inside = (at >= 0) & (at < x.shape[2])
    taken = np.where(inside, x[:, :, np.where(inside, at, 0)], 0)
    # (batch, group, channel, line or phase, tile, sample)
    channels = x.shape[1] // groups
    taken = taken.reshape(batch, groups, channels, *taken.shape[2:])
    if phases > 1:
        taken = np.moveaxis(taken, 3, 2)
        taken = taken.reshape(batch, groups, channels * phases, 1, *taken.shape[4:])
    return taken


def _norms(x: Array) -> Array:
    """Euclidean ones of the last axis, without underflow or overflow."""
    largest = np.maximum(x.max(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(np.sqrt(((x / largest) ** 2).sum(axis=-1)) * largest[..., 0])


def _weight_norms(tiles: Tiles, weight: Array) -> tuple[Array, Array]:
    """|w_c| and |w_c|_1: (group, channel read of a phase, channel written of a phase)."""
    problem = tiles.problem
    taps = np.abs(weight.astype(np.float64))
    missing = tiles.taps * problem.stride - problem.kernel_size
    taps = np.pad(taps, ((0, 0), (0, 0), (0, missing)))
    shape = (problem.groups, problem.group_out, problem.group_in, tiles.taps, problem.stride)
    both = taps.reshape(shape)
    both = np.stack([np.sqrt((both**2).sum(axis=3)), both.sum(axis=3)])
    # (what, group, out, in, phase)
    order = (0, 1, 4, 3, 2) if tiles.forward else (0, 1, 2, 4, 3)
    both = both.transpose(order)
    both = both.reshape(2, problem.groups, tiles.terms, tiles.write_phases * tiles.written)
    return both[0], both[1]


def _placed(tiles: Tiles, of_tiles: Array) -> Array:
    """A number for each result, of one for each (batch, group, channel, line, tile)."""
    problem = tiles.problem
    length = problem.out_length if tiles.forward else problem.length
    at = np.arange(length) + tiles.write_lead
    tile = at // tiles.write_step // tiles.outputs
    batch, groups = of_tiles.shape[:2]
    phase = at % tiles.write_step
    if tiles.write_phases > 1:
        shaped = of_tiles.reshape(batch, groups, tiles.write_phases, tiles.written, tiles.row_tiles)
        found = shaped[:, :, phase, :, tile]
        found = np.moveaxis(found, 0, -1)
    else:
        found = of_tiles[:, :, :, phase, tile]
    return found.reshape(batch, groups * tiles.written, length)
