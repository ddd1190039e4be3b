"""Convolution by Winograd's transforms: the matrices, the sums that templates write, the bound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from clconv import Conv1dProblem, Pass, testing
from clconv.variants.winograd.bound import bound
from clconv.variants.winograd.tiles import Tiles
from clconv.variants.winograd.transforms import OUTPUTS, Step, roundings, steps, transform

FORMS = sorted((outputs, taps) for taps, some in OUTPUTS.items() for outputs in some)


def _product(matrix, values):
    return [sum(a * b for a, b in zip(row, values, strict=True)) for row in matrix]


def _by_steps(matrix, values, kind=Fraction):
    """The product as templates write it, by numbers of a kind."""
    names = {f"x{j}": value for j, value in enumerate(values)}
    for step in steps(matrix):
        text = step.expression(lambda factor: f"kind(Fraction({str(factor)!r}))")
        names[step.name] = eval(text, {"kind": kind, "Fraction": Fraction}, names)
    return [names[f"r{i}"] for i in range(len(matrix))]


@pytest.mark.parametrize(("outputs", "taps"), [*FORMS, (1, 1), (1, 4), (5, 1), (2, 5)])
def test_transforms_give_correlations(rng, outputs, taps):
    """For whole numbers as fractions, by the matrices and by their steps: the very sums."""
    form = transform(outputs, taps)
    assert form.points == outputs + taps - 1
    w, x = (list(map(int, rng.integers(-99, 100, n))) for n in (taps, form.points))
    expected = [sum(w[k] * x[i + k] for k in range(taps)) for i in range(outputs)]
    for multiplied in (_product, _by_steps):
        factors, data = multiplied(form.weight, w), multiplied(form.data, x)
        products = [a * b for a, b in zip(factors, data, strict=True)]
        assert multiplied(form.inverse, products) == expected


def test_transforms_have_points_for_few():
    with pytest.raises(ValueError, match="outputs is 5 and taps 3, expected at least 1, and at "):
        transform(5, 3)


@pytest.mark.parametrize(("outputs", "taps"), FORMS)
def test_magnitudes_are_those_of_the_matrix(outputs, taps):
    """Each entry reaches its row in one way: what steps share does not cancel."""
    form = transform(outputs, taps)
    for matrix in (form.data, form.weight, form.inverse):
        found = {}
        for step in steps(matrix):
            total = {}
            for factor, name in step.terms:
                for at, entry in found.get(name, {name: Fraction(1)}).items():
                    total[at] = total.get(at, 0) + abs(factor) * entry
            found[step.name] = total
        for i, row in enumerate(matrix):
            assert found[f"r{i}"] == {f"x{j}": abs(entry) for j, entry in enumerate(row) if entry}


def test_shared_sums_save_additions():
    """Of F(4, 3): as few as by hand."""
    form = transform(4, 3)
    counts = [sum(max(0, len(s.terms) - 1) for s in steps(m)) for m in (form.data, form.inverse)]
    assert counts == [16, 12]


def test_roundings():
    half, third = Fraction(1, 2), Fraction(1, 3)
    assert roundings([Step("a", ((half, "x"), (Fraction(-4), "y")))]) == 1
    assert roundings([Step("a", ((3 * half, "x"), (Fraction(1), "y"), (half, "z")))]) == 3
    shared = Step("t", ((Fraction(1), "x"), (Fraction(1), "y")))
    assert roundings([shared, Step("a", ((third, "t"),))]) == 3


@pytest.mark.parametrize("taps", [2, 3])
def test_two_outputs_are_exact_on_whole_numbers(rng, taps):
    """F(2, r) rounds no small ones: 1/2 is the least of its fractions."""
    form = transform(2, taps)
    w, x = (testing.integers(rng, (n,), np.float32) for n in (taps, form.points))
    factors, data = (_by_steps(m, v, np.float32) for m, v in ((form.weight, w), (form.data, x)))
    products = [a * b for a, b in zip(factors, data, strict=True)]
    found = _by_steps(form.inverse, products, np.float32)
    assert [float(v) for v in found] == [float(w @ x[i : i + taps]) for i in range(2)]


def _simulated(problem, pass_, outputs, arrays, dtype):
    """The pass as kernels do it, with every operation rounded to a dtype."""
    tiles = Tiles(problem, pass_, outputs)
    form = tiles.transform
    source, taps = arrays["x" if tiles.forward else "grad_output"], arrays["weight"]
    shape = (problem.groups, problem.group_out, problem.group_in, problem.kernel_size)
    taps = taps.reshape(shape)
    if not tiles.forward:
        taps = taps.swapaxes(1, 2)[..., ::-1]
    factors = _by_steps(form.weight, list(np.moveaxis(taps, -1, 0)), dtype)
    found = np.zeros((problem.batch, problem.groups * tiles.written, tiles.positions), dtype)
    for g in range(problem.groups):
        for line in range(tiles.lines):
            for t in range(tiles.row_tiles):
                at = (t * outputs + np.arange(form.points)) * tiles.lines + line - tiles.lead
                inside = (at >= 0) & (at < tiles.length)
                rows = source[:, g * tiles.channels : (g + 1) * tiles.channels]
                samples = np.where(inside, rows[:, :, np.where(inside, at, 0)], dtype(0))
                data = _by_steps(form.data, list(np.moveaxis(samples, -1, 0)), dtype)
                sums = [0] * form.points
                for c in range(tiles.channels):
                    for p in range(form.points):
                        sums[p] = sums[p] + data[p][:, None, c] * factors[p][g][None, :, c]
                for i, result in enumerate(_by_steps(form.inverse, sums, dtype)):
                    p = (t * outputs + i) * tiles.lines + line
                    if p < tiles.positions:
                        found[:, g * tiles.written : (g + 1) * tiles.written, p] = result
    return found, {name: arrays[name] for name in testing.OPERANDS[pass_]}


SIMULATED = (
    Conv1dProblem(2, 3, 21, 4, 3, 1, (1, 2)),
    Conv1dProblem(1, 4, 30, 6, 3, 1, 2, 3, 2),
    Conv1dProblem(1, 3, 19, 2, 2, 1, 0, 2),
)


def _arrays(rng, problem, make=testing.normals):
    return {
        "x": make(rng, problem.input_shape, problem.dtype),
        "weight": make(rng, problem.weight_shape, problem.dtype),
        "grad_output": make(rng, problem.output_shape, problem.dtype),
    }


@pytest.mark.parametrize("pass_", [Pass.FORWARD, Pass.INPUT_GRADIENT])
@pytest.mark.parametrize("problem", SIMULATED)
def test_simulated_tiles_keep_the_bound(rng, problem, pass_):
    """And one that is off by some bounds, or a lost sample, does not."""
    arrays = _arrays(rng, problem)
    for outputs in OUTPUTS[problem.kernel_size]:
        found, given = _simulated(problem, pass_, outputs, arrays, np.float32)
        sums = lambda a, outputs=outputs: bound(problem, pass_, {"outputs": outputs}, a)  # noqa: E731
        testing.assert_right(found, problem, pass_, given, sums=sums)
        most = sums(given)
        assert most.shape == found.shape
        for place in ((0, 0, 0), (0, 1, found.shape[2] - 1)):
            off = found.copy()
            off[place] += 3 * most[place]
            with pytest.raises(AssertionError, match=r"1 of \d+ values are wrong"):
                testing.assert_right(off, problem, pass_, given, sums=sums)
        name = "x" if pass_ is Pass.FORWARD else "grad_output"
        lost = {**arrays, name: arrays[name].copy()}
        lost[name][0, 0, 7] = 0
        found, _ = _simulated(problem, pass_, outputs, lost, np.float32)
        with pytest.raises(AssertionError, match="values are wrong"):
            testing.assert_right(found, problem, pass_, given, sums=sums)
