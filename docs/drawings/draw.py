#!/usr/bin/env python3
"""Draws the pictures of the pages as SVG: `python docs/drawings/draw.py`.

They take the text's colour, and are small enough to be part of a page. Figures are those of the
table "In short" in benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# What a page that shows a drawing as an image cannot say of it.
STYLE = (
    "<style>svg{color:#24292f;font:14px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#d0d7de}}</style>"
)
OWN, OTHER, WARM = "#26a69a", "#8a94a0", "#e39b2d"


def rect(x: float, y: float, w: float, h: float, fill: str = "none", opacity: float = 1.0) -> str:
    line = "currentColor" if fill == "none" else fill
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" fill="{fill}" '
        f'fill-opacity="{opacity:g}" stroke="{line}"/>'
    )


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 14) -> str:
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="currentColor">{words}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, arrow: bool = False, dash: str = "") -> str:
    end = ' marker-end="url(#to)"' if arrow else ""
    dashes = f' stroke-dasharray="{dash}" stroke-opacity="0.4"' if dash else ""
    return (
        f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="currentColor" fill="none"{end}{dashes}/>'
    )


def drawing(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A whole file. `title` is what screen readers say."""
    arrow = (
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor"/>'
        "</marker></defs>"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{title}</title>'
    )
    return "\n".join([head, STYLE, arrow, *parts, "</svg>"]) + "\n"


def figures(page: str) -> list[tuple[str, str, float]]:
    """(what, beside, times as fast) of the rows of the table "In short"."""
    rows = page.partition("## In short")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) \|", rows, re.MULTILINE)
    return [(what, beside, float(times)) for what, beside, times in found]


def speed() -> str:
    """Bars from the line where both are as fast, on a scale where twice is everywhere as long."""
    rows = figures((HERE.parent / "benchmarks.md").read_text())
    left, unit, top, step = 110, 85, 30, 42
    height = top + step * len(rows) + 4
    parts = []
    for value in (0.5, 1, 2, 4, 8):
        x = left + unit * math.log2(value)
        parts.append(text(x, 16, "as fast" if value == 1 else f"{value:g} ×", "middle", 12))
        parts.append(line(x, top - 6, x, height, dash="" if value == 1 else "2 4"))
    for i, (what, beside, times) in enumerate(rows):
        y, end = top + step * i, left + unit * math.log2(times)
        parts.append(rect(min(left, end), y + 18, abs(end - left), 14, OWN if times >= 1 else WARM))
        parts.append(text(max(left, end) + 6, y + 30, f"{times:.3g}", size=13))
        parts.append(text(left + 6, y + 13, f"{what}, beside {beside}", size=13))
    title = "; ".join(f"{what} beside {beside}: {t:g} times as fast" for what, beside, t in rows)
    return drawing(left + 3 * unit + 75, height, title, parts)


def tile() -> str:
    """The rows of x in local memory, the sums of a tile in registers, their places in y."""
    parts = [text(20, 20, "x: the strip of a task, in local memory", size=13)]
    for row, name in enumerate(("c = 0", "c = 1", "c = 2")):
        y = 34 + 26 * row
        parts.append(text(20, y + 15, name, size=12))
        parts += [rect(70 + 22 * i, y, 20, 20) for i in range(18)]
    parts += [rect(70 + 22 * (i + 2), 34, 20, 20, OWN, 0.35) for i in range(8)]
    parts += [rect(70 + 22 * (i + 4), 34, 20, 20, WARM, 0.35) for i in range(8)]
    parts.append(text(480, 48, "tap 0, then tap 1 (dilation 2):", size=12))
    parts.append(text(480, 64, "vectors two samples further", size=12))
    parts.append(line(250, 116, 250, 150, arrow=True))
    parts.append(text(262, 138, "times w[o, c, k], one number for all lanes", size=12))
    parts.append(
        text(
            20, 172, "a tile of sums, in registers: 4 channels x 2 vectors of 4 positions", size=13
        )
    )
    for row in range(4):
        y = 184 + 26 * row
        parts.append(text(20, y + 15, f"o = {row}", size=12))
        for vector in range(2):
            x = 114 + 92 * vector
            parts += [rect(x + 22 * i, y, 20, 20, OWN, 0.8 if vector else 0.5) for i in range(4)]
    parts.append(line(312, 236, 392, 236, arrow=True))
    parts.append(text(404, 226, "+ bias + residual, activation,", size=12))
    parts.append(text(404, 242, "stored to y[n, o, q …] once", size=12))
    title = (
        "A strip of the input in local memory; vectors of it times single weights are added to a "
        "tile of sums in registers, which is stored once."
    )
    return drawing(700, 296, title, parts)


def call() -> str:
    """The rooms that a call passes through, in order."""
    rooms = (
        ("functional", "names and defaults", "functional.py, torch/, signal/, layers/"),
        ("calls", "checks arrays, keeps recipes", "calls/"),
        ("problem", "WHAT: every length", "geometry.py, problem.py"),
        ("planning", "WHICH: cost in seconds", "planning/"),
        ("variants", "HOW: tiles and launches", "variants/"),
        ("render", "TEXT: Mako writes OpenCL C", "render.py, templates/"),
        ("drivers", "builds it, keeps it on disk", "drivers/"),
        ("runtime", "WHERE: queues the launch", "runtime.py"),
    )
    parts = []
    for i, (name, what, where) in enumerate(rooms):
        y = 10 + 52 * i
        new = 1 < i < 7
        parts.append(rect(20, y, 300, 38, WARM if new else OWN, 0.18))
        parts.append(text(32, y + 24, name))
        parts.append(text(308, y + 24, what, "end", 12))
        parts.append(text(336, y + 24, where, size=12))
        if i < len(rooms) - 1:
            parts.append(line(170, y + 38, 170, y + 51, arrow=True))
    parts.append(line(590, 74, 620, 74))
    parts.append(line(620, 74, 620, 393))
    parts.append(line(620, 393, 590, 393, arrow=True))
    parts.append(text(612, 222, "the same call", "end", 12))
    parts.append(text(612, 238, "again", "end", 12))
    title = (
        "A call passes functional, calls, problem, planning, variants, render, drivers and runtime"
        "; the same call again goes from calls straight to runtime."
    )
    return drawing(640, 430, title, parts)


def transforms() -> str:
    """Overlapping tiles of a row, and what of each result is kept."""
    parts = [
        text(
            20,
            22,
            "x: tiles of N samples, each begins where the outputs of the one before end",
            size=13,
        )
    ]
    parts.append(rect(20, 34, 660, 22))
    for i in range(3):
        x, y = 20 + 180 * i, 68 + 30 * i
        parts.append(rect(x, y, 300, 22, OWN, 0.3))
        parts.append(text(x + 8, y + 16, f"tile {i}: transform, times W, back", size=12))
    parts.append(
        text(
            20,
            182,
            "y: of each tile the first N - (K - 1) dilation outputs are whole, and kept",
            size=13,
        )
    )
    for i in range(3):
        x = 20 + 180 * i
        parts.append(rect(x, 194, 178, 22, OWN, 0.7))
        parts.append(text(x + 89, 210, f"of tile {i}", "middle", 12))
    parts.append(rect(560, 194, 120, 22, WARM, 0.3))
    parts.append(text(620, 210, "wrapped: left out", "middle", 12))
    title = (
        "Tiles of a row overlap by a window less one sample; each is transformed, multiplied and "
        "transformed back, and only outputs without wrapped samples are kept."
    )
    return drawing(700, 230, title, parts)


DRAWINGS = {"speed": speed, "tile": tile, "call": call, "transforms": transforms}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for name, make in DRAWINGS.items():
        (HERE / f"{name}.svg").write_text(make())


if __name__ == "__main__":
    main()
