"""The chart: a picture that shows every strategy, or a line that says what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from adafv.bench import chart
from adafv.bench.examples import Scenes
from adafv.bench.quality import Contest, Entry
from adafv.pipeline.errors import UsageError


def entries(types=("all", "small", "caption"), strategies=11):
    names = [("none", 1.0), *((f"strategy {i}", keep) for i in range(strategies) for keep in (0.5, 0.1))]
    return [
        Entry(name, keep, type_, 40, 0.3 + keep / 2, 0.2 + keep / 2, 0.4 + keep / 2, 0, 0, 0, 1, 1, 10)
        for name, keep in names
        for type_ in types
    ]


def comparison(types) -> Contest:
    return Contest(source=Scenes(1, 0), model="testbed", entries=entries(types), skipped=[])


def test_a_panel_for_each_headline(tmp_path):
    widths = {}
    for types in (("all",), ("all", "small", "caption", "digit")):
        chart.draw([comparison(types)], tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as image:
            widths[types], pixels = image.width, np.asarray(image.convert("RGB"))
        assert image.format == "PNG" and (pixels[0] == 255).all(), "on a light background"
        for colour in chart.COLOURS:
            wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == wanted).all(axis=-1).any(), colour
    assert widths["all", "small", "caption", "digit"] > 1.5 * widths["all",]


def test_a_row_for_each_world(tmp_path):
    heights = []
    for count in (1, 2):
        chart.draw([comparison(("all",)), comparison(("all", "caption"))][:count], tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as image:
            heights.append(image.height)
    assert heights[1] > 1.8 * heights[0]


def test_agreement_over_cost_has_fixed_budgets_and_second_looks(tmp_path):
    def points(keep):
        return [{"agreement": 0.8 + share / 2, "prompt_tokens": 200 * (keep + share)} for share in (0, 0.2, 0.4)]

    curves = [{"keep": keep, "points": points(keep)} for keep in (0.5, 0.1)]
    world = {"world": "drawn", "rows": 40, "promise": {"unpruned": 200.0, "demand": 0.9}, "curves": curves}
    widths = []
    for worlds in ([world], [world, world]):
        chart.draw_agreement(worlds, tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        widths.append(image.width)
        for colour in ("#000000", *chart.COLOURS[:2]):
            assert (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).any(), colour
    assert widths[1] > 1.5 * widths[0], "a panel for each"


def test_the_line_is_at_the_agreement_that_was_demanded(tmp_path, monkeypatch):
    drawn, curve = [], {"keep": 0.1, "points": [{"agreement": 0.9, "prompt_tokens": 20.0}]}
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda axes, y, **kind: drawn.append(y))
    promises = [{"unpruned": 200.0, "demand": demand} for demand in (0.9, 0.98)]
    worlds = [{"world": "drawn", "rows": 40, "promise": promise, "curves": [curve]} for promise in promises]
    chart.draw_agreement(worlds, tmp_path / "chart.png")
    assert drawn == pytest.approx([90, 98])


def test_no_two_strategies_look_alike():
    looks = {(chart.COLOURS[i % len(chart.COLOURS)], chart.MARKERS[i % len(chart.MARKERS)]) for i in range(20)}
    assert len(looks) == 20


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    chart.require()
    monkeypatch.setattr(chart, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'adafv\[bench\]'"):
        chart.require()
