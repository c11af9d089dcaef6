"""Charts as SVG, drawn in the page's own colours, so that they follow its light and its dark form.

Each is wide 100 units of its page's width and says its figures to who points at it, and to who can't see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 160
LEFT, BOTTOM = 8, 20  # room for the labels below

Bar = tuple[str, float]  # its label and its value

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


def columns(bars: Sequence[Bar], title: str, unit: str, labels: int = 6) -> Markup:
    """Bars side by side, of which about `labels` are named below."""
    if not bars:
        return Markup("")
    top = max(value for _, value in bars) or 1.0
    width = (WIDTH - 2 * LEFT) / len(bars)
    step = max(1, -(-len(bars) // labels))
    parts = []
    for place, (label, value) in enumerate(bars):
        x, height = LEFT + place * width, value / top * (HEIGHT - BOTTOM)
        parts.append(
            Markup(
                '<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}: {} {}</title></rect>'
            ).format(x, HEIGHT - BOTTOM - height, max(width - 1, 0.5), height, label, _number(value), unit)
        )
        if place % step == 0:
            parts.append(Markup('<text x="{:.2f}" y="{}">{}</text>').format(x, HEIGHT - 5, label))
    return _svg(parts, title, HEIGHT)


def rows(bars: Sequence[Bar], title: str, unit: str) -> Markup:
    """Bars below each other, each with its name and its value."""
    if not bars:
        return Markup("")
    top, height = max(value for _, value in bars) or 1.0, 26
    parts = []
    for place, (label, value) in enumerate(bars):
        y = place * height
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{:.2f}" height="8" rx="3"></rect>').format(
                LEFT, y + 15, max(value / top * (WIDTH - 2 * LEFT), 1)
            )
        )
        parts.append(Markup('<text x="{}" y="{}">{}: {} {}</text>').format(LEFT, y + 11, label, _number(value), unit))
    return _svg(parts, title, height * len(bars))


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
        """Four numbers along each axis, and lines at those upwards."""
        parts = [
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(WIDTH / 2, CURVE_HEIGHT - 6, across)
        ]
        for step in range(4):
            x, y = (low + (step + 0.5) / 4 * (high - low) for low, high in
                    ((self.left, self.right), (self.bottom, self.top)))  # fmt: skip
            parts.append(
                Markup('<path class="rule" d="M{} {:.1f}H{}"></path><text x="0" y="{:.1f}">{:.3g}</text>').format(
                    AXIS, self.y(y), WIDTH - LEFT, self.y(y) + 4, y
                )
            )
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


def _number(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
