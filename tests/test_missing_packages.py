"""Does a package that is missing take one line, which says what to install?"""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import clconv
from clconv.drivers import discovery
from clconv.drivers.discovery import NO_PLATFORM
from clconv.errors import missing, to_install

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    path for path in sorted((ROOT / "examples").glob("*.py")) if "main(" in path.read_text()
]

# What each of these needs, and the extra that brings it.
NEEDS = {
    "import clconv.torch": ("torch", "torch"),
    "import clconv.onnx": ("onnx", "onnx"),
    "import clconv.signal": ("scipy", "signal"),
    "import clconv.dask": ("dask", "dask"),
    "clconv.torch": ("torch", "torch"),
    "import clconv.commands.tune_plot": ("matplotlib", "tune"),
    "import clconv.commands.benchmark_plot": ("matplotlib", "tune"),
    "clconv.Conv1D(1, 1, 1, empty=True).save()": ("h5py", "hdf5"),
    "clconv.files.save_safetensors(clconv.Module())": ("safetensors", "safetensors"),
    "clconv.torch.use_in_transformers()": ("transformers", "transformers"),
}
# Refuses to import what is named first, as an environment without it does; several runs of the
# interpreter would take seconds each, so that one looks at all.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
for code, blocked in eval(sys.argv[1]):
    # Each for itself: what others have imported is forgotten, but what cannot be imported twice.
    for name in [one for one in sys.modules if one.startswith(("clconv.", blocked + "."))
                 or one in ("clconv", blocked)]:
        del sys.modules[name]
    import clconv
    try:
        exec(code)
    except ImportError as error:
        print(type(error).__name__, error, error.__suppress_context__, sep="|")
    else:
        print("none")
"""


def test_modules_say_what_to_install():
    """Every way to a package that is optional, without it."""
    asked = [(code, package) for code, (package, _) in NEEDS.items()]
    command = [sys.executable, "-c", BLOCKED, repr(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line, (code, (package, extra)) in zip(done.stdout.splitlines(), NEEDS.items(), strict=True):
        kind, said, suppressed = line.split("|")
        assert kind == "ModuleNotFoundError", (code, line)
        assert suppressed == "True", (code, line)
        tail = f" needs {package}, which is missing: {to_install(extra)}"
        assert said.endswith(tail), (code, line)


def test_commands_are_whole():
    """What stands between backticks can be copied as it is; one function writes all of them."""
    for said in (to_install("cpu"), NO_PLATFORM, discovery._remedy("CPU")):
        for command in re.findall("`([^`]*)`", said):
            assert re.fullmatch(r'pip install "(clconv|\.)\[\w+\]"', command), said
    assert len(re.findall("`[^`]*`", NO_PLATFORM)) == 4
    sources = [path for path in (ROOT / "clconv").rglob("*.py") if path.name != "errors.py"]
    assert not [path for path in sources if "pip install" + ' "' in path.read_text()]


def test_extras_are_those_of_pyproject():
    """Each extra that a message names exists, and brings the package."""
    text = (ROOT / "pyproject.toml").read_text()
    for package, extra in NEEDS.values():
        listed = re.search(rf"^{extra} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        assert listed is not None, extra
        assert re.search(rf'"{package}\b', listed[1]), (package, extra)


def test_other_errors_stay():
    """A fault inside an optional package is not taken for its absence."""
    fault = ModuleNotFoundError("No module named 'numpi'", name="numpi")
    assert missing(fault, "clconv.torch", torch="torch") is fault


def test_a_name_that_there_is_not():
    """`clconv.x` is an AttributeError, whatever is installed."""
    with pytest.raises(AttributeError, match="'clconv' has no attribute 'x'"):
        _ = clconv.x
    assert importlib.import_module("clconv.streaming") is clconv.streaming


def imported(nodes):
    """The packages that statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def optional_packages(path):
    """What an example imports before it does anything else, clconv included, all in one `try`."""
    tree = ast.parse(path.read_text())
    assert imported(tree.body) <= sys.stdlib_module_names
    return imported(one for top in tree.body if isinstance(top, ast.Try) for one in ast.walk(top))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_what_to_install(path, monkeypatch):
    """One line for each package that an example begins with, and for clconv itself."""
    packages = optional_packages(path)
    assert "clconv" in packages
    monkeypatch.syspath_prepend(str(path.parent))
    for package in sorted(packages - {"numpy", "pyopencl", "optimizers"}):  # clconv brings these
        with monkeypatch.context() as patch:
            for name in [one for one in sys.modules if one.partition(".")[0] == package]:
                patch.setitem(sys.modules, name, None)
            patch.setitem(sys.modules, package, None)
            with pytest.raises(SystemExit) as stopped:
                runpy.run_path(str(path), run_name="__main__")
        said = f'{package} is missing: pip install ".[examples]" in a clone of clconv'
        assert stopped.value.code == said
