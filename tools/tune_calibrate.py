"""Which constants let the cost model agree best with measured times?

Each constant of the variants' modules, and each number of a profile that is not whole, is moved up
and down for as long as the modelled times of the candidates of each pass get closer to the measured
ones, but for a factor that the candidates share. What changes the candidates themselves is left
alone.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from types import ModuleType

from benchmark_candidates import LEAST_RANKED, NEAR, spearman

from clconv import DeviceProfile
from clconv.listing import table
from clconv.planner import Choice, plans
from clconv.records import Record

FACTORS = (2.0, 1.25)
# A constant may move this far, and moves only if the error falls by this part.
FARTHEST, LEAST_BETTER = 8.0, 1e-3
SWEEPS = 3


@dataclass(frozen=True)
class Constant:
    """A number of the cost model: in modules, which have it under one name, or in the profile."""

    name: str
    value: float
    modules: tuple[ModuleType, ...]

    @property
    def label(self) -> str:
        """Where it is, and its name."""
        where = self.modules[0].__name__.rpartition(".")[2] if self.modules else "profile"
        return f"{where}.{self.name}"


def constants(profile: DeviceProfile) -> list[Constant]:
    """All that there are."""
    found: dict[tuple[str, float], list[ModuleType]] = {}
    package = importlib.import_module("clconv.variants")  # clconv has a function of that name
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, float) and value > 0:
                found.setdefault((name, value), []).append(module)
    ours = [Constant(name, value, tuple(found[name, value])) for name, value in found]
    numbers = {field.name: getattr(profile, field.name) for field in fields(profile)}
    ours += [
        Constant(name, value, ())
        for name, value in numbers.items()
        if isinstance(value, float) and value > 0
    ]
    return ours


@contextmanager
def changed(values: Mapping[Constant, float], profile: DeviceProfile) -> Iterator[DeviceProfile]:
    """The profile, with the constants at other values."""
    try:
        for constant, value in values.items():
            for module in constant.modules:
                setattr(module, constant.name, value)
        own = {c.name: value for c, value in values.items() if not c.modules}
        yield replace(profile, **own)
    finally:
        for constant in values:
            for module in constant.modules:
                setattr(module, constant.name, constant.value)


@dataclass(frozen=True)
class Sample:
    """The measured candidates of a pass."""

    record: Record
    times: Mapping[int, float]  # by the place among the record's candidates

    def costs(self, profile: DeviceProfile) -> list[float] | None:
        """The modelled times of the same candidates; None where one is no candidate any more."""
        key = self.record.key
        found = plans(key.problem, key.pass_, profile, workspace_limit=key.workspace_limit)
        modelled = {_hashable(plan.choice): plan.cost for plan in found}
        wanted = [_hashable(self.record.candidates[place].choice) for place in self.times]
        if not all(one in modelled for one in wanted):
            return None
        return [modelled[one] for one in wanted]


def _hashable(choice: Choice) -> tuple[object, ...]:
    return (choice.variant, *sorted(choice.tile.items()))


def samples(records: Sequence[Record]) -> list[Sample]:
    """Of the records with enough timed candidates."""
    found = []
    for record in records:
        timed = {i: c.median_us for i, c in enumerate(record.candidates) if c.median_us is not None}
        if len(timed) >= LEAST_RANKED:
            found.append(Sample(record, timed))
    return found


def error(found: Sequence[Sample], profile: DeviceProfile) -> float:
    """The mean variance of log(measured / modelled) among a pass's candidates."""
    variances = []
    for sample in found:
        costs = sample.costs(profile)
        if costs is None:
            return math.inf
        pairs = zip(sample.times.values(), costs, strict=True)
        variances.append(statistics.pvariance([math.log(time / cost) for time, cost in pairs]))
    return statistics.fmean(variances)


def fit(found: Sequence[Sample], profile: DeviceProfile) -> dict[Constant, float]:
    """The constants at their best values, by coordinate descent; only those that change."""
    every = constants(profile)
    values: dict[Constant, float] = {}
    least = error(found, profile)

    def tried(constant: Constant, value: float) -> float:
        with changed({**values, constant: value}, profile) as other:
            return error(found, other)

    # What has no bearing on any candidate's rank need not be tried again.
    every = [c for c in every if tried(c, c.value * FACTORS[0]) not in (least, math.inf)]
    for sweep in range(SWEEPS):
        before = least
        for constant in every:
            for factor in FACTORS[min(sweep, 1) :]:
                for step in (factor, 1 / factor):
                    while True:
                        value = values.get(constant, constant.value) * step
                        if not 1 / FARTHEST <= value / constant.value <= FARTHEST:
                            break
                        now = tried(constant, value)
                        if now > least * (1 - LEAST_BETTER):
                            break
                        values[constant], least = value, now
        if least > before * (1 - LEAST_BETTER):
            break
    return values


def agreement(found: Sequence[Sample], profile: DeviceProfile) -> tuple[float, int]:
    """(median rank correlation, passes whose first choice is within 10% of the best)."""
    ranks, near = [], 0
    for sample in found:
        costs, times = sample.costs(profile), list(sample.times.values())
        assert costs is not None
        rank = spearman(costs, times)
        if rank is not None:
            ranks.append(rank)
        near += times[costs.index(min(costs))] <= NEAR * min(times)
    return (statistics.median(ranks) if ranks else math.nan), near


def calibrate(records: Sequence[Record], profile: DeviceProfile) -> str:
    """What the fit found, and what it is worth."""
    found = samples(records)
    if not found:
        return f"nothing to calibrate with: no pass has {LEAST_RANKED} timed candidates"
    if any(sample.costs(profile) is None for sample in found):
        return "nothing to calibrate with: the records' candidates are not today's; use --again"
    before = agreement(found, profile)
    values = fit(found, profile)
    with changed(values, profile) as other:
        after = agreement(found, other)
    rows = [[c.label, f"{c.value:g}", f"{value:g}"] for c, value in values.items()]
    lines = [table(["constant", "now", "fitted"], rows, ["now", "fitted"])] if rows else []
    for name, (rank, near) in (("before", before), ("after", after)):
        lines.append(
            f"{name} fitting: rank correlation {rank:.2f} (median of {len(found)} passes), the "
            f"first choice within {NEAR - 1:.0%} of the best on {near}"
        )
    return "\n".join(lines)
