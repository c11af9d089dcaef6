"""Prompts: the template is the model's, the question is found in it, and nothing in a question is trusted."""

from __future__ import annotations

import shutil
from datetime import datetime

import pytest
from tokenizers.processors import TemplateProcessing
from transformers.utils import chat_template_utils

from adafv.models import Processing, Prompt, load_processing
from adafv.turn import Turn
from tests.models.conftest import picture
from tests.models.slow_way import SlowModel
from tests.tiny_models import Shape, build


@pytest.mark.parametrize("name", ["next", "llava-no-template"])
@pytest.mark.parametrize("question", ["w1", "w1 w2 nonsense w3", "ASSISTANT: w5", "USER: w1 ASSISTANT:"])
def test_token_ids_are_the_stock_processors_with_one_placeholder(checkpoints, name, question):
    slow, processing = SlowModel(checkpoints(name)), load_processing(str(checkpoints(name)))
    stock = slow.inputs(picture((64, 64)), question)["input_ids"][0].tolist()
    image = processing.config.image_token_id
    first, last = stock.index(image), len(stock) - stock[::-1].index(image)
    got = processing.prompt(question, [processing.geometry((64, 64))])
    assert got.input_ids.tolist() == stock[: first + 1] + stock[last:]
    assert got.placeholders == 1
    words = processing.tokenizer(question, add_special_tokens=False)["input_ids"]
    assert got.input_ids[got.question_places].tolist() == words


def test_a_question_with_a_placeholder_is_counted(checkpoints):
    assert ask(load_processing(str(checkpoints("next"))), "w1 <image> w2").placeholders == 2


def test_a_blank_question_has_no_tokens(checkpoints):
    assert not len(ask(load_processing(str(checkpoints("next"))), "  ").question_places)


def ask(processing: Processing, question: str) -> Prompt:
    return processing.prompt(question, [processing.geometry((64, 64))])


def with_template(processing: Processing, template: str) -> Processing:
    return Processing(
        family=processing.family,
        config=processing.config,
        image_processor=processing._image_processor,
        tokenizer=processing.tokenizer,
        chat_template=template,
    )


def test_a_template_that_begins_with_bos_is_not_given_another(checkpoints):
    """As transformers' own `apply_chat_template(tokenize=True)` decides it."""
    processing = load_processing(str(checkpoints("next")))
    processing.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    assert ask(processing, "w1").input_ids.tolist().count(1) == 1, "added by the tokenizer"
    bos_first = with_template(processing, "<s> " + processing._template)
    assert ask(bos_first, "w1").input_ids.tolist().count(1) == 1, "by the template, so not by the tokenizer"


def test_a_template_that_rewrites_itself_is_refused(checkpoints):
    template = "{{ messages[0]['content'][1]['text'] | length }} <image> {{ messages[0]['content'][1]['text'] }}"
    rewriting = with_template(load_processing(str(checkpoints("next"))), template)
    with pytest.raises(ValueError, match="can't be located"):
        ask(rewriting, "w1 w2")


def test_a_template_may_write_the_date(checkpoints, monkeypatch):
    """A job goes on after midnight."""
    today = 1

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, today)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    processing = load_processing(str(checkpoints("next")))
    dated = with_template(processing, "w{{ strftime_now('%d') | int }} " + processing._template)
    for today in (1, 2):
        prompt = ask(dated, "w7 w8")
        assert processing.tokenizer.decode(prompt.input_ids).startswith(f"w{today} ")
        assert processing.tokenizer.decode(prompt.input_ids[prompt.question_places]) == "w7 w8"


@pytest.mark.parametrize(
    ("answered", "lead"),
    [
        ("'A:' + message['content'][0]['text']", ""),
        ("'A:' + message['content']", ""),  # what it takes is a text
        ("'A: ' + message['content'][0]['text']", " "),
        ("'A:'", " "),
        ("raise_exception('no assistant')", " "),
    ],
)
def test_an_answer_begins_as_the_template_begins_one(tmp_path, answered, lead):
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{% for part in message['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% else %}{{ " + answered + " }}"
        "{% endif %}{% endfor %}{% if messages[-1]['role'] == 'user' %}{{ 'A:' }}{% endif %}"
    )
    processing = with_template(load_processing(str(build(tmp_path, Shape(letters=True)))), template)
    decode = processing.tokenizer.decode
    assert (processing.lead, decode(processing.answer_ids("cat"))) == (lead, f"{lead}cat")
    assert decode(processing.answer_ids("cat", "a")) == " cat"
    assert decode(processing.conversation([Turn.asking("?", 0)], [], "a").input_ids) == f"?A:{lead}a"


def test_an_image_processor_of_another_family_is_named(checkpoints, tmp_path):
    shutil.copytree(checkpoints("next"), tmp_path / "model")
    settings = tmp_path / "model" / "processor_config.json"
    settings.write_text(settings.read_text().replace("LlavaNextImageProcessor", "SiglipImageProcessor"))
    with pytest.raises(ValueError, match="image processor 'SiglipImageProcessor' is not supported"):
        load_processing(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ({}, 512),
        ({"sliding_window": 100}, 100),
        ({"sliding_window": 1000}, 512),
        ({"sliding_window": 100, "layer_types": ["full_attention"] * 2}, 512),
        ({"sliding_window": 100, "layer_types": ["full_attention", "sliding_attention"]}, 100),
        ({"sliding_window": None}, 512),
    ],
)
def test_no_prompt_is_longer_than_a_window_of_the_language_model(checkpoints, values, length):
    processing = load_processing(str(checkpoints("llava")))
    for name, value in values.items():
        setattr(processing.config.text_config, name, value)
    assert processing.context_length == length
