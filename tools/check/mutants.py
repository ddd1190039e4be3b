#!/usr/bin/env python3
"""Do the tests see faults? Plants each of mutants_list.py in a copy of the tree, and asks.

One fault at a time: its text, which must occur exactly once in its file, is replaced, and the tests
that should see it run. They must pass on the untouched copy first, or nothing would follow. The
copy has its own caches, so that neither the tree nor the user's files see anything of it.

A fault is caught where a test fails, or the process that tests dies. A test that hangs catches it
only where its own time limit says so; where the whole run had to be killed, nobody would have been
told, and the fault survived. Exits with 0 where 95% are caught and each survivor is explained in
the list, with 1 where not, with 2 where the list does not fit the tree.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutants_list import FAULTS, Fault

ROOT = Path(__file__).parents[2]
WANTED = 0.95
# Seconds that a test has, and that all tests of a fault have.
TEST_SECONDS, RUN_SECONDS = 120, 900
# Of pytest: all passed, some failed.
PASSED, FAILED = 0, 1


class ListError(Exception):
    """The list does not fit the tree."""


def chosen(patterns: Sequence[str]) -> list[Fault]:
    """The faults whose file or description matches one of these; all without any."""
    wanted = [f"*{pattern.lower()}*" for pattern in patterns] or ["*"]
    return [
        fault
        for fault in FAULTS
        if any(fnmatch.fnmatchcase(f"{fault.file} {fault.what}".lower(), one) for one in wanted)
    ]


def planted(fault: Fault, text: str) -> str:
    """The file's text with the fault. Raises ListError where it is not there exactly once."""
    found = text.count(fault.text)
    if found != 1 or fault.text == fault.replacement:
        raise ListError(f"{fault.file} has the text of {fault.what!r} {found} times, expected once")
    return text.replace(fault.text, fault.replacement)


def check(faults: Sequence[Fault]) -> None:
    """Raises ListError, with all that is wrong, where the list is out of date."""
    wrong = []
    for fault in faults:
        try:
            planted(fault, (ROOT / fault.file).read_text())
        except (ListError, OSError) as error:
            wrong.append(str(error))
    if wrong:
        raise ListError("\n".join(wrong))


class Copy:
    """A copy of the tree's tracked files, in which tests run."""

    def __init__(self, folder: Path, devices: str | None) -> None:
        self.tree = folder / "tree"
        self._caches = folder / "caches"
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.tree),
            # A file may change twice within the time and size by which Python knows a module.
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLCONV_CACHE_DIR": str(self._caches / "clconv"),
            "POCL_CACHE_DIR": str(self._caches / "pocl"),
            "PYOPENCL_NO_CACHE": "1",
        }
        if devices is not None:
            self._environment["CLCONV_TEST_DEVICES"] = devices
        self._forget("clconv", "pocl")
        place = self._run([sys.executable, "-c", "import clconv; print(clconv.__file__)"])[1]
        if not Path(place.strip()).is_relative_to(self.tree):
            raise ListError(f"the copy imports clconv from {place.strip()}")

    def _forget(self, *caches: str) -> None:
        for name in caches:
            shutil.rmtree(self._caches / name, ignore_errors=True)
            (self._caches / name).mkdir(parents=True)

    def _run(self, command: Sequence[str]) -> tuple[int | None, str]:
        """(exit status, or None where it had to be killed; what was printed)."""
        with subprocess.Popen(
            command, cwd=self.tree, env=self._environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                printed, _ = process.communicate(timeout=RUN_SECONDS)
                return process.returncode, printed
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)  # and what it started
                return None, process.communicate()[0]

    def test(self, tests: str) -> tuple[int | None, str]:
        """The same for tests of the list: arguments of pytest, or a tool."""
        self._forget("clconv")
        arguments = shlex.split(tests)
        if arguments[0].startswith("tools/"):
            status, printed = self._run([sys.executable, *arguments])
        else:
            # Stops at the first that fails. Plugins that change the order or run in parallel are
            # of no use here.
            status, printed = self._run([
                sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--all-cases",
                "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", *arguments,
            ])  # fmt: skip
        if status is None:
            self._forget("pocl")  # which a killed process may have left damaged
        return status, printed

    def with_fault(self, fault: Fault) -> tuple[int | None, str]:
        """The same while a fault is planted."""
        path = self.tree / fault.file
        whole = path.read_text()
        path.write_text(planted(fault, whole))
        try:
            return self.test(fault.tests)
        finally:
            path.write_text(whole)


def last_line(printed: str) -> str:
    """What pytest says last of a failure."""
    lines = [line for line in printed.strip().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[-1] if lines else (printed.strip().splitlines() or [""])[-1]


def plant(copy: Copy, faults: Sequence[Fault], verbose: bool) -> list[Fault]:
    """Plants faults and prints what became of each; the survivors. Raises ListError."""
    survivors = []
    for tests in dict.fromkeys(fault.tests for fault in faults):
        status, printed = copy.test(tests)
        if status != PASSED:
            raise ListError(f"{tests} does not pass without a fault:\n{printed[-3000:]}")
        for fault in (one for one in faults if one.tests == tests):
            begun = time.monotonic()
            status, printed = copy.with_fault(fault)
            if status is not None and status > FAILED:
                raise ListError(
                    f"with {fault.what!r} in {fault.file} {tests} ends with {status}:\n"
                    f"{printed[-3000:]}"
                )
            caught = status not in (PASSED, None)
            found = "caught" if caught else "SURVIVED" if status == PASSED else "SURVIVED, hanging"
            seconds = time.monotonic() - begun
            print(f"{found}: {fault.file}: {fault.what} ({seconds:.0f} s)", flush=True)
            if not caught:
                survivors.append(fault)
                print(f"    {fault.survives or 'NOT EXPLAINED'}", flush=True)
            elif fault.survives:
                print(f"    the list says that it survives: {fault.survives}", flush=True)
            if verbose and caught:
                print(f"    {last_line(printed)}", flush=True)
    return survivors


def main(argv: Sequence[str] | None = None) -> int:
    """Plants the chosen faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="faults whose file or description has this; may be given again",
    )
    parser.add_argument("--list", action="store_true", help="print the faults and plant none")
    parser.add_argument("--devices", help="as CLCONV_TEST_DEVICES, which counts unless given")
    parser.add_argument("--verbose", action="store_true", help="print which test saw a fault")
    options = parser.parse_args(argv)
    faults = chosen(options.only)
    if not faults:
        parser.error(f"no fault matches {', '.join(options.only)}")
    if options.list:
        for fault in faults:
            print(f"{fault.file}: {fault.what}")
        return 0
    try:
        check(faults)
        with tempfile.TemporaryDirectory() as folder:
            survivors = plant(Copy(Path(folder), options.devices), faults, options.verbose)
    except ListError as error:
        print(error, file=sys.stderr)
        return 2
    share = 1 - len(survivors) / len(faults)
    print(f"caught {len(faults) - len(survivors)} of {len(faults)}, {share:.1%}; survived:")
    for fault in survivors:
        print(f"  {fault.file}: {fault.what}: {fault.survives or 'NOT EXPLAINED'}")
    return int(share < WANTED or not all(fault.survives for fault in survivors))


if __name__ == "__main__":
    sys.exit(main())
