"""Prompts that show several images, or none: the stock model's answers, and each image pruned by itself."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adafv.engine import Engine, EngineOptions, PrepareError, Preparer, Turn
from adafv.engine.prompt_image import prompt_images
from adafv.models.llava import LlavaAdapter
from tests.engine.answers import assembled
from tests.engine.test_engine import essence, load
from tests.models.conftest import picture
from tests.models.slow_way import SlowModel
from tests.tiny_models import Shape, build

SHAPES = {"llava_next": Shape(hidden=64), "llava": Shape(family="llava", hidden=64, seed=5)}
SIZES = [(64, 64), (30, 61), (97, 33)]
# An image before, within and behind the text; a conversation about two images; text alone; no text before an image.
CONVERSATIONS = [
    (Turn("user", (None, "w1 w2", None, "w3")),),
    (Turn("user", (None, None, "w4 w5")), Turn("assistant", ("w6 w7",)), Turn("user", ("w8", None))),
    (Turn("user", ("w9 w10 w11",)),),
    (Turn.asking("w12"), Turn("assistant", ("w13",)), Turn("user", ("w14 w15",))),
]


@pytest.fixture(scope="module", params=sorted(SHAPES))
def model(request, tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), SHAPES[request.param]))


def images_for(turns, seed=0):
    count = sum(part is None for turn in turns for part in turn.parts)
    return [picture(SIZES[(seed + i) % len(SIZES)], seed + i) for i in range(count)]


def messages(turns):
    content = [[{"type": "text", "text": part} if part else {"type": "image"} for part in turn.parts] for turn in turns]
    return [{"role": turn.role, "content": each} for turn, each in zip(turns, content, strict=True)]


def stock_answers(model: str, steps: int):
    """What transformers' own `generate` makes of each conversation: the new tokens, and how many it read."""
    slow = SlowModel(model)
    for turns in CONVERSATIONS:
        text = slow.processor.apply_chat_template(messages(turns), add_generation_prompt=True)
        inputs = slow.processor(images=images_for(turns) or None, text=text, return_tensors="pt")
        with torch.inference_mode():
            out = slow.model.generate(**inputs, max_new_tokens=steps, do_sample=False)
        length = inputs["input_ids"].shape[1]
        yield out[0, length:].tolist(), length


@pytest.mark.parametrize("strategy", ["none", "adafv"])
def test_unpruned_equals_stock_generate_token_for_token(model, strategy):
    preparer, engine = load(model, strategy=strategy, keep=1.0, max_new_tokens=10)
    samples = [preparer.converse(str(i), images_for(turns), turns) for i, turns in enumerate(CONVERSATIONS)]
    for label, (tokens, length) in zip(engine.label(samples), stock_answers(model, 10), strict=True):
        assert label.answer == engine._processing.decode(tokens)
        assert (label.prompt_tokens, label.output_tokens) == (length, len(tokens))
        assert label.kept_tokens == label.visual_tokens and (label.visual_tokens == 0) == (label.id == "2")


@pytest.mark.parametrize("strategy", ["adafv-plus", "visionzip", "random", "uniform"])
def test_batch_size_order_and_neighbours_change_nothing(model, strategy):
    preparer, engine = load(model, strategy=strategy, newlines="rows")
    samples = [
        preparer.converse(f"{seed}-{i}", images_for(turns, seed), turns)
        for seed in range(3)
        for i, turns in enumerate(CONVERSATIONS)
    ]
    alone = {label.id: label for sample in samples for label in engine.label([sample])}
    for order in (samples, random.Random(1).sample(samples, len(samples))):
        for size in (5, len(samples)):
            for start in range(0, len(order), size):
                for label in engine.label(order[start : start + size]):
                    assert essence(label) == essence(alone[label.id]), f"in a batch of {size}"


def test_each_image_is_pruned_as_if_it_were_alone(model):
    preparer, engine = load(model, strategy="adafv", keep=0.2)
    shown = images_for(CONVERSATIONS[1])
    (label,) = engine.label([preparer.converse("a", shown, CONVERSATIONS[1])])
    singles = [preparer.prepare("a", image, "w8") for image in shown]
    start = panel = kept = 0
    for part, single in zip(label.parts, engine.label(singles), strict=True):
        chosen = slice(kept, kept + part.kept_tokens)
        assert (label.kept_indices[chosen] - start).tolist() == single.kept_indices.tolist()
        assert label.kept_cues[chosen].tolist() == single.kept_cues.tolist()
        assert label.grid[panel : panel + part.panels] == single.grid
        assert part.kept_tokens == max(1, int(0.2 * part.visual_tokens + 0.5))
        start, panel, kept = start + part.visual_tokens, panel + part.panels, kept + part.kept_tokens
    assert (start, panel, kept) == (label.visual_tokens, len(label.grid), label.kept_tokens)
    assert len(label.parts) == 3 and label.kept_indices.dtype == np.int32


def test_text_alone_is_labelled(model):
    preparer, engine = load(model, strategy="adafv-plus")
    sample = preparer.converse("a", [], CONVERSATIONS[2])
    (label,) = engine.label([sample])
    assert label.visual_tokens == label.kept_tokens == len(label.kept_indices) == 0 and label.grid == label.parts == ()
    assert label.prompt_tokens == len(sample.input_ids) and label.answer


def test_an_image_shown_twice_is_encoded_once(model, spy):
    preparer, engine = load(model)
    encode = spy(type(engine._adapter), "encode")
    first, second, third = (picture((64, 64), seed) for seed in range(3))
    engine.label([preparer.converse(str(i), [first, second, first], CONVERSATIONS[1]) for i in range(2)])
    assert encode.call_count == 2
    engine.label([preparer.converse("c", [second, third], CONVERSATIONS[0])])
    assert encode.call_count == 3, "the last sample's pictures are kept for the next batch"


def test_the_text_cue_sees_the_last_turn_alone_or_all_behind_its_image(model):
    preparer, engine = load(model)
    processing = engine._processing
    sample = preparer.converse("a", images_for(CONVERSATIONS[1]), CONVERSATIONS[1])
    for scope, expected in (
        ("question", ["w8"] * 3),
        ("prompt", [*["w4 w5 ASSISTANT: w6 w7 USER: w8 ASSISTANT:"] * 2, "ASSISTANT:"]),
    ):
        images = prompt_images([sample], processing, EngineOptions(text_scope=scope))
        assert [processing.decode(image.text.tolist()) for image in images] == expected


def test_a_text_between_two_images_is_of_the_question(model):
    preparer, engine = load(model)
    sample = preparer.converse("a", images_for(CONVERSATIONS[0]), CONVERSATIONS[0])
    assert engine._processing.decode(sample.input_ids[sample.question_places].tolist()) == "w1 w2 w3"


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        ((Turn("user", (None,)),), "prompt_empty"),
        ((Turn.asking("w1"), Turn("assistant", ("the <image> shows",)), Turn("user", ("w2",))), "prompt_placeholder"),
        ((Turn.asking("w1"), Turn("assistant", ("half a \ud800 pair",)), Turn("user", ("w2",))), "prompt_encoding"),
        ((Turn.asking("w1"), Turn("assistant", ("w2 " * 600,)), Turn("user", ("w3",))), "prompt_too_long"),
    ],
)
def test_what_no_turn_may_say(model, turns, error):
    with pytest.raises(PrepareError) as refused:
        load(model)[0].converse("a", [picture((64, 64))], turns)
    assert refused.value.error == error


def test_images_and_turns_that_do_not_match_are_refused(model):
    with pytest.raises(ValueError, match="show 1 images and 2 are given"):
        load(model)[0].converse("a", [picture((64, 64))] * 2, (Turn.asking("w1"),))


class Cut(LlavaAdapter):
    """As families do that have text between the rows of an image: w199 behind each but the last."""

    @classmethod
    def geometry(cls, config, image_processor, image_size):
        whole = LlavaAdapter.geometry(config, image_processor, image_size)
        side = whole.panels[0].columns
        return replace(whole, cuts=tuple(range(side, side * side, side)))

    @classmethod
    def image_text(cls, config, tokenizer, geometry):
        return " w199 ".join(["<image>"] * geometry.runs)


def test_an_image_may_be_cut_into_runs_with_text_between(tmp_path, monkeypatch):
    path = str(build(tmp_path / "model", SHAPES["llava"]))
    monkeypatch.setattr("adafv.models.loading.FAMILIES", {"llava": Cut})
    preparer, engine = load(path, strategy="saliency", keep_tokens=5)
    shown = [picture((64, 64), seed) for seed in range(2)]
    sample = preparer.converse("a", shown, (Turn("user", (None, "w1", None, "w2")),))
    [label], [group] = assembled(engine, [sample])
    assert engine._processing.decode(sample.input_ids[sample.question_places].tolist()) == "w1 w2"
    adapter, pieces = engine._adapter, []
    with torch.inference_mode():
        table = [adapter.encode(torch.from_numpy(each.crops)).tokens.flatten(0, 1) for each in sample.images]
        rows = iter(torch.cat(table).split(4))
        kept = iter(np.split(np.isin(np.arange(32), label.kept_indices), 8))
        for token in sample.input_ids.tolist():
            if token == engine._processing.config.image_token_id:
                pieces.append(next(rows)[torch.from_numpy(next(kept))])
            else:
                pieces.append(adapter.embed(torch.tensor([token])))
    assert label.kept_tokens == 10 and sample.input_ids.tolist().count(adapter.model.config.image_token_id) == 8
    torch.testing.assert_close(group.embeds[0], torch.cat(pieces), rtol=1e-4, atol=1e-5)


def test_conversations_need_no_template(tmp_path):
    path = str(build(tmp_path / "model", replace(SHAPES["llava"], template=False)))
    sample = Preparer.load(path, EngineOptions()).converse("a", images_for(CONVERSATIONS[0]), CONVERSATIONS[0])
    tokenizer = Engine.load(path, EngineOptions())._processing.tokenizer
    assert tokenizer.convert_ids_to_tokens(sample.input_ids.tolist()) == ["<image>", "w1", "w2", "<image>", "w3"]


def test_where_nothing_is_said_behind_an_image_the_question_guides(tmp_path):
    """There is no template to write something there."""
    path = str(build(tmp_path / "model", replace(SHAPES["llava"], template=False)))
    preparer, engine = load(path, strategy="text", text_scope="prompt", max_new_tokens=2)
    turns = (Turn("user", ("w1 w2", None)),)
    sample = preparer.converse("a", images_for(turns), turns)
    (label,) = engine.label([sample])
    (by_question,) = load(path, strategy="text", max_new_tokens=2)[1].label([sample])
    assert label.kept_indices.tolist() == by_question.kept_indices.tolist()
