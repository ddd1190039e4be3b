"""Folds reports of devices: into records that come with clconv, a table of devices, and a table
that shows where the cost model is off.

    python tools/collect.py docs/reports
    python tools/collect.py docs/reports --records clconv/planning/shipped_records \\
        --devices docs/devices.md

Reports are what `python -m clconv report` wrote: files, or folders of them. A tuned choice becomes
a record by the rule of ship_records.py, where it was faster in the second measurement too. It is
for the device alone, until reports of several devices agree: of one architecture for the
architecture, of several architectures of a vendor for the vendor, of several vendors for all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from clconv.commands.benchmark_worker import is_noisy
from clconv.commands.report import SCHEMA, SCHEMA_VERSION
from clconv.commands.report_page import LEAST_FLOPS, Found, mean, percent, rows_of
from clconv.commands.report_parts import share_of_roof
from clconv.errors import ClconvError
from clconv.planning import shipped
from clconv.planning.folding import LEAST_GAIN, folded, joined, modelled_choice
from clconv.planning.planner import Choice
from clconv.planning.profiles import DeviceProfile
from clconv.planning.records import Record, record_of_json
from clconv.planning.shipped import ShippedRecord, Target
from clconv.problem import Layer, Pass

BEGIN, END = "<!-- reports: begin -->", "<!-- reports: end -->"
# So many must agree before a record is for more than one of them.
LEAST_AGREED = 2
# What files of a platform are called.
PLATFORMS = {"Portable Computing Language": "pocl"}

Key = tuple[Layer, Pass]


class DamagedReport(ValueError):
    """A report whose members are missing, of other types, or without sense."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says which file it is. Raises DamagedReport."""
    try:
        yield
    except DamagedReport:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
            ClconvError) as error:  # fmt: skip
        raise DamagedReport(f"{path} is damaged: {type(error).__name__}: {error}") from error


class Report(Found):
    """One report, with what it says of records."""

    def __init__(self, path: Path) -> None:
        with _reading(path):
            content = json.loads(path.read_text("utf-8"))
        found = (content.get("schema"), content.get("version")) if isinstance(content, dict) else ()
        if found != (SCHEMA, SCHEMA_VERSION):
            raise ValueError(f"{path} is no report of version {SCHEMA_VERSION}: {found}")
        with _reading(path):
            super().__init__(content)
            self.info: dict[str, Any] | None = self.one("devices", "info")
            others = self.every("layers", "median_us") or self.every("tuned", "record")
        if self.info is None and others:
            raise DamagedReport(f"{path} is damaged: it has times, but no device")
        self.path = path

    @cached_property
    def profile(self) -> DeviceProfile:
        """What the planner knew of the device."""
        with _reading(self.path):
            found = self.one("devices", "profile").items()
            return DeviceProfile(**{k: tuple(v) if isinstance(v, list) else v for k, v in found})

    def records(self) -> list[Record]:
        """All that was tuned."""
        with _reading(self.path):
            return [record_of_json(line["record"]) for line in self.every("tuned", "record")]

    def held(self, record: ShippedRecord) -> bool:
        """Whether a choice was faster at every size in the second measurement, too."""
        gains = {
            line["length"]: line["again_before_us"] / line["again_after_us"]
            for line in self.every("tuned", "choice")
            if Choice(**line["choice"]) == record.choice and self._layer(line) == record.layer
            and Pass(line["pass"]) is record.pass_
        }  # fmt: skip
        return all(gains.get(size.length, 0) > LEAST_GAIN for size in record.measured)

    def _layer(self, line: dict[str, Any]) -> Layer:
        """Of a line of the second measurement: that of the search before it."""
        for one in self.every("tuned", "record"):
            if all(one[key] == line[key] for key in ("layer", "pass", "length")):
                return record_of_json(one["record"]).key.problem.layer
        raise DamagedReport(f"{self.path} measured {line['layer']} again, which it did not tune")

    def shipped(self) -> list[ShippedRecord]:
        """What holds for layers of the device."""
        if self.info is None:
            return []
        with _reading(self.path):
            modelled = partial(modelled_choice, self.profile)
            found = folded([(self.info["name"], self.records())], modelled)
            return [record for record in found if self.held(record)]


def load(paths: Iterable[Path]) -> list[Report]:
    """The reports of files and folders, in the order of their names. Raises ValueError, OSError."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no reports in {', '.join(map(str, paths))}")
    return [Report(path) for path in files]


# Records


def levelled(reports: Sequence[Report]) -> list[tuple[Target, list[ShippedRecord]]]:
    """Each record at the widest level at which all reports that know it agree."""
    known: dict[Key, list[tuple[Report, ShippedRecord | None]]] = {}
    for report in reports:
        ours = {(one.layer, one.pass_): one for one in report.shipped()}
        tuned = dict.fromkeys((r.key.problem.layer, r.key.pass_) for r in report.records())
        for key in tuned:
            known.setdefault(key, []).append((report, ours.get(key)))
    made: dict[str, tuple[Target, list[ShippedRecord]]] = {}
    for entries in known.values():
        for target, record in _placed(entries):
            made.setdefault(repr(target), (target, []))[1].append(record)
    return [(target, sorted(found, key=_order)) for target, found in made.values()]


Entry = tuple[Report, ShippedRecord | None]


def _placed(entries: Sequence[Entry]) -> Iterator[tuple[Target, ShippedRecord]]:
    """The records of one layer's pass: the widest first, and each report's in one of them."""
    left = list(entries)
    for level in (3, 2, 1, 0):
        groups: dict[str, tuple[Target, list[Entry]]] = {}
        for entry in left:
            target = _targets(entry[0])[level]
            if target is not None:
                groups.setdefault(repr(target), (target, []))[1].append(entry)
        for target, ours in groups.values():
            records = [record for _, record in ours if record is not None]
            one_choice = len(records) == len(ours) and not any(
                record.choice != records[0].choice for record in records
            )
            narrower = {repr(_targets(report)[max(0, level - 1)]) for report, _ in ours}
            if one_choice and (level == 0 or len(narrower - {"None"}) >= LEAST_AGREED):
                yield target, merged(records)
                left = [entry for entry in left if entry not in ours]


def _targets(report: Report) -> Sequence[Target | None]:
    with _reading(report.path):
        assert report.info is not None
        return shipped.targets(report.info["name"], report.info["platform"], report.profile)


def merged(records: Sequence[ShippedRecord]) -> ShippedRecord:
    """One record of what several say of the same choice."""
    return replace(
        records[0],
        measured=tuple(size for record in records for size in record.measured),
        device=joined(record.device for record in records),
        driver=joined(record.driver for record in records),
        library=joined(record.library for record in records),
        date=max(record.date for record in records),
    )


def _order(record: ShippedRecord) -> tuple[Any, ...]:
    names = list(Pass)
    return (*record.layer[:-1], record.layer.dtype.name, names.index(record.pass_))


def write(
    made: Sequence[tuple[Target, list[ShippedRecord]]], known: set[Key], folder: Path
) -> Iterator[str]:
    """Puts the records into files: what these have of other layers stays, of `known` ones goes.
    Says which file has how many."""
    there = {}
    for path in sorted(folder.glob("*.json")):
        target, records = shipped.parse(path.read_text("utf-8"))
        there[repr(target)] = path, [r for r in records if (r.layer, r.pass_) not in known]
    for target, records in made:
        path, old = there.get(repr(target), (None, []))
        path = path or _new_file(folder, target)
        every = sorted([*old, *records], key=_order)
        path.write_text(shipped.text(target, every), "utf-8")
        yield f"{path}: {len(records)} records of these reports, {len(old)} others"


def _new_file(folder: Path, target: Target) -> Path:
    """A name that says what the file is for."""
    words = [target.vendor or ""] if target.architecture is None else [
        target.architecture["architecture"] or target.architecture["kind"],
        PLATFORMS.get(target.platform or "", (target.platform or "").split("(")[0]),
    ]  # fmt: skip
    name = "-".join(re.findall(r"[a-z0-9_]+", " ".join(words).lower())) or "default"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{one}.json" for one in names) if not path.exists())


# Tables


def devices_table(reports: Sequence[Report], near: Path) -> list[str]:
    """A row for each report, with a link to its page as seen from the folder `near`."""
    rows = []
    for one in reports:
        with _reading(one.path):
            if one.info is not None:
                rows.append(_device_row(one, one.info, near))
    header = ("device", "driver", "cores", "date", "clconv", "check", "passes right",
              "peak GFLOP/s", "copy GB/s", "forward, of the roof",
              "forward, measured/predicted (layers)", "while others were idle")  # fmt: skip
    return rows_of(header, rows)


def _device_row(one: Report, info: dict[str, Any], near: Path) -> list[Any]:
    passes = one.every("accuracy", "normals")
    wrong = sum("wrong" in line for line in passes)
    roof = one.one("devices", "roofline")
    lines = [line for line in one.every("layers", "median_us") if line["flops"] >= LEAST_FLOPS]
    forward = [line for line in lines if line["pass"] == Pass.FORWARD.value]
    shares = [_share(line, roof) for line in forward if roof]
    page = one.path.with_suffix(".md")
    name = info["name"]
    link = f"[{name}]({Path(os.path.relpath(page, near)).as_posix()})" if page.exists() else name
    return [
        link, f"{info['platform']} {info['driver']}", one.profile.architecture,
        one.report["date"], one.report["clconv"], one.one("devices", "check"),
        f"{len(passes) - wrong} of {len(passes)}",
        roof and f"{roof['peak_gflops']:.0f}", roof and f"{roof['copy_gbs']:.0f}",
        percent(statistics.geometric_mean(shares)) if shares else "-",
        mean(line["median_us"] / line["predicted_us"] for line in forward),
        f"{sum(not is_noisy(line.get('others')) for line in forward)} of {len(forward)}",
    ]  # fmt: skip


def _share(line: dict[str, Any], roof: dict[str, Any]) -> float:
    best = line.get("roof_again") or roof
    found = share_of_roof(line, 1e9 * best["peak_gflops"], 1e9 * best["copy_gbs"])
    assert found is not None
    return found


def errors_table(reports: Sequence[Report]) -> list[str]:
    """How far the cost model is off, by cores, variant and pass; the farthest first."""
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for one in reports:
        with _reading(one.path):
            for line in one.every("layers", "median_us"):
                if line["flops"] >= LEAST_FLOPS:
                    key = one.profile.architecture or "not known", line["variant"], line["pass"]
                    off = line["median_us"] / line["predicted_us"]
                    groups.setdefault(key, []).append((off, line["layer"]))
    rows = []
    for key, found in groups.items():
        centre = statistics.geometric_mean(off for off, _ in found)
        far = max(found, key=lambda one: abs(math.log(one[0])))
        rows.append((abs(math.log(centre)), [*key, len(found), centre, min(found)[0],
                                             max(found)[0], far[1]]))  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    header = ("cores", "variant", "pass", "times", "measured/predicted", "least", "greatest",
              "farthest")  # fmt: skip
    return rows_of(header, [row for _, row in rows])


def put_between(text: str, lines: Sequence[str]) -> str:
    """A page with these lines between its markers. Raises ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    return "\n".join([before + begin, "", *lines, "", end + after])


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    first, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("reports", nargs="+", type=Path, metavar="REPORT", help="report.json, or a folder of such")
    add("--records", type=Path, metavar="FOLDER", help="puts records into files of this folder")
    add("--devices", type=Path, metavar="PAGE", help=f"puts the table between {BEGIN} and {END}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a report, a file of records or the page is not what it should be."""
    asked = _parser().parse_args(argv)
    try:
        reports = load(asked.reports)
        made = levelled(reports)
        tuned = {(r.key.problem.layer, r.key.pass_) for one in reports for r in one.records()}
        near = (asked.devices or asked.reports[0] / "x").parent
        table = devices_table(reports, near)
        print("\n".join([*table, "", *errors_table(reports), ""]))
        if asked.devices is not None:
            page = put_between(asked.devices.read_text("utf-8"), table)
        count = sum(len(records) for _, records in made)
        print(f"{count} records hold, of {len(tuned)} passes of layers that were tuned")
        if asked.records is not None:
            for said in write(made, tuned, asked.records):
                print(said)
        if asked.devices is not None:
            asked.devices.write_text(page, "utf-8")
    except (OSError, ValueError, ClconvError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
