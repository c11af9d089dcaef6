"""How relevant each visual token is to the question, by the cosines of text tokens with visual tokens.

The cosines, float32 [B, T, N], are those of `cues.text_cosines`: between the language model's input embeddings and the
projected tokens, which lie in one space.

With CLIP's text tower they are those between its words and the vision tower's patches in CLIP's space, negated. Both
CDPruner's and EADP's codes have the minus sign. CDPruner's authors say that they observed this with CLIP, as LLaVA
uses it, and with no other encoder (github.com/Theia-4869/CDPruner, issue 14); those of TRIM, which has it as well,
that without it their maps came out inverted, and that the reason may be the layer: LLaVA takes patches from another
than the one that CLIP compares (github.com/FreedomIntelligence/TRIM, issue 3). CLIP is trained to agree with words in
[CLS], and in no patch. So the sign is an observation that we follow.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from adafv.uploading import uploaded

# EADP's: the scale of the cosines in the softmax, and how sharply the text tokens are weighted.
_SCALE, _SHARPNESS = 100.0, 100.0

# The Gaussian of one token's width, over the 3 × 3 window of `blur`.
_KERNEL = tuple(math.exp(-(x * x + y * y) / 2) for y in (-1, 0, 1) for x in (-1, 0, 1))


def mean_cosine(cosine: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """float32 [B, N]: the mean cosine with the question's tokens. CDPruner's relevance where there is no text tower.

    Args:
        cosine: [B, T, N].
        text_valid: bool [B, T], False where padded; all True if left out.
    """
    if text_valid is None:
        return cosine.mean(dim=1)
    total = cosine.masked_fill(~text_valid[:, :, None], 0.0).sum(dim=1)
    return total / text_valid.sum(dim=1, keepdim=True).clamp_min(1)


def opposed_cosine(whole: Tensor, visual: Tensor) -> Tensor:
    """float32 [B, N]: minus the mean cosine with the question's segments. CDPruner's relevance by the text tower.

    Args:
        whole: float32 [B, E], the mean of the segments' unit vectors.
        visual: [B, N, E], visual tokens in the same space.
    """
    return -(F.normalize(visual.float(), dim=-1) @ whole.float()[:, :, None]).squeeze(2)


def focused_cosine(cosine: Tensor, valid: Tensor, text_valid: Tensor | None = None, share: float = 0.5) -> Tensor:
    """float32 [B, N]: the cosine with the text tokens that fit few places, EADP's dense guidance (arXiv 2607.02484).

    A word that names something is like few visual tokens, a word such as "the" a little like all. So text token m is
    judged by the entropy h_m of softmax over n of (100 · cos_mn). The `share` with the least entropy is kept (at least
    one; of 5 tokens the half is 2; ties to the lower index), and their cosines are averaged with weights
    softmax(-100 · h).

    Args:
        cosine: [B, T, N].
        valid: bool [B, N], False where padded.
        text_valid: bool [B, T], likewise; all True if left out.
        share: of the text tokens, from 0 to 1.
    """
    if text_valid is None:
        text_valid = torch.ones(cosine.shape[:2], dtype=torch.bool, device=cosine.device)
    spread = (cosine * _SCALE).masked_fill(~valid[:, None, :], -torch.inf).softmax(dim=2)
    entropy = torch.special.entr(spread).sum(dim=2).masked_fill(~text_valid, torch.inf)  # [B, T]
    rank = entropy.argsort(dim=1, stable=True).argsort(dim=1)
    count = (text_valid.sum(dim=1, keepdim=True) * share).floor().clamp_min(1)
    weight = (entropy * -_SHARPNESS).masked_fill(rank >= count, -torch.inf).softmax(dim=1)  # [B, T]
    return (weight[:, None] @ cosine.masked_fill(~text_valid[:, :, None], 0.0)).squeeze(1)


def min_max(score: Tensor, valid: Tensor) -> Tensor:
    """float32 [B, N]: `score` scaled to [0, 1] over each row's valid tokens; 1 where all are equal, 0 in padding."""
    score = score.float()
    least = score.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    most = score.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    scaled = torch.where(most > least, (score - least) / (most - least), 1.0)
    return scaled.masked_fill(~valid, 0.0)


def blur(score: Tensor, neighbours: Tensor) -> Tensor:
    """float32 [B, N]: each token's score averaged with those around it, by a 3 × 3 Gaussian of one token's width.

    Where a panel ends, the weights of the tokens that are there make up the average.

    Args:
        score: [B, N].
        neighbours: int64 [B, N, 9], for each token those in the 3 × 3 window around it, row by row, itself in the
            middle; -1 where the panel ends.
    """
    weight = _kernel(score.device) * (neighbours >= 0)  # [B, N, 9]
    around = score.gather(1, neighbours.clamp_min(0).flatten(1)).view_as(neighbours)
    return (around * weight).sum(dim=2) / weight.sum(dim=2).clamp_min(_KERNEL[0])


@lru_cache(16)
def _kernel(device: torch.device) -> Tensor:
    """`_KERNEL` on `device`, where it stays."""
    return uploaded(torch.tensor(_KERNEL), device)
