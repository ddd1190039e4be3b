"""Tuning: the search, the database of records, and who uses it. No time is tested."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import clconv
from clconv import (
    BuildError,
    Conv1D,
    Conv1dProblem,
    DeviceError,
    Epilogue,
    ModuleError,
    OutOfMemoryError,
    Pass,
    ProblemError,
    Sequential,
    disk,
    reference,
    tuning,
)
from clconv import functional as F
from clconv.commands import options as command_options
from clconv.commands import tune, tune_calibrate
from clconv.planning import planner, records
from clconv.planning.planner import Choice
from clconv.planning.profiles import profile
from clconv.planning.records import Database, Record, RecordKey, Timing
from clconv.problem import ACTIVATIONS
from clconv.runtime import replan
from clconv.tuning import Task, verifier
from clconv.variants import base
from clconv.variants.gemm import convolution

PROBLEM = Conv1dProblem(2, 3, 60, 4, 3, 1, 1)
KEY = RecordKey(PROBLEM, Pass.FORWARD, None)
DEVICE = "Some card, 4 units, A platform"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty database."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path / "cache"))
    replan()
    yield tmp_path / "cache"
    replan()


def record(key=KEY, choice=Choice("direct", {"out_tile": 4}), driver="1.0", **more):
    """A record as a search makes it, of two candidates."""
    found = (
        Timing(Choice("strip", {"vectors": 3}), 10.0, 64, refusal="it does not build"),
        Timing(choice, 12.5, 0, 20.25, 7),
    )
    return Record(key, choice, found, 3, 1.5, driver, **more)


def planned(runtime, problem=PROBLEM, pass_=Pass.FORWARD):
    return planner.plans(problem, pass_, runtime.profile)


def last_exact(runtime):
    """The plan of PROBLEM that comes last, but for variants with bounds of their own."""
    return [plan for plan in planned(runtime) if plan.error_class == "exact"][-1]


def tuned_to(runtime, plan, **more):
    """Puts a record into a device's database that chooses this plan for its problem."""
    key = RecordKey(plan.problem, plan.pass_, None)
    driver = more.pop("driver", runtime.records.driver)
    runtime.records.add([record(key, plan.choice, driver, **more)])
    replan()


# The database


def test_records_come_back(cache):
    written = [
        record(),
        record(KEY._replace(pass_=Pass.WEIGHT_GRADIENT)),
        record(KEY._replace(workspace_limit=4096)),
        record(KEY._replace(problem=replace(PROBLEM, padding=(0, 5), dtype=np.float16))),
        record(KEY._replace(problem=replace(PROBLEM, cropped=3))),
    ]
    Database(DEVICE, "1.0").add(written)
    fresh = Database(DEVICE, "1.0")
    assert fresh.path.parent == cache / "tuning"
    assert [fresh.find(one.key) for one in written] == written
    assert fresh.choices(KEY) == [written[0].choice]
    assert fresh.records() == written
    assert fresh.find(KEY._replace(problem=replace(PROBLEM, batch=3))) is None
    content = json.loads(fresh.path.read_text())
    assert content["schema"] == "clconv tuning records"
    assert content["version"] == 1
    assert content["device"] == DEVICE


def test_a_newer_record_takes_the_place_of_an_older_one():
    database = Database(DEVICE, "1.0")
    database.add([record(written=1.0)])
    database.add([record(choice=Choice("direct", {"out_tile": 1}), written=2.0)])
    assert [one.choice.tile for one in database.records()] == [{"out_tile": 1}]


def test_a_tile_of_an_earlier_record():
    """What has another name since is found under the new one."""
    database = Database(DEVICE, "1.0")
    database.add([record(choice=Choice("strip", {"vectors": 3, "block_tiles": 2}))])
    text = database.path.read_text()
    assert text.count('"block_tiles"') == 2
    database.path.write_text(text.replace('"block_tiles"', '"together"'))
    (found,) = Database(DEVICE, "1.0").records()
    assert found.choice.tile == found.winner.choice.tile == {"vectors": 3, "block_tiles": 2}


def test_devices_have_files_of_their_own():
    """However much alike their names are."""
    names = (DEVICE, DEVICE.replace("4", "8"), DEVICE.replace(",", ";"), DEVICE + "!")
    assert len({Database(name, "1.0").path for name in names}) == len(names)
    Database(names[0], "1.0").add([record()])
    assert Database(names[1], "1.0").find(KEY) is None


def test_other_drivers_versions_and_sizes_are_hints():
    database = Database(DEVICE, "2.0")
    longer = KEY._replace(problem=replace(PROBLEM, batch=7, length=900, padding=0))
    other = KEY._replace(problem=replace(PROBLEM, kernel_size=5))
    tiles = [Choice("direct", {"out_tile": i}) for i in range(5)]
    database.add(
        [
            record(longer, tiles[0], "2.0", written=9.0),
            record(KEY, tiles[1], "1.0", written=2.0),
            record(KEY, tiles[2], "2.0", library="0.0.9", written=3.0),
            record(other, tiles[3], "2.0", written=4.0),
            record(KEY._replace(pass_=Pass.INPUT_GRADIENT), tiles[4], "2.0", written=5.0),
        ]
    )
    assert database.choices(KEY) == []
    assert database.hints(KEY) == [tiles[2], tiles[1], tiles[0]]


def _damaged():
    good = {
        "schema": records.SCHEMA, "version": 1, "device": DEVICE,
        "records": [records.record_to_json(record())],
    }  # fmt: skip

    def spoilt(path, value):
        content = json.loads(json.dumps(good))
        place = content
        for step in path[:-1]:
            place = place[step]
        if value is KeyError:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return json.dumps(content).encode()

    whole = json.dumps(good).encode()
    yield "cut short", whole[:-20]
    yield "empty", b""
    yield "binary", b"\x80\x04\x95pickled\xff"
    yield "a list", b"[]"
    yield "deep", b"[" * 100_000
    yield "another schema", spoilt(["schema"], "books")
    yield "a later version", spoilt(["version"], 2)
    yield "another device", spoilt(["device"], "another")
    first = ["records", 0]
    yield "no number", spoilt([*first, "candidates", 1, "median_us"], "20")
    yield "not a number", spoilt([*first, "candidates", 1, "median_us"], float("nan"))
    yield "no float", spoilt([*first, "seconds"], 10**400)
    yield "no dtype", spoilt([*first, "problem", "dtype"], "f4,(2")
    yield "no choice", spoilt([*first, "choice"], KeyError)
    yield "a choice that was not timed", spoilt([*first, "choice", "tile"], {"out_tile": 8})
    yield "a tile of text", spoilt([*first, "choice", "tile"], {"out_tile": "4; import os"})
    yield "impossible sizes", spoilt([*first, "problem", "kernel_size"], 0)
    yield "an impossible padding", spoilt([*first, "problem", "padding"], ["1", 2])
    yield "an unknown pass", spoilt([*first, "pass"], "sideways")
    yield "no object", spoilt(first, 7)


@pytest.mark.parametrize("content", [c for _, c in _damaged()], ids=[n for n, _ in _damaged()])
def test_damaged_files(content, caplog):
    """They are ignored with one warning that names them, and kept when a record is added."""
    database = Database(DEVICE, "1.0")
    database.path.parent.mkdir(parents=True)
    database.path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "clconv"):
        assert database.find(KEY) is None
        assert database.records() == []
        assert database.hints(KEY) == []
    assert [one.getMessage().startswith(str(database.path)) for one in caplog.records] == [True]
    other = KEY._replace(pass_=Pass.INPUT_GRADIENT)
    database.add([record(other)])
    assert database.choices(other) == [record().choice]
    assert database.path.with_suffix(".damaged").read_bytes() == content


def test_good_records_beside_damaged_ones(caplog):
    database = Database(DEVICE, "1.0")
    other = KEY._replace(pass_=Pass.INPUT_GRADIENT)
    database.add([record(), record(other)])
    content = json.loads(database.path.read_text())
    content["records"][1]["seconds"] = -1
    database.path.write_text(json.dumps(content))
    assert database.choices(KEY) == [record().choice]
    assert database.choices(other) == []
    assert "1 of 2 records are damaged (seconds is -1" in caplog.text


def test_a_folder_that_cannot_be_used(cache, caplog):
    cache.write_text("no folder")
    database = Database(DEVICE, "1.0")
    assert database.find(KEY) is None
    database.add([record()])
    assert f"{database.path} keeps no tuning records" in caplog.text
    assert cache.read_text() == "no folder"


def test_a_file_that_cannot_be_read(caplog):
    database = Database(DEVICE, "1.0")
    database.path.mkdir(parents=True)
    for _ in range(2):
        assert database.find(KEY) is None
    assert caplog.text.count(f"{database.path} cannot be read") == 1
    database.add([record()])
    assert database.choices(KEY) == [record().choice]
    assert database.path.with_suffix(".damaged").is_dir()


def test_the_oldest_records_go(monkeypatch):
    monkeypatch.setattr(records, "RECORDS_KEPT", 3)
    database = Database(DEVICE, "1.0")
    for i in range(5):
        key = KEY._replace(problem=replace(PROBLEM, batch=i + 1))
        database.add([record(key, written=100.0 - i)])
    assert [one.key.problem.batch for one in database.records()] == [3, 2, 1]


def add_many(first, count):
    database = Database(DEVICE, "1.0")
    for i in range(first, first + count):
        database.add([record(KEY._replace(problem=replace(PROBLEM, batch=i)))])


def test_several_processes_at_once():
    """No record of any is lost, and whoever reads meanwhile sees whole files."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=add_many, args=(1 + 20 * i, 20), daemon=True) for i in range(3)
    ]
    for one in processes:
        one.start()
    path = Database(DEVICE, "1.0").path
    while any(one.is_alive() for one in processes):
        if path.exists():
            json.loads(path.read_bytes())
    for one in processes:
        one.join(60)
        assert one.exitcode == 0
    found = Database(DEVICE, "1.0").records()
    assert sorted(one.key.problem.batch for one in found) == list(range(1, 61))
    assert {p.suffix for p in path.parent.iterdir()} == {".json", ".lock"}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_writer_that_is_killed(monkeypatch):
    """While it holds the lock, its file half in place: what was there stays, the next writer
    neither waits nor finds anything wrong."""
    database = Database(DEVICE, "1.0")
    database.add([record()])
    code = (
        "import os, signal; from test_tuning import *\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "add_many(5, 1)"
    )
    paths = os.pathsep.join(sys.path)
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = database.path.parent.glob(".writing-*")
    assert [one.key for one in database.records()] == [KEY]
    add_many(6, 1)
    assert [one.key.problem.batch for one in database.records()] == [2, 6]
    assert left.exists()  # it might be another's, who is still writing
    monkeypatch.setattr(disk, "ABANDONED_SECONDS", -1)
    add_many(7, 1)
    assert not left.exists()


# "auto"


def test_auto_takes_what_was_tuned(runtime, rng):
    """For exactly the problem, and the same limit, driver and version; any epilogue has it."""
    last = last_exact(runtime)
    assert runtime.plans(PROBLEM, Pass.FORWARD)[0].choice != last.choice
    tuned_to(runtime, last)
    assert runtime.plans(PROBLEM, Pass.FORWARD)[0] == last
    assert clconv.plan(PROBLEM, "forward", runtime) == last
    found = runtime.plans(PROBLEM, Pass.FORWARD, Epilogue(bias=True, activation="gelu"))
    assert found[0].choice == last.choice
    every = planner.plans(PROBLEM, Pass.FORWARD, runtime.profile)
    assert sorted(str(plan.choice) for plan in runtime.plans(PROBLEM, Pass.FORWARD)) == sorted(
        str(plan.choice) for plan in every
    )
    for other in (
        replace(PROBLEM, batch=3),
        replace(PROBLEM, length=61),
        replace(PROBLEM, padding=0),
    ):
        assert runtime.plans(other, Pass.FORWARD) == planned(runtime, other)
    assert runtime.plans(PROBLEM, Pass.FORWARD, variant="direct") == planner.plans(
        PROBLEM, Pass.FORWARD, runtime.profile, variant="direct"
    )
    limited = clconv.Runtime(runtime.device, workspace_limit=1 << 20)
    found, expected = limited.plans(PROBLEM, Pass.FORWARD), planned(runtime)
    assert [plan.choice for plan in found] == [plan.choice for plan in expected]
    x, weight = (rng.integers(-4, 5, s).astype(np.float32)
                 for s in (PROBLEM.input_shape, PROBLEM.weight_shape))  # fmt: skip
    result = F.conv1d(x, weight, padding=1, runtime=runtime)
    assert np.array_equal(result, reference.conv1d(PROBLEM, x, weight))


def test_auto_trusts_no_other_driver_or_version(runtime):
    last = last_exact(runtime)
    tuned_to(runtime, last, driver="another")
    tuned_to(runtime, last, library="0.0.9")
    assert runtime.plans(PROBLEM, Pass.FORWARD) == planned(runtime)


def test_auto_knows_its_candidates(runtime):
    """A choice that is no candidate any more changes nothing."""
    last = last_exact(runtime)
    gone = Choice(last.variant, {**last.tile, "lanes": 3})
    tuned_to(runtime, replace(last, design=replace(last.design, tile=gone.tile)))
    assert runtime.records.choices(KEY) == [gone]
    assert runtime.plans(PROBLEM, Pass.FORWARD) == planned(runtime)


@pytest.mark.parametrize("pass_", tuning.PASSES)
@pytest.mark.parametrize("device", ["cpu", "cpu, asking", "gfx1030"])
def test_auto_takes_what_was_tuned_whatever_follows(runtime, device, pass_):
    """With every activation, and beside a bias gradient: the winner, or the fastest of those that
    were timed and can serve. The winner fails only where the activation forbids its vectors."""
    problem = Conv1dProblem(2, 6, 50, 9, 3)
    name, _, asked = device.partition(", ")
    own, runtime.profile = runtime.profile, profile(name)
    if asked:
        runtime.profile = replace(runtime.profile, instruction_sets="avx512f,avx512vl")
    epilogues = [Epilogue(activation=activation) for activation in (None, *ACTIVATIONS)]
    if pass_ is Pass.WEIGHT_GRADIENT:
        epilogues = [Epilogue(), Epilogue(bias=True)]
    try:
        found = planned(runtime, problem, pass_)
        firsts = {(plan.variant, plan.tile["lanes"]): plan for plan in found[::-1]}
        for winner in (*firsts.values(), found[-1]):
            timed = tuple(Timing(p.choice, 1.0, 0, 9.0 + i, 7) for i, p in enumerate(found[::-1]))
            key = RecordKey(problem, pass_, None)
            runtime.records.add([Record(key, winner.choice, timed, 0, 1.0, runtime.records.driver)])
            replan()
            assert clconv.plan(problem, pass_, runtime).choice == winner.choice
            ranking = [winner.choice, *(plan.choice for plan in found[::-1])]
            for epilogue in epilogues:
                there = planner.plans(problem, pass_, runtime.profile, epilogue=epilogue)
                there = [plan.choice for plan in there]
                expected = next(choice for choice in ranking if choice in there)
                assert clconv.plan(problem, pass_, runtime, epilogue=epilogue).choice == expected
                assert expected == winner.choice or (asked and winner.tile["lanes"] == 16)
    finally:
        runtime.profile = own
        runtime.forget_plans()


def test_auto_with_a_damaged_database(runtime, rng, caplog):
    runtime.records.path.parent.mkdir(parents=True)
    runtime.records.path.write_text("{")
    x, weight = np.ones(PROBLEM.input_shape, "f"), np.ones(PROBLEM.weight_shape, "f")
    y = F.conv1d(x, weight, padding=1, runtime=runtime)
    assert np.array_equal(y, reference.conv1d(PROBLEM, x, weight))
    assert str(runtime.records.path) in caplog.text


def test_a_call_made_before_finds_the_record(runtime):
    """What was remembered of earlier calls is planned anew."""
    x, weight = np.ones(PROBLEM.input_shape, "f"), np.ones(PROBLEM.weight_shape, "f")
    queued = []
    real = runtime.enqueue
    runtime.enqueue = lambda commands, *rest: (queued.append(commands[0][1]), real(commands, *rest))
    try:
        F.conv1d(x, weight, padding=1, runtime=runtime)
        last = last_exact(runtime)
        tuned_to(runtime, last)
        F.conv1d(x, weight, padding=1, runtime=runtime)
    finally:
        del runtime.enqueue
    assert queued == [planned(runtime)[0].launches[0], last.launches[0]]


# The search


@pytest.fixture
def timed(monkeypatch):
    """{choice as text: seconds} of samples, in place of the clock's; runs each, as it should."""
    seconds = {}

    def sample(self):
        self.job()
        self.finish()
        self.samples.append(seconds[str(self.plan.choice)])

    monkeypatch.setattr(tuning._Trial, "sample", sample)
    return seconds


@pytest.fixture
def few(monkeypatch):
    """Lets only some of the candidates be planned: the first and the last of each exact variant."""

    def some(*args, **kwargs):
        found = planner.plans(*args, **kwargs, exact=True)
        variants = {plan.variant: [] for plan in found}
        for plan in found:
            variants[plan.variant].append(plan)
        ends = [p for group in variants.values() for p in (group[0], group[-1])]
        return [plan for plan in found if plan in ends]

    monkeypatch.setattr(tuning, "plans", some)
    return some


def search(runtime, pass_=Pass.FORWARD, problem=PROBLEM, **options):
    return tuning.tune(runtime, problem, pass_, **{"seconds": 60, **options})


@pytest.mark.parametrize("pass_", tuning.PASSES)
def test_the_fastest_wins(runtime, timed, few, pass_):
    found = few(PROBLEM, pass_, runtime.profile)
    timed |= {str(plan.choice): 1.0 - 0.1 * i for i, plan in enumerate(found)}
    told = []
    one = search(runtime, pass_, tell=told.append)
    assert one.choice == found[-1].choice
    assert one.winner.median_us == pytest.approx(1e6 * (1.1 - 0.1 * len(found)))
    assert one.untuned.choice == found[0].choice
    assert [c.choice for c in one.candidates] == [p.choice for p in found]
    assert one.left_out == 0
    assert [c.cost_us for c in one.candidates] == [p.cost * 1e6 for p in found]
    assert told[-1] == (len(found), len(found), one.winner.median_us)
    assert runtime.records.find(one.key) == one
    assert clconv.plan(PROBLEM, pass_, runtime).choice == one.choice
    assert one.key == RecordKey(PROBLEM, pass_, None)
    assert (one.driver, one.library) == (runtime.records.driver, clconv.__version__)


def test_a_call_after_the_search_takes_the_winner(runtime, timed, few):
    """Plans and recipes that were remembered before are gone."""
    x, weight = np.ones(PROBLEM.input_shape, "f"), np.ones(PROBLEM.weight_shape, "f")
    found = few(PROBLEM, Pass.FORWARD, runtime.profile)

    def queued():
        """The launch of a call."""
        seen = []
        real = runtime.enqueue
        runtime.enqueue = lambda commands, *rest: (
            seen.append(commands[0][1]),
            real(commands, *rest),
        )
        try:
            F.conv1d(x, weight, padding=1, runtime=runtime)
        finally:
            del runtime.enqueue
        return seen

    assert queued() == [found[0].launches[0]]
    for winner in (found[-1], found[1]):
        timed |= {str(plan.choice): 1.0 for plan in found} | {str(winner.choice): 0.1}
        search(runtime)
        assert queued() == [winner.launches[0]]


def test_noise_is_no_gain(runtime, timed, few):
    """The model's choice stays where others are faster by next to nothing."""
    found = few(PROBLEM, Pass.FORWARD, runtime.profile)
    timed |= {str(plan.choice): 0.99 for plan in found} | {str(found[0].choice): 1.0}
    assert search(runtime).choice == found[0].choice
    timed[str(found[-1].choice)] = 0.9
    assert search(runtime).choice == found[-1].choice


def test_hopeless_variants_are_left_out(runtime, timed, monkeypatch):
    """After its first tile took many times as long as the best, no other of a variant is tried."""
    every = planned(runtime)
    akin, others = (
        [p for p in every if (p.variant == every[0].variant) == same][:3] for same in (True, False)
    )
    monkeypatch.setattr(tuning, "plans", lambda *_, **__: akin + others)
    timed |= {str(plan.choice): 1.0 + i for i, plan in enumerate(akin)}
    timed |= {str(plan.choice): 10.0 for plan in others}
    one = search(runtime, seconds=600)
    firsts = [p for i, p in enumerate(others) if p.variant not in {q.variant for q in others[:i]}]
    assert [c.choice for c in one.candidates] == [p.choice for p in akin + firsts]
    assert one.left_out == len(others) - len(firsts)
    assert {c.runs for c in one.candidates if c.median_us == 1e7} <= {1}


def test_the_time_ends_the_search(runtime):
    """However short it is, the model's choice is timed, and nothing is lost."""
    one = search(runtime, seconds=1e-9)
    assert one.choice == planned(runtime)[0].choice
    assert len(one.candidates) == 1
    assert one.left_out == len(planned(runtime)) - 1
    assert runtime.records.find(KEY) == one


def test_hints_come_first(runtime):
    """What another driver found to be the fastest is tried even if there is no time."""
    last = last_exact(runtime)
    tuned_to(runtime, last, driver="another")
    tried = [c.choice for c in search(runtime, seconds=1e-9).candidates]
    assert tried == [planned(runtime)[0].choice, last.choice]


def test_the_model_s_choice_is_tried_whatever_hints_say(runtime, timed):
    """Even where what is hinted at puts its variant far behind another."""
    found = planned(runtime)
    akin = [plan for plan in found if plan.variant == found[0].variant]
    hints = [akin[-1], *(plan for plan in found if plan.variant != found[0].variant)][:2]
    for driver, plan in zip(("one", "another"), hints, strict=False):
        tuned_to(runtime, plan, driver=driver)
    timed |= {str(plan.choice): 1.0 for plan in found} | {str(akin[-1].choice): 10.0}
    one = search(runtime, seconds=1e-9)
    assert {c.choice[0] for c in one.candidates} == {plan.variant for plan in hints}
    assert one.untuned.choice == found[0].choice


def _broken(plan, where):
    """A plan that forgets the last batch element, of one problem or of all."""

    def schedule(request):
        launch, *rest = plan.design.schedule(request).launches
        if where not in (None, request.problem):
            return base.Schedule((launch, *rest))
        numbers = {**launch.numbers, "batch": 1}
        assert numbers != launch.numbers
        return base.Schedule((replace(launch, values=tuple(numbers.values())), *rest))

    return replace(plan, design=replace(plan.design, schedule=schedule))


@pytest.mark.parametrize("where", ["everywhere", "beyond the excerpt"])
def test_wrong_results_never_win(runtime, timed, few, monkeypatch, caplog, where):
    """However fast, and whether the reference or only the comparison can see it."""
    problem = replace(PROBLEM, length=500)

    def spoilt(*args, **kwargs):
        found = few(*args, **kwargs)
        found[-1] = _broken(found[-1], None if where == "everywhere" else problem)
        return found

    monkeypatch.setattr(tuning, "plans", spoilt)
    found = few(problem, Pass.FORWARD, runtime.profile)
    timed |= {str(plan.choice): 1.0 + 0.1 * i for i, plan in enumerate(found)}
    timed[str(found[-1].choice)] = 0.5
    one = search(runtime, problem=problem)
    assert one.choice == found[0].choice
    refused = one.candidates[-1]
    assert refused.choice == found[-1].choice
    than = "reference's" if where == "everywhere" else "first candidate's"
    assert refused.refusal.endswith(f"results differ from the {than}")
    assert refused.median_us is None
    assert "is refused for" in caplog.text


def test_candidates_that_do_not_run(runtime, few, monkeypatch):
    """Their reasons are in the record; where none runs they are in the error, and nothing is
    recorded."""
    found = few(PROBLEM, Pass.FORWARD, runtime.profile)
    real = runtime.prepare

    def refuse(*choices):
        def prepare(plans):
            if plans[0].choice in choices:
                raise BuildError("forward", runtime.info.name, "no such instruction")
            return real(plans)

        monkeypatch.setattr(runtime, "prepare", prepare)

    refuse(found[0].choice)
    one = search(runtime)
    assert one.candidates[0].median_us is None
    assert "no such instruction" in one.candidates[0].refusal
    assert one.untuned.choice == one.candidates[1].choice
    assert one.choice != found[0].choice

    refuse(*(plan.choice for plan in found))
    other = replace(PROBLEM, batch=1)
    with pytest.raises(
        DeviceError, match=r"(?s)with none of \d+ candidates: .*no such instruction"
    ):
        search(runtime, problem=other)
    assert runtime.records.find(KEY._replace(problem=other)) is None


def test_what_cannot_be_tuned(runtime):
    for arguments, options, words in (
        ((replace(PROBLEM, batch=0), "forward"), {}, "batch is 0"),
        ((PROBLEM, "bias"), {}, "pass is 'bias_gradient'"),
        ((PROBLEM, "sideways"), {}, "pass is 'sideways'"),
        ((PROBLEM, "forward"), {"seconds": 0}, "seconds is 0"),
        ((PROBLEM, "forward"), {"seconds": float("nan")}, "seconds is nan"),
    ):
        with pytest.raises(ProblemError, match=words):
            tuning.tune(runtime, *arguments, **options)
    with pytest.raises(OutOfMemoryError, match="memlimit is -1 bytes, expected at least"):
        tuning.tune(runtime, PROBLEM, "weight", memlimit=-1)
    assert runtime.records.records() == []


def test_a_record_under_a_limit(runtime, few):
    """It holds under that limit; a limit that leaves nothing out is none."""
    every = few(PROBLEM, Pass.WEIGHT_GRADIENT, runtime.profile)
    least, most = (f(p.workspace_bytes for p in every) for f in (min, max))
    one = search(runtime, Pass.WEIGHT_GRADIENT, memlimit=most, seconds=0.1)
    assert one.key.workspace_limit is None
    one = search(runtime, Pass.WEIGHT_GRADIENT, memlimit=least, seconds=0.1)
    assert one.key.workspace_limit == (least if most > least else None)
    assert all(c.workspace_bytes <= least for c in one.candidates)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(runtime, dtype):
    if dtype == np.float64 and not runtime.profile.fp64:
        pytest.skip("no float64")
    problem = replace(PROBLEM, dtype=dtype)
    assert search(runtime, problem=problem, seconds=1e-9).winner.refusal is None


def test_excerpts_have_the_same_kernels():
    """And are small, whatever the problem. Only which variant is first may hang on the length."""
    device = profile("cpu")
    for problem in (
        PROBLEM,
        Conv1dProblem(50, 4, 100_000, 6, 5, 3, 2, 4, 2),
        Conv1dProblem(9, 2048, 300, 2048, 9),
        Conv1dProblem(3, 2, 9, 4, 4, 1, (40, 50)),
        Conv1dProblem(1, 1, 90_000, 1, 1025, 1, 512),
    ):
        excerpt = verifier.excerpt_of(problem)
        assert excerpt.batch <= 2
        assert excerpt.out_length <= max(verifier.REFERENCE_POSITIONS, sum(problem.pads) + 1)
        for pass_ in tuning.PASSES:
            ours, theirs = (
                {(p.variant, *sorted(p.tile.items())): p.source() for p in found}
                for found in (planner.plans(p, pass_, device) for p in (problem, excerpt))
            )
            assert ours == theirs


def test_what_runs_is_what_is_verified(gpu_runtime, monkeypatch):
    """Of a plan with two kernels for one job, the excerpt runs the one that the problem runs."""
    monkeypatch.setattr(convolution, "few_columns_pay", lambda matrices, *_: matrices.columns < 200)
    gpu_runtime.forget_plans()
    for length in (100, 1000):
        problem = Conv1dProblem(1, 6, length, 8, 3)
        plan = planner.plans(problem, Pass.FORWARD, gpu_runtime.profile, variant="gemm")[0]
        ran = []
        real = gpu_runtime.enqueue
        monkeypatch.setattr(
            gpu_runtime,
            "enqueue",
            lambda commands, *rest, ran=ran, real=real: (
                ran.extend(launch.kernel.name for _, launch, _ in commands),
                real(commands, *rest),
            ),
        )
        bench = tuning.Bench(gpu_runtime, problem, Pass.FORWARD, tuning.integers(problem), [plan])
        checks = tuning.Verifier(gpu_runtime, problem, Pass.FORWARD, bench, [plan])
        assert checks.fault(plan, bench.job(plan)) is None
        assert ran == 2 * ["convolution_gemv" if length == 100 else "convolution_gemm"]
        monkeypatch.setattr(gpu_runtime, "enqueue", real)
    gpu_runtime.forget_plans()


def test_sums_of_the_data_are_exact():
    long = Conv1dProblem(64, 1, 100_000, 1, 3)
    for problem in (PROBLEM, long):
        values = tuning.integers(problem)
        largest = max(int(abs(v).max()) for v in values.values())
        assert largest**2 * problem.terms(Pass.WEIGHT_GRADIENT) < 2**24
        assert {n: v.shape for n, v in values.items()} == tuning.shapes(problem)


# Who asks for it


def layer(rng, **more):
    conv = Conv1D(3, 4, 3, pad=1, **more)
    conv.W.set(rng.integers(-4, 5, conv.W.shape).astype(np.float32))
    return conv


def test_optimize_for_shape_keeps_and_records(runtime, rng):
    conv = layer(rng)
    conv.optimizeForShape(PROBLEM.input_shape)
    for pass_ in tuning.PASSES:
        found = runtime.records.find(RecordKey(PROBLEM, pass_, None))
        assert conv._chosen[pass_] == found.choice
    x = rng.integers(-4, 5, PROBLEM.input_shape).astype(np.float32)
    expected = reference.conv1d(PROBLEM, x, conv.W.get().reshape(4, 3, 3))
    assert np.array_equal(conv(clconv.gpuarray.to_gpu(x)).get(), expected)


def test_interrupted(runtime, rng, monkeypatch):
    """Ctrl-C in the second pass: the first one's record is kept, the layer is as it was."""
    conv = layer(rng)
    before = dict(vars(conv))
    real, calls = tuning._Search._screen, []

    def screen(self, order):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, order)

    monkeypatch.setattr(tuning._Search, "_screen", screen)
    with pytest.raises(KeyboardInterrupt):
        conv.optimizeForShape(PROBLEM.input_shape)
    assert vars(conv) == before
    assert [one.key for one in runtime.records.records()] == [KEY]


def test_memlimit_is_checked_before_anything_is_timed(runtime, rng, monkeypatch):
    monkeypatch.setattr(tuning, "tune", None)
    with pytest.raises(ModuleError, match="memlimit is -1 bytes, expected at least"):
        layer(rng).optimizeForShape(PROBLEM.input_shape, -1)


def test_like_layers_of_a_chain_are_timed_once(runtime, rng, monkeypatch):
    searches = []
    real = tuning._Search.run
    monkeypatch.setattr(
        tuning._Search, "run", lambda self, *a: (searches.append(self), real(self, *a))[1]
    )

    def conv():
        return Conv1D(4, 4, 3, pad=1)

    net = Sequential().extend([conv(), Sequential().append(conv()), conv()])
    net.optimizeForShape((2, 4, 60))
    assert len(searches) == 3
    assert net[0]._chosen == net[2]._chosen
    net[0].optimizeForShape((2, 4, 60))
    assert len(searches) == 6


def test_tasks_of_a_call(runtime):
    x, weight = np.ones(PROBLEM.input_shape, "f"), np.ones(PROBLEM.weight_shape, "f")

    def call():
        y = F.conv1d(x, weight, padding=1)
        F.conv1d_backward(x, weight, y, padding=1, need=(True, False, True))
        F.conv1d(x, weight, padding=1, activation="relu")

    expected = [Task(PROBLEM, Pass.FORWARD), Task(PROBLEM, Pass.INPUT_GRADIENT)]
    F.conv1d(x, weight, padding=1)  # is remembered, which must not hide it
    assert tuning.tasks_of(runtime, call) == expected


def test_a_torch_model(runtime, monkeypatch):
    """In eval mode the passes that it computes, in training mode all; the model stays as it is."""
    torch = pytest.importorskip("torch")
    import clconv.torch as bridge

    model = torch.nn.Sequential(
        torch.nn.Conv1d(3, 4, 3, padding=1),
        torch.nn.BatchNorm1d(4),
        torch.nn.Dropout(),
        torch.nn.ConvTranspose1d(4, 2, 2, stride=2),
    )
    x = torch.ones(2, 3, 60)
    with pytest.raises(ProblemError, match="expected layers of clconv's"):
        bridge.tune(model, x)
    with pytest.raises(TypeError, match="model is a int"):
        bridge.tune(3, x)
    bridge.convert(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    up = Conv1dProblem(2, 2, 120, 4, 2, 2)
    model.eval()
    found = bridge.tune(model, x, seconds=1e-9)
    forward = [Task(PROBLEM, Pass.FORWARD), Task(up, Pass.INPUT_GRADIENT)]
    assert [(one.key.problem, one.key.pass_) for one in found] == forward
    assert not any(module.training for module in model.modules())
    model.train()
    model[1].eval()
    found = bridge.tune(model, (x,), seconds=1e-9)
    assert {(one.key.problem, one.key.pass_) for one in found} == {
        Task(problem, pass_) for problem in (PROBLEM, up) for pass_ in tuning.PASSES
    }
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), seed)
    assert [one.key for one in found] == [one.key for one in runtime.records.records()]


# The tool

ROWS = 'LAYERS = [("one", 2, 3, 60, 4, 3, 1, 1, 1, 1), ("like it", 2, 3, 60, 4, 3, 1, 1, 1, 1)]'


@pytest.fixture
def command(runtime, tmp_path):
    """The tool on a small file of layers, on this device."""
    path = tmp_path / "small.py"
    path.write_text(ROWS)

    def run(*arguments, file=path):
        return tune.main([str(file), "--device", runtime.info.id, "--seconds", "0.2", *arguments])

    return run


def test_tool(runtime, command, tmp_path, capsys, monkeypatch):
    out, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    assert command("--json", str(out), "--plot", str(picture), "--calibrate") == 0
    said = capsys.readouterr().out
    assert said.count("one ") == 3
    assert "like it" not in said
    assert str(runtime.records.path) in said
    figures = json.loads(out.read_text())
    assert [f["pass"] for f in figures] == [p.value for p in tuning.PASSES]
    assert len(runtime.records.records()) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(tuning, "tune", None)  # the second time there is nothing to time
    assert command() == 0
    assert capsys.readouterr().out.count("one ") == 3


def test_tool_interrupted(runtime, command, capsys, monkeypatch):
    """What is finished is kept, and the next run does the rest."""
    real, asked = tuning.tune, []

    def two(*args, **kwargs):
        asked.append(args[2])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "tune", two)
    assert command() == 130
    assert "interrupted" in capsys.readouterr().out
    assert [one.key.pass_ for one in runtime.records.records()] == asked[:2]
    assert command() == 0
    assert asked == [*tuning.PASSES, Pass.WEIGHT_GRADIENT]
    assert command("--again", "--passes", "forward") == 0
    assert asked[4:] == [Pass.FORWARD]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_tool_stopped_from_outside(runtime, tmp_path, how):
    """After its first record is there: it stays, and the device is as usable as before."""
    path = tmp_path / "small.py"
    path.write_text(ROWS)
    line = [
        sys.executable,
        "-m",
        "clconv",
        "tune",
        str(path),
        "--device",
        runtime.info.id,
        "--seconds",
        "3",
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while not runtime.records.records() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, how))
        said = process.communicate(timeout=120)[0]
    assert process.returncode == {"SIGINT": 130, "SIGKILL": -signal.SIGKILL}[how]
    assert (b"interrupted" in said) == (how == "SIGINT")
    found = runtime.records.records()
    assert found[0].key == KEY
    assert runtime.plans(PROBLEM, Pass.FORWARD)[0].choice == found[0].choice
    assert search(runtime, Pass.WEIGHT_GRADIENT, seconds=1e-9) in runtime.records.records()


def test_tool_refuses(command, tmp_path, capsys):
    assert command(file=tmp_path / "none.py") == 1
    assert "none.py is no file" in capsys.readouterr().err
    assert command(file=tmp_path / "none.onnx") == 1
    assert "none.onnx is no file" in capsys.readouterr().err
    assert command("--select", "nothing") == 1
    assert "no layers" in capsys.readouterr().err
    for arguments, message in (
        (("--seconds", "0"), "expected seconds, more than 0"),
        (("--passes", "sideways"), "expected some of forward,backward"),
        (("--passes", ""), "--passes names no pass"),
        (("--shape", "x"), "expected NAME=1,80,3000"),
        (("--json", "no/such/folder/out.json"), "expected a file in a folder that exists"),
        (("--plot", "picture.txt"), "expected a name that ends in .png"),
    ):
        with pytest.raises(SystemExit):
            command(*arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("matplotlib", ["--plot", "p.png"], "tune"), ("onnx", ["model.onnx"], "onnx")],
)
def test_tool_without_an_optional_package(monkeypatch, capsys, package, arguments, extra):
    """One line that says what to install."""
    real = command_options.find_spec
    monkeypatch.setattr(
        command_options, "find_spec", lambda name: None if name == package else real(name)
    )
    with pytest.raises(SystemExit) as stopped:
        tune.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f'{package}, which is missing: `pip install "clconv[{extra}]"`' in said


def test_tool_on_a_model(runtime, command, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones(PROBLEM.weight_shape, "f"), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, "t"])], [weight],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    for content in (b"no model", b""):
        path.write_bytes(content)
        assert command(file=path) == 1
        assert "net.onnx is no valid ONNX model" in capsys.readouterr().err
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert command(file=path) == 1
    assert "input x has shape n,3,t: give --shape x=1" in capsys.readouterr().err
    assert command("--shape", "x=2,3,60", file=path) == 0
    assert [one.key for one in runtime.records.records()] == [KEY]


def measured(factor):
    """Records whose times are what the model would say were one constant another."""
    device = profile("cpu")
    constant = next(c for c in tune_calibrate.constants(device) if c.name == "STAGE_VECTOR")
    found = []
    for channels in (4, 24, 64):
        problem = Conv1dProblem(1, channels, 2000, 32, 3, 1, 1)
        modelled = planner.plans(problem, Pass.FORWARD, device)
        with tune_calibrate.changed({constant: constant.value * factor}, device) as other:
            after = {str(p.choice): p.cost for p in planner.plans(problem, Pass.FORWARD, other)}
        timings = [
            Timing(p.choice, 1e6 * p.cost, 0, 3e6 * after[str(p.choice)], 5) for p in modelled
        ]
        best = min(timings, key=lambda one: one.median_us)
        found.append(
            Record(RecordKey(problem, Pass.FORWARD, None), best.choice, tuple(timings), 0, 1.0, "1")
        )
    return constant, device, found


def test_calibration_finds_a_constant_again():
    constant, device, found = measured(4.0)
    samples = tune_calibrate.samples(found, device)
    before = tune_calibrate.error(samples, device)
    values = tune_calibrate.fit(samples, device)
    with tune_calibrate.changed(values, device) as other:
        assert tune_calibrate.error(samples, other) < 0.2 * before
        assert tune_calibrate.agreement(samples, other) >= tune_calibrate.agreement(samples, device)
    assert planner.plans(PROBLEM, Pass.FORWARD, device) == planner.plans(
        PROBLEM, Pass.FORWARD, profile("cpu")
    )
    Database(DEVICE, "1").add(found)  # where tiles are read as other objects
    said = tune_calibrate.calibrate(Database(DEVICE, "1").records(), device)
    assert "before fitting: rank correlation" in said
    assert "after fitting: rank correlation" in said
    assert constant.label in said


def test_a_bench_has_room_for_the_largest_workspace(first_runtime):
    """Plans share what is of one name."""
    problem = Conv1dProblem(8, 1, 48000, 1, 101)
    found = first_runtime.plans(problem, Pass.WEIGHT_GRADIENT)
    sizes = {one.nbytes for plan in found for one in plan.workspaces if one.name == "partial"}
    assert len(sizes) > 1
    bench = tuning.Bench(
        first_runtime, problem, Pass.WEIGHT_GRADIENT, tuning.integers(problem), found
    )
    for one in (one for plan in found for one in plan.workspaces):
        buffer, _ = bench._bound[one.name]
        assert buffer.size >= one.nbytes


def test_at_the_prompt():
    """Records and plans say in a line what they are."""
    _, device, (first, *_) = measured(4.0)
    plan = planner.plans(first.key.problem, Pass.FORWARD, device)[0]
    for text in (repr(first), repr(plan)):
        assert len(text) < 400
        assert "forward of Conv1dProblem(batch=1, in_channels=4, length=2000" in text
    assert f"{first.choice.variant}(" in repr(first)
    assert f"{first.winner.median_us:.1f} us" in repr(first)
    assert f"{len(first.candidates)} candidates" in repr(first)
    assert f"on cpu: {plan.variant}(" in repr(plan)
