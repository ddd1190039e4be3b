"""The report of a device: small runs, what is in its files, and what is not."""

from __future__ import annotations

import getpass
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import clconv
from clconv import DeviceError
from clconv.commands import private, report, report_page, report_parts, steps
from clconv.planning.records import record_of_json

LAYERS = """LAYERS = [
    ("dense", 1, 20, 90, 24, 3, 2, 1, 1, 1),
    ("depthwise", 2, 8, 70, 8, 5, 1, 2, 1, 8),
]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of a few seconds on the first device, by the command: its folder and its output."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "layers.py").write_text(LAYERS)
    words = ["--minutes", "0.15", "--layers", "layers.py", "--out", "out", "--name", "my-card"]
    done = subprocess.run(
        [sys.executable, "-m", "clconv", "report", *words], cwd=folder, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", done


@pytest.fixture(scope="module")
def content(made):
    return json.loads((made[0] / "my-card.json").read_text("utf-8"))


def test_the_files(made, content):
    """All that is promised, the time that was asked for, and nothing more is left behind."""
    folder, done = made
    timed = any("median_us" in line for step in content["steps"] for line in step["lines"])
    drawn = timed and find_spec("matplotlib") is not None  # nothing is drawn of nothing
    names = {"my-card.json", "my-card.md"} | ({"my-card.png"} if drawn else set())
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in folder.parent.iterdir()} == {"out", "layers.py"}
    assert done.stderr.startswith("" if drawn else "no picture: ")
    assert done.stderr.count("\n") == (not drawn)
    assert (content["schema"], content["version"]) == ("clconv report", 1)
    assert content["clconv"] == clconv.__version__
    assert content["seconds"] == 9
    steps = {step["name"]: step for step in content["steps"]}
    assert list(steps) == ["devices", "accuracy", "layers", "tuned"]
    for step in steps.values():
        assert step["done"] + len(step["left_out"]) == step["items"] > 0
    info = steps["devices"]["lines"][0]["info"]
    there = json.loads(json.dumps(next(
        vars(one) for one in clconv.devices() if one.id == info["id"])))  # fmt: skip
    # But for the memory: that of a virtual machine may grow between the two.
    same = info.keys() - {"global_bytes"}
    assert info.keys() == there.keys()
    assert {name: info[name] for name in same} == {name: there[name] for name in same}
    assert info["global_bytes"] > 0


def test_the_page(made, content):
    """Each step has its chapter, and what was left out is in it."""
    page = (made[0] / "my-card.md").read_text("utf-8")
    info = content["steps"][0]["lines"][0]["info"]
    assert page.startswith(f"# clconv {clconv.__version__} on {info['name']}\n")
    for title in ("Device", "Accuracy", "Layers", "Tuning", "How far it came"):
        assert f"\n## {title}\n" in page
    assert "\n## What failed\n\nNothing.\n" in page
    for step in content["steps"]:
        for name in step["left_out"][: report_page.MOST_NAMES]:
            assert name in page
    assert ("(my-card.png)" in page) == (made[0] / "my-card.png").exists()


def test_nothing_private(made):
    """No folder, and no name of user or machine."""
    folder, _ = made
    texts = [(folder / name).read_text("utf-8") for name in ("my-card.json", "my-card.md")]
    hidden = {str(Path.home()), str(folder), str(Path(clconv.__file__).parent), sys.prefix}
    hidden |= {getpass.getuser(), socket.gethostname(), platform.node()} - private.COMMON
    for text in texts:
        for one in hidden - {"", "/"}:
            assert one not in text
        assert not private.PATH.search(text), private.PATH.search(text)


def test_names_and_paths_are_taken_out(monkeypatch):
    """Wherever they stand in a text, also in what drivers say; the rest stays."""
    monkeypatch.setattr(getpass, "getuser", lambda: "ada.lovelace")
    monkeypatch.setattr(socket, "gethostname", lambda: "engine-7.example.org")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada lovelace"))
    line = {
        "error": "BuildError: /home/ada lovelace/.cache/k.cl:3: error on engine-7, of ada.lovelace",
        "log": ["C:\\Users\\Ada\\x.cl is missing", "~/x:/home/bob/y", "file:///home/bob/x",
                "built with -I/home/bob/include", r"\\share\bob\k.cl", "ENGINE-7 has Ada.Lovelace"],
        "name": "EPYC 9R14, 3 GFLOP/s and 1/2; and/or; https://example.org/x", "count": 3,
        "pass": "forward",
    }  # fmt: skip
    found = private.Private().clean(line)
    text = json.dumps(found, ensure_ascii=False)
    hidden = "ada Ada lovelace engine ENGINE bob home Users .cache share"
    for one in hidden.split():
        assert one not in text, one
    assert found["name"] == line["name"]
    assert (found["pass"], found["count"]) == ("forward", 3)
    assert "BuildError: " in found["error"]
    assert "error on …, of …" in found["error"]
    assert set(private.machine()) >= {"system", "processor", "cores"}
    assert os.environ.get("PATH") not in json.dumps(private.machine())


@pytest.fixture
def work(first_runtime, tmp_path):
    """A step's work on the first device, with two small layers."""
    (tmp_path / "layers.py").write_text(LAYERS)
    made = report_parts.Work(None, str(tmp_path / "layers.py"), tmp_path / "none", 9e99)
    made.runtime, made.found = first_runtime, report_parts.facts(first_runtime)
    made.roof = {"peak_gflops": 1e9, "copy_gbs": 1e9}
    return made


def test_accuracy(work, monkeypatch):
    """An example by each variant for the device; a wrong value is told."""
    items = report_parts.accuracy_items(work)
    names = work.found["variants"]
    assert [name for name, _ in items[: len(names)]] == names
    assert {name for name, _ in items} == set(names)
    assert len(set(items)) == len(items)
    lines = list(report_parts.accuracy(work, *next(i for i in items if i[0] == "direct")))
    assert [line["pass"] for line in lines] == [one.value for one in clconv.tuning.PASSES]
    for line in lines:
        assert "wrong" not in line
        assert line["integers"] == 0 < line["normals"] < 1
    result = clconv.tuning.Bench.result
    monkeypatch.setattr(
        clconv.tuning.Bench, "result", lambda *all_: result(*all_) + np.float32(1e-3)
    )
    line = next(report_parts.accuracy(work, *next(i for i in items if i[0] == "direct")))
    assert "values are wrong on normals" in line["wrong"]
    assert line["normals"] is None


def test_layers_above_the_roof(work, monkeypatch):
    """They are measured again, with the roof; what still is above it is marked."""
    (line,) = report_parts.layers(work, "dense", "forward")
    assert line["median_us"] > 0
    assert line["predicted_us"] > 0
    assert line["first_run_s"] > 0
    assert "above_roof" not in line
    low, high = ({"peak_gflops": x, "copy_gbs": x} for x in (1e-9, 1e9))
    for again, above in ((high, False), (low, True)):
        work.roof = low
        work.roofline = type("R", (), {"measure": lambda *_, again=again: again})()
        (line,) = report_parts.layers(work, "dense", "forward")
        assert line["above_roof"] is above
        assert line["roof_again"] == again


def test_tuned(work, monkeypatch):
    """At two lengths, with records that can be read again; what both recommend is timed again."""
    monkeypatch.setattr(report_parts, "agreed", lambda records: records[0].ranking[-1])
    *searches, first, second = report_parts.tuned(work, "dense", "forward")
    for line, length in zip(searches, (90, 45), strict=True):
        record = record_of_json(json.loads(json.dumps(line["record"])))
        assert line["length"] == record.key.problem.length == length
        assert record.choice.variant == line["variant"]
    assert [line["length"] for line in (first, second)] == [90, 45]
    assert all(line["again_before_us"] > 0 < line["again_after_us"] for line in (first, second))
    assert first["choice"] == second["choice"]
    monkeypatch.setattr(report_parts, "agreed", lambda _: None)
    assert all("record" in line for line in report_parts.tuned(work, "depthwise", "forward"))


def test_what_the_command_refuses(tmp_path, capsys):
    for words, message in (
        (["--minutes", "0"], "expected minutes, at least 1/60"),
        (["--minutes", "x"], "expected minutes"),
        (["--out", str(tmp_path / "no" / "such")], "expected a folder within one that exists"),
        (["--layers", "none.py"], "none.py is no file"),
        (["--name", "../mine"], "'../mine', expected letters"),
    ):
        with pytest.raises(SystemExit):
            report.main(words)
        assert message in capsys.readouterr().err
    assert report.main(["--device", "none such"]) == 1
    assert "none such" in capsys.readouterr().err
    with pytest.raises(DeviceError):
        report._chosen("none such")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(content, tmp_path, monkeypatch, capsys):
    """One line says what to install; the page has no picture."""
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    files = report.write(content, tmp_path)
    assert [path.name for path in files] == ["report.json", "report.md"]
    assert capsys.readouterr().err.count("\n") == 1
    assert "png" not in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals reach no thread here")
def test_interrupted_twice(tmp_path, monkeypatch):
    """No process is left behind by who cannot wait."""
    started, kill = [], steps._kill

    def start(*words, **more):
        started.append(popen(*words, **more))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return started[-1]

    def kill_late(process):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)
        kill(process)

    popen = subprocess.Popen
    monkeypatch.setattr(steps.subprocess, "Popen", start)
    monkeypatch.setattr(steps, "_kill", kill_late)
    watch = steps.Watch(
        lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "lines",
        tmp_path / "x.log", time.time() + 60, 60.0, dict(os.environ),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        steps.supervise(watch, 1, 1)
    assert [one.poll() is not None for one in started] == [True]
