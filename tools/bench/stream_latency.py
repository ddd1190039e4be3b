#!/usr/bin/env python3
"""How long does a chunk of 10 ms take through a causal decoder, beside PyTorch and ONNX Runtime?

    python tools/bench/stream_latency.py [--device D] [--chunks N] [--frames F] [--json FILE]

The network is one such as EnCodec decodes with: 128 features in, transposed convolutions by 8, 5
and 4 with a residual block each, ELU between them, one sample out; a feature frame is 160 samples,
10 ms at 16 kHz. Weights are random. clconv streams it. PyTorch and ONNX Runtime get the same
network with its last inputs as explicit states: eager in inference mode, and as a graph whose
states stay in ONNX Runtime's own memory. Each runs alone in a process of its own, with as many
threads as there are cores, from NumPy frame to NumPy samples; the first chunks are not counted.
The samples of all must agree. Prints milliseconds a chunk and the real-time factor, the time of a
chunk as a part of 10 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Frame = NDArray[np.float32]
Step = Callable[[Frame], Frame]

FEATURES, CHANNELS, RATIOS = 128, 256, (8, 5, 4)
SAMPLES, CHUNK_MS = 160, 10.0
WARM_UP = 100
CLOSE = 1e-4  # of the largest sample; results differ in rounding


class Op(NamedTuple):
    """A layer: "conv", "deconv", "elu" or "tanh"; or "residual", whose branch is added to its
    input."""

    kind: str
    weight: Any = None
    bias: Any = None
    stride: int = 1
    branch: tuple[Op, ...] = ()


def decoder() -> list[Op]:
    """The network, the same in every process."""
    rng = np.random.default_rng(0)

    def layer(kind: str, inputs: int, outputs: int, size: int, stride: int = 1) -> Op:
        shape = (outputs, inputs, size) if kind == "conv" else (inputs, outputs, size)
        scale = np.sqrt(stride / (inputs * size))
        weight = rng.standard_normal(shape) * scale
        bias = rng.standard_normal(outputs) * 0.1
        return Op(kind, weight.astype(np.float32), bias.astype(np.float32), stride)

    elu, channels = Op("elu"), CHANNELS
    ops = [layer("conv", FEATURES, channels, 7)]
    for ratio in RATIOS:
        half = channels // 2
        ops += [elu, layer("deconv", channels, half, 2 * ratio, ratio)]
        inner = (elu, layer("conv", half, half // 2, 3), elu, layer("conv", half // 2, half, 1))
        ops.append(Op("residual", branch=inner))
        channels = half
    return [*ops, elu, layer("conv", channels, 1, 7), Op("tanh")]


def clconv_step(device: str | None, frames: int) -> tuple[Step, str]:
    """clconv's stream, and what it runs on."""
    import clconv
    from clconv import Activation, Conv1D, Deconv1D, Parallel, Sequential
    from clconv.streaming import StreamingSequential

    runtime = clconv.Runtime(device)

    def chain(ops: Any) -> Sequential:
        net = Sequential()
        for op in ops:
            if op.kind == "residual":
                net.append(Parallel("sum").append(chain(op.branch)).append(Sequential()))
            elif op.kind in ("elu", "tanh"):
                net.append(Activation(op.kind))
            else:
                outputs, inputs, size = op.weight.shape
                made: Any = Conv1D(inputs, outputs, size, pad="causal", initscheme="none")
                if op.kind == "deconv":
                    inputs, outputs, size = op.weight.shape
                    made = Deconv1D(inputs, outputs, size, op.stride, "causal", initscheme="none")
                # Arrays that nobody else has, so that the weights are known not to change.
                made.getVar("W").replace(runtime.to_device(op.weight[:, :, None]), None)
                made.getVar("b").replace(runtime.to_device(op.bias.reshape(1, -1, 1, 1)), None)
                net.append(made)
        return net

    with runtime:
        net = chain(decoder())
        net.evalMode()
        stream = StreamingSequential(net)

        def step(frame: Frame) -> Frame:
            result: Frame = stream(runtime.to_device(frame)).get()
            return result

        step(np.zeros((1, FEATURES, frames), np.float32))
        stream.reset()
    info = runtime.info
    return step, f"{info.name}, {info.platform} {info.driver}"


def torch_step(device: str | None, frames: int) -> tuple[Step, str]:
    """PyTorch's functions, each with its last inputs."""
    import torch
    from torch import Tensor
    from torch.nn import functional

    states: dict[int, Tensor] = {}

    def tensors(ops: Any) -> list[Op]:
        return [
            op._replace(branch=tuple(tensors(op.branch)))
            if op.weight is None
            else op._replace(weight=torch.tensor(op.weight), bias=torch.tensor(op.bias))
            for op in ops
        ]

    def through(x: Tensor, ops: Any) -> Tensor:
        for op in ops:
            if op.kind == "elu":
                x = functional.elu(x)
            elif op.kind == "tanh":
                x = torch.tanh(x)
            elif op.kind == "residual":
                x = x + through(x, op.branch)
            else:
                key, size = id(op), op.weight.shape[2]
                kept = size - 1 if op.kind == "conv" else (size - 1) // op.stride
                if kept:
                    old = states.get(key)
                    old = torch.zeros(1, x.shape[1], kept) if old is None else old
                    x = torch.cat([old, x], 2)
                    states[key] = x[:, :, -kept:]
                if op.kind == "conv":
                    x = functional.conv1d(x, op.weight, op.bias)
                else:
                    first, count = kept * op.stride, (x.shape[2] - kept) * op.stride
                    x = functional.conv_transpose1d(x, op.weight, op.bias, op.stride)
                    x = x[:, :, first : first + count]
        return x

    ops = tensors(decoder())

    @torch.inference_mode()
    def step(frame: Frame) -> Frame:
        result: Frame = through(torch.from_numpy(frame), ops).numpy()
        return result

    return step, f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


def onnx_graph(frames: int) -> tuple[bytes, list[tuple[str, tuple[int, ...]]]]:
    """The network as an ONNX model, and the names and shapes of its states."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []
    states: list[tuple[str, tuple[int, ...]]] = []

    def constant(values: Any) -> str:
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"y{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def cut(x: str, first: int, end: int, out: str | None = None) -> str:
        places = [constant(np.array([v], np.int64)) for v in (first, end, 2)]
        name = node("Slice", x, *places)
        if out:
            nodes[-1].output[0] = name = out
        return name

    def through(x: str, length: int, ops: Any) -> tuple[str, int]:
        for op in ops:
            if op.kind in ("elu", "tanh"):
                x = node(op.kind.capitalize(), x)
            elif op.kind == "residual":
                x = node("Add", x, through(x, length, op.branch)[0])
            else:
                size = op.weight.shape[2]
                kept = size - 1 if op.kind == "conv" else (size - 1) // op.stride
                if kept:
                    maps = op.weight.shape[1 if op.kind == "conv" else 0]
                    name = f"state{len(states)}"
                    states.append((name, (1, maps, kept)))
                    x = node("Concat", name, x, axis=2)
                    cut(x, length, length + kept, f"{name}_out")
                given = constant(op.weight), constant(op.bias)
                if op.kind == "conv":
                    x = node("Conv", x, *given)
                else:
                    x = node("ConvTranspose", x, *given, strides=[op.stride])
                    x = cut(x, kept * op.stride, (kept + length) * op.stride)
                    length *= op.stride
        return x, length

    out, length = through("x", frames, decoder())
    ends = [("x", (1, FEATURES, frames)), *states]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends]
    ends = [(out, (1, 1, length)), *((f"{n}_out", s) for n, s in states)]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends]
    graph = helper.make_graph(nodes, "decoder", given, made, weights)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString(), states


def onnxruntime_step(device: str | None, frames: int) -> tuple[Step, str]:
    """ONNX Runtime's session; the states go from its outputs to its inputs as they are."""
    import onnxruntime

    model, shapes = onnx_graph(frames)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    states = {name: value(np.zeros(shape, np.float32)) for name, shape in shapes}

    def step(frame: Frame) -> Frame:
        out, *new = session.run_with_ort_values(names, {"x": value(frame), **states})
        states.update(zip((name for name, _ in shapes), new, strict=True))
        result: Frame = out.numpy()
        return result

    return step, f"ONNX Runtime {onnxruntime.__version__}, {options.intra_op_num_threads} threads"


STEPS = {"clconv": clconv_step, "PyTorch": torch_step, "ONNX Runtime": onnxruntime_step}


def work(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each chunk by one of them, its last samples, and what it is."""
    rng = np.random.default_rng(1)
    step, what = STEPS[name](args.device, args.frames)
    times, last = [], []
    for i in range(WARM_UP + args.chunks):
        frame = rng.standard_normal((1, FEATURES, args.frames)).astype(np.float32)
        start = time.perf_counter()
        result = step(frame)
        times.append((time.perf_counter() - start) * 1e3)
        if i >= WARM_UP + args.chunks - 10:
            last += result.ravel().tolist()
    return {"name": name, "what": what, "ms": times[WARM_UP:], "last": last}


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a process of its own gives for each."""
    options = ["--chunks", str(args.chunks), "--frames", str(args.frames)]
    if args.device:
        options += ["--device", args.device]
    for name in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.json"
            worker = [sys.executable, __file__, "--worker", name, "--json", str(path)]
            subprocess.run([*worker, *options], check=True)
            yield json.loads(path.read_text())


def main() -> int:
    """Prints the table; 1 where samples disagree."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="clconv's, as CLCONV_DEVICE")
    parser.add_argument("--chunks", type=int, default=3000)
    parser.add_argument("--frames", type=int, default=1, help="feature frames a chunk")
    parser.add_argument("--json", help="where to write the times")
    parser.add_argument("--worker", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        Path(args.json).write_text(json.dumps(work(args.worker, args)))
        return 0
    found = list(measured(args))
    span = CHUNK_MS * args.frames
    print(f"{'ms a chunk of ' + format(span, 'g') + ' ms':26}   median    99.9%  real-time factor")
    agree = True
    for one in found:
        times = np.array(one["ms"])
        middle, high = np.median(times), np.quantile(times, 0.999)
        factor = times.mean() / span
        print(f"{one['name']:26}{middle:9.3f}{high:9.3f}{factor:12.4f}  ({one['what']})")
        apart = np.abs(np.array(one["last"]) - np.array(found[0]["last"])).max()
        agree = agree and apart <= CLOSE * np.abs(found[0]["last"]).max()
    if args.json:
        Path(args.json).write_text(json.dumps(found))
    if not agree:
        print("the samples disagree")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
