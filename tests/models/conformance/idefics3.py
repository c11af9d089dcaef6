"""Idefics3 with Llama-3 and SmolVLM with SmolLM2, which is a Llama."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import Idefics3Config, Idefics3Processor, SmolVLMConfig, SmolVLMProcessor
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.models.conformance.stock import processor_of
from tests.models.conformance.variant import Variant, merged, received

SIDE = 48
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TOKENS = {
    "<image>": "image_token",
    "<fake_token_around_image>": "fake_image_token",
    "<global-img>": "global_image_token",
    **{f"<row_{row}_col_{column}>": None for row in range(1, 7) for column in range(1, 7)},
}


def _config(text: Any, tokenizer: Any, whole: Any, vision: Any, patch: int, scale: int) -> Any:
    tower = vision(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=patch,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    return whole(vision_config=tower, text_config=text, image_token_id=image, scale_factor=scale)


def _images(processor: Any) -> Any:
    return processor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})


def _smolvlm(images: Any, tokenizer: Any) -> Any:
    processing_smolvlm.num2words = processing_smolvlm.num2words or repr  # it spells numbers of video frames
    return processor_of(SmolVLMProcessor, images, tokenizer, image_seq_len=9)


def _saliency(attention: Tensor, config: Any) -> Tensor:
    return merged(received(attention, config), config.scale_factor)


VARIANTS = (
    Variant(
        name="Idefics3, Llama-3",
        text="llama",
        config=partial(_config, whole=Idefics3Config, vision=Idefics3VisionConfig, patch=8, scale=2),
        images=partial(_images, Idefics3ImageProcessorPil),
        processor=partial(processor_of, Idefics3Processor, image_seq_len=9),
        template=TEMPLATE.replace("<|im_start|>", "<|begin_of_text|>"),
        special=TOKENS,
        bos="<|begin_of_text|>",
        eos=("<end_of_utterance>",),
        saliency=_saliency,
        inapplicable={"names of weights": "they have been the same since the family came to transformers"},
    ),
    Variant(
        name="SmolVLM, SmolLM2",
        text="llama",
        config=partial(_config, whole=SmolVLMConfig, vision=SmolVLMVisionConfig, patch=4, scale=4),
        images=partial(_images, SmolVLMImageProcessorPil),
        processor=_smolvlm,
        template=TEMPLATE,
        special=TOKENS,
        bos="<|im_start|>",
        eos=("<end_of_utterance>",),
        saliency=_saliency,
        inapplicable={"names of weights": "they have been the same since the family came to transformers"},
    ),
)
