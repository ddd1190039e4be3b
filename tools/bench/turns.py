#!/usr/bin/env python3
"""How long do a layer's kernels take by several designs, call by call in turns?

    python tools/bench/turns.py --layers tools/bench/short_filters.py [--device D]
        [--select wavenet] [--passes forward] [--designs auto,exact,strip] [--seconds 3]

`python -m clconv benchmark --against exact` compares processes that take turns. Here one process
queues the designs one after the other, so that all meet the machine's moods: what differs by less
than a tenth is told apart sooner. "auto" is what users get, without the tuning records that come
with clconv, "exact" the best of direct sums, a variant's name its best tile. Medians, with what is
derived from the weights made anew each time, and times of the others as parts of the first that
can serve. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import os
import re

from dtypes import medians

from clconv import Conv1dProblem, Pass, Runtime, settings
from clconv.commands.layers import load
from clconv.commands.text import table
from clconv.errors import ProblemError
from clconv.planning.planner import KernelPlan
from clconv.tuning.bench import Bench, integers
from clconv.variants import VARIANTS


def design(runtime: Runtime, problem: Conv1dProblem, pass_: Pass, name: str) -> KernelPlan | None:
    """The first plan of "auto", of direct sums, or of a variant; None where that cannot serve."""
    asked = {"exact": True} if name == "exact" else {"variant": name}
    try:
        return next(runtime.candidates(problem, pass_, **asked))
    except ProblemError:
        return None


def main() -> None:
    """Prints a line for each pass of each layer."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="index, id or part of the name of a device")
    parser.add_argument("--layers", help="a file with a list LAYERS; the public set unless given")
    parser.add_argument("--select", default="", help="a pattern of layers' names")
    parser.add_argument("--passes", default="forward,input_gradient,weight_gradient")
    parser.add_argument("--designs", default="auto,exact")
    parser.add_argument("--seconds", type=float, default=3.0, help="for a line")
    arguments = parser.parse_args()
    names = arguments.designs.split(",")
    known = ["auto", "exact", *(variant.NAME for variant in VARIANTS)]
    if not set(names) <= set(known):
        parser.error(f"--designs is {arguments.designs!r}, expected some of {', '.join(known)}")
    passes = [Pass.of(one) for one in arguments.passes.split(",")]
    os.environ |= settings.environment(shipped=False)
    lines = []
    with Runtime(arguments.device) as runtime:
        print(runtime, flush=True)
        for layer in load(arguments.layers):
            if not re.search(arguments.select, layer.name):
                continue
            for pass_ in passes:
                found = [design(runtime, layer.problem, pass_, name) for name in names]
                plans = [one for one in found if one is not None]
                if not plans:
                    lines.append([layer.name, pass_.value, *["-"] * (len(names) + 2)])
                    continue
                bench = Bench(runtime, layer.problem, pass_, integers(layer.problem), plans)
                jobs = [bench.job(one) for one in plans]
                times = iter(medians(runtime, jobs, arguments.seconds))
                taken = [None if one is None else next(times) for one in found]
                first = next(one for one in taken if one is not None)
                said = [f"{first:.3f}", *("-" if t is None else f"{t / first:.2f}" for t in taken)]
                variants = " ".join("-" if one is None else one.variant for one in found)
                lines.append([layer.name, pass_.value, *said, variants])
    print(table(("layer", "pass", "ms", *names, "variants"), lines))


if __name__ == "__main__":
    main()
