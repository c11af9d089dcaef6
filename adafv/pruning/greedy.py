"""What the selections that choose one token after the other share.

A sequential rule is a loop over the largest budget of the batch. Every row takes part in every step, and a row that
has its K tokens stops changing: so the loop's length is known on the host, and no row waits for a value of another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.pruning.directions import Directions
from adafv.pruning.selection import TokenBudget, value_errors


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


def token_budget(visual: Tensor | Directions, keep: int | Tensor, valid: Tensor | None) -> tuple[TokenBudget, Tensor]:
    """The budget, and what is wrong [B] with `keep` and with `visual`, float [B, N, D] or the directions.

    Raises:
        ValueError: shapes that don't fit.
    """
    directions = Directions.of(visual)
    visual = directions.vectors
    if visual.dim() != 3:
        raise ValueError(f"visual is {list(visual.shape)}; it must be [B, N, D]")
    if valid is None:
        valid = torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device)
    if valid.shape != visual.shape[:2]:
        raise ValueError(f"valid is {list(valid.shape)}; it must be {list(visual.shape[:2])}, one for each token")
    budget = TokenBudget.of(keep, valid)
    return budget, budget.errors() | value_errors(directions.length, valid, "visual")


def score_errors(score: Tensor, budget: TokenBudget, name: str) -> Tensor:
    """int64 [B]: what is wrong with the scores of that `name`, float [B, N], a number for each token.

    Raises:
        ValueError: another shape.
    """
    if score.shape != budget.valid.shape:
        raise ValueError(f"{name} is {list(score.shape)}; it must be {list(budget.valid.shape)}, one for each token")
    return value_errors(score, budget.valid, name)


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
    return matrix.gather(1, token[:, :, None].expand(-1, 1, matrix.shape[2])).squeeze(1)
