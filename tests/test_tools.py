"""What tools/ takes: the faults that are planted, random geometries."""

from __future__ import annotations

import contextlib
import shlex

import fuzz
import mutants
import numpy as np
import pytest
from mutants_list import FAULTS

from clconv import Conv1dProblem, ProblemError
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES


def test_the_list_fits_the_tree():
    """Each fault's text occurs once in its file, and the tests that should see it are there."""
    mutants.check(FAULTS)
    files = {shlex.split(fault.tests)[0].partition("::")[0] for fault in FAULTS}
    assert not {name for name in files if not (mutants.ROOT / name).is_file()}
    assert FAULTS


def test_a_text_that_is_not_there():
    gone = FAULTS[0]._replace(text="nowhere in this file")
    with pytest.raises(mutants.ListError, match="0 times, expected once"):
        mutants.check([gone])


@pytest.mark.parametrize("name", ["winograd", "depthwise"])
def test_geometries_for_a_variant(name):
    """Each is one of which the variant computes the forward pass or a gradient."""
    device = PROFILES["cpu"]
    for seed in range(20):
        one = fuzz.draw_served(np.random.default_rng(seed), ["float32"], device, name)
        problem = Conv1dProblem(
            2, one.in_channels, one.window + 70, one.out_channels, one.kernel_size, one.stride, 1,
            one.dilation, one.groups,
        )  # fmt: skip
        served = 0
        for pass_ in fuzz.CHOSEN:
            with contextlib.suppress(ProblemError):
                served += bool(plans(problem, pass_, device, variant=name))
        assert served


def test_no_geometry_for_a_variant():
    with pytest.raises(
        fuzz.NoneServed, match="strip serves none of 1000 random geometries on sm_90"
    ):
        fuzz.draw_served(np.random.default_rng(0), ["float32"], PROFILES["sm_90"], "strip")
    with pytest.raises(SystemExit):
        fuzz.options_of(["--served"])
