#!/usr/bin/env python3
"""How fast are clconv.signal's filters, beside SciPy, NumPy, PyTorch, torchaudio and julius?

Filters of many lengths, taps and batches, and resampling by several ratios, on NumPy arrays: copies
to a device and back are counted. `benchmark_signal_worker` tells what each implementation does;
where it knows several ways, the fastest counts.

Each implementation has a process of its own with OMP_WAIT_POLICY=passive, and they take turns,
round after round. A round's figure is the median of its calls, a case's the median of its rounds;
rounds beside which others used the machine are repeated and flagged as by
`python -m clconv benchmark`. Before anything is timed, results of the same filter are compared with
SciPy's: no value may differ by more than 1e-3 of the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmark_signal_worker import CLASSES, SAME_FILTER, Case, start

from clconv import progress
from clconv.commands import options
from clconv.commands.benchmark import machine
from clconv.commands.benchmark_worker import NOISY, TRIES, Pace, Worker, WorkerError, quiet, settle
from clconv.commands.text import table

BOUND = 1e-3
MOST_CALLS = 50
# Of the picture: what it shows, and how.
KINDS = {"filter": "filters", "resample": "resampling"}
FASTER, SLOWER = "#1b7f5c", "#b8860b"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 100)
# Signals from here on count in the summary.
LONG = 10**5


def cases() -> list[Case]:
    """Lengths 10**3 to 10**7, taps 3 to 10**5, batches, up and down factors."""
    found = [
        Case("filter", length, taps)
        for length in (10**3, 10**4, 10**5, 10**6, 10**7)
        for taps in (3, 31, 301, 3001, 10**4, 10**5)
        if taps <= length
    ]
    found += [Case("filter", 10**5, taps, batch=16) for taps in (31, 301, 3001)]
    found += [
        Case("resample", length, 0, up=up, down=down)
        for length in (10**4, 10**5, 10**6, 10**7)
        for up, down in ((2, 1), (1, 4), (3, 2), (160, 441), (147, 160))
    ]
    return found + [Case("resample", 10**5, 0, 16, 160, 441)]


@dataclass
class Result:
    """One implementation of one case."""

    implementation: str
    median_ms: float | None = None
    rounds_ms: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    noisy: bool = False
    error: str | None = None


@dataclass
class Measured:
    """A case with what was measured of it."""

    case: Case
    results: dict[str, Result]

    def ratio(self, peer: str) -> float | None:
        """clconv's time in the peer's."""
        ours, theirs = (self.results.get(name) for name in ("clconv", peer))
        if ours is None or theirs is None or not ours.median_ms or not theirs.median_ms:
            return None
        return ours.median_ms / theirs.median_ms

    def best_peer(self) -> tuple[float, str] | None:
        """clconv's time in the fastest peer's, and that one's name."""
        found = [(r, n) for n in self.results if n != "clconv" and (r := self.ratio(n)) is not None]
        return max(found, default=None)


@dataclass(frozen=True)
class How:
    """How everything is measured."""

    rounds: int
    seconds: float
    tries: int


def measure(case: Case, workers: dict[str, Worker], how: How, folder: Path) -> Measured:
    """One case in every implementation, in turns; one that fails drops out with its error."""
    results = {name: Result(name) for name in workers}
    slowest, reference = 0.0, None
    for name in sorted(workers, key=lambda one: one != "scipy"):
        file = folder / f"{name}.npy"
        try:
            told = workers[name].ask("prepare", case=asdict(case), file=str(file))
        except WorkerError as error:
            results[name].error = str(error)
            continue
        slowest = max(slowest, told["seconds"])
        made = np.load(file)
        file.unlink()
        if name == "scipy":
            reference = made
        elif reference is not None and name in SAME_FILTER:
            apart = made.shape != reference.shape or not (
                float(np.abs(made - reference).max()) <= BOUND * float(np.abs(reference).max())
            )
            results[name].error = "its result is not SciPy's" if apart else None
    calls = max(1, min(MOST_CALLS, int(how.seconds / max(slowest, 1e-9))))
    for turn in range(how.rounds):
        names = [name for name in workers if results[name].error is None]
        for name in names if turn % 2 else names[::-1]:
            ask = partial(workers[name].ask, "measure", calls=calls)
            try:
                found, others = quiet(ask, workers[name], how.tries)
            except WorkerError as error:
                results[name].error = str(error)
                continue
            results[name].rounds_ms.append(1e3 * statistics.median(found["seconds"]))
            results[name].others.append(others)
    for result in results.values():
        if result.rounds_ms and result.error is None:
            result.median_ms, result.noisy = settle(result.rounds_ms, result.others)
    return Measured(case, results)


def report(everything: Sequence[Measured], names: Sequence[str], notes: list[str]) -> str:
    """The table, what went wrong, then the summary."""
    header = ["case", *(f"{name} ms" for name in names), "of the best"]
    rows = []
    for one in everything:
        row = [one.case.name]
        for name in names:
            result = one.results.get(name)
            known = result is not None and result.median_ms is not None
            row.append(f"{result.median_ms:.3f}" + "!" * result.noisy if known else "-")
            if result is not None and result.error and not result.error.startswith("NotServed"):
                notes.append(f"{one.case.name}: {name} failed: {result.error.splitlines()[0]}")
        best = one.best_peer()
        rows.append([*row, "-" if best is None else f"{best[0]:.2f} ({best[1]})"])
    if any(result.noisy for one in everything for result in one.results.values()):
        notes.append(NOISY)
    return "\n".join([table(header, rows, header[1:]), *notes, "", *summary(everything)])


def summary(everything: Sequence[Measured]) -> list[str]:
    """Below 1, clconv is faster than the fastest of the others."""
    long = [
        (best[0], one.case.name)
        for one in everything
        if one.case.length >= LONG and (best := one.best_peer()) is not None
    ]
    if not long:
        return ["no signal of 10**5 samples or more was compared"]
    mean = statistics.geometric_mean(ratio for ratio, _ in long)
    faster = sum(ratio <= 1 for ratio, _ in long)
    return [
        f"from {LONG} samples on clconv takes {mean:.2f} times as long as the fastest other "
        f"(geometric mean), is at least as fast in {faster} of {len(long)} cases, at worst "
        f"{max(long)[0]:.2f} ({max(long)[1]})"
    ]


def draw(everything: Sequence[Measured], path: str) -> None:
    """Saves a picture: the fastest other's time in clconv's, with its name, of each case."""
    from benchmark_models_plot import ratio_axis
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        found = [
            (one.case, best)
            for one in everything
            if one.case.kind == kind and (best := one.best_peer()) is not None
        ]
        ratios = [1 / ratio for _, (ratio, _) in found]
        colours = [SLOWER if ratio < 1 else FASTER for ratio in ratios]
        axes.barh(range(len(found)), [r - 1 for r in ratios], left=1, color=colours)
        for place, (ratio, (_, (_, peer))) in enumerate(zip(ratios, found, strict=True)):
            axes.text(max(ratio, 1), place, f" {ratio:.3g} {peer}", va="center", fontsize=7)
        ratio_axis(axes, [case.name for case, _ in found], TICKS)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(KINDS[kind])
        axes.set_xlabel("the fastest other's time in clconv's")
    figure.savefig(path, dpi=110)


def read(path: str) -> tuple[dict[str, str], list[Measured]]:
    """What `--json` wrote: versions, and what was measured."""
    content = json.loads(Path(path).read_text())
    found = [
        Measured(Case(**one["case"]), {name: Result(**r) for name, r in one["results"].items()})
        for one in content["cases"]
    ]
    return content["versions"], found


def started(names: Sequence[str], device: str | None, stack: ExitStack) -> dict[str, Worker]:
    """The processes, of those that run; the others are told."""
    workers: dict[str, Worker] = {}
    for name in names:
        try:
            workers[name] = stack.enter_context(start(name, device))
        except WorkerError as error:
            print(f"{name} is left out: {error}")
    own = workers.get("clconv")
    if own is not None and own.device and own.device["kind"] == "CPU":
        pace = Pace(own)
        for worker in workers.values():
            worker.pace = pace
    return workers


def tell_again(paths: Sequence[str], plot: str | None) -> int:
    """The report, and the picture, of what runs measured earlier, in the order of `cases`."""
    versions: dict[str, str] = {}
    by_name: dict[str, Measured] = {}
    for path in paths:
        those, found = read(path)
        versions |= those
        by_name |= {one.case.name: one for one in found}
    everything = [by_name[case.name] for case in cases() if case.name in by_name]
    print(report(everything, list(versions), [f"{n}: {v}" for n, v in versions.items()]))
    if plot:
        draw(everything, plot)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """1 where clconv was timed on nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    peers = [name for name in CLASSES if name != "clconv"]
    add("--only", default="", metavar="REGEX", help="cases with such a name")
    add("--against", type=options.names(peers), default=peers, metavar="PEERS",
        help=f"some of {','.join(peers)} (all)")  # fmt: skip
    add("--rounds", type=options.at_least(1), default=5, help="(%(default)s)")
    add("--round-seconds", type=options.seconds(60.0), default=0.3, metavar="SECONDS",
        help="of each round, about; one call at least (%(default)s)")  # fmt: skip
    add("--tries", type=options.at_least(1), default=TRIES,
        help="of a round while others are busy (%(default)s)")  # fmt: skip
    add("--device", help="clconv's: index, id or part of a name")
    add("--json", type=options.file, metavar="FILE", help="for all figures")
    add("--read", nargs="+", metavar="FILE",
        help="measures nothing, but tells of what --json wrote earlier")  # fmt: skip
    add("--plot", type=options.file, metavar="FILE", help="for a picture; needs matplotlib")
    asked = parser.parse_args(argv)
    if asked.read:
        return tell_again(asked.read, asked.plot)
    chosen = [case for case in cases() if re.search(asked.only, case.name)]
    if not chosen:
        parser.error(f"--only is {asked.only!r}, which matches no case")
    how = How(asked.rounds, asked.round_seconds, asked.tries)
    load_before = os.getloadavg() if hasattr(os, "getloadavg") else None
    everything = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = started(["clconv", *asked.against], asked.device, stack)
        versions = {name: worker.version for name, worker in workers.items()}
        shown = stack.enter_context(progress.bar("measuring", "case", len(chosen)))
        for done, case in enumerate(chosen):
            shown.tell(done, note=case.name)
            everything.append(measure(case, workers, how, Path(folder)))
    print(report(everything, list(workers), []))
    if asked.json:
        content = {
            "machine": machine() | {"load_before": load_before},
            "versions": versions,
            "rounds": asked.rounds,
            "cases": [asdict(one) for one in everything],
            "summary": summary(everything),
        }
        Path(asked.json).write_text(json.dumps(content, indent=1) + "\n")
    if asked.plot:
        draw(everything, asked.plot)
    timed = any(one.results.get("clconv", Result("")).median_ms for one in everything)
    return 0 if timed else 1


if __name__ == "__main__":
    sys.exit(main())
