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
    """The packed sequence without its newlines.

    Tokens [N, D], saliency [N], similarity [N], keys [N, E] averaged over heads, hidden [N, H] before the projector.
    """

    tokens: Tensor
    saliency: Tensor
    similarity: Tensor
    keys: Tensor
    hidden: Tensor


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
        projected: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(lambda _, __, out, name=name: projected.update({name: out}))
            for name, module in inner.vision_tower.named_modules()
            if name.endswith("self_attn.k_proj")
        ]
        out = inner.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        layers = config.vision_feature_layer
        layers = [layers] if isinstance(layers, int) else layers
        count = config.vision_config.num_hidden_layers
        deepest = max(layer if layer >= 0 else count + 1 + layer for layer in layers)
        saliency = out.attentions[deepest - 1][:, :, 0, 1:].mean(dim=1)  # [C, P]
        features = torch.cat([out.hidden_states[layer] for layer in layers], dim=-1)[:, 1:]
        (key,) = [value for name, value in projected.items() if f"layers.{deepest - 1}." in name]  # [C, 1 + P, H · E]
        keys = key[:, 1:].unflatten(2, (config.vision_config.num_attention_heads, -1)).mean(dim=2)
        tokens = self._packed(inner.multi_modal_projector(features), inputs)
        return SlowCues(
            tokens,
            self._packed(saliency[..., None], inputs).squeeze(1),
            similarity(self.model, self.processor.tokenizer, question, tokens),
            self._packed(keys, inputs),
            self._packed(features, inputs),
        )

    def _packed(self, crops: Tensor, inputs) -> Tensor:
        """[N, D] of [C, P, D]: in the order of the packed sequence, without the newlines."""
        if not hasattr(self.model.model, "pack_image_features"):
            return crops[0]
        newline = torch.full((crops.shape[-1],), torch.nan)
        (packed,), _ = self.model.model.pack_image_features(
            [crops], inputs["image_sizes"], "default", image_newline=newline
        )
        return packed[~packed.isnan().any(dim=1)]


def similarity(model, tokenizer, question: str, tokens: Tensor) -> Tensor:
    """[N]: a token's largest share, over the question's tokens, of the softmax over visual tokens."""
    best = torch.zeros(len(tokens))
    for token in tokenizer(question, add_special_tokens=False)["input_ids"]:
        embedding = model.get_input_embeddings().weight[token]
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
