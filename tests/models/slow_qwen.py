"""`slow_way` for Qwen-VL: the stock model by hand, without its processor, which wants torchvision for films.

Every cue is read off eager attention matrices; pruned prompts go through the stock language model as a whole at every
step, without a cache, at the positions that the stock model gives them unpruned.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.models.slow_way import SlowCues, SlowModel, similarity


@dataclass(frozen=True, eq=False)
class QwenCues(SlowCues):
    """With keys averaged over a token's patches, too, and hidden [N, 4 · H]."""

    deepstack: Tensor | None


class SlowQwen(SlowModel):
    """The stock model, image processor and tokenizer of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.images = Qwen2VLImageProcessorPil.from_pretrained(path)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager").eval()

    def inputs(self, image: Image.Image, question: str) -> dict[str, Tensor]:
        """What the stock processor gives: placeholders expanded, and which positions are an image's."""
        pixels = self.images(image, return_tensors="pt")
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        tokens = int(pixels["image_grid_thw"].prod()) // 4
        text = text.replace("<|image_pad|>", "<|image_pad|>" * tokens)
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        shown = (ids == self.model.config.image_token_id).int()
        return {**pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": shown}

    @torch.inference_mode()
    def pruned(self, image: Image.Image, question: str, kept: Tensor, steps: int) -> list[int]:
        """The greedy answer to a prompt of which only the visual tokens `kept`, int64 [K], are there."""
        inputs, inner = self.inputs(image, question), self.model.model
        ids, grid = inputs["input_ids"], inputs["image_grid_thw"]
        positions, delta = inner.get_rope_index(ids, inputs["mm_token_type_ids"], image_grid_thw=grid)
        out = inner.get_image_features(inputs["pixel_values"], grid)
        shown = inputs["mm_token_type_ids"][0].bool()
        embeds = self.model.get_input_embeddings()(ids)
        embeds[0, shown] = out.pooler_output[0]
        stays = ~shown
        stays[shown.nonzero().flatten()[kept]] = True
        embeds, positions, shown = embeds[:, stays], positions[:, :, stays], shown[stays]
        answer: list[int] = []
        while len(answer) < steps:
            added = {}
            if stack := getattr(out, "deepstack_features", None):
                seen = torch.cat([shown, torch.zeros(len(answer), dtype=torch.bool)])[None]
                added = {"visual_pos_masks": seen, "deepstack_visual_embeds": [layer[0][kept] for layer in stack]}
            hidden = inner.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False, **added)
            answer.append(int(self.model.lm_head(hidden.last_hidden_state[0, -1]).argmax()))
            if answer[-1] in self.model.generation_config.eos_token_id:
                break
            embeds = torch.cat([embeds, self.model.get_input_embeddings()(torch.tensor([[answer[-1]]]))], dim=1)
            after = ids.shape[1] + int(delta) + len(answer) - 1
            positions = torch.cat([positions, torch.full((3, 1, 1), after)], dim=2)
        return answer

    @torch.inference_mode()
    def cues(self, image: Image.Image, question: str, monkeypatch) -> QwenCues:
        inputs, vision = self.inputs(image, question), self.model.config.vision_config
        blocks = self.model.model.visual.blocks
        last = blocks[max(getattr(vision, "fullatt_block_indexes", [len(blocks) - 1]))].attn
        seen, order = [], None
        module = importlib.import_module(type(self.model).__module__)
        eager = module.eager_attention_forward

        def watched(layer, query, key, *args, **kwargs):
            output, weights = eager(layer, query, key, *args, **kwargs)
            if layer is last:
                seen.append((weights[0].mean(dim=(0, 1)), key[0].mean(dim=0)))
            return output, weights

        with monkeypatch.context() as patch:
            patch.setattr(module, "eager_attention_forward", watched)
            out = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        ((saliency, key),) = seen  # windows would be called for one by one
        if hasattr(vision, "fullatt_block_indexes"):
            index = importlib.import_module("transformers.vision_utils").get_vision_window_index(
                inputs["image_grid_thw"], 2, vision.window_size, vision.patch_size
            )[0]
            order = index.argsort()
        values = {"saliency": saliency.view(-1, 4).mean(dim=1), "keys": key.view(-1, 4, key.shape[1]).mean(dim=1)}
        values["hidden"] = out.last_hidden_state.reshape(-1, 4 * vision.hidden_size)
        if order is not None:
            values = {name: value[order] for name, value in values.items()}
        (tokens,) = out.pooler_output
        stack = getattr(out, "deepstack_features", None)
        deepstack = torch.stack([layer[0] for layer in stack], dim=1) if stack else None
        values["similarity"] = similarity(self.model, self.tokenizer, question, tokens)
        return QwenCues(tokens, deepstack=deepstack, **values)
