"""The least work that labelling takes: floating-point operations and bytes, counted from a model's sizes.

Operations are those of matrix products, two per multiply-add; softmax, norms and activations count nothing. Attention
counts existing pairs: all of a crop's in the tower, earlier positions in the language model. Only what an answer needs
is counted: no layer behind the feature layer, no padding, one position's logits per prompt.

Bytes are what each matrix product reads and writes without caches: weights once per batch, inputs and outputs once per
token. Attention reads queries, keys and values and writes its output; its matrix is never in memory. A decoding step
reads the keys and values of all earlier positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adafv.counting.sizes import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """The tokens of one sample.

    Attributes:
        positions: of its prompt, without padding; `padded`: with it.
        outputs: tokens generated.
        visual, kept: N and K.
        words: tokens that the text cue saw.
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
        """The least time, with computing and memory traffic in parallel."""
        return max(self.operations / operations_per_s, self.bytes / bytes_per_s)


class Model:
    """The matrix products of a model whose numbers have `item` bytes."""

    def __init__(self, sizes: Sizes, item: int) -> None:
        self._sizes, self._item = sizes, item

    def encode(self, crops: int) -> Work:
        """Tower and projector; nothing if all images are known already.

        Raises:
            ValueError: the model's images vary in size.
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
        """All prompts together."""
        lengths = [sample.positions for sample in samples]
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        return self._layers(sum(lengths), pairs, sum(lengths)) + self._head(len(lengths))

    def decode(self, samples: Sequence[TokenCounts]) -> Work:
        """All tokens but the first, which prefill gives; a step covers all unfinished samples."""
        work = Work()
        for step in range(1, max(sample.outputs for sample in samples)):
            seen = [sample.positions + step for sample in samples if sample.outputs > step]
            work += self._layers(len(seen), sum(seen), sum(seen)) + self._head(len(seen))
        return work

    def _layers(self, tokens: int, pairs: int, keys: int) -> Work:
        """The language model's layers: new tokens, attended pairs, and keys read."""
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
