"""The handful of numbers that decide how much work a model makes.

They are read from a model's configuration (`of`), and stand in a run's record, where whoever has no model reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of the vision tower, the projector and the language model.

    Attributes:
        patches: of a crop. Where some are merged into one visual token, the projector's first layer takes as much work
            as if none were; what its second takes is counted too high. None where images aren't cut to one size: their
            number doesn't tell how much work encoding is then.
        patch_values: numbers in a patch of pixels.
        tower_layers: those that are run; none behind the feature layer is.
        features: how many of their outputs the projector takes side by side.
        width: D, of the projected tokens and of the language model.
        queries, keys: all heads' together; of keys there may be fewer heads.
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
        """The sizes in a model's configuration, and the `depths` of its tower's layers that feed the projector."""
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
        """What `as_json` made. Raises KeyError or ValueError where it isn't that."""
        numbers: dict[str, Any] = {each.name: values[each.name] for each in fields(cls)}
        patches = numbers.pop("patches")
        return cls(patches=None if patches is None else int(patches), **{name: int(n) for name, n in numbers.items()})

    @property
    def language_weights(self) -> int:
        """Numbers in the language model's matrices, its embeddings left out."""
        attention = self.width * (self.queries + 2 * self.keys) + self.queries * self.width
        return self.layers * (attention + 3 * self.width * self.mlp) + self.width * self.vocabulary

    def as_json(self) -> dict[str, int | None]:
        return asdict(self)


def _tower_mlp(vision: Any) -> int:
    """How wide the tower's MLPs of two products are. DINOv2 gives a ratio, and its gated MLP has a third product."""
    if getattr(vision, "mlp_ratio", None) is None:
        return int(vision.intermediate_size)
    width = int(vision.hidden_size * vision.mlp_ratio)
    return (width * 2 // 3 + 7) // 8 * 8 * 3 // 2 if getattr(vision, "use_swiglu_ffn", False) else width


def _side(size: int | Sequence[int]) -> int:
    """A square's, which some configurations give by both sides."""
    return size if isinstance(size, int) else size[0]
