"""How far may sums by Winograd's transforms be from the true ones?

A result of a tile is y = sum_p A[p] sum_c (sum_k G[p,k] w_c[k]) (sum_j B[p,j] x_c[j]), with the
exact matrices: a sum of terms A[p] G[p,k] w_c[k] B[p,j] x_c[j], of which all but those that the
definition has cancel. The computed result is a sum of the same terms, each times numbers 1 + d,
|d| <= u, one for each rounding on its way: at most r in the three transforms
(`Transform.roundings`; each entry of a matrix reaches its row in one way), and C + 1 in the sum of
products over C channels. So, with gamma of n = r + C + 1 roundings (Higham, "Accuracy and Stability
of Numerical Algorithms", lemma 3.1), it is off by at most
    gamma(n) * sum_p |A[p]| sum_c (sum_k |G[p,k]| |w_c[k]|) (sum_j |B[p,j]| |x_c[j]|)
for each result by itself. Where all terms are numbers of few bits nothing is rounded: F(2, r)'s
matrices have 1/2 as their least fraction, so that small whole numbers come out exact.

Numbers below the smallest normal one may be flushed to zero. Each transformed value hangs on fewer
than 32 operations, whose results are multiplied by less than 16 behind them, so that it is off by
less than 512 times that number; each of C products, and each operation of the inverse, whose
results are multiplied by at most 8, adds as much again.

Sums that are not finite are made again by the definition, with the bound of such sums: gamma of
their terms times sum |w| |x|. It holds where the sums above could overflow, or an input is not
finite, if it is the larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clconv import testing
from clconv.problem import Conv1dProblem, Pass
from clconv.variants.base import accumulator
from clconv.variants.winograd.tiles import Tiles
from clconv.variants.winograd.transforms import Matrix

__all__ = ["bound"]

Array = NDArray[Any]

# Times the smallest normal number that a transformed value may be off by.
FLUSHED = 512


def bound(
    problem: Conv1dProblem, pass_: Pass, tile: Mapping[str, int], arrays: Mapping[str, Any]
) -> Array:
    """For each value of a pass that `tile` computes of these arrays, by its `outputs`."""
    tiles = Tiles(problem, pass_, tile["outputs"])
    dtype = accumulator(problem.dtype)
    tiny = float(np.finfo(dtype).tiny)
    x = _tiles_of(tiles, arrays["x" if tiles.forward else "grad_output"])
    weight = _weights(tiles, arrays["weight"])
    form = tiles.transform
    data, factors = _product(x, form.data), _product(weight, form.weight)
    count = form.roundings + tiles.channels + 1
    sums = np.einsum("ngcjtp,gmcp->ngmjtp", data, factors)
    # Of both factors of a product, its own, and what the inverse adds.
    beside = (data.sum(axis=2)[:, :, None] + factors.sum(axis=2)[None, :, :, None, None]) + 4
    small = FLUSHED * tiny * (beside + tiles.channels)
    found = _product(testing.gamma(count, dtype) * sums + small, form.inverse)
    direct = testing.gamma(problem.terms(pass_), dtype) * _defined(tiles, x, weight)
    # Not below the largest number: also where it is NaN.
    finite = 16 * _product(sums, form.inverse) < float(np.finfo(dtype).max)
    larger = np.where(np.isfinite(found), np.maximum(found, direct), direct)
    return _placed(tiles, np.where(finite, found, larger))


def _product(values: Array, matrix: Matrix) -> Array:
    """The matrix's magnitudes times those of the last axis; what meets a zero of the matrix does
    not count, infinities neither."""
    rows = []
    for row in matrix:
        at = [j for j, entry in enumerate(row) if entry]
        rows.append(values[..., at] @ np.array([abs(float(row[j])) for j in at]))
    return np.stack(rows, axis=-1)


def _tiles_of(tiles: Tiles, array: Array) -> Array:
    """Magnitudes of the samples of each tile: (batch, group, channel, line, tile, sample)."""
    x = np.abs(array.astype(np.float64))
    form = tiles.transform
    places = np.arange(tiles.row_tiles)[:, None] * form.step + np.arange(form.samples)
    at = places * tiles.lines + np.arange(tiles.lines)[:, None, None] - tiles.lead
    inside = (at >= 0) & (at < x.shape[2])
    taken = np.where(inside, x[:, :, np.where(inside, at, 0)], 0)
    groups = tiles.problem.groups
    return taken.reshape(x.shape[0], groups, x.shape[1] // groups, *taken.shape[2:])


def _weights(tiles: Tiles, array: Array) -> Array:
    """Magnitudes of the taps that meet a tile's samples: (group, written, channel, tap)."""
    problem = tiles.problem
    shape = (problem.groups, problem.group_out, problem.group_in, problem.kernel_size)
    weight = np.abs(array.astype(np.float64)).reshape(shape)
    return weight if tiles.forward else weight.swapaxes(1, 2)[..., ::-1]


def _defined(tiles: Tiles, x: Array, weight: Array) -> Array:
    """The definition's sums of magnitudes for a tile's results. Those that are finite have no
    product of what is not."""
    x, weight = (np.where(np.isfinite(values), values, 0) for values in (x, weight))
    windows = np.lib.stride_tricks.sliding_window_view(x, tiles.problem.kernel_size, axis=-1)
    windows = windows[..., :: tiles.problem.stride, :]
    found: Array = np.einsum("ngcjtik,gmck->ngmjti", windows, weight)
    return found


def _placed(tiles: Tiles, of_tiles: Array) -> Array:
    """For each result what is given for (batch, group, written, line, tile, output)."""
    batch, groups, written, lines = of_tiles.shape[:4]
    length = tiles.row_tiles * tiles.outputs * lines
    rows = np.moveaxis(of_tiles, 3, -1).reshape(batch, groups * written, length)
    return rows[..., : tiles.positions]
