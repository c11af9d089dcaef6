"""A vision tower, cut off behind the layer that feeds the projector: features, and the saliency of each patch.

What comes behind that layer is dropped, since nothing uses it: on LLaVA one of 24 layers, and the pooling head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from adafv.models.adapter import Adapter, Encoded
from adafv.models.vision_attention import capture


class Features(NamedTuple):
    """What the tower makes of C crops of P patches, or of P tokens that several patches are merged into.

    Attributes:
        states: [C, P, H], without [CLS]; those of several feature layers, or patches, side by side.
        saliency: float32 [C, P], of the deepest feature layer; the mean of a token's patches.
        keys: float32 [C, P, E], of the same attention, averaged likewise, and over the heads; if asked for.
    """

    states: Tensor
    saliency: Tensor
    keys: Tensor | None


class Tower:
    """A tower of transformers', which is changed and is the `Tower`'s from then on.

    Args:
        model: the vision model.
        layers: the name of its encoder's list of layers.
        attention: the name of a layer's attention.
        depths: how many layers lie below each output that the projector takes.
        leading: 1 if the tower has [CLS], 0 if not.
        norm: the name of a norm behind the last layer that the projector does not see, if the tower has one.
        merge: makes one vector of those of a token's patches, side by side; None where each patch is a token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        depths: Sequence[int],
        leading: int,
        layers: str = "layers",
        attention: str = "self_attn",
        norm: str | None = None,
        merge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model, self._depths, self._leading, self._merge = model, depths, leading, merge
        inner: Any = getattr(model, "vision_model", model)
        setattr(inner.encoder, layers, getattr(inner.encoder, layers)[: max(depths)])
        if norm is not None:
            setattr(inner, norm, nn.Identity())
        if getattr(inner, "use_head", False):  # SigLIP's, which pools
            inner.use_head, inner.head = False, None
        marked: Any = getattr(getattr(inner.encoder, layers)[-1], attention)
        self._marked: Any = getattr(marked, attention, marked)  # DINOv2's had another one inside in 5.16
        capture(model, self._marked, leading, one_size=True)

    def __call__(self, pixels: Tensor, keys: bool, **arguments: Tensor) -> Features:
        """Run the tower on normalised pixels [C, 3, H, W] and what else it takes."""
        self._marked.returns_keys = keys
        several = len(self._depths) > 1
        more: dict[str, Any] = {"output_attentions": True, "output_hidden_states": several, **arguments}
        out = cast(Any, self._model)(pixel_values=pixels, **more)
        if several:
            states = torch.cat([out.hidden_states[depth] for depth in self._depths], dim=-1)
        else:
            states = out.last_hidden_state  # of the feature layer: the later ones are gone
        (captured,) = out.attentions
        states, held = states[:, self._leading :], captured.keys
        if self._merge is None:
            return Features(states, captured.saliency, held)
        merged = self._merge(captured.saliency[:, :, None])  # [C, tokens, patches of a token]
        if held is not None:
            held = self._merge(held).unflatten(2, (merged.shape[2], -1)).mean(dim=2)
        return Features(self._merge(states), merged.mean(dim=2), held)


class TowerAdapter(Adapter):
    """A family whose crops are of one size and go through a `Tower`."""

    _tower: Tower

    @torch.inference_mode()
    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        pixels = self.normalise(crops)
        hidden, saliency, keys = self._tower(pixels, keys="keys" in also, **self.tower_arguments(crops))
        return Encoded(
            tokens=self._projector(hidden),
            saliency=saliency,
            keys=keys,
            hidden=hidden if "hidden" in also else None,
            clip_visual=self.text_tower.project(hidden) if self.text_tower and "clip_visual" in also else None,
        )

    def tower_arguments(self, crops: Tensor) -> dict[str, Tensor]:
        """What the tower takes besides pixels."""
        return {}


def feature_depths(config: PretrainedConfig) -> list[int]:
    """How many encoder layers lie below each feature layer: -2 of 24 layers is the output of the 23rd."""
    layers = config.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else list(layers)
    count = config.vision_config.num_hidden_layers
    depths = [layer if layer >= 0 else count + 1 + layer for layer in layers]
    if not all(1 <= depth <= count for depth in depths):
        raise ValueError(f"vision_feature_layer is {layers}; each must name one of the tower's {count} layers' outputs")
    return depths


def patches_per_side(config: PretrainedConfig) -> int:
    """How many patches stand side by side in a crop, of those that fit wholly."""
    vision = config.vision_config
    return square_side(vision.image_size) // square_side(vision.patch_size)


def patch_coverage(config: PretrainedConfig) -> float:
    """Which share of a crop's side its patches cover. What is left over is at the right and at the bottom."""
    vision = config.vision_config
    return patches_per_side(config) * square_side(vision.patch_size) / square_side(vision.image_size)


def square_side(size: int | Sequence[int]) -> int:
    """One side of a square that a configuration gives by one side or by both.

    Raises:
        ValueError: it is no square.
    """
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise ValueError(f"the vision tower has a size of {list(size)}; only square crops and patches are supported")
    return size[0]
