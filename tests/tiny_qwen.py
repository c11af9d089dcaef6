"""Random-weight Qwen2.5-VL and Qwen3-VL models in their real configuration scaled down, with real processors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.random_weights import spread

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>", "system", "user", "assistant", "You", "are", "a", "helpful", "assistant.", "<unk>"]
WORDS = [f"w{i}" for i in range(200)]
# As published with Qwen2.5-VL, but for films, tools and what this tokenizer would take for one word.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|> system\nYou are a helpful assistant. <|im_end|> \n{% endif %}"
    "<|im_start|> {{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|> \n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)


@dataclass(frozen=True)
class QwenShape:
    """The sizes that matter to pruning. `most`: pixels of a resized image."""

    family: str = "qwen2_5_vl"
    patch: int = 4  # pixels, of which a token has two by two
    least: int = 2 * 8 * 8
    most: int = 60 * 8 * 8
    hidden: int = 48  # of the language model, in four heads
    generation: tuple[tuple[str, float], ...] = ()
    seed: int = 0


def build(path: Path, shape: QwenShape) -> Path:
    """Save a model of `shape`, its image processor and tokenizer under `path`."""
    torch.manual_seed(shape.seed)
    tokenizer = _tokenizer()
    model = _model(shape, tokenizer)
    spread(model)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(eos_token_id=[end, 0], pad_token_id=0, **dict(shape.generation))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    processor = Qwen2VLImageProcessorPil(
        patch_size=shape.patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": shape.least, "longest_edge": shape.most},
    )
    processor.save_pretrained(path)
    return path


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL[:7])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def _model(shape: QwenShape, tokenizer: PreTrainedTokenizerFast):
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "depth": 5,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": shape.hidden,
        "patch_size": shape.patch,
    }
    tokens = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{word}|>")
        for name, word in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    if shape.family == "qwen2_5_vl":
        half, third = shape.hidden // 8, shape.hidden // 24  # of a head's channels
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * third, third, third]}
        # Windows of 3 x 3 tokens; two layers see the whole image, as published four of 32 do.
        windows = {"window_size": 6 * shape.patch, "fullatt_block_indexes": [1, 3]}
        config = Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope}, vision_config={**vision, **windows}, **tokens
        )
        return Qwen2_5_VLForConditionalGeneration(config)
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**text, "rope_parameters": rope, "head_dim": 16},
        vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 2, 3]},
        **tokens,
    )
    return Qwen3VLForConditionalGeneration(config)
