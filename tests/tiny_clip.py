"""Random-weight CLIP models whose vision half has the shape of `tiny_models`' vision towers."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer

from tests.random_weights import spread
from tests.tiny_models import Shape, vision_config

# CLIP's tokens end in </w> where a word ends; without merges every character is a token.
_CHARACTERS = string.ascii_lowercase + string.digits + "?.,:<>"
VOCABULARY = [*_CHARACTERS, *(f"{one}</w>" for one in _CHARACTERS), "<|startoftext|>", "<|endoftext|>"]


def build_clip(path: Path, shape: Shape | None = None, seed: int = 7) -> Path:
    """Save a CLIP model for `shape` and its tokenizer under `path`."""
    shape = shape or Shape()
    torch.manual_seed(seed)
    start, end = len(VOCABULARY) - 2, len(VOCABULARY) - 1
    text = CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        projection_dim=16,
    )
    vision = vision_config(shape, projection_dim=16)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    model = CLIPModel(config)
    spread(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 and "norm" in name:
                weight.normal_(1 if name.endswith("weight") else 0, 0.5)  # or nobody would miss them
    model.save_pretrained(path)
    CLIPTokenizer(vocab={token: i for i, token in enumerate(VOCABULARY)}, merges=[]).save_pretrained(path)
    return path
