"""The benchmark of networks: what it compares and tells, and one small run; no time is tested."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import benchmark_models
import benchmark_models_worker
import numpy as np
import pytest
import torch
from benchmark_models import Measured, Result, difference
from benchmark_models_worker import Network, lengths, load
from torch import nn

from clconv.commands.benchmark_worker import WorkerError

NETWORKS = """
import torch
from benchmark_models_worker import Network
from torch import nn


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3)
    def forward(self, x):
        y = self.first(x)
        return y + ("clconv" in repr(self.first))


def plain():
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.ConvTranspose1d(8, 2, 4, 2)
    )


def noise(batch, length):
    return (torch.randn(batch, 2, length),)


NETWORKS = [
    Network("strange", "torch", Strange, noise, 40, 2),
    Network("plain", "torch", plain, noise, 40, 2, 4),
]
"""
SHORT = ["--rounds", "2", "--round-seconds", "0.001", "--tries", "1"]


@pytest.fixture(scope="module")
def networks_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("networks") / "networks.py"
    path.write_text(NETWORKS)
    return str(path)


# What is compared


def test_outputs_may_differ_by_a_thousandth_of_the_largest():
    theirs = {"output": np.array([4.0, -2.0, 0.0])}
    share, name = difference({"output": np.array([4.0, -2.0, 0.002])}, theirs)
    assert (share, name) == (pytest.approx(0.5), "output")
    assert difference({"output": np.array([4.0, -1.99, 0.0])}, theirs)[0] == pytest.approx(2.5)
    assert difference(theirs, theirs)[0] == 0
    zeros = {"output": np.zeros(3)}
    assert difference(zeros, zeros)[0] == 0
    assert difference(theirs, zeros)[0] == float("inf")


@pytest.mark.parametrize(
    "ours",
    [
        {"output": np.array([np.nan, 1.0])},
        {"output": np.array([1.0])},
        {"output": np.array([1.0, 1.0]), "weight": np.ones(2)},
    ],
)
def test_what_cannot_be_compared_differs(ours):
    assert difference(ours, {"output": np.array([1.0, 1.0])})[0] == float("inf")


def test_gradients_that_are_rounding_alone_are_not_compared_with_themselves():
    theirs = {"output": np.ones(1), "weight": np.array([10.0]), "bias": np.array([1e-7])}
    ours = theirs | {"bias": np.array([-1e-7])}
    assert difference(ours, theirs) == (pytest.approx(2e-7 / (1e-2 * 1e-3 * 10)), "bias")
    ours = theirs | {"weight": np.array([10.2])}
    assert difference(ours, theirs) == (pytest.approx(2), "weight")


def test_lengths_change_and_are_the_same_for_everybody():
    network = Network("any", "", lambda: None, lambda *_: (), 100, 2, 8)
    found = lengths(network, 200, 3)
    assert found == lengths(network, 200, 3)
    assert found != lengths(network, 200, 4)
    assert set(found) == {48, 56, 64, 72, 80, 88, 96}


# What is reported


def _measured(name, times, parameters=2_500_000):
    one = Measured(name, "package", parameters, {"clconv": 3, "PyTorch": 1, "nowhere": 0})
    one.results = [
        Result(name, "one", who, 1, 40, ms, [ms or 0.0], [0.0]) for who, ms in times.items()
    ]
    return one


def test_report_has_ratios_and_geometric_means():
    fast = _measured("fast", {"torch": 8.0, "clconv": 2.0, "onnxruntime": 4.0})
    slow = _measured("slow", {"torch": 1.0, "clconv": 4.0, "onnxruntime": None})
    slow.results[2].error = "out of memory"
    slow.results[1].noisy = True
    gone = Measured("gone", "rare-package", missing="rare is not installed")
    lines = benchmark_models.report(
        [fast, slow, gone], ["clconv", "torch", "onnxruntime"]
    ).splitlines()
    assert lines[1].split() == [
        "fast", "2.50", "3/4", "one", "1", "2.00", "8.00", "0.25", "4.00", "0.50",
    ]  # fmt: skip
    assert lines[2].split()[5:] == ["4.00!", "1.00", "4.00", "-", "-"]
    assert lines[3] == "slow one: onnxruntime failed: out of memory"
    assert lines[4] == "gone is left out: rare is not installed (pip install rare-package)"
    assert lines[-2:] == [
        "one: clconv takes 1.00 times as long as torch (geometric mean), is faster on 1 of 2 "
        "networks, at worst 4.00 (slow)",
        "one: clconv takes 0.50 times as long as onnxruntime (geometric mean), is faster on 1 of "
        "1 networks, at worst 0.50 (fast)",
    ]


def test_the_picture(tmp_path):
    """Bars are drawn for what there is, also where a peer or a pass is missing."""
    pytest.importorskip("matplotlib")
    import benchmark_models_plot

    fast = _measured("fast", {"torch": 8.0, "clconv": 2.0, "onnxruntime": 4.0})
    slow = _measured("slow", {"torch": 1.0, "clconv": 4.0, "onnxruntime": None})
    content = {"networks": [asdict(one) for one in (fast, slow, Measured("gone", "rare"))]}
    ratios = [benchmark_models_plot._ratio(one, "one", "torch") for one in content["networks"]]
    assert ratios == [4.0, 0.25, None]
    benchmark_models_plot.draw(content, str(tmp_path / "networks.png"))
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")


# The list and the options


def test_public_networks():
    """Their packages are not needed to know them, and are the extra's."""
    networks = load(benchmark_models.LIST)
    names = [one.name for one in networks]
    assert len(set(names)) == len(names) >= 8
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    extra = text.partition("\nmodels = [")[2].partition("]\n")[0]
    for one in networks:
        assert f'"{one.package}>=' in extra
        assert one.length % one.unit == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passes", "back"], "expected some of one,many,step"),
        (["--passes", ""], "--passes names no pass"),
        (["--against", "torch"], "expected some of onnxruntime,compile"),
        (["--only", "nothing"], "--only is 'nothing', which matches no network"),
        (["--only", "("], "no regular expression"),
        (["--networks", "nowhere.py"], "nowhere.py is no file"),
        (["--networks", __file__], "has no list NETWORKS"),
        (["--tries", "0"], "expected an integer of at least 1"),
    ],
)
def test_options_are_checked(arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark_models.main(arguments)
    assert message in capsys.readouterr().err


# Measuring


class SteadyPace:
    """Says that nothing is missing, at once."""

    def __init__(self, worker):
        assert worker.name == "clconv"

    def missing(self):
        return 0.0


@pytest.fixture(scope="module")
def run(networks_file, tmp_path_factory):
    """A whole run without ONNX Runtime: its text and its figures."""
    out = tmp_path_factory.mktemp("out") / "out.json"
    arguments = ["--networks", networks_file, "--against", "", "--json", str(out), *SHORT]
    arguments += ["--passes", "one,step"]
    with redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_models, "Pace", SteadyPace)
        assert benchmark_models.main(arguments) == 0
    return said.getvalue(), json.loads(out.read_text())


def test_results_are_compared_and_timed(run):
    _, content = run
    plain = next(one for one in content["networks"] if one["name"] == "plain")
    assert plain["parameters"] == 2 * 8 * 5 + 8 + 16 + 8 * 2 * 4 + 2
    assert plain["convolutions"] == {"clconv": 2, "PyTorch": 0, "nowhere": 0}
    assert set(plain["versions"]) == {"torch", "clconv"}
    results = {(r["pass_"], r["implementation"]): r for r in plain["results"]}
    assert set(results) == {(p, i) for p in ("one", "step") for i in ("torch", "clconv")}
    for (pass_, implementation), result in results.items():
        assert result["error"] is None
        assert result["median_ms"] > 0
        assert len(result["rounds_ms"]) == len(result["others"]) == 2
        assert result["batch"] == (1 if pass_ == "one" else 2)
        assert (result["difference"] is None) == (implementation == "torch")


def test_a_network_that_fails_is_told_and_others_go_on(run):
    text, content = run
    lines = text.splitlines()
    assert any(line.startswith("strange one: clconv failed: output differs by ") for line in lines)
    networks = {one["name"]: one for one in content["networks"]}
    strange = [r for r in networks["strange"]["results"] if r["implementation"] == "clconv"]
    assert all(r["difference"] > 1 and r["median_ms"] is None for r in strange)
    assert content["machine"]["cores"] >= 1
    assert content["rounds"] == 2
    assert content["lengths"] is False
    assert content["summary"] == lines[-len(content["summary"]) :]


class Borrowing(nn.Module):
    """Has dropout, and takes the second layer's weight without calling it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(self.first(x))
        return (nn.functional.conv1d(x, self.second.weight),)


BORROWING = Network("", "", Borrowing, lambda n, length: (torch.randn(n, 2, length),), 40, 3, 4)


@pytest.fixture
def clconv_server():
    """A server in this process, whose runtime is no longer the default one afterwards."""
    implementation = benchmark_models_worker.Clconv(BORROWING, False, None)
    yield benchmark_models_worker.Server(implementation)
    implementation.runtime.__exit__(None, None, None)


def test_dropout_is_the_same_and_convolutions_elsewhere_are_counted(clconv_server, tmp_path):
    reference = benchmark_models_worker.Server(
        benchmark_models_worker.Torch(BORROWING, False, None)
    )
    assert clconv_server.describe() == {
        "parameters": 2 * 4 * 3 + 4 + 4 * 4 * 3 + 4,
        "convolutions": {"clconv": 1, "PyTorch": 1, "nowhere": 0},
    }
    assert reference.describe()["convolutions"] == {}
    assert clconv_server.pace()["gflops"] > 0
    found = []
    for place, server in enumerate((reference, clconv_server)):
        file = tmp_path / f"{place}.npz"
        assert server.prepare("step", str(file))["seconds"] > 0
        found.append(benchmark_models.read(file))
    assert set(found[0]) == {"output", "first.weight", "first.bias", "second.weight"}
    assert difference(*found)[0] < 1


def test_lengths_that_change(tmp_path):
    server = benchmark_models_worker.Server(benchmark_models_worker.Torch(BORROWING, True, None))
    server.prepare("many", str(tmp_path / "out.npz"))
    met = []
    server._implementation.model.first.register_forward_pre_hook(
        lambda _, inputs: met.append((*inputs[0].shape,))
    )
    assert len(server.measure(5, turn=2)["seconds"]) == 5
    assert met == [(3, 2, length) for length in lengths(BORROWING, 5, 2)]


def test_a_network_of_one_length_is_left_out_where_lengths_change():
    how = benchmark_models.How("", [], ["one"], 1, 0.001, 1, True, None)
    found = benchmark_models.measure_all([replace(BORROWING, fixed="it is so")], how)[0]
    assert found.errors == ["left out with --lengths: it is so"]
    assert found.results == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("rare is not installed", ": rare is not installed (pip install rare-package)"),
        ("cannot be built\nbecause", ": torch does not run: cannot be built"),
    ],
)
def test_networks_that_cannot_be_built_are_told_in_a_line(said, told, monkeypatch):
    def start(*_):
        raise WorkerError(said)

    monkeypatch.setattr(benchmark_models, "start", start)
    how = benchmark_models.How("", [], ["one"], 1, 0.001, 1, False, None)
    networks = [replace(BORROWING, name=name, package="rare-package") for name in ("a", "b")]
    lines = benchmark_models.report(
        benchmark_models.measure_all(networks, how), ["clconv", "torch"]
    ).splitlines()
    assert [line for line in lines if line.endswith(told)] == [lines[1], lines[2]]


def test_onnx_runtime(tmp_path):
    """Where it is installed, it computes what PyTorch does; it has no training step."""
    if find_spec("onnxruntime") is None:
        with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
            benchmark_models_worker.OnnxRuntime(BORROWING, False, None)
        return
    found = []
    for name in ("torch", "onnxruntime"):
        made = benchmark_models_worker.CLASSES[name](BORROWING, False, None)
        benchmark_models_worker.Server(made).prepare("many", str(tmp_path / "out.npz"))
        found.append(benchmark_models.read(tmp_path / "out.npz"))
    assert difference(*found)[0] < 1
    with pytest.raises(NotImplementedError, match="no training step"):
        made.prepare("step")
