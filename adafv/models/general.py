"""Any model that transformers turns images and text into text with, by the model's own code.

An image goes through the model's own `forward`, by itself: with the prompt that its processor writes for it, and up to
the language model, where it stops. What is handed over there is taken as it is: input embeddings, of which those in the
image token's places are the visual tokens, and what is added behind early layers (deepstack). So whatever a family does
on the way, it does. Positions of families that count in several dimensions come from the model's own code, too, for
each whole prompt; so do the scores, from hidden states (softcapping, scaling and the like).

Each assumption is tested when the model is loaded (`probe`); the error names the one that fails.

Saliency: see `tower_watch`. Text relevance is every family's: similarity of the question's input embeddings and the
visual tokens. Strategies that merge hidden states before the projector (`visionzip`) merge visual tokens here.

Some models' visual tokens see each other in both directions, and some layers see a window of positions only. Masks are
made for what is left of a prompt: the kept tokens of a run see each other, and a window counts what is left.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig, PreTrainedModel

from adafv.counting import Sizes
from adafv.models.adapter import Adapter, Encoded
from adafv.models.general_processing import begins, grid_of, joined, shapes_of, unpacked
from adafv.models.geometry import Geometry
from adafv.models.language_attention import best_attention, place_rows_alone, use_attention
from adafv.models.packing import pack
from adafv.models.tower_watch import TowerWatch

_DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
# What the engine hands over itself, or what says nothing.
_OWN = {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache", *_DEEPSTACK}
_SAYS_NOTHING = {"cache_position", "return_dict", "output_attentions", "output_hidden_states", "logits_to_keep"}


class UnsupportedError(ValueError):
    """Something that this model does and the general adapter can't prune."""


class GeneralAdapter(Adapter):
    """A model of a type that has no adapter of its own.

    What `probe` finds out decides how it works.
    """

    image_processors: ClassVar[tuple[Any, ...]] = ()
    sizes_vary: ClassVar[bool] = True
    on_host: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        self._decoder = _decoder(model)
        self.visual_id = -1  # the token that stands for each visual token
        self._extra: dict[str, Any] = {}
        self.model, self.text_tower, self._normalisation = model, None, normalisation
        self.together = False  # whether images of which the processor makes the same shapes are encoded together
        self._axes = 0  # of positions, where they aren't plain
        text: Any = model.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or ()
        self._window = getattr(text, "sliding_window", None) if "sliding_attention" in kinds or not kinds else None
        self._kinds = sorted(set(kinds)) if len(set(kinds)) > 1 else []
        self._head: Any = None
        self._watch: TowerWatch | None = None

    def begin(self, visual_id: int) -> None:
        """Set it up for a model whose visual tokens have that id in prompts."""
        self.visual_id = visual_id
        self._head = _head(self.model, self._decoder)

    def speed_up(self, layers: Collection[nn.Module]) -> None:
        """From now on linear `layers` are packed, attention is the families' adapters', and the tower's is watched."""
        pack(self.model, layers)
        self._head = _head(self.model, self._decoder)
        self._watch = TowerWatch(self.model, self._decoder)
        use_attention(self._decoder, best_attention(self.model.device, self.model.dtype))
        place_rows_alone(self._decoder)

    def stock(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """What is handed over to the language model for what the processor made, and the scores behind it, [V]."""
        last = {"logits_to_keep": 1} if "logits_to_keep" in self._arguments else {}
        with _captured(self._decoder, stop=False) as found:
            scores = self.model(**self._taken(values), **last).logits
        return found, scores[0, -1].float()

    def learn(self, handed: Mapping[str, Any], ids: np.ndarray) -> None:
        """Learn from what is handed over for a whole prompt [S].

        Raises:
            UnsupportedError: there is something that isn't known here.
        """
        for name, value in handed.items():
            if name in _OWN or name in _SAYS_NOTHING or value is None:
                continue
            if not isinstance(value, (bool, int, float, str)):
                raise UnsupportedError(
                    f"its language model is handed {name!r} as well, which the general adapter can't prune"
                )
            self._extra[name] = value
        positions = handed.get("position_ids")
        if positions is not None and positions.dim() == 3:
            if not hasattr(getattr(self.model, "model", None), "compute_3d_position_ids"):
                raise UnsupportedError("it counts positions in several dimensions by code that isn't found")
            self._axes, self.own_positions = positions.shape[0], True
        elif positions is not None and not bool((positions.diff() == 1).all()):
            raise UnsupportedError("it counts positions in a way of its own")
        self._learn_masks(handed.get("attention_mask"), ids)

    def _learn_masks(self, masks: Any, ids: np.ndarray) -> None:
        """Find out what sees itself in both directions, by the masks that the language model is handed."""
        given = masks if isinstance(masks, dict) else {"": masks}
        given = {kind: mask for kind, mask in given.items() if mask is not None and mask.dim() == 4}
        for bidirectional in ("", "image", "window", "prompt"):
            self.bidirectional = bidirectional
            blocks = self.blocks_of(ids)
            expected = self._sight(torch.full((len(ids),), -1) if blocks is None else blocks)
            if all(torch.equal(_seen(mask), expected[kind == "sliding_attention"]) for kind, mask in given.items()):
                return
        raise UnsupportedError("its attention masks are neither causal nor in both directions within images or prompts")

    def _sight(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """bool [..., T, T] each: what positions see whose `blocks`, int64 [..., T], see themselves in both directions;
        and in layers with a window.
        """
        length = blocks.shape[-1]
        place = torch.arange(length, device=blocks.device)
        apart = place[:, None] - place
        together = (blocks[..., None] == blocks[..., None, :]) & (blocks[..., None] >= 0)
        before, near = apart >= 0, apart < (self._window or length + 1)
        if self.bidirectional == "window":
            return before, (before | together) & near
        return before | together, (before & near) | together

    def blocks_of(self, ids: np.ndarray) -> Tensor | None:
        """int64 [S]: numbers of what sees itself in both directions, in a whole prompt; -1 for the rest."""
        if not self.bidirectional:
            return None
        if self.bidirectional == "prompt":
            return torch.zeros(len(ids), dtype=torch.int64)
        visual = ids == self.visual_id
        return torch.from_numpy(np.where(visual, np.cumsum(begins(visual)), 0) - 1)

    def find_saliency(self, pictures: Sequence[np.ndarray]) -> None:
        """Find out where saliency comes from, by images of several sizes."""
        values = [unpacked(crops) for crops in pictures]

        def encode(each: Mapping[str, Any]) -> Tensor:
            return self.visual(self.handed_over(each), each["input_ids"])[0][0]

        self.watch.find([partial(encode, each) for each in values], [self._grid(each) for each in values])

    def _grid(self, values: Mapping[str, Any]) -> tuple[int, int] | None:
        """Rows and columns of an image's visual tokens, where its processor tells them."""
        shown = values["input_ids"][0] == self.visual_id
        return grid_of(values, int(shown.sum())) or _grid(shown.numpy())

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        raise NotImplementedError("what the processor makes of the image tells it")

    @classmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        raise NotImplementedError("nobody has counted what a model of this type does")

    @classmethod
    def feature_width(cls, config: PretrainedConfig) -> int:
        raise ValueError(
            f"a text tower reads CLIP's space, and a {config.model_type} model has no adapter that knows its vision "
            "tower; choose a strategy that needs no text tower"
        )

    @property
    def language_model(self) -> Any:
        return self._decoder

    @property
    def watch(self) -> TowerWatch:
        """Where saliency comes from."""
        assert self._watch is not None, "speed_up comes first"
        return self._watch

    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        """Encode an image, uint8 [n], see `general_processing.unpacked`."""
        return self.encode_packed([crops], also)[0]

    @torch.inference_mode()
    def encode_packed(self, images: Sequence[Tensor], also: Collection[str] = ()) -> list[Encoded]:
        values = [unpacked(crops) for crops in images]
        alike: dict[Any, list[int]] = {}
        for number, each in enumerate(values):
            alike.setdefault(shapes_of(each) if self.together else number, []).append(number)
        encoded: dict[int, Encoded] = {}
        for numbers in alike.values():
            whole = self._encoded([values[number] for number in numbers], also)
            encoded |= {number: whole.some(slice(place, place + 1)) for place, number in enumerate(numbers)}
        return [encoded[number] for number in range(len(values))]

    def _encoded(self, images: Sequence[Mapping[str, Any]], also: Collection[str]) -> Encoded:
        """Images whose tensors from the processor have the same shapes, each as a crop."""
        values = joined(images)
        with self.watch.watching():
            tokens, deepstack = self.visual(self.handed_over(values), values["input_ids"])
            cues = self.watch.cues(tokens.shape[1], self._grid(images[0]), len(images))
        even = torch.full(tokens.shape[:2], 1 / tokens.shape[1], device=tokens.device)
        saliency, keys = (even, tokens.float()) if cues is None else cues
        return Encoded(
            tokens=tokens,
            saliency=saliency,
            keys=keys if "keys" in also else None,
            hidden=tokens if "hidden" in also else None,
            deepstack=deepstack,
        )

    def handed_over(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the model hands over to its language model for what its processor made."""
        given = self._taken(values)
        with _captured(self._decoder) as found:
            try:
                self.model(**given, use_cache=False)
            except _ReachedError:
                return found
        raise UnsupportedError("the model computes without its language model")

    def visual(self, handed: Mapping[str, Any], input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, N, D] and [B, N, S, D]: the visual tokens of what is handed over for B images that are written alike,
        and what is added behind layers.
        """
        places = (input_ids[0] == self.visual_id).to(handed["inputs_embeds"].device)
        added = handed.get("deepstack_visual_embeds")
        stacked = None if added is None or not len(added) else torch.stack([*added], dim=1)
        return handed["inputs_embeds"][:, places], None if stacked is None else stacked.unflatten(
            0, (len(input_ids), -1)
        )

    def _taken(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's forward takes of what the processor made, on the model's device."""
        names = self._arguments
        open_ended = "kwargs" in names
        taken = [name for name in values if name in names or (open_ended and name.startswith("mm_"))]
        return {name: self._moved(values[name]) for name in taken}

    @property
    def _arguments(self) -> Collection[str]:
        """What the model's forward has."""
        return inspect.signature(type(self.model).forward).parameters

    def _moved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._moved(each) for each in value]
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(device=self.model.device, dtype=dtype, copy=True)  # some models write into it

    def project(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.model.dtype)

    def embed(self, input_ids: Tensor) -> Tensor:
        # The image token may lie outside the vocabulary; in a prompt its embedding is never seen.
        table: Any = self.model.get_input_embeddings()
        return super().embed(input_ids.masked_fill(input_ids >= len(table.weight), 0))

    @torch.inference_mode()
    def positions(self, ids: np.ndarray, images: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        if not len(images):
            return np.tile(np.arange(len(ids)), (self._axes, 1)), len(ids)
        base: Any = cast(Any, self.model).model
        parts = [unpacked(each) for each in images]
        names = inspect.signature(base.compute_3d_position_ids).parameters
        row = torch.from_numpy(ids)[None]
        given: dict[str, Any] = {"input_ids": row, "mm_token_type_ids": (row == self.visual_id).int()}
        given |= {
            name: torch.cat([part[name] for part in parts])
            for name in names
            if name not in given
            and all(isinstance(part.get(name), Tensor) for part in parts)
            and name != "attention_mask"
        }
        for name in ("attention_mask", "past_key_values", "inputs_embeds"):
            if name in names:
                given[name] = torch.empty(1, len(ids), 0) if name == "inputs_embeds" else None
        base.rope_deltas = None
        places = base.compute_3d_position_ids(**{name: value for name, value in given.items() if name in names})
        delta = getattr(base, "rope_deltas", None)
        behind = int(places.max()) + 1 if delta is None else len(ids) + int(delta.flatten()[0])
        return places[:, 0].numpy(), behind

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache,
        deepstack: Tensor | None = None,
        blocks: Tensor | None = None,
    ) -> Tensor:
        if self._axes and positions.dim() == 2:
            positions = positions.expand(self._axes, -1, -1)
        added: dict[str, Any] = {}
        if deepstack is not None:
            added["visual_pos_masks"] = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            added["deepstack_visual_embeds"] = [each.flatten(0, 1) for each in deepstack]
        out = self._decoder(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=self._masks(mask, cache, blocks),
            past_key_values=cache,
            use_cache=True,
            **self._extra,
            **added,
        )
        return out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]

    def _masks(self, mask: Tensor | None, cache: Any, blocks: Tensor | None) -> Any:
        """The masks that the language model takes, by kind of layer where it has several."""
        if mask is None and blocks is not None:
            full, near = self._sight(blocks[:, None])
        elif mask is not None and self._window is not None:
            full, near = mask, mask & cache.within(self._window)
        else:
            return mask
        if not self._kinds:
            return near if self._window is not None else full
        return {kind: near if kind == "sliding_attention" else full for kind in self._kinds}

    def score(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)


class _ReachedError(Exception):
    """The language model has been called."""


@contextmanager
def _captured(decoder: nn.Module, stop: bool = True) -> Iterator[dict[str, Any]]:
    """A mapping that the arguments of the next call of `decoder` go into. To `stop`, it raises a `_ReachedError`."""
    found: dict[str, Any] = {}
    names = list(inspect.signature(type(decoder).forward).parameters)[1:]

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(zip(names, args, strict=False))
        found.update(kwargs)
        if stop:
            raise _ReachedError

    hook = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def _decoder(model: PreTrainedModel) -> Any:
    """The language model without its head, the innermost one of those that transformers names."""
    module: Any = model
    while (inner := module.get_decoder()) is not module:
        module = inner
    return module


class _Given(nn.Module):
    """Stands for a model that has computed these hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Output(self.hidden)


class _Output:
    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return self.last_hidden_state if index == 0 else ()

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _head(model: PreTrainedModel, decoder: nn.Module) -> Any:
    """From hidden states [..., D] to scores [..., V], by the model's own code: that of the module that owns the head,
    with hidden states in the place of what it would compute.
    """
    head = model.get_output_embeddings()
    owner = next((each for each in model.modules() if head in (*each.children(),)), None) if head is not None else None
    if owner is None:
        raise UnsupportedError("the model has no head that gives scores of tokens")
    name = next(
        (name for name, child in owner.named_children() if any(each is decoder for each in child.modules())), None
    )
    if name is None:
        raise UnsupportedError("the model's head doesn't stand beside its language model")
    given, shell = _Given(), object.__new__(type(owner))
    shell.__dict__.update(owner.__dict__)
    shell.__dict__["_modules"] = {**owner._modules, name: given}

    def score(hidden: Tensor) -> Tensor:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        given.hidden = rows
        logits = shell.forward(inputs_embeds=rows, use_cache=False).logits
        return logits.reshape(*hidden.shape[:-1], -1)

    return score


def _seen(mask: Tensor) -> Tensor:
    """bool [S, S], of a mask [1, 1, S, S] of any kind."""
    one = mask[0, 0].cpu()
    return one if one.dtype == torch.bool else one >= 0


def _grid(is_token: np.ndarray) -> tuple[int, int] | None:
    """Rows and columns of visual tokens, where the prompt has each row as a run."""
    runs = np.bincount(np.cumsum(begins(is_token))[is_token])[1:]
    return (len(runs), int(runs[0])) if len(runs) > 1 and len(set(runs.tolist())) == 1 else None
