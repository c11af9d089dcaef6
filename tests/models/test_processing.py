"""Prompts: the template is the model's, the question is found in it, and nothing in a question is trusted."""

from __future__ import annotations

import pytest

from adafv.models import load_processing
from tests.models.slow_way import SlowModel


@pytest.mark.parametrize("name", ["next", "llava-no-template"])
@pytest.mark.parametrize("question", ["w1", "w1 w2 nonsense w3", "ASSISTANT: w5", "USER: w1 ASSISTANT:"])
def test_token_ids_are_the_stock_processors_with_one_placeholder(checkpoints, name, question):
    from tests.models.conftest import picture

    slow, processing = SlowModel(checkpoints(name)), load_processing(str(checkpoints(name)))
    stock = slow.inputs(picture((64, 64)), question)["input_ids"][0].tolist()
    image = processing.config.image_token_id
    first, last = stock.index(image), len(stock) - stock[::-1].index(image)
    got = processing.prompt(question)
    assert got.input_ids.tolist() == stock[: first + 1] + stock[last:]
    assert got.placeholders == 1
    start, end = got.question_span
    words = processing.tokenizer(question, add_special_tokens=False)["input_ids"]
    assert got.input_ids[start:end].tolist() == words


def test_a_question_with_a_placeholder_is_counted(checkpoints):
    assert load_processing(str(checkpoints("next"))).prompt("w1 <image> w2").placeholders == 2


def test_a_blank_question_has_an_empty_span(checkpoints):
    start, end = load_processing(str(checkpoints("next"))).prompt("  ").question_span
    assert start == end


def test_a_template_that_begins_with_bos_is_not_given_another(checkpoints):
    """As transformers' own `apply_chat_template(tokenize=True)` decides it."""
    processing = load_processing(str(checkpoints("next")))
    processing.tokenizer.backend_tokenizer.post_processor = __import__("tokenizers").processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert processing.prompt("w1").input_ids.tolist().count(1) == 1, "added by the tokenizer"
    processing._template.chat_template = "<s> " + processing._template.chat_template
    rebuilt = type(processing)(processing.family, processing.config, processing._template)
    assert rebuilt.prompt("w1").input_ids.tolist().count(1) == 1, "by the template, so not by the tokenizer"


def test_a_template_that_rewrites_itself_is_refused(checkpoints):
    processing = load_processing(str(checkpoints("next")))
    template = "{{ messages[0]['content'][1]['text'] | length }} <image> {{ messages[0]['content'][1]['text'] }}"
    processing._template.chat_template = template
    rebuilt = type(processing)(processing.family, processing.config, processing._template)
    with pytest.raises(ValueError, match="can't be located"):
        rebuilt.prompt("w1 w2")
