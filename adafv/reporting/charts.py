"""Charts as SVG, drawn in the page's own colours, so that they follow its light and its dark form.

Each is wide 100 units of its page's width and says its figures to who points at it, and to who can't see it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 640, 160
LEFT, BOTTOM = 8, 20  # room for the labels below

Bar = tuple[str, float]  # its label and its value


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


def _svg(parts: Sequence[Markup], title: str, height: int) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(parts)
    )


def _number(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
