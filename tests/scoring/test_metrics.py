"""The measures, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.scoring.metrics import (
    METRICS,
    anls,
    contains,
    exact,
    f1,
    normalise,
    references_of,
    rouge_l,
    vqa,
)


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


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The cat sat.", ["cat sat"], 1.0),  # no articles, no punctuation
        ("a red ball on the mat", ["the ball is red"], 2 * 2 / (4 + 3)),
        ("red red", ["red"], 2 * 1 / 3),  # a word said twice is right once
        ("sat cat", ["cat sat"], 1.0),  # in whatever order
        ("blue", ["red", "light blue"], 2 / 3),  # the nearest
        ("blue", ["red"], 0.0),
        ("", ["red"], 0.0),
        ("", [""], 1.0),
        ("the", ["a."], 1.0),  # nothing is left of either
    ],
)
def test_f1(answer, references, expected):
    assert f1(answer, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("police killed the gunman", ["police kill the gunman"], 3 / 4),  # Lin (2004)
        ("the gunman kill police", ["police kill the gunman"], 2 / 4),
        ("A cat, on a mat!", ["a cat on a mat"], 1.0),
        ("a cat on a mat", ["cat mat"], 2 * 2 / 7),  # others may stand between
        ("кошка спит", ["кошка не спит"], 4 / 5),
        ("red", ["blue", "RED"], 1.0),
        ("", ["red"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_rouge_l(answer, references, expected):
    assert rouge_l(answer, references) == pytest.approx(expected)


WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_by_its_definition(words, others):
    table = [[0] * (len(others) + 1) for _ in range(len(words) + 1)]
    for i, word in enumerate(words):
        for j, other in enumerate(others):
            table[i + 1][j + 1] = table[i][j] + 1 if word == other else max(table[i][j + 1], table[i + 1][j])
    f1 = 2 * table[-1][-1] / (len(words) + len(others)) if words or others else 1.0
    assert rouge_l(" ".join(words), [" ".join(others)]) == f1


def test_long_sequences_have_long_subsequences():
    """More words than a machine's word has bits."""
    words = [str(i) for i in range(500)]
    assert rouge_l(" ".join(words), [" ".join(words[::2])]) == 2 * 250 / 750
    assert rouge_l(" ".join(words), [" ".join(words[::-1])]) == 2 * 1 / 1000


@given(st.sampled_from([f1, rouge_l, exact]), st.text(max_size=30), st.text(max_size=30))
def test_symmetric_and_whole_for_equal_texts(measure, one, other):
    assert measure(one, [one]) == 1.0
    assert measure(one, [other]) == pytest.approx(measure(other, [one])) and 0 <= measure(one, [other]) <= 1


def test_all_measures_have_a_name():
    assert set(METRICS) == {"exact", "vqa", "anls", "contains", "f1", "rouge-l"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("red", ("red",)),
        (["red", "blue"], ("red", "blue")),
        ([{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, {"answer": "blue"}], ("red", "blue")),
        (3, ("3",)), (3.0, ("3",)), ([2.5, -1e3], ("2.5", "-1000")),
        (["", "red"], ("", "red")),
        (None, ()), ("", ()), ([], ()), (["", " "], ()), (True, ()), ({"text": "red"}, ()), ([["red"]], ()),
        ([None], ()),
    ],
)  # fmt: skip
def test_references(value, expected):
    assert references_of(value) == expected


def test_nan_is_no_answer():
    """Else each row without an answer would count, as wrong."""
    nan = float("nan")
    assert references_of(nan) == references_of([nan]) == references_of([{"answer": nan}]) == ()
    assert references_of("nan") == ("nan",)
