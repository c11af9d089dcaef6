"""The training losses, and the forward pass that they share.

- Answers: the next token, over the answers' tokens.
- [CLS]: it has to tell the colour and kind of the largest object in its crop, from the layer that feeds the
  projector. That is what gives its attention, and so the saliency cue, something to look at.
- Patches: a linear head has to tell from each visual token what words name what it shows; the words' embeddings
  have no part in it. It stands in for a tower trained beforehand, where there is no alignment.
- Alignment: a visual token and the input embeddings of the words that name what it shows have to be similar.
  The text cue measures this very similarity. Large models get theirs from training on much data; without this
  loss the tiny one doesn't get it at all, and pruning by text would be pruning at random. Its weight is an
  option of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adafv.worlds.drawn.attention import block_mask, by_blocks
from adafv.worlds.drawn.batches import ABSENT, ALIGNED_WORDS, IGNORE, Batch
from adafv.worlds.drawn.family import NEWLINE, Family
from adafv.worlds.drawn.questions import CONTENT_WORDS
from adafv.worlds.drawn.scenes import COLOURS

ALIGNMENT_SCALE = 20.0


class ClsHead(nn.Module):
    """What [CLS] has to tell. Only for training: it isn't part of the saved model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.colour = nn.Linear(hidden, len(COLOURS))
        self.kind = nn.Linear(hidden, len(CONTENT_WORDS))

    def loss(self, state: Tensor, batch: Batch) -> Tensor:
        """state [C, D] -> mean cross-entropy over the crops that hold an object."""
        colour = functional.cross_entropy(self.colour(state).float(), batch.crop_colour, ignore_index=IGNORE)
        kind = functional.cross_entropy(self.kind(state).float(), batch.crop_kind, ignore_index=IGNORE)
        return colour + kind


class PatchHead(nn.Linear):
    """What each visual token has to tell. Only for training, likewise."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, len(ALIGNED_WORDS))

    def loss(self, visual: Tensor, batch: Batch) -> Tensor:
        """visual [B, V, D] -> binary cross-entropy of the words, summed, mean over the patches."""
        patches = batch.order >= 0
        target = batch.shows[patches].float()
        scores = self(visual[patches]).float()
        return functional.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(-1).mean()


@dataclass(frozen=True)
class Outputs:
    logits: Tensor  # [n, vocabulary], for the n places of the text that have a target
    target: Tensor  # int64 [n]
    in_caption: Tensor  # bool [n]
    cls: Tensor | None  # [C, D]
    visual: Tensor  # [B, V, D], before any are dropped


def forward(family: Family, model: Any, processor: Any, batch: Batch, keep: Tensor | None = None) -> Outputs:
    """keep: bool [B, V], or None for all."""
    seen = family.look(model, batch.pixels, batch.sizes, processor)
    visual = pack(seen.tokens, family.newline(model), batch.order)
    present = batch.order != ABSENT if keep is None else keep
    if not batch.text.shape[1]:  # nothing is asked: the tower alone learns
        return Outputs(visual[0, :0], batch.target[0], batch.in_caption[0], seen.cls, visual)
    hidden = read(model, visual, present, batch)
    has_target = batch.target != IGNORE
    return Outputs(
        logits=model.lm_head(hidden[has_target]),
        target=batch.target[has_target],
        in_caption=batch.in_caption[has_target],
        cls=seen.cls,
        visual=visual,
    )


def pack(tokens: Tensor, newline: Tensor | None, order: Tensor) -> Tensor:
    """tokens [P, D], newline [D], order [B, V] -> [B, V, D]; zeros where there is no token."""
    blank = torch.zeros_like(tokens[0])
    assert (ABSENT, NEWLINE) == (-2, -1)  # so that they index the two rows appended
    rows = torch.cat([tokens, torch.stack([blank, blank if newline is None else newline.to(tokens.dtype)])])
    return rows[order % len(rows)]


def read(model: Any, visual: Tensor, present: Tensor, batch: Batch) -> Tensor:
    """The language model over what stands before, the visual tokens present, and the questions.

    visual [B, V, D], present bool [B, V] -> hidden states of the text, [B, T, D].
    """
    embed = model.get_input_embeddings()
    widest = int(present.sum(1).max())
    first = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
    kept = visual.gather(1, first[..., None].expand(-1, -1, visual.shape[-1]))
    start = embed(batch.start).expand(len(visual), -1, -1)
    embeds = torch.cat([start, kept.to(start.dtype), embed(batch.text)], dim=1)
    before = len(batch.start)
    prefix_length, prefix_width = before + present.sum(1), before + first.shape[1]
    if batch.place is None or batch.after is None:
        position_ids = positions(prefix_length, prefix_width, batch.offset)
    else:
        own = batch.place.gather(2, first.expand(3, -1, -1))
        position_ids = own_positions(before, own, batch.after, batch.offset)
    with by_blocks(model.model.language_model):
        out = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=block_mask(prefix_length, prefix_width, batch.segment, batch.longest),
            position_ids=position_ids,
            use_cache=False,
        )
    return out.last_hidden_state[:, prefix_width:]


def positions(prefix_length: Tensor, prefix_width: int, offset: Tensor) -> Tensor:
    """int64 [B, L]: 0, 1, ... over the prefix, and going on from its length anew for each question.

    prefix_length [B], offset [B, T]; L = prefix_width + T.
    """
    prefix = torch.arange(prefix_width).expand(len(offset), -1)
    return torch.cat([prefix, prefix_length[:, None] + offset], dim=1)


def own_positions(before: int, place: Tensor, after: Tensor, offset: Tensor) -> Tensor:
    """int64 [3, B, L]: likewise, where visual tokens have positions of their own and text stands behind all of them.

    place [3, B, V], after [B], offset [B, T]; L = before + V + T.
    """
    start = torch.arange(before).expand(3, len(offset), -1)
    return torch.cat([start, place, (after[:, None] + offset).expand(3, -1, -1)], dim=2)


def answer_loss(outputs: Outputs, caption_weight: float) -> Tensor:
    """Mean cross-entropy of the answers' words, those of captions weighted."""
    weight = torch.where(outputs.in_caption, caption_weight, 1.0)
    each = functional.cross_entropy(outputs.logits.float(), outputs.target, reduction="none")
    return (each * weight).sum() / weight.sum()


def alignment_loss(
    visual: Tensor, words: Tensor, shows: Tensor, order: Tensor, on_object: Tensor | None = None
) -> Tensor:
    """Words find what they name among the picture's patches, and patches their words among all.

    A word has to find some patch that shows it; given `on_object`, some patch of each object that shows it.

    visual [B, V, D], words [W, D] (input embeddings of ALIGNED_WORDS), shows bool [B, V, W], order [B, V],
    on_object bool [B, V, O].
    """
    cosine = functional.normalize(visual.float(), dim=-1) @ functional.normalize(words.float(), dim=-1).T
    scores = ALIGNMENT_SCALE * cosine
    over_patches = scores.masked_fill((order < 0)[..., None], -torch.inf).log_softmax(1)
    if on_object is None:
        found = over_patches.masked_fill(~shows, -torch.inf).logsumexp(1)[shows.any(1)]
    else:
        both = shows[:, :, None] & on_object[..., None]  # [B, V, O, W]
        found = over_patches[:, :, None].masked_fill(~both, -torch.inf).logsumexp(1)[both.any(1)]
    target = shows.float() / shows.sum(-1, keepdim=True).clamp(min=1)
    named = (target * scores.log_softmax(-1)).sum(-1)[shows.any(-1)]
    return -(found.mean() + named.mean())
