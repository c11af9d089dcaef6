"""How research code gets the cues: the stock model, eager attention, every layer's full matrix. The yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaNextProcessor,
    LlavaProcessor,
    ProcessorMixin,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil


@dataclass(frozen=True, eq=False)
class SlowCues:
    """The packed sequence without its newlines: tokens [N, D], saliency [N], similarity [N]."""

    tokens: Tensor
    saliency: Tensor
    similarity: Tensor


class SlowModel:
    """The stock model and processor of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.processor = stock_processor(path)
        self.model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager").eval()

    def inputs(self, image: Image.Image, question: str):
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        if self.processor.chat_template:
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        else:
            text = f"<image>\n{question}"
        return self.processor(images=image, text=text, return_tensors="pt")

    @torch.inference_mode()
    def generate(self, image: Image.Image, question: str, max_new_tokens: int) -> list[int]:
        inputs = self.inputs(image, question)
        out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    @torch.inference_mode()
    def cues(self, image: Image.Image, question: str) -> SlowCues:
        inputs = self.inputs(image, question)
        config, inner = self.model.config, self.model.model
        pixels = inputs["pixel_values"].flatten(0, -4)  # [C, 3, H, W]
        out = inner.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
        layers = config.vision_feature_layer
        layers = [layers] if isinstance(layers, int) else layers
        count = config.vision_config.num_hidden_layers
        deepest = max(layer if layer >= 0 else count + 1 + layer for layer in layers)
        saliency = out.attentions[deepest - 1][:, :, 0, 1:].mean(dim=1)  # [C, P]
        features = torch.cat([out.hidden_states[layer] for layer in layers], dim=-1)[:, 1:]
        tokens = inner.multi_modal_projector(features)
        if hasattr(inner, "pack_image_features"):
            newline = torch.full((1,), torch.nan)
            packed = [
                inner.pack_image_features(
                    [crops], inputs["image_sizes"], "default", image_newline=newline.expand(width)
                )
                for crops, width in ((tokens, tokens.shape[-1]), (saliency[..., None], 1))
            ]
            (tokens,), (saliency,) = packed[0][0], packed[1][0]
            tokens, saliency = tokens[~tokens.isnan().any(dim=1)], saliency[~saliency.isnan()]
        else:
            tokens, saliency = tokens[0], saliency[0]
        return SlowCues(tokens, saliency, self._similarity(question, tokens))

    def _similarity(self, question: str, tokens: Tensor) -> Tensor:
        ids = self.processor.tokenizer(question, add_special_tokens=False)["input_ids"]
        best = torch.zeros(len(tokens))
        for token in ids:
            embedding = self.model.get_input_embeddings().weight[token]
            cosine = torch.nn.functional.cosine_similarity(embedding[None], tokens, dim=-1)
            best = torch.maximum(best, (100 * cosine).softmax(dim=0))
        return best


def stock_processor(path: Path):
    """The checkpoint's processor, as `AutoProcessor` builds it where all versions of transformers can."""
    settings, _ = ProcessorMixin.get_processor_dict(path)
    images, whole = {
        "LlavaProcessor": (CLIPImageProcessorPil, LlavaProcessor),
        "LlavaNextProcessor": (LlavaNextImageProcessorPil, LlavaNextProcessor),
    }[settings["processor_class"]]
    return whole(
        image_processor=images.from_pretrained(path),
        tokenizer=AutoTokenizer.from_pretrained(path),
        chat_template=settings.get("chat_template"),
        **{k: settings[k] for k in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")},
    )
