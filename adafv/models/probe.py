"""What the general adapter takes for granted of a model, tried on made-up pictures when the model is loaded.

Stock transformers runs one prompt with the model's own processor, about two pictures where it takes two. What it hands
over to its language model, and the scores behind the prompt, are held against what the adapter makes of the same prompt
unpruned, its last token as a decoding step; and beginnings of it by themselves against a batch of them. A check that
fails is reported by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from transformers import DynamicCache

from adafv.models.adapter import Encoded
from adafv.models.general import GeneralAdapter, UnsupportedError
from adafv.models.general_processing import GeneralProcessing, made_up
from adafv.models.packing import noting_calls
from adafv.turn import Turn

# How far scores and visual tokens may be off, as a share of their norm: what other orders of sums make, and far below
# what a wrong position or mask does.
_FAR = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}

_OF_THE_DEVICE = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)  # these say nothing of the model
_KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer"}


def probe(adapter: GeneralAdapter, processing: GeneralProcessing) -> None:
    """Learn how the model works. Raises a ValueError for one that can't be pruned."""
    try:
        _probe(adapter, processing)
    except _OF_THE_DEVICE:
        raise
    except Exception as error:  # the code is of a model that nobody here has seen
        what = error if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"model type {processing.config.model_type!r} can't be pruned: {what}") from error


@torch.inference_mode()
def _probe(adapter: GeneralAdapter, processing: GeneralProcessing) -> None:
    pictures = made_up()[1 if processing.single_only else 0 :]  # the second is the one that most processors cut
    turns = (Turn.asking("what is this?", len(pictures)),)
    stock = processing.whole(processing.rendered(turns), pictures)
    views = [processing.view(picture, len(pictures) == 1) for picture in pictures]
    geometries = [view.geometry for view in views]
    crops = [view.crops() for view in views]
    ids = processing.expanded(processing.conversation(turns, geometries).input_ids, geometries)
    adapter.begin(processing.visual_id)
    with noting_calls(adapter.model) as called:
        handed, wanted = _tried("its own forward fails", lambda: adapter.stock(stock))
    adapter.learn(handed, ids)
    adapter.speed_up(called)
    embeds, deepstack = _assembled(adapter, ids, crops)
    _check_embeds(handed, embeds)
    placed = adapter.positions(ids, crops) if adapter.own_positions else None
    _check_positions(handed.get("position_ids"), placed)
    layers = DynamicCache(config=adapter.model.config.get_text_config()).layers
    adapter.states = not {type(layer).__name__ for layer in layers} <= _KEYS_AND_VALUES
    prompt = _Prompt(adapter, ids, embeds, deepstack, placed)
    found = _tried("its language model can't be called by itself", lambda: prompt.scores(len(ids))[0])
    _check_scores(adapter, found, wanted, "unpruned scores are {:.1%} off those of stock transformers")
    if not adapter.states and adapter.bidirectional != "prompt":
        lengths = len(ids) // 2, max(2, len(ids) // 4)
        alone = torch.cat([prompt.scores(length)[0] for length in lengths])
        both = _tried("it can't take prompts of several lengths", lambda: prompt.scores(*lengths))
        _check_scores(adapter, both.flatten(), alone, "scores are {:.1%} off in a batch")
    adapter.find_saliency([processing.crops(picture) for picture in made_up()])
    adapter.together = _are_encoded_together(adapter, processing)


def _tried(problem: str, what: Any) -> Any:
    try:
        return what()
    except (UnsupportedError, *_OF_THE_DEVICE):
        raise
    except Exception as error:  # the code is of a model that nobody here has seen
        raise UnsupportedError(f"{problem}: {type(error).__name__}: {error}") from error


def _assembled(adapter: GeneralAdapter, ids: np.ndarray, crops: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
    """[1, S, D] and [L, 1, S, D]: the prompt as the engine makes it, unpruned, and what is added behind layers."""
    row = torch.from_numpy(ids).to(adapter.model.device)
    encoded = [_tried("an image by itself", lambda one=one: adapter.encode(torch.from_numpy(one))) for one in crops]
    embeds, places = adapter.embed(row).clone(), row == adapter.visual_id
    tokens = torch.cat([each.tokens[0] for each in encoded])
    if len(tokens) != int(places.sum()):
        raise UnsupportedError(f"it makes {len(tokens)} visual tokens for {int(places.sum())} places in the prompt")
    embeds[places] = tokens
    stacked = [each.deepstack[0] for each in encoded if each.deepstack is not None]
    if not stacked:
        return embeds[None], None
    added = embeds.new_zeros(stacked[0].shape[1], 1, *embeds.shape)
    added[:, 0, places] = torch.cat(stacked).movedim(1, 0)
    return embeds[None], added


def _are_encoded_together(adapter: GeneralAdapter, processing: GeneralProcessing) -> bool:
    """Whether images of which the processor makes tensors of the same shapes can be encoded at once."""
    pictures = [turned(made_up()[0]) for turned in (ImageOps.mirror, ImageOps.invert)]
    images = [torch.from_numpy(processing.crops(picture)) for picture in pictures]
    alone = adapter.encode_packed(images, ("keys",))
    adapter.together = True
    try:
        both = adapter.encode_packed(images, ("keys",))
    except _OF_THE_DEVICE:
        raise
    except Exception:  # the code is of a model that nobody here has seen
        return False
    return all(map(partial(_are_near, far=_far(adapter)), both, alone))


def _are_near(one: Encoded, other: Encoded, far: float) -> bool:
    pairs = zip(one.given().values(), other.given().values(), strict=True)
    return all(bool((left - right).float().norm() <= far * right.float().norm()) for left, right in pairs)


def _check_embeds(handed: Mapping[str, Any], embeds: Tensor) -> None:
    theirs = handed["inputs_embeds"]
    if theirs.shape != embeds.shape:
        raise UnsupportedError(f"its language model gets {list(theirs.shape)}, and the prompt is {list(embeds.shape)}")
    off = (theirs.float() - embeds.float()).norm(dim=-1)[0] / theirs.float().norm(dim=-1)[0].clamp_min(1e-6)
    if not bool((off <= 0.05).all()):
        raise UnsupportedError(
            f"{int((off > 0.05).sum())} of {len(off)} input embeddings depend on more than their own token or image"
        )


def _check_positions(theirs: Tensor | None, placed: tuple[np.ndarray, int] | None) -> None:
    if placed is not None and theirs is not None and not np.array_equal(theirs[-len(placed[0]) :, 0].cpu(), placed[0]):
        raise UnsupportedError("its positions aren't those that its own code gives for the prompt")


def _check_scores(adapter: GeneralAdapter, found: Tensor, wanted: Tensor, said: str) -> None:
    off = float((found - wanted).norm() / wanted.norm())
    if not off <= _far(adapter):
        raise UnsupportedError(said.format(off))


def _far(adapter: GeneralAdapter) -> float:
    return _FAR.get(adapter.model.dtype, 0.05)


class _Rows(DynamicCache):
    """A cache whose rows have prompts of several lengths: int64 [B] `lengths`."""

    lengths: Tensor

    def within(self, window: int) -> Tensor:
        """As `BatchCache.within`, of a first step."""
        columns = torch.arange(self.get_seq_length() + 1, device=self.lengths.device)
        places = columns.where(columns < columns[-1], self.lengths[:, None])
        return (self.lengths[:, None] - places < window)[:, None, None]


@dataclass(frozen=True, eq=False)
class _Prompt:
    """A prompt, unpruned: int64 [S] `ids`, what is made of them, and their positions where they aren't plain."""

    adapter: GeneralAdapter
    ids: np.ndarray
    embeds: Tensor
    deepstack: Tensor | None
    placed: tuple[np.ndarray, int] | None

    def scores(self, *lengths: int) -> Tensor:
        """float32 [B, V]: the scores behind the first so many of its tokens, in each row of a batch; the last one is a
        decoding step, where the model decodes so.
        """
        adapter, device = self.adapter, self.embeds.device
        cache = _Rows(config=adapter.model.config.get_text_config() if adapter.states else None)
        whole = adapter.bidirectional == "prompt"
        ends = torch.tensor(lengths, device=device) - int(not whole)
        cache.lengths, width = ends, int(ends.max())
        present = torch.arange(width, device=device) < ends[:, None]
        positions = torch.arange(len(self.ids), device=device)[None]
        if self.placed is not None:
            positions = torch.from_numpy(np.ascontiguousarray(self.placed[0])).to(device)
        blocks = adapter.blocks_of(self.ids)
        hidden = adapter.forward(
            self.embeds[:, :width] * present[:, :, None],
            positions[:, None, :width].expand(-1, len(lengths), -1).squeeze(0),
            None,
            cache,
            None if self.deepstack is None else self.deepstack[:, :, :width] * present[:, :, None],
            None if blocks is None else blocks[:width].to(device).where(present, -1),
        )
        if not whole:
            seen = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)[:, None, None]
            step = self.embeds[0, ends][:, None], positions[:, ends][:, :, None].squeeze(0)
            hidden = adapter.forward(*step, seen if len(lengths) > 1 else None, cache)
        return adapter.score(hidden[:, -1]).float()
