"""CDPruner: tokens that are relevant to the question and unlike each other (arXiv 2506.10967).

A determinantal point process over a sample's tokens with the kernel L_ij = r_i · cos(i, j) · r_j, where r is the
relevance, scaled to [0, 1] per sample, and the cosine is that of the projected tokens. The determinant of L over a set
is the squared volume that its tokens span, times their relevance: it grows with both. A set of K with a large
determinant is found greedily: each step takes the token that multiplies the determinant by most.

The factor is d²_i = r_i² · u_i, where u_i is the part of the unit token that lies outside the span of the chosen.
u is kept up to date by Gram-Schmidt: with c_t the chosen tokens' orthogonal directions as the others see them,

    e = (cos_j - Σ_t c_tj · c_t) / sqrt(u_j),    u -= e²    after token j was taken, and e is the next c.

The authors write the same with r multiplied in; without it no precision is lost where r is small.

The authors take the relevance from CLIP's text tower: minus the cosine of the patch, led into CLIP's space, with the
question's end token, averaged over the question's segments of 77 tokens (`relevance.opposed_cosine`). Where there is no
text tower, it is the mean cosine of the question's input embeddings with the projected token (`relevance.mean_cosine`).

Where the source is silent: a sample whose tokens are all equally relevant has r = 1 everywhere. A token within the
span of the chosen (u at most 1e-5) has nothing to add; such tokens come last, the most relevant first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import Picks, cosines, row, token_budget
from adafv.pruning.relevance import min_max
from adafv.pruning.selection import Selection, without_cues

# Squared sine under which a token lies in the span of the chosen: float32 can't tell smaller ones from 0.
_IN_SPAN = 1e-5


def cdpruner(visual: Tensor, relevance: Tensor, keep: int | Tensor, valid: Tensor | None = None) -> Selection:
    """Keep the K tokens of each sample that greedy search finds for CDPruner's determinant, all its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        relevance: float [B, N], on any scale: see `relevance.opposed_cosine` and `relevance.mean_cosine`.
        keep, valid: as for `mix`, and so are the errors.
    """
    budget, errors = token_budget(visual, keep, valid, relevance=relevance)
    scaled = min_max(relevance, budget.valid)
    similarity = cosines(visual, budget.valid)
    rows, tokens = relevance.shape
    outside = torch.ones(rows, tokens, device=visual.device)  # u
    directions = torch.zeros(rows, budget.bound, tokens, device=visual.device)  # c
    picks = Picks(budget)
    for step in range(budget.bound):
        in_span = outside <= _IN_SPAN
        token = picks.take(torch.where(in_span, scaled - 2, scaled * scaled * outside))
        before = directions[:, :step]
        at_token = before.take_along_dim(token[:, :, None], 2).transpose(1, 2)  # [B, 1, step]
        left = row(similarity, token) - (at_token @ before).squeeze(1)
        direction = left / outside.gather(1, token).clamp_min(_IN_SPAN).sqrt()
        directions[:, step] = direction.masked_fill(in_span.gather(1, token), 0.0)
        outside = outside - directions[:, step].square()
    return without_cues(picks.mask, budget, errors)
