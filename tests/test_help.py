"""Does every command and script say at once what it takes, and start nothing?"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from clconv import __main__ as shell
from clconv import runtime as runtimes

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path
    for folder in ("tools", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if "__main__" in path.read_text()
)


@pytest.fixture
def idle(monkeypatch):
    """Neither a process nor a runtime is to be started."""

    def refuse(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(runtimes.Runtime, "__init__", refuse)


def helped(capsys):
    """What was printed, which says how the command is used and what for."""
    said = capsys.readouterr().out
    assert said.startswith("usage: "), said
    assert len(re.sub(r"usage:.*?\n\n", "", said, count=1, flags=re.DOTALL).split()) > 5, said
    return said


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts(path, idle, monkeypatch, capsys):
    """With --help, and with an option that there is not."""
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    for argument, status in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", [str(path), argument])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(path), run_name="__main__")
        assert stopped.value.code == status
        if status == 0:
            helped(capsys)


@pytest.mark.parametrize("name", shell.COMMANDS)
def test_commands(name, idle, capsys):
    """Those of `python -m clconv`."""
    with pytest.raises(SystemExit) as stopped:
        shell.main([name, "--help"])
    assert stopped.value.code == 0
    assert name.replace("check", "devices") in helped(capsys)


def test_the_command_itself(idle, capsys):
    """It names them all."""
    with pytest.raises(SystemExit):
        shell.main(["--help"])
    said = helped(capsys)
    assert all(f"\n  {name} " in said for name in shell.COMMANDS)
