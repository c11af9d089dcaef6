"""Elements of SVG drawings. Text is escaped."""

from __future__ import annotations

from markupsafe import Markup


def element(name: str, *inside: str, **attributes: str | float) -> Markup:
    """One with these `inside`. `class_` stands for class, and `text_anchor` for text-anchor."""
    given = (
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), f"{value:.2f}" if isinstance(value, float) else value
        )
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(given), Markup("").join(inside))


def canvas(width: int, height: int, title: str, *inside: str, **attributes: str) -> Markup:
    """A whole drawing, so many units wide and high; `title` is for screen readers."""
    return element("svg", *inside, **attributes, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)
