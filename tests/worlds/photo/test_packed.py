"""Packed rows say what transformers' own Llama says of each question alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.packed import PackedLanguageModel, pack

PREFIX = [1, 5]
ROWS = [[([7, 8, 9], [10, 2]), ([11, 12], [13, 14, 2])], [([15, 16, 17, 18], [2])]]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight.uniform_(0.5, 2)
            layer.post_attention_layernorm.weight.uniform_(0.5, 2)
    return model


def test_questions_are_answered_as_if_alone(model: LlamaForCausalLM) -> None:
    lora = lora_for(model.model)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    packed_model = PackedLanguageModel(model, lora, PREFIX).float()
    visual = torch.randn(2, 9, 48)
    packed = pack(ROWS)
    with torch.no_grad():
        states = packed_model.states(visual, packed)
        lora.merge(model.model)
        for row, asked in enumerate(ROWS):
            for number, (prompt, answer) in enumerate(asked):
                ids = torch.tensor([*prompt, *answer[:-1]])
                embed = model.model.embed_tokens
                inputs = torch.cat([embed(torch.tensor(PREFIX)), visual[row], embed(ids)])
                alone = model(inputs_embeds=inputs[None]).logits[0, -len(ids) :]
                together = packed_model.logits(states[row][packed.segment[row] == number])
                torch.testing.assert_close(together, alone, rtol=0.03, atol=0.03 * float(alone.abs().max()))


def test_what_is_left_out_of_a_picture_moves_nothing(model: LlamaForCausalLM) -> None:
    packed_model = PackedLanguageModel(model, lora_for(model.model), PREFIX).float()
    kept, whole = [[0, 3, 4, 8], [1, 2, 5, 6]], 9
    packed = replace(pack(ROWS), places=torch.tensor([[*each, whole] for each in kept]))
    visual = torch.randn(2, whole, 48)
    left = torch.stack([visual[row, each] for row, each in enumerate(kept)])
    with torch.no_grad():
        states = packed_model.states(left, packed)
        for row, asked in enumerate(ROWS):
            for number, (prompt, answer) in enumerate(asked):
                ids = torch.tensor([*prompt, *answer[:-1]])
                embed = model.model.embed_tokens
                inputs = torch.cat([embed(torch.tensor(PREFIX)), left[row], embed(ids)])
                places = [0, 1, *(2 + place for place in kept[row]), *range(2 + whole, 2 + whole + len(ids))]
                alone = model(inputs_embeds=inputs[None], position_ids=torch.tensor([places])).logits[0, -len(ids) :]
                together = packed_model.logits(states[row][packed.segment[row] == number])
                torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def test_only_answers_are_targets() -> None:
    packed = pack(ROWS)
    assert packed.text.tolist() == [[7, 8, 9, 10, 11, 12, 13, 14], [15, 16, 17, 18, 0, 0, 0, 0]]
    assert packed.segment.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, -1, -1, -1, -1]]
    assert packed.offset.tolist()[0] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert packed.target.tolist() == [[-100, -100, 10, 2, -100, 13, 14, 2], [-100, -100, -100, 2] + [-100] * 4]
