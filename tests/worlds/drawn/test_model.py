"""The model's and the processor's shape: crops, tokens, template. The weights: test_weights.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from adafv.worlds.drawn.model import (
    ANSWER,
    BOS,
    CROP,
    EOS,
    IMAGE,
    TOKENS,
    build_model,
    build_processor,
)
from adafv.worlds.drawn.scenes import make_scene, render
from tests.worlds.drawn.conftest import conversation


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def untrained():
    return build_model(seed=3).eval()


def inputs_for(processor, picture, text="what color is the star?"):
    prompt = processor.apply_chat_template(conversation(text), add_generation_prompt=True)
    return processor(images=picture, text=prompt, return_tensors="pt")


@pytest.mark.parametrize(
    ("width", "height", "crops", "visual"),
    [
        (96, 96, 5, 36 + 144 + 12),
        (96, 64, 5, 36 + 12 * 8 + 8),  # padded to 96x96; the four padded rows of patches are cut off again
        (64, 96, 5, 36 + 12 * 8 + 12),
        (96, 48, 3, 36 + 12 * 6 + 6),  # two crops side by side
        (48, 96, 3, 36 + 12 * 6 + 12),
        (144, 96, 7, 36 + 12 * 18 + 12),  # three crops beside each other, in two rows
        (144, 144, 10, 36 + 18 * 18 + 18),
        (640, 480, 10, None),
        (1, 1, 3, 36 + 36 + 6),  # all grids fit it as badly, so the one that wastes least
        (20, 2000, 7, None),
    ],
)
def test_crops_and_visual_tokens(processor, untrained, width, height, crops, visual):
    inputs = inputs_for(processor, Image.new("RGB", (width, height), (90, 20, 60)))
    assert inputs["pixel_values"].shape == (1, crops, 3, CROP, CROP)
    placeholders = int((inputs["input_ids"] == TOKENS.index(IMAGE)).sum())
    if visual is not None:
        assert placeholders == visual
    features = untrained.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    assert [len(each) for each in features] == [placeholders]
    assert inputs["input_ids"].shape[1] < untrained.config.text_config.max_position_embeddings


def test_crops_are_quarters_of_the_picture_after_the_whole(processor):
    scene = make_scene(1, (6, 6))
    pixels = inputs_for(processor, render(scene))["pixel_values"][0]
    restored = ((pixels * 0.5 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    picture = np.asarray(render(scene))
    quarters = [picture[y : y + CROP, x : x + CROP] for y in (0, CROP) for x in (0, CROP)]
    for crop, quarter in zip(restored[1:], quarters, strict=True):
        assert (crop == quarter).all()
    whole = np.asarray(render(scene).resize((CROP, CROP), Image.Resampling.BICUBIC))
    assert (restored[0] == whole).all()


def test_template(processor):
    def render_template(messages, prompt=True):
        return processor.apply_chat_template(messages, add_generation_prompt=prompt)

    assert render_template(conversation("what color is the star?")) == (
        f"{BOS} {IMAGE} what color is the star? {ANSWER}"
    )
    swapped = [{"role": "user", "content": conversation("a")[0]["content"][::-1]}]
    assert render_template(swapped) == f"{BOS} {IMAGE} a {ANSWER}"  # the picture comes first in any case
    assert render_template([{"role": "user", "content": "no picture"}]) == f"{BOS} no picture {ANSWER}"
    answered = [*conversation("a"), {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]
    assert render_template(answered, prompt=False) == f"{BOS} {IMAGE} a {ANSWER} red {EOS}"


@pytest.mark.parametrize("text", ["", "Ünïcödé 漢字 🙂", "a\nb\t c", "{{ 7 * 7 }} {% raw %}", "x" * 5000, "\x00\x07"])
def test_any_text_can_be_asked(processor, untrained, text):
    inputs = inputs_for(processor, render(make_scene(0)), text)
    names = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    assert names[:2] == [BOS, IMAGE] and names[-1] == ANSWER
    reply = untrained.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert reply.shape[1] > inputs["input_ids"].shape[1]


def test_tokenizer_ignores_case_and_splits_punctuation(processor):
    tokenizer = processor.tokenizer
    spaced, tight = tokenizer("What COLOR is the star ?"), tokenizer("what color is the star?")
    assert spaced["input_ids"] == tight["input_ids"]
    reply = [*tokenizer("red star 7")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(reply, skip_special_tokens=True) == "red star 7"
    assert tokenizer("zebra")["input_ids"] == [tokenizer.unk_token_id]


def test_special_tokens_agree_between_model_and_tokenizer(processor, untrained):
    tokenizer, generation = processor.tokenizer, untrained.generation_config
    assert len(tokenizer) == len(TOKENS) == untrained.get_input_embeddings().num_embeddings
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(generation, name) is not None
    assert tokenizer.convert_tokens_to_ids(IMAGE) == untrained.config.image_token_id
    assert generation.max_new_tokens is None
    assert untrained.lm_head.weight is untrained.get_input_embeddings().weight


def test_same_seed_same_weights():
    one, same, other = (build_model(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)
