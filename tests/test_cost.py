"""The cost model: seconds, and what takes them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import clconv
from clconv import Conv1dProblem, Pass
from clconv.commands import predict
from clconv.planning import cost
from clconv.planning.cost import PARTS, Cost, Tally
from clconv.planning.planner import LAUNCHES, plans
from clconv.planning.profiles import PROFILES

# Dense, strided, dilated with groups, depthwise, many taps of one channel, and a length of one.
LAYERS = [
    Conv1dProblem(*sizes)
    for sizes in (
        (4, 96, 900, 80, 5, 1, 2), (2, 24, 801, 48, 4, 2, 1), (1, 32, 700, 32, 3, 1, 8, 8, 4),
        (2, 64, 500, 64, 7, 1, 3, 1, 64), (3, 1, 2000, 1, 129, 1, 64), (1, 70, 3, 33, 3),
    )
]  # fmt: skip


@pytest.mark.parametrize("device", PROFILES)
@pytest.mark.parametrize("pass_", Pass)
def test_a_cost_is_the_sum_of_its_parts(device, pass_):
    """Of every candidate: seconds that are counted by what takes them, and what passes beside them;
    what a GPU is predicted is no faster than its peak, nor is a CPU, in the definition's sums."""
    profile = PROFILES[device]
    for problem in LAYERS:
        for made in plans(problem, pass_, profile):
            parts = made.cost_parts
            assert tuple(parts.parts) == PARTS
            assert made.cost == parts.seconds == pytest.approx(math.fsum(parts.parts.values()))
            launches = LAUNCHES[pass_]
            if made.design.decides:
                launches = len(made.launches) + len(made.preparation.launches)
            assert parts.launch == launches * profile.launch_seconds
            assert {name for name, _ in parts.hidden} <= set(PARTS) - {"launch"}
            assert all(value >= 0 for value in parts.parts.values())
            assert all(value > 0 for _, value in parts.hidden)
            told = predict.predicted_parts(made, profile)
            assert predict.predicted(made, profile) == told.seconds
            # Others do less arithmetic than the definition.
            if pass_ is not Pass.BIAS_GRADIENT and made.error_class == "exact":
                assert told.seconds >= predict.flops(problem) / profile.peak_flops


def test_a_cost_grows_with_the_work():
    """In proportion to batch and positions, whatever the launches take, of exact variants."""
    problem = LAYERS[0]
    for device in ("cpu", "sm_86"):
        for pass_ in Pass:
            one, many = (
                plans(replace(problem, batch=batch), pass_, PROFILES[device], exact=True)[
                    0
                ].cost_parts
                for batch in (1, 50)
            )
            assert many.launch == one.launch > 0
            work = one.seconds - one.launch
            assert many.seconds - many.launch == pytest.approx(50 * work)


def test_what_short_rows_take_is_predicted():
    """Whole vectors of positions that are partly empty: not in proportion, as long rows are. Weight
    gradients have no empty vectors."""
    device = PROFILES["zen5"]
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        for length, vectors in ((52, 4), (17, 2), (64, 4), (9, 1)):
            problem = Conv1dProblem(48, 96, length, 96, 5, 1, 2)
            made = plans(problem, pass_, device, exact=True)[0]
            assert made.variant == "strip"
            # So many rows of whole vectors; where they fill tiles, what is summed is known.
            whole = plans(replace(problem, length=16 * vectors), pass_, device, exact=True)[0]
            filled = 1 + made.tile["vectors"] * 16 / 2 / cost.TYPICAL_ROW
            expected = whole.cost_parts.arithmetic / filled
            assert made.predicted.arithmetic == pytest.approx(expected)
    long, short = (Conv1dProblem(b, 96, n, 96, 5, 1, 2) for b, n in ((2, 32768), (8192, 8)))
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT):
        lasting, many = (plans(p, pass_, device, exact=True)[0] for p in (long, short))
        assert lasting.predicted.seconds == pytest.approx(lasting.cost_parts.seconds, rel=0.1)
        more = 1.0 if pass_ is Pass.WEIGHT_GRADIENT else 1.9
        assert many.predicted.arithmetic == pytest.approx(
            more * many.cost_parts.arithmetic, rel=0.1
        )


def test_the_last_tasks_are_waited_for():
    """Two tasks take three cores as long as three would."""
    device = replace(PROFILES["zen5"], compute_units=3)
    problem = Conv1dProblem(1, 16, 32, 16, 3, 1, 1)
    for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
        made = plans(problem, pass_, device, exact=True)[0]
        (launch,) = made.launches
        tasks = launch.numbers["tasks"]
        assert tasks % 3
        alone = replace(device, compute_units=1, clock=3 * device.clock)
        (same,) = (p for p in plans(problem, pass_, alone, exact=True) if p.tile == made.tile)
        assert same.launches[0].numbers["tasks"] == 1
        waiting = -(-tasks // 3) * 3 / tasks
        assert made.predicted.arithmetic == pytest.approx(waiting * same.predicted.arithmetic)


def test_costs_are_seconds_of_the_device():
    """Half the clock, or half the peak, takes twice as long; other cores change the cost of the
    sums alone."""
    for device, half in (("cpu", {"clock": 1e9}), ("gfx1030", {"flops": 8.085e12})):
        own = PROFILES[device]
        for pass_ in Pass:
            made = plans(LAYERS[0], pass_, own, exact=True)[0]
            slow = plans(LAYERS[0], pass_, replace(own, **half))
            (other,) = (one for one in slow if one.choice == made.choice)
            assert other.design.cost.seconds == pytest.approx(2 * made.design.cost.seconds)
    wide = replace(PROFILES["cpu"], vector_floats=16)
    dense = plans(LAYERS[0], Pass.FORWARD, wide, variant="strip")[0]
    same = plans(LAYERS[0], Pass.FORWARD, replace(wide, multiply_add_bytes=128), variant="strip")
    (full,) = (one for one in same if one.choice == dense.choice)
    assert full.cost_parts.arithmetic < dense.cost_parts.arithmetic
    assert full.cost_parts.staging == dense.cost_parts.staging


def test_the_portable_variant_reaches_a_fifth_of_a_gpu():
    """About, in its best tiles, of a dense layer."""
    problem = Conv1dProblem(8, 256, 4000, 256, 5)
    for name, profile in PROFILES.items():
        if profile.kind == "gpu":
            made = plans(problem, Pass.FORWARD, profile, variant="direct")[0]
            seconds = made.cost_parts.seconds - made.cost_parts.launch
            share = predict.flops(problem) / profile.peak_flops / seconds
            assert 1 / 7 < share < 1 / 4, name


def test_the_longest_counts():
    """Of what happens at once, the first of equals; a bound by memory hides the rest."""
    tally = Tally(stores=3.0)
    tally.overlapped({"arithmetic": 2.0, "loads": 1.0}, {"memory": 3.0}, times=2.0)
    made = tally.cost(0.5)
    assert made == Cost(arithmetic=2.0, loads=1.0, stores=1.5, hidden=(("memory", 3.0),))
    assert made.seconds == 4.5
    bound = made.launched(0.25).bounded(5.0)
    assert bound.seconds == 5.25
    assert bound.parts == dict.fromkeys(PARTS, 0.0) | {"memory": 5.0, "launch": 0.25}
    assert dict(bound.hidden) == {"arithmetic": 2.0, "loads": 1.0, "stores": 1.5, "memory": 3.0}
    twice = bound * 2
    assert (twice.memory, twice.launch, dict(twice.hidden)["stores"]) == (10.0, 0.25, 3.0)
    sums = cost.Sums(3.0, 3.0, 1.0, 0.5, 0.25)
    tally = Tally()
    tally.sums(sums, 2.0)
    assert tally.cost(1.0).parts == dict.fromkeys(PARTS, 0.0) | {
        "arithmetic": 6.0, "loads": 1.0, "setup": 0.5,
    }  # fmt: skip
    assert tally.cost(1.0).seconds == 2 * sums.cycles


def test_profiles_are_told():
    """By name, as a copy."""
    told = clconv.profiles()
    assert told == PROFILES
    assert {"cpu", "zen4", "zen5", "neon", "gfx1030"} <= told.keys()
    told.clear()
    assert clconv.profiles()


def test_addresses_of_weight_gradients():
    """At full width a tile takes no more rows of x than have their addresses in registers."""
    for problem in (Conv1dProblem(4, 256, 800, 256, 11), Conv1dProblem(1, 80, 3000, 384, 3)):
        tile = plans(problem, Pass.WEIGHT_GRADIENT, PROFILES["zen5"], variant="strip")[0].tile
        assert tile["tap_tile"] <= cost.ADDRESSED_ROWS
        assert 10 <= tile["tap_tile"] * tile["vectors"] <= 24
    panels = cost.core(PROFILES["zen5"], turned=True)
    few, many = (panels.sums(2 * taps, taps, 2).cycles for taps in (8, 12))
    assert few == 8
    assert many == 12 + 4 * cost.RELOAD
