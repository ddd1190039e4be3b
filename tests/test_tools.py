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


def test_the_list_fits_the_tree():
    """Each fault's text occurs once in its file, and the tests that should see it are there."""
    mutants.check(FAULTS)
    files = {shlex.split(fault.tests)[0].partition("::")[0] for fault in FAULTS}
    assert not {name for name in files if not (mutants.ROOT / name).is_file()}
    assert len(FAULTS) > 400


def test_a_text_that_is_not_there():
    gone = FAULTS[0]._replace(text="nowhere in this file")
    with pytest.raises(mutants.ListError, match="0 times, expected once"):
        mutants.check([gone])


@pytest.mark.parametrize("name", ["winograd", "depthwise"])
def test_geometries_for_a_variant(first_runtime, name):
    """Each is one of which the variant computes the forward pass or a gradient."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one = fuzz.draw_served(rng, ["float32"], first_runtime, name)
        problem = Conv1dProblem(
            2, one.in_channels, one.window + 70, one.out_channels, one.kernel_size, one.stride, 1,
            one.dilation, one.groups,
        )  # fmt: skip
        served = 0
        for pass_ in fuzz.CHOSEN:
            with contextlib.suppress(ProblemError):
                served += bool(first_runtime.plans(problem, pass_, variant=name))
        assert served
