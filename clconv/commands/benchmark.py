"""How fast is clconv compared with its peers and the device's peaks, layer by layer?

Each implementation has a process of its own, which handles all layers, and only one of them
measures at a time: thread pools that spin after a call would take the cores from the next. They
take turns, round after round; a round's figure is the median of its calls, a layer's the median of
its rounds. Where /proc/stat tells that other processes used more than 5% of the machine, or a CPU's
plain arithmetic beside the round misses more than 10% of the most that it did, as where virtual
machines share a core, the round is thrown away and repeated; a figure of which most rounds stayed
noisy is flagged.

`benchmark_worker` tells what a call is. GFLOP/s count two operations a tap, those on padding
included; `backward` is all three gradients, and counts those of input and weight. The roof of a
layer is min(peak, flops / bytes * copy bandwidth), with each array's bytes once; peak and bandwidth
are measured before the layers and after them. Where clconv is above the roof, both are measured
once more; what still is gets a ^ and a reason. Arrays that stay in a cache can exceed it.

The weights of clconv and PyTorch are given anew in each call, ONNX Runtime has them as constants.
`--against prepared` adds clconv with weights that were prepared, forward; `--against exact` clconv
by variants that form the definition's own sums.

The cost model chooses clconv's kernels, unless the user's tuning did; the tuning records that come
with clconv are used with --shipped only.

With --all-candidates clconv's own plans are compared instead: see `benchmark_candidates`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clconv import progress
from clconv.commands import benchmark_candidates, options, roofline
from clconv.commands.benchmark_worker import (
    NOISY,
    OWN_KINDS,
    PEERS,
    Pace,
    Worker,
    WorkerError,
    is_noisy,
    quiet,
    same,
    settle,
)
from clconv.commands.layers import FAMILIES, PASSES, Layer, load, random_layers
from clconv.commands.text import table
from clconv.errors import DeviceError
from clconv.variants import VARIANTS
from clconv.variants.base import EXACT

ROOFLINE_SECONDS = 0.5
LONGEST_ROUND = 60.0
# Variants that do less than the definition's sums.
TRANSFORMING = {one.NAME for one in VARIANTS if one.ERROR_CLASS is not EXACT}


@dataclass
class Result:
    """One implementation on one pass of one layer. `plans` are those that clconv used."""

    implementation: str
    layer: str
    pass_: str
    median_us: float | None = None
    gflops: float | None = None
    roof_share: float | None = None
    rounds_us: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    noisy: bool = False
    error: str | None = None


@dataclass
class Comparison:
    """All implementations on one pass of one layer."""

    layer: Layer
    pass_: str
    results: dict[str, Result]

    @property
    def own(self) -> Result:
        """clconv's."""
        return self.results["clconv"]

    def ratio(self, peer: str) -> float | None:
        """The peer's time in clconv's; None where one of them has none."""
        own, other = self.own.median_us, self.results[peer].median_us
        return None if own is None or other is None else other / own

    def finish(self, roof: dict[str, Any]) -> None:
        """Fills in what follows from the rounds."""
        flops = self.layer.flops(self.pass_)
        attainable = attainable_gflops(self.layer, self.pass_, roof)
        for result in self.results.values():
            if result.rounds_us and result.error is None:
                result.median_us, result.noisy = settle(result.rounds_us, result.others)
                result.gflops = flops / result.median_us / 1e3
                result.roof_share = result.gflops / attainable


# Measuring


def compare(
    layer: Layer, pass_: str, workers: dict[str, Worker], rounds: int, seconds: float
) -> Comparison:
    """All implementations on one pass, in turns; one that fails drops out with its error."""
    results = {name: Result(name, layer.name, pass_) for name in workers}
    probes: dict[str, Any] = {}
    for name, worker in workers.items():
        try:
            answer = worker.ask("prepare", layer, pass_=pass_)
            probes[name], results[name].plans = answer["probes"], answer["plans"]
        except WorkerError as error:
            results[name].error = str(error)
    first = next(iter(probes), "")
    for name, found in probes.items():
        if not same(found, probes[first]):
            results[name].error = f"its results differ from those of {first}"
    for _ in range(rounds):
        for name, result in results.items():
            if result.error is None:
                try:
                    worker = workers[name]
                    found, others = quiet(partial(worker.ask, "measure", seconds=seconds), worker)
                except WorkerError as error:
                    result.error = str(error)
                else:
                    result.rounds_us.append(found["median_us"])
                    result.others.append(others)
    return Comparison(layer, pass_, results)


def measure_roofline(worker: Worker, seconds: float) -> dict[str, Any]:
    """The device's rates, and what part of the machine others used meanwhile."""
    seconds = min(ROOFLINE_SECONDS, seconds)
    found: dict[str, Any]
    found, others = quiet(partial(worker.ask, "roofline", seconds=seconds), worker)
    return found | {"others": others}


def best_roofline(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The larger of each rate: the device can do that."""
    peak = max(samples, key=lambda s: s["peak_gflops"])
    return peak | {"copy_gbs": max(s["copy_gbs"] for s in samples), "samples": list(samples)}


def attainable_gflops(layer: Layer, pass_: str, roof: dict[str, Any]) -> float:
    """The most that the rates of a device allow a layer."""
    intensity = layer.flops(pass_) / layer.nbytes(pass_)
    return min(float(roof["peak_gflops"]), intensity * float(roof["copy_gbs"]))


def is_above(one: Comparison, roof: dict[str, Any]) -> bool:
    """Whether clconv was faster than the rates of the device allow."""
    if one.own.error is not None or not one.own.rounds_us:
        return False
    median, _ = settle(one.own.rounds_us, one.own.others)
    rate = one.layer.flops(one.pass_) / median / 1e3
    return rate > attainable_gflops(one.layer, one.pass_, roof)


def measure_again(
    measured: Sequence[Comparison],
    own: Worker,
    samples: list[dict[str, Any]],
    rounds: int,
    seconds: float,
    shown: progress.Bar,
) -> None:
    """Once more what is above the roof, and the roof, which is another one of its samples."""
    above = [one for one in measured if is_above(one, best_roofline(samples))]
    if above:
        samples.append(measure_roofline(own, seconds))
    for one in above:
        shown.note = f"{one.layer.name} {one.pass_} again"
        again = compare(one.layer, one.pass_, {"clconv": own}, rounds, seconds).own
        one.own.rounds_us, one.own.others = again.rounds_us, again.others
        one.own.error = again.error


def why_above(one: Comparison, roof: dict[str, Any]) -> str:
    """What may lie behind that, measured twice."""
    if any(plan["variant"] in TRANSFORMING for plan in one.own.plans):
        return "its transforms need fewer operations than are counted"
    if roof["peak_gflops"] > attainable_gflops(one.layer, one.pass_, roof):
        return "its arrays stay in a cache, or the machine was busy while the copy was measured"
    return "the machine was busy while the peak was measured"


# Reporting


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def report(measured: Sequence[Comparison], peers: Sequence[str], roof: dict[str, Any]) -> str:
    """The table, what went wrong, then the summary."""
    header = ["layer", "pass", "clconv us", "GFLOP/s", "of roof"]
    for peer in peers:
        header += [f"{peer} us", "ratio"]
    rows, notes = [], []
    for one in measured:
        row = [one.layer.name, one.pass_]
        for name, result in one.results.items():
            row.append(_number(result.median_us, 1) + "!" * result.noisy)
            if name == "clconv":
                share = result.roof_share
                above = share is not None and share > 1
                row += [_number(result.gflops, 1),
                        _number(share and 100 * share, 0, "%") + "^" * above]  # fmt: skip
                if above:
                    notes.append(f"^ {one.layer.name} {one.pass_} is above the roof, in a second "
                                 f"measurement too: {why_above(one, roof)}")  # fmt: skip
            else:
                row.append(_number(one.ratio(name), 2))
            if result.error and not result.error.startswith("NotImplementedError"):
                notes.append(f"{one.layer.name} {one.pass_}: {name} failed: {result.error}")
        rows.append(row)
    if any(result.noisy for one in measured for result in one.results.values()):
        notes.append(NOISY)
    if any(is_noisy(sample["others"]) for sample in roof["samples"]):
        notes.append("the roofline was measured while other processes were busy")
    if any(None in result.others for one in measured for result in one.results.values()):
        notes.append("whether other processes were busy is not known here: no /proc/stat")
    lines = [table(header, rows, [h for h in header if h not in ("layer", "pass")]), *notes, ""]
    return "\n".join([*lines, roofline.text(roof), *summary(measured, peers, roof)])


def summary(
    measured: Sequence[Comparison], peers: Sequence[str], roof: dict[str, Any]
) -> list[str]:
    """A line per figure; layers that are tiny count for no time."""
    lines = []
    others = [peer for peer in peers if peer not in OWN_KINDS]
    for pass_ in dict.fromkeys(one.pass_ for one in measured):
        ours = [one for one in measured if one.pass_ == pass_ and not one.layer.is_tiny]
        for peer in peers:
            found = [(r, one.layer.name) for one in ours if (r := one.ratio(peer)) is not None]
            if found:
                mean = statistics.geometric_mean(ratio for ratio, _ in found)
                lines += [
                    f"{pass_}: {peer} takes {mean:.2f} times as long as clconv (geometric mean, "
                    f"layers: {len(found)})",
                    f"{pass_}: lowest ratio to {peer} {min(found)[0]:.2f} ({min(found)[1]})",
                ]
        beside = [one for one in ours if any(one.results[p].median_us for p in others)]
        if beside:
            fast = sum(_is_fastest(one, others) for one in beside)
            lines.append(
                f"{pass_}: clconv is at least as fast as the fastest peer on {fast} of "
                f"{len(beside)} layers"
            )
        dense, depthwise = [], []
        for one in ours:
            rate, name = one.own.gflops, one.layer.name
            if rate is not None and one.layer.is_dense:
                dense.append((rate / roof["peak_gflops"], name))
            if rate is not None and one.layer.is_depthwise:
                moved = rate / one.layer.flops(pass_) * one.layer.nbytes(pass_)
                depthwise.append((moved / roof["copy_gbs"], name))
        for kind, found, limit in (
            ("dense", dense, "peak"), ("depthwise", depthwise, "copy bandwidth"),
        ):  # fmt: skip
            if found:
                mean = statistics.geometric_mean(share for share, _ in found)
                share, name = min(found)
                lines += [
                    f"{pass_}: {kind} layers reach {mean:.0%} of the {limit} (geometric "
                    f"mean, layers: {len(found)})",
                    f"{pass_}: lowest share of {kind} layers {share:.0%} ({name})",
                ]
    return [*lines, *_workspaces(measured)]


def _is_fastest(one: Comparison, peers: Sequence[str]) -> bool:
    times = [t for peer in peers if (t := one.results[peer].median_us) is not None]
    return one.own.median_us is not None and one.own.median_us <= min(times)


def _workspaces(measured: Sequence[Comparison]) -> Iterator[str]:
    """The largest of each pass, in the bytes of the pass's arrays."""
    shares: dict[str, list[tuple[float, str]]] = {}
    for one in measured:
        for plan in one.own.plans:
            share = plan["workspace_bytes"] / plan["array_bytes"]
            shares.setdefault(plan["pass_"], []).append((share, one.layer.name))
    for pass_, found in shares.items():
        share, name = max(found)
        where = f" ({name})" if share else ""
        words = pass_.replace("_", " ")
        yield f"{words}: workspace of at most {share:.1%} of its arrays' bytes{where}"


# The command


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m clconv benchmark", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--layers", metavar="FILE",
        help="Python file with a list LAYERS, '' for none (default: the public set)")  # fmt: skip
    add("--no-layers", action="store_const", dest="layers", const="", help="random ones only")
    add("--random", type=options.at_least(0), default=0, metavar="N",
        help=f"adds random layers: {', '.join(FAMILIES)}")  # fmt: skip
    add("--seed", type=options.at_least(0), default=1, metavar="S", help="of the random layers")
    add("--select", default="", metavar="REGEX", help="layers with such a name")
    add("--passes", type=options.names(PASSES), default=list(PASSES), help=",".join(PASSES))
    add("--against", type=options.names(PEERS), default=["torch"], help=",".join(PEERS))
    add("--rounds", type=options.at_least(1), default=5)
    add("--round-seconds", type=options.seconds(LONGEST_ROUND), default=0.3, metavar="SECONDS",
        help="of each round")  # fmt: skip
    add("--device", help="clconv's: index, id or part of a name")
    add("--json", type=options.file, metavar="OUT", help="file for all figures")
    add(
        "--plot", type=options.picture, metavar="OUT", help="picture of the ratios and the roofline"
    )
    add("--shipped", action="store_true",
        help="plans with the tuning records that come with clconv, too")  # fmt: skip
    add("--all-candidates", action="store_true", help="compares clconv's own plans instead")
    add("--most-candidates", type=options.at_least(1), metavar="M",
        help=f"of a layer's pass, {benchmark_candidates.MOST} unless given")  # fmt: skip
    return parser


def _options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Layer]]:
    """What was asked for, and the layers; ends the process with a message where it makes none."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if not asked.passes:
        parser.error(f"--passes names no pass, expected some of {','.join(PASSES)}")
    if asked.most_candidates is not None and not asked.all_candidates:
        parser.error("--most-candidates is given without --all-candidates")
    if asked.shipped and asked.all_candidates:
        parser.error("--shipped is given with --all-candidates, which the cost model sorts")
    if asked.plot and asked.all_candidates:
        parser.error("--plot shows a comparison, which --all-candidates does not make")
    if asked.plot:
        options.require(parser, "matplotlib", "--plot", "tune")
    try:
        layers = [] if asked.layers == "" else load(asked.layers)
    except ValueError as error:
        parser.error(f"--layers: {error}")
    layers += random_layers(asked.random, asked.seed)
    if not layers:
        parser.error("no layers: neither of a file nor --random")
    try:
        layers = [layer for layer in layers if re.search(asked.select, layer.name)]
    except re.error as error:
        parser.error(f"--select is {asked.select!r}, no regular expression: {error}")
    if not layers:
        parser.error(f"--select is {asked.select!r}, which matches no layer")
    return asked, layers


def start(
    names: Sequence[str], device: str | None, stack: ExitStack, shipped: bool = False
) -> dict[str, Worker]:
    """The workers that can be had; clconv's with the tuning records that come with it if they are
    asked for. Raises DeviceError where it cannot be had."""
    workers = {}
    for name in names:
        try:
            workers[name] = stack.enter_context(Worker(name, device, shipped=shipped))
        except WorkerError as error:
            if name == "clconv":
                raise DeviceError(f"clconv does not run: {error}") from error
            print(f"{name} is left out: {error}", file=sys.stderr)
    own = workers["clconv"]
    if own.device and own.device["kind"] == "CPU":
        pace = Pace(own)
        for worker in workers.values():
            worker.pace = pace
    return workers


def machine() -> dict[str, Any]:
    """The computer."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """1 where clconv does not run."""
    asked, layers = _options(argv)
    alone = asked.all_candidates
    with ExitStack() as stack:
        try:
            names = ["clconv"] + ([] if alone else asked.against)
            workers = start(names, asked.device, stack, asked.shipped)
            own = workers["clconv"]
            content: dict[str, Any] = {
                "versions": {name: worker.version for name, worker in workers.items()},
                "machine": machine() | {"device": own.device},
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "rounds": asked.rounds,
                "round_seconds": asked.round_seconds,
                "layers": [asdict(layer) for layer in layers],
            }
            print("\n".join(content["versions"].values()), file=sys.stderr)
            passes = benchmark_candidates.passes(asked.passes) if alone else asked.passes
            steps = [(layer, pass_) for layer in layers for pass_ in passes]
            searches, measured = [], []
            how = (asked.rounds, asked.round_seconds)
            with progress.bar("measuring", "pass", len(steps)) as shown:
                shown.note = "the device's peaks"
                samples = [measure_roofline(own, asked.round_seconds)]
                for done, (layer, pass_) in enumerate(steps):
                    shown.tell(done, note=f"{layer.name} {pass_}")
                    if alone:
                        most = asked.most_candidates or benchmark_candidates.MOST
                        searches.append(benchmark_candidates.search(layer, pass_, own, most, *how))
                    else:
                        measured.append(compare(layer, pass_, workers, *how))
                shown.tell(len(steps), note="the device's peaks again")
                samples.append(measure_roofline(own, asked.round_seconds))
                measure_again(measured, own, samples, *how, shown)
        except (DeviceError, WorkerError) as error:
            print(error, file=sys.stderr)
            return 1
    roof = content["roofline"] = best_roofline(samples)
    if alone:
        print(benchmark_candidates.report(searches), roofline.text(roof), sep="\n")
        content["candidates"] = [asdict(search) for search in searches]
    else:
        for one in measured:
            one.finish(roof)
        peers = [name for name in workers if name != "clconv"]
        print(report(measured, peers, roof))
        content["results"] = [asdict(r) for one in measured for r in one.results.values()]
        content["summary"] = summary(measured, peers, roof)
    if asked.json:
        Path(asked.json).write_text(json.dumps(content, indent=1) + "\n")
    if asked.plot:
        from clconv.commands.benchmark_plot import draw

        draw(content, asked.plot)
    return 0
