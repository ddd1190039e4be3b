#!/usr/bin/env python3
"""How fast are public 1-D networks with clconv's convolutions, beside PyTorch and ONNX Runtime?

`benchmark_models_list` names the networks, each as its package builds it, with random weights; the
extra `models` names the packages, some of which drag in so much that `pip install --no-deps` is the
better way. A network whose package is missing is left out, in one line.
`benchmark_models_worker` tells what is measured.

Each implementation of a network has a process of its own with OMP_WAIT_POLICY=passive, and they
take turns, round after round. A round's figure is the median of its calls, a pass's the median of
its rounds; rounds beside which others used the machine are repeated and flagged as by
`python -m clconv benchmark`. Before anything is timed, the results of one call are compared with
PyTorch's: no output may differ by more than 1e-3 of the largest, and no gradient of a training step
by more than 1e-2 of its parameter's largest (at least of a thousandth of the largest of all).

With --lengths the input's length changes at every call, between half and all of the usual, and a
round's figure is the mean of its calls; such rounds are not repeated, since lengths would be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark_models_worker import IMPLEMENTATIONS, PASSES, Network, load, start

from clconv import progress
from clconv.commands import options
from clconv.commands.benchmark import machine
from clconv.commands.benchmark_worker import NOISY, TRIES, Pace, Worker, WorkerError, quiet, settle
from clconv.commands.text import table

LIST = str(Path(__file__).with_name("benchmark_models_list.py"))
OUTPUT_BOUND = 1e-3
GRADIENT_BOUND = 1e-2
# Of the largest gradient: what is smaller, as of a bias before a batch norm, is rounding alone.
GRADIENT_FLOOR = 1e-3
MOST_CALLS = 50
REFERENCE = "torch"


@dataclass
class Result:
    """One implementation of one pass of a network. `difference` is the share of the bound's scale
    by which its results differ from PyTorch's."""

    network: str
    pass_: str
    implementation: str
    batch: int
    length: int
    median_ms: float | None = None
    rounds_ms: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    noisy: bool = False
    difference: float | None = None
    error: str | None = None


@dataclass
class Measured:
    """A network with what was measured of it; `missing` is a package that is not installed."""

    name: str
    package: str
    parameters: int | None = None
    convolutions: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: str | None = None
    errors: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def median(self, pass_: str, implementation: str) -> float | None:
        """In milliseconds; None where there is none."""
        for one in self.results:
            if (one.pass_, one.implementation) == (pass_, implementation):
                return one.median_ms
        return None

    def ratio(self, pass_: str, peer: str) -> float | None:
        """clconv's time in the peer's."""
        ours, theirs = self.median(pass_, "clconv"), self.median(pass_, peer)
        return None if ours is None or theirs is None else ours / theirs


# Comparing


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference of results from PyTorch's in bounds, and the name of where it is."""
    if ours.keys() != theirs.keys():
        return float("inf"), "the names of the gradients"
    gradients = [float(abs(a).max(initial=0)) for name, a in theirs.items() if name != "output"]
    floor = GRADIENT_FLOOR * max(gradients, default=0.0)
    worst = (0.0, "")
    for name, reference in theirs.items():
        if ours[name].shape != reference.shape:
            return float("inf"), f"the shape of {name}"
        largest = float(abs(reference).max(initial=0))
        if name == "output":
            allowed = OUTPUT_BOUND * largest
        else:
            allowed = GRADIENT_BOUND * max(largest, floor)
        apart = float(abs(ours[name] - reference).max(initial=0))
        # Not a number compares with nothing: that is as far as can be.
        share = apart / allowed if allowed and apart == apart else float("inf") * (apart != 0)
        worst = max(worst, (share, name))
    return worst


def read(file: Path) -> dict[str, np.ndarray]:
    """What a worker wrote."""
    with np.load(file) as found:
        return dict(found)


# Measuring


@dataclass(frozen=True)
class How:
    """What the options say about measuring."""

    file: str
    against: list[str]
    passes: list[str]
    rounds: int
    seconds: float
    tries: int
    changing: bool
    device: str | None


def workers_of(network: Network, how: How, found: Measured, stack: ExitStack) -> dict[str, Worker]:
    """The processes that start; why others do not is noted."""
    workers: dict[str, Worker] = {}
    for name in (REFERENCE, "clconv", *how.against):
        if name in workers:
            continue
        try:
            worker = start(name, how.file, network.name, how.changing, how.device)
        except WorkerError as error:
            if name != REFERENCE:
                found.errors.append(f"{name} does not run: {error}")
                continue
            if str(error).endswith("is not installed"):
                found.missing = str(error)
            else:
                found.errors.append(f"{name} does not run: {error}")
            break
        workers[name] = stack.enter_context(worker)
        found.versions[name] = worker.version
    own = workers.get("clconv")
    if own is not None and own.device and own.device["kind"] == "CPU":
        pace = Pace(own)
        for worker in workers.values():
            worker.pace = pace
    return workers


def describe(found: Measured, workers: dict[str, Worker]) -> None:
    """Fills in the size of a network, and where its convolutions are computed."""
    for worker in workers.values():
        told = worker.ask("describe")
        found.parameters = told["parameters"]
        found.convolutions = told["convolutions"] or found.convolutions


def measure(
    network: Network, pass_: str, how: How, workers: dict[str, Worker], folder: Path
) -> list[Result]:
    """One pass in every implementation, in turns; one that fails drops out with its error."""
    batch = 1 if pass_ == "one" else network.many
    results = {n: Result(network.name, pass_, n, batch, network.length) for n in workers}
    slowest, reference = 0.0, None
    for name, worker in workers.items():
        result, file = results[name], folder / f"{network.name}-{pass_}-{name}.npz"
        try:
            slowest = max(slowest, worker.ask("prepare", pass_=pass_, file=str(file))["seconds"])
        except WorkerError as error:
            result.error = str(error)
            continue
        if name == REFERENCE:
            reference = read(file)
        elif reference is not None:
            result.difference, where = difference(read(file), reference)
            if result.difference > 1:
                result.error = f"{where} differs by {result.difference:.3g} of what it may"
        file.unlink()
    calls = max(1, min(MOST_CALLS, int(how.seconds / max(slowest, 1e-9))))
    for turn in range(how.rounds):
        names = [name for name in workers if results[name].error is None]
        for name in names if turn % 2 else names[::-1]:
            one_round(workers[name], results[name], calls, turn, how)
    for result in results.values():
        if result.rounds_ms and result.error is None:
            result.median_ms, result.noisy = settle(result.rounds_ms, result.others)
    return list(results.values())


def one_round(worker: Worker, result: Result, calls: int, turn: int, how: How) -> None:
    """Adds a round's figure."""
    ask = partial(worker.ask, "measure", calls=calls, turn=turn)
    try:
        found, others = quiet(ask, worker, 1 if how.changing else how.tries)
    except WorkerError as error:
        result.error = str(error)
        return
    middle = statistics.mean if how.changing else statistics.median
    result.rounds_ms.append(1e3 * middle(found["seconds"]))
    result.others.append(others)


def measure_all(networks: Sequence[Network], how: How) -> list[Measured]:
    """Every network, one after the other; one that fails does not stop the rest."""
    everything = []
    with (
        tempfile.TemporaryDirectory() as folder,
        progress.bar("measuring", "network", len(networks)) as shown,
    ):
        for done, network in enumerate(networks):
            shown.tell(done, note=network.name)
            found = Measured(network.name, network.package)
            everything.append(found)
            if how.changing and network.fixed:
                found.errors.append(f"left out with --lengths: {network.fixed}")
                continue
            with ExitStack() as stack:
                workers = workers_of(network, how, found, stack)
                try:
                    describe(found, workers)
                except WorkerError as error:
                    found.errors.append(str(error))
                    continue
                for pass_ in how.passes if workers else ():
                    shown.tell(done, note=f"{network.name} {pass_}")
                    found.results += measure(network, pass_, how, workers, Path(folder))
    return everything


# Reporting


def report(everything: Sequence[Measured], names: Sequence[str]) -> str:
    """The table, what went wrong, then the summary."""
    peers = [name for name in names if name != "clconv"]
    header = ["network", "Mparam", "on clconv", "pass", "batch", "clconv ms"]
    for peer in peers:
        header += [f"{peer} ms", f"clconv/{peer}"]
    rows, notes = [], []
    for one in everything:
        if one.missing:
            notes.append(f"{one.name} is left out: {one.missing} (pip install {one.package})")
        notes += [f"{one.name}: {error.splitlines()[0]}" for error in one.errors if error]
        for pass_ in dict.fromkeys(result.pass_ for result in one.results):
            rows.append(_row(one, pass_, peers))
        notes += [
            f"{one.name} {r.pass_}: {r.implementation} failed: {r.error.splitlines()[0]}"
            for r in one.results
            if r.error and not r.error.startswith("NotImplementedError")
        ]
    results = [result for one in everything for result in one.results]
    if any(result.noisy for result in results):
        notes.append(NOISY)
    if any(None in result.others for result in results):
        notes.append("whether other processes were busy is not known here: no /proc/stat")
    right = [name for name in header if name not in ("network", "pass")]
    return "\n".join([table(header, rows, right), *notes, "", *summary(everything, peers)])


def _row(one: Measured, pass_: str, peers: Sequence[str]) -> list[str]:
    of = {r.implementation: r for r in one.results if r.pass_ == pass_}
    size = "-" if one.parameters is None else f"{one.parameters / 1e6:.2f}"
    where = one.convolutions
    counted = f"{where['clconv']}/{sum(where.values())}" if where else "-"
    batch = next(iter(of.values())).batch
    row = [one.name, size, counted, pass_, str(batch), _time(of.get("clconv"))]
    for peer in peers:
        ratio = one.ratio(pass_, peer)
        row += [_time(of.get(peer)), "-" if ratio is None else f"{ratio:.2f}"]
    return row


def _time(result: Result | None) -> str:
    if result is None or result.median_ms is None:
        return "-"
    return f"{result.median_ms:.2f}" + "!" * result.noisy


def summary(everything: Sequence[Measured], peers: Sequence[str]) -> list[str]:
    """A line for each pass and peer: below 1, clconv is faster."""
    lines = []
    for pass_ in PASSES:
        for peer in peers:
            found = [
                (r, one.name) for one in everything if (r := one.ratio(pass_, peer)) is not None
            ]
            if found:
                mean = statistics.geometric_mean(ratio for ratio, _ in found)
                faster = sum(ratio < 1 for ratio, _ in found)
                lines.append(
                    f"{pass_}: clconv takes {mean:.2f} times as long as {peer} (geometric mean), "
                    f"is faster on {faster} of {len(found)} networks, at worst "
                    f"{max(found)[0]:.2f} ({max(found)[1]})"
                )
    return lines


# The command


def _options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Network]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", default="", metavar="REGEX", help="networks with such a name")
    add("--networks", default=LIST, metavar="FILE",
        help="Python file with a list NETWORKS (default: the public ones)")  # fmt: skip
    peers = [name for name in IMPLEMENTATIONS if name not in ("clconv", REFERENCE)]
    add("--against", type=options.names(peers), default=["onnxruntime"], metavar="PEERS",
        help="beside PyTorch: some of onnxruntime,compile; compile is torch.compile, which needs "
        "a C++ compiler (onnxruntime)")  # fmt: skip
    add("--passes", type=options.names(PASSES), default=list(PASSES), metavar="PASSES",
        help=f"some of {','.join(PASSES)}: inference on one series and on many, a training step "
        "(all)")  # fmt: skip
    add("--rounds", type=options.at_least(1), default=5, help="(%(default)s)")
    add("--round-seconds", type=options.seconds(60.0), default=0.5, metavar="SECONDS",
        help="of each round, about; one call at least (%(default)s)")  # fmt: skip
    add("--tries", type=options.at_least(1), default=TRIES,
        help="of a round while others are busy (%(default)s)")  # fmt: skip
    add("--lengths", action="store_true", help="another length at every call")
    add("--device", help="clconv's: index, id or part of a name")
    add("--json", type=options.file, metavar="FILE", help="for all figures")
    asked = parser.parse_args(argv)
    if not asked.passes:
        parser.error(f"--passes names no pass, expected some of {','.join(PASSES)}")
    try:
        networks = load(asked.networks)
    except ValueError as error:
        parser.error(f"--networks: {error}")
    try:
        networks = [one for one in networks if re.search(asked.only, one.name)]
    except re.error as error:
        parser.error(f"--only is {asked.only!r}, no regular expression: {error}")
    if not networks:
        parser.error(f"--only is {asked.only!r}, which matches no network")
    return asked, networks


def main(argv: Sequence[str] | None = None) -> int:
    """1 where clconv was timed on no network."""
    asked, networks = _options(argv)
    how = How(
        asked.networks, asked.against, asked.passes, asked.rounds, asked.round_seconds,
        asked.tries, asked.lengths, asked.device,
    )  # fmt: skip
    load_before = os.getloadavg() if hasattr(os, "getloadavg") else None
    began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    everything = measure_all(networks, how)
    names = ["clconv", REFERENCE, *asked.against]
    print(report(everything, names))
    if asked.json:
        content = {
            "machine": machine() | {"load_before": load_before},
            "time": began,
            "rounds": asked.rounds,
            "round_seconds": asked.round_seconds,
            "lengths": asked.lengths,
            "networks": [asdict(one) for one in everything],
            "summary": summary(everything, names[1:]),
        }
        Path(asked.json).write_text(json.dumps(content, indent=1) + "\n")
    timed = any(one.median(p, "clconv") is not None for one in everything for p in PASSES)
    return 0 if timed else 1


if __name__ == "__main__":
    sys.exit(main())
