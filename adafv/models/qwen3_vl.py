"""Qwen3-VL: every layer of the tower sees the whole image, and some of them speak to the language model as well.

**Deepstack.** Behind the layers that `deepstack_visual_indexes` names (three, as published) mergers of their own make
another token of each block of patches. They are added to the language model's hidden states at the visual tokens'
places, behind its first layers. They are of the same blocks: what is pruned is pruned from all of them. A token that a
strategy merges others into keeps its own.

Saliency is the tower's last layer's.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from adafv.internals import replace_deepstack
from adafv.models.qwen import QwenAdapter, TowerInputs


class Qwen3VLAdapter(QwenAdapter):
    """`Qwen3VLForConditionalGeneration`."""

    inner_class: ClassVar[Any] = Qwen3VLModel

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        replace_deepstack(cast(Any, model).model.language_model, _add)

    @classmethod
    def saliency_layer(cls, config: PretrainedConfig) -> int:
        return config.vision_config.depth - 1

    def tower_inputs(self, grid: Tensor) -> TowerInputs:
        tower, inputs = self._tower, super().tower_inputs(grid)
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            tower.num_grid_per_side,
            tower.interpolation_mode,
            tower.interpolation_align_corners,
            tower.spatial_merge_size,
        )
        return TowerInputs(inputs.tensors | {"interp_indices": indices, "interp_weights": weights}, inputs.lengths)

    def deepstack(self, out: Any) -> dict[str, Tensor]:
        return {"deepstack": torch.stack(out.deepstack_features, dim=1)} if out.deepstack_features else {}


def _add(hidden: Tensor, places: None, deepstack: Tensor) -> Tensor:
    """The language model's own picks the visual places out, and waits for the device to count them. Ours come as [B, T,
    D], zeros elsewhere.
    """
    return hidden + deepstack
