"""What labelling takes at least: floating-point operations and bytes, counted from a model's sizes.

Operations are those of matrix products, two for each multiplication and addition; softmax, norms and activations count
nothing. Attention counts the pairs that there are: all of a crop's in the tower, those that come before in the language
model. Only what an answer needs is counted, whoever does more: no layer behind the feature layer, no padding, one
position's scores of a prompt.

Bytes are what each matrix product reads and writes if nothing stays in a cache: its weights once for the whole batch,
its inputs and outputs once for each token. Attention reads queries, keys and values and writes what it found, its
matrix is never in memory; a step of decoding reads the keys and values of all positions before it.

Of a selection that takes some tokens after the others, the work counted is that of comparing the tokens, and of what
each would add at first: how often that has to be worked out again is a matter of skill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adafv.models.llava import feature_depths
from adafv.pruning.coverage import BLOCK


@dataclass(frozen=True, slots=True)
class Passage:
    """One sample's way through the model.

    Attributes:
        positions: how many positions its prompt had, without padding.
        padded: how many with padding.
        outputs: tokens generated.
        visual, kept: N and K.
        words: how many tokens the text cue saw.
    """

    positions: int
    padded: int
    outputs: int
    visual: int
    kept: int
    words: int


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations and bytes."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, count: float) -> Work:
        return Work(self.operations * count, self.bytes * count)

    def seconds(self, operations_per_s: float, bytes_per_s: float) -> float:
        """The least time it can take where both go on at once."""
        return max(self.operations / operations_per_s, self.bytes / bytes_per_s)


def count(config: Any, item: int, strategy: str, crops: int, passages: Sequence[Passage]) -> dict[str, Work]:
    """The work of one batch, by stage.

    Args:
        config: the model's.
        item: bytes of a number in the model's dtype.
        strategy: a name from `adafv.pruning.STRATEGIES`.
        crops: how many went through the tower.
    """
    model = _Model(config, item)
    return {
        "encode": model.encode(crops),
        "prune": sum((model.select(strategy, passage) for passage in passages), Work()),
        "prefill": model.prefill(passages),
        "decode": model.decode(passages),
    }


class _Model:
    """The matrix products of a LLaVA or LLaVA-NeXT model."""

    def __init__(self, config: Any, item: int) -> None:
        self._vision, self._text = config.vision_config, config.get_text_config()
        self._depths, self._item = feature_depths(config), item
        self.width: int = self._text.hidden_size  # D

    def encode(self, crops: int) -> Work:
        """Tower and projector; nothing where all pictures are known already."""
        if crops == 0:
            return Work()
        vision = self._vision
        patches = (vision.image_size // vision.patch_size) ** 2
        tokens, hidden, mlp = crops * (1 + patches), vision.hidden_size, vision.intermediate_size
        layer = self._linear(tokens, hidden, hidden) * 4 + self._attention(tokens * (1 + patches), tokens, hidden)
        layer += self._linear(tokens, hidden, mlp) + self._linear(tokens, mlp, hidden)
        seen = crops * patches
        return (
            self._linear(seen, vision.num_channels * vision.patch_size**2, hidden)
            + layer * max(self._depths)
            + self._linear(seen, hidden * len(self._depths), self.width)
            + self._linear(seen, self.width, self.width)
        )

    def select(self, strategy: str, passage: Passage) -> Work:
        """Of one sample. Strategies that aren't named here compare and sort; `visionzip` multiplies little."""
        tokens, kept = passage.visual, passage.kept
        pairs, named = tokens * tokens, passage.words * tokens * self.width
        multiplications = {
            "text": named,
            "adafv": named,
            "adafv-paper": named,
            "divprune": pairs * self.width,
            "cdpruner": pairs * self.width + named + tokens * kept * kept // 2,
            "eadp": pairs * self.width + named + pairs,
            "adafv-plus": tokens * (BLOCK + kept) * self.width + named + 2 * tokens * BLOCK,
        }
        if strategy not in multiplications:
            return Work()
        return Work(2 * multiplications[strategy], self._item * tokens * self.width)

    def prefill(self, passages: Sequence[Passage]) -> Work:
        """All prompts, together."""
        lengths = [passage.positions for passage in passages]
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        return self._layers(sum(lengths), pairs, sum(lengths)) + self._head(len(lengths))

    def decode(self, passages: Sequence[Passage]) -> Work:
        """All tokens but the first, which prefill gives; a step for all samples that aren't done."""
        work = Work()
        for step in range(1, max(passage.outputs for passage in passages)):
            seen = [passage.positions + step for passage in passages if passage.outputs > step]
            work += self._layers(len(seen), sum(seen), sum(seen)) + self._head(len(seen))
        return work

    def _layers(self, tokens: int, pairs: int, keys: int) -> Work:
        """The language model's layers: new tokens, pairs of one of them and one that it attends to, and how many keys
        are read.
        """
        text = self._text
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        queries, shared = text.num_attention_heads * size, text.num_key_value_heads * size
        mlp = text.intermediate_size
        layer = self._linear(tokens, self.width, queries) + self._linear(tokens, self.width, shared) * 2
        layer += self._attention(pairs, tokens, queries, keys, shared) + self._linear(tokens, queries, self.width)
        layer += self._linear(tokens, self.width, mlp) * 2 + self._linear(tokens, mlp, self.width)
        return layer * text.num_hidden_layers

    def _head(self, tokens: int) -> Work:
        return self._linear(tokens, self.width, self._text.vocab_size)

    def _linear(self, tokens: int, inputs: int, outputs: int) -> Work:
        moved = inputs * outputs + tokens * (inputs + outputs)
        return Work(2 * tokens * inputs * outputs, self._item * moved)

    def _attention(self, pairs: int, tokens: int, hidden: int, keys: int | None = None, shared: int = 0) -> Work:
        """Of `tokens` with `keys`, which are as many and as wide as the tokens unless told."""
        keys, shared = (tokens, hidden) if keys is None else (keys, shared)
        return Work(4 * pairs * hidden, self._item * 2 * (tokens * hidden + keys * shared))
