"""Which visual tokens to keep: tensors in, kept tokens out. Needs torch and numpy.

    cues        the cues of AdaFV: visual saliency and text-to-image similarity
    mixture     `mix`, AdaFV's adaptive mixture of the cues, and `mix_paper`, the rule as published
    strategies  every way to select, by name
    visionzip, divprune, cdpruner, eadp, scope  other methods, one file each
    adafv_plus  our rule, the default: the budget in proportion to demand
    relevance   how relevant a visual token is to the question
    greedy      what the selections that choose one token after the other share
    directions  vectors that are compared by their cosines
    selection   what all of them return, and the ordering they share

Shapes: B samples, N visual tokens (padded), T text tokens (padded), K tokens to keep, H heads, D channels.
"""

from adafv.pruning.cues import cls_saliency, received_saliency, text_similarity
from adafv.pruning.mixture import mix, mix_paper
from adafv.pruning.selection import Merged, Selection
from adafv.pruning.strategies import STRATEGIES, WITH_TEXT_TOWER, Cues, Strategy

__all__ = [
    "STRATEGIES",
    "WITH_TEXT_TOWER",
    "Cues",
    "Merged",
    "Selection",
    "Strategy",
    "cls_saliency",
    "mix",
    "mix_paper",
    "received_saliency",
    "text_similarity",
]
