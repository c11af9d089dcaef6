"""Batches of cues for the tests of strategies, and what can be done to them without changing a selection."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch

from adafv.models import Geometry, Panel
from adafv.pruning import Cues

# Values that padding holds: plausible ones, so that only `valid` can tell.
_PADDING = {"valid": False, "text_valid": False, "clip_words_valid": False, "neighbours": -1}
# Cues that have one value, or one vector, for a whole sample.
_OF_THE_SAMPLE = ("seeds", "clip_text")


def cues(rows: int, tokens: int, seed: int = 0, width: int = 6, words: int = 5) -> Cues:
    """Random cues: `rows` samples of `tokens` visual tokens each, on one panel of one row."""
    generator = torch.Generator().manual_seed(seed)
    around = torch.from_numpy(neighbours((1, tokens)))
    return Cues(
        valid=torch.ones(rows, tokens, dtype=torch.bool),
        saliency=torch.rand(rows, tokens, generator=generator),
        similarity=torch.rand(rows, tokens, generator=generator),
        seeds=torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator),
        visual=torch.randn(rows, tokens, width, generator=generator),
        keys=torch.randn(rows, tokens, 4, generator=generator),
        hidden=torch.randn(rows, tokens, 5, generator=generator),
        text=torch.randn(rows, words, width, generator=generator),
        text_valid=torch.ones(rows, words, dtype=torch.bool),
        neighbours=around.expand(rows, -1, -1),
        clip_visual=torch.randn(rows, tokens, 7, generator=generator),
        clip_text=torch.nn.functional.normalize(torch.randn(rows, 7, generator=generator), dim=1),
        clip_words=torch.randn(rows, words + 1, 7, generator=generator),
        clip_words_valid=torch.ones(rows, words + 1, dtype=torch.bool),
    )


def neighbours(*sizes: tuple[int, int]) -> np.ndarray:
    """Those of panels of so many rows and columns."""
    panels = (Panel(rows=rows, columns=columns, top=0, left=0, bottom=1, right=1) for rows, columns in sizes)
    return Geometry(crops=1, source=np.zeros(0), panels=tuple(panels)).neighbours


def rows_of(batch: Cues, rows: slice) -> Cues:
    return Cues(**{name: tensor[rows] for name, tensor in present(batch).items()})


def present(batch: Cues) -> dict[str, torch.Tensor]:
    """The cues that are there, by name."""
    cues = {field.name: getattr(batch, field.name) for field in fields(Cues)}
    return {name: tensor for name, tensor in cues.items() if tensor is not None}


def padded(batch: Cues, more: int) -> Cues:
    """The batch with `more` visual tokens and text tokens of padding."""

    def widen(name: str, tensor: torch.Tensor) -> torch.Tensor:
        after = [0, 0] * (tensor.dim() - 2) + [0, more]
        return torch.nn.functional.pad(tensor, after, value=_PADDING.get(name, 9.0))

    wide = {name: widen(name, tensor) for name, tensor in present(batch).items() if name not in _OF_THE_SAMPLE}
    return replace(batch, **wide)


def permuted(batch: Cues, order: torch.Tensor) -> Cues:
    """The batch with its visual tokens in another order: the i-th is what was the `order`[i]-th."""
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    moved = {
        name: getattr(batch, name)[:, order]
        for name in ("valid", "saliency", "similarity", "visual", "keys", "hidden", "clip_visual")
    }
    around = batch.neighbours[:, order]
    return replace(batch, **moved, neighbours=torch.where(around >= 0, place[around.clamp_min(0)], -1))
