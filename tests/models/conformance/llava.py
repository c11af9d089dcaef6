"""LLaVA-1.5 and LLaVA-NeXT, with the language models that llava-hf publishes them with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    SiglipVisionConfig,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.models.conformance.stock import processor_of
from tests.models.conformance.variant import Variant, cls_row, received

SIDE, PATCH = 32, 8
UNEVEN = SIDE + PATCH - 2  # as SigLIP's 384 pixels are no whole number of 14
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]  # five, as LLaVA-NeXT's, for crops of 336

_IMAGES = (
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
)
_TEXTS = "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
VICUNA_1_5 = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    + _IMAGES
    + "{% if message['role'] != 'assistant' %}"
    + _TEXTS
    + "{{ content['text'] + ' '}}{% endfor %}{% else %}"
    + _TEXTS
    + "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VICUNA_NEXT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}"
    "{% else %}{{ message['role'].upper() + ': '}}{% endif %}"
    + _IMAGES
    + _TEXTS
    + "{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    + _IMAGES
    + _TEXTS
    + "{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'][0]['text'] + '</s> '}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for message in messages %}{{'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'}}"
    + _IMAGES
    + _TEXTS
    + "{{ content['text'] }}{% endfor %}{{'<|eot_id|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    + _IMAGES
    + _TEXTS
    + "{{ content['text'] }}{% endfor %}{{'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INTERLEAVE = CHATML.replace("<image>\n", "<image>").replace("content['text'] }}", "'\n' + content['text'] }}")

# What transformers writes is what it read: it keeps the names of 4.0 to 4.51 but for CLIP's. So the names of 4.52 to
# 4.57 are tried too.
OLD_NAMES = ((r"^vision_tower\.", "vision_tower.vision_model."),)
LATE_NAMES = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
    (r"^model\.vision_tower\.", "model.vision_tower.vision_model."),
)


def vision(tower: type[Any] = CLIPVisionConfig, **values: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return tower(**{**sizes, "image_size": SIDE, "patch_size": PATCH, **values})


def _llava(
    text: Any, tokenizer: Any, tower: Any = CLIPVisionConfig, strategy: str = "default", side: int = SIDE
) -> LlavaConfig:
    return LlavaConfig(
        vision_config=vision(tower, image_size=side),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
        image_seq_length=(SIDE // PATCH) ** 2,
    )


def dinov2(side: int = SIDE) -> Dinov2Config:
    """DINOv2-small scaled down."""
    return Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, image_size=side, patch_size=PATCH
    )


def _interpolated(text: Any, tokenizer: Any) -> LlavaConfig:
    """A tower trained at another size than the crops'."""
    config = _llava(text, tokenizer)
    config.vision_config = dinov2(side=SIDE + 3 * PATCH)
    return config


def _next(text: Any, tokenizer: Any, tower: Callable[[], Any] | None = None) -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=(tower or vision)(),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // PATCH) ** 2,
    )


def _clip_images() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def _dinov2_images() -> Any:
    crop = {"height": SIDE, "width": SIDE}
    return BitImageProcessorPil(size={"shortest_edge": SIDE + 6}, crop_size=crop, do_center_crop=True)


def _siglip_images() -> Any:
    return SiglipImageProcessorPil(size={"height": UNEVEN, "width": UNEVEN})


def _next_images() -> Any:
    size, crop = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    return LlavaNextImageProcessorPil(size=size, crop_size=crop, image_grid_pinpoints=PINPOINTS)


def _processor(images: Any, tokenizer: Any, whole: Any = LlavaProcessor, strategy: str = "default") -> Any:
    added = 1 if strategy == "default" else 0
    settings = {"vision_feature_select_strategy": strategy, "num_additional_image_tokens": added}
    return processor_of(whole, images, tokenizer, patch_size=PATCH, **settings)


def _variant(name: str, text: str, template: str, is_next: bool = True, special: tuple[str, ...] = (), **values: Any):
    usual = {
        "config": _next if is_next else _llava,
        "images": _next_images if is_next else _clip_images,
        "saliency": cls_row,
        "names": (OLD_NAMES, LATE_NAMES),
    }
    usual["processor"] = partial(_processor, whole=LlavaNextProcessor if is_next else LlavaProcessor)
    return Variant(
        name=name,
        text=text,
        template=template,
        special={"<image>": "image_token"} | dict.fromkeys(special),
        **{**usual, **values},
    )


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
_LLAMA_3 = {"bos": "<|begin_of_text|>", "eos": ("<|eot_id|>", "<|end_of_text|>")}
_YI = {"bos": "<|startoftext|>", "eos": ("<|im_end|>",)}

VARIANTS = (
    _variant("LLaVA-1.5, Vicuna", "llama", VICUNA_1_5, is_next=False, bos="<s>"),
    _variant("LLaVA-1.5, Llama-3", "llama", LLAMA_3, is_next=False, special=_HEADERS, **_LLAMA_3),
    _variant("LLaVA-1.5, Mistral v0.1", "mistral-0.1", VICUNA_1_5, is_next=False, bos="<s>"),
    Variant(
        name="LLaVA-interleave, Qwen (SigLIP)",
        text="qwen2",
        config=partial(_llava, tower=SiglipVisionConfig, strategy="full", side=UNEVEN),
        images=_siglip_images,
        processor=partial(_processor, strategy="full"),
        template=INTERLEAVE,
        special={"<image>": "image_token", "<|im_start|>": None},
        eos=("<|im_end|>",),
        saliency=received,
        names=(OLD_NAMES, LATE_NAMES),
    ),
    _variant(
        "LLaVA with SigLIP and Llama-3.1, as JoyCaption",
        "llama",
        LLAMA_3,
        is_next=False,
        special=_HEADERS,
        config=partial(_llava, tower=SiglipVisionConfig, strategy="full", side=UNEVEN),
        images=_siglip_images,
        processor=partial(_processor, strategy="full"),
        saliency=received,
        **_LLAMA_3,
    ),
    _variant(
        "LLaVA, DINOv2 at another size",
        "llama",
        CHATML,
        is_next=False,
        special=("<|im_start|>",),
        config=_interpolated,
        images=_dinov2_images,
        names=(),
        inapplicable={"names of weights": "such models were never published under other names"},
        **_YI,
    ),
    _variant("LLaVA-NeXT, Vicuna", "llama", VICUNA_NEXT, bos="<s>"),
    _variant("LLaVA-NeXT, Mistral", "mistral", MISTRAL, bos="<s>"),
    _variant("LLaVA-NeXT, Llama-3", "llama", LLAMA_3, special=_HEADERS, **_LLAMA_3),
    _variant("LLaVA-NeXT, Yi-34B", "llama", CHATML, special=("<|im_start|>",), **_YI),
    _variant(
        "LLaVA-NeXT, DINOv2",
        "llama",
        CHATML,
        special=("<|im_start|>",),
        config=partial(_next, tower=dinov2),
        names=(),
        inapplicable={"names of weights": "such models were never published under other names"},
        **_YI,
    ),
)
