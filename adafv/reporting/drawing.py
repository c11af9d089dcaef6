"""What the model looked at: an image with its kept tokens, as SVG. Elsewhere the image is dimmed. A token has the
colour of the cue it was kept for. If a model sees an image both whole and in crops, the tokens of the whole image
are outlines, since they cover the same places."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from adafv.boxes import token_box
from adafv.reporting.svg import canvas, element

CUES = ("neither", "text", "saliency", "both")  # by number, as in the labels' column `kept_cues`
UNKNOWN = "kept"  # the cue is unknown
WIDTH = 480  # units of a drawing without an image
TALLEST = 4.0  # the most extreme proportion


@dataclass(frozen=True)
class Picture:
    """A thumbnail, as JPEG."""

    data: bytes
    width: int
    height: int


def draw(picture: Picture | None, row: Mapping[str, Any], name: str) -> Markup:
    """The drawing of a label, or of a reject, which kept nothing.

    Args:
        row: has `kept_indices`, `kept_cues`, `grid` and `images`, which may be null. The first of several images is
            drawn.
        name: unique on the page.
    """
    row = _first(row)
    grid = row.get("grid") or []
    width, height = (picture.width, picture.height) if picture else _size(grid)
    parts = [element("rect", class_="nothing", width=width, height=height)]
    if picture is not None:
        data = f"data:image/jpeg;base64,{b64encode(picture.data).decode()}"
        parts = [element("image", width=width, height=height, href=data)]
    paths = _paths(row, grid, width, height)
    if paths:
        seen = [(shape, whole) for (_, whole), shape in sorted(paths.items())]
        parts.append(_dimmed(seen, width, height, f"{name}-seen"))
        parts.append(_marks(paths))
    label = f"{len(row.get('kept_indices') or [])} kept tokens over the image" if paths else "the image"
    return canvas(width, height, label, *parts, class_="drawing")


def first_look(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row as its first look kept tokens; their cues are unknown."""
    kept, start, images = row["first_kept_indices"] or [], 0, []
    for image in row.get("images") or []:
        end = start + image["visual_tokens"]
        images.append({**image, "kept_tokens": sum(start <= index < end for index in kept)})
        start = end
    return {**row, "kept_indices": kept, "kept_cues": None, "images": images or None}


def _first(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its first image only."""
    first, *others = row.get("images") or [None]
    if not others:
        return row
    lists = {name: (row[name] or [])[: first["kept_tokens"]] for name in ("kept_indices", "kept_cues")}
    return {**row, **lists, "grid": (row["grid"] or [])[: first["panels"]]}


def counts(row: Mapping[str, Any]) -> list[tuple[str, int]]:
    """How many tokens were kept for each cue, without zeros."""
    found: dict[str, int] = defaultdict(int)
    for _, cue in _kept(row):
        found[cue] += 1
    return [(cue, found[cue]) for cue in ("text", "both", "saliency", "neither", UNKNOWN) if found[cue]]


def _kept(row: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The kept tokens, each with its cue."""
    indices = row.get("kept_indices") or []
    cues = row.get("kept_cues") or [None] * len(indices)
    for index, cue in zip(indices, cues, strict=False):
        yield index, UNKNOWN if cue is None or not 0 <= cue < len(CUES) else CUES[cue]


def _paths(row: Mapping[str, Any], grid: list[dict[str, Any]], width: int, height: int) -> dict[tuple[str, bool], str]:
    """The outlines of the kept tokens, by cue and by whether they belong to the whole image."""
    found: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for index, cue in _kept(row):
        place = token_box(grid, index)
        if place is not None:
            panel, box = place
            x, y, across, down = (
                f"{value:.4g}"
                for value in (
                    box.left * width, box.top * height, (box.right - box.left) * width, (box.bottom - box.top) * height,
                )
            )  # fmt: skip
            found[cue, panel == 0 and len(grid) > 1].append(f"M{x} {y}h{across}v{down}h-{across}z")
    return {key: "".join(shapes) for key, shapes in found.items()}


def _dimmed(seen: list[tuple[str, bool]], width: int, height: int, name: str) -> Markup:
    """Hides the image where no token was kept, and half hides it where one of the whole image was."""
    holes = [
        element("path", d=shape, fill="#777" if whole else "#000")
        for shape, whole in sorted(seen, key=lambda each: not each[1])
    ]
    mask = element("mask", element("rect", width=width, height=height, fill="#fff"), *holes, id=name)
    return mask + element("rect", class_="dim", width=width, height=height, mask=f"url(#{name})")


def _marks(paths: Mapping[tuple[str, bool], str]) -> Markup:
    """The tokens' outlines, those of the whole image below."""
    marks = [
        element("path", class_=f"{cue} whole" if whole else cue, d=shape)
        for (cue, whole), shape in sorted(paths.items(), key=lambda item: not item[0][1])
    ]
    return element("g", *marks, class_="marks")


def _size(grid: list[dict[str, Any]]) -> tuple[int, int]:
    """The size of a drawing without an image, in the image's proportions: tokens are square."""
    if not grid:
        return WIDTH, WIDTH * 5 // 8
    panel = grid[-1]
    across = panel["columns"] / max(panel["right"] - panel["left"], 1e-6)
    down = panel["rows"] / max(panel["bottom"] - panel["top"], 1e-6)
    return WIDTH, round(WIDTH * min(max(down / max(across, 1e-6), 1 / TALLEST), TALLEST))
