"""The measures, against values worked out by hand."""

from __future__ import annotations

import pytest

from adafv.bench.metrics import anls, contains, exact, normalise, vqa


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat.", "cat"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("3.5 m.", "3.5 m"),
        (".5", ".5"),
        ("1,000,978", "1000978"),
        ("red, green", "red green"),
        ("stop-sign!", "stop sign"),
        ("dont know", "don't know"),
        ("girl's", "girl's"),
        ("well", "well"),  # not we'll
        ("2:50 pm", "2:50 pm"),
        ("5%", "5%"),
        ("A", "a"),  # a choice's letter, not an article
        ("a an", "a an"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_exact():
    assert exact("The cat.", ["dog", "cat"]) == 1.0
    assert exact("cats", ["cat"]) == exact("", ["cat"]) == 0.0


@pytest.mark.parametrize(
    ("saying", "expected"),
    # Of ten annotators m say it. Leaving out one of these leaves m - 1, one of the others m: m/10 · min((m-1)/3, 1) +
    # (10-m)/10 · min(m/3, 1).
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_leaves_out_each_annotator_in_turn(saying, expected):
    references = ["Two."] * saying + [f"other {i}" for i in range(10 - saying)]
    assert vqa("2", references) == pytest.approx(expected)


def test_vqa_needs_enough_annotators():
    with pytest.raises(ValueError, match="3 references"):
        vqa("yes", ["yes"] * 3)
    assert vqa("yes", ["yes"] * 4) == 1.0


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Hello  World", ["hello world"], 1.0),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("kitten", ["mittens", "sitting"], 1 - 2 / 7),  # the nearest
        ("abcd", ["abxy"], 0.0),  # a half is too far
        ("abc", ["abxy"], 0.0),
        ("", ["x"], 0.0),
        ("2.", ["two"], 0.0),  # not normalised
    ],
)
def test_anls(answer, references, expected):
    assert anls(answer, references) == pytest.approx(expected)


def test_contains_looks_for_whole_words():
    assert contains("It is a stop sign.", ["go", "Stop sign"]) == 1.0
    assert contains("10", ["1"]) == contains("stop the sign now", ["sign stop"]) == 0.0
