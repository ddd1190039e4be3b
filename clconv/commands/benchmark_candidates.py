"""Does the planner choose the fastest of its candidates?

Each candidate plan of a layer's pass is timed briefly, then the fastest few and the planner's first
choice are timed in turn for several rounds. The cost model is also judged by the rank correlation
(Spearman's) of its costs with the short times.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from clconv.commands.benchmark_worker import (
    NOISY,
    TRIES,
    Watch,
    Worker,
    WorkerError,
    is_noisy,
    quiet,
    same,
    settle,
)
from clconv.commands.layers import Layer
from clconv.commands.text import table

MOST = 12
FINALISTS = 4
SHORT_SECONDS = 0.03
NEAR = 1.1
# Fewer ranks say nothing.
LEAST_RANKED = 4


@dataclass
class Search:
    """The candidates of one pass of one layer, by the planner's order.

    Each candidate: variant, tile, cost, workspace_bytes, and screened_us, rounds_us, others,
    median_us as far as it came, or error.
    """

    layer: str
    pass_: str
    tiny: bool
    left_out: int = 0
    candidates: list[dict[str, Any]] = field(default_factory=list)
    noisy: bool = False
    error: str | None = None
    best: int | None = None
    chosen: int | None = None
    chosen_ratio: float | None = None
    rank_correlation: float | None = None


def passes(wanted: Sequence[str]) -> list[str]:
    """The passes that have plans, of those that users name."""
    found = {"forward": ["forward"], "backward": ["input_gradient", "weight_gradient"]}
    return [one for pass_ in wanted for one in found[pass_]]


def search(
    layer: Layer, pass_: str, worker: Worker, most: int, rounds: int, seconds: float
) -> Search:
    """Times the candidates of one pass."""
    result = Search(layer.name, pass_, layer.is_tiny)
    try:
        answer = worker.ask("candidates", layer, pass_=pass_, most=most)
        result.candidates, result.left_out = answer["candidates"], answer["left_out"]
        _check(result.candidates)
        able = [i for i, one in enumerate(result.candidates) if "error" not in one]
        if able:
            _screen(result, able, worker, min(SHORT_SECONDS, seconds))
            _finals(result, able, worker, rounds, seconds)
    except WorkerError as error:
        result.error = str(error)
    finish(result)
    return result


def _check(candidates: list[dict[str, Any]]) -> None:
    """A candidate whose results differ from the first's is dropped."""
    probes = [one.pop("probes", None) for one in candidates]
    first = next((p for p in probes if p is not None), None)
    for one, found in zip(candidates, probes, strict=True):
        if found is not None and first is not None and not same(found, first):
            one["error"] = "its results differ from those of the first"


def _screen(result: Search, able: Sequence[int], worker: Worker, seconds: float) -> None:
    """A few calls of each, all again while others are busy; the shortest time counts."""
    for _ in range(TRIES):
        watch = Watch([worker.pid])
        for place in able:
            one = result.candidates[place]
            answer = worker.ask("measure", seconds=seconds, place=place, calls=2, warm_up=0)
            one["screened_us"] = min(one.get("screened_us", np.inf), answer["median_us"])
        if not is_noisy(watch.others()):
            break


def _finals(
    result: Search, able: Sequence[int], worker: Worker, rounds: int, seconds: float
) -> None:
    order = sorted(able, key=lambda i: result.candidates[i]["screened_us"])
    finalists = list(dict.fromkeys([able[0], *order[:FINALISTS]]))
    for _ in range(rounds):
        for place in finalists:
            answer, others = quiet(
                partial(worker.ask, "measure", seconds=seconds, place=place), worker
            )
            result.candidates[place].setdefault("rounds_us", []).append(answer["median_us"])
            result.candidates[place].setdefault("others", []).append(others)


def finish(result: Search) -> None:
    """Fills in what follows from the times."""
    times: dict[int, float] = {}
    for place, one in enumerate(result.candidates):
        if "rounds_us" in one:
            times[place], noisy = settle(one["rounds_us"], one["others"])
            one["median_us"] = times[place]
            result.noisy |= noisy
    if times:
        result.chosen = min(times)  # the planner's order
        result.best = min(times, key=lambda place: times[place])
        result.chosen_ratio = times[result.chosen] / times[result.best]
    ranked = [one for one in result.candidates if "screened_us" in one]
    if len(ranked) >= LEAST_RANKED:
        result.rank_correlation = spearman(
            [one["cost"] for one in ranked], [one["screened_us"] for one in ranked]
        )


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The correlation of ranks, those of ties averaged; None where all are tied."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        array = np.asarray(values)
        return np.array([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])

    a, b = ranks(one), ranks(other)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _name(one: dict[str, Any]) -> str:
    return " ".join([one["variant"], *(f"{k}={v}" for k, v in one["tile"].items())])


def report(searches: Sequence[Search]) -> str:
    """The table, what went wrong, then a line per figure; tiny layers count for none of them."""
    header = [
        "layer",
        "pass",
        "timed",
        "left out",
        "best us",
        "best",
        "first/best",
        "first",
        "rank",
    ]
    rows, notes = [], []
    for one in searches:
        row = [one.layer, one.pass_, str(len(one.candidates)), str(one.left_out)]
        if one.best is None or one.chosen is None:
            row += ["-"] * 4
        else:
            best, chosen = one.candidates[one.best], one.candidates[one.chosen]
            row += [f"{best['median_us']:.1f}" + "!" * one.noisy, _name(best)]
            row += [f"{one.chosen_ratio:.2f}", "the same" if best is chosen else _name(chosen)]
        rank = one.rank_correlation
        rows.append([*row, "-" if rank is None else f"{rank:.2f}"])
        errors = [f"{_name(c)}: {c['error']}" for c in one.candidates if "error" in c]
        notes += [f"{one.layer} {one.pass_}: {e}" for e in [one.error, *errors] if e]
    if any(one.noisy for one in searches):
        notes.append(NOISY)
    right = ["timed", "left out", "best us", "first/best", "rank"]
    lines = [table(header, rows, right), *notes, "", *of_variants(searches)]
    return "\n".join([*lines, "", *summary(searches)])


def of_variants(searches: Sequence[Search]) -> list[str]:
    """A line for each pass: variants, the fastest first, by the shortest of their brief times."""
    lines = ["the shortest brief time of each variant's candidates, us:"]
    for one in searches:
        shortest: dict[str, float] = {}
        for candidate in one.candidates:
            name, time = candidate["variant"], candidate.get("screened_us", np.inf)
            shortest[name] = min(time, shortest.get(name, np.inf))
        told = [
            f"{name} {time:.1f}" if time < np.inf else f"{name} not timed"
            for name, time in sorted(shortest.items(), key=lambda named: named[1])
        ]
        lines.append(f"{one.layer} {one.pass_}: {', '.join(told)}")
    return lines


def summary(searches: Sequence[Search]) -> list[str]:
    """How near the planner's first choice is to the best, by pass."""
    left_out = sum(one.left_out for one in searches)
    timed = sum(len(one.candidates) for one in searches)
    lines = [f"{timed} candidates were timed, {left_out} left out"]
    for pass_ in dict.fromkeys(one.pass_ for one in searches):
        ours = [one for one in searches if one.pass_ == pass_ and not one.tiny]
        name = pass_.replace("_", " ")
        found = [(one.chosen_ratio, one.layer) for one in ours if one.chosen_ratio is not None]
        if found:
            near = sum(ratio <= NEAR for ratio, _ in found)
            mean = statistics.geometric_mean(ratio for ratio, _ in found)
            lines += [
                f"{name}: the planner's first choice is within {NEAR - 1:.0%} of the best on "
                f"{near} of {len(found)} layers",
                f"{name}: it takes {mean:.2f} times as long as the best (geometric mean)",
                f"{name}: at worst {max(found)[0]:.2f} times ({max(found)[1]})",
            ]
        ranks = [one.rank_correlation for one in ours if one.rank_correlation is not None]
        if ranks:
            lines.append(
                f"{name}: rank correlation of costs and times {statistics.median(ranks):.2f} "
                f"(median), {min(ranks):.2f} at least"
            )
    return lines
