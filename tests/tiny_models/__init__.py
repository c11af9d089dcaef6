"""Random-weight LLaVA and LLaVA-NeXT models with real processors, small enough to build in a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.random_weights import spread

WORDS = [f"w{i}" for i in range(200)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:"]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes that matter to pruning."""

    family: str = "llava_next"
    image: int = 32
    patch: int = 8
    layers: int = 3
    feature_layer: int | list[int] = -2
    heads: int = 4
    hidden: int = 32
    pinpoints: tuple[tuple[int, int], ...] = ((32, 64), (64, 32), (64, 64), (96, 32), (32, 96))
    template: bool = True
    letters: bool = False  # a tokenizer that can write any text, byte by byte
    seed: int = 0


def build(path: Path, shape: Shape | None = None) -> Path:
    """Save a model of `shape`, its processor and tokenizer under `path`."""
    shape = shape or Shape()
    torch.manual_seed(shape.seed)
    tokenizer = _tokenizer(shape)
    model = _model(shape, tokenizer)
    spread(model)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(path)
    _processor(shape, tokenizer).save_pretrained(path)
    return path


def _tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(SPECIAL + (letters if shape.letters else WORDS))}
    if shape.letters:
        core = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    else:
        core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=TEMPLATE if shape.template else None,
    )


def vision_config(shape: Shape, projection_dim: int = 512) -> CLIPVisionConfig:
    """The vision tower of that shape. The width of CLIP's projection matters to a whole CLIP model only."""
    return CLIPVisionConfig(
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=shape.image,
        patch_size=shape.patch,
        projection_dim=projection_dim,
    )


def _model(shape: Shape, tokenizer: PreTrainedTokenizerFast):
    vision = vision_config(shape)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    common = {
        "vision_config": vision,
        "text_config": text,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": shape.feature_layer,
        "vision_feature_select_strategy": "default",
    }
    if shape.family == "llava":
        return LlavaForConditionalGeneration(LlavaConfig(**common))
    pinpoints = [list(pinpoint) for pinpoint in shape.pinpoints]
    return LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=pinpoints))


def _processor(shape: Shape, tokenizer: PreTrainedTokenizerFast):
    size = {"shortest_edge": shape.image}
    crop = {"height": shape.image, "width": shape.image}
    common = {
        "tokenizer": tokenizer,
        "patch_size": shape.patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": TEMPLATE if shape.template else None,
    }
    if shape.family == "llava":
        return LlavaProcessor(image_processor=CLIPImageProcessorPil(size=size, crop_size=crop), **common)
    pinpoints = [list(pinpoint) for pinpoint in shape.pinpoints]
    images = LlavaNextImageProcessorPil(size=size, crop_size=crop, image_grid_pinpoints=pinpoints)
    return LlavaNextProcessor(image_processor=images, **common)
