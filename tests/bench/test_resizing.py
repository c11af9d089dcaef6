"""Pictures made smaller instead of pruned: how small, and that the model sees them as it would."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from adafv.bench.exam import hold
from adafv.bench.examples import Scenes
from adafv.bench.quality import contenders
from adafv.bench.resizing import Resizer, interpolate, of_one_shape
from adafv.embedded import embedded_model
from adafv.engine import EngineOptions, load_model
from adafv.pipeline.sources.rows import Row, RowImage
from tests.bench.test_quality import OPTIONS, setting


@pytest.fixture(scope="module")
def testbed():
    return load_model(str(embedded_model("testbed")), OPTIONS)


def row(width: int, height: int) -> Row:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(data, format="PNG")
    return Row("r", "r.png", (RowImage("r.png", data=data.getvalue()),), question="what?", prompt="what?")


@pytest.mark.parametrize(
    ("width", "height", "keep", "patches"),
    [
        (96, 96, 0.5, (6, 6)),  # of 180 tokens 90: a crop has 36
        (96, 96, 0.1, (4, 4)),
        (96, 96, 0.05, (3, 3)),
        (96, 96, 0.001, (1, 1)),
        (96, 96, 0.12, (4, 5)),  # 22
    ],
)
def test_a_crop_has_as_many_patches_as_the_budget_allows(testbed, width, height, keep, patches):
    _, processing = testbed
    resizer = Resizer(processing, EngineOptions(strategy="none", keep=keep), 10**6)
    [image] = resizer(row(width, height)).images
    rows, columns = patches
    assert image.crops.shape == (1, 3, 8 * rows, 8 * columns) and image.visual_tokens == rows * columns
    assert resizer.processing.geometry(image.size).visual_tokens == rows * columns


def test_a_batchs_crops_are_of_one_shape(testbed):
    """An accelerator encodes them together."""
    _, processing = testbed
    resizer = Resizer(processing, EngineOptions(strategy="none", keep=0.05), 10**6)
    samples = [resizer(row(*size)) for size in ((96, 96), (96, 24), (96, 96), (24, 96))]
    shapes = [sample.images[0].crops.shape for sample in samples]
    assert shapes[0] == shapes[2] != shapes[1]
    parts = of_one_shape(samples, [[3, 2, 1], [0]])
    assert sorted(place for part in parts for place in part) == [0, 1, 2, 3] and [0] in parts
    assert all(len({shapes[place] for place in part}) == 1 for part in parts)


def test_a_tower_sees_crops_of_its_own_size_as_before():
    adapter, _ = load_model(str(embedded_model("testbed")), OPTIONS)
    crops = torch.from_numpy(np.random.default_rng(0).integers(256, size=(1, 3, 48, 48), dtype=np.uint8))
    before = adapter.encode(crops).tokens
    with pytest.raises(ValueError, match="size"):
        adapter.encode(crops[:, :, :32, :24])
    interpolate(adapter)
    assert torch.equal(adapter.encode(crops).tokens, before)
    assert adapter.encode(crops[:, :, :32, :24]).tokens.shape[:2] == (1, 12)


def test_it_is_a_row_like_a_strategys():
    rivals = contenders(OPTIONS, ["resize", "random"], [0.5, 0.05])
    assert [(one.name, one.options.keep, one.resized) for one in rivals[1:3]] == [
        ("resize", 0.5, True), ("resize", 0.05, True),
    ]  # fmt: skip
    results = hold(setting(rivals), Scenes(2, 7000).examples())
    assert [results.kept_tokens[:, column].max() for column in (1, 2)] == [36, 9]
    right = results.points[results.of_type("all")].mean(axis=0)
    assert right[0] > right[1] > right[2]
    alone = hold(setting([rivals[0], rivals[3]]), Scenes(2, 7000).examples())
    assert (alone.points == results.points[:, [0, 3]]).all(), "it changes nothing for the others"
