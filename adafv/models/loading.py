"""From a folder or hub id to a `Processing` or an `Adapter`.

Weights are read from safetensors only, and a repository's own Python code is never run: a dataset labelling job has no
business executing either a pickle or a stranger's module.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, PretrainedConfig

from adafv.models.adapter import Adapter
from adafv.models.llava import LlavaAdapter
from adafv.models.llava_next import LlavaNextAdapter
from adafv.models.processing import Processing

FAMILIES: dict[str, type[Adapter]] = {
    "llava": LlavaAdapter,
    "llava_next": LlavaNextAdapter,
}


def load_processing(path: str) -> Processing:
    """Load what needs no weights: configuration, tokenizer, image processor, chat template.

    Raises:
        ValueError: the model is of no supported family.
        OSError: there is no such model, or a file of it is missing.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    family = _family(config)
    images = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(path, image_processor=images, trust_remote_code=False)
    return Processing(family, config, processor)


def load_adapter(path: str, processing: Processing, device: torch.device, dtype: torch.dtype) -> Adapter:
    """Load the weights onto `device` in `dtype`. Errors as for `load_processing`."""
    model: Any = processing.family.model_class.from_pretrained(
        path, dtype=dtype, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
    )
    return processing.family(model.to(device).eval(), processing.normalisation())


def _family(config: PretrainedConfig) -> type[Adapter]:
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model type {config.model_type!r} is not supported; supported are {known}")
    return FAMILIES[config.model_type]
