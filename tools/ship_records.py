"""Folds databases of tuning records into a file that comes with clconv.

A layer's record is kept where several lengths of it were tuned, and one candidate, the fastest of
at least one of them, was faster than what the cost model chose, and still chooses, by more than 5%
in each. All other layers are left to the cost model.

The file is for the device that runs this, unless --architecture (any with the same cores and
caches) or --default (any at all) says otherwise. It goes to clconv/planning/shipped_records.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from clconv import Runtime
from clconv.errors import DeviceError
from clconv.planning import shipped
from clconv.planning.planner import Choice, plans
from clconv.planning.profiles import DeviceProfile
from clconv.planning.records import Record, load
from clconv.planning.shipped import Measured, ShippedRecord, Target
from clconv.problem import Conv1dProblem, Layer, Pass

# Times as fast as without the record, at each size.
LEAST_GAIN = 1.05
LEAST_LENGTHS = 2


def time_of(record: Record, choice: Choice) -> float | None:
    """What a candidate took in a run; None where it was not timed to the end."""
    found = (one.median_us for one in record.candidates if one.choice == choice)
    return next(found, None)


def gain(record: Record, choice: Choice) -> float:
    """How many times as fast a candidate was as what the cost model chose; 0 where not known."""
    before, after = record.untuned, time_of(record, choice)
    if before is None or before.median_us is None or not after:
        return 0.0
    return before.median_us / after


def agreed(runs: Sequence[Record]) -> Choice | None:
    """The candidate that all runs of a layer recommend: the one that gains most."""
    if len({run.key.problem.length for run in runs}) < LEAST_LENGTHS:
        return None
    winners = [run.choice for run in runs]
    gains = [[gain(run, choice) for run in runs] for choice in winners]
    able = [place for place, every in enumerate(gains) if min(every) > LEAST_GAIN]
    return winners[max(able, key=lambda place: math.prod(gains[place]))] if able else None


def folded(
    databases: Iterable[tuple[str, Sequence[Record]]],
    modelled: Callable[[Conv1dProblem, Pass], Choice],
) -> Iterator[ShippedRecord]:
    """The records to ship, of devices with their records, in the order of layers. Runs in which the
    cost model chose something else than it does now (`modelled`) say nothing."""
    runs: dict[tuple[Layer, Pass], list[tuple[str, Record]]] = {}
    for device, records in databases:
        newest = {one.key: one for one in sorted(records, key=lambda one: one.written)}
        for key, record in newest.items():
            before = record.untuned
            if key.workspace_limit is not None or before is None:
                continue
            if before.choice == modelled(key.problem, key.pass_):
                runs.setdefault((key.problem.layer, key.pass_), []).append((device, record))
    names = {pass_: place for place, pass_ in enumerate(Pass)}
    order = sorted(runs, key=lambda key: (*key[0][:-1], key[0].dtype.name, names[key[1]]))
    for layer, pass_ in order:
        ours = runs[layer, pass_]
        choice = agreed([run for _, run in ours])
        if choice is None:
            continue
        last = max(run.written for _, run in ours)
        yield ShippedRecord(
            layer,
            pass_,
            choice,
            tuple(measured(run, choice) for _, run in ours),
            _all(device for device, _ in ours),
            _all(run.driver for _, run in ours),
            _all(run.library for _, run in ours),
            time.strftime("%Y-%m-%d", time.gmtime(last)),
        )


def _all(names: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(names))


def measured(run: Record, choice: Choice) -> Measured:
    """What is kept of a run in which the candidate was timed, as was what the model chose."""
    problem, before, after = run.key.problem, run.untuned, time_of(run, choice)
    assert before is not None
    assert before.median_us is not None
    assert after is not None
    return Measured(
        problem.batch,
        problem.length,
        problem.pads,
        problem.positions(run.key.pass_),
        round(after, 1),
        round(before.median_us, 1),
        before.choice,
    )


def _modelled(device: DeviceProfile, problem: Conv1dProblem, pass_: Pass) -> Choice:
    """What the cost model chooses."""
    return plans(problem, pass_, device)[0].choice


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=first, epilog=rest)
    add = parser.add_argument
    add("databases", nargs="*", type=Path, metavar="DATABASE",
        help="a file that `python -m clconv tune` names (default: the device's own)")  # fmt: skip
    add("--device", help="index, id or part of a name")
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--architecture", action="store_true", help="for all devices like it")
    level.add_argument("--default", action="store_true", help="for all devices")
    add("--out", required=True, type=Path, metavar="FILE", help="the file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a database is damaged, or there is no such device."""
    asked = _parser().parse_args(argv)
    try:
        runtime = Runtime(asked.device)
        databases = [load(path) for path in asked.databases or [runtime.records.path]]
    except (DeviceError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    facts = None if asked.default else shipped.architecture(runtime.profile)
    target = Target(None, None, facts)
    if not asked.default and not asked.architecture:
        target = Target(runtime.info.name, runtime.info.platform, facts)
    modelled = partial(_modelled, runtime.profile)
    found = list(folded(databases, modelled))
    content = shipped.text(target, found)
    shipped.parse(content)
    asked.out.write_text(content, "utf-8")
    layers = {(one.key.problem.layer, one.key.pass_) for _, records in databases for one in records}
    print(f"{asked.out}: {len(found)} of {len(layers)} passes of layers")
    for one in found:
        gains = ", ".join(f"{size.untuned_us / size.median_us:.2f}" for size in one.measured)
        sizes = " ".join(map(str, one.layer[:-1]))
        print(f"  {sizes} {one.layer.dtype} {one.pass_.value}: {one.choice.variant}, {gains} times "
              "as fast")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
