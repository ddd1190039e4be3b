"""Who asks for exact results gets the definition's own sums, whatever is faster."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

import clconv
from clconv import (
    Conv1D,
    Conv1dProblem,
    Deconv1D,
    ModuleError,
    Pass,
    ProblemError,
    Runtime,
    gpuarray,
    reference,
    testing,
)
from clconv import functional as F
from clconv.planning import planner
from clconv.variants import VARIANTS, direct
from clconv.variants.base import ErrorClass

PROBLEM = Conv1dProblem(2, 3, 40, 4, 3)


def toy_bound(problem, pass_, tile, arrays):
    """Twice that of the definition's own sums."""
    return 2 * testing.rounding_bound(problem, pass_, arrays)


class Approximate:
    """The portable variant under another name, as one that is fast and has a bound of its own."""

    NAME, ERROR_CLASS = "approximate", ErrorClass("toy bound", toy_bound)
    EXAMPLES: ClassVar = {}
    refusal = staticmethod(direct.refusal)

    @staticmethod
    def designs(request):
        """Direct's, which cost next to nothing."""
        for one in direct.designs(request):
            yield planner.Design(one.tile, one.kernels, one.cost * 1e-6, one.schedule)


@pytest.fixture
def approximate(monkeypatch):
    """With a variant that is not exact, and by its costs always the first."""
    monkeypatch.setattr(planner, "VARIANTS", (*planner.VARIANTS, Approximate))
    planner.designs.cache_clear()
    yield
    planner.designs.cache_clear()


def test_error_bounds():
    """Each value of a pass has one, and float32 sums keep it."""
    rng = np.random.default_rng(0)
    shapes = {"x": PROBLEM.input_shape, "weight": PROBLEM.weight_shape}
    shapes["grad_output"] = PROBLEM.output_shape
    arrays = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    for pass_, names in (
        (Pass.FORWARD, ("x", "weight")),
        (Pass.INPUT_GRADIENT, ("weight", "grad_output")),
        (Pass.WEIGHT_GRADIENT, ("x", "grad_output")),
    ):
        operands = [arrays[name] for name in names]
        bound = clconv.plan(PROBLEM, pass_, "cpu").error_bound(*operands)
        given = dict(zip(names, operands, strict=True))
        true = testing.evaluate(PROBLEM, pass_, given)
        assert bound.shape == true.shape
        assert (bound > 0).all()
        assert bound.max() < 1e-3
        testing.assert_within_bound(true.astype("f"), true, bound)


def test_all_variants_say_their_error_class():
    for name in clconv.variants(PROBLEM, "forward", "cpu"):
        (plan, *_) = planner.plans(
            PROBLEM, Pass.FORWARD, clconv.planning.profiles.profile("cpu"), variant=name
        )
        expected = next(one.ERROR_CLASS for one in VARIANTS if name == one.NAME)
        assert plan.error_class == expected.name


def test_plans(runtime, approximate):
    """By the planner, by a runtime's own word, by the call's, by the environment."""
    plan = clconv.plan(PROBLEM, "forward", runtime)
    assert (plan.variant, plan.error_class) == ("approximate", "toy bound")
    assert clconv.plan(PROBLEM, "forward", "gfx1030").variant == "approximate"
    for device in (runtime, "gfx1030"):
        exact = clconv.plan(PROBLEM, "forward", device, exact=True)
        assert exact.error_class == "exact"
    own = Runtime(runtime.device, exact=True)
    assert clconv.plan(PROBLEM, "forward", own).error_class == "exact"
    assert clconv.plan(PROBLEM, "forward", own, exact=False).variant == "approximate"
    with pytest.raises(ProblemError, match="its results keep the bound 'toy bound'"):
        planner.plans(PROBLEM, Pass.FORWARD, own.profile, variant="approximate", exact=True)


def _variants_used(runtime, call):
    """The variants of the plans that a call prepares."""
    taken = []
    real = runtime.prepare

    def prepare(candidates):
        prepared = real(candidates)
        taken.append(prepared.plan.variant)
        return prepared

    runtime.prepare = prepare
    try:
        call()
    finally:
        del runtime.prepare
    return taken


def test_calls(runtime, approximate):
    """Functions and layers say it for themselves, and it is part of what a recipe is kept under."""
    own = Runtime(runtime.device)
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(-4, 5, s).astype("f") for s in ((2, 3, 40), (4, 3, 3)))
    grad = rng.integers(-4, 5, (2, 4, 38)).astype("f")
    calls = {
        "conv1d": lambda **k: F.conv1d(x, weight, runtime=own, **k),
        "conv1d_input": lambda **k: F.conv1d_input(x.shape, weight, grad, runtime=own, **k),
        "conv1d_weight": lambda **k: F.conv1d_weight(x, weight.shape, grad, runtime=own, **k),
        "conv1d_backward": lambda **k: F.conv1d_backward(
            x, weight, grad, need=(True, True, False), runtime=own, **k
        ),
        "conv_transpose1d": lambda **k: F.conv_transpose1d(grad, weight, runtime=own, **k),
        "conv_transpose1d_backward": lambda **k: F.conv_transpose1d_backward(
            grad, weight, x, need=(True, True, False), runtime=own, **k
        ),
    }
    for name, call in calls.items():
        assert set(_variants_used(own, call)) == {"approximate"}, name
        assert "approximate" not in _variants_used(own, lambda c=call: c(exact=True)), name
        assert not _variants_used(own, lambda c=call: c(exact=False)), name  # a kept recipe
        for wrong in ("yes", 1, np.ones(2)):
            with pytest.raises(ProblemError, match=r"exact is .*, expected True, False or None"):
                call(exact=wrong)
    assert np.array_equal(calls["conv1d"](exact=True), reference.conv1d(PROBLEM, x, weight))
    with own:
        data = gpuarray.to_gpu(x)
        for layer in (Conv1D, Deconv1D):
            for exact in (None, True):
                made = layer(3, 4, 3, exact=exact)
                used = _variants_used(own, lambda made=made: made(data))
                assert ("approximate" in used) == (exact is None)
                assert "exact" not in made.getBlueprint()["scheme"]
            with pytest.raises(ModuleError, match="exact is 2"):
                layer(3, 4, 3, exact=2)


def test_the_environment():
    code = "import clconv; print(clconv.Runtime().exact, clconv.Runtime(exact=False).exact)"
    for value, expected in (("1", "True False"), ("0", "False False"), ("", "False False")):
        printed = subprocess.check_output(
            [sys.executable, "-c", code], env={**os.environ, "CLCONV_EXACT": value}, text=True
        )
        assert printed.strip() == expected
    with pytest.raises(clconv.DeviceError, match="exact is 'maybe'"):
        Runtime(exact="maybe")
