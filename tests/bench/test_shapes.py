"""Models of a named shape: their sizes are the published ones, and they are asked what the preset says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adafv.bench.shapes import PRESETS, Subject, ask
from tests.bench.tiny_shapes import CPU, NEXT, PLAIN

# As published: Llama's weights with a vocabulary of 32,000, to which LLaVA adds 64, and CLIP's vision model's.
LLAMA = {"llava-1.5-7b": 6_738_415_616, "llava-next-7b": 6_738_415_616, "llava-next-13b": 13_015_864_320}
CLIP_L = 303_507_456


def weights(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("preset", LLAMA)
def test_published_shapes_have_as_many_weights_as_published(preset):
    model = Subject.build(PRESETS[preset], torch.device("meta"), torch.bfloat16).model
    language = weights(model.model.language_model) + weights(model.lm_head)
    assert language == LLAMA[preset] + 64 * 2 * PRESETS[preset].language.hidden
    assert weights(model.model.vision_tower) == CLIP_L


def test_small_shape_keeps_the_proportions():
    small, real = (
        Subject.build(PRESETS[name], torch.device("meta"), torch.float32).model.model
        for name in ("cpu-small", "llava-next-7b")
    )
    ratios = [
        weights(model.language_model.layers) / weights(model.vision_tower.encoder.layers) for model in (small, real)
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)
    for of in (lambda model: model.vision_tower.encoder.layers, lambda model: model.language_model.layers):
        assert len(of(small)) == len(of(real))


@pytest.mark.parametrize(("preset", "tokens", "crops"), [("cpu-small", 2880, 5), ("llava-1.5-7b", 576, 1)])
def test_questions_and_pictures_are_of_the_usual_size(preset, tokens, crops):
    shape = PRESETS[preset]
    processing = Subject.build(shape, torch.device("meta"), torch.float32).processing
    (asked,) = ask(shape, 1, 1, mixed=False)
    geometry = processing.geometry((asked.image.height, asked.image.width))
    assert (geometry.visual_tokens, geometry.crops) == (tokens, crops)
    prompt = processing.prompt(asked.text, [geometry])
    assert len(prompt.question_places) == 12 and 40 <= len(prompt.input_ids) <= 50 and prompt.placeholders == 1
    unknown = processing.tokenizer.unk_token_id
    assert unknown not in prompt.input_ids, "the vocabulary knows all words of the prompt"


def test_some_questions_in_a_row_are_about_the_same_picture():
    asked = ask(NEXT, 7, 3, mixed=False)
    pictures = [np.asarray(one.image).tobytes() for one in asked]
    assert [pictures.index(picture) for picture in pictures] == [0, 0, 0, 3, 3, 3, 6]
    assert len({one.text for one in asked}) == 7


def test_mixed_questions_differ_in_size_and_length():
    asked = ask(NEXT, 12, 1, mixed=True)
    assert len({(one.image.size, len(one.text.split())) for one in asked}) == 12
    processing = Subject.build(NEXT, torch.device("meta"), torch.float32).processing
    assert len({processing.geometry(one.image.size[::-1]).visual_tokens for one in asked}) >= 3


@pytest.mark.parametrize("shape", [NEXT, PLAIN], ids=lambda shape: shape.family)
def test_fresh_models_share_weights_and_nothing_else(shape):
    subject = Subject.build(shape, CPU, torch.bfloat16)
    assert {weight.dtype for weight in subject.model.parameters()} == {torch.bfloat16}
    model = subject.fresh_model()
    for name, weight in model.named_parameters():
        assert weight is subject.model.get_parameter(name)
    model.model.vision_tower.encoder.layers = model.model.vision_tower.encoder.layers[:1]
    model.model.vision_tower.set_attn_implementation("eager")
    assert len(subject.model.model.vision_tower.encoder.layers) == shape.tower.layers
    assert subject.fresh_model().model.vision_tower.config._attn_implementation == "sdpa"
