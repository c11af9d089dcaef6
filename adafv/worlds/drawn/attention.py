"""Attention over a picture and many questions behind it: each question sees the picture and itself.

Nearly all of a mask over the whole row would be of questions that don't see each other. So the text is cut into blocks
as long as the longest question, and a block attends to the picture, the block before it and itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

_QUESTIONS, _PICTURES = "sdpa_by_questions", "sdpa_by_pictures"


def block_mask(prefix_length: Tensor, prefix_width: int, segment: Tensor, block: int) -> Tensor:
    """bool [B * n, 1, block, prefix_width + 2 * block]: what each token of a block may look at.

    prefix_length [B], segment [B, n * block] (-1: padding; no question is longer than a block).
    """
    own = segment.unflatten(1, (-1, block))  # [B, n, block]
    before = functional.pad(own, (0, 0, 1, 0), value=-1)[:, :-1]
    near = torch.cat([before, own], dim=2)  # [B, n, 2 * block]
    places = torch.arange(2 * block)
    earlier = places <= places[block:, None]
    seen = (near[:, :, None] == own[..., None]) & (own >= 0)[..., None] & earlier
    picture = (torch.arange(prefix_width) < prefix_length[:, None])[:, None, None].expand(*seen.shape[:3], -1)
    seen = torch.cat([picture, seen], dim=3)
    return seen.flatten(0, 1)[:, None]


@contextmanager
def by_blocks(language_model: Any) -> Iterator[None]:
    """Within it the model takes a `block_mask` for its attention mask."""
    with _attends(language_model, _QUESTIONS):
        yield


@contextmanager
def by_pictures(tower: Any) -> Iterator[None]:
    """Within it a tower that takes pictures as one sequence has `pictures` of one size, and attends in all at once."""
    with _attends(tower, _PICTURES):
        yield


@contextmanager
def _attends(model: Any, name: str) -> Iterator[None]:
    stock = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = stock


def _by_questions(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """query, key, value [B, H, prefix + n * block, d] -> [B, prefix + n * block, H, d]"""
    block = attention_mask.shape[2]
    prefix = attention_mask.shape[3] - 2 * block
    causal = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    picture = _attend(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], scaling, causal)
    blocks = (query.shape[2] - prefix) // block
    keys, values = (_near(each, prefix, block) for each in (key, value))
    asked = query[:, :, prefix:].unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)
    text = _attend(asked, keys, values, scaling, attention_mask)
    text = text.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)
    return torch.cat([picture, text], dim=2).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None = None) -> Tensor:
    """[B, H, L, d] by plain products: backwards, torch's own attention is several times slower in bfloat16 on a CPU."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return scores.softmax(-1) @ value


def _near(rows: Tensor, prefix: int, block: int) -> Tensor:
    """[B * n, H, prefix + 2 * block, d]: the picture's rows, the block's before and its own."""
    own = rows[:, :, prefix:].unflatten(2, (-1, block)).transpose(1, 2)  # [B, n, H, block, d]
    before = functional.pad(own, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
    picture = rows[:, None, :, :prefix].expand(-1, own.shape[1], -1, -1, -1)
    return torch.cat([picture, before, own], dim=3).flatten(0, 1)


def plainly(tower: Any) -> AbstractContextManager[None]:
    """Within it the model attends by plain products: see `_attend`."""
    return _attends(tower, "eager")


def _by_pictures(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    pictures: int,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query, key, value [1, H, N, d] -> [1, N, H, d]"""
    query, key, value = (rows[0].unflatten(1, (pictures, -1)).transpose(0, 1) for rows in (query, key, value))
    found = _attend(query, key, value, scaling)
    return found.transpose(1, 2).flatten(0, 1)[None], None


AttentionInterface.register(_QUESTIONS, _by_questions)
AttentionInterface.register(_PICTURES, _by_pictures)
