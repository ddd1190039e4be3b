"""One run of a model, node by node: on the device where a node can be, and recorded for later."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from clconv.errors import ProblemError
from clconv.onnx import convolutions, elementwise, expressions, reductions, shapes, windows
from clconv.onnx.graph import Graph, Node
from clconv.onnx.host import HostRunner
from clconv.onnx.program import Program, Scratch
from clconv.onnx.recording import HostRun, ShapeCheck
from clconv.onnx.work import OnHost, Pending, Value, Work, launched
from clconv.runtime import Runtime

__all__ = ["Placed", "Trace"]

Handler = Callable[[Work, Node, Sequence[Value | None]], list[Value]]

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys((*expressions.UNARY, *expressions.WITH_NUMBERS, "Gelu"), elementwise.unary),
    **dict.fromkeys(expressions.BINARY, elementwise.binary),
    **dict.fromkeys(expressions.CHAINED, elementwise.chained),
    "Dropout": elementwise.dropout,
    "Identity": elementwise.same,
    **dict.fromkeys(
        (one for one in reductions.OPERATIONS if one.startswith("Reduce")), reductions.reduction
    ),
    "Add": elementwise.add,
    "AveragePool": windows.pool,
    "BatchNormalization": elementwise.batch_normalisation,
    "Cast": elementwise.cast,
    "Clip": elementwise.clip,
    "Concat": shapes.concat,
    "Conv": convolutions.conv,
    "ConvTranspose": convolutions.conv_transpose,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherND": shapes.gather,
    "Gemm": convolutions.gemm,
    "GlobalAveragePool": reductions.global_pool,
    "GlobalMaxPool": reductions.global_pool,
    "GroupNormalization": reductions.group_normalisation,
    "InstanceNormalization": reductions.instance_normalisation,
    "LayerNormalization": reductions.layer_normalisation,
    "LogSoftmax": reductions.softmax,
    "MatMul": convolutions.matmul,
    "MaxPool": windows.pool,
    "PRelu": elementwise.prelu,
    "Pad": shapes.pad,
    "Pow": elementwise.power,
    "Quantised": elementwise.quantised,
    "Reshape": shapes.reshape,
    "Resize": windows.resize,
    "Slice": shapes.slice_,
    "Softmax": reductions.softmax,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": windows.resize,
}
# Element types that are computed on the device, as ONNX numbers them: of another first input a node
# is known to run on the host before its inputs are there.
FLOATS = (1, 10, 11, 16)
CONSTANT, DEVICE, HOST = "constant", "device", "host"


class Placed(NamedTuple):
    """Where a node ran, and by what, or why there."""

    node: Node
    where: str
    why: str


def fold(host: HostRunner, node: Node, values: dict[str, Value], runtime: Runtime) -> bool:
    """Computes a node whose inputs are all constants, which makes its outputs such."""
    read = [values.get(name) for name in node.reads]
    if node.parts or node.is_random or not all(one is not None and one.constant for one in read):
        return False
    feeds = {name: values[name].host for name in node.reads}
    names = [name for name in node.outputs if name]
    with runtime:
        results = host.constants(node, feeds, names)
    of_shapes = any(one is not None and one.of_shapes for one in read)
    for name, one in zip(names, results, strict=True):
        values[name] = Value.on_host(name, one, constant=True, of_shapes=of_shapes)
    return True


class Trace:
    """A run of a model with certain inputs."""

    def __init__(
        self,
        runtime: Runtime,
        graph: Graph,
        constants: Mapping[str, Value],
        kept: dict[Hashable, Any],
    ) -> None:
        self.work = Work(runtime, graph.uses, kept)
        self._graph = graph
        self._host = HostRunner(graph)
        self._waiting: list[Node] = []
        self.placed: list[Placed] = []
        self._pending: list[tuple[int, Pending]] = []
        self.values = self.work.values
        self.values.update(constants)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. Raises what nodes raise."""
        for name, array in feeds.items():
            self.values[name] = Value.on_host(name, array)
        for node in self._graph.nodes:
            with _named(node):
                self._node(node)
        self._flush()
        results: dict[str, Any] = {}
        # All is queued before the first result is waited for.
        for name in self._graph.outputs:
            value = self._value(name)
            if value.is_on_device:
                self.work.dense(value)
        for name in self._graph.outputs:
            results[name] = self.work.host(self._value(name))
        return results

    def _value(self, name: str) -> Value:
        value = self.values.get(name)
        if value is None:
            raise ProblemError(f"output {name!r} is given by no node")
        return value

    @property
    def constant_outputs(self) -> dict[str, Any]:
        """Outputs that are the same in every run."""
        return {name: self.values[name].host for name in self._graph.outputs
                if self.values[name].constant}  # fmt: skip

    def program(self, scratch: Scratch) -> Program:
        """What it did, to be done again."""
        recorder = self.work.recorder
        return Program(
            self.work.runtime, scratch, recorder.events, recorder.sizes, self._graph.outputs
        )

    # A node

    def _node(self, node: Node) -> None:
        """Runs a node, or lets it wait for others on the host."""
        for name in node.reads:
            if name not in self.values:
                raise ProblemError(f"input {name!r} is given by no node before")
        why = self._place(node)
        if why is not None:
            self._wait(node, why)
        self._read(node)

    def _wait(self, node: Node, why: str) -> None:
        for name in node.reads:
            value = self.values[name]
            if value.pending is not None:  # or nodes that follow would join it
                self.work.tensor(value)
        for one in node.parts or (node,):
            self._waiting.append(one)
            self.placed.append(Placed(one, HOST, why))
            for name in filter(None, one.outputs):
                self.values[name] = Value(name, waiting=True)

    def _place(self, node: Node) -> str | None:
        """Runs a node now; why it runs on the host with others if it does."""
        inputs = [self.values[name] if name else None for name in node.inputs]
        if self._fold(node, inputs):
            self.placed.append(Placed(node, CONSTANT, "its inputs are constants, or shapes"))
            return None
        handler = HANDLERS.get(node.op) if node.domain in ("", "clconv") else None
        if handler is None:
            return "no kernel for this operator"
        kind = self._graph.kinds.get(node.inputs[0] if node.inputs else "", 1)
        if kind not in FLOATS:
            return "it is not of floating-point numbers"
        if any(one is not None and one.waiting for one in inputs):
            self._flush()
            inputs = [self.values[name] if name else None for name in node.inputs]
        before = len(self.work.launched), len(self.work.recorder.events)
        try:
            results = handler(self.work, node, inputs)
        except OnHost as reason:
            return str(reason)
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                value.name = name
                self.values[name] = value
        self.placed.append(Placed(node, DEVICE, self._how(results, *before)))
        return None

    def _how(self, results: Sequence[Value], pending: int, events: int) -> str:
        """By which kernels that were queued since then, those left out that others were pending
        for."""
        found = launched(self.work.recorder.events[events:])
        for names in list(self.work.launched.values())[pending:]:
            for name in names:
                found.remove(name)
        one = results[0].pending
        if one is not None:
            self._pending.append((len(self.placed), one))
        return ", ".join(found) or "a view"

    @property
    def places(self) -> list[Placed]:
        """Where each node ran, once all have."""
        placed = list(self.placed)
        for i, one in self._pending:
            kernels = self.work.launched.get(one)
            why = "in the kernel of a node after it" if kernels is None else ", ".join(kernels)
            placed[i] = placed[i]._replace(why=why)
        return placed

    def _read(self, node: Node) -> None:
        """Counts what a node has read; what nothing else reads goes."""
        waiting = {name for one in self._waiting for name in one.reads}
        for name in node.reads:
            self.work.left[name] -= 1
            if not self.work.left[name] and name not in waiting:
                self.values.pop(name, None)
        for name in node.outputs:
            if not self.work.left.get(name) and name not in waiting:
                self.values.pop(name, None)

    # Constants

    def _fold(self, node: Node, inputs: Sequence[Value | None]) -> bool:
        """Computes a node now, and only now, whose result is the same in every run."""
        outputs = [self.values.get(name) for name in node.outputs if name]
        if all(one is not None and one.constant for one in outputs):
            return True
        if node.op in ("Shape", "Size") and not node.domain and inputs[0] is not None:
            if inputs[0].waiting:
                self._flush()
            x = self.values[node.inputs[0]]
            if x.dtype != object:
                if not x.is_on_device and not x.constant:  # or the upload checks it
                    self.work.recorder.events.append(ShapeCheck(x.name, x.shape))
                self.values[node.outputs[0]] = _shape(node, x)
                return True
        return fold(self._host, node, self.values, self.work.runtime)

    # Nodes on the host

    def _flush(self) -> None:
        """Runs the nodes that wait for the host."""
        nodes, self._waiting = self._waiting, []
        if not nodes:
            return
        made = {name for one in nodes for name in one.outputs if name}
        needed = dict.fromkeys(name for one in nodes for name in one.reads if name not in made)
        outputs = [name for name in made if self.work.left.get(name) and name in self.values]
        outputs.sort()
        feeds = {name: self.work.host(self.values[name]) for name in needed}
        constants = {name for name in needed if self.values[name].constant}
        segment = self._host.segment(nodes, feeds, outputs)
        with self.work.runtime:
            results = segment.run(*feeds.values())
        run = _with_constants(segment, {n: feeds[n] for n in constants})
        varying = tuple(name for name in feeds if name not in constants)
        self.work.recorder.events.append(HostRun(run, varying, tuple(outputs)))
        for name, host in zip(outputs, results, strict=True):
            self.values[name] = Value.on_host(name, host)
        self._tell(segment)
        for name in needed:
            if not self.work.left.get(name, 1):
                self.values.pop(name, None)

    def _tell(self, segment: Any) -> None:
        runners = segment.runners
        for i, one in enumerate(self.placed):
            name = next(filter(None, one.node.outputs))
            if one.where == HOST and name in runners:
                self.placed[i] = one._replace(where=runners[name] or "ONNX Runtime")


def _with_constants(segment: Any, constants: Mapping[str, Any]) -> Callable[..., list[Any]]:
    """The segment's `run`, of what is no constant."""
    names = segment.inputs

    def run(*arrays: Any) -> list[Any]:
        rest = iter(arrays)
        given = [constants[name] if name in constants else next(rest) for name in names]
        results: list[Any] = segment.run(*given)
        return results

    return run


def _shape(node: Node, x: Value) -> Value:
    """The result of Shape or Size."""
    import numpy as np

    name = node.outputs[0]
    start, end = node.attributes.get("start", 0), node.attributes.get("end", None)
    found = x.size if node.op == "Size" else x.shape[start:end]
    return Value.on_host(name, np.array(found, np.int64), constant=True, of_shapes=True)


@contextmanager
def _named(node: Node) -> Any:
    """Errors of a node name it."""
    try:
        yield
    except ProblemError as error:
        if not str(error).startswith("node "):
            raise type(error)(f"{node.label}: {error}") from error
        raise
