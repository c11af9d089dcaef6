"""Transformers' own way with a checkpoint: its processor, its `generate`, and the cues from whole attention matrices.

A processor that also reads videos or sounds wants parts that want other libraries. Pictures need none of them, so here
it gets some that can't do anything: the processor is the stock class with its own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tests.models.conformance.variant import Variant
from tests.models.slow_way import similarity


class Nothing:
    """Stands for a processor of videos or sounds."""

    model_input_names = ()
    num_frames = fps = None


def for_pictures(processor: type[Any], **arguments: Any) -> Any:
    """A `processor` with a `Nothing`, which it would refuse, for what isn't among its `arguments`."""

    class Pictures(processor):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if not isinstance(argument, Nothing):
                return super().check_argument_for_proper_class(argument_name, argument)

    Pictures.__name__ = processor.__name__
    parts = {"video_processor", "feature_extractor"} & inspect.signature(processor.__init__).parameters.keys()
    return Pictures(**dict.fromkeys(parts, Nothing()), **arguments)


def processor_of(processor: type[Any], images: Any, tokenizer: Any, **settings: Any) -> Any:
    """A `processor` for pictures, with the tokenizer's chat template."""
    parts = {"image_processor": images, "tokenizer": tokenizer, "chat_template": tokenizer.chat_template}
    return for_pictures(processor, **parts, **settings)


@dataclass(frozen=True)
class Answer:
    """What stock transformers answers: tokens, their mean log-probability, and how long the prompt was."""

    ids: list[int]
    mean_logprob: float
    prompt_tokens: int


@torch.inference_mode()
def generated(model: Any, inputs: Any, max_new_tokens: int) -> Answer:
    """What a stock model answers greedily."""
    how = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    out = model.generate(**inputs, max_new_tokens=max_new_tokens, **how)
    prompt = inputs["input_ids"].shape[1]
    ids = out.sequences[0, prompt:]
    scores = torch.cat(out.logits).float().log_softmax(dim=-1)
    return Answer(ids.tolist(), float(scores.gather(1, ids[:, None]).mean()), prompt)


@dataclass(frozen=True, eq=False)
class SlowCues:
    """The visual tokens in the packed sequence's order, without newlines: [N, D], and their cues [N]."""

    tokens: Tensor
    saliency: Tensor
    similarity: Tensor


class Stock:
    """The stock model and processor of a checkpoint. Attention is eager: the matrices are there."""

    def __init__(self, variant: Variant, path: Path) -> None:
        self.variant = variant
        self.processor = variant.processor(variant.images(), AutoTokenizer.from_pretrained(path))
        self.model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager").eval()

    def inputs(self, images: list[Image.Image], question: str) -> Any:
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        given = {"images": [images]} if images else {}
        bos = self.processor.tokenizer.bos_token
        added = bos is None or not text.startswith(bos)  # as `apply_chat_template(tokenize=True)` decides it
        return self.processor(**given, text=[text], return_tensors="pt", add_special_tokens=added)

    def generate(self, images: list[Image.Image], question: str, max_new_tokens: int) -> Answer:
        return generated(self.model, self.inputs(images, question), max_new_tokens)

    @torch.inference_mode()
    def cues(self, image: Image.Image, question: str) -> SlowCues:
        inputs = self.inputs([image], question)
        inputs.pop("input_ids"), inputs.pop("attention_mask"), inputs.pop("token_type_ids", None)
        for extra in ("mm_token_type_ids", "rows", "cols"):
            inputs.pop(extra, None)
        newline = getattr(self.model.model, "image_newline", None)
        kept = None if newline is None else newline.clone()
        if newline is not None:
            newline.fill_(torch.nan)
        with (self.variant.watched or self._watched)(self.model) as matrices:
            packed = self.model.get_image_features(**inputs, return_dict=True).pooler_output
        if newline is not None:
            newline.copy_(kept)
        packed = torch.cat([part.flatten(0, -2) for part in packed])
        tokens = packed[~packed.isnan().any(dim=1)]
        saliency = self._packed(self.variant.saliency(matrices[0], self.model.config), inputs)
        return SlowCues(tokens, saliency, similarity(self.model, self.processor.tokenizer, question, tokens))

    @contextmanager
    def _watched(self, model: Any) -> Iterator[list[Tensor]]:
        """A list that the attention of the layer that feeds the projector goes into."""
        matrices: list[Tensor] = []
        hook = self._feature_attention().register_forward_hook(lambda _, __, out: matrices.append(out[1]))
        yield matrices
        hook.remove()

    def _feature_attention(self) -> Any:
        """The attention whose output feeds the projector."""
        config = self.model.config
        layer = getattr(config, "vision_feature_layer", -1)
        count = config.vision_config.num_hidden_layers
        depth = layer if layer >= 0 else count + 1 + layer
        tower = getattr(self.model.model, "vision_tower", None) or self.model.model.vision_model
        encoder = getattr(tower, "vision_model", tower).encoder
        layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
        return getattr(layers[depth - 1], "self_attn", None) or layers[depth - 1].attention

    def _packed(self, crops: Tensor, inputs: Any) -> Tensor:
        """[N] of [C, P]: in the order of the packed sequence, without the newlines."""
        inner = self.model.model
        if not hasattr(inner, "pack_image_features"):
            return crops.flatten()
        arguments: dict[str, Any] = {"image_newline": torch.full((1,), torch.nan)}
        if hasattr(self.model.config, "vision_aspect_ratio"):
            arguments["vision_aspect_ratio"] = self.model.config.vision_aspect_ratio
        else:
            arguments["vision_feature_select_strategy"] = "default"
        (packed,), _ = inner.pack_image_features([crops[..., None]], inputs["image_sizes"], **arguments)
        return packed[~packed.isnan()]
