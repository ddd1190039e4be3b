"""What does each function do: its problem, its checks, and the passes that it computes?"""

from __future__ import annotations

from typing import Any, NamedTuple

from clconv.calls.draft import Choice, Draft
from clconv.calls.layouts import Shape, three_dimensions
from clconv.calls.options import check_sizes
from clconv.errors import ProblemError
from clconv.geometry import Geometry, whole
from clconv.problem import Conv1dProblem, Epilogue, Pass

__all__ = [
    "draft_conv1d",
    "draft_conv1d_backward",
    "draft_conv1d_bias",
    "draft_conv1d_input",
    "draft_conv1d_weight",
    "draft_conv_transpose1d",
    "draft_conv_transpose1d_backward",
]

# Problems


def _check_weight(said: str, shape: Shape, expected: str) -> None:
    if len(shape) == 4 and shape[2] == 1:  # as layers keep them
        expected += ": weight[:, :, 0] is a layer's W without its axis of height"
    if len(shape) != 3:
        raise ProblemError(f"{said} {shape}, expected {expected}")
    if 0 in shape:
        raise ProblemError(f"{said} {shape}, expected {expected}, each at least 1")


def problem_of(
    draft: Draft,
    geometry: Geometry,
    input_shape: tuple[int, int, int],
    weight_shape: Shape,
    weight_is: str = "weight has shape",
) -> Conv1dProblem:
    """The problem of a convolution of tensors of these shapes."""
    _check_weight(weight_is, weight_shape, "(Cout, Cin / groups, kernel_size)")
    out_channels, group_in, kernel_size = weight_shape
    problem = Conv1dProblem.of(geometry, input_shape, out_channels, kernel_size, draft.dtype)
    if group_in != problem.group_in:
        raise ProblemError(
            f"{weight_is} {weight_shape}, expected {problem.weight_shape} for "
            f"{problem.in_channels} input channels in {problem.groups} groups"
        )
    draft.check_prepared(problem)
    return problem


def transposed_problem(draft: Draft, geometry: Geometry) -> Conv1dProblem:
    """The convolution whose input gradient this transposed convolution is."""
    x = draft.tensor("x")
    _check_weight("weight has shape", draft.shape("weight"), "(Cin, Cout / groups, kernel_size)")
    _, group_out, kernel_size = draft.shape("weight")
    out_channels = group_out * whole("groups", geometry.groups, 1)
    problem = Conv1dProblem.of(geometry, x, out_channels, kernel_size, draft.dtype)
    draft.expect("weight", problem.weight_shape)
    draft.check_prepared(problem, transposed=True)
    return problem


def channels_problem(draft: Draft, name: str) -> Conv1dProblem:
    """A problem whose bias gradient sums an array over batch and positions."""
    batch, channels, length = draft.tensor(name)
    return Conv1dProblem(batch, channels, length, channels, 1, groups=channels, dtype=draft.dtype)


# Recipes


def draft_conv1d(draft: Draft, geometry: Geometry, activation: Any, variant: Choice) -> None:
    problem = problem_of(draft, geometry, draft.tensor("x"), draft.shape("weight"))
    shape = draft.unbatched(problem.output_shape, "x")
    bias_shape = (problem.out_channels,)
    draft_result(draft, problem, Pass.FORWARD, shape, bias_shape, activation, variant)


def draft_conv_transpose1d(
    draft: Draft, geometry: Geometry, activation: Any, variant: Choice
) -> None:
    problem = transposed_problem(draft, geometry)
    shape = draft.unbatched(problem.input_shape, "x")
    bias_shape = (problem.in_channels,)
    draft_result(draft, problem, Pass.INPUT_GRADIENT, shape, bias_shape, activation, variant)


def draft_result(
    draft: Draft,
    problem: Conv1dProblem,
    pass_: Pass,
    shape: Shape,
    bias_shape: Shape,
    activation: Any,
    variant: Choice,
) -> None:
    """What the forward pass and the transposed convolution share: checks, epilogue, launch."""
    draft.expect("bias", bias_shape)
    draft.expect("residual", shape)
    draft.expect_out("out", shape)
    draft.expect_out("out_keep", shape)
    name, slope = Epilogue.parse_activation(activation)
    keep = "out_keep" in draft.given
    epilogue = Epilogue("bias" in draft.given, "residual" in draft.given, name, keep)
    operands = {"x": "x", "weight": "weight"}
    operands |= {one: one for one in ("bias", "residual") if one in draft.given}
    if keep:
        draft.result("out_keep", shape)
        operands["pre_activation"] = "out_keep"
    draft.result("out", shape)
    operands["y"] = "out"
    draft.plans(problem, pass_, epilogue, variant)
    if problem.batch:
        # 0.0 and -0.0 are one key.
        numbers_ = {"slope": slope + 0.0}
        draft.add(problem, pass_, epilogue, variant, operands, numbers_)


def draft_conv1d_input(draft: Draft, geometry: Geometry, shape: Shape, variant: Choice) -> None:
    check_sizes("input_size is", shape)
    shape = draft.as_seen(shape)
    problem = problem_of(draft, geometry, three_dimensions(shape), draft.shape("weight"))
    draft.expect("grad_output", problem.output_shape[3 - len(shape) :])
    draft_gradients(draft, problem, shape, (True, False, False), variant)


def draft_conv1d_weight(draft: Draft, geometry: Geometry, shape: Shape, variant: Choice) -> None:
    problem = problem_of(draft, geometry, draft.tensor("x"), shape, "weight_size is")
    draft.expect("grad_output", draft.unbatched(problem.output_shape, "x"))
    draft_gradients(draft, problem, draft.shape("x"), (False, True, False), variant)


def draft_conv1d_bias(draft: Draft) -> None:
    problem = channels_problem(draft, "grad_output")
    shape = draft.shape("grad_output")
    draft_gradients(draft, problem, shape, (False, False, True), "auto")


def draft_conv1d_backward(
    draft: Draft, geometry: Geometry, need: tuple[bool, ...], variant: Choice
) -> None:
    problem = problem_of(draft, geometry, draft.tensor("x"), draft.shape("weight"))
    draft.expect("grad_output", draft.unbatched(problem.output_shape, "x"))
    draft_gradients(draft, problem, draft.shape("x"), need, variant)


def draft_conv_transpose1d_backward(
    draft: Draft, geometry: Geometry, need: tuple[bool, ...], variant: Choice
) -> None:
    problem = transposed_problem(draft, geometry)
    draft.expect("grad_output", draft.unbatched(problem.input_shape, "x"))
    draft_gradients(draft, problem, draft.shape("x"), need, variant, transposed=True)


class Gradient(NamedTuple):
    """A gradient of a call: its out, and what computes it."""

    name: str
    shape: Shape
    problem: Conv1dProblem
    pass_: Pass
    epilogue: Epilogue
    variant: Choice
    operands: dict[str, str]
    numbers: dict[str, float]


def _gradients(
    draft: Draft,
    problem: Conv1dProblem,
    input_shape: Shape,
    together: bool,
    variant: Choice,
    transposed: bool,
) -> tuple[Gradient, Gradient, Gradient]:
    """Those of input, weight and bias; `together` sums the bias's with the weight's.

    A transposed convolution is the input gradient of `problem`; so its own input gradient is the
    forward pass, and its weight gradient has input and output exchanged.
    """
    bias_problem = channels_problem(draft, "grad_output")
    long, short = ("grad_output", "x") if transposed else ("x", "grad_output")
    return (
        Gradient(
            "out_x",
            input_shape,
            problem,
            Pass.FORWARD if transposed else Pass.INPUT_GRADIENT,
            Epilogue(),
            variant,
            {"x": "grad_output", "weight": "weight", "y": "out_x"},
            {"slope": 0.0},
        ),
        Gradient(
            "out_weight",
            problem.weight_shape,
            problem,
            Pass.WEIGHT_GRADIENT,
            Epilogue(bias=together),
            variant,
            {"x": long, "y": short, "result": "out_weight"}
            | ({"bias": "out_bias"} if together else {}),
            {} if "out_bias" in draft.given else {"bias_momentum": 0.0},
        ),
        Gradient(
            "out_bias",
            (bias_problem.out_channels,),
            bias_problem,
            Pass.BIAS_GRADIENT,
            Epilogue(),
            "auto",  # a variant by name is meant for the convolution's own passes
            {"y": "grad_output", "result": "out_bias"},
            {},
        ),
    )


def draft_gradients(
    draft: Draft,
    problem: Conv1dProblem,
    input_shape: Shape,
    need: tuple[bool, ...],
    variant: Choice,
    transposed: bool = False,
) -> None:
    """The gradients that are needed, of inputs that are checked."""
    # Both are sums over the output's gradient: some variants read it once for weights and bias.
    together = all(need[1:]) and not transposed
    gradients = _gradients(draft, problem, input_shape, together, variant, transposed)
    wanted = [gradient for gradient, needed in zip(gradients, need, strict=True) if needed]
    for one in wanted:
        draft.expect_out(one.name, one.shape)
        draft.plans(one.problem, one.pass_, one.epilogue, one.variant)
    for one in wanted:
        draft.result(one.name, one.shape)
    summed: list[bool] = []  # whether the weight gradient's plans sum the bias's, the first's first
    for name, _, its_problem, pass_, epilogue, by, operands, numbers_ in wanted:
        if name == "out_x" and not problem.batch:
            continue
        if name == "out_bias" and summed[:1] == [True]:
            if not all(summed):  # another size needs what this one does without
                draft.runtime.make_ready(next(draft.plans(its_problem, pass_, epilogue, by)))
            continue
        if name not in draft.given:
            numbers_ = {**numbers_, "momentum": 0.0}  # there is no old value to keep of
        prepared = draft.add(its_problem, pass_, epilogue, by, operands, numbers_)
        summed = [one.sums_bias for one in (prepared.plan, *prepared.others)]
