"""How near are layers to the roof, and predictions to times? Draws a report's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import matplotlib.pyplot as plt

from clconv.commands.report_parts import share_of_roof

COLOURS = {"forward": "#33628f", "input_gradient": "#b5472f", "weight_gradient": "#1b7f5c"}


def draw(report: dict[str, Any], path: Path) -> Path | None:
    """Writes the picture, and gives its path; None where no layer was timed."""
    steps = {step["name"]: step["lines"] for step in report["steps"]}
    lines = [line for line in steps.get("layers", []) if "median_us" in line]
    roof = next((line["roofline"] for line in steps["devices"] if "roofline" in line), None)
    if not lines:
        return None
    names = list(dict.fromkeys(line["layer"] for line in lines))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, max(3.0, 1.0 + 0.24 * len(names))), dpi=110, layout="constrained"
    )
    for pass_, colour in COLOURS.items():
        ours = [line for line in lines if line["pass"] == pass_]
        places = [names.index(line["layer"]) for line in ours]
        if roof is not None:
            shares = [
                share_of_roof(line, 1e9 * best["peak_gflops"], 1e9 * best["copy_gbs"])
                for line in ours
                for best in (line.get("roof_again") or roof,)
            ]
            left.scatter([100 * (one or 0) for one in shares], places, s=18, color=colour)
        right.scatter([line["predicted_us"] for line in ours], [line["median_us"] for line in ours],
                      s=18, color=colour, label=pass_.replace("_", " "))  # fmt: skip
    left.axvline(100, color="black", linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set_xlabel("percent of the roof")
    left.set_xlim(left=0)
    left.invert_yaxis()
    left.grid(alpha=0.25)
    right.set(xscale="log", yscale="log", xlabel="predicted us", ylabel="measured us, median")
    least = min(min(line["predicted_us"], line["median_us"]) for line in lines)
    most = max(max(line["predicted_us"], line["median_us"]) for line in lines)
    right.plot((least, most), (least, most), color="black", linewidth=0.8, linestyle=":")
    right.grid(alpha=0.25)
    right.legend(frameon=False)
    info: dict[str, Any] = next((line["info"] for line in steps["devices"] if "info" in line), {})
    figure.suptitle(f"{info.get('name', '')}, {info.get('platform', '')}", fontsize=10)
    figure.savefig(path)
    plt.close(figure)
    return path
