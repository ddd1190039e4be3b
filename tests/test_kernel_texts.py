"""How the texts of kernels are written, without a device."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from problems import PROBLEMS

import clconv
from clconv import Conv1dProblem, Epilogue, Pass
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, profile
from clconv.variants.base import Request
from clconv.variants.strip.form import form

TEMPLATES = sorted((Path(clconv.__file__).parent / "templates").glob("*/*.mako"))


def assert_indented(source):
    """A brace closes in the column of the line that opened it; no line ends with a space, and no
    two blank ones follow each other."""
    assert "\n\n\n" not in source
    opened = []
    for line in source.splitlines():
        assert line == line.rstrip()
        code = re.sub(r"//.*|\\\\$", "", line)
        column = len(code) - len(code.lstrip())
        for place, char in enumerate(code):
            if char == "{":
                opened.append((column, line))
            elif char == "}":
                before, where = opened.pop()
                assert code[:place].strip() or column == before, (where, line)
    assert not opened


@pytest.mark.parametrize("device", ["cpu", "gfx1100", "sm_90"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_kernels_are_indented(device, name):
    """As a person indents, whoever shares the stages."""
    problem = replace(PROBLEMS[name], dtype="float16" if "odd" in name else "float32")
    for pass_ in Pass:
        epilogue = Epilogue(bias=pass_ is not Pass.BIAS_GRADIENT)
        for plan in plans(problem, pass_, PROFILES[device], epilogue=epilogue):
            assert_indented(plan.source())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_and_stages_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= 250
    for stage in re.findall(r"<%def.*?</%def>", text, re.DOTALL):
        assert stage.count("\n") <= 60, stage.splitlines()[0]


@pytest.mark.parametrize(
    ("fields", "pass_", "epilogue", "expected"),
    [
        ((1, 8, 300, 12, 3), "forward", Epilogue(), {"unrolled", "plain_end"}),
        ((1, 8, 300, 12, 3), "input_gradient", Epilogue(bias=True), {"unrolled", "plain_end"}),
        ((1, 8, 300, 12, 2), "forward", Epilogue(), {"unrolled", "plain_end", "block_unrolled"}),
        ((1, 8, 300, 12, 3, 2), "input_gradient", Epilogue(), {"plain_end"}),
        ((1, 8, 300, 12, 99), "forward", Epilogue(activation="relu"), {"plain_end"}),
        ((1, 8, 300, 12, 3), "forward", Epilogue(activation="gelu"), {"unrolled"}),
        ((1, 8, 300, 12, 3), "forward", Epilogue(residual=True), {"unrolled"}),
        ((1, 2, 300, 12, 3), "forward", Epilogue(), {"unrolled", "plain_end", "block_unrolled"}),
        ((1, 2, 300, 12, 3), "forward", Epilogue(keep=True), {"unrolled"}),
        ((1, 2, 300, 12, 3, 2), "forward", Epilogue(residual=True),
         {"unrolled", "side_by_side", "rows_together"}),
        ((1, 8, 300, 12, 5, 2), "forward", Epilogue(residual=True), {"unrolled", "rows_together"}),
        ((1, 2, 300, 12, 4, 3), "forward", Epilogue(residual=True),
         {"unrolled", "side_by_side", "rows_together"}),
        ((1, 2, 300, 12, 9, 9), "forward", Epilogue(residual=True), {"unrolled", "side_by_side"}),
    ],
)  # fmt: skip
def test_the_form_of_a_strip(fields, pass_, epilogue, expected):
    """What the kernel's text is made of, by layer and epilogue."""
    problem, pass_ = Conv1dProblem(*fields), Pass.of(pass_)
    rows = problem.stride if pass_ is Pass.FORWARD else 1
    request = Request(problem, pass_, profile("cpu"), epilogue)
    own = form(request, (24, 3), rows, channel_tile=4, vectors=3, block_tiles=3, term_block=8)
    assert {name for name, value in vars(own).items() if value is True} - {
        "short_index"
    } == expected
    assert own.tile_strides == (24, 3, 1)
    few = problem.kernel_size * 12 <= 24
    assert own.channel_unroll == (4 if few else 1)
