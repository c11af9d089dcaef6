"""A built checkpoint is the published parts with what was trained, and reads what training read."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from adafv.models import load_processing
from adafv.worlds.photo.batches import turn
from adafv.worlds.photo.crops import next_order, next_pixels
from adafv.worlds.photo.features import encode, to_pixels
from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.model import about_trained, build, load_trained, newline, save_trained, trained_file
from adafv.worlds.photo.packed import PackedLanguageModel, pack
from adafv.worlds.photo.parts import load_language_model, load_tokenizer, load_tower
from adafv.worlds.photo.projector import Projector
from adafv.worlds.photo.scenes import EVALUATION_SEEDS, SINGLE, make_scene, render
from adafv.worlds.photo.train import PREFIX

QUESTION = "What is at the top left of the image?"


def test_what_was_trained_comes_back(tmp_path):
    torch.manual_seed(0)
    projector, additions = {"linear_1.weight": torch.randn(3, 2)}, {"up.layers/0/q_proj": torch.randn(4, 2)}
    file = tmp_path / "weights" / "trained.safetensors"
    save_trained(file, projector, additions, {"model": "some", "step": "7"})
    assert about_trained(file) == {"model": "some", "step": "7"}
    for found, expected in zip(load_trained(file), (projector, additions), strict=True):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, unpacked):
    """Projector and additions with random numbers, in a file."""
    torch.manual_seed(0)
    language = load_language_model(unpacked)
    lora, projector = lora_for(language.model), Projector(384, language.config.hidden_size)
    for parameter in lora.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    file = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    save_trained(file, projector.state_dict(), lora.state_dict(), {"model": "random"})
    return file


@pytest.fixture(scope="module", params=[False, True], ids=["one crop", "crops"])
def built(request, tmp_path_factory, trained, unpacked):
    folder = tmp_path_factory.mktemp("models") / "model"
    build(trained, unpacked, folder, is_next=request.param)
    return folder


@pytest.mark.slow
def test_it_says_what_training_computed(built, trained, unpacked, photographs):
    """The visual tokens, also those of LLaVA-NeXT's crops, and the first word of an answer."""
    model = AutoModelForImageTextToText.from_pretrained(built, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(built, use_fast=False)
    is_next = model.config.model_type == "llava_next"
    scene = make_scene(EVALUATION_SEEDS.start, photographs, (672, 336) if is_next else SINGLE)
    image = render(scene, photographs)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    projector_state, additions = load_trained(trained)
    projector = Projector(384, 576)
    projector.load_state_dict(projector_state)
    tokenizer, language = load_tokenizer(unpacked), load_language_model(unpacked)

    def ids(words: str) -> list[int]:
        return tokenizer(words).input_ids

    with torch.inference_mode():
        pixels = next_pixels(image) if is_next else to_pixels([image])
        visual = projector(encode(load_tower(unpacked), pixels))
        if is_next:
            end = newline(language.model.embed_tokens.weight, ids("\n"))
            visual = torch.cat([visual.flatten(0, 1), end[None]])[next_order(scene.size)][None]
        sizes = {"image_sizes": inputs["image_sizes"]} if is_next else {}
        features = model.get_image_features(inputs["pixel_values"], **sizes, return_dict=True).pooler_output
        torch.testing.assert_close(features[0], visual[0], rtol=1e-3, atol=1e-3)
        lora = lora_for(language.model)
        lora.load_state_dict(additions)
        packed_model = PackedLanguageModel(language, lora, ids(PREFIX))
        prompt, answer = turn(QUESTION, "owl", ids)
        states = packed_model.states(visual, pack([[(prompt, answer)]]))
        ours = packed_model.logits(states)[0, len(prompt) - 1].log_softmax(-1)
        theirs = model(**inputs).logits[0, -1].log_softmax(-1)
        likely = theirs > theirs.max() - 3
        assert (ours - theirs)[likely].abs().max() < 0.01


@pytest.mark.slow
def test_jobs_load_it(built):
    processing = load_processing(str(built))
    prompt = processing.prompt(QUESTION, [processing.geometry((336, 336))])
    said = processing.tokenizer.decode(prompt.input_ids)
    assert said == f"<|im_start|>user\n<filename>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("model", ["photo-aligned", "photo"])
def test_committed_weights_are_small(model):
    file = trained_file(model)
    if not file.is_file():
        pytest.skip(f"{model} hasn't been trained yet")
    assert file.stat().st_size <= 25_000_000 and about_trained(file)["model"] == model
