"""The testbed's model: LLaVA-NeXT as transformers has it, at 1.3 million parameters.

A CLIP tower (48 px, patches of 8, so 36 per crop) reads the base picture and up to 3x3 crops; the projector's
input is the tower's layer -2 without [CLS]; the crops' patches are packed with newline embeddings; a Llama
with tied embeddings answers. So a picture of 96 x 96 px gives 36 + 144 visual tokens and 12 newlines.
Tokens are whole words, so that each of the question's words has one input embedding and the text cue is easy
to follow.

The prompt is `<s> <image>... question <answer>`, the reply its words and `</s>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from adafv.worlds.drawn.family import initialise
from adafv.worlds.drawn.questions import VOCABULARY

PAD, BOS, EOS, UNKNOWN, IMAGE, ANSWER = "<pad>", "<s>", "</s>", "<unk>", "<image>", "<answer>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNKNOWN, IMAGE, ANSWER)
TOKENS = (*SPECIAL_TOKENS, *VOCABULARY)  # a token's id is its place in this list

SPECIAL_IDS: dict[str, Any] = {
    "bos_token_id": TOKENS.index(BOS),
    "eos_token_id": TOKENS.index(EOS),
    "pad_token_id": TOKENS.index(PAD),
}

CROP, PATCH = 48, 8  # px
CROP_GRIDS = ((2, 2), (1, 2), (2, 1), (2, 3), (3, 2), (3, 3))  # rows and columns of crops
# (height, width) that a picture is fitted into before it is cut into crops
GRID_PINPOINTS = [[CROP * rows, CROP * columns] for rows, columns in CROP_GRIDS]

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %} <answer>{% endif %}
{%- if message['content'] is string %} {{ message['content'] }}
{%- else %}
{%- for item in message['content'] if item['type'] == 'image' %} <image>{% endfor %}
{%- for item in message['content'] if item['type'] == 'text' %} {{ item['text'] }}{% endfor %}
{%- endif %}
{%- if message['role'] == 'assistant' %} {{ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %} <answer>{% endif %}
"""


@dataclass(frozen=True)
class ModelSize:
    """What may be varied without changing the tokens or the crops."""

    vision_hidden: int = 128
    vision_mlp: int = 384
    vision_layers: int = 4  # the last is never used: vision_feature_layer is -2, as in LLaVA
    text_hidden: int = 128
    text_mlp: int = 320
    text_layers: int = 3
    heads: int = 4


def build_model(size: ModelSize = ModelSize(), seed: int = 0) -> LlavaNextForConditionalGeneration:
    """An untrained model; see `initialise` for its weights."""
    return start(LlavaNextForConditionalGeneration(model_config(size)), seed)


def start(model: Any, seed: int) -> Any:
    """Give the model its weights and the ends of its answers."""
    model.generation_config = GenerationConfig(**SPECIAL_IDS)
    initialise(model, seed)
    return model


def model_config(size: ModelSize = ModelSize()) -> LlavaNextConfig:
    vision = CLIPVisionConfig(
        hidden_size=size.vision_hidden,
        intermediate_size=size.vision_mlp,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads,
        projection_dim=size.vision_hidden,
        image_size=CROP,
        patch_size=PATCH,
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text_config(size),
        image_token_index=TOKENS.index(IMAGE),
        image_grid_pinpoints=GRID_PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(CROP // PATCH) ** 2,
        tie_word_embeddings=True,
        **SPECIAL_IDS,
    )


def text_config(size: ModelSize, words: int = len(TOKENS)) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=words,
        hidden_size=size.text_hidden,
        intermediate_size=size.text_mlp,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **SPECIAL_IDS,
    )


def build_processor() -> LlavaNextProcessor:
    """Image processor (PIL: no torchvision needed), tokenizer and chat template."""
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": CROP},
            crop_size={"height": CROP, "width": CROP},
            image_grid_pinpoints=GRID_PINPOINTS,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_tokenizer(
    tokens: Sequence[str] = TOKENS, more: Mapping[str, str] | None = None, **options: Any
) -> PreTrainedTokenizerFast:
    """`more`: further special tokens by name; `options`: the tokenizer's.

    Words and punctuation marks are tokens, in lower case; whatever isn't in the vocabulary is `<unk>`."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(tokens)}, unk_token=UNKNOWN))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE, "answer_token": ANSWER, **(more or {})},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )
