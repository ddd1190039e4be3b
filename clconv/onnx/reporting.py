"""Where does each node of a model run, by which kernels, and why there?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from clconv.errors import ProblemError
from clconv.onnx.backend import Backend, Prepared
from clconv.onnx.graph import read_model
from clconv.onnx.tracing import Placed

__all__ = ["NodeReport", "Report", "report"]

# Of a length that a model leaves open.
OPEN_LENGTH = 256


@dataclass(frozen=True)
class NodeReport:
    """A node: `where` is "device", "constant" (computed once), "ONNX Runtime" or "onnx.reference";
    `why` has the kernels on the device, or why it is not there."""

    name: str
    op: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}  {self.op}  {self.where}: {self.why}"


class Report(tuple[NodeReport, ...]):
    """Nodes in their order; printed, one a line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(str, self))


def _entries(placed: Iterable[Placed]) -> Report:
    return Report(
        NodeReport(one.node.proto.name or next(filter(None, one.node.outputs)), one.node.op,
                   one.where, one.why)
        for one in placed
    )  # fmt: skip


def report(model: Any, inputs: Any = None, device: Any = "CPU") -> Report:
    """Each node of a model: where it runs, by which kernels, and why there.

    The model runs once.

    Args:
        model: as `Backend.prepare` takes it, or what that gave.
        inputs: as `Prepared.run` takes them; None means zeros of the shapes that the model says its
            inputs have: a batch that it leaves open is 1, another size 256.
        device: as `Backend.prepare` takes it.

    Returns:
        A tuple of nodes with `name`, `op`, `where` and `why`, printed one a line.

    Raises:
        ProblemError: the model does not say how many dimensions an input has. What running it
            raises comes through.
    """
    if isinstance(model, Prepared):
        prepared, proto = model, model.model
    else:
        proto = read_model(model)[0]
        prepared = Backend.prepare(model, device)
    prepared.run(_zeros(proto) if inputs is None else inputs)
    return _entries(prepared.placed)


def _zeros(model: ModelProto) -> dict[str, Any]:
    """Zeros for the inputs that no initializer gives."""
    known = {one.name for one in model.graph.initializer}
    feeds = {}
    for one in model.graph.input:
        if one.name in known:
            continue
        kind = one.type.tensor_type
        if not one.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise ProblemError(f"the model says no shape of input {one.name}, expected inputs")
        sizes = [d.dim_value or (OPEN_LENGTH if i else 1) for i, d in enumerate(kind.shape.dim)]
        feeds[one.name] = np.zeros(sizes, tensor_dtype_to_np_dtype(kind.elem_type))
    return feeds
