"""The benchmark: what it counts, how it judges, and one small run; no time is tested."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from clconv import progress
from clconv.commands import (
    benchmark,
    benchmark_candidates,
    benchmark_worker,
    layers,
    options,
    roofline,
)
from clconv.commands.benchmark import Comparison, Result
from clconv.commands.benchmark_candidates import Search
from clconv.commands.layers import FAMILIES, Layer, random_layers

ROOF = {
    "peak_gflops": 100.0, "copy_gbs": 10.0, "lanes": 8, "chains": 12, "copy_bytes": 1 << 20,
    "samples": [{"others": 0.0}],
}  # fmt: skip
DENSE = Layer("dense", 1, 64, 10000, 128, 3, 1, 1, 1, 1)
STRIDED = Layer("strided", 1, 64, 10000, 128, 4, 2, 1, 1, 1)
DEPTHWISE = Layer("depthwise", 1, 100, 10000, 100, 5, 1, 2, 1, 100)
TINY = Layer("tiny", 1, 1, 10, 2, 2, 1, 0, 1, 1)
LAYERS = """LAYERS = [
    ("first", 1, 2, 40, 16, 3, 2, 1, 1, 1),
    ("second", 2, 4, 50, 4, 5, 1, 2, 1, 4),
]
"""


@pytest.fixture
def layers_file(tmp_path) -> Path:
    path = tmp_path / "layers.py"
    path.write_text(LAYERS)
    return path


# What is counted


def test_work_and_bytes_of_a_layer():
    # 128 channels, 5000 positions, 64 channels times 4 taps, two operations each.
    assert STRIDED.flops("forward") == 2 * 128 * 5000 * 64 * 4
    assert STRIDED.flops("backward") == 2 * STRIDED.flops("forward")
    x, weight, y = 4 * 64 * 10000, 4 * 128 * 64 * 4, 4 * 128 * 5000
    assert STRIDED.nbytes("forward") == x + weight + y
    assert STRIDED.nbytes("backward") == 2 * (x + weight) + y + 4 * 128
    assert DEPTHWISE.flops("forward") == 2 * 100 * 10000 * 5
    assert [a.shape for a in DEPTHWISE.tensors()] == [
        (1, 100, 10000), (100, 1, 5), (1, 100, 10000),
    ]  # fmt: skip


def test_kinds_of_layers():
    four = (DENSE, STRIDED, DEPTHWISE, TINY)
    assert [layer.is_dense for layer in four] == [True, True, False, False]
    assert [layer.is_depthwise for layer in four] == [False, False, True, False]
    assert [layer.is_tiny for layer in four] == [False, False, False, True]
    assert [la.name for la in layers.load() if la.is_tiny] == ["seed_example", "stream_small"]


def test_random_layers_are_the_same_for_a_seed():
    found = random_layers(30, 7)
    assert found == random_layers(30, 7)
    assert found[:4] == random_layers(4, 7)
    assert found != random_layers(30, 8)


def test_random_layers_are_realistic():
    found = random_layers(60, 1)
    assert [la.name for la in found[:3]] == [
        "random_00_dense", "random_01_downsampling", "random_02_dilated",
    ]  # fmt: skip
    assert {la.name.split("_", 2)[2] for la in found} == set(FAMILIES)
    for layer in found:  # `problem` raises where there is no such convolution
        assert min(layer.problem.output_shape) >= 1
        assert 2e7 <= layer.flops("forward") <= 5e9, layer
        assert layer.nbytes("backward") < 300e6, layer
    of = {family: [la for la in found if la.name.endswith(family)] for family in FAMILIES}
    assert all(la.is_depthwise for la in of["depthwise"])
    assert all(1 < la.groups < la.in_channels for la in of["grouped"])
    assert all(la.kernel_size == 1 for la in of["pointwise"])
    assert all(la.stride > 1 for la in of["downsampling"])
    assert all(la.dilation > 1 for la in of["dilated"])
    assert all(la.in_channels <= 4 for la in of["first"])
    assert all(la.out_channels == 1 for la in of["one_output"] + of["fir"])


# What is reported


def _comparison(layer, pass_, times, plans=()):
    results = {
        name: Result(name, layer.name, pass_, rounds_us=[us, us, us * 9], others=[None, 0.0, 0.01])
        if us is not None
        else Result(name, layer.name, pass_)
        for name, us in times.items()
    }
    results["clconv"].plans = list(plans)
    one = Comparison(layer, pass_, results)
    one.finish(ROOF)
    return one


def _plan(pass_, workspace, arrays=1000):
    return {"pass_": pass_, "workspace_bytes": workspace, "array_bytes": arrays}


def test_summary():
    dense_us = DENSE.flops("forward") / 50 / 1e3  # at half the peak
    strided_us = STRIDED.flops("forward") / 12.5 / 1e3  # at an eighth
    depthwise_us = DEPTHWISE.nbytes("forward") / 2.5 / 1e3  # at a quarter of the bandwidth
    plans = [_plan("forward", 0), _plan("forward", 125)]
    measured = [
        _comparison(
            DENSE, "forward", {"clconv": dense_us, "torch": 2 * dense_us, "onnxruntime": dense_us},
            plans[:1],
        ),
        _comparison(
            STRIDED, "forward",
            {"clconv": strided_us, "torch": strided_us / 2, "onnxruntime": None}, plans[1:],
        ),
        _comparison(
            DEPTHWISE, "forward",
            {"clconv": depthwise_us, "torch": 8 * depthwise_us, "onnxruntime": depthwise_us / 4},
        ),
        _comparison(TINY, "forward", {"clconv": 100.0, "torch": 1.0, "onnxruntime": 1.0}),
    ]  # fmt: skip
    assert benchmark.summary(measured, ["torch", "onnxruntime"], ROOF) == [
        "forward: torch takes 2.00 times as long as clconv (geometric mean, layers: 3)",
        "forward: lowest ratio to torch 0.50 (strided)",
        "forward: onnxruntime takes 0.50 times as long as clconv (geometric mean, layers: 2)",
        "forward: lowest ratio to onnxruntime 0.25 (depthwise)",
        "forward: clconv is at least as fast as the fastest peer on 1 of 3 layers",
        "forward: dense layers reach 25% of the peak (geometric mean, layers: 2)",
        "forward: lowest share of dense layers 12% (strided)",
        "forward: depthwise layers reach 25% of the copy bandwidth (geometric mean, layers: 1)",
        "forward: lowest share of depthwise layers 25% (depthwise)",
        "forward: workspace of at most 12.5% of its arrays' bytes (strided)",
    ]


def test_the_roof_is_the_lower_of_peak_and_bandwidth():
    bound = _comparison(DENSE, "forward", {"clconv": DENSE.flops("forward") / 50 / 1e3})
    assert bound.results["clconv"].roof_share == pytest.approx(0.5)
    starved = _comparison(DEPTHWISE, "forward", {"clconv": DEPTHWISE.nbytes("forward") / 5 / 1e3})
    assert starved.results["clconv"].roof_share == pytest.approx(0.5)


def test_the_larger_of_two_roofs_counts():
    samples = [ROOF, ROOF | {"peak_gflops": 90.0, "copy_gbs": 11.0, "chains": 8}]
    roof = benchmark.best_roofline(samples)
    assert (roof["peak_gflops"], roof["copy_gbs"], roof["chains"]) == (100.0, 11.0, 12)


def test_report_flags_noise_and_tells_failures():
    one = _comparison(DENSE, "backward", {"clconv": 20000.0, "torch": None, "onnxruntime": None})
    one.results["clconv"].others = [0.0, 0.3, 0.2]
    one.finish(ROOF)
    one.results["torch"].error = "out of memory"
    one.results["onnxruntime"].error = "NotImplementedError: it has no backward pass"
    lines = benchmark.report([one], ["torch", "onnxruntime"], ROOF).splitlines()
    assert lines[1].split() == ["dense", "backward", "20000.0!", "49.2", "49%"] + ["-"] * 4
    assert lines[2:4] == [
        "dense backward: torch failed: out of memory",
        "!: in most rounds others used more than 5% of the machine",
    ]


# Measuring


@pytest.fixture
def impatient(monkeypatch):
    """Measures once, however busy the machine."""
    monkeypatch.setattr(benchmark_worker, "TRIES", 1)
    monkeypatch.setattr(benchmark_candidates, "TRIES", 1)


class FakeWorker:
    """Answers with probes and times that are made up."""

    pid = 0
    pace = None

    def __init__(self, probes, times):
        self._probes, self._times = probes, iter(times)

    def ask(self, what, layer=None, **arguments):
        if what == "pace":
            return {"gflops": next(self._times)}
        if what == "prepare":
            return {"probes": self._probes, "plans": []}
        return {"median_us": next(self._times)}


def test_rounds_and_results_that_differ(impatient, monkeypatch):
    monkeypatch.setattr(benchmark_worker.Watch, "others", lambda _: 0.0)  # however busy others are
    workers = {
        "clconv": FakeWorker([[2.0, 1.0]], [3.0, 1.0, 2.0]),
        "torch": FakeWorker([[2.0, 1.001]], [7.0, 5.0, 6.0]),
        "onnxruntime": FakeWorker([[2.0, 1.1]], []),
    }
    one = benchmark.compare(DENSE, "forward", workers, 3, 0.01)
    one.finish(ROOF)
    assert one.results["clconv"].median_us == 2
    assert one.ratio("torch") == 3
    assert one.ratio("onnxruntime") is None
    assert one.results["onnxruntime"].error == "its results differ from those of clconv"


def test_noisy_measurements_are_repeated(monkeypatch):
    parts = iter([0.5, 0.2, 0.01, 0.3])
    monkeypatch.setattr(benchmark_worker.Watch, "others", lambda _: next(parts))
    found = iter("abcd")
    assert benchmark_worker.quiet(lambda: next(found), FakeWorker([], [])) == ("c", 0.01)
    parts = iter([0.5, 0.2, 0.4, 0.3])
    found = iter("abcd")
    assert benchmark_worker.quiet(lambda: next(found), FakeWorker([], [])) == ("b", 0.2)


def test_measurements_on_a_slow_processor_are_repeated(monkeypatch):
    """A pace that sinks spoils the measurement before it and the one behind it."""
    monkeypatch.setattr(benchmark_worker.Watch, "others", lambda _: 0.01)
    worker = FakeWorker([], [])
    worker.pace = benchmark_worker.Pace(FakeWorker([], [100.0, 50.0, 95.0, 92.0]))
    found = iter("abcd")
    assert benchmark_worker.quiet(lambda: next(found), worker) == ("a", 0.01)
    assert benchmark_worker.quiet(lambda: next(found), worker) == ("d", 0.01)


def test_noisy_rounds_are_thrown_away():
    assert benchmark_worker.settle([9.0, 1.0, 3.0], [0.2, 0.0, None]) == (2, False)
    assert benchmark_worker.settle([9.0, 8.0, 3.0], [0.2, 0.3, 0.01]) == (3, True)
    assert benchmark_worker.settle([9.0, 8.0, 3.0], [0.2, 0.3, 0.1]) == (8, True)


def test_rank_correlation():
    assert benchmark_candidates.spearman([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1)
    assert benchmark_candidates.spearman([1, 2, 3, 4], [9, 7, 5, 1]) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 and 0, 2, 1, 3: covariance 4.5, variances 4.5 and 5.
    assert benchmark_candidates.spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(
        4.5 / (4.5 * 5) ** 0.5
    )
    assert benchmark_candidates.spearman([1, 1], [1, 2]) is None


def _candidate(cost, screened, rounds=None):
    found = {"variant": "direct", "tile": {"vectors": int(cost)}, "cost": cost}
    return (
        found
        | {"screened_us": screened}
        | ({"rounds_us": rounds, "others": [0.0] * len(rounds)} if rounds else {})
    )


def test_first_choice_beside_the_best():
    near = Search("near", "forward", False, 5, [
        _candidate(1, 10.0, [10.5, 99.0, 10.5]), _candidate(2, 12.0), _candidate(3, 9.0, [10.0]),
        _candidate(4, 13.0),
    ])  # fmt: skip
    far = Search("far", "forward", False, 0, [
        {"variant": "strip", "tile": {}, "cost": 0.5, "error": "refused"},
        _candidate(1, 20.0, [20.0]), _candidate(2, 10.0, [10.0]),
    ])  # fmt: skip
    for one in (near, far):
        benchmark_candidates.finish(one)
    assert (near.chosen, near.best, near.chosen_ratio) == (0, 2, pytest.approx(1.05))
    assert near.rank_correlation == pytest.approx(0.4)
    assert (far.chosen, far.best, far.chosen_ratio) == (1, 2, 2)
    assert benchmark_candidates.summary([near, far]) == [
        "7 candidates were timed, 5 left out",
        "forward: the planner's first choice is within 10% of the best on 1 of 2 layers",
        "forward: it takes 1.45 times as long as the best (geometric mean)",
        "forward: at worst 2.00 times (far)",
        "forward: rank correlation of costs and times 0.40 (median), 0.40 at least",
    ]
    said = benchmark_candidates.report([near, far])
    assert "far forward: strip: refused" in said
    assert "\nnear forward: direct 9.0\nfar forward: direct 10.0, strip not timed\n" in said


@pytest.mark.parametrize(
    ("layer", "variant", "why"),
    [(DENSE, "strip", "the machine was busy while the peak was measured"),
     (DEPTHWISE, "depthwise", "its arrays stay in a cache, or the machine was busy while the copy"),
     (DENSE, "spectral", "its transforms need fewer operations than are counted")],
)  # fmt: skip
def test_above_the_roof(layer, variant, why, monkeypatch):
    """Layer and roof are measured once more; what still is above it is marked, with a reason."""
    least_us = max(layer.flops("forward") / 100e3, layer.nbytes("forward") / 10e3)

    def above(times, peaks):
        """A benchmark whose layer takes these parts of what the roof allows, one after another."""
        times, peaks, asked = iter(times), iter(peaks), []

        def compared(*_):
            asked.append("layer")
            plans = [_plan("forward", 0) | {"variant": variant}]
            return _comparison(layer, "forward", {"clconv": least_us * next(times)}, plans)

        def roofs(*_):
            asked.append("roof")
            factor = next(peaks)
            rates = {"peak_gflops": 100.0 * factor, "copy_gbs": 10.0 * factor, "others": 0.0}
            return ROOF | rates

        monkeypatch.setattr(benchmark, "compare", compared)
        monkeypatch.setattr(benchmark, "measure_roofline", roofs)
        measured, samples = [compared()], [roofs()]
        asked.clear()
        shown = progress.Bar("measuring", "pass")
        benchmark.measure_again(measured, None, samples, 1, 0.1, shown)
        roof = benchmark.best_roofline(samples)
        measured[0].finish(roof)
        return asked, benchmark.report(measured, [], roof)

    asked, said = above([1.25], [1])
    assert asked == []
    assert "^" not in said
    for times, peaks in (([0.5, 1.25], [1, 1]), ([0.5, 0.5], [1, 2.5])):
        asked, said = above(times, peaks)
        assert asked == ["roof", "layer"]
        assert " 80%" in said
        assert "^" not in said
    _, said = above([0.5, 0.5], [1, 1])
    assert "200%^" in said
    assert f"^ {layer.name} forward is above the roof, in a second measurement too: {why}" in said


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passes", "sideways"], "expected some of forward,backward"),
        (["--passes", ""], "--passes names no pass"),
        (["--against", "numpy"], "expected some of torch,onnxruntime"),
        (["--rounds", "0"], "'0', expected an integer of at least 1"),
        (["--round-seconds", "long"], "'long', expected seconds"),
        (["--random", "-1"], "expected an integer of at least 0"),
        (["--no-layers"], "no layers"),
        (["--layers", "nowhere.py"], "nowhere.py is no file"),
        (["--select", "nothing"], "--select is 'nothing', which matches no layer"),
        (["--select", "("], "no regular expression"),
        (["--json", "no/such/folder/out.json"], "expected a file in a folder that exists"),
        (["--plot", "picture.txt"], "expected a name that ends in .png"),
        (["--plot", "picture.png", "--all-candidates"], "--plot shows a comparison"),
        (["--most-candidates", "3"], "without --all-candidates"),
    ],
)
def test_options_are_checked(arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ROWS = []", "no Python file with a list LAYERS"),
        ("LAYERS = [('short', 1)]", "missing 4 required positional arguments"),
        ("LAYERS = [('bad', 1, 3, 8, 4, 3, 1, 0, 1, 2)]", "groups is 2"),
    ],
)
def test_layer_files_are_checked(text, message, layers_file):
    layers_file.write_text(text)
    with pytest.raises(ValueError, match=message):
        layers.load(str(layers_file))


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        benchmark.main(["--plot", "picture.png"])
    assert 'pip install "clconv[tune]"' in capsys.readouterr().err


SHORT = ["--rounds", "1", "--round-seconds", "0.01"]


def test_no_device(layers_file, capsys):
    assert benchmark.main(["--layers", str(layers_file), "--device", "no such device"]) == 1
    assert "clconv does not run: " in capsys.readouterr().err


def test_roofline_of_a_device(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 20)
    assert roofline.main([]) == 0
    found = re.search(r"peak (.*) GFLOP/s .*, copy (.*) GB/s \(1 MiB", capsys.readouterr().out)
    assert found
    assert all(float(rate) > 0 for rate in found.groups())
    assert roofline.main(["--device", "no such device"]) == 1


def test_a_small_run(layers_file, tmp_path, capsys, impatient):
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    drawn = find_spec("matplotlib") is not None
    peers = "torch,onnxruntime,prepared,exact"
    arguments = ["--layers", str(layers_file), "--against", peers, "--json", str(out)]
    assert benchmark.main(arguments + SHORT + ["--plot", str(plot)] * drawn) == 0
    printed = capsys.readouterr()
    assert "torch is left out" not in printed.err
    content = json.loads(out.read_text())
    assert [Layer(**layer).name for layer in content["layers"]] == ["first", "second"]
    assert content["machine"]["device"]["name"] in content["versions"]["clconv"]
    assert content["machine"]["cores"] >= 1
    roof = content["roofline"]
    assert roof["peak_gflops"] > 0
    assert roof["copy_gbs"] > 0
    assert len(roof["samples"]) == 2
    results = {(r["implementation"], r["layer"], r["pass_"]): r for r in content["results"]}
    for (name, _, pass_), result in results.items():
        if name in ("onnxruntime", "prepared") and pass_ == "backward":
            assert result["error"].startswith("NotImplementedError: ")
        else:  # so the results agreed, bias gradients included
            assert result["error"] is None
            assert result["median_us"] == result["rounds_us"][0] > 0
        if name == "exact":
            assert not {"spectral", "winograd"} & {plan["variant"] for plan in result["plans"]}
    passes = [plan["pass_"] for plan in results["clconv", "first", "backward"]["plans"]]
    assert passes == ["input_gradient", "weight_gradient"]  # which sums the bias gradient too
    assert content["summary"] == printed.out.splitlines()[-len(content["summary"]) :]
    assert printed.out.splitlines()[1].split()[:2] == ["first", "forward"]
    assert plot.exists() == drawn


def test_all_candidates(layers_file, tmp_path, capsys, impatient):
    out = tmp_path / "out.json"
    arguments = ["--layers", str(layers_file), "--select", "first", "--json", str(out), *SHORT]
    assert benchmark.main([*arguments, "--all-candidates", "--most-candidates", "2"]) == 0
    assert "candidates were timed" in capsys.readouterr().out
    searches = [Search(**one) for one in json.loads(out.read_text())["candidates"]]
    assert [one.pass_ for one in searches] == ["forward", "input_gradient", "weight_gradient"]
    for one in searches:
        assert one.error is None
        assert len(one.candidates) >= 2
        assert one.left_out > 0
        assert not [c["error"] for c in one.candidates if "error" in c]
        assert {c["variant"] for c in one.candidates} >= {"direct"}
        assert one.chosen_ratio >= 1
        assert asdict(one)["best"] is not None
