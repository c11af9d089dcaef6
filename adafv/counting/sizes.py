"""The sizes that decide how much work a model does. They are read from its configuration and kept in a run's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of the vision tower, the projector and the language model.

    Attributes:
        patches: per crop. If some are merged into one visual token, the projector's second layer is counted too high.
            None for models whose images vary in size, since encoding isn't counted then.
        patch_values: numbers in a patch of pixels.
        tower_layers: layers up to the feature layer.
        features: how many of their outputs the projector concatenates.
        width: D, of the projected tokens and the language model.
        queries, keys: of all heads together; keys may have fewer heads.
    """

    patches: int | None
    patch_values: int
    tower_width: int
    tower_mlp: int
    tower_layers: int
    features: int
    width: int
    layers: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, depths: Sequence[int]) -> Sizes:
        """The sizes in a model's configuration; `depths`: the tower layers that feed the projector."""
        vision, text = config.vision_config, config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        size = getattr(vision, "image_size", None)
        channels = vision.num_channels if hasattr(vision, "num_channels") else vision.in_channels
        return cls(
            patches=None if size is None else (_side(size) // _side(vision.patch_size)) ** 2,
            patch_values=channels * _side(vision.patch_size) ** 2 * getattr(vision, "temporal_patch_size", 1),
            tower_width=vision.hidden_size,
            tower_mlp=_tower_mlp(vision),
            tower_layers=max(depths),
            features=len(depths),
            width=text.hidden_size,
            layers=text.num_hidden_layers,
            queries=text.num_attention_heads * head,
            keys=text.num_key_value_heads * head,
            mlp=text.intermediate_size,
            vocabulary=text.vocab_size,
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sizes:
        """From `as_json`. Raises KeyError or ValueError for anything else."""
        numbers: dict[str, Any] = {each.name: values[each.name] for each in fields(cls)}
        patches = numbers.pop("patches")
        return cls(patches=None if patches is None else int(patches), **{name: int(n) for name, n in numbers.items()})

    @property
    def language_weights(self) -> int:
        """Numbers in the language model's matrices, without embeddings."""
        attention = self.width * (self.queries + 2 * self.keys) + self.queries * self.width
        return self.layers * (attention + 3 * self.width * self.mlp) + self.width * self.vocabulary

    def as_json(self) -> dict[str, int | None]:
        return asdict(self)


def _tower_mlp(vision: Any) -> int:
    """The width of the tower's MLPs with two products. DINOv2 gives a ratio, and its gated MLP has three products."""
    if getattr(vision, "mlp_ratio", None) is None:
        return int(vision.intermediate_size)
    width = int(vision.hidden_size * vision.mlp_ratio)
    return (width * 2 // 3 + 7) // 8 * 8 * 3 // 2 if getattr(vision, "use_swiglu_ffn", False) else width


def _side(size: int | Sequence[int]) -> int:
    """A square's side, which some configurations give twice."""
    return size if isinstance(size, int) else size[0]
