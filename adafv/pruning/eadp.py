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

`eadp-code` is what the authors' code does with Qwen-VL, which has no text tower. It negates there as well: minus the
cosine with the mean of the question's embeddings, and minus the cosines with these; a fifth of the words names
something, and the power is 2.
"""

from __future__ import annotations

from torch import Tensor

from adafv.pruning.cues import text_cosines
from adafv.pruning.greedy import cosines, facility_location, token_budget
from adafv.pruning.relevance import blur, focused_cosine, min_max
from adafv.pruning.selection import Selection, filled, without_cues

_WHOLE = 0.5
_POWER, CODE_POWER = 5, 2
_SHARE, _CODE_SHARE = 0.5, 0.2  # of the words, that name something


def guidance(
    whole: Tensor, cosine: Tensor, valid: Tensor, text_valid: Tensor | None = None, share: float = _SHARE
) -> Tensor:
    """float32 [B, N]: relevance before scaling and blurring.

    Args:
        whole: [B, N], the cosine with the question as a whole.
        cosine: [B, T, N], the cosines with its tokens.
        valid, text_valid: bool [B, N] and [B, T], False where padded.
        share: of the words, that name something.
    """
    return _WHOLE * whole + (1 - _WHOLE) * focused_cosine(cosine, valid, text_valid, share)


def guidance_of_code(text: Tensor, visual: Tensor, valid: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """float32 [B, N]: the same, as the authors' code has it without a text tower.

    Args:
        text: [B, T, D], the language model's input embeddings of the question.
        visual: [B, N, D], projected visual tokens.
        valid, text_valid: as for `guidance`.
    """
    words = text.float()
    if text_valid is not None:
        words = filled(words, text_valid[:, :, None], 0.0)
    whole = text_cosines(words.sum(dim=1, keepdim=True), visual, None, valid).squeeze(1)  # a sum points as a mean does
    return guidance(-whole, -text_cosines(text, visual, text_valid, valid), valid, text_valid, _CODE_SHARE)


def eadp(
    visual: Tensor,
    relevance: Tensor,
    neighbours: Tensor,
    keep: int | Tensor,
    valid: Tensor | None = None,
    power: int = _POWER,
) -> Selection:
    """Keep the K tokens of each sample that EADP's greedy search finds, all of its crops together.

    Args:
        visual: [B, N, D], projected visual tokens; compared in float32.
        relevance: float [B, N], on any scale: see `guidance`.
        neighbours: int64 [B, N, 9], see `relevance.blur`.
        keep, valid: as for `mix`, and so are the errors.
        power: to which relevance is raised.
    """
    budget, errors = token_budget(visual, keep, valid, relevance=relevance)
    if neighbours.shape != (*visual.shape[:2], 9):
        raise ValueError(
            f"neighbours is {list(neighbours.shape)}; it must be [B, N, 9], with visual {list(visual.shape)}"
        )
    weight = blur(min_max(relevance, budget.valid), neighbours).pow(power).masked_fill(~budget.valid, 0.0)
    mask = facility_location(cosines(visual, budget.valid), weight, budget)
    return without_cues(mask, budget, errors)
