"""What labelling takes at least: floating-point operations and bytes, counted from a model's sizes.

Operations are those of matrix products, two for each multiplication and addition; softmax, norms and activations count
nothing. Attention counts the pairs that there are: all of a crop's in the tower, those that come before in the language
model. Only what an answer needs is counted, whoever does more: no layer behind the feature layer, no padding, one
position's scores of a prompt.

Bytes are what each matrix product reads and writes if nothing stays in a cache: its weights once for the whole batch,
its inputs and outputs once for each token. Attention reads queries, keys and values and writes what it found, its
matrix is never in memory; a step of decoding reads the keys and values of all positions before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adafv.counting.sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """How many tokens of each kind one sample has.

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


class Model:
    """The matrix products of a model with numbers of `item` bytes."""

    def __init__(self, sizes: Sizes, item: int) -> None:
        self._sizes, self._item = sizes, item

    def encode(self, crops: int) -> Work:
        """Tower and projector; nothing where all pictures are known already.

        Raises:
            ValueError: the model doesn't cut images to one size.
        """
        if crops == 0:
            return Work()
        size = self._sizes
        if size.patches is None:
            raise ValueError("what encoding takes is not counted for models whose images keep sizes of their own")
        tokens, hidden, mlp = crops * (1 + size.patches), size.tower_width, size.tower_mlp
        layer = self._linear(tokens, hidden, hidden) * 4 + self._attention(tokens * (1 + size.patches), tokens, hidden)
        layer += self._linear(tokens, hidden, mlp) + self._linear(tokens, mlp, hidden)
        seen = crops * size.patches
        return (
            self._linear(seen, size.patch_values, hidden)
            + layer * size.tower_layers
            + self._linear(seen, hidden * size.features, size.width)
            + self._linear(seen, size.width, size.width)
        )

    def prefill(self, samples: Sequence[TokenCounts]) -> Work:
        """All prompts, together."""
        lengths = [sample.positions for sample in samples]
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        return self._layers(sum(lengths), pairs, sum(lengths)) + self._head(len(lengths))

    def decode(self, samples: Sequence[TokenCounts]) -> Work:
        """All tokens but the first, which prefill gives; a step for all samples that aren't done."""
        work = Work()
        for step in range(1, max(sample.outputs for sample in samples)):
            seen = [sample.positions + step for sample in samples if sample.outputs > step]
            work += self._layers(len(seen), sum(seen), sum(seen)) + self._head(len(seen))
        return work

    def _layers(self, tokens: int, pairs: int, keys: int) -> Work:
        """The language model's layers: new tokens, pairs of one of them and one that it attends to, and how many keys
        are read.
        """
        size = self._sizes
        layer = self._linear(tokens, size.width, size.queries) + self._linear(tokens, size.width, size.keys) * 2
        layer += self._attention(pairs, tokens, size.queries, keys, size.keys)
        layer += self._linear(tokens, size.queries, size.width)
        layer += self._linear(tokens, size.width, size.mlp) * 2 + self._linear(tokens, size.mlp, size.width)
        return layer * size.layers

    def _head(self, tokens: int) -> Work:
        return self._linear(tokens, self._sizes.width, self._sizes.vocabulary)

    def _linear(self, tokens: int, inputs: int, outputs: int) -> Work:
        moved = inputs * outputs + tokens * (inputs + outputs)
        return Work(2 * tokens * inputs * outputs, self._item * moved)

    def _attention(self, pairs: int, tokens: int, hidden: int, keys: int | None = None, shared: int = 0) -> Work:
        """Attention of `tokens` to `keys`, by default as many and as wide as the tokens."""
        keys, shared = (tokens, hidden) if keys is None else (keys, shared)
        return Work(4 * pairs * hidden, self._item * 2 * (tokens * hidden + keys * shared))
