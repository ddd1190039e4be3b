#!/usr/bin/env python3
"""Do the packages of a release have what they should?

Builds a source distribution from the files that git tracks, a wheel from that, and a wheel from the
tree, and compares them: the source distribution has every tracked file, both wheels have the same
files, which are those of clconv/, and twine accepts their descriptions. Needs git, build, twine and
setuptools. Exit status 1 where something differs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_PACKED = {".gitignore"}
# What setuptools adds to a source distribution.
ADDED = {"PKG-INFO", "setup.cfg"}
TOOLS = "pip install 'build>=1.2' 'twine>=6' 'setuptools>=77'"


def tracked(folder: Path) -> set[str]:
    """The files that git knows in a folder, as they are on disk."""
    said = subprocess.run(
        ["git", "ls-files", "-z"], cwd=folder, check=True, capture_output=True, text=True
    )
    return {one for one in said.stdout.split("\0") if one and (folder / one).exists()}


def copied(files: set[str], folder: Path) -> Path:
    """A copy of the tracked files alone, since what else lies in the tree would be packed, too."""
    for one in files:
        (folder / one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / one, folder / one)
    return folder


def build(what: str, source: Path, folder: Path) -> Path:
    """Builds "sdist" or "wheel" of a source tree with the setuptools that is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "build", f"--{what}", "--no-isolation", "-o", str(folder), "."],
        cwd=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nThe {what} cannot be built; {TOOLS} installs what this needs")
    (built,) = folder.iterdir()
    return built


def in_sdist(path: Path) -> set[str]:
    """The files of a source distribution, without its outermost folder."""
    with tarfile.open(path) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    return {one for one in names if not one.startswith("clconv.egg-info/")} - ADDED


def in_wheel(path: Path) -> dict[str, bytes]:
    """{name: content} of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {one: archive.read(one) for one in archive.namelist()}


def different(what: str, found: set[str], expected: set[str]) -> list[str]:
    """One line for each file that is missing or too much."""
    return [f"{what} lacks {one}" for one in sorted(expected - found)] + [
        f"{what} has {one}, which should not be there" for one in sorted(found - expected)
    ]


def faults(sdist: Path, from_sdist: Path, from_tree: Path, files: set[str]) -> list[str]:
    """What is wrong with a source distribution and two wheels, one line each."""
    found = different("the source distribution", in_sdist(sdist), files - NOT_PACKED)
    one, other = in_wheel(from_sdist), in_wheel(from_tree)
    package = {name for name in one if name.startswith("clconv/")}
    found += different("the wheel", package, {name for name in files if name.startswith("clconv/")})
    found += different("the wheel from the source distribution", set(one), set(other))
    found += [
        f"{name} differs between the two wheels"
        for name in sorted(one.keys() & other.keys())
        if one[name] != other[name] and not name.endswith("/RECORD")
    ]
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tag", help="the release's tag, which must be v and the version")
    parser.add_argument("--out", type=Path, help="where to put the packages if nothing is wrong")
    arguments = parser.parse_args()
    files = tracked(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = copied(files, folder / "tree")
        sdist = build("sdist", tree, folder / "sdist")
        with tarfile.open(sdist) as archive:
            # Made here a moment ago; old releases of Python know no filters.
            archive.extractall(folder / "unpacked")
        (unpacked,) = (folder / "unpacked").iterdir()
        wheel = build("wheel", unpacked, folder / "wheel")
        # A fresh copy: building a source distribution leaves a list of files in its tree.
        from_tree = build("wheel", copied(files, folder / "again"), folder / "other")
        found = faults(sdist, wheel, from_tree, files)
        version = wheel.name.split("-")[1]
        if arguments.tag is not None and arguments.tag != f"v{version}":
            found.append(f"--tag is {arguments.tag}, expected v{version}")
        checked = subprocess.run(
            [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)],
            capture_output=True,
            text=True,
        )
        if checked.returncode:
            found.append(f"twine refuses them:\n{checked.stdout}{checked.stderr}")
        for one in found:
            print(one)
        if not found:
            print(f"{sdist.name} with {len(in_sdist(sdist))} files, {wheel.name} from it")
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                for one in (sdist, wheel):
                    shutil.copy2(one, arguments.out)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
