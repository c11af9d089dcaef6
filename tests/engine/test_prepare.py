"""What can't be asked is refused one at a time, with its reason."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers import GenerationConfig

from adafv.engine import EngineOptions, PrepareError, Preparer
from tests.tiny_models import Shape, build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("model"), Shape()))


def prepare(model: str, prompt: str, **options):
    return Preparer.load(model, EngineOptions(**options)).prepare("a", Image.new("RGB", (64, 64)), prompt)


def test_what_a_checkpoint_asks_of_decoding_is_known(tmp_path):
    path = build(tmp_path, Shape())
    config = GenerationConfig.from_pretrained(path)
    config.update(repetition_penalty=1.05)
    config.save_pretrained(path)
    asked = Preparer.load(str(path), EngineOptions()).generation
    assert (asked["repetition_penalty"], asked["eos_token_id"]) == (1.05, 2)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", "prompt_empty"),
        ("  \n\t ", "prompt_empty"),
        ("what is <image> here", "prompt_placeholder"),
        ("<image><image>", "prompt_placeholder"),
        ("half a \ud800 pair", "prompt_encoding"),
        ("w1 " * 100_000, "prompt_too_long"),
    ],
)
def test_refusals(model, prompt, error):
    with pytest.raises(PrepareError) as refused:
        prepare(model, prompt)
    assert refused.value.error == error


def test_the_context_is_used_to_its_last_place(model):
    """512 positions: two template words, K = 8 of 80 visual tokens, 64 new tokens leave 438 for the question."""
    fits = {"keep": 0.1, "max_new_tokens": 64}
    assert len(prepare(model, "w1 " * 438, **fits).input_ids) == 441
    with pytest.raises(PrepareError, match="make 513; the model"):
        prepare(model, "w1 " * 439, **fits)


def test_what_is_pruned_leaves_room_for_the_question(model):
    question = "w1 " * 400
    prepare(model, question, strategy="adafv", keep=0.1)
    with pytest.raises(PrepareError, match="context holds 512"):
        prepare(model, question, strategy="none")


@pytest.mark.parametrize("prompt", ["\x00 \x07 control", "émoji 🙂 漢字"])
def test_odd_characters_are_tokenised(model, prompt):
    assert len(prepare(model, prompt).asked)
