"""What the selections that choose one token after the other share.

A sequential rule is a loop over the largest budget of the batch. Every row takes part in every step, and a row that
has its K tokens stops changing: so the loop's length is known on the host, and no row waits for a value of another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.pruning.directions import Directions
from adafv.pruning.selection import TokenBudget


class Picks:
    """The tokens chosen so far.

    Attributes:
        mask: bool [B, N], True where a token is chosen.
    """

    def __init__(self, budget: TokenBudget) -> None:
        self.budget = budget
        self._taken = 0
        self.mask = torch.zeros_like(budget.valid)

    def take(self, score: Tensor) -> Tensor:
        """int64 [B, 1]: of each row the token with the largest `score` [B, N] that isn't chosen yet, ties to the
        lower index. It is chosen from now on, unless the row has its K tokens already.
        """
        free = self.budget.valid & ~self.mask
        token = score.masked_fill(~free, -torch.inf).argmax(dim=1, keepdim=True)
        due = (self.budget.keep > self._taken)[:, None]
        self.mask = self.mask.scatter(1, token, due | self.mask.gather(1, token))
        self._taken += 1
        return token


def facility_location(
    similarity: Tensor, weight: Tensor, budget: TokenBudget, least: float = -1.0, favour: Tensor | None = None
) -> Tensor:
    """bool [B, N]: greedy maximisation of Σ_j weight_j · max over the chosen of similarity_ij.

    A token's gain falls only by those that the token taken last represents better than any before, and they become
    few. So gains are kept, and lowered by what was lost on those; finding them costs nothing on a CPU. An
    accelerator would have to be waited for, so there all are gone through.

    Args:
        similarity: float32 [B, N, N], at most 1.
        weight: float32 [B, N].
        least: what is less similar than this to all of the chosen counts as if it were so similar; -1 is the least
            cosine there is.
        favour: float32 [B, N], what a token's gain is multiplied by to choose the next; 1 if left out.
    """
    nearest = torch.full_like(weight, least)  # [B, N], the largest similarity with a chosen token
    gain = (weight[:, None] @ (similarity.clamp_min(least) - least)).squeeze(1)
    picks = Picks(budget)
    for _ in range(budget.bound):
        worth = gain if favour is None else gain.relu() * favour
        nearer = torch.maximum(nearest, row(similarity, picks.take(worth)))
        some = (nearer > nearest).any(dim=0).nonzero().squeeze(1) if gain.device.type == "cpu" else slice(None)
        before, after = nearest[:, some, None], nearer[:, some, None]
        lost = similarity[:, some].clamp(before, after).sub_(before)  # [B, some, N]
        gain = gain - (weight[:, None, some] @ lost).squeeze(1)
        nearest = nearer
    return picks.mask


def token_budget(
    visual: Tensor | Directions, keep: int | Tensor, valid: Tensor | None, name: str = "visual", **scores: Tensor
) -> tuple[TokenBudget, Tensor]:
    """The budget, and what is wrong [B] with `keep`, with `visual`, float [B, N, D] or the directions, which errors
    call by `name`, and with `scores`, float [B, N], by their names.

    Raises:
        ValueError: shapes that don't fit.
    """
    directions = Directions.of(visual)
    if directions.vectors.dim() != 3:
        raise ValueError(f"{name} is {list(directions.vectors.shape)}; it must be [B, N, D]")
    budget = TokenBudget.of(keep, valid, directions.length)
    return budget, budget.errors(**{name: directions.length}, **scores)


def cosines(visual: Tensor, valid: Tensor) -> Tensor:
    """float32 [B, N, N]: the cosine of each pair of a sample's tokens, [B, N, D]; 0 where either is padding.

    Symmetric to the bit, so that two tokens that are each other's nearest tie, as they should; and 1 on the diagonal.
    """
    units = F.normalize(visual.float(), dim=-1).masked_fill(~valid[:, :, None], 0.0)
    product = units @ units.transpose(1, 2)
    similarity = (product + product.transpose(1, 2)).mul_(0.5)
    similarity.diagonal(dim1=1, dim2=2).fill_(1.0)
    return similarity


def row(matrix: Tensor, token: Tensor) -> Tensor:
    """[B, N]: of each sample's matrix [B, N, N] the row of its `token` [B, 1]."""
    return matrix.take_along_dim(token[:, :, None], 1).squeeze(1)
