"""Kept tokens as boxes, held against grids that are worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

import adafv
from adafv.boxes import Box, label_boxes, token_box


def panel(rows: int, columns: int, left=0.0, top=0.0, right=1.0, bottom=1.0) -> dict:
    return {"rows": rows, "columns": columns, "top": top, "left": left, "bottom": bottom, "right": right}


# A base crop of 2 x 2 tokens, and a picture of 2 rows and 4 columns whose lowest tokens lie half on padding.
BASE, WHOLE = panel(2, 2), panel(2, 4, bottom=1.25)


@pytest.mark.parametrize(
    ("grid", "kept", "boxes"),
    [
        ([panel(1, 1)], [0], [(0, 0, 1, 1)]),
        ([panel(2, 4)], [0, 3, 6], [(0, 0, 0.25, 0.5), (0.75, 0, 1, 0.5), (0.5, 0.5, 0.75, 1)]),
        ([BASE, WHOLE], [3, 4, 11], [(0.5, 0.5, 1, 1), (0, 0, 0.25, 0.625), (0.75, 0.625, 1, 1.25)]),
        ([panel(1, 2, left=0.5, top=0.5)], [0, 1], [(0.5, 0.5, 0.75, 1), (0.75, 0.5, 1, 1)]),
        ([panel(1, 2)], [], []),
        (None, None, []),
    ],
)
def test_boxes_by_hand(grid, kept, boxes):
    assert label_boxes({"grid": grid, "kept_indices": kept}) == boxes
    assert label_boxes({"grid": grid, "kept_indices": kept, "images": None}) == boxes


def test_tokens_whose_places_nobody_knows():
    with pytest.raises(ValueError, match="no grid"):
        label_boxes({"grid": [], "kept_indices": [1]})


def test_a_box_has_names():
    [box] = label_boxes({"grid": [panel(2, 4)], "kept_indices": [6]})
    assert (box.left, box.top, box.right, box.bottom) == box == Box(0.5, 0.5, 0.75, 1)


SEVERAL = {
    "grid": [BASE, WHOLE, panel(1, 2), panel(3, 1)],
    "kept_indices": [0, 5, 13, 14, 16],
    "images": [
        {"image": "a", "panels": 2, "visual_tokens": 12, "kept_tokens": 2},
        {"image": "b", "panels": 1, "visual_tokens": 2, "kept_tokens": 1},
        {"image": "c", "panels": 1, "visual_tokens": 3, "kept_tokens": 2},
    ],
}


def test_each_image_has_its_own():
    assert label_boxes(SEVERAL) == [(0, 0, 0.5, 0.5), (0.25, 0, 0.5, 0.625)]
    assert label_boxes(SEVERAL, image=1) == [(0.5, 0, 1, 1)]
    assert label_boxes(SEVERAL, image=2) == [
        pytest.approx((0, 0, 1, 1 / 3)),
        pytest.approx((0, 2 / 3, 1, 1)),
    ]
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"has 3 images, and no image {wrong}"):
            label_boxes(SEVERAL, image=wrong)


def test_a_prompt_without_an_image_has_no_image():
    with pytest.raises(IndexError, match="has 0 images"):
        label_boxes({"grid": [], "kept_indices": [], "images": []})


def test_what_no_job_writes_is_refused():
    with pytest.raises(ValueError, match="kept token 8 of image 0 is outside its grid"):
        label_boxes({"grid": [panel(2, 4)], "kept_indices": [8]})
    assert token_box([panel(2, 4)], -1) is None and token_box([], 0) is None


def test_rows_of_pandas_and_numpy():
    lists = {name: [np.array(value, dtype=object)] for name, value in SEVERAL.items()}
    lists["kept_indices"] = [np.array(SEVERAL["kept_indices"], dtype=np.int32)]
    row = pandas.DataFrame(lists).iloc[0]
    assert [label_boxes(row, image) for image in range(3)] == [label_boxes(SEVERAL, image) for image in range(3)]


def test_a_panels_tokens_tile_it():
    grid = [panel(3, 5, left=0.1, top=0.2, right=0.9, bottom=0.8)]
    boxes = label_boxes({"grid": grid, "kept_indices": list(range(15))})
    assert sum((box.right - box.left) * (box.bottom - box.top) for box in boxes) == pytest.approx(0.8 * 0.6)
    assert min(box.left for box in boxes) == 0.1 and max(box.bottom for box in boxes) == pytest.approx(0.8)


def test_it_is_there_without_torch_or_ray():
    assert adafv.label_boxes is label_boxes
