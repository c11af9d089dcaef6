"""How vLLM gets at the language model's weights in a checkpoint that has a vision tower as well.

Importing this needs vLLM, and makes the load format known to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

LOAD_FORMAT = "adafv-language-model"
EXTENSION = "adafv.engine.vllm_weights.Extension"

# How the names begin in a LLaVA checkpoint, as published and as newer transformers saves it, in one of Idefics3, in a
# published one of Qwen2.5-VL, and how vLLM has them.
_NAMES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
    **{f"model.{part}.": f"model.{part}." for part in ("embed_tokens", "layers", "norm")},
}


class Extension:
    """Adds nothing to vLLM's worker processes but that they import this module."""


@register_model_loader(LOAD_FORMAT)
class LanguageModelLoader(DefaultModelLoader):
    """Reads safetensors only, and of these the language model's, by the names that its own checkpoint would have."""

    def __init__(self, load_config: Any) -> None:
        super().__init__(replace(load_config, load_format="safetensors"))

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Tensor]]:
        for name, weight in super().get_all_weights(model_config, model):
            start = next((start for start in _NAMES if name.startswith(start)), None)
            if start is not None:
                yield _NAMES[start] + name.removeprefix(start), weight
