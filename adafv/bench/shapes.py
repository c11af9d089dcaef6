"""Models of a named shape, with random weights, and questions about pictures to ask them.

How fast a model is depends on its sizes, not on what it has learnt. So the sizes are those of published checkpoints,
and weights, tokenizer, pictures and questions are made here: nothing is downloaded. The vocabulary is as large as the
published ones, its tokens are whole words, and no token ends an answer: all answers are as long as they may be.

`cpu-small` is no published model: it keeps the proportions of LLaVA-NeXT with Vicuna 7B (a language model 21 times as
large as the tower, as many layers of each, the same crops and visual tokens) at a size that two cores can run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from adafv.models import Processing
from adafv.models.general_processing import photo_only
from adafv.models.loading import FAMILIES

UNKNOWN, BOS, EOS, IMAGE, PAD = "<unk>", "<s>", "</s>", "<image>", "<pad>"
ADDED = 64  # at the end of the vocabulary: IMAGE, PAD, and what rounds it up

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
CHAT_TEMPLATE = (
    "{{ bos_token }}" + SYSTEM + " {% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows and columns of crops, LLaVA-NeXT's
SQUARE = (2.0, 2.0)  # height and width of a picture, in crops
SIZES = (SQUARE, (1.5, 2.0), (1.0, 3.0), (2.4, 1.6), (0.7, 1.0))  # of mixed pictures
WORDS = 12  # of a question
LENGTHS = (WORDS, 4, 25, 8, 60, 16)  # of mixed questions; as many as there are sizes would pair them up
COARSE = 16  # px; pictures are smooth over so many, as photographs are


@dataclass(frozen=True)
class Stack:
    """The sizes of a transformer."""

    layers: int
    hidden: int
    mlp: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model. `family` is the name of one of `adafv.models`."""

    family: str = "llava_next"
    tower: Stack
    language: Stack
    crop: int = 336  # px
    patch: int = 14  # px
    vocabulary: int = 32_064
    context: int = 4096

    @property
    def grids(self) -> list[list[int]]:
        """(height, width) of what pictures are fitted into before they are cut into crops."""
        return [[self.crop * rows, self.crop * columns] for rows, columns in GRIDS]


CLIP_L = Stack(layers=24, hidden=1024, mlp=4096, heads=16)
VICUNA_7B = Stack(layers=32, hidden=4096, mlp=11_008, heads=32)
VICUNA_13B = Stack(layers=40, hidden=5120, mlp=13_824, heads=40)

PRESETS = {
    "cpu-small": Shape(tower=Stack(24, 128, 512, 2), language=Stack(32, 512, 1376, 8)),
    "cpu-one-crop": Shape(family="llava", tower=Stack(24, 128, 512, 2), language=Stack(8, 512, 1376, 8)),
    "llava-next-7b": Shape(tower=CLIP_L, language=VICUNA_7B),
    "llava-next-13b": Shape(tower=CLIP_L, language=VICUNA_13B),
    "llava-1.5-7b": Shape(family="llava", tower=CLIP_L, language=VICUNA_7B),
}


@dataclass(frozen=True, slots=True, eq=False)
class BenchQuestion:
    """One question about one picture."""

    image: Image.Image
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model that is measured in several ways, with its processor.

    Attributes:
        model: as transformers builds it, never run.
        processing: its parts that need no weights, for the engine.
        processor: transformers' own, for its `generate` and for the general adapter.
    """

    model: PreTrainedModel
    processing: Processing
    processor: Any

    @classmethod
    def build(cls, shape: Shape, device: torch.device, dtype: torch.dtype) -> Subject:
        """A model of that shape. It is built where it will run: 13 billion weights in the host's memory first would
        be 52 GB.
        """
        tokenizer, family = _tokenizer(shape), FAMILIES[shape.family]
        config = _config(shape, tokenizer)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        torch.manual_seed(0)
        try:
            with device:
                model = cast(Any, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)])(config)
        finally:
            torch.set_default_dtype(before)
        model.set_attn_implementation("sdpa")
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        images = _image_processor(shape)
        processing = Processing(
            family=family, config=config, image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE
        )
        return cls(model.eval(), processing, _processor(shape, images, tokenizer))

    def fresh_model(self) -> Any:
        """A model to change and run, with the weights of `model` and nothing else in common."""
        shared = [*self.model.parameters(), *self.model.buffers()]
        return copy.deepcopy(self.model, {id(tensor): tensor for tensor in shared})

    def save(self, folder: str) -> None:
        """As a checkpoint."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def ask(shape: Shape, count: int, questions: int, mixed: bool, seed: int = 0) -> list[BenchQuestion]:
    """So many questions in all, that many in a row about the same picture, no two of which are equal.

    Args:
        mixed: pictures of several sizes and questions of several lengths, rather than one each.
        seed: others have other pictures and words, of the same sizes and lengths.
    """
    random = np.random.default_rng(seed)
    lengths = cycle(LENGTHS if mixed else [WORDS])
    pictures = (_picture(random, shape.crop, size) for size in cycle(SIZES if mixed else [SQUARE]))
    asked: list[BenchQuestion] = []
    while len(asked) < count:
        picture = next(pictures)
        some = min(questions, count - len(asked))
        asked += [BenchQuestion(picture, _text(random, shape, length)) for length in islice(lengths, some)]
    return asked


def _picture(random: np.random.Generator, crop: int, size: tuple[float, float]) -> Image.Image:
    height, width = (round(side * crop) for side in size)
    coarse = random.integers(0, 256, (-(-height // COARSE), -(-width // COARSE), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _text(random: np.random.Generator, shape: Shape, length: int) -> str:
    words = _vocabulary(shape)[-ADDED - shape.vocabulary // 2 : -ADDED]
    return " ".join(words[place] for place in random.integers(0, len(words), length - 1)) + " ?"


def _vocabulary(shape: Shape) -> list[str]:
    """A token's id is its place in this list. The special ones stand where Llama and LLaVA have them."""
    pieces = Whitespace().pre_tokenize_str(f"{SYSTEM} USER: ASSISTANT: ?")
    known = [UNKNOWN, BOS, EOS, *dict.fromkeys(piece for piece, _ in pieces)]
    plain = [f"w{place}" for place in range(len(known), shape.vocabulary - ADDED)]
    return [*known, *plain, IMAGE, PAD, *(f"added{place}" for place in range(2, ADDED))]


def _tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(_vocabulary(shape))}, unk_token=UNKNOWN))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=shape.context,
        model_input_names=["input_ids", "attention_mask"],
    )


def _config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig | LlavaNextConfig:
    vision = CLIPVisionConfig(
        hidden_size=shape.tower.hidden,
        intermediate_size=shape.tower.mlp,
        num_hidden_layers=shape.tower.layers,
        num_attention_heads=shape.tower.heads,
        image_size=shape.crop,
        patch_size=shape.patch,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.language.hidden,
        intermediate_size=shape.language.mlp,
        num_hidden_layers=shape.language.layers,
        num_attention_heads=shape.language.heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
    )
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (shape.crop // shape.patch) ** 2,
    }
    if shape.family == "llava":
        return LlavaConfig(**common)
    return LlavaNextConfig(**common, image_grid_pinpoints=shape.grids)


def _image_processor(shape: Shape) -> Any:
    sizes: dict[str, Any] = {
        "size": {"shortest_edge": shape.crop},
        "crop_size": {"height": shape.crop, "width": shape.crop},
    }
    if shape.family == "llava":
        return CLIPImageProcessorPil(**sizes)
    return LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=shape.grids)


def _processor(shape: Shape, images: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    whole = photo_only(LlavaProcessor if shape.family == "llava" else LlavaNextProcessor)
    return whole(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
