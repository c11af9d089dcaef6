"""Images to uint8 crops and prompts to token ids, by the model's own processor. Runs on CPUs, needs no weights.

The processor would also scale and normalise pixels, in float32 on the CPU. We stop it before that: crops stay uint8, a
quarter of the bytes to move, and the device normalises them by a table made of the processor's own results.

Prompts go through the model's chat template, which decides where images stand: some put them where the turn has them,
others before all its text. A model without a template gets what is said line by line, an image's placeholder being a
line; so does a template that takes a turn's text only, and writes no image by itself. Where the template has an image,
the family's processor may write more than a placeholder, or several; so do we, with one placeholder for each run of
visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from transformers import PretrainedConfig

from adafv.models.adapter import Adapter
from adafv.models.geometry import Geometry
from adafv.turn import Turn

# A private-use character in the place of each text of the question while the template's own text around is found out.
_MARKER = "\ue000"

_SIZES = 64  # that are tried, from an image's own down


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A templated, tokenised prompt.

    Attributes:
        input_ids: int32 [T], with a placeholder for each run of visual tokens, not yet as many as there are tokens.
        question_places: int32 [Q], where in `input_ids` the tokens of the last turn's texts stand, ascending.
        placeholders: how many there are; more than the images have runs where a text brings its own.
    """

    input_ids: np.ndarray
    question_places: np.ndarray
    placeholders: int


class View(NamedTuple):
    """An image for the model: where its visual tokens lie, and what makes its crops."""

    geometry: Geometry
    crops: Callable[[], np.ndarray]


class Processing:
    """The parts of a model that need no weights.

    Args:
        family: the adapter class, for its geometry.
        config: the model's configuration.
        image_processor: one of `family.image_processors`.
        tokenizer: a fast one, which gives each token's place in the text.
        chat_template: Jinja, or None.

    Attributes:
        placeholder: what stands for an image in text.
    """

    def __init__(
        self,
        *,
        family: type[Adapter],
        config: PretrainedConfig,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None,
    ) -> None:
        self.family, self.config, self.tokenizer = family, config, tokenizer
        self._image_processor, self._template = image_processor, chat_template
        self._multi_image_processor = family.multi_image_processor(image_processor)
        self._takes_strings = False
        self._takes_strings = chat_template is not None and not self._writes_parts()
        self._writes_images = True
        self.placeholder = self.find_placeholder()
        if self._takes_strings:  # some of these put an image before a turn's text
            self._writes_images = self.placeholder in self.rendered((Turn.asking(_MARKER),))
        if self.rendered((Turn.asking(_MARKER),)).count(self.placeholder) != 1:
            raise ValueError(f"the template doesn't write {self.placeholder} where an image is")
        self.geometry = lru_cache(maxsize=4096)(self._geometry)
        self.fitted = lru_cache(maxsize=4096)(self._fitted)

    def find_placeholder(self) -> str:
        """What the chat template writes for an image."""
        return self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)

    @property
    def context_length(self) -> int:
        """How many positions the language model has. Where some of its layers see a window of positions only, as many
        as that: pruning would move tokens into other windows.
        """
        text = self.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
        window = getattr(text, "sliding_window", None) if "sliding_attention" in kinds else None
        return min(text.max_position_embeddings, window or text.max_position_embeddings)

    def crops(self, image: Image.Image, single: bool = True) -> np.ndarray:
        """uint8 [C, 3, H, W], the RGB image as the processor resizes and cuts it.

        Args:
            single: whether the prompt shows no other image.
        """
        crops = self.family.crops(self._processor(single), image)
        if crops.dtype != np.uint8:
            raise ValueError(f"the image processor returned {crops.dtype} pixels; uint8 was expected before rescaling")
        return np.ascontiguousarray(crops)

    def view(self, image: Image.Image, single: bool = True) -> View:
        """An image for the model; its crops are made when they are asked for."""
        return View(self.geometry((image.height, image.width), single), lambda: self.crops(image, single))

    def geometry_of(self, crops: np.ndarray, image_size: tuple[int, int], single: bool = True) -> Geometry:
        """The geometry of an image of (height, width) pixels that `crops` are made of."""
        return self.geometry(image_size, single)

    def image_text(self, geometry: Geometry) -> str:
        """What is written where the chat template has an image, with a placeholder for each run of visual tokens."""
        return self.family.image_text(self.config, self.tokenizer, geometry)

    def normalisation(self) -> Tensor:
        """float32 [3, 256]: what the processor makes of each uint8 value of each channel."""
        processor = self._image_processor
        values = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
        if processor.do_rescale:
            values = processor.rescale(values, processor.rescale_factor)
        if processor.do_normalize:
            values = processor.normalize(values, processor.image_mean, processor.image_std)
        return torch.tensor(np.asarray(values), dtype=torch.float32).view(3, 256)

    def prompt(self, question: str, images: Sequence[Geometry]) -> Prompt:
        """`conversation` of one turn: a question, behind its images."""
        return self.conversation((Turn.asking(question, len(images)),), images)

    def conversation(self, turns: Sequence[Turn], images: Sequence[Geometry], prefix: str = "") -> Prompt:
        """Put turns, the last one the user's, into the chat template and tokenise them as the stock processor does.
        `prefix` is what the answer begins with.

        Raises:
            ValueError: the template changes its own text with the question.
        """
        *earlier, last = turns
        asked = Turn(last.role, tuple(None if part is None else _MARKER for part in last.parts))
        text, frame = self.rendered(turns), self.rendered((*earlier, asked))  # at the same time: some write the date
        if text.count(self.placeholder) == len(images):  # else a text brings its own, which the caller refuses
            texts = [self.image_text(geometry) for geometry in images]
            text, frame = (_with_texts(each, self.placeholder, texts) for each in (text, frame))
        text, frame = (each + self._begun(prefix) for each in (text, frame))
        bos = self.tokenizer.bos_token
        encoded = self.tokenizer(
            text,
            add_special_tokens=bos is None or not frame.startswith(bos),
            return_offsets_mapping=True,
            verbose=False,
        )
        starts, ends = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
        inside = np.zeros(len(starts), dtype=bool)
        for start, end in _between(text, frame.split(_MARKER)):
            inside |= (starts < end) & (ends > start) & (starts < ends)
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        return Prompt(ids, np.flatnonzero(inside).astype(np.int32), len(self.image_places(ids)))

    def image_places(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [R]: where in a prompt [T] the placeholders stand."""
        return np.flatnonzero(input_ids == self.config.image_token_id)

    def expanded(self, ids: np.ndarray, geometries: Sequence[Geometry]) -> np.ndarray:
        """int64 [S]: a prompt [T] with as many tokens as its images have, in the places of their placeholders."""
        counts = np.ones(len(ids), np.int64)
        runs = [len(run) for one in geometries for run in np.split(one.source, one.cuts)]
        counts[self.image_places(ids)] = runs
        return np.repeat(ids.astype(np.int64), counts)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out, stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    @cached_property
    def lead(self) -> str:
        """What stands between a prompt and an answer: nothing where the prompt ends in white space, or the template
        writes nothing there between a question and what was answered; else a space.
        """
        behind = self._behind_question
        if behind[-1:].isspace():
            return ""
        question = {"role": "user", "content": self._content(Turn.asking(_MARKER, 0))}
        for answer in (self._content(Turn("assistant", (_MARKER,))), _MARKER) if behind else ():  # some take texts only
            with suppress(TemplateError, TypeError):
                written = self._written([question, {"role": "assistant", "content": answer}])
                return "" if f"{_MARKER}{behind}{_MARKER}" in written else " "
        return " "

    @cached_property
    def _behind_question(self) -> str:
        """What the template ends a prompt with."""
        return self.rendered((Turn.asking(_MARKER, 0),)).rpartition(_MARKER)[2]

    def takes_system(self) -> bool:
        """Whether the chat template has a place for a system turn."""
        try:
            return _MARKER in self.rendered((Turn("system", (_MARKER,)), Turn.asking("?", 0)))
        except TemplateError:
            return False

    def _begun(self, prefix: str) -> str:
        """What stands behind the template's own text where an answer begins with `prefix`."""
        return prefix and self.lead + prefix

    def answer_ids(self, text: str, prefix: str = "") -> list[int]:
        """The tokens of `text` as the model's answer: what they are behind what the template ends a prompt with, and
        behind the `lead`; where answers begin with `prefix`, behind that and a space.
        """
        before = self._behind_question + self._begun(prefix)
        both = before + (" " if prefix else self.lead) + text
        own, ids = (self.tokenizer(each, add_special_tokens=False)["input_ids"] for each in (before, both))
        # Where the template's last token would be another with the answer behind it, the answer stands by itself.
        joined = ids[: len(own)] == own
        return ids[len(own) :] if joined else self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def rendered(self, turns: Sequence[Turn]) -> str:
        """A prompt's text, with a placeholder for each image."""
        if self._template is None:
            return self._lines(part for turn in turns for part in turn.parts)
        return self._written([{"role": turn.role, "content": self._content(turn)} for turn in turns])

    def _written(self, messages: Sequence[dict[str, Any]]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )

    def _writes_parts(self) -> bool:
        """Whether the chat template takes a turn as a list of parts. Some take its text, and put an image before it."""
        try:
            return _MARKER in self.rendered((Turn.asking(_MARKER),))
        except (TemplateError, TypeError):
            return False

    def _content(self, turn: Turn) -> str | list[dict[str, str]]:
        if self._takes_strings and self._writes_images:
            return "".join(part for part in turn.parts if part is not None)
        if self._takes_strings:
            return self._lines(turn.parts)
        return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts]

    def _lines(self, parts: Iterable[str | None]) -> str:
        return "\n".join(self.placeholder if part is None else part for part in parts)

    def _processor(self, single: bool) -> Any:
        return self._image_processor if single else self._multi_image_processor

    def _geometry(self, image_size: tuple[int, int], single: bool = True) -> Geometry:
        """The geometry of an image of (height, width) pixels; `single` if the prompt shows no other."""
        return self.family.geometry(self.config, self._processor(single), image_size)

    def _fitted(self, image_size: tuple[int, int], most: int, single: bool = True) -> tuple[int, int]:
        """(height, width): a size that an image of (height, width) pixels can be shrunk to, of which the model sees no
        more than `most` visual tokens; the one of which it sees fewest where none is small enough. Sizes are tried in
        steps of an eighth first, then in those between: it is the largest, but where tokens don't fall with the size.
        """

        def size(step: int) -> tuple[int, int]:  # rounded up, so that a narrow image isn't narrower than it was
            return -(-image_size[0] * step // _SIZES), -(-image_size[1] * step // _SIZES)

        def tokens(step: int) -> int:
            return self.geometry(size(step), single).visual_tokens

        coarse = [*range(_SIZES, 0, -_SIZES // 8), 1]
        fits = next((step for step in coarse if tokens(step) <= most), None)
        if fits is None:
            return size(min(coarse, key=tokens))
        above = min((step for step in coarse if step > fits), default=fits)
        return size(next((step for step in range(above - 1, fits, -1) if tokens(step) <= most), fits))


def _with_texts(text: str, placeholder: str, texts: Sequence[str]) -> str:
    """`text` with the placeholders replaced, in their order."""
    pieces = text.split(placeholder)
    return pieces[0] + "".join(new + piece for new, piece in zip(texts, pieces[1:], strict=True))


def _between(text: str, frame: Sequence[str]) -> list[tuple[int, int]]:
    """Half-open ranges of `text`: what stands between the pieces of its frame."""
    before, *pieces, after = frame if len(frame) > 1 else (frame[0], "")
    start, end = len(before), len(text) - len(after)
    if text[:start] != before or text[end:] != after:
        raise ValueError("the chat template changes its own text with the question; it can't be located in it")
    spans = []
    for piece in filter(None, pieces):  # where the template writes nothing between two texts, they are as one
        at = text.find(piece, start, end)
        if at < 0:
            raise ValueError("the chat template changes its own text with the question; it can't be located in it")
        spans.append((start, at))
        start = at + len(piece)
    return [*spans, (start, end)]
