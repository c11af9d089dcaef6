"""The work of a batch by stage, the selection of tokens included; the rest is `adafv.counting`'s.

Of a selection that takes some tokens after the others, the work counted is that of comparing the tokens, and of what
each would add at first: how often that has to be worked out again is a matter of skill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adafv.counting import Model, TokenCounts, Work
from adafv.models import sizes_of
from adafv.pruning.adafv_plus import BLOCK


def count(config: Any, item: int, strategy: str, crops: int, samples: Sequence[TokenCounts]) -> dict[str, Work]:
    """The work of one batch, by stage.

    Args:
        config: the model's.
        item: bytes of a number in the model's dtype.
        strategy: a name from `adafv.pruning.STRATEGIES`.
        crops: how many went through the tower.
    """
    sizes = sizes_of(config)
    if sizes is None:
        raise ValueError(f"what a {config.model_type} model takes is not counted")
    model = Model(sizes, item)
    return {
        "encode": model.encode(crops),
        "prune": sum((_select(strategy, sample, sizes.width, item) for sample in samples), Work()),
        "prefill": model.prefill(samples),
        "decode": model.decode(samples),
    }


def _select(strategy: str, sample: TokenCounts, width: int, item: int) -> Work:
    """Of one sample. Strategies that aren't named here compare and sort; `visionzip` multiplies little."""
    tokens, kept = sample.visual, sample.kept
    pairs, named = tokens * tokens, sample.words * tokens * width
    multiplications = {
        "text": named,
        "adafv": named,
        "adafv-paper": named,
        "divprune": pairs * width,
        "cdpruner": pairs * width + named + tokens * kept * kept // 2,
        "eadp": pairs * width + named + pairs,
        "eadp-code": pairs * width + named + pairs,
        "scope": pairs * width + pairs,
        "adafv-plus": tokens * (BLOCK + kept) * width + named + 2 * tokens * BLOCK,
    }
    if strategy not in multiplications:
        return Work()
    return Work(2 * multiplications[strategy], item * tokens * width)
