"""Flags: what a reader of an answer would notice at once."""

from __future__ import annotations

import pytest

from adafv.engine.flags import FLAGS, flags_of
from tests.engine.test_engine import crowd, load

LONG = "a cat on a mat beside a dog on a log"


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        ("a red car", ()),
        ("very, very, very good", ()),
        (" ".join(["red"] * 10), ("loop",)),
        (" ".join(["red"] * 9), ()),
        ("so " + " ".join([LONG] * 3), ("loop",)),
        (" ".join([LONG] * 2), ()),
        ("he said ha ha ha ha and ha ha ha ha", ()),
        ("1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2", ("loop",)),
        ("ha" * 12, ("loop",)),
        ("…" * 30, ("loop",)),
        ("", ("empty",)),
        (" \n", ("empty",)),
        ("I'm sorry, but I can't help with that.", ("refusal",)),
        ("I\u2019m unable to see it", ("refusal",)),
        ("As an AI language model I see a cat", ("refusal",)),
        ("I can see a cat", ()),
        ("A woman says: I'm sorry", ()),
    ],
)
def test_flags(answer, flags):
    assert flags_of(answer, "stop") == flags
    assert set(flags_of(answer, "length")) == {*flags, "cut"}
    assert set(flags) <= set(FLAGS)


def test_a_long_answer_takes_no_time():
    assert flags_of(" ".join(f"w{i}" for i in range(3000)), "stop") == ()


def test_a_flag_is_a_reason_for_a_second_look(model):
    preparer, once = load(model)
    samples = crowd(preparer, 8)
    first, again = once.label(samples), load(model, strategy="none")[1].label(samples)
    assert all(("cut" in label.flags) == (label.finish_reason == "length") for label in first)
    _, engine = load(model, escalate=1.0, escalate_flags="cut,empty")
    labels = engine.label(samples)
    for label, one, other in zip(labels, first, again, strict=True):
        flagged = bool({"cut", "empty"} & {*one.flags})
        assert label.looks == 1 + flagged and label.answer == (other if flagged else one).answer
    assert 2 in {label.looks for label in labels}
    _, engine = load(model, escalate=1.0, escalate_flags=["refusal"])
    assert {label.looks for label in engine.label(samples)} == {1}
