"""Folds databases of tuning records into a file that comes with clconv.

A layer's record is kept where several lengths of it were tuned, and one candidate, the fastest of
at least one of them, was faster than what the cost model chose, and still chooses, by more than 5%
in each. All other layers are left to the cost model.

The file is for the device that runs this, unless --architecture (any with the same cores and
caches), --vendor (any GPU of the same maker, any CPU of the same instruction set) or --default (any
at all) says otherwise. It goes to clconv/planning/shipped_records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clconv import Runtime
from clconv.errors import DeviceError
from clconv.planning import shipped
from clconv.planning.folding import folded, modelled_choice
from clconv.planning.records import load


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=first, epilog=rest)
    add = parser.add_argument
    add("databases", nargs="*", type=Path, metavar="DATABASE",
        help="a file that `python -m clconv tune` names (default: the device's own)")  # fmt: skip
    add("--device", help="index, id or part of a name")
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--architecture", action="store_true", help="for all devices like it")
    level.add_argument("--vendor", action="store_true", help="for all of the same maker")
    level.add_argument("--default", action="store_true", help="for all devices")
    add("--out", required=True, type=Path, metavar="FILE", help="the file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a database is damaged, or there is no such device."""
    asked = _parser().parse_args(argv)
    try:
        runtime = Runtime(asked.device)
        databases = [load(path) for path in asked.databases or [runtime.records.path]]
    except (DeviceError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    targets = shipped.targets(runtime.info.name, runtime.info.platform, runtime.profile)
    levels = (not asked.default and not asked.vendor and not asked.architecture,
              asked.architecture, asked.vendor, asked.default)  # fmt: skip
    target = targets[levels.index(True)]
    if target is None:
        print(f"nobody knows whose cores {runtime.info.name} has", file=sys.stderr)
        return 1
    found = list(folded(databases, partial(modelled_choice, runtime.profile)))
    content = shipped.text(target, found)
    shipped.parse(content)
    asked.out.write_text(content, "utf-8")
    layers = {(one.key.problem.layer, one.key.pass_) for _, records in databases for one in records}
    print(f"{asked.out}: {len(found)} of {len(layers)} passes of layers")
    for one in found:
        gains = ", ".join(f"{size.untuned_us / size.median_us:.2f}" for size in one.measured)
        sizes = " ".join(map(str, one.layer[:-1]))
        print(f"  {sizes} {one.layer.dtype} {one.pass_.value}: {one.choice.variant}, {gains} times "
              "as fast")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
