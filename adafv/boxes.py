"""Where on the image the visual tokens lie that a label was made from. Needs nothing but the label's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Box(NamedTuple):
    """A rectangle, in fractions of the image's width and height from its top left corner.

    A token that lies partly on padding exceeds [0, 1] by that part.
    """

    left: float
    top: float
    right: float
    bottom: float


def label_boxes(row: Mapping[str, Any], image: int = 0) -> list[Box]:
    """The places of the visual tokens that were kept of an image, in the order of `kept_indices`.

        for row in pyarrow.parquet.read_table("out/labels").to_pylist():
            boxes = adafv.label_boxes(row)

    Args:
        row: of `labels/`, by column: `kept_indices`, `grid`, and where there are several images `images`. Lists may be
            Python's or numpy's, as pandas has them.
        image: which of the row's images, from 0.

    Raises:
        IndexError: the row has no such image.
        ValueError: nobody knows where the model's tokens lie, so that the image has no grid; or a kept token lies
            outside of it, which no label that the job wrote has.
    """
    panels, kept = _of_image(row, image)
    if kept and not panels:
        raise ValueError(f"image {image} has no grid: where this model's visual tokens lie isn't known")
    boxes = []
    for token in kept:
        found = token_box(panels, token)
        if found is None:
            raise ValueError(f"kept token {token} of image {image} is outside its grid")
        boxes.append(found[1])
    return boxes


def token_box(panels: Sequence[Mapping[str, Any]], token: int) -> tuple[int, Box] | None:
    """The number of the panel that a token lies in, and the token's place; None where the panels have no such token.

    Args:
        panels: of a label's `grid`; their tokens are counted one panel after the other, row by row.
    """
    if token < 0:
        return None
    for number, panel in enumerate(panels):
        rows, columns = panel["rows"], panel["columns"]
        if token < rows * columns:
            height, width = (panel["bottom"] - panel["top"]) / rows, (panel["right"] - panel["left"]) / columns
            row, column = divmod(token, columns)
            left, top = panel["left"] + column * width, panel["top"] + row * height
            return number, Box(left, top, left + width, top + height)
        token -= rows * columns
    return None


def _of_image(row: Mapping[str, Any], number: int) -> tuple[list[Mapping[str, Any]], list[int]]:
    """The panels of one of the row's images, and its kept tokens, counted from its own first."""
    panels, kept = _list(row["grid"]), [int(token) for token in _list(row["kept_indices"])]
    images = row.get("images")
    if images is None:  # a label from before there were several, or a row without the column
        images = [{"panels": len(panels), "visual_tokens": 0, "kept_tokens": len(kept)}]
    if not 0 <= number < len(images):
        raise IndexError(f"the row has {len(images)} images, and no image {number}")
    before, one = images[:number], images[number]
    first, start, skipped = (sum(each[name] for each in before) for name in ("panels", "visual_tokens", "kept_tokens"))
    tokens = [token - start for token in kept[skipped : skipped + one["kept_tokens"]]]
    return panels[first : first + one["panels"]], tokens


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)
