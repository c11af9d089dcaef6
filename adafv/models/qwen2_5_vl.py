"""Qwen2.5-VL: most layers of the tower attend within windows, a few to the whole image.

The tower puts the tokens of a window together before its first layer, and back in order behind the merger. Saliency is
that of the last layer that sees the whole image (`fullatt_block_indexes`), the tower's last as published.

transformers calls attention for each window by itself, sixteen times and more for an image, which leaves an
accelerator idle. So we put an image's whole windows before those that its edges cut off, and say that they are one:
attention gets them together, cuts them apart and does all of them at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_window_index

from adafv.models.qwen import QwenAdapter, TowerInputs
from adafv.models.vision_attention import sdpa_with_saliency

_NAME = "sdpa_by_windows"


class Qwen25VLAdapter(QwenAdapter):
    """`Qwen2_5_VLForConditionalGeneration`."""

    inner_class: ClassVar[Any] = Qwen2_5_VLModel

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        vision = self._vision
        block = vision.spatial_merge_size**2
        self._window = (vision.window_size // vision.patch_size // vision.spatial_merge_size) ** 2 * block  # patches
        for layer, block in enumerate(self._tower.blocks):
            if layer not in vision.fullatt_block_indexes:
                block.attn.window = self._window
        self._tower.set_attn_implementation(_NAME)

    @classmethod
    def saliency_layer(cls, config: PretrainedConfig) -> int:
        whole = [layer for layer in config.vision_config.fullatt_block_indexes if layer < config.vision_config.depth]
        if not whole:
            raise ValueError(
                f"fullatt_block_indexes is {[*config.vision_config.fullatt_block_indexes]}; saliency needs a layer of "
                f"the tower's {config.vision_config.depth} that sees the whole image"
            )
        return max(whole)

    def tower_inputs(self, grid: Tensor) -> TowerInputs:
        vision, inputs = self._vision, super().tower_inputs(grid)
        index, ends = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
        image = torch.searchsorted(inputs.lengths["cu_seqlens"], ends[:-1], right=True)
        lengths = ends.diff()
        order = torch.argsort(2 * image + (lengths < self._window), stable=True)
        windows = index.split((lengths // vision.spatial_merge_size**2).tolist())
        index = torch.cat([windows[number] for number in order])
        image, lengths = image[order], lengths[order]
        joined = (image.diff() == 0) & (lengths[1:] == self._window)  # as the windows before them then are
        ends = lengths.cumsum(0, dtype=torch.int32)[F.pad(~joined, (0, 1), value=True)]
        return TowerInputs(
            inputs.tensors | {"window_index": index},
            inputs.lengths | {"cu_window_seqlens": F.pad(ends, (1, 0))},
            torch.argsort(index),
        )


def _by_windows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs: Any
) -> tuple[Tensor, Any]:
    """`sdpa_with_saliency`, of whole windows at once where a layer has such."""
    window: Any = getattr(module, "window", query.shape[2])
    if query.shape[2] <= window:
        return sdpa_with_saliency(module, query, key, value, attention_mask, scaling, **kwargs)
    query, key, value = (each.unflatten(2, (-1, window)).transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    output, _ = sdpa_with_saliency(module, query, key, value, attention_mask, scaling, **kwargs)
    return output.flatten(0, 1)[None], None


AttentionInterface.register(_NAME, _by_windows)
