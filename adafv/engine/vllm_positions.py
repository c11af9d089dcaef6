"""Positions that aren't 0, 1, 2, ... in vLLM: those of M-RoPE, and those that kept tokens had unpruned.

vLLM asks a model's class for M-RoPE positions and hands it the prompt's token ids. A prompt of embeddings needs no ids,
so ours say where its tokens stand: a token of text by its position, a visual token by its row and column, with
`IMAGE` set. Positions of text follow each other, and an image's begin after the text before it.

Importing this needs vLLM, and makes the classes known to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import ModelRegistry
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from adafv.engine.vllm_weights import Extension as Extension  # as vLLM's worker processes import this module

IMAGE, _SIDE = 1 << 30, 1 << 15


def ids_of(positions: Tensor, following: int) -> list[int]:
    """The ids, below 2^31, that say `positions`, int64 [3, T], and that the answer's first token is at `following`.

    Raises:
        ValueError: they can't say it.
    """
    time, rows, columns = positions.numpy()
    together = time[1:] == time[:-1]  # only visual tokens of an image are at the same time
    shown = (rows != time) | (columns != time)
    shown[1:] |= together
    shown[:-1] |= together
    ids = np.where(shown, IMAGE + (rows - time) * _SIDE + columns - time, time).tolist()
    said, delta = positions_of(ids)
    if not torch.equal(said, positions) or following != len(ids) + delta:
        raise ValueError("vLLM can't be told these positions; give backend 'transformers'")
    return ids


def positions_of(ids: list[int]) -> tuple[Tensor, int]:
    """What `ids_of` was given: int64 [3, T], and by how much the answer's first token is after place T."""
    given = np.asarray(ids, np.int64)
    shown = given >= IMAGE
    time = np.maximum.accumulate(np.where(shown, -1, given)) + shown
    place = np.where(shown, given - IMAGE, 0)
    found = np.stack([time, time + place // _SIDE, time + place % _SIDE])
    return torch.from_numpy(found), int(found[:, -1].max()) + 1 - len(ids)


class _Placed(SupportsMRoPE):
    """What makes a class of vLLM's ask for the prompts' own positions; its trial prompts are text."""

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        return positions_of(input_tokens)


def placed(architecture: str) -> str:
    """The class of a language model whose prompts say where their tokens stand.

    Raises:
        ValueError: there is none.
    """
    if f"Placed{architecture}" not in _CLASSES:
        raise ValueError(f"backend 'vllm' can't place the tokens of a {architecture}; give positions 'compact'")
    return f"Placed{architecture}"


_CLASSES = {
    f"Placed{base.__name__}": type(f"Placed{base.__name__}", (base, _Placed), {})
    for base in (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
}
for _name, _class in _CLASSES.items():
    ModelRegistry.register_model(_name, _class)
