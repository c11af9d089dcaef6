"""Kept tokens are drawn where docs/output.md says that they lie."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.reporting.drawing import Picture, counts, draw

JPEG = Picture(b"not looked at", 200, 100)


def panel(rows, columns, top=0.0, left=0.0, bottom=1.0, right=1.0) -> dict:
    return {"rows": rows, "columns": columns, "top": top, "left": left, "bottom": bottom, "right": right}


def rectangles(drawing, kind: str) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height of the marks of a kind."""
    found = []
    for path in ElementTree.fromstring(str(drawing)).iter("path"):
        if path.get("class") == kind:
            found += re.findall(r"M(\S+) (\S+?)h(\S+?)v(\S+?)h", path.get("d"))
    return [tuple(map(float, each)) for each in found]


PANELS = st.builds(
    panel, st.integers(1, 6), st.integers(1, 6), st.floats(-0.1, 0.4), st.floats(-0.1, 0.4), st.floats(0.5, 1.1),
    st.floats(0.5, 1.1),
)  # fmt: skip


@given(grid=st.lists(PANELS, min_size=1, max_size=3), data=st.data())
def test_each_token_is_where_the_document_says(grid, data):
    total = sum(each["rows"] * each["columns"] for each in grid)
    kept = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    cues = [1] * len(kept)
    drawing = draw(JPEG, {"kept_indices": kept, "kept_cues": cues, "grid": grid}, "d")
    found = rectangles(drawing, "text whole") + rectangles(drawing, "text")
    assert found == [pytest.approx(documented(t, grid), rel=2e-3, abs=1e-3) for t in kept]
    first = grid[0]["rows"] * grid[0]["columns"] if len(grid) > 1 else 0
    assert len(rectangles(drawing, "text whole")) == sum(t < first for t in kept)


def documented(t: int, grid: list[dict]) -> tuple[float, float, float, float]:
    """By what docs/output.md says of `grid`."""
    for panel in grid:
        count = panel["rows"] * panel["columns"]
        if t < count:
            height = (panel["bottom"] - panel["top"]) / panel["rows"]
            width = (panel["right"] - panel["left"]) / panel["columns"]
            y = panel["top"] + t // panel["columns"] * height
            x = panel["left"] + t % panel["columns"] * width
            break
        t -= count
    return 200 * x, 100 * y, 200 * width, 100 * height


def test_each_cue_has_its_own_mark():
    row = {"kept_indices": [0, 1, 2, 3, 5], "kept_cues": [0, 1, 2, 3, 1], "grid": [panel(2, 3)]}
    drawing = draw(JPEG, row, "d")
    found = {kind: len(rectangles(drawing, kind)) for kind in ("neither", "text", "saliency", "both", "kept")}
    assert found == {"neither": 1, "text": 2, "saliency": 1, "both": 1, "kept": 0}
    assert counts(row) == [("text", 2), ("both", 1), ("saliency", 1), ("neither", 1)]


@pytest.mark.parametrize("cues", [None, [], [None, None], [7, -1]])
def test_where_no_cue_is_known_tokens_are_kept_and_no_more(cues):
    row = {"kept_indices": [0, 3], "kept_cues": cues, "grid": [panel(2, 2)]}
    assert len(rectangles(draw(JPEG, row, "d"), "kept")) == 2 and counts(row) == [("kept", 2)]


def test_what_is_not_kept_is_dim_but_for_the_kept():
    drawing = ElementTree.fromstring(str(draw(JPEG, {"kept_indices": [1], "grid": [panel(1, 2)]}, "name")))
    [mask] = drawing.iter("mask")
    [dim] = [each for each in drawing.iter("rect") if each.get("class") == "dim"]
    assert dim.get("mask") == "url(#name-seen)" and mask.get("id") == "name-seen"
    [hole] = mask.iter("path")
    assert hole.get("d") == "M100 0h100v100h-100z"


@pytest.mark.parametrize(
    "row",
    [
        {}, {"kept_indices": None, "grid": None}, {"kept_indices": [5], "grid": []},
        {"kept_indices": [99], "grid": [panel(2, 2)]}, {"kept_indices": [-1], "grid": [panel(2, 2)]},
        {"kept_indices": [], "kept_cues": [], "grid": [panel(2, 2)]},
    ],
)  # fmt: skip
def test_a_label_that_says_nothing_or_nonsense_is_an_image_without_marks(row):
    for picture in (JPEG, None):
        drawing = ElementTree.fromstring(str(draw(picture, row, "d")))
        assert not list(drawing.iter("path")) and len(list(drawing.iter("image"))) == (picture is not None)


def test_a_token_of_the_small_picture_is_half_dim():
    row = {"kept_indices": [0, 2], "grid": [panel(1, 1), panel(1, 2)]}
    [mask] = ElementTree.fromstring(str(draw(JPEG, row, "d"))).iter("mask")
    holes = [(path.get("fill"), path.get("d")) for path in mask.iter("path")]
    assert holes == [("#777", "M0 0h200v100h-200z"), ("#000", "M100 0h100v100h-100z")], "the sharp one on top"


@pytest.mark.parametrize(("rows", "columns", "size"), [(10, 20, "480 240"), (20, 10, "480 960"), (1, 90, "480 120")])
def test_without_a_picture_the_frame_has_the_shape_of_the_image(rows, columns, size):
    """The first panel is square whatever the image is; the second is as the image was."""
    drawing = ElementTree.fromstring(str(draw(None, {"grid": [panel(8, 8), panel(rows, columns)]}, "d")))
    assert drawing.get("viewBox") == f"0 0 {size}"
