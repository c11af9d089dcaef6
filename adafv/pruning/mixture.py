"""AdaFV's mixture: split one budget between two cues, sample by sample (arXiv 2501.09532, section 3.3).

Order a sample's tokens by text-to-image similarity s and by visual saliency a. T_i is the first i of the one order,
A_j the first j of the other. Keep T_i ∪ A_j, for the i and j that maximise the geometric mean

    sqrt( Σ_{T_i} s · Σ_{A_j} a )    subject to  |T_i ∪ A_j| = K.

A question that names something has a peaked s: a few tokens hold its mass, and the rest of the budget goes to
saliency; and the other way round. A share of the budget, r = floor(reserve · K), is reserved for each cue (i, j ≥ r).

`mix` counts what both cues choose once and fills the budget exactly. `mix_paper` is the rule as published, which
divides K before it looks at the overlap, and so may keep fewer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.pruning.selection import Order, Selection, TokenBudget, prefix_sums


def mix(
    saliency: Tensor, similarity: Tensor, keep: int | Tensor, valid: Tensor | None = None, reserve: float = 0.25
) -> Selection:
    """Keep exactly K tokens of each sample: the union that maximises the geometric mean of the cues' sums.

    For a given i the largest admissible j is taken; among pairs of equal value the one with the larger i. Batched,
    without a loop over samples and without waiting for the device.

    Args:
        saliency, similarity: float [B, N], non-negative; any float dtype, summed in float32.
        keep: K, an int or an int tensor [B]. A tensor on the CPU tells the host its maximum, which bounds the search.
        valid: bool [B, N], False where padded; all True if left out.
        reserve: share of K that each cue is sure to get, in [0, 0.5].

    Returns:
        Selection, with i as `from_text` and j as `from_saliency`.

    Raises:
        ValueError: shapes that differ, `reserve` out of range; on a CPU also K under 1 or over the valid tokens, NaN,
            infinite or negative values. On an accelerator these are raised by `Selection.check`.
    """
    budget, errors = _checked(saliency, similarity, keep, valid, reserve)
    text, salient = Order.of(similarity, budget.valid), Order.of(saliency, budget.valid)
    least = _reserved(budget.keep, reserve)[:, None]  # [B, 1]
    i = torch.arange(budget.bound + 1, device=saliency.device)[None]  # [1, I]
    j = _largest_j(text, salient, budget)  # [B, I]
    value = prefix_sums(text.values)[:, : budget.bound + 1] * prefix_sums(salient.values).gather(1, j)
    admissible = (i >= least) & (i <= budget.keep[:, None]) & (j >= least)
    chosen = _argmax_last(value, admissible)
    from_saliency = j.gather(1, chosen[:, None]).squeeze(1)
    return _united(text.top(chosen), salient.top(from_saliency), budget, errors)


def mix_paper(
    saliency: Tensor, similarity: Tensor, keep: int | Tensor, valid: Tensor | None = None, reserve: float = 0.25
) -> Selection:
    """The published rule: reserve first, then divide what is left, then drop duplicates.

    The first r of each order are kept. The other K' = K - 2r go to the next i' by text and the next j' = K' - i' by
    saliency, so that the product of their sums is largest. Tokens that both cues chose count once, so up to half of
    K is lost.

    Arguments and errors as for `mix`; `from_text` is r + i', `from_saliency` r + j'.
    """
    budget, errors = _checked(saliency, similarity, keep, valid, reserve)
    text, salient = Order.of(similarity, budget.valid), Order.of(saliency, budget.valid)
    least = _reserved(budget.keep, reserve)[:, None]  # [B, 1]
    i = torch.arange(budget.bound + 1, device=saliency.device).expand(len(least), -1)  # [B, I], r included
    j = budget.keep[:, None] - i
    text_sums, salient_sums = (prefix_sums(_behind(order, least)) for order in (text, salient))
    value = text_sums[:, : budget.bound + 1] * salient_sums.gather(1, j.clamp(0, saliency.shape[1]))
    chosen = _argmax_last(value, (i >= least) & (j >= least))
    return _united(text.top(chosen), salient.top(budget.keep - chosen), budget, errors)


def _united(by_text: Tensor, by_saliency: Tensor, budget: TokenBudget, errors: Tensor) -> Selection:
    """T_i ∪ A_j, of bool [B, N]."""
    by_text, by_saliency = by_text & budget.valid, by_saliency & budget.valid
    return Selection(
        mask=by_text | by_saliency, by_text=by_text, by_saliency=by_saliency, errors=errors
    ).checked_if_cheap()


def _largest_j(text: Order, salient: Order, budget: TokenBudget) -> Tensor:
    """int64 [B, I]: for each i = 0 … bound the largest j with |T_i ∪ A_j| ≤ K, which is then K wherever i ≤ K.

    |T_i ∪ A_j| is i plus the number of tokens outside T_i among the first j by saliency. It never falls as j grows, so
    the largest j is a count of j's. Counting over whole blocks of √N tokens first and inside one block after takes
    I·√N steps instead of I·N. Padding needs no care: it ranks behind K by text, so it lies outside every T_i, and
    the union is full before it is reached.
    """
    rows, tokens = text.rank.shape
    width = math.isqrt(tokens) + 1
    count = tokens // width + 1  # leaves at least one place over, filled with `tokens`, which lies outside every T_i
    place = text.rank.gather(1, salient.tokens)  # [B, N], rank by text of the j-th by saliency
    blocks = F.pad(place, (0, count * width - tokens), value=tokens).view(rows, count, width)
    i = torch.arange(budget.bound + 1, device=place.device)  # [I]
    keep = budget.keep.clamp(max=tokens)[:, None]  # [B, 1]; over N is an error, reported, and must not index outside

    by_place = torch.zeros(rows, count, len(i), dtype=torch.int64, device=place.device)
    by_place.scatter_add_(2, blocks.clamp(max=budget.bound), torch.ones_like(blocks))
    outside = by_place.flip(2).cumsum(dim=2).flip(2)  # [B, blocks, I], tokens of each block outside T_i
    size = F.pad(i + outside.cumsum(dim=1), (0, 0, 1, 0))  # [B, 1 + blocks, I], of the union after whole blocks
    size[:, 0] = i
    whole = (size[:, 1:] <= keep[:, None]).sum(dim=1)  # [B, I]
    block = blocks.take_along_dim(whole[:, :, None], 1)  # [B, I, width], the one that doesn't fit
    sizes = size.gather(1, whole[:, None])[:, 0, :, None] + (block >= i[:, None]).cumsum(dim=2)
    return whole * width + (sizes <= keep[:, :, None]).sum(dim=2)


def _behind(order: Order, least: Tensor) -> Tensor:
    """float32 [B, N]: the ordered values with the first `least` [B, 1] of each row set to 0."""
    places = torch.arange(order.values.shape[1], device=least.device)[None]
    return order.values.masked_fill(places < least, 0.0)


def _argmax_last(value: Tensor, admissible: Tensor) -> Tensor:
    """int64 [B]: the largest index among the admissible maxima of `value` [B, I]; 0 where nothing is admissible."""
    value = value.masked_fill(~admissible, -1.0)
    index = torch.arange(value.shape[1], device=value.device)[None]
    return torch.where(value == value.amax(dim=1, keepdim=True), index, 0).amax(dim=1)


def _reserved(keep: Tensor, reserve: float) -> Tensor:
    """int64 [B]: r = floor(reserve · K). The nudge keeps 0.3 · 10 from being floored to 2 in float32."""
    return (keep * reserve + 1e-4).floor().long()


def _checked(
    saliency: Tensor, similarity: Tensor, keep: int | Tensor, valid: Tensor | None, reserve: float
) -> tuple[TokenBudget, Tensor]:
    """The budget, and what is wrong [B] with the values, which only the device knows."""
    if saliency.dim() != 2 or saliency.shape != similarity.shape:
        raise ValueError(f"saliency {list(saliency.shape)} and similarity {list(similarity.shape)} must both be [B, N]")
    if not 0 <= reserve <= 0.5:
        raise ValueError(f"reserve is {reserve}; it must lie in [0, 0.5], since each of two cues gets it")
    budget = TokenBudget.of(keep, valid, saliency)
    return budget, budget.errors(saliency=saliency, similarity=similarity)
