"""Every way to select visual tokens, by name. Same input, same output, interchangeable everywhere.

A strategy says which cues it `needs`, so that the engine computes no other. `STRATEGIES` is the registry, and
`WITH_TEXT_TOWER` holds those of the same names that take their relevance from CLIP's text tower, where there is one.

    none         every token
    random       K at random, the same for the same sample id wherever and whenever it runs
    uniform      K at a regular stride over the packed sequence
    saliency     the K with the most [CLS] attention (FasterVLM, arXiv 2412.01818)
    text         the K most similar to the question
    adafv        the adaptive mixture of both, corrected: exactly K tokens
    adafv-paper  the mixture as published: duplicates count against the budget
    visionzip    the most salient, and a few that the others are merged into (arXiv 2412.04467)
    divprune     the K that lie furthest from each other (arXiv 2503.02175)
    cdpruner     a determinantal point process: relevant, and unlike each other (arXiv 2506.10967)
    eadp         facility location: the K that best represent what is relevant (arXiv 2607.02484)
    eadp-code    the same as its authors' code does it without a text tower
    scope        the K that are salient and cover what no other covers (arXiv 2510.24214)
    adafv-plus   proportional coverage of what is asked for, salient, or merely there: a rule of ours
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from adafv.pruning.adafv_plus import coverage, presence, question
from adafv.pruning.cdpruner import cdpruner
from adafv.pruning.cues import text_cosines
from adafv.pruning.directions import Directions
from adafv.pruning.divprune import divprune
from adafv.pruning.eadp import CODE_POWER, eadp, guidance, guidance_of_code
from adafv.pruning.mixture import mix, mix_paper
from adafv.pruning.relevance import mean_cosine, opposed_cosine
from adafv.pruning.scope import scope
from adafv.pruning.selection import Order, Selection, TokenBudget, cue_errors, without_cues
from adafv.pruning.visionzip import visionzip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cues:
    """What strategies select by; a cue that the strategy doesn't need may be None.

    Attributes:
        valid: bool [B, N], False where padded.
        saliency: float [B, N], see `cues.cls_saliency`.
        similarity: float [B, N], see `cues.text_similarity`.
        seeds: int64 [B], one per sample, derived from its id.
        visual: [B, N, D], projected visual tokens.
        text: [B, T, D], the language model's input embeddings of the question.
        text_valid: bool [B, T], False where padded; comes with `text`, None if nothing is padded.
        keys: [B, N, E], the vision encoder's keys at the feature layer, averaged over the heads.
        hidden: [B, N, D], its hidden states there, before the projector.
        neighbours: int64 [B, N, 9], the tokens around each token on the image, see `relevance.blur`.
        places: int64 [B, N, 2], the crop that each token is a patch of, and which patch of it; -1 where padded.
        clip_visual: float32 [B, N, E], the patches in CLIP's space.
        clip_text: float32 [B, E], the question there, as its text tower sums it up.
        clip_words: float32 [B, T, E], its words there, which are other tokens than those of `text`.
        clip_words_valid: bool [B, T], False where padded; comes with `clip_words`, None if nothing is padded.
    """

    valid: Tensor
    saliency: Tensor | None = None
    similarity: Tensor | None = None
    seeds: Tensor | None = None
    visual: Tensor | None = None
    text: Tensor | None = None
    text_valid: Tensor | None = None
    keys: Tensor | None = None
    hidden: Tensor | None = None
    neighbours: Tensor | None = None
    places: Tensor | None = None
    clip_visual: Tensor | None = None
    clip_text: Tensor | None = None
    clip_words: Tensor | None = None
    clip_words_valid: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named rule: `select(cues, keep)`, with `keep` an int or an int tensor [B], gives a `Selection`."""

    name: str
    select: Callable[[Cues, int | Tensor], Selection]
    needs: frozenset[str] = frozenset()


def _none(cues: Cues, keep: int | Tensor) -> Selection:
    nothing = torch.zeros_like(cues.valid)
    errors = torch.zeros_like(nothing[:, 0], dtype=torch.int64)
    return Selection(mask=cues.valid, by_text=nothing, by_saliency=nothing, errors=errors)


def _random(cues: Cues, keep: int | Tensor) -> Selection:
    budget = TokenBudget.of(keep, cues.valid)
    noise = _hash(_needed(cues.seeds, "seeds")[:, None] + _position(cues.valid))
    return without_cues(Order.of(noise, cues.valid).top(budget.keep), budget, budget.errors())


def _uniform(cues: Cues, keep: int | Tensor) -> Selection:
    budget = TokenBudget.of(keep, cues.valid)
    wanted, total = budget.keep[:, None], cues.valid.sum(dim=1, keepdim=True).clamp_min(1)
    # Token t is kept where a line of slope K/N, started half a step early, crosses an integer: K times in all.
    place = _position(cues.valid)
    crossings = [(2 * (place + shift) * wanted + total) // (2 * total) for shift in (0, 1)]
    return without_cues(crossings[1] > crossings[0], budget, budget.errors())


def _top(name: str, cues: Cues, keep: int | Tensor) -> Selection:
    """The K tokens with the most `saliency`, or `similarity`."""
    cue, budget = _needed(getattr(cues, name), name), TokenBudget.of(keep, cues.valid)
    if cue.shape != cues.valid.shape:
        raise ValueError(f"the cue is {list(cue.shape)}; it must be {list(cues.valid.shape)} like valid")
    mask = Order.of(cue, cues.valid).top(budget.keep) & cues.valid
    nothing, errors = torch.zeros_like(mask), budget.errors() | cue_errors(cue, cues.valid, name)
    by_text, by_saliency = (mask, nothing) if name == "similarity" else (nothing, mask)
    return Selection(mask=mask, by_text=by_text, by_saliency=by_saliency, errors=errors).checked_if_cheap()


def _mixed(rule: Callable[..., Selection], cues: Cues, keep: int | Tensor) -> Selection:
    """By `mix` or `mix_paper`."""
    return rule(_needed(cues.saliency, "saliency"), _needed(cues.similarity, "similarity"), keep, cues.valid)


def _visionzip(cues: Cues, keep: int | Tensor) -> Selection:
    saliency, keys = _needed(cues.saliency, "saliency"), _needed(cues.keys, "keys")
    return visionzip(saliency, keys, _needed(cues.hidden, "hidden"), keep, cues.valid)


def _divprune(cues: Cues, keep: int | Tensor) -> Selection:
    return divprune(_needed(cues.visual, "visual"), keep, cues.valid)


def _cdpruner(cues: Cues, keep: int | Tensor) -> Selection:
    visual = _needed(cues.visual, "visual")
    cosine = text_cosines(_needed(cues.text, "text"), visual, cues.text_valid, cues.valid)
    return cdpruner(visual, mean_cosine(cosine, cues.text_valid), keep, cues.valid)


def _cdpruner_with_text_tower(cues: Cues, keep: int | Tensor) -> Selection:
    relevance = opposed_cosine(_needed(cues.clip_text, "clip_text"), _needed(cues.clip_visual, "clip_visual"))
    return cdpruner(_needed(cues.visual, "visual"), relevance, keep, cues.valid)


def _eadp(cues: Cues, keep: int | Tensor) -> Selection:
    visual = _needed(cues.visual, "visual")
    cosine = text_cosines(_needed(cues.text, "text"), visual, cues.text_valid, cues.valid)
    relevance = guidance(mean_cosine(cosine, cues.text_valid), cosine, cues.valid, cues.text_valid)
    return eadp(visual, relevance, _needed(cues.neighbours, "neighbours"), keep, cues.valid)


def _eadp_with_text_tower(cues: Cues, keep: int | Tensor) -> Selection:
    visual, patches = _needed(cues.visual, "visual"), _needed(cues.clip_visual, "clip_visual")
    cosine = -text_cosines(_needed(cues.clip_words, "clip_words"), patches, cues.clip_words_valid, cues.valid)
    whole = opposed_cosine(_needed(cues.clip_text, "clip_text"), patches)
    relevance = guidance(whole, cosine, cues.valid, cues.clip_words_valid)
    return eadp(visual, relevance, _needed(cues.neighbours, "neighbours"), keep, cues.valid)


def _eadp_code(cues: Cues, keep: int | Tensor) -> Selection:
    visual = _needed(cues.visual, "visual")
    relevance = guidance_of_code(_needed(cues.text, "text"), visual, cues.valid, cues.text_valid)
    return eadp(visual, relevance, _needed(cues.neighbours, "neighbours"), keep, cues.valid, CODE_POWER)


def _scope(cues: Cues, keep: int | Tensor) -> Selection:
    return scope(_needed(cues.hidden, "hidden"), _needed(cues.saliency, "saliency"), keep, cues.valid)


def _adafv_plus(cues: Cues, keep: int | Tensor) -> Selection:
    visual, saliency = Directions.of(_needed(cues.visual, "visual")), _needed(cues.saliency, "saliency")
    cosine = text_cosines(_needed(cues.text, "text"), visual, cues.text_valid, cues.valid)
    asked = question(cosine, _needed(cues.neighbours, "neighbours"), cues.valid, cues.text_valid)
    selection = coverage(visual, presence(saliency, cues.valid), asked, keep, cues.valid)
    return replace(selection, errors=selection.errors | cue_errors(saliency, cues.valid, "saliency")).checked_if_cheap()


def _position(valid: Tensor) -> Tensor:
    """int64 [B, N]: each token's place among its row's valid tokens, so that padding changes nothing."""
    return valid.long().cumsum(dim=1) - 1


def _hash(x: Tensor) -> Tensor:
    """int64 in [0, 2^24), splitmix64's finaliser: the same on every device, and exact in float32."""
    x = x * -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer; int64 products wrap
    x = (x ^ _shifted(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shifted(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return _shifted(x ^ _shifted(x, 31), 40)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64: the arithmetic one, with the copies of the sign bit cleared."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _needed(cue: Tensor | None, name: str) -> Tensor:
    if cue is None:
        raise ValueError(f"this strategy needs {name}, and it was not given")
    return cue


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("none", _none),
        Strategy("random", _random, frozenset({"seeds"})),
        Strategy("uniform", _uniform),
        Strategy("saliency", partial(_top, "saliency"), frozenset({"saliency"})),
        Strategy("text", partial(_top, "similarity"), frozenset({"similarity"})),
        Strategy("adafv", partial(_mixed, mix), frozenset({"saliency", "similarity"})),
        Strategy("adafv-paper", partial(_mixed, mix_paper), frozenset({"saliency", "similarity"})),
        Strategy("visionzip", _visionzip, frozenset({"saliency", "keys", "hidden"})),
        Strategy("divprune", _divprune, frozenset({"visual"})),
        Strategy("cdpruner", _cdpruner, frozenset({"visual", "text"})),
        Strategy("eadp", _eadp, frozenset({"visual", "text", "neighbours"})),
        Strategy("eadp-code", _eadp_code, frozenset({"visual", "text", "neighbours"})),
        Strategy("scope", _scope, frozenset({"saliency", "hidden"})),
        Strategy("adafv-plus", _adafv_plus, frozenset({"visual", "text", "saliency", "neighbours"})),
    )
}

WITH_TEXT_TOWER: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("cdpruner", _cdpruner_with_text_tower, frozenset({"visual", "clip_visual", "clip_text"})),
        Strategy(
            "eadp",
            _eadp_with_text_tower,
            frozenset({"visual", "clip_visual", "clip_text", "clip_words", "neighbours"}),
        ),
    )
}
