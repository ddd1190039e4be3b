"""What a report found, as a page in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clconv.commands.benchmark_worker import OTHERS_LIMIT, is_noisy
from clconv.commands.report_parts import share_of_roof
from clconv.planning.folding import LEAST_GAIN

__all__ = ["FAULTS", "LEAST_FLOPS", "Found", "markdown", "mean", "percent", "rows_of", "tile"]

Line = dict[str, Any]

FAULTS = ("wrong", "error", "cut_off")
# Calls with less work than this measure overhead; means leave them out.
LEAST_FLOPS = 5e6
MOST_FAULTS, LOG_LINES, MOST_CHARACTERS = 30, 8, 400
MOST_NAMES = 12


def rows_of(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table; of the columns those after the text are flush right where all cells are numbers."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ["Nothing came of it in its time."]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(header))]
    rule = ["--:" if flush else "---" for flush in right]
    return [f"| {' | '.join(row)} |" for row in (list(header), rule, *cells)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def _is_number(text: str) -> bool:
    return (
        text == "-" or text.rstrip("%").replace(".", "", 1).replace("e", "").lstrip("-").isdigit()
    )


def percent(part: float | None) -> str:
    """Of 1."""
    return "-" if part is None else f"{100 * part:.0f}%"


def tile(line: Line) -> str:
    """Variant and tile in a word each."""
    numbers = (f"{name}={value}" for name, value in line["tile"].items())
    return " ".join([line["variant"], *numbers])


def mean(values: Iterable[float]) -> str:
    """The geometric mean, and of how many."""
    found = list(values)
    return f"{statistics.geometric_mean(found):.2f} ({len(found)})" if found else "-"


class Found:
    """What the steps of a report found, by their names."""

    def __init__(self, report: Line) -> None:
        self.report = report
        self.lines = {step["name"]: step["lines"] for step in report["steps"]}

    def every(self, name: str, *keys: str) -> list[Line]:
        """The lines of a step that have all these."""
        return [line for line in self.lines.get(name, []) if set(keys) <= set(line)]

    def one(self, name: str, key: str) -> Any:
        """What the first such line says; None where there is none."""
        found = self.every(name, key)
        return found[0][key] if found else None

    def faults(self) -> list[str]:
        """What is wrong, what failed, and the end of its output."""
        text = []
        for step in self.report["steps"]:
            found = [line for line in step["lines"] if {"wrong", "error"} & set(line)]
            for line in found[:MOST_FAULTS]:
                why = line.get("wrong") or line["error"]
                why = " ".join(why.split("\n"))
                text.append(f"- {step['title']}, {line['what']}: {why}")
                log = line.get("log", "").strip().splitlines()[-LOG_LINES:]
                text += ["", *(f"      {one}" for one in log), ""] if log else []
            if len(found) > MOST_FAULTS:
                text.append(f"- {step['title']}: {len(found) - MOST_FAULTS} more, in report.json")
        return ["## What failed", "", *(text or ["Nothing."])]


class Page(Found):
    """The page, by chapters."""

    def head(self) -> list[str]:
        """Which device, which machine."""
        one, machine, info = self.report, self.report["machine"], self.one("devices", "info")
        title = info["name"] if info else "no device"
        took = f"{one['took_s']:.0f} of {one['seconds']:.0f} s"
        facts = {}
        if info:
            facts = {
                "device": f"{info['name']}, {info['kind']}, {info['compute_units']} units, "
                f"{info['global_bytes'] / 2**30:.1f} GiB",
                "driver": f"{info['platform']}, {info['version']}, driver {info['driver']}",
                "float16, float64": f"{_yes(info['fp16'])}, {_yes(info['fp64'])}",
            }
        memory = machine["memory_bytes"]
        facts |= {
            "machine": f"{machine['processor']}, {machine['machine']}, {machine['cores']} cores"
            + (f", {memory / 2**30:.1f} GiB" if memory else ""),
            "system": ", ".join(filter(None, (machine["system"], machine["distribution"]))),
            "packages": ", ".join(
                f"{name} {text}"
                for name, text in {"python": machine["python"], **machine["packages"]}.items()
            ),
            "drivers' variables that are set": ", ".join(one["variables"]) or "none",
        }
        return [
            f"# clconv {one['clconv']} on {title}", "", f"{one['date']}, {took}.", "",
            *rows_of(("", ""), facts.items()),
        ]  # fmt: skip

    def steps(self) -> list[str]:
        """How far each step came, and what there was no time for."""
        rows = []
        for step in self.report["steps"]:
            count = {key: sum(key in line for line in step["lines"]) for key in FAULTS}
            rows.append([step["title"], f"{step['done']} of {step['items']}", step["seconds"],
                         step["limit_s"], *count.values()])  # fmt: skip
        header = ("step", "items done", "seconds", "limit", "wrong", "failed", "cut off")
        text = ["## How far it came", "", *rows_of(header, rows)]
        for step in self.report["steps"]:
            names = step["left_out"]
            if names:
                more = f"; and {len(names) - MOST_NAMES} more, which report.json names"
                listed = "; ".join(names[:MOST_NAMES]) + more * (len(names) > MOST_NAMES)
                text += ["", f"{step['title']}, {len(names)} left out for lack of time, or failed: "
                         f"{listed}."]  # fmt: skip
        return text

    def devices(self) -> list[str]:
        """The check, and peaks."""
        roof, profile = self.one("devices", "roofline"), self.one("devices", "profile")
        text = [f"The check of a small convolution and its gradients: "
                f"{self.one('devices', 'check') or 'not reached'}."]  # fmt: skip
        if profile:
            kind = profile["architecture"] or "not known"
            text.append(f"Kind of cores or units: {kind}. Variants: "
                        f"{', '.join(self.one('devices', 'variants'))}.")  # fmt: skip
        if roof:
            text.append(f"Measured: {roof['peak_gflops']:.0f} GFLOP/s of plain multiply-adds, "
                        f"{roof['copy_gbs']:.1f} GB/s copied.")  # fmt: skip
        return text

    def accuracy(self) -> list[str]:
        """Errors in their bounds, by variant."""
        rows = []
        lines = self.every("accuracy", "variant")
        for name in dict.fromkeys(line["variant"] for line in lines):
            ours = [line for line in lines if line["variant"] == name]
            run = [line for line in ours if "normals" in line]
            rows.append([
                name, ", ".join(sorted({line["error_class"] for line in run})) or "-",
                len({line["example"] for line in ours}), len(run),
                sum("wrong" in line for line in run),
                *(_percent_or_exact(line[key] for line in run) for key in ("integers", "normals")),
            ])  # fmt: skip
        header = ("variant", "error class", "examples", "passes run", "wrong",
                  "largest error on integers", "on other data")  # fmt: skip
        return [
            "Tiny problems that together reach every path of a variant's kernels: forward, input "
            "and weight gradient. Errors are in percent of the proven bound.", "",
            *rows_of(header, rows),
        ]  # fmt: skip

    def layers(self) -> list[str]:
        """Predicted beside measured, shares of the roof."""
        profile, roof = self.one("devices", "profile"), self.one("devices", "roofline")
        rows, big, above = [], [], []
        for line in self.every("layers", "median_us"):
            best = line.get("roof_again") or roof
            took = line["median_us"]
            share = best and share_of_roof(line, 1e9 * best["peak_gflops"], 1e9 * best["copy_gbs"])
            off = took / line["predicted_us"]
            big += [(line["pass"], off, share)] if line["flops"] >= LEAST_FLOPS else []
            above += [line] if line.get("above_roof") else []
            rows.append([
                line["layer"], line["pass"], tile(line), line["predicted_us"], took, off,
                line["flops"] / took / 1e3, percent(share) + "^" * bool(line.get("above_roof")),
            ])  # fmt: skip
        header = ("layer", "pass", "planned", "predicted us", "measured us", "measured/predicted",
                  "GFLOP/s", "of the roof")  # fmt: skip
        means = []
        for pass_ in dict.fromkeys(one[0] for one in big):
            ours = [one for one in big if one[0] == pass_]
            means.append([pass_, mean(one[1] for one in ours), mean(s for *_, s in ours if s)])
        text = [
            *rows_of(header, rows), "",
            "The roof is the larger of arithmetic at the measured peak and each array moved once "
            "at the measured rate. GFLOP/s count the definition's operations. Geometric means, of "
            f"layers with at least {LEAST_FLOPS / 1e6:.0f} MFLOP:", "",
            *rows_of(("pass", "measured/predicted", "of the roof"), means),
        ]  # fmt: skip
        noisy = sum(is_noisy(line.get("others")) for line in self.every("layers", "median_us"))
        if noisy:
            text += ["", f"While {noisy} of {len(rows)} were measured, other processes used more "
                     f"than {OTHERS_LIMIT:.0%} of the machine."]  # fmt: skip
        if above:
            text += ["", "^ above the roof, in a second measurement of both too: transforms do "
                     "fewer operations than are counted, arrays may stay in a cache, or the "
                     "machine was busy while the peak was measured."]  # fmt: skip
        return [*text, "", *self.errors(profile["architecture"] if profile else ""), "",
                *self.compiling()]  # fmt: skip

    def errors(self, architecture: str) -> list[str]:
        """How far the cost model is off, by variant and pass."""
        rows = []
        lines = [x for x in self.every("layers", "median_us") if x["flops"] >= LEAST_FLOPS]
        for key in dict.fromkeys((line["variant"], line["pass"]) for line in lines):
            ours = [x["median_us"] / x["predicted_us"] for x in lines
                    if (x["variant"], x["pass"]) == key]  # fmt: skip
            rows.append([*key, mean(ours), min(ours), max(ours)])
        header = ("variant", "pass", "measured/predicted", "least", "greatest")
        return [f"### The cost model{f' of {architecture}' if architecture else ''}", "",
                *rows_of(header, rows)]  # fmt: skip

    def compiling(self) -> list[str]:
        """What comes before the first result."""
        rows = []
        for pass_ in dict.fromkeys(line["pass"] for line in self.every("layers", "plan_s")):
            ours = [line for line in self.every("layers", "plan_s") if line["pass"] == pass_]
            for name, key in (("planning", "plan_s"), ("and building", "plan_and_build_s"),
                              ("first run", "first_run_s")):  # fmt: skip
                found = [line[key] for line in ours]
                rows.append([pass_, name, statistics.median(found), max(found)])
        return ["### Compiling", "", "With empty caches, in seconds; some drivers compile at the "
                "first run.", "", *rows_of(("pass", "", "median", "longest"), rows)]  # fmt: skip

    def tuned(self) -> list[str]:
        """What tuning gained, in its own and in a second measurement."""
        rows = []
        again = {(x["layer"], x["pass"], x["length"]): x for x in self.every("tuned", "choice")}
        for one in self.every("tuned", "after_us"):
            before, after = one["before_us"], one["after_us"]
            both = again.get((one["layer"], one["pass"], one["length"]))
            rows.append([
                one["layer"], one["pass"], one["length"], before, after, before and before / after,
                tile(one), both and both["again_before_us"] / both["again_after_us"],
                tile(both["choice"]) if both else "",
            ])  # fmt: skip
        header = ("layer", "pass", "length", "the model's choice us", "fastest us", "gain",
                  "fastest", "gain of the layer's, measured again", "the layer's")  # fmt: skip
        return [
            "The layer's is a choice that is faster than the model's by more than "
            f"{LEAST_GAIN - 1:.0%} at both lengths.", "", *rows_of(header, rows),
        ]  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _percent_or_exact(shares: Iterable[float | None]) -> str:
    """The largest of these parts of bounds."""
    found = [share for share in shares if share is not None]
    if not found:
        return "-"
    return "exact" if max(found) == 0 else f"{100 * max(found):.2g}%"


def markdown(report: Line, picture: str | None = None) -> str:
    """The page, with a chapter for each step that had something to do."""
    page = Page(report)
    chapters = [page.head(), page.steps(), page.faults()]
    chapters += [[f"![Times and shares of the roof]({picture})"]] if picture else []
    for step in report["steps"]:
        if step["items"]:
            chapter: Callable[[], list[str]] = getattr(page, step["name"])
            chapters.append([f"## {step['title']}", "", *chapter()])
    return "\n\n".join("\n".join(lines) for lines in chapters) + "\n"
