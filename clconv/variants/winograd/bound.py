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

The input gradient with a stride is such a correlation for each phase of its results, by the taps of
the phase: those that it has fewer than another are zeros, of which no term is rounded.

A weight gradient is w = sum_p G[p,k] sum_t (sum_i A[p,i] y_t[i]) (sum_j B[p,j] x_t[j]) over tiles
t, y_t the gradients of a tile's results: the same with tiles in place of channels.

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
from clconv.variants.winograd.transforms import Matrix, transposed

__all__ = ["bound"]

Array = NDArray[Any]

# Times the smallest normal number that a transformed value may be off by.
FLUSHED = 512


def bound(
    problem: Conv1dProblem, pass_: Pass, tile: Mapping[str, int], arrays: Mapping[str, Any]
) -> Array:
    """For each value of a pass that `tile` computes of these arrays, by its `outputs`, or by the
    samples that are its `size`."""
    outputs = tile["outputs"] if "outputs" in tile else tile["size"] - problem.kernel_size + 1
    if pass_ is Pass.WEIGHT_GRADIENT:
        return _gradient(Tiles(problem, Pass.FORWARD, outputs), arrays["x"], arrays["grad_output"])
    tiles = Tiles(problem, pass_, outputs)
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
    return _placed(tiles, _made_again(found, direct, _product(sums, form.inverse), dtype))


def _gradient(tiles: Tiles, x_array: Array, y_array: Array) -> Array:
    """That of the weight gradient."""
    problem, form = tiles.problem, tiles.transform
    dtype = accumulator(problem.dtype)
    x = _tiles_of(tiles, x_array)
    y = _tiles_of(tiles, y_array, of_results=True)
    data, factors = _product(x, form.data), _product(y, transposed(form.inverse))
    weight = transposed(form.weight)
    terms = problem.batch * tiles.lines * tiles.row_tiles
    sums = np.einsum("ngcjtp,ngmjtp->gmcp", data, factors)
    beside = data.sum(axis=(0, 3, 4))[:, None] + factors.sum(axis=(0, 3, 4))[:, :, None] + 4
    small = FLUSHED * float(np.finfo(dtype).tiny) * (beside + terms)
    count = form.gradient_roundings + terms + 1
    found = _product(testing.gamma(count, dtype) * sums + small, weight)
    x, y = (np.where(np.isfinite(values), values, 0) for values in (x, y))
    seen = form.step - problem.stride + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, seen, axis=-1)[..., :: problem.stride]
    defined = np.einsum("ngcjtki,ngmjti->gmck", windows, y)
    direct = testing.gamma(problem.terms(Pass.WEIGHT_GRADIENT), dtype) * defined
    made = _made_again(found, direct, _product(sums, weight), dtype)
    return made.reshape(problem.weight_shape)


def _made_again(found: Array, direct: Array, reached: Array, dtype: Any) -> Array:
    """The bound; that of direct sums, if it is the larger, where magnitudes `reached` such sums
    that they may be no finite numbers."""
    # Not below the largest number: also where it is NaN.
    finite = 16 * reached < float(np.finfo(dtype).max)
    larger = np.where(np.isfinite(found), np.maximum(found, direct), direct)
    return np.where(finite, found, larger)


def _product(values: Array, matrix: Matrix) -> Array:
    """The matrix's magnitudes times those of the last axis; what meets a zero of the matrix does
    not count, infinities neither."""
    rows = []
    for row in matrix:
        at = [j for j, entry in enumerate(row) if entry]
        rows.append(values[..., at] @ np.array([abs(float(row[j])) for j in at]))
    return np.stack(rows, axis=-1)


def _tiles_of(tiles: Tiles, array: Array, of_results: bool = False) -> Array:
    """Magnitudes of the samples of each tile: (batch, group, channel, line, tile, sample), of the
    array that is read, or of the results' gradient."""
    x = np.abs(array.astype(np.float64))
    form = tiles.transform
    size, step, lead = form.samples, form.step, tiles.lead
    if of_results:
        size, step, lead = tiles.outputs, tiles.outputs, 0
    places = np.arange(tiles.row_tiles)[:, None] * step + np.arange(size)
    at = places * tiles.lines + np.arange(tiles.lines)[:, None, None] - lead
    inside = (at >= 0) & (at < x.shape[2])
    taken = np.where(inside, x[:, :, np.where(inside, at, 0)], 0)
    groups = tiles.problem.groups
    return taken.reshape(x.shape[0], groups, x.shape[1] // groups, *taken.shape[2:])


def _weights(tiles: Tiles, array: Array) -> Array:
    """Magnitudes of the taps that meet a tile's samples: (group, column, channel, tap)."""
    problem = tiles.problem
    shape = (problem.groups, problem.group_out, problem.group_in, problem.kernel_size)
    weight = np.abs(array.astype(np.float64)).reshape(shape)
    if tiles.forward:
        return weight
    taps, phases = tiles.transform.taps, tiles.phases
    weight = np.pad(weight, (*((0, 0),) * 3, (0, taps * phases - problem.kernel_size)))
    # From (group, channel, written, tap, phase).
    weight = weight.reshape(*weight.shape[:3], taps, phases)[..., ::-1, :]
    return np.moveaxis(weight, (2, 4), (1, 2)).reshape(problem.groups, -1, tiles.channels, taps)


def _defined(tiles: Tiles, x: Array, weight: Array) -> Array:
    """The definition's sums of magnitudes for a tile's results. Those that are finite have no
    product of what is not."""
    x, weight = (np.where(np.isfinite(values), values, 0) for values in (x, weight))
    form = tiles.transform
    windows = np.lib.stride_tricks.sliding_window_view(x, form.taps, axis=-1)
    windows = windows[..., :: form.stride, :]
    found: Array = np.einsum("ngcjtik,gmck->ngmjti", windows, weight)
    return found


def _placed(tiles: Tiles, of_tiles: Array) -> Array:
    """For each result what is given for (batch, group, column, line, tile, output)."""
    batch, groups, columns, lines, count, outputs = of_tiles.shape
    channels, apart = groups * columns // tiles.phases, tiles.phases * lines
    # There are no phases where there are lines. Sizes are written out for an empty batch.
    split = of_tiles.reshape(batch, channels, apart, count * outputs)
    rows: Array = split.swapaxes(2, 3).reshape(batch, channels, count * outputs * apart)
    return rows[..., tiles.write_lead : tiles.write_lead + tiles.positions]
