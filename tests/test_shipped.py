"""Tuning records that come with clconv: look-up, files, and the tool that makes them. No timing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import ship_records

import clconv
from clconv import Conv1dProblem, Epilogue, Pass, reference
from clconv import functional as F
from clconv.planning import folding, planner, shipped
from clconv.planning.planner import Choice, LayerChoice
from clconv.planning.profiles import PROFILES, profile
from clconv.planning.records import Record, RecordKey, Timing
from clconv.planning.shipped import Measured, ShippedRecord, Target
from clconv.runtime import replan

# Transforms are never faster for the first, and for long rows of the second.
PROBLEM = Conv1dProblem(2, 3, 60, 4, 3, 1, 1)
LARGE = Conv1dProblem(1, 64, 20000, 64, 9, 1, 4)
DEVICE, PLATFORM = "Some card", "A platform"
ZEN5 = profile("zen5")
GONE = Choice("strip", {"channel_tile": 999})


@pytest.fixture
def files(monkeypatch):
    """Files in place of those that come with clconv, by what `files(target, *records)` says."""
    contents = []

    def forget():
        shipped._files.cache_clear()
        shipped._tables.cache_clear()
        replan()

    def add(target, *records):
        contents.append((f"{len(contents)}.json", shipped.text(target, records)))
        forget()

    monkeypatch.setenv("CLCONV_SHIPPED", "1")
    monkeypatch.setattr(shipped, "_contents", lambda: iter(contents))
    add.contents, add.forget = contents, forget
    forget()
    yield add
    monkeypatch.undo()
    forget()


def made(choice, problem=PROBLEM, pass_=Pass.FORWARD, lengths=(30, 60, 90), gain=1.2):
    """A record of a layer that was measured at some lengths."""
    sizes = [replace(problem, length=length) for length in lengths]
    untuned = planner.plans(problem, pass_, ZEN5)[0].choice
    found = tuple(
        Measured(p.batch, p.length, p.pads, p.positions(pass_), 10.0, 10.0 * gain, untuned)
        for p in sizes
    )
    return ShippedRecord(
        problem.layer, pass_, choice, found, DEVICE, "1.0", "0.1.0", "2025-01-31"
    )  # fmt: skip


def exact_choices(problem, device=ZEN5, pass_=Pass.FORWARD, **more):
    """Of all exact candidates, best first."""
    return [p.choice for p in planner.plans(problem, pass_, device, exact=True, **more)]


def target_of(device=ZEN5, names=(None, None)):
    return Target(*names, shipped.architecture(device))


def first(problem, known, pass_=Pass.FORWARD, device=ZEN5, **more):
    """What "auto" takes with a record."""
    found = planner.candidates(problem, pass_, device, of_layer=lambda: known, **more)
    return next(found).choice


# Look-up


def test_the_order_of_look_ups(files):
    """Device, architecture, vendor, default, whatever the files' order; others' are not found."""
    ours = exact_choices(PROBLEM)
    files(Target(), made(ours[3]))
    files(Target(vendor="x86-64"), made(ours[5]))
    files(Target(vendor="NVIDIA"), made(ours[4]))
    files(target_of(), made(ours[2]))
    files(target_of(names=(DEVICE, PLATFORM)), made(ours[1]))
    files(target_of(profile("zen4")), made(ours[4]))
    files(target_of(names=("Another card", PLATFORM)), made(ours[4]))
    files(target_of(names=(DEVICE, "Another platform")), made(ours[4]))

    def found(name, platform, device, problem=PROBLEM, pass_=Pass.FORWARD):
        known = shipped.find(name, platform, device, problem.layer, pass_)
        return [ours.index(one.choice) for one in known]

    assert found(DEVICE, PLATFORM, ZEN5) == [1, 2, 5, 3]
    assert found("A third card", PLATFORM, ZEN5) == [2, 5, 3]
    # More cores, another clock and another driver's limits make no other architecture.
    many = replace(ZEN5, name="x", compute_units=96, clock=5e9, max_work_group_size=64)
    assert found("A third card", "x", many) == [2, 5, 3]
    assert found(DEVICE, PLATFORM, replace(ZEN5, l2_bytes=2 << 20)) == [5, 3]
    assert found("x", "x", profile("gfx1030")) == [3]
    assert found(DEVICE, PLATFORM, ZEN5, pass_=Pass.INPUT_GRADIENT) == []
    for other in ({"out_channels": 5}, {"dtype": np.float64}, {"dilation": 2}):
        assert found(DEVICE, PLATFORM, ZEN5, replace(PROBLEM, **other)) == []


@pytest.mark.parametrize("name", PROFILES)
def test_architectures(name):
    """Each profile's is its own."""
    facts = shipped.architecture(profile(name))
    json.dumps(facts)
    assert shipped.vendor(profile(name)) == (None if name == "gpu" else shipped.vendor(
        replace(profile(name), name="another", compute_units=99)))  # fmt: skip
    twins = [other for other in PROFILES if shipped.architecture(profile(other)) == facts]
    assert twins == [name]


def test_a_layer_at_any_size_that_was_measured(files):
    """The choice goes first for every batch, length and padding, and with every epilogue."""
    choice = exact_choices(PROBLEM)[2]
    known = [LayerChoice(choice, (1, 1), (6000, 50000))]
    for batch, length, padding in ((1, 3, 0), (2, 60, 1), (7, 5000, (0, 9))):
        problem = Conv1dProblem(batch, 3, length, 4, 3, 1, padding)
        assert first(problem, known) == choice
        for epilogue in (Epilogue(bias=True), Epilogue(activation="relu")):
            assert first(problem, known, epilogue=epilogue) == choice


def test_beyond_what_was_measured_the_model_chooses():
    """Longer rows, shorter ones, or more of them; between the sizes the record is taken, of either
    kind of kernels."""
    sums = exact_choices(LARGE)[1]
    transforms = planner.plans(LARGE, Pass.FORWARD, ZEN5, variant="spectral")[1].choice
    short, middle = replace(LARGE, length=40), replace(LARGE, length=3000)
    for choice in (sums, transforms):
        known = [made(choice, LARGE, lengths=(30, 20000)).known]
        assert first(LARGE, known) == first(short, known) == choice
        known = [made(choice, LARGE, lengths=(1000, 4000)).known]
        assert first(middle, known) == choice
        for beyond in (LARGE, short, replace(middle, batch=8)):
            assert first(beyond, known) == planner.plans(beyond, Pass.FORWARD, ZEN5)[0].choice


def test_kernels_of_all_sizes_are_built_at_once(files, first_runtime):
    """Within what was measured or beyond it, whichever comes first."""
    problem = Conv1dProblem(1, 12, 500, 8, 5, 1, 2)
    own, *others = exact_choices(problem, first_runtime.profile)
    files(target_of(first_runtime.profile), made(others[-1], problem, lengths=(400, 900)))
    weight = first_runtime.zeros((8, 12, 5))
    for lengths in ((500, 40, 5000), (40, 500, 5000)):
        runtime = clconv.Runtime(first_runtime.queue)
        built = []
        for length in lengths:
            x = runtime.zeros((1, 12, length))
            F.conv1d(x, weight, padding=2, exact=True, runtime=runtime)
            built.append(len(runtime.programs))
        assert built == built[:1] * 3
    chosen = [
        next(runtime.candidates(replace(problem, length=one), Pass.FORWARD, exact=True)).choice
        for one in lengths
    ]
    assert chosen == [own, others[-1], own]


def test_what_is_no_candidate_is_ignored(caplog):
    """A tile that no design has any more, and with exact=True what is not exact."""
    caplog.set_level(logging.DEBUG, logger="clconv.planning.planner")
    ours = exact_choices(LARGE)
    transforms = planner.plans(LARGE, Pass.FORWARD, ZEN5, variant="spectral")[0].choice
    gone, inexact, there = (
        made(one, LARGE, lengths=(30, 20000)).known for one in (GONE, transforms, ours[2])
    )
    plain = planner.plans(LARGE, Pass.FORWARD, ZEN5)[0].choice
    assert first(LARGE, [gone]) == plain
    assert "999" in caplog.text
    assert first(LARGE, [inexact], exact=True) == ours[0]
    # The next level's takes its place.
    assert first(LARGE, [gone, there], exact=True) == ours[2]


# Runtimes


def test_auto_takes_a_record(files, runtime, rng, monkeypatch):
    """Below a choice of the layer's own and the user's record; not where a variant is asked for, a
    runtime is exact, or the environment says no."""
    found = planner.plans(PROBLEM, Pass.FORWARD, runtime.profile)
    exact = [plan for plan in found if plan.error_class == "exact"]
    last, other = exact[-1], exact[-2]
    files(target_of(runtime.profile), made(last.choice))
    assert runtime.plans(PROBLEM, Pass.FORWARD)[0].choice == last.choice
    x, weight = (rng.integers(-4, 5, s).astype(np.float32)
                 for s in (PROBLEM.input_shape, PROBLEM.weight_shape))  # fmt: skip
    y = F.conv1d(x, weight, padding=1, runtime=runtime)
    assert np.array_equal(y, reference.conv1d(PROBLEM, x, weight))
    named = runtime.plans(PROBLEM, Pass.FORWARD, variant=found[0].variant)
    assert named[0].choice == found[0].choice
    chosen = runtime.candidates(PROBLEM, Pass.FORWARD, choice=other.choice)
    assert next(chosen).choice == other.choice
    assert clconv.plan(PROBLEM, "forward", runtime.profile).choice == found[0].choice
    monkeypatch.setenv("CLCONV_SHIPPED", "0")
    assert runtime.plans(PROBLEM, Pass.FORWARD) == found
    monkeypatch.setenv("CLCONV_SHIPPED", "1")
    timed = (Timing(other.choice, 1.0, 0, 9.0, 7),)
    key = RecordKey(PROBLEM, Pass.FORWARD, None)
    runtime.records.add([Record(key, other.choice, timed, 0, 1.0, runtime.records.driver)])
    replan()
    assert runtime.plans(PROBLEM, Pass.FORWARD)[0].choice == other.choice
    longer = replace(PROBLEM, length=61)  # which the user has no record of
    assert runtime.plans(longer, Pass.FORWARD)[0].choice == last.choice
    runtime.records.path.unlink()


def test_an_exact_runtime(files, runtime):
    """It keeps to exact variants, whatever the record says."""
    found = planner.plans(LARGE, Pass.FORWARD, runtime.profile)
    inexact = [plan for plan in found if plan.error_class != "exact"]
    assert inexact
    files(target_of(runtime.profile), made(inexact[-1].choice, LARGE, lengths=(9, 30000)))
    assert clconv.plan(LARGE, "forward", runtime).choice == inexact[-1].choice
    assert clconv.plan(LARGE, "forward", runtime, exact=True).error_class == "exact"


def test_no_file_is_read_at_import():
    """Nor without a plan that is made for a device."""
    code = (
        "import clconv, clconv.planning.shipped as s\n"
        "clconv.plan(clconv.Conv1dProblem(1, 1, 9, 1, 3), 'forward', 'zen5')\n"
        "print(s._files.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


# Files


def test_files_come_back():
    """What is written is read: records of all passes, dtypes and levels."""
    ours = [
        made(exact_choices(PROBLEM)[0]),
        made(exact_choices(LARGE, pass_=Pass.WEIGHT_GRADIENT)[1], LARGE, Pass.WEIGHT_GRADIENT),
        made(GONE, replace(PROBLEM, dtype=np.float16, padding=(0, 5)), Pass.INPUT_GRADIENT),
    ]
    for target in (
        Target(),
        Target(vendor="AMD"),
        target_of(),
        target_of(names=(DEVICE, PLATFORM)),
    ):
        assert shipped.parse(shipped.text(target, ours)) == (target, ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema="x"), "schema is 'x'"),
        (lambda c: c.update(version=2), "version 2"),
        (lambda c: c.update(device=None), "expected device and platform with the architecture"),
        (lambda c: c.update(architecture=None), "expected device and platform with the arch"),
        (lambda c: c.update(vendor="AMD"), "expected a vendor alone"),
        (lambda c: c.update(vendor=3), "vendor is 3"),
        (lambda c: c["architecture"].pop("lanes"), "architecture has"),
        (lambda c: c["records"].append(3), "3 where an object was expected"),
        (lambda c: c["records"][0].pop("date"), "no 'date'"),
        (lambda c: c["records"][0].update(measured=[]), "measured is \\[\\]"),
        (lambda c: c["records"][0]["layer"].update(stride=-1), "stride is -1"),
        (lambda c: c["records"][0]["layer"].update(dtype="int8"), "dtype is 'int8'"),
        (lambda c: c["records"][0].update({"pass": "sideways"}), "sideways"),
        (lambda c: c["records"][0].update(tile={"vectors": "3"}), "is '3'"),
        (lambda c: c["records"][0]["measured"][0].update(padding=[1]), "padding is \\[1\\]"),
        (lambda c: c["records"][0]["measured"][0].update(median_us="1"), "median_us is '1'"),
    ],
)
def test_a_damaged_file(files, caplog, change, message):
    """Says what is wrong; to users it is a warning, and the other files count."""
    good = made(exact_choices(PROBLEM)[1])
    content = json.loads(shipped.text(target_of(names=(DEVICE, PLATFORM)), [good]))
    change(content)
    with pytest.raises((ValueError, clconv.ClconvError), match=message):
        shipped.parse(json.dumps(content))
    files.contents.append(("damaged.json", json.dumps(content)))
    files(target_of(), good)
    found = shipped.find(DEVICE, PLATFORM, ZEN5, PROBLEM.layer, Pass.FORWARD)
    assert [one.choice for one in found] == [good.choice]
    assert "damaged.json" in caplog.text


def _shipped():
    folder = resources.files("clconv") / "planning" / "shipped_records"
    return [file for file in folder.iterdir() if file.name.endswith(".json")]


@pytest.mark.parametrize("name", [file.name for file in _shipped()])
def test_the_files_that_come_with_clconv(name):
    """Each is whole, written as the tool writes it, and keeps the tool's rule; what it says to be
    the fastest is a candidate of its architecture."""
    (file,) = (one for one in _shipped() if one.name == name)
    content = file.read_text("utf-8")
    target, found = shipped.parse(content)
    assert shipped.text(target, found) == content
    device = replace(ZEN5, **(target.architecture or {}))
    assert len({(one.layer, one.pass_) for one in found}) == len(found) > 0
    for one in found:
        assert len({size.length for size in one.measured}) >= folding.LEAST_LENGTHS
        for size in one.measured:
            assert size.untuned_us > folding.LEAST_GAIN * size.median_us
        offered = planner.designs(one.layer, one.pass_, device, Epilogue(), "auto")
        assert one.choice in [Choice(variant, design.tile) for variant, design in offered]


def test_files_are_package_data():
    """setuptools puts them into the wheel."""
    root = Path(__file__).parent.parent
    text = (root / "pyproject.toml").read_text()
    assert '"planning/shipped_records/*.json"' in text
    assert _shipped()


# The tool


def run(problem, times, choice=None, **more):
    """A tuning run: microseconds by choice, the model's first."""
    timed = tuple(Timing(one, 1.0 + i, 0, us, 7) for i, (one, us) in enumerate(times))
    chosen = choice or min(times, key=lambda one: one[1])[0]
    return Record(RecordKey(problem, Pass.FORWARD, None), chosen, timed, 0, 1.0, "1.0", **more)


def test_which_records_are_shipped():
    """Those of layers on whose lengths one candidate is faster by 5% in each run."""
    a, b, c = exact_choices(PROBLEM)[:3]
    one, two = PROBLEM, replace(PROBLEM, length=200)
    both = [run(one, [(a, 10), (b, 9), (c, 8.9)]), run(two, [(a, 20), (b, 15), (c, 19.5)])]

    def folded(runs, modelled=a):
        return list(folding.folded([(DEVICE, runs)], lambda problem, pass_: modelled))

    (kept,) = folded(both)
    assert folded(both, modelled=c) == []  # which the model chooses by now
    assert (kept.layer, kept.pass_, kept.choice) == (one.layer, Pass.FORWARD, b)
    assert [(m.length, m.median_us, m.untuned_us) for m in kept.measured] == [
        (60, 9, 10), (200, 15, 20),
    ]  # fmt: skip
    assert kept.measured[0].untuned == a
    assert (kept.device, kept.driver) == (DEVICE, "1.0")
    for runs in (
        [run(one, [(a, 10), (b, 9)])],  # of one length
        [run(one, [(a, 10), (b, 9)]), run(replace(one, batch=9), [(a, 10), (b, 9)])],
        [run(one, [(a, 10), (b, 9)]), run(two, [(a, 20), (b, 19.5)])],  # less than 5%
        [run(one, [(a, 10), (b, 9)]), run(two, [(a, 20), (c, 15)])],  # not the same
        [run(one, [(a, 10), (b, 9)]), run(replace(two, dilation=2), [(a, 20), (b, 15)])],
    ):
        assert folded(runs) == []
    # The newest run of a size counts.
    runs = [run(one, [(a, 10), (b, 9)], written=1.0), run(two, [(a, 20), (b, 15)])]
    runs.append(run(one, [(a, 10), (b, 10)], choice=a, written=2.0))
    assert folded(runs) == []


def test_the_tool(files, runtime, tmp_path, monkeypatch, capsys):
    """It reads the device's database, and writes a file that is found for the device."""
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path))
    a, b = [plan.choice for plan in planner.plans(PROBLEM, Pass.FORWARD, runtime.profile)][:2]
    driver = runtime.records.driver
    for problem in (PROBLEM, replace(PROBLEM, length=200)):
        runtime.records.add([replace(run(problem, [(a, 10), (b, 9)]), driver=driver)])
    out = tmp_path / "made.json"
    device = f"--device={runtime.info.id}"
    for level, rank in (([], 0), (["--architecture"], 1), (["--vendor"], 2), (["--default"], 3)):
        assert ship_records.main([device, *level, "--out", str(out)]) == 0
        assert "1 of 1 passes of layers" in capsys.readouterr().out
        target, (found,) = shipped.parse(out.read_text())
        assert (target.rank, found.choice, found.driver) == (rank, b, driver)
        assert target.fits(runtime.info.name, runtime.info.platform, runtime.profile)
    runtime.records.path.write_text("{}")
    assert ship_records.main([device, "--out", str(out)]) == 1
    assert "no 'device'" in capsys.readouterr().err
