"""Does every command that the pages show work as it is written?

Each command of a block of shell, and each that stands between backticks in a line, is parsed: the
script or target exists, its parser takes the options, extras exist, no file goes to a folder that
is not there. Those of `RUN` run here, made short (benchmarks wait for
a quiet processor, and run in tests of their own); ELSEWHERE says of each other program why not.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from clconv import __main__ as shell
from clconv.commands import devices

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

# Programs that no test runs, and why.
ELSEWHERE = {
    "apt-get": "installs packages of the system",
    "objdump": "reads what PoCL alone writes, by a program of the system",
    "on_a_gpu.sh": "downloads wheels, or needs a GPU and minutes; test_on_a_gpu.py runs it",
    "train.py": "stands for a user's own script",
    ".": "enters an environment",
    "ruff": "formats what a reader of the page wrote",
    "fuzz.py --variant single": "needs the algorithm of its page, which test_docs.py builds",
    "python3 -m venv": "makes an environment",
    "echo": "writes a file of the reader's",
    ".ci/run": "takes half an hour; runs this, too",
}

# Which run here, by how they begin, and what makes them short. Files that they read are in FILES.
RUN: dict[str, list[str]] = {
    "clconv-devices": [],
    "clconv-devices --check": [],
    "python -m clconv devices": [],
    "python -m clconv check": [],
    "python -m clconv source": [],
    "python -m clconv predict --profile gfx1100 --explain": ["--layers", "layers.py"],
    "python -m clconv tune layers.py": ["--seconds", "0.01"],
    "python -m clconv tune model.onnx --shape input=1,80,3000": ["--seconds", "0.01"],
    "python -m clconv tune --plot times.png": ["layers.py", "--seconds", "0.01"],
    "python tools/ship_records.py --out clconv/planning/shipped_records/zen5-intel.json": [
        "--out", "shipped.json",
    ],
}  # fmt: skip
LAYERS = 'LAYERS = [("one", 1, 2, 60, 4, 3, 1, 1), ("two", 1, 2, 90, 4, 3, 1, 1)]\n'


class Command(NamedTuple):
    """What stands in a page: words, variables that it sets, and whether in a block."""

    page: str
    text: str
    block: bool

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    @property
    def words(self) -> list[str]:
        words = shlex.split(self.text)
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        words[0] = re.sub(r"^\.venv/bin/", "", words[0])
        return words


def commands(page: Path) -> list[Command]:
    """Those of a page, in order."""
    found, name = [], page.relative_to(ROOT).as_posix()
    text = page.read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        waiting = ""
        for line in block.replace("\\\n", " ").splitlines(keepends=True):
            waiting += line
            if waiting.count('"') % 2 == 0:  # else a string goes on
                bare = re.sub(r"\s+#.*", "", waiting.strip())
                found += [Command(name, " ".join(bare.split(" ")), True)] if bare else []
                waiting = ""
        assert not waiting, (name, waiting)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    starts = r"(?:python |tools/\S+\.(?:py|sh)|make |pip install |clconv-devices)"
    for one in re.findall(rf"`({starts}[^`]*)`", rest):
        found.append(Command(name, one.replace("\n", " "), False))
    return found


ALL = [one for page in PAGES for one in commands(page)]


class Parsed(Exception):
    """A parser took the options; what follows is not to run."""


@pytest.fixture
def parse_only(monkeypatch):
    """Ends a command where its options are parsed."""
    real = argparse.ArgumentParser.parse_args

    def parse(parser, *arguments):
        real(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


def called(words, monkeypatch):
    """Runs a Python command in this process; its exit status."""
    if words[0] == "clconv-devices":
        return devices.main(words[1:])
    assert words[0] == "python", words
    if words[1:3] == ["-m", "clconv"]:
        return shell.COMMANDS[words[3]][0](words[4:])
    path = ROOT / words[1]
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", words[1:])
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
    return 0


def stand_ins(words):
    """What stands for a value in running text: N, S, V, and the name of a variant to be written."""
    known = {"N": "7", "S": "7", "V": "direct", "tiled": "direct"}
    return [known.get(word, word) for word in words]


@pytest.mark.parametrize("command", list(dict.fromkeys(ALL)), ids=str)
def test_parsed(command, parse_only, tmp_path, monkeypatch, capsys):
    """It could start, in an empty folder for what comes with the package, else in a clone."""
    words = stand_ins(command.words)
    program = Path(words[1] if words[0] == "python" else words[0]).name
    if words[0] in ELSEWHERE or program in ELSEWHERE or _of_another(command):
        assert "/" not in words[0] or (ROOT / words[0]).exists(), f"there is no {words[0]}"
        return
    if len(words) == 1 and "/" in words[0]:
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        return  # running text names a script
    if words[0].endswith(".py"):
        words.insert(0, "python")
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[0] == "pip":
        _installs(words[1:])
    elif words[:2] == ["python", "-c"]:
        compile(words[2], str(command), "exec")
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / one).exists() for one in words[3:] if one.startswith("tests/"))
    else:
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Parsed):
            pytest.fail(f"not parsed: {called(words, monkeypatch)}, {capsys.readouterr().err}")


def _of_another(command):
    """Whether an entry of ELSEWHERE names more of it than its program."""
    return any(" " in one and one in command.text for one in ELSEWHERE)


def _installs(words):
    """Extras exist, and clconv comes from a clone: the index has none, docs/releasing.md says."""
    assert words[0] in ("install", "download"), words
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for one in words[1:]:
        assert not one.startswith("clconv"), f"{one} is not published"
        for extra in re.findall(r"^\.\[(.*)\]$", one):
            assert set(extra.split(",")) <= {*declared, "…"}, one


def test_what_runs_here_stands_in_a_page():
    """Else an entry above is about nothing."""
    texts = {one.text for one in ALL}
    assert set(RUN) <= texts, set(RUN) - texts
    programs = {word for one in ALL for word in (*one.words[:2], Path(one.words[0]).name)}
    texts = {one for one in ELSEWHERE if any(one in command.text for command in ALL)}
    assert set(ELSEWHERE) <= programs | texts | {".ci/run"}, set(ELSEWHERE) - programs


def test_pages_say_what_needs_a_clone():
    """Scripts and examples are not in the wheel, nor is clconv on an index."""
    for page in PAGES:
        installed = [one for one in commands(page) if one.block or one.words[0] == "pip"]
        of_clone = [one.text for one in installed if re.search(r"tools/|examples/|\.\[", one.text)]
        assert not of_clone or "clone" in page.read_text(), (page.name, of_clone)


def test_run(first_runtime, tmp_path, monkeypatch, capsys):
    """In one folder, one after the other, since some read what others wrote."""
    helper = pytest.importorskip("onnx").helper
    (tmp_path / "layers.py").write_text(LAYERS)
    value = [helper.make_tensor_value_info(n, 1, [1, c, 2998 + p])
             for n, c, p in (("input", 80, 2), ("output", 4, 0))]  # fmt: skip
    weight = helper.make_tensor("weight", 1, [4, 80, 3], [0.5] * 960)
    node = helper.make_node("Conv", ["input", "weight"], ["output"])
    graph = helper.make_graph([node], "one", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLCONV_CACHE_DIR", str(tmp_path / "cache"))
    for text, more in RUN.items():
        words = [*shlex.split(text), *more]
        status = called(words, monkeypatch)
        said = capsys.readouterr()
        assert not status, (text, status, said.err)
        assert said.out, text
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


def test_faults_are_seen(parse_only, tmp_path, monkeypatch, capsys):
    """What newcomers stumbled over would stop the tests above."""
    monkeypatch.chdir(tmp_path)
    for text in (
        "python -m clconv benchmark --json out/x.json",
        "python -m clconv tune --no-such-option",
        "python tools/fuzz.py --geometries many",
    ):
        with pytest.raises((SystemExit, AssertionError)):
            assert called(shlex.split(text), monkeypatch) != 2
    for text in ('install "clconv[cpu]"', 'install ".[no-such-extra]"'):
        with pytest.raises(AssertionError):
            _installs(shlex.split(text))
    page = tmp_path / "page.md"
    page.write_text(
        '```sh\nA=1 python -m clconv \\\n    tune  # why\nx "two\nlines"\n```\n`make test`\n'
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    found = commands(page)
    assert [one.text for one in found] == [
        "A=1 python -m clconv      tune",
        'x "two\nlines"',
        "make test",
    ]
    assert found[0].words == ["python", "-m", "clconv", "tune"]
