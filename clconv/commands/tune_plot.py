"""How well does the cost model predict? Draws candidates' times against its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clconv.errors import missing
from clconv.planning.records import Record

try:
    import matplotlib

    matplotlib.use("Agg")  # draws without a screen

    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
except ModuleNotFoundError as error:
    raise missing(error, "a picture", matplotlib="tune") from None

COLOURS = ("#33628f", "#b5472f", "#1b7f5c", "#8a5fa8", "#b08a1e", "#5b6770")


def draw(named: Sequence[tuple[str, Record]], device: str, path: str) -> None:
    """Writes the picture of layers' records, a panel for each pass; its format follows the name."""
    passes = list(dict.fromkeys(record.key.pass_ for _, record in named))
    variants = sorted({one.choice.variant for _, record in named for one in record.candidates})
    names = list(dict.fromkeys(name for name, _ in named))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(variants)}
    size = 5.4 * len(passes) + 2, max(5.2, 0.22 * len(names))
    figure, panels = plt.subplots(
        1, len(passes), figsize=size, dpi=130, squeeze=False, layout="constrained"
    )  # fmt: skip
    for axes, pass_ in zip(panels[0], passes, strict=True):
        chosen = [
            (f"{names.index(name) + 1}", record)
            for name, record in named
            if record.key.pass_ is pass_
        ]
        _panel(axes, chosen, colours)
        axes.set_title(pass_.value.replace("_", " "))
    figure.suptitle(
        f"Candidates on {device}\na line joins those of one layer, whose number is at its end",
        fontsize=10,
    )
    rows = [Line2D([], [], linestyle="none", label=f"{i}  {n}") for i, n in enumerate(names, 1)]
    figure.legend(handles=rows, loc="outside right center", handlelength=0, frameon=False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(7, 4 * len(passes)), frameon=False
    )
    figure.savefig(path)
    plt.close(figure)


def _panel(axes: Any, chosen: Sequence[tuple[str, Record]], colours: dict[str, str]) -> None:
    """A pass: the points of each record, with the number of its layer."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in colours}
    winners, firsts = [], []
    for number, record in chosen:
        timed = [(one, one.median_us) for one in record.candidates if one.median_us is not None]
        axes.plot([one.cost_us for one, _ in timed], [us for _, us in timed],
                  color="#d5d9dd", linewidth=0.7, zorder=1)  # fmt: skip
        if timed:
            last, us = max(timed, key=lambda one: one[0].cost_us)
            axes.annotate(number, (last.cost_us, us), (5, 0), textcoords="offset points",
                          fontsize=7.5, va="center", color="#5b6770")  # fmt: skip
        for one, us in timed:
            points[one.choice.variant].append((one.cost_us, us))
        winners.append((record.winner.cost_us, record.winner.median_us))
        if record.untuned is not None:
            firsts.append((record.untuned.cost_us, record.untuned.median_us))
    for name, found in points.items():
        axes.scatter(*zip(*found, strict=True) if found else ([], []), s=14, color=colours[name],
                     label=name, zorder=2)  # fmt: skip
    for label, marks, marker in (("winner", winners, "o"), ("model's choice", firsts, "s")):
        axes.scatter(*zip(*marks, strict=True) if marks else ([], []), s=70, marker=marker,
                     facecolors="none", edgecolors="black", linewidths=0.9, label=label,
                     zorder=3)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="modelled us", ylabel="measured us, median")
    for axis in (axes.xaxis, axes.yaxis):  # plain numbers at 1, 2 and 5
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: f"{value:g}" * (f"{value:e}"[0] in "25"))
    axes.grid(which="major", alpha=0.25)
    least, most = axes.get_xlim()
    axes.axline((least, least), (most, most), color="black", linewidth=0.8, linestyle=":",
                label="as modelled")  # fmt: skip
    axes.set_xlim(least, most)
