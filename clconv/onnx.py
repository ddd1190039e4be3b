"""ONNX's backend interface: 1-D convolutions on an OpenCL device, all other nodes by `onnx`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TypeProto, ValueInfoProto
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep, namedtupledict
from onnx.defs import onnx_opset_version
from onnx.helper import make_graph, make_model, make_opsetid, np_dtype_to_tensor_dtype
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as ReferenceConv
from onnx.reference.ops.op_conv_transpose import ConvTranspose as ReferenceConvTranspose
from onnx.reference.ops.op_log_softmax import LogSoftmax as ReferenceLogSoftmax
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool

from clconv import functional
from clconv.drivers.discovery import choose, devices, info_of
from clconv.errors import DeviceError, ProblemError
from clconv.geometry import Geometry
from clconv.problem import DTYPES
from clconv.runtime import Runtime, default_runtime

__all__ = ["Backend", "Prepared"]

SAME = ("SAME_UPPER", "SAME_LOWER")
AUTO_PADS = ("NOTSET", "VALID", *SAME)


# Attributes


def _is_ours(x: Any) -> bool:
    """Whether a node's data has one spatial axis and a dtype that clconv computes in."""
    return isinstance(x, np.ndarray) and x.ndim == 3 and x.dtype in DTYPES


def _integers(name: str, value: Sequence[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute of one spatial axis; ProblemError where it has more or fewer numbers."""
    if value is None:
        return default
    if len(value) != len(default):
        raise ProblemError(f"{name} is {list(value)}, expected {len(default)} for one spatial axis")
    return tuple(int(v) for v in value)


def _taps(w: Any, kernel_shape: Sequence[int] | None) -> int:
    if w.ndim != 3:
        raise ProblemError(f"W has shape {w.shape}, expected three dimensions, as X has")
    taps = int(w.shape[2])
    if kernel_shape is not None and tuple(kernel_shape) != (taps,):
        raise ProblemError(f"kernel_shape is {list(kernel_shape)}, expected {[taps]}, that of W")
    return taps


def _mode(auto_pad: str | None) -> str:
    mode = auto_pad or "NOTSET"
    if mode not in AUTO_PADS:
        raise ProblemError(f"auto_pad is {mode!r}, expected one of {', '.join(AUTO_PADS)}")
    return mode


def _geometry(
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    group: int | None,
    pads: Sequence[int] | None,
    mode: str,
) -> Geometry:
    """A convolution's attributes, without padding where the mode says something else."""
    (stride,) = _integers("strides", strides, (1,))
    (dilation,) = _integers("dilations", dilations, (1,))
    padding = _integers("pads", pads, (0, 0)) if mode == "NOTSET" else 0
    return Geometry(stride, padding, dilation, group or 1)


# Nodes: named as the operators, which is how the evaluator finds them.


class Conv(ReferenceConv):
    """Conv on the device where X is (N, C, L)."""

    op_domain = ""

    def _run(
        self,
        X: Any,
        W: Any,
        B: Any = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Any, ...]:
        if not _is_ours(X):
            result: tuple[Any, ...] = super()._run(
                X, W, B, auto_pad, dilations, group, kernel_shape, pads, strides
            )
            return result
        taps, mode = _taps(W, kernel_shape), _mode(auto_pad)
        geometry = _geometry(strides, dilations, group, pads, mode)
        if mode in SAME:
            geometry = geometry.with_same_length(X.shape[2], taps, mode == "SAME_LOWER")
        return (functional.conv1d(X, W, B, **geometry.options),)


class ConvTranspose(ReferenceConvTranspose):
    """ConvTranspose on the device where X is (N, C, L)."""

    op_domain = ""

    def _run(
        self,
        X: Any,
        W: Any,
        B: Any = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Any, ...]:
        if not _is_ours(X):
            result: tuple[Any, ...] = super()._run(
                X,
                W,
                B,
                auto_pad,
                dilations,
                group,
                kernel_shape,
                output_padding,
                output_shape,
                pads,
                strides,
            )
            return result
        taps, mode, length = _taps(W, kernel_shape), _mode(auto_pad), X.shape[2]
        (extra,) = _integers("output_padding", output_padding, (0,))
        sized = output_shape is not None or mode in SAME
        # With an output_shape pads do not count.
        geometry = _geometry(strides, dilations, group, None if sized else pads, mode)
        geometry = geometry._replace(transposed=True, output_padding=extra)
        if sized:
            (wanted,) = _integers("output_shape", output_shape, (geometry.same_length(length),))
            geometry = geometry.with_out_length(length, taps, wanted, mode != "SAME_UPPER")
            most = geometry.longest_out_length(length, taps)
            if extra < geometry.output_padding and wanted > most:
                raise ProblemError(f"output_shape is {[wanted]}, expected at most {[most]}")
        return (functional.conv_transpose1d(X, W, B, **geometry.options),)


# Nodes that the reference computes wrongly.


class LogSoftmax(ReferenceLogSoftmax):
    """LogSoftmax whose result is finite where softmax itself is 0 in floating point."""

    op_domain = ""

    def _run(self, X: Any) -> tuple[Any, ...]:
        shifted = X - X.max(axis=self.axis, keepdims=True)
        sums = np.exp(shifted).sum(axis=self.axis, keepdims=True)
        return ((shifted - np.log(sums)).astype(X.dtype, copy=False),)


class MaxPool(ReferenceMaxPool):
    """MaxPool by the reference's own general function, where it takes a wrong one for strides of 1
    with padding."""

    op_domain = ""

    def _run(self, x: Any, auto_pad: str | None = None, **named: Any) -> tuple[Any, ...]:
        explicit = auto_pad in (None, "NOTSET")
        run = self._max_pool if explicit else super()._run
        defaults = dict.fromkeys(("ceil_mode", "dilations", "pads", "storage_order", "strides"))
        result: tuple[Any, ...] = run(x, auto_pad=auto_pad, **{**defaults, **named})
        return result


OURS = (Conv, ConvTranspose, LogSoftmax, MaxPool)


class _Evaluator(ReferenceEvaluator):
    """The reference with our nodes, in functions and subgraphs too: it makes those by its class."""

    def __init__(
        self, proto: Any, *args: Any, new_ops: list[Any] | None = None, **named: Any
    ) -> None:
        # Of several of one name the reference takes the first, and hands all to subgraphs.
        super().__init__(proto, *args, new_ops=[*OURS, *(new_ops or ())], **named)


# Devices


@functools.cache
def _runtime_at(index: int) -> Runtime:
    """One runtime a device, so that models share programs and memory."""
    return Runtime(index)


def _cuda(device: str) -> int:
    """The index in `clconv.devices()` of ONNX's "CUDA" or "CUDA:1": NVIDIA's cards in order."""
    number = device.partition(":")[2] or "0"
    cards = [d for d in devices() if "nvidia" in d.vendor.lower() and d.why_not is None]
    if not number.isdecimal() or int(number) >= len(cards):
        names = ", ".join(f"CUDA:{i} = {card.name}" for i, card in enumerate(cards)) or "none"
        raise DeviceError(f"device is {device!r}, expected one of NVIDIA's that are here: {names}")
    return cards[int(number)].index


def _index(device: Any) -> int | None:
    """The index in `clconv.devices()` that a device's name means, None for the default runtime."""
    if not isinstance(device, str):
        raise DeviceError(
            f"device is {device!r}, expected 'CPU' (the default runtime), 'CUDA', 'CUDA:1', an "
            "index or id of clconv.devices(), part of a device's name, or a Runtime"
        )
    if device in ("CPU", "CPU:0"):
        choose()  # DeviceError where there is none
        return None
    if device.partition(":")[0] == "CUDA":
        return _cuda(device)
    return info_of(choose(device)).index


def _runtime(device: Any) -> Runtime:
    if isinstance(device, Runtime):
        return device
    index = _index(device)
    return default_runtime() if index is None else _runtime_at(index)


# The backend


def _no_options(options: Mapping[str, Any]) -> None:
    if options:
        raise ProblemError(f"{next(iter(options))} is an option that the backend does not have")


class Prepared(BackendRep):
    """A model ready to run, on one device."""

    def __init__(self, model: ModelProto, runtime: Runtime) -> None:
        self.runtime = runtime
        self._evaluator = _Evaluator(model)
        initialised = {one.name for one in model.graph.initializer}
        self._all = list(self._evaluator.input_names)
        self._needed = [name for name in self._all if name not in initialised]
        names = list(self._evaluator.output_names)
        self._outputs = namedtupledict("Outputs", names)

    def _feeds(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            values = list(inputs)
            names = self._needed if len(values) == len(self._needed) else self._all
            if len(values) != len(names):
                raise ProblemError(
                    f"inputs has {len(values)} values, expected {len(self._needed)}: "
                    f"{', '.join(self._needed)}"
                )
            feeds = dict(zip(names, values, strict=True))
        for name in feeds:
            if name not in self._all:
                raise ProblemError(f"inputs has {name!r}, expected {', '.join(self._all)}")
        for name in self._needed:
            if name not in feeds:
                raise ProblemError(f"inputs has no {name!r}, expected {', '.join(self._needed)}")
        return feeds

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, a named tuple that takes their names as keys too.

        `inputs` are NumPy arrays, by name or in the order of the model's; what initializers give
        may be left out. Raises ProblemError, DeviceError, and what onnx.reference raises.
        """
        _no_options(kwargs)
        feeds = self._feeds(inputs)
        with self.runtime:
            values = self._evaluator.run(None, feeds)
        outputs: tuple[Any, ...] = self._outputs(*values)
        return outputs


def _typed(name: str, value: Any) -> ValueInfoProto:
    info = ValueInfoProto(name=name)
    if isinstance(value, np.ndarray):
        tensor = TypeProto.Tensor(elem_type=np_dtype_to_tensor_dtype(value.dtype))
        info.type.CopyFrom(TypeProto(tensor_type=tensor))
    return info


class Backend(OnnxBackend):
    """Runs ONNX models; Conv and ConvTranspose with one spatial axis run on an OpenCL device.

    `device` is "CPU", which is ONNX's default and means clconv's default runtime, on any device;
    "CUDA" or "CUDA:1", NVIDIA's cards in the order of `clconv.devices()`; an index or id of that
    list or part of a device's name, as `Runtime` takes them; or a `Runtime`.
    """

    @classmethod
    def supports_device(cls, device: Any) -> bool:
        """Whether there is such a device."""
        if isinstance(device, Runtime):
            return True
        try:
            _index(device)
        except DeviceError:
            return False
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: Any = "CPU", **kwargs: Any) -> Prepared:
        """The model, checked, for a device. Raises ProblemError, DeviceError, and onnx.checker's
        ValidationError."""
        _no_options(kwargs)
        if not isinstance(model, ModelProto):
            raise ProblemError(f"model is a {type(model).__name__}, expected an onnx.ModelProto")
        runtime = _runtime(device)
        super().prepare(model, device)
        return Prepared(model, runtime)

    @classmethod
    def run_model(
        cls, model: ModelProto, inputs: Any, device: Any = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of a model, as `prepare(model, device).run(inputs)`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: Any = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """The outputs of one node; `opset_version` is the newest that onnx knows unless given.

        `inputs` by name or in order, None for an optional one that is left out; `outputs_info`
        isn't needed. Raises ProblemError, DeviceError, onnx.checker's ValidationError.
        """
        _no_options({name: v for name, v in kwargs.items() if name != "opset_version"})
        runtime = _runtime(device)
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        opsets = [make_opsetid("", kwargs.get("opset_version", onnx_opset_version()))]
        if node.domain:
            opsets.append(make_opsetid(node.domain, 1))
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            inputs = list(inputs)
            if len(inputs) > len(node.input):
                raise ProblemError(
                    f"inputs has {len(inputs)} values, expected at most {len(node.input)}: "
                    f"{', '.join(node.input)}"
                )
            inputs = dict(zip(node.input, inputs, strict=False))
        feeds = {name: value for name, value in inputs.items() if name}
        graph = make_graph(
            [node],
            "node",
            [_typed(name, value) for name, value in feeds.items()],
            [ValueInfoProto(name=name) for name in node.output if name],
        )
        return Prepared(make_model(graph, opset_imports=opsets), runtime).run(feeds)
