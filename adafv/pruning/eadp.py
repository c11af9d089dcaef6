"""EADP: the tokens that best represent all that is relevant (arXiv 2607.02484).

Token j's relevance is half its cosine with the whole question and half its cosine with the words that name something
(`relevance.focused_cosine`), scaled to [0, 1], blurred over the neighbours on the image, and raised to a power, which
sharpens it again: w_j. Then K tokens S are chosen to represent all:

    maximise  Σ_j w_j · max over i in S of cos(i, j)

This is facility location, which is submodular: taking, K times, the token that adds most is within 1 - 1/e of the best.

Where the source is silent or leaves a choice: all crops of a sample are chosen from together; the power is 5, the best
of the paper's ablation; a panel of tokens is blurred by itself, and at its border over the neighbours that there are.

The cosines are those of CLIP's text tower with the patches in CLIP's space, the end token's for the whole question and
the words' own for the words; the authors' code negates them (see `relevance`). Where there is no text tower, they are
those of the question's input embeddings with the projected tokens, and their mean stands for the whole question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.greedy import Picks, cosines, row, score_errors, token_budget
from adafv.pruning.relevance import blur, focused_cosine, min_max
from adafv.pruning.selection import Selection, TokenBudget, without_cues

_WHOLE = 0.5
_POWER = 5


def guidance(whole: Tensor, cosine: Tensor, valid: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """float32 [B, N]: relevance before scaling and blurring.

    Args:
        whole: [B, N], the cosine with the question as a whole.
        cosine: [B, T, N], the cosines with its tokens.
        valid, text_valid: bool [B, N] and [B, T], False where padded.
    """
    return _WHOLE * whole + (1 - _WHOLE) * focused_cosine(cosine, valid, text_valid)


def eadp(
    visual: Tensor, relevance: Tensor, neighbours: Tensor, keep: int | Tensor, valid: Tensor | None = None
) -> Selection:
    """Keep the K tokens of each sample that EADP's greedy search finds, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        relevance: float [B, N], on any scale: see `guidance`.
        neighbours: int64 [B, N, 9], see `relevance.blur`.
        keep, valid: as for `mix`.

    Raises:
        ValueError: shapes that don't fit; on a CPU also K under 1 or over the valid tokens, NaN or infinite values.
    """
    budget, errors = token_budget(visual, keep, valid)
    errors = errors | score_errors(relevance, budget, "relevance")
    if neighbours.shape != (*visual.shape[:2], 9):
        raise ValueError(
            f"neighbours is {list(neighbours.shape)}; it must be [B, N, 9], with visual {list(visual.shape)}"
        )
    weight = blur(min_max(relevance, budget.valid), neighbours).pow(_POWER).masked_fill(~budget.valid, 0.0)
    mask = _facility_location(cosines(visual, budget.valid), weight, budget)
    return without_cues(mask, budget, errors)


def _facility_location(similarity: Tensor, weight: Tensor, budget: TokenBudget) -> Tensor:
    """bool [B, N]: greedy maximisation of Σ_j weight_j · max over the chosen of similarity_ij.

    A token's gain falls only by those that the token taken last represents better than any before, and they become
    few. So gains are kept, and lowered by what was lost on those; finding them costs nothing on a CPU. An
    accelerator would have to be waited for, so there all are gone through.
    """
    nearest = torch.full_like(weight, -1.0)  # [B, N], the largest cosine with a chosen token; -1 is the least there is
    gain = (weight[:, None] @ (similarity + 1)).squeeze(1)
    picks = Picks(budget)
    for _ in range(budget.bound):
        nearer = torch.maximum(nearest, row(similarity, picks.take(gain)))
        some = (nearer > nearest).any(dim=0).nonzero().squeeze(1) if gain.device.type == "cpu" else slice(None)
        before, after = nearest[:, some, None], nearer[:, some, None]
        lost = similarity[:, some].clamp(before, after).sub_(before)  # [B, some, N]
        gain = gain - (weight[:, None, some] @ lost).squeeze(1)
        nearest = nearer
    return picks.mask
