"""SVG charts in the page's own colours, light or dark. They are as wide as a phone's page, so that labels stay
readable, and carry their figures as tooltips and for screen readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from adafv.reporting.svg import canvas, element

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 14, 22  # room for the labels
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LETTER = 6.5  # about the width of a letter
ROW = 34  # height of one of `rows`

Bar = tuple[str, float | None]  # label and value; None leaves a gap
Tick = tuple[float, str]  # place on an axis, as a fraction of it, and label

# Lines differ by colour and dashes: Paul Tol's "bright", and the page's own ink instead of black.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "currentColor")
DASHES = ("none", "6 3", "2 3", "8 3 2 3")
CURVE_HEIGHT, AXIS = 300, 44  # room for the numbers of an axis


@dataclass(frozen=True)
class Point:
    """A point of a line, its vertical interval, and its label."""

    x: float
    y: float
    low: float
    high: float
    label: str


def columns(bars: Sequence[Bar], title: str, unit: str, ticks: Sequence[Tick], marks: Sequence[Tick] = ()) -> Markup:
    """Vertical bars. `ticks` are the labels below; `marks` are vertical lines."""
    values = [value for _, value in bars if value is not None]
    if not values:
        return Markup("")
    top = nice(max(values))
    width = PLOT_WIDTH / len(bars)
    parts = _scale(top)
    for place, (label, value) in enumerate(bars):
        x = LEFT + place * width
        if value is None:
            parts.append(_line("gap", x + width / 2, TOP, x + width / 2, TOP + PLOT_HEIGHT))
            continue
        height = value / top * PLOT_HEIGHT
        said = f"{label}: {number(value)} {unit}"
        parts.append(_bar(x, TOP + PLOT_HEIGHT - height, max(width - 1, 0.6 * width), height, said))
    parts += _ticks(ticks)
    for at, label in marks:
        x = LEFT + at * PLOT_WIDTH
        parts.append(_line("mark", x, TOP, x, TOP + PLOT_HEIGHT))
        parts.append(_text(x, TOP - 4, label, "mark"))
    return canvas(WIDTH, HEIGHT, title, *parts)


def rows(bars: Sequence[Bar], title: str, unit: str) -> Markup:
    """Horizontal bars, each with its name, value and share."""
    values = [value or 0.0 for _, value in bars]
    if not bars:
        return Markup("")
    top, total = max(values) or 1.0, sum(values)
    parts = []
    for place, ((label, _), value) in enumerate(zip(bars, values, strict=True)):
        y = place * ROW
        share = f", {value / total:.0%}" if total else ""
        said, long = f"{number(value)} {unit}".rstrip() + share, max(value / top * WIDTH, 3)
        parts.append(element("text", label, class_="row", x=0, y=y + 13))
        parts.append(element("text", said, class_="row", x=WIDTH, y=y + 13, text_anchor="end"))
        for kind, width in (("track", WIDTH), ("bar", long)):
            parts.append(element("rect", class_=kind, x=0, y=y + 19, width=width, height=7, rx=3.5))
    return canvas(WIDTH, ROW * len(bars), title, *parts)


def heat_map(counts: np.ndarray, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], title: str, unit: str) -> Markup:
    """int [X, Y]: darker cells for larger counts, the first of Y at the bottom, with the totals of Y beside them.
    Ticks are fractions of the axes."""
    if not counts.any():
        return Markup("")
    beside = 60
    across, up = counts.shape
    width, height = (PLOT_WIDTH - beside - 8) / across, PLOT_HEIGHT / up
    parts = [_text(LEFT - 5, TOP + PLOT_HEIGHT * (1 - at) + 4, label, "left") for at, label in y_ticks]
    for x, y in np.argwhere(counts).tolist():
        count = int(counts[x, y])
        top, opacity = TOP + PLOT_HEIGHT - (y + 1) * height, 0.15 + 0.85 * count / counts.max()
        parts.append(_bar(LEFT + x * width, top, width - 0.5, height - 0.5, f"{number(count)} {unit}", opacity))
    parts += [_box(LEFT, PLOT_WIDTH - beside - 8), _box(WIDTH - RIGHT - beside, beside)]
    totals = counts.sum(axis=0)
    for y, total in enumerate(totals.tolist()):
        top, wide = TOP + PLOT_HEIGHT - (y + 1) * height, total / totals.max() * beside
        parts.append(_bar(WIDTH - RIGHT - beside, top, wide, height - 0.5, f"{number(total)} {unit}"))
    share = (PLOT_WIDTH - beside - 8) / PLOT_WIDTH
    parts += _ticks([(at * share, label) for at, label in x_ticks])
    parts.append(_text(WIDTH - RIGHT - beside / 2, HEIGHT - 6, "all", "below"))
    return canvas(WIDTH, HEIGHT, title, *parts)


def nice(value: float) -> float:
    """The next round number that is not below `value`; 1 for almost nothing."""
    if value < 1e-99:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def number(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def short_number(value: float) -> str:
    """At most five letters: 950, 1.2k, 30M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _scale(top: float) -> list[Markup]:
    """Horizontal lines at zero, half and all of `top`, with labels."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + PLOT_HEIGHT * (1 - share)
        parts.append(_line("scale", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 5, y + 4, short_number(share * top), "left"))
    return parts


def _ticks(ticks: Sequence[Tick]) -> list[Markup]:
    """Labels below, kept inside the chart."""
    parts = []
    for at, label in ticks:
        half = len(label) * LETTER / 2
        x = min(max(LEFT + at * PLOT_WIDTH, half), WIDTH - half)
        parts.append(_text(x, HEIGHT - 6, label, "below"))
    return parts


def _text(x: float, y: float, label: str, kind: str) -> Markup:
    return element("text", label, class_=kind, x=x, y=y, text_anchor="end" if kind == "left" else "middle")


def _line(kind: str, x: float, y: float, to_x: float, to_y: float) -> Markup:
    return element("line", class_=kind, x1=x, y1=y, x2=to_x, y2=to_y)


def _bar(x: float, y: float, width: float, height: float, said: str, opacity: float = 1.0) -> Markup:
    title = element("title", said)
    return element("rect", title, class_="bar", x=x, y=y, width=width, height=height, opacity=opacity)


def _box(x: float, width: float) -> Markup:
    return element("rect", class_="box", x=x, y=TOP, width=width, height=PLOT_HEIGHT)


def curves(lines: Sequence[tuple[str, Sequence[Point]]], title: str, across: str, level: float | None = None) -> Markup:
    """Named lines of points with intervals, and a `level` to compare with."""
    points = [point for _, line in lines for point in line]
    if not points:
        return Markup("")
    left, right = _stretched([point.x for point in points])
    bottom, top = _stretched([end for point in points for end in (point.low, point.high)] + [level or points[0].y])
    scale = _Scale(left, right, bottom, top)
    parts = [*scale.axes(across), *([] if level is None else [scale.level(level)])]
    for number, (name, line) in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        y = CURVE_HEIGHT - AXIS - 8 - 15 * (len(lines) - 1 - number)
        parts += scale.line(line, colour, dash)
        parts.append(element("text", name, x=WIDTH - LEFT, y=y, style=f"fill:{colour}", text_anchor="end"))
    return canvas(WIDTH, CURVE_HEIGHT, title, *parts)


def _stretched(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with some room around it."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _round_numbers(low: float, high: float) -> list[float]:
    """A few evenly spaced round numbers from `low` to `high`."""
    step = nice((high - low) / 4)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class _Scale:
    """Maps values to the drawing."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return AXIS + (value - self.left) / (self.right - self.left) * (WIDTH - AXIS - LEFT)

    def y(self, value: float) -> float:
        return (self.top - value) / (self.top - self.bottom) * (CURVE_HEIGHT - AXIS)

    def axes(self, across: str) -> list[Markup]:
        """Round numbers along each axis, with horizontal lines."""
        parts = [element("text", across, x=WIDTH / 2, y=CURVE_HEIGHT - 6, text_anchor="middle")]
        for y in _round_numbers(self.bottom, self.top):
            parts.append(element("path", class_="rule", d=self._across(y)))
            parts.append(element("text", f"{y:.3g}", x=0, y=self.y(y) + 4))
        for x in _round_numbers(self.left, self.right):
            parts.append(element("text", f"{x:.3g}", x=self.x(x), y=CURVE_HEIGHT - AXIS + 16, text_anchor="middle"))
        return parts

    def level(self, value: float) -> Markup:
        return element("path", element("title", f"{value:g}"), class_="level", d=self._across(value))

    def line(self, line: Sequence[Point], colour: str, dash: str) -> list[Markup]:
        places = " ".join(f"{self.x(point.x):.1f},{self.y(point.y):.1f}" for point in line)
        style = f"stroke:{colour};stroke-dasharray:{dash}"
        parts = [element("polyline", class_="line", style=style, points=places)]
        for point in line:
            x, y = self.x(point.x), self.y(point.y)
            interval = element("path", class_="line", d=f"M{x:.1f} {self.y(point.low):.1f}V{self.y(point.high):.1f}")
            said = element("title", f"{point.label}: {point.y:.4g} [{point.low:.4g}, {point.high:.4g}]")
            dot = element("circle", cx=x, cy=y, r=4)
            parts.append(element("g", interval, dot, said, style=f"stroke:{colour};fill:{colour}"))
            parts.append(element("text", point.label, x=x + 7, y=y - 6))
        return parts

    def _across(self, value: float) -> str:
        return f"M{AXIS} {self.y(value):.1f}H{WIDTH - LEFT}"
