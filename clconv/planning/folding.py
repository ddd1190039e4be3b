"""Which measured choice is a layer's, whatever its batch and length? What is shipped follows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from clconv.planning.planner import Choice, plans
from clconv.planning.profiles import DeviceProfile
from clconv.planning.records import Record
from clconv.planning.shipped import Measured, ShippedRecord
from clconv.problem import Conv1dProblem, Layer, Pass

__all__ = [
    "LEAST_GAIN",
    "LEAST_LENGTHS",
    "agreed",
    "folded",
    "gain",
    "joined",
    "modelled_choice",
    "time_of",
]

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
            joined(device for device, _ in ours),
            joined(run.driver for _, run in ours),
            joined(run.library for _, run in ours),
            time.strftime("%Y-%m-%d", time.gmtime(last)),
        )


def joined(names: Iterable[str]) -> str:
    """Each name once."""
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


def modelled_choice(device: DeviceProfile, problem: Conv1dProblem, pass_: Pass) -> Choice:
    """What the cost model chooses."""
    return plans(problem, pass_, device)[0].choice
