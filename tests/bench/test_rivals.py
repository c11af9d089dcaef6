"""The rivals do the same work: the same answers where they must be the same, and their token counts as they were."""

from __future__ import annotations

import pytest
import torch

from adafv.bench.rivals import STAGES, Again, Ours, Reference, Stock
from adafv.bench.shapes import ask
from adafv.engine import EngineOptions
from tests.bench.tiny_shapes import NEXT, PLAIN, subject

TOKENS = 6


def options(**given) -> EngineOptions:
    return EngineOptions(max_new_tokens=TOKENS, device="cpu", **given)


@pytest.fixture(scope="module", params=[NEXT, PLAIN], ids=lambda shape: shape.family)
def shape(request):
    return request.param


@pytest.fixture(scope="module")
def model(shape):
    return subject(shape)


@pytest.fixture(scope="module")
def questions(shape):
    return ask(shape, 5, 2, mixed=True)


def answered(rival, questions):
    return rival.start().answer(rival.prepare(questions))


def test_stock_and_the_engine_answer_alike(model, questions):
    stock = answered(Stock(model, TOKENS, 5), questions)
    ours = answered(Ours(model, options(strategy="none"), 5), questions)
    assert stock.answers == ours.answers and len(set(stock.answers)) > 1
    for theirs, own in zip(stock.counts, ours.counts, strict=True):
        assert (theirs.positions, theirs.visual, theirs.outputs) == (own.positions, own.visual, own.outputs)
    longest = max(one.positions for one in stock.counts)
    assert {one.padded for one in stock.counts} == {longest} and min(one.positions for one in stock.counts) < longest
    assert set(stock.stage_ms) == set(ours.stage_ms) == set(STAGES)
    assert stock.stage_ms["prune"] == 0 and all(stock.stage_ms[stage] > 0 for stage in STAGES if stage != "prune")


def test_who_encodes_a_picture_once(model, shape, questions):
    """The engine; stock transformers for each question, and so does the reference."""
    crops = [model.processing.geometry((one.image.height, one.image.width)).crops for one in questions]
    assert answered(Stock(model, TOKENS, 5), questions).crops == sum(crops)
    assert answered(Ours(model, options(strategy="none"), 5), questions).crops == sum(crops[::2])
    assert answered(Reference(model, 0.1, TOKENS), questions[:1]).crops == crops[0]


def test_a_picture_at_the_end_of_a_batch_is_still_known_to_the_next(model, questions):
    rival = Ours(model, options(strategy="none"), 2)
    answer = rival.start().answer
    crops = [answer(rival.prepare(questions[start : start + 1])).crops for start in range(3)]
    assert crops[0] > 0 and crops[1] == 0 and crops[2] > 0, "the second asks about the first's picture"


def test_second_looks_of_a_share_of_the_answers(model, questions):
    once, whole = (
        answered(Ours(model, options(strategy=name, keep=0.25), 5), questions) for name in ("saliency", "none")
    )
    both = answered(Again(model, options(strategy="saliency", keep=0.25), 5, 0.4), questions)
    again = [place for place in range(5) if both.answers[place] != once.answers[place]]
    assert len(both.answers) == 5 and len(both.counts) == 7 and len(again) <= 2
    assert all(both.answers[place] == whole.answers[place] for place in again)
    seen = sorted((one.positions, one.kept) for one in both.counts)
    first = [(one.positions, one.kept) for one in once.counts]
    assert all(seen.count(each) >= first.count(each) for each in first), "each was asked once"
    assert sum(one.kept == one.visual for one in both.counts) == 2


def test_the_reference_keeps_what_the_published_rule_keeps(model, shape, questions):
    """The engine's `adafv-paper` on the whole prompt keeps as many, and where there is one crop, the order of the
    tokens is the same, and so is the answer.
    """
    ours = answered(
        Ours(model, options(strategy="adafv-paper", keep=0.25, text_scope="prompt", positions="compact"), 5),
        questions[:2],
    )
    for place, question in enumerate(questions[:2]):
        reference = answered(Reference(model, 0.25, TOKENS), [question])
        (counts,) = reference.counts
        own = ours.counts[place]
        assert (counts.kept, counts.visual, counts.positions) == (own.kept, own.visual, own.positions)
        assert 0 < counts.kept <= 0.25 * counts.visual and counts.outputs == TOKENS
        assert shape.family != "llava" or reference.answers == [ours.answers[place]]


def test_the_reference_makes_all_attention_matrices(model, questions, monkeypatch):
    rival = Reference(model, 0.1, TOKENS)
    started = rival.start()
    made = []
    started.model.model.vision_tower.register_forward_hook(
        lambda _, __, out: made.extend(each.shape[-2:] for each in out.attentions)
    )
    started.answer(rival.prepare(questions[:1]))
    assert made == [(17, 17)] * 3, "16 patches and [CLS], in each of the three layers"


def test_a_stock_batch_that_does_not_fit_is_halved(model, questions):
    whole = answered(rival := Stock(model, TOKENS, 5), questions)
    tight = rival.start().answer
    answer = tight._answer
    asked = []

    def fitting(inputs, geometries):
        asked.append(len(geometries))
        if len(geometries) > 2:
            raise torch.OutOfMemoryError
        return answer(inputs, geometries)

    tight._answer = fitting
    parts = tight(rival.prepare(questions))
    assert asked == [5, 2, 2, 1] and parts.at_once == 2 and whole.at_once == 5
    assert parts.answers == whole.answers and parts.crops == whole.crops

    def full(inputs, geometries):
        raise torch.OutOfMemoryError

    tight._answer = full
    with pytest.raises(torch.OutOfMemoryError):
        tight(rival.prepare(questions))
