"""What does clconv do on this device? Measures for some minutes, and writes a page to share.

Facts of device and driver; whether results are right, by every variant; the times of well-known
layers beside what the cost model predicts and what the device's peaks allow; compile times; tuned
choices. It needs no network, sends nothing, and leaves nothing behind but three files: report.json,
report.md, and with matplotlib report.png. They have no names of users, machines or folders, and no
values of the environment. What there was no time for is listed in the page.

Other work on the machine makes times wrong, but not results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clconv import progress, settings
from clconv.commands import options
from clconv.commands.layers import load
from clconv.commands.private import Private, machine
from clconv.commands.report_page import markdown
from clconv.commands.report_parts import CACHES, STEPS, Work
from clconv.commands.steps import Line, Watch, hang_seconds, run_step, work_off
from clconv.errors import DeviceError, to_install
from clconv.runtime import Runtime
from clconv.version import VERSION

__all__ = ["SCHEMA", "SCHEMA_VERSION", "main", "work"]

SCHEMA = "clconv report"
SCHEMA_VERSION = 1
LONGEST = 24 * 60.0
# The device's facts may take this part of the time, if they need it.
LEAST_OF_DEVICES = 0.5
PACKAGES = ("pyopencl", "numpy", "mako", "pocl-binary-distribution", "intel-opencl-rt")

# Not `python -m`, which looks in the current folder first: another clconv may lie there.
START = """import sys
sys.path[:] = {path!r}
from clconv.commands.report import work
sys.exit(work({words!r}))"""


def work(words: Sequence[Any]) -> int:
    """A step's own process: works off its items."""
    name, device, layers, folder, first, by, until = words
    place = Path(folder)
    shared = Work(device, layers, place / "devices.jsonl", until)
    return work_off(STEPS[name], shared, place / f"{name}.jsonl", first, by, until)


def _run(name: str, asked: argparse.Namespace, folder: Path, until: float, shown: Shown) -> Line:
    """A step: its lines, and how it went."""
    step, facts = STEPS[name], folder / "devices.jsonl"
    known = Work(asked.device, asked.layers, facts, until)
    items = step.items(known) if name == "devices" or known.found else []

    def command(first: int, by: int) -> list[str]:
        words = (name, asked.device, asked.layers, str(folder), first, by, until)
        return [sys.executable, "-c", START.format(path=sys.path, words=words)]

    cache = folder / "cache"  # so that compile times are those of a first time
    cache.mkdir(exist_ok=True)
    environment = settings.environment(shipped=False) | dict.fromkeys(CACHES, str(cache))
    path = folder / f"{name}.jsonl"
    watch = Watch(
        command, path, folder / f"{name}.log", until, hang_seconds(until - time.time()),
        environment, lambda done: shown.tell(step.title, done, len(items)),
    )  # fmt: skip
    return run_step(name, step, items, path, 1, watch)


class Shown:
    """The bar: seconds of those that there are."""

    def __init__(self, bar: progress.Bar, start: float) -> None:
        self._bar, self._start = bar, start

    def tell(self, title: str, done: int, items: int) -> None:
        """How far a step is."""
        self._bar.tell(int(time.time() - self._start), note=f"{title} {done} of {items}")


def measure(asked: argparse.Namespace, seconds: float, variables: list[str]) -> Line:
    """All steps; `variables` are the names of those that are set for drivers."""
    start = time.time()
    found: Line = {
        "schema": SCHEMA, "version": SCHEMA_VERSION, "clconv": VERSION,
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "seconds": seconds,
        "machine": machine() | {"packages": _packages()},
        "variables": variables, "steps": [],
    }  # fmt: skip
    left = list(STEPS)
    with (
        tempfile.TemporaryDirectory(prefix="clconv-", ignore_cleanup_errors=True) as folder,
        progress.bar("report", "second", int(seconds)) as bar,
    ):
        while left:
            share = STEPS[left[0]].share / sum(STEPS[name].share for name in left)
            if left[0] == "devices":  # without which there is nothing
                share = max(share, LEAST_OF_DEVICES)
            now = time.time()
            until = now + max(0.0, start + seconds - now) * share
            step = _run(left.pop(0), asked, Path(folder), until, Shown(bar, start))
            found["steps"].append(step)
    found["took_s"] = round(time.time() - start, 1)
    return found


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(found: Line, out: Path, name: str = "report") -> list[Path]:
    """The files of that name, without what is private."""
    clean = Private().clean(found)
    files = [out / f"{name}.json", out / f"{name}.md"]
    out.mkdir(parents=True, exist_ok=True)
    files[0].write_text(json.dumps(clean, indent=1, ensure_ascii=False) + "\n", "utf-8")
    files[1].write_text(markdown(clean), "utf-8")  # whatever becomes of the picture
    picture: Path | None = None
    if find_spec("matplotlib") is None:
        print(f"no picture: it needs matplotlib: {to_install('tune')}", file=sys.stderr)
    else:
        from clconv.commands.report_plot import draw

        picture = draw(clean, out / f"{name}.png")
        if picture is None:
            print("no picture: no layer was timed", file=sys.stderr)
    if picture is not None:
        files[1].write_text(markdown(clean, picture.name), "utf-8")
    return [*files, *([picture] if picture else [])]


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m clconv report", description=first, epilog=rest)
    add = parser.add_argument
    add("--out", type=_folder, default=Path("clconv-report"), metavar="FOLDER",
        help="for the files (default: clconv-report)")  # fmt: skip
    add("--name", type=_name, default="report", help="of the files (default: report)")
    add("--minutes", type=options.minutes(LONGEST), default=5.0, help="for all of it (default 5)")
    add(
        "--device",
        help="index, id, kind (gpu, cpu) or part of a name (default: what clconv takes by itself)",
    )
    add("--layers", metavar="FILE",
        help="Python file with a list LAYERS (default: the public set)")  # fmt: skip
    return parser


def _folder(text: str) -> Path:
    """A folder that is there or can be made."""
    path = Path(text)
    if (path.exists() and not path.is_dir()) or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}, expected a folder within one that exists")
    return path


def _name(text: str) -> str:
    """Of files, without what comes behind a dot."""
    if not re.fullmatch(r"[\w-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected letters, digits, - and _")
    return text


def _chosen(device: str | None) -> str:
    """The id of the device that is meant. Raises DeviceError."""
    return Runtime(device).info.id


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where there is no such device, or something is wrong or failed."""
    parser = _parser()
    asked = parser.parse_args(argv)
    try:
        load(asked.layers)
    except ValueError as error:
        parser.error(f"--layers: {error}")
    if asked.layers is not None:
        asked.layers = str(Path(asked.layers).absolute())
    variables = list(settings.driver_choices())  # before clconv sets one
    try:
        asked.device = _chosen(asked.device)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    found = measure(asked, 60 * asked.minutes, variables)
    files = write(found, asked.out, asked.name)
    lines = [line for step in found["steps"] for line in step["lines"]]
    faults = [line for line in lines if {"wrong", "error"} & line.keys()]
    print(f"{', '.join(map(str, files))}, after {found['took_s']:.0f} s")
    if faults:
        counted = "one fault, of" if len(faults) == 1 else f"{len(faults)} faults, the first of"
        print(f"{counted} {faults[0]['what']}: {faults[0].get('wrong') or faults[0]['error']}",
              file=sys.stderr)  # fmt: skip
    known = any("profile" in line for line in lines)
    if not known:
        print(f"the device was not described in {60 * asked.minutes * LEAST_OF_DEVICES:.0f} s: "
              "--minutes gives more", file=sys.stderr)  # fmt: skip
    return int(bool(faults) or not known)
