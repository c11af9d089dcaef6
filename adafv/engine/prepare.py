"""From images and a prompt to a `Sample`: everything that needs neither weights nor a GPU.

What can't become a sample raises `PrepareError` here, one at a time, so that the engine never meets it in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from transformers import GenerationConfig

from adafv.counting import Sizes
from adafv.engine.choices import choice_tokens
from adafv.engine.grammar import Grammar
from adafv.engine.options import EngineOptions
from adafv.engine.sample import PreparedImage, Sample
from adafv.engine.vllm import check_family
from adafv.models import Geometry, Processing, View, check_quantization, check_text_tower, load_processing, sizes_of
from adafv.option import OptionError, require
from adafv.turn import Turn

_SIDE = 1024  # pixels of the square that says whether the model can be shown few enough tokens


class PrepareError(ValueError):
    """A prompt that can't be asked.

    Attributes:
        error: `prompt_empty` (no token is left of it), `prompt_encoding` (it is no valid Unicode),
            `prompt_placeholder` (it contains the model's image placeholder), `prompt_too_long` (with the images and the
            answer it exceeds the model's context), `image_unsupported` (no image of its shape has so few tokens as
            `max_image_tokens` allows), or `bad_row` (the model can't tell the row's own choices apart, or has no place
            for a system turn).
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class Preparer:
    """Makes samples for one model and one set of options.

    Attributes:
        generation: what the checkpoint asks of decoding, as its generation config names it; empty where nobody loaded
            it.
    """

    def __init__(self, processing: Processing, options: EngineOptions) -> None:
        self._processing, self._options = processing, options
        self.generation: dict[str, Any] = {}
        self._answer_length, self._prefix = options.max_new_tokens, options.answer_prefix or ""
        if options.choices is not None:
            try:
                self._answer_length = max(map(len, choice_tokens(processing, options.choices, self._prefix)))
            except ValueError as error:
                raise OptionError("choices", options.choices, f"others: {error}") from error

    @classmethod
    def load(cls, model: str, options: EngineOptions) -> Preparer:
        """Load the processor of `model`, a folder or hub id.

        Errors as for `load_processing`, `check_text_tower` and `check_quantization` of `adafv.models`, a ValueError
        where the back end or a grammar can't do the model, and an OptionError where the model can't tell the choices
        apart: what can be known without weights is known before they are loaded anywhere.
        """
        processing = _loaded(model, options)
        if options.backend == "vllm":
            check_family(processing)
        if options.text_tower is not None:
            check_text_tower(options.text_tower, processing)
        if options.quantize is not None:
            check_quantization(options.quantize)
        if options.has_grammar:
            tokenizer = processing.tokenizer
            Grammar(processing, options, [tokenizer.eos_token_id or 0], len(tokenizer))
        if options.max_image_tokens is not None:
            square = processing.fitted((_SIDE, _SIDE), options.max_image_tokens)
            least = processing.geometry(square).visual_tokens
            demand = f"at least {least}, as many as the model sees of the smallest square"
            require(least <= options.max_image_tokens, "max_image_tokens", options.max_image_tokens, demand)
        preparer = cls(processing, options)
        preparer.generation = _generation(model)
        return preparer

    @cached_property
    def takes_system(self) -> bool:
        """Whether the model's chat template has a place for a system turn."""
        return self._processing.takes_system()

    @property
    def sizes(self) -> Sizes | None:
        """What decides how much work the model makes; None where nobody has counted it."""
        return sizes_of(self._processing.config)

    def prepare(self, id: str, image: Image.Image, prompt: str) -> Sample:
        """`converse` of one turn: a prompt about one RGB image."""
        return self.converse(id, (image,), (Turn.asking(prompt),))

    def converse(
        self, id: str, images: Sequence[Image.Image], turns: Sequence[Turn], choices: tuple[str, ...] = ()
    ) -> Sample:
        """Make a sample of RGB images and a conversation, of which the last turn is to be answered.

        Args:
            images: as many as the turns show, in their order; none where there is only text.
            choices: those of its own, of which the answer is one.

        Raises:
            PrepareError: the prompt can't be asked.
            ValueError: there are more or fewer images than the turns show, or the processor cuts one into more or fewer
                crops than the model expects.
        """
        shown = sum(turn.images for turn in turns)
        if shown != len(images):
            raise ValueError(f"the turns show {shown} images and {len(images)} are given")
        if any("\ud800" <= letter <= "\udfff" for turn in turns for part in turn.parts for letter in part or ""):
            raise PrepareError("prompt_encoding", "the prompt contains an unpaired surrogate, which no tokenizer reads")
        single = len(images) == 1
        smaller = [self._fitted(image, single) for image in images]
        views = [self._processing.view(image, single) for image in smaller]
        geometries = [view.geometry for view in views]
        own = sum((part or "").count(self._processing.placeholder) for turn in turns for part in turn.parts)
        if turns[0].role == "system" and not self.takes_system:
            raise PrepareError("bad_row", "the model's chat template has no place for a system turn")
        prompt = self._processing.conversation(turns, geometries, self._prefix)
        if own:
            raise PrepareError("prompt_placeholder", f"the prompt contains {own} image placeholder(s) of its own")
        if prompt.placeholders != sum(geometry.runs for geometry in geometries):
            raise PrepareError("prompt_placeholder", f"the chat template doesn't write {shown} image(s) for the prompt")
        if not len(prompt.question_places):
            raise PrepareError("prompt_empty", "the prompt is empty")
        answer = self._longest_choice(choices) if choices else self._answer_length
        fits_unpruned = self._check_length(len(prompt.input_ids) - prompt.placeholders, geometries, answer)
        prepared = tuple(_prepared(*each) for each in zip(images, smaller, views, strict=True))
        return Sample(
            id=id,
            images=prepared,
            input_ids=prompt.input_ids,
            question_places=prompt.question_places,
            choices=choices,
            fits_unpruned=fits_unpruned,
        )

    def _longest_choice(self, choices: tuple[str, ...]) -> int:
        try:
            return max(map(len, choice_tokens(self._processing, choices, self._prefix)))
        except ValueError as error:
            raise PrepareError("bad_row", str(error)) from error

    def _fitted(self, image: Image.Image, single: bool) -> Image.Image:
        """The image, so small that the model sees as few tokens of it as the options say."""
        most = self._options.max_image_tokens
        if most is None:
            return image
        size = self._processing.fitted((image.height, image.width), most, single)
        least = self._processing.geometry(size, single).visual_tokens
        if least > most:
            raise PrepareError(
                "image_unsupported",
                f"{image.width} x {image.height}: the model sees at least {least} visual tokens of it; "
                f"max_image_tokens is {most}",
            )
        same = size == (image.height, image.width)
        return image if same else image.resize((size[1], size[0]), Image.Resampling.BICUBIC)

    def _check_length(self, text: int, geometries: Sequence[Geometry], answer: int) -> bool:
        """Raise a PrepareError if so many tokens of text, the images and the answer exceed the model's context. Returns
        whether they fit it unpruned as well.
        """
        visual = sum(map(self._longest, geometries))
        needed = text + visual + answer
        if needed > self._processing.context_length:
            raise PrepareError(
                "prompt_too_long",
                f"{text} prompt tokens, up to {visual} visual tokens and {answer} "
                f"new tokens make {needed}; the model's context holds {self._processing.context_length}",
            )
        unpruned = sum(max(len(each.source), each.extent) for each in geometries)
        return text + unpruned + answer <= self._processing.context_length

    def _longest(self, geometry: Geometry) -> int:
        """How many positions an image takes at most, pruned, in the longer of two looks."""
        options = self._options.second_look or self._options
        keep = max(each.kept_of(geometry.visual_tokens) for each in (self._options, options))
        pruned = keep < geometry.visual_tokens and self._options.newlines == "drop"
        kept = keep if pruned else len(geometry.source)
        return kept if geometry.positions is None else max(kept, geometry.extent)


def _prepared(whole: Image.Image, image: Image.Image, view: View) -> PreparedImage:
    """`image` is the `whole` one or what it was shrunk to."""
    size, crops, geometry = (image.height, image.width), view.crops(), view.geometry
    if crops.ndim > 1 and len(crops) != geometry.crops:
        raise ValueError(f"the processor made {len(crops)} crops and the model expects {geometry.crops}")
    key = hashlib.blake2b(crops.tobytes() + repr(size).encode(), digest_size=16).hexdigest()
    shown = (whole.height, whole.width)
    return PreparedImage(crops=crops, size=size, key=key, visual_tokens=geometry.visual_tokens, whole=shown)


def _loaded(model: str, options: EngineOptions) -> Processing:
    """The model's processing. Raises an OptionError where the image processor can't work with `image_options`."""
    if options.image_options is None:
        return load_processing(model)
    try:
        processing = load_processing(model, options.image_settings)
        processing.view(Image.new("RGB", (64, 64), "grey")).crops()
        processing.normalisation()
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        demand = f"settings that the image processor can work with ({type(error).__name__}: {error})"
        raise OptionError("image_options", options.image_options, demand) from error
    return processing


def _generation(model: str) -> dict[str, Any]:
    """What a checkpoint's generation config asks for."""
    try:
        config = GenerationConfig.from_pretrained(model)
    except OSError:  # it has none
        return {}
    return {name: value for name, value in config.to_diff_dict().items() if name != "transformers_version"}
