"""Accuracy over budget, a line for each strategy, and agreement over cost, as PNGs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adafv.bench.quality import HEADLINES, TITLES, UNPRUNED, Contest, Entry
from adafv.pipeline.errors import UsageError

# Paul Tol's "bright", with black and two browns: they stay apart for colour-blind eyes, and each has a marker as well.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#555555", "#cc6600", "#000000", "#999933")
MARKERS = "osD^vP*Xhd<>"
ACROSS = 2  # panels of agreement in a row
SPREAD = 0.012  # how far neighbouring strategies stand apart, as a share of the axis, so that intervals don't overlap


def draw(comparisons: Sequence[Contest], path: Path) -> None:
    """Draw a row for each comparison, and in it a panel for each headline that there is."""
    figure, rows = _figure(len(comparisons), max(len(_headlines(one.entries)) for one in comparisons))
    for one, plots in zip(comparisons, rows, strict=True):
        for plot, type_ in zip(plots, _headlines(one.entries), strict=False):
            _panel(plot, [entry for entry in one.entries if entry.question_type == type_])
            plot.set_title(TITLES.get(type_, type_), fontsize=11)
            plot.set_ylabel(f"{one.source.measure(type_)}, %")
        for plot in plots[len(_headlines(one.entries)) :]:
            plot.set_axis_off()
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)
    titles = "\n".join(one.title for one in comparisons)
    figure.supxlabel(f"visual tokens kept, %; bars are 95 % intervals\n{titles}", fontsize=9)
    figure.savefig(path, dpi=150, format="png")


def draw_agreement(worlds: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the agreement of fixed budgets, and of second looks from each of them, over what the language model takes: a
    panel for each world.

    Args:
        worlds: as `adafv bench promise` writes them.
    """
    across = min(ACROSS, len(worlds))
    figure, rows = _figure(-(-len(worlds) // across), across, sharey=True)
    plots = rows.flatten()
    for plot, world in zip(plots, worlds, strict=False):
        _agreement_panel(plot, world["curves"], world["promise"]["unpruned"], world["promise"]["demand"])
        plot.set_title(world["world"], fontsize=11)
    for plot in plots[len(worlds) :]:
        plot.set_axis_off()
    plots[0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.supylabel("answers as the unpruned model's, %", fontsize=10)
    figure.supxlabel(f"prompt tokens, % of unpruned; {worlds[0]['rows']} questions a world", fontsize=10)
    figure.savefig(path, dpi=150, format="png")


def _agreement_panel(plot: Any, curves: Sequence[dict[str, Any]], unpruned: float, demand: float) -> None:
    ends = [(100 * curve["points"][0]["prompt_tokens"] / unpruned, curve["points"][0]["agreement"]) for curve in curves]
    fixed = [*sorted(ends), (100.0, 1.0)]
    plot.plot(*_percents(fixed), color="#000000", marker="o", ms=4.5, lw=1.2, label="fixed budget")
    for curve, colour, marker in zip(curves, COLOURS, MARKERS[1:], strict=False):
        points = [(100 * one["prompt_tokens"] / unpruned, one["agreement"]) for one in curve["points"]]
        label = f"{100 * curve['keep']:g} %, unsure ones again"
        plot.plot(*_percents(points), color=colour, marker=marker, ms=4, lw=1.2, ls="--", label=label)
    plot.axhline(100 * demand, color="#999999", lw=0.8, ls=":")
    plot.set_xlim(0, 105)
    plot.grid(axis="y", color="#eeeeee")
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)


def _percents(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [100 * y for _, y in points]


def require() -> None:
    """Raise UsageError if there is no matplotlib: before anything is measured, rather than after."""
    if find_spec("matplotlib") is None:
        raise UsageError("--chart needs matplotlib: pip install 'adafv[bench]', or leave --chart out")


def _figure(rows: int, panels: int, sharey: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 3.8 * panels, 4.2 * rows), layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, panels, squeeze=False, sharey=sharey)


def _headlines(found: Sequence[Entry]) -> list[str]:
    types = {entry.question_type for entry in found}
    return [type_ for type_ in HEADLINES if type_ in types]


def _panel(plot: Any, found: Sequence[Entry]) -> None:
    unpruned = found[0]
    plot.axhspan(100 * unpruned.low, 100 * unpruned.high, color="#dddddd", lw=0)
    plot.axhline(100 * unpruned.accuracy, color="#777777", lw=1, ls="--", label="unpruned")
    strategies = [name for name in dict.fromkeys(entry.strategy for entry in found) if name != UNPRUNED]
    for number, name in enumerate(strategies):
        line = sorted((entry for entry in found if entry.strategy == name), key=lambda entry: entry.keep)
        aside = (1 + SPREAD) ** (number - (len(strategies) - 1) / 2)
        middle, low, high = ([100 * getattr(entry, end) for entry in line] for end in ("accuracy", "low", "high"))
        plot.errorbar(
            [100 * entry.keep * aside for entry in line],
            middle,
            yerr=[[y - end for y, end in zip(middle, low, strict=True)],
                  [end - y for y, end in zip(middle, high, strict=True)]],
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
            ls="-" if number < len(COLOURS) else ":", ms=4.5, lw=1.2, elinewidth=0.8, label=name,
        )  # fmt: skip
    keeps = sorted({entry.keep for entry in found if entry.strategy != UNPRUNED})
    plot.set_xscale("log")
    plot.set_xticks([100 * keep for keep in keeps], [f"{100 * keep:g}" for keep in keeps])
    plot.minorticks_off()
    plot.grid(axis="y", color="#eeeeee")
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
