"""The language model for training: frozen weights, low-rank additions, many questions per picture.

A row of a batch is one picture and all that is asked about it: prefix, visual tokens, then the questions with
their answers, one after another. A question sees the picture and itself, at the positions that it would have
alone; the picture's part is attended causally without a mask, which costs half. Weights that share an input
are stacked, and a norm's weight is multiplied into the products behind it, since it is frozen too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from adafv.worlds.photo.lora import SCALE, Lora

# Products that share an input, and the norm before them.
_STACKS = {
    "qkv": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
    "o": (("self_attn.o_proj",), None),
    "gate_up": (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
    "down": (("mlp.down_proj",), None),
}
IGNORE = -100  # no target here (cross_entropy's own value)


@dataclass(frozen=True)
class Packed:
    """B rows of T text tokens behind their visual tokens."""

    text: Tensor  # int64 [B, T]: question, answer; the next question; ...
    segment: Tensor  # int64 [B, T]: which question a token belongs to; -1 for padding
    offset: Tensor  # int64 [B, T]: its place within the question
    target: Tensor  # int64 [B, T]: the next token where that is part of an answer, or IGNORE
    # int64 [B, V + 1]: where each visual token stands in its picture, and the picture's end; None: none is left out.
    places: Tensor | None = None


class PackedLanguageModel(nn.Module):
    """A Llama's frozen weights, as buffers, and its additions.

    Args:
        prefix: the tokens before a picture.
        dtype: of the weights and of what is computed with them.
    """

    embeddings: Tensor
    last_norm: Tensor
    prefix: Tensor
    frequencies: Tensor

    def __init__(
        self, model: LlamaForCausalLM, lora: Lora, prefix: list[int], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        config: Any = model.config
        self.lora = lora
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.width: int = config.head_dim
        self.layers: int = config.num_hidden_layers
        self.eps: float = config.rms_norm_eps
        self.register_buffer("embeddings", model.model.embed_tokens.weight.detach().to(dtype))
        self.register_buffer("last_norm", model.model.norm.weight.detach().to(dtype))
        self.register_buffer("prefix", torch.tensor(prefix))
        self.register_buffer("frequencies", cast(Tensor, model.model.rotary_emb.inv_freq).float().clone())
        for number, layer in enumerate(cast(Any, model.model.layers)):
            for stack, (names, norm) in _STACKS.items():
                weight = torch.cat([layer.get_submodule(name).weight.detach() for name in names])
                before = layer.get_submodule(norm).weight.detach() if norm else torch.ones(weight.shape[1])
                self.register_buffer(f"{stack}_{number}", (weight * before).to(dtype))
                self.register_buffer(f"{stack}_norm_{number}", before)

    def forward(self, visual: Tensor, packed: Packed) -> Tensor:
        """States behind the last norm of the tokens with a target: visual [B, V, d] -> [targets, d]."""
        return self.states(visual, packed)[packed.target != IGNORE]

    def states(self, visual: Tensor, packed: Packed) -> Tensor:
        """visual [B, V, d] -> states of the text tokens [B, T, d], behind the last norm."""
        rows = len(visual)
        start = self.embeddings[self.prefix].expand(rows, -1, -1)
        picture = torch.cat([start, visual.to(start.dtype)], dim=1)
        seen = picture.shape[1]
        hidden = torch.cat([picture, self.embeddings[packed.text]], dim=1)
        standing = torch.arange(visual.shape[1] + 1).expand(rows, -1) if packed.places is None else packed.places
        standing = torch.cat([torch.arange(len(self.prefix)).expand(rows, -1), len(self.prefix) + standing], dim=1)
        places = torch.cat([standing[:, :-1], standing[:, -1:] + packed.offset], dim=1)
        angles = places[..., None] * self.frequencies
        turn = torch.cat([angles, angles], dim=-1)
        cos, sin = (each.to(hidden.dtype)[:, None] for each in (turn.cos(), turn.sin()))
        mask = question_mask(packed, seen)[:, None]
        for number in range(self.layers):
            hidden = hidden + self._attend(self._norm(hidden), number, cos, sin, mask, seen)
            gate, up = self._product(self._norm(hidden), "gate_up", number).chunk(2, dim=-1)
            hidden = hidden + self._product(F.silu(gate) * up, "down", number)
        return self._norm(hidden[:, seen:]) * self.last_norm

    def logits(self, states: Tensor) -> Tensor:
        return (states @ self.embeddings.T).float()

    def _attend(self, hidden: Tensor, number: int, cos: Tensor, sin: Tensor, mask: Tensor, seen: int) -> Tensor:
        rows, length, _ = hidden.shape
        heads = self._product(hidden, "qkv", number).view(rows, length, -1, self.width).transpose(1, 2)
        turned = heads[:, : self.heads + self.kv_heads]
        turned = turned * cos + _rotate_half(turned) * sin
        repeats = self.heads // self.kv_heads
        query = turned[:, : self.heads]
        key = turned[:, self.heads :].repeat_interleave(repeats, dim=1)
        value = heads[:, self.heads + self.kv_heads :].repeat_interleave(repeats, dim=1)
        picture = F.scaled_dot_product_attention(
            query[:, :, :seen], key[:, :, :seen], value[:, :, :seen], is_causal=True
        )
        text = F.scaled_dot_product_attention(query[:, :, seen:], key, value, attn_mask=mask)
        found = torch.cat([picture, text], dim=2).transpose(1, 2).reshape(rows, length, -1)
        return self._product(found, "o", number)

    def _product(self, x: Tensor, stack: str, number: int) -> Tensor:
        weight = cast(Tensor, getattr(self, f"{stack}_{number}"))
        factors = [self.lora.factors(f"layers.{number}.{name}") for name in _STACKS[stack][0]]
        before = cast(Tensor, getattr(self, f"{stack}_norm_{number}"))
        down = (torch.cat([each[0] for each in factors]) * before).to(weight.dtype)
        up = torch.block_diag(*(each[1] for each in factors)).to(weight.dtype) * SCALE
        return F.linear(x, weight) + F.linear(F.linear(x, down), up)

    def _norm(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, hidden.shape[-1:], eps=self.eps)


def question_mask(packed: Packed, seen: int) -> Tensor:
    """bool [B, T, seen + T]: a text token sees the picture and what stands before it in its question."""
    same = packed.segment[:, :, None] == packed.segment[:, None, :]
    before = torch.ones(same.shape[1:], dtype=torch.bool).tril()
    return torch.cat([torch.ones(*same.shape[:2], seen, dtype=torch.bool), same & before], dim=-1)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def pack(rows: list[list[tuple[list[int], list[int]]]]) -> Packed:
    """Rows of (prompt, answer) token ids, padded on the right."""
    longest = max(sum(len(prompt) + len(answer) - 1 for prompt, answer in row) for row in rows)
    shape = (len(rows), longest)
    text, segment = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    offset, target = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE)
    for r, row in enumerate(rows):
        end = 0
        for number, (prompt, answer) in enumerate(row):
            ids = [*prompt, *answer][:-1]  # nothing is asked of the last token
            place = slice(end, end + len(ids))
            text[r, place] = torch.tensor(ids)
            segment[r, place] = number
            offset[r, place] = torch.arange(len(ids))
            target[r, place] = torch.tensor([IGNORE] * (len(prompt) - 1) + answer)
            end += len(ids)
    return Packed(text, segment, offset, target)
