"""What second looks cost: the ways are timed, and their figures are put together as the page says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adafv.bench import second_looks
from adafv.bench.second_looks import Round, SecondLookTerms
from tests.bench.tiny_shapes import NEXT

SETTINGS = SecondLookTerms(
    preset="tiny", strategy="saliency", keep=0.25, batch_size=3, again=2, max_new_tokens=4, rounds=2, device="cpu",
    dtype="float32",
)  # fmt: skip


def test_the_overhead_is_what_second_looks_take_beyond_the_same_questions_unpruned():
    assert Round(pruned=2.0, both=5.3, unpruned=3.0, full=9.0).overhead == pytest.approx(0.1)
    assert Round(pruned=2.0, both=4.7, unpruned=3.0, full=9.0).overhead == pytest.approx(-0.1)


def test_a_batch_is_answered_in_four_ways(monkeypatch):
    asked = []
    timed = second_looks._timed

    def watched(started, batch, device):
        seconds, answers = timed(started, batch, device)
        asked.append((len(batch), len(answers.counts)))
        assert seconds > 0
        return seconds, answers

    monkeypatch.setattr(second_looks, "_timed", watched)
    figures, text = second_looks.run(SETTINGS, NEXT)
    assert asked == [(3, 3), (3, 5), (2, 2), (3, 3)] * 3, "one round warms up"
    assert len(figures["rounds"]) == 2 and figures["settings"]["again"] == 2
    assert all(one["both"] > 0 and one["unpruned"] > 0 for one in figures["rounds"])
    assert "batches of 3, 2 asked again" in text and "overhead of second looks" in text


def test_encoding_is_not_held_against_second_looks(monkeypatch):
    def timed(started, batch, device):
        answers = started.answer(batch)
        stages = {"encode": 25.0, "prune": 0.0, "prefill": 50.0, "decode": 25.0}
        return {3: 4.0, 2: 8.0}[len(batch)], replace(answers, stage_ms=stages)

    monkeypatch.setattr(second_looks, "_timed", timed)
    figures, _ = second_looks.run(SETTINGS, NEXT)
    assert (figures["unpruned_s"], figures["full_s"]) == (6.0, 3.0) and figures["small_batch"] == pytest.approx(2.0)
