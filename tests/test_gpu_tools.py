"""The tools that tell about GPUs without one."""

from __future__ import annotations

import re
from dataclasses import replace

import gpu_report
import oclgrind_check
import oclgrind_gpu
import pytest
from conftest import _as_gpu

from clconv import Conv1dProblem, Pass, plan
from clconv.commands import predict
from clconv.planning.cost import PARTS
from clconv.planning.planner import plans
from clconv.planning.profiles import PROFILES, DeviceProfile, refined
from clconv.variants.base import Request
from clconv.variants.gemm import EXAMPLES, convolution, gemv
from clconv.variants.gemm.tiles import Matrices, Tile


def test_the_report_compiles_what_plans_return():
    """Launch by launch, the very text; and the planner picks products of matrices for it."""
    name, problem = next(gpu_report.chosen_layers("whisper_conv2"))
    assert name == "whisper_conv2"
    for target in gpu_report.TARGETS:
        for pass_ in gpu_report.PASSES:
            made = plan(problem, pass_, target)
            parts = gpu_report.kernels(made)
            assert made.variant == "gemm"
            assert parts[0][0] in gpu_report.KERNELS
            few = {kernel for kernel, _ in parts} & set(gpu_report.FEW_COLUMNS)
            assert bool(few) == (pass_ is not Pass.WEIGHT_GRADIENT)
            joined = "\n".join(text for _, text in parts)
            assert gpu_report.digest(joined) == gpu_report.digest(made.source())
            assert gpu_report.digest(joined + " ") != gpu_report.digest(made.source())


def test_the_report_knows_all_targets():
    assert set(gpu_report.TARGETS) <= set(PROFILES)
    assert len(gpu_report.TARGETS) == 13
    names = {name for name, _ in gpu_report.chosen_layers("")}
    assert {"wav2vec2_conv2", "tasnet_pw", "stream_small", "mamba_dw4"} <= names
    for _, problem in gpu_report.chosen_layers("mamba_dw4|fir_k1025|hifigan_post"):
        for pass_ in gpu_report.PASSES:
            (kernel, _), *_ = gpu_report.kernels(plan(problem, pass_, "gfx1100"))
            assert kernel in gpu_report.WINDOWS


GOOD = {
    "layer": "some", "pass_": "forward", "target": "gfx1100", "source": "",
    "kernel": "convolution_gemm",
    "tile": {"item_rows": 8, "item_columns": 8}, "registers": 118, "register_text": "118v",
    "spilled": 0, "local_bytes": 8448, "groups": 6, "share": 77.0, "rate": 1.54,
    "local_reads": {"16": 8}, "flat": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"spilled": 4}, ["spills 4"]),
        ({"registers": 129}, ["129 registers"]),
        ({"groups": 1}, ["1 work-groups a unit"]),
        ({"local_reads": {"4": 8, "16": 8}}, ["local reads of other widths than 128 bits"]),
        ({"flat": 2}, ["2 flat accesses"]),
        ({"rate": 1.4}, ["1.40 multiply-adds an instruction"]),
        ({"target": "sm_86"}, ["77.0% multiply-adds"]),
        ({"target": "skl"}, []),
        ({"target": "skl", "registers": 256, "share": 74.9}, ["74.9% multiply-adds"]),
        ({"tile": {"item_rows": 4, "item_columns": 4}, "share": 69.0, "rate": 0.69},
         ["69.0% multiply-adds"]),
        ({"kernel": "convolution_gemv", "tile": {}, "share": 9.0, "rate": 0.09, "groups": 1,
          "local_reads": {}}, []),
        ({"kernel": "convolution_window", "tile": {}, "registers": 129, "spilled": 1, "flat": 1},
         ["spills 1", "129 registers", "1 flat accesses"]),
    ],
)  # fmt: skip
def test_limits(change, broken):
    assert gpu_report.limits(gpu_report.Report(**(GOOD | change))) == broken


def test_the_report_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(gpu_report.shutil, "which", lambda name: None)
    assert gpu_report.main(["--layers", "stream"]) == 2
    error = capsys.readouterr().err
    assert "clang-19" in error
    assert "nvidia-cuda-nvcc" in error
    assert "intel-opencl-icd" in error


def test_prediction(tmp_path, capsys):
    """Says that it is one, and stays under the roofline."""
    layers = tmp_path / "some_layers.py"
    layers.write_text('LAYERS = [("dense", 1, 256, 4000, 256, 3), ("deep", 2, 64, 900, 64, 5, 1, 2,'
                      " 1, 64)]\n")  # fmt: skip
    assert predict.main(["--device", "sm_86", "--layers", str(layers)]) == 0
    text = capsys.readouterr().out
    assert "prediction" in text.splitlines()[0]
    assert "not a measurement" in text.splitlines()[0]
    chosen, _, others = text.partition("\n\n")
    rows = [line.split() for line in chosen.splitlines()[2:]]
    assert [row[:3] for row in rows[:2]] == [["dense", "forward", "gemm"],
                                            ["dense", "input", "gemm"]]  # fmt: skip
    assert {row[2] for row in rows[3:]} == {"window"}
    assert all(0 < int(row[-1]) <= 100 for row in rows)
    # Three taps by Winograd's transforms, beside the product that is chosen.
    assert others.startswith("What is taken only where tuning found it faster")
    rows = [line.split() for line in others.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["dense", pass_, "winograd"]
                                        for pass_ in ("forward", "input", "weight")]  # fmt: skip
    assert all(row[-2] == "gemm" and float(row[-1]) > 0 for row in rows)
    with pytest.raises(SystemExit):
        predict.main(["--profile", "gfx9000"])


@pytest.mark.parametrize("device", ["gfx1030", "cpu", "zen5"])
def test_prediction_explained(tmp_path, capsys, device):
    """The parts of the chosen plan and of the next ones add up to their time, those in brackets
    left out."""
    layers = tmp_path / "layer.py"
    layers.write_text('LAYERS = [("dense", 1, 256, 4000, 256, 3)]\n')
    assert predict.main(["--profile", device, "--layers", str(layers), "--explain"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()[1:]
    starts = [match.start() for match in re.finditer(r"\S+( \S+)*", header)]
    assert header.split("  ")[0] == "layer"
    assert [name for name in predict.EXPLAINED if name not in header] == []
    assert len(starts) == len(predict.EXPLAINED)
    # On a GPU the best of what records alone choose is told behind the others.
    shown = 1 + predict.NEXT + (device == "gfx1030")
    assert len(rows) == 3 * shown
    if device == "gfx1030":
        assert {re.split(r" {2,}", line)[2] for line in rows[shown - 1 :: shown]} == {"winograd"}
    for line, pass_ in zip(rows[::shown], predict.PASSES, strict=True):
        made = plan(Conv1dProblem(1, 256, 4000, 256, 3), pass_, device)
        cells = re.split(r" {2,}", line)
        assert cells[:3] == ["dense", pass_.value.removesuffix("_gradient"), made.variant]
        counted = [re.sub(r"\(.*\)", "", cell).strip(" -") or "0" for cell in cells[5:]]
        assert len(counted) == len(PARTS)
        assert float(cells[4]) == pytest.approx(
            1e3 * predict.predicted(made, PROFILES[device]), abs=1e-4
        )
        assert sum(map(float, counted)) == pytest.approx(float(cells[4]), abs=1e-3)


def test_prediction_counts_whole_tiles():
    """One column more than a tile, or a work-group more than the units take, costs another."""
    device = PROFILES["gfx1030"]
    tile = Tile(128, 128, 8, 8, 8, 1)
    problem = Conv1dProblem(1, 128, 128, 128, 1)
    matrices = Matrices(Request(problem, Pass.FORWARD, device))
    full = 128 * device.compute_units
    one = convolution.cost(matrices, tile, full)
    assert convolution.cost(matrices, tile, full - 127) == one
    more = convolution.cost(matrices, tile, full + 1)
    assert more.seconds == pytest.approx(2 * one.seconds)


def test_prediction_of_few_columns(tmp_path, capsys):
    """Short inputs have a launch of their own, whose work-groups and cost are what is told."""
    few, many = Conv1dProblem(1, 512, 3, 512, 3), Conv1dProblem(1, 512, 20_000, 512, 3)
    for name in ("sm_90", "gfx1100", "skl"):
        device = PROFILES[name]
        for pass_ in (Pass.FORWARD, Pass.INPUT_GRADIENT):
            kernels, seconds = [], []
            for problem in (few, many):
                made = plans(problem, pass_, device, variant="gemm")[0]
                kernels.append(predict.sums_launch(made).kernel.name)
                seconds.append(predict.predicted(made, device))
            assert kernels == ["convolution_gemv", "convolution_gemm"]
            request = Request(few, pass_, device)
            cost = gemv.cost(request, gemv.tile(request)).seconds
            read = predict.bytes_moved(few) / device.bandwidth
            assert seconds[0] == pytest.approx(max(cost, read) + device.launch_seconds)
            made = plans(few, pass_, device, variant="gemm")[0]
            names = ("tile_rows", "tile_columns", "item_rows", "item_columns", "depth", "buffers")
            tile = Tile(*(made.tile[one] for one in names))
            assert seconds[0] < convolution.cost(Matrices(request), tile, 1).seconds
    layers = tmp_path / "short.py"
    layers.write_text('LAYERS = [("short", 1, 512, 3, 512, 3)]\n')
    assert predict.main(["--device", "sm_90", "--layers", str(layers)]) == 0
    chosen, _, _ = capsys.readouterr().out.partition("\n\n")
    forward, gradient, _ = (line.split() for line in chosen.splitlines()[2:])
    for row in (forward, gradient):
        assert int(row[-3]) > 100  # work-groups
        assert 0 < int(row[-1]) <= 100


def test_oclgrind_runs_each_plan(monkeypatch):
    """What is put in place of a plan is what runs, though another ran on the same arrays before."""
    ran = []
    for runtime in _as_gpu(0):
        queue = runtime.enqueue
        monkeypatch.setattr(
            runtime,
            "enqueue",
            lambda commands, *rest, queue=queue: (
                ran.extend(launch for _, launch, _ in commands),
                queue(commands, *rest),
            ),
        )
        problem = EXAMPLES["one column"]
        given = [made for made in oclgrind_gpu.made_plans("gemm")
                 if made.problem == problem and made.pass_ is Pass.FORWARD]  # fmt: skip
        for made in given:
            oclgrind_gpu.run(runtime, made, oclgrind_gpu.operands(problem, made.pass_))
        runtime.forget_plans()
    assert len(given) > 1
    assert ran == [launch for made in given for launch in made.launches]


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("gfx1030", "gfx1030"),
        ("gfx90a:sramecc+:xnack-", "gfx90a"),
        ("gfx1151", "gfx1100"),
        ("NVIDIA GeForce RTX 3060 sm_86", "sm_86"),
        ("NVIDIA H100 80GB HBM3 sm_90", "sm_90"),
        ("Intel(R) Arc(TM) A770 Graphics", "acm-g10"),
        ("Intel(R) Iris(R) Xe Graphics", "tgllp"),
        ("Intel(R) UHD Graphics 630", "skl"),
    ],
)
def test_a_reported_gpu_gets_its_architecture(name, architecture):
    """Limits and size as OpenCL reports them, the rest as is known of the architecture."""
    reported = DeviceProfile("mine", "gpu", 48, max_work_group_size=128, local_bytes=40_000)
    known = PROFILES[architecture]
    one = refined(reported, name)
    assert (one.name, one.max_work_group_size, one.local_bytes) == ("mine", 128, 40_000)
    assert one.compute_units == 48 // known.reported_units
    assert (one.lanes, one.unit_registers) == (known.lanes, known.unit_registers)
    assert one.flops / one.compute_units == pytest.approx(known.flops / known.compute_units)
    assert refined(reported, "a card of tomorrow") == reported
    assert refined(PROFILES["cpu"], name) == PROFILES["cpu"]


def test_the_profile_decides():
    """Registers, local memory and whether it pays are data that the planner goes by."""
    problem = Conv1dProblem(1, 256, 4000, 256, 3)
    device = PROFILES["sm_86"]

    def best(**change):
        other = replace(device, **change)
        made = plan(problem, Pass.FORWARD, other)
        assert made.variant == "gemm"
        return dict(made.tile), made.design.cost.seconds

    tile, cost = best()
    assert (tile["item_rows"], tile["item_columns"], tile["buffers"]) == (8, 8, 1)
    few, _ = best(item_registers=90)
    assert few["item_rows"] * few["item_columns"] < 64
    many, _ = best(item_registers=255, unit_registers=1 << 18)
    assert many["buffers"] == 2
    small, _ = best(unit_local_bytes=16 << 10, local_bytes=8 << 10)
    assert small["tile_rows"] * small["tile_columns"] < tile["tile_rows"] * tile["tile_columns"]
    assert best(local_pays=False)[1] == pytest.approx(2 * cost)
    assert best(read_floats=1)[1] > cost
    assert best(unit_items=256)[1] > cost


def test_names_of_examples_for_oclgrind(monkeypatch, capsys):
    """Those of a variant, one by its name, or all; both ways of looking take them."""
    found = oclgrind_check.all_names()
    assert oclgrind_check.meant((), found) == found
    direct = oclgrind_check.meant(("direct",), found)
    assert direct == [one for one in found if one.startswith("direct, ")]
    assert oclgrind_check.meant((direct[0], "direct"), found) == direct
    with pytest.raises(ValueError, match="no variant and no example 'dir'"):
        oclgrind_check.meant(("dir",), found)
    asked = []
    monkeypatch.setattr(oclgrind_check, "finds_planted", lambda *_: True)
    monkeypatch.setattr(
        oclgrind_check, "under_oclgrind", lambda _, *mode: asked.append(mode) or (0, [])
    )
    assert oclgrind_check.main(*direct) == oclgrind_check.uninitialized(*direct) == 0
    assert asked == [("--inside", *direct), *(("--inside", one) for one in direct)]
    assert f"0 uninitialised reads in {len(direct)} problems" in capsys.readouterr().out
