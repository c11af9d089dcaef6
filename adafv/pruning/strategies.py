"""Every way to select visual tokens, by name. Same input, same output, interchangeable everywhere.

A strategy says which cues it `needs`, so that the engine computes no other. `STRATEGIES` is the registry, and
`WITH_TEXT_TOWER` holds those of the same names that take their relevance from CLIP's text tower, where there is one.
docs/algorithm.md says what each keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adafv.pruning.adafv_plus import DEFAULT, Constants, coverage, presence, question
from adafv.pruning.cdpruner import cdpruner
from adafv.pruning.cues import text_cosines
from adafv.pruning.directions import Directions
from adafv.pruning.divprune import divprune
from adafv.pruning.eadp import CODE_POWER, eadp, guidance, guidance_of_code
from adafv.pruning.mixture import mix, mix_paper
from adafv.pruning.relevance import mean_cosine, opposed_cosine
from adafv.pruning.scope import scope
from adafv.pruning.selection import Order, Selection, TokenBudget, value_errors, without_cues
from adafv.pruning.visionzip import visionzip

_NOT_NEEDED: Any = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cues:
    """What strategies select by; a cue that the strategy doesn't need may be left out.

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
        clip_visual: float32 [B, N, E], the patches in CLIP's space.
        clip_text: float32 [B, E], the question there, as its text tower sums it up.
        clip_words: float32 [B, T, E], its words there, which are other tokens than those of `text`.
        clip_words_valid: bool [B, T], False where padded; comes with `clip_words`, None if nothing is padded.
    """

    valid: Tensor
    saliency: Tensor = _NOT_NEEDED
    similarity: Tensor = _NOT_NEEDED
    seeds: Tensor = _NOT_NEEDED
    visual: Tensor = _NOT_NEEDED
    text: Tensor = _NOT_NEEDED
    text_valid: Tensor | None = None
    keys: Tensor = _NOT_NEEDED
    hidden: Tensor = _NOT_NEEDED
    neighbours: Tensor = _NOT_NEEDED
    clip_visual: Tensor = _NOT_NEEDED
    clip_text: Tensor = _NOT_NEEDED
    clip_words: Tensor = _NOT_NEEDED
    clip_words_valid: Tensor | None = None


Rule = Callable[[Cues, int | Tensor], Selection]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named rule, and the cues that it needs."""

    name: str
    rule: Rule
    needs: frozenset[str] = frozenset()

    def select(self, cues: Cues, keep: int | Tensor) -> Selection:
        """The kept tokens; `keep` is an int or an int tensor [B].

        Raises:
            ValueError: a cue that the strategy needs is missing, and what the rule raises.
        """
        for name in self.needs:
            if getattr(cues, name) is None:
                raise ValueError(f"strategy {self.name!r} needs {name}, and it was not given")
        return self.rule(cues, keep)


def _plain(name: str, rule: Callable[..., Selection], *needs: str) -> Strategy:
    """A rule whose arguments are these cues, in this order, then `keep` and `valid`."""

    def select(cues: Cues, keep: int | Tensor) -> Selection:
        return rule(*(getattr(cues, cue) for cue in needs), keep, cues.valid)

    return Strategy(name, select, frozenset(needs))


def _none(cues: Cues, keep: int | Tensor) -> Selection:
    nothing = torch.zeros_like(cues.valid)
    errors = torch.zeros_like(nothing[:, 0], dtype=torch.int64)
    return Selection(mask=cues.valid, by_text=nothing, by_saliency=nothing, errors=errors)


def _random(cues: Cues, keep: int | Tensor) -> Selection:
    budget = TokenBudget.of(keep, cues.valid)
    noise = _hash(cues.seeds[:, None] + _position(cues.valid))
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
    cue, budget = getattr(cues, name), TokenBudget.of(keep, cues.valid)
    errors = budget.errors(**{name: cue})
    mask = Order.of(cue, cues.valid).top(budget.keep) & cues.valid
    nothing = torch.zeros_like(mask)
    by_text, by_saliency = (mask, nothing) if name == "similarity" else (nothing, mask)
    return Selection(mask=mask, by_text=by_text, by_saliency=by_saliency, errors=errors).checked_if_cheap()


def _cdpruner(cues: Cues, keep: int | Tensor) -> Selection:
    cosine = text_cosines(cues.text, cues.visual, cues.text_valid, cues.valid)
    return cdpruner(cues.visual, mean_cosine(cosine, cues.text_valid), keep, cues.valid)


def _cdpruner_with_text_tower(cues: Cues, keep: int | Tensor) -> Selection:
    return cdpruner(cues.visual, opposed_cosine(cues.clip_text, cues.clip_visual), keep, cues.valid)


def _eadp(cues: Cues, keep: int | Tensor) -> Selection:
    cosine = text_cosines(cues.text, cues.visual, cues.text_valid, cues.valid)
    relevance = guidance(mean_cosine(cosine, cues.text_valid), cosine, cues.valid, cues.text_valid)
    return eadp(cues.visual, relevance, cues.neighbours, keep, cues.valid)


def _eadp_with_text_tower(cues: Cues, keep: int | Tensor) -> Selection:
    cosine = -text_cosines(cues.clip_words, cues.clip_visual, cues.clip_words_valid, cues.valid)
    whole = opposed_cosine(cues.clip_text, cues.clip_visual)
    relevance = guidance(whole, cosine, cues.valid, cues.clip_words_valid)
    return eadp(cues.visual, relevance, cues.neighbours, keep, cues.valid)


def _eadp_code(cues: Cues, keep: int | Tensor) -> Selection:
    relevance = guidance_of_code(cues.text, cues.visual, cues.valid, cues.text_valid)
    return eadp(cues.visual, relevance, cues.neighbours, keep, cues.valid, CODE_POWER)


def adafv_plus(cues: Cues, keep: int | Tensor, constants: Constants = DEFAULT) -> Selection:
    """The strategy `adafv-plus`, or with other constants."""
    visual, valid = Directions.of(cues.visual), cues.valid
    cosine = text_cosines(cues.text, visual, cues.text_valid, valid)
    asked = question(cosine, cues.neighbours, valid, cues.text_valid, constants)
    selection = coverage(visual, presence(cues.saliency, valid, constants), asked, keep, valid, constants)
    errors = selection.errors | value_errors(cues.saliency, valid, "saliency")
    return replace(selection, errors=errors).checked_if_cheap()


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


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("none", _none),
        Strategy("random", _random, frozenset({"seeds"})),
        Strategy("uniform", _uniform),
        Strategy("saliency", partial(_top, "saliency"), frozenset({"saliency"})),
        Strategy("text", partial(_top, "similarity"), frozenset({"similarity"})),
        _plain("adafv", mix, "saliency", "similarity"),
        _plain("adafv-paper", mix_paper, "saliency", "similarity"),
        _plain("visionzip", visionzip, "saliency", "keys", "hidden"),
        _plain("divprune", divprune, "visual"),
        Strategy("cdpruner", _cdpruner, frozenset({"visual", "text"})),
        Strategy("eadp", _eadp, frozenset({"visual", "text", "neighbours"})),
        Strategy("eadp-code", _eadp_code, frozenset({"visual", "text", "neighbours"})),
        _plain("scope", scope, "hidden", "saliency"),
        Strategy("adafv-plus", adafv_plus, frozenset({"visual", "text", "saliency", "neighbours"})),
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
