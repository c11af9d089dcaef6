"""InternVL3 with Qwen2 and InternVL3.5 with Qwen3, in transformers' format."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import InternVLConfig, InternVLProcessor, InternVLVisionConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from tests.models.conformance.stock import processor_of
from tests.models.conformance.variant import Variant, cls_row, merged

SIDE, PATCH = 48, 8
TOKENS_PER_CROP = (SIDE // PATCH) ** 2 // 4
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = {
    "<IMG_CONTEXT>": "context_image_token",
    "<img>": "start_image_token",
    "</img>": "end_image_token",
    "<video>": "video_token",
    "<|im_start|>": None,
}
# transformers 4.52 to 4.57, which are the first to have the family, and what they wrote before 4.52 was released.
_LATE_NAMES = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(vision_tower|multi_modal_projector)", r"model.\1"),
)


def _config(text: Any, tokenizer: Any) -> InternVLConfig:
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        attention_bias=True,
        image_size=[SIDE, SIDE],
        patch_size=[PATCH, PATCH],
    )
    image = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image,
        image_seq_length=TOKENS_PER_CROP,
        tie_word_embeddings=False,
    )


def _images() -> Any:
    return GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=6)


def _saliency(attention: Tensor, config: Any) -> Tensor:
    return merged(cls_row(attention, config), 2)


def _variant(name: str, text: str) -> Variant:
    return Variant(
        name=name,
        text=text,
        config=_config,
        images=_images,
        processor=partial(processor_of, InternVLProcessor, image_seq_length=TOKENS_PER_CROP),
        template=TEMPLATE,
        special=TOKENS,
        eos=("<|im_end|>",),
        saliency=_saliency,
        names=(_LATE_NAMES,),
    )


VARIANTS = (_variant("InternVL3, Qwen2", "qwen2"), _variant("InternVL3.5, Qwen3", "qwen3"))
