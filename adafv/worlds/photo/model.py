"""The world's models as LLaVA checkpoints: published weights, and what was trained of them.

Tower and embeddings are the published ones. The tower's positions are interpolated to the crops' 24 x 24 patches once,
as the tower itself would for each picture: LLaVA-NeXT reads the crops' size from the tower's configuration.

The prompt is SmolLM2's ChatML without a system message. `<filename>`, a token of the published vocabulary that
nothing else uses, stands for an image, so that the embeddings keep their number.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Dinov2Model,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from adafv.worlds.photo.features import CROP, FEATURE_LAYER, IMAGE_MEAN, IMAGE_STD, PATCH, SIDE
from adafv.worlds.photo.lora import lora_for
from adafv.worlds.photo.parts import load_language_model, load_tokenizer, load_tower

IMAGE = "<filename>"
PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [3 * CROP, CROP], [CROP, 3 * CROP]]
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{- message['content'] }}
{%- else %}
{%- for item in message['content'] if item['type'] == 'image' %}{{- '<filename>\\n' }}{% endfor %}
{%- for item in message['content'] if item['type'] == 'text' %}{{- item['text'] }}{% endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
WEIGHTS = Path(__file__).parent / "weights"  # what was trained, by model


def trained_file(model: str) -> Path:
    return WEIGHTS / model / "trained.safetensors"


def save_trained(file: Path, projector: dict[str, Tensor], lora: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write what was trained, in bfloat16, with `about` as metadata."""
    tensors = {f"projector.{name}": value for name, value in projector.items()}
    tensors |= {f"lora.{name}": value for name, value in lora.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({name: value.detach().bfloat16().contiguous() for name, value in tensors.items()}, partial, about)
    os.replace(partial, file)


def about_trained(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as stored:
        return dict(stored.metadata())


def load_trained(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states of projector and additions, in float32."""
    stored = {name: value.float() for name, value in load_file(file).items()}
    return _below(stored, "projector."), _below(stored, "lora.")


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def build(trained: Path, unpacked: Path, folder: Path, is_next: bool) -> None:
    """Write a LLaVA-1.5 checkpoint, or a LLaVA-NeXT one, of the parts in `unpacked` and the file `trained`."""
    tower, language, tokenizer = load_tower(unpacked), load_language_model(unpacked), load_tokenizer(unpacked)
    projector, additions = load_trained(trained)
    lora = lora_for(cast(Any, language).model)
    lora.load_state_dict(additions)
    lora.merge(cast(Any, language).model)
    _interpolate(tower)
    model: Any = _assembled(language.config, tower, tokenizer, is_next)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(projector)
    model.model.language_model.load_state_dict(cast(Any, language).model.state_dict())
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    if is_next:
        model.model.image_newline.data = projector_newline(language)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor(tokenizer, is_next).save_pretrained(partial)
    (partial / "about.json").write_text(json.dumps(about_trained(trained), indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def projector_newline(language: Any) -> Tensor:
    """What ends a row of patches in LLaVA-NeXT: the published embedding of a line's end."""
    return cast(Tensor, language.model.embed_tokens.weight[198].detach().clone())


@torch.no_grad()
def _interpolate(tower: Dinov2Model) -> None:
    """Make the tower one of crops of CROP px, as its own code interpolates."""
    cls, patches = tower.embeddings.position_embeddings.split([1, tower.embeddings.position_embeddings.shape[1] - 1], 1)
    side = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    positions = torch.cat([cls, grid.permute(0, 2, 3, 1).reshape(1, SIDE * SIDE, -1)], dim=1)
    tower.embeddings.position_embeddings = torch.nn.Parameter(positions)
    tower.config.image_size = CROP


def _assembled(text: Any, tower: Dinov2Model, tokenizer: Any, is_next: bool) -> Any:
    common: dict[str, Any] = {
        "vision_config": tower.config,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE),
        "vision_feature_layer": FEATURE_LAYER,
        "vision_feature_select_strategy": "default",
        "image_seq_length": SIDE * SIDE,
        "tie_word_embeddings": True,
    }
    if is_next:
        model: Any = LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=PINPOINTS))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**{f"{name}_token_id": id_ for name, id_ in ids.items()})
    return model.eval()


def processor(tokenizer: Any, is_next: bool) -> Any:
    """Image processor (PIL: no torchvision needed), tokenizer and chat template."""
    pixels: dict[str, Any] = {
        "size": {"shortest_edge": CROP},
        "crop_size": {"height": CROP, "width": CROP},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    common: dict[str, Any] = {
        "tokenizer": tokenizer,
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer.padding_side = "left"
    if is_next:
        return LlavaNextProcessor(LlavaNextImageProcessorPil(**pixels, image_grid_pinpoints=PINPOINTS), **common)
    return LlavaProcessor(CLIPImageProcessorPil(**pixels), **common)
