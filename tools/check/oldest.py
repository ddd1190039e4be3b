#!/usr/bin/env python3
"""Does clconv run with the oldest releases that pyproject.toml allows?

Makes an empty environment with the oldest Python that is allowed and here, installs the packages of
the dependencies and of some extras in the versions of their floors, and runs a few of the tests.
The floors are read from pyproject.toml; exit status 1 where an installation or a test fails.
With --torch the same of PyTorch alone, which is larger than all others together: beside it are the
newest releases of the others, and the tests are those of clconv.torch.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
EXTRAS = ("onnx", "hdf5", "safetensors")
TOOLS = ("pytest", "pytest-timeout")  # of the extra "test"
TESTS = (
    "tests/test_functional.py",
    "tests/test_shapes.py",
    "tests/test_memory_kinds.py",
    "tests/test_oldest.py",
)
TORCH_TESTS = (
    "tests/test_torch.py",
    "tests/test_torch_autograd.py",
    "tests/test_torch_features.py",
    "tests/test_torch_models.py",
)


def floors(project: dict, extras: tuple[str, ...] = EXTRAS) -> dict[str, str]:
    """{package: oldest version that is allowed}. ValueError for a requirement without a floor."""
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in optional[extra])]
    wanted += [one for one in optional["test"] if re.match(r"[\w-]+", one)[0] in TOOLS]
    found = {}
    for one in wanted:
        parsed = re.fullmatch(r"([\w.-]+)>=([\w.]+)", one.partition(";")[0].strip())
        if parsed is None:
            raise ValueError(f"{one!r} has no floor, expected package>=version")
        found[parsed[1]] = parsed[2]
    return found


def oldest_python(project: dict) -> str:
    """The oldest Python that is allowed and here: on PATH or among pyenv's."""
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    for minor in range(least[1], sys.version_info.minor):
        name = f"python{least[0]}.{minor}"
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        for path in (shutil.which(name), *versions.glob(f"{least[0]}.{minor}.*/bin/{name}")):
            # pyenv's names on PATH may stand for a version that is not chosen.
            if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode:
                return str(path)
    return sys.executable


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="the interpreter, unless the oldest that is allowed")
    parser.add_argument("--torch", action="store_true", help="PyTorch: some gigabytes")
    parser.add_argument("tests", nargs="*", help="what to run instead")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions, others, tests = floors(project), ["--only-binary", ":all:"], TESTS
    if arguments.torch:
        versions = {"torch": floors(project, ("torch",))["torch"]}
        others, tests = [f"{ROOT}[test,cpu]"], TORCH_TESTS
    python = arguments.python or oldest_python(project)
    print("Python:", python, *(f"{name}=={version}" for name, version in versions.items()))
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "env"
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        inside = str(environment / scripts / "python")
        pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        exact = [f"{name}=={version}" for name, version in versions.items()]
        subprocess.run([*pip, "install", *others, *exact], check=True)
        # Old releases warn of each other; only what fails counts here.
        command = [inside, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run([*command, *(arguments.tests or tests)], cwd=ROOT, env=variables)
    return int(done.returncode != 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed")
