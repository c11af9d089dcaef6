"""Greedy choices without masks are those with them, whatever the grammar, the scores and the batch."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from adafv.engine import EngineOptions
from adafv.engine.grammar import Grammar
from adafv.engine.masks import BatchMasks
from tests.engine.test_grammar import SCHEMAS
from tests.tiny_models import Shape, _tokenizer


def pairs() -> PreTrainedTokenizerFast:
    """Tokens of several letters, so that the same text has several spellings."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<x>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = (f'{{"colour": "{word}", "count": {i}}} yes no abc/1' for i, word in enumerate(("red", "blue") * 50))
    made.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


TOKENS = (_tokenizer(Shape(letters=True)), pairs())
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
ENDS, SPARE = [2, 40], 3  # 40 is a letter; a model may give scores to more tokens than there are
EXPRESSIONS = [r"[a-c]{3}/\d", "(yes|no)?é*", "[^\n]{5}", "(.|\n)*"]


@settings(max_examples=25)
@given(
    st.sampled_from(TOKENS),
    st.one_of(st.just(COLOUR), SCHEMAS, st.sampled_from(EXPRESSIONS)),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_a_choice_is_the_most_probable_of_the_allowed(tokens, wanted, rows, seed):
    asked = {"regex": wanted} if isinstance(wanted, str) else {"schema": wanted}
    vocabulary = len(tokens) + SPARE
    told = SimpleNamespace(tokenizer=tokens, lead="")
    grammar = Grammar(told, EngineOptions(**asked), ENDS, vocabulary)
    lazy, eager = (BatchMasks(grammar, rows, torch.device("cpu")) for _ in range(2))
    random = torch.Generator().manual_seed(seed)
    left = rows
    for step in range(25):
        # Few values, so that several tokens are the most probable; quotes and braces often are.
        scores = torch.randint(0, 9, (left, vocabulary), generator=random).float()
        scores[:, tokens.convert_tokens_to_ids([*'{}":'])] += torch.randint(0, 9, (left, 4), generator=random)
        chosen = lazy.choose(scores)
        assert torch.equal(chosen, eager.masked(scores).argmax(dim=1))
        if step == 7 and rows > 1:
            for masks in (lazy, eager):
                masks.keep([*range(1, rows)])
            chosen, left = chosen[1:], rows - 1
        for masks in (lazy, eager):
            masks.advance(chosen)
