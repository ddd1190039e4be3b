"""Which constants let the cost model agree best with measured times?

Each price of `clconv.planning.cost`, and each number of a profile that is not whole, is moved up
and down for as long as the model's first choices get faster, and its times closer to the measured
ones but for a factor that the candidates of a pass share. What changes the candidates themselves is
left alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from clconv import DeviceProfile
from clconv.commands.benchmark_candidates import LEAST_RANKED, NEAR, spearman
from clconv.commands.text import table
from clconv.planning import cost
from clconv.planning.planner import Choice, KernelPlan, designs, plans
from clconv.planning.records import Record, RecordKey

FACTORS = (2.0, 1.25)
# A constant may move this far, and moves only if the error falls by this part.
FARTHEST, LEAST_BETTER = 8.0, 1e-3
SWEEPS = 3
# What moving a constant costs, for each squared factor of e: it should say something about more
# than the noise of a few times.
PULL = 5e-4


@dataclass(frozen=True)
class Constant:
    """A number of the cost model: a price, or what the profile says."""

    name: str
    value: float
    is_price: bool

    @property
    def label(self) -> str:
        """Where it is, and its name."""
        return f"{'cost' if self.is_price else 'profile'}.{self.name}"


def constants(profile: DeviceProfile) -> list[Constant]:
    """All that there are."""
    prices = {name: value for name, value in vars(cost).items() if name.isupper()}
    numbers = {field.name: getattr(profile, field.name) for field in fields(profile)}
    return [
        Constant(name, value, is_price)
        for found, is_price in ((prices, True), (numbers, False))
        for name, value in found.items()
        if isinstance(value, float) and value > 0
    ]


@contextmanager
def changed(values: Mapping[Constant, float], profile: DeviceProfile) -> Iterator[DeviceProfile]:
    """The profile, with the constants at other values."""
    try:
        for constant, value in values.items():
            if constant.is_price:
                setattr(cost, constant.name, value)
        _forget()
        own: dict[str, Any] = {c.name: value for c, value in values.items() if not c.is_price}
        yield replace(profile, **own)
    finally:
        for constant in values:
            if constant.is_price:
                setattr(cost, constant.name, constant.value)
        _forget()


def _forget() -> None:
    """What was planned with other prices."""
    designs.cache_clear()
    cost.core.cache_clear()


@dataclass(frozen=True)
class Sample:
    """The measured candidates of a pass: their times, and what they are."""

    key: RecordKey
    times: tuple[float, ...]
    kernels: tuple[Hashable, ...]

    def costs(self, profile: DeviceProfile) -> list[float] | None:
        """The modelled times of the same kernels; None where one is no candidate's any more."""
        modelled = {_kernels(plan): plan.cost for plan in _plans(self.key, profile)}
        if not all(one in modelled for one in self.kernels):
            return None
        return [modelled[one] for one in self.kernels]


def _plans(key: RecordKey, profile: DeviceProfile) -> list[KernelPlan]:
    return plans(key.problem, key.pass_, profile, workspace_limit=key.workspace_limit)


def _kernels(plan: KernelPlan) -> Hashable:
    """What tells a candidate from all others, and from itself with other kernels."""
    compiled_in = tuple((kernel.name, kernel.constants) for kernel in plan.kernels)
    return _named(plan.choice), compiled_in


def _named(choice: Choice) -> Hashable:
    return choice.variant, *sorted(choice.tile.items())


def samples(records: Sequence[Record], profile: DeviceProfile) -> list[Sample]:
    """Of the records with enough timed candidates that are candidates today."""
    found = []
    for record in records:
        today = {_named(plan.choice): plan for plan in _plans(record.key, profile)}
        timed = [
            (one.median_us, _kernels(today[_named(one.choice)]))
            for one in record.candidates
            if one.median_us is not None and _named(one.choice) in today
        ]
        if len(timed) >= LEAST_RANKED:
            times, kernels = zip(*timed, strict=True)
            found.append(Sample(record.key, times, kernels))
    return found


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def error(found: Sequence[Sample], profile: DeviceProfile) -> float:
    """Of the model, for a pass: what its first choice loses to the best, as a logarithm, and the
    variance of log(measured / modelled) among the candidates, in which the fast ones count most."""
    errors = []
    for sample in found:
        costs = sample.costs(profile)
        if costs is None:
            return math.inf
        weights = [(min(sample.times) / time) ** 2 for time in sample.times]
        logs = [math.log(time / one) for time, one in zip(sample.times, costs, strict=True)]
        mean = _mean(logs, weights)
        loss = math.log(sample.times[costs.index(min(costs))] / min(sample.times))
        errors.append(loss + _mean([(one - mean) ** 2 for one in logs], weights))
    return statistics.fmean(errors)


def fit(found: Sequence[Sample], profile: DeviceProfile) -> dict[Constant, float]:
    """The constants at their best values, by coordinate descent; only those that change."""
    every = constants(profile)
    values: dict[Constant, float] = {}
    least = error(found, profile)

    def tried(constant: Constant, value: float) -> float:
        moved = {**values, constant: value}
        with changed(moved, profile) as other:
            return error(found, other) + PULL * sum(
                math.log(now / c.value) ** 2 for c, now in moved.items()
            )

    # What has no bearing on any candidate's rank need not be tried again.
    def matters(constant: Constant) -> bool:
        with changed({constant: constant.value * FACTORS[0]}, profile) as other:
            return error(found, other) not in (least, math.inf)

    every = [constant for constant in every if matters(constant)]
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
        costs, times = sample.costs(profile), sample.times
        assert costs is not None
        rank = spearman(costs, times)
        if rank is not None:
            ranks.append(rank)
        near += times[costs.index(min(costs))] <= NEAR * min(times)
    return (statistics.median(ranks) if ranks else math.nan), near


def calibrate(records: Sequence[Record], profile: DeviceProfile) -> str:
    """What the fit found, and what it is worth."""
    found = samples(records, profile)
    if not found:
        return f"nothing to calibrate with: no pass has {LEAST_RANKED} timed candidates"
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
