"""What on_a_gpu.py found, as a page in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from clconv.commands.report_page import FAULTS, LEAST_FLOPS, Found, mean, percent, rows_of, tile
from clconv.commands.report_parts import share_of_roof

Line = dict[str, Any]


class Page(Found):
    """The report, by steps."""

    def head(self) -> list[str]:
        """Which device, which machine."""
        machine, info = self.report["machine"], self.one("devices", "info")
        title = info["name"] if info else "no device"
        took = f"{self.report['took_s']:.0f} of {self.report['seconds']:.0f} s"
        lines = [f"# clconv on {title}", "", f"{machine['date']}, {took}.", ""]
        facts = {"machine": f"{machine['system']}, {machine['cpus']} CPUs"}
        facts["python"] = machine["python"]
        facts["packages"] = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
        if info:
            facts = {
                "device": f"{info['name']}, {info['kind']}, {info['compute_units']} units, "
                f"{info['global_bytes'] / 2**30:.1f} GiB",
                "driver": f"{info['platform']}, {info['version']}, driver {info['driver']}",
            } | facts
        facts["nvidia-smi"] = machine["nvidia-smi"]
        for key in ("/etc/OpenCL/vendors", "driver libraries"):
            found = machine[key].items()
            facts[key] = ", ".join(f"{name}: {text}" for name, text in found) or "none"
        facts["OCL_ICD_VENDORS"] = machine["OCL_ICD_VENDORS"] or "not set"
        return [*lines, *rows_of(("", ""), facts.items())]

    def steps(self) -> list[str]:
        """How far each step came."""
        rows = []
        for step in self.report["steps"]:
            count = Counter(key for line in step["lines"] for key in FAULTS if key in line)
            rows.append([step["title"], f"{step['done']} of {step['items']}", step["seconds"],
                         step["limit_s"], *(count[key] for key in FAULTS)])  # fmt: skip
        header = ("step", "items done", "seconds", "limit", "wrong", "failed", "cut off")
        text = ["## Steps", "", *rows_of(header, rows)]
        cut = [f"{step['title']}, {line['what']}" for step in self.report["steps"]
               for line in step["lines"] if "cut_off" in line]  # fmt: skip
        text += ["", f"Cut off in the middle: {'; '.join(cut)}."] if cut else []
        if not self.one("devices", "info"):
            text += ["", "No device could be used, so nothing else was run; the table above says "
                     "which .icd files and driver libraries there are."]  # fmt: skip
        return text

    def devices(self) -> list[str]:
        """The list, and the chosen one's peaks."""
        found = self.one("devices", "devices") or []
        keys = ("id", "name", "platform", "kind", "driver", "fp16", "fp64", "check")
        rows = [[one["why_not"] if k == "check" and one["why_not"] else one[k] for k in keys]
                for one in found]  # fmt: skip
        text = rows_of(keys, rows) if rows else ["No OpenCL device was found."]
        roof, profile = self.one("devices", "roofline"), self.one("devices", "profile")
        if profile:
            text += ["", f"Variants for it: {', '.join(self.one('devices', 'variants'))}."]
            known = "not known" if not profile["flops"] else (
                f"{profile['flops'] / 1e9:.0f} GFLOP/s, {profile['bandwidth'] / 1e9:.0f} GB/s"
            )  # fmt: skip
            text.append(f"Peaks in its profile: {known}.")
        if roof:
            text.append(f"Measured: {roof['peak_gflops']:.0f} GFLOP/s of plain multiply-adds, "
                        f"{roof['copy_gbs']:.0f} GB/s copied.")  # fmt: skip
        return text

    def right(self) -> list[str]:
        """Counts by variant."""
        rows: dict[tuple[str, str], Counter[str]] = {}
        step = next(step for step in self.report["steps"] if step["name"] == "right")
        for line in step["lines"]:
            if "kind" in line:
                count = rows.setdefault((line["kind"], line["problems"]), Counter())
                count["all"] += 1
                count["results"] += line["results"]
                count["right"] += line["right"]
                count["served"] += line["served"]
        header = ("variant", "problems", "run", "of them served", "right", "results compared")
        return [
            "Forward, input, weight and bias gradients of the convolution and of the transposed "
            "one, on integers, whose results must be equal to the reference's.", "",
            *rows_of(header, ([*key, c["all"], c["served"], c["right"], c["results"]]
                              for key, c in rows.items())),
        ]  # fmt: skip

    def layers(self) -> list[str]:
        """Predicted beside measured, shares of the roofs, PyTorch."""
        profile, roof = self.one("devices", "profile"), self.one("devices", "roofline")
        peers = {(p["layer"], p["pass"]): p["median_us"] for p in self.every("peer", "torch")}
        rows, big = [], []
        for line in self.every("layers", "median_us"):
            took, other = line["median_us"], peers.get((line["layer"], line["pass"]))
            known = share_of_roof(line, profile["flops"], profile["bandwidth"])
            seen = (
                share_of_roof(line, 1e9 * roof["peak_gflops"], 1e9 * roof["copy_gbs"])
                if roof
                else None
            )
            numbers = {"off": took / line["predicted_us"], "known": known, "seen": seen,
                       "torch": other and other / took, "pass": line["pass"]}  # fmt: skip
            big += [numbers] if line["flops"] >= LEAST_FLOPS else []
            rows.append([
                line["layer"], line["pass"], tile(line), line["predicted_us"], took,
                numbers["off"], line["flops"] / took / 1e3, percent(known), percent(seen), other,
                numbers["torch"],
            ])  # fmt: skip
        header = ("layer", "pass", "planned", "predicted us", "measured us", "measured/predicted",
                  "GFLOP/s", "of the profile's roof", "of the measured roof", "torch us",
                  "torch/clconv")  # fmt: skip
        means = []
        for pass_ in dict.fromkeys(one["pass"] for one in big):
            ours = [one for one in big if one["pass"] == pass_]
            means.append([pass_, *(mean(one[key] for one in ours if one[key])
                                   for key in ("off", "known", "seen", "torch"))])  # fmt: skip
        return [
            *rows_of(header, rows), "",
            "A roof is the larger of arithmetic at the peak and each array moved once. Geometric "
            f"means, of layers with at least {LEAST_FLOPS / 1e6:.0f} MFLOP:", "",
            *rows_of(("pass", "measured/predicted", "of the profile's roof",
                      "of the measured roof", "torch/clconv"), means),
        ]  # fmt: skip

    def peer(self) -> list[str]:
        """Which PyTorch."""
        absent, about = self.one("peer", "absent"), self.one("peer", "torch")
        if about:
            how = "; float32 without TF32, by the fastest algorithm" if "cuDNN" in about else ""
            return [f"PyTorch {about}{how}. Its times are in the table above."]
        return [f"No PyTorch beside it: {absent or 'it was not reached'}."]

    def candidates(self) -> list[str]:
        """How good the model's order is; each candidate is in candidates.jsonl."""
        groups: dict[tuple[str, str], list[Line]] = {}
        for line in self.every("candidates", "model_us"):
            groups.setdefault((line["layer"], line["pass"]), []).append(line)
        rows = []
        for key, lines in groups.items():
            timed = [line for line in lines if "median_us" in line]
            if timed:
                best = min(timed, key=lambda line: line["median_us"])
                ratio = timed[0]["median_us"] / best["median_us"]
                rows.append([*key, len(timed), len(lines) - len(timed), best["model_us"],
                             best["median_us"], ratio, tile(best)])  # fmt: skip
        header = ("layer", "pass", "timed", "refused", "best: modelled us", "measured us",
                  "first/best", "best")  # fmt: skip
        return [*rows_of(header, rows), "", "Every candidate: candidates.jsonl."]

    def calls(self) -> list[str]:
        """First calls, new lengths, small calls."""
        cold = [
            [one["layer"], *one["cold_s"], *one["warm_s"]] for one in self.every("calls", "cold_s")
        ]
        new = [
            [one["pass"], one["new_us"], one["known_us"]] for one in self.every("calls", "new_us")
        ]
        small = [[one["call"], one["kind"], one["us"], one["bare_us"], one.get("waited_us")]
                 for one in self.every("calls", "bare_us")]  # fmt: skip
        return [
            "First call of a layer in a fresh process, in seconds:", "",
            *rows_of(("layer", "empty caches: returned", "done", "filled caches: returned",
                      "done"), cold), "",
            "A call with a wait, at a length that was never seen and at one that was:", "",
            *rows_of(("pass", "new us", "known us"), new), "",
            "A call on a tiny layer until it returns, beside a bare enqueue of its kernels, while "
            "the queue runs or is held; and with a wait for each:", "",
            *rows_of(("call", "queue", "us", "bare us", "with a wait us"), small),
        ]  # fmt: skip

    def tuned(self) -> list[str]:
        """What tuning gained."""
        keys = ("layer", "pass", "before_us", "after_us", "gain", "tried", "left_out",
                "rank_correlation", "seconds")  # fmt: skip
        rows = [[*(one[key] for key in keys), len(one["refused"]), tile(one)]
                for one in self.every("tuned", "after_us")]  # fmt: skip
        header = ("layer", "pass", "before us", "after us", "gain", "candidates", "left out",
                  "rank", "seconds", "refused", "best")  # fmt: skip
        return rows_of(header, rows)


def markdown(report: Line) -> str:
    """The page, with a chapter for each step that had something to do."""
    page = Page(report)
    chapters = [page.head(), page.steps(), page.faults()]
    for step in report["steps"]:
        if step["items"]:
            chapter: Callable[[], list[str]] = getattr(page, step["name"])
            chapters.append([f"## {step['title']}", "", *chapter()])
    return "\n\n".join("\n".join(lines) for lines in chapters) + "\n"
