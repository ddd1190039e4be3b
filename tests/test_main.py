"""`python -m clconv`: devices, check, benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clconv
from clconv import __main__ as command


def test_devices(capsys):
    assert command.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found] == [info.id for info in clconv.devices()]
    assert "check" not in found[0]


def test_check(capsys):
    assert command.main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["check"] for one in found if one["why_not"] is None} == {"ok"}


def test_benchmark(monkeypatch):
    """Hands its arguments to the tool and its exit status back."""
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda line: calls.append(line) or 3)
    assert command.main(["benchmark", "--select", "tcn", "--rounds", "1"]) == 3
    tool = Path(__file__).parent.parent / "tools" / "benchmark.py"
    assert calls == [[sys.executable, str(tool), "--select", "tcn", "--rounds", "1"]]
    assert tool.is_file()


def test_benchmark_outside_the_source_tree(monkeypatch, tmp_path, capsys):
    """As in the wheel, even where somebody else's tools lie beside it."""
    monkeypatch.setattr(command, "SOURCE", tmp_path)
    for _ in range(2):
        assert command.main(["benchmark"]) == 1
        said = capsys.readouterr().err
        assert f"Get the source of clconv {clconv.__version__}" in said
        (tmp_path / "tools").mkdir(exist_ok=True)
        (tmp_path / "tools" / "benchmark.py").write_text("raise SystemExit('not ours')")


def test_as_a_module():
    line = [sys.executable, "-m", "clconv"]
    assert subprocess.check_output([*line, "--version"], text=True).strip() == clconv.__version__
    refused = subprocess.run([*line, "train"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "'train'" in refused.stderr


@pytest.mark.parametrize("name", ["devices", "check"])
def test_help_is_the_command_s_own(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out
