"""How do the figures look? Ratios to each peer, and the layers under the roof.

Draws what `benchmark --json` wrote: python -m clconv.commands.benchmark_plot JSON PICTURE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from clconv.commands.benchmark_worker import OWN_KINDS
from clconv.commands.layers import Layer
from clconv.errors import missing

try:
    import matplotlib

    matplotlib.use("Agg")  # draws without a screen

    import matplotlib.pyplot as plt
    from matplotlib.text import Text
except ModuleNotFoundError as error:
    raise missing(error, "a picture", matplotlib="tune") from None

# A hue a peer; the forward pass is the darker shade.
COLOURS = {
    ("torch", "forward"): "#b5472f", ("torch", "backward"): "#eba58f",
    ("onnxruntime", "forward"): "#33628f",
}  # fmt: skip
OWN = "#1b7f5c"
ROOM = 1.6  # of the axes beyond the outermost points
# Where a number may stand beside its point, in points, the nearest first.
DISTANCES = (5, 10, 16, 24, 34, 46, 60, 76)
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def draw(content: dict[str, Any], path: str) -> None:
    """Writes the picture; its format follows the name."""
    layers = {layer["name"]: Layer(**layer) for layer in content["layers"]}
    results = {(r["implementation"], r["layer"], r["pass_"]): r for r in content["results"]}
    passes = list(dict.fromkeys(p for _, _, p in results))
    height = max(3.6 * len(passes) + 1, 1.6 + 0.36 * len(layers))
    figure = plt.figure(figsize=(15, height), dpi=130, layout="constrained")
    peers = [name for name in content["versions"] if name not in ("clconv", *OWN_KINDS)]
    left, right = figure.subfigures(1, 2, width_ratios=(6 if peers else 2, 8))
    if peers:
        _ratios(left.subplots(), list(layers), results, peers)
    else:
        left.text(0.05, 0.95, "\n".join(_numbered(layers)), va="top", linespacing=1.8)
    numbers = {name: f"{number}" for number, name in enumerate(layers, 1)}
    roofs = []
    for axes, pass_ in zip(right.subplots(len(passes), squeeze=False)[:, 0], passes, strict=True):
        points = {
            numbers[name]: (layer.flops(pass_) / layer.nbytes(pass_), rate)
            for name, layer in layers.items()
            if (rate := results["clconv", name, pass_]["gflops"]) and not layer.is_tiny
        }
        _roofline(axes, pass_, points, content["roofline"])
        roofs.append((axes, points))
    figure.suptitle("; ".join(content["versions"].values()), fontsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names go where there is room once all is in its place
    for axes, points in roofs:
        _label(axes, points, content["roofline"])
    figure.savefig(path)
    plt.close(figure)


def _numbered(names: Iterable[str]) -> list[str]:
    """Layers by the numbers that their points have: names would cover each other there."""
    return [f"{name}  {number}" for number, name in enumerate(names, 1)]


def _ratios(axes: Any, names: list[str], results: dict[Any, Any], peers: list[str]) -> None:
    """A group of bars a layer: each peer's time in clconv's."""
    series = {}
    for peer, pass_ in product(peers, ("forward", "backward")):
        found = {}
        for place, name in enumerate(names):
            times = [
                results.get((who, name, pass_), {}).get("median_us") for who in ("clconv", peer)
            ]
            if None not in times:
                found[place] = times[1] / times[0]
        if found:
            series[peer, pass_] = found
    thick = 0.82 / max(1, len(series))
    for i, (key, found) in enumerate(series.items()):
        places = [place + (i - (len(series) - 1) / 2) * thick for place in found]
        axes.barh(
            places, [r - 1 for r in found.values()], 0.9 * thick, left=1, color=COLOURS[key],
            label=" ".join(key),
        )  # fmt: skip
    every = [ratio for found in series.values() for ratio in found.values()] or [1.0]
    _logarithmic(axes, "x")
    axes.set_xlim(min(0.5, *every) / 1.15, max(2, *every) * 1.15)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), _numbered(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("time of the peer / time of clconv (right of 1: clconv is faster)")
    if series:  # above, where it covers no bar
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def _logarithmic(axes: Any, which: str) -> None:
    """Makes an axis logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


def _roofline(
    axes: Any, pass_: str, points: dict[str, tuple[float, float]], roof: dict[str, Any]
) -> None:
    """The layers of a pass under min(peak, intensity * bandwidth)."""
    peak, bandwidth = roof["peak_gflops"], roof["copy_gbs"]
    ridge = peak / bandwidth
    xs = [x for x, _ in points.values()] + [ridge]
    ys = [y for _, y in points.values()] + [peak]  # with room for names above and below
    low, high = min(xs) / ROOM, max(xs) * ROOM
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", linewidth=1.4)
    for point in points.values():
        axes.plot(*point, "o", markersize=4.5, color=OWN, zorder=3)
    axes.set_xlim(low, high)
    axes.set_ylim(min(ys) / ROOM**2, max(ys) * ROOM**2)
    axes.grid(which="major", alpha=0.25)
    axes.set_title(f"Roofline, {pass_}: peak {peak:.0f} GFLOP/s, copy {bandwidth:.0f} GB/s")
    axes.set_xlabel("operations a byte, each array once (layers by number, without tiny ones)")
    axes.set_ylabel("GFLOP/s of clconv")


def _label(axes: Any, points: dict[str, tuple[float, float]], roof: dict[str, Any]) -> None:
    """Writes each number where it covers least of other names, points, the roof and the frame."""
    renderer = axes.get_figure(root=True).canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    low, high = axes.get_xlim()
    line = [
        (x, min(roof["peak_gflops"], x * roof["copy_gbs"])) for x in np.geomspace(low, high, 200)
    ]
    dots = [axes.transData.transform(point) for point in (*points.values(), *line)]
    taken: list[Any] = []
    for name, point in sorted(points.items(), key=lambda item: item[1]):
        text = axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=7.5, va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.6, "shrinkB": 2},
        )  # fmt: skip
        found = []
        for far, (dx, dy) in product(DISTANCES, DIRECTIONS):
            text.set(position=(far * dx, far * dy), ha={1: "left", 0: "center", -1: "right"}[dx])
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(2)  # without the line to the point
            clashes = sum(box.overlaps(other) for other in taken)
            clashes += sum(box.contains(*dot) for dot in dots)
            clashes += 9 * (frame.count_contains(box.corners()) < 4)
            found.append((clashes, far, dx, dy, box))
        _, far, dx, dy, box = min(found, key=lambda one: one[:2])
        text.set(position=(far * dx, far * dy), ha={1: "left", 0: "center", -1: "right"}[dx])
        taken.append(box)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m clconv.commands.benchmark_plot", description="Draws a benchmark's figures."
    )
    parser.add_argument("json", type=Path, help="what benchmark --json wrote")
    parser.add_argument("picture", help="the file to draw; its format follows the name")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text()), options.picture)
