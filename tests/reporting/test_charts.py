"""Charts say what they were given, within their frame."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.reporting import charts

VALUES = st.one_of(st.floats(0, 1e12), st.just(0.0), st.none())


def parsed(drawing) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawing))


@given(st.lists(st.tuples(st.text("ab<&\"'>", max_size=9), VALUES), max_size=40))
def test_columns_are_as_high_as_their_values(bars):
    drawing = charts.columns(bars, "t", "u", [])
    values = [value for _, value in bars if value is not None]
    if not values:
        assert not drawing
        return
    found = [each for each in parsed(drawing).iter("rect") if each.get("class") == "bar"]
    heights = np.array([float(each.get("height")) for each in found])
    assert heights == pytest.approx(np.array(values) / charts.nice(max(values)) * charts.PLOT_HEIGHT, abs=0.01)
    assert heights.max() <= charts.PLOT_HEIGHT + 0.01
    assert all(float(each.get("x")) >= charts.LEFT for each in found)


@given(st.floats(1e-9, 1e15))
def test_a_scale_ends_not_far_above_its_greatest(value):
    assert value <= charts.nice(value) * (1 + 1e-6) <= 1.7 * value


def test_rows_say_name_value_and_share():
    text = " ".join(parsed(charts.rows([("encode", 1.5), ("<b>", 4.5)], "t", "ms")).itertext())
    assert "encode" in text and "1.5 ms, 25%" in text and "<b>" in text and "4.5 ms, 75%" in text


def test_a_heat_map_has_a_cell_for_what_there_is_and_sums_beside_it():
    counts = np.zeros((4, 5), int)
    counts[1, 2], counts[3, 2], counts[3, 4] = 10, 20, 5
    drawing = parsed(charts.heat_map(counts, [(0.0, "0")], [(0.0, "0")], "t", "samples"))
    bars = [each for each in drawing.iter("rect") if each.get("class") == "bar"]
    said = [each.find("title").text for each in bars]
    assert said == [
        "10 samples",
        "20 samples",
        "5 samples",
        "0 samples",
        "0 samples",
        "30 samples",
        "0 samples",
        "5 samples",
    ]
    assert [each.get("opacity") for each in bars[:3]] == ["0.57", "1.00", "0.36"]
    assert not charts.heat_map(np.zeros((2, 2), int), [], [], "t", "u")


def test_labels_do_not_leave_the_chart():
    ticks = [(0.0, "2026-11-01"), (1.0, "2026-11-30")]
    drawing = parsed(charts.columns([("a", 1.0)], "t", "u", ticks))
    places = [float(each.get("x")) for each in drawing.iter("text") if each.get("class") == "below"]
    half = 10 * charts.LETTER / 2
    assert len(places) == 2 and min(places) - half >= 0 and max(places) + half <= charts.WIDTH


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (950, "950"), (1200, "1.2k"), (3e7, "30M"), (0.25, "0.25")])
def test_short_numbers(value, said):
    assert charts.short_number(value) == said


def test_what_a_label_says_is_text():
    for drawing in (
        charts.columns([("<script>", 1)], "<i>", "<u>", [(0.5, "<i>")]),
        charts.rows([("<script>", 1)], "\"'>", "<u>"),
    ):
        assert not re.search(r"<(script|i|u)>", str(drawing))
        parsed(drawing)
