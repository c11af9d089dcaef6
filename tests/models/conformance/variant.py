"""One model that is tried: a family with a language model, in its published configuration scaled down.

Weights are those of `tests.random_weights`. The tokenizer is made on the spot, of words, white space and the family's
special tokens, so that each character of a chat template counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLTextConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLTextConfig,
)

from tests.random_weights import spread

WORDS = [f"w{i}" for i in range(60)]
ROLES = ["USER", "ASSISTANT", "User", "Assistant", "user", "assistant", "INST"]
_VOCABULARY = [*WORDS, *ROLES, " ", "\n", "\n\n", ":", "[", "]", "/"]
_UNUSED = 5  # rows of the embeddings behind the tokenizer's last token, as published models have


@dataclass(frozen=True)
class Variant:
    """How to build it, and what its family does.

    Attributes:
        name: its row in the matrix.
        text: the language model: llama, mistral, mistral-0.1, qwen2, qwen3, qwen2_5_vl or qwen3_vl.
        config: from the language model's configuration and the tokenizer to the model's.
        images: the PIL image processor.
        processor: from image processor and tokenizer to transformers' own processor.
        template: the chat template as published.
        special: special tokens beside `bos`, `eos` and <pad>; by the tokenizer's attribute that names them, or None.
        bos: the token that the tokenizer puts first, if it does.
        eos: what ends an answer, the first being the tokenizer's.
        saliency: from the feature layer's attention [C, H, T, T] and the configuration to [C, P].
        names: other names that versions of transformers have given the weights, each as (pattern, replacement) pairs
            that make them of those that the installed version writes.
        watched: from the stock model to a context in which the feature layer's attention goes into a list, where that
            layer doesn't return it.
        pixels: from the adapter and an image's crops to what the processor makes of the image.
        longest: the most times that a picture may be as long as it is wide, or the other way round; the family's
            processor refuses others.
        inapplicable: columns of the matrix, and why the variant has nothing there.
    """

    name: str
    text: str
    config: Callable[[PretrainedConfig, PreTrainedTokenizerFast], PretrainedConfig]
    images: Callable[[], Any]
    processor: Callable[[Any, PreTrainedTokenizerFast], ProcessorMixin]
    template: str
    special: Mapping[str, str | None]
    saliency: Callable[[Tensor, Any], Tensor]
    bos: str | None = None
    eos: tuple[str, ...] = ("</s>",)
    names: tuple[tuple[tuple[str, str], ...], ...] = ()
    watched: Callable[[Any], AbstractContextManager[list[Tensor]]] | None = None
    pixels: Callable[[Any, Tensor], Tensor] = lambda adapter, crops: adapter.normalise(crops)
    longest: float = math.inf
    inapplicable: Mapping[str, str] = field(default_factory=dict)

    def build(self, path: Path, seed: int = 0) -> Path:
        """Save model, tokenizer, chat template and image processor under `path`, in the files that published models
        have. (A processor that reads videos couldn't be saved without torchvision.)
        """
        tokenizer = self.tokenizer()
        ids = [tokenizer.convert_tokens_to_ids(token) for token in self.eos]
        bos = tokenizer.convert_tokens_to_ids(self.bos) if self.bos else None
        config = self.config(_text_config(self.text, len(tokenizer) + _UNUSED, ids[0], bos), tokenizer)
        torch.manual_seed(seed)
        model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
        spread(model)
        eos = ids if len(ids) > 1 else ids[0]
        model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=0)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        self.images().save_pretrained(path)
        processor = type(self.processor(self.images(), tokenizer)).__name__
        (path / "processor_config.json").write_text(json.dumps({"processor_class": processor}))
        return path

    def tokenizer(self) -> PreTrainedTokenizerFast:
        attributes = {attribute: token for token, attribute in self.special.items() if attribute}
        special = dict.fromkeys(["<pad>", "<unk>", *([self.bos] if self.bos else []), *self.eos, *self.special])
        vocabulary = {token: i for i, token in enumerate([*special, *_VOCABULARY])}
        core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+| +|[A-Za-z0-9]+|."), "isolated")
        if self.bos:
            first = [(self.bos, vocabulary[self.bos])]
            core.post_processor = processors.TemplateProcessing(single=f"{self.bos} $A", special_tokens=first)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=self.bos,
            eos_token=self.eos[0],
            unk_token="<unk>",
            pad_token="<pad>",
            padding_side="left",
            chat_template=self.template,
            extra_special_tokens=attributes,
        )
        tokenizer.add_tokens([*special], special_tokens=True)
        return tokenizer


def blind(model: Any) -> None:
    """Let no patch of the vision tower see another: attention adds nothing. A visual token then changes if and only if
    its own pixels do.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(r"(vision.*\.v_proj|visual.*\.attn\.proj)\.", name):
                weight.zero_()


def cls_row(attention: Tensor, config: Any) -> Tensor:
    """[C, P]: what [CLS] attends to, averaged over the heads."""
    return attention[:, :, 0, 1:].mean(dim=1)


def received(attention: Tensor, config: Any) -> Tensor:
    """[C, P]: what each patch receives, averaged over those that attend and over the heads."""
    return attention.mean(dim=(1, 2))


def merged(patches: Tensor, by: int) -> Tensor:
    """[C, P / by²]: the mean of each `by` × `by` square of patches [C, P]."""
    side = int(patches.shape[1] ** 0.5)
    squares = patches.reshape(len(patches), side // by, by, side // by, by)
    return squares.mean(dim=(2, 4)).flatten(1)


def _text_config(kind: str, vocabulary: int, eos: int, bos: int | None) -> PretrainedConfig:
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "tie_word_embeddings": False,
    }
    match kind:
        case "llama":
            return LlamaConfig(**common)
        case "mistral":
            return MistralConfig(**common, sliding_window=None, rope_theta=1e6)  # as Mistral 7B v0.2
        case "mistral-0.1":
            return MistralConfig(**common, sliding_window=512)
        case "qwen2":
            return Qwen2Config(**common, rope_theta=1e6)
        case "qwen3":
            return Qwen3Config(**common, head_dim=8, rope_theta=1e6)
        case "qwen2_5_vl":
            rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
            return Qwen2_5_VLTextConfig(**common, rope_parameters=rope)
        case "qwen3_vl":
            rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
            return Qwen3VLTextConfig(**common, head_dim=8, rope_parameters=rope)
    raise ValueError(kind)
