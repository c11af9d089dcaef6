"""The two cues that AdaFV mixes (arXiv 2501.09532, section 3.2).

Visual saliency asks the vision encoder: how much does [CLS] attend to this patch? (Where there is no [CLS]: how much do
all patches?) Text-to-image similarity asks the language model: how close is this projected patch to any word of the
question, in the space of input embeddings?
Both are computed in float32 whatever the model's dtype: a softmax over 100 × cosine turns bfloat16's three digits
into noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adafv.pruning.directions import Directions
from adafv.pruning.selection import filled


def cls_saliency(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention from [CLS], the first position, to every patch, averaged over the heads.

    The softmax runs over [CLS] and the patches, as in the encoder itself; [CLS]'s attention to itself is then dropped.
    One row of the attention matrix is computed, not the matrix.

    Args:
        query, key: [B, H, 1 + P, D], of the layer whose output feeds the projector.
        scaling: the layer's factor on the scores, usually D ** -0.5.

    Returns:
        float32 [B, P], non-negative, each row summing to at most 1.
    """
    scores = torch.matmul(query[:, :, :1].float(), key.float().transpose(-1, -2)) * scaling  # [B, H, 1, 1 + P]
    return scores.softmax(dim=-1).squeeze(2).mean(dim=1)[:, 1:]


def received_saliency(query: Tensor, key: Tensor, scaling: float, most: int = 2**24) -> Tensor:
    """Attention that every position receives from all of them, itself among them, averaged over heads and positions.

    For encoders without [CLS]: nothing sums the picture up there, so each patch has a vote. The columns of the
    attention matrix are summed over some rows at a time: the result is exact, and the matrix is never there as a whole.

    Args:
        query, key: [B, H, P, D], of the layer whose output feeds the projector.
        scaling: the layer's factor on the scores, usually D ** -0.5.
        most: so many numbers of the matrix are there at once, or one of its rows where that has more.

    Returns:
        float32 [B, P], non-negative, each row summing to 1.
    """
    batch, heads, patches, _ = query.shape
    columns = key.float().transpose(-1, -2)  # [B, H, D, P]
    received = torch.zeros(batch, patches, dtype=torch.float32, device=query.device)
    for rows in query.split(max(1, most // (batch * heads * patches)), dim=2):
        received += (torch.matmul(rows.float(), columns) * scaling).softmax(dim=-1).sum(dim=(1, 2))
    return received / (heads * patches)


def text_similarity(
    text: Tensor,
    visual: Tensor,
    text_valid: Tensor | None = None,
    visual_valid: Tensor | None = None,
    scale: float = 100.0,
) -> Tensor:
    """Text-to-image similarity: how much some text token singles out each visual token.

    s_n = max over text tokens m of softmax over n of (scale · cos(text_m, visual_n)).

    Args:
        text: [B, T, D], the language model's input embeddings of the question.
        visual: [B, N, D], projected visual tokens, all of a sample's crops together.
        text_valid, visual_valid: bool [B, T] and [B, N], False where padded. Every sample needs a valid text token.
        scale: factor on the cosine, CLIP's 100.

    Returns:
        float32 [B, N], non-negative, 0 where padded.

    Raises:
        ValueError: shapes that don't fit.
    """
    cosine = text_cosines(text, visual, text_valid, visual_valid)
    scores = cosine * scale
    if visual_valid is not None:
        scores = filled(scores, visual_valid[:, None, :], -torch.inf)
    similarity = scores.softmax(dim=-1)
    if text_valid is not None:
        similarity = filled(similarity, text_valid[:, :, None], 0.0)
    return similarity.amax(dim=1)


def text_cosines(
    text: Tensor, visual: Tensor | Directions, text_valid: Tensor | None = None, visual_valid: Tensor | None = None
) -> Tensor:
    """float32 [B, T, N]: the cosine of each text token with each visual token, whatever stands where padded.

    Arguments and errors as for `text_similarity`; of `visual` also the directions.
    """
    directions = Directions.of(visual)
    visual = directions.vectors
    if text.dim() != 3 or visual.dim() != 3 or text.shape[0] != visual.shape[0] or text.shape[2] != visual.shape[2]:
        raise ValueError(f"text {list(text.shape)} and visual {list(visual.shape)} must be [B, T, D] and [B, N, D]")
    for name, valid, tokens in (("text_valid", text_valid, text), ("visual_valid", visual_valid, visual)):
        if valid is not None and valid.shape != tokens.shape[:2]:
            raise ValueError(f"{name} is {list(valid.shape)}; it must be {list(tokens.shape[:2])}")
    return Directions.of(text.float()).cosines(directions.float())
