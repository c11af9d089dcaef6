"""Images to uint8 crops and prompts to token ids, by the model's own processor. Runs on CPUs, needs no weights.

The processor would also scale and normalise pixels, in float32 on the CPU. We stop it before that: crops stay uint8, a
quarter of the bytes to move, and the device normalises them by a table made of the processor's own results.

Prompts go through the model's chat template. A model without one gets `<image>` on a line, then the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PretrainedConfig

from adafv.models.adapter import Adapter
from adafv.models.geometry import Geometry

# A private-use character that stands for the prompt while the template's own text before and after it is found out.
_STAND_IN = "\ue000"


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A templated, tokenised prompt.

    Attributes:
        input_ids: int32 [T], image placeholders not yet expanded: one per image.
        question_span: half-open range of `input_ids` that holds the question itself.
        placeholders: how many image placeholders there are; more than one where the question brings its own.
    """

    input_ids: np.ndarray
    question_span: tuple[int, int]
    placeholders: int


class Processing:
    """The parts of a model that need no weights.

    Args:
        family: the adapter class, for its geometry.
        config: the model's configuration.
        images: its image processor, one of `family.image_processors`.
        tokenizer: a fast one, which tells where in the text each token stands.
        chat_template: Jinja, or None.
    """

    def __init__(
        self, family: type[Adapter], config: PretrainedConfig, images: Any, tokenizer: Any, chat_template: str | None
    ) -> None:
        self.family, self.config, self.tokenizer = family, config, tokenizer
        self._images, self._template = images, chat_template
        self._placeholder: str = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self._before, self._after = self._render(_STAND_IN).split(_STAND_IN)
        bos = tokenizer.bos_token
        self._add_special_tokens = bos is None or not self._before.startswith(bos)
        self.geometry = lru_cache(maxsize=4096)(self._geometry)

    @property
    def context_length(self) -> int:
        """How many positions the language model has."""
        return self.config.get_text_config().max_position_embeddings

    def crops(self, image: Image.Image) -> np.ndarray:
        """uint8 [C, 3, H, W], the RGB image as the processor resizes and cuts it."""
        out = self._images(image, do_rescale=False, do_normalize=False, input_data_format="channels_last")
        crops = np.asarray(out["pixel_values"][0])
        crops = crops[None] if crops.ndim == 3 else crops
        if crops.dtype != np.uint8:
            raise ValueError(f"the image processor returned {crops.dtype} pixels; uint8 was expected before rescaling")
        return np.ascontiguousarray(crops)

    def normalisation(self) -> Tensor:
        """float32 [3, 256]: what the processor makes of each uint8 value of each channel."""
        values = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
        if self._images.do_rescale:
            values = self._images.rescale(values, self._images.rescale_factor)
        if self._images.do_normalize:
            values = self._images.normalize(values, self._images.image_mean, self._images.image_std)
        return torch.tensor(np.asarray(values), dtype=torch.float32).view(3, 256)

    def prompt(self, question: str) -> Prompt:
        """Put `question` into the chat template and tokenise it as the stock processor does."""
        text = self._render(question)
        start, end = len(self._before), len(text) - len(self._after)
        if text[:start] != self._before or text[end:] != self._after:
            raise ValueError("the chat template changes its own text with the question; it can't be located in it")
        encoded = self.tokenizer(
            text, add_special_tokens=self._add_special_tokens, return_offsets_mapping=True, verbose=False
        )
        inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start and a < b]
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        span = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Prompt(ids, span, int((ids == self.config.image_token_id).sum()))

    def image_place(self, input_ids: np.ndarray) -> int:
        """Where in a prompt [T] the image's placeholder stands."""
        return int(np.flatnonzero(input_ids == self.config.image_token_id)[0])

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out, stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _render(self, question: str) -> str:
        if self._template is None:
            return f"{self._placeholder}\n{question}"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(
            turns, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )

    def _geometry(self, image_size: tuple[int, int]) -> Geometry:
        return self.family.geometry(self.config, self._images, image_size)
