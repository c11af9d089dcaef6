"""Proportional coverage, `adafv-plus`: spend the budget where the demand is, in proportion. A rule of ours.

Every token j has two demands. P_j is for being there, and more for being salient. Q_j is for what the question asks
about: as much as some word singles the token out, shared with the tokens around it on the image. A kept token serves
those that are like it. What is served already counts for less, and K times the token is taken that serves most:

    P_j = 1/N + b · a_j / Σ a
    Q_j = q · blur of (max over m of g_m · softmax over j of (τ · cos(t_m, v_j)))
    argmax over i of  Σ_j k_ij · P_j / (1 + Σ_{s in S} k_sj)^γ + Σ_j k_ij² · Q_j / (1 + Σ_{s in S} k_sj²)^(γ/3)
    with k_ij = max(0, cos(v_i, v_j))^6

Three things set it apart from AdaFV. Cues are not given shares of the budget: demands add up, and a token that serves
several of them is worth more. One token is enough for what is merely there, but what is asked about is worth several:
so Q is served by what is more alike (k²), and a little at a time (γ/3). And a word has its say only so far as it names
something in this image. Its gate, from its cosines with all tokens,

    g_m = max(0, (max + min - 2 · median) / (max - min))

is near 1 where a few tokens stand out from all others, and 0 where the middle lies halfway: so it is for words that
name nothing, and "describe the image" leaves P.

What a token would serve only ever falls as others are kept. So what it would have served some steps ago bounds what it
serves now, and on a CPU only those are worked out anew whose bound is among the largest. An accelerator works out all
at each step, and never waits for the host.
"""

from __future__ import annotations

from itertools import chain, repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.packing import product
from adafv.pruning.greedy import Picks, cosines, row, score_flaws, token_budget
from adafv.pruning.relevance import blur
from adafv.pruning.selection import Selection, undivided

_SALIENCY = 0.5  # b
_QUESTION = 5.0  # q
_SCALE = 16.0  # τ
_DISCOUNTS = (12, 4)  # γ, γ/3

_BLOCK = 64  # tokens whose bounds are worked out together: what they are multiplied with stays in a core's cache
# Tokens that are looked at together: the few that suffice where like tokens come in crowds, more where that is in vain.
_LOOKS = (16, 128, 256)
_TIE = 1e-9  # by how much a token's bound falls behind its equal's for each place that it stands behind it


def coverage(
    visual: Tensor, presence: Tensor, question: Tensor, keep: int | Tensor, valid: Tensor | None = None
) -> Selection:
    """Keep the K tokens of each sample that serve the demands, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        presence, question: float [B, N], P and Q, see the functions of these names.
        keep, valid: as for `mix`.

    Raises:
        ValueError: shapes that don't fit; on a CPU also K under 1 or over the valid tokens, NaN or infinite values.
    """
    budget, flaws = token_budget(visual, keep, valid)
    flaws = flaws | score_flaws(presence, budget, "presence") | score_flaws(question, budget, "question")
    presence, question = (each.float().masked_fill(~budget.valid, 0.0) for each in (presence, question))
    if visual.device.type != "cpu":
        return undivided(_all_at_each_step(visual, presence, question, Picks(budget)), budget, flaws)
    undivided(budget.valid, budget, flaws)  # raises where there are flaws
    mask = torch.zeros_like(budget.valid)
    for number, (count, here) in enumerate(zip(budget.keep.tolist(), budget.valid, strict=True)):
        tokens = here.nonzero().squeeze(1)
        units = F.normalize(visual[number, tokens].float(), dim=1)
        kept = _by_bounds(units, presence[number, tokens], question[number, tokens], count)
        mask[number, tokens[kept]] = True
    return undivided(mask, budget, flaws)


def _all_at_each_step(visual: Tensor, presence: Tensor, question: Tensor, picks: Picks) -> Tensor:
    """bool [B, N]: the kept tokens, by P and Q [B, N]."""
    alike = _sharpened(cosines(visual, picks.budget.valid))
    demands = [_Demand(each, discount) for each, discount in zip((presence, question), _DISCOUNTS, strict=True)]
    kernels = (alike, alike.square())
    for _ in range(picks.budget.bound):
        served = [(demand.left[:, None] @ kernel).squeeze(1) for demand, kernel in zip(demands, kernels, strict=True)]
        token = picks.take(served[0] + served[1])
        for demand, kernel in zip(demands, kernels, strict=True):
            demand.serve(row(kernel, token))
    return picks.mask


def _by_bounds(units: Tensor, presence: Tensor, question: Tensor, keep: int) -> Tensor:
    """int64 [K]: the kept ones of tokens with the directions `units` [N, D], by P and Q [N]."""
    there, asked = (_Demand(each, discount) for each, discount in zip((presence, question), _DISCOUNTS, strict=True))
    behind = 1 - _TIE * torch.arange(len(units), dtype=torch.float64)
    alike = torch.empty(len(units), len(units))

    def serve(rows: Tensor) -> Tensor:
        """float64 [T]: what tokens would serve now that are like others as `rows` [T, N] say."""
        return (rows @ there.left + rows.square() @ asked.left).double()

    def first(block: Tensor) -> Tensor:
        rows = cosines_with(units[block])
        rows[torch.arange(len(block)), block] = 1.0  # exactly, so that tokens which are like no other tie
        alike[block[0] : block[-1] + 1] = _sharpened(rows)
        return serve(rows)

    cosines_with = product(units)
    bound = torch.cat([first(block) for block in torch.arange(len(units)).split(_BLOCK)]) * behind
    kept = torch.empty(keep, dtype=torch.int64)
    for step in range(keep):
        for look in chain(_LOOKS, repeat(_LOOKS[-1])):
            bounds, tokens = bound.topk(min(look, len(bound)))
            gains = serve(alike[tokens]) * behind[tokens]
            gains = gains.where(bounds > -torch.inf, bounds)  # -inf: kept already
            bound[tokens] = gains
            best = int(gains.argmax())
            if gains[best] >= bounds[-1]:
                break
        kept[step] = tokens[best]
        there.serve(alike[tokens[best]])
        asked.serve(alike[tokens[best]].square())
        bound[tokens[best]] = -torch.inf
    return kept


class _Demand:
    """A demand [..., N], and how far it is served.

    Attributes:
        left: [..., N], what is still worth serving.
    """

    def __init__(self, wanted: Tensor, discount: int) -> None:
        self._wanted, self._discount = wanted, discount
        self._served = torch.zeros_like(wanted)
        self.left = wanted

    def serve(self, alike: Tensor) -> None:
        """From now on it is served by `alike` [..., N] more."""
        self._served = self._served + alike
        self.left = self._wanted / (1 + self._served).pow(self._discount)


def _sharpened(cosine: Tensor) -> Tensor:
    """max(0, cosine)^6, in place."""
    return cosine.relu_().square_().pow_(3)


def presence(saliency: Tensor, valid: Tensor) -> Tensor:
    """float32 [B, N]: P, 0 where padded.

    Args:
        saliency: float [B, N], see `cues.cls_saliency`.
        valid: bool [B, N], False where padded.
    """
    seen = saliency.float().masked_fill(~valid, 0.0)
    total = seen.sum(dim=1, keepdim=True)
    salient = torch.where(total > 0, seen / total, 0.0)
    plain = 1 / valid.sum(dim=1, keepdim=True).clamp_min(1)
    return (plain + _SALIENCY * salient).masked_fill(~valid, 0.0)


def question(cosine: Tensor, neighbours: Tensor, valid: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """float32 [B, N]: Q, 0 where padded.

    Args:
        cosine: [B, T, N], see `cues.text_cosines`.
        neighbours: int64 [B, N, 9], see `relevance.blur`.
        valid, text_valid: bool [B, N] and [B, T], False where padded.
    """
    here = valid[:, None, :]
    focus = (cosine * _SCALE).masked_fill(~here, -torch.inf).softmax(dim=2) * _gate(cosine, valid)[:, :, None]
    if text_valid is not None:
        focus = focus.masked_fill(~text_valid[:, :, None], 0.0)
    return (_QUESTION * blur(focus.amax(dim=1), neighbours)).masked_fill(~valid, 0.0)


def _gate(cosine: Tensor, valid: Tensor) -> Tensor:
    """float32 [B, T]: g, by how much a word's cosines with few tokens stand out; 0 where all are equal."""
    ordered = cosine.masked_fill(~valid[:, None, :], torch.inf).sort(dim=2).values
    count = valid.sum(dim=1)[:, None, None].expand(-1, cosine.shape[1], 1).clamp_min(1)
    least, most = ordered[:, :, :1], ordered.gather(2, count - 1)
    median = (ordered.gather(2, (count - 1) // 2) + ordered.gather(2, count // 2).minimum(most)) / 2
    gate = torch.where(most > least, (most + least - 2 * median) / (most - least), 0.0)
    return gate.relu().squeeze(2)
