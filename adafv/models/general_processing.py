"""Images and prompts for the general adapter, by the model's own processor as a whole. Runs on CPUs, needs no weights.

What the processor makes of an image is a mapping of tensors, whose names and shapes differ from model to model. They
travel as one array of bytes (safetensors), in the place of crops, to the model's own code, which knows what they are.
Nothing of them is read here but the prompt that the processor writes for the image: which of its tokens stand for
visual tokens, and what text stands between. Where it also tells a grid, the tokens have places on the image.

Each image is processed by itself, so that it is the same in every prompt. A processor that treats an image among
others differently is found out when it is loaded (`single_only`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from transformers import PretrainedConfig

from adafv.models.adapter import Adapter
from adafv.models.geometry import Geometry, Panel
from adafv.models.processing import Processing, View
from adafv.turn import Turn

_TYPES = {  # safetensors' names
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_TEXT = "written"  # the name of what the processor writes for an image, as bytes, among its tensors
_VISUAL = ("image_token_id", "image_token_index", "image_patch_id")  # as configurations name visual tokens
_PLACEHOLDERS = ("image_token", "boi_token", "image_placeholder_token", "fake_image_token")  # as processors do images
_GRIDS = ("image_grid_thw", "grid_thw", "image_grid_hws", "spatial_shapes")  # frames, rows and columns of patches
_SIZES = (64, 96), (704, 448)  # of pictures, height and width; neither is the other turned round


def photo_only(processor: type[Any]) -> type[Any]:
    """A processor class that takes pictures, without the parts for videos and sounds, which want other libraries; and
    that notes what it writes for each image (`written`).
    """

    class Pictures(processor):
        written: Sequence[str] = ()

        @property
        def return_mm_token_type_ids(self) -> bool:  # some models need what their processors only give if asked
            return processor.return_mm_token_type_ids or "mm_token_type_ids" in self.model_input_names

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if not isinstance(argument, _Absent):
                return super().check_argument_for_proper_class(argument_name, argument)

        def __repr__(self) -> str:  # transformers writes it as JSON, and to a log in any case
            return processor.__name__

        def get_text_with_replacements(
            self, text: Any, images_replacements: Any = (), *others: Any, **more: Any
        ) -> Any:
            self.written = list(images_replacements)
            return super().get_text_with_replacements(text, images_replacements, *others, **more)

    Pictures.__name__ = processor.__name__
    return Pictures


class _Absent:
    """Stands for a part that pictures have no need of."""

    model_input_names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


ABSENT = _Absent()


class GeneralProcessing(Processing):
    """The parts of a model that need no weights, of a type that has no adapter of its own.

    Args:
        family: the general adapter.
        config: the model's configuration.
        processor: of a class that `photo_only` made.
        chat_template: Jinja, or None.

    Attributes:
        single_only: whether an image is processed differently, or differently written, where there are others.

    Raises:
        ValueError: the processor doesn't write an image's visual tokens into the prompt, or not as it tells.
    """

    def __init__(
        self, *, family: type[Adapter], config: PretrainedConfig, processor: Any, chat_template: str | None
    ) -> None:
        self._processor_whole, self._nested, self._decided = processor, True, False
        self._ids = _candidates(config, processor)
        self.visual_id = -1
        super().__init__(
            family=family,
            config=config,
            image_processor=processor.image_processor,
            tokenizer=processor.tokenizer,
            chat_template=chat_template,
        )
        self._decided = True
        self.geometry = lru_cache(maxsize=64)(self._geometry)  # each holds what the processor writes
        self._check_prompts()

    def find_placeholder(self) -> str:
        names = [getattr(self._processor_whole, name, None) for name in _PLACEHOLDERS]
        names += [getattr(self.tokenizer, "image_token", None)]
        names += self.tokenizer.convert_ids_to_tokens(self._ids)
        known = [str(name) for name in dict.fromkeys(names) if name]
        if self._template is None:
            found = known[:1]
        else:
            with_image, without = (self.rendered((Turn.asking("?", count),)) for count in (1, 0))
            found = [name for name in known if with_image.count(name) == 1 and name not in without]
            if not found and self._takes_strings:  # and has no place for an image
                found = known[:1]
        if not found:
            raise ValueError(
                f"the chat template writes none of {', '.join(map(repr, known)) or 'no token'} for an image"
            )
        self.placeholder = found[0]
        self.visual_id = self._visual_id()
        return found[0]

    def _visual_id(self) -> int:
        """The token that stands for each visual token in what the processor writes for an image."""
        try:
            ids = self._processed(made_up()[0])["input_ids"][0].tolist()
        except Exception as error:  # the processor is of a type that we don't know
            raise ValueError(
                f"the model's processor makes nothing of an image: {type(error).__name__}: {error}"
            ) from error
        found = next((one for one in self._ids if one in ids), None)
        if found is None:
            raise ValueError(
                "the processor writes no visual tokens into the prompt: images reach this model's language model by "
                "another way, and can't be pruned"
            )
        return found

    def geometry_of(self, crops: np.ndarray, image_size: tuple[int, int], single: bool = True) -> Geometry:
        return _told(unpacked(crops), self.visual_id)

    def view(self, image: Image.Image, single: bool = True) -> View:
        crops = self.crops(image, single)
        return View(self.geometry_of(crops, (image.height, image.width)), lambda: crops)

    def crops(self, image: Image.Image, single: bool = True) -> np.ndarray:
        """uint8 [n], what the processor makes of the image, see `unpacked`."""
        if not single and self.single_only:
            raise ValueError("this model's processor treats an image among others differently; give one image a prompt")
        return _packed(self._processed(image))

    def _geometry(self, image_size: tuple[int, int], single: bool = True) -> Geometry:
        """By an image of that size that is made up."""
        return self.view(Image.new("RGB", (image_size[1], image_size[0])), single).geometry

    def normalisation(self) -> Tensor:
        return torch.empty(3, 256)  # the processor's tensors are normalised already

    def image_places(self, input_ids: np.ndarray) -> np.ndarray:
        return np.flatnonzero(input_ids == self.visual_id)

    def image_text(self, geometry: Geometry) -> str:
        token = self.tokenizer.convert_ids_to_tokens(self.visual_id)
        return re.sub(f"(?:{re.escape(token)})+", lambda _: token, geometry.text)

    @property
    def context_length(self) -> int:
        text = self.config.get_text_config()
        return min(text.max_position_embeddings, getattr(text, "attention_chunk_size", None) or 2**62)

    def whole(self, text: str, images: Sequence[Image.Image]) -> Mapping[str, Any]:
        """All that the processor makes of a prompt, as stock transformers would."""
        bos = self.tokenizer.bos_token
        return self._call(text, images, bos is None or not text.startswith(bos))

    def _call(self, text: str, images: Sequence[Image.Image], special: bool) -> Any:
        given = {} if not images else {"images": [list(images)] if self._nested else list(images)}
        return self._processor_whole(text=[text], **given, return_tensors="pt", add_special_tokens=special)

    def _processed(self, image: Image.Image) -> dict[str, Any]:
        """What the processor makes of an image by itself."""
        self._processor_whole.written = ()
        try:
            out = dict(self._call(self.placeholder, [image], False))
        except (ValueError, TypeError, IndexError, AttributeError):
            if not self._nested or self._decided:
                raise
            self._nested = False
            out = dict(self._call(self.placeholder, [image], False))
        written = self._processor_whole.written
        ids = out["input_ids"][0].tolist()
        out[_TEXT] = "".join(written[0] if written else self.tokenizer.convert_ids_to_tokens(ids))
        return out

    def _check_prompts(self) -> None:
        """Hold prompts about one and two images against the processor's own."""
        pictures = made_up()
        if not self._matches(pictures[:1]):
            raise ValueError("the processor writes a prompt that its parts don't explain; it can't be pruned")
        self.single_only = False
        with suppress(Exception):  # some take one image only, and say so in ways of their own
            self.single_only = not self._matches(pictures)
            return
        self.single_only = True

    def _matches(self, pictures: Sequence[Image.Image]) -> bool:
        turns = (Turn.asking("what is this?", len(pictures)),)
        stock = self.whole(self.rendered(turns), pictures)["input_ids"][0].tolist()
        self.single_only = False
        geometries = [self.view(picture).geometry for picture in pictures]
        prompt = self.conversation(turns, geometries)
        return self.expanded(prompt.input_ids, geometries).tolist() == stock


def unpacked(crops: np.ndarray | Tensor) -> dict[str, Any]:
    """The tensors, or lists of them, that the processor made of an image, from uint8 [n]; its prompt too. They lie in
    the memory of `crops`.
    """
    data = np.asarray(crops)
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    out: dict[str, Any] = {}
    for name, told in sorted(json.loads(data[8:begin].tobytes()).items()):
        start, end = told["data_offsets"]
        values = torch.from_numpy(data[begin + start : begin + end]).view(_TYPES[told["dtype"]]).view(told["shape"])
        whole, dot, _ = name.partition("/")
        if dot:
            out.setdefault(whole, []).append(values)
        else:
            out[name] = values
    return out


def shapes_of(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """What must be equal in images that can be `joined`."""
    shapes = [(name, *(each.shape for each in _listed(value))) for name, value in values.items()]
    return *shapes, *values["input_ids"].flatten().tolist()


def joined(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the processor makes of several images with the same `shapes_of`."""
    first, *others = images
    if not others:
        return dict(first)
    return {
        name: [each for image in images for each in image[name]]
        if isinstance(value, list)
        else torch.cat([image[name] for image in images])
        for name, value in first.items()
    }


def _listed(value: Any) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


def _packed(values: Mapping[str, Any]) -> np.ndarray:
    tensors: dict[str, Tensor] = {_TEXT: torch.frombuffer(bytearray(values[_TEXT].encode()), dtype=torch.uint8)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, (list, tuple)) and value and all(isinstance(each, Tensor) for each in value):
            tensors |= {f"{name}/{number:04}": each.contiguous() for number, each in enumerate(value)}
        elif name != _TEXT:
            with suppress(ValueError, TypeError, RuntimeError):  # what is no number no model computes with
                tensors[name] = torch.as_tensor(np.asarray(value))
    return np.frombuffer(bytearray(save(tensors)), np.uint8)


def _told(values: Mapping[str, Any], visual: int) -> Geometry:
    is_token = (values["input_ids"][0] == visual).numpy()
    starts = np.flatnonzero(begins(is_token))
    count = np.cumsum(is_token)
    total = int(is_token.sum())
    grid = _told_grid(values, total)
    return Geometry(
        crops=1,
        source=np.arange(total),
        panels=() if grid is None else (Panel(rows=grid[0], columns=grid[1]),),
        cuts=tuple(int(count[start]) - 1 for start in starts[1:]),
        text=bytes(values[_TEXT].tolist()).decode(),
    )


def _told_grid(values: Mapping[str, Any], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of visual tokens, where the processor tells those of an image's patches."""
    for rows, columns in _patch_grids(values):
        merge = round((rows * columns / tokens) ** 0.5)
        if merge and rows * columns == tokens * merge**2 and rows % merge == columns % merge == 0:
            return rows // merge, columns // merge
    return None


def grid_of(values: Mapping[str, Any], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of visual tokens, where the processor tells those of an image's patches, or cuts no crops."""
    pixels = values.get("pixel_values")
    if isinstance(pixels, Tensor) and pixels.dim() == 4 and len(pixels) == 1:  # one crop, of tokens that are squares
        height, width = pixels.shape[2:]
        rows = round((tokens * height / width) ** 0.5)
        if rows and tokens % rows == 0 and rows * width == tokens // rows * height:
            return _told_grid(values, tokens) or (rows, tokens // rows)
    return _told_grid(values, tokens)


def _patch_grids(values: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Rows and columns of an image's patches, under each name that the processor gives them."""
    for name in _GRIDS:
        grid = values.get(name)
        if isinstance(grid, Tensor) and grid.numel() in (2, 3):
            rows, columns = (int(each) for each in grid.flatten()[-2:])
            yield rows, columns
    places = values.get("image_position_ids")  # of each patch, its column and row
    if isinstance(places, Tensor) and places.shape[::2] == (1, 2):
        columns, rows = (int(each) + 1 for each in places.amax(dim=(0, 1)))
        yield rows, columns


def begins(flags: np.ndarray) -> np.ndarray:
    """bool [S]: where a run of `flags`, bool [S], begins."""
    return flags & ~np.append(False, flags[:-1])


def _candidates(config: PretrainedConfig, processor: Any) -> list[int]:
    named = [getattr(config, name, None) for name in _VISUAL]
    named += [getattr(processor, "image_token_id", None), getattr(processor.tokenizer, "image_token_id", None)]
    return [int(one) for one in dict.fromkeys(named) if isinstance(one, int) and one >= 0]


def made_up() -> list[Image.Image]:
    """Pictures of two sizes."""
    return [_blank(*size) for size in _SIZES]


def _blank(height: int, width: int) -> Image.Image:
    """A picture that is nowhere the same, made up."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns) % 256], -1).astype(np.uint8))
