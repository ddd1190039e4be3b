#!/usr/bin/env python3
"""How much faster are whole networks? Draws what `tools/benchmark_models.py --json` wrote.

A bar is PyTorch's time in clconv's, for each pass; a mark is ONNX Runtime's. Right of 1, clconv is
faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import matplotlib.pyplot as plt

# What a pass is called, and its shade.
PASSES = {
    "one": ("inference, one series", "#1b7f5c"),
    "many": ("inference, a batch", "#7cc0a4"),
    "step": ("a training step", "#33628f"),
}
REFERENCE, OWN = "torch", "clconv"
BAR = 0.26


def draw(content: dict[str, Any], path: str) -> None:
    """Writes the picture; its format follows the name."""
    networks = [one for one in content["networks"] if one["results"]]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.5 * len(networks)), dpi=130, layout="constrained")
    for place, (pass_, (label, colour)) in enumerate(PASSES.items()):
        at = [i + (place - 1) * BAR for i in range(len(networks))]
        ratios = [_ratio(one, pass_, REFERENCE) for one in networks]
        axes.barh(
            at, [(ratio or 1) - 1 for ratio in ratios], BAR, left=1, color=colour, label=label
        )
        peers = [(y, r) for y, one in zip(at, networks, strict=True)
                 if (r := _ratio(one, pass_, "onnxruntime")) is not None]  # fmt: skip
        if peers:
            of_first = "ONNX Runtime instead" if place == 0 else None
            axes.plot([r for _, r in peers], [y for y, _ in peers], "k|", ms=6, label=of_first)
    # What ONNX Runtime unrolls takes far longer.
    ratio_axis(axes, [one["name"] for one in networks], (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3))
    axes.set_xlabel("PyTorch's time in clconv's: right of 1, clconv is faster")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path)


def ratio_axis(axes: Any, names: Sequence[str], ticks: Sequence[float]) -> None:
    """Names from above to below, and ratios around 1 from the first tick to the last."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", lw=0.8)


def _ratio(network: dict[str, Any], pass_: str, peer: str) -> float | None:
    """A peer's time in clconv's, None where one is missing."""
    times = {r["implementation"]: r["median_ms"] for r in network["results"] if r["pass_"] == pass_}
    if not times.get(peer) or not times.get(OWN):
        return None
    return float(times[peer] / times[OWN])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what benchmark_models.py wrote")
    parser.add_argument("picture", help="the file to draw; its format follows the name")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text()), options.picture)
