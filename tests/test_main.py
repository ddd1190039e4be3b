"""`python -m clconv` and its commands, from a shell and as the thin scripts of tools/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clconv
from clconv import __main__ as command
from clconv.commands import benchmark, layers

TOOLS = Path(__file__).parent.parent / "tools"


def test_devices(capsys):
    assert command.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found] == [info.id for info in clconv.devices()]
    assert "check" not in found[0]


def test_check(capsys):
    assert command.main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["check"] for one in found if one["why_not"] is None} == {"ok"}


def test_source(capsys):
    """The very text that a plan has, after comments that say what it is."""
    line = ["source", "--in-channels", "4", "--out-channels", "6", "--profile", "gfx1100"]
    assert command.main(line) == 0
    said = capsys.readouterr().out
    plan = clconv.plan(clconv.Conv1dProblem(1, 4, 1024, 6, 3), "forward", "gfx1100")
    assert said.startswith("// forward of batch=1, in_channels=4, ")
    assert f"// variant    {plan.variant}\n" in said
    assert all(line in said for line in plan.source().splitlines())
    assert command.main(["source", "--list"]) == 0
    assert "gfx1100" in capsys.readouterr().out
    assert command.main(["source", "--kernel-size", "0"]) == 1
    assert "kernel_size is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([*line, "--kernel", "9"])
    assert "--kernel is 9, expected 1 to " in capsys.readouterr().err


def test_devices_and_cards(first_runtime, capsys):
    """`source` and `predict` take both options alike: a card, or a device that is here."""
    for name in ("source", "predict"):
        said = []
        for option, value in (
            ("--profile", "rtx3080"), ("--device", "rtx3080"), ("--device", "0"),
        ):  # fmt: skip
            assert command.main([name, option, value]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        here = next(one for one in clconv.devices() if one.index == 0)
        assert f"{here.name}" in said[2]
        assert "0.000" not in said[2]
        with pytest.raises(SystemExit):
            command.main([name, "--device", "none such"])
        assert "nor is it a card's name" in capsys.readouterr().err


def test_predict(tmp_path, capsys):
    assert command.main(["predict", "--device", "gfx1100"]) == 0
    said = capsys.readouterr().out
    chosen, beside = said.split("\n\n")
    names = {layer.name for layer in layers.load()}
    assert {line.split()[0] for line in chosen.splitlines()[2:]} == names
    assert {line.split()[0] for line in beside.splitlines()[2:]} < names
    for text, message in (
        (None, "none.py is no file"), ("ROWS = []", "no Python file with a list LAYERS"),
        ("LAYERS = []", "has no layers"),
    ):  # fmt: skip
        path = tmp_path / ("none.py" if text is None else "rows.py")
        if text is not None:
            path.write_text(text)
        with pytest.raises(SystemExit):
            command.main(["predict", "--device", "gfx1100", "--layers", str(path)])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["benchmark", "tune"])
def test_arguments_reach_a_command(name, monkeypatch):
    """And its exit status comes back."""
    calls = []
    monkeypatch.setitem(command.COMMANDS, name, (lambda argv: calls.append(argv) or 3, ""))
    assert command.main([name, "--select", "tcn", "--device", "1"]) == 3
    assert calls == [["--select", "tcn", "--device", "1"]]


def test_as_a_module():
    line = [sys.executable, "-m", "clconv"]
    assert subprocess.check_output([*line, "--version"], text=True).strip() == clconv.__version__
    refused = subprocess.run([*line, "train"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "'train'" in refused.stderr


def test_no_command(capsys):
    """The list of commands, as of --help."""
    assert command.main([]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert all(f"  {name} " in said.err for name in command.COMMANDS)


@pytest.mark.skipif(
    sys.platform == "win32", reason="a pipe without a reader is another error there"
)
def test_a_reader_that_has_seen_enough():
    """`| head` is no error, and nobody complains at exit."""
    line = [sys.executable, "-m", "clconv", "source", "--kernel-size", "64"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert said == b""


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_is_the_command_s_own(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "usage: clconv-devices " if name in ("devices", "check")
        else f"usage: python -m clconv {name} "
    )  # fmt: skip
    own = {"devices": "--json", "check": "--json", "benchmark": "--against", "tune": "--again",
           "source": "--kernel-size", "predict": "--explain", "report": "--minutes"}  # fmt: skip
    assert own[name] in said


@pytest.mark.parametrize("name", ["benchmark", "tune", "predict", "list_devices"])
def test_scripts_are_the_commands(name):
    """With the same options, wherever they are called from."""
    line = [sys.executable, str(TOOLS / f"{name}.py"), "--help"]
    said = subprocess.check_output(line, text=True)
    of = {"list_devices": "devices"}.get(name, name)
    assert said == subprocess.check_output(
        [sys.executable, "-m", "clconv", of, "--help"], text=True
    )


def test_the_benchmark_measures_the_clconv_that_asks(tmp_path, monkeypatch):
    """Not one that lies in the folder where it is called."""
    (tmp_path / "clconv").mkdir()
    (tmp_path / "clconv" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    with benchmark.Worker("clconv", None) as worker:
        assert worker.version.startswith(f"clconv {clconv.__version__} on ")


def test_ctrl_c_in_any_command(monkeypatch, capsys):
    """130 and a word, no traceback; also while a command tells what it found."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(command.COMMANDS, "check", (interrupted, "waits"))
    monkeypatch.setattr(sys, "argv", ["clconv", "check"])
    assert command._shell() == 130
    assert capsys.readouterr().out == "\ninterrupted\n"
