"""What the engine asks of a model family, and nothing else.

An adapter owns a loaded transformers model. It turns crops into projected visual tokens and their saliency, token ids
into embeddings, and an image size into a `Geometry`. Pruning and generating are the engine's.

What is a class method needs no weights, and is asked where prompts and images are prepared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig, PreTrainedModel

from adafv.counting import Sizes
from adafv.models.geometry import Geometry
from adafv.models.language_attention import best_attention, place_rows_alone, use_attention
from adafv.models.text_tower import TextTower


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Encoded:
    """Encoded crops, not yet packed.

    Attributes:
        tokens: [C, P, D], projected into the language model's embedding space.
        saliency: float32 [C, P].
        keys: float32 [C, P, E], the keys of the attention that saliency is of, averaged over the heads; if asked for.
        hidden: [C, P, H], hidden states, before the projector; if asked for.
        clip_visual: float32 [C, P, E], the patches in CLIP's space, where the text tower's words are; if asked for.
        deepstack: [C, P, S, D], what is added to the language model's hidden states at the tokens' places, behind each
            of its first S layers; of the families that do so.
    """

    tokens: Tensor
    saliency: Tensor
    keys: Tensor | None = None
    hidden: Tensor | None = None
    clip_visual: Tensor | None = None
    deepstack: Tensor | None = None

    def patches(self, crops: slice) -> Encoded:
        """Some of the crops, their patches one after the other: [C, P, …] becomes [C · P, …]."""
        return self.mapped(lambda value: value[crops].flatten(0, 1))

    def some(self, crops: slice) -> Encoded:
        """Some of the crops."""
        return self.mapped(lambda value: value[crops])

    def copied(self) -> Encoded:
        """The same in memory of its own."""
        return self.mapped(Tensor.clone)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Encoded:
        """With what `change` makes of each tensor."""
        return Encoded(**{name: change(value) for name, value in self.given().items()})

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """The crops of all `parts`, one after the other."""
        given = [part.given() for part in parts]
        return cls(**{name: torch.cat([each[name] for each in given]) for name in given[0]})

    def given(self) -> dict[str, Tensor]:
        """By name, what isn't None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


class Adapter(ABC):
    """One loaded model of a family.

    Args:
        model: the transformers model, in eval mode, on its device. The adapter changes it (layers that are never
            needed are dropped), so it is the adapter's from then on.
        normalisation: float32 [3, 256], the normalised value of every uint8 value of each channel.

    Attributes:
        text_tower: the text tower that belongs to the model's vision tower, where it was loaded as well.
        bidirectional: what sees itself in both directions in prefill: `image`, each run of visual tokens; `prompt`, all
            of it; `window`, as `image`, but within layers' window only; by default nothing.
        own_positions: whether `positions` tells those of whole prompts.
        states: whether layers keep states beside keys and values, so that each row has a cache of transformers'.
    """

    image_processors: ClassVar[tuple[Any, ...]]  # transformers' PIL image processors that the family's models name
    sizes_vary: ClassVar[bool] = False  # whether crops of two images may differ in size; then there is `encode_packed`
    on_host: ClassVar[bool] = False  # whether crops are encoded from the host's memory
    plain_positions: ClassVar[bool] = True  # whether each place of a sequence is one further than the place before
    image_arguments: ClassVar[Mapping[str, Any]] = {}  # what the family's processor always tells its image processor
    bidirectional: str = ""
    own_positions: bool = False
    states: bool = False
    _projector: nn.Module  # makes visual tokens of hidden states

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        self.model = model
        self.text_tower: TextTower | None = None
        self._normalisation = normalisation.to(model.device)
        use_attention(model.get_decoder(), best_attention(model.device, model.dtype))
        place_rows_alone(model.get_decoder())

    @classmethod
    def takes(cls, config: PretrainedConfig) -> bool:
        """Whether the family's adapter knows how the model is put together; else the general one may."""
        return True

    @classmethod
    @abstractmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        """Where the visual tokens of an image of (height, width) pixels lie. Needs no weights.

        Raises:
            ValueError: a configuration that this family can't have.
        """

    @classmethod
    def crops(cls, image_processor: Any, image: Image.Image) -> np.ndarray:
        """[C, 3, H, W], an RGB image as the processor resizes and cuts it, neither rescaled nor normalised."""
        raw = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}
        crops = np.asarray(image_processor(image, **raw, **cls.image_arguments)["pixel_values"])
        return crops.reshape(-1, *crops.shape[-3:])

    @classmethod
    def multi_image_processor(cls, image_processor: Any) -> Any:
        """The image processor for prompts that show several images. It makes crops, and `geometry` knows it. By
        default it is the same.
        """
        return image_processor

    @classmethod
    @abstractmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        """What decides how much work the model makes."""

    @classmethod
    def image_text(cls, config: PretrainedConfig, tokenizer: Any, geometry: Geometry) -> str:
        """What the family's processor writes where the chat template has an image's placeholder, each of the
        `geometry.runs` runs of visual tokens as one placeholder. By default it is one run and nothing else.
        """
        return tokenizer.convert_ids_to_tokens(config.image_token_id)

    @classmethod
    def feature_width(cls, config: PretrainedConfig) -> int:
        """H, how many channels the hidden states have that go into the projector, where they are a CLIP model's.

        Raises:
            ValueError: they aren't.
        """
        raise ValueError(
            f"a text tower reads CLIP's space, and a {config.model_type} model's vision tower is "
            f"{config.vision_config.model_type!r}; choose a strategy that needs no text tower"
        )

    @abstractmethod
    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        """Encode crops, uint8 [C, 3, H, W], on the model's device; with `keys`, `hidden` and, where there is a text
        tower, `clip_visual` if `also` names them.
        """

    def encode_packed(self, images: Sequence[Tensor], also: Collection[str] = ()) -> list[Encoded]:
        """`encode` of several images that may differ in size. Only families where `sizes_vary` have it."""
        raise NotImplementedError(f"{type(self).__name__} encodes crops of one size")

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """[..., D], the visual tokens of hidden states [..., H] of any float dtype."""
        return self._projector(hidden.to(self.model.dtype))

    def arrange(self, image: Encoded, geometry: Geometry, image_size: tuple[int, int]) -> Encoded:
        """The table of rows that `geometry.source` points into, made of an image's patches [C · P, …].

        By default it is these. A family that makes visual tokens of several patches behind the projector makes them
        here.
        """
        return image

    @property
    def newline(self) -> Tensor | None:
        """[D], the embedding that ends a row of visual tokens, or None where the family has none."""
        return None

    @property
    def language_model(self) -> Any:
        """The language model without its head."""
        return cast(Any, self.model).model.language_model

    def embed(self, input_ids: Tensor) -> Tensor:
        """[..., D], the language model's input embeddings of `input_ids` [...]."""
        return self.model.get_input_embeddings()(input_ids)

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def vocabulary(self) -> int:
        """V, how many scores `score` gives."""
        return self.model.config.get_text_config().vocab_size

    def positions(self, ids: np.ndarray, images: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        """int64 [A, S], the positions of a whole prompt's tokens, and the one behind, of models with `own_positions`.

        Args:
            ids: int64 [S], the prompt with all its visual tokens.
            images: its images' crops.
        """
        raise NotImplementedError(f"{type(self).__name__} has positions that geometries tell")

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache,
        deepstack: Tensor | None = None,
        blocks: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D]: the language model's last hidden states of new positions, whose keys and values go into `cache`.

        Args:
            embeds: [B, T, D], input embeddings.
            positions: int64 [B, T], their places in their sequences; [3, B, T] where positions aren't plain.
            mask: bool [B, 1, T, columns of the cache], True where a position attends; None where all are causal.
            deepstack: [S, B, T, D], what is added behind each of the first S layers, if anything is.
            blocks: int64 [B, T], in prefill of what is `bidirectional`: positions with the same number, unless it is
                -1, see each other.
        """
        added = {} if deepstack is None else {"deepstack_visual_embeds": [*deepstack]}
        return self.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **added,
        ).last_hidden_state

    def score(self, hidden: Tensor) -> Tensor:
        """[..., V]: the scores of the next token behind hidden states [..., D]."""
        return cast(Any, self.model).lm_head(hidden)

    def normalise(self, crops: Tensor) -> Tensor:
        """Pixel values in the model's dtype, as the model's processor computes them, from uint8 [C, 3, H, W].

        A table look-up rather than arithmetic: there are only 256 values a channel, and the processor's own results
        for them are exact to the bit, in whichever order it multiplies and subtracts.
        """
        channels = torch.arange(crops.shape[1], device=crops.device)[None, :, None, None] * 256
        places = (crops.int() + channels).flatten()
        return self._normalisation.flatten().to(self.model.dtype).index_select(0, places).view(crops.shape)
