"""Qwen2.5-VL and Qwen3-VL, with windows, sections of M-RoPE and layers of deepstack scaled down alike."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen3VLConfig, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_window_index

from tests.models.conformance.stock import processor_of
from tests.models.conformance.variant import Variant

PATCH = 4
_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
TEMPLATE = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = {
    "<|image_pad|>": "image_token",
    "<|video_pad|>": "video_token",
    "<|vision_start|>": None,
    "<|vision_end|>": None,
    "<|im_start|>": None,
}
# transformers 4.52 to 4.57; before, and since, it writes the names of the published weights.
_LATE_NAMES = ((r"^model\.", "model.language_model."), (r"^visual\.", "model.visual."))


def _config(text: Any, tokenizer: Any, whole: Any, **vision: Any) -> Any:
    tower = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": text.hidden_size,
        "patch_size": PATCH,
        **vision,
    }
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    return whole(text_config=text, vision_config=tower, tie_word_embeddings=False, **ids)


def _images() -> Any:
    side = 2 * PATCH
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 4 * side**2, "longest_edge": 60 * side**2},
    )


@contextmanager
def _watched(model: Any) -> Iterator[list[Tensor]]:
    """The attention, [1, H, T, T], of the tower's last layer that sees the whole image, the columns in the order in
    which the merger's tokens come. The layer returns nothing but its output.
    """
    vision, tower, matrices, grids = model.config.vision_config, model.model.visual, [], []
    last = tower.blocks[max(getattr(vision, "fullatt_block_indexes", [vision.depth - 1]))].attn
    module = importlib.import_module(type(model).__module__)
    eager = module.eager_attention_forward

    def watching(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = eager(layer, *args, **kwargs)
        if layer is last:
            if hasattr(vision, "fullatt_block_indexes"):
                index, _ = get_vision_window_index(grids[0], 2, vision.window_size, vision.patch_size)
                weights = weights.unflatten(3, (-1, 4))[:, :, :, index.argsort()].flatten(3)
            matrices.append(weights)
        return output, weights

    hook = tower.register_forward_pre_hook(lambda _, args, kwargs: grids.append(kwargs["grid_thw"]), with_kwargs=True)
    with patch.object(module, "eager_attention_forward", watching):
        yield matrices
    hook.remove()


def _saliency(attention: Tensor, config: Any) -> Tensor:
    return attention.mean(dim=(1, 2)).unflatten(1, (-1, config.vision_config.spatial_merge_size**2)).mean(dim=2)


def _variant(name: str, text: str, processor: Any, template: str, **values: Any) -> Variant:
    return Variant(
        name=name,
        text=text,
        images=_images,
        processor=partial(processor_of, processor),
        template=template,
        special=TOKENS,
        eos=("<|im_end|>", "<|endoftext|>"),
        saliency=_saliency,
        watched=_watched,
        pixels=lambda adapter, crops: adapter.patches(crops),
        longest=200,
        **values,
    )


VARIANTS = (
    _variant(
        "Qwen2.5-VL",
        "qwen2_5_vl",
        Qwen2_5_VLProcessor,
        TEMPLATE.replace("SYSTEM", _SYSTEM),
        config=partial(_config, whole=Qwen2_5_VLConfig, window_size=6 * PATCH, fullatt_block_indexes=[1, 3]),
        names=(_LATE_NAMES,),
    ),
    _variant(
        "Qwen3-VL",
        "qwen3_vl",
        Qwen3VLProcessor,
        TEMPLATE.replace("SYSTEM", ""),
        config=partial(_config, whole=Qwen3VLConfig, num_position_embeddings=16, deepstack_visual_indexes=[0, 2]),
        inapplicable={"names of weights": "they have been the same since the family came to transformers"},
    ),
)
