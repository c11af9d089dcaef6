"""DivPrune: the tokens that lie furthest from each other (arXiv 2503.02175).

The distance of two projected tokens is d(i, j) = 1 - cos(i, j). The first token is the one whose nearest neighbour is
furthest. Then, K - 1 times, the one whose smallest distance to the chosen is largest. A greedy answer to the max-min
diversity problem; it knows neither the question nor what is salient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import Picks, cosines, row, token_budget
from adafv.pruning.selection import Selection, without_cues


def divprune(visual: Tensor, keep: int | Tensor, valid: Tensor | None = None) -> Selection:
    """Keep the K tokens of each sample that DivPrune's greedy search finds, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        keep, valid: as for `mix`, and so are the errors.
    """
    budget, errors = token_budget(visual, keep, valid)
    similarity = cosines(visual, budget.valid)
    similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # nobody is their own neighbour
    nearest = similarity.masked_fill_(~budget.valid[:, None, :], -torch.inf).amax(dim=2)
    picks = Picks(budget)
    closest = row(similarity, picks.take(-nearest))  # [B, N], the largest cosine with a chosen token
    for _ in range(1, budget.bound):
        closest = torch.maximum(closest, row(similarity, picks.take(-closest)))
    return without_cues(picks.mask, budget, errors)
