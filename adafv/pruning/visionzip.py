"""VisionZip: the most salient tokens, and a few that others are merged into (arXiv 2412.04467).

C = 10/64 (rounded, half up) of the budget K goes to contextual tokens, D = K - C to dominant ones. The dominant are
the D with the most [CLS] attention. Every s-th of the rest, in their order, is a target, C of them, with
s = ⌊(N - D) / C⌋. Each other token goes to the target whose key is most like its own, by the cosine of the keys at the
feature layer, averaged over the heads; of two alike to the first. A target becomes itself plus the mean of what went to
it, in hidden states before the projector. So a contextual token stands for many places, and a position has to be given
to it: its target's.

Where the source is silent: all crops of a sample share one budget (the authors give each crop its own), and [CLS],
which LLaVA doesn't hand on, is not among the dominant.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.pruning.selection import Merged, Order, Selection, TokenBudget

_Count = TypeVar("_Count", int, Tensor)


def visionzip(
    saliency: Tensor, keys: Tensor, hidden: Tensor, keep: int | Tensor, valid: Tensor | None = None
) -> Selection:
    """Keep D dominant and C contextual tokens of each sample, K in all, and merge the others into the latter.

    Args:
        saliency: float [B, N], see `cues.cls_saliency`.
        keys: [B, N, E], the attention's keys at the feature layer, averaged over the heads; compared in float32.
        hidden: [B, N, D], hidden states of the feature layer; averaged in float32.
        keep, valid: as for `mix`, and so are the errors.

    Returns:
        Selection with D as `from_saliency`, and `merged`.
    """
    if (saliency.dim(), keys.dim(), hidden.dim()) != (2, 3, 3):
        raise ValueError(
            f"saliency {list(saliency.shape)}, keys {list(keys.shape)} and hidden {list(hidden.shape)} must be "
            "[B, N], [B, N, E] and [B, N, D]"
        )
    budget = TokenBudget.of(keep, valid, saliency)
    errors, valid = budget.errors(saliency=saliency, keys=keys, hidden=hidden), budget.valid
    contextual = _contextual(budget.keep)
    dominant = Order.of(saliency, valid).top(budget.keep - contextual) & valid
    rest = valid & ~dominant
    target = _targets(rest, contextual[:, None])
    merged = _merge(target, rest & ~target, keys, hidden, max(1, _contextual(budget.bound)))
    return Selection(
        mask=dominant | target,
        by_text=torch.zeros_like(dominant),
        by_saliency=dominant,
        errors=errors,
        merged=merged,
    ).checked_if_cheap()


def _contextual(keep: _Count) -> _Count:
    """C of K."""
    return (keep * 10 + 32) // 64


def _targets(rest: Tensor, count: Tensor) -> Tensor:
    """bool [B, N]: `count` [B, 1] tokens at a regular stride among the `rest` [B, N]."""
    place = rest.long().cumsum(dim=1) - 1
    stride = (rest.sum(dim=1, keepdim=True) // count.clamp_min(1)).clamp_min(1)
    return rest & (place % stride == 0) & (place // stride < count)


def _merge(target: Tensor, others: Tensor, keys: Tensor, hidden: Tensor, most: int) -> Merged:
    """The targets, of which no row has more than `most`, with the `others` merged in. Both are bool [B, N]."""
    tokens = target.byte().argsort(dim=1, descending=True, stable=True)[:, :most]  # [B, C], targets first
    filled = target.gather(1, tokens)
    units = F.normalize(keys.float(), dim=-1)
    cosine = units @ units.take_along_dim(tokens[:, :, None], 1).transpose(1, 2)  # [B, N, C]
    nearest = cosine.masked_fill(~filled[:, None], -torch.inf).argmax(dim=2)  # [B, N]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    share = ((nearest[:, None] == places[:, None]) & (others & filled.any(dim=1, keepdim=True))[:, None]).float()
    count = share.sum(dim=2)  # [B, C], how many went to each
    wide = hidden.float()
    sums = share @ wide.masked_fill(~others[:, :, None], 0.0)
    together = wide.take_along_dim(tokens[:, :, None], 1) + sums / count.clamp_min(1)[:, :, None]
    return Merged(tokens.masked_fill(count == 0, -1), together)
