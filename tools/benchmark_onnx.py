#!/usr/bin/env python3
"""How fast are exported 1-D networks by `clconv.onnx`, beside ONNX Runtime?

`benchmark_onnx_models` has the networks, which PyTorch's exporter writes; `benchmark_onnx_worker`
tells what is measured: a call with NumPy arrays in and out. Each implementation has a process of
its own, and they take turns, round after round. A round's figure is the median of its calls, a
network's the median of its rounds; rounds beside which others used the machine are repeated and
flagged as by `python -m clconv benchmark`. Before anything is timed the outputs of one call are
compared with PyTorch's in float64: neither may differ by more than 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark_onnx_models import NETWORKS, built, export
from benchmark_onnx_worker import IMPLEMENTATIONS, start

from clconv.commands import options
from clconv.commands.benchmark import machine
from clconv.commands.benchmark_worker import NOISY, Worker, WorkerError, quiet, settle
from clconv.commands.text import table

OUTPUT_BOUND = 1e-5
MOST_CALLS, LEAST_CALLS = 300, 5
# What is wanted of networks that take ONNX Runtime longer than this, and of shorter ones.
LONG_MS, LONG_RATIO, SHORT_RATIO = 1.0, 1.1, 2.0


@dataclass
class Result:
    """One implementation of a network; `difference` is that of its outputs from float64 ones, as a
    part of the largest of them."""

    rounds_ms: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    difference: float | None = None
    error: str = ""

    @property
    def median_ms(self) -> float | None:
        """None where it did not run."""
        return settle(self.rounds_ms, self.others)[0] if self.rounds_ms else None

    def __str__(self) -> str:
        if self.median_ms is None:
            return "-"
        return f"{self.median_ms:.3f}" + "!" * settle(self.rounds_ms, self.others)[1]


def exact_output(name: str) -> tuple[dict[str, Any], Any]:
    """The input of a network by name, and PyTorch's output of it in float64."""
    model, x = built(name)
    return {"input": x.numpy()}, model.double()(x.double()).detach().numpy()


def prepare(worker: Worker, result: Result, files: tuple[Path, Path, Path], expected: Any) -> float:
    """Lets a worker make a network ready, and compares its outputs; seconds of a call."""
    model, inputs, outputs = files
    try:
        told = worker.ask("prepare", model=str(model), inputs=str(inputs), results=str(outputs))
    except WorkerError as error:
        result.error = str(error)
        return 0.0
    with np.load(outputs) as found:
        y = found["arr_0"]
    result.difference = float(abs(y - expected).max() / abs(expected).max())
    if not result.difference <= OUTPUT_BOUND:
        result.error = f"its outputs differ by {result.difference:.1e} of the largest"
    seconds: float = told["seconds"]
    return seconds


def measure(
    name: str, workers: dict[str, Worker], asked: argparse.Namespace, folder: Path
) -> dict[str, Result]:
    """A network in both implementations, in turns."""
    results = {one: Result() for one in workers}
    model, inputs = folder / "model.onnx", folder / "inputs.npz"
    export(name, str(model), not asked.torchscript)
    feeds, expected = exact_output(name)
    import onnx

    (given,) = onnx.load(str(model), load_external_data=False).graph.input
    np.savez(inputs, **{given.name: feeds["input"]})
    slowest = 0.0
    for one, worker in workers.items():
        files = model, inputs, folder / f"{one}.npz"
        slowest = max(slowest, prepare(worker, results[one], files, expected))
    calls = max(LEAST_CALLS, min(MOST_CALLS, int(asked.round_seconds / max(slowest, 1e-9))))
    for turn in range(asked.rounds):
        names = [one for one in workers if not results[one].error]
        for one in names if turn % 2 else names[::-1]:
            ask = partial(workers[one].ask, "measure", calls=calls)
            found, others = quiet(ask, workers[one])
            results[one].rounds_ms.append(1e3 * statistics.median(found["seconds"]))
            results[one].others.append(others)
    return results


def report(everything: dict[str, dict[str, Result]]) -> str:
    """The table, what went wrong, and whether times are as wanted."""
    rows, notes, late = [], [], []
    for name, results in everything.items():
        ours, theirs = (results.get(one, Result()) for one in IMPLEMENTATIONS)
        ratio = "-"
        if ours.median_ms is not None and theirs.median_ms is not None:
            part = ours.median_ms / theirs.median_ms
            ratio = f"{part:.2f}"
            wanted = LONG_RATIO if theirs.median_ms > LONG_MS else SHORT_RATIO
            if part > wanted:
                late.append(f"{name} ({part:.2f}, wanted {wanted})")
        differences = [f"{one.difference:.1e}" if one.difference is not None else "-"
                       for one in (ours, theirs)]  # fmt: skip
        shape = "x".join(map(str, NETWORKS[name].shape))
        rows.append([name, shape, str(ours), str(theirs), ratio, *differences])
        notes += [f"{name}: {one} failed: {r.error.splitlines()[0]}"
                  for one, r in results.items() if r.error]  # fmt: skip
        if any("!" in str(one) for one in results.values()) and NOISY not in notes:
            notes.append(NOISY)
    header = [
        "network",
        "input",
        "clconv ms",
        "onnxruntime ms",
        "ratio",
        "clconv error",
        "its error",
    ]
    notes.append("slower than wanted: " + ", ".join(late) if late else "all as fast as wanted")
    return "\n".join([table(header, rows, header[2:]), *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", default="", metavar="REGEX", help="networks with such a name")
    add("--device", help="index, id or part of a name")
    add("--rounds", type=int, default=3, help="how often they take turns (3)")
    add("--round-seconds", type=float, default=0.3, help="of calls in a round (0.3)")
    add("--torchscript", action="store_true", help="exports by PyTorch's older exporter")
    asked = parser.parse_args(argv)
    for package in ("torch", "onnx", "onnxruntime"):
        options.require(parser, package, "the benchmark", "models")
    names = [name for name in NETWORKS if re.search(asked.only, name)]
    everything: dict[str, dict[str, Result]] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = {one: stack.enter_context(start(one, asked.device)) for one in IMPLEMENTATIONS}
        told = machine()
        print(f"{told['cpu']}, {told['cores']} cores")
        for worker in workers.values():
            print(worker.version)
        for name in names:
            everything[name] = measure(name, workers, asked, Path(folder))
    print(report(everything))
    return int(any(one.error for results in everything.values() for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
