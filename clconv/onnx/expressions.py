"""How is each element of a result computed? Expressions that grow until something needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clconv.onnx import kernels
from clconv.onnx.graph import Node
from clconv.onnx.kernels import broadcast_strides, fits
from clconv.onnx.recording import Shape, Tensor
from clconv.onnx.work import OnHost, Value, Work

__all__ = ["Expression", "combined", "formula", "literal"]

# A kernel's arrays and statements: more are joined no further.
MOST_INPUTS, MOST_STATEMENTS = 8, 24

# Unary operators by C; {0} is the argument, Z a vector of zeros.
UNARY = {
    "Abs": "fabs({0})",
    "Ceil": "ceil({0})",
    "Cos": "cos({0})",
    "Erf": "erf({0})",
    "Exp": "exp({0})",
    "Floor": "floor({0})",
    "Identity": "{0}",
    "Log": "log({0})",
    "Mish": "{0} * tanh(fmax({0}, (VECTOR)0) + log1p(exp(-fabs({0}))))",
    "Neg": "-{0}",
    "Reciprocal": "1 / {0}",
    "Relu": "{0} < 0 ? (VECTOR)0 : {0}",
    "Round": "rint({0})",
    "Sigmoid": "1 / (1 + exp(-{0}))",
    "Silu": "{0} / (1 + exp(-{0}))",
    "Sin": "sin({0})",
    "Softplus": "fmax({0}, (VECTOR)0) + log1p(exp(-fabs({0}))) + ({0} != {0} ? {0} : (VECTOR)0)",
    "Softsign": "{0} / (1 + fabs({0}))",
    "Sqrt": "sqrt({0})",
    "Tanh": "tanh({0})",
}
BINARY = {"Add": "{0} + {1}", "Div": "{0} / {1}", "Mul": "{0} * {1}", "Sub": "{0} - {1}"}
# Of any number of arguments, two at a time; NaN stays.
CHAINED = {
    "Max": "({0} > {1}) | ({0} != {0}) ? {0} : {1}",
    "Min": "({0} < {1}) | ({0} != {0}) ? {0} : {1}",
    "Sum": "{0} + {1}",
    "Mean": "{0} + {1}",
}
# Attributes with their defaults, and the formula with their values.
WITH_NUMBERS: dict[str, tuple[dict[str, float], str]] = {
    "LeakyRelu": ({"alpha": 0.01}, "{0} < 0 ? {alpha} * {0} : {0}"),
    "Elu": ({"alpha": 1.0}, "{0} < 0 ? {alpha} * expm1({0}) : {0}"),
    "Celu": ({"alpha": 1.0}, "{0} < 0 ? {alpha} * expm1({0} / {alpha}) : {0}"),
    "Selu": (
        {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
        "{gamma} * ({0} <= 0 ? {alpha} * expm1({0}) : {0})",
    ),
    "ThresholdedRelu": ({"alpha": 1.0}, "({0} > {alpha}) | ({0} != {0}) ? {0} : (VECTOR)0"),
    "HardSwish": ({"half": 0.5}, "{0} * fmax((VECTOR)0, fmin((VECTOR)1, {0} / 6 + {half}))"),
    "HardSigmoid": (
        {"alpha": 0.2, "beta": 0.5},
        "fmax((VECTOR)0, fmin((VECTOR)1, {alpha} * {0} + {beta}))",
    ),
}
GELU = "{half} * {0} * erfc({0} * {root})"
GELU_TANH = "{half} * {0} * (1 + tanh({scale} * ({0} + {cube} * {0} * {0} * {0})))"
# fmin and fmax pass the number beside NaN: results that are NaN are said so.
DROPS_NAN = frozenset({"HardSwish", "HardSigmoid"})

Argument = str  # "x0", an input; "v1", a statement; or a literal
Statement = tuple[str, tuple[Argument, ...]]


def literal(value: float, dtype: np.dtype[Any]) -> str:
    """A number as C, exactly as the kernel's sums have it."""
    if dtype != np.float64:
        value = float(np.float32(value))
    if math.isnan(value):
        text = "NAN"
    elif math.isinf(value):
        text = "INFINITY" if value > 0 else "-INFINITY"
    else:
        text = value.hex() + ("" if dtype == np.float64 else "f")
    return f"(VECTOR)({text})"


@dataclass(frozen=True, eq=False)
class Expression:
    """An expression of device tensors that is still pending; `result` is its last argument."""

    shape: Shape
    dtype: np.dtype[Any]
    inputs: tuple[Tensor, ...] = ()
    statements: tuple[Statement, ...] = ()
    result: Argument = ""

    @classmethod
    def leaf(cls, tensor: Tensor) -> Expression:
        """A tensor as it is."""
        return cls(tensor.shape, tensor.dtype, (tensor,), (), "x0")

    @property
    def is_small(self) -> bool:
        """Whether more can be joined to it."""
        return len(self.inputs) <= MOST_INPUTS and len(self.statements) <= MOST_STATEMENTS

    def finish(self, work: Work, out: Tensor | None = None) -> Tensor:
        """Queues it."""
        y = work.recorder.empty(self.shape, self.dtype) if out is None else out
        texts = [form.format(*arguments) for form, arguments in self.statements]
        if not texts or self.result != f"v{len(texts) - 1}":
            texts.append(self.result)
        kernels.evaluate(work.recorder, texts, self.inputs, y)
        return y

    def fits(self, out: Tensor) -> bool:
        """Whether it can be written to a tensor of its shape that lies so."""
        strides = [broadcast_strides(one, self.shape) for one in self.inputs]
        return fits(self.shape, *strides, out=out.strides)


class _Joining:
    """Statements of several expressions, renumbered, inputs and equal statements once."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.statements: list[Statement] = []

    def add(self, one: Expression) -> Argument:
        """An expression's statements; what its result is called here."""
        names: dict[str, str] = {}
        for i, tensor in enumerate(one.inputs):
            if tensor not in self.inputs:
                self.inputs.append(tensor)
            names[f"x{i}"] = f"x{self.inputs.index(tensor)}"
        for i, (form, arguments) in enumerate(one.statements):
            names[f"v{i}"] = self.state(form, [names.get(a, a) for a in arguments])
        return names.get(one.result, one.result)

    def state(self, form: str, arguments: Sequence[Argument]) -> Argument:
        """A statement; what its result is called."""
        made = form, tuple(arguments)
        if made not in self.statements:
            self.statements.append(made)
        return f"v{self.statements.index(made)}"


def combined(
    work: Work,
    forms: Sequence[tuple[str, tuple[int | str, ...]]],
    values: Sequence[Value],
    *,
    in_text: bool = True,
) -> Expression:
    """Statements over values, broadcast to one shape: an argument is the number of a value, or "-1"
    for the statement before. Constants of one element are in the kernel's text, unless `in_text` is
    False: of nodes that each have another one all share a kernel then."""
    dtype = work.check(*values)
    shape = tuple(np.broadcast_shapes(*(one.shape for one in values)))
    operands = [_operand(work, one, shape, in_text) for one in values]
    joining = _Joining()
    names = [joining.add(one) for one in operands]
    if len(joining.inputs) > MOST_INPUTS or len(joining.statements) > MOST_STATEMENTS:
        joining = _Joining()
        names = [joining.add(_leaf(work, one, in_text)) for one in values]
    last = ""
    for form, arguments in forms:
        last = joining.state(form, [last if a == "-1" else names[int(a)] for a in arguments])
    strides = [broadcast_strides(one, shape) for one in joining.inputs]
    if not fits(shape, *strides):
        # Their own kernels may take arrays that together have too many dimensions.
        raise OnHost(f"shape {shape} has too many dimensions")
    return Expression(shape, dtype, tuple(joining.inputs), tuple(joining.statements), last)


def _operand(work: Work, value: Value, shape: Shape, in_text: bool) -> Expression:
    """A value in an expression of that shape: a pending one joins it if nothing else reads it."""
    pending = value.pending
    if isinstance(pending, Expression):
        joins = pending.shape == shape and pending.is_small and work.used_once(value)
        if joins:
            return pending
    return _leaf(work, value, in_text)


def _leaf(work: Work, value: Value, in_text: bool) -> Expression:
    if in_text and value.number is not None:
        return Expression(value.shape, value.dtype, (), (), literal(value.number, value.dtype))
    return Expression.leaf(work.tensor(value))


def formula(node: Node, dtype: np.dtype[Any]) -> str | None:
    """The formula of a node of one argument, None for other operators."""
    op, get = node.op, node.attributes.get
    if op == "Gelu":
        tanh = get("approximate", "none") == "tanh"
        numbers = {"half": 0.5, "root": -math.sqrt(0.5), "scale": math.sqrt(2 / math.pi),
                   "cube": 0.044715}  # fmt: skip
        return _numbered(GELU_TANH if tanh else GELU, numbers, dtype)
    if op in WITH_NUMBERS:
        defaults, form = WITH_NUMBERS[op]
        made = _numbered(form, {name: get(name, v) for name, v in defaults.items()}, dtype)
    elif op in UNARY:
        made = UNARY[op]
    else:
        return None
    return f"{{0}} != {{0}} ? {{0}} : {made}" if op in DROPS_NAN else made


def _numbered(form: str, numbers: Mapping[str, float], dtype: np.dtype[Any]) -> str:
    texts = {name: literal(value, dtype) for name, value in numbers.items()}
    return form.format("{0}", **texts)
