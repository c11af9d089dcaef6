"""The handful of numbers that decide how much work a LLaVA or LLaVA-NeXT model makes.

They are read from a model's configuration (`of`), and stand in a run's record, where whoever has no model reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the vision tower, the projector and the language model.

    Attributes:
        patches: visual tokens of a crop.
        patch_values: numbers in a patch of pixels.
        tower_layers: those that are run; none behind the feature layer is.
        features: how many of their outputs the projector takes side by side.
        width: D, of the projected tokens and of the language model.
        queries, keys: all heads' together; of keys there may be fewer heads.
    """

    patches: int
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
        """Of a model's configuration, and the layers of its tower that feed the projector."""
        vision, text = config.vision_config, config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            patches=(vision.image_size // vision.patch_size) ** 2,
            patch_values=vision.num_channels * vision.patch_size**2,
            tower_width=vision.hidden_size,
            tower_mlp=vision.intermediate_size,
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
        return cls(**{each.name: int(values[each.name]) for each in fields(cls)})

    @property
    def language_weights(self) -> int:
        """Numbers in the language model's matrices, its embeddings left out."""
        attention = self.width * (self.queries + 2 * self.keys) + self.queries * self.width
        return self.layers * (attention + 3 * self.width * self.mlp) + self.width * self.vocabulary

    def as_json(self) -> dict[str, int]:
        return asdict(self)
