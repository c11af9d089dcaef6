"""LLaVA-OneVision with Qwen2. Two crops' worth of patches is the most, so that small pictures are interpolated too."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from tests.models.conformance.llava import LATE_NAMES, OLD_NAMES, PATCH, SIDE, vision
from tests.models.conformance.stock import processor_of
from tests.models.conformance.variant import Variant, received

PINPOINTS = [[SIDE * rows, SIDE * columns] for rows in range(1, 4) for columns in range(1, 4)]
MOST = "anyres_max_2"
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _config(text: Any, tokenizer: Any) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config=vision(SiglipVisionConfig, vision_use_head=False),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=MOST,
    )


def _images() -> Any:
    return LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS)


VARIANTS = (
    Variant(
        name="LLaVA-OneVision, Qwen2",
        text="qwen2",
        config=_config,
        images=_images,
        processor=partial(
            processor_of,
            LlavaOnevisionProcessor,
            num_image_tokens=(SIDE // PATCH) ** 2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=MOST,
        ),
        template=TEMPLATE,
        special={"<image>": "image_token", "<video>": "video_token", "<|im_start|>": None},
        eos=("<|im_end|>",),
        saliency=received,
        names=(OLD_NAMES, LATE_NAMES),
    ),
)
