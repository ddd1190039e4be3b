"""The checks of accuracy: they see planted faults, and say what is wrong with a call."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from problems import PROBLEMS

from clconv import Conv1dProblem, Pass, ProblemError, gpuarray, testing

REMAINDERS = PROBLEMS["several tiles and a remainder in every direction"]


def _arrays(rng, problem, whole):
    make = testing.integers if whole else testing.normals
    shapes = {
        "x": problem.input_shape,
        "weight": problem.weight_shape,
        "grad_output": problem.output_shape,
    }
    return {name: make(rng, shape, problem.dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("pass_", Pass)
def test_the_checks_see_planted_faults(rng, pass_):
    """One value off by one unit, or by a little more than rounding explains, is an error."""
    problem = REMAINDERS
    for whole in (True, False):
        arrays = _arrays(rng, problem, whole)
        right = testing.evaluate(problem, pass_, arrays)
        result = right.astype(np.float32)
        testing.assert_right(result, problem, pass_, arrays, largest=4 * whole)
        place = tuple(size // 2 for size in result.shape)
        bound = testing.rounding_bound(problem, pass_, arrays)[place]
        for wrong in (result[place] + (1 if whole else 3 * bound), np.nan, np.inf):
            faulty = result.copy()
            faulty[place] = wrong
            with pytest.raises(AssertionError, match="values are wrong"):
                testing.assert_right(faulty, problem, pass_, arrays, largest=4 * whole)
        with pytest.raises(AssertionError, match="has shape"):
            testing.assert_right(result[..., 1:], problem, pass_, arrays, largest=4 * whole)


def test_the_bound_is_tight_enough(rng):
    """A dropped tap, a shift by one sample or float16 sums lie outside the bound."""
    problem = REMAINDERS
    arrays = _arrays(rng, problem, whole=False)
    right = testing.evaluate(problem, Pass.FORWARD, arrays)
    bound = testing.rounding_bound(problem, Pass.FORWARD, arrays)
    dropped = dict(arrays, weight=arrays["weight"].copy())
    dropped["weight"][0, 0, 0] = 0
    shifted = dict(arrays, x=np.roll(arrays["x"], 1, axis=2))
    for faulty in (
        testing.evaluate(problem, Pass.FORWARD, dropped),
        testing.evaluate(problem, Pass.FORWARD, shifted),
        right.astype(np.float16).astype(np.float64),
    ):
        with pytest.raises(AssertionError, match="values are wrong"):
            testing.assert_within_bound(faulty, right, bound)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_bound_of_sums(rng, dtype):
    """Of any order it holds; a dropped product or sums of half as many digits lie outside."""
    a, b = (testing.normals(rng, (50, 300), dtype) for _ in range(2))
    wide = np.longdouble if dtype == "float64" else np.float64
    products = a.astype(wide) * b.astype(wide)
    right, magnitudes = products.sum(1), abs(products).sum(1)
    bound = testing.sum_bound(right, magnitudes, 300, dtype)
    sums = np.float64 if dtype == "float64" else np.float32
    for order in (slice(None), slice(None, None, -1)):
        found = np.zeros(50, sums)
        for x, y in zip(a.T[order].astype(sums), b.T[order].astype(sums), strict=True):
            found += x * y
        testing.assert_within_bound(found.astype(dtype), right, bound)
    dropped = (right - products[:, 7]).astype(dtype)
    fewer = right.astype(np.float16 if dtype == "float32" else np.float32).astype(dtype)
    for faulty in (dropped, fewer) if dtype != "float16" else (dropped,):
        with pytest.raises(AssertionError, match=r"^y: .* values are wrong"):
            testing.assert_within_bound(faulty, right, bound, "y")


def test_device_arrays_are_read(runtime):
    expected = [1.0, 2.0, 3.0]
    array = gpuarray.to_gpu(np.float32(expected))
    testing.assert_exact(array, expected)
    testing.assert_within_bound(array, gpuarray.to_gpu(np.float32([1, 2, 3.25])), 0.25)
    with pytest.raises(AssertionError, match=r"1 of 3 values are wrong, most of all \[1\]"):
        testing.assert_exact(array, [1, 4, 3])


@pytest.mark.parametrize("check", [testing.assert_exact, testing.assert_within_bound])
def test_results_that_are_no_results(check):
    """Integers would be right where fractions are cut off; shapes are not broadcast."""
    bound = () if check is testing.assert_exact else (0.0,)
    with pytest.raises(AssertionError, match="y has dtype int64, expected a floating-point one"):
        check(np.int64([1]), [1.5], *bound, "y")
    with pytest.raises(AssertionError, match=r"y has shape \(1,\), expected \(2,\)"):
        check(np.float32([1]), [1, 1], *bound, "y")
    check(np.float32(1), 1, *bound)
    with pytest.raises(AssertionError, match="values are wrong"):
        check(np.float32([np.inf]), [-np.inf], *bound)


def test_values_that_are_no_numbers():
    """NaN is NaN where exactly that is expected; an infinity is what overflows."""
    testing.assert_exact(np.float32([np.nan, np.inf]), [np.nan, np.inf])
    with pytest.raises(AssertionError, match="1 of 1 values are wrong"):
        testing.assert_within_bound(np.float32([np.nan]), [np.nan], np.inf)
    testing.assert_within_bound(np.float16([np.inf]), [70000.0], 1.0)
    with pytest.raises(AssertionError, match="1 of 1 values are wrong"):
        testing.assert_within_bound(np.float16([np.inf]), [60000.0], 1.0)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"weight": (4, 3, 5)}, {}, "arrays has no x, expected x, weight"),
        ({"x": (2, 3, 49), "weight": (4, 3, 5)}, {},
         r"x has shape \(2, 3, 49\), expected \(2, 3, 50\)"),
        ({"x": (2, 3, 50), "weight": (4, 3, 5), "bias": (1,)}, {},
         r"bias has shape \(1,\), expected \(4,\)"),
        ({"x": (2, 3, 50), "weight": (4, 3, 5)}, {"momentum": 1.0}, "arrays has no old"),
        ({"x": (2, 3, 50), "weight": (4, 3, 5)}, {"activation": "softmax"}, "softmax"),
    ],
)  # fmt: skip
def test_calls_that_are_wrong(arrays, options, message):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}
    for call in (testing.evaluate, testing.rounding_bound):
        with pytest.raises((ValueError, ProblemError), match=message):
            call(Conv1dProblem(2, 3, 50, 4, 5, 2), "forward", arrays, **options)


def test_passes_by_name(rng):
    arrays = _arrays(rng, REMAINDERS, True)
    for pass_ in Pass:
        found = testing.evaluate(REMAINDERS, pass_.value, arrays)
        assert np.array_equal(found, testing.evaluate(REMAINDERS, pass_, arrays))
        assert testing.sums_are_exact(REMAINDERS, pass_.value)
    assert not testing.sums_are_exact(Conv1dProblem(1, 1, 2**22, 1, 1), "weight_gradient")
    with pytest.raises(ProblemError, match="sideways"):
        testing.evaluate(REMAINDERS, "sideways", arrays)


def test_terms_that_have_no_bound():
    assert testing.gamma(0, np.float32) == 0
    for terms in (-1, 2**24):
        with pytest.raises(ValueError, match=f"terms is {terms}, expected 0 to {2**24 - 1} "):
            testing.gamma(terms, np.float32)


def test_docstrings(runtime):
    found = doctest.testmod(testing)
    assert found.attempted > 10
    assert found.failed == 0
