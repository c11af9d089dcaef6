"""The training losses, and the forward pass that they share.

- Answers: the next token, over the answers' tokens.
- [CLS]: it has to tell the colour and kind of the largest object in its crop, from the layer that feeds the
  projector. That is what gives its attention, and so the saliency cue, something to look at.
- Alignment: a visual token and the input embeddings of the words that name what it shows have to be similar.
  The text cue measures this very similarity. Large models get theirs from training on much data; without this
  loss the tiny one doesn't get it at all, and pruning by text would be pruning at random. Its weight is an
  option of the training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaNextForConditionalGeneration

from adafv.worlds.drawn.batches import ABSENT, IGNORE, NEWLINE, Batch
from adafv.worlds.drawn.model import BOS, TOKENS
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


@dataclass(frozen=True)
class Outputs:
    logits: Tensor  # [n, vocabulary], for the n places of the text that have a target
    target: Tensor  # int64 [n]
    in_caption: Tensor  # bool [n]
    cls: Tensor  # [C, D]
    visual: Tensor  # [B, V, D], before any are dropped


def forward(
    model: LlavaNextForConditionalGeneration, pixels: Tensor, batch: Batch, keep: Tensor | None = None
) -> Outputs:
    """pixels [C, 3, h, w], keep bool [B, V] or None for all."""
    states = encode_crops(model, pixels)
    visual = pack(model, model.model.multi_modal_projector(states[:, 1:]), batch.order)
    present = batch.order != ABSENT if keep is None else keep
    hidden = read(model, visual, present, batch)
    has_target = batch.target != IGNORE
    return Outputs(
        logits=model.lm_head(hidden[has_target]),
        target=batch.target[has_target],
        in_caption=batch.in_caption[has_target],
        cls=states[:, 0],
        visual=visual,
    )


def encode_crops(model: LlavaNextForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The tower's hidden states at the feature layer: [C, 1 + PATCHES, D]. Layers after it are not run."""
    tower = model.model.vision_tower
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    feature_layer: int = model.config.vision_feature_layer  # type: ignore[assignment]
    for layer in tower.encoder.layers[: feature_layer + 1]:
        states = layer(states, None)
    return states


def pack(model: LlavaNextForConditionalGeneration, features: Tensor, order: Tensor) -> Tensor:
    """features [C, PATCHES, D], order [B, V] -> [B, V, D]; zeros where there is no token."""
    flat = features.flatten(0, 1)
    extra = torch.stack([torch.zeros_like(flat[0]), model.model.image_newline.to(flat.dtype)])
    assert (ABSENT, NEWLINE) == (-2, -1)  # so that they index the two rows appended
    rows = torch.cat([flat, extra])
    return rows[order % len(rows)]


def read(model: LlavaNextForConditionalGeneration, visual: Tensor, present: Tensor, batch: Batch) -> Tensor:
    """The language model over `<s>`, the visual tokens present, and the questions.

    visual [B, V, D], present bool [B, V] -> hidden states of the text, [B, T, D].
    """
    embed = model.get_input_embeddings()
    widest = int(present.sum(1).max())
    first = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
    kept = visual.gather(1, first[..., None].expand(-1, -1, visual.shape[-1]))
    start = embed(torch.full((len(visual), 1), TOKENS.index(BOS)))
    embeds = torch.cat([start, kept.to(start.dtype), embed(batch.text)], dim=1)
    prefix_length = 1 + present.sum(1)
    out = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=sequence_mask(prefix_length, 1 + first.shape[1], batch.segment),
        position_ids=positions(prefix_length, 1 + first.shape[1], batch.offset),
        use_cache=False,
    )
    return out.last_hidden_state[:, 1 + first.shape[1] :]


def positions(prefix_length: Tensor, prefix_width: int, offset: Tensor) -> Tensor:
    """int64 [B, L]: 0, 1, ... over the prefix, and going on from its length anew for each question.

    prefix_length [B], offset [B, T]; L = prefix_width + T.
    """
    prefix = torch.arange(prefix_width).expand(len(offset), -1)
    return torch.cat([prefix, prefix_length[:, None] + offset], dim=1)


def sequence_mask(prefix_length: Tensor, prefix_width: int, segment: Tensor) -> Tensor:
    """bool [B, 1, L, L]: who may look at whom. A question sees the prefix and its own tokens so far.

    prefix_length [B], segment [B, T] (-1: padding); L = prefix_width + T.
    """
    prefix = torch.arange(prefix_width).expand(len(segment), -1)
    is_padding = torch.cat([prefix >= prefix_length[:, None], segment < 0], dim=1)
    group = torch.cat([torch.full_like(prefix, -1), segment], dim=1)
    places = torch.arange(group.shape[1])
    shared = (group[:, None, :] == -1) | (group[:, None, :] == group[:, :, None])
    seen = (places[None, :] <= places[:, None]) & shared & ~is_padding[:, None, :]
    itself = torch.eye(len(places), dtype=torch.bool)  # for padding: no row may be empty
    return (seen | itself)[:, None]


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
