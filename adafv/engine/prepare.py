"""From an image and a prompt to a `Sample`: everything that needs neither weights nor a GPU.

What can't become a sample raises `PrepareError` here, one at a time, so that the engine never meets it in a batch.
"""

from __future__ import annotations

import hashlib

from PIL import Image

from adafv.counting import Sizes
from adafv.engine.options import EngineOptions
from adafv.engine.sample import Sample
from adafv.models import Processing, check_text_tower, load_processing, sizes_of


class PrepareError(ValueError):
    """A prompt that can't be asked.

    Attributes:
        error: `prompt_empty` (no token is left of it), `prompt_encoding` (it is no valid Unicode),
            `prompt_placeholder` (it contains the model's image placeholder), or `prompt_too_long` (with the image and
            the answer it exceeds the model's context).
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class Preparer:
    """Makes samples for one model and one set of options."""

    def __init__(self, processing: Processing, options: EngineOptions) -> None:
        self._processing, self._options = processing, options

    @classmethod
    def load(cls, model: str, options: EngineOptions) -> Preparer:
        """Load the processor of `model`, a folder or hub id.

        Errors as for `load_processing` and `check_text_tower` of `adafv.models`: what can be known of the text tower
        without its weights is known before they are loaded anywhere.
        """
        processing = load_processing(model)
        if options.text_tower is not None:
            check_text_tower(options.text_tower, processing)
        return cls(processing, options)

    @property
    def sizes(self) -> Sizes:
        """What decides how much work the model makes."""
        return sizes_of(self._processing.config)

    def prepare(self, id: str, image: Image.Image, prompt: str) -> Sample:
        """Make a sample of an RGB image and a prompt.

        Raises:
            PrepareError: the prompt can't be asked.
            ValueError: the processor cuts the image into more or fewer crops than the model expects.
        """
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise PrepareError("prompt_encoding", "the prompt contains an unpaired surrogate, which no tokenizer reads")
        tokenised = self._processing.prompt(prompt)
        if tokenised.placeholders != 1:
            extra = tokenised.placeholders - 1
            raise PrepareError("prompt_placeholder", f"the prompt contains {extra} image placeholder(s) of its own")
        if tokenised.question_span[0] == tokenised.question_span[1]:
            raise PrepareError("prompt_empty", "the prompt is empty")
        image_size = (image.height, image.width)
        geometry = self._processing.geometry(image_size)
        self._check_length(len(tokenised.input_ids), geometry.visual_tokens, len(geometry.source))
        crops = self._processing.crops(image)
        if len(crops) != geometry.crops:
            raise ValueError(f"the processor made {len(crops)} crops and the model expects {geometry.crops}")
        return Sample(
            id=id,
            crops=crops,
            image_size=image_size,
            image_key=hashlib.blake2b(crops.tobytes() + repr(image_size).encode(), digest_size=16).hexdigest(),
            input_ids=tokenised.input_ids,
            question_span=tokenised.question_span,
            visual_tokens=geometry.visual_tokens,
        )

    def _check_length(self, prompt_tokens: int, visual_tokens: int, packed: int) -> None:
        keep = self._options.budget(visual_tokens)
        visual = keep if keep < visual_tokens and self._options.newlines == "drop" else packed
        needed = prompt_tokens - 1 + visual + self._options.max_new_tokens
        if needed > self._processing.context_length:
            raise PrepareError(
                "prompt_too_long",
                f"{prompt_tokens - 1} prompt tokens, up to {visual} visual tokens and {self._options.max_new_tokens} "
                f"new tokens make {needed}; the model's context holds {self._processing.context_length}",
            )
