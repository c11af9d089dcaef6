"""Proportional coverage, `adafv-plus`: spend the budget where the demand is, in proportion. A rule of ours.

Every token j has two demands. P_j is for being there, and more for being salient. Q_j is for what the question asks
about: as much as some word singles the token out, shared with the tokens around it on the image. A kept token serves
those that are like it. What is served already counts for less, and K times the token is taken that serves most:

    P_j = 1/N + b · a_j / Σ a
    Q_j = q · blur of (max over m of g_m · softmax over j of (τ · cos(t_m, v_j)))
    argmax over i of  Σ_j k_ij · P_j / (1 + Σ_{s in S} k_sj)^γ + Σ_j k_ij² · Q_j / (1 + Σ_{s in S} k_sj²)^(γ/3)
    with k_ij = max(0, cos(v_i, v_j))^p

Three things set it apart from AdaFV. Cues are not given shares of the budget: demands add up, and a token that serves
several of them is worth more. One token is enough for what is merely there, but what is asked about is worth several:
so Q is served by what is more alike (k²), and a little at a time (γ/3). And a word has its say only so far as it names
something in this image. Its gate, from its cosines with all tokens,

    g_m = max(0, (max + min - 2 · median) / (max - min))

is near 1 where a few tokens stand out from all others, and 0 where the middle lies halfway: so it is for words that
name nothing, and "describe the image" leaves P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import Picks, cosines, row, score_flaws, token_budget
from adafv.pruning.relevance import blur
from adafv.pruning.selection import Selection, undivided

_SALIENCY = 0.5  # b
_QUESTION = 5.0  # q
_SCALE = 16.0  # τ
_SHARPNESS = 6  # p
_DISCOUNT = 12  # γ


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
    alike = cosines(visual, budget.valid).relu_().pow_(_SHARPNESS)
    demands = (
        _Demand(presence.float().masked_fill(~budget.valid, 0.0), alike, _DISCOUNT),
        _Demand(question.float().masked_fill(~budget.valid, 0.0), alike.square(), _DISCOUNT // 3),
    )
    picks = Picks(budget)
    for _ in range(budget.bound):
        token = picks.take(demands[0].gain() + demands[1].gain())
        for demand in demands:
            demand.serve(token)
    return undivided(picks.mask, budget, flaws)


class _Demand:
    """What is left of a demand [B, N] that tokens serve by a kernel [B, N, N]."""

    def __init__(self, wanted: Tensor, kernel: Tensor, discount: int) -> None:
        self._wanted, self._kernel, self._discount = wanted, kernel, discount
        self._served = torch.zeros_like(wanted)

    def gain(self) -> Tensor:
        """[B, N]: how much of it each token would serve."""
        left = self._wanted / (1 + self._served).pow(self._discount)
        return (left[:, None] @ self._kernel).squeeze(1)

    def serve(self, token: Tensor) -> None:
        """Each row's `token`, int64 [B, 1], serves from now on."""
        self._served = self._served + row(self._kernel, token)


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
