"""SCOPE: the tokens that are salient and cover what no other covers yet (arXiv 2510.24214).

With S chosen, token j is covered by c_j = max over i in S of cos(i, j), and by 0 with none. K times the token is taken
with the largest

    a_i · Σ_j max(0, cos(i, j) - c_j)

with a its saliency. Cosines are those of the vision encoder's hidden states at the feature layer, as in the authors'
code. They choose from each crop by itself, with equal budgets; here all crops of a sample are chosen from together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import cosines, facility_location, token_budget
from adafv.pruning.selection import Selection, filled, without_cues


def scope(hidden: Tensor, saliency: Tensor, keep: int | Tensor, valid: Tensor | None = None) -> Selection:
    """Keep the K tokens of each sample that SCOPE's greedy search finds, all of its crops together.

    Args:
        hidden: [B, N, D], the vision encoder's hidden states at the feature layer; compared in float32.
        saliency: float [B, N], at least 0, see `cues.cls_saliency`.
        keep, valid: as for `mix`, and so are the errors.
    """
    budget, errors = token_budget(hidden, keep, valid, "hidden", saliency=saliency)
    salient = filled(saliency.float(), budget.valid, 0.0)
    alike = cosines(hidden, budget.valid)
    mask = facility_location(alike, torch.ones_like(salient), budget, least=0.0, favour=salient)
    return without_cues(mask, budget, errors)
