"""What can't be asked is refused one at a time, with its reason."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers import GenerationConfig

from adafv.engine import EngineOptions, PrepareError, Preparer
from adafv.models import load_processing
from adafv.option import OptionError
from adafv.turn import Turn
from tests import tiny_qwen
from tests.models.conftest import picture
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
    assert len(prepare(model, prompt).question_places)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return str(tiny_qwen.build(tmp_path_factory.mktemp("qwen"), tiny_qwen.QwenShape()))


@pytest.mark.parametrize(
    ("size", "most", "tokens"), [((64, 64), 48, 36), ((64, 64), 9, 9), ((30, 61), 9, 8), ((8, 48), 9, 6)]
)
def test_an_image_is_shrunk_until_the_model_sees_no_more_tokens(qwen, size, most, tokens):
    """As far as needed and no further; the prompt has room for as many as are left."""
    whole = Preparer.load(qwen, EngineOptions()).prepare("a", picture(size), "w1").images[0]
    [found] = Preparer.load(qwen, EngineOptions(max_image_tokens=most)).prepare("a", picture(size), "w1").images
    assert found.visual_tokens == tokens <= most
    if whole.visual_tokens <= most:
        assert (found.key, found.scale, found.size) == (whole.key, 1.0, size)
    else:
        assert found.scale == pytest.approx(found.size[0] / size[0], rel=0.1) and found.scale < 1
        processing = load_processing(qwen)
        larger = [(-(-size[0] * step // 64), -(-size[1] * step // 64)) for step in range(1, 65)]
        assert all(processing.geometry(each).visual_tokens > most for each in larger if each > found.size)


def test_an_image_that_cannot_be_so_small_is_refused(qwen):
    preparer = Preparer.load(qwen, EngineOptions(max_image_tokens=4))
    with pytest.raises(PrepareError, match="700 x 4: the model sees at least 5 visual tokens of it") as refused:
        preparer.prepare("a", picture((4, 700)), "w1")
    assert refused.value.error == "image_unsupported"


def test_a_number_of_tokens_that_the_model_always_exceeds_is_refused_at_once(qwen, tmp_path):
    with pytest.raises(OptionError, match="max_image_tokens is 3; it must be at least 4, as many as"):
        Preparer.load(qwen, EngineOptions(max_image_tokens=3))
    one_size = str(build(tmp_path, Shape(family="llava")))
    with pytest.raises(OptionError, match="must be at least 16"):
        Preparer.load(one_size, EngineOptions(max_image_tokens=15))


def test_each_of_several_images_is_shrunk(qwen):
    preparer = Preparer.load(qwen, EngineOptions(max_image_tokens=9))
    images = [picture((64, 64)), picture((8, 48))]
    sample = preparer.converse("a", images, (Turn.asking("w1", 2),))
    assert [image.visual_tokens for image in sample.images] == [9, 6]
    assert [image.scale == 1 for image in sample.images] == [False, True]


def test_settings_of_the_image_processor(qwen):
    """As if the checkpoint had them; one that it doesn't know is refused."""
    stock = Preparer.load(qwen, EngineOptions()).prepare("a", picture((64, 64)), "w1").images[0]
    options = EngineOptions(image_options={"max_pixels": 20 * 20})
    fewer = Preparer.load(qwen, options).prepare("a", picture((64, 64)), "w1").images[0]
    assert (stock.visual_tokens, fewer.visual_tokens, fewer.scale) == (49, 4, 1.0)
    wrong = {"max_pixel": 400}, {"max_pixels": "many"}, {"size": {"longest_edge": 3840}}, {"do_resize": False}
    for settings in wrong:
        with pytest.raises(OptionError, match="settings that the image processor can work with"):
            Preparer.load(qwen, EngineOptions(image_options=settings))
    for text in ("[1]", "max_pixels=400"):
        with pytest.raises(OptionError, match="an object in JSON"):
            EngineOptions(image_options=text)
    one, other = EngineOptions(image_options='{"a": 1, "b": 2}'), EngineOptions(image_options={"b": 2, "a": 1})
    assert one == other
