"""Proportional coverage: spend the budget where the demand is, in proportion. An experiment of ours.

Every token j has a demand w_j: a little for being there, more the more a word of the question singles it out, more the
more salient it is. Every token i serves those that are like it, by k_ij = max(0, cos(i, j))^p. What is served by the
chosen S already counts for less. K times the token is taken that serves most:

    w_j = 1/N + max over m of g_m · softmax over j of (100 · cos(t_m, v_j)) + b · a_j / Σ a
    argmax over i of  Σ_j k_ij · w_j / (1 + Σ_{s in S} k_sj)^γ

Two things set it apart from AdaFV. Cues are not given shares of the budget: demands add up, and a token that serves
several of them is worth more. And a word has its say only so far as it names something in this image. Its gate, from
its cosines with all tokens,

    g_m = max(0, (max + min - 2 · median) / (max - min))

is near 1 where a few tokens stand out from all others, and 0 where the middle lies halfway: so it is for words that
name nothing, and "describe the image" leaves saliency and the plain 1/N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import Picks, cosines, row, score_flaws, token_budget
from adafv.pruning.selection import Selection, undivided

_SCALE = 100.0  # of the cosines in the softmax
_SALIENCY = 0.5  # b
_SHARPNESS = 4  # p, of the kernel
_DISCOUNT = 4  # γ


def coverage(visual: Tensor, demand: Tensor, keep: int | Tensor, valid: Tensor | None = None) -> Selection:
    """Keep the K tokens of each sample that serve the demand, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        demand: float [B, N], see `demand`.
        keep, valid: as for `mix`.

    Raises:
        ValueError: shapes that don't fit; on a CPU also K under 1 or over the valid tokens, NaN or infinite values.
    """
    budget, flaws = token_budget(visual, keep, valid)
    flaws = flaws | score_flaws(demand, budget, "demand")
    wanted = demand.float().masked_fill(~budget.valid, 0.0)
    kernel = cosines(visual, budget.valid).relu_().pow_(_SHARPNESS)
    served = torch.zeros_like(wanted)
    picks = Picks(budget)
    for _ in range(budget.bound):
        left = wanted / (1 + served).pow(_DISCOUNT)
        served = served + row(kernel, picks.take((left[:, None] @ kernel).squeeze(1)))
    return undivided(picks.mask, budget, flaws)


def demand(cosine: Tensor, saliency: Tensor, valid: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """float32 [B, N]: w, 0 where padded.

    Args:
        cosine: [B, T, N], see `cues.text_cosines`.
        saliency: float [B, N], see `cues.cls_saliency`.
        valid, text_valid: bool [B, N] and [B, T], False where padded.
    """
    here = valid[:, None, :]
    focus = (cosine * _SCALE).masked_fill(~here, -torch.inf).softmax(dim=2) * _gate(cosine, valid)[:, :, None]
    if text_valid is not None:
        focus = focus.masked_fill(~text_valid[:, :, None], 0.0)
    seen = saliency.float().masked_fill(~valid, 0.0)
    total = seen.sum(dim=1, keepdim=True)
    salient = torch.where(total > 0, seen / total, 0.0)
    plain = 1 / valid.sum(dim=1, keepdim=True).clamp_min(1)
    return (plain + focus.amax(dim=1) + _SALIENCY * salient).masked_fill(~valid, 0.0)


def _gate(cosine: Tensor, valid: Tensor) -> Tensor:
    """float32 [B, T]: g, by how much a word's cosines with few tokens stand out; 0 where all are equal."""
    ordered = cosine.masked_fill(~valid[:, None, :], torch.inf).sort(dim=2).values
    count = valid.sum(dim=1)[:, None, None].expand(-1, cosine.shape[1], 1).clamp_min(1)
    least, most = ordered[:, :, :1], ordered.gather(2, count - 1)
    median = (ordered.gather(2, (count - 1) // 2) + ordered.gather(2, count // 2).minimum(most)) / 2
    gate = torch.where(most > least, (most + least - 2 * median) / (most - least), 0.0)
    return gate.relu().squeeze(2)
