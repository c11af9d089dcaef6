"""Charts as SVG, drawn in the page's own colours, so that they follow its light and its dark form.

They are as wide as a phone's page and are shown at about that size everywhere, so that their labels can be read. Each
says its figures to who points at it, and to who can't see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 14, 22  # room for the labels
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LETTER = 6.5  # width of a label's letter, about
ROW = 34  # height of one of `rows`

Bar = tuple[str, float | None]  # its label and its value; None leaves a gap
Tick = tuple[float, str]  # where on an axis, as a fraction of it, and what it says

# Lines are told apart by their colour and their dashes: Paul Tol's "bright" and black's stand-in, the page's own ink.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "currentColor")
DASHES = ("none", "6 3", "2 3", "8 3 2 3")
CURVE_HEIGHT, AXIS = 300, 44  # room for the numbers of an axis


@dataclass(frozen=True)
class Point:
    """A point of a line: where it is, its interval upwards, and what it is called."""

    x: float
    y: float
    low: float
    high: float
    label: str


def columns(
    bars: Sequence[Bar],
    title: str,
    unit: str,
    ticks: Sequence[Tick] | None = None,
    marks: Sequence[Tick] = (),
) -> Markup:
    """Bars side by side. `ticks` stand below; without any, some of the bars' labels. `marks` are lines across."""
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
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}: {} {}</title></rect>'
            ).format(x, TOP + PLOT_HEIGHT - height, max(width - 1, 0.6 * width), height, label, number(value), unit)
        )
    parts += _ticks(_labels(bars) if ticks is None else ticks)
    for at, label in marks:
        x = LEFT + at * PLOT_WIDTH
        parts.append(_line("mark", x, TOP, x, TOP + PLOT_HEIGHT))
        parts.append(_text(x, TOP - 4, label, "mark"))
    return _svg(parts, title, HEIGHT)


def rows(bars: Sequence[Bar], title: str, unit: str) -> Markup:
    """Bars below each other, each with its name, its value and its share of all."""
    values = [value or 0.0 for _, value in bars]
    if not bars:
        return Markup("")
    top, total = max(values) or 1.0, sum(values)
    parts = []
    for place, ((label, _), value) in enumerate(zip(bars, values, strict=True)):
        y = place * ROW
        share = f", {value / total:.0%}" if total else ""
        parts.append(Markup('<text class="row" x="0" y="{}">{}</text>').format(y + 13, label))
        parts.append(
            Markup('<text class="row" x="{}" y="{}" text-anchor="end">{}{}</text>').format(
                WIDTH, y + 13, f"{number(value)} {unit}".rstrip(), share
            )
        )
        parts.append(Markup('<rect class="track" x="0" y="{}" width="{}" height="7" rx="3.5"/>').format(y + 19, WIDTH))
        parts.append(
            Markup('<rect class="bar" x="0" y="{}" width="{:.2f}" height="7" rx="3.5"/>').format(
                y + 19, max(value / top * WIDTH, 3)
            )
        )
    return _svg(parts, title, ROW * len(bars))


def heat_map(counts: np.ndarray, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], title: str, unit: str) -> Markup:
    """int [X, Y]: cells the darker the more there are, the first of Y at the bottom, and beside them what each of Y has
    in all. Ticks are of the axes' whole lengths."""
    if not counts.any():
        return Markup("")
    beside = 60
    across, up = counts.shape
    width, height = (PLOT_WIDTH - beside - 8) / across, PLOT_HEIGHT / up
    parts = [_text(LEFT - 5, TOP + PLOT_HEIGHT * (1 - at) + 4, label, "left") for at, label in y_ticks]
    for x, y in np.argwhere(counts).tolist():
        count = int(counts[x, y])
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" opacity="{:.2f}">'
                "<title>{} {}</title></rect>"
            ).format(
                LEFT + x * width, TOP + PLOT_HEIGHT - (y + 1) * height, width - 0.5, height - 0.5,
                0.15 + 0.85 * count / counts.max(), number(count), unit,
            )
        )  # fmt: skip
    parts += [_box(LEFT, PLOT_WIDTH - beside - 8), _box(WIDTH - RIGHT - beside, beside)]
    totals = counts.sum(axis=0)
    for y, total in enumerate(totals.tolist()):
        parts.append(
            Markup(
                '<rect class="bar" x="{}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{} {}</title></rect>'
            ).format(
                WIDTH - RIGHT - beside, TOP + PLOT_HEIGHT - (y + 1) * height, total / totals.max() * beside,
                height - 0.5, number(total), unit,
            )
        )  # fmt: skip
    share = (PLOT_WIDTH - beside - 8) / PLOT_WIDTH
    parts += _ticks([(at * share, label) for at, label in x_ticks])
    parts.append(_text(WIDTH - RIGHT - beside / 2, HEIGHT - 6, "all", "below"))
    return _svg(parts, title, HEIGHT)


def nice(value: float) -> float:
    """The next number of one or two digits, and of even halves, that is not below `value`; 1 for as good as nothing."""
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


def _labels(bars: Sequence[Bar]) -> list[Tick]:
    """Of so many bars as there is room for, from the first on."""
    longest = max(len(label) for label, _ in bars)
    step = max(1, -(-len(bars) * round(longest * LETTER + 10) // PLOT_WIDTH))
    return [((place + 0.5) / len(bars), label) for place, (label, _) in enumerate(bars) if place % step == 0]


def _scale(top: float) -> list[Markup]:
    """Lines across at nothing, half and all of `top`, with what they stand for."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + PLOT_HEIGHT * (1 - share)
        parts.append(_line("scale", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 5, y + 4, short_number(share * top), "left"))
    return parts


def _ticks(ticks: Sequence[Tick]) -> list[Markup]:
    """Labels below, none of which leaves the chart."""
    parts = []
    for at, label in ticks:
        half = len(label) * LETTER / 2
        x = min(max(LEFT + at * PLOT_WIDTH, half), WIDTH - half)
        parts.append(_text(x, HEIGHT - 6, label, "below"))
    return parts


def _text(x: float, y: float, label: str, kind: str) -> Markup:
    anchor = {"left": "end"}.get(kind, "middle")
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, label)


def _line(kind: str, x: float, y: float, to_x: float, to_y: float) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}" y1="{:.2f}" x2="{:.2f}" y2="{:.2f}"/>').format(kind, x, y, to_x, to_y)


def _box(x: float, width: float) -> Markup:
    return Markup('<rect class="box" x="{}" y="{}" width="{:.2f}" height="{}"/>').format(x, TOP, width, PLOT_HEIGHT)


def curves(lines: Sequence[tuple[str, Sequence[Point]]], title: str, across: str, level: float | None = None) -> Markup:
    """Lines of points with their intervals, a name for each, and a `level` that they are held against."""
    points = [point for _, line in lines for point in line]
    if not points:
        return Markup("")
    left, right = _stretched([point.x for point in points])
    bottom, top = _stretched([end for point in points for end in (point.low, point.high)] + [level or points[0].y])
    scale = _Scale(left, right, bottom, top)
    parts = [*scale.axes(across), *([] if level is None else [scale.level(level)])]
    for number, (name, line) in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        parts += scale.line(line, colour, dash)
        parts.append(
            Markup('<text x="{}" y="{}" style="fill:{}" text-anchor="end">{}</text>').format(
                WIDTH - LEFT, CURVE_HEIGHT - AXIS - 8 - 15 * (len(lines) - 1 - number), colour, name
            )
        )
    return _svg(parts, title, CURVE_HEIGHT)


def _stretched(values: Sequence[float]) -> tuple[float, float]:
    """From somewhat below the least to somewhat above the greatest."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _round_numbers(low: float, high: float) -> list[float]:
    """A few, evenly spaced, from `low` to `high`."""
    step = nice((high - low) / 4)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class _Scale:
    """Values to places on the drawing."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return AXIS + (value - self.left) / (self.right - self.left) * (WIDTH - AXIS - LEFT)

    def y(self, value: float) -> float:
        return (self.top - value) / (self.top - self.bottom) * (CURVE_HEIGHT - AXIS)

    def axes(self, across: str) -> list[Markup]:
        """Round numbers along each axis, and lines at those upwards."""
        parts = [
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(WIDTH / 2, CURVE_HEIGHT - 6, across)
        ]
        for y in _round_numbers(self.bottom, self.top):
            parts.append(
                Markup('<path class="rule" d="M{} {:.1f}H{}"></path><text x="0" y="{:.1f}">{:.3g}</text>').format(
                    AXIS, self.y(y), WIDTH - LEFT, self.y(y) + 4, y
                )
            )
        for x in _round_numbers(self.left, self.right):
            parts.append(
                Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:.3g}</text>').format(
                    self.x(x), CURVE_HEIGHT - AXIS + 16, x
                )
            )
        return parts

    def level(self, value: float) -> Markup:
        return Markup('<path class="level" d="M{} {:.1f}H{}"><title>{:g}</title></path>').format(
            AXIS, self.y(value), WIDTH - LEFT, value
        )

    def line(self, line: Sequence[Point], colour: str, dash: str) -> list[Markup]:
        places = Markup(" ").join(Markup("{:.1f},{:.1f}").format(self.x(point.x), self.y(point.y)) for point in line)
        style = Markup("stroke:{};stroke-dasharray:{}").format(colour, dash)
        parts = [Markup('<polyline class="line" style="{}" points="{}"></polyline>').format(style, places)]
        for point in line:
            x, y = self.x(point.x), self.y(point.y)
            parts.append(
                Markup(
                    '<g style="stroke:{};fill:{}"><path class="line" d="M{:.1f} {:.1f}V{:.1f}"></path>'
                    '<circle cx="{:.1f}" cy="{:.1f}" r="4"></circle><title>{}: {:.4g} [{:.4g}, {:.4g}]</title></g>'
                    '<text x="{:.1f}" y="{:.1f}">{}</text>'
                ).format(
                    colour, colour, x, self.y(point.low), self.y(point.high), x, y, point.label, point.y, point.low,
                    point.high, x + 7, y - 6, point.label,
                )
            )  # fmt: skip
        return parts


def _svg(parts: Sequence[Markup], title: str, height: int) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )
